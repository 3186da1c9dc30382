//! What a metadata group is told: [`Command`], who asks for it and of which group, and what must hold for it.
//!
//! ```text
//!                          who asks                      which group
//! BucketCommand            a tenant, through Policy      the control group
//! ObjectCommand            a tenant, through Policy      that of the bucket's keys
//! MeshCommand              the mesh itself               the control group
//! UpkeepCommand            the mesh itself               the namespace group that it names
//! Command::OpenSession     the mesh itself               the group that it names, of either kind
//! Command::Ordered         an administrator              the control group
//! ```
//!
//! A command says by its type what it is, so nobody can ask a wrong group for it, and what a tenant may never ask needs no
//! rule. What a tenant may ask the mesh may ask too. The order of the variants is the format: a new one goes to the end of
//! its enum, whatever it is about.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

use super::{
    AccessKeyRow, BucketRef, BucketSettings, Count, Level, ObjectRow, PartRow, PrincipalRow, TenantLimits, TenantRow,
    UploadRow, WrappedKey,
};
use crate::{
    assignment::{Assignment, MoveId, Scope, Tail, Wish},
    audit::{By, Deed},
    id::{
        ActorId, BucketId, ClusterId, DriveId, Epoch, GroupId, Incarnation, KeyId, LayoutId, NodeId, TenantId, WriteId,
    },
    spec::CustomSpec,
    time::UnixMillis,
    topology::{Code, Layout, NodeInfo},
};

/// What must hold for a write to take effect.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Precondition {
    /// `If-None-Match: *`: there is no such object.
    pub absent: bool,
    /// `If-Match`: the object has this ETag.
    pub etag: Option<String>,
}

/// One life of an actor in a group. Of two, the greater one is the later one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Session {
    /// The actor's epoch.
    pub epoch: Epoch,
    /// Grows from one life under an epoch to the next.
    pub life: u64,
}

impl Session {
    /// After this one no session of the actor is taken.
    pub const LAST: Self = Self { epoch: Epoch(u64::MAX), life: u64::MAX };
}

/// Who proposes, and under which number. A group takes commands of an actor's latest session only, each number once: the
/// same number again gets the same answer and has no further effect, however late it comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposer {
    /// The actor.
    pub actor: ActorId,
    /// Its life, which [`Command::OpenSession`] has begun in this group.
    pub session: Session,
    /// The command's number in the session and group, less than `SESSION_REQUESTS_MAX` above `done_below`.
    pub request: u64,
    /// The lowest number that the actor waits for still: what was said to those below is asked for no more.
    pub done_below: u64,
}

/// One change of a metadata group. Applying is deterministic, and every command may be sent twice. Those that carry a
/// [`Proposer`] fail with `Fenced` if its session is not the actor's latest one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// A tenant asks; of the control group.
    Bucket(BucketCommand),
    /// A tenant asks; of the group of this bucket, about what is in it.
    Object(BucketRef, ObjectCommand),
    /// The mesh asks; of the control group.
    Mesh(MeshCommand),
    /// The mesh asks; of this namespace group.
    Upkeep(GroupId, UpkeepCommand),
    /// The mesh asks; of a group of either kind. Begins a life of an actor there: what its earlier ones propose is refused
    /// from now on, and the blocks that they held are closed. The same again: no effect. `Fenced` if a later one has begun.
    OpenSession {
        /// Where.
        group: GroupId,
        /// The actor.
        actor: ActorId,
        /// Its life.
        session: Session,
    },
    /// An administrator asks, of the control group: as [`Self::Mesh`], and in the same step it goes into the audit log who it was, if
    /// that changes something. `Invalid` for what nobody orders ([`MeshCommand::is_order`]); `QuotaExceeded` if the log is full,
    /// unless it takes something away. Since level 12.
    Ordered {
        /// Who.
        by: By,
        /// When, by the clock of who proposes.
        at: UnixMillis,
        /// What.
        order: MeshCommand,
    },
}

