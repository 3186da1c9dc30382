//! Seeds of the first room: they pass, they repeat, and planted bugs do not pass.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use mesh_chaos_tests::{
    planted::Bug,
    run::{Verdict, run},
};

/// Runs seeds on every core.
fn run_all(seeds: core::ops::Range<u64>, bug: Option<Bug>) -> BTreeMap<u64, Verdict> {
    let next = AtomicU64::new(seeds.start);
    let verdicts = Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    let verdict = run(seed, bug, false);
                    verdicts.lock().unwrap_or_else(PoisonError::into_inner).insert(seed, verdict);
                }
            });
        }
    });
    verdicts.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// The first seed of the range that finds a bug, which is printed.
fn found_at(name: &str, seeds: core::ops::Range<u64>) -> u64 {
    let bug = Bug::named(name).expect("a planted bug of this name");
    // A few at a time: most bugs are found at once.
    for start in seeds.clone().step_by(4) {
        let verdicts = run_all(start..seeds.end.min(start + 4), Some(bug));
        let found = verdicts.iter().find_map(|(seed, verdict)| Some((seed, verdict.violation.as_ref()?)));
        if let Some((seed, why)) = found {
            println!("{name} is found at seed {seed}: {why}");
            return *seed;
        }
    }
    panic!("{name} is not found in seeds {seeds:?}");
}

#[test]
fn two_hundred_seeds_pass() {
    let verdicts = run_all(0..200, None);
    let wrong: Vec<String> =
        verdicts.values().filter(|verdict| verdict.violation.is_some()).map(ToString::to_string).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // Seeds that do nothing would pass too.
    let (mut figures, mut quiet) = (mesh_chaos_tests::run::Figures::default(), 0);
    for verdict in verdicts.values() {
        figures += verdict.figures;
        quiet += u64::from(verdict.figures.succeeded < 5);
    }
    assert!(figures.succeeded > 200 * 30, "{figures:?}");
    assert!(figures.failed > 200, "{figures:?}");
    assert!(figures.crashes > 200, "{figures:?}");
    assert!(figures.duplicates > 200, "{figures:?}");
    assert!(figures.wishes > 3 * figures.wishes_refused && figures.wishes_refused > 0, "{figures:?}");
    assert!(quiet < 10, "{quiet} seeds in which hardly anything went well");
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    let first = run_all(1000..1008, None);
    let second = run_all(1000..1008, None);
    assert_eq!(first, second);
    let hashes: std::collections::BTreeSet<u64> = first.values().map(|verdict| verdict.hash).collect();
    assert_eq!(hashes.len(), first.len(), "different seeds have different traces");
}

#[test]
fn a_log_changes_nothing() {
    let (silent, logged) = (run(7, None, false), run(7, None, true));
    assert_eq!(silent.hash, logged.hash);
    assert!(silent.log.is_empty() && logged.log.len() > 1000);
}

#[test]
fn acknowledging_before_the_flush_is_found() {
    assert!(found_at("ack-before-flush", 0..40) < 40);
}

#[test]
fn a_sync_that_covers_too_little_is_found() {
    assert!(found_at("uncovered-sync", 0..200) < 200);
}

#[test]
fn the_wrong_stripe_is_found() {
    assert!(found_at("wrong-stripe", 0..10) < 10);
}

#[test]
fn unchecked_rot_is_found() {
    assert!(found_at("skip-crc", 0..200) < 200);
}

#[test]
fn a_forgotten_reply_is_found() {
    assert!(found_at("lost-reply", 0..10) < 10);
}

#[test]
fn a_second_reply_is_found() {
    assert!(found_at("double-reply", 0..10) < 10);
}

#[test]
fn fewer_shards_than_promised_are_found() {
    assert!(found_at("fewer-shards", 0..20) < 20);
}

#[test]
fn reads_of_old_metadata_are_found() {
    assert!(found_at("stale-read", 0..10) < 10);
}

#[test]
fn a_link_that_lets_copies_in_is_found() {
    assert!(found_at("no-filter", 0..20) < 20);
}

#[test]
fn plaintext_at_rest_is_found() {
    assert!(found_at("plaintext", 0..10) < 10);
}

#[test]
fn news_from_before_a_move_is_found() {
    assert!(found_at("old-news", 0..10) < 10);
}

#[test]
fn a_replica_from_before_a_start_is_found() {
    assert!(found_at("old-replica", 600..900) < 900);
}

#[test]
fn requests_that_a_source_forgets_are_found() {
    assert!(found_at("retire-forgets", 0..10) < 10);
}

#[test]
fn shards_that_nobody_sweeps_are_found() {
    assert!(found_at("no-sweep", 0..20) < 20);
}

#[test]
fn a_delete_that_is_made_twice_is_found() {
    assert!(found_at("forgotten-deletes", 0..20) < 20);
}

#[test]
fn a_report_that_is_said_to_be_held_and_was_lost_is_found() {
    assert!(found_at("held-unheard", 0..20) < 20);
}
