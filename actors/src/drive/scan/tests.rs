use mesh_core::{
    id::{ClusterId, DriveId, Epoch, StripeId, TenantId, WriteId},
    topology::Code,
    wire::crc32c,
};
use proptest::prelude::*;

use super::*;
use crate::drive::{
    format::{GRAVE_BYTES, encode_free, encode_tombstones},
    recover::{empty, end_record},
};

const SEGMENT: u32 = 32 * BLOCK;
const IDENTITY: Identity = Identity { cluster: ClusterId([1; 16]), drive: DriveId(2), born: Epoch(3) };

fn id(n: u64) -> ShardId {
    StripeId { write: WriteId(n), stripe: 0, attempt: 0 }.shard(0)
}

/// A segment with shards of these lengths and one record of tombstones; END if it is closed.
fn image(lens: &[u32], closed: bool) -> (Vec<u8>, u32) {
    let mut image = vec![0; SEGMENT as usize];
    let header =
        SegmentHeader { identity: IDENTITY, epoch: Epoch(4), seq: 5, salt: 6, segment_bytes: SEGMENT, before: (0, 0) };
    header.encode(&mut image[..BLOCK as usize]);
    let mut at = BLOCK;
    for (n, &len) in (0..).zip(lens) {
        let payload: Vec<u8> = (0..len).map(|byte| (byte + n as u32) as u8).collect();
        let shard = Shard {
            id: id(n),
            tenant: TenantId(1),
            code: Code { data: 1, parity: 0 },
            sealed_len: len,
            len,
            crc: crc32c(&payload),
            lsn: 10 + n,
        };
        let record = Record { kind: Kind::Shard, seq: 5, salt: 6, offset: at, durable_upto: at, shard };
        record.encode(&mut image[at as usize..][..BLOCK as usize]);
        image[(at + data_offset(len)) as usize..][..len as usize].copy_from_slice(&payload);
        at += span(len);
    }
    let payload = encode_tombstones(&[Tombstone { id: id(0), lsn: 10 }]);
    let shard = Shard { len: GRAVE_BYTES, crc: crc32c(&payload), ..empty(id(0)) };
    let record = Record { kind: Kind::Tombstones, seq: 5, salt: 6, offset: at, durable_upto: at, shard };
    record.encode(&mut image[at as usize..][..BLOCK as usize]);
    image[(at + 128) as usize..][..payload.len()].copy_from_slice(&payload);
    at += BLOCK;
    if closed {
        end_record(5, 6, at).encode(&mut image[at as usize..][..BLOCK as usize]);
    }
    (image, at)
}

/// Scans an image; panics if the scan asks for something it may not or does not end.
fn scan(image: &[u8]) -> Option<Segment> {
    match look(image, Census::default()) {
        Found::Segment(segment) => Some(*segment),
        Found::Nothing | Found::Marked | Found::Blank => None,
        Found::Gone => panic!("nothing was counted here"),
    }
}

/// Scans an image of slot 0, of which the superblock says this.
fn look(image: &[u8], census: Census) -> Found {
    let (mut scan, mut step) = Scan::start(IDENTITY, image.len() as u32, census, (0, 8));
    for _ in 0..1000 {
        match step {
            Step::Read { at, len } => {
                assert!(len > 0 && len <= 1 << 20 && at.is_multiple_of(BLOCK) && len.is_multiple_of(BLOCK));
                step = scan.read(&image[at as usize..][..len as usize]);
            }
            Step::Ended(found) => return found,
        }
    }
    panic!("the scan does not end")
}

#[test]
fn a_closed_and_an_open_segment_hold_the_same() {
    let lens = [0, 100, 3968, 3969, 4096, 10_000];
    let (closed, end) = image(&lens, true);
    let found = scan(&closed).unwrap();
    assert_eq!((found.seq, found.salt, found.end, found.closed, found.corrupt), (5, 6, end, true, 0));
    assert_eq!(found.shards.iter().map(|sighting| sighting.len).collect::<Vec<_>>(), lens);
    assert_eq!(found.tombstones, [Tombstone { id: id(0), lsn: 10 }]);
    let open = scan(&image(&lens, false).0).unwrap();
    assert_eq!(open, Segment { closed: false, ..found });
}

/// The contents of a segment behind it, as its owner writes them.
fn with_contents(mut image: Vec<u8>, end: u32, salt: u64) -> Vec<u8> {
    let Segment { shards, tombstones, .. } = scan(&image).unwrap();
    let bytes = Contents { shards, tombstones }.encode(5, salt, end);
    let at = image.len() - bytes.len();
    image[at..].copy_from_slice(&bytes);
    image
}

