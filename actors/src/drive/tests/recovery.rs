use mesh_core::{
    Buf, ErrorKind, StorageFunction,
    id::Epoch,
    op::ShardOp,
    port::{DiskJob, WorkOutput},
};

use super::world::{BLOCK, World, bytes, shard, write};
use crate::drive::{
    Medium, Phase,
    catalog::Use,
    format::{Kind, Record, SLOTS_START, SegmentHeader, slot_at},
    inspect,
};

/// Where the `n`-th block of a slot is on the medium.
fn block_at(world: &World, slot: u32, n: u64) -> u64 {
    slot_at(slot, world.spec.segment_bytes) + n * BLOCK as u64
}

#[test]
fn what_was_answered_survives_and_what_was_torn_is_cut_off() {
    let mut world = World::new(8, 64);
    for n in 1..=3 {
        world.put(shard(n), &bytes(n, 2 * BLOCK)).unwrap();
    }
    world.ask(write(shard(4), &bytes(4, 2 * BLOCK)), Buf::copy_of(&bytes(4, 2 * BLOCK)));
    world.ask(write(shard(5), &bytes(5, 2 * BLOCK)), Buf::copy_of(&bytes(5, 2 * BLOCK)));
    // Of the first write under way the last block is lost; the second reaches the medium whole.
    let mut blocks = 0;
    world.power_cut(|| {
        blocks += 1;
        blocks != 3
    });
    for n in 1..=3 {
        assert_eq!(world.get(shard(n)), Ok(bytes(n, 2 * BLOCK)));
    }
    for n in 4..=5 {
        assert_eq!(world.get(shard(n)), Err(ErrorKind::NotFound), "nobody was told that {n} is stored");
    }
    assert_eq!(world.stat().2, 0, "a torn write is no damage");

    // Nothing is appended behind the cut, and what was cut off never returns.
    world.put(shard(4), &bytes(4, 2 * BLOCK)).unwrap();
    let second = SegmentHeader::decode(&world.platter.read(block_at(&world, 1, 0), BLOCK)).unwrap();
    assert_eq!(second.seq, 2);
    for _ in 0..2 {
        world.restart();
        assert_eq!(world.get(shard(4)), Ok(bytes(4, 2 * BLOCK)));
        assert_eq!(world.get(shard(5)), Err(ErrorKind::NotFound));
        assert_eq!(world.stat().2, 0);
    }
}

#[test]
fn an_end_record_marks_the_cut() {
    let mut world = World::new(8, 64);
    world.put(shard(1), &bytes(1, 2 * BLOCK)).unwrap();
    world.restart();
    let end = Record::decode(&world.platter.read(block_at(&world, 0, 4), BLOCK)).unwrap();
    assert_eq!((end.kind, end.offset, end.durable_upto), (Kind::End, 4 * BLOCK as u32, 4 * BLOCK as u32));
}

#[test]
fn rot_in_a_segment_that_is_not_closed_is_reported_not_cut_off() {
    let mut world = World::new(8, 64);
    for n in 1..=4 {
        world.put(shard(n), &bytes(n, 2 * BLOCK)).unwrap();
    }
    // In the payload of the second and the header of the third: records behind them say that both were durable.
    world.platter.rot(block_at(&world, 0, 5) + 9);
    world.platter.rot(block_at(&world, 0, 7) + 20);
    world.restart();
    assert_eq!(world.get(shard(1)), Ok(bytes(1, 2 * BLOCK)));
    assert_eq!(world.get(shard(2)), Err(ErrorKind::Corrupt));
    assert_eq!(world.get(shard(3)), Err(ErrorKind::NotFound), "nobody can say whose the record was");
    assert_eq!(world.get(shard(4)), Ok(bytes(4, 2 * BLOCK)), "records behind rot are kept");
    assert_eq!(world.stat().2, 2);
    assert_eq!(world.list().len(), 3);
    world.restart();
    assert_eq!(world.get(shard(2)), Err(ErrorKind::Corrupt));
    assert_eq!(world.get(shard(4)), Ok(bytes(4, 2 * BLOCK)));
}

#[test]
fn a_damaged_last_record_that_no_other_vouches_for_is_taken_for_torn() {
    let mut world = World::new(8, 64);
    world.put(shard(1), &bytes(1, 2 * BLOCK)).unwrap();
    world.put(shard(2), &bytes(2, 2 * BLOCK)).unwrap();
    world.platter.rot(block_at(&world, 0, 5) + 9);
    world.restart();
    assert_eq!(world.get(shard(1)), Ok(bytes(1, 2 * BLOCK)));
    assert_eq!(world.get(shard(2)), Err(ErrorKind::NotFound));
}

