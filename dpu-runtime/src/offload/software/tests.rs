use mesh_core::{
    Buf, ErrorKind,
    id::{BucketId, KeyId, StripeId, TenantId, WriteId},
    limits::{ALIGNMENT_BYTES, PACKED_BYTES_MAX, PAYLOAD_BYTES_MAX, SEGMENT_BYTES, STRIPE_BYTES_MAX},
    meta::WrappedKey,
    op::{Binding, Part},
    topology::Code,
    wire::crc32c,
};
use proptest::prelude::*;

use super::*;
use crate::offload::{
    erasure::shard_len,
    keys::{data_key, unwrap_secret, wrap},
    seal::{opened_len, sealed_len},
};

/// A keyring of two keys.
struct Ring;

impl Keys for Ring {
    fn key(&self, id: KeyId) -> Option<[u8; 32]> {
        matches!(id.0, 77 | 78).then_some([if id.0 == 77 { 9 } else { 10 }; 32])
    }
}

/// A back end whose pool gives out memory full of rubbish, as it may.
fn software() -> Software {
    let pool = Pool::default();
    let dirty: Vec<Buf> = (12..23)
        .flat_map(|class| (0..3).map(move |_| 1_usize << class))
        .map(|size| {
            let mut buf = pool.take(size, 0);
            buf.make_mut().fill(0xa5);
            buf
        })
        .collect();
    drop(dirty);
    Software::new(Arc::new(Ring), pool)
}

fn counting() -> [u8; 32] {
    core::array::from_fn(|at| at as u8)
}

fn wrapped() -> Arc<WrappedKey> {
    Arc::new(wrap(&[9; 32], KeyId(77), [4; 12], &counting()).unwrap())
}

fn binding() -> Arc<Binding> {
    Arc::new(Binding { tenant: TenantId(7), bucket: BucketId(9), bucket_name: "b".into(), object: "a/é".into() })
}

fn stripe() -> StripeId {
    StripeId { write: WriteId((1 << 48) | 5), stripe: 3, attempt: 2 }
}

fn salt() -> [u8; 32] {
    core::array::from_fn(|at| at as u8 + 32)
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at.wrapping_mul(at) % 251) as u8).collect()
}

fn bytes(outcome: WorkOutcome) -> Result<Buf, Error> {
    outcome.map(|output| match output {
        WorkOutput::Bytes(bytes) => bytes,
        other => panic!("not bytes: {other:?}"),
    })
}

fn seal(software: &Software, plain: &[u8]) -> Buf {
    let plain = Buf::copy_of(plain);
    let job = ComputeJob::Seal { key: wrapped(), salt: salt(), binding: binding(), stripe: stripe(), plain };
    bytes(software.run(job)).unwrap()
}

fn open_as(software: &Software, binding: Binding, stripe: StripeId, sealed: &[u8]) -> Result<Buf, Error> {
    let (binding, sealed) = (Arc::new(binding), Buf::copy_of(sealed));
    bytes(software.run(ComputeJob::Open { key: wrapped(), binding, stripe, sealed, part: None }))
}

fn open(software: &Software, sealed: &[u8]) -> Result<Buf, Error> {
    open_as(software, (*binding()).clone(), stripe(), sealed)
}

#[track_caller]
fn assert_corrupt(outcome: Result<Buf, Error>) {
    assert_eq!(outcome.map_err(|error| error.kind()), Err(ErrorKind::Corrupt));
}

fn encode(software: &Software, code: Code, bytes: Buf) -> Result<Vec<(Buf, u32)>, Error> {
    software.run(ComputeJob::Encode { code, bytes }).map(|output| match output {
        WorkOutput::Shards(shards) => shards,
        other => panic!("not shards: {other:?}"),
    })
}

