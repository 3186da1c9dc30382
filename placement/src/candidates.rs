//! Where an actor might run, as far as that does not depend on where others are: which nodes may and can run it, and
//! what it costs there.

use core::ops::Range;

use mesh_core::{
    id::{ActorId, NodeId},
    plan::{Reason, Spot},
    topology::NodeKind,
};

use crate::{
    fuse::{self, Price},
    index::Index,
    view::{ActorView, NodeView, Preference, View},
};

/// A place that an actor may take if there is room.
#[derive(Clone, Debug)]
pub(crate) struct Candidate {
    pub(crate) spot: Spot,
    pub(crate) price: Price,
    /// What each part needs, head first.
    pub(crate) needs: [Option<Need>; 2],
    /// Stages against the preference.
    pub(crate) miss: u64,
    /// Set only for the place where the actor is: why it must leave.
    pub(crate) blocked: Option<Reason>,
}

/// What a part of an actor takes of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Need {
    pub(crate) node: NodeId,
    pub(crate) memory: u64,
    pub(crate) ns: u64,
}

/// All that there is to say about an actor before looking at the others.
#[derive(Debug, Default)]
pub(crate) struct Candidates {
    pub(crate) list: Vec<Candidate>,
    /// Why nodes are not in the list, the most wanted first.
    pub(crate) refusals: Vec<Reason>,
    /// Where in the list it is now.
    pub(crate) origin: Option<usize>,
    /// Why it is no longer where it was.
    pub(crate) lost: Option<Reason>,
}

impl Candidates {
    pub(crate) fn of(view: &View, index: &Index, id: ActorId, actor: &ActorView) -> Self {
        let mut found = Self::default();
        let asker = Asker { view, id, actor, home: home(id, actor) };
        let mut try_spot = |spot: Spot| match asker.blocked(spot) {
            None => found.list.extend(asker.candidate(spot, None)),
            Some(reason) if spot.tail.is_none() => found.refusals.push(reason),
            Some(_) => {}
        };
        if let Some(pin) = actor.pin {
            try_spot(Spot::whole(pin));
        }
        let mut try_other = |spot: Spot| {
            if spot.tail.is_some() || actor.pin != Some(spot.head) {
                try_spot(spot);
            }
        };
        match (&actor.media, asker.home) {
            (Some(media), None) => media.iter().for_each(|&node| try_other(Spot::whole(node))),
            (_, Some(home)) => {
                if id.as_ingress().is_none() {
                    for dpu in index.dpus(home) {
                        try_other(Spot::whole(dpu));
                        if actor.preference != Preference::HostOnly && actor.preference != Preference::DpuOnly {
                            (actor.cut_min.max(1)..actor.stages.len())
                                .for_each(|cut| try_other(Spot::split(home, cut, dpu)));
                        }
                    }
                    if let Some(host) = view.nodes.get(&home).and_then(|node| node.attached_to) {
                        try_other(Spot::whole(host));
                    }
                }
                try_other(Spot::whole(home));
            }
            (None, None) => {}
        }
        if let Some(at) = actor.at {
            match at.nodes().find_map(|node| asker.gone(node)) {
                Some(reason) => found.lost = Some(reason),
                None => {
                    found.origin = found.list.iter().position(|candidate| candidate.spot == at).or_else(|| {
                        found.list.extend(asker.candidate(at, asker.blocked(at)));
                        Some(found.list.len() - 1)
                    });
                }
            }
        }
        found
    }

    /// Why there is no candidate at all.
    pub(crate) fn why_none(&self, id: ActorId, actor: &ActorView) -> Reason {
        if let Some(Reason::NoCapability { kind, .. }) = self.refusals.first()
            && self.refusals.iter().all(|reason| matches!(reason, Reason::NoCapability { kind: k, .. } if k == kind))
        {
            return Reason::NoCapability { kind: kind.clone(), node: None };
        }
        if let Some(reason) = self.refusals.iter().find(|reason| !matches!(reason, Reason::Forbidden { .. })) {
            return reason.clone();
        }
        match (home(id, actor), actor.preference) {
            (Some(home), Preference::DpuOnly) => Reason::NoDpu(home),
            _ => self.refusals.first().cloned().unwrap_or(Reason::Nowhere),
        }
    }
}

/// The node whose requests the actor serves: an ingress serves its own.
pub(crate) fn home(id: ActorId, actor: &ActorView) -> Option<NodeId> {
    id.as_ingress().or(actor.ingress)
}

