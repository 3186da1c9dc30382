//! Reclaim: deletes the stripes that no manifest refers to, and then forgets them.
//!
//! Two sources: *litter* (stripes of attempts and writes that failed here; best effort, for the closing of their block
//! of write ids catches what is missed) and *garbage* (rows in the groups that this ingress reclaims; each is dropped
//! only after every one of its stripes is deleted, so nothing is missed). It deletes as the mesh itself, a bounded
//! number at a time, and backs off where deleting fails.
//!
//! ```text
//! a group:  Idle -(time)-> Asking -(rows)-> Deleting -(some gone)-> Settled -> Dropping -> Idle
//! ```

use core::time::Duration;
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use mesh_core::{
    Buf, Cx, Response,
    id::{DriveId, GroupId, StripeId, WriteId},
    meta::{Command, Garbage, MetaAnswer, Query},
    op::{StripeOp, StripeTarget},
    time::{Instant, UnixMillis},
};

use super::{
    task::{self, Failure, Question, Retry},
    writes::binding_of_nobody,
};

/// A stripe to be deleted.
#[derive(Clone, Debug)]
pub(super) struct Doomed {
    target: StripeTarget,
    avoid: Vec<DriveId>,
    tries: u32,
}

impl Doomed {
    pub(super) const fn new(target: StripeTarget, avoid: Vec<DriveId>) -> Self {
        Self { target, avoid, tries: 0 }
    }

    fn question(&self) -> Question {
        let op = StripeOp::Delete { target: self.target.clone(), avoid: self.avoid.clone() };
        Question::stripe(op, Buf::empty(), Retry::Never)
    }
}

/// What an answer is about.
pub(super) enum Errand {
    /// A stripe of litter.
    Litter(Box<Doomed>),
    /// A page of garbage.
    Garbage(GroupId),
    /// A stripe of a garbage row.
    Stripe(GroupId, WriteId),
    /// Garbage rows that are done with.
    Drop(GroupId),
}

/// See the module's page.
#[derive(Default)]
pub(super) struct Reclaim {
    /// By the time it is due.
    litter: BTreeMap<(Instant, u64), Doomed>,
    count: u64,
    groups: BTreeMap<GroupId, Group>,
    /// Deletions that are out.
    deleting: usize,
}

struct Group {
    assigned: bool,
    state: State,
    /// When to ask again, once idle.
    next_at: Instant,
    /// Something will be garbage at this time.
    hurry: Option<Instant>,
    /// Rounds in a row in which something failed.
    setbacks: u32,
    /// Rows that could not be reclaimed in the last round: the page grows by them, lest they hide the rest.
    stuck: usize,
}

enum State {
    Idle,
    Asking,
    Deleting(Round),
    Settled(Round),
    Dropping { more: bool },
}

/// One page of garbage.
#[derive(Default)]
struct Round {
    /// Rows whose stripes are not all sent yet; the first is at `cursor`.
    rows: VecDeque<Garbage>,
    cursor: u32,
    /// Rows with deletions out.
    open: BTreeMap<WriteId, Progress>,
    done: Vec<WriteId>,
    failed: usize,
    /// There may be more rows.
    full: bool,
}

#[derive(Default)]
struct Progress {
    out: u32,
    sent: bool,
    failed: bool,
}

impl Round {
    /// The next stripe to delete.
    fn next_stripe(&mut self) -> Option<Doomed> {
        loop {
            let row = self.rows.front()?;
            let extent = &row.extent;
            let progress = self.open.entry(extent.write).or_default();
            if !progress.failed && self.cursor < extent.stripes() {
                let stripe = self.cursor;
                self.cursor += 1;
                progress.out += 1;
                let run = extent.run_of(stripe);
                let attempt = run.map_or(0, |run| run.attempt);
                let target = StripeTarget {
                    id: StripeId { write: extent.write, stripe, attempt },
                    layout: extent.layout,
                    binding: binding_of_nobody(row.tenant),
                    key: None,
                };
                return Some(Doomed::new(target, run.map_or_else(Vec::new, |run| run.avoid.clone())));
            }
            progress.sent = true;
            let write = extent.write;
            self.rows.pop_front();
            self.cursor = 0;
            self.close(write);
        }
    }

