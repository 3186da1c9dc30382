use mesh_core::op::Phase;

use super::*;
use crate::cli::top::sample::{DPU, DRAINED, EVERY, GONE, HOST, actor, chain, figures, mesh, reports, work};

const NOW: Duration = Duration::from_secs(2);

fn within(micros: u64) -> Option<Took> {
    Some(Took::Within(Duration::from_micros(micros)))
}

fn rate(requests: f64, received_bytes: f64, p50: Option<Took>, p99: Option<Took>) -> Rate {
    Rate { requests, failed: 0.0, received_bytes, sent_bytes: received_bytes / 2.0, p50, p99 }
}

#[test]
fn nodes_stand_with_their_dpus_below_them_and_with_what_they_do() {
    let host = NodeRow {
        node: HOST,
        is_under_host: false,
        kind: "host".into(),
        sight: Sight::Alive,
        level: 12,
        cpu_percent: Some(150),
        memory_bytes: Some(1536 << 20),
        drives: (2, 2),
        used_percent: Some(50),
        open: Some(5),
        chain_work: Some(rate(0.0, 0.0, None, None)),
        drive_work: Some(rate(100.0, 10e6, within(512), within(512))),
    };
    // Its two answers are two seconds apart, by its own clock.
    let dpu = NodeRow {
        node: DPU,
        is_under_host: true,
        kind: "dpu bf3".into(),
        cpu_percent: Some(25),
        drives: (0, 0),
        used_percent: None,
        open: Some(0),
        chain_work: Some(rate(250.0, 100e6, within(512), within(512))),
        drive_work: Some(rate(0.0, 0.0, None, None)),
        ..host.clone()
    };
    // It has started again in between, and has counted less since than before.
    let drained = NodeRow {
        node: DRAINED,
        sight: Sight::Drains,
        level: 11,
        cpu_percent: None,
        drives: (1, 2),
        open: Some(0),
        chain_work: None,
        drive_work: None,
        ..host.clone()
    };
    let gone = NodeRow {
        node: GONE,
        sight: Sight::Gone,
        cpu_percent: None,
        memory_bytes: None,
        drives: (0, 1),
        used_percent: None,
        open: None,
        chain_work: None,
        drive_work: None,
        ..host.clone()
    };
    let picture = mesh().picture(NOW);
    assert_eq!(picture.nodes, [host, dpu, drained, gone]);
    let head = Head { by: Some(HOST), level: 12, nodes: [2, 1, 0, 1], survives: Some((true, false)), stale: None };
    assert_eq!(picture.head, head);
}

#[test]
fn fronts_are_shown_together_and_one_by_one() {
    let work = Some(Rate { failed: 1.0, ..rate(250.0, 100e6, within(512), within(16_384)) });
    let of_host = FrontRow { node: Some(HOST), work, open: 4 };
    let together = FrontRow { node: None, ..of_host.clone() };
    assert_eq!(mesh().picture(NOW).fronts, [together, of_host]);

    let mut model = mesh();
    let mut other = figures(DPU, true);
    other.front = Some(work_of(10));
    model.hear(Heard::Figures(DPU, Ok(other.clone())), NOW);
    (other.at_ns, other.front) = (other.at_ns + 500_000_000, Some(work_of(60)));
    model.hear(Heard::Figures(DPU, Ok(other)), NOW);
    let fronts = model.picture(NOW).fronts;
    let requests: Vec<Option<f64>> = fronts.iter().map(|row| row.work.as_ref().map(|work| work.requests)).collect();
    assert_eq!(requests, [Some(350.0), Some(250.0), Some(100.0)]);
    // 290 of 300 are fast, and so is half of them, but not 99 of a hundred.
    let all = fronts[0].work.as_ref().map(|work| (work.p50, work.p99));
    assert_eq!(all, Some((within(512), within(16_384))));
}

fn work_of(requests: u64) -> mesh_core::op::Work {
    work(requests, 0, requests, 0)
}

