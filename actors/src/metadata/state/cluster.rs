//! Control group: the cluster, its nodes, drives and layouts.

use std::collections::{BTreeMap, BTreeSet};

use mesh_core::{
    Error, ErrorKind,
    id::{ClusterId, DriveId, Epoch, Incarnation, LayoutId, NodeId},
    limits::{CODES_DRIVES_MAX, DRIVES_OUT_MAX, GROUP_DRIVES_MAX, LAYOUT_GROUPS_MAX},
    meta::MetaAnswer,
    topology::{Code, DriveInfo, Layout, Leaving, NodeInfo, NodeKind, Table},
};

use super::{
    departures, level, recovery,
    rows::{Formed, Rows},
    seats,
};
use crate::metadata::keys::{self, Counter};

/// Nodes of a cluster at most, DPUs among them.
const NODES_MAX: u64 = 4096;
/// Drives of a cluster at most; a layout names them all in one command.
const DRIVES_MAX: u64 = 65_536;
/// A node's address at most, in bytes.
const ADDRESS_BYTES_MAX: usize = 300;

pub(super) fn form(rows: &mut Rows<'_>, cluster: ClusterId, code: Code, namespaces: u16) -> Result<MetaAnswer, Error> {
    if let Some(formed) = rows.find::<Formed>(&keys::formed())? {
        if formed.cluster == cluster {
            return Ok(MetaAnswer::Done);
        }
        return Err(Error::new(ErrorKind::Conflict, "these nodes form another cluster already; join that one")
            .with("cluster", formed.cluster));
    }
    if !code.is_valid() {
        return Err(Error::invalid("this code is outside the limits").with("code", code));
    }
    if namespaces == 0 {
        return Err(Error::invalid("a cluster needs at least one namespace group"));
    }
    rows.put(keys::formed(), &Formed { cluster, code, namespaces })?;
    Ok(MetaAnswer::Done)
}

pub(super) fn put_node(rows: &mut Rows<'_>, node: &NodeInfo) -> Result<MetaAnswer, Error> {
    if node.id == NodeId(0) {
        return Err(Error::invalid("nodes are numbered from 1"));
    }
    if node.address.is_empty() || node.address.len() > ADDRESS_BYTES_MAX {
        return Err(Error::invalid("a node's address is host:port").with("bytes", node.address.len()));
    }
    level::expect_spoken(rows, node)?;
    departures::expect_not_out(rows, node.id)?;
    let key = keys::node(node.id);
    let mut location = node.location.clone();
    let draining = match rows.find::<NodeInfo>(&key)? {
        Some(known) if known.incarnation > node.incarnation => {
            return Err(Error::new(
                ErrorKind::Conflict,
                "a later start of this node is known: set its clock, or give it back the file `incarnation` of its data folder",
            )
            .with("node", node.id)
            .with("known", known.incarnation)
            .with("asked", node.incarnation));
        }
        Some(known) if known.life != node.life => {
            return Err(Error::new(
                ErrorKind::Conflict,
                "this number is a node's whose data folder was another: the folder was emptied, or another machine has \
                 the number. What that node had is not here: invite this machine under a number of its own",
            )
            .with("node", node.id));
        }
        Some(known) => {
            // Whoever says nothing of it may not know yet whether all can keep it.
            location = location.or(known.location);
            known.draining
        }
        None => {
            rows.take_room(&keys::all(keys::NODE), NODES_MAX, "nodes")?;
            let invitation = keys::invitation(node.id);
            if rows.find::<u64>(&invitation)?.is_some_and(|invited| invited != node.invitation) {
                return Err(Error::new(
                    ErrorKind::Conflict,
                    "a later invitation gave this number to somebody else: invite this machine anew",
                )
                .with("node", node.id));
            }
            if rows.has(&invitation)? {
                rows.remove(invitation);
                rows.give_room(&keys::all(keys::INVITATION))?;
            }
            false
        }
    };
    if let (NodeKind::Dpu, Some(host)) = (node.kind, node.attached_to)
        && !rows.has(&keys::node(host))?
    {
        return Err(Error::invalid("a DPU's host must be a member first").with("dpu", node.id).with("host", host));
    }
    rows.put(key, &NodeInfo { draining, location, ..node.clone() })?;
    Ok(MetaAnswer::Done)
}

