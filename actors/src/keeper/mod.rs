//! Keeper: what a node's namespace groups have stored is, and stays, where the newest layout has it.
//!
//! Of every group that its node leads it sees which shards are not at their homes: because drives have come or gone since
//! they were written, or could not be used then. It copies them there, or rebuilds them from others. Some time after all is
//! at home, and then now and again, it counts: it has every drive say what it has, heals what is missing or damaged, and has
//! deleted what is elsewhere. It keeps nothing that cannot be found again: how far a group is, the group itself knows
//! ([`RepairState`]), and whoever leads it next goes on from there. Two that do the same at once do no harm: a shard has one
//! content, and nothing is deleted by what was known before another layout was begun with.
//!
//! Shards that drives know to be damaged are healed whatever else is to be done. What is lost holds nothing up: where fewer
//! shards of a stripe are left than it takes to read it, and no drive is away that may have more, the rest goes on as if it were
//! at home, and a count says how many writes that concerns.
//!
//! `pass` is one look at all that a group has, `batch` a part of that, `heal` one stripe, `stray` what is to be deleted,
//! `damage` what is known to be damaged. This file turns what they want into effects, for all groups within one budget of bytes.
//!
//! ```text
//! a group:  Idle ─► asks how far it is ─► BeginRepair ─► pages of uses ─► lists of drives ─► heals ─► … ─► EndRepair ─► Idle
//!                          '─(settled, but not all)─► pages of what is unsettled ─► … ─► Repaired ─► Idle
//!                          '─(damage is known)─► names of drives ─► uses ─► heals ─► … ─► Idle
//!                          '─(to be counted)─► pages of uses ─► lists of all drives ─► heals ─► deletes ─► … ─► Counted ─► Idle
//! ```
//!
//! [`RepairState`]: mesh_core::meta::RepairState

mod batch;
mod damage;
mod heal;
mod pass;
mod stray;
#[cfg(test)]
mod tests;

use core::time::Duration;
use std::{collections::BTreeMap, sync::Arc};

use mesh_core::{
    Buf, Cx, Error, ErrorKind, Event, Job, Lane, Op, Outcome, Request, StorageFunction, Target, WorkOutcome,
    figures::{Count, Figures as _, Labels, Level as Amount, Page},
    id::{ActorId, DriveId, GroupId, StripeId, Token},
    limits::BUDGET_DEFAULT,
    meta::{Command, Level, MetaAnswer},
    op::ShardOp,
    port::WorkOutput,
    shared::SharedMap,
    snapshot::{Mark, Snapshot},
    spec::{FunctionSpec, KeeperSpec},
    time::Instant,
    topology::{DriveState, Layout, Leaving},
};

use self::{
    heal::{Course, Heal, Step},
    pass::{Fate, Group, Want},
};

mesh_core::figures! {
    /// What was kept whole.
    pub(crate) struct Kept as "mesh_keeper" {
        /// Stripes whose shards were brought to where they are to be, copied or rebuilt.
        healed_stripes: Count,
        /// Stripes of which too few shards are left to rebuild them.
        lost_stripes: Count,
        /// Stripes that could not be healed then; they are tried again.
        failed_stripes: Count,
        /// Bytes of shards that were read and written for that.
        moved_bytes: Count,
        /// Metadata groups whose data this node keeps whole: those that it leads.
        groups: Amount,
        /// Stripes that are being healed now.
        stripes_under_way: Amount,
    }
}

/// The Keeper function. See the module's page.
#[derive(Debug)]
pub struct Keeper {
    spec: KeeperSpec,
    groups: BTreeMap<GroupId, Group>,
    /// Assignments of groups so far: what an earlier one asked for is of no interest.
    terms: u64,
    heals: BTreeMap<StripeId, Healing>,
    waits: BTreeMap<Token, Wait>,
    /// No heal begins before: the budget is used up until then.
    free_at: Instant,
    kept: Kept,
}

/// A stripe that is being healed, and for whom.
#[derive(Debug)]
struct Healing {
    group: GroupId,
    term: u64,
    heal: Heal,
}

