//! Shards of settled stripes that are elsewhere than at their homes: left where they were before they were moved, or written
//! there late. Once everything of a batch is at home that is not lost, they are deleted, if the group says that nothing has
//! been begun since for which they might be needed; and each drive leaves what was written after it was listed.

use std::collections::{BTreeMap, BTreeSet};

use mesh_core::{
    Outcome,
    id::{DriveId, LayoutId, ShardId, WriteId},
    limits::SHARD_BATCH_MAX,
    meta::RepairState,
    op::{Head, ShardOp},
};

/// See the module's page.
#[derive(Debug, Default)]
pub(super) struct Strays {
    found: BTreeMap<DriveId, Found>,
    count: usize,
    check: Check,
    /// How many shards each drive is deleting.
    out: BTreeMap<DriveId, u64>,
    /// Not all were found, or deleted.
    pub(super) incomplete: bool,
    /// How many were deleted.
    pub(super) cleared: u64,
}

/// What one drive has.
#[derive(Debug)]
struct Found {
    ids: BTreeSet<ShardId>,
    /// How far its log had come when it was listed first.
    head: Head,
}

/// What the group was asked before anything is deleted.
#[derive(Debug, Default, PartialEq)]
enum Check {
    #[default]
    Due,
    Out,
    Passed,
}

/// What is to be done for them next.
#[derive(Debug)]
pub(super) enum Clear {
    /// Asks the group how far it is.
    Check,
    /// Has a drive delete some.
    Delete(DriveId, ShardOp),
}

impl Strays {
    /// A drive has one.
    pub(super) fn add(&mut self, drive: DriveId, id: ShardId, head: Head) {
        if self.count >= STRAYS_MAX {
            self.incomplete = true;
            return;
        }
        let found = self.found.entry(drive).or_insert_with(|| Found { ids: BTreeSet::new(), head });
        self.count += usize::from(found.ids.insert(id));
    }

    /// The drives that have this shard astray.
    pub(super) fn of(&self, id: ShardId) -> impl Iterator<Item = DriveId> {
        self.found.iter().filter(move |(_, found)| found.ids.contains(&id)).map(|(drive, _)| *drive)
    }

    /// Those of these writes stay for this time, and all are found nevertheless.
    pub(super) fn spare(&mut self, writes: &BTreeSet<WriteId>) {
        for found in self.found.values_mut() {
            found.ids.retain(|id| !writes.contains(&id.stripe.write));
        }
    }

    /// The next thing to do. Those of `broken` writes stay: they may be all that is left.
    pub(super) fn next(&mut self, broken: &BTreeSet<WriteId>) -> Option<Clear> {
        match self.check {
            Check::Out => None,
            Check::Due => {
                for found in self.found.values_mut() {
                    let before = found.ids.len();
                    found.ids.retain(|id| !broken.contains(&id.stripe.write));
                    self.incomplete |= found.ids.len() < before;
                }
                self.found.retain(|_, found| !found.ids.is_empty());
                if self.found.is_empty() {
                    return None;
                }
                self.check = Check::Out;
                Some(Clear::Check)
            }
            Check::Passed => {
                let (&drive, found) = self.found.iter_mut().find(|(drive, _)| !self.out.contains_key(*drive))?;
                let rest = found.ids.iter().nth(SHARD_BATCH_MAX).copied();
                let rest = rest.map_or_else(BTreeSet::new, |rest| found.ids.split_off(&rest));
                let ids: Vec<ShardId> = core::mem::replace(&mut found.ids, rest).into_iter().collect();
                let until = Some(found.head);
                if found.ids.is_empty() {
                    self.found.remove(&drive);
                }
                self.out.insert(drive, ids.len() as u64);
                Some(Clear::Delete(drive, ShardOp::Delete { ids, until }))
            }
        }
    }

    /// The group has said how far it is, after the drives were listed. Only what is settled in `goal`, with nothing begun
    /// since, is known to be nowhere else.
    pub(super) fn checked(&mut self, state: RepairState, goal: LayoutId) {
        if (state.marked, state.settled) == (goal, goal) {
            self.check = Check::Passed;
        } else {
            self.give_up();
        }
    }

    /// They stay for this time.
    pub(super) fn give_up(&mut self) {
        self.found.clear();
        self.check = Check::Due;
        self.incomplete = true;
    }

    /// A drive has deleted what it was told to, or will not.
    pub(super) fn deleted(&mut self, drive: DriveId, outcome: &Outcome) {
        let count = self.out.remove(&drive).unwrap_or(0);
        match outcome {
            Ok(_) => self.cleared += count,
            Err(_) => {
                self.found.remove(&drive);
                self.incomplete = true;
            }
        }
    }

    /// Whether nothing is left to be done.
    pub(super) fn is_over(&self) -> bool {
        self.found.is_empty() && self.out.is_empty()
    }
}

/// Shards of a batch that are elsewhere, at most: the rest is for the next count.
const STRAYS_MAX: usize = 16_384;
