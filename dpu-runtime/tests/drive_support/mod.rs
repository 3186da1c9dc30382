//! A drive on any medium, driven from a test's own thread.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::sync::{Arc, mpsc};

use mesh_actors::drive::{Drive, superblock};
use mesh_core::{
    Answer, Buf, Cx, Effect, Entropy, ErrorKind, Event, Job, Op, Outcome, Pool, Request, StorageFunction, Tokens,
    WorkOutcome,
    id::{ClusterId, DriveId, Epoch, ShardId, StripeId, TenantId, Token, WriteId},
    op::ShardOp,
    port::{Disk, DiskJob},
    spec::{DriveSpec, FunctionSpec},
    time::{Instant, UnixMillis},
    topology::Code,
    wire::crc32c,
};

/// The same "random" bytes in every run: golden bytes depend on them.
struct Counter(u8);

impl Entropy for Counter {
    fn fill(&mut self, target: &mut [u8]) {
        self.0 = self.0.wrapping_add(1);
        target.fill(self.0);
    }
}

/// A drive and its medium.
pub(crate) struct Bench {
    drive: Drive,
    disk: Arc<dyn Disk>,
    ended: mpsc::Receiver<(Token, WorkOutcome)>,
    end: mpsc::Sender<(Token, WorkOutcome)>,
    tokens: Tokens,
    entropy: Counter,
    next: u64,
    under_way: usize,
    replies: Vec<(Token, Outcome)>,
}

pub(crate) fn spec(segment_bytes: u32) -> DriveSpec {
    let (cluster, drive, epoch) = (ClusterId([0xc1; 16]), DriveId(7), Epoch(3));
    DriveSpec { cluster, drive, epoch, capacity_bytes: 0, segment_bytes, scrub_every_ms: 0 }
}

/// Does one job and waits for its end.
pub(crate) fn run(disk: &dyn Disk, job: DiskJob) -> WorkOutcome {
    let (sender, receiver) = mpsc::channel();
    disk.start(job, Box::new(move |outcome| drop(sender.send(outcome))));
    receiver.recv().expect("every job ends")
}

pub(crate) fn format(disk: &dyn Disk, spec: &DriveSpec) {
    run(disk, DiskJob::Write { at: 0, bufs: vec![superblock(spec)] }).expect("the superblock is written");
    run(disk, DiskJob::Sync).expect("the superblock is durable");
}

pub(crate) fn shard(n: u64) -> ShardId {
    StripeId { write: WriteId(n), stripe: 1, attempt: 2 }.shard(3)
}

pub(crate) fn write(id: ShardId, payload: &[u8]) -> ShardOp {
    let code = Code { data: 4, parity: 2 };
    ShardOp::Write { id, tenant: TenantId(9), code, sealed_len: 4 * payload.len() as u32, crc: crc32c(payload) }
}

impl Bench {
    /// Starts a drive on a formatted medium and waits until it is at rest.
    pub(crate) fn start(disk: Arc<dyn Disk>, spec: &DriveSpec) -> Self {
        let (end, ended) = mpsc::channel();
        let drive = Drive::new(spec.clone(), disk.geometry(), Pool::default());
        let mut bench = Self {
            drive,
            disk,
            ended,
            end,
            tokens: Tokens::default(),
            entropy: Counter(0),
            next: 1 << 32,
            under_way: 0,
            replies: Vec::new(),
        };
        bench.event(Event::Configure(FunctionSpec::Drive(spec.clone()).into()));
        bench.rest();
        bench
    }

    fn event(&mut self, event: Event) {
        let mut effects = Vec::new();
        let mut cx = Cx::new(Instant(0), UnixMillis(0), &mut effects, &mut self.tokens, &mut self.entropy);
        self.drive.on_event(event, &mut cx);
        for effect in effects {
            match effect {
                Effect::Start { work, job: Job::Disk(job) } => {
                    self.under_way += 1;
                    let end = self.end.clone();
                    self.disk.start(job, Box::new(move |outcome| drop(end.send((work, outcome)))));
                }
                Effect::Reply { id, outcome } => self.replies.push((id, outcome)),
                other => panic!("a drive does not do {other:?}"),
            }
        }
    }

    /// Takes the end of one job.
    fn turn(&mut self) {
        let (work, outcome) = self.ended.recv().expect("the bench holds a sender");
        self.under_way -= 1;
        self.event(Event::Done { work, outcome });
    }

    /// Waits until nothing is under way.
    pub(crate) fn rest(&mut self) {
        while self.under_way > 0 {
            self.turn();
        }
        assert_eq!(self.drive.in_flight(), 0);
    }

    pub(crate) fn ask(&mut self, op: ShardOp, payload: Buf) -> Token {
        self.next += 1;
        let id = Token(self.next);
        let request = Request { payload, ..Request::system(Op::from(op), Instant::NEVER) };
        self.event(Event::Request { id, request });
        id
    }

    /// Waits for any answer.
    pub(crate) fn answer(&mut self) -> (Token, Outcome) {
        while self.replies.is_empty() {
            self.turn();
        }
        self.replies.remove(0)
    }

    pub(crate) fn call(&mut self, op: ShardOp, payload: Buf) -> Outcome {
        let asked = self.ask(op, payload);
        let (id, outcome) = self.answer();
        assert_eq!(id, asked);
        self.rest();
        outcome
    }

    pub(crate) fn put(&mut self, id: ShardId, payload: &[u8]) -> Result<(), ErrorKind> {
        self.call(write(id, payload), Buf::copy_of(payload)).map(drop).map_err(|error| error.kind())
    }

    pub(crate) fn get(&mut self, id: ShardId) -> Result<Vec<u8>, ErrorKind> {
        self.call(ShardOp::Read { id }, Buf::empty())
            .map(|response| response.payload.to_vec())
            .map_err(|error| error.kind())
    }

    pub(crate) fn delete(&mut self, ids: &[ShardId]) -> Result<(), ErrorKind> {
        self.call(ShardOp::Delete { ids: ids.to_vec(), until: None }, Buf::empty())
            .map(drop)
            .map_err(|error| error.kind())
    }

    pub(crate) fn shards(&mut self) -> Vec<ShardId> {
        match self
            .call(ShardOp::List { after: None, limit: 1024, relies: None }, Buf::empty())
            .map(|response| response.answer)
        {
            Ok(Answer::Shards { page, more: false, .. }) => page.into_iter().map(|(id, _)| id).collect(),
            other => panic!("{other:?}"),
        }
    }
}
