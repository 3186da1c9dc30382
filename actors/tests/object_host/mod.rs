//! A world for Object and Policy in one chain: what they call is answered by in-memory models, at virtual times and
//! with planted failures. It checks that every request is answered exactly once.

#![allow(dead_code, unreachable_pub, reason = "each test file uses its part of the host")]

pub mod metadata;

use core::time::Duration;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use mesh_actors::{object::Object, policy::Policy};
use mesh_core::{
    Answer, Buf, Chain, Cx, Effect, Entropy, Error, ErrorKind, Event, Job, Lane, Op, Outcome, Principal, Request,
    Response, StorageFunction, Target, Tokens,
    id::{ActorId, DriveId, Epoch, GroupId, KeyId, LayoutId, NodeId, ShardId, StripeId, TenantId, Token, WriteId},
    meta::{Attributes, Grant, Precondition, TenantLimits, WrappedKey},
    op::{Binding, Destination, Head, ObjectOp, Piece, ShardOp, StripeOp},
    port::{ComputeJob, WorkOutput},
    spec::{Encryption, FunctionSpec, ObjectSpec, PolicySpec},
    time::{Instant, UnixMillis},
    topology::{Code, Layout},
};

use metadata::Metadata;

pub const TENANT: TenantId = TenantId(7);
pub const GROUP: GroupId = GroupId(1);
pub const LAYOUT: LayoutId = LayoutId(3);
pub const GRACE: Duration = Duration::from_secs(60);
/// A shard of every stripe lies on each of these.
const DRIVES: core::ops::RangeInclusive<u64> = 1..=3;
/// Shards on a page of a list: few, so that there are many pages.
const PAGE: usize = 3;

/// The shard of a number lies on the drive of that number; that of the number 0 on one that is not there.
fn layout() -> Layout {
    let drives: Vec<DriveId> = (0..=*DRIVES.end()).map(DriveId).collect();
    let domains = drives.iter().map(|drive| (*drive, NodeId(drive.0))).collect();
    Layout {
        id: LAYOUT,
        code: Code { data: 3, parity: 1 },
        groups: vec![drives],
        domains,
        line: 1,
        others: Vec::new(),
        places: mesh_core::topology::Places::default(),
        rule: mesh_core::topology::Rule::default(),
    }
}

/// A failure to plant, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    None,
    /// Nothing happens, and the caller knows it.
    Refused(ErrorKind),
    /// Nothing happens, and the caller does not know.
    LostBefore(ErrorKind),
    /// It happens, and the caller does not know.
    LostAfter(ErrorKind),
    /// It happens long after the caller was told that nobody knows.
    Late(ErrorKind),
    /// A part of it happens: shards on some drives. The caller does not know.
    Partly(ErrorKind),
    /// It goes well, with a drive avoided.
    Avoiding(u8),
    /// It goes well, with shards sharing a domain.
    Shared,
}

/// A stored stripe.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored {
    pub bytes: Buf,
    pub binding: Arc<Binding>,
    pub key: Option<Arc<WrappedKey>>,
}

/// Something that comes to pass later.
enum Coming {
    Event(Event),
    /// A request takes effect that was given up before.
    Late(Target, Request),
}

pub struct Host {
    chain: Chain,
    pub now: Instant,
    coming: BTreeMap<(Instant, u64), Coming>,
    count: u64,
    tokens: Tokens,
    entropy: Seeded,
    pub metadata: Metadata,
    pub stripes: BTreeMap<StripeId, Stored>,
    pub shards: BTreeMap<DriveId, BTreeSet<ShardId>>,
    stripe_bytes: u32,
    sweeps: bool,
    /// Drives that do not answer.
    pub down: BTreeSet<DriveId>,
    /// Planted failures, taken from the front; none when empty.
    pub faults: std::collections::VecDeque<Fault>,
    owed: BTreeSet<Token>,
    answers: BTreeMap<Token, Outcome>,
    /// Requests whose answers nobody waits for.
    unheard: BTreeSet<Token>,
    pub calls: u64,
}

/// SplitMix64.
struct Seeded(u64);

impl Entropy for Seeded {
    fn fill(&mut self, target: &mut [u8]) {
        for byte in target {
            self.0 = self.0.wrapping_add(1);
            *byte = mesh_core::topology::mix(self.0) as u8;
        }
    }
}

impl Host {
    pub fn new(stripe_bytes: u32) -> Self {
        Self::of(stripe_bytes, true)
    }