#[test]
fn chains_that_move_stand_first_with_from_where_to_where_and_since_when() {
    let functions = "policy > encrypt > erasure".to_owned();
    let moving = Moving { from: Some(HOST), to: Some(DPU), step: Step::Copies };
    let moves = ChainRow {
        tenant: "default".into(),
        name: "chain-1-1".into(),
        at: Some(HOST),
        functions,
        moving: Some((moving, Duration::from_secs(1))),
        last: String::new(),
    };
    let moved = ChainRow {
        name: "chain-1-2".into(),
        at: Some(DRAINED),
        moving: None,
        last: "01:02:03 from node-1, 0.31 ms".into(),
        ..moves.clone()
    };
    let others = ChainRow {
        tenant: "wide 日本??]0;x?".into(),
        name: "chain-2-2".into(),
        moving: None,
        last: String::new(),
        ..moved.clone()
    };
    // What a node that is down has said of its chains is of before.
    assert_eq!(mesh().picture(NOW).chains, [moves, moved, others]);
}

#[test]
fn a_move_is_followed_from_step_to_step_and_is_over() {
    let mut model = Model::new(EVERY);
    let mut seen = Vec::new();
    let steps = [
        (Some((4, Phase::Running)), Some((5, Phase::Warming))),
        (Some((4, Phase::Frozen)), Some((5, Phase::Warming))),
        // The target says later than the source that it runs it.
        (Some((4, Phase::Frozen)), None),
        (Some((4, Phase::Draining)), Some((5, Phase::Running))),
        (None, Some((5, Phase::Running))),
        (Some((4, Phase::Running)), Some((5, Phase::Running))),
    ];
    for (second, (at_host, at_dpu)) in (0..).zip(steps) {
        let mut reports = reports();
        for (report, seat) in reports.iter_mut().zip([at_host, None, None, at_dpu]) {
            let actors = seat.map(|(epoch, phase)| actor(chain(1, HOST), epoch, phase, 0));
            *report = Arc::new(NodeReport { actors: actors.into_iter().collect(), ..(**report).clone() });
        }
        let now = Duration::from_secs(second);
        model.hear(Heard::Reports(Ok(reports)), now);
        let row = model.picture(now).chains.remove(0);
        seen.push((row.at, row.moving));
    }
    let moving = |to, step, seconds| Some((Moving { from: Some(HOST), to, step }, Duration::from_secs(seconds)));
    let expected = [
        (Some(HOST), moving(Some(DPU), Step::Copies, 0)),
        (Some(HOST), moving(Some(DPU), Step::Frozen, 1)),
        (Some(HOST), moving(None, Step::Frozen, 2)),
        (Some(DPU), moving(Some(DPU), Step::Retires, 3)),
        (Some(DPU), None),
        (Some(DPU), None),
    ];
    assert_eq!(seen, expected);
}

#[test]
fn what_is_grave_stands_before_what_goes_on() {
    let line = |is_grave, text: &str| Line { is_grave, text: text.to_owned() };
    let expected = [
        line(true, "drive-2002 of node-2 is down: it does ?[31mnot answer"),
        line(true, "not safe against the loss of a node: add 1 to other nodes"),
        line(false, "repair: 1 of 2 groups whole, 120 writes degraded, 0 lost"),
        line(false, "group-2: shards are being brought to where layout-3 has them (until now: layout-2)"),
        line(false, "scrub: 5 drives at 30 % of their round, 0 shards damaged"),
        line(false, "drain: drives that are being emptied or are out: 1"),
        line(false, "drain: node-2 is being emptied, 2 chains are left"),
    ];
    assert_eq!(mesh().picture(NOW).upkeep, expected);
}

