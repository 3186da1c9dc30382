//! Nodes that leave.

use mesh_core::{
    assignment::{Assignment, Preference, Scope, Tail, Wish},
    id::{DriveId, NodeId},
    meta::{ControlView, Level},
    topology::{Departure, Layout, Leaving, NodeInfo, NodeKind},
};

use super::{
    control::{control_view, furnished, layout, node},
    *,
};

fn leave(node: u64, leaving: bool) -> MeshCommand {
    MeshCommand::LeaveNode { node: NodeId(node), leaving }
}

/// `lost`: it does not come back; else its drives were judged by layout 2.
fn remove(node: u64, lost: bool) -> MeshCommand {
    MeshCommand::RemoveNode { node: NodeId(node), empty: (!lost).then_some(LayoutId(2)) }
}

/// Nodes 1, 2 and 3, each with a drive of its number, one layout of all, and two nodes that have no drives.
fn able() -> Group {
    let mut group = furnished();
    for id in [5, 6] {
        assert_eq!(group.apply(&MeshCommand::PutNode(node(id, 1))), Ok(MetaAnswer::Done));
    }
    assert_eq!(group.once(&leave(3, true)), Err(ErrorKind::Unsupported), "not all can do that");
    assert_eq!(group.apply(&MeshCommand::RaiseLevel(Level::LEAVES)), Ok(MetaAnswer::Done));
    let first = Layout { line: 1, ..layout(1) };
    assert_eq!(group.once(&MeshCommand::PutLayout(first.into())), Ok(MetaAnswer::Done));
    group
}

fn leaving(view: &ControlView) -> Vec<(u64, Leaving)> {
    view.leaving.iter().map(|(drive, why)| (drive.0, *why)).collect()
}

fn departures(view: &ControlView) -> Vec<(u64, Departure)> {
    view.departures.iter().map(|(node, how)| (node.0, *how)).collect()
}

#[test]
fn who_leaves_is_emptied_with_all_its_drives_unless_that_is_taken_back() {
    let mut group = able();
    let before = control_view(&group);
    assert_eq!(group.apply(&leave(9, true)), Err(ErrorKind::NotFound));
    assert_eq!(group.apply(&leave(3, false)), Ok(MetaAnswer::Done));
    assert_eq!(*control_view(&group), *before);
    assert_eq!(group.apply(&leave(3, true)), Ok(MetaAnswer::Done));
    let view = control_view(&group);
    assert_eq!(departures(&view), [(3, Departure::Asked)]);
    assert!(view.nodes[&NodeId(3)].draining && !view.is_out(NodeId(3)));
    assert_eq!(leaving(&view), [(3, Leaving::Asked)]);
    // Its parts stay as it is said of the whole, and another one waits until there is a layout without these.
    let stays = MeshCommand::DrainDrive { drive: DriveId(3), draining: false };
    assert_eq!(group.apply(&stays), Err(ErrorKind::Conflict));
    assert_eq!(group.apply(&MeshCommand::Drain { node: NodeId(3), draining: false }), Err(ErrorKind::Conflict));
    assert_eq!(group.apply(&leave(2, true)), Err(ErrorKind::Conflict));
    assert_eq!(group.apply(&MeshCommand::PutNode(node(3, 2))), Ok(MetaAnswer::Done), "it starts again meanwhile");
    // A drive that it registers now leaves as well.
    let new = MeshCommand::PutDrive { drive: DriveId(7), node: NodeId(3), capacity_bytes: 10 };
    assert_eq!(group.once(&new), Ok(MetaAnswer::Epoch(Epoch(1))));
    let view = control_view(&group);
    assert!(view.nodes[&NodeId(3)].draining);
    assert_eq!(leaving(&view), [(3, Leaving::Asked), (7, Leaving::Asked)]);
    assert_eq!(group.apply(&leave(3, false)), Ok(MetaAnswer::Done));
    let view = control_view(&group);
    assert!(view.departures.is_empty() && view.leaving.is_empty() && !view.nodes[&NodeId(3)].draining);
}

