//! A node's actors behind their [`Doors`], and the way to actors elsewhere.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
};

use mesh_core::{
    Entropy, Error, ErrorKind, Outcome, Request, StorageFunction,
    envelope::Envelope,
    figures::Page,
    id::{ActorId, Epoch, NodeId},
    meta::ControlView,
    op::Phase,
    port::{CallGuard, Clock, Completion, Compute, Disk, Metadata, Outbound},
    spec::FunctionSpec,
};
use mesh_placement::doors::{self, Came, Doors, HOPS_MAX, Park, Place, Verdict};
use ractor::ActorRef;
use tokio::sync::oneshot;

use super::{
    calls::Calls,
    cell::{Message, Owed},
    credits::{Credits, Permit},
    figures::{HostFigures, Meter, OfKind},
    moves::Parked,
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
pub(super) struct Hosted {
    pub(super) address: ActorRef<Message>,
    pub(super) credits: Credits,
    pub(super) setup: ActorSetup,
    pub(super) restarts: u32,
    /// Held by every disk job under way.
    pub(super) disk_jobs: Arc<()>,
    /// Where what it is asked is counted.
    pub(super) counted: Arc<OfKind>,
}

/// What becomes of a request.
enum Way {
    /// It is dealt with here.
    Here(CallGuard),
    Elsewhere(Place, Request, Completion<Outcome>),
}

type Sites = Arc<Mutex<BTreeSet<ActorId>>>;

/// Where an actor's function is being built, until it has been.
pub(super) struct Site(Sites, ActorId);

impl Drop for Site {
    fn drop(&mut self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.1);
    }
}

/// A node's actors. Clones share them.
#[derive(Clone)]
pub struct Host(Arc<Inner>);

struct Inner {
    node: NodeId,
    ports: Ports,
    doors: RwLock<Doors<Hosted, Parked>>,
    calls: Calls,
    /// Actors whose functions are being built.
    sites: Sites,
    /// It takes no more actors in.
    closed: AtomicBool,
    figures: HostFigures,
}

impl core::fmt::Debug for Host {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Host of {}", self.0.node)
    }
}

