use std::sync::{Arc, Mutex};

use mesh_core::{
    Answer, Buf, Cx, Effect, Entropy, Error, ErrorKind, Event, Job, Lane, Op, Principal, Request, Response,
    StorageFunction, Target, WorkOutcome,
    envelope::Envelope,
    id::{ActorId, Epoch, GroupId, NodeId, ShardId, StripeId, TenantId, Token, WriteId},
    meta::{Command, MetaAnswer, Query},
    op::ShardOp,
    port::{
        CallGuard, Clock, Completion, Compute, ComputeJob, Disk, DiskJob, Geometry, Metadata, Outbound, WorkOutput,
    },
    snapshot::{Mark, Snapshot},
    spec::{EncryptSpec, FunctionSpec},
    time::{Instant, UnixMillis},
    topology::Code,
};

use super::*;

/// Does what the shard number of a delete says: 0 replies, 1 panics, 2 parks until woken, 3 computes, 4 goes on, 5
/// parks for ever.
#[derive(Default)]
struct Toy {
    parked: Vec<Token>,
    wake: Option<Instant>,
    working: Vec<(Token, Token)>,
    stuck: Vec<Token>,
}

fn wish(request: &Request) -> u8 {
    match &request.op {
        Op::Shard(op) => match &**op {
            ShardOp::Read { id } => id.shard,
            _ => 0,
        },
        _ => 0,
    }
}

fn done() -> Result<Response, Error> {
    Ok(Answer::Done.into())
}

impl StorageFunction for Toy {
    fn on_event(&mut self, event: Event, cx: &mut Cx<'_>) {
        match event {
            Event::Request { id, request } => match wish(&request) {
                1 => panic!("asked to"),
                2 => {
                    self.parked.push(id);
                    self.wake = Some(cx.now() + core::time::Duration::from_millis(5));
                }
                3 => {
                    let job = ComputeJob::Encode { code: Code { data: 1, parity: 0 }, bytes: request.payload };
                    self.working.push((cx.start(Job::Compute(job)), id));
                }
                4 => {
                    let onward = request.onward(request.op.clone(), Buf::empty());
                    self.working.push((cx.call(Target::Next, onward), id));
                }
                5 => self.stuck.push(id),
                _ => cx.reply(id, done()),
            },
            Event::Wake => {
                self.wake = None;
                for id in self.parked.drain(..) {
                    cx.reply(id, done());
                }
            }
            Event::Done { work, outcome } => {
                let at = self.working.iter().position(|(token, _)| *token == work).expect("known work");
                cx.reply(self.working.remove(at).1, outcome.and_then(|_| done()));
            }
            Event::Reply { call, outcome } => {
                let at = self.working.iter().position(|(token, _)| *token == call).expect("known call");
                cx.reply(self.working.remove(at).1, outcome);
            }
            Event::Configure(_) => {}
        }
    }

    fn wake_at(&self) -> Option<Instant> {
        self.wake
    }

    fn in_flight(&self) -> usize {
        self.parked.len() + self.working.len() + self.stuck.len()
    }

    fn snapshot(&mut self, _: Option<Mark>) -> Snapshot {
        Snapshot::default()
    }
}

struct World {
    origin: tokio::time::Instant,
    sent: Mutex<Vec<NodeId>>,
}

impl Clock for World {
    fn now(&self) -> Instant {
        Instant(self.origin.elapsed().as_nanos() as u64)
    }

    fn wall(&self) -> UnixMillis {
        UnixMillis(0)
    }
}

impl Compute for World {
    fn run(&self, job: ComputeJob) -> WorkOutcome {
        match job {
            ComputeJob::Encode { bytes, .. } if bytes.len() == 13 => panic!("an unlucky job"),
            ComputeJob::Encode { bytes, .. } => Ok(WorkOutput::Bytes(bytes)),
            _ => Err(Error::invalid("not in this test")),
        }
    }

    fn is_small(&self, job: &ComputeJob) -> bool {
        matches!(job, ComputeJob::Encode { bytes, .. } if bytes.len() < 10)
    }
}

