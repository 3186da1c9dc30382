//! Heartbeats: who is there, and how they are.

mod acquaintance;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
};

use mesh_core::{
    Answer, Buf, Error, ErrorKind, Lane, Op, Outcome, Principal,
    envelope::Envelope,
    happened::Happened,
    id::{ActorId, DriveId, Epoch, GroupId, Incarnation, NodeId},
    limits::{DPU_HEARTBEAT_INTERVAL, HEARTBEAT_INTERVAL},
    op::{ActorReport, DriveReport, GroupReport, NodeOp, NodeReport, Phase, Witness},
    port::Role,
    spec::FunctionSpec,
    time::Instant,
    topology::{DriveInfo, DriveState, NodeKind, NodeState},
};

use mesh_dpu_runtime::shell::ActorStats;
use mesh_placement::{
    Outage,
    steward::{
        Group, Sight,
        peers::{self as sight, Presence, Timing},
    },
    witness::Verdict,
};

use super::{Inner, ability, lock, media};
use crate::config::TimingConfig;

/// What is known of the others.
pub(super) struct Peers {
    /// What this node says of itself, as of the last beat.
    own: Arc<NodeReport>,
    /// Who is there.
    sight: sight::Peers,
    /// What each one said last.
    said: BTreeMap<NodeId, Arc<NodeReport>>,
    /// Where each one listens, and as of which start.
    addresses: BTreeMap<NodeId, (Incarnation, SocketAddr)>,
    /// What is to be remembered of each one, whatever becomes of its files.
    witnesses: BTreeMap<NodeId, Witness>,
    /// The start whose beat counted least of late, and why.
    turned_away: BTreeMap<NodeId, (Incarnation, Verdict)>,
    /// Whose beats were said not to count, by address: of each number a few.
    refused: BTreeMap<NodeId, BTreeSet<String>>,
    /// Those whose address a person or the configuration gave, until they speak for themselves.
    given: BTreeSet<NodeId>,
}

impl Peers {
    pub(super) fn new(timing: &TimingConfig, now: Instant) -> Self {
        let timing = Timing { silence: timing.silence.0, dpu_silence: timing.dpu_silence.0, late: LATE };
        Self {
            own: Arc::default(),
            sight: sight::Peers::new(timing, now),
            said: BTreeMap::new(),
            addresses: BTreeMap::new(),
            witnesses: BTreeMap::new(),
            turned_away: BTreeMap::new(),
            refused: BTreeMap::new(),
            given: BTreeSet::new(),
        }
    }
}

impl Inner {
    /// A beat of another node: its report, answered by this node's.
    pub(super) fn heard(&self, from: &Role, report: Arc<NodeReport>) -> Outcome {
        if *from != Role::Node(report.node) {
            return Err(Error::new(ErrorKind::Denied, "a report of somebody else"));
        }
        // Nodes find each other through any one they both know: a beat says where its sender listens.
        let from = report.node;
        self.take_note(report);
        let own = lock(&self.peers).own.clone();
        Ok(Answer::Report(vec![self.told(&own, from)]).into())
    }

    /// Takes over where a peer listens from a person or the configuration: it counts until the peer says so itself.
    pub(crate) fn place_peer(&self, node: NodeId, address: SocketAddr) {
        let now = self.env.starts_until_now();
        lock(&self.peers).given.insert(node);
        self.locate_peer(node, address, now);
    }

    /// Takes over where a peer listens, unless something newer is known: what was stored before a restart must not
    /// replace what the peer itself has said since.
    pub(crate) fn locate_peer(&self, node: NodeId, address: SocketAddr, as_of: Incarnation) {
        if node == self.id {
            return;
        }
        let newer = {
            let mut peers = lock(&self.peers);
            let known = peers.addresses.entry(node).or_insert((as_of, address));
            if known.0 > as_of {
                return;
            }
            *known = (as_of, address);
            *known
        };
        self.link.set_peer(node, newer.1);
    }

    fn note(&self, report: Arc<NodeReport>) {
        let now = self.env.clock.now();
        // To whom else it beats only now and then, its silence says nothing so soon.
        let beats_briskly = report.kind == NodeKind::Dpu
            && self.metadata.control().nodes.contains_key(&report.node)
            && (report.attached_to == Some(self.id) || self.metadata.is_leader(GroupId::CONTROL));
        let before = {
            let mut peers = lock(&self.peers);
            let was_up = peers.sight.heard(report.node, beats_briskly, now);
            peers.said.insert(report.node, report.clone()).filter(|_| was_up)
        };
        let news = |before: &Arc<NodeReport>| before.drives != report.drives || tails(before).ne(tails(&report));
        if before.as_ref().is_none_or(news) {
            self.reconfigure.notify_one();
        }
        if before.is_none_or(|before| before.state != report.state) {
            self.replan.notify_one();
        }
    }

