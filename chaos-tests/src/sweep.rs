//! The whole sweep: every fault at every event of one move, on every core.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use crate::{
    planted::Bug,
    run::sweep::{Outcome, Victim, run_move},
};

/// What a sweep came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Events of the move.
    pub events: u64,
    /// By victim.
    pub tallies: BTreeMap<Victim, Tally>,
}

/// What the runs with one victim came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Runs: an event each.
    pub runs: u64,
    /// In how many the move arrived.
    pub arrived: u64,
    /// In how many it was taken back.
    pub stayed: u64,
    /// In how many the actor was given to another node, because its own seemed lost.
    pub taken_over: u64,
    /// Changes that were acknowledged.
    pub changes: u64,
    /// What is wrong, by event.
    pub violations: BTreeMap<u64, String>,
}

impl Tally {
    fn count(&mut self, at: u64, outcome: Outcome) {
        self.runs += 1;
        self.arrived += u64::from(outcome.ends.arrived > 0);
        self.stayed += u64::from(outcome.ends.arrived == 0 && outcome.ends.stayed + outcome.ends.elsewhere > 0);
        self.taken_over += u64::from(outcome.ends.taken_over > 0);
        self.changes += outcome.changes as u64;
        if let Some(why) = outcome.verdict.violation {
            self.violations.insert(at, why);
        }
    }
}

impl Report {
    /// Runs in all.
    #[must_use]
    pub fn runs(&self) -> u64 {
        self.tallies.values().map(|tally| tally.runs).sum()
    }

    /// What is wrong: victim, event and why.
    pub fn violations(&self) -> impl Iterator<Item = (Victim, u64, &str)> {
        self.tallies
            .iter()
            .flat_map(|(victim, tally)| tally.violations.iter().map(|(at, why)| (*victim, *at, why.as_str())))
    }
}

/// Runs the move of a seed once without a fault, and then with each of these faults at every `every`-th event.
#[must_use]
pub fn sweep(seed: u64, bug: Option<Bug>, every: usize, victims: &[Victim]) -> Report {
    let events = run_move(seed, None, None, false).events;
    let faults: Vec<(Victim, u64)> =
        (0..events).step_by(every.max(1)).flat_map(|at| victims.iter().map(move |victim| (*victim, at))).collect();
    let next = AtomicUsize::new(0);
    let tallies: Mutex<BTreeMap<Victim, Tally>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some(&(victim, at)) = faults.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let outcome = run_move(seed, Some((victim, at)), bug, false);
                    let mut tallies = tallies.lock().unwrap_or_else(PoisonError::into_inner);
                    tallies.entry(victim).or_default().count(at, outcome);
                }
            });
        }
    });
    Report { events, tallies: tallies.into_inner().unwrap_or_else(PoisonError::into_inner) }
}