pub(super) fn invite(rows: &mut Rows<'_>, node: NodeId, invitation: u64) -> Result<MetaAnswer, Error> {
    if node == NodeId(0) || invitation == 0 {
        return Err(Error::invalid("nodes and invitations are not numbered 0"));
    }
    if rows.has(&keys::node(node))? || departures::has_left(rows, node)? {
        return Err(Error::new(
            ErrorKind::Conflict,
            "a node has or had this number, and numbers are used once: choose one that no node has had",
        )
        .with("node", node));
    }
    let key = keys::invitation(node);
    match rows.find::<u64>(&key)? {
        Some(known) if known > invitation => {
            return Err(Error::new(ErrorKind::Conflict, "a later invitation has this number").with("node", node));
        }
        Some(_) => {}
        None => rows.take_room(&keys::all(keys::INVITATION), NODES_MAX, "open invitations")?,
    }
    rows.put(key, &invitation)?;
    Ok(MetaAnswer::Done)
}

pub(super) fn put_drive(
    rows: &mut Rows<'_>,
    drive: DriveId,
    node: NodeId,
    capacity_bytes: u64,
    by: Option<(Incarnation, Epoch)>,
    instead_of: Option<DriveId>,
) -> Result<MetaAnswer, Error> {
    let Some(owner) = rows.find::<NodeInfo>(&keys::node(node))? else {
        return Err(Error::invalid("a drive's node must be known first").with("drive", drive).with("node", node));
    };
    if by.is_some_and(|(start, _)| start != owner.incarnation) {
        let what = "another start of this node is registered: a drive is taken by that one";
        return Err(Error::new(ErrorKind::Conflict, what).with("drive", drive).with("registered", owner.incarnation));
    }
    if rows.has(&keys::lost(drive))? {
        return Err(Error::new(
            ErrorKind::Conflict,
            "the drive was declared lost and is never used again; wipe it, and it is taken in under a new number",
        )
        .with("drive", drive));
    }
    let key = keys::drive(drive);
    let known = rows.find::<DriveInfo>(&key)?;
    let now = known.as_ref().map_or(Epoch(0), |known| known.epoch);
    if let Some((_, after)) = by.filter(|(_, after)| *after != now) {
        // The owner's own command again must not make it a stranger to its drive.
        return match known {
            Some(known) if (known.node, now.0) == (node, after.0 + 1) => Ok(MetaAnswer::Epoch(now)),
            _ if after > now => {
                recovery::expect_forgetful(rows, now)?;
                take(rows, (drive, node, capacity_bytes), known, after, instead_of)
            }
            _ => Err(Error::new(ErrorKind::Conflict, "the drive had another owner since: look again")
                .with("drive", drive)
                .with("epoch", now)),
        };
    }
    take(rows, (drive, node, capacity_bytes), known, now, instead_of)
}

fn take(
    rows: &mut Rows<'_>,
    (drive, node, capacity_bytes): (DriveId, NodeId, u64),
    known: Option<DriveInfo>,
    last: Epoch,
    instead_of: Option<DriveId>,
) -> Result<MetaAnswer, Error> {
    let seat = match (known, instead_of) {
        // Whose place it has taken it keeps.
        (Some(known), _) => known.seat,
        (None, old) => {
            let seat = old.map(|old| seats::take(rows, drive, node, capacity_bytes, old)).transpose()?;
            rows.take_room(&keys::all(keys::DRIVE), DRIVES_MAX, "drives")?;
            seat
        }
    };
    if departures::leaves(rows, node)? && !rows.has(&keys::leaving(drive))? {
        rows.put(keys::leaving(drive), &Leaving::Asked)?;
    }
    let epoch = Epoch(last.0 + 1);
    rows.put(keys::drive(drive), &DriveInfo { id: drive, node, capacity_bytes, epoch, seat })?;
    Ok(MetaAnswer::Epoch(epoch))
}

