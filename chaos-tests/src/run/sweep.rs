//! The sweep: one move under load, run again and again, each time with one fault just before one of its events, until
//! every event has had every fault.
//!
//! ```text
//!  node 1: ingress, source ──── moves the chain of node 1 ────► node 4: a DPU, target
//!  node 2: controller           node 3: another host, where clients ask as well
//! ```
//!
//! Up to the fault every run is the same, so the events that were counted in the run without one are the events that the
//! others meet.

use core::time::Duration;

use mesh_core::id::{ActorId, NodeId};

use super::{Errand, Room, Verdict};
use crate::{
    cluster::Ends,
    disk::{Crash, DiskWeather},
    metadata::MetadataWeather,
    network::NetworkWeather,
    planted::Bug,
    random::Stream,
    swarm::Swarm,
};

/// What goes wrong in the middle of the move.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Victim {
    /// The node that the actor leaves crashes.
    Source,
    /// The node that it goes to crashes.
    Target,
    /// The node crashes whose controller moves it.
    Controller,
    /// Another controller begins to lead as well.
    Rival,
    /// No frame passes between source and target.
    SourceTarget,
    /// No frame passes between controller and source.
    ControllerSource,
    /// No frame passes between controller and target.
    ControllerTarget,
}

impl Victim {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Source,
        Self::Target,
        Self::Controller,
        Self::Rival,
        Self::SourceTarget,
        Self::ControllerSource,
        Self::ControllerTarget,
    ];

    /// What a report calls it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Source => "crash of the source",
            Self::Target => "crash of the target",
            Self::Controller => "crash of the controller",
            Self::Rival => "a second controller",
            Self::SourceTarget => "cut between source and target",
            Self::ControllerSource => "cut between controller and source",
            Self::ControllerTarget => "cut between controller and target",
        }
    }

    /// What the command line calls it.
    #[must_use]
    pub const fn key(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Target => "target",
            Self::Controller => "controller",
            Self::Rival => "rival",
            Self::SourceTarget => "source-target",
            Self::ControllerSource => "controller-source",
            Self::ControllerTarget => "controller-target",
        }
    }

    const fn struck(self) -> Struck {
        match self {
            Self::Source => Struck::Node(SOURCE),
            Self::Target => Struck::Node(TARGET),
            Self::Controller => Struck::Node(CONTROLLER),
            Self::Rival => Struck::Nobody,
            Self::SourceTarget => Struck::Link(SOURCE, TARGET),
            Self::ControllerSource => Struck::Link(CONTROLLER, SOURCE),
            Self::ControllerTarget => Struck::Link(CONTROLLER, TARGET),
        }
    }
}

enum Struck {
    Node(NodeId),
    Link(NodeId, NodeId),
    Nobody,
}

const SOURCE: NodeId = NodeId(1);
const CONTROLLER: NodeId = NodeId(2);
const RIVAL: NodeId = NodeId(3);
const TARGET: NodeId = NodeId(4);
/// Changes that the actor's state holds when the move begins: several pages.
const STATE: u64 = 40;

/// One run's end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Trace, figures, and what is wrong.
    pub verdict: Verdict,
    /// Events from the beginning of the move to its end.
    pub events: u64,
    /// How the moves have ended.
    pub ends: Ends,
    /// Changes that were acknowledged.
    pub changes: usize,
}

/// The scenario's world: fast links, nothing fails by itself.
fn swarm() -> Swarm {
    Swarm {
        nodes: 3,
        dpus: 1,
        code: mesh_core::topology::Code { data: 2, parity: 1 },
        encrypted: true,
        split: false,
        moves_per_mille: 1,
        failover_per_mille: 0,
        news: Duration::from_micros(50)..Duration::from_millis(4),
        stripe_bytes: 4096,
        capacity_bytes: 8 << 20,
        segment_bytes: 256 << 10,
        clients: 2,
        keys: 2,
        stripes_max: 2,
        think: Duration::from_millis(4),
        wall_skew_ms: 0,
        network: NetworkWeather::calm(),
        disk: DiskWeather::calm(),
        metadata: MetadataWeather::calm(),
        victims: Vec::new(),
        storm: Duration::ZERO,
        faults: Vec::new(),
    }
}

