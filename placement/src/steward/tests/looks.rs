//! What a node does for itself by a look: what runs on it, its replicas, that it is known, that its metadata are
//! sound, and what it says it waits for.

use mesh_core::{
    id::LayoutId,
    meta::Level,
    op::Waits,
    spec::{FunctionSpec, KeeperSpec, ObjectSpec},
    topology::Code,
};

use super::*;
use crate::fate::Hosted;

const CHAIN: ActorId = ActorId::data(TenantId(7), HERE);
const INGRESS: ActorId = ActorId::ingress(HERE);
const KEEPER: ActorId = ActorId::keeper(HERE);

/// What is to be done to actors by a look.
fn deeds(room: &mut Room, own: Observed) -> Vec<(ActorId, Vec<Deed>)> {
    let acts = room.steward.on(Event::Observed(Box::new(own)), room.now);
    acts.into_iter()
        .filter_map(|act| if let Act::Actor(actor, deeds) = act { Some((actor, deeds)) } else { None })
        .collect()
}

/// The actors that a look starts.
fn starts(room: &mut Room, own: Observed) -> Vec<ActorId> {
    let is_start = |deeds: &[Deed]| matches!(deeds, [Deed::Start(..)]);
    deeds(room, own).into_iter().filter(|(_, deeds)| is_start(deeds)).map(|(actor, _)| actor).collect()
}

/// What a look wants, but for what runs here.
fn wants(room: &mut Room, own: Observed) -> Vec<String> {
    room.observes(own).into_iter().filter(|act| !act.starts_with("Actor(")).collect()
}

/// Its replica of the control group, led by that node.
fn led_by(leader: Option<u64>, voters: &[u64]) -> Group {
    let own = group(1, voters);
    let report = GroupReport { leader: leader.map(NodeId), ..own.report };
    Group { report, leads: leader == Some(1), ..group(1, voters) }
}

fn has(group: Group) -> Observed {
    Observed { groups: vec![group], ..Observed::default() }
}

/// Node 2 or 3, the first of which leads the two and node 1.
fn follows(node: u64) -> Arc<Beat> {
    let own = group(node, &[1, 2, 3]);
    let voters = own.voters.iter().copied().collect();
    let groups = vec![GroupReport { leader: Some(OTHER), voters, ..own.report }];
    introduces(NodeReport { groups, ..report(node) }, 1)
}

/// Lets time pass in which these go on to beat.
fn passes_with(room: &mut Room, millis: u64, beats: &[Arc<Beat>]) {
    let end = room.now + Duration::from_millis(millis);
    while room.now < end {
        let rest = u64::try_from(end.since(room.now).as_millis()).expect("it is short");
        room.passes(rest.min(500));
        for beat in beats {
            room.on(Event::Heard(beat.clone(), room.now));
        }
    }
}

#[test]
fn who_leads_and_votes_no_more_takes_nobody_in() {
    let mut room = Room::new(mesh(&[1, 2]));
    let groups = vec![group(2, &[]).report];
    room.on(Event::Heard(introduces(NodeReport { groups, ..report(2) }, 1), room.now));
    let members = |acts: Vec<String>| acts.into_iter().filter(|act| act.starts_with("Members")).count();
    assert_eq!(members(wants(&mut room, has(led_by(Some(1), &[2, 3])))), 0);
    assert_eq!(members(wants(&mut room, has(led_by(Some(1), &[1])))), 1);
}

/// What it stored before would be stored on too few nodes, for good.
#[test]
fn a_chain_starts_once_every_other_host_is_heard_or_was_waited_for() {
    let third = NodeInfo { address: "127.0.0.1:3".into(), ..host(3) };
    let mut control = split_mesh(HERE, 1);
    control.nodes.insert(third.id, third);
    let mut room = Room::new(control.clone());
    assert_eq!(starts(&mut room, Observed::default()), [INGRESS, KEEPER]);
    assert!(room.steward.outlook().looks_around);
    // A DPU stores nothing, and may be away.
    room.on(Event::Heard(beat(3), room.now));
    assert_eq!(starts(&mut room, Observed::default()), [CHAIN]);
    assert!(!room.steward.outlook().looks_around);
    let mut room = Room::new(control);
    room.passes(1950);
    assert_eq!(starts(&mut room, Observed::default()), [INGRESS, KEEPER]);
    room.steward.publish();
    room.passes(50);
    assert_eq!(starts(&mut room, Observed::default()), [CHAIN]);
    assert!(room.steward.publish().is_some_and(|known| !known.looks_around), "whoever is sent a chain has to know");
}

