use mesh_core::{
    id::Epoch,
    op::{Beat, NodeLoad},
    topology::DriveState,
};
use proptest::prelude::*;

use super::*;
use crate::steward::{ears::Ears, tests::runs};

const HERE: NodeId = NodeId(1);
const OTHER: NodeId = NodeId(2);
const START: Incarnation = Incarnation(7);

fn actor(number: u64, requests: u64) -> ActorReport {
    ActorReport { functions: vec!["policy".to_owned()], requests, ..runs(ActorId(number), 1) }
}

fn drive(state: DriveState, free_bytes: u64) -> DriveReport {
    let (drive, reason) = (mesh_core::id::DriveId(1), None);
    DriveReport {
        drive,
        state,
        capacity_bytes: 9,
        free_bytes,
        shards: 0,
        corrupt: 0,
        reason,
        damaged: 0,
        scrub: Default::default(),
    }
}

fn report() -> NodeReport {
    let (actors, sees) = (vec![actor(1, 5), actor(2, 5)], vec![HERE, OTHER]);
    let drives = vec![drive(DriveState::Up, 4)];
    NodeReport { node: HERE, incarnation: START, actors, sees, drives, ..NodeReport::default() }
}

fn said(voice: &mut Voice, report: &NodeReport) -> bool {
    voice.say(&Arc::new(report.clone()))
}

fn holds(voice: &mut Voice, states: u64, figures: u64) {
    voice.hear(OTHER, Some(Held { start: START, as_of: AsOf { states, figures } }), START);
}

/// What a beat takes along, at a second of the day, with figures every ten seconds.
fn told(voice: &mut Voice, secs: u64) -> Option<News> {
    let news = voice.beat(OTHER, Duration::from_secs(10), Instant(secs * 1_000_000_000));
    news.map(Arc::unwrap_or_clone)
}

#[test]
fn whoever_holds_nothing_is_told_all_until_it_says_that_it_has_it() {
    let (mut voice, mut own) = (Voice::default(), report());
    assert_eq!(told(&mut voice, 0), None, "nothing was said yet");
    assert!(said(&mut voice, &own));
    let all = News {
        since: AsOf::default(),
        version: 1,
        figures: true,
        report: Some(Box::new(trunk(&own))),
        drives: Some(own.drives.clone()),
        actors: own.actors.clone(),
        gone: vec![],
        sees: own.sees.clone(),
        misses: vec![],
        load: Some(NodeLoad::default()),
    };
    assert_eq!(told(&mut voice, 0), Some(all.clone()));
    assert_eq!(told(&mut voice, 1), Some(all.clone()), "it may not have come");
    holds(&mut voice, 1, 1);
    assert_eq!(told(&mut voice, 2), None);
    // It has begun anew, or holds what an earlier start of this node said, or what this one never did.
    voice.hear(OTHER, None, START);
    assert_eq!(told(&mut voice, 3), Some(all.clone()));
    voice.hear(OTHER, Some(Held { start: Incarnation(6), as_of: AsOf { states: 1, figures: 1 } }), START);
    assert_eq!(told(&mut voice, 3), Some(all.clone()));
    holds(&mut voice, 2, 2);
    assert_eq!(told(&mut voice, 3), Some(all.clone()));
    // And so an answer.
    assert_eq!(voice.answer(None, START).map(Arc::unwrap_or_clone), Some(all));
    assert_eq!(voice.answer(Some(Held { start: START, as_of: AsOf { states: 1, figures: 1 } }), START), None);
    own.missing = Some("a leader".to_owned());
    assert!(said(&mut voice, &own));
}

#[test]
fn a_state_is_told_with_the_next_beat_and_nothing_else_is() {
    let (mut voice, mut own) = (Voice::default(), report());
    said(&mut voice, &own);
    holds(&mut voice, 1, 1);
    let since = AsOf { states: 1, figures: 0 };
    own.actors[1].epoch = Epoch(2);
    own.actors.remove(0);
    own.actors.push(actor(3, 0));
    own.sees = vec![HERE, NodeId(3)];
    assert!(said(&mut voice, &own));
    let news = News {
        since,
        version: 2,
        actors: own.actors.clone(),
        gone: vec![ActorId(1)],
        sees: vec![NodeId(3)],
        misses: vec![OTHER],
        ..News::default()
    };
    told(&mut voice, 0);
    assert_eq!(told(&mut voice, 1), Some(news));
    own.drives[0].state = DriveState::Full;
    assert!(said(&mut voice, &own));
    holds(&mut voice, 2, 1);
    let since = AsOf { states: 2, figures: 0 };
    assert_eq!(
        told(&mut voice, 1),
        Some(News { since, version: 3, drives: Some(own.drives.clone()), ..News::default() })
    );
    own.state = mesh_core::topology::NodeState::Draining;
    assert!(said(&mut voice, &own));
    holds(&mut voice, 3, 1);
    let (since, report) = (AsOf { states: 3, figures: 0 }, Some(Box::new(trunk(&own))));
    assert_eq!(told(&mut voice, 1), Some(News { since, version: 4, report, ..News::default() }));
}