/// Runs the scenario, with a fault just before the `at`-th event of the move, or without.
#[must_use]
pub fn run_move(seed: u64, fault: Option<(Victim, u64)>, bug: Option<Bug>, log: bool) -> Outcome {
    match Room::open(seed, swarm(), bug, log) {
        Ok(mut room) => {
            let events = room.play_move(seed, fault);
            let (ends, changes) = (room.cluster.ends, room.changes.count());
            Outcome { verdict: room.close(), events, ends, changes }
        }
        Err(error) => panic!("the scenario's world cannot be made: {error}"),
    }
}

impl Room {
    fn play_move(&mut self, seed: u64, fault: Option<(Victim, u64)>) -> u64 {
        let actor = ActorId::data(self.cluster.tenant(), SOURCE);
        for node in self.swarm.members() {
            self.cluster.start(&mut self.world, node);
        }
        self.recover(&[]);
        self.cluster.elect(&mut self.world, CONTROLLER, Duration::ZERO);
        self.cluster.plan(&mut self.world, false);
        (0..STATE).for_each(|_| self.ask_new_change(actor));
        self.run_until(Duration::from_secs(5), |room| room.changes.open == 0);
        self.change_pause = Duration::from_micros(40)..Duration::from_micros(400);
        self.storming = true;
        (0..self.clients.len()).for_each(|at| self.choose(at));
        self.change();
        self.run_until(Duration::from_millis(2), |_| false);

        let begun = self.world.steps();
        if !self.cluster.order(&mut self.world, actor, TARGET) {
            self.world.violate(|| "nobody leads".to_owned());
        }
        let mut dice = Stream::new(seed, "sweep", fault.map_or(0, |(victim, at)| (at << 8) | victim as u64));
        let downs = [5, 400, 4_000].map(Duration::from_millis);
        let span = dice.pick(&downs).copied().unwrap_or_default();
        if let Some((victim, at)) = fault {
            self.world.halt_before(begun + at);
            self.run_until(Duration::from_secs(5), |room| room.halted);
            let crash = if dice.chance(500) { Crash::Power } else { Crash::Kill };
            self.strike(victim, crash, span);
            self.run_until(Duration::from_millis(10), |_| false);
            self.slacken();
        }
        self.run_until(Duration::from_secs(5), |room| room.cluster.moves_under_way() == 0);
        let events = self.world.steps() - begun;
        // The load goes on for a little, on whoever runs the actor now; then there is less of it.
        self.run_until(Duration::from_millis(5), |_| false);
        self.slacken();
        self.elect_again();
        self.run_until(span + Duration::from_millis(500), |_| false);
        self.heal();
        self.recover(&[]);
        self.check_gates();
        self.ask_new_change(actor);
        self.check_states();
        self.read_everything("after the move");
        self.rest();
        if !self.is_wrong()
            && let Err(why) = self.oracle.check()
        {
            self.world.violate(|| why);
        }
        events
    }

    /// The clients do less from now on: what follows takes seconds.
    fn slacken(&mut self) {
        self.swarm.think = Duration::from_millis(800);
        self.change_pause = Duration::from_millis(4)..Duration::from_millis(60);
    }

    /// Somebody leads, if nobody does.
    fn elect_again(&mut self) {
        let number = self.number(Errand::Lead);
        self.world.timer(Duration::from_millis(100), number);
    }

    pub(super) fn lead(&mut self) {
        self.cluster.elect_if_none(&mut self.world);
    }

    fn strike(&mut self, victim: Victim, crash: Crash, span: Duration) {
        match victim.struck() {
            Struck::Node(node) => {
                self.down.insert(node, span);
                self.world.crash(node, crash);
            }
            Struck::Link(from, to) => {
                for (from, to) in [(from, to), (to, from)] {
                    self.world.network.cut(from, to, true);
                }
                self.timer(span, Errand::Mend(from, to));
            }
            Struck::Nobody => self.cluster.elect(&mut self.world, RIVAL, span),
        }
    }

    pub(super) fn mend(&mut self, from: NodeId, to: NodeId) {
        self.world.network.cut(from, to, false);
        self.world.network.cut(to, from, false);
    }
}
