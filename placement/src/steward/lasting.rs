//! Nodes that are not well in some way, and have been for a while by what was said since: what one report says may be of a
//! moment, and a report that grows old because nothing newer comes says nothing more.

use core::time::Duration;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use mesh_core::{id::NodeId, time::Instant};

/// Who is not well, who was, and since when.
#[derive(Clone, Debug, Default)]
pub struct Lasting {
    /// Since when each is said to be so, without a break.
    since: BTreeMap<NodeId, Instant>,
    now: Arc<BTreeSet<NodeId>>,
    /// Those that are so, or were lately: when that was seen last.
    last: Arc<BTreeMap<NodeId, Instant>>,
}

/// How long it is remembered of a node that it was not well: longer than the engine wants it to be well before it is entered.
const REMEMBERED: Duration = Duration::from_secs(60);

impl Lasting {
    /// Those that are so.
    #[must_use]
    pub const fn now(&self) -> &Arc<BTreeSet<NodeId>> {
        &self.now
    }

    /// Those that are, or were, with the last moment at which they were.
    #[must_use]
    pub const fn last(&self) -> &Arc<BTreeMap<NodeId, Instant>> {
        &self.last
    }

    /// Whether nothing is known of anybody.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.since.is_empty() && self.last.is_empty()
    }

    /// Who looks was asleep itself: nobody has said anything meanwhile.
    pub fn slept(&mut self, span: Duration) {
        for since in self.since.values_mut() {
            *since = *since + span;
        }
    }

    /// These are said to be so at the moment. One is so once who says it has `said` it again after `span`. Whether that has
    /// changed who is.
    pub fn look(
        &mut self,
        at: Instant,
        ailing: BTreeSet<NodeId>,
        span: Duration,
        said: impl Fn(NodeId) -> Option<Instant>,
    ) -> bool {
        self.since.retain(|node, _| ailing.contains(node));
        for node in ailing {
            self.since.entry(node).or_insert(at);
        }
        let again = |node: NodeId, since: Instant| said(node).is_some_and(|said| said >= since + span);
        let lasting = self.since.iter().filter(|(node, since)| again(**node, **since));
        let now: BTreeSet<NodeId> = lasting.map(|(node, _)| *node).collect();
        if !now.is_empty() || !self.last.is_empty() {
            let known = self.last.iter().map(|(node, seen)| (*node, *seen));
            let kept = known.filter(|(_, seen)| at.since(*seen) < REMEMBERED);
            self.last = Arc::new(kept.chain(now.iter().map(|node| (*node, at))).collect());
        }
        let has_changed = *self.now != now;
        if has_changed {
            self.now = Arc::new(now);
        }
        has_changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: NodeId = NodeId(12);

    fn at(millis: u64) -> Instant {
        Instant(millis * 1_000_000)
    }

    fn look(lasting: &mut Lasting, is_ailing: bool, now: u64, said: u64) -> bool {
        let ailing = is_ailing.then_some(NODE).into_iter().collect();
        lasting.look(at(now), ailing, Duration::from_secs(1), |_| Some(at(said)));
        lasting.now().contains(&NODE)
    }

    #[test]
    fn it_lasts_once_it_was_said_again_and_not_because_nothing_newer_comes() {
        let mut lasting = Lasting::default();
        assert!(!look(&mut lasting, true, 5_000, 5_000));
        assert!(!look(&mut lasting, true, 7_000, 5_999));
        assert!(look(&mut lasting, true, 7_000, 6_000));
        assert_eq!(lasting.last().get(&NODE), Some(&at(7_000)));
        assert!(!look(&mut lasting, false, 7_500, 7_500));
        // The time begins anew.
        assert!(!look(&mut lasting, true, 8_000, 8_000));
        assert_eq!(lasting.last().get(&NODE), Some(&at(7_000)));
    }

    #[test]
    fn what_who_looks_has_slept_through_does_not_count_and_the_past_is_forgotten() {
        let mut lasting = Lasting::default();
        assert!(!look(&mut lasting, true, 1_000, 1_000));
        lasting.slept(Duration::from_secs(3));
        assert!(!look(&mut lasting, true, 4_999, 4_999));
        assert!(look(&mut lasting, true, 5_000, 5_000));
        assert!(!look(&mut lasting, false, 64_999, 64_999));
        assert!(!lasting.is_empty());
        assert!(!look(&mut lasting, false, 65_000, 65_000));
        assert!(lasting.is_empty());
    }
}
