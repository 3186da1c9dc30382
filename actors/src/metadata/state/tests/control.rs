use std::collections::BTreeMap;

use mesh_core::{
    id::{ClusterId, DriveId, Incarnation, KeyId, NodeId},
    meta::{
        AccessKeyRow, BucketRow, BucketSettings, Compression, Grant, Level, PrincipalRow, TenantLimits, TenantRow,
        WrappedKey,
    },
    topology::{Code, CodeGroups, DriveInfo, Layout, Leaving, NodeInfo, NodeKind},
};

use super::*;

const CODE: Code = Code { data: 2, parity: 1 };

fn wrapped(byte: u8) -> WrappedKey {
    WrappedKey { key: KeyId(0), nonce: [byte; 12], sealed: vec![byte; 48] }
}

pub(super) fn tenant(name: &str, byte: u8) -> MeshCommand {
    MeshCommand::CreateTenant(TenantRow {
        id: TenantId(0),
        name: name.to_owned(),
        key: KeyId(0),
        wrapped: wrapped(byte),
        limits: TenantLimits::default(),
    })
}

pub(super) fn node(id: u64, incarnation: u64) -> NodeInfo {
    NodeInfo {
        id: NodeId(id),
        kind: NodeKind::Host,
        address: format!("127.0.0.1:{id}"),
        incarnation: Incarnation(incarnation),
        pid: 1,
        draining: false,
        attached_to: None,
        emulated: None,
        life: 1,
        invitation: 0,
        level: mesh_core::meta::LEVEL,
        location: None,
    }
}

fn form() -> MeshCommand {
    MeshCommand::Form { cluster: ClusterId([1; 16]), code: CODE, namespaces: 4 }
}

fn bucket_named(name: &str, tenant: u64, created: u64) -> BucketCommand {
    let (proposer, name) = (Some(proposer(1)), name.into());
    BucketCommand::CreateBucket {
        proposer,
        name,
        tenant: TenantId(tenant),
        created: UnixMillis(created),
        settings: BucketSettings::default(),
    }
}

fn formed() -> Group {
    let mut group = Group::control();
    assert_eq!(group.apply(&form()), Ok(MetaAnswer::Done));
    group
}

/// A cluster of three nodes of one drive each, and the tenant 1.
pub(super) fn furnished() -> Group {
    let mut group = formed();
    for id in 1..=3 {
        assert_eq!(group.apply(&MeshCommand::PutNode(node(id, 1))), Ok(MetaAnswer::Done));
        let drive = MeshCommand::PutDrive { drive: DriveId(id), node: NodeId(id), capacity_bytes: 10 };
        assert_eq!(group.once(&drive), Ok(MetaAnswer::Epoch(Epoch(1))));
    }
    assert!(group.apply(&tenant("acme", 1)).is_ok());
    group
}

pub(super) fn layout(id: u64) -> Layout {
    Layout {
        id: LayoutId(id),
        code: CODE,
        groups: vec![vec![DriveId(1), DriveId(2), DriveId(3)]],
        domains: (1..=3).map(|id| (DriveId(id), NodeId(id))).collect(),
        line: 0,
        others: Vec::new(),
        places: mesh_core::topology::Places::default(),
        rule: mesh_core::topology::Rule::default(),
    }
}

pub(super) fn control_view(group: &Group) -> Arc<mesh_core::meta::ControlView> {
    match group.query(&Query::Control) {
        Ok(MetaAnswer::Control(view)) => view,
        other => panic!("no view: {other:?}"),
    }
}

#[test]
fn forms_one_cluster_and_no_other() {
    let mut group = formed();
    let other = MeshCommand::Form { cluster: ClusterId([2; 16]), code: CODE, namespaces: 4 };
    assert_eq!(group.apply(&other), Err(ErrorKind::Conflict));
    let view = control_view(&group);
    assert_eq!((view.cluster, view.code, view.namespaces), (Some(ClusterId([1; 16])), Some(CODE), 4));
}

#[test]
fn refuses_a_cluster_without_namespaces_or_with_a_bad_code() {
    for (data, namespaces) in [(0, 4), (17, 4), (2, 0)] {
        let command = MeshCommand::Form { cluster: ClusterId([1; 16]), code: Code { data, parity: 1 }, namespaces };
        assert_eq!(Group::control().apply(&command), Err(ErrorKind::Invalid));
    }
}

#[test]
fn keeps_the_latest_incarnation_of_a_node() {
    let mut group = formed();
    assert_eq!(group.apply(&MeshCommand::PutNode(node(3, 5))), Ok(MetaAnswer::Done));
    assert_eq!(group.apply(&MeshCommand::PutNode(node(3, 4))), Err(ErrorKind::Conflict));
    assert_eq!(control_view(&group).nodes, BTreeMap::from([(NodeId(3), node(3, 5))]));
    let elsewhere = NodeInfo { address: "127.0.0.1:99".into(), ..node(3, 5) };
    assert_eq!(group.apply(&MeshCommand::PutNode(elsewhere.clone())), Ok(MetaAnswer::Done));
    assert_eq!(control_view(&group).nodes[&NodeId(3)], elsewhere);
    assert_eq!(group.apply(&MeshCommand::PutNode(node(0, 1))), Err(ErrorKind::Invalid));
    let nowhere = NodeInfo { address: String::new(), ..node(4, 1) };
    assert_eq!(group.apply(&MeshCommand::PutNode(nowhere)), Err(ErrorKind::Invalid));
}

