//! The metadata groups of a node, on Raft (openraft) over one durable store (sled; in a simulation memory that keeps the same
//! promises).
//!
//! Owns a replica of each group that the node hosts, the store under them, and the way of requests to whoever leads.
//! Never decides what a command means: that is [`mesh_actors::metadata::state`]. openraft and sled are seen by nobody else.
//!
//! * `store` keeps bytes durable, one flusher for all groups, in the `trees` of a `home`; `log` is Raft's log and vote over it.
//! * `machine` is a group's state, `rows` its table, `image` and `staging` its snapshots, going and coming.
//! * `network` carries Raft's messages, `replica` joins the above, `route` finds the leader, `retire` ends a replica, `force`
//!   has one go on alone, `backup` reads them and makes them anew, and `report` says how they are. `line` tells those that went
//!   through a recovery from those that did not, and `figures` counts what is asked of them.

mod backup;
mod chunks;
mod figures;
mod files;
mod flush;
mod force;
mod home;
mod image;
mod judge;
mod line;
mod log;
mod machine;
mod mark;
mod network;
mod replica;
mod report;
mod retire;
mod route;
mod rows;
mod runtime;
mod staging;
mod store;
mod trees;
mod types;

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use mesh_core::{
    Answer, Buf, Entropy, Error, ErrorKind, Op, Outcome, Response,
    id::{GroupId, Incarnation, NodeId, ReplicaId},
    limits::HEARTBEAT_INTERVAL,
    meta::{Command, ControlView, LEVEL, Level, MetaAnswer},
    op::NodeOp,
    port::{Clock, Outbound},
    time::Instant,
    topology::KnownReplicas,
};
use openraft::{
    ChangeMembers, SnapshotPolicy,
    errors::{ClientWriteError, InitializeError, RaftError},
};
use tokio::sync::{Semaphore, watch};

use self::{
    backup::Readings,
    force::Forced,
    log::LogStore,
    machine::{GroupState, Machine},
    network::{Head, Message, Router, names_timelines},
    replica::{Raft, Replica, no_such_group},
    route::{Ask, Led, REQUESTS_MAX},
    runtime::Dice,
    store::{Health, Store},
    types::beyond,
};

pub use self::{
    backup::{Restore, is_cut_short, set_aside},
    flush::Latency,
    home::{Home, MemoryHome},
};

/// Entries between snapshots, where nobody wants it otherwise.
pub const SNAPSHOT_EVERY: u64 = 5000;
/// How long [`RaftMetadata::shutdown`] waits for the last user of the store.
const SHUTDOWN_MAX: Duration = Duration::from_secs(5);

/// What a node's metadata needs to know.
#[derive(Clone, Debug)]
pub struct RaftConfig {
    /// This node.
    pub node: NodeId,
    /// Its start, which its messages name.
    pub start: Incarnation,
    /// What its build can do.
    pub level: Level,
    /// Where they are.
    pub home: Home,
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
    pub fn new(node: NodeId, home: impl Into<Home>) -> Self {
        let (groups, peers) = (Vec::new(), Vec::new());
        Self {
            node,
            start: Incarnation::default(),
            level: LEVEL,
            home: home.into(),
            groups,
            peers,
            timing: Timing::default(),
            snapshot_every: SNAPSHOT_EVERY,
            log_keep: SNAPSHOT_EVERY / 5,
        }
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
    level: Level,
    /// It was said that a build, this one or another's, is older than what the mesh does.
    told_of_age: AtomicBool,
    peers: Vec<NodeId>,
    timing: Timing,
    raft_config: Arc<openraft::Config>,
    dice: Dice,
    /// Another one after [`Self::renew`].
    store: RwLock<Arc<Store>>,
    router: Router,
    clock: Arc<dyn Clock>,
    runtime: tokio::runtime::Handle,
    permits: Arc<Semaphore>,
    groups: RwLock<BTreeMap<GroupId, Arc<Replica>>>,
    /// Groups whose replica here is damaged: it neither votes nor serves.
    damaged: Mutex<BTreeMap<GroupId, (ReplicaId, Error)>>,
    opening: Arc<tokio::sync::Mutex<()>>,
    readings: Mutex<Readings>,
    led: Led,
    /// Who has a replica of what, for who looks for one.
    replicas: KnownReplicas,
    control: watch::Sender<Arc<ControlView>>,
    /// The control group is told of from this entry on: see [`Self::renew`].
    publish_from: AtomicU64,
    /// See [`Self::close_soon`].
    closing: AtomicBool,
    figures: figures::Figures,
    remembered: Vec<(NodeId, std::net::SocketAddr)>,
}

impl core::fmt::Debug for RaftMetadata {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("RaftMetadata").field("node", &self.node).field("groups", &self.status()).finish_non_exhaustive()
    }
}

