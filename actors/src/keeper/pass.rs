//! What is under way for one group: one look after another at what it has stored.
//!
//! A pass over all uses is due when the newest layout is not the one in which the group is settled; one over what it
//! remembers as unsettled, when there is any of that. A pass that could not do everything is followed by another one later,
//! and later still; nothing is said to the group that was not done.

use core::time::Duration;
use std::{collections::BTreeSet, sync::Arc};

use mesh_core::{
    Error, Outcome,
    id::{DriveId, LayoutId, StripeId, WriteId},
    meta::{MetaAnswer, Query, RepairState, Shape, UpkeepCommand, UsesPage},
    op::ShardOp,
    shared::SharedMap,
    time::Instant,
    topology::{DriveState, Layout, Layouts},
};

use super::{
    batch::{At, Batch, Wound},
    can_be_read, is_up,
};

/// See the module's page.
#[derive(Debug)]
pub(super) struct Group {
    term: u64,
    goal: LayoutId,
    state: State,
    /// When to ask again how far the group is.
    due: Instant,
    /// Passes in a row that could not do everything, or questions that were not answered.
    setbacks: u32,
    /// Something has changed while a pass was under way: it looks again soon.
    hurry: bool,
}

#[derive(Debug)]
enum State {
    Idle,
    /// How far it is: out.
    Asking,
    /// What is to be said before a pass; to be sent, and out.
    Begin,
    Beginning,
    PageDue(Pass),
    Paging(Pass),
    Working(Pass, Box<Work>),
    /// What a pass has come to: to be said, and out.
    SayDue(Pass, UpkeepCommand),
    Saying(Pass),
}

/// A look at everything, or at what is unsettled.
#[derive(Clone, Debug)]
struct Pass {
    /// Only what is remembered as unsettled.
    unsettled: bool,
    /// Behind this write the next page begins.
    after: Option<WriteId>,
    /// There is no next page.
    is_last: bool,
    /// Not everything could be done.
    failed: bool,
}

/// A page in hand.
#[derive(Debug, Default)]
struct Work {
    writes: Vec<(WriteId, Option<Shape>)>,
    /// Where the next batch begins.
    at: At,
    batch: Batch,
    /// Heals that are out.
    healing: BTreeSet<StripeId>,
}

/// What a look depends on.
#[derive(Clone, Copy)]
pub(super) struct Ground<'a> {
    pub(super) layouts: &'a Layouts,
    pub(super) goal: &'a Layout,
    pub(super) drives: &'a SharedMap<DriveId, DriveState>,
    /// Whether a stripe may be healed now; `None`: none may.
    pub(super) may_heal: Option<&'a dyn Fn(StripeId) -> bool>,
    pub(super) now: Instant,
}

/// What is to be sent next.
#[derive(Debug)]
pub(super) enum Want {
    Ask(Query),
    Say(UpkeepCommand),
    List(DriveId, ShardOp),
    Heal(Wound),
}

impl Group {
    pub(super) fn new(term: u64, goal: LayoutId, now: Instant) -> Self {
        Self { term, goal, state: State::Idle, due: now, setbacks: 0, hurry: false }
    }

    pub(super) fn term(&self) -> u64 {
        self.term
    }

    pub(super) fn is_for(&self, goal: LayoutId) -> bool {
        self.goal == goal
    }

    /// Drives have come or gone: what could not be done may be done now.
    pub(super) fn hurry(&mut self, now: Instant) {
        if let State::Idle = self.state {
            self.due = self.due.min(now + SETTLE);
        } else {
            self.hurry = true;
        }
    }

    pub(super) fn wake_at(&self) -> Option<Instant> {
        matches!(self.state, State::Idle).then_some(self.due)
    }

    /// Whether it stopped only to let others have their turn.
    pub(super) fn is_busy(&self) -> bool {
        matches!(&self.state, State::Working(_, work) if work.is_quiet() && !work.is_over())
    }

    /// Whether stripes wait for the budget.
    pub(super) fn has_wounds(&self) -> bool {
        matches!(&self.state, State::Working(_, work) if work.batch.is_listed() && !work.batch.is_whole())
    }

    pub(super) fn next(&mut self, ground: Ground<'_>) -> Option<Want> {
        loop {
            match core::mem::replace(&mut self.state, State::Idle) {
                State::Idle if self.due <= ground.now => {
                    self.state = State::Asking;
                    return Some(Want::Ask(Query::Repair));
                }
                State::Begin => {
                    self.state = State::Beginning;
                    return Some(Want::Say(UpkeepCommand::BeginRepair { layout: self.goal }));
                }
                State::PageDue(pass) => {
                    let (after, limit) = (pass.after, PAGE);
                    let query =
                        if pass.unsettled { Query::Unsettled { after, limit } } else { Query::Uses { after, limit } };
                    self.state = State::Paging(pass);
                    return Some(Want::Ask(query));
                }
                State::Working(pass, mut work) => {
                    let want = work.next(ground);
                    if want.is_some() || !work.is_over() {
                        self.state = State::Working(pass, work);
                        return want;
                    }
                    self.end_page(pass, *work, ground.now);
                }
                State::SayDue(pass, command) => {
                    self.state = State::Saying(pass);
                    return Some(Want::Say(command));
                }
                waiting => {
                    self.state = waiting;
                    return None;
                }
            }
        }
    }

