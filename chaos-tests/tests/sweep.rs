//! The sweep over one move: a crash of every party, or a cut of every link, at its events.

use std::collections::BTreeMap;

use mesh_chaos_tests::{
    planted::Bug,
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
    for seed in [1, 2] {
        let report = sweep(seed, None, EVERY, &Victim::ALL);
        assert!(report.runs() > 50, "{report:?}");
        let broken: BTreeMap<_, _> = report.violations().map(|(victim, at, why)| ((victim, at), why)).collect();
        assert_eq!(broken, BTreeMap::new(), "seed {seed}");
    }
}

/// Whether a sweep with these faults finds a planted bug.
fn finds(name: &str, seed: u64, every: usize, victims: &[Victim]) -> bool {
    let bug = Bug::named(name).expect("a planted bug of this name");
    let report = sweep(seed, Some(bug), every, victims);
    let found = report.violations().next().map(|(victim, at, why)| format!("{}:{at} {why}", victim.key()));
    println!("{name}: {found:?}");
    found.is_some()
}

#[test]
fn a_source_that_goes_on_because_time_has_passed_is_found() {
    assert!(finds("thaw-on-timeout", 1, 6, &[Victim::Group]));
}

#[test]
fn a_commit_of_what_was_aborted_is_found() {
    assert!(finds("commit-unchecked", 1, 6, &[Victim::Rival]));
}

#[test]
fn a_target_that_runs_before_the_commit_is_found() {
    assert!(finds("early-activation", 2, 2, &[Victim::Target]));
}

#[test]
fn a_page_that_is_acknowledged_and_lost_is_found() {
    assert!(finds("lost-page", 1, 8, &[Victim::Source]));
}

#[test]
fn a_target_that_begins_anew_for_a_second_controller_is_found() {
    assert!(finds("warms-again", 3, 5, &[Victim::Twin]));
}

#[test]
fn steps_of_a_move_that_is_over_are_found() {
    assert!(finds("old-steps", 6, 4, &[Victim::Rival]));
}

#[test]
fn a_source_that_begins_anew_and_runs_in_the_middle_of_its_move_is_found() {
    assert!(finds("runs-on-return", 7, 3, &[Victim::SourceAndGroup]));
}

/// Every so manieth event: the runner takes all.
const EVERY: usize = 23;
