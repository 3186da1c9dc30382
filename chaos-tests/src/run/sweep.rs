//! The sweep: one move under load, run again and again, each time with one fault just before one of its events, until
//! every event has had every fault.
//!
//! ```text
//!  node 1: its ingress asks ◄──── the chain of node 1 moves ────► node 4: a DPU
//!  node 2: controller             node 3: another host, where clients ask as well; a second controller
//! ```
//!
//! With an odd seed the chain goes to the DPU, with an even one it comes back. Up to the fault every run is the same, so the events that were counted in the run without one are the events that the
//! others meet.

use core::time::Duration;

use mesh_core::id::{ActorId, NodeId};

use super::{Errand, Room, Verdict};
use crate::{
    cluster::{ActWeather, Ends},
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
    /// Another controller begins to lead as well, and to move the same actor; what the first one says arrives late.
    Rival,
    /// Another controller, which is behind, begins the very same move.
    Twin,
    /// The control group has no leader for a while: what is decided takes effect late.
    Group,
    /// The same, and the source is started anew meanwhile.
    SourceAndGroup,
    /// No frame passes between source and target.
    SourceTarget,
    /// No frame passes between controller and source.
    ControllerSource,
    /// No frame passes between controller and target.
    ControllerTarget,
}

impl Victim {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Source,
        Self::Target,
        Self::Controller,
        Self::Rival,
        Self::Twin,
        Self::Group,
        Self::SourceAndGroup,
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
            Self::Twin => "a second controller with the same move",
            Self::Group => "no leader of the control group",
            Self::SourceAndGroup => "crash of the source without leader of the control group",
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
            Self::Twin => "twin",
            Self::Group => "group",
            Self::SourceAndGroup => "source+group",
            Self::SourceTarget => "source-target",
            Self::ControllerSource => "controller-source",
            Self::ControllerTarget => "controller-target",
        }
    }

    const fn struck(self, (source, target): (NodeId, NodeId)) -> Struck {
        match self {
            Self::Source => Struck::Node(source),
            Self::Target => Struck::Node(target),
            Self::Controller => Struck::Node(CONTROLLER),
            Self::Rival => Struck::Lead { slow: [source, target] },
            Self::Twin => Struck::Twin,
            Self::Group => Struck::Group,
            Self::SourceAndGroup => Struck::NodeAndGroup(source),
            Self::SourceTarget => Struck::Link(source, target),
            Self::ControllerSource => Struck::Link(CONTROLLER, source),
            Self::ControllerTarget => Struck::Link(CONTROLLER, target),
        }
    }
}

enum Struck {
    Node(NodeId),
    Link(NodeId, NodeId),
    Lead { slow: [NodeId; 2] },
    Twin,
    Group,
    NodeAndGroup(NodeId),
}

const HOST: NodeId = NodeId(1);
const CONTROLLER: NodeId = NodeId(2);
const RIVAL: NodeId = NodeId(3);
const DPU: NodeId = NodeId(4);
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
        compressed: true,
        coded: None,
        split: false,
        stages_per_mille: 0,
        moves_per_mille: 1,
        failover_per_mille: 0,
        news: Duration::from_micros(50)..Duration::from_millis(4),
        stripe_bytes: 4096,
        capacity_bytes: 8 << 20,
        segment_bytes: 256 << 10,
        scrub_every_ms: 0,
        out_after_ms: 0,
        clients: 2,
        keys: 2,
        stripes_max: 2,
        think: Duration::from_millis(4),
        wall_skew_ms: 0,
        network: NetworkWeather::calm(),
        disk: DiskWeather::calm(),
        metadata: MetadataWeather::calm(),
        acts: ActWeather::calm(),
        victims: Vec::new(),
        storm: Duration::ZERO,
        faults: Vec::new(),
    }
}

