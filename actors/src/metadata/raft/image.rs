//! A group's state as it was at one moment, read piece by piece while the group goes on.
//!
//! sled has no snapshots; so whoever changes a row that an image has not read yet first puts the old value aside. An
//! image that would have to put aside too much breaks, and is begun again.

use std::{
    collections::BTreeMap,
    io,
    ops::ControlFlow,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{
    machine::{GroupState, into_io},
    rows::SledTable,
};
use crate::metadata::table::{Change, Table, View};

/// Old values that one image puts aside at most.
const ASIDE_BYTES_MAX: usize = 64 << 20;

/// A key and its value.
pub(super) type Row = (Vec<u8>, Vec<u8>);

/// What an image has read, and what changed under it.
#[derive(Debug, Default)]
pub(super) struct Aside {
    /// Rows below this are read.
    cursor: Vec<u8>,
    /// Rows at or above it as they were.
    old: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    bytes: usize,
    broken: bool,
}

impl Aside {
    /// Puts the old values of rows aside that are about to change.
    pub(super) fn keep(&mut self, table: &SledTable, changes: &[Change]) -> io::Result<()> {
        for change in changes {
            if self.broken || change.key < self.cursor || self.old.contains_key(&change.key) {
                continue;
            }
            let old = table.get(&change.key).map_err(into_io)?;
            self.bytes += change.key.len() + old.as_ref().map_or(0, Vec::len);
            self.old.insert(change.key.clone(), old);
            if self.bytes > ASIDE_BYTES_MAX {
                self.spoil();
            }
        }
        Ok(())
    }

    /// The state is no more: nothing further can be read.
    pub(super) fn spoil(&mut self) {
        self.broken = true;
        self.old.clear();
    }
}

/// A group's state at one moment.
#[derive(Clone)]
pub(in crate::metadata) struct Image {
    state: Arc<GroupState>,
    aside: Arc<Mutex<Aside>>,
}

impl Image {
    pub(super) const fn new(state: Arc<GroupState>, aside: Arc<Mutex<Aside>>) -> Self {
        Self { state, aside }
    }

    /// The next rows, about `bytes_max` of them, at least one. None: the image is read.
    pub(super) fn next_rows(&self, bytes_max: usize) -> io::Result<Vec<Row>> {
        self.state.with_table(|table| {
            let mut aside = lock(&self.aside);
            if aside.broken {
                return Err(io::Error::other("the state changed too much while it was read; it is read again"));
            }
            let (mut rows, mut bytes) = (Vec::<Row>::new(), 0);
            let cursor = core::mem::take(&mut aside.cursor);
            let view = View::over(table, core::mem::take(&mut aside.old));
            let scanned = view.scan(&cursor, &[0xff], &mut |key, value| {
                rows.push((key.to_vec(), value.to_vec()));
                bytes += key.len() + value.len();
                Ok(if bytes < bytes_max { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
            });
            aside.cursor = match rows.last() {
                Some((key, _)) => [key.as_slice(), &[0]].concat(),
                None => vec![0xff],
            };
            aside.old = view.into_overlay().split_off(&aside.cursor);
            aside.bytes = aside.old.iter().map(|(key, old)| key.len() + old.as_ref().map_or(0, Vec::len)).sum();
            scanned.map_err(into_io)?;
            Ok(rows)
        })
    }
}

pub(super) fn lock(aside: &Mutex<Aside>) -> MutexGuard<'_, Aside> {
    aside.lock().unwrap_or_else(PoisonError::into_inner)
}
