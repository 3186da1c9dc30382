//! What is under way for one group: one look after another at what it has stored.
//!
//! A pass over all uses is due when the newest layout is not the one in which the group is settled; one over what it
//! remembers as unsettled, when there is any of that; and one that counts, some time after a layout was settled or something
//! came home after that, and then now and again. A pass that could not do everything is followed by another one later, and later
//! still; nothing is said to the group that was not done. What is lost for good is done with: there is nothing to be done for it.

use core::time::Duration;
use std::{collections::BTreeMap, sync::Arc};

use mesh_core::{
    Error, Outcome,
    id::{DriveId, GroupId, LayoutId, ShardId, StripeId, WriteId},
    meta::{Count, Level, MetaAnswer, Query, RepairState, Shape, UpkeepCommand, UsesPage},
    op::{Reliance, ShardOp},
    spec::KeeperSpec,
    time::{Instant, UnixMillis},
    topology::Layout,
};

use super::{
    batch::{At, Batch, Grounds, Looks, Wound},
    can_be_read,
    damage::Damage,
    stray::Clear,
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
    /// When everything is counted for the first time, once nothing else is to be done.
    count_at: Option<Instant>,
    /// Counts in a row that were not complete.
    uncounted: u32,
    /// Something was brought home late, or lost, and nothing was counted since: it may lie elsewhere as well.
    uncleared: bool,
    /// What drives know to be damaged, while that is healed.
    damage: Damage,
    /// Behind which shard they are asked next.
    damage_after: Option<ShardId>,
    /// When that is looked at again, if any drive knows of some then.
    damage_at: Instant,
    /// Looks in a row after which some was left.
    unhealed: u32,
    /// A pass that goes on once what is damaged is healed.
    parked: Option<Pass>,
    /// Of the layouts of the line before this one the group knows that they are.
    known: LayoutId,
}

#[derive(Debug)]
enum State {
    Idle,
    /// How far it is: out.
    Asking,
    /// Drives say what they know to be damaged.
    Naming,
    /// What is to be said before a pass; to be sent, and out.
    Begin,
    Beginning,
    PageDue(Pass),
    Paging(Pass),
    Working(Pass, Box<Work>),
    /// What a pass has come to: to be said, and out.
    SayDue(Pass, Said),
    Saying(Pass),
}

/// What a pass has come to.
#[derive(Debug)]
enum Said {
    /// These are at home, or lost.
    Repaired(Vec<WriteId>),
    /// Everything is.
    End,
    /// And was seen there.
    Counted,
}

/// What has become of a stripe that was to be healed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Healed,
    /// Fewer shards are left than it takes to read it, and no others come back.
    Lost,
    /// It can be tried again.
    Failed,
}

/// Over what a pass goes, and what for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scope {
    /// Brings everything home.
    All,
    /// Brings home what is remembered as unsettled.
    Unsettled,
    /// Heals what is known to be damaged where it is.
    Damaged,
    /// Asks every drive for everything, and clears away what is elsewhere.
    Count,
}

#[derive(Clone, Debug)]
struct Pass {
    scope: Scope,
    /// Of a count: what was found so far.
    count: Count,
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
    /// Heals that are out, each of so many shards.
    healing: BTreeMap<StripeId, u64>,
    /// Shards that were looked for, and those that were not there and have been healed.
    shards: u64,
    healed: u64,
    cleared: u64,
    /// Not all that lies elsewhere was found and deleted.
    incomplete: bool,
}

/// What a look depends on.
#[derive(Clone, Copy)]
pub(super) struct Ground<'a> {
    pub(super) group: GroupId,
    pub(super) spec: &'a KeeperSpec,
    pub(super) goal: &'a Layout,
    /// Whether a stripe may be healed now; `None`: none may.
    pub(super) may_heal: Option<&'a dyn Fn(StripeId) -> bool>,
    pub(super) now: Instant,
    pub(super) wall: UnixMillis,
}

/// What is to be sent next.
#[derive(Debug)]
pub(super) enum Want {
    Ask(Query),
    Say(UpkeepCommand),
    List(DriveId, ShardOp),
    Heal(Wound),
    Clear(DriveId, ShardOp),
    Name(DriveId, ShardOp),
}

