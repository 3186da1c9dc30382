//! Scrub: reads back everything that is on the medium, one slot after another and round after round, so that damage is
//! found while there is enough elsewhere to heal it.
//!
//! It looks at a slot as a start would, and compares what it finds with what the catalog knows. A shard that is damaged is
//! marked, and named to whoever asks; a segment whose header, tombstones or records would not be found as they are is
//! emptied while there is room, for what it is to hold is known still; a damaged copy of the superblock, a free mark and an
//! END are written again. Bytes that no checksum covers (padding, and what was deleted) do not matter. A superblock of a newer
//! owner ends this one.
//!
//! ```text
//! superblock ─► slot 0 ─► slot 1 ─► … ─► last slot ─► superblock ─► …
//! ```
//!
//! One read at a time, each when its turn comes: a round takes as long as the settings say, whatever there is to be read. How
//! far it is stands in the superblock, so that a round goes on after a start.

use core::time::Duration;
use std::collections::BTreeSet;

use mesh_core::{
    Buf, Cx, Error, ErrorKind, WorkOutcome,
    id::ShardId,
    op::ScrubState,
    port::{DiskJob, WorkOutput},
    time::Instant,
};

use super::{
    catalog::{Live, Noted, Use},
    contents::Contents,
    format::{BLOCK, Copy, Scrubbed, Superblock, is_free, slot_at, span},
    medium::{COPIES, INSPECT_BYTES},
    reading::Reading,
    scan::{Check, Checked},
    serve::{Serving, Work},
};

/// How far the scrub is.
#[derive(Debug)]
pub(super) struct Scrub {
    /// How long a round takes; zero: none begins by itself.
    every: Duration,
    /// Bytes a second, of a round that somebody asked for.
    asked: Option<u64>,
    /// What it is at.
    pub(super) now: Scrubbed,
    look: Look,
    /// Where it is in what it looks at.
    at: u32,
    reading: bool,
    /// Once that is read, it begins anew.
    anew: bool,
    /// What it has read last: when, and how many bytes.
    read: (Instant, u32),
    /// Bytes a second.
    rate: u64,
    /// It does not read on before: what it wants to look at is being written.
    not_before: Instant,
    /// When the rate is made out anew, for there may be more to be read by then.
    pace_at: Instant,
    /// When how far it is was written last.
    said: Instant,
}

/// What it looks at.
#[derive(Debug)]
enum Look {
    /// The next slot.
    Next,
    /// As far as it is read.
    Superblock(Option<Reading>),
    /// The marks of a free slot.
    Marks(u32),
    Segment(Box<Segment>),
    /// A segment that could not be read as a whole: its records one by one.
    Records(Box<Segment>, usize),
}

#[derive(Debug)]
struct Segment {
    slot: u32,
    check: Check,
    seq: u64,
    end: u32,
    is_closed: bool,
    /// What it is to hold, of what was durable when the look began.
    records: usize,
    tombstones: usize,
}

impl Scrub {
    pub(super) fn new(every: Duration, now: Scrubbed, at: Instant) -> Self {
        let look = if now.slot == 0 { Look::Superblock(None) } else { Look::Next };
        Self {
            every,
            asked: None,
            now,
            look,
            at: 0,
            reading: false,
            anew: false,
            read: (at, 0),
            rate: 1,
            not_before: at,
            pace_at: at,
            said: at,
        }
    }

    fn is_on(&self) -> bool {
        !self.every.is_zero() || self.asked.is_some()
    }

    /// When it wants to go on.
    pub(super) fn due(&self) -> Option<Instant> {
        (self.is_on() && !self.reading).then(|| self.reads_on_at().min(self.pace_at.max(self.read.0)))
    }

    fn reads_on_at(&self) -> Instant {
        let (at, bytes) = self.read;
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(self.rate.max(1));
        self.not_before.max(at + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)))
    }

    /// Begins anew, at this rate or the usual one if that is greater, once what is being read has come.
    pub(super) fn ask(&mut self, rate: u64) {
        self.asked = Some(rate.max(1));
        self.rate = rate.max(1);
        self.now.slot = 0;
        self.read.1 = 0;
        if self.reading {
            self.anew = true;
        } else {
            self.look = Look::Superblock(None);
        }
    }

    pub(super) fn state(&self, slots: u32) -> ScrubState {
        ScrubState { at: self.now.slot, of: slots, ended: self.now.ended, asked: self.asked.is_some() }
    }

    /// Whether it is time to write down how far it is.
    pub(super) fn is_to_be_said(&self, written: Scrubbed, now: Instant) -> bool {
        written != self.now && (written.ended != self.now.ended || now >= self.said + SAY_EVERY)
    }

    pub(super) fn saying(&mut self, now: Instant) {
        self.said = now;
    }

    /// Whether it reads the copies of the superblock just now.
    pub(super) fn reads_superblock(&self) -> bool {
        self.reading && matches!(self.look, Look::Superblock(_))
    }
}

