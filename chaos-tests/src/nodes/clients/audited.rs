//! Whether the audit log has what was ordered, in a chain that is whole.

use std::sync::{Arc, Mutex};

use mesh::Client;
use mesh_actors::metadata::audit::{self, Chain};
use mesh_core::{
    Error,
    audit::{AuditAnswer, AuditOp, By, Log, What},
    op::{AccessOp, AdminOp},
};
use mesh_transport::End;

use super::{Clients, Seen, USER, orders::Told};
use crate::nodes::lock;

/// What administrators have ordered that must be in the log.
#[derive(Default)]
pub(super) struct Granted {
    /// Since when the mesh keeps a log.
    kept_since: Option<u64>,
    /// What was granted, with when it was ordered first.
    orders: Vec<(u64, AdminOp)>,
}

impl Seen {
    /// The mesh keeps a log, at the latest from now on.
    pub(in crate::nodes) fn keeps_a_log(&self) {
        let now = self.now();
        lock(&self.book).granted.kept_since.get_or_insert(now);
    }

    /// Notes that something was carried out that was ordered first at that time.
    pub(super) fn was_granted(&self, first: u64, op: &AdminOp) {
        lock(&self.book).granted.orders.push((first, op.clone()));
    }

    /// What was ordered since there is a log.
    fn audited(&self) -> Vec<AdminOp> {
        let book = lock(&self.book);
        let Some(since) = book.granted.kept_since else { return Vec::new() };
        let later = book.granted.orders.iter().filter(|(first, _)| *first > since);
        later.map(|(_, op)| op.clone()).collect()
    }
}

impl Clients {
    /// Asks whether everything is in the audit log that was ordered since there is one.
    pub(in crate::nodes) fn ask_whether_audited(&self, told: &Arc<Mutex<Told>>) -> Option<End> {
        if !lock(told).ask() {
            return None;
        }
        let (client, end) = self.administrator();
        let (told, seen) = (told.clone(), self.seen.clone());
        self.runtime.spawn(async move {
            let began = seen.now() / 1_000_000;
            let lacks = match said(&client).await {
                Ok(entries) => seen.audited().iter().find(|op| !entries.iter().any(|one| is_of(op, one))).map(|op| {
                    format!("{op:?} was granted, and of {} entries of the audit log none says so", entries.len())
                }),
                Err(error) => {
                    if super::is_wrong(&error) {
                        seen.broken(format!("the audit log: {error}"));
                    }
                    Some(error.to_string())
                }
            };
            lock(&told).was_told(began, lacks);
        });
        Some(end)
    }
}

/// All entries, of a chain that is whole.
async fn said(client: &Client) -> Result<Vec<(By, What)>, Error> {
    let page = async |from| match client.audit(AuditOp::Page { from }).await? {
        AuditAnswer::Page(page) => Ok(page),
        AuditAnswer::Log(_) => Err(Error::bug("entries were asked for, and something else was told")),
    };
    let (mut chain, mut entries) = (Chain::WHOLE, Vec::new());
    loop {
        let page = page(chain.next).await?;
        for line in &page.lines {
            chain.follow(line)?;
            let entry = audit::entry(line)?;
            entries.push((entry.by, entry.what));
        }
        let Log { next, head, .. } = page.log;
        if chain == (Chain { next, head }) {
            return Ok(entries);
        }
        if page.lines.is_empty() {
            return Err(Error::bug("the audit log has fewer entries than it says").with("next", next));
        }
    }
}

/// Whether an entry is of an order. Of what may have been so before it says nothing.
fn is_of(op: &AdminOp, (by, what): &(By, What)) -> bool {
    let is_ours = matches!(by, By::Administrator { name, .. } if name == USER);
    match (op, what) {
        (AdminOp::Invite { node, .. }, What::Invited { node: of }) => is_ours && node == of,
        (AdminOp::LoseDrive { drive }, What::DriveLost { drive: of }) => is_ours && drive == of,
        (AdminOp::RemoveDrive { drive }, What::DriveRemoved { drive: of }) => is_ours && drive == of,
        (AdminOp::DrainDrive { drive, draining: true }, What::DriveDrained { drive: of, draining: true }) => {
            is_ours && drive == of
        }
        // What all drives of a node were told already is no news of one; they have its number and one of their own.
        (AdminOp::DrainDrive { drive, draining: true }, What::Leaves { node, leaving: true }) => {
            is_ours && drive.0 / 1000 == node.0
        }
        (AdminOp::LeaveNode { node, leaving: true }, What::Leaves { node: of, leaving: true }) => is_ours && node == of,
        (AdminOp::RemoveNode { node, lost }, What::NodeRemoved { node: of, lost: was }) => {
            is_ours && node == of && lost == was
        }
        (AdminOp::AddDrive { node, medium }, What::DriveOrdered { node: of, path, .. }) => {
            is_ours && node == of && medium.path == *path
        }
        (AdminOp::ReplaceDrive { drive, .. }, What::DriveOrdered { instead_of, .. }) => {
            is_ours && *instead_of == Some(*drive)
        }
        (AdminOp::Access(AccessOp::DeleteTenant { tenant, .. }), What::TenantEnded { name, .. }) => {
            is_ours && tenant == name
        }
        (
            AdminOp::Access(AccessOp::DeleteTenant { .. })
            | AdminOp::Invite { .. }
            | AdminOp::LoseDrive { .. }
            | AdminOp::RemoveDrive { .. }
            | AdminOp::DrainDrive { draining: true, .. }
            | AdminOp::LeaveNode { leaving: true, .. }
            | AdminOp::RemoveNode { .. }
            | AdminOp::AddDrive { .. }
            | AdminOp::ReplaceDrive { .. },
            _,
        ) => false,
        _ => true,
    }
}
