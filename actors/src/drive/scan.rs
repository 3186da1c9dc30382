//! Reads one slot back at a start. Owns the rules of what counts after a crash; never does I/O itself.
//!
//! Of a segment that has its contents at its end only these are read. One closed by an END record is trusted by its headers,
//! so only they are read. Any other is read whole, its
//! payloads checked: what a power cut left at its end is cut off, what rotted inside it is kept and reported. The two
//! are told apart by what later records and the superblock's census say was durable: damage below that offset cannot be
//! a torn write. A slot that was written once and is zeros now was emptied by somebody else.

use std::collections::BTreeMap;

use crc_fast::{CrcAlgorithm, Digest};
use mesh_core::id::ShardId;

use super::{
    contents::{self, Contents, Foot},
    format::{
        BLOCK, Census, Identity, Kind, Record, SegmentHeader, Shard, Tombstone, data_offset, decode_tombstones,
        is_free, span,
    },
};

/// Bytes of one read that hops from header to header.
const WINDOW_BYTES: u32 = 32 << 10;
/// Bytes of one read that takes everything.
const CHUNK_BYTES: u32 = 1 << 20;

/// A shard's record in a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sighting {
    pub(super) id: ShardId,
    pub(super) lsn: u64,
    /// Where it is in the segment, in blocks.
    pub(super) block: u32,
    pub(super) len: u32,
    pub(super) crc: u32,
    /// Its payload failed its checksum.
    pub(super) corrupt: bool,
}

/// What a slot holds.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) seq: u64,
    pub(super) salt: u64,
    /// Where its records end.
    pub(super) end: u32,
    /// An END record stands there.
    pub(super) closed: bool,
    /// It was known by its contents.
    pub(super) is_listed: bool,
    pub(super) shards: Vec<Sighting>,
    pub(super) tombstones: Vec<Tombstone>,
    /// Damaged places that are not torn writes, but for payloads of shards.
    pub(super) corrupt: u64,
    /// The segment opened before this one, and where that ended; zeros: not known.
    pub(super) before: (u64, u32),
}

/// What to do next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Read this part of the slot and hand it to [`Scan::read`].
    Read { at: u32, len: u32 },
    /// The slot is known.
    Ended(Found),
}

/// What a slot turned out to hold.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    Segment(Box<Segment>),
    /// It was erased, or has been opened only just now: a free mark says so.
    Marked,
    /// It is of another drive, or of this one before it was formatted.
    Nothing,
    /// Zeros: it was never written.
    Blank,
    /// Zeros, though it was written once.
    Gone,
}

/// The scan of one slot.
#[derive(Debug)]
pub(super) struct Scan {
    identity: Identity,
    segment_bytes: u32,
    census: Census,
    /// The census says that the slot has been written.
    reached: bool,
    /// The contents of the segment are believed.
    by_contents: bool,
    /// Offset of the read under way.
    window: u32,
    mode: Mode,
}

#[derive(Debug)]
enum Mode {
    Header,
    /// Looking for the contents of a segment with a good header. The beginning of the slot was read for that.
    Foot {
        segment: Box<Segment>,
        head: Box<[u8]>,
    },
    /// Reading them, from the end of the slot on: what is missing of them stands before that.
    Contents {
        segment: Box<Segment>,
        head: Box<[u8]>,
        foot: Foot,
        bytes: Vec<u8>,
        missing: usize,
    },
    Hop {
        at: u32,
        segment: Box<Segment>,
    },
    Whole(Box<Whole>),
}

impl Scan {
    /// Of slot `slot` of `slots`.
    pub(super) fn start(
        identity: Identity,
        segment_bytes: u32,
        census: Census,
        (slot, slots): (u32, u32),
    ) -> (Self, Step) {
        let reached = slot < census.reached;
        let by_contents = contents::are_kept(slots);
        let mut scan = Self { identity, segment_bytes, census, reached, by_contents, window: 0, mode: Mode::Header };
        let step = scan.window_at(0, WINDOW_BYTES);
        (scan, step)
    }

