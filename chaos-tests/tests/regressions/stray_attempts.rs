//! Shards of attempts at a stripe that was stored by a later attempt, and on drives that wrote after all what another wrote
//! in their place: the sweep left everything of a write alone that an object refers to, and what reclaims the object later
//! deletes only what its extent names. Nobody deleted the rest.

use core::time::Duration;

use mesh_chaos_tests::{
    network::NetworkWeather,
    run::run,
    swarm::{Fault, Swarm},
};
use mesh_core::id::NodeId;

use crate::{calm, pass};

#[test]
fn what_attempts_that_were_given_up_left_behind_is_deleted_though_their_object_was_visible() {
    let figures = pass(300..306, |seed| {
        let calm = calm(seed);
        let nodes = calm.nodes;
        let crash = |turn: u64| {
            let node = NodeId(1 + (turn + seed) % nodes);
            let down = Duration::from_millis(300);
            (Duration::from_millis(700 * turn), Fault::Crash { node, effects: 40 + turn, power: false, down })
        };
        Swarm {
            clients: 4,
            think: Duration::from_millis(100),
            storm: Duration::from_secs(8),
            network: NetworkWeather { loss_per_mille: 30, ..NetworkWeather::calm() },
            faults: (1..10).map(crash).collect(),
            ..calm
        }
    });
    assert!(figures.succeeded > 200 && figures.crashes > 6 * 5, "{figures:?}");
}

/// The seeds that found it, as they are now.
#[test]
fn the_seeds_that_left_shards_behind_leave_none() {
    for seed in [90747, 90846, 91037, 92167, 92228, 92531, 93339] {
        assert_eq!(run(seed, None, false).violation, None, "seed {seed}");
    }
}
