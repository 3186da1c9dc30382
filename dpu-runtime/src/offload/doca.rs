//! The vendor's DOCA libraries, if they are on this machine.
//!
//! **What is tried, and what is not.** Nobody has run this on a BlueField. It calls functions of which the vendor
//! publishes the signatures, and only those that take and give plain values: the version, the list of devices, and
//! whether a device supports a task. Everything with buffers, memory maps, contexts and progress engines is untried and
//! therefore not called: every [`ComputeJob`] is refused with `Unsupported`, and
//! [`Fallback`](super::fallback::Fallback) does it in software.
//!
//! ```text
//! library                        functions
//! libdoca_common.so.2            doca_version_runtime, doca_error_get_descr, doca_devinfo_create_list,
//!                                doca_devinfo_destroy_list, doca_devinfo_get_pci_addr_str
//! libdoca_erasure_coding.so.2    doca_ec_cap_task_create_is_supported, doca_ec_cap_task_recover_is_supported
//! libdoca_aes_gcm.so.2           doca_aes_gcm_cap_task_encrypt_is_supported, doca_aes_gcm_cap_task_decrypt_is_supported
//! ```
//!
//! Nothing of the vendor's is needed to build this. The libraries are looked for when the program runs, by their
//! names, where the system keeps libraries. All unsafe code of this crate is in the module `library` below.

mod library;

use core::fmt;
use std::path::Path;

use mesh_core::{
    Error, ErrorKind, WorkOutcome,
    port::{Compute, ComputeJob},
};

pub use self::library::DocaError;
use self::library::Libraries;

/// The libraries, loaded, and what they say about this machine's devices.
pub struct Doca {
    version: String,
    devices: Vec<Device>,
    missing: Vec<DocaError>,
    /// Stay loaded as long as somebody may ask.
    _libraries: Libraries,
}

/// A device that DOCA can use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// `domain:bus:device.function` on the PCI bus.
    pub address: String,
    /// What it offers, by its own word.
    pub tasks: Tasks,
}

/// What a device offers. What was not asked, because the library is missing, is not offered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tasks {
    /// To code parity.
    pub erasure_create: bool,
    /// To rebuild lost shards.
    pub erasure_recover: bool,
    /// AES-GCM.
    pub encrypt: bool,
    /// AES-GCM.
    pub decrypt: bool,
}

impl Doca {
    /// Loads the libraries from where the system keeps libraries, and asks for the devices.
    ///
    /// # Errors
    /// If `libdoca_common` is not there or lacks a function, or the devices cannot be listed: use software. The other
    /// two libraries may be missing; see [`Self::missing`].
    pub fn load() -> Result<Self, DocaError> {
        Self::load_from(None)
    }

    /// The same, from a folder.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn load_from(folder: Option<&Path>) -> Result<Self, DocaError> {
        let (libraries, missing) = Libraries::open(folder)?;
        let version = libraries.version();
        let devices = libraries.devices()?;
        Ok(Self { version, devices, missing, _libraries: libraries })
    }

    /// The libraries' own version.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The devices, at most 64.
    #[must_use]
    pub fn devices(&self) -> &[Device] {
        &self.devices
    }

    /// The libraries that could not be used, and why.
    #[must_use]
    pub fn missing(&self) -> &[DocaError] {
        &self.missing
    }
}

impl Compute for Doca {
    fn run(&self, job: ComputeJob) -> WorkOutcome {
        let name = match &job {
            ComputeJob::WrapKey { .. } => "wrapping a key",
            ComputeJob::Seal { .. } => "sealing a stripe",
            ComputeJob::Open { .. } => "opening a stripe",
            ComputeJob::Encode { .. } => "coding shards",
            ComputeJob::Decode { .. } => "joining shards",
            ComputeJob::Compress { .. } => "compressing a stripe",
            ComputeJob::Decompress { .. } => "decompressing a stripe",
        };
        let error = Error::new(ErrorKind::Unsupported, "this is untried with DOCA, so it is not offered: use software");
        Err(error.with("job", name).with("doca", &self.version))
    }

    fn is_small(&self, _: &ComputeJob) -> bool {
        // A refusal takes no time.
        true
    }
}

impl fmt::Debug for Doca {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Doca").field("version", &self.version).field("devices", &self.devices).finish_non_exhaustive()
    }
}

impl fmt::Display for Doca {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DOCA {}, {} devices", self.version, self.devices.len())?;
        for Device { address, tasks } in &self.devices {
            write!(f, "; {address}:")?;
            let offered = [
                (tasks.erasure_create, " codes"),
                (tasks.erasure_recover, " recovers"),
                (tasks.encrypt, " encrypts"),
                (tasks.decrypt, " decrypts"),
            ];
            let names: String = offered.iter().filter(|(offered, _)| *offered).map(|(_, name)| *name).collect();
            f.write_str(if names.is_empty() { " offers nothing that is of use here" } else { &names })?;
        }
        self.missing.iter().try_for_each(|missing| write!(f, "; {missing}"))
    }
}

#[cfg(test)]
mod tests;
