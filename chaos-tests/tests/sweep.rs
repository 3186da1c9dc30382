//! The sweep over one move: a crash of every party, or a cut of every link, at its events.

use std::collections::BTreeMap;

use mesh_chaos_tests::{
    run::sweep::{Victim, run_move},
    sweep::sweep,
};

#[test]
fn a_move_without_faults_arrives() {
    let outcome = run_move(1, None, None, false);
    assert_eq!(outcome.verdict.violation, None);
    assert_eq!((outcome.ends.arrived, outcome.ends.taken_over), (1, 0));
    assert!(outcome.events > 100 && outcome.changes > 50, "{outcome:?}");
}

#[test]
fn the_same_fault_gives_the_same_trace() {
    let run = || run_move(1, Some((Victim::Source, 60)), None, false);
    assert_eq!(run(), run());
}

#[test]
fn a_fault_at_any_event_of_a_move_loses_nothing_and_ends_with_one_owner() {
    let report = sweep(1, None, EVERY);
    assert!(report.runs() > 100, "{report:?}");
    let broken: BTreeMap<_, _> = report.violations().map(|(victim, at, why)| ((victim, at), why)).collect();
    assert_eq!(broken, BTreeMap::new());
}

/// Every so manieth event: the runner takes all.
const EVERY: usize = 17;
