//! A drive that serves: takes requests, and owns what the log, the reads and the housekeeping share.

use core::time::Duration;
use std::collections::{BTreeMap, VecDeque};

use mesh_core::{
    Answer, Buf, Cx, Error, ErrorKind, Job, Op, Outcome, Pool, Request, Response, WorkOutcome,
    figures::Count,
    id::{DriveId, GroupId, LayoutId, ShardId, Token},
    limits::{MAILBOX_BYTES_MAX, MAILBOX_JOBS_MAX, PAYLOAD_BYTES_MAX, SHARD_BATCH_MAX},
    op::{Head, Reliance, ShardOp},
    port::{DiskJob, WorkOutput},
    time::Instant,
    wire::crc32c,
};

use super::{
    append::{Append, Commit, RESERVE_SLOTS},
    catalog::{Catalog, Live},
    census::Counting,
    collect::Housekeeping,
    contents::Contents,
    format::{BLOCK, GRAVES_MAX, Kind, Record, Shard, Superblock, Tombstone, data_offset, slot_at, span},
    open::Open,
    recover::Recovered,
    scrub::Scrub,
};

/// Reads under way at once, those of compaction apart.
const READS_MAX: usize = 32;
/// Groups whose seals are remembered one by one.
const SEALS_MAX: usize = 1024;
/// How long after the medium refused a write for want of space it is looked at again.
const ROOM_PAUSE: Duration = Duration::from_secs(3);

mesh_core::figures! {
    /// What it did.
    pub(crate) struct Counted as "mesh_drive" {
        /// Shards that were made durable, without copies.
        pub(super) stored_shards: Count,
        /// Shards that were read and given, whole.
        pub(super) given_shards: Count,
        /// Shards that were asked for and could not be given: damaged, or their place could not be read.
        pub(super) damaged_shard_reads: Count,
        /// Shards that were deleted.
        pub(super) deleted_shards: Count,
        /// Shards that were copied to make room.
        pub(super) copied_shards: Count,
        /// Bytes that were read back to look for damage.
        pub(super) scrubbed_bytes: Count,
    }
}

/// A drive that serves.
#[derive(Debug)]
pub(super) struct Serving {
    /// As it is on the medium, or is being written.
    pub(super) superblock: Superblock,
    pub(super) segment_bytes: u32,
    pub(super) pool: Pool,
    pub(super) catalog: Catalog,
    pub(super) next_seq: u64,
    pub(super) next_lsn: u64,
    /// Of which groups somebody relies on what is here, for the newest layout that was heard of, and the number from which on
    /// a list counts: deletions by earlier ones are refused. In memory, for a list of an earlier start is refused anyway.
    seals: BTreeMap<GroupId, (LayoutId, u64)>,
    /// That number for all other groups, once there are too many.
    seal_of_others: u64,
    /// When it began, by its node's clock, which does not go back: see [`Head::start`].
    start: u64,
    /// Damaged records and places found since the start.
    pub(super) corrupt: u64,
    pub(super) counted: Counted,

    // --- requests ---
    /// Every request without an answer, with the bytes of its payload.
    held: BTreeMap<Token, usize>,
    held_bytes: usize,
    /// Shards with a write or a delete under way, and the requests that wait for its end.
    busy: BTreeMap<ShardId, Vec<(Token, Request)>>,
    /// Records of tombstones that a delete still waits for.
    pub(super) deletes: BTreeMap<Token, Deleting>,
    reads: VecDeque<(Token, ShardId, Instant)>,
    reading: usize,

    // --- the log, see `append` ---
    pub(super) open: Option<Open<Commit>>,
    /// What is durable in the open segment; none: its contents are not to be written.
    pub(super) contents: Option<Contents>,
    /// Tombstones and copies: they go before writes, for they make room.
    pub(super) urgent: VecDeque<Append>,
    pub(super) writes: VecDeque<Append>,
    pub(super) writing: usize,
    pub(super) syncing: bool,
    /// The segment that was sealed last: its sequence number and where it ended. Zeros: none since the start.
    pub(super) sealed: (u64, u32),
    /// The medium refused a write for want of space; no new shards until a segment has been freed, or the medium has
    /// shown that it has room.
    pub(super) medium_full: bool,
    /// When it is asked again.
    room_at: Option<Instant>,
    pub(super) census: Counting,
    pub(super) scrub: Scrub,

