//! Which row of the table an operation has.

use crate::{
    Op,
    audit::AuditOp,
    meta::{BucketCommand, Command, MeshCommand, ObjectCommand, Query, UpkeepCommand},
    op::{AccessOp, AdminOp, MoveOp, NodeOp, ObjectOp, ShardOp, StripeOp},
};

/// What can be asked over a link: a row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "each is the operation of its name, and the table says the rest")]
pub enum Kind {
    ObjectCreateBucket,
    ObjectDeleteBucket,
    ObjectHeadBucket,
    ObjectListBuckets,
    ObjectBegin,
    ObjectAppend,
    ObjectFinish,
    ObjectAbort,
    ObjectHead,
    ObjectPlan,
    ObjectRead,
    ObjectDelete,
    ObjectList,
    ObjectCreateUpload,
    ObjectHeadUpload,
    ObjectListParts,
    ObjectListUploads,
    ObjectCompleteUpload,
    ObjectAbortUpload,
    ObjectCreateBucketWith,
    StripeWrite,
    StripeRead,
    StripeDelete,
    ShardWrite,
    ShardRead,
    ShardDelete,
    ShardList,
    ShardStat,
    ShardDamaged,
    ShardScrub,
    QueryBucket,
    QueryBuckets,
    QueryControl,
    QueryObject,
    QueryList,
    QueryUpload,
    QueryUploads,
    QueryParts,
    QueryExtents,
    QueryGarbage,
    QueryUsage,
    QueryReferenced,
    QueryClosedBlocks,
    QueryOwed,
    QueryDrive,
    QueryRepair,
    QueryUses,
    QueryUnsettled,
    QueryNoMember,
    QueryAudit,
    CreateBucket,
    RemoveBucket,
    PutObject,
    DeleteObject,
    CreateUpload,
    PutPart,
    CompleteUpload,
    AbortUpload,
    SealBucket,
    OpenSession,
    OpenBlock,
    CloseBlock,
    SweptBlock,
    DropGarbage,
    OweGarbage,
    PayOwed,
    BeginRepair,
    EndRepair,
    Repaired,
    Counted,
    Form,
    PutNode,
    Invite,
    Drain,
    PutDrive,
    TakeDrive,
    LoseDrive,
    PutLayout,
    CreateTenant,
    SetLimits,
    PutPrincipal,
    PutAccessKey,
    DropAccessKey,
    Assign,
    BeginMove,
    CommitMove,
    AbortMove,
    SetTail,
    SetWish,
    SetStages,
    RaiseLevel,
    DrainDrive,
    PutOut,
    RemoveDrive,
    LeaveNode,
    RemoveNode,
    FencedNode,
    DropPrincipal,
    RotateKey,
    Noted,
    ForgetAudit,
    Ordered,
    EndTenant,
    DropTenant,
    EmptyBucket,
    Raft,
    Beat,
    Status,
    StatusPage,
    RelayQuery,
    RelayPropose,
    MoveWarm,
    MovePreCopy,
    MoveFreeze,
    MoveInstall,
    MoveActivate,
    MoveRetire,
    MoveThaw,
    MoveDiscard,
    AdminPlan,
    AdminPlanPage,
    AdminWish,
    AdminDrain,
    AdminEvents,
    AdminStages,
    AdminInvite,
    AdminLoseDrive,
    AdminRepair,
    AdminScrub,
    AdminDrainDrive,
    AdminRemoveDrive,
    AdminLeaveNode,
    AdminRemoveNode,
    AdminAddDrive,
    AdminReplaceDrive,
    AdminOpenDrive,
    AdminRecover,
    AdminReplicas,
    AdminForce,
    AdminBackup,
    AccessTenants,
    AccessCreateTenant,
    AccessLimit,
    AccessUsage,
    AccessUsers,
    AccessCreateKey,
    AccessGrant,
    AccessRevokeKey,
    AccessDropUser,
    AccessRotateKey,
    AuditPage,
    AuditForget,
    AccessDeleteTenant,
    AdminFigures,
}

