use mesh_core::{
    Error,
    assignment::{Assignment, MoveId, Preference, Scope, Tail, Wish},
    id::{ClusterId, DriveId, KeyId, NodeId},
    meta::{AccessKeyRow, ControlView, Grant, LEVEL, PrincipalRow, TenantLimits, TenantRow, WrappedKey},
    spec::CustomSpec,
    topology::{Code, Layout, NodeInfo},
};
use proptest::prelude::*;

use super::{
    super::{
        super::table::{Change, Table, View, Visit},
        control_after, control_view,
    },
    control::{furnished, layout, node},
    *,
};

const CODE: Code = Code { data: 2, parity: 1 };

/// Some place in a small mesh: so commands meet each other.
fn small() -> impl Strategy<Value = u64> {
    1..6_u64
}

fn actors() -> impl Strategy<Value = ActorId> {
    prop_oneof![
        (1..3_u64, small()).prop_map(|(tenant, node)| ActorId::data(TenantId(tenant), NodeId(node))),
        small().prop_map(|node| ActorId::ingress(NodeId(node))),
    ]
}

fn scopes() -> impl Strategy<Value = Scope> {
    prop_oneof![
        Just(Scope::Mesh),
        (1..4_u64).prop_map(|tenant| Scope::Tenant(TenantId(tenant))),
        actors().prop_map(Scope::Actor),
    ]
}

fn wrapped(byte: u8) -> WrappedKey {
    WrappedKey { key: KeyId(0), nonce: [byte; 12], sealed: vec![byte; 48] }
}

fn commands_of_members() -> impl Strategy<Value = Command> {
    prop_oneof![
        (1..3_u64).prop_map(|cluster| Command::Mesh(MeshCommand::Form {
            cluster: ClusterId([cluster as u8; 16]),
            code: CODE,
            namespaces: 4
        })),
        (small(), small(), any::<bool>()).prop_map(|(id, incarnation, moved)| {
            let address = if moved { "host:1" } else { "host:2" };
            Command::Mesh(MeshCommand::PutNode(NodeInfo { address: address.into(), ..node(id, incarnation) }))
        }),
        (small(), small()).prop_map(|(drive, node)| Command::Mesh(MeshCommand::PutDrive {
            drive: DriveId(drive),
            node: NodeId(node),
            capacity_bytes: 10
        })),
        small().prop_map(|drive| Command::Mesh(MeshCommand::LoseDrive { drive: DriveId(drive) })),
        (small(), any::<bool>())
            .prop_map(|(drive, draining)| Command::Mesh(MeshCommand::DrainDrive { drive: DriveId(drive), draining })),
        (small(), any::<bool>())
            .prop_map(|(drive, out)| Command::Mesh(MeshCommand::PutOut { drives: vec![DriveId(drive)], out })),
        (small(), any::<bool>())
            .prop_map(|(node, leaving)| Command::Mesh(MeshCommand::LeaveNode { node: NodeId(node), leaving })),
        (small(), prop::option::of(small())).prop_map(|(node, empty)| Command::Mesh(MeshCommand::RemoveNode {
            node: NodeId(node),
            empty: empty.map(LayoutId),
        })),
        Just(Command::Mesh(MeshCommand::RaiseLevel(LEVEL))),
        small().prop_map(|node| Command::Mesh(MeshCommand::FencedNode { node: NodeId(node) })),
        small().prop_map(|node| Command::Mesh(MeshCommand::Invite { node: NodeId(node), invitation: 7 })),
        (small(), any::<bool>())
            .prop_map(|(node, draining)| Command::Mesh(MeshCommand::Drain { node: NodeId(node), draining })),
        (1..5_u64, 1..4_u64).prop_map(|(id, first)| {
            let drives: Vec<DriveId> = (first..first + 3).map(DriveId).collect();
            let domains = drives.iter().map(|drive| (*drive, NodeId(drive.0))).collect();
            Command::Mesh(MeshCommand::PutLayout(
                Layout {
                    id: LayoutId(id),
                    code: CODE,
                    groups: vec![drives],
                    domains,
                    line: 0,
                    others: Vec::new(),
                    places: mesh_core::topology::Places::default(),
                    rule: mesh_core::topology::Rule::default(),
                }
                .into(),
            ))
        }),
    ]
}

