use mesh_core::{id::DriveId, limits::WRITE_BLOCK, meta::Shape};

use super::*;

fn with_block() -> (Group, WriteId) {
    let mut group = Group::namespace();
    let first = group.open_block(1);
    (group, first)
}

/// The same command, proposed by another life of its actor.
fn in_life(life: u64, command: Command) -> Command {
    match command {
        Command::Upkeep(group, UpkeepCommand::OpenBlock { proposer }) => Command::Upkeep(
            group,
            UpkeepCommand::OpenBlock { proposer: Proposer { session: session(life), ..proposer } },
        ),
        Command::Object(bucket, ObjectCommand::PutObject { proposer, key, row, precondition, quota_bytes }) => {
            let proposer = Proposer { session: session(life), ..proposer };
            Command::Object(bucket, ObjectCommand::PutObject { proposer, key, row, precondition, quota_bytes })
        }
        other => panic!("not for this test: {other:?}"),
    }
}

fn read(group: &Group, key: &str) -> Result<WriteId, ErrorKind> {
    match group.query(&Query::Object { bucket: bucket(), key: key.into() })? {
        MetaAnswer::Object(row) => Ok(row.version),
        other => panic!("not an object: {other:?}"),
    }
}

#[test]
fn grants_blocks_that_do_not_overlap_and_the_same_one_again() {
    let mut group = Group::namespace();
    let again = Command::Upkeep(NAMESPACE, UpkeepCommand::OpenBlock { proposer: proposer(1) });
    let first = group.apply(&again);
    let blocks: Vec<u64> = [1, 2].map(|actor| group.open_block(actor).0).to_vec();
    let base = WriteId::new(NAMESPACE, 0).0;
    assert_eq!(first, Ok(MetaAnswer::Block { first: WriteId(base), count: WRITE_BLOCK }));
    assert_eq!(blocks, [base + WRITE_BLOCK, base + 2 * WRITE_BLOCK]);
    assert_eq!(group.apply(&again), first);
}

#[test]
fn a_new_session_closes_the_blocks_of_the_old_one_for_good() {
    let (mut group, old) = with_block();
    let other = group.open_block(2);
    let early = put("a", object(old, 1, 1));
    let open = Command::OpenSession { group: NAMESPACE, actor: ActorId(1), session: session(2) };
    assert_eq!(group.apply(&open), Ok(MetaAnswer::Done));
    assert_eq!(group.closed(None, 10), [old]);
    let of_new = |command| in_life(2, command);
    let Ok(MetaAnswer::Block { first: new, .. }) =
        group.apply(&of_new(Command::Upkeep(NAMESPACE, UpkeepCommand::OpenBlock { proposer: proposer(1) })))
    else {
        panic!("no block")
    };
    assert_eq!(group.apply(&early), Err(ErrorKind::Fenced));
    assert_eq!(group.apply(&of_new(put("a", object(old, 1, 1)))), Err(ErrorKind::Conflict));
    assert_eq!(group.apply(&of_new(put("a", object(new, 1, 1)))), committed(new));
    assert_eq!(group.referenced(&[old, after(new, 9), other]), [false, true, true]);
    assert_eq!(
        group.apply(&Command::Upkeep(NAMESPACE, UpkeepCommand::OpenBlock { proposer: proposer(1) })),
        Err(ErrorKind::Fenced)
    );
    assert_eq!(group.apply(&open), Ok(MetaAnswer::Done), "the same life: its blocks stay open");
    assert_eq!(group.referenced(&[after(new, 9)]), [true]);
}

#[test]
fn closes_the_oldest_block_of_a_session_that_hoards() {
    let (mut group, first) = with_block();
    for _ in 1..=64 {
        group.open_block(1);
    }
    assert_eq!(group.referenced(&[first, after(first, WRITE_BLOCK)]), [false, true]);
}

