//! A group that goes on from less than it once had: from a replica that is not known to have all that was acknowledged, from
//! none at all, or from a backup.
//!
//! What was given out by what is lost must not be given out again: a write's number names shards and goes into their nonces, an
//! epoch fences an earlier owner, a layout says where shards are. Nobody knows how much that was, so every counter leaps far
//! ahead of what can have been.

use core::ops::ControlFlow;
use std::collections::BTreeSet;

use mesh_core::{
    Error, ErrorKind,
    assignment::{Assignment, MoveId},
    id::{Epoch, GroupId, LayoutId, NodeId},
    limits::WRITE_BLOCK,
    meta::Level,
    op::Recovery,
    topology::{Layout, NodeInfo, NodeKind},
};

use super::{cluster, departures, level, rows::Rows};
use crate::metadata::keys::{self, Counter};

/// Writes of a group: each of 127 leaps is longer than ten thousand writes a second for three years.
const WRITES: u64 = 1 << 40;
/// Where the writes of a group begin of which nothing is left, and which may have leapt before.
const WRITES_ANEW: u64 = 1 << 47;
/// Owners of an actor.
const EPOCHS: u64 = 1 << 20;
const TENANTS: u64 = 1 << 16;
const BUCKETS: u64 = 1 << 32;
const LAYOUTS: u64 = 1 << 20;

/// Has a group go on from what there is.
///
/// # Errors
/// `Unsupported` if a node that stays runs a build that does not know what this leads to; `Invalid` if no host would be left.
pub(super) fn recover(rows: &mut Rows<'_>, recovery: &Recovery) -> Result<(), Error> {
    if rows.group() == GroupId::CONTROL { control(rows, recovery) } else { namespace(rows, recovery) }
}

fn namespace(rows: &mut Rows<'_>, recovery: &Recovery) -> Result<(), Error> {
    let granted = rows.find::<u64>(&keys::granted())?.unwrap_or(0);
    let least = if recovery.anew { WRITES_ANEW } else { 0 };
    rows.put(keys::granted(), &(granted.max(least / WRITE_BLOCK) + WRITES / WRITE_BLOCK))
}

fn control(rows: &mut Rows<'_>, recovery: &Recovery) -> Result<(), Error> {
    let out = with_dpus(rows, &recovery.lost)?;
    let Some(host) = staying_host(rows, &out)? else {
        return Err(Error::invalid("no host would be left of the mesh"));
    };
    begin_anew(rows, &out, host)?;
    for node in &recovery.lost {
        let known = rows.has(&keys::node(*node))? || departures::has_left(rows, *node)?;
        if known {
            departures::remove(rows, *node, None)?;
        }
    }
    level::expect_spoken_by_others(rows, Level::RECOVERY, &BTreeSet::new())?;
    level::raise(rows, Level::RECOVERY)?;
    for (counter, leap) in [(Counter::Tenants, TENANTS), (Counter::Buckets, BUCKETS)] {
        let key = keys::counter(counter);
        let given = rows.find::<u64>(&key)?.unwrap_or(0);
        rows.put(key, &(given + leap))?;
    }
    let newest = cluster::newest_layout(rows)?;
    if let Some(layout) = rows.find::<Layout>(&keys::layout(newest))? {
        let id = LayoutId(newest.0 + LAYOUTS);
        rows.put(keys::layout(id), &Layout { id, ..layout })?;
        rows.put(keys::counter(Counter::Layouts), &id.0)?;
    }
    Ok(())
}

/// Every chain under an epoch that nobody has had. One that is on a node which is lost goes where its requests come in, or to a
/// host that stays: whoever places actors moves it on from there.
fn begin_anew(rows: &mut Rows<'_>, out: &BTreeSet<NodeId>, host: NodeId) -> Result<(), Error> {
    let mut chains = Vec::new();
    let all = keys::all(keys::ASSIGNMENT);
    rows.scan(&all, &keys::behind(&all), |_, row: Assignment| {
        chains.push(row);
        Ok(ControlFlow::Continue(()))
    })?;
    for row in chains {
        let moves = MoveId(row.moves.0 + EPOCHS);
        let ingress = row.actor.as_data().map(|(_, ingress)| ingress).filter(|ingress| !out.contains(ingress));
        let node = if out.contains(&row.node) { ingress.unwrap_or(host) } else { row.node };
        let epoch = Epoch(row.epoch.0 + EPOCHS);
        rows.put(keys::assignment(row.actor), &Assignment { node, epoch, moves, moving: None, since: moves, ..row })?;
        rows.remove(keys::tail(row.actor));
    }
    Ok(())
}

/// These nodes, and the DPUs in them.
fn with_dpus(rows: &Rows<'_>, lost: &[NodeId]) -> Result<BTreeSet<NodeId>, Error> {
    let mut out: BTreeSet<NodeId> = lost.iter().copied().collect();
    let all = keys::all(keys::NODE);
    rows.scan(&all, &keys::behind(&all), |_, info: NodeInfo| {
        if info.attached_to.is_some_and(|host| lost.contains(&host)) {
            out.insert(info.id);
        }
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(out)
}

fn staying_host(rows: &Rows<'_>, out: &BTreeSet<NodeId>) -> Result<Option<NodeId>, Error> {
    let mut found = None;
    let all = keys::all(keys::NODE);
    rows.scan(&all, &keys::behind(&all), |_, info: NodeInfo| {
        if info.kind == NodeKind::Host && !out.contains(&info.id) {
            found = Some(info.id);
            return Ok(ControlFlow::Break(()));
        }
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(found)
}

/// A drive was owned under a later epoch than the group knows: it may have forgotten that, and whoever knows it says so.
///
/// # Errors
/// `Conflict` in a mesh whose groups forget nothing.
pub(super) fn expect_forgetful(rows: &Rows<'_>, now: Epoch) -> Result<(), Error> {
    if level::of_mesh(rows)? >= Level::RECOVERY {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Conflict, "the drive is said to have had an owner that nobody knows of: look again")
        .with("epoch", now))
}
