//! What drives are owed, and the pages in which garbage is named.

use mesh_core::{
    id::{DriveId, KeyId},
    limits::{COMMAND_BYTES_MAX, MANIFEST_RUNS_MAX},
    meta::{self, Garbage, GarbageMark, GarbagePage, Run, WrappedKey},
};

use super::*;
use crate::metadata::{keys, state::owed::OWED_MAX, table::Change};

/// A group whose first writes are the versions of objects that were deleted.
fn deleted(count: u64) -> (Group, WriteId) {
    let mut group = Group::namespace();
    let first = group.open_block(1);
    for number in 0..count {
        let key = format!("k{number}");
        assert!(group.apply(&put(&key, object(after(first, number), 1, 10))).is_ok());
        assert!(group.apply(&delete(&key, 20)).is_ok());
    }
    (group, first)
}

fn owe(owed: &[(u64, &[WriteId])]) -> Command {
    Command::Upkeep(
        NAMESPACE,
        UpkeepCommand::OweGarbage {
            owed: owed.iter().map(|(drive, writes)| (DriveId(*drive), writes.to_vec())).collect(),
        },
    )
}

fn pay(drive: u64, writes: &[WriteId]) -> Command {
    Command::Upkeep(NAMESPACE, UpkeepCommand::PayOwed { drive: DriveId(drive), writes: writes.to_vec() })
}

fn owed(group: &Group, drive: u64) -> Vec<WriteId> {
    match group.query(&Query::Owed { drive: DriveId(drive), limit: 1000 }) {
        Ok(MetaAnswer::Writes(writes)) => writes,
        other => panic!("not told: {other:?}"),
    }
}

fn page(group: &Group, after: Option<GarbageMark>, limit: u32) -> GarbagePage {
    match group.query(&Query::Garbage { before: UnixMillis(u64::MAX), after, limit }) {
        Ok(MetaAnswer::Garbage(page)) => page,
        other => panic!("no garbage: {other:?}"),
    }
}

fn owing(group: &Group) -> Vec<u64> {
    page(group, None, 0).owing.into_iter().map(|drive| drive.0).collect()
}

#[test]
fn what_a_drive_is_owed_outlives_the_garbage_until_it_is_paid() {
    let (mut group, first) = deleted(3);
    let [one, two, three] = [0, 1, 2].map(|count| after(first, count));
    let owe = owe(&[(7, &[one, two]), (5, &[two])]);
    assert_eq!(group.apply(&owe), Ok(MetaAnswer::Writes(vec![])));
    assert_eq!(group.garbage(), [(22, three)]);
    assert_eq!((owed(&group, 7), owed(&group, 5), owing(&group)), (vec![one, two], vec![two], vec![5, 7]));
    assert_eq!(group.query(&Query::Owed { drive: DriveId(7), limit: 1 }), Ok(MetaAnswer::Writes(vec![one])));

    assert_eq!(group.apply(&pay(7, &[one])), Ok(MetaAnswer::Done));
    // A late copy owes nothing anew: the drive has deleted it.
    assert_eq!(group.apply(&owe), Ok(MetaAnswer::Writes(vec![])));
    assert_eq!((owed(&group, 7), owing(&group)), (vec![two], vec![5, 7]));
    assert_eq!(group.apply(&pay(7, &[one, two, three])), Ok(MetaAnswer::Done));
    assert_eq!(group.apply(&pay(5, &[two])), Ok(MetaAnswer::Done));
    assert!(owing(&group).is_empty());
    assert!(group.table.rows().all(|(key, _)| !b"Ee".contains(&key[0])), "nothing is left of it");
}

