use mesh_core::Redirect;

use super::*;

const ACTOR: ActorId = ActorId(7);
const FROM: NodeId = NodeId(1);
const TO: NodeId = NodeId(4);

fn at_rest() -> Assignment {
    Assignment { moves: MoveId(2), ..Assignment::new(ACTOR, FROM, Epoch(5)) }
}

fn step(node: NodeId, what: MoveOp) -> Ask {
    Ask::Step(node, MoveStep { actor: ACTOR, epoch: Epoch(5), id: MoveId(3), what })
}

fn begin() -> Ask {
    Ask::Propose(MeshCommand::BeginMove { actor: ACTOR, epoch: Epoch(5), id: MoveId(3), to: TO })
}

fn commit() -> Ask {
    Ask::Propose(MeshCommand::CommitMove { actor: ACTOR, epoch: Epoch(5), id: MoveId(3) })
}

fn abort() -> Ask {
    Ask::Propose(MeshCommand::AbortMove { actor: ACTOR, epoch: Epoch(5), id: MoveId(3) })
}

fn applied() -> Heard {
    Heard::Proposed(Ok(MetaAnswer::Done))
}

fn done(node: NodeId) -> Heard {
    Heard::Stepped(node, Ok(Moved { entries: 10, took_us: 99, ..Moved::default() }))
}

fn lost(node: NodeId) -> Heard {
    Heard::Stepped(node, Err(link_lost()))
}

fn link_lost() -> Error {
    Error::new(ErrorKind::LinkLost, "gone")
}

fn conflict(node: NodeId, epoch: u64) -> Error {
    let place = Redirect { node: Some(node), epoch: Some(Epoch(epoch)), ..Redirect::default() };
    Error::new(ErrorKind::Conflict, "otherwise").redirect_to(place)
}

/// A move that has come so far: `stages` answers went well.
fn after(stages: usize) -> (Migration, Vec<Ask>) {
    let (mut machine, mut asks) = Migration::begin(&at_rest(), TO);
    let answers = [applied(), done(TO), done(FROM), done(FROM), Heard::Proposed(Ok(MetaAnswer::Epoch(Epoch(6))))];
    for answer in answers.into_iter().take(stages) {
        asks = machine.hear(answer);
    }
    (machine, asks)
}

#[test]
fn a_move_goes_through_its_stages_in_order() {
    let expected = [
        vec![begin()],
        vec![step(TO, MoveOp::Warm)],
        vec![step(FROM, MoveOp::PreCopy { to: TO })],
        vec![step(FROM, MoveOp::Freeze { to: TO })],
        vec![commit()],
        vec![step(TO, MoveOp::Activate), step(FROM, MoveOp::Retire { to: TO })],
    ];
    for (stages, asks) in expected.into_iter().enumerate() {
        assert_eq!(after(stages).1, asks, "after {stages} answers");
    }
    let (mut machine, _) = after(5);
    assert_eq!(machine.hear(done(FROM)), []);
    assert_eq!(machine.end(), None);
    assert_eq!(machine.hear(done(TO)), []);
    assert_eq!(machine.end(), Some(&End::Arrived(Epoch(6))));
    assert_eq!(machine.carried(), Carried { before: 10, frozen: 10, frozen_us: 99, waited_us: 99 });
}

#[test]
fn whatever_fails_before_the_commit_is_taken_back_by_a_proposal_and_only_then_thawed() {
    for (stages, node) in [(1, TO), (2, FROM), (3, FROM)] {
        let (mut machine, _) = after(stages);
        assert_eq!(machine.hear(lost(node)), [abort()], "{machine}");
        assert_eq!(machine.hear(applied()), [step(FROM, MoveOp::Thaw), step(TO, MoveOp::Discard)]);
        assert_eq!(machine.hear(done(FROM)), []);
        assert_eq!(machine.hear(done(TO)), []);
        assert_eq!(machine.end(), Some(&End::Stayed(link_lost())));
    }
}

#[test]
fn a_beginning_that_is_refused_changes_nothing() {
    for error in [conflict(NodeId(2), 6), Error::new(ErrorKind::NotFound, "no such node")] {
        let (mut machine, _) = after(0);
        assert_eq!(machine.hear(Heard::Proposed(Err(error.clone()))), []);
        assert_eq!(machine.end(), Some(&End::Stayed(error)));
    }
}

#[test]
fn an_answer_that_was_lost_is_found_out_by_proposing_again() {
    for (stages, ask) in [(0, begin()), (4, commit())] {
        let (mut machine, _) = after(stages);
        assert!(matches!(machine.hear(Heard::Proposed(Err(link_lost())))[..], [Ask::Wait(_)]), "{machine}");
        assert_eq!(machine.hear(Heard::Due), [ask]);
    }
}

