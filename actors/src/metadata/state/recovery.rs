//! A group that goes on from less than it once had: from a replica that is not known to have all that was acknowledged, from
//! none at all, or from a backup.
//!
//! What was given out by what is lost must not be given out again: a write's number names shards, an epoch fences an earlier
//! owner, a layout says where shards are. Nobody knows how much that was, and the same state may be recovered twice. So every
//! counter goes on from where it would be had it run since long ago as fast as none does, which the time alone says.

use core::ops::ControlFlow;
use std::collections::BTreeSet;

use mesh_core::{
    Error, ErrorKind,
    assignment::{Assignment, MoveId},
    id::{Epoch, GroupId, LayoutId, NodeId},
    meta::Level,
    op::{History, Recovery},
    topology::{Layout, NodeInfo, NodeKind},
};

use super::{audit, cluster, departures, level, rows::Rows};
use crate::metadata::keys::{self, Counter};

/// What a recovery counts time from: the beginning of 2024, in milliseconds of Unix time.
const EPOCH_MS: u64 = 1_704_067_200_000;
/// So many a second since then, on the average, were given out at most. Blocks of writes are counted in 36 bits, which is enough
/// for 34 years. An actor takes one a minute, however little it writes; so it may be more of them, and then chance decides: see
/// [`CHANCE`].
const BLOCKS_A_SECOND: u64 = 1 << 6;
const EPOCHS_A_SECOND: u64 = 1 << 8;
const BUCKETS_A_SECOND: u64 = 1 << 8;
const LAYOUTS_A_SECOND: u64 = 1 << 4;
/// Tenants are numbered in 28 bits.
const TENANTS_A_MINUTE: u64 = 1;
/// And so many more than are known, for a clock may be slow.
const BLOCKS_MIN: u64 = 1 << 20;
/// Up to so many blocks more, by chance: two recoveries from one state meet only where one has given out as many in between.
const CHANCE: u64 = 1 << 30;
const EPOCHS_MIN: u64 = 1 << 20;
const BUCKETS_MIN: u64 = 1 << 20;
const LAYOUTS_MIN: u64 = 1 << 12;
const TENANTS_MIN: u64 = 1 << 10;
const KEYS_MIN: u64 = 1 << 16;
const KEYS_A_SECOND: u64 = 1 << 4;

/// Where a counter goes on that is here by now: behind all that anybody can have been given by then, of whatever is not known
/// any more.
const fn behind(here: u64, min: u64, by_then: u64) -> u64 {
    let least = here.saturating_add(min);
    if by_then > least { by_then } else { least }
}

/// Seconds until now.
const fn seconds(recovery: &Recovery) -> u64 {
    recovery.at.0.saturating_sub(EPOCH_MS) / 1000
}

/// Has a group go on from what there is.
///
/// # Errors
/// `Unsupported` if a node that stays runs a build that cannot take others out; `Invalid` if no host would be left.
pub(super) fn recover(rows: &mut Rows<'_>, recovery: &Recovery) -> Result<(), Error> {
    let history = of(rows)?.after(recovery);
    rows.put(keys::history(), &history)?;
    if rows.group() == GroupId::CONTROL { control(rows, recovery) } else { namespace(rows, recovery) }
}

/// What the group's state went through.
pub(super) fn of(rows: &Rows<'_>) -> Result<History, Error> {
    Ok(rows.find(&keys::history())?.unwrap_or_default())
}

fn namespace(rows: &mut Rows<'_>, recovery: &Recovery) -> Result<(), Error> {
    let granted = rows.find::<u64>(&keys::granted())?.unwrap_or(0);
    let behind = behind(granted, BLOCKS_MIN, seconds(recovery) * BLOCKS_A_SECOND);
    rows.put(keys::granted(), &(behind + recovery.chance % CHANCE))
}

fn control(rows: &mut Rows<'_>, recovery: &Recovery) -> Result<(), Error> {
    let out = with_dpus(rows, &recovery.lost)?;
    let Some(host) = staying_host(rows, &out)? else {
        return Err(Error::invalid("no host would be left of the mesh"));
    };
    begin_anew(rows, &out, host, seconds(recovery))?;
    // Before anybody is taken out, for which all have to speak a level: of most that is only what they registered with.
    raise_level(rows)?;
    for node in &recovery.lost {
        let known = rows.has(&keys::node(*node))? || departures::has_left(rows, *node)?;
        if known {
            departures::remove(rows, *node, None)?;
        }
    }
    let seconds = seconds(recovery);
    let tenants = (Counter::Tenants, TENANTS_MIN, seconds / 60 * TENANTS_A_MINUTE);
    let buckets = (Counter::Buckets, BUCKETS_MIN, seconds * BUCKETS_A_SECOND);
    let wrapping = (Counter::Keys, KEYS_MIN, seconds * KEYS_A_SECOND);
    for (counter, min, by_then) in [tenants, buckets, wrapping] {
        let key = keys::counter(counter);
        let given = rows.find::<u64>(&key)?.unwrap_or(0);
        rows.put(key, &behind(given, min, by_then))?;
    }
    let newest = cluster::newest_layout(rows)?;
    if let Some(layout) = rows.find::<Layout>(&keys::layout(newest))? {
        let id = LayoutId(behind(newest.0, LAYOUTS_MIN, seconds * LAYOUTS_A_SECOND));
        rows.put(keys::layout(id), &Layout { id, ..layout })?;
        rows.put(keys::counter(Counter::Layouts), &id.0)?;
    }
    audit::recovered(rows, recovery)
}

/// Every chain under an epoch that nobody has had. One that is on a node which is lost goes where its requests come in, or to a
/// host that stays: whoever places actors moves it on from there.
fn begin_anew(rows: &mut Rows<'_>, out: &BTreeSet<NodeId>, host: NodeId, seconds: u64) -> Result<(), Error> {
    let mut chains = Vec::new();
    let all = keys::all(keys::ASSIGNMENT);
    rows.scan(&all, &keys::behind(&all), |_, row: Assignment| {
        chains.push(row);
        Ok(ControlFlow::Continue(()))
    })?;
    for row in chains {
        let by_then = seconds * EPOCHS_A_SECOND;
        let moves = MoveId(behind(row.moves.0, EPOCHS_MIN, by_then));
        let ingress = row.actor.as_data().map(|(_, ingress)| ingress).filter(|ingress| !out.contains(ingress));
        let node = if out.contains(&row.node) { ingress.unwrap_or(host) } else { row.node };
        let epoch = Epoch(behind(row.epoch.0, EPOCHS_MIN, by_then));
        rows.put(keys::assignment(row.actor), &Assignment { node, epoch, moves, moving: None, since: moves, ..row })?;
        rows.remove(keys::tail(row.actor));
    }
    Ok(())
}

/// The mesh does what builds do that know of timelines. Who registered with an older one cannot say so now that it runs another: whoever
/// does not is turned away when it registers again.
fn raise_level(rows: &mut Rows<'_>) -> Result<(), Error> {
    let mut older = Vec::new();
    let all = keys::all(keys::NODE);
    rows.scan(&all, &keys::behind(&all), |_, info: NodeInfo| {
        older.extend(Some(info).filter(|info| info.level < Level::LOSSES));
        Ok(ControlFlow::Continue(()))
    })?;
    for info in older {
        rows.put(keys::node(info.id), &NodeInfo { level: Level::LOSSES, ..info })?;
    }
    level::raise(rows, Level::LOSSES)?;
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
