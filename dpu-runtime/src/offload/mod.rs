//! Compute back ends, and the formats that all of them share.
//!
//! [`seal`] owns the sealed stripe, [`erasure`] the cutting and coding of shards, [`keys`] the wrapped key.
//! [`software`] does all of it on the calling core. None of them starts a thread, waits or draws randomness.

pub mod erasure;
pub mod keys;
pub mod seal;
pub mod software;