/// What has not come back yet.
#[derive(Debug)]
enum Wait {
    /// What a group was asked, or told.
    Group(GroupId, u64),
    /// A drive's list.
    List(GroupId, u64, DriveId),
    /// What a drive knows to be damaged.
    Name(GroupId, u64, DriveId),
    /// That a drive has deleted what is elsewhere.
    Clear(GroupId, u64, DriveId),
    /// A shard of a stripe that is being healed.
    Shard(StripeId, u8),
    /// Work for such a stripe.
    Work(StripeId),
}

impl Keeper {
    /// The Keeper of one node.
    #[must_use]
    pub fn new(spec: KeeperSpec) -> Self {
        let (groups, heals, waits) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self { spec, groups, terms: 0, heals, waits, free_at: Instant(0), kept: Kept::default() }
    }

    /// The layout in which shards are to be at their homes.
    fn goal(&self) -> Option<Arc<Layout>> {
        self.spec.layouts.values().next_back().filter(|newest| newest.line > 0).cloned()
    }

    fn configure(&mut self, spec: KeeperSpec, now: Instant) {
        let drives_changed = !self.spec.drives.is_same(&spec.drives);
        let more_damaged = !spec.damaged.is_subset(&self.spec.damaged);
        self.spec = spec;
        let goal = self.goal().map(|goal| goal.id);
        for (id, group) in &mut self.groups {
            if self.spec.groups.contains(id) && goal.is_some_and(|goal| group.is_for(goal)) {
                if drives_changed {
                    group.hurry(now);
                }
                if more_damaged {
                    group.damaged(now);
                }
                continue;
            }
            // It is somebody else's, or all that is under way is for a layout that is the newest no more.
            self.terms += 1;
            *group = Group::new(self.terms, goal.unwrap_or_default(), now);
        }
        let wanted = &self.spec.groups;
        self.groups.retain(|id, _| wanted.contains(id) && goal.is_some());
        let Some(goal) = goal else { return };
        for id in wanted {
            let terms = &mut self.terms;
            self.groups.entry(*id).or_insert_with(|| {
                *terms += 1;
                Group::new(*terms, goal, now)
            });
        }
    }

    /// Does what is due, as far as the budget goes.
    fn work(&mut self, cx: &mut Cx<'_>) {
        let Some(goal) = self.goal() else { return };
        let now = cx.now();
        let ids: Vec<GroupId> = self.groups.keys().copied().collect();
        for id in ids {
            loop {
                let may_heal = self.heals.len() < HEALS_MAX && self.free_at <= now;
                let (spec, heals) = (&self.spec, &self.heals);
                let Some(group) = self.groups.get_mut(&id) else { break };
                let is_free = |stripe: StripeId| !heals.contains_key(&stripe);
                let may_heal = may_heal.then_some(&is_free as &dyn Fn(StripeId) -> bool);
                let ground = pass::Ground { group: id, spec, goal: &goal, may_heal, now, wall: cx.wall() };
                let term = group.term();
                let Some(want) = group.next(ground) else { break };
                match want {
                    Want::Ask(query) => {
                        let op = Op::Query { group: id, query: Arc::new(query) };
                        self.call(Target::Metadata, op, Buf::empty(), Wait::Group(id, term), cx);
                    }
                    Want::Say(command) => {
                        let command = Arc::new(Command::Upkeep(id, command));
                        let work = cx.start(Job::Propose { command, deadline: now + BUDGET_DEFAULT });
                        self.waits.insert(work, Wait::Group(id, term));
                    }
                    Want::List(drive, op) => self.ask(drive, op, Buf::empty(), Wait::List(id, term, drive), cx),
                    Want::Clear(drive, op) => self.ask(drive, op, Buf::empty(), Wait::Clear(id, term, drive), cx),
                    Want::Name(drive, op) => self.ask(drive, op, Buf::empty(), Wait::Name(id, term, drive), cx),
                    Want::Heal(wound) => {
                        let stripe = wound.stripe;
                        let (heal, course) =
                            Heal::begin(stripe, wound.code, wound.goals, wound.sources, wound.all_asked);
                        self.heals.insert(stripe, Healing { group: id, term, heal });
                        self.follow(stripe, course, cx);
                    }
                }
            }
        }
    }

