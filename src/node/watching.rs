//! What a node tells those who watch it: all that is counted on it, whether it lives, and whether it serves.
//!
//! It listens before anything else of the node begins, so that who looks while it starts has an answer. Here nothing is counted
//! but how late the node's timers are: everything else is asked of who counts it.

mod asked;
mod own;

use core::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};
use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, OnceLock, Weak},
};

use futures_util::{FutureExt as _, future::BoxFuture};
use mesh_core::{
    Error, ErrorKind,
    figures::{Counter, Figures as _, Histogram, Labels, Page},
    id::TenantId,
    time::Instant,
};
use mesh_fronts::watch::{Watched, serve};
use tokio::{
    sync::oneshot,
    task::JoinHandle,
    time::{MissedTickBehavior, interval},
};

pub(crate) use asked::sums;

use super::{Inner, front, lock, media};
use crate::{config::WatchConfig, env::Env};

mesh_core::figures! {
    /// How late the node's timers are.
    struct Lateness as "mesh_process" {
        /// How much later than it was to a timer of this node went off, looked at four times a second: threads that are late, or a machine that was asleep.
        lateness_seconds: Histogram,
    }

    /// What has happened to actors, as this node saw it while it led the control group.
    pub(crate) struct Moves as "mesh_moves" {
        /// Live moves of actors that this node has begun as the leader.
        pub(crate) begun: Counter,
        /// Live moves of actors that were committed, as the leader saw it.
        pub(crate) committed: Counter,
        /// Live moves of actors that came to nothing, as the leader saw it.
        pub(crate) aborted: Counter,
        /// Actors that were given to another node because theirs was lost.
        pub(crate) taken_over: Counter,
        /// Actors whose node was lost and that could not be given to the node that was to have them.
        pub(crate) failed_take_overs: Counter,
        /// Chains that were split, or made whole again.
        pub(crate) cuts: Counter,
    }
}

/// When the owner of what the node decides has looked last.
#[derive(Debug, Default)]
pub(super) struct Turned(AtomicU64);

impl Turned {
    pub(super) fn now(&self, now: Instant) {
        self.0.store(now.0, Relaxed);
    }

    fn since(&self, now: Instant) -> Duration {
        now.since(Instant(self.0.load(Relaxed)))
    }
}

/// The listener of who watches a node; it ends when this is dropped.
pub(super) struct Watching {
    pub(super) address: SocketAddr,
    door: Arc<Door>,
    stop: Option<oneshot::Sender<()>>,
    served: JoinHandle<()>,
    ticking: JoinHandle<()>,
}

impl Watching {
    /// Begins to listen, for a node that is still to be started.
    ///
    /// # Errors
    /// `Invalid`: choose another address, or stop what uses it.
    pub(super) async fn begin(config: &WatchConfig, env: &Env) -> Result<Self, Error> {
        let refused = |error: std::io::Error| {
            let what =
                "the listener for who watches this node cannot listen: choose another address or stop what uses it";
            Error::new(ErrorKind::Invalid, what).with("address", config.listen).caused_by(error)
        };
        let (listener, address) = env.doorways.listen(config.listen).await.map_err(refused)?;
        let door = Arc::new(Door { node: OnceLock::new(), lateness: Lateness::default() });
        let (stop, told) = oneshot::channel::<()>();
        let watched: Arc<dyn Watched> = door.clone();
        // Told, or its owner is gone.
        let serving = serve(listener, watched, async move { told.await.unwrap_or_default() });
        let ticking = tokio::spawn(tick(door.clone()));
        Ok(Self { address, door, stop: Some(stop), served: tokio::spawn(serving), ticking })
    }

    /// From now on there is a node.
    pub(super) fn open(&self, node: &Arc<Inner>) {
        if self.door.node.set(Arc::downgrade(node)).is_err() {
            tracing::error!("a listener for who watches a node was given a second one");
        }
    }

    /// Ends it.
    pub(super) async fn close(mut self) {
        self.stop = None;
        // Only a panic ends it badly, and that was said.
        if (&mut self.served).await.is_err() {
            tracing::error!("the listener for who watches this node ended badly");
        }
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.ticking.abort();
    }
}

/// Measures how late timers are, for ever.
async fn tick(door: Arc<Door>) {
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let due = ticks.tick().await;
        door.lateness.lateness_seconds.took(due.elapsed());
    }
}

struct Door {
    /// None: it is being started.
    node: OnceLock<Weak<Inner>>,
    lateness: Lateness,
}

impl Door {
    fn node(&self) -> Result<Arc<Inner>, String> {
        match self.node.get() {
            None => Err(STARTING.to_owned()),
            Some(node) => node.upgrade().ok_or_else(|| STOPPED.to_owned()),
        }
    }
}

impl Watched for Door {
    fn metrics(&self) -> BoxFuture<'static, Result<String, String>> {
        let node = self.node();
        let mut page = Page::default();
        self.lateness.tell(&Labels::default(), &mut page);
        async move {
            let node = node?;
            page.join(node.figures().await);
            let control = node.metadata.control();
            Ok(page.text(|tenant: TenantId| control.tenants.get(&tenant).map(|row| row.name.clone())))
        }
        .boxed()
    }

    fn health(&self) -> Result<(), String> {
        let Some(node) = self.node.get() else { return Ok(()) };
        let node = node.upgrade().ok_or_else(|| STOPPED.to_owned())?;
        let since = node.turned.since(node.env.clock.now());
        if since > TURN_MAX {
            return Err(format!("what decides on this node has not looked for {} s", since.as_secs()));
        }
        Ok(())
    }

    fn readiness(&self) -> Result<(), Vec<String>> {
        let node = self.node().map_err(|why| vec![why])?;
        let missing = node.unready();
        if missing.is_empty() { Ok(()) } else { Err(missing) }
    }
}

impl Inner {
    /// Everything that is counted on this node.
    pub(crate) async fn figures(&self) -> Page {
        let mut page = self.host.figures(FIGURES_MAX).await;
        mesh_actors::figures::declare(&mut page);
        self.metadata.figures(&mut page);
        self.load.figures(&mut page);
        self.link.figures(&mut page);
        mesh_fronts::s3::declare(&mut page);
        mesh_fronts::tls::declare(&mut page);
        if let Some(front) = &*lock(&self.counted_front) {
            front.figures(&mut page);
        }
        self.events.moves.tell(&Labels::default(), &mut page);
        own::tell(self, &mut page);
        page
    }

    /// What this node lacks before it serves, for people; nothing: it does.
    fn unready(&self) -> Vec<String> {
        let mut missing = Vec::new();
        if self.leaving.load(core::sync::atomic::Ordering::Acquire) || *self.stopping.borrow() {
            missing.push("the node is stopping".to_owned());
        }
        missing.extend(lock(&self.out).as_ref().map(ToString::to_string));
        missing.extend(self.expect_ready().err().map(|error| error.to_string()));
        missing.extend(self.expect_current().err().map(|error| error.to_string()));
        missing.extend(media::being_opened(self));
        missing.extend(front::unserved(self));
        missing
    }
}

/// What a front end has counted, as long as its node is there.
pub(super) type CountedFront = Mutex<Option<front::Counted>>;

const STARTING: &str = "the node is still starting";
const STOPPED: &str = "the node has stopped";
/// Actors have so long to say what they have counted.
const FIGURES_MAX: Duration = Duration::from_secs(1);
/// The owner looks several times a second; after so long it hangs.
const TURN_MAX: Duration = Duration::from_secs(10);
const TICK: Duration = Duration::from_millis(250);
