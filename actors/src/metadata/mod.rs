//! Metadata groups: a pure state machine over an ordered table. Its replicas, durable, are in the crate that hosts functions.
//!
//! * [`state`] decides: `apply` and `query`, deterministic, without I/O. [`keys`] draws where its rows are.
//! * [`table`] is what it decides over.
//! * [`audit`] follows the chain of the audit log.
//! * [`memory`] is the linearizable stand-in for simulations and tests.

pub mod audit;
mod keys;
pub mod memory;
pub mod state;
pub mod table;

pub use memory::MemoryMetadata;
pub use state::{apply, control_after, control_view, query};
pub use table::{Change, MemoryTable, Table};
