//! Bugs on request, to prove that the checkers see them. Each stands outside the functions and the steward, as a wrapper or
//! in the world: they themselves have no switch that would make them wrong, and no protocol is written again to be wrong.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
};

use mesh_actors::metadata::MemoryMetadata;
use mesh_core::{
    Answer, Cx, Effect, Error, ErrorKind, Event, Op, Outcome, Request, Response, StorageFunction, Target,
    assignment::MoveId,
    id::{ActorId, GroupId, NodeId, ShardId, TenantId, Token},
    meta::{Command, ControlView, MeshCommand, MetaAnswer, ObjectCommand, Proposer, Query},
    op::{AsOf, Beat, Held, News, ShardOp, StripeOp},
    snapshot::{Mark, Snapshot},
    time::Instant,
    topology::Code,
    wire::crc32c,
};

use crate::metadata::Groups;

/// A bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// A medium ends a sync without making anything durable: what is acknowledged is lost with the power.
    AckBeforeFlush,
    /// A sync covers nothing if the one before has taken the mark of a write that was still under way.
    UncoveredSync,
    /// A read of a stripe gives the one before it.
    WrongStripe,
    /// A drive returns what has rotted as if it were good.
    SkipCrc,
    /// A chain forgets to answer now and then.
    LostReply,
    /// A chain answers now and then twice.
    DoubleReply,
    /// A stripe is said to be placed although a drive has refused its shard.
    FewerShards,
    /// The metadata groups answer questions from what was so a while ago.
    StaleRead,
    /// Links let in every copy of a request.
    NoFilter,
    /// What should be sealed is stored as it is.
    Plaintext,
    /// Nobody looks through the drives for what failed writes left behind.
    NoSweep,
    /// A source that has waited long for the end of its move goes on, without asking the group.
    ThawOnTimeout,
    /// A commit is applied though the move was aborted.
    CommitUnchecked,
    /// A target runs before the commit is applied.
    EarlyActivation,
    /// A source that retires forgets the requests that wait.
    RetireForgets,
    /// A target says that it has a page of state, and lost it.
    LostPage,
    /// Nodes carry out steps of moves that are over.
    OldSteps,
    /// A target begins anew for a second controller that has begun the same move.
    WarmsAgain,
    /// Nodes act on news from before what they have done already.
    OldNews,
    /// A source that was started anew in the middle of a move runs at once.
    RunsOnReturn,
    /// A node that was started anew goes by what its replica held before.
    OldReplica,
    /// The metadata groups forget which deletes they have seen.
    ForgottenDeletes,
    /// Nodes say that they hold what of another's report was lost on the way to them.
    HeldUnheard,
}

impl Bug {
    /// Every bug with its name.
    pub const ALL: &'static [(&'static str, Self)] = &[
        ("ack-before-flush", Self::AckBeforeFlush),
        ("uncovered-sync", Self::UncoveredSync),
        ("wrong-stripe", Self::WrongStripe),
        ("skip-crc", Self::SkipCrc),
        ("lost-reply", Self::LostReply),
        ("double-reply", Self::DoubleReply),
        ("fewer-shards", Self::FewerShards),
        ("stale-read", Self::StaleRead),
        ("no-filter", Self::NoFilter),
        ("plaintext", Self::Plaintext),
        ("no-sweep", Self::NoSweep),
        ("thaw-on-timeout", Self::ThawOnTimeout),
        ("commit-unchecked", Self::CommitUnchecked),
        ("early-activation", Self::EarlyActivation),
        ("retire-forgets", Self::RetireForgets),
        ("lost-page", Self::LostPage),
        ("old-steps", Self::OldSteps),
        ("warms-again", Self::WarmsAgain),
        ("old-news", Self::OldNews),
        ("runs-on-return", Self::RunsOnReturn),
        ("old-replica", Self::OldReplica),
        ("forgotten-deletes", Self::ForgottenDeletes),
        ("held-unheard", Self::HeldUnheard),
    ];

    /// The bug of a name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(known, _)| *known == name).map(|(_, bug)| *bug)
    }
}

