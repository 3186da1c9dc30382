//! Which actor runs where, what has to move for that, and why: what the placement engine says, as a value, and printed for
//! people. What it is made from is the engine's own.

mod reason;
mod score;

use core::fmt;
use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

pub use self::{
    reason::{Objective, Reason},
    score::Score,
};
use crate::id::{ActorId, ActorName, NodeId};

/// Where a chain runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Spot {
    /// The node of its first stages, or of all of them.
    pub head: NodeId,
    /// The first stage of the tail and the tail's node, if it is split.
    pub tail: Option<(usize, NodeId)>,
}

impl Spot {
    /// All of it on one node.
    #[must_use]
    pub const fn whole(node: NodeId) -> Self {
        Self { head: node, tail: None }
    }

    /// The stages from `cut` on elsewhere.
    #[must_use]
    pub const fn split(head: NodeId, cut: usize, tail: NodeId) -> Self {
        Self { head, tail: Some((cut, tail)) }
    }

    /// The one or two nodes that a part of it runs on.
    pub fn nodes(self) -> impl Iterator<Item = NodeId> {
        [Some(self.head), self.tail.map(|(_, node)| node)].into_iter().flatten()
    }
}

impl fmt::Display for Spot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.tail {
            None => write!(f, "{}", self.head),
            Some((cut, node)) => write!(f, "{} (from stage {} on: {node})", self.head, cut + 1),
        }
    }
}

/// What was decided for one actor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// Where it is to run. `None`: there is no place for it. An actor that should leave and cannot stays where it is,
    /// with [`Reason::Stuck`].
    pub spot: Option<Spot>,
    /// Why there, or why nowhere.
    pub reason: Reason,
}

/// One move.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Move {
    /// Which actor.
    pub actor: ActorId,
    /// From where. `None`: it ran nowhere.
    pub from: Option<Spot>,
    /// To where.
    pub to: Spot,
    /// Why.
    pub reason: Reason,
}

/// Which actor runs where, what has to move for that, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Every actor that was looked at.
    pub decisions: BTreeMap<ActorId, Decision>,
    /// What has to move.
    pub moves: Vec<Move>,
    /// Actors without a place, and actors that should leave theirs and cannot.
    pub refused: Vec<(ActorId, Reason)>,
    /// How it is now, of the actors that were looked at.
    pub before: Score,
    /// How it will be.
    pub score: Score,
    /// When the passing of time alone may change the answer: a node will have settled, an actor may move again.
    pub again_at_ms: Option<u64>,
}

impl Plan {
    /// Puts what the next page says behind this one; the totals of the first page count.
    pub fn append(&mut self, next: Self) {
        if self.decisions.is_empty() && self.moves.is_empty() && self.refused.is_empty() {
            *self = next;
            return;
        }
        self.decisions.extend(next.decisions);
        self.moves.extend(next.moves);
        self.refused.extend(next.refused);
    }

    /// Whether nothing has to move.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.moves.is_empty()
    }
}

impl fmt::Display for Move {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.from {
            Some(from) => write!(f, "move  {}: {from} -> {}: {}", ActorName(self.actor), self.to, self.reason),
            None => write!(f, "start {}: {}: {}", ActorName(self.actor), self.to, self.reason),
        }
    }
}

/// A line a move, a line an actor that has no place, and the totals. With `{:#}` also a line an actor that is left
/// alone, with the reason.
impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for step in &self.moves {
            writeln!(f, "{step}")?;
        }
        for (actor, reason) in &self.refused {
            writeln!(f, "stuck {}: {reason}", ActorName(*actor))?;
        }
        let told: BTreeSet<ActorId> =
            self.moves.iter().map(|step| step.actor).chain(self.refused.iter().map(|(actor, _)| *actor)).collect();
        if f.alternate() {
            for (actor, Decision { spot, reason }) in self.decisions.iter().filter(|(actor, _)| !told.contains(actor)) {
                if let Some(spot) = spot {
                    writeln!(f, "stay  {}: {spot}: {reason}", ActorName(*actor))?;
                }
            }
        }
        let left = self.decisions.len() - told.len();
        writeln!(f, "{} to move, {} stuck, {left} left alone", self.moves.len(), self.refused.len())?;
        writeln!(f, "now:   {}", self.before)?;
        write!(f, "after: {}", self.score)
    }
}
