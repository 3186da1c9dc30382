//! What stands on a drive, byte for byte. Owns every codec of the drive; never does I/O.
//!
//! # The medium
//!
//! ```text
//! 0            32 KiB         64 KiB          64 KiB + S        64 KiB + 2S
//! +------------+--------------+---------------+-----------------+-----
//! | superblock | superblock,  | slot 0:       | slot 1:         | ...     S = segment bytes
//! | copy A     | copy B       | a segment     | a segment       |
//! +------------+--------------+---------------+-----------------+-----
//!
//! a segment:
//! 0                4 KiB                                            S
//! +----------------+--------+---------+-----------+-----+------+----+----------+
//! | segment header | record | payload | record    | ... | END  |    | contents |
//! | 4 KiB          | 4 KiB  | k*4 KiB | (inline)  |     | rec. |    |          |
//! +----------------+--------+---------+-----------+-----+------+----+----------+
//! ```
//!
//! A slot that holds no segment has been written never, and is zeros, or has been erased, and has a free mark in its first
//! two blocks. So what was emptied behind the drive's back is not taken for what the drive has erased, and one rotten
//! block does not bring an erased segment back. Records lie one behind the other without gaps. A segment that
//! was closed ends with an END record, and everything before that is durable; at the end of its slot may stand what its records
//! are (see [`super::contents`]), which older builds pass over. Numbers are little-endian. Bytes that a drawing does not name
//! are zero.
//!
//! # Superblock, 4 KiB, twice
//!
//! ```text
//!  0  8  magic "MESHDRV1"
//!  8  4  CRC-32C of bytes 12..512        magic, CRC and version keep their places in every version
//! 12  2  format version
//! 16 16  cluster
//! 32  8  drive
//! 40  8  epoch of the newest owner
//! 48  8  epoch of the owner that formatted the medium: segments of older ones are remains of a former life
//! 56  4  segment bytes
//! 60  4  slots in use; 0: no owner has laid them out yet
//! 64  4  slots reached: every slot below this one has been written durably, and is never zeros again; 0: not known
//! 68  4  segments that were found gone since the medium was formatted
//! 72  8  sequence number of a segment of which something is vouched for; 0: of none
//! 80  4  that segment is durable up to this offset at least: damage below is not a torn write
//! 84  4  the slot that the scrub looks at next
//! 88  8  when a scrub had looked at everything last: milliseconds since 1970; 0: never
//! ```
//!
//! The four from 64 on are the census. It says less than is true at every moment: it is written after what it counts.
//!
//! # Segment header, 4 KiB
//!
//! ```text
//!  0  8  magic "MESHSEG1"
//!  8  4  CRC-32C of bytes 12..128
//! 12  2  format version
//! 16 16  cluster
//! 32  8  drive
//! 40  8  epoch of the owner that opened it
//! 48  8  epoch of the owner that formatted the medium
//! 56  8  sequence number: grows with every segment opened
//! 64  8  salt, random: no payload can pass for a record, and no remains of the slot's former segment can
//! 72  4  segment bytes
//! 76  4  the segment before was durable up to this offset and ended there; 0: not known
//! 80  8  sequence number of the segment before
//! ```
//!
//! # Free mark, 4 KiB, in the first two blocks of a slot
//!
//! ```text
//!  0  8  magic "MESHFREE"
//!  8  4  CRC-32C of bytes 12..128
//! 12  2  format version
//! 16 16  cluster
//! 32  8  drive
//! 48  8  epoch of the owner that formatted the medium
//! ```
//!
//! # Record, 128 bytes at the start of a 4 KiB block
//!
//! ```text
//!   0  4  magic "MREC"
//!   4  4  CRC-32C of bytes 8..128
//!   8  1  kind: 1 shard, 2 tombstones, 3 END
//!   9  1  data shards of the code           10  1  parity shards
//!  11  1  shard                             12  1  attempt
//!  14  2  format version
//!  16  8  sequence number of the segment    24  8  salt of the segment
//!  32  8  number of the write: of two records of one shard the greater counts; a copy keeps it
//!  40  8  tenant
//!  48  8  write                             56  4  stripe
//!  60  4  sealed length
//!  64  4  payload length                    68  4  CRC-32C of the payload
//!  72  4  offset of this record in the segment
//!  76  4  durable: the segment was known durable up to this offset when the record was made
//!  80  4  offset of the payload in the record: 128 (inline, at most 3,968 bytes) or 4096
//! ```
//!
//! # Tombstones: the payload of a record of kind 2, inline, 24 bytes each
//!
//! ```text
//!  0  8  write      8  4  stripe      12  1  attempt      13  1  shard
//! 16  8  number of the write: records of this shard up to this number are deleted
//! ```
//!
//! # Versions
//!
//! | version | since | what changed |
//! |---|---|---|
//! | 1 | 0.1.0 | the first; an erased slot's first block is zeros |
//! | 2 | 0.1.0 | free marks, the census and what a segment says of the one before: so emptied and shortened media are recognised |
//!
//! A medium of version 1 is read, and is of version 2 from its next owner on.

