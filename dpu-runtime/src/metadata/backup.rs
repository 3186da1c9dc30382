//! A group as it was at one moment, read page by page for a backup; and a node's metadata made out of a backup.
//!
//! Pages come from an image, as snapshots for other replicas do. A node's metadata are made beside the ones that it has, and
//! take their place once all is there: so a backup that is cut short, or damaged, changes nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use mesh_actors::metadata::{state, table::Change};
use mesh_core::{
    Buf, Entropy, Error, ErrorKind,
    id::{GroupId, NodeId},
    meta::ControlView,
    op::{BackupAt, BackupPage, Force, Recovery},
};
use tokio::time::Instant;

use super::{
    RaftMetadata, files,
    force::Forced,
    home::Home,
    image::{Image, Row},
    lock,
    machine::{GroupState, SnapshotData},
    network::SNAPSHOT_CHUNK_BYTES,
    rows::{Digest, TreeTable},
    runtime::Dice,
    store::Store,
    types::{decode, encode},
};

/// Backups that are read at once at most: each keeps aside what changes meanwhile.
const READINGS_MAX: usize = 4;
/// One that nobody goes on with is forgotten after this long.
const IDLE_MAX: Duration = Duration::from_secs(60);
/// Former metadata that are kept beside the ones that took their place, at most.
const BEFORE_MAX: u32 = 16;

/// What is being read on this node.
#[derive(Default)]
pub(super) struct Readings {
    next: u64,
    /// How often some were forgotten: what was taken out before that is not put back.
    forgotten: u64,
    open: BTreeMap<u64, Reading>,
}

struct Reading {
    group: GroupId,
    image: Image,
    /// How many pages were read.
    page: u64,
    used: Instant,
}

impl RaftMetadata {
    /// The next rows of a group as it was when this was asked for first, of the node that led it then. `from` is what came with
    /// the page before.
    ///
    /// # Errors
    /// `NotLeader`, `Timeout` to begin with; `Overloaded` while too many are read; `Conflict` if what was read is forgotten, or
    /// the page before did not arrive: it is begun anew.
    pub async fn backup(&self, group: GroupId, from: Option<BackupAt>) -> Result<(BackupPage, Buf), Error> {
        let number = match from {
            Some(from) => from.number,
            None => self.begin_backup(group).await?,
        };
        let page = from.map_or(0, |from| from.page);
        // What fails is not gone on with; and nobody waits for the lock while it is read.
        let (reading, forgotten) = {
            let mut readings = lock(&self.readings);
            (readings.open.remove(&number), readings.forgotten)
        };
        let reading = reading.filter(|reading| (reading.group, reading.page) == (group, page));
        let mut reading = reading.ok_or_else(|| {
            Error::new(ErrorKind::Conflict, "this backup is read no more: begin anew").with("group", group)
        })?;
        let failed = |error: io::Error| {
            let what = "a metadata group cannot be read for a backup; begin anew";
            Error::new(ErrorKind::DriveFailed, what).with("group", group).caused_by(error)
        };
        let rows = reading.image.next_rows(SNAPSHOT_CHUNK_BYTES).map_err(failed)?;
        if rows.is_empty() {
            let Digest { rows, sum } = reading.image.digest();
            return Ok((BackupPage { next: None, end: Some((rows, sum)) }, Buf::empty()));
        }
        (reading.page, reading.used) = (page + 1, Instant::now());
        {
            let mut readings = lock(&self.readings);
            if readings.forgotten == forgotten {
                readings.open.insert(number, reading);
            }
        }
        let next = BackupAt { node: self.node, number, page: page + 1 };
        Ok((BackupPage { next: Some(next), end: None }, Buf::copy_of(&encode(&rows).map_err(failed)?)))
    }

    async fn begin_backup(&self, group: GroupId) -> Result<u64, Error> {
        let replica = self.replica(group)?;
        // So it has all that was acknowledged by now.
        replica.confirm().await?;
        let forgotten = lock(&self.readings).forgotten;
        let image = replica.state.image().map_err(|error| {
            let what = "a metadata group cannot be read for a backup";
            Error::new(ErrorKind::DriveFailed, what).with("group", group).caused_by(error)
        })?;
        let SnapshotData::Image(image) = image.snapshot else {
            return Err(Error::bug("an image of what is here is what arrived from elsewhere"));
        };
        let mut readings = lock(&self.readings);
        if readings.open.len() >= READINGS_MAX || readings.forgotten != forgotten {
            return Err(Error::new(ErrorKind::Overloaded, "too many backups are read from this node; try again later"));
        }
        readings.next += 1;
        let number = readings.next;
        readings.open.insert(number, Reading { group, image, page: 0, used: Instant::now() });
        drop(readings);
        self.forget_once_idle(number);
        Ok(number)
    }

