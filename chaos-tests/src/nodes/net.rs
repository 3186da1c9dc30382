//! The network: when messages arrive, and who notices what when nothing does.
//!
//! It behaves as QUIC does: what is lost is sent again, so a cut holds messages up and loses none, until the idle timeout has
//! passed; then the connection is gone, with all that is on it, and nobody is reached until the cut is healed.

use core::net::{IpAddr, SocketAddr};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use mesh_core::id::NodeId;
use mesh_transport::{End, Kind, MemoryFabric, UnderWay};

use super::{
    air::{Air, Datagram},
    time::RoomTime,
};
use crate::random::Stream;

/// How the network is, apart from its faults.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Weather {
    /// Windows that a message is under way at most, as a rule.
    pub latency: u64,
    /// So many in a thousand take longer.
    pub stragglers: u32,
    /// So many windows at most.
    pub straggling: u64,
    /// So many datagrams in a thousand are lost; messages are not, for links send them again.
    pub loss: u32,
}

/// A pair of ends between which nothing goes in one direction at least.
struct Dark {
    since: u64,
    /// The connections are gone.
    noticed: bool,
}

pub(super) struct Net {
    seed: u64,
    fabric: MemoryFabric,
    air: Option<Arc<Air>>,
    flying: BTreeMap<(u64, u64), Datagram>,
    time: Arc<RoomTime>,
    weather: Weather,
    idle: u64,
    /// One for each direction.
    dice: BTreeMap<(End, End), Stream>,
    /// Messages up to here have been given their time.
    seen: u64,
    coming: BTreeMap<(u64, u64), UnderWay>,
    held: BTreeMap<u64, UnderWay>,
    /// Directions in which nothing goes.
    /// How many faults each is cut by.
    cuts: BTreeMap<(End, End), u32>,
    /// Ends that sleep.
    asleep: BTreeSet<End>,
    /// Every end that there is.
    ends: BTreeSet<End>,
    dark: BTreeMap<(End, End), Dark>,
    /// Pairs that find each other again then.
    healing: BTreeMap<(End, End), u64>,
    /// Starts whose end is noticed then.
    vanished: Vec<(u64, u64)>,
}

impl Net {
    pub(super) fn new(
        seed: u64,
        (fabric, air): (MemoryFabric, Option<Arc<Air>>),
        time: Arc<RoomTime>,
        weather: Weather,
        idle: u64,
    ) -> Self {
        Self {
            seed,
            fabric,
            air,
            flying: BTreeMap::new(),
            time,
            weather,
            idle,
            dice: BTreeMap::new(),
            seen: 0,
            coming: BTreeMap::new(),
            held: BTreeMap::new(),
            cuts: BTreeMap::new(),
            asleep: BTreeSet::new(),
            ends: BTreeSet::new(),
            dark: BTreeMap::new(),
            healing: BTreeMap::new(),
            vanished: Vec::new(),
        }
    }

    pub(super) fn add(&mut self, end: End) {
        self.ends.insert(end);
    }

    /// Nothing goes from one end to another any more.
    pub(super) fn cut(&mut self, from: End, to: End) {
        *self.cuts.entry((from, to)).or_default() += 1;
        self.look();
    }

    /// It does again, as far as this cut is concerned.
    pub(super) fn heal(&mut self, from: End, to: End) {
        if let Some(cuts) = self.cuts.get_mut(&(from, to)) {
            *cuts -= 1;
        }
        self.cuts.retain(|_, cuts| *cuts > 0);
        self.look();
    }

    pub(super) fn heal_all(&mut self) {
        self.cuts.clear();
        self.look();
    }

    /// An end takes nothing off its socket, or does again.
    pub(super) fn sleeps(&mut self, end: End, asleep: bool) {
        if asleep {
            self.asleep.insert(end);
        } else {
            self.asleep.remove(&end);
        }
        self.look();
    }

    /// A start is gone without a word: those who are connected to it notice it by its silence.
    pub(super) fn vanished(&mut self, start: u64) {
        self.vanished.push((self.time.windows() + self.idle, start));
    }

    /// Everything from or to a node that nobody else is asked about.
    pub(super) fn others(&self, node: NodeId) -> Vec<End> {
        self.ends.iter().copied().filter(|end| *end != End::Node(node)).collect()
    }

    fn is_held(&self, message: &UnderWay) -> bool {
        self.asleep.contains(&message.to.0) || self.cuts.contains_key(&(message.from.0, message.to.0))
    }

