//! A target that was warming told whoever asked that the actor was there, under the epoch under which it was to arrive.
//! The move was taken back; the source, which had heard of that epoch, took the group's word for old, and ran nothing.

use core::time::Duration;

use mesh_chaos_tests::{
    run::run,
    swarm::{Fault, Swarm},
};
use mesh_core::id::NodeId;

use crate::{calm, pass};

#[test]
fn an_actor_whose_move_is_taken_back_runs_at_its_source_whatever_was_heard_meanwhile() {
    let figures = pass(500..508, |seed| {
        let calm = calm(seed);
        let nodes = calm.nodes;
        let isolate = |turn: u64| {
            let node = NodeId(1 + (turn + seed) % nodes);
            (Duration::from_millis(700 * turn), Fault::Isolate { node, span: Duration::from_millis(500) })
        };
        Swarm {
            moves_per_mille: 900,
            failover_per_mille: 600,
            storm: Duration::from_secs(9),
            faults: (1..12).map(isolate).collect(),
            ..calm
        }
    });
    assert!(figures.moves > 8 * 5 && figures.stays > 8, "{figures:?}");
}

/// The seeds that found it, as they are now.
#[test]
fn the_seeds_that_left_an_actor_nowhere_leave_none() {
    // In the latter two a node crashed while it looked at one actor, and went on to the next.
    for seed in [100_130, 401_947, 501_369, 511_396] {
        assert_eq!(run(seed, None, false).violation, None, "seed {seed}");
    }
}
