//! A node's table of actors, and the way to actors elsewhere.

use std::{
    collections::BTreeMap,
    sync::{Arc, RwLock},
};

use mesh_core::{
    Entropy, Error, ErrorKind, Outcome, Redirect, Request, StorageFunction,
    envelope::Envelope,
    id::{ActorId, DriveId, Epoch, NodeId},
    op::Phase,
    port::{CallGuard, Clock, Completion, Compute, Disk, Metadata, Outbound},
    spec::FunctionSpec,
};
use ractor::ActorRef;
use tokio::sync::oneshot;

use super::{
    calls::Calls,
    cell::{Message, Owed},
    credits::Credits,
    moves::{Gate, Parked, redirected},
    supervisor::{Supervisor, SupervisorMessage},
    workers::Workers,
};

/// Makes a function from its spec: at the start, and again after a panic.
pub type Build = Arc<dyn Fn(&FunctionSpec) -> Result<Box<dyn StorageFunction>, Error> + Send + Sync>;

/// What the node gives its actors.
#[derive(Clone)]
pub struct Ports {
    /// Both clocks.
    pub clock: Arc<dyn Clock>,
    /// A random stream of its own for each actor.
    pub entropy: Arc<dyn Fn() -> Box<dyn Entropy> + Send + Sync>,
    /// Compute back end.
    pub compute: Arc<dyn Compute>,
    /// Threads for it.
    pub workers: Workers,
    /// The metadata groups.
    pub metadata: Arc<dyn Metadata>,
    /// The way to other nodes.
    pub outbound: Arc<dyn Outbound>,
}

impl core::fmt::Debug for Ports {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Ports")
    }
}

/// Where a call to the next stage goes when it leaves an actor's chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Onward {
    /// Nowhere: the chain is whole.
    End,
    /// To one actor.
    Actor(ActorId),
    /// To the data chain of the request's tenant for this ingress node.
    DataChain(NodeId),
}

impl Onward {
    /// The actor that a request goes on to.
    ///
    /// # Errors
    /// `Bug` if there is no next stage, `Invalid` if the request is nobody's.
    pub fn resolve(self, request: &Request) -> Result<ActorId, Error> {
        match self {
            Self::End => Err(Error::bug("the last stage of a chain called the next one")),
            Self::Actor(actor) => Ok(actor),
            Self::DataChain(node) => match request.tenant() {
                Some(tenant) => Ok(ActorId::data(tenant, node)),
                None => Err(Error::new(ErrorKind::Denied, "the request belongs to no tenant")
                    .with("principal", request.principal.name())),
            },
        }
    }
}

/// How to start an actor.
#[derive(Clone)]
pub struct ActorSetup {
    /// Its number.
    pub id: ActorId,
    /// The epoch it runs under.
    pub epoch: Epoch,
    /// What to build, now and after a panic.
    pub spec: Arc<FunctionSpec>,
    /// How to build it.
    pub build: Build,
    /// The drive behind it, if it is a drive's.
    pub disk: Option<Arc<dyn Disk>>,
    /// Where calls to the next stage go.
    pub onward: Onward,
}

impl core::fmt::Debug for ActorSetup {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{} {} {}", self.id, self.epoch, self.spec.name())
    }
}

/// One place of an actor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The node.
    pub node: NodeId,
    /// Its epoch there; 0: not known.
    pub epoch: Epoch,
}

/// Where actors are, as far as this node knows. A stale entry is corrected by `StaleEpoch`, never by luck.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Directory {
    /// Owners of drives.
    pub drives: BTreeMap<DriveId, Place>,
    /// Chains that run elsewhere than on their ingress.
    pub actors: BTreeMap<ActorId, Place>,
}

impl Directory {
    /// Where an actor is.
    #[must_use]
    pub fn locate(&self, actor: ActorId) -> Option<Place> {
        if let Some(place) = self.actors.get(&actor) {
            return Some(*place);
        }
        match (actor.as_drive(), actor.as_ingress(), actor.as_data()) {
            (Some(drive), _, _) => self.drives.get(&drive).copied(),
            (_, Some(node), _) | (_, _, Some((_, node))) => Some(Place { node, epoch: Epoch(0) }),
            _ => None,
        }
    }
}

/// What an actor has to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ActorStats {
    /// Its number.
    pub id: ActorId,
    /// Its epoch.
    pub epoch: Epoch,
    /// Requests taken and not answered.
    pub jobs: usize,
    /// Their payload bytes.
    pub bytes: usize,
    /// How often its function panicked.
    pub restarts: u32,
    /// What it is doing.
    pub phase: Phase,
    /// Requests taken since it was started here.
    pub requests: u64,
    /// Payload bytes taken and given since it was started here.
    pub traffic_bytes: u64,
}

