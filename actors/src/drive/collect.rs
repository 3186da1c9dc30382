//! Housekeeping: prepares slots before they are opened, erases those that hold nothing any more, and empties the ones
//! that hold little when space runs short.
//!
//! A slot is erased by free marks over its first two blocks, and counts as free only when those are durable: a tombstone
//! may be forgotten only after the record it deletes can never be found again. A slot that no owner has used is erased too
//! before it is opened: so a file system that gives space late gives it for the reserve before shards may use it up.

use std::collections::{BTreeMap, BTreeSet};

use mesh_core::{
    Buf, Cx, Error, ErrorKind, WorkOutcome,
    id::ShardId,
    port::{DiskJob, WorkOutput},
};

use super::{
    append::{Append, RESERVE_SLOTS},
    catalog::{Catalog, Live, Use},
    format::{BLOCK, GRAVES_MAX, Tombstone, block, encode_free, slot_at},
    serve::{Serving, Work},
};

/// Free slots that are kept ready, as long as there are any to be made so.
const READY_SLOTS: u32 = RESERVE_SLOTS + 2;
/// Slots being erased at once.
const ERASES_MAX: usize = 16;
/// Records being moved at once.
const COPIES_MAX: u32 = 4;
/// A slot is emptied only if that wins at least this part of a segment.
const GAIN_PART: u64 = 16;

/// What housekeeping knows beside the catalog.
#[derive(Debug)]
pub(super) struct Housekeeping {
    /// Slots that may be opened.
    pub(super) free: BTreeSet<u32>,
    /// Slots that nobody has used.
    virgin: BTreeSet<u32>,
    erasing: BTreeMap<u32, Erasing>,
    /// Slots whose marks are written and not yet covered by a sync.
    pub(super) erased: Vec<u32>,
    /// The medium had no room for the marks of a virgin slot: no more until something is freed, or the medium has shown
    /// that it has room.
    pub(super) blocked: bool,
    /// The slot whose erasing is to show that.
    probe: Option<u32>,
    /// Slots whose segment ended where the medium had no more room. They count as virgin once they are erased.
    pub(super) starved: BTreeSet<u32>,
    /// Slots whose segment would not be found as it is: they are emptied while there is room, whatever that wins.
    sick: BTreeSet<u32>,
    compaction: Option<Compaction>,
    /// There was nothing to win at the last look, and nothing has changed since.
    idle: bool,
}

#[derive(Debug)]
struct Erasing {
    writes_left: u8,
    failed: bool,
    was_sealed: bool,
}

/// A slot being emptied.
#[derive(Debug)]
struct Compaction {
    slot: u32,
    /// The next of the slot's records, and of its tombstones.
    record: usize,
    tombstone: usize,
    reading: u32,
    /// Copies queued, or on their way to the medium.
    copying: u32,
    /// There is no room for copies.
    stopped: bool,
}

impl Housekeeping {
    pub(super) fn new(catalog: &Catalog) -> Self {
        let virgin = catalog.slots().filter(|(_, slot)| slot.usage == Use::Virgin).map(|(slot, _)| slot).collect();
        Self {
            free: BTreeSet::new(),
            virgin,
            erasing: BTreeMap::new(),
            erased: Vec::new(),
            blocked: false,
            probe: None,
            starved: BTreeSet::new(),
            sick: BTreeSet::new(),
            compaction: None,
            idle: false,
        }
    }

    /// Slots without a segment, ready or not.
    pub(super) fn spare(&self) -> usize {
        self.free.len() + self.collecting() + if self.blocked { 0 } else { self.virgin.len() }
    }

    pub(super) fn is_erasing(&self) -> bool {
        self.collecting() > 0
    }

    /// Slots being erased, but for the one that only asks for room.
    fn collecting(&self) -> usize {
        self.erasing.len() - usize::from(self.probe.is_some())
    }

    /// Whether nothing of the slot that is being emptied is under way any more: it is to be gone on with.
    pub(super) fn is_held_up(&self) -> bool {
        self.compaction.as_ref().is_some_and(|compaction| compaction.reading + compaction.copying == 0)
    }

