//! Reading back: what is damaged is found wherever it is, and once it is written again nothing of it is left.

use std::collections::BTreeMap;

use mesh_core::{
    Answer, Buf, Error, ErrorKind, Event, StorageFunction as _,
    id::{GroupId, ShardId},
    op::{ScrubState, ShardOp},
    port::DiskJob,
};
use proptest::prelude::*;

use super::world::{BLOCK, World, bytes, shard, write};
use crate::drive::{
    Phase,
    catalog::Use,
    format::{Copy, Superblock, is_free, slot_at},
    medium::COPIES,
};

/// How a drive says that it is.
#[derive(Debug, PartialEq, Eq)]
struct Said {
    shards: u64,
    corrupt: u64,
    damaged: u64,
    scrub: ScrubState,
}

fn said(world: &mut World) -> Said {
    match world.call(ShardOp::Stat, Buf::empty()).map(|response| response.answer) {
        Ok(Answer::Drive { shards, corrupt, damaged, scrub, .. }) => Said { shards, corrupt, damaged, scrub },
        other => panic!("{other:?}"),
    }
}

/// A round that somebody asks for, to its end.
fn scrub(world: &mut World) {
    world.call(ShardOp::Scrub { rate: 1 << 30 }, Buf::empty()).expect("it is begun");
    for _ in 0..10_000 {
        if !said(world).scrub.asked {
            return;
        }
        world.wake();
    }
    panic!("the round never ends");
}

fn damaged(world: &mut World, after: Option<ShardId>, limit: u32) -> (Vec<ShardId>, bool) {
    let op = ShardOp::Damaged { group: shard(0).stripe.write.group(), after, limit };
    match world.call(op, Buf::empty()).map(|response| response.answer) {
        Ok(Answer::Shards { page, more, .. }) => {
            assert!(page.iter().all(|(_, len)| *len == 0));
            (page.into_iter().map(|(id, _)| id).collect(), more)
        }
        other => panic!("{other:?}"),
    }
}

fn contents(n: u64) -> Vec<u8> {
    bytes(n, [10, 3000, BLOCK, BLOCK + 1, 3 * BLOCK - 7][n as usize % 5])
}

/// Some segments that are closed, one that is open, deleted shards with their tombstones, and a slot that was erased.
fn filled() -> (World, BTreeMap<u64, Vec<u8>>) {
    let mut world = World::new(20, 16);
    for n in 0..40 {
        world.put(shard(n), &contents(n)).expect("it is written");
    }
    let deleted = |n: &u64| *n < 8 || n.is_multiple_of(5);
    let ids: Vec<ShardId> = (0..40).filter(deleted).map(shard).collect();
    world.delete(&ids).expect("they are deleted");
    world.rest();
    let shards = (0..40).filter(|n| !deleted(n)).map(|n| (n, contents(n))).collect();
    (world, shards)
}

/// Writes again what is named, as a keeper does.
fn heal(world: &mut World) -> usize {
    let (ids, more) = damaged(world, None, 1024);
    assert!(!more);
    for id in &ids {
        world.put(*id, &contents(id.stripe.write.0)).expect("what is damaged may be written again");
    }
    ids.len()
}

#[test]
fn what_is_damaged_is_named_until_it_is_written_again() {
    let (mut world, shards) = filled();
    scrub(&mut world);
    assert_eq!((damaged(&mut world, None, 9), said(&mut world).corrupt), ((vec![], false), 0));

    // In every record, whatever stands where: the last bit of each payload.
    let places: Vec<u64> = world.platter.now.keys().copied().filter(|block| *block >= 16).collect();
    let ids: Vec<ShardId> = {
        let mut ids: Vec<ShardId> = shards.keys().map(|n| shard(*n)).collect();
        ids.sort_unstable();
        ids
    };
    for block in places {
        let bytes = world.platter.read(block * BLOCK as u64, BLOCK);
        if &bytes[..4] == b"MREC" && bytes[8] == 1 {
            let inline = u32::from_le_bytes([bytes[80], bytes[81], bytes[82], bytes[83]]) == 128;
            world.platter.rot(block * BLOCK as u64 + if inline { 130 } else { BLOCK as u64 });
        }
    }
    scrub(&mut world);
    assert_eq!(damaged(&mut world, None, 1024), (ids.clone(), false), "every shard that there is, and no other");
    assert_eq!(damaged(&mut world, Some(ids[2]), 3), (ids[3..6].to_vec(), true), "page by page");
    let other = ShardOp::Damaged { group: GroupId(77), after: None, limit: 9 };
    let Ok(Answer::Shards { page, more: false, .. }) = world.call(other, Buf::empty()).map(|said| said.answer) else {
        panic!("it is asked for another group's")
    };
    assert_eq!(page, []);
    assert_eq!(said(&mut world).damaged, ids.len() as u64);
    for id in &ids {
        assert_eq!(world.get(*id), Err(ErrorKind::Corrupt), "it is never given");
    }

    assert_eq!(heal(&mut world), ids.len());
    scrub(&mut world);
    assert_eq!((said(&mut world).damaged, damaged(&mut world, None, 9)), (0, (vec![], false)));
    for (n, contents) in &shards {
        assert_eq!(world.get(shard(*n)), Ok(contents.clone()));
    }
}

