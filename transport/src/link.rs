//! What every kind of link can tell about itself: the state of peers, and counters.

use std::net::SocketAddr;

use mesh_core::{
    figures::{Counter, Figures as _, Level, Page},
    id::Incarnation,
    time::Instant,
};

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

mesh_core::figures! {
    /// The live form of [`LinkStats`].
    pub(crate) struct Counters as "mesh_link" {
        /// Connections between nodes, or with clients, that were made and greeted, both ways.
        pub(crate) handshakes: Counter,
        /// Connections that were refused to others: by TLS, by version, cluster or name.
        pub(crate) handshake_refusals: Counter,
        /// Attempts of this node to connect that came to nothing.
        pub(crate) dial_failures: Counter,
        /// Connections of this node that broke or were closed.
        pub(crate) lost: Counter,
        /// Connections of this node that were made to a peer that had been lost before.
        pub(crate) reconnects: Counter,
        /// Frames that broke the rules; each closed its connection.
        pub(crate) bad_frames: Counter,
        /// Requests that came twice by a link and were dropped.
        pub(crate) duplicates: Counter,
        /// Requests turned away because a link had no credit left.
        pub(crate) overloads: Counter,
        /// Requests that were refused because the other end's role may not ask that.
        pub(crate) denials: Counter,
        /// Requests and answers that this build did not know: of a newer one.
        pub(crate) unread: Counter,
        /// Requests sent by links.
        pub(crate) sent_requests: Counter,
        /// Requests brought in by links.
        pub(crate) served_requests: Counter,
        /// Bytes of frames sent by links: heads and payloads.
        pub(crate) sent_bytes: Counter,
        /// Bytes of frames received by links: heads and payloads.
        pub(crate) received_bytes: Counter,
    }

    /// How peers look from here.
    pub(crate) struct Peers as "mesh_link" {
        /// Other nodes that this one keeps links to.
        pub(crate) peers: Level,
        /// Of those, how many have a working link.
        pub(crate) peers_up: Level,
    }
}

impl Counters {
    pub(crate) fn snapshot(&self) -> LinkStats {
        LinkStats {
            handshakes: self.handshakes.value(),
            handshake_refusals: self.handshake_refusals.value(),
            dial_failures: self.dial_failures.value(),
            links_lost: self.lost.value(),
            reconnects: self.reconnects.value(),
            bad_frames: self.bad_frames.value(),
            duplicates: self.duplicates.value(),
            overloads: self.overloads.value(),
            denials: self.denials.value(),
            unread: self.unread.value(),
            requests_sent: self.sent_requests.value(),
            requests_served: self.served_requests.value(),
            bytes_sent: self.sent_bytes.value(),
            bytes_received: self.received_bytes.value(),
        }
    }
}

/// Names what a link tells, for one that counts nothing.
pub fn declare(page: &mut Page) {
    Counters::declare(page);
    Peers::declare(page);
}

/// Counts one.
pub(crate) fn count(counter: &Counter) {
    counter.count();
}

/// Counts many.
pub(crate) fn add(counter: &Counter, many: usize) {
    counter.add(many as u64);
}