/// The epoch of a drive's last owner, lost or not.
pub(super) fn last_epoch(rows: &Rows<'_>, drive: DriveId) -> Result<MetaAnswer, Error> {
    let known = rows.find::<DriveInfo>(&keys::drive(drive))?;
    Ok(MetaAnswer::Epoch(known.map_or(Epoch(0), |known| known.epoch)))
}

pub(super) fn lose_drive(rows: &mut Rows<'_>, drive: DriveId) -> Result<MetaAnswer, Error> {
    expect_drive(rows, drive)?;
    rows.put(keys::lost(drive), &())?;
    rows.remove(keys::leaving(drive));
    Ok(MetaAnswer::Done)
}

pub(super) fn drain_drive(rows: &mut Rows<'_>, drive: DriveId, draining: bool) -> Result<MetaAnswer, Error> {
    let Some(info) = rows.find::<DriveInfo>(&keys::drive(drive))? else { return Err(no_such_drive(drive)) };
    let key = keys::leaving(drive);
    let known = rows.find::<Leaving>(&key)?;
    match (known, draining) {
        (None, false) | (Some(Leaving::Asked), true) => return Ok(MetaAnswer::Done),
        (Some(_), false) if departures::leaves(rows, info.node)? => {
            let what = "the drive's node leaves: take that back, with `mesh node drain --undo`";
            return Err(Error::new(ErrorKind::Conflict, what).with("drive", drive).with("node", info.node));
        }
        (Some(_), false) => {
            if let Some(by) = seats::taken_by(rows, &info)? {
                let what = "another drive has taken its place: leave it to be emptied, and take it out then";
                return Err(Error::new(ErrorKind::Conflict, what).with("drive", drive).with("by", by));
            }
            rows.remove(key);
            return Ok(MetaAnswer::Done);
        }
        _ => {}
    }
    if rows.has(&keys::lost(drive))? {
        return Err(Error::new(ErrorKind::Conflict, "the drive is lost: nothing of it can be moved elsewhere")
            .with("drive", drive));
    }
    expect_one_by_one(rows, &[drive])?;
    rows.put(key, &Leaving::Asked)?;
    Ok(MetaAnswer::Done)
}

/// Refuses while drives leave that the newest layout has: what was judged to be left without these did not know of those.
pub(super) fn expect_one_by_one(rows: &Rows<'_>, drives: &[DriveId]) -> Result<(), Error> {
    let Some(newest) = rows.find::<Layout>(&keys::layout(newest_layout(rows)?))? else { return Ok(()) };
    let leaving = rows.first::<Leaving>(&keys::all(keys::LEAVING), DRIVES_MAX as usize)?;
    let others = leaving.iter().filter_map(|(key, _)| keys::number(key).map(DriveId));
    match others.filter(|drive| !drives.contains(drive)).find(|drive| newest.domains.contains_key(drive)) {
        Some(other) => {
            let what = "another drive is on its way out, and there is no layout without it yet: try again in a moment";
            Err(Error::new(ErrorKind::Conflict, what).with("other", other))
        }
        None => Ok(()),
    }
}

/// Takes a drive out that was emptied, as somebody judged it who knew this layout as the newest.
pub(super) fn remove_drive(rows: &mut Rows<'_>, drive: DriveId, layout: LayoutId) -> Result<MetaAnswer, Error> {
    expect_drive(rows, drive)?;
    if rows.has(&keys::lost(drive))? {
        return Ok(MetaAnswer::Done);
    }
    expect_left_out(rows, drive, layout)?;
    lose_drive(rows, drive)
}

