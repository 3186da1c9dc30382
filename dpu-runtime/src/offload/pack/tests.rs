use proptest::prelude::*;

use super::*;

/// A pool that gives out memory full of what others have left, as it may.
fn pool() -> Pool {
    let pool = Pool::default();
    let dirty: Vec<Buf> = (12..23)
        .map(|class| {
            let mut buf = pool.take(1 << class, 0);
            buf.make_mut().fill(SECRET);
            buf
        })
        .collect();
    drop(dirty);
    pool
}

const SECRET: u8 = 0xa5;

/// Bytes that do not shrink.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..len).map(|_| next()).collect()
}

fn text(len: usize) -> Vec<u8> {
    b"the same words over and over ".iter().copied().cycle().take(len).collect()
}

fn format_of(packed: &[u8]) -> &[u8] {
    &packed[packed.len() - 4..]
}

fn said(body: &[u8], plain_len: u32, format: u32) -> Buf {
    Buf::copy_of(&[body, &plain_len.to_le_bytes(), &format.to_le_bytes()].concat())
}

fn refused(packed: &Buf) -> bool {
    unpack(&pool(), packed).is_err_and(|error| error.kind() == ErrorKind::Corrupt)
}

#[test]
fn what_shrinks_is_compressed_and_what_does_not_is_kept_as_it_is() {
    for len in [1000, 4096, 100_000, STRIPE_BYTES_MAX] {
        let plain = text(len);
        let packed = pack(&pool(), &plain).unwrap();
        assert_eq!(format_of(&packed), b"MSP1");
        assert!(packed.len() < len / 5, "{} of {len}", packed.len());
        assert!(unpack(&pool(), &packed).unwrap()[..] == plain);
    }
    for len in [0, 1, 7, 8, 4096, 100_000, STRIPE_BYTES_MAX] {
        let plain = noise(len);
        let packed = pack(&pool(), &plain).unwrap();
        assert_eq!((format_of(&packed), packed.len()), (&b"MSP0"[..], len + PACK_OVERHEAD_BYTES));
        assert!(unpack(&pool(), &packed).unwrap()[..] == plain);
    }
}

#[test]
fn what_shrinks_by_less_than_a_sixteenth_is_kept_as_it_is() {
    let with = |len: usize, shrinks: usize| [noise(len - shrinks), vec![0; shrinks]].concat();
    let format = |plain: &[u8]| format_of(&pack(&pool(), plain).unwrap()).to_owned();
    assert_eq!(format(&with(1 << 16, (1 << 12) - 1)), b"MSP0");
    assert_eq!(format(&with(1 << 16, (1 << 12) + 1024)), b"MSP1");
}

#[test]
fn what_is_kept_as_it_is_comes_back_without_a_copy_and_aligned() {
    let packed = pack(&pool(), &noise(5000)).unwrap();
    let plain = unpack(&pool(), &packed).unwrap();
    assert!(plain.is_aligned());
    assert_eq!(plain.as_ptr(), packed.as_ptr());
}

#[test]
fn a_stripe_over_the_limit_is_refused() {
    let error = pack(&Pool::default(), &vec![0; STRIPE_BYTES_MAX + 1]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge);
    assert!(refused(&Buf::zeroed(PACKED_BYTES_MAX + 1)));
}

#[test]
fn what_no_build_has_written_is_corrupt() {
    for len in 0..PACK_OVERHEAD_BYTES {
        assert!(refused(&Buf::zeroed(len)), "{len} bytes");
    }
    assert!(refused(&said(b"abc", 3, u32::from_le_bytes(*b"MSP2"))), "another format");
    assert!(refused(&said(b"abc", 2, KEPT)), "kept, and of another length");
    assert!(refused(&said(b"abc", 3, COMPRESSED)), "it does not shrink");
    let block = pack(&pool(), &text(1000)).unwrap();
    let block = &block[..block.len() - PACK_OVERHEAD_BYTES];
    assert!(!refused(&said(block, 1000, COMPRESSED)));
    for len in [0, 1, 999, 1001, STRIPE_BYTES_MAX as u32, STRIPE_BYTES_MAX as u32 + 1, u32::MAX] {
        assert!(refused(&said(block, len, COMPRESSED)), "it says {len}");
    }
    assert!(refused(&said(&block[..block.len() - 1], 1000, COMPRESSED)), "cut off");
    // A match that begins before the first byte, or at no distance, would show what the memory held before.
    for distance in [0_u8, 1, 2, 200] {
        let block = [&[0x1f, b'x', distance, 0, 100][..], &[0x50], b"abcde"].concat();
        let packed = said(&block, 1 + 19 + 100 + 5, COMPRESSED);
        match unpack(&pool(), &packed) {
            Ok(plain) => assert!(distance == 1 && !plain.contains(&SECRET), "distance {distance}"),
            Err(error) => assert!(distance != 1 && error.kind() == ErrorKind::Corrupt, "distance {distance}"),
        }
    }
}

/// What [`unpack`] gives of anything: nothing but what it says, and nothing that others have left.
fn bear(bytes: &[u8]) {
    let packed = Buf::copy_of(bytes);
    match unpack(&pool(), &packed) {
        Ok(plain) => {
            let (_, form) = split(&packed).expect("it was understood");
            let said = if let Form::Compressed(len) = form { len } else { bytes.len() - PACK_OVERHEAD_BYTES };
            assert_eq!(plain.len(), said);
        }
        Err(error) => assert_eq!(error.kind(), ErrorKind::Corrupt),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn whatever_is_packed_comes_back(
        pieces in proptest::collection::vec((any::<u8>(), 0..2000_usize, any::<bool>()), 0..40),
    ) {
        let plain: Vec<u8> = pieces
            .iter()
            .flat_map(|&(byte, len, even)| if even { vec![byte; len] } else { noise(len) })
            .collect();
        let pool = pool();
        let packed = pack(&pool, &plain).unwrap();
        prop_assert!(packed.len() <= plain.len() + PACK_OVERHEAD_BYTES);
        prop_assert!(unpack(&pool, &packed).unwrap()[..] == plain);
    }

    #[test]
    fn bears_any_bytes(
        body in proptest::collection::vec(any::<u8>(), 0..600),
        plain_len in prop_oneof![0..2000_u32, any::<u32>()],
        format in prop_oneof![Just(KEPT), Just(COMPRESSED), any::<u32>()],
    ) {
        bear(&body);
        bear(&said(&body, plain_len, format));
        bear(&said(&body, body.len() as u32, format));
    }

    #[test]
    fn bears_a_block_with_any_byte_changed(
        at in any::<proptest::sample::Index>(),
        change in 1..=255_u8,
        cut in any::<proptest::sample::Index>(),
    ) {
        let plain = [text(300), noise(100), vec![7; 300]].concat();
        let mut packed = pack(&pool(), &plain).unwrap().to_vec();
        prop_assert_eq!(format_of(&packed), b"MSP1");
        bear(&packed[..cut.index(packed.len())]);
        let at = at.index(packed.len());
        packed[at] ^= change;
        bear(&packed);
    }
}
