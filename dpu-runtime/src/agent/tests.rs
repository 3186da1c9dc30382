use core::time::Duration;
use std::{
    collections::BTreeMap,
    sync::{OnceLock, Weak},
};

use crate::shell::{Onward, Ports, Workers};
use mesh_core::{
    Cx, Entropy, Event, Outcome, Request, Response, StorageFunction, WorkOutcome,
    envelope::Body,
    id::GroupId,
    meta::{Command, MetaAnswer, Query},
    op::{MoveOp, ShardOp},
    port::{CallGuard, Clock, Completion, Compute, ComputeJob, Metadata, Outbound},
    snapshot::{Mark, Snapshot},
    spec::{EncryptSpec, FunctionSpec},
    time::UnixMillis,
};

use super::*;

const ACTOR: ActorId = ActorId(7);
const ID: MoveId = MoveId(3);
const EPOCH: Epoch = Epoch(5);

/// Keeps a number a key; every request adds one to the next key in turn, but a deletion is never answered. Pages of two
/// entries.
#[derive(Default)]
struct Ledger {
    numbers: BTreeMap<u8, u64>,
    /// When each key last changed.
    changed: BTreeMap<u64, u8>,
    clock: u64,
    version: u16,
    /// A hundred keys change before the first page, and whenever the last one has been read.
    restless: bool,
}

impl Ledger {
    fn add(&mut self, key: u8) {
        *self.numbers.entry(key).or_default() += 1;
        self.clock += 1;
        self.changed.retain(|_, other| *other != key);
        self.changed.insert(self.clock, key);
    }
}

impl StorageFunction for Ledger {
    fn on_event(&mut self, event: Event, cx: &mut Cx<'_>) {
        if let Event::Request { id, request } = event {
            if matches!(&request.op, Op::Shard(op) if matches!(**op, ShardOp::Delete { .. })) {
                return;
            }
            let key = (self.numbers.values().sum::<u64>() % 5) as u8;
            self.add(key);
            let payload = Buf::copy_of(&self.numbers.values().sum::<u64>().to_le_bytes());
            cx.reply(id, Ok(Response { answer: Answer::Done, payload }));
        }
    }

    fn in_flight(&self) -> usize {
        0
    }

    fn snapshot(&mut self, since: Option<Mark>) -> Snapshot {
        if self.restless && since.is_none() {
            (100..200).for_each(|key| self.add(key));
        }
        let from = since.map_or(0, |mark| mark.0);
        let page: Vec<(u64, u8)> = self.changed.range(from + 1..).take(2).map(|(at, key)| (*at, *key)).collect();
        let mark = Mark(page.last().map_or(from, |(at, _)| *at));
        let entries =
            page.iter().map(|(_, key)| (vec![*key], Some(self.numbers[key].to_le_bytes().to_vec()))).collect();
        let more = self.changed.range(mark.0 + 1..).next().is_some();
        if self.restless && !more {
            (100..200).for_each(|key| self.add(key));
        }
        Snapshot { version: self.version, mark, since, more, entries, ..Snapshot::default() }
    }

    fn restore(&mut self, page: &Snapshot) -> Result<(), Error> {
        if page.version > 0 {
            return Err(Error::new(ErrorKind::Unsupported, "a snapshot of a newer version; upgrade this node first"));
        }
        for (key, value) in &page.entries {
            let number = value.as_deref().and_then(|value| value.try_into().ok()).map(u64::from_le_bytes);
            let number = number.ok_or_else(|| Error::invalid("a number of 8 bytes"))?;
            self.numbers.insert(key[0], number);
            self.clock += 1;
            self.changed.insert(self.clock, key[0]);
        }
        Ok(())
    }
}

/// Everything that a host takes from outside. Its link leads to one other agent; on the way it may damage pages.
struct World {
    peer: OnceLock<Weak<Inner>>,
    harm: Harm,
    sent: Mutex<u32>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Harm {
    None,
    /// Flips a bit of the third page.
    Damage,
    /// Loses the third page, and says that it arrived.
    Skip,
    /// Sends every page twice.
    Twice,
    /// None on the way, but the actor changes as fast as it is carried.
    Restless,
}

impl Clock for World {
    fn now(&self) -> Instant {
        Instant(1)
    }

    fn wall(&self) -> UnixMillis {
        UnixMillis(0)
    }
}

impl Compute for World {
    fn run(&self, _: ComputeJob) -> WorkOutcome {
        Err(Error::invalid("not in this test"))
    }

