//! Where a node's metadata are: a folder of files, or memory that keeps the same promises.
//!
//! ```text
//! <folder>/mark, db/                              the store's own: see super::store
//! <folder>/mark.new, db.new                       being made
//! <folder>/mark.older                             the mark of a store that is an older copy
//! <folder>/db.damaged-<n>, mark.damaged-<n>       set aside, n from 1 to SET_ASIDE_MAX
//! ```
//!
//! In memory a [crash](MemoryHome::crash) takes back what was not made durable, and nothing has threads of its own; a simulated
//! node that starts again finds what a machine would.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard},
};

use mesh_core::{Error, ErrorKind, id::NodeId};

use super::{
    flush::{Latency, guarded, lock},
    mark::{self, Claims, Found, Mark, Slots},
    trees::{Memory, Tree, Trees},
};

/// The tree of votes, watermarks and generations.
pub(super) const META: &str = "meta";
/// The key in it under which the store's owner stands.
const OWNER: &[u8] = b"n";
/// Memory for cached pages.
const CACHE_BYTES: u64 = 64 << 20;
/// Damaged stores that are kept at most. Whoever has so many needs another drive.
const SET_ASIDE_MAX: u32 = 4;
const LOCK_TRIES: u32 = 20;
const LOCK_PAUSE: std::time::Duration = std::time::Duration::from_millis(25);
/// For the last user of a store that is renewed: [`LOCK_PAUSE`] each.
const LAST_USER_TRIES: u32 = 200;

/// Where a node's metadata are.
#[derive(Clone, Debug)]
pub enum Home {
    /// In files under this folder, which is made if it is not there.
    Folder(PathBuf),
    /// In memory.
    Memory(MemoryHome),
}

impl From<&Path> for Home {
    fn from(folder: &Path) -> Self {
        Self::Folder(folder.to_owned())
    }
}

impl From<&PathBuf> for Home {
    fn from(folder: &PathBuf) -> Self {
        Self::Folder(folder.clone())
    }
}

impl From<PathBuf> for Home {
    fn from(folder: PathBuf) -> Self {
        Self::Folder(folder)
    }
}

impl core::fmt::Display for Home {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Folder(folder) => write!(f, "{}", folder.display()),
            Self::Memory(_) => f.write_str("memory"),
        }
    }
}

/// One node's metadata in memory. Clones are the same ones: they outlive the node that uses them.
#[derive(Clone)]
pub struct MemoryHome {
    kept: Arc<Mutex<Kept>>,
    latency: Latency,
    /// What it changes counts until this many crashes have been; none: for ever.
    crashes: Option<u64>,
}

/// What there is, all of it durable but for what the trees have not flushed.
#[derive(Default)]
struct Kept {
    mark: Option<Slots>,
    database: Option<Memory>,
    /// How many stores were set aside: their contents are of no use to anybody in memory.
    aside: u32,
    crashes: u64,
}

impl core::fmt::Debug for MemoryHome {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("MemoryHome")
    }
}

impl MemoryHome {
    /// An empty one, in which each step to durability takes so long, on tokio's clock.
    #[must_use]
    pub fn new(latency: Latency) -> Self {
        Self { kept: Arc::default(), latency, crashes: None }
    }

    /// The same for a process that starts now: after the next crash it changes nothing any more.
    #[must_use]
    pub fn opened(&self) -> Self {
        Self { crashes: Some(lock(&self.kept).crashes), ..self.clone() }
    }

    /// What there is, for a change.
    fn change(&self) -> io::Result<MutexGuard<'_, Kept>> {
        let kept = lock(&self.kept);
        if self.crashes.is_some_and(|crashes| crashes != kept.crashes) {
            return Err(io::Error::new(io::ErrorKind::BrokenPipe, "the machine has crashed"));
        }
        Ok(kept)
    }

    pub(super) fn latency(&self) -> Latency {
        Arc::clone(&self.latency)
    }

    /// What was not made durable is gone, or is there all the same if it was `written`. Whoever uses it goes on with what
    /// nobody finds again.
    pub fn crash(&self, written: bool) {
        let mut kept = lock(&self.kept);
        let mut left = kept.left();
        if written {
            left.database = kept.database.as_ref().map(Memory::written);
        }
        left.crashes = kept.crashes + 1;
        *kept = left;
    }

    /// As a crash at this moment would leave it: a copy of the folder, for [`Self::put_back`].
    #[must_use]
    pub fn copy(&self) -> Self {
        Self { kept: Arc::new(Mutex::new(lock(&self.kept).left())), latency: self.latency(), crashes: None }
    }

    /// Somebody puts a copy in place of what is there now, while nobody has it open.
    pub fn put_back(&self, copy: &Self) {
        let left = lock(&copy.kept).left();
        let mut kept = lock(&self.kept);
        *kept = Kept { crashes: kept.crashes + 1, ..left };
    }

    /// Somebody removes the database, and leaves the mark beside it, while nobody has it open.
    pub fn lose_database(&self) {
        lock(&self.kept).database = None;
    }
}

