use mesh_core::{assignment::MoveId, meta::MetaAnswer, op::Moved};

use super::*;
use crate::Spot;

const ACTOR: ActorId = ActorId(9);
const FROM: NodeId = NodeId(1);
const TO: NodeId = NodeId(2);

fn at(millis: u64) -> Instant {
    Instant(millis * 1_000_000)
}

fn row() -> Assignment {
    Assignment::new(ACTOR, FROM, Epoch(5))
}

fn wanted(to: Spot) -> Move {
    Move { actor: ACTOR, from: Some(Spot::whole(FROM)), to, reason: Reason::Pinned(to.head) }
}

fn proposed(answer: Result<MetaAnswer, Error>) -> Heard {
    Heard::Proposed(answer)
}

fn propose(command: MeshCommand) -> Asks {
    vec![(ACTOR, Ask::Propose(command))]
}

fn step(node: NodeId, what: MoveOp) -> (ActorId, Ask) {
    (ACTOR, Ask::Step(node, MoveStep { actor: ACTOR, epoch: Epoch(5), id: MoveId(1), what }))
}

fn refused() -> Error {
    Error::new(ErrorKind::Denied, "no")
}

#[test]
fn an_actor_whose_node_answers_moves_live_and_what_it_took_is_told() {
    let mut driver = Driver::default();
    let (actor, epoch, id) = (ACTOR, Epoch(5), MoveId(1));
    let asks = driver.go(&row(), &wanted(Spot::whole(TO)), Presence::Up, false, at(0));
    assert_eq!(asks, propose(MeshCommand::BeginMove { actor, epoch, id, to: TO }));
    // One thing at a time.
    assert_eq!(driver.go(&row(), &wanted(Spot::whole(TO)), Presence::Up, false, at(0)), []);
    let moved = Moved { entries: 3, ..Moved::default() };
    let script = [
        (1, proposed(Ok(MetaAnswer::Done)), vec![step(TO, MoveOp::Warm)]),
        (2, Heard::Stepped(TO, Ok(Moved::default())), vec![step(FROM, MoveOp::PreCopy { to: TO })]),
        (3, Heard::Stepped(FROM, Ok(moved)), vec![step(FROM, MoveOp::Freeze { to: TO })]),
        (5, Heard::Stepped(FROM, Ok(moved)), propose(MeshCommand::CommitMove { actor, epoch, id })),
        (
            9,
            proposed(Ok(MetaAnswer::Epoch(Epoch(6)))),
            vec![step(TO, MoveOp::Activate), step(FROM, MoveOp::Retire { to: TO })],
        ),
        (10, Heard::Stepped(TO, Ok(Moved::default())), vec![]),
    ];
    for (millis, heard, asks) in script {
        assert_eq!(driver.hear(ACTOR, heard, at(millis)), (asks, None), "{millis}");
    }
    let (asks, happened) = driver.hear(ACTOR, Heard::Stepped(FROM, Ok(Moved::default())), at(11));
    assert_eq!(asks, []);
    let happened = happened.expect("it is over");
    assert!(happened.has_moved());
    assert_eq!(
        happened.to_string(),
        "moved actor-9 from node-1 to node-2 under e6 in 11.00 ms: its requests waited 8.00 ms of that, the commit took 4.00 ms; \
         3 + 3 entries of state: it is pinned to node-2"
    );
    assert_eq!(driver.under_way(), 0);
}

#[test]
fn an_actor_is_given_to_another_only_once_its_node_is_known_to_be_down() {
    let mut driver = Driver::default();
    let step = wanted(Spot::whole(TO));
    assert_eq!(driver.go(&row(), &step, Presence::Unheard, false, at(0)), []);
    let given = Assignment::new(ACTOR, TO, Epoch(6));
    assert_eq!(driver.go(&row(), &step, Presence::Down, false, at(0)), propose(MeshCommand::Assign(given)));
    let (asks, happened) = driver.hear(ACTOR, proposed(Ok(MetaAnswer::Done)), at(3));
    let (from, to, epoch, why) = (FROM, TO, Epoch(6), Reason::Pinned(TO));
    let commit_us = 3000;
    assert_eq!((asks, happened), (vec![], Some(Happened::TakenOver { actor: ACTOR, from, to, epoch, commit_us, why })));
    // It answers and cannot run what the actor is made of.
    assert_eq!(driver.go(&row(), &step, Presence::Up, true, at(3)), propose(MeshCommand::Assign(given)));
}

