use std::collections::BTreeMap;

use mesh_core::{Buf, ErrorKind, id::ShardId, op::ShardOp, port::DiskJob};

use super::world::{BLOCK, World, bytes, shard, write};
use crate::drive::{
    Phase,
    catalog::Use,
    format::{SegmentHeader, slot_at},
};

/// Writes shards until the drive is full; gives how many went in.
fn fill(world: &mut World, from: u64, len: usize) -> u64 {
    for n in from.. {
        match world.put(shard(n), &bytes(n, len)) {
            Ok(()) => {}
            Err(ErrorKind::NoSpace) => return n - from,
            Err(other) => panic!("{other:?}"),
        }
        assert!(n < from + 10_000, "the drive is never full");
    }
    unreachable!("the loop ends by itself")
}

fn sequence_max(world: &World) -> u64 {
    let Phase::Serving(serving) = &world.drive.phase else { panic!("{:?}", world.drive.phase) };
    serving.catalog.slots().map(|(_, slot)| slot.seq).max().unwrap_or(0)
}

#[test]
fn a_full_drive_refuses_shards_and_still_reads_and_deletes() {
    let mut world = World::new(12, 16);
    let stored = fill(&mut world, 0, 3 * BLOCK);
    assert_eq!(stored, 3 * 9, "nine of twelve segments, three shards each");
    let (free, shards, corrupt, full) = world.stat();
    assert_eq!((free, shards, corrupt, full), (0, stored, 0, true));
    for n in 0..stored {
        assert_eq!(world.get(shard(n)), Ok(bytes(n, 3 * BLOCK)));
    }
    assert_eq!(world.put(shard(0), &bytes(0, 3 * BLOCK)), Ok(()), "what is there is there");

    // Deletes go through, one by one, and make room.
    for n in (0..stored).step_by(2) {
        assert_eq!(world.delete(&[shard(n)]), Ok(()), "{n}");
    }
    assert!(!world.stat().3);
    let more = fill(&mut world, 1000, 3 * BLOCK);
    assert!(more >= stored / 2 - 3, "{more} of {stored} came back");
    world.restart();
    for n in 0..stored {
        let expected = if n % 2 == 0 { Err(ErrorKind::NotFound) } else { Ok(bytes(n, 3 * BLOCK)) };
        assert_eq!(world.get(shard(n)), expected, "{n}");
    }
    for n in 1000..1000 + more {
        assert_eq!(world.get(shard(n)), Ok(bytes(n, 3 * BLOCK)));
    }
}

#[test]
fn a_drive_that_is_always_nearly_full_lives_on() {
    for len in [100, BLOCK, 3 * BLOCK] {
        let mut world = World::new(16, 16);
        let mut there: BTreeMap<u64, ()> = BTreeMap::new();
        let room = 12 * 14 * BLOCK / (len.div_ceil(BLOCK) + usize::from(len > 3968)) / BLOCK;
        let keep = (room * 3 / 4) as u64;
        for n in 0..500 {
            assert_eq!(world.put(shard(n), &bytes(n, len)), Ok(()), "{n} of {len} bytes");
            there.insert(n, ());
            if n % 97 == 13 {
                world.restart();
            }
            if there.len() as u64 > keep {
                // Now the oldest, now one from the middle.
                let at = if n % 3 == 0 { there.len() / 2 } else { 0 };
                let gone = *there.keys().nth(at).unwrap();
                there.remove(&gone);
                assert_eq!(world.delete(&[shard(gone)]), Ok(()));
            }
        }
        assert!(sequence_max(&world) > 35, "segments are used again and again");
        world.power_cut(|| false);
        let mut listed: Vec<ShardId> = world.list().into_iter().map(|(id, _)| id).collect();
        listed.sort_unstable();
        let mut expected: Vec<ShardId> = there.keys().map(|&n| shard(n)).collect();
        expected.sort_unstable();
        assert_eq!(listed, expected);
        for &n in there.keys() {
            assert_eq!(world.get(shard(n)), Ok(bytes(n, len)));
        }
    }
}

/// Slots that hold a segment.
fn slots_used(world: &World) -> usize {
    let Phase::Serving(serving) = &world.drive.phase else { panic!("{:?}", world.drive.phase) };
    serving.catalog.slots().filter(|(_, slot)| matches!(slot.usage, Use::Open | Use::Sealed)).count()
}

#[test]
fn what_is_stored_and_deleted_leaves_no_segment_behind_nor_does_a_restart() {
    let mut world = World::new(64, 16);
    for round in 0..20 {
        for n in 0..3 {
            // Most die in the segment that they were written to, and their tombstones are there, too.
            let id = shard(round * 3 + n);
            world.put(id, &bytes(n, 2 * BLOCK)).unwrap();
            world.delete(&[id]).unwrap();
        }
        world.settle();
        assert!(slots_used(&world) <= 2, "{} segments hold nothing, round {round}", slots_used(&world));
        world.restart();
        world.settle();
        assert!(slots_used(&world) <= 1, "{} segments hold nothing after restart {round}", slots_used(&world));
        for n in 0..round * 3 + 3 {
            assert_eq!(world.get(shard(n)), Err(ErrorKind::NotFound));
        }
    }
}

