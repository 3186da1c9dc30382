//! Reclaim: deletes the stripes that no manifest refers to, and then forgets them.
//!
//! Two sources: *litter* (stripes of attempts and writes that failed here; best effort, for the closing of their block
//! of write ids catches what is missed) and *garbage* (rows in the groups that this ingress reclaims; each is dropped
//! only after every one of its stripes is deleted, so nothing is missed). It deletes as the mesh itself, a bounded
//! number at a time.
//!
//! It waits for no drive: what some drives of a stripe did not delete is owed by them, in rows that `owed` works off,
//! and the garbage row is done with. What fails altogether (no drive of a stripe answers, or no chain) stays and is
//! passed over: a pass goes through all rows by a cursor, whatever becomes of the earlier ones, and the next pass comes
//! the later the more often passes met with failures. What is old enough, `ages` says.
//!
//! ```text
//! a group:  Idle -(time)-> Asking -(a page)-> Deleting -> Closing (forgets what is gone) -> Idle
//! ```

use core::time::Duration;
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use mesh_core::{
    Answer, Buf, Error, Response,
    id::{DriveId, GroupId, StripeId, TenantId, WriteId},
    meta::{Command, Compression, Garbage, GarbageMark, MetaAnswer, Query, UpkeepCommand},
    op::{StripeOp, StripeTarget},
    spec::Encryption,
    time::Instant,
};

use super::{
    ages::Ages,
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

    /// Asked of a chain that there is: of what a tenant has left that was deleted, of another one's, for deleting opens nothing.
    fn question(&self, tenants: &Tenants) -> Question {
        let mut target = self.target.clone();
        if !tenants.contains_key(&target.binding.tenant)
            && let Some(other) = tenants.keys().next()
        {
            target.binding = binding_of_nobody(*other);
        }
        let op = StripeOp::Delete { target, avoid: self.avoid.clone() };
        Question::stripe(op, Buf::empty(), Retry::Never)
    }
}

/// Those that there are.
type Tenants = BTreeMap<TenantId, Encryption>;

/// What an answer is about.
pub(super) enum Errand {
    /// A stripe of litter.
    Litter(Box<Doomed>),
    /// A page of garbage.
    Garbage(GroupId),
    /// A stripe of a garbage row.
    Stripe(GroupId, WriteId),
    /// Garbage rows that are done with.
    Close(GroupId),
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
    ages: Ages,
    /// Where the pass goes on; `None`: at the oldest row.
    after: Option<GarbageMark>,
    /// Something failed in this pass.
    failed: bool,
    /// Passes in a row in which something failed.
    setbacks: u32,
    /// When to ask again, once idle.
    next_at: Instant,
    /// Something became garbage since the last look.
    hurry: bool,
}

enum State {
    Idle,
    Asking,
    Deleting(Round),
    Closing(Close),
}

/// One page of garbage.
#[derive(Default)]
struct Round {
    /// Rows whose stripes are not all sent yet; the first is at `cursor`.
    rows: VecDeque<Garbage>,
    cursor: u32,
    /// Rows with deletions out.
    open: BTreeMap<WriteId, Progress>,
    /// Rows of which nothing is left.
    gone: Vec<WriteId>,
    /// Rows of which some drives have something left.
    owed: BTreeMap<DriveId, Vec<WriteId>>,
    failed: bool,
}

#[derive(Default)]
struct Progress {
    out: u32,
    sent: bool,
    failed: bool,
    /// Drives that did not delete.
    left: BTreeSet<DriveId>,
}

