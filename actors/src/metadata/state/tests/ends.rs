//! Tenants that are deleted.

use std::collections::BTreeSet;

use mesh_core::{
    assignment::{Assignment, Scope, Tail, Wish},
    id::{KeyId, NodeId},
    meta::{AccessKeyRow, EndedTenant, Grant, Level, PrincipalRow, TenantLimits, WrappedKey},
    spec::CustomSpec,
};

use super::{
    control::{control_view, furnished, tenant},
    *,
};

const MILL: TenantId = TenantId(2);

fn end(everything: bool) -> MeshCommand {
    MeshCommand::EndTenant { tenant: MILL, at: UnixMillis(77), everything }
}

const DROP: MeshCommand = MeshCommand::DropTenant { tenant: MILL };

fn user(name: &str) -> MeshCommand {
    MeshCommand::PutPrincipal(PrincipalRow { tenant: MILL, name: name.into(), grants: vec![Grant::all()] })
}

fn key(access: &str, user: &str) -> MeshCommand {
    let secret = WrappedKey { key: KeyId(0), nonce: [1; 12], sealed: vec![1; 48] };
    MeshCommand::PutAccessKey(AccessKeyRow { access: access.into(), secret, tenant: MILL, principal: user.into() })
}

fn bucket_of_mill() -> BucketCommand {
    BucketCommand::CreateBucket {
        proposer: Some(proposer(1)),
        name: "flour".into(),
        tenant: MILL,
        created: UnixMillis(1),
        settings: BucketSettings::default(),
    }
}

fn chain(ingress: u64) -> ActorId {
    ActorId::data(MILL, NodeId(ingress))
}

fn assign(ingress: u64) -> MeshCommand {
    MeshCommand::Assign(Assignment::new(chain(ingress), NodeId(ingress), Epoch(1)))
}

fn done(group: &mut Group, command: impl Clone + Into<Command>) {
    let command: Command = command.into();
    assert_eq!(group.apply(&command), Ok(MetaAnswer::Done), "{command:?}");
}

/// Keys of rows, but for counters, the audit log, and what was said to whom.
fn rows(group: &Group) -> BTreeSet<String> {
    let counts = |key: &[u8]| b"cmSAIM".contains(&key[0]);
    group.table.rows().filter(|(key, _)| !counts(key)).map(|(key, _)| key.escape_ascii().to_string()).collect()
}

/// A cluster of which nothing is tenant 2's, and what rows that has; then with tenant 2, a bucket and all else that one may have.
fn with_mill() -> (BTreeSet<String>, Group, BucketRef) {
    let mut group = furnished();
    done(&mut group, MeshCommand::RaiseLevel(Level::ENDS));
    done(&mut group, MeshCommand::SetWish { scope: Scope::Tenant(TENANT), wish: Some(Wish::default()) });
    let other = ActorId::data(TENANT, NodeId(1));
    assert!(group.apply(&MeshCommand::Assign(Assignment::new(other, NodeId(1), Epoch(1)))).is_ok());
    let before = rows(&group);
    assert!(group.apply(&tenant("mill", 9)).is_ok());
    let wrapped = WrappedKey { key: KeyId(0), nonce: [2; 12], sealed: vec![2; 48] };
    assert!(group.apply(&MeshCommand::RotateKey { tenant: MILL, after: KeyId(2), wrapped }).is_ok());
    for name in ["ann", "bob", "eve"] {
        done(&mut group, user(name));
    }
    for (access, user) in [("K1", "ann"), ("K2", "bob"), ("K3", "eve")] {
        done(&mut group, key(access, user));
    }
    done(&mut group, MeshCommand::DropPrincipal { tenant: MILL, name: "eve".into() });
    for ingress in 1..=3 {
        assert!(group.apply(&assign(ingress)).is_ok());
    }
    let tail = Some(Tail { cut: 2, node: NodeId(2) });
    done(&mut group, MeshCommand::SetTail { actor: chain(1), epoch: Epoch(1), tail });
    for scope in [Scope::Tenant(MILL), Scope::Actor(chain(1))] {
        done(&mut group, MeshCommand::SetWish { scope, wish: Some(Wish::default()) });
    }
    let stages = vec![CustomSpec::new("filter", *b"settings")];
    done(&mut group, MeshCommand::SetStages { scope: Scope::Tenant(MILL), stages });
    let Ok(MetaAnswer::Bucket(row)) = group.apply(&bucket_of_mill()) else { panic!("no bucket") };
    (before, group, row.bucket.clone())
}

