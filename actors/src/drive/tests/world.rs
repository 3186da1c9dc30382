//! A drive, a medium that is exact about power cuts, and the hands that carry events between them.

use core::ops::Range;
use std::collections::{BTreeMap, BTreeSet};

use mesh_core::{
    Answer, Buf, Cx, Effect, Entropy, Error, ErrorKind, Event, Job, Op, Outcome, Pool, Request, StorageFunction,
    Tokens, WorkOutcome,
    id::{ClusterId, DriveId, Epoch, ShardId, StripeId, TenantId, Token, WriteId},
    op::ShardOp,
    port::{DiskJob, Geometry, WorkOutput},
    spec::{DriveSpec, FunctionSpec},
    time::{Instant, UnixMillis},
    topology::Code,
    wire::crc32c,
};

use crate::drive::{Drive, Phase, superblock};

pub(super) const CODE: Code = Code { data: 2, parity: 1 };
pub(super) const BLOCK: usize = 4096;
/// Extents of a medium with little room: not the size of a segment.
const EXTENT_BLOCKS: u64 = 24;

/// Random bytes that are the same in every run.
pub(super) struct Counter(u8);

impl Entropy for Counter {
    fn fill(&mut self, target: &mut [u8]) {
        self.0 = self.0.wrapping_add(1);
        target.fill(self.0);
    }
}

/// A medium that loses at a power cut exactly what the port allows it to lose: a sync covers the writes that had
/// ended when it began, and nothing else.
#[derive(Clone, Debug, Default)]
pub(super) struct Platter {
    /// What a power cut cannot take, by block.
    pub(super) durable: BTreeMap<u64, Vec<u8>>,
    /// What a read gives.
    pub(super) now: BTreeMap<u64, Vec<u8>>,
    /// Writes that have ended and are not synced, in order.
    unsynced: Vec<(u64, u64, Vec<u8>)>,
    clock: u64,
}

impl Platter {
    pub(super) fn write(&mut self, at: u64, bytes: &[u8]) {
        self.clock += 1;
        for (block, bytes) in (at / BLOCK as u64..).zip(bytes.chunks(BLOCK)) {
            self.now.insert(block, bytes.to_vec());
            self.unsynced.push((self.clock, block, bytes.to_vec()));
        }
    }

    pub(super) fn read(&self, at: u64, len: usize) -> Buf {
        let mut bytes = vec![0; len];
        for (block, bytes) in (at / BLOCK as u64..).zip(bytes.chunks_mut(BLOCK)) {
            if let Some(block) = self.now.get(&block) {
                bytes.copy_from_slice(block);
            }
        }
        Buf::copy_of(&bytes)
    }

    fn sync(&mut self, begun: u64) {
        let mut later = Vec::new();
        for (at, block, bytes) in core::mem::take(&mut self.unsynced) {
            if at <= begun {
                self.durable.insert(block, bytes);
            } else {
                later.push((at, block, bytes));
            }
        }
        self.unsynced = later;
    }

    /// Of what is not durable only the blocks survive that `survives` names; in order, so later writes win.
    pub(super) fn power_cut(&mut self, mut survives: impl FnMut() -> bool) {
        for (_, block, bytes) in core::mem::take(&mut self.unsynced) {
            if survives() {
                self.durable.insert(block, bytes);
            }
        }
        self.now = self.durable.clone();
    }

    pub(super) fn rot(&mut self, at: u64) {
        self.flip(at, 4);
    }

    pub(super) fn flip(&mut self, at: u64, bit: u8) {
        let block = self.now.entry(at / BLOCK as u64).or_insert_with(|| vec![0; BLOCK]);
        block[at as usize % BLOCK] ^= 1 << bit;
        self.durable.insert(at / BLOCK as u64, block.clone());
    }
}

/// A job under way.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) work: Token,
    pub(super) job: DiskJob,
    begun: u64,
}

