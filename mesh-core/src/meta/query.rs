//! What a metadata group is asked: [`Query`]. A question changes nothing, and each is for one kind of group.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{BucketRef, GarbageMark};
use crate::{
    id::{DriveId, ReplicaId, TenantId, WriteId},
    time::UnixMillis,
};

/// A question to a metadata group. Answers are linearizable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Query {
    /// Control: a bucket by name. `Bucket`; `NoSuchBucket`.
    Bucket {
        /// The name.
        name: Arc<str>,
    },
    /// Control: a tenant's buckets, by name. `Buckets`.
    Buckets {
        /// Whose.
        tenant: TenantId,
    },
    /// Control: everything but buckets. `Control`; from another node `TooLarge` once that is more than a message holds: ask
    /// for what is wanted.
    Control,
    /// Namespace: an object. `Object`; `NotFound`.
    Object {
        /// Where.
        bucket: BucketRef,
        /// Where.
        key: Arc<str>,
    },
    /// Namespace: keys in order. `Listing`.
    List {
        /// Where.
        bucket: BucketRef,
        /// Only keys that begin so.
        prefix: String,
        /// Keys that have this behind the prefix are rolled up into one common prefix.
        delimiter: Option<String>,
        /// Only keys (and common prefixes) greater than this.
        after: String,
        /// At most so many keys and common prefixes together.
        limit: u32,
    },
    /// Namespace: an upload. `Upload`; `NoSuchUpload`.
    Upload {
        /// Where.
        bucket: BucketRef,
        /// Which.
        upload: WriteId,
    },
    /// Namespace: uploads by key, then number. `Uploads`.
    Uploads {
        /// Where.
        bucket: BucketRef,
        /// Only keys that begin so.
        prefix: String,
        /// Only uploads behind this key and number.
        after: Option<(String, WriteId)>,
        /// At most so many.
        limit: u32,
    },
    /// Namespace: the parts of an upload that is not completed, by number. `Parts`; `NoSuchUpload`.
    Parts {
        /// Where.
        bucket: BucketRef,
        /// Which.
        upload: WriteId,
        /// Only numbers greater than this.
        after: u32,
        /// At most so many.
        limit: u32,
    },
    /// Namespace: the parts of a completed upload from the one that holds `offset` on. `Parts`; `NotFound`.
    Extents {
        /// Where.
        bucket: BucketRef,
        /// The upload.
        upload: WriteId,
        /// A byte of the object.
        offset: u64,
        /// At most so many.
        limit: u32,
    },
    /// Namespace: garbage by its stamps. `Garbage`; a page is cut off well below the limit of an answer's bytes too.
    Garbage {
        /// Only what bears an earlier stamp.
        before: UnixMillis,
        /// Only what comes behind this.
        after: Option<GarbageMark>,
        /// At most so many rows.
        limit: u32,
    },
    /// Namespace: what a tenant uses. `Usage`.
    Usage {
        /// Whose.
        tenant: TenantId,
    },
    /// Namespace: what refers to these writes: an object, upload, part or garbage row, or something yet to come, while
    /// their blocks are open or not granted. What is not referred to once, is never again. `Referenced`.
    Referenced {
        /// The writes.
        writes: Vec<WriteId>,
    },
    /// Namespace: blocks that are closed and not swept, ascending. `ClosedBlocks`.
    ClosedBlocks {
        /// Only those behind this one.
        after: Option<WriteId>,
        /// At most so many.
        limit: u32,
    },
    /// Namespace: the first writes, ascending, of which a drive is owed the deletion. `Writes`.
    Owed {
        /// Which drive.
        drive: DriveId,
        /// At most so many.
        limit: u32,
    },
    /// Control: the epoch of a drive's last owner. `Epoch`, of 0 if nobody ever had it.
    Drive {
        /// Which.
        drive: DriveId,
    },
    /// Namespace: how far the group's data are at their homes. `Repair`.
    Repair,
    /// Namespace: writes in use that have shards of their own, ascending: those of visible objects, and of the parts of
    /// objects and uploads. `Uses`.
    Uses {
        /// Only those behind this one.
        after: Option<WriteId>,
        /// At most so many.
        limit: u32,
    },
    /// Namespace: writes that are remembered because not all of their shards may be at their homes, ascending. `Uses`.
    Unsettled {
        /// Only those behind this one.
        after: Option<WriteId>,
        /// At most so many.
        limit: u32,
    },
    /// Any group, of its leader alone: whether a replica of it is no member any more. `Done`; `Conflict` while it is one, or may
    /// be again because a change is not certain yet.
    NoMember {
        /// Which.
        replica: ReplicaId,
    },
    /// Control: entries of the audit log from one on. `Audit`; a page is cut off well below the limit of an answer's bytes.
    Audit {
        /// The first one wanted.
        from: u64,
    },
}
