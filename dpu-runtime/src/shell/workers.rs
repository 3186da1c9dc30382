//! Threads for compute jobs that are too big to do between two messages.

use std::sync::{
    Arc, Mutex,
    mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
};

use mesh_core::{Error, ErrorKind};

type Task = Box<dyn FnOnce() + Send>;

/// A fixed number of threads with a bounded queue, or none: then tasks run where they are given, which keeps a
/// simulated node deterministic. Clones share the threads; they end with the last clone.
#[derive(Clone)]
pub struct Workers(Option<SyncSender<Task>>);

impl core::fmt::Debug for Workers {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(if self.0.is_some() { "Workers(threads)" } else { "Workers(inline)" })
    }
}

impl Workers {
    /// `count` threads.
    ///
    /// # Errors
    /// `Overloaded` if the operating system gives no thread.
    pub fn threads(count: usize) -> Result<Self, Error> {
        let (tasks, queue) = sync_channel::<Task>(QUEUE_TASKS_MAX);
        let queue = Arc::new(Mutex::new(queue));
        for number in 0..count.max(1) {
            let queue = queue.clone();
            std::thread::Builder::new().name(format!("mesh-worker-{number}")).spawn(move || run(&queue)).map_err(
                |error| {
                    Error::new(ErrorKind::Overloaded, "no thread for a worker; lower the number of workers")
                        .caused_by(error)
                },
            )?;
        }
        Ok(Self(Some(tasks)))
    }

    /// No threads.
    #[must_use]
    pub const fn inline() -> Self {
        Self(None)
    }

    /// Gives a task to the next free thread.
    ///
    /// # Errors
    /// `Overloaded` if the queue is full; the task is dropped.
    pub fn give(&self, task: impl FnOnce() + Send + 'static) -> Result<(), Error> {
        let Some(tasks) = &self.0 else {
            task();
            return Ok(());
        };
        tasks.try_send(Box::new(task)).map_err(|error| match error {
            TrySendError::Full(_) => Error::new(ErrorKind::Overloaded, "every worker is busy; back off and send again"),
            TrySendError::Disconnected(_) => Error::bug("the workers are gone"),
        })
    }
}

impl Workers {
    /// Does something that may take long, or never end, on a thread of its own; without threads where it is asked for.
    ///
    /// # Errors
    /// `Bug` if it panics.
    pub async fn aside<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Error> {
        const BROKE_DOWN: &str = "what was done aside panicked";
        match &self.0 {
            Some(_) => tokio::task::spawn_blocking(work).await.map_err(|error| Error::bug(BROKE_DOWN).caused_by(error)),
            None => std::panic::catch_unwind(core::panic::AssertUnwindSafe(work)).map_err(|_| Error::bug(BROKE_DOWN)),
        }
    }

    /// Gives something back aside: that may take long, and nobody waits for it.
    pub(super) fn discard<T: Send + 'static>(&self, what: T) {
        if let (Some(_), Ok(runtime)) = (&self.0, tokio::runtime::Handle::try_current()) {
            runtime.spawn_blocking(move || drop(what));
        }
    }
}

fn run(queue: &Mutex<Receiver<Task>>) {
    loop {
        // The lock is held while waiting: the others wait for it instead of for the queue.
        let task = match queue.lock() {
            Ok(queue) => queue.recv(),
            Err(_) => return,
        };
        match task {
            Ok(task) => {
                // A task that panics owes an answer, which its completion gives when it is dropped.
                if std::panic::catch_unwind(core::panic::AssertUnwindSafe(task)).is_err() {
                    tracing::error!("a compute job panicked");
                }
            }
            Err(_) => return,
        }
    }
}

const QUEUE_TASKS_MAX: usize = 4096;