    // --- space, see `collect` ---
    pub(super) housekeeping: Housekeeping,

    pub(super) works: BTreeMap<Token, Work>,
}

/// A delete under way.
#[derive(Debug)]
pub(super) struct Deleting {
    /// Records that are not durable yet.
    pub(super) left: u32,
    /// One of them could not be written.
    pub(super) refused: Option<Error>,
}

/// What a job was begun for.
#[derive(Debug)]
pub(super) enum Work {
    /// A record of the open segment, or its header: where it begins.
    Append { at: u32 },
    /// The END of a sealed segment.
    End { slot: u32 },
    /// Covers the open segment (by sequence number) up to an offset, slots whose erasing had been written, and perhaps
    /// the census.
    Sync { seq: u64, upto: u32, erased: Vec<u32>, census: bool },
    /// A read somebody waits for.
    Read { request: Token, id: ShardId, live: Live },
    /// A read of compaction.
    CopyRead { id: ShardId, live: Live },
    /// Free marks over a slot's first blocks, or zeros over its last.
    Erase { slot: u32 },
    /// A copy of the superblock, with a new census.
    Census,
    /// What is read back.
    Scrub,
    /// Giving a slot's space back to the medium.
    Discard { slot: u32 },
}

impl Serving {
    /// Begins to serve what a start found.
    pub(super) fn new(recovered: Recovered, scrub_every: Duration, pool: Pool, cx: &mut Cx<'_>) -> Self {
        let Recovered { superblock, catalog, next_seq, next_lsn, corrupt, blank, gone } = recovered;
        let housekeeping = Housekeeping::new(&catalog);
        let mut serving = Self {
            superblock,
            segment_bytes: superblock.segment_bytes,
            pool,
            catalog,
            next_seq,
            next_lsn,
            seals: BTreeMap::new(),
            seal_of_others: 0,
            start: cx.now().0,
            corrupt,
            counted: Counted::default(),
            held: BTreeMap::new(),
            held_bytes: 0,
            busy: BTreeMap::new(),
            deletes: BTreeMap::new(),
            reads: VecDeque::new(),
            reading: 0,
            open: None,
            contents: None,
            urgent: VecDeque::new(),
            writes: VecDeque::new(),
            writing: 0,
            syncing: false,
            sealed: (0, 0),
            medium_full: false,
            room_at: None,
            census: Counting::new(blank, gone),
            scrub: Scrub::new(scrub_every, superblock.scrubbed, cx.now()),
            housekeeping,
            works: BTreeMap::new(),
        };
        serving.turn(cx);
        serving
    }

    pub(super) fn drive(&self) -> DriveId {
        self.superblock.identity.drive
    }

    /// When it wants to be woken.
    pub(super) fn wake_at(&self) -> Option<Instant> {
        // Nothing is written over the superblock while it is read.
        let census = self.census.due().filter(|_| !self.scrub.reads_superblock());
        self.room_at.into_iter().chain(census).chain(self.scrub.due()).min()
    }

    /// The time it asked for has come.
    pub(super) fn on_wake(&mut self, cx: &mut Cx<'_>) {
        if self.room_at.is_some_and(|at| at <= cx.now()) {
            self.room_at = None;
            self.look_for_room(cx);
        }
        self.turn(cx);
    }

    /// Requests without an answer and jobs under way.
    pub(super) fn in_flight(&self) -> usize {
        self.held.len() + self.works.len()
    }

    /// Those that somebody waits for, or that must not be broken off: a scrub may be.
    pub(super) fn unanswered(&self) -> usize {
        self.in_flight() - self.works.values().filter(|work| matches!(work, Work::Scrub)).count()
    }

    /// Jobs under way.
    pub(super) fn works(&self) -> usize {
        self.works.len()
    }