fn commands_of_tenants() -> impl Strategy<Value = Command> {
    let name = || prop::sample::select(vec!["ann", "bob", "cy"]).prop_map(str::to_owned);
    prop_oneof![
        (name(), 0..2_u8).prop_map(|(name, byte)| Command::Mesh(MeshCommand::CreateTenant(TenantRow {
            id: TenantId(0),
            name,
            key: KeyId(0),
            wrapped: wrapped(byte),
            limits: TenantLimits::default(),
        }))),
        (1..4_u64, any::<u64>()).prop_map(|(tenant, quota)| Command::Mesh(MeshCommand::SetLimits {
            tenant: TenantId(tenant),
            limits: TenantLimits { quota_bytes: Some(quota), ..TenantLimits::default() },
        })),
        (1..4_u64, name(), 0..2_usize).prop_map(|(tenant, name, grants)| Command::Mesh(MeshCommand::PutPrincipal(
            PrincipalRow { tenant: TenantId(tenant), name, grants: vec![Grant::all(); grants] }
        ))),
        (1..4_u64, name(), name()).prop_map(|(tenant, access, principal)| Command::Mesh(MeshCommand::PutAccessKey(
            AccessKeyRow { access, secret: wrapped(3), tenant: TenantId(tenant), principal }
        ))),
        name().prop_map(|access| Command::Mesh(MeshCommand::DropAccessKey { access })),
        (1..4_u64, name()).prop_map(|(tenant, name)| {
            Command::Mesh(MeshCommand::DropPrincipal { tenant: TenantId(tenant), name })
        }),
        (1..4_u64, 1..5_u64, 4..9_u8).prop_map(|(tenant, after, byte)| {
            let after = KeyId(if after < 4 { after } else { (1 << 32) + after - 3 });
            Command::Mesh(MeshCommand::RotateKey { tenant: TenantId(tenant), after, wrapped: wrapped(byte) })
        }),
        (name(), small()).prop_map(|(name, created)| Command::Bucket(BucketCommand::CreateBucket {
            proposer: Some(proposer(1)),
            name: format!("{name}-photos").into(),
            tenant: TenantId(1),
            created: UnixMillis(created),
            settings: BucketSettings {
                compression: [Compression::Off, Compression::Auto][created as usize % 2],
                code: [None, Some(Code { data: 1, parity: 1 })][created as usize / 2 % 2],
            },
        })),
        (1..4_u64, any::<bool>()).prop_map(|(tenant, everything)| {
            Command::Mesh(MeshCommand::EndTenant { tenant: TenantId(tenant), at: UnixMillis(9), everything })
        }),
        (1..4_u64).prop_map(|tenant| Command::Mesh(MeshCommand::DropTenant { tenant: TenantId(tenant) })),
        (1..3_u64).prop_map(|bucket| Command::Bucket(BucketCommand::RemoveBucket { bucket: BucketId(bucket) })),
    ]
}

fn commands_of_placement() -> impl Strategy<Value = Command> {
    let numbers = || 1..4_u64;
    let moves = || (actors(), numbers().prop_map(Epoch), numbers().prop_map(MoveId), small().prop_map(NodeId));
    prop_oneof![
        3 => moves().prop_map(|(actor, epoch, _, node)| Command::Mesh(MeshCommand::Assign(Assignment::new(actor, node, epoch)))),
        3 => moves().prop_map(|(actor, epoch, id, to)| Command::Mesh(MeshCommand::BeginMove { actor, epoch, id, to })),
        2 => moves().prop_map(|(actor, epoch, id, _)| Command::Mesh(MeshCommand::CommitMove { actor, epoch, id })),
        2 => moves().prop_map(|(actor, epoch, id, _)| Command::Mesh(MeshCommand::AbortMove { actor, epoch, id })),
        3 => (moves(), any::<bool>()).prop_map(|((actor, epoch, _, node), cut)| Command::Mesh(MeshCommand::SetTail {
            actor,
            epoch,
            tail: cut.then_some(Tail { cut: 2, node }),
        })),
        2 => (scopes(), prop::option::of(prop::option::of(small()))).prop_map(|(scope, wish)| Command::Mesh(MeshCommand::SetWish {
            scope,
            wish: wish.map(|pin| Wish { preference: Preference::Auto, pin: pin.map(NodeId) }),
        })),
        1 => (scopes(), prop::sample::subsequence(vec!["filter", "census"], 0..=2)).prop_map(|(scope, kinds)| {
            Command::Mesh(MeshCommand::SetStages { scope, stages: kinds.into_iter().map(|kind| CustomSpec::new(kind, [])).collect() })
        }),
    ]
}

