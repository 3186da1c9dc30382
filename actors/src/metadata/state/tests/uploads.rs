use super::*;

/// A group with an open upload, and the write behind its number.
fn begun() -> (Group, WriteId) {
    let mut group = Group::namespace();
    let upload = group.open_block(1);
    assert_eq!(group.apply(&create_upload(upload, "film")), Ok(MetaAnswer::Done));
    (group, upload)
}

/// Parts 2, 5 and 9 of 5 MiB, 6 MiB and 1 MiB, under the writes 1, 2 and 3 behind the upload.
fn uploaded() -> (Group, WriteId) {
    let (mut group, upload) = begun();
    for (number, count, len) in [(2, 1, 5 * MIB), (5, 2, 6 * MIB), (9, 3, MIB)] {
        let command = put_part(upload, part(number, after(upload, count), len));
        assert_eq!(group.apply(&command), Ok(MetaAnswer::Done));
    }
    (group, upload)
}

fn abort(upload: WriteId, at: u64) -> Command {
    Command::Object(bucket(), ObjectCommand::AbortUpload { proposer: proposer(1), upload, at: UnixMillis(at) })
}

fn parts(answer: Result<MetaAnswer, ErrorKind>) -> (Vec<(u32, u64)>, bool) {
    match answer {
        Ok(MetaAnswer::Parts(rows, more)) => (rows.iter().map(|row| (row.number, row.offset)).collect(), more),
        other => panic!("no parts: {other:?}"),
    }
}

fn extents(group: &Group, upload: WriteId, offset: u64, limit: u32) -> Vec<(u32, u64)> {
    parts(group.query(&Query::Extents { bucket: bucket(), upload, offset, limit })).0
}

#[test]
fn counts_parts_and_lists_them_by_number() {
    let (mut group, upload) = uploaded();
    assert_eq!(group.usage(), (12 * MIB, 0));
    // Where it begins is known when all of them are.
    let early = PartRow { offset: 7, ..part(9, after(upload, 30), MIB) };
    let mut other = group.clone();
    assert_eq!(other.apply(&put_part(upload, early)), Ok(MetaAnswer::Done));
    let all = Query::Parts { bucket: bucket(), upload, after: 0, limit: 10 };
    assert_eq!(parts(other.query(&all)), (vec![(2, 0), (5, 0), (9, 0)], false));
    let page = |after, limit| parts(group.query(&Query::Parts { bucket: bucket(), upload, after, limit }));
    assert_eq!(page(0, 10), (vec![(2, 0), (5, 0), (9, 0)], false));
    assert_eq!(page(0, 2), (vec![(2, 0), (5, 0)], true));
    assert_eq!(page(2, 1), (vec![(5, 0)], true));
    assert_eq!(page(9, 10), (vec![], false));
    // A part again under another write: the first one is garbage.
    let again = put_part(upload, part(5, after(upload, 4), MIB));
    assert_eq!(group.apply(&again), Ok(MetaAnswer::Done));
    assert_eq!((group.usage(), group.garbage()), ((7 * MIB, 0), vec![(6, after(upload, 2))]));
    assert_eq!(group.apply(&put_part(upload, part(5, after(upload, 5), 6 * MIB))), Ok(MetaAnswer::Done));
    assert_eq!(group.apply(&again), Ok(MetaAnswer::Done));
    assert_eq!(group.usage(), (12 * MIB, 0), "the replaced part, delivered late, has no effect");
    let used = put_part(upload, part(5, after(upload, 2), 6 * MIB));
    assert_eq!(group.apply(&used), Err(ErrorKind::Conflict), "another command with the same write");
}

#[test]
fn refuses_parts_that_cannot_be() {
    let (mut group, upload) = begun();
    let next = after(upload, 1);
    for (number, len, kind) in
        [(0, 1, ErrorKind::Invalid), (10_001, 1, ErrorKind::Invalid), (1, (5 << 30) + 1, ErrorKind::TooLarge)]
    {
        assert_eq!(group.apply(&put_part(upload, part(number, next, len))), Err(kind));
    }
    assert_eq!(group.apply(&put_part(next, part(1, next, 1))), Err(ErrorKind::NoSuchUpload));
    assert_eq!(group.apply(&put_part(upload, part(1, upload, 1))), Err(ErrorKind::Conflict));
    assert_eq!(group.apply(&put("film", object(upload, 1, 1))), Err(ErrorKind::Conflict));
    let limited = Command::Object(
        bucket(),
        ObjectCommand::PutPart { proposer: proposer(1), upload, part: part(1, next, 11).into(), quota_bytes: Some(10) },
    );
    assert_eq!(group.apply(&limited), Err(ErrorKind::QuotaExceeded));
}

