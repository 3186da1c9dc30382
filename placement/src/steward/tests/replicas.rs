//! Which replicas a node begins, gives away and removes.

use mesh_core::topology::{Code, Replicas};

use super::*;

/// A mesh of six hosts with eight groups, each of three; one that this node is to have, and one that it is not.
fn six() -> (ControlView, [GroupId; 2]) {
    let control = ControlView { namespaces: 8, code: Some(Code { data: 2, parity: 1 }), ..mesh(&[1, 2, 3, 4, 5, 6]) };
    let replicas = Replicas::of(&control).expect("of this level");
    let is_here = |group: &GroupId| replicas.hosts(*group).is_some_and(|hosts| hosts.contains(&HERE));
    let (here, elsewhere): (Vec<_>, Vec<_>) = (1..=8).map(GroupId).partition(is_here);
    (control, [here[0], elsewhere[0]])
}

/// Replicas of the control group and this one, which voters of these nodes have and that leads.
fn has(id: GroupId, leader: NodeId, voters: &BTreeSet<NodeId>) -> Observed {
    let of = |id, leader: NodeId| {
        let voters: Vec<u64> = voters.iter().map(|voter| voter.0).collect();
        let own = group(1, &voters);
        let report = GroupReport { group: id, leader: Some(leader), ..own.report };
        Group { report, leads: leader == HERE, caught_up: own.voters.clone(), ..group(1, &voters) }
    };
    let groups = vec![of(GroupId::CONTROL, NodeId(9)), of(id, leader)];
    Observed { kept: [GroupId::CONTROL, id].into(), groups, ..Observed::default() }
}

fn wants(room: &mut Room, own: Observed, what: &str) -> Vec<String> {
    room.observes(own).into_iter().filter(|act| act.starts_with(what)).collect()
}

/// Another node, which leads this group with these voters.
fn leads(node: u64, id: GroupId, voters: &[u64], version: u64) -> Event {
    let voters = voters.iter().map(|node| ReplicaId::new(NodeId(*node), 1)).collect();
    let groups = vec![GroupReport { group: id, leader: Some(NodeId(node)), voters, ..group(node, &[]).report }];
    Event::Heard(introduces(NodeReport { groups, ..report(node) }, version), Instant(0))
}

#[test]
fn a_host_begins_the_replicas_that_it_is_to_have_and_opens_those_that_it_keeps() {
    let (control, [_, elsewhere]) = six();
    let replicas = Replicas::of(&control).expect("of this level");
    let own = (1..=8).map(GroupId).filter(|group| replicas.hosts(*group).is_some_and(|hosts| hosts.contains(&HERE)));
    let mut expected: Vec<String> = own.map(|group| format!("Ensure({group})")).collect();
    let mut observed = has(GroupId::CONTROL, OTHER, &[HERE, OTHER].into());
    observed.groups.truncate(1);
    assert_eq!(wants(&mut Room::new(control.clone()), observed.clone(), "Ensure"), expected);
    // What it is not to have is there all the same: others rely on it until it is removed.
    observed.kept.insert(elsewhere);
    expected.push(format!("Ensure({elsewhere})"));
    expected.sort();
    assert_eq!(wants(&mut Room::new(control.clone()), observed.clone(), "Ensure"), expected);
    // Before all nodes know of that, it has all of them; and a DPU none.
    observed.kept.clear();
    let before = ControlView { level: mesh_core::meta::Level(7), ..control.clone() };
    assert_eq!(wants(&mut Room::new(before.clone()), observed.clone(), "Ensure").len(), 8);
    for mut view in [before, control] {
        view.nodes.extend([(HERE, NodeInfo { kind: NodeKind::Dpu, ..host(1) })]);
        let mut room = Room::new(view);
        room.steward.here.info.kind = NodeKind::Dpu;
        assert_eq!(wants(&mut room, observed.clone(), "Ensure"), [""; 0]);
    }
}

