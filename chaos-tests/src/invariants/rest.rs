//! At rest nothing is left: no request unanswered, no call or work out, nothing in flight, nothing parked forever.

use crate::world::World;

/// What is unfinished in a world that should be at rest.
#[must_use]
pub fn unfinished(world: &World) -> Option<String> {
    let left = world.unfinished();
    if left.is_empty() { None } else { Some(format!("not finished at rest: {}", left.join("; "))) }
}