use mesh_core::{
    Buf, Pool,
    id::{ClusterId, DriveId, Epoch, ShardId, StripeId, TenantId, WriteId},
    limits::ALIGNMENT_BYTES,
    time::UnixMillis,
    topology::Code,
    wire::crc32c,
};

/// The format version that this build writes, and the newest that it reads.
pub const FORMAT_VERSION: u16 = 2;
/// The oldest version that this build reads.
const FORMAT_VERSION_MIN: u16 = 1;

/// The unit of everything on the medium.
pub(super) const BLOCK: u32 = ALIGNMENT_BYTES as u32;
/// Where the second superblock is.
pub(super) const SUPERBLOCK_B: u64 = 32 << 10;
/// Where slot 0 begins.
pub(super) const SLOTS_START: u64 = 64 << 10;
/// Bytes of a record's header.
pub(super) const RECORD_BYTES: u32 = 128;
/// The largest payload that stands in its header's block.
pub(super) const INLINE_BYTES_MAX: u32 = BLOCK - RECORD_BYTES;
/// Bytes of one tombstone.
pub(super) const GRAVE_BYTES: u32 = 24;
/// Tombstones of one record at most.
pub(super) const GRAVES_MAX: usize = (INLINE_BYTES_MAX / GRAVE_BYTES) as usize;
/// No payload on a drive is longer, whatever a record says.
const PAYLOAD_MAX: u32 = 1 << 30;

const SUPERBLOCK_MAGIC: &[u8; 8] = b"MESHDRV1";
const SEGMENT_MAGIC: &[u8; 8] = b"MESHSEG1";
const FREE_MAGIC: &[u8; 8] = b"MESHFREE";
const RECORD_MAGIC: &[u8; 4] = b"MREC";
const SUPERBLOCK_SUM: core::ops::Range<usize> = 12..512;
const SEGMENT_SUM: core::ops::Range<usize> = 12..128;
const RECORD_SUM: core::ops::Range<usize> = 8..RECORD_BYTES as usize;

const _: () = {
    assert!(SLOTS_START.is_multiple_of(BLOCK as u64) && SUPERBLOCK_B.is_multiple_of(BLOCK as u64));
    assert!(GRAVES_MAX >= 100);
};

fn word<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("a range of N bytes has N bytes")
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(word(bytes, at))
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(word(bytes, at))
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(word(bytes, at))
}

pub(super) fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

/// What makes a medium this drive's, through all its owners.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) cluster: ClusterId,
    pub(super) drive: DriveId,
    /// The epoch in which the medium was formatted.
    pub(super) born: Epoch,
}

/// The superblock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Superblock {
    pub(super) identity: Identity,
    pub(super) epoch: Epoch,
    pub(super) segment_bytes: u32,
    pub(super) slots: u32,
    pub(super) census: Census,
    pub(super) scrubbed: Scrubbed,
}

/// How far a scrub is. Of two the greater is the newer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Scrubbed {
    /// When one ended last.
    pub(super) ended: UnixMillis,
    /// The slot that it looks at next.
    pub(super) slot: u32,
}

/// What is known to have been on the medium. Of two the greater is the newer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Census {
    /// Segments found gone. First, for with it `reached` may fall.
    pub(super) gone: u32,
    /// The sequence number of a segment, or 0.
    pub(super) seq: u64,
    /// How far that segment is durable.
    pub(super) durable: u32,
    /// Every slot below has been written.
    pub(super) reached: u32,
}

impl Census {
    /// How far it says that a segment is durable.
    pub(super) fn vouches(&self, seq: u64) -> u32 {
        if self.seq == seq { self.durable } else { 0 }
    }
}

/// What one copy of the superblock says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Copy {
    Absent,
    Good(Superblock),
    Newer(u16),
    Damaged(&'static str),
}

