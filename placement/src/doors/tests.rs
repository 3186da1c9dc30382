use mesh_core::{
    assignment::{Assignment, MoveId, Tail},
    id::{DriveId, TenantId},
    topology::DriveInfo,
};

use super::*;

const ACTOR: ActorId = ActorId(9);
const HERE: NodeId = NodeId(1);
const AWAY: NodeId = NodeId(2);

type Few = Doors<&'static str, u32>;

fn at(node: NodeId, epoch: u64) -> Place {
    Place { node, epoch: Epoch(epoch) }
}

fn hosts(epoch: u64, phase: Phase) -> Few {
    let mut doors = Few::new(HERE);
    doors.host(ACTOR, Epoch(epoch), phase == Phase::Warming, "it").unwrap();
    match phase {
        Phase::Frozen => drop(doors.freeze(ACTOR, Epoch(epoch)).unwrap()),
        Phase::Draining => drop(doors.close(ACTOR).unwrap()),
        _ => {}
    }
    doors
}

/// The verdict in a word or two.
fn said(doors: &Few, came: Came) -> String {
    match doors.knock(ACTOR, came) {
        Verdict::In(_) => "in".into(),
        Verdict::Waits(_) => "waits".into(),
        Verdict::Go(place) => format!("to {} {}", place.node, place.epoch.0),
        Verdict::Refused(error) => match error.redirect() {
            Some(place) => format!("told {} {}", place.node.unwrap(), place.epoch.unwrap().0),
            None => format!("{:?}", error.kind()),
        },
    }
}

#[test]
fn what_was_built_for_long_is_not_hosted_under_an_epoch_that_is_over() {
    let mut doors = Few::new(HERE);
    doors.learn(ACTOR, at(AWAY, 5));
    let (error, it) = doors.host(ACTOR, Epoch(4), false, "it").unwrap_err();
    assert_eq!((error.kind(), it, doors.phase(ACTOR)), (ErrorKind::Conflict, "it", None));
    // It was given back meanwhile, or arrives under the next one.
    doors.learn(ACTOR, at(HERE, 6));
    assert!(doors.host(ACTOR, Epoch(6), false, "it").is_ok());
}

