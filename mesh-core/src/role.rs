//! Who may ask what over a link: one table, in which every operation has a row, and nothing else is asked.
//!
//! ```text
//!   Op ── Kind::of ──► a row of the table ──► Yes | Own | No       an operation without a row does not compile
//!                         one column a Class
//! ```
//!
//! A [`Class`] is what a certificate makes of its owner; the GPU hosts of the design are clients, and have no column of their
//! own. [`May::Own`] means a check that this table cannot make, for it takes what the mesh knows:
//!
//! ```text
//!   host     a beat of its own
//!   DPU      a beat and a start of its own; the end of a move that takes a chain from it or to it, and the pages of such a move;
//!            metadata of the tenants whose chains it has, in the name of the ingress that it has them for
//!   user     objects of its own tenant, as far as the policy of that lets it; of a node's status what concerns that
//! ```
//!
//! The same operations travel in every lane, so lanes have no rows. What is no request has none either: a greeting is
//! held against the certificate ([`Hello`](crate::envelope::Hello)), and an answer against the question.

mod kind;
mod table;

pub use kind::Kind;

use crate::{
    Op, Principal,
    id::{ActorId, NodeId},
    op::NodeOp,
    port::Role,
};

/// What a certificate makes of its owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// A node on a host.
    Host,
    /// A node on a DPU.
    Dpu,
    /// An administrator of the cluster.
    Admin,
    /// Somebody of a tenant.
    User,
}

/// Whether a class may ask something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum May {
    /// Never.
    No,
    /// Only about what is its own; whoever knows that looks.
    Own,
    /// Always.
    Yes,
}

impl Class {
    /// All, as the columns of the table stand.
    pub const ALL: [Self; 4] = [Self::Host, Self::Dpu, Self::Admin, Self::User];

    /// The name for people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Dpu => "dpu",
            Self::Admin => "admin",
            Self::User => "user",
        }
    }
}

impl Role {
    /// Its column of the table. `None`: no certificate says this, and it may ask nothing.
    #[must_use]
    pub const fn class(&self) -> Option<Class> {
        match self {
            Self::Node(_) => Some(Class::Host),
            Self::Dpu { .. } => Some(Class::Dpu),
            Self::Client(Principal::Admin { .. }) => Some(Class::Admin),
            Self::Client(Principal::User { .. }) => Some(Class::User),
            Self::Client(Principal::System | Principal::Anonymous) => None,
        }
    }

    /// The node that it is, if it is one.
    #[must_use]
    pub const fn node(&self) -> Option<NodeId> {
        match self {
            Self::Node(node) | Self::Dpu { node, .. } => Some(*node),
            Self::Client(_) => None,
        }
    }
}

/// Whether a class may ask this of an actor. What is asked for somebody else, by way of the node that is asked, takes
/// both rows: that of the way and its own.
#[must_use]
pub fn may(class: Class, actor: ActorId, op: &Op) -> May {
    let kind = Kind::of(op);
    if !is_addressed(class, actor, op) {
        return May::No;
    }
    let inner = match op {
        Op::Node(op) => match &**op {
            NodeOp::RelayQuery { query, .. } => Some(Kind::of_query(query)),
            NodeOp::RelayPropose(command) => Some(Kind::of_command(command)),
            NodeOp::Raft { .. }
            | NodeOp::Beat(_)
            | NodeOp::Status
            | NodeOp::Move(_)
            | NodeOp::Admin(_)
            | NodeOp::StatusPage { .. } => None,
        },
        Op::Object(_) | Op::Stripe(_) | Op::Shard(_) | Op::Query { .. } | Op::Propose(_) => None,
    };
    let own = kind.may(class);
    inner.map_or(own, |inner| own.min(inner.may(class)))
}

/// Whether an operation is for actors of this kind. Metadata are asked of a node, or by way of a chain, whose policy
/// judges: a DPU has nobody's requests to send on.
fn is_addressed(class: Class, actor: ActorId, op: &Op) -> bool {
    match op {
        Op::Object(_) => actor.as_ingress().is_some(),
        Op::Stripe(_) => actor.as_data().is_some() || actor.as_tail().is_some(),
        Op::Shard(_) => actor.as_drive().is_some(),
        Op::Query { .. } | Op::Propose(_) => {
            actor == ActorId::NODE || (class == Class::Host && actor.as_data().is_some())
        }
        Op::Node(_) => actor == ActorId::NODE,
    }
}

