//! The audit log, as administrators ask for it.

use std::sync::Arc;

use mesh_actors::metadata::audit::Chain;
use mesh_core::{
    Error, ErrorKind,
    audit::{By, Log, Page, hex},
    id::GroupId,
    meta::{Level, MeshCommand, MetaAnswer, Query},
    time::Instant,
};

use crate::node::Inner;

/// Some entries from one on, as the control group has them now.
///
/// # Errors
/// `Unsupported` while a node does not know of the log; as [`Inner::ask_group`].
pub(crate) async fn page(node: &Inner, from: u64, deadline: Instant) -> Result<Page, Error> {
    node.metadata.control().can(Level::AUDIT)?;
    match &*node.ask_group(GroupId::CONTROL, Query::Audit { from }, deadline).await? {
        MetaAnswer::Audit(page) => Ok(page.clone()),
        _ => Err(Error::bug("the control group was asked for entries and said something else")),
    }
}

/// Keeps no entries before one, of which somebody has the one before it elsewhere.
///
/// # Errors
/// `Conflict` if that is another one than is here; `NotFound` if there is none.
pub(crate) async fn forget(
    node: &Arc<Inner>,
    by: &By,
    first: u64,
    known: &str,
    deadline: Instant,
) -> Result<Log, Error> {
    let newest = page(node, first, deadline).await?;
    let log = newest.log;
    if first > log.next {
        return Err(Error::new(ErrorKind::NotFound, "there is no such entry yet").with("next", log.next));
    }
    if first > log.first {
        let before = match newest.lines.first() {
            Some(line) => Chain::from(line)?.head,
            None => log.head,
        };
        if hex(&before) != known {
            let what = "the entry before it is another one than what you have of it: look with `mesh audit verify`";
            return Err(Error::new(ErrorKind::Conflict, what).with("is", hex(&before)).with("said", known));
        }
    }
    // Until all that is kept no more is gone, some at a time.
    loop {
        node.order(by, MeshCommand::ForgetAudit { first }).await?;
        let now = page(node, u64::MAX, deadline).await?.log;
        if now.swept == now.first {
            return Ok(now);
        }
    }
}