impl Serving {
    /// Reads on, if it is time.
    pub(super) fn scrub(&mut self, cx: &mut Cx<'_>) {
        if self.scrub.is_on() && self.scrub.pace_at <= cx.now() {
            self.pace(cx.now());
        }
        while self.scrub.is_on() && !self.scrub.reading && self.scrub.reads_on_at() <= cx.now() {
            match core::mem::replace(&mut self.scrub.look, Look::Next) {
                Look::Next if self.scrub.now.slot >= self.superblock.slots => self.end_round(cx),
                Look::Next => {
                    if !self.look_at_next() {
                        // Something is being written to it: a moment later.
                        self.scrub.not_before = cx.now() + BUSY_PAUSE;
                    }
                }
                Look::Superblock(reading) if !self.census.is_still() => {
                    self.scrub.look = Look::Superblock(reading);
                    self.scrub.not_before = cx.now() + BUSY_PAUSE;
                }
                Look::Superblock(reading) => {
                    let reading = reading.unwrap_or_else(|| Reading::new(0, INSPECT_BYTES));
                    let job = reading.job();
                    self.scrub.look = Look::Superblock(Some(reading));
                    self.scrub_read(job, cx);
                }
                Look::Marks(slot) => {
                    self.scrub.look = Look::Marks(slot);
                    self.scrub_read(DiskJob::Read { at: slot_at(slot, self.segment_bytes), len: 2 * BLOCK }, cx);
                }
                Look::Segment(segment) | Look::Records(segment, _) if !self.has_still(&segment) => {
                    self.next_slot(segment.slot);
                }
                Look::Segment(segment) => match segment.check.wants(self.scrub.at) {
                    Some(len) => {
                        let at = slot_at(segment.slot, self.segment_bytes) + u64::from(self.scrub.at);
                        self.scrub.look = Look::Segment(segment);
                        self.scrub_read(DiskJob::Read { at, len }, cx);
                    }
                    None => self.judge(*segment, cx),
                },
                Look::Records(segment, next) => self.look_at_record(segment, next, cx),
            }
        }
    }

    fn scrub_read(&mut self, job: DiskJob, cx: &mut Cx<'_>) {
        let len = if let DiskJob::Read { len, .. } = &job { *len } else { 0 };
        self.scrub.reading = true;
        self.scrub.read = (cx.now(), len);
        self.begin(Work::Scrub, job, cx);
    }

    /// How fast a round is: what there is to be read, in the time for it.
    fn pace(&mut self, now: Instant) {
        let each = |(_, slot): (u32, &super::catalog::Slot)| match slot.usage {
            Use::Sealed => u64::from(slot.end + BLOCK),
            Use::Open => u64::from(self.open.as_ref().map_or(0, |open| open.durable())),
            Use::Free => u64::from(2 * BLOCK),
            Use::Virgin if slot.is_marked => u64::from(2 * BLOCK),
            Use::Virgin | Use::Erasing => 0,
        };
        let bytes: u64 = self.catalog.slots().map(each).sum();
        let every = u64::try_from(self.scrub.every.as_millis()).unwrap_or(u64::MAX).max(1);
        let usual = (bytes + u64::from(INSPECT_BYTES)).saturating_mul(1000) / every;
        self.scrub.rate = self.scrub.asked.unwrap_or(0).max(usual).max(1);
        self.scrub.pace_at = now + (self.scrub.every / PACES).max(PACE_MIN);
    }

    /// Begins with the next slot in which something stands. Whether it could.
    fn look_at_next(&mut self) -> bool {
        let mut slot = self.scrub.now.slot;
        while slot < self.superblock.slots {
            let place = self.catalog.slot(slot);
            match place.usage {
                Use::Virgin if place.is_marked => {
                    self.scrub.look = Look::Marks(slot);
                    break;
                }
                Use::Virgin | Use::Erasing => slot += 1,
                Use::Free => {
                    self.scrub.look = Look::Marks(slot);
                    break;
                }
                Use::Sealed if self.is_ending(slot) => {
                    self.scrub.now.slot = slot;
                    return false;
                }
                Use::Sealed => {
                    self.look_at(slot, place.end, true);
                    break;
                }
                Use::Open => {
                    let durable = self.open.as_ref().filter(|open| open.slot == slot).map_or(0, |open| open.durable());
                    if durable == 0 {
                        slot += 1;
                        continue;
                    }
                    self.look_at(slot, durable, false);
                    break;
                }
            }
        }
        self.scrub.now.slot = slot;
        true
    }