    /// Takes a request.
    pub(super) fn on_request(&mut self, id: Token, request: Request, cx: &mut Cx<'_>) {
        let bytes = request.payload.len();
        if self.held.len() >= MAILBOX_JOBS_MAX || self.held_bytes + bytes > MAILBOX_BYTES_MAX {
            let error = Error::new(ErrorKind::Overloaded, "the drive has too much to do: back off");
            cx.reply(id, Err(error.with("drive", self.drive())));
            return;
        }
        self.held.insert(id, bytes);
        self.held_bytes += bytes;
        self.dispatch(id, request, cx);
        self.turn(cx);
    }

    /// Takes the end of a job.
    ///
    /// # Errors
    /// The drive has failed: nothing is known of what is on it until it is started anew.
    pub(super) fn on_done(&mut self, work: Token, outcome: WorkOutcome, cx: &mut Cx<'_>) -> Result<(), Error> {
        let Some(work) = self.works.remove(&work) else { return Ok(()) };
        match work {
            Work::Append { at } => self.on_written(at, outcome, cx)?,
            Work::End { slot } => {
                self.writing -= 1;
                self.release(slot);
                // Without END the segment is checked whole at the next start: nothing else is lost.
                if let Err(error) = outcome
                    && error.kind() != ErrorKind::NoSpace
                {
                    return Err(error);
                }
            }
            Work::Sync { seq, upto, erased, census } => {
                self.syncing = false;
                outcome?;
                if census {
                    self.census.synced();
                }
                self.on_synced(seq, upto, erased, cx);
            }
            Work::Census => self.on_census(outcome)?,
            Work::Scrub => self.on_scrub_read(outcome, cx)?,
            Work::Read { request, id, live } => {
                self.reading -= 1;
                self.release(live.slot);
                let outcome = self.answer_read(id, live, outcome);
                match &outcome {
                    Ok(_) => self.counted.given_shards.add(1),
                    Err(_) => self.counted.damaged_shard_reads.add(1),
                }
                self.reply(request, outcome, cx);
            }
            Work::CopyRead { id, live } => {
                self.release(live.slot);
                self.on_copy_read(id, live, outcome);
            }
            Work::Erase { slot } => self.on_erased(slot, outcome)?,
            Work::Discard { slot } => self.on_discarded(slot),
        }
        self.turn(cx);
        Ok(())
    }

    /// Answers everything with the failure of the drive.
    pub(super) fn fail(&mut self, error: &Error, cx: &mut Cx<'_>) {
        for (id, _) in core::mem::take(&mut self.held) {
            cx.reply(id, Err(error.clone()));
        }
    }

    /// Begins whatever can begin now.
    fn turn(&mut self, cx: &mut Cx<'_>) {
        self.scrub(cx);
        self.seal_finished(cx);
        self.collect(cx);
        self.pump(cx);
        // What is copied no more ends without a job whose end would bring us here again.
        while self.housekeeping.is_held_up() {
            self.collect(cx);
            self.pump(cx);
        }
        self.count(cx);
        self.begin_sync(cx);
        self.begin_reads(cx);
        if !self.medium_full && !self.housekeeping.blocked {
            self.room_at = None;
        } else if self.room_at.is_none() {
            self.room_at = Some(cx.now() + ROOM_PAUSE);
        }
    }

    pub(super) fn begin(&mut self, work: Work, job: DiskJob, cx: &mut Cx<'_>) {
        self.works.insert(cx.start(Job::Disk(job)), work);
    }

    pub(super) fn reply(&mut self, id: Token, outcome: Outcome, cx: &mut Cx<'_>) {
        let bytes = self.held.remove(&id).expect("a request is held until its one answer");
        self.held_bytes -= bytes;
        cx.reply(id, outcome);
    }

    /// A job on a slot has ended.
    fn release(&mut self, slot: u32) {
        self.catalog.slot_mut(slot).users -= 1;
        self.catalog.note_vacancy(slot);
    }

