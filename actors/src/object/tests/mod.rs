//! The function alone, one event at a time: every test looks at all effects.

mod background;
mod buckets;
mod reads;
mod retire;
mod sessions;
mod sweep;
mod uploads;
mod writes;

use core::time::Duration;
use std::{collections::BTreeMap, sync::Arc};

use mesh_core::{
    Answer, Buf, Cx, Effect, Entropy, Error, ErrorKind, Event, Job, Lane, Op, Outcome, Principal, Request, Response,
    StorageFunction, Target, Tokens, Trace,
    id::{ActorId, BucketId, DriveId, Epoch, GroupId, KeyId, LayoutId, NodeId, StripeId, TenantId, Token, WriteId},
    meta::{
        Attributes, BucketCommand, BucketRef, BucketRow, BucketSettings, Command, Compression, Extent, MetaAnswer,
        ObjectCommand, Precondition, Proposer, Query, Session, UpkeepCommand, WrappedKey,
    },
    op::{Binding, Destination, ObjectOp, StripeOp, StripeTarget},
    port::WorkOutput,
    spec::{Encryption, ObjectSpec},
    time::{Instant, UnixMillis},
};

use super::Object;

const TENANT: TenantId = TenantId(7);
const GROUP: GroupId = GroupId(1);
const LAYOUT: LayoutId = LayoutId(3);
const STRIPE: u32 = 10;
const WALL: UnixMillis = UnixMillis(1_000_000);
const SESSION: Session = Session { epoch: Epoch(9), life: 1 };

/// Random bytes that are all the same.
struct Sevens;

impl Entropy for Sevens {
    fn fill(&mut self, target: &mut [u8]) {
        target.fill(7);
    }
}

/// A function with a clock.
struct Bench {
    object: Object,
    now: Instant,
    tokens: Tokens,
    requests: u64,
}

fn spec() -> ObjectSpec {
    ObjectSpec {
        node: NodeId(4),
        epoch: Epoch(9),
        layout: Some(LAYOUT),
        stripe_bytes: STRIPE,
        keys: BTreeMap::from([(TENANT, Encryption::None)]),
        reclaims: Vec::new(),
        reclaim_grace_ms: 60_000,
        drives: Vec::new(),
        lost: Vec::new(),
        layouts: BTreeMap::new(),
        namespaces: 0,
    }
}

fn ann() -> Principal {
    Principal::User { tenant: TENANT, name: "ann".into() }
}

fn bob() -> Principal {
    Principal::User { tenant: TENANT, name: "bob".into() }
}

fn bucket() -> BucketRef {
    BucketRef { id: BucketId(21), name: "photos".into(), tenant: TENANT, group: GROUP }
}

fn row(bucket: BucketRef) -> MetaAnswer {
    row_of(bucket, Compression::Off)
}

fn row_of(bucket: BucketRef, compression: Compression) -> MetaAnswer {
    row_as(bucket, BucketSettings { compression, code: None })
}

fn row_as(bucket: BucketRef, settings: BucketSettings) -> MetaAnswer {
    MetaAnswer::Bucket(Arc::new(BucketRow { bucket, created: UnixMillis(5), settings }))
}

fn meta(answer: MetaAnswer) -> Outcome {
    Ok(Answer::Meta(Arc::new(answer)).into())
}

fn failure(kind: ErrorKind) -> Outcome {
    Err(Error::new(kind, "planted"))
}

/// Who proposes the command of this number in a group, when all before it have ended.
fn proposer(request: u64) -> Proposer {
    Proposer { actor: ActorId::ingress(NodeId(4)), session: SESSION, request, done_below: request }
}

fn whole() -> Destination {
    Destination::Object { attributes: Attributes::default(), precondition: Precondition::default() }
}

fn target(write: WriteId, stripe: u32, attempt: u8) -> StripeTarget {
    StripeTarget {
        id: StripeId { write, stripe, attempt },
        layout: LAYOUT,
        binding: Arc::new(Binding {
            tenant: TENANT,
            bucket: BucketId(21),
            bucket_name: "photos".into(),
            object: "cat".into(),
        }),
        key: None,
        compression: Compression::Off,
        code: None,
    }
}

fn extent(write: WriteId, len: u64) -> Extent {
    Extent {
        write,
        len,
        stripe_bytes: STRIPE,
        layout: LAYOUT,
        key: None,
        runs: Vec::new(),
        compression: Compression::Off,
        code: None,
    }
}

impl Bench {
    fn new(spec: ObjectSpec) -> Self {
        let mut bench = Self::unopened(spec);
        for group in [GroupId::CONTROL, GROUP, GroupId(2)] {
            bench.object.desk.sessions.assume_open(group, SESSION);
        }
        bench
    }

    /// Without sessions in any group.
    fn unopened(spec: ObjectSpec) -> Self {
        Self { object: Object::new(spec), now: Instant(1), tokens: Tokens::default(), requests: 0 }
    }

    fn event(&mut self, event: Event) -> Vec<Effect> {
        let mut effects = Vec::new();
        let mut sevens = Sevens;
        let mut cx = Cx::new(self.now, WALL, &mut effects, &mut self.tokens, &mut sevens);
        self.object.on_event(event, &mut cx);
        effects
    }

    fn deadline(&self) -> Instant {
        self.now + Duration::from_secs(10)
    }

    /// A request of ann's, 10 s before its deadline.
    fn ask(&mut self, op: ObjectOp) -> (Token, Vec<Effect>) {
        self.ask_as(ann(), op, Buf::empty())
    }

    fn ask_as(&mut self, principal: Principal, op: ObjectOp, payload: Buf) -> (Token, Vec<Effect>) {
        self.requests += 1;
        let id = Token(1_000_000 + self.requests);
        let deadline = self.deadline();
        let request =
            Request { op: op.into(), payload, principal, deadline, lane: Lane::Interactive, trace: Trace::new(9) };
        (id, self.event(Event::Request { id, request }))
    }

