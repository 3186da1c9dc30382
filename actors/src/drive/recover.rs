//! The start of a drive: proves that the medium is its own, fences older owners, and rebuilds the index by a scan.
//!
//! Writes nothing before the superblock has shown that this owner may. Then, in order: the superblock with this
//! owner's epoch, one copy after the other, each synced; the scan; a sync, so that whatever was read is durable before
//! anything is said about it; an END record behind the last good record of every segment that has none, so that what
//! was cut off stays cut off without being looked at again.
//!
//! Places that cannot be read are damage like any other, as long as there are few of them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use mesh_core::{
    Cx, Error, ErrorKind, Job, Pool, WorkOutcome,
    id::{ShardId, StripeId, TenantId, Token, WriteId},
    port::{DiskJob, Geometry},
    spec::DriveSpec,
    topology::Code,
};

use super::{
    catalog::Catalog,
    format::{Census, Kind, Record, SLOTS_START, Shard, Superblock, block, slot_at},
    medium::{self, COPIES, INSPECT_BYTES, Medium, examine},
    reading::Reading,
    scan::{Found, Scan, Segment, Step},
};

/// Slots scanned at once.
const SCANS_MAX: usize = 8;
/// Blocks that may be unreadable. With more of them the medium is no good, or is gone: what is missing in what it gave must not
/// be taken for what it has.
const LOST_MAX: u32 = 256;
/// Slots without which a drive cannot work: the reserve, an open segment and one to be emptied.
pub(super) const SLOTS_MIN: u32 = super::append::RESERVE_SLOTS + 2;

/// A start under way.
#[derive(Debug)]
pub(super) struct Recovery {
    spec: DriveSpec,
    geometry: Geometry,
    pool: Pool,
    works: BTreeMap<Token, Work>,
    stage: Stage,
    /// Blocks that could not be read.
    lost: u32,
}

#[derive(Debug)]
enum Stage {
    /// Reading the superblock.
    Look,
    /// Writing the superblock: copies still to be written.
    Fence { superblock: Superblock, left: VecDeque<usize> },
    /// Scanning.
    Scan(Box<Scanning>),
    /// Syncing what was read.
    Settle(Box<Scanning>),
    /// Writing END records.
    Close(Box<Scanning>),
}

#[derive(Debug)]
struct Scanning {
    superblock: Superblock,
    catalog: Catalog,
    next_slot: u32,
    /// Segments that need an END record: slot, sequence number, salt, offset.
    unclosed: VecDeque<(u32, u64, u64, u32)>,
    seq_max: u64,
    lsn_max: u64,
    corrupt: u64,
    /// Slots that are zeros.
    blank: BTreeSet<u32>,
    /// Slots among them that had been written.
    gone: u32,
    /// Where segments ended, by sequence number: as found, and as the next one said.
    ends: BTreeMap<u64, u32>,
    said: BTreeMap<u64, u32>,
}

#[derive(Debug)]
enum Work {
    Superblock(Reading),
    Fence,
    FenceSync,
    Scan { slot: u32, scan: Box<Scan>, reading: Reading },
    End,
    Sync,
}

/// What a start gives.
#[derive(Debug)]
pub(super) struct Recovered {
    pub(super) superblock: Superblock,
    pub(super) catalog: Catalog,
    /// Sequence number of the next segment.
    pub(super) next_seq: u64,
    /// Number of the next write.
    pub(super) next_lsn: u64,
    /// Damaged places found.
    pub(super) corrupt: u64,
    /// Slots that are zeros.
    pub(super) blank: BTreeSet<u32>,
    /// Segments found gone, in this start and before.
    pub(super) gone: u32,
}

impl Recovery {
    /// Begins.
    pub(super) fn start(spec: DriveSpec, geometry: Geometry, pool: Pool, cx: &mut Cx<'_>) -> Self {
        let mut recovery = Self { spec, geometry, pool, works: BTreeMap::new(), stage: Stage::Look, lost: 0 };
        let reading = Reading::new(0, INSPECT_BYTES);
        recovery.begin(reading.job(), Work::Superblock(reading), cx);
        recovery
    }

