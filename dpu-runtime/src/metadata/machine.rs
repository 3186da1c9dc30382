//! A group's replica of the state: applies what Raft committed, answers questions, gives and takes snapshots.
//!
//! Owns the state tree in use, and the view of it if it is the control group's: each batch that is applied makes the next
//! view out of the one before, and is told once; of a namespace group it knows how far that is with repair. A snapshot that
//! arrives is built in a tree of the next generation; then one small durable write makes that one the tree in use. So a crash
//! leaves the old state or the new one, and what is left of the other is dropped when the group is opened.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, Weak},
};

use futures_util::{Stream, TryStreamExt};
use mesh_actors::metadata::{
    state,
    table::{Change, View},
};
use mesh_core::{
    Error, ErrorKind,
    id::GroupId,
    meta::{ControlView, MetaAnswer, Query, RepairState},
    op::{History, Recovery},
};
use openraft::{
    EntryPayload, OptionalSend, RaftSnapshotBuilder, StoredMembership,
    alias::SnapshotOf,
    entry::RaftEntry,
    storage::{ApplyResponder, EntryResponder, RaftStateMachine, Snapshot},
};
use tokio::sync::watch;

use super::{
    flush::lock,
    image::{self, Aside, Image, Sending},
    line::Line,
    log::LogStore,
    rows::TreeTable,
    staging::Staged,
    store::{Slot, Store},
    types::{Applied, LogId, Membership, SnapshotMeta, Types},
};

/// Entries that are applied in one batch at most.
const APPLY_BATCH_MAX: usize = 256;
/// Rows that are copied at once when a snapshot is taken from an image.
const COPY_BYTES: usize = 1 << 20;

/// The state of one group on this node.
pub(crate) struct GroupState {
    group: GroupId,
    store: Arc<Store>,
    current: RwLock<Current>,
    sending: Arc<Sending>,
    /// How far a namespace group is with repair; none where that cannot be read. Who asks waits for nobody who reads or writes
    /// the table.
    repair: Mutex<Option<RepairState>>,
    line: Arc<Line>,
    /// The control group's contents, for whoever wants to know, from this entry on.
    control: Option<(watch::Sender<Arc<ControlView>>, u64)>,
}

struct Current {
    generation: u64,
    table: TreeTable,
    applied: Option<LogId>,
    membership: Membership,
    images: Vec<Weak<Mutex<Aside>>>,
    /// Of the next image.
    image: u64,
    /// What the control group's table shows; none for another group.
    view: Option<Arc<ControlView>>,
}

impl GroupState {
    /// Opens a group's state; what an interrupted snapshot left is dropped.
    ///
    /// # Errors
    /// `InvalidData` if the group is damaged.
    pub(super) fn open(
        store: Arc<Store>,
        group: GroupId,
        control: Option<(watch::Sender<Arc<ControlView>>, u64)>,
    ) -> io::Result<Arc<Self>> {
        store.sound(group)?;
        let generation: u64 = store.read(group, Slot::Generation)?.unwrap_or(0);
        let name = tree_name(group, generation);
        for other in [tree_prefix(group), image::tree_prefix(group)].iter().flat_map(|prefix| store.trees_under(prefix))
        {
            if other != name {
                store.drop_tree(&other)?;
            }
        }
        let table = TreeTable::new(store.tree(&name)?);
        let (applied, membership) = store.heed(group, table.applied())?;
        let view = control.is_some().then(|| view_of(&table)).transpose()?;
        let current = Current { generation, table, applied, membership, images: Vec::new(), image: 0, view };
        let repair = Mutex::new(repair_of(group, &current.table));
        let line = Arc::new(Line::new(store.heed(group, history_of(group, &current.table))?));
        let (current, sending) = (RwLock::new(current), Arc::default());
        let state = Self { group, store, current, sending, repair, line, control };
        state.publish();
        Ok(Arc::new(state))
    }

    pub(super) const fn group(&self) -> GroupId {
        self.group
    }

