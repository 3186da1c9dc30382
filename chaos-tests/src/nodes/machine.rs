//! A machine: what outlives a node's process, and how one is started and ended.

use core::{net::SocketAddr, time::Duration};
use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, OnceLock, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};

use futures_util::{FutureExt as _, future::BoxFuture};
use mesh::{
    Node,
    config::{Config, DriveConfig},
    env::{Disks, Env, Files, Link, LinkSetup, Links, Machine as Here, Randomness},
    founding::Founding,
    keyring::Keyring,
};
use mesh_core::{
    Error, ErrorKind, Outcome, Pool,
    envelope::Envelope,
    id::{ClusterId, DriveId, Incarnation, NodeId},
    meta::Level,
    port::{CallGuard, Clock as _, Completion, Disk, Inbound, Outbound, Role},
    time::UnixMillis,
};
use mesh_dpu_runtime::{
    load::ProcessUse,
    metadata::{Home, MemoryHome},
    shell::Workers,
};
use mesh_transport::{
    MemoryFabric, MemoryLink,
    identity::{Authority, Identity, Validity},
};
use tokio::runtime::{Builder, RngSeed, Runtime};

use super::{
    air::Air,
    lock, log,
    medium::{Medium, Opened},
    street::Street,
    time::{NodeClock, RoomTime},
};
use crate::random::Stream;

/// The cluster of every room.
pub(super) const CLUSTER: ClusterId = ClusterId(*b"the room's mesh.");

/// Whether one start of a node still has any effect, and how many steps it has left.
pub(super) struct Life {
    fabric: MemoryFabric,
    kept: Weak<Kept>,
    alive: AtomicBool,
    /// Of its link.
    start: AtomicU64,
    /// Steps outwards so far: disk jobs, flushes, messages.
    steps: AtomicU64,
    /// The step that is its last one.
    last: AtomicU64,
    /// With the power.
    power: AtomicBool,
}

impl Life {
    pub(super) fn is_alive(&self) -> bool {
        self.alive.load(Relaxed)
    }

    /// It is about to do something that others can see. Whether it still can.
    pub(super) fn step(&self) -> bool {
        let step = self.steps.fetch_add(1, Relaxed) + 1;
        if step >= self.last.load(Relaxed) {
            self.end();
        }
        self.is_alive()
    }

    /// It dies with the so-manieth step from now on.
    pub(super) fn dies_after(&self, steps: u64, power: bool) {
        self.power.store(power, Relaxed);
        self.last.store(self.steps.load(Relaxed) + steps, Relaxed);
    }

    /// From now on nothing that it does has any effect.
    fn end(&self) {
        if self.alive.swap(false, Relaxed) {
            match self.start() {
                // It did not come to listen.
                0 => {}
                start => self.fabric.vanish(start),
            }
            if let Some(kept) = self.kept.upgrade() {
                kept.crash(self.power.load(Relaxed));
            }
        }
    }

    pub(super) fn start(&self) -> u64 {
        self.start.load(Relaxed)
    }
}

/// What is on a machine's media.
struct Kept {
    files: Mutex<BTreeMap<PathBuf, String>>,
    home: MemoryHome,
    media: Mutex<BTreeMap<PathBuf, Arc<Medium>>>,
    dice: Mutex<Stream>,
}

impl Kept {
    fn crash(&self, power: bool) {
        let written = !power && lock(&self.dice).chance(500);
        self.home.crash(written);
        for medium in self.media() {
            medium.crash(power);
        }
    }

    /// The media that are there, or were and have not been taken out.
    fn media(&self) -> Vec<Arc<Medium>> {
        lock(&self.media).values().cloned().collect()
    }

    fn medium(&self, path: &Path) -> Option<Arc<Medium>> {
        lock(&self.media).get(path).filter(|medium| medium.is_there()).cloned()
    }
}

/// A machine.
pub(super) struct Machine {
    pub(super) config: Config,
    seed: u64,
    kept: Arc<Kept>,
    /// Whoever lives here now; the metadata's steps ask it.
    current: Arc<Mutex<Option<Arc<Life>>>>,
    /// How far its wall clock is ahead.
    ahead_ms: u64,
    starts: u64,
    /// Of the build that is started here next.
    pub(super) level: Level,
    pub(super) running: Option<Running>,
}

/// A node's process.
pub(super) struct Running {
    pub(super) runtime: Runtime,
    pub(super) life: Arc<Life>,
    started: Arc<Mutex<Option<Result<Node, Error>>>>,
    began: tokio::time::Instant,
    /// How far its own clock has come.
    own: Duration,
}

