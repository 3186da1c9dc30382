//! The one database of a node, what it promises, and whether it still holds that.
//!
//! Owns the files under `<dir>`. sled's own flush leaves data in the drive's cache and the file's length in the
//! kernel; so durability here is sled's flush, then `fsync` of the database's file through a descriptor of our own,
//! then the mark (see [`super::mark`], [`super::flush`]). The directories are synced once, when the files are made.
//! Small values only: see [`super::chunks`].
//!
//! ```text
//! <dir>/mark             see super::mark
//! <dir>/db/              sled's files
//!   tree "meta"          'n'                      the node whose files these are
//!                        'g' group:8 'v'          Raft's vote
//!                        'g' group:8 'p'          the log is purged up to here
//!                        'g' group:8 's'          the generation of the state tree in use
//!                                                 each: value, encoded; crc:4, CRC-32C of key and value
//!   tree "log/<group>"   see super::log
//!   tree "state/<group>/<generation>"             see super::rows
//!   tree "aside/<group>/<number>"                 see super::image
//! <dir>/mark.older       the mark of a store that is an older copy: see [`Store::disown`]
//! <dir>/db.damaged-<n>, <dir>/mark.damaged-<n>    set aside by [`Store::renew_all`], n from 1 to SET_ASIDE_MAX
//! ```
//!
//! All that is encoded here is of one format ([`mesh_core::meta::FORMAT`]), which the mark names. A store of another one is
//! refused before anything else of it is read, and left as it is.
//!
//! When it is opened, each group is judged against the mark (see [`super::judge`]). Damage does not keep the store
//! from opening: groups that are sound go on, and [`Store::health`] names the others, which neither vote nor serve.
//! Nothing of a damaged store is deleted, and its mark claims on what it did: it stays damaged until it is renewed.

use std::{
    collections::BTreeMap,
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
};

use mesh_core::{
    Error, ErrorKind,
    id::{GroupId, NodeId, ReplicaId},
    meta::FORMAT,
    wire::crc32c,
};
use openraft::storage::IOFlushed;
use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::oneshot;

use super::{
    flush::{Durable, Flusher, guarded, lock},
    judge,
    mark::{self, Claim, Claims, Found, GROUPS_MAX, Mark},
    types::{Types, decode, encode},
};

/// The tree of votes, watermarks and generations.
pub(super) const META: &str = "meta";
/// The key in it under which the store's owner stands.
const OWNER: &[u8] = b"n";
/// Memory for cached pages.
const CACHE_BYTES: u64 = 64 << 20;
/// Damaged stores that are kept at most. Whoever has so many needs another drive.
const SET_ASIDE_MAX: u32 = 4;

/// Which value of a group stands in the `meta` tree.
#[derive(Clone, Copy, Debug)]
#[repr(u8)]
pub(super) enum Slot {
    Vote = b'v',
    Purged = b'p',
    Generation = b's',
}

/// What is known of a group's files.
#[derive(Clone, Debug)]
pub(super) enum Health {
    /// They hold what was promised.
    Sound,
    /// Nothing was ever kept there.
    New,
    /// They hold less, or something else; `Corrupt`, and what is missing.
    Damaged(Error),
}

/// A node's metadata on its drive.
pub(super) struct Store {
    dir: PathBuf,
    node: NodeId,
    /// None if it cannot be used.
    database: RwLock<Option<Database>>,
    claims: Arc<Mutex<Claims>>,
    damage: Mutex<Damage>,
    flusher: Flusher,
    /// How often the mark was written durably.
    marked: Arc<AtomicU64>,
}

#[derive(Clone)]
struct Database {
    db: sled::Db,
    meta: sled::Tree,
}

#[derive(Default)]
struct Damage {
    /// Of everything.
    whole: Option<Error>,
    groups: BTreeMap<GroupId, Error>,
}

/// The real steps to durability.
struct Files {
    db: sled::Db,
    file: File,
    mark: Mutex<Mark>,
    marked: Arc<AtomicU64>,
}

