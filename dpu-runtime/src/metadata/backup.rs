//! A group as it was at one moment, read page by page for a backup; and a node's metadata made out of a backup.
//!
//! Pages come from an image, as snapshots for other replicas do. A node's metadata are made beside the ones that it has, and
//! take their place once all is there: so a backup that is cut short, or damaged, changes nothing.
//!
//! ```text
//! <folder>                     a node's metadata
//! <folder>.restored            being made out of a backup
//! <folder>.restored-whole      all of it is there: while there are no metadata, a node does not start
//! <folder>.restored-replaced   another such one, until a later one has its name
//! <folder>.before-<n>          set aside, n from 1 to BEFORE_MAX
//! ```

use core::ops::ControlFlow;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
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
    store::{Slot, Store},
    trees::{Memory, Trees},
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
    /// How often some were forgotten: what was to be read before that is not begun.
    forgotten: u64,
    open: BTreeMap<u64, Reading>,
}

struct Reading {
    group: GroupId,
    /// None while a page is read.
    image: Option<Image>,
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
        let (image, gone) = lock(&self.readings).take(number, group, page);
        // What fails is not gone on with.
        drop(gone);
        let Some(image) = image else {
            let what = "this backup is read no more: begin anew";
            return Err(Error::new(ErrorKind::Conflict, what).with("group", group));
        };
        // Nobody waits for the lock while it is read.
        let out = Out { readings: &self.readings, number: Some(number) };
        let failed = |error: io::Error| {
            let what = "a metadata group cannot be read for a backup; begin anew";
            Error::new(ErrorKind::DriveFailed, what).with("group", group).caused_by(error)
        };
        let rows = image.next_rows(SNAPSHOT_CHUNK_BYTES).map_err(failed)?;
        if rows.is_empty() {
            let Digest { rows, sum } = image.digest();
            return Ok((BackupPage { next: None, end: Some((rows, sum)) }, Buf::empty()));
        }
        let rows = Buf::copy_of(&encode(&rows).map_err(failed)?);
        out.put_back(image);
        let next = BackupAt { node: self.node, number, page: page + 1 };
        Ok((BackupPage { next: Some(next), end: None }, rows))
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
        let number = lock(&self.readings).begin(group, image, forgotten).ok_or_else(|| {
            Error::new(ErrorKind::Overloaded, "too many backups are read from this node; try again later")
        })?;
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
                let turn = lock(&metadata.readings).expire(number);
                if turn.is_break() {
                    return;
                }
            }
        });
    }
}

/// A reading a page of which is read: unless it is put back, it is over.
struct Out<'a> {
    readings: &'a Mutex<Readings>,
    /// None once it is back.
    number: Option<u64>,
}

impl Out<'_> {
    fn put_back(mut self, image: Image) {
        if let Some(number) = self.number.take() {
            let forgotten = lock(self.readings).put_back(number, image);
            drop(forgotten);
        }
    }
}

impl Drop for Out<'_> {
    fn drop(&mut self) {
        if let Some(number) = self.number.take() {
            lock(self.readings).open.remove(&number);
        }
    }
}

impl Readings {
    /// Begins to read an image of a group, under a number of its own. None if too many are read, or some were forgotten since
    /// `forgotten`.
    fn begin(&mut self, group: GroupId, image: Image, forgotten: u64) -> Option<u64> {
        if self.open.len() >= READINGS_MAX || self.forgotten != forgotten {
            return None;
        }
        self.next += 1;
        self.open.insert(self.next, Reading { group, image: Some(image), page: 0, used: Instant::now() });
        Some(self.next)
    }

    /// What this page is read from, if it is the next one; its place is kept meanwhile. Else what was read under this number, which
    /// is over then, if it is not read now. Neither is to be dropped while the lock is held.
    fn take(&mut self, number: u64, group: GroupId, page: u64) -> (Option<Image>, Option<Reading>) {
        let Some(reading) = self.open.get_mut(&number) else { return (None, None) };
        if (reading.group, reading.page) == (group, page) {
            return (reading.image.take(), None);
        }
        let is_read = reading.image.is_none();
        (None, if is_read { None } else { self.open.remove(&number) })
    }

    /// A page was read. Gives the image back if it was forgotten meanwhile.
    fn put_back(&mut self, number: u64, image: Image) -> Option<Image> {
        let Some(reading) = self.open.get_mut(&number) else { return Some(image) };
        (reading.page, reading.used) = (reading.page + 1, Instant::now());
        reading.image.replace(image)
    }

