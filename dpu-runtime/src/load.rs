//! What functions have used: requests, bytes, CPU time; and what the whole process has.
//!
//! A node keeps one [`Load`]. Who does work for a function takes its [`Counters`] once and adds to them as it goes: an
//! atomic addition each. [`Load::report`] copies everything, and [`rate`] says what happened between two reports; it is
//! a pure function. Nothing here starts a thread or decides anything.
//!
//! CPU time is what the calling thread has used by the system's own clock, which costs some 0.3 µs to read: so it is
//! read around compute jobs ([`Metered`]), not around every event of a function that takes less than that.

use core::{
    fmt,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};
use std::{
    collections::BTreeMap,
    fs, io,
    io::Read as _,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use mesh_core::{
    Error, ErrorKind, WorkOutcome,
    figures::{Count, Figures as _, Labels, Level, Page, Spent},
    port::{Compute, ComputeJob},
};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use crate::offload::seal::opened_len;

/// Kinds of functions that are counted apart at most.
pub const KINDS_MAX: usize = 64;

/// Everything that is counted on a node.
#[derive(Default)]
pub struct Load {
    kinds: Mutex<BTreeMap<String, Arc<Counters>>>,
}

impl fmt::Debug for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Load")
    }
}

impl Load {
    /// The counters of a kind of function, named as in its spec: `policy`, `encrypt`.
    ///
    /// # Errors
    /// `Overloaded` if there are [`KINDS_MAX`] other kinds already: count it together with another.
    pub fn counters(&self, kind: &str) -> Result<Arc<Counters>, Error> {
        let mut kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(counters) = kinds.get(kind) {
            return Ok(counters.clone());
        }
        if kinds.len() == KINDS_MAX {
            return Err(Error::new(ErrorKind::Overloaded, "no more kinds of functions can be counted apart")
                .with("kind", kind)
                .with("max", KINDS_MAX));
        }
        let counters = Arc::new(Counters::default());
        kinds.insert(kind.to_owned(), counters.clone());
        Ok(counters)
    }

    /// All counters as they are now, and what `process` has used: see [`ProcessUse::read`].
    #[must_use]
    pub fn report(&self, process: ProcessUse) -> LoadReport {
        let kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        let functions = kinds.iter().map(|(kind, counters)| (kind.clone(), counters.snapshot())).collect();
        LoadReport { functions, process }
    }
}

/// What one kind of function has used. Each number is exact; read together while work goes on, they may be of slightly
/// different moments.
#[derive(Debug, Default)]
pub struct Counters {
    requests: AtomicU64,
    bytes: AtomicU64,
    cpu_ns: AtomicU64,
    queued: AtomicU64,
}

impl Counters {
    /// A request with so many bytes of payload took so much CPU time.
    pub fn add(&self, bytes: u64, cpu: Duration) {
        self.requests.fetch_add(1, Relaxed);
        self.bytes.fetch_add(bytes, Relaxed);
        self.cpu_ns.fetch_add(u64::try_from(cpu.as_nanos()).unwrap_or(u64::MAX), Relaxed);
    }

    /// A request waits or runs until the guard is dropped.
    #[must_use]
    pub fn enter(self: &Arc<Self>) -> Queued {
        self.queued.fetch_add(1, Relaxed);
        Queued(self.clone())
    }

    fn snapshot(&self) -> FunctionLoad {
        FunctionLoad {
            requests: self.requests.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
            cpu_ns: self.cpu_ns.load(Relaxed),
            queued: self.queued.load(Relaxed),
        }
    }
}

/// One request that waits or runs.
#[derive(Debug)]
pub struct Queued(Arc<Counters>);

impl Drop for Queued {
    fn drop(&mut self) {
        self.0.queued.fetch_sub(1, Relaxed);
    }
}

mesh_core::figures! {
    /// What computing for functions of one kind has taken: sealing, coding, compressing, both ways.
    struct Computed as "mesh_compute" {
        /// Jobs that were computed for functions of this kind.
        jobs: Count,
        /// Bytes that were computed on.
        bytes: Count,
        /// CPU time that this took.
        cpu_seconds: Spent,
        /// Jobs that wait or run now.
        waiting: Level,
    }
}

impl Load {
    /// Everything that is counted, for who watches the node.
    pub fn figures(&self, page: &mut Page) {
        Computed::declare(page);
        for (kind, load) in self.report(ProcessUse::default()).functions {
            let computed = Computed {
                jobs: Count(load.requests),
                bytes: Count(load.bytes),
                cpu_seconds: Spent(Duration::from_nanos(load.cpu_ns)),
                waiting: Level(load.queued),
            };
            computed.tell(&Labels::default().text("function", kind), page);
        }
    }
}

/// What a kind of function has used since the process started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionLoad {
    /// Finished.
    pub requests: u64,
    /// Their payloads together.
    pub bytes: u64,
    /// CPU time in nanoseconds.
    pub cpu_ns: u64,
    /// Waiting or running now.
    pub queued: u64,
}

/// What a process has used since it started, as the system accounts for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessUse {
    /// CPU time of all its threads, in nanoseconds: user and system.
    pub cpu_ns: u64,
    /// Memory that it has in RAM now.
    pub resident_bytes: u64,
}