    /// Answers from what is applied now. Whether that is fresh enough is the caller's to know.
    pub(super) fn query(&self, query: &Query) -> Result<MetaAnswer, Error> {
        self.store.sound(self.group).map_err(stopped)?;
        if matches!(query, Query::Control)
            && let Some(view) = &self.read().view
        {
            return Ok(MetaAnswer::Control(Arc::clone(view)));
        }
        let answer = self.with_table(|table| state::query(table, self.group, query));
        if let Err(error) = &answer
            && error.kind() == ErrorKind::Corrupt
        {
            self.store.note(self.group, &error.to_string());
        }
        answer
    }

    /// Looks at the table; nothing changes meanwhile.
    pub(super) fn with_table<T>(&self, look: impl FnOnce(&TreeTable) -> T) -> T {
        look(&self.read().table)
    }

    fn read(&self) -> RwLockReadGuard<'_, Current> {
        self.current.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// An empty tree for a snapshot that arrives.
    pub(super) fn stage(&self) -> io::Result<Staged> {
        let generation = self.read().generation + 1;
        let name = tree_name(self.group, generation);
        self.store.drop_tree(&name)?;
        Ok(Staged { generation, table: TreeTable::new(self.store.tree(&name)?) })
    }

    pub(super) fn position(&self) -> (Option<LogId>, Membership) {
        let current = self.read();
        (current.applied, current.membership.clone())
    }

    /// The state as it is now, to be read later.
    pub(super) fn image(self: &Arc<Self>) -> io::Result<SnapshotOf<Types, SnapshotData>> {
        self.store.sound(self.group)?;
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        let digest = self.store.heed(self.group, current.table.digest())?;
        let name = format!("{}{:016x}", image::tree_prefix(self.group), current.image);
        current.image += 1;
        let aside = Aside::new(Arc::clone(&self.store), name, Arc::clone(&self.sending));
        let aside = Arc::new(Mutex::new(aside));
        current.images.retain(|image| image.strong_count() > 0);
        current.images.push(Arc::downgrade(&aside));
        let meta = SnapshotMeta { last_log_id: current.applied, last_membership: current.membership.clone() };
        Ok(Snapshot { meta, snapshot: SnapshotData::Image(Image::new(Arc::clone(self), aside, digest)) })
    }

    /// Passes on what was read; if it tells of damage, the group is damaged from now on.
    pub(super) fn heed<T>(&self, outcome: io::Result<T>) -> io::Result<T> {
        self.store.heed(self.group, outcome)
    }

    /// Applies entries in one batch, then tells who proposed them.
    fn apply(&self, entries: Vec<EntryResponder<Types>>) -> io::Result<()> {
        self.store.sound(self.group)?;
        self.store.heed(self.group, self.apply_sound(entries))
    }

    fn apply_sound(&self, entries: Vec<EntryResponder<Types>>) -> io::Result<()> {
        let (mut applied, mut membership) = self.position();
        let mut told: Vec<(ApplyResponder<Types>, Applied)> = Vec::new();
        let table = self.with_table(TreeTable::clone);
        let mut view = View::new(&table);
        for (entry, responder) in entries {
            applied = Some(entry.log_id());
            let said = match entry.payload {
                EntryPayload::Blank => Applied::Nothing,
                EntryPayload::Normal(proposal) => self.decide(&mut view, &proposal.0)?,
                EntryPayload::Membership(members) => {
                    membership = StoredMembership::new(applied, members);
                    Applied::Nothing
                }
            };
            told.extend(responder.map(|responder| (responder, said)));
        }
        let changes = view.into_changes();
        self.commit(&changes, applied, membership)?;
        self.publish();
        told.into_iter().for_each(|(responder, said)| responder.send(said));
        Ok(())
    }

    fn decide(&self, view: &mut View<'_>, command: &mesh_core::meta::Command) -> io::Result<Applied> {
        let (changes, answer) = state::apply(view, self.group, command);
        view.lay(changes);
        match answer {
            Ok(answer) => Ok(Applied::Answer(Arc::new(answer))),
            // The table could not be read: other replicas may decide otherwise, so this one must stop.
            Err(error) if matches!(error.kind(), ErrorKind::DriveFailed | ErrorKind::Corrupt | ErrorKind::Bug) => {
                Err(into_io(error))
            }
            Err(error) => Ok(Applied::Refused(error)),
        }
    }

