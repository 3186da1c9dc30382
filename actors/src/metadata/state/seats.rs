//! Control group: drives that take the place of others.
//!
//! Layouts place a drive by its seat, which is the number of the first drive that had its place. So a new drive that takes the
//! place of another gets what that one had, and no other shard moves; and only one of those that share a seat is ever of a
//! layout to come.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::ControlFlow,
};

use mesh_core::{
    Error, ErrorKind,
    id::{DriveId, NodeId},
    topology::{DriveInfo, Leaving},
};

use super::{cluster, departures, rows::Rows};
use crate::metadata::keys;

/// Gives a new drive the place of another, which is emptied from now on. Gives the seat.
///
/// # Errors
/// `NotFound` if there never was such a drive; `Conflict` where what is stored could be less safe, or fit less, than before.
pub(super) fn take(
    rows: &mut Rows<'_>,
    drive: DriveId,
    node: NodeId,
    capacity_bytes: u64,
    old: DriveId,
) -> Result<DriveId, Error> {
    let Some(info) = rows.find::<DriveInfo>(&keys::drive(old))? else { return Err(cluster::no_such_drive(old)) };
    let refused =
        |what: &'static str| Error::new(ErrorKind::Conflict, what).with("drive", drive).with("instead_of", old);
    if info.node != node {
        let what = "a drive takes the place of one of the same node: add it, and drain the other";
        return Err(refused(what).with("node", info.node));
    }
    if capacity_bytes < info.capacity_bytes {
        let what = "it is smaller than the drive that it is to replace: add it, and drain the other";
        return Err(refused(what).with("bytes", capacity_bytes).with("needed", info.capacity_bytes));
    }
    if let Some(by) = taken_by(rows, &info)? {
        return Err(refused("another drive has taken that one's place already").with("by", by));
    }
    if departures::leaves(rows, node)? {
        return Err(refused("the node leaves the mesh: its drives go with it").with("node", node));
    }
    if !rows.has(&keys::lost(old))? {
        rows.put(keys::leaving(old), &Leaving::Asked)?;
    }
    Ok(info.seat())
}

/// The drives that are used, by their seats: to be asked for once, by who has many drives to judge.
pub(super) fn used(rows: &Rows<'_>) -> Result<BTreeMap<DriveId, DriveId>, Error> {
    let mut gone = BTreeSet::new();
    let (lost, leaving) = (keys::all(keys::LOST), keys::all(keys::LEAVING));
    rows.scan(&lost, &keys::behind(&lost), |key, ()| {
        gone.extend(keys::number(key).map(DriveId));
        Ok(ControlFlow::Continue(()))
    })?;
    rows.scan(&leaving, &keys::behind(&leaving), |key, _: Leaving| {
        gone.extend(keys::number(key).map(DriveId));
        Ok(ControlFlow::Continue(()))
    })?;
    let mut used = BTreeMap::new();
    let all = keys::all(keys::DRIVE);
    rows.scan(&all, &keys::behind(&all), |_, drive: DriveInfo| {
        if !gone.contains(&drive.id) {
            used.insert(drive.seat(), drive.id);
        }
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(used)
}

/// The drive that is used in the place of this one, if one is.
pub(super) fn taken_by(rows: &Rows<'_>, drive: &DriveInfo) -> Result<Option<DriveId>, Error> {
    let mut by = None;
    let all = keys::all(keys::DRIVE);
    rows.scan(&all, &keys::behind(&all), |_, other: DriveInfo| {
        let has_seat = other.id != drive.id && other.seat() == drive.seat();
        if has_seat && !rows.has(&keys::lost(other.id))? && !rows.has(&keys::leaving(other.id))? {
            by = Some(other.id);
            return Ok(ControlFlow::Break(()));
        }
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(by)
}
