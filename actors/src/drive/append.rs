//! The log: places records in the open segment, syncs them in groups, and answers when they are durable.
//!
//! A record counts once it lies in the contiguous written prefix of its segment **and** a sync that began after that
//! has ended. A segment is opened only when the one before is wholly durable.

use mesh_core::{
    Answer, Buf, Cx, Error, ErrorKind, WorkOutcome,
    id::{ShardId, StripeId, Token, WriteId},
    port::DiskJob,
    time::Instant,
    wire::crc32c,
};

use super::{
    catalog::{Live, Use},
    contents::{self, Contents},
    format::{
        BLOCK, GRAVE_BYTES, INLINE_BYTES_MAX, Kind, RECORD_BYTES, Record, SegmentHeader, Shard, Tombstone, block,
        encode_tombstones, slot_at, span,
    },
    open::Open,
    recover::{empty, end_record},
    scan::Sighting,
    serve::{Serving, Work},
};

/// Slots that new shards may not take: deletes and compaction need them to make room. What takes the place of a damaged
/// record may take one of them: it leaves as much to be collected.
pub(super) const RESERVE_SLOTS: u32 = 3;
/// Of the reserve, what compaction leaves to tombstones.
const COPY_RESERVE_SLOTS: u32 = 1;
/// Writes to the log under way at once.
const WRITES_MAX: usize = 32;

/// A record to be placed.
#[derive(Debug)]
pub(super) enum Append {
    /// A new shard. Its number is given when it is placed.
    Write { request: Token, shard: Shard, payload: Buf, deadline: Instant },
    /// Tombstones of a delete.
    Delete { request: Token, tombstones: Vec<Tombstone> },
    /// A shard on its way out of a slot.
    Copy { shard: Shard, payload: Buf, source: (u32, u32) },
    /// Tombstones on their way out of a slot.
    CopyTombstones { ids: Vec<ShardId>, source: u32 },
}

/// What is owed when a record is durable.
#[derive(Debug)]
pub(super) enum Commit {
    /// The segment's header: nothing.
    Header,
    Write {
        request: Token,
        live: Live,
        id: ShardId,
    },
    Delete {
        request: Token,
        tombstones: Vec<Tombstone>,
    },
    Copy {
        id: ShardId,
        live: Live,
        source: (u32, u32),
    },
    CopyTombstones {
        tombstones: Vec<Tombstone>,
        source: u32,
    },
}

/// Whether a record may be placed now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Admission {
    Now,
    /// The open segment must be closed first.
    Close,
    /// A segment must be opened first.
    Open,
    /// Something under way will change the answer.
    Wait,
    /// There is no space, and none will come.
    Refuse,
}

impl Append {
    fn span(&self) -> u32 {
        match self {
            Self::Write { shard, .. } | Self::Copy { shard, .. } => span(shard.len),
            Self::Delete { .. } | Self::CopyTombstones { .. } => BLOCK,
        }
    }

    /// What the contents of its segment are to have room for: what makes room goes before them.
    const fn listed(&self) -> u32 {
        match self {
            Self::Write { .. } | Self::Copy { .. } => contents::SHARD_BYTES,
            Self::Delete { .. } | Self::CopyTombstones { .. } => 0,
        }
    }
}

impl Serving {
    /// Places what can be placed, tombstones and copies first.
    pub(super) fn pump(&mut self, cx: &mut Cx<'_>) {
        while self.writing < WRITES_MAX {
            let urgent = !self.urgent.is_empty();
            let Some(append) = self.urgent.front().or_else(|| self.writes.front()) else { return };
            match self.admit(append) {
                Admission::Wait => return,
                Admission::Open => self.open_segment(cx),
                Admission::Close => {
                    if let Some(open) = &mut self.open {
                        open.close();
                    }
                    self.seal_finished(cx);
                }
                admission => {
                    let queue = if urgent { &mut self.urgent } else { &mut self.writes };
                    let Some(append) = queue.pop_front() else { return };
                    if admission == Admission::Now {
                        self.place(append, cx);
                    } else {
                        let error = Error::new(ErrorKind::NoSpace, "the drive is at its reserve: delete something");
                        self.refuse(append, &error.with("drive", self.drive()), cx);
                    }
                }
            }
        }
    }