    fn window_at(&mut self, at: u32, len: u32) -> Step {
        self.window = at;
        Step::Read { at, len: len.min(self.segment_bytes - at) }
    }

    fn whole(&mut self, known: Option<(u64, u64)>) -> Step {
        let before = match &self.mode {
            Mode::Hop { segment, .. } => segment.before,
            _ => (0, 0),
        };
        self.mode = Mode::Whole(Box::new(Whole { before, ..Whole::new(known, self.segment_bytes) }));
        self.window_at(BLOCK, CHUNK_BYTES)
    }

    /// Takes the bytes that the last step asked for.
    pub(super) fn read(&mut self, bytes: &[u8]) -> Step {
        match &mut self.mode {
            Mode::Header => self.header(bytes),
            Mode::Foot { .. } => self.foot(bytes),
            Mode::Contents { .. } => self.contents(bytes),
            Mode::Hop { .. } => self.hop(bytes),
            Mode::Whole(whole) => {
                if whole.take(bytes) {
                    let Mode::Whole(whole) = core::mem::replace(&mut self.mode, Mode::Header) else {
                        unreachable!("the mode was matched above")
                    };
                    let segment = whole.finish(&self.census).map(Box::new);
                    return Step::Ended(segment.map_or(Found::Nothing, Found::Segment));
                }
                let next = whole.at;
                self.window_at(next, CHUNK_BYTES)
            }
        }
    }

    /// Looks at the first two blocks.
    fn header(&mut self, bytes: &[u8]) -> Step {
        let (first, rest) = bytes.split_at(BLOCK as usize);
        let second = &rest[..BLOCK as usize];
        let header = SegmentHeader::decode(first);
        if let Some(header) = header {
            if header.identity != self.identity || header.segment_bytes != self.segment_bytes {
                // Of another drive, or of this one before it was formatted.
                return Step::Ended(Found::Nothing);
            }
            if is_free(&self.identity, second) {
                // It had just been opened, or was being erased: nothing in it counts.
                return Step::Ended(Found::Marked);
            }
            let (seq, salt, before) = (header.seq, header.salt, header.before);
            let segment = Segment { seq, salt, before, ..Segment::default() };
            if !self.by_contents {
                return self.begin_hops(Box::new(segment), bytes);
            }
            self.mode = Mode::Foot { segment: Box::new(segment), head: bytes.into() };
            let at = self.segment_bytes.saturating_sub(WINDOW_BYTES);
            return self.window_at(at, WINDOW_BYTES);
        }
        let is_zero = |block: &[u8]| *block == [0; BLOCK as usize];
        if is_free(&self.identity, first) || is_free(&self.identity, second) {
            // One of the two marks may have rotted.
            return Step::Ended(Found::Marked);
        }
        match (is_zero(first), self.reached) {
            (true, false) => Step::Ended(Found::Blank),
            (true, true) if is_zero(second) => Step::Ended(Found::Gone),
            // The header rotted, or this never was a segment: its records can tell.
            _ => self.whole(None),
        }
    }

    /// Looks for contents in the last bytes of the slot.
    fn foot(&mut self, bytes: &[u8]) -> Step {
        let Mode::Foot { segment, head } = &mut self.mode else { unreachable!("called only while looking for them") };
        let is_its = |foot: &Foot| (foot.seq, foot.salt) == (segment.seq, segment.salt);
        let foot = Foot::decode(bytes, self.segment_bytes).filter(is_its);
        let (segment, head) = (core::mem::take(segment), core::mem::take(head));
        let Some((foot, span)) = foot.and_then(|foot| Some((foot, foot.span()? as usize))) else {
            return self.begin_hops(segment, &head);
        };
        self.mode = Mode::Contents { segment, head, foot, bytes: vec![0; span], missing: span };
        self.contents(bytes)
    }