/// The table as text, for people and for reviews.
#[must_use]
pub fn table() -> String {
    let mut text = format!("{:<34}", "what is asked");
    for class in Class::ALL {
        text.push_str(&format!("{:<6}", class.name()));
    }
    for kind in Kind::ALL {
        text.truncate(text.trim_end().len());
        text.push_str(&format!("\n{:<34}", kind.name()));
        for class in Class::ALL {
            text.push_str(&format!("{:<6}", format!("{:?}", kind.may(class))));
        }
    }
    text.truncate(text.trim_end().len());
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, sync::Arc};

    use super::*;
    use crate::{
        id::{DriveId, GroupId, TenantId},
        meta::{Command, MeshCommand, Query},
        op::{ObjectOp, ShardOp},
    };

    #[test]
    fn rows_have_names_of_their_own() {
        let names: BTreeSet<&str> = Kind::ALL.iter().map(|kind| kind.name()).collect();
        assert_eq!(names.len(), Kind::ALL.len());
    }

    #[test]
    fn who_no_certificate_names_has_no_column() {
        for nobody in [Principal::System, Principal::Anonymous] {
            assert_eq!(Role::Client(nobody).class(), None);
        }
        assert_eq!(Role::Dpu { node: NodeId(11), host: NodeId(1) }.class(), Some(Class::Dpu));
        assert_eq!(Role::Dpu { node: NodeId(11), host: NodeId(1) }.node(), Some(NodeId(11)));
    }

    #[test]
    fn what_goes_by_way_of_another_takes_both_rows() {
        let relayed = |command: MeshCommand| NodeOp::RelayPropose(Arc::new(Command::Mesh(command)));
        let wipe = relayed(MeshCommand::Drain { node: NodeId(1), draining: true });
        for (op, host, dpu) in [
            (wipe, May::Yes, May::No),
            (NodeOp::RelayQuery { group: GroupId(0), query: Arc::new(Query::Control) }, May::Yes, May::No),
            (
                NodeOp::RelayQuery { group: GroupId(0), query: Arc::new(Query::Buckets { tenant: TenantId(1) }) },
                May::Yes,
                May::Own,
            ),
            // What may be asked of anybody's is no question of whose it is, by whichever way.
            (
                NodeOp::RelayQuery { group: GroupId(0), query: Arc::new(Query::Bucket { name: "b".into() }) },
                May::Yes,
                May::Yes,
            ),
        ] {
            let op = Op::Node(Box::new(op));
            assert_eq!((may(Class::Host, ActorId::NODE, &op), may(Class::Dpu, ActorId::NODE, &op)), (host, dpu));
            assert_eq!(may(Class::User, ActorId::NODE, &op), May::No);
        }
    }

    #[test]
    fn an_operation_is_for_actors_of_its_kind() {
        let (drive, ingress) = (ActorId::drive(DriveId(1)), ActorId::ingress(NodeId(1)));
        let (chain, tail) = (ActorId::data(TenantId(7), NodeId(1)), ActorId::tail(TenantId(7), NodeId(1), 2));
        // Both range bits set: this is a drive's number, not an ingress's.
        let both = ActorId(drive.0 | ingress.0);
        let buckets: Op = ObjectOp::ListBuckets.into();
        let asks = |class, op: &Op, yes: &[ActorId]| {
            for actor in [drive, ingress, chain, tail, both, ActorId::NODE, ActorId::keeper(NodeId(1))] {
                assert_eq!(may(class, actor, op) != May::No, yes.contains(&actor), "{class:?} {actor} {op:?}");
            }
        };
        asks(Class::User, &buckets, &[ingress]);
        asks(Class::Dpu, &ShardOp::Delete { ids: Vec::new(), until: None }.into(), &[drive, both]);
        let query = Op::Query { group: GroupId(0), query: Arc::new(Query::Bucket { name: "b".into() }) };
        asks(Class::Host, &query, &[ActorId::NODE, chain]);
        asks(Class::Dpu, &query, &[ActorId::NODE]);
        asks(Class::Admin, &Op::Node(Box::new(NodeOp::Status)), &[ActorId::NODE]);
    }
}
