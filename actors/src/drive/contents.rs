//! The contents of a closed segment, in the last bytes of its slot: what its records are, so that a start need not look at each
//! of them.
//!
//! ```text
//!              | shards, 36 bytes each | tombstones, 24 bytes each | foot, 64 bytes |   end of the slot
//! a shard:     0 8 write   8 4 stripe  12 1 attempt  13 1 shard
//!             16 8 number of the write  24 4 block in the segment  28 4 payload length  32 4 CRC-32C of the payload
//! a tombstone: as in a record of them
//! the foot:    0 8 magic "MESHCONT"
//!              8 4 CRC-32C of all entries and of the foot from 12 on
//!             12 2 format version
//!             16 4 shards  20 4 tombstones  24 4 where the records end: there END stands
//!             32 8 sequence number of the segment   40 8 salt of the segment
//! ```
//!
//! They are written when everything in the segment is durable, beside END, and are believed only whole and of the very segment
//! whose header the slot has: no bytes of an earlier one, and no payload, has its salt. Where there are none (the segment is
//! older than they are, was closed by a start, or had no room left for them) or they are damaged, a start goes from record
//! to record as ever.

use crc_fast::{CrcAlgorithm, Digest};
use mesh_core::id::{ShardId, StripeId, WriteId};

use super::{
    format::{
        BLOCK, FORMAT_VERSION, GRAVE_BYTES, Tombstone, decode_graves, encode_tombstones, put, u16_at, u32_at, u64_at,
    },
    scan::Sighting,
};

/// Bytes that a shard takes in them.
pub(super) const SHARD_BYTES: u32 = 36;
/// Bytes of the foot.
pub(super) const FOOT_BYTES: u32 = 64;
const MAGIC: &[u8; 8] = b"MESHCONT";

/// Records of a segment, in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Contents {
    pub(super) shards: Vec<Sighting>,
    pub(super) tombstones: Vec<Tombstone>,
}

/// Bytes on the medium of contents whose entries take so many, in whole blocks.
pub(super) const fn span(entry_bytes: u32) -> u32 {
    (entry_bytes + FOOT_BYTES).next_multiple_of(BLOCK)
}

/// CRC-32C of the one and then the other.
fn sum(entries: &[u8], foot: &[u8]) -> u32 {
    let mut sum = Digest::new(CrcAlgorithm::Crc32Iscsi);
    sum.update(entries);
    sum.update(foot);
    sum.finalize() as u32
}

/// Whether a drive of so many slots writes contents, and believes them at a start. Where they are few each record is read, which
/// is soon done, and finds at once what has rotted: that keeps its segment until somebody heals or deletes it.
pub(super) const fn are_kept(slots: u32) -> bool {
    slots >= 8
}

/// Whether contents of so many bytes are worth having in a segment: where nearly everything in it are tombstones they are so
/// long that records are as soon read.
pub(super) const fn is_worth(span: u32, segment_bytes: u32) -> bool {
    span <= segment_bytes / 16
}

/// Whose contents they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Foot {
    pub(super) seq: u64,
    pub(super) salt: u64,
    /// Where the records end.
    pub(super) end: u32,
    shards: u32,
    tombstones: u32,
    sum: u32,
}

impl Contents {
    fn entry_bytes(&self) -> u32 {
        self.shards.len() as u32 * SHARD_BYTES + self.tombstones.len() as u32 * GRAVE_BYTES
    }

    /// Bytes on the medium.
    pub(super) fn span(&self) -> u32 {
        span(self.entry_bytes())
    }

