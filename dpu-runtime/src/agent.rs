//! The agent: carries out what a node does of a live move, as its source or as its target.
//!
//! It decides nothing: what a step comes to is `mesh_placement::transfer`'s, when to move is the controller's, and who runs
//! an actor is the metadata group's. Here are the node's [`Host`], which it is done at, and the link to the other node.

use std::sync::{Arc, Mutex, PoisonError};

use mesh_core::{
    Answer, Buf, Error, ErrorKind, Lane, Op, Principal,
    assignment::MoveId,
    envelope::Envelope,
    id::{ActorId, Epoch, NodeId},
    op::{MoveStep, Moved, NodeOp},
    time::Instant,
};
use mesh_placement::transfer::{Ask, Heard, LINGER_MAX, Next, PAGE_MAX, SETTLE_MAX, Transfers};
use tokio::sync::oneshot;

use crate::shell::{ActorSetup, Host, Place};

/// How a node builds an actor that is to run there under an epoch.
pub type Setups = Arc<dyn Fn(ActorId, Epoch) -> Result<ActorSetup, Error> + Send + Sync>;

/// The agent of a node. Clones share it.
#[derive(Clone)]
pub struct Agent(Arc<Inner>);

struct Inner {
    host: Host,
    setups: Setups,
    transfers: Mutex<Transfers>,
}

impl core::fmt::Debug for Agent {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Agent of {}", self.0.host.node())
    }
}

impl Agent {
    /// The agent of a host.
    #[must_use]
    pub fn new(host: Host, setups: Setups) -> Self {
        Self(Arc::new(Inner { host, setups, transfers: Mutex::default() }))
    }

    /// Carries out one step.
    ///
    /// # Errors
    /// `NoSuchActor` if the actor is not here as the step has it; `Corrupt` for a page whose digest is wrong;
    /// `Conflict` for a page out of order, and for a step of a move that is over because a later one has begun; `Timeout`
    /// if the actor does not come to rest; what its function says of a page; what the link to the target says. Unless the
    /// step was done, nothing has changed but that an actor may be frozen: then it waits for the end of its move.
    pub async fn carry_out(&self, step: MoveStep, payload: Buf) -> Result<Moved, Error> {
        let clock = &self.0.host.ports().clock;
        let (mut course, mut next) = self.lock().begin(step, &payload, clock.now());
        drop(payload);
        loop {
            match next {
                Next::Break(outcome) => return outcome,
                Next::Continue(ask) => {
                    let heard = self.fulfil(ask).await;
                    next = course.hear(&mut self.lock(), heard, clock.now());
                }
            }
        }
    }

    /// The last move of an actor of which this node took a step.
    #[must_use]
    pub fn on(&self, actor: ActorId) -> Option<MoveId> {
        self.lock().on(actor)
    }

    /// Forgets a move that an actor was to leave by, which has been aborted. Whether it was on that one: else a later
    /// move's end decides.
    #[must_use]
    pub fn take_back(&self, actor: ActorId, id: MoveId) -> bool {
        self.lock().take_back(actor, id)
    }

    /// See [`Transfers::overdue`].
    #[must_use]
    pub fn overdue(&self, now: Instant) -> Vec<(ActorId, Epoch, MoveId)> {
        self.lock().overdue(now)
    }

    /// Forgets what it knew of an actor's moves: the group has said who runs it.
    pub fn forget(&self, actor: ActorId) {
        self.lock().forget(actor);
    }

    /// Does what a course wants.
    async fn fulfil(&self, ask: Ask) -> Heard {
        let host = &self.0.host;
        match ask {
            Ask::Warm { actor, epoch } => Heard::Done(match (self.0.setups)(actor, epoch) {
                Ok(setup) => host.warm(setup).await,
                Err(error) => Err(error),
            }),
            Ask::Restore { actor, epoch, page } => Heard::Done(host.restore(actor, epoch, page).await),
            Ask::Snapshot { actor, epoch, since } => Heard::Page(host.snapshot(actor, epoch, since).await),
            Ask::Send { to, step, page, lane } => Heard::Sent(self.send(to, step, page, lane).await),
            Ask::Settle { actor, epoch } => {
                let settled = tokio::time::timeout(SETTLE_MAX, host.freeze(actor, epoch)).await;
                Heard::Done(settled.unwrap_or_else(|_| {
                    Err(Error::new(
                        ErrorKind::Timeout,
                        "the actor does not come to rest: what it has under way takes too long",
                    )
                    .with("actor", actor))
                }))
            }
            Ask::Activate { actor, epoch } => Heard::Done(host.activate(actor, epoch)),
            Ask::Retire { actor, epoch, to } => {
                let to = Place { node: to, epoch: Epoch(epoch.0 + 1) };
                Heard::Retired(host.retire(actor, epoch, to, LINGER_MAX))
            }
            Ask::Thaw { actor, epoch } => Heard::Done(host.thaw(actor, epoch)),
            Ask::Discard { actor } => {
                host.discard(actor);
                Heard::Done(Ok(()))
            }
        }
    }

    /// Brings a page to the target, and waits until it has it.
    async fn send(&self, to: NodeId, step: MoveStep, page: Buf, lane: Lane) -> Result<Moved, Error> {
        let op = Op::Node(Box::new(NodeOp::Move(step)));
        let envelope = Envelope::request(ActorId::NODE, Epoch(0), op, page, Principal::System, lane, PAGE_MAX);
        let (answer, outcome) = oneshot::channel();
        let done = Box::new(move |outcome| drop(answer.send(outcome)));
        let guard = self.0.host.ports().outbound.send(to, envelope, done);
        let outcome = outcome.await.unwrap_or_else(|_| Err(Error::new(ErrorKind::LinkLost, "the link ended unasked")));
        guard.forget();
        match outcome?.answer {
            Answer::Moved(moved) => Ok(moved),
            _ => {
                Err(Error::bug("a page of an actor's state was answered with something else").with("actor", step.actor))
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Transfers> {
        self.0.transfers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
