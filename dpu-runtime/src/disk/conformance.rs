//! What every medium must do, whatever it is made of: one suite, which each implementation of the port passes.
//!
//! The rule of syncs is tried in every order in which two writes and two syncs can begin and end: after a sync that
//! reported success, a power cut leaves every write that had ended before the sync was begun.

mod gates;

use std::{
    collections::BTreeMap,
    fs::File,
    path::Path,
    process::Command,
    sync::{Arc, Mutex, mpsc},
};

use mesh_core::{
    Buf, ErrorKind, WorkOutcome,
    port::{Disk, DiskJob, WorkOutput},
};

use super::{FailingDisk, Fault, FileDisk, FileOptions, MemoryDisk};
use gates::{Fate, Gates};

const BLOCK: u64 = 4096;
const MEDIUM_BYTES: u64 = 64 * BLOCK;
/// Small, so that writes cross extents.
const EXTENT_BYTES: u64 = 8 * BLOCK;
/// No order may take longer to come to rest.
const PATIENCE: core::time::Duration = core::time::Duration::from_secs(30);

// --- what is tried ---

/// A medium, and what its tester knows of it.
trait Subject {
    fn disk(&self) -> Arc<dyn Disk>;

    /// Whether a power cut at its worst would leave the block that is full of `fill` there.
    fn keeps(&self, at: u64, fill: u8) -> bool;

    /// What holds its calls, if they can be held.
    fn gates(&self) -> Option<Arc<Gates>>;
}

/// A medium in memory, perhaps behind one that fails.
struct InMemory {
    memory: Arc<MemoryDisk>,
    disk: Arc<dyn Disk>,
}

impl InMemory {
    fn plain() -> Self {
        let memory = MemoryDisk::new(MEDIUM_BYTES);
        Self { disk: memory.clone(), memory }
    }

    /// Of which the `nth` job fails.
    fn failing(nth: u64, fault: Fault) -> Self {
        let memory = MemoryDisk::new(MEDIUM_BYTES);
        let disk = FailingDisk::new(memory.clone());
        disk.fail(nth, fault);
        Self { disk, memory }
    }
}

impl Subject for InMemory {
    fn disk(&self) -> Arc<dyn Disk> {
        self.disk.clone()
    }

    fn keeps(&self, at: u64, fill: u8) -> bool {
        let left = self.memory.durable_copy();
        matches!(left.run(DiskJob::Read { at, len: BLOCK as u32 }), Ok(WorkOutput::Bytes(bytes)) if bytes[0] == fill)
    }

    fn gates(&self) -> Option<Arc<Gates>> {
        None
    }
}

/// A medium of files whose calls can be held.
struct OfFiles {
    disk: Arc<FileDisk>,
    gates: Arc<Gates>,
}

impl OfFiles {
    fn open(path: &Path) -> Self {
        let gates = Arc::new(Gates::default());
        let options = FileOptions {
            capacity_bytes: MEDIUM_BYTES,
            extent_bytes: EXTENT_BYTES,
            direct: false,
            ..FileOptions::default()
        };
        let disk = FileDisk::open_with(path, options, gates.clone()).expect("a medium of files");
        // What an earlier process may have left is covered; from here on only what is done here counts.
        assert_eq!(wait(&*disk, DiskJob::Sync), Ok(WorkOutput::Done));
        Self { disk, gates }
    }
}

impl Subject for OfFiles {
    fn disk(&self) -> Arc<dyn Disk> {
        self.disk.clone()
    }

    fn keeps(&self, _at: u64, fill: u8) -> bool {
        self.gates.keeps(fill)
    }

    fn gates(&self) -> Option<Arc<Gates>> {
        Some(self.gates.clone())
    }
}

fn block(fill: u8) -> Buf {
    let mut buf = Buf::zeroed(BLOCK as usize);
    buf.make_mut().fill(fill);
    buf
}

fn wait(disk: &dyn Disk, job: DiskJob) -> WorkOutcome {
    let (sender, receiver) = mpsc::channel();
    disk.start(job, Box::new(move |outcome| sender.send(outcome).expect("the test waits")));
    let outcome = receiver.recv_timeout(PATIENCE).expect("every job ends");
    assert!(receiver.try_recv().is_err(), "a job ended twice");
    outcome
}

