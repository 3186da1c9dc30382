//! A delete that was sent again after its link broke, and whose first copy took effect after the second was
//! acknowledged, deleted what had been put and acknowledged since.

use core::time::Duration;

use mesh_chaos_tests::{metadata::MetadataWeather, swarm::Swarm};

use crate::{calm, pass};

#[test]
fn a_late_copy_of_a_delete_deletes_nothing_that_was_put_since() {
    let figures = pass(0..3, |seed| Swarm {
        keys: 1,
        clients: 4,
        stripes_max: 2,
        think: Duration::from_millis(100),
        storm: Duration::from_secs(12),
        metadata: MetadataWeather { broken_per_mille: 400, ..MetadataWeather::calm() },
        ..calm(seed)
    });
    assert!(figures.succeeded > 700 && figures.failed > 50, "{figures:?}");
}
