//! The one way to durability, shared by all groups of a node: database, then medium, then mark, then the answer.
//!
//! Two threads in a row, so that the mark of one batch becomes durable while the database already takes the next. What
//! a batch claims is noted before its flush begins; so a mark never claims more than what was flushed before it.
//!
//! In memory a task does the same on tokio's clock, which a simulation pauses: between what was written, flushed and marked a
//! moment passes, in which the node may crash.

use core::time::Duration;
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

/// Who waits for what was written before, and what is claimed of it.
struct Asked {
    /// In the order in which the claims were noted.
    number: u64,
    claims: Claims,
    waiting: Vec<Waiter>,
}

/// The same once it was flushed.
struct Batch {
    asked: Asked,
    flushed: Result<(), String>,
}

/// The first of the two steps.
#[derive(Default)]
struct Flushing {
    asked: u64,
    failure: Option<String>,
}

impl Flushing {
    /// Notes what is claimed, before anything is flushed.
    fn begin(&mut self, claims: &Mutex<Claims>, waiting: Vec<Waiter>) -> Asked {
        self.asked += 1;
        Asked { number: self.asked, claims: lock(claims).clone(), waiting }
    }

    /// Flushes once for all who wait.
    fn flush(&mut self, steps: &dyn Durable, asked: Asked) -> Batch {
        if self.failure.is_none() {
            // After a failed fsync nobody knows what is on the drive: nothing is promised any more.
            self.failure = guarded(|| steps.flush().and_then(|()| steps.sync())).err().map(|error| error.to_string());
            if let Some(error) = &self.failure {
                tracing::error!(error, "the metadata store cannot be made durable; its groups stop");
            }
        }
        Batch { asked, flushed: self.failure.clone().map_or(Ok(()), Err) }
    }
}

/// The second.
#[derive(Default)]
struct Marking {
    /// The newest that was marked: what was asked before it claims no more.
    marked: u64,
    failure: Option<String>,
}

impl Marking {
    /// Marks what was flushed, and tells who waits.
    fn mark(&mut self, steps: &dyn Durable, batches: Vec<Batch>) {
        // The last one that was flushed claims all that those before it do.
        let last = batches.iter().rev().find(|batch| batch.flushed.is_ok());
        if self.failure.is_none()
            && let Some(last) = last.filter(|last| last.asked.number > self.marked)
        {
            self.failure = steps.mark(&last.asked.claims).err().map(|error| error.to_string());
            self.marked = last.asked.number;
            if let Some(error) = &self.failure {
                tracing::error!(error, "the mark of the metadata store cannot be made durable; its groups stop");
            }
        }
        for batch in batches {
            answer(batch.asked.waiting, &self.failure.clone().map_or(batch.flushed, Err));
        }
    }
}

/// Who does it.
pub(super) struct Flusher(Mutex<Option<Running>>);

enum Running {
    /// Two threads.
    Threads { waiters: SyncSender<Waiter>, threads: [JoinHandle<()>; 2] },
    /// A task.
    Task(Arc<Queue>, tokio::task::AbortHandle),
}

/// How long a step takes.
pub type Latency = Arc<dyn Fn() -> Duration + Send + Sync>;

/// Who waits for the task.
struct Queue {
    steps: Arc<dyn Durable>,
    claims: Arc<Mutex<Claims>>,
    waiting: Mutex<Vec<Waiter>>,
    /// What is between two steps.
    begun: Mutex<Option<Asked>>,
    unmarked: Mutex<Option<Batch>>,
    asked: tokio::sync::Notify,
    flushing: Mutex<Flushing>,
    marking: Mutex<Marking>,
}

impl Flusher {
    /// Nobody flushes: whoever asks is refused.
    pub(super) const fn closed() -> Self {
        Self(Mutex::new(None))
    }

    /// Threads do it.
    pub(super) fn start(steps: Arc<dyn Durable>, claims: Arc<Mutex<Claims>>) -> io::Result<Self> {
        let (waiters, asked) = sync_channel(WAITERS_MAX);
        let (flushed, unmarked) = sync_channel(UNMARKED_MAX);
        let thread = |name: &str| std::thread::Builder::new().name(name.into());
        let marks = Arc::clone(&steps);
        let marker = thread("metadata-mark").spawn(move || mark_forever(&*marks, &unmarked))?;
        let flusher = thread("metadata-flush").spawn(move || flush_forever(&*steps, &claims, &asked, &flushed))?;
        Ok(Self(Mutex::new(Some(Running::Threads { waiters, threads: [flusher, marker] }))))
    }

