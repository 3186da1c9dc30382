//! Links between nodes. It owns what a link is like, the sessions of requests on it, and the filters that let every
//! request in once; when frames arrive is the world's business.
//!
//! A session stands between a caller and one life of a callee. Below it frames are delayed, doubled and lost; at it a
//! request id is let in once, and a call ends exactly once: answered, timed out, or lost with the session.

use core::{ops::Range, time::Duration};
use std::collections::{BTreeMap, BTreeSet};

use mesh_core::id::NodeId;

use crate::{random::Stream, world::Place};

/// How links behave, apart from single faults.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkWeather {
    /// How long a frame takes.
    pub delay: Range<Duration>,
    /// Frames in a thousand that take up to a hundred times as long.
    pub straggler_per_mille: u32,
    /// Frames in a thousand that never arrive.
    pub loss_per_mille: u32,
    /// Frames in a thousand that arrive twice.
    pub duplicate_per_mille: u32,
}

impl NetworkWeather {
    /// Fast links that lose nothing.
    #[must_use]
    pub const fn calm() -> Self {
        Self {
            delay: Duration::from_micros(30)..Duration::from_micros(150),
            straggler_per_mille: 0,
            loss_per_mille: 0,
            duplicate_per_mille: 0,
        }
    }
}

/// How long a peer may be silent before a session over the link is given up.
pub const SILENCE: Range<Duration> = Duration::from_millis(300)..Duration::from_millis(2500);

/// What becomes of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It arrives, once or twice, after so long.
    Arrives(Duration, Option<Duration>),
    /// It never arrives; the sender gives the session up after so long.
    Lost(Duration),
}

/// Every link, session and filter.
#[derive(Debug)]
pub struct Network {
    seed: u64,
    weather: NetworkWeather,
    links: BTreeMap<(NodeId, NodeId), Link>,
    sessions: BTreeMap<(NodeId, NodeId), Session>,
    /// By callee and caller.
    filters: BTreeMap<(NodeId, NodeId), Filter>,
    next_session: u64,
    /// Copies of requests that a filter has dropped.
    pub duplicates_dropped: u64,
    /// Whether filters let everything in: a planted bug.
    pub unfiltered: bool,
}

/// One direction.
#[derive(Debug)]
struct Link {
    stream: Stream,
    cut: bool,
    slow: u32,
}

/// A caller's side.
#[derive(Debug)]
pub struct Session {
    /// Unique in the world.
    pub number: u64,
    /// Which life of the callee it is with.
    pub peer_boot: u64,
    next: u64,
    outstanding: BTreeMap<u64, Place>,
}

/// A callee's side: which requests of a session were let in.
#[derive(Debug, Default)]
struct Filter {
    session: u64,
    /// All ids below this were let in.
    below: u64,
    /// And these.
    above: BTreeSet<u64>,
}

impl Network {
    /// Links of this seed.
    #[must_use]
    pub fn new(seed: u64, weather: NetworkWeather) -> Self {
        Self {
            seed,
            weather,
            links: BTreeMap::new(),
            sessions: BTreeMap::new(),
            filters: BTreeMap::new(),
            next_session: 0,
            duplicates_dropped: 0,
            unfiltered: false,
        }
    }

    fn link(&mut self, from: NodeId, to: NodeId) -> &mut Link {
        let seed = self.seed;
        self.links.entry((from, to)).or_insert_with(|| {
            let stream = Stream::new(seed, "link", (from.0 << 32) | to.0);
            Link { stream, cut: false, slow: 1 }
        })
    }

    /// From now on.
    pub fn set_weather(&mut self, weather: NetworkWeather) {
        self.weather = weather;
    }

    /// Cuts or mends one direction.
    pub fn cut(&mut self, from: NodeId, to: NodeId, cut: bool) {
        self.link(from, to).cut = cut;
    }

    /// Frames in one direction take so many times as long.
    pub fn slow_down(&mut self, from: NodeId, to: NodeId, times: u32) {
        self.link(from, to).slow = times;
    }

    /// Ends every single fault.
    pub fn heal(&mut self) {
        self.links.values_mut().for_each(|link| (link.cut, link.slow) = (false, 1));
    }

    /// Whether frames can get from one to the other.
    pub fn is_open(&mut self, from: NodeId, to: NodeId) -> bool {
        !self.link(from, to).cut
    }

    /// Sends a frame.
    pub fn carry(&mut self, from: NodeId, to: NodeId) -> Fate {
        let NetworkWeather { delay, straggler_per_mille, loss_per_mille, duplicate_per_mille } = self.weather.clone();
        let link = self.link(from, to);
        let stream = &mut link.stream;
        let (first, second) = (stream.span(&delay), stream.span(&delay));
        let late = if stream.chance(straggler_per_mille) { stream.within(1..100) as u32 } else { 1 };
        let (lost, twice) = (stream.chance(loss_per_mille), stream.chance(duplicate_per_mille));
        let silence = stream.span(&SILENCE);
        if lost || link.cut {
            Fate::Lost(silence)
        } else {
            let arrives = first * late * link.slow;
            Fate::Arrives(arrives, twice.then_some(arrives + second * link.slow))
        }
    }

