//! The plan: which actor runs where, and why. Made from a view by [`plan`], and printed for people.

use core::fmt;
use std::collections::{BTreeMap, BTreeSet};

use mesh_core::id::{ActorId, ActorName, NodeId};

use crate::{
    index::Index,
    reason::Reason,
    score::Score,
    solve::{Solved, solve},
    view::{Spot, View},
};

/// What was decided for one actor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Where it is to run. `None`: there is no place for it. An actor that should leave and cannot stays where it is,
    /// with [`Reason::Stuck`].
    pub spot: Option<Spot>,
    /// Why there, or why nowhere.
    pub reason: Reason,
}

/// One move.
#[derive(Clone, Debug, PartialEq, Eq)]
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
#[derive(Clone, Debug, Default, PartialEq, Eq)]
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

/// One actor's decision and where it comes from.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    pub(crate) actor: ActorId,
    pub(crate) from: Option<Spot>,
    /// A move is under way.
    pub(crate) still: bool,
    pub(crate) decision: Decision,
    pub(crate) due_ms: Option<u64>,
}

impl Outcome {
    pub(crate) fn moves(&self) -> bool {
        !self.still && self.decision.spot.is_some() && self.decision.spot != self.from
    }
}

/// Decides where every actor of the view runs. The same view gives the same plan; a view in which the plan has been
/// carried out gives a plan without moves.
#[must_use]
pub fn plan(view: &View) -> Plan {
    Plan::from_solved(solve_all(view, &Index::new(view)))
}

pub(crate) fn solve_all(view: &View, index: &Index) -> Solved {
    let mut all = Solved::default();
    let mut done: BTreeSet<NodeId> = BTreeSet::new();
    for node in index.named() {
        if !done.contains(&node) {
            let component = index.component(view, [node], [], &done);
            all.take(solve(view, index, &component));
            done.extend(component.nodes);
        }
    }
    // Actors that name no node.
    let seen: BTreeSet<ActorId> = all.outcomes.iter().map(|outcome| outcome.actor).collect();
    if seen.len() < view.actors.len() {
        let rest = view.actors.keys().copied().filter(|actor| !seen.contains(actor));
        let component = index.component(view, [], rest, &done);
        all.take(solve(view, index, &component));
    }
    all
}

impl Solved {
    pub(crate) fn take(&mut self, other: Self) {
        self.outcomes.extend(other.outcomes);
        self.before = self.before.plus(other.before);
        self.after = self.after.plus(other.after);
    }
}

impl Plan {
    pub(crate) fn from_solved(mut solved: Solved) -> Self {
        solved.outcomes.sort_unstable_by_key(|outcome| outcome.actor);
        let mut plan = Self { before: solved.before, score: solved.after, ..Self::default() };
        for outcome in &solved.outcomes {
            let Decision { spot, reason } = &outcome.decision;
            match spot {
                Some(to) if outcome.moves() => {
                    let (actor, from) = (outcome.actor, outcome.from);
                    plan.moves.push(Move { actor, from, to: *to, reason: reason.clone() });
                }
                Some(_) if !matches!(reason, Reason::Stuck { .. }) => {}
                _ => plan.refused.push((outcome.actor, reason.clone())),
            }
        }
        plan.again_at_ms = solved.outcomes.iter().filter_map(|outcome| outcome.due_ms).min();
        plan.decisions = solved.outcomes.into_iter().map(|outcome| (outcome.actor, outcome.decision)).collect();
        plan
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
            Some(from) => write!(f, "move  {}: {from} -> {}: {}", Name(self.actor), self.to, self.reason),
            None => write!(f, "start {}: {}: {}", Name(self.actor), self.to, self.reason),
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
            writeln!(f, "stuck {}: {reason}", Name(*actor))?;
        }
        let told: BTreeSet<ActorId> =
            self.moves.iter().map(|step| step.actor).chain(self.refused.iter().map(|(actor, _)| *actor)).collect();
        if f.alternate() {
            for (actor, Decision { spot, reason }) in self.decisions.iter().filter(|(actor, _)| !told.contains(actor)) {
                if let Some(spot) = spot {
                    writeln!(f, "stay  {}: {spot}: {reason}", Name(*actor))?;
                }
            }
        }
        let left = self.decisions.len() - told.len();
        writeln!(f, "{} to move, {} stuck, {left} left alone", self.moves.len(), self.refused.len())?;
        writeln!(f, "now:   {}", self.before)?;
        write!(f, "after: {}", self.score)
    }
}

/// An actor as people call it, wherever they say or read of one: `chain-1-3` and the like, see [`ActorName`].
#[derive(Clone, Copy, Debug)]
pub struct Name(pub ActorId);

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        ActorName(self.0).fmt(f)
    }
}
