//! The audit log: what is in it, and what cannot be done without it.

use mesh_core::{
    assignment::Scope,
    audit::{By, Deed, Entry, Page, What, hex},
    id::{ClusterId, DriveId, KeyId, NodeId},
    meta::{AccessKeyRow, Grant, Level, PrincipalRow, TenantLimits, WrappedKey},
    op::Recovery,
    spec::CustomSpec,
};

use super::{
    super::recover,
    control::{furnished, node, tenant},
    *,
};
use crate::metadata::audit::{self, Chain};

const OPS: &str = "ops";

fn ops() -> By {
    By::Administrator { name: OPS.into(), via: NodeId(2) }
}

fn ordered(at: u64, order: MeshCommand) -> Command {
    Command::Ordered { by: ops(), at: UnixMillis(at), order }
}

impl Group {
    fn page(&self, from: u64) -> Page {
        match self.query(&Query::Audit { from }) {
            Ok(MetaAnswer::Audit(page)) => page,
            other => panic!("no page: {other:?}"),
        }
    }

    /// All entries that are kept, of a chain that is whole and ends where the log says.
    fn audited(&self) -> Vec<Entry> {
        let log = self.page(0).log;
        let mut chain = Chain { next: log.first, head: log.base };
        let mut entries = Vec::new();
        while chain.next < log.next {
            for line in &self.page(chain.next).lines {
                chain.follow(line).expect("it follows");
                entries.push(audit::entry(line).expect("it is known"));
            }
        }
        assert_eq!(chain, Chain { next: log.next, head: log.head });
        entries
    }

    /// What was done since an entry, with who did it and when.
    fn since(&self, after: u64) -> Vec<(Option<u64>, By, What)> {
        let later = self.audited().into_iter().filter(|entry| entry.number > after);
        later.map(|entry| (entry.at.map(|at| at.0), entry.by, entry.what)).collect()
    }
}

/// A mesh that keeps a log from now on.
fn audited() -> Group {
    let mut group = furnished();
    assert_eq!(group.page(0), Page { log: group.page(0).log, lines: Vec::new() });
    assert_eq!(group.apply(&MeshCommand::RaiseLevel(Level::ENDS)), Ok(MetaAnswer::Done));
    group
}

fn grants() -> Vec<Grant> {
    vec![Grant { bucket: "logs-*".into(), read: true, write: true, admin: false }]
}

fn user(name: &str) -> MeshCommand {
    MeshCommand::PutPrincipal(PrincipalRow { tenant: TENANT, name: name.into(), grants: grants() })
}

fn key(access: &str, user: &str) -> MeshCommand {
    let secret = WrappedKey { key: KeyId(0), nonce: [7; 12], sealed: vec![7; 48] };
    let principal = user.into();
    MeshCommand::PutAccessKey(AccessKeyRow { access: access.into(), secret, tenant: TENANT, principal })
}

#[test]
fn the_log_begins_with_the_level_and_says_what_there_was() {
    let mut group = furnished();
    assert_eq!(group.apply(&user("ann")), Ok(MetaAnswer::Done));
    assert_eq!(group.apply(&key("K1", "ann")), Ok(MetaAnswer::Done));
    let order = ordered(5, MeshCommand::DropAccessKey { access: "K1".into() });
    assert_eq!(group.apply(&order), Err(ErrorKind::Unsupported));
    // What is ordered until then is in no log, as replicas of older builds have none.
    assert_eq!(group.apply(&MeshCommand::RaiseLevel(Level::ACCESS)), Ok(MetaAnswer::Done));
    assert_eq!(group.audited(), []);
    assert_eq!(group.apply(&MeshCommand::RaiseLevel(Level::AUDIT)), Ok(MetaAnswer::Done));
    let began = What::Began { cluster: ClusterId([1; 16]).to_string(), tenants: 1, users: 1, keys: 1 };
    assert_eq!(group.since(0), [(None, By::Mesh, began)]);
    assert_eq!(group.page(0).log.first, 1);
    assert_eq!(group.apply(&order), Ok(MetaAnswer::Done));
    assert_eq!(group.audited().len(), 2);
}

