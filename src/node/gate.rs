//! The way in: what a link brings, shown to the actor or the part of the node that it is for. What a client in this process
//! asks takes the same way, so that it may ask what one with a certificate may, and no more.

use std::sync::{Arc, OnceLock, Weak};

use mesh_core::{
    Buf, Error, ErrorKind, Op, Outcome, Principal, Request, Trace,
    envelope::{Body, Envelope},
    id::{ActorId, NodeId},
    op::{Answer, NodeOp, NodeReport, page},
    port::{CallGuard, Completion, Inbound, Outbound, Role},
    role::May,
    time::Instant,
};
use tokio::sync::oneshot;

use super::{Inner, Node, losses};

/// Stands between the link, which must exist first, and the node, which is built on it.
#[derive(Default)]
pub(super) struct Gate(OnceLock<Weak<Inner>>);

impl Gate {
    /// Lets requests in from now on.
    pub(super) fn open(&self, node: &Arc<Inner>) {
        if self.0.set(Arc::downgrade(node)).is_err() {
            tracing::error!("a gate was opened twice");
        }
    }
}

impl Inbound for Gate {
    fn deliver(&self, from: &Role, envelope: Envelope, done: Completion<Outcome>) -> CallGuard {
        let Some(node) = self.0.get().and_then(Weak::upgrade) else {
            done(Err(Error::new(ErrorKind::Draining, "the node is starting or stopping; try again")));
            return CallGuard::none();
        };
        node.deliver(from, envelope, done)
    }
}

/// The link of a client in this process to its node: none. What the client may ask is decided as for any other.
pub(crate) struct Inside {
    pub(crate) node: Node,
    pub(crate) principal: Principal,
}

impl Outbound for Inside {
    fn send(&self, _: NodeId, mut envelope: Envelope, done: Completion<Outcome>) -> CallGuard {
        let from = Role::Client(self.principal.clone());
        match mesh_transport::gate::admit(&from, &mut envelope) {
            Ok(()) => self.node.0.clone().deliver(&from, envelope, done),
            Err(error) => {
                done(Err(error));
                CallGuard::none()
            }
        }
    }
}

impl Inner {
    /// Takes a request that may be asked.
    fn deliver(self: Arc<Self>, certified: &Role, envelope: Envelope, done: Completion<Outcome>) -> CallGuard {
        let node = self;
        let known = node.known_as(certified);
        let from = &known;
        if let Err(error) = node.expect_not_out(from, &envelope.header.body) {
            done(Err(error));
            return CallGuard::none();
        }
        if let Err(error) = node.expect_not_ended(from) {
            done(Err(error));
            return CallGuard::none();
        }
        let Envelope { header, payload } = envelope;
        let Body::Request(op) = header.body else {
            done(Err(Error::invalid("only requests are delivered")));
            return CallGuard::none();
        };
        let is_looked_at = match node.expect_may(from, header.actor, &op) {
            Ok(may) => may != May::Yes,
            Err(error) => {
                done(Err(error));
                return CallGuard::none();
            }
        };
        let budget = match header.budget_us {
            0 => mesh_core::limits::BUDGET_DEFAULT,
            micros => core::time::Duration::from_micros(micros),
        };
        let deadline = node.env.clock.now() + budget;
        // Whose beat it is, whoever hears it sees.
        let is_beat = matches!(&op, Op::Node(op) if matches!(**op, NodeOp::Beat(_)));
        if is_looked_at && !is_beat {
            let (certified, from, principal) = (certified.clone(), known, header.principal);
            let task = tokio::spawn(async move {
                if let Err(error) = node.expect_own(&certified, &from, &op, deadline).await {
                    return done(Err(error));
                }
                let (answer, answered) = oneshot::channel();
                let told = Box::new(|outcome| drop(answer.send(outcome)));
                let guard = at_node(node, (&from, &principal), op, payload, deadline, told);
                let dropped = |_| Err(Error::new(ErrorKind::Restarted, "the request was dropped unanswered"));
                let outcome = answered.await.unwrap_or_else(dropped);
                guard.forget();
                done(outcome);
            });
            return CallGuard::new(move || task.abort());
        }
        if header.actor != ActorId::NODE {
            let trace = Trace::from_header(&header.trace);
            let request = Request { op, payload, principal: header.principal, deadline, lane: header.lane, trace };
            let done = watched(&node, header.actor, &request.op, coming_and_going(&node, header.actor, done));
            return node.host.ask_local(header.actor, header.epoch, request, done);
        }
        at_node(node, (from, &header.principal), op, payload, deadline, done)
    }
}

impl Inner {
    /// Refuses who is of a tenant that was deleted, as long as something is left of it; then nothing is there to be asked.
    fn expect_not_ended(&self, from: &Role) -> Result<(), Error> {
        match from {
            Role::Client(Principal::User { tenant, .. }) if self.metadata.control().ended.contains_key(tenant) => {
                Err(Error::new(ErrorKind::Denied, "the tenant was deleted").with("tenant", tenant))
            }
            _ => Ok(()),
        }
    }
}