    fn begin(&mut self, job: DiskJob, work: Work, cx: &mut Cx<'_>) {
        self.works.insert(cx.start(Job::Disk(job)), work);
    }

    /// Jobs under way.
    pub(super) fn works(&self) -> usize {
        self.works.len()
    }

    /// Takes the end of a job. Gives the drive's contents when everything is read and durable.
    ///
    /// # Errors
    /// Why this medium cannot be served; nothing more is begun then.
    pub(super) fn on_done(
        &mut self,
        work: Token,
        outcome: WorkOutcome,
        cx: &mut Cx<'_>,
    ) -> Result<Option<Recovered>, Error> {
        let Some(work) = self.works.remove(&work) else { return Ok(None) };
        match work {
            Work::Superblock(mut reading) => {
                let Some(bytes) = reading.take(outcome)? else {
                    self.begin(reading.job(), Work::Superblock(reading), cx);
                    return Ok(None);
                };
                let found = self.admit(&bytes).map_err(|error| match reading.lost() {
                    Some((blocks, cause)) => error.with("unreadable_blocks", blocks).with("cause", cause),
                    None => error,
                })?;
                self.fence(found, cx);
                Ok(None)
            }
            Work::Fence => {
                outcome?;
                self.begin(DiskJob::Sync, Work::FenceSync, cx);
                Ok(None)
            }
            Work::FenceSync => {
                outcome?;
                self.fence_next(cx);
                Ok(self.turn(cx))
            }
            Work::Scan { slot, mut scan, mut reading } => {
                let Some(bytes) = reading.take(outcome)? else {
                    self.begin(reading.job(), Work::Scan { slot, scan, reading }, cx);
                    return Ok(None);
                };
                self.lose(&reading)?;
                let step = scan.read(&bytes);
                self.step(slot, scan, step, cx);
                Ok(self.turn(cx))
            }
            Work::End => {
                // Without room for an END record the segment is checked whole at the next start too.
                if let Err(error) = outcome
                    && error.kind() != ErrorKind::NoSpace
                {
                    return Err(error);
                }
                Ok(self.turn(cx))
            }
            Work::Sync => {
                outcome?;
                let Stage::Settle(scanning) = core::mem::replace(&mut self.stage, Stage::Look) else { return Ok(None) };
                self.stage = Stage::Close(scanning);
                Ok(self.turn(cx))
            }
        }
    }

    /// Counts what could not be read.
    ///
    /// # Errors
    /// It is too much.
    fn lose(&mut self, reading: &Reading) -> Result<(), Error> {
        let Some((blocks, cause)) = reading.lost() else { return Ok(()) };
        self.lost += blocks;
        if self.lost <= LOST_MAX {
            return Ok(());
        }
        let error = Error::new(ErrorKind::DriveFailed, "too much of the medium cannot be read: replace it");
        Err(error.with("drive", self.spec.drive).with("unreadable_blocks", self.lost).with("cause", cause))
    }

    /// Whether the medium may be served by this owner.
    fn admit(&self, area: &[u8]) -> Result<medium::Found, Error> {
        let refuse = |message: &'static str| Error::new(ErrorKind::DriveFailed, message).with("drive", self.spec.drive);
        let found = examine(area, self.spec.cluster).map_err(|medium| match medium {
            Medium::Blank => refuse("the medium is blank: format it before it is served"),
            Medium::Foreign { cluster } => {
                refuse("the medium belongs to another cluster; it was not touched").with("cluster", cluster)
            }
            Medium::Newer { version } => {
                refuse("the medium has a newer format: use a newer build; it was not touched").with("version", version)
            }
            Medium::Damaged { why } => {
                refuse("the medium's superblock is damaged; it was not touched").with("why", why)
            }
            Medium::Ours { .. } => Error::bug("a readable superblock is not an obstacle"),
        })?;
        let Superblock { identity, epoch, segment_bytes, slots, .. } = found.superblock;
        if identity.drive != self.spec.drive {
            return Err(refuse("the medium is another drive; it was not touched").with("found", identity.drive));
        }
        if epoch > self.spec.epoch {
            return Err(Error::new(ErrorKind::Fenced, "a newer owner has the drive; it was not touched")
                .with("drive", self.spec.drive)
                .with("epoch", self.spec.epoch)
                .with("newer", epoch));
        }
        let fit = |bytes: u64| (bytes.saturating_sub(SLOTS_START) / u64::from(segment_bytes)).min(u64::from(u32::MAX));
        let there = fit(self.geometry.capacity_bytes) as u32;
        if there < slots {
            return Err(refuse("the medium is smaller than it was").with("segments", slots).with("found", there));
        }
        if there.min(self.allowed(there, fit)).max(slots) < SLOTS_MIN {
            return Err(refuse("the medium is too small for its segments").with("segments", there));
        }
        Ok(found)
    }