    /// A host whose function knows of no drives, and so sweeps none.
    pub fn that_does_not_sweep(stripe_bytes: u32) -> Self {
        Self::of(stripe_bytes, false)
    }

    fn of(stripe_bytes: u32, sweeps: bool) -> Self {
        let mut host = Self {
            chain: Self::chain(stripe_bytes, sweeps),
            now: Instant(1),
            coming: BTreeMap::new(),
            count: 0,
            tokens: Tokens::default(),
            entropy: Seeded(1),
            metadata: Metadata::default(),
            stripes: BTreeMap::new(),
            shards: BTreeMap::new(),
            stripe_bytes,
            sweeps,
            down: BTreeSet::new(),
            faults: Default::default(),
            owed: BTreeSet::new(),
            answers: BTreeMap::new(),
            unheard: BTreeSet::new(),
            calls: 0,
        };
        let made = host.run(ObjectOp::CreateBucket { bucket: "photos".into() });
        assert_eq!(made, Ok(Answer::Done.into()));
        host
    }

    fn object(stripe_bytes: u32, sweeps: bool, lost: Vec<DriveId>) -> ObjectSpec {
        ObjectSpec {
            node: NodeId(4),
            epoch: Epoch(1),
            layout: Some(LAYOUT),
            stripe_bytes,
            keys: BTreeMap::from([(TENANT, Encryption::Key(KeyId(2)))]),
            reclaims: vec![GROUP],
            reclaim_grace_ms: GRACE.as_millis() as u64,
            drives: DRIVES.filter(|_| sweeps).map(DriveId).collect(),
            lost,
            layouts: BTreeMap::from([(LAYOUT, Arc::new(layout()))]),
            namespaces: 1,
        }
    }

    fn chain(stripe_bytes: u32, sweeps: bool) -> Chain {
        let object = Self::object(stripe_bytes, sweeps, Vec::new());
        let policy = PolicySpec {
            tenant: TENANT,
            principals: BTreeMap::from([("ann".into(), vec![Grant::all()])]),
            limits: TenantLimits::default(),
        };
        Chain::new(vec![Box::new(Object::new(object)), Box::new(Policy::new(policy))])
    }

    /// A drive is declared lost.
    pub fn lose(&mut self, drive: DriveId) {
        let object = Self::object(self.stripe_bytes, self.sweeps, vec![drive]);
        self.step(Event::Configure(Arc::new(FunctionSpec::Object(object))));
    }

    /// The process dies and starts again: what it knew and what it was owed is gone. What is under way elsewhere is not.
    pub fn crash(&mut self) {
        self.chain = Self::chain(self.stripe_bytes, self.sweeps);
        // The clock of a process goes on where it is: all chains of a host live on one.
        self.coming.retain(|_, coming| matches!(coming, Coming::Late(..)));
        self.owed.clear();
        self.answers.clear();
        self.unheard.clear();
    }

    pub fn wall(&self) -> UnixMillis {
        UnixMillis(1_700_000_000_000 + self.now.0 / 1_000_000)
    }

    pub fn in_flight(&self) -> usize {
        self.chain.in_flight()
    }

    fn later(&mut self, after: Duration, coming: Coming) {
        self.count += 1;
        self.coming.insert((self.now + after, self.count), coming);
    }

    /// Sends a request of ann's.
    pub fn ask(&mut self, op: ObjectOp, payload: Buf) -> Token {
        let id = self.tokens.next();
        let principal = Principal::User { tenant: TENANT, name: "ann".into() };
        let deadline = self.now + Duration::from_secs(30);
        let request = Request {
            op: op.into(),
            payload,
            principal,
            deadline,
            lane: Lane::Interactive,
            trace: mesh_core::Trace::NONE,
        };
        assert!(self.owed.insert(id));
        self.step(Event::Request { id, request });
        id
    }

    /// Sends a request and lets time pass until its answer.
    pub fn run(&mut self, op: ObjectOp) -> Outcome {
        let id = self.ask(op, Buf::empty());
        self.answer_of(id)
    }

    /// Lets time pass until a request is answered.
    pub fn answer_of(&mut self, id: Token) -> Outcome {
        loop {
            if let Some(outcome) = self.answers.remove(&id) {
                return outcome;
            }
            assert!(self.pass(), "a request is owed an answer, and nothing will happen any more");
        }
    }

