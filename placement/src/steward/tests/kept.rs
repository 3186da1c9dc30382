//! What a steward keeps from one event to the next: times, drives, moves, addresses, complaints.

use mesh_core::{assignment::MoveId, topology::Departure};

use super::*;

fn state(room: &Room, drive: u64) -> Option<DriveState> {
    room.steward.outlook().drives.get(&DriveId(drive)).copied()
}

/// A chain of this node, on a move to its DPU.
fn moving() -> ControlView {
    let (mut control, chain) = (split_mesh(HERE, 5), ActorId::data(TenantId(7), HERE));
    let row = Assignment { moving: Some(OTHER), moves: MoveId(3), ..Assignment::new(chain, HERE, Epoch(5)) };
    control.assignments.insert(chain, row);
    control
}

/// Node 2, which has drive 5 as said.
fn with_drive(state: DriveState, version: u64) -> Arc<Beat> {
    let said = DriveReport {
        drive: DriveId(5),
        state,
        capacity_bytes: 9,
        free_bytes: 9,
        shards: 0,
        corrupt: 0,
        reason: None,
        damaged: 0,
        scrub: Default::default(),
    };
    let mut beat = (*introduces(report(2), version)).clone();
    let news = beat.news.as_deref().expect("just put there").clone();
    beat.news = Some(Arc::new(News { drives: Some(vec![said]), ..news }));
    Arc::new(beat)
}

#[test]
fn a_drive_is_as_its_node_says_while_that_is_up_and_a_lost_one_is_lost_whoever_says_what() {
    let mut control = mesh(&[1, 2]);
    control.drives.insert(DriveId(5), drive(5, 2));
    let mut room = Room::new(control.clone());
    assert_eq!(state(&room, 5), Some(DriveState::Down), "it has not been heard");
    room.on(Event::Heard(with_drive(DriveState::Up, 1), room.now));
    assert_eq!(state(&room, 5), Some(DriveState::Up));
    assert!(room.steward.due.hosting && room.steward.publish().is_some());
    room.on(Event::Heard(with_drive(DriveState::Full, 2), room.now));
    assert_eq!(state(&room, 5), Some(DriveState::Full));
    // Its node falls silent.
    room.passes(2050);
    assert_eq!(state(&room, 5), Some(DriveState::Down));
    // Another drive is registered, and this one is lost.
    let mut lost = control.clone();
    let five = lost.drives.remove(&DriveId(5)).expect("it is there");
    lost.lost.insert(DriveId(5), five);
    room.on(Event::Heard(with_drive(DriveState::Full, 3), room.now));
    room.on(Event::Control(Arc::new(lost.clone())));
    assert_eq!(state(&room, 5), Some(DriveState::Lost));
    lost.drives.insert(DriveId(6), drive(6, 2));
    room.on(Event::Control(Arc::new(lost)));
    assert_eq!(state(&room, 6), Some(DriveState::Down), "its node does not speak of it");
    room.steward.publish();
    // What changes nothing of them is no news of theirs.
    room.steward.due.hosting = false;
    room.on(Event::Heard(with_drive(DriveState::Full, 3), room.now));
    assert!(!room.steward.due.hosting);
}

