//! A faulty drive's medium in virtual time. It owns bytes and the jobs on them; when jobs end is the world's business.
//!
//! ```text
//!  start(Write) ──► running ──end──► cached ──a Sync that began later ends──► durable
//!                      │                │                                        │
//!        crash:   any subset of    any subset of                              bit rot
//!                 its blocks       the blocks
//! ```
//!
//! Blocks of 4 KiB are atomic: a crash tears a write only between them. A `Sync` that fails has lost its hold on what
//! it covered: a later `Sync` reports success without it (what Linux does after a failed fsync).

use core::{ops::Range, time::Duration};
use std::collections::BTreeMap;

use mesh_core::{
    Buf, Error, ErrorKind, WorkOutcome,
    id::NodeId,
    port::{DiskJob, Geometry, WorkOutput},
};

use crate::{random::Stream, world::Place};

/// Bytes of a block.
pub const BLOCK_BYTES: usize = 4096;

/// How a disk behaves, apart from single faults.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskWeather {
    /// How long a read or a write takes.
    pub latency: Range<Duration>,
    /// How long a sync takes.
    pub sync: Range<Duration>,
    /// Jobs in a thousand that fail.
    pub error_per_mille: u32,
    /// Whether a sync ends without making anything durable: a planted bug.
    pub lying_sync: bool,
    /// Whether writes mark the medium as they begin, and a sync that finds no mark does nothing: a planted bug. A sync
    /// that runs while a write is under way takes the write's mark, and the one that owes the cover finds none.
    pub uncovered_sync: bool,
}

impl DiskWeather {
    /// A disk that is fast and never fails.
    #[must_use]
    pub const fn calm() -> Self {
        Self {
            latency: Duration::from_micros(20)..Duration::from_micros(200),
            sync: Duration::from_micros(200)..Duration::from_millis(1),
            error_per_mille: 0,
            lying_sync: false,
            uncovered_sync: false,
        }
    }
}

/// What a crash does to what is not durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// The process dies: writes that had ended stay with the system (no more durable than before), those under way may
    /// or may not happen.
    Kill,
    /// Power fails: any subset of the blocks that are not durable stays.
    Power,
}

/// One medium.
#[derive(Debug)]
pub struct Disk {
    /// The node that it is attached to.
    pub node: NodeId,
    capacity_bytes: u64,
    weather: DiskWeather,
    stream: Stream,
    durable: BTreeMap<u64, Buf>,
    /// Writes that have ended, in that order, one entry a block.
    cached: Vec<Cached>,
    /// The newest cached entry of each block: what a read sees.
    newest: BTreeMap<u64, usize>,
    running: BTreeMap<u64, Running>,
    ended: u64,
    next: u64,
    /// A write has begun since the last sync did: what [`DiskWeather::uncovered_sync`] goes by.
    marked: bool,
    /// Until when no job ends.
    stalled: u64,
    /// Until when writes fail for want of space.
    full: u64,
    /// How many times slower than its weather says.
    slow: u32,
}

#[derive(Debug)]
struct Cached {
    number: u64,
    block: u64,
    /// `None`: discarded.
    bytes: Option<Buf>,
    /// A sync that covered it has failed: no later one will write it.
    forsaken: bool,
}

#[derive(Debug)]
struct Running {
    job: DiskJob,
    /// Whose.
    place: Place,
    /// For a sync: writes up to this number had ended when it began.
    covers: u64,
    /// Whether it will fail.
    fails: Option<ErrorKind>,
}

impl Disk {
    /// An empty medium.
    #[must_use]
    pub fn new(node: NodeId, capacity_bytes: u64, weather: DiskWeather, stream: Stream) -> Self {
        Self {
            node,
            capacity_bytes,
            weather,
            stream,
            durable: BTreeMap::new(),
            cached: Vec::new(),
            newest: BTreeMap::new(),
            running: BTreeMap::new(),
            ended: 0,
            next: 0,
            marked: true,
            stalled: 0,
            full: 0,
            slow: 1,
        }
    }

    /// What the function that owns it is told.
    #[must_use]
    pub const fn geometry(&self) -> Geometry {
        Geometry { capacity_bytes: self.capacity_bytes, align_bytes: BLOCK_BYTES as u32 }
    }

    /// From now on.
    pub fn set_weather(&mut self, weather: DiskWeather) {
        self.weather = weather;
    }

    /// Ends every single fault.
    pub const fn heal(&mut self) {
        (self.stalled, self.full, self.slow) = (0, 0, 1);
    }

    /// No job ends before `until`.
    pub const fn stall(&mut self, until: u64) {
        self.stalled = until;
    }

    /// Writes fail for want of space before `until`.
    pub const fn fill(&mut self, until: u64) {
        self.full = until;
    }

