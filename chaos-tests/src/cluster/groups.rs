//! What stands in for a node's replicas of the metadata groups: who leads the control group, and when each node hears what it
//! has decided. What the group decides is [`crate::metadata`]'s.

use core::time::Duration;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use mesh_core::{
    Error, ErrorKind,
    id::{ActorId, GroupId, NodeId, ReplicaId},
    meta::ControlView,
    op::{GroupReport, Settled, Timeline},
};
use mesh_placement::steward::{Event, Group, Key};

use super::{Cluster, Errand, LIFE, Life, NAMESPACE};
use crate::{planted::Bug, world::World};

/// Who believes to lead the control group, and in which term: the last one does, others have not heard.
#[derive(Debug, Default)]
pub(super) struct Leads {
    term: u64,
    terms: BTreeMap<NodeId, u64>,
}

impl Leads {
    /// Who leads, as whoever is up to date knows.
    fn leader(&self) -> Option<NodeId> {
        self.terms.iter().max_by_key(|(_, term)| **term).map(|(node, _)| *node)
    }

    /// A node is down.
    pub(super) fn end(&mut self, node: NodeId) {
        self.terms.remove(&node);
    }
}

impl Cluster {
    /// What a node's replicas say. Every host leads the namespace group, as far as it knows: all of them reclaim.
    pub(super) fn groups(&self, node: NodeId) -> Vec<Group> {
        let replica = |node| ReplicaId::new(node, LIFE);
        let voters: BTreeSet<ReplicaId> = self.swarm.node_ids().map(replica).collect();
        let dpus = self.swarm.members().filter(|node| !self.swarm.is_host(*node)).map(replica);
        let group = |group, term, leader: Option<NodeId>, learners: BTreeSet<ReplicaId>| {
            let leads = leader == Some(node);
            let said = if leads { voters.iter().copied().collect() } else { Vec::new() };
            let report = GroupReport {
                group,
                replica: replica(node),
                leader,
                term,
                trouble: None,
                voters: said,
                settled: Settled::Unsaid,
                timeline: Timeline::default(),
                restored: Timeline::default(),
                is_new: false,
            };
            Group { report, leads, voters: voters.clone(), caught_up: learners.clone(), learners, unfinished: None }
        };
        let own = self.leads.terms.get(&node).map(|term| (*term, Some(node)));
        let (term, leader) = own.unwrap_or_else(|| (self.leads.term, self.leads.leader()));
        let control = group(GroupId::CONTROL, term, leader, dpus.collect());
        let namespace = group(NAMESPACE, 1, Some(node), BTreeSet::new());
        core::iter::once(control).chain(self.swarm.is_host(node).then_some(namespace)).collect()
    }

    /// A node begins to lead; whoever led goes on for a while, if it lives.
    pub fn elect(&mut self, world: &mut World, node: NodeId, overlap: Duration) {
        let deposed: Vec<(NodeId, u64)> = self.leads.terms.iter().map(|(node, term)| (*node, *term)).collect();
        self.leads.term += 1;
        let term = self.leads.term;
        world.note(&[90, node.0, term], || format!("{node} leads, in term {term}"));
        self.leads.terms.insert(node, term);
        for (other, term) in deposed.into_iter().filter(|(other, _)| *other != node) {
            if overlap.is_zero() {
                self.depose(world, other, term);
            } else {
                self.after(world, overlap, Errand::Depose(other, term));
            }
        }
        for other in self.swarm.members() {
            if let Some(life) = self.life(world, other) {
                self.hear(world, life, Event::Changed);
            }
        }
    }

    pub(super) fn depose(&mut self, world: &mut World, node: NodeId, term: u64) {
        if self.leads.terms.get(&node) == Some(&term) {
            self.leads.terms.remove(&node);
            if let Some(life) = self.life(world, node) {
                self.hear(world, life, Event::Changed);
            }
        }
    }

    /// A node stands for election: it is elected if a majority hears it, and hears nobody who leads.
    pub(super) fn stand(&mut self, world: &mut World, life: Life) {
        if self.is_alive(world, life) {
            self.run_for_election(world, life.0);
            self.hear(world, life, Event::Ended(Key::Elect(GroupId::CONTROL), Ok(())));
        }
    }

    /// A majority follows whoever leads and is heard by it; whoever leads no more learns so.
    pub(super) fn confirm(&mut self, world: &mut World, life: Life) {
        let follows = self.leads.leader() == Some(life.0) && self.is_reached(world, life.0);
        let deposed = || Error::new(ErrorKind::NotLeader, "another replica leads this metadata group");
        self.hear(world, life, Event::Ended(Key::Confirm, follows.then_some(()).ok_or_else(deposed)));
    }

