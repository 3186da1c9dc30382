//! Whether a peer is worth dialling, without I/O: its address, its state and its back-off.
//!
//! ```text
//!             may_dial: to everybody                 may_dial: not before retry_at; if it is down, to one at a time
//!   new -> [ untried or up, failures = 0 ] --dial_failed, last one lost--> [ failing ] --dialled--> back
//! ```
//!
//! A peer is *up* while at least one connection to it works. So that nobody waits behind a dead peer, everything but
//! the one probe fails at once until the probe succeeds.

use std::net::SocketAddr;

use mesh_core::{
    Error, ErrorKind,
    id::{Incarnation, NodeId},
    time::Instant,
};

use crate::link::PeerState;

/// One peer.
#[derive(Debug)]
pub struct Ledger {
    node: NodeId,
    state: PeerState,
    retry_at: Instant,
    probing: bool,
}

/// Permission to dial once; the end must be told: [`Ledger::dialled`] or [`Ledger::dial_failed`].
#[derive(Debug, PartialEq, Eq)]
#[must_use = "the end of an attempt must be told to the ledger"]
pub struct Attempt {
    /// Where.
    pub address: SocketAddr,
    probe: bool,
}

impl Ledger {
    /// A peer that was never dialled.
    #[must_use]
    pub const fn new(node: NodeId, address: SocketAddr, now: Instant) -> Self {
        let state = PeerState {
            address,
            up: false,
            connections: 0,
            since: now,
            failures: 0,
            reason: None,
            incarnation: Incarnation(0),
            software: String::new(),
        };
        Self { node, state, retry_at: Instant(0), probing: false }
    }

    /// How it looks.
    #[must_use]
    pub const fn state(&self) -> &PeerState {
        &self.state
    }

    /// When a probe may be made; `Instant(0)` if nothing stands in the way.
    #[must_use]
    pub const fn retry_at(&self) -> Instant {
        self.retry_at
    }

    /// Asks to dial.
    ///
    /// # Errors
    /// At once, while backing off or while another probe of a peer that is down is under way: `Unreachable`, or
    /// `Overloaded` if it is there by other connections, and only takes no further one.
    pub fn may_dial(&mut self, now: Instant) -> Result<Attempt, Error> {
        let probe = self.state.failures > 0 && !self.state.up;
        if self.state.failures > 0 && (now < self.retry_at || (probe && self.probing)) {
            return Err(if self.state.up { self.full() } else { self.down() });
        }
        self.probing |= probe;
        Ok(Attempt { address: self.state.address, probe })
    }

    /// What to tell those who are not to wait for a probe; `None` if the peer is not known to be down.
    #[must_use]
    pub fn refusal(&self) -> Option<Error> {
        (self.state.failures > 0 && !self.state.up).then(|| self.down())
    }

    fn full(&self) -> Error {
        let reason = self.state.reason.as_deref().unwrap_or("it failed before");
        Error::new(ErrorKind::Overloaded, "the peer is there and takes no further connection now: send again later")
            .with("peer", self.node)
            .with("reason", reason)
    }

    fn down(&self) -> Error {
        Error::new(ErrorKind::Unreachable, "the peer cannot be reached now: ask another, or try again later")
            .with("peer", self.node)
            .with("reason", self.state.reason.as_deref().unwrap_or("it failed before"))
    }

    /// An attempt succeeded. Says whether the peer has come up by it.
    pub fn dialled(&mut self, attempt: Attempt, now: Instant, incarnation: Incarnation, software: String) -> bool {
        self.probing &= !attempt.probe;
        self.state.failures = 0;
        self.state.reason = None;
        self.retry_at = Instant(0);
        self.state.connections += 1;
        self.state.incarnation = incarnation;
        self.state.software = software;
        let came_up = !self.state.up;
        if came_up {
            self.state.up = true;
            self.state.since = now;
        }
        came_up
    }