#[test]
fn who_does_not_answer_is_late_and_shows_nothing_of_before() {
    let mut model = mesh();
    let later = NOW + Duration::from_secs(4);
    model.hear(Heard::Reports(Ok(reports())), later);
    model.hear(Heard::Figures(DPU, Err(Error::new(ErrorKind::Timeout, "no answer\u{1b}c"))), later);
    model.hear(Heard::Figures(DRAINED, Err(Error::new(ErrorKind::Unsupported, "unknown"))), later);
    let picture = model.picture(later);
    let sights: Vec<Sight> = picture.nodes.iter().map(|row| row.sight).collect();
    assert_eq!(sights, [Sight::Late, Sight::Late, Sight::Drains, Sight::Gone]);
    let is_shown = |row: &NodeRow| row.cpu_percent.is_some() || row.memory_bytes.is_some() || row.chain_work.is_some();
    assert!(!picture.nodes.iter().any(is_shown), "{:?}", picture.nodes);
    assert_eq!(picture.fronts, []);
    let has = |text: &str| picture.upkeep.iter().any(|line| line.text == text);
    assert!(has("node-1 does not say what it counts: no answer"), "{:?}", picture.upkeep);
    assert!(has("node-11 does not say what it counts: no answer?c"), "{:?}", picture.upkeep);
    assert!(
        has("node-2 tells no figures: its build, or that of the node that asks it, is older"),
        "{:?}",
        picture.upkeep
    );
    // And when nobody says how they are.
    model.hear(Heard::Reports(Err(Error::new(ErrorKind::Unreachable, "no route"))), later);
    let latest = later + Duration::from_secs(5);
    assert_eq!(model.picture(latest).head.stale, Some((Duration::from_secs(5), "no route".to_owned())));
    assert_eq!(model.trouble(), None, "it was said once");
}

#[test]
fn who_is_not_in_the_mesh_any_more_is_forgotten_and_who_is_down_is_not_asked() {
    let mut model = mesh();
    assert_eq!(model.whom_to_ask(NOW), [HOST, DRAINED, DPU]);
    model.hear(Heard::Reports(Ok(reports().split_off(2))), NOW);
    assert_eq!(model.whom_to_ask(NOW), [DPU]);
    assert_eq!(model.counted.len(), 1);
    // Its host is not known any more.
    let rows: Vec<(NodeId, bool)> = model.picture(NOW).nodes.iter().map(|row| (row.node, row.is_under_host)).collect();
    let expected = [(GONE, false), (DPU, false)];
    assert_eq!(rows, expected);
}

#[test]
fn what_was_counted_less_than_before_gives_no_rate() {
    let second = Duration::from_secs(1);
    let last = work(10, 1000, 8, 2);
    assert_eq!(Rate::between(&last, &last, second), Some(rate(0.0, 0.0, None, None)));
    assert_eq!(Rate::between(&last, &last, Duration::ZERO), None);
    for less in [
        mesh_core::op::Work { requests: 9, ..last.clone() },
        mesh_core::op::Work { received_bytes: 999, ..last.clone() },
        mesh_core::op::Work { sent_bytes: 0, ..last.clone() },
        mesh_core::op::Work { took: work(0, 0, 7, 2).took, ..last.clone() },
        mesh_core::op::Work { took: Vec::new(), ..last.clone() },
    ] {
        assert_eq!(Rate::between(&last, &less, second), None, "{less:?}");
    }
    // One that had not answered anything had no histogram.
    let nothing = mesh_core::op::Work::default();
    assert_eq!(Rate::between(&nothing, &last, second), Some(rate(10.0, 1000.0, within(512), within(16_384))));
}

#[test]
fn what_took_longer_than_every_bound_is_said_to() {
    let mut last = work(0, 0, 0, 0);
    last.took[20] = 1;
    let rate = Rate::between(&work(0, 0, 0, 0), &last, Duration::from_secs(1)).expect("a rate");
    let longer = Some(Took::Longer(Duration::from_micros(33_554_432)));
    assert_eq!((rate.p50, rate.p99), (longer, longer));
}

#[test]
fn a_text_of_somebody_else_says_nothing_to_the_terminal() {
    assert_eq!(plain("a b\tc\nd"), "a b c d");
    assert_eq!(plain("Grüße, 日本-ko~{}"), "Grüße, 日本-ko~{}");
    for odd in ["\u{1b}", "\u{9b}", "\u{7}", "\r", "\u{202e}", "\u{200b}", "\u{feff}", "\u{2588}", "\u{1f600}"] {
        assert_eq!(plain(&format!("a{odd}b")), "a?b", "{odd:?}");
    }
    assert_eq!(plain(&"x".repeat(10_000)).len(), TEXT_MAX);
}