#[test]
fn completes_an_upload_and_finds_its_extents_by_offset() {
    let (mut group, upload) = uploaded();
    let writes = [after(upload, 1), after(upload, 2), after(upload, 3)];
    assert_eq!(
        group.apply(&complete(upload, "film", &[(2, writes[0]), (5, writes[1]), (9, writes[2])])),
        committed(upload)
    );
    assert_eq!((group.usage(), group.garbage()), ((12 * MIB, 1), vec![]));
    assert_eq!(extents(&group, upload, 0, 10), [(2, 0), (5, 5 * MIB), (9, 11 * MIB)]);
    assert_eq!(extents(&group, upload, 5 * MIB - 1, 1), [(2, 0)]);
    assert_eq!(extents(&group, upload, 5 * MIB, 1), [(5, 5 * MIB)]);
    assert_eq!(extents(&group, upload, 11 * MIB - 1, 1), [(5, 5 * MIB)]);
    assert_eq!(extents(&group, upload, 11 * MIB, 9), [(9, 11 * MIB)]);
    let Ok(MetaAnswer::Object(row)) = group.query(&Query::Object { bucket: bucket(), key: "film".into() }) else {
        panic!("not visible")
    };
    assert_eq!((row.len, &row.body), (12 * MIB, &Body::Parts { upload, count: 3 }));
    let gone = Query::Upload { bucket: bucket(), upload };
    assert_eq!(group.query(&gone), Err(ErrorKind::NoSuchUpload));
    assert_eq!(group.apply(&abort(upload, 9)), Err(ErrorKind::NoSuchUpload));
    assert_eq!(group.apply(&create_upload(upload, "film")), Err(ErrorKind::Conflict));
    assert_eq!(group.query(&gone), Err(ErrorKind::NoSuchUpload));
    assert_eq!(group.referenced(&writes), [true; 3]);
}

#[test]
fn every_byte_of_an_object_is_found_in_its_part() {
    let (mut group, upload) = begun();
    let numbers = (1..=20).chain([300, 301, 9_998, 9_999, 10_000]);
    let named: Vec<(u32, WriteId)> = numbers.zip(1..).map(|(number, count)| (number, after(upload, count))).collect();
    for (number, write) in &named {
        assert_eq!(group.once(&put_part(upload, part(*number, *write, 5 * MIB))), Ok(MetaAnswer::Done));
    }
    assert_eq!(group.apply(&complete(upload, "film", &named)), committed(upload));
    for (at, (number, _)) in named.iter().enumerate() {
        let begin = at as u64 * 5 * MIB;
        for offset in [begin, begin + 5 * MIB - 1] {
            assert_eq!(extents(&group, upload, offset, 1), [(*number, begin)], "{offset}");
        }
    }
}

#[test]
fn parts_that_are_not_named_become_garbage() {
    let (mut group, upload) = uploaded();
    assert_eq!(group.apply(&complete(upload, "film", &[(9, after(upload, 3))])), committed(upload));
    assert_eq!((group.usage(), group.garbage()), ((MIB, 1), vec![(9, after(upload, 1)), (10, after(upload, 2))]));
    assert_eq!(extents(&group, upload, 0, 10), [(9, 0)]);
}

#[test]
fn refuses_completions_that_do_not_fit() {
    let (mut group, upload) = uploaded();
    let [one, two, three] = [1, 2, 3].map(|count| after(upload, count));
    let missing = after(upload, 99);
    for (command, kind) in [
        (complete(upload, "film", &[]), ErrorKind::Invalid),
        (complete(upload, "film", &[(5, two), (2, one)]), ErrorKind::InvalidPartOrder),
        (complete(upload, "film", &[(2, one), (2, one)]), ErrorKind::InvalidPartOrder),
        (complete(upload, "film", &[(2, two)]), ErrorKind::InvalidPart),
        (complete(upload, "film", &[(3, one)]), ErrorKind::InvalidPart),
        (complete(upload, "other", &[(2, one)]), ErrorKind::NoSuchUpload),
        (complete(missing, "film", &[(2, one)]), ErrorKind::NoSuchUpload),
    ] {
        assert_eq!(group.apply(&command), Err(kind), "{command:?}");
    }
    assert_eq!(group.apply(&put_part(upload, part(10, after(upload, 4), 1))), Ok(MetaAnswer::Done));
    let small = complete(upload, "film", &[(2, one), (9, three), (10, after(upload, 4))]);
    assert_eq!(group.apply(&small), Err(ErrorKind::PartTooSmall));
}

