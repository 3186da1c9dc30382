//! Which of two starts of one node is the member.

use mesh_core::{id::Incarnation, topology::NodeInfo};

use super::*;
use crate::witness::Verdict;

/// Of node 3, a start that its folder remembers after the first, at this port.
fn sibling(start: u64, port: u16) -> Arc<Beat> {
    started(&[1, start], port)
}

/// Of node 3, the last of these starts.
fn started(starts: &[u64], port: u16) -> Arc<Beat> {
    let starts: Vec<_> = starts.iter().copied().map(Incarnation).collect();
    let incarnation = *starts.last().expect("one");
    introduces(NodeReport { incarnation, starts, address: format!("127.0.0.1:{port}"), ..report(3) }, 1)
}

#[test]
fn who_met_a_copy_first_hears_from_others_which_start_is_registered() {
    let third = NodeId(3);
    let (member, copy) = (Incarnation(10), Incarnation(20));
    // The copy was made before the member's present start, or in it; that this one is registered was heard, or not yet.
    for (knows, heard) in [(false, false), (false, true), (true, false), (true, true)] {
        let twin = || match knows {
            false => sibling(copy.0, 33),
            true => started(&[1, member.0, copy.0], 33),
        };
        // It was away when the member started again, which leads now: it takes nothing from that one, the news least of all.
        let mut room = Room::new(mesh(&[1, 2, 3]));
        room.passes(2100);
        let says = |registered| Arc::new(Beat { registered, ..(*beat(2)).clone() });
        room.on(Event::Heard(twin(), room.now));
        let turned = room.on(Event::Heard(sibling(member.0, 3), room.now));
        assert_eq!(turned, ["TurnAway(node-3, \"127.0.0.1:3\", Twin)"]);
        assert_eq!(room.steward.outlook().turned_away.get(&third), Some(&(member, Verdict::Twin)));
        for _ in 0..4 {
            room.observes(Observed::default());
            assert_eq!(room.steward.outlook().own().turned_away, [], "it may be what one that has ended has left");
            room.passes(500);
            room.on(Event::Heard(twin(), room.now));
            room.on(Event::Heard(sibling(member.0, 3), room.now));
            // Another that does not count takes nothing from that.
            room.on(Event::Heard(sibling(15, 44), room.now));
        }
        room.observes(Observed::default());
        assert!(room.steward.outlook().own().turned_away.contains(&(third, member)));
        // What is over, what nobody heard of, and what is not of this number, decides nothing.
        room.on(Event::Heard(says(vec![(third, Incarnation(1)), (third, Incarnation(30)), (HERE, member)]), room.now));
        assert!(room.steward.outlook().has_met(third, copy));
        if heard {
            let mut control = mesh(&[1, 2, 3]);
            control.nodes.get_mut(&third).expect("it is there").incarnation = member;
            room.on(Event::Control(Arc::new(control)));
            assert_eq!(room.steward.outlook().has_met(third, copy), knows);
        }
        room.on(Event::Heard(says(vec![(third, member)]), room.now));
        assert!(!room.steward.outlook().has_met(third, copy));
        // Whichever of the two beats first now.
        room.on(Event::Heard(twin(), room.now));
        assert_eq!(room.steward.outlook().turned_away.get(&third), Some(&(copy, Verdict::Twin)));
        let met = room.on(Event::Heard(sibling(member.0, 3), room.now));
        assert!(met.contains(&"Locate(node-3, 127.0.0.1:3)".to_owned()), "{met:?}");
        room.on(Event::Heard(twin(), room.now));
        assert!(room.steward.outlook().has_met(third, member));
        // Its own older view of who is registered undoes nothing, nor does one who has not heard of it.
        room.on(Event::Heard(sibling(member.0, 3), room.now));
        room.on(Event::Heard(sibling(15, 44), room.now));
        room.on(Event::Heard(says(vec![(third, Incarnation(5)), (third, Incarnation(9))]), room.now));
        assert!(room.steward.outlook().has_met(third, member));
    }
}

#[test]
fn what_insisted_and_is_silent_now_takes_no_place() {
    let (third, member, copy) = (NodeId(3), Incarnation(10), Incarnation(20));
    let mut room = Room::new(mesh(&[1, 2, 3]));
    room.passes(2100);
    room.on(Event::Heard(sibling(copy.0, 33), room.now));
    for _ in 0..5 {
        room.on(Event::Heard(sibling(member.0, 3), room.now));
        room.passes(500);
        room.on(Event::Heard(sibling(copy.0, 33), room.now));
    }
    room.passes(1500);
    room.on(Event::Heard(Arc::new(Beat { registered: vec![(third, member)], ..(*beat(2)).clone() }), room.now));
    assert!(room.steward.outlook().has_met(third, copy));
}