/// Buckets' names: what a tenant may change in the control group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BucketCommand {
    /// A bucket. Gives `Bucket`. `BucketExists`, `BucketTaken`.
    CreateBucket {
        /// Who; `None`: the founding of the cluster, for which the same name and time are the same bucket.
        proposer: Option<Proposer>,
        /// The name.
        name: Arc<str>,
        /// Whose.
        tenant: TenantId,
        /// When.
        created: UnixMillis,
        /// How what is put into it is stored. A code that no bucket has asked for yet is one that layouts get groups for.
        #[serde(default)]
        settings: BucketSettings,
    },
    /// The second step of deleting a bucket: takes its name away. Only of one that its namespace group has sealed, which
    /// nothing undoes; so whoever finds a sealed bucket may send this. Sent again: no effect.
    RemoveBucket {
        /// The incarnation.
        bucket: BucketId,
    },
}

/// What a tenant may change in a bucket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ObjectCommand {
    /// Makes an object visible; what it replaces becomes garbage. Gives `Committed`. `Precondition`, `QuotaExceeded`,
    /// `NoSuchBucket` (sealed), `Conflict` (block closed, or `row.version` in use).
    PutObject {
        /// Who.
        proposer: Proposer,
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
        /// What.
        row: Arc<UploadRow>,
    },
    /// Stores a part; one of the same number becomes garbage. `NoSuchUpload`, `QuotaExceeded`. Gives `Done`.
    PutPart {
        /// Who.
        proposer: Proposer,
        /// The upload.
        upload: WriteId,
        /// What.
        part: Arc<PartRow>,
        /// The tenant's quota, stamped by Policy.
        quota_bytes: Option<u64>,
    },
    /// Makes an object of parts, in this order; parts not named become garbage. `NoSuchUpload`, `InvalidPart`,
    /// `Precondition`. An upload that was completed gives its object again. Gives `Committed`.
    CompleteUpload {
        /// Who.
        proposer: Proposer,
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
        /// Which.
        upload: WriteId,
        /// Now.
        at: UnixMillis,
    },
    /// Deletes the bucket, if it has neither objects nor uploads (else `BucketNotEmpty`): it takes nothing any more, for
    /// good. [`BucketCommand::RemoveBucket`] then takes its name away.
    SealBucket {
        /// Who.
        proposer: Proposer,
    },
}