/// What a drive was given, remembered behind its back and over its restarts.
pub type Memory = Arc<Mutex<BTreeMap<ShardId, (mesh_core::Buf, Code, u32, TenantId)>>>;

/// Puts a bug around a drive.
#[must_use]
pub fn around_drive(bug: Option<Bug>, drive: Box<dyn StorageFunction>, memory: &Memory) -> Box<dyn StorageFunction> {
    match bug {
        Some(Bug::SkipCrc) => Box::new(Twisted::new(drive, SkipCrc { memory: memory.clone(), reads: BTreeMap::new() })),
        Some(Bug::FewerShards) => Box::new(Twisted::new(drive, FewerShards { writes: BTreeSet::new(), count: 0 })),
        _ => drive,
    }
}

/// Puts a bug around a data chain.
#[must_use]
pub fn around_chain(bug: Option<Bug>, chain: Box<dyn StorageFunction>) -> Box<dyn StorageFunction> {
    match bug {
        Some(Bug::WrongStripe) => Box::new(Twisted::new(chain, WrongStripe)),
        Some(Bug::LostReply) => Box::new(Twisted::new(chain, Replies { count: 0, times: 0 })),
        Some(Bug::DoubleReply) => Box::new(Twisted::new(chain, Replies { count: 0, times: 2 })),
        _ => chain,
    }
}

/// What a bug does to what goes in and out of a function.
trait Twist: Send {
    fn request(&mut self, _id: Token, _request: &mut Request) {}

    /// How often to give which answer.
    fn reply(&mut self, _id: Token, outcome: Outcome) -> (usize, Outcome) {
        (1, outcome)
    }
}

/// A function with a bug around it.
struct Twisted<T> {
    inner: Box<dyn StorageFunction>,
    twist: T,
    /// The inner function's tokens by those that the world knows.
    tokens: BTreeMap<Token, Token>,
}

impl<T: Twist> Twisted<T> {
    const fn new(inner: Box<dyn StorageFunction>, twist: T) -> Self {
        Self { inner, twist, tokens: BTreeMap::new() }
    }

    fn pass(&mut self, effect: Effect, cx: &mut Cx<'_>) {
        match effect {
            Effect::Reply { id, outcome } => {
                let (times, outcome) = self.twist.reply(id, outcome);
                for _ in 0..times {
                    cx.reply(id, outcome.clone());
                }
            }
            Effect::Call { to, call, request } => {
                let known = cx.call(to, request);
                self.tokens.insert(known, call);
            }
            Effect::Start { work, job } => {
                let known = cx.start(job);
                self.tokens.insert(known, work);
            }
        }
    }
}

impl<T: Twist> StorageFunction for Twisted<T> {
    fn on_event(&mut self, event: Event, cx: &mut Cx<'_>) {
        let event = match event {
            Event::Request { id, mut request } => {
                self.twist.request(id, &mut request);
                Event::Request { id, request }
            }
            Event::Reply { call, outcome } => Event::Reply { call: self.tokens.remove(&call).unwrap_or(call), outcome },
            Event::Done { work, outcome } => Event::Done { work: self.tokens.remove(&work).unwrap_or(work), outcome },
            other => other,
        };
        let mut effects = Vec::new();
        self.inner.on_event(event, &mut cx.into_effects(&mut effects));
        effects.into_iter().for_each(|effect| self.pass(effect, cx));
    }

    fn wake_at(&self) -> Option<Instant> {
        self.inner.wake_at()
    }

    fn in_flight(&self) -> usize {
        self.inner.in_flight()
    }

    fn snapshot(&mut self, since: Option<Mark>) -> Snapshot {
        self.inner.snapshot(since)
    }
}

/// Metadata groups that commit moves which were aborted, as if nobody had compared epoch and number.
pub struct Unchecked {
    store: MemoryMetadata,
    /// Where each move goes.
    ways: BTreeMap<(ActorId, MoveId), NodeId>,
}

