//! The control group: which function does what a command asks.

use mesh_core::{
    Error,
    meta::{BucketCommand, MeshCommand, MetaAnswer},
};

use super::{audit, buckets, cluster, departures, ends, level, placement, rows::Rows, stages, tenants};

/// Buckets' names.
pub(super) fn bucket(rows: &mut Rows<'_>, command: &BucketCommand) -> Result<MetaAnswer, Error> {
    match command {
        BucketCommand::CreateBucket { name, tenant, created, settings, .. } => {
            buckets::create(rows, name, *tenant, *created, *settings)
        }
        BucketCommand::RemoveBucket { bucket } => buckets::remove(rows, *bucket),
    }
}

/// The mesh.
pub(super) fn mesh(rows: &mut Rows<'_>, command: &MeshCommand) -> Result<MetaAnswer, Error> {
    match command {
        MeshCommand::Form { cluster, code, namespaces } => cluster::form(rows, *cluster, *code, *namespaces),
        MeshCommand::PutNode(node) => cluster::put_node(rows, node),
        MeshCommand::Invite { node, invitation } => cluster::invite(rows, *node, *invitation),
        MeshCommand::PutDrive { drive, node, capacity_bytes } => {
            cluster::put_drive(rows, *drive, *node, *capacity_bytes, None, None)
        }
        MeshCommand::TakeDrive { drive, node, start, capacity_bytes, after, instead_of } => {
            cluster::put_drive(rows, *drive, *node, *capacity_bytes, Some((*start, *after)), *instead_of)
        }
        MeshCommand::LoseDrive { drive } => cluster::lose_drive(rows, *drive),
        MeshCommand::PutLayout(layout) => cluster::put_layout(rows, layout),
        MeshCommand::CreateTenant(row) => tenants::create(rows, row),
        MeshCommand::SetLimits { tenant, limits } => tenants::set_limits(rows, *tenant, *limits),
        MeshCommand::PutPrincipal(row) => tenants::put_principal(rows, row),
        MeshCommand::DropPrincipal { tenant, name } => tenants::drop_principal(rows, *tenant, name),
        MeshCommand::RotateKey { tenant, after, wrapped } => tenants::rotate_key(rows, *tenant, *after, wrapped),
        MeshCommand::EndTenant { tenant, at, everything } => ends::end(rows, *tenant, *at, *everything),
        MeshCommand::DropTenant { tenant } => ends::drop(rows, *tenant),
        MeshCommand::PutAccessKey(row) => tenants::put_access_key(rows, row),
        MeshCommand::DropAccessKey { access } => tenants::drop_access_key(rows, access),
        MeshCommand::Assign(assignment) => placement::assign(rows, *assignment),
        MeshCommand::BeginMove { actor, epoch, id, to } => placement::begin(rows, *actor, *epoch, *id, *to),
        MeshCommand::CommitMove { actor, epoch, id } => placement::commit(rows, *actor, *epoch, *id),
        MeshCommand::AbortMove { actor, epoch, id } => placement::abort(rows, *actor, *epoch, *id),
        MeshCommand::SetTail { actor, epoch, tail } => placement::set_tail(rows, *actor, *epoch, *tail),
        MeshCommand::SetWish { scope, wish } => placement::set_wish(rows, *scope, *wish),
        MeshCommand::Drain { node, draining } => placement::drain(rows, *node, *draining),
        MeshCommand::SetStages { scope, stages } => stages::set(rows, *scope, stages),
        MeshCommand::RaiseLevel(level) => level::raise(rows, *level),
        MeshCommand::DrainDrive { drive, draining } => cluster::drain_drive(rows, *drive, *draining),
        MeshCommand::RemoveDrive { drive, layout } => cluster::remove_drive(rows, *drive, *layout),
        MeshCommand::LeaveNode { node, leaving } => departures::leave(rows, *node, *leaving),
        MeshCommand::RemoveNode { node, empty } => departures::remove(rows, *node, *empty),
        MeshCommand::Noted { deed, chance } => audit::note(rows, deed, *chance),
        MeshCommand::ForgetAudit { first } => audit::forget(rows, *first),
        MeshCommand::FencedNode { node } => departures::fenced(rows, *node),
        MeshCommand::PutOut { drives, out } => cluster::put_out(rows, drives, *out),
    }
}