    /// Slots that the settings allow.
    fn allowed(&self, there: u32, fit: impl Fn(u64) -> u64) -> u32 {
        match self.spec.capacity_bytes {
            0 => there,
            bytes => there.min(fit(bytes) as u32),
        }
    }

    /// Makes this owner's epoch durable, if it is not.
    fn fence(&mut self, found: medium::Found, cx: &mut Cx<'_>) {
        let old = found.superblock;
        let fit =
            |bytes: u64| (bytes.saturating_sub(SLOTS_START) / u64::from(old.segment_bytes)).min(u64::from(u32::MAX));
        let slots = self.allowed(fit(self.geometry.capacity_bytes) as u32, fit).max(old.slots);
        let superblock = Superblock { epoch: self.spec.epoch, slots, ..old };
        // The copy that was read is overwritten last: one good copy stands at every moment.
        let stale = [1 - found.copy, found.copy];
        let left = if found.whole && superblock == old { VecDeque::new() } else { VecDeque::from(stale) };
        self.stage = Stage::Fence { superblock, left };
        self.fence_next(cx);
        self.scan_more(cx);
    }

    /// Writes the next copy of the superblock, or goes on to the scan.
    fn fence_next(&mut self, cx: &mut Cx<'_>) {
        let Stage::Fence { superblock, left } = &mut self.stage else { return };
        let superblock = *superblock;
        if let Some(copy) = left.pop_front() {
            let bytes = block(&self.pool, |bytes| superblock.encode(bytes));
            self.begin(DiskJob::Write { at: COPIES[copy], bufs: vec![bytes] }, Work::Fence, cx);
            return;
        }
        self.stage = Stage::Scan(Box::new(Scanning {
            superblock,
            catalog: Catalog::new(superblock.slots),
            next_slot: 0,
            unclosed: VecDeque::new(),
            seq_max: 0,
            lsn_max: 0,
            corrupt: 0,
            blank: BTreeSet::new(),
            gone: 0,
            ends: BTreeMap::new(),
            said: BTreeMap::new(),
        }));
    }

    /// Begins what can begin.
    fn turn(&mut self, cx: &mut Cx<'_>) -> Option<Recovered> {
        self.scan_more(cx);
        self.close_more(cx);
        if !self.works.is_empty() {
            return None;
        }
        match core::mem::replace(&mut self.stage, Stage::Look) {
            Stage::Scan(scanning) => {
                self.stage = Stage::Settle(scanning);
                self.begin(DiskJob::Sync, Work::Sync, cx);
                None
            }
            Stage::Close(scanning) => Some(scanning.finish()),
            other => {
                self.stage = other;
                None
            }
        }
    }

    fn scan_more(&mut self, cx: &mut Cx<'_>) {
        while self.works.len() < SCANS_MAX {
            let Stage::Scan(scanning) = &mut self.stage else { return };
            if scanning.next_slot == scanning.superblock.slots {
                return;
            }
            let slot = scanning.next_slot;
            scanning.next_slot += 1;
            let Superblock { identity, segment_bytes, census, slots, .. } = scanning.superblock;
            let (scan, step) = Scan::start(identity, segment_bytes, census, (slot, slots));
            self.step(slot, Box::new(scan), step, cx);
        }
    }