#[test]
fn refuses_manifests_of_closed_and_foreign_blocks() {
    let (mut group, first) = with_block();
    let foreign = group.open_block(2);
    assert_eq!(group.apply(&put("a", object(foreign, 1, 1))), Err(ErrorKind::Conflict));
    assert_eq!(group.apply(&put("a", object(after(first, 1 << 30), 1, 1))), Err(ErrorKind::Conflict));
    let early = put("a", object(first, 1, 1));
    assert_eq!(group.apply(&early), committed(first));
    assert_eq!(group.apply(&Command::Upkeep(NAMESPACE, UpkeepCommand::CloseBlock { first })), Ok(MetaAnswer::Done));
    assert_eq!(group.apply(&put("b", object(after(first, 1), 1, 1))), Err(ErrorKind::Conflict));
    assert_eq!(group.apply(&early), committed(first), "sent again after the close");
    assert_eq!(group.referenced(&[first, after(first, 1)]), [true, false]);
    assert_eq!(
        group.apply(&Command::Upkeep(NAMESPACE, UpkeepCommand::CloseBlock { first: after(first, 1) })),
        Err(ErrorKind::Invalid)
    );
    assert_eq!(
        group.apply(&Command::Upkeep(NAMESPACE, UpkeepCommand::CloseBlock { first: after(first, 1 << 30) })),
        Err(ErrorKind::Invalid)
    );
}

#[test]
fn remembers_closed_blocks_until_they_are_swept() {
    let (mut group, first) = with_block();
    let blocks = [first, after(first, WRITE_BLOCK), after(first, 2 * WRITE_BLOCK)];
    group.open_block(1);
    group.open_block(2);
    assert_eq!(group.closed(None, 10), []);
    let swept = |first| Command::Upkeep(NAMESPACE, UpkeepCommand::SweptBlock { first });
    assert_eq!(group.apply(&swept(first)), Err(ErrorKind::Conflict), "it is open");
    // One is closed by its holder, one by a later session.
    assert_eq!(
        group.apply(&Command::Upkeep(NAMESPACE, UpkeepCommand::CloseBlock { first: blocks[1] })),
        Ok(MetaAnswer::Done)
    );
    let later = Command::OpenSession { group: NAMESPACE, actor: ActorId(1), session: session(2) };
    assert_eq!(group.apply(&later), Ok(MetaAnswer::Done));
    assert_eq!(group.closed(None, 10), blocks[..2]);
    assert_eq!(group.closed(None, 1), blocks[..1]);
    assert_eq!(group.closed(Some(blocks[0]), 10), blocks[1..2]);
    assert_eq!(group.closed(None, 0), []);
    assert_eq!(group.apply(&swept(first)), Ok(MetaAnswer::Done));
    assert_eq!(group.closed(None, 10), blocks[1..2]);
    assert_eq!(
        group.apply(&Command::Upkeep(NAMESPACE, UpkeepCommand::CloseBlock { first })),
        Ok(MetaAnswer::Done),
        "closed before, and swept"
    );
    assert_eq!(group.closed(None, 10), blocks[1..2], "what was swept does not come back");
    assert_eq!(group.apply(&in_life(2, put("a", object(first, 1, 1)))), Err(ErrorKind::Conflict));
    assert_eq!(group.apply(&swept(after(blocks[1], 1))), Err(ErrorKind::Invalid));
    assert_eq!(group.apply(&swept(after(first, 1 << 30))), Err(ErrorKind::Invalid));
}

#[test]
fn what_is_not_granted_may_yet_be_referred_to() {
    let (mut group, first) = with_block();
    let next = after(first, WRITE_BLOCK);
    assert_eq!(group.referenced(&[next]), [true]);
    assert_eq!(group.open_block(1), next);
    assert_eq!(
        group.apply(&Command::Upkeep(NAMESPACE, UpkeepCommand::CloseBlock { first: next })),
        Ok(MetaAnswer::Done)
    );
    assert_eq!(group.referenced(&[next]), [false]);
}

#[test]
fn makes_objects_visible_and_what_they_replace_garbage() {
    let (mut group, first) = with_block();
    let second = after(first, 1);
    assert_eq!(read(&group, "a"), Err(ErrorKind::NotFound));
    let early = put("a", object(first, 100, 1));
    assert_eq!(group.apply(&early), committed(first));
    assert_eq!((read(&group, "a"), group.usage()), (Ok(first), (100, 1)));
    assert_eq!(group.apply(&put("a", object(second, 30, 2))), committed(second));
    assert_eq!((read(&group, "a"), group.usage()), (Ok(second), (30, 1)));
    assert_eq!(group.garbage(), [(2, first)]);
    // The first one, delivered once more, does not come back.
    assert_eq!(group.apply(&early), committed(first));
    assert_eq!((read(&group, "a"), group.usage()), (Ok(second), (30, 1)));
}

