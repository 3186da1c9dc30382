//! Nodes of metadata in one process, over links that can be cut. Shared by tests and benches.
#![allow(dead_code, reason = "each user needs a part of it")]

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{BuildHasher as _, RandomState},
    path::Path,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use mesh_core::{
    Entropy, Error, ErrorKind, Op, Outcome,
    envelope::{Body, Envelope},
    id::{ActorId, BucketId, Epoch, GroupId, LayoutId, NodeId, ReplicaId, TenantId, WriteId},
    meta::{
        Attributes, Body as ObjectBody, BucketRef, Command, Compression, Extent, MetaAnswer, ObjectCommand, ObjectRow,
        Precondition, Proposer, Query, Session, UpkeepCommand,
    },
    op::NodeOp,
    port::{CallGuard, Clock, Completion, Metadata, Outbound},
    time::{Instant, UnixMillis},
};
use mesh_dpu_runtime::metadata::{RaftConfig, RaftMetadata, Timing};
use tempfile::TempDir;
use tokio::sync::oneshot;

/// Short enough for tests, long enough for two busy cores.
pub(crate) const QUICK: Timing = Timing {
    heartbeat: Duration::from_millis(100),
    election_min: Duration::from_millis(500),
    election_max: Duration::from_millis(900),
};

/// tokio's clock.
pub(crate) struct TokioClock(tokio::time::Instant);

impl Default for TokioClock {
    fn default() -> Self {
        Self(tokio::time::Instant::now())
    }
}

impl Clock for TokioClock {
    fn now(&self) -> Instant {
        Instant(self.0.elapsed().as_nanos() as u64)
    }

    fn wall(&self) -> UnixMillis {
        UnixMillis(0)
    }
}

#[derive(Default)]
struct Wires {
    nodes: BTreeMap<NodeId, Arc<RaftMetadata>>,
    cut: BTreeSet<(NodeId, NodeId)>,
    swallowed: BTreeSet<(NodeId, NodeId)>,
    /// How long every chunk of a snapshot takes.
    snapshot_delay: Duration,
    /// Requests that were carried, by kind; and those that conflict with what is there.
    carried: BTreeMap<&'static str, u64>,
}

fn lock(wires: &Mutex<Wires>) -> MutexGuard<'_, Wires> {
    wires.lock().expect("nobody panics while wiring")
}

/// One node's way to the others.
struct Link {
    from: NodeId,
    wires: Arc<Mutex<Wires>>,
    clock: Arc<dyn Clock>,
}

impl Outbound for Link {
    fn send(&self, to: NodeId, envelope: Envelope, done: Completion<Outcome>) -> CallGuard {
        let (from, wires) = (self.from, Arc::clone(&self.wires));
        let deadline = self.clock.now() + Duration::from_micros(envelope.header.budget_us);
        let (target, delay) = {
            let mut wires = lock(&wires);
            let kind = match &envelope.header.body {
                Body::Request(Op::Node(op)) if !matches!(**op, NodeOp::Raft { .. }) => "relayed",
                Body::Request(Op::Node(op)) if matches!(**op, NodeOp::Raft { rpc: 4, .. }) => "snapshot",
                Body::Request(Op::Node(_)) => "raft",
                Body::Request(_) => "forwarded",
                _ => "other",
            };
            *wires.carried.entry(kind).or_default() += 1;
            let delay = if kind == "snapshot" { wires.snapshot_delay } else { Duration::ZERO };
            (if wires.cut.contains(&(from, to)) { None } else { wires.nodes.get(&to).cloned() }, delay)
        };
        if lock(&wires).swallowed.contains(&(from, to)) {
            // Completed when the sender gives up, as a link does it.
            let (budget, done) = (Duration::from_micros(envelope.header.budget_us), done);
            let task = tokio::spawn(async move {
                tokio::time::sleep(budget).await;
                done(Err(Error::new(ErrorKind::Timeout, "nothing came back")));
            });
            return CallGuard::new(move || task.abort());
        }
        let Some(target) = target else {
            done(Err(Error::new(ErrorKind::Unreachable, "the link is down")));
            return CallGuard::none();
        };
        let task = tokio::spawn(async move {
            tokio::time::sleep(delay).await;
            let outcome = match envelope.header.body {
                Body::Request(Op::Node(op)) => match *op {
                    NodeOp::Raft { group, rpc, .. } => target.handle_raft(group, rpc, envelope.payload).await,
                    op @ (NodeOp::RelayQuery { .. } | NodeOp::RelayPropose(_)) => target.relay(op, deadline).await,
                    _ => Err(Error::invalid("not here")),
                },
                Body::Request(op) => target.serve(op, deadline).await,
                _ => Err(Error::invalid("not a request")),
            };
            if outcome.as_ref().is_err_and(|error| error.kind() == ErrorKind::Conflict) {
                *lock(&wires).carried.entry("refused").or_default() += 1;
            }
            let cut = lock(&wires).cut.contains(&(to, from));
            done(if cut { Err(Error::new(ErrorKind::LinkLost, "the link was cut")) } else { outcome });
        });
        CallGuard::new(move || task.abort())
    }
}

