//! A group's state in a tree.
//!
//! ```text
//! 'a'                            rows:8 sum:16  what was applied: log id and membership, encoded;  crc:8
//! 'r' key                        the head of a row, see super::chunks
//! 'x' key_len:2 key piece:2      its further pieces
//! a row                          crc:8 value
//! ```
//!
//! Rows and 'a' change in one batch, which is recovered whole or not at all. A row's checksum is the CRC-64/NVME of
//! key and value, checked whenever it is read; that of 'a' covers the tree's name too. `rows` counts the rows, and
//! `sum` adds up a number for each, which its checksum decides: so rows that vanish or come back are seen too, when
//! the table is [verified](TreeTable::verify).

use core::ops::Bound;
use std::io;

use mesh_core::{Error, ErrorKind};
use serde::{Deserialize, Serialize};

use super::{
    chunks,
    flush::guarded,
    trees::{Batch, Tree},
    types::{LogId, Membership, decode, encode},
};
use mesh_actors::metadata::table::{Change, Table, Visit};

const APPLIED: &[u8] = b"a";
const CRC_BYTES: usize = 8;

/// The table of one group.
#[derive(Clone)]
pub(super) struct TreeTable(Tree);

/// All rows in one number, whatever their order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Digest {
    pub(super) rows: u64,
    pub(super) sum: u128,
}

impl Digest {
    fn add(&mut self, crc: u64) {
        self.rows = self.rows.wrapping_add(1);
        self.sum = self.sum.wrapping_add(spread(crc));
    }

    fn take(&mut self, crc: u64) {
        self.rows = self.rows.wrapping_sub(1);
        self.sum = self.sum.wrapping_sub(spread(crc));
    }
}

/// A checksum as a number of 128 bits, of which sums tell little: checksums alone are linear.
fn spread(crc: u64) -> u128 {
    let mixed = |seed: u64| {
        let mut word = crc ^ seed;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        u128::from(word ^ (word >> 31))
    };
    mixed(0x9e37_79b9_7f4a_7c15) << 64 | mixed(0x3c6e_f372_fe94_f82a)
}

/// What stands beside the rows.
#[derive(Clone, Debug, Default)]
struct Head {
    digest: Digest,
    applied: Option<LogId>,
    membership: Membership,
}

impl TreeTable {
    pub(super) const fn new(tree: Tree) -> Self {
        Self(tree)
    }

    /// What was applied last.
    pub(super) fn applied(&self) -> io::Result<(Option<LogId>, Membership)> {
        let head = self.head()?.unwrap_or_default();
        Ok((head.applied, head.membership))
    }

    /// The index of what was applied last, and all rows in one number.
    pub(super) fn state(&self) -> io::Result<Option<(u64, u128)>> {
        let head = self.head()?.unwrap_or_default();
        let Digest { rows, sum } = head.digest;
        Ok(head.applied.map(|applied| (applied.index, sum ^ u128::from(rows))))
    }

    /// All rows in one number.
    pub(super) fn digest(&self) -> io::Result<Digest> {
        Ok(self.head()?.unwrap_or_default().digest)
    }

    /// Reads every row and checks that they are the ones that were written. What was applied last.
    ///
    /// # Errors
    /// `InvalidData` if they are not.
    pub(super) fn verify(&self) -> io::Result<Option<LogId>> {
        let head = self.head()?;
        let (mut digest, mut pieces, mut wanted) = (Digest::default(), 0_u64, 0_u64);
        guarded(|| {
            for row in self.0.rows() {
                let (key, value) = row?;
                match key.split_first() {
                    Some((b'r', key)) => {
                        wanted += u64::from(chunks::pieces_behind(&value)?);
                        digest.add(self.join(key, &value)?.0);
                    }
                    Some((b'x', _)) => pieces += 1,
                    _ if key == APPLIED => {}
                    _ => return Err(damaged("a row of the state has a damaged key")),
                }
            }
            Ok(())
        })?;
        if head.as_ref().is_none_or(|head| head.digest != digest) && (head.is_some() || digest.rows > 0)
            || pieces != wanted
        {
            let rows = head.as_ref().map_or(0, |head| head.digest.rows);
            let said = format!(
                "the state is not what was written: of {rows} rows and {wanted} further pieces there are \
                {} and {pieces}, or others",
                digest.rows
            );
            return Err(damaged(said));
        }
        Ok(head.and_then(|head| head.applied))
    }