    /// Whether the END of a segment is being written.
    fn is_ending(&self, slot: u32) -> bool {
        self.works.values().any(|work| matches!(work, Work::End { slot: of } if *of == slot))
    }

    fn look_at(&mut self, slot: u32, end: u32, is_closed: bool) {
        let place = self.catalog.slot(slot);
        let (seq, records, tombstones) = (place.seq, place.records.len(), place.tombstones.len());
        let check = Check::new(self.superblock.identity, seq, self.segment_bytes, end, is_closed);
        self.scrub.at = 0;
        let segment = Segment { slot, check, seq, end, is_closed, records, tombstones };
        self.scrub.look = Look::Segment(Box::new(segment));
    }

    /// Whether a slot still has the segment that it had when the look began: what is read of it is of interest.
    fn has_still(&self, segment: &Segment) -> bool {
        let place = self.catalog.slot(segment.slot);
        place.seq == segment.seq && matches!(place.usage, Use::Sealed | Use::Open)
    }

    /// Something was read.
    ///
    /// # Errors
    /// The medium is this owner's no more, or refuses to read at all.
    pub(super) fn on_scrub_read(&mut self, outcome: WorkOutcome, cx: &mut Cx<'_>) -> Result<(), Error> {
        self.scrub.reading = false;
        if core::mem::take(&mut self.scrub.anew) {
            self.scrub.look = Look::Superblock(None);
            return Ok(());
        }
        if let Look::Superblock(Some(reading)) = &mut self.scrub.look {
            let Some(bytes) = reading.take(outcome)? else { return Ok(()) };
            self.scrub.look = Look::Next;
            return self.judge_superblock(&bytes);
        }
        self.on_scrub_slot(outcome, cx);
        Ok(())
    }