    fn reply(&mut self, call: Token, outcome: Outcome) -> Vec<Effect> {
        self.event(Event::Reply { call, outcome })
    }

    fn wake(&mut self, at: Instant) -> Vec<Effect> {
        assert_eq!(self.object.wake_at(), Some(at));
        self.now = at;
        self.event(Event::Wake)
    }

    /// Lets ann's bucket be known.
    fn know_the_bucket(&mut self) {
        self.know(row(bucket()));
    }

    fn know(&mut self, row: MetaAnswer) {
        let (id, effects) = self.ask(ObjectOp::HeadBucket { bucket: "photos".into() });
        let call = only_call(&effects);
        let effects = self.reply(call, meta(row));
        assert!(matches!(&effects[..], [Effect::Reply { id: to, outcome: Ok(_) }] if *to == id));
    }

    /// Opens a write of ann's, with ids from 100 on.
    fn begin(&mut self) -> WriteId {
        self.begin_in(Compression::Off)
    }

    /// As [`Self::begin`], in a bucket that says so.
    fn begin_in(&mut self, compression: Compression) -> WriteId {
        self.begin_as(BucketSettings { compression, code: None })
    }

    fn begin_as(&mut self, settings: BucketSettings) -> WriteId {
        self.know(row_as(bucket(), settings));
        let (_, effects) =
            self.ask(ObjectOp::Begin { bucket: "photos".into(), key: "cat".into(), destination: whole() });
        let work = only_work(&effects);
        let block = MetaAnswer::Block { first: WriteId(100), count: 4096 };
        let effects = self.event(Event::Done { work, outcome: Ok(WorkOutput::Meta(Arc::new(block))) });
        match &effects[..] {
            [Effect::Reply { outcome: Ok(Response { answer: Answer::Begun { write, .. }, .. }), .. }] => *write,
            other => panic!("not begun: {other:?}"),
        }
    }

    fn append(&mut self, write: WriteId, stripe: u32, bytes: &[u8]) -> (Token, Vec<Effect>) {
        self.ask_as(ann(), ObjectOp::Append { write, stripe }, Buf::copy_of(bytes))
    }

    /// Appends a stripe that goes well.
    fn store(&mut self, write: WriteId, stripe: u32, len: usize, avoid: Vec<DriveId>, shared: bool) {
        let (id, effects) = self.append(write, stripe, &vec![1; len]);
        let call = only_call(&effects);
        let effects = self.reply(call, Ok(Answer::Placed { avoid, shared }.into()));
        assert_eq!(effects, [replied(id, Answer::Done)]);
    }

    fn finish(&mut self, write: WriteId, len: u64) -> (Token, Vec<Effect>) {
        self.ask(ObjectOp::Finish { write, len, etag: "\"e1\"".into(), checksums: BTreeMap::new() })
    }

    /// What ann's request becomes on its way to the next stage.
    fn onward(&self, op: impl Into<Op>, payload: Buf) -> Request {
        let (principal, deadline) = (ann(), self.deadline());
        Request { op: op.into(), payload, principal, deadline, lane: Lane::Interactive, trace: Trace::new(9) }
    }

    fn query(&self, group: GroupId, query: Query) -> Request {
        self.onward(Op::Query { group, query: Arc::new(query) }, Buf::empty())
    }

    fn proposal(&self, command: Command) -> Request {
        self.onward(Op::Propose(Arc::new(command)), Buf::empty())
    }

    /// When the block whose first id was given out at the start is old.
    fn block_is_old_at(&self) -> Instant {
        Instant(1) + Duration::from_secs(120)
    }

    fn last(&self) -> Token {
        // Tokens count upwards: the next one less one.
        let mut tokens = self.tokens.clone();
        Token(tokens.next().0 - 1)
    }
}

fn next(call: Token, request: Request) -> Effect {
    Effect::Call { to: Target::Next, call, request }
}

fn replied(id: Token, answer: Answer) -> Effect {
    Effect::Reply { id, outcome: Ok(answer.into()) }
}

fn only_call(effects: &[Effect]) -> Token {
    match effects {
        [Effect::Call { call, .. }] => *call,
        other => panic!("not one call: {other:?}"),
    }
}

fn only_work(effects: &[Effect]) -> Token {
    match effects {
        [Effect::Start { work, .. }] => *work,
        other => panic!("not one piece of work: {other:?}"),
    }
}

/// The kind of the only effect, an error.
fn refused(effects: &[Effect]) -> ErrorKind {
    match effects {
        [Effect::Reply { outcome: Err(error), .. }] => error.kind(),
        other => panic!("not one refusal: {other:?}"),
    }
}

fn job(work: Token, job: Job) -> Effect {
    Effect::Start { work, job }
}

fn wrapped() -> Arc<WrappedKey> {
    Arc::new(WrappedKey { key: KeyId(2), nonce: [1; 12], sealed: vec![2; 48] })
}

/// The stripe operation of the only call.
fn stripe_op(effects: &[Effect]) -> (Token, StripeOp) {
    match effects {
        [Effect::Call { to: Target::Next, call, request: Request { op: Op::Stripe(op), .. } }] => {
            (*call, (**op).clone())
        }
        other => panic!("not one stripe: {other:?}"),
    }
}

/// The command of the only call.
fn command(effects: &[Effect]) -> (Token, Command) {
    match effects {
        [Effect::Call { to: Target::Next, call, request: Request { op: Op::Propose(command), .. } }] => {
            (*call, (**command).clone())
        }
        other => panic!("not one proposal: {other:?}"),
    }
}
