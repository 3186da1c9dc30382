//! One owner an epoch, and epochs only grow: a request is let in only where the group has said that the actor runs, under
//! an epoch that was committed, and not any more once a move away from there is.
//!
//! An owner that the group has replaced because it seemed lost may not have heard of it, and goes on until it has: what it
//! says counts no more, and what it kept is lost. That is promised, so it is no violation.

use std::collections::{BTreeMap, BTreeSet};

use mesh_core::{
    assignment::Assignment,
    id::{ActorId, Epoch, NodeId},
};

use super::Invariant;

/// See the module's page.
#[derive(Debug, Default)]
pub struct Ownership {
    owners: BTreeMap<(ActorId, Epoch), NodeId>,
    /// Epochs that a move has ended.
    left: BTreeSet<(ActorId, Epoch)>,
}

impl Invariant for Ownership {
    fn assigned(&mut self, before: Option<&Assignment>, row: &Assignment, commits: bool) -> Result<(), String> {
        if let Some(before) = before {
            let grown = row.epoch.0.wrapping_sub(before.epoch.0);
            if grown > 1 || (grown == 0 && row.node != before.node) || row.moves < before.moves {
                return Err(format!("an actor's epoch does not grow by one with each owner: {before:?}, then {row:?}"));
            }
            if grown == 1 && commits {
                if before.moving != Some(row.node) || before.moves != row.moves {
                    return Err(format!("a move was committed that was not under way: {before:?}, then {row:?}"));
                }
                self.left.insert((row.actor, before.epoch));
            }
        }
        match self.owners.insert((row.actor, row.epoch), row.node) {
            Some(other) if other != row.node => {
                Err(format!("{} has two owners under {}: {other} and {}", row.actor, row.epoch, row.node))
            }
            _ => Ok(()),
        }
    }

    fn taken(&mut self, node: NodeId, actor: ActorId, epoch: Epoch) -> Result<(), String> {
        match self.owners.get(&(actor, epoch)) {
            Some(owner) if *owner != node => {
                Err(format!("{node} lets a request in to {actor} under {epoch}, whose owner is {owner}"))
            }
            None => Err(format!("{node} lets a request in to {actor} under {epoch}, which nobody has committed")),
            Some(_) if self.left.contains(&(actor, epoch)) => {
                Err(format!("{node} lets a request in to {actor} under {epoch}, after the actor has moved away"))
            }
            Some(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use mesh_core::assignment::MoveId;

    use super::*;

    const ACTOR: ActorId = ActorId(9);

    fn row(node: u64, epoch: u64, moves: u64, moving: Option<u64>) -> Assignment {
        let rest = Assignment::new(ACTOR, NodeId(node), Epoch(epoch));
        Assignment { moves: MoveId(moves), moving: moving.map(NodeId), ..rest }
    }

    fn told(rows: &[Assignment]) -> Result<Ownership, String> {
        let mut ownership = Ownership::default();
        let mut before = None;
        for row in rows {
            let commits = before.is_some_and(|before: &Assignment| before.moves == row.moves);
            ownership.assigned(before, row, commits)?;
            before = Some(row);
        }
        Ok(ownership)
    }

    #[test]
    fn sees_an_owner_that_goes_on_after_its_actor_has_moved() {
        let moved = [row(1, 1, 0, None), row(1, 1, 1, Some(2)), row(2, 2, 1, None)];
        let mut ownership = told(&moved).expect("a move");
        assert_eq!(ownership.taken(NodeId(2), ACTOR, Epoch(2)), Ok(()));
        assert!(ownership.taken(NodeId(1), ACTOR, Epoch(1)).is_err());
        assert!(ownership.taken(NodeId(1), ACTOR, Epoch(2)).is_err());
        assert!(ownership.taken(NodeId(2), ACTOR, Epoch(3)).is_err());
    }

    #[test]
    fn excuses_an_owner_that_was_replaced_and_has_not_heard_of_it() {
        let mut ownership = told(&[row(1, 1, 0, None), row(2, 2, 1, None)]).expect("a new owner");
        assert_eq!(ownership.taken(NodeId(1), ACTOR, Epoch(1)), Ok(()));
    }

    #[test]
    fn sees_epochs_that_do_not_grow_and_commits_of_what_was_aborted() {
        assert!(told(&[row(1, 2, 0, None), row(1, 1, 0, None)]).is_err());
        assert!(told(&[row(1, 1, 0, None), row(2, 1, 0, None)]).is_err());
        assert!(told(&[row(1, 1, 0, None), row(1, 1, 1, Some(2)), row(1, 1, 1, None), row(2, 2, 1, None)]).is_err());
    }
}
