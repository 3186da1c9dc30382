//! One node of the mesh. What a node does is in the functions, and what it decides in [`mesh_placement::steward`]; here both
//! are given what they need.
//!
//! - [`owner`] tells the steward what has happened and has done what it wants: [`acts`], and [`chains`] for actors;
//! - [`gate`] lets in what links bring, [`own`] looks whether what is asked is about whoever asks, where that counts, and
//!   [`acquaintance`] asks whether who speaks may have a say;
//! - [`media`] opens, formats and registers drives;
//! - [`front`] serves S3;
//! - [`watching`] tells who watches the node what is counted on it, and how it is.

mod ability;
mod acquaintance;
mod acts;
mod chains;
mod clearing;
mod front;
pub(crate) mod gate;
mod losses;
pub(crate) mod media;
mod own;
mod owner;
pub(crate) mod watching;

use core::time::Duration;
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use mesh_actors::registry::{Make, Parts, Registry};
use mesh_core::{
    Error, ErrorKind, Outcome, Pool, Request, StorageFunction,
    audit::{By, Deed},
    happened::{Happened, Row},
    id::{ActorId, Epoch, GroupId, Incarnation, NodeId},
    meta::{Command, ControlView, Level, MeshCommand, MetaAnswer, Query},
    op::{Ability, NodeReport, STARTS_MAX},
    port::{Compute, Metadata as _, Outbound},
    snapshot::Snapshot,
    time::{Instant, UnixMillis},
    topology::{NodeInfo, NodeKind},
};
use mesh_dpu_runtime::{
    agent::Agent,
    load::{Load, Metered},
    metadata::{RaftConfig, RaftMetadata, Timing, is_cut_short},
    offload::{self, software::Software},
    shell::{Host, Ports},
};
use mesh_placement::steward::{Event, Outlook};
use mesh_transport::identity::Identity;
use tokio::{
    sync::{Notify, Semaphore, mpsc, watch},
    task::{AbortHandle, JoinSet},
};

pub(crate) use self::acts::{ask_node, ask_node_as};
use self::{gate::Gate, media::Media, owner::News};
use crate::{
    config::Config,
    env::{Env, Link, LinkSetup},
    founding::Founding,
    keyring::{Keyring, SharedKeyring},
};

/// Pages of a state that are given at once, at most: a million entries.
const STATE_PAGES_MAX: usize = 1024;
/// The folder of metadata in a node's data folder.
pub(crate) const METADATA: &str = "metadata";

/// A running node. Clones share it; it runs until [`Self::shutdown`].
#[derive(Clone)]
pub struct Node(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) id: NodeId,
    pub(crate) incarnation: Incarnation,
    /// The starts that the data folder remembers, this one last.
    starts: Vec<Incarnation>,
    /// Of its data folder; see [`NodeInfo::life`].
    life: u64,
    /// See [`NodeInfo::invitation`].
    invitation: u64,
    pub(crate) config: Config,
    pub(crate) env: Env,
    pub(crate) keyring: SharedKeyring,
    pub(crate) link: Arc<dyn Link>,
    pub(crate) metadata: Arc<RaftMetadata>,
    pub(crate) host: Host,
    pub(crate) agent: Agent,
    pub(crate) ability: Arc<Ability>,
    pub(crate) load: Arc<Load>,
    /// How functions are made.
    pub(crate) registry: Registry,
    pub(crate) pool: Pool,
    /// What has happened to actors and nodes, as the controller saw it.
    pub(crate) events: crate::events::Events,
    /// What the steward is told.
    inbox: mpsc::Sender<News>,
    /// Where plans are made, one at a time; and layouts, which take longer in a large mesh, and which no actor waits for.
    desk: Arc<Semaphore>,
    drawing_board: Arc<Semaphore>,
    /// What the steward knows.
    outlook: watch::Sender<Arc<Outlook>>,
    /// Something has changed here that the steward must see for itself, and others should know.
    changed: Notify,
    media: Mutex<Media>,
    s3: Mutex<Option<SocketAddr>>,
    losses: losses::Losses,
    /// What is whose.
    standing: own::Standing,
    /// Orders about who may use the mesh.
    pub(crate) orders: crate::access::Orders,
    front: Mutex<Option<front::Serving>>,
    /// It is not to serve S3 any more.
    front_closed: AtomicBool,
    /// Held while a drive's number is chosen.
    numbers: Mutex<()>,
    /// What its front end has counted.
    counted_front: watching::CountedFront,
    /// For who watches it; none: nobody does.
    watching: Mutex<Option<watching::Watching>>,
    /// When this start began.
    started: UnixMillis,
    turned: watching::Turned,
    /// It has been told to stop.
    leaving: AtomicBool,
    /// Why it serves nobody any more: it has been told that it is out of the mesh for good, or the mesh goes on without what it has.
    out: Mutex<Option<Error>>,
    stopping: watch::Sender<bool>,
    /// It has stopped; held by who stops it.
    stopped: tokio::sync::Mutex<bool>,
    tasks: Mutex<JoinSet<()>>,
}

