//! The metadata groups of a node, on Raft (openraft) over one durable store (sled).
//!
//! Owns a replica of each group that the node hosts, the store under them, and the way of requests to whoever leads.
//! Never decides what a command means: that is [`crate::metadata::state`]. openraft and sled are seen by nobody else.
//!
//! * `store` keeps bytes durable, one flusher for all groups; `log` is Raft's log and vote over it.
//! * `machine` is a group's state, `rows` its table, `image` and `staging` its snapshots, going and coming.
//! * `network` carries Raft's messages, `replica` joins the above, `route` finds the leader.

mod chunks;
mod image;
mod log;
mod machine;
mod network;
mod replica;
mod route;
mod rows;
mod staging;
mod store;
mod types;

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{Arc, PoisonError, RwLock, Weak},
    time::Duration,
};

use mesh_core::{
    Answer, Buf, Error, ErrorKind, Op, Outcome, Response,
    id::{GroupId, NodeId},
    limits::HEARTBEAT_INTERVAL,
    meta::ControlView,
    op::NodeOp,
    port::{Clock, Outbound},
    time::Instant,
};
use openraft::{
    SnapshotPolicy,
    errors::{ClientWriteError, InitializeError, RaftError},
};
use tokio::sync::{Semaphore, watch};

use self::{
    log::LogStore,
    machine::{GroupState, Machine},
    network::{Message, Router},
    replica::{Raft, Replica, no_such_group},
    route::{Ask, REQUESTS_MAX},
    store::Store,
};

/// How long [`RaftMetadata::shutdown`] waits for the last user of the store.
const SHUTDOWN_MAX: Duration = Duration::from_secs(5);

/// What a node's metadata needs to know.
#[derive(Clone, Debug)]
pub struct RaftConfig {
    /// This node.
    pub node: NodeId,
    /// Where its files are; made if it is not there.
    pub dir: PathBuf,
    /// The groups that it has a replica of from the start; see [`RaftMetadata::ensure_group`].
    pub groups: Vec<GroupId>,
    /// Who else may have replicas: asked for groups that this node has none of.
    pub peers: Vec<NodeId>,
    /// When things happen.
    pub timing: Timing,
    /// Entries between snapshots, which let the log be purged.
    pub snapshot_every: u64,
    /// Entries behind a snapshot that are kept for followers that lag.
    pub log_keep: u64,
}

impl RaftConfig {
    /// The defaults: conservative times, no groups.
    #[must_use]
    pub fn new(node: NodeId, dir: PathBuf) -> Self {
        let (groups, peers) = (Vec::new(), Vec::new());
        Self { node, dir, groups, peers, timing: Timing::default(), snapshot_every: 5000, log_keep: 1000 }
    }
}

/// When heartbeats are sent and elections begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Between two heartbeats of a leader.
    pub heartbeat: Duration,
    /// A follower that hears nothing calls an election after this long at least; several heartbeats.
    pub election_min: Duration,
    /// And after this long at most. A leader that was silent for so long has lost its lease.
    pub election_max: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            heartbeat: HEARTBEAT_INTERVAL,
            election_min: Duration::from_millis(3000),
            election_max: Duration::from_millis(6000),
        }
    }
}

/// The metadata groups of one node: the real [`mesh_core::port::Metadata`].
pub struct RaftMetadata {
    /// For the tasks that requests run in.
    me: Weak<Self>,
    node: NodeId,
    peers: Vec<NodeId>,
    timing: Timing,
    raft_config: Arc<openraft::Config>,
    store: Arc<Store>,
    router: Router,
    clock: Arc<dyn Clock>,
    runtime: tokio::runtime::Handle,
    permits: Arc<Semaphore>,
    groups: RwLock<BTreeMap<GroupId, Arc<Replica>>>,
    opening: tokio::sync::Mutex<()>,
    control: watch::Sender<Arc<ControlView>>,
}

impl core::fmt::Debug for RaftMetadata {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("RaftMetadata").field("node", &self.node).field("groups", &self.status()).finish_non_exhaustive()
    }
}