#[test]
fn a_chain_is_cut_where_its_head_stays() {
    let mut driver = Driver::default();
    let tail = Some(Tail { cut: 2, node: TO });
    let asks = driver.go(&row(), &wanted(Spot::split(FROM, 2, TO)), Presence::Up, false, at(0));
    assert_eq!(asks, propose(MeshCommand::SetTail { actor: ACTOR, epoch: Epoch(5), tail }));
    let (_, happened) = driver.hear(ACTOR, proposed(Ok(MetaAnswer::Done)), at(0));
    let told = happened.expect("it is over").to_string();
    assert_eq!(told, "actor-9 runs on node-1 and from stage 3 on on node-2: it is pinned to node-1");
}

#[test]
fn what_failed_waits_longer_each_time_and_is_tried_again() {
    let mut driver = Driver::default();
    let step = wanted(Spot::whole(TO));
    let mut now = 0;
    for pause in [1000, 2000, 4000, 4000] {
        assert_eq!(driver.go(&row(), &step, Presence::Down, false, at(now)).len(), 1, "{now}");
        let (_, happened) = driver.hear(ACTOR, proposed(Err(refused())), at(now));
        let (to, error) = (TO, refused().to_string());
        assert_eq!(happened, Some(Happened::NotTakenOver { actor: ACTOR, to, error }));
        now += pause;
        assert_eq!(driver.go(&row(), &step, Presence::Down, false, at(now - 1)), []);
    }
    // Who does not lead any more begins anew when it leads again.
    driver.rest();
    assert_eq!(driver.go(&row(), &step, Presence::Down, false, at(now - 1)).len(), 1);
    let (_, happened) = driver.hear(ACTOR, proposed(Ok(MetaAnswer::Done)), at(now));
    assert!(happened.is_some_and(|happened| happened.has_moved()));
    assert_eq!(driver.go(&row(), &step, Presence::Down, false, at(now)).len(), 1);
}

/// Whether a move is begun.
fn goes(driver: &mut Driver, to: NodeId, reason: Reason, now: u64) -> bool {
    let step = Move { reason, ..wanted(Spot::whole(to)) };
    matches!(&driver.go(&row(), &step, Presence::Up, false, at(now))[..], [(_, Ask::Propose(_))])
}

/// It stops its actor, and that stays.
fn goes_in_vain(driver: &mut Driver, now: u64) {
    assert!(goes(driver, TO, Reason::Pinned(TO), now), "{now}");
    for heard in [
        proposed(Ok(MetaAnswer::Done)),
        Heard::Stepped(TO, Ok(Moved::default())),
        Heard::Stepped(FROM, Ok(Moved::default())),
        Heard::Stepped(FROM, Err(refused())),
        proposed(Ok(MetaAnswer::Done)),
    ] {
        assert_eq!(driver.hear(ACTOR, heard, at(now)).1, None);
    }
    let ends = [FROM, TO].map(|node| driver.hear(ACTOR, Heard::Stepped(node, Ok(Moved::default())), at(now)).1);
    assert!(matches!(ends, [None, Some(Happened::NotMoved { elsewhere: false, .. })]), "{ends:?}");
}

