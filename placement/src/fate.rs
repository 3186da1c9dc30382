//! What a node does about an actor by what it knows of the control group: the steps of a move say the same sooner, and
//! whatever they leave unsaid, because a controller died, is settled by this.
//!
//! A node learns of the group's decisions late. So a row counts only if it is no older than what the node has done
//! already on the word of a step: a frozen actor is not thawed by a row from before the move for which it was frozen.

use mesh_core::{
    assignment::{Assignment, MoveId},
    id::{Epoch, NodeId},
    op::Phase,
};

/// An actor as it is hosted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hosted {
    /// Under which epoch; while it warms, the one that it is to arrive under.
    pub epoch: Epoch,
    /// What it is doing.
    pub phase: Phase,
}

/// What to do about an actor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It runs here.
    Host,
    /// It runs here, under the epoch under which it was to arrive by a move that did not come to its end: what is here of it
    /// is no state, and it begins anew.
    Anew,
    /// It runs here, but is on a move of which this node knows nothing: it has begun anew since. The move is to be
    /// aborted first, or what it takes in from now on would be left behind by the commit.
    TakeBack(MoveId),
    /// It runs elsewhere, and not here any more.
    Leave,
    /// It was to arrive and does not.
    Discard,
    /// It is not here, is on its way, or is ahead of what the group has told this node so far.
    Alone,
}

/// What a node knows besides of an actor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// The latest epoch of the actor that it has heard of from anybody.
    pub heard: Epoch,
    /// The last move that it has taken a step of.
    pub on: Option<MoveId>,
    /// It has heard from the group what was so after its own start. What it kept from before may be long over: an actor
    /// that ran here then may have been given to somebody else.
    pub caught_up: bool,
}

/// What `node` does about the actor of `row`, of which it hosts `hosted`.
#[must_use]
pub fn fate(node: NodeId, row: &Assignment, hosted: Option<Hosted>, known: Known) -> Fate {
    let here = row.node == node;
    let is_old = row.epoch < known.heard || known.on.is_some_and(|on| row.moves < on);
    let Some(Hosted { epoch, phase }) = hosted else {
        return match row.move_under_way() {
            _ if !here || is_old || !known.caught_up => Fate::Alone,
            Some((id, _)) => Fate::TakeBack(id),
            None => Fate::Host,
        };
    };
    match phase {
        _ if is_old => Fate::Alone,
        // It arrives, or does not any more.
        Phase::Warming if epoch.0 == row.epoch.0 + 1 && row.moving == Some(node) => Fate::Alone,
        Phase::Warming if epoch.0 == row.epoch.0 + 1 => Fate::Discard,
        // Of a later epoch than this node has heard of: it has arrived.
        _ if epoch > row.epoch => Fate::Alone,
        // Given to this node by itself, not by the move for which it warms: of the state it may have a part, or an old one.
        Phase::Warming if here && epoch == row.epoch && known.on.is_some_and(|on| on < row.since) => Fate::Anew,
        // Frozen for a move that is still under way: only its end thaws it.
        Phase::Frozen if here && epoch == row.epoch && row.moving.is_some() => Fate::Alone,
        _ if here => Fate::Host,
        Phase::Warming => Fate::Discard,
        _ => Fate::Leave,
    }
}

#[cfg(test)]
mod tests {
    use mesh_core::id::ActorId;

    use super::*;

    const HERE: NodeId = NodeId(1);
    const AWAY: NodeId = NodeId(2);

    fn row(node: NodeId, epoch: u64, moves: u64, moving: Option<NodeId>) -> Assignment {
        Assignment { moving, moves: MoveId(moves), ..Assignment::new(ActorId(9), node, Epoch(epoch)) }
    }

    fn hosted(epoch: u64, phase: Phase) -> Option<Hosted> {
        Some(Hosted { epoch: Epoch(epoch), phase })
    }

    fn known(heard: u64, on: Option<u64>) -> Known {
        Known { heard: Epoch(heard), on: on.map(MoveId), caught_up: true }
    }

