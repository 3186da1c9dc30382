//! What a seed draws: the shape of the cluster, the weather, and the list of single faults.
//!
//! Swarm testing (Groce et al., ISSTA 2012): a seed has some kinds of faults and not others, and each in a strength of
//! its own, so that no kind always drowns the rest. The list is drawn before anything runs, a stream for each fault: to
//! leave one out shifts no other.
//!
//! The promise bounds the faults: the contents of at most m drives are rotted or destroyed. Crashes and power cuts, of
//! one node or of all, are without bound.

use core::time::Duration;

use mesh_core::{
    id::{DriveId, NodeId},
    topology::Code,
};

use crate::{
    cluster::ActWeather, disk::DiskWeather, metadata::MetadataWeather, network::NetworkWeather, random::Stream,
};

/// Everything that a seed decides beside the dice thrown on the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Swarm {
    /// Nodes, numbered from 1, of two drives each.
    pub nodes: u64,
    /// How stripes are coded.
    pub code: Code,
    /// Whether the chain has Encrypt in it; without, wrong bytes are not caught by their authentication.
    pub encrypted: bool,
    /// Whether the bucket that clients share compresses what is put into it.
    pub compressed: bool,
    /// The bucket has a code of its own.
    pub coded: Option<Code>,
    /// DPU-like nodes, numbered on from the others: no drives, no ingress.
    pub dpus: u64,
    /// Moments in a thousand at which a user wishes something of placement; 0: none does, and chains keep no state.
    pub moves_per_mille: u32,
    /// Moments in a thousand at which another node begins to lead, though one does.
    pub failover_per_mille: u32,
    /// How long until a node hears what the control group has decided.
    pub news: core::ops::Range<Duration>,
    /// Whether chains are split, now and then: Erasure, or Encrypt too, or Compress as well, runs on another node than what
    /// comes before.
    pub split: bool,
    /// Moments in a thousand at which a user changes what chains are made of.
    pub stages_per_mille: u32,
    /// Plaintext bytes of a stripe.
    pub stripe_bytes: u32,
    /// Bytes of a medium.
    pub capacity_bytes: u64,
    /// Bytes of a segment of a drive's log.
    pub segment_bytes: u32,
    /// Drives read everything back in so long; 0: never.
    pub scrub_every_ms: u64,
    /// Drives that have been away for so long go out; 0: never.
    pub out_after_ms: u64,
    /// Clients at once.
    pub clients: usize,
    /// Keys that they share.
    pub keys: u64,
    /// Stripes of the largest object.
    pub stripes_max: u64,
    /// A client waits so long at most between two operations.
    pub think: Duration,
    /// How far a wall clock may be ahead, in milliseconds.
    pub wall_skew_ms: u64,
    /// Links.
    pub network: NetworkWeather,
    /// Media.
    pub disk: DiskWeather,
    /// Groups.
    pub metadata: MetadataWeather,
    /// What stewards want.
    pub acts: ActWeather,
    /// Drives whose contents may be lost, at most m.
    pub victims: Vec<DriveId>,
    /// How long faults go on.
    pub storm: Duration,
    /// Single faults and when each begins, in that order.
    pub faults: Vec<(Duration, Fault)>,
}

/// One fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A node stops, in the middle of an event so many effects on, and starts again after a while.
    Crash {
        /// Which.
        node: NodeId,
        /// Counted from now.
        effects: u64,
        /// Power fails; else the process dies.
        power: bool,
        /// Until it starts again.
        down: Duration,
    },
    /// Power fails everywhere at once.
    Blackout {
        /// Until each node starts again, by its place.
        down: Vec<Duration>,
    },
    /// A direction of a link is cut.
    Cut {
        /// From here.
        from: NodeId,
        /// To here.
        to: NodeId,
        /// The other direction too.
        both: bool,
        /// For so long.
        span: Duration,
    },
    /// A node hears and is heard by nobody.
    Isolate {
        /// Which.
        node: NodeId,
        /// For so long.
        span: Duration,
    },
    /// A direction of a link is slow.
    SlowLink {
        /// From here.
        from: NodeId,
        /// To here.
        to: NodeId,
        /// So many times.
        times: u32,
        /// For so long.
        span: Duration,
    },
    /// No job of a medium ends.
    Stall {
        /// Which.
        drive: DriveId,
        /// For so long.
        span: Duration,
    },
    /// A medium is slow.
    SlowDisk {
        /// Which.
        drive: DriveId,
        /// So many times.
        times: u32,
        /// For so long.
        span: Duration,
    },
    /// A medium has no space.
    Full {
        /// Which.
        drive: DriveId,
        /// For so long.
        span: Duration,
    },
    /// Bits of a medium flip.
    Rot {
        /// Which: a victim.
        drive: DriveId,
        /// In so many blocks.
        blocks: u64,
    },
    /// A medium loses everything, and is replaced by an empty one: its node crashes.
    Destroy {
        /// Which: a victim.
        drive: DriveId,
        /// Until the node starts again.
        down: Duration,
    },
    /// The groups lose their leaders.
    Leaderless {
        /// For so long.
        span: Duration,
    },
    /// A steward finds that what must be so is not, and begins anew.
    Anew {
        /// Whose.
        node: NodeId,
    },
    /// A steward is lost with what it had under way, and its node has another one.
    Breakdown {
        /// Whose.
        node: NodeId,
    },
}

