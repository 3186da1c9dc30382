//! Small files whose being there is a promise: whole or not there, and durable with their names. A synced file whose
//! folder is not synced is gone after a power cut.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use mesh_core::wire::crc32c;

/// Puts a file in place, whatever was there before.
///
/// # Errors
/// What the file system says; the old file is then as it was, unless the last sync failed.
pub fn replace(path: &Path, contents: &[u8], mode: u32) -> io::Result<()> {
    place(path, contents, mode, |beside, path| fs::rename(beside, path), &mut sync_folder)
}

/// Puts a file in place where there is none.
///
/// # Errors
/// `AlreadyExists` if there is one, which is left as it is; else what the file system says.
pub fn create(path: &Path, contents: &[u8], mode: u32) -> io::Result<()> {
    let link = |beside: &Path, path: &Path| {
        let linked = fs::hard_link(beside, path);
        fs::remove_file(beside).and(linked)
    };
    place(path, contents, mode, link, &mut sync_folder)
}

/// One line of text with its checksum (CRC-32C, as eight hexadecimal digits) behind it.
#[must_use]
pub fn sealed(text: &str) -> String {
    format!("{text} {:08x}\n", crc32c(text.as_bytes()))
}

/// The text that was [`sealed`]; none if it is not as it was.
#[must_use]
pub fn unsealed(line: &str) -> Option<&str> {
    let (text, _) = line.strip_suffix('\n')?.rsplit_once(' ')?;
    (sealed(text) == line).then_some(text)
}

/// Makes a folder and those above it that are missing.
///
/// # Errors
/// What the file system says.
pub fn folder(path: &Path) -> io::Result<()> {
    make_folder(path, &mut sync_folder)
}

/// Makes the names in a folder durable.
///
/// # Errors
/// What the file system says.
pub fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Writes the contents beside the path, moves them there by `put`, and syncs the folder.
fn place(
    path: &Path,
    contents: &[u8],
    mode: u32,
    put: impl FnOnce(&Path, &Path) -> io::Result<()>,
    sync: &mut dyn FnMut(&Path) -> io::Result<()>,
) -> io::Result<()> {
    let folder = folder_of(path);
    let name = path.file_name().ok_or_else(|| io::Error::other("a file needs a name"))?;
    let beside = folder.join(format!(".{}.new", name.to_string_lossy()));
    // What an interrupted writer left goes; a file that somebody else puts there meanwhile is not written to.
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside)?;
    file.write_all(contents)?;
    file.sync_all()?;
    put(&beside, path)?;
    sync(&folder)
}

fn make_folder(path: &Path, sync: &mut dyn FnMut(&Path) -> io::Result<()>) -> io::Result<()> {
    let missing: Vec<&Path> =
        path.ancestors().take_while(|folder| !folder.as_os_str().is_empty() && !folder.exists()).collect();
    fs::create_dir_all(path)?;
    for made in missing.into_iter().rev() {
        sync(&folder_of(made))?;
    }
    Ok(())
}

/// Where a path is.
fn folder_of(path: &Path) -> PathBuf {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or_else(|| Path::new(".")).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn one_bit_breaks_a_seal() {
        let line = sealed("1795668134014 1795668134015");
        assert_eq!(unsealed(&line), Some("1795668134014 1795668134015"));
        assert_eq!(unsealed("1795668134014"), None);
        for at in 0..line.len() * 8 {
            let mut bytes = line.clone().into_bytes();
            bytes[at / 8] ^= 1 << (at % 8);
            let read = String::from_utf8(bytes).ok();
            assert_eq!(read.as_deref().and_then(unsealed), None, "bit {at}");
        }
        for len in 0..line.len() {
            assert_eq!(unsealed(&line[..len]), None);
        }
    }

    #[test]
    fn replaces_a_file_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(folder.path().join(".file.new"), "of an interrupted writer").unwrap();
        replace(&path, b"one", 0o600).unwrap();
        replace(&path, b"two", 0o600).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(names(folder.path()), ["file"]);
    }

    #[test]
    fn creates_only_where_nothing_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        create(&path, b"one", 0o600).unwrap();
        assert_eq!(create(&path, b"two", 0o600).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&path).unwrap(), b"one");
        assert_eq!(names(folder.path()), ["file"]);
    }

    #[test]
    fn the_folder_is_synced_once_the_file_is_there_and_its_failure_is_the_callers() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let mut synced = Vec::new();
        let mut sync = |at: &Path| {
            synced.push((at.to_owned(), fs::read(&path).unwrap()));
            Err(io::Error::other("the folder cannot be synced"))
        };
        let outcome = place(&path, b"one", 0o600, |beside, path| fs::rename(beside, path), &mut sync);
        assert_eq!(outcome.unwrap_err().to_string(), "the folder cannot be synced");
        assert_eq!(synced, [(folder.path().to_owned(), b"one".to_vec())]);
    }

    #[test]
    fn every_folder_that_was_made_is_synced_where_it_is_named() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("a/b/c");
        let mut synced = Vec::new();
        make_folder(&path, &mut |at| {
            synced.push(at.to_owned());
            Ok(())
        })
        .unwrap();
        assert!(path.is_dir());
        assert_eq!(synced, [base.path().to_owned(), base.path().join("a"), base.path().join("a/b")]);
    }
}