/// What all machines of a room share.
pub(super) struct Shared {
    pub(super) seed: u64,
    pub(super) time: Arc<RoomTime>,
    pub(super) fabric: MemoryFabric,
    pub(super) foundings: Vec<Founding>,
    pub(super) snapshot_every: u64,
    pub(super) functions: Vec<Own>,
    /// For QUIC; none: links are in memory.
    pub(super) air: Option<Arc<Air>>,
    pub(super) street: Arc<Street>,
}

/// A kind of function of the embedding program, and how it is made.
pub(super) type Own = (String, mesh_actors::registry::Make);

impl Machine {
    pub(super) fn new(shared: &Shared, config: Config, ahead_ms: u64, level: Level) -> Self {
        let (seed, node) = (shared.seed, config.node.id());
        let current: Arc<Mutex<Option<Arc<Life>>>> = Arc::default();
        let dice = Mutex::new(Stream::new(seed, "flush", node.0));
        let living = current.clone();
        let latency = Arc::new(move || {
            let life = lock(&living).clone();
            if let Some(life) = life {
                life.step();
            }
            Duration::from_millis(lock(&dice).below(3))
        });
        let media = config.drives.iter().enumerate().map(|(at, drive)| {
            let dice = Stream::new(seed, "medium", node.0 * 100 + at as u64);
            (drive.path.clone(), Medium::new(drive.capacity.map_or(0, |size| size.0), dice))
        });
        let kept = Kept {
            files: Mutex::default(),
            home: MemoryHome::new(latency),
            media: Mutex::new(media.collect()),
            dice: Mutex::new(Stream::new(seed, "kept", node.0)),
        };
        Self { config, seed, kept: Arc::new(kept), current, ahead_ms, starts: 0, level, running: None }
    }

    pub(super) fn id(&self) -> NodeId {
        self.config.node.id()
    }

    /// Its metadata, which outlive its processes.
    pub(super) fn metadata(&self) -> &MemoryHome {
        &self.kept.home
    }

    pub(super) fn media(&self) -> Vec<Arc<Medium>> {
        self.kept.media()
    }

    /// Somebody puts an empty drive there, in place of what was.
    pub(super) fn put_in(&self, path: PathBuf, capacity_bytes: u64) {
        let mut media = lock(&self.kept.media);
        let dice = Stream::new(self.seed, "medium", self.id().0 * 100 + 50 + media.len() as u64);
        media.insert(path, Medium::new(capacity_bytes, dice));
    }

    /// Where a drive is that its node gave this number: whichever is opened first gets the first.
    pub(super) fn path_of(&self, drive: DriveId) -> Option<PathBuf> {
        let files = lock(&self.kept.files);
        let numbers = files.get(&self.config.data.join("drives"))?;
        let of_it = |line: &str| {
            let (number, path) = line.split_once(' ')?;
            (number.split('?').next()?.parse() == Ok(drive.0)).then(|| PathBuf::from(path))
        };
        numbers.lines().find_map(of_it)
    }

    /// Somebody takes a drive away, for good.
    pub(super) fn pull(&self, drive: DriveId) {
        if let Some(medium) = self.path_of(drive).and_then(|path| self.kept.medium(&path)) {
            medium.pull();
        }
    }

    /// Whoever sets it up puts a file there.
    pub(super) fn provide(&self, path: PathBuf, contents: String) {
        lock(&self.kept.files).insert(path, contents);
    }

