//! What the placement engine wants at the moment, kept up to date by what has changed.

use core::time::Duration;
use std::collections::BTreeMap;

use mesh_core::{id::ActorId, time::Instant};

use crate::{Move, Planner, View};

/// The moves that are wanted and not made yet.
#[derive(Debug, Default)]
pub struct Plans {
    planner: Option<Planner>,
    wanted: BTreeMap<ActorId, Move>,
    looked_at: Option<Instant>,
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

    /// Looks at what is.
    pub fn look(&mut self, view: View, now: Instant) {
        self.looked_at = Some(now);
        let plan = match &mut self.planner {
            Some(planner) => planner.update(view),
            None => {
                let (planner, plan) = Planner::new(view);
                self.planner = Some(planner);
                plan
            }
        };
        let known =
            |actor: &ActorId| self.planner.as_ref().is_some_and(|planner| planner.view().actors.contains_key(actor));
        self.wanted.retain(|actor, _| !plan.decisions.contains_key(actor) && known(actor));
        self.wanted.extend(plan.moves.into_iter().map(|step| (step.actor, step)));
    }

    /// What is wanted.
    pub fn wanted(&self) -> impl Iterator<Item = &Move> {
        self.wanted.values()
    }
}

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

    #[test]
    fn what_is_wanted_stays_wanted_until_it_is_so_or_nobody_wants_it() {
        let (here, there) = (NodeId(1), NodeId(2));
        let at = |millis: u64| Instant(millis * 1_000_000);
        let mut plans = Plans::default();
        assert!(plans.is_due(at(60_000)));
        let wanted = |plans: &Plans| plans.wanted().map(|step| (step.actor, step.to)).collect::<Vec<_>>();
        plans.look(view(60_000, there, here), at(60_000));
        assert_eq!(wanted(&plans), [(ACTOR, Spot::whole(there))]);
        // Nothing is new, and it is wanted all the same.
        plans.look(view(60_100, there, here), at(60_100));
        assert_eq!(wanted(&plans), [(ACTOR, Spot::whole(there))]);
        // It was taken back before it was made.
        plans.look(view(60_200, here, here), at(60_200));
        assert_eq!(wanted(&plans), []);
        plans.look(view(60_300, there, here), at(60_300));
        // It was made.
        plans.look(view(60_400, there, there), at(60_400));
        assert_eq!(wanted(&plans), []);
        // Its actor is gone.
        plans.look(view(60_500, here, there), at(60_500));
        let mut gone = view(60_600, here, there);
        gone.actors.clear();
        plans.look(gone, at(60_600));
        assert_eq!(wanted(&plans), []);
        assert!(plans.is_due(at(61_600)));
    }
}
