//! What the leader of the control group does so that every actor runs where the plan wants it: an actor whose node lives
//! moves live, by a [`Migration`]; one whose node is lost is given to another; a move that another leader began and did not
//! end is taken back; a chain that has no place yet gets one.
//!
//! It remembers nothing that matters: a new leader plans from what the group holds. At most one thing is under way for an
//! actor, and at most [`MOVES_MAX`] at all.

use core::{fmt, time::Duration};
use std::collections::BTreeMap;

use mesh_core::{
    Error, ErrorKind,
    assignment::{Assignment, Tail},
    id::{ActorId, Epoch, NodeId},
    meta::Command,
    op::{MoveOp, MoveStep},
    time::Instant,
};

use super::peers::Presence;
use crate::{
    Move, Name, Reason,
    migration::{Ask, Carried, End, Heard, Migration},
};

/// What this node has under way as the leader.
#[derive(Debug, Default)]
pub struct Driver {
    hands: BTreeMap<ActorId, Hand>,
    /// Actors that did not move, until when they are left alone, and how often that happened in a row.
    backing_off: BTreeMap<ActorId, (Instant, u32)>,
}

/// What is under way for an actor.
#[derive(Debug)]
enum Hand {
    Move(Box<Trip>),
    /// One proposal.
    Change(Change, Instant),
}

/// A live move.
#[derive(Debug)]
struct Trip {
    machine: Migration,
    why: Why,
    began: Instant,
    /// The actor was asked to stop.
    stopped: Option<Instant>,
    /// The commit was proposed.
    proposed: Option<Instant>,
    /// What commits took.
    commit: Duration,
}

/// What one proposal changes.
#[derive(Debug)]
enum Change {
    Place,
    TakeOver { from: NodeId, to: NodeId, epoch: Epoch, why: Reason },
    Tail { at: NodeId, tail: Option<Tail>, why: Reason },
}

/// Why an actor was moved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// The plan says so.
    Plan(Reason),
    /// Another leader began it, and is gone.
    Left,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plan(reason) => reason.fmt(f),
            Self::Left => f.write_str("its controller is gone"),
        }
    }
}

/// What has happened to an actor.
#[derive(Clone, Debug, PartialEq)]
pub enum Happened {
    /// It moved live.
    Moved {
        /// Which.
        actor: ActorId,
        /// From where.
        from: NodeId,
        /// To where.
        to: NodeId,
        /// It runs there under this.
        epoch: Epoch,
        /// From the first proposal to the last answer.
        took: Duration,
        /// How long its requests waited.
        waited: Duration,
        /// How long the commit took.
        commit: Duration,
        /// What went over.
        carried: Carried,
        /// Why.
        why: Why,
    },
    /// It was to move and did not.
    NotMoved {
        /// Which.
        actor: ActorId,
        /// From where.
        from: NodeId,
        /// To where.
        to: NodeId,
        /// How the move ended.
        end: End,
    },
    /// Its node was lost and another runs it; what it held in memory is gone.
    TakenOver {
        /// Which.
        actor: ActorId,
        /// The lost node.
        from: NodeId,
        /// Who runs it.
        to: NodeId,
        /// Under what.
        epoch: Epoch,
        /// How long the commit took.
        commit: Duration,
        /// Why.
        why: Reason,
    },
    /// Its node is lost, and it was not given to this one.
    NotTakenOver {
        /// Which.
        actor: ActorId,
        /// To whom.
        to: NodeId,
        /// Why not.
        error: Error,
    },
    /// Its last stages run elsewhere now, or where the rest does.
    Cut {
        /// Which.
        actor: ActorId,
        /// Where its head runs.
        at: NodeId,
        /// Where its tail runs.
        tail: Option<Tail>,
        /// Why.
        why: Reason,
    },
    /// It was to be split or joined.
    NotCut {
        /// Which.
        actor: ActorId,
        /// Why not.
        error: Error,
    },
    /// It has its first place, or another leader gave it one.
    Placed(ActorId),
    /// It has none yet.
    NotPlaced {
        /// Which.
        actor: ActorId,
        /// Why not.
        error: Error,
    },
}

impl Happened {
    /// Which actor.
    #[must_use]
    pub const fn actor(&self) -> ActorId {
        match self {
            Self::Moved { actor, .. }
            | Self::NotMoved { actor, .. }
            | Self::TakenOver { actor, .. }
            | Self::NotTakenOver { actor, .. }
            | Self::Cut { actor, .. }
            | Self::NotCut { actor, .. }
            | Self::Placed(actor)
            | Self::NotPlaced { actor, .. } => *actor,
        }
    }

    /// Whether the actor runs elsewhere, or otherwise, than before.
    #[must_use]
    pub const fn has_moved(&self) -> bool {
        matches!(self, Self::Moved { .. } | Self::TakenOver { .. } | Self::Cut { .. })
    }

    const fn has_failed(&self) -> bool {
        matches!(self, Self::NotMoved { .. } | Self::NotTakenOver { .. } | Self::NotCut { .. } | Self::NotPlaced { .. })
    }
}

