//! One seed, from the first start to the verdict.
//!
//! ```text
//!  calm ──► storm: clients work, faults happen ──► healed: everything must recover
//!       ──► every key reads as its history allows, new objects go in ──► nothing lies on the drives that nobody refers
//!       to ──► m drives are lost: every key still reads
//!       ──► at rest: nothing is left unfinished; every history has an explanation
//! ```

use core::time::Duration;
use std::{collections::BTreeMap, sync::Arc};

use mesh_actors::metadata::MemoryMetadata;
use mesh_core::{
    Buf, Error, ErrorKind, Lane, Pool, Principal, Request,
    id::{ActorId, DriveId, NodeId},
    op::ObjectOp,
};
use mesh_dpu_runtime::offload::software::Software;

use crate::{
    cluster::{CLUSTER_NUMBERS, Cluster, GRACE_MS, SimulatedKeys, USER},
    content::Contents,
    disk::{Crash, Disk, DiskWeather},
    harness::{Program, book::Brought},
    invariants::{
        Admission, Answers, Ciphertext, Invariant, Invariants, Ownership, Placement, SoftState, Tails, garbage, owing,
        unfinished,
    },
    metadata::{Groups, MetadataWeather, Quorum},
    network::{Network, NetworkWeather},
    oracle::Oracle,
    planted::{Bug, Forgetful, Unchecked},
    random::Stream,
    swarm::{Fault, Swarm, node_of},
    trace::Trace,
    workload::{Client, Desk, Get, Progress, Put, Task},
    world::{Notice, World},
};

mod census;
mod moves;
mod own;
mod storm;
pub mod sweep;

use moves::Changes;

/// What a seed came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The seed.
    pub seed: u64,
    /// The hash over everything that happened.
    pub hash: u64,
    /// What is wrong, if something is.
    pub violation: Option<String>,
    /// For people.
    pub figures: Figures,
    /// One line an event, if a log was wanted.
    pub log: Vec<String>,
}

/// How much happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Events.
    pub steps: u64,
    /// On the world's clock.
    pub virtual_ns: u64,
    /// Tasks of clients that ended well.
    pub succeeded: u64,
    /// Tasks of clients that ended with an error.
    pub failed: u64,
    /// Copies of requests that were dropped.
    pub duplicates: u64,
    /// Crashes of nodes.
    pub crashes: u64,
    /// Chains that arrived where they were moved to.
    pub moves: u64,
    /// Moves that were taken back, or decided by somebody else.
    pub stays: u64,
    /// Chains that were given to another node because theirs seemed lost.
    pub takeovers: u64,
    /// Changes of chains' states that were acknowledged.
    pub changes: u64,
    /// Wishes of users about placement that the control group took.
    pub wishes: u64,
    /// Those that it refused, or of which nobody heard.
    pub wishes_refused: u64,
}

impl core::ops::AddAssign for Figures {
    fn add_assign(&mut self, other: Self) {
        self.steps += other.steps;
        self.virtual_ns += other.virtual_ns;
        self.succeeded += other.succeeded;
        self.failed += other.failed;
        self.duplicates += other.duplicates;
        self.crashes += other.crashes;
        self.moves += other.moves;
        self.stays += other.stays;
        self.takeovers += other.takeovers;
        self.changes += other.changes;
        self.wishes += other.wishes;
        self.wishes_refused += other.wishes_refused;
    }
}

impl core::fmt::Display for Verdict {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "seed {} trace {:016x} ", self.seed, self.hash)?;
        match &self.violation {
            None => f.write_str("ok"),
            Some(why) => write!(f, "VIOLATION {}", why.replace('\n', " ")),
        }
    }
}

/// Runs a seed.
#[must_use]
pub fn run(seed: u64, bug: Option<Bug>, log: bool) -> Verdict {
    run_swarm(seed, Swarm::of(seed), bug, log)
}