#[test]
fn deletes_once_even_if_told_twice() {
    let (mut group, first) = with_block();
    let in_vain = delete("a", 1);
    assert_eq!(group.apply(&in_vain), Ok(MetaAnswer::Deleted { existed: false }));
    assert_eq!(group.apply(&put("a", object(first, 100, 1))), committed(first));
    assert_eq!(group.apply(&in_vain), Ok(MetaAnswer::Deleted { existed: false }), "it found nothing, once and for all");
    assert_eq!(read(&group, "a"), Ok(first));
    let early = delete("a", 2);
    assert_eq!(group.apply(&early), Ok(MetaAnswer::Deleted { existed: true }));
    assert_eq!(
        (read(&group, "a"), group.usage(), group.garbage()),
        (Err(ErrorKind::NotFound), (0, 0), vec![(2, first)])
    );
    let second = after(first, 1);
    assert_eq!(
        group.apply(&Command::Upkeep(NAMESPACE, UpkeepCommand::DropGarbage { writes: vec![first] })),
        Ok(MetaAnswer::Done)
    );
    assert_eq!(group.apply(&put("a", object(second, 7, 1))), committed(second));
    assert_eq!(group.apply(&early), Ok(MetaAnswer::Deleted { existed: true }), "the first delete, late");
    assert_eq!(read(&group, "a"), Ok(second));
    assert_eq!(group.apply(&delete("a", 2)), Ok(MetaAnswer::Deleted { existed: true }), "another delete of that time");
    assert_eq!(read(&group, "a"), Err(ErrorKind::NotFound));
}

#[test]
fn a_dropped_write_does_not_come_back() {
    let (mut group, first) = with_block();
    let early = put("a", object(first, 100, 1));
    assert_eq!(group.apply(&early), committed(first));
    assert_eq!(group.apply(&delete("a", 2)), Ok(MetaAnswer::Deleted { existed: true }));
    assert_eq!(
        group.apply(&Command::Upkeep(NAMESPACE, UpkeepCommand::DropGarbage { writes: vec![first, after(first, 1)] })),
        Ok(MetaAnswer::Done)
    );
    assert_eq!(group.garbage(), []);
    assert_eq!(group.apply(&early), committed(first));
    assert_eq!(read(&group, "a"), Err(ErrorKind::NotFound));
    assert_eq!(group.apply(&Command::Upkeep(NAMESPACE, UpkeepCommand::CloseBlock { first })), Ok(MetaAnswer::Done));
    assert_eq!(group.apply(&early), committed(first));
    assert_eq!(group.apply(&put("a", object(first, 100, 1))), Err(ErrorKind::Conflict));
    assert_eq!(group.referenced(&[first]), [false]);
}

#[test]
fn never_drops_what_is_visible() {
    let (mut group, first) = with_block();
    assert_eq!(group.apply(&put("a", object(first, 100, 1))), committed(first));
    let before = group.table.clone();
    assert_eq!(
        group.apply(&Command::Upkeep(NAMESPACE, UpkeepCommand::DropGarbage { writes: vec![first] })),
        Ok(MetaAnswer::Done)
    );
    assert_eq!(group.table, before);
    let many = vec![first; 16_385];
    assert_eq!(
        group.apply(&Command::Upkeep(NAMESPACE, UpkeepCommand::DropGarbage { writes: many.clone() })),
        Err(ErrorKind::TooLarge)
    );
    assert_eq!(group.query(&Query::Referenced { writes: many }), Err(ErrorKind::TooLarge));
    let foreign = WriteId::new(GroupId(2), 0);
    assert_eq!(group.query(&Query::Referenced { writes: vec![foreign] }), Err(ErrorKind::Invalid));
}

