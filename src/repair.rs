//! `mesh repair`: how far each namespace group is with bringing what it has stored home, as the groups say.

use std::sync::Arc;

use futures_util::future::join_all;
use mesh_core::{
    Error,
    id::GroupId,
    meta::{MetaAnswer, Query, RepairState},
    op::GroupRepair,
    time::Instant,
};

use crate::node::Inner;

/// What all namespace groups say, each for itself: one that cannot be asked hides no other.
pub(crate) async fn states(node: &Arc<Inner>, deadline: Instant) -> Vec<GroupRepair> {
    let control = node.metadata.control();
    let newest = control.layouts.values().next_back().map(|layout| layout.id).unwrap_or_default();
    let groups = (1..=u64::from(control.namespaces)).map(GroupId);
    join_all(groups.map(async |group| {
        let state = ask(node, group, deadline).await;
        let (state, error) = match state {
            Ok(state) => (Some(state), None),
            Err(error) => (None, Some(error.to_string())),
        };
        GroupRepair { group, newest, state, error }
    }))
    .await
}

async fn ask(node: &Inner, group: GroupId, deadline: Instant) -> Result<RepairState, Error> {
    match *node.ask_group(group, Query::Repair, deadline).await? {
        MetaAnswer::Repair(state) => Ok(state),
        _ => Err(Error::bug("a group answered with something else than was asked")),
    }
}
