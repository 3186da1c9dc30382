//! Retire: ends this ingress's own blocks of write ids, so that what their failed writes left behind can be swept.
//!
//! A block is *spent* when all its ids were given out, or when it has been in use for so long that ids are given out of
//! another from now on: else what failed on a quiet ingress would lie about for years. A spent block is closed when no
//! request and no open write holds an id of it any more. That is for the clients' sake alone: whenever a block is
//! closed, a manifest is either taken or refused. It owns the spent blocks; ids are given out by `blocks`.

use core::time::Duration;
use std::collections::VecDeque;

use mesh_core::{
    id::{GroupId, WriteId},
    time::Instant,
};

/// The spent blocks of all groups.
#[derive(Default)]
pub(super) struct Retire {
    /// Oldest first, at most `SPENT_MAX`: the groups close the oldest of many themselves.
    spent: VecDeque<Spent>,
    look_at: Instant,
    /// One is being closed.
    closing: bool,
    setbacks: u32,
}

/// A block of which no more ids are given out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Spent {
    pub(super) group: GroupId,
    /// Its first id.
    pub(super) first: WriteId,
    /// One behind the last that was given out.
    pub(super) end: WriteId,
}

impl Retire {
    pub(super) fn spend(&mut self, spent: Spent, now: Instant) {
        if self.spent.is_empty() {
            self.look_at = now + PERIOD;
        }
        if self.spent.len() >= SPENT_MAX {
            self.spent.pop_front();
        }
        self.spent.push_back(spent);
    }

    /// The blocks for which this holds are closed already.
    pub(super) fn forget(&mut self, is_closed: impl Fn(&Spent) -> bool) {
        self.spent.retain(|spent| !is_closed(spent));
    }

    pub(super) fn next_at(&self) -> Option<Instant> {
        if self.spent.is_empty() || self.closing { None } else { Some(self.look_at) }
    }

    /// The next block to close now, if there is one that nobody holds an id of.
    pub(super) fn next(&mut self, now: Instant, is_held: impl Fn(&Spent) -> bool) -> Option<(GroupId, WriteId)> {
        if self.next_at().is_none_or(|at| at > now) {
            return None;
        }
        self.look_at = now + PERIOD;
        let spent = self.spent.iter().find(|spent| !is_held(spent))?;
        self.closing = true;
        Some((spent.group, spent.first))
    }

    pub(super) fn heard(&mut self, (group, first): (GroupId, WriteId), closed: bool, now: Instant) {
        self.closing = false;
        if closed {
            self.forget(|spent| (spent.group, spent.first) == (group, first));
            (self.setbacks, self.look_at) = (0, now);
        } else {
            self.setbacks = self.setbacks.saturating_add(1);
            self.look_at = now + PERIOD.saturating_mul(1 << self.setbacks.min(8)).min(PERIOD_MAX);
        }
    }
}

/// How long ids of one block are given out: then what it left behind outlives its grace by little.
pub(super) fn age_max(grace: Duration) -> Duration {
    grace.saturating_mul(2).max(AGE_MIN)
}

/// Between two looks whether a spent block is held still.
const PERIOD: Duration = Duration::from_secs(5);
/// The same after failures, at most.
const PERIOD_MAX: Duration = Duration::from_secs(60);
/// However short the grace is.
const AGE_MIN: Duration = Duration::from_secs(60);
/// Spent blocks that are remembered.
const SPENT_MAX: usize = 256;
