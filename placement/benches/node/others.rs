//! All other nodes, as far as the one that is looked at has to do with them: what they say, message by message.

use std::{collections::BTreeMap, sync::Arc};

use mesh_core::{
    Answer, Op,
    envelope::Body,
    id::{ActorId, NodeId},
    meta::Command,
    op::{NodeLoad, NodeOp, NodeReport},
    time::Instant,
    topology::NodeState,
};

use crate::mesh::{self, HERE, Mesh};

/// What one node tells another.
pub(crate) type Message = Arc<NodeReport>;

/// The others.
pub(crate) struct Others(BTreeMap<NodeId, Other>);

struct Other {
    report: NodeReport,
    up: bool,
    rounds: u64,
}

impl Others {
    pub(crate) fn new(mesh: &Mesh, leader: NodeId) -> Self {
        let mut actors: BTreeMap<NodeId, Vec<ActorId>> = BTreeMap::new();
        for row in mesh.control.assignments.values() {
            actors.entry(row.node).or_default().push(row.actor);
        }
        let sees: Vec<NodeId> = mesh.control.nodes.keys().copied().collect();
        let others = mesh.control.nodes.values().filter(|info| info.id != HERE);
        let other = |info: &mesh_core::topology::NodeInfo| {
            let own = actors.remove(&info.id).unwrap_or_default();
            let functions = ["policy", "encrypt", "erasure"].map(str::to_owned).to_vec();
            let own =
                own.into_iter().map(|actor| mesh::actor_report(actor, functions.clone(), mesh_core::id::Epoch(1)));
            let report = NodeReport {
                node: info.id,
                incarnation: info.incarnation,
                life: info.life,
                starts: vec![info.incarnation],
                kind: info.kind,
                address: info.address.clone(),
                pid: info.pid,
                state: NodeState::Up,
                drives: mesh.drives_of(info.id),
                groups: mesh::groups(info.id, leader, mesh.hosts).into_iter().map(|group| group.report).collect(),
                sees: sees.clone(),
                attached_to: info.attached_to,
                actors: own.collect(),
                ability: mesh::ability(),
                ..NodeReport::default()
            };
            (info.id, Other { report, up: true, rounds: 0 })
        };
        Self(others.map(other).collect())
    }

    pub(crate) fn ids(&self) -> impl Iterator<Item = NodeId> {
        self.0.keys().copied()
    }

    pub(crate) fn is_up(&self, id: NodeId) -> bool {
        self.0.get(&id).is_some_and(|other| other.up)
    }

    pub(crate) fn lose(&mut self, id: NodeId) {
        self.0.get_mut(&id).unwrap().up = false;
        for other in self.0.values_mut() {
            other.report.sees.retain(|seen| *seen != id);
        }
    }

    /// The group has decided something, and whoever is concerned does it.
    pub(crate) fn learn(&mut self, command: &Command) {
        let Command::Assign(row) = command else { return };
        let functions = ["policy", "encrypt", "erasure"].map(str::to_owned).to_vec();
        if let Some(other) = self.0.get_mut(&row.node) {
            other.report.actors.push(mesh::actor_report(row.actor, functions, row.epoch));
        }
    }

    /// It beats to the one that is looked at.
    pub(crate) fn beat(&mut self, id: NodeId, now: Instant) -> Message {
        let other = self.0.get_mut(&id).unwrap();
        other.live(now);
        other.say()
    }

    /// It has heard this.
    pub(crate) fn hear(&mut self, _: NodeId, _: &Message) {}

    /// It answers a beat.
    pub(crate) fn answer(&mut self, id: NodeId, _: Instant) -> Message {
        self.0.get_mut(&id).unwrap().say()
    }
}

impl Other {
    /// Time has passed.
    fn live(&mut self, now: Instant) {
        self.rounds += 1;
        for (at, actor) in self.report.actors.iter_mut().enumerate() {
            mesh::use_actor(actor, at as u64, self.rounds);
        }
        mesh::use_drives(&mut self.report.drives, now);
        self.report.load = NodeLoad { cpu_ns: now.0 / 3, ..NodeLoad::default() };
        self.report.marked = now.0 / 10_000_000;
    }

    fn say(&self) -> Message {
        let known = mesh_core::op::Witness {
            life: self.report.life,
            incarnation: mesh::start(HERE),
            replica: Some(mesh_core::id::ReplicaId::new(HERE, 1)),
            marked: self.report.marked,
        };
        Arc::new(NodeReport { witness: Some(known), ..self.report.clone() })
    }
}

/// As a beat goes over a link.
pub(crate) fn request(message: Message) -> Body {
    Body::Request(Op::Node(Box::new(NodeOp::Heartbeat(message))))
}

/// As its answer does.
pub(crate) fn answer(message: Message) -> Body {
    Body::Answer(Answer::Report(vec![message]))
}

/// What came over a link.
pub(crate) fn said(body: Body) -> Option<Message> {
    match body {
        Body::Request(Op::Node(op)) => match *op {
            NodeOp::Heartbeat(message) => Some(message),
            _ => None,
        },
        Body::Answer(Answer::Report(reports)) => reports.into_iter().next(),
        _ => None,
    }
}
