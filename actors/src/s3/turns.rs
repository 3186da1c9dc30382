//! The turns of large reads: who waits for [`Pace`], and the clock that it goes by.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::oneshot,
    time::{Instant, sleep, sleep_until},
};

use super::pace::Pace;

/// The turns of one node's large reads. Clones share them.
#[derive(Clone)]
pub(super) struct Turns(Arc<Mutex<State>>);

struct State {
    pace: Pace,
    /// In order. Each has a stake in the node's memory, which bounds how many there are.
    waiting: VecDeque<(usize, oneshot::Sender<Turn>)>,
    /// Somebody looks how late tasks are.
    is_watched: bool,
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
        Self(Arc::new(Mutex::new(State { pace: Pace::new(most), waiting: VecDeque::new(), is_watched: false })))
    }

    /// Waits for the turn of a read of so many bytes. Those before end by themselves, and so does the wait.
    pub(super) async fn turn(&self, bytes: usize) -> Turn {
        let (told, turn) = oneshot::channel();
        self.lock().waiting.push_back((bytes, told));
        self.next();
        self.watch();
        match turn.await {
            Ok(turn) => turn,
            Err(_) => unreachable!("whoever waits is told, as long as it holds the turns itself"),
        }
    }

    /// Somebody asks for something small.
    pub(super) fn small(&self) {
        self.lock().pace.small(Instant::now());
    }

    /// Lets begin who may.
    fn next(&self) {
        loop {
            let (told, bytes) = {
                let mut state = self.lock();
                let Some(&(bytes, _)) = state.waiting.front() else { return };
                if !state.pace.begin(bytes) {
                    return;
                }
                let Some((bytes, told)) = state.waiting.pop_front() else { return };
                (told, bytes)
            };
            // One that waits no more gives it back by dropping it, which needs the lock.
            drop(told.send(Turn { turns: self.clone(), bytes, began: Instant::now() }));
        }
    }

    /// As long as anything is under way, measures how late this node's tasks run.
    fn watch(&self) {
        if core::mem::replace(&mut self.lock().is_watched, true) {
            return;
        }
        let turns = self.clone();
        tokio::spawn(async move {
            loop {
                let due = Instant::now() + SAMPLE;
                sleep_until(due).await;
                let now = Instant::now();
                {
                    let mut state = turns.lock();
                    state.pace.ran(now - due, now);
                    if state.pace.is_idle() && state.waiting.is_empty() {
                        state.is_watched = false;
                        return;
                    }
                }
                turns.next();
            }
        });
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change is whole before anything can panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
    use super::*;

    const MIB: usize = 1 << 20;

    #[tokio::test]
    async fn a_read_beside_small_ones_that_are_late_rests_before_the_next() {
        let turns = Turns::new(16 * MIB);
        turns.small();
        let now = Instant::now();
        for _ in 0..100 {
            turns.lock().pace.ran(Duration::from_secs(1), now);
        }
        let mut first = turns.turn(4 * MIB).await;
        let took = Duration::from_millis(20);
        first.began = now.checked_sub(took).unwrap();
        let second = tokio::spawn({
            let turns = turns.clone();
            async move { (turns.turn(4 * MIB).await, Instant::now()).1 }
        });
        first.end().await;
        assert!(second.await.unwrap() - now >= 3 * took, "a quarter of the time");
    }

    #[tokio::test]
    async fn turns_come_in_order_and_of_those_that_wait_no_more_none_is_lost() {
        let turns = Turns::new(8 * MIB);
        let first = turns.turn(4 * MIB).await;
        let second = turns.turn(4 * MIB).await;
        let given_up = tokio::spawn({
            let turns = turns.clone();
            async move { turns.turn(4 * MIB).await.end().await }
        });
        let waits = tokio::spawn({
            let turns = turns.clone();
            async move { turns.turn(8 * MIB).await.end().await }
        });
        while turns.lock().waiting.len() < 2 {
            tokio::task::yield_now().await;
        }
        given_up.abort();
        assert!(given_up.await.is_err());
        first.end().await;
        assert!(!waits.is_finished());
        second.end().await;
        waits.await.unwrap();
        assert!(turns.lock().pace.is_idle());
        // Nothing is under way, so nobody looks.
        while turns.lock().is_watched {
            tokio::task::yield_now().await;
        }
    }
}
