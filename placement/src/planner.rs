//! Plans again after each change, looking only at what the change can have a bearing on.
//!
//! What it holds at any time is what [`plan`](crate::plan::plan) would decide from the whole view.

use std::collections::{BTreeMap, BTreeSet};

use mesh_core::{
    id::{ActorId, NodeId},
    plan::{Decision, Plan},
};

use crate::{
    index::{Component, Index},
    plan::{from_solved, solve_all},
    solve::{Solved, solve},
    view::{ActorView, NodeView, View},
};

/// What has become different.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A node is as given now, or is no more.
    Node(NodeId, Option<NodeView>),
    /// An actor is as given now, or is no more.
    Actor(ActorId, Option<ActorView>),
    /// Time has passed: it is so late now. Without a change of this kind, the time stands still.
    Now(u64),
}

/// A view, what was decided from it, and what ties the actors to each other.
#[derive(Clone, Debug)]
pub struct Planner {
    view: View,
    index: Index,
    decisions: BTreeMap<ActorId, Decision>,
    /// When to look at an actor again although nothing has changed.
    due: BTreeSet<(u64, ActorId)>,
    due_of: BTreeMap<ActorId, u64>,
}

impl Planner {
    /// Plans everything once; the plan is the second value.
    #[must_use]
    pub fn new(view: View) -> (Self, Plan) {
        let index = Index::new(&view);
        let whole = solve_all(&view, &index);
        let mut planner =
            Self { view, index, decisions: BTreeMap::new(), due: BTreeSet::new(), due_of: BTreeMap::new() };
        for outcome in &whole.outcomes {
            planner.set_due(outcome.actor, outcome.due_ms);
        }
        let plan = from_solved(whole);
        planner.decisions.clone_from(&plan.decisions);
        (planner, plan)
    }

    /// What everything was decided from.
    #[must_use]
    pub const fn view(&self) -> &View {
        &self.view
    }

    /// What holds for every actor.
    #[must_use]
    pub const fn decisions(&self) -> &BTreeMap<ActorId, Decision> {
        &self.decisions
    }

    /// When to tell the time next, with [`Change::Now`].
    #[must_use]
    pub fn again_at_ms(&self) -> Option<u64> {
        self.due.first().map(|(due_ms, _)| *due_ms)
    }

    /// Takes in the change and decides anew for every actor that it can have a bearing on: the plan has these and no
    /// others. Its moves are all that these need, whether or not an earlier plan asked for them already: an actor that
    /// is said to be [moving](ActorView::moving) is asked for no more.
    pub fn change(&mut self, change: Change) -> Plan {
        self.changes([change])
    }

    /// The same for many changes, looking at each actor once: for a round of load reports.
    pub fn changes(&mut self, changes: impl IntoIterator<Item = Change>) -> Plan {
        let mut open = Component::default();
        for change in changes {
            self.take_in(change, &mut open);
        }
        if open.nodes.is_empty() && open.actors.is_empty() {
            return Plan::default();
        }
        let solved = self.solve_open(&open);
        self.keep(solved)
    }

    /// Each component by itself: to decide them together costs more than their sum.
    fn solve_open(&self, open: &Component) -> Solved {
        let mut all = Solved::default();
        let mut done = Component::default();
        let mut solve_one = |done: &mut Component, nodes: Option<NodeId>, actors: Option<ActorId>| {
            let component = self.index.component(&self.view, nodes, actors, &done.nodes);
            all.take(solve(&self.view, &self.index, &component));
            done.nodes.extend(component.nodes);
            done.actors.extend(component.actors);
        };
        for node in &open.nodes {
            if !done.nodes.contains(node) {
                solve_one(&mut done, Some(*node), None);
            }
        }
        for actor in &open.actors {
            if !done.actors.contains(actor) {
                solve_one(&mut done, None, Some(*actor));
            }
        }
        all
    }

