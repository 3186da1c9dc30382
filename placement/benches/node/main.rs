//! What a whole mesh costs one node of it: a real [`Steward`], told by a small loop on virtual time what it would hear of all
//! others, and owing what its owner owes: beats and answers as the wire has them, observations, the control group's views,
//! the directory of all actors, and what is published.
//!
//! The mesh: half of the nodes are hosts of eight drives, each with one DPU; each host is the ingress of as many data chains
//! as there are tenants, half of which run on its DPU. A quarter of the actors is used between two beats.
//!
//! ```text
//! cargo bench -p mesh-placement --bench node [-- NODES ACTORS]
//! ```
//!
//! Twice each, as an ordinary node and as the leader of the control group: at rest, and while the DPUs of a rack of forty are
//! lost, and all that ran on them is given to their hosts. Time is real time of one thread while the node does what it does;
//! what the others do is not measured. Nothing that takes long holds up what comes next, as it would a real node: that is the
//! column of the longest.

#![allow(clippy::unwrap_used, reason = "a benchmark")]

mod mesh;
mod others;

use core::time::Duration;
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
    hint::black_box,
    sync::Arc,
};

use mesh_core::{
    Buf, Lane, Principal,
    envelope::{Body, Envelope},
    id::{ActorId, Epoch, NodeId},
    meta::{ControlView, MeshCommand, MetaAnswer},
    op::{ActorReport, DriveReport, NodeLoad},
    time::Instant,
};
use mesh_placement::{
    doors::Doors,
    fate::Hosted,
    migration::{Ask, Heard},
    steward::{Act, Deed, Event, Observed, Outlook, Steward},
};

use self::{
    mesh::{HERE, Mesh},
    others::{Message, Others},
};

/// How long a message and an act take in the mesh.
const HOP: Duration = Duration::from_millis(1);
/// How long a proposal takes until its view is there.
const COMMIT: Duration = Duration::from_millis(4);
/// How long a plan takes until it is there.
const PLANNED: Duration = Duration::from_millis(300);
/// Between two takeovers that another leader proposes.
const TAKEOVER_EVERY: Duration = Duration::from_millis(1);

/// What comes when.
enum Next {
    /// Another node's turn to beat; briskly.
    Turn(NodeId, bool),
    /// A message of another is here.
    Message(NodeId, Message, bool),
    /// Something has happened.
    Event(Event),
    /// What was proposed is committed: by this node, for that hand.
    Committed(MeshCommand, Option<(ActorId, u64)>),
}

/// CPU time and counts of one kind of work.
#[derive(Clone, Copy, Debug, Default)]
struct Spent {
    count: u64,
    nanos: u64,
    longest: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Traffic {
    messages: u64,
    bytes: u64,
}

/// One node and what is around it.
struct Bench {
    steward: Steward,
    mesh: Mesh,
    others: Others,
    leads: bool,
    now: Instant,
    /// What comes, by when and in which order it was put there.
    queue: BinaryHeap<Reverse<(Instant, u64)>>,
    coming: BTreeMap<u64, Next>,
    put: u64,
    hosted: BTreeMap<ActorId, Hosted>,
    actors: BTreeMap<ActorId, ActorReport>,
    drives: Vec<DriveReport>,
    doors: Doors<(), ()>,
    published: Option<Outlook>,
    spent: BTreeMap<&'static str, Spent>,
    sent: Traffic,
    received: Traffic,
    rounds: u64,
}

impl Bench {
    fn new(nodes: u64, actors: u64, leads: bool) -> Self {
        let mesh = Mesh::new(nodes, actors);
        let steward = Steward::new(mesh.here(), Arc::new(mesh.control.clone()), Instant(1));
        let others = Others::new(&mesh, if leads { HERE } else { mesh::LEADER });
        let mut bench = Self {
            steward,
            drives: mesh.drives_of(HERE),
            others,
            mesh,
            leads,
            now: Instant(1),
            queue: BinaryHeap::new(),
            coming: BTreeMap::new(),
            put: 0,
            hosted: BTreeMap::new(),
            actors: BTreeMap::new(),
            doors: Doors::new(HERE),
            published: None,
            spent: BTreeMap::new(),
            sent: Traffic::default(),
            received: Traffic::default(),
            rounds: 0,
        };
        bench.learn(&ControlView::default());
        let ids: Vec<NodeId> = bench.others.ids().collect();
        for (at, id) in ids.into_iter().enumerate() {
            // Nodes beat when they beat: all over the half second.
            let phase = Duration::from_micros(500_000 * at as u64 / nodes);
            bench.put(bench.now + phase, Next::Turn(id, false));
            // A DPU beats briskly to its host and to the leader.
            if bench.mesh.host_of(id).is_some_and(|host| leads || host == HERE) {
                bench.put(bench.now + phase / 10, Next::Turn(id, true));
            }
        }
        bench
    }

