//! Some of the writes of a page: which of their shards are not at their homes, as the drives say, and the stripes that are to
//! be healed for that.
//!
//! It knows tables, drives' lists and what came of heals; it sends nothing. A shard that was written to what is its home in
//! the newest layout too is taken to be there, but for a count: that asks every drive for everything, and finds also what is
//! elsewhere than at home.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use mesh_core::{
    Answer, Outcome,
    id::{DriveId, LayoutId, ShardId, StripeId, WriteId},
    limits::SHARD_BATCH_MAX,
    meta::Shape,
    op::{Head, Reliance, ShardOp},
    shared::SharedMap,
    topology::{self, Code, DriveState, Layout, Layouts, Leaving},
};

use super::{
    can_be_read,
    damage::Damage,
    is_gone, is_up,
    stray::{Clear, Strays},
};

/// See the module's page.
#[derive(Debug, Default)]
pub(super) struct Batch {
    stripes: BTreeMap<StripeId, Where>,
    lists: BTreeMap<DriveId, List>,
    /// What it is told of shards is relied on for this.
    relies: Option<Reliance>,
    /// How many shards it asks about.
    pub(super) doubts: usize,
    /// Of a count: drives are listed up to here.
    reach: Option<ShardId>,
    /// Shards that are elsewhere as well.
    pub(super) strays: Strays,
    /// Shards that are missing or damaged, by their stripes, and where each is to be.
    missing: BTreeMap<StripeId, BTreeMap<u8, DriveId>>,
    /// Writes of which not everything is known to be at home.
    pub(super) broken: BTreeSet<WriteId>,
    /// Writes with a stripe of which fewer shards are left than it takes to read it.
    pub(super) lost: BTreeSet<WriteId>,
    /// Of a count: a drive that is out may have some of what is looked for, once it is back.
    returns: bool,
}

/// What a manifest says of a stripe.
#[derive(Clone, Debug)]
struct Where {
    layout: LayoutId,
    code: Code,
    avoid: Vec<DriveId>,
    /// It is said to be at home: what is elsewhere is in nobody's way.
    is_settled: bool,
}

/// What is asked of one drive.
#[derive(Debug, Default)]
struct List {
    /// Shards that may not be there.
    doubts: BTreeSet<ShardId>,
    /// Takes only what it has, in another's place: what it does not have cannot be brought to it now.
    is_full: bool,
    is_out: bool,
    /// Of a count: goes on behind this, until it has come to the end.
    onwards: Option<ShardId>,
    /// How far the drive's log had come when it was listed first.
    head: Option<Head>,
    /// Answers in a row that did not come, or could not be the answer.
    failures: u32,
}

impl List {
    fn is_over(&self) -> bool {
        !self.is_out && self.doubts.is_empty() && self.onwards.is_none()
    }
}

/// A stripe that is to be healed.
#[derive(Debug)]
pub(super) struct Wound {
    pub(super) stripe: StripeId,
    pub(super) code: Code,
    /// Where each shard that is missing is to be.
    pub(super) goals: BTreeMap<u8, DriveId>,
    /// Of every shard the other drives that may have it, and can be read.
    pub(super) sources: Vec<VecDeque<DriveId>>,
    /// All others that may have any shard of it are lost for good.
    pub(super) all_asked: bool,
}

/// What a batch is made by.
#[derive(Clone, Copy)]
pub(super) struct Grounds<'a> {
    pub(super) layouts: &'a Layouts,
    pub(super) goal: &'a Layout,
    /// What lists are relied on for.
    pub(super) relies: Reliance,
    /// All drives, and whether they can be read and can be written.
    pub(super) drives: &'a SharedMap<DriveId, DriveState>,
    pub(super) leaving: &'a SharedMap<DriveId, Leaving>,
    pub(super) looks: Looks<'a>,
}

