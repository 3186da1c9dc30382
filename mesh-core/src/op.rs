//! What functions ask of each other. The same values whether the other runs in the same chain, the same node, or
//! behind a link.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{
    assignment::{MoveId, Scope, Wish},
    effect::{Principal, Request},
    id::{
        ActorId, BucketId, DriveId, Epoch, GroupId, Incarnation, LayoutId, NodeId, ShardId, StripeId, TenantId, WriteId,
    },
    meta::{
        Attributes, BucketRow, Command, Extent, Listing, MetaAnswer, ObjectRow, PartRow, Precondition, Query,
        UploadRow, WrappedKey,
    },
    spec::CustomSpec,
    topology::{Code, DriveState, NodeKind, NodeState},
};

/// An operation.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// What a gateway asks of the Object function of its node.
    Object(Box<ObjectOp>),
    /// One stripe, on its way down a data chain.
    Stripe(Box<StripeOp>),
    /// One shard, at a drive.
    Shard(Box<ShardOp>),
    /// A read of metadata.
    Query {
        /// The group.
        group: GroupId,
        /// The question.
        query: Arc<Query>,
    },
    /// A write of metadata.
    Propose {
        /// The group.
        group: GroupId,
        /// The change.
        command: Arc<Command>,
    },
    /// What one node asks of another; functions never see it.
    Node(Box<NodeOp>),
}

/// What one node asks of another, beside the actors.
#[derive(Clone, Debug, PartialEq)]
pub enum NodeOp {
    /// A Raft message; the payload is its encoding, and so is the answer's ([`Answer::Done`]).
    Raft {
        /// The group.
        group: GroupId,
        /// Which message, as the Raft adapter numbers them.
        rpc: u32,
    },
    /// "I am alive, and this is how I am." Answered by the other's [`Answer::Report`].
    Heartbeat(Arc<NodeReport>),
    /// How the mesh looks from there: [`Answer::Report`] for the node, over all links.
    Status,
    /// One step of a move, from the controller or between the two nodes: [`Answer::Moved`].
    Move(MoveStep),
    /// What an administrator asks of placement: [`Answer::Told`].
    Admin(Box<AdminOp>),
}

/// One step of a move, at one of its two nodes. A step that is asked for again has no further effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MoveStep {
    /// Which actor.
    pub actor: ActorId,
    /// The epoch that it leaves; it arrives under the next one.
    pub epoch: Epoch,
    /// Which of its moves.
    pub id: MoveId,
    /// What to do.
    pub what: MoveOp,
}

/// What a step of a move does. The machine that asks for them is `mesh_placement::migration`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MoveOp {
    /// Target: builds the actor from its spec; requests for it wait. Once a move: `Conflict` to a second controller that
    /// has begun the same one.
    Warm,
    /// Source, running on: sends its state to the target until little is left.
    PreCopy {
        /// The target.
        to: NodeId,
    },
    /// Source: takes no more requests (they wait), lets what is under way end as far as the state depends on it, and
    /// sends what is left of the state. Good only when the target has all of it.
    Freeze {
        /// The target.
        to: NodeId,
    },
    /// Target, from the source: takes over a page of state, the payload.
    Install {
        /// Its number, from 0.
        page: u32,
        /// Over this page and those before: [`crate::snapshot::digest`].
        digest: u64,
    },
    /// Target, after the commit: runs it.
    Activate,
    /// Source, after the commit: sends on what waits, and lets what is under way end.
    Retire {
        /// Where it runs now.
        to: NodeId,
    },
    /// Source, after the abort: goes on.
    Thaw,
    /// Target, after the abort: forgets it.
    Discard,
}

/// What one step of a move came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moved {
    /// Entries of state that went over, in this step.
    pub entries: u64,
    /// Pages that went over so far in this move.
    pub pages: u32,
    /// Over all pages so far.
    pub digest: u64,
    /// How long it took, in microseconds.
    pub took_us: u64,
}

