//! What the leader of the control group does so that every actor runs where the plan wants it: an actor whose node lives
//! moves live, by a [`Migration`]; one whose node is lost is given to another; a move that another leader began and did not
//! end is taken back; a chain that has no place yet gets one.
//!
//! It remembers nothing that matters: a new leader plans from what the group holds. At most one thing is under way for an
//! actor. Live moves and what one proposal changes have room of their own, [`MOVES_MAX`] each: who has lost its node is given
//! another however long moves of others take, which wait for functions to be built and states to be carried.

use core::{mem::Discriminant, time::Duration};
use std::collections::BTreeMap;

pub use mesh_core::happened::{Happened, Why};
use mesh_core::{
    Error, ErrorKind,
    assignment::{Assignment, Tail},
    id::{ActorId, Epoch, NodeId},
    meta::MeshCommand,
    op::{MoveOp, MoveStep},
    time::Instant,
};

use super::peers::Presence;
use crate::{
    Move, Reason,
    migration::{Ask, End, Heard, Migration},
};

/// What this node has under way as the leader.
#[derive(Debug, Default)]
pub struct Driver {
    hands: BTreeMap<ActorId, Hand>,
    /// Actors that did not move.
    backing_off: BTreeMap<ActorId, Pause>,
}

/// An actor is left alone for a while.
#[derive(Clone, Copy, Debug)]
struct Pause {
    until: Instant,
    /// How often something failed in a row.
    times: u32,
    /// The move that it was last stopped for in vain.
    vain: Option<Vain>,
}

/// A move for which an actor was stopped in vain.
#[derive(Clone, Copy, Debug)]
struct Vain {
    aim: Aim,
    /// How often in a row.
    times: u32,
    /// It is not tried again before.
    until: Instant,
}

/// Where an actor was to go, and what kind of reason there was for it: another one is another move.
type Aim = (NodeId, Discriminant<Reason>);

fn aim(to: NodeId, why: &Reason) -> Aim {
    (to, core::mem::discriminant(why))
}

impl Pause {
    /// After something has failed. `stopped_for`: the actor was stopped for it.
    fn next(before: Option<Self>, stopped_for: Option<Aim>, now: Instant) -> Self {
        let after = |doublings: u32| now + BACK_OFF_MIN.saturating_mul(1 << doublings);
        let before = before.filter(|pause| pause.is_kept(now));
        let times = before.map_or(0, |pause| pause.times);
        let known = before.and_then(|pause| pause.vain);
        let vain = match stopped_for {
            Some(aim) => {
                let times = known.filter(|vain| vain.aim == aim).map_or(0, |vain| vain.times);
                let until = after(times.min(DOUBLINGS_IN_VAIN_MAX));
                Some(Vain { aim, times: times.saturating_add(1), until })
            }
            None => known,
        };
        Self { until: after(times.min(DOUBLINGS_MAX)), times: times.saturating_add(1), vain }
    }

    fn is_kept(&self, now: Instant) -> bool {
        self.vain.map_or(self.until, |vain| vain.until.max(self.until)) + BACK_OFF_KEPT > now
    }

    /// Whether this move is to wait.
    fn defers(&self, aim: Aim, now: Instant) -> bool {
        self.vain.is_some_and(|vain| vain.aim == aim && vain.until > now)
    }
}

/// What is under way for an actor.
#[derive(Debug)]
enum Hand {
    Move(Box<Trip>),
    /// One proposal.
    Change(Change, Instant),
}

impl Hand {
    fn kind(&self) -> Kind {
        match self {
            Self::Move(trip) => Kind::of(&trip.why),
            Self::Change(..) => Kind::Change,
        }
    }
}

/// What has room of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Move,
    /// One proposal; to take back what a leader that is gone began is little more.
    Change,
}

impl Kind {
    fn of(why: &Why) -> Self {
        if matches!(why, Why::Left) { Self::Change } else { Self::Move }
    }
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

