//! What is on the drive: which record of each shard counts, and what each slot still holds. Pure accounting.
//!
//! Three rules keep deleted shards deleted:
//! - of two records of one shard the one with the greater write number counts; a tombstone deletes every record of its
//!   shard up to its number, wherever it stands. So the order in which records are found does not matter;
//! - a tombstone is needed as long as some other slot holds a record that it deletes (`copies` counts them): those in its
//!   own slot go when it goes;
//! - a slot may be reused only when it holds neither a record that counts nor a tombstone that is needed.

use std::collections::{BTreeMap, BTreeSet};

use mesh_core::id::{ShardId, StripeId, WriteId};

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

/// [`Live`] as it is kept for each shard; whether it is damaged stands elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    slot: u32,
    block: u32,
    lsn: u64,
    len: u32,
    crc: u32,
}

/// What is known of a shard. Of most it is that there is one record, which counts: of them only [`Place`] is kept.
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
        let &Self { grave, copies, beside, .. } = self;
        Other { grave, copies, beside }.held()
    }

    /// Whether there is one record, which counts.
    fn is_plain(&self) -> bool {
        self.live.is_some() && self.grave.is_none() && (self.copies, self.beside) == (1, 0)
    }

    /// One more record, in this slot.
    fn add_copy(&mut self, slot: u32) {
        self.copies += 1;
        self.beside += u32::from(self.grave.is_some_and(|grave| grave.slot == slot));
    }
}

/// A shard's name in 16 bytes, ordered as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key(u64, u64);

impl From<ShardId> for Key {
    fn from(id: ShardId) -> Self {
        let ShardId { stripe: StripeId { write, stripe, attempt }, shard } = id;
        Self(write.0, u64::from(stripe) << 16 | u64::from(attempt) << 8 | u64::from(shard))
    }
}

impl From<Key> for ShardId {
    fn from(Key(write, rest): Key) -> Self {
        StripeId { write: WriteId(write), stripe: (rest >> 16) as u32, attempt: (rest >> 8) as u8 }.shard(rest as u8)
    }
}

/// What is known of a shard besides the record that counts.
#[derive(Clone, Copy, Debug)]
struct Other {
    grave: Option<Grave>,
    copies: u32,
    beside: u32,
}

impl Other {
    /// See [`Entry::held`].
    fn held(&self) -> Option<u32> {
        self.grave.filter(|_| self.copies > self.beside).map(|grave| grave.slot)
    }
}

/// A shard's name and the block of a record of it, in 20 bytes: there is one for each record that is on the drive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Noted([u32; 5]);

impl Noted {
    pub(super) fn new(id: ShardId, block: u32) -> Self {
        let Key(write, rest) = id.into();
        Self([write as u32, (write >> 32) as u32, rest as u32, (rest >> 32) as u32, block])
    }

    pub(super) fn id(self) -> ShardId {
        let join = |low: u32, high: u32| u64::from(high) << 32 | u64::from(low);
        let Self([write, write_high, rest, rest_high, _]) = self;
        Key(join(write, write_high), join(rest, rest_high)).into()
    }