#[test]
fn owes_parts_one_by_one_and_nothing_that_is_visible() {
    let mut group = Group::namespace();
    let upload = group.open_block(1);
    assert!(group.apply(&create_upload(upload, "film")).is_ok());
    let [one, two] = [1, 2].map(|count| after(upload, count));
    for (number, write) in [(1, one), (2, two)] {
        assert!(group.apply(&put_part(upload, part(number, write, 5 * MIB))).is_ok());
    }
    assert!(group.apply(&complete(upload, "film", &[(1, one), (2, two)])).is_ok());
    let before = group.table.clone();
    assert_eq!(group.apply(&owe(&[(7, &[one, two, upload])])), Ok(MetaAnswer::Writes(vec![])));
    assert_eq!(group.table, before, "what is visible is not owed");
    assert!(group.apply(&delete("film", 20)).is_ok());
    assert_eq!(group.apply(&owe(&[(7, &[two])])), Ok(MetaAnswer::Writes(vec![])));
    assert_eq!((group.garbage(), owed(&group, 7)), (vec![(20, one)], vec![two]));
    assert_eq!(
        group.apply(&Command::Upkeep(NAMESPACE, UpkeepCommand::DropGarbage { writes: vec![one] })),
        Ok(MetaAnswer::Done)
    );
    assert_eq!((group.garbage(), owed(&group, 7)), (vec![], vec![two]));
}

#[test]
fn keeps_as_garbage_what_a_drive_may_not_be_owed_any_more() {
    let (mut group, first) = deleted(3);
    let [one, two, three] = [0, 1, 2].map(|count| after(first, count));
    let almost = meta::encode(&(OWED_MAX - 1)).expect("a number");
    group.table.commit(vec![Change { key: keys::owing(DriveId(7)), value: Some(almost) }]);
    // The other drive has room; of what both are owed, neither row is made.
    let answer = group.once(&owe(&[(7, &[one, two]), (5, &[two, three])]));
    assert_eq!(answer, Ok(MetaAnswer::Writes(vec![two])));
    assert_eq!((owed(&group, 7), owed(&group, 5)), (vec![one], vec![three]));
    assert_eq!(group.garbage(), [(21, two)]);
    let many = vec![one; 16_385];
    assert_eq!(group.apply(&owe(&[(7, &many)])), Err(ErrorKind::TooLarge));
    assert_eq!(group.apply(&pay(7, &many)), Err(ErrorKind::TooLarge));
}

#[test]
fn stamps_grow_in_the_order_of_deletes_whatever_the_clocks_say() {
    let mut group = Group::namespace();
    let first = group.open_block(1);
    let mut stamps = Vec::new();
    // The second one's clock is a day ahead, the third one's an hour behind.
    for (count, at) in [(0, 4_000_000), (1, 90_000_000), (2, 400_000), (3, 4_000_100)] {
        let version = after(first, count);
        assert!(group.apply(&put("k", object(version, 1, at))).is_ok());
        assert!(group.apply(&delete("k", at)).is_ok());
        stamps.push(page(&group, None, 0).newest.0);
    }
    assert_eq!(stamps, [4_000_000, 90_000_000, 90_000_001, 90_000_002]);
    assert_eq!(group.garbage().iter().map(|(since, _)| *since).collect::<Vec<_>>(), stamps);
}

#[test]
fn pages_go_on_behind_what_was_named_and_in_the_middle_of_an_object() {
    let (mut group, first) = deleted(1);
    let upload = after(first, 10);
    assert!(group.apply(&create_upload(upload, "film")).is_ok());
    for number in 1..=3 {
        let part = part(number, after(upload, u64::from(number)), 5 * MIB);
        assert!(group.apply(&put_part(upload, part)).is_ok());
    }
    let empty = after(first, 20);
    assert!(group.apply(&create_upload(empty, "nothing")).is_ok());
    for upload in [upload, empty] {
        let abort =
            Command::Object(bucket(), ObjectCommand::AbortUpload { proposer: proposer(1), upload, at: UnixMillis(30) });
        assert_eq!(group.apply(&abort), Ok(MetaAnswer::Done));
    }
    let all: Vec<WriteId> = group.garbage().into_iter().map(|(_, write)| write).collect();
    assert_eq!(all, [first, after(upload, 1), after(upload, 2), after(upload, 3), empty]);
    for limit in 1..=6 {
        let (mut named, mut mark) = (Vec::new(), None);
        loop {
            let page = page(&group, mark, limit);
            assert!(page.rows.len() <= limit as usize);
            named.extend(page.rows.into_iter().map(|row| row.extent.write));
            mark = page.next;
            if mark.is_none() {
                break;
            }
        }
        assert_eq!(named, all, "in pages of {limit}");
    }
    // What was dropped meanwhile leaves no gap.
    let mark = page(&group, None, 3).next;
    assert_eq!(
        group.apply(&Command::Upkeep(NAMESPACE, UpkeepCommand::DropGarbage { writes: all[..3].to_vec() })),
        Ok(MetaAnswer::Done)
    );
    let rest: Vec<WriteId> = page(&group, mark, 10).rows.into_iter().map(|row| row.extent.write).collect();
    assert_eq!(rest, all[3..]);
}

