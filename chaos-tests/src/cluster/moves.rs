//! What a node does for the moves of data chains: it carries out what `mesh_placement::transfer` wants of it.

use mesh_core::{
    Answer, Buf, Error, ErrorKind, Outcome, Response,
    assignment::MoveId,
    id::{ActorId, Epoch, NodeId},
    op::{MoveOp, MoveStep, Moved, NodeOp, Phase},
};
use mesh_placement::{
    steward::Event,
    transfer::{Ask, Course, HEAR_MAX, Heard, Next, PAGE_MAX, SETTLE_MAX, Transfers},
};

use super::{Cluster, Errand, Life};
use crate::{
    planted::Bug,
    world::{Origin, World},
};

/// A step that waits for something.
#[derive(Debug)]
pub(super) struct Waiting {
    course: Course,
    /// Who asked for it.
    pub(super) from: Origin,
    /// It waits for its actor to come to rest, and not for a page to arrive.
    settles: bool,
}

/// What came of a step that another node was asked for.
pub(super) fn moved(outcome: Outcome) -> Result<Moved, Error> {
    match outcome {
        Ok(Response { answer: Answer::Moved(moved), .. }) => Ok(moved),
        Ok(_) => Err(Error::bug("a step was answered with something else")),
        Err(error) => Err(error),
    }
}

impl Cluster {
    /// A node is asked for a step. An actor that is to arrive waits until this node has heard of the epoch that it leaves.
    pub(super) fn asked_for_step(&mut self, world: &mut World, life: Life, from: Origin, step: MoveStep, payload: Buf) {
        let (node, now) = (life.0, world.clock(life.0));
        world.note(&[80, node.0, step.actor.0, step.id.0], || format!("{node} is asked: {step:?}"));
        if step.what == MoveOp::Warm && !self.has_heard_of(node, step) {
            if let Some(agent) = self.agent(world, life) {
                agent.unheard.push((now + HEAR_MAX, from, step, payload));
            }
            return self.after(world, HEAR_MAX, Errand::Unheard(life));
        }
        self.begin_step(world, life, from, step, &payload);
    }

    fn has_heard_of(&self, node: NodeId, step: MoveStep) -> bool {
        self.replica(node).assignments.get(&step.actor).is_some_and(|row| row.epoch >= step.epoch)
    }

    /// Steps go on that waited for news, or have waited long enough.
    pub(super) fn resume_steps(&mut self, world: &mut World, life: Life) {
        let (node, now) = (life.0, world.clock(life.0));
        let Some(agent) = self.agent(world, life) else { return };
        let waiting = core::mem::take(&mut agent.unheard);
        for (until, from, step, payload) in waiting {
            if self.has_heard_of(node, step) || until <= now {
                self.begin_step(world, life, from, step, &payload);
            } else if let Some(agent) = self.agent(world, life) {
                agent.unheard.push((until, from, step, payload));
            }
        }
    }

    fn begin_step(&mut self, world: &mut World, life: Life, from: Origin, step: MoveStep, payload: &Buf) {
        let (bug, now) = (self.bug, world.clock(life.0));
        let Some(agent) = self.agent(world, life) else { return };
        let step = around_step(bug, &mut agent.transfers, step);
        let (course, next) = agent.transfers.begin(step, payload, now);
        let number = self.number(Errand::Page(life));
        self.go_on(world, life, number, (course, from), next);
    }

    /// Does what a step wants, until it has to wait or is over.
    fn go_on(
        &mut self,
        world: &mut World,
        life: Life,
        number: u64,
        (mut course, from): (Course, Origin),
        mut next: Next,
    ) {
        let node = life.0;
        loop {
            let ask = match next {
                Next::Break(outcome) => {
                    self.errands.remove(&number);
                    world.respond(node, from, outcome.map(Answer::Moved));
                    // The others are told at once where the actor runs now.
                    if matches!(course.step().what, MoveOp::Activate | MoveOp::Retire { .. }) {
                        self.hear(world, life, Event::Changed);
                    }
                    return;
                }
                Next::Continue(ask) => ask,
            };
            let settles = matches!(ask, Ask::Settle { .. });
            let heard = self.carry(world, life, number, &course, ask);
            let now = world.clock(node);
            let Some(agent) = self.agent(world, life) else { return };
            let Some(heard) = heard else {
                agent.courses.insert(number, Waiting { course, from, settles });
                return world.note(&[81], || format!("{node}: it takes a while"));
            };
            next = course.hear(&mut agent.transfers, heard, now);
        }
    }

