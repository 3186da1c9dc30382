//! What metadata groups are told ([`Command`]), asked ([`Query`]) and answer ([`MetaAnswer`]), and the rows they hold.
//!
//! Encoded with postcard behind a version byte; new variants and fields are added at the end only, behind a feature
//! level that the control group holds.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{
    assignment::{Assignment, MoveId, Scope, Wish},
    error::Error,
    id::{ActorId, BucketId, ClusterId, DriveId, Epoch, GroupId, KeyId, LayoutId, NodeId, TenantId, WriteId},
    limits::COMMAND_BYTES_MAX,
    spec::CustomSpec,
    time::UnixMillis,
    topology::{Code, DriveInfo, Layout, NodeInfo},
};

/// The newest metadata format that this build reads and writes.
pub const FEATURE_LEVEL: u32 = 1;

/// A secret under a wrapping key, with AES-256-GCM: 12 bytes of nonce, then ciphertext and tag.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WrappedKey {
    /// The wrapping key: a tenant's, or [`KeyId`] 0 for the cluster key, which lives only in node keyrings.
    pub key: KeyId,
    /// The nonce.
    pub nonce: [u8; 12],
    /// Ciphertext and tag.
    pub sealed: Vec<u8>,
}

impl core::fmt::Debug for WrappedKey {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "WrappedKey({})", self.key)
    }
}

/// One incarnation of a bucket, with what every request about it needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BucketRef {
    /// The incarnation.
    pub id: BucketId,
    /// Its name.
    pub name: Arc<str>,
    /// Whose it is.
    pub tenant: TenantId,
    /// The namespace group that owns its keys.
    pub group: GroupId,
}

/// A bucket, in the control group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BucketRow {
    /// What requests carry.
    pub bucket: BucketRef,
    /// When it was made.
    pub created: UnixMillis,
    /// Marked for deletion: takes no new work.
    pub deleting: bool,
}

/// A tenant, in the control group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantRow {
    /// Its number.
    pub id: TenantId,
    /// Its name.
    pub name: String,
    /// The id of its wrapping key.
    pub key: KeyId,
    /// That key under the cluster key.
    pub wrapped: WrappedKey,
    /// Limits.
    pub limits: TenantLimits,
}

/// What a tenant may use. `None`: no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantLimits {
    /// Bytes stored (as the user counts them, before coding).
    pub quota_bytes: Option<u64>,
    /// Requests a second, per ingress node.
    pub requests_per_second: Option<u32>,
    /// Payload bytes a second, per ingress node.
    pub bytes_per_second: Option<u64>,
}

/// What a principal may do in a bucket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// A bucket's name, a prefix that ends with `*`, or `*`.
    pub bucket: String,
    /// Get, head and list.
    pub read: bool,
    /// Put, delete, multipart.
    pub write: bool,
    /// Make and delete buckets.
    pub admin: bool,
}

impl Grant {
    /// Everything in every bucket of the tenant.
    #[must_use]
    pub fn all() -> Self {
        Self { bucket: "*".into(), read: true, write: true, admin: true }
    }

    /// Whether this grant speaks of the bucket.
    #[must_use]
    pub fn covers(&self, bucket: &str) -> bool {
        match self.bucket.strip_suffix('*') {
            Some(prefix) => bucket.starts_with(prefix),
            None => self.bucket == bucket,
        }
    }
}

/// Somebody of a tenant, in the control group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrincipalRow {
    /// The tenant.
    pub tenant: TenantId,
    /// The name inside the tenant.
    pub name: String,
    /// What it may do.
    pub grants: Vec<Grant>,
}

/// An S3 access key, in the control group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessKeyRow {
    /// The public half.
    pub access: String,
    /// The secret half under the cluster key: Raft holds no usable secret.
    pub secret: WrappedKey,
    /// Whose it is.
    pub tenant: TenantId,
    /// Whose it is.
    pub principal: String,
}

/// Stripes of one write that differ from the nominal: attempt 0, no drive avoided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// The first stripe.
    pub first: u32,
    /// How many.
    pub count: u32,
    /// The attempt that was stored.
    pub attempt: u8,
    /// Drives that could not be used: the argument of [`Layout::place`].
    pub avoid: Vec<DriveId>,
    /// Whether shards share a failure domain: repaired first when domains return.
    pub shared: bool,
}