/// For who watches.
impl fmt::Display for Happened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = |span: &Duration| span.as_secs_f64() * 1000.0;
        match self {
            Self::Moved { actor, from, to, epoch, took, waited, commit, carried, why } => write!(
                f,
                "moved {} from {from} to {to} under {epoch} in {:.2} ms: its requests waited {:.2} ms of that, the commit \
                 took {:.2} ms; {} + {} entries of state: {why}",
                Name(*actor),
                millis(took),
                millis(waited),
                millis(commit),
                carried.before,
                carried.frozen,
            ),
            Self::NotMoved { actor, from, to, end } => {
                write!(f, "{} did not move from {from} to {to}", Name(*actor))?;
                match end {
                    End::Stayed(error) | End::Elsewhere(error) => write!(f, ": {error}"),
                    End::Arrived(_) => Ok(()),
                }
            }
            Self::TakenOver { actor, from, to, epoch, commit, why } => write!(
                f,
                "{} runs on {to} under {epoch} instead of {from}, the commit took {:.2} ms: {why}",
                Name(*actor),
                millis(commit)
            ),
            Self::NotTakenOver { actor, to, error } => {
                write!(f, "{} was not taken over by {to}: {error}", Name(*actor))
            }
            Self::Cut { actor, at, tail: Some(Tail { cut, node }), why } => {
                write!(f, "{} runs on {at} and from stage {} on on {node}: {why}", Name(*actor), cut + 1)
            }
            Self::Cut { actor, at, tail: None, why } => write!(f, "{} runs on {at} as a whole: {why}", Name(*actor)),
            Self::NotCut { actor, error } => write!(f, "{} was not split or joined: {error}", Name(*actor)),
            Self::Placed(actor) => write!(f, "{} has its first place", Name(*actor)),
            Self::NotPlaced { actor, error } => {
                write!(f, "the first place of {} was not stored: {error}", Name(*actor))
            }
        }
    }
}

/// What is to be done for an actor's sake; each is answered by one [`Heard`].
pub type Asks = Vec<(ActorId, Ask)>;

impl Driver {
    /// This node does not lead any more. What runs goes on to its end; a new leader's proposals and these are settled by
    /// the group.
    pub fn rest(&mut self) {
        self.backing_off.clear();
    }

    /// Actors for which something is under way.
    #[must_use]
    pub fn under_way(&self) -> usize {
        self.hands.len()
    }

    /// Whether something is under way for an actor.
    #[must_use]
    pub fn is_busy(&self, actor: ActorId) -> bool {
        self.hands.contains_key(&actor)
    }

    /// The move of an actor that is under way from here.
    #[must_use]
    pub fn machine(&self, actor: ActorId) -> Option<&Migration> {
        match self.hands.get(&actor)? {
            Hand::Move(trip) => Some(&trip.machine),
            Hand::Change(..) => None,
        }
    }