impl Durable for Files {
    fn flush(&self) -> io::Result<()> {
        self.db.flush()?;
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_all()
    }

    fn mark(&self, claims: &Claims) -> io::Result<()> {
        let mut mark = lock(&self.mark);
        mark.write(claims)?;
        self.marked.store(mark.count(), Ordering::Release);
        Ok(())
    }
}

impl Store {
    /// Opens a node's files, or makes them, and judges them. Damage is no error: see [`Store::health`].
    ///
    /// # Errors
    /// `DriveFailed` if they cannot be used now (another process has them, no permission, no space), `Conflict` if
    /// they are another node's, `Unsupported` if they are of another format. Nothing is deleted.
    pub(super) fn open(dir: &Path, node: NodeId) -> Result<Self, Error> {
        Self::open_over(dir, node, |files| files)
    }

    /// As [`Store::open`], with something put between the store and its files.
    pub(super) fn open_over(
        dir: &Path,
        node: NodeId,
        over: impl FnOnce(Arc<dyn Durable>) -> Arc<dyn Durable>,
    ) -> Result<Self, Error> {
        let path = dir.join("db");
        let failed = |error: io::Error| cannot_use(&path).caused_by(error);
        std::fs::create_dir_all(dir).map_err(failed)?;
        let there = path.try_exists().map_err(failed)?;
        let (mark, claims) = match Mark::read(dir).map_err(failed)? {
            Found::Whole(mark, claims) => (mark, claims),
            Found::Nothing if !there => {
                let claims = Claims { node, groups: BTreeMap::new() };
                (Mark::make(dir, &claims).map_err(failed)?, claims)
            }
            Found::Nothing => {
                let why = "there is a database, but no mark of what it promised beside it";
                return Ok(Self::unusable(dir, Claims { node, ..Claims::default() }, 0, damaged(why)));
            }
            Found::OfFormat(format) => {
                let what = "the metadata store is of another format than this build's, and is left as it is: run the \
                            build that wrote it";
                return Err(Error::new(ErrorKind::Unsupported, what)
                    .with("path", dir.display())
                    .with("format", format)
                    .with("supported", FORMAT));
            }
            Found::Damaged(why) => {
                return Ok(Self::unusable(dir, Claims { node, ..Claims::default() }, 0, damaged(why)));
            }
        };
        if claims.node != node {
            return Err(Error::new(ErrorKind::Conflict, "these metadata files are another node's")
                .with("path", path.display())
                .with("owner", claims.node)
                .with("node", node));
        }
        if !there {
            // A store that is made has its mark first; then nothing is claimed yet.
            if !claims.groups.values().all(Claim::is_empty) {
                return Ok(Self::unusable(
                    dir,
                    claims,
                    mark.count(),
                    damaged("the database is missing").with("path", path.display()),
                ));
            }
            make(dir, &path, node).map_err(failed)?;
        }
        let database = match open_database(&path, node) {
            Ok(database) => database,
            Err(error) if cannot_be_used_now(&error) => return Err(failed(error)),
            Err(error) => {
                let why = damaged("the database cannot be read").with("path", path.display()).caused_by(error);
                return Ok(Self::unusable(dir, claims, mark.count(), why));
            }
        };
        let groups = judge::groups(&database.db, &claims);
        let flushed = guarded(|| {
            // Recovery may have written.
            database.db.flush()?;
            sync_files(&path)
        });
        flushed.map_err(failed)?;
        let file = File::open(path.join("db")).map_err(failed)?;
        let marked = Arc::new(AtomicU64::new(mark.count()));
        let files = Files { db: database.db.clone(), file, mark: Mutex::new(mark), marked: Arc::clone(&marked) };
        let files = over(Arc::new(files));
        let claims = Arc::new(Mutex::new(claims));
        let flusher = Flusher::start(files, Arc::clone(&claims)).map_err(failed)?;
        let opened = Self {
            dir: dir.to_owned(),
            node,
            database: RwLock::new(Some(database)),
            claims,
            damage: Mutex::default(),
            flusher,
            marked,
        };
        for (group, why) in groups {
            opened.note(group, &why);
        }
        Ok(opened)
    }

