//! Raft's log and vote.
//!
//! Owns the order of things that Raft relies on: a vote is durable when [`RaftLogStorage::save_vote`] returns; an
//! append says so only once it is, and in order; a purge writes its watermark before it removes anything. What keeps
//! the entries stands behind [`Log`].

use std::{
    fmt::Debug,
    io,
    ops::{Bound, RangeBounds},
    sync::Arc,
};

use mesh_core::id::GroupId;
use openraft::{
    LogState, OptionalSend, RaftLogReader,
    entry::RaftEntry,
    storage::{IOFlushed, RaftLogStorage},
};

use super::{
    chunks,
    store::{Slot, Store},
    types::{Entry, LogId, Types, Vote, decode, encode},
};

/// Entries that are read for one append message, together; at least one is read, however large.
pub(super) const READ_BYTES_MAX: usize = 1 << 20;

/// Keeps numbered entries. What it was told is durable with the store's next flush.
pub(super) trait Log: Send + Sync + 'static {
    /// Keeps entries behind the last.
    fn append(&self, entries: Vec<(u64, Vec<u8>)>) -> io::Result<()>;
    /// Entries `from <= index < to`, ascending; ends early once they take `bytes_max` together.
    fn read(&self, from: u64, to: u64, bytes_max: usize) -> io::Result<Vec<Vec<u8>>>;
    /// The last entry.
    fn last(&self) -> io::Result<Option<Vec<u8>>>;
    /// Removes all entries from `from` on.
    fn cut(&self, from: u64) -> io::Result<()>;
    /// Removes all entries up to and including `to`.
    fn forget(&self, to: u64) -> io::Result<()>;
}

/// A log in a sled tree.
///
/// ```text
/// index:8 0:2            the head of an entry, see super::chunks
/// index:8 1 + piece:2    its further pieces
/// ```
struct SledLog(sled::Tree);

fn entry_key(index: u64, piece: u16) -> [u8; 10] {
    let mut key = [0; 10];
    key[..8].copy_from_slice(&index.to_be_bytes());
    key[8..].copy_from_slice(&piece.to_be_bytes());
    key
}

impl SledLog {
    fn remove(&self, range: impl RangeBounds<[u8; 10]>) -> io::Result<()> {
        let mut batch = sled::Batch::default();
        for key in self.0.range(range).keys() {
            batch.remove(key?);
        }
        Ok(self.0.apply_batch(batch)?)
    }

    fn join(&self, key: &[u8], head: &[u8]) -> io::Result<Vec<u8>> {
        let Some(index) = key.first_chunk::<8>().map(|bytes| u64::from_be_bytes(*bytes)) else {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a log key is damaged"));
        };
        chunks::join(head, |piece| Ok(self.0.get(entry_key(index, piece + 1))?))
    }
}

impl Log for SledLog {
    fn append(&self, entries: Vec<(u64, Vec<u8>)>) -> io::Result<()> {
        let mut batch = sled::Batch::default();
        for (index, value) in entries {
            let (head, pieces) = chunks::cut(&value)?;
            batch.insert(&entry_key(index, 0), head);
            for (piece, bytes) in (1..).zip(pieces) {
                batch.insert(&entry_key(index, piece), bytes);
            }
        }
        Ok(self.0.apply_batch(batch)?)
    }

    fn read(&self, from: u64, to: u64, bytes_max: usize) -> io::Result<Vec<Vec<u8>>> {
        let (mut found, mut bytes) = (Vec::new(), 0);
        for row in self.0.range(entry_key(from, 0)..entry_key(to, 0)) {
            let (key, head) = row?;
            if !key.ends_with(&[0, 0]) {
                continue;
            }
            let value = self.join(&key, &head)?;
            bytes += value.len();
            if bytes > bytes_max && !found.is_empty() {
                break;
            }
            found.push(value);
        }
        Ok(found)
    }

    fn last(&self) -> io::Result<Option<Vec<u8>>> {
        let Some((key, _)) = self.0.last()? else { return Ok(None) };
        let Some(index) = key.first_chunk::<8>().map(|bytes| u64::from_be_bytes(*bytes)) else {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a log key is damaged"));
        };
        let head_key = entry_key(index, 0);
        match self.0.get(head_key)? {
            Some(head) => self.join(&head_key, &head).map(Some),
            None => Err(io::Error::new(io::ErrorKind::InvalidData, "the head of the last log entry is missing")),
        }
    }

    fn cut(&self, from: u64) -> io::Result<()> {
        self.remove(entry_key(from, 0)..)
    }

    fn forget(&self, to: u64) -> io::Result<()> {
        self.remove(..=entry_key(to, u16::MAX))
    }
}

/// One group's log, as Raft wants it.
#[derive(Clone)]
pub(in crate::metadata) struct LogStore {
    group: GroupId,
    log: Arc<dyn Log>,
    store: Arc<Store>,
}

impl LogStore {
    /// Opens a group's log. What an interrupted purge left is removed.
    pub(super) fn open(store: Arc<Store>, group: GroupId) -> io::Result<Self> {
        let log = Arc::new(SledLog(store.tree(&format!("log/{:016x}", group.0))?));
        let opened = Self { group, log, store };
        if let Some(purged) = opened.purged()? {
            opened.log.forget(purged.index)?;
        }
        Ok(opened)
    }

    fn purged(&self) -> io::Result<Option<LogId>> {
        self.store.read(self.group, Slot::Purged)
    }

    fn entries(&self, from: u64, to: u64, bytes_max: usize) -> io::Result<Vec<Entry>> {
        self.log.read(from, to, bytes_max)?.iter().map(|bytes| decode(bytes)).collect()
    }
}

impl RaftLogReader<Types> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        let from = match range.start_bound() {
            Bound::Included(&at) => at,
            Bound::Excluded(&at) => at.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let to = match range.end_bound() {
            Bound::Included(&at) => at.saturating_add(1),
            Bound::Excluded(&at) => at,
            Bound::Unbounded => u64::MAX,
        };
        if from >= to { Ok(Vec::new()) } else { self.entries(from, to, usize::MAX) }
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        self.store.read(self.group, Slot::Vote)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, io::Error> {
        if start >= end { Ok(Vec::new()) } else { self.entries(start, end, READ_BYTES_MAX) }
    }
}

impl RaftLogStorage<Types> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, io::Error> {
        let purged = self.purged()?;
        let last = match self.log.last()? {
            Some(bytes) => Some(decode::<Entry>(&bytes)?.log_id()),
            None => purged,
        };
        Ok(LogState { last_purged_log_id: purged, last_log_id: last })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        self.store.write(self.group, Slot::Vote, vote)?;
        self.store.sync().await
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let encoded = entries.into_iter().map(|entry| Ok((entry.index(), encode(&entry)?)));
        self.log.append(encoded.collect::<io::Result<_>>()?)?;
        self.store.notify_when_durable(callback);
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> Result<(), io::Error> {
        self.log.cut(last.map_or(0, |last| last.index + 1))?;
        self.store.sync().await
    }

    async fn purge(&mut self, to: LogId) -> Result<(), io::Error> {
        // The watermark first: a log that lacks entries it does not know to be purged would be damaged.
        self.store.write(self.group, Slot::Purged, &to)?;
        self.store.sync().await?;
        self.log.forget(to.index)?;
        self.store.sync().await
    }
}
