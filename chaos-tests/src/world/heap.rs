//! What can happen, and in which order.

use std::{cmp::Ordering, sync::Arc};

use mesh_core::{
    Outcome, Request, WorkOutcome,
    id::{ActorId, DriveId, Epoch, NodeId},
    spec::FunctionSpec,
};

use super::{Place, host::Origin, links::Frame};

/// Something that will happen.
#[derive(Debug)]
pub(super) struct Scheduled {
    pub(super) at: u64,
    /// Ties are broken by who was first.
    pub(super) sequence: u64,
    pub(super) what: Happening,
}

#[derive(Debug)]
pub(super) enum Happening {
    /// Arrives at an actor of this life of a node.
    Request {
        node: NodeId,
        boot: u64,
        actor: ActorId,
        /// The asker's idea of the actor's epoch; 0: none.
        epoch: Epoch,
        origin: Origin,
        request: Request,
    },
    /// A call ends.
    Reply {
        place: Place,
        outcome: Outcome,
    },
    /// A piece of work ends.
    Done {
        place: Place,
        outcome: WorkOutcome,
    },
    /// A disk job ends.
    DiskEnd {
        drive: DriveId,
        job: u64,
    },
    /// The time has come that an actor had asked for.
    Wake {
        place: Place,
        at: u64,
    },
    Configure {
        place: Place,
        spec: Arc<FunctionSpec>,
    },
    Frame {
        from: NodeId,
        to: NodeId,
        frame: Frame,
    },
    CallDeadline {
        from: NodeId,
        to: NodeId,
        session: u64,
        id: u64,
    },
    EndSession {
        from: NodeId,
        to: NodeId,
        number: u64,
    },
    /// What a node asked is answered.
    Told {
        node: NodeId,
        boot: u64,
        ticket: u64,
        outcome: Outcome,
    },
    /// What an actor that has left had under way has had its time.
    LingerEnd {
        node: NodeId,
        life: u64,
    },
    MetadataApply {
        number: u64,
    },
    MetadataAnswer {
        number: u64,
    },
    Timer {
        number: u64,
    },
    /// A request from outside is answered.
    Answered {
        ticket: u64,
        outcome: Outcome,
    },
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.sequence == other.sequence
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.sequence).cmp(&(other.at, other.sequence))
    }
}