/// A drive's own clock: a round takes as long as is asked, and the next goes on where a start interrupted it.
#[test]
fn a_round_takes_its_time_and_goes_on_after_a_start() {
    let (mut world, _) = filled();
    world.spec.scrub_every_ms = 1_000_000;
    world.restart();
    let begun = world.now;
    let mut ends = Vec::new();
    let mut restarts = Vec::new();
    while ends.len() < 3 {
        world.rest_for(10_000);
        let Said { scrub, corrupt: 0, .. } = said(&mut world) else { panic!("something is damaged") };
        if ends.last() != Some(&scrub.ended) && scrub.ended.0 > 0 {
            ends.push(scrub.ended);
        }
        if ends.len() == 1 && restarts.is_empty() && scrub.at > 5 {
            // It is said once in a minute how far it is.
            world.rest_for(70_000);
            let before = said(&mut world).scrub;
            world.restart();
            restarts.push((before, said(&mut world).scrub));
        }
    }
    let took = world.now.since(begun).as_millis() as u64;
    assert!((2_700_000..3_300_000).contains(&took), "three rounds took {took} ms");
    let (before, after) = restarts[0];
    assert!(after.at > 5 && after.at <= before.at && after.ended == ends[0], "{before:?} {after:?}");
    assert_eq!((after.of, after.asked), (20, false));
}

#[test]
fn what_cannot_be_read_is_damaged_and_its_segment_is_given_up() {
    let (mut world, shards) = filled();
    // The medium fails in the middle of the first record of some closed segment, whenever that is read.
    let slot_bytes = 16 * BLOCK as u64;
    let bad = (64 << 10) + 2 * slot_bytes + 2 * BLOCK as u64;
    world.unreadable = Some(bad);
    scrub(&mut world);
    let (ids, _) = damaged(&mut world, None, 1024);
    assert_eq!(ids.len(), 1, "one record covers the place, and the others can be read: {ids:?}");
    assert_eq!(world.get(ids[0]), Err(ErrorKind::DriveFailed));
    assert_eq!(heal(&mut world), 1);
    world.rest();
    assert!(world.stat().2 >= 2, "the shard and its segment are counted");
    // Nothing that counts stands there now, so nothing is read there any more.
    scrub(&mut world);
    assert_eq!(damaged(&mut world, None, 9), (vec![], false));
    for (n, contents) in &shards {
        assert_eq!(world.get(shard(*n)), Ok(contents.clone()));
    }
}

#[test]
fn a_read_that_finds_damage_names_it() {
    let mut world = World::new(20, 16);
    world.put(shard(3), &contents(3)).expect("it is written");
    world.unreadable = Some((64 << 10) + BLOCK as u64);
    assert_eq!(world.get(shard(3)), Err(ErrorKind::DriveFailed));
    assert_eq!(damaged(&mut world, None, 9).0, [shard(3)]);
    world.unreadable = None;
    assert_eq!(world.get(shard(3)), Ok(contents(3)), "it was the cable");
    assert_eq!(damaged(&mut world, None, 9).0, []);
}

/// While a shard is written anew, or deleted, it is not named.
#[test]
fn what_is_being_written_anew_is_not_named() {
    let mut world = World::new(20, 16);
    world.put(shard(3), &contents(3)).expect("it is written");
    world.platter.rot((64 << 10) + 2 * BLOCK as u64 + 5);
    scrub(&mut world);
    assert_eq!(damaged(&mut world, None, 9).0, [shard(3)]);
    let payload = contents(3);
    world.ask(write(shard(3), &payload), Buf::copy_of(&payload));
    let asked =
        world.ask(ShardOp::Damaged { group: shard(3).stripe.write.group(), after: None, limit: 9 }, Buf::empty());
    let answer = world.replies.remove(&asked).expect("it is answered at once").map(|response| response.answer);
    assert!(matches!(&answer, Ok(Answer::Shards { page, .. }) if page.is_empty()), "{answer:?}");
    world.settle();
    assert_eq!(said(&mut world).damaged, 0);
}