    fn heard(&mut self, write: WriteId, deleted: bool) {
        if let Some(progress) = self.open.get_mut(&write) {
            progress.out -= 1;
            progress.failed |= !deleted;
        }
        self.close(write);
    }

    fn close(&mut self, write: WriteId) {
        let Some(progress) = self.open.get(&write) else { return };
        if !progress.sent || progress.out > 0 {
            return;
        }
        if progress.failed {
            self.failed += 1;
        } else {
            self.done.push(write);
        }
        self.open.remove(&write);
    }

    fn is_over(&self) -> bool {
        self.rows.is_empty() && self.open.is_empty()
    }
}

impl Group {
    fn rest(&mut self, more: bool, now: Instant) {
        self.state = State::Idle;
        let pause = match (self.setbacks, more) {
            (0, true) => Duration::ZERO,
            (0, false) => PERIOD,
            (setbacks, _) => PERIOD.saturating_mul(1 << setbacks.min(8)).min(PERIOD_MAX),
        };
        self.next_at = now + pause;
        if let Some(hurry) = self.hurry.take()
            && self.setbacks == 0
        {
            self.next_at = self.next_at.min(hurry);
        }
    }

    fn setback(&mut self, now: Instant) {
        self.setbacks = self.setbacks.saturating_add(1);
        self.rest(false, now);
    }
}

impl Reclaim {
    /// Takes over these groups, and leaves others once their work under way is done.
    pub(super) fn assign(&mut self, groups: &BTreeSet<GroupId>, now: Instant) {
        for (group, state) in &mut self.groups {
            state.assigned = groups.contains(group);
        }
        self.groups.retain(|_, group| group.assigned || !matches!(group.state, State::Idle));
        for group in groups {
            self.groups.entry(*group).or_insert_with(|| Group {
                assigned: true,
                state: State::Idle,
                next_at: now,
                hurry: None,
                setbacks: 0,
                stuck: 0,
            });
        }
    }

    /// Asks a group for garbage sooner than it would be.
    pub(super) fn hurry(&mut self, group: GroupId, at: Instant) {
        let Some(group) = self.groups.get_mut(&group) else { return };
        match group.state {
            State::Idle if group.setbacks == 0 => group.next_at = group.next_at.min(at),
            State::Idle => {}
            _ => group.hurry = Some(group.hurry.map_or(at, |earlier| earlier.min(at))),
        }
    }

    /// Deletes stripes a little later, when what may still be writing them has ended.
    pub(super) fn discard(&mut self, stripes: impl IntoIterator<Item = Doomed>, now: Instant) {
        for doomed in stripes {
            self.put(doomed, now + LITTER_DELAY);
        }
    }

    fn put(&mut self, doomed: Doomed, due: Instant) {
        if self.litter.len() < LITTER_MAX {
            self.count += 1;
            self.litter.insert((due, self.count), doomed);
        }
    }

    /// When there will be something to do.
    pub(super) fn next_at(&self) -> Option<Instant> {
        let litter = self.litter.first_key_value().map(|((due, _), _)| *due).filter(|_| self.deleting < DELETES_MAX);
        let groups = self.groups.values().filter(|group| group.assigned && matches!(group.state, State::Idle));
        groups.map(|group| group.next_at).chain(litter).min()
    }