/// Runs a seed with another swarm than its own, such as one with fewer faults.
#[must_use]
pub fn run_swarm(seed: u64, swarm: Swarm, bug: Option<Bug>, log: bool) -> Verdict {
    run_with(seed, swarm, bug, log, None)
}

/// Runs a seed with the functions and the clients of a program in place of its own.
#[must_use]
pub fn run_program(seed: u64, program: &dyn Program, log: bool) -> Verdict {
    // What users put into chains and take out again would begin the program's state anew.
    // And the world's own clients may have no business with what its functions do.
    let swarm = Swarm { stages_per_mille: 0, clients: 0, ..Swarm::of(seed) };
    run_with(seed, swarm, None, log, Some(program))
}

fn run_with(seed: u64, swarm: Swarm, bug: Option<Bug>, log: bool, program: Option<&dyn Program>) -> Verdict {
    match Room::open(seed, swarm, bug, log, program) {
        Ok(mut room) => {
            room.play();
            room.close()
        }
        Err(error) => Verdict {
            seed,
            hash: 0,
            violation: Some(format!("the world could not be made: {error}")),
            figures: Figures::default(),
            log: Vec::new(),
        },
    }
}

/// Whose a ticket or a timer is; the cluster's begin at `CLUSTER_NUMBERS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Errand {
    /// An answer to a client's question.
    Ask(usize, u32),
    /// A client has thought.
    Thought(usize),
    FaultBegins(usize),
    FaultEnds(usize),
    Restart(NodeId),
    /// A drive says what it holds.
    Count,
    /// A change of what a chain keeps is asked for.
    ChangeDue,
    /// The same.
    Change(ActorId, u64, u32),
    ChangeAgain(ActorId, u64, u32),
    /// A link works again.
    Mend(NodeId, NodeId),
    /// A node crashes, and starts again at once.
    Strike(NodeId, Crash),
}

struct Room {
    seed: u64,
    swarm: Swarm,
    bug: Option<Bug>,
    world: World,
    cluster: Cluster,
    oracle: Oracle,
    contents: Contents,
    clients: Vec<Client>,
    /// Ended tasks of clients that check, by client.
    results: BTreeMap<usize, Result<(), Error>>,
    errands: BTreeMap<u64, Errand>,
    next: u64,
    storming: bool,
    changes: Changes,
    /// Between two changes.
    change_pause: core::ops::Range<Duration>,
    /// The event has come that was waited for.
    halted: bool,
    /// Until a node that crashes starts again.
    down: BTreeMap<NodeId, Duration>,
    figures: Figures,
    dice: Stream,
    /// What a drive said last that was asked what it holds.
    counted: Option<mesh_core::Outcome>,
    /// What a program has brought.
    own: Option<Brought>,
}

/// How long clients may take to end what they were doing.
const PATIENCE: Duration = Duration::from_secs(600);
/// How long a healed cluster may take to be whole.
const RECOVERY: Duration = Duration::from_secs(120);
/// How often a read or a write is tried once everything works.
const TRIES: u32 = 20;