/// Where the bytes of one write (an object, or a part of one) are. Of bounded size.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extent {
    /// The write; stripe ids derive from it.
    pub write: WriteId,
    /// Bytes.
    pub len: u64,
    /// Plaintext bytes of every stripe but the last.
    pub stripe_bytes: u32,
    /// The table that names groups and drives.
    pub layout: LayoutId,
    /// The data key under the tenant's key; `None`: the chain did not encrypt.
    pub key: Option<Arc<WrappedKey>>,
    /// Exceptions, in order of stripes, at most `MANIFEST_RUNS_MAX`.
    pub runs: Vec<Run>,
}

impl Extent {
    /// How many stripes there are. An empty write has none.
    #[must_use]
    pub fn stripes(&self) -> u32 {
        if self.stripe_bytes == 0 { 0 } else { self.len.div_ceil(u64::from(self.stripe_bytes)) as u32 }
    }

    /// The exception that covers a stripe.
    #[must_use]
    pub fn run_of(&self, stripe: u32) -> Option<&Run> {
        self.runs.iter().find(|run| (run.first..run.first.saturating_add(run.count)).contains(&stripe))
    }
}

/// What a user gave with an object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attributes {
    /// `Content-Type` and the other standard headers that S3 keeps (`cache-control`, `content-encoding`, …), by
    /// lower-case name.
    pub headers: BTreeMap<String, String>,
    /// `x-amz-meta-…`, by lower-case name without the prefix.
    pub user: BTreeMap<String, String>,
    /// Additional checksums, such as `crc32` or `crc64nvme`, in S3's base64 form.
    pub checksums: BTreeMap<String, String>,
}

/// The bytes of an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Body {
    /// One write.
    Whole(Extent),
    /// The parts of a completed upload, rows of their own.
    Parts {
        /// The upload.
        upload: WriteId,
        /// How many parts.
        count: u32,
    },
}

/// One version of an object: the manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectRow {
    /// The write that made it: unique, and the version.
    pub version: WriteId,
    /// Bytes.
    pub len: u64,
    /// Without quotes.
    pub etag: String,
    /// When it was put.
    pub modified: UnixMillis,
    /// What the user gave.
    pub attributes: Attributes,
    /// Where the bytes are.
    pub body: Body,
}

/// One part of an upload, or of the object it became.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartRow {
    /// 1 to 10,000, as the client numbered it.
    pub number: u32,
    /// Where it begins in the object; 0 until the upload is completed.
    pub offset: u64,
    /// Without quotes.
    pub etag: String,
    /// Additional checksums.
    pub checksums: BTreeMap<String, String>,
    /// When it was put.
    pub modified: UnixMillis,
    /// Where the bytes are.
    pub extent: Extent,
}

/// A multipart upload that is not completed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UploadRow {
    /// Its number; clients see it as text.
    pub upload: WriteId,
    /// The key it will become.
    pub key: String,
    /// What the user gave.
    pub attributes: Attributes,
    /// When it was begun.
    pub created: UnixMillis,
    /// Who began it.
    pub principal: String,
}

/// A write that no object refers to any more: its shards are to be deleted after a grace period.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Garbage {
    /// Whose it was.
    pub tenant: TenantId,
    /// Since when.
    pub since: UnixMillis,
    /// What to delete.
    pub extent: Extent,
}

/// What must hold for a write to take effect.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Precondition {
    /// `If-None-Match: *`: there is no such object.
    pub absent: bool,
    /// `If-Match`: the object has this ETag.
    pub etag: Option<String>,
}

/// Who proposes: checked against the group's fence table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposer {
    /// The actor.
    pub actor: ActorId,
    /// Its epoch.
    pub epoch: Epoch,
}

