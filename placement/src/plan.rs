//! The plan, made from a view.

use std::collections::BTreeSet;

use mesh_core::{
    id::{ActorId, NodeId},
    plan::{Decision, Move, Plan, Reason, Spot},
};

use crate::{
    index::Index,
    solve::{Solved, solve},
    view::View,
};

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
    from_solved(solve_all(view, &Index::new(view)))
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

pub(crate) fn from_solved(mut solved: Solved) -> Plan {
    solved.outcomes.sort_unstable_by_key(|outcome| outcome.actor);
    let mut plan = Plan { before: solved.before, score: solved.after, ..Plan::default() };
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
