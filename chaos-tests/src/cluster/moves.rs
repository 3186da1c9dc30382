//! What a node does for the moves of data chains: it carries out what `mesh_placement::transfer` wants of it, and what the
//! control group says, as a node's table of chains follows it.

use core::time::Duration;
use std::{collections::BTreeMap, sync::Arc};

use mesh_core::{
    Answer, Buf, Error, ErrorKind, Outcome, Response,
    assignment::{Assignment, MoveId},
    id::{ActorId, Epoch, GroupId, NodeId},
    meta::{Command, MetaAnswer},
    op::{MoveOp, MoveStep, Phase},
    spec::FunctionSpec,
};
use mesh_placement::{
    fate::{Hosted, Known},
    steward::chains::{Act, Chains},
    transfer::{Ask, Course, Heard, Next, SETTLE_MAX, Transfers},
};

use super::{Cluster, Errand};
use crate::{
    planted::Bug,
    world::{Origin, World},
};

/// What a node knows of its moves.
#[derive(Debug, Default)]
pub(super) struct Mover {
    /// What the control group has told it so far.
    pub(super) rows: BTreeMap<ActorId, Assignment>,
    transfers: Transfers,
    chains: Chains,
    /// Steps that are being carried out, by number.
    courses: BTreeMap<u64, Waiting>,
}

/// A step that waits for something.
#[derive(Debug)]
struct Waiting {
    course: Course,
    /// Who asked for it.
    from: Origin,
    /// It waits for its actor to come to rest, and not for a page to arrive.
    settles: bool,
}

/// Later rows count.
fn age(row: &Assignment) -> (Epoch, MoveId, bool) {
    (row.epoch, row.moves, row.moving.is_none())
}

impl Cluster {
    /// The group has decided: every node hears of it some time later, unless nobody reaches it.
    pub fn assigned(&mut self, world: &mut World, row: Assignment) {
        for node in self.swarm.members() {
            let (after, boot) = (self.dice.span(&self.swarm.news), world.boot_of(node));
            if world.is_up(node) && self.is_reached(world, node) {
                let number = self.number(Errand::News(node, boot, row));
                world.timer(after, number);
            }
        }
    }

    /// Whether a node hears from most of the hosts.
    fn is_reached(&self, world: &mut World, node: NodeId) -> bool {
        let hosts: Vec<NodeId> = self.swarm.node_ids().collect();
        let open = hosts.iter().filter(|host| **host == node || world.network.is_open(**host, node)).count();
        open * 2 > hosts.len()
    }

    /// What a node has missed comes with the beats.
    pub(super) fn catch_up(&mut self, world: &mut World, node: NodeId) {
        let young = |agent: &super::Agent| world.now().0 < agent.since + LAG;
        if self.bug == Some(Bug::OldReplica) && self.agents.get(&node).is_some_and(young) {
            return;
        }
        if self.is_reached(world, node) {
            let rows: Vec<Assignment> = world.rows().values().copied().collect();
            for row in rows {
                self.hear(world, node, row);
            }
            self.follow(world, node);
        }
    }

    pub(super) fn news(&mut self, world: &mut World, node: NodeId, boot: u64, row: Assignment) {
        if world.is_up(node) && world.boot_of(node) == boot {
            self.hear(world, node, row);
            self.follow(world, node);
        }
    }

    fn hear(&mut self, world: &mut World, node: NodeId, row: Assignment) {
        let Some(agent) = self.agents.get_mut(&node) else { return };
        let known = agent.mover.rows.entry(row.actor).or_insert(row);
        if age(known) < age(&row) {
            *known = row;
        }
        world.learn(node, row.actor, (row.node, row.epoch));
    }

    /// A node does what the group says, as far as it knows.
    pub(super) fn follow(&mut self, world: &mut World, node: NodeId) {
        let Some(agent) = self.agents.get(&node).filter(|agent| agent.ready && world.is_up(node)) else { return };
        let hosts = self.swarm.node_ids().filter(|host| *host != node);
        let looks_around = agent.peers.looks_around(hosts, world.clock(node));
        let rows: Vec<(Assignment, Option<MoveId>)> =
            agent.mover.rows.values().map(|row| (*row, agent.mover.transfers.on(row.actor))).collect();
        for (row, on) in rows {
            let hosted = world.phase(node, row.actor).map(|(epoch, phase)| Hosted { epoch, phase });
            let known = Known { heard: world.heard_of(node, row.actor), on, caught_up: true };
            let known =
                if self.bug == Some(Bug::OldNews) { Known { caught_up: true, ..Known::default() } } else { known };
            let Some(mover) = self.mover(node) else { return };
            let mut acts = mover.chains.look(node, &row, hosted, known, looks_around);
            if self.bug == Some(Bug::RunsOnReturn) && matches!(acts[..], [Act::TakeBack(_)]) {
                acts = vec![Act::Run];
            }
            for act in acts {
                self.act(world, node, &row, act);
                // What it let go on may have been the moment of its crash.
                if !world.is_up(node) {
                    return;
                }
            }
        }
    }