impl ProcessUse {
    /// This process, by `proc/self/stat` and `proc/self/statm` below `root`.
    ///
    /// # Errors
    /// If a file cannot be read or does not look as Linux writes it.
    pub fn read(root: &Path) -> io::Result<Self> {
        let text = |path: &str| {
            let mut text = Vec::new();
            fs::File::open(root.join(path))?.take(PROC_BYTES_MAX).read_to_end(&mut text)?;
            Ok::<_, io::Error>(String::from_utf8_lossy(&text).into_owned())
        };
        let strange = |what| io::Error::new(io::ErrorKind::InvalidData, what);
        let ticks = cpu_ticks(&text("proc/self/stat")?).ok_or_else(|| strange("no CPU times in proc/self/stat"))?;
        let pages = resident_pages(&text("proc/self/statm")?).ok_or_else(|| strange("no size in proc/self/statm"))?;
        let tick_ns = 1_000_000_000 / rustix::param::clock_ticks_per_second().max(1);
        let page_bytes = rustix::param::page_size() as u64;
        Ok(Self { cpu_ns: ticks.saturating_mul(tick_ns), resident_bytes: pages.saturating_mul(page_bytes) })
    }
}

/// User and system time together, fields 14 and 15. The command's name before them may hold spaces and brackets.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace().skip(11);
    let (user, system) = (fields.next()?.parse::<u64>().ok()?, fields.next()?.parse::<u64>().ok()?);
    Some(user.saturating_add(system))
}

fn resident_pages(statm: &str) -> Option<u64> {
    statm.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// How much a node has used, by kind of function and in all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadReport {
    /// By kind, at most [`KINDS_MAX`].
    pub functions: BTreeMap<String, FunctionLoad>,
    /// The whole process.
    pub process: ProcessUse,
}

/// What was used per second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionRate {
    /// Requests a second.
    pub requests: u64,
    /// Bytes a second.
    pub bytes: u64,
    /// CPU time in each second: 1,000,000 is one core.
    pub cpu_us: u64,
    /// Waiting or running at the end.
    pub queued: u64,
}

/// What a node used per second between two reports.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadRate {
    /// By kind of function.
    pub functions: BTreeMap<String, FunctionRate>,
    /// The whole process's CPU time in each second: 1,000,000 is one core.
    pub cpu_us: u64,
    /// Its memory at the end.
    pub resident_bytes: u64,
}

/// What happened from one report to a later one, per second, rounded down; nothing if no time went by. A counter that
/// fell belongs to a process that was started again: what it shows was used since then.
#[must_use]
pub fn rate(before: &LoadReport, after: &LoadReport, elapsed: Duration) -> LoadRate {
    let functions = after.functions.iter().map(|(kind, now)| {
        let then = before.functions.get(kind).copied().unwrap_or_default();
        let rate = FunctionRate {
            requests: per_second(then.requests, now.requests, elapsed, 1),
            bytes: per_second(then.bytes, now.bytes, elapsed, 1),
            cpu_us: per_second(then.cpu_ns, now.cpu_ns, elapsed, 1000),
            queued: now.queued,
        };
        (kind.clone(), rate)
    });
    LoadRate {
        functions: functions.collect(),
        cpu_us: per_second(before.process.cpu_ns, after.process.cpu_ns, elapsed, 1000),
        resident_bytes: after.process.resident_bytes,
    }
}

fn per_second(then: u64, now: u64, elapsed: Duration, unit: u128) -> u64 {
    let used = u128::from(if now < then { now } else { now - then });
    let per_second = (used * 1_000_000_000).checked_div(elapsed.as_nanos() * unit).unwrap_or(0);
    u64::try_from(per_second).unwrap_or(u64::MAX)
}

/// CPU time that the calling thread has used.
#[must_use]
pub fn thread_cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// A compute back end whose work is counted: sealing, opening and keys as `encrypt`, coding as `erasure`, and compressing,
/// both ways, as `compress`.
pub struct Metered {
    inner: Arc<dyn Compute>,
    cpu: CpuClock,
    encrypt: Arc<Counters>,
    erasure: Arc<Counters>,
    compress: Arc<Counters>,
}

/// What the calling thread has used of the CPU: [`thread_cpu_time`], as a rule.
pub type CpuClock = Arc<dyn Fn() -> Duration + Send + Sync>;

impl fmt::Debug for Metered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metered")
    }
}

impl Metered {
    /// Counts what `inner` does in `load`, in this clock's time.
    ///
    /// # Errors
    /// As [`Load::counters`].
    pub fn new(inner: Arc<dyn Compute>, cpu: CpuClock, load: &Load) -> Result<Self, Error> {
        let (encrypt, erasure) = (load.counters("encrypt")?, load.counters("erasure")?);
        Ok(Self { inner, cpu, encrypt, erasure, compress: load.counters("compress")? })
    }
}

impl Compute for Metered {
    fn run(&self, job: ComputeJob) -> WorkOutcome {
        let (counters, bytes) = match &job {
            ComputeJob::WrapKey { .. } => (&self.encrypt, 0),
            ComputeJob::Seal { plain, .. } => (&self.encrypt, plain.len() as u64),
            ComputeJob::Open { sealed, part, .. } => (&self.encrypt, opened_len(sealed.len(), *part) as u64),
            ComputeJob::Encode { bytes, .. } => (&self.erasure, bytes.len() as u64),
            ComputeJob::Decode { len, .. } => (&self.erasure, u64::from(*len)),
            ComputeJob::Compress { plain } => (&self.compress, plain.len() as u64),
            ComputeJob::Decompress { packed } => (&self.compress, packed.len() as u64),
        };
        let queued = counters.enter();
        let before = (self.cpu)();
        let outcome = self.inner.run(job);
        counters.add(bytes, (self.cpu)().saturating_sub(before));
        drop(queued);
        outcome
    }

    fn is_small(&self, job: &ComputeJob) -> bool {
        self.inner.is_small(job)
    }
}

/// Linux writes some hundred bytes.
const PROC_BYTES_MAX: u64 = 4096;

#[cfg(test)]
mod tests;