#[test]
fn where_a_node_is_stays_until_it_says_something_else() {
    let mut group = formed();
    let say = |group: &mut Group, incarnation, location: &str| {
        let put = MeshCommand::PutNode(NodeInfo { location: location.parse().ok(), ..node(3, incarnation) });
        assert_eq!(group.apply(&put), Ok(MetaAnswer::Done));
        control_view(group).nodes[&NodeId(3)].location.as_ref().map(ToString::to_string)
    };
    assert_eq!(say(&mut group, 5, ""), None);
    assert_eq!(group.apply(&MeshCommand::RaiseLevel(Level::PLACES)), Ok(MetaAnswer::Done));
    assert_eq!(say(&mut group, 5, "zone/rack-1").as_deref(), Some("zone/rack-1"));
    // It has started, and does not know yet whether all can keep it.
    assert_eq!(say(&mut group, 6, "").as_deref(), Some("zone/rack-1"));
    assert_eq!(say(&mut group, 6, "rack-2").as_deref(), Some("rack-2"));
}

#[test]
fn a_number_stays_with_the_life_that_took_it() {
    let mut group = formed();
    assert_eq!(group.apply(&MeshCommand::PutNode(node(3, 5))), Ok(MetaAnswer::Done));
    let emptied = NodeInfo { life: 2, ..node(3, 9) };
    assert_eq!(group.apply(&MeshCommand::PutNode(emptied)), Err(ErrorKind::Conflict));
    assert_eq!(group.apply(&MeshCommand::Invite { node: NodeId(3), invitation: 7 }), Err(ErrorKind::Conflict));
    assert_eq!(control_view(&group).nodes, BTreeMap::from([(NodeId(3), node(3, 5))]));
}

#[test]
fn a_number_is_taken_by_who_was_invited_last() {
    let mut group = formed();
    let with = |invitation| MeshCommand::PutNode(NodeInfo { invitation, ..node(3, 5) });
    assert_eq!(group.apply(&MeshCommand::Invite { node: NodeId(3), invitation: 7 }), Ok(MetaAnswer::Done));
    assert_eq!(group.apply(&MeshCommand::Invite { node: NodeId(3), invitation: 8 }), Ok(MetaAnswer::Done));
    // A late copy takes nothing back.
    assert_eq!(group.apply(&MeshCommand::Invite { node: NodeId(3), invitation: 7 }), Err(ErrorKind::Conflict));
    assert_eq!(group.apply(&with(7)), Err(ErrorKind::Conflict));
    assert_eq!(group.apply(&with(0)), Err(ErrorKind::Conflict));
    assert_eq!(group.apply(&with(8)), Ok(MetaAnswer::Done));
    // It is told again, and whoever comes late with another invitation is another life.
    assert_eq!(group.apply(&with(8)), Ok(MetaAnswer::Done));
    let late = NodeInfo { invitation: 7, life: 2, ..node(3, 6) };
    assert_eq!(group.apply(&MeshCommand::PutNode(late)), Err(ErrorKind::Conflict));
    assert_eq!(group.apply(&MeshCommand::Invite { node: NodeId(0), invitation: 7 }), Err(ErrorKind::Invalid));
    assert_eq!(group.apply(&MeshCommand::Invite { node: NodeId(4), invitation: 0 }), Err(ErrorKind::Invalid));
}

#[test]
fn raises_a_drives_epoch_with_every_owner() {
    let mut group = furnished();
    let moved = MeshCommand::PutDrive { drive: DriveId(1), node: NodeId(2), capacity_bytes: 20 };
    assert_eq!(group.once(&moved), Ok(MetaAnswer::Epoch(Epoch(2))));
    assert_eq!(group.once(&moved), Ok(MetaAnswer::Epoch(Epoch(3))));
    assert_eq!(control_view(&group).drives[&DriveId(1)].node, NodeId(2));
    assert_eq!(group.query(&Query::Drive { drive: DriveId(1) }), Ok(MetaAnswer::Epoch(Epoch(3))));
    assert_eq!(group.query(&Query::Drive { drive: DriveId(9) }), Ok(MetaAnswer::Epoch(Epoch(0))));
    let orphan = MeshCommand::PutDrive { drive: DriveId(9), node: NodeId(9), capacity_bytes: 20 };
    assert_eq!(group.once(&orphan), Err(ErrorKind::Invalid));
}

#[test]
fn a_lost_drive_is_of_no_layout_and_never_registered_again() {
    let mut group = furnished();
    let lose = |drive| MeshCommand::LoseDrive { drive: DriveId(drive) };
    assert_eq!(group.apply(&lose(9)), Err(ErrorKind::NotFound));
    assert_eq!(group.apply(&lose(2)), Ok(MetaAnswer::Done));
    let view = control_view(&group);
    assert_eq!(view.drives.keys().map(|drive| drive.0).collect::<Vec<_>>(), [1, 3]);
    assert_eq!(view.lost.values().map(|drive| (drive.id.0, drive.node.0)).collect::<Vec<_>>(), [(2, 2)]);
    let again = MeshCommand::PutDrive { drive: DriveId(2), node: NodeId(2), capacity_bytes: 10 };
    assert_eq!(group.apply(&again), Err(ErrorKind::Conflict));
    let newest = view.layouts.keys().next_back().map_or(0, |id| id.0);
    assert_eq!(group.apply(&MeshCommand::PutLayout(layout(newest + 1).into())), Err(ErrorKind::Invalid));
}