type MetaDone = Completion<Result<Arc<MetaAnswer>, Error>>;

impl Metadata for World {
    fn query(&self, _: GroupId, _: Arc<Query>, _: Instant, done: MetaDone) {
        done(Ok(Arc::new(MetaAnswer::Done)));
    }

    fn propose(&self, _: Arc<Command>, _: Instant, done: MetaDone) {
        done(Ok(Arc::new(MetaAnswer::Done)));
    }
}

impl Outbound for World {
    fn send(&self, to: NodeId, _: Envelope, done: Completion<mesh_core::Outcome>) -> CallGuard {
        self.sent.lock().unwrap().push(to);
        done(self::done());
        CallGuard::none()
    }
}

struct Zeros;

impl Entropy for Zeros {
    fn fill(&mut self, target: &mut [u8]) {
        target.fill(0);
    }
}

fn host() -> (Host, Arc<World>) {
    let world = Arc::new(World { origin: tokio::time::Instant::now(), sent: Mutex::default() });
    let ports = Ports {
        clock: world.clone(),
        entropy: Arc::new(|| Box::new(Zeros)),
        compute: world.clone(),
        workers: Workers::threads(1).unwrap(),
        metadata: world.clone(),
        outbound: world.clone(),
    };
    (Host::new(NodeId(1), ports), world)
}

fn setup(id: ActorId, onward: Onward) -> ActorSetup {
    ActorSetup {
        id,
        epoch: Epoch(1),
        spec: Arc::new(FunctionSpec::Encrypt(EncryptSpec::default())),
        build: Arc::new(|_| Ok(Box::new(Toy::default()))),
        disk: None,
        onward,
    }
}

fn asking(wish: u8, payload: usize) -> Request {
    let id: ShardId = StripeId { write: WriteId(1), stripe: 0, attempt: 0 }.shard(wish);
    Request {
        op: ShardOp::Read { id }.into(),
        payload: Buf::zeroed(payload),
        principal: Principal::System,
        deadline: Instant::NEVER,
        lane: Lane::Interactive,
        trace: mesh_core::Trace::NONE,
    }
}

const ACTOR: ActorId = ActorId(7);

#[tokio::test]
async fn answers_wakes_computes_and_goes_on() {
    let (host, _) = host();
    let chain = ActorId::data(TenantId(3), NodeId(1));
    host.start(setup(ACTOR, Onward::DataChain(NodeId(1)))).await.unwrap();
    host.start(setup(chain, Onward::End)).await.unwrap();
    assert_eq!(host.request(ACTOR, asking(0, 0)).await, done());
    assert_eq!(host.request(ACTOR, asking(2, 0)).await, done());
    assert_eq!(host.request(ACTOR, asking(3, 5)).await, done());
    assert_eq!(host.request(ACTOR, asking(3, 500)).await, done());
    // The last stage of the chain has no next: an error, not a panic.
    let principal = Principal::User { tenant: TenantId(3), name: "somebody".into() };
    let of_tenant = Request { principal, ..asking(4, 0) };
    assert_eq!(host.request(ACTOR, of_tenant).await.unwrap_err().kind(), ErrorKind::Bug);
    assert_eq!(host.request(ACTOR, asking(4, 0)).await.unwrap_err().kind(), ErrorKind::Denied);
    assert!(host.actors().iter().all(|actor| (actor.jobs, actor.bytes, actor.restarts) == (0, 0, 0)));
}