    /// The session of a caller, opened with this life of the callee if there is none.
    pub fn session(&mut self, from: NodeId, to: NodeId, peer_boot: u64) -> &mut Session {
        self.sessions.entry((from, to)).or_insert_with(|| {
            self.next_session += 1;
            Session { number: self.next_session, peer_boot, next: 0, outstanding: BTreeMap::new() }
        })
    }

    /// Whether there is a session, open as far as the caller knows.
    #[must_use]
    pub fn has_session(&self, from: NodeId, to: NodeId) -> bool {
        self.sessions.contains_key(&(from, to))
    }

    /// The session that is open as far as the caller knows: its number, and of which life of the callee it is.
    #[must_use]
    pub fn open_session(&self, from: NodeId, to: NodeId) -> Option<(u64, u64)> {
        self.sessions.get(&(from, to)).map(|session| (session.number, session.peer_boot))
    }

    /// Ends a call: whoever waits for it. `None` if it has ended before, or its session has.
    pub fn settle(&mut self, from: NodeId, to: NodeId, number: u64, id: u64) -> Option<Place> {
        let session = self.sessions.get_mut(&(from, to)).filter(|session| session.number == number)?;
        session.outstanding.remove(&id)
    }

    /// Gives a session up: whoever waits on it.
    pub fn end_session(&mut self, from: NodeId, to: NodeId, number: u64) -> Vec<Place> {
        match self.sessions.get(&(from, to)) {
            Some(session) if session.number == number => {}
            _ => return Vec::new(),
        }
        let session = self.sessions.remove(&(from, to));
        session.map(|session| session.outstanding.into_values().collect()).unwrap_or_default()
    }

    /// Lets a request in, unless it is a copy of one that was let in before.
    pub fn admit(&mut self, at: NodeId, from: NodeId, session: u64, id: u64) -> bool {
        let filter = self.filters.entry((at, from)).or_default();
        if filter.session > session {
            return false;
        }
        if filter.session < session {
            *filter = Filter { session, ..Filter::default() };
        }
        let fresh = id >= filter.below && filter.above.insert(id);
        while filter.above.remove(&filter.below) {
            filter.below += 1;
        }
        self.duplicates_dropped += u64::from(!fresh);
        fresh || self.unfiltered
    }

    /// A node is gone: its sessions and filters are too. Returns the sessions that others still have with it, as
    /// (caller, number).
    pub fn crash(&mut self, node: NodeId) -> Vec<(NodeId, u64)> {
        self.sessions.retain(|(from, _), _| *from != node);
        self.filters.retain(|(at, _), _| *at != node);
        self.sessions.iter().filter(|((_, to), _)| *to == node).map(|((from, _), one)| (*from, one.number)).collect()
    }

    /// Calls that wait for an answer.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        self.sessions.values().map(|session| session.outstanding.len()).sum()
    }
}

impl Session {
    /// Begins a call: its id in the session.
    pub fn begin(&mut self, caller: Place) -> u64 {
        let id = self.next;
        self.next += 1;
        self.outstanding.insert(id, caller);
        id
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: NodeId = NodeId(1);
    const B: NodeId = NodeId(2);

    #[test]
    fn a_request_is_let_in_once_in_any_order() {
        let mut network = Network::new(1, NetworkWeather::calm());
        let admitted: Vec<bool> = [2, 0, 2, 1, 0, 3, 1].iter().map(|id| network.admit(B, A, 1, *id)).collect();
        assert_eq!(admitted, [true, true, false, true, false, true, false]);
        assert_eq!(network.duplicates_dropped, 3);
        assert!(network.filters[&(B, A)].above.is_empty());
    }

    #[test]
    fn frames_of_an_ended_session_are_refused() {
        let mut network = Network::new(1, NetworkWeather::calm());
        assert!(network.admit(B, A, 1, 0));
        assert!(network.admit(B, A, 2, 0));
        assert!(!network.admit(B, A, 1, 1));
    }

    #[test]
    fn a_call_ends_once() {
        let mut network = Network::new(1, NetworkWeather::calm());
        let session = network.session(A, B, 1);
        let (number, id) = (session.number, session.begin(Place::default()));
        let second = network.session(A, B, 1).begin(Place::default());
        assert_eq!(network.settle(A, B, number, id), Some(Place::default()));
        assert_eq!(network.settle(A, B, number, id), None);
        assert_eq!(network.end_session(A, B, number), [Place::default()]);
        assert_eq!(network.settle(A, B, number, second), None);
        assert_eq!(network.outstanding(), 0);
    }

    #[test]
    fn a_cut_is_one_way() {
        let mut network = Network::new(1, NetworkWeather::calm());
        network.cut(A, B, true);
        assert!(matches!(network.carry(A, B), Fate::Lost(_)));
        assert!(matches!(network.carry(B, A), Fate::Arrives(_, None)));
        network.heal();
        assert!(matches!(network.carry(A, B), Fate::Arrives(_, None)));
    }
}