pub(super) struct World {
    pub(super) spec: DriveSpec,
    pub(super) geometry: Geometry,
    pub(super) drive: Drive,
    pub(super) platter: Platter,
    pub(super) jobs: Vec<Pending>,
    pub(super) replies: BTreeMap<Token, Outcome>,
    pub(super) asked: BTreeSet<Token>,
    /// Jobs that ended, and writes among them.
    pub(super) writes: usize,
    /// The medium has room for so many extents, each made when it is first written; then writes fail with `NoSpace`.
    pub(super) room_extents: Option<usize>,
    extents: BTreeSet<u64>,
    /// What cannot be read, until it is written: the medium puts another place there then.
    pub(super) unreadable: Range<u64>,
    tokens: Tokens,
    entropy: Counter,
    next: u64,
    pub(super) now: Instant,
}

pub(super) fn spec(segment_bytes: u32) -> DriveSpec {
    let (cluster, drive, epoch) = (ClusterId([7; 16]), DriveId(3), Epoch(5));
    DriveSpec { cluster, drive, epoch, capacity_bytes: 0, segment_bytes, scrub_every_ms: 0 }
}

impl World {
    /// A formatted medium with so many segments of so many blocks, and a drive on it that has started.
    pub(super) fn new(segments: u64, segment_blocks: u32) -> Self {
        let mut world = Self::blank(segments, segment_blocks);
        let superblock = superblock(&world.spec);
        world.platter.write(0, &superblock);
        world.platter.sync(u64::MAX);
        world.start();
        world.settle();
        assert!(matches!(world.drive.phase, Phase::Serving(_)), "{:?}", world.drive.phase);
        world
    }

    pub(super) fn blank(segments: u64, segment_blocks: u32) -> Self {
        let spec = spec(segment_blocks * BLOCK as u32);
        let capacity_bytes = (64 << 10) + segments * u64::from(spec.segment_bytes);
        let geometry = Geometry { capacity_bytes, align_bytes: 4096 };
        Self {
            drive: Drive::new(spec.clone(), geometry, Pool::default()),
            spec,
            geometry,
            platter: Platter::default(),
            jobs: Vec::new(),
            replies: BTreeMap::new(),
            asked: BTreeSet::new(),
            writes: 0,
            room_extents: None,
            extents: BTreeSet::new(),
            unreadable: 0..0,
            tokens: Tokens::default(),
            entropy: Counter(0),
            next: 1 << 32,
            now: Instant(0),
        }
    }

    /// Makes a new drive on the medium and configures it.
    pub(super) fn start(&mut self) -> Vec<Effect> {
        self.drive = Drive::new(self.spec.clone(), self.geometry, Pool::default());
        self.jobs.clear();
        self.event(Event::Configure(FunctionSpec::Drive(self.spec.clone()).into()))
    }

    /// Stops the drive, as a crash of the process does, and starts one anew. Requests without an answer are forgotten.
    pub(super) fn restart(&mut self) {
        self.asked.clear();
        self.start();
        self.settle();
    }

    /// Cuts the power and starts anew. Of writes under way, too, blocks survive.
    pub(super) fn power_cut(&mut self, mut survives: impl FnMut() -> bool) {
        for pending in core::mem::take(&mut self.jobs) {
            if let DiskJob::Write { at, bufs } = pending.job {
                let bytes: Vec<u8> = bufs.iter().flat_map(|buf| buf.to_vec()).collect();
                self.platter.write(at, &bytes);
            }
        }
        self.platter.power_cut(&mut survives);
        self.restart();
    }

    /// Hands over one event. Effects are given back for looking at, and also carried out.
    pub(super) fn event(&mut self, event: Event) -> Vec<Effect> {
        let mut effects = Vec::new();
        let wall = UnixMillis(1 + self.now.0 / 1_000_000);
        let mut cx = Cx::new(self.now, wall, &mut effects, &mut self.tokens, &mut self.entropy);
        self.drive.on_event(event, &mut cx);
        for effect in &effects {
            match effect {
                Effect::Start { work, job: Job::Disk(job) } => {
                    let begun = self.platter.clock;
                    self.jobs.push(Pending { work: *work, job: job.clone(), begun });
                }
                Effect::Reply { id, outcome } => {
                    assert!(self.asked.remove(id), "{id} was not asked, or is answered twice");
                    self.replies.insert(*id, outcome.clone());
                }
                other => panic!("a drive does not do {other:?}"),
            }
        }
        assert_eq!(
            self.drive.in_flight(),
            self.jobs.len() + self.asked.len(),
            "in_flight is not exact after {effects:?}"
        );
        if let Phase::Serving(serving) = &self.drive.phase
            && self.jobs.is_empty()
        {
            serving.catalog.check();
        }
        effects
    }