impl Superblock {
    /// Writes one copy into a block of zeros.
    pub(super) fn encode(&self, block: &mut [u8]) {
        put(block, 0, SUPERBLOCK_MAGIC);
        put(block, 12, &FORMAT_VERSION.to_le_bytes());
        put(block, 16, &self.identity.cluster.0);
        put(block, 32, &self.identity.drive.0.to_le_bytes());
        put(block, 40, &self.epoch.0.to_le_bytes());
        put(block, 48, &self.identity.born.0.to_le_bytes());
        put(block, 56, &self.segment_bytes.to_le_bytes());
        put(block, 60, &self.slots.to_le_bytes());
        put(block, 64, &self.census.reached.to_le_bytes());
        put(block, 68, &self.census.gone.to_le_bytes());
        put(block, 72, &self.census.seq.to_le_bytes());
        put(block, 80, &self.census.durable.to_le_bytes());
        put(block, 84, &self.scrubbed.slot.to_le_bytes());
        put(block, 88, &self.scrubbed.ended.0.to_le_bytes());
        let sum = crc32c(&block[SUPERBLOCK_SUM]);
        put(block, 8, &sum.to_le_bytes());
    }

    /// Reads one copy.
    pub(super) fn decode(block: &[u8]) -> Copy {
        if block.len() < BLOCK as usize {
            return Copy::Damaged("it is too short");
        }
        if block.iter().all(|&byte| byte == 0) {
            return Copy::Absent;
        }
        if &block[..8] != SUPERBLOCK_MAGIC {
            return Copy::Damaged("it holds something that is not a superblock");
        }
        if u32_at(block, 8) != crc32c(&block[SUPERBLOCK_SUM]) {
            return Copy::Damaged("its superblock fails its checksum");
        }
        match u16_at(block, 12) {
            FORMAT_VERSION_MIN..=FORMAT_VERSION => {}
            0 => return Copy::Damaged("its superblock has version 0"),
            version => return Copy::Newer(version),
        }
        let superblock = Self {
            identity: Identity {
                cluster: ClusterId(word(block, 16)),
                drive: DriveId(u64_at(block, 32)),
                born: Epoch(u64_at(block, 48)),
            },
            epoch: Epoch(u64_at(block, 40)),
            segment_bytes: u32_at(block, 56),
            slots: u32_at(block, 60),
            census: Census {
                gone: u32_at(block, 68),
                seq: u64_at(block, 72),
                durable: u32_at(block, 80),
                reached: u32_at(block, 64),
            },
            scrubbed: Scrubbed { slot: u32_at(block, 84), ended: UnixMillis(u64_at(block, 88)) },
        };
        if !superblock.segment_bytes.is_multiple_of(BLOCK) || superblock.segment_bytes < 4 * BLOCK {
            return Copy::Damaged("its superblock names an impossible segment size");
        }
        Copy::Good(superblock)
    }
}

/// Where a slot begins on the medium.
pub(super) fn slot_at(slot: u32, segment_bytes: u32) -> u64 {
    SLOTS_START + u64::from(slot) * u64::from(segment_bytes)
}

/// The header of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    pub(super) identity: Identity,
    pub(super) epoch: Epoch,
    pub(super) seq: u64,
    pub(super) salt: u64,
    pub(super) segment_bytes: u32,
    /// The segment before, which was wholly durable when this one was opened: its sequence number and its end. Zeros:
    /// not known.
    pub(super) before: (u64, u32),
}

impl SegmentHeader {
    /// Writes the header into a block of zeros.
    pub(super) fn encode(&self, block: &mut [u8]) {
        put(block, 0, SEGMENT_MAGIC);
        put(block, 12, &FORMAT_VERSION.to_le_bytes());
        put(block, 16, &self.identity.cluster.0);
        put(block, 32, &self.identity.drive.0.to_le_bytes());
        put(block, 40, &self.epoch.0.to_le_bytes());
        put(block, 48, &self.identity.born.0.to_le_bytes());
        put(block, 56, &self.seq.to_le_bytes());
        put(block, 64, &self.salt.to_le_bytes());
        put(block, 72, &self.segment_bytes.to_le_bytes());
        put(block, 76, &self.before.1.to_le_bytes());
        put(block, 80, &self.before.0.to_le_bytes());
        let sum = crc32c(&block[SEGMENT_SUM]);
        put(block, 8, &sum.to_le_bytes());
    }

