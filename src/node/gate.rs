//! The way in: what a link brings, shown to the actor or the part of the node that it is for.

use std::sync::{Arc, OnceLock, Weak};

use mesh_core::{
    Error, ErrorKind, Op, Outcome, Principal, Request,
    envelope::{Body, Envelope},
    id::ActorId,
    op::{Answer, NodeOp},
    port::{CallGuard, Completion, Inbound, Role},
};

use super::{Inner, losses};

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
        let budget = match header.budget_us {
            0 => mesh_core::limits::BUDGET_DEFAULT,
            micros => core::time::Duration::from_micros(micros),
        };
        let deadline = node.env.clock.now() + budget;
        if header.actor != ActorId::NODE {
            // What a client of the mesh itself reads.
            let subject = losses::subject(&op).filter(|_| header.actor == ActorId::ingress(node.id));
            let request = Request { op, payload, principal: header.principal, deadline, lane: header.lane };
            let done: Completion<Outcome> = match subject {
                None => done,
                Some(subject) => {
                    let seen = node.clone();
                    Box::new(move |outcome| {
                        seen.losses.see(Some(&subject), &outcome, seen.env.clock.now());
                        done(outcome);
                    })
                }
            };
            node.host.ask_local(header.actor, header.epoch, request, done);
            return CallGuard::none();
        }
        let from = from.clone();
        match op {
            Op::Node(op) => match *op {
                NodeOp::Raft { group, rpc, start } => {
                    // A Raft message that has arrived is carried out, whether or not the sender still waits.
                    tokio::spawn(async move {
                        let answer = match node.acquainted(&from, start).await {
                            Ok(()) => node.metadata.handle_raft(group, rpc, payload).await,
                            Err(error) => Err(error),
                        };
                        done(answer);
                    });
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
                NodeOp::Move(step) => {
                    if !matches!(from, Role::Node(_)) {
                        done(Err(Error::new(ErrorKind::Denied, "only nodes move actors; ask with `mesh move`")));
                        return CallGuard::none();
                    }
                    // A step that has begun is carried out, whether or not the sender still waits.
                    tokio::spawn(async move {
                        let moved = node.carry_out(step, payload).await;
                        done(moved.map(|moved| Answer::Moved(moved).into()));
                    });
                    CallGuard::none()
                }
                ask @ (NodeOp::RelayQuery { .. } | NodeOp::RelayPropose { .. }) => {
                    let task = tokio::spawn(async move {
                        if let NodeOp::RelayPropose { command, .. } = &ask
                            && let Err(error) = node.admits_command(&from, command).await
                        {
                            return done(Err(error));
                        }
                        done(node.metadata.relay(ask, deadline).await);
                    });
                    CallGuard::new(move || task.abort())
                }
                NodeOp::Admin(op) => {
                    if !matches!(from, Role::Node(_) | Role::Client(Principal::Admin { .. })) {
                        done(Err(Error::new(
                            ErrorKind::Denied,
                            "only an administrator may ask this: use the identity in MESH_ADMIN_IDENTITY",
                        )));
                        return CallGuard::none();
                    }
                    let task = tokio::spawn(async move {
                        done(crate::admin::administer(&node, *op, deadline).await);
                    });
                    CallGuard::new(move || task.abort())
                }
            },
            Op::Query { .. } | Op::Propose { .. } => {
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
}