#[tokio::test]
async fn a_panic_fails_what_is_in_flight_and_the_function_is_built_again() {
    let (host, _) = host();
    host.start(setup(ACTOR, Onward::End)).await.unwrap();
    let stuck = host.request(ACTOR, asking(5, 0));
    let broken = host.request(ACTOR, asking(1, 0));
    assert_eq!(stuck.await.unwrap_err().kind(), ErrorKind::Restarted);
    assert_eq!(broken.await.unwrap_err().kind(), ErrorKind::Restarted);
    let again = async {
        while host.actors().first().is_none_or(|actor| actor.restarts == 0) {
            tokio::task::yield_now().await;
        }
        loop {
            // Between the panic and the new function, requests may still meet the old mailbox.
            match host.request(ACTOR, asking(0, 0)).await {
                Err(error) if error.kind() == ErrorKind::Restarted => tokio::task::yield_now().await,
                outcome => break outcome,
            }
        }
    };
    assert_eq!(tokio::time::timeout(core::time::Duration::from_secs(20), again).await.unwrap(), done());
}

/// A disk whose jobs end when they are told to.
#[derive(Default)]
struct SlowDisk(Mutex<Vec<Completion<WorkOutcome>>>);

impl Disk for SlowDisk {
    fn geometry(&self) -> Geometry {
        Geometry { capacity_bytes: 1 << 20, align_bytes: 4096 }
    }

    fn start(&self, _: DiskJob, done: Completion<WorkOutcome>) {
        self.0.lock().unwrap().push(done);
    }
}

/// Syncs, panics or replies, as the shard number says: 0, 1, another.
struct Syncing;

impl StorageFunction for Syncing {
    fn on_event(&mut self, event: Event, cx: &mut Cx<'_>) {
        if let Event::Request { id, request } = event {
            match wish(&request) {
                0 => {
                    cx.start(Job::Disk(DiskJob::Sync));
                }
                1 => panic!("asked to"),
                _ => cx.reply(id, done()),
            }
        }
    }

    fn in_flight(&self) -> usize {
        0
    }

    fn snapshot(&mut self, _: Option<Mark>) -> Snapshot {
        Snapshot::default()
    }
}

/// What the old function wrote late could hit what the new one has read.
#[tokio::test]
async fn a_function_that_panicked_is_built_again_once_its_disk_jobs_have_ended_and_not_before() {
    use core::{
        sync::atomic::{AtomicUsize, Ordering::SeqCst},
        time::Duration,
    };
    let (host, _) = host();
    let (disk, builds) = (Arc::new(SlowDisk::default()), Arc::new(AtomicUsize::new(0)));
    let counted = builds.clone();
    let build = move |_: &FunctionSpec| -> Result<Box<dyn StorageFunction>, Error> {
        counted.fetch_add(1, SeqCst);
        Ok(Box::new(Syncing))
    };
    let medium: Arc<dyn Disk> = disk.clone();
    let setup = ActorSetup { build: Arc::new(build), disk: Some(medium), ..setup(ACTOR, Onward::End) };
    host.start(setup).await.unwrap();
    let syncing = host.request(ACTOR, asking(0, 0));
    let broken = host.request(ACTOR, asking(1, 0));
    for lost in [syncing.await, broken.await] {
        assert_eq!(lost.unwrap_err().kind(), ErrorKind::Restarted);
    }
    let built_again = async || {
        while builds.load(SeqCst) < 2 {
            tokio::task::yield_now().await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_millis(300), built_again()).await.is_err(), "the disk has a job");
    let ends = disk.0.lock().unwrap().pop().expect("it has begun");
    ends(Ok(WorkOutput::Done));
    tokio::time::timeout(Duration::from_secs(20), built_again()).await.unwrap();
    let answered = async {
        loop {
            match host.request(ACTOR, asking(2, 0)).await {
                Err(error) if error.kind() == ErrorKind::Restarted => tokio::task::yield_now().await,
                outcome => break outcome,
            }
        }
    };
    assert_eq!(tokio::time::timeout(Duration::from_secs(20), answered).await.unwrap(), done());
}

/// One that is built as this says.
fn built_by(id: ActorId, build: impl Fn() + Send + Sync + 'static) -> ActorSetup {
    let build: Build = Arc::new(move |_| {
        build();
        Ok(Box::new(Toy::default()))
    });
    ActorSetup { build, ..setup(id, Onward::End) }
}

