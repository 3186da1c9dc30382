//! Credits: what an actor takes on at most, in jobs and in bytes. Taken at the door, dropped with the reply.

use std::sync::{
    Arc,
    atomic::{AtomicU64, AtomicUsize, Ordering},
};

use mesh_core::{
    Error, ErrorKind, Outcome,
    limits::{MAILBOX_BYTES_MAX, MAILBOX_JOBS_MAX},
};

/// The account of one actor. Clones share it.
#[derive(Clone, Debug)]
pub struct Credits(Arc<Account>);

#[derive(Debug)]
struct Account {
    jobs: AtomicUsize,
    bytes: AtomicUsize,
    jobs_max: usize,
    bytes_max: usize,
    /// Over its life.
    requests: AtomicU64,
    traffic: AtomicU64,
}

impl Default for Credits {
    fn default() -> Self {
        Self::new(MAILBOX_JOBS_MAX, MAILBOX_BYTES_MAX)
    }
}

impl Credits {
    /// An account that allows so much at once.
    #[must_use]
    pub fn new(jobs_max: usize, bytes_max: usize) -> Self {
        let (jobs, bytes) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let (requests, traffic) = (AtomicU64::new(0), AtomicU64::new(0));
        Self(Arc::new(Account { jobs, bytes, jobs_max, bytes_max, requests, traffic }))
    }

    /// Takes one job of `bytes`.
    ///
    /// # Errors
    /// `Overloaded` at once if there is no room: nobody waits below the ingress.
    pub fn take(&self, bytes: usize) -> Result<Permit, Error> {
        let account = &self.0;
        let jobs = account.jobs.fetch_add(1, Ordering::AcqRel);
        let held = account.bytes.fetch_add(bytes, Ordering::AcqRel);
        let permit = Permit { account: self.0.clone(), bytes };
        if jobs >= account.jobs_max || held + bytes > account.bytes_max {
            // The permit gives both back.
            return Err(Error::new(ErrorKind::Overloaded, "the actor has all it can take; back off and send again")
                .with("jobs", jobs)
                .with("bytes", held));
        }
        account.requests.fetch_add(1, Ordering::Relaxed);
        account.traffic.fetch_add(bytes as u64, Ordering::Relaxed);
        Ok(permit)
    }

    /// Requests taken, and payload bytes taken and given, over the account's life.
    #[must_use]
    pub fn throughput(&self) -> (u64, u64) {
        (self.0.requests.load(Ordering::Relaxed), self.0.traffic.load(Ordering::Relaxed))
    }

    /// Jobs and bytes taken now.
    #[must_use]
    pub fn taken(&self) -> (usize, usize) {
        (self.0.jobs.load(Ordering::Acquire), self.0.bytes.load(Ordering::Acquire))
    }
}

/// What was taken; gives it back when dropped.
#[derive(Debug)]
pub struct Permit {
    account: Arc<Account>,
    bytes: usize,
}

impl Permit {
    /// Counts what an answer brings.
    pub(super) fn answered(&self, outcome: &Outcome) {
        if let Ok(response) = outcome {
            self.account.traffic.fetch_add(response.payload.len() as u64, Ordering::Relaxed);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.account.jobs.fetch_sub(1, Ordering::AcqRel);
        self.account.bytes.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}