    /// Lets this much time pass.
    pub fn wait(&mut self, span: Duration) {
        let until = self.now + span;
        while self.next_at().is_some_and(|at| at <= until) {
            self.pass();
        }
        self.now = until;
    }

    fn next_at(&self) -> Option<Instant> {
        let coming = self.coming.first_key_value().map(|((at, _), _)| *at);
        [coming, self.chain.wake_at()].into_iter().flatten().min()
    }

    /// Lets the next thing happen.
    fn pass(&mut self) -> bool {
        let Some(at) = self.next_at() else { return false };
        self.now = self.now.max(at);
        match self.coming.first_entry() {
            Some(first) if first.key().0 <= self.now => match first.remove() {
                Coming::Event(event) => self.step(event),
                Coming::Late(to, request) => {
                    // Nobody hears what becomes of it.
                    drop(self.perform(to, request, Fault::None));
                }
            },
            _ => self.step(Event::Wake),
        }
        true
    }

    fn step(&mut self, event: Event) {
        let wall = self.wall();
        let mut effects = Vec::new();
        let mut cx = Cx::new(self.now, wall, &mut effects, &mut self.tokens, &mut self.entropy);
        self.chain.on_event(event, &mut cx);
        for effect in effects {
            match effect {
                Effect::Reply { id, outcome } => {
                    assert!(self.owed.remove(&id), "a reply that nobody is owed");
                    if !self.unheard.remove(&id) {
                        self.answers.insert(id, outcome);
                    }
                }
                Effect::Call { to, call, request } => {
                    assert!(matches!(
                        (to, &request.op),
                        (Target::Next, Op::Stripe(_)) | (Target::Metadata, _) | (Target::Actor(_), Op::Shard(_))
                    ));
                    let (outcome, after) = self.call(to, request);
                    self.later(after, Coming::Event(Event::Reply { call, outcome }));
                }
                Effect::Start { work, job: Job::Propose { command, deadline } } => {
                    let request = Request::system(Op::Propose(command), deadline);
                    let (outcome, after) = self.call(Target::Metadata, request);
                    let outcome = outcome.map(|response| match response.answer {
                        Answer::Meta(answer) => WorkOutput::Meta(answer),
                        other => panic!("not of metadata: {other:?}"),
                    });
                    self.later(after, Coming::Event(Event::Done { work, outcome }));
                }
                Effect::Start { work, job: Job::Compute(ComputeJob::WrapKey { key, entropy }) } => {
                    let (sealed, nonce) = entropy.split_at(32);
                    let nonce = nonce.try_into().expect("12 bytes");
                    let wrapped = Arc::new(WrappedKey { key, nonce, sealed: sealed.to_vec() });
                    let event = Event::Done { work, outcome: Ok(WorkOutput::Key(wrapped)) };
                    self.later(Duration::from_micros(5), Coming::Event(event));
                }
                other => panic!("nobody does this here: {other:?}"),
            }
        }
    }

    /// What a call comes to, and how long it takes.
    fn call(&mut self, to: Target, request: Request) -> (Outcome, Duration) {
        self.calls += 1;
        assert!(request.deadline > self.now, "a call behind its deadline");
        let fault = self.faults.pop_front().unwrap_or(Fault::None);
        // Not all take equally long, so that answers overtake each other.
        let after = Duration::from_micros(100 + 37 * (self.calls % 7));
        let lost = |kind| Err(Error::new(kind, "planted"));
        let outcome = match fault {
            Fault::Refused(kind) | Fault::LostBefore(kind) => lost(kind),
            Fault::LostAfter(kind) => {
                drop(self.perform(to, request, fault));
                lost(kind)
            }
            Fault::Late(kind) => {
                self.later(Duration::from_millis(300), Coming::Late(to, request));
                lost(kind)
            }
            Fault::Partly(kind) => {
                if let Op::Stripe(op) = &request.op
                    && let StripeOp::Write(target) = &**op
                {
                    self.place(target.id, 1 + self.calls % 2);
                }
                lost(kind)
            }
            Fault::None | Fault::Avoiding(_) | Fault::Shared => self.perform(to, request, fault),
        };
        (outcome, after)
    }