#[test]
fn rot_in_a_closed_segment_is_found_by_its_reader_or_by_the_scan() {
    let mut world = World::new(12, 16);
    for n in 1..=6 {
        world.put(shard(n), &bytes(n, 3 * BLOCK)).unwrap();
    }
    // Slot 0 holds shards 1 to 3 and is closed.
    world.platter.rot(block_at(&world, 0, 2));
    world.platter.rot(block_at(&world, 0, 5) + 33);
    world.restart();
    assert_eq!(world.get(shard(1)), Err(ErrorKind::Corrupt));
    assert_eq!(
        world.get(shard(2)),
        Err(ErrorKind::Corrupt),
        "its header rotted, and the contents of the segment name it"
    );
    for n in 3..=6 {
        assert_eq!(world.get(shard(n)), Ok(bytes(n, 3 * BLOCK)));
    }
    assert_eq!(world.stat().2, 2);
}

#[test]
fn a_segment_whose_header_rotted_is_known_by_its_records() {
    let mut world = World::new(12, 16);
    for n in 1..=6 {
        world.put(shard(n), &bytes(n, 3 * BLOCK)).unwrap();
    }
    world.platter.rot(block_at(&world, 0, 0) + 60);
    world.platter.rot(block_at(&world, 1, 0) + 60);
    for _ in 0..2 {
        world.restart();
        for n in 1..=6 {
            assert_eq!(world.get(shard(n)), Ok(bytes(n, 3 * BLOCK)));
        }
        assert_eq!(world.stat().2, 2);
    }
    world.put(shard(7), &bytes(7, 3 * BLOCK)).unwrap();
    world.restart();
    assert_eq!(world.get(shard(7)), Ok(bytes(7, 3 * BLOCK)));
}

#[test]
fn a_payload_that_looks_like_a_record_is_only_a_payload() {
    let mut world = World::new(8, 64);
    // A record of this very place, but for the salt, which nobody outside can know.
    let mut forged = vec![0; 3 * BLOCK];
    let victim = Record {
        kind: Kind::Shard,
        seq: 1,
        salt: 0,
        offset: 3 * BLOCK as u32,
        durable_upto: 60 * BLOCK as u32,
        shard: crate::drive::recover::empty(shard(9)),
    };
    victim.encode(&mut forged[BLOCK..2 * BLOCK]);
    world.put(shard(1), &forged).unwrap();
    world.put(shard(2), b"x").unwrap();
    world.platter.rot(block_at(&world, 0, 1) + 20);
    world.restart();
    assert_eq!(world.list(), [(shard(2), 1)]);
}

#[test]
fn a_new_owner_fences_the_old_one_before_it_reads_anything() {
    let mut world = World::new(8, 64);
    world.put(shard(1), b"first owner").unwrap();
    world.spec.epoch = Epoch(6);
    world.start();
    let parked = world.ask(ShardOp::Read { id: shard(1) }, Buf::empty());
    let mut log = Vec::new();
    while !matches!(world.drive.phase, Phase::Serving(_)) {
        log.push(match &world.jobs[0].job {
            DiskJob::Write { at, .. } => format!("write {at}"),
            DiskJob::Read { at, .. } if *at < SLOTS_START => "look".into(),
            DiskJob::Read { .. } => "scan".into(),
            DiskJob::Sync => "sync".into(),
            DiskJob::Discard { .. } => "discard".into(),
        });
        world.end(0);
    }
    log.dedup();
    let end = block_at(&world, 0, 2);
    let expected =
        ["look", "write 32768", "sync", "write 0", "sync", "scan", "sync", &format!("write {end}")].map(String::from);
    assert_eq!(log, expected);
    world.settle();
    assert_eq!(world.replies[&parked].as_ref().unwrap().payload[..], *b"first owner");

    world.put(shard(2), b"second owner").unwrap();
    let header = SegmentHeader::decode(&world.platter.read(block_at(&world, 1, 0), BLOCK)).unwrap();
    assert_eq!((header.epoch, header.seq), (Epoch(6), 2));
    world.spec.epoch = Epoch(5);
    world.restart();
    assert_eq!(world.get(shard(1)), Err(ErrorKind::Fenced));
}