/// What the actor takes of each node at a place.
pub(crate) fn needs(actor: &ActorView, spot: Spot, price: &Price) -> [Option<Need>; 2] {
    let [head, tail] = fuse::parts(spot, actor.stages.len());
    let head_ns = price.head_ns.saturating_add(if tail.is_none() { price.tail_ns } else { 0 });
    let need = |(node, stages), ns| Need { node, memory: memory(actor, stages), ns };
    [head.map(|part| need(part, head_ns)), tail.map(|part| need(part, price.tail_ns))]
}

/// Bytes that the stages of a part, and the part itself, hold.
fn memory(actor: &ActorView, stages: Range<usize>) -> u64 {
    let states = actor.stages.get(stages).unwrap_or_default().iter();
    states.fold(actor.needs_memory_bytes, |sum, stage| sum.saturating_add(stage.state_bytes))
}

struct Asker<'a> {
    view: &'a View,
    id: ActorId,
    actor: &'a ActorView,
    home: Option<NodeId>,
}

impl Asker<'_> {
    fn gone(&self, id: NodeId) -> Option<Reason> {
        match self.view.nodes.get(&id) {
            None => Some(Reason::NoSuchNode(id)),
            Some(node) if !node.up => Some(Reason::NodeDown(id)),
            Some(_) => None,
        }
    }

    /// What is wrong with the spot, whatever others do.
    fn blocked(&self, spot: Spot) -> Option<Reason> {
        let stages = self.actor.stages.len();
        let Some((cut, tail)) = spot.tail else { return self.part_blocked(spot.head, 0..stages) };
        let node_and_dpu = self.home == Some(spot.head) && self.actor.pin != Some(spot.head);
        if cut < self.actor.cut_min.max(1) || cut >= stages || !node_and_dpu || tail == spot.head {
            return Some(Reason::BadCut);
        }
        self.part_blocked(spot.head, 0..cut).or_else(|| self.part_blocked(tail, cut..stages))
    }

    fn part_blocked(&self, id: NodeId, stages: Range<usize>) -> Option<Reason> {
        let Some(node) = self.view.nodes.get(&id) else { return Some(Reason::NoSuchNode(id)) };
        let actor = self.actor;
        let forbidden = match actor.preference {
            Preference::HostOnly => node.kind == NodeKind::Dpu,
            Preference::DpuOnly => node.kind == NodeKind::Host,
            Preference::Auto | Preference::PreferDpu => false,
        };
        if forbidden {
            return Some(Reason::Forbidden { node: id, preference: actor.preference });
        }
        if !node.up {
            return Some(Reason::NodeDown(id));
        }
        if node.blind {
            return Some(Reason::NotReady(id));
        }
        if node.draining {
            return Some(Reason::Draining(id));
        }
        if actor.media.as_ref().is_some_and(|media| !media.contains(&id)) {
            return Some(Reason::NotVisible(id));
        }
        if let Some(reason) = self.not_served(id, node) {
            return Some(reason);
        }
        if actor.failed_on.contains(&id) {
            return Some(Reason::Failed(id));
        }
        let stages = actor.stages.get(stages).unwrap_or_default();
        let lacking = stages.iter().find(|stage| !node.capabilities.contains(&stage.kind));
        lacking.map(|stage| Reason::NoCapability { kind: stage.kind.clone(), node: Some(id) })
    }

    fn not_served(&self, id: NodeId, node: &NodeView) -> Option<Reason> {
        let home = self.home?;
        let attached = node.attached_to == Some(home)
            || self.view.nodes.get(&home).is_some_and(|home| home.attached_to == Some(id));
        let served = id == home || (attached && self.id.as_ingress().is_none());
        let pinned = self.actor.pin == Some(id);
        (!served && !pinned).then_some(Reason::NotServed { node: id, ingress: home })
    }

    /// `None` if a node of it is not known.
    fn candidate(&self, spot: Spot, blocked: Option<Reason>) -> Option<Candidate> {
        let actor = self.actor;
        let head = self.view.nodes.get(&spot.head)?;
        let tail = match spot.tail {
            None => None,
            Some((_, node)) => Some(self.view.nodes.get(&node)?),
        };
        let home = self.home.and_then(|home| self.view.nodes.get(&home));
        let price = fuse::price(actor, spot, head, tail, home, &self.view.rules);
        let stages = actor.stages.len();
        let cut = spot.tail.map_or(stages, |(cut, _)| cut.min(stages));
        let on_host = |node: &NodeView, count: usize| if node.kind == NodeKind::Host { count as u64 } else { 0 };
        let miss = match actor.preference {
            Preference::PreferDpu => on_host(head, cut) + tail.map_or(0, |tail| on_host(tail, stages - cut)),
            _ => 0,
        };
        Some(Candidate { spot, needs: needs(actor, spot, &price), price, miss, blocked })
    }
}
