//! Elections that this node calls, because it sees that there is no leader. When is decided by
//! [`mesh_placement::steward::vacancy`].
//!
//! A loop of its own: what the controller does next may need the very leader that is missing.

use core::time::Duration;
use std::sync::Arc;

use mesh_placement::steward::vacancy::Vacancies;

use crate::node::Inner;

/// Works until the node stops.
pub(crate) async fn run(node: Arc<Inner>) {
    let stopped = node.stopped();
    tokio::pin!(stopped);
    let mut vacancies = Vacancies::default();
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = &mut stopped => return,
            _ = ticks.tick() => {}
        }
        for group in vacancies.look(&node.groups(), &node.sight()) {
            tracing::info!(node = %node.id, %group, "no leader answers; calling an election");
            if let Err(error) = node.metadata.elect(group).await {
                // The next tick looks again.
                tracing::debug!(node = %node.id, %group, %error, "an election was not called");
            }
        }
    }
}

const TICK: Duration = Duration::from_millis(100);