    /// Ends what made a shard busy, and takes up the requests that waited for it, in their order.
    pub(super) fn free(&mut self, id: ShardId, cx: &mut Cx<'_>) {
        for (token, request) in self.busy.remove(&id).unwrap_or_default() {
            self.dispatch(token, request, cx);
        }
    }

    fn dispatch(&mut self, id: Token, request: Request, cx: &mut Cx<'_>) {
        let Op::Shard(op) = &request.op else {
            self.reply(id, Err(Error::invalid("a drive takes operations on shards only")), cx);
            return;
        };
        match &**op {
            ShardOp::Write { .. } => self.write(id, request, cx),
            ShardOp::Delete { .. } => self.delete(id, request, cx),
            ShardOp::Read { id: shard } => match self.busy.get_mut(shard) {
                Some(waiting) => waiting.push((id, request)),
                None => self.reads.push_back((id, *shard, request.deadline)),
            },
            ShardOp::List { after, limit, relies } => {
                let outcome = self.list(*after, *limit, *relies);
                self.reply(id, outcome, cx);
            }
            ShardOp::Stat => {
                let answer = self.stat();
                self.reply(id, Ok(answer.into()), cx);
            }
            ShardOp::Damaged { group, after, limit } => {
                let answer = self.damaged(*group, *after, *limit);
                self.reply(id, Ok(answer.into()), cx);
            }
            ShardOp::Scrub { rate } => {
                self.scrub.ask(*rate);
                self.reply(id, Ok(Answer::Done.into()), cx);
            }
        }
    }

    // --- writes ---

    fn write(&mut self, request: Token, what: Request, cx: &mut Cx<'_>) {
        let Op::Shard(op) = &what.op else { return };
        let ShardOp::Write { id, tenant, code, sealed_len, crc } = **op else { return };
        if let Some(waiting) = self.busy.get_mut(&id) {
            waiting.push((request, what));
            return;
        }
        let len = what.payload.len();
        if len > PAYLOAD_BYTES_MAX || span(len as u32) > self.segment_bytes - 2 * BLOCK {
            let error = Error::new(ErrorKind::TooLarge, "the shard is larger than a segment holds");
            self.reply(request, Err(error.with("bytes", len)), cx);
            return;
        }
        if !code.is_valid() {
            self.reply(request, Err(Error::invalid("the code is over the limits")), cx);
            return;
        }
        if crc32c(&what.payload) != crc {
            let error = Error::new(ErrorKind::BadDigest, "the shard was damaged on its way: send it again");
            self.reply(request, Err(error.with("shard", format_args!("{id:?}"))), cx);
            return;
        }
        match self.catalog.live(id) {
            Some(live) if (live.len as usize, live.crc) != (len, crc) => {
                let error = Error::new(ErrorKind::Conflict, "the shard exists with other contents");
                self.reply(request, Err(error.with("shard", format_args!("{id:?}"))), cx);
            }
            // The index names only what is durable.
            Some(live) if !live.corrupt => self.reply(request, Ok(Answer::Done.into()), cx),
            _ => {
                self.busy.insert(id, Vec::new());
                let shard = Shard { id, tenant, code, sealed_len, len: len as u32, crc, lsn: 0 };
                let (payload, deadline) = (what.payload, what.deadline);
                self.writes.push_back(Append::Write { request, shard, payload, deadline });
            }
        }
    }

    // --- deletes ---