    fn put(&mut self, at: Instant, next: Next) {
        self.put += 1;
        self.queue.push(Reverse((at, self.put)));
        self.coming.insert(self.put, next);
    }

    /// Does something on this node's account.
    fn timed<T>(&mut self, kind: &'static str, work: impl FnOnce(&mut Self) -> T) -> T {
        let began = std::time::Instant::now();
        let done = black_box(work(self));
        let nanos = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let spent = self.spent.entry(kind).or_default();
        spent.count += 1;
        spent.nanos += nanos;
        spent.longest = spent.longest.max(nanos);
        done
    }

    /// Lets time pass, unless that takes too long: says how much has.
    fn run(&mut self, span: Duration) -> Duration {
        let (begin, end, began) = (self.now, self.now + span, std::time::Instant::now());
        while began.elapsed() < PATIENCE {
            let next = self.queue.peek().map(|Reverse((at, _))| *at);
            let wake = self.steward.wake_at().max(self.now);
            let at = next.map_or(wake, |next| next.min(wake));
            if at > end {
                self.now = end;
                return span;
            }
            self.now = self.now.max(at);
            if next.is_some_and(|next| next <= wake)
                && let Some(Reverse((_, number))) = self.queue.pop()
                && let Some(next) = self.coming.remove(&number)
            {
                self.take(next);
            }
            if self.steward.wake_at() <= self.now {
                self.hear("time", Event::Time);
            }
            if self.steward.is_curious(self.now) {
                let observed = self.observe();
                self.hear("observation", Event::Observed(Box::new(observed)));
            }
            self.publish();
        }
        self.now.since(begin)
    }

    fn take(&mut self, next: Next) {
        match next {
            Next::Turn(id, brisk) => {
                if !self.others.is_up(id) {
                    return;
                }
                let every = Duration::from_millis(if brisk { 50 } else { 500 });
                self.put(self.now + every, Next::Turn(id, brisk));
                let message = self.others.beat(id, self.now);
                self.put(self.now + HOP, Next::Message(id, message, true));
            }
            Next::Message(id, message, is_beat) => {
                if !self.others.is_up(id) {
                    return;
                }
                let body = if is_beat { others::request(message) } else { others::answer(message) };
                let bytes = envelope(body).encode().unwrap();
                self.received.messages += 1;
                self.received.bytes += bytes.len() as u64;
                let decoded = self.timed("decode", |_| Envelope::decode_whole(&bytes).unwrap());
                let said = others::said(decoded.header.body).unwrap();
                let asked = said.clone();
                self.hear(if is_beat { "beat" } else { "answer" }, Event::Heard(said, self.now));
                if is_beat {
                    let answer = self.timed("compose", |it| it.steward.answer_to(&asked));
                    self.send(others::answer(answer.clone()));
                    self.others.hear(id, &answer);
                }
            }
            Next::Event(event) => {
                let kind = match event {
                    Event::Drives(_) => "drives",
                    _ => "end of an act",
                };
                self.hear(kind, event);
            }
            Next::Committed(command, hand) => {
                let before = self.mesh.control.clone();
                self.mesh.apply(&command);
                self.others.learn(&command);
                self.learn(&before);
                self.hear("control view", Event::Control(Arc::new(self.mesh.control.clone())));
                if let Some((actor, number)) = hand {
                    let heard = Heard::Proposed(Ok(MetaAnswer::Done));
                    self.hear("end of an act", Event::Stepped(actor, number, heard));
                }
            }
        }
    }

