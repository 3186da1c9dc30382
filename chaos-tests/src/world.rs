//! The machine of the first room: nodes that host functions, on one virtual clock and one heap of events. It owns when
//! things happen and what a crash takes away; what the functions are, and who starts them again, is the business of the
//! one who drives it ([`World::step_until`] gives notices).
//!
//! Everything goes over the heap, ordered by (time, sequence): also what would be a plain call inside one node, so that
//! every interleaving that a real scheduler could give has a seed that gives it here.

use core::time::Duration;
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque},
    sync::Arc,
};

use mesh_core::{
    Error, ErrorKind, Outcome, Request, StorageFunction, Tokens,
    assignment::Assignment,
    id::{ActorId, DriveId, Epoch, GroupId, NodeId, Token},
    meta::ControlView,
    op::{NodeOp, Phase},
    port::Compute,
    spec::FunctionSpec,
    time::{Instant, UnixMillis},
};

use mesh_placement::doors::{self, Doors};

use crate::{
    disk::{Crash, Disk},
    harness::Beacon,
    invariants::Invariants,
    metadata::{Matter, Quorum},
    network::Network,
    random::Stream,
    trace::{Digest as _, Trace},
};

mod dispatch;
mod heap;
mod host;
mod links;
mod moves;

use heap::{Happening, Scheduled};
use host::Node;
pub use host::{Counted, Origin, Owed};
use moves::Ask;

/// One call, request or piece of work of one life of an actor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Where.
    pub node: NodeId,
    /// Whose.
    pub actor: ActorId,
    /// Which life of that actor: unique in the world.
    pub life: u64,
    /// Which.
    pub token: Token,
}

/// Who asked the metadata groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asker {
    /// A function's call.
    Call(Place),
    /// A function's piece of work.
    Work(Place),
    /// A node itself.
    Node {
        /// Which.
        node: NodeId,
        /// Which life of it.
        boot: u64,
        /// What it calls the matter.
        ticket: u64,
    },
}

impl Asker {
    /// The node behind it.
    #[must_use]
    pub const fn node(self) -> NodeId {
        match self {
            Self::Call(place) | Self::Work(place) => place.node,
            Self::Node { node, .. } => node,
        }
    }
}

/// What the one who drives a world is told.
#[derive(Debug)]
pub enum Notice {
    /// A submitted request is answered.
    Answered {
        /// Whose.
        ticket: u64,
        /// What it came to.
        outcome: Outcome,
    },
    /// A node's own proposal is answered.
    Proposed {
        /// Whose.
        ticket: u64,
        /// What it came to.
        outcome: Result<mesh_core::meta::MetaAnswer, Error>,
    },
    /// A timer has come.
    Timer(u64),
    /// A node is down.
    Crashed(NodeId),
    /// The step has come before which notice was wanted.
    Halted,
    /// The control group has decided something: what it holds now.
    Decided(Arc<ControlView>),
    /// A node is asked for something; it owes `from` an answer.
    Asked {
        /// Which node.
        node: NodeId,
        /// Who asks.
        from: Origin,
        /// What.
        op: Box<NodeOp>,
        /// What came with it.
        payload: mesh_core::Buf,
    },
    /// What a node had asked of another, or of itself, is answered.
    Told {
        /// Who had asked.
        node: NodeId,
        /// What it called the question.
        ticket: u64,
        /// What it came to.
        outcome: Outcome,
    },
    /// What an actor's state depends on has come to its end.
    Settled {
        /// Where.
        node: NodeId,
        /// Whose.
        actor: ActorId,
        /// What the asker called it.
        ticket: u64,
    },
}

/// How an actor is placed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Setting {
    /// Who is behind its last stage.
    pub next: Option<ActorId>,
    /// The medium of its disk jobs.
    pub disk: Option<DriveId>,
}