/// One change of a metadata group. Applying is deterministic, and every command may be sent twice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    // --- control group ---
    /// The first command of a cluster. Again: no effect if it is the same cluster, else `Conflict`.
    Form {
        /// The cluster.
        cluster: ClusterId,
        /// The code of layouts.
        code: Code,
        /// How many namespace groups there are, numbered from 1.
        namespaces: u16,
    },
    /// A node has started or changed. Replaces what was known of it, unless that is of a later incarnation.
    PutNode(NodeInfo),
    /// A drive is to be used. Gives `Epoch`: one more than the last owner's.
    PutDrive {
        /// The drive.
        drive: DriveId,
        /// The node that has it.
        node: NodeId,
        /// Its size.
        capacity_bytes: u64,
    },
    /// A new table of placement groups; its `id` must be one more than the newest. `Conflict` if another came first.
    PutLayout(Arc<Layout>),
    /// A tenant; its `id` and `key` are given by the group (0 in the command). Gives `Tenant`. A tenant of the same
    /// name: `Conflict`.
    CreateTenant(TenantRow),
    /// A principal; replaces one of the same name.
    PutPrincipal(PrincipalRow),
    /// An access key. The same again: no effect; other contents under the same name: `Conflict`.
    PutAccessKey(AccessKeyRow),
    /// Revokes an access key.
    DropAccessKey {
        /// The public half.
        access: String,
    },
    /// A bucket. Gives `Bucket`. `BucketExists`, `BucketTaken`.
    CreateBucket {
        /// The name.
        name: Arc<str>,
        /// Whose.
        tenant: TenantId,
        /// When.
        created: UnixMillis,
    },
    /// The first step of deleting a bucket (then [`Self::SealBucket`], then [`Self::RemoveBucket`]).
    MarkBucket {
        /// The incarnation.
        bucket: BucketId,
        /// `true` marks, `false` takes it back.
        deleting: bool,
    },
    /// The last step: removes a marked bucket.
    RemoveBucket {
        /// The incarnation.
        bucket: BucketId,
    },
    /// An actor's place, its first one or because its owner is lost. `Conflict` unless its epoch is one more than the
    /// present one's. Ends a move that is under way. Of the assignment, `moves` and `moving` are not taken.
    Assign(Assignment),
    /// Begins a move. `Conflict` unless the actor is at rest under `epoch` and this move's number is the next one. The
    /// same again while it is under way: no effect.
    BeginMove {
        /// Which.
        actor: ActorId,
        /// Its present epoch.
        epoch: Epoch,
        /// The number: one more than the last.
        id: MoveId,
        /// Where to.
        to: NodeId,
    },
    /// Ends a move well: the actor is where it moved to, under the next epoch. Gives `Epoch`, also when it was applied
    /// before. `Conflict` if the move was aborted. Of this and [`Self::AbortMove`] the first applied counts.
    CommitMove {
        /// Which.
        actor: ActorId,
        /// Its epoch before the move.
        epoch: Epoch,
        /// The move.
        id: MoveId,
    },
    /// Ends a move: the actor stays where it was. Applied before: no effect. `Conflict` if the move was committed.
    AbortMove {
        /// Which.
        actor: ActorId,
        /// Its epoch before the move.
        epoch: Epoch,
        /// The move.
        id: MoveId,
    },
    /// What a user asks of placement; `None` takes it back.
    SetWish {
        /// About what.
        scope: Scope,
        /// What.
        wish: Option<Wish>,
    },
    /// Empties a node, or takes that back. `NotFound` if it is not known.
    Drain {
        /// Which.
        node: NodeId,
        /// Whether to.
        draining: bool,
    },

    // --- namespace groups ---
    /// Refuses what older owners propose from now on, and closes the blocks that they held.
    Fence {
        /// Actors and their least epochs.
        actors: Vec<Proposer>,
        /// Drives and their least epochs.
        drives: Vec<(DriveId, Epoch)>,
    },
    /// Asks for a block of write ids. Closes the blocks of other sessions of the same actor. Gives `Block`.
    OpenBlock {
        /// Who.
        proposer: Proposer,
        /// One life of that actor: random.
        session: u64,
        /// The number of this request inside the session: the same again gives the same block.
        request: u32,
    },
    /// Refuses later manifests of a block.
    CloseBlock {
        /// The block's first write.
        first: WriteId,
    },
    /// Makes an object visible; what it replaces becomes garbage. The same `row.version` again: no effect. Gives
    /// `Committed`. `Precondition`, `QuotaExceeded`, `Fenced`, `NoSuchBucket` (sealed), `Conflict` (block closed).
    PutObject {
        /// Who.
        proposer: Proposer,
        /// Where.
        bucket: BucketRef,
        /// Where.
        key: Arc<str>,
        /// What.
        row: Arc<ObjectRow>,
        /// When.
        precondition: Precondition,
        /// The tenant's quota, stamped by Policy.
        quota_bytes: Option<u64>,
    },
    /// Removes an object; its bytes become garbage. No object: no effect. Gives `Deleted`.
    DeleteObject {
        /// Who.
        proposer: Proposer,
        /// Where.
        bucket: BucketRef,
        /// Where.
        key: Arc<str>,
        /// Now, for the garbage's grace.
        at: UnixMillis,
        /// When.
        precondition: Precondition,
    },
    /// Begins a multipart upload under `row.upload`. Gives `Done`.
    CreateUpload {
        /// Who.
        proposer: Proposer,
        /// Where.
        bucket: BucketRef,
        /// What.
        row: Arc<UploadRow>,
    },
    /// Stores a part; one of the same number becomes garbage. `NoSuchUpload`, `QuotaExceeded`. Gives `Done`.
    PutPart {
        /// Who.
        proposer: Proposer,
        /// Where.
        bucket: BucketRef,
        /// The upload.
        upload: WriteId,
        /// What.
        part: Arc<PartRow>,
        /// The tenant's quota, stamped by Policy.
        quota_bytes: Option<u64>,
    },
    /// Makes an object of parts, in this order; parts not named become garbage. `NoSuchUpload`, `InvalidPart`,
    /// `Precondition`. The same again: no effect. Gives `Committed`.
    CompleteUpload {
        /// Who.
        proposer: Proposer,
        /// Where.
        bucket: BucketRef,
        /// Where.
        key: Arc<str>,
        /// The upload; it becomes the object's version.
        upload: WriteId,
        /// Number and ETag of each part, ascending.
        parts: Vec<(u32, String)>,
        /// The object's ETag.
        etag: String,
        /// Additional checksums of the whole.
        checksums: BTreeMap<String, String>,
        /// Now.
        at: UnixMillis,
        /// When.
        precondition: Precondition,
    },
    /// Drops an upload; its parts become garbage. Gives `Done`; `NoSuchUpload`.
    AbortUpload {
        /// Who.
        proposer: Proposer,
        /// Where.
        bucket: BucketRef,
        /// Which.
        upload: WriteId,
        /// Now.
        at: UnixMillis,
    },
    /// Forgets garbage whose shards are deleted.
    DropGarbage {
        /// The writes.
        writes: Vec<WriteId>,
    },
    /// Seals a bucket's range if it has neither objects nor uploads; else `BucketNotEmpty`.
    SealBucket {
        /// The incarnation.
        bucket: BucketId,
    },
    /// Takes a seal back.
    UnsealBucket {
        /// The incarnation.
        bucket: BucketId,
    },
    /// Changes what a tenant may use (control group).
    SetLimits {
        /// The tenant.
        tenant: TenantId,
        /// From now on.
        limits: TenantLimits,
    },
    /// Forgets a closed block (namespace group): every drive was looked through for what its writes left behind. The
    /// same again: no effect. `Conflict` if it is open still.
    SweptBlock {
        /// The block's first write.
        first: WriteId,
    },
    /// Which functions of the embedding program stand in data chains (control group), between policy and encryption.
    /// Replaces what was declared for the scope. If kinds or their order change, every chain that it concerns begins
    /// anew under its next epoch where it is, and its move ends: what a chain is made of never changes under one epoch.
    /// The same again: no effect. `Conflict` if a kind would stand in one chain twice.
    SetStages {
        /// [`Scope::Mesh`] or [`Scope::Tenant`]; a tenant's come behind the mesh's.
        scope: Scope,
        /// At most `CUSTOM_STAGES_MAX`, in order; none: takes the declaration back.
        stages: Vec<CustomSpec>,
    },
}

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
    /// Control: everything but buckets. `Control`.
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
    /// Namespace: garbage that is older than a time. `Garbage`.
    Garbage {
        /// Only what became garbage before.
        before: UnixMillis,
        /// At most so many.
        limit: u32,
    },
    /// Namespace: what a tenant uses. `Usage`.
    Usage {
        /// Whose.
        tenant: TenantId,
    },
    /// Namespace: which of these writes an object, upload, part or garbage row refers to, or may yet: those of blocks
    /// that are open or not granted. What is not referred to once, is never again. `Referenced`.
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
}

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

