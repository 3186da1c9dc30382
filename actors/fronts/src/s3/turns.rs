//! The turns of large reads: who waits for [`Pace`], tenant by tenant, and what shows whether the node is late.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Bound,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use mesh_core::id::TenantId;
use tokio::{
    runtime::Handle,
    sync::oneshot,
    time::{Instant, sleep},
};

use super::pace::Pace;

/// The turns of one node's large reads. Clones share them.
#[derive(Clone)]
pub(super) struct Turns(Arc<Mutex<State>>);

struct State {
    pace: Pace,
    /// In order for each tenant. Each has a stake in the node's memory, which bounds how many there are.
    waiting: BTreeMap<TenantId, VecDeque<Waiter>>,
    /// Whose turn was last.
    last: TenantId,
    /// Somebody looks how late tasks are.
    is_watched: bool,
    /// When the task that shows it was made, while it has not run.
    due: Option<Instant>,
    #[cfg(test)]
    small_ones: usize,
}

struct Waiter {
    bytes: usize,
    told: oneshot::Sender<Turn>,
}

/// A large read that is under way, until it is dropped.
pub(super) struct Turn {
    turns: Turns,
    bytes: usize,
    began: Instant,
}

impl Turns {
    /// At most so many bytes at once.
    pub(super) fn new(most: usize) -> Self {
        Self(Arc::new(Mutex::new(State {
            pace: Pace::new(most),
            waiting: BTreeMap::new(),
            last: TenantId(0),
            is_watched: false,
            due: None,
            #[cfg(test)]
            small_ones: 0,
        })))
    }

    /// Waits for the turn of a tenant's read of so many bytes: each tenant in turn, and those of one in order. Those before
    /// end by themselves, and so does the wait.
    pub(super) async fn turn(&self, tenant: TenantId, bytes: usize) -> Turn {
        let (told, turn) = oneshot::channel();
        {
            let mut state = self.lock();
            let queue = state.waiting.entry(tenant).or_default();
            // Those that were given up count no more.
            queue.retain(|waiter| !waiter.told.is_closed());
            queue.push_back(Waiter { bytes, told });
        }
        self.next();
        self.watch();
        match turn.await {
            Ok(turn) => turn,
            Err(_) => unreachable!("whoever waits is told, as long as it holds the turns itself"),
        }
    }

    /// Somebody asks for something small.
    pub(super) fn small(&self) {
        let mut state = self.lock();
        state.pace.small(Instant::now());
        #[cfg(test)]
        {
            state.small_ones += 1;
        }
    }

    #[cfg(test)]
    pub(super) fn small_ones(&self) -> usize {
        self.lock().small_ones
    }

    /// Lets begin who may.
    fn next(&self) {
        let now = Instant::now();
        loop {
            let Some(Waiter { bytes, told }) = self.lock().next(now) else { return };
            // One that is given up in this very moment gives it back by dropping it, which needs the lock.
            drop(told.send(Turn { turns: self.clone(), bytes, began: now }));
        }
    }

    /// As long as anything is under way, looks how late this node's tasks run: a thread makes one every now and then, which
    /// waits for its turn as any other that the network wakes.
    fn watch(&self) {
        if core::mem::replace(&mut self.lock().is_watched, true) {
            return;
        }
        let (turns, runtime) = (self.clone(), Handle::current());
        tokio::task::spawn_blocking(move || {
            while turns.sample(&runtime) {
                std::thread::sleep(SAMPLE);
            }
        });
    }

