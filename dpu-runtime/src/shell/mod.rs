//! The shell: the only place where functions meet a runtime.
//!
//! A [`Host`] is a node's table of actors. Each actor is a function in a thin ractor actor ([`cell`]): it turns a
//! message into an [`mesh_core::Event`], calls `on_event`, and carries the effects out; it never waits. Requests take a
//! credit (jobs and bytes) before they enter a mailbox, and the permit drops with the reply. A function that panics
//! fails the requests in flight with `Restarted`, and is built again from its spec; the node lives on. What actors were asked and
//! what became of it is counted in `figures`.
//!
//! Actors are never named in ractor's registry, which is a process global: many nodes live in one process.

mod calls;
mod cell;
mod credits;
mod figures;
mod host;
mod moves;
mod supervisor;
mod workers;

pub use credits::{Credits, Permit};
pub use host::{ActorSetup, ActorStats, Build, Host, Inventory, Onward, Ports};
pub use mesh_placement::doors::{Directory, Place};
pub use workers::Workers;

#[cfg(test)]
mod tests;
