//! A medium that fails on purpose.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use mesh_core::{
    Error, ErrorKind, WorkOutcome,
    limits::ALIGNMENT_BYTES,
    port::{Completion, Disk, DiskJob, Geometry},
};

/// What goes wrong with one job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It fails with `DriveFailed`, as EIO does; nothing is done.
    Io,
    /// It fails with `NoSpace`, as ENOSPC does; nothing is done.
    NoSpace,
    /// A write does only its first so many blocks of 4 KiB, then fails with `DriveFailed`. Other jobs: as [`Self::Io`].
    Torn {
        /// Blocks that are written.
        blocks: usize,
    },
}

/// Another medium, of which chosen jobs fail.
pub struct FailingDisk {
    inner: Arc<dyn Disk>,
    plan: Mutex<Plan>,
}

#[derive(Debug, Default)]
struct Plan {
    started: u64,
    faults: BTreeMap<u64, Fault>,
}

impl core::fmt::Debug for FailingDisk {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("FailingDisk").field("plan", &self.plan).finish_non_exhaustive()
    }
}

impl FailingDisk {
    /// Passes everything on to `inner`, until a fault is planned.
    #[must_use]
    pub fn new(inner: Arc<dyn Disk>) -> Arc<Self> {
        Arc::new(Self { inner, plan: Mutex::default() })
    }

    /// Plans a fault for the `nth` job from now on; 0 is the next.
    pub fn fail(&self, nth: u64, fault: Fault) {
        let mut plan = self.plan.lock().unwrap_or_else(PoisonError::into_inner);
        let at = plan.started + nth;
        plan.faults.insert(at, fault);
    }
}

impl Disk for FailingDisk {
    fn geometry(&self) -> Geometry {
        self.inner.geometry()
    }

    fn start(&self, job: DiskJob, done: Completion<WorkOutcome>) {
        let fault = {
            let mut plan = self.plan.lock().unwrap_or_else(PoisonError::into_inner);
            let at = plan.started;
            plan.started += 1;
            plan.faults.remove(&at)
        };
        let broken = || Error::new(ErrorKind::DriveFailed, "a planned I/O error");
        match (fault, job) {
            (None, job) => self.inner.start(job, done),
            (Some(Fault::NoSpace), _) => done(Err(Error::new(ErrorKind::NoSpace, "a planned lack of space"))),
            (Some(Fault::Torn { blocks }), DiskJob::Write { at, bufs }) => {
                let mut left = blocks * ALIGNMENT_BYTES;
                let mut torn = Vec::new();
                for buf in bufs {
                    let part = buf.slice(..buf.len().min(left));
                    left -= part.len();
                    if !part.is_empty() {
                        torn.push(part);
                    }
                }
                self.inner.start(DiskJob::Write { at, bufs: torn }, Box::new(move |_| done(Err(broken()))));
            }
            (Some(Fault::Io | Fault::Torn { .. }), _) => done(Err(broken())),
        }
    }
}