/// The world.
pub struct World {
    seed: u64,
    now: u64,
    sequence: u64,
    heap: BinaryHeap<Reverse<Scheduled>>,
    nodes: BTreeMap<NodeId, Node>,
    directory: BTreeMap<ActorId, NodeId>,
    /// Calls over links, by number.
    asks: BTreeMap<u64, Ask>,
    next_ask: u64,
    /// What the control group says about every actor that may move.
    rows: BTreeMap<ActorId, Assignment>,
    /// How each epoch of an actor came about: by an assignment, or by a move when the target was in this life.
    made: BTreeMap<(ActorId, Epoch), Option<u64>>,
    /// What the control group held when it was looked at last.
    decided: Arc<ControlView>,
    /// In which life of its target each actor's move was begun.
    begun: BTreeMap<ActorId, u64>,
    /// States that began empty: in which life of the node.
    fresh: BTreeMap<(ActorId, Epoch, NodeId), u64>,
    /// Before which step to give notice.
    halt_at: Option<u64>,
    /// Whether an actor that retires forgets what waits: a planted bug.
    pub forgetful: bool,
    /// The media.
    pub disks: BTreeMap<DriveId, Disk>,
    /// The links.
    pub network: Network,
    /// The metadata groups.
    pub metadata: Quorum,
    compute: Arc<dyn Compute>,
    compute_stream: Stream,
    local: Stream,
    trace: Trace,
    invariants: Invariants,
    violation: Option<String>,
    lives: u64,
    steps: u64,
    notices: VecDeque<Notice>,
}

/// Steps after which a world is said never to come to rest.
const STEPS_MAX: u64 = 5_000_000;
/// Effects of one event at most.
const EFFECTS_MAX: usize = 100_000;
/// What the wall clock shows when a world begins: 2026-01-01.
const WALL_MS: u64 = 1_767_225_600_000;

impl core::fmt::Debug for World {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "World {} at {:?}, {} steps", self.seed, self.now(), self.steps)
    }
}

impl World {
    /// An empty world.
    #[must_use]
    pub fn new(
        seed: u64,
        network: Network,
        metadata: Quorum,
        compute: Arc<dyn Compute>,
        invariants: Invariants,
        trace: Trace,
    ) -> Self {
        Self {
            seed,
            now: 0,
            sequence: 0,
            heap: BinaryHeap::new(),
            nodes: BTreeMap::new(),
            directory: BTreeMap::new(),
            asks: BTreeMap::new(),
            next_ask: 0,
            rows: BTreeMap::new(),
            made: BTreeMap::new(),
            decided: Arc::default(),
            begun: BTreeMap::new(),
            fresh: BTreeMap::new(),
            halt_at: None,
            forgetful: false,
            disks: BTreeMap::new(),
            network,
            metadata,
            compute,
            compute_stream: Stream::new(seed, "compute", 0),
            local: Stream::new(seed, "local", 0),
            trace,
            invariants,
            violation: None,
            lives: 0,
            steps: 0,
            notices: VecDeque::new(),
        }
    }

    /// The world's clock, which no function sees.
    #[must_use]
    pub const fn now(&self) -> Instant {
        Instant(self.now)
    }

    /// Events so far.
    #[must_use]
    pub const fn steps(&self) -> u64 {
        self.steps
    }

    /// Gives notice just before the event that follows so many.
    pub const fn halt_before(&mut self, step: u64) {
        self.halt_at = Some(step);
    }

    /// What was found wrong first.
    #[must_use]
    pub fn violation(&self) -> Option<&str> {
        self.violation.as_deref()
    }

    /// Says that something is wrong. Only the first counts.
    pub fn violate(&mut self, why: impl FnOnce() -> String) {
        if self.violation.is_none() {
            let why = why();
            self.trace.note(&[u64::MAX], || format!("VIOLATION {why}"));
            self.violation = Some(why);
        }
    }

    /// The trace so far.
    #[must_use]
    pub const fn trace(&self) -> &Trace {
        &self.trace
    }

    /// Adds a line of the driver's own to the trace.
    pub fn note(&mut self, numbers: &[u64], line: impl FnOnce() -> String) {
        let now = self.now;
        self.trace.note(numbers, || format!("{:>14} {}", micros(now), line()));
    }

    /// Ends the world.
    #[must_use]
    pub fn into_trace(self) -> Trace {
        self.trace
    }