#[test]
fn a_replica_is_removed_once_who_leads_the_group_says_that_it_does_not_vote() {
    let (control, [here, elsewhere]) = six();
    let voters: BTreeSet<NodeId> = [HERE, OTHER, NodeId(3)].into();
    let mut room = Room::new(control.clone());
    assert_eq!(wants(&mut room, has(elsewhere, OTHER, &voters), "Retire"), [""; 0], "nobody says that he leads");
    room.on(leads(2, elsewhere, &[1, 2, 3], 1));
    assert_eq!(wants(&mut room, has(elsewhere, OTHER, &voters), "Retire"), [""; 0], "it votes");
    room.on(leads(2, elsewhere, &[2, 3, 4], 2));
    let retire = [format!("Retire({elsewhere})")];
    assert_eq!(wants(&mut room, has(elsewhere, OTHER, &voters), "Retire"), retire);
    assert_eq!(wants(&mut room, has(elsewhere, OTHER, &voters), "Retire"), [""; 0], "it is under way");
    // What is not there for that is not begun meanwhile.
    let mut gone = has(elsewhere, OTHER, &voters);
    gone.groups.truncate(1);
    assert!(!wants(&mut room, gone, "Ensure").contains(&format!("Ensure({elsewhere})")));
    // Damaged metadata are made anew as a whole.
    let mut room = Room::new(control.clone());
    room.on(leads(2, elsewhere, &[2, 3, 4], 1));
    let damaged = Observed { damage: Some(Ok(BTreeSet::new())), ..has(elsewhere, OTHER, &voters) };
    assert_eq!(wants(&mut room, damaged, "Retire"), [""; 0]);
    // Who leads a mesh that came from a backup says nothing of this one, of whose replicas it knows none.
    let timeline = Timeline { chance: 1, ..Timeline::default() };
    for (restored, is_asked) in [(Timeline::default(), true), (timeline, false)] {
        let said = GroupReport { group: elsewhere, leader: Some(OTHER), timeline, restored, ..group(2, &[]).report };
        let groups = vec![GroupReport { voters: vec![ReplicaId::new(OTHER, 1)], ..said }];
        let mut room = Room::new(control.clone());
        room.on(Event::Heard(introduces(NodeReport { groups, ..report(2) }, 1), Instant(0)));
        let asked = wants(&mut room, has(elsewhere, OTHER, &voters), "Retire");
        assert_eq!(asked, retire.iter().filter(|_| is_asked).cloned().collect::<Vec<_>>());
    }
    // What it is to have it has.
    let mut room = Room::new(control);
    room.on(leads(2, here, &[2, 3, 4], 1));
    assert_eq!(wants(&mut room, has(here, OTHER, &voters), "Retire"), [""; 0]);
}

#[test]
fn who_leads_a_group_that_others_are_to_have_gives_that_to_one_of_them() {
    let (control, [here, elsewhere]) = six();
    let hosts = Replicas::of(&control).expect("of this level").hosts(elsewhere).cloned().expect("it is a group");
    let (heir, guest) = (*hosts.first().expect("three"), (1..=6).map(NodeId).find(|node| !hosts.contains(node)));
    assert_eq!(guest, Some(HERE));
    let third = (2..=6).map(NodeId).find(|node| !hosts.contains(node)).expect("six");
    let hands_over = |id, voters: BTreeSet<NodeId>| {
        let mut room = Room::new(control.clone());
        for node in 2..=6 {
            room.on(Event::Heard(beat(node), room.now));
        }
        wants(&mut room, has(id, HERE, &voters), "HandOver")
    };
    assert_eq!(hands_over(elsewhere, [HERE, third, heir].into()), [format!("HandOver({elsewhere}, {heir})")]);
    assert_eq!(hands_over(elsewhere, [HERE, third].into()), [""; 0], "who is to have it no more than this one");
    assert_eq!(hands_over(here, [HERE, third, heir].into()), [""; 0]);
}