impl core::fmt::Debug for Node {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Node {} {}", self.0.id, self.0.incarnation)
    }
}

/// Sets a node up. See [`Node::builder`].
pub struct Builder {
    config: Config,
    env: Option<Env>,
    identity: Option<Identity>,
    keyring: Option<SharedKeyring>,
    functions: Vec<(String, Make)>,
}

impl core::fmt::Debug for Builder {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Builder of {:?}", self.config.node.id())
    }
}

impl Builder {
    /// The world it lives in; the real one if none is given.
    #[must_use]
    pub fn env(mut self, env: Env) -> Self {
        self.env = Some(env);
        self
    }

    /// Who it is; read from `identity.pem` in its data folder if not given.
    #[must_use]
    pub fn identity(mut self, identity: Identity) -> Self {
        self.identity = Some(identity);
        self
    }

    /// Its keyring; read from `keyring.toml` in its data folder if not given.
    #[must_use]
    pub fn keyring(mut self, keyring: Keyring) -> Self {
        self.keyring = Some(Arc::new(keyring));
        self
    }

    /// Adds a kind of storage function of your own: `make` builds it from its settings. Nodes that are given the same
    /// kind may run it; [`Client::set_stages`](crate::Client::set_stages) puts it into data chains. See
    /// [the guide](crate::guide).
    #[must_use]
    pub fn function<F>(mut self, kind: &str, make: F) -> Self
    where
        F: Fn(&[u8], &Parts) -> Result<Box<dyn StorageFunction>, Error> + Send + Sync + 'static,
    {
        self.functions.push((kind.to_owned(), Arc::new(make)));
        self
    }