fn read(disk: &dyn Disk, at: u64, len: u64) -> Vec<u8> {
    match wait(disk, DiskJob::Read { at, len: len as u32 }) {
        Ok(WorkOutput::Bytes(bytes)) => bytes.to_vec(),
        other => panic!("a read gave {other:?}"),
    }
}

// --- a flat space of bytes ---

/// Writes, reads and discards like an array of bytes, and refuses what breaks the port's rules.
fn is_a_flat_space_of_bytes(disk: &dyn Disk) {
    let geometry = disk.geometry();
    assert_eq!((geometry.capacity_bytes, geometry.align_bytes), (MEDIUM_BYTES, BLOCK as u32));
    let mut model = read(disk, 0, MEDIUM_BYTES);
    // A linear congruential generator: the same numbers in every run.
    let mut state = 1_u64;
    let mut below = |limit: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % limit
    };
    for round in 0..300 {
        let first = below(64);
        let blocks = below(20.min(64 - first)) + 1;
        let (at, len) = (first * BLOCK, blocks * BLOCK);
        let range = at as usize..(at + len) as usize;
        match below(8) {
            0..4 => {
                let bufs: Vec<Buf> = (0..blocks).map(|n| block((round + n) as u8)).collect();
                model[range].copy_from_slice(&bufs.iter().flat_map(|buf| buf.to_vec()).collect::<Vec<u8>>());
                assert_eq!(wait(disk, DiskJob::Write { at, bufs }), Ok(WorkOutput::Done));
            }
            4..6 => assert_eq!(read(disk, at, len), model[range], "round {round}"),
            6 => assert_eq!(wait(disk, DiskJob::Sync), Ok(WorkOutput::Done)),
            _ => {
                assert_eq!(wait(disk, DiskJob::Discard { at, len }), Ok(WorkOutput::Done));
                let now = read(disk, at, len);
                assert!(now == model[range.clone()] || now.iter().all(|&byte| byte == 0), "zeros, or as before");
                model[range].copy_from_slice(&now);
            }
        }
    }
    let misplaced = Buf::zeroed(3 * BLOCK as usize).slice(1..1 + BLOCK as usize);
    for job in [
        DiskJob::Write { at: 0, bufs: vec![misplaced] },
        DiskJob::Write { at: 0, bufs: vec![Buf::zeroed(100)] },
        DiskJob::Write { at: 512, bufs: vec![block(9)] },
        DiskJob::Write { at: MEDIUM_BYTES - BLOCK, bufs: vec![block(9), block(9)] },
        DiskJob::Write { at: u64::MAX - BLOCK + 1, bufs: vec![block(9)] },
        DiskJob::Read { at: 512, len: BLOCK as u32 },
        DiskJob::Read { at: MEDIUM_BYTES, len: BLOCK as u32 },
        DiskJob::Discard { at: 0, len: 512 },
        DiskJob::Discard { at: BLOCK, len: MEDIUM_BYTES },
    ] {
        let outcome = wait(disk, job.clone());
        assert_eq!(outcome.map_err(|error| error.kind()), Err(ErrorKind::Bug), "{job:?}");
    }
    assert_eq!(read(disk, 0, MEDIUM_BYTES), model, "what was refused has written nothing");
}

// --- syncs in every order ---

/// A job of an order.
#[derive(Clone, Copy, Debug)]
enum Job {
    /// Of one block full of a byte.
    Write {
        at: u64,
        fill: u8,
    },
    Sync,
}

/// One step of an order.
#[derive(Clone, Copy, Debug)]
enum Step {
    Begin(usize),
    Let(u64, Fate),
}

/// What the jobs have come to.
#[derive(Default)]
struct Ended {
    /// By job: whether it ended well.
    jobs: BTreeMap<usize, bool>,
    broken: Option<String>,
}

