//! When a stripe is said to be placed, k+m distinct drives have each said that they hold their shard.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use mesh_core::{
    Answer, Op, Outcome, Response,
    id::{ActorId, DriveId, LayoutId, ShardId},
    op::{ShardOp, StripeOp},
    topology::Layout,
};

use super::Invariant;

/// See the module's page.
#[derive(Debug)]
pub struct Placement {
    layouts: BTreeMap<LayoutId, Arc<Layout>>,
    held: BTreeSet<(DriveId, ShardId)>,
}

impl Placement {
    /// Over these tables.
    #[must_use]
    pub const fn new(layouts: BTreeMap<LayoutId, Arc<Layout>>) -> Self {
        Self { layouts, held: BTreeSet::new() }
    }
}

impl Invariant for Placement {
    fn answered(&mut self, actor: ActorId, op: &Op, outcome: &Outcome) -> Result<(), String> {
        match (op, outcome) {
            (Op::Shard(op), Ok(_)) => {
                if let (ShardOp::Write { id, .. }, Some(drive)) = (&**op, actor.as_drive()) {
                    self.held.insert((drive, *id));
                }
                Ok(())
            }
            (Op::Stripe(op), Ok(Response { answer: Answer::Placed { avoid, .. }, .. })) => {
                let StripeOp::Write(target) = &**op else {
                    return Err(format!("{actor} says Placed of what is no write: {op:?}"));
                };
                let layout = self.layouts.get(&target.layout).ok_or_else(|| format!("{} is unknown", target.layout))?;
                let placement = layout
                    .place(target.id, avoid)
                    .ok_or_else(|| format!("{:?} cannot be placed without {avoid:?}", target.id))?;
                let distinct: BTreeSet<DriveId> = placement.drives.iter().copied().collect();
                if distinct.len() != layout.code.shards() {
                    return Err(format!("{:?} is on {} drives only", target.id, distinct.len()));
                }
                let missing = (0u8..)
                    .zip(&placement.drives)
                    .find(|(shard, drive)| !self.held.contains(&(**drive, target.id.shard(*shard))));
                match missing {
                    Some((shard, drive)) => Err(format!(
                        "{:?} is said to be placed, but {drive} never said it has shard {shard}",
                        target.id
                    )),
                    None => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }
}