#[tokio::test]
async fn a_function_that_panics_where_it_is_built_fails_alone_and_may_be_started_again() {
    let (host, _) = host();
    host.start(setup(ACTOR, Onward::End)).await.unwrap();
    let (other, first) = (ActorId(8), std::sync::atomic::AtomicBool::new(true));
    let unlucky =
        built_by(other, move || assert!(!first.swap(false, std::sync::atomic::Ordering::SeqCst), "not this time"));
    let error = host.start(unlucky.clone()).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Bug && error.to_string().contains("panicked where it is built"), "{error}");
    assert!(!host.hosts(other));
    assert_eq!(host.request(ACTOR, asking(0, 0)).await, done());
    // The other one is still looked after.
    assert_eq!(host.request(ACTOR, asking(1, 0)).await.unwrap_err().kind(), ErrorKind::Restarted);
    host.start(unlucky).await.unwrap();
    assert_eq!(host.request(other, asking(0, 0)).await, done());
}

#[tokio::test]
async fn a_function_that_takes_long_to_build_holds_up_no_other() {
    let (host, _) = host();
    let (release, gate) = std::sync::mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    let slow = host.start(built_by(ActorId(8), move || assert!(gate.lock().unwrap().recv().is_err())));
    let mut slow = Box::pin(slow);
    assert!(futures_util::poll!(&mut slow).is_pending());
    host.start(setup(ACTOR, Onward::End)).await.unwrap();
    assert_eq!(host.request(ACTOR, asking(1, 0)).await.unwrap_err().kind(), ErrorKind::Restarted);
    let again = async {
        while host.request(ACTOR, asking(0, 0)).await != done() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(core::time::Duration::from_secs(20), again).await.unwrap();
    drop(release);
    slow.await.unwrap();
}

#[tokio::test]
async fn a_function_that_panics_over_and_over_is_given_up_and_may_be_started_again() {
    let (host, _) = host();
    host.start(setup(ACTOR, Onward::End)).await.unwrap();
    let given_up = async {
        loop {
            match host.request(ACTOR, asking(1, 0)).await.unwrap_err().kind() {
                ErrorKind::Restarted => tokio::task::yield_now().await,
                other => break other,
            }
        }
    };
    let kind = tokio::time::timeout(core::time::Duration::from_secs(20), given_up).await.unwrap();
    assert_eq!((kind, host.hosts(ACTOR)), (ErrorKind::NoSuchActor, false));
    host.start(setup(ACTOR, Onward::End)).await.unwrap();
    assert_eq!(host.request(ACTOR, asking(0, 0)).await, done());
}

#[tokio::test]
async fn a_compute_job_that_panics_is_an_error_of_the_work() {
    let (host, _) = host();
    host.start(setup(ACTOR, Onward::End)).await.unwrap();
    assert_eq!(host.request(ACTOR, asking(3, 13)).await.unwrap_err().kind(), ErrorKind::Overloaded);
    assert_eq!(host.request(ACTOR, asking(3, 500)).await, done());
}

#[tokio::test]
async fn refuses_stale_epochs_and_strangers_and_sends_the_rest_to_its_node() {
    let (host, world) = host();
    host.start(setup(ACTOR, Onward::End)).await.unwrap();
    let (answer, outcome) = tokio::sync::oneshot::channel();
    host.ask_local(ACTOR, Epoch(9), asking(0, 0), Box::new(move |outcome| drop(answer.send(outcome)))).forget();
    let error = outcome.await.unwrap().unwrap_err();
    assert_eq!((error.kind(), error.redirect().unwrap().epoch), (ErrorKind::StaleEpoch, Some(Epoch(1))));
    assert_eq!(host.request(ActorId(99), asking(0, 0)).await.unwrap_err().kind(), ErrorKind::NoSuchActor);
    assert_eq!(host.request(ActorId::ingress(NodeId(5)), asking(0, 0)).await, done());
    assert_eq!(*world.sent.lock().unwrap(), [NodeId(5)]);
}

#[tokio::test]
async fn draining_answers_what_is_there_and_refuses_what_comes() {
    let (host, _) = host();
    host.start(setup(ACTOR, Onward::End)).await.unwrap();
    let last = host.request(ACTOR, asking(2, 0));
    let stopping = host.stop(ACTOR, core::time::Duration::from_secs(20));
    tokio::pin!(stopping);
    assert!(futures_util::poll!(&mut stopping).is_pending());
    assert_eq!(host.request(ACTOR, asking(0, 0)).await.unwrap_err().kind(), ErrorKind::Draining);
    // Both at once: it may not end before what it has promised is answered.
    let (last, stopped) = tokio::join!(last, stopping);
    assert_eq!(last, done());
    stopped.unwrap();
    assert_eq!(host.request(ACTOR, asking(0, 0)).await.unwrap_err().kind(), ErrorKind::NoSuchActor);
}

#[test]
fn credits_are_given_back_by_drop_and_refused_over_the_limit() {
    let credits = Credits::new(2, 100);
    let first = credits.take(60).unwrap();
    assert_eq!(credits.take(41).unwrap_err().kind(), ErrorKind::Overloaded);
    let second = credits.take(40).unwrap();
    assert_eq!(credits.take(0).unwrap_err().kind(), ErrorKind::Overloaded);
    assert_eq!(credits.taken(), (2, 100));
    drop((first, second));
    assert_eq!(credits.taken(), (0, 0));
}

#[test]
fn effects_stay_small_enough_to_move() {
    assert!(size_of::<Effect>() <= 160, "{}", size_of::<Effect>());
    assert!(size_of::<Event>() <= 160, "{}", size_of::<Event>());
}

/// Counts what it is asked; its state is the count. What is parked lingers or not, as it is told.
struct Counter {
    seen: u64,
    held: Vec<Token>,
    lingers: bool,
}

impl StorageFunction for Counter {
    fn on_event(&mut self, event: Event, cx: &mut Cx<'_>) {
        match event {
            Event::Request { id, request } if wish(&request) == 5 => self.held.push(id),
            Event::Request { id, request } if wish(&request) == 6 => {
                for held in self.held.drain(..) {
                    cx.reply(held, done());
                }
                drop(request);
                cx.reply(id, done());
            }
            Event::Request { id, .. } => {
                self.seen += 1;
                let payload = Buf::copy_of(&self.seen.to_le_bytes());
                cx.reply(id, Ok(Response { answer: Answer::Done, payload }));
            }
            _ => {}
        }
    }

    fn in_flight(&self) -> usize {
        self.held.len()
    }

    fn lingers(&self) -> bool {
        self.lingers || self.held.is_empty()
    }

    fn snapshot(&mut self, since: Option<Mark>) -> Snapshot {
        let entries = vec![(b"seen".to_vec(), Some(self.seen.to_le_bytes().to_vec()))];
        Snapshot { version: 1, mark: Mark(self.seen), since, entries, ..Snapshot::default() }
    }

    fn restore(&mut self, page: &Snapshot) -> Result<(), Error> {
        let bytes = page.entries.first().and_then(|(_, value)| value.as_deref()?.try_into().ok());
        self.seen = u64::from_le_bytes(bytes.ok_or_else(|| Error::invalid("a count of 8 bytes"))?);
        Ok(())
    }
}

fn counter(epoch: u64, lingers: bool) -> ActorSetup {
    let build = move |_: &FunctionSpec| -> Result<Box<dyn StorageFunction>, Error> {
        Ok(Box::new(Counter { seen: 0, held: Vec::new(), lingers }))
    };
    ActorSetup { epoch: Epoch(epoch), build: Arc::new(build), ..setup(ACTOR, Onward::End) }
}

fn count(outcome: mesh_core::Outcome) -> u64 {
    u64::from_le_bytes(outcome.unwrap().payload[..].try_into().unwrap())
}

#[tokio::test]
async fn an_actor_that_moves_brings_its_state_and_requests_wait_for_it() {
    let ((from, _), (to, _)) = (host(), host());
    from.start(counter(1, false)).await.unwrap();
    assert_eq!(count(from.request(ACTOR, asking(0, 0)).await), 1);
    to.warm(counter(2, false)).await.unwrap();
    from.freeze(ACTOR, Epoch(1)).await.unwrap();
    let mut waits = Box::pin(from.request(ACTOR, asking(0, 0)));
    assert!(futures_util::poll!(&mut waits).is_pending());
    let early = to.request(ACTOR, asking(0, 0));
    tokio::pin!(early);
    assert!(futures_util::poll!(&mut early).is_pending(), "it has not arrived yet");
    let page = from.snapshot(ACTOR, Epoch(1), None).await.unwrap();
    to.restore(ACTOR, Epoch(2), page).await.unwrap();
    to.activate(ACTOR, Epoch(2)).unwrap();
    assert_eq!(count(early.await), 2);
    // What waited at home goes to where it is now, over the link; this world's answers everything itself.
    assert_eq!(from.retire(ACTOR, Epoch(1), Place { node: NodeId(9), epoch: Epoch(2) }, PATIENCE), 1);
    assert_eq!(waits.await, done());
    assert_eq!(from.request(ACTOR, asking(0, 0)).await, done());
    assert!(from.actors().is_empty());
}

#[tokio::test]
async fn what_nobody_waits_for_any_more_is_not_begun() {
    let (host, world) = host();
    host.start(counter(1, false)).await.unwrap();
    host.freeze(ACTOR, Epoch(1)).await.unwrap();
    let mut asked = [(); 3].map(|()| Box::pin(host.request(ACTOR, asking(0, 0))));
    let soon = Request { deadline: world.now() + core::time::Duration::from_millis(1), ..asking(0, 0) };
    let mut late = Box::pin(host.request(ACTOR, soon));
    for waits in asked.iter_mut().chain([&mut late]) {
        assert!(futures_util::poll!(waits).is_pending());
    }
    let [first, second, third] = asked;
    drop(second);
    // One that came over a link, and was given up there.
    let linked = host.ask_local(ACTOR, Epoch(1), asking(0, 0), Box::new(|_| {}));
    drop(linked);
    while world.origin.elapsed() < core::time::Duration::from_millis(20) {
        tokio::task::yield_now().await;
    }
    host.thaw(ACTOR, Epoch(1)).unwrap();
    assert_eq!([count(first.await), count(third.await)], [1, 2], "those that were given up are not counted");
    assert_eq!(late.await.unwrap_err().kind(), ErrorKind::Timeout);
    assert_eq!(count(host.request(ACTOR, asking(0, 0)).await), 3);
    // What the function has been given it ends, whoever waits.
    let begun = host.ask(ACTOR, asking(5, 0), Box::new(|_| {}));
    assert_eq!(count(host.request(ACTOR, asking(0, 0)).await), 4);
    drop(begun);
    assert_eq!(host.actors()[0].jobs, 1);
    assert_eq!(host.request(ACTOR, asking(6, 0)).await, done());
    assert_eq!(host.actors()[0].jobs, 0);
}

#[tokio::test]
async fn what_waits_for_an_actor_that_goes_is_not_sent_after_it_if_nobody_wants_it() {
    let (host, world) = host();
    host.start(counter(1, false)).await.unwrap();
    host.freeze(ACTOR, Epoch(1)).await.unwrap();
    let mut asked = [(); 2].map(|()| Box::pin(host.request(ACTOR, asking(0, 0))));
    for waits in &mut asked {
        assert!(futures_util::poll!(waits).is_pending());
    }
    let [first, second] = asked;
    drop(first);
    assert_eq!(host.retire(ACTOR, Epoch(1), Place { node: NodeId(9), epoch: Epoch(2) }, PATIENCE), 2);
    assert_eq!(second.await, done());
    assert_eq!(*world.sent.lock().unwrap(), [NodeId(9)]);
}

#[tokio::test]
async fn everybody_who_waits_until_an_actor_has_drained_hears_of_it() {
    let (host, _) = host();
    host.start(setup(ACTOR, Onward::End)).await.unwrap();
    let last = host.request(ACTOR, asking(2, 0));
    let patience = core::time::Duration::from_secs(20);
    let (last, one, other) = tokio::join!(last, host.stop(ACTOR, patience), host.stop(ACTOR, patience));
    assert_eq!((last, one, other), (done(), Ok(()), Ok(())));
}

/// One that breaks down by itself once it has been given something.
struct Brittle(Option<Instant>);

impl StorageFunction for Brittle {
    fn on_event(&mut self, event: Event, _: &mut Cx<'_>) {
        assert!(!matches!(event, Event::Wake), "it breaks down");
    }

    fn wake_at(&self) -> Option<Instant> {
        self.0
    }

    fn in_flight(&self) -> usize {
        0
    }

    fn snapshot(&mut self, since: Option<Mark>) -> Snapshot {
        Snapshot { since, ..Snapshot::default() }
    }

    fn restore(&mut self, _: &Snapshot) -> Result<(), Error> {
        self.0 = Some(Instant(1));
        Ok(())
    }
}

#[tokio::test]
async fn an_actor_that_breaks_down_between_two_pages_takes_none_of_the_later_ones() {
    let (host, _) = host();
    let build = |_: &FunctionSpec| -> Result<Box<dyn StorageFunction>, Error> { Ok(Box::new(Brittle(None))) };
    let setup = ActorSetup { epoch: Epoch(2), build: Arc::new(build), ..setup(ACTOR, Onward::End) };
    host.warm(setup).await.unwrap();
    host.restore(ACTOR, Epoch(2), Snapshot::default()).await.unwrap();
    // Whatever it is told next has it look at the time.
    host.configure(ACTOR, Arc::new(FunctionSpec::Chain(Vec::new()))).unwrap();
    let gone = async {
        while host.hosts(ACTOR) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(core::time::Duration::from_secs(20), gone).await.unwrap();
    let later = host.restore(ACTOR, Epoch(2), Snapshot::default()).await;
    assert_eq!(later.unwrap_err().kind(), ErrorKind::NoSuchActor);
    assert_eq!(host.activate(ACTOR, Epoch(2)).unwrap_err().kind(), ErrorKind::NoSuchActor);
}

#[tokio::test]
async fn what_came_over_a_link_is_told_where_the_actor_is_now() {
    let (host, _) = host();
    host.start(counter(1, false)).await.unwrap();
    host.freeze(ACTOR, Epoch(1)).await.unwrap();
    let (answer, outcome) = tokio::sync::oneshot::channel();
    host.ask_local(ACTOR, Epoch(1), asking(0, 0), Box::new(move |outcome| drop(answer.send(outcome)))).forget();
    host.retire(ACTOR, Epoch(1), Place { node: NodeId(9), epoch: Epoch(2) }, PATIENCE);
    let error = outcome.await.unwrap().unwrap_err();
    let redirect = error.redirect().unwrap();
    assert_eq!((error.kind(), redirect.node, redirect.epoch), (ErrorKind::StaleEpoch, Some(NodeId(9)), Some(Epoch(2))));
}

#[tokio::test]
async fn an_actor_that_does_not_leave_goes_on_with_what_waited() {
    let (host, _) = host();
    host.start(counter(1, false)).await.unwrap();
    host.freeze(ACTOR, Epoch(1)).await.unwrap();
    let waits = [host.request(ACTOR, asking(0, 0)), host.request(ACTOR, asking(0, 0))];
    assert_eq!(host.thaw(ACTOR, Epoch(2)).unwrap_err().kind(), ErrorKind::NoSuchActor);
    host.thaw(ACTOR, Epoch(1)).unwrap();
    host.thaw(ACTOR, Epoch(1)).unwrap();
    let counts: Vec<u64> = futures_util::future::join_all(waits).await.into_iter().map(count).collect();
    assert_eq!(counts, [1, 2]);
}

#[tokio::test]
async fn a_freeze_waits_for_what_the_state_depends_on_and_for_nothing_else() {
    for lingers in [false, true] {
        let (host, _) = host();
        host.start(counter(1, lingers)).await.unwrap();
        let held = host.request(ACTOR, asking(5, 0));
        let frozen = tokio::time::timeout(core::time::Duration::from_millis(50), host.freeze(ACTOR, Epoch(1))).await;
        assert_eq!(frozen.is_ok(), lingers);
        if lingers {
            // It ends where it is, after the state has gone on.
            host.retire(ACTOR, Epoch(1), Place { node: NodeId(9), epoch: Epoch(2) }, core::time::Duration::ZERO);
            assert_eq!(held.await.unwrap_err().kind(), ErrorKind::Restarted, "its patience was none");
        } else {
            host.thaw(ACTOR, Epoch(1)).unwrap();
            assert_eq!(host.request(ACTOR, asking(6, 0)).await, done());
            assert_eq!(held.await, done());
        }
    }
}

#[tokio::test]
async fn an_actor_that_does_not_arrive_is_forgotten_and_what_waited_may_be_sent_again() {
    let (host, _) = host();
    host.warm(counter(2, false)).await.unwrap();
    let waits = host.request(ACTOR, asking(0, 0));
    assert_eq!(host.activate(ACTOR, Epoch(3)).unwrap_err().kind(), ErrorKind::NoSuchActor);
    host.discard(ACTOR);
    assert_eq!(waits.await.unwrap_err().kind(), ErrorKind::Draining);
    assert_eq!(host.activate(ACTOR, Epoch(2)).unwrap_err().kind(), ErrorKind::NoSuchActor);
    // What runs is not discarded.
    host.start(counter(1, false)).await.unwrap();
    host.discard(ACTOR);
    assert_eq!(count(host.request(ACTOR, asking(0, 0)).await), 1);
    assert_eq!(host.warm(counter(2, false)).await.unwrap_err().kind(), ErrorKind::Conflict);
    // But a leftover of an earlier epoch makes room.
    host.warm(counter(3, false)).await.unwrap();
    host.activate(ACTOR, Epoch(3)).unwrap();
    assert_eq!(count(host.request(ACTOR, asking(0, 0)).await), 1);
}

const PATIENCE: core::time::Duration = core::time::Duration::from_secs(5);

#[tokio::test]
async fn nobody_is_told_that_an_actor_is_where_it_only_warms() {
    let (host, _) = host();
    host.warm(counter(4, false)).await.unwrap();
    let ask = |epoch| {
        let (answer, outcome) = tokio::sync::oneshot::channel();
        host.ask_local(ACTOR, Epoch(epoch), asking(0, 0), Box::new(move |outcome| drop(answer.send(outcome)))).forget();
        outcome
    };
    assert_eq!(ask(2).await.unwrap().unwrap_err().kind(), ErrorKind::NoSuchActor);
    host.learn(ACTOR, Place { node: NodeId(9), epoch: Epoch(3) });
    let redirect = ask(2).await.unwrap().unwrap_err().redirect().unwrap();
    assert_eq!((redirect.node, redirect.epoch), (Some(NodeId(9)), Some(Epoch(3))));
}

#[tokio::test]
async fn requests_go_to_where_an_actor_runs_until_it_is_to_be_here() {
    let (host, world) = host();
    host.learn(ACTOR, Place { node: NodeId(9), epoch: Epoch(3) });
    host.warm(counter(4, false)).await.unwrap();
    assert_eq!(host.request(ACTOR, asking(0, 0)).await, done());
    assert_eq!(*world.sent.lock().unwrap(), [NodeId(9)]);
    // The commit is heard of, and then the step.
    host.learn(ACTOR, Place { node: NodeId(1), epoch: Epoch(4) });
    let mut waits = Box::pin(host.request(ACTOR, asking(0, 0)));
    assert!(futures_util::poll!(&mut waits).is_pending());
    host.activate(ACTOR, Epoch(4)).unwrap();
    assert_eq!(count(waits.await), 1);
}