    /// Takes the next part of the contents, the last one first.
    fn contents(&mut self, more: &[u8]) -> Step {
        let Mode::Contents { segment, head, foot, bytes, missing } = &mut self.mode else {
            unreachable!("called only while reading them")
        };
        let taken = more.len().min(*missing);
        let from = *missing - taken;
        bytes[from..*missing].copy_from_slice(&more[more.len() - taken..]);
        *missing = from;
        if from > 0 {
            let len = CHUNK_BYTES.min(from as u32);
            let at = self.segment_bytes - (bytes.len() - from) as u32 - len;
            return self.window_at(at, len);
        }
        let (mut segment, head) = (core::mem::take(segment), core::mem::take(head));
        let Some(Contents { shards, tombstones }) = foot.contents(bytes) else {
            return self.begin_hops(segment, &head);
        };
        (segment.end, segment.closed, segment.is_listed) = (foot.end, true, true);
        (segment.shards, segment.tombstones) = (shards, tombstones);
        Step::Ended(Found::Segment(segment))
    }

    /// There are no contents that can be believed.
    fn begin_hops(&mut self, segment: Box<Segment>, head: &[u8]) -> Step {
        self.mode = Mode::Hop { at: BLOCK, segment };
        self.window = 0;
        self.hop(head)
    }

    /// Goes from header to header as far as the bytes reach.
    fn hop(&mut self, bytes: &[u8]) -> Step {
        let (window, segment_bytes) = (self.window, self.segment_bytes);
        let Mode::Hop { at, segment } = &mut self.mode else { unreachable!("called only while hopping") };
        let known = (segment.seq, segment.salt);
        loop {
            let from = (*at - window) as usize;
            let Some(block) = bytes.get(from..from + BLOCK as usize) else {
                let next = *at;
                return self.window_at(next, WINDOW_BYTES);
            };
            let record = Record::decode(block)
                .filter(|record| (record.seq, record.salt) == known && belongs(record, *at, segment_bytes));
            match record {
                Some(Record { kind: Kind::Shard, shard, .. }) => {
                    segment.shards.push(sighting(&shard, *at, false));
                    *at += span(shard.len);
                }
                Some(record) if record.kind == Kind::Tombstones => {
                    match decode_tombstones(&record, block) {
                        Some(tombstones) => segment.tombstones.extend(tombstones),
                        None => return self.whole(Some(known)),
                    }
                    *at += BLOCK;
                }
                Some(_) => {
                    (segment.end, segment.closed) = (*at, true);
                    return Step::Ended(Found::Segment(core::mem::take(segment)));
                }
                None => return self.whole(Some(known)),
            }
        }
    }
}

/// Whether a record may stand at this offset. The last block is kept for END.
fn belongs(record: &Record, at: u32, segment_bytes: u32) -> bool {
    let room = if record.kind == Kind::End { segment_bytes } else { segment_bytes - BLOCK };
    record.offset == at && record.end() <= room
}

fn sighting(shard: &Shard, at: u32, corrupt: bool) -> Sighting {
    Sighting { id: shard.id, lsn: shard.lsn, block: at / BLOCK, len: shard.len, crc: shard.crc, corrupt }
}

/// Reads a segment back while its drive serves: whether it would be found at a start as it is known to be.
#[derive(Debug)]
pub(super) struct Check {
    identity: Identity,
    seq: u64,
    segment_bytes: u32,
    /// Where its records end, or are durable up to.
    end: u32,
    is_closed: bool,
    whole: Option<Whole>,
}

/// What stands in a segment.
#[derive(Debug, Default)]
pub(super) struct Checked {
    /// By their blocks.
    pub(super) shards: BTreeMap<u32, Sighting>,
    pub(super) tombstones: Vec<Tombstone>,
    /// Something is damaged that a start needs, or stands where no record is.
    pub(super) is_flawed: bool,
    /// There is no END record where one is to be, and that is all that it lacks: with which salt it is to be written.
    pub(super) lacks_end: Option<u64>,
    /// The salt of the segment; none: it has no good header.
    pub(super) salt: Option<u64>,
}