    fn delete(&mut self, request: Token, what: Request, cx: &mut Cx<'_>) {
        let Op::Shard(op) = &what.op else { return };
        let ShardOp::Delete { ids, until } = &**op else { return };
        if ids.len() > SHARD_BATCH_MAX {
            self.reply(request, Err(Error::new(ErrorKind::TooLarge, "too many shards in one delete")), cx);
            return;
        }
        if let Some(busy) = ids.iter().find(|id| self.busy.contains_key(id)).copied() {
            self.busy.entry(busy).or_default().push((request, what));
            return;
        }
        if let Some(text) = until.and_then(|until| self.outdates(until, ids)) {
            self.reply(request, Err(Error::new(ErrorKind::Conflict, text).with("drive", self.drive())), cx);
            return;
        }
        let lsn_max = until.map_or(u64::MAX, |until| until.lsn);
        let live = |id: &ShardId| {
            let live = self.catalog.live(*id).filter(|live| live.lsn <= lsn_max)?;
            Some(Tombstone { id: *id, lsn: live.lsn })
        };
        let mut tombstones: Vec<Tombstone> = ids.iter().filter_map(live).collect();
        tombstones.sort_unstable_by_key(|tombstone| tombstone.id);
        tombstones.dedup_by_key(|tombstone| tombstone.id);
        if tombstones.is_empty() {
            // What is not in the index was never stored, or its tombstone is durable.
            self.reply(request, Ok(Answer::Done.into()), cx);
            return;
        }
        for tombstone in &tombstones {
            self.busy.insert(tombstone.id, Vec::new());
        }
        let left = tombstones.len().div_ceil(GRAVES_MAX) as u32;
        self.deletes.insert(request, Deleting { left, refused: None });
        for tombstones in tombstones.chunks(GRAVES_MAX) {
            self.urgent.push_back(Append::Delete { request, tombstones: tombstones.to_vec() });
        }
    }

