//! A medium in memory that knows which of its writes a power cut would take.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use mesh_core::{
    Buf, Error, WorkOutcome,
    limits::ALIGNMENT_BYTES,
    port::{Completion, Disk, DiskJob, Geometry, WorkOutput},
};

/// A medium in memory. Jobs end inside `start`, in order. Only what a sync covered survives [`MemoryDisk::power_cut`].
#[derive(Debug)]
pub struct MemoryDisk {
    capacity_bytes: u64,
    space: Mutex<Space>,
}

type Block = Arc<[u8]>;

/// A sync that is under way.
#[derive(Debug)]
pub struct Syncing(BTreeMap<u64, Option<Block>>);

#[derive(Clone, Debug, Default)]
struct Space {
    /// What a read gives, by block number. A block that is missing is zeros.
    now: BTreeMap<u64, Block>,
    /// What is durable of the blocks that were written since the last sync.
    durable: BTreeMap<u64, Option<Block>>,
}

impl Space {
    fn set(&mut self, block: u64, bytes: Option<Block>) {
        let old = match bytes {
            Some(bytes) => self.now.insert(block, bytes),
            None => self.now.remove(&block),
        };
        self.durable.entry(block).or_insert(old);
    }
}

impl MemoryDisk {
    /// A blank medium. The capacity is rounded down to whole blocks of 4 KiB; memory is taken as it is written.
    #[must_use]
    pub fn new(capacity_bytes: u64) -> Arc<Self> {
        let capacity_bytes = capacity_bytes - capacity_bytes % ALIGNMENT_BYTES as u64;
        Arc::new(Self { capacity_bytes, space: Mutex::default() })
    }

    fn space(&self) -> MutexGuard<'_, Space> {
        // No code that holds the lock can leave the space half changed.
        self.space.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Cuts the power: of the blocks that were written and not synced, in ascending order, only those survive for
    /// which `survives` says so (it is given the block's number). So writes tear at 4 KiB.
    pub fn power_cut(&self, mut survives: impl FnMut(u64) -> bool) {
        let mut space = self.space();
        for (block, old) in core::mem::take(&mut space.durable) {
            if !survives(block) {
                match old {
                    Some(old) => space.now.insert(block, old),
                    None => space.now.remove(&block),
                };
            }
        }
    }

    /// A medium of its own that holds what is durable here now: what a power cut would leave at worst.
    #[must_use]
    pub fn durable_copy(&self) -> Arc<Self> {
        let copy = Self { capacity_bytes: self.capacity_bytes, space: Mutex::new(self.space().clone()) };
        copy.power_cut(|_| false);
        Arc::new(copy)
    }

    /// Begins a sync: it covers what is written now, and nothing that is written before it ends.
    #[must_use]
    pub fn begin_sync(&self) -> Syncing {
        let space = self.space();
        Syncing(space.durable.keys().map(|block| (*block, space.now.get(block).cloned())).collect())
    }

    /// It ends.
    pub fn end_sync(&self, Syncing(covered): Syncing) {
        let mut space = self.space();
        for (block, bytes) in covered {
            let is_as_it_was = match (space.now.get(&block), &bytes) {
                (Some(now), Some(then)) => Arc::ptr_eq(now, then),
                (now, then) => now.is_none() && then.is_none(),
            };
            if is_as_it_was {
                space.durable.remove(&block);
            } else if let Some(durable) = space.durable.get_mut(&block) {
                *durable = bytes;
            }
        }
    }

    /// How many blocks were written and not synced.
    #[must_use]
    pub fn unsynced_blocks(&self) -> usize {
        self.space().durable.len()
    }

    /// Flips bits of one byte, durably: rot.
    pub fn rot(&self, at: u64, mask: u8) {
        let unit = ALIGNMENT_BYTES as u64;
        let mut space = self.space();
        let mut bytes = space.now.get(&(at / unit)).map_or_else(|| vec![0; ALIGNMENT_BYTES], |block| block.to_vec());
        bytes[(at % unit) as usize] ^= mask;
        space.now.insert(at / unit, bytes.into());
    }

