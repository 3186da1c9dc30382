//! Reads a range of a medium of which a part may not be readable: at once, or else block by block.

use mesh_core::{
    Buf, Error, ErrorKind, WorkOutcome,
    port::{DiskJob, WorkOutput},
};

use super::format::BLOCK;

/// A range being read. What cannot be read comes as bytes that nothing on a medium is, so that it counts as damaged.
#[derive(Debug)]
pub struct Reading {
    at: u64,
    len: u32,
    /// Set once it could not be read as a whole.
    pieces: Option<Pieces>,
}

#[derive(Debug)]
struct Pieces {
    bytes: Vec<u8>,
    lost: u32,
    error: Error,
}

/// What stands for a byte that cannot be read: neither zeros nor the beginning of anything of ours.
const LOST: u8 = 0xA5;

impl Reading {
    /// So many bytes from there on, both multiples of 4096.
    #[must_use]
    pub fn new(at: u64, len: u32) -> Self {
        Self { at, len, pieces: None }
    }

    /// What is to be done next.
    #[must_use]
    pub fn job(&self) -> DiskJob {
        match &self.pieces {
            None => DiskJob::Read { at: self.at, len: self.len },
            Some(pieces) => DiskJob::Read { at: self.at + pieces.bytes.len() as u64, len: BLOCK },
        }
    }

    /// Takes what that came to. `None`: there is more to be done.
    ///
    /// # Errors
    /// The medium refused to try, or the job was not a read.
    pub fn take(&mut self, outcome: WorkOutcome) -> Result<Option<Buf>, Error> {
        match (outcome, &mut self.pieces) {
            (Ok(WorkOutput::Bytes(bytes)), None) => return Ok(Some(bytes)),
            (Ok(WorkOutput::Bytes(bytes)), Some(pieces)) => pieces.bytes.extend_from_slice(&bytes),
            (Ok(_), _) => return Err(Error::bug("a read gave no bytes")),
            (Err(error), _) if error.kind() != ErrorKind::DriveFailed => return Err(error),
            (Err(error), None) => {
                self.pieces = Some(Pieces { bytes: Vec::with_capacity(self.len as usize), lost: 0, error });
                return Ok(None);
            }
            (Err(error), Some(pieces)) => {
                pieces.lost += 1;
                pieces.error = error;
                pieces.bytes.resize(pieces.bytes.len() + BLOCK as usize, LOST);
            }
        }
        let Some(pieces) = self.pieces.take_if(|pieces| pieces.bytes.len() >= self.len as usize) else {
            return Ok(None);
        };
        let bytes = Buf::copy_of(&pieces.bytes);
        self.pieces = Some(pieces);
        Ok(Some(bytes))
    }

    /// How many of its blocks could not be read, and why not.
    #[must_use]
    pub fn lost(&self) -> Option<(u32, &Error)> {
        self.pieces.as_ref().filter(|pieces| pieces.lost > 0).map(|pieces| (pieces.lost, &pieces.error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bad() -> WorkOutcome {
        Err(Error::new(ErrorKind::DriveFailed, "it cannot be read"))
    }

    fn good(len: u32) -> WorkOutcome {
        Ok(WorkOutput::Bytes(Buf::copy_of(&vec![1; len as usize])))
    }

    #[test]
    fn what_can_be_read_comes_at_once_and_the_rest_block_by_block() {
        let mut reading = Reading::new(8192, 3 * BLOCK);
        assert_eq!(reading.job(), DiskJob::Read { at: 8192, len: 3 * BLOCK });
        assert_eq!(reading.take(bad()), Ok(None));
        let mut places = Vec::new();
        let bytes = loop {
            let DiskJob::Read { at, len } = reading.job() else { panic!("it reads") };
            places.push((at, len));
            let outcome = if places.len() == 2 { bad() } else { good(len) };
            if let Some(bytes) = reading.take(outcome).expect("a part can be read") {
                break bytes;
            }
        };
        assert_eq!(places, [(8192, BLOCK), (8192 + 4096, BLOCK), (8192 + 8192, BLOCK)]);
        let block = |byte| vec![byte; BLOCK as usize];
        assert_eq!(bytes.to_vec(), [block(1), block(LOST), block(1)].concat());
        assert_eq!(reading.lost().map(|(lost, _)| lost), Some(1));
    }

    #[test]
    fn a_failure_that_was_one_is_forgotten_and_one_of_another_kind_is_not_tried_again() {
        let mut reading = Reading::new(0, BLOCK);
        assert_eq!(reading.take(bad()), Ok(None));
        assert!(reading.take(good(BLOCK)).is_ok_and(|bytes| bytes.is_some()));
        assert_eq!(reading.lost(), None);
        let error = Error::bug("a read behind the end");
        assert_eq!(Reading::new(0, BLOCK).take(Err(error.clone())), Err(error));
    }
}
