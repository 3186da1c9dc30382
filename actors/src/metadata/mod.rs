//! Metadata groups: a pure state machine over an ordered table, and the adapters that give it a place to live.
//!
//! * [`state`] decides: `apply` and `query`, deterministic, without I/O. [`keys`] draws where its rows are.
//! * [`table`] is what it decides over.
//! * [`memory`] is the linearizable stand-in for simulations and tests.
//! * [`raft`] is the real thing: durable, replicated, on every node.

mod keys;
pub mod memory;
pub mod raft;
pub mod state;
pub mod table;

pub use memory::MemoryMetadata;
pub use raft::{RaftConfig, RaftMetadata, Timing};
pub use state::{apply, control_view, query};
pub use table::{Change, MemoryTable, Table};
