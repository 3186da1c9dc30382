//! What functions ask of each other. The same values whether the other runs in the same chain, the same node, or
//! behind a link.
//!
//! [`Op`] is the sum of the families, and [`Answer`] what any of them says when it went well. Values only: who carries
//! them is [`crate::envelope`], how they look on a link is [`crate::wire`].

mod access;
mod admin;
mod answer;
mod beat;
mod node;
mod object;
pub mod page;
mod report;
mod rescue;
mod stripe;
mod work;

use std::sync::Arc;

pub use access::{
    AccessAnswer, AccessOp, LimitChange, NewKey, TenantReport, TenantUsage, UserReport, name_flaw, tenant_name_flaw,
};
pub use admin::{
    AddedDrive, AdminAnswer, AdminOp, ChainRow, DrainedDrive, GroupRepair, LeavingNode, LostDrive, NewMedium,
    PATH_BYTES_MAX,
};
pub use answer::Answer;
pub use beat::{AsOf, Beat, Held, News};
pub use node::{MoveOp, MoveStep, Moved, NodeOp};
pub use object::{Destination, ObjectOp, Piece};
pub use report::{
    Ability, ActorReport, DriveReport, GroupReport, NodeLoad, NodeReport, Phase, STARTS_MAX, ScrubState, Settled,
    Witness,
};
pub use rescue::{
    BackupAt, BackupPage, Condition, Fate, Force, History, LogEnd, NodeReplicas, Recovery, RecoveryPlan, ReplicaReport,
    Timeline, Waits,
};
pub use stripe::{Binding, Head, Part, Reliance, ShardOp, StripeOp, StripeTarget};
pub use work::{NodeFigures, Work};

use crate::{
    effect::{Principal, Request},
    id::{GroupId, TenantId},
    meta::{Command, Query},
};

/// An operation.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// What a gateway asks of the Object function of its node.
    Object(Box<ObjectOp>),
    /// One stripe, on its way down a data chain.
    Stripe(Box<StripeOp>),
    /// One shard, at a drive.
    Shard(Box<ShardOp>),
    /// A read of metadata.
    Query {
        /// The group.
        group: GroupId,
        /// The question.
        query: Arc<Query>,
    },
    /// A write of metadata.
    Propose(Arc<Command>),
    /// What one node asks of another; functions never see it.
    Node(Box<NodeOp>),
}

impl From<ObjectOp> for Op {
    fn from(op: ObjectOp) -> Self {
        Self::Object(Box::new(op))
    }
}

impl From<StripeOp> for Op {
    fn from(op: StripeOp) -> Self {
        Self::Stripe(Box::new(op))
    }
}

impl From<ShardOp> for Op {
    fn from(op: ShardOp) -> Self {
        Self::Shard(Box::new(op))
    }
}

impl Request {
    /// Whose data the request is about: the bound tenant of a stripe, else the principal's.
    #[must_use]
    pub fn tenant(&self) -> Option<TenantId> {
        match &self.op {
            Op::Stripe(op) => Some(op.target().binding.tenant),
            _ => self.principal.tenant(),
        }
    }
}

/// The kind of permission an operation needs, for Policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permission {
    /// Get, head, list.
    Read,
    /// Put, delete, multipart.
    Write,
    /// Make and delete buckets.
    Admin,
}

impl Principal {
    /// The name for records and logs.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Anonymous => "anonymous",
            Self::System => "system",
            Self::User { name, .. } | Self::Admin { name } => name,
        }
    }
}
