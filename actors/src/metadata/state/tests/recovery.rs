//! Groups that go on from less than they had.

use mesh_core::{
    assignment::{Assignment, Tail},
    id::{DriveId, Incarnation, NodeId},
    limits::WRITE_BLOCK,
    meta::Level,
    op::Recovery,
    topology::{Departure, Layout, NodeInfo, NodeKind},
};

use super::{
    super::{control_after, recover},
    control::{control_view, furnished, layout, node, tenant},
    *,
};

impl Group {
    fn recover(&mut self, recovery: &Recovery) -> Result<(), ErrorKind> {
        let changes = recover(&self.table, self.id, recovery).map_err(|error| error.kind())?;
        let before = (self.id == GroupId::CONTROL).then(|| control_view(self));
        let after = before.map(|before| control_after(&before, &changes).expect("changes that can be read"));
        self.table.commit(changes);
        if let Some(after) = after {
            assert_eq!(after.expect("it changes something"), *control_view(self));
        }
        Ok(())
    }
}

fn lost(nodes: &[u64]) -> Recovery {
    Recovery { lost: nodes.iter().copied().map(NodeId).collect(), anew: false }
}

fn chain(tenant: u64, ingress: u64) -> ActorId {
    ActorId::data(TenantId(tenant), NodeId(ingress))
}

#[test]
fn nothing_is_given_out_twice_that_nobody_knows_of() {
    let mut group = furnished();
    assert_eq!(group.apply(&MeshCommand::RaiseLevel(Level::REPLICAS)), Ok(MetaAnswer::Done));
    let first = layout(1);
    assert_eq!(group.once(&MeshCommand::PutLayout(first.clone().into())), Ok(MetaAnswer::Done));
    let place = Assignment::new(chain(1, 1), NodeId(1), Epoch(1));
    assert_eq!(group.once(&MeshCommand::Assign(place)), Ok(MetaAnswer::Epoch(Epoch(1))));
    let before = control_view(&group);
    group.recover(&lost(&[])).expect("recovered");
    let view = control_view(&group);
    assert_eq!((&view.nodes, &view.drives, view.level), (&before.nodes, &before.drives, Level::RECOVERY));
    // The same layout under a number that no lost one had; the next one follows it.
    let newest = LayoutId(1 + (1 << 20));
    assert_eq!(view.layouts.keys().copied().collect::<Vec<_>>(), [LayoutId(1), newest]);
    assert_eq!(*view.layouts[&newest], Layout { id: newest, ..first.clone() });
    let put = |id: u64| MeshCommand::PutLayout(Layout { id: LayoutId(id), ..first.clone() }.into());
    assert_eq!(group.apply(&put(2)), Err(ErrorKind::Conflict));
    for next in 1..=9 {
        assert_eq!(group.apply(&put(newest.0 + next + 1)), Err(ErrorKind::Conflict));
        assert_eq!(group.apply(&put(newest.0 + next)), Ok(MetaAnswer::Done));
    }
    // The chain's owner is one that nobody has been; a late word to the one before is of no effect.
    let row = control_view(&group).assignments[&chain(1, 1)];
    assert_eq!((row.node, row.epoch, row.moving), (NodeId(1), Epoch(1 + (1 << 20)), None));
    let again = MeshCommand::Assign(Assignment::new(chain(1, 1), NodeId(2), Epoch(2)));
    assert_eq!(group.apply(&again), Err(ErrorKind::Conflict));
    let Ok(MetaAnswer::Tenant(made)) = group.apply(&tenant("other", 2)) else { panic!("no tenant") };
    assert_eq!(made.id, TenantId(1 + (1 << 16) + 1));
    // Once more: it leaps again.
    group.recover(&lost(&[])).expect("recovered");
    let view = control_view(&group);
    assert_eq!(view.layouts.last_key_value().expect("a layout").0.0, newest.0 + 9 + (1 << 20));
    assert_eq!(view.assignments[&chain(1, 1)].epoch, Epoch(1 + (2 << 20)));
}

