//! What metadata groups are told ([`Command`]), asked ([`Query`]) and answer ([`MetaAnswer`]), and the rows they hold.
//!
//! Encoded behind the number of their format. New variants stand at the end of their enum and new fields at the end of their
//! struct, with a default; any other change is a new format. [`encode`] has how that is written, and what older builds make
//! of it.
//!
//! The vocabulary only: what a command does to the rows is the metadata function's.

mod answer;
mod codec;
mod command;
mod control;
mod level;
mod object;
mod query;

pub use answer::{ListEntry, Listing, MetaAnswer};
pub use codec::{FORMAT, decode, encode, encode_as_newer, encode_onto};
pub use command::{BucketCommand, Command, MeshCommand, ObjectCommand, Precondition, Proposer, Session, UpkeepCommand};
pub use control::{
    AccessKeyRow, BucketRef, BucketRow, ControlView, EndedTenant, Grant, PastKey, PrincipalRow, TenantLimits,
    TenantRow, WrappedKey,
};
pub use level::{LEVEL, Level};
pub use object::{
    Attributes, Body, BucketSettings, Compression, Count, Extent, Garbage, GarbageMark, GarbagePage, ObjectRow,
    PartRow, Reference, RepairState, Run, Shape, UploadRow, UsesPage,
};
pub use query::Query;
