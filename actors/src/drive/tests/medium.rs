use mesh_core::{
    Buf, ErrorKind,
    id::{ClusterId, DriveId, Epoch},
    op::ShardOp,
};
use proptest::prelude::*;

use super::world::{BLOCK, World, shard, spec};
use crate::drive::{
    FORMAT_VERSION, INSPECT_BYTES, Medium,
    format::{Record, SUPERBLOCK_B, SegmentHeader, Superblock, decode_tombstones},
    inspect, superblock,
};
use mesh_core::wire::crc32c;

const CLUSTER: ClusterId = ClusterId([7; 16]);

fn ours(epoch: u64) -> Medium {
    Medium::Ours { drive: DriveId(3), epoch: Epoch(epoch), born: Epoch(5), segment_bytes: 64 << 10, segments: 0 }
}

/// A superblock of a version of the future, with a good checksum.
fn newer(area: &mut [u8], at: usize) {
    let block = &mut area[at..at + BLOCK];
    block[12..14].copy_from_slice(&(FORMAT_VERSION + 1).to_le_bytes());
    let sum = crc32c(&block[12..512]);
    block[8..12].copy_from_slice(&sum.to_le_bytes());
}

#[test]
fn tells_media_apart() {
    let blank = vec![0; INSPECT_BYTES as usize];
    assert_eq!(inspect(&blank, CLUSTER), Medium::Blank);
    let area = superblock(&spec(64 << 10)).to_vec();
    assert_eq!(area.len(), INSPECT_BYTES as usize);
    assert_eq!(inspect(&area, CLUSTER), ours(5));
    assert_eq!(inspect(&area, ClusterId([8; 16])), Medium::Foreign { cluster: CLUSTER });
    assert!(matches!(inspect(&area[..BLOCK], CLUSTER), Medium::Damaged { .. }), "too few bytes");

    let mut other = blank.clone();
    other[20_000] = 1;
    assert!(matches!(inspect(&other, CLUSTER), Medium::Damaged { .. }), "something else lives here");
    let mut text = blank;
    text[..4].copy_from_slice(b"XFSB");
    assert!(matches!(inspect(&text, CLUSTER), Medium::Damaged { .. }));
}

#[test]
fn one_good_copy_of_the_superblock_is_enough() {
    let area = superblock(&spec(64 << 10)).to_vec();
    for (at, other) in [(0, SUPERBLOCK_B as usize), (SUPERBLOCK_B as usize, 0)] {
        let mut rotten = area.clone();
        rotten[at + 44] ^= 1;
        assert_eq!(inspect(&rotten, CLUSTER), ours(5));
        rotten[at..at + BLOCK].fill(0);
        assert_eq!(inspect(&rotten, CLUSTER), ours(5), "a write of the superblock was torn");
        rotten[other + 100] ^= 1;
        assert!(matches!(inspect(&rotten, CLUSTER), Medium::Damaged { .. }));

        let mut future = area.clone();
        newer(&mut future, at);
        assert_eq!(inspect(&future, CLUSTER), Medium::Newer { version: FORMAT_VERSION + 1 });
    }
}

/// A medium that may not be served: what every request is answered, and that nothing is ever written.
fn refused(prepare: impl FnOnce(&mut World)) -> (ErrorKind, String) {
    let mut world = World::new(8, 16);
    world.put(shard(1), b"not to be lost").unwrap();
    world.settle();
    prepare(&mut world);
    let before = world.platter.now.clone();
    let written = world.writes;
    world.start();
    let parked = world.ask(ShardOp::Read { id: shard(1) }, Buf::empty());
    world.settle();
    let error = world.replies[&parked].as_ref().unwrap_err().clone();
    for op in [
        ShardOp::Read { id: shard(1) },
        super::world::write(shard(2), b"new"),
        ShardOp::Delete { ids: vec![shard(1)], until: None },
        ShardOp::List { after: None, limit: 1, relies: None },
        ShardOp::Stat,
    ] {
        let payload = if matches!(op, ShardOp::Write { .. }) { Buf::copy_of(b"new") } else { Buf::empty() };
        assert_eq!(world.call(op, payload).unwrap_err(), error);
    }
    assert_eq!(world.writes, written, "a medium that is not ours was written");
    assert!(world.platter.now == before);
    (error.kind(), error.to_string())
}