#[test]
fn names_garbage_by_age_in_pages() {
    let (mut group, first) = with_block();
    for at in 0..4 {
        assert!(group.apply(&put("a", object(after(first, at), 1, 10 + at))).is_ok());
    }
    let page = |before, limit| match group.query(&Query::Garbage { before: UnixMillis(before), after: None, limit }) {
        Ok(MetaAnswer::Garbage(page)) => page.rows.iter().map(|row| row.extent.write.0 - first.0).collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    };
    assert_eq!(page(13, 10), [0, 1]);
    assert_eq!(page(14, 10), [0, 1, 2]);
    assert_eq!(page(14, 2), [0, 1]);
    assert_eq!(page(14, 0), [0_u64; 0]);
}

#[test]
fn holds_preconditions() {
    let (mut group, first) = with_block();
    let conditional = |version, absent, etag: Option<&str>| {
        let precondition = Precondition { absent, etag: etag.map(str::to_owned) };
        match put("a", object(version, 1, 1)) {
            Command::Object(bucket, ObjectCommand::PutObject { proposer, key, row, quota_bytes, .. }) => {
                Command::Object(bucket, ObjectCommand::PutObject { proposer, key, row, precondition, quota_bytes })
            }
            other => other,
        }
    };
    let etag = format!("etag-{first}");
    assert_eq!(group.apply(&conditional(first, false, Some("x"))), Err(ErrorKind::Precondition));
    assert_eq!(group.apply(&conditional(first, true, None)), committed(first));
    let second = after(first, 1);
    assert_eq!(group.apply(&conditional(second, true, None)), Err(ErrorKind::Precondition));
    assert_eq!(group.apply(&conditional(second, false, Some("x"))), Err(ErrorKind::Precondition));
    assert_eq!(group.apply(&conditional(second, false, Some(&etag))), committed(second));
    let mut drop = |etag: &str| {
        let precondition = Precondition { absent: false, etag: Some(etag.to_owned()) };
        let at = UnixMillis(2);
        group.apply(&Command::Object(
            bucket(),
            ObjectCommand::DeleteObject { proposer: proposer(1), key: "a".into(), at, precondition },
        ))
    };
    assert_eq!(drop(&etag), Err(ErrorKind::Precondition));
    assert_eq!(drop(&format!("etag-{second}")), Ok(MetaAnswer::Deleted { existed: true }));
}

#[test]
fn keeps_the_quota_exactly() {
    let (mut group, first) = with_block();
    let limited = |key: &str, count: u64, len, quota| match put(key, object(after(first, count), len, count)) {
        Command::Object(bucket, ObjectCommand::PutObject { proposer, key, row, precondition, .. }) => Command::Object(
            bucket,
            ObjectCommand::PutObject { proposer, key, row, precondition, quota_bytes: Some(quota) },
        ),
        other => other,
    };
    assert!(group.apply(&limited("a", 0, 60, 100)).is_ok());
    assert_eq!(group.apply(&limited("b", 1, 41, 100)), Err(ErrorKind::QuotaExceeded));
    assert!(group.apply(&limited("b", 1, 40, 100)).is_ok());
    assert_eq!(group.apply(&limited("a", 2, 61, 100)), Err(ErrorKind::QuotaExceeded));
    assert!(group.apply(&limited("a", 2, 50, 80)).is_ok(), "it shrinks, though over the new quota");
    assert_eq!(group.usage(), (90, 2));
    assert_eq!(
        group.apply(&limited("c", 3, 0, 80)),
        Ok(MetaAnswer::Committed { version: after(first, 3), etag: format!("etag-{}", after(first, 3)) })
    );
}

