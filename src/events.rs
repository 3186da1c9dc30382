//! What has happened to actors and nodes, for `mesh watch`: the newest events, numbered.

use std::{collections::VecDeque, sync::Mutex};

use mesh_core::{
    happened::{Happened, Row},
    time::UnixMillis,
};

use crate::node::lock;

/// Events that are kept at most; an older one is forgotten.
const EVENTS_MAX: usize = 4096;
/// Events that one answer brings at most.
const PAGE_MAX: usize = 512;

/// The newest events of one node. A new leader of the control group begins with none.
#[derive(Default)]
pub(crate) struct Events(Mutex<Ring>);

#[derive(Default)]
struct Ring {
    last: u64,
    newest: VecDeque<Row>,
}

impl Events {
    /// Notes what has happened, and logs it.
    pub(crate) fn note(&self, at: UnixMillis, what: Happened) {
        tracing::info!("{what}");
        let mut ring = lock(&self.0);
        ring.last += 1;
        let number = ring.last;
        if ring.newest.len() == EVENTS_MAX {
            ring.newest.pop_front();
        }
        ring.newest.push_back(Row { number, at, what });
    }

    /// The events after a number, and the number of the last one given.
    pub(crate) fn after(&self, number: u64) -> (Vec<Row>, u64) {
        let ring = lock(&self.0);
        // A number of another leader's: from the beginning.
        let number = if number > ring.last { 0 } else { number };
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
        for at in 0..3 {
            events.note(UnixMillis(at), Happened::NodeUp(NodeId(at)));
        }
        let (rows, next) = events.after(1);
        assert_eq!((rows.len(), next), (2, 3));
        assert_eq!(rows[0], Row { number: 2, at: UnixMillis(1), what: Happened::NodeUp(NodeId(1)) });
        assert_eq!(events.after(3), (vec![], 3));
        // Of another leader's count: all.
        assert_eq!(events.after(99).0.len(), 3);
    }
}
