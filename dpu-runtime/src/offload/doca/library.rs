//! The edge to the vendor's libraries: the only unsafe code of this crate.
//!
//! The signatures are those of the published headers `doca_version.h`, `doca_error.h`, `doca_dev.h`,
//! `doca_erasure_coding.h` and `doca_aes_gcm.h` (DOCA 2.x, whose libraries are named `.so.2`). `doca_error_t` is a C
//! enumeration whose zero is success. A library that breaks them breaks the program: that is what it means to load one.

#![allow(unsafe_code, reason = "the vendor's libraries are C; each call says why it is sound")]

use core::{
    ffi::{CStr, c_char, c_int},
    ptr,
};
use std::{path::Path, sync::Arc};

use libloading::Library;

use super::{Device, Tasks};

/// Why DOCA is not used.
#[derive(Debug, thiserror::Error)]
pub enum DocaError {
    /// A library that is not there, or cannot be loaded.
    #[error("{library} could not be loaded: install DOCA's runtime (package {package}) to use the card's engines")]
    Missing {
        /// Its file name.
        library: &'static str,
        /// What has it.
        package: &'static str,
        /// What the loader says.
        source: libloading::Error,
    },
    /// A function that a library does not have.
    #[error("{library} has no {function}: install the version of DOCA that its name promises")]
    Incomplete {
        /// The library's file name.
        library: &'static str,
        /// The function's name.
        function: &'static str,
        /// What the loader says.
        source: libloading::Error,
    },
    /// The libraries are there, and the list of devices is not.
    #[error(
        "DOCA cannot list its devices: {said} (error {code}); is the card's driver loaded, and may this user use it?"
    )]
    NoDevices {
        /// The library's own words.
        said: String,
        /// Its number.
        code: c_int,
    },
}

/// `struct doca_devinfo`, of which nothing is known but addresses.
#[repr(C)]
struct DevInfo {
    _opaque: [u8; 0],
}

type Version = unsafe extern "C" fn() -> *const c_char;
type Describe = unsafe extern "C" fn(c_int) -> *const c_char;
type CreateList = unsafe extern "C" fn(*mut *mut *mut DevInfo, *mut u32) -> c_int;
type DestroyList = unsafe extern "C" fn(*mut *mut DevInfo) -> c_int;
type Address = unsafe extern "C" fn(*const DevInfo, *mut c_char) -> c_int;
type IsSupported = unsafe extern "C" fn(*const DevInfo) -> c_int;

/// The libraries, and their functions that are called. The functions are called only while this is alive, and it is
/// what keeps the libraries loaded.
pub(super) struct Libraries {
    version: Version,
    describe: Describe,
    create_list: CreateList,
    destroy_list: DestroyList,
    address: Address,
    erasure: Option<[IsSupported; 2]>,
    aes_gcm: Option<[IsSupported; 2]>,
    _loaded: Vec<Arc<Library>>,
}

impl Libraries {
    /// Loads the libraries, from `folder` or from where the system keeps them. The second value: those that are not
    /// needed and could not be used.
    ///
    /// # Errors
    /// If `libdoca_common` cannot be used.
    pub(super) fn open(folder: Option<&Path>) -> Result<(Self, Vec<DocaError>), DocaError> {
        let common = Named::open(folder, "libdoca_common.so.2", "doca-sdk-common")?;
        let mut loaded = vec![common.library.clone()];
        let mut missing = Vec::new();
        let mut tasks = |file, package, functions| match Named::open(folder, file, package)
            .and_then(|named| Ok((named.tasks(functions)?, named.library)))
        {
            Ok((found, library)) => {
                loaded.push(library);
                Some(found)
            }
            Err(error) => {
                missing.push(error);
                None
            }
        };
        let erasure = tasks(
            "libdoca_erasure_coding.so.2",
            "doca-sdk-erasure-coding",
            ["doca_ec_cap_task_create_is_supported", "doca_ec_cap_task_recover_is_supported"],
        );
        let aes_gcm = tasks(
            "libdoca_aes_gcm.so.2",
            "doca-sdk-aes-gcm",
            ["doca_aes_gcm_cap_task_encrypt_is_supported", "doca_aes_gcm_cap_task_decrypt_is_supported"],
        );
        // SAFETY: each type is the function's published signature; see the module's page.
        let libraries = unsafe {
            Self {
                version: common.function("doca_version_runtime")?,
                describe: common.function("doca_error_get_descr")?,
                create_list: common.function("doca_devinfo_create_list")?,
                destroy_list: common.function("doca_devinfo_destroy_list")?,
                address: common.function("doca_devinfo_get_pci_addr_str")?,
                erasure,
                aes_gcm,
                _loaded: loaded,
            }
        };
        Ok((libraries, missing))
    }

    /// The version of the libraries, at most 64 characters.
    pub(super) fn version(&self) -> String {
        // SAFETY: it takes nothing and gives a constant string.
        text(unsafe { (self.version)() })
    }

