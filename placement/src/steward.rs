//! What a node decides, a file a duty: pure machines. The daemon drives all of them, the simulator those that have to do with
//! who is there and what runs where: [`peers`], [`chains`] and [`driver`].
//!
//! - [`peers`]: who is there, and since when;
//! - [`vacancy`]: when to stand for election;
//! - [`members`]: who is to follow and to vote in a metadata group;
//! - [`renewal`]: when damaged metadata are set aside;
//! - [`layouts`]: when a new layout is made;
//! - [`chains`]: what to do about each actor by what the control group says of it;
//! - [`plans`]: what the placement engine wants;
//! - [`driver`]: what the leader of the control group does so that every actor runs where the plan wants it;
//! - [`readiness`]: what is missing before the node takes data.
//!
//! None of them waits, and none keeps what another one owns: what is wanted is computed anew at every look from what the
//! group says and what is there, so that an answer and the news of what it did may come in either order.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use mesh_core::{
    id::{GroupId, NodeId, ReplicaId},
    op::{GroupReport, NodeReport},
    time::Instant,
};

pub mod chains;
pub mod driver;
pub mod layouts;
pub mod members;
pub mod peers;
pub mod plans;
pub mod readiness;
pub mod renewal;
pub mod vacancy;

/// What a node sees of all at one moment.
#[derive(Clone, Debug)]
pub struct Sight {
    /// Which node.
    pub here: NodeId,
    /// When.
    pub now: Instant,
    /// Who answers, this node included.
    pub alive: BTreeSet<NodeId>,
    /// What each said last, this node included.
    pub reports: BTreeMap<NodeId, Arc<NodeReport>>,
}

impl Sight {
    /// What a node said last of its replica of a group.
    #[must_use]
    pub fn said_of(&self, node: NodeId, group: GroupId) -> Option<&GroupReport> {
        self.reports.get(&node)?.groups.iter().find(|said| said.group == group)
    }
}

/// A metadata group, as this node's replica of it knows it.
#[derive(Clone, Debug)]
pub struct Group {
    /// What is said of it to others.
    pub report: GroupReport,
    /// Whether it leads.
    pub leads: bool,
    /// Who votes, as far as was agreed.
    pub voters: BTreeSet<ReplicaId>,
    /// Who follows.
    pub learners: BTreeSet<ReplicaId>,
    /// Those who have what the leader has, or nearly; known to the leader.
    pub caught_up: BTreeSet<ReplicaId>,
}

#[cfg(test)]
mod tests {
    use mesh_core::{
        id::{DriveId, Epoch, Incarnation},
        topology::{DriveInfo, NodeInfo, NodeKind},
    };

    use super::*;

    /// The control group with these voters, as the replica of a node knows it.
    pub(super) fn group(node: u64, voters: &[u64]) -> Group {
        let replica = |node: u64| ReplicaId::new(NodeId(node), 1);
        let report = GroupReport {
            group: GroupId::CONTROL,
            replica: replica(node),
            leader: None,
            term: 1,
            trouble: None,
            voters: Vec::new(),
        };
        let voters = voters.iter().map(|node| replica(*node)).collect();
        Group { report, leads: false, voters, learners: BTreeSet::new(), caught_up: BTreeSet::new() }
    }

    /// What a node sees, if these answer and follow that leader.
    pub(super) fn sight(here: u64, alive: &[u64], of: GroupId, leader: Option<u64>) -> Sight {
        let report = |node: u64| {
            let groups = vec![GroupReport { group: of, leader: leader.map(NodeId), ..group(node, &[]).report }];
            (NodeId(node), Arc::new(NodeReport { node: NodeId(node), groups, ..NodeReport::default() }))
        };
        Sight {
            here: NodeId(here),
            now: Instant(0),
            alive: alive.iter().copied().map(NodeId).collect(),
            reports: alive.iter().map(|node| report(*node)).collect(),
        }
    }

    impl Sight {
        /// Changes what a node said.
        pub(super) fn change(&mut self, node: u64, how: impl FnOnce(&mut NodeReport)) {
            how(Arc::make_mut(self.reports.get_mut(&NodeId(node)).expect("it said something")));
        }
    }

    pub(super) fn host(node: u64) -> NodeInfo {
        NodeInfo {
            id: NodeId(node),
            kind: NodeKind::Host,
            address: String::new(),
            incarnation: Incarnation(1),
            pid: 1,
            draining: false,
            attached_to: None,
            emulated: None,
            life: 1,
            invitation: 0,
        }
    }

    pub(super) fn drive(id: u64, node: u64) -> DriveInfo {
        DriveInfo { id: DriveId(id), node: NodeId(node), epoch: Epoch(1), capacity_bytes: 1 << 30 }
    }
}