    /// A store of which nothing can be used.
    fn unusable(dir: &Path, claims: Claims, marked: u64, why: Error) -> Self {
        tracing::error!(path = %dir.display(), error = %why, "{IS_DAMAGED}");
        Self {
            dir: dir.to_owned(),
            node: claims.node,
            database: RwLock::new(None),
            claims: Arc::new(Mutex::new(claims)),
            damage: Mutex::new(Damage { whole: Some(why), groups: BTreeMap::new() }),
            flusher: Flusher::closed(),
            marked: Arc::new(AtomicU64::new(marked)),
        }
    }

    /// What is known of a group's files. Sound ones may turn out damaged later.
    pub(super) fn health(&self, group: GroupId) -> Health {
        let damage = lock(&self.damage);
        match damage.whole.as_ref().or_else(|| damage.groups.get(&group)) {
            Some(why) => Health::Damaged(why.clone()),
            None if lock(&self.claims).groups.get(&group).is_none_or(Claim::is_empty) => Health::New,
            None => Health::Sound,
        }
    }

    /// The groups that this store keeps, or kept, a replica of, with their numbers; as far as it is known.
    pub(super) fn replicas(&self) -> BTreeMap<GroupId, ReplicaId> {
        lock(&self.claims).groups.iter().map(|(group, claim)| (*group, claim.replica)).collect()
    }

    /// The number of this node's replica of a group. Made at random, and durable, when it is first asked for. Blocks.
    ///
    /// # Errors
    /// `InvalidData` if the store is damaged and the number is not known; `InvalidInput` for a node whose number is
    /// too large, or too many groups.
    pub(super) fn replica(&self, group: GroupId) -> io::Result<ReplicaId> {
        if let Some(claim) = lock(&self.claims).groups.get(&group) {
            return Ok(claim.replica);
        }
        self.sound(group)?;
        let replica = mint(self.node)?;
        let minted = {
            let mut claims = lock(&self.claims);
            if claims.groups.len() >= GROUPS_MAX {
                let many = "this node has replicas of too many metadata groups";
                return Err(io::Error::new(io::ErrorKind::InvalidInput, many));
            }
            claims.groups.entry(group).or_insert_with(|| Claim { replica, ..Claim::default() }).replica
        };
        // Into both halves of the mark: if one is damaged, the other still knows the number.
        self.sync_blocking()?;
        self.sync_blocking()?;
        Ok(minted)
    }

    /// Whether there is a name left under which this store could be set aside.
    ///
    /// # Errors
    /// `Conflict` if too many damaged stores are kept already.
    pub(super) fn expect_room_aside(&self) -> Result<(), Error> {
        self.aside().map(drop)
    }

    fn aside(&self) -> Result<(PathBuf, PathBuf), Error> {
        let names = |n: u32| (self.dir.join(format!("db.damaged-{n}")), self.dir.join(format!("mark.damaged-{n}")));
        let free = (1..=SET_ASIDE_MAX).map(names).find(|(db, mark)| !db.exists() && !mark.exists());
        free.ok_or_else(|| {
            let many =
                "too many damaged metadata stores are kept beside this one: replace the drive, or move them away";
            Error::new(ErrorKind::Conflict, many).with("path", self.dir.display())
        })
    }

