//! Clients of what chains keep in memory, while chains move: each change is asked for by its number until it is
//! acknowledged, anywhere; at the end every state holds what was acknowledged of it.

use core::time::Duration;
use std::collections::BTreeMap;

use mesh_core::{
    Outcome, Request,
    assignment::Assignment,
    id::{ActorId, NodeId},
};

use super::{Errand, Room};
use crate::{
    invariants::{kept, parked_since},
    ledger::{self, Entry},
};

/// What was asked for and acknowledged.
#[derive(Debug, Default)]
pub(super) struct Changes {
    next: u64,
    /// Not ended.
    pub(super) open: u64,
    acknowledged: BTreeMap<ActorId, BTreeMap<u64, Entry>>,
}

impl Changes {
    /// Acknowledged so far.
    pub(super) fn count(&self) -> usize {
        self.acknowledged.values().map(BTreeMap::len).sum()
    }
}

/// Changes of one run at most.
const CHANGES_MAX: u64 = 400;
/// How often one change is asked for.
const TRIES: u32 = 12;
/// Nothing waits at a gate for longer than this, once everything works.
const PARKED_MAX: Duration = Duration::from_secs(10);

impl Room {
    /// A client asks some chain for a new change, and comes again after a while.
    pub(super) fn change(&mut self) {
        if !self.storming || self.changes.next >= CHANGES_MAX {
            return;
        }
        let actors: Vec<ActorId> = self.world.rows().keys().copied().collect();
        let Some(actor) = self.dice.pick(&actors).copied() else { return };
        self.ask_new_change(actor);
        let pause = self.dice.span(&self.change_pause.clone());
        self.timer(pause, Errand::ChangeDue);
    }

    pub(super) fn ask_new_change(&mut self, actor: ActorId) {
        self.changes.next += 1;
        self.changes.open += 1;
        let id = self.changes.next;
        self.ask_change(actor, id, TRIES);
    }

    fn ask_change(&mut self, actor: ActorId, id: u64, tries: u32) {
        let up: Vec<NodeId> = self.swarm.members().filter(|node| self.world.is_up(*node)).collect();
        let node = self.dice.pick(&up).copied().unwrap_or(NodeId(1));
        let deadline = self.world.clock(node) + Duration::from_secs(5);
        let request = Request::system(ledger::change(id), deadline);
        let ticket = self.number(Errand::Change(actor, id, tries));
        self.world.submit(node, actor, request, ticket);
    }

    pub(super) fn change_answered(&mut self, actor: ActorId, id: u64, tries: u32, outcome: &Outcome) {
        match ledger::acknowledged(&ledger::change(id), outcome) {
            Some((_, entry)) => {
                self.changes.acknowledged.entry(actor).or_default().insert(id, entry);
            }
            None if tries > 0 => {
                let pause = self.dice.span(&(Duration::from_millis(1)..Duration::from_millis(300)));
                self.timer(pause, Errand::ChangeAgain(actor, id, tries - 1));
                return;
            }
            None => {}
        }
        self.changes.open -= 1;
    }

    pub(super) fn change_again(&mut self, actor: ActorId, id: u64, tries: u32) {
        self.ask_change(actor, id, tries);
    }

    /// Every chain holds the changes that were acknowledged, each once.
    pub(super) fn check_states(&mut self) {
        if self.is_wrong() || self.swarm.moves_per_mille == 0 {
            return;
        }
        let idle = |room: &Self| room.changes.open == 0 && room.cluster.is_at_rest(&room.world);
        if !self.run_until(super::PATIENCE, idle) && !self.is_wrong() {
            let (open, moves) = (self.changes.open, self.cluster.moves_under_way());
            self.world.violate(|| format!("{open} changes and {moves} moves never end"));
        }
        let rows: Vec<Assignment> = self.world.rows().values().copied().collect();
        for row in rows {
            let acknowledged = self.changes.acknowledged.get(&row.actor).cloned().unwrap_or_default();
            if self.is_wrong() {
                return;
            }
            if let Err(why) = kept(&mut self.world, (row.node, row.actor, row.epoch), &acknowledged) {
                self.world.violate(|| why);
            }
        }
    }

    /// Nothing waits at a gate for long.
    pub(super) fn check_gates(&mut self) {
        if let Some(why) = parked_since(&self.world, PARKED_MAX) {
            self.world.violate(|| why);
        }
    }
}