    /// Whether to go on.
    fn sample(&self, runtime: &Handle) -> bool {
        let made = Instant::now();
        let is_late = {
            let mut state = self.lock();
            if state.pace.is_idle() && state.waiting.is_empty() {
                state.is_watched = false;
                return false;
            }
            let before = state.due;
            state.due = before.or(Some(made));
            if let Some(before) = before {
                // The one before has not run yet.
                state.pace.ran(made - before, made);
            }
            before.is_some()
        };
        if !is_late {
            let turns = self.clone();
            runtime.spawn(async move {
                {
                    let now = Instant::now();
                    let mut state = turns.lock();
                    state.due = None;
                    state.pace.ran(now - made, now);
                }
                turns.next();
            });
        }
        true
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change is whole before anything can panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Who begins now.
    fn next(&mut self, now: Instant) -> Option<Waiter> {
        self.waiting.retain(|_, queue| {
            while queue.front().is_some_and(|waiter| waiter.told.is_closed()) {
                queue.pop_front();
            }
            !queue.is_empty()
        });
        let after = (Bound::Excluded(self.last), Bound::Unbounded);
        let tenant =
            self.waiting.range(after).chain(self.waiting.range(..=self.last)).map(|(tenant, _)| *tenant).next()?;
        let queue = self.waiting.get_mut(&tenant)?;
        if !self.pace.begin(queue.front()?.bytes, now) {
            return None;
        }
        self.last = tenant;
        queue.pop_front()
    }
}

impl Turn {
    /// The read has ended: the next one's turn comes after what rest there has to be.
    pub(super) async fn end(self) {
        let rest = self.turns.lock().pace.rest(self.began.elapsed());
        if rest > Duration::ZERO {
            sleep(rest).await;
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.turns.lock().pace.end(self.bytes);
        self.turns.next();
    }
}

/// From one look to the next.
const SAMPLE: Duration = Duration::from_millis(10);

#[cfg(test)]
mod tests {
    use tokio::task::{JoinHandle, yield_now};

    use super::*;

    const MIB: usize = 1 << 20;
    const ONE: TenantId = TenantId(1);
    const TWO: TenantId = TenantId(2);

    /// Asks for a turn, and writes its name down when it has had it.
    fn wait(
        turns: &Turns,
        tenant: TenantId,
        name: &'static str,
        ended: &Arc<Mutex<Vec<&'static str>>>,
    ) -> JoinHandle<()> {
        let (turns, ended) = (turns.clone(), ended.clone());
        tokio::spawn(async move {
            let turn = turns.turn(tenant, 4 * MIB).await;
            ended.lock().unwrap().push(name);
            turn.end().await;
        })
    }

    fn waiting(turns: &Turns) -> usize {
        turns.lock().waiting.values().map(VecDeque::len).sum()
    }

    #[tokio::test]
    async fn tenants_take_turns_and_of_those_that_wait_no_more_none_is_lost() {
        let turns = Turns::new(4 * MIB);
        let first = turns.turn(ONE, 4 * MIB).await;
        let ended = Arc::default();
        let waits = [(ONE, "a"), (ONE, "given up"), (ONE, "b"), (TWO, "c"), (TWO, "d")];
        let mut tasks = Vec::new();
        for (count, (tenant, name)) in waits.into_iter().enumerate() {
            tasks.push(wait(&turns, tenant, name, &ended));
            while waiting(&turns) <= count {
                yield_now().await;
            }
        }
        let given_up = tasks.remove(1);
        given_up.abort();
        assert!(given_up.await.is_err());
        for _ in 0..100 {
            yield_now().await;
        }
        assert_eq!(*ended.lock().unwrap(), [""; 0], "nobody begins before the first has ended");
        first.end().await;
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(*ended.lock().unwrap(), ["c", "a", "d", "b"]);
        assert!(turns.lock().pace.is_idle());
        // Nothing is under way, so nobody looks.
        while turns.lock().is_watched {
            yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_read_beside_small_ones_that_are_late_rests_before_the_next() {
        let turns = Turns::new(16 * MIB);
        turns.small();
        let now = Instant::now();
        for _ in 0..100 {
            turns.lock().pace.ran(Duration::from_secs(1), now);
        }
        let took = Duration::from_millis(50);
        let mut first = turns.turn(ONE, 4 * MIB).await;
        first.began = now.checked_sub(took).unwrap();
        let second = tokio::spawn({
            let turns = turns.clone();
            async move { (turns.turn(ONE, 4 * MIB).await, Instant::now()).1 }
        });
        first.end().await;
        assert!(second.await.unwrap() - now >= took / 2, "at least half of the time it rests");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn tasks_that_run_late_are_seen() {
        let turns = Turns::new(16 * MIB);
        turns.small();
        let read = turns.turn(ONE, 4 * MIB).await;
        assert!(!turns.lock().pace.is_narrow());
        // The one thread has no time for anybody else until the window has shrunk.
        let held = turns.clone();
        tokio::spawn(async move {
            while !held.lock().pace.is_narrow() {
                std::hint::spin_loop();
            }
        })
        .await
        .unwrap();
        read.end().await;
    }
}