    /// Makes changes in one batch; together with what was applied, if that is given. A key may change once. One at a
    /// time.
    pub(super) fn commit(&self, changes: &[Change], applied: Option<(&Option<LogId>, &Membership)>) -> io::Result<()> {
        debug_assert!(
            changes.iter().map(|change| &change.key).collect::<std::collections::BTreeSet<_>>().len() == changes.len(),
            "a key changes twice, and the digest would be wrong"
        );
        let mut head = self.head()?.unwrap_or_default();
        guarded(|| {
            let mut batch = Batch::default();
            for change in changes {
                let key = row_key(&change.key);
                let old = match self.0.get(&key)? {
                    Some(old) => {
                        head.digest.take(crc_of(chunks::first_piece(&old)?)?);
                        chunks::pieces_behind(&old)?
                    }
                    None => 0,
                };
                let mut kept = 0;
                match &change.value {
                    Some(value) => {
                        let crc = checksum(&change.key, value);
                        head.digest.add(crc);
                        let sealed = [&crc.to_le_bytes(), value.as_slice()].concat();
                        let (row, pieces) = chunks::cut(&sealed)?;
                        for piece in pieces {
                            batch.insert(piece_key(&change.key, kept), piece);
                            kept += 1;
                        }
                        batch.insert(key, row);
                    }
                    None => batch.remove(key),
                }
                (kept..old).for_each(|piece| batch.remove(piece_key(&change.key, piece)));
            }
            if let Some((applied, membership)) = applied {
                head.applied = *applied;
                head.membership = membership.clone();
            }
            batch.insert(APPLIED, self.draw(&head)?);
            self.0.apply(batch)
        })
    }

    fn head(&self) -> io::Result<Option<Head>> {
        let Some(bytes) = guarded(|| self.0.get(APPLIED))? else { return Ok(None) };
        let parse = || {
            let (sealed, crc) = bytes.split_last_chunk::<CRC_BYTES>()?;
            let (rows, rest) = sealed.split_first_chunk::<8>()?;
            let (sum, rest) = rest.split_first_chunk::<16>()?;
            let digest = Digest { rows: u64::from_le_bytes(*rows), sum: u128::from_le_bytes(*sum) };
            (u64::from_le_bytes(*crc) == checksum(&self.0.name(), sealed)).then_some((digest, rest))
        };
        let (digest, rest) = parse().ok_or_else(|| damaged("the head of the state fails its checksum"))?;
        let (applied, membership) = decode(rest)?;
        Ok(Some(Head { digest, applied, membership }))
    }

    fn draw(&self, head: &Head) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&head.digest.rows.to_le_bytes());
        bytes.extend_from_slice(&head.digest.sum.to_le_bytes());
        bytes.extend_from_slice(&encode(&(&head.applied, &head.membership))?);
        let crc = checksum(&self.0.name(), &bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        Ok(bytes)
    }

    /// A row's checksum and value.
    fn join(&self, key: &[u8], head: &[u8]) -> io::Result<(u64, Vec<u8>)> {
        let mut value = chunks::join(head, |piece| self.0.get(piece_key(key, piece)))?;
        let crc = crc_of(&value)?;
        value.drain(..CRC_BYTES);
        if crc == checksum(key, &value) {
            Ok((crc, value))
        } else {
            Err(damaged("a row of the state fails its checksum"))
        }
    }
}