    /// The turn of whoever watches over a reading: it ends once that is over, or nobody goes on with it, which is given then. To be
    /// dropped once the lock is not held.
    fn expire(&mut self, number: u64) -> ControlFlow<Option<Reading>> {
        match self.open.get(&number) {
            None => ControlFlow::Break(None),
            Some(reading) if reading.image.is_some() && reading.used.elapsed() >= IDLE_MAX => {
                ControlFlow::Break(self.open.remove(&number))
            }
            Some(_) => ControlFlow::Continue(()),
        }
    }

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
    !folder.exists() && [READY, REPLACED].iter().any(|what| beside(folder, what).exists())
}

/// What is made out of a backup, before and after all of it is there; and another one, while a later one takes its name.
const MADE: &str = "restored";
const READY: &str = "restored-whole";
const REPLACED: &str = "restored-replaced";

/// A backup that is read group by group: a node's metadata are made out of it, or it is only checked.
pub struct Restore {
    /// What comes now. Dropped before what it is in is closed.
    coming: Option<Coming>,
    /// Groups that are whole.
    ended: BTreeSet<GroupId>,
    /// None: it is only checked.
    place: Option<Place>,
}

/// A group whose rows come.
struct Coming {
    group: GroupId,
    /// The key of the last row that came.
    last: Option<Vec<u8>>,
    rows: Rows,
}

enum Rows {
    /// They are this state's.
    Kept(Arc<GroupState>),
    /// They are counted: those of the pages before, and those of the table, which has the last page, or all of the control group.
    Counted(Digest, TreeTable),
}

/// Where metadata are made, beside those that there are.
struct Place {
    folder: PathBuf,
    /// Keeps others from what there is.
    held: Option<fs::File>,
    /// There is something.
    is_there: bool,
    /// None once it is closed.
    store: Option<Arc<Store>>,
}

impl core::fmt::Debug for Restore {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let folder = self.place.as_ref().map(|place| &place.folder);
        f.debug_struct("Restore").field("folder", &folder).finish_non_exhaustive()
    }
}

impl Restore {
    /// Begins beside the metadata in this folder. What an earlier one left is removed, unless it is whole.
    ///
    /// # Errors
    /// `Conflict` if they are in use; `DriveFailed` if nothing can be written there.
    pub fn begin(folder: &Path, node: NodeId, entropy: Box<dyn Entropy>) -> Result<Self, Error> {
        let held = files::wait_for_last_user(folder)?;
        let made = beside(folder, MADE);
        clear(folder).map_err(|error| cannot_write(&made, error))?;
        let is_there = folder.exists();
        let store = Some(Arc::new(Store::open(Home::Folder(made), node, Dice::new(entropy))?));
        let place = Place { folder: folder.to_owned(), held, is_there, store };
        Ok(Self { place: Some(place), ..Self::check() })
    }

    /// One that makes nothing out of the backup: it is checked as it comes.
    #[must_use]
    pub const fn check() -> Self {
        Self { coming: None, ended: BTreeSet::new(), place: None }
    }

    /// Puts a page of rows back, as [`RaftMetadata::backup`] gave it. The pages of one group come one after the other.
    ///
    /// # Errors
    /// `Corrupt` for what is no page, or not the next one.
    pub fn rows(&mut self, group: GroupId, page: &[u8]) -> Result<(), Error> {
        let coming = self.coming(group)?;
        let rows: Vec<Row> = decode(page).map_err(|error| damaged(group, error))?;
        if !coming.last.iter().chain(rows.iter().map(|(key, _)| key)).is_sorted_by(|one, next| one < next) {
            return Err(damaged(group, io::Error::other("its rows are not in order")));
        }
        if let Some((last, _)) = rows.last() {
            coming.last = Some(last.clone());
        }
        let changes: Vec<Change> = rows.into_iter().map(|(key, value)| Change { key, value: Some(value) }).collect();
        coming.rows.add(group, &changes).map_err(|error| cannot_keep(group, error))
    }

