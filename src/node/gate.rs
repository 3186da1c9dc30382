//! The way in: what a link brings, shown to the actor or the part of the node that it is for.

use std::sync::{Arc, OnceLock, Weak};

use mesh_core::{
    Error, ErrorKind, Op, Outcome, Request,
    envelope::{Body, Envelope},
    id::ActorId,
    op::{Answer, NodeOp},
    port::{CallGuard, Completion, Inbound, Role},
};

use super::Inner;

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
        let Envelope { header, payload } = envelope;
        let Body::Request(op) = header.body else {
            done(Err(Error::invalid("only requests are delivered")));
            return CallGuard::none();
        };
        let deadline = node.env.clock.now() + core::time::Duration::from_micros(header.budget_us);
        if header.actor != ActorId::NODE {
            let request = Request { op, payload, principal: header.principal, deadline, lane: header.lane };
            node.host.ask_local(header.actor, header.epoch, request, done);
            return CallGuard::none();
        }
        let from = from.clone();
        match op {
            Op::Node(op) => match *op {
                NodeOp::Raft { group, rpc } => {
                    // A Raft message that has arrived is carried out, whether or not the sender still waits.
                    tokio::spawn(async move { done(node.metadata.handle_raft(group, rpc, payload).await) });
                    CallGuard::none()
                }
                NodeOp::Heartbeat(report) => {
                    done(node.heard(&from, report));
                    CallGuard::none()
                }
                NodeOp::Status => {
                    done(Ok(Answer::Report(node.status()).into()));
                    CallGuard::none()
                }
            },
            Op::Query { .. } | Op::Propose { .. } => {
                let task = tokio::spawn(async move {
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
}