#[test]
fn what_could_not_be_started_is_tried_again_after_a_while_though_nothing_is_new() {
    let hosted = || Hosted { epoch: Epoch(1), phase: Phase::Running };
    let runs = || Observed { hosted: [(INGRESS, hosted()), (KEEPER, hosted())].into(), ..Observed::default() };
    let mut room = Room::new(split_mesh(HERE, 1));
    assert_eq!(starts(&mut room, Observed::default()), [INGRESS, KEEPER, CHAIN]);
    room.on(Event::Ended(Key::Actor(INGRESS), Ok(())));
    room.on(Event::Ended(Key::Actor(KEEPER), Ok(())));
    room.on(Event::Ended(Key::Actor(CHAIN), Err(Error::invalid("as planned"))));
    assert_eq!(starts(&mut room, runs()), []);
    room.passes(499);
    assert_eq!(starts(&mut room, runs()), []);
    room.passes(1);
    assert_eq!(starts(&mut room, runs()), [CHAIN]);
}

/// Garbage of a group is reclaimed by one ingress, and what it has stored is kept by one keeper.
#[test]
fn an_ingress_reclaims_for_the_groups_that_its_node_leads_and_a_keeper_keeps_them() {
    let leads = |led: u64| {
        let own = |number| {
            let own = led_by(Some(if number == led { 1 } else { 2 }), &[1, 2]);
            Group { report: GroupReport { group: GroupId(number), ..own.report }, ..led_by(None, &[1, 2]) }
        };
        let hosted = Hosted { epoch: Epoch(1), phase: Phase::Running };
        Observed {
            groups: [0, 1, 2].map(own).into(),
            hosted: [(INGRESS, hosted), (KEEPER, hosted)].into(),
            ..Observed::default()
        }
    };
    let mut room = Room::new(ControlView { namespaces: 2, ..mesh(&[1, 2]) });
    let mut reclaims = |own| {
        let deeds = deeds(&mut room, own);
        for actor in [INGRESS, KEEPER] {
            room.on(Event::Ended(Key::Actor(actor), Ok(())));
        }
        let of = |deeds: &[Deed]| match deeds {
            [Deed::Start(_, spec) | Deed::Configure(spec)] => match &**spec {
                FunctionSpec::Object(ObjectSpec { reclaims, .. }) => reclaims.clone(),
                FunctionSpec::Keeper(KeeperSpec { groups, .. }) => groups.iter().copied().collect(),
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        };
        deeds.iter().map(|(_, deeds)| of(deeds)).collect::<Vec<_>>()
    };
    assert_eq!(reclaims(leads(1)), [[GroupId(1)]; 2]);
    assert_eq!(reclaims(leads(1)), [[GroupId(0); 0]; 0]);
    assert_eq!(reclaims(leads(2)), [[GroupId(2)]; 2]);
}

#[test]
fn a_node_stands_for_election_once_at_a_time_and_not_at_once_after_one() {
    let vacant = || has(led_by(None, &[1]));
    let elect = ["Elect(group-0)"];
    let mut room = Room::new(mesh(&[1]));
    assert_eq!(wants(&mut room, vacant()), elect);
    room.passes(600);
    assert_eq!(wants(&mut room, vacant()), [""; 0], "that one is under way");
    room.on(Event::Ended(Key::Elect(GroupId::CONTROL), Ok(())));
    room.passes(99);
    assert_eq!(wants(&mut room, vacant()), [""; 0], "who won may not be seen yet");
    room.passes(1);
    assert_eq!(wants(&mut room, vacant()), elect);
}

#[test]
fn who_leads_a_group_has_others_follow_it_and_nobody_else_does() {
    let says = |leader: u64| {
        let groups = vec![GroupReport { leader: Some(NodeId(leader)), ..group(2, &[]).report }];
        introduces(NodeReport { groups, ..report(2) }, 1)
    };
    let mut room = Room::new(mesh(&[1, 2]));
    room.on(Event::Heard(says(1), room.now));
    assert_eq!(wants(&mut room, has(led_by(Some(1), &[1]))), ["Members(group-0, Follow(node-2/000000000001))"]);
    assert_eq!(wants(&mut room, has(led_by(Some(1), &[1]))), [""; 0], "it is under way");
    let mut room = Room::new(mesh(&[1, 2]));
    room.on(Event::Heard(says(2), room.now));
    assert_eq!(wants(&mut room, has(led_by(Some(2), &[1]))), [""; 0]);
}

#[test]
fn a_node_makes_itself_known_through_who_is_there_until_the_group_has_its_start_and_its_address() {
    let own = || has(led_by(Some(2), &[2]));
    let mut room = Room::new(mesh(&[2]));
    assert_eq!(wants(&mut room, own()), [""; 0], "it has no vote, and nobody is there");
    room.on(Event::Heard(follows(2), room.now));
    assert_eq!(wants(&mut room, own()), ["Announce([node-2])"]);
    // Who votes proposes it itself.
    let mut room = Room::new(mesh(&[2]));
    assert_eq!(wants(&mut room, has(led_by(Some(2), &[1, 2]))), ["Announce([])"]);
    let registered = |how: fn(&mut NodeInfo)| {
        let mut control = mesh(&[1, 2]);
        how(control.nodes.get_mut(&HERE).expect("it is there"));
        let mut room = Room::new(control);
        room.on(Event::Heard(follows(2), room.now));
        wants(&mut room, own())
    };
    assert_eq!(registered(|_| {}), [""; 0]);
    assert_eq!(registered(|info| info.incarnation = Incarnation(0)), ["Announce([node-2])"]);
    assert_eq!(registered(|info| info.address = "127.0.0.1:9".into()), ["Announce([node-2])"]);
    // And where it is, once all nodes can keep that.
    let located = |level, known: &str, here: &str| {
        let mut control = mesh(&[1, 2]);
        control.level = level;
        control.nodes.get_mut(&HERE).expect("it is there").location = known.parse().ok();
        let mut room = Room::new(control);
        room.steward.here.info.location = here.parse().ok();
        room.on(Event::Heard(follows(2), room.now));
        wants(&mut room, own())
    };
    assert_eq!(located(Level::SEATS, "", "rack-1"), [""; 0]);
    assert_eq!(located(Level::PLACES, "", "rack-1"), ["Announce([node-2])"]);
    assert_eq!(located(Level::PLACES, "rack-1", "rack-1"), [""; 0]);
    assert_eq!(located(Level::PLACES, "rack-1", "rack-2"), ["Announce([node-2])"]);
    assert_eq!(located(Level::PLACES, "rack-1", ""), [""; 0], "what was said stays until something else is");
}

#[test]
fn damaged_metadata_are_rebuilt_once_at_a_time_and_half_a_minute_after_that_failed() {
    let damaged = || {
        let own = group(1, &[1, 2, 3]);
        let report = GroupReport { trouble: Some("damaged".into()), ..own.report };
        let groups = vec![Group { report, ..group(1, &[1, 2, 3]) }];
        Observed { groups, damage: Some(Ok([GroupId::CONTROL].into())), ..Observed::default() }
    };
    let others = [follows(2), follows(3)];
    let mut room = Room::new(mesh(&[1, 2, 3]));
    others.iter().for_each(|beat| drop(room.on(Event::Heard(beat.clone(), room.now))));
    room.on(Event::Ended(Key::Peers, Ok(())));
    assert_eq!(wants(&mut room, damaged()), ["Renew"]);
    passes_with(&mut room, 1000, &others);
    assert_eq!(wants(&mut room, damaged()), [""; 0], "it is under way");
    room.on(Event::Ended(Key::Renew, Err(Error::invalid("no room"))));
    passes_with(&mut room, 29_999, &others);
    assert_eq!(wants(&mut room, damaged()), [""; 0]);
    room.passes(1);
    assert_eq!(wants(&mut room, damaged()), ["Renew"]);
}

#[test]
fn what_waits_to_go_on_alone_does_once_it_has_listened_and_is_set_aside_where_others_go_on() {
    let waits = || {
        let own = group(1, &[1, 2, 3]);
        let report = GroupReport { trouble: Some("it waits".into()), ..own.report };
        let groups = vec![Group { report, ..group(1, &[1, 2, 3]) }];
        let waits = Some(Waits::Without(vec![NodeId(2), NodeId(3)]));
        Observed { groups, damage: Some(Ok([GroupId::CONTROL].into())), waits, ..Observed::default() }
    };
    let mut alone = Room::new(mesh(&[1, 2, 3]));
    assert_eq!(wants(&mut alone, waits()), [""; 0], "it has not listened");
    alone.passes(19_950);
    assert!(!wants(&mut alone, waits()).contains(&"GoOn".to_owned()), "others may not have found it yet");
    alone.passes(50);
    let said = wants(&mut alone, waits());
    assert_eq!(said.last().map(String::as_str), Some("GoOn"), "{said:?}");
    assert_eq!(wants(&mut alone, waits()), [""; 0], "it is under way");
    // One of those that were to be lost is there, and no majority.
    let mut room = Room::new(mesh(&[1, 2, 3]));
    passes_with(&mut room, 2_100, &[follows(3)]);
    room.on(Event::Ended(Key::Peers, Ok(())));
    let said = wants(&mut room, waits());
    assert!(said.len() == 2 && said[1].contains("one of them runs"), "{said:?}");
    // That one is silent: it may be only its link.
    room.passes(19_000);
    assert!(!wants(&mut room, waits()).contains(&"GoOn".to_owned()));
    // A majority is there: it is one of them again.
    passes_with(&mut room, 100, &[follows(2), follows(3)]);
    room.on(Event::Ended(Key::Peers, Ok(())));
    assert_eq!(wants(&mut room, waits()), ["Renew"]);
}

#[test]
fn who_follows_an_earlier_leader_beside_a_later_one_serves_no_more() {
    let own = |leader, term| {
        let own = group(1, &[1, 2, 3]);
        let report = GroupReport { leader: Some(NodeId(leader)), term, ..own.report };
        has(Group { report, leads: leader == 1, ..group(1, &[1, 2, 3]) })
    };
    let leads = |node, term| {
        let said = GroupReport { leader: Some(NodeId(node)), term, ..group(node, &[]).report };
        introduces(NodeReport { groups: vec![said], ..report(node) }, 1)
    };
    let told = |room: &mut Room, own: Observed| {
        wants(room, own).into_iter().filter(|act| act.starts_with("Expelled")).collect::<Vec<_>>()
    };
    for (leader, term, other, is_left_behind) in [
        (1, 5, 6, true),
        (2, 5, 6, true),
        // That one is the earlier one; or the same.
        (1, 5, 4, false),
        (3, 5, 6, false),
    ] {
        let mut room = Room::new(mesh(&[1, 2, 3]));
        let beats = [leads(2, term), leads(3, other)];
        passes_with(&mut room, 500, &beats);
        assert_eq!(told(&mut room, own(leader, term)), [""; 0]);
        passes_with(&mut room, 29_500, &beats);
        assert_eq!(told(&mut room, own(leader, term)), [""; 0], "it may hear of it yet");
        passes_with(&mut room, 500, &beats);
        let said = told(&mut room, own(leader, term));
        assert_eq!(said.len(), usize::from(is_left_behind), "{said:?}");
        assert!(said.iter().all(|said| said.contains("mesh metadata empty")), "{said:?}");
        // Nobody takes its replicas in, and once that one is gone it serves again.
        let says = |room: &Room| room.steward.outlook().missing.as_ref().map(|missing| missing.message().to_owned());
        assert_eq!(says(&room).is_some_and(|why| why.starts_with("the mesh goes on from")), is_left_behind);
        passes_with(&mut room, 1_000, &beats);
        assert_eq!(told(&mut room, own(leader, term)), [""; 0], "it is said once");
        passes_with(&mut room, 29_500, &[leads(2, term)]);
        let back = wants(&mut room, own(leader, term)).into_iter().filter(|act| act == "Back").count();
        assert_eq!(back, 0, "it was there a moment ago");
        passes_with(&mut room, 3_000, &[leads(2, term)]);
        let back = wants(&mut room, own(leader, term)).into_iter().filter(|act| act == "Back").count();
        assert_eq!(back, usize::from(is_left_behind));
    }
    // A term of an earlier recovery says nothing.
    let mut room = Room::new(mesh(&[1, 2, 3]));
    let timeline = Timeline { chance: 1, ..Timeline::default() };
    let said = GroupReport { leader: Some(NodeId(3)), term: 2, timeline, ..group(3, &[]).report };
    let beats = [introduces(NodeReport { groups: vec![said], ..report(3) }, 1)];
    passes_with(&mut room, 500, &beats);
    assert_eq!(told(&mut room, own(1, 5)), [""; 0]);
    passes_with(&mut room, 30_000, &beats);
    assert_eq!(told(&mut room, own(1, 5)).len(), 1);
    // Whom nobody leads, as he is alone of those from before a restore, is told; and who has nothing is to be taken in.
    let said = GroupReport { leader: Some(NodeId(3)), term: 2, timeline, restored: timeline, ..group(3, &[]).report };
    let beats = [introduces(NodeReport { groups: vec![said], ..report(3) }, 1)];
    for is_new in [false, true] {
        let alone = || {
            let report = GroupReport { is_new, term: 5, ..group(1, &[]).report };
            has(Group { report, leads: false, ..group(1, &[1, 2, 3]) })
        };
        let mut room = Room::new(mesh(&[1, 2, 3]));
        passes_with(&mut room, 500, &beats);
        assert_eq!(told(&mut room, alone()), [""; 0]);
        passes_with(&mut room, 30_000, &beats);
        assert_eq!(told(&mut room, alone()).len(), usize::from(!is_new));
    }
    // A DPU that follows the older ones serves nobody, either, but no longer than those are there.
    let mut view = mesh(&[1, 2, 3]);
    view.nodes.extend([(NodeId(1), NodeInfo { kind: NodeKind::Dpu, ..host(1) })]);
    let mut room = Room::new(view);
    room.steward.here.info.kind = NodeKind::Dpu;
    let both = [leads(2, 5), beats[0].clone()];
    passes_with(&mut room, 500, &both);
    told(&mut room, own(2, 5));
    passes_with(&mut room, 30_000, &both);
    assert_eq!(told(&mut room, own(2, 5)).len(), 1);
    let alone = || has(Group { report: GroupReport { term: 5, ..group(1, &[]).report }, ..group(1, &[1, 2, 3]) });
    passes_with(&mut room, 29_500, &beats);
    assert!(!wants(&mut room, alone()).contains(&"Back".to_owned()));
    passes_with(&mut room, 1_500, &beats);
    assert!(wants(&mut room, alone()).contains(&"Back".to_owned()));
    // It hears of it in between.
    let mut room = Room::new(mesh(&[1, 2, 3]));
    let beats = [leads(3, 6)];
    for leader in [1, 3, 1] {
        passes_with(&mut room, 18_000, &beats);
        assert_eq!(told(&mut room, own(leader, 5)), [""; 0]);
    }
}

#[test]
fn who_leads_with_damaged_metadata_gives_that_away_once_at_a_time() {
    let damaged = || {
        let own = led_by(Some(1), &[1, 2, 3]);
        let groups = vec![Group { caught_up: own.voters.clone(), ..own }];
        Observed { groups, damage: Some(Ok([GroupId::CONTROL].into())), ..Observed::default() }
    };
    let mut room = Room::new(mesh(&[1, 2, 3]));
    for node in [2, 3] {
        room.on(Event::Heard(follows(node), room.now));
    }
    room.on(Event::Ended(Key::Peers, Ok(())));
    let hand_over = ["HandOver(group-0, node-2)"];
    assert_eq!(wants(&mut room, damaged()), hand_over);
    room.passes(1000);
    assert_eq!(wants(&mut room, damaged()), [""; 0], "it is under way");
    room.on(Event::Ended(Key::HandOver(GroupId::CONTROL), Ok(())));
    room.passes(499);
    assert_eq!(wants(&mut room, damaged()), [""; 0], "who leads now may not be seen yet");
    room.passes(1);
    assert_eq!(wants(&mut room, damaged()), hand_over);
}

/// Three hosts with a drive each.
fn with_drives() -> ControlView {
    ControlView {
        code: Some(Code { data: 2, parity: 1 }),
        drives: [1, 2, 3].map(|node| (DriveId(node), drive(node, node))).into(),
        ..mesh(&[1, 2, 3])
    }
}

#[test]
fn who_leads_makes_a_layout_once_at_a_time_and_nobody_else_does() {
    let layouts = |room: &mut Room, own| room.observes(own).iter().filter(|act| act.starts_with("LayOut(")).count();
    let mut room = Room::new(with_drives());
    assert_eq!(layouts(&mut room, leading()), 0);
    room.passes(300);
    assert_eq!(layouts(&mut room, leading()), 1);
    room.passes(300);
    assert_eq!(layouts(&mut room, leading()), 0, "it is being made");
    room.on(Event::Ended(Key::LayOut, Err(Error::new(ErrorKind::Timeout, "as planned"))));
    room.passes(100);
    assert_eq!(layouts(&mut room, leading()), 1);
    let mut room = Room::new(with_drives());
    let follows = || has(led_by(Some(2), &[1, 2]));
    assert_eq!(layouts(&mut room, follows()), 0);
    room.passes(5000);
    assert_eq!(layouts(&mut room, follows()), 0);
}

#[test]
fn a_node_says_what_it_waits_for_by_its_groups_and_by_the_drives_that_it_sees() {
    let mut control = ControlView { namespaces: 1, ..with_drives() };
    let drives: Vec<_> = control.drives.values().cloned().collect();
    let layout = crate::layout::build(
        LayoutId(1),
        &crate::layout::Lineage::First(1, Code { data: 2, parity: 1 }),
        &drives,
        &mesh_core::topology::Places::default(),
    );
    control.layouts.insert(LayoutId(1), Arc::new(layout.expect("it can be made")));
    let mut room = Room::new(control);
    let missing = |room: &mut Room, own: Observed| {
        room.observes(own);
        let known = room.steward.outlook();
        (known.missing.as_ref().expect("it is not ready").message().to_owned(), known.own().drives_up)
    };
    let both = || {
        let namespace = GroupReport { group: GroupId(1), ..led_by(Some(1), &[1]).report };
        let mut own = leading();
        own.groups.push(Group { report: namespace, ..led_by(Some(1), &[1]) });
        own
    };
    let waits = |what: &str, drives: u32| (what.to_owned(), drives);
    assert_eq!(missing(&mut room, leading()), waits("not every metadata group of this node is here yet", 0));
    assert_eq!(missing(&mut room, both()), waits("too few drives are up", 0));
    let is = |node: u64, state| DriveReport {
        drive: DriveId(node),
        state,
        capacity_bytes: 9,
        free_bytes: 9,
        shards: 0,
        corrupt: 0,
        damaged: 0,
        scrub: Default::default(),
        reason: None,
    };
    let says = |node: u64, version, state| {
        let mut beat = (*introduces(report(node), version)).clone();
        let news = beat.news.as_deref().expect("just put there").clone();
        beat.news = Some(Arc::new(News { drives: Some(vec![is(node, state)]), ..news }));
        Event::Heard(Arc::new(beat), Instant(0))
    };
    room.on(Event::Drives(vec![is(1, DriveState::Up)]));
    room.on(says(2, 1, DriveState::Full));
    room.on(says(3, 1, DriveState::Down));
    assert_eq!(missing(&mut room, both()), waits("too few drives are up", 2));
    room.on(says(3, 2, DriveState::Up));
    assert_eq!(missing(&mut room, both()), waits("there is no tenant yet", 3));
    // Of namespaces a DPU has no replicas.
    room.steward.here.info.kind = NodeKind::Dpu;
    let mut control = (*room.steward.control).clone();
    control.nodes.extend([(HERE, NodeInfo { kind: NodeKind::Dpu, ..control.nodes[&HERE].clone() })]);
    room.on(Event::Control(Arc::new(control)));
    assert_eq!(missing(&mut room, leading()), waits("there is no tenant yet", 3));
}
