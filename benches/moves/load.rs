//! Clients at a steady rate, and the longest that any of them waited.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use mesh_core::Error;
use tokio::task::JoinSet;

use crate::stations::Station;

/// Clients that send until they are stopped.
pub(crate) struct Load {
    enough: Arc<AtomicBool>,
    worst_ns: Arc<AtomicU64>,
    clients: JoinSet<Result<u64, Error>>,
}

impl Load {
    /// Begins to send from a station.
    pub(crate) fn start(station: &Arc<Station>, entries: u64, rate: u64) -> Self {
        let (enough, worst_ns) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let mut clients = JoinSet::new();
        for client in 0..CLIENTS {
            let (station, enough, worst_ns) = (station.clone(), enough.clone(), worst_ns.clone());
            let period = Duration::from_nanos(CLIENTS * 1_000_000_000 / rate.max(1));
            clients.spawn(async move {
                let mut ticks = tokio::time::interval(period);
                ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Burst);
                let (mut answered, mut dice) = (0, client);
                while !enough.load(Ordering::Relaxed) {
                    ticks.tick().await;
                    // Knuth's generator: which entry does not matter, only that it is another one.
                    dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    let began = Instant::now();
                    station.count((dice >> 20) % entries.max(1)).await?;
                    let waited = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
                    worst_ns.fetch_max(waited, Ordering::Relaxed);
                    answered += 1;
                }
                Ok(answered)
            });
        }
        Self { enough, worst_ns, clients }
    }

    /// The longest wait of those that ended since this was asked before.
    pub(crate) fn worst(&self) -> Duration {
        Duration::from_nanos(self.worst_ns.swap(0, Ordering::Relaxed))
    }

    /// Stops; how many requests were answered. One that failed ends the bench.
    pub(crate) async fn stop(mut self) -> Result<u64, Error> {
        self.enough.store(true, Ordering::Relaxed);
        let mut answered = 0;
        while let Some(client) = self.clients.join_next().await {
            answered += client.map_err(|error| Error::bug("a client ended").with("why", error))??;
        }
        Ok(answered)
    }
}

const CLIENTS: u64 = 8;