    /// What is to stand at the end of a slot, in whole blocks.
    pub(super) fn encode(&self, seq: u64, salt: u64, end: u32) -> Vec<u8> {
        let mut bytes = vec![0; (self.span() - self.entry_bytes() - FOOT_BYTES) as usize];
        let entries = bytes.len();
        for shard in &self.shards {
            let ShardId { stripe: StripeId { write, stripe, attempt }, shard: number } = shard.id;
            let mut entry = [0; SHARD_BYTES as usize];
            put(&mut entry, 0, &write.0.to_le_bytes());
            put(&mut entry, 8, &stripe.to_le_bytes());
            put(&mut entry, 12, &[attempt, number]);
            put(&mut entry, 16, &shard.lsn.to_le_bytes());
            put(&mut entry, 24, &shard.block.to_le_bytes());
            put(&mut entry, 28, &shard.len.to_le_bytes());
            put(&mut entry, 32, &shard.crc.to_le_bytes());
            bytes.extend_from_slice(&entry);
        }
        bytes.extend_from_slice(&encode_tombstones(&self.tombstones));
        let foot = bytes.len();
        bytes.resize(foot + FOOT_BYTES as usize, 0);
        put(&mut bytes, foot, MAGIC);
        put(&mut bytes, foot + 12, &FORMAT_VERSION.to_le_bytes());
        put(&mut bytes, foot + 16, &(self.shards.len() as u32).to_le_bytes());
        put(&mut bytes, foot + 20, &(self.tombstones.len() as u32).to_le_bytes());
        put(&mut bytes, foot + 24, &end.to_le_bytes());
        put(&mut bytes, foot + 32, &seq.to_le_bytes());
        put(&mut bytes, foot + 40, &salt.to_le_bytes());
        let sum = sum(&bytes[entries..foot], &bytes[foot + 12..]);
        put(&mut bytes, foot + 8, &sum.to_le_bytes());
        bytes
    }
}

impl Foot {
    /// Reads the last bytes of a slot; `None`: there is no foot that could be one. Only [`Foot::contents`] says whether it is.
    pub(super) fn decode(slot_end: &[u8], segment_bytes: u32) -> Option<Self> {
        let foot = slot_end.last_chunk::<{ FOOT_BYTES as usize }>()?;
        if &foot[..8] != MAGIC || u16_at(foot, 12) != FORMAT_VERSION {
            return None;
        }
        let foot = Self {
            seq: u64_at(foot, 32),
            salt: u64_at(foot, 40),
            end: u32_at(foot, 24),
            shards: u32_at(foot, 16),
            tombstones: u32_at(foot, 20),
            sum: u32_at(foot, 8),
        };
        // Header, records, END and the contents are beside each other in the slot.
        let fits = foot.span().is_some_and(|span| {
            let used = foot.end.checked_add(BLOCK).and_then(|used| used.checked_add(span));
            used.is_some_and(|used| used <= segment_bytes)
        });
        (fits && foot.end >= BLOCK && foot.end.is_multiple_of(BLOCK)).then_some(foot)
    }

    fn entry_bytes(&self) -> Option<u32> {
        self.shards.checked_mul(SHARD_BYTES)?.checked_add(self.tombstones.checked_mul(GRAVE_BYTES)?)
    }

    /// Bytes on the medium, all of which [`Foot::contents`] wants.
    pub(super) fn span(&self) -> Option<u32> {
        self.entry_bytes()?.checked_add(FOOT_BYTES + BLOCK).map(|bytes| (bytes - BLOCK).next_multiple_of(BLOCK))
    }