    /// What the control group says, all of whose rows are back.
    ///
    /// # Errors
    /// `Corrupt` if they are not.
    pub fn control(&mut self) -> Result<ControlView, Error> {
        match &self.coming(GroupId::CONTROL)?.rows {
            Rows::Kept(kept) => kept.with_table(|table| state::control_view(table)),
            Rows::Counted(_, table) => state::control_view(table),
        }
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
        let found = self.coming(group)?.rows.digest().map_err(|error| cannot_keep(group, error))?;
        if found != (Digest { rows, sum }) {
            let what = io::Error::other(format!("{} rows are there, {rows} were said", found.rows));
            return Err(damaged(group, what));
        }
        self.coming = None;
        if let Some(place) = &self.place {
            let force = Force { group, survivor: None, recovery: Recovery { restores: true, ..recovery.clone() } };
            let store = place.open_store()?;
            Forced::carry_out(&store, &force)?;
            if group == GroupId::CONTROL {
                let noted = store.write(group, Slot::Restored, &()).and_then(|()| store.finish());
                noted.map_err(|error| cannot_keep(group, error))?;
            }
        }
        self.ended.insert(group);
        Ok(())
    }

    /// Puts what was made in the place of the metadata that there were, which stay beside it. Gives where those are, if there were
    /// any.
    ///
    /// # Errors
    /// `DriveFailed`, or `Conflict` if too many former ones are kept: what there was is there still, under its own name or beside
    /// it.
    pub fn finish(mut self) -> Result<Option<PathBuf>, Error> {
        self.coming = None;
        let place = self.place.take();
        place.ok_or_else(|| Error::bug("a backup that was only checked is to be put in place"))?.finish()
    }

    /// The group whose rows come now: the one before has ended.
    fn coming(&mut self, group: GroupId) -> Result<&mut Coming, Error> {
        if self.has(group) {
            return Err(damaged(group, io::Error::other("it comes twice")));
        }
        let coming = match self.coming.take() {
            Some(coming) if coming.group == group => coming,
            Some(other) => return Err(damaged(other.group, io::Error::other("another one comes before its end"))),
            None => Coming { group, last: None, rows: self.open(group)? },
        };
        Ok(self.coming.insert(coming))
    }

    fn open(&self, group: GroupId) -> Result<Rows, Error> {
        let opened = match &self.place {
            None => scratch().map(|table| Rows::Counted(Digest::default(), table)),
            Some(place) => {
                let store = place.open_store()?;
                store.replica(group).and_then(|_| GroupState::open(store, group, None)).map(Rows::Kept)
            }
        };
        opened.map_err(|error| cannot_keep(group, error))
    }
}

impl Rows {
    fn add(&mut self, group: GroupId, changes: &[Change]) -> io::Result<()> {
        // Nobody looks at the rows of another group.
        if group != GroupId::CONTROL && matches!(self, Self::Counted(..)) {
            *self = Self::Counted(self.digest()?, scratch()?);
        }
        match self {
            Self::Kept(kept) => kept.commit(changes, None, Default::default()),
            Self::Counted(_, table) => table.commit(changes, None),
        }
    }

    fn digest(&self) -> io::Result<Digest> {
        match self {
            Self::Kept(kept) => kept.with_table(TreeTable::digest),
            Self::Counted(before, table) => {
                let Digest { rows, sum } = table.digest()?;
                Ok(Digest { rows: before.rows.wrapping_add(rows), sum: before.sum.wrapping_add(sum) })
            }
        }
    }
}

/// A table in memory.
fn scratch() -> io::Result<TreeTable> {
    Trees::Memory(Memory::default()).open("backup").map(TreeTable::new)
}

impl Place {
    fn finish(mut self) -> Result<Option<PathBuf>, Error> {
        self.close();
        if !self.is_there && self.folder.exists() {
            let what = "there are metadata that were not there before: the node was started meanwhile; stop it, and begin anew";
            return Err(Error::new(ErrorKind::Conflict, what).with("path", self.folder.display()));
        }
        let before = put_in_place(&self.folder, &mut || {})?;
        self.held = None;
        Ok(before)
    }

    /// What is open of it is durable and closed then: its files may be given another name.
    fn close(&mut self) {
        if let Some(store) = self.store.take() {
            store.close();
        }
    }

    fn open_store(&self) -> Result<Arc<Store>, Error> {
        self.store.clone().ok_or_else(|| Error::bug("what was restored is closed"))
    }
}

/// What was not put in place is of no use to anybody.
impl Drop for Place {
    fn drop(&mut self) {
        self.close();
        remove_left(&beside(&self.folder, MADE));
    }
}

fn remove_left(path: &Path) {
    if path.exists()
        && let Err(error) = fs::remove_dir_all(path)
    {
        tracing::warn!(path = %path.display(), %error, "what was made out of a backup is left");
    }
}

