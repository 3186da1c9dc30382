//! The nodes of a mesh, each with the very [`Steward`](mesh_placement::steward::Steward) that the daemon has: it is told what
//! happens, and what it wants is carried out. What stands here is what surrounds it in a node: drives, the way to the control
//! group and its news, the functions, and the steps of moves.
//!
//! ```text
//!   time, beats, news, ends of acts ──► Steward ──► acts ──► world (links, metadata, doors, disks)
//!                                          ▲                   │
//!                                          └──── observed ◄────┘
//! ```
//!
//! The control group's replicas are a stand-in: who leads is the room's, and each node hears what the group has decided
//! some time later.

use core::time::Duration;
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use mesh_actors::{
    drive::{Drive, superblock},
    metadata::MemoryMetadata,
    registry::Make,
    registry::Registry,
};
use mesh_core::{
    Answer, Certainty, Error, ErrorKind, Outcome, Pool, Response, StorageFunction,
    assignment::MoveId,
    assignment::Scope,
    id::{ActorId, ClusterId, DriveId, Epoch, GroupId, Incarnation, KeyId, LayoutId, NodeId, TenantId},
    meta::{
        BucketCommand, BucketSettings, Command, Compression, ControlView, Grant, MeshCommand, MetaAnswer, PrincipalRow,
        Query, TenantLimits, TenantRow, WrappedKey,
    },
    op::{DriveReport, Phase},
    port::Keys,
    spec::{CustomSpec, DriveSpec, FunctionSpec},
    topology::{CodeGroups, DriveState, Layout, NodeInfo, NodeKind},
};
use mesh_placement::{
    migration::Heard,
    steward::{Deed, Event, Key, peers::Timing, plans::Studied},
};

mod chains;
mod groups;
mod hearsay;
mod mishaps;
mod moves;
mod node;
mod wishes;

use groups::Leads;
pub use mishaps::ActWeather;
use mishaps::Mishaps;
use node::Agent;

use crate::{
    ledger,
    metadata::Groups,
    planted::{Bug, Memory, Pretence, around_drive},
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
/// Of every data folder: none is ever emptied.
const LIFE: u64 = 1;

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
    fn propose(&mut self, command: &Command) -> Result<MetaAnswer, Error> {
        Self::propose(self, command)
    }

    fn query(&mut self, group: GroupId, query: &Query) -> Result<MetaAnswer, Error> {
        Self::query(self, group, query)
    }

    fn control(&mut self) -> Arc<ControlView> {
        Self::control(self).unwrap_or_default()
    }
}

/// After a drive could not be taken it is tried again.
const TAKE_AGAIN: Duration = Duration::from_millis(200);

/// What a ticket or a timer of the cluster is about. What is of one life of a node says of which.
#[derive(Clone, Debug)]
enum Errand {
    /// A node's own drive is asked how it is.
    Stat(Life, DriveId),
    /// A drive is to be taken by whoever knows this epoch of it; none: it is to be looked at first.
    Take(Life, DriveId, Option<Epoch>),
    /// A node's steward is to be told that time has passed.
    Alarm(Life),
    /// A node hears what the control group had decided by then.
    News(Life, u64, Arc<ControlView>),
    /// What a node may have missed comes to it.
    CatchUp(Life),
    /// A node has told another how it is, at this moment of its clock.
    Beat(Life, NodeId, mesh_core::time::Instant),
    /// An act of a steward ends.
    Act(Life, Key),
    /// It ends with an error.
    Fails(Life, Key),
    /// A function that takes long is built: what is to be done to its actor now.
    Built(Life, ActorId, VecDeque<Deed>),
    /// The same, and whoever wanted it is gone.
    BuiltUnheard(Life, ActorId, VecDeque<Deed>),
    /// A look at the whole mesh has found something.
    Planned(Life, Box<Studied>),
    /// A node stands for election.
    Stand(Life),
    /// A node hears whether a majority follows it.
    Confirm(Life),
    /// A node hears that it does not lead any more.
    Depose(NodeId, u64),
    /// Somebody else should lead.
    Election,
    /// What a steward has proposed for an actor's sake.
    Decided(Life, ActorId, u64),
    /// A step that it has asked of a node.
    Stepped(Life, ActorId, u64, NodeId),
    /// It has waited.
    Due(Life, ActorId, u64),
    /// What is to arrive by a move is built, which took long.
    Warmed(Life, u64, ActorId, Epoch),
    /// A page that a node sends.
    Page(Life),
    /// What a node froze should have come to rest by now.
    Unsettled(Life, u64),
    /// A step waits no longer for news of its actor.
    Unheard(Life),
    /// A user wishes something of placement, now and then.
    Wish,
    /// The last stages of some chain are to run elsewhere, or here again.
    Cut,
    /// What chains are made of changes, now and then.
    Stages,
    /// A user's wish.
    Wished,
    /// What comes of it does not matter.
    Said,
}

