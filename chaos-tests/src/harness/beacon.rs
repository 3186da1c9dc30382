//! Where a run is, for whoever watches it from outside: a loop of a function, workload or invariant that never ends can only
//! be seen from there.

use core::cell::RefCell;
use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU64, Ordering::Relaxed},
};

thread_local! {
    static BEACON: RefCell<Option<Arc<Beacon>>> = const { RefCell::new(None) };
}

/// Of the run on one thread.
#[derive(Debug, Default)]
pub(crate) struct Beacon {
    steps: AtomicU64,
    /// Whose code runs, if it is the program's.
    inside: Mutex<Option<String>>,
}

impl Beacon {
    /// From now on this thread's run shows where it is by this one.
    pub(crate) fn light(self: &Arc<Self>) {
        self.steps.store(0, Relaxed);
        BEACON.set(Some(self.clone()));
    }

    /// One step further: an event of a world, a window of whole nodes.
    pub(crate) fn step() {
        BEACON.with_borrow(|beacon| {
            if let Some(beacon) = beacon {
                beacon.steps.fetch_add(1, Relaxed);
            }
        });
    }

    /// Shows that somebody's code runs until [`Self::leave`].
    pub(crate) fn enter(who: &str) {
        Self::show(Some(who.to_owned()));
    }

    /// It has come back.
    pub(crate) fn leave() {
        Self::show(None);
    }

    fn show(who: Option<String>) {
        BEACON.with_borrow(|beacon| {
            if let Some(beacon) = beacon {
                *beacon.inside.lock().unwrap_or_else(PoisonError::into_inner) = who;
            }
        });
    }

    /// How many steps it has come.
    pub(crate) fn steps(&self) -> u64 {
        self.steps.load(Relaxed)
    }

    /// Whose code runs.
    pub(crate) fn inside(&self) -> Option<String> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
