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
    /// The number of the last look that was begun.
    last: u64,
    /// What came of that counts, and is not known yet.
    studies: bool,
    /// What is wanted was found just now.
    fresh: bool,
    /// How often in a row a look failed, and until when none is begun for that.
    failed: Option<(u32, Instant)>,
}

/// A look at the whole mesh. It may take long, and is taken beside everything else; what it finds depends on nothing but what
/// stands in it.
#[derive(Clone, Debug)]
pub struct Study {
    number: u64,
    planner: Option<Planner>,
    control: Arc<ControlView>,
    known: Outlook,
    now: Instant,
}

/// What a look at the whole mesh has found.
#[derive(Clone, Debug)]
pub struct Studied {
    number: u64,
    planner: Planner,
    /// The actors that were looked at, ascending, and the moves that these want.
    decided: Vec<ActorId>,
    moves: Vec<Move>,
}

impl Study {
    /// Takes the look.
    #[must_use]
    pub fn carry_out(self) -> Studied {
        Studied::of(self.number, self.planner, self.known.view(&self.control, self.now))
    }

    /// Which one it is: a later one has a greater number.
    #[must_use]
    pub const fn number(&self) -> u64 {
        self.number
    }
}

impl Studied {
    /// Which [`Study`] it is of.
    #[must_use]
    pub const fn number(&self) -> u64 {
        self.number
    }

    fn of(number: u64, planner: Option<Planner>, view: View) -> Self {
        let (planner, plan) = match planner {
            Some(mut planner) => {
                let plan = planner.update(view);
                (planner, plan)
            }
            None => Planner::new(view),
        };
        Self { number, planner, decided: plan.decisions.into_keys().collect(), moves: plan.moves }
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
        let has_failed = self.failed.is_some_and(|(_, until)| now < until);
        !self.studies && !has_failed && self.looked_at.is_none_or(|at| now.since(at) >= gap)
    }

    /// Whether what is wanted may be begun: not while a look is under way that may find it otherwise, but what a look has
    /// just found at least once, however much happens.
    pub fn may_begin(&mut self) -> bool {
        core::mem::take(&mut self.fresh) || !self.studies
    }

    /// What is wanted may be begun once more, although the next look is under way: something that it had to wait for is here.
    pub fn goes_on(&mut self) {
        self.fresh = true;
    }

    /// Forgets everything but its numbers.
    pub fn begin_anew(&mut self) {
        *self = Self { last: self.last, ..Self::default() };
    }

    /// Begins a look at what is.
    #[must_use]
    pub fn study(&mut self, control: Arc<ControlView>, known: Outlook, now: Instant) -> Study {
        (self.looked_at, self.studies, self.last) = (Some(now), true, self.last + 1);
        Study { number: self.last, planner: self.planner.take(), control, known, now }
    }

    /// A look has come to its end. What was begun by who leads no more, or for whoever began anew, counts for nothing.
    /// Whether it counts.
    pub fn learn(&mut self, studied: Studied) -> bool {
        if !self.ends(studied.number) {
            return false;
        }
        let Studied { planner, decided, moves, .. } = studied;
        (self.planner, self.fresh, self.failed) = (Some(planner), true, None);
        let known =
            |actor: &ActorId| self.planner.as_ref().is_some_and(|planner| planner.view().actors.contains_key(actor));
        self.wanted.retain(|actor, _| decided.binary_search(actor).is_err() && known(actor));
        self.wanted.extend(moves.into_iter().map(|step| (step.actor, step)));
        true
    }

    /// A look has failed: the next one begins anew, after a while. Whether that matters to anybody.
    pub fn fail(&mut self, number: u64, now: Instant) -> bool {
        if !self.ends(number) {
            return false;
        }
        let times = self.failed.map_or(0, |(times, _)| times);
        self.begin_anew();
        let pause = FAILED_PAUSE.saturating_mul(1 << times.min(FAILED_DOUBLINGS));
        self.failed = Some((times.saturating_add(1), now + pause));
        true
    }

    fn ends(&mut self, number: u64) -> bool {
        number == self.last && core::mem::take(&mut self.studies)
    }

    /// Looks at once.
    #[cfg(test)]
    pub(super) fn look(&mut self, view: View, now: Instant) {
        let study = self.study(Arc::default(), Outlook::new(mesh_core::id::NodeId(1), now), now);
        self.learn(Studied::of(study.number, study.planner, view));
    }

    /// What is wanted.
    pub fn wanted(&self) -> impl Iterator<Item = &Move> {
        self.wanted.values()
    }
}

