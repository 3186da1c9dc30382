//! Elections called by who sees that there is no leader, so that nobody waits out Raft's (conservative) timeouts: after
//! a restart of all nodes, and when a leader is lost.
//!
//! A loop of its own: what the controller does next may need the very leader that is missing.

use core::time::Duration;
use std::{collections::BTreeMap, sync::Arc};

use mesh_core::{
    Error,
    id::{GroupId, ReplicaId},
    op::GroupReport,
    time::Instant,
};

use crate::node::Inner;

/// Works until the node stops.
pub(crate) async fn run(node: Arc<Inner>) {
    let stopped = node.stopped();
    tokio::pin!(stopped);
    let mut elections = Elections::default();
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = &mut stopped => return,
            _ = ticks.tick() => {}
        }
        if let Err(error) = elections.look(&node).await {
            // The next tick looks again.
            tracing::debug!(node = %node.id, %error, "an election was not called");
        }
    }
}

/// The groups in which nobody leads, as far as this node sees.
#[derive(Default)]
struct Elections(BTreeMap<GroupId, Vacancy>);

struct Vacancy {
    since: Instant,
    /// When this node last stood for election.
    stood: Option<Instant>,
}

impl Elections {
    /// Looks once, and stands for election where nobody leads. The first living voter does so at once and the others
    /// after it, one by one, if that led to nothing: its log may be behind. Only while a majority answers; and an
    /// election asks first whether it would be won, so that one too many disturbs nobody.
    async fn look(&mut self, node: &Arc<Inner>) -> Result<(), Error> {
        let now = node.env.clock.now();
        let alive = node.alive();
        let reports = node.reports();
        for GroupReport { group, leader, term, trouble, .. } in node.metadata.status() {
            if leader.is_some_and(|leader| alive.contains(&leader) && node.is_in_office(leader, group, term)) {
                self.0.remove(&group);
                continue;
            }
            let vacancy = self.0.entry(group).or_insert(Vacancy { since: now, stood: None });
            if vacancy.stood.is_some_and(|at| now.since(at) < STAND_PAUSE) {
                continue;
            }
            let (voters, _) = node.metadata.members(group);
            let own = node.metadata.replica_id(group).filter(|_| trouble.is_none());
            // A voter that is damaged, or that its node has lost, answers nothing.
            let sound = |voter: &ReplicaId| {
                let said =
                    reports.get(&voter.node()).and_then(|report| report.groups.iter().find(|one| one.group == group));
                said.is_none_or(|said| said.replica == *voter && said.trouble.is_none())
            };
            let living: Vec<ReplicaId> =
                voters.iter().copied().filter(|voter| alive.contains(&voter.node()) && sound(voter)).collect();
            let Some(turn) = living.iter().position(|voter| Some(*voter) == own) else { continue };
            if 2 * living.len() > voters.len() && now.since(vacancy.since) >= STAND_TURN * turn as u32 {
                vacancy.stood = Some(now);
                tracing::info!(node = %node.id, %group, "no leader answers; calling an election");
                node.metadata.elect(group).await?;
            }
        }
        Ok(())
    }
}

const TICK: Duration = Duration::from_millis(100);
const STAND_PAUSE: Duration = Duration::from_millis(500);
/// How much later the next voter stands: longer than an election takes.
const STAND_TURN: Duration = Duration::from_millis(250);
