//! Who may begin a handshake, without I/O. A handshake costs a signature and its buffers before anybody has shown a
//! certificate, so those that are unfinished are few, whatever comes in.
//!
//! ```text
//!   Initial ── address proven? ── no ─── few are open ──────► admit
//!                   │                    else ──────────────► Retry: costs no state, brings back a proven address
//!                  yes ── room ─────────────────────────────► admit
//!                         full ── somebody gives way ───────► admit, close that one
//!                                 all have come just now ───► ignore: a client says it again a little later
//! ```

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr},
    time::Duration,
};

use mesh_core::time::Instant;

/// The handshakes that are not finished. `T` is what closes one.
#[derive(Debug)]
pub(super) struct Door<T> {
    /// By their numbers, so the oldest first.
    unfinished: BTreeMap<u64, Handshake<T>>,
    next: u64,
}

#[derive(Debug)]
struct Handshake<T> {
    from: IpAddr,
    proven: bool,
    since: Instant,
    closer: T,
}

/// What becomes of one that wants to begin a handshake.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict<T> {
    /// Let it prove its address first.
    Retry,
    /// Say nothing.
    Ignore,
    /// Go on with it, under this number; and close the one that gives way.
    Admit { number: u64, gives_way: Option<T> },
}

impl<T> Default for Door<T> {
    fn default() -> Self {
        Self { unfinished: BTreeMap::new(), next: 0 }
    }
}

impl<T> Door<T> {
    /// Somebody knocks. `proven`: it has shown that it receives what is sent to `from`.
    pub(super) fn knock(&mut self, now: Instant, from: IpAddr, proven: bool, closer: T) -> Verdict<T> {
        let from = site(from);
        let full = self.unfinished.len() >= UNFINISHED_MAX;
        if !proven && (full || self.unfinished.values().filter(|one| !one.proven).count() >= UNPROVEN_MAX) {
            return Verdict::Retry;
        }
        let gives_way = match full.then(|| self.gives_way(now, from)) {
            None => None,
            Some(None) => return Verdict::Ignore,
            Some(Some(number)) => self.unfinished.remove(&number).map(|one| one.closer),
        };
        let number = self.next;
        self.next += 1;
        self.unfinished.insert(number, Handshake { from, proven, since: now, closer });
        Verdict::Admit { number, gives_way }
    }

    /// A handshake has ended, in whichever way. One that gave way: no effect.
    pub(super) fn ended(&mut self, number: u64) {
        self.unfinished.remove(&number);
    }

    /// Who makes room for one that comes from `from`: whoever has proven nothing; else the oldest of the address with
    /// the most, if the newcomer's has clearly fewer; else the oldest of all, once it has had its time.
    fn gives_way(&self, now: Instant, from: IpAddr) -> Option<u64> {
        if let Some((number, _)) = self.unfinished.iter().find(|(_, one)| !one.proven) {
            return Some(*number);
        }
        let mut counts: BTreeMap<IpAddr, usize> = BTreeMap::new();
        for one in self.unfinished.values() {
            *counts.entry(one.from).or_default() += 1;
        }
        let (most, count) = counts.iter().max_by_key(|(_, count)| **count)?;
        if counts.get(&from).copied().unwrap_or(0) + 1 < *count {
            return self.unfinished.iter().find(|(_, one)| one.from == *most).map(|(number, _)| *number);
        }
        let (number, oldest) = self.unfinished.first_key_value()?;
        (now.after(oldest.since) >= UNDISTURBED).then_some(*number)
    }
}

/// Whoever has one IPv6 address has its whole network.
fn site(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        address => address,
    }
}

/// Unfinished handshakes at most.
pub(super) const UNFINISHED_MAX: usize = 128;
/// Unfinished handshakes at most from addresses that are not proven: so many peers may come at once and are spared a
/// round trip.
pub(super) const UNPROVEN_MAX: usize = 16;
/// For so long a handshake does not give way to others of its address. With [`UNFINISHED_MAX`] it bounds how many are
/// begun in a second, and so what strangers cost.
const UNDISTURBED: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn host(number: u8) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(10, 0, 0, number))
    }

    fn at(millis: u64) -> Instant {
        Instant(millis * 1_000_000)
    }

    fn full(of: impl Fn(usize) -> IpAddr) -> Door<usize> {
        let mut door = Door::default();
        for closer in 0..UNFINISHED_MAX {
            let verdict = door.knock(at(0), of(closer), true, closer);
            assert_eq!(verdict, Verdict::Admit { number: closer as u64, gives_way: None });
        }
        door
    }

    #[test]
    fn few_may_come_unproven_and_the_rest_must_prove_their_address() {
        let mut door = Door::default();
        for number in 0..UNPROVEN_MAX as u64 {
            assert_eq!(door.knock(at(0), host(1), false, 0), Verdict::Admit { number, gives_way: None });
        }
        assert_eq!(door.knock(at(60_000), host(2), false, 0), Verdict::Retry, "of any address, for ever");
        let admitted = Verdict::Admit { number: UNPROVEN_MAX as u64, gives_way: None };
        assert_eq!(door.knock(at(0), host(1), true, 0), admitted, "once proven it comes in");
        door.ended(3);
        let admitted = Verdict::Admit { number: UNPROVEN_MAX as u64 + 1, gives_way: None };
        assert_eq!(door.knock(at(0), host(1), false, 0), admitted, "one has ended");
    }

    #[test]
    fn whoever_has_proven_nothing_gives_way_first() {
        let mut door = Door::default();
        door.knock(at(0), host(1), true, 1000);
        door.knock(at(0), host(1), false, 2000);
        for closer in 2..UNFINISHED_MAX {
            door.knock(at(0), host(1), true, closer);
        }
        let number = UNFINISHED_MAX as u64;
        assert_eq!(door.knock(at(0), host(1), true, 0), Verdict::Admit { number, gives_way: Some(2000) });
        assert_eq!(door.knock(at(0), host(1), false, 0), Verdict::Retry, "nobody gives way to the unproven");
    }

    #[test]
    fn a_full_door_takes_from_the_address_that_has_the_most() {
        let mut door = full(|closer| if closer < 10 { host(1) } else { host(2) });
        let number = UNFINISHED_MAX as u64;
        assert_eq!(door.knock(at(0), host(3), true, 0), Verdict::Admit { number, gives_way: Some(10) });
        assert_eq!(door.knock(at(0), host(1), true, 0), Verdict::Admit { number: number + 1, gives_way: Some(11) });
        assert_eq!(door.knock(at(0), host(2), true, 0), Verdict::Ignore, "its own have come just now");
    }

    #[test]
    fn of_one_address_the_oldest_gives_way_once_it_had_its_time() {
        let mut door = full(|_| host(1));
        assert_eq!(door.knock(at(499), host(1), true, 0), Verdict::Ignore);
        let number = UNFINISHED_MAX as u64;
        assert_eq!(door.knock(at(500), host(1), true, 0), Verdict::Admit { number, gives_way: Some(0) });
        // What gave way ends, too, and takes nobody with it.
        door.ended(0);
        assert_eq!(door.knock(at(500), host(1), true, 0), Verdict::Admit { number: number + 1, gives_way: Some(1) });
    }

    #[test]
    fn one_network_of_ipv6_is_one_address() {
        let address = |last| IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, last));
        assert_eq!(site(address(1)), site(address(2)));
        assert_eq!(site("::ffff:10.0.0.1".parse().unwrap()), host(1));
    }
}