    /// Takes back the moves that nobody carries out.
    #[must_use]
    pub fn clear<'a>(&mut self, rows: impl IntoIterator<Item = &'a Assignment>, now: Instant) -> Asks {
        let mut asks = Asks::new();
        for row in rows.into_iter().filter(|row| row.moving.is_some()) {
            if !self.is_busy(row.actor)
                && self.has_room(Kind::Change)
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
        if !self.is_free(row.actor, now) || !self.may_change() {
            return Asks::new();
        }
        self.change(row.actor, MeshCommand::Assign(row), Change::Place, now)
    }

    /// Begins what the plan wants of the actor of a row, unless it is busy, backs off, or too many are under way.
    /// `presence`: how its node looks. `stranded`: its node answers, and cannot move it (it does not have what it is made
    /// of), so that it is given away like that of a lost one.
    #[must_use]
    pub fn go(&mut self, row: &Assignment, step: &Move, presence: Presence, stranded: bool, now: Instant) -> Asks {
        let actor = row.actor;
        if !self.is_free(actor, now) {
            return Asks::new();
        }
        let to = step.to.head;
        let is_live = presence == Presence::Up && to != row.node && !stranded;
        if !self.has_room(if is_live { Kind::Move } else { Kind::Change }) {
            return Asks::new();
        }
        if is_live && self.backing_off.get(&actor).is_some_and(|pause| pause.defers(aim(to, &step.reason), now)) {
            return Asks::new();
        }
        match presence {
            // It may be there, with its state: it is moved once it answers.
            Presence::Unheard => Asks::new(),
            Presence::Up if to == row.node => {
                let tail = step.to.tail.map(|(cut, node)| Tail { cut: u8::try_from(cut).unwrap_or(u8::MAX), node });
                let change = Change::Tail { at: row.node, tail, why: step.reason.clone() };
                self.change(actor, MeshCommand::SetTail { actor, epoch: row.epoch, tail }, change, now)
            }
            Presence::Up if is_live => self.set_out(Migration::begin(row, to), Why::Plan(step.reason.clone()), now),
            Presence::Up | Presence::Down => {
                let epoch = Epoch(row.epoch.0 + 1);
                let change = Change::TakeOver { from: row.node, to, epoch, why: step.reason.clone() };
                self.change(actor, MeshCommand::Assign(Assignment::new(actor, to, epoch)), change, now)
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

    fn change(&mut self, actor: ActorId, command: MeshCommand, change: Change, now: Instant) -> Asks {
        self.hands.insert(actor, Hand::Change(change, now));
        vec![(actor, Ask::Propose(command))]
    }

    fn has_room(&self, kind: Kind) -> bool {
        self.hands.values().filter(|hand| hand.kind() == kind).count() < MOVES_MAX
    }

    /// Whether an actor could be given away, however many move.
    #[must_use]
    pub fn may_change(&self) -> bool {
        self.has_room(Kind::Change)
    }

    /// Whether something could be begun for an actor now, if there is room: it is not busy and does not back off.
    #[must_use]
    pub fn is_free(&self, actor: ActorId, now: Instant) -> bool {
        !self.is_busy(actor) && self.backing_off.get(&actor).is_none_or(|pause| pause.until <= now)
    }

    /// What was done for an actor has come to this. Says what is wanted next, or how it ended.
    ///
    /// # Panics
    /// If it hears an answer to what it did not ask.
    #[must_use]
    pub fn hear(&mut self, actor: ActorId, heard: Heard, now: Instant) -> (Asks, Option<Happened>) {
        let Some(hand) = self.hands.get_mut(&actor) else { return (Asks::new(), None) };
        let mut stopped_for = None;
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
                stopped_for = trip.stopped.and_then(|_| trip.aim());
                trip.ended(end.clone(), now)
            }
            Hand::Change(change, began) => {
                let Heard::Proposed(outcome) = heard else { unreachable!("a change heard {heard:?}") };
                change.ended(actor, outcome.err(), now.since(*began))
            }
        };
        if happened.has_failed() {
            self.back_off(actor, stopped_for, now);
        } else {
            self.hands.remove(&actor);
            self.backing_off.remove(&actor);
        }
        (Asks::new(), Some(happened))
    }

    fn back_off(&mut self, actor: ActorId, stopped_for: Option<Aim>, now: Instant) {
        self.hands.remove(&actor);
        let pause = Pause::next(self.backing_off.get(&actor).copied(), stopped_for, now);
        self.backing_off.insert(actor, pause);
        self.backing_off.retain(|_, pause| pause.is_kept(now));
    }
}

impl Trip {
    /// Notes when what counts was asked.
    fn note(&mut self, asks: &[Ask], now: Instant) {
        for ask in asks {
            match ask {
                Ask::Propose(MeshCommand::CommitMove { .. }) => self.proposed = Some(now),
                Ask::Step(_, MoveStep { what: MoveOp::Freeze { .. }, .. }) => self.stopped = Some(now),
                _ => {}
            }
        }
    }

    /// What it is to come to; `None`: it only takes back what another leader began.
    fn aim(&self) -> Option<Aim> {
        match &self.why {
            Why::Plan(reason) => Some(aim(self.machine.way().1, reason)),
            _ => None,
        }
    }

    fn ended(&self, end: End, now: Instant) -> Happened {
        let (actor, (from, to)) = (self.machine.actor(), self.machine.way());
        let not_moved =
            |elsewhere, error: Error| Happened::NotMoved { actor, from, to, elsewhere, error: error.to_string() };
        let epoch = match end {
            End::Arrived(epoch) => epoch,
            End::Stayed(error) => return not_moved(false, error),
            End::Elsewhere(error) => return not_moved(true, error),
        };
        let carried = self.machine.carried();
        let waited_us = match carried.waited_us {
            0 => self.stopped.map_or(0, |at| micros(now.since(at))),
            waited_us => waited_us,
        };
        let (took_us, commit_us) = (micros(now.since(self.began)), micros(self.commit));
        Happened::Moved { actor, from, to, epoch, took_us, waited_us, commit_us, carried, why: self.why.clone() }
    }
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

impl Change {
    fn ended(&self, actor: ActorId, error: Option<Error>, commit: Duration) -> Happened {
        match (self, error) {
            // Another leader was first.
            (Self::Place, Some(error)) if error.kind() != ErrorKind::Conflict => {
                Happened::NotPlaced { actor, error: error.to_string() }
            }
            (Self::Place, _) => Happened::Placed(actor),
            (Self::TakeOver { from, to, epoch, why }, None) => {
                let (from, to, epoch, why) = (*from, *to, *epoch, why.clone());
                Happened::TakenOver { actor, from, to, epoch, commit_us: micros(commit), why }
            }
            (Self::TakeOver { to, .. }, Some(error)) => {
                Happened::NotTakenOver { actor, to: *to, error: error.to_string() }
            }
            (Self::Tail { at, tail, why }, None) => Happened::Cut { actor, at: *at, tail: *tail, why: why.clone() },
            (Self::Tail { .. }, Some(error)) => Happened::NotCut { actor, error: error.to_string() },
        }
    }
}

/// Live moves at once; and as many changes of one proposal.
pub const MOVES_MAX: usize = 16;
/// What failed is tried again after this, and after twice as long each time.
const BACK_OFF_MIN: Duration = Duration::from_secs(1);
/// Up to four times as long: what is wanted is there a few seconds after it can be.
const DOUBLINGS_MAX: u32 = 2;
/// Up to 32 times as long for a live move that the actor was stopped for in vain each time: whoever asked it waited, for
/// nothing. One whose state cannot be carried over in time stands still twice a minute then, not every few seconds. To where
/// else it is to go, and for what other reason, it goes at once; and if its node is lost it is given to another all the same.
const DOUBLINGS_IN_VAIN_MAX: u32 = 5;
/// That it failed is forgotten so long after it could be tried again: longer than a step of a move may take.
const BACK_OFF_KEPT: Duration = Duration::from_secs(180);

#[cfg(test)]
mod tests;