impl Kind {
    /// The row of an operation.
    #[must_use]
    pub fn of(op: &Op) -> Self {
        match op {
            Op::Object(op) => Self::of_object(op),
            Op::Stripe(op) => Self::of_stripe(op),
            Op::Shard(op) => Self::of_shard(op),
            Op::Query { query, .. } => Self::of_query(query),
            Op::Propose(command) => Self::of_command(command),
            Op::Node(op) => Self::of_node(op),
        }
    }

    const fn of_object(op: &ObjectOp) -> Self {
        match op {
            ObjectOp::CreateBucket { .. } => Self::ObjectCreateBucket,
            ObjectOp::DeleteBucket { .. } => Self::ObjectDeleteBucket,
            ObjectOp::HeadBucket { .. } => Self::ObjectHeadBucket,
            ObjectOp::ListBuckets => Self::ObjectListBuckets,
            ObjectOp::Begin { .. } => Self::ObjectBegin,
            ObjectOp::Append { .. } => Self::ObjectAppend,
            ObjectOp::Finish { .. } => Self::ObjectFinish,
            ObjectOp::Abort { .. } => Self::ObjectAbort,
            ObjectOp::Head { .. } => Self::ObjectHead,
            ObjectOp::Plan { .. } => Self::ObjectPlan,
            ObjectOp::Read { .. } => Self::ObjectRead,
            ObjectOp::Delete { .. } => Self::ObjectDelete,
            ObjectOp::List { .. } => Self::ObjectList,
            ObjectOp::CreateUpload { .. } => Self::ObjectCreateUpload,
            ObjectOp::HeadUpload { .. } => Self::ObjectHeadUpload,
            ObjectOp::ListParts { .. } => Self::ObjectListParts,
            ObjectOp::ListUploads { .. } => Self::ObjectListUploads,
            ObjectOp::CompleteUpload { .. } => Self::ObjectCompleteUpload,
            ObjectOp::AbortUpload { .. } => Self::ObjectAbortUpload,
            ObjectOp::CreateBucketWith { .. } => Self::ObjectCreateBucketWith,
        }
    }

    const fn of_stripe(op: &StripeOp) -> Self {
        match op {
            StripeOp::Write { .. } => Self::StripeWrite,
            StripeOp::Read { .. } => Self::StripeRead,
            StripeOp::Delete { .. } => Self::StripeDelete,
        }
    }

    const fn of_shard(op: &ShardOp) -> Self {
        match op {
            ShardOp::Write { .. } => Self::ShardWrite,
            ShardOp::Read { .. } => Self::ShardRead,
            ShardOp::Delete { .. } => Self::ShardDelete,
            ShardOp::List { .. } => Self::ShardList,
            ShardOp::Stat => Self::ShardStat,
            ShardOp::Damaged { .. } => Self::ShardDamaged,
            ShardOp::Scrub { .. } => Self::ShardScrub,
        }
    }

    /// The row of a question to a metadata group.
    #[must_use]
    pub const fn of_query(query: &Query) -> Self {
        match query {
            Query::Bucket { .. } => Self::QueryBucket,
            Query::Buckets { .. } => Self::QueryBuckets,
            Query::Control => Self::QueryControl,
            Query::Object { .. } => Self::QueryObject,
            Query::List { .. } => Self::QueryList,
            Query::Upload { .. } => Self::QueryUpload,
            Query::Uploads { .. } => Self::QueryUploads,
            Query::Parts { .. } => Self::QueryParts,
            Query::Extents { .. } => Self::QueryExtents,
            Query::Garbage { .. } => Self::QueryGarbage,
            Query::Usage { .. } => Self::QueryUsage,
            Query::Referenced { .. } => Self::QueryReferenced,
            Query::ClosedBlocks { .. } => Self::QueryClosedBlocks,
            Query::Owed { .. } => Self::QueryOwed,
            Query::Drive { .. } => Self::QueryDrive,
            Query::Repair => Self::QueryRepair,
            Query::Uses { .. } => Self::QueryUses,
            Query::Unsettled { .. } => Self::QueryUnsettled,
            Query::NoMember { .. } => Self::QueryNoMember,
            Query::Audit { .. } => Self::QueryAudit,
        }
    }

