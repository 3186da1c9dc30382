//! The census: once everything works, what lies on the drives is what somebody refers to. Every shard is of a visible
//! object or of an open upload, and where the promise holds, every shard of those is there, comes home, and is nowhere else
//! in the end. Nothing is damaged: what drives know is healed, and what rotted unseen is found where drives read everything
//! back.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};

use mesh_core::{
    Answer, Outcome, Request, Response,
    id::{ActorId, DriveId, ShardId, WriteId},
    limits::SHARD_BATCH_MAX,
    op::{ScrubState, ShardOp},
    time::UnixMillis,
};

use super::{Errand, RECOVERY, Room};
use crate::{
    cluster::GRACE_MS,
    invariants::{Where, astray, missing, visible},
    swarm::{Fault, node_of},
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
        let Some(before) = self.health() else { return };
        let mut rounds: BTreeMap<DriveId, BTreeSet<UnixMillis>> =
            before.iter().map(|(drive, (_, scrub))| (*drive, [scrub.ended].into())).collect();
        let patience =
            PATIENCE + Duration::from_millis(if self.rots_unseen() { 4 * self.swarm.scrub_every_ms } else { 0 });
        let end = self.world.now() + patience;
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
            let Some(now) = self.health() else { return };
            for (drive, (_, scrub)) in &now {
                rounds.entry(*drive).or_default().insert(scrub.ended);
            }
            let ailing = self.ailing(&now, &rounds);
            if left.is_empty() && away.is_none() && astray.is_none() && ailing.is_none() {
                self.read_all(&held);
                return;
            }
            if self.world.now() >= end {
                if let (Some(ailing), None) = (ailing, &away) {
                    self.world.violate(|| format!("what is damaged is found or healed by nobody: {ailing}"));
                    return;
                }
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

    /// Whether blocks rot in this run, and drives read everything back.
    fn rots_unseen(&self) -> bool {
        let rots = self.swarm.faults.iter().any(|(_, fault)| matches!(fault, Fault::Rot { .. }));
        rots && self.swarm.scrub_every_ms > 0
    }

    /// How many shards each drive knows to be damaged, and how far it is with reading everything back.
    fn health(&mut self) -> Option<BTreeMap<DriveId, (u64, ScrubState)>> {
        let mut health = BTreeMap::new();
        for drive in self.swarm.drive_ids() {
            match self.ask_drive(drive, ShardOp::Stat) {
                Some(Ok(Response { answer: Answer::Drive { damaged, scrub, .. }, .. })) => {
                    health.insert(drive, (damaged, scrub));
                }
                other => {
                    self.world.violate(|| format!("{drive} does not say how it is: {other:?}"));
                    return None;
                }
            }
        }
        Some(health)
    }

    /// A drive that knows of damage, or has not read everything back since.
    fn ailing(
        &self,
        now: &BTreeMap<DriveId, (u64, ScrubState)>,
        rounds: &BTreeMap<DriveId, BTreeSet<UnixMillis>>,
    ) -> Option<String> {
        let looks = self.rots_unseen();
        let is_ailing = |(drive, (damaged, _)): &(&DriveId, &(u64, ScrubState))| {
            // The round that was under way may have been past what rotted: two must have ended since.
            let ended = rounds.get(*drive).map_or(0, BTreeSet::len);
            *damaged > 0 || (looks && ended < 3)
        };
        now.iter().find(is_ailing).map(|(drive, (damaged, scrub))| format!("{drive}: {damaged} {scrub:?}"))
    }

    /// Where drives have read everything back, nobody finds damage any more.
    fn read_all(&mut self, held: &BTreeMap<DriveId, BTreeSet<ShardId>>) {
        if !self.rots_unseen() {
            return;
        }
        let all = held.iter().flat_map(|(drive, shards)| shards.iter().map(|id| (*drive, *id)));
        for (drive, id) in all {
            let read = self.ask_drive(drive, ShardOp::Read { id });
            if !matches!(read, Some(Ok(_))) {
                self.world.violate(|| format!("{drive} has {id:?}, and has read everything back: {read:?}"));
                return;
            }
        }
    }

    fn ask_drive(&mut self, drive: DriveId, op: ShardOp) -> Option<Outcome> {
        let node = node_of(drive);
        let ticket = self.number(Errand::Count);
        let deadline = self.world.clock(node) + RECOVERY;
        self.counted = None;
        self.world.submit(node, ActorId::drive(drive), Request::system(op, deadline), ticket);
        self.run_until(RECOVERY, |room| room.counted.is_some());
        self.counted.take()
    }

    fn page(&mut self, drive: DriveId, after: Option<ShardId>) -> Option<(Vec<ShardId>, bool)> {
        let list = ShardOp::List { after, limit: SHARD_BATCH_MAX as u32, relies: None };
        match self.ask_drive(drive, list) {
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
