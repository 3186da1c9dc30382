//! One value of every variant that leaves a process. No two fields of a value hold the same number, so that fields
//! which change places are noticed.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use mesh_core::{
    Answer, Buf, Error, ErrorKind, Lane, Op, Principal, Redirect,
    assignment::{Assignment, MoveId, Preference, Scope, Wish},
    bluefield::Generation,
    envelope::{Body, Envelope, Hello, Region, Welcome},
    happened::{self, Happened},
    id::{
        ActorId, BucketId, ClusterId, DriveId, Epoch, GroupId, Incarnation, KeyId, LayoutId, NodeId, ReplicaId,
        ShardId, StripeId, TenantId, WriteId,
    },
    meta::{
        AccessKeyRow, Attributes, BucketCommand, BucketRef, BucketRow, BucketSettings, Command, Compression, Count,
        Extent, Garbage, GarbageMark, GarbagePage, Grant, Level, ListEntry, Listing, MetaAnswer, ObjectCommand,
        ObjectRow, PartRow, Precondition, PrincipalRow, Proposer, Query, Reference, RepairState, Run, Session, Shape,
        TenantLimits, TenantRow, UploadRow, UsesPage, WrappedKey,
    },
    op::{
        Ability, ActorReport, AdminAnswer, AdminOp, AsOf, Beat, Binding, Destination, DriveReport, GroupReport, Head,
        Held, MoveOp, MoveStep, Moved, News, NodeLoad, NodeOp, NodeReport, ObjectOp, Phase, Piece, Reliance,
        ScrubState, Settled, ShardOp, StripeOp, StripeTarget, Timeline, Witness,
    },
    spec::CustomSpec,
    time::UnixMillis,
    topology::{Code, DriveInfo, DriveState, NodeInfo, NodeKind, NodeState, Survival},
    wire::crc32c,
};

use crate::places::location;
use crate::{access, audit, orders, view::control_view};

/// Names the variants of an enum: a list of all, and the name of a value's. It does not compile while one is missing.
macro_rules! variants {
    ($list:ident, $name:ident, $type:ident: $($variant:ident)*) => {
        pub(crate) const $list: &[&str] = &[$(stringify!($variant)),*];

        pub(crate) fn $name(value: &$type) -> &'static str {
            match value {
                $($type::$variant { .. } => stringify!($variant),)*
            }
        }
    };
}

pub(crate) use variants;

variants!(QUERIES, query_name, Query:
    Bucket Buckets Control Object List Upload Uploads Parts Extents Garbage Usage Referenced ClosedBlocks
    Owed Drive Repair Uses Unsettled NoMember Audit);

variants!(META_ANSWERS, meta_answer_name, MetaAnswer:
    Done Epoch Tenant Bucket Buckets Control Block Committed Deleted Object Listing Upload Uploads Parts Garbage Usage
    Referenced ClosedBlocks Writes Repair Uses Audit Rest);

variants!(OBJECT_OPS, object_op_name, ObjectOp:
    CreateBucket DeleteBucket HeadBucket ListBuckets Begin Append Finish Abort Head Plan Read Delete List CreateUpload
    HeadUpload ListParts ListUploads CompleteUpload AbortUpload CreateBucketWith);

variants!(STRIPE_OPS, stripe_op_name, StripeOp: Write Read Delete);

variants!(SHARD_OPS, shard_op_name, ShardOp: Write Read Delete List Stat Damaged Scrub);

variants!(NODE_OPS, node_op_name, NodeOp: Raft Beat Status Move Admin RelayQuery RelayPropose
    StatusPage);

variants!(ANSWERS, answer_name, Answer:
    Done Meta Placed Shard Shards Drive Begun Committed Bucket Buckets Object Pieces Listing Upload Uploads Parts
    Report Moved Admin Left ReportPage Beat);

// --- values that others are made of ---

fn stripe_id() -> StripeId {
    StripeId { write: WriteId::new(GroupId(3), 1001), stripe: 17, attempt: 2 }
}

fn shard_id(shard: u8) -> ShardId {
    stripe_id().shard(shard)
}

pub(crate) fn count() -> Count {
    Count { layout: LayoutId(31), at: UnixMillis(32), writes: 33, shards: 34, healed: 35, cleared: 36, lost: 37 }
}

