//! `mesh scrub --now`: has drives read everything back at once.

use std::sync::Arc;

use futures_util::future::join_all;
use mesh_core::{
    Error, ErrorKind, Request,
    id::{ActorId, DriveId},
    op::ShardOp,
    time::Instant,
};

use crate::node::Inner;

/// Asks these drives, or all that there are; with why each has not begun, if it has not.
///
/// # Errors
/// `NotFound`: there is no such drive; none is asked then.
pub(crate) async fn begin(
    node: &Arc<Inner>,
    drives: Vec<DriveId>,
    rate: u64,
    deadline: Instant,
) -> Result<Vec<(DriveId, Option<String>)>, Error> {
    let control = node.metadata.control();
    if let Some(unknown) = drives.iter().find(|drive| !control.drives.contains_key(drive)) {
        return Err(Error::new(ErrorKind::NotFound, "there is no such drive: see mesh scrub").with("drive", unknown));
    }
    let drives = if drives.is_empty() { control.drives.keys().copied().collect() } else { drives };
    let asked = drives.into_iter().map(async |drive| {
        let request = Request::system(ShardOp::Scrub { rate }, deadline);
        let outcome = node.host.request(ActorId::drive(drive), request).await;
        (drive, outcome.err().map(|error| error.to_string()))
    });
    Ok(join_all(asked).await)
}
