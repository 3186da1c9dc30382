//! All other nodes, as far as the one that is looked at has to do with them: what they say, message by message.

use std::{collections::BTreeMap, sync::Arc};

use mesh_core::{
    Answer, Op,
    envelope::Body,
    id::{ActorId, NodeId, ReplicaId},
    meta::MeshCommand,
    op::{AsOf, Beat, Held, NodeLoad, NodeOp, NodeReport, Witness},
    time::Instant,
    topology::{NodeInfo, NodeState},
};
use mesh_placement::steward::voice::{Voice, pace};

use crate::mesh::{self, HERE, Mesh};

/// What one node tells another.
pub(crate) type Message = Arc<Beat>;

/// The others.
pub(crate) struct Others {
    nodes: BTreeMap<NodeId, Other>,
    /// The one that is looked at leads the control group.
    leads: bool,
}

struct Other {
    report: NodeReport,
    up: bool,
    rounds: u64,
    voice: Voice,
    /// What it holds of the one that is looked at.
    held: Option<Held>,
    marked: u64,
}

impl Others {
    pub(crate) fn new(mesh: &Mesh, leader: NodeId) -> Self {
        let mut actors: BTreeMap<NodeId, Vec<ActorId>> = BTreeMap::new();
        for row in mesh.control.assignments.values() {
            actors.entry(row.node).or_default().push(row.actor);
        }
        let sees: Vec<NodeId> = mesh.control.nodes.keys().copied().collect();
        let others = mesh.control.nodes.values().filter(|info| info.id != HERE);
        let other = |info: &NodeInfo| {
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
            let mut other = Other { report, up: true, rounds: 0, voice: Voice::default(), held: None, marked: 0 };
            other.voice.say(&Arc::new(other.report.clone()));
            (info.id, other)
        };
        Self { nodes: others.map(other).collect(), leads: leader == HERE }
    }

    pub(crate) fn ids(&self) -> impl Iterator<Item = NodeId> {
        self.nodes.keys().copied()
    }

    pub(crate) fn is_up(&self, id: NodeId) -> bool {
        self.nodes.get(&id).is_some_and(|other| other.up)
    }

    pub(crate) fn lose(&mut self, id: NodeId) {
        self.nodes.get_mut(&id).unwrap().up = false;
        for other in self.nodes.values_mut() {
            other.report.sees.retain(|seen| *seen != id);
        }
    }

    /// The group has decided something, and whoever is concerned does it.
    pub(crate) fn learn(&mut self, command: &MeshCommand) {
        let MeshCommand::Assign(row) = command else { return };
        let functions = ["policy", "encrypt", "erasure"].map(str::to_owned).to_vec();
        if let Some(other) = self.nodes.get_mut(&row.node) {
            other.report.actors.push(mesh::actor_report(row.actor, functions, row.epoch));
            other.report.actors.sort_by_key(|one| one.actor);
        }
    }

    /// It beats to the one that is looked at.
    pub(crate) fn beat(&mut self, id: NodeId, now: Instant) -> Message {
        let pace = pace(self.nodes.len(), self.leads);
        let other = self.nodes.get_mut(&id).unwrap();
        other.live(now);
        let news = other.voice.beat(HERE, pace, now);
        let known = Witness {
            life: other.report.life,
            incarnation: mesh::start(HERE),
            replica: Some(ReplicaId::new(HERE, 1)),
            marked: other.marked,
        };
        Arc::new(Beat { witness: Some(known), news, ..other.bare() })
    }

    /// It has heard this.
    pub(crate) fn hear(&mut self, id: NodeId, beat: &Message) {
        let other = self.nodes.get_mut(&id).unwrap();
        if let Some(news) = &beat.news {
            let before = other.held.map_or_else(AsOf::default, |held| held.as_of);
            let figures = if news.figures { news.version } else { before.figures };
            let as_of = AsOf { states: news.version, figures };
            other.held = Some(Held { start: beat.incarnation, as_of });
        }
        other.voice.hear(HERE, beat.held, other.report.incarnation);
    }

    /// It answers a beat.
    pub(crate) fn answer(&mut self, id: NodeId, beat: &Message) -> Message {
        let other = self.nodes.get_mut(&id).unwrap();
        let news = other.voice.answer(beat.held, other.report.incarnation);
        Arc::new(Beat { news, ..other.bare() })
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
        self.marked = now.0 / 10_000_000;
        self.voice.say(&Arc::new(self.report.clone()));
    }

    fn bare(&self) -> Beat {
        Beat {
            node: self.report.node,
            incarnation: self.report.incarnation,
            address: self.report.address.clone(),
            replica: self.report.groups.first().map(|said| said.replica),
            marked: self.marked,
            witness: None,
            registered: Vec::new(),
            held: self.held,
            news: None,
        }
    }
}

/// As a beat goes over a link.
pub(crate) fn request(message: Message) -> Body {
    Body::Request(Op::Node(Box::new(NodeOp::Beat(message))))
}

/// As its answer does.
pub(crate) fn answer(message: Message) -> Body {
    Body::Answer(Answer::Beat(message))
}

/// What came over a link.
pub(crate) fn said(body: Body) -> Option<Message> {
    match body {
        Body::Request(Op::Node(op)) => match *op {
            NodeOp::Beat(message) => Some(message),
            _ => None,
        },
        Body::Answer(Answer::Beat(message)) => Some(message),
        _ => None,
    }
}
