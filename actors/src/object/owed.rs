//! Owed: has drives that were away delete what they still hold of writes that are forgotten.
//!
//! Reclaim waits for no drive: where one does not answer, the others delete their shards, the write is forgotten, and a
//! row of its group says that this drive is owed the deletion. Here such rows are worked off, by drive: a page of writes,
//! a walk over what the drive holds of them, and the rows go. A drive that does not answer is asked again later and
//! later, and holds up no other; of one that is lost for good the rows are let go. The rows are the only memory: what is
//! cut short, or done by two at once, is done again without harm.
//!
//! ```text
//! a drive:  Idle -(its time comes)-> Asking -(a page of writes)-> Walking -> SettleDue -> Settling -> Idle
//!                                      '-(none)-> forgotten           '-(no answer)-> Idle, later
//! ```

use core::time::Duration;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use mesh_core::{
    Error, Response,
    id::{DriveId, GroupId, WriteId},
    meta::{Command, MetaAnswer, Query, UpkeepCommand},
    time::Instant,
};

use super::{
    sweep::Round,
    task::{self, Failure, Question},
};

/// What an answer is about.
pub(super) struct Errand {
    group: GroupId,
    drive: DriveId,
    /// Of which assignment of the group: what an earlier one asked for is of no interest.
    term: u64,
}

/// See the module's page.
#[derive(Default)]
pub(super) struct Owed {
    groups: BTreeMap<GroupId, Group>,
    terms: u64,
    /// Drives that are lost for good.
    lost: BTreeSet<DriveId>,
}

struct Group {
    term: u64,
    drives: BTreeMap<DriveId, Debt>,
}

/// What one drive is owed by one group.
struct Debt {
    state: State,
    /// Nothing is begun before.
    due: Instant,
    /// Failures in a row.
    setbacks: u32,
}

enum State {
    Idle,
    Asking,
    Walking(Vec<WriteId>, Round),
    SettleDue(Vec<WriteId>),
    Settling,
}

impl Owed {
    /// Takes over these groups, and leaves others at once: what is out for them is not heard any more.
    pub(super) fn assign(&mut self, groups: &BTreeSet<GroupId>, lost: &[DriveId]) {
        self.lost = lost.iter().copied().collect();
        self.groups.retain(|group, _| groups.contains(group));
        for group in groups {
            let terms = &mut self.terms;
            self.groups.entry(*group).or_insert_with(|| {
                *terms += 1;
                Group { term: *terms, drives: BTreeMap::new() }
            });
        }
    }

    /// A group says which drives are owed something. Those that are known keep their pace.
    pub(super) fn told(&mut self, group: GroupId, drives: &[DriveId], now: Instant) {
        let Some(group) = self.groups.get_mut(&group) else { return };
        for drive in drives {
            let fresh = || Debt { state: State::Idle, due: now, setbacks: 0 };
            group.drives.entry(*drive).or_insert_with(fresh);
        }
    }

    /// When there will be something to do.
    pub(super) fn next_at(&self) -> Option<Instant> {
        let free = self.groups.values().filter(|group| group.busy() < DRIVES_BUSY_MAX);
        free.flat_map(|group| group.drives.values().filter(|debt| debt.is_idle()).map(|debt| debt.due)).min()
    }

    /// The next thing to do now.
    pub(super) fn next_errand(&mut self, now: Instant) -> Option<(Errand, Question)> {
        let lost = &self.lost;
        self.groups.iter_mut().find_map(|(&id, group)| {
            let (drive, question) = group.next(id, lost, now)?;
            Some((Errand { group: id, drive, term: group.term }, question))
        })
    }

    pub(super) fn hear(&mut self, errand: Errand, result: Result<Response, Failure>, now: Instant) {
        let Errand { group, drive, term } = errand;
        let Some(group) = self.groups.get_mut(&group).filter(|group| group.term == term) else { return };
        let Some(debt) = group.drives.get_mut(&drive) else { return };
        let result = result.map_err(Error::from);
        match &mut debt.state {
            State::Asking => match result.and_then(task::meta).map(Arc::unwrap_or_clone) {
                Ok(MetaAnswer::Writes(writes)) if writes.is_empty() => drop(group.drives.remove(&drive)),
                // Others are not writes that a group grants, and cannot be walked over.
                Ok(MetaAnswer::Writes(writes)) if writes.iter().all(|write| write.0 > 0) => {
                    debt.state = if self.lost.contains(&drive) {
                        State::SettleDue(writes)
                    } else {
                        let round = Round::of(writes.iter().copied().collect(), drive);
                        State::Walking(writes, round)
                    };
                }
                _ => debt.setback(now),
            },
            // Nobody refers to them: no layout has a say.
            State::Walking(_, round) => round.heard(drive, result, &BTreeMap::new()),
            State::Settling if result.is_ok() => {
                *debt = Debt { state: State::Idle, due: now, setbacks: 0 };
            }
            State::Idle | State::SettleDue(_) | State::Settling => debt.setback(now),
        }
    }
}

impl Group {
    /// Drives that are being seen to.
    fn busy(&self) -> usize {
        self.drives.values().filter(|debt| !debt.is_idle()).count()
    }

    fn next(&mut self, id: GroupId, lost: &BTreeSet<DriveId>, now: Instant) -> Option<(DriveId, Question)> {
        let goes_on =
            self.drives.iter_mut().find_map(|(&drive, debt)| Some((drive, debt.go_on(id, drive, lost, now)?)));
        if goes_on.is_some() || self.busy() >= DRIVES_BUSY_MAX {
            return goes_on;
        }
        let due = self.drives.iter_mut().filter(|(_, debt)| debt.is_idle() && debt.due <= now);
        let (&drive, debt) = due.min_by_key(|(_, debt)| debt.due)?;
        debt.state = State::Asking;
        let query = Query::Owed { drive, limit: PAGE };
        Some((drive, Question::query_directly(id, query)))
    }
}

impl Debt {
    const fn is_idle(&self) -> bool {
        matches!(self.state, State::Idle)
    }

    /// What a drive that is being seen to needs next.
    fn go_on(&mut self, id: GroupId, drive: DriveId, lost: &BTreeSet<DriveId>, now: Instant) -> Option<Question> {
        if let State::Walking(writes, round) = &mut self.state {
            if let Some((drive, want)) = round.next() {
                return Some(want.question(id, drive));
            }
            if !round.is_over() {
                return None;
            }
            if round.covers(drive) || lost.contains(&drive) {
                self.state = State::SettleDue(core::mem::take(writes));
            } else {
                self.setback(now);
            }
        }
        let State::SettleDue(writes) = &mut self.state else { return None };
        let writes = core::mem::take(writes);
        self.state = State::Settling;
        Some(Question::propose_directly(Command::Upkeep(id, UpkeepCommand::PayOwed { drive, writes })))
    }

    /// Tries again later.
    fn setback(&mut self, now: Instant) {
        self.setbacks = self.setbacks.saturating_add(1);
        self.state = State::Idle;
        self.due = now + RETRY.saturating_mul(1 << self.setbacks.min(8)).min(RETRY_MAX);
    }
}

/// Before a drive that did not answer is asked again.
const RETRY: Duration = Duration::from_secs(1);
/// The same after many failures: what a drive is owed waits so long at most once it is back.
const RETRY_MAX: Duration = Duration::from_secs(30);
/// Writes that are seen to at once, of one drive.
const PAGE: u32 = 1024;
/// Drives of a group that are seen to at once.
const DRIVES_BUSY_MAX: usize = 4;