/// What remains to be told to the group after a page.
struct Close {
    /// The last comes first.
    commands: Vec<UpkeepCommand>,
    out: bool,
    /// Nothing of the page is done with.
    in_vain: bool,
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
                    // To delete opens nothing.
                    compression: Compression::Off,
                    code: extent.code,
                };
                return Some(Doomed::new(target, run.map_or_else(Vec::new, |run| run.avoid.clone())));
            }
            progress.sent = true;
            let write = extent.write;
            self.rows.pop_front();
            self.cursor = 0;
            self.end(write);
        }
    }

    /// A stripe is deleted but for these drives, or not at all.
    fn heard(&mut self, write: WriteId, left: Option<Vec<DriveId>>) {
        if let Some(progress) = self.open.get_mut(&write) {
            progress.out -= 1;
            match left {
                Some(drives) => progress.left.extend(drives),
                None => progress.failed = true,
            }
        }
        self.end(write);
    }

    fn end(&mut self, write: WriteId) {
        let Some(progress) = self.open.get(&write) else { return };
        if !progress.sent || progress.out > 0 {
            return;
        }
        if progress.failed {
            self.failed = true;
        } else if progress.left.is_empty() {
            self.gone.push(write);
        } else {
            for drive in &progress.left {
                self.owed.entry(*drive).or_default().push(write);
            }
        }
        self.open.remove(&write);
    }

    fn is_over(&self) -> bool {
        self.rows.is_empty() && self.open.is_empty()
    }

    /// What the group is to be told.
    fn close(self) -> Close {
        let owed: Vec<_> = self.owed.into_iter().collect();
        let owe = (!owed.is_empty()).then_some(UpkeepCommand::OweGarbage { owed });
        let drop = (!self.gone.is_empty()).then_some(UpkeepCommand::DropGarbage { writes: self.gone });
        let commands: Vec<UpkeepCommand> = [owe, drop].into_iter().flatten().collect();
        Close { in_vain: commands.is_empty() && self.failed, commands, out: false }
    }
}

impl Group {
    fn new(now: Instant) -> Self {
        Self {
            assigned: true,
            state: State::Idle,
            ages: Ages::default(),
            after: None,
            failed: false,
            setbacks: 0,
            next_at: now,
            hurry: false,
        }
    }

    /// The next thing to do now.
    fn next(
        &mut self,
        id: GroupId,
        tenants: &Tenants,
        deleting: &mut usize,
        (grace, now): (Duration, Instant),
    ) -> Option<(Errand, Question)> {
        loop {
            match &mut self.state {
                State::Idle if self.assigned && self.next_at <= now => {
                    self.state = State::Asking;
                    let query =
                        Query::Garbage { before: self.ages.ripe(grace, now), after: self.after, limit: GARBAGE_PAGE };
                    return Some((Errand::Garbage(id), Question::query_directly(id, query)));
                }
                State::Deleting(round) => {
                    if *deleting < DELETES_MAX
                        && let Some(doomed) = round.next_stripe()
                    {
                        *deleting += 1;
                        return Some((Errand::Stripe(id, doomed.target.id.write), doomed.question(tenants)));
                    }
                    if !round.is_over() {
                        return None;
                    }
                    let round = core::mem::take(round);
                    self.failed |= round.failed;
                    self.state = State::Closing(round.close());
                }
                State::Closing(close) if !close.out => {
                    if let Some(command) = close.commands.pop() {
                        close.out = true;
                        return Some((Errand::Close(id), Question::propose_directly(Command::Upkeep(id, command))));
                    }
                    let in_vain = close.in_vain;
                    self.rest(in_vain, grace, now);
                }
                State::Idle | State::Asking | State::Closing(_) => return None,
            }
        }
    }

    /// A page is done with: goes on with the next, or begins anew later.
    fn rest(&mut self, in_vain: bool, grace: Duration, now: Instant) {
        self.state = State::Idle;
        if self.after.is_some() {
            // Where nothing goes well it would be for nothing to hurry on.
            self.next_at = if in_vain { now + PERIOD } else { now };
            return;
        }
        self.setbacks = if core::mem::take(&mut self.failed) { self.setbacks.saturating_add(1) } else { 0 };
        self.next_at = now + pause(self.setbacks);
        if self.setbacks == 0 {
            if let Some(ripe) = self.ages.next_ripe(grace) {
                self.next_at = self.next_at.min(ripe);
            }
            if core::mem::take(&mut self.hurry) {
                self.look_soon(grace, now);
            }
        }
    }

    /// The group could not be asked.
    fn setback(&mut self, now: Instant) {
        self.state = State::Idle;
        self.setbacks = self.setbacks.saturating_add(1);
        self.next_at = now + pause(self.setbacks);
    }