/// An actor here, with what it was made from.
pub type Inventory = Vec<(ActorStats, Arc<FunctionSpec>)>;

/// One actor of this node.
#[derive(Clone)]
pub(super) struct Hosted {
    pub(super) address: ActorRef<Message>,
    pub(super) credits: Credits,
    pub(super) setup: ActorSetup,
    pub(super) restarts: u32,
    pub(super) gate: Gate,
    /// Held by every disk job under way.
    pub(super) disk_jobs: Arc<()>,
}

/// A node's table of actors. Clones share it.
#[derive(Clone)]
pub struct Host(Arc<Inner>);

struct Inner {
    node: NodeId,
    ports: Ports,
    table: RwLock<BTreeMap<ActorId, Hosted>>,
    directory: RwLock<Arc<Directory>>,
    calls: Calls,
    supervisor: ActorRef<SupervisorMessage>,
}

impl core::fmt::Debug for Host {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Host of {}", self.0.node)
    }
}

impl Host {
    /// An empty table.
    ///
    /// # Errors
    /// `Bug` if the runtime starts no actor.
    pub async fn new(node: NodeId, ports: Ports) -> Result<Self, Error> {
        let (supervisor, _) = ractor::Actor::spawn(None, Supervisor, ())
            .await
            .map_err(|error| Error::bug("the supervisor cannot be started").with("why", error))?;
        let (table, directory, calls) = (RwLock::default(), RwLock::default(), Calls::default());
        Ok(Self(Arc::new(Inner { node, ports, table, directory, calls, supervisor })))
    }

