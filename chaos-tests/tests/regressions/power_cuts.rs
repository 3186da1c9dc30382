//! The power of all nodes fails again and again while clients write: at each point of the path from the first byte to
//! the answer. Nothing that was acknowledged may be lost.

use core::time::Duration;

use mesh_chaos_tests::swarm::{Fault, Swarm};

use crate::{calm, pass};

#[test]
fn power_cuts_of_all_nodes_lose_nothing_acknowledged() {
    let figures = pass(200..204, |seed| {
        let calm = calm(seed);
        let down: Vec<Duration> = calm.node_ids().map(|node| Duration::from_millis(10 * node.0)).collect();
        let blackout =
            |turn: u64| (Duration::from_millis(400 * turn + seed % 7), Fault::Blackout { down: down.clone() });
        Swarm {
            clients: 4,
            think: Duration::from_millis(60),
            storm: Duration::from_secs(6),
            faults: (1..14).map(blackout).collect(),
            ..calm
        }
    });
    assert!(figures.succeeded > 200 && figures.crashes > 4 * 30, "{figures:?}");
}