    /// Starts the node, unless it runs.
    pub(super) fn power_on(&mut self, shared: &Shared) -> io::Result<()> {
        if self.running.is_some() {
            return Ok(());
        }
        self.starts += 1;
        let (node, which) = (self.id(), self.id().0 << 20 | self.starts);
        let runtime = runtime(self.seed, which)?;
        let life = Arc::new(Life {
            fabric: shared.fabric.clone(),
            kept: Arc::downgrade(&self.kept),
            alive: AtomicBool::new(true),
            start: AtomicU64::new(0),
            steps: AtomicU64::new(0),
            last: AtomicU64::new(u64::MAX),
            power: AtomicBool::new(false),
        });
        *lock(&self.current) = Some(life.clone());
        let began = {
            let _inside = runtime.enter();
            tokio::time::Instant::now()
        };
        let wall = UnixMillis(shared.time.wall().0 + self.ahead_ms);
        let env = self.env(shared, which, NodeClock { began, wall }, &life);
        let mut keys = Stream::new(self.seed, "keyring", 0);
        let mut builder = Node::builder(self.config.clone())
            .env(env)
            .identity(identity(&Role::Node(node)).map_err(io::Error::other)?)
            .keyring(Keyring::create(CLUSTER, &mut keys));
        for (kind, make) in &shared.functions {
            let make = make.clone();
            builder = builder.function(kind, move |settings, parts| make(settings, parts));
        }
        let started: Arc<Mutex<Option<Result<Node, Error>>>> = Arc::default();
        let (slot, bootstrap) = (started.clone(), self.config.bootstrap);
        let foundings = shared.foundings.clone();
        runtime.spawn(async move {
            let node = builder.start().await;
            *lock(&slot) = Some(node.clone());
            let Ok(node) = node else { return };
            // At each start, as a program may: repeating it has no effect.
            if bootstrap {
                for founding in &foundings {
                    while node.found(founding).await.is_err() {
                        tokio::time::sleep(Duration::from_millis(500)).await;
                    }
                }
            }
        });
        self.running = Some(Running { runtime, life, started, began, own: Duration::ZERO });
        Ok(())
    }

    /// Ends the process without a word. Gives the start of its link.
    pub(super) fn kill(&mut self, power: bool) -> Option<u64> {
        let running = self.running.take()?;
        running.life.power.store(power, Relaxed);
        running.life.end();
        let start = running.life.start();
        *lock(&self.current) = None;
        Some(start)
    }

    fn env(&self, shared: &Shared, which: u64, clock: NodeClock, life: &Arc<Life>) -> Env {
        let (seed, taken) = (self.seed, AtomicU64::new(0));
        let entropy: Randomness = Arc::new(move || {
            let taker = taken.fetch_add(1, Relaxed);
            Box::new(Stream::new(seed, "node", which << 24 | taker))
        });
        let (kept, life, time) = (self.kept.clone(), life.clone(), shared.time.clone());
        let doorways = shared.street.doorways(life.clone());
        Env {
            clock: Arc::new(clock),
            entropy,
            disks: Arc::new(Bays { kept: kept.clone(), life: life.clone(), time }),
            files: Arc::new(Folder { kept, life: life.clone() }),
            links: Arc::new(Wiring { fabric: shared.fabric.clone(), air: shared.air.clone(), life }),
            doorways,
            workers: Workers::inline(),
            machine: Arc::new(Fixed),
            calibrates: false,
            level: self.level,
            snapshot_every: shared.snapshot_every,
        }
    }
}

impl Running {
    /// Lets it live until its own clock shows `until` since its start. `at_once`: it has slept, and all of the time has
    /// passed in one step.
    pub(super) fn live(&mut self, until: Duration, at_once: bool) {
        let slept = until.saturating_sub(self.own);
        let target = self.began + until;
        let lived = async {
            if at_once {
                tokio::time::advance(slept).await;
            }
            tokio::time::sleep_until(target).await;
        };
        log::spoken_by(&self.life, || self.runtime.block_on(lived));
        self.own = until;
    }

    /// The node, once it has started.
    pub(super) fn node(&self) -> Option<Result<Node, Error>> {
        lock(&self.started).clone()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Whatever its tasks do while they are dropped has no effect.
        self.life.end();
    }
}

/// A runtime whose time stands still unless the room drives it.
pub(super) fn runtime(seed: u64, which: u64) -> io::Result<Runtime> {
    let mut bytes = [0; 32];
    mesh_core::Entropy::fill(&mut Stream::new(seed, "runtime", which), &mut bytes);
    Builder::new_current_thread().enable_time().start_paused(true).rng_seed(RngSeed::from_bytes(&bytes)).build()
}

/// Certificates: each is made once a process. Over memory links nobody looks at them.
pub(super) fn identity(role: &Role) -> Result<Identity, Error> {
    static AUTHORITY: OnceLock<Result<Authority, Error>> = OnceLock::new();
    static ISSUED: Mutex<BTreeMap<String, Identity>> = Mutex::new(BTreeMap::new());
    let authority = AUTHORITY.get_or_init(|| Authority::create(CLUSTER)).as_ref().map_err(Clone::clone)?;
    let mut issued = lock(&ISSUED);
    let name = format!("{role:?}");
    if let Some(identity) = issued.get(&name) {
        return Ok(identity.clone());
    }
    let validity = Validity::starting(RoomTime::default().wall(), Duration::from_secs(3600));
    let identity = authority.issue(role, validity)?;
    issued.insert(name, identity.clone());
    Ok(identity)
}

