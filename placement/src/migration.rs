//! One live move, as a machine: what a controller asks of the metadata group and of the two nodes, and in which order.
//!
//! | stage | asks | source | target | requests go to | epoch |
//! |---|---|---|---|---|---|
//! | beginning | propose `BeginMove` | running | | source | e |
//! | warming | target: `Warm` | running | warming | source | e |
//! | copying | source: `PreCopy` | running | warming | source | e |
//! | freezing | source: `Freeze` (the rest of the state, acknowledged by the target) | frozen | ready | source, where they wait | e |
//! | **committing** | propose `CommitMove`: the point at which the actor has moved | frozen | ready | | e or e+1 |
//! | arriving | target: `Activate`; source: `Retire` | retired | running | target | e+1 |
//! | aborting | propose `AbortMove` | as it was | as it was | | e, unless it was committed |
//! | undoing | source: `Thaw`; target: `Discard` | running | | source | e |
//!
//! Of commit and abort the group applies one, the first, whoever proposed it and however often; so an answer that was
//! lost is found out by proposing the same again. Before the commit every failure leads to the abort. A source goes on
//! only once the abort is applied, never because time has passed. A controller that dies leaves a move that another one
//! aborts, or that a source which waits too long aborts itself: the machine needs no memory but the group's.
//!
//! The very same machine runs in a node's controller and in the simulator.

use core::time::Duration;

pub use mesh_core::happened::Carried;
use mesh_core::{
    Certainty, Error, ErrorKind,
    assignment::{Assignment, MoveId},
    id::{ActorId, Epoch, NodeId},
    meta::{MeshCommand, MetaAnswer},
    op::{MoveOp, MoveStep, Moved},
};

/// What the machine wants. Each is answered by exactly one [`Heard`].
#[derive(Clone, Debug, PartialEq)]
pub enum Ask {
    /// A proposal to the control group.
    Propose(MeshCommand),
    /// A step at a node.
    Step(NodeId, MoveStep),
    /// To be told [`Heard::Due`] after so long.
    Wait(Duration),
}

/// What the machine hears.
#[derive(Clone, Debug, PartialEq)]
pub enum Heard {
    /// What the last proposal came to.
    Proposed(Result<MetaAnswer, Error>),
    /// What the step at a node came to.
    Stepped(NodeId, Result<Moved, Error>),
    /// The end of a wait.
    Due,
}

/// How a move ended.
#[derive(Clone, Debug, PartialEq)]
pub enum End {
    /// The actor runs at its target, under this epoch.
    Arrived(Epoch),
    /// It runs where it was. Why.
    Stayed(Error),
    /// Somebody else has decided meanwhile: whoever follows reads where it is.
    Elsewhere(Error),
}

/// One move. See the module's page.
#[derive(Clone, Debug)]
pub struct Migration {
    actor: ActorId,
    epoch: Epoch,
    id: MoveId,
    from: NodeId,
    to: NodeId,
    stage: Stage,
    /// Tries of what is asked now.
    tries: u32,
    /// Entries and pages that went over.
    carried: Carried,
    end: Option<End>,
}

#[derive(Clone, Debug, PartialEq)]
enum Stage {
    Beginning,
    Warming,
    Copying,
    Freezing,
    Committing,
    /// Which of the two have not answered well yet.
    Arriving {
        target: bool,
        source: bool,
    },
    Aborting(Error),
    Undoing {
        why: Error,
        source: bool,
        target: bool,
    },
    Over,
}

/// What a person or a log calls a stage.
impl core::fmt::Display for Migration {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let stage = match self.stage {
            Stage::Beginning => "beginning",
            Stage::Warming => "warming",
            Stage::Copying => "copying",
            Stage::Freezing => "freezing",
            Stage::Committing => "committing",
            Stage::Arriving { .. } => "arriving",
            Stage::Aborting(_) => "aborting",
            Stage::Undoing { .. } => "undoing",
            Stage::Over => "over",
        };
        write!(f, "{} {} from {} to {}: {stage}", self.actor, self.id, self.from, self.to)
    }
}

impl Migration {
    /// A move of an actor that is at rest, and what it asks first.
    #[must_use]
    pub fn begin(at: &Assignment, to: NodeId) -> (Self, Vec<Ask>) {
        let mut this = Self::of(at, MoveId(at.moves.0 + 1), to);
        let first = this.ask();
        (this, first)
    }

