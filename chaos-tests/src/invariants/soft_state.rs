//! What an actor keeps in memory survives its moves: a change that was acknowledged is there afterwards, once. Only the
//! crash of an owner, or of a target before the commit, may lose it; then the state is born anew, and says so.

use std::collections::BTreeMap;

use mesh_core::{
    Op, Outcome,
    id::{ActorId, Epoch, NodeId},
};

use super::Invariant;
use crate::{
    ledger::{self, Entry},
    world::World,
};

/// Sees two changes that were made in one place, as it happens when a state goes on in two places or falls back.
#[derive(Debug, Default)]
pub struct SoftState(BTreeMap<(ActorId, u64, u64), u64>);

impl Invariant for SoftState {
    fn answered(&mut self, actor: ActorId, op: &Op, outcome: &Outcome) -> Result<(), String> {
        let Some((id, Entry { birth, place })) = ledger::acknowledged(op, outcome) else { return Ok(()) };
        let first = *self.0.entry((actor, birth, place)).or_insert(id);
        if first == id {
            Ok(())
        } else {
            Err(format!("{actor} lost an acknowledged change: {place} was change {first}, and now is {id}"))
        }
    }
}

/// Whether the state that an actor has at its owner holds these acknowledged changes, each once.
///
/// # Errors
/// What is missing, or there twice.
pub fn kept(
    world: &mut World,
    (node, actor, epoch): (NodeId, ActorId, Epoch),
    acknowledged: &BTreeMap<u64, Entry>,
) -> Result<(), String> {
    let pages = world.pages((node, actor, epoch));
    let pages = pages.map_err(|error| format!("{actor} does not give its state: {error}"))?;
    let (birth, entries) = ledger::read(&pages);
    let places: BTreeMap<u64, u64> = entries.iter().map(|(id, place)| (*place, *id)).collect();
    if places.len() != entries.len() || places.keys().next_back().is_some_and(|last| *last != places.len() as u64) {
        return Err(format!("{actor} has changes that were made twice, or lacks some: {entries:?}"));
    }
    for (id, entry) in acknowledged.iter().filter(|(_, entry)| entry.birth == birth) {
        if entries.get(id) != Some(&entry.place) {
            return Err(format!("{actor} lost the acknowledged change {id}: {entry:?}, in {entries:?}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sees_a_place_that_is_given_twice_unless_the_state_was_born_anew() {
        let mut state = SoftState::default();
        let said = |birth, place| ledger::answer(Entry { birth, place });
        assert_eq!(state.answered(ActorId(9), &ledger::change(7), &said(1, 3)), Ok(()));
        assert_eq!(state.answered(ActorId(9), &ledger::change(8), &said(2, 3)), Ok(()));
        assert!(state.answered(ActorId(9), &ledger::change(8), &said(1, 3)).is_err());
    }
}