impl Errand {
    /// Whose proposal it is about.
    const fn of(&self) -> Option<NodeId> {
        match self {
            Self::Act((node, _), _) | Self::Decided((node, _), ..) | Self::Take((node, _), ..) => Some(*node),
            _ => None,
        }
    }

    /// Whether it is of what a steward has under way, and ends with it.
    fn is_of_steward(&self, life: Life) -> bool {
        match self {
            Self::Stat(of, _)
            | Self::Alarm(of)
            | Self::Act(of, _)
            | Self::Fails(of, _)
            | Self::Built(of, ..)
            | Self::Planned(of, _)
            | Self::Stand(of)
            | Self::Decided(of, ..)
            | Self::Stepped(of, ..)
            | Self::Due(of, ..) => *of == life,
            _ => false,
        }
    }
}

/// One life of a node.
type Life = (NodeId, u64);

/// What has become of actors, as those said who led.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ends {
    /// The actor runs at its target.
    pub arrived: u64,
    /// It runs where it was.
    pub stayed: u64,
    /// Somebody else has decided.
    pub elsewhere: u64,
    /// Its node was lost, and another has it.
    pub taken_over: u64,
}

/// The cluster.
#[derive(Debug)]
pub struct Cluster {
    swarm: Swarm,
    bug: Option<Bug>,
    beat: Duration,
    registry: Registry,
    pool: Pool,
    memory: Memory,
    pretence: Option<Pretence>,
    /// The nodes that run.
    agents: BTreeMap<NodeId, Agent>,
    /// What each node's replica of the control group holds, whether or not it runs, and as of which decision.
    replicas: BTreeMap<NodeId, (u64, Arc<ControlView>)>,
    /// Decisions of the control group so far.
    decisions: u64,
    leads: Leads,
    /// A node that does not hear of moves of this actor that are later than this one.
    deaf: Option<(NodeId, ActorId, MoveId)>,
    /// Media that must be made ready before they are used.
    blank: BTreeSet<DriveId>,
    /// Drives that are gone for good.
    dead: BTreeSet<DriveId>,
    errands: BTreeMap<u64, Errand>,
    next: u64,
    /// Whether users wish things of placement.
    wishes: bool,
    /// How moves have ended.
    pub ends: Ends,
    /// Users' wishes that the group took, and those that it did not, or of which nobody knows.
    pub wishes_granted: u64,
    /// See there.
    pub wishes_refused: u64,
    mishaps: Mishaps,
    /// Dice of those who change what chains are made of.
    guests: Stream,
    dice: Stream,
}

/// Numbers of tickets and timers from here on are the cluster's.
pub const CLUSTER_NUMBERS: u64 = 1 << 48;

/// The table of placement groups: every drive in each, nodes in turn, begun elsewhere in every group.
#[must_use]
pub fn layout(swarm: &Swarm) -> Layout {
    let turns: Vec<DriveId> =
        (0..2).flat_map(|place| swarm.node_ids().map(move |node| drives_of(node)[place])).collect();
    let group = |turn| {
        let mut group = turns.clone();
        group.rotate_left(turn);
        group
    };
    let groups: Vec<_> = (0..turns.len()).map(group).collect();
    Layout {
        id: LayoutId(1),
        code: swarm.code,
        groups: groups.clone(),
        domains: swarm.drive_ids().map(|drive| (drive, node_of(drive))).collect(),
        line: 1,
        others: swarm.coded.into_iter().map(|code| CodeGroups { code, groups: groups.clone() }).collect(),
        places: mesh_core::topology::Places::default(),
        rule: mesh_core::topology::Rule::default(),
    }
}