    fn is_small(&self, _: &ComputeJob) -> bool {
        true
    }
}

impl Metadata for World {
    fn query(&self, _: GroupId, _: Arc<Query>, _: Instant, done: Completion<Result<Arc<MetaAnswer>, Error>>) {
        done(Err(Error::invalid("not in this test")));
    }

    fn propose(&self, _: Arc<Command>, _: Instant, done: Completion<Result<Arc<MetaAnswer>, Error>>) {
        done(Err(Error::invalid("not in this test")));
    }
}

impl Outbound for World {
    fn send(&self, _: NodeId, envelope: Envelope, done: Completion<Outcome>) -> CallGuard {
        let Body::Request(Op::Node(op)) = envelope.header.body else { panic!("only steps are sent") };
        let NodeOp::Move(step) = *op else { panic!("only steps are sent") };
        let sent = {
            let mut sent = self.sent.lock().unwrap();
            *sent += 1;
            *sent
        };
        let peer = self.peer.get().and_then(Weak::upgrade).map(Agent).expect("both live in this test");
        let (harm, mut payload) = (self.harm, envelope.payload);
        tokio::spawn(async move {
            if sent == 3 && harm == Harm::Damage {
                let mut bytes = payload.to_vec();
                bytes[5] ^= 1;
                payload = Buf::copy_of(&bytes);
            }
            if sent == 3
                && harm == Harm::Skip
                && let MoveOp::Install { page, digest } = step.what
            {
                let moved = Moved { pages: page + 1, digest, ..Moved::default() };
                return done(Ok(Answer::Moved(moved).into()));
            }
            if harm == Harm::Twice {
                peer.carry_out(step, payload.clone()).await.expect("the first copy is taken");
            }
            done(peer.carry_out(step, payload).await.map(|moved| Answer::Moved(moved).into()));
        });
        CallGuard::none()
    }
}

struct Zeros;

impl Entropy for Zeros {
    fn fill(&mut self, target: &mut [u8]) {
        target.fill(0);
    }
}

async fn agent(node: u64, harm: Harm, version: u16) -> (Agent, Arc<World>) {
    let world = Arc::new(World { peer: OnceLock::new(), harm, sent: Mutex::default() });
    let ports = Ports {
        clock: world.clone(),
        entropy: Arc::new(|| Box::new(Zeros)),
        compute: world.clone(),
        workers: Workers::threads(1).unwrap(),
        metadata: world.clone(),
        outbound: world.clone(),
    };
    let host = Host::new(NodeId(node), ports);
    let setups: Setups = Arc::new(move |id, epoch| {
        let build = move |_: &FunctionSpec| -> Result<Box<dyn StorageFunction>, Error> {
            Ok(Box::new(Ledger { version, restless: harm == Harm::Restless, ..Ledger::default() }))
        };
        let spec = Arc::new(FunctionSpec::Encrypt(EncryptSpec::default()));
        Ok(ActorSetup { id, epoch, spec, build: Arc::new(build), disk: None, onward: Onward::End })
    });
    (Agent::new(host, setups), world)
}

/// A source with an actor that was asked 12 times, and a target.
async fn pair(harm: Harm, version: u16) -> (Agent, Agent) {
    let ((from, world), (to, _)) = (agent(1, harm, version).await, agent(2, Harm::None, 0).await);
    world.peer.set(Arc::downgrade(&to.0)).unwrap();
    from.0.host.start((from.0.setups)(ACTOR, EPOCH).unwrap()).await.unwrap();
    for asked in 1..=12 {
        assert_eq!(ask(&from).await, Ok(asked));
    }
    (from, to)
}

async fn ask(agent: &Agent) -> Result<u64, ErrorKind> {
    let op = ShardOp::Stat;
    let outcome = agent.0.host.request(ACTOR, Request::system(op, Instant::NEVER)).await;
    outcome.map(|response| u64::from_le_bytes(response.payload[..].try_into().unwrap())).map_err(|error| error.kind())
}

async fn step(agent: &Agent, what: MoveOp) -> Result<Moved, ErrorKind> {
    let step = MoveStep { actor: ACTOR, epoch: EPOCH, id: ID, what };
    agent.carry_out(step, Buf::empty()).await.map_err(|error| error.kind())
}

const TO: NodeId = NodeId(2);
/// Longer than a move takes after all that happens here.
const LATER: Instant = Instant(60_000_000_000);

#[tokio::test]
async fn the_state_arrives_whole_however_it_changes_on_the_way() {
    for harm in [Harm::None, Harm::Twice] {
        let (from, to) = pair(harm, 0).await;
        step(&to, MoveOp::Warm).await.unwrap();
        let copied = step(&from, MoveOp::PreCopy { to: TO }).await.unwrap();
        // Three pages, and an empty one.
        assert_eq!((copied.entries, copied.pages), (5, 4));
        assert_eq!((ask(&from).await, ask(&from).await), (Ok(13), Ok(14)));
        let rest = step(&from, MoveOp::Freeze { to: TO }).await.unwrap();
        // A page before requests wait, and one when they do.
        assert_eq!((rest.entries, rest.pages), (2, 6));
        step(&to, MoveOp::Activate).await.unwrap();
        step(&from, MoveOp::Retire { to: TO }).await.unwrap();
        assert_eq!(ask(&to).await, Ok(15));
        assert!(from.0.host.actors().is_empty());
        assert_eq!(from.overdue(LATER), []);
    }
}

#[tokio::test]
async fn what_was_under_way_when_an_actor_left_has_half_a_minute_to_end() {
    let (from, to) = pair(Harm::None, 0).await;
    let unanswered = Request::system(ShardOp::Delete { ids: Vec::new(), until: None }, Instant::NEVER);
    let mut held = Box::pin(from.0.host.request(ACTOR, unanswered));
    step(&to, MoveOp::Warm).await.unwrap();
    step(&from, MoveOp::PreCopy { to: TO }).await.unwrap();
    step(&from, MoveOp::Freeze { to: TO }).await.unwrap();
    step(&to, MoveOp::Activate).await.unwrap();
    tokio::time::pause();
    step(&from, MoveOp::Retire { to: TO }).await.unwrap();
    assert_eq!(ask(&to).await, Ok(13));
    let early = tokio::time::timeout(Duration::from_secs(29), &mut held).await;
    assert!(early.is_err(), "{early:?}");
    let late = tokio::time::timeout(Duration::from_secs(2), held).await.expect("not longer");
    assert_eq!(late.unwrap_err().kind(), ErrorKind::Restarted);
}

#[tokio::test]
async fn nothing_is_sent_while_requests_wait_if_the_target_has_all() {
    let (from, to) = pair(Harm::None, 0).await;
    step(&to, MoveOp::Warm).await.unwrap();
    let copied = step(&from, MoveOp::PreCopy { to: TO }).await.unwrap();
    let rest = step(&from, MoveOp::Freeze { to: TO }).await.unwrap();
    // Asked once more before requests wait, and not while they do.
    assert_eq!((rest.entries, rest.pages), (0, copied.pages + 1));
    step(&to, MoveOp::Activate).await.unwrap();
    step(&from, MoveOp::Retire { to: TO }).await.unwrap();
    assert_eq!(ask(&to).await, Ok(13));
}

#[tokio::test]
async fn a_target_that_began_anew_after_it_had_all_is_found_before_requests_wait() {
    let (from, to) = pair(Harm::None, 0).await;
    step(&to, MoveOp::Warm).await.unwrap();
    step(&from, MoveOp::PreCopy { to: TO }).await.unwrap();
    to.forget(ACTOR);
    to.0.host.discard(ACTOR);
    assert_eq!(step(&from, MoveOp::Freeze { to: TO }).await, Err(ErrorKind::NoSuchActor));
    assert_eq!(from.overdue(LATER), []);
    assert_eq!(ask(&from).await, Ok(13));
}

#[tokio::test]
async fn a_page_that_is_damaged_or_missing_is_found_before_the_commit() {
    for (harm, kind) in [(Harm::Damage, ErrorKind::Corrupt), (Harm::Skip, ErrorKind::Conflict)] {
        let (from, to) = pair(harm, 0).await;
        step(&to, MoveOp::Warm).await.unwrap();
        let copied = step(&from, MoveOp::PreCopy { to: TO }).await;
        let found = match copied {
            Ok(_) => step(&from, MoveOp::Freeze { to: TO }).await.err(),
            Err(kind) => Some(kind),
        };
        assert_eq!(found, Some(kind));
        // The move is taken back: nothing is lost.
        // Where it was not frozen yet, it goes on already.
        assert_eq!(step(&from, MoveOp::Thaw).await, Ok(Moved::default()));
        step(&to, MoveOp::Discard).await.unwrap();
        assert_eq!(ask(&from).await, Ok(13));
        assert!(to.0.host.actors().is_empty());
    }
}

#[tokio::test]
async fn a_snapshot_of_a_newer_version_is_refused() {
    let (from, to) = pair(Harm::None, 1).await;
    step(&to, MoveOp::Warm).await.unwrap();
    assert_eq!(step(&from, MoveOp::PreCopy { to: TO }).await, Err(ErrorKind::Unsupported));
    step(&to, MoveOp::Discard).await.unwrap();
    assert_eq!(ask(&from).await, Ok(13));
}

#[tokio::test]
async fn steps_of_a_move_that_is_not_under_way_change_nothing() {
    let (from, to) = pair(Harm::None, 0).await;
    assert_eq!(step(&from, MoveOp::Freeze { to: TO }).await, Err(ErrorKind::NoSuchActor));
    assert_eq!(step(&from, MoveOp::PreCopy { to: TO }).await, Err(ErrorKind::NoSuchActor), "the target is not warm");
    assert_eq!(step(&to, MoveOp::Activate).await, Err(ErrorKind::NoSuchActor));
    assert_eq!(step(&to, MoveOp::Install { page: 0, digest: 0 }).await, Err(ErrorKind::NoSuchActor));
    assert_eq!(ask(&from).await, Ok(13));
    // A late page of an earlier move does not meet the one under way.
    step(&to, MoveOp::Warm).await.unwrap();
    let late = MoveStep { actor: ACTOR, epoch: EPOCH, id: MoveId(2), what: MoveOp::Install { page: 0, digest: 0 } };
    assert_eq!(to.carry_out(late, Buf::empty()).await.map_err(|error| error.kind()), Err(ErrorKind::Conflict));
}

#[tokio::test]
async fn steps_of_a_move_that_is_over_do_not_meet_a_later_one() {
    let (from, to) = pair(Harm::None, 0).await;
    let late = |what| MoveStep { actor: ACTOR, epoch: EPOCH, id: MoveId(ID.0 - 1), what };
    step(&to, MoveOp::Warm).await.unwrap();
    step(&from, MoveOp::PreCopy { to: TO }).await.unwrap();
    step(&from, MoveOp::Freeze { to: TO }).await.unwrap();
    for (agent, what) in [(&from, MoveOp::Thaw), (&from, MoveOp::PreCopy { to: TO }), (&to, MoveOp::Discard)] {
        let refused = agent.carry_out(late(what), Buf::empty()).await.map_err(|error| error.kind());
        assert_eq!(refused, Err(ErrorKind::Conflict));
    }
    assert_eq!(from.overdue(LATER), [(ACTOR, EPOCH, ID)]);
    step(&to, MoveOp::Activate).await.unwrap();
    step(&from, MoveOp::Retire { to: TO }).await.unwrap();
    assert_eq!(ask(&to).await, Ok(13));
}

#[tokio::test]
async fn a_second_controller_does_not_begin_the_same_move_anew() {
    let (from, to) = pair(Harm::None, 0).await;
    step(&to, MoveOp::Warm).await.unwrap();
    step(&from, MoveOp::PreCopy { to: TO }).await.unwrap();
    assert_eq!(step(&to, MoveOp::Warm).await, Err(ErrorKind::Conflict));
    // What the first has brought over is still there.
    step(&from, MoveOp::Freeze { to: TO }).await.unwrap();
    step(&to, MoveOp::Activate).await.unwrap();
    step(&from, MoveOp::Retire { to: TO }).await.unwrap();
    assert_eq!(ask(&to).await, Ok(13));
}

#[tokio::test]
async fn a_state_that_changes_as_fast_as_it_is_carried_is_not_carried_for_ever() {
    let (from, to) = pair(Harm::Restless, 0).await;
    step(&to, MoveOp::Warm).await.unwrap();
    let copied = step(&from, MoveOp::PreCopy { to: TO }).await.unwrap();
    // Of three rounds, the third was no smaller than the second.
    assert_eq!(copied.entries, 105 + 100 + 100);
}

#[tokio::test]
async fn an_actor_that_waits_for_the_end_of_its_move_is_named() {
    let (from, to) = pair(Harm::None, 0).await;
    step(&to, MoveOp::Warm).await.unwrap();
    step(&from, MoveOp::PreCopy { to: TO }).await.unwrap();
    assert_eq!(from.overdue(LATER), []);
    step(&from, MoveOp::Freeze { to: TO }).await.unwrap();
    assert_eq!(from.overdue(LATER), [(ACTOR, EPOCH, ID)]);
    step(&from, MoveOp::Thaw).await.unwrap();
    assert_eq!(from.overdue(LATER), []);
    assert_eq!(tokio::time::timeout(Duration::from_secs(5), ask(&from)).await, Ok(Ok(13)));
}
