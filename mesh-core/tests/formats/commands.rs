//! One value of every command, named as it is asked for.

use std::sync::Arc;

use mesh_core::{
    assignment::{MoveId, Scope, Tail},
    id::{ActorId, BucketId, DriveId, Epoch, GroupId, Incarnation, KeyId, LayoutId, NodeId, TenantId, WriteId},
    meta::{BucketCommand, Command, Level, MeshCommand, ObjectCommand, Precondition, UpkeepCommand},
    time::UnixMillis,
    topology::Code,
};

use crate::samples::{self, bucket_settings, proposer, texts, variants};
use crate::{audit, places};

variants!(BUCKET_COMMANDS, bucket_command_name, BucketCommand: CreateBucket RemoveBucket);

variants!(OBJECT_COMMANDS, object_command_name, ObjectCommand:
    PutObject DeleteObject CreateUpload PutPart CompleteUpload AbortUpload SealBucket);

variants!(MESH_COMMANDS, mesh_command_name, MeshCommand:
    Form PutNode Invite Drain PutDrive TakeDrive LoseDrive PutLayout CreateTenant SetLimits PutPrincipal PutAccessKey
    DropAccessKey Assign BeginMove CommitMove AbortMove SetTail SetWish SetStages
    RaiseLevel DrainDrive PutOut RemoveDrive LeaveNode RemoveNode FencedNode DropPrincipal RotateKey
    Noted ForgetAudit EndTenant DropTenant);

variants!(UPKEEP_COMMANDS, upkeep_command_name, UpkeepCommand:
    OpenBlock CloseBlock SweptBlock DropGarbage OweGarbage PayOwed BeginRepair EndRepair
    Repaired Counted EmptyBucket);

/// The names of all: every one must have a sample.
pub(crate) fn names() -> Vec<&'static str> {
    let families = [BUCKET_COMMANDS, OBJECT_COMMANDS, MESH_COMMANDS, UPKEEP_COMMANDS];
    families.into_iter().flatten().copied().chain(["OpenSession", "Ordered"]).collect()
}

/// The name of a command.
pub(crate) fn name(command: &Command) -> &'static str {
    match command {
        Command::Bucket(command) => bucket_command_name(command),
        Command::Object(_, command) => object_command_name(command),
        Command::Mesh(command) => mesh_command_name(command),
        Command::Upkeep(_, command) => upkeep_command_name(command),
        Command::OpenSession { .. } => "OpenSession",
        Command::Ordered { .. } => "Ordered",
    }
}

/// Every command.
pub(crate) fn all() -> Vec<Command> {
    let group = GroupId(300);
    let session = Command::OpenSession { group, actor: ActorId::ingress(NodeId(51)), session: samples::session() };
    let buckets = buckets().into_iter().map(Command::Bucket);
    let objects = objects().into_iter().map(|command| Command::Object(samples::bucket_ref(), command));
    let mesh = mesh().into_iter().map(Command::Mesh);
    let upkeep = upkeep().into_iter().map(|command| Command::Upkeep(group, command));
    buckets.chain(objects).chain(mesh).chain(upkeep).chain([session, audit::ordered()]).collect()
}

fn buckets() -> Vec<BucketCommand> {
    vec![
        BucketCommand::CreateBucket {
            proposer: Some(proposer()),
            name: "photos".into(),
            tenant: TenantId(1),
            created: UnixMillis(2),
            settings: bucket_settings(),
        },
        BucketCommand::RemoveBucket { bucket: BucketId(2) },
    ]
}

fn objects() -> Vec<ObjectCommand> {
    let key: Arc<str> = "a/ü b+c%".into();
    vec![
        ObjectCommand::PutObject {
            proposer: proposer(),
            key: key.clone(),
            row: Arc::new(samples::object_row()),
            precondition: samples::precondition(),
            quota_bytes: Some(1 << 40),
        },
        ObjectCommand::DeleteObject {
            proposer: proposer(),
            key: key.clone(),
            at: UnixMillis(1),
            precondition: Precondition::default(),
        },
        ObjectCommand::CreateUpload { proposer: proposer(), row: Arc::new(samples::upload_row()) },
        ObjectCommand::PutPart {
            proposer: proposer(),
            upload: WriteId(1),
            part: Arc::new(samples::part_row()),
            quota_bytes: None,
        },
        ObjectCommand::CompleteUpload {
            proposer: proposer(),
            key,
            upload: WriteId(1),
            parts: vec![(1, "e1".into()), (10_000, "e2".into())],
            etag: "e3-2".into(),
            checksums: texts(&[("crc32", "AAAAAA==")]),
            at: UnixMillis(2),
            precondition: samples::precondition(),
        },
        ObjectCommand::AbortUpload { proposer: proposer(), upload: WriteId(1), at: UnixMillis(2) },
        ObjectCommand::SealBucket { proposer: proposer() },
    ]
}

