//! Space comes back: what was overwritten, deleted or aborted is deleted from the drives after its grace, and forgotten.

use mesh_core::{
    id::WriteId,
    meta::{MetaAnswer, Query},
    time::UnixMillis,
};

use crate::{cluster::NAMESPACE, world::World};

/// Writes that wait to be reclaimed.
#[must_use]
pub fn garbage(world: &mut World) -> Vec<WriteId> {
    let query = Query::Garbage { before: UnixMillis(u64::MAX), limit: 100 };
    match world.metadata.peek(NAMESPACE, &query) {
        Ok(MetaAnswer::Garbage(rows)) => rows.into_iter().map(|row| row.extent.write).collect(),
        // Not an answer to the question: the checker must not pass for want of one.
        other => panic!("the groups answer {other:?} when asked for garbage"),
    }
}