impl Cluster {
    /// Forms the cluster in the metadata groups: everything but the nodes' functions. `own`: stages of a program, and the
    /// functions that they are made of.
    ///
    /// # Errors
    /// The groups refuse: the simulator is wrong.
    pub fn form(
        seed: u64,
        swarm: Swarm,
        bug: Option<Bug>,
        own: (Vec<CustomSpec>, Vec<(String, Make)>),
        world: &mut World,
    ) -> Result<Self, Error> {
        let mut establish = |command: Command| world.metadata.establish(&command);
        establish(MeshCommand::Form { cluster: CLUSTER, code: swarm.code, namespaces: 1 }.into())?;
        for id in swarm.members() {
            establish(MeshCommand::PutNode(node_info(&swarm, id, 0)).into())?;
        }
        establish(MeshCommand::RaiseLevel(mesh_core::meta::LEVEL).into())?;
        for drive in swarm.drive_ids() {
            let capacity_bytes = swarm.capacity_bytes;
            establish(MeshCommand::PutDrive { drive, node: node_of(drive), capacity_bytes }.into())?;
        }
        establish(MeshCommand::PutLayout(Arc::new(layout(&swarm))).into())?;
        let wrapped = WrappedKey { key: KeyId(0), nonce: [0; 12], sealed: vec![0; 48] };
        let limits = TenantLimits::default();
        let row = TenantRow { id: TenantId(0), name: "tenant".into(), key: KeyId(0), wrapped, limits };
        let tenant = match establish(MeshCommand::CreateTenant(row).into())? {
            MetaAnswer::Tenant(row) if row.id == ledger::TENANT => row.id,
            other => return Err(Error::bug("the first tenant was made").with("answer", format!("{other:?}"))),
        };
        establish(
            MeshCommand::PutPrincipal(PrincipalRow { tenant, name: USER.into(), grants: vec![Grant::all()] }).into(),
        )?;
        let created = mesh_core::time::UnixMillis(0);
        establish(
            BucketCommand::CreateBucket {
                proposer: None,
                name: BUCKET.into(),
                tenant,
                created,
                settings: BucketSettings {
                    // Compressed, plaintext would not be known again where it is looked for.
                    compression: if swarm.compressed && bug != Some(Bug::Plaintext) {
                        Compression::Auto
                    } else {
                        Compression::Off
                    },
                    code: swarm.coded,
                },
            }
            .into(),
        )?;
        let ledger = (swarm.moves_per_mille > 0).then(|| CustomSpec::new(ledger::KIND, []));
        let stages: Vec<CustomSpec> = ledger.into_iter().chain(own.0).collect();
        if !stages.is_empty() {
            establish(MeshCommand::SetStages { scope: Scope::Mesh, stages }.into())?;
        }
        world.look_at_control(false);
        let formed = world.decided();
        Ok(Self {
            blank: swarm.drive_ids().collect(),
            replicas: swarm.members().map(|node| (node, (0, formed.clone()))).collect(),
            registry: chains::registry(own.1)?,
            swarm,
            bug,
            beat: BEAT,
            pool: Pool::default(),
            memory: Memory::default(),
            pretence: (bug == Some(Bug::HeldUnheard)).then(Pretence::default),
            agents: BTreeMap::new(),
            decisions: 0,
            leads: Leads::default(),
            deaf: None,
            dead: BTreeSet::new(),
            errands: BTreeMap::new(),
            next: CLUSTER_NUMBERS,
            wishes: false,
            ends: Ends::default(),
            wishes_granted: 0,
            wishes_refused: 0,
            mishaps: Mishaps::new(seed),
            guests: Stream::new(seed, "stages", 0),
            dice: Stream::new(seed, "cluster", 0),
        })
    }

    /// The one tenant.
    #[must_use]
    pub const fn tenant(&self) -> TenantId {
        ledger::TENANT
    }

    fn number(&mut self, errand: Errand) -> u64 {
        self.next += 1;
        self.errands.insert(self.next, errand);
        self.next
    }

    fn after(&mut self, world: &mut World, pause: Duration, errand: Errand) {
        let number = self.number(errand);
        world.timer(pause, number);
    }

    /// A node proposes something to the control group.
    fn propose(&mut self, world: &mut World, node: NodeId, command: impl Into<Command>, errand: Errand) {
        let number = self.number(errand);
        world.propose(node, command, number);
    }

