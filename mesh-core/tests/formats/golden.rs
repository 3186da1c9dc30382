//! Golden bytes: a fixture has one line a message, its name and its bytes in hexadecimal.
//!
//! A test that fails here says that this build does not write what the one before wrote. Either that was a mistake, or values
//! have grown: then the fixture goes, as it is, to `fixtures/read` under the next number, for what a build has written must
//! be read forever, and `MESH_BLESS=1 cargo test -p mesh-core --test formats` writes the new one.

use std::{collections::BTreeMap, fmt::Write as _, fs, path::PathBuf};

/// Compares the encoding of every sample with the fixture, in both directions: no sample without golden bytes, no
/// golden bytes without a sample. Gives the golden bytes by name.
pub(crate) fn check(file: &str, about: &str, samples: &[(String, Vec<u8>)]) -> BTreeMap<String, Vec<u8>> {
    let path = folder().join(file);
    if std::env::var_os("MESH_BLESS").is_some() {
        fs::write(&path, render(about, samples)).expect("the fixture can be written");
    }
    let text = fs::read_to_string(&path).expect("the fixture is there; MESH_BLESS=1 makes it");
    let golden = parse(&text);
    let mut wrong = String::new();
    for (name, bytes) in samples {
        match golden.get(name) {
            Some(expected) if expected == bytes => {}
            Some(expected) => {
                writeln!(wrong, "{name}\n  golden {}\n  now    {}", hex(expected), hex(bytes)).expect("memory")
            }
            None => writeln!(wrong, "{name} has no golden bytes").expect("memory"),
        }
    }
    for name in golden.keys().filter(|name| samples.iter().all(|(sample, _)| sample != *name)) {
        writeln!(wrong, "{name} is no longer encoded by anything").expect("memory");
    }
    assert!(wrong.is_empty(), "{file}: the format has changed:\n{wrong}");
    golden
}

/// All that builds of a format have ever written: the golden bytes of each, under the name of its file.
pub(crate) fn ever(format: &str) -> Vec<(String, BTreeMap<String, Vec<u8>>)> {
    let files = fs::read_dir(folder().join("read")).expect("the folder is there");
    let names = files.map(|file| file.expect("a file").file_name().into_string().expect("a name of letters"));
    let mut names: Vec<String> = names.filter(|name| name.starts_with(&format!("{format}."))).collect();
    names.sort();
    let read = |name: String| {
        let text = fs::read_to_string(folder().join("read").join(&name)).expect("it was there");
        (name, parse(&text))
    };
    names.into_iter().map(read).collect()
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures")
}

/// Fails if a variant has no sample: a variant that is added gets one.
pub(crate) fn cover(kind: &str, variants: &[&str], samples: &[(String, Vec<u8>)]) {
    for variant in variants {
        let name = format!("{kind}.{variant}");
        let has = samples.iter().any(|(sample, _)| *sample == name || sample.starts_with(&format!("{name}.")));
        assert!(has, "{name} has no sample");
    }
}

fn render(about: &str, samples: &[(String, Vec<u8>)]) -> String {
    let mut text = format!("# {about}\n");
    for (name, bytes) in samples {
        writeln!(text, "{name} {}", hex(bytes)).expect("memory");
    }
    text
}

fn parse(text: &str) -> BTreeMap<String, Vec<u8>> {
    let mut golden = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let (name, digits) = line.split_once(' ').expect("a name and bytes");
        let bytes = digits.as_bytes().chunks(2).map(|pair| {
            let pair = core::str::from_utf8(pair).expect("hexadecimal digits");
            u8::from_str_radix(pair, 16).expect("hexadecimal digits")
        });
        assert!(golden.insert(name.to_owned(), bytes.collect()).is_none(), "{name} stands twice in the fixture");
    }
    golden
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("memory");
        text
    })
}
