//! One stripe on its way out: every drive that may have a shard of it forgets it.
//!
//! Where no drive had to be avoided, those are the drives of its placement, a shard each. Else some drive was found
//! wanting while the stripe was written, perhaps after it had taken a shard, and what is placed anew moves shards to
//! other places: then every drive of the group may have any of them.

use core::time::Duration;

use mesh_core::{
    Answer, Buf, Cx, Error, Outcome,
    id::DriveId,
    op::{ShardOp, StripeTarget},
};

use super::{Caller, Drives, Step, read::no_placement};

/// See the module's page.
#[derive(Debug)]
pub(super) struct Delete {
    outstanding: usize,
    first_error: Option<Error>,
}

impl Delete {
    pub(super) fn begin(
        caller: Caller,
        target: &StripeTarget,
        avoid: &[DriveId],
        drives: &mut Drives,
        cx: &mut Cx<'_>,
    ) -> Result<Self, Error> {
        let layout = drives.layout(target.layout)?;
        let placement = layout.place(target.id, avoid).ok_or_else(no_placement)?;
        let exceptional = !avoid.is_empty();
        let holders = if exceptional { layout.group_of(target.id) } else { &placement.drives[..] };
        for (place, drive) in (0..).zip(holders) {
            let ids = if exceptional {
                (0..).take(layout.code.shards()).map(|shard| target.id.shard(shard)).collect()
            } else {
                vec![target.id.shard(place)]
            };
            drives.ask(&caller, (place, *drive), ShardOp::Delete { ids }, Buf::empty(), PATIENCE, cx);
        }
        Ok(Self { outstanding: holders.len(), first_error: None })
    }

    /// The answer comes once every drive has answered: a deletion that is still under way is not over.
    pub(super) fn on_shard(&mut self, outcome: Outcome) -> Step {
        self.outstanding -= 1;
        if let Err(error) = outcome {
            self.first_error.get_or_insert(error);
        }
        if self.outstanding > 0 {
            return None;
        }
        Some(self.first_error.take().map_or_else(|| Ok(Answer::Done.into()), Err))
    }
}

/// A drive that has not answered within this is given up; the deletion is to be sent again.
const PATIENCE: Duration = Duration::from_secs(10);
