//! What every kind of link can tell about itself: the state of peers, and counters.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicU64, Ordering},
};

use mesh_core::{id::Incarnation, time::Instant};

/// How a peer looks from here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerState {
    /// Where it is dialled.
    pub address: SocketAddr,
    /// Whether at least one connection to it works.
    pub up: bool,
    /// Working connections to it.
    pub connections: u32,
    /// Since when it has been up, or down, on this node's clock.
    pub since: Instant,
    /// Attempts that failed since the last one that did not.
    pub failures: u32,
    /// Why it is down or why the last attempt failed, for people.
    pub reason: Option<String>,
    /// Its start, as its last Welcome said; 0 before the first.
    pub incarnation: Incarnation,
    /// Its build, as its last Welcome said, for people.
    pub software: String,
}

/// Counters since the link was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkStats {
    /// Connections that were made and greeted, both ways.
    pub handshakes: u64,
    /// Connections that were refused to others: by TLS, by version, cluster or name.
    pub handshake_refusals: u64,
    /// Attempts of ours that came to nothing.
    pub dial_failures: u64,
    /// Connections of ours that broke or were closed.
    pub links_lost: u64,
    /// Connections of ours that were made to a peer that had been lost before.
    pub reconnects: u64,
    /// Frames that broke the rules; each closed its connection.
    pub bad_frames: u64,
    /// Requests that came twice and were dropped.
    pub duplicates: u64,
    /// Requests turned away because the link had no credit left.
    pub overloads: u64,
    /// Requests that were refused because the other end's role may not ask that.
    pub denials: u64,
    /// Requests and answers that this build did not know: of a newer one.
    pub unread: u64,
    /// Requests sent.
    pub requests_sent: u64,
    /// Requests brought in.
    pub requests_served: u64,
    /// Bytes of frames sent: heads and payloads.
    pub bytes_sent: u64,
    /// Bytes of frames received.
    pub bytes_received: u64,
}

macro_rules! counters {
    ($($name:ident),* $(,)?) => {
        /// The live form of [`LinkStats`].
        #[derive(Debug, Default)]
        pub(crate) struct Counters { $(pub(crate) $name: AtomicU64,)* }

        impl Counters {
            pub(crate) fn snapshot(&self) -> LinkStats {
                LinkStats { $($name: self.$name.load(Ordering::Relaxed),)* }
            }
        }
    };
}

counters!(
    handshakes,
    handshake_refusals,
    dial_failures,
    links_lost,
    reconnects,
    bad_frames,
    duplicates,
    overloads,
    denials,
    unread,
    requests_sent,
    requests_served,
    bytes_sent,
    bytes_received,
);

/// Counts one.
pub(crate) fn count(counter: &AtomicU64) {
    add(counter, 1);
}

/// Counts many.
pub(crate) fn add(counter: &AtomicU64, many: usize) {
    counter.fetch_add(many as u64, Ordering::Relaxed);
}
