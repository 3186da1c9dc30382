//! `mesh`: an actor-based storage mesh for AI infrastructure.
//!
//! One pool out of the drives inside GPU servers: objects come in over S3 or this library, are compressed where their bucket
//! says so, encrypted and erasure-coded in line by a chain of storage functions, and are kept on drives with Raft-backed
//! metadata.
//!
//! Three ways to use it: the daemon (`mesh serve`), a whole mesh to try (`mesh dev`), and this library: a
//! [`Node`] runs inside your own process, a [`Client`] stores and fetches, in there or over links; what it can do is
//! in [`client`]. See the example `embed`. A program can bring storage functions of its own, which are placed and moved
//! like the mesh's: see the [`guide`].
//!
//! ```no_run
//! # async fn example(config: mesh::config::Config, principal: mesh_core::Principal) -> Result<(), mesh_core::Error> {
//! let node = mesh::Node::builder(config).start().await?;
//! node.ready(std::time::Duration::from_secs(60)).await?;
//! let client = node.client(principal);
//! client.put_bytes("bucket", "key", b"value").await?;
//! assert_eq!(client.get_bytes("bucket", "key").await?, b"value");
//! # Ok(())
//! # }
//! ```
//!
//! The vocabulary is [`mesh_core`]'s, which is here as [`mesh::core`](crate::core).

mod access;
pub mod admin;
mod audit;
pub mod backup;
pub mod client;
pub mod config;
mod drives;
pub mod env;
mod events;
pub mod founding;
pub mod guide;
pub mod keyring;
pub mod node;
mod nodes;
pub mod provision;
pub mod quic;
mod recover;
mod repair;
mod scrub;
mod stages;

pub use mesh_actors::registry::Parts;
pub use mesh_core as core;
pub use mesh_transport::files;

pub use client::Client;
pub use node::Node;
