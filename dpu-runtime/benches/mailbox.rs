//! What a mailbox hop costs: a request to a hosted actor and its reply, against a bounded channel with a oneshot reply
//! in the same run.
//!
//! ```text
//! cargo bench -p mesh-dpu-runtime --bench mailbox
//! ```

use std::{
    sync::Arc,
    time::{Duration, Instant as Stopwatch},
};

use mesh_core::{
    Answer, Cx, Entropy, Error, Event, Outcome, Request, StorageFunction, WorkOutcome,
    envelope::Envelope,
    id::{ActorId, Epoch, GroupId, NodeId},
    meta::{Command, MetaAnswer, Query},
    op::ShardOp,
    port::{CallGuard, Clock, Completion, Compute, ComputeJob, Metadata, Outbound},
    snapshot::{Mark, Snapshot},
    spec::{EncryptSpec, FunctionSpec},
    time::{Instant, UnixMillis},
};
use mesh_dpu_runtime::shell::{ActorSetup, Host, Onward, Ports, Workers};

/// Answers at once: the hop is all there is.
struct Echo;

impl StorageFunction for Echo {
    fn on_event(&mut self, event: Event, cx: &mut Cx<'_>) {
        if let Event::Request { id, .. } = event {
            cx.reply(id, Ok(Answer::Done.into()));
        }
    }

    fn in_flight(&self) -> usize {
        0
    }

    fn snapshot(&mut self, _: Option<Mark>) -> Snapshot {
        Snapshot::default()
    }
}

/// Ports that this bench never uses, but for the clock.
struct Idle(Stopwatch);

type MetaDone = Completion<Result<Arc<MetaAnswer>, Error>>;

impl Clock for Idle {
    fn now(&self) -> Instant {
        Instant(self.0.elapsed().as_nanos() as u64)
    }

    fn wall(&self) -> UnixMillis {
        UnixMillis(0)
    }
}

impl Compute for Idle {
    fn run(&self, _: ComputeJob) -> WorkOutcome {
        Err(unused())
    }

    fn is_small(&self, _: &ComputeJob) -> bool {
        true
    }
}

impl Metadata for Idle {
    fn query(&self, _: GroupId, _: Arc<Query>, _: Instant, done: MetaDone) {
        done(Err(unused()));
    }

    fn propose(&self, _: Arc<Command>, _: Instant, done: MetaDone) {
        done(Err(unused()));
    }
}

impl Outbound for Idle {
    fn send(&self, _: NodeId, _: Envelope, done: Completion<Outcome>) -> CallGuard {
        done(Err(unused()));
        CallGuard::none()
    }
}

impl Entropy for Idle {
    fn fill(&mut self, target: &mut [u8]) {
        target.fill(0);
    }
}

fn unused() -> Error {
    Error::bug("the echo wants nothing")
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(run());
}

async fn run() {
    let world = Arc::new(Idle(Stopwatch::now()));
    let ports = Ports {
        clock: world.clone(),
        entropy: Arc::new(|| Box::new(Idle(Stopwatch::now()))),
        compute: world.clone(),
        workers: Workers::inline(),
        metadata: world.clone(),
        outbound: world,
    };
    let host = Host::new(NodeId(1), ports);
    let setup = ActorSetup {
        id: ActorId(1),
        epoch: Epoch(1),
        spec: Arc::new(FunctionSpec::Encrypt(EncryptSpec::default())),
        build: Arc::new(|_| Ok(Box::new(Echo))),
        disk: None,
        onward: Onward::End,
    };
    host.start(setup).await.expect("an actor");

    let (sender, mut receiver) = tokio::sync::mpsc::channel::<tokio::sync::oneshot::Sender<()>>(64);
    tokio::spawn(async move {
        while let Some(answer) = receiver.recv().await {
            answer.send(()).expect("the bench waits");
        }
    });

    let (mut actor, mut channel) = (Vec::new(), Vec::new());
    for _ in 0..REPETITIONS {
        let began = Stopwatch::now();
        for _ in 0..HOPS {
            host.request(ActorId(1), Request::system(ShardOp::Stat, Instant::NEVER)).await.expect("an echo");
        }
        actor.push(began.elapsed() / HOPS);
        let began = Stopwatch::now();
        for _ in 0..HOPS {
            let (answer, answered) = tokio::sync::oneshot::channel();
            sender.send(answer).await.expect("the other end lives");
            answered.await.expect("an echo");
        }
        channel.push(began.elapsed() / HOPS);
    }
    let (actor, channel) = (spread(actor), spread(channel));
    println!("mailbox hop (request and reply)   median {:?}  min {:?}  max {:?}", actor.1, actor.0, actor.2);
    println!("bounded channel and oneshot       median {:?}  min {:?}  max {:?}", channel.1, channel.0, channel.2);
    println!("ratio of the medians              {:.2}", actor.1.as_secs_f64() / channel.1.as_secs_f64());
}

/// Least, median and greatest.
fn spread(mut times: Vec<Duration>) -> (Duration, Duration, Duration) {
    times.sort();
    (times[0], times[times.len() / 2], times[times.len() - 1])
}

const REPETITIONS: usize = 15;
const HOPS: u32 = 20_000;