#[test]
fn what_it_leads_is_given_away_before_it_stops_and_taken_no_more() {
    let mut room = Room::new(mesh(&[1, 2, 3]));
    for node in [2, 3] {
        room.on(Event::Heard(beat(node), room.now));
    }
    let own = |leader: u64, caught_up: &[u64]| {
        let mut own = group(1, &[1, 2, 3]);
        own.report.leader = Some(NodeId(leader)).filter(|leader| leader.0 > 0);
        own.leads = leader == 1;
        own.report.voters = if own.leads { own.voters.iter().copied().collect() } else { Vec::new() };
        own.caught_up = own.voters.iter().copied().filter(|voter| caught_up.contains(&voter.node().0)).collect();
        vec![own]
    };
    let acts = |room: &mut Room, stopping, groups| {
        let acts = room.observes(Observed { groups, stopping, ..Observed::default() });
        let about = |act: &&String| ["HandOver", "Elect", "Members"].iter().any(|what| act.starts_with(what));
        acts.iter().filter(about).cloned().collect::<Vec<_>>()
    };
    let nothing: [&str; 0] = [];
    assert_eq!(acts(&mut room, false, own(1, &[2, 3])), nothing);
    assert!(!room.steward.outlook().leaves_nobody_unled());
    // Nobody has caught up.
    assert_eq!(acts(&mut room, true, own(1, &[1])), nothing);
    room.now = room.now + Duration::from_millis(200);
    assert_eq!(acts(&mut room, true, own(1, &[1, 3])), ["HandOver(group-0, node-3)"]);
    // That is under way.
    assert_eq!(acts(&mut room, true, own(1, &[1, 2, 3])), nothing);
    room.on(Event::Ended(Key::HandOver(GroupId::CONTROL), Ok(())));
    room.now = room.now + Duration::from_millis(499);
    assert_eq!(acts(&mut room, true, own(1, &[1, 2, 3])), nothing, "an election takes its time");
    room.now = room.now + Duration::from_millis(1);
    assert_eq!(acts(&mut room, true, own(1, &[1, 2, 3])), ["HandOver(group-0, node-2)"]);
    room.on(Event::Ended(Key::HandOver(GroupId::CONTROL), Ok(())));
    room.now = room.now + Duration::from_millis(200);
    assert_eq!(acts(&mut room, true, own(3, &[])), nothing);
    assert!(room.steward.outlook().leaves_nobody_unled());
    // Nobody leads it: it does not stand for election.
    room.now = room.now + Duration::from_millis(200);
    for node in [2, 3] {
        room.on(Event::Heard(beat(node), room.now));
    }
    assert_eq!(acts(&mut room, true, own(0, &[])), nothing);
    assert!(!room.steward.outlook().leaves_nobody_unled());
    room.now = room.now + vacancy::STAND_PAUSE;
    assert_eq!(acts(&mut room, false, own(0, &[])), ["Elect(group-0)"]);
    // A replica that has stopped waits for nobody, and neither does who is alone.
    let mut damaged = own(0, &[]);
    damaged[0].report.trouble = Some("damaged".into());
    acts(&mut room, true, damaged);
    assert!(room.steward.outlook().leaves_nobody_unled());
    acts(&mut room, true, own(1, &[]));
    assert!(!room.steward.outlook().leaves_nobody_unled());
    room.passes(2_050);
    assert!(room.steward.outlook().leaves_nobody_unled());
}

#[test]
fn what_it_leads_goes_to_who_is_sound_once_a_replica_of_its_own_has_stopped() {
    let stopped = |node: u64| {
        let mut said = report(node);
        said.groups = vec![GroupReport { trouble: Some("no space left".into()), ..group(node, &[]).report }];
        said
    };
    let own = || {
        let mut control = Group { leads: true, ..group(1, &[1, 2, 3]) };
        (control.report.leader, control.caught_up) = (Some(HERE), control.voters.clone());
        let mut namespace = group(1, &[1, 2, 3]);
        (namespace.report.group, namespace.report.trouble) = (GroupId(1), Some("no space left".into()));
        vec![control, namespace]
    };
    let acts = |room: &mut Room| {
        let acts = room.observes(Observed { groups: own(), ..Observed::default() });
        acts.into_iter().filter(|act| act.starts_with("HandOver")).collect::<Vec<_>>()
    };
    let mut room = Room::new(mesh(&[1, 2, 3]));
    for node in [2, 3] {
        room.on(Event::Heard(introduces(stopped(node), 1), room.now));
    }
    assert_eq!(acts(&mut room), [""; 0], "the others are no better");
    room.on(Event::Heard(introduces(report(3), 2), room.now));
    room.now = room.now + Duration::from_millis(200);
    assert_eq!(acts(&mut room), ["HandOver(group-0, node-3)"]);
}

#[test]
fn times_that_are_set_anew_count_from_then_on() {
    let mut room = Room::new(mesh(&[1, 2]));
    room.on(Event::Time);
    assert_eq!(room.steward.wake_at(), Instant(50_000_000), "a quarter of what is late");
    room.on(Event::Heard(beat(2), room.now));
    room.steward.retime(Timing { silence: Duration::from_millis(500), late: Duration::from_millis(400), ..timing() });
    assert_eq!(room.steward.wake_at(), Instant(100_000_000));
    assert!(room.passes(550).contains(&"Down(node-2)".to_owned()));
}

