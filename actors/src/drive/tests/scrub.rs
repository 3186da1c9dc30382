//! Reading back: what is damaged is found wherever it is, and once it is written again nothing of it is left.

use std::collections::BTreeMap;

use mesh_core::{
    Answer, Buf, ErrorKind, Event, StorageFunction as _,
    id::{Epoch, GroupId, ShardId},
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
    world.unreadable = bad..bad + BLOCK as u64;
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

/// One place, whichever it is, cannot be read. After a round, and what is named written again, a start takes nothing amiss.
#[test]
fn any_one_place_that_cannot_be_read_costs_no_start_and_no_shard() {
    let places: Vec<u64> = filled().0.platter.now.keys().copied().collect();
    assert!(places.len() > 80);
    for place in places {
        let (mut world, shards) = filled();
        let at = place * BLOCK as u64;
        world.unreadable = at..at + BLOCK as u64;
        scrub(&mut world);
        heal(&mut world);
        world.rest();
        world.power_cut(|| false);
        assert_eq!(said(&mut world).damaged, 0, "block {place}");
        for n in 0..40 {
            let wanted = shards.get(&n).cloned().ok_or(ErrorKind::NotFound);
            assert_eq!(world.get(shard(n)), wanted, "block {place}, shard {n}");
        }
    }
}

/// Nobody has read it back, and the drive starts all the same: of what it had it lacks one shard at most.
#[test]
fn a_start_finds_all_but_what_cannot_be_read() {
    let places: Vec<u64> = filled().0.platter.now.keys().copied().collect();
    for place in places {
        let (mut world, shards) = filled();
        let at = place * BLOCK as u64;
        world.unreadable = at..at + BLOCK as u64;
        world.power_cut(|| false);
        let wrong = shards.iter().filter(|(n, contents)| world.get(shard(**n)).as_ref() != Ok(contents)).count();
        assert!(wrong <= 1, "block {place}: {wrong}");
        // Nobody can tell any more that it had been deleted, if it was.
        assert!(said(&mut world).shards + 1 >= shards.len() as u64, "block {place}");
    }
}

#[test]
fn a_medium_of_which_much_cannot_be_read_is_not_served_as_if_it_were_empty() {
    let mut world = World::new(40, 16);
    for n in 0..120 {
        world.put(shard(n), &contents(n)).expect("it is written");
    }
    world.unreadable = 64 << 10..world.geometry.capacity_bytes;
    world.power_cut(|| false);
    let Phase::Refusing(error, _) = &world.drive.phase else { panic!("{:?}", world.drive.phase) };
    assert!(error.to_string().contains("too much of the medium cannot be read"), "{error}");
    world.settle();
    assert_eq!(world.get(shard(3)), Err(ErrorKind::DriveFailed));
}

/// A segment of which a shard is damaged may have to stay, and a shard that was deleted in it must stay deleted.
#[test]
fn a_tombstone_that_rots_beside_what_it_deletes_is_written_elsewhere() {
    let mut world = World::new(20, 16);
    world.put(shard(1), &contents(1)).expect("it is written");
    world.put(shard(4), &contents(4)).expect("it is written");
    world.delete(&[shard(1)]).expect("it is deleted");
    for n in 10..20 {
        world.put(shard(n), &contents(n)).expect("it is written");
    }
    let Phase::Serving(serving) = &world.drive.phase else { panic!("it serves") };
    let first = serving.catalog.slot(0);
    assert!(first.usage == Use::Sealed && first.tombstones == [shard(1)] && first.records[0].id() == shard(1));
    // Header, the record that is deleted, that of the other shard, the tombstone.
    let place = |block: u32| (64 << 10) + u64::from(block) * BLOCK as u64;
    let bad = first.records[1].block();
    let tombstone = bad + crate::drive::format::span(contents(4).len() as u32) / BLOCK as u32;
    world.platter.rot(place(bad + 1) + 9);
    world.platter.rot(place(tombstone) + 20);
    scrub(&mut world);
    world.rest();
    assert_eq!(damaged(&mut world, None, 9).0, [shard(4)]);
    world.power_cut(|| false);
    assert_eq!(world.get(shard(1)), Err(ErrorKind::NotFound));
    // Its segment is still there.
    scrub(&mut world);
    world.rest();
    assert_eq!(damaged(&mut world, None, 9).0, [shard(4)]);
    assert_eq!(world.get(shard(1)), Err(ErrorKind::NotFound));
}

/// Of an older build, of a start that closed the segment, or rotten.
#[test]
fn contents_that_are_missing_are_written_by_the_scrub() {
    let mut world = World::new(20, 16);
    for n in 0..14 {
        world.put(shard(n), &contents(n)).expect("it is written");
    }
    world.delete(&[shard(3)]).expect("it is deleted");
    for n in 14..28 {
        world.put(shard(n), &contents(n)).expect("it is written");
    }
    world.rest();
    let listed = |world: &World| {
        let Phase::Serving(serving) = &world.drive.phase else { panic!("it serves") };
        let closed = serving.catalog.slots().filter(|(_, slot)| slot.usage == Use::Sealed);
        closed.map(|(at, slot)| (at, slot.is_listed)).collect::<Vec<_>>()
    };
    // Not all have room for it.
    let closed: Vec<u32> = listed(&world).into_iter().filter(|(_, is_listed)| *is_listed).map(|(at, _)| at).collect();
    assert!(closed.len() > 1, "{:?}", listed(&world));
    for at in &closed {
        world.platter.write(slot_at(at + 1, 16 * BLOCK as u32) - BLOCK as u64, &[0; BLOCK]);
    }
    let before = world.list();
    world.restart();
    let none = |world: &World| listed(world).iter().filter(|(at, is_listed)| closed.contains(at) && *is_listed).count();
    assert_eq!(none(&world), 0);
    scrub(&mut world);
    world.rest();
    world.restart();
    assert_eq!((none(&world), world.list()), (closed.len(), before));
    assert_eq!(world.get(shard(3)), Err(ErrorKind::NotFound));
}

#[test]
fn what_is_damaged_on_a_full_drive_is_written_again() {
    let mut world = World::new(12, 16);
    let stored = (0..).find(|n| world.put(shard(*n), &contents(4)).is_err()).expect("it is full some time");
    assert!(world.stat().3);
    for n in [2, stored - 2] {
        let Phase::Serving(serving) = &world.drive.phase else { panic!("it serves") };
        let live = serving.catalog.live(shard(n)).expect("it is there");
        world.platter.rot(slot_at(live.slot, 16 * BLOCK as u32) + (u64::from(live.block) + 1) * BLOCK as u64);
    }
    scrub(&mut world);
    let mut ids = damaged(&mut world, None, 9).0;
    ids.sort();
    let mut wanted = [shard(2), shard(stored - 2)];
    wanted.sort();
    assert_eq!(ids, wanted);
    for id in ids {
        assert_eq!(world.put(id, &contents(4)), Ok(()), "{id:?}");
    }
    world.rest_for(10_000);
    assert_eq!(
        world.put(shard(9_999), &contents(4)),
        Err(ErrorKind::NoSpace),
        "nobody else gets what is kept for that"
    );
    for _ in 0..2 {
        assert!((0..stored).all(|n| world.get(shard(n)) == Ok(contents(4))));
        assert_eq!(said(&mut world).damaged, 0);
        world.power_cut(|| false);
    }
}

#[test]
fn a_superblock_of_a_newer_owner_ends_this_one() {
    let (mut world, _) = filled();
    let Copy::Good(old) = Superblock::decode(&world.platter.read(COPIES[1], BLOCK)) else { panic!("it is good") };
    let mut block = vec![0; BLOCK];
    Superblock { epoch: Epoch(old.epoch.0 + 1), ..old }.encode(&mut block);
    world.platter.write(COPIES[1], &block);
    world.call(ShardOp::Scrub { rate: 1 << 30 }, Buf::empty()).expect("it is begun");
    assert!(matches!(&world.drive.phase, Phase::Refusing(..)), "{:?}", world.drive.phase);
    assert_eq!(world.put(shard(3), &contents(3)), Err(ErrorKind::DriveFailed));
}

#[test]
fn a_read_that_finds_damage_names_it() {
    let mut world = World::new(20, 16);
    world.put(shard(3), &contents(3)).expect("it is written");
    world.unreadable = (64 << 10) + BLOCK as u64..(64 << 10) + 2 * BLOCK as u64;
    assert_eq!(world.get(shard(3)), Err(ErrorKind::DriveFailed));
    assert_eq!(damaged(&mut world, None, 9).0, [shard(3)]);
    world.unreadable = 0..0;
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
    // Those that were erased before a start are looked at, too.
    world.power_cut(|| false);
    let Phase::Serving(serving) = &world.drive.phase else { panic!("it serves") };
    let slots = serving.catalog.slots().filter(|(_, slot)| slot.usage == Use::Virgin && slot.is_marked);
    let at: Vec<u64> = slots.map(|(slot, _)| slot_at(slot, 16 * BLOCK as u32)).collect();
    for at in &at {
        world.platter.rot(at + 20);
    }
    scrub(&mut world);
    world.rest();
    assert!(!at.is_empty() && at.iter().all(|at| is_free(&identity, &world.platter.read(*at, BLOCK))), "{at:?}");
    assert_eq!(said(&mut world).corrupt, at.len() as u64);
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
