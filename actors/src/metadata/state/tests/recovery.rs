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
    super::{control_after, history, recover},
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

/// So many seconds after the time from which counters go on.
fn at(seconds: u64) -> UnixMillis {
    UnixMillis(1_704_067_200_000 + seconds * 1000)
}

fn lost(nodes: &[u64]) -> Recovery {
    Recovery { lost: nodes.iter().copied().map(NodeId).collect(), at: at(0), chance: 0, restores: false, by: None }
}

fn chain(tenant: u64, ingress: u64) -> ActorId {
    ActorId::data(TenantId(tenant), NodeId(ingress))
}

/// What a group gives out next: a layout's number, a chain's epoch, a tenant.
fn next(group: &mut Group, name: &str) -> [u64; 3] {
    let view = control_view(group);
    let layout = view.layouts.last_key_value().expect("a layout").0.0;
    let epoch = view.assignments[&chain(1, 1)].epoch.0;
    let Ok(MetaAnswer::Tenant(made)) = group.apply(&tenant(name, 2)) else { panic!("no tenant") };
    [layout, epoch, made.id.0]
}

/// A chain, and a layout.
fn used() -> (Group, Layout) {
    let mut group = furnished();
    assert_eq!(group.apply(&MeshCommand::RaiseLevel(Level::REPLICAS)), Ok(MetaAnswer::Done));
    let first = layout(1);
    assert_eq!(group.once(&MeshCommand::PutLayout(first.clone().into())), Ok(MetaAnswer::Done));
    let place = Assignment::new(chain(1, 1), NodeId(1), Epoch(1));
    assert_eq!(group.once(&MeshCommand::Assign(place)), Ok(MetaAnswer::Epoch(Epoch(1))));
    (group, first)
}

#[test]
fn nothing_is_given_out_twice_that_nobody_knows_of() {
    let (mut group, first) = used();
    let before = control_view(&group);
    group.recover(&lost(&[])).expect("recovered");
    let view = control_view(&group);
    assert_eq!((&view.nodes, &view.drives, view.level), (&before.nodes, &before.drives, Level::LOSSES));
    // The same layout under a number that no lost one had; the next one follows it.
    let newest = LayoutId(1 + (1 << 12));
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
    assert_eq!(next(&mut group, "other"), [newest.0 + 9, 1 + (1 << 20), 1 + (1 << 10) + 1]);
    // Once more: it leaps again.
    group.recover(&lost(&[])).expect("recovered");
    assert_eq!(next(&mut group, "third"), [newest.0 + 9 + (1 << 12), 1 + (2 << 20), 2 + (2 << 10) + 1]);
}

/// Each is later than the one before, whatever the clocks say; and a group that went through none is of the first one.
#[test]
fn every_recovery_begins_a_timeline_of_its_own() {
    for mut group in [used().0, Group::namespace()] {
        let of = |group: &Group| history(&group.table, group.id).expect("it can be read").timeline;
        assert!(of(&group).is_first());
        let mut seen = vec![of(&group)];
        for (seconds, chance) in [(9, 1), (5, 2), (9, 0), (10, 0)] {
            group.recover(&Recovery { at: at(seconds), chance, ..lost(&[]) }).expect("recovered");
            seen.push(of(&group));
        }
        assert!(seen.is_sorted_by(|before, after| before < after), "{seen:?}");
        assert_eq!((seen[1].at, seen[1].chance), (at(9), 1));
        // By a slow clock it leaps, so that what goes on from there is behind all that went on before.
        assert_eq!(seen[4].at.0 - seen[1].at.0, 3 * (1000 << 25));
        // One from a backup leaves behind all that is of an earlier one, and is so for good.
        group.recover(&Recovery { restores: true, ..lost(&[]) }).expect("recovered");
        let restored = of(&group);
        group.recover(&lost(&[])).expect("recovered");
        let history = history(&group.table, group.id).expect("it can be read");
        assert_eq!((history.restored, seen[4] < restored, restored < history.timeline), (restored, true, true));
    }
}

