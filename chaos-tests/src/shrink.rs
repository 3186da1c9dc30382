//! The fewest faults that still show a violation: delta debugging (Zeller, Hildebrandt, TSE 2002) over the list of
//! faults. Every fault has a stream of its own, so to leave one out shifts no other's dice.

use crate::{planted::Bug, run::run_swarm, swarm::Swarm};

/// What is left of a seed's faults.
#[derive(Clone, Debug)]
pub struct Shrunk {
    /// The swarm with fewer faults.
    pub swarm: Swarm,
    /// What it violates; not always what the whole list does.
    pub violation: String,
    /// Runs that it took.
    pub runs: u32,
}

/// Shrinks a seed. `None` if it violates nothing.
#[must_use]
pub fn shrink(seed: u64, bug: Option<Bug>) -> Option<Shrunk> {
    let swarm = Swarm::of(seed);
    let mut runs = 0;
    let mut fails = |faults: &[usize]| {
        runs += 1;
        let mut fewer = swarm.clone();
        fewer.faults = faults.iter().filter_map(|at| swarm.faults.get(*at).cloned()).collect();
        run_swarm(seed, fewer, bug, false).violation
    };
    let all: Vec<usize> = (0..swarm.faults.len()).collect();
    let mut violation = fails(&all)?;
    let kept = reduce(all, |faults| {
        let found = fails(faults);
        if let Some(why) = &found {
            violation.clone_from(why);
        }
        found.is_some()
    });
    let mut fewer = swarm.clone();
    fewer.faults = kept.iter().filter_map(|at| swarm.faults.get(*at).cloned()).collect();
    Some(Shrunk { swarm: fewer, violation, runs })
}

/// The smallest part of a list that it finds for which `fails` holds, as it does for the whole.
fn reduce(mut list: Vec<usize>, mut fails: impl FnMut(&[usize]) -> bool) -> Vec<usize> {
    let mut pieces = 2;
    while !list.is_empty() {
        let size = list.len().div_ceil(pieces).max(1);
        let smaller = (0..list.len()).step_by(size).find_map(|start| {
            let end = list.len().min(start + size);
            let rest: Vec<usize> = list[..start].iter().chain(&list[end..]).copied().collect();
            fails(&rest).then_some(rest)
        });
        match smaller {
            Some(rest) => {
                list = rest;
                pieces = (pieces - 1).max(2);
            }
            None if size == 1 => break,
            None => pieces = (pieces * 2).min(list.len()),
        }
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_pair_that_matters() {
        let kept = reduce((0..30).collect(), |list| list.contains(&3) && list.contains(&17));
        assert_eq!(kept, [3, 17]);
        assert_eq!(reduce((0..9).collect(), |_| true), Vec::<usize>::new());
    }
}
