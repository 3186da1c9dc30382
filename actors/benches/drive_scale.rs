//! What many small shards cost a drive: bytes of memory for each, and how long a start takes with the contents of segments and
//! without them. Everything is done by the drive itself, over a medium in memory that keeps only what is not zero; so the time
//! of a start is that of the drive alone, and what it reads is told beside it, for a real medium takes its time for that.
//!
//! `cargo bench -p mesh-actors --bench drive_scale -- [SHARDS]`, a million where nothing is said

use std::{
    alloc::{GlobalAlloc, Layout, System},
    collections::{HashMap, VecDeque},
    sync::atomic::{AtomicU64, Ordering},
    time::Instant as Wall,
};

use mesh_actors::drive::{Drive, superblock};
use mesh_core::{
    Answer, Buf, Cx, Effect, Entropy, Event, Job, Lane, Op, Pool, Principal, Request, StorageFunction, Tokens,
    WorkOutcome,
    id::{ClusterId, DriveId, Epoch, StripeId, TenantId, Token, WriteId},
    op::ShardOp,
    port::{DiskJob, Geometry, WorkOutput},
    spec::{DriveSpec, FunctionSpec},
    time::{Instant, UnixMillis},
    topology::Code,
    wire::crc32c,
};

/// Counts what is allocated and not freed.
struct Counting;

static HELD: AtomicU64 = AtomicU64::new(0);

// SAFETY: every call is passed on to the system's allocator as it is.
#[allow(unsafe_code, reason = "an allocator that counts")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HELD.fetch_add(layout.size() as u64, Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size() as u64, Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const BLOCK: usize = 4096;
const SEGMENT_BYTES: u32 = 64 << 20;
/// Shards are so short that their records are of one block: the most there can be.
const PAYLOAD: &[u8] = b"sixteen bytes!!!";
const BATCH: u64 = 256;

/// Blocks that are not zeros, as far as they are not.
#[derive(Default)]
struct Medium {
    blocks: HashMap<u64, Box<[u8]>>,
    read_bytes: u64,
    reads: u64,
}

impl Medium {
    fn write(&mut self, at: u64, bytes: &[u8]) {
        for (block, bytes) in (at / BLOCK as u64..).zip(bytes.chunks(BLOCK)) {
            let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
            self.blocks.insert(block, bytes[..used].into());
        }
    }

    fn read(&mut self, at: u64, len: usize) -> Buf {
        (self.read_bytes, self.reads) = (self.read_bytes + len as u64, self.reads + 1);
        let mut bytes = vec![0; len];
        for (block, bytes) in (at / BLOCK as u64..).zip(bytes.chunks_mut(BLOCK)) {
            if let Some(used) = self.blocks.get(&block) {
                bytes[..used.len()].copy_from_slice(used);
            }
        }
        Buf::copy_of(&bytes)
    }
}

struct Numbers(u64);

impl Entropy for Numbers {
    fn fill(&mut self, target: &mut [u8]) {
        for part in target.chunks_mut(8) {
            self.0 = self.0.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            part.copy_from_slice(&self.0.to_le_bytes()[..part.len()]);
        }
    }
}

struct Bench {
    drive: Drive,
    spec: DriveSpec,
    geometry: Geometry,
    medium: Medium,
    jobs: VecDeque<(Token, DiskJob)>,
    answered: u64,
    tokens: Tokens,
    numbers: Numbers,
    next: u64,
    now: Instant,
}

impl Bench {
    fn new(shards: u64) -> Self {
        let slots = shards / u64::from(SEGMENT_BYTES / BLOCK as u32) * 11 / 10 + 16;
        let geometry =
            Geometry { capacity_bytes: (64 << 10) + slots * u64::from(SEGMENT_BYTES), align_bytes: BLOCK as u32 };
        let spec = DriveSpec {
            cluster: ClusterId([7; 16]),
            drive: DriveId(3),
            epoch: Epoch(5),
            capacity_bytes: 0,
            segment_bytes: SEGMENT_BYTES,
            scrub_every_ms: 0,
        };
        let mut medium = Medium::default();
        medium.write(0, &superblock(&spec));
        let drive = Drive::new(spec.clone(), geometry, Pool::default());
        Self {
            drive,
            spec,
            geometry,
            medium,
            jobs: VecDeque::new(),
            answered: 0,
            tokens: Tokens::default(),
            numbers: Numbers(1),
            next: 1 << 40,
            now: Instant(1),
        }
    }

    fn event(&mut self, event: Event) {
        let mut effects = Vec::new();
        let mut cx = Cx::new(self.now, UnixMillis(0), &mut effects, &mut self.tokens, &mut self.numbers);
        self.drive.on_event(event, &mut cx);
        for effect in effects {
            match effect {
                Effect::Start { work, job: Job::Disk(job) } => self.jobs.push_back((work, job)),
                Effect::Reply { outcome, .. } => {
                    assert!(matches!(outcome.expect("it is stored").answer, Answer::Done));
                    self.answered += 1;
                }
                _ => {}
            }
        }
    }