fn decode(software: &Software, code: Code, len: usize, shards: Vec<(u8, Buf)>) -> Result<Buf, Error> {
    bytes(software.run(ComputeJob::Decode { code, len: len as u32, shards }))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

// The vectors were made by an independent implementation: Python's hashlib, hmac and cryptography, and GF(2^8) by
// long division.

#[test]
fn the_sealed_format_does_not_change() {
    let software = software();
    assert_eq!(
        hex(&seal(&software, b"hello mesh")),
        "0d0e0b23ee7443c843f865f87eb55fb0d33b5021c967e275ea8e\
         202122232425262728292a2b2c2d2e2f303132333435363738393a3b3c3d3e3f0a0000004d535331"
    );
    assert_eq!(
        hex(&seal(&software, b"")),
        "53bf8d6edc3a8f29566cda06a3c66718\
         202122232425262728292a2b2c2d2e2f303132333435363738393a3b3c3d3e3f000000004d535331"
    );
    let two_segments = seal(&software, &pattern(100_000));
    assert_eq!((two_segments.len(), crc32c(&two_segments)), (100_072, 0x0ce5_86ec));
}

#[test]
fn the_wrapped_key_does_not_change() {
    assert_eq!(
        hex(&wrapped().sealed),
        "e7b8ba7aeab06d288e4d683918552299dfbb6bf41c9c904f674fb6aebc6ec948de3bb1bc6b0833f75f2dabd9790d15f0"
    );
}

/// k, m, bytes, bytes of a shard, CRCs of the parity shards, first bytes of the first one.
type Vector = (u8, u8, usize, usize, &'static [u32], &'static str);

#[test]
fn the_code_does_not_change() {
    let software = software();
    let vectors: [Vector; 5] = [
        (2, 1, 100, 64, &[0xc2f0_d71a], "ce43c9443fbac3bd"),
        (4, 2, 1000, 256, &[0xca0d_8bbd, 0xb801_2ef6], "605d1a27c7b4c9ce"),
        (1, 2, 64, 64, &[0x2884_f9f3, 0xd13a_e983], "030a11181f262d34"),
        (
            16,
            8,
            5000,
            320,
            &[0xd538_d9b8, 0x8a97_b67f, 0xd767_118d, 0x3db1_08f8, 0xc8db_5b49, 0x88cc_ad3b, 0x1fcb_fe81, 0x4059_1376],
            "7592a6411cd10802",
        ),
        (2, 1, 7000, 4096, &[0x452d_6762], "8e0389047ffa83fd"),
    ];
    for (data, parity, len, size, crcs, first) in vectors {
        let bytes: Vec<u8> = (0..len).map(|at| (at * 7 + 3) as u8).collect();
        let shards = encode(&software, Code { data, parity }, Buf::copy_of(&bytes)).unwrap();
        let coded = &shards[usize::from(data)..];
        assert!(shards.iter().all(|(shard, crc)| shard.len() == size && *crc == crc32c(shard)), "{data}+{parity}");
        assert_eq!(coded.iter().map(|(_, crc)| *crc).collect::<Vec<_>>(), crcs, "{data}+{parity}");
        assert_eq!(hex(&coded[0].0[..8]), first, "{data}+{parity}");
    }
}

#[test]
fn seals_and_opens_every_length_around_a_segments_border() {
    let software = software();
    let borders = [0, SEGMENT_BYTES, 2 * SEGMENT_BYTES, STRIPE_BYTES_MAX, PACKED_BYTES_MAX];
    for len in borders.iter().flat_map(|&border| border.saturating_sub(2)..=(border + 2).min(PACKED_BYTES_MAX)) {
        let plain = pattern(len);
        let sealed = seal(&software, &plain);
        assert_eq!(sealed.len(), sealed_len(len));
        assert_eq!(&open(&software, &sealed).unwrap()[..], &plain[..], "{len} bytes");
    }
}

#[test]
fn opens_a_part_by_the_segments_that_have_it() {
    let software = software();
    let open = |sealed: &[u8], (start, len, of): (usize, usize, usize)| {
        let part = Some(Part { start: start as u32, len: len as u32, of: of as u32 });
        let (binding, sealed) = (binding(), Buf::copy_of(sealed));
        bytes(software.run(ComputeJob::Open { key: wrapped(), binding, stripe: stripe(), sealed, part }))
    };
    let size = 3 * SEGMENT_BYTES + 5;
    let plain = pattern(size);
    let sealed = seal(&software, &plain);
    let borders = [0, 1, SEGMENT_BYTES - 1, SEGMENT_BYTES, SEGMENT_BYTES + 1, 3 * SEGMENT_BYTES, size - 1, size];
    for (at, start) in borders.iter().enumerate() {
        for end in &borders[at + 1..] {
            let opened = open(&sealed, (*start, end - start, size)).unwrap();
            assert_eq!(&opened[..], &plain[*start..*end], "{start}..{end}");
        }
    }
    // A stripe of another length than was thought: what would be given is not what is meant.
    let other = open(&sealed, (1, 3, size - 1)).map_err(|error| error.kind());
    assert_eq!(other, Err(ErrorKind::InvalidRange));
    for outside in [(size, 1), (0, size + 1), (1, 0), (usize::MAX >> 32, 1)] {
        let refused = open(&sealed, (outside.0, outside.1, size)).map_err(|error| error.kind());
        assert_eq!(refused, Err(ErrorKind::Invalid), "{outside:?}");
    }
    // Only what is opened is checked.
    let mut damaged = sealed.to_vec();
    damaged[SEGMENT_BYTES + 7] ^= 1;
    assert_corrupt(open(&damaged, (SEGMENT_BYTES, 1, size)));
    assert_corrupt(open(&damaged, (SEGMENT_BYTES - 1, 2, size)));
    assert_eq!(open(&damaged, (0, SEGMENT_BYTES, size)).unwrap()[..], plain[..SEGMENT_BYTES]);
    assert_eq!(opened_len(sealed.len(), Some(Part { start: 9, len: 1, of: size as u32 })), SEGMENT_BYTES);
    assert_eq!(opened_len(sealed.len(), None), sealed.len());
}

#[test]
fn sealing_leaves_a_shared_plaintext_as_it_was_and_leaves_room_for_padding() {
    let software = software();
    let plain = Buf::copy_of(&pattern(STRIPE_BYTES_MAX));
    let shared = plain.clone();
    let job = ComputeJob::Seal { key: wrapped(), salt: salt(), binding: binding(), stripe: stripe(), plain };
    let sealed = bytes(software.run(job)).unwrap();
    assert_eq!(&shared[..], &pattern(STRIPE_BYTES_MAX)[..]);
    let (memory, before) = (sealed.as_ptr(), sealed.to_vec());
    for data in [2, 3, 16] {
        let shards = encode(&software, Code { data, parity: 1 }, sealed.slice(..)).unwrap();
        assert_eq!(shards[0].0.as_ptr(), memory, "a shared stripe is sliced where it is whole");
    }
    let shards = encode(&software, Code { data: 16, parity: 1 }, sealed).unwrap();
    let size = shard_len(before.len(), 16);
    for (place, (shard, _)) in shards[..16].iter().enumerate() {
        assert_eq!(shard.as_ptr(), memory.wrapping_add(place * size), "an unshared stripe is padded in place");
        assert!(shard.is_aligned());
    }
    let joined: Vec<u8> = shards[..16].iter().flat_map(|(shard, _)| shard.to_vec()).collect();
    assert_eq!(joined[..before.len()], before[..]);
    assert!(joined[before.len()..].iter().all(|byte| *byte == 0));
}

#[test]
fn refuses_a_plaintext_over_the_limit() {
    let plain = Buf::zeroed(PACKED_BYTES_MAX + 1);
    let job = ComputeJob::Seal { key: wrapped(), salt: salt(), binding: binding(), stripe: stripe(), plain };
    assert_eq!(software().run(job).unwrap_err().kind(), ErrorKind::TooLarge);
}

#[test]
fn a_change_of_any_bit_of_a_sealed_stripe_is_corruption() {
    let software = software();
    for plain in [pattern(0), pattern(40)] {
        let sealed = seal(&software, &plain).to_vec();
        for bit in 0..sealed.len() * 8 {
            let mut changed = sealed.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert_corrupt(open(&software, &changed));
        }
        for len in 0..sealed.len() {
            assert_corrupt(open(&software, &sealed[..len]));
            assert_corrupt(open(&software, &sealed[sealed.len() - len..]));
        }
        assert_corrupt(open(&software, &[sealed.as_slice(), &[0]].concat()));
    }
}

#[test]
fn segments_cannot_change_places_or_stripes() {
    let software = software();
    let plain = pattern(3 * SEGMENT_BYTES);
    let mut swapped = seal(&software, &plain).to_vec();
    let (first, rest) = swapped.split_at_mut(SEGMENT_BYTES);
    first.swap_with_slice(&mut rest[..SEGMENT_BYTES]);
    let tags = &mut rest[2 * SEGMENT_BYTES..][..32];
    tags.rotate_left(16);
    assert_corrupt(open(&software, &swapped));

    // The first two of three segments, with a trailer that says so.
    let whole = seal(&software, &plain).to_vec();
    let mut cut = whole[..2 * SEGMENT_BYTES].to_vec();
    cut.extend_from_slice(&whole[3 * SEGMENT_BYTES..][..32]);
    cut.extend_from_slice(&salt());
    cut.extend_from_slice(&(2 * SEGMENT_BYTES as u32).to_le_bytes());
    cut.extend_from_slice(b"MSS1");
    assert_eq!(cut.len(), sealed_len(2 * SEGMENT_BYTES));
    assert_corrupt(open(&software, &cut));
}

#[test]
fn a_stripe_opens_only_as_what_it_was_sealed_as() {
    let software = software();
    let sealed = seal(&software, b"hello mesh");
    let right = (*binding()).clone();
    assert!(open_as(&software, right.clone(), stripe(), &sealed).is_ok());
    for wrong in [
        Binding { tenant: TenantId(8), ..right.clone() },
        Binding { bucket: BucketId(10), ..right.clone() },
        Binding { object: "a/e".into(), ..right.clone() },
        Binding { object: "a/é ".into(), ..right.clone() },
    ] {
        assert_corrupt(open_as(&software, wrong, stripe(), &sealed));
    }
    for wrong in [
        StripeId { write: WriteId(5), ..stripe() },
        StripeId { stripe: 4, ..stripe() },
        StripeId { attempt: 3, ..stripe() },
    ] {
        assert_corrupt(open_as(&software, right.clone(), wrong, &sealed));
    }
    let renamed = Binding { bucket_name: "c".into(), ..right };
    assert!(open_as(&software, renamed, stripe(), &sealed).is_ok(), "the incarnation is bound, not the name");

    let other_key = Arc::new(wrap(&[9; 32], KeyId(77), [5; 12], &[1; 32]).unwrap());
    let job = ComputeJob::Open { key: other_key, binding: binding(), stripe: stripe(), sealed, part: None };
    assert_corrupt(bytes(software.run(job)));
}

#[test]
fn a_salt_gives_a_stripe_a_key_of_its_own() {
    let software = software();
    let one = seal(&software, &[0; 64]);
    let job = |salt| ComputeJob::Seal {
        key: wrapped(),
        salt,
        binding: binding(),
        stripe: stripe(),
        plain: Buf::copy_of(&[0; 64]),
    };
    assert_eq!(bytes(software.run(job(salt()))).unwrap(), one, "the same job gives the same output");
    let other = bytes(software.run(job([1; 32]))).unwrap();
    assert!(one[..64].iter().zip(&other[..64]).filter(|(a, b)| a == b).count() < 16);
}

#[test]
fn makes_a_data_key_and_unwraps_it() {
    let software = software();
    let entropy: Vec<u8> = (0..44).collect();
    let WorkOutput::Key(made) = software.run(ComputeJob::WrapKey { key: KeyId(78), entropy }).unwrap() else {
        panic!("not a key")
    };
    assert_eq!((made.key, made.nonce[0], made.sealed.len()), (KeyId(78), 32, 48));
    assert_eq!(unwrap_secret(&[10; 32], &made).unwrap(), counting());
    assert_eq!(data_key(&Ring, &made).unwrap().bytes(), &counting());
}

#[test]
fn refuses_keys_that_are_missing_damaged_or_of_another() {
    let software = software();
    let run = |key, len| software.run(ComputeJob::WrapKey { key: KeyId(key), entropy: vec![0; len] });
    assert_eq!(run(1, 44).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(run(77, 43).unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(run(77, 45).unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(run(77, 0).unwrap_err().kind(), ErrorKind::Invalid);

    let good = (*wrapped()).clone();
    let long = wrap(&[9; 32], KeyId(77), [4; 12], &[0; 33]).unwrap();
    let mut damaged =
        vec![WrappedKey { key: KeyId(78), ..good.clone() }, WrappedKey { nonce: [5; 12], ..good.clone() }];
    damaged.extend((0..good.sealed.len()).map(|at| {
        let mut changed = good.clone();
        changed.sealed[at] ^= 1;
        changed
    }));
    damaged
        .extend((0..good.sealed.len()).map(|len| WrappedKey { sealed: good.sealed[..len].to_vec(), ..good.clone() }));
    damaged.push(WrappedKey { sealed: vec![0; 1 << 20], ..good.clone() });
    damaged.push(long);
    for key in damaged {
        assert_eq!(data_key(&Ring, &key).unwrap_err().kind(), ErrorKind::Corrupt);
    }
    let unknown = WrappedKey { key: KeyId(1), ..good };
    assert_eq!(data_key(&Ring, &unknown).unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn shards_are_aligned_unless_they_are_small() {
    assert_eq!([1, 64, 65, 3072].map(|len| shard_len(len, 1)), [64, 64, 128, 3072]);
    assert_eq!([3073, 4096, 4097].map(|len| shard_len(len, 1)), [4096, 4096, 8192]);
    for data in 1..=16 {
        let size = shard_len(sealed_len(STRIPE_BYTES_MAX), data);
        assert!(size.is_multiple_of(ALIGNMENT_BYTES) && size * data <= PAYLOAD_BYTES_MAX);
    }
}

/// GF(2^8) as the module's page draws it, by long multiplication.
fn multiply(mut a: u8, mut b: u8) -> u8 {
    let mut product = 0;
    while b > 0 {
        product ^= if b & 1 == 1 { a } else { 0 };
        a = (a << 1) ^ if a & 0x80 != 0 { 0x1d } else { 0 };
        b >>= 1;
    }
    product
}

#[test]
fn every_code_agrees_with_plain_arithmetic() {
    let software = software();
    let inverse = |a: u8| (1..=255).find(|b| multiply(a, *b) == 1).unwrap();
    for data in 1..=16 {
        for parity in 0..=8 {
            let bytes = pattern(usize::from(data) * 67 + usize::from(parity));
            let shards = encode(&software, Code { data, parity }, Buf::copy_of(&bytes)).unwrap();
            assert_eq!(shards.len(), usize::from(data + parity));
            let joined: Vec<u8> = shards[..usize::from(data)].iter().flat_map(|(shard, _)| shard.to_vec()).collect();
            assert!(joined.starts_with(&bytes) && joined[bytes.len()..].iter().all(|byte| *byte == 0));
            for (coded, place) in shards[usize::from(data)..].iter().zip(data..) {
                let row: Vec<u8> = (0..data).map(|at| inverse(place ^ at)).collect();
                for at in 0..coded.0.len() {
                    let sum =
                        row.iter().zip(&shards).fold(0, |sum, (factor, (shard, _))| sum ^ multiply(*factor, shard[at]));
                    assert_eq!(coded.0[at], sum, "{data}+{parity}, shard {place}, byte {at}");
                }
                assert_eq!(coded.1, crc32c(&coded.0));
            }
        }
    }
}

#[test]
fn any_k_shards_give_the_bytes_back() {
    let software = software();
    for (data, parity) in [(1, 0), (1, 1), (1, 3), (2, 1), (4, 2), (3, 3), (6, 3), (10, 4), (4, 0)] {
        let code = Code { data, parity };
        for len in [1, usize::from(data), 1000, usize::from(data) * 5000 + 1] {
            let bytes = pattern(len);
            let shards = encode(&software, code, Buf::copy_of(&bytes)).unwrap();
            let subsets = (0_u32..1 << code.shards()).filter(|set| set.count_ones() == u32::from(data));
            for set in subsets {
                let kept = (0..).zip(&shards).filter(|(place, _)| set >> place & 1 == 1);
                let kept = kept.map(|(place, (shard, _))| (place, shard.clone())).rev_if(set % 2 == 0);
                let joined = decode(&software, code, len, kept).unwrap();
                assert_eq!(&joined[..], &bytes[..], "{code}, {len} bytes, shards {set:b}");
            }
        }
    }
}

/// Decoding does not depend on the order of shards.
trait RevIf<T> {
    fn rev_if(self, reverse: bool) -> Vec<T>;
}

impl<T, I: Iterator<Item = T>> RevIf<T> for I {
    fn rev_if(self, reverse: bool) -> Vec<T> {
        let mut items: Vec<T> = self.collect();
        if reverse {
            items.reverse();
        }
        items
    }
}

#[test]
fn refuses_to_code_what_cannot_be() {
    let software = software();
    let kind = |code, len| encode(&software, code, Buf::zeroed(len)).unwrap_err().kind();
    assert_eq!(kind(Code { data: 2, parity: 1 }, 0), ErrorKind::Invalid);
    assert_eq!(kind(Code { data: 0, parity: 1 }, 10), ErrorKind::Invalid);
    assert_eq!(kind(Code { data: 17, parity: 1 }, 10), ErrorKind::Invalid);
    assert_eq!(kind(Code { data: 2, parity: 9 }, 10), ErrorKind::Invalid);
    assert_eq!(kind(Code { data: 2, parity: 1 }, PAYLOAD_BYTES_MAX + 1), ErrorKind::TooLarge);
}

#[test]
fn refuses_shards_that_do_not_fit_together() {
    let software = software();
    let code = Code { data: 2, parity: 1 };
    let shard = |len| Buf::zeroed(len);
    let kind = |len, shards| decode(&software, code, len, shards).unwrap_err().kind();
    assert_eq!(kind(100, vec![]), ErrorKind::Invalid);
    assert_eq!(kind(100, vec![(0, shard(64))]), ErrorKind::Invalid);
    assert_eq!(kind(100, vec![(0, shard(64)), (0, shard(64))]), ErrorKind::Invalid);
    assert_eq!(kind(100, vec![(0, shard(64)), (3, shard(64))]), ErrorKind::Invalid);
    assert_eq!(kind(100, vec![(0, shard(64)), (1, shard(128))]), ErrorKind::Invalid);
    assert_eq!(kind(129, vec![(0, shard(64)), (1, shard(64))]), ErrorKind::Invalid);
    assert_eq!(kind(0, vec![(0, shard(64)), (1, shard(64))]), ErrorKind::Invalid);
    assert_eq!(kind(u32::MAX as usize, vec![(0, shard(64)), (1, shard(64))]), ErrorKind::TooLarge);
    assert!(decode(&software, code, 100, vec![(2, shard(64)), (1, shard(64)), (0, shard(64))]).is_ok());
}

#[test]
fn a_stripe_is_compressed_sealed_and_coded_and_all_of_it_undone() {
    let software = software();
    let compress = |plain: Buf| bytes(software.run(ComputeJob::Compress { plain })).unwrap();
    for plain in [Buf::copy_of(&pattern(STRIPE_BYTES_MAX)), Buf::copy_of(&noise(STRIPE_BYTES_MAX)), Buf::copy_of(b"x")]
    {
        let packed = compress(plain.clone());
        let job = ComputeJob::Seal {
            key: wrapped(),
            salt: salt(),
            binding: binding(),
            stripe: stripe(),
            plain: packed.clone(),
        };
        let sealed = bytes(software.run(job)).unwrap();
        assert!(sealed.len() <= PAYLOAD_BYTES_MAX);
        let code = Code { data: 2, parity: 1 };
        let shards = software.run(ComputeJob::Encode { code, bytes: sealed.clone() }).unwrap();
        let WorkOutput::Shards(shards) = shards else { panic!("shards") };
        let shards = (0..).zip(shards.into_iter().map(|(shard, _)| shard)).skip(1).collect();
        let joined = decode(&software, code, sealed.len(), shards).unwrap();
        let opened = open(&software, &joined).unwrap();
        assert_eq!(opened, packed);
        let given = bytes(software.run(ComputeJob::Decompress { packed: opened })).unwrap();
        assert!(given == plain);
    }
}

/// Bytes that do not shrink.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..len).map(|_| next()).collect()
}

#[test]
fn small_jobs_are_those_of_a_segment() {
    let software = software();
    let encode = |len| ComputeJob::Encode { code: Code { data: 2, parity: 1 }, bytes: Buf::zeroed(len) };
    assert!(software.is_small(&ComputeJob::WrapKey { key: KeyId(1), entropy: vec![0; 44] }));
    assert!(software.is_small(&encode(4096)));
    assert!(!software.is_small(&encode(1 << 20)));
    let compress = |len| ComputeJob::Compress { plain: Buf::zeroed(len) };
    assert!(software.is_small(&compress(8 << 10)) && !software.is_small(&compress(16 << 10)));
    let packed = pack::pack(&Pool::default(), &vec![0; 1 << 20]).unwrap();
    assert!(packed.len() < 8 << 10, "however short it is");
    assert!(!software.is_small(&ComputeJob::Decompress { packed }));
    assert!(software.is_small(&ComputeJob::Decompress { packed: Buf::zeroed(1 << 20) }), "it is refused at once");
}

fn codes() -> impl Strategy<Value = Code> {
    (1_u8..=16, 0_u8..=8).prop_map(|(data, parity)| Code { data, parity })
}

/// Lengths of every size, up to more than is allowed.
fn lengths() -> impl Strategy<Value = usize> {
    prop_oneof![0..1024_usize, 0..200_000_usize, 0..5_usize << 20]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn what_is_sealed_opens(len in lengths(), seed: u8) {
        let software = software();
        let plain: Vec<u8> = (0..len).map(|at| (at as u8).wrapping_mul(31) ^ seed).collect();
        let job = ComputeJob::Seal {
            key: wrapped(), salt: salt(), binding: binding(), stripe: stripe(), plain: Buf::copy_of(&plain),
        };
        match bytes(software.run(job)) {
            Ok(sealed) => prop_assert_eq!(&open(&software, &sealed).unwrap()[..], &plain[..]),
            Err(error) => prop_assert!(len > PACKED_BYTES_MAX && error.kind() == ErrorKind::TooLarge),
        }
    }

    #[test]
    fn a_damaged_stripe_never_opens(
        len in 0..200_000_usize,
        damage in proptest::collection::vec((any::<proptest::sample::Index>(), 1_u8..), 1..4),
        cut in proptest::option::of(any::<proptest::sample::Index>()),
    ) {
        let software = software();
        let sealed = seal(&software, &pattern(len)).to_vec();
        let mut changed = sealed.clone();
        for (at, flip) in damage {
            let at = at.index(changed.len());
            changed[at] ^= flip;
        }
        if let Some(cut) = cut {
            changed.truncate(cut.index(sealed.len()));
        }
        if changed != sealed {
            assert_corrupt(open(&software, &changed));
        }
    }

    #[test]
    fn arbitrary_bytes_never_open(
        mut junk in proptest::collection::vec(any::<u8>(), 0..300), formatted: bool, plain_len in 0..400_u32,
    ) {
        // Half of them with a believable trailer.
        if formatted && junk.len() >= 8 {
            let at = junk.len() - 8;
            junk[at..at + 4].copy_from_slice(&plain_len.to_le_bytes());
            junk[at + 4..].copy_from_slice(b"MSS1");
        }
        assert_corrupt(open(&software(), &junk));
    }

    #[test]
    fn what_is_coded_decodes_without_any_m_shards(
        code in codes(), len in lengths(), shift in 0..2_usize, order in any::<u64>(),
    ) {
        let software = software();
        // An unaligned stripe must do too.
        let input = pattern(len + shift);
        let bytes = Buf::copy_of(&input).slice(shift..);
        let shards = match encode(&software, code, bytes) {
            Ok(shards) => shards,
            Err(error) => {
                let kind = if len == 0 { ErrorKind::Invalid } else { ErrorKind::TooLarge };
                prop_assert!((len == 0 || len > PAYLOAD_BYTES_MAX) && error.kind() == kind);
                return Ok(());
            }
        };
        let mut places: Vec<u8> = (0..shards.len() as u8).collect();
        places.sort_by_key(|place| mesh_core::topology::mix(order ^ u64::from(*place)));
        places.truncate(code.data.into());
        let kept = places.iter().map(|place| (*place, shards[usize::from(*place)].0.clone())).collect();
        for (shard, crc) in &shards {
            prop_assert_eq!(*crc, crc32c(shard));
            prop_assert!(shard.len() < ALIGNMENT_BYTES || shard.is_aligned());
        }
        prop_assert_eq!(&decode(&software, code, len, kept).unwrap()[..], &input[shift..]);
    }

    #[test]
    fn decoding_arbitrary_shards_never_panics(
        data: u8, parity: u8, len: u32, exact: bool,
        shards in proptest::collection::vec((0..30_u8, 0..300_usize), 0..30),
    ) {
        let code = Code { data: data % 20, parity: parity % 10 };
        let len = if exact { len % 2000 } else { len };
        let fitting = if code.data > 0 { shard_len(len as usize, code.data.into()) } else { 0 };
        let shards = shards.into_iter().map(|(place, size)| {
            (place, Buf::copy_of(&pattern(if exact && fitting < 4096 { fitting } else { size })))
        });
        match decode(&software(), code, len as usize, shards.collect()) {
            Ok(bytes) => prop_assert_eq!(bytes.len(), len as usize),
            Err(error) => prop_assert!(matches!(error.kind(), ErrorKind::Invalid | ErrorKind::TooLarge)),
        }
    }
}