/// What the control group holds, buckets apart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControlView {
    /// The cluster, once formed.
    pub cluster: Option<ClusterId>,
    /// The code of layouts.
    pub code: Option<Code>,
    /// Namespace groups are numbered 1 to this.
    pub namespaces: u16,
    /// Nodes by number.
    pub nodes: BTreeMap<NodeId, NodeInfo>,
    /// Drives by number.
    pub drives: BTreeMap<DriveId, DriveInfo>,
    /// Layouts by number.
    pub layouts: BTreeMap<LayoutId, Arc<Layout>>,
    /// Tenants by number.
    pub tenants: BTreeMap<TenantId, Arc<TenantRow>>,
    /// Principals.
    pub principals: Vec<Arc<PrincipalRow>>,
    /// Access keys by their public half.
    pub access_keys: BTreeMap<String, Arc<AccessKeyRow>>,
    /// Assignments by actor.
    pub assignments: BTreeMap<ActorId, Assignment>,
    /// What users have asked of placement.
    pub wishes: BTreeMap<Scope, Wish>,
    /// Functions of the embedding program in data chains, by what they were declared for.
    pub stages: BTreeMap<Scope, Arc<[CustomSpec]>>,
}

impl ControlView {
    /// The functions of the embedding program in a tenant's data chains, in order: the mesh's, then the tenant's own.
    pub fn stages_of(&self, tenant: TenantId) -> impl Iterator<Item = &CustomSpec> {
        let scopes = [Scope::Mesh, Scope::Tenant(tenant)];
        scopes.into_iter().filter_map(|scope| self.stages.get(&scope)).flat_map(|stages| stages.iter())
    }
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
    /// Garbage.
    Garbage(Vec<Garbage>),
    /// Bytes and objects of a tenant.
    Usage {
        /// As the user counts them.
        bytes: u64,
        /// Visible objects.
        objects: u64,
    },
    /// Which of the writes asked about are in use (or may still become so), in the order asked.
    Referenced(Vec<bool>),
    /// Closed blocks: the first write of each, and how many it has.
    ClosedBlocks(Vec<(WriteId, u64)>),
}

