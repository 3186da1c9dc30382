//! How much of large reads is under way at once: pure decisions, given the time. `turns` does the waiting.
//!
//! Large reads use the same threads as everything else: many at once are a little faster, and whoever asks for something
//! small waits behind all of them at each of its steps. So they have a window. Alone they soon have all of it; while
//! small requests come too, it shrinks as long as the node's tasks run late, and grows slowly while they run in time:
//! additive increase and multiplicative decrease, as TCP has it (Chiu and Jain, 1989). Below one stripe the window is kept
//! by resting between two reads. Why tasks are late is not asked: a machine that has no time for other reasons has less
//! for large reads too, down to one at a time for half of the time.

use std::time::Duration;

use mesh_core::limits::STRIPE_BYTES_MAX;
use tokio::time::Instant;

/// The window of one node's large reads.
#[derive(Debug)]
pub(super) struct Pace {
    /// What may be under way when nothing else is.
    most: usize,
    window: usize,
    under_way: usize,
    /// When something small was last asked for.
    small: Option<Instant>,
}

impl Pace {
    /// A window of so many bytes at most; one stripe at least.
    pub(super) fn new(most: usize) -> Self {
        let most = most.max(STRIPE_BYTES_MAX);
        Self { most, window: most, under_way: 0, small: None }
    }

    /// Whether a read of so many bytes begins now; then it counts until its [`Self::end`].
    pub(super) fn begin(&mut self, bytes: usize, now: Instant) -> bool {
        if self.under_way == 0 && !self.is_shared(now) {
            self.window = self.most;
        }
        // Alone, any read may: a node that is late goes on all the same.
        let begins = self.under_way == 0 || self.under_way + bytes <= self.window;
        if begins {
            self.under_way += bytes;
        }
        begins
    }

    /// A read has ended, and has rested.
    pub(super) const fn end(&mut self, bytes: usize) {
        self.under_way -= bytes;
    }

    /// Whether nothing is under way.
    pub(super) const fn is_idle(&self) -> bool {
        self.under_way == 0
    }

    /// How long a read that took so long rests before the next one begins.
    pub(super) fn rest(&self, took: Duration) -> Duration {
        if self.window >= STRIPE_BYTES_MAX {
            return Duration::ZERO;
        }
        let lacks = (STRIPE_BYTES_MAX - self.window) as f64 / self.window as f64;
        took.min(REST_MAX).mul_f64(lacks).min(REST_MAX)
    }

    /// Somebody asks for something small.
    pub(super) const fn small(&mut self, now: Instant) {
        self.small = Some(now);
    }

    /// Whether small requests come too.
    fn is_shared(&self, now: Instant) -> bool {
        self.small.is_some_and(|small| now.saturating_duration_since(small) < SHARED)
    }

    /// Whether reads have to wait for each other.
    #[cfg(test)]
    pub(super) const fn is_narrow(&self) -> bool {
        self.window < self.most
    }

    /// A task has run so much later than it could have. Called all the time while anything is under way.
    pub(super) fn ran(&mut self, late: Duration, now: Instant) {
        if !self.is_shared(now) {
            self.window = (self.window + self.most / ALONE_STEPS).min(self.most);
        } else if late > LATE_MIN {
            self.window = (self.window - self.window / 8).max(WINDOW_BYTES_MIN);
        } else {
            self.window = (self.window + STEP_BYTES).min(self.most);
        }
    }
}

/// The smallest window: one stripe for half of the time.
const WINDOW_BYTES_MIN: usize = STRIPE_BYTES_MAX / 2;
/// What it grows by each time that nothing was late.
const STEP_BYTES: usize = 32 << 10;
/// In so many steps it is whole again, once nobody asks for anything small.
const ALONE_STEPS: usize = 16;
/// Small requests come, if there was one within this.
const SHARED: Duration = Duration::from_secs(2);
/// A task that runs later than this is late: a request goes through half a dozen such waits.
const LATE_MIN: Duration = Duration::from_micros(400);
/// No rest is longer.
const REST_MAX: Duration = Duration::from_millis(250);

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;
    const IN_TIME: Duration = Duration::from_micros(50);
    const LATE: Duration = Duration::from_millis(10);

    #[test]
    fn alone_all_of_the_window_is_used_however_late() {
        let (mut pace, now) = (Pace::new(16 * MIB), Instant::now());
        assert!((0..4).all(|_| pace.begin(4 * MIB, now)));
        assert!(!pace.begin(4 * MIB, now));
        for _ in 0..100 {
            pace.ran(LATE, now);
        }
        pace.end(4 * MIB);
        assert!(pace.begin(4 * MIB, now));
        assert_eq!(pace.rest(LATE), Duration::ZERO);
    }

    #[test]
    fn beside_small_ones_it_shrinks_to_half_of_the_time_and_never_to_nothing() {
        let (mut pace, now) = (Pace::new(16 * MIB), Instant::now());
        pace.small(now);
        pace.ran(LATE, now);
        assert_eq!(pace.window, 14 * MIB);
        assert_eq!([4, 4, 4, 4].map(|mib| pace.begin(mib * MIB, now)), [true, true, true, false]);
        for _ in 0..100 {
            pace.ran(LATE, now);
        }
        assert_eq!(pace.window, 2 * MIB);
        assert_eq!(pace.rest(LATE), LATE);
        assert_eq!(pace.rest(Duration::from_secs(9)), REST_MAX);
        for _ in 0..3 {
            pace.end(4 * MIB);
        }
        assert!(pace.is_idle());
        assert!(pace.begin(4 * MIB, now), "alone it begins, though it is larger than the window");
        assert!(!pace.begin(MIB, now));
    }

    #[test]
    fn it_grows_slowly_beside_small_ones_and_fast_without() {
        let (mut pace, now) = (Pace::new(16 * MIB), Instant::now());
        pace.small(now);
        for _ in 0..100 {
            pace.ran(LATE, now);
        }
        for _ in 0..32 {
            pace.ran(IN_TIME, now);
        }
        assert_eq!(pace.window, 3 * MIB);
        let later = now + SHARED;
        for _ in 0..13 {
            pace.ran(LATE, later);
        }
        assert_eq!(pace.window, 16 * MIB);
    }

    #[test]
    fn reads_that_come_later_have_all_of_it_at_once() {
        let (mut pace, now) = (Pace::new(16 * MIB), Instant::now());
        pace.small(now);
        for _ in 0..100 {
            pace.ran(LATE, now);
        }
        assert!(pace.begin(4 * MIB, now));
        assert!(!pace.begin(4 * MIB, now));
        pace.end(4 * MIB);
        assert!((0..4).all(|_| pace.begin(4 * MIB, now + SHARED)));
    }

    #[test]
    fn the_window_has_room_for_a_stripe() {
        let mut pace = Pace::new(0);
        assert!(pace.begin(STRIPE_BYTES_MAX, Instant::now()));
        assert_eq!(pace.rest(LATE), Duration::ZERO);
    }
}