/// What a batch looks for.
#[derive(Clone, Copy)]
pub(super) enum Looks<'a> {
    /// What is not at home by what the layouts say.
    Moved,
    /// What is known to be damaged.
    Damaged(&'a Damage),
    /// Everything: it is counted.
    All,
}

/// Where in a page the next batch begins: which of its writes, and which stripe of that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct At {
    pub(super) write: usize,
    pub(super) stripe: u32,
}

impl Batch {
    /// As many stripes of a page, from there on, as one batch holds; and where the next one begins.
    pub(super) fn of(writes: &[(WriteId, Option<Shape>)], mut at: At, grounds: Grounds<'_>) -> (Self, At) {
        let mut batch = Self { relies: Some(grounds.relies), ..Self::default() };
        let mut looked = 0;
        while let Some((write, shape)) = writes.get(at.write) {
            let stripes = shape.as_ref().map_or(0, |shape| shape.stripes);
            if let Some(shape) = shape.as_ref().filter(|_| at.stripe < stripes) {
                if batch.doubts >= DOUBTS_MAX || looked >= STRIPES_MAX {
                    break;
                }
                looked += 1;
                batch.look(*write, shape, at.stripe, grounds);
                at.stripe += 1;
            } else {
                at = At { write: at.write + 1, stripe: 0 };
            }
        }
        if let Looks::All = grounds.looks {
            batch.list_all(grounds.drives, grounds.leaving);
        }
        (batch, at)
    }

    /// Has every drive name all that it has of the batch's stripes.
    fn list_all(&mut self, drives: &SharedMap<DriveId, DriveState>, leaving: &SharedMap<DriveId, Leaving>) {
        let (Some((first, _)), Some((last, _))) = (self.stripes.first_key_value(), self.stripes.last_key_value())
        else {
            return;
        };
        let Some(onwards) = (StripeId { attempt: 0, ..*first }).shard(0).before() else { return };
        self.reach = Some(StripeId { attempt: u8::MAX, ..*last }.shard(u8::MAX));
        for (drive, state) in drives.iter() {
            if can_be_read(drives, *drive) {
                self.lists.entry(*drive).or_default().onwards = Some(onwards);
            } else if *state != DriveState::Lost && !leaving.contains_key(drive) {
                // It may have something that nobody sees now. Of one that is out it is seen to when it is back, for that makes a
                // layout; of one that is emptied, by the next count.
                self.strays.incomplete = true;
            } else if leaving.contains_key(drive) {
                self.returns = true;
            }
        }
    }

    fn look(&mut self, write: WriteId, shape: &Shape, stripe: u32, grounds: Grounds<'_>) {
        let Grounds { layouts, goal, drives, looks, .. } = grounds;
        let counts = matches!(looks, Looks::All);
        let run = shape.run_of(stripe);
        let id = StripeId { write, stripe, attempt: run.map_or(0, |run| run.attempt) };
        if let Looks::Damaged(damage) = looks
            && damage.of_stripe(id).next().is_none()
        {
            return;
        }
        let avoid = run.map_or(&[][..], |run| &run.avoid);
        let own = layouts.get(&shape.layout).filter(|own| own.line == goal.line || own.line == 0);
        let Some(own) = own else {
            self.broken.insert(write);
            return;
        };
        // Layouts of no line had their own numbers for shards: what was written under them stays where it is.
        if own.line == 0 && !matches!(looks, Looks::Damaged(_)) {
            return;
        }
        let (Some(own), Some(goal_table)) = (own.table(shape.code), goal.table(shape.code)) else {
            self.broken.insert(write);
            return;
        };
        let Some(placed) = own.place(id, avoid) else {
            self.broken.insert(write);
            return;
        };
        let is_settled = shape.layout == goal.id && avoid.is_empty();
        let is_where = Where { layout: shape.layout, code: own.code(), avoid: avoid.to_vec(), is_settled };
        if let Looks::Damaged(damage) = looks {
            let is_placed = |(shard, drive): &(u8, DriveId)| placed.drives.get(usize::from(*shard)) == Some(drive);
            // A drive that is full takes what it has in another's place.
            let (can, cannot): (Vec<_>, Vec<_>) =
                damage.of_stripe(id).filter(is_placed).partition(|(_, drive)| can_be_read(drives, *drive));
            if !cannot.is_empty() {
                self.broken.insert(write);
            }
            if !can.is_empty() {
                self.doubts += can.len();
                self.missing.insert(id, can.into_iter().collect());
                self.stripes.insert(id, is_where);
            }
            return;
        }
        if counts && !is_settled {
            // Remembered as unsettled, or written for a later layout.
            return;
        }
        let before = self.doubts;
        for ((shard, placed), home) in (0..).zip(&placed.drives).zip(goal_table.homes(id)) {
            if placed == home && !counts {
                continue;
            }
            // A drive that is full may have it: if it were not asked, nothing would ever be settled, nor what is astray cleared
            // away, by which it would get room.
            if can_be_read(drives, *home) {
                let list = self.lists.entry(*home).or_default();
                list.doubts.insert(id.shard(shard));
                list.is_full = !is_up(drives, *home);
                self.doubts += 1;
            } else {
                self.broken.insert(write);
            }
        }
        if self.doubts > before {
            self.stripes.insert(id, is_where);
        }
    }