#[test]
fn a_page_of_large_rows_fits_into_an_answer() {
    let mut group = Group::namespace();
    let first = group.open_block(1);
    let avoid: Vec<DriveId> = (0..16).map(|drive| DriveId(u64::MAX - drive)).collect();
    let runs: Vec<Run> = (0..MANIFEST_RUNS_MAX as u32)
        .map(|at| Run { first: at * 2, count: 1, attempt: 3, avoid: avoid.clone(), shared: true })
        .collect();
    for number in 0..200 {
        let version = after(first, number);
        let mut row = object(version, 1 << 30, 10);
        row.body = Body::Whole(Extent { runs: runs.clone(), ..extent(version, 1 << 30) });
        assert!(group.apply(&put("k", row)).is_ok());
    }
    assert!(group.apply(&delete("k", 20)).is_ok());
    let (mut named, mut mark, mut pages) = (0, None, 0);
    loop {
        let page = page(&group, mark, 1000);
        (named, mark, pages) = (named + page.rows.len(), page.next, pages + 1);
        let bytes = meta::encode(&MetaAnswer::Garbage(page)).expect("an answer").len();
        assert!(bytes <= COMMAND_BYTES_MAX / 2 + 1024, "{bytes}");
        assert!(mark.is_none() || bytes > COMMAND_BYTES_MAX / 5 * 2, "{bytes}");
        if mark.is_none() {
            break;
        }
    }
    assert_eq!(named, 200);
    assert!(pages > 2, "{pages}");
}

/// The rows of a page have half an answer: the first one that does not fit begins the next page.
#[test]
fn a_page_takes_what_is_just_within_its_bytes() {
    let mut group = Group::namespace();
    let first = group.open_block(1);
    let with_key = |write, sealed| {
        let key = WrappedKey { key: KeyId(1), nonce: [1; 12], sealed: vec![1; sealed] };
        Extent { key: Some(key.into()), ..extent(write, 1) }
    };
    let bytes = |row: &Garbage| meta::encode(row).expect("a row").len();
    let (fits, of_each) = (128, COMMAND_BYTES_MAX / 2 / 128);
    let row = |sealed| Garbage { tenant: TENANT, since: UnixMillis(1 << 40), extent: with_key(first, sealed) };
    let sealed = (of_each - 100..of_each).find(|sealed| bytes(&row(*sealed)) == of_each).expect("a row of that size");
    for count in 0..=fits {
        let version = after(first, count);
        let row = ObjectRow { body: Body::Whole(with_key(version, sealed)), ..object(version, 1, 10) };
        assert_eq!(group.once(&put("k", row)), committed(version));
        assert_eq!(group.once(&delete("k", 1 << 40)), Ok(MetaAnswer::Deleted { existed: true }));
    }
    let full = page(&group, None, 1000);
    assert!(full.rows.iter().all(|row| bytes(row) == of_each));
    assert_eq!(full.rows.len() as u64, fits);
    let rest = page(&group, full.next, 1000);
    assert_eq!(rest.rows.iter().map(|row| row.extent.write).collect::<Vec<_>>(), [after(first, fits)]);
}