/// The drives of a node.
#[must_use]
pub fn drives_of(node: NodeId) -> [DriveId; 2] {
    [DriveId(node.0 * 2 - 1), DriveId(node.0 * 2)]
}

/// The node of a drive.
#[must_use]
pub const fn node_of(drive: DriveId) -> NodeId {
    NodeId(drive.0.div_ceil(2))
}

fn millis(stream: &mut Stream, from: u64, to: u64) -> Duration {
    Duration::from_millis(stream.within(from..to))
}

fn micros(from: u64, to: u64) -> core::ops::Range<Duration> {
    Duration::from_micros(from)..Duration::from_micros(to)
}

/// A bucket's own code, which bears as many losses as the mesh's and has drives enough with a node away.
fn own_code(dice: &mut Stream, code: Code) -> Option<Code> {
    let codes: &[(u8, u8)] = if code.parity > 1 { &[(1, 2), (2, 2), (1, 3)] } else { &[(1, 1), (1, 2), (3, 1)] };
    let at = dice.below(codes.len() as u64 * 2);
    codes.get(usize::try_from(at).ok()?).map(|&(data, parity)| Code { data, parity })
}

impl Swarm {
    /// The code of what clients put.
    #[must_use]
    pub fn bucket_code(&self) -> Code {
        self.coded.unwrap_or(self.code)
    }

    /// What this seed draws.
    #[must_use]
    pub fn of(seed: u64) -> Self {
        let mut shape = Stream::new(seed, "shape", 0);
        let wide = shape.chance(200);
        let nodes = if wide { shape.within(4..6) } else { shape.within(3..6) };
        let code = if wide { Code { data: 4, parity: 2 } } else { Code { data: 2, parity: 1 } };
        let mut victims: Vec<DriveId> = Vec::new();
        while victims.len() < usize::from(code.parity) {
            let drive = DriveId(1 + shape.below(nodes * 2));
            if !victims.contains(&drive) {
                victims.push(drive);
            }
        }
        let stripe_bytes = 4096 << shape.below(4);
        let storm = millis(&mut shape, 3_000, 15_000);
        let operations = 8 + shape.below(25) as u32;
        let mut swarm = Self {
            nodes,
            code,
            dpus: 0,
            moves_per_mille: 0,
            failover_per_mille: 0,
            news: micros(50, 2_000),
            encrypted: shape.chance(700),
            // Of its own: what else a seed says does not depend on it.
            compressed: Stream::new(seed, "compression", 0).chance(300),
            coded: own_code(&mut Stream::new(seed, "code", 0), code),
            split: shape.chance(300),
            stages_per_mille: 0,
            stripe_bytes,
            capacity_bytes: 0,
            segment_bytes: 0,
            scrub_every_ms: 0,
            out_after_ms: 0,
            clients: 2 + shape.below(3) as usize,
            keys: shape.within(2..8),
            stripes_max: shape.within(2..7),
            // Half of it on average.
            think: storm * 2 / operations,
            wall_skew_ms: shape.below(3_000),
            network: NetworkWeather::calm(),
            disk: DiskWeather::calm(),
            metadata: MetadataWeather::calm(),
            acts: ActWeather::calm(),
            victims,
            storm,
            faults: Vec::new(),
        };
        // Sometimes so little that drives fill up and have to be compacted.
        let (small, large) = (64 << shape.below(2), 128 << shape.below(4));
        let small_kib = shape.within(768..3072) & !3;
        let (segment_kib, capacity_kib) = if shape.chance(250) { (small, small_kib) } else { (large, 24 << 10) };
        (swarm.segment_bytes, swarm.capacity_bytes) = (segment_kib << 10, capacity_kib << 10);
        swarm.draw_moves(seed);
        swarm.draw_weather(seed);
        swarm.draw_acts(seed);
        swarm.draw_faults(seed);
        let mut scrub = Stream::new(seed, "scrub", 0);
        swarm.scrub_every_ms = if scrub.chance(600) { scrub.within(5_000..200_000) } else { 0 };
        swarm.draw_outs(seed);
        swarm
    }

