//! Raft's log and vote.
//!
//! Owns the order of things that Raft relies on: a vote is durable when [`RaftLogStorage::save_vote`] returns; an
//! append says so only once it is, and in order; a purge writes its watermark before it removes anything, and a
//! truncation lowers the mark before. What keeps the entries stands behind [`Log`].

use std::{
    fmt::Debug,
    io,
    ops::{Bound, RangeBounds},
    sync::{Arc, PoisonError, RwLock},
};

use mesh_core::{id::GroupId, meta::Level, wire::crc32c};
use openraft::{
    LogState, OptionalSend, RaftLogReader,
    entry::RaftEntry,
    storage::{IOFlushed, RaftLogStorage},
};

use super::{
    chunks,
    flush::guarded,
    store::{Slot, Store},
    trees::{Batch, Tree},
    types::{Entry, LogId, Types, Vote, decode, encode, raised_by},
};

/// Entries that are read for one append message, together; at least one is read, however large.
pub(super) const READ_BYTES_MAX: usize = 1 << 20;

/// Keeps numbered entries without gaps. What it was told is durable with the store's next flush.
pub(super) trait Log: Send + Sync + 'static {
    /// Keeps entries behind the last. Gives the checksum of the last of them, which covers all before it.
    fn append(&self, entries: Vec<(u64, Vec<u8>)>) -> io::Result<u32>;
    /// Entries `from <= index < to` that are kept, ascending; ends early once they take `bytes_max` together.
    ///
    /// # Errors
    /// `InvalidData` if one of them is missing, damaged, or not the one that was kept.
    fn read(&self, from: u64, to: u64, bytes_max: usize) -> io::Result<Vec<Vec<u8>>>;
    /// The number of the last entry.
    fn last(&self) -> Option<u64>;
    /// The checksum of an entry, if it is kept.
    fn checksum(&self, index: u64) -> io::Result<Option<u32>>;
    /// Removes all entries from `from` on.
    fn cut(&self, from: u64) -> io::Result<()>;
    /// Removes all entries up to and including `to`.
    fn forget(&self, to: u64) -> io::Result<()>;
}

/// A log in a tree.
///
/// ```text
/// index:8 0:2            the head of an entry, see super::chunks
/// index:8 1 + piece:2    its further pieces
/// an entry               crc:4 before:4 bytes
///                        before: the crc of the entry before it, 0 if there was none when this one was appended
///                        crc: CRC-32C of index, before and bytes
/// ```
///
/// So the checksum of one entry tells the whole log before it: an older entry that came back in its place, with a
/// checksum that is right in itself, does not fit.
pub(super) struct TreeLog {
    tree: Tree,
    /// Held while entries are removed, and shared while they are read.
    kept: RwLock<Kept>,
}

/// Which entries must be there.
#[derive(Clone, Copy, Debug, Default)]
struct Kept {
    /// All before this are purged.
    first: u64,
    /// The last, and its checksum.
    last: Option<(u64, u32)>,
    /// The level to which the mesh was raised by what was there when it was opened.
    raised: Level,
}

/// The name of a group's tree.
pub(super) fn tree_name(group: GroupId) -> String {
    format!("log/{:016x}", group.0)
}

/// The group whose tree has this name.
pub(super) fn group_of(name: &str) -> Option<GroupId> {
    u64::from_str_radix(name.strip_prefix("log/")?, 16).ok().map(GroupId)
}

fn entry_key(index: u64, piece: u16) -> [u8; 10] {
    let mut key = [0; 10];
    key[..8].copy_from_slice(&index.to_be_bytes());
    key[8..].copy_from_slice(&piece.to_be_bytes());
    key
}

fn parse_key(key: &[u8]) -> Option<(u64, u16)> {
    let (index, piece) = key.split_first_chunk::<8>()?;
    Some((u64::from_be_bytes(*index), u16::from_be_bytes(piece.try_into().ok()?)))
}