    /// A step hears what it waited for.
    fn course_hears(&mut self, world: &mut World, life: Life, number: u64, settles: bool, heard: Heard) {
        let now = world.clock(life.0);
        let Some(agent) = self.agent(world, life) else { return };
        if agent.courses.get(&number).is_none_or(|waiting| waiting.settles != settles) {
            return;
        }
        let Some(Waiting { mut course, from, .. }) = agent.courses.remove(&number) else { return };
        let next = course.hear(&mut agent.transfers, heard, now);
        self.go_on(world, life, number, (course, from), next);
    }

    /// `None`: the answer comes later.
    fn carry(&mut self, world: &mut World, life: Life, number: u64, course: &Course, ask: Ask) -> Option<Heard> {
        let node = life.0;
        Some(match ask {
            Ask::Warm { actor, epoch } => match self.build_time(world, life, actor) {
                Some(pause) => {
                    self.after(world, pause, Errand::Warmed(life, number, actor, epoch));
                    return None;
                }
                None => Heard::Done(self.warm(world, life, (actor, epoch))),
            },
            // Says that it has the page, and lost it.
            Ask::Restore { .. }
                if self.bug == Some(Bug::LostPage) && matches!(course.step().what, MoveOp::Install { page: 1, .. }) =>
            {
                Heard::Done(Ok(()))
            }
            Ask::Restore { actor, epoch, page } => Heard::Done(world.restore(node, actor, epoch, &page)),
            Ask::Snapshot { actor, epoch, since } => Heard::Page(world.snapshot(node, actor, epoch, since)),
            Ask::Send { to, step, page, .. } => {
                self.errands.insert(number, Errand::Page(life));
                world.ask_node(node, to, (NodeOp::Move(step), page), PAGE_MAX, number);
                return None;
            }
            Ask::Settle { actor, epoch } => match world.freeze(node, actor, epoch, number) {
                Ok(()) => {
                    let limit = self.number(Errand::Unsettled(life, number));
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
    pub(super) fn page_answered(&mut self, world: &mut World, life: Life, number: u64, outcome: Outcome) {
        self.course_hears(world, life, number, false, Heard::Sent(moved(outcome)));
    }

    /// Nothing is under way that the state depends on.
    pub fn settled(&mut self, world: &mut World, node: NodeId, number: u64) {
        if let Some(life) = self.life(world, node) {
            self.course_hears(world, life, number, true, Heard::Done(Ok(())));
        }
    }

    /// What is to arrive is built.
    pub(super) fn warmed(&mut self, world: &mut World, life: Life, number: u64, actor: (ActorId, Epoch)) {
        if self.agent(world, life).is_some_and(|agent| agent.courses.contains_key(&number)) {
            let warmed = self.warm(world, life, actor);
            self.course_hears(world, life, number, false, Heard::Done(warmed));
        }
    }

    pub(super) fn unsettled(&mut self, world: &mut World, life: Life, number: u64) {
        let error = Error::new(ErrorKind::Timeout, "the actor does not come to rest");
        self.course_hears(world, life, number, true, Heard::Done(Err(error)));
    }

    /// A move that took long has ended: the actor goes on, if it still waits for that one.
    pub(super) fn settled_at_last(
        &mut self,
        world: &mut World,
        life: Life,
        (actor, epoch, id): (ActorId, Epoch, MoveId),
    ) {
        let node = life.0;
        if self.agent(world, life).is_some_and(|agent| agent.transfers.take_back(actor, id))
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
