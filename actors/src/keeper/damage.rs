//! Shards of one group of which drives know that they are damaged: a read has found that, or a scrub.
//!
//! Each is rebuilt on the very drive that its manifest names for it. What is damaged elsewhere is in nobody's way: what is on
//! its way home is rebuilt there by whoever brings it home, and a count deletes the rest.
//!
//! A list holds so many at most, those of the lowest stripes; the next one begins behind them, and the one behind the last at
//! the start again. So what cannot be healed, however much that is, hides nothing.

use std::collections::{BTreeMap, BTreeSet};

use mesh_core::{
    Answer, Outcome,
    id::{DriveId, GroupId, ShardId, StripeId, WriteId},
    limits::SHARD_BATCH_MAX,
    op::ShardOp,
};

/// See the module's page.
#[derive(Debug, Default)]
pub(super) struct Damage {
    /// Drives that are to be asked, each behind which shard.
    due: BTreeMap<DriveId, Option<ShardId>>,
    out: BTreeMap<DriveId, Option<ShardId>>,
    found: BTreeMap<StripeId, BTreeSet<(u8, DriveId)>>,
    count: usize,
    /// From this stripe on there was no room.
    cut: Option<StripeId>,
}

impl Damage {
    /// Nothing is known yet; these drives are to be asked, behind this shard.
    pub(super) fn of(drives: impl Iterator<Item = DriveId>, after: Option<ShardId>) -> Self {
        Self { due: drives.map(|drive| (drive, after)).collect(), ..Self::default() }
    }

    /// Behind which shard the next list begins; `None`: at the start.
    pub(super) fn goes_on_behind(&self) -> Option<ShardId> {
        self.cut?.shard(0).before()
    }

    fn has_room(&self, stripe: StripeId) -> bool {
        self.cut.is_none_or(|cut| stripe < cut)
    }

    /// The next question.
    pub(super) fn next(&mut self, group: GroupId) -> Option<(DriveId, ShardOp)> {
        if self.out.len() >= QUESTIONS_MAX {
            return None;
        }
        let (drive, after) = self.due.pop_first()?;
        self.out.insert(drive, after);
        Some((drive, ShardOp::Damaged { group, after, limit: SHARD_BATCH_MAX as u32 }))
    }

    /// What a drive has named.
    pub(super) fn named(&mut self, group: GroupId, drive: DriveId, outcome: Outcome) {
        let Some(after) = self.out.remove(&drive) else { return };
        let Ok(Answer::Shards { page, more, .. }) = outcome.map(|response| response.answer) else {
            // It will be asked again: it goes on saying that it has some.
            return;
        };
        let last = page.last().map(|(id, _)| *id);
        let is_onwards = last > after;
        for (id, _) in page.into_iter().filter(|(id, _)| id.stripe.write.group() == group) {
            if !self.has_room(id.stripe) {
                break;
            }
            self.count += usize::from(self.found.entry(id.stripe).or_default().insert((id.shard, drive)));
            if self.count > FOUND_MAX
                && let Some((stripe, shards)) = self.found.pop_last()
            {
                self.count -= shards.len();
                self.cut = Some(stripe);
            }
        }
        if more && is_onwards && last.is_some_and(|last| self.has_room(last.stripe)) {
            self.due.insert(drive, last);
        }
    }

    /// Whether every drive has said what it knows.
    pub(super) fn is_named(&self) -> bool {
        self.due.is_empty() && self.out.is_empty()
    }

    /// The first write behind this one of which something is damaged.
    pub(super) fn next_write(&self, after: Option<WriteId>) -> Option<WriteId> {
        let from = WriteId(after.map_or(0, |after| after.0.saturating_add(1)));
        let first = StripeId { write: from, stripe: 0, attempt: 0 };
        self.found.range(first..).next().map(|(stripe, _)| stripe.write)
    }

    /// Whether anything of a write is damaged.
    pub(super) fn has(&self, write: WriteId) -> bool {
        let first = StripeId { write, stripe: 0, attempt: 0 };
        self.found.range(first..).next().is_some_and(|(stripe, _)| stripe.write == write)
    }

    /// The shards of a stripe that are damaged, and where.
    pub(super) fn of_stripe(&self, stripe: StripeId) -> impl Iterator<Item = (u8, DriveId)> {
        self.found.get(&stripe).into_iter().flatten().copied()
    }
}

/// Drives that are asked at once.
const QUESTIONS_MAX: usize = 64;
/// Shards that are taken in hand at once: the others are when these have been.
const FOUND_MAX: usize = 65_536;