#[test]
fn drives_are_asked_for_their_figures_with_every_beat_once_at_a_time() {
    let mut room = Room::new(mesh(&[1]));
    room.observes(Observed::default());
    let asks = |room: &mut Room, millis| {
        room.now = room.now + Duration::from_millis(millis);
        room.steward.on(Event::Time, room.now).iter().filter(|act| matches!(act, Act::Stat)).count()
    };
    assert_eq!([asks(&mut room, 499), asks(&mut room, 1), asks(&mut room, 1)], [0, 1, 0]);
    room.observes(Observed::default());
    assert_eq!([asks(&mut room, 499), asks(&mut room, 1)], [0, 0], "they are being asked");
    room.on(Event::Ended(Key::Stat, Ok(())));
    assert_eq!(asks(&mut room, 1), 1);
}

/// A leader that is gone began it.
#[test]
fn a_move_that_nobody_carries_out_is_taken_back_also_by_one_who_knew_of_it_from_the_beginning() {
    let takes_back = |room: &mut Room| {
        let acts = room.observes(leading());
        steps(&acts).iter().filter(|step| step.contains("Move")).count()
    };
    let mut known = Room::new(moving());
    assert_eq!(takes_back(&mut known), 1);
    assert_eq!(takes_back(&mut known), 0, "it is under way");
    let mut learns = Room::new(split_mesh(HERE, 5));
    learns.on(Event::Control(Arc::new(moving())));
    assert_eq!(takes_back(&mut learns), 1);
    // It has ended by itself.
    let mut ended = Room::new(moving());
    ended.on(Event::Control(Arc::new(split_mesh(HERE, 6))));
    assert_eq!((takes_back(&mut ended), ended.steward.moving.len()), (0, 0));
}

#[test]
fn whoever_begins_anew_counts_on_and_leads_nothing_for_a_while() {
    let mut room = Room::new(split_mesh(HERE, 5));
    let chain = ActorId::data(TenantId(7), HERE);
    room.on(Event::Control(Arc::new(moving())));
    let acts = room.observes(leading());
    let first = steps(&acts)[0].clone();
    assert!(first.starts_with(&format!("Step({chain:?}, 1, ")), "{first}");
    assert_eq!(room.steward.begin_anew(room.now).len(), 0);
    room.passes(999);
    assert_eq!(steps(&room.observes(leading())), [""; 0]);
    room.passes(1);
    let acts = room.observes(leading());
    assert!(steps(&acts)[0].starts_with(&format!("Step({chain:?}, 2, ")), "{acts:?}");
}

#[test]
fn looks_are_numbered_on_by_whoever_begins_anew() {
    let (mut room, study) = plans_without_its_dpu();
    drop(room.steward.begin_anew(room.now));
    room.passes(1000);
    let acts = room.steward.on(Event::Observed(Box::new(leading())), room.now);
    let next = acts.iter().find_map(|act| if let Act::Plan(study) = act { Some(study.number()) } else { None });
    assert!(next > Some(study.number()), "what comes of the older one would count: {next:?}");
}

#[test]
fn of_the_actors_that_it_is_to_run_and_of_moves_that_are_being_taken_back_it_asks_what_is_known() {
    let room = Room::new(split_mesh(HERE, 5));
    assert_eq!(room.steward.concerns().collect::<Vec<_>>(), [ActorId::data(TenantId(7), HERE)]);
    let elsewhere = Room::new(split_mesh(OTHER, 5));
    assert_eq!(elsewhere.steward.concerns().count(), 0);
}

#[test]
fn stored_addresses_count_after_a_while_and_those_of_later_starts_at_once() {
    let locates = |room: &mut Room| -> Vec<String> {
        room.observes(Observed::default()).into_iter().filter(|act| act.starts_with("Locate")).collect()
    };
    let mut room = Room::new(mesh(&[1, 2]));
    room.now = Instant(999_999_999);
    assert_eq!(locates(&mut room), [""; 0], "it may have been stored before the peer moved");
    room.now = Instant(1_000_000_000);
    assert_eq!(locates(&mut room), ["Locate(node-2, 127.0.0.1:2)"], "and never where it listens itself");
    let mut later = mesh(&[1, 2]);
    later.nodes.get_mut(&OTHER).expect("it is there").incarnation = Incarnation(2);
    assert_eq!(locates(&mut Room::new(later)), ["Locate(node-2, 127.0.0.1:2)"]);
}

#[test]
fn nobody_tells_a_node_where_it_listens_itself() {
    let mut room = Room::new(mesh(&[1, 2]));
    let given = |node| Event::Given(node, "127.0.0.1:7".parse().expect("an address"), Incarnation(9));
    assert_eq!(room.on(given(OTHER)), ["Locate(node-2, 127.0.0.1:7)"]);
    assert_eq!(room.on(given(HERE)), [""; 0]);
}