    /// Jobs take so many times as long.
    pub const fn slow_down(&mut self, times: u32) {
        self.slow = times;
    }

    /// Begins a job: its number, and how long it takes.
    pub fn start(&mut self, now: u64, job: DiskJob, place: Place) -> (u64, Duration) {
        self.next += 1;
        let syncs = matches!(job, DiskJob::Sync);
        let span = self.stream.span(if syncs { &self.weather.sync } else { &self.weather.latency }) * self.slow;
        let fails = self.stream.chance(self.weather.error_per_mille).then_some(ErrorKind::DriveFailed);
        let no_space = (now < self.full && matches!(job, DiskJob::Write { .. })).then_some(ErrorKind::NoSpace);
        let wait = Duration::from_nanos(self.stalled.saturating_sub(now));
        let marked = self.marked || matches!(job, DiskJob::Write { .. });
        self.marked = marked && !syncs;
        let bare = syncs && !marked && self.weather.uncovered_sync;
        let covers = if bare { 0 } else { self.ended };
        self.running.insert(self.next, Running { job, place, covers, fails: no_space.or(fails) });
        (self.next, span + wait)
    }

    /// Ends a job. `None` if a crash has taken it.
    pub fn end(&mut self, number: u64) -> Option<(Place, WorkOutcome)> {
        let Running { job, place, covers, fails } = self.running.remove(&number)?;
        let outcome = match (job, fails) {
            (DiskJob::Write { at, bufs }, fails) => self.end_write(at, bufs, fails),
            (DiskJob::Discard { at, len }, None) => self.discard(at, len),
            (DiskJob::Read { at, len }, None) => self.read(at, len),
            (DiskJob::Sync, None) => {
                if !self.weather.lying_sync {
                    self.make_durable(covers);
                }
                Ok(WorkOutput::Done)
            }
            (job, Some(kind)) => {
                if matches!(job, DiskJob::Sync) {
                    self.cached.iter_mut().filter(|entry| entry.number <= covers).for_each(|entry| {
                        entry.forsaken = true;
                    });
                }
                Err(failure(kind))
            }
        };
        Some((place, outcome))
    }

    fn check(&self, at: u64, len: u64) -> Result<(), Error> {
        let block = BLOCK_BYTES as u64;
        if !at.is_multiple_of(block) || !len.is_multiple_of(block) {
            return Err(Error::invalid("an I/O that is not aligned").with("at", at).with("len", len));
        }
        if at.checked_add(len).is_none_or(|end| end > self.capacity_bytes) {
            return Err(Error::invalid("an I/O behind the end of the medium").with("at", at).with("len", len));
        }
        Ok(())
    }

    fn end_write(&mut self, at: u64, bufs: Vec<Buf>, fails: Option<ErrorKind>) -> WorkOutcome {
        self.check(at, bufs.iter().map(|buf| buf.len() as u64).sum())?;
        for (block, bytes) in blocks(at, &bufs) {
            // A write that fails may have written any part.
            let happens = match fails {
                None => true,
                Some(ErrorKind::NoSpace) => false,
                Some(_) => self.stream.chance(500),
            };
            if happens {
                self.cache(block, Some(bytes));
            }
        }
        fails.map_or(Ok(WorkOutput::Done), |kind| Err(failure(kind)))
    }

    fn cache(&mut self, block: u64, bytes: Option<Buf>) {
        self.ended += 1;
        self.newest.insert(block, self.cached.len());
        self.cached.push(Cached { number: self.ended, block, bytes, forsaken: false });
    }

    fn discard(&mut self, at: u64, len: u64) -> WorkOutcome {
        self.check(at, len)?;
        let block = BLOCK_BYTES as u64;
        // "Reads as zeros or as before": which, is decided once for the whole range.
        if self.stream.chance(500) {
            let first = at / block;
            let held: Vec<u64> = (first..first + len / block)
                .filter(|number| self.durable.contains_key(number) || self.newest.contains_key(number))
                .collect();
            held.into_iter().for_each(|number| self.cache(number, None));
        }
        Ok(WorkOutput::Done)
    }

    fn block(&self, number: u64) -> Option<&Buf> {
        match self.newest.get(&number) {
            Some(&at) => self.cached[at].bytes.as_ref(),
            None => self.durable.get(&number),
        }
    }

    fn read(&self, at: u64, len: u32) -> WorkOutcome {
        self.check(at, u64::from(len))?;
        let mut bytes = Buf::zeroed(len as usize);
        if let Some(target) = bytes.as_mut() {
            for (number, chunk) in (at / BLOCK_BYTES as u64..).zip(target.chunks_mut(BLOCK_BYTES)) {
                if let Some(block) = self.block(number) {
                    chunk.copy_from_slice(block);
                }
            }
        }
        Ok(WorkOutput::Bytes(bytes))
    }

