//! What metadata groups are told ([`Command`]), asked ([`Query`]) and answer ([`MetaAnswer`]), and the rows they hold.
//!
//! Encoded with postcard behind a version byte; new variants and fields are added at the end only, behind a feature
//! level that the control group holds.
//!
//! The vocabulary only: what a command does to the rows is the metadata function's.

mod answer;
mod codec;
mod command;
mod control;
mod object;
mod query;

pub use answer::{ListEntry, Listing, MetaAnswer};
pub use codec::{FEATURE_LEVEL, decode, encode};
pub use command::{Command, Precondition, Proposer, Session};
pub use control::{
    AccessKeyRow, BucketRef, BucketRow, ControlView, Grant, PrincipalRow, TenantLimits, TenantRow, WrappedKey,
};
pub use object::{
    Attributes, Body, Extent, Garbage, GarbageMark, GarbagePage, ObjectRow, PartRow, Reference, Run, Shape, UploadRow,
};
pub use query::Query;