#[test]
fn what_damaged_metadata_are_not_rebuilt_for_is_said_and_tried_again_later() {
    let mut room = Room::new(mesh(&[1]));
    let ended = |outcome| Event::Ended(Key::Renew, outcome);
    let said = room.on(ended(Err(Error::invalid("no room"))));
    assert!(said.len() == 1 && said[0].starts_with("Complain(\"this node's metadata are damaged"), "{said:?}");
    assert_eq!(room.steward.renew_at, Some(room.now + RENEW_PAUSE));
    assert_eq!(room.on(ended(Err(Error::invalid("no room")))), [""; 0], "it is said already");
    let is_missing = |room: &mut Room| {
        room.observes(Observed::default());
        room.steward.outlook().missing.as_ref().is_some_and(|why| why.to_string().contains("no room"))
    };
    assert!(is_missing(&mut room));
    room.on(ended(Ok(())));
    assert!(!is_missing(&mut room));
}

#[test]
fn what_hinders_a_registration_for_a_while_is_no_refusal() {
    let mut room = Room::new(mesh(&[1]));
    let ended = |kind| Event::Ended(Key::Announce, Err(Error::new(kind, "as planned")));
    for kind in [ErrorKind::Timeout, ErrorKind::NotLeader, ErrorKind::Unreachable, ErrorKind::Draining] {
        assert_eq!(room.on(ended(kind)), [""; 0], "{kind:?}");
    }
    for kind in [ErrorKind::Invalid, ErrorKind::Denied, ErrorKind::Conflict, ErrorKind::QuotaExceeded] {
        let said = room.on(ended(kind));
        assert!(said.len() == 1 && said[0].starts_with("Refused("), "{kind:?}: {said:?}");
        room.on(Event::Ended(Key::Announce, Ok(())));
    }
}

#[test]
fn as_much_may_be_under_way_as_there_is_room_for_and_an_act_may_take_as_long_as_it_may() {
    let mut room = Room::new(mesh(&[1, 2]));
    room.on(Event::Time);
    let lead = &mut room.steward.lead;
    for actor in 1..=driver::MOVES_MAX as u64 {
        let row = Assignment::new(ActorId(actor), HERE, Epoch(1));
        assert_eq!(lead.driver.place(row, Instant(0)).len(), 1);
        let other = Assignment::new(ActorId(100 + actor), HERE, Epoch(1));
        let begun = crate::migration::Migration::begin(&other, OTHER);
        assert_eq!(lead.driver.set_out(begun, driver::Why::Plan(crate::Reason::Best), Instant(0)).len(), 1);
        lead.hands.extend([(ActorId(actor), (1, 1)), (ActorId(100 + actor), (1, 1))]);
    }
    room.steward.busy = [(Key::LayOut, Instant(0))].into();
    assert_eq!(room.steward.check(Instant(0) + invariants::ACT_MAX), Ok(()));
    let late = Instant(invariants::ACT_MAX.as_nanos() as u64 + 1);
    let broken = room.steward.check(late).expect_err("it takes too long");
    assert_eq!(broken.to_string(), "an act has not ended for longer than any may take: LayOut");
    let others = [
        (invariants::Broken::Unintroduced(OTHER), "node-2 is taken for up, and no report of it counts"),
        (invariants::Broken::NotHere, "NotHere"),
    ];
    for (broken, text) in others {
        assert_eq!(broken.to_string(), text);
    }
}

#[test]
fn a_move_of_before_this_start_is_taken_back_until_the_group_has_settled_it() {
    let chain = ActorId::data(TenantId(7), HERE);
    let mut room = Room::new(moving());
    room.on(Event::Heard(beat(2), room.now));
    let key = Key::TakeBack(chain, MoveId(3));
    let takes_back = |room: &mut Room| {
        let acts = room.observes(Observed::default());
        acts.iter().filter(|act| act.starts_with("TakeBack(")).count()
    };
    assert_eq!(takes_back(&mut room), 1);
    room.on(Event::Ended(key, Err(Error::new(ErrorKind::Timeout, "as planned"))));
    assert_eq!(takes_back(&mut room), 1, "that failed");
    room.on(Event::Ended(key, Err(Error::new(ErrorKind::Conflict, "it is over"))));
    assert_eq!(takes_back(&mut room), 0, "the group's word comes by itself");
}