    fn perform(&mut self, to: Target, request: Request, fault: Fault) -> Outcome {
        let wall = self.wall();
        match request.op {
            Op::Stripe(op) => self.stripe(*op, request.payload, fault),
            Op::Query { group, query } => {
                self.metadata.query(group, &query).map(|answer| Answer::Meta(Arc::new(answer)).into())
            }
            Op::Propose(command) => {
                self.metadata.apply(&command, wall).map(|answer| Answer::Meta(Arc::new(answer)).into())
            }
            Op::Shard(op) => match to {
                Target::Actor(actor) => self.shard(actor, *op),
                other => panic!("a shard is at a drive, not at {other:?}"),
            },
            other => panic!("not for these models: {other:?}"),
        }
    }

    fn shard(&mut self, actor: ActorId, op: ShardOp) -> Outcome {
        let drive = actor.as_drive().expect("a drive");
        if self.down.contains(&drive) {
            return Err(Error::new(ErrorKind::Unreachable, "the drive does not answer"));
        }
        let held = self.shards.entry(drive).or_default();
        match op {
            ShardOp::List { after: Some(after), limit, .. } => {
                assert!(limit as usize >= PAGE);
                let behind = (core::ops::Bound::Excluded(after), core::ops::Bound::Unbounded);
                let page: Vec<(ShardId, u32)> = held.range(behind).take(PAGE).map(|id| (*id, 1)).collect();
                let more = held.range(behind).count() > PAGE;
                Ok(Answer::Shards { page, more, head: Head::default() }.into())
            }
            ShardOp::Delete { ids, .. } => {
                assert!(!ids.is_empty());
                for id in ids {
                    held.remove(&id);
                }
                Ok(Answer::Done.into())
            }
            other => panic!("not of a drive: {other:?}"),
        }
    }

    /// Puts the first shards of a stripe on their drives.
    fn place(&mut self, id: StripeId, shards: u64) {
        for drive in DRIVES.take(shards as usize) {
            self.shards.entry(DriveId(drive)).or_default().insert(id.shard(drive as u8));
        }
    }

    fn stripe(&mut self, op: StripeOp, payload: Buf, fault: Fault) -> Outcome {
        match op {
            StripeOp::Write(target) => {
                let stored = Stored { bytes: payload, binding: target.binding, key: target.key };
                let before = self.stripes.insert(target.id, stored);
                self.place(target.id, DRIVES.count() as u64);
                assert!(before.is_none(), "{:?} was stored twice", target.id);
                // One that no stripe is on.
                let avoid =
                    if let Fault::Avoiding(drive) = fault { vec![DriveId(100 + u64::from(drive))] } else { vec![] };
                Ok(Answer::Placed { avoid, shared: fault == Fault::Shared }.into())
            }
            StripeOp::Read { target, .. } => {
                let stored =
                    self.stripes.get(&target.id).ok_or_else(|| Error::new(ErrorKind::NotFound, "no stripe"))?;
                assert_eq!((&stored.binding, &stored.key), (&target.binding, &target.key), "it would not open");
                Ok(Response { answer: Answer::Done, payload: stored.bytes.clone() })
            }
            StripeOp::Delete { target, .. } => {
                self.stripes.remove(&target.id);
                for (drive, held) in &mut self.shards {
                    if !self.down.contains(drive) {
                        held.remove(&target.id.shard(drive.0 as u8));
                    }
                }
                let left: Vec<DriveId> = DRIVES.map(DriveId).filter(|drive| self.down.contains(drive)).collect();
                match left.len() {
                    0 => Ok(Answer::Done.into()),
                    all if all == DRIVES.count() => Err(Error::new(ErrorKind::Unreachable, "no drive answers")),
                    _ => Ok(Answer::Left(left).into()),
                }
            }
        }
    }

    /// Puts `bytes` under a write's destination, four stripes at a time, as a gateway does.
    pub fn put(&mut self, key: &str, destination: Destination, bytes: &[u8], etag: &str) -> Result<WriteId, Error> {
        let begin = ObjectOp::Begin { bucket: "photos".into(), key: key.into(), destination };
        let Answer::Begun { write, stripe_bytes } = self.run(begin)?.answer else { panic!("not begun") };
        let mut under_way = std::collections::VecDeque::new();
        let mut failed = None;
        for (stripe, bytes) in (0..).zip(bytes.chunks(stripe_bytes as usize)) {
            under_way.push_back(self.ask(ObjectOp::Append { write, stripe }, Buf::copy_of(bytes)));
            if under_way.len() == 4 {
                let id = under_way.pop_front().expect("four");
                let outcome = self.answer_of(id);
                failed = failed.or_else(|| outcome.err());
            }
        }
        for id in under_way {
            let outcome = self.answer_of(id);
            failed = failed.or_else(|| outcome.err());
        }
        if let Some(error) = failed {
            assert_eq!(self.run(ObjectOp::Abort { write }), Ok(Answer::Done.into()));
            return Err(error);
        }
        let (len, etag, checksums) = (bytes.len() as u64, etag.to_owned(), BTreeMap::new());
        match self.run(ObjectOp::Finish { write, len, etag, checksums })?.answer {
            Answer::Committed { version, .. } => Ok(version),
            other => panic!("not committed: {other:?}"),
        }
    }