#[test]
fn the_superblock_is_never_lost_while_it_is_rewritten() {
    for cut in 0..6 {
        for survives in [false, true] {
            let mut world = World::new(8, 64);
            world.put(shard(1), b"kept").unwrap();
            world.spec.epoch = Epoch(7);
            world.start();
            for _ in 0..cut {
                world.end(0);
            }
            // A torn block fails its checksum: worse than not written.
            for pending in &mut world.jobs {
                if let DiskJob::Write { bufs, .. } = &mut pending.job {
                    let bytes = bufs[0].make_mut();
                    bytes[100] ^= u8::from(survives);
                }
            }
            world.power_cut(|| survives);
            assert_eq!(world.get(shard(1)), Ok(b"kept".to_vec()), "cut after {cut} steps");
            let area = world.platter.read(0, 64 << 10);
            let Medium::Ours { epoch, .. } = inspect(&area, world.spec.cluster) else { panic!() };
            assert_eq!(epoch, Epoch(7));
        }
    }
}

#[test]
fn a_start_reads_little_at_once_and_writes_nothing_that_is_not_needed() {
    let mut world = World::new(64, 1024);
    for n in 0..300 {
        world.put(shard(n), &bytes(n, 40 * BLOCK)).unwrap();
    }
    world.restart();
    world.start();
    let mut read_bytes = 0;
    while !matches!(world.drive.phase, Phase::Serving(_)) {
        assert!(world.jobs.len() <= 8);
        for pending in &world.jobs {
            match pending.job {
                DiskJob::Read { len, .. } => assert!(len <= 1 << 20),
                DiskJob::Sync => {}
                ref other => panic!("a medium that was closed in order needs no {other:?}"),
            }
        }
        if let DiskJob::Read { len, .. } = world.jobs[0].job {
            read_bytes += u64::from(len);
        }
        world.end(0);
    }
    let stored = 300 * 41 * BLOCK as u64;
    assert!(read_bytes < stored / 2, "closed segments are read by their headers: {read_bytes} of {stored}");
    world.settle();
    assert_eq!(world.list().len(), 300);
}

#[test]
fn a_start_that_cannot_read_says_so_and_guesses_nothing() {
    let mut world = World::new(8, 64);
    world.put(shard(1), b"x").unwrap();
    let written = world.writes;
    world.unreadable = 0..SLOTS_START;
    world.start();
    let parked = world.ask(ShardOp::Read { id: shard(1) }, Buf::empty());
    world.settle();
    let error = world.replies[&parked].as_ref().expect_err("nobody knows what stands there");
    assert_eq!(error.kind(), ErrorKind::DriveFailed);
    assert!(error.to_string().contains("unreadable_blocks"), "{error}");
    assert_eq!((world.writes, world.drive.in_flight()), (written, 0));
    // A read that failed once is tried again.
    world.unreadable = 0..0;
    world.start();
    world.end_with(0, Err(mesh_core::Error::new(ErrorKind::DriveFailed, "EIO")));
    world.settle();
    assert_eq!(world.get(shard(1)), Ok(b"x".to_vec()));
}

#[test]
fn a_medium_that_grew_is_used_and_a_smaller_setting_loses_nothing() {
    let mut world = World::new(8, 16);
    for n in 0..9 {
        world.put(shard(n), &bytes(n, 3 * BLOCK)).unwrap();
    }
    world.geometry.capacity_bytes += 8 * u64::from(world.spec.segment_bytes);
    world.restart();
    let room = world.stat().0;
    world.spec.capacity_bytes = 6 * u64::from(world.spec.segment_bytes);
    world.restart();
    assert_eq!(world.stat().0, room, "segments that were in use stay in use");
    for n in 0..9 {
        assert_eq!(world.get(shard(n)), Ok(bytes(n, 3 * BLOCK)));
    }
}

#[test]
fn remains_of_a_former_life_are_not_read() {
    let mut world = World::new(8, 64);
    world.put(shard(1), b"of the old life").unwrap();
    // Somebody wiped the superblocks, and the node formats the medium for the same drive again.
    world.spec.epoch = Epoch(8);
    let area = crate::drive::superblock(&world.spec);
    world.platter.write(0, &area);
    world.restart();
    assert_eq!(world.list(), []);
    world.put(shard(2), b"of the new life").unwrap();
    world.power_cut(|| true);
    assert_eq!(world.list(), [(shard(2), 15)]);
}

#[test]
fn prepares_its_reserve_before_it_takes_shards() {
    let world = World::new(8, 64);
    let Phase::Serving(serving) = &world.drive.phase else { panic!() };
    let uses: Vec<Use> = serving.catalog.slots().map(|(_, slot)| slot.usage).collect();
    assert_eq!(uses, [[Use::Free; 5].as_slice(), &[Use::Virgin; 3]].concat());
}