#[test]
fn a_drive_that_is_emptied_is_known_and_not_laid_out() {
    let mut group = furnished();
    assert_eq!(group.apply(&MeshCommand::RaiseLevel(Level::DRAINS)), Ok(MetaAnswer::Done));
    let drain = |drive, draining| MeshCommand::DrainDrive { drive: DriveId(drive), draining };
    let shown = |group: &Group| {
        let view = control_view(group);
        let ids = |drives: &mut dyn Iterator<Item = u64>| drives.collect::<Vec<_>>();
        (ids(&mut view.drives.keys().map(|drive| drive.0)), ids(&mut view.staying().map(|drive| drive.id.0)))
    };
    assert_eq!(group.once(&drain(9, true)), Err(ErrorKind::NotFound));
    for _ in 0..2 {
        assert_eq!(group.once(&drain(2, true)), Ok(MetaAnswer::Done));
        assert_eq!(shown(&group), (vec![1, 2, 3], vec![1, 3]));
    }
    assert_eq!(group.once(&drain(2, false)), Ok(MetaAnswer::Done));
    assert_eq!(shown(&group), (vec![1, 2, 3], vec![1, 2, 3]));
    // Lost, it is emptied no more, and cannot be.
    assert_eq!(group.once(&drain(2, true)), Ok(MetaAnswer::Done));
    assert_eq!(group.once(&MeshCommand::LoseDrive { drive: DriveId(2) }), Ok(MetaAnswer::Done));
    assert_eq!((shown(&group), control_view(&group).leaving.len()), ((vec![1, 3], vec![1, 3]), 0));
    assert_eq!(group.once(&drain(2, true)), Err(ErrorKind::Conflict));
    assert_eq!(Command::from(drain(2, true)).level(), Level::DRAINS);
}

#[test]
fn drives_of_one_node_go_out_by_themselves_and_what_was_asked_for_stays() {
    let mut group = furnished();
    assert_eq!(group.apply(&MeshCommand::RaiseLevel(Level::DRAINS)), Ok(MetaAnswer::Done));
    let put = |drives: &[u64], out| MeshCommand::PutOut { drives: drives.iter().map(|id| DriveId(*id)).collect(), out };
    let leaving = |group: &Group| control_view(group).leaving.iter().map(|(id, why)| (id.0, *why)).collect::<Vec<_>>();
    assert_eq!(group.once(&put(&[9], true)), Err(ErrorKind::Invalid), "nobody knows it");
    for _ in 0..2 {
        assert_eq!(group.once(&put(&[2], true)), Ok(MetaAnswer::Done));
        assert_eq!(leaving(&group), [(2, Leaving::Away)]);
    }
    let view = control_view(&group);
    let of_another = |info: &&DriveInfo| info.node != view.drives[&DriveId(2)].node;
    let other = view.drives.values().find(of_another).expect("a drive of another node").id.0;
    assert_eq!(group.once(&put(&[other], true)), Err(ErrorKind::Conflict));
    assert_eq!(group.once(&put(&[2, other], true)), Err(ErrorKind::Conflict));
    // Whoever has it emptied wants it empty when it is back.
    let drain = |drive, draining| MeshCommand::DrainDrive { drive: DriveId(drive), draining };
    assert_eq!(group.once(&drain(2, true)), Ok(MetaAnswer::Done));
    for out in [false, true] {
        assert_eq!(group.once(&put(&[2], out)), Ok(MetaAnswer::Done));
        assert_eq!(leaving(&group), [(2, Leaving::Asked)]);
    }
    assert_eq!(group.once(&put(&[other], true)), Ok(MetaAnswer::Done), "nothing is out by itself");
    assert_eq!(group.once(&put(&[other], false)), Ok(MetaAnswer::Done));
    assert_eq!(leaving(&group), [(2, Leaving::Asked)]);
    assert_eq!(group.once(&MeshCommand::LoseDrive { drive: DriveId(2) }), Ok(MetaAnswer::Done));
    assert_eq!(group.once(&put(&[2], true)), Ok(MetaAnswer::Done));
    assert_eq!(leaving(&group), [], "it is lost, and that is more");
    assert_eq!(Command::from(put(&[2], true)).level(), Level::DRAINS);
}

#[test]
fn drives_leave_one_after_the_other_and_are_taken_out_as_they_were_judged() {
    let mut group = furnished();
    for id in 4..=6 {
        let drive = MeshCommand::PutDrive { drive: DriveId(id), node: NodeId(id - 3), capacity_bytes: 10 };
        assert_eq!(group.once(&drive), Ok(MetaAnswer::Epoch(Epoch(1))));
    }
    assert_eq!(group.apply(&MeshCommand::RaiseLevel(Level::LEAVES)), Ok(MetaAnswer::Done));
    let of = |id, drives: &[u64]| {
        let domains = drives.iter().map(|id| (DriveId(*id), NodeId((*id - 1) % 3 + 1))).collect();
        let groups = vec![drives.iter().map(|id| DriveId(*id)).collect()];
        MeshCommand::PutLayout(Layout { id: LayoutId(id), groups, domains, line: 1, ..layout(id) }.into())
    };
    let drain = |drive, draining| MeshCommand::DrainDrive { drive: DriveId(drive), draining };
    let remove = |drive, layout| MeshCommand::RemoveDrive { drive: DriveId(drive), layout: LayoutId(layout) };
    assert_eq!(group.once(&of(1, &[1, 2, 3, 4, 5, 6])), Ok(MetaAnswer::Done));
    assert_eq!(group.once(&remove(4, 1)), Err(ErrorKind::Conflict), "it is in use");
    for _ in 0..2 {
        assert_eq!(group.once(&drain(4, true)), Ok(MetaAnswer::Done));
    }
    let out = MeshCommand::PutOut { drives: vec![DriveId(5)], out: true };
    for another in [drain(5, true), out.clone()] {
        assert_eq!(group.once(&another), Err(ErrorKind::Conflict), "whoever judged it may not have known of 4");
    }
    assert_eq!(group.once(&remove(4, 1)), Err(ErrorKind::Conflict), "the layout has it");
    assert_eq!(group.once(&of(2, &[1, 2, 3, 5, 6])), Ok(MetaAnswer::Done));
    assert_eq!(group.once(&out), Ok(MetaAnswer::Done));
    assert_eq!(group.once(&of(3, &[1, 2, 3, 6])), Ok(MetaAnswer::Done));
    assert_eq!(group.once(&remove(4, 2)), Err(ErrorKind::Conflict), "it was judged by another layout");
    assert_eq!(group.once(&drain(4, false)), Ok(MetaAnswer::Done));
    assert_eq!(group.once(&remove(4, 3)), Err(ErrorKind::Conflict), "it is used again");
    assert_eq!(group.once(&drain(4, true)), Ok(MetaAnswer::Done));
    for _ in 0..2 {
        assert_eq!(group.once(&remove(4, 3)), Ok(MetaAnswer::Done));
        assert!(control_view(&group).lost.contains_key(&DriveId(4)));
    }
    assert_eq!(group.once(&remove(9, 3)), Err(ErrorKind::NotFound));
}

