//! Functions of the embedding program in data chains: whether they can stand there.

use std::{collections::BTreeSet, sync::Arc};

use crate::node::Inner;
use mesh_actors::registry::Parts;
use mesh_core::{
    Error, ErrorKind,
    assignment::{Assignment, Scope},
    id::NodeId,
    meta::ControlView,
    op::ChainRow,
    spec::{CustomSpec, FunctionSpec},
};

/// Refuses functions that a node which runs such a chain cannot make, or whose settings are wrong. A chain runs where it
/// is now, and goes back to its ingress when it can be nowhere else; other nodes that lack a kind are left out of
/// placement.
pub(crate) fn check(
    node: &Arc<Inner>,
    control: &ControlView,
    scope: Scope,
    stages: &[CustomSpec],
) -> Result<(), Error> {
    stages.iter().try_for_each(CustomSpec::check)?;
    let known = node.outlook();
    let reports = &known.sight.reports;
    let hosts = concerned(control, scope).flat_map(|row| {
        let ingress = row.actor.as_data().map(|(_, ingress)| ingress);
        ingress.into_iter().chain([row.node])
    });
    for at in hosts.collect::<BTreeSet<NodeId>>() {
        // Of a node that is down nothing is known; it is asked when it is back.
        let Some(report) = reports.get(&at) else { continue };
        if let Some(stage) = stages.iter().find(|stage| !report.ability.functions.contains_key(&*stage.kind)) {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "a node that runs data chains does not have such functions: start it with a program that registers them",
            )
            .with("node", at)
            .with("function", &stage.kind));
        }
    }
    for stage in stages.iter().filter(|stage| node.registry.kinds().any(|kind| *kind == *stage.kind)) {
        let parts = Parts { pool: node.pool.clone(), geometry: None };
        node.registry
            .build(&FunctionSpec::Custom(stage.clone()), &parts)
            .map_err(|error| Error::invalid("the function refuses its settings").with("why", error))?;
    }
    Ok(())
}

/// The chains that a declaration is about.
pub(crate) fn said(control: &ControlView, scope: Scope) -> Vec<ChainRow> {
    let row = |row: &Assignment| {
        let own = row.actor.as_data().into_iter().flat_map(|(tenant, _)| control.stages_of(tenant));
        let own = own.map(|stage| stage.kind.to_string()).collect();
        ChainRow { actor: row.actor, node: row.node, epoch: row.epoch, own }
    };
    concerned(control, scope).map(row).collect()
}

fn concerned(control: &ControlView, scope: Scope) -> impl Iterator<Item = &Assignment> {
    control.assignments.values().filter(move |row| {
        row.actor.as_data().is_some_and(|(tenant, _)| scope == Scope::Mesh || scope == Scope::Tenant(tenant))
    })
}