    /// Ends the `at`-th job under way.
    pub(super) fn end(&mut self, at: usize) -> Vec<Effect> {
        let Pending { work, job, begun } = self.jobs.remove(at);
        let unreadable = unread(&job, &mut self.unreadable);
        let outcome = match job {
            _ if let Some(error) = unreadable => Err(error),
            DiskJob::Write { at, bufs } => {
                self.writes += 1;
                assert!(bufs.iter().all(|buf| buf.is_aligned() && buf.len() % BLOCK == 0), "a write is not aligned");
                let bytes: Vec<u8> = bufs.iter().flat_map(|buf| buf.to_vec()).collect();
                assert!(at + bytes.len() as u64 <= self.geometry.capacity_bytes, "a write behind the end");
                let blocks = at / BLOCK as u64..(at + bytes.len() as u64) / BLOCK as u64;
                let mut extents = self.extents.clone();
                extents.extend(blocks.map(|block| block / EXTENT_BLOCKS));
                if extents.len() > self.extents.len() && self.room_extents.is_some_and(|room| extents.len() > room) {
                    Err(Error::new(ErrorKind::NoSpace, "no space left on device"))
                } else {
                    self.extents = extents;
                    self.platter.write(at, &bytes);
                    Ok(WorkOutput::Done)
                }
            }
            DiskJob::Read { at, len } => {
                assert!(at + u64::from(len) <= self.geometry.capacity_bytes, "a read behind the end");
                Ok(WorkOutput::Bytes(self.platter.read(at, len as usize)))
            }
            DiskJob::Sync => {
                self.platter.sync(begun);
                Ok(WorkOutput::Done)
            }
            DiskJob::Discard { .. } => Ok(WorkOutput::Done),
        };
        self.event(Event::Done { work, outcome })
    }

    /// Ends the first job under way in a way of one's own.
    pub(super) fn end_with(&mut self, at: usize, outcome: WorkOutcome) -> Vec<Effect> {
        let pending = self.jobs.remove(at);
        self.event(Event::Done { work: pending.work, outcome })
    }

    /// Ends jobs, the oldest first, until there are none.
    pub(super) fn settle(&mut self) {
        for _ in 0..100_000 {
            if self.jobs.is_empty() {
                return;
            }
            self.end(0);
        }
        panic!("the drive never comes to rest: {:?}", self.jobs);
    }

    /// Asks without waiting.
    pub(super) fn ask(&mut self, op: ShardOp, payload: Buf) -> Token {
        self.ask_for(op, payload).0
    }

    /// Asks without waiting; with the effects.
    pub(super) fn ask_for(&mut self, op: ShardOp, payload: Buf) -> (Token, Vec<Effect>) {
        self.next += 1;
        let id = Token(self.next);
        self.asked.insert(id);
        let request = Request { payload, ..Request::system(Op::from(op), Instant::NEVER) };
        let effects = self.event(Event::Request { id, request });
        (id, effects)
    }

    /// Asks and waits until the drive is at rest.
    pub(super) fn call(&mut self, op: ShardOp, payload: Buf) -> Outcome {
        let id = self.ask(op, payload);
        self.settle();
        self.replies.remove(&id).expect("every request is answered once the drive is at rest")
    }

    pub(super) fn put(&mut self, id: ShardId, payload: &[u8]) -> Result<(), ErrorKind> {
        self.call(write(id, payload), Buf::copy_of(payload)).map(drop).map_err(|error| error.kind())
    }

