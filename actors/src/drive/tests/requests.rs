use mesh_core::{
    Answer, Buf, Effect, Error, ErrorKind, Job, Request, Response, StorageFunction,
    effect::Event,
    id::{Epoch, GroupId, LayoutId, ShardId, Token},
    op::{Head, Op, Reliance, ShardOp},
    port::{DiskJob, WorkOutput},
    time::Instant,
    wire::crc32c,
};

use super::world::{BLOCK, World, bytes, shard, write};
use crate::drive::format::{Kind, Record, SLOTS_START, SegmentHeader};

/// The jobs that effects start, in order; nothing else may be among them.
fn jobs(effects: &[Effect]) -> Vec<DiskJob> {
    let job = |effect: &Effect| match effect {
        Effect::Start { job: Job::Disk(job), .. } => job.clone(),
        other => panic!("{other:?}"),
    };
    effects.iter().map(job).collect()
}

fn position(world: &World, which: impl Fn(&DiskJob) -> bool) -> usize {
    world.jobs.iter().position(|pending| which(&pending.job)).expect("such a job is under way")
}

fn is_sync(job: &DiskJob) -> bool {
    matches!(job, DiskJob::Sync)
}

#[test]
fn gives_back_what_was_stored_of_every_size() {
    let mut world = World::new(8, 64);
    let sizes = [0, 1, 127, 3967, 3968, 3969, 4095, 4096, 4097, 8192, 20_000, 61 * BLOCK];
    for (n, &len) in (1..).zip(&sizes) {
        assert_eq!(world.put(shard(n), &bytes(n, len)), Ok(()), "{len} bytes");
    }
    for restart in [false, true] {
        if restart {
            world.restart();
        }
        for (n, &len) in (1..).zip(&sizes) {
            assert_eq!(world.get(shard(n)), Ok(bytes(n, len)), "{len} bytes, restarted: {restart}");
        }
        let listed: Vec<_> = (1..).zip(&sizes).map(|(n, &len)| (shard(n), len as u32)).collect();
        assert_eq!(world.list(), listed);
    }
    assert_eq!(world.put(shard(99), &bytes(99, 62 * BLOCK + 1)), Err(ErrorKind::TooLarge));
}

#[test]
fn takes_memory_that_is_not_aligned() {
    let mut world = World::new(8, 64);
    let whole = Buf::copy_of(&bytes(1, 20_000));
    for (n, range) in [(1, 0..20_000), (2, 4096..20_000), (3, 100..12_388), (4, 7..8)] {
        let payload = whole.slice(range.clone());
        world.call(write(shard(n), &payload), payload).unwrap();
        assert_eq!(world.get(shard(n)), Ok(whole[range].to_vec()));
    }
}

#[test]
fn answers_a_write_after_a_sync_that_began_after_it() {
    let mut world = World::new(5, 64);
    let payload = Buf::copy_of(&bytes(1, 2 * BLOCK));
    let (id, effects) = world.ask_for(write(shard(1), &payload), payload.clone());

    // The segment is opened, and the record goes out with the payload's own memory.
    let jobs_begun = jobs(&effects);
    let [DiskJob::Write { at: first, bufs: header }, DiskJob::Write { at: second, bufs: record }] = &jobs_begun[..]
    else {
        panic!("{effects:?}")
    };
    assert_eq!((*first, *second), (SLOTS_START, SLOTS_START + BLOCK as u64));
    let segment = SegmentHeader::decode(&header[0]).unwrap();
    assert_eq!((header.len(), segment.seq, segment.epoch), (1, 1, world.spec.epoch));
    let record_header = Record::decode(&record[0]).unwrap();
    assert_eq!((record_header.kind, record_header.offset, record_header.durable_upto), (Kind::Shard, 4096, 0));
    assert_eq!((record.len(), record[0].len(), record[1].len()), (2, BLOCK, 2 * BLOCK));
    assert_eq!(record[1].as_ptr(), payload.as_ptr(), "the payload was copied");

    // The header's write ends: a sync, which cannot cover the record.
    assert_eq!(jobs(&world.end(0)), [DiskJob::Sync]);
    // The record's ends: no second sync meanwhile.
    assert_eq!(world.end(0), []);
    // The sync ends: not answered, but a sync that covers it.
    assert_eq!(jobs(&world.end(0)), [DiskJob::Sync]);
    assert_eq!(world.end(0), [Effect::Reply { id, outcome: Ok(Answer::Done.into()) }]);
    assert_eq!(world.drive.in_flight(), 0);
}