/// What an administrator asks of placement.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AdminOp {
    /// What the placement engine would do now, without doing it.
    Plan {
        /// As if these hosts had a DPU of this generation.
        with_dpus: Vec<(NodeId, String)>,
        /// As if these nodes were down.
        without: Vec<NodeId>,
    },
    /// Sets or takes back a wish.
    Wish {
        /// About what.
        scope: Scope,
        /// What.
        wish: Option<Wish>,
    },
    /// Empties a node, or takes that back.
    Drain {
        /// Which.
        node: NodeId,
        /// Whether to.
        draining: bool,
    },
    /// What has happened since an event, the newest at most.
    Events {
        /// Only later ones.
        after: u64,
    },
    /// Puts functions of the embedding program into data chains: [`Command::SetStages`].
    Stages {
        /// Of which chains.
        scope: Scope,
        /// Which, in order; none: takes them out.
        stages: Vec<CustomSpec>,
    },
}

/// How a node is, as it says itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeReport {
    /// Who.
    pub node: NodeId,
    /// Which start.
    pub incarnation: Incarnation,
    /// What it runs on.
    pub kind: NodeKind,
    /// Where its mesh listener is.
    pub address: String,
    /// The process.
    pub pid: u32,
    /// How the one who tells it sees it.
    pub state: NodeState,
    /// Its drives, with what they are like.
    pub drives: Vec<DriveReport>,
    /// The groups it has a replica of: group, leader, term.
    pub groups: Vec<(GroupId, Option<NodeId>, u64)>,
    /// Peers that it has a working link to, itself included.
    pub sees: Vec<NodeId>,
    /// The host that it is plugged into, if it is a DPU.
    pub attached_to: Option<NodeId>,
    /// A process that stands for a DPU of this kind.
    pub emulated: Option<String>,
    /// The actors that it hosts.
    pub actors: Vec<ActorReport>,
    /// What it can run, and what that costs here.
    pub ability: Arc<Ability>,
    /// What it has used.
    pub load: NodeLoad,
}

/// What a node can run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ability {
    /// The kinds of function, and what each costs here, as measured: nanoseconds a request and picoseconds a byte.
    pub functions: BTreeMap<String, (u64, u64)>,
    /// Thousandths of a core that it has, of such cores as the costs were measured on.
    pub millicores: u32,
    /// Memory for actors, in bytes.
    pub memory_bytes: u64,
}

/// What a node has used since its process started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeLoad {
    /// CPU time of the whole process, as the system accounts for it, in nanoseconds.
    pub cpu_ns: u64,
    /// Memory of the process in RAM now, in bytes.
    pub resident_bytes: u64,
    /// By kind of function: jobs done, their bytes, their CPU time in nanoseconds, and jobs that wait or run now.
    pub functions: BTreeMap<String, [u64; 4]>,
}

/// How an actor is, as its node says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActorReport {
    /// Which.
    pub actor: ActorId,
    /// Its functions by name, in the order of the chain.
    pub functions: Vec<String>,
    /// The epoch it runs under.
    pub epoch: Epoch,
    /// What it is doing.
    pub phase: Phase,
    /// Requests taken and not answered.
    pub jobs: u64,
    /// Their payload bytes.
    pub bytes: u64,
    /// Requests taken since it was started here.
    pub requests: u64,
    /// Payload bytes taken and given since it was started here.
    pub traffic_bytes: u64,
    /// How often its function panicked.
    pub restarts: u32,
}

/// What an actor is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// It takes requests.
    #[default]
    Running,
    /// It is being built here for a move; requests wait.
    Warming,
    /// It is about to leave; requests wait.
    Frozen,
    /// It is being stopped, or ends what it had when it left.
    Draining,
}

impl core::fmt::Display for Phase {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Running => "running",
            Self::Warming => "warming",
            Self::Frozen => "frozen",
            Self::Draining => "draining",
        })
    }
}

/// How a drive is, as its node says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DriveReport {
    /// Which.
    pub drive: DriveId,
    /// Whether it takes reads and writes.
    pub state: DriveState,
    /// Bytes in all.
    pub capacity_bytes: u64,
    /// Bytes free for new shards.
    pub free_bytes: u64,
    /// Shards held.
    pub shards: u64,
    /// Records found damaged since the start.
    pub corrupt: u64,
    /// Why it is not up, for people.
    pub reason: Option<String>,
}

impl From<ObjectOp> for Op {
    fn from(op: ObjectOp) -> Self {
        Self::Object(Box::new(op))
    }
}

impl From<StripeOp> for Op {
    fn from(op: StripeOp) -> Self {
        Self::Stripe(Box::new(op))
    }
}

impl From<ShardOp> for Op {
    fn from(op: ShardOp) -> Self {
        Self::Shard(Box::new(op))
    }
}