    fn store(&mut self, block: u64, bytes: Option<Buf>) {
        match bytes {
            Some(bytes) => self.durable.insert(block, bytes),
            None => self.durable.remove(&block),
        };
    }

    fn make_durable(&mut self, covers: u64) {
        let mut stored: BTreeMap<u64, u64> = BTreeMap::new();
        for entry in core::mem::take(&mut self.cached) {
            if entry.number <= covers && !entry.forsaken {
                stored.insert(entry.block, entry.number);
                self.store(entry.block, entry.bytes);
            } else {
                self.cached.push(entry);
            }
        }
        // What was forsaken under a newer write is gone for good.
        self.cached.retain(|entry| stored.get(&entry.block).is_none_or(|number| *number < entry.number));
        self.newest = self.cached.iter().enumerate().map(|(at, entry)| (entry.block, at)).collect();
    }

    /// The machine stops: running jobs are gone, and what is not durable is lost as the crash has it.
    pub fn crash(&mut self, crash: Crash) {
        self.marked = true;
        for (_, running) in core::mem::take(&mut self.running) {
            if let DiskJob::Write { at, bufs } = running.job
                && self.check(at, bufs.iter().map(|buf| buf.len() as u64).sum()).is_ok()
            {
                for (block, bytes) in blocks(at, &bufs) {
                    if self.stream.chance(500) {
                        self.cache(block, Some(bytes));
                    }
                }
            }
        }
        if crash == Crash::Kill {
            return;
        }
        // All lost, all kept, or anything between.
        let survive = [0, 0, 500, 900, 1000].get(self.stream.below(5) as usize).copied().unwrap_or(0);
        for entry in core::mem::take(&mut self.cached) {
            let lucky = self.stream.chance(survive);
            if lucky {
                self.store(entry.block, entry.bytes);
            }
        }
        self.newest.clear();
    }

    /// Flips a bit in each of some durable blocks. Returns how many.
    pub fn rot(&mut self, blocks: u64) -> u64 {
        let numbers: Vec<u64> = self.durable.keys().copied().collect();
        let mut rotten = 0;
        for _ in 0..blocks {
            let bit = self.stream.below(BLOCK_BYTES as u64 * 8) as usize;
            if let Some(block) = self.stream.pick(&numbers).and_then(|number| self.durable.get_mut(number)) {
                block.make_mut()[bit / 8] ^= 1 << (bit % 8);
                rotten += 1;
            }
        }
        rotten
    }

    /// Loses everything.
    pub fn wipe(&mut self) {
        self.durable.clear();
        self.cached.clear();
        self.newest.clear();
    }

    /// Writes durably at once, outside any job: how a medium is made ready before it is used.
    pub fn format(&mut self, at: u64, bytes: &Buf) {
        for (block, bytes) in blocks(at, core::slice::from_ref(bytes)) {
            self.store(block, Some(bytes));
        }
    }

    /// Every block that a reader of the medium could find, durable or not.
    pub fn contents(&self) -> impl Iterator<Item = &Buf> {
        self.durable.values().chain(self.cached.iter().filter_map(|entry| entry.bytes.as_ref()))
    }

    /// Whether nothing was ever written.
    #[must_use]
    pub fn is_blank(&self) -> bool {
        self.durable.is_empty() && self.cached.is_empty()
    }
}

/// The blocks of a write, without copying. A short last one is filled up with zeros.
fn blocks(at: u64, bufs: &[Buf]) -> Vec<(u64, Buf)> {
    let mut number = at / BLOCK_BYTES as u64;
    let mut blocks = Vec::new();
    for buf in bufs {
        for start in (0..buf.len()).step_by(BLOCK_BYTES) {
            let mut block = buf.slice(start..buf.len().min(start + BLOCK_BYTES));
            block.grow_zeroed(BLOCK_BYTES);
            blocks.push((number, block));
            number += 1;
        }
    }
    blocks
}