/// Tries every order of the jobs, syncs failing too if `failing`; gives how many orders there were.
///
/// Orders are walked depth first. A subject cannot go back, so each begins anew and repeats the steps that lead there.
fn covers_in_every_order(jobs: &[Job], failing: bool, mut subject: impl FnMut() -> Box<dyn Subject>) -> usize {
    let mut path: Vec<(usize, usize)> = Vec::new();
    for orders in 1.. {
        let taken = one_order(jobs, failing, &*subject(), &mut path);
        while path.last().is_some_and(|(choice, choices)| choice + 1 == *choices) {
            path.pop();
        }
        match path.last_mut() {
            Some((choice, _)) => *choice += 1,
            None => return orders,
        }
        assert!(orders < 100_000, "more orders than can be: {taken:?}");
    }
    unreachable!("the loop ends by itself")
}

/// Walks the order that `path` begins, and on by first choices; notes the choices that there were.
fn one_order(jobs: &[Job], failing: bool, subject: &dyn Subject, path: &mut Vec<(usize, usize)>) -> Vec<Step> {
    let (disk, gates) = (subject.disk(), subject.gates());
    let ended = Arc::new(Mutex::new(Ended::default()));
    let mut begun = vec![false; jobs.len()];
    let mut steps = Vec::new();
    if let Some(gates) = &gates {
        gates.hold();
    }
    // `keeps` is asked when a sync ends, on the thread that ends it.
    let keeps = |at, fill| subject.keeps(at, fill);
    for depth in 0.. {
        let held = gates.as_ref().map(|gates| gates.held()).unwrap_or_default();
        let mut choices: Vec<Step> = (0..jobs.len()).filter(|&job| !begun[job]).map(Step::Begin).collect();
        for (call, is_sync) in held {
            choices.push(Step::Let(call, Fate::Passes));
            if failing && is_sync {
                choices.push(Step::Let(call, Fate::Fails));
            }
        }
        if choices.is_empty() {
            break;
        }
        if path.len() == depth {
            path.push((0, choices.len()));
        }
        let step = choices[path[depth].0.min(choices.len() - 1)];
        steps.push(step);
        match step {
            Step::Begin(job) => {
                begun[job] = true;
                begin(&*disk, gates.as_ref(), jobs, job, &ended);
            }
            Step::Let(call, fate) => gates.as_ref().expect("a call is held by gates").pass(call, fate),
        }
        if let Some(gates) = &gates {
            let syncs = |job: &usize| matches!(jobs[*job], Job::Sync);
            gates.settle(PATIENCE, |held_writes, held_syncs| {
                let ended = ended.lock().unwrap();
                let open = |of_syncs: bool| {
                    let of = |job: &usize| begun[*job] && !ended.jobs.contains_key(job) && syncs(job) == of_syncs;
                    (0..jobs.len()).filter(of).count()
                };
                // A sync that is held may keep others waiting before they make a call.
                open(false) == held_writes && (open(true) == held_syncs || held_syncs > 0)
            });
        }
        // A sync that ended well keeps what had ended before it began: seen at once, before anything else moves on.
        let broken = ended.lock().unwrap().broken.clone();
        assert_eq!(broken, None, "after {steps:?}");
        if gates.is_none()
            && let Step::Begin(job) = step
            && matches!(jobs[job], Job::Sync)
            && ended.lock().unwrap().jobs[&job]
        {
            for (other, what) in jobs.iter().enumerate() {
                if let Job::Write { at, fill } = what
                    && ended.lock().unwrap().jobs.get(&other) == Some(&true)
                {
                    assert!(keeps(*at, *fill), "write {other} is not covered after {steps:?}");
                }
            }
        }
    }
    assert_eq!(ended.lock().unwrap().jobs.len(), jobs.len(), "every job ends: {steps:?}");
    steps
}

