//! What administrators ask about drives, nodes and repair, and what they are told.

use mesh_core::{
    id::{ActorId, DriveId, GroupId, LayoutId, NodeId},
    meta::RepairState,
    op::{AddedDrive, AdminAnswer, AdminOp, GroupRepair, NewMedium, NodeOp},
    plan::Plan,
};

use crate::samples::count;

pub(crate) fn ops() -> impl Iterator<Item = NodeOp> {
    let medium = NewMedium { path: "/mnt/nvme4".into(), capacity_bytes: Some(3 << 40) };
    let ops = [
        AdminOp::Repair,
        AdminOp::Scrub { drives: vec![DriveId(4)], rate: 5 },
        AdminOp::DrainDrive { drive: DriveId(4), draining: true },
        AdminOp::RemoveDrive { drive: DriveId(4) },
        AdminOp::LeaveNode { node: NodeId(4), leaving: true },
        AdminOp::RemoveNode { node: NodeId(4), lost: true },
        AdminOp::AddDrive { node: NodeId(4), medium: medium.clone() },
        AdminOp::ReplaceDrive { drive: DriveId(4), medium: NewMedium { capacity_bytes: None, ..medium.clone() } },
        AdminOp::OpenDrive { medium, instead_of: Some(DriveId(4)) },
    ];
    ops.into_iter().map(|op| NodeOp::Admin(Box::new(op)))
}

pub(crate) fn answers() -> Vec<(&'static str, AdminAnswer)> {
    let state = RepairState { marked: LayoutId(3), settled: LayoutId(2), unsettled: 4, line: 1, count: count() };
    let group = GroupRepair { group: GroupId(2), newest: LayoutId(5), state: Some(state), error: Some("e".into()) };
    let added =
        AddedDrive { drive: DriveId(5), node: NodeId(4), capacity_bytes: 3 << 40, instead_of: Some(DriveId(4)) };
    vec![
        ("PlanPage", AdminAnswer::PlanPage { plan: Plan::default(), next: Some(ActorId(7)) }),
        ("Repair", AdminAnswer::Repair(vec![group])),
        ("Scrub", AdminAnswer::Scrub(vec![(DriveId(4), None), (DriveId(5), Some("e".into()))])),
        ("Added", AdminAnswer::Added(added)),
    ]
}