    fn act(&mut self, world: &mut World, node: NodeId, row: &Assignment, act: Act) {
        let Assignment { actor, epoch, .. } = *row;
        match act {
            Act::Forget => self.forget(node, actor),
            Act::Evict => world.evict(node, actor),
            Act::Open(from) => self.insist(world, node, |world| world.open(node, actor, epoch, from)),
            Act::Run => self.run_here(world, node, actor, epoch),
            Act::TakeBack(id) => {
                let number = self.number(Errand::TakeBack(node, actor, id));
                world.propose(node, GroupId::CONTROL, Command::AbortMove { actor, epoch, id }, number);
            }
            Act::Retire => {
                world.retire(node, actor, epoch, (row.node, epoch));
            }
            Act::Discard => world.discard(node, actor),
        }
    }

    /// What came of taking a move back.
    pub(super) fn took_back(
        &mut self,
        world: &mut World,
        node: NodeId,
        (actor, id): (ActorId, MoveId),
        outcome: &Result<MetaAnswer, Error>,
    ) {
        let well = outcome.as_ref().err().is_none_or(|error| error.kind() == ErrorKind::Conflict);
        if let Some(mover) = self.mover(node) {
            mover.chains.took_back(actor, id, well);
        }
        if !well {
            let number = self.number(Errand::NotTaken(node));
            world.timer(TAKE_BACK_PAUSE, number);
        }
    }

    fn run_here(&self, world: &mut World, node: NodeId, actor: ActorId, epoch: Epoch) {
        if world.phase(node, actor).is_some() {
            return;
        }
        world.born(node, actor, epoch);
        let (function, setting, specs) = self.chain(world, node, actor);
        world.launch(node, (actor, epoch), function, setting, Phase::Running);
        world.configure(node, actor, Arc::new(FunctionSpec::Chain(specs)));
    }

    fn insist(&self, world: &mut World, node: NodeId, what: impl FnOnce(&mut World) -> Result<(), Error>) {
        if let Err(error) = what(world) {
            world.violate(|| format!("{node} cannot do what it has just found possible: {error}"));
        }
    }

    fn forget(&mut self, node: NodeId, actor: ActorId) {
        if let Some(agent) = self.agents.get_mut(&node) {
            agent.mover.transfers.forget(actor);
        }
    }

    /// A node is asked for a step.
    pub fn asked(&mut self, world: &mut World, node: NodeId, from: Origin, step: MoveStep, payload: &Buf) {
        world.note(&[80, node.0, step.actor.0, step.id.0], || format!("{node} is asked: {step:?}"));
        let now = world.clock(node);
        let Some(agent) = self.agents.get_mut(&node).filter(|agent| agent.ready) else {
            return world.respond(node, from, Err(Error::new(ErrorKind::Draining, "the node is not ready yet")));
        };
        let transfers = &mut agent.mover.transfers;
        let step = around_step(self.bug, transfers, step);
        let (course, next) = transfers.begin(step, payload, now);
        let number = self.number(Errand::Page(node));
        self.go_on(world, node, number, (course, from), next);
    }

    /// Does what a step wants, until it has to wait or is over.
    fn go_on(
        &mut self,
        world: &mut World,
        node: NodeId,
        number: u64,
        (mut course, from): (Course, Origin),
        mut next: Next,
    ) {
        loop {
            let ask = match next {
                Next::Break(outcome) => {
                    self.errands.remove(&number);
                    return world.respond(node, from, outcome);
                }
                Next::Continue(ask) => ask,
            };
            let settles = matches!(ask, Ask::Settle { .. });
            let Some(heard) = self.carry(world, node, number, &course, ask) else {
                world.note(&[81], || format!("{node}: it takes a while"));
                if let Some(mover) = self.mover(node) {
                    mover.courses.insert(number, Waiting { course, from, settles });
                }
                return;
            };
            let Some(mover) = self.mover(node) else { return };
            next = course.hear(&mut mover.transfers, heard, world.clock(node));
        }
    }

    /// A step hears what it waited for.
    fn course_hears(&mut self, world: &mut World, node: NodeId, number: u64, settles: bool, heard: Heard) {
        let Some(mover) = self.mover(node) else { return };
        if mover.courses.get(&number).is_none_or(|waiting| waiting.settles != settles) {
            return;
        }
        let Some(Waiting { mut course, from, .. }) = mover.courses.remove(&number) else { return };
        let next = course.hear(&mut mover.transfers, heard, world.clock(node));
        self.go_on(world, node, number, (course, from), next);
    }