#[test]
fn who_is_lost_is_out_with_drives_and_dpus_and_chains_go_where_they_come_in() {
    let mut group = furnished();
    let dpu = NodeInfo { kind: NodeKind::Dpu, attached_to: Some(NodeId(3)), ..node(4, 1) };
    assert_eq!(group.apply(&MeshCommand::PutNode(dpu)), Ok(MetaAnswer::Done));
    for (ingress, on) in [(1, 3), (2, 4), (3, 1)] {
        let place = Assignment::new(chain(1, ingress), NodeId(on), Epoch(1));
        assert_eq!(group.once(&MeshCommand::Assign(place)), Ok(MetaAnswer::Epoch(Epoch(1))));
    }
    let tail = Some(Tail { cut: 2, node: NodeId(4) });
    let tail = MeshCommand::SetTail { actor: chain(1, 1), epoch: Epoch(1), tail };
    assert_eq!(group.once(&tail), Ok(MetaAnswer::Done));
    group.recover(&lost(&[3])).expect("recovered");
    let view = control_view(&group);
    let departures: Vec<_> = view.departures.iter().map(|(node, how)| (node.0, *how)).collect();
    assert_eq!(departures, [(3, Departure::Out), (4, Departure::Out)]);
    assert_eq!(view.lost.keys().copied().collect::<Vec<_>>(), [DriveId(3)]);
    assert!(view.tails.is_empty());
    let at: Vec<_> = view.assignments.values().map(|row| (row.actor, row.node)).collect();
    assert_eq!(at, [(chain(1, 1), NodeId(1)), (chain(1, 2), NodeId(2))]);
    // It was out already, or never was there: the rest is done.
    group.recover(&lost(&[3, 9])).expect("recovered");
    assert_eq!(group.clone().recover(&lost(&[1, 2])), Err(ErrorKind::Invalid), "nobody would be left");
}

#[test]
fn who_runs_an_older_build_is_lost_or_upgraded_first() {
    let mut group = furnished();
    let old = MeshCommand::PutNode(NodeInfo { level: Level::REPLICAS, ..node(3, 2) });
    assert_eq!(group.apply(&old), Ok(MetaAnswer::Done));
    assert_eq!(group.clone().recover(&lost(&[2])), Err(ErrorKind::Unsupported));
    group.recover(&lost(&[3])).expect("it does not come back");
    assert_eq!(control_view(&group).level, Level::RECOVERY);
}

#[test]
fn a_drive_tells_its_group_of_an_owner_that_it_has_forgotten() {
    let mut group = furnished();
    let start = Incarnation(1);
    let take = |after| MeshCommand::TakeDrive {
        drive: DriveId(3),
        node: NodeId(3),
        start,
        capacity_bytes: 10,
        after: Epoch(after),
        instead_of: None,
    };
    assert_eq!(group.apply(&take(5)), Err(ErrorKind::Conflict), "groups forget nothing");
    group.recover(&lost(&[])).expect("recovered");
    assert_eq!(group.apply(&take(5)), Ok(MetaAnswer::Epoch(Epoch(6))));
    assert_eq!(group.apply(&take(6)), Ok(MetaAnswer::Epoch(Epoch(7))));
    assert_eq!(group.apply(&take(5)), Err(ErrorKind::Conflict), "that one was before");
    // One that was taken in since, too.
    let new = MeshCommand::TakeDrive {
        drive: DriveId(30),
        node: NodeId(3),
        start,
        capacity_bytes: 10,
        after: Epoch(2),
        instead_of: None,
    };
    assert_eq!(group.apply(&new), Ok(MetaAnswer::Epoch(Epoch(3))));
}

#[test]
fn writes_leap_behind_all_that_can_have_been_begun() {
    let mut group = Group::namespace();
    let first = group.open_block(1);
    assert_eq!(first, WriteId::new(NAMESPACE, 0));
    group.recover(&lost(&[])).expect("recovered");
    let leap = 1 << 40;
    assert_eq!(group.open_block(1), WriteId::new(NAMESPACE, WRITE_BLOCK + leap));
    // What is between is begun by nobody, and may be somebody's garbage.
    assert_eq!(group.referenced(&[WriteId::new(NAMESPACE, WRITE_BLOCK)]), [false]);
    assert!(group.apply(&put("a", object(first, 5, 1))).is_ok(), "who holds a block that is known goes on");
    // Of one of which nothing is left nobody knows whether it has leapt before.
    let mut anew = Group::namespace();
    anew.recover(&Recovery { lost: Vec::new(), anew: true }).expect("recovered");
    assert_eq!(anew.open_block(1), WriteId::new(NAMESPACE, (1 << 47) + leap));
}
