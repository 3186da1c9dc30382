//! The state machine of a metadata group: a pure function from a table and a command to changes and an answer.
//!
//! Deterministic: it reads no clock, draws no random number, and touches nothing but the table it is given. A command
//! that fails changes nothing but the memory that it failed. A command that is sent twice has the effect and the answer of
//! one, with the exceptions that [`mesh_core::meta::Command`] names (`PutDrive` gives a new epoch each time).
//!
//! One file a family of commands: [`cluster`], [`tenants`], [`buckets`], [`placement`], [`stages`] in the control group;
//! [`blocks`], [`objects`], [`uploads`], [`waste`], [`owed`] in namespace groups; [`sessions`] in both; [`listing`]
//! answers pages, [`view`] shows the control group.

mod blocks;
mod buckets;
mod cluster;
mod listing;
mod objects;
mod owed;
mod placement;
mod rows;
mod sessions;
mod stages;
mod tenants;
mod uploads;
mod view;
mod waste;

#[cfg(test)]
mod tests;

use mesh_core::{
    Error,
    id::GroupId,
    meta::{Command, ControlView, MetaAnswer, Query},
};

use self::rows::Rows;
use super::table::{Change, Table};

/// Applies one command: the changes to make to the table, together, and what to answer. On an error there are none, but
/// for the memory of what was said to a numbered command.
///
/// An error of kind `DriveFailed`, `Corrupt` or `Bug` says that the table could not be read: then nothing was decided,
/// and the replica must stop. Every other error is part of the state machine: all replicas say the same.
pub fn apply(table: &dyn Table, group: GroupId, command: &Command) -> (Vec<Change>, Result<MetaAnswer, Error>) {
    let mut rows = Rows::new(table, group);
    let outcome = match command.proposer() {
        Some(proposer) => sessions::once(&mut rows, *proposer, |rows| decide(rows, command)),
        None => decide(&mut rows, command).inspect_err(|_| rows.undo()),
    };
    (rows.into_changes(), outcome)
}

/// Answers a question from the table as it is.
///
/// # Errors
/// As [`Query`] names them; `Invalid` for a question to the wrong kind of group.
pub fn query(table: &dyn Table, group: GroupId, query: &Query) -> Result<MetaAnswer, Error> {
    let rows = Rows::new(table, group);
    let control = matches!(query, Query::Bucket { .. } | Query::Buckets { .. } | Query::Control | Query::Drive { .. });
    rows.expect_kind(control)?;
    match query {
        Query::Bucket { name } => buckets::by_name(&rows, name),
        Query::Buckets { tenant } => buckets::of_tenant(&rows, *tenant),
        Query::Control => view::whole(table).map(|view| MetaAnswer::Control(view.into())),
        Query::Object { bucket, key } => objects::object(&rows, bucket, key),
        Query::List { bucket, prefix, delimiter, after, limit } => {
            let page = listing::Page { prefix, delimiter: delimiter.as_deref(), after, limit: *limit };
            listing::list(&rows, bucket, &page)
        }
        Query::Upload { bucket, upload } => uploads::upload(&rows, bucket, *upload),
        Query::Uploads { bucket, prefix, after, limit } => {
            listing::uploads(&rows, bucket, prefix, after.as_ref(), *limit)
        }
        Query::Parts { bucket, upload, after, limit } => listing::parts(&rows, bucket, *upload, *after, *limit),
        Query::Extents { bucket, upload, offset, limit } => listing::extents(&rows, bucket, *upload, *offset, *limit),
        Query::Garbage { before, after, limit } => waste::older_than(&rows, *before, *after, *limit),
        Query::Usage { tenant } => {
            let usage = rows.usage(*tenant)?;
            Ok(MetaAnswer::Usage { bytes: usage.bytes, objects: usage.objects })
        }
        Query::Referenced { writes } => waste::referenced(&rows, writes),
        Query::ClosedBlocks { after, limit } => blocks::closed(&rows, *after, *limit),
        Query::Owed { drive, limit } => owed::page(&rows, *drive, *limit),
        Query::Drive { drive } => cluster::last_epoch(&rows, *drive),
    }
}

/// The control group's contents, buckets apart, out of all of its rows.
///
/// # Errors
/// `DriveFailed` or `Corrupt`: the table cannot be read.
pub fn control_view(table: &dyn Table) -> Result<ControlView, Error> {
    view::whole(table)
}

/// The control group's contents after changes, ascending by key, that [`apply`] gave for the state that `before` shows;
/// `None` if they change nothing that it shows. Costs what the changes cost, however much there is.
///
/// # Errors
/// `Corrupt`: a change cannot be read.
pub fn control_after(before: &ControlView, changes: &[Change]) -> Result<Option<ControlView>, Error> {
    view::after(before, changes)
}

