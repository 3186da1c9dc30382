//! Objects as stripes and manifests: the function at the way in of a node.
//!
//! It owns what a request needs while it runs: open writes, the cache of buckets, blocks of write ids, and the deletion
//! of what nobody refers to any more. It never touches data or metadata of a tenant itself: all of that goes to the
//! next stage, where Policy checks it; only its own bookkeeping goes to the metadata groups directly.
//!
//! A request is a `Task` (`task.rs`): a small machine that hears one thing and says what it wants next, a `Step`.
//! This file turns steps into effects and events into what tasks hear; it knows nothing of objects. One file a family:
//! `begin`, `append`, `finish`, `read`, `lookup`, `upload`, `bucket`. Behind them the function's own work: `reclaim`
//! (garbage; `ages` says how old it is), `owed` (what drives that were away have left of it), `retire` (ends blocks of
//! write ids), `sweep` (what failed writes left on drives). Beside them, what they share: `ask` (resends and their pauses),
//! `sessions` (this life in each group), `blocks` (write ids), `writes` (open writes), `buckets` (the cache).
//!
//! ```text
//! Begin ── bucket ── write id ── data key ──> open      (every arrow may be lost and goes again
//! Append ── StripeOp::Write ──> placed                   until the request's deadline)
//! Finish ── PutObject | PutPart ──> visible, acknowledged
//! ```

mod ages;
mod append;
mod ask;
mod begin;
mod blocks;
mod bucket;
mod buckets;
mod check;
mod finish;
mod lookup;
mod owed;
mod read;
mod reclaim;
mod retire;
mod sessions;
mod sweep;
mod task;
#[cfg(test)]
mod tests;
mod timers;
mod upload;
mod writes;

use core::time::Duration;
use std::{collections::BTreeMap, sync::Arc};

use mesh_core::{
    Answer, Cx, Error, ErrorKind, Event, Job, Op, Outcome, Request, Response, StorageFunction, Target, WorkOutcome,
    figures::{Count, Figures as _, Labels, Level, Page},
    id::{GroupId, Token},
    limits::{MAILBOX_JOBS_MAX, STRIPE_BYTES_MAX},
    meta::{BucketCommand, BucketSettings, Command, MetaAnswer, Query, Session, UpkeepCommand},
    op::ObjectOp,
    port::WorkOutput,
    snapshot::{Mark, Snapshot},
    spec::{FunctionSpec, ObjectSpec},
    time::Instant,
};

use ask::{Ask, Owner, Verdict, Way};
use retire::Spent;
use task::{Caller, Desk, Failure, Heard, Question, Scene, Step, Task};
use timers::{Timer, Timers};

mesh_core::figures! {
    /// What it takes to answer.
    pub(crate) struct Counted as "mesh_object" {
        /// Calls that were sent again: whoever was asked had moved, was busy, or did not answer.
        resends: Count,
        /// Objects and parts that are being written now.
        open_writes: Level,
        /// Calls of its own work that are out: deleting what nobody refers to any more.
        background_calls: Level,
    }
}

/// The Object function. See the module's page.
pub struct Object {
    desk: Desk,
    tasks: BTreeMap<Token, Running>,
    calls: BTreeMap<Token, Pending>,
    timers: Timers,
    /// Calls of the function's own work that are out.
    background: usize,
    /// A bucket is being removed.
    removing: bool,
    counted: Counted,
}

/// A request under way.
struct Running {
    caller: Caller,
    task: Box<dyn Task>,
}

/// Who waits for a completion.
#[allow(clippy::large_enum_variant, reason = "nearly all are the large one")]
enum Pending {
    Ask(Ask),
    Compute(Token),
}

impl core::fmt::Debug for Object {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let Self { desk, tasks, calls, .. } = self;
        write!(f, "Object of {}: {} requests, {} calls", desk.spec.node, tasks.len(), calls.len())
    }
}

impl Object {
    /// The Object function of one ingress node.
    #[must_use]
    pub fn new(spec: ObjectSpec) -> Self {
        Self {
            desk: Desk::new(bounded(spec)),
            tasks: BTreeMap::new(),
            calls: BTreeMap::new(),
            timers: Timers::default(),
            background: 0,
            removing: false,
            counted: Counted::default(),
        }
    }

    fn accept(&mut self, id: Token, request: Request, cx: &mut Cx<'_>) {
        match self.admit(request, cx.now()) {
            Ok(running) => {
                self.tasks.insert(id, running);
                self.run(id, Heard::Begin, cx);
            }
            Err(error) => cx.reply(id, Err(error)),
        }
    }