#[test]
fn gives_the_taker_of_a_drive_the_same_epoch_however_often_it_asks() {
    let mut group = furnished();
    let take = |node, after| MeshCommand::TakeDrive {
        drive: DriveId(1),
        node: NodeId(node),
        start: Incarnation(1),
        capacity_bytes: 20,
        after: Epoch(after),
        instead_of: None,
    };
    for _ in 0..3 {
        assert_eq!(group.once(&take(2, 1)), Ok(MetaAnswer::Epoch(Epoch(2))));
    }
    assert_eq!(group.once(&take(1, 1)), Err(ErrorKind::Conflict), "another node has taken it");
    assert_eq!(group.once(&take(1, 2)), Ok(MetaAnswer::Epoch(Epoch(3))));
    // A late copy of the former owner's takes nothing away.
    assert_eq!(group.once(&take(2, 1)), Err(ErrorKind::Conflict));
    let drive = &control_view(&group).drives[&DriveId(1)];
    assert_eq!((drive.node, drive.epoch), (NodeId(1), Epoch(3)));
    assert_eq!(group.once(&take(9, 3)), Err(ErrorKind::Invalid), "no such node");
}

#[test]
fn only_the_registered_start_of_a_node_takes_drives() {
    let mut group = furnished();
    let take = |start, after| MeshCommand::TakeDrive {
        drive: DriveId(1),
        node: NodeId(1),
        start: Incarnation(start),
        capacity_bytes: 20,
        after: Epoch(after),
        instead_of: None,
    };
    assert_eq!(group.apply(&MeshCommand::PutNode(node(1, 5))), Ok(MetaAnswer::Done));
    assert_eq!(group.once(&take(1, 1)), Err(ErrorKind::Conflict), "it is over");
    assert_eq!(group.once(&take(6, 1)), Err(ErrorKind::Conflict), "a copy of the folder");
    assert_eq!(group.once(&take(5, 1)), Ok(MetaAnswer::Epoch(Epoch(2))));
}

#[test]
fn numbers_layouts_without_gaps() {
    let mut group = furnished();
    assert_eq!(group.apply(&MeshCommand::PutLayout(layout(2).into())), Err(ErrorKind::Conflict));
    for id in 1..=9 {
        assert_eq!(group.apply(&MeshCommand::PutLayout(layout(id).into())), Ok(MetaAnswer::Done));
    }
    assert_eq!(group.apply(&MeshCommand::PutLayout(layout(11).into())), Err(ErrorKind::Conflict));
    let other = Layout { code: Code { data: 1, parity: 1 }, ..layout(3) };
    assert_eq!(group.apply(&MeshCommand::PutLayout(other.into())), Err(ErrorKind::Conflict));
    assert_eq!(control_view(&group).layouts.len(), 9);
}

#[test]
fn in_a_line_groups_stay_the_same_and_so_does_the_code() {
    let mut group = furnished();
    let groups = |count| vec![vec![DriveId(3), DriveId(1), DriveId(2)]; count];
    let in_line = |id, line, count| Layout { line, groups: groups(count), ..layout(id) };
    let mut put = |layout: Layout| group.apply(&MeshCommand::PutLayout(layout.into()));
    assert_eq!(put(layout(1)), Ok(MetaAnswer::Done));
    assert_eq!(put(in_line(2, 1, 4)), Err(ErrorKind::Unsupported), "the mesh is of the first level");
    assert_eq!(group.apply(&MeshCommand::RaiseLevel(Level::LINES)), Ok(MetaAnswer::Done));
    let mut put = |layout: Layout| group.apply(&MeshCommand::PutLayout(layout.into()));
    // Behind those of no line a line begins as it likes.
    assert_eq!(put(in_line(2, 1, 4)), Ok(MetaAnswer::Done));
    for other in [
        in_line(3, 1, 5),
        in_line(3, 2, 4),
        in_line(3, 0, 4),
        Layout { code: Code { data: 1, parity: 1 }, ..in_line(3, 1, 4) },
    ] {
        assert_eq!(put(other), Err(ErrorKind::Invalid));
    }
    assert_eq!(put(in_line(3, 1, 4)), Ok(MetaAnswer::Done));
}

#[test]
fn refuses_layouts_that_cannot_place_a_stripe() {
    let mut group = furnished();
    let drives = |ids: &[u64]| Layout { groups: vec![ids.iter().copied().map(DriveId).collect()], ..layout(1) };
    for (flawed, why) in [
        (Layout { groups: vec![], ..layout(1) }, "no groups"),
        (drives(&[1, 2]), "fewer drives than shards"),
        (drives(&[1, 2, 2]), "a drive twice"),
        (drives(&[1, 2, 9]), "an unknown drive"),
        (Layout { domains: BTreeMap::new(), ..layout(1) }, "no domains"),
        (Layout { code: Code { data: 0, parity: 1 }, ..layout(1) }, "a bad code"),
        (drives(&(0..33).collect::<Vec<_>>()), "too many drives"),
    ] {
        assert_eq!(group.apply(&MeshCommand::PutLayout(flawed.into())), Err(ErrorKind::Invalid), "{why}");
    }
}

