//! Control group: which functions stand in data chains: the embedding program's, and what builds add to the mesh's own.
//!
//! What a chain is made of never changes under one epoch: a state that is carried from one node to another fits only a
//! chain of the same functions. So the command that changes it ends moves and raises epochs, in the same step.

use std::ops::ControlFlow;

use mesh_core::{
    Error, ErrorKind,
    assignment::{Assignment, MoveId, Scope},
    id::{Epoch, TenantId},
    limits::CUSTOM_STAGES_MAX,
    meta::MetaAnswer,
    spec::CustomSpec,
};

use super::{rows::Rows, tenants};
use crate::metadata::keys;

/// Declarations at most.
const DECLARATIONS_MAX: u64 = 1024;

pub(super) fn set(rows: &mut Rows<'_>, scope: Scope, stages: &[CustomSpec]) -> Result<MetaAnswer, Error> {
    let concerned = match scope {
        Scope::Mesh => None,
        Scope::Tenant(tenant) => Some(tenants::tenant(rows, tenant)?.id),
        Scope::Actor(_) => {
            return Err(Error::invalid("functions are put into all data chains, or into those of a tenant"));
        }
    };
    if stages.len() > CUSTOM_STAGES_MAX {
        return Err(Error::invalid("too many functions for one declaration")
            .with("stages", stages.len())
            .with("limit", CUSTOM_STAGES_MAX));
    }
    stages.iter().try_for_each(CustomSpec::check)?;
    let key = keys::stages(scope);
    let known = rows.find::<(Scope, Vec<CustomSpec>)>(&key)?;
    let before = known.as_ref().map_or(&[][..], |(_, stages)| stages);
    if before == stages {
        return Ok(MetaAnswer::Done);
    }
    expect_once(rows, scope, stages)?;
    let same_kinds = before.iter().map(|stage| &stage.kind).eq(stages.iter().map(|stage| &stage.kind));
    if stages.is_empty() {
        rows.remove(key);
        rows.give_room(&keys::all(keys::STAGES))?;
    } else {
        if known.is_none() {
            rows.take_room(&keys::all(keys::STAGES), DECLARATIONS_MAX, "declarations of functions in data chains")?;
        }
        rows.put(key, &(scope, stages))?;
    }
    if !same_kinds {
        begin_anew(rows, concerned)?;
    }
    Ok(MetaAnswer::Done)
}

/// A kind stands in a chain once: by its kind a function knows its settings.
fn expect_once(rows: &Rows<'_>, scope: Scope, stages: &[CustomSpec]) -> Result<(), Error> {
    let twice = |kind: &str| {
        Err(Error::new(ErrorKind::Conflict, "a kind of function stands in a chain once; it is declared already")
            .with("kind", kind))
    };
    for (at, stage) in stages.iter().enumerate() {
        if stages[..at].iter().any(|before| before.kind == stage.kind) {
            return twice(&stage.kind);
        }
    }
    let mut met = None;
    let prefix = keys::all(keys::STAGES);
    rows.scan(&prefix, &keys::behind(&prefix), |_, (other, theirs): (Scope, Vec<CustomSpec>)| {
        let meets = other != scope && (other == Scope::Mesh || scope == Scope::Mesh);
        let shared = stages.iter().find(|stage| theirs.iter().any(|one| one.kind == stage.kind));
        if meets && let Some(stage) = shared {
            met = Some(stage.kind.clone());
            return Ok(ControlFlow::Break(()));
        }
        Ok(ControlFlow::Continue(()))
    })?;
    met.map_or(Ok(()), |kind| twice(&kind))
}

/// Every data chain, or those of one tenant, under their next epoch; counted like a move, so that the end of one that was
/// under way is not taken for its own.
pub(super) fn begin_anew(rows: &mut Rows<'_>, concerned: Option<TenantId>) -> Result<(), Error> {
    let mut chains = Vec::new();
    let prefix = keys::all(keys::ASSIGNMENT);
    rows.scan(&prefix, &keys::behind(&prefix), |_, row: Assignment| {
        let tenant = row.actor.as_data().map(|(tenant, _)| tenant);
        if tenant.is_some() && (concerned.is_none() || concerned == tenant) {
            chains.push(row);
        }
        Ok(ControlFlow::Continue(()))
    })?;
    for row in chains {
        let moves = MoveId(row.moves.0 + 1);
        let anew = Assignment { epoch: Epoch(row.epoch.0 + 1), moves, moving: None, since: moves, ..row };
        rows.put(keys::assignment(row.actor), &anew)?;
        // It was cut between other functions.
        rows.remove(keys::tail(row.actor));
    }
    Ok(())
}