    fn admit(&self, request: Request, now: Instant) -> Result<Running, Error> {
        let Request { op, payload, principal, deadline, lane, trace } = request;
        let Op::Object(op) = op else {
            return Err(Error::new(ErrorKind::Unsupported, "this function takes object operations only"));
        };
        let Some(tenant) = principal.tenant() else {
            return Err(Error::new(ErrorKind::Denied, "object operations are for principals of a tenant")
                .with("principal", principal.name()));
        };
        if deadline <= now {
            return Err(Error::new(ErrorKind::Timeout, "the request came after its deadline"));
        }
        if self.tasks.len() >= MAILBOX_JOBS_MAX {
            return Err(Error::new(ErrorKind::Overloaded, "too many requests are under way here; send again later"));
        }
        let task: Box<dyn Task> = match *op {
            ObjectOp::CreateBucket { bucket } => Box::new(bucket::Create::new(bucket, BucketSettings::default())),
            ObjectOp::CreateBucketWith { bucket, settings } => Box::new(bucket::Create::new(bucket, settings)),
            ObjectOp::DeleteBucket { bucket } => Box::new(bucket::Delete::new(bucket)),
            ObjectOp::HeadBucket { bucket } => Box::new(bucket::Head::new(bucket)),
            ObjectOp::ListBuckets => Box::new(bucket::List),
            ObjectOp::Begin { bucket, key, destination } => Box::new(begin::Begin::new(bucket, key, destination)?),
            ObjectOp::Append { write, stripe } => Box::new(append::Append::new(write, stripe, payload)),
            ObjectOp::Finish { write, len, etag, checksums } => {
                Box::new(finish::Finish::new(write, len, etag, checksums)?)
            }
            ObjectOp::Abort { write } => Box::new(finish::Abort::new(write)),
            ObjectOp::Plan { bucket, key, object, offset, len } => {
                Box::new(read::Plan::new(bucket, key, object, offset, len)?)
            }
            ObjectOp::Read { bucket, key, piece } => Box::new(read::Read::new(bucket, key, piece)?),
            ObjectOp::CreateUpload { bucket, key, attributes } => {
                Box::new(upload::Create::new(bucket, key, attributes)?)
            }
            ObjectOp::CompleteUpload { bucket, key, upload, parts, checksums, precondition } => {
                Box::new(upload::Complete::new(bucket, key, upload, parts, checksums, precondition)?)
            }
            other => Box::new(lookup::Lookup::new(other)?),
        };
        // That it has no chain here is no reason to wait, for as long as whoever asks would, for one that nobody founded.
        let is_known = self.desk.spec.keys.contains_key(&tenant);
        let deadline = if is_known { deadline } else { deadline.min(now + UNKNOWN_MAX) };
        Ok(Running { caller: Caller { principal, tenant, deadline, lane, trace }, task })
    }

    /// Lets a task hear something, and does what it wants next, until it waits.
    fn run(&mut self, id: Token, mut heard: Heard, cx: &mut Cx<'_>) {
        // Absent: the task was answered already; nothing waits twice, so that is a broken invariant.
        let mut running = self.tasks.remove(&id).expect("what completes belongs to a request under way");
        loop {
            let mut scene = Scene { caller: &running.caller, desk: &mut self.desk, cx };
            match running.task.hear(heard, &mut scene) {
                Step::Reply(outcome) => {
                    cx.reply(id, outcome);
                    return;
                }
                Step::Bucket { name, fresh } => {
                    let tenant = running.caller.tenant;
                    if let Some(row) = self.desk.buckets.find(&name).filter(|row| !fresh && row.bucket.tenant == tenant)
                    {
                        heard = Heard::Bucket(Ok(row));
                        continue;
                    }
                    let question = Question::query(GroupId::CONTROL, Query::Bucket { name: name.clone() });
                    let mut ask = Ask::new(Owner::Task(id), question, &running.caller);
                    ask.bucket = Some(name);
                    self.send(ask, cx);
                }
                Step::Ask(question) => {
                    let ask = Ask::new(Owner::Task(id), question, &running.caller);
                    self.send(ask, cx);
                }
                Step::Compute(job) => {
                    let work = cx.start(Job::Compute(job));
                    self.calls.insert(work, Pending::Compute(id));
                }
                Step::Pause(until) => {
                    self.timers.set(until, Timer::Due(id));
                }
                Step::Grant(group) => {
                    let granted = self.desk.blocks.take(group, cx.now());
                    self.refill(group, cx);
                    if let Some(write) = granted {
                        heard = Heard::Granted(Ok(write));
                        continue;
                    }
                    if self.desk.blocks.is_full() {
                        heard = Heard::Granted(Err(blocks::none_yet()));
                        continue;
                    }
                    let timer = self.timers.set(running.caller.deadline, Timer::Ungranted(id, group));
                    self.desk.blocks.park(group, id, timer);
                }
            }
            self.tasks.insert(id, running);
            return;
        }
    }

