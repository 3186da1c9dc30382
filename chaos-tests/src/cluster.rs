//! Starts the storage functions on nodes and tells them of each other, as the daemon does: a drive's epoch from the
//! control group, the actors, and from then on heartbeats, out of which each node makes its view of the drives.
//!
//! ```text
//!  node n:   Object ──► Policy ─► Encrypt ─► Erasure ──► drives of all nodes      (one chain)
//!  split:    Object ──► Policy ─► Encrypt ──link──► Erasure on node n+1 ──► drives of all nodes
//! ```
//!
//! A chain that is split is so for a while and whole for a while, under load, and whole whenever its tail is not heard of.

use core::time::Duration;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use mesh_actors::{
    drive::{Drive, superblock},
    encrypt::Encrypt,
    erasure::Erasure,
    metadata::MemoryMetadata,
    object::Object,
    policy::Policy,
};
use mesh_core::{
    Answer, Chain, Error, Outcome, Pool, Request, Response, StorageFunction,
    assignment::{Assignment, MoveId},
    id::{ActorId, ClusterId, DriveId, Epoch, GroupId, Incarnation, KeyId, LayoutId, NodeId, TenantId},
    meta::{Command, Grant, MetaAnswer, Query, TenantLimits, TenantRow, WrappedKey},
    op::{DriveReport, NodeReport, Phase, ShardOp},
    port::Keys,
    spec::{DriveSpec, EncryptSpec, Encryption, ErasureSpec, FunctionSpec, ObjectSpec, PolicySpec},
    topology::{DriveState, Layout, NodeInfo, NodeKind},
};

mod controller;
mod moves;

use controller::Controller;
pub use controller::Ends;
use moves::Mover;

use mesh_placement::{
    migration::Heard,
    steward::peers::{Peers, Timing},
};

use crate::{
    ledger::Ledger,
    metadata::Groups,
    planted::{Bug, Memory, PassThrough, around_chain, around_drive},
    random::Stream,
    swarm::{Swarm, drives_of, node_of},
    workload::BUCKET,
    world::{Setting, World},
};

/// The one namespace group.
pub const NAMESPACE: GroupId = GroupId(1);
/// The one user.
pub const USER: &str = "user";
/// Garbage is kept for so long: longer than a request may take.
pub const GRACE_MS: u64 = 35_000;

const CLUSTER: ClusterId = ClusterId(*b"simulated world!");
/// Between two heartbeats, while things fail.
const BEAT: Duration = Duration::from_millis(500);
/// The same once everything works: then most of the time is waiting.
const CALM_BEAT: Duration = Duration::from_secs(3);
/// A chain is split or whole for a multiple of this, in nanoseconds.
const CUT_SPAN: u64 = 1_700_000_000;
/// Where the second half of a split chain is: one for each ingress.
const ERASURE: u64 = 1000;

/// Every wrapping key of the world, derived from its number.
#[derive(Debug)]
pub struct SimulatedKeys;

impl Keys for SimulatedKeys {
    fn key(&self, id: KeyId) -> Option<[u8; 32]> {
        let mut key = [0x5a; 32];
        key[..8].copy_from_slice(&id.0.to_le_bytes());
        Some(key)
    }
}

impl Groups for MemoryMetadata {
    fn propose(&mut self, group: GroupId, command: &Command) -> Result<MetaAnswer, Error> {
        Self::propose(self, group, command)
    }

    fn query(&mut self, group: GroupId, query: &Query) -> Result<MetaAnswer, Error> {
        Self::query(self, group, query)
    }
}