    pub(super) fn get(&mut self, id: ShardId) -> Result<Vec<u8>, ErrorKind> {
        match self.call(ShardOp::Read { id }, Buf::empty()) {
            Ok(response) => {
                let Answer::Shard { code, crc, .. } = response.answer else { panic!("{:?}", response.answer) };
                assert_eq!((code, crc), (CODE, crc32c(&response.payload)), "an answer that contradicts its payload");
                Ok(response.payload.to_vec())
            }
            Err(error) => Err(error.kind()),
        }
    }

    pub(super) fn delete(&mut self, ids: &[ShardId]) -> Result<(), ErrorKind> {
        self.call(ShardOp::Delete { ids: ids.to_vec(), until: None }, Buf::empty())
            .map(drop)
            .map_err(|error| error.kind())
    }

    pub(super) fn list(&mut self) -> Vec<(ShardId, u32)> {
        match self.call(ShardOp::List { after: None, limit: 1024, relies: None }, Buf::empty()) {
            Ok(response) => match response.answer {
                Answer::Shards { page, more: false, .. } => page,
                other => panic!("{other:?}"),
            },
            Err(error) => panic!("{error}"),
        }
    }

    /// Lets the time come for which the drive has asked, and everything that follows from it end.
    pub(super) fn wake(&mut self) {
        let at = self.drive.wake_at().expect("the drive wants to be woken");
        assert!(at >= self.now, "a drive that is woken for nothing");
        self.now = at;
        self.event(Event::Wake);
        self.settle();
    }

    /// Lets so much time go by.
    pub(super) fn rest_for(&mut self, millis: u64) {
        let until = self.now + core::time::Duration::from_millis(millis);
        while self.drive.wake_at().is_some_and(|at| at <= until) {
            self.wake();
        }
        self.now = until;
        self.event(Event::Wake);
        self.settle();
    }

    /// Lets time go by until the drive wants nothing more.
    pub(super) fn rest(&mut self) {
        for _ in 0..100 {
            if self.drive.wake_at().is_none() {
                return;
            }
            self.wake();
        }
        panic!("the drive never comes to rest");
    }

    /// Segments found gone.
    pub(super) fn gone(&mut self) -> u32 {
        match self.call(ShardOp::Stat, Buf::empty()).map(|response| response.answer) {
            Ok(Answer::Drive { gone, .. }) => gone,
            other => panic!("{other:?}"),
        }
    }

    /// Free bytes, shards, corrupt, full.
    pub(super) fn stat(&mut self) -> (u64, u64, u64, bool) {
        match self.call(ShardOp::Stat, Buf::empty()).map(|response| response.answer) {
            Ok(Answer::Drive { free_bytes, shards, corrupt, full, .. }) => (free_bytes, shards, corrupt, full),
            other => panic!("{other:?}"),
        }
    }
}

/// Reads of what cannot be read fail; a write of all of that makes it good.
fn unread(job: &DiskJob, bad: &mut Range<u64>) -> Option<Error> {
    match job {
        DiskJob::Write { at, bufs } => {
            let end = at + bufs.iter().map(|buf| buf.len() as u64).sum::<u64>();
            if *at <= bad.start && bad.end <= end {
                *bad = 0..0;
            }
            None
        }
        DiskJob::Read { at, len } => {
            let is_in = !bad.is_empty() && *at < bad.end && bad.start < at + u64::from(*len);
            is_in.then(|| Error::new(ErrorKind::DriveFailed, "the medium cannot be read there"))
        }
        DiskJob::Sync | DiskJob::Discard { .. } => None,
    }
}

pub(super) fn shard(n: u64) -> ShardId {
    StripeId { write: WriteId(n), stripe: (n % 7) as u32, attempt: 0 }.shard((n % 3) as u8)
}

pub(super) fn write(id: ShardId, payload: &[u8]) -> ShardOp {
    ShardOp::Write { id, tenant: TenantId(1), code: CODE, sealed_len: payload.len() as u32, crc: crc32c(payload) }
}

/// Bytes that differ from shard to shard.
pub(super) fn bytes(n: u64, len: usize) -> Vec<u8> {
    (0..len).map(|at| (at as u64 * 31 + n * 17 + at as u64 / 251) as u8).collect()
}
