//! An actor was on its way to a node when another controller thought its source lost and gave it to that very node, under
//! the very epoch under which it was to arrive. The controller of the move, and the node itself, took that for the commit,
//! and opened what had warmed there: a part of the state, without changes that the source had acknowledged.

use core::time::Duration;

use mesh_chaos_tests::{
    run::run,
    swarm::{Fault, Swarm},
};
use mesh_core::id::NodeId;

use crate::{calm, pass};

#[test]
fn an_actor_that_is_given_to_the_target_of_its_move_begins_anew() {
    let figures = pass(400..408, |seed| {
        let calm = calm(seed);
        let nodes = calm.nodes;
        let isolate = |turn: u64| {
            let node = NodeId(1 + (turn + seed) % nodes);
            (Duration::from_millis(900 * turn), Fault::Isolate { node, span: Duration::from_millis(2600) })
        };
        Swarm {
            moves_per_mille: 900,
            failover_per_mille: 600,
            storm: Duration::from_secs(9),
            faults: (1..9).map(isolate).collect(),
            ..calm
        }
    });
    assert!(figures.moves > 8 * 5 && figures.takeovers > 8, "{figures:?}");
}

/// The seed that found it, as it is now.
#[test]
fn the_seed_that_lost_a_change_loses_none() {
    assert_eq!(run(93882, None, false).violation, None);
}
