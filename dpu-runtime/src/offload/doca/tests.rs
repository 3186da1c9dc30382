use std::{fs, process::Command, sync::Arc};

use mesh_core::{
    Buf, Pool,
    id::KeyId,
    port::{Keys, WorkOutput},
    topology::Code,
};
use tempfile::TempDir;

use super::*;
use crate::offload::{fallback::Fallback, software::Software};

struct NoKeys;

impl Keys for NoKeys {
    fn key(&self, _: KeyId) -> Option<[u8; 32]> {
        None
    }
}

/// Stands in for `libdoca_common`: two devices, the second of which does not know its address.
const COMMON: &str = r#"
    #include <stdint.h>
    #include <string.h>
    struct doca_devinfo { int number; };
    static struct doca_devinfo one = {1}, two = {2}, *all[2] = {&one, &two};
    static int lists = 0;
    const char *doca_version_runtime(void) { return "2.9.1\033[2J"; }
    const char *doca_error_get_descr(int error) { return error == 7 ? "as told" : "something else"; }
    int doca_devinfo_create_list(struct doca_devinfo ***list, uint32_t *count) {
        if (LISTING != 0) return LISTING;
        lists++;
        *list = all;
        *count = 2;
        return 0;
    }
    int doca_devinfo_destroy_list(struct doca_devinfo **list) { return list == all && --lists == 0 ? 0 : 6; }
    int doca_devinfo_get_pci_addr_str(const struct doca_devinfo *device, char *address) {
        if (device->number != 1) return 6;
        strcpy(address, "0000:03:00.0");
        return 0;
    }
"#;

const ERASURE: &str = r"
    struct doca_devinfo { int number; };
    int doca_ec_cap_task_create_is_supported(const struct doca_devinfo *device) { return device->number == 1 ? 0 : 5; }
    int doca_ec_cap_task_recover_is_supported(const struct doca_devinfo *device) { return 5; }
";

/// Builds a library; `None`, with the reason printed, where there is no C compiler.
fn build(folder: &TempDir, name: &str, source: &str, defines: &[&str]) -> Option<()> {
    let file = folder.path().join("source.c");
    fs::write(&file, source).unwrap();
    let made = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-o"])
        .arg(folder.path().join(name))
        .args(defines)
        .arg(&file)
        .status();
    match made {
        Ok(status) => {
            assert!(status.success(), "cc refused the stand-in library");
            Some(())
        }
        Err(error) => {
            println!("SKIPPED: no C compiler (cc) to build a stand-in library with: {error}");
            None
        }
    }
}

fn encode() -> ComputeJob {
    ComputeJob::Encode { code: Code { data: 2, parity: 1 }, bytes: Buf::zeroed(1000) }
}

#[test]
fn a_missing_library_is_named_with_what_to_install() {
    let folder = tempfile::tempdir().unwrap();
    let error = Doca::load_from(Some(folder.path())).unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, DocaError::Missing { library: "libdoca_common.so.2", .. }), "{text}");
    assert!(text.contains("libdoca_common.so.2") && text.contains("install") && text.contains("doca-sdk-common"));
}

#[test]
fn a_file_that_is_no_library_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("libdoca_common.so.2"), "not a library").unwrap();
    assert!(matches!(Doca::load_from(Some(folder.path())), Err(DocaError::Missing { .. })));
}

#[test]
fn an_incomplete_library_is_named_with_the_function() {
    let folder = tempfile::tempdir().unwrap();
    let Some(()) = build(&folder, "libdoca_common.so.2", "int nothing;", &[]) else { return };
    let error = Doca::load_from(Some(folder.path())).unwrap_err();
    assert!(error.to_string().contains("libdoca_common.so.2 has no doca_version_runtime"), "{error}");
}

#[test]
fn a_stand_in_library_is_asked_for_its_version_and_devices() {
    let folder = tempfile::tempdir().unwrap();
    let Some(()) = build(&folder, "libdoca_common.so.2", COMMON, &["-DLISTING=0"]) else { return };
    let Some(()) = build(&folder, "libdoca_erasure_coding.so.2", ERASURE, &[]) else { return };
    let doca = Doca::load_from(Some(folder.path())).unwrap();
    assert_eq!(doca.version(), "2.9.1 [2J", "nothing in it reaches a terminal");
    let coder = Tasks { erasure_create: true, ..Tasks::default() };
    assert_eq!(
        doca.devices(),
        [
            Device { address: "0000:03:00.0".to_owned(), tasks: coder },
            Device { address: "address unknown".to_owned(), tasks: Tasks::default() },
        ]
    );
    let [DocaError::Missing { library: "libdoca_aes_gcm.so.2", .. }] = doca.missing() else {
        panic!("{:?}", doca.missing());
    };
    let shown = doca.to_string();
    assert!(shown.starts_with("DOCA 2.9.1 [2J, 2 devices; 0000:03:00.0: codes; address unknown: offers nothing"));
    assert!(shown.contains("libdoca_aes_gcm.so.2 could not be loaded"), "{shown}");
}

#[test]
fn every_job_is_refused_and_done_in_software() {
    let folder = tempfile::tempdir().unwrap();
    let Some(()) = build(&folder, "libdoca_common.so.2", COMMON, &["-DLISTING=0"]) else { return };
    let doca = Arc::new(Doca::load_from(Some(folder.path())).unwrap());
    let error = doca.run(encode()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("untried with DOCA") && error.to_string().contains("job=coding shards"));

    let software: Arc<dyn Compute> = Arc::new(Software::new(Arc::new(NoKeys), Pool::default()));
    let expected = software.run(encode()).unwrap();
    let both = Fallback::new(doca, software);
    assert!(matches!(&expected, WorkOutput::Shards(shards) if shards.len() == 3));
    assert_eq!(both.run(encode()).unwrap(), expected);
}

#[test]
fn a_library_that_lists_no_devices_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let Some(()) = build(&folder, "libdoca_common.so.2", COMMON, &["-DLISTING=7"]) else { return };
    let error = Doca::load_from(Some(folder.path())).unwrap_err();
    assert!(matches!(&error, DocaError::NoDevices { said, code: 7 } if said == "as told"), "{error}");
}

#[test]
fn what_was_put_together_says_what_it_is() {
    let software: Arc<dyn Compute> = Arc::new(Software::new(Arc::new(NoKeys), Pool::default()));
    let (compute, said) = crate::offload::accelerated(software);
    compute.run(encode()).unwrap();
    // With or without the libraries on this machine.
    assert!(
        said.starts_with("software: libdoca_common.so.2") || said.ends_with("everything runs in software"),
        "{said}"
    );
}