    /// `None`: the answer comes later.
    fn carry(&mut self, world: &mut World, node: NodeId, number: u64, course: &Course, ask: Ask) -> Option<Heard> {
        Some(match ask {
            Ask::Warm { actor, epoch } => {
                let (function, setting, specs) = self.chain(world, node, actor);
                let warmed = world.warm(node, (actor, epoch), function, setting);
                if warmed.is_ok() {
                    world.configure(node, actor, Arc::new(FunctionSpec::Chain(specs)));
                }
                Heard::Done(warmed)
            }
            // Says that it has the page, and lost it.
            Ask::Restore { .. }
                if self.bug == Some(Bug::LostPage) && matches!(course.step().what, MoveOp::Install { page: 1, .. }) =>
            {
                Heard::Done(Ok(()))
            }
            Ask::Restore { actor, epoch, page } => Heard::Done(world.restore(node, actor, epoch, &page)),
            Ask::Snapshot { actor, epoch, since } => Heard::Page(world.snapshot(node, actor, epoch, since)),
            Ask::Send { to, step, page, .. } => {
                self.errands.insert(number, Errand::Page(node));
                world.ask_node(node, to, step, page, number);
                return None;
            }
            Ask::Settle { actor, epoch } => match world.freeze(node, actor, epoch, number) {
                Ok(()) => {
                    let limit = self.number(Errand::Unsettled(node, number));
                    world.timer(SETTLE_MAX, limit);
                    return None;
                }
                Err(error) => Heard::Done(Err(error)),
            },
            Ask::Activate { actor, epoch } => Heard::Done(world.open(node, actor, epoch, Phase::Warming)),
            Ask::Retire { actor, epoch, to } => {
                Heard::Retired(world.retire(node, actor, epoch, (to, Epoch(epoch.0 + 1))))
            }
            Ask::Thaw { actor, epoch } => Heard::Done(world.open(node, actor, epoch, Phase::Frozen)),
            Ask::Discard { actor } => {
                world.discard(node, actor);
                Heard::Done(Ok(()))
            }
        })
    }

    /// The target has a page, or not.
    pub(super) fn page_answered(&mut self, world: &mut World, node: NodeId, number: u64, outcome: Outcome) {
        let moved = match outcome {
            Ok(Response { answer: Answer::Moved(moved), .. }) => Ok(moved),
            Ok(_) => Err(Error::bug("a page was answered with something else")),
            Err(error) => Err(error),
        };
        self.course_hears(world, node, number, false, Heard::Sent(moved));
    }

    /// Nothing is under way that the state depends on.
    pub fn settled(&mut self, world: &mut World, node: NodeId, number: u64) {
        self.course_hears(world, node, number, true, Heard::Done(Ok(())));
    }

    pub(super) fn unsettled(&mut self, world: &mut World, node: NodeId, number: u64) {
        let error = Error::new(ErrorKind::Timeout, "the actor does not come to rest");
        self.course_hears(world, node, number, true, Heard::Done(Err(error)));
    }

    fn mover(&mut self, node: NodeId) -> Option<&mut Mover> {
        Some(&mut self.agents.get_mut(&node)?.mover)
    }

    /// Actors that have waited long for the end of their move: it is aborted, unless it is committed.
    pub(super) fn settle_frozen(&mut self, world: &mut World, node: NodeId) {
        let now = world.clock(node);
        let Some(mover) = self.mover(node) else { return };
        for (actor, epoch, id) in mover.transfers.overdue(now) {
            // A planted bug: time says what only the group may say.
            if self.bug == Some(Bug::ThawOnTimeout) {
                self.abort_answered(world, node, (actor, epoch, id), &Ok(MetaAnswer::Done));
                continue;
            }
            let number = self.number(Errand::Settle(node, actor, epoch, id));
            world.propose(node, GroupId::CONTROL, Command::AbortMove { actor, epoch, id }, number);
        }
    }

    /// What came of the abort of a move that took long.
    pub(super) fn abort_answered(
        &mut self,
        world: &mut World,
        node: NodeId,
        at: (ActorId, Epoch, MoveId),
        outcome: &Result<MetaAnswer, Error>,
    ) {
        if outcome.is_ok() {
            return self.thaw(world, node, at);
        }
        if let Some(mover) = self.mover(node) {
            mover.transfers.unsettled(at.0, at.2);
        }
        self.follow(world, node);
    }

    fn thaw(&mut self, world: &mut World, node: NodeId, (actor, epoch, id): (ActorId, Epoch, MoveId)) {
        if self.mover(node).is_some_and(|mover| mover.transfers.take_back(actor, id))
            && let Err(error) = world.open(node, actor, epoch, Phase::Frozen)
        {
            world.note(&[82], || format!("{node} {actor}: nothing was left to be thawed: {error}"));
        }
    }
}

/// Bugs in how a node takes steps of moves: what it forgets before the real rules see a step.
fn around_step(bug: Option<Bug>, transfers: &mut Transfers, step: MoveStep) -> MoveStep {
    match (bug, step.what) {
        // Of a move that is over: it passes for one of the move under way.
        (Some(Bug::OldSteps), _) => MoveStep { id: step.id.max(transfers.on(step.actor).unwrap_or(step.id)), ..step },
        (Some(Bug::WarmsAgain), MoveOp::Warm) if transfers.on(step.actor) == Some(step.id) => {
            transfers.forget(step.actor);
            step
        }
        _ => step,
    }
}

/// Before a move that could not be taken back is looked at again.
const TAKE_BACK_PAUSE: Duration = Duration::from_millis(50);
/// How far a replica that has just started is behind, where a planted bug has a node go by it: nanoseconds.
const LAG: u64 = 300_000_000;