    fn draw_moves(&mut self, seed: u64) {
        let mut dice = Stream::new(seed, "moves", 0);
        let moves = dice.chance(MOVES_PER_MILLE);
        let (dpus, rate, failover) = (dice.below(3), 10 + dice.below(600) as u32, dice.below(400) as u32);
        let late = dice.chance(500);
        let slow = dice.within(1..400);
        if moves {
            (self.dpus, self.moves_per_mille, self.failover_per_mille) = (dpus, rate, failover);
            self.news = micros(50, if late { 1000 * slow } else { 2_000 });
        }
    }

    /// Nodes that are away for longer than it takes to notice that, and for their drives to go out.
    fn draw_outs(&mut self, seed: u64) {
        let mut dice = Stream::new(seed, "out", 0);
        if !dice.chance(400) {
            return;
        }
        self.out_after_ms = dice.within(100..3_000);
        let storm_ms = u64::try_from(self.storm.as_millis()).unwrap_or(u64::MAX);
        for _ in 0..1 + dice.below(2) {
            let (at, down) = (millis(&mut dice, 0, storm_ms), millis(&mut dice, 6_000, 25_000));
            let (node, effects) = (NodeId(1 + dice.below(self.nodes)), 1 + dice.below(400));
            self.faults.push((at, Fault::Crash { node, effects, power: dice.chance(500), down }));
        }
        self.faults.sort_by_key(|(at, _)| *at);
    }

    fn draw_weather(&mut self, seed: u64) {
        let mut dice = Stream::new(seed, "weather", 0);
        if dice.chance(500) {
            let slow = dice.within(1..40);
            self.network.delay = micros(20, 200 * slow);
        }
        if dice.chance(400) {
            self.network.straggler_per_mille = dice.within(1..50) as u32;
        }
        if dice.chance(400) {
            self.network.loss_per_mille = dice.within(1..30) as u32;
        }
        if dice.chance(600) {
            self.network.duplicate_per_mille = dice.within(10..400) as u32;
        }
        if dice.chance(500) {
            let slow = dice.within(1..30);
            self.disk.latency = micros(10, 300 * slow);
            self.disk.sync = micros(100, 1000 * slow);
        }
        if dice.chance(150) {
            self.disk.error_per_mille = dice.within(1..4) as u32;
        }
        if dice.chance(500) {
            let slow = dice.within(1..50);
            self.metadata.delay = micros(100, 1000 * slow);
        }
        if dice.chance(400) {
            self.metadata.unknown_per_mille = dice.within(5..100) as u32;
        }
        if dice.chance(400) {
            self.metadata.broken_per_mille = dice.within(5..300) as u32;
        }
        if dice.chance(400) {
            self.metadata.twice_per_mille = dice.within(10..300) as u32;
        }
        if dice.chance(LATE_COPIES_PER_MILLE) {
            self.metadata.late_copy_per_mille = dice.within(10..300) as u32;
        }
    }

    fn draw_acts(&mut self, seed: u64) {
        let mut dice = Stream::new(seed, "acts", 0);
        let rates = [dice.within(5..300), dice.within(5..300), dice.within(5..300)].map(|rate| rate as u32);
        let drawn = rates.map(|rate| if dice.chance(400) { rate } else { 0 });
        let [unbuilt_per_mille, slow_per_mille, failed_per_mille] = drawn;
        let stages = dice.within(20..300) as u32;
        self.stages_per_mille = if dice.chance(250) { stages } else { 0 };
        self.acts = ActWeather { unbuilt_per_mille, slow_per_mille, failed_per_mille };
    }

    fn draw_faults(&mut self, seed: u64) {
        let mut kinds = Stream::new(seed, "kinds", 0);
        let storm_ms = u64::try_from(self.storm.as_millis()).unwrap_or(u64::MAX);
        for kind in 0..KINDS {
            let (likely, most) = LIKELIHOOD[kind as usize];
            let some = kinds.chance(likely) && (kind != 11 || self.dpus > 0);
            let count = 1 + kinds.below(most);
            for nth in 0..if some { count } else { 0 } {
                let mut dice = Stream::new(seed, "fault", (kind << 32) | nth);
                let at = millis(&mut dice, 0, storm_ms);
                let fault = self.draw_fault(kind, &mut dice);
                self.faults.push((at, fault));
            }
        }
        self.faults.sort_by_key(|(at, _)| *at);
    }

