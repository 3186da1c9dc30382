//! What is on the drive: which record of each shard counts, and what each slot still holds. Pure accounting.
//!
//! Three rules keep deleted shards deleted:
//! - of two records of one shard the one with the greater write number counts; a tombstone deletes every record of its
//!   shard up to its number, wherever it stands. So the order in which records are found does not matter;
//! - a tombstone is needed as long as some other slot holds a record that it deletes (`copies` counts them): those in its
//!   own slot go when it goes;
//! - a slot may be reused only when it holds neither a record that counts nor a tombstone that is needed.

use std::collections::{BTreeMap, BTreeSet};

use mesh_core::id::ShardId;

use super::{
    format::{BLOCK, Tombstone, span},
    scan::{Segment, Sighting},
};

/// The record of a shard that counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Live {
    pub(super) slot: u32,
    pub(super) block: u32,
    pub(super) lsn: u64,
    pub(super) len: u32,
    pub(super) crc: u32,
    /// Known to be damaged: reads say so, and the same contents may be written again.
    pub(super) corrupt: bool,
}

impl Live {
    /// Whether it is the record at this place.
    pub(super) fn is_at(&self, slot: u32, block: u32) -> bool {
        (self.slot, self.block) == (slot, block)
    }
}

/// The tombstone of a shard that counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Grave {
    slot: u32,
    lsn: u64,
}

#[derive(Debug, Default)]
struct Entry {
    live: Option<Live>,
    grave: Option<Grave>,
    /// Records of this shard on the drive, whether they count or not.
    copies: u32,
    /// Of those, in the slot of the tombstone. Fewer than there are: the tombstone is kept for nothing, and no more.
    beside: u32,
}

impl Entry {
    /// The slot that may not be reused because of the tombstone.
    fn held(&self) -> Option<u32> {
        self.grave.filter(|_| self.copies > self.beside).map(|grave| grave.slot)
    }

    /// One more record, in this slot.
    fn add_copy(&mut self, slot: u32) {
        self.copies += 1;
        self.beside += u32::from(self.grave.is_some_and(|grave| grave.slot == slot));
    }
}

/// What a slot is used for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Use {
    /// No segment, and what it holds is not known: to be erased before it is used.
    #[default]
    Virgin,
    /// Erased, durably: may be opened.
    Free,
    /// Takes records.
    Open,
    /// Takes no more records.
    Sealed,
    /// Being made `Free`.
    Erasing,
}

/// One slot.
#[derive(Debug, Default)]
pub(super) struct Slot {
    pub(super) usage: Use,
    /// Sequence number of its segment.
    pub(super) seq: u64,
    /// Where its records end.
    pub(super) end: u32,
    /// Reads and last writes under way: it is not erased meanwhile.
    pub(super) users: u32,
    /// Compaction could not empty it: not to be chosen again.
    pub(super) pinned: bool,
    /// It has no segment because free marks say so, whatever stands behind them: known of slots that are `Virgin`.
    pub(super) is_marked: bool,
    /// Every shard record in it, with its block.
    pub(super) records: Vec<(ShardId, u32)>,
    /// Every shard with a tombstone in it.
    pub(super) tombstones: Vec<ShardId>,
    live_bytes: u64,
    graves: u32,
}

impl Slot {
    /// Bytes of records that count.
    pub(super) fn live_bytes(&self) -> u64 {
        self.live_bytes
    }

    /// Whether nothing in it counts.
    pub(super) fn is_vacant(&self) -> bool {
        self.live_bytes == 0 && self.graves == 0
    }

