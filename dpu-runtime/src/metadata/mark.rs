//! The mark: what the node's metadata store has promised, beside the database, in a file of our own.
//!
//! A database that lost its end looks like one that never had it: sled cuts its log where it cannot read it, and says
//! nothing. The mark tells them apart. It claims only what the database has durably, and is durable itself before
//! anything is acknowledged. So a power cut leaves a database that has at least what the mark claims, and one that has
//! less is damaged.
//!
//! ```text
//! <dir>/mark    slot 0, slot 1     SLOT_BYTES each; written in turn, the newer one that is whole counts
//!   slot        "MESHMARK"  crc:4  len:4  sequence:8  claims, encoded:len  zeros
//!               crc: CRC-32C of len, sequence and claims; numbers are little-endian
//! ```
//!
//! The format of the claims is that of everything in the store: one of another format is told from a damaged one here,
//! before anything else of it is read.
//!
//! The file is made under another name and never changes its length: any other length is damage, not a power cut.

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use mesh_core::{
    id::{GroupId, NodeId, ReplicaId},
    meta::FORMAT,
    wire::crc32c,
};
use serde::{Deserialize, Serialize};

use super::{
    flush::lock,
    types::{LogId, Vote, decode, encode},
};

/// Groups that one node has replicas of at most: 64 namespaces, the control group, and some room.
pub(super) const GROUPS_MAX: usize = 72;
/// What one group's claim takes at most: fourteen numbers of ten bytes at most, some of five, and tags.
const CLAIM_BYTES_MAX: usize = 168;
const SLOT_BYTES: usize = 12 << 10;
const HEAD_BYTES: usize = 24;
const MAGIC: [u8; 8] = *b"MESHMARK";
const BLOCK_BYTES: usize = 4096;

const _: () = assert!(HEAD_BYTES + 32 + GROUPS_MAX * CLAIM_BYTES_MAX <= SLOT_BYTES);

/// What the store promises of one group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Claim {
    /// The number of this node's replica.
    pub(super) replica: ReplicaId,
    /// The generation of the state tree in use, at least.
    pub(super) generation: u64,
    /// Raft's vote, at least.
    pub(super) vote: Option<Vote>,
    /// The log reaches to this entry, at least; with its checksum, which covers all before it.
    pub(super) last: Option<(LogId, u32)>,
    /// The log is purged up to here, at least.
    pub(super) purged: Option<LogId>,
    /// The state has this entry, at least.
    pub(super) applied: Option<LogId>,
}

impl Claim {
    /// Nothing was ever kept.
    pub(super) fn is_empty(&self) -> bool {
        *self == Self { replica: self.replica, ..Self::default() }
    }
}

/// What the store promises.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Claims {
    /// Whose files they are.
    pub(super) node: NodeId,
    /// By group.
    pub(super) groups: BTreeMap<GroupId, Claim>,
}

/// What is found in place of a mark.
pub(super) enum Found {
    /// No file.
    Nothing,
    /// A file that tells nothing, and why.
    Damaged(String),
    /// The mark of a store of this other format.
    OfFormat(u8),
    /// A whole mark of another build, and why this one cannot read it.
    OfAnotherBuild(io::Error),
    /// The mark.
    Whole(Mark, Claims),
}

/// What holds both slots. It never changes its length.
pub(super) enum Slots {
    /// A file.
    File(File),
    /// Memory: what is written is durable.
    Memory(Arc<Mutex<Vec<u8>>>),
}

