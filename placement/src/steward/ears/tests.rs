use mesh_core::{
    id::{ActorId, DriveId, Incarnation},
    op::{ActorReport, DriveReport, NodeLoad, ScrubState},
    topology::{DriveState, NodeState},
};

use super::*;
use crate::steward::tests::runs;

const NODE: NodeId = NodeId(2);
const START: Incarnation = Incarnation(7);

fn beat(news: Option<News>) -> Beat {
    Beat { node: NODE, incarnation: START, news: news.map(Arc::new), ..Beat::default() }
}

fn all() -> News {
    let report = NodeReport { node: NODE, incarnation: START, ..NodeReport::default() };
    News { version: 4, figures: true, report: Some(Box::new(report)), sees: vec![NODE], ..News::default() }
}

fn actors(of: core::ops::Range<u64>) -> Vec<ActorReport> {
    of.map(|number| runs(ActorId(number), 1)).collect()
}

/// What is held after these beats, each of which counts, and what was new each time.
fn after(beats: &[Beat]) -> (Option<Arc<NodeReport>>, Option<Held>, Vec<Option<Heard>>) {
    let (mut ears, mut report, mut news) = (Ears::default(), None, Vec::new());
    for beat in beats {
        let said = ears.understand(beat, report.as_ref());
        news.push(said.as_ref().map(|said| said.news));
        if let Some(said) = said {
            ears.keep(beat, &said);
            report = Some(said.report);
        }
    }
    (report, ears.held(NODE), news)
}

fn held(states: u64, figures: u64) -> Option<Held> {
    Some(Held { start: START, as_of: AsOf { states, figures } })
}

#[test]
fn who_has_not_introduced_itself_says_nothing() {
    let change = News { since: AsOf { states: 3, figures: 3 }, ..all() };
    assert_eq!(after(&[beat(None), beat(Some(change))]), (None, None, vec![None, None]));
    // Nor under another's name, nor with what is a change of nothing.
    let other = News { report: Some(Box::new(NodeReport { node: NodeId(3), ..NodeReport::default() })), ..all() };
    let none = News { report: None, ..all() };
    assert_eq!(after(&[beat(Some(other)), beat(Some(none))]), (None, None, vec![None, None]));
    let (report, is_held, news) = after(&[beat(Some(all())), beat(None)]);
    assert_eq!(report.map(|report| report.sees.clone()), Some(vec![NODE]));
    assert_eq!((is_held, news), (held(4, 4), vec![Some(Heard::State), Some(Heard::Nothing)]));
}

#[test]
fn another_start_introduces_itself_anew() {
    let again = Beat { incarnation: Incarnation(8), ..beat(None) };
    let change = News { since: AsOf { states: 4, figures: 4 }, version: 5, ..News::default() };
    let change = Beat { incarnation: Incarnation(8), ..beat(Some(change)) };
    let (report, is_held, news) = after(&[beat(Some(all())), again, change]);
    assert_eq!(report.map(|report| report.incarnation), Some(START));
    assert_eq!((is_held, news), (held(4, 4), vec![Some(Heard::State), None, None]));
}

#[test]
fn what_does_not_follow_or_is_older_changes_nothing() {
    let change = |since: (u64, u64), version, figures| {
        let since = AsOf { states: since.0, figures: since.1 };
        beat(Some(News {
            since,
            version,
            figures,
            load: Some(NodeLoad::default()),
            misses: vec![NODE],
            ..News::default()
        }))
    };
    let nothing = [
        change((5, 0), 6, false),
        change((4, 5), 6, true),
        change((1, 0), 3, false),
        change((1, 1), 4, true),
        beat(Some(News { sees: vec![], ..all() })),
    ];
    for one in nothing {
        let (report, is_held, news) = after(&[beat(Some(all())), one.clone()]);
        assert_eq!(report.map(|report| report.sees.len()), Some(1), "{one:?}");
        assert_eq!((is_held, news[1]), (held(4, 4), Some(Heard::Nothing)), "{one:?}");
    }
    let (report, is_held, news) = after(&[beat(Some(all())), change((1, 0), 6, false)]);
    assert_eq!(report.map(|report| report.sees.len()), Some(0));
    assert_eq!((is_held, news[1]), (held(6, 4), Some(Heard::State)));
}

#[test]
fn figures_are_no_states() {
    let since = AsOf { states: 4, figures: 4 };
    let begin = News { actors: actors(1..3), ..all() };
    let mut used = actors(2..3);
    used[0].requests = 9;
    let load = Some(NodeLoad { cpu_ns: 5, ..NodeLoad::default() });
    let figures = News { since, version: 5, figures: true, actors: used, load, ..News::default() };
    let (report, is_held, news) = after(&[beat(Some(begin.clone())), beat(Some(figures))]);
    let report = report.expect("it was introduced");
    assert_eq!((report.actors.len(), report.actors[1].requests, report.load.cpu_ns), (2, 9, 5));
    assert_eq!((is_held, news[1]), (held(5, 5), Some(Heard::Figures)));
    let more = News { since, version: 5, actors: actors(3..4), gone: vec![ActorId(1)], ..News::default() };
    let (report, _, news) = after(&[beat(Some(begin)), beat(Some(more))]);
    let numbers = report.map(|report| report.actors.iter().map(|one| one.actor.0).collect::<Vec<_>>());
    assert_eq!((numbers, news[1]), (Some(vec![2, 3]), Some(Heard::State)));
}

#[test]
fn what_a_node_says_of_itself_and_how_its_drives_are_are_states_and_how_full_they_are_is_not() {
    let drive = |state, free_bytes| DriveReport {
        drive: DriveId(1),
        state,
        capacity_bytes: 9,
        free_bytes,
        shards: 0,
        corrupt: 0,
        damaged: 0,
        scrub: ScrubState::default(),
        reason: None,
    };
    let begin = News { drives: Some(vec![drive(DriveState::Up, 4)]), ..all() };
    let next = News { since: AsOf { states: 4, figures: 4 }, version: 5, figures: true, ..News::default() };
    let new = |news: News| after(&[beat(Some(begin.clone())), beat(Some(news))]).2[1];
    let used = News { drives: Some(vec![drive(DriveState::Up, 3)]), ..next.clone() };
    assert_eq!(new(used), Some(Heard::Figures));
    let full = News { drives: Some(vec![drive(DriveState::Full, 4)]), ..next.clone() };
    assert_eq!(new(full), Some(Heard::State));
    let stops = NodeReport { state: NodeState::Draining, ..*all().report.expect("it introduces itself") };
    assert_eq!(new(News { report: Some(Box::new(stops)), ..next }), Some(Heard::State));
}

#[test]
fn a_report_does_not_outgrow_its_bounds() {
    let since = AsOf { states: 4, figures: 4 };
    let full = News { actors: actors(0..NODE_ACTORS_MAX as u64), ..all() };
    let one = NODE_ACTORS_MAX as u64;
    let more = News { since, version: 5, actors: actors(one..one + 1), ..News::default() };
    let (report, is_held, news) = after(&[beat(Some(full)), beat(Some(more))]);
    assert_eq!(report.map(|report| report.actors.len()), Some(NODE_ACTORS_MAX));
    assert_eq!((is_held, news), (held(4, 4), vec![Some(Heard::State), Some(Heard::Nothing)]));
}
