//! The segment that takes records: what is written of it, and what is durable. Pure accounting.

use std::collections::BTreeMap;

use super::{contents, format::BLOCK};

/// The open segment. `T` is what is owed when a record is durable.
#[derive(Debug)]
pub(super) struct Open<T> {
    pub(super) slot: u32,
    pub(super) seq: u64,
    pub(super) salt: u64,
    segment_bytes: u32,
    /// Where the next record goes.
    tail: u32,
    /// Everything before this has been written.
    written: u32,
    /// Everything before this is durable.
    durable: u32,
    /// Writes that ended ahead of an earlier one: start and end.
    ahead: BTreeMap<u32, u32>,
    /// Writes under way.
    flying: u32,
    /// Bytes of what its contents say of the records that are placed.
    listed: u32,
    /// What is owed, by start, with the record's end.
    owed: BTreeMap<u32, (u32, T)>,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Taking,
    /// Nothing comes behind what is placed.
    Closing,
    /// A write did not fit on the medium: nothing behind the gap can count.
    Broken,
}

impl<T> Open<T> {
    pub(super) fn new(slot: u32, seq: u64, salt: u64, segment_bytes: u32) -> Self {
        Self {
            slot,
            seq,
            salt,
            segment_bytes,
            tail: 0,
            written: 0,
            durable: 0,
            ahead: BTreeMap::new(),
            flying: 0,
            listed: 0,
            owed: BTreeMap::new(),
            state: State::Taking,
        }
    }

    /// Whether a record of so many bytes goes in, of which the contents say so much; 0: they may be left out for it. One block
    /// is kept for END, and the contents have room behind that, unless the record takes so much that it matters more: where
    /// records are large there is room behind the last of them as a rule, and few are to be read at a start.
    pub(super) fn takes(&self, span: u32, listed: u32) -> bool {
        let is_large = span > self.segment_bytes / 16;
        let kept = if listed == 0 || is_large { 0 } else { contents::span(self.listed + listed) };
        self.state == State::Taking && span.saturating_add(kept) <= self.room()
    }

    /// Bytes left for records and for the contents.
    fn room(&self) -> u32 {
        self.segment_bytes - BLOCK - self.tail
    }

    /// Whether contents of so many bytes fit behind END.
    pub(super) fn has_room_for(&self, contents: u32) -> bool {
        contents <= self.room()
    }

    /// Whether it still takes anything.
    pub(super) fn is_taking(&self) -> bool {
        self.state == State::Taking
    }

    pub(super) fn is_broken(&self) -> bool {
        self.state == State::Broken
    }

    /// Where the next record goes.
    pub(super) fn tail(&self) -> u32 {
        self.tail
    }

    /// Everything before this has been written.
    pub(super) fn written(&self) -> u32 {
        self.written
    }

    /// Everything before this is durable.
    pub(super) fn durable(&self) -> u32 {
        self.durable
    }

    /// Places the next `span` bytes, of which the contents will say so much, and whose write begins now; gives where they go.
    pub(super) fn place(&mut self, span: u32, listed: u32, owed: T) -> u32 {
        let at = self.tail;
        self.tail += span;
        self.listed += listed;
        self.flying += 1;
        self.owed.insert(at, (self.tail, owed));
        at
    }

    /// Nothing comes behind what is placed by now.
    pub(super) fn close(&mut self) {
        self.state = State::Closing;
    }

    /// The write that began at `at` has ended.
    pub(super) fn wrote(&mut self, at: u32) {
        self.flying -= 1;
        let Some((end, _)) = self.owed.get(&at) else { return };
        self.ahead.insert(at, *end);
        while let Some(end) = self.ahead.remove(&self.written) {
            self.written = end;
        }
    }

    /// A write has failed for want of space.
    pub(super) fn failed(&mut self) {
        self.flying -= 1;
        self.state = State::Broken;
    }

    /// Once nothing is under way in a broken segment: cuts off the gap and everything behind it, and gives what was
    /// owed for that.
    pub(super) fn cut(&mut self) -> Vec<T> {
        if self.state != State::Broken || self.flying > 0 {
            return Vec::new();
        }
        self.ahead.clear();
        self.tail = self.written;
        self.owed.split_off(&self.written).into_values().map(|(_, owed)| owed).collect()
    }

    /// Everything before `upto` is durable; gives what is owed for that, in order, with where each record begins.
    pub(super) fn settle(&mut self, upto: u32) -> Vec<(u32, T)> {
        self.durable = self.durable.max(upto);
        let mut settled = Vec::new();
        while let Some(first) = self.owed.first_entry() {
            if first.get().0 > self.durable {
                break;
            }
            let (at, (_, owed)) = first.remove_entry();
            settled.push((at, owed));
        }
        settled
    }

    /// Whether it takes nothing more and everything in it is durable.
    pub(super) fn is_finished(&self) -> bool {
        self.state != State::Taking && self.flying == 0 && self.durable == self.tail
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_only_the_contiguous_prefix_as_written() {
        let mut open = Open::new(0, 1, 0, 64 << 10);
        let places: Vec<u32> = (0..3).map(|n| open.place(BLOCK, 9, n)).collect();
        open.wrote(places[2]);
        open.wrote(places[0]);
        assert_eq!(open.written(), BLOCK);
        open.wrote(places[1]);
        assert_eq!(open.written(), 3 * BLOCK);
        assert_eq!(open.settle(2 * BLOCK), [(0, 0), (BLOCK, 1)]);
        assert_eq!(open.settle(3 * BLOCK), [(2 * BLOCK, 2)]);
    }

    #[test]
    fn a_gap_takes_everything_behind_it_along() {
        let mut open = Open::new(0, 1, 0, 64 << 10);
        let places: Vec<u32> = (0..3).map(|n| open.place(BLOCK, 9, n)).collect();
        open.wrote(places[2]);
        open.failed();
        assert!(open.cut().is_empty(), "a write is still under way");
        open.wrote(places[0]);
        assert_eq!(open.cut(), [1, 2]);
        assert_eq!(open.settle(BLOCK), [(0, 0)]);
        assert!(open.is_finished() && open.is_broken());
    }

    #[test]
    fn keeps_the_last_block_for_the_end() {
        let mut open = Open::new(0, 1, 0, 4 * BLOCK);
        assert_eq!(open.place(BLOCK, 0, ()), 0);
        assert!(open.takes(2 * BLOCK, 36) && !open.takes(3 * BLOCK, 36));
        assert_eq!(open.place(2 * BLOCK, 36, ()), BLOCK);
        assert!(!open.takes(BLOCK, 36));
        assert_eq!((open.room(), open.tail()), (0, 3 * BLOCK));
    }

    #[test]
    fn keeps_room_for_the_contents_unless_they_may_be_left_out() {
        let mut open = Open::new(0, 1, 0, 64 * BLOCK);
        open.place(BLOCK, 0, ());
        assert!(open.takes(62 * BLOCK, 36) && !open.takes(63 * BLOCK, 36), "it is large");
        open.place(58 * BLOCK, 36, ());
        // Four blocks are left.
        assert!(open.takes(3 * BLOCK, 36) && !open.takes(4 * BLOCK, 36) && open.takes(4 * BLOCK, 0));
        assert!(open.takes(2 * BLOCK, BLOCK) && !open.takes(3 * BLOCK, BLOCK), "they take two blocks");
        assert!(open.has_room_for(4 * BLOCK) && !open.has_room_for(5 * BLOCK));
    }
}
