//! Controllers: each on a node, each believing that it leads, perhaps two at once. They carry out moves with the machine
//! that a node's own controller uses, take back moves that they find begun, and give the actors of nodes that they think
//! lost to others. They remember nothing that matters, and die with their node.

use core::time::Duration;

use mesh_core::{
    Answer, Buf, Error, Response,
    assignment::Assignment,
    id::{ActorId, GroupId, NodeId},
    meta::Command,
    op::{MoveOp, MoveStep},
};
use mesh_placement::{
    Move, Reason, Spot,
    migration::{Ask, Heard, Migration},
    steward::{
        driver::{Asks, Driver, Happened, Why},
        peers::Presence,
    },
};

use super::{Cluster, Errand};
use crate::{planted::Bug, world::World};

/// One that believes that it leads.
#[derive(Debug)]
pub(super) struct Controller {
    pub(super) at: NodeId,
    /// Whether it begins anything new.
    leads: bool,
    driver: Driver,
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
        self.controllers.insert(number, Controller { at: node, leads: true, driver: Driver::default() });
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

    /// How a node looks from another.
    fn presence(&self, world: &World, at: NodeId, node: NodeId) -> Presence {
        let agent = self.agents.get(&at).filter(|_| node != at);
        agent.map_or(Presence::Up, |agent| agent.peers.presence(node, world.clock(at)))
    }

    /// A controller looks what there is to do.
    pub(super) fn tick(&mut self, world: &mut World, number: u64) {
        let Some(controller) = self.controllers.get_mut(&number).filter(|one| one.leads) else { return };
        let (at, now) = (controller.at, world.clock(controller.at));
        let rows: Vec<Assignment> =
            self.agents.get(&at).map(|agent| agent.mover.rows.values().copied().collect()).unwrap_or_default();
        let asks = controller.driver.clear(&rows, now);
        self.fulfil(world, number, asks);
        let up: Vec<NodeId> =
            self.swarm.members().filter(|node| self.presence(world, at, *node) == Presence::Up).collect();
        for row in &rows {
            if self.presence(world, at, row.node) != Presence::Down {
                continue;
            }
            let to = self.dice.pick(&up).copied().unwrap_or(at);
            self.go(world, number, row, to, Reason::NodeDown(row.node));
        }
        if self.plans {
            let (moves, pick) = (self.dice.chance(self.swarm.moves_per_mille), self.dice.pick(&rows).copied());
            let to = self.dice.pick(&up).copied();
            if let (Some(row), Some(to)) = (pick.filter(|_| moves), to)
                && (row.node != to && row.moving.is_none() && up.contains(&row.node))
            {
                self.go(world, number, &row, to, Reason::Pinned(to));
            }
        }
        let errand = self.number(Errand::Tick(number));
        world.timer(if self.plans { TICK } else { CALM_TICK }, errand);
    }

    /// What the plan of a node would say: the dice.
    fn go(&mut self, world: &mut World, number: u64, row: &Assignment, to: NodeId, reason: Reason) {
        let Some(at) = self.controllers.get(&number).map(|one| one.at) else { return };
        let presence = self.presence(world, at, row.node);
        let (from, to) = (Some(Spot::whole(row.node)), Spot::whole(to));
        let step = Move { actor: row.actor, from, to, reason };
        let Some(controller) = self.controllers.get_mut(&number) else { return };
        let asks = controller.driver.go(row, &step, presence, false, world.clock(at));
        self.fulfil(world, number, asks);
    }

    fn is_busy(&self, number: u64, actor: ActorId) -> bool {
        self.controllers.get(&number).is_none_or(|one| one.driver.is_busy(actor))
    }

    /// Moves an actor now, by whoever leads. Whether somebody does.
    pub fn order(&mut self, world: &mut World, actor: ActorId, to: NodeId) -> bool {
        let leader = self.controllers.iter().find(|(_, one)| one.leads).map(|(number, _)| *number);
        let Some((number, row)) = leader.zip(world.rows().get(&actor).copied()) else { return false };
        self.begin(world, number, Migration::begin(&row, to));
        true
    }

