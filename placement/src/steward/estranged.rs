//! DPUs that answer this node and not the host that they serve: nothing that comes in there reaches what runs on them. For
//! the placement engine they are as good as down, however well the controller itself gets on with them.

use core::time::Duration;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use mesh_core::{
    id::{Incarnation, NodeId},
    limits::HEARTBEAT_INTERVAL,
    meta::ControlView,
    time::Instant,
};

use super::{Sight, lasting::Lasting};

/// What the controller knows of them.
#[derive(Clone, Debug, Default)]
pub struct Estranged {
    /// Since when each host is known, and as which start: one that has just started has not heard of everybody yet.
    met: BTreeMap<NodeId, (Incarnation, Instant)>,
    unseen: Lasting,
}

impl Estranged {
    /// Those that are estranged.
    #[must_use]
    pub const fn now(&self) -> &Arc<BTreeSet<NodeId>> {
        self.unseen.now()
    }

    /// Those that are, or were, with the last moment at which they were.
    #[must_use]
    pub const fn last(&self) -> &Arc<BTreeMap<NodeId, Instant>> {
        self.unseen.last()
    }

    /// Nothing counts any more: this node does not lead.
    pub fn forget(&mut self) {
        if !(self.met.is_empty() && self.unseen.is_empty()) {
            *self = Self::default();
        }
    }

    /// This node was itself asleep: nobody has said anything meanwhile.
    pub fn slept(&mut self, span: Duration) {
        self.unseen.slept(span);
        for (_, since) in self.met.values_mut() {
            *since = *since + span;
        }
    }

    /// Looks at what hosts say. A host is believed once it has been known, in this start, for a silence, and says it again.
    /// Whether somebody is estranged who was not, or is no more who was. `heard_at`: when each last spoke.
    pub fn look(
        &mut self,
        view: &ControlView,
        sight: &Sight,
        silence: Duration,
        heard_at: impl Fn(NodeId) -> Option<Instant>,
    ) -> bool {
        let pairs: BTreeMap<NodeId, NodeId> =
            view.nodes.values().filter_map(|info| Some((info.id, info.attached_to?))).collect();
        let hosts: BTreeSet<NodeId> = pairs.values().copied().collect();
        self.met.retain(|host, _| hosts.contains(host) && sight.alive.contains(host));
        for host in hosts.into_iter().filter(|host| sight.alive.contains(host)) {
            let Some(report) = sight.reports.get(&host) else { continue };
            let met = self.met.entry(host).or_insert((report.incarnation, sight.now));
            if met.0 != report.incarnation {
                *met = (report.incarnation, sight.now);
            }
        }
        let is_unseen = |dpu: NodeId, host: NodeId| {
            let is_believed = self.met.get(&host).is_some_and(|(_, met)| sight.now.since(*met) >= silence);
            let says = sight.reports.get(&host).is_some_and(|report| report.sees.binary_search(&dpu).is_err());
            host != sight.here && sight.alive.contains(&dpu) && is_believed && says
        };
        let unseen = pairs.iter().filter(|(dpu, host)| is_unseen(**dpu, **host)).map(|(dpu, _)| *dpu).collect();
        self.unseen.look(sight.now, unseen, LASTS, |dpu| heard_at(*pairs.get(&dpu)?))
    }
}

/// What a host says of its DPU counts once it has said so for this long: one report may be of a moment, and the next one comes
/// with the next beat.
const LASTS: Duration = HEARTBEAT_INTERVAL.saturating_mul(2);

#[cfg(test)]
mod tests {
    use mesh_core::{
        id::GroupId,
        topology::{NodeInfo, NodeKind},
    };

    use super::*;
    use crate::steward::tests::{host, sight};

    const DPU: NodeId = NodeId(12);
    const SILENCE: Duration = Duration::from_secs(2);

    /// Node 1 leads, and sees node 2 and its DPU.
    fn look(estranged: &mut Estranged, sees: bool, start: u64, millis: u64) -> (bool, Vec<NodeId>) {
        look_as_of(estranged, sees, start, millis, millis)
    }

    /// … as it said at the moment `said`.
    fn look_as_of(estranged: &mut Estranged, sees: bool, start: u64, millis: u64, said: u64) -> (bool, Vec<NodeId>) {
        look_at(estranged, &[1, 2, 12], sees, start, (millis, said))
    }

