//! What administrators ask about who may use the mesh, and what they are told.

use mesh_core::{
    id::{KeyId, TenantId},
    meta::{Grant, TenantLimits},
    op::{
        AccessAnswer, AccessOp, AdminAnswer, AdminOp, LimitChange, NewKey, NodeOp, TenantReport, TenantUsage,
        UserReport,
    },
    time::UnixMillis,
};

use crate::audit;

const TENANT: TenantId = TenantId(3);

fn limits() -> TenantLimits {
    TenantLimits { quota_bytes: Some(1 << 40), requests_per_second: Some(1000), bytes_per_second: None }
}

fn grants() -> Vec<Grant> {
    vec![Grant { bucket: "logs-*".into(), read: true, write: false, admin: false }]
}

pub(crate) fn ops() -> impl Iterator<Item = NodeOp> {
    let (tenant, user) = (|| "acme".to_owned(), || "ann".to_owned());
    let change = LimitChange { quota_bytes: Some(None), requests_per_second: Some(Some(5)), bytes_per_second: None };
    let ops = [
        AccessOp::Tenants { after: Some(TENANT) },
        AccessOp::CreateTenant { name: tenant(), limits: limits() },
        AccessOp::Limit { tenant: tenant(), change },
        AccessOp::Usage { tenant: tenant() },
        AccessOp::Users { tenant: tenant(), after: Some(user()) },
        AccessOp::CreateKey { tenant: tenant(), user: user(), grants: Some(grants()) },
        AccessOp::Grant { tenant: tenant(), user: user(), new: true, grants: grants() },
        AccessOp::RevokeKey { access: "AKMESH0000000001".into() },
        AccessOp::DropUser { tenant: tenant(), user: user() },
        AccessOp::RotateKey { tenant: tenant() },
        AccessOp::DeleteTenant { tenant: tenant(), everything: true },
    ];
    ops.into_iter().map(|op| NodeOp::Admin(Box::new(AdminOp::Access(op)))).chain(audit::ops())
}

pub(crate) fn answers() -> Vec<(&'static str, AdminAnswer)> {
    let report = TenantReport {
        id: TENANT,
        name: "acme".into(),
        limits: limits(),
        users: 1,
        keys: 2,
        key: KeyId(42),
        past_keys: 6,
        ended: Some(UnixMillis(7)),
    };
    let usage = TenantUsage { id: TENANT, name: "acme".into(), bytes: 4, objects: 5, limits: limits() };
    let user = UserReport { name: "ann".into(), grants: grants(), keys: vec!["AKMESH0000000001".into()] };
    let key = NewKey { access: "AKMESH0000000001".into(), secret: "S".into() };
    [
        ("AccessDone", AccessAnswer::Done),
        ("Tenant", AccessAnswer::Tenant(report.clone())),
        ("Tenants", AccessAnswer::Tenants { tenants: vec![report], next: Some(TENANT) }),
        ("Usage", AccessAnswer::Usage(usage)),
        ("Users", AccessAnswer::Users { users: vec![user], next: Some("ann".into()) }),
        ("Key", AccessAnswer::Key(key)),
    ]
    .map(|(name, answer)| (name, AdminAnswer::Access(answer)))
    .into_iter()
    .chain(audit::answers())
    .collect()
}