fn checksum(index: u64, before: u32, bytes: &[u8]) -> u32 {
    let mut covered = Vec::with_capacity(bytes.len() + 12);
    covered.extend_from_slice(&index.to_le_bytes());
    covered.extend_from_slice(&before.to_le_bytes());
    covered.extend_from_slice(bytes);
    crc32c(&covered)
}

/// An entry as it is kept.
struct Sealed {
    crc: u32,
    before: u32,
    bytes: Vec<u8>,
}

impl Sealed {
    fn seal(index: u64, before: u32, bytes: &[u8]) -> (u32, Vec<u8>) {
        let crc = checksum(index, before, bytes);
        (crc, [&crc.to_le_bytes(), &before.to_le_bytes(), bytes].concat())
    }

    fn open(index: u64, mut sealed: Vec<u8>) -> io::Result<Self> {
        let word = |at: usize| sealed.get(at..)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes));
        let (Some(crc), Some(before)) = (word(0), word(4)) else { return Err(damaged(index, "is cut short")) };
        sealed.drain(..8);
        if crc == checksum(index, before, &sealed) {
            Ok(Self { crc, before, bytes: sealed })
        } else {
            Err(damaged(index, "fails its checksum"))
        }
    }
}

fn damaged(index: u64, what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("entry {index} of the log {what}"))
}

impl TreeLog {
    /// Opens a log that is purged up to an entry, and reads all of it.
    ///
    /// # Errors
    /// `InvalidData` if an entry behind the purged ones is missing, damaged, or not the one that was kept; `Unsupported` if a
    /// newer build wrote it and this one cannot read it.
    pub(super) fn open(tree: Tree, purged: Option<LogId>) -> io::Result<Self> {
        let mut kept = Kept { first: purged.map_or(0, |purged| purged.index + 1), ..Kept::default() };
        let first = kept.first;
        guarded(|| {
            for row in tree.range(Bound::Included(&entry_key(first, 0)), Bound::Unbounded) {
                let (key, _) = row?;
                let Some((index, piece)) = parse_key(&key) else { return Err(damaged(first, "has a damaged key")) };
                if piece != 0 {
                    match kept.last {
                        Some((last, _)) if last == index => continue,
                        _ => return Err(damaged(index, "has lost its head")),
                    }
                }
                let entry = entry_at(&tree, index)?.ok_or_else(|| damaged(index, "is missing"))?;
                match kept.last {
                    Some((last, _)) if index != last + 1 => return Err(damaged(last + 1, "is missing")),
                    Some((_, crc)) if crc != entry.before => {
                        return Err(damaged(index, "does not follow the one before"));
                    }
                    // A log of which nothing was purged may begin anywhere.
                    None if index != first && (purged.is_some() || entry.before != 0) => {
                        return Err(damaged(first, "is missing"));
                    }
                    None => kept.first = index,
                    Some(_) => {}
                }
                let read: Entry = decode(&entry.bytes)?;
                if read.index() != index {
                    return Err(damaged(index, "stands in another's place"));
                }
                kept.raised = kept.raised.max(raised_by(&read));
                kept.last = Some((index, entry.crc));
            }
            Ok(())
        })?;
        Ok(Self { tree, kept: RwLock::new(kept) })
    }

