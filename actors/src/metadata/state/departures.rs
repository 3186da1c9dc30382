//! Control group: nodes that leave, and those that have left.
//!
//! ```text
//!   member ──LeaveNode──► Asked ──RemoveNode──► Out ──FencedNode──► Fenced
//!      ▲                    │                    ▲
//!      └──LeaveNode(false)──┘   RemoveNode(None) └── of any member
//! ```

use core::ops::ControlFlow;
use std::collections::{BTreeMap, BTreeSet};

use mesh_core::{
    Error, ErrorKind,
    assignment::{Assignment, Scope, Tail},
    id::{ActorId, ActorName, DriveId, LayoutId, NodeId},
    meta::{Level, MetaAnswer, Session},
    topology::{Departure, DriveInfo, IS_OUT, Leaving, NodeInfo, NodeKind, voters_left},
};

use super::{cluster, level, placement, rows::Rows, seats, sessions};
use crate::metadata::keys;

/// Nodes that may have left a mesh.
const DEPARTURES_MAX: u64 = 1 << 20;

/// Has a node leave, or takes that back.
pub(super) fn leave(rows: &mut Rows<'_>, node: NodeId, leaving: bool) -> Result<MetaAnswer, Error> {
    let of_node = keys::departure(node);
    let known = rows.find::<Departure>(&of_node)?;
    if known.is_some_and(Departure::is_out) {
        return Err(is_out(node));
    }
    let info = expect_member(rows, node)?;
    let drives = drives_of(rows, node)?;
    match (known, leaving) {
        (None, false) => return Ok(MetaAnswer::Done),
        (None, true) => {
            expect_voters_without(rows, &info)?;
            cluster::expect_one_by_one(rows, &drives)?;
            rows.take_room(&keys::all(keys::DEPARTURE), DEPARTURES_MAX, "nodes that leave")?;
            rows.put(of_node, &Departure::Asked)?;
        }
        (Some(_), true) => {}
        (Some(_), false) => {
            rows.remove(of_node);
            rows.give_room(&keys::all(keys::DEPARTURE))?;
        }
    }
    let mut used = if leaving { BTreeMap::new() } else { seats::used(rows)? };
    // Of those that had one place one after the other, the one of the greatest number stays: that of the last, as nodes number
    // them.
    for drive in drives.into_iter().rev() {
        let key = keys::leaving(drive);
        let seat = rows.find::<DriveInfo>(&keys::drive(drive))?.map(|info| info.seat());
        match (rows.find::<Leaving>(&key)?, leaving) {
            // It is of no layout already, and was not asked to be.
            (Some(Leaving::Away), _) => {}
            (_, true) => rows.put(key, &Leaving::Asked)?,
            (Some(Leaving::Asked), false) if seat.is_some_and(|seat| used.contains_key(&seat)) => {}
            (_, false) => {
                rows.remove(key);
                used.extend(seat.map(|seat| (seat, drive)));
            }
        }
    }
    for part in with_dpus(rows, info)?.into_iter().filter(|part| part.draining != leaving) {
        rows.put(keys::node(part.id), &NodeInfo { draining: leaving, ..part })?;
    }
    Ok(MetaAnswer::Done)
}

/// Takes a node out, and the DPUs in it.
pub(super) fn remove(rows: &mut Rows<'_>, node: NodeId, empty: Option<LayoutId>) -> Result<MetaAnswer, Error> {
    let known = rows.find::<Departure>(&keys::departure(node))?;
    if known.is_some_and(Departure::is_out) {
        return Ok(MetaAnswer::Done);
    }
    let info = expect_member(rows, node)?;
    if known.is_none() && empty.is_some() {
        let what =
            "the node is in use: empty it first, with `mesh node drain`; or, if it does not come back, say --lost";
        return Err(Error::new(ErrorKind::Conflict, what).with("node", node));
    }
    let out: BTreeSet<NodeId> = with_dpus(rows, info)?.into_iter().map(|part| part.id).collect();
    level::expect_spoken_by_others(rows, Level::LEAVES, &out)?;
    let own = expect_left_by_actors(rows, &out)?;
    let drives = drives_of(rows, node)?;
    if let Some(judged) = empty {
        for drive in &drives {
            cluster::expect_left_out(rows, *drive, judged)?;
        }
    }
    for drive in drives {
        cluster::lose_drive(rows, drive)?;
    }
    for actor in own {
        rows.remove(keys::assignment(actor));
        rows.remove(keys::tail(actor));
        rows.give_room(&keys::all(keys::ASSIGNMENT))?;
    }
    forget_wishes(rows, &out)?;
    for gone in out {
        if rows.find::<Departure>(&keys::departure(gone))?.is_none() {
            rows.take_room(&keys::all(keys::DEPARTURE), DEPARTURES_MAX, "nodes that leave")?;
        }
        rows.put(keys::departure(gone), &Departure::Out)?;
        rows.remove(keys::node(gone));
        rows.give_room(&keys::all(keys::NODE))?;
        // What it began here; in the other groups somebody sees to that.
        sessions::open(rows, ActorId::ingress(gone), Session::LAST)?;
    }
    Ok(MetaAnswer::Done)
}

