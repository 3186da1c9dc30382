//! After a sync that failed, what it covered is not durable and never will be, though it can be read and later syncs go
//! well. A drive that went on would lose it with the power.

use core::time::Duration;

use mesh_chaos_tests::{
    disk::DiskWeather,
    run::run,
    swarm::{Fault, Swarm},
};

use crate::{calm, pass};

#[test]
fn nothing_is_acknowledged_on_the_strength_of_a_sync_after_a_failed_one() {
    let figures = pass(100..108, |seed| {
        let calm = calm(seed);
        let down: Vec<Duration> = calm.node_ids().map(|_| Duration::from_millis(100)).collect();
        let blackouts = (1..4).map(|second| (Duration::from_secs(second * 2), Fault::Blackout { down: down.clone() }));
        Swarm {
            storm: Duration::from_secs(8),
            disk: DiskWeather { error_per_mille: 8, ..DiskWeather::calm() },
            faults: blackouts.collect(),
            ..calm
        }
    });
    assert!(figures.succeeded > 100 && figures.crashes > 8 * 6, "{figures:?}");
}

/// A write that had begun in the storm failed a drive once it was calm: what that drive owes it goes on owing.
#[test]
fn a_drive_that_fails_late_is_no_leak() {
    assert_eq!(run(717_265, None, false).violation, None);
}
