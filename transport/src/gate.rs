//! What the role at the other end may ask, and in whose name. The last thing before [`Inbound`] sees a request, also of one
//! that a client in the node's own process makes: there is no other way in.
//!
//! [`Inbound`]: mesh_core::port::Inbound

use mesh_core::{
    Error, ErrorKind, Op, Principal,
    envelope::{Body, Envelope},
    id::ActorId,
    op::NodeOp,
    port::Role,
};

/// Makes the principal of a request true, and turns away what the role may not ask.
///
/// A node is believed. A client's requests are its certificate's principal's, whatever their headers say; it may ask
/// an ingress actor for object operations, and any node for its status; an administrator also what moves. Nobody, and
/// who says that it is the mesh itself, may ask nothing: no certificate names them.
///
/// # Errors
/// `Denied`, or `Unsupported` for what is not known here and for a payload that is elsewhere: the request is answered so,
/// and not delivered. `Invalid` if this is no request: the link must be closed.
pub fn admit(role: &Role, envelope: &mut Envelope) -> Result<(), Error> {
    let op = match &envelope.header.body {
        Body::Request(op) => op,
        Body::Unread(error) => return Err(error.clone()),
        _ => return Err(Error::invalid("a message that is no request where a request was expected")),
    };
    if envelope.header.region.is_some() {
        // Its payload was not checked, for it is not here; and these links cannot fetch it.
        return Err(Error::new(ErrorKind::Unsupported, "this link has no RDMA: send the payload with the request"));
    }
    let Role::Client(principal) = role else { return Ok(()) };
    let actor = envelope.header.actor;
    if !matches!(principal, Principal::User { .. } | Principal::Admin { .. }) {
        return Err(Error::new(ErrorKind::Denied, "a client is somebody of a tenant, or an administrator")
            .with("principal", principal.name()));
    }
    let allowed = match op {
        Op::Object(_) => actor.as_ingress().is_some(),
        Op::Node(op) if actor == ActorId::NODE => match **op {
            NodeOp::Status | NodeOp::StatusPage { .. } => true,
            NodeOp::Admin(_) => matches!(principal, Principal::Admin { .. }),
            NodeOp::Raft { .. } | NodeOp::Beat(_) | NodeOp::Move(_) => false,
            NodeOp::RelayQuery { .. } | NodeOp::RelayPropose(_) => false,
        },
        Op::Node(_) => false,
        Op::Stripe(_) | Op::Shard(_) | Op::Query { .. } | Op::Propose(_) => false,
    };
    if !allowed {
        return Err(Error::new(
            ErrorKind::Denied,
            "a client may ask only ingress actors for objects and a node for its status, and an administrator what moves",
        )
        .with("actor", actor));
    }
    envelope.header.principal = principal.clone();
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use mesh_core::{
        Buf, Lane,
        id::{BucketId, DriveId, Epoch, GroupId, NodeId, TenantId},
        meta::{BucketCommand, BucketRef, Command, MeshCommand, ObjectCommand, Proposer, Session, UpkeepCommand},
        op::{ObjectOp, ShardOp},
    };

    use super::*;

    fn alice() -> Principal {
        Principal::User { tenant: TenantId(7), name: "alice".into() }
    }

    fn request(actor: ActorId, op: impl Into<Op>) -> Envelope {
        let budget = Duration::from_secs(1);
        Envelope::request(actor, Epoch(0), op.into(), Buf::empty(), Principal::System, Lane::Interactive, budget)
    }

    fn create() -> ObjectOp {
        ObjectOp::CreateBucket { bucket: "b".into() }
    }

    #[test]
    fn a_client_speaks_in_its_own_name_only() {
        let mut envelope = request(ActorId::ingress(NodeId(1)), create());
        admit(&Role::Client(alice()), &mut envelope).unwrap();
        assert_eq!(envelope.header.principal, alice());
    }

    #[test]
    fn a_node_is_believed() {
        let mut envelope = request(ActorId::drive(DriveId(1)), ShardOp::Stat);
        admit(&Role::Node(NodeId(2)), &mut envelope).unwrap();
        assert_eq!(envelope.header.principal, Principal::System);
    }

    #[test]
    fn a_client_may_ask_nothing_but_objects_and_status() {
        let status = || Op::Node(Box::new(NodeOp::Status));
        let raft =
            || Op::Node(Box::new(NodeOp::Raft { group: GroupId(0), rpc: 1, start: mesh_core::id::Incarnation(1) }));
        let events = || Op::Node(Box::new(NodeOp::Admin(Box::new(mesh_core::op::AdminOp::Events { after: 0 }))));
        let ingress = ActorId::ingress(NodeId(1));
        let drive = ActorId::drive(DriveId(1));
        let table: Vec<(ActorId, Op, bool)> = vec![
            (ingress, create().into(), true),
            (ActorId::NODE, status(), true),
            (drive, create().into(), false),
            (drive, ShardOp::Stat.into(), false),
            (ActorId::data(TenantId(7), NodeId(1)), create().into(), false),
            (ActorId::NODE, create().into(), false),
            (ingress, status(), false),
            (ingress, ShardOp::Stat.into(), false),
            (ActorId::NODE, raft(), false),
            (ActorId::NODE, events(), false),
            // Both range bits set: this is a drive's number, not an ingress's.
            (ActorId(drive.0 | ingress.0), create().into(), false),
        ];
        for (actor, op, allowed) in table {
            let mut envelope = request(actor, op.clone());
            let verdict = admit(&Role::Client(alice()), &mut envelope);
            assert_eq!(verdict.is_ok(), allowed, "{actor} {op:?}");
            assert!(verdict.err().is_none_or(|error| error.kind() == ErrorKind::Denied));
        }
        let root = Role::Client(Principal::Admin { name: "root".into() });
        assert!(admit(&root, &mut request(ActorId::NODE, events())).is_ok());
        assert!(admit(&root, &mut request(ingress, events())).is_err());
        for nobody in [Principal::Anonymous, Principal::System] {
            for (actor, op) in [(ingress, create().into()), (ActorId::NODE, status()), (ActorId::NODE, events())] {
                let verdict = admit(&Role::Client(nobody.clone()), &mut request(actor, op));
                assert_eq!(verdict.unwrap_err().kind(), ErrorKind::Denied, "{nobody:?} at {actor}");
            }
        }
    }

    #[test]
    fn only_nodes_propose_whoever_s_command_it_is() {
        let (group, session) = (GroupId(1), Session::default());
        let proposer = Proposer { actor: ActorId::ingress(NodeId(1)), session, request: 0, done_below: 0 };
        let bucket = BucketRef { id: BucketId(1), name: "b".into(), tenant: TenantId(7), group };
        let commands: [Command; 5] = [
            BucketCommand::RemoveBucket { bucket: BucketId(1) }.into(),
            Command::Object(bucket, ObjectCommand::SealBucket { proposer }),
            MeshCommand::Drain { node: NodeId(1), draining: true }.into(),
            Command::Upkeep(group, UpkeepCommand::OpenBlock { proposer }),
            Command::OpenSession { group, actor: proposer.actor, session },
        ];
        let root = Principal::Admin { name: "root".into() };
        for command in commands.map(Arc::new) {
            let relayed = Op::Node(Box::new(NodeOp::RelayPropose(Arc::clone(&command))));
            for op in [Op::Propose(command), relayed] {
                for client in [alice(), root.clone()] {
                    for actor in [ActorId::NODE, ActorId::ingress(NodeId(1)), ActorId::data(TenantId(7), NodeId(1))] {
                        let verdict = admit(&Role::Client(client.clone()), &mut request(actor, op.clone()));
                        assert_eq!(verdict.unwrap_err().kind(), ErrorKind::Denied, "{client:?} at {actor}: {op:?}");
                    }
                }
                assert!(admit(&Role::Node(NodeId(2)), &mut request(ActorId::NODE, op)).is_ok());
            }
        }
    }

    #[test]
    fn a_payload_that_is_elsewhere_is_refused_from_anybody() {
        let region = mesh_core::envelope::Region { address: 1, rkey: 2, length: 3 };
        let mut envelope = request(ActorId::drive(DriveId(1)), ShardOp::Stat);
        envelope.header.region = Some(region);
        assert_eq!(admit(&Role::Node(NodeId(2)), &mut envelope).unwrap_err().kind(), ErrorKind::Unsupported);
    }

    #[test]
    fn what_is_not_known_here_is_answered_whoever_asks() {
        let error = Error::new(ErrorKind::Unsupported, "a newer build asks");
        for role in [Role::Node(NodeId(2)), Role::Client(alice()), Role::Client(Principal::Anonymous)] {
            let mut envelope = Envelope::of(1, Lane::Control, Body::Unread(error.clone()), Buf::empty());
            assert_eq!(admit(&role, &mut envelope), Err(error.clone()), "{role:?}");
        }
    }

    #[test]
    fn what_is_no_request_is_refused_from_anybody() {
        let mut envelope = Envelope::of(1, Lane::Control, Body::Cancel(1), Buf::empty());
        assert_eq!(admit(&Role::Node(NodeId(1)), &mut envelope).unwrap_err().kind(), ErrorKind::Invalid);
    }
}
