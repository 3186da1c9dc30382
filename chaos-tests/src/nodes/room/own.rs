//! A program's functions, clients and states in the room of whole nodes.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use mesh_core::{Error, ErrorKind, assignment::Scope, id::ActorId, op::AdminOp, snapshot::Snapshot, spec::CustomSpec};

use super::{Room, Stream};
use crate::{harness::ChainState, nodes::lock};

/// Pages of chains; none: they have not been given yet.
pub(super) type States = Arc<Mutex<BTreeMap<ActorId, Option<Result<Vec<Snapshot>, Error>>>>>;

impl Room {
    /// From now on these stand in every chain.
    pub(in crate::nodes) fn declare(&mut self, stages: Vec<CustomSpec>) {
        let end = self.clients.administer(AdminOp::Stages { scope: Scope::Mesh, stages }, false);
        self.net.add(end);
    }

    /// What lacks before all chains are made of these; none: nothing.
    pub(in crate::nodes) fn undeclared(&self, stages: &[CustomSpec]) -> Option<String> {
        for (id, _, node) in self.nodes() {
            let view = node.control();
            for row in view.assignments.values() {
                let Some((tenant, _)) = row.actor.as_data() else { continue };
                if !view.stages_of(tenant).eq(stages.iter()) {
                    return Some(format!("{id} has not heard of the program's stages"));
                }
                if row.node != id {
                    continue;
                }
                let reports = node.status();
                let own = reports.iter().find(|report| report.node == id);
                let actor = own.and_then(|report| report.actors.iter().find(|actor| actor.actor == row.actor));
                let stands = |stage: &CustomSpec| {
                    actor.is_some_and(|actor| actor.functions.iter().any(|kind| **kind == *stage.kind))
                };
                if !stages.iter().all(stands) {
                    return Some(format!("{} is not made of the program's stages yet", row.actor));
                }
            }
        }
        None
    }

    /// A client of the program begins.
    pub(in crate::nodes) fn own_client(&mut self, which: usize) {
        let dice = Stream::new(self.shared.seed, "own client", which as u64);
        let end = self.clients.begin_own(which, dice);
        self.net.add(end);
    }

    /// Everything that the program's clients used is read through every host.
    pub(in crate::nodes) fn read_own(&mut self) {
        for end in self.clients.read_own() {
            self.net.add(end);
        }
    }

    /// Asks every chain for its state, where it runs.
    pub(in crate::nodes) fn ask_states(&mut self) {
        let Some(view) = self.newest() else { return };
        for row in view.assignments.values().filter(|row| row.actor.as_data().is_some()) {
            let running = self.machines.get(&row.node).and_then(|machine| machine.running.as_ref());
            let (states, actor, epoch) = (self.states.clone(), row.actor, row.epoch);
            let Some((running, Ok(node))) = running.and_then(|running| Some((running, running.node()?))) else {
                let gone = Error::new(ErrorKind::NoSuchActor, "its node does not run").with("node", row.node);
                lock(&states).insert(actor, Some(Err(gone)));
                continue;
            };
            lock(&states).insert(actor, None);
            running.runtime.spawn(async move {
                let pages = node.state(actor, epoch).await;
                lock(&states).insert(actor, Some(pages));
            });
        }
    }

    /// Whose state is still to come; none: nobody's.
    pub(in crate::nodes) fn stateless(&self) -> Option<String> {
        let states = lock(&self.states);
        states.iter().find(|(_, pages)| pages.is_none()).map(|(actor, _)| format!("{actor} has not said its state"))
    }

    /// The states that were asked for, of the program's `count` stages.
    ///
    /// # Errors
    /// Whose is not given.
    pub(in crate::nodes) fn states(&self, count: usize) -> Result<Vec<ChainState>, String> {
        let states = core::mem::take(&mut *lock(&self.states));
        let state = |(actor, pages): (ActorId, Option<Result<Vec<Snapshot>, Error>>)| match pages {
            // Policy stands before them.
            Some(Ok(pages)) => Ok(ChainState::of(actor, pages, 1, count)),
            Some(Err(error)) => Err(format!("{actor} does not give its state: {error}")),
            None => Err(format!("{actor} has not said its state")),
        };
        states.into_iter().map(state).collect()
    }
}