impl core::fmt::Debug for Unchecked {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Unchecked({} moves)", self.ways.len())
    }
}

impl Unchecked {
    /// Over this store.
    #[must_use]
    pub const fn new(store: MemoryMetadata) -> Self {
        Self { store, ways: BTreeMap::new() }
    }
}

impl Groups for Unchecked {
    fn propose(&mut self, command: &Command) -> Result<MetaAnswer, Error> {
        let answer = self.store.propose(command);
        match (command, &answer) {
            (Command::Mesh(MeshCommand::BeginMove { actor, id, to, .. }), Ok(_)) => {
                self.ways.insert((*actor, *id), *to);
            }
            (Command::Mesh(MeshCommand::CommitMove { actor, epoch, id }), Err(error))
                if error.kind() == ErrorKind::Conflict =>
            {
                let row = self.store.control().ok().and_then(|view| view.assignments.get(actor).copied());
                let row = row.filter(|row| row.epoch == *epoch && row.moving.is_none());
                if let (Some(to), Some(row)) = (self.ways.get(&(*actor, *id)), row) {
                    let (actor, epoch, to, id) = (*actor, *epoch, *to, MoveId(row.moves.0 + 1));
                    self.store.propose(&Command::Mesh(MeshCommand::BeginMove { actor, epoch, id, to }))?;
                    return self.store.propose(&Command::Mesh(MeshCommand::CommitMove { actor, epoch, id }));
                }
            }
            _ => {}
        }
        answer
    }

    fn query(&mut self, group: GroupId, query: &Query) -> Result<MetaAnswer, Error> {
        self.store.query(group, query)
    }

    fn control(&mut self) -> Arc<ControlView> {
        Groups::control(&mut self.store)
    }
}

/// Groups that take every copy of a delete for another delete.
#[derive(Debug)]
pub struct Forgetful {
    store: MemoryMetadata,
    count: u64,
}

impl Forgetful {
    /// Over this store.
    #[must_use]
    pub const fn new(store: MemoryMetadata) -> Self {
        Self { store, count: 0 }
    }
}

impl Groups for Forgetful {
    fn propose(&mut self, command: &Command) -> Result<MetaAnswer, Error> {
        let Command::Object(bucket, ObjectCommand::DeleteObject { proposer, key, at, precondition }) = command.clone()
        else {
            return self.store.propose(command);
        };
        // A number that nobody else has, above all that are in use.
        self.count += 1;
        let proposer = Proposer { request: proposer.done_below + 8192 + self.count, ..proposer };
        self.store.propose(&Command::Object(bucket, ObjectCommand::DeleteObject { proposer, key, at, precondition }))
    }

    fn query(&mut self, group: GroupId, query: &Query) -> Result<MetaAnswer, Error> {
        self.store.query(group, query)
    }

    fn control(&mut self) -> Arc<ControlView> {
        Groups::control(&mut self.store)
    }
}

/// What nodes pretend to hold of the reports of others, though it never came to them: by who pretends, and of whom.
#[derive(Debug, Default)]
pub struct Pretence {
    count: u64,
    held: BTreeMap<(NodeId, NodeId), Held>,
}

impl Pretence {
    /// What a node hears of a beat: now and then without news, of what runs there and whom it sees.
    #[must_use]
    pub fn hear(&mut self, here: NodeId, beat: Arc<Beat>) -> Arc<Beat> {
        let small = |news: &&Arc<News>| news.report.is_none() && news.drives.is_none() && news.since != AsOf::default();
        let Some(news) = beat.news.as_ref().filter(small) else { return beat };
        self.count += 1;
        if !self.count.is_multiple_of(30) {
            return beat;
        }
        let as_of = AsOf { states: news.version, figures: news.version };
        self.held.insert((here, beat.node), Held { start: beat.incarnation, as_of });
        Arc::new(Beat { news: None, ..(*beat).clone() })
    }