impl RaftMetadata {
    /// Opens the node's store and starts its groups, on the present tokio runtime.
    ///
    /// # Errors
    /// `Invalid` for a nonsensical configuration; `DriveFailed` or `Corrupt` if the store cannot be opened (its files
    /// are left as they are), `Conflict` if it is another node's.
    pub async fn start(
        config: RaftConfig,
        outbound: Arc<dyn Outbound>,
        clock: Arc<dyn Clock>,
    ) -> Result<Arc<Self>, Error> {
        let raft_config = Arc::new(raft_config(&config)?);
        let store = Arc::new(Store::open(&config.dir, config.node)?);
        let metadata = Arc::new_cyclic(|me| Self {
            me: Weak::clone(me),
            node: config.node,
            peers: config.peers.into_iter().filter(|peer| *peer != config.node).collect(),
            timing: config.timing,
            raft_config,
            store,
            // Half an election: a message that takes longer is as good as lost.
            router: Router::new(outbound, config.timing.election_min / 2),
            clock,
            runtime: tokio::runtime::Handle::current(),
            permits: Arc::new(Semaphore::new(REQUESTS_MAX)),
            groups: RwLock::default(),
            opening: tokio::sync::Mutex::default(),
            control: watch::Sender::default(),
        });
        for group in config.groups {
            metadata.ensure_group(group).await?;
        }
        Ok(metadata)
    }

    /// Opens a replica of a group, if there is none here yet. A new one waits for [`Self::initialize`] or to be added
    /// by the group's leader.
    ///
    /// # Errors
    /// `DriveFailed` or `Corrupt`: the store cannot be read.
    pub async fn ensure_group(&self, group: GroupId) -> Result<(), Error> {
        let _one_at_a_time = self.opening.lock().await;
        if self.replica(group).is_ok() {
            return Ok(());
        }
        let failed = |error: std::io::Error| {
            let kind = match error.kind() {
                std::io::ErrorKind::InvalidData => ErrorKind::Corrupt,
                _ => ErrorKind::DriveFailed,
            };
            Error::new(kind, "a metadata group cannot be opened; its files are kept")
                .with("group", group)
                .caused_by(error)
        };
        let log = LogStore::open(Arc::clone(&self.store), group).map_err(failed)?;
        let control = (group == GroupId::CONTROL).then(|| self.control.clone());
        let state = GroupState::open(Arc::clone(&self.store), group, control).map_err(failed)?;
        let machine = Machine(Arc::clone(&state));
        let network = self.router.for_group(group);
        let raft = Raft::new(self.node.0, Arc::clone(&self.raft_config), network, log, machine)
            .await
            .map_err(|error| failed(std::io::Error::other(error)))?;
        let replica = Arc::new(Replica::new(raft, state, self.timing.election_max));
        self.groups.write().unwrap_or_else(PoisonError::into_inner).insert(group, replica);
        Ok(())
    }

    /// Makes these nodes the group's first voters. To be called on one of them; again: no effect.
    ///
    /// # Errors
    /// `Unreachable` without a replica here, `Invalid` if this node is not among the members.
    pub async fn initialize(&self, group: GroupId, members: &BTreeSet<NodeId>) -> Result<(), Error> {
        let members: BTreeSet<u64> = members.iter().map(|node| node.0).collect();
        match self.replica(group)?.raft.initialize(members).await {
            Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
            Err(error) => Err(Error::invalid("the group cannot be initialized so").with("why", error)),
        }
    }

    /// Adds a replica that follows and does not vote. On the leader; comes back once it is in the log.
    ///
    /// # Errors
    /// `NotLeader`, `Conflict` while another change is under way.
    pub async fn add_learner(&self, group: GroupId, node: NodeId) -> Result<(), Error> {
        let changed = self.replica(group)?.raft.add_learner(node.0, (), false).await;
        changed.map(|_| ()).map_err(not_changed)
    }

    /// Makes exactly these nodes the voters; new ones must be learners. On the leader.
    ///
    /// # Errors
    /// As [`Self::add_learner`].
    pub async fn change_membership(&self, group: GroupId, voters: &BTreeSet<NodeId>) -> Result<(), Error> {
        let voters: BTreeSet<u64> = voters.iter().map(|node| node.0).collect();
        let changed = self.replica(group)?.raft.change_membership(voters, false).await;
        changed.map(|_| ()).map_err(not_changed)
    }