/// Refuses unless a drive leaves, and this layout, which does not have it, is the newest one.
pub(super) fn expect_left_out(rows: &Rows<'_>, drive: DriveId, layout: LayoutId) -> Result<(), Error> {
    let newest = rows.find::<Layout>(&keys::layout(layout))?.filter(|newest| !newest.domains.contains_key(&drive));
    if rows.has(&keys::leaving(drive))? && newest.is_some() && newest_layout(rows)? == layout {
        return Ok(());
    }
    let what = "the drive is used again, or another layout was made meanwhile: look again";
    Err(Error::new(ErrorKind::Conflict, what).with("drive", drive))
}

/// Has drives go out by themselves, or takes that back of those that were.
pub(super) fn put_out(rows: &mut Rows<'_>, drives: &[DriveId], out: bool) -> Result<MetaAnswer, Error> {
    if drives.len() > DRIVES_OUT_MAX {
        return Err(Error::invalid("too many drives at once").with("max", DRIVES_OUT_MAX));
    }
    let mut nodes = BTreeSet::new();
    for drive in drives {
        let Some(info) = rows.find::<DriveInfo>(&keys::drive(*drive))? else {
            return Err(Error::invalid("no drive of this number was ever registered").with("drive", drive));
        };
        nodes.insert(info.node);
    }
    let known = rows.first::<Leaving>(&keys::all(keys::LEAVING), DRIVES_MAX as usize)?;
    let known: BTreeMap<DriveId, Leaving> =
        known.into_iter().filter_map(|(key, why)| Some((DriveId(keys::number(&key)?), why))).collect();
    if out {
        for drive in known.iter().filter(|(_, why)| **why == Leaving::Away).map(|(drive, _)| *drive) {
            let info = rows.find::<DriveInfo>(&keys::drive(drive))?;
            nodes.extend(info.map(|info| info.node));
        }
        if nodes.len() > 1 {
            let what =
                "drives of one node at most go out by themselves; those that are out must be back, or removed, first";
            return Err(Error::new(ErrorKind::Conflict, what));
        }
        expect_one_by_one(rows, drives)?;
    }
    let mut used = if out { BTreeMap::new() } else { seats::used(rows)? };
    for drive in drives {
        match known.get(drive) {
            None if out && !rows.has(&keys::lost(*drive))? => rows.put(keys::leaving(*drive), &Leaving::Away)?,
            Some(Leaving::Away) if !out => {
                let Some(info) = rows.find::<DriveInfo>(&keys::drive(*drive))? else { continue };
                // It is back, and leaves with its node; or another one has its place now.
                if departures::leaves(rows, info.node)? || used.contains_key(&info.seat()) {
                    rows.put(keys::leaving(*drive), &Leaving::Asked)?;
                } else {
                    rows.remove(keys::leaving(*drive));
                    used.insert(info.seat(), *drive);
                }
            }
            _ => {}
        }
    }
    Ok(MetaAnswer::Done)
}

fn expect_drive(rows: &Rows<'_>, drive: DriveId) -> Result<(), Error> {
    if rows.has(&keys::drive(drive))? {
        return Ok(());
    }
    Err(no_such_drive(drive))
}

pub(super) fn no_such_drive(drive: DriveId) -> Error {
    let text = "no drive of this number was ever registered; `mesh status` lists them";
    Error::new(ErrorKind::NotFound, text).with("drive", drive)
}

pub(super) fn put_layout(rows: &mut Rows<'_>, layout: &Layout) -> Result<MetaAnswer, Error> {
    let key = keys::layout(layout.id);
    if let Some(known) = rows.find::<Layout>(&key)? {
        if known == *layout {
            return Ok(MetaAnswer::Done);
        }
        return Err(Error::new(ErrorKind::Conflict, "another layout has this number: read, plan again")
            .with("layout", layout.id));
    }
    let newest = newest_layout(rows)?;
    if layout.id.0 != newest.0 + 1 {
        return Err(Error::new(ErrorKind::Conflict, "a layout's number is one more than the newest's")
            .with("layout", layout.id)
            .with("newest", newest));
    }
    expect_sound(rows, layout)?;
    if newest.0 > 0
        && let Some(before) = rows.find::<Layout>(&keys::layout(newest))?
    {
        expect_in_line(layout, &before)?;
    }
    rows.put(key, layout)?;
    Ok(MetaAnswer::Done)
}