    fn admit(&self, append: &Append) -> Admission {
        if self.open.as_ref().is_some_and(|open| !open.is_taking()) {
            return Admission::Wait;
        }
        let free = self.housekeeping.free.len() as u32;
        let is_mend = match append {
            Append::Write { shard, .. } => self.catalog.live(shard.id).is_some_and(|live| live.corrupt),
            _ => false,
        };
        // What makes room at the last of the reserve goes before the contents, and so does what mends; and none are to come.
        let listed = match append {
            _ if self.contents.is_none() => 0,
            Append::Copy { .. } if free <= COPY_RESERVE_SLOTS => 0,
            Append::Write { .. } if is_mend => 0,
            append => append.listed(),
        };
        let fits = self.open.as_ref().is_some_and(|open| open.takes(append.span(), listed));
        let (allowed, pending) = match append {
            Append::Write { .. } => {
                let reserve = RESERVE_SLOTS - u32::from(is_mend);
                let needed = if fits { reserve } else { reserve + 1 };
                (free >= needed && !self.medium_full, self.is_collecting())
            }
            // These may wait only for what does not wait for them.
            Append::Copy { .. } | Append::CopyTombstones { .. } => {
                (fits || free > COPY_RESERVE_SLOTS, self.housekeeping.is_erasing())
            }
            Append::Delete { .. } => (fits || free > 0, self.housekeeping.is_erasing()),
        };
        match (allowed, fits, self.open.is_some()) {
            (false, _, _) if pending => Admission::Wait,
            (false, _, _) => Admission::Refuse,
            (true, true, _) => Admission::Now,
            (true, false, true) => Admission::Close,
            (true, false, false) => Admission::Open,
        }
    }

    fn open_segment(&mut self, cx: &mut Cx<'_>) {
        let slot = self.housekeeping.free.pop_first().expect("admission looked for a free slot");
        let (seq, salt) = (self.next_seq, u64::from_le_bytes(cx.random()));
        self.next_seq += 1;
        let place = self.catalog.slot_mut(slot);
        (place.usage, place.seq) = (Use::Open, seq);
        let header = SegmentHeader {
            identity: self.superblock.identity,
            epoch: self.superblock.epoch,
            seq,
            salt,
            segment_bytes: self.segment_bytes,
            before: self.sealed,
        };
        let bytes = block(&self.pool, |bytes| header.encode(bytes));
        let mut open = Open::new(slot, seq, salt, self.segment_bytes);
        let at = open.place(BLOCK, 0, Commit::Header);
        self.open = Some(open);
        self.contents = contents::are_kept(self.catalog.slot_count()).then(Contents::default);
        self.begin_append(slot, at, vec![bytes], cx);
    }

    fn begin_append(&mut self, slot: u32, at: u32, bufs: Vec<Buf>, cx: &mut Cx<'_>) {
        self.writing += 1;
        let job = DiskJob::Write { at: slot_at(slot, self.segment_bytes) + u64::from(at), bufs };
        self.begin(Work::Append { at }, job, cx);
    }