#[test]
fn a_completion_holds_its_precondition() {
    let (mut group, upload) = uploaded();
    let there = after(upload, 9);
    assert_eq!(group.apply(&put("film", object(there, 3, 7))), committed(there));
    let on = |precondition: Precondition| {
        let mut command = complete(upload, "film", &[(2, after(upload, 1))]);
        if let Command::Object(_, ObjectCommand::CompleteUpload { precondition: to, .. }) = &mut command {
            *to = precondition;
        }
        command
    };
    let etag = |etag: String| Precondition { etag: Some(etag), ..Precondition::default() };
    let absent = Precondition { absent: true, ..Precondition::default() };
    for precondition in [absent, etag("another".into())] {
        assert_eq!(group.apply(&on(precondition)), Err(ErrorKind::Precondition));
        assert_eq!((group.usage(), group.garbage()), ((12 * MIB + 3, 1), vec![]), "nothing has changed");
    }
    assert_eq!(group.apply(&on(etag(format!("etag-{there}")))), committed(upload));
    assert_eq!(group.usage(), (5 * MIB, 1));
}

/// The number of an upload is no secret: whoever may write to another bucket must not reach it by that.
#[test]
fn an_upload_is_reached_through_its_own_bucket_alone() {
    let (mut group, upload) = uploaded();
    let other = BucketRef { id: BucketId(8), name: "music".into(), tenant: TenantId(2), group: NAMESPACE };
    let elsewhere = |command: Command| match command {
        Command::Object(_, command) => Command::Object(other.clone(), command),
        command => command,
    };
    let named = [(2, after(upload, 1)), (5, after(upload, 2)), (9, after(upload, 3))];
    for command in
        [put_part(upload, part(1, after(upload, 4), MIB)), complete(upload, "film", &named), abort(upload, 9)]
    {
        assert_eq!(group.apply(&elsewhere(command)), Err(ErrorKind::NoSuchUpload));
    }
    assert_eq!(group.query(&Query::Upload { bucket: other.clone(), upload }), Err(ErrorKind::NoSuchUpload));
    let parts = Query::Parts { bucket: other.clone(), upload, after: 0, limit: 10 };
    assert_eq!(group.query(&parts), Err(ErrorKind::NoSuchUpload));
    assert_eq!((group.usage(), group.garbage()), ((12 * MIB, 0), vec![]));
    assert_eq!(group.apply(&complete(upload, "film", &named)), committed(upload));
    // Nor once it is complete.
    assert_eq!(group.apply(&complete(upload, "film", &named)), committed(upload));
    assert_eq!(group.apply(&elsewhere(complete(upload, "film", &named))), Err(ErrorKind::NoSuchUpload));
    let extents = |bucket| Query::Extents { bucket, upload, offset: 0, limit: 10 };
    assert!(group.query(&extents(bucket())).is_ok());
    assert_eq!(group.query(&extents(other)), Err(ErrorKind::NotFound));
}

#[test]
fn garbage_of_parts_is_named_and_dropped_one_by_one() {
    let (mut group, upload) = uploaded();
    let writes = [after(upload, 1), after(upload, 2), after(upload, 3)];
    assert!(group.apply(&complete(upload, "film", &[(2, writes[0]), (5, writes[1]), (9, writes[2])])).is_ok());
    assert_eq!(
        group.apply(&Command::Upkeep(NAMESPACE, UpkeepCommand::DropGarbage { writes: writes.to_vec() })),
        Ok(MetaAnswer::Done)
    );
    assert_eq!(extents(&group, upload, 0, 10).len(), 3, "what is visible is not dropped");
    assert_eq!(group.apply(&delete("film", 20)), Ok(MetaAnswer::Deleted { existed: true }));
    assert_eq!((group.usage(), group.garbage()), ((0, 0), writes.map(|write| (20, write)).to_vec()));
    assert_eq!(extents(&group, upload, 0, 10).len(), 3, "a reader may be under way");
    assert_eq!(
        group.apply(&Command::Upkeep(NAMESPACE, UpkeepCommand::DropGarbage { writes: vec![writes[1]] })),
        Ok(MetaAnswer::Done)
    );
    assert_eq!(group.garbage(), [(20, writes[0]), (20, writes[2])]);
    assert_eq!(
        group.apply(&Command::Upkeep(NAMESPACE, UpkeepCommand::DropGarbage { writes: vec![writes[0], writes[2]] })),
        Ok(MetaAnswer::Done)
    );
    assert_eq!(group.garbage(), []);
    assert_eq!(
        group.apply(&Command::Upkeep(NAMESPACE, UpkeepCommand::CloseBlock { first: upload })),
        Ok(MetaAnswer::Done)
    );
    assert_eq!(group.referenced(&[upload, writes[0]]), [false, false]);
    assert!(group.table.rows().all(|(key, _)| !b"WZPGUVK".contains(&key[0])), "nothing is left of it");
}