    fn draw_fault(&self, kind: u64, dice: &mut Stream) -> Fault {
        let node = NodeId(1 + dice.below(self.nodes));
        let other = NodeId(1 + (node.0 + dice.below(self.nodes - 1)) % self.nodes);
        let drive = DriveId(1 + dice.below(self.nodes * 2));
        let victim = dice.pick(&self.victims).copied().unwrap_or(drive);
        let span = millis(dice, 50, 6_000);
        let down = millis(dice, 5, 5_000);
        match kind {
            0 => Fault::Crash { node, effects: 1 + dice.below(400), power: dice.chance(500), down },
            1 => Fault::Blackout { down: (0..self.nodes).map(|_| millis(dice, 5, 4_000)).collect() },
            2 => Fault::Cut { from: node, to: other, both: dice.chance(500), span },
            3 => Fault::Isolate { node, span },
            4 => Fault::SlowLink { from: node, to: other, times: 2 + dice.below(200) as u32, span },
            5 => Fault::Stall { drive, span },
            6 => Fault::SlowDisk { drive, times: 2 + dice.below(100) as u32, span },
            7 => Fault::Full { drive, span },
            8 => Fault::Rot { drive: victim, blocks: 1 + dice.below(60) },
            9 => Fault::Destroy { drive: victim, down },
            10 => Fault::Leaderless { span },
            12 => Fault::Anew { node: NodeId(1 + dice.below(self.nodes + self.dpus)) },
            13 => Fault::Breakdown { node: NodeId(1 + dice.below(self.nodes + self.dpus)) },
            _ => {
                let node = NodeId(self.nodes + 1 + dice.below(self.dpus));
                Fault::Crash { node, effects: 1 + dice.below(60), power: dice.chance(500), down }
            }
        }
    }

    /// The numbers of all nodes, DPUs included.
    pub fn members(&self) -> impl Iterator<Item = NodeId> + use<> {
        (1..=self.nodes + self.dpus).map(NodeId)
    }

    /// Whether a node has drives and an ingress.
    #[must_use]
    pub const fn is_host(&self, node: NodeId) -> bool {
        node.0 <= self.nodes
    }

    /// The drives of a node; a DPU has none.
    pub fn drives_at(&self, node: NodeId) -> impl Iterator<Item = DriveId> + use<> {
        drives_of(node).into_iter().take(if self.is_host(node) { 2 } else { 0 })
    }

    /// The numbers of all hosts.
    pub fn node_ids(&self) -> impl Iterator<Item = NodeId> + use<> {
        (1..=self.nodes).map(NodeId)
    }

    /// The numbers of all drives.
    pub fn drive_ids(&self) -> impl Iterator<Item = DriveId> + use<> {
        (1..=self.nodes * 2).map(DriveId)
    }
}

/// Of a thousand swarms, those in which copies of commands arrive late.
const LATE_COPIES_PER_MILLE: u32 = 500;
/// Of a thousand random runs, those in which chains move.
const MOVES_PER_MILLE: u32 = 600;
const KINDS: u64 = 14;
/// By kind: in how many of a thousand seeds it is there, and how often at most.
const LIKELIHOOD: [(u32, u64); KINDS as usize] = [
    (700, 6),
    (350, 3),
    (400, 4),
    (300, 2),
    (250, 4),
    (250, 3),
    (250, 3),
    (100, 2),
    (350, 6),
    (100, 1),
    (250, 3),
    (700, 8),
    (250, 6),
    (250, 4),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_are_lost_on_at_most_m_drives() {
        for seed in 0..2000 {
            let swarm = Swarm::of(seed);
            let mut lost: Vec<DriveId> = swarm
                .faults
                .iter()
                .filter_map(|(_, fault)| match fault {
                    Fault::Rot { drive, .. } | Fault::Destroy { drive, .. } => Some(*drive),
                    _ => None,
                })
                .collect();
            lost.sort_unstable();
            lost.dedup();
            assert!(lost.len() <= usize::from(swarm.code.parity), "seed {seed}: {lost:?}");
        }
    }

    #[test]
    fn there_are_drives_enough_for_the_code_without_any_node() {
        for seed in 0..2000 {
            let swarm = Swarm::of(seed);
            assert!((swarm.nodes as usize - 1) * 2 >= swarm.code.shards(), "seed {seed}");
        }
    }

    #[test]
    fn a_fault_goes_between_two_nodes() {
        for seed in 0..500 {
            for (_, fault) in Swarm::of(seed).faults {
                if let Fault::Cut { from, to, .. } | Fault::SlowLink { from, to, .. } = fault {
                    assert_ne!(from, to);
                }
            }
        }
    }
}