    fn step(&mut self, slot: u32, scan: Box<Scan>, step: Step, cx: &mut Cx<'_>) {
        let Stage::Scan(scanning) = &mut self.stage else { return };
        match step {
            Step::Read { at, len } => {
                let at = slot_at(slot, scanning.superblock.segment_bytes) + u64::from(at);
                let reading = Reading::new(at, len);
                self.begin(reading.job(), Work::Scan { slot, scan, reading }, cx);
            }
            Step::Ended(Found::Nothing) => {}
            Step::Ended(Found::Marked) => scanning.catalog.slot_mut(slot).is_marked = true,
            Step::Ended(Found::Segment(segment)) => scanning.find(slot, *segment),
            Step::Ended(found @ (Found::Blank | Found::Gone)) => {
                scanning.gone += u32::from(found == Found::Gone);
                scanning.blank.insert(slot);
            }
        }
    }

    fn close_more(&mut self, cx: &mut Cx<'_>) {
        while self.works.len() < SCANS_MAX {
            let Stage::Close(scanning) = &mut self.stage else { return };
            let Some((slot, seq, salt, end)) = scanning.unclosed.pop_front() else { return };
            let at = slot_at(slot, scanning.superblock.segment_bytes) + u64::from(end);
            let record = end_record(seq, salt, end);
            let bytes = block(&self.pool, |bytes| record.encode(bytes));
            self.begin(DiskJob::Write { at, bufs: vec![bytes] }, Work::End, cx);
        }
    }
}

impl Scanning {
    fn find(&mut self, slot: u32, segment: Segment) {
        if !segment.closed {
            self.unclosed.push_back((slot, segment.seq, segment.salt, segment.end));
        }
        self.seq_max = self.seq_max.max(segment.seq);
        self.ends.insert(segment.seq, segment.end);
        if segment.before != (0, 0) {
            self.said.insert(segment.before.0, segment.before.1);
        }
        let shards = segment.shards.iter().map(|sighting| sighting.lsn);
        let tombstones = segment.tombstones.iter().map(|tombstone| tombstone.lsn);
        self.lsn_max = shards.chain(tombstones).fold(self.lsn_max, u64::max);
        self.corrupt += segment.corrupt;
        self.catalog.find(slot, segment);
    }

    fn finish(self) -> Recovered {
        let Self { superblock, mut catalog, seq_max, lsn_max, corrupt, blank, gone, ends, said, .. } = self;
        catalog.settle();
        // A segment that ends before the offset up to which it is known to have been durable was shortened.
        let Census { seq, durable, .. } = superblock.census;
        let vouched = said.into_iter().chain((seq != 0).then_some((seq, durable)));
        let short: BTreeSet<u64> =
            vouched.filter(|(seq, end)| ends.get(seq).is_some_and(|found| found < end)).map(|(seq, _)| seq).collect();
        // What is damaged and does not count any more is in nobody's way.
        let damaged = catalog.damaged_count();
        Recovered {
            superblock,
            catalog,
            next_seq: seq_max.max(seq) + 1,
            next_lsn: lsn_max + 1,
            corrupt: corrupt + damaged + short.len() as u64,
            blank,
            gone: superblock.census.gone.saturating_add(gone),
        }
    }
}

/// The record that closes a segment whose records end at `end` and are durable.
pub(super) fn end_record(seq: u64, salt: u64, end: u32) -> Record {
    let nobody = ShardId { stripe: StripeId { write: WriteId(0), stripe: 0, attempt: 0 }, shard: 0 };
    Record { kind: Kind::End, seq, salt, offset: end, durable_upto: end, shard: empty(nobody) }
}

/// What a record that holds no shard says of one.
pub(super) fn empty(id: ShardId) -> Shard {
    Shard { id, tenant: TenantId(0), code: Code { data: 0, parity: 0 }, sealed_len: 0, len: 0, crc: 0, lsn: 0 }
}
