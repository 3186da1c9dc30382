//! What is taken from a node that is missed is taken by a leader that a majority has followed since it missed it. A leader
//! that is itself cut off, or that has just woken and leads no more, misses everybody; what it proposed then would be
//! decided once it is heard again, when nobody is missing.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};

use mesh_core::{id::NodeId, time::Instant};

/// The nodes that may be robbed, because a majority has followed this leader since it missed them.
#[derive(Clone, Debug, Default)]
pub struct Backing {
    /// A majority is being asked whether it follows, since then, for the sake of these.
    asked: Option<(Instant, BTreeSet<NodeId>)>,
    /// When it last said so.
    heard: BTreeMap<NodeId, Heard>,
}

#[derive(Clone, Copy, Debug)]
struct Heard {
    at: Instant,
    /// At once, or for the second time: an answer that took long may have waited until a cut was mended, and what the node
    /// says comes just behind it.
    counts: bool,
}

impl Backing {
    /// Whether a majority has followed since this node was missed, and within so long.
    #[must_use]
    pub fn holds(&self, node: NodeId, within: Duration, now: Instant) -> bool {
        self.heard.get(&node).is_some_and(|heard| heard.counts && now.since(heard.at) <= within)
    }

    /// A majority is asked now for the sake of these. What it said longer ago is forgotten, and is no first time of anything.
    pub fn ask(&mut self, missed: BTreeSet<NodeId>, within: Duration, now: Instant) {
        self.heard.retain(|_, heard| now.since(heard.at) <= within);
        self.asked = Some((now, missed));
    }

    /// Whether it follows. `prompt`: what takes longer is not believed before it has been said twice.
    pub fn answered(&mut self, well: bool, prompt: Duration, now: Instant) {
        let Some((since, missed)) = self.asked.take() else { return };
        if !well {
            return;
        }
        for node in missed {
            let counts = now.since(since) <= prompt || self.heard.contains_key(&node);
            self.heard.insert(node, Heard { at: now, counts });
        }
    }

    /// A node is there again: who misses it later asks again.
    pub fn is_there(&mut self, node: NodeId) {
        self.heard.remove(&node);
        if let Some((_, missed)) = &mut self.asked {
            missed.remove(&node);
        }
    }

    /// This node leads no more.
    pub fn forget(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOST: NodeId = NodeId(11);
    const WITHIN: Duration = Duration::from_millis(300);
    const PROMPT: Duration = Duration::from_millis(100);

    fn at(millis: u64) -> Instant {
        Instant(millis * 1_000_000)
    }

    fn asked(backing: &mut Backing, from: u64, well: bool, to: u64) -> bool {
        backing.ask([LOST].into(), WITHIN, at(from));
        backing.answered(well, PROMPT, at(to));
        backing.holds(LOST, WITHIN, at(to))
    }

    #[test]
    fn a_majority_that_follows_at_once_is_believed_for_a_while() {
        let mut backing = Backing::default();
        assert!(!backing.holds(LOST, WITHIN, at(0)));
        assert!(asked(&mut backing, 0, true, 100));
        assert!(backing.holds(LOST, WITHIN, at(400)));
        assert!(!backing.holds(LOST, WITHIN, at(401)));
        assert!(!backing.holds(NodeId(12), WITHIN, at(100)), "of others nothing was asked");
        backing.forget();
        assert!(!backing.holds(LOST, WITHIN, at(100)));
    }

    #[test]
    fn nobody_is_robbed_without_a_majority() {
        let mut backing = Backing::default();
        assert!(!asked(&mut backing, 0, false, 1));
        // An answer that nobody waits for.
        backing.answered(true, PROMPT, at(2));
        assert!(!backing.holds(LOST, WITHIN, at(2)));
    }

    #[test]
    fn an_answer_that_took_long_is_heard_twice() {
        let mut backing = Backing::default();
        assert!(!asked(&mut backing, 0, true, 101));
        assert!(asked(&mut backing, 110, true, 211));
        // What was said long ago is no first time: 301 ms before it was asked again.
        let mut backing = Backing::default();
        assert!(!asked(&mut backing, 0, true, 101));
        assert!(!asked(&mut backing, 402, true, 503));
        assert!(asked(&mut backing, 803, true, 904));
    }

    #[test]
    fn who_is_there_again_is_asked_about_again() {
        let mut backing = Backing::default();
        assert!(asked(&mut backing, 0, true, 1));
        backing.is_there(LOST);
        assert!(!backing.holds(LOST, WITHIN, at(1)));
        backing.ask([LOST].into(), WITHIN, at(2));
        backing.is_there(LOST);
        backing.answered(true, PROMPT, at(3));
        assert!(!backing.holds(LOST, WITHIN, at(3)));
    }
}