/// A stripe's group and the numbers of its shards are the same in all layouts of a line, and a line does not end.
fn expect_in_line(layout: &Layout, newest: &Layout) -> Result<(), Error> {
    let is_same = |(before, now): (Table<'_>, Table<'_>)| {
        before.code() == now.code() && before.groups().len() == now.groups().len()
    };
    let same_line = layout.line == newest.line
        && layout.others.len() >= newest.others.len()
        && newest.tables().zip(layout.tables()).all(is_same);
    if newest.line == 0 || same_line {
        return Ok(());
    }
    Err(Error::invalid("a layout is not of the newest one's line, or has other codes or other numbers of groups")
        .with("layout", layout.id)
        .with("line", layout.line)
        .with("newest_line", newest.line))
}

/// The newest layout's number: layouts are numbered from 1, or from the one by which the group was recovered, without gaps, so
/// the first free number is found by halving.
pub(super) fn newest_layout(rows: &Rows<'_>) -> Result<LayoutId, Error> {
    let mut there = rows.find::<u64>(&keys::counter(Counter::Layouts))?.unwrap_or(0);
    let (mut free, mut step) = (there + 1, 1);
    while rows.has(&keys::layout(LayoutId(free)))? {
        there = free;
        step *= 2;
        free += step;
    }
    while free - there > 1 {
        let middle = there + (free - there) / 2;
        if rows.has(&keys::layout(LayoutId(middle)))? { there = middle } else { free = middle }
    }
    Ok(LayoutId(there))
}

fn expect_sound(rows: &Rows<'_>, layout: &Layout) -> Result<(), Error> {
    let invalid = |why: &'static str| Err(Error::invalid(why).with("layout", layout.id));
    if layout.line == 0 && !layout.others.is_empty() {
        return invalid("a layout of no line has groups for one code alone");
    }
    let mut codes = BTreeSet::new();
    for table in layout.tables() {
        let code = table.code();
        if !code.is_valid() {
            return invalid("a layout's code is outside the limits");
        }
        if !codes.insert((code.data, code.parity)) {
            return invalid("a layout has groups for a code twice");
        }
        if table.groups().is_empty() || table.groups().len() > LAYOUT_GROUPS_MAX {
            return invalid("a layout has no groups for a code, or too many");
        }
    }
    let listed: usize = layout.tables().map(|table| table.code().group_drives()).sum();
    if listed > CODES_DRIVES_MAX {
        return invalid("a layout has groups for too many codes");
    }
    let mut known = BTreeSet::new();
    for (code, group) in layout.tables().flat_map(|table| table.groups().iter().map(move |group| (table.code(), group)))
    {
        if group.len() < code.shards() || group.len() > GROUP_DRIVES_MAX {
            return invalid("a placement group lists fewer drives than the code has shards, or too many");
        }
        let distinct: BTreeSet<DriveId> = group.iter().copied().collect();
        if distinct.len() < group.len() {
            return invalid("a placement group lists a drive twice");
        }
        for drive in distinct {
            if !known.insert(drive) {
                continue;
            }
            if !rows.has(&keys::drive(drive))? {
                return invalid("a placement group lists a drive that is not known");
            }
            if rows.has(&keys::lost(drive))? {
                return invalid("a placement group lists a drive that is lost");
            }
            if !layout.domains.contains_key(&drive) {
                return invalid("a layout does not name the failure domain of one of its drives");
            }
        }
    }
    Ok(())
}