fn decide(rows: &mut Rows<'_>, command: &Command) -> Result<MetaAnswer, Error> {
    if !matches!(command, Command::OpenSession { .. }) {
        rows.expect_kind(is_control(command))?;
    }
    match command {
        Command::OpenSession { actor, session } => sessions::open(rows, *actor, *session),
        Command::Form { cluster, code, namespaces } => cluster::form(rows, *cluster, *code, *namespaces),
        Command::PutNode(node) => cluster::put_node(rows, node),
        Command::Invite { node, invitation } => cluster::invite(rows, *node, *invitation),
        Command::LoseDrive { drive } => cluster::lose_drive(rows, *drive),
        Command::PutDrive { drive, node, capacity_bytes } => {
            cluster::put_drive(rows, *drive, *node, *capacity_bytes, None)
        }
        Command::TakeDrive { drive, node, capacity_bytes, after } => {
            cluster::put_drive(rows, *drive, *node, *capacity_bytes, Some(*after))
        }
        Command::PutLayout(layout) => cluster::put_layout(rows, layout),
        Command::Assign(assignment) => placement::assign(rows, *assignment),
        Command::BeginMove { actor, epoch, id, to } => placement::begin(rows, *actor, *epoch, *id, *to),
        Command::CommitMove { actor, epoch, id } => placement::commit(rows, *actor, *epoch, *id),
        Command::AbortMove { actor, epoch, id } => placement::abort(rows, *actor, *epoch, *id),
        Command::SetTail { actor, epoch, tail } => placement::set_tail(rows, *actor, *epoch, *tail),
        Command::SetWish { scope, wish } => placement::set_wish(rows, *scope, *wish),
        Command::Drain { node, draining } => placement::drain(rows, *node, *draining),
        Command::SetStages { scope, stages } => stages::set(rows, *scope, stages),
        Command::CreateTenant(row) => tenants::create(rows, row),
        Command::SetLimits { tenant, limits } => tenants::set_limits(rows, *tenant, *limits),
        Command::PutPrincipal(row) => tenants::put_principal(rows, row),
        Command::PutAccessKey(row) => tenants::put_access_key(rows, row),
        Command::DropAccessKey { access } => tenants::drop_access_key(rows, access),
        Command::CreateBucket { name, tenant, created, .. } => buckets::create(rows, name, *tenant, *created),
        Command::RemoveBucket { bucket } => buckets::remove(rows, *bucket),
        Command::SealBucket { bucket, .. } => buckets::seal(rows, *bucket),
        Command::OpenBlock { proposer } => blocks::open(rows, proposer.actor),
        Command::CloseBlock { first } => blocks::close(rows, *first),
        Command::SweptBlock { first } => blocks::swept(rows, *first),
        Command::PutObject { proposer, bucket, key, row, precondition, quota_bytes } => {
            let place = objects::Place { actor: proposer.actor, bucket, key };
            objects::put(rows, place, row, precondition, *quota_bytes)
        }
        Command::DeleteObject { bucket, key, at, precondition, .. } => {
            objects::delete(rows, bucket, key, *at, precondition)
        }
        Command::CreateUpload { proposer, bucket, row } => uploads::create(rows, proposer.actor, bucket, row),
        Command::PutPart { proposer, bucket, upload, part, quota_bytes } => {
            uploads::put_part(rows, proposer.actor, bucket, *upload, part, *quota_bytes)
        }
        Command::CompleteUpload { bucket, key, upload, parts, etag, checksums, at, precondition, .. } => {
            let end = uploads::Completion { upload: *upload, parts, etag, checksums, at: *at };
            uploads::complete(rows, (bucket, key), &end, precondition)
        }
        Command::AbortUpload { bucket, upload, at, .. } => uploads::abort(rows, bucket, *upload, *at),
        Command::DropGarbage { writes } => waste::drop_garbage(rows, writes),
        Command::OweGarbage { owed } => owed::owe(rows, owed),
        Command::PayOwed { drive, writes } => owed::pay(rows, *drive, writes),
    }
}

/// Whether a command is for the control group; the others are for namespace groups (`OpenSession` for both).
fn is_control(command: &Command) -> bool {
    match command {
        Command::Form { .. }
        | Command::PutNode(_)
        | Command::Invite { .. }
        | Command::PutDrive { .. }
        | Command::LoseDrive { .. }
        | Command::TakeDrive { .. }
        | Command::PutLayout(_)
        | Command::Assign(_)
        | Command::BeginMove { .. }
        | Command::CommitMove { .. }
        | Command::AbortMove { .. }
        | Command::SetWish { .. }
        | Command::Drain { .. }
        | Command::SetStages { .. }
        | Command::SetTail { .. }
        | Command::CreateTenant(_)
        | Command::SetLimits { .. }
        | Command::PutPrincipal(_)
        | Command::PutAccessKey(_)
        | Command::DropAccessKey { .. }
        | Command::CreateBucket { .. }
        | Command::RemoveBucket { .. } => true,
        Command::OpenSession { .. }
        | Command::OpenBlock { .. }
        | Command::CloseBlock { .. }
        | Command::SweptBlock { .. }
        | Command::PutObject { .. }
        | Command::DeleteObject { .. }
        | Command::CreateUpload { .. }
        | Command::PutPart { .. }
        | Command::CompleteUpload { .. }
        | Command::AbortUpload { .. }
        | Command::DropGarbage { .. }
        | Command::OweGarbage { .. }
        | Command::PayOwed { .. }
        | Command::SealBucket { .. } => false,
    }
}
