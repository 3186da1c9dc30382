//! Who depends on whom: which actors must be decided together, and therefore which must be looked at again after a
//! change.
//!
//! A node, its host and the host's DPUs are an *island*. An actor ties together the islands of all the nodes that it
//! names: its ingress, its pin, its medium's, where it is, where it is moving to. Islands that are tied together, and
//! the actors that tie them, are a [`Component`]; nothing in one component has a bearing on another. Most components
//! are one host with its DPUs.
//!
//! Members of an `apart` group are tied together too, but for those that have a single failure domain to be in: they
//! are a fact to the others, and nothing changes for them.

use std::collections::{BTreeMap, BTreeSet};

use mesh_core::id::{ActorId, NodeId};

use crate::view::{ActorView, NodeView, View};

/// What must be decided together: possibly more than one island of it, never a part.
#[derive(Clone, Debug, Default)]
pub(crate) struct Component {
    pub(crate) nodes: BTreeSet<NodeId>,
    pub(crate) actors: BTreeSet<ActorId>,
}

/// The ties of a view, kept up to date change by change.
#[derive(Clone, Debug, Default)]
pub(crate) struct Index {
    /// The actors that name a node.
    named: BTreeMap<NodeId, BTreeSet<ActorId>>,
    /// The DPUs of a host.
    attached: BTreeMap<NodeId, BTreeSet<NodeId>>,
    groups: BTreeMap<u64, BTreeSet<ActorId>>,
}

impl Index {
    pub(crate) fn new(view: &View) -> Self {
        let mut index = Self::default();
        for (&id, node) in &view.nodes {
            index.add_node(id, node);
        }
        // Sorted runs, so that each set is built in one go.
        let mut pairs: Vec<(NodeId, ActorId)> = Vec::with_capacity(view.actors.len() * 2);
        for (&id, actor) in &view.actors {
            for_each_named(id, actor, |node| pairs.push((node, id)));
            if let Some(group) = actor.apart {
                index.groups.entry(group).or_default().insert(id);
            }
        }
        pairs.sort_unstable();
        for run in pairs.chunk_by(|a, b| a.0 == b.0) {
            index.named.insert(run[0].0, run.iter().map(|(_, actor)| *actor).collect());
        }
        index
    }

    pub(crate) fn add_node(&mut self, id: NodeId, node: &NodeView) {
        if let Some(host) = node.attached_to {
            self.attached.entry(host).or_default().insert(id);
        }
    }

    pub(crate) fn remove_node(&mut self, id: NodeId, node: &NodeView) {
        if let Some(host) = node.attached_to {
            take(&mut self.attached, host, id);
        }
    }

    pub(crate) fn add_actor(&mut self, id: ActorId, actor: &ActorView) {
        for_each_named(id, actor, |node| {
            self.named.entry(node).or_default().insert(id);
        });
        if let Some(group) = actor.apart {
            self.groups.entry(group).or_default().insert(id);
        }
    }

    pub(crate) fn remove_actor(&mut self, id: ActorId, actor: &ActorView) {
        for_each_named(id, actor, |node| take(&mut self.named, node, id));
        if let Some(group) = actor.apart {
            take(&mut self.groups, group, id);
        }
    }

    /// The DPUs attached to a node.
    pub(crate) fn dpus(&self, host: NodeId) -> impl Iterator<Item = NodeId> {
        self.attached.get(&host).into_iter().flatten().copied()
    }

    /// The members of a group.
    pub(crate) fn group(&self, group: u64) -> impl Iterator<Item = ActorId> {
        self.groups.get(&group).into_iter().flatten().copied()
    }

    /// Every node that an actor names.
    pub(crate) fn named(&self) -> impl Iterator<Item = NodeId> {
        self.named.keys().copied()
    }

    /// Everything tied to these nodes and actors, but for what is tied to nodes in `done`.
    pub(crate) fn component(
        &self,
        view: &View,
        nodes: impl IntoIterator<Item = NodeId>,
        actors: impl IntoIterator<Item = ActorId>,
        done: &BTreeSet<NodeId>,
    ) -> Component {
        let mut found = Component::default();
        let mut open_nodes: Vec<NodeId> = nodes.into_iter().collect();
        let mut open_actors: Vec<ActorId> = actors.into_iter().collect();
        let mut groups: BTreeSet<u64> = BTreeSet::new();
        loop {
            if let Some(id) = open_actors.pop() {
                let Some(actor) = view.actors.get(&id) else { continue };
                if found.actors.insert(id) {
                    for_each_named(id, actor, |node| open_nodes.push(node));
                    if let Some(group) = actor.apart.filter(|group| groups.insert(*group)) {
                        open_actors.extend(self.group(group).filter(|&member| {
                            view.actors.get(&member).is_some_and(|actor| {
                                self.domains(view, member, actor) == Domains::Many && !names_any(member, actor, done)
                            })
                        }));
                    }
                }
            } else if let Some(id) = open_nodes.pop() {
                if found.nodes.insert(id) {
                    open_nodes.extend(view.nodes.get(&id).and_then(|node| node.attached_to));
                    open_nodes.extend(self.dpus(id));
                    open_actors.extend(self.named.get(&id).into_iter().flatten());
                }
            } else {
                return found;
            }
        }
    }

    /// The failure domains that the actor can be in, wherever it is now.
    pub(crate) fn domains(&self, view: &View, id: ActorId, actor: &ActorView) -> Domains {
        let mut domains = BTreeSet::new();
        let domain = |node| view.nodes.get(&node).map_or(node, |node: &NodeView| node.domain);
        domains.extend(id.as_ingress().into_iter().chain(actor.ingress).chain(actor.pin).map(domain));
        domains.extend(actor.media.iter().flatten().copied().map(domain));
        if actor.media.is_none()
            && let Some(ingress) = actor.ingress
        {
            domains.extend(self.dpus(ingress).map(domain));
            domains.extend(view.nodes.get(&ingress).and_then(|node| node.attached_to).map(domain));
        }
        match domains.pop_first() {
            None => Domains::None,
            Some(only) if domains.is_empty() => Domains::One(only),
            Some(_) => Domains::Many,
        }
    }
}

/// How many failure domains an actor has to choose from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Domains {
    None,
    One(NodeId),
    Many,
}

/// Every node that the actor's decision can depend on, but for those attached to these.
fn for_each_named(id: ActorId, actor: &ActorView, mut visit: impl FnMut(NodeId)) {
    let places = [actor.at, actor.moving].into_iter().flatten().flat_map(|spot| spot.nodes());
    id.as_ingress().into_iter().chain(actor.ingress).chain(actor.pin).chain(places).for_each(&mut visit);
    actor.media.iter().flatten().copied().for_each(visit);
}

fn names_any(id: ActorId, actor: &ActorView, nodes: &BTreeSet<NodeId>) -> bool {
    let mut any = false;
    for_each_named(id, actor, |node| any |= nodes.contains(&node));
    any
}

fn take<K: Ord + Copy, V: Ord>(map: &mut BTreeMap<K, BTreeSet<V>>, key: K, value: V) {
    if let Some(set) = map.get_mut(&key) {
        set.remove(&value);
        if set.is_empty() {
            map.remove(&key);
        }
    }
}
