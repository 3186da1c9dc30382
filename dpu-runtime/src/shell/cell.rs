//! One function in one ractor actor.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    ops::{Deref, DerefMut},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use mesh_core::{
    Cx, Effect, Entropy, Error, ErrorKind, Event, Job, Outcome, Request, Response, StorageFunction, Target, Tokens,
    WorkOutcome,
    id::{ActorId, Token},
    op::{Answer, Op},
    port::{CallGuard, Completion},
    snapshot::{Mark, Snapshot},
    spec::FunctionSpec,
    time::Instant,
};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::oneshot;

use super::{
    credits::Permit,
    figures::{HostFigures, Medium, Meter},
    host::{ActorSetup, Host, WeakHost},
    workers::Workers,
};

/// What a function is told.
pub(super) enum Message {
    /// Somebody asks.
    Request { request: Request, owed: Owed },
    /// A call has been answered.
    Reply { call: Token, outcome: Outcome },
    /// A piece of work has ended.
    Done { work: Token, outcome: WorkOutcome },
    /// A time has come.
    Wake,
    /// New settings.
    Configure(Arc<FunctionSpec>),
    /// Say when nothing is in flight.
    Drain(oneshot::Sender<()>),
    /// Say when nothing is in flight that the state depends on.
    Settle(oneshot::Sender<()>),
    /// Give a page of the state.
    Snapshot { since: Option<Mark>, answer: oneshot::Sender<Snapshot> },
    /// Say what the function has counted.
    Figures(oneshot::Sender<()>),
    /// Take over a page of the state.
    Restore { page: Box<Snapshot>, answer: oneshot::Sender<Result<(), Error>> },
}

/// A request's answer that is still owed. If it is dropped, because the function panicked or its actor ended, the
/// request fails with `Restarted`.
pub(super) struct Owed {
    to: Option<(Completion<Outcome>, Permit, Meter)>,
    /// Whoever asked has given it up.
    given_up: Arc<AtomicBool>,
}

impl Owed {
    pub(super) fn new(done: Completion<Outcome>, permit: Permit, meter: Meter) -> Self {
        Self { to: Some((done, permit, meter)), given_up: Arc::default() }
    }

    /// For who asked: dropped, it takes the request back, where its function has not been given it yet. A function is not
    /// stopped in what it has begun.
    pub(super) fn guard(&self) -> CallGuard {
        let given_up = self.given_up.clone();
        CallGuard::new(move || given_up.store(true, Ordering::Release))
    }

    pub(super) fn pay(mut self, outcome: Outcome) {
        if let Some((done, permit, meter)) = self.to.take() {
            permit.answered(&outcome);
            meter.end(&outcome);
            drop(permit);
            done(outcome);
        }
    }

    /// Gives it back if its function need be given the request at all. Else it is paid: work that nobody waits for would hold
    /// up what somebody does, the more the less there is time for.
    pub(super) fn wanted(self, deadline: Instant, now: Instant) -> Option<Self> {
        let why = if self.given_up.load(Ordering::Acquire) {
            "whoever asked has given it up"
        } else if deadline <= now {
            "the budget ran out before the actor took the request"
        } else {
            return Some(self);
        };
        self.pay(Err(Error::new(ErrorKind::Timeout, why)));
        None
    }

    /// For who will have it answered otherwise.
    pub(super) fn release(mut self) -> Option<Completion<Outcome>> {
        self.to.take().map(|(done, ..)| done)
    }
}

impl Drop for Owed {
    fn drop(&mut self) {
        if let Some((done, permit, meter)) = self.to.take() {
            let what = "the function ended with the request in flight; look before you send again";
            let outcome = Err(Error::new(ErrorKind::Restarted, what));
            meter.end(&outcome);
            drop(permit);
            done(outcome);
        }
    }
}

/// The ractor actor.
pub(super) struct Cell;

