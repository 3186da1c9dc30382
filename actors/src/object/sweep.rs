//! Sweep: finds and deletes the shards of writes that came to nothing (a client or a node that vanished, an attempt
//! whose end nobody learnt), whose ids nobody remembers: by looking at what lies on the drives.
//!
//! It works on closed blocks of write ids. What a closed block's write is not referred to now, it is never again: no
//! manifest of it is taken any more. Of a write that is referred to only those shards are its own that its extent names:
//! of the attempt that was stored, on the drives that took it; others were left by attempts that somebody gave up, and on
//! drives that wrote after all what another wrote in their place. It owns which closed blocks it has seen, and what remains
//! to be done for the one in hand; it never closes a block (see `retire`), and never touches a block before it has itself
//! seen it closed for the grace, so that what may still be on its way to a drive has ended.
//!
//! ```text
//! a group:  Idle -(period)-> Looking -(closed blocks)-> Idle
//!           Idle -(a block's time has come)-> Asking -(what refers to its writes)-> Walking -> Settling -> Idle
//! a drive:  List -> (Check ->) Delete -> List -> … until it is through with the block's range of ids
//! ```
//!
//! Shards are moved while it looks, to the homes that a newer layout gives them, of which this node may not have heard. So
//! before a shard of a write that is in use is deleted, the group says for which layout it moves any; and a drive that
//! deletes leaves what was written after it was listed.
//!
//! A block is forgotten (`SweptBlock`) only when every registered drive has been walked to the end. A drive that does
//! not answer puts the block off, later and later; which drives are done is remembered meanwhile, and other blocks go
//! first. Bounded: one block a group at a time, a few drives of it at once, one call a drive, a window of blocks.

use core::time::Duration;
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use mesh_core::{
    Answer, Error, Response,
    id::{DriveId, GroupId, ShardId, StripeId, WriteId},
    limits::SHARD_BATCH_MAX,
    meta::{Command, MetaAnswer, Query, Reference, Shape, UpkeepCommand},
    op::{Head, ShardOp},
    spec::ObjectSpec,
    time::Instant,
    topology::Layouts,
};

use super::task::{self, Failure, Question};

/// What an answer is about.
pub(super) struct Errand {
    group: GroupId,
    /// Of which assignment of the group: what an earlier one asked for is of no interest.
    term: u64,
    what: What,
}

#[derive(Clone, Copy)]
enum What {
    /// Closed blocks.
    Look,
    /// What refers to the writes of a block.
    Ask,
    /// A step of the walk over a drive.
    Walk(DriveId),
    /// A block is to be forgotten.
    Settle,
}

/// See the module's page.
#[derive(Default)]
pub(super) struct Sweep {
    groups: BTreeMap<GroupId, Group>,
    terms: u64,
}

struct Group {
    term: u64,
    state: State,
    /// Nothing is begun before.
    rest_until: Instant,
    /// When to look for closed blocks again.
    look_at: Instant,
    /// Looks in a row that failed.
    setbacks: u32,
    /// The window begins behind this block.
    after: Option<WriteId>,
    /// There are more blocks behind the window.
    full: bool,
    /// Closed blocks, at most `WINDOW`.
    window: BTreeMap<WriteId, Closed>,
    /// Those not in hand, by when their time comes.
    queue: BTreeSet<(Instant, WriteId)>,
}

/// A closed block.
struct Closed {
    count: u64,
    tries: u32,
    /// Drives that hold nothing of it any more.
    covered: BTreeSet<DriveId>,
}

enum State {
    Idle,
    Looking,
    /// With what is known of its first writes; to be sent.
    AskDue(WriteId, Vec<Reference>),
    Asking(WriteId, Vec<Reference>),
    Walking(WriteId, Round),
    Settling(WriteId),
}

/// The walks over the drives for one block.
#[derive(Default)]
pub(super) struct Round {
    /// The block's writes, with the shards that are theirs. None are: nobody refers to it.
    writes: BTreeMap<WriteId, Option<Shape>>,
    todo: VecDeque<DriveId>,
    walks: BTreeMap<DriveId, Walk>,
    covered: BTreeSet<DriveId>,
}

/// Where a walk is. `*Due`: to be sent; the others: out.
enum Walk {
    ListDue(ShardId),
    Listing(ShardId),
    CheckDue(Doomed),
    Checking(Doomed),
    DeleteDue(Doomed),
    /// And then a list from there on, if there is more.
    Deleting(Option<ShardId>),
}

/// What a drive is to delete.
#[derive(Default)]
struct Doomed {
    ids: Vec<ShardId>,
    /// How far the drive's log had come when they were listed.
    head: Head,
    /// Where its list goes on.
    then: Option<ShardId>,
}

/// What a walk wants next.
pub(super) enum Want {
    /// Of the drive.
    Drive(ShardOp),
    /// Of the group: how far it is with repair.
    Group,
}

