//! Drives in memory, whose jobs take their time and which keep of a crash what real ones would.

use core::time::Duration;
use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};

use mesh_core::{
    Buf, Error, ErrorKind, WorkOutcome,
    limits::ALIGNMENT_BYTES,
    port::{Completion, Disk, DiskJob, Geometry, WorkOutput},
};
use mesh_dpu_runtime::disk::MemoryDisk;

use super::{lock, machine::Life, time::RoomTime};
use crate::random::Stream;

/// One drive. It outlives the processes that open it.
pub(super) struct Medium {
    disk: Arc<MemoryDisk>,
    state: Mutex<State>,
    /// In windows: until then no job ends.
    stalled_until: AtomicU64,
    /// Jobs take so many times as long.
    slowness: AtomicU64,
    lies: AtomicBool,
    /// It is there no more.
    pulled: AtomicBool,
}

struct State {
    dice: Stream,
    jobs: u64,
    /// What is under way.
    pending: BTreeMap<u64, DiskJob>,
}

impl Medium {
    pub(super) fn new(capacity_bytes: u64, dice: Stream) -> Arc<Self> {
        let state = State { dice, jobs: 0, pending: BTreeMap::new() };
        Arc::new(Self {
            disk: MemoryDisk::new(capacity_bytes),
            state: Mutex::new(state),
            stalled_until: AtomicU64::new(0),
            slowness: AtomicU64::new(1),
            lies: AtomicBool::new(false),
            pulled: AtomicBool::new(false),
        })
    }

    /// It says that it has synced and has not.
    pub(super) fn lies(&self, lies: bool) {
        self.lies.store(lies, Relaxed);
    }

    /// Somebody takes it away, for good.
    pub(super) fn pull(&self) {
        self.pulled.store(true, Relaxed);
    }

    pub(super) fn is_there(&self) -> bool {
        !self.pulled.load(Relaxed)
    }

    /// No job ends before that window.
    pub(super) fn stall(&self, until: u64) {
        self.stalled_until.fetch_max(until, Relaxed);
    }

    /// From now on jobs take their usual time.
    pub(super) fn heal(&self) {
        self.stalled_until.store(0, Relaxed);
        self.slow(1);
    }

    /// Jobs that begin from now on take so many times as long.
    pub(super) fn slow(&self, times: u64) {
        self.slowness.store(times, Relaxed);
    }

    /// The process that has it open is gone: of what was under way some is written, some in part and some not. With the
    /// power goes also some of what no sync covered.
    pub(super) fn crash(&self, power: bool) {
        let mut state = lock(&self.state);
        for (_, job) in core::mem::take(&mut state.pending) {
            let torn = match (job, state.dice.below(3)) {
                // Nobody was told of a sync that had not ended.
                (_, 0) | (DiskJob::Sync, _) => None,
                (DiskJob::Write { at, bufs }, 1) => Some(DiskJob::Write { at, bufs: part_of(&bufs, &mut state.dice) }),
                (job, _) => Some(job),
            };
            if let Some(job) = torn {
                // What it was is of no matter: nobody is told.
                drop(self.disk.run(job));
            }
        }
        if power {
            self.disk.power_cut(|_| state.dice.chance(500));
        }
    }
}

/// The first blocks of what was to be written.
fn part_of(bufs: &[Buf], dice: &mut Stream) -> Vec<Buf> {
    let blocks = bufs.iter().map(|buf| buf.len() / ALIGNMENT_BYTES).sum::<usize>() as u64;
    let mut left = usize::try_from(dice.below(blocks)).unwrap_or(0) * ALIGNMENT_BYTES;
    let mut part = Vec::new();
    for buf in bufs {
        let taken = left.min(buf.len());
        if taken > 0 {
            part.push(buf.slice(0..taken));
        }
        left -= taken;
    }
    part
}

/// A drive that a process has open.
pub(super) struct Opened {
    pub(super) medium: Arc<Medium>,
    pub(super) life: Arc<Life>,
    pub(super) time: Arc<RoomTime>,
}

impl Disk for Opened {
    fn geometry(&self) -> Geometry {
        self.medium.disk.geometry()
    }

    fn start(&self, job: DiskJob, done: Completion<WorkOutcome>) {
        if !self.life.step() {
            return;
        }
        let is_sync = job == DiskJob::Sync;
        let (number, pause) = {
            let mut state = lock(&self.medium.state);
            state.jobs += 1;
            let number = state.jobs;
            state.pending.insert(number, job);
            let stalled = self.medium.stalled_until.load(Relaxed).saturating_sub(self.time.windows());
            (number, stalled + state.dice.below(3) * self.medium.slowness.load(Relaxed))
        };
        let (medium, life) = (self.medium.clone(), self.life.clone());
        // It covers what had ended before it began.
        let syncing = is_sync.then(|| medium.disk.begin_sync());
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(pause)).await;
            if !life.is_alive() {
                return;
            }
            let job = lock(&medium.state).pending.remove(&number);
            match job {
                Some(_) if !medium.is_there() => done(Err(Error::new(ErrorKind::DriveFailed, "the drive is gone"))),
                Some(DiskJob::Sync) => {
                    if let Some(syncing) = syncing.filter(|_| !medium.lies.load(Relaxed)) {
                        medium.disk.end_sync(syncing);
                    }
                    done(Ok(WorkOutput::Done));
                }
                Some(job) => done(medium.disk.run(job)),
                None => {}
            }
        });
    }
}
