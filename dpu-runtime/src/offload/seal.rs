//! The sealed stripe: encrypted and authenticated, with everything in it that opening it needs but the key.
//!
//! ```text
//!  0                   plain_len            + 16 * segments      + 32        + 4       + 4
//!  +-------------------+--------------------+--------------------+-----------+---------+
//!  | ciphertext        | tags               | salt               | plain_len | format  |
//!  | plain_len bytes   | 16 bytes a segment | 32 bytes           | u32 LE    | u32 LE  |
//!  +-------------------+--------------------+--------------------+-----------+---------+
//!
//!  segments      max(1, ceil(plain_len / 65536)); each covers 64 KiB of plaintext, the last one what is left
//!  cipher        AES-256-GCM, one tag a segment
//!  key           HKDF-SHA256(secret = data key, salt = salt, info = "mesh stripe v1"), 32 bytes
//!  nonce         index of the segment, u32 LE, then 8 zero bytes
//!  associated    context, 32 bytes | index of the segment, u32 LE | segments, u32 LE
//!  context       SHA-256("mesh stripe v1" | tenant u64 LE | bucket u64 LE | write u64 LE | stripe u32 LE |
//!                        attempt u8 | plain_len u32 LE | format u32 LE | object's key, UTF-8, to the end)
//!  format        "MSS1"
//! ```
//!
//! Why it is safe: the salt is random and 256 bits long, so every attempt at a stripe has a key of its own and the
//! nonces may simply count; no resend, zombie or restored snapshot can repeat a (key, nonce). Whatever is cut off,
//! swapped, or passed off as another stripe, object or tenant fails a tag. The ciphertext stands first so that it
//! keeps the alignment of the plaintext; the trailer goes where the room is. The bucket's name is not bound, its
//! incarnation is.

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey},
    digest::{Context, SHA256},
    hkdf::{HKDF_SHA256, Salt},
};
use mesh_core::{
    Buf, Error, ErrorKind, Pool,
    id::StripeId,
    limits::{PACKED_BYTES_MAX, PAYLOAD_BYTES_MAX, SEAL_OVERHEAD_BYTES_MAX, SEGMENT_BYTES},
    op::{Binding, Part},
};

use super::keys::{DataKey, NONCE_BYTES, TAG_BYTES};

/// Bytes of the salt.
pub const SALT_BYTES: usize = 32;

/// Encrypts `plain` into a buffer of the pool that has room to be padded for coding.
///
/// # Errors
/// `TooLarge` for more than `PACKED_BYTES_MAX`.
pub fn seal(
    pool: &Pool,
    key: &DataKey,
    salt: &[u8; SALT_BYTES],
    binding: &Binding,
    stripe: StripeId,
    plain: &[u8],
) -> Result<Buf, Error> {
    if plain.len() > PACKED_BYTES_MAX {
        return Err(Error::new(ErrorKind::TooLarge, "a stripe is longer than the limit")
            .with("bytes", plain.len())
            .with("limit", PACKED_BYTES_MAX));
    }
    let cipher = stripe_cipher(key, salt)?;
    let segments = Segments::of(plain.len());
    let context = context(binding, stripe, plain.len());

    let mut sealed = pool.take(segments.sealed_len(), SPARE_BYTES);
    let target = sealed.as_mut().expect("nobody else has a buffer just taken");
    let (ciphertext, rest) = target.split_at_mut(plain.len());
    let (tags, trailer) = rest.split_at_mut(segments.count() * TAG_BYTES);
    for (index, tag) in tags.chunks_exact_mut(TAG_BYTES).enumerate() {
        let range = segments.range(index);
        let associated = Aad::from(segments.associated(&context, index));
        cipher
            .seal_out_of_place_scatter(
                nonce(index),
                associated,
                &plain[range.clone()],
                &mut ciphertext[range],
                &[],
                tag,
            )
            .map_err(|_| Error::bug("AES-GCM refused to seal a segment"))?;
    }
    let (salt_at, lengths) = trailer.split_at_mut(SALT_BYTES);
    salt_at.copy_from_slice(salt);
    lengths[..4].copy_from_slice(&segments.plain_len().to_le_bytes());
    lengths[4..].copy_from_slice(&FORMAT.to_le_bytes());
    Ok(sealed)
}