impl Want {
    pub(super) fn question(self, group: GroupId, drive: DriveId) -> Question {
        match self {
            Self::Drive(op) => Question::shard(drive, op),
            Self::Group => Question::query_directly(group, Query::Repair),
        }
    }
}

impl Sweep {
    /// Takes over these groups, and leaves others at once: what is out for them is not heard any more.
    pub(super) fn assign(&mut self, groups: &BTreeSet<GroupId>, now: Instant) {
        self.groups.retain(|group, _| groups.contains(group));
        for group in groups {
            let terms = &mut self.terms;
            self.groups.entry(*group).or_insert_with(|| {
                *terms += 1;
                Group::new(*terms, now)
            });
        }
    }

    /// When there will be something to do, while there are drives to walk over.
    pub(super) fn next_at(&self) -> Option<Instant> {
        self.groups.values().filter_map(Group::next_at).min()
    }

    /// The next thing to do now.
    pub(super) fn next_errand(&mut self, drives: &[DriveId], now: Instant) -> Option<(Errand, Question)> {
        self.groups.iter_mut().find_map(|(&id, group)| {
            let (what, question) = group.next(id, drives, now)?;
            Some((Errand { group: id, term: group.term, what }, question))
        })
    }

    pub(super) fn hear(
        &mut self,
        errand: Errand,
        result: Result<Response, Failure>,
        grace: Duration,
        spec: &ObjectSpec,
        now: Instant,
    ) {
        let Errand { group, term, what } = errand;
        let Some(group) = self.groups.get_mut(&group).filter(|group| group.term == term) else { return };
        let result = result.map_err(Error::from);
        match what {
            What::Look => group.looked(result, grace, now),
            What::Ask => group.asked(result, spec, now),
            What::Walk(drive) => {
                if let State::Walking(_, round) = &mut group.state {
                    round.heard(drive, result, &spec.layouts);
                }
            }
            What::Settle => group.settled(result.is_ok(), now),
        }
    }
}

impl Group {
    fn new(term: u64, now: Instant) -> Self {
        Self {
            term,
            state: State::Idle,
            rest_until: now,
            look_at: now + PERIOD,
            setbacks: 0,
            after: None,
            full: false,
            window: BTreeMap::new(),
            queue: BTreeSet::new(),
        }
    }

    fn next_at(&self) -> Option<Instant> {
        if !matches!(self.state, State::Idle) {
            return None;
        }
        let due = self.queue.first().map_or(self.look_at, |(due, _)| self.look_at.min(*due));
        Some(due.max(self.rest_until))
    }

    fn next(&mut self, id: GroupId, drives: &[DriveId], now: Instant) -> Option<(What, Question)> {
        match &mut self.state {
            State::Idle if now < self.rest_until => None,
            State::Idle => {
                if let Some(&(due, first)) = self.queue.first()
                    && due <= now
                {
                    self.queue.pop_first();
                    self.state = State::AskDue(first, Vec::new());
                    return self.next(id, drives, now);
                }
                if self.look_at > now {
                    return None;
                }
                self.move_window();
                self.state = State::Looking;
                let query = Query::ClosedBlocks { after: self.after, limit: WINDOW as u32 };
                Some((What::Look, Question::query_directly(id, query)))
            }
            State::AskDue(first, known) => {
                let (first, known) = (*first, core::mem::take(known));
                let count = self.window.get(&first)?.count;
                let writes = (first.0 + known.len() as u64..first.0 + count).map(WriteId).collect();
                self.state = State::Asking(first, known);
                Some((What::Ask, Question::query_directly(id, Query::Referenced { writes })))
            }
            State::Walking(first, round) => {
                if let Some((drive, want)) = round.next() {
                    return Some((What::Walk(drive), want.question(id, drive)));
                }
                if !round.is_over() {
                    return None;
                }
                let first = *first;
                let Round { covered, .. } = core::mem::take(round);
                let closed = self.window.get_mut(&first)?;
                closed.covered.extend(covered);
                if !drives.iter().all(|drive| closed.covered.contains(drive)) {
                    self.put_off(first, now);
                    return None;
                }
                self.state = State::Settling(first);
                let swept = Command::Upkeep(id, UpkeepCommand::SweptBlock { first });
                Some((What::Settle, Question::propose_directly(swept)))
            }
            State::Looking | State::Asking(..) | State::Settling(_) => None,
        }
    }

    /// Goes on to the blocks behind the window, or back to the first, once every block in it was tried: blocks that
    /// cannot be swept do not hide others.
    fn move_window(&mut self) {
        if (self.full || self.after.is_some()) && self.window.values().all(|closed| closed.tries > 0) {
            self.after = self.window.last_key_value().map(|(first, _)| *first).filter(|_| self.full);
            self.window.clear();
            self.queue.clear();
        }
    }

