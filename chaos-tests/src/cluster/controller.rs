//! Controllers: each on a node, each believing that it leads, perhaps two at once. They carry out moves with the machine
//! that a node's own controller uses, take back moves that they find begun, and give the actors of nodes that they think
//! lost to others. They remember nothing that matters, and die with their node.

use core::time::Duration;
use std::collections::BTreeMap;

use mesh_core::{
    Answer, Buf, Error, Response,
    assignment::Assignment,
    id::{ActorId, Epoch, GroupId, NodeId},
    meta::Command,
};
use mesh_placement::migration::{Ask, End, Heard, Migration};

use super::{Cluster, Errand};
use crate::{planted::Bug, world::World};

/// One that believes that it leads.
#[derive(Debug)]
pub(super) struct Controller {
    pub(super) at: NodeId,
    /// Whether it begins anything new.
    leads: bool,
    moves: BTreeMap<ActorId, Migration>,
    /// Actors that it gives to another node.
    assigning: std::collections::BTreeSet<ActorId>,
}

/// How moves have ended.
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

impl Cluster {
    /// A node's controller begins to lead; whoever led goes on for a while, if it lives.
    pub fn elect(&mut self, world: &mut World, node: NodeId, overlap: Duration) {
        let deposed: Vec<u64> =
            self.controllers.iter().filter(|(_, one)| one.leads).map(|(number, _)| *number).collect();
        for number in deposed {
            let errand = self.number(Errand::Depose(number));
            world.timer(overlap, errand);
        }
        // A name that nothing else has.
        self.next += 1;
        let number = self.next;
        world.note(&[90, node.0, number], || format!("{node} leads"));
        let controller =
            Controller { at: node, leads: true, moves: BTreeMap::new(), assigning: std::collections::BTreeSet::new() };
        self.controllers.insert(number, controller);
        self.tick(world, number);
    }

    /// Somebody leads, if nobody does.
    pub fn elect_if_none(&mut self, world: &mut World) {
        let up = self.swarm.node_ids().find(|node| world.is_up(*node));
        if let Some(node) = up.filter(|_| !self.controllers.values().any(|one| one.leads)) {
            self.elect(world, node, Duration::ZERO);
        }
    }

    pub(super) fn depose(&mut self, number: u64) {
        if let Some(controller) = self.controllers.get_mut(&number) {
            controller.leads = false;
        }
    }

    /// If nobody leads, or now and then, somebody else does.
    pub(super) fn election(&mut self, world: &mut World) {
        let leader = self.controllers.values().find(|one| one.leads).map(|one| one.at);
        let up: Vec<NodeId> = self.swarm.node_ids().filter(|node| world.is_up(*node)).collect();
        let (fails, next) = (self.dice.chance(self.swarm.failover_per_mille), self.dice.pick(&up).copied());
        let overlap = self.dice.span(&(Duration::ZERO..Duration::from_secs(3)));
        if let Some(node) = next.filter(|_| leader.is_none() || (fails && self.plans)) {
            self.elect(world, node, overlap);
        }
        let number = self.number(Errand::Election);
        world.timer(ELECTION, number);
    }

    /// A node is down, and its controllers with it.
    pub fn crashed(&mut self, node: NodeId) {
        self.controllers.retain(|_, one| one.at != node);
    }

    /// Nodes that a node hears from, itself included.
    fn alive(&self, world: &World, at: NodeId) -> Vec<NodeId> {
        let (now, silence) = (world.now().0, self.silence_ns());
        let Some(agent) = self.agents.get(&at) else { return Vec::new() };
        let heard = |node: &NodeId| agent.heard.get(node).map_or(agent.since, |(when, _)| *when) + silence > now;
        self.swarm.members().filter(|node| *node == at || heard(node)).collect()
    }