    /// What runs in this life of a node.
    fn agent(&mut self, world: &World, (node, boot): Life) -> Option<&mut Agent> {
        self.agents.get_mut(&node).filter(|agent| agent.boot == boot && world.is_up(node))
    }

    fn is_alive(&self, world: &World, (node, boot): Life) -> bool {
        world.is_up(node) && self.agents.get(&node).is_some_and(|agent| agent.boot == boot)
    }

    /// The present life of a node that runs.
    fn life(&self, world: &World, node: NodeId) -> Option<Life> {
        self.agents.get(&node).filter(|_| world.is_up(node)).map(|agent| (node, agent.boot))
    }

    /// Starts a node that is down.
    pub fn start(&mut self, world: &mut World, node: NodeId) {
        if world.is_up(node) {
            return;
        }
        self.end(node);
        let boot = world.boot(node);
        let life = (node, boot);
        let agent = self.begin(world, life);
        self.agents.insert(node, agent);
        world.follow(node, &ControlView::default(), &self.replica(node));
        for drive in self.swarm.drives_at(node) {
            if self.blank.remove(&drive)
                && let Some(disk) = world.disks.get_mut(&drive)
            {
                disk.format(0, &superblock(&drive_spec(&self.swarm, drive, Epoch(0))));
            }
            if !self.dead.contains(&drive) {
                self.take(world, life, drive);
            }
        }
        self.after(world, self.beat, Errand::CatchUp(life));
        self.hear(world, life, Event::Time);
    }

    /// A node is down, and what it had under way with it.
    pub fn crashed(&mut self, world: &World, node: NodeId) {
        // It may have been started again before anybody heard.
        if !world.is_up(node) {
            self.end(node);
        }
    }

    fn end(&mut self, node: NodeId) {
        self.agents.remove(&node);
        self.leads.end(node);
    }

    /// A node takes a drive, from whoever had it last.
    fn take(&mut self, world: &mut World, life: Life, drive: DriveId) {
        let after = world.decided().drives.get(&drive).map_or(Epoch(0), |info| info.epoch);
        self.take_after(world, life, drive, after);
    }

    /// The same command until it is answered: one that is late, or comes twice, gives the same epoch.
    fn take_after(&mut self, world: &mut World, life: Life, drive: DriveId, after: Epoch) {
        let (node, capacity_bytes) = (life.0, self.swarm.capacity_bytes);
        let start = Incarnation(life.1);
        let command = MeshCommand::TakeDrive { drive, node, start, capacity_bytes, after, instead_of: None };
        self.propose(world, node, command, Errand::Take(life, drive, Some(after)));
    }

    /// A drive is this node's: it runs from now on.
    fn host_drive(&mut self, world: &mut World, life: Life, drive: DriveId, epoch: Epoch) {
        let (node, actor) = (life.0, ActorId::drive(drive));
        let Some(disk) = world.disks.get(&drive) else { return };
        if self.agent(world, life).is_none() || world.hosts(node, actor) {
            return;
        }
        let spec = drive_spec(&self.swarm, drive, epoch);
        let function: Box<dyn StorageFunction> = Box::new(Drive::new(spec.clone(), disk.geometry(), self.pool.clone()));
        let function = around_drive(self.bug, function, &self.memory);
        let setting = Setting { next: None, disk: Some(drive) };
        if let Err(error) = world.launch(node, (actor, epoch), function, setting, Phase::Running) {
            return world.violate(|| format!("{node} cannot host {actor}: {error}"));
        }
        world.configure(node, actor, Arc::new(FunctionSpec::Drive(spec)));
        self.hear(world, life, Event::Changed);
    }

