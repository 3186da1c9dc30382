//! How busy actors are: rates, from the counters that nodes report. Lost with the process, they are soon there again.

use core::time::Duration;
use std::{collections::BTreeMap, sync::Arc};

use mesh_core::{
    id::{ActorId, Epoch, NodeId},
    op::NodeReport,
    time::Instant,
};

use crate::Load;

/// Rates from counters.
#[derive(Clone, Debug, Default)]
pub struct Meter {
    last: BTreeMap<ActorId, (Epoch, u64, u64)>,
    read_at: Option<Instant>,
    loads: Arc<BTreeMap<ActorId, Load>>,
}

impl Meter {
    /// What each actor is asked to do.
    #[must_use]
    pub const fn loads(&self) -> &Arc<BTreeMap<ActorId, Load>> {
        &self.loads
    }

    /// Reads the counters, unless that was just done.
    pub fn read(&mut self, reports: &BTreeMap<NodeId, Arc<NodeReport>>, now: Instant) {
        let span = self.read_at.map(|at| now.since(at));
        if span.is_some_and(|span| span < METER_MIN) {
            return;
        }
        let mut last = BTreeMap::new();
        for actor in reports.values().flat_map(|report| &report.actors) {
            let known = last.entry(actor.actor).or_insert((actor.epoch, actor.requests, actor.traffic_bytes));
            if actor.epoch > known.0 {
                *known = (actor.epoch, actor.requests, actor.traffic_bytes);
            }
        }
        if let Some(millis) = span.map(|span| span.as_millis().max(1)) {
            let rate = |before: u64, after: u64| {
                u64::try_from(u128::from(after.saturating_sub(before)) * 1000 / millis).unwrap_or(u64::MAX)
            };
            // Who has just moved keeps its rate: its counters begin anew.
            let rates = last.iter().filter_map(|(actor, after)| {
                let before = self.last.get(actor).filter(|before| before.0 == after.0)?;
                Some((*actor, Load { requests_per_s: rate(before.1, after.1), bytes_per_s: rate(before.2, after.2) }))
            });
            let rates: Vec<(ActorId, Load)> = rates.collect();
            let loads = Arc::make_mut(&mut self.loads);
            loads.extend(rates);
            loads.retain(|actor, _| last.contains_key(actor));
        }
        self.last = last;
        self.read_at = Some(now);
    }
}

/// Between two readings of rates.
const METER_MIN: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use mesh_core::op::{ActorReport, Phase};

    use super::*;

    const ACTOR: ActorId = ActorId(9);

    fn reports(epoch: u64, requests: u64) -> BTreeMap<NodeId, Arc<NodeReport>> {
        let actor = ActorReport {
            actor: ACTOR,
            functions: Vec::new(),
            epoch: Epoch(epoch),
            phase: Phase::Running,
            jobs: 0,
            bytes: 0,
            requests,
            traffic_bytes: requests * 10,
            restarts: 0,
        };
        [(NodeId(1), Arc::new(NodeReport { node: NodeId(1), actors: vec![actor], ..NodeReport::default() }))].into()
    }

    #[test]
    fn rates_are_of_one_epoch_and_outlive_a_move() {
        let mut meter = Meter::default();
        let at = |secs: u64| Instant(secs * 1_000_000_000);
        meter.read(&reports(1, 100), at(0));
        assert_eq!(meter.loads().get(&ACTOR), None);
        meter.read(&reports(1, 300), at(2));
        let load = Load { requests_per_s: 100, bytes_per_s: 1000 };
        assert_eq!(meter.loads().get(&ACTOR), Some(&load));
        // Sooner than its interval it reads nothing; and in another epoch the counters begin anew.
        meter.read(&reports(1, 9000), Instant(2_500_000_000));
        meter.read(&reports(2, 5), at(4));
        assert_eq!(meter.loads().get(&ACTOR), Some(&load));
        meter.read(&BTreeMap::new(), at(6));
        assert!(meter.loads().is_empty());
    }
}