    /// A beat failed. A broken link is proof; a beat that is only late is not: then the silence decides.
    fn lost(&self, node: NodeId, asked_at: Instant, error: &Error) {
        if error.kind() == ErrorKind::Timeout {
            return;
        }
        if lock(&self.peers).sight.lost(node, asked_at) {
            tracing::debug!(node = %self.id, peer = %node, %error, "a beat failed");
            self.hurry.notify_one();
        }
    }

    /// Whether what is not seen is not there: a node that has just started has not heard of everybody yet, and what it
    /// stored now it would store on too few nodes, for good.
    pub(super) fn has_looked_around(&self) -> bool {
        let view = self.metadata.control();
        let hosts = view.nodes.values().filter(|node| node.kind == NodeKind::Host && node.id != self.id);
        !lock(&self.peers).sight.looks_around(hosts.map(|node| node.id), self.env.clock.now())
    }

    /// Nodes that answer, this one included.
    pub(crate) fn alive(&self) -> BTreeSet<NodeId> {
        let now = self.env.clock.now();
        lock(&self.peers).sight.up(now).chain([self.id]).collect()
    }

    /// How a node looks from here.
    pub(crate) fn presence(&self, node: NodeId) -> Presence {
        match node {
            own if own == self.id => Presence::Up,
            other => lock(&self.peers).sight.presence(other, self.env.clock.now()),
        }
    }

    /// Whether a node that answers says that it runs an actor under an epoch.
    pub(super) fn runs_at(&self, node: NodeId, actor: ActorId, epoch: Epoch) -> bool {
        let runs = |report: &NodeReport| {
            let is_it = |one: &ActorReport| (one.actor, one.epoch, one.phase) == (actor, epoch, Phase::Running);
            report.actors.iter().any(is_it)
        };
        self.alive().contains(&node) && lock(&self.peers).said.get(&node).is_some_and(|report| runs(report))
    }

    /// Since when each other node that answers is up.
    pub(crate) fn up_since(&self) -> BTreeMap<NodeId, Instant> {
        lock(&self.peers).sight.up_since(self.env.clock.now())
    }

    /// What the nodes last said, this one included.
    pub(crate) fn reports(&self) -> BTreeMap<NodeId, Arc<NodeReport>> {
        let peers = lock(&self.peers);
        peers.said.values().chain([&peers.own]).map(|one| (one.node, one.clone())).collect()
    }

    /// The actors that run here.
    fn actor_reports(&self) -> Vec<ActorReport> {
        let report = |(stats, spec): (ActorStats, Arc<FunctionSpec>)| ActorReport {
            actor: stats.id,
            functions: spec.present().map(|part| part.name().to_owned()).collect(),
            epoch: stats.epoch,
            phase: stats.phase,
            jobs: stats.jobs as u64,
            bytes: stats.bytes as u64,
            requests: stats.requests,
            traffic_bytes: stats.traffic_bytes,
            restarts: stats.restarts,
        };
        self.host.inventory().into_iter().map(report).collect()
    }

    /// Whom a DPU beats to at its short interval: its host, and who leads the control group.
    fn brisk_to(&self) -> BTreeSet<NodeId> {
        let Some(dpu) = &self.config.dpu else { return BTreeSet::new() };
        let leads = self.metadata.status().into_iter().find(|one| one.group == GroupId::CONTROL);
        leads.and_then(|one| one.leader).into_iter().chain([dpu.attached_to.id()]).collect()
    }

    /// What this node sees of all now.
    pub(crate) fn sight(&self) -> Sight {
        let now = self.env.clock.now();
        let peers = lock(&self.peers);
        let said = peers.said.values().chain([&peers.own]).map(|one| (one.node, one.clone()));
        Sight { here: self.id, now, alive: peers.sight.up(now).chain([self.id]).collect(), reports: said.collect() }
    }

    /// This node's replicas of metadata groups.
    pub(crate) fn groups(&self) -> Vec<Group> {
        let group = |report: GroupReport| {
            let (voters, learners) = self.metadata.members(report.group);
            let leads = self.metadata.is_leader(report.group);
            let caught_up = if leads { self.metadata.caught_up(report.group) } else { BTreeSet::new() };
            Group { report, leads, voters, learners, caught_up }
        };
        self.metadata.status().into_iter().map(group).collect()
    }

