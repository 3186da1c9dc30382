//! Bounded reading of the files that say what a machine is. Nothing here fails: what could not be read is a finding.

use std::{
    fs,
    io::{self, Read},
    os::unix::fs::FileTypeExt as _,
    path::Path,
};

use super::{FINDINGS_MAX, Finding};

/// Looks at files below a root, and keeps what it found.
pub(super) struct Reader<'a> {
    root: &'a Path,
    /// Of [`FILE_BYTES_MAX`], for every file in turn.
    buffer: Vec<u8>,
    pub(super) findings: Vec<Finding>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(root: &'a Path) -> Self {
        Self { root, buffer: vec![0; FILE_BYTES_MAX], findings: Vec::new() }
    }

    /// The first [`FILE_BYTES_MAX`] bytes of a file; `None` if there is none. One that is there and cannot be read is a
    /// finding, and `None` too.
    pub(super) fn bytes(&mut self, path: &str) -> Option<Vec<u8>> {
        match read(&self.root.join(path), &mut self.buffer) {
            Ok(bytes) => Some(bytes.to_vec()),
            Err(error) if error.kind() == io::ErrorKind::NotFound || error.kind() == io::ErrorKind::NotADirectory => {
                None
            }
            Err(error) => {
                self.found(path, error.to_string(), "it is there and cannot be read, so it says nothing");
                None
            }
        }
    }

    /// The same as text, without white space around it. What is not UTF-8 in it is replaced.
    pub(super) fn text(&mut self, path: &str) -> Option<String> {
        self.bytes(path).map(|bytes| String::from_utf8_lossy(&bytes).trim().to_owned())
    }

    /// The names in a folder, sorted, at most [`ENTRIES_MAX`]; none if there is no such folder.
    pub(super) fn names(&mut self, path: &str) -> Vec<String> {
        let entries = match fs::read_dir(self.root.join(path)) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound || error.kind() == io::ErrorKind::NotADirectory => {
                return Vec::new();
            }
            Err(error) => {
                self.found(path, error.to_string(), "the folder is there and cannot be read, so it says nothing");
                return Vec::new();
            }
        };
        let mut names: Vec<String> = entries
            .take(ENTRIES_MAX + 1)
            .filter_map(|entry| entry.ok().and_then(|entry| entry.file_name().into_string().ok()))
            .collect();
        if names.len() > ENTRIES_MAX {
            names.truncate(ENTRIES_MAX);
            self.found(path, format!("more than {ENTRIES_MAX} entries"), "only so many of them were looked at");
        }
        names.sort_unstable();
        names
    }

    pub(super) fn exists(&self, path: &str) -> bool {
        self.root.join(path).symlink_metadata().is_ok()
    }

    /// Notes what a file said and what that means. Over the bound, the last finding says that there were more.
    pub(super) fn found(&mut self, path: &str, said: impl AsRef<str>, means: impl Into<String>) {
        let path = self.root.join(path);
        match self.findings.len() {
            count if count + 1 < FINDINGS_MAX => {
                self.findings.push(Finding { path: shown(&path), said: escaped(said.as_ref()), means: means.into() });
            }
            count if count + 1 == FINDINGS_MAX => self.findings.push(Finding {
                path: shown(&path),
                said: "and more".to_owned(),
                means: format!("only {FINDINGS_MAX} findings are kept"),
            }),
            _ => {}
        }
    }
}

fn read<'a>(path: &Path, buffer: &'a mut [u8]) -> io::Result<&'a [u8]> {
    // To open a pipe would wait for its writer.
    let kind = fs::metadata(path)?.file_type();
    if !kind.is_file() && !kind.is_char_device() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "neither a file nor a character device"));
    }
    fill(&mut fs::File::open(path)?, buffer)
}

/// Reads until the end or until the buffer is full, and always asks for all that there is room for: the rshim driver
/// answers the first read of an open file only, with as much as was asked for.
fn fill<'a>(source: &mut impl Read, buffer: &'a mut [u8]) -> io::Result<&'a [u8]> {
    let mut filled = 0;
    while let Some(room) = buffer.get_mut(filled..).filter(|room| !room.is_empty()) {
        match source.read(room) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(buffer.get(..filled).unwrap_or_default())
}

fn shown(path: &Path) -> String {
    escaped(&path.to_string_lossy())
}

/// Fit for a terminal: at most [`SAID_CHARS_MAX`] characters, no control characters.
pub(super) fn escaped(text: &str) -> String {
    let mut shown = String::new();
    for (count, character) in text.chars().enumerate() {
        if count == SAID_CHARS_MAX {
            shown.push_str(" ...");
            break;
        }
        if character.is_control() || (!character.is_ascii() && !character.is_alphanumeric()) {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
    }
    shown
}

/// No file that is looked at is larger, but for tables of which the beginning is enough.
const FILE_BYTES_MAX: usize = 64 << 10;
/// A machine with 4 cards of 1,000 virtual functions each still fits.
const ENTRIES_MAX: usize = 8192;
/// Of what a file said.
const SAID_CHARS_MAX: usize = 160;

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers its first read only, as the rshim driver does.
    struct Once(Option<&'static [u8]>);

    impl Read for Once {
        fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
            let Some(content) = self.0.take() else { return Ok(0) };
            let count = content.len().min(target.len());
            target[..count].copy_from_slice(&content[..count]);
            Ok(count)
        }
    }

    #[test]
    fn a_device_that_answers_once_is_read_whole() {
        static CONTENT: [u8; 4069] = [b'x'; 4069];
        let content = CONTENT.as_slice();
        assert_eq!(fill(&mut Once(Some(content)), &mut [0; 8192]).unwrap(), content);
    }

    #[test]
    fn what_is_longer_than_the_buffer_is_cut() {
        assert_eq!(fill(&mut io::repeat(7), &mut [0; 100]).unwrap(), [7; 100]);
    }
}