    /// What the owner does about a view beside telling the steward.
    fn learn(&mut self, before: &ControlView) {
        self.timed("directory", |it| mesh::learn(&mut it.doors, before, &it.mesh.control));
    }

    fn hear(&mut self, kind: &'static str, event: Event) {
        let now = self.now;
        let acts = self.timed(kind, |it| {
            let acts = it.steward.on(event, now);
            it.steward.check(now).expect("all is as it must be");
            acts
        });
        for act in acts {
            self.carry_out(act);
        }
    }

    fn publish(&mut self) {
        let before = self.published.take();
        let outlook = self.timed("publish", |it| {
            let outlook = it.steward.publish();
            // Readers let go of the one before.
            if outlook.is_some() {
                drop(before);
                return outlook;
            }
            before
        });
        self.published = outlook;
    }

    fn send(&mut self, body: Body) {
        let bytes = self.timed("encode", |_| envelope(body).encode().unwrap().len());
        self.sent.messages += 1;
        self.sent.bytes += bytes as u64;
    }

    fn carry_out(&mut self, act: Act) {
        if let Act::Plan(study) = act {
            let studied = self.timed(PLANNING, |_| study.carry_out());
            self.put(self.now + PLANNED, Next::Event(Event::Planned(Box::new(studied))));
            return;
        }
        if let Some(key) = act.key() {
            match act {
                Act::Stat => {
                    mesh::use_drives(&mut self.drives, self.now);
                    let drives = self.drives.clone();
                    self.put(self.now + HOP, Next::Event(Event::Drives(drives)));
                }
                Act::Actor(actor, deeds) => self.do_to(actor, deeds),
                _ => {}
            }
            self.put(self.now + HOP, Next::Event(Event::Ended(key, Ok(()))));
            return;
        }
        match act {
            Act::Beat(to, message) => {
                self.send(others::request(message.clone()));
                if self.others.is_up(to) {
                    self.others.hear(to, &message);
                    let answer = self.others.answer(to, &message);
                    self.put(self.now + HOP + HOP, Next::Message(to, answer, false));
                }
            }
            Act::Step(actor, number, Ask::Propose(command)) => {
                self.put(self.now + COMMIT, Next::Committed(command, Some((actor, number))));
            }
            Act::Step(..) => panic!("nothing moves live here"),
            _ => {}
        }
    }

    fn do_to(&mut self, actor: ActorId, deeds: Vec<Deed>) {
        for deed in deeds {
            match deed {
                Deed::Start(epoch, spec) => {
                    self.hosted.insert(actor, Hosted { epoch, phase: Default::default() });
                    let functions = spec.present().map(|part| part.name().to_owned()).collect();
                    self.actors.insert(actor, mesh::actor_report(actor, functions, epoch));
                }
                Deed::Evict | Deed::Retire(..) | Deed::Discard | Deed::Stop(_) => {
                    self.hosted.remove(&actor);
                    self.actors.remove(&actor);
                }
                Deed::Forget | Deed::Open(..) | Deed::Configure(_) => {}
            }
        }
    }

    /// What the node sees of itself. A quarter of its actors has been used.
    fn observe(&mut self) -> Observed {
        self.rounds += 1;
        for (at, actor) in self.actors.values_mut().enumerate() {
            mesh::use_actor(actor, at as u64, self.rounds);
        }
        let groups = mesh::groups(HERE, if self.leads { HERE } else { mesh::LEADER }, self.mesh.hosts);
        let load = NodeLoad { cpu_ns: self.now.0 / 3, ..NodeLoad::default() };
        Observed {
            groups,
            marked: self.now.0 / 10_000_000,
            hosted: self.hosted.clone(),
            actors: self.actors.values().cloned().collect(),
            load,
            ..Observed::default()
        }
    }