impl Group {
    pub(super) fn new(term: u64, goal: LayoutId, now: Instant) -> Self {
        Self {
            term,
            goal,
            state: State::Idle,
            due: now,
            setbacks: 0,
            hurry: false,
            count_at: None,
            uncounted: 0,
            uncleared: false,
            damage: Damage::default(),
            damage_after: None,
            damage_at: now,
            unhealed: 0,
            parked: None,
            known: LayoutId::default(),
        }
    }

    pub(super) fn term(&self) -> u64 {
        self.term
    }

    pub(super) fn is_for(&self, goal: LayoutId) -> bool {
        self.goal == goal
    }

    /// Drives have come or gone: what could not be done may be done now.
    pub(super) fn hurry(&mut self, now: Instant) {
        if self.uncounted > 0 {
            self.count_at = self.count_at.map(|at| at.min(now + COUNT_RETRY));
        }
        if let State::Idle = self.state {
            self.due = self.due.min(now + SETTLE);
        } else {
            self.hurry = true;
        }
    }

    /// More is known to be damaged.
    pub(super) fn damaged(&mut self, now: Instant) {
        (self.damage_at, self.unhealed) = (now, 0);
        self.hurry(now);
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
                State::Naming => {
                    if let Some((drive, op)) = self.damage.next(ground.group) {
                        self.state = State::Naming;
                        return Some(Want::Name(drive, op));
                    }
                    if !self.damage.is_named() {
                        self.state = State::Naming;
                        return None;
                    }
                    self.state = State::PageDue(Pass::of(Scope::Damaged));
                }
                State::PageDue(pass) => {
                    let (after, limit) = (pass.after, PAGE);
                    let query = match pass.scope {
                        Scope::All | Scope::Count => Query::Uses { after, limit },
                        Scope::Unsettled => Query::Unsettled { after, limit },
                        Scope::Damaged => match self.damage.next_write(after) {
                            Some(write) => Query::Uses { after: write.0.checked_sub(1).map(WriteId), limit: FEW },
                            None => {
                                self.end_damage(&pass, ground.now);
                                continue;
                            }
                        },
                    };
                    self.state = State::Paging(pass);
                    return Some(Want::Ask(query));
                }
                State::Working(pass, mut work) => {
                    let looks = match pass.scope {
                        Scope::All | Scope::Unsettled => Looks::Moved,
                        Scope::Damaged => Looks::Damaged(&self.damage),
                        Scope::Count => Looks::All,
                    };
                    let want = work.next(looks, ground);
                    if want.is_some() || !work.is_over() {
                        self.state = State::Working(pass, work);
                        return want;
                    }
                    self.end_page(pass, *work, ground);
                }
                State::SayDue(pass, said) => {
                    let command = pass.command(said, self.known, ground);
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
    fn end_page(&mut self, mut pass: Pass, mut work: Work, ground: Ground<'_>) {
        work.end_batch();
        let broken = work.batch.broken;
        pass.failed |= !broken.is_empty() || work.incomplete;
        pass.count.writes += work.writes.len() as u64;
        pass.count.shards += work.shards;
        pass.count.healed += work.healed;
        pass.count.cleared += work.cleared;
        pass.count.lost += work.batch.lost.len() as u64;
        self.uncleared |= pass.scope == Scope::Unsettled && (work.healed > 0 || !work.batch.lost.is_empty());
        let whole: Vec<WriteId> =
            work.writes.into_iter().map(|(write, _)| write).filter(|write| !broken.contains(write)).collect();
        if pass.scope == Scope::Unsettled && !whole.is_empty() {
            self.state = State::SayDue(pass, Said::Repaired(whole));
        } else {
            self.turn_page(pass, ground);
        }
    }

    fn turn_page(&mut self, pass: Pass, ground: Ground<'_>) {
        let now = ground.now;
        if !pass.is_last {
            if pass.scope != Scope::Damaged && self.is_damage_due(ground) {
                self.parked = Some(pass);
                self.name(ground);
            } else {
                self.state = State::PageDue(pass);
            }
            return;
        }
        match pass.scope {
            Scope::Count if pass.failed => {
                let pause = COUNT_RETRY.saturating_mul(1 << self.uncounted.min(8)).min(COUNT_RETRY_MAX);
                self.uncounted = self.uncounted.saturating_add(1);
                self.count_at = Some(now + pause);
                self.rest(now);
            }
            Scope::Damaged => self.end_damage(&pass, now),
            Scope::All | Scope::Unsettled if pass.failed => self.setback(now),
            Scope::Unsettled => self.rest(now),
            // Said: then whoever asks next is told so.
            Scope::All => self.state = State::SayDue(pass, Said::End),
            Scope::Count => {
                self.uncounted = 0;
                self.state = State::SayDue(pass, Said::Counted);
            }
        }
    }

    /// The group has answered a question, or taken what was said, or not.
    pub(super) fn heard(&mut self, answer: Result<Arc<MetaAnswer>, Error>, ground: Ground<'_>) {
        let now = ground.now;
        if let State::Working(_, work) = &mut self.state {
            // Before anything is deleted.
            match answer.as_deref() {
                Ok(MetaAnswer::Repair(repair)) => work.batch.strays.checked(*repair, self.goal),
                _ => work.batch.strays.give_up(),
            }
            return;
        }
        let state = core::mem::replace(&mut self.state, State::Idle);
        let answer = match (answer, &state) {
            (Ok(answer), _) => answer,
            (Err(_), State::Paging(pass)) if pass.scope == Scope::Damaged => {
                let pass = Pass { failed: true, ..pass.clone() };
                return self.end_damage(&pass, now);
            }
            (Err(_), _) => return self.setback(now),
        };
        match (state, &*answer) {
            (State::Asking, MetaAnswer::Repair(repair)) => self.begin(*repair, ground),
            (State::Beginning, MetaAnswer::Done) => self.state = State::PageDue(Pass::of(Scope::All)),
            (State::Paging(pass), MetaAnswer::Uses(UsesPage { writes, next })) => {
                let pass = Pass { after: *next, is_last: next.is_none(), ..pass };
                let mut writes = writes.clone();
                if pass.scope == Scope::Damaged {
                    writes.retain(|(write, _)| self.damage.has(*write));
                }
                let work = Work { writes, ..Work::default() };
                self.state = State::Working(pass, Box::new(work));
            }
            // After a whole pass, what is unsettled is next: the group is asked once more.
            (State::Saying(pass), MetaAnswer::Done) if pass.is_last && !pass.failed => {
                self.said(&pass, ground);
                self.again(now);
            }
            (State::Saying(pass), MetaAnswer::Done) => {
                self.said(&pass, ground);
                self.turn_page(pass, ground);
            }
            _ => self.setback(now),
        }
    }

    fn begin(&mut self, repair: RepairState, ground: Ground<'_>) {
        let (spec, now) = (ground.spec, ground.now);
        self.known = if repair.line == ground.goal.line { repair.settled } else { LayoutId::default() };
        if repair.marked > self.goal {
            // Somebody knows a newer layout: so will this node.
            self.setback(now);
        } else if repair.marked < self.goal {
            self.state = State::Begin;
        } else if self.is_damage_due(ground) {
            self.name(ground);
        } else if repair.settled != self.goal {
            self.state = State::PageDue(Pass::of(Scope::All));
        } else if spec.level >= Level::SETTLED && repair.line != ground.goal.line {
            // It was settled when older builds took part, which relied on less.
            self.state = State::PageDue(Pass::of(Scope::All));
        } else if self.is_count_due(repair, ground) {
            // Also while some writes are unsettled, for as long as a drive is away or full: it passes over them.
            self.count_at = None;
            self.state = State::PageDue(Pass::of(Scope::Count));
        } else if repair.unsettled > 0 {
            self.state = State::PageDue(Pass::of(Scope::Unsettled));
        } else {
            self.rest(now);
        }
    }

    fn is_damage_due(&self, ground: Ground<'_>) -> bool {
        let Ground { spec, now, .. } = ground;
        self.damage_at <= now && spec.damaged.iter().any(|drive| can_be_read(&spec.drives, *drive))
    }

    /// Has drives say what they know to be damaged.
    fn name(&mut self, ground: Ground<'_>) {
        let spec = ground.spec;
        let drives = spec.damaged.iter().copied().filter(|drive| can_be_read(&spec.drives, *drive));
        self.damage = Damage::of(drives, self.damage_after);
        self.state = State::Naming;
    }

    /// What was damaged is healed, as far as it could be.
    fn end_damage(&mut self, pass: &Pass, now: Instant) {
        // Drives say a moment later that they know of none any more; of what was deleted, once it is reclaimed.
        let pause = if pass.failed || pass.count.healed == 0 {
            self.unhealed = self.unhealed.saturating_add(1);
            DAMAGE_RETRY.saturating_mul(1 << self.unhealed.min(8)).min(DAMAGE_RETRY_MAX)
        } else {
            self.unhealed = 0;
            DAMAGE_RETRY
        };
        self.damage_at = now + pause;
        self.damage_after = self.damage.goes_on_behind();
        self.damage = Damage::default();
        match self.parked.take() {
            Some(pass) => self.state = State::PageDue(pass),
            // There may be something else to be done.
            None => self.again(now),
        }
    }

    pub(super) fn named(&mut self, group: GroupId, drive: DriveId, outcome: Outcome) {
        if let State::Naming = self.state {
            self.damage.named(group, drive, outcome);
        }
    }

    /// The group has taken what a pass has come to.
    fn said(&mut self, pass: &Pass, ground: Ground<'_>) {
        match pass.scope {
            // What has only just come home is left where it was for the grace, too.
            Scope::Unsettled => {
                let grace = ground.now + Duration::from_millis(ground.spec.grace_ms);
                self.count_at = self.count_at.map(|at| at.max(grace));
            }
            Scope::Count => self.uncleared = false,
            Scope::All | Scope::Damaged => {}
        }
    }

    /// Whether everything is to be counted now. What was moved for this layout, or came home since, has been where it was long
    /// enough then.
    fn is_count_due(&mut self, repair: RepairState, ground: Ground<'_>) -> bool {
        let Ground { spec, now, wall, .. } = ground;
        if repair.line == 0 {
            return false;
        }
        // Whoever counted may have had another clock.
        let age_ms = wall.0.abs_diff(repair.count.at.0);
        let is_old = spec.count_every_ms > 0 && age_ms >= spec.count_every_ms;
        if repair.count.layout == self.goal && !is_old && !self.uncleared {
            return false;
        }
        let at = *self.count_at.get_or_insert_with(|| now + Duration::from_millis(spec.grace_ms));
        at <= now
    }

    pub(super) fn listed(&mut self, drive: DriveId, outcome: Outcome) {
        if let State::Working(_, work) = &mut self.state {
            work.batch.listed(drive, outcome);
        }
    }

    pub(super) fn healed(&mut self, stripe: StripeId, fate: Fate) {
        if let State::Working(_, work) = &mut self.state {
            let shards = work.healing.remove(&stripe).unwrap_or(0);
            match fate {
                Fate::Healed => work.healed += shards,
                Fate::Lost => drop(work.batch.lost.insert(stripe.write)),
                Fate::Failed => drop(work.batch.broken.insert(stripe.write)),
            }
        }
    }

    pub(super) fn cleared(&mut self, drive: DriveId, outcome: &Outcome) {
        if let State::Working(_, work) = &mut self.state {
            work.batch.strays.deleted(drive, outcome);
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
        (self.state, self.parked) = (State::Idle, None);
        let pause = RETRY.saturating_mul(1 << self.setbacks.min(8)).min(RETRY_MAX);
        self.due = now + if core::mem::take(&mut self.hurry) { SETTLE } else { pause };
    }
}

impl Pass {
    fn of(scope: Scope) -> Self {
        Self { scope, count: Count::default(), after: None, is_last: false, failed: false }
    }

    /// How it is said what it has come to.
    fn command(&self, said: Said, known: LayoutId, ground: Ground<'_>) -> UpkeepCommand {
        let Ground { spec, goal, wall, .. } = ground;
        let layout = goal.id;
        match said {
            Said::Repaired(writes) => UpkeepCommand::Repaired { layout, writes },
            Said::End if spec.level < Level::SETTLED => {
                UpkeepCommand::EndRepair { layout, line: 0, layouts: Vec::new() }
            }
            Said::End => {
                // Not all that there ever were, each time.
                let older = spec.layouts.range(known.min(layout)..layout).filter(|(_, older)| older.line == goal.line);
                UpkeepCommand::EndRepair { layout, line: goal.line, layouts: older.map(|(id, _)| *id).collect() }
            }
            Said::Counted => UpkeepCommand::Counted { count: Count { layout, at: wall, ..self.count } },
        }
    }
}

impl Work {
    fn next(&mut self, looks: Looks<'_>, ground: Ground<'_>) -> Option<Want> {
        let Ground { group, spec, goal, may_heal, .. } = ground;
        let KeeperSpec { layouts, drives, leaving, .. } = spec;
        if self.is_quiet() && self.at.write < self.writes.len() {
            // One batch at a time: to look at what is at home takes time too, and others wait for their turn.
            let (broken, lost) = (core::mem::take(&mut self.batch.broken), core::mem::take(&mut self.batch.lost));
            self.end_batch();
            let relies = Reliance { group, layout: goal.id };
            let grounds = Grounds { layouts, goal, relies, drives, leaving, looks };
            (self.batch, self.at) = Batch::of(&self.writes, self.at, grounds);
            self.shards += self.batch.doubts as u64;
            self.batch.broken.extend(broken);
            self.batch.lost.extend(lost);
        }
        if let Some((drive, op)) = self.batch.next_list() {
            return Some(Want::List(drive, op));
        }
        if !self.batch.is_listed() {
            return None;
        }
        if self.batch.is_whole() {
            // Nothing is deleted before everything is at home.
            let clear = if self.healing.is_empty() { self.batch.next_clear() } else { None };
            return clear.map(|clear| match clear {
                Clear::Check => Want::Ask(Query::Repair),
                Clear::Delete(drive, op) => Want::Clear(drive, op),
            });
        }
        let may_heal = may_heal?;
        while let Some(wound) = self.batch.next_wound(layouts, goal, drives, leaving) {
            if may_heal(wound.stripe) {
                self.healing.insert(wound.stripe, wound.goals.len() as u64);
                return Some(Want::Heal(wound));
            }
            // A heal for an earlier pass has not ended.
            self.batch.broken.insert(wound.stripe.write);
        }
        None
    }

    fn end_batch(&mut self) {
        let strays = core::mem::take(&mut self.batch.strays);
        self.cleared += strays.cleared;
        self.incomplete |= strays.incomplete;
    }

    /// Whether the batch is done with.
    fn is_quiet(&self) -> bool {
        self.batch.is_listed() && self.batch.is_whole() && self.healing.is_empty() && self.batch.strays.is_over()
    }

    fn is_over(&self) -> bool {
        self.at.write >= self.writes.len() && self.is_quiet()
    }
}

/// Writes of a page.
const PAGE: u32 = 256;
/// And of one that is asked for the sake of its first.
const FEW: u32 = 16;
/// Between two looks at what is damaged; longer each time that some is left.
const DAMAGE_RETRY: Duration = Duration::from_secs(5);
const DAMAGE_RETRY_MAX: Duration = Duration::from_secs(120);
/// Between two questions how far a group is.
const PERIOD: Duration = Duration::from_secs(10);
/// After a change of drives, so that several at once cause one look.
const SETTLE: Duration = Duration::from_millis(500);
/// After what could not be done, and longer each time.
const RETRY: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(60);
/// After a count that could not be ended, and longer each time: it goes over everything.
const COUNT_RETRY: Duration = Duration::from_secs(60);
const COUNT_RETRY_MAX: Duration = Duration::from_secs(3600);