    /// Reads a header; `None` if there is no good one.
    pub(super) fn decode(block: &[u8]) -> Option<Self> {
        if block.len() < SEGMENT_SUM.end
            || &block[..8] != SEGMENT_MAGIC
            || u32_at(block, 8) != crc32c(&block[SEGMENT_SUM])
            || !is_readable(u16_at(block, 12))
        {
            return None;
        }
        Some(Self {
            identity: Identity {
                cluster: ClusterId(word(block, 16)),
                drive: DriveId(u64_at(block, 32)),
                born: Epoch(u64_at(block, 48)),
            },
            epoch: Epoch(u64_at(block, 40)),
            seq: u64_at(block, 56),
            salt: u64_at(block, 64),
            segment_bytes: u32_at(block, 72),
            before: (u64_at(block, 80), u32_at(block, 76)),
        })
    }
}

fn is_readable(version: u16) -> bool {
    (FORMAT_VERSION_MIN..=FORMAT_VERSION).contains(&version)
}

/// Writes a free mark into a block of zeros.
pub(super) fn encode_free(identity: &Identity, block: &mut [u8]) {
    put(block, 0, FREE_MAGIC);
    put(block, 12, &FORMAT_VERSION.to_le_bytes());
    put(block, 16, &identity.cluster.0);
    put(block, 32, &identity.drive.0.to_le_bytes());
    put(block, 48, &identity.born.0.to_le_bytes());
    let sum = crc32c(&block[SEGMENT_SUM]);
    put(block, 8, &sum.to_le_bytes());
}

/// Whether a block is a free mark of this drive.
pub(super) fn is_free(identity: &Identity, block: &[u8]) -> bool {
    block.len() >= SEGMENT_SUM.end
        && &block[..8] == FREE_MAGIC
        && u32_at(block, 8) == crc32c(&block[SEGMENT_SUM])
        && is_readable(u16_at(block, 12))
        && word(block, 16) == identity.cluster.0
        && u64_at(block, 32) == identity.drive.0
        && u64_at(block, 48) == identity.born.0
}

/// What a record holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Shard = 1,
    Tombstones = 2,
    End = 3,
}

/// What a record says of a shard, wherever the record stands: a copy says the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shard {
    pub(super) id: ShardId,
    pub(super) tenant: TenantId,
    pub(super) code: Code,
    pub(super) sealed_len: u32,
    pub(super) len: u32,
    pub(super) crc: u32,
    /// The number of its write.
    pub(super) lsn: u64,
}

/// The header of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) kind: Kind,
    pub(super) seq: u64,
    pub(super) salt: u64,
    pub(super) offset: u32,
    pub(super) durable_upto: u32,
    /// A shard's; of the other kinds only length and CRC of the payload count.
    pub(super) shard: Shard,
}

/// Bytes that a record with a payload of `len` bytes takes on the medium.
pub(super) const fn span(len: u32) -> u32 {
    if len <= INLINE_BYTES_MAX { BLOCK } else { BLOCK + len.next_multiple_of(BLOCK) }
}

/// The same of a length that may be anything; `None`: no record is so long.
pub(super) const fn span_checked(len: u32) -> Option<u32> {
    if len <= PAYLOAD_MAX { Some(span(len)) } else { None }
}

/// Where the payload begins in its record.
pub(super) const fn data_offset(len: u32) -> u32 {
    if len <= INLINE_BYTES_MAX { RECORD_BYTES } else { BLOCK }
}

impl Record {
    /// Bytes on the medium.
    pub(super) const fn span(&self) -> u32 {
        span(self.shard.len)
    }

    /// Where it ends in its segment.
    pub(super) const fn end(&self) -> u32 {
        self.offset + self.span()
    }

    /// Writes the header into the first bytes of a block of zeros.
    pub(super) fn encode(&self, block: &mut [u8]) {
        let Shard { id, tenant, code, sealed_len, len, crc, lsn } = self.shard;
        put(block, 0, RECORD_MAGIC);
        put(block, 8, &[self.kind as u8, code.data, code.parity, id.shard, id.stripe.attempt]);
        put(block, 14, &FORMAT_VERSION.to_le_bytes());
        put(block, 16, &self.seq.to_le_bytes());
        put(block, 24, &self.salt.to_le_bytes());
        put(block, 32, &lsn.to_le_bytes());
        put(block, 40, &tenant.0.to_le_bytes());
        put(block, 48, &id.stripe.write.0.to_le_bytes());
        put(block, 56, &id.stripe.stripe.to_le_bytes());
        put(block, 60, &sealed_len.to_le_bytes());
        put(block, 64, &len.to_le_bytes());
        put(block, 68, &crc.to_le_bytes());
        put(block, 72, &self.offset.to_le_bytes());
        put(block, 76, &self.durable_upto.to_le_bytes());
        put(block, 80, &data_offset(len).to_le_bytes());
        let sum = crc32c(&block[RECORD_SUM]);
        put(block, 4, &sum.to_le_bytes());
    }