fn failure(kind: ErrorKind) -> Error {
    Error::new(kind, "the simulated medium failed this I/O")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk() -> Disk {
        Disk::new(NodeId(1), 1 << 20, DiskWeather::calm(), Stream::new(1, "disk", 1))
    }

    fn run(disk: &mut Disk, job: DiskJob) -> WorkOutcome {
        let (number, _) = disk.start(0, job, Place::default());
        disk.end(number).expect("it was just begun").1
    }

    fn full_of(byte: u8) -> DiskJob {
        let mut buf = Buf::zeroed(2 * BLOCK_BYTES);
        buf.make_mut().fill(byte);
        DiskJob::Write { at: 0, bufs: vec![buf] }
    }

    fn first_byte(disk: &mut Disk) -> u8 {
        match run(disk, DiskJob::Read { at: 0, len: 4096 }) {
            Ok(WorkOutput::Bytes(bytes)) => bytes[0],
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_sync_covers_only_writes_that_had_ended_before_it_began() {
        let mut disk = disk();
        assert_eq!(run(&mut disk, full_of(1)), Ok(WorkOutput::Done));
        let (sync, _) = disk.start(0, DiskJob::Sync, Place::default());
        assert_eq!(run(&mut disk, full_of(2)), Ok(WorkOutput::Done));
        assert!(disk.end(sync).is_some());
        assert_eq!(first_byte(&mut disk), 2);
        assert_eq!(disk.durable[&0][0], 1);
        assert_eq!(disk.cached.len(), 2);
    }

    #[test]
    fn a_write_that_takes_longer_than_a_sync_is_left_bare_by_the_planted_bug_alone() {
        for uncovered_sync in [false, true] {
            let mut disk = disk();
            disk.set_weather(DiskWeather { uncovered_sync, ..DiskWeather::calm() });
            let (write, _) = disk.start(0, full_of(1), Place::default());
            assert_eq!(run(&mut disk, DiskJob::Sync), Ok(WorkOutput::Done));
            assert!(disk.end(write).is_some());
            assert_eq!(run(&mut disk, DiskJob::Sync), Ok(WorkOutput::Done));
            assert_eq!(disk.durable.is_empty(), uncovered_sync);
        }
    }

    #[test]
    fn a_power_cut_loses_what_no_sync_has_covered_and_nothing_else() {
        let mut lost = 0;
        for seed in 0..40 {
            let mut disk = Disk::new(NodeId(1), 1 << 20, DiskWeather::calm(), Stream::new(seed, "disk", 1));
            assert!(run(&mut disk, full_of(1)).is_ok());
            assert!(run(&mut disk, DiskJob::Sync).is_ok());
            assert!(run(&mut disk, full_of(2)).is_ok());
            disk.crash(Crash::Power);
            let byte = first_byte(&mut disk);
            assert!(byte == 1 || byte == 2);
            lost += u64::from(byte == 1);
        }
        assert!((10..40).contains(&lost), "{lost} of 40 lost");
    }

    #[test]
    fn a_killed_process_keeps_what_the_system_had_taken() {
        let mut disk = disk();
        assert!(run(&mut disk, full_of(3)).is_ok());
        disk.crash(Crash::Kill);
        assert_eq!(first_byte(&mut disk), 3);
    }

    #[test]
    fn what_a_failed_sync_covered_no_later_sync_makes_durable() {
        let mut disk = disk();
        assert!(run(&mut disk, full_of(3)).is_ok());
        disk.set_weather(DiskWeather { error_per_mille: 1000, ..DiskWeather::calm() });
        assert!(run(&mut disk, DiskJob::Sync).is_err());
        disk.set_weather(DiskWeather::calm());
        assert!(run(&mut disk, DiskJob::Sync).is_ok());
        assert_eq!(first_byte(&mut disk), 3);
        assert!(disk.durable.is_empty());
    }

    #[test]
    fn what_was_forsaken_does_not_come_back_over_what_was_written_since() {
        let mut disk = disk();
        assert!(run(&mut disk, full_of(3)).is_ok());
        disk.set_weather(DiskWeather { error_per_mille: 1000, ..DiskWeather::calm() });
        assert!(run(&mut disk, DiskJob::Sync).is_err());
        disk.set_weather(DiskWeather::calm());
        assert!(run(&mut disk, full_of(4)).is_ok());
        assert!(run(&mut disk, DiskJob::Sync).is_ok());
        assert_eq!(first_byte(&mut disk), 4);
        disk.crash(Crash::Power);
        assert_eq!(first_byte(&mut disk), 4);
    }

    #[test]
    fn refuses_what_is_unaligned_or_outside() {
        let mut disk = disk();
        assert!(run(&mut disk, DiskJob::Read { at: 1, len: 4096 }).is_err());
        assert!(run(&mut disk, DiskJob::Read { at: 1 << 20, len: 4096 }).is_err());
    }

    #[test]
    fn rot_flips_bits_of_durable_blocks() {
        let mut disk = disk();
        assert!(run(&mut disk, full_of(0)).is_ok());
        assert_eq!(disk.rot(1), 0);
        assert!(run(&mut disk, DiskJob::Sync).is_ok());
        assert_eq!(disk.rot(1), 1);
        assert_eq!(disk.contents().flat_map(|block| block.iter()).map(|byte| byte.count_ones()).sum::<u32>(), 1);
    }
}