/// What a replica's number and its waits are drawn from: each time something else.
pub(crate) fn entropy() -> Box<dyn Entropy> {
    struct Hashed(RandomState, u64);
    impl Entropy for Hashed {
        fn fill(&mut self, target: &mut [u8]) {
            for part in target.chunks_mut(8) {
                self.1 += 1;
                part.copy_from_slice(&self.0.hash_one(self.1).to_le_bytes()[..part.len()]);
            }
        }
    }
    Box::new(Hashed(RandomState::new(), 0))
}

/// Nodes, their files and their links.
pub(crate) struct Cluster {
    dir: TempDir,
    wires: Arc<Mutex<Wires>>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) config: RaftConfig,
}

impl Cluster {
    /// Nodes 1 to `nodes` with replicas of `groups` that know each other and have leaders.
    pub(crate) async fn start(nodes: u64, groups: &[u64], timing: Timing, snapshot_every: u64) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let config = RaftConfig {
            groups: groups.iter().copied().map(GroupId).collect(),
            peers: (1..=nodes).map(NodeId).collect(),
            timing,
            snapshot_every,
            log_keep: snapshot_every / 4,
            ..RaftConfig::new(NodeId(0), dir.path().to_owned())
        };
        let clock: Arc<dyn Clock> = Arc::new(TokioClock::default());
        let cluster = Self { dir, wires: Arc::default(), clock, config };
        for node in 1..=nodes {
            cluster.open(node, cluster.config.groups.clone()).await;
        }
        for (at, group) in cluster.config.groups.iter().enumerate() {
            let node = 1 + at as u64 % nodes;
            let members = (1..=nodes).filter_map(|node| cluster.node(node).replica_id(*group)).collect();
            cluster.node(node).initialize(*group, &members).await.expect("initialized");
        }
        cluster.settle().await;
        cluster
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Opens a node on its files.
    pub(crate) async fn open(&self, node: u64, groups: Vec<GroupId>) -> Arc<RaftMetadata> {
        self.try_open(node, groups).await.expect("opened")
    }

    /// The same, where it may not open.
    pub(crate) async fn try_open(&self, node: u64, groups: Vec<GroupId>) -> Result<Arc<RaftMetadata>, Error> {
        let id = NodeId(node);
        let dir = self.dir.path().join(node.to_string());
        let config = RaftConfig { node: id, home: dir.into(), groups, ..self.config.clone() };
        let link = Link { from: id, wires: Arc::clone(&self.wires), clock: Arc::clone(&self.clock) };
        let opened = RaftMetadata::start(config, Arc::new(link), Arc::clone(&self.clock), entropy()).await?;
        lock(&self.wires).nodes.insert(id, Arc::clone(&opened));
        Ok(opened)
    }

    /// Removes the files of a node that is away.
    pub(crate) fn empty(&self, node: u64) {
        std::fs::remove_dir_all(self.dir.path().join(node.to_string())).expect("removed");
    }

    /// The replica of a group that a node has.
    pub(crate) fn replica(&self, node: u64, group: u64) -> ReplicaId {
        self.node(node).replica_id(GroupId(group)).expect("a replica")
    }

    /// Takes a node away, cleanly.
    pub(crate) async fn close(&self, node: u64) {
        let gone = lock(&self.wires).nodes.remove(&NodeId(node));
        gone.expect("a node").shutdown().await;
    }

    pub(crate) fn node(&self, node: u64) -> Arc<RaftMetadata> {
        Arc::clone(&lock(&self.wires).nodes[&NodeId(node)])
    }

    pub(crate) fn nodes(&self) -> Vec<Arc<RaftMetadata>> {
        lock(&self.wires).nodes.values().cloned().collect()
    }

    /// How many requests of a kind the links carried.
    pub(crate) fn carried(&self, kind: &str) -> u64 {
        lock(&self.wires).carried.get(kind).copied().unwrap_or(0)
    }

    /// Makes every chunk of a snapshot take so long.
    pub(crate) fn slow_snapshots(&self, delay: Duration) {
        lock(&self.wires).snapshot_delay = delay;
    }

    /// Cuts every link of a node, both ways.
    pub(crate) fn isolate(&self, node: u64) {
        let mut wires = lock(&self.wires);
        let others: Vec<NodeId> = wires.nodes.keys().copied().collect();
        for other in others {
            wires.cut.insert((NodeId(node), other));
            wires.cut.insert((other, NodeId(node)));
        }
    }

    /// Cuts what one node sends to another; the other way stays.
    pub(crate) fn cut(&self, from: u64, to: u64) {
        lock(&self.wires).cut.insert((NodeId(from), NodeId(to)));
    }

    /// What one node sends to another is lost without a word.
    pub(crate) fn swallow(&self, from: u64, to: u64) {
        lock(&self.wires).swallowed.insert((NodeId(from), NodeId(to)));
    }

