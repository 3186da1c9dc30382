//! When a stripe is said to be placed, k+m distinct drives have each said that they hold their shard.

use std::collections::BTreeSet;

use mesh_core::{
    Answer, Op, Outcome, Response,
    id::{ActorId, DriveId, ShardId},
    op::{ShardOp, StripeOp},
    topology::Layouts,
};

use super::Invariant;

/// See the module's page.
#[derive(Debug, Default)]
pub struct Placement {
    /// All that there have been.
    layouts: Layouts,
    held: BTreeSet<(DriveId, ShardId)>,
}

impl Invariant for Placement {
    fn laid_out(&mut self, layouts: &Layouts) -> Result<(), String> {
        for (id, layout) in layouts.iter() {
            let known = self.layouts.get(id);
            if known.is_some_and(|known| known != layout) {
                return Err(format!("{id} is another than it was"));
            }
            if known.is_none() {
                self.layouts.insert(*id, layout.clone());
            }
        }
        Ok(())
    }

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
                let table = layout.table(target.code).ok_or_else(|| format!("no groups for {:?}", target.code))?;
                let placement = table
                    .place(target.id, avoid)
                    .ok_or_else(|| format!("{:?} cannot be placed without {avoid:?}", target.id))?;
                let distinct: BTreeSet<DriveId> = placement.drives.iter().copied().collect();
                if distinct.len() != table.code().shards() {
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