    fn ask(&mut self, drive: DriveId, op: ShardOp, payload: Buf, wait: Wait, cx: &mut Cx<'_>) {
        self.call(Target::Actor(ActorId::drive(drive)), op.into(), payload, wait, cx);
    }

    fn call(&mut self, to: Target, op: Op, payload: Buf, wait: Wait, cx: &mut Cx<'_>) {
        let request = Request { payload, lane: Lane::Bulk, ..Request::system(op, cx.now() + BUDGET_DEFAULT) };
        let call = cx.call(to, request);
        self.waits.insert(call, wait);
    }

    /// Goes on with a stripe.
    fn follow(&mut self, stripe: StripeId, course: Course, cx: &mut Cx<'_>) {
        match course {
            Course::On(steps) => {
                for step in steps {
                    match step {
                        Step::Ask(shard, drive, op, payload) => {
                            self.ask(drive, op, payload, Wait::Shard(stripe, shard), cx);
                        }
                        Step::Compute(job) => {
                            let work = cx.start(Job::Compute(job));
                            self.waits.insert(work, Wait::Work(stripe));
                        }
                    }
                }
            }
            Course::End(outcome) => {
                let Some(healing) = self.heals.remove(&stripe) else { return };
                self.spend(healing.heal.bytes(), cx.now());
                self.kept.moved_bytes.add(healing.heal.bytes());
                match &outcome {
                    Ok(()) => self.kept.healed_stripes.add(1),
                    Err(error) if error.kind() == ErrorKind::Lost => self.kept.lost_stripes.add(1),
                    Err(_) => self.kept.failed_stripes.add(1),
                }
                if let Some(group) = self.groups.get_mut(&healing.group).filter(|group| group.term() == healing.term) {
                    let fate = match outcome {
                        Ok(()) => Fate::Healed,
                        // Not every replica of the group would keep how many writes those are.
                        Err(error) if error.kind() == ErrorKind::Lost && self.spec.level >= Level::LOSSES => Fate::Lost,
                        Err(_) => Fate::Failed,
                    };
                    group.healed(stripe, fate);
                }
            }
        }
    }

    /// Takes bytes off the budget.
    fn spend(&mut self, bytes: u64, now: Instant) {
        let rate = self.spec.repair_bytes_per_s.max(1);
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(rate);
        let takes = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        self.free_at = self.free_at.max(now) + takes;
    }

    fn on_reply(&mut self, call: Token, outcome: Outcome, cx: &mut Cx<'_>) {
        let wait = self.waits.remove(&call).expect("a reply is to a call that was made, and comes once");
        match wait {
            Wait::Group(id, term) => {
                let answer = outcome.and_then(|response| match response.answer {
                    mesh_core::Answer::Meta(answer) => Ok(answer),
                    _ => Err(Error::bug("a group answered with something else than was asked")),
                });
                self.heard(id, term, answer, cx);
            }
            Wait::List(id, term, drive) => self.tell(id, term, |group| group.listed(drive, outcome)),
            Wait::Clear(id, term, drive) => self.tell(id, term, |group| group.cleared(drive, &outcome)),
            Wait::Name(id, term, drive) => self.tell(id, term, |group| group.named(id, drive, outcome)),
            Wait::Shard(stripe, shard) => {
                let healing =
                    self.heals.get_mut(&stripe).expect("a stripe is healed until all that was asked has come");
                let course = healing.heal.hear(shard, outcome);
                self.follow(stripe, course, cx);
            }
            Wait::Work(_) => unreachable!("work ends with Done, not with a reply"),
        }
        self.work(cx);
    }

    fn on_done(&mut self, work: Token, outcome: WorkOutcome, cx: &mut Cx<'_>) {
        let wait = self.waits.remove(&work).expect("the end is of work that was started, and comes once");
        match wait {
            Wait::Group(id, term) => {
                let answer = outcome.and_then(|output| match output {
                    WorkOutput::Meta(answer) => Ok(answer),
                    _ => Err(Error::bug("a proposal ended with something other than an answer")),
                });
                self.heard(id, term, answer, cx);
            }
            Wait::Work(stripe) => {
                let healing = self.heals.get_mut(&stripe).expect("a stripe is healed until its work has ended");
                let course = healing.heal.done(outcome);
                self.follow(stripe, course, cx);
            }
            Wait::List(..) | Wait::Clear(..) | Wait::Name(..) | Wait::Shard(..) => {
                unreachable!("a call ends with a reply")
            }
        }
        self.work(cx);
    }