    /// The node.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.0.node
    }

    /// What actors are given.
    #[must_use]
    pub fn ports(&self) -> &Ports {
        &self.0.ports
    }

    /// Starts an actor; it takes requests when this returns.
    ///
    /// # Errors
    /// `Conflict` if it is hosted already; what building the function says.
    pub async fn start(&self, setup: ActorSetup) -> Result<(), Error> {
        self.launch(setup, Gate::Open).await
    }

    pub(super) async fn launch(&self, setup: ActorSetup, gate: Gate) -> Result<(), Error> {
        let id = setup.id;
        if self.hosts(id) {
            return Err(Error::new(ErrorKind::Conflict, "the actor is hosted here already").with("actor", id));
        }
        let (answer, started) = oneshot::channel();
        self.0
            .supervisor
            .cast(SupervisorMessage::Start { host: self.downgrade(), setup: Box::new(setup), gate, answer })
            .map_err(|error| Error::bug("the supervisor is gone").with("why", error))?;
        started.await.map_err(|_| Error::bug("the supervisor is gone"))?
    }

    /// Gives an actor new settings; a restart uses them too.
    ///
    /// # Errors
    /// `NoSuchActor`.
    pub fn configure(&self, id: ActorId, spec: Arc<FunctionSpec>) -> Result<(), Error> {
        self.write(|table| {
            let hosted = table.get_mut(&id).ok_or_else(|| no_such_actor(id))?;
            hosted.setup.spec = spec.clone();
            hosted.address.cast(Message::Configure(spec)).map_err(|_| no_such_actor(id))
        })
    }

    /// Takes no more requests for an actor, waits until it has answered those it has, and removes it. After `patience`
    /// it is removed all the same: what is then in flight fails with `Restarted`.
    ///
    /// # Errors
    /// `NoSuchActor`.
    pub async fn stop(&self, id: ActorId, patience: core::time::Duration) -> Result<(), Error> {
        let (address, credits) = self.write(|table| {
            let hosted = table.get_mut(&id).ok_or_else(|| no_such_actor(id))?;
            // What waits at a gate that closes is refused by being dropped.
            hosted.gate = Gate::Closed;
            Ok::<_, Error>((hosted.address.clone(), hosted.credits.clone()))
        })?;
        let (answer, drained) = oneshot::channel();
        if address.cast(Message::Drain(answer)).is_ok() && tokio::time::timeout(patience, drained).await.is_err() {
            tracing::warn!(actor = %id, jobs = credits.taken().0, "an actor is stopped with requests in flight");
        }
        self.write(|table| table.remove(&id));
        address.stop(None);
        Ok(())
    }

    /// Says where actors are. What is known of a later epoch stays.
    pub fn set_directory(&self, mut directory: Directory) {
        let mut present = self.0.directory.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        for (actor, place) in &mut directory.actors {
            if let Some(known) = present.actors.get(actor).filter(|known| known.epoch > place.epoch) {
                *place = *known;
            }
        }
        *present = Arc::new(directory);
    }

    /// Takes over where an actor is, if that is news.
    pub fn learn(&self, actor: ActorId, place: Place) {
        let mut present = self.0.directory.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        if present.actors.get(&actor).is_none_or(|known| known.epoch < place.epoch) {
            Arc::make_mut(&mut present).actors.insert(actor, place);
        }
    }

    /// Whether a node is lost: see [`Self::abandon`].
    #[must_use]
    pub fn is_abandoned(&self, node: NodeId) -> bool {
        self.0.calls.is_lost(node)
    }

    /// A node is there again.
    pub fn resume(&self, node: NodeId) {
        self.0.calls.resume(node);
    }

    /// A node is lost: what it was asked and has not answered fails with `LinkLost`, at once, and what it is asked from
    /// now on with `Unreachable`, until [`Self::resume`].
    pub fn abandon(&self, node: NodeId) {
        let count = self.0.calls.abandon(node);
        if count > 0 {
            tracing::debug!(%node, count, "requests to a lost node were ended");
        }
    }

    /// Where actors are.
    #[must_use]
    pub fn directory(&self) -> Arc<Directory> {
        self.0.directory.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    /// Whether an actor is hosted here, in whatever phase.
    #[must_use]
    pub fn hosts(&self, actor: ActorId) -> bool {
        self.read(|table| table.contains_key(&actor))
    }

    /// The actors hosted here.
    #[must_use]
    pub fn actors(&self) -> Vec<ActorStats> {
        self.inventory().into_iter().map(|(stats, _)| stats).collect()
    }

    /// The actors hosted here, with their specs.
    #[must_use]
    pub fn inventory(&self) -> Inventory {
        self.read(|table| {
            let stats = |(id, hosted): (&ActorId, &Hosted)| {
                let (jobs, bytes) = hosted.credits.taken();
                let (requests, traffic_bytes) = hosted.credits.throughput();
                let stats = ActorStats {
                    id: *id,
                    epoch: hosted.setup.epoch,
                    jobs,
                    bytes,
                    restarts: hosted.restarts,
                    phase: hosted.gate.phase(),
                    requests,
                    traffic_bytes,
                };
                (stats, hosted.setup.spec.clone())
            };
            table.iter().map(stats).collect()
        })
    }

    /// Asks an actor, here or elsewhere. `done` is called exactly once. If it has moved, it is asked where it is now.
    pub fn ask(&self, actor: ActorId, request: Request, done: Completion<Outcome>) -> CallGuard {
        self.ask_within(HOPS_MAX, actor, request, done)
    }

    fn ask_within(&self, hops: u32, actor: ActorId, request: Request, done: Completion<Outcome>) -> CallGuard {
        if self.hosts(actor) {
            self.take(actor, Epoch(0), request, done, false);
            return CallGuard::none();
        }
        let Some(place) = self.directory().locate(actor).filter(|place| place.node != self.0.node) else {
            done(Err(no_such_actor(actor)));
            return CallGuard::none();
        };
        let budget = request.deadline.after(self.0.ports.clock.now());
        if budget.is_zero() {
            done(Err(Error::new(ErrorKind::Timeout, "the deadline passed before the request was sent")));
            return CallGuard::none();
        }
        // Only data chains move.
        let again = (hops > 0 && actor.as_data().is_some()).then(|| request.clone());
        let Request { op, payload, principal, lane, .. } = request;
        let envelope = Envelope::request(actor, place.epoch, op, payload, principal, lane, budget);
        let host = self.downgrade();
        let done = Box::new(move |outcome: Outcome| match (redirected(&outcome), again, host.upgrade()) {
            // The directory was behind; the actor certainly did not take the request.
            (Some(newer), Some(again), Some(host)) if newer.epoch > place.epoch => {
                host.learn(actor, newer);
                host.ask_within(hops - 1, actor, again, done).forget();
            }
            _ => done(outcome),
        });
        self.0.calls.send(&*self.0.ports.outbound, place.node, envelope, done)
    }

    /// Asks an actor of this node, over a link. `epoch` is the caller's idea of its epoch; 0: it has none.
    pub fn ask_local(&self, actor: ActorId, epoch: Epoch, request: Request, done: Completion<Outcome>) {
        self.take(actor, epoch, request, done, true);
    }

    fn take(&self, actor: ActorId, epoch: Epoch, request: Request, done: Completion<Outcome>, afar: bool) {
        enum Taken {
            In(ActorRef<Message>, Request, Owed),
            Waits,
            Refused(Error, Completion<Outcome>),
        }
        let taken = self.read(|table| {
            let Some(hosted) = table.get(&actor) else { return Taken::Refused(self.elsewhere(actor), done) };
            if epoch != Epoch(0) && epoch != hosted.setup.epoch {
                if hosted.gate.phase() == Phase::Warming {
                    // Whether it arrives is not decided yet: nobody must be told that it is here.
                    return Taken::Refused(self.elsewhere(actor), done);
                }
                let here = Place { node: self.0.node, epoch: hosted.setup.epoch };
                return Taken::Refused(stale(actor, here), done);
            }
            if let Gate::Closed = hosted.gate {
                let error = Error::new(ErrorKind::Draining, "the actor is being stopped").with("actor", actor);
                return Taken::Refused(error, done);
            }
            let owed = match hosted.credits.take(request.payload.len()) {
                Ok(permit) => Owed::new(done, permit),
                Err(error) => return Taken::Refused(error, done),
            };
            match &hosted.gate {
                Gate::Parking(_, waiting) => {
                    // Under the table's lock: who opens the gate has all that waits.
                    Gate::park(waiting, Parked { request, owed, afar });
                    Taken::Waits
                }
                _ => Taken::In(hosted.address.clone(), request, owed),
            }
        });
        match taken {
            Taken::In(address, request, owed) => {
                // A mailbox that is gone drops the message, and what it owed answers for it.
                if address.cast(Message::Request { request, owed }).is_err() {
                    tracing::debug!(%actor, "a request came to an actor that has just ended");
                }
            }
            Taken::Waits => {}
            Taken::Refused(error, done) => done(Err(error)),
        }
    }

    /// For an actor that is not here: where it is, if that is known.
    fn elsewhere(&self, actor: ActorId) -> Error {
        match self.directory().actors.get(&actor).filter(|place| place.node != self.0.node) {
            Some(place) => stale(actor, *place),
            None => no_such_actor(actor),
        }
    }

    /// Asks an actor and waits for its outcome. Dropping the future cancels a request to another node.
    pub fn request(&self, actor: ActorId, request: Request) -> impl Future<Output = Outcome> + Send + 'static + use<> {
        let (answer, outcome) = oneshot::channel();
        let guard = self.ask(
            actor,
            request,
            Box::new(move |outcome| {
                // Nobody waits any more: the answer is dropped, and with it its payload.
                drop(answer.send(outcome));
            }),
        );
        async move {
            let outcome =
                outcome.await.unwrap_or_else(|_| Err(Error::new(ErrorKind::Restarted, "the actor ended unasked")));
            guard.forget();
            outcome
        }
    }

    /// Stops every actor: ingresses, then data chains, then drives, each kind at once and each for at most `patience`.
    pub async fn shutdown(&self, patience: core::time::Duration) {
        let ids: Vec<ActorId> = self.actors().iter().map(|actor| actor.id).collect();
        let rank = |id: &ActorId| (id.as_drive().is_some(), id.as_data().or(id.as_tail()).is_some());
        for kind in [(false, false), (false, true), (true, false)] {
            let stops = ids.iter().copied().filter(|id| rank(id) == kind).map(|id| async move {
                if let Err(error) = self.stop(id, patience).await {
                    tracing::debug!(%error, actor = %id, "an actor ended before it was stopped");
                }
            });
            futures_util::future::join_all(stops).await;
        }
        self.0.supervisor.stop(None);
    }

    pub(super) fn downgrade(&self) -> WeakHost {
        WeakHost(Arc::downgrade(&self.0))
    }

    pub(super) fn read<T>(&self, look: impl FnOnce(&BTreeMap<ActorId, Hosted>) -> T) -> T {
        look(&self.0.table.read().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    pub(super) fn write<T>(&self, change: impl FnOnce(&mut BTreeMap<ActorId, Hosted>) -> T) -> T {
        change(&mut self.0.table.write().unwrap_or_else(std::sync::PoisonError::into_inner))
    }
}

/// What actors hold of their host: a host that is gone takes its actors along.
#[derive(Clone)]
pub(super) struct WeakHost(std::sync::Weak<Inner>);

impl WeakHost {
    pub(super) fn upgrade(&self) -> Option<Host> {
        self.0.upgrade().map(Host)
    }
}

fn stale(actor: ActorId, place: Place) -> Error {
    let place =
        Redirect { actor: Some(actor), epoch: Some(place.epoch), node: Some(place.node), ..Redirect::default() };
    Error::new(ErrorKind::StaleEpoch, "the actor runs elsewhere, or under another epoch").redirect_to(place)
}

/// How often one request follows an actor that moves.
const HOPS_MAX: u32 = 4;

pub(super) fn no_such_actor(actor: ActorId) -> Error {
    Error::new(ErrorKind::NoSuchActor, "the actor is not hosted here").with("actor", actor)
}