    /// Forgets this store for good: its files are set aside under other names, and a new store is made in its place in
    /// which every group has a new number and is [`Health::New`]. All groups at once: a database that lost one thing
    /// is not trusted with another.
    ///
    /// For whoever knows that another replica leads each of [`Store::replicas`]: what was only here is lost. The groups
    /// must have been shut down; this waits a little for their last user. This store is closed, whatever comes of it.
    ///
    /// # Errors
    /// `Conflict` if somebody still uses it, or if too many damaged stores are kept already; `DriveFailed`. Nothing is
    /// deleted; it may be tried again by opening the store anew.
    pub(super) fn renew_all(&self) -> Result<Self, Error> {
        let path = self.dir.join("db");
        let failed = |error: io::Error| cannot_use(&path).caused_by(error);
        self.close();
        let taken = self.database.write().unwrap_or_else(PoisonError::into_inner).take();
        guarded(|| {
            drop(taken);
            Ok(())
        })
        .map_err(failed)?;
        wait_for_last_user(&path.join("db"))?;
        let (db_aside, mark_aside) = self.aside()?;
        let mut groups = BTreeMap::new();
        for group in lock(&self.claims).groups.keys() {
            groups.insert(*group, Claim { replica: mint(self.node).map_err(failed)?, ..Claim::default() });
        }
        let set_aside = || {
            let mark = mark::path(&self.dir);
            if mark.try_exists()? {
                std::fs::hard_link(&mark, &mark_aside)?;
            }
            if path.try_exists()? {
                std::fs::rename(&path, &db_aside)?;
            }
            // The new mark claims nothing: it must not come to stand beside the old database.
            File::open(&self.dir)?.sync_all()?;
            Mark::make(&self.dir, &Claims { node: self.node, groups })
        };
        drop(set_aside().map_err(failed)?);
        tracing::warn!(aside = %db_aside.display(), "a damaged metadata store was set aside; a new one takes its place");
        Self::open(&self.dir, self.node)
    }

    /// Refuses a group that is damaged.
    ///
    /// # Errors
    /// `InvalidData`, with what is known of the damage.
    pub(super) fn sound(&self, group: GroupId) -> io::Result<()> {
        match self.health(group) {
            Health::Damaged(why) => Err(io::Error::new(io::ErrorKind::InvalidData, why)),
            Health::Sound | Health::New => Ok(()),
        }
    }

    /// How often it has said durably what it promises. Only ever grows while the store has the same replicas.
    pub(super) fn marked(&self) -> u64 {
        self.marked.load(Ordering::Acquire)
    }

    /// Whoever remembers more says that this store is an older copy: every group is damaged from now on. Whether that is
    /// news: then it is to be made durable with [`Store::keep_disowned`].
    pub(super) fn disown(&self, why: &str) -> bool {
        let mut damage = lock(&self.damage);
        if damage.whole.is_some() {
            return false;
        }
        tracing::error!(path = %self.dir.display(), why, "{IS_DAMAGED}");
        damage.whole = Some(damaged(format!("these metadata were put back from an older copy: {why}")));
        true
    }

    /// Takes the mark away from beside the database, under another name, so that the store stays damaged when it is
    /// opened again. Blocks.
    pub(super) fn keep_disowned(&self) -> io::Result<()> {
        match std::fs::rename(mark::path(&self.dir), self.dir.join("mark.older")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
            Ok(()) => File::open(&self.dir)?.sync_all(),
        }
    }

    /// Passes an outcome on; if it tells of damage, the group is damaged from now on.
    pub(super) fn heed<T>(&self, group: GroupId, outcome: io::Result<T>) -> io::Result<T> {
        if let Err(error) = &outcome
            && error.kind() == io::ErrorKind::InvalidData
        {
            self.note(group, &error.to_string());
        }
        outcome
    }

    /// A group is damaged: it stops, and says so once.
    pub(super) fn note(&self, group: GroupId, why: &str) {
        let mut damage = lock(&self.damage);
        if damage.whole.is_some() || damage.groups.contains_key(&group) {
            return;
        }
        tracing::error!(%group, path = %self.dir.display(), why, "{IS_DAMAGED}");
        damage.groups.insert(group, damaged(why.to_owned()).with("group", group));
    }

    /// Changes what is claimed of a group. To be called after what it claims was written; it reaches the mark with the
    /// next flush.
    pub(super) fn claim(&self, group: GroupId, change: impl FnOnce(&mut Claim)) {
        if let Some(claim) = lock(&self.claims).groups.get_mut(&group) {
            change(claim);
        }
    }

    fn database(&self) -> io::Result<Database> {
        let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
        database.clone().ok_or_else(|| io::Error::new(io::ErrorKind::BrokenPipe, "the metadata store is closed"))
    }