impl Slots {
    /// Those of a folder.
    ///
    /// # Errors
    /// `NotFound` if there are none.
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        OpenOptions::new().read(true).write(true).open(path(dir)).map(Self::File)
    }

    /// New ones in memory.
    pub(super) fn in_memory() -> Self {
        Self::Memory(Arc::new(Mutex::new(vec![0; 2 * SLOT_BYTES])))
    }

    /// The same ones, if they are in memory.
    pub(super) fn same(&self) -> Option<Self> {
        let Self::Memory(bytes) = self else { return None };
        Some(Self::Memory(Arc::clone(bytes)))
    }

    /// Others in memory that hold the same, if these are there.
    pub(super) fn copy(&self) -> Option<Self> {
        let Self::Memory(bytes) = self else { return None };
        Some(Self::Memory(Arc::new(Mutex::new(lock(bytes).clone()))))
    }

    fn len(&self) -> io::Result<u64> {
        match self {
            Self::File(file) => Ok(file.metadata()?.len()),
            Self::Memory(bytes) => Ok(lock(bytes).len() as u64),
        }
    }

    fn read(&self) -> io::Result<Vec<u8>> {
        match self {
            Self::File(file) => {
                let mut bytes = vec![0; 2 * SLOT_BYTES];
                file.read_exact_at(&mut bytes, 0)?;
                Ok(bytes)
            }
            Self::Memory(bytes) => Ok(lock(bytes).clone()),
        }
    }

    /// Puts one slot, durably.
    fn put(&self, slot: &[u8], at: usize) -> io::Result<()> {
        match self {
            Self::File(file) => {
                file.write_all_at(slot, at as u64)?;
                file.sync_data()
            }
            Self::Memory(bytes) => {
                let mut bytes = lock(bytes);
                let place = bytes.get_mut(at..at + slot.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
                place.copy_from_slice(slot);
                Ok(())
            }
        }
    }
}

/// The mark, which is written again and again.
pub(super) struct Mark {
    slots: Slots,
    /// Of the slot written last.
    sequence: u64,
}

impl Mark {
    /// Makes a mark, in place of any other, durably.
    pub(super) fn make(dir: &Path, claims: &Claims) -> io::Result<Self> {
        let (path, unfinished) = (path(dir), dir.join("mark.new"));
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&unfinished)?;
        file.write_all_at(&[0; 2 * SLOT_BYTES], 0)?;
        let mark = Self::make_in(Slots::File(file), claims)?;
        if let Slots::File(file) = &mark.slots {
            file.sync_all()?;
        }
        std::fs::rename(&unfinished, path)?;
        File::open(dir)?.sync_all()?;
        Ok(mark)
    }

    /// The same in new slots.
    pub(super) fn make_in(slots: Slots, claims: &Claims) -> io::Result<Self> {
        let mut mark = Self { slots, sequence: 0 };
        mark.write(claims)?;
        mark.write(claims)?;
        Ok(mark)
    }

    /// Reads a mark.
    ///
    /// # Errors
    /// It cannot be read: nothing is known of what it says.
    pub(super) fn read(slots: Slots) -> io::Result<Found> {
        let len = slots.len()?;
        if len != 2 * SLOT_BYTES as u64 {
            let said = format!("the mark is {len} bytes long instead of {}", 2 * SLOT_BYTES);
            return Ok(Found::Damaged(said));
        }
        let bytes = slots.read()?;
        let whole = bytes.chunks_exact(SLOT_BYTES).filter_map(parse);
        let Some((sequence, claims)) = whole.max_by_key(|(sequence, _)| *sequence) else {
            return Ok(Found::Damaged("both halves of the mark fail their checksums".into()));
        };
        Ok(match claims.first() {
            Some(&format) if format != FORMAT => Found::OfFormat(format),
            _ => match decode(claims) {
                Ok(claims) => Found::Whole(Self { slots, sequence }, claims),
                Err(error) if error.kind() == io::ErrorKind::Unsupported => Found::OfAnotherBuild(error),
                Err(error) => Found::Damaged(format!("the mark says what cannot be: {error}")),
            },
        })
    }

    /// How often it was written.
    pub(super) const fn count(&self) -> u64 {
        self.sequence
    }

    /// Writes what is claimed from now on; durable when it returns.
    pub(super) fn write(&mut self, claims: &Claims) -> io::Result<()> {
        let sequence = self.sequence + 1;
        let slot = draw(sequence, claims)?;
        self.slots.put(&slot, (sequence % 2) as usize * SLOT_BYTES)?;
        self.sequence = sequence;
        Ok(())
    }
}

/// Where the mark is.
pub(super) fn path(dir: &Path) -> PathBuf {
    dir.join("mark")
}

