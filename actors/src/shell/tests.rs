use std::sync::{Arc, Mutex};

use mesh_core::{
    Answer, Buf, Cx, Effect, Entropy, Error, ErrorKind, Event, Job, Lane, Op, Principal, Request, Response,
    StorageFunction, Target, WorkOutcome,
    envelope::Envelope,
    id::{ActorId, Epoch, GroupId, NodeId, ShardId, StripeId, Token, WriteId},
    meta::{Command, MetaAnswer, Query},
    op::ShardOp,
    port::{CallGuard, Clock, Completion, Compute, ComputeJob, Metadata, Outbound, WorkOutput},
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

    fn propose(&self, _: GroupId, _: Arc<Command>, _: Instant, done: MetaDone) {
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

async fn host() -> (Host, Arc<World>) {
    let world = Arc::new(World { origin: tokio::time::Instant::now(), sent: Mutex::default() });
    let ports = Ports {
        clock: world.clone(),
        entropy: Arc::new(|| Box::new(Zeros)),
        compute: world.clone(),
        workers: Workers::threads(1).unwrap(),
        metadata: world.clone(),
        outbound: world.clone(),
    };
    (Host::new(NodeId(1), ports).await.unwrap(), world)
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
    }
}

const ACTOR: ActorId = ActorId(7);

#[tokio::test]
async fn answers_wakes_computes_and_goes_on() {
    let (host, _) = host().await;
    host.start(setup(ACTOR, Onward::Actor(ActorId(8)))).await.unwrap();
    host.start(setup(ActorId(8), Onward::End)).await.unwrap();
    assert_eq!(host.request(ACTOR, asking(0, 0)).await, done());
    assert_eq!(host.request(ACTOR, asking(2, 0)).await, done());
    assert_eq!(host.request(ACTOR, asking(3, 5)).await, done());
    assert_eq!(host.request(ACTOR, asking(3, 500)).await, done());
    // The last stage of 8's chain has no next: an error, not a panic.
    assert_eq!(host.request(ACTOR, asking(4, 0)).await.unwrap_err().kind(), ErrorKind::Bug);
    assert!(host.actors().iter().all(|actor| (actor.jobs, actor.bytes, actor.restarts) == (0, 0, 0)));
}

#[tokio::test]
async fn a_panic_fails_what_is_in_flight_and_the_function_is_built_again() {
    let (host, _) = host().await;
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

#[tokio::test]
async fn a_compute_job_that_panics_is_an_error_of_the_work() {
    let (host, _) = host().await;
    host.start(setup(ACTOR, Onward::End)).await.unwrap();
    assert_eq!(host.request(ACTOR, asking(3, 13)).await.unwrap_err().kind(), ErrorKind::Overloaded);
    assert_eq!(host.request(ACTOR, asking(3, 500)).await, done());
}

#[tokio::test]
async fn refuses_stale_epochs_and_strangers_and_sends_the_rest_to_its_node() {
    let (host, world) = host().await;
    host.start(setup(ACTOR, Onward::End)).await.unwrap();
    let (answer, outcome) = tokio::sync::oneshot::channel();
    host.ask_local(ACTOR, Epoch(9), asking(0, 0), Box::new(move |outcome| drop(answer.send(outcome))));
    let error = outcome.await.unwrap().unwrap_err();
    assert_eq!((error.kind(), error.redirect().unwrap().epoch), (ErrorKind::StaleEpoch, Some(Epoch(1))));
    assert_eq!(host.request(ActorId(99), asking(0, 0)).await.unwrap_err().kind(), ErrorKind::NoSuchActor);
    assert_eq!(host.request(ActorId::ingress(NodeId(5)), asking(0, 0)).await, done());
    assert_eq!(*world.sent.lock().unwrap(), [NodeId(5)]);
}

#[tokio::test]
async fn draining_answers_what_is_there_and_refuses_what_comes() {
    let (host, _) = host().await;
    host.start(setup(ACTOR, Onward::End)).await.unwrap();
    let last = host.request(ACTOR, asking(2, 0));
    let stopping = host.stop(ACTOR, core::time::Duration::from_secs(20));
    tokio::pin!(stopping);
    assert!(futures_util::poll!(&mut stopping).is_pending());
    assert_eq!(host.request(ACTOR, asking(0, 0)).await.unwrap_err().kind(), ErrorKind::Draining);
    assert_eq!(last.await, done());
    stopping.await.unwrap();
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