/// The whole list: what each order leaves in the log, once, whatever is said twice (as [`Group::apply`] does).
#[test]
fn every_order_is_in_the_log_with_who_gave_it_and_when() {
    let mut group = audited();
    assert_eq!(group.apply(&MeshCommand::PutNode(node(4, 1))), Ok(MetaAnswer::Done));
    let limits = TenantLimits { quota_bytes: Some(9), requests_per_second: Some(8), bytes_per_second: None };
    let wrapped = WrappedKey { key: KeyId(0), nonce: [8; 12], sealed: vec![8; 48] };
    let (drive, path) = (DriveId(3), || "/mnt/nvme1".to_owned());
    let spec = CustomSpec::new("filter", *b"settings that no log has");
    let two = TenantId(2);
    let deed = Deed::DriveOrdered { node: NodeId(1), path: path(), instead_of: Some(drive) };
    let orders = [
        (MeshCommand::Invite { node: NodeId(9), invitation: 1 }, What::Invited { node: NodeId(9) }),
        (MeshCommand::LeaveNode { node: NodeId(4), leaving: true }, What::Leaves { node: NodeId(4), leaving: true }),
        (MeshCommand::LeaveNode { node: NodeId(4), leaving: false }, What::Leaves { node: NodeId(4), leaving: false }),
        (MeshCommand::Drain { node: NodeId(1), draining: true }, What::Drained { node: NodeId(1), draining: true }),
        (MeshCommand::DrainDrive { drive, draining: true }, What::DriveDrained { drive, draining: true }),
        (MeshCommand::DrainDrive { drive, draining: false }, What::DriveDrained { drive, draining: false }),
        (MeshCommand::LoseDrive { drive }, What::DriveLost { drive }),
        (MeshCommand::RemoveNode { node: NodeId(3), empty: None }, What::NodeRemoved { node: NodeId(3), lost: true }),
        (tenant("mill", 5), What::TenantMade { tenant: two, name: "mill".into(), limits: TenantLimits::default() }),
        (MeshCommand::SetLimits { tenant: two, limits }, What::Limited { tenant: two, limits }),
        (
            MeshCommand::RotateKey { tenant: two, after: KeyId(2), wrapped },
            What::KeyRotated { tenant: two, key: KeyId((1 << 32) + 1) },
        ),
        (
            MeshCommand::EndTenant { tenant: two, at: UnixMillis(7), everything: true },
            What::TenantEnded { tenant: two, name: "mill".into(), everything: true },
        ),
        (user("ann"), What::Granted { tenant: TENANT, user: "ann".into(), grants: grants() }),
        (key("K1", "ann"), What::AccessKeyMade { tenant: TENANT, user: "ann".into(), access: "K1".into() }),
        (
            MeshCommand::DropAccessKey { access: "K1".into() },
            What::AccessKeyRevoked { tenant: Some(TENANT), user: Some("ann".into()), access: "K1".into() },
        ),
        (
            MeshCommand::DropPrincipal { tenant: TENANT, name: "ann".into() },
            What::UserDropped { tenant: TENANT, user: "ann".into() },
        ),
        (
            MeshCommand::SetStages { scope: Scope::Mesh, stages: vec![spec] },
            What::Staged { scope: Scope::Mesh, kinds: vec!["filter".into()] },
        ),
        (
            MeshCommand::Noted { deed: Deed::BackedUp { group: GroupId::CONTROL }, chance: 4 },
            What::BackedUp { group: GroupId::CONTROL },
        ),
        (
            MeshCommand::Noted { deed, chance: 5 },
            What::DriveOrdered { node: NodeId(1), path: path(), instead_of: Some(drive) },
        ),
    ];
    for (at, (order, _)) in (100..).zip(&orders) {
        assert!(order.is_order());
        let answer = group.apply(&ordered(at, order.clone()));
        assert!(answer.is_ok(), "{order:?}: {answer:?}");
    }
    let expected: Vec<_> = (100..).zip(orders).map(|(at, (_, what))| (Some(at), ops(), what)).collect();
    assert_eq!(group.since(2), expected);
    let whole: String = group.page(0).lines.concat();
    assert!(!whole.contains("sealed") && !whole.contains("nonce") && !whole.contains("settings"));
}