    /// What changes in the state by all that is in the log, agreed on or not, and by a recovery.
    ///
    /// # Errors
    /// What [`state::recover`] refuses; `InvalidData` if something is damaged.
    pub(super) fn recovered(&self, log: &LogStore, recovery: &Recovery) -> io::Result<Vec<Change>> {
        let table = self.with_table(TreeTable::clone);
        let mut view = View::new(&table);
        let mut next = self.applied_index().map_or(0, |applied| applied + 1);
        loop {
            let entries = log.entries_from(next)?;
            let Some(last) = entries.last() else { break };
            next = last.index() + 1;
            for entry in entries {
                if let EntryPayload::Normal(proposal) = entry.payload {
                    drop(self.decide(&mut view, &proposal.0)?);
                }
            }
        }
        let changes = state::recover(&view, self.group, recovery).map_err(into_io)?;
        view.lay(changes);
        Ok(view.into_changes())
    }

    pub(super) fn commit(&self, changes: &[Change], applied: Option<LogId>, membership: Membership) -> io::Result<()> {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        current.images.retain(|image| image.strong_count() > 0);
        for aside in current.images.iter().filter_map(Weak::upgrade) {
            lock(&aside).keep(&current.table, changes)?;
        }
        let view = current.view.as_ref().map(|before| state::control_after(before, changes)).transpose();
        let view = view.map_err(into_io)?.flatten();
        let repair = state::repair_after(changes).map_err(into_io)?;
        current.table.commit(changes, Some((&applied, &membership)))?;
        current.applied = applied;
        current.membership = membership;
        if let Some(after) = view {
            current.view = Some(Arc::new(after));
        }
        if repair.is_some() {
            *lock(&self.repair) = repair;
        }
        self.store.claim(self.group, |claim| claim.applied = applied);
        Ok(())
    }

    /// Makes a staged tree the one in use.
    async fn install(&self, meta: &SnapshotMeta, staged: Staged) -> io::Result<()> {
        let Staged { generation, table } = staged;
        let view = self.control.is_some().then(|| view_of(&table)).transpose()?;
        let history = history_of(self.group, &table)?;
        table.commit(&[], Some((&meta.last_log_id, &meta.last_membership)))?;
        self.store.sync().await?;
        self.store.write(self.group, Slot::Generation, &generation)?;
        self.store.claim(self.group, |claim| {
            claim.generation = generation;
            claim.applied = meta.last_log_id;
        });
        self.store.sync().await?;
        let old = {
            let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
            current.images.drain(..).filter_map(|image| image.upgrade()).for_each(|aside| lock(&aside).spoil());
            current.applied = meta.last_log_id;
            current.membership = meta.last_membership.clone();
            *lock(&self.repair) = repair_of(self.group, &table);
            self.line.turn_to(history);
            current.table = table;
            current.view = view;
            core::mem::replace(&mut current.generation, generation)
        };
        self.publish();
        self.store.drop_tree(&tree_name(self.group, old))
    }

    /// How far a namespace group is with repair, as it is applied here; none if that is not known.
    pub(super) fn repair(&self) -> Option<RepairState> {
        *lock(&self.repair)
    }

    /// What the state went through.
    pub(super) fn history(&self) -> History {
        self.line.own()
    }

    /// Of which timeline it is, and who writes to it.
    pub(super) fn line(&self) -> &Arc<Line> {
        &self.line
    }

    /// The last entry that was applied.
    pub(super) fn applied_index(&self) -> Option<u64> {
        self.position().0.map(|applied| applied.index)
    }

