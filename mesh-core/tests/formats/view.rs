//! What the control group shows everybody.

use std::sync::Arc;

use mesh_core::{
    assignment::{Scope, Tail, Wish},
    id::{ActorId, DriveId, KeyId, LayoutId, NodeId, TenantId},
    meta::{ControlView, EndedTenant, Level, PastKey},
    time::UnixMillis,
    topology::{Code, Departure, DriveInfo, Leaving},
};

use crate::{
    places::layout,
    samples::{
        access_key_row, assignment, cluster, drive_info, node_info, principal_row, stages, tenant_row, wish,
        wrapped_key,
    },
};

pub(crate) fn control_view() -> ControlView {
    ControlView {
        cluster: Some(cluster()),
        code: Some(Code { data: 4, parity: 2 }),
        namespaces: 8,
        nodes: [(NodeId(51), node_info())].into(),
        drives: [(DriveId(61), drive_info())].into(),
        layouts: [(LayoutId(9), Arc::new(layout()))].into(),
        tenants: [(TenantId(41), Arc::new(tenant_row()))].into(),
        principals: vec![Arc::new(principal_row())].into(),
        access_keys: [("AKMESH0000000001".to_owned(), Arc::new(access_key_row()))].into(),
        assignments: [(assignment().actor, assignment())].into(),
        wishes: [(Scope::Mesh, wish()), (Scope::Tenant(TenantId(41)), Wish::default())].into(),
        tails: [(ActorId(1), Tail { cut: 2, node: NodeId(3) })].into(),
        stages: [(Scope::Mesh, stages().into())].into(),
        lost: [(DriveId(62), DriveInfo { id: DriveId(62), ..drive_info() })].into(),
        level: Level(153),
        leaving: [(DriveId(61), Leaving::Away)].into(),
        departures: [(NodeId(52), Departure::Fenced)].into(),
        codes: vec![Code { data: 1, parity: 1 }],
        ended: [(TenantId(43), Arc::new(EndedTenant { name: "initech".into(), since: UnixMillis(44) }))].into(),
        past_keys: [(KeyId(40), PastKey { tenant: TenantId(41), wrapped: wrapped_key() })].into(),
    }
}
