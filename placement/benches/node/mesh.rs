//! The mesh around the node: what the control group holds of it, and how life changes figures.

use std::{collections::BTreeSet, sync::Arc};

use mesh_core::{
    assignment::{Assignment, Preference, Scope, Wish},
    id::{ActorId, ClusterId, DriveId, Epoch, GroupId, Incarnation, KeyId, LayoutId, NodeId, ReplicaId, TenantId},
    limits::{DPU_HEARTBEAT_INTERVAL, DPU_SILENCE_MAX, HEARTBEAT_INTERVAL, HEARTBEAT_SILENCE_MAX},
    meta::{ControlView, MeshCommand, TenantLimits, TenantRow, WrappedKey},
    op::{Ability, ActorReport, DriveReport, GroupReport, ScrubState, Settled, Timeline},
    time::Instant,
    topology::{Code, DriveInfo, DriveState, NodeInfo, NodeKind},
};
use mesh_placement::{
    doors::Doors,
    layout::{self, Lineage},
    steward::{Group, Here, peers::Timing, specs::Upkeep},
};

/// The node that is looked at.
pub(crate) const HERE: NodeId = NodeId(1);
/// Who leads the control group, unless that is the node itself.
pub(crate) const LEADER: NodeId = NodeId(2);
const DRIVES: u64 = 8;
const RACK: u64 = 40;
const CODE: Code = Code { data: 4, parity: 2 };

/// What the control group holds.
pub(crate) struct Mesh {
    pub(crate) control: ControlView,
    pub(crate) hosts: u64,
}

impl Mesh {
    pub(crate) fn new(nodes: u64, actors: u64) -> Self {
        let hosts = nodes / 2;
        let mut control = ControlView {
            cluster: Some(ClusterId([1; 16])),
            code: Some(CODE),
            namespaces: 1,
            ..ControlView::default()
        };
        for id in 1..=2 * hosts {
            let node = node(NodeId(id), hosts);
            control.nodes.insert(node.id, node);
        }
        for host in 1..=hosts {
            for number in 0..DRIVES {
                let id = DriveId(host * 1000 + number);
                control.drives.insert(
                    id,
                    DriveInfo { id, node: NodeId(host), epoch: Epoch(1), capacity_bytes: 1 << 42, seat: None },
                );
            }
        }
        let wrapped = WrappedKey { key: KeyId(0), nonce: [0; 12], sealed: vec![0; 48] };
        for tenant in (1..=actors / hosts).map(TenantId) {
            let (name, wrapped, limits) = (format!("tenant-{tenant}"), wrapped.clone(), TenantLimits::default());
            control.tenants.insert(tenant, Arc::new(TenantRow { id: tenant, name, key: KeyId(1), wrapped, limits }));
            let on_dpu = tenant.0 % 2 == 0;
            let preference = if on_dpu { Preference::PreferDpu } else { Preference::HostOnly };
            control.wishes.insert(Scope::Tenant(tenant), Wish { preference, pin: None });
            for host in 1..=hosts {
                let actor = ActorId::data(tenant, NodeId(host));
                let at = NodeId(if on_dpu { hosts + host } else { host });
                control.assignments.insert(actor, Assignment::new(actor, at, Epoch(1)));
            }
        }
        let drives: Vec<_> = control.drives.values().cloned().collect();
        let made =
            layout::build(LayoutId(1), &Lineage::First(1, CODE), &drives, &mesh_core::topology::Places::default())
                .unwrap();
        control.layouts.insert(made.id, Arc::new(made));
        Self { control, hosts }
    }

    /// The node that is looked at, as it started.
    pub(crate) fn here(&self) -> Here {
        Here {
            info: self.control.nodes[&HERE].clone(),
            starts: vec![self.control.nodes[&HERE].incarnation],
            ability: ability(),
            upkeep: Upkeep {
                reclaim_grace_ms: 60_000,
                repair_bytes_per_s: 1 << 26,
                count_every_ms: 0,
                out_after_ms: 600_000,
            },
            timing: Timing {
                beat: HEARTBEAT_INTERVAL,
                dpu_beat: DPU_HEARTBEAT_INTERVAL,
                look: core::time::Duration::from_millis(100),
                silence: HEARTBEAT_SILENCE_MAX,
                dpu_silence: DPU_SILENCE_MAX,
                late: DPU_HEARTBEAT_INTERVAL * 4,
            },
        }
    }

    pub(crate) fn host_of(&self, node: NodeId) -> Option<NodeId> {
        self.control.nodes.get(&node)?.attached_to
    }

    pub(crate) fn drives_of(&self, node: NodeId) -> Vec<DriveReport> {
        let own = self.control.drives.values().filter(|drive| drive.node == node);
        let report = |drive: &DriveInfo| DriveReport {
            drive: drive.id,
            state: DriveState::Up,
            capacity_bytes: drive.capacity_bytes,
            free_bytes: drive.capacity_bytes / 2,
            shards: 100_000,
            corrupt: 0,
            damaged: 0,
            scrub: ScrubState::default(),
            reason: None,
        };
        own.map(report).collect()
    }

