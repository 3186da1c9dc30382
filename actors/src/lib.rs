//! Storage functions, and the state of the metadata groups that they ask: pure machines. What they stand on (runtimes,
//! media, Raft) is in the crates above.

pub mod compress;
pub mod drive;
pub mod encrypt;
pub mod erasure;
pub mod figures;
pub mod keeper;
pub mod metadata;
pub mod object;
pub mod policy;
pub mod registry;
mod whole;