    /// Carries out what there is to do, until there is nothing.
    fn settle(&mut self) {
        while let Some((work, job)) = self.jobs.pop_front() {
            let outcome: WorkOutcome = Ok(match job {
                DiskJob::Read { at, len } => WorkOutput::Bytes(self.medium.read(at, len as usize)),
                DiskJob::Write { mut at, bufs } => {
                    for buf in bufs {
                        self.medium.write(at, &buf);
                        at += buf.len() as u64;
                    }
                    WorkOutput::Done
                }
                _ => WorkOutput::Done,
            });
            self.event(Event::Done { work, outcome });
        }
    }

    fn start(&mut self) {
        let spec = FunctionSpec::Drive(self.spec.clone());
        self.event(Event::Configure(spec.into()));
        self.settle();
    }

    fn put(&mut self, shards: u64) {
        for first in (0..shards).step_by(BATCH as usize) {
            for number in first..shards.min(first + BATCH) {
                // As an ingress counts: a block of writes, each of one stripe.
                let stripe = StripeId { write: WriteId(5 << 40 | number), stripe: 0, attempt: 0 };
                let op = ShardOp::Write {
                    id: stripe.shard(1),
                    tenant: TenantId(1),
                    code: Code { data: 2, parity: 1 },
                    sealed_len: PAYLOAD.len() as u32,
                    crc: crc32c(PAYLOAD),
                };
                self.next += 1;
                let (id, deadline) = (Token(self.next), Instant(u64::MAX));
                let payload = Buf::copy_of(PAYLOAD);
                let (principal, lane) = (Principal::System, Lane::Bulk);
                let request = Request {
                    op: Op::Shard(Box::new(op)),
                    payload,
                    principal,
                    deadline,
                    lane,
                    trace: mesh_core::Trace::NONE,
                };
                self.event(Event::Request { id, request });
            }
            self.settle();
        }
    }

    /// A start of the next owner; gives what it took.
    fn restart(&mut self) -> (f64, u64, u64, u64) {
        let none = Drive::new(self.spec.clone(), self.geometry, Pool::default());
        drop(core::mem::replace(&mut self.drive, none));
        let before = HELD.load(Ordering::Relaxed);
        (self.medium.read_bytes, self.medium.reads) = (0, 0);
        let began = Wall::now();
        self.start();
        let took = began.elapsed().as_secs_f64();
        (took, HELD.load(Ordering::Relaxed) - before, self.medium.reads, self.medium.read_bytes)
    }
}

fn main() {
    let asked = std::env::args().skip(1).find_map(|arg| arg.parse().ok());
    let shards: u64 = asked.unwrap_or(1_000_000);
    let mut bench = Bench::new(shards);
    bench.start();
    let (medium, began) = (HELD.load(Ordering::Relaxed), Wall::now());
    bench.put(shards);
    assert_eq!(bench.answered, shards);
    let put = began.elapsed().as_secs_f64();
    println!("{shards} shards of {} bytes, segments of {} MiB", PAYLOAD.len(), SEGMENT_BYTES >> 20);
    println!("put: {:.1} s, {:.2} us each (medium in memory included)", put, put * 1e6 / shards as f64);
    let with_medium = HELD.load(Ordering::Relaxed) - medium;
    let before = HELD.load(Ordering::Relaxed);
    let none = Drive::new(bench.spec.clone(), bench.geometry, Pool::default());
    drop(core::mem::replace(&mut bench.drive, none));
    let held = before - HELD.load(Ordering::Relaxed);
    println!(
        "memory of the drive after that: {:.1} bytes a shard (with the medium {:.1})",
        per(held, shards),
        per(with_medium, shards)
    );
    let mut times = [Vec::new(), Vec::new()];
    for listed in [true, false] {
        if !listed {
            forget_contents(&mut bench);
        }
        for round in 0..3 {
            let (took, held, reads, bytes) = bench.restart();
            times[usize::from(listed)].push(took);
            if round == 0 {
                let how = if listed { "with contents" } else { "without contents" };
                println!(
                    "start {how}: {:.1} bytes a shard in memory, {reads} reads of {:.1} MiB",
                    per(held, shards),
                    bytes as f64 / f64::from(1 << 20)
                );
            }
        }
    }
    let median = |times: &mut Vec<f64>| {
        times.sort_by(f64::total_cmp);
        (times[1], times[2] - times[0])
    };
    let [mut without, mut with] = times;
    let ((with, spread), (without, spread_without)) = (median(&mut with), median(&mut without));
    println!(
        "start: {with:.2} s with contents (spread {spread:.2}), {without:.2} s without ({spread_without:.2}): {:.1} times",
        without / with
    );
}

fn per(bytes: u64, shards: u64) -> f64 {
    bytes as f64 / shards as f64
}

/// As older builds leave a medium: nothing stands at the ends of slots.
fn forget_contents(bench: &mut Bench) {
    let slot_blocks = u64::from(SEGMENT_BYTES) / BLOCK as u64;
    let foot = bench.medium.blocks.iter().filter(|(block, bytes)| {
        let is_last = block.checked_sub(16).is_some_and(|at| at % slot_blocks == slot_blocks - 1);
        is_last && bytes.windows(8).any(|eight| eight == b"MESHCONT")
    });
    let feet: Vec<u64> = foot.map(|(block, _)| *block).collect();
    assert!(!feet.is_empty(), "no segment was closed");
    for block in feet {
        bench.medium.blocks.remove(&block);
    }
}