    fn begin(&mut self) {
        self.spent.clear();
        (self.sent, self.received) = (Traffic::default(), Traffic::default());
    }

    fn tell(&self, what: &str, span: Duration) {
        let seconds = span.as_secs_f64();
        let role = if self.leads { "the leader" } else { "an ordinary node" };
        let a_second = |traffic: Traffic| {
            let (messages, bytes) = (traffic.messages as f64 / seconds, traffic.bytes as f64 / seconds);
            format!("{messages:>6.0} messages, {:>8.1} kB", bytes / 1000.0)
        };
        println!("\n{role}, {what}, a virtual second:");
        println!("  sent     {}\n  received {}", a_second(self.sent), a_second(self.received));
        let millis = |nanos: u64| nanos as f64 / 1e6;
        let total: u64 = self.spent.values().map(|spent| spent.nanos).sum();
        let owner = |kind: &&str| !["encode", "decode", PLANNING].contains(kind);
        let events = self.spent.iter().filter(|(kind, _)| owner(kind));
        let (decided, longest) =
            events.fold((0, 0), |(sum, most), (_, spent)| (sum + spent.nanos, most.max(spent.longest)));
        println!(
            "  in all   {:>9.2} ms, of the owner {:>9.2} ms, its longest single event {:.2} ms",
            millis(total) / seconds,
            millis(decided) / seconds,
            millis(longest),
        );
        for (kind, spent) in &self.spent {
            println!(
                "    {kind:<14} {:>9.1} times {:>9.3} ms, longest {:>9.3} ms",
                spent.count as f64 / seconds,
                millis(spent.nanos) / seconds,
                millis(spent.longest),
            );
        }
    }
}

/// What is done beside the owner.
const PLANNING: &str = "planning";

fn envelope(body: Body) -> Envelope {
    match body {
        Body::Request(op) => Envelope::request(
            ActorId::NODE,
            Epoch(0),
            op,
            Buf::empty(),
            Principal::System,
            Lane::Control,
            Duration::from_secs(2),
        ),
        body => Envelope::of(12_345, Lane::Control, body, Buf::empty()),
    }
}

fn measure(nodes: u64, actors: u64, leads: bool) {
    let mut bench = Bench::new(nodes, actors, leads);
    // It looks around, starts what it hosts, hears of everybody, and plans for the first time.
    bench.run(SETTLE);
    bench.begin();
    let passed = bench.run(REST);
    bench.tell("at rest", passed);

    let rack: BTreeSet<NodeId> = bench.mesh.rack();
    let stranded: Vec<ActorId> = bench.mesh.actors_on(&rack);
    for node in &rack {
        bench.others.lose(*node);
    }
    if !leads {
        // The leader has missed them by now.
        let begins = bench.now + Duration::from_millis(310);
        for (at, actor) in stranded.iter().enumerate() {
            let command = bench.mesh.takeover(*actor);
            bench.put(begins + TAKEOVER_EVERY * at as u32, Next::Committed(command, None));
        }
    }
    bench.begin();
    let passed = bench.run(LOSS);
    let what =
        format!("{} nodes and their {} actors are lost, the first {passed:?} of {LOSS:?}", rack.len(), stranded.len());
    bench.tell(&what, passed);
    let left = bench.mesh.actors_on(&rack).len();
    println!("  {left} of their actors have no new place yet");
}

const SETTLE: Duration = Duration::from_secs(4);
const REST: Duration = Duration::from_secs(4);
const LOSS: Duration = Duration::from_secs(6);
/// Real time that one of these may take.
const PATIENCE: Duration = Duration::from_secs(90);

fn main() {
    // Test runners list and run benches too; only `cargo bench` measures.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let mut numbers = std::env::args().filter_map(|argument| argument.parse::<u64>().ok());
    let nodes = numbers.next().unwrap_or(1_000);
    let actors = numbers.next().unwrap_or(nodes * 100);
    println!("{nodes} nodes, {actors} actors");
    for leads in [false, true] {
        measure(nodes, actors, leads);
    }
}