    /// Starts the node. It listens when this returns; it takes data once [`Node::ready`] says so.
    ///
    /// # Errors
    /// What is wrong with the configuration, the identity, the keyring, the listener or the metadata store. A drive
    /// that cannot be used is no error: the node starts without it and says so.
    pub async fn start(self) -> Result<Node, Error> {
        let config = self.config;
        config.check()?;
        let registry = registry(self.functions, &config)?;
        let env = match self.env {
            Some(env) => env,
            None => Env::real()?,
        };
        // First of all: who looks has an answer, however long the rest takes.
        let watching = match &config.watch {
            Some(watch) => Some(watching::Watching::begin(watch, &env).await?),
            None => None,
        };
        env.files.folder(&config.data).map_err(|error| {
            Error::new(ErrorKind::DriveFailed, "the data folder cannot be made")
                .with("folder", config.data.display())
                .caused_by(error)
        })?;
        let identity = match self.identity {
            Some(identity) => identity,
            None => Identity::load(&config.data.join(crate::provision::IDENTITY))?,
        };
        let keyring = match self.keyring {
            Some(keyring) => keyring,
            None => Arc::new(Keyring::load(&config.data.join(crate::provision::KEYRING))?),
        };
        let (id, pool) = (config.node.id(), Pool::default());
        if is_cut_short(&config.data.join(METADATA)) {
            let what = "metadata were being restored here, and that was cut short: say `mesh metadata restore` again, or \
                        `mesh metadata empty`, if the others have them";
            return Err(Error::new(ErrorKind::Conflict, what).with("folder", config.data.display()));
        }
        let starts = begin_start(&config.data, &env)?;
        let incarnation = starts.last().copied().unwrap_or_default();
        let life = life(&config.data, &env)?;
        let invitation = crate::provision::invitation(&config.data, &env)?;
        let (inbox, news) = mpsc::channel(owner::INBOX_MAX);
        let outlook = watch::channel(Arc::new(Outlook::new(id, env.clock.now()))).0;
        let gate = Arc::new(Gate::default());
        let setup = LinkSetup {
            address: config.address,
            identity,
            node: id,
            incarnation,
            cluster: keyring.cluster(),
            silence: config.timing.silence.0,
            clock: env.clock.clone(),
            entropy: env.entropy.clone(),
            pool: pool.clone(),
        };
        let link = env.links.bind(setup, gate.clone()).await?;
        let outbound: Arc<dyn Outbound> = link.clone();
        let metadata =
            RaftMetadata::start(raft(&config, &env, incarnation), outbound.clone(), env.clock.clone(), (env.entropy)())
                .await?;
        keyring.learn(&metadata.control());
        let load = Arc::new(Load::default());
        let ports = Ports {
            clock: env.clock.clone(),
            entropy: env.entropy.clone(),
            compute: compute(id, &env, (&keyring, &pool), &load)?,
            workers: env.workers.clone(),
            metadata: metadata.clone(),
            outbound,
        };
        let host = Host::new(id, ports);
        let ability = Arc::new(ability::of(&config, &env, &registry)?);
        let started = env.clock.wall();
        let inner = Arc::new_cyclic(|me| Inner {
            id,
            incarnation,
            starts,
            life,
            invitation,
            config,
            env,
            keyring,
            link,
            metadata,
            agent: Agent::new(host.clone(), chains::setups(me.clone())),
            host,
            ability,
            load,
            registry,
            pool,
            events: crate::events::Events::default(),
            inbox,
            desk: Arc::new(Semaphore::new(1)),
            drawing_board: Arc::new(Semaphore::new(1)),
            outlook,
            changed: Notify::new(),
            media: Mutex::default(),
            s3: Mutex::default(),
            losses: losses::Losses::default(),
            standing: own::Standing::default(),
            orders: crate::access::Orders::default(),
            front_closed: AtomicBool::new(false),
            front: Mutex::default(),
            numbers: Mutex::default(),
            counted_front: Mutex::default(),
            watching: Mutex::default(),
            started,
            turned: watching::Turned::default(),
            leaving: AtomicBool::new(false),
            out: Mutex::default(),
            stopping: watch::channel(false).0,
            stopped: tokio::sync::Mutex::default(),
            tasks: Mutex::default(),
        });
        gate.open(&inner);
        inner.turned.now(inner.env.clock.now());
        if let Some(watching) = watching {
            watching.open(&inner);
            *lock(&inner.watching) = Some(watching);
        }
        let node = Node(inner);
        node.begin(news).await?;
        Ok(node)
    }
}

/// The kinds of function that this program has, those of the configuration among them.
fn registry(own: Vec<(String, Make)>, config: &Config) -> Result<Registry, Error> {
    let mut registry = Registry::default();
    for (kind, make) in own {
        registry.register(&kind, make)?;
    }
    let unknown = |kind: &&String| !registry.kinds().any(|known| known == kind.as_str());
    if let Some(kind) = config.functions.iter().flatten().find(unknown) {
        let known: Vec<&str> = registry.kinds().collect();
        return Err(Error::invalid("the configuration allows a kind of function that this program does not have")
            .with("kind", kind)
            .with("known", known.join(", ")));
    }
    Ok(registry)
}

/// What the metadata replicas of a start need to know.
fn raft(config: &Config, env: &Env, start: Incarnation) -> RaftConfig {
    RaftConfig {
        start,
        level: env.level,
        snapshot_every: env.snapshot_every,
        log_keep: env.snapshot_every / 5,
        groups: vec![GroupId::CONTROL],
        peers: config.peers.iter().map(|peer| peer.node.id()).collect(),
        timing: Timing {
            heartbeat: config.timing.raft_heartbeat.0,
            election_min: config.timing.election_min.0,
            election_max: config.timing.election_max.0,
        },
        ..RaftConfig::new(config.node.id(), env.files.metadata(&config.data.join(METADATA)))
    }
}