    pub(crate) fn heal(&self) {
        lock(&self.wires).cut.clear();
    }

    /// Waits until every group has one leader that all nodes know.
    pub(crate) async fn settle(&self) {
        until("every node knows the leaders", || {
            let leaders = |node: &Arc<RaftMetadata>| {
                node.status().into_iter().map(|one| (one.group, one.leader, one.term)).collect::<Vec<_>>()
            };
            let told: Vec<_> = self.nodes().iter().map(leaders).collect();
            let known = |status: &Vec<(GroupId, Option<NodeId>, u64)>| status.iter().all(|group| group.1.is_some());
            told.iter().all(known) && told.windows(2).all(|pair| pair[0] == pair[1])
        })
        .await;
    }

    /// The number of the node that leads a group.
    pub(crate) fn leader(&self, group: u64) -> u64 {
        let nodes = lock(&self.wires).nodes.clone();
        let leads = nodes.iter().find(|(_, node)| node.is_leader(GroupId(group)));
        leads.expect("a leader").0.0
    }
}

/// Waits until something holds, at most 20 seconds.
pub(crate) async fn until(what: &str, holds: impl Fn() -> bool) {
    let waited = tokio::time::timeout(Duration::from_secs(20), async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("never: {what}"));
}

pub(crate) async fn propose(
    node: &RaftMetadata,
    clock: &dyn Clock,
    command: impl Into<Command>,
    budget: Duration,
) -> Result<Arc<MetaAnswer>, Error> {
    let (done, answered) = oneshot::channel();
    let done = Box::new(move |answer| drop(done.send(answer)));
    Metadata::propose(node, Arc::new(command.into()), clock.now() + budget, done);
    answered.await.expect("every request is answered")
}

pub(crate) async fn query(
    node: &RaftMetadata,
    clock: &dyn Clock,
    group: u64,
    question: Query,
    budget: Duration,
) -> Result<Arc<MetaAnswer>, Error> {
    let (done, answered) = oneshot::channel();
    let done = Box::new(move |answer| drop(done.send(answer)));
    Metadata::query(node, GroupId(group), Arc::new(question), clock.now() + budget, done);
    answered.await.expect("every request is answered")
}

pub(crate) fn bucket(group: u64) -> BucketRef {
    BucketRef { id: BucketId(1), name: "bucket".into(), tenant: TenantId(1), group: GroupId(group) }
}

const fn session(life: u64) -> Session {
    Session { epoch: Epoch(1), life }
}

pub(crate) fn open_session(group: u64, actor: u64, life: u64) -> Command {
    Command::OpenSession { group: GroupId(group), actor: ActorId(actor), session: session(life) }
}

/// The command of a number of an actor's life; all before it are waited for still.
pub(crate) const fn proposer(actor: u64, life: u64, request: u64) -> Proposer {
    Proposer { actor: ActorId(actor), session: session(life), request, done_below: request.saturating_sub(12_000) }
}

pub(crate) fn open_block(group: u64, actor: u64, life: u64, request: u64) -> Command {
    Command::Upkeep(GroupId(group), UpkeepCommand::OpenBlock { proposer: proposer(actor, life, request) })
}

/// An object whose length tells it from others. The number of its write is the number of its command.
pub(crate) fn put_object(actor: u64, group: u64, key: &str, version: WriteId, len: u64) -> Command {
    put_as(proposer(actor, 1, 100 + (version.0 & 0xffff_ffff)), group, key, version, len)
}

pub(crate) fn put_as(proposer: Proposer, group: u64, key: &str, version: WriteId, len: u64) -> Command {
    let extent = Extent {
        write: version,
        len,
        stripe_bytes: 1 << 20,
        layout: LayoutId(1),
        key: None,
        runs: Vec::new(),
        compression: Compression::Off,
        code: None,
    };
    let row = ObjectRow {
        version,
        len,
        etag: format!("{len:032x}"),
        modified: UnixMillis(len),
        attributes: Attributes::default(),
        body: ObjectBody::Whole(extent),
    };
    Command::Object(
        bucket(group),
        ObjectCommand::PutObject {
            proposer,
            key: key.into(),
            row: row.into(),
            precondition: Precondition::default(),
            quota_bytes: None,
        },
    )
}

pub(crate) fn get_object(group: u64, key: &str) -> Query {
    Query::Object { bucket: bucket(group), key: key.into() }
}

/// The length of an object, if it is there.
pub(crate) fn len_of(answer: &Result<Arc<MetaAnswer>, Error>) -> Option<u64> {
    match answer.as_deref() {
        Ok(MetaAnswer::Object(row)) => Some(row.len),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        other => panic!("not about an object: {other:?}"),
    }
}

/// The first write of a block.
pub(crate) fn first_of(answer: &Result<Arc<MetaAnswer>, Error>) -> WriteId {
    match answer.as_deref() {
        Ok(MetaAnswer::Block { first, .. }) => *first,
        other => panic!("not a block: {other:?}"),
    }
}