    /// Takes over a whole view, and decides anew what its differences from the last one can have a bearing on.
    pub fn update(&mut self, view: View) -> Plan {
        if view.rules != self.view.rules {
            let (planner, plan) = Self::new(view);
            *self = planner;
            return plan;
        }
        let gone_nodes = self.view.nodes.keys().filter(|id| !view.nodes.contains_key(id));
        let gone_actors = self.view.actors.keys().filter(|id| !view.actors.contains_key(id));
        let mut changes = vec![Change::Now(view.now_ms)];
        changes.extend(gone_nodes.map(|id| Change::Node(*id, None)));
        changes.extend(gone_actors.map(|id| Change::Actor(*id, None)));
        let nodes = view.nodes.into_iter().filter(|(id, node)| self.view.nodes.get(id) != Some(node));
        changes.extend(nodes.map(|(id, node)| Change::Node(id, Some(node))));
        let actors = view.actors.into_iter().filter(|(id, actor)| self.view.actors.get(id) != Some(actor));
        changes.extend(actors.map(|(id, actor)| Change::Actor(id, Some(actor))));
        self.changes(changes)
    }

    /// Changes the view, and notes what is to be looked at again: what the changed is tied to now will be found later,
    /// what it was tied to is noted here.
    fn take_in(&mut self, change: Change, open: &mut Component) {
        match change {
            Change::Now(now_ms) => {
                // Another controller's clock may be behind.
                self.view.now_ms = self.view.now_ms.max(now_ms);
                let until = (self.view.now_ms, ActorId(u64::MAX));
                let due: Vec<ActorId> = self.due.range(..=until).map(|(_, actor)| *actor).collect();
                self.note_ties(&[], &due, open);
            }
            Change::Node(id, node) => {
                self.note_ties(&[id], &[], open);
                open.nodes.insert(id);
                if let Some(old) = self.view.nodes.remove(&id) {
                    self.index.remove_node(id, &old);
                }
                if let Some(node) = node {
                    self.index.add_node(id, &node);
                    self.view.nodes.insert(id, node);
                }
            }
            Change::Actor(id, actor) => {
                self.note_ties(&[], &[id], open);
                open.actors.insert(id);
                if let Some(old) = self.view.actors.remove(&id) {
                    self.index.remove_actor(id, &old);
                }
                self.decisions.remove(&id);
                self.set_due(id, None);
                if let Some(actor) = actor {
                    self.index.add_actor(id, &actor);
                    self.view.actors.insert(id, actor);
                }
            }
        }
    }

    fn note_ties(&self, nodes: &[NodeId], actors: &[ActorId], open: &mut Component) {
        // What is noted was noted with all that it is tied to.
        if nodes.iter().all(|id| open.nodes.contains(id)) && actors.iter().all(|id| open.actors.contains(id)) {
            return;
        }
        let component = self.tied(nodes.iter().copied(), actors.iter().copied());
        open.nodes.extend(component.nodes);
        open.actors.extend(component.actors);
    }

    fn tied(&self, nodes: impl IntoIterator<Item = NodeId>, actors: impl IntoIterator<Item = ActorId>) -> Component {
        self.index.component(&self.view, nodes, actors, &BTreeSet::new())
    }

    fn keep(&mut self, solved: Solved) -> Plan {
        for outcome in &solved.outcomes {
            self.set_due(outcome.actor, outcome.due_ms);
        }
        let plan = from_solved(solved);
        for (actor, decision) in &plan.decisions {
            self.decisions.insert(*actor, decision.clone());
        }
        plan
    }

    fn set_due(&mut self, actor: ActorId, due_ms: Option<u64>) {
        if let Some(old) = self.due_of.remove(&actor) {
            self.due.remove(&(old, actor));
        }
        if let Some(due_ms) = due_ms {
            self.due_of.insert(actor, due_ms);
            self.due.insert((due_ms, actor));
        }
    }
}
