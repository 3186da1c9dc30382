//! How busy actors are: rates, from the counters that nodes report. Lost with the process, they are soon there again.

use core::time::Duration;
use std::collections::BTreeMap;

use mesh_core::{
    id::{ActorId, Epoch},
    op::{ActorReport, NodeReport},
    shared::SharedMap,
    time::Instant,
};

use crate::Load;

/// Rates from counters.
#[derive(Clone, Debug, Default)]
pub struct Meter {
    last: BTreeMap<ActorId, Counted>,
    loads: SharedMap<ActorId, Load>,
}

/// What an actor had counted when that was heard.
#[derive(Clone, Copy, Debug)]
struct Counted {
    epoch: Epoch,
    requests: u64,
    traffic_bytes: u64,
    at: Instant,
}

impl Meter {
    /// What each actor is asked to do.
    #[must_use]
    pub const fn loads(&self) -> &SharedMap<ActorId, Load> {
        &self.loads
    }

    /// A node has said what its actors have counted: that they count since it said so last, or since a second at least.
    pub fn hear(&mut self, report: &NodeReport, at: Instant) {
        for one in report.actors.iter().filter(|one| one.actor.as_data().is_some()) {
            let ActorReport { actor, epoch, requests, traffic_bytes, .. } = *one;
            let after = Counted { epoch, requests, traffic_bytes, at };
            match self.last.get(&actor) {
                Some(before) if before.epoch > epoch => continue,
                Some(before) if before.epoch == epoch => {
                    let span = at.since(before.at);
                    if span < METER_MIN {
                        continue;
                    }
                    let millis = span.as_millis().max(1);
                    let rate = |before: u64, after: u64| {
                        u64::try_from(u128::from(after.saturating_sub(before)) * 1000 / millis).unwrap_or(u64::MAX)
                    };
                    let load = Load {
                        requests_per_s: rate(before.requests, requests),
                        bytes_per_s: rate(before.traffic_bytes, traffic_bytes),
                    };
                    if self.loads.get(&actor) != Some(&load) {
                        self.loads.insert(actor, load);
                    }
                }
                // Who has just moved keeps its rate: its counters begin anew.
                _ => {}
            }
            self.last.insert(actor, after);
        }
    }

    /// Of actors that are no more nothing is remembered, once they are more than those that are.
    pub fn forget(&mut self, there: usize, is_there: impl Fn(&ActorId) -> bool) {
        if self.last.len() <= there {
            return;
        }
        self.last.retain(|actor, _| is_there(actor));
        let gone: Vec<ActorId> = self.loads.keys().copied().filter(|actor| !is_there(actor)).collect();
        for actor in gone {
            self.loads.remove(&actor);
        }
    }
}

/// Between two readings of rates.
const METER_MIN: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use mesh_core::id::{NodeId, TenantId};

    use super::*;
    use crate::steward::tests::runs;

    const ACTOR: ActorId = ActorId::data(TenantId(7), NodeId(1));

    fn report(epoch: u64, requests: u64) -> NodeReport {
        let actor = ActorReport { requests, traffic_bytes: requests * 10, ..runs(ACTOR, epoch) };
        NodeReport { node: NodeId(1), actors: vec![actor], ..NodeReport::default() }
    }

    #[test]
    fn rates_are_of_one_epoch_and_outlive_a_move() {
        let mut meter = Meter::default();
        let at = |secs: u64| Instant(secs * 1_000_000_000);
        meter.hear(&report(1, 100), at(0));
        assert_eq!(meter.loads().get(&ACTOR), None);
        meter.hear(&report(1, 300), at(2));
        let load = Load { requests_per_s: 100, bytes_per_s: 1000 };
        assert_eq!(meter.loads().get(&ACTOR), Some(&load));
        // Sooner than its interval it reads nothing; and in another epoch the counters begin anew.
        meter.hear(&report(1, 9000), Instant(2_500_000_000));
        meter.hear(&report(2, 5), at(4));
        assert_eq!(meter.loads().get(&ACTOR), Some(&load));
        // Of an epoch that is over nothing is heard.
        meter.hear(&report(1, 90_000), at(6));
        assert_eq!(meter.loads().get(&ACTOR), Some(&load));
        meter.hear(&report(2, 25), at(8));
        assert_eq!(meter.loads().get(&ACTOR), Some(&Load { requests_per_s: 5, bytes_per_s: 50 }));
        meter.forget(1, |_| false);
        assert_eq!(meter.loads().len(), 1, "there are no more of them than may be");
        meter.forget(0, |_| false);
        assert!(meter.loads().is_empty());
    }

    #[test]
    fn a_rate_is_over_the_time_between_two_reports_a_second_at_least_however_long() {
        let mut meter = Meter::default();
        meter.hear(&report(1, 0), Instant(0));
        meter.hear(&report(1, 7), Instant(999_999_999));
        assert_eq!(meter.loads().get(&ACTOR), None);
        meter.hear(&report(1, 7), Instant(1_000_000_000));
        assert_eq!(meter.loads().get(&ACTOR).map(|load| load.requests_per_s), Some(7));
        let mut meter = Meter::default();
        meter.hear(&report(1, 0), Instant(0));
        meter.hear(&report(1, 500), Instant(5_000_000_000));
        assert_eq!(meter.loads().get(&ACTOR).map(|load| load.requests_per_s), Some(100));
        meter.hear(&report(1, 500), Instant(10_000_000_000));
        assert_eq!(meter.loads().get(&ACTOR), Some(&Load::default()));
    }
}