impl RaftMetadata {
    /// Up to where this node's replica of a group has applied its log; none: nothing yet.
    #[must_use]
    pub fn applied(&self, group: GroupId) -> Option<u64> {
        self.replica(group).ok().and_then(|replica| replica.state.applied_index())
    }

    /// Up to where this node's replica of a group has purged its log; none: it has all of it.
    #[must_use]
    pub fn purged(&self, group: GroupId) -> Option<u64> {
        self.replica(group).ok().and_then(|replica| replica.purged_index())
    }

    /// Opens the node's store and starts its groups, on the present tokio runtime. `entropy` is what the numbers of replicas and
    /// the waits before elections are drawn from.
    ///
    /// # Errors
    /// `Invalid` for a nonsensical configuration; `DriveFailed` or `Corrupt` if the store cannot be opened (its files
    /// are left as they are), `Conflict` if it is another node's, `Unsupported` if it is of another format, or of a mesh
    /// that does what this build cannot.
    pub async fn start(
        config: RaftConfig,
        outbound: Arc<dyn Outbound>,
        clock: Arc<dyn Clock>,
        entropy: Box<dyn Entropy>,
    ) -> Result<Arc<Self>, Error> {
        let raft_config = Arc::new(raft_config(&config)?);
        let dice = Dice::new(entropy);
        let store = Arc::new(Store::open(config.home.clone(), config.node, dice.clone())?);
        let remembered = Forced::go_on(&store);
        let store = RwLock::new(store);
        let control = watch::Sender::default();
        let metadata = Arc::new_cyclic(|me| Self {
            me: Weak::clone(me),
            node: config.node,
            level: config.level,
            told_of_age: AtomicBool::new(false),
            peers: config.peers.into_iter().filter(|peer| *peer != config.node).collect(),
            timing: config.timing,
            raft_config,
            dice,
            store,
            // Half an election: a message that takes longer is as good as lost.
            router: Router::new(
                outbound,
                (config.start, config.level),
                control.subscribe(),
                config.timing.election_min / 2,
            ),
            clock,
            runtime: tokio::runtime::Handle::current(),
            permits: Arc::new(Semaphore::new(REQUESTS_MAX)),
            groups: RwLock::default(),
            damaged: Mutex::default(),
            opening: Arc::default(),
            readings: Mutex::default(),
            led: Led::default(),
            replicas: KnownReplicas::default(),
            control,
            publish_from: AtomicU64::new(0),
            closing: AtomicBool::new(false),
            figures: figures::Figures::default(),
            remembered,
        });
        for group in config.groups {
            metadata.ensure_group(group).await?;
        }
        Ok(metadata)
    }