/// What a ticket or a timer of the cluster is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Errand {
    /// A node's own drive is asked how it is.
    Stat(DriveId),
    /// A drive is to be taken.
    Take(NodeId, DriveId),
    /// A node speaks to the others.
    Beat(NodeId),
    /// A node hears, in this life, what the control group says of an actor.
    News(NodeId, u64, Assignment),
    /// A page that a node sends.
    Page(NodeId),
    /// What a node froze should have come to rest by now.
    Unsettled(NodeId, u64),
    /// A node that began anew takes a move back.
    TakeBack(NodeId, ActorId, MoveId),
    /// It could not, and looks again.
    NotTaken(NodeId),
    /// A node aborts a move that takes long.
    Settle(NodeId, ActorId, Epoch, MoveId),
    /// Somebody should lead.
    Election,
    /// A controller hears that it does not lead any more.
    Depose(u64),
    /// A controller looks what there is to do.
    Tick(u64),
    /// A controller's proposal for a move.
    Decided(u64, ActorId),
    /// A controller's step at a node.
    Stepped(u64, ActorId, NodeId),
    /// A controller has waited.
    Due(u64, ActorId),
}

/// What a node's agent knows.
#[derive(Debug)]
struct Agent {
    boot: u64,
    /// Since when it runs, on the world's clock.
    since: u64,
    mover: Mover,
    epochs: BTreeMap<DriveId, Epoch>,
    ready: bool,
    local: BTreeMap<DriveId, DriveState>,
    peers: Peers,
    reports: BTreeMap<NodeId, Arc<NodeReport>>,
    view: BTreeMap<DriveId, DriveState>,
}

impl Agent {
    fn new(boot: u64, since: u64, peers: Peers) -> Self {
        Self {
            boot,
            since,
            mover: Mover::default(),
            epochs: BTreeMap::new(),
            ready: false,
            local: BTreeMap::new(),
            peers,
            reports: BTreeMap::new(),
            view: BTreeMap::new(),
        }
    }
}

/// The cluster.
#[derive(Debug)]
pub struct Cluster {
    swarm: Swarm,
    bug: Option<Bug>,
    layout: Arc<Layout>,
    beat: Duration,
    tenant: TenantId,
    key: KeyId,
    pool: Pool,
    memory: Memory,
    agents: BTreeMap<NodeId, Agent>,
    /// Media that must be made ready before they are used.
    blank: BTreeSet<DriveId>,
    /// Drives that are gone for good.
    dead: BTreeSet<DriveId>,
    errands: BTreeMap<u64, Errand>,
    next: u64,
    controllers: BTreeMap<u64, Controller>,
    /// Whether controllers move actors of their own accord.
    plans: bool,
    /// How moves have ended.
    pub ends: Ends,
    dice: Stream,
}

/// Numbers of tickets and timers from here on are the cluster's.
pub const CLUSTER_NUMBERS: u64 = 1 << 48;

/// The table of placement groups: every drive in each, nodes in turn, begun elsewhere in every group.
#[must_use]
pub fn layout(swarm: &Swarm) -> Layout {
    let turns: Vec<DriveId> =
        (0..2).flat_map(|place| swarm.node_ids().map(move |node| drives_of(node)[place])).collect();
    let groups = (0..turns.len()).map(|turn| {
        let mut group = turns.clone();
        group.rotate_left(turn);
        group
    });
    Layout {
        id: LayoutId(1),
        code: swarm.code,
        groups: groups.collect(),
        domains: swarm.drive_ids().map(|drive| (drive, node_of(drive))).collect(),
    }
}

