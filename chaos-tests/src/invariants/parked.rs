//! Nothing waits for ever at the gate of an actor that moves: once everything works, no longer than a bound.

use core::time::Duration;

use crate::world::World;

/// A request that has waited for longer than `bound`.
#[must_use]
pub fn parked_since(world: &World, bound: Duration) -> Option<String> {
    let (node, actor, since) = world.parked().min_by_key(|(_, _, since)| *since)?;
    let waited = world.now().since(since);
    (waited > bound).then(|| format!("{node} {actor}: a request has waited at the gate for {waited:?}"))
}
