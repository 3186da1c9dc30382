//! What administrators ask about drives, nodes and repair, and what they are told.

use mesh_core::{
    id::{ActorId, DriveId, GroupId, Incarnation, LayoutId, NodeId, ReplicaId},
    meta::RepairState,
    op::{
        AddedDrive, AdminAnswer, AdminOp, BackupAt, BackupPage, Condition, Fate, Force, GroupRepair, LogEnd, NewMedium,
        NodeFigures, NodeOp, NodeReplicas, Recovery, RecoveryPlan, ReplicaReport, Timeline, Work,
    },
    plan::Plan,
    time::UnixMillis,
};

use crate::{audit, samples::count};

const REPLICA: ReplicaId = ReplicaId::new(NodeId(1), 9);
const END: LogEnd = LogEnd { term: 2, index: 3 };
const AT: BackupAt = BackupAt { node: NodeId(1), number: 2, page: 3 };

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
        AdminOp::Recover { accept: Some(recovery_plan()) },
        AdminOp::Replicas,
        AdminOp::Force(Force {
            group: GroupId(1),
            survivor: Some((REPLICA, END)),
            recovery: Recovery {
                lost: vec![NodeId(2)],
                at: UnixMillis(6),
                chance: 7,
                restores: true,
                by: Some(audit::by()),
            },
        }),
        AdminOp::Backup { group: GroupId(1), from: Some(AT) },
        AdminOp::LoseDrive { drive: DriveId(4) },
        AdminOp::Figures { node: NodeId(4) },
    ];
    ops.into_iter().map(|op| NodeOp::Admin(Box::new(op)))
}

fn recovery_plan() -> RecoveryPlan {
    let on = NodeId(1);
    let fates =
        [Fate::Led { by: on }, Fate::Elects, Fate::Survives { on, replica: REPLICA, end: END }, Fate::Gone { on }];
    let groups = (0..).map(GroupId).zip(fates).collect();
    let damaged = vec![(GroupId(2), NodeId(4))];
    RecoveryPlan { lost: vec![NodeId(2)], silent: vec![NodeId(3)], groups, damaged }
}

pub(crate) fn answers() -> Vec<(&'static str, AdminAnswer)> {
    let state = RepairState { marked: LayoutId(3), settled: LayoutId(2), unsettled: 4, line: 1, count: count() };
    let group = GroupRepair { group: GroupId(2), newest: LayoutId(5), state: Some(state), error: Some("e".into()) };
    let added =
        AddedDrive { drive: DriveId(5), node: NodeId(4), capacity_bytes: 3 << 40, instead_of: Some(DriveId(4)) };
    let voters = vec![vec![REPLICA]];
    let replica = ReplicaReport {
        group: GroupId(1),
        replica: REPLICA,
        condition: Condition::Stopped,
        leads: false,
        voters,
        end: Some(END),
        timeline: Timeline { at: UnixMillis(160), chance: 161 },
    };
    vec![
        ("PlanPage", AdminAnswer::PlanPage { plan: Plan::default(), next: Some(ActorId(7)) }),
        ("Repair", AdminAnswer::Repair(vec![group])),
        ("Scrub", AdminAnswer::Scrub(vec![(DriveId(4), None), (DriveId(5), Some("e".into()))])),
        ("Added", AdminAnswer::Added(added)),
        ("Recovery", AdminAnswer::Recovery(recovery_plan())),
        (
            "Replicas",
            AdminAnswer::Replicas(NodeReplicas {
                hosts: vec![NodeId(1)],
                sees: vec![NodeId(2)],
                is_unusable: true,
                replicas: vec![replica],
                at: UnixMillis(1_800_000_000_000),
            }),
        ),
        ("Forced", AdminAnswer::Forced(REPLICA)),
        ("Backup", AdminAnswer::Backup(BackupPage { next: Some(AT), end: Some((4, 5)) })),
        ("Figures", AdminAnswer::Figures(Box::new(figures()))),
    ]
}

fn figures() -> NodeFigures {
    let work = |first| Work {
        requests: first,
        failed: first + 1,
        received_bytes: first + 2,
        sent_bytes: first + 3,
        took: vec![first + 4, 0],
    };
    NodeFigures {
        node: NodeId(4),
        incarnation: Incarnation(5),
        at_ns: 6,
        cpu_ns: 7,
        resident_bytes: 8,
        front: Some(work(10)),
        front_open: 9,
        chains: work(20),
        drives: work(30),
        leaving_drives: 40,
    }
}