    /// A node's proposal is answered.
    pub fn proposed(&mut self, world: &mut World, ticket: u64, outcome: Result<MetaAnswer, Error>) {
        let Some(errand) = self.errands.remove(&ticket) else { return };
        if let Some(node) = errand.of().filter(|_| outcome.is_ok()) {
            self.hear_own(world, node);
        }
        match (errand, outcome) {
            (Errand::Said, _) => {}
            (Errand::Wished, outcome) => self.wished(world, &outcome),
            (Errand::Take(life, drive, _), Ok(MetaAnswer::Epoch(epoch))) => self.host_drive(world, life, drive, epoch),
            (Errand::Take(life, drive, _), Err(error)) if error.kind() == ErrorKind::Conflict => {
                self.after(world, TAKE_AGAIN, Errand::Take(life, drive, None));
            }
            (Errand::Decided(life, actor, number), outcome) => {
                self.stepped(world, life, actor, number, Heard::Proposed(outcome));
            }
            (Errand::Act(life, key), outcome) => self.hear(world, life, Event::Ended(key, outcome.map(drop))),
            (errand, Err(error)) => {
                if error.certainty() == Certainty::NotProcessed && error.kind().number() >= 200 {
                    world.violate(|| format!("{errand:?} is refused: {error}"));
                }
                self.after(world, TAKE_AGAIN, errand);
            }
            (errand, Ok(answer)) => world.violate(|| format!("{errand:?} was answered by {answer:?}")),
        }
    }

    /// A timer of the cluster has come.
    pub fn timer(&mut self, world: &mut World, number: u64) {
        match self.errands.remove(&number) {
            Some(Errand::Take(life, drive, after)) if self.is_alive(world, life) => match after {
                Some(after) => self.take_after(world, life, drive, after),
                None => self.take(world, life, drive),
            },
            Some(Errand::Alarm(life)) => self.alarm(world, life, number),
            Some(Errand::News(life, decision, view)) => self.news(world, life, decision, view),
            Some(Errand::CatchUp(life)) => self.catch_up(world, life),
            Some(Errand::Planned(life, studied)) => self.hear(world, life, Event::Planned(studied)),
            Some(Errand::Stand(life)) => self.stand(world, life),
            Some(Errand::Confirm(life)) => self.confirm(world, life),
            Some(Errand::Depose(node, term)) => self.depose(world, node, term),
            Some(Errand::Election) => self.election(world),
            Some(Errand::Due(life, actor, number)) => {
                self.stepped(world, life, actor, number, Heard::Due);
            }
            Some(Errand::Unsettled(life, course)) => self.unsettled(world, life, course),
            Some(Errand::Warmed(life, course, actor, epoch)) => self.warmed(world, life, course, (actor, epoch)),
            Some(Errand::Unheard(life)) => self.resume_steps(world, life),
            Some(Errand::Fails(life, key)) => self.fails(world, life, key),
            Some(Errand::Built(life, actor, deeds)) => self.built(world, life, actor, deeds),
            Some(Errand::BuiltUnheard(life, actor, deeds)) => self.built_unheard(world, life, actor, deeds),
            Some(Errand::Wish) => self.wish(world),
            Some(Errand::Cut) => self.cut(world),
            Some(Errand::Stages) => self.change_stages(world),
            _ => {}
        }
    }

    /// What a node asked of another is answered.
    pub fn told(&mut self, world: &mut World, ticket: u64, outcome: Outcome) {
        match self.errands.remove(&ticket) {
            Some(Errand::Page(life)) => self.page_answered(world, life, ticket, outcome),
            Some(Errand::Beat(life, to, asked_at)) => self.beat_answered(world, life, (to, asked_at), outcome),
            Some(Errand::Stepped(life, actor, number, at)) => {
                let heard = Heard::Stepped(at, moves::moved(outcome));
                self.stepped(world, life, actor, number, heard);
            }
            _ => {}
        }
    }

    /// A drive has said how it is.
    pub fn answered(&mut self, world: &mut World, ticket: u64, outcome: &Outcome) {
        let Some(Errand::Stat(life, drive)) = self.errands.remove(&ticket) else { return };
        self.drive_said(world, life, report(drive, self.swarm.capacity_bytes, outcome));
    }

    /// From now on everything works: no need to look so often.
    pub fn calm_down(&mut self) {
        self.beat = CALM_BEAT;
        let timing = self.timing();
        self.agents.values_mut().for_each(|agent| agent.steward.retime(timing));
    }