/// Encodes a row, command, query or answer: a version byte, then postcard.
///
/// # Errors
/// `TooLarge` over `COMMAND_BYTES_MAX`.
pub fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, Error> {
    let bytes = postcard::to_extend(value, vec![FORMAT])
        .map_err(|error| Error::bug("a metadata value cannot be encoded").with("why", error))?;
    if bytes.len() > COMMAND_BYTES_MAX {
        return Err(Error::new(crate::ErrorKind::TooLarge, "a metadata value is over the limit")
            .with("bytes", bytes.len())
            .with("limit", COMMAND_BYTES_MAX));
    }
    Ok(bytes)
}

/// Decodes what [`encode`] made.
///
/// # Errors
/// `Invalid` for an unknown version, damaged bytes, or bytes left over.
pub fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, Error> {
    match bytes.split_first() {
        Some((&FORMAT, rest)) => {
            let (value, left) = postcard::take_from_bytes(rest)
                .map_err(|error| Error::invalid("a metadata value is damaged").with("why", error))?;
            if left.is_empty() { Ok(value) } else { Err(Error::invalid("bytes behind a metadata value")) }
        }
        Some((&version, _)) => Err(Error::invalid("a metadata value of another version; upgrade this node first")
            .with("version", version)
            .with("supported", FORMAT)),
        None => Err(Error::invalid("an empty metadata value")),
    }
}

const FORMAT: u8 = 1;
