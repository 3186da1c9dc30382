//! What the placement engine wants at the moment, kept up to date by what has changed.

use core::time::Duration;
use std::{collections::BTreeMap, sync::Arc};

use mesh_core::{id::ActorId, meta::ControlView, time::Instant};

use super::Outlook;
use crate::{Move, Planner, View};

/// The moves that are wanted and not made yet.
#[derive(Debug, Default)]
pub struct Plans {
    planner: Option<Planner>,
    wanted: BTreeMap<ActorId, Move>,
    looked_at: Option<Instant>,
    /// One has been begun, and what came of it counts.
    studies: bool,
}

/// A look at the whole mesh. It may take long, and is taken beside everything else; what it finds depends on nothing but what
/// stands in it.
#[derive(Clone, Debug)]
pub struct Study {
    planner: Option<Planner>,
    control: Arc<ControlView>,
    known: Outlook,
    now: Instant,
}

/// What a look at the whole mesh has found.
#[derive(Clone, Debug)]
pub struct Studied {
    planner: Planner,
    /// The actors that were looked at, ascending, and the moves that these want.
    decided: Vec<ActorId>,
    moves: Vec<Move>,
}

impl Study {
    /// Takes the look.
    #[must_use]
    pub fn carry_out(self) -> Studied {
        Studied::of(self.planner, self.known.view(&self.control, self.now))
    }
}

impl Studied {
    fn of(planner: Option<Planner>, view: View) -> Self {
        let (planner, plan) = match planner {
            Some(mut planner) => {
                let plan = planner.update(view);
                (planner, plan)
            }
            None => Planner::new(view),
        };
        Self { planner, decided: plan.decisions.into_keys().collect(), moves: plan.moves }
    }
}

impl Plans {
    /// Whether to look although nobody has said that anything is new: loads change without a word, and some things are
    /// wanted once time has passed.
    #[must_use]
    pub fn is_due(&self, now: Instant) -> bool {
        let again_at_ms = self.planner.as_ref().and_then(Planner::again_at_ms);
        again_at_ms.is_some_and(|at_ms| at_ms <= now.0 / 1_000_000)
            || self.looked_at.is_none_or(|at| now.since(at) >= LOOK_INTERVAL)
    }

    /// Whether a look may begin: what it costs grows with the mesh, and it is not all that a node does.
    #[must_use]
    pub fn may_look(&self, actors: usize, now: Instant) -> bool {
        let gap = LOOK_EACH.saturating_mul(u32::try_from(actors).unwrap_or(u32::MAX)).min(LOOK_INTERVAL);
        self.looked_at.is_none_or(|at| now.since(at) >= gap)
    }

    /// Begins a look at what is.
    #[must_use]
    pub fn study(&mut self, control: Arc<ControlView>, known: Outlook, now: Instant) -> Study {
        (self.looked_at, self.studies) = (Some(now), true);
        Study { planner: self.planner.take(), control, known, now }
    }

    /// A look has come to its end. What was begun by who leads no more, or for whoever began anew, counts for nothing.
    pub fn learn(&mut self, studied: Studied) {
        if !core::mem::take(&mut self.studies) {
            return;
        }
        let Studied { planner, decided, moves } = studied;
        self.planner = Some(planner);
        let known =
            |actor: &ActorId| self.planner.as_ref().is_some_and(|planner| planner.view().actors.contains_key(actor));
        self.wanted.retain(|actor, _| decided.binary_search(actor).is_err() && known(actor));
        self.wanted.extend(moves.into_iter().map(|step| (step.actor, step)));
    }

    /// Looks at once.
    #[cfg(test)]
    pub(super) fn look(&mut self, view: View, now: Instant) {
        let study = self.study(Arc::default(), Outlook::new(mesh_core::id::NodeId(1), now), now);
        self.learn(Studied::of(study.planner, view));
    }

    /// What is wanted.
    pub fn wanted(&self) -> impl Iterator<Item = &Move> {
        self.wanted.values()
    }
}

/// Between two looks, for each actor that there is: some ten times what a look costs.
const LOOK_EACH: Duration = Duration::from_micros(5);
/// Between two looks at the whole mesh without news.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use mesh_core::id::{NodeId, TenantId};

    use super::*;
    use crate::{ActorView, NodeView, Spot, Stage};

    const ACTOR: ActorId = ActorId::data(TenantId(7), NodeId(1));

    fn view(now_ms: u64, pin: NodeId, at: NodeId) -> View {
        let mut view = View { now_ms, ..View::default() };
        for id in [1, 2].map(NodeId) {
            let mut node = NodeView::host(id);
            node.capabilities = core::iter::once("policy".into()).collect();
            (node.memory_free_bytes, node.millicores) = (1 << 30, 8000);
            view.nodes.insert(id, node);
        }
        let (pin, at) = (Some(pin), Some(Spot::whole(at)));
        view.actors.insert(ACTOR, ActorView { pin, at, ..ActorView::chain([Stage::new("policy")], NodeId(1)) });
        view
    }

    fn at(millis: u64) -> Instant {
        Instant(millis * 1_000_000)
    }

    fn study(plans: &mut Plans, now_ms: u64) -> Study {
        plans.study(Arc::default(), Outlook::new(NodeId(1), at(now_ms)), at(now_ms))
    }

    fn look(plans: &mut Plans, view: View) {
        let now = at(view.now_ms);
        plans.look(view, now);
    }

    #[test]
    fn what_is_wanted_stays_wanted_until_it_is_so_or_nobody_wants_it() {
        let (here, there) = (NodeId(1), NodeId(2));
        let mut plans = Plans::default();
        assert!(plans.is_due(at(60_000)));
        let wanted = |plans: &Plans| plans.wanted().map(|step| (step.actor, step.to)).collect::<Vec<_>>();
        look(&mut plans, view(60_000, there, here));
        assert_eq!(wanted(&plans), [(ACTOR, Spot::whole(there))]);
        // Nothing is new, and it is wanted all the same.
        look(&mut plans, view(60_100, there, here));
        assert_eq!(wanted(&plans), [(ACTOR, Spot::whole(there))]);
        // It was taken back before it was made.
        look(&mut plans, view(60_200, here, here));
        assert_eq!(wanted(&plans), []);
        look(&mut plans, view(60_300, there, here));
        // It was made.
        look(&mut plans, view(60_400, there, there));
        assert_eq!(wanted(&plans), []);
        // Its actor is gone.
        look(&mut plans, view(60_500, here, there));
        let mut gone = view(60_600, here, there);
        gone.actors.clear();
        look(&mut plans, gone);
        assert_eq!(wanted(&plans), []);
        assert!(plans.is_due(at(61_600)));
    }

    #[test]
    fn a_look_that_nobody_waits_for_any_more_counts_for_nothing() {
        let mut plans = Plans::default();
        let begun = study(&mut plans, 60_000);
        // It led no more, and leads again.
        plans = Plans::default();
        plans.learn(Studied::of(begun.planner, view(60_000, NodeId(2), NodeId(1))));
        assert_eq!(plans.wanted().count(), 0);
        assert!(plans.planner.is_none());
    }

    #[test]
    fn the_next_look_may_begin_after_ten_times_what_one_costs() {
        let mut plans = Plans::default();
        assert!(plans.may_look(100_000, at(0)));
        drop(study(&mut plans, 1000));
        assert!(!plans.may_look(100_000, at(1499)) && plans.may_look(100_000, at(1500)));
        assert!(!plans.may_look(10_000_000, at(1999)) && plans.may_look(10_000_000, at(2000)));
        assert!(plans.may_look(3, at(1001)));
    }
}
