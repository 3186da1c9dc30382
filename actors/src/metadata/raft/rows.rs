//! A group's state in a sled tree.
//!
//! ```text
//! 'a'                            what was applied: log id and membership, encoded
//! 'r' key                        the head of a row, see super::chunks
//! 'x' key_len:2 key piece:2      its further pieces
//! ```
//!
//! Rows and 'a' change in one batch, which sled recovers whole or not at all.

use std::io;

use mesh_core::{Error, ErrorKind};

use super::{
    chunks,
    types::{LogId, Membership, decode, encode},
};
use crate::metadata::table::{Change, Table, Visit};

const APPLIED: &[u8] = b"a";

/// The table of one group.
#[derive(Clone)]
pub(super) struct SledTable(sled::Tree);

impl SledTable {
    pub(super) const fn new(tree: sled::Tree) -> Self {
        Self(tree)
    }

    /// What was applied last.
    pub(super) fn applied(&self) -> io::Result<(Option<LogId>, Membership)> {
        Ok(self.0.get(APPLIED)?.map(|value| decode(&value)).transpose()?.unwrap_or_default())
    }

    /// Makes changes in one batch; together with what was applied, if that is given. A key may change once.
    pub(super) fn commit(&self, changes: &[Change], applied: Option<(&Option<LogId>, &Membership)>) -> io::Result<()> {
        let mut batch = sled::Batch::default();
        for change in changes {
            let key = row_key(&change.key);
            let old = match self.0.get(&key)? {
                Some(head) => chunks::pieces_behind(&head)?,
                None => 0,
            };
            let mut kept = 0;
            match &change.value {
                Some(value) => {
                    let (head, pieces) = chunks::cut(value)?;
                    for piece in pieces {
                        batch.insert(piece_key(&change.key, kept), piece);
                        kept += 1;
                    }
                    batch.insert(key, head);
                }
                None => batch.remove(key),
            }
            (kept..old).for_each(|piece| batch.remove(piece_key(&change.key, piece)));
        }
        if let Some(applied) = applied {
            batch.insert(APPLIED, encode(&applied)?);
        }
        Ok(self.0.apply_batch(batch)?)
    }

    fn join(&self, key: &[u8], head: &[u8]) -> Result<Vec<u8>, Error> {
        chunks::join(head, |piece| Ok(self.0.get(piece_key(key, piece))?)).map_err(unreadable)
    }
}

impl Table for SledTable {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        match self.0.get(row_key(key)).map_err(|error| unreadable(error.into()))? {
            Some(head) => self.join(key, &head).map(Some),
            None => Ok(None),
        }
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: Visit<'_>) -> Result<(), Error> {
        if from >= to {
            return Ok(());
        }
        for row in self.0.range(row_key(from)..row_key(to)) {
            let (key, head) = row.map_err(|error| unreadable(error.into()))?;
            let key = &key[1..];
            if visit(key, &self.join(key, &head)?)?.is_break() {
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

    use super::*;
    use crate::metadata::MemoryTable;

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
            let table = SledTable::new(db.open_tree("t").unwrap());
            let mut model = MemoryTable::default();
            for (round, batch) in batches.into_iter().enumerate() {
                let changes: Vec<Change> = batch
                    .into_iter()
                    .map(|(key, len)| Change { key, value: len.map(|len| vec![round as u8; len]) })
                    .collect();
                table.commit(&changes, None).unwrap();
                model.commit(changes);
                prop_assert_eq!(rows(&table), rows(&model));
            }
            let pieces = table.0.iter().keys().filter(|key| key.as_ref().unwrap()[0] == b'x').count();
            let wanted: usize = model.rows().map(|(_, value)| value.len().saturating_sub(1).max(1) / chunks::CHUNK_BYTES).sum();
            prop_assert_eq!(pieces, wanted, "no piece is left behind");
        }
    }
}
