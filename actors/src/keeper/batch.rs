//! Some of the writes of a page: which of their shards are not at their homes, as the drives say, and the stripes that are to
//! be healed for that.
//!
//! It knows tables, drives' lists and what came of heals; it sends nothing. A shard that was written to what is its home in
//! the newest layout too is taken to be there: whether drives keep what they have is another question.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use mesh_core::{
    Answer, Outcome,
    id::{DriveId, LayoutId, ShardId, StripeId, WriteId},
    limits::SHARD_BATCH_MAX,
    meta::Shape,
    op::ShardOp,
    topology::{self, Layout, Layouts},
};

/// See the module's page.
#[derive(Debug, Default)]
pub(super) struct Batch {
    stripes: BTreeMap<StripeId, Where>,
    lists: BTreeMap<DriveId, List>,
    /// How many shards it asks about.
    doubts: usize,
    /// Shards that are not at home, by their stripes.
    missing: BTreeMap<StripeId, BTreeSet<u8>>,
    /// Writes of which not everything is known to be at home.
    pub(super) broken: BTreeSet<WriteId>,
}

/// What a manifest says of a stripe.
#[derive(Clone, Debug)]
struct Where {
    layout: LayoutId,
    avoid: Vec<DriveId>,
}

/// What is asked of one drive.
#[derive(Debug, Default)]
struct List {
    /// Shards that may not be there.
    doubts: BTreeSet<ShardId>,
    is_out: bool,
}

/// A stripe that is to be healed.
#[derive(Debug)]
pub(super) struct Wound {
    pub(super) stripe: StripeId,
    /// The home of each shard that is missing.
    pub(super) goals: BTreeMap<u8, DriveId>,
    /// Of every shard the other drives that may have it.
    pub(super) sources: Vec<VecDeque<DriveId>>,
}

/// Where in a page the next batch begins: which of its writes, and which stripe of that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct At {
    pub(super) write: usize,
    pub(super) stripe: u32,
}

impl Batch {
    /// As many stripes of a page, from there on, as one batch holds; and where the next one begins.
    pub(super) fn of(
        writes: &[(WriteId, Option<Shape>)],
        mut at: At,
        layouts: &Layouts,
        goal: &Layout,
        is_up: impl Fn(DriveId) -> bool,
    ) -> (Self, At) {
        let mut batch = Self::default();
        let mut looked = 0;
        while let Some((write, shape)) = writes.get(at.write) {
            let stripes = shape.as_ref().map_or(0, |shape| shape.stripes);
            if let Some(shape) = shape.as_ref().filter(|_| at.stripe < stripes) {
                if batch.doubts >= DOUBTS_MAX || looked >= STRIPES_MAX {
                    break;
                }
                looked += 1;
                batch.look(*write, shape, at.stripe, layouts, goal, &is_up);
                at.stripe += 1;
            } else {
                at = At { write: at.write + 1, stripe: 0 };
            }
        }
        (batch, at)
    }

    fn look(
        &mut self,
        write: WriteId,
        shape: &Shape,
        stripe: u32,
        layouts: &Layouts,
        goal: &Layout,
        is_up: impl Fn(DriveId) -> bool,
    ) {
        let run = shape.run_of(stripe);
        let id = StripeId { write, stripe, attempt: run.map_or(0, |run| run.attempt) };
        let avoid = run.map_or(&[][..], |run| &run.avoid);
        let own = layouts.get(&shape.layout).filter(|own| own.line == goal.line || own.line == 0);
        let Some(own) = own else {
            self.broken.insert(write);
            return;
        };
        // Layouts of no line had their own numbers for shards: what was written under them stays where it is.
        if own.line == 0 {
            return;
        }
        let Some(placed) = own.place(id, avoid) else {
            self.broken.insert(write);
            return;
        };
        let before = self.doubts;
        for ((shard, placed), home) in (0..).zip(&placed.drives).zip(goal.homes(id)) {
            if placed == home {
                continue;
            }
            if is_up(*home) {
                self.lists.entry(*home).or_default().doubts.insert(id.shard(shard));
                self.doubts += 1;
            } else {
                self.broken.insert(write);
            }
        }
        if self.doubts > before {
            self.stripes.insert(id, Where { layout: shape.layout, avoid: avoid.to_vec() });
        }
    }