    /// Opens a replica of a group, if there is none here yet. A new one waits for [`Self::initialize`] or to be added
    /// by the group's leader. One that lacks something of what it has promised, or holds something else, stays closed:
    /// its group says so in [`Self::status`], and [`Self::renew`] puts a new one in its place.
    ///
    /// # Errors
    /// `DriveFailed`: the store cannot be read or written. `Unsupported`: the mesh does what this build cannot.
    pub async fn ensure_group(&self, group: GroupId) -> Result<(), Error> {
        let _one_at_a_time = self.opening.lock().await;
        if self.replica(group).is_ok() || self.damage(group).is_some() {
            return Ok(());
        }
        match self.open(group).await {
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                if !self.store().held().contains(&group) {
                    tracing::error!(
                        node = %self.node, %group, %error,
                        "this node's replica of a metadata group is damaged: it neither votes nor serves; its files are \
                         kept, and it is rebuilt once a majority of the others is there"
                    );
                }
                let replica = self.store().replica(group).unwrap_or_else(|_| ReplicaId::new(self.node, 0));
                lock(&self.damaged).insert(group, (replica, error));
                Ok(())
            }
            opened => opened,
        }
    }

    async fn open(&self, group: GroupId) -> Result<(), Error> {
        let store = self.store();
        let opened = self.open_in(&store, group).await;
        match store.health(group) {
            Health::Damaged(error) => Err(error),
            Health::Sound | Health::New => opened,
        }
    }

    async fn open_in(&self, store: &Arc<Store>, group: GroupId) -> Result<(), Error> {
        let failed = |error: std::io::Error| {
            Error::new(ErrorKind::DriveFailed, "a metadata group cannot be opened; its files are kept")
                .with("group", group)
                .caused_by(error)
        };
        let id = store.replica(group).map_err(failed)?;
        let log = LogStore::open(Arc::clone(store), group).map_err(failed)?;
        let from = self.publish_from.load(Ordering::Acquire);
        let control = (group == GroupId::CONTROL).then(|| (self.control.clone(), from));
        let raised = log.raised();
        let state = GroupState::open(Arc::clone(store), group, control).map_err(failed)?;
        // Applied by this build, what is in the log would come to something else than elsewhere.
        let needed = self.control().level.max(raised);
        if needed > self.level {
            return Err(beyond(self.level, needed).with("group", group));
        }
        let machine = Machine(Arc::clone(&state));
        let network = self.router.for_group(group, Arc::clone(state.line()));
        let raft = Raft::new(id.0, Arc::clone(&self.raft_config), network, log.clone(), machine);
        let raft = self.dice.clone().scope(raft).await.map_err(|error| failed(std::io::Error::other(error)))?;
        let replica = Arc::new(Replica::new(raft, state, log, self.timing.election_max));
        self.groups.write().unwrap_or_else(PoisonError::into_inner).insert(group, replica);
        Ok(())
    }

    /// Which replica of a group this node has, sound or not.
    #[must_use]
    pub fn replica_id(&self, group: GroupId) -> Option<ReplicaId> {
        let open = self.replica(group).ok().map(|replica| replica.id());
        open.or_else(|| self.damage(group).map(|(replica, _)| replica))
    }

    /// Whether something of what this node's replicas promised is lost: then they are to be renewed.
    #[must_use]
    pub fn is_damaged(&self) -> bool {
        let store = self.store();
        // Also of groups that nobody has asked for since it started, as in [`Self::status`].
        let turned = |group: &GroupId| matches!(store.health(*group), Health::Damaged(_));
        !lock(&self.damaged).is_empty() || store.replicas().keys().any(turned)
    }

    /// How often this node has said durably what its replicas promise: what others remember of it is never more, unless
    /// its files were put back from a copy.
    #[must_use]
    pub fn marked(&self) -> u64 {
        self.store().marked()
    }

    /// Others remember more of this node, with this replica of the control group, than its files do: its replicas neither
    /// vote nor serve until they are renewed, in this start and in later ones. No effect once they are.
    pub fn disown(&self, replica: ReplicaId, why: &str) {
        let store = self.store();
        if store.replicas().get(&GroupId::CONTROL) != Some(&replica) || !store.disown(why) {
            return;
        }
        let Some(metadata) = self.me.upgrade() else { return };
        self.runtime.spawn(async move {
            let _one_at_a_time = metadata.opening.lock().await;
            // The mark of a store that has been renewed meanwhile is another's.
            if !Arc::ptr_eq(&store, &metadata.store()) {
                return;
            }
            let kept = store.home().aside(move || store.keep_disowned()).await;
            if let Err(error) = kept.map_err(std::io::Error::other).and_then(|kept| kept) {
                tracing::error!(%error, "that this node's metadata are an older copy cannot be kept");
            }
        });
    }

    /// Whether damaged metadata could be set aside.
    ///
    /// # Errors
    /// `Conflict` if too many are kept already.
    pub fn expect_room_aside(&self) -> Result<(), Error> {
        self.store().expect_room_aside()
    }

    /// The groups that this node has a replica of, sound or not.
    #[must_use]
    pub fn kept(&self) -> BTreeSet<GroupId> {
        let mut kept: BTreeSet<GroupId> = self.store().replicas().into_keys().collect();
        kept.extend(lock(&self.damaged).keys());
        kept
    }

    fn store(&self) -> Arc<Store> {
        Arc::clone(&self.store.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn damage(&self, group: GroupId) -> Option<(ReplicaId, Error)> {
        lock(&self.damaged).get(&group).cloned()
    }

    /// Sets the node's damaged metadata aside, under other names beside the new ones, and begins with new, empty replicas
    /// of all its groups: a store that lost one thing is not trusted with another. To be called once a
    /// majority of the voters of each of [`Self::kept`] is there without this node's: from them the new ones learn, as
    /// learners at first, and only they can take them in.
    ///
    /// # Errors
    /// `DriveFailed`, `Conflict`: nothing is deleted, [`Self::status`] says it of every group, and it may be tried again.
    pub async fn renew(&self) -> Result<(), Error> {
        let _one_at_a_time = self.opening.lock().await;
        if !self.is_damaged() {
            return Ok(());
        }
        let old = self.store();
        // Nothing is closed for a renewal that cannot be.
        old.expect_room_aside()?;
        let kept = self.kept();
        // What was known of the mesh is better than its history from the beginning; also where this is tried again, and no
        // replica of it is open any more.
        self.publish_from.fetch_max(self.applied(GroupId::CONTROL).unwrap_or(0), Ordering::AcqRel);
        let states = self.close_groups().await;
        self.wait_for(&states).await;
        let renewed = old.home().aside(move || old.renew_all()).await;
        match renewed.and_then(|renewed| renewed) {
            Ok(new) => *self.store.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(new),
            Err(error) => {
                // Everything is closed now: it is said of every group, and tried again.
                let mut damaged = lock(&self.damaged);
                for group in kept {
                    let replica = self.store().replica(group).unwrap_or_else(|_| ReplicaId::new(self.node, 0));
                    damaged.entry(group).or_insert_with(|| (replica, error.clone()));
                }
                return Err(error);
            }
        }
        lock(&self.damaged).clear();
        // One that cannot be opened keeps no other from it, and is opened when it is ensured again.
        let mut opened = Ok(());
        for group in kept {
            opened = opened.and(self.open(group).await);
        }
        opened
    }

    /// Makes these replicas the group's first voters. To be called on one of them; again: no effect.
    ///
    /// # Errors
    /// `Unreachable` without a replica here, `Invalid` if this node's is not among the members.
    pub async fn initialize(&self, group: GroupId, members: &BTreeSet<ReplicaId>) -> Result<(), Error> {
        let members: BTreeSet<u64> = members.iter().map(|member| member.0).collect();
        match self.replica(group)?.raft.initialize(members).await {
            Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
            Err(error) => Err(Error::invalid("the group cannot be initialized so").with("why", error)),
        }
    }

    /// Adds a replica that follows and does not vote. On the leader; comes back once it is in the log.
    ///
    /// # Errors
    /// `NotLeader`, `Conflict` while another change is under way.
    pub async fn add_learner(&self, group: GroupId, member: ReplicaId) -> Result<(), Error> {
        let changed = self.replica(group)?.raft.add_learner(member.0, (), false).await;
        changed.map(|_| ()).map_err(not_changed)
    }

    /// Makes exactly these replicas the voters, in one joint change; new ones must be learners. On the leader.
    ///
    /// # Errors
    /// As [`Self::add_learner`].
    pub async fn change_voters(&self, group: GroupId, voters: &BTreeSet<ReplicaId>) -> Result<(), Error> {
        let voters: BTreeSet<u64> = voters.iter().map(|member| member.0).collect();
        let changed = self.replica(group)?.raft.change_membership(voters, false).await;
        changed.map(|_| ()).map_err(not_changed)
    }

    /// Forgets a replica that does not vote. On the leader.
    ///
    /// # Errors
    /// As [`Self::add_learner`].
    pub async fn remove_learner(&self, group: GroupId, member: ReplicaId) -> Result<(), Error> {
        let gone = ChangeMembers::RemoveNodes(BTreeSet::from([member.0]));
        let changed = self.replica(group)?.raft.change_membership(gone, false).await;
        changed.map(|_| ()).map_err(not_changed)
    }

    /// The replicas of a group that vote and those that follow, as far as this node knows; none without a replica here.
    #[must_use]
    pub fn members(&self, group: GroupId) -> (BTreeSet<ReplicaId>, BTreeSet<ReplicaId>) {
        self.replica(group).map_or_else(|_| Default::default(), |replica| replica.members())
    }

    /// Who is to vote alone in a group once a change of voters is finished that was cut short, with the leader that began it or
    /// by its bound; none: there is no such change.
    #[must_use]
    pub fn unfinished(&self, group: GroupId) -> Option<BTreeSet<ReplicaId>> {
        self.replica(group).ok().and_then(|replica| replica.unfinished())
    }

    /// The members that have what this leader of the group has, or nearly; none on anybody else.
    #[must_use]
    pub fn caught_up(&self, group: GroupId) -> BTreeSet<ReplicaId> {
        self.replica(group).map_or_else(|_| BTreeSet::new(), |replica| replica.caught_up())
    }

    /// The index of what each replica that works has applied last, and a digest of its state: wherever the same was applied,
    /// the digest is the same, whether it came by the log or by a snapshot.
    ///
    /// # Errors
    /// `Corrupt` where it cannot be read.
    pub fn digests(&self) -> Result<BTreeMap<GroupId, (u64, u128)>, Error> {
        let groups = self.groups.read().unwrap_or_else(PoisonError::into_inner);
        let mut digests = BTreeMap::new();
        for (group, replica) in groups.iter().filter(|(group, replica)| self.trouble(**group, replica).is_none()) {
            let state = replica.state.with_table(rows::TreeTable::state).map_err(|error| {
                let what = "the state of this metadata group cannot be read";
                Error::new(ErrorKind::Corrupt, what).with("group", group).caused_by(error)
            })?;
            digests.extend(state.map(|state| (*group, state)));
        }
        Ok(digests)
    }

    /// Why an open replica does not work.
    fn trouble(&self, group: GroupId, replica: &Replica) -> Option<Error> {
        match self.store().health(group) {
            Health::Damaged(error) => Some(error),
            Health::Sound | Health::New => replica.trouble(),
        }
    }

    /// Whether this node leads a group, as far as it knows.
    #[must_use]
    pub fn is_leader(&self, group: GroupId) -> bool {
        self.replica(group).is_ok_and(|replica| replica.raft.is_leader())
    }

    /// Comes back once a majority of a group has followed this leader that was asked from now on.
    ///
    /// # Errors
    /// `NotLeader`, also for who leads no more and does not know it; `Timeout` without a majority; `Overloaded`;
    /// `Unreachable` without a replica here.
    pub async fn confirm(&self, group: GroupId) -> Result<(), Error> {
        self.replica(group)?.confirm().await
    }

    /// Proposes as the leader, or not at all: whoever leads instead decides by what it sees itself.
    ///
    /// # Errors
    /// As [`Metadata::propose`](mesh_core::port::Metadata::propose), and `NotLeader`.
    pub async fn propose_here(&self, command: Arc<Command>, budget: Duration) -> Result<Arc<MetaAnswer>, Error> {
        self.control().can(command.level())?;
        self.answer_here(command.group(), &Ask::Propose(command), budget).await
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
        let replica = self.replica(group)?;
        let to = replica.members().0.into_iter().find(|voter| voter.node() == to).ok_or_else(|| {
            Error::invalid("only a voter of the metadata group can lead it").with("group", group).with("node", to)
        })?;
        replica.raft.trigger().transfer_leader(to.0).await.map_err(|error| has_stopped(group, &error))
    }

    /// A peer cannot be reached. If it leads a group, this node no longer holds others back from being elected there:
    /// a leader that everybody lost can be replaced by [`Self::elect`] at once, not after the longest silence.
    pub async fn peer_is_down(&self, peer: NodeId) {
        for replica in self.replicas() {
            if let Err(error) = replica.give_up_on(peer, None).await {
                tracing::debug!(group = %replica.state.group(), %error, "a stopped replica takes no hints");
            }
        }
    }

    /// Who led a group in a term is there, and leads no more: it has restarted before anybody missed it, say. This node no
    /// longer holds others back for its sake, which it would do for the longest silence.
    ///
    /// # Errors
    /// As [`Self::elect`].
    pub async fn forsake(&self, group: GroupId, leader: NodeId, term: u64) -> Result<(), Error> {
        self.replica(group)?.give_up_on(leader, Some(term)).await
    }

    /// A peer can be reached again: replication to it goes on at once.
    pub async fn peer_is_up(&self, peer: NodeId) {
        for replica in self.replicas() {
            let (voters, learners) = replica.members();
            let there =
                voters.into_iter().chain(learners).filter(|member| member.node() == peer).map(|member| member.0);
            if let Err(error) = replica.raft.trigger().reset_backoff(there.collect::<Vec<_>>()).await {
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
            Op::Propose(command) => (command.group(), Ask::Propose(command)),
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
            NodeOp::RelayPropose(command) => (command.group(), Ask::Propose(command)),
            _ => return Err(Error::invalid("only queries and proposals are relayed")),
        };
        let budget = deadline.after(self.clock.now());
        let answer = self.pass_on(group, &ask, budget).await?;
        Ok(Response::new(Answer::Meta(answer)))
    }

    /// Answers another node's [`NodeOp::Raft`]. Nothing passes between builds one of which is older than what the mesh does.
    pub async fn handle_raft(&self, group: GroupId, rpc: u32, payload: Buf) -> Outcome {
        let Some(message) = Message::from_number(rpc) else {
            return Err(Error::new(ErrorKind::Unsupported, "an unknown Raft message").with("number", rpc));
        };
        let replica = self.replica(group)?;
        let (head, payload) = Head::of(&payload)?;
        if let Err(error) = head.expect_understood(self.level, self.control().level) {
            if !self.told_of_age.swap(true, Ordering::AcqRel) {
                tracing::warn!(node = %self.node, replica = %head.to, %error, "a build is older than what the mesh does");
            }
            return Err(error);
        }
        if names_timelines(&self.control()) {
            replica.state.line().hear(head.timeline)?;
        }
        // Raft itself would say so for every message.
        match self.trouble(group, &replica) {
            Some(trouble) => Err(trouble),
            None => replica.receive(message, head.to, payload, self.level).await,
        }
    }

    /// Stops every group, makes durable what is written, and closes the files.
    pub async fn shutdown(&self) {
        let _one_at_a_time = self.opening.lock().await;
        let states = self.close_groups().await;
        let store = self.store();
        if let Err(error) = store.sync().await {
            tracing::warn!(%error, "the metadata store was not flushed at the end");
        }
        store.close();
        self.wait_for(&states).await;
    }

    /// From now on a request is given up where nobody has answered it for two seconds: whoever waits for it here is about to
    /// stop, and the others may have.
    pub fn close_soon(&self) {
        self.closing.store(true, Ordering::Release);
    }

    /// Stops every group.
    async fn close_groups(&self) -> Vec<Weak<GroupState>> {
        drop(lock(&self.readings).forget(None));
        let replicas = core::mem::take(&mut *self.groups.write().unwrap_or_else(PoisonError::into_inner));
        let states: Vec<_> = replicas.values().map(|replica| Arc::downgrade(&replica.state)).collect();
        for replica in replicas.values() {
            if let Err(error) = replica.raft.shutdown().await {
                tracing::warn!(group = %replica.state.group(), %error, "a metadata group did not stop cleanly");
            }
        }
        states
    }

    /// Stops one group, and waits until nobody has its state.
    ///
    /// # Errors
    /// `Conflict` if somebody has for long: it stays closed until it is opened again.
    async fn close_group(&self, replica: Arc<Replica>) -> Result<(), Error> {
        let (group, state) = (replica.state.group(), Arc::downgrade(&replica.state));
        drop(lock(&self.readings).forget(Some(group)));
        self.groups.write().unwrap_or_else(PoisonError::into_inner).remove(&group);
        if let Err(error) = replica.raft.shutdown().await {
            tracing::warn!(%group, %error, "a metadata group did not stop cleanly");
        }
        drop(replica);
        let states = [state];
        self.wait_for(&states).await;
        if states.iter().all(|state| state.strong_count() == 0) {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Conflict, "the replica is still in use").with("group", group))
    }

    /// Raft's tasks let go of the store a little after it says that it is down.
    async fn wait_for(&self, states: &[Weak<GroupState>]) {
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

/// No code that holds one of these locks can leave its value half changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