/// The mesh: who and what is there, for whom, and where it runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MeshCommand {
    // --- nodes ---
    /// The first command of a cluster. Again: no effect if it is the same cluster, else `Conflict`.
    Form {
        /// The cluster.
        cluster: ClusterId,
        /// The code of layouts.
        code: Code,
        /// How many namespace groups there are, numbered from 1.
        namespaces: u16,
    },
    /// A node has started or changed. Replaces what was known of it, unless that is of a later incarnation. `Conflict` if
    /// the number is another life's, or was given out by another invitation.
    PutNode(NodeInfo),
    /// Gives out a node's number: only who has `invitation` may take it. In place of an older invitation by which nobody
    /// has joined. The same again: no effect. `Conflict` for a number that a node has, or had, and for a late copy.
    Invite {
        /// The number.
        node: NodeId,
        /// Greater than that of an older invitation, not 0.
        invitation: u64,
    },
    /// Empties a node, or takes that back. `NotFound` if it is not known.
    Drain {
        /// Which.
        node: NodeId,
        /// Whether to.
        draining: bool,
    },

    // --- drives ---
    /// A drive is to be used. Gives `Epoch`: one more than the last owner's, every time: see [`Self::TakeDrive`], which
    /// nodes use. `Conflict` if it was declared lost.
    PutDrive {
        /// The drive.
        drive: DriveId,
        /// The node that has it.
        node: NodeId,
        /// Its size.
        capacity_bytes: u64,
    },
    /// A drive is to be used by whoever knew this epoch of it. Gives `Epoch`: the one after. The same again, whenever it
    /// comes: the same answer and no effect, or `Conflict` if there was another owner since. `Conflict` too if another start
    /// of the node is the registered one: a copy of a node's folder takes it no drives.
    TakeDrive {
        /// The drive.
        drive: DriveId,
        /// The node that has it.
        node: NodeId,
        /// Which start of it.
        start: Incarnation,
        /// Its size.
        capacity_bytes: u64,
        /// The epoch of its last owner; 0: it had none.
        after: Epoch,
        /// The drive whose place it takes, if it is new: that one is emptied from then on. `Conflict` if it is another node's,
        /// larger, or replaced already.
        #[serde(default)]
        instead_of: Option<DriveId>,
    },
    /// Declares a drive lost for good: it is of no layout to come, and `PutDrive` of its number is `Conflict` from now on.
    /// The same again: no effect. `NotFound` if it is not known.
    LoseDrive {
        /// Which.
        drive: DriveId,
    },
    /// A new table of placement groups; its `id` must be one more than the newest. `Conflict` if another came first.
    PutLayout(Arc<Layout>),

    // --- tenants ---
    /// A tenant; its `id` and `key` are given by the group (0 in the command). Gives `Tenant`. A tenant of the same
    /// name: `Conflict`.
    CreateTenant(TenantRow),
    /// Changes what a tenant may use.
    SetLimits {
        /// The tenant.
        tenant: TenantId,
        /// From now on.
        limits: TenantLimits,
    },
    /// A principal; replaces one of the same name.
    PutPrincipal(PrincipalRow),
    /// An access key. The same again: no effect; other contents under the same name: `Conflict`.
    PutAccessKey(AccessKeyRow),
    /// Revokes an access key. From level 11 on it is so for good: `PutAccessKey` of it is `Conflict`.
    DropAccessKey {
        /// The public half.
        access: String,
    },

    // --- placement ---
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
    /// Has the last stages of a chain run apart from its head; `None` makes it whole. A change of the chain's owner does
    /// that too. The same again: no effect. `Conflict` if the chain is under another epoch or on its way.
    SetTail {
        /// The chain.
        actor: ActorId,
        /// Its epoch.
        epoch: Epoch,
        /// Which stages, and where.
        tail: Option<Tail>,
    },
    /// What a user asks of placement; `None` takes it back.
    SetWish {
        /// About what.
        scope: Scope,
        /// What.
        wish: Option<Wish>,
    },
    /// Which functions of the embedding program stand in data chains, between policy and compression. Replaces what was
    /// declared for the scope. If kinds or their order change, every chain that it concerns begins anew under its next
    /// epoch where it is, and its move ends: what a chain is made of never changes under one epoch. The same again: no
    /// effect. `Conflict` if a kind would stand in one chain twice.
    SetStages {
        /// [`Scope::Mesh`] or [`Scope::Tenant`]; a tenant's come behind the mesh's.
        scope: Scope,
        /// At most `CUSTOM_STAGES_MAX`, in order; none: takes the declaration back.
        stages: Vec<CustomSpec>,
    },

    // --- builds ---
    /// Raises what the mesh can do, for good. `Conflict` if a node does not speak that level. If data chains are made of more
    /// from there on, every one begins anew as by [`Self::SetStages`]. A level that it has or is above:
    /// no effect.
    RaiseLevel(Level),

    // --- since level 4 ---
    /// Empties a drive, or takes that back: it is of no layout to come, and what is on it is brought to the homes that those
    /// have. The same again: no effect. `NotFound` if it is not known, `Conflict` if it is lost, or while another leaves that the
    /// newest layout has: one after the other.
    DrainDrive {
        /// Which.
        drive: DriveId,
        /// Whether to.
        draining: bool,
    },
    /// Drives of one node have been away for long, and are of no layout to come; or are back, and are used again. The same again,
    /// and what an administrator said of a drive: no effect. `Conflict` if drives of another node are out by themselves, or as
    /// [`Self::DrainDrive`].
    PutOut {
        /// Which: at most [`DRIVES_OUT_MAX`](crate::limits::DRIVES_OUT_MAX).
        drives: Vec<DriveId>,
        /// They are away.
        out: bool,
    },

    // --- since level 5 ---
    /// Declares a drive lost that leaves, and on which is nothing any more. The same again: no effect. `Conflict` if it does not
    /// leave, or if another layout is the newest, or has it.
    RemoveDrive {
        /// Which.
        drive: DriveId,
        /// The newest layout, as it was when that was judged.
        layout: LayoutId,
    },
    /// A node is to leave, or stays after all: as [`Self::Drain`] of the node and [`Self::DrainDrive`] of all its drives, and
    /// others are to vote in its place. The same again: no effect. `NotFound` if it is not known; `Conflict` for one that is out,
    /// or as [`Self::DrainDrive`].
    LeaveNode {
        /// Which.
        node: NodeId,
        /// Whether to.
        leaving: bool,
    },
    /// Takes a node out for good, and the DPUs in it: their numbers are never used again, and chains of requests that come in
    /// there are no more. Its drives are lost from now on. The same again: no effect. `NotFound` if it is not known; `Conflict`
    /// while an actor that moves is there; unless it is lost, also if it does not leave, or if another layout is the newest, or
    /// has a drive of it.
    RemoveNode {
        /// Which.
        node: NodeId,
        /// The newest layout, as it was when all its drives were judged to be empty; `None`: it does not come back.
        empty: Option<LayoutId>,
    },
    /// Nothing that a node that is out began is taken in any group from now on: that is remembered, so that nobody has to see to
    /// it again. The same again: no effect. `Conflict` if it is not out.
    FencedNode {
        /// Which.
        node: NodeId,
    },

    // --- since level 11 ---
    /// Takes a principal out for good, with all its access keys: `PutPrincipal` of its name is `Conflict` from now on, for
    /// certificates have names alone. The same again: no effect.
    DropPrincipal {
        /// Whose.
        tenant: TenantId,
        /// Which.
        name: String,
    },
    /// Gives a tenant another wrapping key, under a number that the group gives; the one that it has is kept, for what is stored under
    /// it. Gives `Tenant`. The same again: the same answer and no effect. `Conflict` if it has another key than was thought.
    RotateKey {
        /// Whose.
        tenant: TenantId,
        /// The key that it has.
        after: KeyId,
        /// The next one, under the cluster key.
        wrapped: WrappedKey,
    },

    // --- since level 12 ---
    /// Puts what an administrator did into the audit log; changes nothing else. The same again: no effect, unless many came in between.
    Noted {
        /// What.
        deed: Deed,
        /// Drawn at random: two that are alike are two.
        chance: u64,
    },
    /// Keeps no entries of the audit log before this one. Those that are kept no more go some at a time: the same again takes
    /// further ones away. `Invalid` for one that there is not yet.
    ForgetAudit {
        /// The oldest one to keep.
        first: u64,
    },

    // --- since level 13 ---
    /// Deletes a tenant: from now on there is none of this number, nor ever one of its name again, its key is gone, and its chains run
    /// nowhere. What else there is of it goes some at a time: what is in its buckets by [`UpkeepCommand::EmptyBucket`], their names,
    /// then its users by [`Self::DropTenant`]. The same again: no effect. `NotFound`; `Conflict` if it has buckets, unless
    /// `everything`.
    EndTenant {
        /// Which.
        tenant: TenantId,
        /// Now.
        at: UnixMillis,
        /// Also what is in its buckets.
        everything: bool,
    },
    /// Takes away some of what is left of a tenant that was deleted. Gives `Rest`; the same again, once nothing is left: no effect.
    /// `Conflict` if it was not deleted, or has buckets.
    DropTenant {
        /// Which.
        tenant: TenantId,
    },
}