    pub(super) fn run_for_election(&mut self, world: &mut World, node: NodeId) {
        let leader = self.leads.leader();
        let is_led = leader.is_some_and(|leader| world.is_up(leader) && self.is_reached(world, leader));
        let overlap = self.dice.span(&(Duration::ZERO..OVERLAP_MAX));
        if !is_led && self.is_reached(world, node) {
            self.elect(world, node, overlap);
        }
    }

    /// Now and then somebody else leads, though one does.
    pub(super) fn election(&mut self, world: &mut World) {
        let up: Vec<NodeId> = self.swarm.node_ids().filter(|node| world.is_up(*node)).collect();
        let (fails, next) = (self.dice.chance(self.swarm.failover_per_mille), self.dice.pick(&up).copied());
        let overlap = self.dice.span(&(Duration::ZERO..OVERLAP_MAX));
        if let Some(node) = next.filter(|node| fails && self.leads.leader() != Some(*node)) {
            self.elect(world, node, overlap);
        }
        if self.wishes {
            self.after(world, ELECTION, Errand::Election);
        }
    }

    /// The group has decided: every node hears of it some time later, unless nobody reaches it.
    pub fn decided(&mut self, world: &mut World, view: &Arc<ControlView>) {
        self.decisions += 1;
        for node in self.swarm.members() {
            let after = self.dice.span(&self.swarm.news);
            if let Some(life) = self.life(world, node).filter(|_| self.is_reached(world, node)) {
                self.after(world, after, Errand::News(life, self.decisions, view.clone()));
            }
        }
    }

    /// Whether a node hears from most of the hosts.
    fn is_reached(&self, world: &mut World, node: NodeId) -> bool {
        let hosts: Vec<NodeId> = self.swarm.node_ids().collect();
        let open = hosts.iter().filter(|host| **host == node || world.network.is_open(**host, node)).count();
        open * 2 > hosts.len()
    }

    /// A node's replica is at least as far as this.
    pub(super) fn news(&mut self, world: &mut World, life: Life, decision: u64, view: Arc<ControlView>) {
        let node = life.0;
        let is_deaf = self.deaf.is_some_and(|(deaf, actor, id)| {
            deaf == node && view.assignments.get(&actor).is_some_and(|row| row.moves > id)
        });
        let is_news = self.replicas.get(&node).is_none_or(|(known, _)| *known < decision);
        let is_young = self.agent(world, life).is_none_or(|agent| agent.is_young(world));
        let is_behind = self.bug == Some(Bug::OldReplica) && is_young;
        if is_deaf || !is_news || is_behind || !self.is_alive(world, life) {
            return;
        }
        let before = self.replica(node);
        self.replicas.insert(node, (decision, view.clone()));
        world.follow(node, &before, &view);
        self.hear(world, life, Event::Control(view));
        self.resume_steps(world, life);
    }

    /// Whoever leads has applied what it has proposed before that is answered.
    pub(super) fn hear_own(&mut self, world: &mut World, node: NodeId) {
        if self.leads.leader() == Some(node)
            && let Some(life) = self.life(world, node)
        {
            self.news(world, life, self.decisions, world.decided().clone());
        }
    }

    /// What a node has missed comes to it sooner or later, if anybody reaches it.
    pub(super) fn catch_up(&mut self, world: &mut World, life: Life) {
        if !self.is_alive(world, life) {
            return;
        }
        if self.is_reached(world, life.0) {
            self.news(world, life, self.decisions, world.decided().clone());
        }
        self.after(world, self.beat, Errand::CatchUp(life));
    }

    /// A node hears of no move of an actor that is later than those so far, until [`Self::hear_all`].
    pub fn hear_no_move(&mut self, world: &World, node: NodeId, actor: ActorId) {
        self.deaf = world.rows().get(&actor).map(|row| (node, actor, row.moves));
    }

    /// Every node hears everything.
    pub fn hear_all(&mut self, world: &mut World) {
        if let Some(life) = self.deaf.take().and_then(|(node, ..)| self.life(world, node)) {
            self.news(world, life, self.decisions, world.decided().clone());
        }
    }
}

/// How long whoever led goes on at most.
const OVERLAP_MAX: Duration = Duration::from_secs(3);
/// How often the dice say whether somebody else leads.
const ELECTION: Duration = Duration::from_millis(700);
