//! Namespace groups: the deletions that drives are owed, a row for each drive and write.
//!
//! What drives that were away still hold of garbage must not keep the garbage row, which others wait behind; and must not
//! be forgotten either. The row names a write, not shards: whatever the drive holds of that write goes.

use std::{collections::BTreeMap, ops::ControlFlow};

use mesh_core::{
    Error, ErrorKind,
    id::{DriveId, WriteId},
    limits::LIST_KEYS_MAX,
    meta::MetaAnswer,
};

use super::{rows::Rows, waste};
use crate::metadata::keys;

/// Deletions that a drive is owed by one group at most, about 30 MB of rows. What is more stays garbage: then reclaim
/// goes through it again with each pass, ever more slowly.
pub(super) const OWED_MAX: u64 = 1 << 20;

pub(super) fn owe(rows: &mut Rows<'_>, owed: &[(DriveId, Vec<WriteId>)]) -> Result<MetaAnswer, Error> {
    waste::expect_few(owed.iter().map(|(_, writes)| writes.len()).sum())?;
    let mut drives_of: BTreeMap<WriteId, Vec<DriveId>> = BTreeMap::new();
    for (drive, writes) in owed {
        for write in writes {
            drives_of.entry(*write).or_default().push(*drive);
        }
    }
    let mut kept = Vec::new();
    for (write, drives) in drives_of {
        // Else it was done before, and the drives may have deleted it since.
        if !waste::is_garbage(rows, write)? {
            continue;
        }
        let mut counts = BTreeMap::new();
        for drive in drives {
            if !rows.has(&keys::owed(drive, write))? {
                counts.insert(drive, count(rows, drive)? + 1);
            }
        }
        if counts.values().any(|count| *count > OWED_MAX) {
            kept.push(write);
            continue;
        }
        for (drive, count) in counts {
            rows.put(keys::owed(drive, write), &())?;
            rows.put(keys::owing(drive), &count)?;
        }
        waste::drop_garbage(rows, &[write])?;
    }
    Ok(MetaAnswer::Writes(kept))
}

pub(super) fn pay(rows: &mut Rows<'_>, drive: DriveId, writes: &[WriteId]) -> Result<MetaAnswer, Error> {
    waste::expect_few(writes.len())?;
    let mut left = count(rows, drive)?;
    for write in writes {
        let key = keys::owed(drive, *write);
        if rows.has(&key)? {
            rows.remove(key);
            left = left.saturating_sub(1);
        }
    }
    if left == 0 {
        rows.remove(keys::owing(drive));
    } else {
        rows.put(keys::owing(drive), &left)?;
    }
    Ok(MetaAnswer::Done)
}

/// The first writes of which a drive is owed the deletion.
pub(super) fn page(rows: &Rows<'_>, drive: DriveId, limit: u32) -> Result<MetaAnswer, Error> {
    let mut writes = Vec::new();
    for (key, ()) in rows.first(&keys::owed_by(drive), (limit as usize).min(LIST_KEYS_MAX))? {
        let write = keys::owed_write(&key);
        writes.push(write.ok_or_else(|| Error::new(ErrorKind::Corrupt, "the key of what a drive is owed is damaged"))?);
    }
    Ok(MetaAnswer::Writes(writes))
}

/// Drives that are owed something, ascending.
pub(super) fn drives(rows: &Rows<'_>) -> Result<Vec<DriveId>, Error> {
    let all = keys::all(keys::OWING);
    let mut drives = Vec::new();
    rows.scan(&all, &keys::behind(&all), |key, _: u64| {
        let drive = keys::owing_drive(key);
        drives.push(drive.ok_or_else(|| Error::new(ErrorKind::Corrupt, "the key of a drive that is owed is damaged"))?);
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(drives)
}

/// How many deletions a drive is owed.
fn count(rows: &Rows<'_>, drive: DriveId) -> Result<u64, Error> {
    Ok(rows.find(&keys::owing(drive))?.unwrap_or(0))
}
