//! Compute back ends, and the formats that all of them share.
//!
//! [`pack`] owns the compressed stripe, [`seal`] the sealed one, [`erasure`] the cutting and coding of shards, [`keys`] the wrapped key.
//! [`software`] does all of it on the calling core. None of them starts a thread, waits or draws randomness.
//!
//! With the feature `doca`, the module `doca` looks for the vendor's libraries and asks the devices what they offer. It
//! does no job: [`Fallback`](fallback::Fallback) gives what one back end does not do to another. [`accelerated`] puts
//! together what there is, and says what that is.

use std::sync::Arc;

use mesh_core::port::Compute;

pub mod erasure;
pub mod fallback;
pub mod keys;
pub mod pack;
pub mod seal;
pub mod software;

#[cfg(feature = "doca")]
pub mod doca;

/// The best back end of this machine, which does what it does not offer in `software`; and, for people, what it is.
#[must_use]
pub fn accelerated(software: Arc<dyn Compute>) -> (Arc<dyn Compute>, String) {
    #[cfg(feature = "doca")]
    {
        match doca::Doca::load() {
            Ok(doca) => {
                let said = format!("{doca}; everything runs in software");
                (Arc::new(fallback::Fallback::new(Arc::new(doca), software)), said)
            }
            Err(error) => (software, format!("software: {error}")),
        }
    }
    #[cfg(not(feature = "doca"))]
    {
        (software, "software: this program was built without the feature doca".to_owned())
    }
}