    fn schedule(&mut self, after: Duration, what: Happening) {
        let at = (Instant(self.now) + after).0;
        self.sequence += 1;
        self.heap.push(Reverse(Scheduled { at, sequence: self.sequence, what }));
    }

    /// A node that is down as yet.
    pub fn add_node(&mut self, id: NodeId, wall_skew_ms: u64) {
        self.nodes.insert(id, Node::new(id, wall_skew_ms));
    }

    /// Starts a node: it hosts nothing yet. Which life of it this is.
    pub fn boot(&mut self, id: NodeId) -> u64 {
        let seed = self.seed;
        let node = self.nodes.get_mut(&id).expect("a node that was added");
        node.boot += 1;
        node.up = true;
        for (actor, node_of) in &self.directory {
            node.doors.learn(*actor, doors::Place { node: *node_of, epoch: Epoch(0) });
        }
        // A monotonic clock that began at some other time than the world's.
        node.clock = Stream::new(seed, "clock", (id.0 << 32) | node.boot).below(1_000_000_000_000);
        let boot = node.boot;
        self.note(&[1, id.0, boot], || format!("{id} starts, life {boot}"));
        boot
    }

    /// Whether a node is up.
    #[must_use]
    pub fn is_up(&self, id: NodeId) -> bool {
        self.nodes.get(&id).is_some_and(|node| node.up)
    }

    /// What a node's monotonic clock shows.
    #[must_use]
    pub fn clock(&self, id: NodeId) -> Instant {
        Instant(self.now + self.nodes.get(&id).map_or(0, |node| node.clock))
    }

    /// What a node's wall clock shows.
    #[must_use]
    pub fn wall(&self, id: NodeId) -> UnixMillis {
        UnixMillis(WALL_MS + self.now / 1_000_000 + self.nodes.get(&id).map_or(0, |node| node.wall_skew_ms))
    }

    /// How many effects the functions of a node have had in all its lives.
    #[must_use]
    pub fn effects(&self, id: NodeId) -> u64 {
        self.nodes.get(&id).map_or(0, |node| node.effects)
    }

    /// A node crashes in the middle of its effects, just before this one.
    pub fn crash_at_effect(&mut self, id: NodeId, effect: u64, crash: Crash) {
        if let Some(node) = self.nodes.get_mut(&id) {
            node.doom = Some((effect, crash));
        }
    }

    /// A node stops, with everything it hosts.
    pub fn crash(&mut self, id: NodeId, crash: Crash) {
        let Some(node) = self.nodes.get_mut(&id).filter(|node| node.up) else { return };
        node.up = false;
        node.doom = None;
        let actors = core::mem::replace(&mut node.doors, Doors::new(id));
        let lingering = core::mem::take(&mut node.lingering);
        let tickets = core::mem::take(&mut node.tickets);
        node.lost.clear();
        self.note(&[2, id.0, crash as u64], || format!("{id} crashes ({crash:?})"));
        drop((actors, lingering));
        self.asks.retain(|_, ask| ask.node != id);
        self.disks.values_mut().filter(|disk| disk.node == id).for_each(|disk| disk.crash(crash));
        for (caller, number) in self.network.crash(id) {
            // A dead process is noticed at once or never; a dead machine by its silence.
            let silence = self.local.span(&crate::network::SILENCE);
            let reset = crash == Crash::Kill && self.local.chance(700);
            let after = if reset { Duration::from_millis(1) } else { silence };
            self.schedule(after, Happening::EndSession { from: caller, to: id, number });
        }
        for ticket in tickets {
            let outcome = Err(Error::new(ErrorKind::LinkLost, "the node crashed"));
            self.schedule(Duration::from_micros(100), Happening::Answered { ticket, outcome });
        }
        self.notices.push_back(Notice::Crashed(id));
    }

    /// Hosts a function on a node that is up.
    pub fn host(&mut self, node: NodeId, actor: ActorId, function: Box<dyn StorageFunction>, setting: Setting) {
        self.publish(actor, node);
        if let Err(error) = self.launch(node, (actor, Epoch(0)), function, setting, Phase::Running) {
            self.violate(|| format!("{node} cannot host {actor}: {error}"));
        }
    }