    /// The next list to ask a drive for.
    pub(super) fn next_list(&mut self) -> Option<(DriveId, ShardOp)> {
        if self.lists.values().filter(|list| list.is_out).count() >= LISTS_MAX {
            return None;
        }
        let (drive, list) = self.lists.iter_mut().find(|(_, list)| !list.is_out && !list.is_over())?;
        let after = match (list.onwards, list.doubts.first()) {
            (Some(onwards), _) => Some(onwards),
            (None, first) => first?.before(),
        };
        list.is_out = true;
        Some((*drive, ShardOp::List { after, limit: SHARD_BATCH_MAX as u32, relies: self.relies }))
    }

    /// What a drive has.
    pub(super) fn listed(&mut self, drive: DriveId, outcome: Outcome) {
        let Some(list) = self.lists.get_mut(&drive) else { return };
        list.is_out = false;
        let after = list.onwards;
        let page = match outcome.map(|response| response.answer) {
            Ok(Answer::Shards { page, more, head }) if is_answer(&page, more, after) => Some((page, more, head)),
            _ => None,
        };
        let Some((page, more, head)) = page else {
            list.failures += 1;
            // To give it up costs a whole count.
            if list.failures < LIST_TRIES {
                return;
            }
            let list = core::mem::take(list);
            self.broken.extend(list.doubts.into_iter().map(|id| id.stripe.write));
            self.strays.incomplete |= list.onwards.is_some();
            return;
        };
        list.failures = 0;
        // What is not in the page is not there, as far as the page reaches: to its last shard, or to the end.
        let last = page.last().map(|(id, _)| *id).filter(|_| more);
        let damaged: BTreeSet<ShardId> = page.iter().filter(|(_, len)| *len == 0).map(|(id, _)| *id).collect();
        if let Some(reach) = self.reach {
            let head = *list.head.get_or_insert(head);
            for (id, len) in page.into_iter().take_while(|(id, _)| *id <= reach) {
                if list.doubts.contains(&id) {
                    // What is damaged is as good as missing.
                    if len > 0 {
                        list.doubts.remove(&id);
                    }
                } else if self.stripes.get(&id.stripe).is_some_and(|found| found.is_settled) {
                    self.strays.add(drive, id, head);
                }
            }
            list.onwards = last.filter(|last| *last < reach);
        } else {
            for (id, _) in page.into_iter().filter(|(_, len)| *len > 0) {
                list.doubts.remove(&id);
            }
        }
        let rest = last.map_or_else(BTreeSet::new, |last| list.doubts.split_off(&last));
        for id in core::mem::replace(&mut list.doubts, rest) {
            if list.is_full && !damaged.contains(&id) {
                self.broken.insert(id.stripe.write);
            } else {
                self.missing.entry(id.stripe).or_default().insert(id.shard, drive);
            }
        }
    }