impl Cluster {
    /// Forms the cluster in the metadata groups: everything but the nodes' functions.
    ///
    /// # Errors
    /// The groups refuse: the simulator is wrong.
    pub fn form(seed: u64, swarm: Swarm, bug: Option<Bug>, world: &mut World) -> Result<Self, Error> {
        let layout = Arc::new(layout(&swarm));
        let mut establish = |group, command| world.metadata.establish(group, &command);
        establish(GroupId::CONTROL, Command::Form { cluster: CLUSTER, code: swarm.code, namespaces: 1 })?;
        for id in swarm.members() {
            let host = swarm.is_host(id);
            establish(
                GroupId::CONTROL,
                Command::PutNode(NodeInfo {
                    id,
                    kind: if host { NodeKind::Host } else { NodeKind::Dpu },
                    address: format!("node-{}:1", id.0),
                    incarnation: Incarnation(1),
                    pid: 1,
                    draining: false,
                    attached_to: (!host).then_some(NodeId(1)),
                    emulated: None,
                    life: 1,
                    invitation: 0,
                }),
            )?;
        }
        for drive in swarm.drive_ids() {
            let capacity_bytes = swarm.capacity_bytes;
            establish(GroupId::CONTROL, Command::PutDrive { drive, node: node_of(drive), capacity_bytes })?;
        }
        establish(GroupId::CONTROL, Command::PutLayout(layout.clone()))?;
        let wrapped = WrappedKey { key: KeyId(0), nonce: [0; 12], sealed: vec![0; 48] };
        let limits = TenantLimits::default();
        let row = TenantRow { id: TenantId(0), name: "tenant".into(), key: KeyId(0), wrapped, limits };
        let (tenant, key) = match establish(GroupId::CONTROL, Command::CreateTenant(row))? {
            MetaAnswer::Tenant(row) => (row.id, row.key),
            other => return Err(Error::bug("a tenant was made").with("answer", format!("{other:?}"))),
        };
        let created = mesh_core::time::UnixMillis(0);
        establish(GroupId::CONTROL, Command::CreateBucket { proposer: None, name: BUCKET.into(), tenant, created })?;
        for node in swarm.node_ids() {
            let actor = ActorId::data(tenant, node);
            establish(GroupId::CONTROL, Command::Assign(Assignment::new(actor, node, Epoch(1))))?;
        }
        for node in swarm.node_ids() {
            world.look_at(ActorId::data(tenant, node), false);
        }
        Ok(Self {
            blank: swarm.drive_ids().collect(),
            swarm,
            bug,
            layout,
            beat: BEAT,
            tenant,
            key,
            pool: Pool::default(),
            memory: Memory::default(),
            agents: BTreeMap::new(),
            dead: BTreeSet::new(),
            errands: BTreeMap::new(),
            next: CLUSTER_NUMBERS,
            controllers: BTreeMap::new(),
            plans: false,
            ends: Ends::default(),
            dice: Stream::new(seed, "cluster", 0),
        })
    }

    /// The one tenant.
    #[must_use]
    pub const fn tenant(&self) -> TenantId {
        self.tenant
    }

    fn number(&mut self, errand: Errand) -> u64 {
        self.next += 1;
        self.errands.insert(self.next, errand);
        self.next
    }

    /// Starts a node that is down.
    pub fn start(&mut self, world: &mut World, node: NodeId) {
        if world.is_up(node) {
            return;
        }
        let boot = world.boot(node);
        let mut agent = Agent::new(boot, world.now().0, Peers::new(self.timing(), world.clock(node)));
        let before = self.agents.remove(&node);
        if let (Some(Bug::OldReplica), Some(before)) = (self.bug, before) {
            agent.mover.rows = before.mover.rows;
        }
        self.agents.insert(node, agent);
        for drive in self.swarm.drives_at(node) {
            if self.blank.remove(&drive)
                && let Some(disk) = world.disks.get_mut(&drive)
            {
                disk.format(0, &superblock(&drive_spec(&self.swarm, drive, Epoch(0))));
            }
            if !self.dead.contains(&drive) {
                self.take(world, node, drive);
            }
        }
        self.host_if_taken(world, node);
    }

    fn take(&mut self, world: &mut World, node: NodeId, drive: DriveId) {
        let number = self.number(Errand::Take(node, drive));
        let capacity_bytes = self.swarm.capacity_bytes;
        world.propose(node, GroupId::CONTROL, Command::PutDrive { drive, node, capacity_bytes }, number);
    }

    /// Hosts what a node runs, once its drives are its own.
    fn host_if_taken(&mut self, world: &mut World, node: NodeId) {
        let Some(agent) = self.agents.get(&node) else { return };
        let mut drives = self.swarm.drives_at(node).filter(|drive| !self.dead.contains(drive));
        if !agent.ready && drives.all(|drive| agent.epochs.contains_key(&drive)) {
            self.host(world, node);
        }
    }