impl Check {
    /// A segment whose records end at `end`, with an END record behind that if it is closed.
    pub(super) fn new(identity: Identity, seq: u64, segment_bytes: u32, end: u32, is_closed: bool) -> Self {
        Self { identity, seq, segment_bytes, end, is_closed, whole: None }
    }

    /// The next part of the slot to be read, from `at` on; `None`: that was all.
    pub(super) fn wants(&self, at: u32) -> Option<u32> {
        let end = if self.is_closed { self.end + BLOCK } else { self.end };
        (at < end).then(|| CHUNK_BYTES.min(end - at))
    }

    /// Takes the bytes of the next part.
    pub(super) fn take(&mut self, bytes: &[u8]) {
        let mut bytes = bytes;
        let whole = self.whole.get_or_insert_with(|| {
            let (first, rest) = bytes.split_at(BLOCK as usize);
            bytes = rest;
            let fits = |header: &SegmentHeader| {
                (header.identity, header.seq, header.segment_bytes) == (self.identity, self.seq, self.segment_bytes)
            };
            let known = SegmentHeader::decode(first).filter(fits).map(|header| (header.seq, header.salt));
            Whole::new(known, self.segment_bytes)
        });
        whole.take(bytes);
    }

    /// What was found.
    pub(super) fn finish(self) -> Checked {
        let end = self.end;
        let Some(whole) = self.whole.filter(|whole| whole.known.is_some_and(|(seq, _)| seq == self.seq)) else {
            return Checked { is_flawed: true, ..Checked::default() };
        };
        let salt = whole.known.map(|(_, salt)| salt);
        let mut checked = Checked { is_flawed: !whole.certain, salt, ..Checked::default() };
        for item in whole.items {
            match item {
                Item::Shard { record, corrupt } => {
                    let found = sighting(&record.shard, record.offset, corrupt);
                    checked.shards.insert(found.block, found);
                }
                Item::Tombstones { tombstones, .. } => checked.tombstones.extend(tombstones),
                Item::Gap { at } => checked.is_flawed |= at < end,
            }
        }
        checked.is_flawed |= whole.closed.is_some_and(|at| at < end);
        let is_there = !self.is_closed || whole.closed.is_some();
        checked.lacks_end = whole.known.map(|(_, salt)| salt).filter(|_| !is_there && !checked.is_flawed);
        checked
    }
}

/// Reads everything of a segment, one block after another.
#[derive(Debug)]
struct Whole {
    segment_bytes: u32,
    /// Sequence number and salt; not known if the segment's header rotted.
    known: Option<(u64, u64)>,
    /// The header itself told.
    certain: bool,
    at: u32,
    items: Vec<Item>,
    /// The record whose payload is being read.
    body: Option<Body>,
    /// Durable up to here, as some record says.
    durable: u32,
    closed: Option<u32>,
    /// See [`Segment::before`].
    before: (u64, u32),
}

#[derive(Debug)]
struct Body {
    record: Record,
    sum: Digest,
    left: u32,
}

#[derive(Debug)]
enum Item {
    Shard {
        record: Record,
        corrupt: bool,
    },
    Tombstones {
        at: u32,
        tombstones: Vec<Tombstone>,
    },
    /// Blocks that belong to no record.
    Gap {
        at: u32,
    },
}

impl Whole {
    fn new(known: Option<(u64, u64)>, segment_bytes: u32) -> Self {
        Self {
            segment_bytes,
            known,
            certain: known.is_some(),
            at: BLOCK,
            items: Vec::new(),
            body: None,
            durable: 0,
            closed: None,
            before: (0, 0),
        }
    }