/// Decrypts what [`seal`] gave, into a buffer of the pool: all of it, or the segments that have this `part`, and of those the part
/// alone.
///
/// # Errors
/// `Corrupt` if a bit of what is decrypted, of the binding, of the stripe's id or of the key differs from what was sealed;
/// `InvalidRange` if the part is of a stripe of another length, `Invalid` if it lies outside its own.
pub fn open(
    pool: &Pool,
    key: &DataKey,
    binding: &Binding,
    stripe: StripeId,
    sealed: &[u8],
    part: Option<Part>,
) -> Result<Buf, Error> {
    let trailer = Trailer::read(sealed)
        .ok_or_else(|| Error::new(ErrorKind::Corrupt, "not a sealed stripe of a format known here"))?;
    let Trailer { segments, ciphertext, tags, salt } = trailer;
    let cipher = stripe_cipher(key, salt)?;
    let context = context(binding, stripe, ciphertext.len());

    let part = match part {
        Some(part) if usize::try_from(part.of).ok() != Some(ciphertext.len()) => {
            let what = "the stripe is of another length than who reads a part of it thinks";
            return Err(Error::new(ErrorKind::InvalidRange, what)
                .with("bytes", ciphertext.len())
                .with("said", part.of));
        }
        Some(part) => part.range().ok_or_else(|| Error::invalid("a part lies outside its stripe"))?,
        None => 0..ciphertext.len(),
    };
    let wanted = segments.with(&part);
    let covered = segments.range(wanted.start).start..segments.range(wanted.end - 1).end;
    let mut plain = pool.take(covered.len(), 0);
    let target = plain.as_mut().expect("nobody else has a buffer just taken");
    for (index, tag) in tags.chunks_exact(TAG_BYTES).enumerate().take(wanted.end).skip(wanted.start) {
        let range = segments.range(index);
        let associated = Aad::from(segments.associated(&context, index));
        let there = range.start - covered.start..range.end - covered.start;
        cipher.open_separate_gather(nonce(index), associated, &ciphertext[range], tag, &mut target[there]).map_err(
            |_| {
                Error::new(ErrorKind::Corrupt, "a stripe fails its authentication: damaged, or of another object")
                    .with("segment", index)
            },
        )?;
    }
    Ok(plain.slice(part.start - covered.start..part.end - covered.start))
}

/// About how many bytes [`open`] decrypts of so many.
#[must_use]
pub fn opened_len(sealed: usize, part: Option<Part>) -> usize {
    let parts = part.and_then(Part::range).map(|range| Segments::of(sealed).with(&range).len() * SEGMENT_BYTES);
    parts.map_or(sealed, |parts| parts.min(sealed))
}

/// How many bytes [`seal`] makes of `plain_len`.
#[must_use]
pub const fn sealed_len(plain_len: usize) -> usize {
    Segments::of(plain_len).sealed_len()
}

/// How a plaintext is divided.
#[derive(Clone, Copy)]
struct Segments {
    plain_len: usize,
}

impl Segments {
    const fn of(plain_len: usize) -> Self {
        Self { plain_len }
    }

    /// An empty plaintext has one segment too: its tag authenticates the emptiness.
    const fn count(self) -> usize {
        if self.plain_len == 0 { 1 } else { self.plain_len.div_ceil(SEGMENT_BYTES) }
    }

    const fn sealed_len(self) -> usize {
        self.plain_len + self.count() * TAG_BYTES + TRAILER_BYTES
    }

    /// At most `PACKED_BYTES_MAX`, which fits.
    const fn plain_len(self) -> u32 {
        self.plain_len as u32
    }