/// Removes what an earlier restore left, but for the last that was whole: where it was cut short, that says so.
fn clear(folder: &Path) -> io::Result<()> {
    let [made, ready, replaced] = [MADE, READY, REPLACED].map(|what| beside(folder, what));
    if made.exists() {
        fs::remove_dir_all(&made)?;
    }
    match (replaced.exists(), ready.exists()) {
        (true, true) => fs::remove_dir_all(&replaced),
        (true, false) => rename(&replaced, &ready, &mut || {}),
        (false, _) => Ok(()),
    }
}

/// Has what was made, which is whole and closed, take the place of the metadata in a folder, which are set aside: gives where, if
/// there were any. `cut` is told of each step after which the power may go.
fn put_in_place(folder: &Path, cut: &mut dyn FnMut()) -> Result<Option<PathBuf>, Error> {
    let is_there = folder.exists();
    let ready = beside(folder, READY);
    let made = make_ready(folder, cut).map_err(|error| cannot_write(folder, error));
    let before = made.and_then(|()| move_aside(folder, folder, cut)).inspect_err(|_| {
        // Where there is nothing any more under the folder's name, it is what says so.
        if folder.exists() == is_there
            && let Err(error) = take_back(folder)
        {
            tracing::warn!(path = %ready.display(), %error, "what was made out of a backup is left");
        }
    })?;
    remove_left(&beside(folder, REPLACED));
    cut();
    rename(&ready, folder, cut).map_err(|error| cannot_write(folder, error))?;
    Ok(before)
}

/// What was made is called whole; another one that was is there until it is.
fn make_ready(folder: &Path, cut: &mut dyn FnMut()) -> io::Result<()> {
    let [made, ready, replaced] = [MADE, READY, REPLACED].map(|what| beside(folder, what));
    if ready.exists() {
        rename(&ready, &replaced, cut)?;
    }
    rename(&made, &ready, cut)
}

/// Undoes that, however far it had come.
fn take_back(folder: &Path) -> io::Result<()> {
    let [made, ready, replaced] = [MADE, READY, REPLACED].map(|what| beside(folder, what));
    if !made.exists() {
        rename(&ready, &made, &mut || {})?;
    }
    if replaced.exists() { rename(&replaced, &ready, &mut || {}) } else { Ok(()) }
}

/// Sets the metadata in a folder aside, under another name beside it, and what was about to take their place. Gives where all that
/// is now.
///
/// # Errors
/// `DriveFailed`; `Conflict` if they are in use, or too many are kept already.
pub fn set_aside(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let _held = files::wait_for_last_user(folder)?;
    let left = [READY, REPLACED].map(|what| beside(folder, what));
    let all = left.iter().map(PathBuf::as_path).chain([folder]);
    all.filter_map(|path| move_aside(folder, path, &mut || {}).transpose()).collect()
}

/// Sets something aside among the former metadata of a folder, if it is there.
fn move_aside(folder: &Path, what: &Path, cut: &mut dyn FnMut()) -> Result<Option<PathBuf>, Error> {
    if !what.exists() {
        return Ok(None);
    }
    let free = (1..=BEFORE_MAX).map(|number| beside(folder, &format!("before-{number}"))).find(|path| !path.exists());
    let free = free.ok_or_else(|| {
        let what = "too many former metadata are kept beside this node's: move them away";
        Error::new(ErrorKind::Conflict, what).with("path", folder.display())
    })?;
    rename(what, &free, cut).map_err(|error| cannot_write(what, error))?;
    Ok(Some(free))
}

