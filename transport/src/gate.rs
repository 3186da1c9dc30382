//! What the role at the other end may ask, and in whose name. The last thing before [`Inbound`] sees a request, also of one
//! that a client in the node's own process makes: there is no other way in.
//!
//! [`Inbound`]: mesh_core::port::Inbound

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
};

use mesh_core::{
    Error, ErrorKind, Op,
    envelope::{Body, Envelope},
    id::ActorId,
    port::Role,
    role::{self, Class, Kind, May},
};

/// Makes the principal of a request true, and turns away what the role may not ask, as the [table](mesh_core::role) says. What it
/// may ask about its own alone is looked at by the node.
///
/// A node is believed. A client's requests are its certificate's principal's, whatever their headers say. Nobody, and
/// who says that it is the mesh itself, may ask nothing: no certificate names them.
///
/// # Errors
/// `Denied`, or `Unsupported` for what is not known here and for a payload that is elsewhere: the request is answered so,
/// and not delivered. `Invalid` if this is no request: the link must be closed.
pub fn admit(role: &Role, envelope: &mut Envelope) -> Result<(), Error> {
    let op = match &envelope.header.body {
        Body::Request(op) => op,
        Body::Unread(error) => return Err(error.clone()),
        Body::Hello(_) | Body::Welcome(_) | Body::Answer(_) | Body::Failure(_) | Body::Cancel(_) => {
            return Err(Error::invalid("a message that is no request where a request was expected"));
        }
    };
    if envelope.header.region.is_some() {
        // Its payload was not checked, for it is not here; and these links cannot fetch it.
        return Err(Error::new(ErrorKind::Unsupported, "this link has no RDMA: send the payload with the request"));
    }
    let class = role.class().ok_or_else(|| {
        Error::new(ErrorKind::Denied, "a client is somebody of a tenant, or an administrator")
            .with("role", format!("{role:?}"))
    })?;
    expect(class, envelope.header.actor, op)?;
    if let Role::Client(principal) = role {
        envelope.header.principal = principal.clone();
    }
    Ok(())
}

/// Refuses what a class may never ask. Says whether it may ask the rest of its own alone.
///
/// # Errors
/// `Denied`, with what was asked: nothing of what there is shows in it.
pub fn expect(class: Class, actor: ActorId, op: &Op) -> Result<May, Error> {
    match role::may(class, actor, op) {
        May::No => Err(refusal(class, op).with("actor", actor)),
        may => Ok(may),
    }
}

/// What is answered to what a class may not ask, or not about what is not its own.
#[must_use]
pub fn refusal(class: Class, op: &Op) -> Error {
    let what = match class {
        Class::Host => "nodes do not ask this of each other",
        Class::Dpu => "a DPU may ask only about itself and what the chains that it has need",
        Class::Admin => "an administrator may ask only for the mesh itself: use a tenant's certificate for its objects",
        Class::User => {
            "a client may ask only ingress actors for objects and a node for its status: orders need an administrator's \
             certificate, MESH_ADMIN_IDENTITY"
        }
    };
    Error::new(ErrorKind::Denied, what).with("asked", Kind::of(op).name())
}

/// Refusals that were logged: each kind of operation once for everybody who asks it.
#[derive(Debug, Default)]
pub struct Refusals(Mutex<BTreeSet<(String, Kind)>>);

impl Refusals {
    /// Says in the log that this was refused, unless it says so already, or has said much.
    pub fn log(&self, role: &Role, kind: Kind, error: &Error) {
        let who = format!("{role:?}");
        {
            // No code that can panic runs under this lock.
            let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if known.len() >= REFUSALS_MAX || !known.insert((who.clone(), kind)) {
                return;
            }
        }
        if role.node().is_some() {
            tracing::warn!(%who, %error, "a node asks what it may not; more of the kind is not logged");
        } else {
            tracing::info!(%who, %error, "a client asks what it may not; more of the kind is not logged");
        }
    }

    #[cfg(test)]
    fn count(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

/// Lines about what was refused, at most.
const REFUSALS_MAX: usize = 1024;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use mesh_core::{
        Buf, Lane, Principal,
        id::{DriveId, Epoch, NodeId, TenantId},
        op::{AdminOp, NodeOp, ObjectOp, ShardOp},
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
    fn what_is_refused_is_named_and_nothing_else_is() {
        let events = || Op::Node(Box::new(NodeOp::Admin(Box::new(AdminOp::Events { after: 0 }))));
        let root = Role::Client(Principal::Admin { name: "root".into() });
        admit(&root, &mut request(ActorId::NODE, events())).unwrap();
        let dpu = Role::Dpu { node: NodeId(11), host: NodeId(1) };
        for role in [dpu, Role::Client(alice())] {
            let error = admit(&role, &mut request(ActorId::NODE, events())).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Denied);
            assert!(error.to_string().ends_with("[asked=admin events actor=actor-0]"), "{error}");
        }
    }

    #[test]
    fn who_no_certificate_names_may_ask_nothing() {
        for nobody in [Principal::Anonymous, Principal::System] {
            let role = Role::Client(nobody);
            let status = || Op::Node(Box::new(NodeOp::Status));
            for (actor, op) in [(ActorId::ingress(NodeId(1)), create().into()), (ActorId::NODE, status())] {
                let verdict = admit(&role, &mut request(actor, op));
                assert_eq!(verdict.unwrap_err().kind(), ErrorKind::Denied, "{role:?} at {actor}");
            }
        }
    }

    #[test]
    fn a_refusal_is_logged_once_for_each_who_and_what_and_not_for_ever() {
        let (refusals, error) = (Refusals::default(), Error::new(ErrorKind::Denied, "no"));
        let one = Role::Node(NodeId(1));
        for (role, kind) in
            [(&one, Kind::Raft), (&one, Kind::Raft), (&one, Kind::Beat), (&Role::Client(alice()), Kind::Raft)]
        {
            refusals.log(role, kind, &error);
        }
        assert_eq!(refusals.count(), 3);
        for number in 0..2 * REFUSALS_MAX as u64 {
            refusals.log(&Role::Node(NodeId(number)), Kind::Raft, &error);
        }
        assert_eq!(refusals.count(), REFUSALS_MAX);
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