    /// Something has changed: there may be something to win again.
    pub(super) fn stir(&mut self) {
        self.idle = false;
    }

    /// A slot is to be emptied, for what stands in it is damaged. `true` if that is news.
    pub(super) fn condemn(&mut self, slot: u32) -> bool {
        self.stir();
        self.sick.insert(slot)
    }

    /// Takes a slot out of those that may be opened, or may be made ready for that. Whether it was one.
    pub(super) fn take_spare(&mut self, slot: u32) -> bool {
        self.free.remove(&slot) || self.virgin.remove(&slot)
    }

    /// A slot was opened, and the medium had no room even for its header.
    pub(super) fn return_unused(&mut self, catalog: &mut Catalog, slot: u32) {
        catalog.slot_mut(slot).usage = Use::Virgin;
        self.virgin.insert(slot);
        self.blocked = true;
    }

    /// A copy is durable, or was given up.
    pub(super) fn copy_ended(&mut self) {
        if let Some(compaction) = &mut self.compaction {
            compaction.copying -= 1;
        }
    }
}

impl Serving {
    /// Whether something is under way that will free a slot, or show that none can be freed.
    pub(super) fn is_collecting(&self) -> bool {
        self.housekeeping.is_erasing() || self.housekeeping.compaction.is_some()
    }

    /// Begins the housekeeping that is due.
    pub(super) fn collect(&mut self, cx: &mut Cx<'_>) {
        self.compact(cx);
        while self.housekeeping.erasing.len() < ERASES_MAX {
            let Some(slot) = self.catalog.take_vacant() else { break };
            self.erase(slot, true, cx);
        }
        while (self.housekeeping.free.len() + self.housekeeping.erasing.len()) < READY_SLOTS as usize
            && !self.housekeeping.blocked
        {
            let Some(slot) = self.housekeeping.virgin.pop_first() else { break };
            self.erase(slot, false, cx);
        }
    }

    // --- erasing ---

    pub(super) fn erase(&mut self, slot: u32, was_sealed: bool, cx: &mut Cx<'_>) {
        self.catalog.slot_mut(slot).usage = Use::Erasing;
        let at = slot_at(slot, self.segment_bytes);
        let mark = block(&self.pool, |bytes| encode_free(&self.superblock.identity, bytes));
        let mut writes: Vec<(u64, Vec<Buf>)> = vec![(at, vec![mark.clone(), mark])];
        if !was_sealed {
            // The last block too, so that a medium made of files has all of the slot's.
            writes.push((at + u64::from(self.segment_bytes - BLOCK), vec![block(&self.pool, |_| {})]));
        }
        let writes_left = writes.len() as u8;
        self.housekeeping.erasing.insert(slot, Erasing { writes_left, failed: false, was_sealed });
        for (at, bufs) in writes {
            self.begin(Work::Erase { slot }, DiskJob::Write { at, bufs }, cx);
        }
    }

    /// Tries whether a medium that was full has room again: by erasing a slot that nobody has used, whose space it may
    /// have to give first, or else one that is free.
    pub(super) fn look_for_room(&mut self, cx: &mut Cx<'_>) {
        let housekeeping = &mut self.housekeeping;
        if housekeeping.probe.is_some() {
            return;
        }
        let slot = housekeeping.virgin.pop_first().or_else(|| housekeeping.free.pop_last());
        let Some(slot) = slot else {
            // All slots have their space: only a write can tell.
            self.found_room();
            return;
        };
        housekeeping.probe = Some(slot);
        self.erase(slot, false, cx);
    }

    /// The medium has room.
    fn found_room(&mut self) {
        self.medium_full = false;
        self.housekeeping.blocked = false;
        self.housekeeping.stir();
        // What could not even be erased can be now.
        for slot in 0..self.catalog.slot_count() {
            self.catalog.note_vacancy(slot);
        }
    }

