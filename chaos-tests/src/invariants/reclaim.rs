//! Space comes back: what was overwritten, deleted or aborted is deleted from the drives after its grace, and forgotten.

use mesh_core::{
    id::{DriveId, WriteId},
    meta::{GarbagePage, MetaAnswer, Query},
    time::UnixMillis,
};

use crate::{cluster::NAMESPACE, world::World};

/// Writes that wait to be reclaimed.
#[must_use]
pub fn garbage(world: &mut World) -> Vec<WriteId> {
    look(world, 100).rows.into_iter().map(|row| row.extent.write).collect()
}

/// Drives that are owed deletions.
#[must_use]
pub fn owing(world: &mut World) -> Vec<DriveId> {
    look(world, 0).owing
}

fn look(world: &mut World, limit: u32) -> GarbagePage {
    let query = Query::Garbage { before: UnixMillis(u64::MAX), after: None, limit };
    match world.metadata.peek(NAMESPACE, &query) {
        Ok(MetaAnswer::Garbage(page)) => page,
        // Not an answer to the question: the checker must not pass for want of one.
        other => panic!("the groups answer {other:?} when asked for garbage"),
    }
}
