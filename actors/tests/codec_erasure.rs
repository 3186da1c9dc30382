//! Erasure against a model of drives that fail, stall and lose answers at random: whatever it acknowledged can be read
//! back with any m drives of the stripe gone, and what it reads is never wrong.

use core::time::Duration;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use mesh_actors::erasure::Erasure;
use mesh_core::{
    Answer, Buf, Cx, Effect, Entropy, Error, ErrorKind, Event, Job, Lane, Op, Outcome, Principal, Request, Response,
    StorageFunction, Target, Tokens,
    id::{BucketId, DriveId, LayoutId, NodeId, ShardId, StripeId, TenantId, Token, WriteId},
    meta::Compression,
    op::{Binding, ShardOp, StripeOp, StripeTarget},
    port::{ComputeJob, WorkOutput},
    spec::{ErasureSpec, FunctionSpec},
    time::{Instant, UnixMillis},
    topology::{Code, DriveState, Layout, mix},
};
use proptest::prelude::*;

/// A stream of numbers from a seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = mix(self.0);
        self.0 % sides
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.roll(100) < percent
    }
}

struct NoEntropy;

impl Entropy for NoEntropy {
    fn fill(&mut self, _: &mut [u8]) {
        panic!("Erasure draws no randomness")
    }
}

/// How a drive behaves at present.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mood {
    Well,
    /// Some requests are slow, lost before or after they were done, or refused.
    Erratic,
    /// Refuses new shards; its owner may not have said so yet.
    Full,
    /// Takes requests and never answers.
    Stuck,
    Dead,
}

/// One stored shard: code, sealed length, CRC, bytes.
type Stored = (Code, u32, u32, Buf);

enum Due {
    /// The function's own event.
    Event(Event),
    /// A request reaches a drive; the answer goes back, or is lost.
    Drive { drive: DriveId, op: ShardOp, payload: Buf, answer_to: Option<Token> },
}

struct World {
    erasure: Erasure,
    tokens: Tokens,
    now: Instant,
    sequence: u64,
    due: BTreeMap<(Instant, u64), Due>,
    layout: Arc<Layout>,
    moods: BTreeMap<DriveId, Mood>,
    shards: BTreeMap<(DriveId, ShardId), Stored>,
    dice: Dice,
    replies: BTreeMap<Token, Outcome>,
    requests: u64,
}

impl World {
    fn new(seed: u64, code: Code, nodes: u64) -> Self {
        let mut dice = Dice(seed);
        let drives: Vec<DriveId> = (1..=nodes * 2).map(DriveId).collect();
        let groups = (0..4)
            .map(|_| {
                let mut group = drives.clone();
                (1..group.len()).rev().for_each(|at| group.swap(at, dice.roll(at as u64 + 1) as usize));
                group
            })
            .collect();
        let domains = drives.iter().map(|drive| (*drive, NodeId(drive.0 % nodes))).collect();
        let mut world = Self {
            erasure: Erasure::new(ErasureSpec::default()),
            tokens: Tokens::default(),
            now: Instant(0),
            sequence: 0,
            due: BTreeMap::new(),
            layout: Arc::new(Layout {
                id: LayoutId(1),
                code,
                groups,
                domains,
                line: 1,
                others: Vec::new(),
                places: mesh_core::topology::Places::default(),
                rule: mesh_core::topology::Rule::default(),
            }),
            moods: drives.iter().map(|drive| (*drive, Mood::Well)).collect(),
            shards: BTreeMap::new(),
            dice,
            replies: BTreeMap::new(),
            requests: 0,
        };
        world.configure();
        world.run();
        world
    }

    /// Lets the function know how drives are, some time from now.
    fn configure(&mut self) {
        let state = |mood: &Mood| match mood {
            Mood::Dead => DriveState::Down,
            Mood::Full => DriveState::Full,
            Mood::Well | Mood::Erratic | Mood::Stuck => DriveState::Up,
        };
        let spec = ErasureSpec {
            layouts: [(LayoutId(1), self.layout.clone())].into(),
            drives: self.moods.iter().map(|(drive, mood)| (*drive, state(mood))).collect(),
        };
        let delay = self.dice.roll(2_000);
        self.later(delay, Due::Event(Event::Configure(Arc::new(FunctionSpec::Erasure(spec)))));
    }

    fn later(&mut self, delay_ms: u64, due: Due) {
        self.sequence += 1;
        self.due.insert((self.now + Duration::from_millis(delay_ms), self.sequence), due);
    }

