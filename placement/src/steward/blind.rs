//! DPUs on which chains can do nothing, for they do not see enough drives, while the hosts that they serve do: a chain is
//! moved home from there, live, and not back before the DPU sees them again.

use core::time::Duration;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use mesh_core::{id::NodeId, limits::HEARTBEAT_INTERVAL, meta::ControlView, time::Instant, topology::NodeInfo};

use super::{Sight, lasting::Lasting};

/// What the controller knows of them.
#[derive(Clone, Debug, Default)]
pub struct Blind(Lasting);

impl Blind {
    /// Those that are.
    #[must_use]
    pub const fn now(&self) -> &Arc<BTreeSet<NodeId>> {
        self.0.now()
    }

    /// Those that are, or were, with the last moment at which they were.
    #[must_use]
    pub const fn last(&self) -> &Arc<BTreeMap<NodeId, Instant>> {
        self.0.last()
    }

    /// This node was itself asleep: nobody has said anything meanwhile.
    pub fn slept(&mut self, span: Duration) {
        self.0.slept(span);
    }

    /// Nothing counts any more: this node does not lead.
    pub fn forget(&mut self) {
        if !self.0.is_empty() {
            *self = Self::default();
        }
    }

    /// Looks at what DPUs and hosts say. Whether that has changed who is blind. `heard_at`: when each last spoke.
    pub fn look(&mut self, view: &ControlView, sight: &Sight, heard_at: impl Fn(NodeId) -> Option<Instant>) -> bool {
        if view.code.is_none() {
            return false;
        }
        let sees = |node: NodeId| {
            let report = sight.reports.get(&node).filter(|_| sight.alive.contains(&node));
            report.map(|report| report.drives_up as usize)
        };
        let lacks = |info: &&NodeInfo| {
            let of_host = info.attached_to.and_then(sees);
            sees(info.id).zip(of_host).is_some_and(|(own, hosts)| view.lacks_drives(own, hosts))
        };
        let lacking = view.nodes.values().filter(lacks).map(|info| info.id).collect();
        self.0.look(sight.now, lacking, LASTS, heard_at)
    }
}

/// What lasts less is over before a move would be.
const LASTS: Duration = HEARTBEAT_INTERVAL;

#[cfg(test)]
mod tests {
    use mesh_core::{
        id::GroupId,
        topology::{Code, NodeKind},
    };

    use super::*;
    use crate::steward::tests::{host, sight};

    fn look(blind: &mut Blind, (on_dpu, on_host): (u32, u32), millis: u64) -> bool {
        let dpu = NodeInfo { kind: NodeKind::Dpu, attached_to: Some(NodeId(2)), ..host(12) };
        let nodes = [(NodeId(2), host(2)), (NodeId(12), dpu)].into();
        let view = ControlView { nodes, code: Some(Code { data: 2, parity: 1 }), ..ControlView::default() };
        let mut sight = sight(1, &[1, 2, 12], GroupId::CONTROL, Some(1));
        sight.now = Instant(millis * 1_000_000);
        sight.change(12, |report| report.drives_up = on_dpu);
        sight.change(2, |report| report.drives_up = on_host);
        let heard_at = sight.now;
        blind.look(&view, &sight, |_| Some(heard_at));
        blind.now().contains(&NodeId(12))
    }

    #[test]
    fn a_dpu_is_blind_that_sees_too_few_drives_for_some_time_while_its_host_sees_enough() {
        let mut blind = Blind::default();
        assert!(!look(&mut blind, (2, 6), 1_000));
        assert!(!look(&mut blind, (2, 6), 1_499));
        assert!(look(&mut blind, (2, 6), 1_500));
        // At home it would be no better.
        assert!(!look(&mut blind, (2, 2), 1_600));
        assert!(!look(&mut blind, (2, 6), 1_700));
        assert!(look(&mut blind, (2, 6), 2_200));
        assert!(!look(&mut blind, (3, 6), 2_300));
    }

    #[test]
    fn nobody_is_blind_for_a_time_that_was_slept_through_nor_after_it_is_forgotten() {
        let mut blind = Blind::default();
        assert!(!look(&mut blind, (2, 6), 1_000));
        blind.slept(Duration::from_secs(60));
        assert!(!look(&mut blind, (2, 6), 61_499));
        assert!(look(&mut blind, (2, 6), 61_500));
        blind.forget();
        assert_eq!((blind.now().len(), blind.last().len()), (0, 0));
    }
}