    /// Begins a put, sends every stripe, and asks for nothing more. What is owed is not waited for.
    pub fn begin_and_vanish(&mut self, key: &str, bytes: &[u8]) {
        let begin = ObjectOp::Begin { bucket: "photos".into(), key: key.into(), destination: whole() };
        let Ok(Response { answer: Answer::Begun { write, stripe_bytes }, .. }) = self.run(begin) else { return };
        for (stripe, bytes) in (0..).zip(bytes.chunks(stripe_bytes as usize)) {
            let id = self.ask(ObjectOp::Append { write, stripe }, Buf::copy_of(bytes));
            self.unheard.insert(id);
        }
    }

    /// Reads a range of an object, or all of it.
    pub fn get(&mut self, key: &str, range: Option<(u64, u64)>) -> Result<Vec<u8>, Error> {
        let head = ObjectOp::Head { bucket: "photos".into(), key: key.into() };
        let Answer::Object(object) = self.run(head)?.answer else { panic!("no object") };
        let (mut offset, mut len) = range.unwrap_or((0, object.len));
        let mut bytes = Vec::new();
        while len > 0 {
            let plan = ObjectOp::Plan { bucket: "photos".into(), key: key.into(), object: object.clone(), offset, len };
            let Answer::Pieces(pieces) = self.run(plan)?.answer else { panic!("no pieces") };
            assert!(!pieces.is_empty());
            for piece in pieces {
                (offset, len) = (offset + u64::from(piece.len), len - u64::from(piece.len));
                bytes.extend_from_slice(&self.read(key, piece)?);
            }
        }
        Ok(bytes)
    }

    pub fn read(&mut self, key: &str, piece: Piece) -> Result<Buf, Error> {
        let read = ObjectOp::Read { bucket: "photos".into(), key: key.into(), piece };
        Ok(self.run(read)?.payload)
    }

    /// Every stripe that a visible object, a part of an upload or garbage refers to is there.
    pub fn assert_nothing_is_missing(&self) {
        for id in self.metadata.stripes(false) {
            assert!(self.stripes.contains_key(&id), "{id:?} is referred to and gone");
            for (drive, held) in &self.shards {
                assert!(held.contains(&id.shard(drive.0 as u8)), "{id:?} is referred to and gone from {drive}");
            }
        }
    }

    /// Every shard on every drive is of a visible object or of a part of an open upload.
    pub fn assert_nothing_is_left_over(&self) {
        let left = self.left_over();
        assert!(left.is_empty(), "left over: {left:?}; closed blocks {:?}", self.metadata.closed_blocks());
    }

    /// Shards of stripes that nobody refers to.
    pub fn left_over(&self) -> Vec<(DriveId, ShardId)> {
        let stripes: BTreeSet<StripeId> = self.metadata.stripes(false).into_iter().collect();
        let all = self.shards.iter().flat_map(|(drive, held)| held.iter().map(|id| (*drive, *id)));
        all.filter(|(_, id)| !stripes.contains(&id.stripe)).collect()
    }

    /// Nothing is under way, once what is out in the background has come back.
    pub fn assert_at_rest(&mut self) {
        assert!(self.owed.is_empty(), "not answered: {:?}", self.owed);
        for _ in 0..1000 {
            if self.chain.in_flight() > 0 {
                self.pass();
            }
        }
        assert_eq!(self.chain.in_flight(), 0);
        assert!(self.answers.is_empty(), "answered twice, or to nobody");
    }
}

pub fn whole() -> Destination {
    Destination::Object { attributes: Attributes::default(), precondition: Precondition::default() }
}

/// Bytes that tell where they are.
pub fn content(len: usize, seed: u64) -> Vec<u8> {
    (0..len as u64).map(|at| mesh_core::topology::mix(seed ^ (at / 8)).to_le_bytes()[(at % 8) as usize]).collect()
}