    fn ask(&mut self, delay_ms: u64, op: StripeOp, payload: Buf) -> Token {
        self.requests += 1;
        let id = Token(1 << 40 | self.requests);
        let principal = Principal::User { tenant: TenantId(1), name: "u".into() };
        let deadline = self.now + Duration::from_millis(delay_ms) + Duration::from_secs(30);
        let request =
            Request { op: op.into(), payload, principal, deadline, lane: Lane::Bulk, trace: mesh_core::Trace::NONE };
        self.later(delay_ms, Due::Event(Event::Request { id, request }));
        id
    }

    /// Runs until nothing is due any more. Every request is then answered.
    fn run(&mut self) {
        loop {
            let next = self.due.first_key_value().map(|((at, _), _)| *at);
            let wake = self.erasure.wake_at().filter(|wake| next.is_none_or(|next| *wake < next));
            if let Some(wake) = wake {
                self.now = self.now.max(wake);
                self.feed(Event::Wake);
                continue;
            }
            let Some(((at, _), due)) = self.due.pop_first() else { break };
            self.now = at;
            match due {
                Due::Event(event) => self.feed(event),
                Due::Drive { drive, op, payload, answer_to } => {
                    let outcome = self.serve(drive, op, payload);
                    if let Some(call) = answer_to {
                        let back = self.dice.roll(5);
                        self.later(back, Due::Event(Event::Reply { call, outcome }));
                    }
                }
            }
        }
        assert_eq!(self.erasure.in_flight(), 0, "nothing is due and nothing is in flight");
        assert_eq!(self.erasure.wake_at(), None);
        assert_eq!(self.replies.len() as u64, self.requests, "every request is answered");
    }

    fn feed(&mut self, event: Event) {
        let mut effects = Vec::new();
        let mut entropy = NoEntropy;
        let mut cx = Cx::new(self.now, UnixMillis(0), &mut effects, &mut self.tokens, &mut entropy);
        self.erasure.on_event(event, &mut cx);
        for effect in effects {
            match effect {
                Effect::Reply { id, outcome } => {
                    assert!(self.replies.insert(id, outcome).is_none(), "{id} is answered once");
                }
                Effect::Start { work, job: Job::Compute(job) } => {
                    let delay = self.dice.roll(3);
                    self.later(delay, Due::Event(Event::Done { work, outcome: compute(job) }));
                }
                Effect::Call { to: Target::Actor(actor), call, request } => {
                    let Op::Shard(op) = request.op else { panic!("drives take shard operations") };
                    let drive = actor.as_drive().expect("a drive's actor");
                    let budget_ms = request.deadline.since(self.now).as_millis() as u64;
                    self.send(drive, *op, request.payload, call, budget_ms);
                }
                other => panic!("{other:?}"),
            }
        }
    }

    /// The network and the mood of a drive. Every call comes back exactly once.
    fn send(&mut self, drive: DriveId, op: ShardOp, payload: Buf, call: Token, budget_ms: u64) {
        let fails = |kind| Event::Reply { call, outcome: Err(Error::new(kind, "model")) };
        let arrives = |answer_to| Due::Drive { drive, op: op.clone(), payload: payload.clone(), answer_to };
        let latency = 1 + self.dice.roll(10);
        match self.moods[&drive] {
            Mood::Full if matches!(op, ShardOp::Write { .. }) => {
                self.later(latency, Due::Event(fails(ErrorKind::NoSpace)));
            }
            Mood::Well | Mood::Full => self.later(latency, arrives(Some(call))),
            Mood::Dead => self.later(latency, Due::Event(fails(ErrorKind::Unreachable))),
            Mood::Stuck => self.later(budget_ms, Due::Event(fails(ErrorKind::Timeout))),
            Mood::Erratic => match self.dice.roll(6) {
                0 | 1 => self.later(latency, arrives(Some(call))),
                // Slow: it may arrive after the caller gave up.
                2 => {
                    let delay = self.dice.roll(12_000);
                    if delay < budget_ms {
                        self.later(delay, arrives(Some(call)));
                    } else {
                        self.later(delay, arrives(None));
                        self.later(budget_ms, Due::Event(fails(ErrorKind::Timeout)));
                    }
                }
                // Lost on the way back.
                3 => {
                    self.later(latency, arrives(None));
                    self.later(latency + 1, Due::Event(fails(ErrorKind::LinkLost)));
                }
                4 => self.later(latency, Due::Event(fails(ErrorKind::Overloaded))),
                _ => self.later(latency, Due::Event(fails(ErrorKind::DriveFailed))),
            },
        }
    }