    /// A controller looks what there is to do.
    pub(super) fn tick(&mut self, world: &mut World, number: u64) {
        let Some(controller) = self.controllers.get(&number).filter(|one| one.leads) else { return };
        let at = controller.at;
        let rows: Vec<Assignment> =
            self.agents.get(&at).map(|agent| agent.mover.rows.values().copied().collect()).unwrap_or_default();
        let alive = self.alive(world, at);
        for row in &rows {
            if self.is_busy(number, row.actor) {
                continue;
            }
            if let Some((machine, asks)) = Migration::clear(row) {
                self.begin(world, number, machine, asks);
            } else if !alive.contains(&row.node) {
                let candidates: Vec<NodeId> = alive.clone();
                let to = self.dice.pick(&candidates).copied().unwrap_or(at);
                self.take_over(world, number, row, to);
            }
        }
        if self.plans {
            let (moves, pick) = (self.dice.chance(self.swarm.moves_per_mille), self.dice.pick(&rows).copied());
            let to = self.dice.pick(&alive).copied();
            if let (Some(row), Some(to)) = (pick.filter(|_| moves), to.filter(|to| alive.contains(to))) {
                let fits = alive.contains(&row.node) && row.node != to && row.moving.is_none();
                if fits && !self.is_busy(number, row.actor) {
                    let (machine, asks) = Migration::begin(&row, to);
                    self.begin(world, number, machine, asks);
                }
            }
        }
        let errand = self.number(Errand::Tick(number));
        world.timer(if self.plans { TICK } else { CALM_TICK }, errand);
    }

    fn is_busy(&self, number: u64, actor: ActorId) -> bool {
        self.controllers.get(&number).is_none_or(|one| one.moves.contains_key(&actor) || one.assigning.contains(&actor))
    }

    /// Moves an actor now, by whoever leads. Whether somebody does.
    pub fn order(&mut self, world: &mut World, actor: ActorId, to: NodeId) -> bool {
        let leader = self.controllers.iter().find(|(_, one)| one.leads).map(|(number, _)| *number);
        let Some((number, row)) = leader.zip(world.rows().get(&actor).copied()) else { return false };
        let (machine, asks) = Migration::begin(&row, to);
        self.begin(world, number, machine, asks);
        true
    }

    /// Moves an actor now, by whoever leads since last, if it is at rest there.
    pub fn order_anew(&mut self, world: &mut World, actor: ActorId, to: NodeId) {
        let leader = self.controllers.iter().rev().find(|(_, one)| one.leads).map(|(number, _)| *number);
        let Some((number, row)) = leader.zip(world.rows().get(&actor).copied()) else { return };
        if row.moving.is_none() && row.node != to && !self.is_busy(number, actor) {
            let (machine, asks) = Migration::begin(&row, to);
            self.begin(world, number, machine, asks);
        }
    }

    /// Another node's controller, which has not heard of it, begins the very move that is under way.
    pub fn begin_twin(&mut self, world: &mut World, at: NodeId, actor: ActorId) {
        let Some(row) = world.rows().get(&actor).copied() else { return };
        let Some((id, to)) = row.move_under_way() else { return };
        let before = Assignment { moves: mesh_core::assignment::MoveId(id.0 - 1), moving: None, ..row };
        self.next += 1;
        let number = self.next;
        let assigning = std::collections::BTreeSet::new();
        self.controllers.insert(number, Controller { at, leads: false, moves: BTreeMap::new(), assigning });
        let (machine, asks) = Migration::begin(&before, to);
        self.begin(world, number, machine, asks);
    }

    /// Moves under way.
    #[must_use]
    pub fn moves_under_way(&self) -> usize {
        self.controllers.values().map(|one| one.moves.len() + one.assigning.len()).sum()
    }

    fn begin(&mut self, world: &mut World, number: u64, machine: Migration, asks: Vec<Ask>) {
        let actor = machine.actor();
        world.note(&[91, number, actor.0], || format!("controller {number:#x}: {machine}"));
        if let Some(controller) = self.controllers.get_mut(&number) {
            controller.moves.insert(actor, machine);
        }
        self.fulfil(world, number, actor, asks);
    }