impl Kept {
    /// What is durable, for others than use it now.
    fn left(&self) -> Self {
        Self {
            mark: self.mark.as_ref().and_then(Slots::copy),
            database: self.database.as_ref().map(Memory::durable),
            aside: self.aside,
            crashes: self.crashes,
        }
    }
}

/// An open database.
#[derive(Clone)]
pub(super) struct Database {
    pub(super) trees: Trees,
    pub(super) meta: Tree,
}

impl Home {
    /// Does something with the files where it keeps nobody from anything else; in memory there is nothing to wait for.
    pub(super) async fn aside<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Error> {
        match self {
            Self::Folder(_) => tokio::task::spawn_blocking(work)
                .await
                .map_err(|error| Error::bug("what was done with the metadata's files panicked").caused_by(error)),
            Self::Memory(_) => Ok(work()),
        }
    }

    /// Where the database is, for people.
    pub(super) fn database(&self) -> String {
        match self {
            Self::Folder(folder) => database_path(folder).display().to_string(),
            Self::Memory(_) => self.to_string(),
        }
    }

    /// Whether there is a database. Makes the folder.
    pub(super) fn has_database(&self) -> io::Result<bool> {
        match self {
            Self::Folder(folder) => {
                std::fs::create_dir_all(folder)?;
                database_path(folder).try_exists()
            }
            Self::Memory(memory) => Ok(lock(&memory.kept).database.is_some()),
        }
    }

    /// What stands in place of the mark.
    pub(super) fn read_mark(&self) -> io::Result<Found> {
        match self {
            Self::Folder(folder) => match Slots::open(folder) {
                Ok(slots) => Mark::read(slots),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Found::Nothing),
                Err(error) => Err(error),
            },
            Self::Memory(memory) => {
                let slots = lock(&memory.kept).mark.as_ref().and_then(Slots::same);
                slots.map_or(Ok(Found::Nothing), Mark::read)
            }
        }
    }

    /// Makes a mark, in place of any other, durably.
    pub(super) fn make_mark(&self, claims: &Claims) -> io::Result<Mark> {
        match self {
            Self::Folder(folder) => Mark::make(folder, claims),
            Self::Memory(memory) => {
                let slots = Slots::in_memory();
                let mark = Mark::make_in(slots.same().unwrap_or_else(Slots::in_memory), claims)?;
                memory.change()?.mark = Some(slots);
                Ok(mark)
            }
        }
    }

    /// Makes a node's database: under another name first, so that what has the name is whole.
    pub(super) fn make_database(&self, node: NodeId) -> io::Result<()> {
        match self {
            Self::Folder(folder) => make_files(folder, node),
            Self::Memory(memory) => {
                let database = Memory::default();
                let trees = Trees::Memory(database.clone());
                trees.open(META)?.insert(OWNER, &node.0.to_be_bytes())?;
                trees.flush()?;
                memory.change()?.database = Some(database);
                Ok(())
            }
        }
    }

    /// Opens a node's database.
    ///
    /// # Errors
    /// What says that it is damaged, or [cannot be used now](cannot_be_used_now).
    pub(super) fn open_database(&self, node: NodeId) -> io::Result<Database> {
        let trees = match self {
            Self::Folder(folder) => Trees::Sled(open_files(&database_path(folder))?),
            Self::Memory(memory) => Trees::Memory(memory.change()?.database.clone().ok_or(io::ErrorKind::NotFound)?),
        };
        guarded(|| {
            let meta = trees.open(META)?;
            if meta.get(OWNER)?.as_deref() != Some(node.0.to_be_bytes().as_slice()) {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "it does not know whose it is: its contents are gone",
                ));
            }
            Ok(Database { meta, trees: trees.clone() })
        })
    }

    /// Makes all of an open database durable, and gives what makes durable from now on what its trees have flushed.
    pub(super) fn settle(&self, database: &Database) -> io::Result<Medium> {
        let Self::Folder(folder) = self else {
            database.trees.flush()?;
            return Ok(Medium::Memory);
        };
        let path = database_path(folder);
        guarded(|| {
            // Recovery may have written.
            database.trees.flush()?;
            sync_files(&path)
        })?;
        File::open(path.join("db")).map(Medium::File)
    }

    /// Under which number this store could be set aside.
    ///
    /// # Errors
    /// `Conflict` if too many damaged stores are kept already.
    pub(super) fn number_aside(&self) -> Result<u32, Error> {
        let number = match self {
            Self::Folder(folder) => (1..=SET_ASIDE_MAX).find(|number| {
                let (database, mark) = paths_aside(folder, *number);
                !database.exists() && !mark.exists()
            }),
            Self::Memory(memory) => Some(lock(&memory.kept).aside + 1).filter(|number| *number <= SET_ASIDE_MAX),
        };
        number.ok_or_else(|| {
            let many =
                "too many damaged metadata stores are kept beside this one: replace the drive, or move them away";
            Error::new(ErrorKind::Conflict, many).with("path", self)
        })
    }

    /// Sets mark and database aside under this number. Then there is neither, durably. Gives where they are, for people.
    pub(super) fn set_aside(&self, number: u32) -> io::Result<String> {
        match self {
            Self::Folder(folder) => {
                let (mark, database) = (mark::path(folder), database_path(folder));
                let (database_aside, mark_aside) = paths_aside(folder, number);
                if mark.try_exists()? {
                    std::fs::hard_link(&mark, &mark_aside)?;
                }
                if database.try_exists()? {
                    std::fs::rename(&database, &database_aside)?;
                }
                // The new mark claims nothing: it must not come to stand beside the old database.
                File::open(folder)?.sync_all()?;
                Ok(database_aside.display().to_string())
            }
            Self::Memory(memory) => {
                let mut kept = memory.change()?;
                kept.database = None;
                kept.aside = number;
                Ok(format!("{self}, number {number}"))
            }
        }
    }

    /// Takes the mark away from beside the database, so that the store is damaged when it is opened again.
    pub(super) fn disown(&self) -> io::Result<()> {
        match self {
            Self::Folder(folder) => match std::fs::rename(mark::path(folder), folder.join("mark.older")) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                Err(error) => Err(error),
                Ok(()) => File::open(folder)?.sync_all(),
            },
            Self::Memory(memory) => {
                memory.change()?.mark = None;
                Ok(())
            }
        }
    }

    /// Waits until nobody has the database open.
    pub(super) fn wait_for_last_user(&self) -> Result<(), Error> {
        let Self::Folder(folder) = self else { return Ok(()) };
        let Ok(file) = File::open(database_path(folder).join("db")) else { return Ok(()) };
        for _ in 0..LAST_USER_TRIES {
            match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
                Err(rustix::io::Errno::WOULDBLOCK) => std::thread::sleep(LOCK_PAUSE),
                Err(error) => {
                    return Err(
                        Error::new(ErrorKind::DriveFailed, "the metadata store cannot be locked").caused_by(error)
                    );
                }
                Ok(()) => return Ok(()),
            }
        }
        Err(Error::new(
            ErrorKind::Conflict,
            "the metadata store is still in use; shut its groups down before it is renewed",
        ))
    }
}