    /// A node's proposal is answered.
    pub fn proposed(&mut self, world: &mut World, ticket: u64, outcome: Result<MetaAnswer, Error>) {
        let Some(errand) = self.errands.remove(&ticket) else { return };
        match (errand, outcome) {
            (Errand::Take(node, drive), Ok(MetaAnswer::Epoch(epoch))) => {
                if let Some(agent) = self.agents.get_mut(&node) {
                    agent.epochs.insert(drive, epoch);
                }
                self.host_if_taken(world, node);
            }
            (Errand::Decided(number, actor), outcome) => {
                self.machine_hears(world, number, actor, Heard::Proposed(outcome));
            }
            (Errand::Settle(node, actor, epoch, id), outcome) => {
                self.abort_answered(world, node, (actor, epoch, id), &outcome);
            }
            (Errand::TakeBack(node, actor, id), outcome) => self.took_back(world, node, (actor, id), &outcome),
            (errand, Err(error)) => {
                if error.certainty() == mesh_core::Certainty::NotProcessed && error.kind().number() >= 200 {
                    world.violate(|| format!("{errand:?} is refused: {error}"));
                }
                let number = self.number(errand);
                world.timer(Duration::from_millis(200), number);
            }
            (errand, Ok(answer)) => world.violate(|| format!("{errand:?} was answered by {answer:?}")),
        }
    }

    /// A timer of the cluster has come.
    pub fn timer(&mut self, world: &mut World, number: u64) {
        match self.errands.remove(&number) {
            Some(Errand::Take(node, drive)) if world.is_up(node) => self.take(world, node, drive),
            Some(Errand::Beat(node)) if world.is_up(node) => self.beat(world, node),
            Some(Errand::News(node, boot, row)) => self.news(world, node, boot, row),
            Some(Errand::NotTaken(node)) => self.follow(world, node),
            Some(Errand::Unsettled(node, number)) => self.unsettled(world, node, number),
            Some(Errand::Election) => self.election(world),
            Some(Errand::Depose(number)) => self.depose(number),
            Some(Errand::Tick(number)) => self.tick(world, number),
            Some(Errand::Due(number, actor)) => self.machine_hears(world, number, actor, Heard::Due),
            _ => {}
        }
    }

    /// Everything that a node runs.
    fn host(&mut self, world: &mut World, node: NodeId) {
        let Some(agent) = self.agents.get_mut(&node) else { return };
        if agent.ready || !world.is_up(node) {
            return;
        }
        agent.ready = true;
        let (boot, epochs) = (agent.boot, agent.epochs.clone());
        for (drive, epoch) in epochs {
            let Some(disk) = world.disks.get(&drive) else { continue };
            let spec = drive_spec(&self.swarm, drive, epoch);
            let function: Box<dyn StorageFunction> =
                Box::new(Drive::new(spec.clone(), disk.geometry(), self.pool.clone()));
            let function = around_drive(self.bug, function, &self.memory);
            let actor = ActorId::drive(drive);
            world.host(node, actor, function, Setting { next: None, disk: Some(drive) });
            world.configure(node, actor, Arc::new(FunctionSpec::Drive(spec)));
        }
        self.host_second_half(world, node);
        // Read for certain, now: no older news may bring back what has left since.
        self.catch_up_at_start(world, node);
        if !self.swarm.is_host(node) {
            return self.beat(world, node);
        }
        let spec = ObjectSpec {
            node,
            epoch: Epoch(boot),
            layout: Some(self.layout.id),
            stripe_bytes: self.swarm.stripe_bytes,
            keys: core::iter::once((self.tenant, Encryption::Key(self.key))).collect(),
            reclaims: vec![NAMESPACE],
            reclaim_grace_ms: GRACE_MS,
            drives: self.swarm.drive_ids().filter(|_| self.bug != Some(Bug::NoSweep)).collect(),
            lost: Vec::new(),
            layouts: core::iter::once((self.layout.id, self.layout.clone())).collect(),
            namespaces: 1,
        };
        let next = Some(ActorId::data(self.tenant, node));
        let actor = ActorId::ingress(node);
        world.host(node, actor, Box::new(Object::new(spec.clone())), Setting { next, disk: None });
        world.configure(node, actor, Arc::new(FunctionSpec::Object(spec)));
        self.beat(world, node);
    }

