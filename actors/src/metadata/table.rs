//! The ordered table under a group's state: what the state machine reads, and the changes it gives back.
//!
//! Owns the [`Table`] trait, its in-memory form, and [`View`]: a table with changes laid over it, through which one
//! command reads what it wrote itself. Knows nothing of rows.

use std::{
    collections::{BTreeMap, btree_map},
    ops::{Bound, ControlFlow},
};

use mesh_core::Error;

/// Called with each row in ascending order of keys; `Break` ends the scan.
pub type Visit<'v> = &'v mut dyn FnMut(&[u8], &[u8]) -> Result<ControlFlow<()>, Error>;

/// An ordered map of bytes to bytes.
pub trait Table {
    /// The value under a key.
    ///
    /// # Errors
    /// `DriveFailed` or `Corrupt` if the medium fails: whatever was to be decided must not be decided.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error>;

    /// Visits rows with `from <= key < to` in ascending order until there are no more or `visit` breaks.
    ///
    /// # Errors
    /// As [`Table::get`], and what `visit` fails with.
    fn scan(&self, from: &[u8], to: &[u8], visit: Visit<'_>) -> Result<(), Error>;
}

/// One row's new value; `None` removes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The key.
    pub key: Vec<u8>,
    /// The value, if the row is to be there.
    pub value: Option<Vec<u8>>,
}

/// A table in memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryTable(BTreeMap<Vec<u8>, Vec<u8>>);

impl MemoryTable {
    /// Makes changes, in order.
    pub fn commit(&mut self, changes: Vec<Change>) {
        for change in changes {
            match change.value {
                Some(value) => self.0.insert(change.key, value),
                None => self.0.remove(&change.key),
            };
        }
    }

    /// The rows, ascending.
    pub fn rows(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.0.iter().map(|(key, value)| (key.as_slice(), value.as_slice()))
    }
}

impl Table for MemoryTable {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        Ok(self.0.get(key).cloned())
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: Visit<'_>) -> Result<(), Error> {
        if from >= to {
            return Ok(());
        }
        for (key, value) in self.0.range::<[u8], _>((Bound::Included(from), Bound::Excluded(to))) {
            if visit(key, value)?.is_break() {
                break;
            }
        }
        Ok(())
    }
}

/// A table with changes laid over it. Nothing reaches the table itself.
pub struct View<'t> {
    table: &'t dyn Table,
    changes: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
}

impl core::fmt::Debug for View<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("View").field("changes", &self.changes).finish_non_exhaustive()
    }
}

impl<'t> View<'t> {
    /// The table as it is.
    #[must_use]
    pub fn new(table: &'t dyn Table) -> Self {
        Self { table, changes: BTreeMap::new() }
    }

    /// The table with an overlay by key; see [`View::into_overlay`].
    #[must_use]
    pub fn over(table: &'t dyn Table, overlay: BTreeMap<Vec<u8>, Option<Vec<u8>>>) -> Self {
        Self { table, changes: overlay }
    }

    /// Lays changes over the table.
    pub fn lay(&mut self, changes: Vec<Change>) {
        self.changes.extend(changes.into_iter().map(|change| (change.key, change.value)));
    }

    /// Lays a value over a row.
    pub fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.changes.insert(key, Some(value));
    }

    /// Lays a hole over a row.
    pub fn remove(&mut self, key: Vec<u8>) {
        self.changes.insert(key, None);
    }

    /// Whether something that was laid over the table is another than it has there.
    ///
    /// # Errors
    /// As [`Table::get`].
    pub fn changes_something(&self) -> Result<bool, Error> {
        for (key, value) in &self.changes {
            if self.table.get(key)? != *value {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// What was laid over the table, by key.
    #[must_use]
    pub fn into_overlay(self) -> BTreeMap<Vec<u8>, Option<Vec<u8>>> {
        self.changes
    }

    /// What was laid over the table, ascending by key.
    #[must_use]
    pub fn into_changes(self) -> Vec<Change> {
        self.changes.into_iter().map(|(key, value)| Change { key, value }).collect()
    }
}

/// Visits the changes below `bound` (all of them if it is `None`); they are taken off the iterator.
fn visit_changes(
    changes: &mut core::iter::Peekable<btree_map::Range<'_, Vec<u8>, Option<Vec<u8>>>>,
    bound: Option<&[u8]>,
    visit: Visit<'_>,
) -> Result<ControlFlow<()>, Error> {
    while let Some((key, value)) = changes.next_if(|(key, _)| bound.is_none_or(|bound| key.as_slice() < bound)) {
        if let Some(value) = value
            && visit(key, value)?.is_break()
        {
            return Ok(ControlFlow::Break(()));
        }
    }
    Ok(ControlFlow::Continue(()))
}

impl Table for View<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        match self.changes.get(key) {
            Some(value) => Ok(value.clone()),
            None => self.table.get(key),
        }
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: Visit<'_>) -> Result<(), Error> {
        if from >= to {
            return Ok(());
        }
        let mut changes = self.changes.range::<[u8], _>((Bound::Included(from), Bound::Excluded(to))).peekable();
        let mut broken = false;
        self.table.scan(from, to, &mut |key, value| {
            let mut flow = visit_changes(&mut changes, Some(key), visit)?;
            if flow.is_continue() {
                flow = match changes.next_if(|(changed, _)| changed.as_slice() == key) {
                    Some((_, Some(changed))) => visit(key, changed)?,
                    Some((_, None)) => ControlFlow::Continue(()),
                    None => visit(key, value)?,
                };
            }
            broken = flow.is_break();
            Ok(flow)
        })?;
        if !broken {
            // A break has no meaning here: nothing is left to visit.
            visit_changes(&mut changes, None, visit).map(|_| ())?;
        }
        Ok(())
    }
}