impl MeshCommand {
    /// Whether it is one that an administrator orders.
    #[must_use]
    pub const fn is_order(&self) -> bool {
        match self {
            Self::Invite { .. }
            | Self::Drain { .. }
            | Self::LoseDrive { .. }
            | Self::CreateTenant(_)
            | Self::SetLimits { .. }
            | Self::PutPrincipal(_)
            | Self::PutAccessKey(_)
            | Self::DropAccessKey { .. }
            | Self::SetWish { .. }
            | Self::SetStages { .. }
            | Self::DrainDrive { .. }
            | Self::RemoveDrive { .. }
            | Self::LeaveNode { .. }
            | Self::RemoveNode { .. }
            | Self::DropPrincipal { .. }
            | Self::RotateKey { .. }
            | Self::Noted { .. }
            | Self::ForgetAudit { .. }
            | Self::EndTenant { .. } => true,
            Self::Form { .. }
            | Self::PutNode(_)
            | Self::PutDrive { .. }
            | Self::TakeDrive { .. }
            | Self::PutLayout(_)
            | Self::Assign(_)
            | Self::BeginMove { .. }
            | Self::CommitMove { .. }
            | Self::AbortMove { .. }
            | Self::SetTail { .. }
            | Self::RaiseLevel(_)
            | Self::PutOut { .. }
            | Self::FencedNode { .. }
            | Self::DropTenant { .. } => false,
        }
    }