    fn looked(&mut self, result: Result<Response, Error>, grace: Duration, now: Instant) {
        self.state = State::Idle;
        let Ok(MetaAnswer::ClosedBlocks(blocks)) = result.and_then(task::meta).map(Arc::unwrap_or_clone) else {
            self.setbacks = self.setbacks.saturating_add(1);
            self.look_at = now + back_off(PERIOD, self.setbacks);
            return;
        };
        self.setbacks = 0;
        self.look_at = now + PERIOD;
        self.full = blocks.len() >= WINDOW;
        let named: BTreeMap<WriteId, u64> = blocks.into_iter().take(WINDOW).collect();
        self.window.retain(|first, _| named.contains_key(first));
        self.queue.retain(|(_, first)| named.contains_key(first));
        for (first, count) in named {
            // Others are not blocks that a group grants, and cannot be walked.
            if first.0 > 0 && (1..=COUNT_MAX).contains(&count) && first.0.checked_add(count).is_some() {
                let queue = &mut self.queue;
                self.window.entry(first).or_insert_with(|| {
                    queue.insert((now + grace, first));
                    Closed { count, tries: 0, covered: BTreeSet::new() }
                });
            }
        }
    }

    fn asked(&mut self, result: Result<Response, Error>, spec: &ObjectSpec, now: Instant) {
        let State::Asking(first, known) = &mut self.state else { return };
        let (first, mut known) = (*first, core::mem::take(known));
        let Some(closed) = self.window.get(&first) else { return self.rest(now) };
        let answer = result.and_then(task::meta).map(Arc::unwrap_or_clone);
        let Ok(MetaAnswer::Referenced(more)) = answer else { return self.put_off(first, now) };
        let is_known = !more.is_empty() && more.iter().all(|reference| is_comparable(reference, spec));
        known.extend(more);
        if !is_known || known.len() as u64 > closed.count {
            return self.put_off(first, now);
        }
        if (known.len() as u64) < closed.count {
            self.state = State::AskDue(first, known);
            return;
        }
        let shape = |reference| match reference {
            Reference::Used(shape) => shape,
            Reference::Nobody | Reference::Open => None,
        };
        let writes = (first.0..).map(WriteId).zip(known.into_iter().map(shape)).collect();
        let todo = spec.drives.iter().filter(|drive| !closed.covered.contains(drive)).copied().collect();
        self.state = State::Walking(first, Round { writes, todo, ..Round::default() });
    }

    fn settled(&mut self, forgotten: bool, now: Instant) {
        let State::Settling(first) = self.state else { return };
        if forgotten {
            self.window.remove(&first);
            self.rest(now);
        } else {
            self.put_off(first, now);
        }
    }

    /// Tries a block again later.
    fn put_off(&mut self, first: WriteId, now: Instant) {
        if let Some(closed) = self.window.get_mut(&first) {
            closed.tries = closed.tries.saturating_add(1);
            self.queue.insert((now + back_off(RETRY, closed.tries), first));
        }
        self.rest(now);
    }

    fn rest(&mut self, now: Instant) {
        self.state = State::Idle;
        self.rest_until = now + REST;
    }
}

impl Round {
    /// A walk over one drive alone, for writes that nobody refers to.
    pub(super) fn of(doomed: BTreeSet<WriteId>, drive: DriveId) -> Self {
        let writes = doomed.into_iter().map(|write| (write, None)).collect();
        Self { writes, todo: VecDeque::from([drive]), ..Self::default() }
    }

    /// Whether a drive holds nothing of them any more.
    pub(super) fn covers(&self, drive: DriveId) -> bool {
        self.covered.contains(&drive)
    }

    /// The next thing to ask for a drive's sake.
    pub(super) fn next(&mut self) -> Option<(DriveId, Want)> {
        if let Some((&first, _)) = self.writes.first_key_value()
            && self.walks.len() < WALKS_MAX
            && let Some(drive) = self.todo.pop_front()
        {
            self.walks.insert(drive, Walk::ListDue(below(first)));
        }
        self.walks.iter_mut().find_map(|(drive, walk)| Some((*drive, walk.send()?)))
    }

    pub(super) fn is_over(&self) -> bool {
        self.todo.is_empty() && self.walks.is_empty()
    }