    /// The end of a move that another controller has begun and did not finish: it is aborted. `None` if the actor is
    /// at rest.
    #[must_use]
    pub fn clear(at: &Assignment) -> Option<(Self, Vec<Ask>)> {
        let (id, to) = at.move_under_way()?;
        let mut this = Self::of(at, id, to);
        let why = Error::new(ErrorKind::Draining, "the controller of the move is gone; it is taken back");
        this.stage = Stage::Aborting(why);
        let first = this.ask();
        Some((this, first))
    }

    fn of(at: &Assignment, id: MoveId, to: NodeId) -> Self {
        Self {
            actor: at.actor,
            epoch: at.epoch,
            id,
            from: at.node,
            to,
            stage: Stage::Beginning,
            tries: 0,
            carried: Carried::default(),
            end: None,
        }
    }

    /// The actor.
    #[must_use]
    pub const fn actor(&self) -> ActorId {
        self.actor
    }

    /// From where to where.
    #[must_use]
    pub const fn way(&self) -> (NodeId, NodeId) {
        (self.from, self.to)
    }

    /// What it has carried.
    #[must_use]
    pub const fn carried(&self) -> Carried {
        self.carried
    }

    /// How it ended, once it has.
    #[must_use]
    pub const fn end(&self) -> Option<&End> {
        self.end.as_ref()
    }

    /// Takes what came, and says what is wanted next.
    ///
    /// # Panics
    /// If it hears an answer to what it did not ask.
    pub fn hear(&mut self, heard: Heard) -> Vec<Ask> {
        match heard {
            Heard::Due => self.ask(),
            Heard::Proposed(outcome) => self.proposed(outcome),
            Heard::Stepped(node, outcome) => self.stepped(node, outcome),
        }
    }

    fn proposed(&mut self, outcome: Result<MetaAnswer, Error>) -> Vec<Ask> {
        let error = match (outcome, &self.stage) {
            (Ok(_), Stage::Beginning) => return self.go(Stage::Warming),
            (Ok(MetaAnswer::Epoch(_)), Stage::Committing) => {
                return self.go(Stage::Arriving { target: true, source: true });
            }
            (Ok(_), Stage::Aborting(why)) => {
                let why = why.clone();
                return self.go(Stage::Undoing { why, source: true, target: true });
            }
            (Ok(answer), stage) => unreachable!("{stage:?} heard {answer:?}"),
            (Err(error), _) => error,
        };
        // Refused: the group has decided otherwise, now or before.
        if error.kind() == ErrorKind::Conflict {
            return self.overruled(error);
        }
        match &self.stage {
            Stage::Beginning if error.certainty() == Certainty::NotProcessed && !is_passing(&error) => {
                self.over(End::Stayed(error))
            }
            // It may have begun: the abort finds out.
            Stage::Beginning if self.tries >= PROPOSALS_MAX => self.go(Stage::Aborting(error)),
            // Of what is neither known nor to be found out from here, the next controller takes care.
            _ if self.tries >= PROPOSALS_MAX || !is_passing(&error) => self.over(End::Elsewhere(error)),
            _ => vec![Ask::Wait(pause(self.tries))],
        }
    }

    /// The group says where the actor is instead.
    fn overruled(&mut self, error: Error) -> Vec<Ask> {
        let place = error.redirect().map(|place| (place.node, place.epoch));
        let moved = (Some(self.to), Some(Epoch(self.epoch.0 + 1)));
        match &self.stage {
            Stage::Beginning => self.over(End::Stayed(error)),
            // Still the epoch that it had: the move was aborted.
            Stage::Committing if place == Some((Some(self.from), Some(self.epoch))) => {
                self.go(Stage::Undoing { why: error, source: true, target: true })
            }
            // Committed after all, before the abort came; or the source seemed lost, and the actor was given to that very
            // node, which then must not run what it has of this move. Only the commit is told which it was.
            Stage::Aborting(_) if place == Some(moved) => self.go(Stage::Committing),
            _ => self.over(End::Elsewhere(error)),
        }
    }