#[test]
fn figures_are_told_at_their_pace_and_only_those_that_changed() {
    let (mut voice, mut own) = (Voice::default(), report());
    said(&mut voice, &own);
    assert!(told(&mut voice, 0).is_some());
    holds(&mut voice, 1, 1);
    for requests in 6..20 {
        own.actors[0].requests = requests;
        assert!(!said(&mut voice, &own), "a figure is no news");
        assert_eq!(told(&mut voice, 9), None);
    }
    let since = AsOf { states: 1, figures: 1 };
    let changed = News { since, version: 15, figures: true, actors: vec![actor(1, 19)], ..News::default() };
    assert_eq!(told(&mut voice, 10), Some(changed));
    // It was lost: what changed since then comes with what changed before.
    own.load.cpu_ns = 3;
    own.drives[0].free_bytes = 3;
    assert!(!said(&mut voice, &own));
    assert_eq!(told(&mut voice, 19), None);
    let (load, drives) = (Some(own.load.clone()), Some(own.drives.clone()));
    let changed =
        News { since, version: 16, figures: true, actors: vec![actor(1, 19)], load, drives, ..News::default() };
    assert_eq!(told(&mut voice, 20), Some(changed));
    holds(&mut voice, 16, 16);
    assert_eq!(told(&mut voice, 60), None);
}

#[test]
fn figures_that_are_held_are_not_told_again_with_others() {
    let (mut voice, mut own) = (Voice::default(), report());
    said(&mut voice, &own);
    own.drives[0].free_bytes = 3;
    said(&mut voice, &own);
    holds(&mut voice, 2, 2);
    own.load.cpu_ns = 3;
    said(&mut voice, &own);
    let news = |version: u64| {
        let since = AsOf { states: version - 1, figures: version - 1 };
        News { since, version, figures: true, ..News::default() }
    };
    assert_eq!(told(&mut voice, 0), Some(News { load: Some(own.load.clone()), ..news(3) }));
    holds(&mut voice, 3, 3);
    own.actors[0].requests = 9;
    said(&mut voice, &own);
    assert_eq!(told(&mut voice, 10), Some(News { actors: vec![actor(1, 9)], ..news(4) }));
}

#[test]
fn what_many_do_not_hold_is_put_together_once_and_kept_within_bounds_however_they_differ() {
    let (mut voice, mut own) = (Voice::default(), report());
    let many = MADE_MAX as u64 + 9;
    for cpu_ns in 0..=many {
        own.load.cpu_ns = cpu_ns;
        own.missing = Some(cpu_ns.to_string());
        said(&mut voice, &own);
    }
    let answer = |voice: &mut Voice, states| {
        let held = Held { start: START, as_of: AsOf { states, figures: 0 } };
        voice.answer(Some(held), START).expect("it does not hold the last")
    };
    let first = answer(&mut voice, 1);
    assert!(Arc::ptr_eq(&first, &answer(&mut voice, 1)));
    for states in 1..=many {
        answer(&mut voice, states);
    }
    assert_eq!(voice.made.len(), MADE_MAX);
}

#[test]
fn what_is_gone_is_remembered_within_bounds_and_whoever_missed_it_is_told_all() {
    let (mut voice, mut own) = (Voice::default(), report());
    said(&mut voice, &own);
    for number in 0..3 * GONE_MAX as u64 {
        own.actors = vec![actor(1000 + number, 0)];
        own.sees = vec![HERE, NodeId(1000 + number)];
        said(&mut voice, &own);
        assert!(voice.actors.at.len() <= GONE_MAX + 2 && voice.sees.at.len() <= GONE_MAX + 3);
        assert_eq!((voice.actors.at.len(), voice.sees.at.len()), (voice.actors.by.len(), voice.sees.by.len()));
    }
    holds(&mut voice, 1, 1);
    assert_eq!(told(&mut voice, 0).map(|news| news.since), Some(AsOf::default()));
    let last = voice.version;
    holds(&mut voice, last - 1, last - 1);
    assert_eq!(told(&mut voice, 0).map(|news| (news.since.states, news.gone.len())), Some((last - 1, 1)));
}

#[test]
fn the_pace_of_figures_is_that_of_beats_in_a_small_mesh_and_slow_in_a_large_one() {
    assert!(pace(3, false) < Duration::from_millis(500));
    assert_eq!((pace(1000, true), pace(1000, false)), (Duration::from_secs(5), Duration::from_secs(20)));
}

/// What happens between two nodes.
#[derive(Clone, Debug)]
enum Step {
    /// Of a node: an actor runs, is used, or is gone.
    Actor(u64, Option<u64>),
    Drive(bool, u64),
    Sees(u64),
    Missing(bool),
    Cpu(u64),
    /// A beat is sent, so many seconds later.
    Beat(u64),
    /// One that is under way comes; it may come again.
    Comes(usize),
    /// One is lost.
    Lost(usize),
    /// The listener says what it holds.
    Says,
    /// The listener begins anew.
    Anew,
    /// What speaks begins anew, under the same start.
    SpeaksAnew,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..6_u64, prop::option::of(0..4_u64)).prop_map(|(actor, requests)| Step::Actor(actor, requests)),
        1 => (any::<bool>(), 0..3_u64).prop_map(|(up, free)| Step::Drive(up, free)),
        1 => (0..5_u64).prop_map(Step::Sees),
        1 => any::<bool>().prop_map(Step::Missing),
        1 => (0..3_u64).prop_map(Step::Cpu),
        6 => (0..8_u64).prop_map(Step::Beat),
        6 => (0..4_usize).prop_map(Step::Comes),
        2 => (0..4_usize).prop_map(Step::Lost),
        4 => Just(Step::Says),
        1 => Just(Step::Anew),
        1 => Just(Step::SpeaksAnew),
    ]
}