    /// … where these answer.
    fn look_at(
        estranged: &mut Estranged,
        alive: &[u64],
        sees: bool,
        start: u64,
        (millis, said): (u64, u64),
    ) -> (bool, Vec<NodeId>) {
        let dpu = NodeInfo { kind: NodeKind::Dpu, attached_to: Some(NodeId(2)), ..host(12) };
        let view = ControlView { nodes: [(NodeId(2), host(2)), (DPU, dpu)].into(), ..ControlView::default() };
        let mut sight = sight(1, &[1, 2, 12], GroupId::CONTROL, Some(1));
        sight.alive = Arc::new(alive.iter().copied().map(NodeId).collect());
        sight.now = Instant(millis * 1_000_000);
        sight.change(2, |report| {
            report.incarnation = Incarnation(start);
            report.sees = if sees { vec![NodeId(1), NodeId(2), DPU] } else { vec![NodeId(1), NodeId(2)] };
        });
        let changed = estranged.look(&view, &sight, SILENCE, |_| Some(Instant(said * 1_000_000)));
        (changed, estranged.now().iter().copied().collect())
    }

    #[test]
    fn a_dpu_is_estranged_once_its_host_has_listened_for_a_silence_and_does_not_see_it() {
        let mut estranged = Estranged::default();
        assert_eq!(look(&mut estranged, false, 5, 1_000), (false, vec![]));
        assert_eq!(look(&mut estranged, false, 5, 2_999), (false, vec![]));
        assert_eq!(look(&mut estranged, false, 5, 3_000), (false, vec![]));
        assert_eq!(look(&mut estranged, false, 5, 3_999), (false, vec![]));
        assert_eq!(look(&mut estranged, false, 5, 4_000), (true, vec![DPU]));
        assert_eq!(look(&mut estranged, false, 5, 4_500), (false, vec![DPU]));
        assert_eq!(look(&mut estranged, true, 5, 5_000), (true, vec![]));
        assert_eq!(estranged.last().get(&DPU), Some(&Instant(4_500_000_000)));
        // One report is of a moment.
        assert_eq!(look(&mut estranged, false, 5, 6_000), (false, vec![]));
        assert_eq!(look(&mut estranged, true, 5, 6_900), (false, vec![]));
        assert_eq!(look(&mut estranged, false, 5, 7_000), (false, vec![]));
        assert_eq!(look(&mut estranged, false, 5, 8_000), (true, vec![DPU]));
        // Nor does an old report count because nothing newer has come.
        assert_eq!(look(&mut estranged, true, 5, 8_010), (true, vec![]));
        assert_eq!(look(&mut estranged, false, 5, 8_020), (false, vec![]));
        assert_eq!(look_as_of(&mut estranged, false, 5, 9_500, 8_500), (false, vec![]));
        assert_eq!(look(&mut estranged, false, 5, 9_600), (true, vec![DPU]));
        // Another start has to listen first.
        assert_eq!(look(&mut estranged, false, 6, 10_100), (true, vec![]));
        assert_eq!(look(&mut estranged, false, 6, 12_100), (false, vec![]));
        assert_eq!(look(&mut estranged, false, 6, 13_100), (true, vec![DPU]));
        assert_eq!(look(&mut estranged, true, 6, 13_200), (true, vec![]));
        assert_eq!(look(&mut estranged, true, 6, 73_100), (false, vec![]));
        assert!(estranged.last().is_empty(), "it is forgotten in the end");
    }

    #[test]
    fn a_host_has_not_listened_while_the_controller_slept_nor_before_it_led() {
        let mut estranged = Estranged::default();
        look(&mut estranged, false, 5, 1_000);
        estranged.slept(Duration::from_secs(60));
        assert_eq!(look(&mut estranged, false, 5, 62_999), (false, vec![]));
        assert_eq!(look(&mut estranged, false, 5, 63_000), (false, vec![]));
        // What it says of the DPU is not of a time that was slept through either.
        estranged.slept(Duration::from_secs(60));
        assert_eq!(look(&mut estranged, false, 5, 123_999), (false, vec![]));
        assert_eq!(look(&mut estranged, false, 5, 124_000), (true, vec![DPU]));
        estranged.forget();
        assert_eq!((estranged.now().len(), estranged.last().len()), (0, 0));
        assert_eq!(look(&mut estranged, false, 5, 124_100), (false, vec![]));
        // Also where nothing but a host was known.
        estranged.forget();
        assert_eq!(look(&mut estranged, false, 5, 126_000), (false, vec![]));
        assert_eq!(look(&mut estranged, false, 5, 127_500), (false, vec![]), "it is known since then");
    }

    #[test]
    fn a_host_that_was_missed_listens_anew() {
        let mut estranged = Estranged::default();
        look(&mut estranged, true, 5, 1_000);
        assert_eq!(look_at(&mut estranged, &[1, 12], false, 5, (9_000, 8_000)), (false, vec![]));
        assert_eq!(look(&mut estranged, false, 5, 10_000), (false, vec![]));
        assert_eq!(look(&mut estranged, false, 5, 11_999), (false, vec![]), "it is known since then");
        assert_eq!(look(&mut estranged, false, 5, 12_000), (false, vec![]));
        assert_eq!(look(&mut estranged, false, 5, 13_000), (true, vec![DPU]));
    }
}