fn begin(disk: &dyn Disk, gates: Option<&Arc<Gates>>, jobs: &[Job], job: usize, ended: &Arc<Mutex<Ended>>) {
    let owed: Vec<(usize, u8)> = match jobs[job] {
        Job::Write { .. } => Vec::new(),
        Job::Sync => {
            let ended = ended.lock().unwrap();
            let good = |(at, what): (usize, &Job)| match what {
                Job::Write { fill, .. } if ended.jobs.get(&at) == Some(&true) => Some((at, *fill)),
                _ => None,
            };
            jobs.iter().enumerate().filter_map(good).collect()
        }
    };
    let (ended, gates) = (ended.clone(), gates.cloned());
    let note = move |outcome: WorkOutcome| {
        let Some(gates) = gates else {
            assert_eq!(ended.lock().unwrap().jobs.insert(job, outcome.is_ok()), None, "job {job} ended twice");
            return;
        };
        // The gates' lock is never taken under this one: the tester takes them the other way round.
        let bare = owed.iter().find(|(_, fill)| outcome.is_ok() && !gates.keeps(*fill));
        let mut ended = ended.lock().unwrap();
        if let Some((write, _)) = bare {
            let why = || format!("sync {job} ended well and does not cover write {write}");
            ended.broken.get_or_insert_with(why);
        }
        assert_eq!(ended.jobs.insert(job, outcome.is_ok()), None, "job {job} ended twice");
        drop(ended);
        gates.stir();
    };
    let what = match jobs[job] {
        Job::Write { at, fill } => DiskJob::Write { at, bufs: vec![block(fill)] },
        Job::Sync => DiskJob::Sync,
    };
    disk.start(what, Box::new(note));
}

const NEAR: [Job; 4] = [Job::Write { at: 0, fill: 1 }, Job::Write { at: BLOCK, fill: 2 }, Job::Sync, Job::Sync];
const FAR: [Job; 4] = [Job::Write { at: 0, fill: 1 }, Job::Write { at: EXTENT_BYTES, fill: 2 }, Job::Sync, Job::Sync];

/// All of the suite, on media of files at this path.
fn passes_on(path: &Path) {
    is_a_flat_space_of_bytes(&*OfFiles::open(path).disk);
    for jobs in [NEAR, FAR] {
        let orders = covers_in_every_order(&jobs, false, || Box::new(OfFiles::open(path)));
        assert!(orders > 300, "{orders} orders");
    }
    let orders = covers_in_every_order(&FAR[1..], true, || Box::new(OfFiles::open(path)));
    assert!(orders > 20, "{orders} orders");
}

#[test]
fn a_directory_of_extents_conforms() {
    let directory = tempfile::tempdir().unwrap();
    passes_on(directory.path());
}

#[test]
fn a_single_file_conforms() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("medium.img");
    File::create(&path).unwrap().set_len(MEDIUM_BYTES).unwrap();
    passes_on(&path);
}

#[test]
fn a_block_device_conforms() {
    let directory = tempfile::tempdir().unwrap();
    let image = directory.path().join("device.img");
    File::create(&image).unwrap().set_len(MEDIUM_BYTES).unwrap();
    let device = match Command::new("losetup").args(["-f", "--show"]).arg(&image).output() {
        Ok(output) if output.status.success() => String::from_utf8(output.stdout).unwrap().trim().to_owned(),
        other => {
            println!("SKIPPED: a loop device cannot be made: {other:?}");
            return;
        }
    };
    let outcome = std::panic::catch_unwind(|| passes_on(Path::new(&device)));
    assert!(Command::new("losetup").args(["-d", &device]).status().is_ok_and(|status| status.success()));
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn memory_conforms() {
    is_a_flat_space_of_bytes(&*InMemory::plain().disk);
    // Its jobs end as they begin: the orders are those of four jobs.
    assert_eq!(covers_in_every_order(&NEAR, false, || Box::new(InMemory::plain())), 24);
}

#[test]
fn a_medium_that_fails_conforms_wherever_it_fails() {
    is_a_flat_space_of_bytes(&*InMemory::failing(1 << 40, Fault::Io).disk);
    for nth in 0..4 {
        for fault in [Fault::Io, Fault::NoSpace, Fault::Torn { blocks: 0 }] {
            assert_eq!(covers_in_every_order(&NEAR, false, || Box::new(InMemory::failing(nth, fault))), 24);
        }
    }
}
