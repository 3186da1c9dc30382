//! A chain was cut before Encrypt that had been cut behind it, under the same epoch and with its tail on the same node. The
//! tail was told of its new stages and kept those that it was built with; its head took it for the new one, and what it sent
//! unsealed was stored unsealed. The other way round, stripes were sealed twice.

use core::time::Duration;

use mesh_chaos_tests::{run::run, swarm::Swarm};

use crate::{calm, pass};

#[test]
fn a_chain_that_is_cut_elsewhere_leaves_no_stage_out() {
    let figures = pass(600..606, |seed| Swarm {
        encrypted: true,
        split: true,
        moves_per_mille: 20,
        failover_per_mille: 0,
        clients: 4,
        think: Duration::from_millis(40),
        storm: Duration::from_secs(9),
        ..calm(seed)
    });
    assert!(figures.succeeded > 6 * 50, "{figures:?}");
}

/// The seed that stored plaintext, as it is now.
#[test]
fn the_seed_that_stored_plaintext_stores_none() {
    assert_eq!(run(53, None, false).violation, None);
}
