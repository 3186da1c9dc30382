//! What is to happen later. Owns the order of moments, and nothing of what happens then.

use std::collections::BTreeMap;

use mesh_core::{
    id::{GroupId, Token},
    time::Instant,
};

use super::ask::Ask;

/// What is due.
pub(super) enum Timer {
    /// A call is sent again.
    Resend(Ask),
    /// A task's pause is over.
    Due(Token),
    /// A task waited for a write id until its deadline.
    Ungranted(Token, GroupId),
    /// A call waited for a group's session until its deadline.
    Unopened(GroupId, u64),
}

/// Names a timer: when, and the how-manieth, so that equal moments keep their order.
pub(super) type TimerKey = (Instant, u64);

/// Timers in order.
#[derive(Default)]
pub(super) struct Timers {
    set: BTreeMap<TimerKey, Timer>,
    count: u64,
}

impl Timers {
    pub(super) fn set(&mut self, at: Instant, timer: Timer) -> TimerKey {
        self.count += 1;
        let key = (at, self.count);
        self.set.insert(key, timer);
        key
    }

    pub(super) fn cancel(&mut self, key: TimerKey) {
        self.set.remove(&key);
    }

    /// The earliest timer whose time has come.
    pub(super) fn due(&mut self, now: Instant) -> Option<Timer> {
        let first = self.set.first_entry()?;
        if first.key().0 <= now { Some(first.remove()) } else { None }
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.set.first_key_value().map(|((at, _), _)| *at)
    }
}