    /// Whether it takes something away, and must not have to wait for anything.
    #[must_use]
    pub const fn takes_away(&self) -> bool {
        matches!(
            self,
            Self::DropAccessKey { .. }
                | Self::DropPrincipal { .. }
                | Self::LoseDrive { .. }
                | Self::RemoveDrive { .. }
                | Self::RemoveNode { .. }
                | Self::ForgetAudit { .. }
                | Self::EndTenant { .. }
        )
    }
}

/// What the mesh itself keeps in order in a namespace group: write ids, and what is garbage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum UpkeepCommand {
    /// Asks for a block of write ids. Gives `Block`.
    OpenBlock {
        /// Who.
        proposer: Proposer,
    },
    /// Refuses later manifests of a block.
    CloseBlock {
        /// The block's first write.
        first: WriteId,
    },
    /// Forgets a closed block: every drive was looked through for what its writes left behind. The same again: no effect.
    /// `Conflict` if it is open still.
    SweptBlock {
        /// The block's first write.
        first: WriteId,
    },
    /// Forgets garbage whose shards are deleted.
    DropGarbage {
        /// The writes.
        writes: Vec<WriteId>,
    },
    /// Forgets garbage whose shards are deleted but for those on drives that did not answer: each of them is owed the
    /// deletion from now on, in a row of its own. Gives `Writes`: those that stay garbage, because a drive is owed as much
    /// as may be already. What is no garbage any more: no effect.
    OweGarbage {
        /// What each drive still has to delete.
        owed: Vec<(DriveId, Vec<WriteId>)>,
    },
    /// A drive has deleted what it held of these writes, or is lost: it is not owed that any more. The same again: no
    /// effect.
    PayOwed {
        /// The drive.
        drive: DriveId,
        /// Of what it was owed.
        writes: Vec<WriteId>,
    },
    /// From now on what is committed under an older layout than this one, or without drives that were its homes, is
    /// remembered as unsettled. The same again: no effect. `Conflict` if that was said of a later layout.
    BeginRepair {
        /// The layout.
        layout: LayoutId,
    },
    /// All shards of writes that are not remembered as unsettled are at their homes in this layout, but for what is lost: whoever
    /// says so has looked since `BeginRepair`. The same again: no effect. `Conflict` if repair has begun for another layout since.
    EndRepair {
        /// The layout.
        layout: LayoutId,
        /// Its line; 0: not said.
        #[serde(default)]
        line: u32,
        /// The older layouts of that line: what is settled and was written under one of them is said to be where this layout
        /// has it, from now on.
        #[serde(default)]
        layouts: Vec<LayoutId>,
    },
    /// All shards of these writes are at their homes in this layout, but for what is lost, or they are not in use any more: they
    /// are unsettled no more. The same again: no effect. `Conflict` if repair has begun for another layout since.
    Repaired {
        /// The layout.
        layout: LayoutId,
        /// The writes.
        writes: Vec<WriteId>,
    },
    /// Every shard of what is settled was seen at its home in the layout of the count, but for what is lost, and what was
    /// elsewhere is deleted there. `Conflict` if repair has begun for another layout since.
    Counted {
        /// What was found.
        count: Count,
    },
    /// Seals a bucket whatever is in it, for its tenant was deleted, and makes some of that garbage. Gives `Rest`; the same again,
    /// once nothing is left: no effect.
    EmptyBucket {
        /// Which.
        bucket: BucketRef,
        /// Now, for the garbage's grace.
        at: UnixMillis,
    },
}

impl Command {
    /// The group that it is for.
    #[must_use]
    pub const fn group(&self) -> GroupId {
        match self {
            Self::Bucket(_) | Self::Mesh(_) | Self::Ordered { .. } => GroupId::CONTROL,
            Self::Object(bucket, _) => bucket.group,
            Self::Upkeep(group, _) | Self::OpenSession { group, .. } => *group,
        }
    }

