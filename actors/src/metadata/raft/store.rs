//! The one database of a node, and the one thread that makes it durable for all groups.
//!
//! Owns the files under `<dir>/db`. sled's own flush leaves data in the drive's cache and the file's length in the
//! kernel; so durability here is sled's flush, then `fsync` of the database's file through a descriptor of our own.
//! The directories are synced once, when the files are made. Small values only: see [`super::chunks`].
//!
//! ```text
//! <dir>/db/              sled's files
//!   tree "meta"          'n'                      the node whose files these are
//!                        'g' group:8 'v'          Raft's vote
//!                        'g' group:8 'p'          the log is purged up to here
//!                        'g' group:8 's'          the generation of the state tree in use
//!   tree "log/<group>"   see super::log
//!   tree "state/<group>/<generation>"             see super::rows
//! ```

use std::{
    fs::File,
    io,
    panic::AssertUnwindSafe,
    path::Path,
    sync::{
        Mutex, PoisonError,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread::JoinHandle,
};

use mesh_core::{
    Error, ErrorKind,
    id::{GroupId, NodeId},
};
use openraft::storage::IOFlushed;
use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::oneshot;

use super::types::{Types, decode, encode};

/// Requests that wait for the flusher at most; one more waits at the door.
const WAITERS_MAX: usize = 4096;
/// Requests that share one flush at most.
const FLUSH_BATCH_MAX: usize = 4096;
/// The tree of votes, watermarks and generations.
const META: &str = "meta";
/// The key in it under which the store's owner stands.
const OWNER: &[u8] = b"n";
/// Memory for cached pages.
const CACHE_BYTES: u64 = 64 << 20;

/// Which value of a group stands in the `meta` tree.
#[derive(Clone, Copy, Debug)]
#[repr(u8)]
pub(super) enum Slot {
    Vote = b'v',
    Purged = b'p',
    Generation = b's',
}

/// Somebody who wants what was written before to be durable.
enum Waiter {
    Raft(IOFlushed<Types>),
    Task(oneshot::Sender<io::Result<()>>),
}

/// A node's metadata on its drive.
pub(super) struct Store {
    db: sled::Db,
    meta: sled::Tree,
    flusher: Mutex<Option<(SyncSender<Waiter>, JoinHandle<()>)>>,
}

impl Store {
    /// Opens a node's files under `<dir>/db`, or makes them.
    ///
    /// # Errors
    /// `DriveFailed` or `Corrupt` if they cannot be opened (nothing is deleted), `Conflict` if they are another node's.
    pub(super) fn open(dir: &Path, node: NodeId) -> Result<Self, Error> {
        let path = dir.join("db");
        let failed = |error: io::Error| cannot_open(ErrorKind::DriveFailed, &path).caused_by(error);
        std::fs::create_dir_all(dir).map_err(failed)?;
        if !path.exists() {
            make(dir, &path, node)?;
        }
        let db = open_database(&path)?;
        let meta = db.open_tree(META).map_err(|error| failed(error.into()))?;
        let opened = Self { meta, flusher: Mutex::new(None), db };
        opened.expect_owner(node).map_err(|error| error.with("path", path.display()))?;
        // Recovery may have written.
        opened.db.flush().map_err(|error| failed(error.into()))?;
        sync_files(&path).map_err(failed)?;
        let file = File::open(path.join("db")).map_err(failed)?;
        let (sender, receiver) = sync_channel(WAITERS_MAX);
        let db = opened.db.clone();
        let thread = std::thread::Builder::new()
            .name("metadata-flush".into())
            .spawn(move || flush_forever(&db, &file, &receiver))
            .map_err(failed)?;
        *opened.flusher.lock().unwrap_or_else(PoisonError::into_inner) = Some((sender, thread));
        Ok(opened)
    }

    fn expect_owner(&self, node: NodeId) -> Result<(), Error> {
        let owner = self.meta.get(OWNER).map_err(|error| {
            Error::new(ErrorKind::DriveFailed, "the metadata store cannot be read").caused_by(error)
        })?;
        match owner.as_deref().map(<[u8; 8]>::try_from) {
            Some(Ok(owner)) if owner == node.0.to_be_bytes() => Ok(()),
            Some(Ok(owner)) => Err(Error::new(ErrorKind::Conflict, "these metadata files are another node's")
                .with("owner", NodeId(u64::from_be_bytes(owner)))
                .with("node", node)),
            // Every store has an owner before it has its name.
            Some(Err(_)) | None => Err(Error::new(
                ErrorKind::Corrupt,
                "the metadata store has lost its contents; no file was removed. Move the files away and let this node \
                 join again under a new number",
            )),
        }
    }

    pub(super) fn tree(&self, name: &str) -> io::Result<sled::Tree> {
        Ok(self.db.open_tree(name)?)
    }

    pub(super) fn drop_tree(&self, name: &str) -> io::Result<()> {
        self.db.drop_tree(name)?;
        Ok(())
    }

    /// The names of all trees that begin so.
    pub(super) fn trees_under(&self, prefix: &str) -> Vec<String> {
        let names = self.db.tree_names().into_iter().filter_map(|name| String::from_utf8(name.to_vec()).ok());
        names.filter(|name| name.starts_with(prefix)).collect()
    }

    pub(super) fn read<T: DeserializeOwned>(&self, group: GroupId, slot: Slot) -> io::Result<Option<T>> {
        self.meta.get(slot_key(group, slot))?.map(|value| decode(&value)).transpose()
    }

    /// Writes a value; durable with the next flush.
    pub(super) fn write<T: Serialize>(&self, group: GroupId, slot: Slot, value: &T) -> io::Result<()> {
        self.meta.insert(slot_key(group, slot), encode(value)?)?;
        Ok(())
    }

    /// Comes back once everything written before is durable.
    pub(super) async fn sync(&self) -> io::Result<()> {
        let (done, flushed) = oneshot::channel();
        self.enqueue(Waiter::Task(done)).map_err(|(error, _)| error)?;
        flushed.await.map_err(|_| closed())?
    }

    /// Tells Raft once everything written before is durable. Calls are answered in order.
    pub(super) fn notify_when_durable(&self, callback: IOFlushed<Types>) {
        if let Err((error, Waiter::Raft(callback))) = self.enqueue(Waiter::Raft(callback)) {
            callback.io_completed(Err(error));
        }
    }

    fn enqueue(&self, waiter: Waiter) -> Result<(), (io::Error, Waiter)> {
        let sender = {
            let flusher = self.flusher.lock().unwrap_or_else(PoisonError::into_inner);
            flusher.as_ref().map(|(sender, _)| sender.clone())
        };
        match sender {
            Some(sender) => sender.send(waiter).map_err(|refused| (closed(), refused.0)),
            None => Err((closed(), waiter)),
        }
    }

    /// Flushes what is waiting and ends the flusher. Nothing becomes durable afterwards.
    pub(super) fn close(&self) {
        let flusher = self.flusher.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some((sender, thread)) = flusher {
            drop(sender);
            if thread.join().is_err() {
                tracing::error!("the metadata flusher panicked");
            }
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.close();
    }
}

const LOCK_TRIES: u32 = 20;
const LOCK_PAUSE: std::time::Duration = std::time::Duration::from_millis(25);

fn open_database(path: &Path) -> Result<sled::Db, Error> {
    let config = sled::Config::new()
        .path(path)
        .mode(sled::Mode::HighThroughput)
        .cache_capacity(CACHE_BYTES)
        .flush_every_ms(None);
    // sled panics on some damage. Nothing of it outlives the panic.
    let mut opened = std::panic::catch_unwind(AssertUnwindSafe(|| config.open()));
    // A process that is just ending, or one that forks at this moment, may hold the lock a little longer than it means to.
    for _ in 0..LOCK_TRIES {
        let Ok(Err(sled::Error::Io(error))) = &opened else { break };
        if error.kind() != io::ErrorKind::WouldBlock && !error.to_string().contains("WouldBlock") {
            break;
        }
        std::thread::sleep(LOCK_PAUSE);
        opened = std::panic::catch_unwind(AssertUnwindSafe(|| config.open()));
    }
    match opened {
        Ok(Ok(db)) => Ok(db),
        Ok(Err(error @ sled::Error::Corruption { .. })) => Err(cannot_open(ErrorKind::Corrupt, path).caused_by(error)),
        Ok(Err(error)) => Err(cannot_open(ErrorKind::DriveFailed, path).caused_by(error)),
        Err(_) => Err(cannot_open(ErrorKind::Corrupt, path)),
    }
}

fn cannot_open(kind: ErrorKind, path: &Path) -> Error {
    let what = "the metadata store cannot be opened; no file was removed. If another process has it, stop that one; if \
                it is damaged, move the files away and let this node join again under a new number";
    Error::new(kind, what).with("path", path.display())
}

/// Makes a node's files: under another name first, so that what has the name is whole.
fn make(dir: &Path, path: &Path, node: NodeId) -> Result<(), Error> {
    let failed = |error: io::Error| cannot_open(ErrorKind::DriveFailed, path).caused_by(error);
    let unfinished = dir.join("db.new");
    if unfinished.exists() {
        std::fs::remove_dir_all(&unfinished).map_err(failed)?;
    }
    let db = open_database(&unfinished)?;
    let claim = || {
        db.open_tree(META)?.insert(OWNER, &node.0.to_be_bytes())?;
        db.flush()
    };
    claim().map_err(|error| failed(error.into()))?;
    drop(db);
    let publish = || {
        sync_files(&unfinished)?;
        std::fs::rename(&unfinished, path)?;
        for directory in [Some(dir), dir.parent()].into_iter().flatten() {
            if !directory.as_os_str().is_empty() {
                File::open(directory)?.sync_all()?;
            }
        }
        Ok(())
    };
    publish().map_err(failed)
}

/// Makes the database's files durable, and their names.
fn sync_files(path: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(path)? {
        File::open(entry?.path())?.sync_all()?;
    }
    File::open(path)?.sync_all()
}

/// Flushes once for all who wait, again and again, until nobody can ask any more.
fn flush_forever(db: &sled::Db, file: &File, waiters: &Receiver<Waiter>) {
    let mut failure: Option<String> = None;
    while let Ok(first) = waiters.recv() {
        let mut waiting = vec![first];
        waiting.extend(waiters.try_iter().take(FLUSH_BATCH_MAX - 1));
        if failure.is_none() {
            let flushed = db.flush().map_err(io::Error::from).and_then(|_| file.sync_all());
            // After a failed fsync nobody knows what is on the drive: nothing is promised any more.
            failure = flushed.err().map(|error| error.to_string());
            if let Some(error) = &failure {
                tracing::error!(error, "the metadata store cannot be made durable; its groups stop");
            }
        }
        let outcome = || failure.as_ref().map_or(Ok(()), |error| Err(io::Error::other(error.clone())));
        for waiter in waiting {
            match waiter {
                Waiter::Raft(callback) => callback.io_completed(outcome()),
                // Who asked may have gone; then nobody wants to know.
                Waiter::Task(done) => drop(done.send(outcome())),
            }
        }
    }
}

fn closed() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the metadata store is closed")
}

fn slot_key(group: GroupId, slot: Slot) -> [u8; 10] {
    let mut key = [0; 10];
    key[0] = b'g';
    key[1..9].copy_from_slice(&group.0.to_be_bytes());
    key[9] = slot as u8;
    key
}