    /// The devices and what they offer, at most [`DEVICES_MAX`].
    ///
    /// # Errors
    /// `NoDevices`.
    pub(super) fn devices(&self) -> Result<Vec<Device>, DocaError> {
        let (mut list, mut count) = (ptr::null_mut(), 0_u32);
        // SAFETY: both point to variables of the right types, which outlive the call.
        let code = unsafe { (self.create_list)(&raw mut list, &raw mut count) };
        if code != SUCCESS {
            // SAFETY: it takes any number and gives a constant string.
            let said = text(unsafe { (self.describe)(code) });
            return Err(DocaError::NoDevices { said, code });
        }
        let mut devices = Vec::new();
        if !list.is_null() {
            for at in 0..usize::try_from(count).unwrap_or(0).min(DEVICES_MAX) {
                // SAFETY: after success the list has `count` elements, and it has not been destroyed.
                let device = unsafe { *list.add(at) };
                if !device.is_null() {
                    devices.push(self.device(device));
                }
            }
            // SAFETY: the list came from `create_list`, is destroyed once, and nothing of it is kept.
            let code = unsafe { (self.destroy_list)(list) };
            if code != SUCCESS {
                tracing::debug!(code, "DOCA kept a list of devices; some memory is lost once");
            }
        }
        Ok(devices)
    }

    /// `device` is of a list that has not been destroyed.
    fn device(&self, device: *const DevInfo) -> Device {
        // The header asks for 13 bytes: "0000:3a:00.0" and a zero.
        let mut address: [c_char; 64] = [0; 64];
        // SAFETY: the device is alive, and the buffer has more room than the header asks for.
        let code = unsafe { (self.address)(device, address.as_mut_ptr()) };
        let bytes: Vec<u8> =
            address.iter().take_while(|byte| **byte != 0).map(|byte| byte.cast_unsigned_byte()).collect();
        let address = if code == SUCCESS { shown(&bytes) } else { "address unknown".to_owned() };
        // SAFETY: the device is alive; the functions only look.
        let offers = |function: IsSupported| unsafe { function(device) } == SUCCESS;
        let [erasure_create, erasure_recover] = self.erasure.map_or([false; 2], |functions| functions.map(offers));
        let [encrypt, decrypt] = self.aes_gcm.map_or([false; 2], |functions| functions.map(offers));
        Device { address, tasks: Tasks { erasure_create, erasure_recover, encrypt, decrypt } }
    }
}

/// A library that is loaded, with its name.
struct Named {
    library: Arc<Library>,
    file: &'static str,
}

impl Named {
    fn open(folder: Option<&Path>, file: &'static str, package: &'static str) -> Result<Self, DocaError> {
        let path = folder.map_or_else(|| file.into(), |folder| folder.join(file));
        // SAFETY: to load a library runs what it does at its start. It is the one that the system's owner installed
        // under the vendor's name, or that the caller's own folder holds, and is trusted like one that is linked.
        let library = unsafe { Library::new(path) };
        let library = library.map_err(|source| DocaError::Missing { library: file, package, source })?;
        Ok(Self { library: Arc::new(library), file })
    }

    /// # Safety
    /// `F` is the type of a C function pointer, with the signature of the function of that name. The pointer must not
    /// be called once the library is gone.
    unsafe fn function<F: Copy>(&self, function: &'static str) -> Result<F, DocaError> {
        // SAFETY: as promised by the caller.
        let found = unsafe { self.library.get::<F>(function.as_bytes()) };
        let missing = |source| DocaError::Incomplete { library: self.file, function, source };
        found.map(|symbol| *symbol).map_err(missing)
    }

    fn tasks(&self, [one, two]: [&'static str; 2]) -> Result<[IsSupported; 2], DocaError> {
        // SAFETY: all functions of the kind `..._is_supported` have this signature; see the module's page.
        unsafe { Ok([self.function(one)?, self.function(two)?]) }
    }
}

/// A string of the library's, copied; at most 64 characters of it.
fn text(string: *const c_char) -> String {
    if string.is_null() {
        return "nothing".to_owned();
    }
    // SAFETY: it is not null, and the headers promise a string that ends with a zero and is never freed.
    shown(unsafe { CStr::from_ptr(string) }.to_bytes())
}

/// Fit for a terminal.
fn shown(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.chars().take(64).map(|shown| if shown.is_control() { ' ' } else { shown }).collect()
}

/// `c_char` is signed on some machines and not on others.
trait CastByte {
    fn cast_unsigned_byte(&self) -> u8;
}

impl CastByte for c_char {
    fn cast_unsigned_byte(&self) -> u8 {
        u8::from_ne_bytes(self.to_ne_bytes())
    }
}

const SUCCESS: c_int = 0;
const DEVICES_MAX: usize = 64;
