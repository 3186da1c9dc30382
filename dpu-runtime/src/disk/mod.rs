//! Media of drives: the [`mesh_core::port::Disk`]s.
//!
//! - [`MemoryDisk`]: exact about what a power cut takes; for tests, simulations and meshes without media
//! - [`FileDisk`]: a directory of extent files, a single file, or a block device
//! - [`FailingDisk`]: fails the I/O of your choice of another disk; for tests

#[cfg(test)]
mod conformance;
mod failing;
mod file;
mod memory;

pub use failing::{FailingDisk, Fault};
pub use file::{FileDisk, FileOptions};
pub use memory::{MemoryDisk, Syncing};

use mesh_core::{Error, limits::ALIGNMENT_BYTES, port::DiskJob};

/// Refuses a job that breaks the port's rules or leaves the medium.
fn check(job: &DiskJob, capacity_bytes: u64) -> Result<(), Error> {
    let (at, len) = match job {
        DiskJob::Write { at, bufs } => {
            if bufs.iter().any(|buf| !buf.is_aligned() || !buf.len().is_multiple_of(ALIGNMENT_BYTES)) {
                return Err(Error::bug("a write of memory that is not aligned"));
            }
            (*at, bufs.iter().map(|buf| buf.len() as u64).sum())
        }
        DiskJob::Read { at, len } => (*at, u64::from(*len)),
        DiskJob::Discard { at, len } => (*at, *len),
        DiskJob::Sync => return Ok(()),
    };
    let unit = ALIGNMENT_BYTES as u64;
    if !at.is_multiple_of(unit) || !len.is_multiple_of(unit) {
        return Err(Error::bug("an I/O that is not aligned").with("at", at).with("len", len));
    }
    if at.checked_add(len).is_none_or(|end| end > capacity_bytes) {
        return Err(Error::bug("an I/O behind the end of the medium").with("at", at).with("len", len));
    }
    Ok(())
}
