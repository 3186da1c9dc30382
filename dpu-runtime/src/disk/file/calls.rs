//! The system calls that a medium's promise hangs on, behind a seam: a test can hold each of them, and knows which
//! writes had ended when a sync began.

use std::{
    fs::File,
    io::{self, IoSlice},
};

use rustix::io::{Errno, pwritev};

/// Writes and syncs of a medium's files.
pub(in crate::disk) trait Calls: core::fmt::Debug + Send + Sync {
    /// Writes some of the bytes, at least one; gives how many.
    ///
    /// # Errors
    /// What the system says.
    fn write(&self, file: &File, slices: &[IoSlice<'_>], at: u64) -> io::Result<usize>;

    /// Makes durable what was written to the file and had ended before this call.
    ///
    /// # Errors
    /// What the system says; nothing is known then of what the file kept.
    fn sync(&self, file: &File) -> io::Result<()>;

    /// Makes durable that a file is there: its length, or, of a directory, the names in it.
    ///
    /// # Errors
    /// As of [`Self::sync`].
    fn settle(&self, file: &File) -> io::Result<()>;
}

/// The calls of the system.
#[derive(Debug)]
pub(in crate::disk) struct Kernel;

impl Calls for Kernel {
    fn write(&self, file: &File, slices: &[IoSlice<'_>], at: u64) -> io::Result<usize> {
        retried(|| pwritev(file, slices, at))
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        retried(|| rustix::fs::fdatasync(file))
    }

    fn settle(&self, file: &File) -> io::Result<()> {
        retried(|| rustix::fs::fsync(file))
    }
}

/// Makes a call again as long as a signal interrupts it.
pub(super) fn retried<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            outcome => return outcome.map_err(io::Error::from),
        }
    }
}
