//! Clocks that certificates do not fit. Whoever looks for the reason why a node stays out finds it in words.

use std::{collections::BTreeMap, net::SocketAddr};

use mesh_core::{Error, ErrorKind, time::UnixMillis};
use quinn::ConnectionError;

/// What stands between this node and others, by their addresses.
#[derive(Debug, Default)]
pub(super) struct Complaints(BTreeMap<SocketAddr, Error>);

impl Complaints {
    /// A connection failed for a date. Said in the log the first time.
    pub(super) fn add(&mut self, address: SocketAddr, error: &Error) {
        if self.0.len() >= COMPLAINTS_MAX && !self.0.contains_key(&address) {
            return;
        }
        let before = self.0.insert(address, error.clone());
        if before.is_none_or(|before| before.message() != error.message()) {
            tracing::warn!(peer = %address, %error, "a certificate and a clock do not fit");
        }
    }

    /// A connection succeeded.
    pub(super) fn settled(&mut self, address: SocketAddr) {
        if self.0.remove(&address).is_some() {
            tracing::info!(peer = %address, "its certificate and the clocks fit again");
        }
    }

    /// What there is about the first of these that there is something about.
    pub(super) fn about(&self, mut addresses: impl Iterator<Item = SocketAddr>) -> Option<Error> {
        addresses.find_map(|address| Some(self.0.get(&address)?.clone().with("peer", address)))
    }
}

/// What a failed connection has to do with dates; `None` if nothing.
pub(super) fn fault(reason: &ConnectionError, now: UnixMillis) -> Option<Error> {
    let (message, why) = match reason {
        ConnectionError::TransportError(error) if u64::from(error.code) == EXPIRED => (
            "the peer's certificate is not valid by this machine's clock: set this clock, or the peer's and issue anew",
            error.reason.clone(),
        ),
        ConnectionError::ConnectionClosed(close) if u64::from(close.error_code) == EXPIRED => (
            "this node's certificate is not valid by the peer's clock: set the peer's clock, or this one and issue anew",
            close.to_string(),
        ),
        _ => return None,
    };
    Some(Error::new(ErrorKind::Unreachable, message).with("clock", now).with("why", why))
}

/// TLS's alert `certificate_expired`, as QUIC has it; also said of certificates that are not yet valid, too.
const EXPIRED: u64 = 0x100 + 45;
/// Peers that are complained about at most.
const COMPLAINTS_MAX: usize = 256;