    /// Cuts or sleepers have changed.
    fn look(&mut self) {
        let now = self.time.windows();
        let mut dark: BTreeSet<(End, End)> = self.cuts.keys().map(|(from, to)| pair(*from, *to)).collect();
        for sleeper in &self.asleep {
            dark.extend(self.ends.iter().filter(|end| *end != sleeper).map(|end| pair(*sleeper, *end)));
        }
        let light: Vec<(End, End)> = self.dark.keys().filter(|known| !dark.contains(known)).copied().collect();
        for known in light {
            if self.dark.remove(&known).is_some_and(|dark| dark.noticed) {
                let wait = self.dice(known.0, known.1).below(500);
                self.healing.insert(known, now + wait);
            }
        }
        for known in dark {
            let noticed = self.healing.remove(&known).is_some();
            self.dark.entry(known).or_insert(Dark { since: now, noticed });
        }
        let free: Vec<u64> =
            self.held.iter().filter(|(_, one)| !self.is_held(one)).map(|(number, _)| *number).collect();
        for number in free {
            if let Some(message) = self.held.remove(&number) {
                self.coming.insert((now + 1, number), message);
            }
        }
    }

    fn dice(&mut self, from: End, to: End) -> &mut Stream {
        let seed = self.seed;
        let named = |end: End| match end {
            End::Node(node) => node.0,
            End::Client(client) => 1 << 20 | client,
        };
        self.dice.entry((from, to)).or_insert_with(|| Stream::new(seed, "wire", named(from) << 32 | named(to)))
    }

    /// What was sent until now is given the time of its arrival.
    pub(super) fn collect(&mut self) {
        let now = self.time.windows();
        let Weather { latency, stragglers, straggling, loss } = self.weather;
        for datagram in self.air.as_ref().map(|air| air.sent()).unwrap_or_default() {
            let dice = self.dice(end_at(datagram.from), end_at(datagram.to));
            let is_lost = dice.chance(loss);
            let extra = if dice.chance(stragglers) { straggling } else { latency };
            let extra = dice.below(extra.max(1));
            if !is_lost {
                self.flying.insert((now + 1 + extra, datagram.number), datagram);
            }
        }
        for message in self.fabric.under_way(self.seen) {
            self.seen = message.number;
            let dice = self.dice(message.from.0, message.to.0);
            let extra = match (message.kind, dice.chance(stragglers)) {
                (Kind::Ended, _) => 0,
                (_, true) => dice.below(straggling.max(1)),
                (_, false) => dice.below(latency.max(1)),
            };
            self.coming.insert((now + 1 + extra, message.number), message);
        }
    }

    /// The datagrams that arrive now, in order. What is cut is lost.
    pub(super) fn landing(&mut self) -> Vec<Datagram> {
        let later = self.flying.split_off(&(self.time.windows() + 1, 0));
        let landing = core::mem::replace(&mut self.flying, later);
        let is_through = |one: &Datagram| !self.cuts.contains_key(&(end_at(one.from), end_at(one.to)));
        landing.into_values().filter(is_through).collect()
    }

    /// What arrives now, in order. Connections that have been silent for too long are gone.
    pub(super) fn due(&mut self) -> Vec<UnderWay> {
        let now = self.time.windows();
        for ((a, b), dark) in &mut self.dark {
            if !dark.noticed && now >= dark.since + self.idle {
                dark.noticed = true;
                self.fabric.cut(*a, *b);
            }
        }
        let healed: Vec<(End, End)> =
            self.healing.iter().filter(|(_, at)| **at <= now).map(|(pair, _)| *pair).collect();
        for (a, b) in healed {
            self.healing.remove(&(a, b));
            self.fabric.heal(a, b);
        }
        for (_, start) in self.vanished.extract_if(.., |(at, _)| *at <= now) {
            self.fabric.lost(start);
        }
        let later = self.coming.split_off(&(now + 1, 0));
        let mut due = Vec::new();
        for ((_, number), message) in core::mem::replace(&mut self.coming, later) {
            if self.is_held(&message) {
                self.held.insert(number, message);
            } else {
                due.push(message);
            }
        }
        due
    }
}

/// Where an end is.
pub(super) fn address(end: End) -> SocketAddr {
    let (net, number) = match end {
        End::Node(node) => (0, node.0),
        End::Client(client) => (1, client),
    };
    let [high, low] = u16::try_from(number).unwrap_or(u16::MAX).to_be_bytes();
    SocketAddr::from(([10, net, high, low], 4433))
}

/// Where the front end of a host is.
pub(super) fn front(host: NodeId) -> SocketAddr {
    SocketAddr::new(address(End::Node(host)).ip(), 80)
}

/// Who is there.
fn end_at(address: SocketAddr) -> End {
    let IpAddr::V4(ip) = address.ip() else { return End::Client(0) };
    let [_, net, high, low] = ip.octets();
    let number = u64::from(u16::from_be_bytes([high, low]));
    if net == 0 { End::Node(NodeId(number)) } else { End::Client(number) }
}

fn pair(a: End, b: End) -> (End, End) {
    (a.min(b), a.max(b))
}
