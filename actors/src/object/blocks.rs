//! Write ids: granted by namespace groups in blocks, asked for ahead of time, given out once each.

use core::time::Duration;
use std::collections::{BTreeMap, VecDeque};

use mesh_core::{
    Error, ErrorKind, Response,
    id::{GroupId, Token, WriteId},
    limits::WRITE_BLOCK,
    meta::MetaAnswer,
    time::Instant,
};

use super::{
    retire::{Retire, Spent},
    task::{self, Failure},
    timers::TimerKey,
};

/// The blocks of all groups.
#[derive(Default)]
pub(super) struct Blocks {
    groups: BTreeMap<GroupId, Block>,
    pub(super) retire: Retire,
    parked: usize,
}

#[derive(Default)]
struct Block {
    /// Ids not yet given out, in the order granted. At most two: a refill is asked for only while the rest is low.
    ranges: VecDeque<Range>,
    asking: bool,
    parked: VecDeque<Waiter>,
}

/// What is left of a block.
struct Range {
    /// The block's first id.
    first: WriteId,
    next: WriteId,
    /// One behind the last.
    end: WriteId,
    /// When its first id was given out.
    since: Option<Instant>,
}

/// A task that waits for a write id, and its deadline's timer.
pub(super) struct Waiter {
    pub(super) task: Token,
    pub(super) timer: TimerKey,
}

impl Block {
    fn left(&self) -> u64 {
        self.ranges.iter().map(|range| range.end.0 - range.next.0).sum()
    }

    /// The next id, and the block if that was its last one.
    fn take(&mut self, now: Instant) -> Option<(WriteId, Option<Range>)> {
        let range = self.ranges.front_mut()?;
        let write = range.next;
        range.next.0 += 1;
        range.since.get_or_insert(now);
        let spent = if range.next >= range.end { self.ranges.pop_front() } else { None };
        Some((write, spent))
    }
}

impl Blocks {
    pub(super) fn take(&mut self, group: GroupId, now: Instant) -> Option<WriteId> {
        let (write, spent) = self.groups.get_mut(&group)?.take(now)?;
        if let Some(Range { first, end, .. }) = spent {
            self.retire.spend(Spent { group, first, end }, now);
        }
        Some(write)
    }

    /// When a block will have been in use for as long as it may be.
    pub(super) fn next_expiry(&self, age_max: Duration) -> Option<Instant> {
        let fronts = self.groups.values().filter_map(|block| block.ranges.front()?.since);
        fronts.min().map(|since| since + age_max)
    }

    /// Gives out no more ids of blocks that have been in use for so long.
    pub(super) fn expire(&mut self, age_max: Duration, now: Instant) {
        if self.next_expiry(age_max).is_none_or(|at| at > now) {
            return;
        }
        for (&group, block) in &mut self.groups {
            let is_old = |range: &mut Range| range.since.is_some_and(|since| since + age_max <= now);
            if let Some(Range { first, next, .. }) = block.ranges.pop_front_if(is_old) {
                self.retire.spend(Spent { group, first, end: next }, now);
            }
        }
    }

    /// Whether another block is to be asked for: the group's ids run low, and none is asked for already.
    pub(super) fn wants(&self, group: GroupId) -> bool {
        self.groups
            .get(&group)
            .is_none_or(|block| !block.asking && block.ranges.len() < RANGES_MAX && block.left() <= REFILL_BELOW)
    }

    /// Another block is asked for.
    pub(super) fn asked(&mut self, group: GroupId) {
        self.groups.entry(group).or_default().asking = true;
    }

    /// The session under which a group's blocks were granted is over, and so are they.
    pub(super) fn forget(&mut self, group: GroupId) {
        if let Some(block) = self.groups.get_mut(&group) {
            block.ranges.clear();
        }
        self.retire.forget(|spent| spent.group == group);
    }

    /// Takes in a block, or gives back who waited for it in vain.
    pub(super) fn opened(
        &mut self,
        group: GroupId,
        result: Result<Response, Failure>,
    ) -> Result<(), (Error, VecDeque<Waiter>)> {
        let block = self.groups.entry(group).or_default();
        block.asking = false;
        let granted = result.map_err(Error::from).and_then(task::meta).and_then(|answer| match *answer {
            MetaAnswer::Block { first, count } if count > 0 => {
                Ok(Range { first, next: first, end: WriteId(first.0.saturating_add(count)), since: None })
            }
            ref other => Err(task::unexpected("a block of write ids", other)),
        });
        match granted {
            Ok(range) => {
                block.ranges.push_back(range);
                Ok(())
            }
            Err(error) => {
                let parked = core::mem::take(&mut block.parked);
                self.parked -= parked.len();
                Err((none_yet().caused_by(error), parked))
            }
        }
    }

    /// A write's block turned out to be closed: no more ids of it are given out.
    pub(super) fn revoke(&mut self, write: WriteId) {
        for block in self.groups.values_mut() {
            block.ranges.retain(|range| !(range.first..range.end).contains(&write));
        }
        self.retire.forget(|spent| (spent.first..spent.end).contains(&write));
    }

    /// Those who waited for a write id and now have one.
    pub(super) fn served(&mut self, group: GroupId, now: Instant) -> Vec<(Waiter, Result<WriteId, Error>)> {
        let mut served = Vec::new();
        while self.has_parked(group) {
            let Some(write) = self.take(group, now) else { break };
            let waiter = self.groups.get_mut(&group).and_then(|block| block.parked.pop_front());
            served.extend(waiter.map(|waiter| (waiter, Ok(write))));
        }
        self.parked -= served.len();
        served
    }

    pub(super) fn park(&mut self, group: GroupId, task: Token, timer: TimerKey) {
        self.groups.entry(group).or_default().parked.push_back(Waiter { task, timer });
        self.parked += 1;
    }

    pub(super) fn unpark(&mut self, group: GroupId, task: Token) {
        if let Some(block) = self.groups.get_mut(&group) {
            let before = block.parked.len();
            block.parked.retain(|waiter| waiter.task != task);
            self.parked -= before - block.parked.len();
        }
    }

    pub(super) fn has_parked(&self, group: GroupId) -> bool {
        self.groups.get(&group).is_some_and(|block| !block.parked.is_empty())
    }

    /// Whether no more may wait.
    pub(super) const fn is_full(&self) -> bool {
        self.parked >= PARKED_MAX
    }
}

/// For those who get no write id.
pub(super) fn none_yet() -> Error {
    Error::new(ErrorKind::Overloaded, "no write id was granted yet; send again later")
}

/// Ids left below which the next block is asked for.
const REFILL_BELOW: u64 = WRITE_BLOCK / 4;
/// Blocks of a group held at most: the one in use and the one after it.
const RANGES_MAX: usize = 2;
/// Requests that wait for a write id at most.
const PARKED_MAX: usize = 1024;