#[test]
fn an_aborted_upload_leaves_its_parts_as_garbage() {
    let (mut group, upload) = uploaded();
    assert_eq!(group.apply(&abort(upload, 30)), Ok(MetaAnswer::Done));
    assert_eq!((group.usage(), group.garbage().len()), ((0, 0), 3));
    let query = Query::Extents { bucket: bucket(), upload, offset: 0, limit: 1 };
    assert_eq!(group.query(&query), Err(ErrorKind::NotFound));
    assert_eq!(group.apply(&complete(upload, "film", &[(9, after(upload, 3))])), Err(ErrorKind::NoSuchUpload));
    let late = put_part(upload, part(3, after(upload, 7), 1));
    assert_eq!(group.apply(&late), Err(ErrorKind::NoSuchUpload));
}

#[test]
fn an_upload_outlives_its_block() {
    let (mut group, upload) = begun();
    let early = after(upload, 1);
    assert_eq!(group.apply(&put_part(upload, part(1, early, 5 * MIB))), Ok(MetaAnswer::Done));
    let late = group.open_block(1);
    assert_eq!(
        group.apply(&Command::Upkeep(NAMESPACE, UpkeepCommand::CloseBlock { first: upload })),
        Ok(MetaAnswer::Done)
    );
    assert_eq!(
        group.apply(&Command::Upkeep(NAMESPACE, UpkeepCommand::SweptBlock { first: upload })),
        Ok(MetaAnswer::Done)
    );
    // Its own number and its parts are kept; what is new must be of an open block.
    assert_eq!(group.referenced(&[upload, early, after(upload, 2)]), [true, true, false]);
    assert_eq!(group.apply(&put_part(upload, part(2, after(upload, 2), MIB))), Err(ErrorKind::Conflict));
    assert_eq!(group.apply(&create_upload(after(upload, 3), "film")), Err(ErrorKind::Conflict));
    assert_eq!(group.apply(&put_part(upload, part(2, late, MIB))), Ok(MetaAnswer::Done));
    assert_eq!(group.apply(&complete(upload, "film", &[(1, early), (2, late)])), committed(upload));
    assert_eq!(group.referenced(&[upload, early, late]), [true, true, true]);
    assert_eq!(group.apply(&delete("film", 20)), Ok(MetaAnswer::Deleted { existed: true }));
    assert_eq!(group.referenced(&[upload, early]), [true, true], "it is garbage, which reclaim deletes");
    assert_eq!(
        group.apply(&Command::Upkeep(NAMESPACE, UpkeepCommand::DropGarbage { writes: vec![early, late] })),
        Ok(MetaAnswer::Done)
    );
    assert_eq!(group.referenced(&[upload, early]), [false, false]);
}

#[test]
fn an_upload_without_parts_is_dropped_by_its_number() {
    let (mut group, upload) = begun();
    assert_eq!(group.apply(&abort(upload, 30)), Ok(MetaAnswer::Done));
    assert_eq!(group.garbage(), [(30, upload)]);
    assert_eq!(
        group.apply(&Command::Upkeep(NAMESPACE, UpkeepCommand::DropGarbage { writes: vec![upload] })),
        Ok(MetaAnswer::Done)
    );
    assert_eq!(group.garbage(), []);
}

#[test]
fn lists_uploads_by_key_then_number() {
    let (mut group, first) = begun();
    for (count, key) in [(1, "a"), (2, "film"), (3, "film2"), (4, "a\0b")] {
        assert!(group.apply(&create_upload(after(first, count), key)).is_ok());
    }
    let page = |prefix: &str, after: Option<(&str, WriteId)>, limit| {
        let after = after.map(|(key, id)| (key.to_owned(), id));
        match group.query(&Query::Uploads { bucket: bucket(), prefix: prefix.into(), after, limit }) {
            Ok(MetaAnswer::Uploads(rows, more)) => {
                (rows.iter().map(|row| row.upload.0 - first.0).collect::<Vec<_>>(), more)
            }
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(page("", None, 10), (vec![1, 4, 0, 2, 3], false));
    assert_eq!(page("film", None, 10), (vec![0, 2, 3], false));
    assert_eq!(page("", None, 3), (vec![1, 4, 0], true));
    assert_eq!(page("", Some(("film", first)), 1), (vec![2], true));
    assert_eq!(page("film", Some(("a", first)), 1), (vec![0], true));
    assert_eq!(page("g", None, 1), (vec![], false));
}
