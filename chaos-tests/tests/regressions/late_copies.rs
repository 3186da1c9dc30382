//! Copies of commands that take effect long after they were answered: when what they changed has been changed again, when a
//! later life of their ingress is there, when the bucket is gone and another of its name has come. A delete that had found
//! nothing took what was put since; a seal was taken back by a deletion that it did not belong to, and an object went
//! into a bucket that was removed.

use core::time::Duration;

use mesh_chaos_tests::{
    metadata::MetadataWeather,
    swarm::{Fault, Swarm},
};
use mesh_core::id::NodeId;

use crate::{calm, pass};

#[test]
fn a_late_copy_of_any_command_has_no_effect() {
    let figures = pass(500..508, |seed| {
        let calm = calm(seed);
        let nodes = calm.nodes;
        let crash = |turn: u64| {
            let node = NodeId(1 + (turn + seed) % nodes);
            let down = Duration::from_millis(200);
            (Duration::from_millis(1500 * turn), Fault::Crash { node, effects: 90, power: false, down })
        };
        Swarm {
            keys: 2,
            clients: 5,
            stripes_max: 2,
            think: Duration::from_millis(60),
            storm: Duration::from_secs(12),
            metadata: MetadataWeather {
                broken_per_mille: 200,
                late_copy_per_mille: 600,
                twice_per_mille: 100,
                ..MetadataWeather::calm()
            },
            faults: (1..7).map(crash).collect(),
            ..calm
        }
    });
    assert!(figures.succeeded > 8 * 150 && figures.crashes > 8 * 3, "{figures:?}");
}