    pub(super) fn block(self) -> u32 {
        self.0[4]
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
    /// Its contents stand at its end, as far as is known.
    pub(super) is_listed: bool,
    /// Compaction could not empty it: not to be chosen again.
    pub(super) pinned: bool,
    /// It has no segment because free marks say so, whatever stands behind them: known of slots that are `Virgin`.
    pub(super) is_marked: bool,
    /// Every shard record in it.
    pub(super) records: Vec<Noted>,
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
    /// The records that count.
    live: BTreeMap<Key, Place>,
    /// Shards of which more is known than that there is one record, which counts.
    others: BTreeMap<Key, Other>,
    slots: Vec<Slot>,
    /// Sealed slots that have become vacant since they were last asked for.
    vacant: BTreeSet<u32>,
    /// Shards whose record is damaged.
    damaged: BTreeSet<ShardId>,
    live_bytes: u64,
}

impl Catalog {
    pub(super) fn new(slots: u32) -> Self {
        Self {
            live: BTreeMap::new(),
            others: BTreeMap::new(),
            slots: (0..slots).map(|_| Slot::default()).collect(),
            vacant: BTreeSet::new(),
            damaged: BTreeSet::new(),
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
        self.live.len() as u64
    }

    /// Bytes of all records that count.
    pub(super) fn live_bytes(&self) -> u64 {
        self.live_bytes
    }

    pub(super) fn live(&self, id: ShardId) -> Option<Live> {
        self.live.get(&id.into()).map(|place| self.at(id, *place))
    }

    fn at(&self, id: ShardId, place: Place) -> Live {
        let Place { slot, block, lsn, len, crc } = place;
        // There are few, if any.
        let corrupt = !self.damaged.is_empty() && self.damaged.contains(&id);
        Live { slot, block, lsn, len, crc, corrupt }
    }

    /// Everything that is known of a shard; `None`: it has no record and no tombstone.
    fn entry(&self, id: ShardId) -> Option<Entry> {
        let live = self.live(id);
        match self.others.get(&id.into()) {
            Some(&Other { grave, copies, beside }) => Some(Entry { live, grave, copies, beside }),
            None => live.map(|live| Entry { live: Some(live), copies: 1, ..Entry::default() }),
        }
    }

    /// Keeps what is known of a shard.
    fn keep(&mut self, id: ShardId, entry: &Entry) {
        match entry.live {
            Some(Live { slot, block, lsn, len, crc, corrupt }) => {
                self.live.insert(id.into(), Place { slot, block, lsn, len, crc });
                if corrupt {
                    self.damaged.insert(id);
                } else {
                    self.damaged.remove(&id);
                }
            }
            None => {
                self.live.remove(&id.into());
                self.damaged.remove(&id);
            }
        }
        let is_nothing = entry.live.is_none() && entry.grave.is_none() && entry.copies == 0;
        if entry.is_plain() || is_nothing {
            self.others.remove(&id.into());
        } else {
            let &Entry { grave, copies, beside, .. } = entry;
            self.others.insert(id.into(), Other { grave, copies, beside });
        }
    }

    /// The tombstone of a shard, if it stands in this slot.
    pub(super) fn any_tombstone_in(&self, id: ShardId, slot: u32) -> Option<Tombstone> {
        let grave = self.others.get(&id.into())?.grave.filter(|grave| grave.slot == slot)?;
        Some(Tombstone { id, lsn: grave.lsn })
    }

    /// The tombstone of a shard, if that stands in this slot and is needed elsewhere.
    pub(super) fn tombstone_in(&self, id: ShardId, slot: u32) -> Option<Tombstone> {
        let entry = self.others.get(&id.into()).filter(|entry| entry.held() == Some(slot))?;
        entry.grave.map(|grave| Tombstone { id, lsn: grave.lsn })
    }

    /// Shards behind `after`, ascending.
    pub(super) fn list(&self, after: Option<ShardId>) -> impl Iterator<Item = (ShardId, Live)> {
        let from = after.map_or(core::ops::Bound::Unbounded, |after| core::ops::Bound::Excluded(Key::from(after)));
        let places = self.live.range((from, core::ops::Bound::Unbounded));
        places.map(|(&key, place)| (key.into(), self.at(key.into(), *place)))
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
            place.is_listed = segment.is_listed;
            place.records = segment.shards.iter().map(|seen| Noted::new(seen.id, seen.block)).collect();
            place.tombstones = segment.tombstones.iter().map(|tombstone| tombstone.id).collect();
        }
        for Sighting { id, lsn, block, len, crc, corrupt } in segment.shards {
            let mut entry = self.entry(id).unwrap_or_default();
            entry.copies += 1;
            let found = Live { slot, block, lsn, len, crc, corrupt };
            let rank = |live: Live| (live.lsn, !live.corrupt, self.slots[live.slot as usize].seq, live.block);
            let buried = entry.grave.is_some_and(|grave| lsn <= grave.lsn);
            if !buried && entry.live.is_none_or(|live| rank(live) < rank(found)) {
                entry.live = Some(found);
            }
            self.keep(id, &entry);
        }
        for Tombstone { id, lsn } in segment.tombstones {
            let mut entry = self.entry(id).unwrap_or_default();
            let rank = |grave: Grave| (grave.lsn, self.slots[grave.slot as usize].seq);
            let found = Grave { slot, lsn };
            if entry.grave.is_none_or(|grave| rank(grave) < rank(found)) {
                entry.grave = Some(found);
            }
            entry.live = entry.live.filter(|live| live.lsn > lsn);
            self.keep(id, &entry);
        }
    }

    /// Ends the start: drops tombstones that delete nothing, and counts.
    pub(super) fn settle(&mut self) {
        self.others.retain(|_, other| other.copies > 0);
        // Made out of all at once its nodes are full; one by one in their order they are half empty.
        self.live = core::mem::take(&mut self.live).into_iter().collect();
        // Where nothing was deleted there is nothing to be looked for.
        let slots = if self.others.is_empty() { &[][..] } else { &self.slots[..] };
        for (slot, place) in (0u32..).zip(slots) {
            for record in &place.records {
                if let Some(other) = self.others.get_mut(&record.id().into())
                    && other.grave.is_some_and(|grave| grave.slot == slot)
                {
                    other.beside += 1;
                }
            }
        }
        for place in self.live.values() {
            self.live_bytes += u64::from(span(place.len));
            self.slots[place.slot as usize].live_bytes += u64::from(span(place.len));
        }
        for slot in self.others.values().filter_map(Other::held) {
            self.slots[slot as usize].graves += 1;
        }
        for slot in 0..self.slots.len() as u32 {
            self.note_vacancy(slot);
        }
    }

