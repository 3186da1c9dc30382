//! What has happened to actors and nodes, for `mesh watch`: the newest events, numbered.

use std::{collections::VecDeque, sync::Mutex};

use mesh_core::{
    happened::{Happened, Row},
    time::UnixMillis,
};

use crate::node::{lock, watching::Moves};

/// Events of one entry of the log have numbers of their own, so many bits of them.
const MORE_BITS: u32 = 16;
/// Events that are kept at most; an older one is forgotten.
const EVENTS_MAX: usize = 4096;
/// Events that one answer brings at most.
const PAGE_MAX: usize = 512;

/// The newest events of one node: all of the times when it led the control group, and what it saw of others at all times.
/// Numbers ascend with the group's log, which a leader has further than the one before it: so who has read another leader's
/// events goes on with those of this one that came later, whatever their clocks say.
#[derive(Default)]
pub(crate) struct Events {
    ring: Mutex<Ring>,
    /// How often what has happened to actors.
    pub(crate) moves: Moves,
}

#[derive(Default)]
struct Ring {
    last: u64,
    newest: VecDeque<Row>,
}

impl Events {
    /// Notes what has happened, and logs it.
    pub(crate) fn note(&self, as_of: u64, at: UnixMillis, what: Happened) {
        tracing::info!("{what}");
        match what {
            Happened::Moved { .. } => self.moves.committed.count(),
            Happened::NotMoved { .. } => self.moves.aborted.count(),
            Happened::TakenOver { .. } => self.moves.taken_over.count(),
            Happened::NotTakenOver { .. } => self.moves.failed_take_overs.count(),
            Happened::Cut { .. } => self.moves.cuts.count(),
            _ => {}
        }
        let mut ring = lock(&self.ring);
        // Below 2^53 for 137 thousand million entries of the log, so that every reader of JSON reads it as it is.
        ring.last = (as_of << MORE_BITS).max(ring.last + 1);
        let number = ring.last;
        if ring.newest.len() == EVENTS_MAX {
            ring.newest.pop_front();
        }
        ring.newest.push_back(Row { number, at, what });
    }

    /// The events after a number, and the number of the last one given.
    pub(crate) fn after(&self, number: u64) -> (Vec<Row>, u64) {
        let ring = lock(&self.ring);
        let later: Vec<Row> = ring.newest.iter().filter(|row| row.number > number).take(PAGE_MAX).cloned().collect();
        let next = later.last().map_or(number, |row| row.number);
        (later, next)
    }
}

#[cfg(test)]
mod tests {
    use mesh_core::id::NodeId;

    use super::*;

    #[test]
    fn events_are_numbered_and_read_page_by_page() {
        let events = Events::default();
        for as_of in [1, 1, 2] {
            events.note(as_of, UnixMillis(as_of), Happened::NodeUp(NodeId(as_of)));
        }
        let entry = 1 << MORE_BITS;
        let (rows, next) = events.after(entry);
        assert_eq!((rows.len(), next), (2, 2 * entry));
        assert_eq!(rows[0], Row { number: entry + 1, at: UnixMillis(1), what: Happened::NodeUp(NodeId(1)) });
        assert_eq!(events.after(2 * entry), (vec![], 2 * entry));
    }

    #[test]
    fn who_has_read_another_leaders_events_goes_on_with_the_later_ones_of_this() {
        let (one, other) = (Events::default(), Events::default());
        for as_of in 10..20 {
            one.note(as_of, UnixMillis(1_000 + as_of), Happened::NodeUp(NodeId(as_of)));
        }
        // What it saw itself long ago; and, as leader, with a clock that is behind.
        other.note(5, UnixMillis(500), Happened::NodeUp(NodeId(1)));
        other.note(21, UnixMillis(600), Happened::NodeDown(NodeId(1)));
        let (_, read) = one.after(0);
        let rows: Vec<_> = other.after(read).0.into_iter().map(|row| row.what).collect();
        assert_eq!(rows, [Happened::NodeDown(NodeId(1))]);
        // And back again: what has happened there meanwhile, and nothing twice.
        one.note(30, UnixMillis(1_030), Happened::NodeUp(NodeId(1)));
        let (_, read) = other.after(0);
        assert_eq!(one.after(read).0.len(), 1);
    }
}