impl Table for TreeTable {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        let row = guarded(|| match self.0.get(row_key(key))? {
            Some(head) => self.join(key, &head).map(|(_, value)| Some(value)),
            None => Ok(None),
        });
        row.map_err(unreadable)
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: Visit<'_>) -> Result<(), Error> {
        if from >= to {
            return Ok(());
        }
        let (from, to) = (row_key(from), row_key(to));
        let mut rows = self.0.range(Bound::Included(&from), Bound::Excluded(&to));
        let mut next = || {
            guarded(|| match rows.next().transpose()? {
                Some((key, head)) => self.join(&key[1..], &head).map(|(_, value)| Some((key, value))),
                None => Ok(None),
            })
        };
        while let Some((key, value)) = next().map_err(unreadable)? {
            if visit(&key[1..], &value)?.is_break() {
                break;
            }
        }
        Ok(())
    }
}

fn unreadable(error: io::Error) -> Error {
    let kind = if error.kind() == io::ErrorKind::InvalidData { ErrorKind::Corrupt } else { ErrorKind::DriveFailed };
    Error::new(kind, "the metadata store cannot be read; this replica stops").caused_by(error)
}

fn damaged(why: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.into())
}

fn checksum(key: &[u8], value: &[u8]) -> u64 {
    let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc64Nvme);
    digest.update(&(key.len() as u64).to_le_bytes());
    digest.update(key);
    digest.update(value);
    digest.finalize()
}

fn crc_of(row: &[u8]) -> io::Result<u64> {
    let crc = row.first_chunk().ok_or_else(|| damaged("a row of the state is cut short"))?;
    Ok(u64::from_le_bytes(*crc))
}

fn row_key(key: &[u8]) -> Vec<u8> {
    let mut row = Vec::with_capacity(key.len() + 1);
    row.push(b'r');
    row.extend_from_slice(key);
    row
}

fn piece_key(key: &[u8], piece: u16) -> Vec<u8> {
    let mut row = Vec::with_capacity(key.len() + 5);
    row.push(b'x');
    row.extend_from_slice(&(key.len() as u16).to_be_bytes());
    row.extend_from_slice(key);
    row.extend_from_slice(&piece.to_be_bytes());
    row
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
mod tests {
    use std::{collections::BTreeMap, ops::ControlFlow};

    use proptest::prelude::*;

    use super::{
        super::trees::{Memory, Trees},
        *,
    };
    use mesh_actors::metadata::MemoryTable;

    fn rows(table: &dyn Table) -> BTreeMap<Vec<u8>, Vec<u8>> {
        let mut rows = BTreeMap::new();
        let scanned = table.scan(&[], &[0xff], &mut |key, value| {
            rows.insert(key.to_vec(), value.to_vec());
            Ok(ControlFlow::Continue(()))
        });
        scanned.expect("a table in memory can be read");
        rows
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn holds_what_a_table_in_memory_holds(
            batches in proptest::collection::vec(
                proptest::collection::btree_map(
                    proptest::collection::vec(0_u8..3, 1..3),
                    proptest::option::of(prop_oneof![0_usize..40, 2040_usize..2060, 5000_usize..9000]),
                    1..6,
                ),
                1..8,
            )
        ) {
            let db = sled::Config::new().temporary(true).open().unwrap();
            let tables = [Trees::Sled(db), Trees::Memory(Memory::default())].map(|trees| TreeTable::new(trees.open("t").unwrap()));
            let mut model = MemoryTable::default();
            for (round, batch) in batches.into_iter().enumerate() {
                let changes: Vec<Change> = batch
                    .into_iter()
                    .map(|(key, len)| Change { key, value: len.map(|len| vec![round as u8; len]) })
                    .collect();
                tables.iter().for_each(|table| table.commit(&changes, None).unwrap());
                model.commit(changes);
                for table in &tables {
                    prop_assert_eq!(rows(table), rows(&model));
                }
            }
            let wanted: usize = model.rows().map(|(_, value)| (value.len() + CRC_BYTES).saturating_sub(1) / chunks::CHUNK_BYTES).sum();
            for table in &tables {
                let pieces = table.0.rows().filter(|row| row.as_ref().unwrap().0[0] == b'x').count();
                prop_assert_eq!(pieces, wanted, "no piece is left behind");
            }
        }
    }
}
