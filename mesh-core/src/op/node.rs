//! What one node asks of another, beside the actors: [`NodeOp`], with the steps of moves.
//!
//! In which order the steps of a move come, and what follows a failed one, is decided by who asks for them, never here.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{AdminOp, Beat};
#[cfg(doc)]
use crate::op::Answer;
use crate::{
    assignment::MoveId,
    id::{ActorId, Epoch, GroupId, Incarnation, NodeId},
    meta::{Command, Query},
};

/// What one node asks of another, beside the actors.
#[derive(Clone, Debug, PartialEq)]
pub enum NodeOp {
    /// A Raft message; the payload is its encoding, and so is the answer's ([`Answer::Done`]).
    Raft {
        /// The group.
        group: GroupId,
        /// Which message, as the Raft adapter numbers them.
        rpc: u32,
        /// The start of the sender: beside a node a copy of it may run.
        start: Incarnation,
    },
    /// "I am alive, and this is new." Answered by the other's [`Answer::Beat`].
    Beat(Arc<Beat>),
    /// How the mesh looks from there: [`Answer::Report`] for the node, over all links. `TooLarge` if that is more than a
    /// message holds.
    Status,
    /// One step of a move, from the controller or between the two nodes: [`Answer::Moved`].
    Move(MoveStep),
    /// What an administrator asks of placement: [`Answer::Admin`].
    Admin(Box<AdminOp>),
    /// A read of metadata, from a node that is cut off from whoever leads: to be asked of the leader, one hop and no
    /// further. Answered as [`Op::Query`](super::Op::Query).
    RelayQuery {
        /// The group.
        group: GroupId,
        /// The question.
        query: Arc<Query>,
    },
    /// A write of metadata, likewise.
    RelayPropose(Arc<Command>),
    /// As [`Self::Status`], a page at a time: [`Answer::ReportPage`].
    StatusPage {
        /// Only nodes behind this one.
        after: NodeId,
    },
}

/// One step of a move, at one of its two nodes. A step that is asked for again has no further effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MoveStep {
    /// Which actor.
    pub actor: ActorId,
    /// The epoch that it leaves; it arrives under the next one.
    pub epoch: Epoch,
    /// Which of its moves.
    pub id: MoveId,
    /// What to do.
    pub what: MoveOp,
}

/// What a step of a move does. The machine that asks for them is `mesh_placement::migration`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MoveOp {
    /// Target: builds the actor from its spec; requests for it wait. Once a move: `Conflict` to a second controller that
    /// has begun the same one.
    Warm,
    /// Source, running on: sends its state to the target until little is left.
    PreCopy {
        /// The target.
        to: NodeId,
    },
    /// Source: takes no more requests (they wait), lets what is under way end as far as the state depends on it, and
    /// sends what is left of the state. Good only when the target has all of it.
    Freeze {
        /// The target.
        to: NodeId,
    },
    /// Target, from the source: takes over a page of state, the payload.
    Install {
        /// Its number, from 0.
        page: u32,
        /// Over this page and those before: [`crate::snapshot::digest`].
        digest: u64,
    },
    /// Target, after the commit: runs it.
    Activate,
    /// Source, after the commit: sends on what waits, and lets what is under way end.
    Retire {
        /// Where it runs now.
        to: NodeId,
    },
    /// Source, after the abort: goes on.
    Thaw,
    /// Target, after the abort: forgets it.
    Discard,
}

/// What one step of a move came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moved {
    /// Entries of state that went over, in this step.
    pub entries: u64,
    /// Pages that went over so far in this move.
    pub pages: u32,
    /// Over all pages so far.
    pub digest: u64,
    /// How long it took, in microseconds.
    pub took_us: u64,
}
