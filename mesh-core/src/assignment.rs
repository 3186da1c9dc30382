//! Which node runs which actor, and since when.

use serde::{Deserialize, Serialize};

use crate::id::{ActorId, Epoch, NodeId};

/// One actor's place. Changed only through the control group; every change of owner raises the epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    /// The actor.
    pub actor: ActorId,
    /// Where it runs.
    pub node: NodeId,
    /// The fence: what an older epoch says counts no more.
    pub epoch: Epoch,
}