#[test]
fn what_changes_nothing_or_is_refused_is_not_in_the_log() {
    let mut group = audited();
    let begun = group.audited().len() as u64;
    assert_eq!(group.apply(&ordered(1, user("ann"))), Ok(MetaAnswer::Done));
    let after = group.audited().len() as u64;
    assert_eq!(after, begun + 1);
    // Another one says the same, at another time.
    assert_eq!(group.apply(&ordered(2, user("ann"))), Ok(MetaAnswer::Done));
    assert_eq!(group.apply(&ordered(3, MeshCommand::DropAccessKey { access: "none".into() })), Ok(MetaAnswer::Done));
    let gone = MeshCommand::SetLimits { tenant: TenantId(77), limits: TenantLimits::default() };
    assert_eq!(group.apply(&ordered(4, gone)), Err(ErrorKind::NotFound));
    // What nobody orders: whoever could would have the mesh do it under a false name.
    for own in [
        MeshCommand::RaiseLevel(Level(99)),
        MeshCommand::PutNode(node(8, 1)),
        MeshCommand::FencedNode { node: NodeId(1) },
        MeshCommand::PutOut { drives: vec![DriveId(1)], out: true },
        MeshCommand::DropTenant { tenant: TENANT },
    ] {
        assert!(!own.is_order());
        assert_eq!(group.apply(&ordered(5, own)), Err(ErrorKind::Invalid));
    }
    assert_eq!(group.since(after), []);
}

#[test]
fn what_nodes_do_by_themselves_is_in_the_log_the_first_time() {
    let mut group = audited();
    let take = |start: u64, after: u64| MeshCommand::TakeDrive {
        drive: DriveId(41),
        node: NodeId(4),
        start: mesh_core::id::Incarnation(start),
        capacity_bytes: 10,
        after: Epoch(after),
        instead_of: None,
    };
    for start in 1..=3 {
        assert_eq!(group.apply(&MeshCommand::PutNode(node(4, start))), Ok(MetaAnswer::Done));
        assert_eq!(group.apply(&take(start, start - 1)), Ok(MetaAnswer::Epoch(Epoch(start))));
    }
    let added = What::DriveAdded { drive: DriveId(41), node: NodeId(4), capacity_bytes: 10, instead_of: None };
    let by = || By::Node { node: NodeId(4) };
    let joined = What::Joined { node: NodeId(4), attached_to: None };
    assert_eq!(group.since(1), [(None, by(), joined), (None, by(), added)]);
    // Nor is it missing from the log because nobody said who it was: as a founding does, or a node that is older.
    let after = group.audited().len() as u64;
    assert_eq!(group.apply(&user("ann")), Ok(MetaAnswer::Done));
    let granted = What::Granted { tenant: TENANT, user: "ann".into(), grants: grants() };
    assert_eq!(group.since(after), [(None, By::Mesh, granted)]);
}

#[test]
fn a_recovery_is_in_the_log_where_entries_may_be_gone() {
    let mut group = audited();
    let before = group.audited().len() as u64;
    let lost = vec![NodeId(3)];
    let recovery = Recovery { lost: lost.clone(), at: UnixMillis(9), chance: 1, restores: true, by: Some(ops()) };
    let changes = recover(&group.table, group.id, &recovery).expect("it goes on");
    group.table.commit(changes);
    assert_eq!(group.since(before), [(Some(9), ops(), What::Recovered { lost, restored: true })]);
}

#[test]
fn entries_that_are_kept_elsewhere_go_and_the_chain_goes_on() {
    let mut group = audited();
    for at in 0..1500 {
        let draining = at % 2 == 0;
        assert_eq!(group.once(&ordered(at, MeshCommand::Drain { node: NodeId(1), draining })), Ok(MetaAnswer::Done));
    }
    let log = group.page(0).log;
    assert_eq!((log.first, log.next, log.swept), (1, 1502, 1));
    let kept = group.page(1400).lines;
    let forget = |first| ordered(9, MeshCommand::ForgetAudit { first });
    assert_eq!(group.apply(&forget(1503)), Err(ErrorKind::Invalid), "there is none yet");
    assert_eq!(group.once(&forget(1400)), Ok(MetaAnswer::Done));
    let log = group.page(0).log;
    // A thousand of them at a time; nobody is told of the others meanwhile.
    assert_eq!((log.first, log.next, log.swept), (1400, 1503, 1025));
    assert_eq!(group.page(0).lines[..102], kept[..]);
    assert_eq!(log.base, audit::digest(&group.table_line(1399)));
    assert_eq!(group.once(&forget(1400)), Ok(MetaAnswer::Done));
    let log = group.page(0).log;
    assert_eq!((log.first, log.next, log.swept), (1400, 1503, 1400), "and that is no news");
    assert_eq!(log.bytes, group.page(0).lines.iter().map(|line| line.len() as u64).sum::<u64>());
    let what = What::Forgotten { first: 1400, digest: hex(&log.base) };
    assert_eq!(group.since(1501), [(Some(9), ops(), what)]);
    // Again, and of one before: nothing. Up to the last one: only that it was done is left.
    for first in [1400, 7] {
        assert_eq!(group.apply(&forget(first)), Ok(MetaAnswer::Done));
    }
    assert_eq!(group.page(0).log, log);
    assert_eq!(group.apply(&forget(1503)), Ok(MetaAnswer::Done));
    assert_eq!(group.audited().len(), 1);
}

