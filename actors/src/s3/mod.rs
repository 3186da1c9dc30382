//! The S3 front end of a node: HTTP on one side, [`ObjectOp`](mesh_core::op::ObjectOp)s to the node's Object function
//! on the other.
//!
//! It owns what is S3's own: signatures, headers, XML, checksums, ETags, conditional reads, and the cutting of bodies
//! into stripes. It never decides who may do what (Policy does, behind Object), where bytes lie, or what a metadata
//! group holds, and it keeps nothing between two requests.
//!
//! ```text
//!  TCP ──► server ──► door ──► s3s (signature, XML) ──► Gateway (this) ──► Ingress ──► Object
//!           limits,    refusals,                          put · get · copy · list · multipart
//!           drain      re-framing
//! ```
//!
//! - Start with [`Gateway`] and [`serve`].
//! - `intake` is the way of a body in (one copy, into pooled stripes), `outflow` the way out (no copy).
//! - `digest` has everything about MD5 and checksums, `error` the one table from mesh errors to S3 codes.

mod attributes;
mod auth;
mod buckets;
mod caller;
mod conditions;
mod copy;
mod delete;
mod digest;
mod door;
mod error;
mod gateway;
mod get;
mod ingress;
mod intake;
mod lease;
mod list;
mod multipart;
mod outflow;
mod parts;
mod put;
mod reframe;
mod server;
mod socket;
mod text;

pub use auth::Stats;
pub use gateway::{Gateway, GatewayOptions};
pub use ingress::{AccessKey, AccessKeys, Ingress};
pub use server::{ServeOptions, serve};

#[cfg(test)]
mod tests;
