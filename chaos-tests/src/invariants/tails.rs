//! A tail takes only what the head of its own epoch sends, under an epoch that was committed, and at one node its epochs only
//! grow. More is not promised: where a chain is cut may change under one epoch, so two nodes may have a tail of it for a while.

use std::collections::{BTreeMap, BTreeSet};

use mesh_core::{
    assignment::Assignment,
    id::{ActorId, Epoch, NodeId},
};

use super::Invariant;

/// See the module's page.
#[derive(Debug, Default)]
pub struct Tails {
    committed: BTreeSet<(ActorId, Epoch)>,
    taken: BTreeMap<(NodeId, ActorId), Epoch>,
}

impl Invariant for Tails {
    fn assigned(&mut self, _: Option<&Assignment>, row: &Assignment, _: bool) -> Result<(), String> {
        self.committed.insert((row.actor, row.epoch));
        Ok(())
    }

    fn tail_taken(&mut self, node: NodeId, (tail, epoch): (ActorId, Epoch), head: Epoch) -> Result<(), String> {
        if head != epoch {
            return Err(format!("{node}: {tail} under {epoch} takes what a head of {head} sends"));
        }
        let chain = tail.as_tail().map(|(tenant, ingress, _)| ActorId::data(tenant, ingress));
        if !chain.is_some_and(|chain| self.committed.contains(&(chain, epoch))) {
            return Err(format!("{node}: {tail} runs under {epoch}, which nobody has committed"));
        }
        match self.taken.insert((node, tail), epoch) {
            Some(before) if before > epoch => Err(format!("{node}: {tail} went back from {before} to {epoch}")),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use mesh_core::id::TenantId;

    use super::*;

    #[test]
    fn sees_a_tail_that_takes_from_another_epoch_or_goes_back() {
        let (chain, tail) = (ActorId::data(TenantId(7), NodeId(1)), ActorId::tail(TenantId(7), NodeId(1), 2));
        let mut tails = Tails::default();
        let taken = |tails: &mut Tails, epoch, head| tails.tail_taken(NodeId(2), (tail, Epoch(epoch)), Epoch(head));
        assert!(taken(&mut tails, 1, 1).is_err(), "nobody has committed it");
        for epoch in [1, 2] {
            let row = Assignment::new(chain, NodeId(1), Epoch(epoch));
            tails.assigned(None, &row, false).expect("an assignment");
        }
        assert_eq!(taken(&mut tails, 1, 1), Ok(()));
        assert!(taken(&mut tails, 1, 2).is_err());
        assert!(taken(&mut tails, 1, 0).is_err());
        assert_eq!(taken(&mut tails, 2, 2), Ok(()));
        assert!(taken(&mut tails, 1, 1).is_err());
    }
}