impl Group {
    /// The line of an entry that is there, also of one that is not told any more.
    fn table_line(&self, number: u64) -> String {
        let key = [&b"I"[..], &number.to_be_bytes()].concat();
        let value = crate::metadata::Table::get(&self.table, &key).expect("it is read").expect("it is there");
        mesh_core::meta::decode(&value).expect("a line")
    }
}

/// As long as they may be, so that few are enough.
#[test]
fn a_full_log_refuses_what_gives_and_not_what_takes_away() {
    let mut group = audited();
    let long = |at: u64| {
        let path = "\u{1}".repeat(4096);
        let deed = Deed::DriveOrdered { node: NodeId(1), path, instead_of: None };
        ordered(at, MeshCommand::Noted { deed, chance: at })
    };
    assert_eq!(group.once(&ordered(0, user("ann"))), Ok(MetaAnswer::Done));
    let full = (1..9999).find(|at| group.once(&long(*at)) != Ok(MetaAnswer::Done)).expect("it is full some time");
    assert_eq!(full, 2707);
    let longer = Deed::DriveOrdered { node: NodeId(1), path: "x".repeat(4097), instead_of: None };
    let longer = MeshCommand::Noted { deed: longer, chance: 0 };
    for order in [user("ben"), key("K1", "ann"), MeshCommand::Drain { node: NodeId(1), draining: true }] {
        assert_eq!(group.apply(&ordered(1, order)), Err(ErrorKind::QuotaExceeded));
    }
    let drop = MeshCommand::DropPrincipal { tenant: TENANT, name: "ann".into() };
    assert!(drop.takes_away());
    assert_eq!(group.apply(&ordered(1, drop)), Ok(MetaAnswer::Done));
    // Nobody is told more than a message holds.
    assert_eq!(group.page(5).lines.len(), 10);
    assert_eq!(group.audited().len(), 2709);
    let next = group.page(0).log.next;
    for _ in 0..3 {
        assert_eq!(group.once(&ordered(1, MeshCommand::ForgetAudit { first: next })), Ok(MetaAnswer::Done));
    }
    assert_eq!(group.apply(&ordered(1, user("ben"))), Ok(MetaAnswer::Done));
    assert_eq!(group.apply(&ordered(1, longer)), Err(ErrorKind::Invalid));
}

/// Replicas come to the same log whichever build has written their rows: one of before leaves out the fields that came since.
#[test]
fn what_an_older_build_wrote_otherwise_is_no_news() {
    let mut newer = audited();
    assert_eq!(newer.apply(&ordered(1, user("ann"))), Ok(MetaAnswer::Done));
    let mut older = newer.clone();
    let rows = [
        ("node", [&b"n"[..], &1_u64.to_be_bytes()].concat()),
        ("user", [&b"p"[..], &1_u64.to_be_bytes(), b"ann"].concat()),
    ];
    for (what, key) in rows {
        let row = crate::metadata::Table::get(&older.table, &key).expect("it is read").expect("it is there");
        let written = if what == "node" {
            let info: mesh_core::topology::NodeInfo = mesh_core::meta::decode(&row).expect("a node");
            mesh_core::meta::encode_as_newer(&info, &[0]).expect("it is small")
        } else {
            let info: PrincipalRow = mesh_core::meta::decode(&row).expect("a user");
            mesh_core::meta::encode_as_newer(&info, &[0]).expect("it is small")
        };
        assert_ne!(written, row, "{what}");
        older.table.commit(vec![crate::metadata::table::Change { key, value: Some(written) }]);
    }
    for order in [
        MeshCommand::Drain { node: NodeId(1), draining: false },
        MeshCommand::LeaveNode { node: NodeId(1), leaving: false },
        user("ann"),
    ] {
        for group in [&mut newer, &mut older] {
            assert_eq!(group.apply(&ordered(2, order.clone())), Ok(MetaAnswer::Done));
        }
        assert_eq!(newer.page(0), older.page(0), "{order:?}");
    }
    assert_eq!(newer.audited().len(), 2);
}