    /// Why nothing may be deleted any more by a list of then.
    fn outdates(&self, until: Head, ids: &[ShardId]) -> Option<&'static str> {
        let head = self.head();
        if (until.epoch, until.start) != (head.epoch, head.start) {
            return Some("the drive has started anew since it was listed: list it again before anything is deleted");
        }
        let seal = |id: &ShardId| {
            let seal = self.seals.get(&id.stripe.write.group());
            seal.map_or(self.seal_of_others, |(_, lsn)| *lsn)
        };
        let is_sealed = ids.iter().any(|id| until.lsn < seal(id));
        is_sealed
            .then_some("somebody relies on what the drive holds since it was listed: list it again, and judge anew")
    }

    // --- reads ---

    fn begin_reads(&mut self, cx: &mut Cx<'_>) {
        while self.reading < READS_MAX {
            let Some((request, id, deadline)) = self.reads.pop_front() else { return };
            if cx.now() > deadline {
                // Nobody waits for it any more: the medium is for those who do.
                self.reply(request, Err(Error::new(ErrorKind::Timeout, "the drive did not come to it in time")), cx);
                continue;
            }
            let Some(live) = self.catalog.live(id) else {
                let error = Error::new(ErrorKind::NotFound, "the drive does not hold this shard");
                self.reply(request, Err(error.with("shard", format_args!("{id:?}")).with("drive", self.drive())), cx);
                continue;
            };
            self.reading += 1;
            self.begin_read(Work::Read { request, id, live }, live, cx);
        }
    }

    /// Reads a whole record; its slot is not erased meanwhile.
    pub(super) fn begin_read(&mut self, work: Work, live: Live, cx: &mut Cx<'_>) {
        self.catalog.slot_mut(live.slot).users += 1;
        let at = slot_at(live.slot, self.segment_bytes) + u64::from(live.block) * u64::from(BLOCK);
        self.begin(work, DiskJob::Read { at, len: span(live.len) }, cx);
    }

    fn answer_read(&mut self, id: ShardId, live: Live, outcome: WorkOutcome) -> Outcome {
        let named = |error: Error, drive| error.with("shard", format_args!("{id:?}")).with("drive", drive);
        let bytes = match outcome {
            Ok(WorkOutput::Bytes(bytes)) => bytes,
            Ok(_) => return Err(Error::bug("a read gave no bytes")),
            // One place that cannot be read does not make the whole drive unusable.
            Err(error) => return Err(self.name_unread(id, live, error)),
        };
        match self.examine(id, live, &bytes) {
            Some((shard, payload)) => {
                let Shard { code, sealed_len, crc, tenant, .. } = shard;
                Ok(Response { answer: Answer::Shard { code, sealed_len, crc, tenant }, payload })
            }
            None => Err(named(
                Error::new(ErrorKind::Corrupt, "the shard fails its checksum: read others and write it again"),
                self.drive(),
            )),
        }
    }

    /// Checks a record that was read, and notes whether it is damaged.
    pub(super) fn examine(&mut self, id: ShardId, live: Live, bytes: &Buf) -> Option<(Shard, Buf)> {
        let good = Record::decode(bytes).and_then(|record| {
            let shard = record.shard;
            let same = record.kind == Kind::Shard
                && (shard.id, shard.lsn, shard.len, shard.crc) == (id, live.lsn, live.len, live.crc)
                && record.offset == live.block * BLOCK;
            let from = data_offset(shard.len) as usize;
            let payload = bytes.get(from..from + shard.len as usize)?;
            (same && crc32c(payload) == shard.crc).then(|| (shard, bytes.slice(from..from + shard.len as usize)))
        });
        let news = self.catalog.mark(id, live.slot, live.block, good.is_none());
        self.corrupt += u64::from(news && good.is_none());
        good
    }

    // --- lists and numbers ---

    fn list(&mut self, after: Option<ShardId>, limit: u32, relies: Option<Reliance>) -> Outcome {
        let limit = (limit as usize).min(SHARD_BATCH_MAX);
        if let Some(relies) = relies {
            self.seal(relies);
        }
        // A shard that is being written anew, or deleted, cannot be relied on yet.
        let counts = |id: &ShardId| relies.is_none() || !self.busy.contains_key(id);
        let len = |live: Live| if relies.is_some() && live.corrupt { 0 } else { live.len };
        let mut listed = self.catalog.list(after).filter(|(id, _)| counts(id));
        let page: Vec<(ShardId, u32)> = listed.by_ref().take(limit).map(|(id, live)| (id, len(live))).collect();
        let more = listed.next().is_some();
        Ok(Answer::Shards { page, more, head: self.head() }.into())
    }

    /// Shards of a group that are known to be damaged.
    fn damaged(&self, group: GroupId, after: Option<ShardId>, limit: u32) -> Answer {
        let limit = (limit as usize).min(SHARD_BATCH_MAX);
        let counts = |id: &ShardId| id.stripe.write.group() == group && !self.busy.contains_key(id);
        let mut damaged = self.catalog.damaged(after).filter(counts);
        let page: Vec<(ShardId, u32)> = damaged.by_ref().take(limit).map(|id| (id, 0)).collect();
        let more = damaged.next().is_some();
        Answer::Shards { page, more, head: self.head() }
    }

    /// From now on lists have a greater number than those before.
    fn seal(&mut self, Reliance { group, layout }: Reliance) {
        if self.seals.get(&group).is_some_and(|(known, _)| *known >= layout) {
            return;
        }
        let lsn = self.next_lsn;
        self.next_lsn += 1;
        if self.seals.len() >= SEALS_MAX && !self.seals.contains_key(&group) {
            self.seals.clear();
            self.seal_of_others = lsn;
        } else {
            self.seals.insert(group, (layout, lsn));
        }
    }

    /// How far the log has come: every shard that is placed from now on has a greater number.
    fn head(&self) -> Head {
        Head { epoch: self.superblock.epoch, start: self.start, lsn: self.next_lsn.saturating_sub(1) }
    }

    fn stat(&self) -> Answer {
        let full = self.medium_full || (self.spare_slots() <= RESERVE_SLOTS && !self.is_collecting());
        let usable = u64::from(self.segment_bytes - 2 * BLOCK);
        let slots = self.superblock.slots;
        let room = u64::from(slots.saturating_sub(RESERVE_SLOTS)) * usable;
        Answer::Drive {
            capacity_bytes: u64::from(slots) * u64::from(self.segment_bytes),
            free_bytes: if full { 0 } else { room.saturating_sub(self.catalog.live_bytes()) },
            shards: self.catalog.shards(),
            corrupt: self.corrupt,
            full,
            gone: self.census.gone(),
            damaged: self.catalog.damaged_count(),
            scrub: self.scrub.state(slots),
        }
    }

    /// Slots without a segment, erased or not.
    pub(super) fn spare_slots(&self) -> u32 {
        self.housekeeping.spare() as u32
    }
}
