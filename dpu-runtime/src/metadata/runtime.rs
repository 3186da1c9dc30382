//! tokio, as Raft's runtime, with random numbers from the node's own source: how long a follower waits for its leader is
//! drawn from it. So nothing in a replica comes from anywhere but its node.

use core::{convert::Infallible, future::Future, time::Duration};
use std::sync::{Arc, Mutex};

use mesh_core::Entropy;
use openraft::{AsyncRuntime, OptionalSend};
use openraft_rt_tokio::TokioRuntime;
use rand::{TryRng, rngs::ThreadRng};

use super::flush::lock;

tokio::task_local! {
    static DICE: Dice;
}

/// A source of random numbers that a replica's tasks share.
#[derive(Clone)]
pub(crate) struct Dice(Arc<Mutex<Box<dyn Entropy>>>);

impl Dice {
    pub(super) fn new(entropy: Box<dyn Entropy>) -> Self {
        Self(Arc::new(Mutex::new(entropy)))
    }

    /// Fills `target`.
    pub(super) fn fill(&self, target: &mut [u8]) {
        lock(&self.0).fill(target);
    }

    /// Lets Raft's tasks that begin in this future, and those that they begin, draw from it.
    pub(super) async fn scope<F: Future>(self, future: F) -> F::Output {
        DICE.scope(self, future).await
    }
}

/// What Raft draws from: its node's source, or in a task that is no replica's the thread's.
pub(crate) enum Throws {
    Node(Dice),
    Thread(ThreadRng),
}

impl TryRng for Throws {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        let mut bytes = [0; 4];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let mut bytes = [0; 8];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, target: &mut [u8]) -> Result<(), Infallible> {
        match self {
            Self::Node(dice) => {
                dice.fill(target);
                Ok(())
            }
            Self::Thread(thread) => thread.try_fill_bytes(target),
        }
    }
}

/// Raft's runtime.
#[derive(Debug)]
pub(crate) struct Runtime(TokioRuntime);

impl AsyncRuntime for Runtime {
    type JoinError = <TokioRuntime as AsyncRuntime>::JoinError;
    type JoinHandle<T: OptionalSend + 'static> = <TokioRuntime as AsyncRuntime>::JoinHandle<T>;
    type Sleep = <TokioRuntime as AsyncRuntime>::Sleep;
    type Instant = <TokioRuntime as AsyncRuntime>::Instant;
    type TimeoutError = <TokioRuntime as AsyncRuntime>::TimeoutError;
    type Timeout<R, T: Future<Output = R> + OptionalSend> = <TokioRuntime as AsyncRuntime>::Timeout<R, T>;
    type ThreadLocalRng = Throws;
    type Mpsc = <TokioRuntime as AsyncRuntime>::Mpsc;
    type Watch = <TokioRuntime as AsyncRuntime>::Watch;
    type Oneshot = <TokioRuntime as AsyncRuntime>::Oneshot;
    type Mutex<T: OptionalSend + 'static> = <TokioRuntime as AsyncRuntime>::Mutex<T>;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        match DICE.try_with(Dice::clone) {
            Ok(dice) => TokioRuntime::spawn(DICE.scope(dice, future)),
            Err(_) => TokioRuntime::spawn(future),
        }
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        TokioRuntime::sleep(duration)
    }

    fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
        TokioRuntime::sleep_until(deadline)
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(duration: Duration, future: F) -> Self::Timeout<R, F> {
        TokioRuntime::timeout(duration, future)
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(deadline: Self::Instant, future: F) -> Self::Timeout<R, F> {
        TokioRuntime::timeout_at(deadline, future)
    }

    fn is_panic(error: &Self::JoinError) -> bool {
        TokioRuntime::is_panic(error)
    }

    fn thread_rng() -> Throws {
        DICE.try_with(Dice::clone).map_or_else(|_| Throws::Thread(rand::rng()), Throws::Node)
    }

    fn new(threads: usize) -> Self {
        Self(TokioRuntime::new(threads))
    }

    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        self.0.block_on(future)
    }
}