    /// Bytes that moving its contents elsewhere would win. The unused end of a segment that was closed in the ordinary
    /// way is not a gain, for it would be as large in the next; that of one cut off early is.
    pub(super) fn reclaimable_bytes(&self, segment_bytes: u32) -> u64 {
        let graves = u64::from(self.graves.div_ceil(super::format::GRAVES_MAX as u32)) * u64::from(BLOCK);
        let tail = segment_bytes.saturating_sub(self.end);
        // What a record of the largest did not fit into is ordinary.
        let early = tail >= (segment_bytes / 2).min(RECORD_BYTES_LARGEST);
        let used = if early { segment_bytes } else { self.end };
        u64::from(used.saturating_sub(BLOCK)).saturating_sub(self.live_bytes + graves)
    }
}

/// What the largest record takes.
const RECORD_BYTES_LARGEST: u32 = span(mesh_core::limits::PAYLOAD_BYTES_MAX as u32);

/// The index and the slots.
#[derive(Debug)]
pub(super) struct Catalog {
    entries: BTreeMap<ShardId, Entry>,
    slots: Vec<Slot>,
    /// Sealed slots that have become vacant since they were last asked for.
    vacant: BTreeSet<u32>,
    /// Shards whose record is damaged.
    damaged: BTreeSet<ShardId>,
    shards: u64,
    live_bytes: u64,
}

impl Catalog {
    pub(super) fn new(slots: u32) -> Self {
        Self {
            entries: BTreeMap::new(),
            slots: (0..slots).map(|_| Slot::default()).collect(),
            vacant: BTreeSet::new(),
            damaged: BTreeSet::new(),
            shards: 0,
            live_bytes: 0,
        }
    }

    pub(super) fn slot(&self, slot: u32) -> &Slot {
        &self.slots[slot as usize]
    }

    pub(super) fn slot_mut(&mut self, slot: u32) -> &mut Slot {
        &mut self.slots[slot as usize]
    }

    pub(super) fn slots(&self) -> impl Iterator<Item = (u32, &Slot)> {
        (0u32..).zip(&self.slots)
    }

    pub(super) fn slot_count(&self) -> u32 {
        self.slots.len() as u32
    }

    /// How many shards there are.
    pub(super) fn shards(&self) -> u64 {
        self.shards
    }

    /// Bytes of all records that count.
    pub(super) fn live_bytes(&self) -> u64 {
        self.live_bytes
    }

    pub(super) fn live(&self, id: ShardId) -> Option<Live> {
        self.entries.get(&id)?.live
    }

    /// The tombstone of a shard, if it stands in this slot.
    pub(super) fn any_tombstone_in(&self, id: ShardId, slot: u32) -> Option<Tombstone> {
        let grave = self.entries.get(&id)?.grave.filter(|grave| grave.slot == slot)?;
        Some(Tombstone { id, lsn: grave.lsn })
    }

    /// The tombstone of a shard, if that stands in this slot and is needed elsewhere.
    pub(super) fn tombstone_in(&self, id: ShardId, slot: u32) -> Option<Tombstone> {
        let entry = self.entries.get(&id).filter(|entry| entry.held() == Some(slot))?;
        entry.grave.map(|grave| Tombstone { id, lsn: grave.lsn })
    }

    /// Shards behind `after`, ascending.
    pub(super) fn list(&self, after: Option<ShardId>) -> impl Iterator<Item = (ShardId, Live)> {
        let from = after.map_or(core::ops::Bound::Unbounded, core::ops::Bound::Excluded);
        let entries = self.entries.range((from, core::ops::Bound::Unbounded));
        entries.filter_map(|(&id, entry)| Some((id, entry.live?)))
    }

    /// Damaged shards behind `after`, ascending.
    pub(super) fn damaged(&self, after: Option<ShardId>) -> impl Iterator<Item = ShardId> {
        let from = after.map_or(core::ops::Bound::Unbounded, core::ops::Bound::Excluded);
        self.damaged.range((from, core::ops::Bound::Unbounded)).copied()
    }

    /// How many are damaged.
    pub(super) fn damaged_count(&self) -> u64 {
        self.damaged.len() as u64
    }

    // --- at a start: what a scan found, in any order ---

