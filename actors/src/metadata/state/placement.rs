//! Control group: which node runs which actor, moves, and what users ask of placement.
//!
//! A move ends once: of its commit and its abort the first applied counts, whoever proposed it and however often.

use std::ops::ControlFlow;

use mesh_core::{
    Error, ErrorKind, Redirect,
    assignment::{Assignment, MoveId, Scope, Tail, Wish},
    id::{ActorId, Epoch, NodeId},
    limits::CHAIN_STAGES_MAX,
    meta::MetaAnswer,
    topology::NodeInfo,
};

use super::{departures, rows::Rows, tenants};
use crate::metadata::keys;

/// Actors with a place of their own at most.
const ASSIGNMENTS_MAX: u64 = 1 << 18;
/// Wishes at most.
const WISHES_MAX: u64 = 4096;

pub(super) fn assign(rows: &mut Rows<'_>, wanted: Assignment) -> Result<MetaAnswer, Error> {
    let key = keys::assignment(wanted.actor);
    let present = rows.find::<Assignment>(&key)?;
    if present.is_some_and(|present| (present.node, present.epoch) == (wanted.node, wanted.epoch)) {
        return Ok(MetaAnswer::Epoch(wanted.epoch));
    }
    let last = present.map_or(Epoch(0), |present| present.epoch);
    if wanted.epoch.0 != last.0 + 1 {
        let refused = Error::new(ErrorKind::Conflict, "an assignment's epoch is one more than the present one's")
            .with("actor", wanted.actor)
            .with("epoch", wanted.epoch);
        return Err(match present {
            Some(present) => refused.redirect_to(place_of(&present)),
            None => refused,
        });
    }
    if present.is_none() {
        rows.take_room(&keys::all(keys::ASSIGNMENT), ASSIGNMENTS_MAX, "assignments")?;
    }
    if let Some((tenant, _)) = wanted.actor.as_data()
        && tenants::has_ended(rows, tenant)?
    {
        return Err(Error::new(ErrorKind::Conflict, "the tenant of this chain was deleted").with("actor", wanted.actor));
    }
    expect_known(rows, wanted.node)?;
    // Counted like a move, so that the commit of one that it ended is not taken for its own.
    let moves = present.map_or(MoveId(0), |present| MoveId(present.moves.0 + 1));
    rows.put(key, &Assignment { moves, since: moves, ..Assignment::new(wanted.actor, wanted.node, wanted.epoch) })?;
    rows.remove(keys::tail(wanted.actor));
    Ok(MetaAnswer::Epoch(wanted.epoch))
}

pub(super) fn begin(
    rows: &mut Rows<'_>,
    actor: ActorId,
    epoch: Epoch,
    id: MoveId,
    to: NodeId,
) -> Result<MetaAnswer, Error> {
    let mut row = find(rows, actor)?;
    if (row.epoch, row.moves, row.moving) == (epoch, id, Some(to)) {
        return Ok(MetaAnswer::Done);
    }
    if row.epoch != epoch || row.moving.is_some() || id.0 != row.moves.0 + 1 {
        return Err(Error::new(ErrorKind::Conflict, "the actor is elsewhere or on its way already: look, plan again")
            .with("actor", actor)
            .with("move", id)
            .redirect_to(place_of(&row)));
    }
    if to == row.node {
        return Err(Error::invalid("the actor is on that node").with("actor", actor).with("node", to));
    }
    expect_known(rows, to)?;
    row.moves = id;
    row.moving = Some(to);
    rows.put(keys::assignment(actor), &row)?;
    Ok(MetaAnswer::Done)
}

pub(super) fn commit(rows: &mut Rows<'_>, actor: ActorId, epoch: Epoch, id: MoveId) -> Result<MetaAnswer, Error> {
    let mut row = find(rows, actor)?;
    let next = Epoch(epoch.0 + 1);
    match row.moving {
        Some(to) if (row.epoch, row.moves) == (epoch, id) => {
            row.node = to;
            row.epoch = next;
            row.moving = None;
            row.since = id;
            rows.put(keys::assignment(actor), &row)?;
            rows.remove(keys::tail(actor));
            Ok(MetaAnswer::Epoch(next))
        }
        // Once more.
        _ if row.moves == id && row.epoch == next && row.moving.is_none() => Ok(MetaAnswer::Epoch(next)),
        _ => Err(ended_otherwise(&row, id)),
    }
}

pub(super) fn abort(rows: &mut Rows<'_>, actor: ActorId, epoch: Epoch, id: MoveId) -> Result<MetaAnswer, Error> {
    let mut row = find(rows, actor)?;
    if (row.epoch, row.moves) != (epoch, id) {
        return Err(ended_otherwise(&row, id));
    }
    if row.moving.take().is_some() {
        rows.put(keys::assignment(actor), &row)?;
    }
    Ok(MetaAnswer::Done)
}