    fn kept(&self) -> Kept {
        *self.kept.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn remove(&self, from: Bound<&[u8]>, to: Bound<&[u8]>) -> io::Result<()> {
        guarded(|| {
            let mut batch = Batch::default();
            for row in self.tree.range(from, to) {
                batch.remove(row?.0);
            }
            self.tree.apply(batch)
        })
    }
}

/// Reads one entry.
fn entry_at(tree: &Tree, index: u64) -> io::Result<Option<Sealed>> {
    let Some(head) = tree.get(entry_key(index, 0))? else { return Ok(None) };
    let joined = chunks::join(&head, |piece| tree.get(entry_key(index, piece + 1)));
    Sealed::open(
        index,
        joined.map_err(|error| match error.raw_os_error() {
            // It says nothing of what is there.
            Some(_) => error,
            None => io::Error::new(error.kind(), format!("entry {index} of the log: {error}")),
        })?,
    )
    .map(Some)
}

impl Log for TreeLog {
    fn append(&self, entries: Vec<(u64, Vec<u8>)>) -> io::Result<u32> {
        let Kept { mut first, mut last, raised } = self.kept();
        let mut batch = Batch::default();
        for (index, bytes) in entries {
            match last {
                // It begins where it was purged, or anywhere.
                None if first == 0 || index == first => first = index,
                Some((last, _)) if index == last + 1 => {}
                _ => {
                    let gap = format!("entry {index} does not follow the last of the log, {last:?}");
                    return Err(io::Error::new(io::ErrorKind::InvalidInput, gap));
                }
            }
            let (crc, sealed) = Sealed::seal(index, last.map_or(0, |(_, crc)| crc), &bytes);
            let (head, pieces) = chunks::cut(&sealed)?;
            batch.insert(&entry_key(index, 0), head);
            for (piece, bytes) in (1..).zip(pieces) {
                batch.insert(&entry_key(index, piece), bytes);
            }
            last = Some((index, crc));
        }
        guarded(|| self.tree.apply(batch))?;
        *self.kept.write().unwrap_or_else(PoisonError::into_inner) = Kept { first, last, raised };
        Ok(last.map_or(0, |(_, crc)| crc))
    }

    fn read(&self, from: u64, to: u64, bytes_max: usize) -> io::Result<Vec<Vec<u8>>> {
        let kept = self.kept.read().unwrap_or_else(PoisonError::into_inner);
        let Some((last, _)) = kept.last else { return Ok(Vec::new()) };
        let (mut found, mut bytes, mut before) = (Vec::new(), 0, None);
        for index in from.max(kept.first)..to.min(last + 1) {
            let Some(entry) = guarded(|| entry_at(&self.tree, index))? else {
                return Err(damaged(index, "is missing"));
            };
            if before.is_some_and(|before| before != entry.before) {
                return Err(damaged(index, "does not follow the one before it"));
            }
            bytes += entry.bytes.len();
            if bytes > bytes_max && !found.is_empty() {
                break;
            }
            before = Some(entry.crc);
            found.push(entry.bytes);
        }
        Ok(found)
    }

    fn last(&self) -> Option<u64> {
        self.kept().last.map(|(index, _)| index)
    }

    fn checksum(&self, index: u64) -> io::Result<Option<u32>> {
        let kept = self.kept.read().unwrap_or_else(PoisonError::into_inner);
        if index < kept.first || kept.last.is_none_or(|(last, _)| index > last) {
            return Ok(None);
        }
        Ok(guarded(|| entry_at(&self.tree, index))?.map(|entry| entry.crc))
    }

    fn cut(&self, from: u64) -> io::Result<()> {
        let mut kept = self.kept.write().unwrap_or_else(PoisonError::into_inner);
        let last = match from.checked_sub(1) {
            Some(last) if last >= kept.first => guarded(|| entry_at(&self.tree, last))?.map(|entry| (last, entry.crc)),
            _ => None,
        };
        self.remove(Bound::Included(&entry_key(from, 0)), Bound::Unbounded)?;
        if kept.last.is_some_and(|(last, _)| last >= from) {
            kept.last = last;
        }
        Ok(())
    }

