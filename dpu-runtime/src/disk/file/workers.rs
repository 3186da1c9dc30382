//! The threads of a medium, and the bounded queue before them.

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
};

use mesh_core::{
    Error, ErrorKind, Pool, WorkOutcome,
    port::{Completion, DiskJob},
};

use super::extents::Extents;

/// The threads. Dropping them lets them end the jobs that were taken.
pub(super) struct Workers {
    queue: Arc<Queue>,
    threads: Vec<JoinHandle<()>>,
}

struct Queue {
    waiting: Mutex<Waiting>,
    changed: Condvar,
    jobs_max: usize,
}

#[derive(Default)]
struct Waiting {
    jobs: VecDeque<(DiskJob, Completion<WorkOutcome>)>,
    closed: bool,
}

impl core::fmt::Debug for Workers {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Workers({} threads, {} jobs wait)", self.threads.len(), self.queue.lock().jobs.len())
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Only whole jobs are pushed and popped under the lock.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next job; `None` once the queue is closed and empty.
    fn pop(&self) -> Option<(DiskJob, Completion<WorkOutcome>)> {
        let mut waiting = self.lock();
        loop {
            if let Some(job) = waiting.jobs.pop_front() {
                return Some(job);
            }
            if waiting.closed {
                return None;
            }
            waiting = self.changed.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Workers {
    pub(super) fn start(
        extents: &Arc<Extents>,
        threads: usize,
        jobs_max: usize,
        pool: Pool,
    ) -> Result<Self, io::Error> {
        let queue = Arc::new(Queue { waiting: Mutex::default(), changed: Condvar::new(), jobs_max });
        let mut workers = Self { queue, threads: Vec::with_capacity(threads) };
        for _ in 0..threads {
            let (queue, extents, pool) = (Arc::clone(&workers.queue), Arc::clone(extents), pool.clone());
            let work = move || {
                while let Some((job, done)) = queue.pop() {
                    done(extents.run(job, &pool));
                }
            };
            workers.threads.push(thread::Builder::new().name("disk".into()).spawn(work)?);
        }
        Ok(workers)
    }

    /// Hands a job to the threads, or refuses it at once.
    pub(super) fn push(&self, job: DiskJob, done: Completion<WorkOutcome>) {
        let mut waiting = self.queue.lock();
        if waiting.jobs.len() >= self.queue.jobs_max {
            drop(waiting);
            done(Err(Error::new(ErrorKind::Overloaded, "the medium has too many jobs: back off")));
            return;
        }
        waiting.jobs.push_back((job, done));
        drop(waiting);
        self.queue.changed.notify_one();
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.queue.lock().closed = true;
        self.queue.changed.notify_all();
        for thread in self.threads.drain(..) {
            // The last owner may be a completion that runs on one of these threads, which cannot wait for itself.
            if thread.thread().id() != thread::current().id() && thread.join().is_err() {
                tracing::error!("a thread of a medium panicked");
            }
        }
    }
}