    /// What a node says to another.
    #[must_use]
    pub fn say(&self, to: NodeId, beat: &Arc<Beat>) -> Arc<Beat> {
        match (self.held.get(&(beat.node, to)), beat.held) {
            (Some(pretended), Some(held)) if pretended.start == held.start && pretended.as_of > held.as_of => {
                Arc::new(Beat { held: Some(*pretended), ..(**beat).clone() })
            }
            _ => beat.clone(),
        }
    }
}

struct WrongStripe;

impl Twist for WrongStripe {
    fn request(&mut self, _id: Token, request: &mut Request) {
        if let Op::Stripe(op) = &mut request.op
            && let StripeOp::Read { target, .. } = &mut **op
        {
            target.id.stripe = target.id.stripe.saturating_sub(1);
        }
    }
}

struct SkipCrc {
    memory: Memory,
    reads: BTreeMap<Token, ShardId>,
}

impl Twist for SkipCrc {
    fn request(&mut self, id: Token, request: &mut Request) {
        let Op::Shard(op) = &request.op else { return };
        match &**op {
            ShardOp::Write { id, code, sealed_len, tenant, .. } => {
                let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
                memory.insert(*id, (request.payload.clone(), *code, *sealed_len, *tenant));
            }
            ShardOp::Read { id: shard } => {
                self.reads.insert(id, *shard);
            }
            _ => {}
        }
    }

    fn reply(&mut self, id: Token, outcome: Outcome) -> (usize, Outcome) {
        let shard = self.reads.remove(&id);
        let rotten = matches!(&outcome, Err(error) if error.kind() == ErrorKind::Corrupt);
        let memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        let known = shard.filter(|_| rotten).and_then(|shard| memory.get(&shard).cloned());
        let Some((mut payload, code, sealed_len, tenant)) = known else { return (1, outcome) };
        if let Some(byte) = payload.make_mut().first_mut() {
            *byte ^= 1;
        }
        let crc = crc32c(&payload);
        (1, Ok(Response { answer: Answer::Shard { code, sealed_len, crc, tenant }, payload }))
    }
}

struct FewerShards {
    writes: BTreeSet<Token>,
    count: u32,
}

impl Twist for FewerShards {
    fn request(&mut self, id: Token, request: &mut Request) {
        if let Op::Shard(op) = &mut request.op
            && matches!(**op, ShardOp::Write { .. })
        {
            self.count += 1;
            if self.count.is_multiple_of(20) {
                // The drive sees something harmless instead.
                self.writes.insert(id);
                request.op = ShardOp::Stat.into();
                request.payload = mesh_core::Buf::empty();
            }
        }
    }

    fn reply(&mut self, id: Token, outcome: Outcome) -> (usize, Outcome) {
        if self.writes.remove(&id) { (1, Ok(Answer::Done.into())) } else { (1, outcome) }
    }
}

struct Replies {
    count: u32,
    times: usize,
}

impl Twist for Replies {
    fn reply(&mut self, _id: Token, outcome: Outcome) -> (usize, Outcome) {
        self.count += 1;
        (if self.count.is_multiple_of(40) { self.times } else { 1 }, outcome)
    }
}

/// Lets stripes through as they are: what stands in for Encrypt under [`Bug::Plaintext`].
#[derive(Debug, Default)]
pub struct PassThrough {
    requests: BTreeMap<Token, Token>,
}

impl StorageFunction for PassThrough {
    fn on_event(&mut self, event: Event, cx: &mut Cx<'_>) {
        match event {
            Event::Request { id, request } => {
                let call = cx.call(Target::Next, request);
                self.requests.insert(call, id);
            }
            Event::Reply { call, outcome } => {
                if let Some(id) = self.requests.remove(&call) {
                    cx.reply(id, outcome);
                }
            }
            Event::Done { .. } | Event::Wake | Event::Configure(_) => {}
        }
    }

    fn in_flight(&self) -> usize {
        self.requests.len()
    }

    fn snapshot(&mut self, since: Option<Mark>) -> Snapshot {
        Snapshot { since, ..Snapshot::default() }
    }
}
