//! The agent: what a node does of a live move, as its source or as its target.
//!
//! It carries out the steps that `mesh_placement::migration` asks for, at the node's [`Host`], and brings the state over:
//! page by page from the source to the target, numbered and with a running digest, so that a page that is missing,
//! repeated or damaged is found before the move is committed. It decides nothing: when to move is the controller's, and
//! who runs an actor is the metadata group's.

use core::time::Duration;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use mesh_actors::shell::{ActorSetup, Host, Place};
use mesh_core::{
    Answer, Buf, Error, ErrorKind, Lane, Op, Principal,
    assignment::MoveId,
    envelope::Envelope,
    id::{ActorId, Epoch, NodeId},
    op::{MoveOp, MoveStep, Moved, NodeOp},
    snapshot::{self, Mark, Rounds, Snapshot},
    time::Instant,
};
use tokio::sync::oneshot;

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

#[derive(Default)]
struct Transfers {
    /// Actors that leave.
    leaving: BTreeMap<ActorId, Transfer>,
    /// Actors that arrive.
    arriving: BTreeMap<ActorId, Transfer>,
    /// The last move of each actor of which this node took a step: at most one entry for each actor of the mesh.
    on: BTreeMap<ActorId, MoveId>,
}

/// How much of an actor's state has gone over.
#[derive(Clone, Copy, Debug, Default)]
struct Transfer {
    id: MoveId,
    epoch: Epoch,
    /// Where the last page ended.
    mark: Option<Mark>,
    pages: u32,
    digest: u64,
    entries: u64,
    /// The last page said nothing, and the target has it: it has all that there was.
    confirmed: bool,
    /// Since when it takes no requests.
    frozen: Option<Instant>,
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
        let host = &self.0.host;
        let MoveStep { actor, epoch, id, what } = step;
        let next = Epoch(epoch.0 + 1);
        self.take_up(actor, id)?;
        match what {
            MoveOp::Warm => {
                let setup = (self.0.setups)(actor, next)?;
                self.expect(actor, epoch, id)?;
                let warmed = host.warm(setup).await;
                if warmed.is_err() {
                    let mut transfers = self.lock();
                    if transfers.arriving.get(&actor).is_some_and(|transfer| transfer.id == id) {
                        transfers.arriving.remove(&actor);
                    }
                }
                warmed.map(|()| Moved::default())
            }
            MoveOp::Install { page, digest } => self.install(step, page, digest, payload).await,
            MoveOp::PreCopy { to } => self.pre_copy(step, to).await,
            MoveOp::Freeze { to } => self.freeze(step, to).await,
            MoveOp::Activate => {
                host.activate(actor, next)?;
                self.lock().arriving.remove(&actor);
                Ok(Moved::default())
            }
            MoveOp::Retire { to } => {
                let frozen = self.lock().leaving.remove(&actor).and_then(|transfer| transfer.frozen);
                let parked = host.retire(actor, epoch, Place { node: to, epoch: next }, LINGER_MAX);
                let now = host.ports().clock.now();
                Ok(Moved {
                    entries: parked as u64,
                    took_us: frozen.map_or(0, |at| micros(at, now)),
                    ..Moved::default()
                })
            }
            MoveOp::Thaw => {
                self.lock().leaving.remove(&actor);
                host.thaw(actor, epoch)?;
                Ok(Moved::default())
            }
            MoveOp::Discard => {
                self.lock().arriving.remove(&actor);
                host.discard(actor);
                Ok(Moved::default())
            }
        }
    }

    /// Moves of one actor follow each other under one epoch, as long as they are aborted; so a step that a controller of
    /// an older one sends late must not thaw, discard or begin anew what is on the later one.
    fn take_up(&self, actor: ActorId, id: MoveId) -> Result<(), Error> {
        let mut transfers = self.lock();
        let on = transfers.on.entry(actor).or_insert(id);
        if id < *on {
            return Err(Error::new(ErrorKind::Conflict, "the actor is on a later move: this one is over")
                .with("actor", actor)
                .with("move", id)
                .with("later", *on));
        }
        *on = id;
        Ok(())
    }

    /// An actor is to arrive. Not twice by one move: two controllers may have begun the very same one, and what the first
    /// has brought over must not be lost to the second, which is to abort it instead.
    fn expect(&self, actor: ActorId, epoch: Epoch, id: MoveId) -> Result<(), Error> {
        let mut transfers = self.lock();
        if transfers.arriving.get(&actor).is_some_and(|transfer| transfer.id == id) {
            return Err(Error::new(ErrorKind::Conflict, "another controller carries out the same move")
                .with("actor", actor)
                .with("move", id));
        }
        transfers.arriving.insert(actor, Transfer { id, epoch, ..Transfer::default() });
        Ok(())
    }

    /// The last move of an actor of which this node took a step.
    #[must_use]
    pub fn on(&self, actor: ActorId) -> Option<MoveId> {
        self.lock().on.get(&actor).copied()
    }

    /// Forgets a move that an actor was to leave by, which has been aborted. Whether it was on that one: else a later
    /// move's end decides.
    #[must_use]
    pub fn take_back(&self, actor: ActorId, id: MoveId) -> bool {
        let mut transfers = self.lock();
        let is_on = transfers.leaving.get(&actor).is_some_and(|transfer| transfer.id == id);
        if is_on {
            transfers.leaving.remove(&actor);
        }
        is_on
    }

    /// Actors that have been frozen since before `then`: their moves, for who settles them.
    #[must_use]
    pub fn frozen_since(&self, then: Instant) -> Vec<(ActorId, Epoch, MoveId)> {
        let transfers = self.lock();
        let frozen = |(_, transfer): &(&ActorId, &Transfer)| transfer.frozen.is_some_and(|at| at <= then);
        transfers.leaving.iter().filter(frozen).map(|(actor, transfer)| (*actor, transfer.epoch, transfer.id)).collect()
    }

    /// Forgets what it knew of an actor's moves: the group has said who runs it.
    pub fn forget(&self, actor: ActorId) {
        let mut transfers = self.lock();
        transfers.leaving.remove(&actor);
        transfers.arriving.remove(&actor);
    }

    async fn install(&self, step: MoveStep, page: u32, digest: u64, payload: Buf) -> Result<Moved, Error> {
        let MoveStep { actor, epoch, id, .. } = step;
        let so_far = self.lock().arriving.get(&actor).copied().filter(|transfer| transfer.id == id);
        let so_far = so_far.ok_or_else(|| not_moving(actor, id))?;
        if page + 1 == so_far.pages && digest == so_far.digest {
            return Ok(so_far.moved());
        }
        if page != so_far.pages {
            return Err(Error::new(ErrorKind::Conflict, "a page of an actor's state is missing; the move begins anew")
                .with("actor", actor)
                .with("page", page)
                .with("expected", so_far.pages));
        }
        if snapshot::digest(so_far.digest, &payload) != digest {
            return Err(Error::new(
                ErrorKind::Corrupt,
                "the digest of an actor's state is wrong; the move is taken back",
            )
            .with("actor", actor)
            .with("page", page));
        }
        let state = Snapshot::decode(&payload)?;
        let entries = state.len() as u64;
        self.0.host.restore(actor, Epoch(epoch.0 + 1), state).await?;
        let mut transfers = self.lock();
        let transfer = transfers.arriving.get_mut(&actor).filter(|transfer| transfer.id == id);
        let transfer = transfer.ok_or_else(|| not_moving(actor, id))?;
        transfer.pages += 1;
        transfer.digest = digest;
        transfer.entries += entries;
        Ok(transfer.moved())
    }

    /// Sends the state while the actor goes on, in [`Rounds`].
    async fn pre_copy(&self, step: MoveStep, to: NodeId) -> Result<Moved, Error> {
        let mut transfer = Transfer { id: step.id, epoch: step.epoch, ..Transfer::default() };
        let began = self.0.host.ports().clock.now();
        let mut rounds = Rounds::default();
        for _ in 0..PAGES_MAX {
            let page = self.0.host.snapshot(step.actor, step.epoch, transfer.mark).await?;
            let more = page.more;
            transfer.send(&self.0.host, step, to, page, Lane::Bulk).await?;
            if !more && rounds.end(transfer.entries) {
                break;
            }
        }
        let moved = transfer.moved_since(began, self.0.host.ports().clock.now());
        self.lock().leaving.insert(step.actor, transfer);
        Ok(moved)
    }

    /// Has the target confirm once more that it is there and has all, then lets requests wait and sends the rest: a page
    /// at least, also an empty one, unless nothing has changed since that word.
    async fn freeze(&self, step: MoveStep, to: NodeId) -> Result<Moved, Error> {
        let known = self.lock().leaving.get(&step.actor).copied().filter(|transfer| transfer.id == step.id);
        let mut transfer = known.ok_or_else(|| not_moving(step.actor, step.id))?;
        let before = transfer.entries;
        let page = self.0.host.snapshot(step.actor, step.epoch, transfer.mark).await?;
        transfer.send(&self.0.host, step, to, page, Lane::Control).await?;
        let began = self.0.host.ports().clock.now();
        transfer.frozen = Some(began);
        self.lock().leaving.insert(step.actor, transfer);
        let settled = tokio::time::timeout(SETTLE_MAX, self.0.host.freeze(step.actor, step.epoch)).await;
        settled.map_err(|_| {
            Error::new(ErrorKind::Timeout, "the actor does not come to rest: what it has under way takes too long")
                .with("actor", step.actor)
        })??;
        loop {
            let page = self.0.host.snapshot(step.actor, step.epoch, transfer.mark).await?;
            let more = page.more;
            if more || !page.says_nothing() || !transfer.confirmed {
                transfer.send(&self.0.host, step, to, page, Lane::Control).await?;
            }
            if !more {
                break;
            }
        }
        let mut moved = transfer.moved_since(began, self.0.host.ports().clock.now());
        moved.entries = transfer.entries - before;
        Ok(moved)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Transfers> {
        self.0.transfers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Transfer {
    /// Sends a page to the target, and waits until it has it.
    async fn send(&mut self, host: &Host, step: MoveStep, to: NodeId, page: Snapshot, lane: Lane) -> Result<(), Error> {
        let (mark, entries, bytes) = (page.mark, page.len() as u64, page.encode()?);
        let confirms = page.says_nothing() && !page.more;
        let digest = snapshot::digest(self.digest, &bytes);
        let what = MoveOp::Install { page: self.pages, digest };
        let op = Op::Node(Box::new(NodeOp::Move(MoveStep { what, ..step })));
        let envelope =
            Envelope::request(ActorId::NODE, Epoch(0), op, Buf::copy_of(&bytes), Principal::System, lane, PAGE_BUDGET);
        let (answer, outcome) = oneshot::channel();
        let done = Box::new(move |outcome| drop(answer.send(outcome)));
        let guard = host.ports().outbound.send(to, envelope, done);
        let outcome = outcome.await.unwrap_or_else(|_| Err(Error::new(ErrorKind::LinkLost, "the link ended unasked")));
        guard.forget();
        match outcome?.answer {
            Answer::Moved(moved) if moved.digest == digest => {}
            _ => {
                return Err(Error::new(ErrorKind::Corrupt, "the target has another state than was sent to it")
                    .with("actor", step.actor));
            }
        }
        self.mark = Some(mark);
        self.pages += 1;
        self.digest = digest;
        self.entries += entries;
        self.confirmed = confirms;
        Ok(())
    }

    const fn moved(&self) -> Moved {
        Moved { entries: self.entries, pages: self.pages, digest: self.digest, took_us: 0 }
    }

    fn moved_since(&self, began: Instant, now: Instant) -> Moved {
        Moved { took_us: micros(began, now), ..self.moved() }
    }
}

fn micros(from: Instant, to: Instant) -> u64 {
    u64::try_from(to.since(from).as_micros()).unwrap_or(u64::MAX)
}

fn not_moving(actor: ActorId, id: MoveId) -> Error {
    Error::new(ErrorKind::NoSuchActor, "the actor is not on this move here").with("actor", actor).with("move", id)
}

/// Pages of one pre-copy at most, for a state that grows as fast as it is carried: the rest goes when it is frozen.
const PAGES_MAX: u32 = 65_536;
/// An actor comes to rest within this, or does not move now.
const SETTLE_MAX: Duration = Duration::from_millis(1000);
/// What was under way when an actor left ends within this.
const LINGER_MAX: Duration = Duration::from_secs(30);
const PAGE_BUDGET: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests;