#[test]
fn a_sync_says_nothing_of_what_lies_behind_a_gap() {
    let mut world = World::new(5, 64);
    world.put(shard(1), b"opens the segment").unwrap();
    let (first, second) = (bytes(2, BLOCK), bytes(3, BLOCK));
    let one = world.ask(write(shard(2), &first), Buf::copy_of(&first));
    let two = world.ask(write(shard(3), &second), Buf::copy_of(&second));
    assert_eq!(world.end(1), [], "the second write alone gives no reason to sync");
    assert_eq!(jobs(&world.end(0)), [DiskJob::Sync]);
    let done = |id| Effect::Reply { id, outcome: Ok(Answer::Done.into()) };
    assert_eq!(world.end(0), [done(one), done(two)], "one sync answers both");
}

#[test]
fn one_sync_covers_all_that_was_written_during_the_one_before() {
    let mut world = World::new(5, 64);
    world.put(shard(1), b"opens the segment").unwrap();
    world.ask(write(shard(2), b"a"), Buf::copy_of(b"a"));
    assert_eq!(jobs(&world.end(0)), [DiskJob::Sync]);
    let later: Vec<Token> = (3..20).map(|n| world.ask(write(shard(n), b"b"), Buf::copy_of(b"b"))).collect();
    for _ in &later {
        let at = position(&world, |job| !is_sync(job));
        assert_eq!(world.end(at), []);
    }
    let effects = world.end(0);
    assert!(matches!(&effects[..], [Effect::Reply { .. }, Effect::Start { job: Job::Disk(DiskJob::Sync), .. }]));
    let done = |id: &Token| Effect::Reply { id: *id, outcome: Ok(Answer::Done.into()) };
    assert_eq!(world.end(0), later.iter().map(done).collect::<Vec<_>>());
}

#[test]
fn the_same_write_again_has_no_effect_and_another_is_a_conflict() {
    let mut world = World::new(8, 64);
    world.put(shard(1), b"contents").unwrap();
    let (again, effects) = world.ask_for(write(shard(1), b"contents"), Buf::copy_of(b"contents"));
    assert_eq!(effects, [Effect::Reply { id: again, outcome: Ok(Answer::Done.into()) }]);
    assert_eq!(world.put(shard(1), b"CONTENTS"), Err(ErrorKind::Conflict));
    assert_eq!(world.put(shard(1), b"content"), Err(ErrorKind::Conflict));
    assert_eq!(world.get(shard(1)), Ok(b"contents".to_vec()));
}

#[test]
fn requests_for_a_shard_whose_write_is_in_flight_wait_for_it() {
    let mut world = World::new(5, 64);
    let first = world.ask(write(shard(1), b"one"), Buf::copy_of(b"one"));
    let started = world.jobs.len();
    let same = world.ask(write(shard(1), b"one"), Buf::copy_of(b"one"));
    let other = world.ask(write(shard(1), b"two"), Buf::copy_of(b"two"));
    let read = world.ask(ShardOp::Read { id: shard(1) }, Buf::empty());
    let delete = world.ask(ShardOp::Delete { ids: vec![shard(9), shard(1)], until: None }, Buf::empty());
    let after = world.ask(ShardOp::Read { id: shard(1) }, Buf::empty());
    assert_eq!(world.jobs.len(), started, "nothing is begun for those who wait");
    world.settle();
    assert!(world.replies[&first].is_ok() && world.replies[&same].is_ok());
    assert_eq!(world.replies[&other].as_ref().unwrap_err().kind(), ErrorKind::Conflict);
    assert!(world.replies[&delete].is_ok());
    for read in [read, after] {
        let outcome = world.replies[&read].as_ref();
        assert!(outcome.map_or_else(|error| error.kind() == ErrorKind::NotFound, |read| read.payload[..] == *b"one"));
    }
    assert_eq!(world.get(shard(1)), Err(ErrorKind::NotFound));
}