    /// Marks are written, or there was no room for them.
    pub(super) fn on_erased(&mut self, slot: u32, outcome: WorkOutcome) -> Result<(), Error> {
        let erasing = self.housekeeping.erasing.get_mut(&slot).expect("a slot is being erased until its writes end");
        erasing.writes_left -= 1;
        match outcome {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NoSpace => erasing.failed = true,
            Err(error) => return Err(error),
        }
        match *erasing {
            Erasing { writes_left: 1.., .. } => {}
            Erasing { failed: false, .. } => self.housekeeping.erased.push(slot),
            Erasing { was_sealed: true, .. } => {
                // It holds nothing that counts, and cannot even be overwritten: left alone until the next start.
                self.housekeeping.erasing.remove(&slot);
                let place = self.catalog.slot_mut(slot);
                (place.usage, place.pinned) = (Use::Sealed, true);
            }
            Erasing { was_sealed: false, .. } => {
                self.housekeeping.erasing.remove(&slot);
                self.housekeeping.probe.take_if(|probe| *probe == slot);
                self.housekeeping.return_unused(&mut self.catalog, slot);
            }
        }
        Ok(())
    }

    /// The marks of these slots are durable.
    pub(super) fn settle_erased(&mut self, slots: Vec<u32>, cx: &mut Cx<'_>) {
        for slot in slots {
            self.catalog.erase(slot);
            self.housekeeping.sick.remove(&slot);
            self.census.reached(slot);
            if self.housekeeping.probe.take_if(|probe| *probe == slot).is_some() {
                self.found_room();
            }
            if self.housekeeping.starved.remove(&slot) {
                // It gave nothing back that the medium lacks.
                self.housekeeping.erasing.remove(&slot);
                self.housekeeping.return_unused(&mut self.catalog, slot);
                self.catalog.slot_mut(slot).is_marked = true;
            } else if self.housekeeping.erasing.get(&slot).is_some_and(|erasing| erasing.was_sealed) {
                self.medium_full = false;
                self.housekeeping.blocked = false;
                // But for the marks, which are to be found again.
                let (at, len) = (slot_at(slot, self.segment_bytes), u64::from(self.segment_bytes));
                let (at, len) = (at + u64::from(2 * BLOCK), len - u64::from(2 * BLOCK));
                self.begin(Work::Discard { slot }, DiskJob::Discard { at, len }, cx);
            } else {
                self.on_discarded(slot);
            }
        }
    }

    /// A slot may be opened. A discard that failed took nothing away: the slot's marks stand either way.
    pub(super) fn on_discarded(&mut self, slot: u32) {
        self.housekeeping.erasing.remove(&slot);
        self.catalog.slot_mut(slot).usage = Use::Free;
        self.housekeeping.free.insert(slot);
        self.housekeeping.stir();
    }

    // --- compaction ---

    /// Empties slots while space is short.
    fn compact(&mut self, cx: &mut Cx<'_>) {
        if self.housekeeping.compaction.is_none() {
            let Some(slot) = self.victim() else { return };
            self.catalog.slot_mut(slot).users += 1;
            self.housekeeping.compaction =
                Some(Compaction { slot, record: 0, tombstone: 0, reading: 0, copying: 0, stopped: false });
        }
        let Some(mut compaction) = self.housekeeping.compaction.take() else { return };
        while !compaction.stopped && compaction.reading + compaction.copying < COPIES_MAX {
            if let Some((id, live)) = self.next_record(&mut compaction) {
                compaction.reading += 1;
                self.begin_read(Work::CopyRead { id, live }, live, cx);
                continue;
            }
            let ids = self.next_tombstones(&mut compaction);
            if ids.is_empty() {
                break;
            }
            compaction.copying += 1;
            self.urgent.push_back(Append::CopyTombstones { ids, source: compaction.slot });
        }
        if compaction.reading + compaction.copying > 0 {
            self.housekeeping.compaction = Some(compaction);
            return;
        }
        let place = self.catalog.slot_mut(compaction.slot);
        place.users -= 1;
        if compaction.stopped {
            self.housekeeping.idle = true;
        } else {
            place.pinned = !place.is_vacant();
        }
        self.catalog.note_vacancy(compaction.slot);
    }