pub(super) fn set_tail(
    rows: &mut Rows<'_>,
    actor: ActorId,
    epoch: Epoch,
    tail: Option<Tail>,
) -> Result<MetaAnswer, Error> {
    let row = find(rows, actor)?;
    if row.epoch != epoch || row.moving.is_some() {
        return Err(Error::new(ErrorKind::Conflict, "the chain is elsewhere or on its way already: look, plan again")
            .with("actor", actor)
            .redirect_to(place_of(&row)));
    }
    let key = keys::tail(actor);
    let Some(tail) = tail else {
        rows.remove(key);
        return Ok(MetaAnswer::Done);
    };
    if actor.as_data().is_none() || tail.cut == 0 || usize::from(tail.cut) >= CHAIN_STAGES_MAX || tail.node == row.node
    {
        return Err(Error::invalid("a data chain is cut behind its first stage, and its tail runs on another node")
            .with("actor", actor)
            .with("cut", tail.cut)
            .with("node", tail.node));
    }
    expect_known(rows, tail.node)?;
    rows.put(key, &(actor, tail))?;
    Ok(MetaAnswer::Done)
}

pub(super) fn set_wish(rows: &mut Rows<'_>, scope: Scope, wish: Option<Wish>) -> Result<MetaAnswer, Error> {
    let key = keys::wish(scope);
    match wish {
        Some(wish) => {
            if let Some(pin) = wish.pin {
                expect_known(rows, pin)?;
            }
            let known = rows.find::<(Scope, Wish)>(&key)?;
            if known.is_none() {
                rows.take_room(&keys::all(keys::WISH), WISHES_MAX, "wishes about placement")?;
            }
            if known != Some((scope, wish)) {
                rows.put(key, &(scope, wish))?;
            }
        }
        None if rows.has(&key)? => {
            rows.remove(key);
            rows.give_room(&keys::all(keys::WISH))?;
        }
        None => {}
    }
    Ok(MetaAnswer::Done)
}

/// Takes back the wishes that are about what is no more.
pub(super) fn forget_wishes(rows: &mut Rows<'_>, is_gone: impl Fn(Scope, &Wish) -> bool) -> Result<(), Error> {
    let (all, mut gone) = (keys::all(keys::WISH), Vec::new());
    rows.scan(&all, &keys::behind(&all), |key, (scope, wish): (Scope, Wish)| {
        if is_gone(scope, &wish) {
            gone.push(key.to_vec());
        }
        Ok(ControlFlow::Continue(()))
    })?;
    for key in gone {
        rows.remove(key);
        rows.give_room(&all)?;
    }
    Ok(())
}

pub(super) fn drain(rows: &mut Rows<'_>, node: NodeId, draining: bool) -> Result<MetaAnswer, Error> {
    let key = keys::node(node);
    let known = rows.find::<NodeInfo>(&key)?.ok_or_else(|| no_such_node(node))?;
    if !draining && departures::leaves(rows, node)? {
        let what = "the node leaves: take that back, with `mesh node drain --undo`";
        return Err(Error::new(ErrorKind::Conflict, what).with("node", node));
    }
    // What builds before wrote has fewer bytes, and written again has more: only that would be news of.
    if known.draining != draining {
        rows.put(key, &NodeInfo { draining, ..known })?;
    }
    Ok(MetaAnswer::Done)
}

fn find(rows: &Rows<'_>, actor: ActorId) -> Result<Assignment, Error> {
    rows.find::<Assignment>(&keys::assignment(actor))?
        .ok_or_else(|| Error::new(ErrorKind::NotFound, "the actor has no place yet").with("actor", actor))
}

fn expect_known(rows: &Rows<'_>, node: NodeId) -> Result<(), Error> {
    if rows.has(&keys::node(node))? { Ok(()) } else { Err(no_such_node(node)) }
}

fn no_such_node(node: NodeId) -> Error {
    Error::new(ErrorKind::NotFound, "no node of this number is a member of the mesh").with("node", node)
}

fn ended_otherwise(row: &Assignment, id: MoveId) -> Error {
    Error::new(ErrorKind::Conflict, "the move has ended otherwise: look where the actor is")
        .with("actor", row.actor)
        .with("move", id)
        .redirect_to(place_of(row))
}

fn place_of(row: &Assignment) -> Redirect {
    Redirect { actor: Some(row.actor), epoch: Some(row.epoch), node: Some(row.node), group: None }
}