#[test]
fn never_writes_a_medium_that_is_not_its_own() {
    let refusal = refused(|world| world.spec.cluster = ClusterId([9; 16]));
    assert_eq!(refusal.0, ErrorKind::DriveFailed);
    assert!(refusal.1.contains("another cluster") && refusal.1.contains("cluster=0707"), "{}", refusal.1);

    let refusal = refused(|world| world.spec.drive = DriveId(4));
    assert_eq!(refusal.0, ErrorKind::DriveFailed);
    assert!(refusal.1.contains("another drive") && refusal.1.contains("found=drive-3"), "{}", refusal.1);

    let refusal = refused(|world| world.spec.epoch = Epoch(4));
    assert_eq!(refusal.0, ErrorKind::Fenced);
    assert!(refusal.1.contains("newer=e5"), "{}", refusal.1);

    let refusal = refused(|world| {
        for at in [0, SUPERBLOCK_B] {
            world.platter.rot(at + 20);
        }
    });
    assert_eq!(refusal.0, ErrorKind::DriveFailed);
    assert!(refusal.1.contains("damaged") && refusal.1.contains("checksum"), "{}", refusal.1);

    let refusal = refused(|world| {
        let mut area = world.platter.read(0, INSPECT_BYTES as usize).to_vec();
        newer(&mut area, 0);
        world.platter.write(0, &area);
    });
    assert_eq!(refusal.0, ErrorKind::DriveFailed);
    assert!(refusal.1.contains("newer format") && refusal.1.contains("version=3"), "{}", refusal.1);

    let refusal = refused(|world| world.platter.write(0, &vec![0; INSPECT_BYTES as usize]));
    assert_eq!(refusal.0, ErrorKind::DriveFailed);
    assert!(refusal.1.contains("blank"), "{}", refusal.1);

    let refusal = refused(|world| world.geometry.capacity_bytes /= 2);
    assert!(refusal.1.contains("smaller than it was"), "{}", refusal.1);
}

#[test]
fn a_medium_with_too_few_segments_is_refused() {
    let mut world = World::blank(4, 16);
    let area = superblock(&world.spec);
    world.platter.write(0, &area);
    world.start();
    world.settle();
    assert_eq!(world.put(shard(1), b"x"), Err(ErrorKind::DriveFailed));
}

proptest! {
    #[test]
    fn no_bytes_make_a_decoder_panic(mut bytes in proptest::collection::vec(any::<u8>(), BLOCK..2 * BLOCK), kind in 0..3) {
        // Half of the time behind a magic that is right, and with a checksum that is.
        match kind {
            0 => {
                bytes[..8].copy_from_slice(b"MESHDRV1");
                let sum = crc32c(&bytes[12..512]);
                bytes[8..12].copy_from_slice(&sum.to_le_bytes());
            }
            1 => {
                bytes[..4].copy_from_slice(b"MREC");
                bytes[8] %= 4;
                bytes[14..16].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
                let sum = crc32c(&bytes[8..128]);
                bytes[4..8].copy_from_slice(&sum.to_le_bytes());
            }
            _ => {}
        }
        let _: crate::drive::format::Copy = Superblock::decode(&bytes);
        let _: Option<SegmentHeader> = SegmentHeader::decode(&bytes);
        if let Some(record) = Record::decode(&bytes) {
            prop_assert!(record.end() > record.offset);
            let tombstones = decode_tombstones(&record, &bytes);
            prop_assert!(tombstones.is_none_or(|tombstones| tombstones.len() <= 170));
        }
        let mut area = vec![0; INSPECT_BYTES as usize];
        area[..bytes.len()].copy_from_slice(&bytes);
        prop_assert!(inspect(&area, CLUSTER) != Medium::Blank || bytes.iter().all(|&byte| byte == 0));
    }

    #[test]
    fn a_superblock_with_a_flipped_bit_is_never_taken_for_another(bit in 0..8 * BLOCK) {
        let mut area = superblock(&spec(64 << 10)).to_vec();
        area[SUPERBLOCK_B as usize..].fill(0);
        area[bit / 8] ^= 1 << (bit % 8);
        let medium = inspect(&area, CLUSTER);
        prop_assert!(medium == ours(5) && bit >= 8 * 512 || matches!(medium, Medium::Damaged { .. }), "{medium:?}");
    }
}