    /// An attempt failed. `jitter` is random.
    pub fn dial_failed(&mut self, attempt: Attempt, now: Instant, jitter: u64, reason: String) {
        self.probing &= !attempt.probe;
        self.back_off(now, jitter, reason);
    }

    /// A connection that had succeeded broke. Says whether the peer has gone down by it.
    pub fn lost(&mut self, now: Instant, jitter: u64, reason: String) -> bool {
        self.state.connections -= 1;
        let went_down = self.state.connections == 0;
        if went_down {
            self.back_off(now, jitter, reason);
            self.state.up = false;
            self.state.since = now;
        } else {
            // It is there, by its other connections: nobody need wait before dialling again.
            self.state.reason = Some(reason);
        }
        went_down
    }

    /// The peer was heard of: it dialled us. A probe is worth making now.
    pub const fn heard(&mut self) {
        self.retry_at = Instant(0);
    }

    fn back_off(&mut self, now: Instant, jitter: u64, reason: String) {
        self.state.failures = self.state.failures.saturating_add(1);
        self.state.reason = Some(reason);
        let doublings = (self.state.failures - 1).min(16);
        let span = (BACK_OFF_MIN_MS << doublings).min(BACK_OFF_MAX_MS);
        // Between half and all of the span, so that many who lost one peer do not return as one.
        let span = span / 2 + jitter % (span / 2 + 1);
        self.retry_at = now + core::time::Duration::from_millis(span);
    }
}

/// The first pause at most.
pub const BACK_OFF_MIN_MS: u64 = 50;
/// Any pause at most.
pub const BACK_OFF_MAX_MS: u64 = 2000;