    /// Does one job at once.
    ///
    /// # Errors
    /// `Bug` for a job that is not aligned or lies behind the end.
    pub fn run(&self, job: DiskJob) -> WorkOutcome {
        super::check(&job, self.capacity_bytes)?;
        let unit = ALIGNMENT_BYTES as u64;
        let mut space = self.space();
        match job {
            DiskJob::Write { at, bufs } => {
                let blocks = bufs.iter().flat_map(|buf| buf.chunks_exact(ALIGNMENT_BYTES));
                for (block, bytes) in (at / unit..).zip(blocks) {
                    space.set(block, Some(bytes.into()));
                }
            }
            DiskJob::Read { at, len } => {
                let mut buf = Buf::zeroed(len as usize);
                let target = buf.as_mut().ok_or_else(|| Error::bug("fresh memory is shared"))?;
                let blocks = at / unit..(at + u64::from(len)) / unit;
                for (block, bytes) in space.now.range(blocks) {
                    let from = ((block - at / unit) * unit) as usize;
                    target[from..from + ALIGNMENT_BYTES].copy_from_slice(bytes);
                }
                return Ok(WorkOutput::Bytes(buf));
            }
            DiskJob::Sync => space.durable.clear(),
            DiskJob::Discard { at, len } => {
                let blocks: Vec<u64> = space.now.range(at / unit..(at + len) / unit).map(|(block, _)| *block).collect();
                for block in blocks {
                    space.set(block, None);
                }
            }
        }
        Ok(WorkOutput::Done)
    }
}

impl Disk for MemoryDisk {
    fn geometry(&self) -> Geometry {
        Geometry { capacity_bytes: self.capacity_bytes, align_bytes: ALIGNMENT_BYTES as u32 }
    }

    fn start(&self, job: DiskJob, done: Completion<WorkOutcome>) {
        done(self.run(job));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(disk: &MemoryDisk, at: u64, fill: u8) {
        let mut buf = Buf::zeroed(8192);
        buf.make_mut().fill(fill);
        assert_eq!(disk.run(DiskJob::Write { at, bufs: vec![buf] }), Ok(WorkOutput::Done));
    }

    fn read(disk: &MemoryDisk, at: u64) -> u8 {
        match disk.run(DiskJob::Read { at, len: 4096 }) {
            Ok(WorkOutput::Bytes(bytes)) => bytes[0],
            other => panic!("a read gave {other:?}"),
        }
    }

    #[test]
    fn a_power_cut_takes_what_no_sync_covered() {
        let disk = MemoryDisk::new(1 << 20);
        write(&disk, 0, 1);
        disk.run(DiskJob::Sync).unwrap();
        write(&disk, 4096, 2);
        assert_eq!((read(&disk, 0), read(&disk, 4096), read(&disk, 8192)), (1, 2, 2));
        let copy = disk.durable_copy();
        assert_eq!((read(&copy, 0), read(&copy, 4096), read(&copy, 8192)), (1, 1, 0));
        disk.power_cut(|block| block == 2);
        assert_eq!((read(&disk, 4096), read(&disk, 8192), disk.unsynced_blocks()), (1, 2, 0));
    }

    #[test]
    fn a_sync_covers_what_was_written_when_it_began() {
        let disk = MemoryDisk::new(1 << 20);
        write(&disk, 0, 1);
        write(&disk, 8192, 1);
        let syncing = disk.begin_sync();
        write(&disk, 8192, 2);
        write(&disk, 16384, 2);
        disk.end_sync(syncing);
        assert_eq!((read(&disk, 0), read(&disk, 8192), read(&disk, 16384)), (1, 2, 2));
        disk.power_cut(|_| false);
        assert_eq!((read(&disk, 0), read(&disk, 8192), read(&disk, 16384)), (1, 1, 0));
    }

    #[test]
    fn a_discard_is_as_volatile_as_a_write() {
        let disk = MemoryDisk::new(1 << 20);
        write(&disk, 0, 1);
        disk.run(DiskJob::Sync).unwrap();
        disk.run(DiskJob::Discard { at: 0, len: 1 << 20 }).unwrap();
        assert_eq!(read(&disk, 0), 0);
        disk.power_cut(|_| false);
        assert_eq!(read(&disk, 0), 1);
    }

    #[test]
    fn refuses_what_is_not_aligned_or_outside() {
        let disk = MemoryDisk::new(1 << 20);
        let misplaced = Buf::zeroed(8192).slice(1..4097);
        assert!(disk.run(DiskJob::Write { at: 0, bufs: vec![misplaced] }).is_err());
        assert!(disk.run(DiskJob::Read { at: 1, len: 4096 }).is_err());
        assert!(disk.run(DiskJob::Read { at: 1 << 20, len: 4096 }).is_err());
        assert!(disk.run(DiskJob::Discard { at: u64::MAX - 4095, len: 4096 }).is_err());
    }
}