pub(crate) fn wrapped_key() -> WrappedKey {
    WrappedKey { key: KeyId(31), nonce: *b"twelve bytes", sealed: vec![0xa5; 48] }
}

fn extent() -> Extent {
    Extent {
        write: WriteId::new(GroupId(3), 1001),
        len: 70_000_000,
        stripe_bytes: 4 << 20,
        layout: LayoutId(9),
        key: Some(Arc::new(wrapped_key())),
        runs: vec![Run { first: 5, count: 6, attempt: 1, avoid: vec![DriveId(11), DriveId(12)], shared: true }],
        compression: Compression::Auto,
        code: Some(Code { data: 1, parity: 2 }),
    }
}

fn plain_extent() -> Extent {
    let (key, runs, compression, code) = (None, Vec::new(), Compression::Off, None);
    Extent { write: WriteId(77), len: 0, stripe_bytes: 65_536, layout: LayoutId(1), key, runs, compression, code }
}

pub(crate) fn texts(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn attributes() -> Attributes {
    Attributes {
        headers: texts(&[("cache-control", "no-store"), ("content-type", "text/plain")]),
        user: texts(&[("colour", "grün")]),
        checksums: texts(&[("crc64nvme", "AAAAAAAAAAA=")]),
    }
}

pub(crate) fn object_row() -> ObjectRow {
    ObjectRow {
        version: WriteId(1002),
        len: 70_000_000,
        etag: "9bb58f26192e4ba00f01e2e7b136bbd8".into(),
        modified: UnixMillis(1_700_000_000_123),
        attributes: attributes(),
        body: mesh_core::meta::Body::Whole(extent()),
    }
}

fn object_of_parts() -> ObjectRow {
    ObjectRow {
        version: WriteId(1003),
        len: 11,
        etag: "00000000000000000000000000000000-2".into(),
        modified: UnixMillis(1),
        attributes: Attributes::default(),
        body: mesh_core::meta::Body::Parts { upload: WriteId(1004), count: 2 },
    }
}

pub(crate) fn part_row() -> PartRow {
    PartRow {
        number: 10_000,
        offset: 5 << 30,
        etag: "0cc175b9c0f1b6a831c399e269772661".into(),
        checksums: texts(&[("crc32", "AAAAAA==")]),
        modified: UnixMillis(1_700_000_000_456),
        extent: extent(),
    }
}

pub(crate) fn upload_row() -> UploadRow {
    UploadRow {
        upload: WriteId(1005),
        key: "a/ü b+c%".into(),
        attributes: attributes(),
        created: UnixMillis(1_700_000_000_789),
        principal: "writer".into(),
    }
}

pub(crate) fn bucket_ref() -> BucketRef {
    BucketRef { id: BucketId(21), name: "photos".into(), tenant: TenantId(22), group: GroupId(23) }
}

fn bucket_row() -> BucketRow {
    BucketRow { bucket: bucket_ref(), created: UnixMillis(24), settings: bucket_settings() }
}

pub(crate) fn bucket_settings() -> BucketSettings {
    BucketSettings { compression: Compression::Auto, code: Some(Code { data: 1, parity: 2 }) }
}

pub(crate) fn limits() -> TenantLimits {
    TenantLimits { quota_bytes: Some(1 << 40), requests_per_second: Some(500), bytes_per_second: None }
}

pub(crate) fn tenant_row() -> TenantRow {
    TenantRow { id: TenantId(41), name: "acme".into(), key: KeyId(42), wrapped: wrapped_key(), limits: limits() }
}

pub(crate) fn principal_row() -> PrincipalRow {
    let grant = Grant { bucket: "logs-*".into(), read: true, write: false, admin: false };
    PrincipalRow { tenant: TenantId(41), name: "reader".into(), grants: vec![grant, Grant::all()] }
}

pub(crate) fn access_key_row() -> AccessKeyRow {
    AccessKeyRow {
        access: "AKMESH0000000001".into(),
        secret: wrapped_key(),
        tenant: TenantId(41),
        principal: "reader".into(),
    }
}

pub(crate) fn node_info() -> NodeInfo {
    NodeInfo {
        id: NodeId(51),
        kind: NodeKind::Dpu,
        address: "[::1]:7000".into(),
        incarnation: Incarnation(52),
        pid: 53,
        draining: true,
        attached_to: Some(NodeId(54)),
        emulated: Some(Generation::Bf3),
        life: 55,
        invitation: 56,
        level: Level(300),
        location: location(),
    }
}

pub(crate) fn drive_info() -> DriveInfo {
    DriveInfo { id: DriveId(61), node: NodeId(62), capacity_bytes: 1 << 42, epoch: Epoch(63), seat: Some(DriveId(64)) }
}

pub(crate) fn assignment() -> Assignment {
    let actor = ActorId::data(TenantId(41), NodeId(51));
    let (moves, moving, since) = (MoveId(73), Some(NodeId(74)), MoveId(70));
    Assignment { moves, moving, since, ..Assignment::new(actor, NodeId(71), Epoch(72)) }
}

pub(crate) fn wish() -> Wish {
    Wish { preference: Preference::DpuOnly, pin: Some(NodeId(75)) }
}

pub(crate) fn stages() -> Vec<CustomSpec> {
    vec![CustomSpec::new("content-filter", *b"settings"), CustomSpec::new("census", [])]
}

pub(crate) fn cluster() -> ClusterId {
    ClusterId(*b"sixteen bytes id")
}

fn listing() -> Listing {
    let entry = ListEntry { key: "b/1".into(), len: 81, etag: "e1".into(), modified: UnixMillis(82) };
    Listing { entries: vec![entry], prefixes: vec!["a/".into(), "c/".into()], next: Some("c/".into()) }
}

fn garbage() -> Garbage {
    Garbage { tenant: TenantId(91), since: UnixMillis(92), extent: plain_extent() }
}

fn garbage_mark() -> GarbageMark {
    GarbageMark { since: UnixMillis(1), write: WriteId(2), part: 3 }
}

fn binding() -> Binding {
    Binding { tenant: TenantId(41), bucket: BucketId(21), bucket_name: "photos".into(), object: "a/ü b+c%".into() }
}

pub(crate) fn precondition() -> Precondition {
    Precondition { absent: true, etag: Some("e2".into()) }
}

pub(crate) fn session() -> Session {
    Session { epoch: Epoch(101), life: u64::MAX }
}

pub(crate) fn proposer() -> Proposer {
    Proposer { actor: ActorId::ingress(NodeId(51)), session: session(), request: 300, done_below: 299 }
}

fn group_report(group: GroupId, leader: Option<NodeId>, trouble: Option<&str>) -> GroupReport {
    GroupReport {
        group,
        replica: ReplicaId::new(NodeId(115), 0x1234_5678_9abc),
        leader,
        term: 119,
        trouble: trouble.map(Into::into),
        voters: vec![ReplicaId::new(NodeId(115), 1), ReplicaId::new(NodeId(116), 2)],
        settled: leader.map_or(Settled::Unbegun, |_| Settled::In(LayoutId(157))),
        timeline: leader.map_or_else(Timeline::default, |_| Timeline { at: UnixMillis(158), chance: 159 }),
        restored: leader.map_or_else(Timeline::default, |_| Timeline { at: UnixMillis(162), chance: 163 }),
        is_new: leader.is_none(),
    }
}

fn beat(news: Option<News>) -> Beat {
    Beat {
        node: NodeId(115),
        incarnation: Incarnation(116),
        address: "10.0.0.1:7000".into(),
        replica: Some(ReplicaId::new(NodeId(135), 136)),
        marked: 145,
        witness: Some(Witness {
            life: 137,
            incarnation: Incarnation(138),
            replica: Some(ReplicaId::new(NodeId(139), 140)),
            marked: 141,
        }),
        registered: vec![(NodeId(146), Incarnation(147))],
        held: Some(Held { start: Incarnation(142), as_of: AsOf { states: 143, figures: 144 } }),
        news: news.map(Arc::new),
    }
}

fn news() -> News {
    let NodeReport { drives, actors, load, .. } = node_report();
    News {
        since: AsOf { states: 145, figures: 146 },
        version: 147,
        figures: true,
        report: Some(Box::new(NodeReport { drives: Vec::new(), actors: Vec::new(), ..node_report() })),
        drives: Some(drives),
        actors,
        gone: vec![ActorId(148)],
        sees: vec![NodeId(115)],
        misses: vec![NodeId(121)],
        load: Some(load),
    }
}

fn scrub_state() -> ScrubState {
    ScrubState { at: 6, of: 7, ended: UnixMillis(8), asked: true }
}

fn node_report() -> NodeReport {
    let drive = |drive, state, reason: Option<&str>| DriveReport {
        drive: DriveId(drive),
        state,
        capacity_bytes: 111,
        free_bytes: 112,
        shards: 113,
        corrupt: 114,
        reason: reason.map(Into::into),
        damaged: 116,
        scrub: scrub_state(),
    };
    NodeReport {
        node: NodeId(115),
        incarnation: Incarnation(116),
        life: 134,
        starts: vec![Incarnation(135), Incarnation(116)],
        kind: NodeKind::Dpu,
        address: "10.0.0.1:7000".into(),
        pid: 117,
        state: NodeState::Draining,
        drives: vec![
            drive(1, DriveState::Up, None),
            drive(2, DriveState::Full, Some("at its reserve")),
            drive(3, DriveState::Down, Some("another cluster's")),
            drive(4, DriveState::Lost, None),
        ],
        groups: vec![
            group_report(GroupId(0), Some(NodeId(118)), None),
            group_report(GroupId(1), None, Some("its vote is lost")),
        ],
        sees: vec![NodeId(115), NodeId(121)],
        attached_to: Some(NodeId(122)),
        emulated: Some(Generation::Bf2),
        actors: vec![actor_report()],
        ability: Arc::new(Ability {
            functions: [("encrypt".to_owned(), (123, 124))].into(),
            millicores: 125,
            memory_bytes: 126,
        }),
        load: NodeLoad {
            cpu_ns: 127,
            resident_bytes: 128,
            functions: [("erasure".to_owned(), [129, 130, 131, 132])].into(),
        },
        missing: Some("a metadata group has no leader".into()),
        survival: Some(Survival { reads: true, writes: false, reason: "add a drive".into() }),
        lost: 133,
        drives_up: 136,
        unable: vec![(ActorId(143), Epoch(144))],
        turned_away: vec![(NodeId(148), Incarnation(149))],
        level: Level(151),
        mesh_level: Some(Level(152)),
        location: location(),
    }
}

fn actor_report() -> ActorReport {
    ActorReport {
        actor: ActorId::data(TenantId(41), NodeId(51)),
        functions: vec!["policy".into(), "erasure".into()],
        epoch: Epoch(141),
        phase: Phase::Frozen,
        jobs: 142,
        bytes: 143,
        requests: 144,
        traffic_bytes: 145,
        restarts: 146,
    }
}

fn piece() -> Piece {
    Piece { extent: Arc::new(extent()), stripe: 16, start: 131, len: 132 }
}

// --- every variant ---

/// Every query.
pub(crate) fn queries() -> Vec<Query> {
    let bucket = bucket_ref;
    let after = || Some(("a".to_owned(), WriteId(3)));
    vec![
        Query::Bucket { name: "photos".into() },
        Query::Buckets { tenant: TenantId(1) },
        Query::Control,
        Query::Object { bucket: bucket(), key: "a".into() },
        Query::List {
            bucket: bucket(),
            prefix: "p".into(),
            delimiter: Some("/".into()),
            after: "pa".into(),
            limit: 1000,
        },
        Query::Upload { bucket: bucket(), upload: WriteId(1) },
        Query::Uploads { bucket: bucket(), prefix: "p".into(), after: after(), limit: 2 },
        Query::Parts { bucket: bucket(), upload: WriteId(1), after: 2, limit: 3 },
        Query::Extents { bucket: bucket(), upload: WriteId(1), offset: 2 << 32, limit: 3 },
        Query::Garbage { before: UnixMillis(1), after: Some(garbage_mark()), limit: 2 },
        Query::Usage { tenant: TenantId(1) },
        Query::Referenced { writes: vec![WriteId(1), WriteId(2)] },
        Query::ClosedBlocks { after: Some(WriteId(3)), limit: 4 },
        Query::Owed { drive: DriveId(1), limit: 2 },
        Query::Drive { drive: DriveId(1) },
        Query::Repair,
        Query::Uses { after: Some(WriteId(1)), limit: 2 },
        Query::Unsettled { after: None, limit: 3 },
        Query::NoMember { replica: ReplicaId::new(NodeId(2), 5) },
        audit::query(),
    ]
}

/// Every answer of a metadata group.
pub(crate) fn meta_answers() -> Vec<MetaAnswer> {
    vec![
        MetaAnswer::Done,
        MetaAnswer::Epoch(Epoch(1)),
        MetaAnswer::Tenant(Arc::new(tenant_row())),
        MetaAnswer::Bucket(Arc::new(bucket_row())),
        MetaAnswer::Buckets(vec![Arc::new(bucket_row())]),
        MetaAnswer::Control(Arc::new(control_view())),
        MetaAnswer::Block { first: WriteId::new(GroupId(1), 4096), count: 2 },
        MetaAnswer::Committed { version: WriteId(1), etag: "e1".into() },
        MetaAnswer::Deleted { existed: true },
        MetaAnswer::Object(Arc::new(object_row())),
        MetaAnswer::Listing(Arc::new(listing())),
        MetaAnswer::Upload(Arc::new(upload_row())),
        MetaAnswer::Uploads(vec![Arc::new(upload_row())], true),
        MetaAnswer::Parts(vec![Arc::new(part_row())], false),
        MetaAnswer::Garbage(GarbagePage {
            rows: vec![garbage()],
            next: Some(garbage_mark()),
            newest: UnixMillis(4),
            owing: vec![DriveId(5), DriveId(1 << 40)],
        }),
        MetaAnswer::Usage { bytes: 1, objects: 2 },
        MetaAnswer::Referenced(vec![
            Reference::Nobody,
            Reference::Open,
            Reference::Used(None),
            Reference::Used(Some(Shape::of(&extent()))),
        ]),
        MetaAnswer::ClosedBlocks(vec![(WriteId(5), 6), (WriteId::new(GroupId(1), 8192), 4096)]),
        MetaAnswer::Writes(vec![WriteId(5), WriteId::new(GroupId(1), 8192)]),
        MetaAnswer::Repair(RepairState {
            marked: LayoutId(3),
            settled: LayoutId(2),
            unsettled: 4,
            line: 1,
            count: count(),
        }),
        MetaAnswer::Uses(UsesPage {
            writes: vec![(WriteId(5), Some(Shape::of(&extent()))), (WriteId(6), None)],
            next: Some(WriteId(6)),
        }),
        audit::answer(),
        MetaAnswer::Rest { more: true },
    ]
}

/// Rows that are kept as they are, or that stand inside others in more than one shape.
pub(crate) fn objects() -> Vec<(&'static str, ObjectRow)> {
    vec![("whole", object_row()), ("parts", object_of_parts())]
}

fn object_ops() -> Vec<ObjectOp> {
    let (bucket, key): (Arc<str>, Arc<str>) = ("photos".into(), "a/ü b+c%".into());
    let (bucket, key) = (|| bucket.clone(), || key.clone());
    vec![
        ObjectOp::CreateBucket { bucket: bucket() },
        ObjectOp::DeleteBucket { bucket: bucket() },
        ObjectOp::HeadBucket { bucket: bucket() },
        ObjectOp::ListBuckets,
        ObjectOp::Begin {
            bucket: bucket(),
            key: key(),
            destination: Destination::Object { attributes: attributes(), precondition: precondition() },
        },
        ObjectOp::Append { write: WriteId(1), stripe: 2 },
        ObjectOp::Finish { write: WriteId(1), len: 2, etag: "e1".into(), checksums: texts(&[("crc32", "AAAAAA==")]) },
        ObjectOp::Abort { write: WriteId(1) },
        ObjectOp::Head { bucket: bucket(), key: key() },
        ObjectOp::Plan { bucket: bucket(), key: key(), object: Arc::new(object_row()), offset: 1, len: 2 },
        ObjectOp::Read { bucket: bucket(), key: key(), piece: piece() },
        ObjectOp::Delete { bucket: bucket(), key: key(), precondition: precondition() },
        ObjectOp::List {
            bucket: bucket(),
            prefix: "p".into(),
            delimiter: Some("/".into()),
            after: "pa".into(),
            limit: 1000,
        },
        ObjectOp::CreateUpload { bucket: bucket(), key: key(), attributes: attributes() },
        ObjectOp::HeadUpload { bucket: bucket(), upload: WriteId(1) },
        ObjectOp::ListParts { bucket: bucket(), upload: WriteId(1), after: 2, limit: 3 },
        ObjectOp::ListUploads {
            bucket: bucket(),
            prefix: "p".into(),
            after: Some(("pa".into(), WriteId(1))),
            limit: 2,
        },
        ObjectOp::CompleteUpload {
            bucket: bucket(),
            key: key(),
            upload: WriteId(1),
            parts: vec![(1, "e1".into()), (2, "e2".into())],
            checksums: texts(&[("crc32", "AAAAAA==")]),
            precondition: precondition(),
        },
        ObjectOp::AbortUpload { bucket: bucket(), upload: WriteId(1) },
        ObjectOp::CreateBucketWith { bucket: bucket(), settings: bucket_settings() },
    ]
}

fn stripe_ops() -> Vec<StripeOp> {
    let target = || StripeTarget {
        id: stripe_id(),
        layout: LayoutId(9),
        binding: Arc::new(binding()),
        key: Some(Arc::new(wrapped_key())),
        compression: Compression::Auto,
        code: Some(Code { data: 8, parity: 3 }),
    };
    vec![
        StripeOp::Write(target()),
        StripeOp::Read {
            target: StripeTarget { key: None, compression: Compression::Off, ..target() },
            avoid: vec![DriveId(1), DriveId(2)],
            part: None,
        },
        StripeOp::Delete { target: target(), avoid: vec![DriveId(1 << 40)] },
    ]
}

fn shard_ops() -> Vec<ShardOp> {
    vec![
        ShardOp::Write {
            id: shard_id(5),
            tenant: TenantId(41),
            code: Code { data: 4, parity: 2 },
            sealed_len: 4 << 20,
            crc: crc32c(PAYLOAD),
        },
        ShardOp::Read { id: shard_id(6) },
        ShardOp::Delete {
            ids: vec![shard_id(0), shard_id(1)],
            until: Some(Head { epoch: Epoch(6), start: 8, lsn: 7 }),
        },
        ShardOp::List {
            after: Some(shard_id(7)),
            limit: 1024,
            relies: Some(Reliance { group: GroupId(3), layout: LayoutId(2) }),
        },
        ShardOp::Stat,
        ShardOp::Damaged { group: GroupId(3), after: Some(shard_id(7)), limit: 1024 },
        ShardOp::Scrub { rate: 8 },
    ]
}

fn node_ops() -> Vec<NodeOp> {
    let step = |what| NodeOp::Move(MoveStep { actor: assignment().actor, epoch: Epoch(151), id: MoveId(152), what });
    let plan = AdminOp::Plan { with_dpus: vec![(NodeId(3), Generation::Bf3)], without: vec![NodeId(1)] };
    vec![
        NodeOp::Raft { group: GroupId(1), rpc: 2, start: Incarnation(3) },
        NodeOp::Beat(Arc::new(beat(Some(news())))),
        NodeOp::Status,
        step(MoveOp::Warm),
        step(MoveOp::PreCopy { to: NodeId(1) }),
        step(MoveOp::Freeze { to: NodeId(1) }),
        step(MoveOp::Install { page: 1, digest: 2 }),
        step(MoveOp::Activate),
        step(MoveOp::Retire { to: NodeId(1) }),
        step(MoveOp::Thaw),
        step(MoveOp::Discard),
        NodeOp::Admin(Box::new(plan)),
        NodeOp::Admin(Box::new(AdminOp::Wish { scope: Scope::Mesh, wish: None })),
        NodeOp::Admin(Box::new(AdminOp::Drain { node: NodeId(1), draining: false })),
        NodeOp::Admin(Box::new(AdminOp::Events { after: 7 })),
        NodeOp::Admin(Box::new(AdminOp::Invite { node: NodeId(8), invitation: 9 })),
        NodeOp::Admin(Box::new(AdminOp::Stages { scope: Scope::Mesh, stages: stages() })),
        NodeOp::RelayQuery { group: GroupId(2), query: Arc::new(Query::Control) },
        NodeOp::RelayPropose(Arc::new(Command::Object(
            bucket_ref(),
            ObjectCommand::SealBucket { proposer: proposer() },
        ))),
        NodeOp::StatusPage { after: NodeId(51) },
        NodeOp::Admin(Box::new(AdminOp::PlanPage {
            with_dpus: Vec::new(),
            without: vec![NodeId(1)],
            after: Some(ActorId(7)),
        })),
    ]
}

fn answers() -> Vec<Answer> {
    vec![
        Answer::Done,
        Answer::Meta(Arc::new(MetaAnswer::Epoch(Epoch(1)))),
        Answer::Placed { avoid: vec![DriveId(1), DriveId(2)], shared: true },
        Answer::Shard { code: Code { data: 4, parity: 2 }, sealed_len: 1, crc: crc32c(PAYLOAD), tenant: TenantId(5) },
        Answer::Shards {
            page: vec![(shard_id(1), 4096), (shard_id(2), 8192)],
            more: true,
            head: Head { epoch: Epoch(6), start: 8, lsn: 7 },
        },
        Answer::Drive {
            capacity_bytes: 1,
            free_bytes: 2,
            shards: 3,
            corrupt: 4,
            full: true,
            gone: 0,
            damaged: 5,
            scrub: scrub_state(),
        },
        Answer::Begun { write: WriteId(1), stripe_bytes: 4 << 20 },
        Answer::Committed { version: WriteId(1), etag: "e1".into() },
        Answer::Bucket(Arc::new(bucket_row())),
        Answer::Buckets(vec![Arc::new(bucket_row())]),
        Answer::Object(Arc::new(object_of_parts())),
        Answer::Pieces(vec![piece()]),
        Answer::Listing(Arc::new(listing())),
        Answer::Upload(Arc::new(upload_row())),
        Answer::Uploads(vec![Arc::new(upload_row())], false),
        Answer::Parts(vec![Arc::new(part_row())], true),
        Answer::Report(vec![Arc::new(node_report()), Arc::new(NodeReport::default())]),
        Answer::Moved(Moved { entries: 1, pages: 2, digest: 3, took_us: 4 }),
        Answer::Admin(Box::new(AdminAnswer::Events {
            events: vec![happened::Row {
                number: 4,
                at: UnixMillis(5),
                what: Happened::NotMoved {
                    actor: ActorId::data(TenantId(41), NodeId(51)),
                    from: NodeId(51),
                    to: NodeId(52),
                    elsewhere: true,
                    error: "no".into(),
                },
            }],
            next: 4,
        })),
        Answer::Left(vec![DriveId(3), DriveId(1 << 40)]),
        Answer::ReportPage { reports: vec![Arc::new(node_report())], more: true },
        Answer::Beat(Arc::new(beat(None))),
    ]
}

/// The payload of samples that have one.
pub(crate) const PAYLOAD: &[u8] = b"payload, raw";

fn asked(op: impl Into<Op>, payload: &[u8]) -> Envelope {
    let user = Principal::User { tenant: TenantId(41), name: "writer".into() };
    let budget = Duration::from_millis(30_000);
    let actor = ActorId::data(TenantId(41), NodeId(51));
    let mut envelope = Envelope::request(actor, Epoch(7), op.into(), Buf::copy_of(payload), user, Lane::Bulk, budget);
    envelope.header.id = 42;
    envelope
}

/// Every message, named.
pub(crate) fn envelopes() -> Vec<(String, Envelope)> {
    let of = |body, payload: &[u8]| Envelope::of(43, Lane::Control, body, Buf::copy_of(payload));
    let mut all = Vec::new();
    let mut add = |name: String, envelope| all.push((name, envelope));

    let hello = Hello {
        version_min: 1,
        version_max: 2,
        cluster: cluster(),
        node: NodeId(3),
        incarnation: Incarnation(4),
        capabilities: 5,
        software: "mesh 0.1.0".into(),
        lane: Lane::Bulk,
    };
    add("hello".into(), of(Body::Hello(hello), b""));
    let welcome = Welcome {
        version: 1,
        node: NodeId(2),
        incarnation: Incarnation(3),
        capabilities: 4,
        software: "mesh 0.1.0".into(),
        jobs_max: 5,
        bytes_max: 6,
    };
    add("welcome".into(), of(Body::Welcome(welcome), b""));
    add("cancel".into(), of(Body::Cancel(u64::MAX), b""));

    for kind in ErrorKind::ALL {
        add(format!("failure.{kind:?}"), of(Body::Failure(Error::new(*kind, "why, and what to do")), b""));
    }
    let redirect =
        Redirect { actor: Some(ActorId(0)), epoch: Some(Epoch(8)), node: Some(NodeId(3)), group: Some(GroupId(1)) };
    let moved = Error::new(ErrorKind::StaleEpoch, "moved").redirect_to(redirect);
    add("failure.StaleEpoch.redirect".into(), of(Body::Failure(moved), b""));

    for op in object_ops() {
        let payload = if matches!(op, ObjectOp::Append { .. }) { PAYLOAD } else { b"" };
        add(format!("object.{}", object_op_name(&op)), asked(op, payload));
    }
    let destination = Destination::Part { upload: WriteId(1), number: 2 };
    let begin = ObjectOp::Begin { bucket: "photos".into(), key: "a".into(), destination };
    add("object.Begin.part".into(), asked(begin, b""));
    for op in stripe_ops() {
        let payload = if matches!(op, StripeOp::Write(_)) { PAYLOAD } else { b"" };
        add(format!("stripe.{}", stripe_op_name(&op)), asked(op, payload));
    }
    for op in shard_ops() {
        let payload = if matches!(op, ShardOp::Write { .. }) { PAYLOAD } else { b"" };
        add(format!("shard.{}", shard_op_name(&op)), asked(op, payload));
    }
    add("shard.List.first".into(), asked(ShardOp::List { after: None, limit: 0, relies: None }, b""));
    add("query".into(), asked(Op::Query { group: GroupId(2), query: Arc::new(Query::Control) }, b""));
    let command = Command::Bucket(BucketCommand::RemoveBucket { bucket: BucketId(3) });
    add("propose".into(), asked(Op::Propose(Arc::new(command)), b""));
    for op in node_ops().into_iter().chain(orders::ops()).chain(access::ops()) {
        let payload = if matches!(op, NodeOp::Raft { .. }) { PAYLOAD } else { b"" };
        let which = match &op {
            NodeOp::Move(step) => format!(".{:?}", step.what),
            NodeOp::Admin(op) => match &**op {
                AdminOp::Access(op) => format!(".Access.{op:?}"),
                AdminOp::Audit(op) => format!(".Audit.{op:?}"),
                op => format!(".{op:?}"),
            },
            _ => String::new(),
        };
        // The variant's name, without what is in it.
        let which = which.split([' ', '{', '(']).next().unwrap_or_default().to_owned();
        add(format!("node.{}{which}", node_op_name(&op)), asked(Op::Node(Box::new(op)), payload));
    }
    for answer in answers() {
        let payload = if matches!(answer, Answer::Shard { .. } | Answer::Done) { PAYLOAD } else { b"" };
        add(format!("answer.{}", answer_name(&answer)), of(Body::Answer(answer), payload));
    }
    for (name, answer) in orders::answers().into_iter().chain(access::answers()) {
        add(format!("answer.Admin.{name}"), of(Body::Answer(Answer::Admin(Box::new(answer))), b""));
    }

    let principals = [
        ("anonymous", Principal::Anonymous),
        ("system", Principal::System),
        ("admin", Principal::Admin { name: "root".into() }),
    ];
    for (name, principal) in principals {
        let mut envelope = asked(ShardOp::Stat, b"");
        envelope.header.principal = principal;
        add(format!("header.{name}"), envelope);
    }
    let mut traced = asked(ShardOp::Stat, b"");
    traced.header.trace = (1..=25).collect();
    traced.header.lane = Lane::Interactive;
    add("header.trace".into(), traced);
    let mut remote = asked(stripe_ops().remove(0), b"");
    remote.header.region = Some(Region { address: 1 << 47, rkey: 2, length: 3 });
    add("header.region".into(), remote);
    all
}