#[test]
fn a_slot_is_not_erased_under_a_read() {
    let mut world = World::new(8, 16);
    for n in 0..4 {
        world.put(shard(n), &bytes(n, 3 * BLOCK)).unwrap();
    }
    let read = world.ask(ShardOp::Read { id: shard(0) }, Buf::empty());
    let delete = world.ask(ShardOp::Delete { ids: (0..3).map(shard).collect(), until: None }, Buf::empty());
    // Everything ends but the read.
    while world.jobs.len() > 1 {
        world.end(1);
    }
    assert!(world.replies[&delete].is_ok());
    let used = |world: &World| {
        let Phase::Serving(serving) = &world.drive.phase else { panic!() };
        serving.catalog.slot(0).usage
    };
    assert_eq!(used(&world), Use::Sealed);
    world.end(0);
    assert_eq!(world.replies[&read].as_ref().unwrap().payload[..], bytes(0, 3 * BLOCK)[..]);
    assert_eq!(used(&world), Use::Erasing);
    world.settle();
    assert_eq!(used(&world), Use::Free);
}

#[test]
fn a_freed_slot_is_erased_durably_before_it_is_given_back() {
    let mut world = World::new(8, 16);
    for n in 0..4 {
        world.put(shard(n), &bytes(n, 3 * BLOCK)).unwrap();
    }
    world.ask(ShardOp::Delete { ids: (0..3).map(shard).collect(), until: None }, Buf::empty());
    let mut log = Vec::new();
    while !world.jobs.is_empty() {
        log.push(match &world.jobs[0].job {
            DiskJob::Write { at, .. } if *at == slot_at(0, world.spec.segment_bytes) => "erase",
            DiskJob::Write { .. } => "tombstones",
            DiskJob::Sync => "sync",
            DiskJob::Discard { .. } => "discard",
            DiskJob::Read { .. } => "read",
        });
        world.end(0);
    }
    assert_eq!(log, ["tombstones", "sync", "erase", "sync", "discard"]);
    assert!(SegmentHeader::decode(&world.platter.read(slot_at(0, world.spec.segment_bytes), BLOCK)).is_none());
}

#[test]
fn a_deleted_shard_stays_deleted_while_its_record_is_on_the_medium() {
    let mut world = World::new(10, 16);
    // Slot 0: one shard that dies and two that live, so that its dead record stays where it is.
    for n in 0..3 {
        world.put(shard(n), &bytes(n, 3 * BLOCK)).unwrap();
    }
    world.delete(&[shard(0)]).unwrap();
    // Segments full of tombstones come and go.
    for round in 0..40 {
        for n in 0..3 {
            let id = shard(100 + round * 3 + n);
            world.put(id, &bytes(n, 3 * BLOCK)).unwrap();
            world.delete(&[id]).unwrap();
        }
        world.restart();
        assert_eq!(world.get(shard(0)), Err(ErrorKind::NotFound), "round {round}");
        assert_eq!(world.list().len(), 2);
    }
    // Written again, it is there again.
    world.put(shard(0), &bytes(50, 2 * BLOCK)).unwrap();
    world.restart();
    assert_eq!(world.get(shard(0)), Ok(bytes(50, 2 * BLOCK)));
}

#[test]
fn compaction_leaves_damaged_records_where_they_are_reported() {
    let mut world = World::new(12, 16);
    let stored = fill(&mut world, 0, 3 * BLOCK);
    // Shard 0 is the first of slot 0.
    let rotten = slot_at(0, world.spec.segment_bytes) + 2 * BLOCK as u64;
    world.platter.rot(rotten);
    let gone: Vec<ShardId> = (0..stored).filter(|n| n % 3 == 1).map(shard).collect();
    for id in gone {
        world.delete(&[id]).unwrap();
    }
    fill(&mut world, 1000, 3 * BLOCK);
    assert_eq!(world.get(shard(0)), Err(ErrorKind::Corrupt));
    assert_eq!(world.get(shard(2)), Ok(bytes(2, 3 * BLOCK)));
    assert_eq!(world.stat().2, 1);
    world.restart();
    assert_eq!(world.get(shard(0)), Err(ErrorKind::Corrupt));
    world.delete(&[shard(0)]).unwrap();
    assert_eq!(world.get(shard(0)), Err(ErrorKind::NotFound));
}