impl Room {
    fn open(
        seed: u64,
        swarm: Swarm,
        bug: Option<Bug>,
        log: bool,
        program: Option<&dyn Program>,
    ) -> Result<Self, Error> {
        let broken = |why: String| Error::invalid("the program cannot be run").with("why", why);
        let own = program.map(Brought::of).transpose().map_err(broken)?;
        let mut list: Vec<Box<dyn Invariant>> = vec![
            Box::new(Placement::default()),
            Box::new(Admission::default()),
            Box::new(Ownership::default()),
            Box::new(Answers::default()),
            Box::new(SoftState::default()),
            Box::new(Tails::default()),
        ];
        if swarm.encrypted {
            list.push(Box::new(Ciphertext::default()));
        }
        let store: Box<dyn Groups> = match bug {
            Some(Bug::CommitUnchecked) => Box::new(Unchecked::new(MemoryMetadata::new(1))),
            Some(Bug::ForgottenDeletes) => Box::new(Forgetful::new(MemoryMetadata::new(1))),
            _ => Box::new(MemoryMetadata::new(1)),
        };
        let metadata = Quorum::new(seed, store, MetadataWeather::calm());
        let mut network = Network::new(seed, NetworkWeather::calm());
        network.unfiltered = bug == Some(Bug::NoFilter);
        let compute = Arc::new(Software::new(Arc::new(SimulatedKeys), Pool::default()));
        let mut world = World::new(seed, network, metadata, compute, Invariants::new(list), Trace::new(log));
        world.forgetful = bug == Some(Bug::RetireForgets);
        for node in swarm.members() {
            let skew = Stream::new(seed, "wall", node.0).below(swarm.wall_skew_ms + 1);
            world.add_node(node, skew);
            for drive in swarm.drives_at(node) {
                let stream = Stream::new(seed, "disk", drive.0);
                let weather = weather_of(DiskWeather::calm(), bug);
                world.disks.insert(drive, Disk::new(node, swarm.capacity_bytes, weather, stream));
            }
        }
        let (stages, functions) =
            own.as_ref().map(|own| (own.stages.clone(), own.functions.clone())).unwrap_or_default();
        let cluster = Cluster::form(seed, swarm.clone(), bug, (stages, functions), &mut world)?;
        world.note(&[seed], || format!("{swarm:#?}"));
        let own_clients = 0..own.as_ref().map_or(0, |own| own.book.clients());
        let clients = (0..swarm.clients as u64).map(|index| Client::new(seed, index, &swarm));
        let clients = clients.chain(own_clients.map(|index| Client::own(seed, index, &swarm))).collect();
        Ok(Self {
            seed,
            bug,
            world,
            cluster,
            oracle: Oracle::default(),
            contents: Contents::new(seed),
            clients,
            results: BTreeMap::new(),
            errands: BTreeMap::new(),
            next: 0,
            storming: false,
            changes: Changes::default(),
            change_pause: Duration::from_millis(1)..Duration::from_millis(60),
            halted: false,
            down: BTreeMap::new(),
            figures: Figures::default(),
            dice: Stream::new(seed, "room", 0),
            counted: None,
            own,
            swarm,
        })
    }

    fn close(self) -> Verdict {
        let mut figures = self.figures;
        figures.steps = self.world.steps();
        figures.virtual_ns = self.world.now().0;
        let ends = self.cluster.ends;
        (figures.moves, figures.stays) = (ends.arrived, ends.stayed + ends.elsewhere);
        (figures.takeovers, figures.changes) = (ends.taken_over, self.changes.count() as u64);
        (figures.wishes, figures.wishes_refused) = (self.cluster.wishes_granted, self.cluster.wishes_refused);
        figures.duplicates = self.world.network.duplicates_dropped;
        let violation = self.world.violation().map(str::to_owned);
        let trace = self.world.into_trace();
        Verdict { seed: self.seed, hash: trace.hash(), violation, figures, log: trace.into_lines() }
    }

    fn number(&mut self, errand: Errand) -> u64 {
        self.next += 1;
        self.errands.insert(self.next, errand);
        self.next
    }

    fn timer(&mut self, after: Duration, errand: Errand) {
        let number = self.number(errand);
        self.world.timer(after, number);
    }

    fn is_wrong(&self) -> bool {
        self.world.violation().is_some()
    }

    /// The whole of it.
    fn play(&mut self) {
        for node in self.swarm.members() {
            self.cluster.start(&mut self.world, node);
        }
        self.recover(&[]);
        self.storm();
        self.heal();
        let victims = self.swarm.victims.clone();
        self.recover(&victims);
        self.check_gates();
        self.check_states();
        self.read_everything("after all faults healed");
        self.read_own();
        self.write_afresh();
        self.reclaim();
        self.census();
        for drive in &victims {
            self.cluster.bury(&mut self.world, *drive);
        }
        self.recover(&victims);
        self.read_everything("with m drives lost");
        self.read_own();
        self.rest();
        self.agree();
        self.conclude_own();
        if !self.is_wrong()
            && let Err(why) = self.oracle.check()
        {
            self.world.violate(|| why);
        }
    }