    pub(super) fn tree(&self, name: &str) -> io::Result<sled::Tree> {
        let database = self.database()?;
        guarded(|| Ok(database.db.open_tree(name)?))
    }

    pub(super) fn drop_tree(&self, name: &str) -> io::Result<()> {
        let database = self.database()?;
        guarded(|| database.db.drop_tree(name).map(|_| ()).map_err(io::Error::from))
    }

    /// The names of all trees that begin so.
    pub(super) fn trees_under(&self, prefix: &str) -> Vec<String> {
        let names = self.database().map(|database| judge::trees(&database.db)).unwrap_or_default();
        names.into_iter().filter(|name| name.starts_with(prefix)).collect()
    }

    pub(super) fn read<T: DeserializeOwned>(&self, group: GroupId, slot: Slot) -> io::Result<Option<T>> {
        self.sound(group)?;
        let database = self.database()?;
        self.heed(group, read_slot(&database.meta, group, slot))
    }

    /// Writes a value; durable with the next flush.
    pub(super) fn write<T: Serialize>(&self, group: GroupId, slot: Slot, value: &T) -> io::Result<()> {
        self.sound(group)?;
        let (database, key) = (self.database()?, slot_key(group, slot));
        let mut bytes = encode(value)?;
        bytes.extend_from_slice(&slot_crc(&key, &bytes).to_le_bytes());
        guarded(|| database.meta.insert(key, bytes).map(|_| ()).map_err(io::Error::from))
    }

    /// Comes back once everything written and claimed before is durable.
    pub(super) async fn sync(&self) -> io::Result<()> {
        let (done, flushed) = oneshot::channel();
        // Who asked may have gone; then nobody wants to know.
        self.flusher.tell(Box::new(move |outcome| drop(done.send(outcome))));
        flushed.await.map_err(|_| gone())?
    }

    fn sync_blocking(&self) -> io::Result<()> {
        let (done, flushed) = std::sync::mpsc::sync_channel(1);
        self.flusher.tell(Box::new(move |outcome| drop(done.send(outcome))));
        flushed.recv().map_err(|_| gone())?
    }

    /// Tells Raft once everything written and claimed before is durable. Calls are answered in order.
    pub(super) fn notify_when_durable(&self, callback: IOFlushed<Types>) {
        self.flusher.tell(Box::new(move |outcome| callback.io_completed(outcome)));
    }

    /// Flushes what is waiting and ends the flusher. Nothing becomes durable afterwards.
    pub(super) fn close(&self) {
        self.flusher.close();
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.close();
    }
}

const IS_DAMAGED: &str = "the metadata store is damaged: this replica neither votes nor serves until it is rebuilt \
                          from the others; no file was removed";

/// Damage, in words.
fn damaged(why: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::Corrupt, why)
}

/// A number that no replica had before.
fn mint(node: NodeId) -> io::Result<ReplicaId> {
    if node.0 >= ReplicaId::NODES {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a node of so large a number cannot have replicas"));
    }
    let mut bytes = [0; 8];
    while u64::from_le_bytes(bytes) == 0 {
        rustix::rand::getrandom(&mut bytes[..6], rustix::rand::GetRandomFlags::empty())?;
    }
    Ok(ReplicaId::new(node, u64::from_le_bytes(bytes)))
}

const LOCK_TRIES: u32 = 20;
const LOCK_PAUSE: std::time::Duration = std::time::Duration::from_millis(25);
/// For the last user of a store that is renewed: [`LOCK_PAUSE`] each.
const LAST_USER_TRIES: u32 = 200;