    fn host_second_half(&self, world: &mut World, node: NodeId) {
        if self.swarm.split && self.swarm.is_host(node) {
            // This node runs the Erasure of the node before it.
            let actor = ActorId(ERASURE + self.before(node).0);
            let erasure = self.erasure_spec(node);
            world.host(node, actor, Box::new(Erasure::new(erasure.clone())), Setting::default());
            world.configure(node, actor, Arc::new(FunctionSpec::Erasure(erasure)));
        }
    }

    /// Where the second half of a node's chain runs.
    const fn behind(&self, node: NodeId) -> NodeId {
        NodeId(1 + node.0 % self.swarm.nodes)
    }

    const fn before(&self, node: NodeId) -> NodeId {
        NodeId(1 + (node.0 + self.swarm.nodes - 2) % self.swarm.nodes)
    }

    /// A data chain as it is built on a node.
    fn chain(
        &self,
        world: &mut World,
        node: NodeId,
        actor: ActorId,
    ) -> (Box<dyn StorageFunction>, Setting, Vec<FunctionSpec>) {
        let principals = core::iter::once((Arc::from(USER), vec![Grant::all()])).collect();
        let policy = PolicySpec { tenant: self.tenant, principals, limits: TenantLimits::default() };
        let mut stages: Vec<Box<dyn StorageFunction>> = Vec::new();
        if self.swarm.moves_per_mille > 0 {
            stages.push(Box::new(Ledger::new(world.birth())));
        }
        stages.push(Box::new(Policy::new(policy.clone())));
        let mut specs = vec![FunctionSpec::Policy(policy)];
        if self.swarm.encrypted {
            let encrypt: Box<dyn StorageFunction> = match self.bug {
                Some(Bug::Plaintext) => Box::new(PassThrough::default()),
                _ => Box::new(Encrypt::new(EncryptSpec::default())),
            };
            stages.push(encrypt);
            specs.push(FunctionSpec::Encrypt(EncryptSpec::default()));
        }
        let erasure = self.erasure_spec(node);
        stages.push(Box::new(Erasure::new(erasure.clone())));
        specs.push(FunctionSpec::Erasure(erasure));
        let tail = actor.as_data().filter(|_| self.swarm.split);
        let next = tail.map(|(_, ingress)| ActorId(ERASURE + ingress.0));
        let chain = around_chain(self.bug, Box::new(Chain::new(stages)));
        (chain, Setting { next, disk: None }, specs)
    }

    /// A node that has just started has made itself known to the group, and has heard what was so by then.
    fn catch_up_at_start(&mut self, world: &mut World, node: NodeId) {
        let rows: Vec<Assignment> = world.rows().values().copied().collect();
        let Some(agent) = self.agents.get_mut(&node) else { return };
        if self.bug == Some(Bug::OldReplica) && !agent.mover.rows.is_empty() {
            return self.follow(world, node);
        }
        agent.mover.rows = rows.iter().map(|row| (row.actor, *row)).collect();
        for row in rows {
            world.learn(node, row.actor, (row.node, row.epoch));
        }
        self.follow(world, node);
    }

    /// Chains go on to their tails for a while and do all of it themselves for a while, and whenever the tail's node is
    /// not heard of.
    fn recut(&self, world: &mut World, node: NodeId) {
        let Some(agent) = self.agents.get(&node).filter(|agent| agent.ready && self.swarm.split) else { return };
        let (now, clock) = (world.now().0, world.clock(node));
        let hears = |other: NodeId| other == node || agent.peers.is_up(other, clock);
        let erasure = u8::from(self.swarm.moves_per_mille > 0) + 1 + u8::from(self.swarm.encrypted);
        for ingress in self.swarm.node_ids() {
            let actor = ActorId::data(self.tenant, ingress);
            if world.phase(node, actor).is_none() {
                continue;
            }
            let apart = hears(self.behind(ingress)) && !(now / CUT_SPAN + ingress.0).is_multiple_of(3);
            let cut = if apart { erasure } else { u8::MAX };
            world.configure(node, actor, Arc::new(FunctionSpec::Split(Vec::new(), cut)));
        }
    }