    /// Lets the world go on until something is so, or for so long. Whether it is so.
    fn run_until(&mut self, span: Duration, is_so: impl Fn(&Self) -> bool) -> bool {
        let limit = (self.world.now() + span).0;
        loop {
            if is_so(self) {
                return true;
            }
            match self.world.step_until(limit) {
                Some(notice) => self.take(notice),
                None => return !self.is_wrong() && is_so(self),
            }
        }
    }

    fn recover(&mut self, excused: &[DriveId]) {
        // Whoever failed a moment ago has time to say so.
        self.run_until(Duration::from_secs(2), |_| false);
        // An operator restarts what has given up: a drive that failed an I/O stays down until then.
        for _ in 0..6 {
            if self.is_wrong() || self.run_until(RECOVERY / 6, |room| room.cluster.ails(&room.world, excused).is_none())
            {
                return;
            }
            for node in self.cluster.ailing(&self.world) {
                self.world.crash(node, Crash::Kill);
            }
        }
        if let Some(why) = self.cluster.ails(&self.world, excused) {
            self.world.violate(|| format!("the cluster did not recover: {why}"));
        }
    }

    fn take(&mut self, notice: Notice) {
        match notice {
            Notice::Answered { ticket, outcome } if ticket >= CLUSTER_NUMBERS => {
                self.cluster.answered(&mut self.world, ticket, &outcome);
            }
            Notice::Answered { ticket, outcome } => match self.errands.remove(&ticket) {
                Some(Errand::Ask(client, tag)) => self.advance(client, |task, desk| task.hear(tag, outcome, desk)),
                Some(Errand::Count) => self.counted = Some(outcome),
                Some(Errand::Change(actor, id, tries)) => self.change_answered(actor, id, tries, &outcome),
                _ => {}
            },
            Notice::Proposed { ticket, outcome } => self.cluster.proposed(&mut self.world, ticket, outcome),
            Notice::Timer(number) if number >= CLUSTER_NUMBERS => self.cluster.timer(&mut self.world, number),
            Notice::Timer(number) => match self.errands.remove(&number) {
                Some(Errand::Thought(client)) => self.choose(client),
                Some(Errand::FaultBegins(at)) => self.begin_fault(at),
                Some(Errand::FaultEnds(at)) => self.end_fault(at),
                Some(Errand::Restart(node)) => self.cluster.start(&mut self.world, node),
                Some(Errand::ChangeDue) => self.change(),
                Some(Errand::ChangeAgain(actor, id, tries)) => self.change_again(actor, id, tries),
                Some(Errand::Mend(from, to)) => self.mend(from, to),
                Some(Errand::Strike(node, crash)) => {
                    self.down.insert(node, Duration::from_millis(1));
                    self.world.crash(node, crash);
                }
                Some(Errand::Ask(..) | Errand::Change(..) | Errand::Count) | None => {}
            },
            Notice::Crashed(node) => {
                self.figures.crashes += 1;
                self.cluster.crashed(&self.world, node);
                let down = self.down.remove(&node).unwrap_or(Duration::from_millis(500));
                let down = if self.storming { down } else { Duration::from_millis(10) };
                self.timer(down, Errand::Restart(node));
            }
            Notice::Halted => self.halted = true,
            Notice::Decided(view) => self.cluster.decided(&mut self.world, &view),
            Notice::Asked { node, from, op, payload } => {
                self.cluster.asked(&mut self.world, node, from, *op, &payload);
            }
            Notice::Told { ticket, outcome, .. } => self.cluster.told(&mut self.world, ticket, outcome),
            Notice::Settled { node, ticket, .. } => self.cluster.settled(&mut self.world, node, ticket),
        }
    }