    /// Makes a learner a voter. On the leader.
    ///
    /// # Errors
    /// As [`Self::add_learner`].
    pub async fn promote(&self, group: GroupId, node: NodeId) -> Result<(), Error> {
        let voters = self.replica(group)?.voters().into_iter().chain([node]).collect();
        self.change_membership(group, &voters).await
    }

    /// The voters of a group, as far as this node knows; none without a replica here.
    #[must_use]
    pub fn voters(&self, group: GroupId) -> BTreeSet<NodeId> {
        self.replica(group).map_or_else(|_| BTreeSet::new(), |replica| replica.voters().into_iter().collect())
    }

    /// The members of a group that follow and do not vote, as far as this node knows.
    #[must_use]
    pub fn learners(&self, group: GroupId) -> BTreeSet<NodeId> {
        self.replica(group).map_or_else(|_| BTreeSet::new(), |replica| replica.learners().into_iter().collect())
    }

    /// The groups that this node has a replica of, with the leader as it knows and the term.
    #[must_use]
    pub fn status(&self) -> Vec<(GroupId, Option<NodeId>, u64)> {
        let groups = self.groups.read().unwrap_or_else(PoisonError::into_inner);
        groups.iter().map(|(group, replica)| (*group, replica.leader(), replica.term())).collect()
    }

    /// Whether this node leads a group, as far as it knows.
    #[must_use]
    pub fn is_leader(&self, group: GroupId) -> bool {
        self.replica(group).is_ok_and(|replica| replica.raft.is_leader())
    }

    /// Calls an election now, if no leader is heard of: at the start, once peers are connected, and when the link to
    /// the leader is lost. It asks first whether it would be elected, so it disturbs no leader that others hear.
    ///
    /// # Errors
    /// `Unreachable` without a replica here, or if it has stopped.
    pub async fn elect(&self, group: GroupId) -> Result<(), Error> {
        self.replica(group)?.raft.trigger().elect(true).await.map_err(|error| has_stopped(group, &error))
    }

    /// Hands a group's leadership over, if this node has it.
    ///
    /// # Errors
    /// As [`Self::elect`].
    pub async fn transfer_leader(&self, group: GroupId, to: NodeId) -> Result<(), Error> {
        self.replica(group)?.raft.trigger().transfer_leader(to.0).await.map_err(|error| has_stopped(group, &error))
    }

    /// A peer cannot be reached. If it leads a group, this node no longer holds others back from being elected there:
    /// a leader that everybody lost can be replaced by [`Self::elect`] at once, not after the longest silence.
    pub async fn peer_is_down(&self, peer: NodeId) {
        for replica in self.replicas() {
            if let Err(error) = replica.give_up_on(peer).await {
                tracing::debug!(group = %replica.state.group(), %error, "a stopped replica takes no hints");
            }
        }
    }

    /// A peer can be reached again: replication to it goes on at once.
    pub async fn peer_is_up(&self, peer: NodeId) {
        for replica in self.replicas() {
            if let Err(error) = replica.raft.trigger().reset_backoff([peer.0]).await {
                tracing::debug!(group = %replica.state.group(), %error, "a stopped replica takes no hints");
            }
        }
    }

    /// The control group's contents as they are applied here: may lag behind.
    #[must_use]
    pub fn control(&self) -> Arc<ControlView> {
        Arc::clone(&self.control.borrow())
    }

    /// As [`Self::control`], whenever it changes.
    #[must_use]
    pub fn watch_control(&self) -> watch::Receiver<Arc<ControlView>> {
        self.control.subscribe()
    }

    /// Answers a forwarded [`Op::Query`] or [`Op::Propose`] if this node leads the group; never forwards it again.
    pub async fn serve(&self, op: Op, deadline: Instant) -> Outcome {
        let (group, ask) = match op {
            Op::Query { group, query } => (group, Ask::Query(query)),
            Op::Propose { group, command } => (group, Ask::Propose(command)),
            _ => return Err(Error::invalid("metadata groups answer queries and proposals")),
        };
        let budget = deadline.after(self.clock.now());
        let answer = self.answer_here(group, &ask, budget).await?;
        Ok(Response::new(Answer::Meta(answer)))
    }