    /// Reads a header; `None` if there is no good one. The payload is not looked at.
    pub(super) fn decode(block: &[u8]) -> Option<Self> {
        if block.len() < RECORD_BYTES as usize
            || &block[..4] != RECORD_MAGIC
            || u32_at(block, 4) != crc32c(&block[RECORD_SUM])
            || !is_readable(u16_at(block, 14))
        {
            return None;
        }
        let kind = match block[8] {
            1 => Kind::Shard,
            2 => Kind::Tombstones,
            3 => Kind::End,
            _ => return None,
        };
        let stripe = StripeId { write: WriteId(u64_at(block, 48)), stripe: u32_at(block, 56), attempt: block[12] };
        let record = Self {
            kind,
            seq: u64_at(block, 16),
            salt: u64_at(block, 24),
            offset: u32_at(block, 72),
            durable_upto: u32_at(block, 76),
            shard: Shard {
                id: stripe.shard(block[11]),
                tenant: TenantId(u64_at(block, 40)),
                code: Code { data: block[9], parity: block[10] },
                sealed_len: u32_at(block, 60),
                len: u32_at(block, 64),
                crc: u32_at(block, 68),
                lsn: u64_at(block, 32),
            },
        };
        let len = record.shard.len;
        let sound = len <= PAYLOAD_MAX
            && u32_at(block, 80) == data_offset(len)
            && record.offset.is_multiple_of(BLOCK)
            && record.offset.checked_add(span(len)).is_some()
            && (kind == Kind::Shard || len <= INLINE_BYTES_MAX);
        sound.then_some(record)
    }
}

/// One tombstone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tombstone {
    pub(super) id: ShardId,
    pub(super) lsn: u64,
}

/// The payload of a record of tombstones, at most [`GRAVES_MAX`] of them.
pub(super) fn encode_tombstones(tombstones: &[Tombstone]) -> Vec<u8> {
    let mut bytes = vec![0; tombstones.len() * GRAVE_BYTES as usize];
    for (tombstone, bytes) in tombstones.iter().zip(bytes.chunks_exact_mut(GRAVE_BYTES as usize)) {
        put(bytes, 0, &tombstone.id.stripe.write.0.to_le_bytes());
        put(bytes, 8, &tombstone.id.stripe.stripe.to_le_bytes());
        put(bytes, 12, &[tombstone.id.stripe.attempt, tombstone.id.shard]);
        put(bytes, 16, &tombstone.lsn.to_le_bytes());
    }
    bytes
}

/// Reads the tombstones of a record whose whole block is given; `None` if they fail their checksum.
pub(super) fn decode_tombstones(record: &Record, block: &[u8]) -> Option<Vec<Tombstone>> {
    let payload = block.get(RECORD_BYTES as usize..)?.get(..record.shard.len as usize)?;
    if crc32c(payload) != record.shard.crc || !record.shard.len.is_multiple_of(GRAVE_BYTES) {
        return None;
    }
    Some(decode_graves(payload))
}

/// Tombstones one behind the other, whose checksum somebody else has looked at.
pub(super) fn decode_graves(bytes: &[u8]) -> Vec<Tombstone> {
    let tombstone = |bytes: &[u8]| {
        let stripe = StripeId { write: WriteId(u64_at(bytes, 0)), stripe: u32_at(bytes, 8), attempt: bytes[12] };
        Tombstone { id: stripe.shard(bytes[13]), lsn: u64_at(bytes, 16) }
    };
    bytes.chunks_exact(GRAVE_BYTES as usize).map(tombstone).collect()
}

/// A block of zeros that `fill` has written into.
pub(super) fn block(pool: &Pool, fill: impl FnOnce(&mut [u8])) -> Buf {
    let mut block = pool.take(BLOCK as usize, 0);
    let bytes = block.make_mut();
    bytes.fill(0);
    fill(bytes);
    block
}