    /// A drive has answered. Its walk goes on, has come to its end, or is given up for this time.
    pub(super) fn heard(&mut self, drive: DriveId, result: Result<Response, Error>, layouts: &Layouts) {
        let Some(walk) = self.walks.remove(&drive) else { return };
        let Ok(Response { answer, .. }) = result else { return };
        let next = match (walk, answer) {
            (Walk::Listing(after), Answer::Shards { page, more, head }) => {
                let in_order = page.is_sorted_by(|(left, _), (right, _)| left < right);
                if !in_order || page.first().is_some_and(|(id, _)| *id <= after) || (page.is_empty() && more) {
                    // Not an answer to the question: going on from it might never end.
                    return;
                }
                let last = page.last().map(|(id, _)| *id).filter(|_| more);
                let then = last.and_then(|last| self.onwards(last));
                let ids: Vec<ShardId> = page.into_iter().map(|(id, _)| id).collect();
                let ids: Vec<ShardId> = ids.into_iter().filter(|id| self.is_astray(drive, *id, layouts)).collect();
                let of_used = ids.iter().any(|id| matches!(self.writes.get(&id.stripe.write), Some(Some(_))));
                match (ids.is_empty(), of_used) {
                    (true, _) => self.go_on(drive, then),
                    (false, true) => Some(Walk::CheckDue(Doomed { ids, head, then })),
                    (false, false) => Some(Walk::DeleteDue(Doomed { ids, head, then })),
                }
            }
            // What is moved for a layout that is not known here is written after the group has begun with it: and if it has not
            // by now, after the list.
            (Walk::Checking(doomed), Answer::Meta(meta)) => match &*meta {
                MetaAnswer::Repair(state) if layouts.last_key_value().is_some_and(|(id, _)| state.marked <= *id) => {
                    Some(Walk::DeleteDue(doomed))
                }
                _ => return,
            },
            (Walk::Deleting(then), Answer::Done) => self.go_on(drive, then),
            _ => return,
        };
        if let Some(next) = next {
            self.walks.insert(drive, next);
        }
    }

    /// Lists on from there, or is through with a drive.
    fn go_on(&mut self, drive: DriveId, then: Option<ShardId>) -> Option<Walk> {
        if then.is_none() {
            self.covered.insert(drive);
        }
        then.map(Walk::ListDue)
    }

    /// Whether a shard of the block lies where nobody looks for it.
    fn is_astray(&self, drive: DriveId, id: ShardId, layouts: &Layouts) -> bool {
        match self.writes.get(&id.stripe.write) {
            Some(Some(shape)) => shape.owns(layouts, drive, id) == Some(false),
            Some(None) => true,
            None => false,
        }
    }

    /// Where to list from behind a shard: there, or just before the next write that is looked for. `None`: there is no
    /// other.
    fn onwards(&self, last: ShardId) -> Option<ShardId> {
        let (&next, _) = self.writes.range(last.stripe.write..).next()?;
        Some(if next == last.stripe.write { last } else { below(next) })
    }
}

impl Walk {
    /// What is to be sent, which is out from now on.
    fn send(&mut self) -> Option<Want> {
        let (want, out) = match self {
            Self::ListDue(after) => {
                let list = ShardOp::List { after: Some(*after), limit: SHARD_BATCH_MAX as u32, relies: None };
                (Want::Drive(list), Self::Listing(*after))
            }
            Self::CheckDue(doomed) => (Want::Group, Self::Checking(core::mem::take(doomed))),
            Self::DeleteDue(doomed) => {
                let Doomed { ids, head, then } = core::mem::take(doomed);
                (Want::Drive(ShardOp::Delete { ids, until: Some(head) }), Self::Deleting(then))
            }
            Self::Listing(_) | Self::Checking(_) | Self::Deleting(_) => return None,
        };
        *self = out;
        Some(want)
    }
}

/// Whether it can be told which shards are a write's own. Of a closed block no write is open; what is said otherwise is
/// from before.
fn is_comparable(reference: &Reference, spec: &ObjectSpec) -> bool {
    match reference {
        Reference::Open => false,
        Reference::Used(Some(shape)) => spec.layouts.contains_key(&shape.layout),
        Reference::Nobody | Reference::Used(None) => true,
    }
}

/// The greatest name of a shard below all those of a write, which is not the first there is.
fn below(write: WriteId) -> ShardId {
    let first = StripeId { write, stripe: 0, attempt: 0 }.shard(0);
    first.before().unwrap_or(first)
}

/// How long to wait after failures in a row.
fn back_off(pause: Duration, failures: u32) -> Duration {
    pause.saturating_mul(1 << failures.min(8)).min(PAUSE_MAX)
}

/// Between two looks for closed blocks.
const PERIOD: Duration = Duration::from_secs(10);
/// Before a block is tried for the second time.
const RETRY: Duration = Duration::from_secs(5);
/// Between two tries at most, after failures.
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// Between two blocks of a group.
const REST: Duration = Duration::from_millis(100);
/// Closed blocks of a group that are remembered.
const WINDOW: usize = 256;
/// Writes of a block at most; a block of more is left alone.
const COUNT_MAX: u64 = 16_384;
/// Drives of a group that are walked over at once.
const WALKS_MAX: usize = 4;

const _: () = assert!(mesh_core::limits::WRITE_BLOCK <= COUNT_MAX);
