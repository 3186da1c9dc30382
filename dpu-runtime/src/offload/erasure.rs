//! Stripes as shards: cutting, coding, joining.
//!
//! ```text
//!  bytes    |<------------------ len ------------------>|
//!  shards   | 0             | 1             | 2         :000|  k data shards, the last ones padded with zeros
//!           | 3             |  m parity shards: parity[i] = sum over j of c(i, j) * data[j], byte by byte
//!
//!  field    GF(2^8) modulo x^8 + x^4 + x^3 + x^2 + 1 (0x11d)
//!  c(i, j)  1 / ((k + i) xor j)          i < m, j < k: a Cauchy matrix, so that any k of the k+m shards suffice
//!  length   [`shard_len`]: the same for all; ceil(len / k) rounded up
//!           - to 4096 if it is over 3072: data shards are then slices of the stripe that O_DIRECT can write as they are
//!           - to 64 otherwise: small shards are copied into a drive's record anyway, and padding would multiply them
//! ```
//!
//! The coefficients are those of Intel ISA-L's `gf_gen_cauchy1_matrix`. The padding is not stored anywhere else: who
//! decodes must know `len`. A code without parity (m = 0) cuts only; k = 1 stores a shard m+1 times over, the parity
//! ones scaled.

use std::sync::OnceLock;

use crc_fast::{CrcAlgorithm, Digest};
use mesh_core::{
    Buf, Error, ErrorKind, Pool,
    limits::{ALIGNMENT_BYTES, DATA_SHARDS_MAX, PARITY_SHARDS_MAX, PAYLOAD_BYTES_MAX},
    topology::Code,
};
use rusty_erasure::{Coder, Matrix, coder};

/// Length of each shard of `len` bytes cut into `data` shards. See the module's page.
///
/// # Panics
/// If `data` is zero.
#[must_use]
pub const fn shard_len(len: usize, data: usize) -> usize {
    let share = len.div_ceil(data);
    share.next_multiple_of(if share > SMALL_SHARE_BYTES_MAX { ALIGNMENT_BYTES } else { SMALL_STEP_BYTES })
}

/// Codes and decodes. Keeps the tables of each code that was used: there are at most 16 times 8 of them, about a KiB
/// each.
pub struct Erasure {
    coders: Vec<OnceLock<Coder>>,
}

impl core::fmt::Debug for Erasure {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Erasure")
    }
}

impl Default for Erasure {
    fn default() -> Self {
        Self { coders: (0..DATA_SHARDS_MAX * PARITY_SHARDS_MAX).map(|_| OnceLock::new()).collect() }
    }
}

impl Erasure {
    /// Cuts and codes `bytes`: k+m shards, each with its CRC-32C. Data shards share the memory of `bytes` if that is
    /// aligned; nothing is moved if it is also unshared and has room for the padding.
    ///
    /// # Errors
    /// `Invalid` for no bytes or a code over the limits, `TooLarge` for more than `PAYLOAD_BYTES_MAX`.
    pub fn encode(&self, pool: &Pool, code: Code, bytes: Buf) -> Result<Vec<(Buf, u32)>, Error> {
        check(code, bytes.len())?;
        let size = shard_len(bytes.len(), code.data.into());
        let data = cut(pool, bytes, code.data.into(), size);
        let mut parity: Vec<Buf> = (0..code.parity).map(|_| pool.take(size, 0)).collect();

        // Column by column, so that what is coded is still in the cache when it is checked.
        let mut checks: Vec<Digest> = (0..code.shards()).map(|_| Digest::new(CrcAlgorithm::Crc32Iscsi)).collect();
        {
            let mut parity: Vec<&mut [u8]> =
                parity.iter_mut().map(|shard| shard.as_mut().expect("nobody else has a buffer just taken")).collect();
            let coder = self.coder(code)?;
            for column in columns(size, code.shards()) {
                let data: Vec<&[u8]> = data.iter().map(|shard| &shard[column.clone()]).collect();
                let mut parity: Vec<&mut [u8]> = parity.iter_mut().map(|shard| &mut shard[column.clone()]).collect();
                if let Some(coder) = coder {
                    coder.encode(&data, &mut parity).map_err(refused)?;
                }
                let coded = parity.iter().map(|shard| &**shard);
                checks.iter_mut().zip(data.into_iter().chain(coded)).for_each(|(check, part)| check.update(part));
            }
        }
        // The 32-bit checksum stands in the low half.
        Ok(data.into_iter().chain(parity).zip(checks).map(|(shard, check)| (shard, check.finalize() as u32)).collect())
    }

