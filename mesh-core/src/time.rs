//! Time as data. Functions never read a clock: `now` comes with every event.

use core::{fmt, ops, time::Duration};

use serde::{Deserialize, Serialize};

/// A point on a node's monotonic clock, in nanoseconds since that node's clock began. Comparable only on one node:
/// what crosses a link is a budget (a [`Duration`]), never an `Instant`.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(pub u64);

impl Instant {
    /// Later than everything: "no deadline".
    pub const NEVER: Self = Self(u64::MAX);

    /// How long after `earlier` this is; zero if it is not after.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// How long until `self` from `now`; zero if it has passed.
    #[must_use]
    pub const fn after(self, now: Self) -> Duration {
        self.since(now)
    }
}

impl ops::Add<Duration> for Instant {
    type Output = Self;

    fn add(self, span: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl fmt::Debug for Instant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::NEVER { f.write_str("never") } else { write!(f, "{:?}", Duration::from_nanos(self.0)) }
    }
}

/// Wall-clock time in milliseconds since 1970 UTC. Shown to users (`Last-Modified`), never used to order events.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Debug)]
#[serde(transparent)]
pub struct UnixMillis(pub u64);