#[test]
fn gives_a_tenant_its_number_once() {
    let mut group = formed();
    let Ok(MetaAnswer::Tenant(acme)) = group.apply(&tenant("acme", 1)) else { panic!("no tenant") };
    assert_eq!((acme.id, acme.key), (TenantId(1), KeyId(1)));
    assert_eq!(group.apply(&tenant("acme", 2)), Err(ErrorKind::Conflict));
    let Ok(MetaAnswer::Tenant(other)) = group.apply(&tenant("other", 2)) else { panic!("no tenant") };
    assert_eq!(other.id, TenantId(2));
    assert_eq!(group.apply(&tenant("", 3)), Err(ErrorKind::Invalid));
    let limits = TenantLimits { quota_bytes: Some(5), ..TenantLimits::default() };
    assert_eq!(group.apply(&MeshCommand::SetLimits { tenant: TenantId(1), limits }), Ok(MetaAnswer::Done));
    assert_eq!(control_view(&group).tenants[&TenantId(1)].limits, limits);
    assert_eq!(group.apply(&MeshCommand::SetLimits { tenant: TenantId(9), limits }), Err(ErrorKind::NotFound));
    // The creation, sent once more, is known by its wrapped key.
    let Ok(MetaAnswer::Tenant(again)) = group.apply(&tenant("acme", 1)) else { panic!("no tenant") };
    assert_eq!(again.id, TenantId(1));
}

#[test]
fn gives_access_keys_to_known_principals_only() {
    let mut group = furnished();
    let principal = PrincipalRow { tenant: TENANT, name: "ann".into(), grants: vec![Grant::all()] };
    let key = AccessKeyRow { access: "AK1".into(), secret: wrapped(1), tenant: TENANT, principal: "ann".into() };
    assert_eq!(group.apply(&MeshCommand::PutAccessKey(key.clone())), Err(ErrorKind::NotFound));
    assert_eq!(group.apply(&MeshCommand::PutPrincipal(principal.clone())), Ok(MetaAnswer::Done));
    assert_eq!(group.apply(&MeshCommand::PutAccessKey(key.clone())), Ok(MetaAnswer::Done));
    let other = AccessKeyRow { secret: wrapped(2), ..key.clone() };
    assert_eq!(group.apply(&MeshCommand::PutAccessKey(other)), Err(ErrorKind::Conflict));
    let stranger = PrincipalRow { tenant: TenantId(9), ..principal.clone() };
    assert_eq!(group.apply(&MeshCommand::PutPrincipal(stranger)), Err(ErrorKind::NotFound));
    let replaced = PrincipalRow { grants: vec![], ..principal };
    assert_eq!(group.apply(&MeshCommand::PutPrincipal(replaced.clone())), Ok(MetaAnswer::Done));
    let view = control_view(&group);
    assert_eq!(*view.principals, [Arc::new(replaced)]);
    assert_eq!(view.access_keys[&key.access], Arc::new(key));
    // Revoked as builds of before do it, and for good once all can remember that.
    for (level, again) in [(None, Ok(MetaAnswer::Done)), (Some(Level::ACCESS), Err(ErrorKind::Conflict))] {
        if let Some(level) = level {
            assert_eq!(group.apply(&MeshCommand::RaiseLevel(level)), Ok(MetaAnswer::Done));
        }
        for _ in 0..2 {
            assert_eq!(group.apply(&MeshCommand::DropAccessKey { access: "AK1".into() }), Ok(MetaAnswer::Done));
            assert!(control_view(&group).access_keys.is_empty());
        }
        let key = view.access_keys["AK1"].clone();
        assert_eq!(group.apply(&MeshCommand::PutAccessKey((*key).clone())), again, "{level:?}");
    }
}

#[test]
fn a_tenant_s_key_is_replaced_once_an_order_and_those_of_before_stay() {
    let mut group = furnished();
    assert_eq!(group.apply(&MeshCommand::RaiseLevel(Level::ACCESS)), Ok(MetaAnswer::Done));
    let rotate = |after, byte| MeshCommand::RotateKey { tenant: TENANT, after: KeyId(after), wrapped: wrapped(byte) };
    let first = control_view(&group).tenants[&TENANT].clone();
    let (mut after, mut past) = (first.key, vec![(first.key, first.wrapped.clone())]);
    for byte in [100, 101] {
        let Ok(MetaAnswer::Tenant(row)) = group.apply(&rotate(after.0, byte)) else { panic!("not replaced") };
        assert!(row.key.0 > 1 << 32 && row.key > after, "{}", row.key);
        assert_eq!((row.id, &row.name, row.limits, &row.wrapped), (TENANT, &first.name, first.limits, &wrapped(byte)));
        // Sent again, and by somebody who has not heard of it.
        assert_eq!(group.apply(&rotate(after.0, byte)), Ok(MetaAnswer::Tenant(row.clone())));
        assert_eq!(group.apply(&rotate(after.0, 102)), Err(ErrorKind::Conflict));
        let view = control_view(&group);
        assert_eq!(view.tenants[&TENANT], row);
        let kept: Vec<_> = view.past_keys.iter().map(|(id, key)| (*id, key.wrapped.clone())).collect();
        assert_eq!(kept, past);
        assert!(view.past_keys.values().all(|key| key.tenant == TENANT));
        past.push((row.key, row.wrapped.clone()));
        after = row.key;
    }
    let unknown = MeshCommand::RotateKey { tenant: TenantId(9), after: KeyId(9), wrapped: wrapped(1) };
    assert_eq!(group.apply(&unknown), Err(ErrorKind::NotFound));
}