    /// Takes in the segment of one slot.
    pub(super) fn find(&mut self, slot: u32, segment: Segment) {
        {
            let place = self.slot_mut(slot);
            (place.usage, place.seq, place.end) = (Use::Sealed, segment.seq, segment.end);
            place.records = segment.shards.iter().map(|sighting| (sighting.id, sighting.block)).collect();
            place.tombstones = segment.tombstones.iter().map(|tombstone| tombstone.id).collect();
        }
        for Sighting { id, lsn, block, len, crc, corrupt } in segment.shards {
            let entry = self.entries.entry(id).or_default();
            entry.copies += 1;
            let found = Live { slot, block, lsn, len, crc, corrupt };
            let rank = |live: Live| (live.lsn, !live.corrupt, self.slots[live.slot as usize].seq, live.block);
            let buried = entry.grave.is_some_and(|grave| lsn <= grave.lsn);
            if !buried && entry.live.is_none_or(|live| rank(live) < rank(found)) {
                entry.live = Some(found);
            }
        }
        for Tombstone { id, lsn } in segment.tombstones {
            let entry = self.entries.entry(id).or_default();
            let rank = |grave: Grave| (grave.lsn, self.slots[grave.slot as usize].seq);
            let found = Grave { slot, lsn };
            if entry.grave.is_none_or(|grave| rank(grave) < rank(found)) {
                entry.grave = Some(found);
            }
            entry.live = entry.live.filter(|live| live.lsn > lsn);
        }
    }

    /// Ends the start: drops tombstones that delete nothing, and counts.
    pub(super) fn settle(&mut self) {
        self.entries.retain(|_, entry| entry.copies > 0);
        for (slot, place) in (0u32..).zip(&self.slots) {
            for (id, _) in &place.records {
                if let Some(entry) = self.entries.get_mut(id)
                    && entry.grave.is_some_and(|grave| grave.slot == slot)
                {
                    entry.beside += 1;
                }
            }
        }
        for (id, entry) in &self.entries {
            if let Some(live) = entry.live {
                if live.corrupt {
                    self.damaged.insert(*id);
                }
                self.shards += 1;
                self.live_bytes += u64::from(span(live.len));
                self.slots[live.slot as usize].live_bytes += u64::from(span(live.len));
            }
            if let Some(slot) = entry.held() {
                self.slots[slot as usize].graves += 1;
            }
        }
        for slot in 0..self.slots.len() as u32 {
            self.note_vacancy(slot);
        }
    }

    // --- while serving: what has become durable ---

    /// A shard was stored; it replaces a damaged record.
    pub(super) fn store(&mut self, id: ShardId, live: Live) {
        self.slot_mut(live.slot).records.push((id, live.block));
        let old = self.change(id, |entry| {
            entry.add_copy(live.slot);
            entry.live.replace(live)
        });
        self.grow(live);
        match old {
            Some(old) => self.shrink(old),
            None => self.shards += 1,
        }
    }

    /// A copy of the record at `source` was stored. If that record no longer counts, neither does the copy.
    pub(super) fn store_copy(&mut self, id: ShardId, live: Live, source: (u32, u32)) {
        self.slot_mut(live.slot).records.push((id, live.block));
        let old = self.change(id, |entry| {
            entry.add_copy(live.slot);
            let counts = |old: &Live| old.is_at(source.0, source.1) && old.lsn == live.lsn;
            let old = entry.live.filter(counts);
            if old.is_some() {
                entry.live = Some(live);
            }
            old
        });
        if let Some(old) = old {
            self.grow(live);
            self.shrink(old);
        }
    }

