//! One stripe on its way out: every drive that may have a shard of it forgets it.
//!
//! Where the first attempt went well on the first choice of drives, those are the drives that took it, a shard each, and
//! those that are the shards' homes in later layouts, to which they may have been moved.
//! Else a drive was found wanting while the stripe was written, perhaps after it had taken a shard, or an attempt came to
//! nothing, of which any drive may have kept something; and what is placed anew moves shards to other places. Then every
//! drive of the group may have any shard of this attempt and those before it, which nobody else would ever delete while
//! the write was referred to: all of them go.
//!
//! A drive that is down or failed a moment ago is not waited for: the answer names it as one that may have something
//! left, like those that fail. Where none is better off they are all asked, and if none of them deletes its part, that is
//! an error. Of drives that are lost nothing is asked and nothing expected.

use core::time::Duration;
use std::collections::BTreeMap;

use mesh_core::{
    Answer, Buf, Cx, Error, Outcome,
    id::{DriveId, ShardId, StripeId},
    limits::{DATA_SHARDS_MAX, PARITY_SHARDS_MAX, SHARD_BATCH_MAX, STRIPE_ATTEMPTS_MAX},
    op::{ShardOp, StripeTarget},
};

use super::{Caller, Drives, Step, drives::Rank};

/// See the module's page.
#[derive(Debug)]
pub(super) struct Delete {
    outstanding: usize,
    deleted: bool,
    left: Vec<DriveId>,
    first_error: Option<Error>,
}

impl Delete {
    /// `None`: there is nobody to ask any more.
    pub(super) fn begin(
        caller: Caller,
        target: &StripeTarget,
        avoid: &[DriveId],
        drives: &mut Drives,
        cx: &mut Cx<'_>,
    ) -> Result<Option<Self>, Error> {
        let layout = drives.layout(target)?;
        let holders = drives.holders(target, avoid)?;
        // What each drive may have.
        let mut doomed: BTreeMap<DriveId, Vec<ShardId>> = BTreeMap::new();
        if !avoid.is_empty() || target.id.attempt > 0 {
            let attempts = (0..=target.id.attempt).map(|attempt| StripeId { attempt, ..target.id });
            let shards = |id: StripeId| (0..).take(holders.len()).map(move |shard| id.shard(shard));
            let every: Vec<ShardId> = attempts.flat_map(shards).collect();
            let tables = core::iter::once(&*layout).chain(drives.later(&layout)).filter_map(|it| it.table(target.code));
            let group = tables.flat_map(|table| table.group_of(target.id)).filter(|drive| !drives.is_lost(**drive));
            doomed.extend(group.map(|drive| (*drive, every.clone())));
        } else {
            for (shard, holders) in (0..).zip(holders) {
                holders.into_iter().for_each(|drive| doomed.entry(drive).or_default().push(target.id.shard(shard)));
            }
        }
        let now = cx.now();
        let is_sound = |drives: &Drives, drive| drives.rank(drive, now) == Rank::Sound;
        let ask_all = !doomed.keys().any(|drive| is_sound(drives, *drive));
        let mut delete = Self { outstanding: 0, deleted: false, left: Vec::new(), first_error: None };
        for (drive, ids) in doomed {
            if !ask_all && !is_sound(drives, drive) {
                delete.left.push(drive);
                continue;
            }
            drives.ask(&caller, (0, drive), ShardOp::Delete { ids, until: None }, Buf::empty(), PATIENCE, cx);
            delete.outstanding += 1;
        }
        Ok((delete.outstanding > 0).then_some(delete))
    }

    /// The answer comes once every drive that was asked has answered: a deletion that is still under way is not over.
    pub(super) fn on_shard(&mut self, drive: DriveId, outcome: Outcome) -> Step {
        self.outstanding -= 1;
        match outcome {
            Ok(_) => self.deleted = true,
            Err(error) => {
                self.left.push(drive);
                self.first_error.get_or_insert(error);
            }
        }
        if self.outstanding > 0 {
            return None;
        }
        let mut left = core::mem::take(&mut self.left);
        left.sort_unstable();
        Some(match self.first_error.take() {
            Some(error) if !self.deleted => Err(error),
            _ if left.is_empty() => Ok(Answer::Done.into()),
            _ => Ok(Answer::Left(left).into()),
        })
    }
}

/// A drive that has not answered within this is given up.
const PATIENCE: Duration = Duration::from_secs(10);

const _: () = assert!(STRIPE_ATTEMPTS_MAX as usize * (DATA_SHARDS_MAX + PARITY_SHARDS_MAX) <= SHARD_BATCH_MAX);