    /// Tells who watches the control group, if there is news.
    fn publish(&self) {
        let (view, index) = {
            let current = self.read();
            (current.view.clone(), current.applied.map_or(0, |applied| applied.index))
        };
        if let (Some((control, from)), Some(view)) = (&self.control, view)
            && index >= *from
        {
            control.send_if_modified(|told| {
                let is_news = !Arc::ptr_eq(told, &view);
                *told = view;
                is_news
            });
        }
    }
}

/// A snapshot's contents: an image of the state here, or what arrived from elsewhere.
pub(crate) enum SnapshotData {
    /// To be sent.
    Image(Image),
    /// To be installed.
    Staged(Staged),
}

/// A group's state, as Raft wants it.
#[derive(Clone)]
pub(crate) struct Machine(pub(super) Arc<GroupState>);

impl RaftSnapshotBuilder<Types> for Machine {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> Result<SnapshotOf<Types, SnapshotData>, io::Error> {
        let snapshot = self.0.image()?;
        // Raft purges the log behind a snapshot: the state must be durable first.
        self.0.store.sync().await?;
        Ok(snapshot)
    }
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, Membership), io::Error> {
        Ok(self.0.position())
    }

    async fn apply<S>(&mut self, mut entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<Types>, io::Error>> + Unpin + OptionalSend,
    {
        loop {
            let mut batch = Vec::new();
            while batch.len() < APPLY_BATCH_MAX
                && let Some(entry) = entries.try_next().await?
            {
                batch.push(entry);
            }
            if batch.is_empty() {
                return Ok(());
            }
            self.0.apply(batch)?;
        }
    }

    /// Refused while somebody needs the log: with a snapshot Raft purges it, and who just got an image would need
    /// another one at once, for ever.
    async fn try_create_snapshot_builder(&mut self, force: bool) -> Option<Self> {
        (force || !self.0.sending.needs_log(tokio::time::Instant::now())).then(|| self.clone())
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: SnapshotData) -> Result<(), io::Error> {
        let staged = match snapshot {
            SnapshotData::Staged(staged) => staged,
            SnapshotData::Image(image) => {
                let staged = self.0.stage()?;
                loop {
                    let rows = image.next_rows(COPY_BYTES)?;
                    if rows.is_empty() {
                        break staged.expect(image.digest())?;
                    }
                    staged.take(rows)?;
                }
            }
        };
        self.0.install(meta, staged).await
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<SnapshotOf<Types, SnapshotData>>, io::Error> {
        let (applied, _) = self.0.position();
        applied.map(|_| self.0.image()).transpose()
    }
}

/// As Raft's storage wants errors: damage stays damage.
pub(super) fn into_io(error: Error) -> io::Error {
    match error.kind() {
        ErrorKind::Corrupt => io::Error::new(io::ErrorKind::InvalidData, error),
        _ => io::Error::other(error),
    }
}

fn view_of(table: &TreeTable) -> io::Result<Arc<ControlView>> {
    state::control_view(table).map(Arc::new).map_err(into_io)
}

/// How far a namespace group is with repair, as its table says.
fn repair_of(group: GroupId, table: &TreeTable) -> Option<RepairState> {
    match state::query(table, group, &Query::Repair) {
        Ok(MetaAnswer::Repair(repair)) => Some(repair),
        // Of the control group there is nothing to know, and what is damaged is found by whoever needs it.
        _ => None,
    }
}

fn history_of(group: GroupId, table: &TreeTable) -> io::Result<History> {
    state::history(table, group).map_err(into_io)
}

fn stopped(error: io::Error) -> Error {
    Error::new(ErrorKind::Corrupt, "this replica's metadata store is damaged; ask another").caused_by(error)
}

fn tree_prefix(group: GroupId) -> String {
    format!("state/{:016x}/", group.0)
}

/// The name of a group's tree.
pub(super) fn tree_name(group: GroupId, generation: u64) -> String {
    format!("{}{generation:016x}", tree_prefix(group))
}

/// The group whose tree has this name.
pub(super) fn group_of(name: &str) -> Option<GroupId> {
    let (group, _) = name.strip_prefix("state/")?.split_once('/')?;
    u64::from_str_radix(group, 16).ok().map(GroupId)
}