/// What computes on this machine, metered.
fn compute(
    id: NodeId,
    env: &Env,
    (keyring, pool): (&SharedKeyring, &Pool),
    load: &Arc<Load>,
) -> Result<Arc<dyn Compute>, Error> {
    let software: Arc<dyn Compute> = Arc::new(Software::new(keyring.clone(), pool.clone()));
    let (compute, backend) = offload::accelerated(software);
    tracing::debug!(node = %id, %backend, "what computes here");
    let machine = env.machine.clone();
    Ok(Arc::new(Metered::new(compute, Arc::new(move || machine.thread_cpu()), load)?))
}

impl Node {
    /// Everything that a node does by itself, until it stops.
    async fn begin(&self, news: mpsc::Receiver<News>) -> Result<(), Error> {
        // First of all: what others say is heard from now on.
        self.0.spawn(owner::run(self.0.clone(), news));
        if self.0.config.s3.is_some() {
            front::serve(&self.0).await?;
        }
        media::begin(&self.0);
        Ok(())
    }

    /// Begins to set up a node.
    #[must_use]
    pub fn builder(config: Config) -> Builder {
        Builder { config, env: None, identity: None, keyring: None, functions: Vec::new() }
    }

    /// Its number.
    #[must_use]
    pub fn id(&self) -> NodeId {
        self.0.id
    }