const _: () = assert!(BACK_OFF_MIN_MS >= 2 && BACK_OFF_MIN_MS << 16 > BACK_OFF_MAX_MS);

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn ledger() -> Ledger {
        Ledger::new(NodeId(3), SocketAddr::from(([127, 0, 0, 1], 1)), Instant(0))
    }

    fn ms(millis: u64) -> Instant {
        Instant(0) + Duration::from_millis(millis)
    }

    fn up(ledger: &mut Ledger, now: Instant) -> bool {
        let attempt = ledger.may_dial(now).unwrap();
        ledger.dialled(attempt, now, Incarnation(1), "mesh".into())
    }

    #[test]
    fn an_untried_peer_may_be_dialled_by_many_at_once() {
        let mut ledger = ledger();
        assert!(ledger.may_dial(ms(0)).is_ok() && ledger.may_dial(ms(0)).is_ok());
    }

    #[test]
    fn comes_up_with_the_first_connection_and_goes_down_with_the_last() {
        let mut ledger = ledger();
        assert!(up(&mut ledger, ms(1)));
        assert!(!up(&mut ledger, ms(2)));
        assert_eq!((ledger.state().up, ledger.state().connections, ledger.state().since), (true, 2, ms(1)));
        assert!(!ledger.lost(ms(3), 0, "cut".into()));
        assert!(ledger.state().up);
        assert!(ledger.lost(ms(4), 0, "cut".into()));
        assert_eq!((ledger.state().up, ledger.state().since), (false, ms(4)));
        assert_eq!(ledger.state().reason.as_deref(), Some("cut"));
    }

    #[test]
    fn backs_off_longer_each_time_up_to_a_bound_and_starts_over_after_success() {
        let mut ledger = ledger();
        let mut now = ms(0);
        let mut pauses = Vec::new();
        for _ in 0..8 {
            let attempt = ledger.may_dial(now).unwrap();
            ledger.dial_failed(attempt, now, u64::MAX, "no".into());
            let error = ledger.may_dial(now).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unreachable);
            pauses.push(ledger.retry_at().since(now).as_millis() as u64);
            now = ledger.retry_at();
        }
        for (at, pause) in pauses.iter().enumerate() {
            let whole = (BACK_OFF_MIN_MS << at).min(BACK_OFF_MAX_MS);
            assert!((whole / 2..=whole).contains(pause), "{pauses:?}");
        }
        assert!(up(&mut ledger, now));
        ledger.lost(now, 0, "cut".into());
        assert_eq!(ledger.retry_at().since(now), Duration::from_millis(BACK_OFF_MIN_MS / 2));
    }

    /// `Unreachable` is proof that a peer is lost, for who looks after it.
    #[test]
    fn a_peer_that_is_there_by_another_connection_is_not_unreachable() {
        let mut ledger = ledger();
        let (first, second) = (ledger.may_dial(ms(0)).unwrap(), ledger.may_dial(ms(0)).unwrap());
        assert!(ledger.dialled(first, ms(1), Incarnation(1), "mesh".into()));
        ledger.dial_failed(second, ms(2), 0, "no".into());
        assert_eq!(ledger.may_dial(ms(3)).unwrap_err().kind(), ErrorKind::Overloaded);
        ledger.lost(ms(4), 0, "cut".into());
        assert_eq!(ledger.may_dial(ms(5)).unwrap_err().kind(), ErrorKind::Unreachable);
    }

    #[test]
    fn one_probe_at_a_time_while_failing() {
        let mut ledger = ledger();
        let attempt = ledger.may_dial(ms(0)).unwrap();
        ledger.dial_failed(attempt, ms(0), 0, "no".into());
        let probe = ledger.may_dial(ms(1000)).unwrap();
        assert!(ledger.may_dial(ms(1000)).is_err());
        ledger.dial_failed(probe, ms(1001), 0, "no".into());
        assert!(ledger.may_dial(ms(1001)).is_err());
        let probe = ledger.may_dial(ms(5000)).unwrap();
        assert!(ledger.dialled(probe, ms(5000), Incarnation(2), String::new()));
        assert!(ledger.may_dial(ms(5000)).is_ok() && ledger.may_dial(ms(5000)).is_ok());
    }

    #[test]
    fn a_connection_lost_while_others_work_stops_nobody() {
        let mut ledger = ledger();
        up(&mut ledger, ms(0));
        up(&mut ledger, ms(0));
        ledger.lost(ms(1), 0, "cut".into());
        let attempt = ledger.may_dial(ms(1)).unwrap();
        assert!(ledger.refusal().is_none());
        ledger.dial_failed(attempt, ms(1), 0, "no".into());
        assert!(ledger.refusal().is_none(), "who waits for a dial of an up peer may go on waiting");
        assert!(ledger.may_dial(ms(1)).is_err(), "but attempts keep their distance");
        assert!(ledger.may_dial(ms(1000)).is_ok() && ledger.may_dial(ms(1000)).is_ok());
        ledger.lost(ms(2000), 0, "cut".into());
        assert!(ledger.refusal().is_some());
    }

    #[test]
    fn a_peer_that_was_heard_of_may_be_probed_at_once() {
        let mut ledger = ledger();
        let attempt = ledger.may_dial(ms(0)).unwrap();
        ledger.dial_failed(attempt, ms(0), 0, "no".into());
        assert!(ledger.may_dial(ms(1)).is_err());
        ledger.heard();
        assert!(ledger.may_dial(ms(1)).is_ok());
    }

    #[test]
    fn a_late_failure_of_a_first_attempt_does_not_end_the_probe_of_another() {
        let mut ledger = ledger();
        let early = ledger.may_dial(ms(0)).unwrap();
        let late = ledger.may_dial(ms(0)).unwrap();
        ledger.dial_failed(early, ms(0), 0, "no".into());
        let probe = ledger.may_dial(ms(1000)).unwrap();
        ledger.dial_failed(late, ms(1000), 0, "no".into());
        assert!(ledger.may_dial(ms(4000)).is_err(), "the probe is still under way");
        ledger.dial_failed(probe, ms(4000), 0, "no".into());
        assert!(ledger.may_dial(ms(9000)).is_ok());
    }
}
