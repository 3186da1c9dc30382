//! Runs seeds on all cores, watches them from outside, and runs some of them twice.

use core::{fmt, ops::Range, time::Duration};
use std::{
    collections::BTreeMap,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

use super::{Beacon, Program};
use crate::{nodes, run};

/// Where a program is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// The world: the machines of mesh on one virtual clock; a second takes a millisecond or so.
    World,
    /// Whole nodes, with the real Raft; a second takes some tenths of one.
    Nodes,
}

/// What came of a seed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Which.
    pub seed: u64,
    /// Everything that happened, as one number.
    pub trace: u64,
    /// What must not be.
    pub violation: Option<String>,
    /// How much was done.
    pub figures: Figures,
    /// Every event, if that was asked for.
    pub log: Vec<String>,
}

/// How much was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Events of the world, or messages between nodes.
    pub events: u64,
    /// Operations of clients that ended well.
    pub well: u64,
    /// Those that ended with an error.
    pub failed: u64,
    /// Processes that died.
    pub crashes: u64,
    /// Simulated time.
    pub simulated: Duration,
}

impl core::ops::AddAssign for Figures {
    fn add_assign(&mut self, other: Self) {
        self.events += other.events;
        self.well += other.well;
        self.failed += other.failed;
        self.crashes += other.crashes;
        self.simulated += other.simulated;
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Figures { events, well, failed, crashes, simulated } = self.figures;
        write!(
            f,
            "seed {} {:016x} {} ms, {events} events, {crashes} crashes, {well} well, {failed} failed: ",
            self.seed,
            self.trace,
            simulated.as_millis()
        )?;
        match &self.violation {
            None => f.write_str("ok"),
            Some(why) => write!(f, "VIOLATION {}", why.replace('\n', " ")),
        }
    }
}

/// Runs a seed once. With `log`, keeps every event.
#[must_use]
pub fn once(room: Room, seed: u64, make: &dyn Fn(u64) -> Box<dyn Program>, log: bool) -> Verdict {
    let program = match super::book::guarded("the program", || make(seed)) {
        Ok(program) => program,
        Err(why) => {
            let figures = Figures::default();
            return Verdict { seed, trace: 0, violation: Some(why), figures, log: Vec::new() };
        }
    };
    match room {
        Room::World => {
            let ran = run::run_program(seed, &*program, log);
            let run::Figures { steps, virtual_ns, succeeded, failed, crashes, .. } = ran.figures;
            let simulated = Duration::from_nanos(virtual_ns);
            let figures = Figures { events: steps, well: succeeded, failed, crashes, simulated };
            Verdict { seed, trace: ran.hash, violation: ran.violation, figures, log: ran.log }
        }
        Room::Nodes => {
            let ran = nodes::run::run_program(seed, &*program, log);
            let nodes::run::Figures { windows, messages, crashes, tally, .. } = ran.figures;
            let (well, failed) = (tally.well, tally.refused + tally.unknown);
            let simulated = Duration::from_millis(windows);
            let figures = Figures { events: messages, well, failed, crashes, simulated };
            Verdict { seed, trace: ran.trace, violation: ran.violation, figures, log: ran.log }
        }
    }
}

/// Runs a seed twice: that the two differ is a violation, too, which says where they do.
#[must_use]
pub fn twice(room: Room, seed: u64, make: &dyn Fn(u64) -> Box<dyn Program>) -> Verdict {
    let (mut first, second) = (once(room, seed, make, false), once(room, seed, make, false));
    if first != second {
        let said = format!("it is not deterministic: traces {:016x} and {:016x}", first.trace, second.trace);
        let (one, other) = (once(room, seed, make, true), once(room, seed, make, true));
        first.violation = Some(format!("{said}; {}", difference(&one.log, &other.log)));
    }
    first
}

/// Where two logs differ first.
fn difference(one: &[String], other: &[String]) -> String {
    let at = (0..one.len().max(other.len())).find(|at| one.get(*at) != other.get(*at));
    let line =
        |log: &[String], at: usize| log.get(at).map_or_else(|| "(its end)".to_owned(), |line| line.trim().to_owned());
    at.map_or_else(
        || "two further runs do not show where they differ".to_owned(),
        |at| {
            let number = at + 1;
            format!("two runs differ first in line {number}: {:?} and {:?}", line(one, at), line(other, at))
        },
    )
}

/// A seed of which nothing came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    /// Which.
    pub seed: u64,
    /// Why.
    pub why: String,
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seed {}: VIOLATION {}", self.seed, self.why)
    }
}