    /// A task on the present tokio runtime does it.
    pub(super) fn in_task(steps: Arc<dyn Durable>, claims: Arc<Mutex<Claims>>, latency: Latency) -> Self {
        let queue = Arc::new(Queue {
            steps,
            claims,
            waiting: Mutex::default(),
            begun: Mutex::default(),
            unmarked: Mutex::default(),
            asked: tokio::sync::Notify::new(),
            flushing: Mutex::default(),
            marking: Mutex::default(),
        });
        let task = tokio::spawn(Arc::clone(&queue).flush_forever(latency));
        Self(Mutex::new(Some(Running::Task(queue, task.abort_handle()))))
    }

    /// Tells a waiter, in the order of calls.
    pub(super) fn tell(&self, waiter: Waiter) {
        let refused = {
            let running = lock(&self.0);
            match &*running {
                Some(Running::Threads { waiters, .. }) => {
                    let waiters = waiters.clone();
                    drop(running);
                    waiters.send(waiter).err().map(|refused| refused.0)
                }
                Some(Running::Task(queue, _)) => queue.take(waiter),
                None => Some(waiter),
            }
        };
        if let Some(waiter) = refused {
            waiter(Err(closed()));
        }
    }

    /// Comes back once everything written and claimed before is durable. Blocks; a task's work is done here and now.
    pub(super) fn finish(&self) -> io::Result<()> {
        let (done, flushed) = sync_channel(1);
        self.tell(Box::new(move |outcome| drop(done.send(outcome))));
        if let Some(Running::Task(queue, _)) = &*lock(&self.0) {
            queue.flush();
        }
        flushed.recv().map_err(|_| closed())?
    }

    /// Flushes what is waiting and ends. Nothing becomes durable afterwards.
    pub(super) fn close(&self) {
        let running = lock(&self.0).take();
        match running {
            Some(Running::Threads { waiters, threads }) => {
                drop(waiters);
                for thread in threads {
                    if thread.join().is_err() {
                        tracing::error!("a thread of the metadata store panicked");
                    }
                }
            }
            Some(Running::Task(queue, task)) => {
                task.abort();
                queue.flush();
            }
            None => {}
        }
    }
}

impl Queue {
    /// Takes a waiter, unless too many wait.
    fn take(&self, waiter: Waiter) -> Option<Waiter> {
        let mut waiting = lock(&self.waiting);
        if waiting.len() >= WAITERS_MAX {
            return Some(waiter);
        }
        waiting.push(waiter);
        self.asked.notify_one();
        None
    }

    async fn flush_forever(self: Arc<Self>, latency: Latency) {
        loop {
            self.asked.notified().await;
            *lock(&self.begun) = self.begin();
            tokio::time::sleep(latency()).await;
            self.flush_begun();
            tokio::time::sleep(latency()).await;
            self.mark_flushed();
        }
    }

    /// What has begun is taken from where it lies: whoever could not wait has done it already.
    fn flush_begun(&self) {
        let asked = lock(&self.begun).take();
        if let Some(asked) = asked {
            let batch = lock(&self.flushing).flush(&*self.steps, asked);
            *lock(&self.unmarked) = Some(batch);
        }
    }

    fn mark_flushed(&self) {
        let batch = lock(&self.unmarked).take();
        if let Some(batch) = batch {
            lock(&self.marking).mark(&*self.steps, vec![batch]);
        }
    }

    /// All steps of all that waits, at once.
    fn flush(&self) {
        self.mark_flushed();
        self.flush_begun();
        self.mark_flushed();
        *lock(&self.begun) = self.begin();
        self.flush_begun();
        self.mark_flushed();
    }

    fn begin(&self) -> Option<Asked> {
        let waiting = core::mem::take(&mut *lock(&self.waiting));
        (!waiting.is_empty()).then(|| lock(&self.flushing).begin(&self.claims, waiting))
    }
}

fn closed() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the metadata store is closed")
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
fn flush_forever(steps: &dyn Durable, claims: &Mutex<Claims>, asked: &Receiver<Waiter>, flushed: &SyncSender<Batch>) {
    let mut flushing = Flushing::default();
    while let Ok(first) = asked.recv() {
        let mut waiting = vec![first];
        waiting.extend(asked.try_iter().take(FLUSH_BATCH_MAX - 1));
        let asked = flushing.begin(claims, waiting);
        if let Err(refused) = flushed.send(flushing.flush(steps, asked)) {
            answer(refused.0.asked.waiting, &Err("the metadata store is closed".into()));
        }
    }
}

/// Marks what was flushed and tells who waits, until there is no more.
fn mark_forever(steps: &dyn Durable, unmarked: &Receiver<Batch>) {
    let mut marking = Marking::default();
    while let Ok(first) = unmarked.recv() {
        let mut batches = vec![first];
        batches.extend(unmarked.try_iter());
        marking.mark(steps, batches);
    }
}

fn answer(waiting: Vec<Waiter>, outcome: &Result<(), String>) {
    for waiter in waiting {
        waiter(outcome.clone().map_err(io::Error::other));
    }
}
