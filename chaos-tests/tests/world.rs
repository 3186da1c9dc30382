//! The world itself, with toy functions: what it promises to functions, and that it sees when they break theirs.

use core::time::Duration;
use std::{collections::BTreeMap, sync::Arc};

use mesh_chaos_tests::{
    disk::{Crash, Disk, DiskWeather},
    invariants::{Admission, Invariants},
    metadata::{Groups, MetadataWeather, Quorum},
    network::{Network, NetworkWeather},
    random::Stream,
    trace::Trace,
    world::{Notice, Setting, World},
};
use mesh_core::{
    Answer, Buf, Cx, Error, ErrorKind, Event, Job, Outcome, Request, StorageFunction, Target, WorkOutcome,
    id::{ActorId, DriveId, GroupId, NodeId, Token},
    meta::{Command, ControlView, MetaAnswer, Query},
    op::ShardOp,
    port::{Compute, ComputeJob, DiskJob},
    snapshot::{Mark, Snapshot},
    time::Instant,
};

const A: NodeId = NodeId(1);
const B: NodeId = NodeId(2);
const FRONT: ActorId = ActorId(11);
const BACK: ActorId = ActorId(12);

struct Nothing;

impl Groups for Nothing {
    fn propose(&mut self, _: &Command) -> Result<MetaAnswer, Error> {
        Ok(MetaAnswer::Done)
    }

    fn query(&mut self, _: GroupId, _: &Query) -> Result<MetaAnswer, Error> {
        Ok(MetaAnswer::Done)
    }

    fn control(&mut self) -> Arc<ControlView> {
        Arc::default()
    }
}

impl Compute for Nothing {
    fn run(&self, _: ComputeJob) -> WorkOutcome {
        Err(Error::invalid("toys compute nothing"))
    }

    fn is_small(&self, _: &ComputeJob) -> bool {
        true
    }
}

fn world(seed: u64, weather: NetworkWeather) -> World {
    let mut world = World::new(
        seed,
        Network::new(seed, weather),
        Quorum::new(seed, Box::new(Nothing), MetadataWeather::calm()),
        Arc::new(Nothing),
        Invariants::new(vec![Box::new(Admission::default())]),
        Trace::new(false),
    );
    for node in [A, B] {
        world.add_node(node, 0);
        world.boot(node);
    }
    world
}

/// Passes requests on to the next stage.
#[derive(Default)]
struct Front {
    out: BTreeMap<Token, Token>,
}

impl StorageFunction for Front {
    fn on_event(&mut self, event: Event, cx: &mut Cx<'_>) {
        match event {
            Event::Request { id, request } => {
                let call = cx.call(Target::Next, request);
                self.out.insert(call, id);
            }
            Event::Reply { call, outcome } => {
                let id = self.out.remove(&call).expect("a call of this function");
                cx.reply(id, outcome);
            }
            _ => {}
        }
    }

    fn in_flight(&self) -> usize {
        self.out.len()
    }

    fn snapshot(&mut self, _: Option<Mark>) -> Snapshot {
        Snapshot::default()
    }
}

/// How a toy misbehaves.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Manner {
    Good,
    Silent,
    Twice,
    Panics,
    Spins,
}

/// Answers at once.
struct Back(Manner);

impl StorageFunction for Back {
    fn on_event(&mut self, event: Event, cx: &mut Cx<'_>) {
        if let Event::Request { id, .. } = event {
            let times = match self.0 {
                Manner::Good | Manner::Spins => 1,
                Manner::Silent => 0,
                Manner::Twice => 2,
                Manner::Panics => panic!("the toy is broken"),
            };
            (0..times).for_each(|_| cx.reply(id, Ok(Answer::Done.into())));
        }
    }

    fn wake_at(&self) -> Option<Instant> {
        (self.0 == Manner::Spins).then_some(Instant(0))
    }

    fn in_flight(&self) -> usize {
        0
    }

    fn snapshot(&mut self, _: Option<Mark>) -> Snapshot {
        Snapshot::default()
    }
}

fn ask(world: &mut World, ticket: u64) {
    let deadline = world.clock(A) + Duration::from_secs(30);
    world.submit(A, FRONT, Request::system(ShardOp::Stat, deadline), ticket);
}

fn front_and_back(world: &mut World, manner: Manner) {
    world.host(A, FRONT, Box::new(Front::default()), Setting { next: Some(BACK), disk: None });
    world.host(B, BACK, Box::new(Back(manner)), Setting::default());
}

/// The answers, by ticket.
fn answers(world: &mut World, span: Duration) -> BTreeMap<u64, Outcome> {
    let limit = (world.now() + span).0;
    let mut answers = BTreeMap::new();
    while let Some(notice) = world.step_until(limit) {
        if let Notice::Answered { ticket, outcome } = notice {
            assert!(answers.insert(ticket, outcome).is_none(), "ticket {ticket} is answered twice");
        }
    }
    answers
}

#[test]
fn every_request_over_a_bad_link_is_answered_once() {
    let weather = NetworkWeather { loss_per_mille: 100, duplicate_per_mille: 500, ..NetworkWeather::calm() };
    let mut world = world(1, weather);
    front_and_back(&mut world, Manner::Good);
    for ticket in 0..500 {
        ask(&mut world, ticket);
    }
    let answers = answers(&mut world, Duration::from_secs(60));
    assert_eq!(world.violation(), None);
    assert_eq!(answers.len(), 500);
    let lost = answers.values().filter(|outcome| outcome.is_err()).count();
    assert!((10..500).contains(&lost), "{lost} lost");
    assert!(world.network.duplicates_dropped > 100);
    assert!(world.unfinished().is_empty());
}