/// What a scan of a drive of so many slots reads.
fn reads_of(image: &[u8], slots: u32) -> Vec<(u32, u32)> {
    let (mut scan, mut step) = Scan::start(IDENTITY, image.len() as u32, Census::default(), (0, slots));
    let mut reads = Vec::new();
    while let Step::Read { at, len } = step {
        reads.push((at, len));
        step = scan.read(&image[at as usize..][..len as usize]);
    }
    reads
}

fn reads(image: &[u8]) -> Vec<(u32, u32)> {
    reads_of(image, 8)
}

#[test]
fn contents_say_what_the_records_say_and_no_record_is_read_for_it() {
    let (image, end) = image(&[0, 100, 3968, 3969, 4096, 10_000], true);
    let found = scan(&image).unwrap();
    let listed = with_contents(image.clone(), end, 6);
    let by_contents = Segment { is_listed: true, ..scan(&image).unwrap() };
    assert_eq!(scan(&listed).unwrap(), by_contents);
    assert_eq!(reads(&listed), [(0, WINDOW_BYTES), (SEGMENT - WINDOW_BYTES, WINDOW_BYTES)]);
    // Of a drive that has few segments every record is read.
    assert_eq!(reads_of(&listed, 7), reads_of(&image, 7));
    // END is not needed for it.
    let mut endless = listed.clone();
    endless[end as usize..][..BLOCK as usize].fill(0);
    assert_eq!(scan(&endless).unwrap(), by_contents);
    // Those of an earlier segment of the slot are not its own, and damaged ones are nobody's.
    let earlier = with_contents(image, end, 7);
    assert_eq!((scan(&earlier).unwrap(), reads(&earlier).len()), (found, 3));
}

#[test]
fn long_contents_are_read_in_parts() {
    let segment = 4 << 20;
    let mut image = vec![0; segment as usize];
    let header =
        SegmentHeader { identity: IDENTITY, epoch: Epoch(4), seq: 5, salt: 6, segment_bytes: segment, before: (0, 0) };
    header.encode(&mut image[..BLOCK as usize]);
    let tombstones: Vec<Tombstone> = (0..90_000).map(|n| Tombstone { id: id(n), lsn: n }).collect();
    let bytes = Contents { shards: Vec::new(), tombstones: tombstones.clone() }.encode(5, 6, 9 * BLOCK);
    let at = image.len() - bytes.len();
    image[at..].copy_from_slice(&bytes);
    let found = scan(&image).unwrap();
    assert_eq!((found.tombstones, found.end, found.closed), (tombstones, 9 * BLOCK, true));
    assert_eq!(reads(&image).len(), 5);
    image[at + 5000] ^= 1;
    assert_eq!(scan(&image).unwrap().end, BLOCK, "there is no record");
}

#[test]
fn zeros_and_the_segments_of_others_are_no_segment() {
    assert_eq!(scan(&vec![0; SEGMENT as usize]), None);
    let (mut other, _) = image(&[1], true);
    let header = SegmentHeader {
        identity: Identity { born: Epoch(2), ..IDENTITY },
        epoch: Epoch(2),
        seq: 1,
        salt: 1,
        segment_bytes: SEGMENT,
        before: (0, 0),
    };
    other[..BLOCK as usize].fill(0);
    header.encode(&mut other[..BLOCK as usize]);
    assert_eq!(scan(&other), None);
    assert_eq!(scan(&vec![0xa5; SEGMENT as usize]), None, "another's bytes");
}

#[test]
fn records_of_a_slots_former_segment_are_not_its_own() {
    let (mut image, _) = image(&[100, 4096], true);
    let header =
        SegmentHeader { identity: IDENTITY, epoch: Epoch(4), seq: 9, salt: 9, segment_bytes: SEGMENT, before: (0, 0) };
    image[..BLOCK as usize].fill(0);
    header.encode(&mut image[..BLOCK as usize]);
    let found = scan(&image).unwrap();
    assert_eq!(found, Segment { seq: 9, salt: 9, end: BLOCK, ..Segment::default() });
}