    /// Places one record, for which there is room.
    fn place(&mut self, append: Append, cx: &mut Cx<'_>) {
        let (shard, kind, payload, commit) = match append {
            Append::Write { request, shard, deadline, .. } if cx.now() > deadline => {
                self.reply(request, Err(Error::new(ErrorKind::Timeout, "the drive did not come to it in time")), cx);
                self.free(shard.id, cx);
                return;
            }
            Append::Write { request, shard, payload, .. } => {
                let shard = Shard { lsn: self.next_lsn, ..shard };
                self.next_lsn += 1;
                (shard, Kind::Shard, payload, Commit::Write { request, live: self.next_live(&shard), id: shard.id })
            }
            Append::Copy { shard, payload, source } => {
                let counts = |live: Live| live.is_at(source.0, source.1) && live.lsn == shard.lsn;
                if !self.catalog.live(shard.id).is_some_and(counts) {
                    self.housekeeping.copy_ended();
                    return;
                }
                (shard, Kind::Shard, payload, Commit::Copy { id: shard.id, live: self.next_live(&shard), source })
            }
            Append::Delete { request, tombstones } => {
                let payload = encode_tombstones(&tombstones);
                (graves(&payload), Kind::Tombstones, Buf::copy_of(&payload), Commit::Delete { request, tombstones })
            }
            Append::CopyTombstones { ids, source } => {
                let needed = ids.iter().filter_map(|&id| self.tombstone_to_save(id, source));
                let tombstones: Vec<Tombstone> = needed.collect();
                if tombstones.is_empty() {
                    self.housekeeping.copy_ended();
                    return;
                }
                let payload = encode_tombstones(&tombstones);
                let commit = Commit::CopyTombstones { tombstones, source };
                (graves(&payload), Kind::Tombstones, Buf::copy_of(&payload), commit)
            }
        };
        let open = self.open.as_mut().expect("admission looked for an open segment");
        let (slot, seq, salt, durable_upto) = (open.slot, open.seq, open.salt, open.durable());
        let listed = match &commit {
            Commit::Header => 0,
            Commit::Write { .. } | Commit::Copy { .. } => contents::SHARD_BYTES,
            Commit::Delete { tombstones, .. } | Commit::CopyTombstones { tombstones, .. } => {
                tombstones.len() as u32 * GRAVE_BYTES
            }
        };
        let at = open.place(span(shard.len), listed, commit);
        let record = Record { kind, seq, salt, offset: at, durable_upto, shard };
        let bufs = self.lay_out(&record, payload);
        self.begin_append(slot, at, bufs, cx);
    }

    /// How the index will name the record that is placed next.
    fn next_live(&self, shard: &Shard) -> Live {
        let open = self.open.as_ref().expect("admission looked for an open segment");
        let block = open.tail() / BLOCK;
        Live { slot: open.slot, block, lsn: shard.lsn, len: shard.len, crc: shard.crc, corrupt: false }
    }

    /// The buffers of a record. A payload that is aligned goes as it is, without a copy, but for its last, partial
    /// block.
    fn lay_out(&self, record: &Record, payload: Buf) -> Vec<Buf> {
        if record.shard.len <= INLINE_BYTES_MAX {
            return vec![block(&self.pool, |bytes| {
                record.encode(bytes);
                bytes[RECORD_BYTES as usize..][..payload.len()].copy_from_slice(&payload);
            })];
        }
        let mut bufs = vec![block(&self.pool, |bytes| record.encode(bytes))];
        let whole = if payload.is_aligned() { payload.len() - payload.len() % BLOCK as usize } else { 0 };
        if whole > 0 {
            bufs.push(payload.slice(..whole));
        }
        let rest = &payload[whole..];
        if !rest.is_empty() {
            let mut padded = self.pool.take(rest.len().next_multiple_of(BLOCK as usize), 0);
            let bytes = padded.make_mut();
            bytes[..rest.len()].copy_from_slice(rest);
            bytes[rest.len()..].fill(0);
            bufs.push(padded);
        }
        bufs
    }

    /// Gives up a record that was not placed, or that did not fit on the medium.
    fn refuse(&mut self, append: Append, error: &Error, cx: &mut Cx<'_>) {
        match append {
            Append::Write { request, shard, .. } => {
                self.reply(request, Err(error.clone()), cx);
                self.free(shard.id, cx);
            }
            Append::Delete { request, tombstones } => self.refuse_delete(request, &tombstones, error, cx),
            Append::Copy { .. } | Append::CopyTombstones { .. } => {
                self.housekeeping.copy_ended();
                self.stop_compaction();
            }
        }
    }

    fn refuse_delete(&mut self, request: Token, tombstones: &[Tombstone], error: &Error, cx: &mut Cx<'_>) {
        if let Some(deleting) = self.deletes.get_mut(&request) {
            deleting.refused = Some(error.clone());
        }
        self.delete_ended(request, tombstones, cx);
    }

