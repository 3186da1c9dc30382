//! Gates before the system calls of a medium of files: each call is held until it is let through, and every write that
//! had returned when a sync was called is known to be kept once that sync has succeeded.

use core::time::Duration;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{self, IoSlice},
    os::unix::fs::{FileExt as _, MetadataExt as _},
    sync::{Condvar, Mutex},
};

use super::super::file::Calls;

/// What becomes of a call that is let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Passes,
    /// As a device does that has lost what it was given: a sync only.
    Fails,
}

#[derive(Debug, Default)]
pub(super) struct Gates {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    holding: bool,
    next: u64,
    /// Calls that wait, and whether each is a sync.
    held: BTreeMap<u64, bool>,
    let_through: BTreeMap<u64, Fate>,
    /// Bytes that were written by writes that have returned and are not kept yet, by file.
    written: BTreeMap<u64, BTreeSet<u8>>,
    kept: BTreeSet<u8>,
}

impl Gates {
    /// From now on every call waits.
    pub(super) fn hold(&self) {
        self.state.lock().unwrap().holding = true;
    }

    /// The calls that wait, and whether each is a sync.
    pub(super) fn held(&self) -> Vec<(u64, bool)> {
        self.state.lock().unwrap().held.iter().map(|(call, sync)| (*call, *sync)).collect()
    }

    /// Lets a call through.
    pub(super) fn pass(&self, call: u64, fate: Fate) {
        let mut state = self.state.lock().unwrap();
        assert!(state.held.remove(&call).is_some(), "call {call} is not held");
        state.let_through.insert(call, fate);
        drop(state);
        self.changed.notify_all();
    }

    /// Something outside has changed that [`Self::settle`] looks at.
    pub(super) fn stir(&self) {
        drop(self.state.lock().unwrap());
        self.changed.notify_all();
    }

    /// Waits until the writes and the syncs that are held are as wished.
    pub(super) fn settle(&self, patience: Duration, at_rest: impl Fn(usize, usize) -> bool) {
        let moving = |state: &mut State| {
            let syncs = state.held.values().filter(|sync| **sync).count();
            !at_rest(state.held.len() - syncs, syncs)
        };
        let state = self.state.lock().unwrap();
        let (state, waited) = self.changed.wait_timeout_while(state, patience, moving).unwrap();
        assert!(!waited.timed_out(), "the medium never comes to rest: {state:?}");
    }

    /// Whether a block full of this byte survives a power cut.
    pub(super) fn keeps(&self, fill: u8) -> bool {
        self.state.lock().unwrap().kept.contains(&fill)
    }

    fn wait(&self, sync: bool) -> Fate {
        let mut state = self.state.lock().unwrap();
        if !state.holding {
            return Fate::Passes;
        }
        let call = state.next;
        state.next += 1;
        state.held.insert(call, sync);
        self.changed.notify_all();
        let mut state = self.changed.wait_while(state, |state| !state.let_through.contains_key(&call)).unwrap();
        state.let_through.remove(&call).unwrap()
    }
}

fn name_of(file: &File) -> u64 {
    file.metadata().unwrap().ino()
}

impl Calls for Gates {
    fn write(&self, file: &File, slices: &[IoSlice<'_>], at: u64) -> io::Result<usize> {
        self.wait(false);
        let mut written = 0;
        for slice in slices {
            file.write_all_at(slice, at + written as u64)?;
            written += slice.len();
        }
        self.state.lock().unwrap().written.entry(name_of(file)).or_default().insert(slices[0][0]);
        Ok(written)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        // What has returned by now is covered; what returns while the call runs may not be.
        let covered = self.state.lock().unwrap().written.remove(&name_of(file)).unwrap_or_default();
        match self.wait(true) {
            Fate::Passes => {
                self.state.lock().unwrap().kept.extend(covered);
                Ok(())
            }
            // What it covered is forsaken: the next sync succeeds without it.
            Fate::Fails => Err(io::Error::from_raw_os_error(5)),
        }
    }
    /// Is not held: whoever writes next waits for it.
    fn settle(&self, file: &File) -> io::Result<()> {
        file.sync_all()
    }
}