/// What keeps an open database.
pub(super) enum Medium {
    /// sled's one large file: what sled has flushed is durable once this is synced.
    File(File),
    /// What is flushed is durable.
    Memory,
}

impl Medium {
    /// Makes durable what was flushed.
    pub(super) fn sync(&self) -> io::Result<()> {
        match self {
            Self::File(file) => file.sync_all(),
            Self::Memory => Ok(()),
        }
    }
}

fn database_path(folder: &Path) -> PathBuf {
    folder.join("db")
}

fn paths_aside(folder: &Path, number: u32) -> (PathBuf, PathBuf) {
    (folder.join(format!("db.damaged-{number}")), folder.join(format!("mark.damaged-{number}")))
}

fn open_files(path: &Path) -> io::Result<sled::Db> {
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
    opened
}

fn is_locked(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock || error.to_string().contains("WouldBlock")
}

/// What says nothing about the contents.
pub(super) fn cannot_be_used_now(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    let of_the_process = [rustix::io::Errno::MFILE, rustix::io::Errno::NFILE].map(|errno| Some(errno.raw_os_error()));
    is_locked(error)
        || matches!(
            error.kind(),
            Kind::PermissionDenied | Kind::StorageFull | Kind::OutOfMemory | Kind::ReadOnlyFilesystem
        )
        || of_the_process.contains(&error.raw_os_error())
}

fn make_files(folder: &Path, node: NodeId) -> io::Result<()> {
    let unfinished = folder.join("db.new");
    if unfinished.try_exists()? {
        std::fs::remove_dir_all(&unfinished)?;
    }
    let config = sled::Config::new().path(&unfinished).flush_every_ms(None);
    let db = guarded(|| Ok(config.open()?))?;
    db.open_tree(META)?.insert(OWNER, &node.0.to_be_bytes())?;
    db.flush()?;
    drop(db);
    sync_files(&unfinished)?;
    std::fs::rename(&unfinished, database_path(folder))?;
    for directory in [Some(folder), folder.parent()].into_iter().flatten() {
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
