//! The state machine of a metadata group: a pure function from a table and a command to changes and an answer.
//!
//! Deterministic: it reads no clock, draws no random number, and touches nothing but the table it is given. A command
//! that fails changes nothing but the memory that it failed. A command that is sent twice has the effect and the answer of
//! one, with the exceptions that [`mesh_core::meta::MeshCommand`] names (`PutDrive` gives a new epoch each time).
//!
//! [`control`] and [`namespace`] say which file does what a command of theirs asks: [`cluster`], [`tenants`], [`buckets`],
//! [`placement`], [`stages`], [`level`] in the control group, where [`audit`] keeps the log of it; [`blocks`], [`objects`], [`uploads`], [`waste`], [`owed`], [`repair`] in
//! namespace groups; [`sessions`] and [`recovery`] in both. [`listing`] answers pages, [`view`] shows the control group.

mod audit;
mod blocks;
mod buckets;
mod cluster;
mod codes;
mod control;
mod departures;
mod ends;
mod level;
mod listing;
mod namespace;
mod objects;
mod owed;
mod placement;
mod recovery;
mod repair;
mod rows;
mod seats;
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
    meta::{Command, ControlView, MetaAnswer, Query, RepairState},
    op::{History, Recovery},
};

use self::rows::Rows;
use super::table::{Change, Table};

/// Applies one command to this group: the changes to make to the table, together, and what to answer. On an error there
/// are none, but for the memory of what was said to a numbered command; none at all for a command that is another group's.
///
/// An error of kind `DriveFailed`, `Corrupt` or `Bug` says that the table could not be read: then nothing was decided,
/// and the replica must stop. Every other error is part of the state machine: all replicas say the same.
pub fn apply(table: &dyn Table, group: GroupId, command: &Command) -> (Vec<Change>, Result<MetaAnswer, Error>) {
    let mut rows = Rows::new(table, group);
    if let Err(error) = expect_own(&rows, command) {
        return (Vec::new(), Err(error));
    }
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
    if let Query::NoMember { .. } = query {
        return Err(Error::new(
            mesh_core::ErrorKind::Unsupported,
            "a group's state does not know its members: its leader does",
        ));
    }
    let control = matches!(
        query,
        Query::Bucket { .. } | Query::Buckets { .. } | Query::Control | Query::Drive { .. } | Query::Audit { .. }
    );
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
        Query::Repair => repair::state(&rows).map(MetaAnswer::Repair),
        Query::Uses { after, limit } => repair::uses(&rows, *after, *limit),
        Query::Unsettled { after, limit } => repair::unsettled(&rows, *after, *limit),
        Query::Drive { drive } => cluster::last_epoch(&rows, *drive),
        Query::Audit { from } => audit::page(&rows, *from).map(MetaAnswer::Audit),
        Query::NoMember { .. } => Err(Error::bug("it was answered above")),
    }
}

/// Has a group go on from less than it may once have had: gives the changes to make to the table, together.
///
/// # Errors
/// As [`apply`]; `Unsupported` if a node that stays runs a build that cannot take others out; `Invalid` if no host would be left.
pub fn recover(table: &dyn Table, group: GroupId, recovery: &Recovery) -> Result<Vec<Change>, Error> {
    let mut rows = Rows::new(table, group);
    recovery::recover(&mut rows, recovery)?;
    Ok(rows.into_changes())
}

/// What a group's state went through.
///
/// # Errors
/// `DriveFailed` or `Corrupt`: the table cannot be read.
pub fn history(table: &dyn Table, group: GroupId) -> Result<History, Error> {
    recovery::of(&Rows::new(table, group))
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

/// How far a namespace group is with repair after changes that [`apply`] gave; `None` if they say nothing of it.
///
/// # Errors
/// As [`control_after`].
pub fn repair_after(changes: &[Change]) -> Result<Option<RepairState>, Error> {
    repair::after(changes)
}

/// Refuses a command that is for another group: whoever brought it here mistook this one for it, or named a group that
/// has no such commands.
fn expect_own(rows: &Rows<'_>, command: &Command) -> Result<(), Error> {
    match command {
        Command::Bucket(_) | Command::Mesh(_) | Command::Ordered { .. } => rows.expect_kind(true),
        Command::Object(bucket, _) => {
            rows.expect_kind(false)?;
            rows.expect_owned(bucket)
        }
        Command::Upkeep(group, _) => {
            rows.expect_kind(false)?;
            rows.expect_group(*group)
        }
        Command::OpenSession { group, .. } => rows.expect_group(*group),
    }
}

fn decide(rows: &mut Rows<'_>, command: &Command) -> Result<MetaAnswer, Error> {
    // Of the control group, which knows the level. Replicas of the others have it from whoever proposes: what is proposed at
    // all, all of them can apply.
    if matches!(command, Command::Bucket(_) | Command::Mesh(_) | Command::Ordered { .. }) {
        level::expect(rows, command.level())?;
    }
    match command {
        Command::Bucket(command) => control::bucket(rows, command),
        Command::Mesh(command) => audit::carry_out(rows, None, command),
        Command::Ordered { by, at, order } => audit::carry_out(rows, Some((by, *at)), order),
        Command::Object(bucket, command) => namespace::object(rows, bucket, command),
        Command::Upkeep(_, command) => namespace::upkeep(rows, command),
        Command::OpenSession { actor, session, .. } => sessions::open(rows, *actor, *session),
    }
}