    /// Asks for a block of write ids when a group's run low.
    fn refill(&mut self, group: GroupId, cx: &mut Cx<'_>) {
        if !self.desk.blocks.wants(group) {
            return;
        }
        // Without a number there is no block now: whoever wants a write next asks again.
        if let Ok(proposer) = self.desk.proposer(group, cx.now()) {
            self.desk.blocks.asked(group);
            let command = Command::Upkeep(group, UpkeepCommand::OpenBlock { proposer });
            let question = Question::propose_directly(command);
            self.send(Ask::background(Owner::Block(group), question, cx.now()), cx);
        }
    }

    /// Sends a call, once the session that it needs is open.
    fn send(&mut self, ask: Ask, cx: &mut Cx<'_>) {
        let Some(group) = ask.session.filter(|group| !self.desk.sessions.is_open(*group)) else {
            return self.emit(ask, cx);
        };
        let Self { desk, timers, .. } = self;
        let deadline = ask.deadline;
        desk.sessions.park((group, desk.spec.epoch), ask, cx.now(), |parked| {
            timers.set(deadline, Timer::Unopened(group, parked))
        });
        self.open_session(group, cx);
    }

    fn open_session(&mut self, group: GroupId, cx: &mut Cx<'_>) {
        let actor = self.desk.actor();
        if let Some((session, command)) = self.desk.sessions.wanted(group, actor) {
            let question = Question::propose_directly(command);
            self.emit(Ask::background(Owner::Session(group, session), question, cx.now()), cx);
        }
    }

    /// A session was opened or refused: those who wait for it go on.
    fn session(&mut self, group: GroupId, session: Session, result: Result<Response, Failure>, cx: &mut Cx<'_>) {
        match result {
            Ok(_) => {
                for parked in self.desk.sessions.opened(group, session) {
                    self.timers.cancel(parked.timer);
                    self.emit(parked.ask, cx);
                }
            }
            Err(failure) => self.lose_session(group, session, &failure.error, cx),
        }
    }

    /// A session is over, or never was: what was granted under it is too, and the next request begins another.
    fn lose_session(&mut self, group: GroupId, session: Session, why: &Error, cx: &mut Cx<'_>) {
        let Some(waiting) = self.desk.sessions.lose(group, session, cx.now()) else { return };
        self.desk.blocks.forget(group);
        for parked in waiting {
            self.timers.cancel(parked.timer);
            let error = sessions::not_opened(group).caused_by(why.clone());
            self.ended(parked.ask, Err(Failure { error, maybe: false }), cx);
        }
    }

    fn emit(&mut self, mut ask: Ask, cx: &mut Cx<'_>) {
        let request = ask.take_request();
        if !ask.owner.is_task() {
            self.background += 1;
        }
        let token = match (ask.way, request) {
            (Way::Next, request) => cx.call(Target::Next, request),
            (Way::Metadata, request) => cx.call(Target::Metadata, request),
            (Way::Propose, Request { op: Op::Propose(command), deadline, .. }) => {
                cx.start(Job::Propose { command, deadline })
            }
            (Way::Actor(actor), request) => cx.call(Target::Actor(actor), request),
            (Way::Propose, _) => unreachable!("only a proposal is proposed: see Question::propose_directly"),
        };
        self.calls.insert(token, Pending::Ask(ask));
    }

    fn completed(&mut self, token: Token, outcome: Outcome, cx: &mut Cx<'_>) {
        let pending = self.calls.remove(&token).expect("a completion is of a call this function made, and comes once");
        let Pending::Ask(mut ask) = pending else { unreachable!("a computation ends by Event::Done") };
        if !ask.owner.is_task() {
            self.background -= 1;
        }
        let result = match outcome {
            Ok(response) => Ok(response),
            Err(error) => match ask.judge(error, cx.now()) {
                Verdict::Final(failure) => Err(failure),
                Verdict::Again(at) if at <= cx.now() => {
                    self.counted.resends.add(1);
                    return self.emit(ask, cx);
                }
                Verdict::Again(at) => {
                    self.counted.resends.add(1);
                    self.timers.set(at, Timer::Resend(ask));
                    return;
                }
            },
        };
        self.ended(ask, result, cx);
    }

