//! What a gateway asks of the Object function of its node: [`ObjectOp`], where a write goes, and the pieces of a read.
//!
//! Nothing here is of one protocol: a gateway's own (S3's headers, XML, signatures) stays in the gateway.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{
    id::WriteId,
    meta::{Attributes, BucketSettings, Extent, ObjectRow, Precondition},
};
#[cfg(doc)]
use crate::{meta::Query, op::Answer};

/// Where a write goes: a whole object, or a part of an upload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Destination {
    /// A whole object.
    Object {
        /// What the user gave.
        attributes: Attributes,
        /// What must hold at the end.
        precondition: Precondition,
    },
    /// A part.
    Part {
        /// The upload.
        upload: WriteId,
        /// 1 to 10,000.
        number: u32,
    },
}

/// What a gateway asks. `bucket` is always a name: Object resolves it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ObjectOp {
    /// Makes a bucket. `Done`.
    CreateBucket {
        /// The name.
        bucket: Arc<str>,
    },
    /// Deletes an empty bucket. `Done`.
    DeleteBucket {
        /// The name.
        bucket: Arc<str>,
    },
    /// Is there such a bucket? `Bucket`.
    HeadBucket {
        /// The name.
        bucket: Arc<str>,
    },
    /// The tenant's buckets. `Buckets`.
    ListBuckets,
    /// Opens a write. `Begun`.
    Begin {
        /// Where.
        bucket: Arc<str>,
        /// Where.
        key: Arc<str>,
        /// An object or a part.
        destination: Destination,
    },
    /// Stores the payload as stripe `stripe` of a write: every one of exactly `stripe_bytes` (see [`Answer::Begun`])
    /// but the last. Several may be under way at once, in any order. `Done` when it is durable.
    Append {
        /// As `Begun` said.
        write: WriteId,
        /// Its index, from 0, without gaps.
        stripe: u32,
    },
    /// Makes the write visible. `Committed`. The write is gone afterwards, whatever the answer.
    Finish {
        /// Which.
        write: WriteId,
        /// Bytes in all: must be what was appended.
        len: u64,
        /// The ETag.
        etag: String,
        /// Additional checksums of what was sent.
        checksums: BTreeMap<String, String>,
    },
    /// Drops a write and deletes its stripes. `Done`.
    Abort {
        /// Which.
        write: WriteId,
    },
    /// An object's manifest. `Object`.
    Head {
        /// Where.
        bucket: Arc<str>,
        /// Where.
        key: Arc<str>,
    },
    /// The pieces that hold `len` bytes from `offset` on (all of them, or the first ones: a page). `Pieces`.
    Plan {
        /// Where.
        bucket: Arc<str>,
        /// Where.
        key: Arc<str>,
        /// As `Head` gave it.
        object: Arc<ObjectRow>,
        /// From this byte.
        offset: u64,
        /// So many bytes; the range lies inside the object.
        len: u64,
    },
    /// The bytes of one piece. `Done`, with the payload.
    Read {
        /// Where.
        bucket: Arc<str>,
        /// Where.
        key: Arc<str>,
        /// As `Plan` gave it.
        piece: Piece,
    },
    /// Removes an object. `Done`, whether or not there was one.
    Delete {
        /// Where.
        bucket: Arc<str>,
        /// Where.
        key: Arc<str>,
        /// What must hold.
        precondition: Precondition,
    },
    /// A page of keys. `Listing`.
    List {
        /// Where.
        bucket: Arc<str>,
        /// See [`Query::List`].
        prefix: String,
        /// See [`Query::List`].
        delimiter: Option<String>,
        /// See [`Query::List`].
        after: String,
        /// See [`Query::List`]; at most `LIST_KEYS_MAX`.
        limit: u32,
    },
    /// Begins a multipart upload. `Upload`.
    CreateUpload {
        /// Where.
        bucket: Arc<str>,
        /// Where.
        key: Arc<str>,
        /// What the user gave.
        attributes: Attributes,
    },
    /// The upload itself. `Upload`.
    HeadUpload {
        /// Where.
        bucket: Arc<str>,
        /// Which.
        upload: WriteId,
    },
    /// The parts of an upload. `Parts`.
    ListParts {
        /// Where.
        bucket: Arc<str>,
        /// Which.
        upload: WriteId,
        /// Only greater numbers.
        after: u32,
        /// At most so many.
        limit: u32,
    },
    /// Uploads of a bucket. `Uploads`.
    ListUploads {
        /// Where.
        bucket: Arc<str>,
        /// Only keys that begin so.
        prefix: String,
        /// Only behind this one.
        after: Option<(String, WriteId)>,
        /// At most so many.
        limit: u32,
    },
    /// Makes an object of parts. `Committed`. `NoSuchUpload` if `key` is not the upload's.
    CompleteUpload {
        /// Where.
        bucket: Arc<str>,
        /// Where.
        key: Arc<str>,
        /// Which.
        upload: WriteId,
        /// Number and ETag of each part; `InvalidPartOrder` unless ascending.
        parts: Vec<(u32, String)>,
        /// Additional checksums of the whole.
        checksums: BTreeMap<String, String>,
        /// What must hold.
        precondition: Precondition,
    },
    /// Drops an upload. `Done`.
    AbortUpload {
        /// Where.
        bucket: Arc<str>,
        /// Which.
        upload: WriteId,
    },
    /// Makes a bucket that is not like most. `Done`. A build that does not know it refuses it, and makes no other one instead.
    CreateBucketWith {
        /// The name.
        bucket: Arc<str>,
        /// How what is put into it is stored.
        settings: BucketSettings,
    },
}

impl ObjectOp {
    /// The name of the bucket it is about. A write under way carries it in its binding.
    #[must_use]
    pub fn bucket(&self) -> Option<&Arc<str>> {
        match self {
            Self::ListBuckets | Self::Append { .. } | Self::Finish { .. } | Self::Abort { .. } => None,
            Self::CreateBucket { bucket }
            | Self::DeleteBucket { bucket }
            | Self::HeadBucket { bucket }
            | Self::Begin { bucket, .. }
            | Self::Head { bucket, .. }
            | Self::Plan { bucket, .. }
            | Self::Read { bucket, .. }
            | Self::Delete { bucket, .. }
            | Self::List { bucket, .. }
            | Self::CreateUpload { bucket, .. }
            | Self::HeadUpload { bucket, .. }
            | Self::ListParts { bucket, .. }
            | Self::ListUploads { bucket, .. }
            | Self::CompleteUpload { bucket, .. }
            | Self::AbortUpload { bucket, .. }
            | Self::CreateBucketWith { bucket, .. } => Some(bucket),
        }
    }
}

/// A piece of an object: a range inside one stripe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Piece {
    /// The write it is in.
    pub extent: Arc<Extent>,
    /// The stripe.
    pub stripe: u32,
    /// From this byte of the stripe's plaintext.
    pub start: u32,
    /// So many bytes, at least 1.
    pub len: u32,
}