    fn forget(&self, to: u64) -> io::Result<()> {
        let mut kept = self.kept.write().unwrap_or_else(PoisonError::into_inner);
        kept.first = kept.first.max(to + 1);
        if kept.last.is_some_and(|(last, _)| last <= to) {
            kept.last = None;
        }
        self.remove(Bound::Unbounded, Bound::Included(&entry_key(to, u16::MAX)))
    }
}

/// One group's log, as Raft wants it.
#[derive(Clone)]
pub(crate) struct LogStore {
    group: GroupId,
    log: Arc<dyn Log>,
    store: Arc<Store>,
    raised: Level,
}

impl LogStore {
    /// Opens a group's log. What an interrupted purge left is removed. The group gets its number, if it has none.
    ///
    /// # Errors
    /// `InvalidData` if the group is damaged.
    pub(super) fn open(store: Arc<Store>, group: GroupId) -> io::Result<Self> {
        store.sound(group)?;
        store.replica(group)?;
        let purged: Option<LogId> = store.read(group, Slot::Purged)?;
        let log = store.heed(group, TreeLog::open(store.tree(&tree_name(group))?, purged))?;
        if let Some(purged) = purged {
            log.forget(purged.index)?;
        }
        let raised = log.kept().raised;
        Ok(Self { group, log: Arc::new(log), store, raised })
    }

    /// The level to which the mesh was raised by what was kept when it was opened.
    pub(super) const fn raised(&self) -> Level {
        self.raised
    }

    fn purged(&self) -> io::Result<Option<LogId>> {
        self.store.read(self.group, Slot::Purged)
    }

    /// The last entry, kept or purged.
    pub(super) fn last_id(&self) -> io::Result<Option<LogId>> {
        match self.log.last() {
            Some(last) => Ok(self.entries(last, last + 1, usize::MAX)?.first().map(RaftEntry::log_id)),
            None => self.purged(),
        }
    }

    /// Some entries from there on, at least one if there are any.
    pub(super) fn entries_from(&self, from: u64) -> io::Result<Vec<Entry>> {
        self.entries(from, u64::MAX, READ_BYTES_MAX)
    }

    fn entries(&self, from: u64, to: u64, bytes_max: usize) -> io::Result<Vec<Entry>> {
        self.store.sound(self.group)?;
        let read = || self.log.read(from, to, bytes_max)?.iter().map(|bytes| decode(bytes)).collect();
        self.store.heed(self.group, read())
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
        Ok(LogState { last_purged_log_id: self.purged()?, last_log_id: self.last_id()? })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        self.store.write(self.group, Slot::Vote, vote)?;
        self.store.claim(self.group, |claim| claim.vote = Some(*vote));
        self.store.sync().await
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        self.store.sound(self.group)?;
        let mut last = None;
        let encoded = entries.into_iter().map(|entry| {
            last = Some(entry.log_id());
            Ok((entry.index(), encode(&entry)?))
        });
        let encoded = encoded.collect::<io::Result<Vec<_>>>()?;
        if let Some(last) = last {
            let crc = self.store.heed(self.group, self.log.append(encoded))?;
            self.store.claim(self.group, |claim| claim.last = Some((last, crc)));
        }
        self.store.notify_when_durable(callback);
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> Result<(), io::Error> {
        self.store.sound(self.group)?;
        let end = match last {
            Some(last) => self.store.heed(self.group, self.log.checksum(last.index))?.map(|crc| (last, crc)),
            None => None,
        };
        // The mark first: a log that has less than it claims would be damaged.
        self.store.claim(self.group, |claim| {
            if claim.last.is_some_and(|(claimed, _)| last.is_none_or(|last| claimed.index > last.index)) {
                claim.last = end;
            }
        });
        self.store.sync().await?;
        self.store.heed(self.group, self.log.cut(last.map_or(0, |last| last.index + 1)))?;
        self.store.sync().await
    }

    async fn purge(&mut self, to: LogId) -> Result<(), io::Error> {
        // The watermark first: a log that lacks entries it does not know to be purged would be damaged.
        self.store.write(self.group, Slot::Purged, &to)?;
        self.store.claim(self.group, |claim| {
            claim.purged = Some(to);
            claim.last = claim.last.filter(|(last, _)| last.index > to.index);
        });
        self.store.sync().await?;
        self.store.heed(self.group, self.log.forget(to.index))?;
        self.store.sync().await
    }
}
