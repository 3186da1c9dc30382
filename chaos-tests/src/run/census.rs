//! The census: once everything works, what lies on the drives is what somebody refers to. Every shard is of a visible
//! object or of an open upload, and where the promise holds, every shard of those is there, comes home, and is nowhere else
//! in the end.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};

use mesh_core::{
    Answer, Request, Response,
    id::{ActorId, DriveId, ShardId, WriteId},
    limits::SHARD_BATCH_MAX,
    op::ShardOp,
};

use super::{Errand, RECOVERY, Room};
use crate::{
    cluster::GRACE_MS,
    invariants::{Where, astray, missing, visible},
    swarm::node_of,
};

/// How long what was left behind may lie about: until its block is old and closed, the grace, and the pauses of a sweep
/// that met with failures before.
const PATIENCE: Duration = Duration::from_millis(10 * GRACE_MS);
/// Between two looks.
const PAUSE: Duration = Duration::from_secs(10);

impl Room {
    /// Counts until nothing is left over, or says what is.
    pub(super) fn census(&mut self) {
        if self.is_wrong() || self.cluster.ails(&self.world, &[]).is_some() {
            return;
        }
        let end = self.world.now() + PATIENCE;
        loop {
            let Some(held) = self.count() else { return };
            let extents = visible(&mut self.world);
            let layouts = self.world.metadata.control().layouts.clone();
            let absent = |place| missing(&extents, &layouts, &held, &self.swarm.victims, place);
            if let Some(lost) = absent(Where::Anywhere) {
                self.world.violate(|| format!("a shard of what is visible is gone: {lost}"));
                return;
            }
            let away = absent(Where::Home);
            let writes: BTreeSet<WriteId> = extents.iter().map(|extent| extent.write).collect();
            let left: Vec<(DriveId, ShardId)> = held
                .iter()
                .flat_map(|(drive, shards)| shards.iter().map(|id| (*drive, *id)))
                .filter(|(_, id)| !writes.contains(&id.stripe.write))
                .collect();
            let astray = astray(&extents, &layouts, &held);
            if left.is_empty() && away.is_none() && astray.is_none() {
                return;
            }
            if self.world.now() >= end {
                if let (Some(astray), None) = (astray, &away) {
                    self.world.violate(|| format!("what was moved away is deleted by nobody: {astray:?}"));
                    return;
                }
                if let Some(away) = away {
                    self.world.violate(|| format!("a shard of what is visible is brought home by nobody: {away}"));
                    return;
                }
                self.world.violate(|| format!("nobody refers to these shards, and nobody deletes them: {left:?}"));
                return;
            }
            self.run_until(PAUSE, |_| false);
        }
    }

    /// What each drive says it holds. `None`: something is wrong.
    fn count(&mut self) -> Option<BTreeMap<DriveId, BTreeSet<ShardId>>> {
        let mut held = BTreeMap::new();
        for drive in self.swarm.drive_ids() {
            let mut shards = BTreeSet::new();
            loop {
                let (page, more) = self.page(drive, shards.last().copied())?;
                shards.extend(page);
                if !more {
                    break;
                }
            }
            held.insert(drive, shards);
        }
        Some(held)
    }

    fn page(&mut self, drive: DriveId, after: Option<ShardId>) -> Option<(Vec<ShardId>, bool)> {
        let node = node_of(drive);
        let ticket = self.number(Errand::Count);
        let deadline = self.world.clock(node) + RECOVERY;
        let list = ShardOp::List { after, limit: SHARD_BATCH_MAX as u32, relies: None };
        self.counted = None;
        self.world.submit(node, ActorId::drive(drive), Request::system(list, deadline), ticket);
        self.run_until(RECOVERY, |room| room.counted.is_some());
        match self.counted.take() {
            Some(Ok(Response { answer: Answer::Shards { page, more, .. }, .. })) if !(more && page.is_empty()) => {
                Some((page.into_iter().map(|(id, _)| id).collect(), more))
            }
            other => {
                self.world.violate(|| format!("{drive} does not say what it holds: {other:?}"));
                None
            }
        }
    }
}