#[test]
fn a_principal_that_goes_takes_its_access_keys_with_it_and_no_others() {
    let mut group = furnished();
    assert_eq!(group.apply(&MeshCommand::RaiseLevel(Level::ACCESS)), Ok(MetaAnswer::Done));
    assert!(group.apply(&tenant("other", 2)).is_ok());
    let principal =
        |tenant, name: &str| PrincipalRow { tenant: TenantId(tenant), name: name.into(), grants: vec![Grant::all()] };
    let key = |access: &str, tenant, name: &str| AccessKeyRow {
        access: access.into(),
        secret: wrapped(1),
        tenant: TenantId(tenant),
        principal: name.into(),
    };
    for (tenant, name) in [(1, "ann"), (1, "anna"), (2, "ann")] {
        assert_eq!(group.apply(&MeshCommand::PutPrincipal(principal(tenant, name))), Ok(MetaAnswer::Done));
    }
    let all = [key("AK1", 1, "ann"), key("AK2", 1, "anna"), key("AK3", 2, "ann"), key("AK4", 1, "ann")];
    for key in &all {
        assert_eq!(group.apply(&MeshCommand::PutAccessKey(key.clone())), Ok(MetaAnswer::Done));
    }
    let gone = MeshCommand::DropPrincipal { tenant: TENANT, name: "ann".into() };
    for _ in 0..2 {
        assert_eq!(group.apply(&gone), Ok(MetaAnswer::Done), "again: no effect");
        let view = control_view(&group);
        let left: Vec<_> = view.principals.iter().map(|row| (row.tenant.0, row.name.as_str())).collect();
        assert_eq!(left, [(1, "anna"), (2, "ann")]);
        assert_eq!(view.access_keys.keys().collect::<Vec<_>>(), ["AK2", "AK3"]);
    }
    // Its certificates have its name: nobody else gets that.
    assert_eq!(group.apply(&MeshCommand::PutPrincipal(principal(1, "ann"))), Err(ErrorKind::Conflict));
    assert_eq!(group.apply(&MeshCommand::PutPrincipal(principal(2, "ann"))), Ok(MetaAnswer::Done), "another's");
    let unknown = MeshCommand::DropPrincipal { tenant: TenantId(9), name: "ann".into() };
    assert_eq!(group.apply(&unknown), Ok(MetaAnswer::Done));
    assert_eq!(group.apply(&MeshCommand::PutAccessKey(all[0].clone())), Err(ErrorKind::NotFound));
}

fn made(answer: Result<MetaAnswer, ErrorKind>) -> Arc<BucketRow> {
    match answer {
        Ok(MetaAnswer::Bucket(row)) => row,
        other => panic!("no bucket: {other:?}"),
    }
}

#[test]
fn makes_buckets_and_spreads_them_over_the_groups() {
    let mut group = furnished();
    assert!(group.apply(&tenant("other", 2)).is_ok());
    let first = made(group.apply(&bucket_named("photos", 1, 10)));
    assert_eq!((first.bucket.id, first.bucket.group), (BucketId(1), GroupId(2)));
    assert_eq!(made(group.apply(&bucket_named("music", 1, 11))).bucket.group, GroupId(3));
    assert_eq!(group.apply(&bucket_named("photos", 1, 12)), Err(ErrorKind::BucketExists));
    assert_eq!(group.apply(&bucket_named("photos", 2, 10)), Err(ErrorKind::BucketTaken));
    assert_eq!(group.apply(&bucket_named("lost", 9, 10)), Err(ErrorKind::NotFound));
    assert_eq!(Group::control().apply(&bucket_named("early", 1, 1)), Err(ErrorKind::Conflict));
    let Ok(MetaAnswer::Buckets(all)) = group.query(&Query::Buckets { tenant: TENANT }) else { panic!("no list") };
    let names: Vec<&str> = all.iter().map(|row| &*row.bucket.name).collect();
    assert_eq!(names, ["music", "photos"]);
    assert_eq!(group.query(&Query::Buckets { tenant: TenantId(2) }), Ok(MetaAnswer::Buckets(vec![])));
}

#[test]
fn holds_bucket_names_to_the_rules_of_s3() {
    let mut group = furnished();
    let long = "a".repeat(64);
    for name in ["ab", &long, "Photos", "pho_tos", "-photos", "photos-", ".photos", "a..b", "10.0.0.1", "fotö", ""] {
        assert_eq!(group.apply(&bucket_named(name, 1, 1)), Err(ErrorKind::Invalid), "{name}");
    }
    for name in ["abc", &long[..63], "a.b-c", "1-2"] {
        assert!(group.apply(&bucket_named(name, 1, 1)).is_ok(), "{name}");
    }
}

#[test]
fn removes_buckets_and_gives_a_new_one_another_number() {
    let mut group = furnished();
    let make = bucket_named("photos", 1, 10);
    let row = made(group.apply(&make));
    let id = row.bucket.id;
    assert_eq!(group.apply(&BucketCommand::RemoveBucket { bucket: id }), Ok(MetaAnswer::Done));
    assert_eq!(group.query(&Query::Bucket { name: "photos".into() }), Err(ErrorKind::NoSuchBucket));
    assert_eq!(made(group.apply(&make)), row, "delivered late, it makes nothing");
    assert_eq!(group.query(&Query::Bucket { name: "photos".into() }), Err(ErrorKind::NoSuchBucket));
    assert_eq!(group.apply(&BucketCommand::RemoveBucket { bucket: BucketId(99) }), Err(ErrorKind::NoSuchBucket));
    assert_eq!(made(group.apply(&bucket_named("photos", 1, 11))).bucket.id, BucketId(2));
    assert_eq!(
        group.apply(&BucketCommand::RemoveBucket { bucket: id }),
        Ok(MetaAnswer::Done),
        "the first one, once more"
    );
    assert_eq!(made(group.query(&Query::Bucket { name: "photos".into() })).bucket.id, BucketId(2));
}