fn mesh() -> Vec<MeshCommand> {
    vec![
        MeshCommand::Form { cluster: samples::cluster(), code: Code { data: 4, parity: 2 }, namespaces: 300 },
        MeshCommand::PutNode(samples::node_info()),
        MeshCommand::Invite { node: NodeId(7), invitation: 8 },
        MeshCommand::Drain { node: NodeId(1), draining: true },
        MeshCommand::PutDrive { drive: DriveId(1), node: NodeId(2), capacity_bytes: 3 << 40 },
        MeshCommand::TakeDrive {
            drive: DriveId(1),
            node: NodeId(2),
            start: Incarnation(5),
            capacity_bytes: 3 << 40,
            after: Epoch(4),
            instead_of: Some(DriveId(7)),
        },
        MeshCommand::LoseDrive { drive: DriveId(1) },
        MeshCommand::PutLayout(Arc::new(places::layout())),
        MeshCommand::CreateTenant(samples::tenant_row()),
        MeshCommand::SetLimits { tenant: TenantId(5), limits: samples::limits() },
        MeshCommand::PutPrincipal(samples::principal_row()),
        MeshCommand::PutAccessKey(samples::access_key_row()),
        MeshCommand::DropAccessKey { access: "AKMESH0000000001".into() },
        MeshCommand::Assign(samples::assignment()),
        MeshCommand::BeginMove { actor: ActorId(1), epoch: Epoch(2), id: MoveId(3), to: NodeId(4) },
        MeshCommand::CommitMove { actor: ActorId(1), epoch: Epoch(2), id: MoveId(3) },
        MeshCommand::AbortMove { actor: ActorId(1), epoch: Epoch(2), id: MoveId(3) },
        MeshCommand::SetTail { actor: ActorId(1), epoch: Epoch(2), tail: Some(Tail { cut: 1, node: NodeId(4) }) },
        MeshCommand::SetWish { scope: Scope::Actor(ActorId(1)), wish: Some(samples::wish()) },
        MeshCommand::SetStages { scope: Scope::Tenant(TenantId(1)), stages: samples::stages() },
        MeshCommand::RaiseLevel(Level(154)),
        MeshCommand::DrainDrive { drive: DriveId(1), draining: true },
        MeshCommand::PutOut { drives: vec![DriveId(1), DriveId(2)], out: true },
        MeshCommand::RemoveDrive { drive: DriveId(1), layout: LayoutId(2) },
        MeshCommand::LeaveNode { node: NodeId(1), leaving: true },
        MeshCommand::RemoveNode { node: NodeId(1), empty: Some(LayoutId(2)) },
        MeshCommand::FencedNode { node: NodeId(1) },
        MeshCommand::DropPrincipal { tenant: TenantId(3), name: "ann".into() },
        MeshCommand::RotateKey { tenant: TenantId(3), after: KeyId(42), wrapped: samples::wrapped_key() },
        MeshCommand::Noted { deed: audit::deed(), chance: 7 },
        MeshCommand::ForgetAudit { first: 8 },
        MeshCommand::EndTenant { tenant: TenantId(3), at: UnixMillis(9), everything: true },
        MeshCommand::DropTenant { tenant: TenantId(3) },
    ]
}

fn upkeep() -> Vec<UpkeepCommand> {
    vec![
        UpkeepCommand::OpenBlock { proposer: proposer() },
        UpkeepCommand::CloseBlock { first: WriteId::new(GroupId(1), 4096) },
        UpkeepCommand::SweptBlock { first: WriteId::new(GroupId(2), 8192) },
        UpkeepCommand::DropGarbage { writes: vec![WriteId(1), WriteId::new(GroupId(65_535), 2)] },
        UpkeepCommand::OweGarbage {
            owed: vec![(DriveId(1), vec![WriteId(2), WriteId(3)]), (DriveId(4), vec![WriteId(2)])],
        },
        UpkeepCommand::PayOwed { drive: DriveId(1), writes: vec![WriteId(2)] },
        UpkeepCommand::BeginRepair { layout: LayoutId(3) },
        UpkeepCommand::EndRepair { layout: LayoutId(3), line: 1, layouts: vec![LayoutId(1), LayoutId(2)] },
        UpkeepCommand::Repaired { layout: LayoutId(3), writes: vec![WriteId(2), WriteId(4)] },
        UpkeepCommand::Counted { count: samples::count() },
        UpkeepCommand::EmptyBucket { bucket: samples::bucket_ref(), at: UnixMillis(3) },
    ]
}

#[test]
fn a_command_says_which_group_it_is_for() {
    for command in all() {
        let wanted = match &command {
            Command::Bucket(_) | Command::Mesh(_) | Command::Ordered { .. } => GroupId::CONTROL,
            Command::Object(bucket, _) => bucket.group,
            Command::Upkeep(..) | Command::OpenSession { .. } => GroupId(300),
        };
        assert_eq!(command.group(), wanted, "{command:?}");
    }
}
