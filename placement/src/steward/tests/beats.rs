//! Beats: to whom figures go how often, which start of a node counts, and what of them is shown and looked at.

use mesh_core::{
    op::{AsOf, Held, NodeLoad},
    topology::DriveState,
};

use super::*;

const THIRD: NodeId = NodeId(3);

/// Of a node, the last of these starts, at this port.
fn started(node: u64, starts: &[u64], port: u16) -> Arc<Beat> {
    let starts: Vec<_> = starts.iter().copied().map(Incarnation).collect();
    let incarnation = *starts.last().expect("one");
    introduces(NodeReport { incarnation, starts, address: format!("127.0.0.1:{port}"), ..report(node) }, 1)
}

/// Each of a thousand nodes tells them to who may lead every five seconds, and to others every twenty.
#[test]
fn figures_go_to_who_leads_the_control_group_or_may_four_times_as_often_as_to_others() {
    let mut room = Room::new(mesh(&[1, 2, 3, 4]));
    // The leader is none of the voters that this one's replica knows of.
    let own = |cpu_ns| {
        let own = group(1, &[1, 3]);
        let report = GroupReport { leader: Some(OTHER), ..own.report };
        let load = NodeLoad { cpu_ns, ..NodeLoad::default() };
        Observed { groups: vec![Group { report, ..group(1, &[1, 3]) }], load, ..Observed::default() }
    };
    let holds = |node: u64, version| {
        let as_of = AsOf { states: version, figures: version };
        Arc::new(Beat { held: Some(Held { start: Incarnation(1), as_of }), ..(*beat(node)).clone() })
    };
    for node in [2, 3, 4] {
        room.on(Event::Heard(holds(node, 0), room.now));
    }
    let mut told = |millis, cpu_ns| {
        room.now = room.now + Duration::from_millis(millis);
        room.on(Event::Changed);
        let acts = room.steward.on(Event::Observed(Box::new(own(cpu_ns))), room.now);
        let mut told = Vec::new();
        for act in acts {
            let Act::Beat(node, beat) = act else { continue };
            let Some(news) = beat.news.as_ref().filter(|news| news.figures) else { continue };
            told.push(node.0);
            room.on(Event::Heard(holds(node.0, news.version), room.now));
        }
        told
    };
    assert_eq!(told(1000, 1), [2, 3, 4], "they hold nothing yet");
    assert_eq!(told(14, 2), [0; 0]);
    assert_eq!(told(1, 3), [2, 3]);
    assert_eq!(told(44, 4), [2, 3]);
    assert_eq!(told(1, 5), [4]);
}

#[test]
fn a_start_whose_beat_comes_after_another_one_was_registered_gives_way_to_that() {
    let mut control = mesh(&[1, 2, 3]);
    control.nodes.get_mut(&THIRD).expect("a member").incarnation = Incarnation(6);
    let mut room = Room::new(control);
    room.passes(2050);
    // Both began at once from copies of one folder.
    room.on(Event::Heard(started(3, &[1, 7], 33), room.now));
    assert!(!room.steward.outlook().has_met(THIRD, Incarnation(7)));
    room.on(Event::Heard(started(3, &[1, 6], 3), room.now));
    assert!(room.steward.outlook().has_met(THIRD, Incarnation(6)));
}

#[test]
fn a_dpu_that_has_started_again_elsewhere_counts_after_its_short_silence_and_a_copy_of_it_does_not() {
    let dpu = |starts: &[u64], port| {
        let mut beat = (*started(2, starts, port)).clone();
        let mut news = beat.news.as_deref().expect("just put there").clone();
        let said = news.report.as_mut().expect("it introduces itself");
        (said.kind, said.attached_to) = (NodeKind::Dpu, Some(HERE));
        beat.news = Some(Arc::new(news));
        Arc::new(beat)
    };
    let counts = |starts: &[u64]| {
        let mut room = Room::new(split_mesh(OTHER, 1));
        room.passes(2050);
        for _ in 0..2 {
            room.on(Event::Heard(dpu(&[1], 2), room.now));
            room.passes(50);
        }
        room.on(Event::Ended(Key::Peers, Ok(())));
        room.passes(150);
        room.on(Event::Ended(Key::Peers, Ok(())));
        room.on(Event::Heard(dpu(starts, 22), room.now))
    };
    let peers = "Peers { up: [node-2], down: [] }";
    assert_eq!(counts(&[1, 2]), ["Locate(node-2, 127.0.0.1:22)", "Note(NodeUp(node-2))", "Up(node-2)", peers]);
    assert_eq!(counts(&[2]), ["TurnAway(node-2, \"127.0.0.1:22\", Twin)"]);
}