/// What it keeps.
pub(super) struct State {
    host: WeakHost,
    setup: ActorSetup,
    function: Aside,
    /// Held by every disk job under way.
    disk_jobs: Arc<()>,
    /// Where what is done to its medium is counted, if it has one.
    medium: Option<Arc<Medium>>,
    /// Under which what its function has counted is kept.
    number: u64,
    tokens: Tokens,
    entropy: Box<dyn Entropy>,
    /// Answers owed, by the request's token. In its order, for with the actor they are dropped: whoever is owed one hears of it
    /// in the same order from one seed.
    owed: BTreeMap<Token, Owed>,
    /// Calls under way: when they are given up, and how they are cancelled. Dropped with the actor, in their order.
    calls: BTreeMap<Token, (Instant, CallGuard)>,
    /// The same by time: whoever is asked may never answer, here as well as over a link.
    deadlines: BTreeSet<(Instant, Token)>,
    queue: VecDeque<Event>,
    effects: Vec<Effect>,
    /// When the timer that runs will go off.
    timer: Option<(Instant, tokio::task::JoinHandle<()>)>,
    /// Who waits until nothing is in flight: one that stops it, and one that has sent it away.
    drained: Vec<oneshot::Sender<()>>,
    settled: Option<oneshot::Sender<()>>,
}

impl Drop for State {
    fn drop(&mut self) {
        if let Some(host) = self.host.upgrade() {
            host.counts().part(self.number, self.setup.id, &*self.function);
        }
        if let Some((_, timer)) = self.timer.take() {
            timer.abort();
        }
    }
}

/// A function that is given back aside: a state of a million entries takes a tenth of a second for that, and not on a
/// thread that others' requests wait for, least of all when the actor has just moved away.
struct Aside(Option<Box<dyn StorageFunction>>, Workers);

impl Deref for Aside {
    type Target = dyn StorageFunction;

    fn deref(&self) -> &Self::Target {
        self.0.as_deref().expect("it is there until it is dropped")
    }
}

impl DerefMut for Aside {
    fn deref_mut(&mut self) -> &mut Self::Target {
        self.0.as_deref_mut().expect("it is there until it is dropped")
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        if let Some(function) = self.0.take() {
            self.1.discard(function);
        }
    }
}

/// What starting takes.
pub(super) struct Arguments {
    pub(super) host: WeakHost,
    pub(super) setup: ActorSetup,
    pub(super) function: Box<dyn StorageFunction>,
    pub(super) disk_jobs: Arc<()>,
}

impl Actor for Cell {
    type Msg = Message;
    type State = State;
    type Arguments = Arguments;

    async fn pre_start(&self, myself: ActorRef<Message>, arguments: Arguments) -> Result<State, ActorProcessingErr> {
        let Arguments { host, setup, function, disk_jobs } = arguments;
        let alive = host.upgrade().ok_or("the host is gone")?;
        let mut state = State {
            host,
            entropy: (alive.ports().entropy)(),
            queue: VecDeque::from([Event::Configure(setup.spec.clone())]),
            medium: setup.id.as_drive().map(|drive| alive.counts().medium(drive)),
            number: alive.counts().cell(),
            setup,
            function: Aside(Some(function), alive.ports().workers.clone()),
            disk_jobs,
            tokens: Tokens::default(),
            owed: BTreeMap::new(),
            calls: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            effects: Vec::new(),
            timer: None,
            drained: Vec::new(),
            settled: None,
        };
        state.run(&alive, &myself);
        Ok(state)
    }

    async fn handle(
        &self,
        myself: ActorRef<Message>,
        message: Message,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        let Some(host) = state.host.upgrade() else {
            myself.stop(None);
            return Ok(());
        };
        let event = match message {
            Message::Request { request, owed } => {
                let Some(owed) = owed.wanted(request.deadline, host.ports().clock.now()) else { return Ok(()) };
                let id = state.tokens.next();
                state.owed.insert(id, owed);
                Event::Request { id, request }
            }
            Message::Reply { call, outcome } => {
                // A call that was given up has had its answer.
                let Some((deadline, guard)) = state.calls.remove(&call) else { return Ok(()) };
                state.deadlines.remove(&(deadline, call));
                guard.forget();
                Event::Reply { call, outcome }
            }
            Message::Done { work, outcome } => Event::Done { work, outcome },
            Message::Wake => {
                state.timer = None;
                let now = host.ports().clock.now();
                state.give_up(now);
                if state.function.wake_at().is_some_and(|at| at <= now) {
                    state.queue.push_back(Event::Wake);
                }
                state.run(&host, &myself);
                return Ok(());
            }
            Message::Configure(spec) => {
                state.setup.spec = spec.clone();
                Event::Configure(spec)
            }
            Message::Drain(answer) => {
                state.drained.retain(|waiting| !waiting.is_closed());
                state.drained.push(answer);
                state.report_rest();
                return Ok(());
            }
            Message::Settle(answer) => {
                state.settled = Some(answer);
                state.report_rest();
                return Ok(());
            }
            Message::Snapshot { since, answer } => {
                // Whoever asked may have given up.
                drop(answer.send(state.function.snapshot(since)));
                return Ok(());
            }
            Message::Figures(answer) => {
                host.counts().keep(state.number, state.setup.id, &*state.function);
                if answer.send(()).is_err() {
                    tracing::trace!("nobody waits any more for what a function has counted");
                }
                return Ok(());
            }
            Message::Restore { page, answer } => {
                drop(answer.send(state.function.restore(&page)));
                return Ok(());
            }
        };
        state.queue.push_back(event);
        state.run(&host, &myself);
        Ok(())
    }
}