    fn serve(&mut self, drive: DriveId, op: ShardOp, payload: Buf) -> Outcome {
        match op {
            ShardOp::Write { id, code, sealed_len, crc, .. } => {
                let new = (code, sealed_len, crc, payload);
                let stored = self.shards.entry((drive, id)).or_insert_with(|| new.clone());
                if *stored == new { Ok(Answer::Done.into()) } else { Err(Error::new(ErrorKind::Conflict, "model")) }
            }
            ShardOp::Read { id } => match self.shards.get(&(drive, id)) {
                Some((code, sealed_len, crc, payload)) => {
                    let answer = Answer::Shard { code: *code, sealed_len: *sealed_len, crc: *crc, tenant: TenantId(1) };
                    Ok(Response { answer, payload: payload.clone() })
                }
                None => Err(Error::new(ErrorKind::NotFound, "model")),
            },
            ShardOp::Delete { ids, .. } => {
                ids.iter().for_each(|id| drop(self.shards.remove(&(drive, *id))));
                Ok(Answer::Done.into())
            }
            other => panic!("{other:?}"),
        }
    }

    fn heal(&mut self) {
        self.moods.values_mut().for_each(|mood| *mood = Mood::Well);
        self.configure();
        self.run();
    }
}

/// A code that is no code, but keeps the promise of one: each shard is its place and the whole stripe, k of them are
/// needed, and none may be in a place that is not its own. Erasure must not be able to tell.
fn compute(job: ComputeJob) -> mesh_core::WorkOutcome {
    match job {
        ComputeJob::Encode { code, bytes } => Ok(WorkOutput::Shards(
            (0..code.shards() as u8)
                .map(|place| (Buf::copy_of(&[&[place], &bytes[..]].concat()), u32::from(place) + 100))
                .collect(),
        )),
        ComputeJob::Decode { code, len, shards } => {
            let places: BTreeSet<u8> = shards.iter().map(|(place, _)| *place).collect();
            assert!(places.len() == shards.len() && places.len() >= usize::from(code.data));
            let stripe = shards[0].1.slice(1..);
            for (place, shard) in &shards {
                assert!(shard[0] == *place && shard[1..] == stripe[..], "shards of one stripe, each in its place");
            }
            assert_eq!(stripe.len(), len as usize);
            Ok(WorkOutput::Bytes(stripe))
        }
        other => panic!("{other:?}"),
    }
}

fn target(id: StripeId) -> StripeTarget {
    let binding = Binding { tenant: TenantId(1), bucket: BucketId(2), bucket_name: "b".into(), object: "o".into() };
    StripeTarget {
        id,
        layout: LayoutId(1),
        binding: Arc::new(binding),
        key: None,
        compression: Compression::Off,
        code: None,
    }
}

struct Acked {
    id: StripeId,
    avoid: Vec<DriveId>,
    bytes: Buf,
}

impl Acked {
    fn read(&self) -> StripeOp {
        StripeOp::Read { target: target(self.id), avoid: self.avoid.clone(), part: None }
    }
}

/// Writes under random faults; what was acknowledged, and how many writes were refused.
fn storm(world: &mut World, rounds: u64) -> (Vec<Acked>, u64) {
    let (mut acked, mut refused): (Vec<Acked>, u64) = (Vec::new(), 0);
    for round in 0..rounds {
        let drives: Vec<DriveId> = world.moods.keys().copied().collect();
        for drive in drives {
            let mood = match world.dice.roll(11) {
                0 => Mood::Dead,
                1 => Mood::Stuck,
                2 | 3 => Mood::Erratic,
                4 => Mood::Full,
                _ => Mood::Well,
            };
            world.moods.insert(drive, mood);
        }
        if world.dice.chance(70) {
            world.configure();
        }
        let mut writes = Vec::new();
        for stripe in 0..4 {
            let id = StripeId { write: WriteId(round), stripe, attempt: 0 };
            let bytes = Buf::copy_of(&[&round.to_le_bytes()[..], &stripe.to_le_bytes()[..]].concat());
            let delay = world.dice.roll(3_000);
            let token = world.ask(delay, StripeOp::Write(target(id)), bytes.clone());
            writes.push((token, id, bytes));
        }
        let mut reads = Vec::new();
        for known in acked.iter().rev().take(3) {
            let delay = world.dice.roll(3_000);
            reads.push((known.read(), known.bytes.clone(), delay));
        }
        let reads: Vec<_> =
            reads.into_iter().map(|(op, bytes, delay)| (world.ask(delay, op, Buf::empty()), bytes)).collect();
        world.run();
        for (token, id, bytes) in writes {
            match &world.replies[&token] {
                Ok(response) => {
                    let Answer::Placed { avoid, shared } = response.answer.clone() else { panic!("{response:?}") };
                    let placement = world.layout.own().place(id, &avoid).expect("what was stored has a placement");
                    assert_eq!(placement.shared, shared);
                    assert!(
                        avoid.is_sorted() && avoid.iter().all(|drive| world.layout.own().group_of(id).contains(drive))
                    );
                    acked.push(Acked { id, avoid, bytes });
                }
                Err(error) => {
                    let kinds =
                        [ErrorKind::TooFewShards, ErrorKind::NoSpace, ErrorKind::Overloaded, ErrorKind::Timeout];
                    assert!(kinds.contains(&error.kind()), "{error:?}");
                    refused += 1;
                }
            }
        }
        for (token, bytes) in reads {
            match &world.replies[&token] {
                Ok(response) => assert_eq!(response.payload, bytes, "a read is right or fails"),
                Err(error) => assert_eq!(error.kind(), ErrorKind::TooFewShards, "{error:?}"),
            }
        }
    }
    (acked, refused)
}