    fn erasure_spec(&self, node: NodeId) -> ErasureSpec {
        let drives = self.agents.get(&node).map(|agent| agent.view.clone()).unwrap_or_default();
        ErasureSpec { layouts: core::iter::once((self.layout.id, self.layout.clone())).collect(), drives }
    }

    /// Says where everybody is to be looked for.
    pub fn publish(&self, world: &mut World) {
        for node in self.swarm.node_ids() {
            for drive in self.swarm.drives_at(node) {
                world.publish(ActorId::drive(drive), node);
            }
            world.publish(ActorId(ERASURE + node.0), self.behind(node));
        }
    }

    /// A node looks after itself and speaks to the others.
    fn beat(&mut self, world: &mut World, node: NodeId) {
        if let Some(agent) = self.agents.get_mut(&node) {
            agent.peers.tick(world.clock(node));
        }
        for drive in self.swarm.drives_at(node) {
            if world.hosts(node, ActorId::drive(drive)) {
                let deadline = world.clock(node) + Duration::from_secs(2);
                let number = self.number(Errand::Stat(drive));
                world.submit(node, ActorId::drive(drive), Request::system(ShardOp::Stat, deadline), number);
            }
        }
        let report = Arc::new(self.report(node));
        for other in self.swarm.members().filter(|other| *other != node) {
            world.beat(node, other, report.clone());
        }
        self.look(world, node);
        self.catch_up(world, node);
        self.recut(world, node);
        self.settle_frozen(world, node);
        let number = self.number(Errand::Beat(node));
        world.timer(self.beat, number);
    }

    /// From now on everything works: no need to look so often.
    pub fn calm_down(&mut self) {
        self.beat = CALM_BEAT;
        let timing = self.timing();
        self.agents.values_mut().for_each(|agent| agent.peers.retime(timing));
    }

    fn timing(&self) -> Timing {
        Timing {
            beat: self.beat,
            dpu_beat: self.beat,
            look: self.beat,
            silence: self.beat * 4,
            dpu_silence: self.beat * 4,
            late: self.beat * 2,
        }
    }

    fn report(&self, node: NodeId) -> NodeReport {
        let local = self.agents.get(&node).map(|agent| agent.local.clone()).unwrap_or_default();
        let drives = local.into_iter().map(|(drive, state)| DriveReport {
            drive,
            state,
            capacity_bytes: self.swarm.capacity_bytes,
            free_bytes: 0,
            shards: 0,
            corrupt: 0,
            reason: None,
        });
        NodeReport { node, drives: drives.collect(), ..NodeReport::default() }
    }

    /// A node has heard another.
    pub fn heard(&mut self, world: &mut World, from: NodeId, to: NodeId, report: Arc<NodeReport>) {
        if let Some(agent) = self.agents.get_mut(&to) {
            agent.peers.heard(from, false, world.clock(to));
            agent.reports.insert(from, report);
        }
        self.look(world, to);
    }

    /// What a node asked of another is answered.
    pub fn told(&mut self, world: &mut World, node: NodeId, ticket: u64, outcome: Outcome) {
        match self.errands.remove(&ticket) {
            Some(Errand::Page(_)) => self.page_answered(world, node, ticket, outcome),
            Some(Errand::Stepped(number, actor, at)) => {
                self.machine_hears(world, number, actor, Self::stepped(at, outcome));
            }
            _ => {}
        }
    }

    /// Controllers move actors of their own accord, or not any more.
    pub fn plan(&mut self, world: &mut World, plans: bool) {
        let first = plans && !self.plans && self.controllers.is_empty();
        self.plans = plans;
        if first {
            self.election(world);
        }
    }

    /// A drive has said how it is.
    pub fn answered(&mut self, world: &mut World, ticket: u64, outcome: &Outcome) {
        let Some(Errand::Stat(drive)) = self.errands.remove(&ticket) else { return };
        let state = match outcome {
            Ok(Response { answer: Answer::Drive { full: true, .. }, .. }) => DriveState::Full,
            Ok(_) => DriveState::Up,
            Err(_) => DriveState::Down,
        };
        let node = node_of(drive);
        if let Some(agent) = self.agents.get_mut(&node) {
            agent.local.insert(drive, state);
        }
        self.look(world, node);
    }

