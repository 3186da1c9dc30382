//! No plaintext at rest: nothing written to a medium holds the marker that every object is full of.

use mesh_core::{Buf, id::DriveId};

use super::Invariant;

/// What every 128 bytes of content hold 64 bytes of.
pub const MARKER: [u8; 8] = *b"PLAINTXT";

/// See the module's page.
#[derive(Debug)]
pub struct Ciphertext {
    /// The marker as a word, begun at each of its bytes: content may lie anywhere.
    words: [u64; 8],
}

impl Default for Ciphertext {
    fn default() -> Self {
        let mut words = [0; 8];
        for (turn, word) in words.iter_mut().enumerate() {
            let mut bytes = MARKER;
            bytes.rotate_left(turn);
            *word = u64::from_le_bytes(bytes);
        }
        Self { words }
    }
}

impl Ciphertext {
    /// Where the marker is, if it is there. A run of 64 bytes holds an aligned word at every 32nd byte.
    #[must_use]
    pub fn find(&self, bytes: &[u8]) -> Option<usize> {
        (0..bytes.len().saturating_sub(7)).step_by(32).find(|&at| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[at..at + 8]);
            self.words.contains(&u64::from_le_bytes(word))
        })
    }
}

impl Invariant for Ciphertext {
    fn written(&mut self, drive: DriveId, bufs: &[Buf]) -> Result<(), String> {
        match bufs.iter().find_map(|buf| self.find(buf)) {
            Some(at) => Err(format!("{drive} is given plaintext, {at} bytes into a buffer")),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_marker_wherever_it_lies() {
        let ciphertext = Ciphertext::default();
        for start in 0..200 {
            let mut bytes = vec![0; 4096];
            for (at, byte) in bytes[start..start + 64].iter_mut().enumerate() {
                *byte = MARKER[at % 8];
            }
            assert!(ciphertext.find(&bytes).is_some(), "begun at {start}");
        }
        assert_eq!(ciphertext.find(&[7; 4096]), None);
    }
}