    /// Takes back the moves that nobody carries out.
    #[must_use]
    pub fn clear<'a>(&mut self, rows: impl IntoIterator<Item = &'a Assignment>, now: Instant) -> Asks {
        let mut asks = Asks::new();
        for row in rows.into_iter().filter(|row| row.moving.is_some()) {
            if self.may_begin(row.actor)
                && let Some(begun) = Migration::clear(row)
            {
                asks.extend(self.set_out(begun, Why::Left, now));
            }
        }
        asks
    }

    /// Gives an actor its first place.
    #[must_use]
    pub fn place(&mut self, row: Assignment, now: Instant) -> Asks {
        if !self.may_begin(row.actor) || self.is_backing_off(row.actor, now) {
            return Asks::new();
        }
        self.change(row.actor, Command::Assign(row), Change::Place, now)
    }

    /// Begins what the plan wants of the actor of a row, unless it is busy, backs off, or too many are under way.
    /// `presence`: how its node looks. `stranded`: its node answers, and cannot move it (it does not have what it is made
    /// of), so that it is given away like that of a lost one.
    #[must_use]
    pub fn go(&mut self, row: &Assignment, step: &Move, presence: Presence, stranded: bool, now: Instant) -> Asks {
        let actor = row.actor;
        if !self.may_begin(actor) || self.is_backing_off(actor, now) {
            return Asks::new();
        }
        let to = step.to.head;
        match presence {
            // It may be there, with its state: it is moved once it answers.
            Presence::Unheard => Asks::new(),
            Presence::Up if to == row.node => {
                let tail = step.to.tail.map(|(cut, node)| Tail { cut: u8::try_from(cut).unwrap_or(u8::MAX), node });
                let change = Change::Tail { at: row.node, tail, why: step.reason.clone() };
                self.change(actor, Command::SetTail { actor, epoch: row.epoch, tail }, change, now)
            }
            Presence::Up if !stranded => self.set_out(Migration::begin(row, to), Why::Plan(step.reason.clone()), now),
            Presence::Up | Presence::Down => {
                let epoch = Epoch(row.epoch.0 + 1);
                let change = Change::TakeOver { from: row.node, to, epoch, why: step.reason.clone() };
                self.change(actor, Command::Assign(Assignment::new(actor, to, epoch)), change, now)
            }
        }
    }

    /// Has a move carried out, whatever the plan says.
    #[must_use]
    pub fn set_out(&mut self, (machine, asks): (Migration, Vec<Ask>), why: Why, now: Instant) -> Asks {
        let actor = machine.actor();
        let trip = Trip { machine, why, began: now, stopped: None, proposed: None, commit: Duration::ZERO };
        let mut trip = Box::new(trip);
        trip.note(&asks, now);
        self.hands.insert(actor, Hand::Move(trip));
        asks.into_iter().map(|ask| (actor, ask)).collect()
    }

    fn change(&mut self, actor: ActorId, command: Command, change: Change, now: Instant) -> Asks {
        self.hands.insert(actor, Hand::Change(change, now));
        vec![(actor, Ask::Propose(command))]
    }

    fn may_begin(&self, actor: ActorId) -> bool {
        self.hands.len() < MOVES_MAX && !self.hands.contains_key(&actor)
    }

    fn is_backing_off(&self, actor: ActorId, now: Instant) -> bool {
        self.backing_off.get(&actor).is_some_and(|(until, _)| *until > now)
    }

    /// What was done for an actor has come to this. Says what is wanted next, or how it ended.
    ///
    /// # Panics
    /// If it hears an answer to what it did not ask.
    #[must_use]
    pub fn hear(&mut self, actor: ActorId, heard: Heard, now: Instant) -> (Asks, Option<Happened>) {
        let Some(hand) = self.hands.get_mut(&actor) else { return (Asks::new(), None) };
        let happened = match hand {
            Hand::Move(trip) => {
                if matches!(heard, Heard::Proposed(_))
                    && let Some(at) = trip.proposed.take()
                {
                    trip.commit += now.since(at);
                }
                let asks = trip.machine.hear(heard);
                trip.note(&asks, now);
                let Some(end) = trip.machine.end() else {
                    return (asks.into_iter().map(|ask| (actor, ask)).collect(), None);
                };
                trip.ended(end.clone(), now)
            }
            Hand::Change(change, began) => {
                let Heard::Proposed(outcome) = heard else { unreachable!("a change heard {heard:?}") };
                change.ended(actor, outcome.err(), now.since(*began))
            }
        };
        self.hands.remove(&actor);
        if happened.has_failed() {
            let times = self.backing_off.get(&actor).map_or(0, |(_, times)| *times);
            let pause = BACK_OFF_MIN.saturating_mul(1 << times.min(2));
            self.backing_off.insert(actor, (now + pause, times.saturating_add(1)));
        } else {
            self.backing_off.remove(&actor);
        }
        self.backing_off.retain(|_, (until, _)| *until + BACK_OFF_KEPT > now);
        (Asks::new(), Some(happened))
    }
}

impl Trip {
    /// Notes when what counts was asked.
    fn note(&mut self, asks: &[Ask], now: Instant) {
        for ask in asks {
            match ask {
                Ask::Propose(Command::CommitMove { .. }) => self.proposed = Some(now),
                Ask::Step(_, MoveStep { what: MoveOp::Freeze { .. }, .. }) => self.stopped = Some(now),
                _ => {}
            }
        }
    }

    fn ended(&self, end: End, now: Instant) -> Happened {
        let (actor, (from, to)) = (self.machine.actor(), self.machine.way());
        let End::Arrived(epoch) = end else { return Happened::NotMoved { actor, from, to, end } };
        let carried = self.machine.carried();
        let waited = match carried.waited_us {
            0 => self.stopped.map_or(Duration::ZERO, |at| now.since(at)),
            waited_us => Duration::from_micros(waited_us),
        };
        let (took, commit, why) = (now.since(self.began), self.commit, self.why.clone());
        Happened::Moved { actor, from, to, epoch, took, waited, commit, carried, why }
    }
}

impl Change {
    fn ended(&self, actor: ActorId, error: Option<Error>, commit: Duration) -> Happened {
        match (self, error) {
            // Another leader was first.
            (Self::Place, Some(error)) if error.kind() != ErrorKind::Conflict => Happened::NotPlaced { actor, error },
            (Self::Place, _) => Happened::Placed(actor),
            (Self::TakeOver { from, to, epoch, why }, None) => {
                let (from, to, epoch, why) = (*from, *to, *epoch, why.clone());
                Happened::TakenOver { actor, from, to, epoch, commit, why }
            }
            (Self::TakeOver { to, .. }, Some(error)) => Happened::NotTakenOver { actor, to: *to, error },
            (Self::Tail { at, tail, why }, None) => Happened::Cut { actor, at: *at, tail: *tail, why: why.clone() },
            (Self::Tail { .. }, Some(error)) => Happened::NotCut { actor, error },
        }
    }
}

/// Actors for which something is under way at once.
pub const MOVES_MAX: usize = 16;
/// What failed is tried again after this, and after twice as long each time, up to four times: what is wanted is there a
/// few seconds after it can be.
const BACK_OFF_MIN: Duration = Duration::from_secs(1);
/// That it failed is forgotten so long after it could be tried again.
const BACK_OFF_KEPT: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests;