    fn timing(&self) -> Timing {
        Timing {
            beat: self.beat,
            dpu_beat: self.beat,
            look: self.beat / 5,
            silence: self.beat * 4,
            dpu_silence: self.beat * 4,
            late: self.beat * 2,
        }
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
        if let Some(life) = self.life(world, node) {
            self.hear(world, life, Event::Changed);
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
        let fails = |agent: &Agent, drive: &DriveId| {
            let failed = agent.drives.get(drive).is_some_and(|said| said.state == DriveState::Down);
            failed && !self.dead.contains(drive)
        };
        let is_ailing = |node: NodeId, agent: &Agent| {
            world.is_up(node) && self.swarm.drives_at(node).any(|drive| fails(agent, &drive))
        };
        self.agents.iter().filter(|(node, agent)| is_ailing(**node, agent)).map(|(node, _)| *node).collect()
    }

    /// What keeps the cluster from being whole: every node is ready, and sees every drive that is not excused.
    #[must_use]
    pub fn ails(&self, world: &World, excused: &[DriveId]) -> Option<String> {
        for node in self.swarm.members() {
            let agent = self.agents.get(&node).filter(|_| world.is_up(node));
            let Some(agent) = agent else { return Some(format!("{node} is down")) };
            let outlook = agent.steward.outlook();
            // Where drives are full, it takes no data, and says so; what is there can be read.
            let with = |state| outlook.drives.values().filter(|one| **one == state).count();
            let (up, full) = (with(DriveState::Up), with(DriveState::Full));
            let is_only_full = up < self.swarm.bucket_code().shards() && up + full >= self.swarm.bucket_code().shards();
            if let Some(missing) = outlook
                .missing
                .as_ref()
                .filter(|why| !(is_only_full && why.message().starts_with("too few drives are up")))
            {
                return Some(format!("{node} is not ready: {missing}"));
            }
            let is_seen = |drive: &DriveId| outlook.drives.get(drive).is_some_and(|state| *state != DriveState::Down);
            let is_missing =
                |drive: &DriveId| !is_seen(drive) && !self.dead.contains(drive) && !excused.contains(drive);
            if let Some(drive) = self.swarm.drive_ids().find(is_missing) {
                return Some(format!("{node} does not see {drive}: {:?}", outlook.drives));
            }
        }
        homeless(world)
    }

    /// Whether every actor is where the group says, and nothing is under way for any.
    #[must_use]
    pub fn is_at_rest(&self, world: &World) -> bool {
        self.moves_under_way() == 0 && homeless(world).is_none()
    }

    /// Whether some drive has no room.
    #[must_use]
    pub fn is_full(&self) -> bool {
        let sees = |agent: &Agent| agent.steward.outlook().drives.values().any(|state| *state == DriveState::Full);
        self.agents.values().any(sees)
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

fn node_info(swarm: &Swarm, id: NodeId, boot: u64) -> NodeInfo {
    let host = swarm.is_host(id);
    NodeInfo {
        id,
        kind: if host { NodeKind::Host } else { NodeKind::Dpu },
        address: format!("10.0.0.{}:1", id.0),
        incarnation: Incarnation(boot),
        pid: 1,
        draining: false,
        attached_to: (!host).then_some(NodeId(1)),
        emulated: None,
        life: LIFE,
        invitation: 0,
        level: mesh_core::meta::LEVEL,
        location: None,
    }
}

fn report(drive: DriveId, capacity_bytes: u64, outcome: &Outcome) -> DriveReport {
    // How far a scrub is changes all the time: no figure here does, and how much is free is said in eighths.
    let (damaged, scrub, free_bytes) = match outcome {
        Ok(Response { answer: Answer::Drive { damaged, free_bytes, .. }, .. }) => {
            (*damaged, Default::default(), free_bytes - free_bytes % (capacity_bytes / 8).max(1))
        }
        _ => Default::default(),
    };
    let (state, reason) = match outcome {
        Ok(Response { answer: Answer::Drive { full: true, .. }, .. }) => (DriveState::Full, None),
        Ok(_) => (DriveState::Up, None),
        Err(error) => (DriveState::Down, Some(error.to_string())),
    };
    DriveReport { drive, state, capacity_bytes, free_bytes, shards: 0, corrupt: 0, reason, damaged, scrub }
}

fn drive_spec(swarm: &Swarm, drive: DriveId, epoch: Epoch) -> DriveSpec {
    let Swarm { segment_bytes, scrub_every_ms, .. } = *swarm;
    DriveSpec { cluster: CLUSTER, drive, epoch, capacity_bytes: 0, segment_bytes, scrub_every_ms }
}