    /// The next list to ask a drive for.
    pub(super) fn next_list(&mut self) -> Option<(DriveId, ShardOp)> {
        let (drive, list) = self.lists.iter_mut().find(|(_, list)| !list.is_out && !list.doubts.is_empty())?;
        let first = *list.doubts.first()?;
        list.is_out = true;
        Some((*drive, ShardOp::List { after: first.before(), limit: SHARD_BATCH_MAX as u32 }))
    }

    /// What a drive has.
    pub(super) fn listed(&mut self, drive: DriveId, outcome: Outcome) {
        let Some(list) = self.lists.get_mut(&drive) else { return };
        list.is_out = false;
        let Some(first) = list.doubts.first().copied() else { return };
        let (page, more) = match outcome.map(|response| response.answer) {
            Ok(Answer::Shards { page, more, .. }) if page.is_sorted_by(|(left, _), (right, _)| left < right) => {
                (page, more)
            }
            _ => {
                let doubts = core::mem::take(&mut list.doubts);
                self.broken.extend(doubts.into_iter().map(|id| id.stripe.write));
                return;
            }
        };
        // What is not in the page is not there, as far as the page reaches: to its last shard, or to the end.
        let last = page.last().map(|(id, _)| *id).filter(|last| more && *last >= first);
        let has: BTreeSet<ShardId> = page.into_iter().map(|(id, _)| id).collect();
        let rest = last.map_or_else(BTreeSet::new, |last| list.doubts.split_off(&last));
        let told = core::mem::replace(&mut list.doubts, rest);
        let last_is_there = last.filter(|last| has.contains(last));
        for id in told.into_iter().filter(|id| !has.contains(id)) {
            self.missing.entry(id.stripe).or_default().insert(id.shard);
        }
        if let Some(last) = last_is_there {
            list.doubts.remove(&last);
        }
    }

    /// Whether every drive has said what it has.
    pub(super) fn is_listed(&self) -> bool {
        self.lists.values().all(|list| !list.is_out && list.doubts.is_empty())
    }

    /// Whether anything is missing still.
    pub(super) fn is_whole(&self) -> bool {
        self.missing.is_empty()
    }

    /// The next stripe that is to be healed: of those that miss most first.
    pub(super) fn next_wound(
        &mut self,
        layouts: &Layouts,
        goal: &Layout,
        can_be_read: impl Fn(DriveId) -> bool,
    ) -> Option<Wound> {
        while let Some(stripe) = self.worst() {
            let shards = self.missing.remove(&stripe)?;
            let wound = self.wound(stripe, &shards, layouts, goal, &can_be_read);
            if wound.is_some() {
                return wound;
            }
            self.broken.insert(stripe.write);
        }
        None
    }

    fn worst(&self) -> Option<StripeId> {
        self.missing
            .iter()
            .max_by_key(|(stripe, shards)| (shards.len(), core::cmp::Reverse(**stripe)))
            .map(|(id, _)| *id)
    }

    fn wound(
        &self,
        stripe: StripeId,
        shards: &BTreeSet<u8>,
        layouts: &Layouts,
        goal: &Layout,
        can_be_read: impl Fn(DriveId) -> bool,
    ) -> Option<Wound> {
        let Where { layout, avoid } = self.stripes.get(&stripe)?;
        let homes = goal.homes(stripe);
        let holders = topology::holders(layouts, *layout, stripe, avoid)?;
        let goals: BTreeMap<u8, DriveId> =
            shards.iter().filter_map(|shard| Some((*shard, *homes.get(usize::from(*shard))?))).collect();
        let source = |(shard, holders): (u8, Vec<DriveId>)| {
            let others = holders.into_iter().filter(|drive| goals.get(&shard) != Some(drive) && can_be_read(*drive));
            others.collect()
        };
        let sources = (0..).zip(holders).map(source).collect();
        Some(Wound { stripe, goals, sources })
    }
}

/// Shards of a batch of which it is asked whether they are at home, at most; those of one stripe more.
const DOUBTS_MAX: usize = 4096;
/// Stripes that are looked at for one batch at most.
const STRIPES_MAX: usize = 4096;
