//! Metadata groups in memory: a linearizable stand-in over the same state machine, for simulations and tests.
//!
//! Owns a table a group. It answers at once and never fails by itself; who wants faults puts them in front of it.

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
pub struct MemoryMetadata(Arc<Mutex<BTreeMap<GroupId, MemoryTable>>>);

impl MemoryMetadata {
    /// Empty groups.
    #[must_use]
    pub fn new(namespaces: u16) -> Self {
        let groups = (0..=u64::from(namespaces)).map(|group| (GroupId(group), MemoryTable::default())).collect();
        Self(Arc::new(Mutex::new(groups)))
    }

    /// Applies a command now.
    ///
    /// # Errors
    /// As [`Command`] names them; `Unreachable` for a group that is not there.
    pub fn propose(&self, group: GroupId, command: &Command) -> Result<MetaAnswer, Error> {
        let mut groups = self.lock();
        let table = groups.get_mut(&group).ok_or_else(|| no_such_group(group))?;
        let (changes, answer) = state::apply(table, group, command);
        table.commit(changes);
        answer
    }

    /// Answers from the state of now.
    ///
    /// # Errors
    /// As [`Query`] names them; `Unreachable` for a group that is not there.
    pub fn query(&self, group: GroupId, query: &Query) -> Result<MetaAnswer, Error> {
        let groups = self.lock();
        state::query(groups.get(&group).ok_or_else(|| no_such_group(group))?, group, query)
    }

    /// The control group's contents.
    ///
    /// # Errors
    /// `Corrupt` if a row cannot be read.
    pub fn control(&self) -> Result<Arc<ControlView>, Error> {
        let groups = self.lock();
        groups
            .get(&GroupId::CONTROL)
            .map_or_else(|| Ok(Arc::default()), |table| state::control_view(table).map(Arc::new))
    }

    /// A group's table as it is now, for checks.
    #[must_use]
    pub fn table(&self, group: GroupId) -> Option<MemoryTable> {
        self.lock().get(&group).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<GroupId, MemoryTable>> {
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

    fn propose(
        &self,
        group: GroupId,
        command: Arc<Command>,
        _deadline: Instant,
        done: Completion<Result<Arc<MetaAnswer>, Error>>,
    ) {
        done(Self::propose(self, group, &command).map(Arc::new));
    }
}

fn no_such_group(group: GroupId) -> Error {
    Error::new(ErrorKind::Unreachable, "this mesh has no such metadata group").with("group", group)
}
