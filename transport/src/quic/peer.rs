//! One peer: its lanes, and what is known of it.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use mesh_core::{
    Lane,
    envelope::Welcome,
    id::{Incarnation, NodeId},
};
use tokio::sync::Notify;

use super::{
    Shared,
    slot::{Begin, Slot},
};
use crate::{
    handshake::Expected,
    link::count,
    peers::{Attempt, BACK_OFF_MIN_MS, Ledger},
};

pub(super) struct Peer {
    node: NodeId,
    slots: [Arc<Slot>; 2 + BULK_CONNECTIONS],
    next_bulk: AtomicUsize,
    ledger: Mutex<Ledger>,
    retired: AtomicBool,
    /// A connection came or went, or the peer was heard of.
    pub(super) changed: Notify,
}

impl Peer {
    /// A peer with its tasks: a timer a lane and, if `watched`, one that keeps the control connection.
    pub(super) fn start(shared: &Arc<Shared>, node: NodeId, address: SocketAddr, watched: bool) -> Arc<Self> {
        let lanes = [Lane::Control, Lane::Interactive, Lane::Bulk, Lane::Bulk];
        let peer = Arc::new(Self {
            node,
            slots: lanes.map(Slot::new),
            next_bulk: AtomicUsize::new(0),
            ledger: Mutex::new(Ledger::new(node, address, shared.clock.now())),
            retired: AtomicBool::new(false),
            changed: Notify::new(),
        });
        for slot in &peer.slots {
            let (slot, shared_too, peer) = (slot.clone(), shared.clone(), peer.clone());
            shared.runtime.spawn(async move { slot.run_timer(&shared_too, &peer).await });
        }
        if watched {
            let (peer, shared_too) = (peer.clone(), shared.clone());
            shared.runtime.spawn(async move { peer.watch(&shared_too).await });
        }
        peer
    }

    pub(super) const fn expected(&self) -> Expected {
        Expected::Node(self.node)
    }

    /// Where a request of a lane goes.
    pub(super) fn slot(&self, lane: Lane) -> &Arc<Slot> {
        match lane {
            Lane::Control => &self.slots[0],
            Lane::Interactive => &self.slots[1],
            Lane::Bulk => &self.slots[2 + self.next_bulk.fetch_add(1, Ordering::Relaxed) % BULK_CONNECTIONS],
        }
    }

    pub(super) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        // No code that can panic runs under this lock; were it to, the ledger is still whole.
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn dialled(&self, shared: &Arc<Shared>, attempt: Attempt, welcome: &Welcome) {
        let now = shared.clock.now();
        let (came_up, came_back) = {
            let mut ledger = self.ledger();
            let known = ledger.state().incarnation.0 != 0 || !ledger.state().software.is_empty();
            let came_up = ledger.dialled(attempt, now, welcome.incarnation, welcome.software.clone());
            (came_up, came_up && known)
        };
        self.close_older(shared, welcome.incarnation);
        count(&shared.counters.handshakes);
        if came_back {
            count(&shared.counters.reconnects);
        }
        if came_up {
            tracing::info!(peer = %self.node, software = %welcome.software, "peer is up");
            self.publish(shared);
        }
    }

    pub(super) fn dial_failed(&self, shared: &Shared, attempt: Attempt, reason: String) {
        let (now, jitter) = (shared.clock.now(), shared.jitter());
        let mut ledger = self.ledger();
        if ledger.state().failures == 0 {
            tracing::info!(peer = %self.node, %reason, "peer cannot be reached");
        }
        ledger.dial_failed(attempt, now, jitter, reason);
    }

    pub(super) fn lost(&self, shared: &Shared, reason: String) {
        let (now, jitter) = (shared.clock.now(), shared.jitter());
        if self.ledger().lost(now, jitter, reason.clone()) {
            tracing::info!(peer = %self.node, %reason, "peer is down");
            self.publish(shared);
        }
    }

    /// The peer dialled us: it is there.
    pub(super) fn heard(&self) {
        self.ledger().heard();
        self.changed.notify_waiters();
    }

    /// So that a restart is noticed as soon as it is heard of, not after a silence.
    pub(super) fn close_older(&self, shared: &Arc<Shared>, incarnation: Incarnation) {
        for slot in &self.slots {
            slot.close_older(shared, incarnation);
        }
    }

    /// No longer a peer. Its calls end with its connections.
    pub(super) fn retire(&self, shared: &Shared) {
        self.retired.store(true, Ordering::Release);
        for slot in &self.slots {
            slot.close();
        }
        self.changed.notify_waiters();
        shared.up.send_if_modified(|up| up.remove(&self.node));
    }

    pub(super) fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Acquire)
    }

    pub(super) fn in_flight(&self) -> usize {
        self.slots.iter().map(|slot| slot.in_flight()).sum()
    }

    /// Keeps the control connection, so that this node knows whether the peer is there before it needs it.
    async fn watch(self: &Arc<Self>, shared: &Arc<Shared>) {
        while !self.is_retired() {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let now = shared.clock.now();
            let control = &self.slots[0];
            match control.begin(self, now) {
                Begin::Dial(attempt) => control.run(shared, self, attempt).await,
                Begin::Busy => changed.await,
                Begin::Later(retry_at) => {
                    // Past its time: a probe of another lane is under way and will tell; look again all the same.
                    let pause = retry_at.after(now).max(core::time::Duration::from_millis(BACK_OFF_MIN_MS));
                    tokio::select! {
                        () = tokio::time::sleep(pause) => {}
                        () = changed => {}
                    }
                }
            }
        }
    }

    fn publish(&self, shared: &Shared) {
        shared.up.send_if_modified(|up| {
            // Looked at under the lock of the set, so that the last to write has seen the last change. One that is
            // retired has nothing to say: another may have taken its place.
            if self.is_retired() {
                false
            } else if self.ledger().state().up {
                up.insert(self.node)
            } else {
                up.remove(&self.node)
            }
        });
    }
}

/// One connection is one task, at most a core.
const BULK_CONNECTIONS: usize = 2;