    /// One record of a delete is durable, or was given up.
    fn delete_ended(&mut self, request: Token, tombstones: &[Tombstone], cx: &mut Cx<'_>) {
        let deleting = self.deletes.get_mut(&request).expect("a delete is known until its last record");
        deleting.left -= 1;
        if deleting.left == 0 {
            let refused = self.deletes.remove(&request).and_then(|deleting| deleting.refused);
            self.reply(request, refused.map_or_else(|| Ok(Answer::Done.into()), Err), cx);
        }
        for tombstone in tombstones {
            self.free(tombstone.id, cx);
        }
    }

    /// A write to the open segment has ended.
    pub(super) fn on_written(&mut self, at: u32, outcome: WorkOutcome, cx: &mut Cx<'_>) -> Result<(), Error> {
        self.writing -= 1;
        let open = self.open.as_mut().expect("a segment is open until its writes have ended");
        match outcome {
            Ok(_) => open.wrote(at),
            Err(error) if error.kind() == ErrorKind::NoSpace => {
                open.failed();
                self.medium_full = true;
                self.housekeeping.blocked = true;
            }
            Err(error) => return Err(error),
        }
        // What lies behind a gap cannot count, so it is given up with it.
        let lost = open.cut();
        let error = Error::new(ErrorKind::NoSpace, "the drive's medium is full: delete something");
        let error = error.with("drive", self.drive());
        for commit in lost {
            match commit {
                Commit::Header => {}
                Commit::Write { request, id, .. } => {
                    self.reply(request, Err(error.clone()), cx);
                    self.free(id, cx);
                }
                Commit::Delete { request, tombstones } => self.refuse_delete(request, &tombstones, &error, cx),
                Commit::Copy { .. } | Commit::CopyTombstones { .. } => {
                    self.housekeeping.copy_ended();
                    self.stop_compaction();
                }
            }
        }
        Ok(())
    }

    /// Begins a sync if none is under way and there is something to make durable.
    pub(super) fn begin_sync(&mut self, cx: &mut Cx<'_>) {
        let pending = self.open.as_ref().filter(|open| open.written() > open.durable());
        let census = self.census.is_written();
        if self.syncing || (pending.is_none() && self.housekeeping.erased.is_empty() && !census) {
            return;
        }
        let (seq, upto) = pending.map_or((0, 0), |open| (open.seq, open.written()));
        let erased = core::mem::take(&mut self.housekeeping.erased);
        if census {
            self.census.syncing();
        }
        self.syncing = true;
        self.begin(Work::Sync { seq, upto, erased, census }, DiskJob::Sync, cx);
    }

    /// A sync has ended well.
    pub(super) fn on_synced(&mut self, seq: u64, upto: u32, erased: Vec<u32>, cx: &mut Cx<'_>) {
        if let Some(open) = self.open.as_mut().filter(|open| open.seq == seq) {
            let slot = open.slot;
            for (_, commit) in open.settle(upto) {
                self.settle(slot, commit, cx);
            }
        }
        self.settle_erased(erased, cx);
        self.seal_finished(cx);
    }

    fn settle(&mut self, slot: u32, commit: Commit, cx: &mut Cx<'_>) {
        match commit {
            Commit::Header => {}
            Commit::Write { request, live, id } => {
                self.note_contents(|contents| contents.shards.push(seen(id, live)));
                self.catalog.store(id, live);
                self.counted.stored_shards.add(1);
                self.reply(request, Ok(Answer::Done.into()), cx);
                self.free(id, cx);
            }
            Commit::Delete { request, tombstones } => {
                self.note_contents(|contents| contents.tombstones.extend_from_slice(&tombstones));
                for tombstone in &tombstones {
                    self.catalog.bury(*tombstone, slot, None);
                }
                self.counted.deleted_shards.add(tombstones.len() as u64);
                self.housekeeping.stir();
                self.delete_ended(request, &tombstones, cx);
            }
            Commit::Copy { id, live, source } => {
                self.note_contents(|contents| contents.shards.push(seen(id, live)));
                self.catalog.store_copy(id, live, source);
                self.counted.copied_shards.add(1);
                self.housekeeping.copy_ended();
            }
            Commit::CopyTombstones { tombstones, source } => {
                self.note_contents(|contents| contents.tombstones.extend_from_slice(&tombstones));
                for tombstone in tombstones {
                    self.catalog.bury(tombstone, slot, Some(source));
                }
                self.housekeeping.copy_ended();
            }
        }
    }