    /// Reads the contents out of the last bytes of a slot; `None` if they are damaged, or name what cannot be there.
    pub(super) fn contents(&self, slot_end: &[u8]) -> Option<Contents> {
        let entry_bytes = self.entry_bytes()? as usize;
        let from = slot_end.len().checked_sub(entry_bytes + FOOT_BYTES as usize)?;
        let (entries, foot) = slot_end.get(from..)?.split_at_checked(entry_bytes)?;
        if self.sum != sum(entries, foot.get(12..)?) {
            return None;
        }
        let (shards, graves) = entries.split_at_checked((self.shards * SHARD_BYTES) as usize)?;
        let sighting = |entry: &[u8]| {
            let stripe = StripeId { write: WriteId(u64_at(entry, 0)), stripe: u32_at(entry, 8), attempt: entry[12] };
            let (block, len) = (u32_at(entry, 24), u32_at(entry, 28));
            let end = block.checked_mul(BLOCK)?.checked_add(super::format::span_checked(len)?)?;
            let is_inside = block > 0 && end <= self.end;
            is_inside.then(|| Sighting {
                id: stripe.shard(entry[13]),
                lsn: u64_at(entry, 16),
                block,
                len,
                crc: u32_at(entry, 32),
                corrupt: false,
            })
        };
        let shards: Option<Vec<Sighting>> = shards.chunks_exact(SHARD_BYTES as usize).map(sighting).collect();
        Some(Contents { shards: shards?, tombstones: decode_graves(graves) })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SEGMENT: u32 = 64 * BLOCK;

    fn contents(shards: &[(u64, u32)], tombstones: &[u64]) -> (Contents, u32) {
        let mut at = BLOCK;
        let id = |write: u64| StripeId { write: WriteId(write), stripe: 7, attempt: 1 }.shard(2);
        let shard = |&(write, len): &(u64, u32)| {
            let block = at / BLOCK;
            at += super::super::format::span(len);
            Sighting { id: id(write), lsn: write + 1, block, len, crc: len ^ 5, corrupt: false }
        };
        let shards = shards.iter().map(shard).collect();
        let tombstones = tombstones.iter().map(|&write| Tombstone { id: id(write), lsn: write + 9 }).collect();
        (Contents { shards, tombstones }, at)
    }

    fn read(bytes: &[u8]) -> Option<(Foot, Contents)> {
        let foot = Foot::decode(bytes, SEGMENT)?;
        foot.contents(bytes).map(|contents| (foot, contents))
    }

    proptest! {
        #[test]
        fn they_are_read_as_they_were_written_and_otherwise_not_at_all(
            shards in proptest::collection::vec((any::<u64>(), 0..9000_u32), 0..12),
            tombstones in proptest::collection::vec(0..u64::MAX - 9, 0..200),
            flip in any::<proptest::sample::Index>(),
            bit in 0..8_u8,
            cut in any::<proptest::sample::Index>(),
        ) {
            let shards: Vec<_> = shards.into_iter().map(|(write, len)| (write.min(u64::MAX - 1), len)).collect();
            let (wanted, end) = contents(&shards, &tombstones);
            let bytes = wanted.encode(3, 4, end);
            prop_assert_eq!(bytes.len() as u32, wanted.span());
            let (foot, found) = read(&bytes).unwrap();
            prop_assert_eq!((foot.seq, foot.salt, foot.end, foot.span()), (3, 4, end, Some(wanted.span())));
            prop_assert_eq!(&found, &wanted);
            let mut flipped = bytes.clone();
            flipped[flip.index(bytes.len())] ^= 1 << bit;
            // What stands before the entries is nobody's.
            if let Some((_, found)) = read(&flipped) {
                prop_assert_eq!(found, wanted);
                prop_assert!(flip.index(bytes.len()) < bytes.len() - (foot.entry_bytes().unwrap() + FOOT_BYTES) as usize);
            }
            let cut = cut.index(bytes.len());
            prop_assert!(cut + (foot.entry_bytes().unwrap() + FOOT_BYTES) as usize <= bytes.len() || read(&bytes[cut..]).is_none());
        }

        #[test]
        fn no_bytes_make_it_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..600), segment in 0..40_u32) {
            if let Some(at) = bytes.len().checked_sub(FOOT_BYTES as usize) {
                put(&mut bytes, at, MAGIC);
                put(&mut bytes, at + 12, &FORMAT_VERSION.to_le_bytes());
            }
            if let Some(foot) = Foot::decode(&bytes, segment * BLOCK) {
                prop_assert!(foot.contents(&bytes).is_none(), "a checksum by chance");
            }
        }
    }

    #[test]
    fn records_that_cannot_be_there_are_not_believed() {
        let (mut wanted, end) = contents(&[(1, 100), (2, 5000)], &[]);
        assert!(read(&wanted.encode(3, 4, end)).is_some());
        assert!(read(&wanted.encode(3, 4, end - BLOCK)).is_none(), "behind the end");
        assert!(read(&wanted.encode(3, 4, SEGMENT - BLOCK)).is_none(), "no room for themselves");
        wanted.shards[0].block = 0;
        assert!(read(&wanted.encode(3, 4, end)).is_none(), "where the header is");
        wanted.shards[0] = Sighting { block: 1, len: u32::MAX - 3, ..wanted.shards[0] };
        assert!(read(&wanted.encode(3, 4, end)).is_none());
    }
}
