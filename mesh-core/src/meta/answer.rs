//! What a metadata group says, to a command or a query: [`MetaAnswer`], and the pages of a listing.
//!
//! Good answers only; what went wrong is a [`crate::Error`].

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{
    BucketRow, ControlView, GarbagePage, ObjectRow, PartRow, Reference, RepairState, TenantRow, UploadRow, UsesPage,
};
use crate::{
    audit,
    id::{Epoch, WriteId},
    time::UnixMillis,
};

/// One page of a listing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listing {
    /// Keys, ascending.
    pub entries: Vec<ListEntry>,
    /// Common prefixes, ascending.
    pub prefixes: Vec<String>,
    /// There is more: `after` of the next page.
    pub next: Option<String>,
}

/// One key of a listing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListEntry {
    /// The key.
    pub key: String,
    /// Bytes.
    pub len: u64,
    /// Without quotes.
    pub etag: String,
    /// When it was put.
    pub modified: UnixMillis,
}

/// What a metadata group says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MetaAnswer {
    /// It is so.
    Done,
    /// A drive's or actor's epoch.
    Epoch(Epoch),
    /// A tenant.
    Tenant(Arc<TenantRow>),
    /// A bucket.
    Bucket(Arc<BucketRow>),
    /// Buckets.
    Buckets(Vec<Arc<BucketRow>>),
    /// The control group's contents.
    Control(Arc<ControlView>),
    /// Write ids from `first` on, `count` of them.
    Block {
        /// The first.
        first: WriteId,
        /// How many.
        count: u64,
    },
    /// An object is visible.
    Committed {
        /// Its version.
        version: WriteId,
        /// Its ETag.
        etag: String,
    },
    /// An object is gone; whether there was one.
    Deleted {
        /// Whether there was one.
        existed: bool,
    },
    /// An object.
    Object(Arc<ObjectRow>),
    /// A page of keys.
    Listing(Arc<Listing>),
    /// An upload.
    Upload(Arc<UploadRow>),
    /// Uploads, and whether there are more.
    Uploads(Vec<Arc<UploadRow>>, bool),
    /// Parts, and whether there are more.
    Parts(Vec<Arc<PartRow>>, bool),
    /// A page of garbage.
    Garbage(GarbagePage),
    /// Bytes and objects of a tenant.
    Usage {
        /// As the user counts them.
        bytes: u64,
        /// Visible objects.
        objects: u64,
    },
    /// What the writes asked about are used for, in the order asked: of the first ones at least, if that is much.
    Referenced(Vec<Reference>),
    /// Closed blocks: the first write of each, and how many it has.
    ClosedBlocks(Vec<(WriteId, u64)>),
    /// Writes, ascending: what a drive is owed, or what stays garbage.
    Writes(Vec<WriteId>),
    /// How far a group's data are at their homes.
    Repair(RepairState),
    /// A page of writes that are in use.
    Uses(UsesPage),
    /// A page of the audit log.
    Audit(audit::Page),
    /// Some of what was to go is gone.
    Rest {
        /// There is more of it.
        more: bool,
    },
}