    /// DPUs of one rack: their hosts are none of the nodes that matter here.
    pub(crate) fn rack(&self) -> BTreeSet<NodeId> {
        (0..RACK.min(self.hosts / 2)).map(|at| NodeId(self.hosts + 11.min(self.hosts / 2) + at)).collect()
    }

    pub(crate) fn actors_on(&self, nodes: &BTreeSet<NodeId>) -> Vec<ActorId> {
        let rows = self.control.assignments.values().filter(|row| nodes.contains(&row.node));
        rows.map(|row| row.actor).collect()
    }

    /// Its host takes an actor back.
    pub(crate) fn takeover(&self, actor: ActorId) -> MeshCommand {
        let row = self.control.assignments[&actor];
        let to = self.host_of(row.node).unwrap();
        MeshCommand::Assign(Assignment::new(actor, to, Epoch(row.epoch.0 + 1)))
    }

    pub(crate) fn apply(&mut self, command: &MeshCommand) {
        let MeshCommand::Assign(row) = command else { panic!("nothing but places is decided here: {command:?}") };
        self.control.assignments.insert(row.actor, *row);
    }
}

fn node(id: NodeId, hosts: u64) -> NodeInfo {
    let attached_to = (id.0 > hosts).then(|| NodeId(id.0 - hosts));
    NodeInfo {
        id,
        kind: if attached_to.is_some() { NodeKind::Dpu } else { NodeKind::Host },
        address: format!("10.0.{}.{}:7000", id.0 / 256, id.0 % 256),
        incarnation: start(id),
        pid: 1000 + id.0 as u32,
        draining: false,
        attached_to,
        emulated: None,
        life: u64::MAX / 3 - id.0,
        invitation: 0,
        level: mesh_core::meta::LEVEL,
        location: None,
    }
}

/// As a real one: milliseconds since 1970, and some random bits.
pub(crate) fn start(id: NodeId) -> Incarnation {
    Incarnation((1_790_000_000_000 << 16) + id.0)
}

pub(crate) fn ability() -> Arc<Ability> {
    let measured = ["policy", "encrypt", "erasure", "object", "drive"].map(|kind| (kind.to_owned(), (2_000, 150)));
    // Nobody measures it, here as on a real node.
    let functions = measured.into_iter().chain([("compress".to_owned(), (0, 0))]).collect();
    Arc::new(Ability { functions, millicores: 16_000, memory_bytes: 64 << 30 })
}

/// A node's replicas, if that one leads. Of a mesh of so many hosts and their DPUs, which follow the control group.
pub(crate) fn groups(node: NodeId, leader: NodeId, hosts: u64) -> Vec<Group> {
    let replica = |node: NodeId| ReplicaId::new(node, 1);
    let voters: BTreeSet<ReplicaId> = (1..=5).map(NodeId).map(replica).collect();
    let learners = |id| (6..=if id == GroupId::CONTROL { 2 * hosts } else { hosts }).map(NodeId).map(replica).collect();
    let group = |id: GroupId| {
        let leads = node == leader;
        let report = GroupReport {
            group: id,
            replica: replica(node),
            leader: Some(leader),
            term: 3,
            trouble: None,
            voters: if leads { voters.iter().copied().collect() } else { Vec::new() },
            settled: Settled::Unsaid,
            timeline: Timeline::default(),
            restored: Timeline::default(),
            is_new: false,
        };
        let learners: BTreeSet<ReplicaId> = learners(id);
        let caught_up = if leads { learners.iter().chain(&voters).copied().collect() } else { BTreeSet::new() };
        Group { report, leads, voters: voters.clone(), learners, caught_up, unfinished: None }
    };
    [GroupId::CONTROL, GroupId(1)].map(group).into()
}

pub(crate) fn actor_report(actor: ActorId, functions: Vec<String>, epoch: Epoch) -> ActorReport {
    ActorReport {
        actor,
        functions,
        epoch,
        phase: Default::default(),
        jobs: 0,
        bytes: 0,
        requests: 1_000_000,
        traffic_bytes: 1 << 40,
        restarts: 0,
    }
}

/// The `at`th actor of a node is used in every fourth round.
pub(crate) fn use_actor(actor: &mut ActorReport, at: u64, round: u64) {
    if (at + round).is_multiple_of(4) {
        actor.requests += 7;
        actor.traffic_bytes += 7 << 16;
        actor.jobs = round % 3;
    }
}

/// All of a node's drives are used.
pub(crate) fn use_drives(drives: &mut [DriveReport], now: Instant) {
    for drive in drives {
        drive.shards += 1 + now.0 % 3;
        drive.free_bytes -= 4096;
    }
}

/// As the owner has the shell know where everybody is.
pub(crate) fn learn(doors: &mut Doors<(), ()>, before: &ControlView, view: &ControlView) {
    doors.follow(before, view);
}