/// How long a run may take over one step before it counts as hanging: of real time.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// So many runs may hang before no other is begun: each keeps a core busy until the process ends.
const HANGS_MAX: usize = 4;

/// What the threads share.
struct Shared<V> {
    next: AtomicU64,
    end: u64,
    board: Mutex<Board<V>>,
    ready: Condvar,
}

struct Board<V> {
    /// Verdicts that came too early wait for those before them.
    early: BTreeMap<u64, Result<V, Lost>>,
    /// Who runs what.
    running: BTreeMap<u64, Watched>,
    hangs: usize,
}

/// A run, as it is seen from outside.
struct Watched {
    beacon: Arc<Beacon>,
    steps: u64,
    since: Instant,
}

impl<V> Shared<V> {
    fn board(&self) -> MutexGuard<'_, Board<V>> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs one seed after another until there is none, or this one was given up.
    fn work(&self, run: &(dyn Fn(u64) -> V + Sync)) {
        let beacon = Arc::new(Beacon::default());
        beacon.light();
        loop {
            let seed = self.next.fetch_add(1, Relaxed);
            if seed >= self.end {
                return;
            }
            beacon.light();
            let watched = Watched { beacon: beacon.clone(), steps: 0, since: Instant::now() };
            self.board().running.insert(seed, watched);
            let ran = catch_unwind(AssertUnwindSafe(|| run(seed)));
            let came = ran.map_err(|_| Lost { seed, why: "the run itself broke down; see standard error".to_owned() });
            let mut board = self.board();
            // Once it was given up, somebody else has taken this thread's place.
            if board.running.remove(&seed).is_none() {
                return;
            }
            board.early.insert(seed, came);
            drop(board);
            self.ready.notify_one();
        }
    }
}

impl<V> Board<V> {
    /// Gives up those that have not come a step further for so long. How many those were.
    fn give_up(&mut self, patience: Duration) -> usize {
        let mut hung = Vec::new();
        for (seed, watched) in &mut self.running {
            let steps = watched.beacon.steps();
            if steps != watched.steps {
                (watched.steps, watched.since) = (steps, Instant::now());
            } else if watched.since.elapsed() >= patience {
                hung.push(*seed);
            }
        }
        for seed in &hung {
            let Some(watched) = self.running.remove(seed) else { continue };
            let inside = watched.beacon.inside().unwrap_or_else(|| "a function, or the room itself".to_owned());
            let why = format!("it hangs: {inside} has not come back from step {} for {patience:?}", watched.steps);
            self.early.insert(*seed, Err(Lost { seed: *seed, why }));
        }
        self.hangs += hung.len();
        hung.len()
    }
}

/// Runs seeds on all cores, and gives each verdict in their order. A run that takes more than `patience` of real time over one
/// step is given up, and its thread left to itself.
///
/// # Errors
/// Those of `take`, which ends it.
pub fn each<V: Send + 'static>(
    seeds: Range<u64>,
    patience: Duration,
    run: impl Fn(u64) -> V + Send + Sync + 'static,
    mut take: impl FnMut(Result<V, Lost>) -> io::Result<()>,
) -> io::Result<()> {
    let board = Board { early: BTreeMap::new(), running: BTreeMap::new(), hangs: 0 };
    let (next, end) = (AtomicU64::new(seeds.start), seeds.end);
    let shared = Arc::new(Shared { next, end, board: Mutex::new(board), ready: Condvar::new() });
    let run = Arc::new(run);
    let begin = || {
        let (shared, run) = (shared.clone(), run.clone());
        std::thread::Builder::new().name("seeds".to_owned()).spawn(move || shared.work(&*run)).map(|_| ())
    };
    for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
        begin()?;
    }
    let every = (patience / 4).min(Duration::from_secs(1));
    for seed in seeds {
        let verdict = loop {
            let mut board = shared.board();
            if let Some(verdict) = board.early.remove(&seed) {
                break verdict;
            }
            let waited = shared.ready.wait_timeout(board, every);
            board = waited.unwrap_or_else(PoisonError::into_inner).0;
            let hung = board.give_up(patience);
            if board.hangs >= HANGS_MAX {
                // Nobody begins another; those that run come to their end.
                let begun = shared.next.fetch_max(end, Relaxed);
                let why = format!("it was not run: {HANGS_MAX} seeds before it hang");
                (begun..end).for_each(|seed| {
                    board.early.entry(seed).or_insert_with(|| Err(Lost { seed, why: why.clone() }));
                });
            }
            let replaced = if board.hangs >= HANGS_MAX { 0 } else { hung };
            drop(board);
            for _ in 0..replaced {
                begin()?;
            }
        };
        take(verdict)?;
    }
    Ok(())
}