    /// What this node sees of every registered drive, and of those that are lost.
    pub(crate) fn drive_states(&self) -> BTreeMap<DriveId, DriveState> {
        let alive = self.alive();
        let peers = lock(&self.peers);
        let view = self.metadata.control();
        view.drives
            .values()
            .map(|drive| {
                let report = if drive.node == self.id {
                    Some(&peers.own)
                } else {
                    peers.said.get(&drive.node).filter(|_| alive.contains(&drive.node))
                };
                let said = report.and_then(|report| report.drives.iter().find(|said| said.drive == drive.id));
                (drive.id, said.map_or(DriveState::Down, |said| said.state))
            })
            .chain(view.lost.keys().map(|drive| (*drive, DriveState::Lost)))
            .collect()
    }

    /// How the nodes of the mesh are, this one first asked of itself.
    pub(crate) fn status(&self) -> Vec<Arc<NodeReport>> {
        let alive = self.alive();
        let missing = self.readiness().err().map(|error| error.to_string());
        let view = self.metadata.control();
        let hosts: BTreeSet<NodeId> =
            view.nodes.values().filter(|node| node.kind == NodeKind::Host).map(|node| node.id).collect();
        let newest = view.layouts.values().next_back();
        let out = Outage {
            hosts: hosts.difference(&alive).copied().collect(),
            drives: self.drive_states().into_iter().filter(|(_, state)| *state != DriveState::Up).collect(),
        };
        let survival = newest.map(|layout| mesh_placement::survival(layout, hosts.len(), &out));
        let peers = lock(&self.peers);
        let mut nodes: BTreeMap<NodeId, NodeReport> = BTreeMap::new();
        for info in view.nodes.values() {
            nodes.insert(
                info.id,
                NodeReport {
                    node: info.id,
                    incarnation: info.incarnation,
                    kind: info.kind,
                    address: info.address.clone(),
                    pid: info.pid,
                    attached_to: info.attached_to,
                    emulated: info.emulated,
                    ..NodeReport::default()
                },
            );
        }
        // Who is no member may beat to this node all the same: it has been refused, or is about to be taken in.
        let is_member = |report: &&Arc<NodeReport>| view.nodes.is_empty() || view.nodes.contains_key(&report.node);
        for report in peers.said.values().filter(is_member).chain([&peers.own]) {
            nodes.insert(report.node, (**report).clone());
        }
        if let Some(own) = nodes.get_mut(&self.id) {
            (own.missing, own.survival) = (missing, survival);
        }
        for report in nodes.values_mut() {
            let emptied = view.nodes.get(&report.node).is_some_and(|info| info.draining);
            let draining = emptied || report.state == NodeState::Draining;
            report.state = match (alive.contains(&report.node), draining) {
                (false, _) => NodeState::Down,
                (true, true) => NodeState::Draining,
                (true, false) => NodeState::Up,
            };
            if report.state == NodeState::Down {
                report.actors.clear();
                report.missing = None;
                for drive in &mut report.drives {
                    drive.state = DriveState::Down;
                    drive.reason.get_or_insert_with(|| "its node is down".to_owned());
                }
            }
            // A drive that its node does not speak of is known to the control group all the same.
            let unsaid = |drive: &DriveInfo, state, reason: &str| DriveReport {
                drive: drive.id,
                state,
                capacity_bytes: drive.capacity_bytes,
                free_bytes: 0,
                shards: 0,
                corrupt: 0,
                reason: Some(reason.to_owned()),
            };
            for drive in view.drives.values().filter(|drive| drive.node == report.node) {
                if !report.drives.iter().any(|said| said.drive == drive.id) {
                    report.drives.push(unsaid(drive, DriveState::Down, "its node does not have it"));
                }
            }
            // And of a drive that is lost, whatever its node says of it.
            for drive in view.lost.values().filter(|drive| drive.node == report.node) {
                report.drives.retain(|said| said.drive != drive.id);
                report.drives.push(unsaid(drive, DriveState::Lost, media::LOST));
            }
        }
        nodes.into_values().filter(|report| report.node != NodeId(0)).map(Arc::new).collect()
    }