#[test]
fn what_an_actor_was_stopped_for_in_vain_waits_twice_as_long_each_time_and_nothing_else_does() {
    let mut driver = Driver::default();
    let mut now = 0;
    for pause in [1, 2, 4, 8, 16, 32, 32] {
        goes_in_vain(&mut driver, now);
        now += 1000 * pause;
        assert!(!goes(&mut driver, TO, Reason::Pinned(TO), now - 1));
    }
    // Something else fails at once: what it was stopped for waits as long as before.
    assert!(goes(&mut driver, NodeId(3), Reason::Pinned(NodeId(3)), now - 20_000));
    assert!(driver.hear(ACTOR, proposed(Err(refused())), at(now - 20_000)).1.is_some());
    assert!(!goes(&mut driver, TO, Reason::Pinned(TO), now - 1));
    // For another reason it goes, and it is given away where its node is lost.
    let mut lost = Driver { backing_off: driver.backing_off.clone(), ..Driver::default() };
    let given = lost.go(&row(), &wanted(Spot::whole(TO)), Presence::Down, false, at(now - 15_000));
    assert_eq!(given, propose(MeshCommand::Assign(Assignment::new(ACTOR, TO, Epoch(6)))));
    assert!(goes(&mut driver, TO, Reason::Draining(FROM), now - 15_000));
    assert!(driver.hear(ACTOR, proposed(Err(refused())), at(now - 15_000)).1.is_some());
    // Long after, nobody remembers it.
    now += 1000 * 180;
    goes_in_vain(&mut driver, now);
    assert!(goes(&mut driver, TO, Reason::Pinned(TO), now + 1000));
}

#[test]
fn moves_that_nobody_carries_out_are_taken_back_whatever_backs_off() {
    let mut driver = Driver::default();
    let begun = Assignment { moves: MoveId(4), moving: Some(TO), ..row() };
    let abort = propose(MeshCommand::AbortMove { actor: ACTOR, epoch: Epoch(5), id: MoveId(4) });
    assert_eq!(driver.clear([&row(), &begun], at(0)), abort);
    assert_eq!(driver.clear([&begun], at(0)), []);
    let (asks, happened) = driver.hear(ACTOR, proposed(Err(refused())), at(0));
    assert_eq!(asks, []);
    let error = refused().to_string();
    assert_eq!(happened, Some(Happened::NotMoved { actor: ACTOR, from: FROM, to: TO, elsewhere: true, error }));
    assert_eq!(driver.clear([&begun], at(0)), abort);
}

#[test]
fn a_first_place_that_another_leader_gave_is_one() {
    let mut driver = Driver::default();
    assert_eq!(driver.place(row(), at(0)), propose(MeshCommand::Assign(row())));
    let conflict = Error::new(ErrorKind::Conflict, "it has one");
    assert_eq!(driver.hear(ACTOR, proposed(Err(conflict)), at(0)).1, Some(Happened::Placed(ACTOR)));
    assert_eq!(driver.place(row(), at(0)).len(), 1);
    let happened = driver.hear(ACTOR, proposed(Err(refused())), at(0)).1;
    assert_eq!(happened, Some(Happened::NotPlaced { actor: ACTOR, error: refused().to_string() }));
    assert_eq!(driver.place(row(), at(0)), []);
}

/// Moves wait for functions to be built and for states to be carried; who has lost its node, and whom a leader that is gone has
/// left in the middle, waits for none of them.
#[test]
fn what_takes_one_proposal_does_not_wait_for_moves() {
    let mut driver = Driver::default();
    let row = |actor| Assignment::new(ActorId(actor), FROM, Epoch(5));
    let step = |actor| Move { actor: ActorId(actor), ..wanted(Spot::whole(TO)) };
    let mut go = |actor, presence| driver.go(&row(actor), &step(actor), presence, false, at(0)).len();
    let moved: usize = (0..100).map(|actor| go(actor, Presence::Up)).sum();
    let given: usize = (100..108).map(|actor| go(actor, Presence::Down)).sum();
    assert_eq!((moved, given), (MOVES_MAX, 8));
    let left = |actor| {
        let mut row = row(actor);
        (row.moves, row.moving) = (MoveId(1), Some(TO));
        row
    };
    let left: Vec<Assignment> = (200..300).map(left).collect();
    assert_eq!(driver.clear(&left, at(0)).len(), MOVES_MAX - 8);
    assert_eq!(driver.under_way(), 2 * MOVES_MAX);
    assert!(!driver.may_change());
}

#[test]
fn only_so_many_are_under_way_at_once() {
    let mut driver = Driver::default();
    let places = (0..100).map(|actor| Assignment::new(ActorId(actor), FROM, Epoch(1)));
    let asked: usize = places.map(|row| driver.place(row, at(0)).len()).sum();
    assert_eq!((asked, driver.under_way()), (MOVES_MAX, MOVES_MAX));
}