    /// What all nodes must be able to do before it may be proposed: each replica has to store and apply it, with every field
    /// of it that is not at its default.
    #[must_use]
    pub fn level(&self) -> Level {
        match self {
            Self::Bucket(BucketCommand::CreateBucket { settings, .. }) if settings.code.is_some() => Level::CODES,
            Self::Bucket(BucketCommand::CreateBucket { settings, .. }) if !settings.is_usual() => Level::COMPRESS,
            Self::Mesh(MeshCommand::PutLayout(layout)) if !layout.others.is_empty() => Level::CODES,
            Self::Mesh(MeshCommand::PutLayout(layout)) if !layout.places.is_empty() => Level::PLACES,
            Self::Mesh(MeshCommand::PutNode(node)) if node.location.is_some() => Level::PLACES,
            Self::Mesh(MeshCommand::PutLayout(layout)) if layout.line > 0 => Level::LINES,
            Self::Mesh(
                MeshCommand::RemoveDrive { .. }
                | MeshCommand::LeaveNode { .. }
                // Of one that is lost it is looked at instead whether all others can: its own build must not keep it in.
                | MeshCommand::RemoveNode { empty: Some(_), .. }
                | MeshCommand::FencedNode { .. },
            ) => Level::LEAVES,
            Self::Mesh(MeshCommand::TakeDrive { instead_of: Some(_), .. }) => Level::SEATS,
            Self::Mesh(MeshCommand::DropPrincipal { .. } | MeshCommand::RotateKey { .. }) => Level::ACCESS,
            Self::Mesh(MeshCommand::EndTenant { .. } | MeshCommand::DropTenant { .. })
            | Self::Ordered { order: MeshCommand::EndTenant { .. }, .. }
            | Self::Upkeep(_, UpkeepCommand::EmptyBucket { .. }) => Level::ENDS,
            Self::Mesh(MeshCommand::Noted { .. } | MeshCommand::ForgetAudit { .. }) | Self::Ordered { .. } => Level::AUDIT,
            Self::Mesh(MeshCommand::DrainDrive { .. } | MeshCommand::PutOut { .. }) => Level::DRAINS,
            Self::Upkeep(_, UpkeepCommand::EndRepair { line, .. }) if *line > 0 => Level::SETTLED,
            Self::Upkeep(_, UpkeepCommand::Counted { .. }) => Level::SETTLED,
            Self::Upkeep(_, UpkeepCommand::BeginRepair { .. } | UpkeepCommand::EndRepair { .. })
            | Self::Upkeep(_, UpkeepCommand::Repaired { .. }) => Level::LINES,
            Self::Bucket(_) | Self::Object(..) | Self::Mesh(_) | Self::Upkeep(..) | Self::OpenSession { .. } => {
                Level::FIRST
            }
        }
    }

    /// Who proposes it, if it is one that takes effect once by its number; the others may be repeated as they are.
    #[must_use]
    pub const fn proposer(&self) -> Option<&Proposer> {
        match self {
            Self::Bucket(command) => command.proposer(),
            Self::Object(_, command) => Some(command.proposer()),
            Self::Upkeep(_, command) => command.proposer(),
            Self::Mesh(_) | Self::Ordered { .. } | Self::OpenSession { .. } => None,
        }
    }
}

impl BucketCommand {
    const fn proposer(&self) -> Option<&Proposer> {
        match self {
            Self::CreateBucket { proposer, .. } => proposer.as_ref(),
            Self::RemoveBucket { .. } => None,
        }
    }
}

impl ObjectCommand {
    /// Who proposes it.
    #[must_use]
    pub const fn proposer(&self) -> &Proposer {
        match self {
            Self::PutObject { proposer, .. }
            | Self::DeleteObject { proposer, .. }
            | Self::CreateUpload { proposer, .. }
            | Self::PutPart { proposer, .. }
            | Self::CompleteUpload { proposer, .. }
            | Self::AbortUpload { proposer, .. }
            | Self::SealBucket { proposer } => proposer,
        }
    }
}

impl UpkeepCommand {
    const fn proposer(&self) -> Option<&Proposer> {
        match self {
            Self::OpenBlock { proposer } => Some(proposer),
            Self::CloseBlock { .. }
            | Self::SweptBlock { .. }
            | Self::DropGarbage { .. }
            | Self::OweGarbage { .. }
            | Self::PayOwed { .. }
            | Self::BeginRepair { .. }
            | Self::EndRepair { .. }
            | Self::Repaired { .. }
            | Self::Counted { .. }
            | Self::EmptyBucket { .. } => None,
        }
    }
}

impl From<BucketCommand> for Command {
    fn from(command: BucketCommand) -> Self {
        Self::Bucket(command)
    }
}

impl From<MeshCommand> for Command {
    fn from(command: MeshCommand) -> Self {
        Self::Mesh(command)
    }
}