    /// A group has answered, or will not.
    fn heard(&mut self, id: GroupId, term: u64, answer: Result<Arc<MetaAnswer>, Error>, cx: &Cx<'_>) {
        let Some(goal) = self.goal() else { return };
        let spec = &self.spec;
        let ground = pass::Ground { group: id, spec, goal: &goal, may_heal: None, now: cx.now(), wall: cx.wall() };
        if let Some(group) = self.groups.get_mut(&id).filter(|group| group.term() == term) {
            group.heard(answer, ground);
        }
    }

    fn tell(&mut self, id: GroupId, term: u64, tell: impl FnOnce(&mut Group)) {
        if let Some(group) = self.groups.get_mut(&id).filter(|group| group.term() == term) {
            tell(group);
        }
    }
}

impl StorageFunction for Keeper {
    fn on_event(&mut self, event: Event, cx: &mut Cx<'_>) {
        match event {
            Event::Request { id, .. } => {
                let error = Error::new(ErrorKind::Unsupported, "Keeper does its work unasked, and takes no requests");
                cx.reply(id, Err(error));
            }
            Event::Reply { call, outcome } => self.on_reply(call, outcome, cx),
            Event::Done { work, outcome } => self.on_done(work, outcome, cx),
            Event::Wake => {
                if self.groups.is_empty() {
                    self.configure(self.spec.clone(), cx.now());
                }
                self.work(cx);
            }
            Event::Configure(spec) => {
                for part in spec.parts() {
                    if let FunctionSpec::Keeper(spec) = part {
                        self.configure(spec.clone(), cx.now());
                    }
                }
                self.work(cx);
            }
        }
        debug_assert!(self.heals.len() <= self.waits.len(), "every stripe that is being healed waits for something");
    }

    fn wake_at(&self) -> Option<Instant> {
        // A function that was only just made has not looked at its spec.
        if self.groups.is_empty() && !self.spec.groups.is_empty() && self.goal().is_some() {
            return Some(Instant(0));
        }
        if self.groups.values().any(Group::is_busy) {
            return Some(Instant(0));
        }
        let wakes = self.groups.values().filter_map(Group::wake_at);
        let heal = self.groups.values().any(Group::has_wounds) && self.heals.len() < HEALS_MAX;
        wakes.chain(heal.then_some(self.free_at)).min()
    }

    fn in_flight(&self) -> usize {
        self.waits.len()
    }

    /// There is no state: whatever is under way may end where it began.
    fn lingers(&self) -> bool {
        true
    }

    fn figures(&self, labels: &Labels, page: &mut Page) {
        self.kept.tell(labels, page);
        let now = Kept {
            groups: Amount(self.groups.len() as u64),
            stripes_under_way: Amount(self.heals.len() as u64),
            ..Kept::default()
        };
        now.tell(labels, page);
    }

    fn snapshot(&mut self, since: Option<Mark>) -> Snapshot {
        Snapshot { since, ..Snapshot::default() }
    }
}

/// Whether a drive can be read and written.
fn is_up(drives: &SharedMap<DriveId, DriveState>, drive: DriveId) -> bool {
    drives.get(&drive) == Some(&DriveState::Up)
}

/// Whether a drive can be read.
fn can_be_read(drives: &SharedMap<DriveId, DriveState>, drive: DriveId) -> bool {
    matches!(drives.get(&drive), Some(DriveState::Up | DriveState::Full))
}

/// Whether nothing that was on a drive comes back: it is lost, and does not merely stay away.
fn is_gone(drives: &SharedMap<DriveId, DriveState>, leaving: &SharedMap<DriveId, Leaving>, drive: DriveId) -> bool {
    drives.get(&drive) == Some(&DriveState::Lost) && !leaving.contains_key(&drive)
}

/// Stripes that are healed at a time.
const HEALS_MAX: usize = 4;