#[test]
fn refuses_what_makes_no_sense_without_any_io() {
    let mut world = World::new(8, 64);
    let written = world.writes;
    let mut op = write(shard(1), b"contents");
    if let ShardOp::Write { crc, .. } = &mut op {
        *crc ^= 1;
    }
    assert_eq!(world.call(op, Buf::copy_of(b"contents")).unwrap_err().kind(), ErrorKind::BadDigest);
    let mut op = write(shard(1), b"contents");
    if let ShardOp::Write { code, .. } = &mut op {
        code.data = 0;
    }
    assert_eq!(world.call(op, Buf::copy_of(b"contents")).unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(world.delete(&vec![shard(1); 1025]), Err(ErrorKind::TooLarge));
    assert_eq!(world.delete(&[shard(1), shard(2)]), Ok(()), "what is not there is deleted");
    assert_eq!(world.get(shard(1)), Err(ErrorKind::NotFound));
    let id = Token(9);
    world.asked.insert(id);
    let request = Request::system(Op::Node(Box::new(mesh_core::op::NodeOp::Status)), Instant::NEVER);
    world.event(Event::Request { id, request });
    assert_eq!(world.replies[&id].as_ref().unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(world.writes, written);
}

#[test]
fn a_delete_is_answered_when_its_tombstones_are_durable() {
    let mut world = World::new(5, 1024);
    let ids: Vec<_> = (0..400).map(shard).collect();
    for id in &ids {
        world.put(*id, b"x").unwrap();
    }
    world.settle();
    let (id, effects) = world.ask_for(ShardOp::Delete { ids: ids.clone(), until: None }, Buf::empty());
    let begun = jobs(&effects);
    assert_eq!(begun.len(), 3, "three blocks hold 400 tombstones: {begun:?}");
    let mut last = Vec::new();
    while !world.jobs.is_empty() {
        assert!(!world.replies.contains_key(&id), "answered before everything is durable");
        last = world.end(0);
        if world.replies.contains_key(&id) {
            break;
        }
    }
    assert!(last.contains(&Effect::Reply { id, outcome: Ok(Answer::Done.into()) }));
    assert_eq!(world.list(), []);
    world.power_cut(|| false);
    assert_eq!(world.list(), []);
}

#[test]
fn lists_in_pages() {
    let mut world = World::new(8, 64);
    let mut ids: Vec<_> = (1..=10).map(shard).collect();
    for id in ids.iter().rev() {
        world.put(*id, b"abc").unwrap();
    }
    ids.sort_unstable();
    let mut listed = Vec::new();
    let mut after = None;
    loop {
        let response = world.call(ShardOp::List { after, limit: 4, relies: None }, Buf::empty()).unwrap();
        let Answer::Shards { page: shards, more, .. } = response.answer else { panic!("{response:?}") };
        assert!(shards.len() <= 4 && shards.iter().all(|(_, len)| *len == 3));
        after = shards.last().map(|(id, _)| *id);
        listed.extend(shards.into_iter().map(|(id, _)| id));
        if !more {
            break;
        }
    }
    assert_eq!(listed, ids);
}

#[test]
fn a_delete_by_a_list_leaves_what_came_after_the_list_and_nothing_is_deleted_by_one_of_an_earlier_start() {
    let mut world = World::new(8, 64);
    let head = |world: &mut World| {
        let response = world.call(ShardOp::List { after: None, limit: 10, relies: None }, Buf::empty()).unwrap();
        let Answer::Shards { head, .. } = response.answer else { panic!("{response:?}") };
        head
    };
    let held = |world: &mut World, id| world.call(ShardOp::Read { id }, Buf::empty()).is_ok();
    world.put(shard(1), b"before").unwrap();
    let until = Some(head(&mut world));
    world.put(shard(2), b"after").unwrap();
    let delete = |until| ShardOp::Delete { ids: vec![shard(1), shard(2)], until };
    assert!(world.call(delete(until), Buf::empty()).is_ok());
    assert_eq!([1, 2].map(|number| held(&mut world, shard(number))), [false, true]);
    // Deleted and written anew, it is another one.
    world.put(shard(1), b"before").unwrap();
    assert!(world.call(delete(until), Buf::empty()).is_ok());
    assert_eq!([1, 2].map(|number| held(&mut world, shard(number))), [true, true]);
    let now = head(&mut world);
    for earlier in [Head { epoch: Epoch(0), ..now }, Head { start: now.start + 1, ..now }] {
        let refused = world.call(delete(Some(earlier)), Buf::empty()).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Conflict);
    }
    let now = Some(head(&mut world));
    assert!(world.call(delete(now), Buf::empty()).is_ok());
    assert_eq!([1, 2].map(|number| held(&mut world, shard(number))), [false, false]);
}

/// What the drive names at once, whatever is under way.
fn names(world: &mut World, relies: Option<Reliance>) -> Vec<(ShardId, u32)> {
    let id = world.ask(ShardOp::List { after: None, limit: 10, relies }, Buf::empty());
    match world.replies.remove(&id) {
        Some(Ok(Response { answer: Answer::Shards { page, .. }, .. })) => page,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_somebody_relies_on_for_a_layout_is_not_deleted_by_a_list_of_before() {
    let mut world = World::new(8, 64);
    let list = |world: &mut World, relies: Option<(u64, u64)>| {
        let relies = relies.map(|(group, layout)| Reliance { group: GroupId(group), layout: LayoutId(layout) });
        let response = world.call(ShardOp::List { after: None, limit: 10, relies }, Buf::empty()).unwrap();
        let Answer::Shards { page, head, .. } = response.answer else { panic!("{response:?}") };
        (page.into_iter().map(|(id, _)| id).collect::<Vec<_>>(), Some(head))
    };
    let delete = |world: &mut World, id, until| {
        world.call(ShardOp::Delete { ids: vec![id], until }, Buf::empty()).map(drop).map_err(|error| error.kind())
    };
    let group = shard(1).stripe.write.group().0;
    for number in 1..=4 {
        world.put(shard(number), b"shard").unwrap();
    }
    let (_, earlier) = list(&mut world, None);
    let (told, own) = list(&mut world, Some((group, 5)));
    assert_eq!(told.len(), 4);
    assert_eq!(delete(&mut world, shard(1), earlier), Err(ErrorKind::Conflict));
    assert_eq!(delete(&mut world, shard(1), own), Ok(()), "by the list that relies");
    let (_, later) = list(&mut world, None);
    // For the same layout, or an older one, nothing new is relied on; nor of another group.
    for relies in [(group, 5), (group, 4), (group + 1, 9)] {
        list(&mut world, Some(relies));
        assert_eq!(delete(&mut world, shard(9), later), Ok(()));
    }
    assert_eq!(delete(&mut world, shard(2), later), Ok(()));
    list(&mut world, Some((group, 6)));
    assert_eq!(delete(&mut world, shard(3), later), Err(ErrorKind::Conflict));
    assert_eq!(delete(&mut world, shard(3), None), Ok(()), "of what is garbage nobody relies on anything");
    // What is being deleted is not named to whoever relies on it, and others are told of it.
    let (_, now) = list(&mut world, None);
    let (_, effects) = world.ask_for(ShardOp::Delete { ids: vec![shard(4)], until: now }, Buf::empty());
    assert!(!effects.is_empty(), "it is under way");
    let relies = Some(Reliance { group: GroupId(group), layout: LayoutId(6) });
    assert_eq!((names(&mut world, None), names(&mut world, relies)), (vec![(shard(4), 5)], vec![]));
}

#[test]
fn whoever_relies_on_what_is_there_is_told_what_is_known_to_be_damaged() {
    let mut world = World::new(8, 64);
    let payload = bytes(1, 3 * BLOCK);
    world.put(shard(1), &payload).unwrap();
    let relies = Some(Reliance { group: shard(1).stripe.write.group(), layout: LayoutId(1) });
    let len = payload.len() as u32;
    assert_eq!(names(&mut world, relies), [(shard(1), len)], "nobody has read it yet");
    world.platter.rot(SLOTS_START + 3 * BLOCK as u64 + 5);
    assert_eq!(world.get(shard(1)), Err(ErrorKind::Corrupt));
    assert_eq!((names(&mut world, None), names(&mut world, relies)), (vec![(shard(1), len)], vec![(shard(1), 0)]));
    world.put(shard(1), &payload).unwrap();
    assert_eq!(names(&mut world, relies), [(shard(1), len)]);
    assert_eq!(world.get(shard(1)), Ok(payload));
}

#[test]
fn a_read_checks_every_time_and_never_gives_wrong_bytes() {
    let mut world = World::new(8, 64);
    let payload = bytes(1, 3 * BLOCK);
    world.put(shard(1), &payload).unwrap();
    world.put(shard(2), b"inline").unwrap();
    let record = SLOTS_START + BLOCK as u64;
    world.platter.rot(record + 2 * BLOCK as u64 + 5);
    assert_eq!(world.get(shard(1)), Err(ErrorKind::Corrupt));
    assert_eq!(world.get(shard(1)), Err(ErrorKind::Corrupt));
    assert_eq!(world.get(shard(2)), Ok(b"inline".to_vec()));
    assert_eq!(world.stat().2, 1, "one record is damaged, however often it is read");
    assert_eq!(world.list().len(), 2, "a damaged shard is still listed");

    // The same contents heal it; others do not.
    assert_eq!(world.put(shard(1), &bytes(2, 3 * BLOCK)), Err(ErrorKind::Conflict));
    assert_eq!(world.put(shard(1), &payload), Ok(()));
    assert_eq!(world.get(shard(1)), Ok(payload.clone()));
    world.restart();
    assert_eq!(world.get(shard(1)), Ok(payload));
}

#[test]
fn one_place_that_cannot_be_read_does_not_fail_the_drive() {
    let mut world = World::new(8, 64);
    world.put(shard(1), b"contents").unwrap();
    let read = world.ask(ShardOp::Read { id: shard(1) }, Buf::empty());
    let broken = Error::new(ErrorKind::DriveFailed, "EIO");
    world.end_with(0, Err(broken));
    assert_eq!(world.replies[&read].as_ref().unwrap_err().kind(), ErrorKind::DriveFailed);
    assert_eq!(world.get(shard(1)), Ok(b"contents".to_vec()));
}

#[test]
fn a_failed_write_or_sync_fails_the_drive_for_good() {
    for sync in [false, true] {
        let mut world = World::new(8, 64);
        world.put(shard(1), b"durable").unwrap();
        let one = world.ask(write(shard(2), b"two"), Buf::copy_of(b"two"));
        let two = world.ask(write(shard(3), b"three"), Buf::copy_of(b"three"));
        let three = world.ask(ShardOp::Delete { ids: vec![shard(1), shard(2)], until: None }, Buf::empty());
        if sync {
            world.end(0);
        }
        let at = if sync { position(&world, is_sync) } else { 0 };
        let effects = world.end_with(at, Err(Error::new(ErrorKind::DriveFailed, "EIO")));
        let ids: Vec<Token> = effects
            .iter()
            .map(|effect| match effect {
                Effect::Reply { id, outcome: Err(error) } if error.kind() == ErrorKind::DriveFailed => *id,
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(ids, [one, two, three]);
        let failed = Err(ErrorKind::DriveFailed);
        assert_eq!(world.put(shard(4), b"four"), failed);
        assert_eq!(world.get(shard(1)).map(drop), failed);
        assert_eq!(world.call(ShardOp::Stat, Buf::empty()).map(drop).map_err(|error| error.kind()), failed);
        assert_eq!(world.drive.in_flight(), 0, "what was under way has come back");

        // A new drive on the medium has what was answered.
        world.restart();
        assert_eq!(world.get(shard(1)), Ok(b"durable".to_vec()));
    }
}

#[test]
fn gives_up_a_write_that_came_too_late_to_the_medium() {
    let mut world = World::new(8, 64);
    let early = world.ask(write(shard(1), b"x"), Buf::copy_of(b"x"));
    world.settle();
    assert!(world.replies[&early].is_ok());
    world.now = Instant(1000);
    let id = Token(5);
    world.asked.insert(id);
    let payload = Buf::copy_of(b"late");
    let request = Request { payload, ..Request::system(Op::from(write(shard(2), b"late")), Instant(999)) };
    world.event(Event::Request { id, request });
    assert_eq!(world.replies[&id].as_ref().unwrap_err().kind(), ErrorKind::Timeout);
    assert_eq!(world.get(shard(2)), Err(ErrorKind::NotFound));
}

#[test]
fn holds_a_bounded_number_of_requests() {
    let mut world = World::new(8, 64);
    world.start();
    let ids: Vec<Token> = (0..4097).map(|_| world.ask(ShardOp::Read { id: shard(1) }, Buf::empty())).collect();
    let overloaded = world
        .replies
        .values()
        .filter(|outcome| outcome.as_ref().is_err_and(|error| error.kind() == ErrorKind::Overloaded));
    assert_eq!((overloaded.count(), world.replies.len()), (1, 1), "while it starts");
    world.settle();
    assert!(ids.iter().all(|id| world.replies.contains_key(id)));

    world.replies.clear();
    let ids: Vec<Token> = (0..4097).map(|n| world.ask(write(shard(n), b"x"), Buf::copy_of(b"x"))).collect();
    assert_eq!(world.replies.len(), 1, "while it serves");
    assert_eq!(world.replies[&ids[4096]].as_ref().unwrap_err().kind(), ErrorKind::Overloaded);
    assert!(world.jobs.len() <= 64, "{} jobs at once", world.jobs.len());
}

#[test]
fn reads_give_the_payload_where_it_was_read_to() {
    let mut world = World::new(8, 64);
    let payload = bytes(1, 2 * BLOCK);
    world.put(shard(1), &payload).unwrap();
    let (id, effects) = world.ask_for(ShardOp::Read { id: shard(1) }, Buf::empty());
    let at = SLOTS_START + BLOCK as u64;
    assert_eq!(jobs(&effects), [DiskJob::Read { at, len: 3 * BLOCK as u32 }]);
    let record = world.platter.read(at, 3 * BLOCK);
    let memory = record.as_ptr() as usize;
    world.end_with(0, Ok(WorkOutput::Bytes(record)));
    let response = world.replies[&id].as_ref().unwrap();
    assert_eq!((response.payload.as_ptr() as usize, response.payload.is_aligned()), (memory + BLOCK, true));
    assert_eq!(crc32c(&response.payload), crc32c(&payload));
}

#[test]
fn a_read_that_nobody_waits_for_any_more_does_not_use_the_medium() {
    let mut world = World::new(8, 64);
    world.put(shard(1), b"there").unwrap();
    let id = Token(77);
    world.asked.insert(id);
    let op = Op::from(ShardOp::Read { id: shard(1) });
    world.now = Instant(1_000);
    let request = Request { payload: Buf::empty(), ..Request::system(op, Instant(999)) };
    let effects = world.event(Event::Request { id, request });
    assert!(matches!(&effects[..], [Effect::Reply { outcome: Err(error), .. }] if error.kind() == ErrorKind::Timeout));
}