    /// Where its mesh listener is.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.0.link.address()
    }

    /// Where its S3 front end listens, if it has one.
    #[must_use]
    pub fn s3_address(&self) -> Option<SocketAddr> {
        *lock(&self.0.s3)
    }

    /// Where those listen who watch it, if anybody does: the address of `/metrics`, `/healthz` and `/readyz`.
    #[must_use]
    pub fn watch_address(&self) -> Option<SocketAddr> {
        lock(&self.0.watching).as_ref().map(|watching| watching.address)
    }

    /// Says where another node is. What heartbeats tell later replaces it.
    pub fn set_peer(&self, node: NodeId, address: SocketAddr) {
        let as_of = self.0.env.starts_until_now();
        self.0.tell(Event::Given(node, address, as_of));
    }

    /// Makes the cluster, with this node as the only member to begin with, the founding tenant and its bucket.
    /// Repeating it has no effect.
    ///
    /// # Errors
    /// `Conflict` if the node's metadata are another cluster's; what metadata say.
    pub async fn found(&self, founding: &Founding) -> Result<(), Error> {
        crate::founding::found(&self.0, founding).await
    }

    /// How the nodes of the mesh are, as this one sees them.
    #[must_use]
    pub fn status(&self) -> Vec<Arc<NodeReport>> {
        self.0.status()
    }

    /// What the control group holds, as far as this node has applied it.
    #[must_use]
    pub fn control(&self) -> Arc<ControlView> {
        self.0.metadata.control()
    }

    /// What each of this node's metadata replicas has applied last, by its index, and a digest of its state: the same on every
    /// node that has applied the same.
    ///
    /// # Errors
    /// `Corrupt` where it cannot be read.
    pub fn metadata_digests(&self) -> Result<BTreeMap<GroupId, (u64, u128)>, Error> {
        self.0.metadata.digests()
    }

    /// Asks this node's ingress, as `request.principal`.
    pub fn ask(&self, request: Request) -> impl Future<Output = Outcome> + Send + 'static {
        self.0.host.request(ActorId::ingress(self.0.id), request)
    }

    /// Waits until this node can take data: every group has a leader, there is a layout, and this node sees enough
    /// drives up.
    ///
    /// # Errors
    /// `Timeout` with what is missing.
    pub async fn ready(&self, patience: Duration) -> Result<(), Error> {
        let mut outlook = self.0.outlook.subscribe();
        if let Ok(Ok(_)) = tokio::time::timeout(patience, outlook.wait_for(|known| known.missing.is_none())).await {
            return Ok(());
        }
        match &self.0.outlook().missing {
            None => Ok(()),
            Some(missing) => Err(Error::new(ErrorKind::Timeout, "the node is not ready")
                .with("node", self.0.id)
                .with("why", missing)),
        }
    }

    /// What has happened after the event of this number, as far as this node saw it while it led the control group; and the
    /// number of the last that is given.
    #[must_use]
    pub fn happened(&self, after: u64) -> (Vec<Row>, u64) {
        self.0.events.after(after)
    }

    /// The state of an actor that runs here under this epoch, as a move would carry it, page by page: for tests and tools.
    /// The actor goes on meanwhile, and a page says what changed since the one before it.
    ///
    /// # Errors
    /// `NoSuchActor` if it does not run here under this epoch; `TooLarge` over `STATE_PAGES_MAX` pages.
    pub async fn state(&self, actor: ActorId, epoch: Epoch) -> Result<Vec<Snapshot>, Error> {
        let (mut pages, mut since) = (Vec::new(), None);
        while pages.len() < STATE_PAGES_MAX {
            let page = self.0.host.snapshot(actor, epoch, since).await?;
            let more = page.more;
            since = Some(page.mark);
            pages.push(page);
            if !more {
                return Ok(pages);
            }
        }
        Err(Error::new(ErrorKind::TooLarge, "the state has more pages than are given at once")
            .with("pages", pages.len()))
    }

    /// Its data folder.
    #[must_use]
    pub fn data(&self) -> &Path {
        &self.0.config.data
    }

    /// Lets the S3 requests under way come to their end, for a bounded time, and takes no further ones. The rest of the
    /// node goes on: who stops several nodes at once does this on all of them first.
    pub async fn close_front(&self) {
        let front = {
            let mut front = lock(&self.0.front);
            self.0.front_closed.store(true, Ordering::Release);
            front.take()
        };
        if let Some(front) = front {
            front.close().await;
        }
    }

    /// Stops: S3 requests come to their end, see [`Self::close_front`]; others take over the groups that it leads, and a
    /// DPU lets its actors move to its host; then it takes no more requests, answers those in flight, closes drives, links
    /// and the metadata store. Nobody is waited for longer than `patience` in all, or than S3 requests take if that is longer.
    pub async fn shutdown(&self, patience: Duration) {
        let end = tokio::time::Instant::now() + patience;
        let left = || end.saturating_duration_since(tokio::time::Instant::now());
        self.close_front().await;
        // Not again: whoever gave up waiting before it was stopped may go on.
        if !self.0.leaving.swap(true, Ordering::AcqRel) {
            self.0.leave(left()).await;
        }
        self.0.stopping.send_replace(true);
        self.0.metadata.close_soon();
        // Whoever comes second waits for the end, or goes on where one that was given up has stopped.
        let mut stopped = self.0.stopped.lock().await;
        if *stopped {
            return;
        }
        let tasks = core::mem::take(&mut *lock(&self.0.tasks));
        front::wait(tasks, left() / 2).await;
        self.0.host.shutdown(left()).await;
        self.0.metadata.shutdown().await;
        self.0.link.close().await;
        // Last of all: it says until then that the node is stopping.
        let watching = lock(&self.0.watching).take();
        if let Some(watching) = watching {
            watching.close().await;
        }
        *stopped = true;
        tracing::info!(node = %self.0.id, "stopped");
    }
}