impl State {
    /// Lets the function take what is queued, and carries out what it wants, until nothing is left to do here.
    fn run(&mut self, host: &Host, myself: &ActorRef<Message>) {
        while let Some(event) = self.queue.pop_front() {
            let clock = &host.ports().clock;
            let mut effects = core::mem::take(&mut self.effects);
            let mut cx = Cx::new(clock.now(), clock.wall(), &mut effects, &mut self.tokens, &mut *self.entropy);
            self.function.on_event(event, &mut cx);
            for effect in effects.drain(..) {
                self.carry_out(effect, host, myself);
            }
            self.effects = effects;
        }
        self.rearm(host, myself);
        self.report_rest();
    }

    fn carry_out(&mut self, effect: Effect, host: &Host, myself: &ActorRef<Message>) {
        match effect {
            Effect::Reply { id, outcome } => {
                self.owed.remove(&id).expect("a function answers each request once").pay(outcome);
            }
            Effect::Call { to: Target::Metadata, call, request } => {
                self.await_reply(call, request.deadline, CallGuard::none());
                let myself = myself.clone();
                let done = Box::new(move |outcome: Result<_, Error>| {
                    let outcome = outcome.map(|answer| Response::new(Answer::Meta(answer)));
                    tell(&myself, Message::Reply { call, outcome });
                });
                match request.op {
                    Op::Query { group, query } => host.ports().metadata.query(group, query, request.deadline, done),
                    op => {
                        done(Err(Error::bug("metadata was called with something that is no query")
                            .with("op", format!("{op:?}"))))
                    }
                }
            }
            Effect::Call { to, call, request } => {
                let actor = match to {
                    Target::Actor(actor) => Ok((actor, None)),
                    Target::Tail(cut) => match self.setup.id.as_data() {
                        Some((tenant, ingress)) => Ok((ActorId::tail(tenant, ingress, cut), Some(self.setup.epoch))),
                        None => Err(Error::bug("what is no data chain was cut").with("actor", self.setup.id)),
                    },
                    _ => self.setup.onward.resolve(&request).map(|actor| (actor, None)),
                };
                match actor {
                    Ok((actor, head)) => {
                        let answer_to = myself.clone();
                        let done = Box::new(move |outcome| tell(&answer_to, Message::Reply { call, outcome }));
                        let deadline = request.deadline;
                        let guard = match head {
                            Some(epoch) => host.ask_tail((actor, epoch), request, done),
                            None => host.ask(actor, request, done),
                        };
                        self.await_reply(call, deadline, guard);
                    }
                    Err(error) => self.queue.push_back(Event::Reply { call, outcome: Err(error) }),
                }
            }
            Effect::Start { work, job } => self.start(work, job, host, myself),
        }
    }

