//! Metadata groups in memory: a linearizable stand-in over the same state machine, for simulations and tests.
//!
//! Owns a table a group, and the view of the control group's. It answers at once and never fails by itself; who wants
//! faults puts them in front of it.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use mesh_core::{
    Error, ErrorKind,
    id::GroupId,
    meta::{Command, ControlView, MetaAnswer, Query},
    port::{Completion, Metadata},
    time::Instant,
};

use super::{state, table::MemoryTable};

/// The control group and the namespace groups 1 to `namespaces`, in memory. Clones share them.
#[derive(Clone, Debug)]
pub struct MemoryMetadata(Arc<Mutex<Groups>>);

#[derive(Debug, Default)]
struct Groups {
    tables: BTreeMap<GroupId, MemoryTable>,
    /// What the control group's table shows.
    control: Arc<ControlView>,
}

impl MemoryMetadata {
    /// Empty groups.
    #[must_use]
    pub fn new(namespaces: u16) -> Self {
        let tables = (0..=u64::from(namespaces)).map(|group| (GroupId(group), MemoryTable::default())).collect();
        Self(Arc::new(Mutex::new(Groups { tables, control: Arc::default() })))
    }

    /// Applies a command now.
    ///
    /// # Errors
    /// As [`Command`] names them; `Unreachable` for a group that is not there.
    pub fn propose(&self, command: &Command) -> Result<MetaAnswer, Error> {
        let group = command.group();
        let mut groups = self.lock();
        let Groups { tables, control } = &mut *groups;
        let table = tables.get_mut(&group).ok_or_else(|| no_such_group(group))?;
        let (changes, answer) = state::apply(table, group, command);
        if group == GroupId::CONTROL
            && let Some(after) = state::control_after(control, &changes)?
        {
            *control = Arc::new(after);
        }
        table.commit(changes);
        answer
    }

    /// Answers from the state of now.
    ///
    /// # Errors
    /// As [`Query`] names them; `Unreachable` for a group that is not there.
    pub fn query(&self, group: GroupId, query: &Query) -> Result<MetaAnswer, Error> {
        let groups = self.lock();
        let table = groups.tables.get(&group).ok_or_else(|| no_such_group(group))?;
        match query {
            Query::Control if group == GroupId::CONTROL => Ok(MetaAnswer::Control(Arc::clone(&groups.control))),
            _ => state::query(table, group, query),
        }
    }

    /// The control group's contents.
    ///
    /// # Errors
    /// None; who stands in for a replica may have some.
    pub fn control(&self) -> Result<Arc<ControlView>, Error> {
        Ok(Arc::clone(&self.lock().control))
    }

    /// A group's table as it is now, for checks.
    #[must_use]
    pub fn table(&self, group: GroupId) -> Option<MemoryTable> {
        self.lock().tables.get(&group).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, Groups> {
        // A panic inside cannot leave a table half changed: changes are committed after they are all known.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Metadata for MemoryMetadata {
    fn query(
        &self,
        group: GroupId,
        query: Arc<Query>,
        _deadline: Instant,
        done: Completion<Result<Arc<MetaAnswer>, Error>>,
    ) {
        done(Self::query(self, group, &query).map(Arc::new));
    }

    fn propose(&self, command: Arc<Command>, _deadline: Instant, done: Completion<Result<Arc<MetaAnswer>, Error>>) {
        done(Self::propose(self, &command).map(Arc::new));
    }
}

fn no_such_group(group: GroupId) -> Error {
    Error::new(ErrorKind::Unreachable, "this mesh has no such metadata group").with("group", group)
}