    /// Seals the open segment once it takes nothing more and is wholly durable.
    pub(super) fn seal_finished(&mut self, cx: &mut Cx<'_>) {
        let Some(open) = self.open.take_if(|open| open.is_finished()) else { return };
        let (slot, end) = (open.slot, open.tail());
        if end == 0 {
            // Not even its header is there.
            self.housekeeping.return_unused(&mut self.catalog, slot);
            return;
        }
        self.catalog.seal(slot, end);
        self.sealed = (open.seq, end);
        if open.is_broken() {
            self.housekeeping.starved.insert(slot);
        } else {
            self.housekeeping.stir();
            // END says that all before it is durable, so it comes after that. The next segment need not wait for it.
            self.write_end(slot, (open.seq, open.salt), end, cx);
            if let Some(contents) = self.contents.take() {
                self.write_contents(slot, (open.seq, open.salt), end, &contents, cx);
            }
        }
    }

    /// Puts something on the list of what is in the open segment. One that there is no room for is given up.
    fn note_contents(&mut self, put: impl FnOnce(&mut Contents)) {
        let Some(contents) = &mut self.contents else { return };
        put(contents);
        let span = contents.span();
        let has_room = self.open.as_ref().is_some_and(|open| open.has_room_for(span));
        if !has_room || !contents::is_worth(span, self.segment_bytes) {
            self.contents = None;
        }
    }

    /// Writes the contents of a sealed segment, if there is room for them: everything in it is durable.
    pub(super) fn write_contents(
        &mut self,
        slot: u32,
        (seq, salt): (u64, u64),
        end: u32,
        contents: &Contents,
        cx: &mut Cx<'_>,
    ) {
        let span = contents.span();
        let fits = span <= self.segment_bytes - end - BLOCK && contents::is_worth(span, self.segment_bytes);
        if !fits || !contents::are_kept(self.catalog.slot_count()) {
            return;
        }
        let bytes = contents.encode(seq, salt, end);
        self.catalog.slot_mut(slot).is_listed = true;
        self.write_behind(slot, self.segment_bytes - span, &bytes, cx);
    }

    /// Writes END behind a segment all of whose records are durable.
    pub(super) fn write_end(&mut self, slot: u32, (seq, salt): (u64, u64), end: u32, cx: &mut Cx<'_>) {
        let mut bytes = [0; BLOCK as usize];
        end_record(seq, salt, end).encode(&mut bytes);
        self.write_behind(slot, end, &bytes, cx);
    }

    /// Writes whole blocks behind the records of a sealed segment.
    fn write_behind(&mut self, slot: u32, at: u32, bytes: &[u8], cx: &mut Cx<'_>) {
        let mut buf = self.pool.take(bytes.len(), 0);
        buf.make_mut().copy_from_slice(bytes);
        self.catalog.slot_mut(slot).users += 1;
        self.writing += 1;
        let job = DiskJob::Write { at: slot_at(slot, self.segment_bytes) + u64::from(at), bufs: vec![buf] };
        self.begin(Work::End { slot }, job, cx);
    }
}

fn seen(id: ShardId, live: Live) -> Sighting {
    let Live { block, lsn, len, crc, corrupt, .. } = live;
    Sighting { id, lsn, block, len, crc, corrupt }
}

/// What the header of a record of tombstones says.
fn graves(payload: &[u8]) -> Shard {
    let nobody = ShardId { stripe: StripeId { write: WriteId(0), stripe: 0, attempt: 0 }, shard: 0 };
    Shard { len: payload.len() as u32, crc: crc32c(payload), ..empty(nobody) }
}