    fn fulfil(&mut self, world: &mut World, number: u64, actor: ActorId, asks: Vec<Ask>) {
        let Some(at) = self.controllers.get(&number).map(|one| one.at) else { return };
        for ask in asks {
            match ask {
                Ask::Propose(command) => {
                    if let (Some(Bug::EarlyActivation), Command::CommitMove { actor, epoch, id }) = (self.bug, &command)
                        && let Some((_, to)) = self.way(number, *actor)
                    {
                        let what = mesh_core::op::MoveOp::Activate;
                        let step = mesh_core::op::MoveStep { actor: *actor, epoch: *epoch, id: *id, what };
                        self.next += 1;
                        world.ask_node(at, to, step, Buf::empty(), self.next);
                    }
                    let errand = self.number(Errand::Decided(number, actor));
                    world.propose(at, GroupId::CONTROL, command, errand);
                }
                Ask::Step(node, step) => {
                    let errand = self.number(Errand::Stepped(number, actor, node));
                    world.ask_node(at, node, step, Buf::empty(), errand);
                }
                Ask::Wait(pause) => {
                    let errand = self.number(Errand::Due(number, actor));
                    world.timer(pause, errand);
                }
            }
        }
    }

    fn way(&self, number: u64, actor: ActorId) -> Option<(NodeId, NodeId)> {
        Some(self.controllers.get(&number)?.moves.get(&actor)?.way())
    }

    /// A controller's machine hears something.
    pub(super) fn machine_hears(&mut self, world: &mut World, number: u64, actor: ActorId, heard: Heard) {
        let Some(machine) = self.controllers.get_mut(&number).and_then(|one| one.moves.get_mut(&actor)) else { return };
        let asks = match crate::world::quietly(|| machine.hear(heard)) {
            Ok(asks) => asks,
            Err(text) => return world.violate(|| format!("the machine of {actor}'s move panicked: {text}")),
        };
        if let Some(end) = machine.end() {
            world.note(&[92, number, actor.0], || format!("controller {number:#x}: {actor}: {end:?}"));
            match end {
                End::Arrived(_) => self.ends.arrived += 1,
                End::Stayed(_) => self.ends.stayed += 1,
                End::Elsewhere(_) => self.ends.elsewhere += 1,
            }
            if let Some(controller) = self.controllers.get_mut(&number) {
                controller.moves.remove(&actor);
            }
        }
        self.fulfil(world, number, actor, asks);
    }

    pub(super) fn stepped(node: NodeId, outcome: mesh_core::Outcome) -> Heard {
        let moved = match outcome {
            Ok(Response { answer: Answer::Moved(moved), .. }) => Ok(moved),
            Ok(_) => Err(Error::bug("a step was answered with something else")),
            Err(error) => Err(error),
        };
        Heard::Stepped(node, moved)
    }

    fn take_over(&mut self, world: &mut World, number: u64, row: &Assignment, to: NodeId) {
        let Some(controller) = self.controllers.get_mut(&number) else { return };
        controller.assigning.insert(row.actor);
        let at = controller.at;
        let errand = self.number(Errand::TakenOver(number, row.actor));
        let wanted = Assignment::new(row.actor, to, Epoch(row.epoch.0 + 1));
        world.propose(at, GroupId::CONTROL, Command::Assign(wanted), errand);
    }

    pub(super) fn taken_over(&mut self, number: u64, actor: ActorId, good: bool) {
        self.ends.taken_over += u64::from(good);
        if let Some(controller) = self.controllers.get_mut(&number) {
            controller.assigning.remove(&actor);
        }
    }
}

const TICK: Duration = Duration::from_millis(50);
/// Once nothing is planned any more.
const CALM_TICK: Duration = Duration::from_millis(500);
/// How often it is looked who leads.
const ELECTION: Duration = Duration::from_millis(700);