    /// Whether every drive has said what it has.
    pub(super) fn is_listed(&self) -> bool {
        self.lists.values().all(List::is_over)
    }

    /// Whether anything is missing still.
    pub(super) fn is_whole(&self) -> bool {
        self.missing.is_empty()
    }

    /// What is to be done next about what is elsewhere as well. Of what is lost everything stays for as long as a drive may come
    /// back that has more of it.
    pub(super) fn next_clear(&mut self) -> Option<Clear> {
        if self.returns && !self.lost.is_empty() {
            self.strays.spare(&self.lost);
        }
        self.strays.next(&self.broken)
    }

    /// The next stripe that is to be healed: of those that miss most first.
    pub(super) fn next_wound(
        &mut self,
        layouts: &Layouts,
        goal: &Layout,
        drives: &SharedMap<DriveId, DriveState>,
        leaving: &SharedMap<DriveId, Leaving>,
    ) -> Option<Wound> {
        while let Some(stripe) = self.worst() {
            let goals = self.missing.remove(&stripe)?;
            let is_gone = |drive| is_gone(drives, leaving, drive);
            let wound = self.wound(stripe, goals, layouts, goal, |drive| can_be_read(drives, drive), is_gone);
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
        goals: BTreeMap<u8, DriveId>,
        layouts: &Layouts,
        goal: &Layout,
        can_be_read: impl Fn(DriveId) -> bool,
        is_gone: impl Fn(DriveId) -> bool,
    ) -> Option<Wound> {
        let Where { layout, code, avoid, .. } = self.stripes.get(&stripe)?;
        let code = *code;
        let holders = topology::holders(layouts, *layout, Some(code), stripe, avoid)?;
        // What was not listed may have a shard that no layout speaks of.
        let mut all_asked = !self.strays.incomplete;
        let source = |(shard, holders): (u8, Vec<DriveId>)| {
            let strays = self.strays.of(stripe.shard(shard));
            // Where it was in earlier layouts it may be still, if nothing was cleared since.
            let line = layouts.values().filter(|earlier| earlier.line == goal.line);
            let tables = line.filter_map(|earlier| earlier.table(Some(code)));
            let earlier = tables.filter_map(|table| table.homes(stripe).get(usize::from(shard)).copied());
            let mut sources: VecDeque<DriveId> = VecDeque::new();
            for drive in holders.into_iter().chain(strays).chain(earlier) {
                if goals.get(&shard) != Some(&drive) && can_be_read(drive) && !sources.contains(&drive) {
                    sources.push_back(drive);
                }
                all_asked &= can_be_read(drive) || is_gone(drive);
            }
            sources
        };
        let sources = (0..).zip(holders).map(source).collect();
        Some(Wound { stripe, code, goals, sources, all_asked })
    }
}

/// Whether a page can be the answer to what was asked: in order, and if there is more, with something to go on from.
fn is_answer(page: &[(ShardId, u32)], more: bool, after: Option<ShardId>) -> bool {
    let begins = page.first().is_none_or(|(first, _)| after.is_none_or(|after| *first > after));
    page.is_sorted_by(|(left, _), (right, _)| left < right) && begins && !(more && page.is_empty())
}

/// How often a drive is asked for a page.
const LIST_TRIES: u32 = 3;
/// Lists of drives that are out at once.
const LISTS_MAX: usize = 64;
/// Shards of a batch of which it is asked whether they are at home, at most; those of one stripe more.
const DOUBTS_MAX: usize = 4096;
/// Stripes that are looked at for one batch at most.
const STRIPES_MAX: usize = 4096;