#[test]
fn seals_empty_buckets_only() {
    let (mut group, first) = with_block();
    let seal = || Command::Object(bucket(), ObjectCommand::SealBucket { proposer: proposer(1) });
    let early = seal();
    assert!(group.apply(&put("a", object(first, 1, 1))).is_ok());
    assert_eq!(group.apply(&early), Err(ErrorKind::BucketNotEmpty));
    assert!(group.apply(&delete("a", 2)).is_ok());
    assert!(group.apply(&create_upload(after(first, 1), "b")).is_ok());
    assert_eq!(group.apply(&seal()), Err(ErrorKind::BucketNotEmpty));
    let abort = Command::Object(
        bucket(),
        ObjectCommand::AbortUpload { proposer: proposer(1), upload: after(first, 1), at: UnixMillis(3) },
    );
    assert_eq!(group.apply(&abort), Ok(MetaAnswer::Done));
    assert_eq!(group.apply(&early), Err(ErrorKind::BucketNotEmpty), "it was not, when this came first");
    let second = after(first, 2);
    assert_eq!(group.apply(&put("a", object(second, 1, 1))), committed(second), "nothing is sealed");
    assert!(group.apply(&delete("a", 4)).is_ok());
    assert_eq!(group.apply(&seal()), Ok(MetaAnswer::Done));
    assert_eq!(group.apply(&seal()), Ok(MetaAnswer::Done), "somebody else deletes it too");
    let second = after(first, 3);
    assert_eq!(group.apply(&put("a", object(second, 1, 1))), Err(ErrorKind::NoSuchBucket));
    assert_eq!(group.apply(&create_upload(second, "b")), Err(ErrorKind::NoSuchBucket));
    assert_eq!(group.apply(&delete("z", 1)), Err(ErrorKind::NoSuchBucket));
    assert_eq!(read(&group, "a"), Err(ErrorKind::NoSuchBucket));
}

#[test]
fn refuses_manifests_that_contradict_themselves() {
    let (mut group, first) = with_block();
    let run = |first| mesh_core::meta::Run { first, count: 1, attempt: 1, avoid: vec![], shared: false };
    let with = |change: fn(&mut ObjectRow)| {
        let mut row = object(first, 10, 1);
        change(&mut row);
        put("a", row)
    };
    let too_many = {
        let runs = (0..65).map(run).collect();
        put("a", ObjectRow { body: Body::Whole(Extent { runs, ..extent(first, 10) }), ..object(first, 10, 1) })
    };
    for (command, kind) in [
        (with(|row| row.len = 11), ErrorKind::Invalid),
        (with(|row| row.version = WriteId(row.version.0 + 1)), ErrorKind::Invalid),
        (with(|row| row.body = Body::Parts { upload: row.version, count: 1 }), ErrorKind::Invalid),
        (with(|row| row.etag.clear()), ErrorKind::Invalid),
        (with(|row| drop(row.attributes.user.insert("n".into(), "v".repeat(2048)))), ErrorKind::TooLarge),
        (with(|row| drop(row.attributes.headers.insert("n".into(), "v".repeat(16_384)))), ErrorKind::TooLarge),
        (too_many, ErrorKind::TooLarge),
        (put("", object(first, 10, 1)), ErrorKind::Invalid),
        (put(&"k".repeat(1025), object(first, 10, 1)), ErrorKind::KeyTooLong),
    ] {
        assert_eq!(group.apply(&command), Err(kind), "{command:?}");
    }
    assert_eq!(group.apply(&put(&"k".repeat(1024), object(first, 10, 1))), committed(first));
}

#[test]
fn sends_requests_for_other_groups_away() {
    let (group, first) = with_block();
    let stray = BucketRef { group: GroupId(2), ..bucket() };
    let question = Query::Object { bucket: stray.clone(), key: "a".into() };
    let refused = query(&group.table, group.id, &question).expect_err("another group's");
    assert_eq!(refused.kind(), ErrorKind::WrongShard);
    assert_eq!(refused.redirect().and_then(|redirect| redirect.group), Some(GroupId(2)));
    let command = match put("a", object(first, 1, 1)) {
        Command::Object(_, ObjectCommand::PutObject { proposer, key, row, precondition, quota_bytes, .. }) => {
            Command::Object(stray, ObjectCommand::PutObject { proposer, key, row, precondition, quota_bytes })
        }
        other => other,
    };
    assert_eq!(apply(&group.table, group.id, &command).1.map_err(|error| error.kind()), Err(ErrorKind::WrongShard));
}