fn open_database(path: &Path, node: NodeId) -> io::Result<Database> {
    let config = sled::Config::new()
        .path(path)
        .mode(sled::Mode::HighThroughput)
        .cache_capacity(CACHE_BYTES)
        .flush_every_ms(None);
    let open = || guarded(|| Ok(config.open()?));
    let mut opened = open();
    // A process that is just ending, or one that forks at this moment, may hold the lock a little longer than it means to.
    for _ in 0..LOCK_TRIES {
        if !opened.as_ref().is_err_and(is_locked) {
            break;
        }
        std::thread::sleep(LOCK_PAUSE);
        opened = open();
    }
    let db = opened?;
    guarded(|| {
        let meta = db.open_tree(META)?;
        let owner = meta.get(OWNER)?;
        if owner.as_deref() != Some(node.0.to_be_bytes().as_slice()) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "it does not know whose it is: its contents are gone",
            ));
        }
        Ok(Database { meta, db: db.clone() })
    })
}

fn is_locked(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock || error.to_string().contains("WouldBlock")
}

/// What says nothing about the contents.
fn cannot_be_used_now(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    let of_the_process = [rustix::io::Errno::MFILE, rustix::io::Errno::NFILE].map(|errno| Some(errno.raw_os_error()));
    is_locked(error)
        || matches!(
            error.kind(),
            Kind::PermissionDenied | Kind::StorageFull | Kind::OutOfMemory | Kind::ReadOnlyFilesystem
        )
        || of_the_process.contains(&error.raw_os_error())
}

fn cannot_use(path: &Path) -> Error {
    let what = "the metadata store cannot be used; no file was removed. If another process has it, stop that one";
    Error::new(ErrorKind::DriveFailed, what).with("path", path.display())
}

/// Waits until nobody has a database open.
fn wait_for_last_user(file: &Path) -> Result<(), Error> {
    let Ok(file) = File::open(file) else { return Ok(()) };
    for _ in 0..LAST_USER_TRIES {
        match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::WOULDBLOCK) => std::thread::sleep(LOCK_PAUSE),
            Err(error) => {
                return Err(Error::new(ErrorKind::DriveFailed, "the metadata store cannot be locked").caused_by(error));
            }
            Ok(()) => return Ok(()),
        }
    }
    Err(Error::new(
        ErrorKind::Conflict,
        "the metadata store is still in use; shut its groups down before it is renewed",
    ))
}

/// Makes a node's database: under another name first, so that what has the name is whole.
fn make(dir: &Path, path: &Path, node: NodeId) -> io::Result<()> {
    let unfinished = dir.join("db.new");
    if unfinished.try_exists()? {
        std::fs::remove_dir_all(&unfinished)?;
    }
    let config = sled::Config::new().path(&unfinished).flush_every_ms(None);
    let db = guarded(|| Ok(config.open()?))?;
    db.open_tree(META)?.insert(OWNER, &node.0.to_be_bytes())?;
    db.flush()?;
    drop(db);
    sync_files(&unfinished)?;
    std::fs::rename(&unfinished, path)?;
    for directory in [Some(dir), dir.parent()].into_iter().flatten() {
        if !directory.as_os_str().is_empty() {
            File::open(directory)?.sync_all()?;
        }
    }
    Ok(())
}

/// Makes the database's files durable, and their names.
fn sync_files(path: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(path)? {
        File::open(entry?.path())?.sync_all()?;
    }
    File::open(path)?.sync_all()
}

fn gone() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the metadata store is closed")
}

fn slot_key(group: GroupId, slot: Slot) -> [u8; 10] {
    let mut key = [0; 10];
    key[0] = b'g';
    key[1..9].copy_from_slice(&group.0.to_be_bytes());
    key[9] = slot as u8;
    key
}

fn slot_crc(key: &[u8; 10], value: &[u8]) -> u32 {
    crc32c(&[key, value].concat())
}

/// Reads a value of a group.
pub(super) fn read_slot<T: DeserializeOwned>(meta: &sled::Tree, group: GroupId, slot: Slot) -> io::Result<Option<T>> {
    let key = slot_key(group, slot);
    let Some(bytes) = guarded(|| Ok(meta.get(key)?))? else { return Ok(None) };
    match bytes.split_last_chunk::<4>() {
        Some((value, crc)) if u32::from_le_bytes(*crc) == slot_crc(&key, value) => decode(value).map(Some),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, format!("the {slot:?} row fails its checksum"))),
    }
}
