//! A node's metadata in a folder of files.
//!
//! ```text
//! <folder>/mark, db/                              the store's own: see super::store
//! <folder>/mark.new, db.new                       being made
//! <folder>/mark.older                             the mark of a store that is an older copy
//! <folder>/db.damaged-<n>, mark.damaged-<n>       set aside, n from 1 to SET_ASIDE_MAX
//! ```

use core::time::Duration;
use std::{
    fs::File,
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use mesh_core::{Error, ErrorKind, id::NodeId};

use super::{
    flush::guarded,
    home::{META, OWNER, SET_ASIDE_MAX},
    mark::{self, Found, Mark, Slots},
};

/// Memory for cached pages.
const CACHE_BYTES: u64 = 64 << 20;
const LOCK_TRIES: u32 = 20;
const LOCK_PAUSE: Duration = Duration::from_millis(25);
/// For the last user of a store that is renewed: [`LOCK_PAUSE`] each.
const LAST_USER_TRIES: u32 = 200;

/// Where the database is.
pub(super) fn database(folder: &Path) -> PathBuf {
    folder.join("db")
}

/// Whether there is one. Makes the folder.
pub(super) fn has_database(folder: &Path) -> io::Result<bool> {
    std::fs::create_dir_all(folder)?;
    database(folder).try_exists()
}

/// What stands in place of the mark.
pub(super) fn read_mark(folder: &Path) -> io::Result<Found> {
    match Slots::open(folder) {
        Ok(slots) => Mark::read(slots),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Found::Nothing),
        Err(error) => Err(error),
    }
}

/// Makes the files of an open database durable, once it has been flushed. Gives sled's one large file: what is flushed from now
/// on is durable once that is synced.
pub(super) fn settle(folder: &Path) -> io::Result<File> {
    let path = database(folder);
    sync_files(&path)?;
    File::open(path.join("db"))
}

/// Under which number the store could be set aside, if not too many are. One that was to be and has not got a new mark since
/// keeps its number, however often that is tried.
pub(super) fn number_aside(folder: &Path) -> Option<u32> {
    let begun = |number: &u32| is_same(&mark::path(folder), &paths_aside(folder, *number).1);
    (1..=SET_ASIDE_MAX).find(begun).or_else(|| {
        (1..=SET_ASIDE_MAX).find(|number| {
            let (database, mark) = paths_aside(folder, *number);
            !database.exists() && !mark.exists()
        })
    })
}

/// Whether two names are of one file.
fn is_same(one: &Path, other: &Path) -> bool {
    let (one, other) = (std::fs::metadata(one), std::fs::metadata(other));
    let id = |file: std::fs::Metadata| (file.dev(), file.ino());
    one.map(id).ok().is_some_and(|one| other.map(id).ok() == Some(one))
}

/// Sets mark and database aside under this number, durably. Gives where the database is.
pub(super) fn set_aside(folder: &Path, number: u32) -> io::Result<PathBuf> {
    let (mark, database) = (mark::path(folder), database(folder));
    let (database_aside, mark_aside) = paths_aside(folder, number);
    if mark.try_exists()? && !is_same(&mark, &mark_aside) {
        std::fs::hard_link(&mark, &mark_aside)?;
    }
    if database.try_exists()? {
        std::fs::rename(&database, &database_aside)?;
    }
    // The new mark claims nothing: it must not come to stand beside the old database.
    File::open(folder)?.sync_all()?;
    Ok(database_aside)
}

/// Takes the mark away from beside the database, durably.
pub(super) fn disown(folder: &Path) -> io::Result<()> {
    match std::fs::rename(mark::path(folder), folder.join("mark.older")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(()) => File::open(folder)?.sync_all(),
    }
}

/// Waits until nobody has the database open. Nobody else gets it while what this gives is there.
///
/// # Errors
/// `Conflict` if somebody has for longer than five seconds.
pub(super) fn wait_for_last_user(folder: &Path) -> Result<Option<File>, Error> {
    let Ok(file) = File::open(database(folder).join("db")) else { return Ok(None) };
    for _ in 0..LAST_USER_TRIES {
        match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::WOULDBLOCK) => std::thread::sleep(LOCK_PAUSE),
            Err(error) => {
                return Err(Error::new(ErrorKind::DriveFailed, "the metadata store cannot be locked").caused_by(error));
            }
            Ok(()) => return Ok(Some(file)),
        }
    }
    Err(Error::new(ErrorKind::Conflict, "the metadata store is still in use; shut its node or its groups down first"))
}

fn paths_aside(folder: &Path, number: u32) -> (PathBuf, PathBuf) {
    (folder.join(format!("db.damaged-{number}")), folder.join(format!("mark.damaged-{number}")))
}

/// Opens the database.
pub(super) fn open_database(folder: &Path) -> io::Result<sled::Db> {
    let config = sled::Config::new()
        .path(database(folder))
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

/// Makes a node's database: under another name first, so that what has the name is whole.
pub(super) fn make_database(folder: &Path, node: NodeId) -> io::Result<()> {
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
    std::fs::rename(&unfinished, database(folder))?;
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