/// Gives a folder another name in the one that it is in, durably.
fn rename(from: &Path, to: &Path, cut: &mut dyn FnMut()) -> io::Result<()> {
    fs::rename(from, to)?;
    cut();
    fs::File::open(to.parent().unwrap_or_else(|| Path::new("/")))?.sync_all()
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

fn cannot_keep(group: GroupId, error: io::Error) -> Error {
    Error::new(ErrorKind::DriveFailed, "what a backup has cannot be written").with("group", group).caused_by(error)
}

fn cannot_write(path: &Path, error: io::Error) -> Error {
    Error::new(ErrorKind::DriveFailed, "the metadata cannot be written").with("path", path.display()).caused_by(error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::home::MemoryHome;

    const GROUP: GroupId = GroupId(3);

    struct Counting(u8);

    impl Entropy for Counting {
        fn fill(&mut self, target: &mut [u8]) {
            for byte in target {
                self.0 = self.0.wrapping_add(1);
                *byte = self.0;
            }
        }
    }

    fn begin(folder: &Path) -> Restore {
        Restore::begin(folder, NodeId(1), Box::new(Counting(0))).expect("begun")
    }

    /// A group's state, of which images are made.
    fn kept() -> Arc<GroupState> {
        let home = MemoryHome::new(Arc::new(|| Duration::ZERO));
        let store = Store::open(Home::Memory(home), NodeId(1), Dice::new(Box::new(Counting(0)))).expect("a store");
        let store = Arc::new(store);
        store.replica(GROUP).expect("a replica");
        GroupState::open(store, GROUP, None).expect("a state")
    }

    fn image(of: &Arc<GroupState>) -> Image {
        match of.image().expect("an image").snapshot {
            SnapshotData::Image(image) => image,
            SnapshotData::Staged(_) => panic!("nothing has arrived"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_watches_over_a_backup_goes_on_while_a_page_is_read() {
        let (state, mut readings) = (kept(), Readings::default());
        let number = readings.begin(GROUP, image(&state), 0).expect("there is room");
        for page in 0..3 {
            let out = readings.take(number, GROUP, page).0.expect("its turn");
            // However long that takes.
            tokio::time::advance(IDLE_MAX * 2).await;
            assert!(readings.expire(number).is_continue(), "it is read");
            for other in [page, page + 1] {
                assert!(matches!(readings.take(number, GROUP, other), (None, None)), "somebody else reads it");
            }
            assert!(readings.put_back(number, out).is_none());
            assert!(readings.expire(number).is_continue(), "it was used just now");
        }
        tokio::time::advance(IDLE_MAX).await;
        assert!(matches!(readings.expire(number), ControlFlow::Break(Some(_))), "nobody goes on with it");
        assert!(matches!(readings.expire(number), ControlFlow::Break(None)), "it is over");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_being_read_has_its_place_until_it_is_over_or_forgotten() {
        let (state, readings) = (kept(), Mutex::new(Readings::default()));
        let begun = |forgotten| lock(&readings).begin(GROUP, image(&state), forgotten);
        let numbers: Vec<u64> = (0..READINGS_MAX).filter_map(|_| begun(0)).collect();
        let take = |number, page| lock(&readings).take(number, GROUP, page).0;
        let out = |number| Out { readings: &readings, number: Some(number) };
        let images: Vec<Image> = numbers.iter().filter_map(|number| take(*number, 0)).collect();
        assert_eq!((numbers.len(), images.len()), (READINGS_MAX, READINGS_MAX));
        assert_eq!(begun(0), None, "all of them are being read");
        let mut both = numbers.iter().zip(images);
        let (first, image) = both.next().expect("one");
        out(*first).put_back(image);
        assert!(take(*first, 1).is_some(), "its second page");
        let (second, _) = both.next().expect("another");
        drop(out(*second));
        assert!(lock(&readings).expire(*second).is_break(), "it failed, or came to its end");
        assert!(begun(0).is_some(), "there is room for another one");
        drop(lock(&readings).forget(Some(GROUP)));
        for (number, image) in both {
            out(*number).put_back(image);
            assert!(lock(&readings).expire(*number).is_break(), "it is forgotten");
        }
        assert!(lock(&readings).open.is_empty());
        assert_eq!(begun(0), None, "it was imaged before that");
        assert!(begun(1).is_some());
    }

    /// Folders in each of which a file says what it is.
    fn lay(root: &Path, folders: &[(&str, &str)]) -> PathBuf {
        for (name, what) in folders {
            fs::create_dir_all(root.join(name)).expect("made");
            fs::write(root.join(name).join("what"), what).expect("written");
        }
        root.join("metadata")
    }

    /// What a folder says it is.
    fn what(folder: &Path) -> Option<String> {
        fs::read_to_string(folder.join("what")).ok()
    }

    fn copy(from: &Path, to: &Path) {
        fs::create_dir_all(to).expect("made");
        for entry in fs::read_dir(from).expect("read") {
            let path = entry.expect("read").path();
            let target = to.join(path.file_name().expect("named"));
            if path.is_dir() {
                copy(&path, &target);
            } else {
                fs::copy(&path, &target).expect("copied");
            }
        }
    }

    /// What a start, an unfinished restore, a whole one and `mesh metadata empty` find after each step that a cut may follow.
    fn expect_found(shot: &Path, scratch: &Path) {
        let fresh = |name: &str| {
            let to = scratch.join(name);
            copy(shot, &to);
            to.join("metadata")
        };
        let folder = fresh("failed");
        let (was_short, before) = (is_cut_short(&folder), what(&folder));
        assert!(was_short || before.is_some(), "a start would begin with none");
        drop(begin(&folder));
        assert_eq!((is_cut_short(&folder), what(&folder)), (was_short, before), "a restore that fails changes nothing");
        assert!(!was_short || what(&beside(&folder, READY)).is_some(), "the whole copy is there");
        assert!([MADE, REPLACED].iter().all(|left| !beside(&folder, left).exists()));

        let folder = fresh("restored");
        begin(&folder).finish().expect("put in place");
        assert!(folder.join("db").exists() && !is_cut_short(&folder));
        assert!([MADE, READY, REPLACED].iter().all(|left| !beside(&folder, left).exists()));

        let folder = fresh("emptied");
        let paths = [folder.clone(), beside(&folder, READY), beside(&folder, REPLACED)];
        let found: BTreeSet<String> = paths.iter().filter_map(|path| what(path)).collect();
        let aside = set_aside(&folder).expect("set aside");
        assert!(!folder.exists() && !is_cut_short(&folder), "a start begins with none, as it is meant to");
        assert_eq!(aside.iter().filter_map(|path| what(path)).collect::<BTreeSet<String>>(), found, "nothing is lost");
    }

    #[test]
    fn a_restore_that_is_cut_short_anywhere_is_found_so() {
        for (is_there, was_ready) in [(true, false), (true, true), (false, false), (false, true)] {
            let root = tempfile::tempdir().expect("a folder");
            let live = root.path().join("live");
            let mut folders = vec![("metadata.restored", "new")];
            folders.extend(is_there.then_some(("metadata", "old")));
            folders.extend(was_ready.then_some(("metadata.restored-whole", "earlier")));
            let folder = lay(&live, &folders);
            let mut shots = Vec::new();
            let before = put_in_place(&folder, &mut || {
                let to = root.path().join(format!("shot-{}", shots.len()));
                copy(&live, &to);
                shots.push(to);
            });
            let before = before.expect("put in place");
            assert_eq!(before.as_deref().and_then(what), is_there.then(|| "old".to_owned()));
            assert_eq!(what(&folder).as_deref(), Some("new"));
            assert!([MADE, READY, REPLACED].iter().all(|left| !beside(&folder, left).exists()));
            assert_eq!(shots.len(), 3 + usize::from(is_there) + usize::from(was_ready));
            for (number, shot) in shots.iter().enumerate() {
                expect_found(shot, &root.path().join(format!("found-{number}")));
            }
        }
    }

    #[test]
    fn what_cannot_be_put_in_place_leaves_what_there_was() {
        for was_ready in [false, true] {
            let root = tempfile::tempdir().expect("a folder");
            let folder = lay(root.path(), &[("metadata", "old")]);
            if was_ready {
                lay(root.path(), &[("metadata.restored-whole", "earlier")]);
            }
            for number in 1..=BEFORE_MAX {
                lay(root.path(), &[(format!("metadata.before-{number}").as_str(), "kept")]);
            }
            let refused = begin(&folder).finish().expect_err("too many are kept");
            assert_eq!(refused.kind(), ErrorKind::Conflict);
            assert_eq!(what(&folder).as_deref(), Some("old"));
            assert_eq!(what(&beside(&folder, READY)), was_ready.then(|| "earlier".to_owned()));
            assert_eq!(beside(&folder, READY).exists(), was_ready);
            assert!([MADE, REPLACED].iter().all(|left| !beside(&folder, left).exists()));
        }
    }

    #[test]
    fn who_is_emptied_after_a_restore_that_was_cut_short_starts_with_none() {
        let root = tempfile::tempdir().expect("a folder");
        let folder = lay(root.path(), &[("metadata.restored-whole", "whole")]);
        assert!(is_cut_short(&folder));
        let aside = set_aside(&folder).expect("set aside");
        assert_eq!(aside, [beside(&folder, "before-1")]);
        assert_eq!((is_cut_short(&folder), what(&aside[0])), (false, Some("whole".to_owned())));
        assert!(set_aside(&folder).expect("there is nothing").is_empty());
    }
}