#[test]
fn a_medium_without_space_makes_the_drive_full_and_not_failed() {
    let mut world = World::new(24, 16);
    world.put(shard(0), b"opens a segment").unwrap();
    // The file system beneath has room for ten extents, which is 14 segments.
    world.room_extents = Some(10);
    let stored = fill(&mut world, 1, 3 * BLOCK);
    assert!((24..=33).contains(&stored), "{stored}");
    assert!(world.stat().3, "it says that it is full");
    for n in 1..=stored {
        assert_eq!(world.get(shard(n)), Ok(bytes(n, 3 * BLOCK)), "{n}");
    }
    // Deletes find room in the reserve, and what they free can be used again.
    for n in 1..=stored {
        assert_eq!(world.delete(&[shard(n)]), Ok(()), "{n}");
    }
    assert_eq!(world.put(shard(500), &bytes(500, 3 * BLOCK)), Ok(()));
    world.room_extents = None;
    world.restart();
    assert_eq!(world.get(shard(500)), Ok(bytes(500, 3 * BLOCK)));
    assert_eq!(world.list().len(), 2);
}

#[test]
fn a_write_without_space_takes_only_what_lies_behind_it_along() {
    let mut world = World::new(12, 64);
    world.put(shard(1), b"durable").unwrap();
    let ids: Vec<_> =
        (2..6).map(|n| world.ask(write(shard(n), &bytes(n, BLOCK)), Buf::copy_of(&bytes(n, BLOCK)))).collect();
    world.end(0);
    let at = world.jobs.iter().position(|pending| matches!(pending.job, DiskJob::Write { .. })).unwrap();
    world.end_with(at, Err(mesh_core::Error::new(ErrorKind::NoSpace, "ENOSPC")));
    world.settle();
    let outcomes: Vec<_> =
        ids.iter().map(|id| world.replies[id].as_ref().map(drop).map_err(|error| error.kind())).collect();
    let full = Err(ErrorKind::NoSpace);
    assert_eq!(outcomes, [Ok(()), full, full, full]);
    for restart in [false, true] {
        if restart {
            world.restart();
        }
        assert_eq!(world.get(shard(2)), Ok(bytes(2, BLOCK)));
        assert_eq!(world.list().len(), 2);
    }
    assert_eq!(world.put(shard(7), b"after a new start"), Ok(()));
}

#[test]
fn opens_a_segment_only_when_the_one_before_is_durable() {
    let mut world = World::new(8, 16);
    for n in 0..3 {
        world.put(shard(n), &bytes(n, 3 * BLOCK)).unwrap();
    }
    // The first segment has room for two blocks: one more shard goes in, and the other has to wait.
    let segment = u64::from(world.spec.segment_bytes);
    let next = slot_at(1, world.spec.segment_bytes);
    world.ask(write(shard(8), b"last of its segment"), Buf::copy_of(b"last of its segment"));
    world.ask(write(shard(9), &bytes(9, 3 * BLOCK)), Buf::copy_of(&bytes(9, 3 * BLOCK)));
    let opened = |world: &World| {
        world
            .jobs
            .iter()
            .any(|pending| matches!(pending.job, DiskJob::Write { at, .. } if (next..next + segment).contains(&at)))
    };
    assert!(!opened(&world), "the last record is not written");
    world.end(0);
    assert!(!opened(&world), "it is not durable");
    assert!(matches!(world.jobs[..], [ref sync] if sync.job == DiskJob::Sync));
    world.end(0);
    assert!(opened(&world));
    world.settle();
    assert_eq!(world.get(shard(9)), Ok(bytes(9, 3 * BLOCK)));
}

#[test]
fn a_drive_that_was_full_takes_shards_again_once_its_medium_has_room() {
    for failed_in_a_record in [false, true] {
        let mut world = World::new(24, 16);
        world.put(shard(0), b"opens a segment").unwrap();
        if failed_in_a_record {
            let put = world.ask(write(shard(1), &bytes(1, BLOCK)), Buf::copy_of(&bytes(1, BLOCK)));
            world.end_with(0, Err(mesh_core::Error::new(ErrorKind::NoSpace, "ENOSPC")));
            world.settle();
            assert_eq!(world.replies[&put].as_ref().unwrap_err().kind(), ErrorKind::NoSpace);
        } else {
            world.room_extents = Some(10);
            fill(&mut world, 1, 3 * BLOCK);
        }
        assert!(world.stat().3, "it says that it is full");
        if !failed_in_a_record {
            for _ in 0..5 {
                world.wake();
                assert!(world.stat().3, "there is no room yet");
                assert_eq!(world.put(shard(1000), &bytes(1000, 3 * BLOCK)), Err(ErrorKind::NoSpace));
            }
        }
        // Others have made room in the file system; nothing on this drive was deleted.
        world.room_extents = None;
        world.rest();
        assert!(!world.stat().3, "it is not full any more");
        assert_eq!(world.put(shard(1000), &bytes(1000, 3 * BLOCK)), Ok(()));
        assert!(fill(&mut world, 2000, 3 * BLOCK) > 20, "and takes as much as it has room for");
    }
}