    /// A call has come to its end.
    fn ended(&mut self, ask: Ask, result: Result<Response, Failure>, cx: &mut Cx<'_>) {
        if let (Some(number), Some(group)) = (&ask.number, ask.session) {
            self.desk.sessions.ended(group, number);
            if let Err(failure) = &result
                && failure.is(ErrorKind::Fenced)
            {
                let why = failure.error.clone();
                self.lose_session(group, number.session, &why, cx);
            }
        }
        match ask.owner {
            Owner::Task(id) => {
                let heard = match ask.bucket {
                    Some(name) => Heard::Bucket(self.found(id, &name, result)),
                    None => Heard::Answer(result),
                };
                self.run(id, heard, cx);
            }
            Owner::Block(group) => self.granted(group, result, cx),
            Owner::Session(group, session) => self.session(group, session, result, cx),
            // Whatever came of it: who finds the bucket sealed once more says so.
            Owner::Deletion(bucket) => {
                self.desk.sealed.remove(&bucket);
                self.removing = false;
            }
            Owner::Reclaim(errand) => self.desk.reclaimed(errand, result, cx.now()),
            Owner::Owed(errand) => self.desk.owed.hear(errand, result, cx.now()),
            Owner::Sweep(errand) => self.desk.swept(errand, result, cx.now()),
            Owner::Retire(group, first) => self.desk.blocks.retire.heard((group, first), result.is_ok(), cx.now()),
        }
    }

    /// A bucket was looked up.
    fn found(
        &mut self,
        id: Token,
        name: &Arc<str>,
        result: Result<Response, Failure>,
    ) -> Result<Arc<mesh_core::meta::BucketRow>, Failure> {
        self.desk.buckets.forget(name);
        let row = match task::meta(result?)?.as_ref() {
            MetaAnswer::Bucket(row) => Arc::clone(row),
            other => return Err(task::unexpected("a bucket", other).into()),
        };
        let caller = self.tasks.get(&id).map(|running| &running.caller);
        if caller.is_none_or(|caller| caller.tenant != row.bucket.tenant) {
            let who = caller.map_or("", |caller| caller.principal.name());
            return Err(Error::new(ErrorKind::Denied, "the bucket belongs to another tenant")
                .with("principal", who)
                .with("bucket", name)
                .into());
        }
        self.desk.buckets.keep(&row);
        Ok(row)
    }

    /// A block was granted or refused: those who wait for one go on.
    fn granted(&mut self, group: GroupId, result: Result<Response, Failure>, cx: &mut Cx<'_>) {
        let parked = match self.desk.blocks.opened(group, result) {
            Ok(()) => self.desk.blocks.served(group, cx.now()),
            Err((error, parked)) => parked.into_iter().map(|waiter| (waiter, Err(error.clone()))).collect(),
        };
        for (waiter, grant) in parked {
            self.timers.cancel(waiter.timer);
            self.run(waiter.task, Heard::Granted(grant), cx);
        }
        if self.desk.blocks.has_parked(group) {
            self.refill(group, cx);
        }
    }

    fn wake(&mut self, cx: &mut Cx<'_>) {
        while let Some(timer) = self.timers.due(cx.now()) {
            match timer {
                Timer::Resend(ask) => self.emit(ask, cx),
                Timer::Unopened(group, parked) => {
                    if let Some(ask) = self.desk.sessions.unpark(group, parked) {
                        let failure = Failure { error: sessions::not_opened(group), maybe: false };
                        self.ended(ask, Err(failure), cx);
                    }
                }
                Timer::Due(id) => self.run(id, Heard::Due, cx),
                Timer::Ungranted(id, group) => {
                    self.desk.blocks.unpark(group, id);
                    self.run(id, Heard::Granted(Err(blocks::none_yet())), cx);
                }
            }
        }
        self.desk.drop_idle_writes(cx.now());
        self.desk.blocks.expire(self.desk.block_age_max(), cx.now());
    }

