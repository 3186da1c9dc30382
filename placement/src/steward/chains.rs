//! The actors of a node: each is hosted, opened, left or discarded as [`fate`] says, and a move that a node finds itself on
//! although it began anew is taken back first.

use std::collections::BTreeMap;

use mesh_core::{
    assignment::{Assignment, MoveId},
    id::{ActorId, NodeId},
    op::Phase,
};

use crate::fate::{Fate, Hosted, Known, fate};

/// What is to be done about one actor; what a look says is done in its order. Everything is under the epoch of the row that
/// was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// What is known of its moves is over.
    Forget,
    /// What is here of it is nothing: it goes, and requests to it wait for what comes.
    Evict,
    /// It warmed or was frozen, as said, and runs on from here with the state that it has.
    Open(Phase),
    /// It is to run here: started if it is not there, configured if it is.
    Run,
    /// Propose that the move ends, then tell [`Chains::took_back`].
    TakeBack(MoveId),
    /// It runs where the row says, and requests go there.
    Retire,
    /// It was to arrive and does not.
    Discard,
}

/// What a node has under way about its actors.
#[derive(Clone, Debug, Default)]
pub struct Chains {
    /// Actors whose moves of before this start are being taken back.
    taking_back: BTreeMap<ActorId, MoveId>,
}

impl Chains {
    /// Looks at the actor of a row. `hosted`: as it is hosted here, if it is. A node that does not know yet which others
    /// are there (`looks_around`) begins nothing: what it stored would be on too few nodes.
    #[must_use]
    pub fn look(
        &mut self,
        here: NodeId,
        row: &Assignment,
        hosted: Option<Hosted>,
        known: Known,
        looks_around: bool,
    ) -> Vec<Act> {
        let fate = fate(here, row, hosted, known);
        if !matches!(fate, Fate::TakeBack(_)) {
            self.taking_back.remove(&row.actor);
        }
        match fate {
            Fate::TakeBack(id) if self.taking_back.get(&row.actor) == Some(&id) => Vec::new(),
            Fate::TakeBack(id) => {
                self.taking_back.insert(row.actor, id);
                vec![Act::TakeBack(id)]
            }
            Fate::Host | Fate::Anew if hosted.is_none() && looks_around => Vec::new(),
            Fate::Anew => vec![Act::Forget, Act::Evict, Act::Run],
            Fate::Host => match hosted {
                None => vec![Act::Run],
                // It was thought lost, or is a leftover: it begins anew under its new epoch.
                Some(Hosted { epoch, .. }) if epoch != row.epoch => vec![Act::Forget, Act::Evict, Act::Run],
                // The move is committed, and its controller has not told yet; or it is aborted.
                Some(Hosted { phase: phase @ (Phase::Warming | Phase::Frozen), .. }) => {
                    vec![Act::Forget, Act::Open(phase), Act::Run]
                }
                // A move that it was to leave by is over, before it was frozen.
                Some(_) if row.moving.is_none() => vec![Act::Forget, Act::Run],
                Some(_) => vec![Act::Run],
            },
            Fate::Leave => vec![Act::Forget, Act::Retire],
            Fate::Discard => vec![Act::Forget, Act::Discard],
            Fate::Alone => Vec::new(),
        }
    }

    /// Actors whose moves are being taken back.
    pub fn being_taken_back(&self) -> impl Iterator<Item = ActorId> {
        self.taking_back.keys().copied()
    }

    /// What came of a proposal that a move ends. Where it was applied, or refused, the group's word comes by itself;
    /// what failed is tried again at the next look.
    pub fn took_back(&mut self, actor: ActorId, id: MoveId, well: bool) {
        if !well && self.taking_back.get(&actor) == Some(&id) {
            self.taking_back.remove(&actor);
        }
    }
}

#[cfg(test)]
mod tests {
    use mesh_core::id::Epoch;

    use super::*;

    const HERE: NodeId = NodeId(1);
    const AWAY: NodeId = NodeId(2);
    const ACTOR: ActorId = ActorId(9);