#[test]
fn ends_of_jobs_nobody_knows_are_ignored() {
    let mut world = World::new(8, 64);
    world.event(mesh_core::Event::Done { work: mesh_core::id::Token(77), outcome: Ok(WorkOutput::Done) });
    world.event(mesh_core::Event::Wake);
    assert_eq!(world.put(shard(1), b"x"), Ok(()));
}

/// A drive with three segments and something in each, at rest.
fn three_segments() -> World {
    let mut world = World::new(12, 16);
    for n in 0..9 {
        world.put(shard(n), &bytes(n, 3 * BLOCK)).unwrap();
    }
    world.rest();
    assert_eq!((world.stat().2, world.gone()), (0, 0));
    world.power_cut(|| false);
    assert_eq!((world.stat().2, world.gone(), world.list().len()), (0, 0, 9), "whole after a power cut");
    world
}

/// Zeros from one block of a slot to the end of another.
fn empty(world: &mut World, from: (u32, u64), to: u32) {
    let (start, end) = (block_at(world, from.0, from.1), block_at(world, to + 1, 0));
    world.platter.write(start, &vec![0; (end - start) as usize]);
    world.platter.power_cut(|| true);
}

#[test]
fn an_emptied_medium_is_recognised_and_said_ever_after() {
    let mut world = three_segments();
    empty(&mut world, (0, 0), 11);
    for _ in 0..3 {
        world.restart();
        let gone = world.gone();
        assert!(gone >= 3, "three segments and the slots made ready are gone: {gone}");
        world.rest();
    }
    assert_eq!(world.get(shard(0)), Err(ErrorKind::NotFound));
    world.put(shard(100), b"it works on").unwrap();
    let gone = world.gone();
    world.rest();
    world.restart();
    assert_eq!((world.gone(), world.get(shard(100))), (gone, Ok(b"it works on".to_vec())));
}

#[test]
fn a_medium_with_fewer_segments_than_it_had_is_recognised() {
    let mut world = three_segments();
    empty(&mut world, (1, 0), 1);
    world.restart();
    assert_eq!((world.gone(), world.list().len()), (1, 6));
}

#[test]
fn a_segment_that_was_shortened_is_recognised_by_the_one_after() {
    for slot in [0, 1] {
        let mut world = three_segments();
        // Its first shard is left, the others and END are not.
        empty(&mut world, (slot, 5), slot);
        for _ in 0..2 {
            world.restart();
            assert_eq!((world.list().len(), world.stat().2 > 0), (7, true), "slot {slot}");
        }
    }
}

#[test]
fn rot_in_the_last_record_is_reported_once_the_drive_was_at_rest() {
    let mut world = World::new(8, 64);
    world.put(shard(1), &bytes(1, 2 * BLOCK)).unwrap();
    world.put(shard(2), &bytes(2, 2 * BLOCK)).unwrap();
    world.rest();
    // The payload of the last record.
    let rotten = block_at(&world, 0, 5);
    world.platter.rot(rotten);
    world.restart();
    assert_eq!(world.stat().2, 1);
    assert_eq!(world.get(shard(2)), Err(ErrorKind::Corrupt), "it was answered, so it is not cut off in silence");
    assert_eq!(world.get(shard(1)), Ok(bytes(1, 2 * BLOCK)));
}

#[test]
fn a_drive_at_rest_writes_nothing_more() {
    let mut world = World::new(8, 64);
    world.put(shard(1), &bytes(1, 2 * BLOCK)).unwrap();
    world.rest();
    let writes = world.writes;
    world.event(mesh_core::Event::Wake);
    world.settle();
    assert_eq!((world.writes, world.drive.wake_at()), (writes, None));
}

#[test]
fn a_rotten_header_in_a_used_slot_brings_no_deleted_shard_back() {
    let mut world = World::new(8, 16);
    for n in 0..3 {
        world.put(shard(n), &bytes(n, 3 * BLOCK)).unwrap();
    }
    // The segment is closed by what comes next, dies, and its slot is erased.
    world.put(shard(9), &bytes(9, 3 * BLOCK)).unwrap();
    world.delete(&[shard(0), shard(1), shard(2)]).unwrap();
    let Phase::Serving(serving) = &world.drive.phase else { panic!("{:?}", world.drive.phase) };
    assert_eq!(serving.catalog.slot(0).usage, Use::Free);
    let first = block_at(&world, 0, 0);
    world.platter.rot(first + 8);
    world.restart();
    for n in 0..3 {
        assert_eq!(world.get(shard(n)), Err(ErrorKind::NotFound), "{n}");
    }
    assert_eq!(world.get(shard(9)), Ok(bytes(9, 3 * BLOCK)));
}