#[test]
fn who_has_just_started_waits_for_the_registered_start_before_it_takes_what_does_not_know_it() {
    let third = NodeId(3);
    let mut control = mesh(&[1, 2, 3]);
    control.nodes.get_mut(&third).expect("a member").incarnation = Incarnation(10);
    let info =
        |start, port| NodeInfo { incarnation: Incarnation(start), address: format!("127.0.0.1:{port}"), ..host(3) };
    // Whether it says that the member's address is where the other runs.
    let admits = |room: &Room, info: NodeInfo| {
        let admitted = room.steward.outlook().admits(&info);
        admitted.map_err(|error| (error.kind(), error.to_string().contains("[at=127.0.0.1:3]")))
    };
    let mut room = Room::new(control.clone());
    assert_eq!(admits(&room, info(20, 33)), Ok(()), "it has heard of nobody, and somebody vouches for it");
    assert_eq!(room.on(Event::Heard(sibling(20, 33), room.now)), [""; 0]);
    assert!(!room.steward.outlook().has_met(third, Incarnation(20)));
    assert_eq!(admits(&room, info(20, 33)), Err((ErrorKind::Draining, false)));
    room.on(Event::Heard(sibling(10, 3), room.now));
    assert!(room.steward.outlook().has_met(third, Incarnation(10)));
    let turned = room.on(Event::Heard(sibling(20, 33), room.now));
    assert_eq!(turned, ["TurnAway(node-3, \"127.0.0.1:33\", Twin)"]);
    // And nobody registers it by way of this one, whoever vouches for it, nor one that this one has not heard.
    assert_eq!(admits(&room, info(20, 33)), Err((ErrorKind::Conflict, true)));
    assert_eq!(admits(&room, info(21, 44)), Err((ErrorKind::Conflict, true)));
    assert_eq!(admits(&room, info(21, 3)), Ok(()), "it has started again where it was");
    assert_eq!(admits(&room, info(10, 3)), Ok(()));
    room.observes(Observed::default());
    let own = NodeInfo { address: "127.0.0.1:33".into(), incarnation: Incarnation(20), ..host(1) };
    assert_eq!(admits(&room, own), Err((ErrorKind::Conflict, false)), "least of all its own");
    room.passes(2500);
    assert_eq!(admits(&room, info(21, 44)), Ok(()), "the other is silent");
    // The registered one is not there: its folder was put back, and it was renewed.
    let replica = ReplicaId::new(third, 2);
    let groups = vec![GroupReport { replica, ..group(3, &[]).report }];
    let said = room.steward.outlook().sight.reports[&third].clone();
    let (starts, address) = (vec![Incarnation(1), Incarnation(20)], "127.0.0.1:33".to_owned());
    let renewed = NodeReport { incarnation: Incarnation(20), starts, address, groups, ..(*said).clone() };
    let mut room = Room::new(control);
    room.observes(Observed { groups: vec![group(1, &[1, 2, 3])], ..Observed::default() });
    room.passes(1500);
    room.on(Event::Heard(introduces(renewed.clone(), 1), room.now));
    assert!(!room.steward.outlook().has_met(third, Incarnation(20)));
    room.passes(600);
    room.on(Event::Heard(introduces(renewed, 1), room.now));
    assert!(room.steward.outlook().has_met(third, Incarnation(20)));
}

#[test]
fn what_the_group_has_decided_is_not_undone_by_who_has_not_heard_of_it() {
    let registered = |start| {
        let mut control = mesh(&[1, 2, 3]);
        let third = control.nodes.get_mut(&NodeId(3)).expect("a member");
        third.incarnation = Incarnation(start);
        control
    };
    // The other has not heard that a later start is registered by now; the one before it runs, and is turned away.
    let mut room = Room::new(registered(20));
    let says = |start| Arc::new(Beat { registered: vec![(NodeId(3), Incarnation(start))], ..(*beat(2)).clone() });
    room.on(Event::Heard(sibling(20, 3), room.now));
    let turned = room.on(Event::Heard(sibling(10, 33), room.now));
    assert_eq!(turned, ["TurnAway(node-3, \"127.0.0.1:33\", Twin)"]);
    room.on(Event::Heard(says(10), room.now));
    assert!(room.steward.outlook().has_met(NodeId(3), Incarnation(20)));
    // This one has not heard that a later one is.
    room.on(Event::Heard(sibling(25, 33), room.now));
    room.on(Event::Heard(says(25), room.now));
    room.on(Event::Heard(sibling(25, 33), room.now));
    assert!(room.steward.outlook().has_met(NodeId(3), Incarnation(25)));
    // Who knows tells just those who turn it away, and in every beat.
    let mut room = Room::new(registered(10));
    let tells = |room: &mut Room, turned_away: Vec<(NodeId, Incarnation)>, version| {
        room.on(Event::Heard(introduces(NodeReport { turned_away, ..report(2) }, version), room.now));
        room.steward.answer_to(&beat(2)).registered.clone()
    };
    let (member, copy) = ((NodeId(3), Incarnation(10)), (NodeId(3), Incarnation(20)));
    assert_eq!(tells(&mut room, vec![copy], 1), []);
    assert_eq!(tells(&mut room, vec![copy, member], 2), [member]);
    room.observes(Observed::default());
    room.passes(500);
    let acts = room.steward.on(Event::Observed(Box::default()), room.now);
    let beats = acts.iter().filter_map(|act| if let Act::Beat(to, beat) = act { Some((*to, beat)) } else { None });
    let told: Vec<_> = beats.map(|(to, beat)| (to.0, beat.registered.clone())).collect();
    assert_eq!(told, [(2, vec![member]), (3, vec![])]);
}