    fn row(node: NodeId, moving: Option<NodeId>) -> Assignment {
        Assignment { moving, moves: MoveId(3), ..Assignment::new(ACTOR, node, Epoch(5)) }
    }

    fn hosted(epoch: u64, phase: Phase) -> Option<Hosted> {
        Some(Hosted { epoch: Epoch(epoch), phase })
    }

    fn caught_up() -> Known {
        Known { caught_up: true, ..Known::default() }
    }

    #[test]
    fn an_actor_is_brought_to_what_the_group_says() {
        use Phase::{Frozen, Running, Warming};
        let table: [(Assignment, Option<Hosted>, Vec<Act>); 10] = [
            (row(HERE, None), None, vec![Act::Run]),
            (row(HERE, None), hosted(5, Running), vec![Act::Forget, Act::Run]),
            // The steps of the move still count.
            (row(HERE, Some(AWAY)), hosted(5, Running), vec![Act::Run]),
            (row(HERE, None), hosted(5, Warming), vec![Act::Forget, Act::Open(Warming), Act::Run]),
            (row(HERE, None), hosted(5, Frozen), vec![Act::Forget, Act::Open(Frozen), Act::Run]),
            (row(HERE, None), hosted(4, Running), vec![Act::Forget, Act::Evict, Act::Run]),
            (row(AWAY, None), hosted(4, Running), vec![Act::Forget, Act::Retire]),
            (row(AWAY, None), hosted(5, Warming), vec![Act::Forget, Act::Discard]),
            (row(AWAY, None), None, vec![]),
            (row(AWAY, Some(HERE)), hosted(6, Warming), vec![]),
        ];
        for (row, hosted, acts) in table {
            assert_eq!(Chains::default().look(HERE, &row, hosted, caught_up(), false), acts, "{row:?} {hosted:?}");
        }
        // Given to this node by itself, while it warmed for an earlier move.
        let given = Assignment { since: MoveId(4), ..row(HERE, None) };
        let on = Known { on: Some(MoveId(3)), ..caught_up() };
        let acts = vec![Act::Forget, Act::Evict, Act::Run];
        assert_eq!(Chains::default().look(HERE, &given, hosted(5, Warming), on, false), acts);
    }

    #[test]
    fn who_does_not_know_yet_who_is_there_begins_nothing_and_keeps_what_it_has() {
        let mut chains = Chains::default();
        assert_eq!(chains.look(HERE, &row(HERE, None), None, caught_up(), true), []);
        let running = hosted(5, Phase::Running);
        assert_eq!(chains.look(HERE, &row(HERE, None), running, caught_up(), true), [Act::Forget, Act::Run]);
    }

    #[test]
    fn a_move_of_before_this_start_is_taken_back_once_and_again_only_if_that_failed() {
        let mut chains = Chains::default();
        let moving = row(HERE, Some(AWAY));
        let look = |chains: &mut Chains, row: &Assignment| chains.look(HERE, row, None, caught_up(), false);
        assert_eq!(look(&mut chains, &moving), [Act::TakeBack(MoveId(3))]);
        assert_eq!(chains.being_taken_back().collect::<Vec<_>>(), [ACTOR]);
        assert_eq!(look(&mut chains, &moving), []);
        // Of another move that failed: nothing.
        chains.took_back(ACTOR, MoveId(2), false);
        assert_eq!(look(&mut chains, &moving), []);
        chains.took_back(ACTOR, MoveId(3), false);
        assert_eq!(look(&mut chains, &moving), [Act::TakeBack(MoveId(3))]);
        // Applied, and this node has not heard yet.
        chains.took_back(ACTOR, MoveId(3), true);
        assert_eq!(look(&mut chains, &moving), []);
        assert_eq!(look(&mut chains, &row(HERE, None)), [Act::Run]);
        // A later move of a later start.
        assert_eq!(look(&mut chains, &moving), [Act::TakeBack(MoveId(3))]);
    }
}
