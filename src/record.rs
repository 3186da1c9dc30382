//! What the placement engine remembers of actors for a while, so that it does not move them to and fro: how busy they are,
//! and when each last moved. Lost with the process, it is soon there again.

use core::time::Duration;
use std::{collections::BTreeMap, sync::Arc};

use mesh_core::{
    id::{ActorId, Epoch, NodeId},
    op::NodeReport,
    time::Instant,
};
use mesh_placement::Load;

/// Of every actor.
#[derive(Default)]
pub(crate) struct Record {
    pub(crate) meter: Meter,
    pub(crate) moved_at: BTreeMap<ActorId, Instant>,
}

/// Rates from counters.
#[derive(Default)]
pub(crate) struct Meter {
    last: BTreeMap<ActorId, (Epoch, u64, u64)>,
    read_at: Option<Instant>,
    pub(crate) loads: BTreeMap<ActorId, Load>,
}

impl Meter {
    pub(crate) fn read(&mut self, reports: &BTreeMap<NodeId, Arc<NodeReport>>, now: Instant) {
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
            self.loads.extend(rates.collect::<Vec<_>>());
            self.loads.retain(|actor, _| last.contains_key(actor));
        }
        self.last = last;
        self.read_at = Some(now);
    }
}

/// Between two readings of rates.
const METER_MIN: Duration = Duration::from_secs(1);
