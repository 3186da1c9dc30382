//! The one way to durability, shared by all groups of a node: database, then medium, then mark, then the answer.
//!
//! Two threads in a row, so that the mark of one batch becomes durable while the database already takes the next. What
//! a batch claims is noted before its flush begins; so a mark never claims more than what was flushed before it.

use std::{
    io,
    panic::AssertUnwindSafe,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread::JoinHandle,
};

use super::mark::Claims;

/// Requests that wait for the flusher at most; one more waits at the door.
const WAITERS_MAX: usize = 4096;
/// Requests that share one flush at most.
const FLUSH_BATCH_MAX: usize = 4096;
/// Batches that are flushed and wait for their mark at most; one more holds up the next flush.
const UNMARKED_MAX: usize = 4;

/// The steps to durability, in this order.
pub(super) trait Durable: Send + Sync + 'static {
    /// Hands everything written before to the system.
    fn flush(&self) -> io::Result<()>;
    /// Makes durable what was flushed.
    fn sync(&self) -> io::Result<()>;
    /// Says durably what is claimed from now on.
    fn mark(&self, claims: &Claims) -> io::Result<()>;
}

/// Is told once everything written before it was given to [`Flusher::tell`] is durable and marked, or that it is not.
pub(super) type Waiter = Box<dyn FnOnce(io::Result<()>) + Send>;

/// What was flushed with which claims, and who waits for it.
struct Batch {
    claims: Claims,
    flushed: Result<(), String>,
    waiting: Vec<Waiter>,
}

/// The two threads.
pub(super) struct Flusher(Mutex<Option<Running>>);

struct Running {
    waiters: SyncSender<Waiter>,
    threads: [JoinHandle<()>; 2],
}

impl Flusher {
    /// Nobody flushes: whoever asks is refused.
    pub(super) const fn closed() -> Self {
        Self(Mutex::new(None))
    }

    pub(super) fn start(files: Arc<dyn Durable>, claims: Arc<Mutex<Claims>>) -> io::Result<Self> {
        let (waiters, asked) = sync_channel(WAITERS_MAX);
        let (flushed, unmarked) = sync_channel(UNMARKED_MAX);
        let thread = |name: &str| std::thread::Builder::new().name(name.into());
        let marks = Arc::clone(&files);
        let marker = thread("metadata-mark").spawn(move || mark_forever(&*marks, &unmarked))?;
        let flusher = thread("metadata-flush").spawn(move || flush_forever(&*files, &claims, &asked, &flushed))?;
        Ok(Self(Mutex::new(Some(Running { waiters, threads: [flusher, marker] }))))
    }

    /// Tells a waiter, in the order of calls.
    pub(super) fn tell(&self, waiter: Waiter) {
        let waiters = lock(&self.0).as_ref().map(|running| running.waiters.clone());
        let refused = match waiters {
            Some(waiters) => waiters.send(waiter).err().map(|refused| refused.0),
            None => Some(waiter),
        };
        if let Some(waiter) = refused {
            waiter(Err(io::Error::new(io::ErrorKind::BrokenPipe, "the metadata store is closed")));
        }
    }

    /// Flushes what is waiting and ends. Nothing becomes durable afterwards.
    pub(super) fn close(&self) {
        let Some(running) = lock(&self.0).take() else { return };
        drop(running.waiters);
        for thread in running.threads {
            if thread.join().is_err() {
                tracing::error!("a thread of the metadata store panicked");
            }
        }
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// sled panics on some damage; that is an error like any other.
pub(super) fn guarded<T>(work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    std::panic::catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let said = panic.downcast_ref::<String>().cloned();
        let said = said.or_else(|| panic.downcast_ref::<&str>().map(|said| (*said).to_owned()));
        let said = said.unwrap_or_else(|| "for no reason".into());
        Err(io::Error::new(io::ErrorKind::InvalidData, format!("the database panicked: {said}")))
    })
}

/// Flushes once for all who wait, again and again, until nobody can ask any more.
fn flush_forever(files: &dyn Durable, claims: &Mutex<Claims>, asked: &Receiver<Waiter>, flushed: &SyncSender<Batch>) {
    let mut failure: Option<String> = None;
    while let Ok(first) = asked.recv() {
        let mut waiting = vec![first];
        waiting.extend(asked.try_iter().take(FLUSH_BATCH_MAX - 1));
        let claims = lock(claims).clone();
        if failure.is_none() {
            // After a failed fsync nobody knows what is on the drive: nothing is promised any more.
            failure = guarded(|| files.flush().and_then(|()| files.sync())).err().map(|error| error.to_string());
            if let Some(error) = &failure {
                tracing::error!(error, "the metadata store cannot be made durable; its groups stop");
            }
        }
        let batch = Batch { claims, flushed: failure.clone().map_or(Ok(()), Err), waiting };
        if let Err(refused) = flushed.send(batch) {
            answer(refused.0.waiting, &Err("the metadata store is closed".into()));
        }
    }
}

/// Marks what was flushed and tells who waits, until there is no more.
fn mark_forever(files: &dyn Durable, unmarked: &Receiver<Batch>) {
    let mut failure: Option<String> = None;
    while let Ok(first) = unmarked.recv() {
        let mut batches = vec![first];
        batches.extend(unmarked.try_iter());
        // The last one that was flushed claims all that those before it do.
        let last = batches.iter().rev().find(|batch| batch.flushed.is_ok());
        if failure.is_none()
            && let Some(last) = last
        {
            failure = files.mark(&last.claims).err().map(|error| error.to_string());
            if let Some(error) = &failure {
                tracing::error!(error, "the mark of the metadata store cannot be made durable; its groups stop");
            }
        }
        for batch in batches {
            answer(batch.waiting, &failure.clone().map_or(batch.flushed, Err));
        }
    }
}

fn answer(waiting: Vec<Waiter>, outcome: &Result<(), String>) {
    for waiter in waiting {
        waiter(outcome.clone().map_err(io::Error::other));
    }
}