    /// Asks the leader for another node that cannot: [`NodeOp::RelayQuery`] or [`NodeOp::RelayPropose`].
    pub async fn relay(&self, op: NodeOp, deadline: Instant) -> Outcome {
        let (group, ask) = match op {
            NodeOp::RelayQuery { group, query } => (group, Ask::Query(query)),
            NodeOp::RelayPropose { group, command } => (group, Ask::Propose(command)),
            _ => return Err(Error::invalid("only queries and proposals are relayed")),
        };
        let budget = deadline.after(self.clock.now());
        let answer = self.pass_on(group, &ask, budget).await?;
        Ok(Response::new(Answer::Meta(answer)))
    }

    /// Answers another node's [`NodeOp::Raft`].
    pub async fn handle_raft(&self, group: GroupId, rpc: u32, payload: Buf) -> Outcome {
        let Some(message) = Message::from_number(rpc) else {
            return Err(Error::new(ErrorKind::Unsupported, "an unknown Raft message").with("number", rpc));
        };
        self.replica(group)?.receive(message, &payload).await
    }

    /// Stops every group, makes durable what is written, and closes the files.
    pub async fn shutdown(&self) {
        let replicas = core::mem::take(&mut *self.groups.write().unwrap_or_else(PoisonError::into_inner));
        let states: Vec<_> = replicas.values().map(|replica| Arc::downgrade(&replica.state)).collect();
        for replica in replicas.values() {
            if let Err(error) = replica.raft.shutdown().await {
                tracing::warn!(group = %replica.state.group(), %error, "a metadata group did not stop cleanly");
            }
        }
        drop(replicas);
        if let Err(error) = self.store.sync().await {
            tracing::warn!(%error, "the metadata store was not flushed at the end");
        }
        self.store.close();
        // Raft's tasks let go of the store a little after it says that it is down.
        let until = tokio::time::Instant::now() + SHUTDOWN_MAX;
        while states.iter().any(|state| state.strong_count() > 0) && tokio::time::Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    fn replica(&self, group: GroupId) -> Result<Arc<Replica>, Error> {
        let groups = self.groups.read().unwrap_or_else(PoisonError::into_inner);
        groups.get(&group).cloned().ok_or_else(|| no_such_group(group))
    }

    fn replicas(&self) -> Vec<Arc<Replica>> {
        self.groups.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}

fn raft_config(config: &RaftConfig) -> Result<openraft::Config, Error> {
    let millis = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    let timing = config.timing;
    openraft::Config {
        cluster_name: "mesh".into(),
        heartbeat_interval: millis(timing.heartbeat),
        election_timeout_min: millis(timing.election_min),
        election_timeout_max: millis(timing.election_max),
        max_payload_entries: 256,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(config.snapshot_every),
        replication_lag_threshold: config.snapshot_every.max(config.log_keep),
        max_in_snapshot_log_to_keep: config.log_keep,
        purge_batch_size: 256.min(config.snapshot_every),
        api_channel_size: Some(REQUESTS_MAX as u64),
        enable_pre_vote: Some(true),
        // A restarted leader that leads on without an election gave reads that were not linearizable.
        enable_leader_restore: Some(false),
        ..openraft::Config::default()
    }
    .validate()
    .map_err(|error| Error::invalid("the times of Raft do not fit together").with("why", error))
}

fn not_changed(error: RaftError<types::Types, ClientWriteError<types::Types>>) -> Error {
    let kind = match &error {
        RaftError::APIError(ClientWriteError::ForwardToLeader(_) | ClientWriteError::LogEntryDiscarded(_)) => {
            ErrorKind::NotLeader
        }
        RaftError::APIError(_) => ErrorKind::Conflict,
        RaftError::Fatal(_) => ErrorKind::Unreachable,
    };
    Error::new(kind, "the members of the metadata group were not changed").with("why", error)
}

fn has_stopped(group: GroupId, error: &impl core::fmt::Display) -> Error {
    Error::new(ErrorKind::Unreachable, "this replica of the metadata group has stopped")
        .with("group", group)
        .with("why", error)
}