#[test]
fn the_table_of_who_takes_a_request() {
    type Row = (Option<(u64, Phase)>, Option<Place>, [&'static str; 4]);
    use Phase::{Draining, Frozen, Running, Warming};
    let link = |epoch| Came::Link(Epoch(epoch));
    let table: [Row; 11] = [
        // Hosted as, known to be, then what is said: from here, over a link without an epoch, with 5, with 6.
        (None, None, ["NoSuchActor"; 4]),
        (None, Some(at(AWAY, 5)), ["to node-2 5", "told node-2 5", "told node-2 5", "told node-2 5"]),
        // Known to be here, and gone: nobody goes in a circle.
        (None, Some(at(HERE, 5)), ["NoSuchActor"; 4]),
        (Some((5, Running)), None, ["in", "in", "in", "told node-1 5"]),
        (Some((5, Running)), Some(at(AWAY, 4)), ["in", "in", "in", "told node-1 5"]),
        (Some((5, Frozen)), None, ["waits", "waits", "waits", "told node-1 5"]),
        (Some((5, Draining)), None, ["Draining", "Draining", "Draining", "told node-1 5"]),
        // It is to arrive under 6: until then it is where it was.
        (Some((6, Warming)), Some(at(AWAY, 5)), ["to node-2 5", "told node-2 5", "told node-2 5", "waits"]),
        (Some((6, Warming)), None, ["waits", "waits", "NoSuchActor", "waits"]),
        // The commit has been heard of before the step that lets it run.
        (Some((6, Warming)), Some(at(HERE, 6)), ["waits", "waits", "NoSuchActor", "waits"]),
        (Some((6, Running)), Some(at(HERE, 6)), ["in", "in", "told node-1 6", "in"]),
    ];
    for (hosted, known, expected) in table {
        let mut doors = hosted.map_or_else(|| Few::new(HERE), |(epoch, phase)| hosts(epoch, phase));
        if let Some(place) = known {
            doors.learn(ACTOR, place);
        }
        let verdicts = [Came::Here, link(0), link(5), link(6)].map(|came| said(&doors, came));
        assert_eq!(verdicts, expected, "{hosted:?}, known to be at {known:?}");
    }
}

#[test]
fn what_waited_goes_in_goes_after_the_actor_or_is_told() {
    let waits = |doors: &mut Few| {
        assert_eq!(doors.park(ACTOR, Came::Here, 1), Park::Waits);
        assert_eq!(doors.park(ACTOR, Came::Link(Epoch(5)), 2), Park::Waits);
    };
    let mut doors = hosts(5, Phase::Frozen);
    waits(&mut doors);
    assert_eq!(doors.open(ACTOR, Epoch(5), Phase::Frozen), Ok((&mut "it", vec![1, 2])));
    assert_eq!(doors.open(ACTOR, Epoch(5), Phase::Frozen), Ok((&mut "it", vec![])), "again");
    assert_eq!(doors.park(ACTOR, Came::Here, 3), Park::Changed(3));

    let mut doors = hosts(5, Phase::Frozen);
    waits(&mut doors);
    let gone = doors.retire(ACTOR, Epoch(5), at(AWAY, 6)).unwrap();
    let told = Fate::Refused(stale(ACTOR, at(AWAY, 6)));
    assert_eq!((gone.actor, gone.parked), ("it", vec![(1, Fate::Again), (2, told)]));
    assert_eq!(said(&doors, Came::Here), "to node-2 6");
    assert_eq!(doors.retire(ACTOR, Epoch(5), at(AWAY, 6)), None, "again");

    let refused = |gone: Gone<&str, u32>| {
        let kind = |(parked, fate)| match fate {
            Fate::Refused(error) => (parked, Some(error.kind())),
            Fate::Again => (parked, None),
        };
        gone.parked.into_iter().map(kind).collect::<Vec<_>>()
    };
    let mut doors = hosts(5, Phase::Warming);
    waits(&mut doors);
    let both = [(1, Some(ErrorKind::Draining)), (2, Some(ErrorKind::Draining))];
    assert_eq!(refused(doors.discard(ACTOR).unwrap()), both);
    let mut doors = hosts(5, Phase::Frozen);
    waits(&mut doors);
    assert_eq!(doors.discard(ACTOR), None, "only what was to arrive");
    assert_eq!(refused(doors.evict(ACTOR).unwrap()), both);
}

#[test]
fn what_waits_is_bounded() {
    let mut doors = hosts(5, Phase::Frozen);
    for number in 0..PARKED_JOBS_MAX as u32 {
        assert_eq!(doors.park(ACTOR, Came::Here, number), Park::Waits);
    }
    assert_eq!(doors.park(ACTOR, Came::Here, 7), Park::Full(7));
    assert_eq!(doors.parked(ACTOR).count(), PARKED_JOBS_MAX);
}

#[test]
fn an_actor_that_is_to_arrive_finds_room_or_is_here() {
    let arrival = |mut doors: Few, epoch| match doors.expect(ACTOR, Epoch(epoch)) {
        Ok(Arrival::Free) => "free",
        Ok(Arrival::Discarded(_)) => "discarded",
        Ok(Arrival::Evicted(_)) => "evicted",
        Err(error) if error.kind() == ErrorKind::Conflict => "here",
        Err(_) => "wrong",
    };
    assert_eq!(arrival(Few::new(HERE), 6), "free");
    assert_eq!(arrival(hosts(6, Phase::Warming), 6), "discarded");
    assert_eq!(arrival(hosts(4, Phase::Running), 6), "evicted");
    for (epoch, phase) in [(5, Phase::Running), (5, Phase::Frozen), (6, Phase::Running), (7, Phase::Running)] {
        assert_eq!(arrival(hosts(epoch, phase), 6), "here");
    }
}

#[test]
fn only_the_phase_and_the_epoch_that_are_meant_take_a_step() {
    let mut doors = hosts(5, Phase::Warming);
    assert!(doors.freeze(ACTOR, Epoch(5)).is_err());
    assert!(doors.open(ACTOR, Epoch(6), Phase::Warming).is_err());
    assert!(doors.open(ACTOR, Epoch(5), Phase::Frozen).is_err());
    assert_eq!(doors.retire(ACTOR, Epoch(5), at(AWAY, 6)), None);
    assert!(doors.in_phase(ACTOR, Epoch(5), Phase::Running).is_err());
    assert!(doors.in_phase(ACTOR, Epoch(5), Phase::Warming).is_ok());
    let mut doors = hosts(5, Phase::Running);
    assert!(doors.in_phase(ACTOR, Epoch(5), Phase::Frozen).is_err());
    assert!(doors.freeze(ACTOR, Epoch(5)).is_ok() && doors.freeze(ACTOR, Epoch(5)).is_ok());
    assert!(doors.in_phase(ACTOR, Epoch(5), Phase::Running).is_ok(), "its state is read while it is frozen");
    assert_eq!(doors.host(ACTOR, Epoch(9), false, "two").map_err(|(error, _)| error.kind()), Err(ErrorKind::Conflict));
}

#[test]
fn a_tail_takes_from_its_head_of_the_same_epoch_alone() {
    let tail = ActorId::tail(TenantId(1), HERE, 2);
    let verdict = |doors: &Few, epoch| match doors.knock(tail, Came::Head(Epoch(epoch))) {
        Verdict::In(_) => "in".to_owned(),
        Verdict::Go(place) => format!("to {} {}", place.node, place.epoch.0),
        Verdict::Waits(_) => "waits".to_owned(),
        Verdict::Refused(error) => format!("{:?}", error.kind()),
    };
    let mut doors = Few::new(HERE);
    assert_eq!(verdict(&doors, 5), "NoSuchActor");
    // Of the next epoch it may be made of other stages: what the head of before sends is not for it.
    doors.learn(tail, at(AWAY, 6));
    assert_eq!([5, 6, 7].map(|epoch| verdict(&doors, epoch)), ["NoSuchActor", "to node-2 6", "NoSuchActor"]);
    doors.host(tail, Epoch(6), false, "tail").unwrap();
    assert_eq!([5, 6, 7].map(|epoch| verdict(&doors, epoch)), ["NoSuchActor", "in", "NoSuchActor"]);
}

#[test]
fn later_epochs_stay_known() {
    let mut doors = Few::new(HERE);
    doors.learn(ACTOR, at(AWAY, 6));
    doors.learn(ACTOR, at(HERE, 5));
    assert_eq!(doors.directory().locate(ACTOR), Some(at(AWAY, 6)));
    let chain = ActorId::data(TenantId(1), HERE);
    doors.learn(chain, at(AWAY, 6));
    let mut view = ControlView::default();
    view.assignments.insert(chain, Assignment::new(chain, HERE, Epoch(5)));
    doors.follow(&ControlView::default(), &view);
    assert_eq!(doors.directory().locate(chain), Some(at(AWAY, 6)));
}

#[test]
fn a_chain_that_comes_under_a_later_epoch_but_by_its_own_move_was_taken_over() {
    let chain = ActorId::data(TenantId(1), HERE);
    let rest = Assignment { moves: MoveId(3), since: MoveId(3), ..Assignment::new(chain, HERE, Epoch(5)) };
    let moving = Assignment { moves: MoveId(4), moving: Some(AWAY), ..rest };
    let moved = Assignment { node: AWAY, epoch: Epoch(6), moves: MoveId(4), since: MoveId(4), ..rest };
    let lost = Assignment { moves: MoveId(5), since: MoveId(5), ..moved };
    let view = |row: &Option<Assignment>| {
        let mut view = ControlView::default();
        row.iter().for_each(|row| _ = view.assignments.insert(chain, *row));
        view
    };
    let taken = |before: Option<Assignment>, after: Option<Assignment>| {
        let taken = taken_over(&view(&before), &view(&after));
        assert!(taken.keys().all(|actor| *actor == chain));
        taken.into_values().next()
    };
    let away = Some(at(AWAY, 6));
    for (before, after, expected) in [
        (None, Some(rest), None),
        (Some(rest), Some(moving), None),
        (Some(moving), Some(moved), None),
        (Some(moving), Some(lost), away),
        (Some(moving), Some(Assignment { epoch: Epoch(7), ..moved }), Some(at(AWAY, 7))),
        (Some(rest), Some(moved), away),
        (Some(moved), None, None),
    ] {
        assert_eq!(taken(before, after), expected, "{before:?} {after:?}");
    }
}

/// Where everything is by a view alone.
fn directory(view: &ControlView) -> Directory {
    let drives = view.drives.values().map(|drive| (drive.id, Place { node: drive.node, epoch: drive.epoch }));
    let rows = view.assignments.values().map(|row| (row.actor, Place { node: row.node, epoch: row.epoch }));
    let tails = view.tails.iter().filter_map(|(chain, tail)| {
        let epoch = view.assignments.get(chain)?.epoch;
        Some((tail_of(*chain, tail.cut)?, Place { node: tail.node, epoch }))
    });
    Directory { drives: drives.collect(), actors: rows.chain(tails).collect() }
}

#[test]
fn who_follows_the_group_knows_what_its_view_says() {
    let [one, two] = [HERE, AWAY].map(|node| ActorId::data(TenantId(1), node));
    let drive = DriveInfo { id: DriveId(7), node: HERE, epoch: Epoch(1), capacity_bytes: 1, seat: None };
    let steps: [fn(&mut ControlView, ActorId, ActorId, DriveInfo); 10] = [
        |view, one, _, _| _ = view.assignments.insert(one, Assignment::new(one, HERE, Epoch(1))),
        |view, _, _, drive| _ = view.drives.insert(drive.id, drive),
        |view, one, _, _| _ = view.tails.insert(one, Tail { cut: 1, node: AWAY }),
        |view, one, _, _| _ = view.tails.insert(one, Tail { cut: 2, node: AWAY }),
        // The tail goes with its chain under the next epoch.
        |view, one, _, _| _ = view.assignments.insert(one, Assignment::new(one, AWAY, Epoch(2))),
        |view, _, two, _| _ = view.tails.insert(two, Tail { cut: 1, node: HERE }),
        |view, _, two, _| _ = view.assignments.insert(two, Assignment::new(two, HERE, Epoch(1))),
        |view, _, _, drive| _ = view.drives.insert(drive.id, DriveInfo { node: AWAY, epoch: Epoch(2), ..drive }),
        |view, one, _, _| _ = view.tails.remove(&one),
        |view, _, two, drive| _ = (view.assignments.remove(&two), view.drives.remove(&drive.id)),
    ];
    let (mut doors, mut view) = (Few::new(HERE), ControlView::default());
    for step in steps {
        let before = view.clone();
        step(&mut view, one, two, drive.clone());
        doors.follow(&before, &view);
        assert_eq!(*doors.directory(), directory(&view));
    }
    let mut anew = Few::new(HERE);
    anew.follow(&ControlView::default(), &view);
    assert_eq!(anew.directory(), doors.directory());
}

#[test]
fn a_request_follows_only_to_a_later_epoch() {
    let outcome = Err(stale(ACTOR, at(AWAY, 6)));
    assert_eq!(newer(at(HERE, 5), &outcome), Some(at(AWAY, 6)));
    assert_eq!(newer(at(HERE, 6), &outcome), None);
    assert_eq!(newer(at(HERE, 5), &Err(no_such_actor(ACTOR))), None);
}

#[test]
fn who_is_known_to_be_nowhere_else_is_where_its_name_says() {
    let mut doors = Few::new(HERE);
    let drive = DriveId(4);
    let places = |doors: &Few| {
        let chain = ActorId::data(TenantId(1), AWAY);
        [ActorId::drive(drive), ActorId::ingress(AWAY), chain, ACTOR].map(|actor| doors.directory().locate(actor))
    };
    assert_eq!(places(&doors), [None, Some(at(AWAY, 0)), Some(at(AWAY, 0)), None]);
    doors.directory.drives.insert(drive, at(HERE, 3));
    assert_eq!(places(&doors), [Some(at(HERE, 3)), Some(at(AWAY, 0)), Some(at(AWAY, 0)), None]);
}

#[test]
fn only_a_later_epoch_is_news_and_the_group_knows_better_than_a_rumour_of_the_same() {
    let mut doors = Few::new(HERE);
    let chain = ActorId::data(TenantId(1), HERE);
    doors.learn(chain, at(AWAY, 5));
    doors.learn(chain, at(NodeId(3), 5));
    assert_eq!(doors.directory().locate(chain), Some(at(AWAY, 5)));
    doors.learn(chain, at(NodeId(3), 6));
    assert_eq!(doors.directory().locate(chain), Some(at(NodeId(3), 6)));
    let mut view = ControlView::default();
    view.assignments.insert(chain, Assignment::new(chain, HERE, Epoch(6)));
    doors.follow(&ControlView::default(), &view);
    assert_eq!(doors.directory().locate(chain), Some(at(HERE, 6)));
}

#[test]
fn who_is_hosted_is_found_and_who_is_told_where_it_is_hears_of_whom() {
    let mut doors = hosts(5, Phase::Running);
    *doors.get_mut(ACTOR).unwrap() = "another";
    assert_eq!((doors.get(ACTOR), doors.get(ActorId(1))), (Some(&"another"), None));
    assert_eq!(doors.iter().collect::<Vec<_>>(), [(ACTOR, Epoch(5), Phase::Running, &"another")]);
    let Verdict::Refused(error) = doors.knock(ACTOR, Came::Link(Epoch(4))) else { panic!("it is out of date") };
    assert_eq!(error.redirect().and_then(|place| place.actor), Some(ACTOR));
}