    // --- while serving: what has become durable ---

    /// A shard was stored; it replaces a damaged record.
    pub(super) fn store(&mut self, id: ShardId, live: Live) {
        self.slot_mut(live.slot).records.push(Noted::new(id, live.block));
        let old = self.change(id, |entry| {
            entry.add_copy(live.slot);
            entry.live.replace(live)
        });
        self.grow(live);
        if let Some(old) = old {
            self.shrink(old);
        }
    }

    /// A copy of the record at `source` was stored. If that record no longer counts, neither does the copy.
    pub(super) fn store_copy(&mut self, id: ShardId, live: Live, source: (u32, u32)) {
        self.slot_mut(live.slot).records.push(Noted::new(id, live.block));
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
        let Some(entry) = self.entry(id) else { return };
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
            self.shrink(dead);
        }
    }

    /// The slot was erased, durably: its records are gone, and so is the need for tombstones that only deleted them.
    pub(super) fn erase(&mut self, slot: u32) {
        for record in core::mem::take(&mut self.slot_mut(slot).records) {
            self.change(record.id(), |entry| {
                entry.copies -= 1;
                // A shard that was stored anew while its slot was being erased is newer than the tombstone; and one of which no
                // record is left needs none.
                if entry.grave.is_some_and(|grave| grave.slot == slot) || entry.copies == 0 {
                    (entry.grave, entry.beside) = (None, 0);
                }
            });
        }
        let place = self.slot_mut(slot);
        *place = Slot { usage: place.usage, ..Slot::default() };
    }

    /// Changes what is known of a shard, and with it which slot its tombstone holds.
    fn change<R>(&mut self, id: ShardId, change: impl FnOnce(&mut Entry) -> R) -> R {
        let mut entry = self.entry(id).unwrap_or_default();
        let before = entry.held();
        let changed = change(&mut entry);
        let after = entry.held();
        self.keep(id, &entry);
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
        // It is as long as it will ever be.
        place.records.shrink_to_fit();
        place.tombstones.shrink_to_fit();
        self.note_vacancy(slot);
    }

    /// Marks a record that failed its checksum, or that now holds. `true` if that is news.
    pub(super) fn mark(&mut self, id: ShardId, slot: u32, block: u32, corrupt: bool) -> bool {
        let is_there = self.live(id).is_some_and(|live| live.is_at(slot, block) && live.corrupt != corrupt);
        match (is_there, corrupt) {
            (true, true) => self.damaged.insert(id),
            (true, false) => self.damaged.remove(&id),
            (false, _) => false,
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
            for record in &slot.records {
                *copies.entry(record.id()).or_default() += 1;
            }
        }
        let known: BTreeSet<ShardId> = self.live.keys().chain(self.others.keys()).map(|key| (*key).into()).collect();
        for id in &known {
            let entry = self.entry(*id).expect("it is known");
            assert!(!entry.is_plain() || !self.others.contains_key(&(*id).into()), "{id:?} is kept for nothing");
            assert_eq!(copies.get(id), Some(&entry.copies), "records of {id:?}");
            if let Some(live) = entry.live {
                live_bytes[live.slot as usize] += u64::from(span(live.len));
                assert!(entry.grave.is_none_or(|grave| grave.lsn < live.lsn), "{id:?} is deleted and counts");
                assert!(
                    self.slot(live.slot).records.contains(&Noted::new(*id, live.block)),
                    "{id:?} is not where it should be"
                );
            }
            if let Some(slot) = entry.held() {
                graves[slot as usize] += 1;
            }
            if let Some(grave) = entry.grave {
                let beside = self.slot(grave.slot).records.iter().filter(|record| record.id() == *id).count();
                assert!(entry.beside as usize <= beside, "{id:?} would be found again");
            }
        }
        assert!(copies.keys().eq(&known), "{copies:?}");
        assert!(self.damaged.iter().all(|id| self.live.contains_key(&(*id).into())), "{:?}", self.damaged);
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
    fn names_are_kept_short_and_in_their_order() {
        let ids: Vec<ShardId> =
            [(1, 0, 0, 0), (1, 0, 0, 255), (1, 0, 1, 0), (1, 1, 0, 0), (1, u32::MAX, 255, 9), (u64::MAX, 2, 3, 4)]
                .map(|(write, stripe, attempt, shard)| StripeId { write: WriteId(write), stripe, attempt }.shard(shard))
                .into();
        assert!(ids.is_sorted() && ids.iter().map(|id| Key::from(*id)).is_sorted());
        for id in ids {
            assert_eq!((ShardId::from(Key::from(id)), Noted::new(id, 7).id(), Noted::new(id, 7).block()), (id, id, 7));
        }
        assert_eq!((size_of::<Key>(), size_of::<Place>(), size_of::<Noted>()), (16, 24, 20));
    }

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