#[test]
fn the_same_state_recovered_twice_gives_out_nothing_twice() {
    let (group, first) = used();
    let (year, day) = (365 * 86_400, 86_400);
    let mut given = Vec::new();
    // Restored from one backup, used for a day, and restored again; and once more at a later time.
    for seconds in [3 * year, 3 * year + day, 4 * year] {
        let mut group = group.clone();
        let recovery = Recovery { at: at(seconds), ..lost(&[]) };
        group.recover(&recovery).expect("recovered");
        let newest = control_view(&group).layouts.last_key_value().expect("a layout").0.0;
        for more in 1..=100 {
            let layout = Layout { id: LayoutId(newest + more), ..first.clone() };
            assert_eq!(group.once(&MeshCommand::PutLayout(layout.into())), Ok(MetaAnswer::Done));
        }
        let now = next(&mut group, "other");
        assert!(given.last().is_none_or(|before: &[u64; 3]| before.iter().zip(&now).all(|(before, now)| before < now)));
        given.push(now);
    }
    let mut writes = 0;
    for seconds in [3 * year, 3 * year + day] {
        let mut group = Group::namespace();
        group.recover(&Recovery { at: at(seconds), ..lost(&[]) }).expect("recovered");
        let first = group.open_block(1);
        assert!(first.0 - WriteId::new(NAMESPACE, 0).0 > writes);
        // As fast as nobody is for a day.
        writes = first.0 - WriteId::new(NAMESPACE, 0).0 + day * 60 * WRITE_BLOCK;
    }
    // Where the clock says less than is known, chance decides.
    let by_chance = |chance| {
        let mut group = Group::namespace();
        group.recover(&Recovery { chance, ..lost(&[]) }).expect("recovered");
        (group.open_block(1).0 - WriteId::new(NAMESPACE, 0).0) / WRITE_BLOCK
    };
    assert_eq!([0, 7, u64::MAX].map(by_chance), [1 << 20, (1 << 20) + 7, (1 << 20) + (1 << 30) - 1]);
    // And where it says more, two recoveries from one state are apart by chance, too.
    let [one, other] = [5, 1 << 20].map(|chance| {
        let mut group = Group::namespace();
        group.recover(&Recovery { at: at(3 * year), chance, ..lost(&[]) }).expect("recovered");
        (group.open_block(1).0 - WriteId::new(NAMESPACE, 0).0) / WRITE_BLOCK
    });
    assert_eq!(other - one, (1 << 20) - 5);
    assert!(given[2][2] < 1 << 28, "tenants are numbered in 28 bits: {given:?}");
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
fn the_mesh_does_from_then_on_what_builds_do_that_can_recover() {
    let mut group = furnished();
    let of = |level, incarnation| MeshCommand::PutNode(NodeInfo { level, ..node(3, incarnation) });
    assert_eq!(group.apply(&of(Level::REPLICAS, 2)), Ok(MetaAnswer::Done));
    // It was upgraded since, or is away: nobody could say so without a majority.
    group.recover(&lost(&[2])).expect("recovered");
    let view = control_view(&group);
    assert_eq!((view.level, view.nodes[&NodeId(3)].level), (Level::LOSSES, Level::LOSSES));
    assert_eq!(group.apply(&of(Level::REPLICAS, 3)), Err(ErrorKind::Unsupported), "and is turned away if not");
    assert_eq!(group.apply(&of(Level::LOSSES, 3)), Ok(MetaAnswer::Done));
}

#[test]
fn who_is_lost_holds_no_recovery_back_with_the_build_that_it_ran() {
    let mut group = furnished();
    for (id, level) in [(1, Level::FIRST), (2, Level::DRAINS), (3, Level::FIRST)] {
        let older = MeshCommand::PutNode(NodeInfo { level, ..node(id, 2) });
        assert_eq!(group.apply(&older), Ok(MetaAnswer::Done));
    }
    group.recover(&lost(&[2, 3])).expect("neither of them is asked any more");
    let view = control_view(&group);
    assert_eq!((view.level, view.nodes.keys().copied().collect::<Vec<_>>()), (Level::LOSSES, vec![NodeId(1)]));
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
    let leap = 1 << 32;
    assert_eq!(group.open_block(1), WriteId::new(NAMESPACE, WRITE_BLOCK + leap));
    // What is between is begun by nobody, and may be somebody's garbage.
    assert_eq!(group.referenced(&[WriteId::new(NAMESPACE, WRITE_BLOCK)]), [false]);
    assert!(group.apply(&put("a", object(first, 5, 1))).is_ok(), "who holds a block that is known goes on");
    // Of one of which nothing is left only the time says how much it may have been.
    let mut anew = Group::namespace();
    anew.recover(&Recovery { at: at(1_000_000), ..lost(&[]) }).expect("recovered");
    assert_eq!(anew.open_block(1), WriteId::new(NAMESPACE, 64_000_000 * WRITE_BLOCK));
}