impl Host {
    /// A node without actors.
    #[must_use]
    pub fn new(node: NodeId, ports: Ports) -> Self {
        let (doors, calls) = (RwLock::new(Doors::new(node)), Calls::default());
        let (sites, closed) = (Sites::default(), AtomicBool::new(false));
        let figures = HostFigures::new(node, ports.clock.clone());
        Self(Arc::new(Inner { node, ports, doors, calls, sites, closed, figures }))
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
    /// `Conflict` if it is hosted already; `Bug` if building the function panics, else what that says.
    pub async fn start(&self, setup: ActorSetup) -> Result<(), Error> {
        self.launch(setup, false).await
    }

    pub(super) async fn launch(&self, setup: ActorSetup, warming: bool) -> Result<(), Error> {
        let id = setup.id;
        if self.hosts(id) {
            return Err(Error::new(ErrorKind::Conflict, "the actor is hosted here already").with("actor", id));
        }
        let (supervisor, _) = ractor::Actor::spawn(None, Supervisor, ())
            .await
            .map_err(|error| Error::bug("the supervisor cannot be started").with("why", error))?;
        let (answer, started) = oneshot::channel();
        supervisor
            .cast(SupervisorMessage::Start { host: self.downgrade(), setup: Box::new(setup), warming, answer })
            .map_err(|error| Error::bug("the supervisor is gone").with("why", error))?;
        started.await.map_err(|_| Error::bug("the supervisor is gone"))?
    }

    /// A place to build an actor's function; one at a time.
    pub(super) fn site(&self, id: ActorId) -> Result<Site, Error> {
        let mut sites = self.0.sites.lock().unwrap_or_else(PoisonError::into_inner);
        if !sites.insert(id) {
            return Err(Error::new(ErrorKind::Draining, "the actor is still being built from before; try again later")
                .with("actor", id));
        }
        Ok(Site(self.0.sites.clone(), id))
    }

    /// Hosts what has been built, unless the node has stopped meanwhile.
    pub(super) fn take_in(
        &self,
        id: ActorId,
        epoch: Epoch,
        warming: bool,
        hosted: Hosted,
    ) -> Result<(), (Error, Hosted)> {
        self.write(|doors| {
            if self.0.closed.load(Ordering::Acquire) {
                return Err((Error::new(ErrorKind::Draining, "the node is stopping").with("actor", id), hosted));
            }
            doors.host(id, epoch, warming, hosted)
        })
    }

    /// Gives an actor new settings; a restart uses them too.
    ///
    /// # Errors
    /// `NoSuchActor`.
    pub fn configure(&self, id: ActorId, spec: Arc<FunctionSpec>) -> Result<(), Error> {
        self.write(|doors| {
            let hosted = doors.get_mut(id).ok_or_else(|| no_such_actor(id))?;
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
        let (address, credits, parked) = self.write(|doors| {
            let (hosted, parked) = doors.close(id)?;
            Ok::<_, Error>((hosted.address.clone(), hosted.credits.clone(), parked))
        })?;
        self.release(id, parked);
        let (answer, drained) = oneshot::channel();
        if address.cast(Message::Drain(answer)).is_ok() && tokio::time::timeout(patience, drained).await.is_err() {
            tracing::warn!(actor = %id, jobs = credits.taken().0, "an actor is stopped with requests in flight");
        }
        // It may have panicked, and been built again, meanwhile.
        if let Some(gone) = self.write(|doors| doors.evict(id)) {
            gone.actor.address.stop(None);
        }
        address.stop(None);
        Ok(())
    }

    /// The control group said `before`, and says `after`: where actors are now. What is known of a later epoch stays. What was
    /// asked of a chain that was taken from its owner fails with `LinkLost`, at once.
    pub fn follow(&self, before: &ControlView, after: &ControlView) {
        let places = (&before.drives, &before.assignments, &before.tails);
        if !(places.0.is_same(&after.drives) && places.1.is_same(&after.assignments) && places.2.is_same(&after.tails))
        {
            self.write(|doors| doors.follow(before, after));
            let taken = doors::taken_over(before, after);
            let count = if taken.is_empty() { 0 } else { self.0.calls.taken_over(taken) };
            if count > 0 {
                tracing::debug!(count, "requests to chains that were taken over were ended");
            }
        }
    }

    /// Takes over where an actor is, if that is news.
    pub fn learn(&self, actor: ActorId, place: Place) {
        self.write(|doors| doors.learn(actor, place));
    }

    /// The latest epoch of an actor that this node has heard of; 0: of none.
    #[must_use]
    pub fn heard_of(&self, actor: ActorId) -> Epoch {
        self.read(|doors| doors.directory().actors.get(&actor).map_or(Epoch(0), |place| place.epoch))
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

    /// Whether an actor is hosted here, in whatever phase.
    #[must_use]
    pub fn hosts(&self, actor: ActorId) -> bool {
        self.read(|doors| doors.get(actor).is_some())
    }

    /// The actors hosted here.
    #[must_use]
    pub fn actors(&self) -> Vec<ActorStats> {
        self.inventory().into_iter().map(|(stats, _)| stats).collect()
    }

    /// The actors hosted here, with their specs.
    #[must_use]
    pub fn inventory(&self) -> Inventory {
        self.read(|doors| {
            let stats = |(id, epoch, phase, hosted): (ActorId, Epoch, Phase, &Hosted)| {
                let (jobs, bytes) = hosted.credits.taken();
                let (requests, traffic_bytes) = hosted.credits.throughput();
                let stats =
                    ActorStats { id, epoch, jobs, bytes, restarts: hosted.restarts, phase, requests, traffic_bytes };
                (stats, hosted.setup.spec.clone())
            };
            doors.iter().map(stats).collect()
        })
    }

    /// What is counted here.
    pub(super) fn counts(&self) -> &HostFigures {
        &self.0.figures
    }

    /// What actors here were asked and have answered, what their functions have counted, and what drives did to their media. Of
    /// an actor that does not say it within `patience`, what it said last.
    pub async fn figures(&self, patience: core::time::Duration) -> Page {
        let addresses: Vec<ActorRef<Message>> =
            self.read(|doors| doors.iter().map(|(.., hosted)| hosted.address.clone()).collect());
        let told = addresses.into_iter().map(|address| async move {
            let (answer, told) = oneshot::channel();
            // One that has just ended has said it, too.
            if address.cast(Message::Figures(answer)).is_ok() && told.await.is_err() {
                tracing::trace!("an actor ended before it said what it has counted");
            }
        });
        if tokio::time::timeout(patience, futures_util::future::join_all(told)).await.is_err() {
            tracing::debug!(node = %self.0.node, "an actor does not say in time what it has counted");
        }
        self.0.figures.page()
    }

    /// Asks an actor, here or elsewhere. `done` is called exactly once, unless the guard is dropped before: that takes the
    /// request back where its function has not been given it. If it has moved, it is asked where it is now.
    pub fn ask(&self, actor: ActorId, request: Request, done: Completion<Outcome>) -> CallGuard {
        self.ask_within(HOPS_MAX, (actor, Came::Here), request, done)
    }

    /// Asks the tail of a chain, as its head under an epoch does: one of another epoch takes nothing.
    pub(super) fn ask_tail(
        &self,
        (tail, epoch): (ActorId, Epoch),
        request: Request,
        done: Completion<Outcome>,
    ) -> CallGuard {
        self.ask_within(0, (tail, Came::Head(epoch)), request, done)
    }

    fn ask_within(
        &self,
        hops: u32,
        (actor, came): (ActorId, Came),
        request: Request,
        done: Completion<Outcome>,
    ) -> CallGuard {
        let since = self.0.calls.take_overs();
        let (place, request, done) = match self.take(actor, came, request, done) {
            Way::Here(guard) => return guard,
            Way::Elsewhere(place, request, done) => (place, request, done),
        };
        let budget = request.deadline.after(self.0.ports.clock.now());
        if budget.is_zero() {
            done(Err(Error::new(ErrorKind::Timeout, "the deadline passed before the request was sent")));
            return CallGuard::none();
        }
        // Only data chains move.
        let again = (hops > 0 && actor.as_data().is_some()).then(|| request.clone());
        let Request { op, payload, principal, lane, trace, .. } = request;
        let envelope = Envelope::request(actor, place.epoch, op, payload, principal, lane, budget).traced(trace);
        let host = self.downgrade();
        let done = Box::new(move |outcome: Outcome| match (doors::newer(place, &outcome), again, host.upgrade()) {
            // The directory was behind; the actor certainly did not take the request.
            (Some(newer), Some(again), Some(host)) => {
                host.learn(actor, newer);
                host.ask_within(hops - 1, (actor, Came::Here), again, done).forget();
            }
            _ => done(outcome),
        });
        self.0.calls.send(&*self.0.ports.outbound, (place.node, since), envelope, done)
    }

    /// Asks an actor of this node, over a link. `epoch` is the caller's idea of its epoch; 0: it has none. The guard as
    /// with [`Self::ask`].
    pub fn ask_local(&self, actor: ActorId, epoch: Epoch, request: Request, done: Completion<Outcome>) -> CallGuard {
        match self.take(actor, Came::Link(epoch), request, done) {
            Way::Here(guard) => guard,
            Way::Elsewhere(_, _, done) => {
                done(Err(Error::bug("what came over a link is told where to go").with("actor", actor)));
                CallGuard::none()
            }
        }
    }

    /// Lets a request in, lets it wait, or refuses it. Else gives it back, with where it goes.
    fn take(&self, actor: ActorId, came: Came, mut request: Request, mut done: Completion<Outcome>) -> Way {
        enum Taken {
            In(ActorRef<Message>, Permit, Arc<OfKind>),
            Waits(Permit, Arc<OfKind>),
            Go(Place),
            Refused(Error),
        }
        loop {
            let permit = |hosted: &Hosted| Ok((hosted.credits.take(request.payload.len())?, hosted.counted.clone()));
            let taken = self.read(|doors| match doors.knock(actor, came) {
                Verdict::In(hosted) => permit(hosted).map_or_else(Taken::Refused, |(permit, counted)| {
                    Taken::In(hosted.address.clone(), permit, counted)
                }),
                Verdict::Waits(hosted) => {
                    permit(hosted).map_or_else(Taken::Refused, |(permit, counted)| Taken::Waits(permit, counted))
                }
                Verdict::Go(place) => Taken::Go(place),
                Verdict::Refused(error) => Taken::Refused(error),
            });
            match taken {
                Taken::In(address, permit, counted) => {
                    let owed = Owed::new(done, permit, Meter::begin(counted, &request));
                    let guard = owed.guard();
                    // A mailbox that is gone drops the message, and what it owed answers for it.
                    if address.cast(Message::Request { request, owed }).is_err() {
                        tracing::debug!(%actor, "a request came to an actor that has just ended");
                    }
                    return Way::Here(guard);
                }
                Taken::Waits(permit, counted) => {
                    let owed = Owed::new(done, permit, Meter::begin(counted, &request));
                    let guard = owed.guard();
                    let parked = Parked::new(request, owed);
                    match self.write(|doors| doors.park(actor, came, parked)) {
                        Park::Waits => return Way::Here(guard),
                        Park::Full(parked) => {
                            let full = "too many requests wait for an actor that moves";
                            let (_, owed) = parked.into_parts();
                            owed.pay(Err(Error::new(ErrorKind::Overloaded, full).with("actor", actor)));
                            return Way::Here(CallGuard::none());
                        }
                        // The door has opened, or the actor has gone, between the two looks.
                        Park::Changed(parked) => {
                            let (again, owed) = parked.into_parts();
                            let Some(released) = owed.release() else { return Way::Here(CallGuard::none()) };
                            guard.forget();
                            (request, done) = (again, released);
                        }
                    }
                }
                Taken::Go(place) => return Way::Elsewhere(place, request, done),
                Taken::Refused(error) => {
                    self.0.figures.doorkeeping.turned_away.of(error.kind()).count();
                    done(Err(error));
                    return Way::Here(CallGuard::none());
                }
            }
        }
    }

    /// Asks an actor and waits for its outcome. Dropping the future takes the request back, as with [`Self::ask`].
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

    /// Takes no more actors in, and stops every actor: ingresses, then data chains, then drives, each kind at once and each for at most `patience`.
    pub async fn shutdown(&self, patience: core::time::Duration) {
        self.write(|_| self.0.closed.store(true, Ordering::Release));
        let ids: Vec<ActorId> = self.actors().iter().map(|actor| actor.id).collect();
        let rank = |id: &ActorId| (id.as_drive().is_some(), id.as_data().is_some() || id.as_tail().is_some());
        let end = tokio::time::Instant::now() + patience;
        // Those that are asked by others stop after them, and have their time, too.
        for (kind, parts) in [((false, false), 2), ((false, true), 2), ((true, false), 1)] {
            let part = end.saturating_duration_since(tokio::time::Instant::now()) / parts;
            let stops = ids.iter().copied().filter(|id| rank(id) == kind).map(|id| async move {
                if let Err(error) = self.stop(id, part).await {
                    tracing::debug!(%error, actor = %id, "an actor ended before it was stopped");
                }
            });
            futures_util::future::join_all(stops).await;
        }
    }

    pub(super) fn downgrade(&self) -> WeakHost {
        WeakHost(Arc::downgrade(&self.0))
    }

    pub(super) fn read<T>(&self, look: impl FnOnce(&Doors<Hosted, Parked>) -> T) -> T {
        look(&self.0.doors.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn write<T>(&self, change: impl FnOnce(&mut Doors<Hosted, Parked>) -> T) -> T {
        change(&mut self.0.doors.write().unwrap_or_else(PoisonError::into_inner))
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

pub(super) fn no_such_actor(actor: ActorId) -> Error {
    Error::new(ErrorKind::NoSuchActor, "the actor is not hosted here").with("actor", actor)
}