    /// Beats once: looks at itself, and tells everybody, or those of `only`.
    async fn beat(self: &Arc<Self>, only: Option<BTreeSet<NodeId>>) {
        let drives = media::reports(self).await;
        let sees: Vec<NodeId> = self.alive().into_iter().collect();
        let info = self.info();
        let own = Arc::new(NodeReport {
            node: self.id,
            incarnation: self.incarnation,
            life: self.life,
            starts: self.starts.clone(),
            marked: self.metadata.marked(),
            witness: None,
            kind: info.kind,
            address: info.address,
            pid: info.pid,
            state: if self.is_leaving() { NodeState::Draining } else { NodeState::Up },
            drives,
            groups: self.metadata.status(),
            sees,
            attached_to: info.attached_to,
            emulated: info.emulated,
            actors: self.actor_reports(),
            ability: self.ability.clone(),
            load: ability::load(&self.load),
            missing: self.readiness().err().map(|error| error.to_string()),
            survival: None,
            lost: self.losses.count(),
        });
        let changed = {
            let mut peers = lock(&self.peers);
            let changed = peers.own.drives != own.drives || peers.own.groups != own.groups;
            peers.own = own.clone();
            changed
        };
        if changed {
            self.reconfigure.notify_one();
        }
        let view = self.metadata.control();
        let known: BTreeSet<NodeId> = view
            .nodes
            .keys()
            .copied()
            .chain(self.config.peers.iter().map(|peer| peer.node.id()))
            .chain(lock(&self.peers).addresses.keys().copied())
            .filter(|node| *node != self.id && only.as_ref().is_none_or(|only| only.contains(node)))
            .collect();
        for node in known {
            let op = Op::Node(Box::new(NodeOp::Heartbeat(self.told(&own, node))));
            let envelope = Envelope::request(
                ActorId::NODE,
                Epoch(0),
                op,
                Buf::empty(),
                Principal::System,
                Lane::Control,
                self.config.timing.silence.0,
            );
            let (inner, asked_at) = (Arc::downgrade(self), self.env.clock.now());
            let done = Box::new(move |outcome: Outcome| {
                let Some(inner) = inner.upgrade() else { return };
                match outcome.map(|response| response.answer) {
                    Ok(Answer::Report(reports)) => {
                        for report in reports {
                            // The answer of a node that has not beaten yet says nothing.
                            if report.node == node {
                                inner.take_note(report);
                            }
                        }
                    }
                    Ok(_) => tracing::warn!(peer = %node, "a beat was answered with something else"),
                    Err(error) => inner.lost(node, asked_at, &error),
                }
            });
            self.link.send(node, envelope, done).forget();
        }
    }
}

/// The tails of chains that a node runs.
fn tails(report: &NodeReport) -> impl Iterator<Item = (ActorId, Epoch)> {
    let tails = report.actors.iter().filter(|one| one.actor.as_tail().is_some() && one.phase == Phase::Running);
    tails.map(|one| (one.actor, one.epoch))
}

/// A node that has not looked for so long was itself asleep: it looks at the short interval.
const LATE: core::time::Duration = DPU_HEARTBEAT_INTERVAL.saturating_mul(4);

/// Lets time pass for [`Peers`], by itself: whatever a beat waits for, this node is awake.
pub(super) async fn tick(node: Arc<Inner>) {
    let stopped = node.stopped();
    tokio::pin!(stopped);
    let mut ticks = tokio::time::interval(DPU_HEARTBEAT_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = &mut stopped => return,
            _ = ticks.tick() => lock(&node.peers).sight.tick(node.env.clock.now()),
        }
    }
}

/// Beats until the node stops.
pub(super) async fn run(node: Arc<Inner>) {
    let stopped = node.stopped();
    tokio::pin!(stopped);
    let ticking = |interval| {
        let mut ticks = tokio::time::interval(interval);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        ticks
    };
    let mut beats = ticking(HEARTBEAT_INTERVAL);
    let mut brisk = ticking(DPU_HEARTBEAT_INTERVAL);
    let mut known = node.alive();
    let mut looked_around = false;
    loop {
        let only = tokio::select! {
            () = &mut stopped => return,
            _ = beats.tick() => {
                node.pool.trim();
                None
            }
            // What changed here is told at once.
            () = node.hurry.notified() => None,
            _ = brisk.tick() => Some(node.brisk_to()),
        };
        let alive = node.alive();
        for peer in known.difference(&alive) {
            tracing::warn!(node = %node.id, %peer, "a peer is down");
            node.events.note(node.env.clock.wall(), Happened::NodeDown(*peer));
            node.host.abandon(*peer);
        }
        for peer in alive.difference(&known) {
            node.events.note(node.env.clock.wall(), Happened::NodeUp(*peer));
            node.host.resume(*peer);
        }
        if alive != known {
            node.reconfigure.notify_one();
            node.replan.notify_one();
        }
        // So that another can lead at once what one led that is down.
        for peer in known.difference(&alive) {
            node.metadata.peer_is_down(*peer).await;
        }
        for peer in alive.difference(&known) {
            node.metadata.peer_is_up(*peer).await;
        }
        known = alive;
        if !looked_around && node.has_looked_around() {
            looked_around = true;
            node.reconfigure.notify_one();
        }
        if only.as_ref().is_none_or(|only| !only.is_empty()) {
            node.beat(only).await;
        }
    }
}
