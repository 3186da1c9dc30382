//! Snapshots that arrive, chunk by chunk.

use std::io;

use serde::{Deserialize, Serialize};

use super::{
    image::Row,
    rows::{Digest, TreeTable},
    types::{SnapshotMeta, Vote},
};
use mesh_actors::metadata::table::Change;

/// One chunk of a snapshot on its way.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Chunk {
    /// The sender's leadership.
    pub(super) vote: Vote,
    /// Which of the sender's transfers.
    pub(super) transfer: u64,
    /// From 0, without gaps.
    pub(super) number: u32,
    /// Of the whole.
    pub(super) meta: SnapshotMeta,
    /// Rows, ascending.
    pub(super) rows: Vec<Row>,
    /// There are no more; all of them in one number.
    pub(super) end: Option<Digest>,
}

/// A state tree that is not in use yet.
pub(crate) struct Staged {
    pub(super) generation: u64,
    pub(super) table: TreeTable,
}

impl Staged {
    /// Keeps rows.
    pub(super) fn take(&self, rows: Vec<Row>) -> io::Result<()> {
        let changes: Vec<Change> = rows.into_iter().map(|(key, value)| Change { key, value: Some(value) }).collect();
        self.table.commit(&changes, None)
    }

    /// Refuses what is not what was sent.
    pub(super) fn expect(self, digest: Digest) -> io::Result<Self> {
        if self.table.digest()? == digest {
            Ok(self)
        } else {
            Err(io::Error::other("the rows of a snapshot are not the ones that were sent"))
        }
    }
}

/// A transfer under way to this node.
pub(super) struct Arrival {
    vote: Vote,
    transfer: u64,
    next: u32,
    staged: Staged,
}

impl Arrival {
    /// Takes a chunk of the transfer under way, or begins another one. `Some` with the last chunk: what arrived. The
    /// chunk before may come again: its answer may be lost.
    ///
    /// # Errors
    /// `InvalidData` for a chunk out of order: the sender begins again.
    pub(super) fn accept(
        arrival: &mut Option<Self>,
        chunk: Chunk,
        stage: impl FnOnce() -> io::Result<Staged>,
    ) -> io::Result<Option<Staged>> {
        let out_of_order = || io::Error::new(io::ErrorKind::InvalidData, "a chunk of a snapshot came out of order");
        let again = |under_way: &Self| {
            (under_way.vote, under_way.transfer) == (chunk.vote, chunk.transfer) && under_way.next == chunk.number + 1
        };
        if arrival.as_ref().is_some_and(again) {
            return Ok(None);
        }
        if chunk.number == 0 {
            if arrival.as_ref().is_some_and(|under_way| under_way.vote > chunk.vote) {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a later leader sends a snapshot already"));
            }
            *arrival = Some(Self { vote: chunk.vote, transfer: chunk.transfer, next: 0, staged: stage()? });
        }
        let under_way = arrival.as_mut().ok_or_else(out_of_order)?;
        if (under_way.vote, under_way.transfer, under_way.next) != (chunk.vote, chunk.transfer, chunk.number) {
            return Err(out_of_order());
        }
        under_way.next += 1;
        under_way.staged.take(chunk.rows)?;
        let Some(digest) = chunk.end else { return Ok(None) };
        arrival.take().map(|arrived| arrived.staged.expect(digest)).transpose()
    }
}
