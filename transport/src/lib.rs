//! Links between nodes, and between clients and nodes.
//!
//! A link is the [`Outbound`](mesh_core::port::Outbound) port of the node that asks and calls the
//! [`Inbound`](mesh_core::port::Inbound) port of the one that answers. There are two: [`quic::QuicLink`] between
//! processes and [`memory::MemoryFabric`] inside one. Both are thin; what they have in common is decided by machines
//! that perform no I/O:
//!
//! ```text
//!        Outbound::send                                             Inbound::deliver
//!              |                                                           ^
//!   session::Calls   ids, deadlines, credits,          session::Serving   credits, duplicates
//!   peers::Ledger    up or down, back-off              gate::admit        what a role may ask
//!              |                                                           |
//!   handshake::hello, accept_welcome  <------------->  handshake::answer   versions, cluster, who is who
//!              |                                                           |
//!              +------------- quic (mutual TLS 1.3) or memory -------------+
//! ```
//!
//! Who is at the other end comes from its certificate ([`identity`]) and from nothing else.

pub mod files;
pub mod fronts;
pub mod gate;
pub mod handshake;
pub mod identity;
pub mod link;
pub mod memory;
pub mod peers;
pub mod quic;
pub mod session;

pub use identity::{Authority, Identity, Validity, role_of};
pub use link::{LinkStats, PeerState};
pub use memory::{Delivery, End, Kind, MemoryFabric, MemoryLink, MemoryOptions, UnderWay};
pub use quic::{QuicConfig, QuicLink};