    /// A tombstone was stored: the shard is gone. `source`: it is a copy of the one in that slot, and deletes nothing
    /// new.
    pub(super) fn bury(&mut self, tombstone: Tombstone, slot: u32, source: Option<u32>) {
        let Tombstone { id, lsn } = tombstone;
        self.slot_mut(slot).tombstones.push(id);
        let Some(entry) = self.entries.get(&id) else { return };
        if source.is_some_and(|source| entry.grave != Some(Grave { slot: source, lsn })) {
            return;
        }
        let dead = self.change(id, |entry| {
            let dead = entry.live.filter(|live| live.lsn <= lsn);
            if dead.is_some() {
                entry.live = None;
            }
            entry.grave = Some(Grave { slot, lsn });
            // Where others are is not looked for: to count too few is safe.
            entry.beside = u32::from(dead.is_some_and(|dead| dead.slot == slot));
            dead
        });
        if let Some(dead) = dead {
            self.shards -= 1;
            self.shrink(dead);
        }
    }

    /// The slot was erased, durably: its records are gone, and so is the need for tombstones that only deleted them.
    pub(super) fn erase(&mut self, slot: u32) {
        for (id, _) in core::mem::take(&mut self.slot_mut(slot).records) {
            let left = self.change(id, |entry| {
                entry.copies -= 1;
                // A shard that was stored anew while its slot was being erased is newer than the tombstone.
                if entry.grave.is_some_and(|grave| grave.slot == slot) {
                    (entry.grave, entry.beside) = (None, 0);
                }
                entry.copies
            });
            if left == 0 {
                self.entries.remove(&id);
            }
        }
        let place = self.slot_mut(slot);
        *place = Slot { usage: place.usage, ..Slot::default() };
    }

    /// Changes what is known of a shard, and with it which slot its tombstone holds.
    fn change<R>(&mut self, id: ShardId, change: impl FnOnce(&mut Entry) -> R) -> R {
        let entry = self.entries.entry(id).or_default();
        let before = entry.held();
        let changed = change(entry);
        let (after, is_damaged) = (entry.held(), entry.live.is_some_and(|live| live.corrupt));
        if !is_damaged {
            self.damaged.remove(&id);
        }
        if before != after {
            if let Some(slot) = after {
                self.slot_mut(slot).graves += 1;
            }
            if let Some(slot) = before {
                self.slot_mut(slot).graves -= 1;
                self.note_vacancy(slot);
            }
        }
        changed
    }

    /// The slot takes no more records.
    pub(super) fn seal(&mut self, slot: u32, end: u32) {
        let place = self.slot_mut(slot);
        (place.usage, place.end) = (Use::Sealed, end);
        self.note_vacancy(slot);
    }

    /// Marks a record that failed its checksum, or that now holds. `true` if that is news.
    pub(super) fn mark(&mut self, id: ShardId, slot: u32, block: u32, corrupt: bool) -> bool {
        let live = self.entries.get_mut(&id).and_then(|entry| entry.live.as_mut());
        match live.filter(|live| live.is_at(slot, block) && live.corrupt != corrupt) {
            Some(live) => {
                live.corrupt = corrupt;
                if corrupt {
                    self.damaged.insert(id);
                } else {
                    self.damaged.remove(&id);
                }
                true
            }
            None => false,
        }
    }

    /// A slot that may be erased; each is named once, and again when something changes.
    pub(super) fn take_vacant(&mut self) -> Option<u32> {
        while let Some(slot) = self.vacant.pop_first() {
            let place = self.slot(slot);
            if place.usage == Use::Sealed && place.is_vacant() && place.users == 0 {
                return Some(slot);
            }
        }
        None
    }

    /// To be called when a slot may have become vacant.
    pub(super) fn note_vacancy(&mut self, slot: u32) {
        let place = self.slot(slot);
        if place.usage == Use::Sealed && place.is_vacant() {
            self.vacant.insert(slot);
        }
    }

    fn grow(&mut self, live: Live) {
        let bytes = u64::from(span(live.len));
        self.live_bytes += bytes;
        self.slot_mut(live.slot).live_bytes += bytes;
    }