    /// Looks as soon as a look is worth it.
    fn look_soon(&mut self, grace: Duration, now: Instant) {
        self.next_at = self.next_at.min(self.ages.next_look(grace).map_or(now, |at| at.max(now)));
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
            self.groups.entry(*group).or_insert_with(|| Group::new(now));
        }
    }

    /// Something has become garbage: the group is looked at soon, for its grace counts from the look.
    pub(super) fn hurry(&mut self, group: GroupId, grace: Duration, now: Instant) {
        let Some(group) = self.groups.get_mut(&group) else { return };
        match group.state {
            State::Idle if group.setbacks == 0 => group.look_soon(grace, now),
            State::Idle => {}
            _ => group.hurry = true,
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
    pub(super) fn next_errand(
        &mut self,
        tenants: &Tenants,
        grace: Duration,
        now: Instant,
    ) -> Option<(Errand, Question)> {
        if self.deleting < DELETES_MAX
            && let Some(doomed) = self.due_litter(now)
        {
            self.deleting += 1;
            let question = doomed.question(tenants);
            return Some((Errand::Litter(doomed.into()), question));
        }
        let deleting = &mut self.deleting;
        let errand = self.groups.iter_mut().find_map(|(&id, group)| group.next(id, tenants, deleting, (grace, now)));
        if errand.is_none() {
            self.groups.retain(|_, group| group.assigned || !matches!(group.state, State::Idle));
        }
        errand
    }

    fn due_litter(&mut self, now: Instant) -> Option<Doomed> {
        let first = self.litter.first_entry()?;
        if first.key().0 <= now { Some(first.remove()) } else { None }
    }

    /// Takes what came. Gives the drives that a group says are owed something.
    pub(super) fn hear(
        &mut self,
        errand: Errand,
        result: Result<Response, Failure>,
        grace: Duration,
        now: Instant,
    ) -> Option<(GroupId, Vec<DriveId>)> {
        match errand {
            Errand::Litter(mut doomed) => {
                self.deleting -= 1;
                doomed.tries += 1;
                let gone = left_of(result).is_some_and(|left| left.is_empty());
                if !gone && doomed.tries < LITTER_TRIES {
                    let due = now + LITTER_DELAY.saturating_mul(1 << doomed.tries.min(8));
                    self.put(*doomed, due);
                }
                None
            }
            Errand::Garbage(id) => {
                let group = self.groups.get_mut(&id)?;
                let answer = result.map_err(Error::from).and_then(task::meta).map(Arc::unwrap_or_clone);
                let Ok(MetaAnswer::Garbage(page)) = answer else {
                    group.setback(now);
                    return None;
                };
                group.ages.saw(page.newest, grace, now);
                group.after = page.next;
                group.state = State::Deleting(Round { rows: page.rows.into(), ..Round::default() });
                Some((id, page.owing))
            }
            Errand::Stripe(id, write) => {
                self.deleting -= 1;
                if let Some(Group { state: State::Deleting(round), .. }) = self.groups.get_mut(&id) {
                    round.heard(write, left_of(result));
                }
                None
            }
            Errand::Close(id) => {
                let group = self.groups.get_mut(&id)?;
                if let State::Closing(close) = &mut group.state {
                    close.out = false;
                }
                // Writes that could not be left to their drives, which are owed too much already, stay garbage.
                let closed = result.map_err(Error::from).and_then(task::meta).is_ok_and(|answer| match &*answer {
                    MetaAnswer::Writes(kept) => kept.is_empty(),
                    _ => true,
                });
                group.failed |= !closed;
                None
            }
        }
    }
}

/// The drives that did not delete their part of a stripe; `None`: it is not known of any that it did.
fn left_of(result: Result<Response, Failure>) -> Option<Vec<DriveId>> {
    match result.ok()?.answer {
        Answer::Done => Some(Vec::new()),
        Answer::Left(drives) => Some(drives),
        _ => None,
    }
}

/// How long to wait after passes in a row that met with failures.
fn pause(setbacks: u32) -> Duration {
    PERIOD.saturating_mul(1 << setbacks.min(8)).min(PERIOD_MAX)
}

/// Between two looks for garbage.
const PERIOD: Duration = Duration::from_secs(2);
/// Between two looks at most, after failures.
const PERIOD_MAX: Duration = Duration::from_secs(60);
/// Rows of garbage a page at most.
const GARBAGE_PAGE: u32 = 64;
/// Deletions out at a time at most.
const DELETES_MAX: usize = 16;
/// Litter waits so long before it is deleted, and longer after each failure.
const LITTER_DELAY: Duration = Duration::from_secs(2);
/// Deletions of one piece of litter at most.
const LITTER_TRIES: u32 = 5;
/// Pieces of litter remembered at most.
const LITTER_MAX: usize = 65_536;