/// Nothing is taken any more of what a node began.
pub(super) fn fenced(rows: &mut Rows<'_>, node: NodeId) -> Result<MetaAnswer, Error> {
    let key = keys::departure(node);
    match rows.find::<Departure>(&key)? {
        Some(Departure::Fenced) => Ok(MetaAnswer::Done),
        Some(Departure::Out) => {
            rows.put(key, &Departure::Fenced)?;
            Ok(MetaAnswer::Done)
        }
        _ => Err(Error::new(ErrorKind::Conflict, "the node is not out").with("node", node)),
    }
}

/// Refuses who has left.
pub(super) fn expect_not_out(rows: &Rows<'_>, node: NodeId) -> Result<(), Error> {
    if has_left(rows, node)? { Err(is_out(node)) } else { Ok(()) }
}

/// Whether a node has left for good.
pub(super) fn has_left(rows: &Rows<'_>, node: NodeId) -> Result<bool, Error> {
    Ok(rows.find::<Departure>(&keys::departure(node))?.is_some_and(Departure::is_out))
}

/// Whether a node leaves.
pub(super) fn leaves(rows: &Rows<'_>, node: NodeId) -> Result<bool, Error> {
    rows.has(&keys::departure(node))
}

/// The chains of requests that come in at these nodes; or refuses while another actor is on one of them, or a part of it, or on
/// its way there.
fn expect_left_by_actors(rows: &Rows<'_>, out: &BTreeSet<NodeId>) -> Result<Vec<ActorId>, Error> {
    let mut own = Vec::new();
    let mut there = None;
    let comes_in_there = |actor: ActorId| actor.as_data().is_some_and(|(_, ingress)| out.contains(&ingress));
    let all = keys::all(keys::ASSIGNMENT);
    rows.scan(&all, &keys::behind(&all), |_, row: Assignment| {
        if comes_in_there(row.actor) {
            own.push(row.actor);
        } else if row.is_on(out) {
            there = Some(row.actor);
        }
        Ok(ControlFlow::Continue(()))
    })?;
    let all = keys::all(keys::TAIL);
    rows.scan(&all, &keys::behind(&all), |_, (actor, tail): (ActorId, Tail)| {
        if out.contains(&tail.node) && !comes_in_there(actor) {
            there = Some(actor);
        }
        Ok(ControlFlow::Continue(()))
    })?;
    match there {
        Some(actor) => {
            Err(Error::new(ErrorKind::Conflict, "an actor is there still, and goes elsewhere: try again in a moment")
                .with("actor", ActorName(actor)))
        }
        None => Ok(own),
    }
}

/// Nobody is kept on a node that is out, nor asks for anything about a chain that is no more.
fn forget_wishes(rows: &mut Rows<'_>, out: &BTreeSet<NodeId>) -> Result<(), Error> {
    placement::forget_wishes(rows, |scope, wish| {
        let of_chain = matches!(scope, Scope::Actor(actor)
            if actor.as_data().is_some_and(|(_, ingress)| out.contains(&ingress)));
        of_chain || wish.pin.is_some_and(|pin| out.contains(&pin))
    })
}

/// The drives of a node that are not lost.
fn drives_of(rows: &Rows<'_>, node: NodeId) -> Result<Vec<DriveId>, Error> {
    let mut found = Vec::new();
    let all = keys::all(keys::DRIVE);
    rows.scan(&all, &keys::behind(&all), |_, info: DriveInfo| {
        found.extend((info.node == node).then_some(info.id));
        Ok(ControlFlow::Continue(()))
    })?;
    let mut used = Vec::new();
    for drive in found {
        if !rows.has(&keys::lost(drive))? {
            used.push(drive);
        }
    }
    Ok(used)
}

/// A node, and the DPUs in it.
fn with_dpus(rows: &Rows<'_>, info: NodeInfo) -> Result<Vec<NodeInfo>, Error> {
    let node = info.id;
    let mut parts = vec![info];
    let all = keys::all(keys::NODE);
    rows.scan(&all, &keys::behind(&all), |_, other: NodeInfo| {
        parts.extend(Some(other).filter(|other| other.attached_to == Some(node)));
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(parts)
}

/// Refuses if too few hosts would be left: see [`voters_left`].
fn expect_voters_without(rows: &Rows<'_>, info: &NodeInfo) -> Result<(), Error> {
    let (mut hosts, mut stay) = (Vec::new(), BTreeSet::new());
    let all = keys::all(keys::NODE);
    rows.scan(&all, &keys::behind(&all), |_, other: NodeInfo| {
        hosts.extend((other.kind == NodeKind::Host).then_some(other.id));
        Ok(ControlFlow::Continue(()))
    })?;
    for host in hosts {
        if !leaves(rows, host)? {
            stay.insert(host);
        }
    }
    voters_left(&stay, info.id)
}

fn expect_member(rows: &Rows<'_>, node: NodeId) -> Result<NodeInfo, Error> {
    let what = "no node of this number is a member of the mesh";
    rows.find::<NodeInfo>(&keys::node(node))?.ok_or_else(|| Error::new(ErrorKind::NotFound, what).with("node", node))
}

fn is_out(node: NodeId) -> Error {
    Error::new(ErrorKind::Conflict, IS_OUT).with("node", node)
}