/// What is for no actor.
fn at_node(
    node: Arc<Inner>,
    (from, principal): (&Role, &Principal),
    op: Op,
    payload: Buf,
    deadline: Instant,
    done: Completion<Outcome>,
) -> CallGuard {
    match op {
        Op::Node(op) => of_node(node, (from, principal), *op, payload, deadline, done),
        op @ (Op::Query { .. } | Op::Propose(_)) => {
            let from = from.clone();
            let task = tokio::spawn(async move {
                if let Err(error) = node.admits(&from, &op).await {
                    return done(Err(error));
                }
                done(node.metadata.serve(op, deadline).await);
            });
            CallGuard::new(move || task.abort())
        }
        _ => {
            done(Err(Error::invalid("this is for an actor, and none is named")));
            CallGuard::none()
        }
    }
}

/// A node whose ingress is not there yet, or no more, says so: another one can be asked instead.
fn coming_and_going(node: &Inner, actor: ActorId, done: Completion<Outcome>) -> Completion<Outcome> {
    if actor != ActorId::ingress(node.id) {
        return done;
    }
    Box::new(move |outcome| {
        done(outcome.map_err(|error| match error.kind() {
            ErrorKind::NoSuchActor => {
                Error::new(ErrorKind::Draining, "the node is starting or stopping; ask another").caused_by(error)
            }
            _ => error,
        }));
    })
}

/// Has what a client of the mesh itself reads looked at: whether it is lost.
fn watched(node: &Arc<Inner>, actor: ActorId, op: &Op, done: Completion<Outcome>) -> Completion<Outcome> {
    let Some(subject) = losses::subject(op).filter(|_| actor == ActorId::ingress(node.id)) else { return done };
    let seen = node.clone();
    Box::new(move |outcome| {
        seen.losses.see(Some(&subject), &outcome, seen.env.clock.now());
        done(outcome);
    })
}

/// What a node knows of all, as far as it is the business of who asks: somebody of a tenant sees nothing of what others do.
fn shown(node: &Inner, from: &Role) -> Result<Vec<Arc<NodeReport>>, Error> {
    let Role::Client(Principal::User { tenant, name }) = from else { return Ok(node.status()) };
    let view = node.metadata.control();
    let is_known = view.tenants.contains_key(tenant)
        && view.principals.iter().any(|row| row.tenant == *tenant && row.name == **name);
    // A node that has just started knows nobody yet.
    if view.cluster.is_some() && !is_known {
        return Err(Error::new(ErrorKind::Denied, "the tenant has no such user").with("principal", name));
    }
    let of = |actor: ActorId| actor.as_data().map(|(of, _)| of).or_else(|| actor.as_tail().map(|(of, ..)| of));
    let own = |report: Arc<NodeReport>| {
        let mut report = (*report).clone();
        report.actors.retain(|actor| of(actor.actor) == Some(*tenant));
        report.unable.retain(|(actor, _)| of(*actor) == Some(*tenant));
        Arc::new(report)
    };
    Ok(node.status().into_iter().map(own).collect())
}

/// What is asked of the node itself.
fn of_node(
    node: Arc<Inner>,
    (from, principal): (&Role, &Principal),
    op: NodeOp,
    payload: Buf,
    deadline: Instant,
    done: Completion<Outcome>,
) -> CallGuard {
    let from = from.clone();
    match op {
        NodeOp::Raft { group, rpc, start } => {
            // A Raft message that has arrived is carried out, whether or not the sender still waits.
            tokio::spawn(async move {
                let answer = match node.acquainted(&from, start).await {
                    Ok(()) => node.metadata.handle_raft(group, rpc, payload).await,
                    Err(error) => Err(error),
                };
                done(answer);
            });
        }
        NodeOp::Beat(beat) => node.heard(&from, beat, done),
        NodeOp::StatusPage { after } => done(shown(&node, &from).map(|reports| page::reports(reports, after).into())),
        NodeOp::Status => done(shown(&node, &from).map(|reports| Answer::Report(reports).into())),
        NodeOp::Move(_) if from.node().is_none() => {
            done(Err(Error::new(ErrorKind::Denied, "only nodes move actors; ask with `mesh move`")));
        }
        NodeOp::Move(step) => {
            // A step that has begun is carried out, whether or not the sender still waits.
            tokio::spawn(async move {
                let moved = node.carry_out(step, payload).await;
                done(moved.map(|moved| Answer::Moved(moved).into()));
            });
        }
        ask @ (NodeOp::RelayQuery { .. } | NodeOp::RelayPropose(_)) => {
            let task = tokio::spawn(async move {
                if let NodeOp::RelayPropose(command) = &ask
                    && let Err(error) = node.admits_command(&from, command).await
                {
                    return done(Err(error));
                }
                done(node.metadata.relay(ask, deadline).await);
            });
            return CallGuard::new(move || task.abort());
        }
        NodeOp::Admin(_) if !matches!(from, Role::Node(_) | Role::Client(Principal::Admin { .. })) => {
            done(Err(Error::new(
                ErrorKind::Denied,
                "only an administrator may ask this: use the identity in MESH_ADMIN_IDENTITY",
            )));
        }
        NodeOp::Admin(op) => {
            let by = crate::admin::who(&node, &from, principal);
            let asked = crate::admin::administer;
            let task = tokio::spawn(async move { done(asked(&node, &from, by, *op, deadline).await) });
            return CallGuard::new(move || task.abort());
        }
    }
    CallGuard::none()
}