#[test]
fn what_was_said_of_drives_that_are_away_stays_and_its_dpus_are_emptied_with_it() {
    let mut group = able();
    let dpu = NodeInfo { kind: NodeKind::Dpu, attached_to: Some(NodeId(3)), ..node(4, 1) };
    assert_eq!(group.apply(&MeshCommand::PutNode(dpu)), Ok(MetaAnswer::Done));
    let put = |out| MeshCommand::PutOut { drives: vec![DriveId(3)], out };
    assert_eq!(group.apply(&put(true)), Ok(MetaAnswer::Done));
    assert_eq!(group.apply(&leave(3, true)), Ok(MetaAnswer::Done));
    let view = control_view(&group);
    assert_eq!(leaving(&view), [(3, Leaving::Away)]);
    assert!(view.nodes[&NodeId(4)].draining);
    assert_eq!(group.apply(&leave(3, false)), Ok(MetaAnswer::Done));
    let view = control_view(&group);
    assert_eq!(leaving(&view), [(3, Leaving::Away)]);
    assert!(!view.nodes[&NodeId(4)].draining);
    // It is back while its node leaves, and leaves with it.
    assert_eq!(group.apply(&leave(3, true)), Ok(MetaAnswer::Done));
    assert_eq!(group.apply(&put(false)), Ok(MetaAnswer::Done));
    assert_eq!(leaving(&control_view(&group)), [(3, Leaving::Asked)]);
    // Another node's drive that is put into it leaves as well.
    let moved = MeshCommand::PutDrive { drive: DriveId(2), node: NodeId(3), capacity_bytes: 10 };
    assert_eq!(group.once(&moved), Ok(MetaAnswer::Epoch(Epoch(2))));
    assert_eq!(leaving(&control_view(&group)), [(2, Leaving::Asked), (3, Leaving::Asked)]);
}

#[test]
fn enough_hosts_are_left_to_vote() {
    let mut group = able();
    for (host, decided) in [(5, Ok(MetaAnswer::Done)), (6, Ok(MetaAnswer::Done)), (3, Err(ErrorKind::Conflict))] {
        assert_eq!(group.apply(&leave(host, true)), decided, "{host}");
    }
    for host in [5, 6, 3] {
        assert_eq!(group.apply(&remove(host, true)), Ok(MetaAnswer::Done));
    }
    // One of two is as good as both, and the last one stays.
    assert_eq!(group.apply(&leave(2, true)), Ok(MetaAnswer::Done));
    assert_eq!(group.apply(&leave(1, true)), Err(ErrorKind::Conflict));
}

#[test]
fn an_older_build_holds_nobody_back_once_it_is_lost() {
    let mut group = furnished();
    let old = |id| MeshCommand::PutNode(NodeInfo { level: Level::DRAINS, ..node(id, 2) });
    assert_eq!(group.apply(&old(3)), Ok(MetaAnswer::Done));
    assert_eq!(group.apply(&leave(2, true)), Err(ErrorKind::Unsupported));
    assert_eq!(group.apply(&remove(2, true)), Err(ErrorKind::Unsupported), "another one could not read that");
    assert_eq!(group.apply(&remove(3, false)), Err(ErrorKind::Unsupported));
    assert_eq!(group.apply(&remove(3, true)), Ok(MetaAnswer::Done));
    assert_eq!(group.apply(&MeshCommand::RaiseLevel(Level::LEAVES)), Ok(MetaAnswer::Done));
}