    /// Sends what the function has to do for itself now.
    fn work(&mut self, cx: &mut Cx<'_>) {
        let now = cx.now();
        while let Some(group) = self.desk.sessions.next_due(self.desk.spec.epoch, now) {
            self.open_session(group, cx);
        }
        while let Some((errand, question)) = self.desk.next_reclaim(now) {
            self.send(Ask::background(Owner::Reclaim(errand), question, now), cx);
        }
        while let Some((errand, question)) = self.desk.next_owed(now) {
            self.send(Ask::background(Owner::Owed(errand), question, now), cx);
        }
        while let Some((errand, question)) = self.desk.next_sweep(now) {
            self.send(Ask::background(Owner::Sweep(errand), question, now), cx);
        }
        if let Some(&bucket) = self.desk.sealed.first()
            && !self.removing
        {
            self.removing = true;
            let question = Question::propose_directly(BucketCommand::RemoveBucket { bucket });
            self.send(Ask::background(Owner::Deletion(bucket), question, now), cx);
        }
        let Desk { blocks, writes, .. } = &mut self.desk;
        let is_held = |spent: &Spent| {
            let range = spent.first..spent.end;
            writes.any_in(range.clone())
                || self.tasks.values().any(|running| running.task.write().is_some_and(|write| range.contains(&write)))
        };
        if let Some((group, first)) = blocks.retire.next(now, is_held) {
            let question = Question::propose_directly(Command::Upkeep(group, UpkeepCommand::CloseBlock { first }));
            self.send(Ask::background(Owner::Retire(group, first), question, now), cx);
        }
    }
}

impl StorageFunction for Object {
    fn on_event(&mut self, event: Event, cx: &mut Cx<'_>) {
        match event {
            Event::Request { id, request } => self.accept(id, request, cx),
            Event::Reply { call, outcome } => self.completed(call, outcome, cx),
            Event::Done { work, outcome } => {
                if let Some(&Pending::Compute(id)) = self.calls.get(&work) {
                    self.calls.remove(&work);
                    self.run(id, Heard::Computed(outcome), cx);
                } else {
                    self.completed(work, as_reply(outcome), cx);
                }
            }
            Event::Wake => self.wake(cx),
            Event::Configure(spec) => {
                for part in spec.parts() {
                    if let FunctionSpec::Object(spec) = part {
                        self.desk.configure(bounded(spec.clone()), cx.now());
                    }
                }
            }
        }
        self.work(cx);
    }

    fn wake_at(&self) -> Option<Instant> {
        let Desk { blocks, writes, reclaim, owed, sweep, sessions, .. } = &self.desk;
        let blocks = [blocks.next_expiry(self.desk.block_age_max()), blocks.retire.next_at()];
        let background = [reclaim.next_at(), owed.next_at(), sweep.next_at(), sessions.next_at()];
        let others = [self.timers.next(), writes.next_expiry()].into_iter().chain(background);
        blocks.into_iter().chain(others).flatten().min()
    }

    fn in_flight(&self) -> usize {
        self.tasks.len() + self.background
    }

    /// What it sees to by itself, it or another takes up again, and may need others that have stopped already.
    fn unanswered(&self) -> usize {
        self.tasks.len()
    }

    fn figures(&self, labels: &Labels, page: &mut Page) {
        self.counted.tell(labels, page);
        let now = Counted {
            open_writes: Level(self.desk.writes.len() as u64),
            background_calls: Level(self.background as u64),
            ..Counted::default()
        };
        now.tell(labels, page);
    }

    /// Nothing to carry over: an ingress stays on its node, and what it promised is in the metadata groups.
    fn snapshot(&mut self, since: Option<Mark>) -> Snapshot {
        Snapshot { since, ..Snapshot::default() }
    }
}

/// The end of a proposal, as the reply it would be if it had gone through the next stage.
fn as_reply(outcome: WorkOutcome) -> Outcome {
    match outcome? {
        WorkOutput::Meta(answer) => Ok(Answer::Meta(answer).into()),
        _ => Err(Error::bug("a proposal ended with the output of other work")),
    }
}

/// Settings that a function can run on, whatever was written into them.
fn bounded(spec: ObjectSpec) -> ObjectSpec {
    ObjectSpec { stripe_bytes: spec.stripe_bytes.clamp(1, STRIPE_BYTES_MAX as u32), ..spec }
}

/// How long a tenant's chain is waited for that this ingress has not been told of: one that was founded just now is told of
/// within a moment.
const UNKNOWN_MAX: Duration = Duration::from_secs(1);
