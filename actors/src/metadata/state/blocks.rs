//! Namespace groups: write ids by the block.
//!
//! A manifest is taken if its write is in an open block of its proposer; so the manifests of a closed block are refused,
//! and what it left on drives without a manifest may be reclaimed. A closed block is remembered until that is done.
//!
//! ```text
//! not granted ──OpenBlock──► open ──CloseBlock | a later session──► closed ──SweptBlock──► forgotten
//! ```
//!
//! Only the write that is proposed must be in an open block: an upload goes on taking parts of open blocks, and is
//! completed, however long ago its own block was closed.

use std::ops::ControlFlow;

use mesh_core::{
    Error, ErrorKind,
    id::{ActorId, WriteId},
    limits::{LIST_KEYS_MAX, WRITE_BLOCK},
    meta::MetaAnswer,
};

use super::rows::Rows;
use crate::metadata::keys;

/// Blocks that one session holds open at most; one more closes the oldest.
const BLOCKS_OPEN_MAX: usize = 64;
/// Writes count in 48 bits.
const BLOCKS_MAX: u64 = (1 << 48) / WRITE_BLOCK;

/// Closes every block of an actor: its session is over, and nobody can use them any more.
pub(super) fn close_all(rows: &mut Rows<'_>, actor: ActorId) -> Result<(), Error> {
    let key = keys::held(actor);
    let held = rows.find::<Vec<WriteId>>(&key)?.unwrap_or_default();
    if !held.is_empty() {
        held.into_iter().try_for_each(|first| retire(rows, first))?;
        rows.remove(key);
    }
    Ok(())
}

pub(super) fn open(rows: &mut Rows<'_>, actor: ActorId) -> Result<MetaAnswer, Error> {
    let key = keys::held(actor);
    // Oldest first.
    let mut held = rows.find::<Vec<WriteId>>(&key)?.unwrap_or_default();
    if held.len() >= BLOCKS_OPEN_MAX {
        let oldest = held.remove(0);
        retire(rows, oldest)?;
    }
    let granted = rows.find::<u64>(&keys::granted())?.unwrap_or(0);
    if granted >= BLOCKS_MAX {
        return Err(Error::new(ErrorKind::NoSpace, "this group has granted every write id there is"));
    }
    let first = WriteId::new(rows.group(), granted * WRITE_BLOCK);
    rows.put(keys::granted(), &(granted + 1))?;
    rows.put(keys::block(first), &actor)?;
    held.push(first);
    rows.put(key, &held)?;
    Ok(MetaAnswer::Block { first, count: WRITE_BLOCK })
}

pub(super) fn close(rows: &mut Rows<'_>, first: WriteId) -> Result<MetaAnswer, Error> {
    expect_block(rows, first)?;
    let Some(actor) = rows.find::<ActorId>(&keys::block(first))? else {
        return Ok(MetaAnswer::Done);
    };
    let key = keys::held(actor);
    if let Some(mut held) = rows.find::<Vec<WriteId>>(&key)? {
        held.retain(|opened| *opened != first);
        rows.put(key, &held)?;
    }
    retire(rows, first)?;
    Ok(MetaAnswer::Done)
}

/// Forgets a closed block.
pub(super) fn swept(rows: &mut Rows<'_>, first: WriteId) -> Result<MetaAnswer, Error> {
    expect_block(rows, first)?;
    if rows.has(&keys::block(first))? {
        return Err(
            Error::new(ErrorKind::Conflict, "the block is open: close it before it is swept").with("write", first)
        );
    }
    rows.remove(keys::closed(first));
    Ok(MetaAnswer::Done)
}

/// Names blocks that are closed and not swept.
pub(super) fn closed(rows: &Rows<'_>, after: Option<WriteId>, limit: u32) -> Result<MetaAnswer, Error> {
    let limit = (limit as usize).min(LIST_KEYS_MAX);
    let mut found = Vec::new();
    if limit == 0 {
        return Ok(MetaAnswer::ClosedBlocks(found));
    }
    let all = keys::all(keys::CLOSED);
    let from = after.map_or_else(|| all.clone(), |after| keys::closed(WriteId(after.0.saturating_add(1))));
    rows.scan(&from, &keys::behind(&all), |key, ()| {
        let Some(first) = keys::closed_block(key) else {
            return Err(Error::new(ErrorKind::Corrupt, "a closed block's key is damaged"));
        };
        found.push((first, WRITE_BLOCK));
        Ok(if found.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
    })?;
    Ok(MetaAnswer::ClosedBlocks(found))
}

/// Refuses what is not the first write of a block.
fn expect_block(rows: &Rows<'_>, first: WriteId) -> Result<(), Error> {
    if is_granted(rows, first)? && block_of(first) == first {
        return Ok(());
    }
    Err(Error::invalid("this is not the first write of a block that this group granted").with("write", first))
}

/// Closes an open block.
fn retire(rows: &mut Rows<'_>, first: WriteId) -> Result<(), Error> {
    rows.remove(keys::block(first));
    rows.put(keys::closed(first), &())
}

/// The first write of a write's block.
const fn block_of(write: WriteId) -> WriteId {
    WriteId(write.0 - write.0 % WRITE_BLOCK)
}

fn is_granted(rows: &Rows<'_>, write: WriteId) -> Result<bool, Error> {
    let granted = rows.find::<u64>(&keys::granted())?.unwrap_or(0);
    Ok(write.group() == rows.group() && write.0 < WriteId::new(rows.group(), 0).0 + granted * WRITE_BLOCK)
}

/// Whether a write's block is open.
fn is_open(rows: &Rows<'_>, write: WriteId) -> Result<bool, Error> {
    rows.has(&keys::block(block_of(write)))
}

/// Whether a write may be used from now on: its block is open, or is yet to be.
pub(super) fn may_be_used(rows: &Rows<'_>, write: WriteId) -> Result<bool, Error> {
    Ok(is_open(rows, write)? || !is_granted(rows, write)?)
}

/// Refuses a write that may not be used by this actor, or is used already.
pub(super) fn expect_fresh(rows: &Rows<'_>, actor: ActorId, write: WriteId) -> Result<(), Error> {
    if rows.find::<ActorId>(&keys::block(block_of(write)))? != Some(actor) {
        return Err(Error::new(
            ErrorKind::Conflict,
            "this write's block is closed, or another's: write again under a new id",
        )
        .with("write", write)
        .with("actor", actor));
    }
    if rows.has(&keys::write_use(write))? {
        return Err(Error::new(ErrorKind::Conflict, "this write id is used already: write again under a new id")
            .with("write", write));
    }
    Ok(())
}

/// Forgets what a write was used for.
pub(super) fn forget(rows: &mut Rows<'_>, write: WriteId) {
    rows.remove(keys::write_use(write));
}