    /// Moves an actor now, by whoever leads since last, if it is at rest there.
    pub fn order_anew(&mut self, world: &mut World, actor: ActorId, to: NodeId) {
        let leader = self.controllers.iter().rev().find(|(_, one)| one.leads).map(|(number, _)| *number);
        let Some((number, row)) = leader.zip(world.rows().get(&actor).copied()) else { return };
        if row.moving.is_none() && row.node != to && !self.is_busy(number, actor) {
            self.begin(world, number, Migration::begin(&row, to));
        }
    }

    /// Another node's controller, which has not heard of it, begins the very move that is under way.
    pub fn begin_twin(&mut self, world: &mut World, at: NodeId, actor: ActorId) {
        let Some(row) = world.rows().get(&actor).copied() else { return };
        let Some((id, to)) = row.move_under_way() else { return };
        let before = Assignment { moves: mesh_core::assignment::MoveId(id.0 - 1), moving: None, ..row };
        self.next += 1;
        let number = self.next;
        self.controllers.insert(number, Controller { at, leads: false, driver: Driver::default() });
        self.begin(world, number, Migration::begin(&before, to));
    }

    /// Moves under way.
    #[must_use]
    pub fn moves_under_way(&self) -> usize {
        self.controllers.values().map(|one| one.driver.under_way()).sum()
    }

    fn begin(&mut self, world: &mut World, number: u64, (machine, asks): (Migration, Vec<Ask>)) {
        let Some(controller) = self.controllers.get_mut(&number) else { return };
        let why = Why::Plan(Reason::Pinned(machine.way().1));
        world.note(&[91, number, machine.actor().0], || format!("controller {number:#x}: {machine}"));
        let asks = controller.driver.set_out((machine, asks), why, world.clock(controller.at));
        self.fulfil(world, number, asks);
    }

    fn fulfil(&mut self, world: &mut World, number: u64, asks: Asks) {
        let Some(at) = self.controllers.get(&number).map(|one| one.at) else { return };
        for (actor, ask) in asks {
            self.commit_early(world, number, at, &ask);
            match ask {
                Ask::Propose(command) => {
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

    /// A planted bug: the target is told that it runs the actor as soon as the commit is proposed.
    fn commit_early(&mut self, world: &mut World, number: u64, at: NodeId, ask: &Ask) {
        let (Some(Bug::EarlyActivation), Ask::Propose(Command::CommitMove { actor, epoch, id })) = (self.bug, ask)
        else {
            return;
        };
        let machine = self.controllers.get(&number).and_then(|one| one.driver.machine(*actor));
        let Some((_, to)) = machine.map(Migration::way) else { return };
        let step = MoveStep { actor: *actor, epoch: *epoch, id: *id, what: MoveOp::Activate };
        self.next += 1;
        world.ask_node(at, to, step, Buf::empty(), self.next);
    }

    /// A controller's driver hears something.
    pub(super) fn machine_hears(&mut self, world: &mut World, number: u64, actor: ActorId, heard: Heard) {
        let Some(controller) = self.controllers.get_mut(&number) else { return };
        let now = world.clock(controller.at);
        let (asks, happened) = match crate::world::quietly(|| controller.driver.hear(actor, heard, now)) {
            Ok(heard) => heard,
            Err(text) => return world.violate(|| format!("the driver of {actor}'s move panicked: {text}")),
        };
        if let Some(happened) = happened {
            world.note(&[92, number, actor.0], || format!("controller {number:#x}: {happened}"));
            match happened {
                Happened::Moved { .. } => self.ends.arrived += 1,
                Happened::NotMoved { elsewhere: true, .. } => self.ends.elsewhere += 1,
                Happened::NotMoved { .. } => self.ends.stayed += 1,
                Happened::TakenOver { .. } => self.ends.taken_over += 1,
                _ => {}
            }
        }
        self.fulfil(world, number, asks);
    }

    pub(super) fn stepped(node: NodeId, outcome: mesh_core::Outcome) -> Heard {
        let moved = match outcome {
            Ok(Response { answer: Answer::Moved(moved), .. }) => Ok(moved),
            Ok(_) => Err(Error::bug("a step was answered with something else")),
            Err(error) => Err(error),
        };
        Heard::Stepped(node, moved)
    }
}

const TICK: Duration = Duration::from_millis(50);
/// Once nothing is planned any more.
const CALM_TICK: Duration = Duration::from_millis(500);
/// How often it is looked who leads.
const ELECTION: Duration = Duration::from_millis(700);
