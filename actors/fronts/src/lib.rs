//! Front ends of a node: what speaks a protocol of the world on one side, and requests of the mesh on the other. They know
//! mesh-core only.
//!
//! - [`s3`]: S3 over HTTP.
//! - [`watch`]: what a node counts and how it is, for who watches it, over HTTP.
//! - [`wire`] has what they listen on, and [`tls`] puts TLS over it: the same for each of them.

pub mod s3;
pub mod tls;
pub mod watch;
pub mod wire;