    /// The slot to be emptied next, if space is short: the one with the least to be copied.
    fn victim(&mut self) -> Option<u32> {
        let slots = self.catalog.slot_count();
        if self.housekeeping.idle {
            return None;
        }
        let comfort = RESERVE_SLOTS + (slots / 16).max(2);
        if self.spare_slots() > comfort {
            // What is damaged in it stays until it is healed: to empty it may win nothing, and must not cost what others need.
            let is_due = |slot: &u32| {
                let place = self.catalog.slot(*slot);
                place.usage == Use::Sealed && !place.pinned && !place.is_vacant()
            };
            return self.housekeeping.sick.iter().copied().find(is_due);
        }
        if self.spare_slots() == comfort {
            return None;
        }
        let gain = u64::from(self.segment_bytes) / GAIN_PART;
        let worth = |slot: &super::catalog::Slot| {
            slot.usage == Use::Sealed && !slot.pinned && slot.reclaimable_bytes(self.segment_bytes) >= gain
        };
        let victims = self.catalog.slots().filter(|(_, slot)| worth(slot));
        let victim = victims.min_by_key(|(at, slot)| (slot.live_bytes(), *at)).map(|(at, _)| at);
        self.housekeeping.idle = victim.is_none();
        victim
    }

    fn next_record(&self, compaction: &mut Compaction) -> Option<(ShardId, Live)> {
        let records = self.catalog.slot(compaction.slot).records.get(compaction.record..)?;
        for (id, block) in records.iter().map(|record| (record.id(), record.block())) {
            compaction.record += 1;
            let counts = |live: &Live| live.is_at(compaction.slot, block) && !live.corrupt;
            if let Some(live) = self.catalog.live(id).filter(counts) {
                return Some((id, live));
            }
        }
        None
    }

    fn next_tombstones(&self, compaction: &mut Compaction) -> Vec<ShardId> {
        let all = self.catalog.slot(compaction.slot).tombstones.get(compaction.tombstone..).unwrap_or_default();
        let mut ids = Vec::new();
        for &id in all {
            if ids.len() == GRAVES_MAX {
                break;
            }
            compaction.tombstone += 1;
            if self.tombstone_to_save(id, compaction.slot).is_some() && !ids.contains(&id) {
                ids.push(id);
            }
        }
        ids
    }

    /// A tombstone of a slot, if it is to be copied before that is erased. Of a slot of which something cannot be found again
    /// also those that only delete what stands beside them, for the slot may have to stay.
    pub(super) fn tombstone_to_save(&self, id: ShardId, slot: u32) -> Option<Tombstone> {
        if self.housekeeping.sick.contains(&slot) {
            self.catalog.any_tombstone_in(id, slot)
        } else {
            self.catalog.tombstone_in(id, slot)
        }
    }

    /// A record of the slot was read: its copy goes to the log, unless it is damaged. Then it stays where it is.
    pub(super) fn on_copy_read(&mut self, id: ShardId, live: Live, outcome: WorkOutcome) {
        let stopped = match &mut self.housekeeping.compaction {
            Some(compaction) => {
                compaction.reading -= 1;
                compaction.stopped
            }
            None => return,
        };
        let Ok(WorkOutput::Bytes(bytes)) = outcome else {
            self.unread(id, live);
            return;
        };
        if let Some((shard, payload)) = self.examine(id, live, &bytes)
            && !stopped
            && let Some(compaction) = &mut self.housekeeping.compaction
        {
            compaction.copying += 1;
            self.urgent.push_back(Append::Copy { shard, payload, source: (live.slot, live.block) });
        }
    }

    /// There is no room for copies: gives up those that wait.
    pub(super) fn stop_compaction(&mut self) {
        let before = self.urgent.len();
        self.urgent.retain(|append| matches!(append, Append::Delete { .. } | Append::Write { .. }));
        let dropped = (before - self.urgent.len()) as u32;
        if let Some(compaction) = &mut self.housekeeping.compaction {
            compaction.stopped = true;
            compaction.copying -= dropped;
        }
    }
}
