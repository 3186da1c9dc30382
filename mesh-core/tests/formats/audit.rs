//! What is ordered, noted, asked and told of the audit log.

use mesh_core::{
    audit::{AuditAnswer, AuditOp, By, Deed, Log, Page},
    id::{DriveId, GroupId, NodeId},
    meta::{Command, MeshCommand, MetaAnswer, Query},
    op::{AdminAnswer, AdminOp, NodeOp},
    time::UnixMillis,
};

pub(crate) fn by() -> By {
    By::Administrator { name: "ops".into(), via: NodeId(2) }
}

pub(crate) fn deed() -> Deed {
    Deed::DriveOrdered { node: NodeId(4), path: "/mnt/nvme4".into(), instead_of: Some(DriveId(5)) }
}

pub(crate) fn ordered() -> Command {
    let order = MeshCommand::Noted { deed: Deed::BackedUp { group: GroupId(0) }, chance: 3 };
    Command::Ordered { by: by(), at: UnixMillis(9), order }
}

pub(crate) fn query() -> Query {
    Query::Audit { from: 6 }
}

fn log() -> Log {
    Log { first: 4, next: 7, base: [1; 32], head: [2; 32], bytes: 400, swept: 3 }
}

fn page() -> Page {
    Page { log: log(), lines: vec!["{}".into()] }
}

pub(crate) fn answer() -> MetaAnswer {
    MetaAnswer::Audit(page())
}

pub(crate) fn ops() -> impl Iterator<Item = NodeOp> {
    let ops = [AuditOp::Page { from: 6 }, AuditOp::Forget { first: 6, digest: "0".repeat(64) }];
    ops.into_iter().map(|op| NodeOp::Admin(Box::new(AdminOp::Audit(op))))
}

pub(crate) fn answers() -> Vec<(&'static str, AdminAnswer)> {
    [("AuditPage", AuditAnswer::Page(page())), ("AuditLog", AuditAnswer::Log(log()))]
        .map(|(name, answer)| (name, AdminAnswer::Audit(answer)))
        .into()
}