#[test]
fn a_call_to_a_node_that_crashes_ends_with_an_uncertain_error() {
    let mut world = world(2, NetworkWeather::calm());
    front_and_back(&mut world, Manner::Silent);
    ask(&mut world, 1);
    assert!(answers(&mut world, Duration::from_millis(10)).is_empty());
    world.crash(B, Crash::Power);
    let answers = answers(&mut world, Duration::from_secs(10));
    assert_eq!(answers[&1].as_ref().map_err(Error::kind), Err(ErrorKind::LinkLost));
}

#[test]
fn a_call_to_a_node_that_is_down_ends_with_a_certain_error() {
    let mut world = world(2, NetworkWeather::calm());
    front_and_back(&mut world, Manner::Good);
    world.crash(B, Crash::Kill);
    ask(&mut world, 1);
    let answers = answers(&mut world, Duration::from_secs(10));
    assert_eq!(answers[&1].as_ref().map_err(Error::kind), Err(ErrorKind::Unreachable));
}

#[test]
fn a_call_that_nobody_answers_times_out_at_its_deadline() {
    let mut world = world(3, NetworkWeather::calm());
    front_and_back(&mut world, Manner::Silent);
    ask(&mut world, 1);
    assert!(answers(&mut world, Duration::from_secs(29)).is_empty());
    let answers = answers(&mut world, Duration::from_secs(2));
    assert_eq!(answers[&1].as_ref().map_err(Error::kind), Err(ErrorKind::Timeout));
    assert_eq!(world.unfinished().len(), 1, "the toy still owes its answer");
}

#[test]
fn a_second_answer_is_a_violation() {
    let mut world = world(4, NetworkWeather::calm());
    front_and_back(&mut world, Manner::Twice);
    ask(&mut world, 1);
    answers(&mut world, Duration::from_secs(1));
    assert!(world.violation().is_some_and(|why| why.contains("twice")));
}

#[test]
fn a_panic_is_a_violation_with_its_text_and_place() {
    let mut world = world(5, NetworkWeather::calm());
    front_and_back(&mut world, Manner::Panics);
    ask(&mut world, 1);
    answers(&mut world, Duration::from_secs(1));
    assert!(world.violation().is_some_and(|why| why.contains("the toy is broken at ") && why.contains("world.rs")));
}

#[test]
fn a_function_that_spins_is_a_violation() {
    let mut world = world(6, NetworkWeather::calm());
    front_and_back(&mut world, Manner::Spins);
    ask(&mut world, 1);
    answers(&mut world, Duration::from_secs(1));
    assert!(world.violation().is_some_and(|why| why.contains("spins")));
}

/// Writes and syncs for each request, and answers then.
#[derive(Default)]
struct Store {
    works: BTreeMap<Token, (Token, bool)>,
}

impl StorageFunction for Store {
    fn on_event(&mut self, event: Event, cx: &mut Cx<'_>) {
        match event {
            Event::Request { id, request } => {
                let work = cx.start(Job::Disk(DiskJob::Write { at: 0, bufs: vec![request.payload] }));
                self.works.insert(work, (id, false));
            }
            Event::Done { work, outcome } => {
                let (id, synced) = self.works.remove(&work).expect("a piece of work of this function");
                match outcome {
                    Ok(_) if !synced => {
                        let work = cx.start(Job::Disk(DiskJob::Sync));
                        self.works.insert(work, (id, true));
                    }
                    outcome => cx.reply(id, outcome.map(|_| Answer::Done.into())),
                }
            }
            _ => {}
        }
    }

    fn in_flight(&self) -> usize {
        self.works.len()
    }

    fn snapshot(&mut self, _: Option<Mark>) -> Snapshot {
        Snapshot::default()
    }
}

/// What a store that is cut off at every effect has on its medium once it has answered.
#[test]
fn what_was_answered_survives_a_power_cut_at_any_effect() {
    let drive = DriveId(1);
    let mut answered = 0;
    for effect in 1..8 {
        let mut world = world(effect, NetworkWeather::calm());
        let stream = Stream::new(effect, "disk", 1);
        world.disks.insert(drive, Disk::new(A, 1 << 20, DiskWeather::calm(), stream));
        world.host(A, FRONT, Box::new(Store::default()), Setting { next: None, disk: Some(drive) });
        world.crash_at_effect(A, effect, Crash::Power);
        let mut payload = Buf::zeroed(4096);
        payload.make_mut().fill(9);
        let deadline = world.clock(A) + Duration::from_secs(30);
        for ticket in 0..2 {
            let request = Request { payload: payload.clone(), ..Request::system(ShardOp::Stat, deadline) };
            world.submit(A, FRONT, request, ticket);
        }
        let outcomes = answers(&mut world, Duration::from_secs(1));
        world.crash(A, Crash::Power);
        assert_eq!(outcomes.len(), 2);
        if outcomes.values().any(Outcome::is_ok) {
            answered += 1;
            let held = world.disks[&drive].contents().any(|block| block[..] == payload[..]);
            assert!(held, "cut at effect {effect}");
        }
    }
    assert!((1..7).contains(&answered), "{answered} of 7 answered");
}

#[test]
fn one_seed_gives_one_trace() {
    let hash = |seed| {
        let weather = NetworkWeather { loss_per_mille: 50, duplicate_per_mille: 200, ..NetworkWeather::calm() };
        let mut world = world(seed, weather);
        front_and_back(&mut world, Manner::Good);
        (0..50).for_each(|ticket| ask(&mut world, ticket));
        answers(&mut world, Duration::from_secs(60));
        world.trace().hash()
    };
    assert_eq!(hash(1), hash(1));
    assert_ne!(hash(1), hash(2));
}