#[test]
fn a_dpu_that_has_no_reason_to_beat_briskly_is_given_the_long_silence() {
    let beats = |room: &mut Room, own: &Observed, kind, attached_to| {
        for _ in 0..2 {
            room.passes(50);
            let said = NodeReport { kind, attached_to, ..report(2) };
            room.on(Event::Heard(introduces(said, 1), room.now));
            room.observes(own.clone());
        }
        room.passes(200);
        room.steward.outlook().is_up(OTHER)
    };
    let (dpu, of_third) = (NodeKind::Dpu, Some(THIRD));
    let is_up =
        |own: Observed, known: &[u64], kind, attached_to| beats(&mut Room::new(mesh(known)), &own, kind, attached_to);
    assert!(is_up(Observed::default(), &[1, 2, 3], dpu, of_third), "it beats so to its host and to who leads");
    assert!(is_up(Observed::default(), &[1, 3], dpu, Some(HERE)), "it is no member");
    assert!(is_up(leading(), &[1, 2, 3], NodeKind::Host, None));
    assert!(!is_up(leading(), &[1, 2, 3], dpu, of_third));
    assert!(!is_up(Observed::default(), &[1, 2, 3], dpu, Some(HERE)));
}

#[test]
fn that_another_start_of_a_node_counts_is_shown_and_checked_at_once_and_a_mark_is_not() {
    let registered = |start| {
        let mut control = mesh(&[1, 2, 3]);
        control.nodes.get_mut(&THIRD).expect("a member").incarnation = Incarnation(start);
        Event::Control(Arc::new(control))
    };
    let mut room = Room::new(mesh(&[1, 2, 3]));
    room.passes(50);
    room.on(Event::Heard(started(3, &[1, 7], 3), room.now));
    assert!(room.steward.publish().is_some_and(|known| known.has_met(THIRD, Incarnation(7))));
    // What has to do with who is there is gone through only where that has changed: it is no more what it must be.
    room.steward.outlook.up_since = Arc::default();
    let marked = Beat { marked: 9, ..(*started(3, &[1, 7], 3)).clone() };
    room.on(Event::Heard(Arc::new(marked), room.now));
    assert!(room.steward.publish().is_none());
    drop(room.steward.on(registered(6), room.now));
    assert!(room.steward.publish().is_some_and(|known| !known.has_met(THIRD, Incarnation(7))));
    assert_eq!(room.steward.check(room.now), Err(invariants::Broken::NeverCameUp));
}

#[test]
fn how_a_drive_of_this_node_is_is_shown_at_once() {
    let drive = |state, free_bytes| DriveReport {
        drive: DriveId(1),
        state,
        capacity_bytes: 100,
        free_bytes,
        shards: 0,
        corrupt: 0,
        damaged: 0,
        scrub: Default::default(),
        reason: None,
    };
    let mut room = Room::new(mesh(&[1]));
    room.observes(Observed::default());
    assert!(room.steward.publish().is_some());
    let mut shown = |state, free_bytes| {
        room.on(Event::Drives(vec![drive(state, free_bytes)]));
        room.steward.publish().is_some()
    };
    assert!(shown(DriveState::Up, 50));
    assert!(!shown(DriveState::Up, 49), "a figure");
    assert!(shown(DriveState::Full, 0));
}

#[test]
fn who_leads_plans_with_its_next_look_once_it_cannot_run_a_chain_itself() {
    let mut room = Room::new(split_mesh(HERE, 1));
    let chain = ActorId::data(TenantId(7), HERE);
    let ingress = crate::fate::Hosted { epoch: Epoch(1), phase: Phase::Running };
    // Whether it plans, and whether it starts the chain, which fails.
    let mut looks = |millis| {
        room.passes(millis);
        let own = Observed { hosted: [(ActorId::ingress(HERE), ingress)].into(), ..leading() };
        let (mut plans, mut fails) = (false, false);
        for act in room.steward.on(Event::Observed(Box::new(own)), room.now) {
            match act {
                Act::Plan(study) => {
                    plans = true;
                    room.on(Event::Planned(Box::new(study.carry_out())));
                }
                Act::Actor(actor, _) => {
                    fails |= actor == chain;
                    room.on(Event::Ended(Key::Actor(actor), Err(Error::invalid("as planned"))));
                }
                _ => {}
            }
        }
        (plans, fails)
    };
    assert_eq!([looks(1), looks(1)], [(true, true), (false, false)]);
    assert_eq!([looks(500), looks(1)], [(false, true), (false, false)]);
    assert_eq!([looks(1000), looks(1), looks(1)], [(true, true), (false, false), (true, false)], "the third time");
}