#[test]
fn a_tenant_has_so_many_buckets_and_room_again_when_one_is_removed() {
    let mut group = furnished();
    assert!(group.apply(&tenant("other", 2)).is_ok());
    for number in 1..=1000 {
        assert!(group.once(&bucket_named(&format!("bucket-{number}"), 1, 10)).is_ok(), "{number}");
    }
    let more = |number: u64| bucket_named(&format!("more-{number}"), 1, 10);
    assert_eq!(group.once(&more(1)), Err(ErrorKind::QuotaExceeded));
    assert!(group.once(&bucket_named("theirs", 2, 10)).is_ok(), "another tenant's room is its own");
    assert_eq!(group.apply(&BucketCommand::RemoveBucket { bucket: BucketId(1) }), Ok(MetaAnswer::Done));
    assert!(group.once(&more(2)).is_ok());
    assert_eq!(group.once(&more(3)), Err(ErrorKind::QuotaExceeded));
    let Ok(MetaAnswer::Buckets(all)) = group.query(&Query::Buckets { tenant: TenantId(1) }) else { panic!("no list") };
    assert_eq!(all.len(), 1000, "one answer names them all");
}

#[test]
fn the_founding_makes_its_bucket_once() {
    let mut group = furnished();
    let command = BucketCommand::CreateBucket {
        proposer: None,
        name: "photos".into(),
        tenant: TENANT,
        created: UnixMillis(10),
        settings: BucketSettings::default(),
    };
    let row = made(group.apply(&command));
    assert_eq!(made(group.apply(&command)), row);
    assert_eq!(group.apply(&bucket_named("photos", 1, 11)), Err(ErrorKind::BucketExists));
}

#[test]
fn refuses_what_is_for_another_group_and_changes_nothing() {
    let block = |group| Command::Upkeep(group, UpkeepCommand::OpenBlock { proposer: proposer(1) });
    let seal = |group| {
        let bucket = BucketRef { group, ..bucket() };
        Command::Object(bucket, ObjectCommand::SealBucket { proposer: proposer(1) })
    };
    let open = |group| Command::OpenSession { group, actor: ActorId(9), session: session(1) };
    let (control, other, none) = (GroupId::CONTROL, GroupId(2), GroupId(u64::MAX));
    let remove: Command = BucketCommand::RemoveBucket { bucket: BucketId(1) }.into();
    let table = [
        (Group::control(), block(control), ErrorKind::Invalid),
        (Group::control(), block(NAMESPACE), ErrorKind::Invalid),
        (Group::control(), seal(control), ErrorKind::Invalid),
        (Group::control(), seal(NAMESPACE), ErrorKind::Invalid),
        (Group::control(), open(NAMESPACE), ErrorKind::Invalid),
        (Group::namespace(), form().into(), ErrorKind::Invalid),
        (Group::namespace(), remove, ErrorKind::Invalid),
        (Group::namespace(), block(other), ErrorKind::Invalid),
        (Group::namespace(), block(none), ErrorKind::Invalid),
        (Group::namespace(), seal(other), ErrorKind::WrongShard),
        (Group::namespace(), open(control), ErrorKind::Invalid),
        (Group::namespace(), open(none), ErrorKind::Invalid),
    ];
    for (group, command, kind) in table {
        let (changes, answer) = apply(&group.table, group.id, &command);
        assert_eq!(answer.map_err(|error| error.kind()), Err(kind), "{command:?} in {}", group.id);
        assert!(changes.is_empty(), "{command:?} in {}", group.id);
    }
    let groups = crate::metadata::MemoryMetadata::new(1);
    for (command, kind) in [
        (block(control), ErrorKind::Invalid),
        (block(other), ErrorKind::Unreachable),
        (open(none), ErrorKind::Unreachable),
    ] {
        assert_eq!(groups.propose(&command).map_err(|error| error.kind()), Err(kind), "{command:?}");
    }
}

#[test]
fn refuses_questions_for_the_other_kind_of_group() {
    assert_eq!(Group::namespace().query(&Query::Control), Err(ErrorKind::Invalid));
    assert_eq!(Group::control().query(&Query::Usage { tenant: TENANT }), Err(ErrorKind::Invalid));
}

#[test]
fn a_bucket_that_compresses_is_made_once_every_node_can() {
    let mut group = furnished();
    let make = BucketCommand::CreateBucket {
        proposer: None,
        name: "photos".into(),
        tenant: TENANT,
        created: UnixMillis(10),
        settings: compressed(),
    };
    assert_eq!(Command::from(make.clone()).level(), Level::COMPRESS);
    assert_eq!(group.apply(&make), Err(ErrorKind::Unsupported));
    assert_eq!(group.apply(&MeshCommand::RaiseLevel(Level::COMPRESS)), Ok(MetaAnswer::Done));
    for _ in 0..2 {
        let Ok(MetaAnswer::Bucket(row)) = group.apply(&make) else { panic!("no bucket") };
        assert_eq!(row.settings, compressed());
    }
    // Whoever asked for another one in the same millisecond has not got it.
    assert_eq!(group.apply(&bucket_named("photos", TENANT.0, 10)), Err(ErrorKind::BucketExists));
}

fn compressed() -> BucketSettings {
    BucketSettings { compression: Compression::Auto, code: None }
}

fn coded(name: &str, code: Code) -> BucketCommand {
    BucketCommand::CreateBucket {
        proposer: None,
        name: name.into(),
        tenant: TENANT,
        created: UnixMillis(10),
        settings: BucketSettings { compression: Compression::Off, code: Some(code) },
    }
}