    fn stepped(&mut self, node: NodeId, outcome: Result<Moved, Error>) -> Vec<Ask> {
        let is_target = node == self.to;
        match (&mut self.stage, outcome) {
            (Stage::Warming, Ok(_)) => self.go(Stage::Copying),
            (Stage::Copying, Ok(moved)) => {
                self.carried.before = moved.entries;
                self.go(Stage::Freezing)
            }
            (Stage::Freezing, Ok(moved)) => {
                self.carried.frozen = moved.entries;
                self.carried.frozen_us = moved.took_us;
                self.go(Stage::Committing)
            }
            (Stage::Warming | Stage::Copying | Stage::Freezing, Err(error)) => self.go(Stage::Aborting(error)),
            (Stage::Arriving { target, source } | Stage::Undoing { target, source, .. }, outcome) => {
                if let (false, Ok(moved)) = (is_target, &outcome) {
                    self.carried.waited_us = moved.took_us;
                }
                // Whoever cannot be told finds out from the group: it says who runs the actor.
                let told = self.tries >= STEPS_MAX || !outcome.is_err_and(|error| is_passing(&error));
                let waits_for = if is_target { &mut *target } else { &mut *source };
                *waits_for &= !told;
                if *target || *source { self.once_more(node, told) } else { self.told() }
            }
            (stage, outcome) => unreachable!("{stage:?} heard of a step: {outcome:?}"),
        }
    }

    /// Both nodes have been told how it ended.
    fn told(&mut self) -> Vec<Ask> {
        let end = match &self.stage {
            Stage::Undoing { why, .. } => End::Stayed(why.clone()),
            _ => End::Arrived(Epoch(self.epoch.0 + 1)),
        };
        self.over(end)
    }

    /// Asks one node again, if it was not told.
    fn once_more(&mut self, node: NodeId, told: bool) -> Vec<Ask> {
        if told {
            return Vec::new();
        }
        self.tries += 1;
        self.steps().into_iter().filter(|ask| matches!(ask, Ask::Step(at, _) if *at == node)).collect()
    }

    fn go(&mut self, stage: Stage) -> Vec<Ask> {
        self.stage = stage;
        self.tries = 0;
        self.ask()
    }

    fn over(&mut self, end: End) -> Vec<Ask> {
        self.stage = Stage::Over;
        self.end = Some(end);
        Vec::new()
    }

    fn ask(&mut self) -> Vec<Ask> {
        self.tries += 1;
        let (actor, epoch, id, to) = (self.actor, self.epoch, self.id, self.to);
        match &self.stage {
            Stage::Beginning => vec![Ask::Propose(MeshCommand::BeginMove { actor, epoch, id, to })],
            Stage::Committing => vec![Ask::Propose(MeshCommand::CommitMove { actor, epoch, id })],
            Stage::Aborting(_) => vec![Ask::Propose(MeshCommand::AbortMove { actor, epoch, id })],
            _ => self.steps(),
        }
    }

    fn steps(&self) -> Vec<Ask> {
        let step = |node, what| Ask::Step(node, MoveStep { actor: self.actor, epoch: self.epoch, id: self.id, what });
        let (from, to) = (self.from, self.to);
        match self.stage {
            Stage::Warming => vec![step(to, MoveOp::Warm)],
            Stage::Copying => vec![step(from, MoveOp::PreCopy { to })],
            Stage::Freezing => vec![step(from, MoveOp::Freeze { to })],
            Stage::Arriving { target, source } => {
                let target = target.then(|| step(to, MoveOp::Activate));
                target.into_iter().chain(source.then(|| step(from, MoveOp::Retire { to }))).collect()
            }
            Stage::Undoing { target, source, .. } => {
                let source = source.then(|| step(from, MoveOp::Thaw));
                source.into_iter().chain(target.then(|| step(to, MoveOp::Discard))).collect()
            }
            _ => Vec::new(),
        }
    }
}

/// Whether the same may go well a little later.
fn is_passing(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::NotLeader
            | ErrorKind::Unreachable
            | ErrorKind::Timeout
            | ErrorKind::LinkLost
            | ErrorKind::Overloaded
            | ErrorKind::Draining
            | ErrorKind::Restarted
    )
}

fn pause(tries: u32) -> Duration {
    PAUSE_MIN.saturating_mul(1 << tries.min(6))
}

/// Proposals of one kind at most, before the move is left to the next controller: about half a minute.
const PROPOSALS_MAX: u32 = 32;
/// Tries to tell a node how a move ended.
const STEPS_MAX: u32 = 4;
const PAUSE_MIN: Duration = Duration::from_millis(10);

#[cfg(test)]
mod tests;
