//! What metadata groups are told ([`Command`]), asked ([`Query`]) and answer ([`MetaAnswer`]), and the rows they hold.
//!
//! Encoded with postcard behind the number of their format; new variants are added at the end only, and any other change is
//! a new format.
//!
//! The vocabulary only: what a command does to the rows is the metadata function's.

mod answer;
mod codec;
mod command;
mod control;
mod object;
mod query;

pub use answer::{ListEntry, Listing, MetaAnswer};
pub use codec::{FORMAT, decode, encode};
pub use command::{BucketCommand, Command, MeshCommand, ObjectCommand, Precondition, Proposer, Session, UpkeepCommand};
pub use control::{
    AccessKeyRow, BucketRef, BucketRow, ControlView, Grant, PrincipalRow, TenantLimits, TenantRow, WrappedKey,
};
pub use object::{
    Attributes, Body, Extent, Garbage, GarbageMark, GarbagePage, ObjectRow, PartRow, Reference, Run, Shape, UploadRow,
};
pub use query::Query;
