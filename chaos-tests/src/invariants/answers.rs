//! No request is answered twice differently: a change that is sent again, to whoever owns the state by then, is said to
//! have had the same effect.

use std::collections::BTreeMap;

use mesh_core::{Op, Outcome, id::ActorId};

use super::Invariant;
use crate::ledger::{self, Entry};

/// See the module's page.
#[derive(Debug, Default)]
pub struct Answers(BTreeMap<(ActorId, u64, u64), u64>);

impl Invariant for Answers {
    fn answered(&mut self, actor: ActorId, op: &Op, outcome: &Outcome) -> Result<(), String> {
        let Some((id, Entry { birth, place })) = ledger::acknowledged(op, outcome) else { return Ok(()) };
        let first = *self.0.entry((actor, birth, id)).or_insert(place);
        if first == place {
            Ok(())
        } else {
            Err(format!("{actor} answers change {id} twice differently: it was made as {first}, and now as {place}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sees_a_second_answer_that_differs() {
        let mut answers = Answers::default();
        let op = ledger::change(7);
        let said = |place| ledger::answer(Entry { birth: 1, place });
        assert_eq!(answers.answered(ActorId(9), &op, &said(3)), Ok(()));
        assert_eq!(answers.answered(ActorId(9), &op, &said(3)), Ok(()));
        assert!(answers.answered(ActorId(9), &op, &said(4)).is_err());
    }
}