impl Inner {
    /// Runs `task` until the node stops.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        let mut tasks = lock(&self.tasks);
        // What has ended is forgotten, so that the set does not grow.
        while tasks.try_join_next().is_some() {}
        tasks.spawn(task)
    }

    /// Ends when the node is told to stop.
    pub(crate) fn stopped(&self) -> impl Future<Output = ()> + Send + 'static + use<> {
        let mut stopping = self.stopping.subscribe();
        async move {
            // The sender lives as long as the node: an error means it is gone, too.
            if stopping.wait_for(|stop| *stop).await.is_err() {
                tracing::debug!("the node is gone");
            }
        }
    }

    /// Proposes a command of the node's own and waits for the answer.
    pub(crate) async fn propose(&self, command: impl Into<Command>) -> Result<Arc<MetaAnswer>, Error> {
        let (answer, outcome) = tokio::sync::oneshot::channel();
        let deadline = self.env.clock.now() + PROPOSE_BUDGET;
        self.metadata.propose(Arc::new(command.into()), deadline, Box::new(move |outcome| drop(answer.send(outcome))));
        outcome.await.unwrap_or_else(|_| Err(Error::new(ErrorKind::Restarted, "metadata ended unasked")))
    }

    /// Asks a metadata group, wherever that is led.
    ///
    /// # Errors
    /// What the group says; `Timeout` at the deadline.
    pub(crate) async fn ask_group(
        &self,
        group: GroupId,
        query: Query,
        deadline: Instant,
    ) -> Result<Arc<MetaAnswer>, Error> {
        let (answer, outcome) = tokio::sync::oneshot::channel();
        self.metadata.query(group, Arc::new(query), deadline, Box::new(move |outcome| drop(answer.send(outcome))));
        outcome.await.unwrap_or_else(|_| Err(Error::new(ErrorKind::Draining, "this node's metadata are shutting down")))
    }

    /// Proposes what this node has decided because it leads the group: by itself, or not at all. Sent on, a decision of one
    /// that leads no more would come late, and of a time that is over.
    ///
    /// # Errors
    /// `NotLeader`, and as [`Self::propose`].
    pub(crate) async fn decide(&self, command: impl Into<Command>) -> Result<Arc<MetaAnswer>, Error> {
        self.metadata.propose_here(Arc::new(command.into()), PROPOSE_BUDGET).await
    }

    /// As [`Self::decide`], of what somebody has ordered: from the same step on the audit log says who, once all nodes know of that.
    ///
    /// # Errors
    /// As [`Self::decide`].
    pub(crate) async fn order(&self, by: &By, order: MeshCommand) -> Result<Arc<MetaAnswer>, Error> {
        if self.metadata.control().level < Level::AUDIT {
            return self.decide(order).await;
        }
        self.decide(Command::Ordered { by: by.clone(), at: self.env.clock.wall(), order }).await
    }

    /// Has the audit log say what somebody is about to do, where the mesh keeps one.
    ///
    /// # Errors
    /// As [`Self::decide`]: then it is not to be done.
    pub(crate) async fn have_noted(&self, by: &By, deed: Deed) -> Result<(), Error> {
        if self.metadata.control().level < Level::AUDIT {
            return Ok(());
        }
        let mut chance = [0; 8];
        (self.env.entropy)().fill(&mut chance);
        self.order(by, MeshCommand::Noted { deed, chance: u64::from_le_bytes(chance) }).await.map(drop)
    }

    /// Notes what has happened, as of what the control group has decided until now.
    pub(crate) fn note(&self, what: Happened) {
        let as_of = self.metadata.applied(GroupId::CONTROL).unwrap_or(0);
        self.events.note(as_of, self.env.clock.wall(), what);
    }

    /// Whether it has been told to stop and its actors are to go elsewhere: a host's have nowhere to go.
    fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Acquire) && self.kind() == NodeKind::Dpu
    }

    /// Says that this node is about to go, and waits until others lead what it led and, on a DPU, nothing runs here any more.
    async fn leave(&self, patience: Duration) {
        self.changed.notify_one();
        let mut outlook = self.outlook.subscribe();
        let given_away = outlook.wait_for(|known| known.leaves_nobody_unled());
        if tokio::time::timeout(patience.min(GIVE_AWAY_MAX), given_away).await.is_err() {
            tracing::warn!(node = %self.id, "stopping before somebody else leads all metadata groups: whoever misses this node sees to it");
        }
        if self.kind() != NodeKind::Dpu || self.outlook().sight.alive.len() < 2 {
            return;
        }
        let mut control = self.metadata.watch_control();
        let empty = control.wait_for(|view| !view.occupied().contains(&self.id));
        if tokio::time::timeout(patience.min(LEAVE_MAX), empty).await.is_err() {
            tracing::warn!(node = %self.id, "stopping with actors that nobody took over yet: those that may run elsewhere do once this node is missed");
        }
    }

    /// What it runs on.
    pub(crate) fn kind(&self) -> NodeKind {
        if self.config.dpu.is_some() { NodeKind::Dpu } else { NodeKind::Host }
    }

    /// This node, for the control group.
    pub(crate) fn info(&self) -> NodeInfo {
        NodeInfo {
            id: self.id,
            kind: self.kind(),
            address: self.link.address().to_string(),
            incarnation: self.incarnation,
            pid: self.env.machine.pid(),
            draining: false,
            attached_to: self.config.dpu.as_ref().map(|dpu| dpu.attached_to.id()),
            emulated: self.config.dpu.as_ref().and_then(|dpu| dpu.emulated),
            life: self.life,
            invitation: self.invitation,
            level: self.env.level,
            location: self.config.location.clone(),
        }
    }

    /// The same, as all nodes of the mesh can keep it now.
    pub(crate) fn info_for_all(&self) -> NodeInfo {
        let can = self.metadata.control().can(Level::PLACES).is_ok();
        NodeInfo { location: self.config.location.clone().filter(|_| can), ..self.info() }
    }

    /// Whether its drives knew this cluster before it started.
    pub(crate) async fn has_drives_of_ours(&self) -> bool {
        media::has_ours(self).await
    }

    /// Refuses while something is missing before it takes data.
    fn expect_ready(&self) -> Result<(), Error> {
        self.outlook().missing.clone().map_or(Ok(()), Err)
    }

    /// Refuses before this node has heard of everything that was decided before it started: of its own start, that is, which it
    /// has the control group write down.
    fn expect_current(&self) -> Result<(), Error> {
        let known = self.metadata.control().nodes.get(&self.id).map(|info| info.incarnation);
        if known == Some(self.incarnation) {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Draining, "this node has not heard yet of what was decided while it was away"))
    }

    /// How the nodes of the mesh are.
    pub(crate) fn status(&self) -> Vec<Arc<NodeReport>> {
        self.outlook().status(&self.metadata.control())
    }
}