    /// Says where an actor is to be looked for before it is hosted there.
    pub fn publish(&mut self, actor: ActorId, node: NodeId) {
        self.directory.insert(actor, node);
        let place = doors::Place { node, epoch: Epoch(0) };
        self.nodes.values_mut().for_each(|node| node.doors.learn(actor, place));
    }

    /// Stops an actor as a supervisor would: what it was asked fails.
    pub fn stop(&mut self, node: NodeId, actor: ActorId) {
        let Some(gone) = self.nodes.get_mut(&node).and_then(|node| node.doors.evict(actor)) else { return };
        let hosted = self.see_to_parked(node, actor, gone);
        self.end(node, hosted, "the actor was stopped");
    }

    /// Whether an actor is hosted.
    #[must_use]
    pub fn hosts(&self, node: NodeId, actor: ActorId) -> bool {
        self.nodes.get(&node).is_some_and(|node| node.doors.get(actor).is_some())
    }

    /// Gives an actor new settings.
    pub fn configure(&mut self, node: NodeId, actor: ActorId, spec: Arc<FunctionSpec>) {
        if let Some(life) = self.life(node, actor) {
            let place = Place { node, actor, life, token: Token(0) };
            self.schedule(Duration::from_micros(1), Happening::Configure { place, spec });
        }
    }

    /// A request from outside enters at a node; its deadline is on that node's clock. The answer is a notice.
    pub fn submit(&mut self, node: NodeId, actor: ActorId, request: Request, ticket: u64) {
        let open = self.nodes.get_mut(&node).filter(|node| node.up).map(|node| node.tickets.insert(ticket));
        if open.is_none() {
            let outcome = Err(Error::new(ErrorKind::Unreachable, "the node is down"));
            self.schedule(Duration::from_millis(1), Happening::Answered { ticket, outcome });
            return;
        }
        let boot = self.nodes.get(&node).map_or(0, |node| node.boot);
        let origin = Origin::Outside { ticket };
        let epoch = Epoch(0);
        self.schedule(Duration::from_micros(1), Happening::Request { node, boot, actor, epoch, origin, request });
    }

    /// A node itself changes metadata. The answer is a notice, unless the node is gone by then.
    pub fn propose(&mut self, node: NodeId, command: impl Into<mesh_core::meta::Command>, ticket: u64) {
        let command = command.into();
        let boot = self.nodes.get(&node).map_or(0, |node| node.boot);
        let asker = Asker::Node { node, boot, ticket };
        self.ask_metadata(command.group(), Matter::Command(Arc::new(command)), Duration::from_secs(2), asker);
    }

    /// A notice with this number is to come after a while.
    pub fn timer(&mut self, after: Duration, number: u64) {
        self.schedule(after, Happening::Timer { number });
    }

    /// What nobody has finished: for the checkers.
    #[must_use]
    pub fn unfinished(&self) -> Vec<String> {
        let hosted = self.nodes.values().flat_map(|node| {
            let lingering = node.lingering.values().map(|(actor, one)| (*actor, Phase::Running, 0, one));
            let hosted = node.doors.iter().map(|(id, _, phase, one)| (id, phase, node.doors.parked(id).count(), one));
            hosted.chain(lingering).map(move |one| (node.id, one))
        });
        hosted
            .filter_map(|(node, (actor, phase, parked, one))| {
                let (requests, calls, works) = (one.requests.len(), one.calls.len(), one.works.len());
                let in_flight = one.function.in_flight();
                (requests + calls + works + in_flight + parked > 0 || phase != Phase::Running).then(|| {
                    let oldest = one.requests.values().next().map(|owed| format!(", first {:?}", owed.op));
                    format!(
                        "{node} {actor}: {phase}, {parked} parked, {requests} requests, {calls} calls, {works} works, \
                         in_flight {in_flight}{}",
                        oldest.unwrap_or_default()
                    )
                })
            })
            .collect()
    }