#[test]
fn a_commit_that_came_after_an_abort_thaws_and_one_after_another_owner_does_not() {
    let (mut machine, _) = after(4);
    let aborted = conflict(FROM, 5);
    let undo = [step(FROM, MoveOp::Thaw), step(TO, MoveOp::Discard)];
    assert_eq!(machine.hear(Heard::Proposed(Err(aborted))), undo);

    let (mut machine, _) = after(4);
    let reassigned = conflict(NodeId(2), 6);
    assert_eq!(machine.hear(Heard::Proposed(Err(reassigned.clone()))), []);
    assert_eq!(machine.end(), Some(&End::Elsewhere(reassigned)));
}

#[test]
fn an_abort_that_came_after_the_commit_ends_as_a_move() {
    let (mut machine, asks) =
        Migration::clear(&Assignment { moves: MoveId(3), moving: Some(TO), ..at_rest() }).expect("a move is under way");
    assert_eq!(asks, [abort()]);
    // Committed, or given to that node as if it had been: the commit finds out.
    assert_eq!(machine.hear(Heard::Proposed(Err(conflict(TO, 6)))), [commit()]);
    let mut given = machine.clone();
    let arriving = [step(TO, MoveOp::Activate), step(FROM, MoveOp::Retire { to: TO })];
    assert_eq!(machine.hear(Heard::Proposed(Ok(MetaAnswer::Epoch(Epoch(6))))), arriving);
    assert_eq!(given.hear(Heard::Proposed(Err(conflict(TO, 6)))), []);
    assert_eq!(given.end(), Some(&End::Elsewhere(conflict(TO, 6))));
    assert!(Migration::clear(&at_rest()).is_none());
}

#[test]
fn after_the_commit_a_node_that_is_lost_holds_nothing_up() {
    let (mut machine, _) = after(5);
    assert_eq!(machine.hear(done(TO)), []);
    let mut asks = machine.hear(lost(FROM));
    let mut again = 0;
    while machine.end().is_none() {
        assert_eq!(asks, [step(FROM, MoveOp::Retire { to: TO })]);
        again += 1;
        asks = machine.hear(lost(FROM));
    }
    assert_eq!((again, machine.end()), (3, Some(&End::Arrived(Epoch(6)))));
}

#[test]
fn a_group_that_never_answers_leaves_the_move_to_the_next_controller() {
    let (mut machine, mut asks) = after(4);
    let mut proposals = 0;
    while machine.end().is_none() {
        asks = match &asks[..] {
            [Ask::Propose(_)] => {
                proposals += 1;
                machine.hear(Heard::Proposed(Err(link_lost())))
            }
            [Ask::Wait(_)] => machine.hear(Heard::Due),
            other => panic!("{other:?}"),
        };
    }
    assert_eq!((proposals, machine.end()), (PROPOSALS_MAX, Some(&End::Elsewhere(link_lost()))));
}

#[test]
fn a_beginning_that_never_comes_through_is_taken_back_for_it_may_have_begun() {
    let (mut machine, mut asks) = after(0);
    for _ in 1..PROPOSALS_MAX {
        assert_eq!(asks, [begin()]);
        assert!(matches!(machine.hear(Heard::Proposed(Err(link_lost())))[..], [Ask::Wait(_)]));
        asks = machine.hear(Heard::Due);
    }
    assert_eq!(machine.hear(Heard::Proposed(Err(link_lost()))), [abort()]);
    // What was certainly not done, and may go better, is tried again.
    let (mut machine, _) = after(0);
    let passing = Error::new(ErrorKind::NotLeader, "there is none just now");
    assert!(matches!(machine.hear(Heard::Proposed(Err(passing)))[..], [Ask::Wait(_)]));
}

#[test]
fn an_abort_of_what_another_owner_has_by_now_is_over() {
    let (mut machine, _) =
        Migration::clear(&Assignment { moves: MoveId(3), moving: Some(TO), ..at_rest() }).expect("a move is under way");
    assert_eq!(machine.hear(Heard::Proposed(Err(conflict(NodeId(3), 9)))), []);
    assert_eq!(machine.end(), Some(&End::Elsewhere(conflict(NodeId(3), 9))));
}

#[test]
fn a_move_is_called_by_its_stage_and_waits_longer_each_time() {
    let stages = [0, 1, 2, 3, 4, 5].map(|stages| after(stages).0.to_string());
    let words = ["beginning", "warming", "copying", "freezing", "committing", "arriving"];
    assert!(stages.iter().zip(words).all(|(said, word)| said.contains(word)), "{stages:?}");
    assert_eq!([0, 1, 3, 6, 40].map(|tries| pause(tries).as_millis()), [10, 20, 80, 640, 640]);
}