    /// The row of a command of a metadata group.
    #[must_use]
    pub const fn of_command(command: &Command) -> Self {
        match command {
            Command::Bucket(command) => Self::of_bucket(command),
            Command::Object(_, command) => Self::of_object_command(command),
            Command::Mesh(command) => Self::of_mesh(command),
            Command::Upkeep(_, command) => Self::of_upkeep(command),
            Command::OpenSession { .. } => Self::OpenSession,
            Command::Ordered { .. } => Self::Ordered,
        }
    }

    const fn of_bucket(command: &BucketCommand) -> Self {
        match command {
            BucketCommand::CreateBucket { .. } => Self::CreateBucket,
            BucketCommand::RemoveBucket { .. } => Self::RemoveBucket,
        }
    }

    const fn of_object_command(command: &ObjectCommand) -> Self {
        match command {
            ObjectCommand::PutObject { .. } => Self::PutObject,
            ObjectCommand::DeleteObject { .. } => Self::DeleteObject,
            ObjectCommand::CreateUpload { .. } => Self::CreateUpload,
            ObjectCommand::PutPart { .. } => Self::PutPart,
            ObjectCommand::CompleteUpload { .. } => Self::CompleteUpload,
            ObjectCommand::AbortUpload { .. } => Self::AbortUpload,
            ObjectCommand::SealBucket { .. } => Self::SealBucket,
        }
    }

    const fn of_mesh(command: &MeshCommand) -> Self {
        match command {
            MeshCommand::Form { .. } => Self::Form,
            MeshCommand::PutNode { .. } => Self::PutNode,
            MeshCommand::Invite { .. } => Self::Invite,
            MeshCommand::Drain { .. } => Self::Drain,
            MeshCommand::PutDrive { .. } => Self::PutDrive,
            MeshCommand::TakeDrive { .. } => Self::TakeDrive,
            MeshCommand::LoseDrive { .. } => Self::LoseDrive,
            MeshCommand::PutLayout { .. } => Self::PutLayout,
            MeshCommand::CreateTenant { .. } => Self::CreateTenant,
            MeshCommand::SetLimits { .. } => Self::SetLimits,
            MeshCommand::PutPrincipal { .. } => Self::PutPrincipal,
            MeshCommand::PutAccessKey { .. } => Self::PutAccessKey,
            MeshCommand::DropAccessKey { .. } => Self::DropAccessKey,
            MeshCommand::Assign { .. } => Self::Assign,
            MeshCommand::BeginMove { .. } => Self::BeginMove,
            MeshCommand::CommitMove { .. } => Self::CommitMove,
            MeshCommand::AbortMove { .. } => Self::AbortMove,
            MeshCommand::SetTail { .. } => Self::SetTail,
            MeshCommand::SetWish { .. } => Self::SetWish,
            MeshCommand::SetStages { .. } => Self::SetStages,
            MeshCommand::RaiseLevel { .. } => Self::RaiseLevel,
            MeshCommand::DrainDrive { .. } => Self::DrainDrive,
            MeshCommand::PutOut { .. } => Self::PutOut,
            MeshCommand::RemoveDrive { .. } => Self::RemoveDrive,
            MeshCommand::LeaveNode { .. } => Self::LeaveNode,
            MeshCommand::RemoveNode { .. } => Self::RemoveNode,
            MeshCommand::FencedNode { .. } => Self::FencedNode,
            MeshCommand::DropPrincipal { .. } => Self::DropPrincipal,
            MeshCommand::RotateKey { .. } => Self::RotateKey,
            MeshCommand::Noted { .. } => Self::Noted,
            MeshCommand::ForgetAudit { .. } => Self::ForgetAudit,
            MeshCommand::EndTenant { .. } => Self::EndTenant,
            MeshCommand::DropTenant { .. } => Self::DropTenant,
        }
    }

    const fn of_upkeep(command: &UpkeepCommand) -> Self {
        match command {
            UpkeepCommand::OpenBlock { .. } => Self::OpenBlock,
            UpkeepCommand::CloseBlock { .. } => Self::CloseBlock,
            UpkeepCommand::SweptBlock { .. } => Self::SweptBlock,
            UpkeepCommand::DropGarbage { .. } => Self::DropGarbage,
            UpkeepCommand::OweGarbage { .. } => Self::OweGarbage,
            UpkeepCommand::PayOwed { .. } => Self::PayOwed,
            UpkeepCommand::BeginRepair { .. } => Self::BeginRepair,
            UpkeepCommand::EndRepair { .. } => Self::EndRepair,
            UpkeepCommand::Repaired { .. } => Self::Repaired,
            UpkeepCommand::Counted { .. } => Self::Counted,
            UpkeepCommand::EmptyBucket { .. } => Self::EmptyBucket,
        }
    }