    fn shrink(&mut self, live: Live) {
        let bytes = u64::from(span(live.len));
        self.live_bytes -= bytes;
        self.slot_mut(live.slot).live_bytes -= bytes;
        self.note_vacancy(live.slot);
    }

    /// Counts everything again and compares; for tests.
    #[cfg(test)]
    pub(super) fn check(&self) {
        let mut live_bytes = vec![0; self.slots.len()];
        let mut graves = vec![0; self.slots.len()];
        let mut copies: BTreeMap<ShardId, u32> = BTreeMap::new();
        for slot in &self.slots {
            for (id, _) in &slot.records {
                *copies.entry(*id).or_default() += 1;
            }
        }
        let mut shards = 0;
        for (id, entry) in &self.entries {
            assert_eq!(copies.get(id), Some(&entry.copies), "records of {id:?}");
            if let Some(live) = entry.live {
                shards += 1;
                live_bytes[live.slot as usize] += u64::from(span(live.len));
                assert!(entry.grave.is_none_or(|grave| grave.lsn < live.lsn), "{id:?} is deleted and counts");
                assert!(self.slot(live.slot).records.contains(&(*id, live.block)), "{id:?} is not where it should be");
            }
            if let Some(slot) = entry.held() {
                graves[slot as usize] += 1;
            }
            if let Some(grave) = entry.grave {
                let beside = self.slot(grave.slot).records.iter().filter(|(other, _)| other == id).count();
                assert!(entry.beside as usize <= beside, "{id:?} would be found again");
            }
        }
        assert_eq!(copies.len(), self.entries.len());
        assert_eq!(shards, self.shards);
        let damaged = |(id, entry): (&ShardId, &Entry)| entry.live.filter(|live| live.corrupt).map(|_| *id);
        assert!(self.entries.iter().filter_map(damaged).eq(self.damaged.iter().copied()), "{:?}", self.damaged);
        assert_eq!(live_bytes.iter().sum::<u64>(), self.live_bytes);
        for (at, slot) in self.slots.iter().enumerate() {
            assert_eq!((slot.live_bytes, slot.graves), (live_bytes[at], graves[at]), "slot {at}");
        }
    }
}

#[cfg(test)]
mod tests {
    use mesh_core::id::{StripeId, WriteId};

    use super::*;

    #[test]
    fn the_end_that_an_early_close_left_unused_is_room_and_that_of_a_full_segment_is_not() {
        let segment = 32 << 20;
        let full = |tail: u32| {
            let end = segment - tail;
            Slot { end, live_bytes: u64::from(end - BLOCK), ..Slot::default() }.reclaimable_bytes(segment)
        };
        assert_eq!(full(RECORD_BYTES_LARGEST - BLOCK), 0, "the next record did not fit");
        assert_eq!(full(RECORD_BYTES_LARGEST), u64::from(RECORD_BYTES_LARGEST));
        // Closed by restarts, a little above the half.
        assert_eq!(full(14 << 20), 14 << 20);
    }

    /// The slot of a tombstone that holds nothing is being erased, and meanwhile the shard is stored anew elsewhere.
    #[test]
    fn a_tombstone_goes_with_its_slot_whatever_was_stored_since() {
        let mut catalog = Catalog::new(3);
        let id = StripeId { write: WriteId(9), stripe: 0, attempt: 0 }.shard(1);
        let live = |slot, lsn| Live { slot, block: 1, lsn, len: 4096, crc: 0, corrupt: false };
        catalog.store(id, live(0, 1));
        catalog.bury(Tombstone { id, lsn: 2 }, 0, None);
        catalog.seal(0, 1 << 20);
        assert_eq!(catalog.take_vacant(), Some(0));
        catalog.slot_mut(0).usage = Use::Erasing;
        catalog.store(id, live(1, 3));
        catalog.erase(0);
        catalog.check();
        assert_eq!(catalog.live(id), Some(live(1, 3)));
        assert_eq!(catalog.tombstone_in(id, 0), None);
    }
}