/// A machine that nothing is measured on.
struct Fixed;

impl Here for Fixed {
    fn cores(&self) -> usize {
        16
    }

    fn memory_bytes(&self) -> Option<u64> {
        Some(64 << 30)
    }

    fn used(&self) -> ProcessUse {
        ProcessUse::default()
    }

    fn thread_cpu(&self) -> Duration {
        Duration::ZERO
    }

    fn pid(&self) -> u32 {
        1
    }
}

struct Bays {
    kept: Arc<Kept>,
    life: Arc<Life>,
    time: Arc<RoomTime>,
}

impl Disks for Bays {
    fn open(&self, drive: &DriveConfig, _: &Pool) -> Result<Arc<dyn Disk>, Error> {
        let medium = self.kept.medium(&drive.path);
        let medium = medium.ok_or_else(|| Error::new(ErrorKind::DriveFailed, "there is no such drive"))?;
        Ok(Arc::new(Opened { medium, life: self.life.clone(), time: self.time.clone() }))
    }

    fn is_present(&self, path: &Path) -> bool {
        self.kept.medium(path).is_some()
    }
}

struct Folder {
    kept: Arc<Kept>,
    life: Arc<Life>,
}

impl Files for Folder {
    fn folder(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn read(&self, path: &Path) -> io::Result<Option<String>> {
        Ok(lock(&self.kept.files).get(path).cloned())
    }

    fn replace(&self, path: &Path, contents: &str, _: u32) -> io::Result<()> {
        if !self.life.step() {
            return Err(io::Error::other("the machine is off"));
        }
        lock(&self.kept.files).insert(path.to_owned(), contents.to_owned());
        Ok(())
    }

    fn metadata(&self, _: &Path) -> Home {
        Home::Memory(self.kept.home.opened())
    }
}

struct Wiring {
    fabric: MemoryFabric,
    air: Option<Arc<Air>>,
    life: Arc<Life>,
}

impl Links for Wiring {
    fn bind(&self, setup: LinkSetup, inbound: Arc<dyn Inbound>) -> BoxFuture<'static, Result<Arc<dyn Link>, Error>> {
        let (fabric, air, life) = (self.fabric.clone(), self.air.clone(), self.life.clone());
        async move {
            if !life.is_alive() {
                return Err(Error::new(ErrorKind::Unreachable, "the machine is off"));
            }
            if let Some(air) = air {
                return mesh::quic::on(air.socket(setup.address, Some(life)), setup, inbound);
            }
            let inbound = Arc::new(Doorstep { inbound, life: life.clone() });
            let link = fabric.listen(setup.node, setup.incarnation, setup.address, inbound)?;
            life.start.store(link.start(), Relaxed);
            Ok(Arc::new(Cable { link, fabric, life, address: setup.address }) as Arc<dyn Link>)
        }
        .boxed()
    }
}

/// Lets requests in, and answers out while the process lives.
struct Doorstep {
    inbound: Arc<dyn Inbound>,
    life: Arc<Life>,
}

impl Inbound for Doorstep {
    fn deliver(&self, from: &Role, envelope: Envelope, done: Completion<Outcome>) -> CallGuard {
        let life = self.life.clone();
        let answered = Box::new(move |outcome| {
            if life.step() {
                done(outcome);
            }
        });
        self.inbound.deliver(from, envelope, answered)
    }
}

/// A node's link.
struct Cable {
    link: Arc<MemoryLink>,
    fabric: MemoryFabric,
    life: Arc<Life>,
    address: SocketAddr,
}

impl Outbound for Cable {
    fn send(&self, to: NodeId, envelope: Envelope, done: Completion<Outcome>) -> CallGuard {
        self.life.step();
        self.link.send(to, envelope, done)
    }
}

impl Link for Cable {
    fn address(&self) -> SocketAddr {
        self.address
    }

    fn set_peer(&self, node: NodeId, address: SocketAddr) {
        self.link.set_peer(node, address);
    }

    fn restarted(&self, node: NodeId, incarnation: Incarnation) {
        self.link.restarted(node, incarnation);
    }

    fn close(&self) -> BoxFuture<'static, ()> {
        let (fabric, start) = (self.fabric.clone(), self.link.start());
        async move {
            fabric.lost(start);
            fabric.vanish(start);
        }
        .boxed()
    }
}