fn batches() -> impl Strategy<Value = Vec<Vec<Command>>> {
    let command = prop_oneof![
        2 => commands_of_members(),
        1 => commands_of_tenants(),
        4 => commands_of_placement(),
    ];
    prop::collection::vec(prop::collection::vec(command, 1..5), 1..30)
}

/// Applies commands in one batch, as a replica does.
fn apply_together(group: &mut Group, commands: &[Command]) -> Vec<Change> {
    let mut view = View::new(&group.table);
    for command in commands {
        let (changes, _) = apply(&view, group.id, command);
        view.lay(changes);
    }
    let changes = view.into_changes();
    group.table.commit(changes.clone());
    changes
}

proptest! {
    #[test]
    fn a_view_that_is_updated_is_the_one_that_is_made_anew(batches in batches()) {
        let mut group = furnished();
        let mut view = control_view(&group.table).unwrap();
        for commands in batches {
            let changes = apply_together(&mut group, &commands);
            let after = control_after(&view, &changes).unwrap();
            let anew = control_view(&group.table).unwrap();
            prop_assert_eq!(after.is_some(), view != anew, "{:?}", commands);
            view = after.unwrap_or(view);
            prop_assert_eq!(&view, &anew, "{:?}", commands);
            for (prefix, counted) in counts(&group.table) {
                let rows = group.table.rows().filter(|(key, _)| key.starts_with(&prefix)).count();
                prop_assert_eq!(counted, rows as u64, "{:?} of {:?}", commands, prefix);
            }
        }
    }
}

/// How many rows the table says that there are, by what their keys begin with.
fn counts(table: &MemoryTable) -> Vec<(Vec<u8>, u64)> {
    let rows = table.rows().filter(|(key, _)| key[0] == b'm');
    rows.map(|(key, value)| (key[1..].to_vec(), mesh_core::meta::decode(value).unwrap())).collect()
}

/// A table that counts the rows that are visited.
struct Watched<'t>(&'t MemoryTable, Cell<usize>);

impl Table for Watched<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        self.1.set(self.1.get() + 1);
        self.0.get(key)
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: Visit<'_>) -> Result<(), Error> {
        self.0.scan(from, to, &mut |key, value| {
            self.1.set(self.1.get() + 1);
            visit(key, value)
        })
    }
}

#[test]
fn a_new_row_costs_the_same_however_many_there_are() {
    let mut group = furnished();
    for number in 0..500 {
        let actor = ActorId::data(TenantId(number + 10), NodeId(1));
        assert!(group.once(&MeshCommand::Assign(Assignment::new(actor, NodeId(1), Epoch(1)))).is_ok());
    }
    let one_more =
        Command::Mesh(MeshCommand::Assign(Assignment::new(ActorId::data(TenantId(9), NodeId(1)), NodeId(1), Epoch(1))));
    let watched = Watched(&group.table, Cell::default());
    assert_eq!(apply(&watched, group.id, &one_more).1, Ok(MetaAnswer::Epoch(Epoch(1))));
    assert!(watched.1.get() < 10, "{} rows were read", watched.1.get());
    // Rows of a table from before they were counted are counted once.
    let counted: Vec<Vec<u8>> = group.table.rows().map(|(key, _)| key.to_vec()).filter(|key| key[0] == b'm').collect();
    group.table.commit(counted.into_iter().map(|key| Change { key, value: None }).collect());
    assert!(group.once(&one_more).is_ok());
    assert_eq!(counts(&group.table), [(b"a".to_vec(), 501)]);
}

