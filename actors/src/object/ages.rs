//! Ages: which garbage is old enough, by one clock.
//!
//! The groups stamp what becomes garbage in the order in which it does, by the clocks of whoever deleted it: good for an
//! order, not for a time. How old something is at least is therefore measured here alone: what had been stamped when
//! this function looked is, a grace later by its own clock, that old. It begins anew with each life of the function, so
//! that garbage waits once more for the grace, never for less.

use core::time::Duration;
use std::collections::VecDeque;

use mesh_core::time::{Instant, UnixMillis};

/// See the module's page. Of one group.
#[derive(Debug, Default)]
pub(super) struct Ages {
    /// When which stamp was the newest, both ascending; at most [`LOOKS_MAX`] and one.
    looks: VecDeque<(Instant, UnixMillis)>,
    /// What bears this stamp or an earlier one is old enough.
    ripe: UnixMillis,
}

impl Ages {
    /// A look at the group: this was the newest stamp.
    pub(super) fn saw(&mut self, newest: UnixMillis, grace: Duration, now: Instant) {
        let known = self.looks.back().map_or(self.ripe, |(_, stamp)| *stamp);
        if newest > known && self.next_look(grace).is_none_or(|at| at <= now) {
            self.looks.push_back((now, newest));
        }
    }

    /// Stamps below this are old enough.
    pub(super) fn ripe(&mut self, grace: Duration, now: Instant) -> UnixMillis {
        while let Some((_, stamp)) = self.looks.pop_front_if(|(seen, _)| *seen + grace <= now) {
            self.ripe = stamp;
        }
        UnixMillis(self.ripe.0.saturating_add(1))
    }

    /// When something becomes old enough.
    pub(super) fn next_ripe(&self, grace: Duration) -> Option<Instant> {
        self.looks.front().map(|(seen, _)| *seen + grace)
    }

    /// Before this, another look is not remembered.
    pub(super) fn next_look(&self, grace: Duration) -> Option<Instant> {
        let step = (grace / 4).min(STEP_MAX).max(grace / LOOKS_MAX);
        self.looks.back().map(|(seen, _)| *seen + step)
    }
}

/// Between two looks that are remembered at most, but for long graces: garbage waits longer than the grace by that.
const STEP_MAX: Duration = Duration::from_secs(2);
/// Looks within one grace at most.
const LOOKS_MAX: u32 = 64;

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(60);

    fn at(seconds: u64) -> Instant {
        Instant::default() + Duration::from_secs(seconds)
    }

    #[test]
    fn what_was_seen_is_old_enough_a_grace_later_whatever_its_stamp_says() {
        // The first was stamped by a clock that is far ahead, the second a moment later.
        let mut ages = Ages::default();
        ages.saw(UnixMillis(9_000_000), GRACE, at(10));
        ages.saw(UnixMillis(9_000_001), GRACE, at(20));
        assert_eq!((ages.ripe(GRACE, at(69)), ages.next_ripe(GRACE)), (UnixMillis(1), Some(at(70))));
        assert_eq!((ages.ripe(GRACE, at(70)), ages.next_ripe(GRACE)), (UnixMillis(9_000_001), Some(at(80))));
        assert_eq!((ages.ripe(GRACE, at(80)), ages.next_ripe(GRACE)), (UnixMillis(9_000_002), None));
        // Nothing new: nothing to remember.
        ages.saw(UnixMillis(9_000_001), GRACE, at(90));
        assert_eq!(ages.next_ripe(GRACE), None);
    }

    #[test]
    fn remembers_few_looks_however_long_the_grace_is() {
        for grace in [Duration::from_millis(100), GRACE, Duration::from_secs(900), Duration::from_secs(1 << 20)] {
            let mut ages = Ages::default();
            for tick in 0..100_000_u64 {
                let now = Instant::default() + grace * tick as u32 / 10_000;
                ages.saw(UnixMillis(tick), grace, now);
                ages.ripe(grace, now);
                assert!(ages.looks.len() <= LOOKS_MAX as usize + 1);
            }
        }
    }
}