proptest! {
    #[test]
    fn no_bytes_make_a_scan_panic(
        lens in proptest::collection::vec(0..20_000u32, 0..5),
        closed in any::<bool>(),
        listed in any::<bool>(),
        noise in proptest::collection::vec((0..SEGMENT as usize, any::<u8>()), 0..30),
        blocks in proptest::collection::vec((0..32usize, 0..32usize), 0..4),
    ) {
        let lens: Vec<u32> = lens.iter().scan(2 * BLOCK, |at, &len| {
            *at += span(len);
            (*at < SEGMENT - 2 * BLOCK).then_some(len)
        }).collect();
        let (mut image, end) = image(&lens, closed);
        if listed && end < SEGMENT - 2 * BLOCK {
            image = with_contents(image, end, 6);
        }
        for (from, to) in blocks {
            let block = image[from * BLOCK as usize..][..BLOCK as usize].to_vec();
            image[to * BLOCK as usize..][..BLOCK as usize].copy_from_slice(&block);
        }
        for (at, mask) in noise {
            image[at] ^= mask;
        }
        if let Some(found) = scan(&image) {
            prop_assert!(found.end >= BLOCK && found.end <= SEGMENT - BLOCK);
            for sighting in found.shards {
                let end = sighting.block * BLOCK + span(sighting.len);
                prop_assert!(end <= SEGMENT - BLOCK);
            }
        }
    }

    /// Wherever contents, or what is behind the records, are damaged: the records are found.
    #[test]
    fn damaged_contents_are_as_none(at in any::<proptest::sample::Index>(), mask in 1..=255u8) {
        let (plain, end) = image(&[100, 9000, 4096, 3000, 20_000], true);
        let mut listed = with_contents(plain.clone(), end, 6);
        let behind = (end + BLOCK) as usize;
        let at = behind + at.index(listed.len() - behind);
        listed[at] ^= mask;
        // In the bytes before the entries it damages nothing.
        let found = scan(&listed).map(|found| Segment { is_listed: false, ..found });
        prop_assert_eq!(found, scan(&plain));
    }

    #[test]
    fn whatever_a_scan_takes_for_good_is_good(at in BLOCK as usize..SEGMENT as usize, mask in 1..=255u8) {
        let lens = [100, 9000, 4096, 3000, 20_000];
        let (mut image, _) = image(&lens, false);
        image[at] ^= mask;
        let found = scan(&image).unwrap();
        for sighting in found.shards.iter().filter(|sighting| !sighting.corrupt) {
            let from = (sighting.block * BLOCK + data_offset(sighting.len)) as usize;
            prop_assert_eq!(crc32c(&image[from..][..sighting.len as usize]), sighting.crc);
        }
    }
}

#[test]
fn rot_in_the_last_record_is_told_from_a_torn_tail_by_the_census() {
    for in_header in [true, false] {
        let (mut image, end) = image(&[100, 9000], false);
        // The record of tombstones is the last.
        let last = (end - BLOCK) as usize;
        image[if in_header { last + 20 } else { last + 130 }] ^= 1;
        let torn = scan(&image).unwrap();
        assert_eq!((torn.end, torn.corrupt, torn.shards.len()), (end - BLOCK, 0, 2), "nothing vouches for it");
        let census = Census { seq: 5, durable: end, ..Census::default() };
        let Found::Segment(rotten) = look(&image, census) else { panic!("there is a segment") };
        assert_eq!((rotten.end, rotten.corrupt, rotten.shards.len()), (end, 1, 2), "it was durable once");
        let of_another = Census { seq: 4, durable: end, ..Census::default() };
        assert_eq!(look(&image, of_another), Found::Segment(Box::new(torn)));
    }
}

#[test]
fn a_slot_that_was_reached_and_is_zeros_is_gone() {
    let zeros = vec![0; SEGMENT as usize];
    let reached = Census { reached: 1, ..Census::default() };
    assert_eq!(look(&zeros, Census::default()), Found::Blank);
    assert_eq!(look(&zeros, reached), Found::Gone);
    // Only its header: the records tell.
    let (mut image, _) = image(&[100, 9000], true);
    image[..BLOCK as usize].fill(0);
    assert_eq!(look(&image, Census::default()), Found::Blank);
    let Found::Segment(segment) = look(&image, reached) else { panic!("the records are there") };
    assert_eq!((segment.shards.len(), segment.corrupt), (2, 1));
}

#[test]
fn an_erased_segment_does_not_come_back_when_a_mark_rots() {
    let (mut image, _) = image(&[100, 9000], true);
    for at in [0, BLOCK] {
        let mark = &mut image[at as usize..][..BLOCK as usize];
        mark.fill(0);
        encode_free(&IDENTITY, mark);
    }
    assert_eq!(scan(&image), None);
    for at in [9, BLOCK as usize + 9] {
        let mut rotten = image.clone();
        rotten[at] ^= 1;
        assert_eq!(scan(&rotten), None, "a rotten bit at {at}");
    }
}