#[test]
fn who_is_empty_is_taken_out_with_all_that_spoke_of_it() {
    let mut group = able();
    let chain = |tenant: u64, ingress: u64| ActorId::data(TenantId(tenant), NodeId(ingress));
    for (ingress, on) in [(1, 3), (3, 1)] {
        let place = Assignment::new(chain(1, ingress), NodeId(on), Epoch(1));
        assert_eq!(group.once(&MeshCommand::Assign(place)), Ok(MetaAnswer::Epoch(Epoch(1))));
    }
    let tail = |node| MeshCommand::SetTail {
        actor: chain(1, 3),
        epoch: Epoch(1),
        tail: Some(Tail { cut: 2, node: NodeId(node) }),
    };
    assert_eq!(group.once(&tail(2)), Ok(MetaAnswer::Done));
    let pin = |pin| Some(Wish { preference: Preference::Auto, pin: Some(NodeId(pin)) });
    for (scope, wish) in [(Scope::Mesh, pin(3)), (Scope::Actor(chain(1, 3)), pin(1)), (Scope::Tenant(TENANT), pin(1))] {
        assert_eq!(group.once(&MeshCommand::SetWish { scope, wish }), Ok(MetaAnswer::Done));
    }
    let dpu = NodeInfo { kind: NodeKind::Dpu, attached_to: Some(NodeId(3)), ..node(4, 1) };
    assert_eq!(group.apply(&MeshCommand::PutNode(dpu.clone())), Ok(MetaAnswer::Done));

    assert_eq!(group.apply(&remove(9, false)), Err(ErrorKind::NotFound));
    assert_eq!(group.apply(&remove(3, false)), Err(ErrorKind::Conflict), "it is in use");
    assert_eq!(group.apply(&leave(3, true)), Ok(MetaAnswer::Done));
    assert_eq!(group.apply(&remove(3, false)), Err(ErrorKind::Conflict), "another's chain is there");
    let epoch = Epoch(2);
    assert!(group.once(&MeshCommand::Assign(Assignment::new(chain(1, 1), NodeId(2), epoch))).is_ok());
    assert_eq!(group.apply(&remove(3, false)), Err(ErrorKind::Conflict), "a layout has its drive, and 2 is none");
    let drives = [1, 2].map(DriveId);
    let second = Layout {
        id: LayoutId(2),
        line: 1,
        groups: vec![[1, 2, 5].map(DriveId).to_vec()],
        domains: drives.into_iter().chain([DriveId(5)]).map(|drive| (drive, NodeId(drive.0))).collect(),
        ..layout(2)
    };
    let fifth = MeshCommand::PutDrive { drive: DriveId(5), node: NodeId(5), capacity_bytes: 10 };
    assert_eq!(group.once(&fifth), Ok(MetaAnswer::Epoch(Epoch(1))));
    assert_eq!(group.once(&MeshCommand::PutLayout(second.into())), Ok(MetaAnswer::Done));
    assert_eq!(group.apply(&MeshCommand::FencedNode { node: NodeId(3) }), Err(ErrorKind::Conflict));
    let ingress = ActorId::ingress(NodeId(3));
    let open = |session| Command::OpenSession { group: GroupId::CONTROL, actor: ingress, session };
    assert_eq!(group.apply(&open(session(5))), Ok(MetaAnswer::Done));
    assert_eq!(group.apply(&remove(3, false)), Ok(MetaAnswer::Done));

    let view = control_view(&group);
    assert_eq!(departures(&view), [(3, Departure::Out), (4, Departure::Out)]);
    assert_eq!(view.nodes.keys().map(|node| node.0).collect::<Vec<_>>(), [1, 2, 5, 6]);
    assert_eq!(view.assignments.keys().copied().collect::<Vec<_>>(), [chain(1, 1)]);
    assert!(view.tails.is_empty());
    assert_eq!(view.wishes.keys().copied().collect::<Vec<_>>(), [Scope::Tenant(TENANT)]);
    assert!(view.lost.contains_key(&DriveId(3)));
    // Nothing that it says counts any more, and nobody gets its number.
    assert_eq!(group.apply(&open(session(6))), Err(ErrorKind::Fenced));
    for back in [node(3, 9), dpu] {
        assert_eq!(group.apply(&MeshCommand::PutNode(back)), Err(ErrorKind::Conflict));
    }
    for again in [leave(3, true), leave(3, false), MeshCommand::Invite { node: NodeId(3), invitation: 7 }] {
        assert_eq!(group.apply(&again), Err(ErrorKind::Conflict));
    }
    let drive = MeshCommand::PutDrive { drive: DriveId(8), node: NodeId(3), capacity_bytes: 10 };
    assert_eq!(group.once(&drive), Err(ErrorKind::Invalid));
    assert_eq!(group.apply(&MeshCommand::FencedNode { node: NodeId(3) }), Ok(MetaAnswer::Done));
    assert_eq!(control_view(&group).departures.get(&NodeId(3)), Some(&Departure::Fenced));
    assert_eq!(group.apply(&remove(3, true)), Ok(MetaAnswer::Done));
}

#[test]
fn who_does_not_come_back_goes_with_its_drives() {
    let mut group = able();
    assert_eq!(group.apply(&remove(2, true)), Ok(MetaAnswer::Done));
    let view = control_view(&group);
    assert!(view.is_out(NodeId(2)) && view.lost.contains_key(&DriveId(2)) && view.drives.len() == 2);
    // Those that leave meanwhile are those of others.
    assert_eq!(group.apply(&leave(3, true)), Ok(MetaAnswer::Done));
    assert_eq!(group.apply(&remove(3, true)), Ok(MetaAnswer::Done));
    assert!(control_view(&group).leaving.is_empty());
}