    /// Something was read of a slot.
    fn on_scrub_slot(&mut self, outcome: WorkOutcome, cx: &mut Cx<'_>) {
        let bytes = match outcome {
            Ok(WorkOutput::Bytes(bytes)) => Some(bytes),
            _ => None,
        };
        self.counted.scrubbed_bytes.add(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64));
        match core::mem::replace(&mut self.scrub.look, Look::Next) {
            Look::Next | Look::Superblock(_) => {}
            Look::Marks(slot) => {
                let identity = &self.superblock.identity;
                let is_good = |bytes: Buf| bytes.chunks(BLOCK as usize).all(|block| is_free(identity, block));
                if !bytes.is_some_and(is_good) {
                    self.mark_again(slot, cx);
                }
                self.next_slot(slot);
            }
            // It was erased meanwhile.
            Look::Segment(segment) | Look::Records(segment, _) if !self.has_still(&segment) => {
                self.next_slot(segment.slot);
            }
            Look::Segment(mut segment) => match bytes {
                Some(bytes) => {
                    segment.check.take(&bytes);
                    self.scrub.at += bytes.len() as u32;
                    self.scrub.look = Look::Segment(segment);
                }
                None => {
                    self.condemn(segment.slot);
                    self.scrub.look = Look::Records(segment, 0);
                }
            },
            Look::Records(segment, next) => {
                let record =
                    next.checked_sub(1).and_then(|at| self.catalog.slot(segment.slot).records.get(at).copied());
                if let Some((id, live)) = record.and_then(|record| self.counting(record, segment.slot)) {
                    match bytes {
                        Some(bytes) => drop(self.examine(id, live, &bytes)),
                        None => self.unread(id, live),
                    }
                }
                self.scrub.look = Look::Records(segment, next);
            }
        }
    }

    /// A record of a slot, if it is the one that counts.
    fn counting(&self, record: Noted, slot: u32) -> Option<(ShardId, Live)> {
        let id = record.id();
        self.catalog.live(id).filter(|live| live.is_at(slot, record.block())).map(|live| (id, live))
    }

    fn next_slot(&mut self, slot: u32) {
        self.scrub.now.slot = slot + 1;
    }

    fn look_at_record(&mut self, segment: Box<Segment>, mut next: usize, cx: &mut Cx<'_>) {
        while next < segment.records {
            let record = self.catalog.slot(segment.slot).records.get(next).copied();
            next += 1;
            if let Some((_, live)) = record.and_then(|record| self.counting(record, segment.slot)) {
                let at = slot_at(live.slot, self.segment_bytes) + u64::from(live.block) * u64::from(BLOCK);
                self.scrub.look = Look::Records(segment, next);
                self.scrub_read(DiskJob::Read { at, len: span(live.len) }, cx);
                return;
            }
        }
        self.next_slot(segment.slot);
    }

    /// Compares what stands in a segment with what is to be there.
    fn judge(&mut self, segment: Segment, cx: &mut Cx<'_>) {
        let Segment { slot, check, seq, end, is_closed, records, tombstones } = segment;
        let Checked { shards, tombstones: found, mut is_flawed, lacks_end, salt } = check.finish();
        let is_listed = self.catalog.slot(slot).is_listed || !is_closed || self.housekeeping.starved.contains(&slot);
        let contents = Contents { shards: shards.values().copied().collect(), tombstones: found.clone() };
        let known: Vec<Noted> = self.catalog.slot(slot).records.iter().take(records).copied().collect();
        for record in known {
            let Some((id, live)) = self.counting(record, slot) else { continue };
            let is_there = |sighting: &super::scan::Sighting| {
                (sighting.id, sighting.lsn, sighting.len, sighting.crc) == (id, live.lsn, live.len, live.crc)
            };
            let sighting = shards.get(&record.block()).filter(|sighting| is_there(sighting));
            // A damaged payload is in nobody's way, but what is not found at all might as well be something else.
            is_flawed |= sighting.is_none();
            // Good it is only as it was when it was read: somebody may have found it bad since.
            if sighting.is_none_or(|sighting| sighting.corrupt) {
                self.unread(id, live);
            }
        }
        let ids: Vec<ShardId> = self.catalog.slot(slot).tombstones.iter().take(tombstones).copied().collect();
        let needed = ids.into_iter().filter_map(|id| self.catalog.tombstone_in(id, slot));
        let found: BTreeSet<(ShardId, u64)> = found.into_iter().map(|found| (found.id, found.lsn)).collect();
        is_flawed |= needed.into_iter().any(|needed| !found.contains(&(needed.id, needed.lsn)));
        if is_flawed {
            self.condemn(slot);
        } else if let Some(salt) = lacks_end.filter(|_| is_closed && !self.housekeeping.starved.contains(&slot)) {
            // Everything before it is durable, as it was when the segment was closed.
            self.write_end(slot, (seq, salt), end, cx);
        } else if let Some(salt) = salt.filter(|_| !is_listed) {
            // It was closed by a start, or by an older build, or what stood there rotted.
            self.write_contents(slot, (seq, salt), end, &contents, cx);
        }
        self.next_slot(slot);
    }

    /// A record is damaged, or cannot be read: the same contents may be written again.
    pub(super) fn unread(&mut self, id: ShardId, live: Live) {
        let is_news = self.catalog.mark(id, live.slot, live.block, true);
        self.corrupt += u64::from(is_news);
    }

    /// A slot's segment would not be found as it is.
    fn condemn(&mut self, slot: u32) {
        let is_news = self.housekeeping.condemn(slot);
        self.corrupt += u64::from(is_news);
        if let Some(open) = self.open.as_mut().filter(|open| open.slot == slot && open.is_taking()) {
            open.close();
        }
    }

    /// Erases a free slot once more, for one of its marks is damaged.
    fn mark_again(&mut self, slot: u32, cx: &mut Cx<'_>) {
        if self.housekeeping.take_spare(slot) {
            self.corrupt += 1;
            self.erase(slot, false, cx);
        }
    }

    fn judge_superblock(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let (identity, epoch) = (self.superblock.identity, self.superblock.epoch);
        let not_ours = || Error::new(ErrorKind::Fenced, "somebody else has taken the medium");
        for (at, place) in COPIES.into_iter().enumerate() {
            let block = bytes.get(place as usize..place as usize + BLOCK as usize).unwrap_or_default();
            match Superblock::decode(block) {
                Copy::Good(found) if found.identity == identity && found.epoch <= epoch => {}
                Copy::Good(found) => {
                    return Err(not_ours().with("drive", found.identity.drive).with("epoch", found.epoch));
                }
                Copy::Newer(version) => return Err(not_ours().with("version", version)),
                Copy::Absent | Copy::Damaged(_) => self.corrupt += u64::from(self.census.write_again(at)),
            }
        }
        Ok(())
    }

    fn end_round(&mut self, cx: &mut Cx<'_>) {
        self.scrub.asked = None;
        self.pace(cx.now());
        self.scrub.now = Scrubbed { slot: 0, ended: cx.wall() };
        self.scrub.look = Look::Superblock(None);
    }

    /// A record of a read that somebody waits for could not be read.
    pub(super) fn name_unread(&mut self, id: ShardId, live: Live, error: Error) -> Error {
        self.unread(id, live);
        error.with("shard", format_args!("{id:?}")).with("drive", self.drive())
    }
}

/// How often it is written down how far it is.
const SAY_EVERY: Duration = Duration::from_secs(60);
/// How often in a round its rate is made out anew, where that is not too often.
const PACES: u32 = 128;
const PACE_MIN: Duration = Duration::from_millis(100);
/// How long it waits for what is being written.
const BUSY_PAUSE: Duration = Duration::from_millis(50);