    /// Whoever reads it may have gone: what it keeps, of the log too, must not be kept for ever.
    fn forget_once_idle(&self, number: u64) {
        let me = self.me.clone();
        self.runtime.spawn(async move {
            loop {
                tokio::time::sleep(IDLE_MAX / 4).await;
                let Some(metadata) = me.upgrade() else { return };
                let mut readings = lock(&metadata.readings);
                let Some(reading) = readings.open.get(&number) else { return };
                if reading.used.elapsed() >= IDLE_MAX {
                    let gone = readings.open.remove(&number);
                    drop(readings);
                    drop(gone);
                    return;
                }
            }
        });
    }
}

impl Readings {
    /// Forgets what is read of a group that is about to be closed; or everything. To be dropped once the lock is not held: what was
    /// put aside for them is removed.
    #[must_use]
    pub(super) fn forget(&mut self, group: Option<GroupId>) -> BTreeMap<u64, impl Sized> {
        self.forgotten += 1;
        let stays = |reading: &Reading| group.is_some_and(|group| reading.group != group);
        let (open, gone) = core::mem::take(&mut self.open).into_iter().partition(|(_, reading)| stays(reading));
        self.open = open;
        gone
    }
}

/// Whether metadata out of a backup were about to take the place of those in this folder, which are set aside, and have not: a
/// node that starts now would begin with none.
#[must_use]
pub fn is_cut_short(folder: &Path) -> bool {
    !folder.exists() && beside(folder, READY).exists()
}

/// What is made out of a backup, before and after all of it is there.
const MADE: &str = "restored";
const READY: &str = "restored-whole";

/// A node's metadata that are made out of a backup, group by group.
pub struct Restore {
    folder: PathBuf,
    /// Keeps others from what there is.
    held: Option<fs::File>,
    /// There is something.
    is_there: bool,
    /// None once it is closed.
    store: Option<Arc<Store>>,
    /// Whose rows come.
    group: Option<(GroupId, Arc<GroupState>)>,
    /// Groups that are whole.
    ended: BTreeSet<GroupId>,
}

impl core::fmt::Debug for Restore {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Restore").field("folder", &self.folder).finish_non_exhaustive()
    }
}

impl Restore {
    /// Begins beside the metadata in this folder. What an earlier one left is removed.
    ///
    /// # Errors
    /// `Conflict` if they are in use; `DriveFailed` if nothing can be written there.
    pub fn begin(folder: &Path, node: NodeId, entropy: Box<dyn Entropy>) -> Result<Self, Error> {
        let held = files::wait_for_last_user(folder)?;
        let unfinished = beside(folder, MADE);
        for left in [&unfinished, &beside(folder, READY)] {
            if left.exists() {
                fs::remove_dir_all(left).map_err(|error| cannot_write(left, error))?;
            }
        }
        let is_there = folder.exists();
        let store = Arc::new(Store::open(Home::Folder(unfinished), node, Dice::new(entropy))?);
        let (store, group, ended) = (Some(store), None, BTreeSet::new());
        Ok(Self { folder: folder.to_owned(), held, is_there, store, group, ended })
    }

    /// Puts a page of rows back, as [`RaftMetadata::backup`] gave it. The pages of one group come one after the other.
    ///
    /// # Errors
    /// `Corrupt` for what is no page.
    pub fn rows(&mut self, group: GroupId, page: &[u8]) -> Result<(), Error> {
        self.expect_open(group)?;
        let state = self.state(group)?;
        let rows: Vec<Row> = decode(page).map_err(|error| damaged(group, error))?;
        let changes: Vec<Change> = rows.into_iter().map(|(key, value)| Change { key, value: Some(value) }).collect();
        state.commit(&changes, None, Default::default()).map_err(|error| cannot_write(&self.folder, error))
    }

    /// What the control group says, all of whose rows are back.
    ///
    /// # Errors
    /// `Corrupt` if they are not.
    pub fn control(&mut self) -> Result<ControlView, Error> {
        self.state(GroupId::CONTROL)?.with_table(|table| state::control_view(table))
    }

    /// Whether all rows of a group are back.
    #[must_use]
    pub fn has(&self, group: GroupId) -> bool {
        self.ended.contains(&group)
    }