/// The starts of a data folder, with one more.
fn begin_start(data: &Path, env: &Env) -> Result<Vec<Incarnation>, Error> {
    let path = data.join("incarnation");
    let failed = |error| {
        Error::new(
            ErrorKind::DriveFailed,
            "the data folder cannot be written: make room or mend its medium, then start again",
        )
        .with("file", path.display())
        .caused_by(error)
    };
    let kept = env.files.read(&path).map_err(failed)?;
    let text = kept.as_deref().and_then(crate::files::unsealed);
    if text.is_none() && kept.is_some() {
        // Others remember the last start, and say that this folder does not.
        tracing::error!(file = %path.display(), "the file of this node's starts fails its checksum and is begun anew");
    }
    let mut starts: Vec<Incarnation> =
        text.unwrap_or_default().split_whitespace().filter_map(|start| start.parse().ok()).map(Incarnation).collect();
    let last = starts.last().copied().unwrap_or_default();
    starts.push(env.new_start(last));
    starts.drain(..starts.len().saturating_sub(STARTS_MAX));
    let text: Vec<String> = starts.iter().map(|start| start.0.to_string()).collect();
    env.files.replace(&path, &crate::files::sealed(&text.join(" ")), 0o644).map_err(failed)?;
    Ok(starts)
}

/// The life of a data folder: made with it, and gone with it.
pub(crate) fn life(data: &Path, env: &Env) -> Result<u64, Error> {
    let path = data.join("life");
    let failed = |what: &'static str| Error::new(ErrorKind::DriveFailed, what).with("file", path.display());
    match env.files.read(&path) {
        Ok(Some(text)) => {
            crate::files::unsealed(&text).and_then(|life| u64::from_str_radix(life, 16).ok()).ok_or_else(|| {
                failed("the file that says which life this folder is of fails its checksum; put back a copy of it")
            })
        }
        Ok(None) => {
            let mut life = [0; 8];
            (env.entropy)().fill(&mut life);
            let life = u64::from_be_bytes(life);
            let kept = env.files.replace(&path, &crate::files::sealed(&format!("{life:016x}")), 0o600);
            kept.map_err(|error| failed("the data folder cannot be written").caused_by(error))?;
            Ok(life)
        }
        Err(error) => Err(failed("the data folder cannot be read").caused_by(error)),
    }
}

/// A lock whose holder panicked still guards whole values: each is replaced in one step.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Others lead what a stopping node led within this, or do once it is missed: an election takes a few messages and writes.
const GIVE_AWAY_MAX: Duration = Duration::from_secs(1);
/// Actors that a stopping DPU has are elsewhere within this, or run there once it is missed.
const LEAVE_MAX: Duration = Duration::from_secs(5);
const PROPOSE_BUDGET: Duration = Duration::from_secs(10);