/// A speaker, a listener, and what is between them.
struct Pair {
    voice: Voice,
    own: NodeReport,
    ears: Ears,
    report: Option<Arc<NodeReport>>,
    way: Vec<Beat>,
    secs: u64,
    voices: u64,
}

impl Pair {
    fn beat(&mut self, secs: u64) {
        self.secs += secs;
        let news = self.voice.beat(OTHER, Duration::from_secs(10), Instant(self.secs * 1_000_000_000));
        self.way.push(Beat { node: HERE, incarnation: START, news, ..Beat::default() });
    }

    fn comes(&mut self, at: usize) {
        let Some(beat) = self.way.get(at).cloned() else { return };
        let before = self.ears.held(HERE);
        let Some(said) = self.ears.understand(&beat, self.report.as_ref()) else { return };
        self.ears.keep(&beat, &said);
        self.report = Some(said.report);
        let (before, after) = (before.map(|held| held.as_of), self.ears.held(HERE).expect("just kept").as_of);
        assert!(before.is_none_or(|before| before.states <= after.states && before.figures <= after.figures));
    }

    fn says(&mut self) {
        self.voice.hear(OTHER, self.ears.held(HERE), START);
    }
}

/// A report without what may come later.
fn states(report: &NodeReport) -> impl PartialEq + core::fmt::Debug {
    let actors: Vec<_> = report.actors.iter().map(|one| (one.actor, one.epoch)).collect();
    let drives: Vec<_> = report.drives.iter().map(|drive| (drive.drive, drive.state)).collect();
    (trunk(report), actors, drives, report.sees.clone())
}

proptest! {
    /// Whatever is lost, doubled or late, and whoever begins anew: once a beat comes through after the listener has said what
    /// it holds, it knows every state; once figures are due, it knows all.
    #[test]
    fn what_is_held_is_what_was_said_once_messages_come_through(steps in prop::collection::vec(step(), 0..60)) {
        let own = NodeReport { node: HERE, incarnation: START, ..NodeReport::default() };
        let (voice, ears) = (Voice::default(), Ears::default());
        let mut pair = Pair { voice, own, ears, report: None, way: Vec::new(), secs: 0, voices: 0 };
        said(&mut pair.voice, &pair.own);
        for step in steps {
            match step {
                Step::Actor(number, requests) => {
                    let at = pair.own.actors.binary_search_by_key(&ActorId(number), |one| one.actor);
                    match (at, requests) {
                        (Ok(at), Some(requests)) => pair.own.actors[at].requests += requests,
                        (Ok(at), None) => drop(pair.own.actors.remove(at)),
                        (Err(at), Some(requests)) => pair.own.actors.insert(at, actor(number, requests)),
                        (Err(_), None) => {}
                    }
                }
                Step::Drive(up, free) => {
                    let state = if up { DriveState::Up } else { DriveState::Full };
                    pair.own.drives = vec![drive(state, free)];
                }
                Step::Sees(number) => {
                    let mut sees: BTreeSet<NodeId> = pair.own.sees.iter().copied().collect();
                    if !sees.remove(&NodeId(number)) {
                        sees.insert(NodeId(number));
                    }
                    pair.own.sees = sees.into_iter().collect();
                }
                Step::Missing(missing) => pair.own.missing = missing.then(|| "a leader".to_owned()),
                Step::Cpu(cpu_ns) => pair.own.load.cpu_ns += cpu_ns,
                Step::Beat(secs) => pair.beat(secs),
                Step::Comes(at) => pair.comes(at),
                Step::Lost(at) if at < pair.way.len() => drop(pair.way.remove(at)),
                Step::Lost(_) => {}
                Step::Says => pair.says(),
                Step::Anew => (pair.ears, pair.report) = (Ears::default(), None),
                Step::SpeaksAnew => {
                    pair.voices += 1;
                    pair.voice = Voice::new(Instant(pair.voices * 1_000_000_000));
                    said(&mut pair.voice, &pair.own);
                }
            }
            if *pair.voice.own != pair.own {
                said(&mut pair.voice, &pair.own);
            }
        }
        pair.says();
        pair.way.clear();
        pair.beat(0);
        pair.comes(0);
        let held = pair.report.clone().expect("it was introduced");
        prop_assert_eq!(states(&held), states(&pair.own));
        pair.says();
        pair.beat(10);
        pair.comes(1);
        prop_assert_eq!(pair.report.as_deref(), Some(&pair.own));
    }
}