    /// Takes the next bytes; `true` if that was all.
    fn take(&mut self, bytes: &[u8]) -> bool {
        for block in bytes.chunks_exact(BLOCK as usize) {
            if self.body.is_some() {
                self.take_payload(block);
            } else {
                self.take_header(block);
            }
            self.at += BLOCK;
            if self.closed.is_some() {
                return true;
            }
        }
        self.at >= self.segment_bytes
    }

    fn take_payload(&mut self, block: &[u8]) {
        let Some(body) = &mut self.body else { return };
        let taken = body.left.min(BLOCK);
        body.sum.update(&block[..taken as usize]);
        body.left -= taken;
        if body.left == 0 {
            let Some(Body { record, sum, .. }) = self.body.take() else { return };
            let corrupt = sum.finalize() as u32 != record.shard.crc;
            self.items.push(Item::Shard { record, corrupt });
        }
    }

    fn take_header(&mut self, block: &[u8]) {
        let at = self.at;
        let record = Record::decode(block).filter(|record| belongs(record, at, self.segment_bytes));
        let Some(record) = record.filter(|record| self.recognise(record)) else {
            if !matches!(self.items.last(), Some(Item::Gap { .. })) {
                self.items.push(Item::Gap { at });
            }
            return;
        };
        self.durable = self.durable.max(record.durable_upto);
        match record.kind {
            Kind::End => self.closed = Some(at),
            Kind::Tombstones => self.items.push(match decode_tombstones(&record, block) {
                Some(tombstones) => Item::Tombstones { at, tombstones },
                None => Item::Gap { at },
            }),
            Kind::Shard => {
                let mut sum = Digest::new(CrcAlgorithm::Crc32Iscsi);
                let len = record.shard.len;
                if record.span() == BLOCK {
                    sum.update(&block[data_offset(len) as usize..][..len as usize]);
                    let corrupt = sum.finalize() as u32 != record.shard.crc;
                    self.items.push(Item::Shard { record, corrupt });
                } else {
                    self.body = Some(Body { record, sum, left: len });
                }
            }
        }
    }

    /// Whether a record is of this segment. Without a header, the newest segment that left records here is this one.
    fn recognise(&mut self, record: &Record) -> bool {
        let theirs = (record.seq, record.salt);
        match self.known {
            Some(known) if known == theirs => true,
            Some(known) if !self.certain && record.seq > known.0 => {
                self.known = Some(theirs);
                self.items.clear();
                self.items.push(Item::Gap { at: BLOCK });
                self.durable = 0;
                true
            }
            Some(_) => false,
            None => {
                self.known = Some(theirs);
                true
            }
        }
    }

    /// Cuts off what is torn, and keeps what is rotten.
    fn finish(self, census: &Census) -> Option<Segment> {
        let (seq, salt) = self.known?;
        let durable = self.durable.max(census.vouches(seq));
        let mut segment = Segment {
            seq,
            salt,
            closed: self.closed.is_some(),
            corrupt: u64::from(!self.certain),
            before: self.before,
            ..Segment::default()
        };
        segment.end = self.closed.unwrap_or(self.segment_bytes - BLOCK);
        if self.closed.is_none()
            && let Some(Item::Gap { at }) = self.items.last()
        {
            // It goes on to the end of the slot, but only what was durable once is damage.
            segment.end = durable.max(*at);
        }
        for item in self.items {
            let (at, bad) = match &item {
                Item::Shard { record, corrupt } => (record.offset, *corrupt),
                Item::Tombstones { at, .. } => (*at, false),
                Item::Gap { at } => (*at, true),
            };
            if bad && at >= durable && self.closed.is_none() {
                segment.end = at;
                break;
            }
            match item {
                Item::Shard { record, corrupt } => segment.shards.push(sighting(&record.shard, at, corrupt)),
                Item::Tombstones { tombstones, .. } => segment.tombstones.extend(tombstones),
                Item::Gap { .. } => segment.corrupt += 1,
            }
        }
        Some(segment)
    }
}

#[cfg(test)]
mod tests;