/// A slot's bytes, as far as they are used, in whole blocks.
fn draw(sequence: u64, claims: &Claims) -> io::Result<Vec<u8>> {
    let claims = encode(claims)?;
    let used = (HEAD_BYTES + claims.len()).next_multiple_of(BLOCK_BYTES);
    if used > SLOT_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many metadata groups for one node's mark"));
    }
    let mut slot = Vec::with_capacity(used);
    slot.extend_from_slice(&MAGIC);
    slot.extend_from_slice(&[0; 4]);
    slot.extend_from_slice(&(claims.len() as u32).to_le_bytes());
    slot.extend_from_slice(&sequence.to_le_bytes());
    slot.extend_from_slice(&claims);
    let crc = crc32c(&slot[12..]);
    slot[8..12].copy_from_slice(&crc.to_le_bytes());
    slot.resize(used, 0);
    Ok(slot)
}

/// The number and the claims of a slot that is whole.
fn parse(slot: &[u8]) -> Option<(u64, &[u8])> {
    let (head, rest) = slot.split_at_checked(HEAD_BYTES)?;
    let word = |at: usize| Some(u32::from_le_bytes(*head.get(at..)?.first_chunk()?));
    let len = word(12)? as usize;
    let claims = rest.get(..len)?;
    if !head.starts_with(&MAGIC) || word(8)? != crc32c(slot.get(12..HEAD_BYTES + len)?) {
        return None;
    }
    Some((u64::from_le_bytes(*head.get(16..)?.first_chunk()?), claims))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
mod tests {
    use super::*;

    fn claims(groups: usize, number: u64) -> Claims {
        let leader_id = openraft::impls::leader_id_adv::LeaderId { term: number, node_id: u64::MAX };
        let log_id = LogId { leader_id, index: number };
        let claim = Claim {
            replica: ReplicaId(u64::MAX),
            generation: number,
            vote: Some(Vote { leader_id, committed: true }),
            last: Some((log_id, u32::MAX)),
            purged: Some(log_id),
            applied: Some(log_id),
        };
        let groups = (0..groups as u64).map(|group| (GroupId(u64::MAX - group), claim.clone())).collect();
        Claims { node: NodeId(1), groups }
    }

    fn read(dir: &Path) -> Option<Claims> {
        match Mark::read(Slots::open(dir).unwrap()).unwrap() {
            Found::Whole(_, claims) => Some(claims),
            _ => None,
        }
    }

    #[test]
    fn holds_the_most_groups_with_the_largest_numbers() {
        let dir = tempfile::tempdir().unwrap();
        let wanted = claims(GROUPS_MAX, u64::MAX);
        Mark::make(dir.path(), &wanted).unwrap();
        assert_eq!(read(dir.path()), Some(wanted));
    }

    #[test]
    fn a_write_that_was_cut_leaves_the_mark_before_it() {
        let dir = tempfile::tempdir().unwrap();
        let mut mark = Mark::make(dir.path(), &claims(40, 1)).unwrap();
        mark.write(&claims(40, 2)).unwrap();
        let before = std::fs::read(path(dir.path())).unwrap();
        mark.write(&claims(40, 3)).unwrap();
        let after = std::fs::read(path(dir.path())).unwrap();
        // Whatever part of it reached the medium, in whatever order of sectors.
        let changed: Vec<usize> =
            (0..after.len() / 512).filter(|at| before[at * 512..][..512] != after[at * 512..][..512]).collect();
        assert!(changed.len() > 3);
        for some in 0..(1_u32 << changed.len().min(12)) {
            let mut bytes = before.clone();
            let taken = changed.iter().enumerate().filter(|(bit, _)| some & (1 << bit.min(&11)) != 0);
            taken.for_each(|(_, at)| bytes[at * 512..][..512].copy_from_slice(&after[at * 512..][..512]));
            std::fs::write(path(dir.path()), &bytes).unwrap();
            let wanted = if bytes == after { 3 } else { 2 };
            assert_eq!(read(dir.path()), Some(claims(40, wanted)));
        }
    }

    #[test]
    fn any_other_length_is_damage() {
        let dir = tempfile::tempdir().unwrap();
        Mark::make(dir.path(), &claims(1, 1)).unwrap();
        for len in [0, 1, SLOT_BYTES as u64, 2 * SLOT_BYTES as u64 - 1, 2 * SLOT_BYTES as u64 + 1] {
            OpenOptions::new().write(true).open(path(dir.path())).unwrap().set_len(len).unwrap();
            assert!(matches!(Mark::read(Slots::open(dir.path()).unwrap()).unwrap(), Found::Damaged(_)), "{len}");
        }
    }
}
