//! The packed stripe: compressed if that makes it smaller, and in either case with the word of which it is.
//!
//! ```text
//!  0                         len - 8       len - 4       len
//!  +-------------------------+-------------+-------------+
//!  | body                    | plain_len   | format      |
//!  |                         | u32 LE      | u32 LE      |
//!  +-------------------------+-------------+-------------+
//!
//!  format     "MSP0": the body is the plaintext, plain_len bytes
//!             "MSP1": the body is one LZ4 block that gives plain_len bytes, and shorter than those
//! ```
//!
//! That it stands behind keeps the alignment of what is kept as it is, and taking it off copies nothing. A stripe is
//! compressed if that saves a sixteenth of it: less than that is not worth decompressing it whole for every range that is
//! read. No length is believed before it is bounded: whatever a block says of itself, it gives exactly what the trailer says,
//! into memory of that length, or `Corrupt`.

use lz4_flex::block::{compress_into, decompress_into, get_maximum_output_size};
use mesh_core::{
    Buf, Error, ErrorKind, Pool,
    limits::{PACK_OVERHEAD_BYTES, PACKED_BYTES_MAX, PAYLOAD_BYTES_MAX, STRIPE_BYTES_MAX},
};

/// Compresses `plain` if that makes it smaller, into a buffer of the pool that has room to be padded for coding.
///
/// # Errors
/// `TooLarge` for more than `STRIPE_BYTES_MAX`.
pub fn pack(pool: &Pool, plain: &[u8]) -> Result<Buf, Error> {
    let plain_len = match u32::try_from(plain.len()) {
        Ok(len) if plain.len() <= STRIPE_BYTES_MAX => len,
        _ => {
            return Err(Error::new(ErrorKind::TooLarge, "a stripe is longer than the limit")
                .with("bytes", plain.len())
                .with("limit", STRIPE_BYTES_MAX));
        }
    };
    // The codec wants room for what grows; what it gives moves on to memory of its own length, so that a stripe on its way
    // to the drives holds no more than it has.
    let mut scratch = pool.take(get_maximum_output_size(plain.len()), 0);
    let target = scratch.as_mut().expect("nobody else has a buffer just taken");
    let block = compress_into(plain, target).ok().and_then(|len| target.get(..len));
    let block = block.ok_or_else(|| Error::bug("LZ4 refused to compress into enough room"))?;
    let is_worth_it = block.len() + PACK_OVERHEAD_BYTES + plain.len() / SAVED_PART_MIN <= plain.len();
    Ok(if is_worth_it { framed(pool, block, plain_len, COMPRESSED) } else { framed(pool, plain, plain_len, KEPT) })
}

/// Gives back what was given to [`pack`]: a part of `packed`, or a buffer of the pool.
///
/// # Errors
/// `Corrupt` if it is not what [`pack`] gave.
pub fn unpack(pool: &Pool, packed: &Buf) -> Result<Buf, Error> {
    let Some((body, form)) = split(packed) else {
        return Err(Error::new(ErrorKind::Corrupt, "not a packed stripe of a format known here"));
    };
    match form {
        Form::Kept => Ok(packed.slice(..body.len())),
        Form::Compressed(plain_len) => {
            let mut plain = pool.take(plain_len, 0);
            let target = plain.as_mut().expect("nobody else has a buffer just taken");
            match decompress_into(body, target) {
                Ok(len) if len == plain_len => Ok(plain),
                // What it has written, if anything, goes with the buffer: nobody sees it.
                _ => Err(Error::new(ErrorKind::Corrupt, "a stripe does not give what it says when it is decompressed")
                    .with("bytes", body.len())
                    .with("plain_bytes", plain_len)),
            }
        }
    }
}

/// How many bytes [`unpack`] gives, if it gives any.
#[must_use]
pub(super) fn plain_len(packed: &[u8]) -> usize {
    match split(packed) {
        Some((_, Form::Compressed(len))) => len,
        // Nothing is written.
        Some((_, Form::Kept)) | None => 0,
    }
}

/// What a stripe says of its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Kept,
    /// With the length of the plaintext.
    Compressed(usize),
}

/// `None` unless every length agrees with every other and none is over its limit.
fn split(packed: &[u8]) -> Option<(&[u8], Form)> {
    if packed.len() > PACKED_BYTES_MAX {
        return None;
    }
    let (rest, format) = packed.split_last_chunk::<4>()?;
    let (body, plain_len) = rest.split_last_chunk::<4>()?;
    let plain_len = usize::try_from(u32::from_le_bytes(*plain_len)).ok().filter(|len| *len <= STRIPE_BYTES_MAX)?;
    match u32::from_le_bytes(*format) {
        KEPT if body.len() == plain_len => Some((body, Form::Kept)),
        COMPRESSED if body.len() < plain_len => Some((body, Form::Compressed(plain_len))),
        _ => None,
    }
}

fn framed(pool: &Pool, body: &[u8], plain_len: u32, format: u32) -> Buf {
    let mut packed = pool.take(body.len() + PACK_OVERHEAD_BYTES, SPARE_BYTES);
    let target = packed.as_mut().expect("nobody else has a buffer just taken");
    let (body_at, trailer) = target.split_at_mut(body.len());
    body_at.copy_from_slice(body);
    trailer[..4].copy_from_slice(&plain_len.to_le_bytes());
    trailer[4..].copy_from_slice(&format.to_le_bytes());
    packed
}

const KEPT: u32 = u32::from_le_bytes(*b"MSP0");
const COMPRESSED: u32 = u32::from_le_bytes(*b"MSP1");
/// So small a part of a stripe is saved at least.
const SAVED_PART_MIN: usize = 16;
/// Room behind a packed stripe for its padding, so that coding it moves nothing where it is not sealed.
const SPARE_BYTES: usize = PAYLOAD_BYTES_MAX - PACKED_BYTES_MAX;

#[cfg(test)]
mod tests;