/// Every set of `count` of the drives.
fn subsets(drives: &[DriveId], count: usize) -> Vec<Vec<DriveId>> {
    (0_u32..1 << drives.len())
        .filter(|set| set.count_ones() as usize == count)
        .map(|set| drives.iter().enumerate().filter(|(at, _)| set >> at & 1 == 1).map(|(_, drive)| *drive).collect())
        .collect()
}

fn codes() -> impl Strategy<Value = Code> {
    prop::sample::select(vec![(1, 0), (2, 1), (1, 2), (2, 2), (4, 2)]).prop_map(|(data, parity)| Code { data, parity })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_acknowledged_stripe_survives_the_loss_of_any_m_drives(seed: u64, code in codes(), nodes in 3_u64..6) {
        let mut world = World::new(seed, code, nodes);
        let (acked, _) = storm(&mut world, 6);
        world.heal();
        for stripe in &acked {
            let drives = world.layout.own().place(stripe.id, &stripe.avoid).expect("checked above").drives;
            for lost in subsets(&drives, code.parity.into()) {
                // Some lost drives are known to be down, some have silently forgotten everything.
                let whole = world.shards.clone();
                for drive in &lost {
                    if world.dice.chance(50) {
                        world.moods.insert(*drive, Mood::Dead);
                    }
                    world.shards.retain(|(at, _), _| at != drive);
                }
                let token = world.ask(0, stripe.read(), Buf::empty());
                world.run();
                let outcome = &world.replies[&token];
                prop_assert_eq!(outcome.as_ref().map(|response| &response.payload), Ok(&stripe.bytes), "{:?}", lost);
                world.shards = whole;
                world.moods.values_mut().for_each(|mood| *mood = Mood::Well);
            }
        }
        // And it can be deleted, once no drive is suspected any more: then nobody has it, and nothing of it is left where
        // it was placed.
        world.now = world.now + Duration::from_secs(10);
        for stripe in &acked {
            let remove = StripeOp::Delete { target: target(stripe.id), avoid: stripe.avoid.clone() };
            let removed = world.ask(0, remove, Buf::empty());
            world.run();
            prop_assert_eq!(&world.replies[&removed], &Ok(Answer::Done.into()));
            let read = world.ask(0, stripe.read(), Buf::empty());
            world.run();
            prop_assert_eq!(world.replies[&read].as_ref().map_err(Error::kind), Err(ErrorKind::Lost));
        }
    }
}

#[test]
fn the_storm_both_acknowledges_and_refuses() {
    // The test above proves something only if writes succeed under faults, some of them after a substitution.
    let mut world = World::new(1, Code { data: 2, parity: 1 }, 3);
    let (acked, refused) = storm(&mut world, 40);
    let substituted = acked.iter().filter(|stripe| !stripe.avoid.is_empty()).count();
    assert!(acked.len() > 60 && refused > 5 && substituted > 20, "{} {refused} {substituted}", acked.len());
}

#[test]
fn a_healed_mesh_takes_every_write() {
    let mut world = World::new(2, Code { data: 4, parity: 2 }, 3);
    storm(&mut world, 10);
    world.heal();
    world.now = world.now + Duration::from_secs(10);
    for stripe in 0..50 {
        let id = StripeId { write: WriteId(1000), stripe, attempt: 0 };
        let token = world.ask(0, StripeOp::Write(target(id)), Buf::copy_of(b"again"));
        world.run();
        assert_eq!(world.replies[&token], Ok(Answer::Placed { avoid: vec![], shared: true }.into()));
    }
}