    fn life(&self, node: NodeId, actor: ActorId) -> Option<u64> {
        self.nodes.get(&node)?.doors.get(actor).map(|hosted| hosted.life)
    }

    /// Lets things happen until there is something to tell. `None` if nothing more happens up to `limit`, which is then
    /// what the clock shows, or if something is wrong.
    pub fn step_until(&mut self, limit: u64) -> Option<Notice> {
        loop {
            if self.violation.is_some() {
                return None;
            }
            if let Some(notice) = self.notices.pop_front() {
                return Some(notice);
            }
            if self.heap.peek().is_none_or(|Reverse(next)| next.at > limit) {
                self.now = self.now.max(limit);
                return None;
            }
            if self.halt_at.take_if(|at| *at <= self.steps).is_some() {
                return Some(Notice::Halted);
            }
            let Reverse(Scheduled { at, what, .. }) = self.heap.pop()?;
            self.now = self.now.max(at);
            self.steps += 1;
            Beacon::step();
            if self.steps > STEPS_MAX {
                self.violate(|| format!("the world does not come to rest: {STEPS_MAX} steps"));
                return None;
            }
            self.happen(what);
        }
    }

    fn happen(&mut self, what: Happening) {
        match what {
            Happening::Request { node, boot, actor, epoch, origin, request } => {
                self.take_request(node, boot, (actor, epoch), origin, request);
            }
            Happening::Told { node, boot, ticket, outcome } => {
                if self.nodes.get(&node).is_some_and(|node| node.up && node.boot == boot) {
                    self.note(&[7, node.0, ticket, outcome.digest()], || {
                        format!("{node} is told {ticket:#x}: {outcome:?}")
                    });
                    self.notices.push_back(Notice::Told { node, ticket, outcome });
                }
            }
            Happening::LingerEnd { node, life } => self.end_lingering(node, life),
            Happening::Reply { place, outcome } => self.take_reply(place, outcome),
            Happening::Done { place, outcome } => self.take_done(place, outcome),
            Happening::DiskEnd { drive, job } => {
                if let Some((place, outcome)) = self.disks.get_mut(&drive).and_then(|disk| disk.end(job)) {
                    self.take_done(place, outcome);
                }
            }
            Happening::Wake { place, at } => self.take_wake(place, at),
            Happening::Configure { place, spec } => self.take_configure(place, spec),
            Happening::Frame { from, to, frame } => self.take_frame(from, to, frame),
            Happening::CallDeadline { from, to, session, id } => {
                if let Some(place) = self.network.settle(from, to, session, id) {
                    self.take_reply(place, Err(Error::new(ErrorKind::Timeout, "no answer came in time")));
                }
            }
            Happening::EndSession { from, to, number } => self.end_session(from, to, number),
            Happening::MetadataApply { number } => {
                if let Some((group, matter, result)) = self.metadata.apply(number) {
                    let (group, good) = (group.0, result.is_ok());
                    let commits = moves::is_commit(matter);
                    self.note(&[3, number, group, u64::from(good)], || {
                        format!("group-{group} applies #{number}: {good}")
                    });
                    if group == GroupId::CONTROL.0 {
                        self.look_at_control(commits);
                    }
                }
                if let Some(why) = self.metadata.contradiction() {
                    self.violate(|| why);
                }
            }
            Happening::MetadataAnswer { number } => self.answer_metadata(number),
            Happening::Timer { number } => {
                self.note(&[4, number], || format!("timer {number:#x}"));
                self.notices.push_back(Notice::Timer(number));
            }
            Happening::Answered { ticket, outcome } => {
                self.note(&[5, ticket, outcome.digest()], || format!("answer to ticket {ticket}: {outcome:?}"));
                self.notices.push_back(Notice::Answered { ticket, outcome });
            }
        }
    }
}

/// For logs.
fn micros(nanos: u64) -> String {
    format!("{}.{:03}", nanos / 1_000_000, nanos / 1000 % 1000)
}

/// An empty set of tokens; kept here so that the two halves of a host agree on the kind.
type TokenSet = BTreeSet<Token>;
/// See [`TokenSet`].
type TokenSource = Tokens;