    /// The next thing to do now.
    pub(super) fn next_errand(&mut self, grace_ms: u64, cx: &Cx<'_>) -> Option<(Errand, Question)> {
        let now = cx.now();
        if self.deleting < DELETES_MAX
            && let Some(doomed) = self.due_litter(now)
        {
            self.deleting += 1;
            let question = doomed.question();
            return Some((Errand::Litter(doomed.into()), question));
        }
        for (&id, group) in &mut self.groups {
            match &mut group.state {
                State::Idle if group.assigned && group.next_at <= now => {
                    group.state = State::Asking;
                    let limit = (GARBAGE_PAGE + group.stuck).min(GARBAGE_PAGE_MAX) as u32;
                    let before = UnixMillis(cx.wall().0.saturating_sub(grace_ms));
                    return Some((Errand::Garbage(id), Question::query_directly(id, Query::Garbage { before, limit })));
                }
                State::Deleting(round) if self.deleting < DELETES_MAX => {
                    if let Some(doomed) = round.next_stripe() {
                        self.deleting += 1;
                        return Some((Errand::Stripe(id, doomed.target.id.write), doomed.question()));
                    }
                    if round.is_over() {
                        group.state = State::Settled(core::mem::take(round));
                    }
                }
                _ => {}
            }
            if let State::Settled(round) = &mut group.state {
                let round = core::mem::take(round);
                if let Some(question) = group.settle(id, round, now) {
                    return Some((Errand::Drop(id), question));
                }
            }
        }
        None
    }

    fn due_litter(&mut self, now: Instant) -> Option<Doomed> {
        let first = self.litter.first_entry()?;
        if first.key().0 <= now { Some(first.remove()) } else { None }
    }

    pub(super) fn hear(&mut self, errand: Errand, result: Result<Response, Failure>, cx: &Cx<'_>) {
        let now = cx.now();
        match errand {
            Errand::Litter(mut doomed) => {
                self.deleting -= 1;
                doomed.tries += 1;
                if result.is_err() && doomed.tries < LITTER_TRIES {
                    let due = now + LITTER_DELAY.saturating_mul(1 << doomed.tries.min(8));
                    self.put(*doomed, due);
                }
            }
            Errand::Garbage(id) => {
                let Some(group) = self.groups.get_mut(&id) else { return };
                let limit = (GARBAGE_PAGE + group.stuck).min(GARBAGE_PAGE_MAX);
                match result.map_err(mesh_core::Error::from).and_then(task::meta) {
                    Ok(answer) => match Arc::unwrap_or_clone(answer) {
                        MetaAnswer::Garbage(rows) => {
                            let full = rows.len() >= limit;
                            group.state = State::Deleting(Round { rows: rows.into(), full, ..Round::default() });
                        }
                        _ => group.setback(now),
                    },
                    Err(_) => group.setback(now),
                }
            }
            Errand::Stripe(id, write) => {
                self.deleting -= 1;
                if let Some(Group { state: State::Deleting(round), .. }) = self.groups.get_mut(&id) {
                    round.heard(write, result.is_ok());
                }
            }
            Errand::Drop(id) => {
                let Some(group) = self.groups.get_mut(&id) else { return };
                match (result, &group.state) {
                    (Ok(_), &State::Dropping { more }) => group.rest(more, now),
                    _ => group.setback(now),
                }
            }
        }
        self.groups.retain(|_, group| group.assigned || !matches!(group.state, State::Idle));
    }
}

impl Group {
    /// After a round: drops the rows that are done with, if there are any.
    fn settle(&mut self, id: GroupId, round: Round, now: Instant) -> Option<Question> {
        self.stuck = round.failed;
        self.setbacks = if round.failed == 0 { 0 } else { self.setbacks.saturating_add(1) };
        if round.done.is_empty() {
            self.rest(false, now);
            return None;
        }
        self.state = State::Dropping { more: round.full };
        Some(Question::propose_directly(id, Command::DropGarbage { writes: round.done }))
    }
}

/// Between two looks for garbage.
const PERIOD: Duration = Duration::from_secs(2);
/// Between two looks at most, after failures.
const PERIOD_MAX: Duration = Duration::from_secs(60);
/// Rows of garbage a round, and at most when rows are stuck.
const GARBAGE_PAGE: usize = 64;
/// See [`GARBAGE_PAGE`].
const GARBAGE_PAGE_MAX: usize = 1024;
/// Deletions out at a time at most.
const DELETES_MAX: usize = 16;
/// Litter waits so long before it is deleted, and longer after each failure.
const LITTER_DELAY: Duration = Duration::from_secs(2);
/// Deletions of one piece of litter at most.
const LITTER_TRIES: u32 = 5;
/// Pieces of litter remembered at most.
const LITTER_MAX: usize = 65_536;