    /// Joins shards, each with its place, into the `len` bytes they were cut from, in a buffer of the pool. Uses the k
    /// lowest places; it cannot tell whether the bytes of a shard are right.
    ///
    /// # Errors
    /// `Invalid` if there are too few shards, or their places or lengths cannot be those of such a stripe.
    pub fn decode(&self, pool: &Pool, code: Code, len: usize, shards: &[(u8, Buf)]) -> Result<Buf, Error> {
        check(code, len)?;
        let (data, size) = (usize::from(code.data), shard_len(len, code.data.into()));
        let mut present: Vec<Option<&[u8]>> = vec![None; code.shards()];
        for (place, shard) in shards {
            let slot = present
                .get_mut(usize::from(*place))
                .ok_or_else(|| Error::invalid("a shard's place is not of this code").with("place", place))?;
            if shard.len() != size {
                return Err(Error::invalid("a shard's length is not that of this stripe's shards")
                    .with("place", place)
                    .with("bytes", shard.len())
                    .with("expected", size));
            }
            if slot.replace(shard).is_some() {
                return Err(Error::invalid("a shard is given twice").with("place", place));
            }
        }
        if shards.len() < data {
            return Err(Error::invalid("too few shards to decode").with("given", shards.len()).with("needed", data));
        }

        let mut joined = pool.take(data * size, 0);
        let target = joined.as_mut().expect("nobody else has a buffer just taken");
        let mut lost: Vec<usize> = Vec::new();
        let mut rebuilt: Vec<&mut [u8]> = Vec::new();
        for (place, target) in target.chunks_exact_mut(size).enumerate() {
            match present[place] {
                Some(shard) => target.copy_from_slice(shard),
                None => {
                    lost.push(place);
                    rebuilt.push(target);
                }
            }
        }
        if !lost.is_empty() {
            let coder = self.coder(code)?.ok_or_else(|| Error::bug("a shard is lost, and the code has no parity"))?;
            coder.recover(&present, &lost, &mut rebuilt).map_err(refused)?;
        }
        joined.truncate(len);
        Ok(joined)
    }

    /// `None` without parity.
    fn coder(&self, code: Code) -> Result<Option<&Coder>, Error> {
        if code.parity == 0 {
            return Ok(None);
        }
        let (data, parity) = (usize::from(code.data), usize::from(code.parity));
        let slot = &self.coders[(data - 1) * PARITY_SHARDS_MAX + parity - 1];
        if let Some(coder) = slot.get() {
            return Ok(Some(coder));
        }
        let made = Matrix::cauchy(data, parity).and_then(coder).map_err(refused)?;
        Ok(Some(slot.get_or_init(|| made)))
    }
}

fn check(code: Code, len: usize) -> Result<(), Error> {
    if !code.is_valid() {
        return Err(Error::invalid("a code over the limits: 1 to 16 data shards, up to 8 parity shards"));
    }
    if len == 0 {
        return Err(Error::invalid("there are no bytes to code"));
    }
    if len > PAYLOAD_BYTES_MAX {
        return Err(Error::new(ErrorKind::TooLarge, "more bytes than a stripe may have").with("bytes", len));
    }
    Ok(())
}

fn refused(error: impl core::error::Error + Send + Sync + 'static) -> Error {
    Error::bug("the erasure coder refused what was checked before").caused_by(error)
}

/// The data shards.
fn cut(pool: &Pool, mut bytes: Buf, data: usize, size: usize) -> Vec<Buf> {
    let (len, total) = (bytes.len(), data * size);
    if len < total && bytes.is_aligned() && bytes.room() >= total && bytes.as_mut().is_some() {
        bytes.grow_zeroed(total);
    }
    if !bytes.is_aligned() {
        bytes = padded(pool, &bytes, total);
    }
    let shard = |place: usize| {
        let (start, end) = (place * size, (place + 1) * size);
        if end <= bytes.len() { bytes.slice(start..end) } else { padded(pool, &bytes[start.min(bytes.len())..], size) }
    };
    (0..data).map(shard).collect()
}

/// A copy of `bytes`, with zeros behind it up to `len`.
fn padded(pool: &Pool, bytes: &[u8], len: usize) -> Buf {
    let mut copy = pool.take(len, 0);
    let (head, tail) = copy.as_mut().expect("nobody else has a buffer just taken").split_at_mut(bytes.len());
    head.copy_from_slice(bytes);
    tail.fill(0);
    copy
}

/// Divides shards into columns of which all `shards` together fit into a core's own cache.
fn columns(size: usize, shards: usize) -> impl Iterator<Item = core::ops::Range<usize>> {
    let step = (CACHE_BYTES / shards).next_multiple_of(ALIGNMENT_BYTES);
    (0..size).step_by(step).map(move |start| start..size.min(start + step))
}

/// Shares of at most so many bytes are rounded up to [`SMALL_STEP_BYTES`]. See the module's page.
const SMALL_SHARE_BYTES_MAX: usize = 3072;
const SMALL_STEP_BYTES: usize = 64;
/// What coding touches at a time: a part of the smallest second-level cache it should run well on (512 KiB).
const CACHE_BYTES: usize = 192 << 10;
