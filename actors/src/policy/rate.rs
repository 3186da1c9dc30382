//! A token bucket: so much a second, with a burst of one second's worth.
//!
//! It may go into debt: whoever finds it above zero takes what they need, and those who come later wait until it is
//! paid back. So one request larger than the burst still goes through, and the rate holds over time.

use mesh_core::time::Instant;

/// Tokens a second, in the unit of the bucket; `None`: no limit.
pub(super) type Rate = Option<u64>;

/// A level that rises with time. Counted in billionths of a token, so that nothing is lost to rounding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bucket {
    rate: Rate,
    level: i128,
    at: Instant,
}

impl Bucket {
    pub(super) fn full(rate: Rate) -> Self {
        Self { rate, level: capacity(rate), at: Instant::default() }
    }

    /// Takes tokens if the bucket is above zero.
    pub(super) fn take(&mut self, tokens: u64, now: Instant) -> bool {
        let is_open = self.is_open(now);
        if is_open {
            self.charge(tokens, now);
        }
        is_open
    }

    /// Whether it would give something.
    pub(super) fn is_open(&mut self, now: Instant) -> bool {
        self.fill(now);
        self.rate.is_none() || self.level > 0
    }

    /// Takes tokens for what has happened already.
    pub(super) fn charge(&mut self, tokens: u64, now: Instant) {
        if self.rate.is_some() {
            self.fill(now);
            self.level -= i128::from(tokens) * SCALE;
        }
    }

    /// Another rate from now on; the level stays, within the new bounds. A limit where there was none begins full.
    pub(super) fn set_rate(&mut self, rate: Rate, now: Instant) {
        self.fill(now);
        self.level = if self.rate.is_none() { capacity(rate) } else { self.level.min(capacity(rate)) };
        self.rate = rate;
    }

    /// The level in billionths, for a snapshot. Clocks differ between nodes: the time does not travel.
    pub(super) const fn level(&self) -> i128 {
        self.level
    }

    /// Takes over a level; it begins to rise with the next event.
    pub(super) fn set_level(&mut self, level: i128) {
        self.level = level.clamp(-DEBT_MAX, capacity(self.rate));
        self.at = Instant::NEVER;
    }

    fn fill(&mut self, now: Instant) {
        let Some(rate) = self.rate else {
            self.at = now;
            return;
        };
        // A level just taken over has no time of its own: `now` is not after it.
        let passed = i128::from(now.since(self.at).as_nanos() as u64);
        self.level = (self.level + passed * i128::from(rate)).min(capacity(self.rate));
        self.at = now;
    }
}

fn capacity(rate: Rate) -> i128 {
    i128::from(rate.unwrap_or(0)) * SCALE
}

/// A limit as a rate: zero means one a second at least, for a tenant that may do nothing has no grants.
pub(super) fn per_second(limit: u64) -> u64 {
    limit.max(1)
}

/// Level units a token: a rate of one a second is one unit a nanosecond.
const SCALE: i128 = 1_000_000_000;
/// A debt that is believed from a snapshot at most.
const DEBT_MAX: i128 = 1 << 96;

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(tenths: u64) -> Instant {
        Instant(tenths * 100_000_000)
    }

    #[test]
    fn lets_a_burst_through_and_then_the_rate() {
        let mut bucket = Bucket::full(Some(10));
        let taken = (0..20).filter(|_| bucket.take(1, seconds(0))).count();
        assert_eq!(taken, 10);
        let taken = (1..=50).filter(|&at| bucket.take(1, seconds(at))).count();
        assert_eq!(taken, 50);
        assert!(!bucket.take(1, seconds(50)));
    }

    #[test]
    fn pays_back_a_debt_before_it_gives_again() {
        let mut bucket = Bucket::full(Some(100));
        assert!(bucket.take(500, seconds(0)));
        assert!(!bucket.take(1, seconds(40)));
        assert!(bucket.take(1, seconds(41)));
    }

    #[test]
    fn has_no_limit_without_a_rate_and_keeps_its_level_when_the_rate_changes() {
        let mut bucket = Bucket::full(None);
        assert!(bucket.take(u64::MAX, seconds(0)));
        bucket.set_rate(Some(10), seconds(0));
        assert!(bucket.take(10, seconds(0)));
        bucket.set_rate(Some(1000), seconds(0));
        assert!(!bucket.take(1, seconds(0)));
    }

    #[test]
    fn a_level_taken_over_does_not_rise_for_the_time_of_another_clock() {
        let mut bucket = Bucket::full(Some(10));
        bucket.set_level(0);
        assert!(!bucket.take(1, seconds(1_000_000)));
        assert!(bucket.take(1, seconds(1_000_001)));
    }
}
