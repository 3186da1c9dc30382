//! Clocks: the room's, which nobody but the room sees, and those of nodes.

use core::time::Duration;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use mesh_core::{
    port::Clock,
    time::{Instant, UnixMillis},
};

/// How long a window is: what tokio's timers can tell apart.
pub(super) const WINDOW: Duration = Duration::from_millis(1);

/// When every room begins: 2026-01-01.
const EPOCH: UnixMillis = UnixMillis(1_767_225_600_000);

/// The room's clock: windows that have begun. Clones of its `Arc` show the same.
#[derive(Debug, Default)]
pub(super) struct RoomTime(AtomicU64);

impl RoomTime {
    /// Windows until now: milliseconds.
    pub(super) fn windows(&self) -> u64 {
        self.0.load(Relaxed)
    }

    pub(super) fn advance(&self) -> u64 {
        self.0.fetch_add(1, Relaxed) + 1
    }
}

impl Clock for RoomTime {
    fn now(&self) -> Instant {
        Instant(0) + WINDOW * u32::try_from(self.windows()).unwrap_or(u32::MAX)
    }

    fn wall(&self) -> UnixMillis {
        UnixMillis(EPOCH.0 + self.windows())
    }
}

/// Both clocks of one start of a node, which go as its runtime's does.
#[derive(Debug)]
pub(super) struct NodeClock {
    pub(super) began: tokio::time::Instant,
    /// What its wall clock showed then.
    pub(super) wall: UnixMillis,
}

impl NodeClock {
    fn elapsed(&self) -> Duration {
        tokio::time::Instant::now().saturating_duration_since(self.began)
    }
}

impl Clock for NodeClock {
    fn now(&self) -> Instant {
        // Not at zero: nothing is before a node's start.
        Instant(1) + self.elapsed()
    }

    fn wall(&self) -> UnixMillis {
        UnixMillis(self.wall.0 + u64::try_from(self.elapsed().as_millis()).unwrap_or(u64::MAX))
    }
}
