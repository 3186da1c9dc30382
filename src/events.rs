//! What has happened to actors and nodes, for `mesh watch`: the newest events, numbered.

use std::{collections::VecDeque, sync::Mutex};

use mesh_core::time::UnixMillis;

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
    newest: VecDeque<(u64, String)>,
}

impl Events {
    /// Notes what has happened, and logs it.
    pub(crate) fn note(&self, at: UnixMillis, what: &str) {
        tracing::info!("{what}");
        let mut ring = lock(&self.0);
        ring.last += 1;
        let number = ring.last;
        if ring.newest.len() == EVENTS_MAX {
            ring.newest.pop_front();
        }
        ring.newest.push_back((number, format!("{} {what}", clock_of_day(at))));
    }

    /// The events after a number, and the number of the last one given.
    pub(crate) fn after(&self, number: u64) -> (Vec<String>, u64) {
        let ring = lock(&self.0);
        // A number of another leader's: from the beginning.
        let number = if number > ring.last { 0 } else { number };
        let later = ring.newest.iter().filter(|(at, _)| *at > number).take(PAGE_MAX);
        let (numbers, lines): (Vec<u64>, Vec<String>) = later.cloned().unzip();
        (lines, numbers.last().copied().unwrap_or(number))
    }
}

/// `hh:mm:ss.mmm`, in UTC.
fn clock_of_day(at: UnixMillis) -> String {
    let (seconds, millis) = (at.0 / 1000 % 86_400, at.0 % 1000);
    format!("{:02}:{:02}:{:02}.{millis:03}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_numbered_and_read_page_by_page() {
        let events = Events::default();
        for at in 0..3 {
            events.note(UnixMillis(at), "something");
        }
        let (lines, next) = events.after(1);
        assert_eq!((lines.len(), next), (2, 3));
        assert_eq!(lines[0], "00:00:00.001 something");
        assert_eq!(events.after(3), (vec![], 3));
        // Of another leader's count: all.
        assert_eq!(events.after(99).0.len(), 3);
    }
}
