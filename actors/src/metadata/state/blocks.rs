//! Namespace groups: fences, and write ids by the block.
//!
//! A manifest is taken if its write is in an open block of its proposer; so the manifests of a closed block are refused,
//! and what it left on drives without a manifest may be reclaimed. A closed block is remembered until that is done.
//!
//! ```text
//! not granted ──OpenBlock──► open ──CloseBlock | another session | Fence──► closed ──SweptBlock──► forgotten
//! ```
//!
//! Only the write that is proposed must be in an open block: an upload goes on taking parts of open blocks, and is
//! completed, however long ago its own block was closed.

use std::ops::ControlFlow;

use mesh_core::{
    Error, ErrorKind,
    id::{ActorId, DriveId, Epoch, WriteId},
    limits::{LIST_KEYS_MAX, WRITE_BLOCK},
    meta::{MetaAnswer, Proposer},
};
use serde::{Deserialize, Serialize};

use super::rows::{Rows, Use};
use crate::metadata::keys;

/// Lives of an actor that are remembered, so that what an earlier one sent late is refused.
const SESSIONS_MAX: usize = 16;
/// Blocks that one session holds open at most; one more closes the oldest.
const BLOCKS_OPEN_MAX: usize = 64;
/// Entries of one `Fence` at most.
const FENCES_MAX: usize = 4096;
/// Writes count in 48 bits.
const BLOCKS_MAX: u64 = (1 << 48) / WRITE_BLOCK;

/// An actor's lives and its open blocks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Sessions {
    /// Oldest first; the last is the present one.
    known: Vec<u64>,
    /// The present one's open blocks, oldest first: the request that opened each, and its first write.
    open: Vec<(u32, WriteId)>,
}

pub(super) fn fence(
    rows: &mut Rows<'_>,
    actors: &[Proposer],
    drives: &[(DriveId, Epoch)],
) -> Result<MetaAnswer, Error> {
    if actors.len() + drives.len() > FENCES_MAX {
        return Err(Error::new(ErrorKind::TooLarge, "too many fences in one command").with("limit", FENCES_MAX));
    }
    // A drive's fence is that of the actor that owns it.
    let drives = drives.iter().map(|&(drive, epoch)| (ActorId::drive(drive), epoch));
    for (actor, epoch) in actors.iter().map(|proposer| (proposer.actor, proposer.epoch)).chain(drives) {
        let key = keys::fence(actor);
        if rows.find::<Epoch>(&key)?.unwrap_or_default() < epoch {
            rows.put(key, &epoch)?;
            close_all(rows, actor)?;
        }
    }
    Ok(MetaAnswer::Done)
}

/// Closes every block of an actor whose older epochs are fenced: nobody can use them any more.
fn close_all(rows: &mut Rows<'_>, actor: ActorId) -> Result<(), Error> {
    let key = keys::sessions(actor);
    let Some(mut sessions) = rows.find::<Sessions>(&key)? else { return Ok(()) };
    for (_, first) in core::mem::take(&mut sessions.open) {
        retire(rows, first)?;
    }
    rows.put(key, &sessions)
}

pub(super) fn open(rows: &mut Rows<'_>, proposer: Proposer, session: u64, request: u32) -> Result<MetaAnswer, Error> {
    rows.expect_unfenced(proposer)?;
    let key = keys::sessions(proposer.actor);
    let mut sessions = rows.find::<Sessions>(&key)?.unwrap_or_default();
    if sessions.known.last() == Some(&session) {
        if let Some(&(_, first)) = sessions.open.iter().find(|(opened, _)| *opened == request) {
            return Ok(MetaAnswer::Block { first, count: WRITE_BLOCK });
        }
    } else if sessions.known.contains(&session) {
        return Err(Error::new(ErrorKind::Conflict, "this session is over: a later one of the same actor has begun")
            .with("actor", proposer.actor));
    } else {
        for (_, first) in core::mem::take(&mut sessions.open) {
            retire(rows, first)?;
        }
        sessions.known.push(session);
        if sessions.known.len() > SESSIONS_MAX {
            sessions.known.remove(0);
        }
    }
    if sessions.open.len() >= BLOCKS_OPEN_MAX {
        let (_, oldest) = sessions.open.remove(0);
        retire(rows, oldest)?;
    }
    let granted = rows.find::<u64>(&keys::granted())?.unwrap_or(0);
    if granted >= BLOCKS_MAX {
        return Err(Error::new(ErrorKind::NoSpace, "this group has granted every write id there is"));
    }
    let first = WriteId::new(rows.group(), granted * WRITE_BLOCK);
    rows.put(keys::granted(), &(granted + 1))?;
    rows.put(keys::block(first), &proposer.actor)?;
    sessions.open.push((request, first));
    rows.put(key, &sessions)?;
    Ok(MetaAnswer::Block { first, count: WRITE_BLOCK })
}

pub(super) fn close(rows: &mut Rows<'_>, first: WriteId) -> Result<MetaAnswer, Error> {
    expect_block(rows, first)?;
    let Some(actor) = rows.find::<ActorId>(&keys::block(first))? else {
        return Ok(MetaAnswer::Done);
    };
    let key = keys::sessions(actor);
    if let Some(mut sessions) = rows.find::<Sessions>(&key)? {
        sessions.open.retain(|(_, opened)| *opened != first);
        rows.put(key, &sessions)?;
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

/// Closes an open block, and forgets which of its writes were used up.
fn retire(rows: &mut Rows<'_>, first: WriteId) -> Result<(), Error> {
    rows.remove(keys::block(first));
    rows.put(keys::closed(first), &())?;
    let mut spent = Vec::new();
    let behind = keys::spent(WriteId(first.0 + WRITE_BLOCK));
    rows.scan(&keys::spent(first), &behind, |key, ()| {
        spent.push(key.to_vec());
        Ok(ControlFlow::Continue(()))
    })?;
    spent.into_iter().for_each(|key| rows.remove(key));
    Ok(())
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

/// What became of a write that is proposed.
pub(super) enum Admission {
    /// It was not used before, and may be.
    Fresh,
    /// It was used before, for this.
    Used(Use),
    /// It was used before; nothing of it is left.
    Spent,
}

/// Looks a proposed write up. What was applied before is told apart first, so that it gets the same answer again even
/// from an owner that was fenced meanwhile.
pub(super) fn admit(rows: &Rows<'_>, proposer: Proposer, write: WriteId) -> Result<Admission, Error> {
    if let Some(used) = rows.use_of(write)? {
        return Ok(Admission::Used(used));
    }
    if rows.has(&keys::spent(write))? {
        return Ok(Admission::Spent);
    }
    rows.expect_unfenced(proposer)?;
    match rows.find::<ActorId>(&keys::block(block_of(write)))? {
        Some(actor) if actor == proposer.actor => Ok(Admission::Fresh),
        _ => Err(Error::new(
            ErrorKind::Conflict,
            "this write's block is closed, or another's: write again under a new id",
        )
        .with("write", write)
        .with("actor", proposer.actor)),
    }
}

/// Forgets what a write was used for. While its block is open, that it was used is kept.
pub(super) fn forget(rows: &mut Rows<'_>, write: WriteId) -> Result<(), Error> {
    rows.remove(keys::write_use(write));
    if is_open(rows, write)? { rows.put(keys::spent(write), &()) } else { Ok(()) }
}
