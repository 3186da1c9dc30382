//! What an operation of any family says when it went well: [`Answer`]. What went wrong is a [`crate::Error`].

use std::sync::Arc;

use super::{AdminAnswer, Beat, Head, Moved, NodeReport, Piece, ScrubState};
use crate::{
    id::{DriveId, ShardId, TenantId, WriteId},
    meta::{BucketRow, Listing, MetaAnswer, ObjectRow, PartRow, UploadRow},
    topology::Code,
};

/// What an operation says when it went well.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// It is done; a read's bytes are the payload.
    Done,
    /// What a metadata group said.
    Meta(Arc<MetaAnswer>),
    /// A stripe is durable.
    Placed {
        /// Drives that could not be used, ascending: the argument of `Table::place`.
        avoid: Vec<DriveId>,
        /// Whether shards share a failure domain.
        shared: bool,
    },
    /// A shard; its bytes are the payload, whose CRC-32C was checked.
    Shard {
        /// The code of its stripe.
        code: Code,
        /// Length of the stripe's sealed bytes.
        sealed_len: u32,
        /// CRC-32C of the payload.
        crc: u32,
        /// Whose it is.
        tenant: TenantId,
    },
    /// Shards that a drive has.
    Shards {
        /// With the lengths of their payloads, ascending.
        page: Vec<(ShardId, u32)>,
        /// Whether there are more.
        more: bool,
        /// How far the drive's log had come by then.
        head: Head,
    },
    /// A drive.
    Drive {
        /// Bytes in all.
        capacity_bytes: u64,
        /// Bytes free for new shards.
        free_bytes: u64,
        /// Shards held.
        shards: u64,
        /// Records found damaged since the start.
        corrupt: u64,
        /// At its reserve.
        full: bool,
        /// Segments that it had and that were found gone, since it was formatted.
        gone: u32,
        /// Shards that are known to be damaged now.
        damaged: u64,
        /// How far it is with reading everything back.
        scrub: ScrubState,
    },
    /// A write is open.
    Begun {
        /// Its handle.
        write: WriteId,
        /// Bytes of every stripe but the last.
        stripe_bytes: u32,
    },
    /// A write is visible.
    Committed {
        /// The version.
        version: WriteId,
        /// The ETag.
        etag: String,
    },
    /// A bucket.
    Bucket(Arc<BucketRow>),
    /// Buckets.
    Buckets(Vec<Arc<BucketRow>>),
    /// An object.
    Object(Arc<ObjectRow>),
    /// Pieces, in order.
    Pieces(Vec<Piece>),
    /// A page of keys.
    Listing(Arc<Listing>),
    /// An upload.
    Upload(Arc<UploadRow>),
    /// Uploads, and whether there are more.
    Uploads(Vec<Arc<UploadRow>>, bool),
    /// Parts, and whether there are more.
    Parts(Vec<Arc<PartRow>>, bool),
    /// How nodes are.
    Report(Vec<Arc<NodeReport>>),
    /// What a step of a move came to.
    Moved(Moved),
    /// What an administrator is told.
    Admin(Box<AdminAnswer>),
    /// A stripe is deleted, but for what these drives may still have of it, ascending.
    Left(Vec<DriveId>),
    /// How some of the nodes are.
    ReportPage {
        /// Ascending.
        reports: Vec<Arc<NodeReport>>,
        /// Whether there are more behind them.
        more: bool,
    },
    /// The answerer is alive, too.
    Beat(Arc<Beat>),
}