#[test]
fn a_copy_of_the_superblock_is_written_again() {
    for copy in COPIES {
        let (mut world, _) = filled();
        let is_good = |world: &World| {
            let block = world.platter.read(copy, BLOCK);
            matches!(Superblock::decode(&block), Copy::Good(_))
        };
        world.platter.rot(copy + 40);
        assert!(!is_good(&world));
        scrub(&mut world);
        world.rest();
        assert!(is_good(&world) && said(&mut world).corrupt == 1);
    }
    // Both, while the drive still knows.
    let (mut world, _) = filled();
    for copy in COPIES {
        world.platter.rot(copy + 40);
    }
    scrub(&mut world);
    world.rest();
    world.power_cut(|| false);
    assert_eq!(said(&mut world).corrupt, 0);
}

#[test]
fn a_free_slot_is_marked_again() {
    let (mut world, _) = filled();
    let free = |world: &World| {
        let Phase::Serving(serving) = &world.drive.phase else { panic!("it serves") };
        let free = serving.catalog.slots().find(|(_, slot)| slot.usage == Use::Free);
        (free.map(|(slot, _)| slot_at(slot, 16 * BLOCK as u32)).expect("a free slot"), serving.superblock.identity)
    };
    let (at, identity) = free(&world);
    for mark in [at, at + BLOCK as u64] {
        world.platter.rot(mark + 20);
        assert!(!is_free(&identity, &world.platter.read(mark, BLOCK)));
        scrub(&mut world);
        world.rest();
        assert!(is_free(&identity, &world.platter.read(mark, BLOCK)), "{mark}");
    }
    assert_eq!(said(&mut world).corrupt, 2);
}

#[test]
fn a_segment_that_is_erased_under_the_look_is_left() {
    let (mut world, shards) = filled();
    // So slowly that every read is one by itself.
    world.call(ShardOp::Scrub { rate: 1 }, Buf::empty()).expect("it is begun");
    let slot_bytes = 16 * BLOCK as u64;
    let slot = loop {
        world.now = world.now.max(world.drive.wake_at().expect("it goes on"));
        world.event(Event::Wake);
        match world.jobs.first().map(|pending| &pending.job) {
            Some(DiskJob::Read { at, len }) if *len > 2 * BLOCK as u32 && *at >= 64 << 10 => {
                break (*at - (64 << 10)) / slot_bytes;
            }
            _ => world.settle(),
        }
    };
    let settle = |world: &mut World| {
        while world.jobs.len() > 1 {
            world.end(1);
        }
    };
    let ids: Vec<ShardId> = shards.keys().map(|n| shard(*n)).collect();
    world.ask(ShardOp::Delete { ids, until: None }, Buf::empty());
    settle(&mut world);
    for n in 100..160 {
        world.ask(write(shard(n), &contents(n)), Buf::copy_of(&contents(n)));
        settle(&mut world);
    }
    let Phase::Serving(serving) = &world.drive.phase else { panic!("it serves") };
    assert!(serving.catalog.slot(slot as u32).records.len() > 2, "the slot is in use again");
    world.settle();
    assert_eq!(damaged(&mut world, None, 9), (vec![], false));
    assert_eq!(said(&mut world).corrupt, 0);
}

fn flips() -> impl Strategy<Value = Vec<(u16, u16, u8)>> {
    proptest::collection::vec((any::<u16>(), 0..BLOCK as u16, 0..8u8), 1..6)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Bits flip anywhere on the medium while the drive serves. After a round, and what is named written again, a start
    /// finds everything as it is to be, and no damage.
    #[test]
    fn bits_that_flip_anywhere_leave_no_trace(flips in flips()) {
        let (mut world, shards) = filled();
        let places: Vec<u64> = world.platter.now.keys().copied().collect();
        for (place, byte, bit) in flips {
            let at = places[usize::from(place) % places.len()] * BLOCK as u64 + u64::from(byte);
            world.platter.flip(at, bit);
        }
        scrub(&mut world);
        heal(&mut world);
        world.rest();
        world.power_cut(|| false);
        let Said { shards: count, corrupt, damaged, .. } = said(&mut world);
        prop_assert_eq!((count, corrupt, damaged), (shards.len() as u64, 0, 0));
        for n in 0..40 {
            let wanted = shards.get(&n).cloned().ok_or(ErrorKind::NotFound);
            prop_assert_eq!(world.get(shard(n)), wanted, "{}", n);
        }
    }
}

/// Reads of a place that cannot be read fail.
pub(super) fn unreadable(job: &DiskJob, place: Option<u64>) -> Option<Error> {
    let DiskJob::Read { at, len } = job else { return None };
    let covers = place.is_some_and(|place| (*at..*at + u64::from(*len)).contains(&place));
    covers.then(|| Error::new(ErrorKind::DriveFailed, "the medium cannot be read there"))
}
