//! Weather in which something was found once, frozen: each file says what it was. The seeds that found it have other
//! dice by now; a swarm that has little else than the fault in question finds it again within a few seeds.

mod failed_sync;
mod given_to_the_target;
mod late_copies;
mod late_delete;
mod power_cuts;
mod stray_attempts;
mod told_too_early;

use mesh_chaos_tests::{
    cluster::ActWeather,
    disk::DiskWeather,
    metadata::MetadataWeather,
    network::NetworkWeather,
    run::{Figures, run_swarm},
    swarm::Swarm,
};

/// The swarm of a seed without weather and faults.
fn calm(seed: u64) -> Swarm {
    Swarm {
        network: NetworkWeather::calm(),
        disk: DiskWeather::calm(),
        metadata: MetadataWeather::calm(),
        acts: ActWeather::calm(),
        stages_per_mille: 0,
        faults: Vec::new(),
        ..Swarm::of(seed)
    }
}

/// Runs seeds under a weather; all must pass.
fn pass(seeds: core::ops::Range<u64>, weather: impl Fn(u64) -> Swarm) -> Figures {
    let mut figures = Figures::default();
    for seed in seeds {
        let verdict = run_swarm(seed, weather(seed), None, false);
        assert_eq!(verdict.violation, None, "seed {seed}");
        figures += verdict.figures;
    }
    figures
}
