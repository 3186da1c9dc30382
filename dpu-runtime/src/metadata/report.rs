//! What a node says of its replicas, to the others and to who asks.

use std::sync::PoisonError;

use mesh_core::op::{GroupReport, Settled, Timeline};

use super::{RaftMetadata, lock, store::Health};

impl RaftMetadata {
    /// How this node's replicas are.
    #[must_use]
    pub fn status(&self) -> Vec<GroupReport> {
        let groups = self.groups.read().unwrap_or_else(PoisonError::into_inner);
        let open = groups.iter().map(|(group, replica)| {
            let trouble = self.trouble(*group, replica);
            let settled = if trouble.is_none() { replica.settled() } else { Settled::Unsaid };
            GroupReport {
                group: *group,
                replica: replica.id(),
                leader: replica.leader().filter(|leader| {
                    *leader != self.node || (trouble.is_none() && replica.is_followed(2 * self.timing.election_max))
                }),
                term: replica.term(),
                trouble: trouble.map(|error| error.to_string()),
                voters: if replica.raft.is_leader() { replica.members().0.into_iter().collect() } else { Vec::new() },
                settled,
                timeline: replica.state.history().timeline,
                restored: replica.state.history().restored,
                is_new: replica.has_nothing(),
            }
        });
        // Also those that nobody has asked for since it started: who follows them has to know.
        let (store, mut damaged) = (self.store(), lock(&self.damaged).clone());
        for (group, replica) in store.replicas().into_iter().filter(|(group, _)| !groups.contains_key(group)) {
            if let Health::Damaged(error) = store.health(group) {
                damaged.entry(group).or_insert((replica, error));
            }
        }
        let closed = damaged.into_iter().map(|(group, (replica, error))| GroupReport {
            group,
            replica,
            leader: None,
            term: 0,
            trouble: Some(error.to_string()),
            voters: Vec::new(),
            settled: Settled::Unsaid,
            timeline: Timeline::default(),
            restored: Timeline::default(),
            is_new: false,
        });
        open.chain(closed).collect()
    }
}