#[test]
fn a_damaged_row_stops_the_replica_and_decides_nothing() {
    let (mut group, first) = with_block();
    assert!(group.apply(&put("a", object(first, 1, 1))).is_ok());
    let damaged: Vec<_> = group
        .table
        .rows()
        .filter(|(key, _)| key[0] == b'K')
        .map(|(key, value)| {
            let mut value = value.to_vec();
            value.truncate(3);
            crate::metadata::Change { key: key.to_vec(), value: Some(value) }
        })
        .collect();
    assert_eq!(damaged.len(), 1);
    group.table.commit(damaged);
    assert_eq!(group.apply(&delete("a", 5)), Err(ErrorKind::Corrupt));
    assert_eq!(read(&group, "a"), Err(ErrorKind::Corrupt));
}

#[test]
fn says_which_shards_are_a_write_s_own_whatever_it_is_used_for() {
    let (mut group, first) = with_block();
    let run = mesh_core::meta::Run { first: 0, count: 1, attempt: 3, avoid: vec![DriveId(9)], shared: true };
    let of = |write| Extent { runs: vec![run.clone()], ..extent(write, 10) };
    let shape = |write| Reference::Used(Some(Shape::of(&of(write))));
    let row = |write| ObjectRow { body: Body::Whole(of(write)), ..object(write, 10, 1) };
    let [one, two, three, four] = [1, 2, 3, 4].map(|count| after(first, count));
    assert_eq!(group.apply(&put("a", row(one))), committed(one));
    assert_eq!(group.apply(&put("b", row(two))), committed(two));
    assert_eq!(group.apply(&create_upload(first, "c")), Ok(MetaAnswer::Done));
    assert_eq!(
        group.apply(&put_part(first, PartRow { extent: of(three), ..part(1, three, 10) })),
        Ok(MetaAnswer::Done)
    );
    assert_eq!(group.apply(&delete("b", 2)), Ok(MetaAnswer::Deleted { existed: true }));
    let ask = |group: &Group| match group.query(&Query::Referenced { writes: vec![first, one, two, three, four] }) {
        Ok(MetaAnswer::Referenced(all)) => all,
        other => panic!("not told: {other:?}"),
    };
    assert_eq!(ask(&group), vec![Reference::Open; 5]);
    assert_eq!(group.apply(&Command::Upkeep(NAMESPACE, UpkeepCommand::CloseBlock { first })), Ok(MetaAnswer::Done));
    let used = vec![Reference::Used(None), shape(one), shape(two), shape(three), Reference::Nobody];
    assert_eq!(ask(&group), used);
    assert_eq!(group.apply(&complete(first, "c", &[(1, three)])), committed(first));
    assert_eq!(ask(&group), used);
    assert_eq!(group.apply(&delete("c", 3)), Ok(MetaAnswer::Deleted { existed: true }));
    assert_eq!(ask(&group), used);
}

/// Whoever asks for more than one answer should hold asks again for the rest.
#[test]
fn an_answer_about_writes_ends_where_their_exceptions_become_many() {
    let (mut group, first) = with_block();
    // 16 of these are as much as one answer says: each drive counts, and each exception.
    let avoid: Vec<DriveId> = (0..15).map(DriveId).collect();
    let run = |first| mesh_core::meta::Run { first, count: 1, attempt: 1, avoid: avoid.clone(), shared: false };
    let writes: Vec<WriteId> = (0..20).map(|count| after(first, count)).collect();
    let of = |write| Extent { runs: (0..64).map(run).collect(), ..extent(write, 10) };
    for write in &writes {
        let row = ObjectRow { body: Body::Whole(of(*write)), ..object(*write, 10, 1) };
        assert_eq!(group.apply(&put(&format!("{write}"), row)), committed(*write));
    }
    assert_eq!(group.apply(&Command::Upkeep(NAMESPACE, UpkeepCommand::CloseBlock { first })), Ok(MetaAnswer::Done));
    let told = |writes: &[WriteId]| {
        Ok(MetaAnswer::Referenced(writes.iter().map(|write| Reference::Used(Some(Shape::of(&of(*write))))).collect()))
    };
    assert_eq!(group.query(&Query::Referenced { writes: writes.clone() }), told(&writes[..16]));
    assert_eq!(group.query(&Query::Referenced { writes: writes[16..].to_vec() }), told(&writes[16..]));
}
