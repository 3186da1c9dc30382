//! The S3 front end of a node: HTTP on one side, [`ObjectOp`](mesh_core::op::ObjectOp)s to the node's Object function
//! on the other.
//!
//! It owns what is S3's own: signatures, headers, XML, checksums, ETags, conditional reads, and the cutting of bodies
//! into stripes. It never decides who may do what (Policy does, behind Object), where bytes lie, or what a metadata
//! group holds, and it keeps nothing between two requests.
//!
//! ```text
//!  TCP ──► server ──► door ──► s3s: signature ──► signed ──► s3s: operation ──► Gateway (this) ──► Ingress ──► Object
//!           limits,    refusals,                  what is                      put · get · copy · list · multipart
//!           drain      re-framing,                offered,
//!                      presigned URLs             digests, XML
//! ```
//!
//! - Start with [`Gateway`] and [`serve`].
//! - `offered` is the table of what a request may carry: whatever is not in it is refused.
//! - `intake` is the way of a body in (one copy, into pooled stripes), `outflow` the way out (no copy).
//! - `account` decides how much of the node's memory requests may hold, `credit` waits for it; `pace` how many
//!   large reads are under way beside small requests, `turns` waits for that; `roster` decides which connections stay.
//! - `digest` has everything about MD5 and checksums, `error` the one table from mesh errors to S3 codes.

mod account;
mod attributes;
mod auth;
mod buckets;
mod caller;
#[cfg(any(test, feature = "client"))]
pub mod client;
mod conditions;
mod copy;
mod credit;
mod delete;
mod digest;
mod door;
mod error;
mod figures;
mod gateway;
mod get;
mod host;
mod ingress;
mod intake;
mod lease;
mod list;
mod multipart;
mod offered;
mod outflow;
mod pace;
mod parts;
mod presigned;
mod put;
mod reframe;
mod roster;
mod server;
mod signed;
mod socket;
mod steady;
mod text;
mod turns;
mod via;
mod xml;

pub use auth::Stats;
pub use figures::declare;
pub use gateway::{Gateway, GatewayOptions};
pub use host::check_domain;
pub use ingress::{AccessKey, AccessKeys, Ingress};
pub use server::{ServeOptions, serve};

#[cfg(test)]
mod tests;