/// Runs the scenario, with a fault just before the `at`-th event of the move, or without.
#[must_use]
pub fn run_move(seed: u64, fault: Option<(Victim, u64)>, bug: Option<Bug>, log: bool) -> Outcome {
    match Room::open(seed, swarm(), bug, log, None) {
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
        let actor = ActorId::data(self.cluster.tenant(), HOST);
        let back = seed.is_multiple_of(2);
        let (source, target) = if back { (DPU, HOST) } else { (HOST, DPU) };
        for node in self.swarm.members() {
            self.cluster.start(&mut self.world, node);
        }
        self.recover(&[]);
        self.cluster.elect(&mut self.world, CONTROLLER, Duration::ZERO);
        if back {
            self.cluster.pin(&mut self.world, CONTROLLER, actor, DPU);
            self.run_until(Duration::from_secs(5), |room| room.is_at(actor, DPU));
        }
        (0..STATE).for_each(|_| self.ask_new_change(actor));
        self.run_until(Duration::from_secs(5), |room| room.changes.open == 0);
        self.change_pause = Duration::from_micros(40)..Duration::from_micros(400);
        self.storming = true;
        (0..self.clients.len()).for_each(|at| self.choose(at));
        self.change();
        self.run_until(Duration::from_millis(2), |_| false);

        self.cluster.ends = Ends::default();
        let begun = self.world.steps();
        // Another node does not hear of what becomes of it.
        self.cluster.hear_no_move(&self.world, RIVAL, actor);
        self.cluster.pin(&mut self.world, CONTROLLER, actor, target);
        let mut dice = Stream::new(seed, "sweep", fault.map_or(0, |(victim, at)| (at << 8) | victim as u64));
        let downs = [1, 400, 5_000].map(Duration::from_millis);
        let span = dice.pick(&downs).copied().unwrap_or_default();
        if let Some((victim, at)) = fault {
            self.world.halt_before(begun + at);
            self.run_until(Duration::from_secs(5), |room| room.halted);
            let crash = if dice.chance(500) { Crash::Power } else { Crash::Kill };
            self.strike(victim.struck((source, target)), crash, span);
            if victim == Victim::Rival {
                self.cluster.hear_all(&mut self.world);
                self.compete(actor, target);
            }
            self.run_until(Duration::from_millis(10), |_| false);
            self.slacken();
        }
        self.cluster.hear_all(&mut self.world);
        self.run_until(Duration::from_secs(5), |room| room.is_at(actor, target));
        let events = self.world.steps() - begun;
        // The load goes on for a little, on whoever runs the actor now; then there is less of it.
        self.run_until(Duration::from_millis(5), |_| false);
        self.slacken();
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

    /// Whether an actor is at rest where it was to go.
    fn is_at(&self, actor: ActorId, node: NodeId) -> bool {
        let row = self.world.rows().get(&actor);
        row.is_some_and(|row| row.node == node && row.moving.is_none()) && self.cluster.moves_under_way() == 0
    }

    /// One after another begins to lead, ends what it finds begun and begins what it takes for wanted; whoever led before
    /// goes on for a little, and users change their minds.
    fn compete(&mut self, actor: ActorId, target: NodeId) {
        for turn in 0..12 {
            let (leader, to) = if turn % 2 == 0 { (HOST, target) } else { (RIVAL, RIVAL) };
            let overlap = self.dice.span(&(Duration::ZERO..Duration::from_millis(12)));
            self.cluster.elect(&mut self.world, leader, overlap);
            if self.dice.chance(300) {
                self.cluster.pin(&mut self.world, leader, actor, to);
            }
            let pause = self.dice.span(&(Duration::from_micros(100)..Duration::from_millis(12)));
            self.run_until(pause, |_| false);
        }
    }

    fn strike(&mut self, struck: Struck, crash: Crash, span: Duration) {
        match struck {
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
            Struck::Lead { slow } => {
                for node in slow {
                    let times = self.dice.within(10..200) as u32;
                    self.world.network.slow_down(CONTROLLER, node, times);
                }
                self.cluster.elect(&mut self.world, RIVAL, span);
            }
            Struck::Twin => {
                // It has not heard that the move has begun, and begins it.
                self.cluster.elect(&mut self.world, RIVAL, Duration::from_secs(5));
            }
            Struck::NodeAndGroup(node) => {
                self.strike(Struck::Group, crash, span.max(Duration::from_millis(300)));
                // Meanwhile the move goes on, perhaps until its commit waits for a leader.
                let after = self.dice.span(&(Duration::from_micros(1)..Duration::from_millis(4)));
                self.timer(after, Errand::Strike(node, crash));
            }
            Struck::Group => {
                let until = (self.world.now() + span).0;
                self.world.metadata.lose_leaders(until);
            }
        }
    }

    pub(super) fn mend(&mut self, from: NodeId, to: NodeId) {
        self.world.network.cut(from, to, false);
        self.world.network.cut(to, from, false);
    }
}