    /// A page is done with, as far as it could be.
    fn end_page(&mut self, mut pass: Pass, work: Work, now: Instant) {
        let broken = work.batch.broken;
        pass.failed |= !broken.is_empty();
        let whole: Vec<WriteId> =
            work.writes.into_iter().map(|(write, _)| write).filter(|write| !broken.contains(write)).collect();
        if pass.unsettled && !whole.is_empty() {
            let command = UpkeepCommand::Repaired { layout: self.goal, writes: whole };
            self.state = State::SayDue(pass, command);
        } else {
            self.turn_page(pass, now);
        }
    }

    fn turn_page(&mut self, pass: Pass, now: Instant) {
        if !pass.is_last {
            self.state = State::PageDue(pass);
        } else if pass.failed {
            self.setback(now);
        } else if pass.unsettled {
            self.rest(now);
        } else {
            // Said: then whoever asks next is told that the group is settled.
            let pass = Pass { unsettled: true, ..pass };
            self.state = State::SayDue(pass, UpkeepCommand::EndRepair { layout: self.goal });
        }
    }

    /// The group has answered a question, or taken what was said, or not.
    pub(super) fn heard(&mut self, answer: Result<Arc<MetaAnswer>, Error>, now: Instant) {
        let state = core::mem::replace(&mut self.state, State::Idle);
        let Ok(answer) = answer else { return self.setback(now) };
        match (state, &*answer) {
            (State::Asking, MetaAnswer::Repair(repair)) => self.begin(*repair, now),
            (State::Beginning, MetaAnswer::Done) => self.state = State::PageDue(Pass::of(false)),
            (State::Paging(pass), MetaAnswer::Uses(UsesPage { writes, next })) => {
                let pass = Pass { after: *next, is_last: next.is_none(), ..pass };
                let work = Work { writes: writes.clone(), ..Work::default() };
                self.state = State::Working(pass, Box::new(work));
            }
            // After a whole pass, what is unsettled is next: the group is asked once more.
            (State::Saying(pass), MetaAnswer::Done) if pass.is_last && !pass.failed => self.again(now),
            (State::Saying(pass), MetaAnswer::Done) => self.turn_page(pass, now),
            _ => self.setback(now),
        }
    }

    fn begin(&mut self, repair: RepairState, now: Instant) {
        if repair.marked > self.goal {
            // Somebody knows a newer layout: so will this node.
            self.setback(now);
        } else if repair.marked < self.goal {
            self.state = State::Begin;
        } else if repair.settled != self.goal {
            self.state = State::PageDue(Pass::of(false));
        } else if repair.unsettled > 0 {
            self.state = State::PageDue(Pass::of(true));
        } else {
            self.rest(now);
        }
    }

    pub(super) fn listed(&mut self, drive: DriveId, outcome: Outcome) {
        if let State::Working(_, work) = &mut self.state {
            work.batch.listed(drive, outcome);
        }
    }

    pub(super) fn healed(&mut self, stripe: StripeId, well: bool) {
        if let State::Working(_, work) = &mut self.state {
            work.healing.remove(&stripe);
            if !well {
                work.batch.broken.insert(stripe.write);
            }
        }
    }

    fn rest(&mut self, now: Instant) {
        self.setbacks = 0;
        self.state = State::Idle;
        let hurry = core::mem::take(&mut self.hurry);
        self.due = now + if hurry { SETTLE } else { PERIOD };
    }

    fn again(&mut self, now: Instant) {
        self.rest(now);
        self.due = now;
    }

    fn setback(&mut self, now: Instant) {
        self.setbacks = self.setbacks.saturating_add(1);
        self.state = State::Idle;
        let pause = RETRY.saturating_mul(1 << self.setbacks.min(8)).min(RETRY_MAX);
        self.due = now + if core::mem::take(&mut self.hurry) { SETTLE } else { pause };
    }
}

impl Pass {
    const fn of(unsettled: bool) -> Self {
        Self { unsettled, after: None, is_last: false, failed: false }
    }
}

impl Work {
    fn next(&mut self, ground: Ground<'_>) -> Option<Want> {
        let Ground { layouts, goal, drives, may_heal, .. } = ground;
        if self.is_quiet() && self.at.write < self.writes.len() {
            // One batch at a time: to look at what is at home takes time too, and others wait for their turn.
            let broken = core::mem::take(&mut self.batch.broken);
            (self.batch, self.at) = Batch::of(&self.writes, self.at, layouts, goal, |drive| is_up(drives, drive));
            self.batch.broken.extend(broken);
        }
        if let Some((drive, op)) = self.batch.next_list() {
            return Some(Want::List(drive, op));
        }
        if !self.batch.is_listed() || self.batch.is_whole() {
            return None;
        }
        let may_heal = may_heal?;
        while let Some(wound) = self.batch.next_wound(layouts, goal, |drive| can_be_read(drives, drive)) {
            if may_heal(wound.stripe) {
                self.healing.insert(wound.stripe);
                return Some(Want::Heal(wound));
            }
            // A heal for an earlier pass has not ended.
            self.batch.broken.insert(wound.stripe.write);
        }
        None
    }

    /// Whether the batch is done with.
    fn is_quiet(&self) -> bool {
        self.batch.is_listed() && self.batch.is_whole() && self.healing.is_empty()
    }

    fn is_over(&self) -> bool {
        self.at.write >= self.writes.len() && self.is_quiet()
    }
}

/// Writes of a page.
const PAGE: u32 = 256;
/// Between two questions how far a group is.
const PERIOD: Duration = Duration::from_secs(10);
/// After a change of drives, so that several at once cause one look.
const SETTLE: Duration = Duration::from_millis(500);
/// After what could not be done, and longer each time.
const RETRY: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(60);