#[test]
fn a_bucket_may_have_a_code_of_its_own_that_the_mesh_has_drives_for() {
    let code = |data, parity| Code { data, parity };
    let mut group = furnished();
    let own = control_view(&group).code.expect("formed");
    assert_eq!(group.apply(&coded("photos", code(1, 1))), Err(ErrorKind::Unsupported));
    assert_eq!(group.apply(&MeshCommand::RaiseLevel(Level::CODES)), Ok(MetaAnswer::Done));
    for id in 4..=6 {
        let drive = MeshCommand::PutDrive { drive: DriveId(id), node: NodeId(id - 3), capacity_bytes: 10 };
        assert_eq!(group.once(&drive), Ok(MetaAnswer::Epoch(Epoch(1))));
    }
    let make = |group: &mut Group, name: &str, code| {
        let made = group.apply(&coded(name, code));
        let row = made.map(|answer| matches!(answer, MetaAnswer::Bucket(row) if row.settings.code == Some(code)));
        (row, control_view(group).codes.clone())
    };
    // The mesh's own is nothing new; another one is kept once, in its order; what does not fit is refused and leaves nothing.
    assert_eq!(make(&mut group, "its-own", own), (Ok(true), vec![]));
    assert_eq!(make(&mut group, "two-copies", code(1, 1)), (Ok(true), vec![code(1, 1)]));
    assert_eq!(make(&mut group, "two-copies-too", code(1, 1)), (Ok(true), vec![code(1, 1)]));
    assert_eq!(
        make(&mut group, "too-wide", code(4, 1)).0,
        Err(ErrorKind::Invalid),
        "without a node there are four drives"
    );
    assert_eq!(make(&mut group, "no-code", code(0, 1)).0, Err(ErrorKind::Invalid));
    assert_eq!(make(&mut group, "Not A Name", code(1, 0)), (Err(ErrorKind::Invalid), vec![code(1, 1)]));
    assert_eq!(group.query(&Query::Bucket { name: "too-wide".into() }), Err(ErrorKind::NoSuchBucket));
    // Each lists eight drives for a number at least: there is room for a handful.
    let mut codes = vec![code(1, 1)];
    for another in [(1, 0), (2, 0), (3, 0), (4, 0), (1, 2), (1, 3)].map(|(data, parity)| code(data, parity)) {
        codes.push(another);
        assert_eq!(
            make(&mut group, &format!("of-{}-{}", another.data, another.parity), another),
            (Ok(true), codes.clone())
        );
    }
    assert_eq!(make(&mut group, "one-too-many", code(2, 2)), (Err(ErrorKind::Invalid), codes.clone()));
    assert_eq!(make(&mut group, "another-of-those", code(1, 3)), (Ok(true), codes));
}

#[test]
fn no_code_is_taken_that_no_layout_could_have_groups_for() {
    let code = |data, parity| Code { data, parity };
    let mut group = furnished();
    assert_eq!(group.apply(&MeshCommand::RaiseLevel(Level::CODES)), Ok(MetaAnswer::Done));
    // Without a node there are two drives, too few for the mesh's own already: what is no wider makes that no worse.
    let made = |answer: Result<MetaAnswer, ErrorKind>| answer.map(|_| ());
    assert_eq!(made(group.apply(&coded("as-wide", code(1, 2)))), Ok(()));
    assert_eq!(made(group.apply(&coded("wider", code(2, 2)))), Err(ErrorKind::Invalid));
    // Of the three drives one is lost for good: there is no layout to come for anything.
    assert_eq!(group.apply(&MeshCommand::LoseDrive { drive: DriveId(3) }), Ok(MetaAnswer::Done));
    assert_eq!(made(group.apply(&coded("narrow", code(1, 1)))), Err(ErrorKind::Invalid));
    assert_eq!(made(group.apply(&coded("known", code(1, 2)))), Ok(()));
}

#[test]
fn a_layout_has_groups_for_every_code_that_those_before_it_had() {
    let code = |data, parity| Code { data, parity };
    let mut group = furnished();
    assert_eq!(group.apply(&MeshCommand::RaiseLevel(Level::CODES)), Ok(MetaAnswer::Done));
    let first = Layout { line: 1, ..layout(1) };
    let with = |id, others: &[(Code, usize)]| {
        let of =
            |(code, count): &(Code, usize)| CodeGroups { code: *code, groups: vec![first.groups[0].clone(); *count] };
        Layout { id: LayoutId(id), others: others.iter().map(of).collect(), ..first.clone() }
    };
    let (one, two) = ((code(1, 1), 2), (code(1, 0), 1));
    let mut put = |layout: Layout| group.apply(&MeshCommand::PutLayout(layout.into())).map(|_| ());
    assert_eq!(put(Layout { line: 0, ..with(1, &[one]) }), Err(ErrorKind::Invalid), "of no line");
    assert_eq!(put(with(1, &[(first.code, 1)])), Err(ErrorKind::Invalid), "its own code again");
    assert_eq!(put(with(1, &[one, one])), Err(ErrorKind::Invalid), "a code twice");
    assert_eq!(put(with(1, &[(code(1, 1), 0)])), Err(ErrorKind::Invalid), "no groups");
    assert_eq!(put(with(1, &[(code(16, 8), 1)])), Err(ErrorKind::Invalid), "fewer drives than shards");
    assert_eq!(put(with(1, &[one])), Ok(()));
    assert_eq!(put(with(2, &[])), Err(ErrorKind::Invalid), "a code is gone");
    assert_eq!(put(with(2, &[two, one])), Err(ErrorKind::Invalid), "in another order");
    assert_eq!(put(with(2, &[(code(1, 1), 1)])), Err(ErrorKind::Invalid), "fewer groups");
    assert_eq!(put(with(2, &[one, two])), Ok(()));
}
