//! Storage functions, and what they stand on.

pub mod disk;
pub mod drive;
pub mod encrypt;
pub mod erasure;
pub mod metadata;
pub mod object;
pub mod policy;
pub mod registry;
pub mod s3;