    /// A node makes up its mind about the drives, and tells its Erasure if that has changed.
    fn look(&mut self, world: &mut World, node: NodeId) {
        let now = world.clock(node);
        let Some(agent) = self.agents.get_mut(&node).filter(|agent| agent.ready) else { return };
        let mut view = agent.local.clone();
        for (_, report) in agent.reports.iter().filter(|(other, _)| agent.peers.is_up(**other, now)) {
            view.extend(report.drives.iter().map(|drive| (drive.drive, drive.state)));
        }
        view.retain(|drive, state| *state != DriveState::Down && !self.dead.contains(drive));
        if view == agent.view {
            return;
        }
        agent.view = view;
        let spec = Arc::new(FunctionSpec::Erasure(self.erasure_spec(node)));
        for ingress in self.swarm.node_ids() {
            world.configure(node, ActorId::data(self.tenant, ingress), spec.clone());
        }
        if self.swarm.split && self.swarm.is_host(node) {
            world.configure(node, ActorId(ERASURE + self.before(node).0), spec);
        }
        self.follow(world, node);
    }

    /// A medium has lost everything and must be made ready when its node starts again.
    pub fn replace(&mut self, drive: DriveId) {
        self.blank.insert(drive);
    }

    /// A drive is gone for good.
    pub fn bury(&mut self, world: &mut World, drive: DriveId) {
        self.dead.insert(drive);
        let node = node_of(drive);
        world.stop(node, ActorId::drive(drive));
        if let Some(agent) = self.agents.get_mut(&node) {
            agent.local.remove(&drive);
        }
    }

    /// Whether a drive is gone for good.
    #[must_use]
    pub fn is_buried(&self, drive: DriveId) -> bool {
        self.dead.contains(&drive)
    }

    /// Nodes that run, but with a drive that does not work.
    #[must_use]
    pub fn ailing(&self, world: &World) -> Vec<NodeId> {
        let works = |agent: &Agent, drive: &DriveId| {
            self.dead.contains(drive) || agent.local.get(drive).is_none_or(|state| *state != DriveState::Down)
        };
        self.agents
            .iter()
            .filter(|(node, agent)| {
                world.is_up(**node) && agent.ready && !self.swarm.drives_at(**node).all(|drive| works(agent, &drive))
            })
            .map(|(node, _)| *node)
            .collect()
    }

    /// What keeps the cluster from being whole: every node sees every drive that is not excused.
    #[must_use]
    pub fn ails(&self, world: &World, excused: &[DriveId]) -> Option<String> {
        for node in self.swarm.members() {
            let agent = self.agents.get(&node).filter(|agent| agent.ready && world.is_up(node));
            let Some(agent) = agent else { return Some(format!("{node} is not ready")) };
            let missing = self.swarm.drive_ids().find(|drive| {
                !agent.view.contains_key(drive) && !self.dead.contains(drive) && !excused.contains(drive)
            });
            if let Some(drive) = missing {
                return Some(format!("{node} does not see {drive}: {:?}", agent.view));
            }
        }
        homeless(world)
    }

    /// Whether some drive has no room.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.agents.values().any(|agent| agent.view.values().any(|state| *state == DriveState::Full))
    }
}

/// An actor that is not where the group says, and nowhere else.
fn homeless(world: &World) -> Option<String> {
    world.rows().values().find_map(|row| {
        let nodes = world.hosts_of(row.actor);
        let good = row.moving.is_none() && nodes == [(row.node, row.epoch, Phase::Running)];
        (!good).then(|| format!("{row:?}, and it is hosted like this: {nodes:?}"))
    })
}

fn drive_spec(swarm: &Swarm, drive: DriveId, epoch: Epoch) -> DriveSpec {
    DriveSpec { cluster: CLUSTER, drive, epoch, capacity_bytes: 0, segment_bytes: swarm.segment_bytes }
}
