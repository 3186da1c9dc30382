//! A program's clients and what they saw, in the world.

use mesh_core::assignment::Assignment;

use super::Room;
use crate::{
    harness::{ChainState, Deed},
    workload::Own,
};

impl Room {
    /// What is wrong for the program is wrong for the world.
    pub(super) fn own_violation(&mut self) {
        if let Some(why) = self.own.as_ref().and_then(|own| own.book.violation()) {
            self.world.violate(|| why.to_owned());
        }
    }

    /// Every key of the program's clients reads.
    pub(super) fn read_own(&mut self) {
        let keys = self.own.as_ref().map(|own| own.book.keys()).unwrap_or_default();
        for key in keys {
            let get = || Box::new(Own::new(None, Deed::Get { key: key.clone() })) as Box<_>;
            if self.is_wrong() || !self.insist("what a program's clients wrote", get) {
                return;
            }
        }
    }

    /// The program's last word.
    pub(super) fn conclude_own(&mut self) {
        let Some(own) = &self.own else { return };
        let count = own.stages.len();
        // Policy, and the ledger where chains move.
        let before = 1 + usize::from(self.swarm.moves_per_mille > 0);
        let rows: Vec<Assignment> = self.world.rows().values().copied().collect();
        let mut chains = Vec::new();
        for row in rows {
            if self.is_wrong() {
                return;
            }
            match self.world.pages((row.node, row.actor, row.epoch)) {
                Ok(pages) => chains.push(ChainState::of(row.actor, pages, before, count)),
                Err(error) => self.world.violate(|| format!("{} does not give its state: {error}", row.actor)),
            }
        }
        if !self.is_wrong()
            && let Some(own) = &mut self.own
            && let Err(why) = own.book.conclude(&chains)
        {
            self.world.violate(|| why);
        }
    }
}