#[test]
fn a_tenant_that_is_deleted_is_none_at_once_and_nothing_is_left_but_its_names() {
    let (before, mut group, bucket) = with_mill();
    let all = control_view(&group);
    assert_eq!(group.apply(&DROP), Err(ErrorKind::Conflict), "it was not deleted");
    assert_eq!(group.apply(&end(false)), Err(ErrorKind::Conflict), "it has a bucket");
    assert_eq!(control_view(&group), all);
    done(&mut group, end(true));
    done(&mut group, end(false));
    let view = control_view(&group);
    assert_eq!(view.tenants.keys().collect::<Vec<_>>(), [&TENANT]);
    assert_eq!(*view.ended[&MILL], EndedTenant { name: "mill".into(), since: UnixMillis(77) });
    assert_eq!(view.assignments.keys().collect::<Vec<_>>(), [&ActorId::data(TENANT, NodeId(1))]);
    assert!(view.tails.is_empty() && view.stages.is_empty());
    assert_eq!(view.wishes.keys().collect::<Vec<_>>(), [&Scope::Tenant(TENANT)]);

    // What comes late, or from who has not heard of it. Nobody gets its name.
    for (late, kind) in [
        (assign(1), ErrorKind::Conflict),
        (user("zoe"), ErrorKind::NotFound),
        (user("ann"), ErrorKind::NotFound),
        (MeshCommand::SetLimits { tenant: MILL, limits: TenantLimits::default() }, ErrorKind::NotFound),
        (MeshCommand::SetStages { scope: Scope::Tenant(MILL), stages: Vec::new() }, ErrorKind::NotFound),
        (tenant("mill", 9), ErrorKind::Conflict),
        (tenant("mill", 10), ErrorKind::Conflict),
        (DROP, ErrorKind::Conflict),
    ] {
        assert_eq!(group.apply(&late), Err(kind), "{late:?}");
    }
    let late = BucketCommand::CreateBucket {
        proposer: Some(proposer(1)),
        name: "bran".into(),
        tenant: MILL,
        created: UnixMillis(1),
        settings: BucketSettings::default(),
    };
    assert_eq!(group.apply(&late), Err(ErrorKind::NotFound));

    done(&mut group, BucketCommand::RemoveBucket { bucket: bucket.id });
    for _ in 0..2 {
        assert_eq!(group.apply(&DROP), Ok(MetaAnswer::Rest { more: false }));
    }
    let view = control_view(&group);
    assert!(view.ended.is_empty() && view.past_keys.is_empty() && view.principals.is_empty());
    assert!(view.access_keys.is_empty());
    // Its name and those of its access keys, which nobody gets; nothing that was encrypted.
    let left: Vec<_> = rows(&group).difference(&before).cloned().collect();
    assert_eq!(left, ["JK1", "JK2", "JK3", "Tmill"]);
    for late in [tenant("mill", 9), assign(2)] {
        assert_eq!(group.apply(&late), Err(ErrorKind::Conflict));
    }
    done(&mut group, end(true));
    // Rooms that it had taken are free again.
    assert!(group.apply(&tenant("other", 3)).is_ok());
    assert_eq!(control_view(&group).tenants.keys().collect::<Vec<_>>(), [&TENANT, &TenantId(3)]);
}

#[test]
fn many_users_and_keys_go_some_at_a_time() {
    let mut group = furnished();
    done(&mut group, MeshCommand::RaiseLevel(Level::ENDS));
    assert!(group.apply(&tenant("mill", 9)).is_ok());
    for at in 0..700 {
        assert_eq!(group.once(&user(&format!("u{at}"))), Ok(MetaAnswer::Done));
        assert_eq!(group.once(&key(&format!("K{at}"), &format!("u{at}"))), Ok(MetaAnswer::Done));
    }
    done(&mut group, end(false));
    let left = |group: &Group| {
        let view = control_view(group);
        (view.access_keys.len(), view.principals.len(), view.ended.len())
    };
    assert_eq!(left(&group), (700, 700, 1));
    for (more, expected) in [(true, (188, 700, 1)), (true, (0, 376, 1)), (false, (0, 0, 0))] {
        assert_eq!(group.once(&DROP), Ok(MetaAnswer::Rest { more }));
        assert_eq!(left(&group), expected);
    }
}

#[test]
fn what_is_in_its_buckets_becomes_garbage_some_at_a_time_and_nothing_is_taken_in_them() {
    let mut group = Group::namespace();
    let first = group.open_block(1);
    let whole = |at: u64| put(&format!("o{at:04}"), object(after(first, at), 10, 1));
    for at in 0..600 {
        assert!(group.once(&whole(at)).is_ok());
    }
    let upload = after(first, 700);
    assert_eq!(group.once(&create_upload(upload, "up")), Ok(MetaAnswer::Done));
    assert_eq!(group.once(&put_part(upload, part(1, after(first, 701), 30))), Ok(MetaAnswer::Done));
    let other = BucketRef { id: BucketId(8), name: "music".into(), ..bucket() };
    let Command::Object(_, of_another) = put("kept", object(after(first, 800), 5, 1)) else { panic!("an object") };
    assert!(group.once(&Command::Object(other.clone(), of_another)).is_ok());
    assert_eq!(group.usage(), (6035, 601));

    let empty = Command::Upkeep(NAMESPACE, UpkeepCommand::EmptyBucket { bucket: bucket(), at: UnixMillis(50) });
    assert_eq!(group.once(&empty), Ok(MetaAnswer::Rest { more: true }));
    assert_eq!((group.usage(), group.garbage().len()), ((6035 - 5120, 601 - 512), 512));
    let read = |bucket: BucketRef, key: &str| Query::Object { bucket, key: key.into() };
    // What is there still is not read any more, and nothing comes to it.
    assert_eq!(group.query(&read(bucket(), "o0599")), Err(ErrorKind::NoSuchBucket));
    assert_eq!(group.once(&whole(601)), Err(ErrorKind::NoSuchBucket));
    assert_eq!(group.once(&put_part(upload, part(2, after(first, 702), 3))), Err(ErrorKind::NoSuchBucket));
    for _ in 0..2 {
        assert_eq!(group.apply(&empty), Ok(MetaAnswer::Rest { more: false }));
        assert_eq!((group.usage(), group.garbage().len()), ((5, 1), 601));
    }
    assert!(group.query(&read(other, "kept")).is_ok());
    let stray = BucketRef { group: GroupId(2), ..bucket() };
    let stray = Command::Upkeep(NAMESPACE, UpkeepCommand::EmptyBucket { bucket: stray, at: UnixMillis(50) });
    assert_eq!(group.apply(&stray), Err(ErrorKind::WrongShard));
}