    fn range(self, index: usize) -> core::ops::Range<usize> {
        let start = index * SEGMENT_BYTES;
        start..self.plain_len.min(start + SEGMENT_BYTES)
    }

    /// The segments that have these bytes; of none the first.
    const fn with(self, bytes: &core::ops::Range<usize>) -> core::ops::Range<usize> {
        let first = bytes.start / SEGMENT_BYTES;
        let end = bytes.end.div_ceil(SEGMENT_BYTES);
        first..if end > first { end } else { first + 1 }
    }

    fn associated(self, context: &[u8; 32], index: usize) -> [u8; 40] {
        let mut bytes = [0; 40];
        bytes[..32].copy_from_slice(context);
        bytes[32..36].copy_from_slice(&(index as u32).to_le_bytes());
        bytes[36..].copy_from_slice(&(self.count() as u32).to_le_bytes());
        bytes
    }
}

/// A sealed stripe, taken apart but not yet believed.
struct Trailer<'a> {
    segments: Segments,
    ciphertext: &'a [u8],
    tags: &'a [u8],
    salt: &'a [u8; SALT_BYTES],
}

impl<'a> Trailer<'a> {
    /// `None` unless every length agrees with every other.
    fn read(sealed: &'a [u8]) -> Option<Self> {
        let (rest, format) = sealed.split_last_chunk::<4>()?;
        let (rest, plain_len) = rest.split_last_chunk::<4>()?;
        let (rest, salt) = rest.split_last_chunk::<SALT_BYTES>()?;
        let plain_len = usize::try_from(u32::from_le_bytes(*plain_len)).ok()?;
        let segments = Segments::of(plain_len);
        let sound = u32::from_le_bytes(*format) == FORMAT
            && plain_len <= PACKED_BYTES_MAX
            && sealed.len() == segments.sealed_len();
        let (ciphertext, tags) = if sound { rest.split_at_checked(plain_len)? } else { return None };
        Some(Self { segments, ciphertext, tags, salt })
    }
}

fn stripe_cipher(key: &DataKey, salt: &[u8; SALT_BYTES]) -> Result<LessSafeKey, Error> {
    let derived = Salt::new(HKDF_SHA256, salt).extract(key.bytes());
    let unbound: UnboundKey = derived
        .expand(&[LABEL], &AES_256_GCM)
        .map_err(|_| Error::bug("HKDF refused to derive a key of 32 bytes"))?
        .into();
    Ok(LessSafeKey::new(unbound))
}

fn context(binding: &Binding, stripe: StripeId, plain_len: usize) -> [u8; 32] {
    let mut hash = Context::new(&SHA256);
    hash.update(LABEL);
    hash.update(&binding.tenant.0.to_le_bytes());
    hash.update(&binding.bucket.0.to_le_bytes());
    hash.update(&stripe.write.0.to_le_bytes());
    hash.update(&stripe.stripe.to_le_bytes());
    hash.update(&[stripe.attempt]);
    hash.update(&Segments::of(plain_len).plain_len().to_le_bytes());
    hash.update(&FORMAT.to_le_bytes());
    hash.update(binding.object.as_bytes());
    hash.finish().as_ref().try_into().expect("SHA-256 gives 32 bytes")
}

fn nonce(index: usize) -> Nonce {
    let mut bytes = [0; NONCE_BYTES];
    bytes[..4].copy_from_slice(&(index as u32).to_le_bytes());
    Nonce::assume_unique_for_key(bytes)
}

const LABEL: &[u8] = b"mesh stripe v1";
const FORMAT: u32 = u32::from_le_bytes(*b"MSS1");
const TRAILER_BYTES: usize = SALT_BYTES + 4 + 4;
/// Room behind a sealed stripe for its padding, so that coding it moves nothing.
const SPARE_BYTES: usize = PAYLOAD_BYTES_MAX - PACKED_BYTES_MAX;

const _: () = assert!(sealed_len(PACKED_BYTES_MAX) <= PACKED_BYTES_MAX + SEAL_OVERHEAD_BYTES_MAX);