/// Between two looks, for each actor that there is: some ten times what a look costs.
const LOOK_EACH: Duration = Duration::from_micros(5);
/// After a look that failed, before the next one; twice as long each time, up to a minute.
const FAILED_PAUSE: Duration = Duration::from_secs(1);
const FAILED_DOUBLINGS: u32 = 6;
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
        plans.begin_anew();
        let found = |begun: Study| Studied::of(begun.number, begun.planner, view(60_000, NodeId(2), NodeId(1)));
        plans.learn(found(begun.clone()));
        assert_eq!((plans.wanted().count(), plans.planner.is_none()), (0, true));
        // Nor while another one is under way, and its failure is not that one's.
        let second = study(&mut plans, 60_100);
        plans.learn(found(begun.clone()));
        assert!(!plans.fail(begun.number, at(60_100)) && !plans.may_look(1, at(99_000)));
        assert_eq!(plans.wanted().count(), 0);
        plans.learn(found(second));
        assert_eq!(plans.wanted().count(), 1);
    }

    #[test]
    fn what_was_found_before_waits_for_a_look_under_way_and_what_was_just_found_does_not() {
        let mut plans = Plans::default();
        look(&mut plans, view(60_000, NodeId(2), NodeId(1)));
        let begun = study(&mut plans, 60_100);
        assert!(plans.may_begin(), "found just now, whatever came since");
        assert!(!plans.may_begin(), "this may be found otherwise in a moment");
        plans.learn(Studied::of(begun.number, begun.planner, view(60_100, NodeId(2), NodeId(1))));
        assert!(plans.may_begin() && plans.may_begin(), "nobody looks");
    }

    #[test]
    fn a_look_that_failed_is_taken_again_after_twice_as_long_each_time() {
        let mut plans = Plans::default();
        look(&mut plans, view(0, NodeId(2), NodeId(1)));
        let mut now = at(60_000);
        for secs in [1, 2, 4, 8, 16, 32, 64, 64] {
            assert!(plans.may_look(1, now));
            let begun = plans.study(Arc::default(), Outlook::new(NodeId(1), now), now);
            assert!(plans.fail(begun.number, now));
            assert_eq!(plans.wanted().count(), 0, "what it knew is lost with it");
            now = now + Duration::from_millis(secs * 1000 - 1);
            assert!(!plans.may_look(1, now), "{secs}");
            now = now + Duration::from_millis(1);
        }
        let begun = plans.study(Arc::default(), Outlook::new(NodeId(1), now), now);
        plans.learn(Studied::of(begun.number, begun.planner, view(60_000, NodeId(2), NodeId(1))));
        let begun = plans.study(Arc::default(), Outlook::new(NodeId(1), now), now);
        plans.fail(begun.number, now);
        assert!(plans.may_look(1, now + Duration::from_secs(1)), "that it failed is over once it has not");
    }

    #[test]
    fn what_has_waited_for_an_answer_is_begun_although_the_next_look_is_under_way() {
        let mut plans = Plans::default();
        look(&mut plans, view(1000, NodeId(2), NodeId(1)));
        assert!(plans.may_begin());
        let _under_way = study(&mut plans, 2000);
        assert!(!plans.may_begin());
        plans.goes_on();
        assert!(plans.may_begin() && !plans.may_begin());
    }

    #[test]
    fn the_next_look_may_begin_after_ten_times_what_one_costs() {
        let mut plans = Plans::default();
        assert!(plans.may_look(100_000, at(0)));
        look(&mut plans, view(1000, NodeId(2), NodeId(1)));
        assert!(!plans.may_look(100_000, at(1499)) && plans.may_look(100_000, at(1500)));
        assert!(!plans.may_look(10_000_000, at(1999)) && plans.may_look(10_000_000, at(2000)));
        assert!(plans.may_look(3, at(1001)));
    }

    #[test]
    fn a_look_is_due_a_second_after_the_last_or_when_time_alone_may_change_something() {
        let mut plans = Plans::default();
        look(&mut plans, view(60_000, NodeId(1), NodeId(1)));
        assert!(!plans.is_due(at(60_999)) && plans.is_due(at(61_000)));
        // A DPU that has just come up is entered once it has been up for long enough.
        let mut with_dpu = view(70_000, NodeId(1), NodeId(1));
        let mut dpu = NodeView::dpu(NodeId(1));
        dpu.capabilities = core::iter::once("policy".into()).collect();
        (dpu.memory_free_bytes, dpu.millicores, dpu.up_since_ms) = (1 << 30, 8000, 69_800);
        with_dpu.nodes.insert(NodeId(11), dpu);
        let actor = with_dpu.actors.get_mut(&ACTOR).expect("it is there");
        (actor.pin, actor.preference) = (None, crate::Preference::PreferDpu);
        look(&mut plans, with_dpu);
        assert_eq!(plans.wanted().count(), 0);
        assert!(!plans.is_due(at(70_299)) && plans.is_due(at(70_300)), "half a second after it came");
    }

    #[test]
    fn what_was_found_says_of_which_look() {
        let mut plans = Plans::default();
        study(&mut plans, 60_000);
        study(&mut plans, 60_100);
        let third = study(&mut plans, 60_200);
        assert_eq!((third.number(), third.carry_out().number()), (3, 3));
    }
}