    /// A client finds something to do, if it is to do anything more.
    fn choose(&mut self, at: usize) {
        let client = &mut self.clients[at];
        if !self.storming || client.task.is_some() {
            return;
        }
        let mut desk = Desk {
            oracle: &mut self.oracle,
            contents: &mut self.contents,
            book: self.own.as_mut().map(|own| &mut own.book),
            now: self.world.now().0,
            asks: Vec::new(),
            violation: None,
        };
        let task = client.choose(&self.swarm, &mut desk);
        self.own_violation();
        if let Some(task) = task {
            self.begin(at, task);
        }
    }

    fn begin(&mut self, at: usize, task: Box<dyn Task>) {
        let (home, name) = (self.clients[at].home, task.name());
        self.world.note(&[40, at as u64], || format!("client {at} at {home}: {name}"));
        self.clients[at].task = Some(task);
        self.advance(at, |task, desk| {
            task.begin(desk);
            Progress::Going
        });
    }

    /// Lets a client's task hear something, and asks what it wants to know.
    fn advance(&mut self, at: usize, hear: impl FnOnce(&mut dyn Task, &mut Desk<'_>) -> Progress) {
        let Some(mut task) = self.clients[at].task.take() else { return };
        let mut desk = Desk {
            oracle: &mut self.oracle,
            contents: &mut self.contents,
            book: self.own.as_mut().map(|own| &mut own.book),
            now: self.world.now().0,
            asks: Vec::new(),
            violation: None,
        };
        let progress = hear(&mut *task, &mut desk);
        let Desk { asks, violation, .. } = desk;
        if let Some(why) = violation {
            self.world.violate(|| why);
        }
        self.own_violation();
        for (tag, op, payload) in asks {
            self.ask(at, tag, op, payload);
        }
        match progress {
            Progress::Going => self.clients[at].task = Some(task),
            Progress::Over(result) => self.over(at, &*task, result),
        }
    }

    fn over(&mut self, at: usize, task: &dyn Task, result: Result<(), Error>) {
        let name = task.name();
        self.world.note(&[41, at as u64, u64::from(result.is_ok())], || format!("client {at}: {name}: {result:?}"));
        if result.is_ok() {
            self.figures.succeeded += 1;
        } else {
            self.figures.failed += 1;
            let up: Vec<NodeId> = self.swarm.node_ids().filter(|node| self.world.is_up(*node)).collect();
            self.clients[at].move_on(&up);
        }
        if self.storming {
            let think = self.clients[at].think(&self.swarm);
            self.timer(think, Errand::Thought(at));
        } else {
            self.results.insert(at, result);
        }
    }

    fn ask(&mut self, at: usize, tag: u32, op: ObjectOp, payload: Buf) {
        let client = &mut self.clients[at];
        let (node, patience) = (client.home, client.patience());
        let principal = Principal::User { tenant: self.cluster.tenant(), name: USER.into() };
        let deadline = self.world.clock(node) + patience;
        let request = Request {
            op: op.into(),
            payload,
            principal,
            deadline,
            lane: Lane::Interactive,
            trace: mesh_core::Trace::NONE,
        };
        let ticket = self.number(Errand::Ask(at, tag));
        self.world.submit(node, ActorId::ingress(node), request, ticket);
    }

    /// Does something now, until it goes well: everything works, so it must.
    fn insist(&mut self, when: &str, make: impl Fn() -> Box<dyn Task>) -> bool {
        let nodes: Vec<NodeId> = self.swarm.node_ids().collect();
        let mut last = None;
        for _ in 0..TRIES {
            self.results.remove(&0);
            self.clients[0].move_on(&nodes);
            self.begin(0, make());
            if !self.run_until(PATIENCE, |room| room.results.contains_key(&0)) {
                break;
            }
            match self.results.remove(&0) {
                Some(Ok(())) => return true,
                // What went in since has filled the drives.
                Some(Err(error)) if error.kind() == ErrorKind::NoSpace && self.cluster.is_full() => return false,
                Some(Err(error)) => last = Some(error),
                None => {}
            }
            self.run_until(Duration::from_secs(1), |_| false);
        }
        let name = make().name();
        self.world.violate(|| format!("{when}: {name} does not work: {last:?}"));
        false
    }

    /// Every key reads; the oracle sees what.
    fn read_everything(&mut self, when: &str) {
        let keys: Vec<Arc<str>> = self.oracle.keys().iter().map(|key| Arc::from(key.as_str())).collect();
        for key in keys {
            if self.is_wrong() || !self.insist(when, || Box::new(Get::new(key.clone(), None, 4))) {
                return;
            }
        }
        if let Err(why) = self.oracle.check() {
            self.world.violate(|| format!("{when}: {why}"));
        }
    }

    /// New objects go in.
    fn write_afresh(&mut self) {
        // A program's function may refuse what is not its clients'.
        if self.cluster.is_full() || self.own.is_some() {
            return;
        }
        for turn in 0..self.swarm.nodes {
            let key: Arc<str> = format!("fresh-{turn}").into();
            let len = self.dice.below(3 * u64::from(self.swarm.stripe_bytes));
            let content = self.contents.create(len);
            if self.is_wrong() || !self.insist("new objects", || Box::new(Put::object(key.clone(), content, 2, turn))) {
                return;
            }
        }
    }

    /// What nobody refers to any more is deleted and forgotten: where every drive works, space comes back.
    fn reclaim(&mut self) {
        self.cluster.calm_down();
        if self.is_wrong() || self.cluster.ails(&self.world, &[]).is_some() {
            return;
        }
        self.run_until(Duration::from_millis(GRACE_MS), |_| false);
        for _ in 0..20 {
            let left = (garbage(&mut self.world), self.owing());
            if self.is_wrong() || (left.0.is_empty() && left.1.is_empty()) {
                return;
            }
            self.run_until(Duration::from_secs(10), |_| false);
        }
        // What had begun in the storm may have failed a drive only now.
        if self.cluster.ails(&self.world, &[]).is_some() {
            return;
        }
        let (left, owing) = (garbage(&mut self.world), self.owing());
        self.world.violate(|| format!("garbage is never reclaimed: {left:?}; owed by drives that work: {owing:?}"));
    }

    /// Drives that work, and are owed deletions all the same.
    fn owing(&mut self) -> Vec<DriveId> {
        let owing = owing(&mut self.world);
        owing.into_iter().filter(|drive| !self.cluster.is_buried(*drive)).collect()
    }

    /// Every node holds of every other what that one says of itself.
    fn agree(&mut self) {
        if !self.is_wrong()
            && !self.run_until(RECOVERY, |room| room.cluster.disagreement().is_none())
            && !self.is_wrong()
            && let Some(why) = self.cluster.disagreement()
        {
            self.world.violate(|| why);
        }
    }

    /// Nothing is left unfinished.
    fn rest(&mut self) {
        if !self.is_wrong() && !self.run_until(PATIENCE, |room| unfinished(&room.world).is_none()) && !self.is_wrong() {
            let left = unfinished(&self.world).unwrap_or_default();
            self.world.violate(|| left);
        }
        if self.swarm.encrypted {
            let ciphertext = Ciphertext::default();
            let found =
                self.world.disks.values().any(|disk| disk.contents().any(|block| ciphertext.find(block).is_some()));
            if found {
                self.world.violate(|| "a medium holds plaintext".to_owned());
            }
        }
    }
}

/// The weather of media, with the bug that sits in them.
fn weather_of(weather: DiskWeather, bug: Option<Bug>) -> DiskWeather {
    DiskWeather {
        lying_sync: bug == Some(Bug::AckBeforeFlush),
        uncovered_sync: bug == Some(Bug::UncoveredSync),
        ..weather
    }
}
