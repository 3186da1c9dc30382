//! Control group: what all nodes can do together.

use core::ops::ControlFlow;
use std::collections::BTreeSet;

use mesh_core::{
    Error, ErrorKind,
    id::NodeId,
    meta::{Level, MetaAnswer},
    topology::NodeInfo,
};

use super::{rows::Rows, stages};
use crate::metadata::keys;

/// What the mesh can do.
pub(super) fn of_mesh(rows: &Rows<'_>) -> Result<Level, Error> {
    Ok(rows.find(&keys::level())?.unwrap_or_default())
}

/// Refuses what the mesh cannot do yet, the same at every replica.
pub(super) fn expect(rows: &Rows<'_>, needs: Level) -> Result<(), Error> {
    // Nothing is read for what every build can do.
    if needs <= Level::FIRST {
        return Ok(());
    }
    let level = of_mesh(rows)?;
    if needs <= level {
        return Ok(());
    }
    let what = "the mesh cannot do this before every node runs a build that can: upgrade the others";
    Err(Error::new(ErrorKind::Unsupported, what).with("needs", needs).with("level", level))
}

/// Refuses what needs a level that some node besides these does not speak: they do not come back, and hold nobody back.
pub(super) fn expect_spoken_by_others(rows: &Rows<'_>, needs: Level, gone: &BTreeSet<NodeId>) -> Result<(), Error> {
    let (all, mut behind) = (keys::all(keys::NODE), None);
    rows.scan(&all, &keys::behind(&all), |_, node: NodeInfo| {
        if node.level < needs && !gone.contains(&node.id) {
            behind = Some(node.id);
        }
        Ok(ControlFlow::Continue(()))
    })?;
    match behind {
        Some(node) => {
            let what = "a node runs a build that cannot do this: upgrade it first";
            Err(Error::new(ErrorKind::Unsupported, what).with("node", node).with("needs", needs))
        }
        None => Ok(()),
    }
}

/// Refuses a node whose build is older than what the mesh does.
pub(super) fn expect_spoken(rows: &Rows<'_>, node: &NodeInfo) -> Result<(), Error> {
    let level = of_mesh(rows)?;
    if node.level >= level {
        return Ok(());
    }
    let what = "this node's build is older than what the mesh does by now: run a newer one on it";
    Err(Error::new(ErrorKind::Unsupported, what).with("node", node.id).with("level", node.level).with("needed", level))
}

pub(super) fn raise(rows: &mut Rows<'_>, to: Level) -> Result<MetaAnswer, Error> {
    if to <= of_mesh(rows)? {
        return Ok(MetaAnswer::Done);
    }
    let (from, mut behind) = (keys::all(keys::NODE), None);
    rows.scan(&from, &keys::behind(&from), |_, node: NodeInfo| {
        if node.level >= to {
            return Ok(ControlFlow::Continue(()));
        }
        behind = Some(node);
        Ok(ControlFlow::Break(()))
    })?;
    if let Some(node) = behind {
        return Err(Error::new(ErrorKind::Conflict, "a node does not speak this level: upgrade it first")
            .with("node", node.id)
            .with("level", node.level)
            .with("asked", to));
    }
    // What a chain is made of never changes under one epoch, and from there on it is made of one function more.
    if of_mesh(rows)? < Level::COMPRESS && to >= Level::COMPRESS {
        stages::begin_anew(rows, None)?;
    }
    rows.put(keys::level(), &to)?;
    Ok(MetaAnswer::Done)
}
