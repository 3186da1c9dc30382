//! Where a node's metadata are: a folder of files, or memory that keeps the same promises.
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
    files,
    flush::{Latency, guarded, lock},
    mark::{Claims, Found, Mark, Slots},
    trees::{Memory, Tree, Trees},
};

/// The tree of votes, watermarks and generations.
pub(super) const META: &str = "meta";
/// The key in it under which the store's owner stands.
pub(super) const OWNER: &[u8] = b"n";
/// Damaged stores that are kept at most. Whoever has so many needs another drive.
pub(super) const SET_ASIDE_MAX: u32 = 4;

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
            Self::Folder(folder) => files::database(folder).display().to_string(),
            Self::Memory(_) => self.to_string(),
        }
    }

    /// Whether there is a database. Makes the folder.
    pub(super) fn has_database(&self) -> io::Result<bool> {
        match self {
            Self::Folder(folder) => files::has_database(folder),
            Self::Memory(memory) => Ok(lock(&memory.kept).database.is_some()),
        }
    }

    /// What stands in place of the mark.
    pub(super) fn read_mark(&self) -> io::Result<Found> {
        match self {
            Self::Folder(folder) => files::read_mark(folder),
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
            Self::Folder(folder) => files::make_database(folder, node),
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
    /// What says that it is damaged, or [cannot be used now](files::cannot_be_used_now).
    pub(super) fn open_database(&self, node: NodeId) -> io::Result<Database> {
        let trees = match self {
            Self::Folder(folder) => Trees::Sled(files::open_database(folder)?),
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
        // Recovery may have written.
        guarded(|| database.trees.flush())?;
        match self {
            Self::Folder(folder) => files::settle(folder).map(Medium::File),
            Self::Memory(_) => Ok(Medium::Memory),
        }
    }

    /// Under which number this store could be set aside.
    ///
    /// # Errors
    /// `Conflict` if too many damaged stores are kept already.
    pub(super) fn number_aside(&self) -> Result<u32, Error> {
        let number = match self {
            Self::Folder(folder) => files::number_aside(folder),
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
            Self::Folder(folder) => Ok(files::set_aside(folder, number)?.display().to_string()),
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
            Self::Folder(folder) => files::disown(folder),
            Self::Memory(memory) => {
                memory.change()?.mark = None;
                Ok(())
            }
        }
    }

    /// Waits until nobody has the database open.
    pub(super) fn wait_for_last_user(&self) -> Result<(), Error> {
        match self {
            Self::Folder(folder) => files::wait_for_last_user(folder).map(drop),
            Self::Memory(_) => Ok(()),
        }
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