    fn of_node(op: &NodeOp) -> Self {
        match op {
            NodeOp::Raft { .. } => Self::Raft,
            NodeOp::Beat(_) => Self::Beat,
            NodeOp::Status => Self::Status,
            NodeOp::StatusPage { .. } => Self::StatusPage,
            NodeOp::Move(step) => Self::of_move(&step.what),
            NodeOp::Admin(op) => Self::of_admin(op),
            NodeOp::RelayQuery { .. } => Self::RelayQuery,
            NodeOp::RelayPropose(_) => Self::RelayPropose,
        }
    }

    const fn of_move(what: &MoveOp) -> Self {
        match what {
            MoveOp::Warm => Self::MoveWarm,
            MoveOp::PreCopy { .. } => Self::MovePreCopy,
            MoveOp::Freeze { .. } => Self::MoveFreeze,
            MoveOp::Install { .. } => Self::MoveInstall,
            MoveOp::Activate => Self::MoveActivate,
            MoveOp::Retire { .. } => Self::MoveRetire,
            MoveOp::Thaw => Self::MoveThaw,
            MoveOp::Discard => Self::MoveDiscard,
        }
    }

    const fn of_admin(op: &AdminOp) -> Self {
        match op {
            AdminOp::Plan { .. } => Self::AdminPlan,
            AdminOp::PlanPage { .. } => Self::AdminPlanPage,
            AdminOp::Wish { .. } => Self::AdminWish,
            AdminOp::Drain { .. } => Self::AdminDrain,
            AdminOp::Events { .. } => Self::AdminEvents,
            AdminOp::Stages { .. } => Self::AdminStages,
            AdminOp::Invite { .. } => Self::AdminInvite,
            AdminOp::LoseDrive { .. } => Self::AdminLoseDrive,
            AdminOp::Repair => Self::AdminRepair,
            AdminOp::Scrub { .. } => Self::AdminScrub,
            AdminOp::DrainDrive { .. } => Self::AdminDrainDrive,
            AdminOp::RemoveDrive { .. } => Self::AdminRemoveDrive,
            AdminOp::LeaveNode { .. } => Self::AdminLeaveNode,
            AdminOp::RemoveNode { .. } => Self::AdminRemoveNode,
            AdminOp::AddDrive { .. } => Self::AdminAddDrive,
            AdminOp::ReplaceDrive { .. } => Self::AdminReplaceDrive,
            AdminOp::OpenDrive { .. } => Self::AdminOpenDrive,
            AdminOp::Recover { .. } => Self::AdminRecover,
            AdminOp::Replicas => Self::AdminReplicas,
            AdminOp::Force { .. } => Self::AdminForce,
            AdminOp::Backup { .. } => Self::AdminBackup,
            AdminOp::Access(op) => Self::of_access(op),
            AdminOp::Audit(AuditOp::Page { .. }) => Self::AuditPage,
            AdminOp::Audit(AuditOp::Forget { .. }) => Self::AuditForget,
            AdminOp::Figures { .. } => Self::AdminFigures,
        }
    }

    const fn of_access(op: &AccessOp) -> Self {
        match op {
            AccessOp::Tenants { .. } => Self::AccessTenants,
            AccessOp::CreateTenant { .. } => Self::AccessCreateTenant,
            AccessOp::Limit { .. } => Self::AccessLimit,
            AccessOp::Usage { .. } => Self::AccessUsage,
            AccessOp::Users { .. } => Self::AccessUsers,
            AccessOp::CreateKey { .. } => Self::AccessCreateKey,
            AccessOp::Grant { .. } => Self::AccessGrant,
            AccessOp::RevokeKey { .. } => Self::AccessRevokeKey,
            AccessOp::DropUser { .. } => Self::AccessDropUser,
            AccessOp::RotateKey { .. } => Self::AccessRotateKey,
            AccessOp::DeleteTenant { .. } => Self::AccessDeleteTenant,
        }
    }
}