#[test]
fn the_newest_of_many_layouts_is_found_by_a_few_reads() {
    let mut group = furnished();
    let put = |id| Command::Mesh(MeshCommand::PutLayout(layout(id).into()));
    for id in 1..=500 {
        assert_eq!(group.once(&put(id)), Ok(MetaAnswer::Done));
    }
    let watched = Watched(&group.table, Cell::default());
    assert_eq!(apply(&watched, group.id, &put(501)).1, Ok(MetaAnswer::Done));
    assert!(watched.1.get() < 40, "{} rows were read", watched.1.get());
}

#[test]
fn what_the_view_does_not_show_is_no_news() {
    let mut group = furnished();
    let view = control_view(&group.table).unwrap();
    let bucket = Command::Bucket(BucketCommand::CreateBucket {
        proposer: Some(proposer(1)),
        name: "photos".into(),
        tenant: TENANT,
        created: UnixMillis(1),
        settings: BucketSettings::default(),
    });
    let changes = apply_together(&mut group, &[bucket, Command::Mesh(MeshCommand::PutNode(node(1, 1)))]);
    assert!(!changes.is_empty());
    assert_eq!(control_after(&view, &changes), Ok(None));
}

#[test]
fn every_row_is_news_once() {
    let mut group = furnished();
    let actor = ActorId::data(TENANT, NodeId(1));
    let principal = PrincipalRow { tenant: TENANT, name: "ann".into(), grants: vec![Grant::all()] };
    let key = AccessKeyRow { access: "AK1".into(), secret: wrapped(3), tenant: TENANT, principal: "ann".into() };
    let mut commands = vec![
        MeshCommand::PutLayout(layout(1).into()),
        MeshCommand::LoseDrive { drive: DriveId(3) },
        MeshCommand::PutPrincipal(principal),
        MeshCommand::PutAccessKey(key),
        MeshCommand::SetStages { scope: Scope::Mesh, stages: vec![CustomSpec::new("filter", [])] },
        MeshCommand::SetWish { scope: Scope::Mesh, wish: Some(Wish { preference: Preference::Auto, pin: None }) },
    ];
    commands.extend((1..=4).map(|id| MeshCommand::PutNode(NodeInfo { level: LEVEL, ..node(id, 2) })));
    // It begins chains anew, and those are whole then.
    commands.push(MeshCommand::RaiseLevel(LEVEL));
    commands.extend([
        MeshCommand::Assign(Assignment::new(actor, NodeId(1), Epoch(1))),
        MeshCommand::SetTail { actor, epoch: Epoch(1), tail: Some(Tail { cut: 2, node: NodeId(2) }) },
        MeshCommand::LeaveNode { node: NodeId(3), leaving: true },
        MeshCommand::DrainDrive { drive: DriveId(2), draining: true },
    ]);
    for command in commands {
        assert!(group.once(&command).is_ok(), "{command:?}");
    }
    let view = control_view(&group.table).unwrap();
    let rows = group.table.rows().map(|(key, value)| Change { key: key.to_vec(), value: Some(value.to_vec()) });
    let rows: Vec<Change> = rows.collect();
    for kind in *b"Cadhklnpstvwxyz" {
        assert!(rows.iter().any(|row| row.key[0] == kind), "there is none of {}", kind.escape_ascii());
    }
    assert_eq!(control_after(&ControlView::default(), &rows), Ok(Some(view.clone())));
    for row in rows.chunks(1) {
        assert_eq!(control_after(&view, row), Ok(None), "{row:?} is written as it was");
    }
}

#[test]
fn a_row_that_cannot_be_read_is_damage() {
    for (key, value) in [(&b"a12345678"[..], &b"?"[..]), (b"a1", b""), (b"wz", b"")] {
        let change = Change { key: key.to_vec(), value: Some(value.to_vec()) };
        let error = control_after(&ControlView::default(), &[change]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{key:?}");
    }
}