    /// All rows of a group are back: it goes on by them, with this node as the only voter.
    ///
    /// # Errors
    /// `Corrupt` if they are not the ones that there were; else what `state::recover` refuses.
    pub fn end(&mut self, group: GroupId, (rows, sum): (u64, u128), recovery: &Recovery) -> Result<(), Error> {
        self.expect_open(group)?;
        let state = self.state(group)?;
        let found = state.with_table(TreeTable::digest).map_err(|error| cannot_write(&self.folder, error))?;
        if found != (Digest { rows, sum }) {
            let what = io::Error::other(format!("{} rows are there, {rows} were said", found.rows));
            return Err(damaged(group, what));
        }
        drop(state);
        self.group = None;
        let force = Force { group, survivor: None, recovery: recovery.clone() };
        Forced::carry_out(&self.open_store()?, &force)?;
        self.ended.insert(group);
        Ok(())
    }

    /// Puts what was made in the place of the metadata that there were, which stay beside it. Gives where those are, if there were
    /// any.
    ///
    /// # Errors
    /// `DriveFailed`: what there was is there still, under its own name or beside it.
    pub fn finish(mut self) -> Result<Option<PathBuf>, Error> {
        self.close();
        if !self.is_there && self.folder.exists() {
            let what = "there are metadata that were not there before: the node was started meanwhile; stop it, and begin anew";
            return Err(Error::new(ErrorKind::Conflict, what).with("path", self.folder.display()));
        }
        let (made, ready) = (beside(&self.folder, MADE), beside(&self.folder, READY));
        let failed = |error| cannot_write(&self.folder, error);
        fs::rename(&made, &ready).and_then(|()| sync_parent(&self.folder)).map_err(failed)?;
        let before = move_aside(&self.folder)?;
        fs::rename(&ready, &self.folder).and_then(|()| sync_parent(&self.folder)).map_err(failed)?;
        self.held = None;
        Ok(before)
    }

    /// What is open of it is durable and closed then: its files may be given another name.
    fn close(&mut self) {
        self.group = None;
        if let Some(store) = self.store.take() {
            store.close();
        }
    }

    fn open_store(&self) -> Result<Arc<Store>, Error> {
        self.store.clone().ok_or_else(|| Error::bug("what was restored is closed"))
    }

    fn expect_open(&self, group: GroupId) -> Result<(), Error> {
        if self.has(group) { Err(damaged(group, io::Error::other("it comes twice"))) } else { Ok(()) }
    }

    fn state(&mut self, group: GroupId) -> Result<Arc<GroupState>, Error> {
        if let Some((open, state)) = &self.group
            && *open == group
        {
            return Ok(Arc::clone(state));
        }
        let store = self.open_store()?;
        let opened = store.replica(group).and_then(|_| GroupState::open(store, group, None));
        let state = opened.map_err(|error| cannot_write(&self.folder, error))?;
        self.group = Some((group, Arc::clone(&state)));
        Ok(state)
    }
}

/// What was not put in place is of no use to anybody.
impl Drop for Restore {
    fn drop(&mut self) {
        self.close();
        let made = beside(&self.folder, MADE);
        if made.exists()
            && let Err(error) = fs::remove_dir_all(&made)
        {
            tracing::warn!(path = %made.display(), %error, "what was made out of a backup is left");
        }
    }
}

/// Sets the metadata in a folder aside, under another name beside it. Gives where they are, if there were any.
///
/// # Errors
/// `DriveFailed`; `Conflict` if they are in use, or too many are kept already.
pub fn set_aside(folder: &Path) -> Result<Option<PathBuf>, Error> {
    let _held = files::wait_for_last_user(folder)?;
    move_aside(folder)
}

fn move_aside(folder: &Path) -> Result<Option<PathBuf>, Error> {
    if !folder.exists() {
        return Ok(None);
    }
    let free = (1..=BEFORE_MAX).map(|number| beside(folder, &format!("before-{number}"))).find(|path| !path.exists());
    let free = free.ok_or_else(|| {
        let what = "too many former metadata are kept beside this node's: move them away";
        Error::new(ErrorKind::Conflict, what).with("path", folder.display())
    })?;
    let moved = fs::rename(folder, &free).and_then(|()| sync_parent(folder));
    moved.map_err(|error| cannot_write(folder, error))?;
    Ok(Some(free))
}

fn sync_parent(folder: &Path) -> io::Result<()> {
    fs::File::open(folder.parent().unwrap_or_else(|| Path::new("/")))?.sync_all()
}

fn beside(folder: &Path, what: &str) -> PathBuf {
    let mut name = folder.file_name().unwrap_or_default().to_owned();
    name.push(".");
    name.push(what);
    folder.with_file_name(name)
}

fn damaged(group: GroupId, error: io::Error) -> Error {
    Error::new(ErrorKind::Corrupt, "the backup is damaged: what it has of a metadata group is not what there was")
        .with("group", group)
        .caused_by(error)
}

fn cannot_write(path: &Path, error: io::Error) -> Error {
    Error::new(ErrorKind::DriveFailed, "the metadata cannot be written").with("path", path.display()).caused_by(error)
}