#[test]
fn a_replica_that_could_not_be_told_to_forget_who_led_is_told_again() {
    let mut room = Room::new(mesh(&[1, 2]));
    let led = || {
        let own = group(1, &[1, 2]);
        let report = GroupReport { leader: Some(OTHER), ..own.report };
        Observed { groups: vec![Group { report, ..group(1, &[1, 2]) }], ..Observed::default() }
    };
    let leads = |start: u64, leader: Option<NodeId>| {
        let groups = vec![GroupReport { leader, ..group(2, &[1, 2]).report }];
        let starts = (1..=start).map(Incarnation).collect();
        introduces(NodeReport { incarnation: Incarnation(start), starts, groups, ..report(2) }, start)
    };
    room.on(Event::Heard(leads(1, Some(OTHER)), room.now));
    let forsakes = |room: &mut Room| {
        room.passes(50);
        let acts = room.observes(led());
        acts.iter().filter(|act| act.starts_with("Forsake(")).count()
    };
    assert_eq!(forsakes(&mut room), 0);
    // It has restarted, and does not lead any more.
    room.on(Event::Heard(leads(2, None), room.now));
    assert_eq!(forsakes(&mut room), 1);
    let key = Key::Forsake(GroupId::CONTROL);
    room.on(Event::Ended(key, Err(Error::new(ErrorKind::Timeout, "as planned"))));
    assert_eq!(forsakes(&mut room), 1);
    room.on(Event::Ended(key, Ok(())));
    assert_eq!(forsakes(&mut room), 0);
}

#[test]
fn what_it_leads_goes_to_who_stays_once_it_is_to_leave() {
    let mut control = mesh(&[1, 2, 3]);
    control.departures.insert(NodeId(2), Departure::Asked);
    let mut room = Room::new(control.clone());
    for node in [2, 3] {
        room.on(Event::Heard(introduces(report(node), 1), room.now));
    }
    let leads = |caught_up: &[u64]| {
        let mut own = group(1, &[1, 2, 3]);
        (own.report.leader, own.leads) = (Some(NodeId(1)), true);
        own.report.voters = own.voters.iter().copied().collect();
        own.caught_up = own.voters.iter().copied().filter(|voter| caught_up.contains(&voter.node().0)).collect();
        Observed { groups: vec![own], ..Observed::default() }
    };
    let handed = |room: &mut Room, caught_up: &[u64]| {
        let acts = room.observes(leads(caught_up));
        acts.iter().filter(|act| act.starts_with("HandOver")).cloned().collect::<Vec<_>>()
    };
    let nothing: [&str; 0] = [];
    assert_eq!(handed(&mut room, &[2, 3]), nothing, "another leaves");
    control.departures.insert(NodeId(1), Departure::Asked);
    room.on(Event::Control(Arc::new(control)));
    room.now = room.now + Duration::from_millis(200);
    assert_eq!(handed(&mut room, &[2]), nothing, "that one leaves as well");
    room.now = room.now + Duration::from_millis(200);
    assert_eq!(handed(&mut room, &[2, 3]), ["HandOver(group-0, node-3)"]);
}

#[test]
fn who_is_told_that_it_is_out_says_so_once_and_asks_for_nothing() {
    let mut room = Room::new(mesh(&[2, 3]));
    for node in [2, 3] {
        room.on(Event::Heard(introduces(report(node), 1), room.now));
    }
    let told = |acts: Vec<String>| acts.into_iter().filter(|act| act.starts_with("Expelled")).count();
    let acts = room.on(Event::Unanswered(NodeId(2), room.now, ErrorKind::Conflict));
    assert_eq!(told(acts), 1);
    let acts = room.on(Event::Unanswered(NodeId(3), room.now, ErrorKind::Conflict));
    assert_eq!(told(acts), 0, "that is known");
    room.now = room.now + Duration::from_millis(200);
    let acts = room.observes(Observed::default());
    assert!(!acts.iter().any(|act| act.starts_with("Announce")), "{acts:?}");
    assert!(room.steward.outlook().missing.as_ref().is_some_and(|missing| missing.message().contains("for good")));
    // Who is no member, and is not told that, asks to be taken in.
    let mut room = Room::new(mesh(&[2, 3]));
    room.on(Event::Heard(introduces(report(2), 1), room.now));
    room.now = room.now + Duration::from_millis(200);
    assert!(room.observes(Observed::default()).iter().any(|act| act.starts_with("Announce")));
}