    #[test]
    fn the_group_decides_what_is_hosted() {
        use Phase::{Frozen, Running, Warming};
        let table = [
            // Not here.
            (row(HERE, 5, 3, None), None, Fate::Host),
            (row(AWAY, 5, 3, None), None, Fate::Alone),
            // It runs here.
            (row(HERE, 5, 3, None), hosted(5, Running), Fate::Host),
            (row(HERE, 6, 3, None), hosted(5, Running), Fate::Host),
            (row(AWAY, 6, 3, None), hosted(5, Running), Fate::Leave),
            // What was told is behind what is.
            (row(AWAY, 5, 3, None), hosted(6, Running), Fate::Alone),
            // It leaves: only the end of the move thaws it.
            (row(HERE, 5, 3, Some(AWAY)), hosted(5, Frozen), Fate::Alone),
            (row(HERE, 5, 3, None), hosted(5, Frozen), Fate::Host),
            (row(AWAY, 6, 3, None), hosted(5, Frozen), Fate::Leave),
            // It arrives.
            (row(AWAY, 5, 3, Some(HERE)), hosted(6, Warming), Fate::Alone),
            (row(AWAY, 5, 3, None), hosted(6, Warming), Fate::Discard),
            (row(HERE, 6, 3, None), hosted(6, Warming), Fate::Host),
            (row(AWAY, 7, 3, None), hosted(6, Warming), Fate::Discard),
        ];
        for (row, hosted, expected) in table {
            assert_eq!(fate(HERE, &row, hosted, known(0, Some(3))), expected, "{row:?} with {hosted:?}");
        }
    }

    #[test]
    fn what_warmed_for_a_move_that_did_not_end_is_no_state_of_an_actor_that_is_given_to_the_node() {
        let given = Assignment { since: MoveId(5), ..row(HERE, 6, 5, None) };
        assert_eq!(fate(HERE, &given, hosted(6, Phase::Warming), known(0, Some(4))), Fate::Anew);
        assert_eq!(fate(HERE, &given, hosted(6, Phase::Warming), known(0, Some(5))), Fate::Host);
        assert_eq!(fate(HERE, &given, hosted(6, Phase::Running), known(0, Some(4))), Fate::Host);
        // It has arrived, and is to go on already.
        let arrived = Assignment { since: MoveId(5), ..row(HERE, 6, 6, Some(AWAY)) };
        assert_eq!(fate(HERE, &arrived, hosted(6, Phase::Warming), known(0, Some(5))), Fate::Host);
    }

    #[test]
    fn a_row_from_before_a_move_neither_thaws_nor_discards_what_is_on_it() {
        let known = known(0, Some(4));
        assert_eq!(fate(HERE, &row(HERE, 5, 3, None), hosted(5, Phase::Frozen), known), Fate::Alone);
        assert_eq!(fate(HERE, &row(AWAY, 5, 3, None), hosted(6, Phase::Warming), known), Fate::Alone);
    }

    #[test]
    fn what_has_left_does_not_begin_again_by_a_row_from_before_it_left() {
        assert_eq!(fate(HERE, &row(HERE, 5, 3, None), None, known(6, None)), Fate::Alone);
        assert_eq!(fate(HERE, &row(HERE, 5, 4, Some(AWAY)), None, known(6, None)), Fate::Alone);
    }

    #[test]
    fn a_source_that_began_anew_takes_its_move_back_before_it_runs() {
        assert_eq!(fate(HERE, &row(HERE, 5, 4, Some(AWAY)), None, known(5, None)), Fate::TakeBack(MoveId(4)));
    }

    #[test]
    fn what_was_kept_from_before_a_start_begins_nothing() {
        let stale = Known { caught_up: false, ..known(0, None) };
        assert_eq!(fate(HERE, &row(HERE, 5, 3, None), None, stale), Fate::Alone);
        assert_eq!(fate(HERE, &row(HERE, 5, 4, Some(AWAY)), None, stale), Fate::Alone);
    }
}