impl Request {
    /// Whose data the request is about: the bound tenant of a stripe, else the principal's.
    #[must_use]
    pub fn tenant(&self) -> Option<TenantId> {
        match &self.op {
            Op::Stripe(op) => Some(op.target().binding.tenant),
            _ => self.principal.tenant(),
        }
    }
}

/// What a stripe's ciphertext is bound to, so that no stored bytes can be passed off as others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binding {
    /// Whose.
    pub tenant: TenantId,
    /// The bucket's incarnation.
    pub bucket: BucketId,
    /// The bucket's name, for Policy.
    pub bucket_name: Arc<str>,
    /// The object's key (for a part: the key the upload will become).
    pub object: Arc<str>,
}

/// Which stripe, where, under which key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StripeTarget {
    /// Write, index and attempt.
    pub id: StripeId,
    /// The table that names its drives.
    pub layout: LayoutId,
    /// What it is bound to.
    pub binding: Arc<Binding>,
    /// The data key; `None`: not encrypted.
    pub key: Option<Arc<WrappedKey>>,
}

/// One stripe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StripeOp {
    /// Stores the payload. Answered by [`Answer::Placed`] when k+m shards are durable on distinct drives.
    Write(StripeTarget),
    /// Gives the payload back. Answered by [`Answer::Done`].
    Read {
        /// Which.
        target: StripeTarget,
        /// As [`Answer::Placed`] said.
        avoid: Vec<DriveId>,
    },
    /// Deletes the shards. [`Answer::Done`] only when every drive that may have one said so.
    Delete {
        /// Which.
        target: StripeTarget,
        /// As [`Answer::Placed`] said.
        avoid: Vec<DriveId>,
    },
}

impl StripeOp {
    /// Which stripe.
    #[must_use]
    pub const fn target(&self) -> &StripeTarget {
        match self {
            Self::Write(target) | Self::Read { target, .. } | Self::Delete { target, .. } => target,
        }
    }
}

/// One shard, at the actor of a drive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ShardOp {
    /// Stores the payload; [`Answer::Done`] when it is durable. The same again: no effect; other bytes under the same
    /// id: `Conflict`.
    Write {
        /// Which.
        id: ShardId,
        /// Whose, for accounting.
        tenant: TenantId,
        /// The code of its stripe.
        code: Code,
        /// Length of the stripe's sealed bytes, before padding and parity.
        sealed_len: u32,
        /// CRC-32C of the payload.
        crc: u32,
    },
    /// Gives a shard back: [`Answer::Shard`]. `NotFound`, `Corrupt`.
    Read {
        /// Which.
        id: ShardId,
    },
    /// Forgets shards; [`Answer::Done`] when that is durable. One that is not there: no effect.
    Delete {
        /// Which, at most `SHARD_BATCH_MAX`.
        ids: Vec<ShardId>,
    },
    /// Names shards in ascending order: [`Answer::Shards`].
    List {
        /// Only greater ones.
        after: Option<ShardId>,
        /// At most so many, at most `SHARD_BATCH_MAX`.
        limit: u32,
    },
    /// Space and health: [`Answer::Drive`].
    Stat,
}

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
            | Self::AbortUpload { bucket, .. } => Some(bucket),
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

/// What an operation says when it went well.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// It is done; a read's bytes are the payload.
    Done,
    /// What a metadata group said.
    Meta(Arc<MetaAnswer>),
    /// A stripe is durable.
    Placed {
        /// Drives that could not be used, ascending: the argument of `Layout::place`.
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
    },
    /// Shards with the lengths of their payloads, ascending; and whether there are more.
    Shards(Vec<(ShardId, u32)>, bool),
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
    /// What an administrator is told: text, and what of it is an event stream goes on after `next`.
    Told {
        /// For people, or JSON where that is asked for.
        lines: Vec<String>,
        /// The last event's number.
        next: u64,
    },
}

/// The kind of permission an operation needs, for Policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permission {
    /// Get, head, list.
    Read,
    /// Put, delete, multipart.
    Write,
    /// Make and delete buckets.
    Admin,
}

impl Principal {
    /// The name for records and logs.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Anonymous => "anonymous",
            Self::System => "system",
            Self::User { name, .. } | Self::Admin { name } => name,
        }
    }
}