    fn start(&mut self, work: Token, job: Job, host: &Host, myself: &ActorRef<Message>) {
        let ports = host.ports();
        match job {
            Job::Disk(job) => {
                let Some(disk) = &self.setup.disk else {
                    let outcome = Err(Error::bug("a function without a drive wants disk work"));
                    self.queue.push_back(Event::Done { work, outcome });
                    return;
                };
                let (myself, under_way) = (myself.clone(), self.disk_jobs.clone());
                let counted = HostFigures::begin(self.medium.clone(), &ports.clock, &job);
                let done = move |outcome: WorkOutcome| {
                    if let Some(counted) = counted {
                        counted.end(outcome.is_err());
                    }
                    drop(under_way);
                    tell(&myself, Message::Done { work, outcome });
                };
                disk.start(job, Box::new(done));
            }
            Job::Compute(job) if ports.compute.is_small(&job) => {
                self.queue.push_back(Event::Done { work, outcome: ports.compute.run(job) });
            }
            Job::Compute(job) => {
                let compute = ports.compute.clone();
                let pending = Pending { work, to: Some(myself.clone()) };
                let given = ports.workers.give(move || {
                    let outcome = compute.run(job);
                    pending.end(outcome);
                });
                if let Err(error) = given {
                    // The task was dropped, and what it had pending has answered; this only says why.
                    tracing::debug!(%error, "a compute job found no worker");
                }
            }
            Job::Propose { command, deadline } => {
                let myself = myself.clone();
                let done = Box::new(move |outcome: Result<_, Error>| {
                    let outcome = outcome.map(mesh_core::port::WorkOutput::Meta);
                    tell(&myself, Message::Done { work, outcome });
                });
                ports.metadata.propose(command, deadline, done);
            }
        }
    }

    fn await_reply(&mut self, call: Token, deadline: Instant, guard: CallGuard) {
        self.calls.insert(call, (deadline, guard));
        if deadline != Instant::NEVER {
            self.deadlines.insert((deadline, call));
        }
    }

    /// Answers calls whose time is up, so that a function that waits for one can go on.
    fn give_up(&mut self, now: Instant) {
        while let Some(&(at, call)) = self.deadlines.first()
            && at <= now
        {
            self.deadlines.pop_first();
            // Dropping the guard cancels.
            drop(self.calls.remove(&call));
            let error = Error::new(ErrorKind::Timeout, "no answer within the budget; it may have taken effect");
            self.queue.push_back(Event::Reply { call, outcome: Err(error) });
        }
    }

    /// Makes sure that a timer goes off when the function wants to be woken. One that goes off early is armed again.
    fn rearm(&mut self, host: &Host, myself: &ActorRef<Message>) {
        let next = self.deadlines.first().map(|(at, _)| *at);
        let Some(at) = self.function.wake_at().into_iter().chain(next).min() else { return };
        if self.timer.as_ref().is_some_and(|(armed, _)| *armed <= at) {
            return;
        }
        if let Some((_, timer)) = self.timer.take() {
            timer.abort();
        }
        let wait = at.after(host.ports().clock.now());
        let myself = myself.clone();
        let timer = tokio::spawn(async move {
            tokio::time::sleep(wait).await;
            tell(&myself, Message::Wake);
        });
        self.timer = Some((at, timer));
    }

    /// Tells who waits for it that nothing is in flight, or nothing that the state depends on.
    fn report_rest(&mut self) {
        if self.settled.is_some()
            && self.function.lingers()
            && let Some(answer) = self.settled.take()
            && answer.send(()).is_err()
        {
            tracing::debug!(actor = %self.setup.id, "settled, and nobody waits for it");
        }
        if !self.drained.is_empty() && self.owed.is_empty() && self.function.unanswered() == 0 {
            for answer in self.drained.drain(..) {
                if answer.send(()).is_err() {
                    tracing::debug!(actor = %self.setup.id, "drained, and nobody waits for it");
                }
            }
        }
    }
}

/// A compute job on its way: if its worker panics or never takes it, the function still hears of its end.
struct Pending {
    work: Token,
    to: Option<ActorRef<Message>>,
}

impl Pending {
    fn end(mut self, outcome: WorkOutcome) {
        if let Some(to) = self.to.take() {
            tell(&to, Message::Done { work: self.work, outcome });
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if let Some(to) = self.to.take() {
            let error = Error::new(ErrorKind::Overloaded, "no worker did the job; back off and send again");
            tell(&to, Message::Done { work: self.work, outcome: Err(error) });
        }
    }
}

/// Sends to an actor that may have ended: then nobody is owed anything by it any more.
fn tell(actor: &ActorRef<Message>, message: Message) {
    if actor.cast(message).is_err() {
        tracing::trace!("a completion came to an actor that has ended");
    }
}
