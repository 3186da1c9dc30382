//! Every limit of the mesh, in one place, related to each other by compile-time assertions. Units last.

use core::time::Duration;

/// Plaintext of one stripe at most. Below the ingress no request is larger.
pub const STRIPE_BYTES_MAX: usize = 4 << 20;
/// Plaintext under one authentication tag.
pub const SEGMENT_BYTES: usize = 64 << 10;
/// What a stripe that may be compressed says of its form, behind its bytes.
pub const PACK_OVERHEAD_BYTES: usize = 8;
/// A stripe as it is sealed at most: one that does not shrink, with its form.
pub const PACKED_BYTES_MAX: usize = STRIPE_BYTES_MAX + PACK_OVERHEAD_BYTES;
/// What sealing adds to a stripe at most: a tag a segment and the trailer.
pub const SEAL_OVERHEAD_BYTES_MAX: usize = PACKED_BYTES_MAX.div_ceil(SEGMENT_BYTES) * 16 + 64;
/// Data shards of a stripe at most.
pub const DATA_SHARDS_MAX: usize = 16;
/// Parity shards of a stripe at most.
pub const PARITY_SHARDS_MAX: usize = 8;
/// A payload on a link or in a mailbox at most: a sealed stripe with its padding.
pub const PAYLOAD_BYTES_MAX: usize = STRIPE_BYTES_MAX + 128 * 1024;
/// Alignment of payload memory and of everything on a drive.
pub const ALIGNMENT_BYTES: usize = 4096;
/// Smallest and largest class of the buffer pool.
pub const POOL_CLASS_BYTES_MIN: usize = 4096;
/// See [`POOL_CLASS_BYTES_MIN`].
pub const POOL_CLASS_BYTES_MAX: usize = 8 << 20;
/// Idle memory that a pool keeps at most.
pub const POOL_IDLE_BYTES_MAX: usize = 64 << 20;

/// An envelope's encoded header at most (payload excluded).
pub const HEADER_BYTES_MAX: usize = 2 << 20;
/// A metadata command or answer, encoded, at most.
pub const COMMAND_BYTES_MAX: usize = 1 << 20;
/// Jobs that wait or run in one actor at most.
pub const MAILBOX_JOBS_MAX: usize = 4096;
/// Payload bytes that wait or run in one actor at most.
pub const MAILBOX_BYTES_MAX: usize = 256 << 20;
/// Requests in flight on one link and lane at most.
pub const LINK_JOBS_MAX: usize = 1024;
/// Payload bytes in flight on one link and lane at most.
pub const LINK_BYTES_MAX: usize = 256 << 20;
/// One page of a function's state on its way to another node at most, encoded. Functions keep theirs well below.
pub const SNAPSHOT_PAGE_BYTES_MAX: usize = 1 << 20;
/// Actors that a node reports at most: a whole report of so many is over what a message holds.
pub const NODE_ACTORS_MAX: usize = 1 << 16;
/// Peers that a node says it sees at most.
pub const NODE_PEERS_MAX: usize = 1 << 16;
/// Entries that a function puts into one page at most, so that a page costs well under a millisecond.
pub const SNAPSHOT_PAGE_ENTRIES: usize = 1024;
/// Chains inside chains, in a snapshot, at most.
pub const SNAPSHOT_DEPTH_MAX: usize = 4;
/// Requests that wait at one actor while it moves at most.
pub const PARKED_JOBS_MAX: usize = MAILBOX_JOBS_MAX;
/// Stages in a chain at most.
pub const CHAIN_STAGES_MAX: usize = 16;
/// Stages that one declaration adds to data chains at most; the mesh's and a tenant's own may add up.
pub const CUSTOM_STAGES_MAX: usize = 4;
/// The name of a kind of function at most.
pub const KIND_BYTES_MAX: usize = 64;
/// Settings of an embedder's function at most.
pub const SETTINGS_BYTES_MAX: usize = 4096;
/// Key and value of one entry of carried state together at most: a page holds at least a few.
pub const CARRIED_ENTRY_BYTES_MAX: usize = 64 << 10;

/// An object's key, in bytes of UTF-8, at most.
pub const KEY_BYTES_MAX: usize = 1024;
/// User metadata of an object (names and values together) at most, as S3 has it.
pub const USER_METADATA_BYTES_MAX: usize = 2048;
/// An object put in one request at most, as S3 has it.
pub const OBJECT_PUT_BYTES_MAX: u64 = 5 << 30;
/// A part of a multipart upload at most.
pub const PART_BYTES_MAX: u64 = 5 << 30;
/// A part that is not the last at least, as S3 has it.
pub const PART_BYTES_MIN: u64 = 5 << 20;
/// Parts of an upload at most, numbered from 1.
pub const PARTS_MAX: u32 = 10_000;
/// Keys that one page of a listing holds at most, as S3 has it.
pub const LIST_KEYS_MAX: usize = 1000;
/// Placement exceptions (runs) that one manifest holds at most.
pub const MANIFEST_RUNS_MAX: usize = 64;
/// Drives that a placement group lists at most.
pub const GROUP_DRIVES_MAX: usize = 32;
/// Drives that the groups of all codes of a mesh list for one number: so its layouts still fit in a command.
pub const CODES_DRIVES_MAX: usize = 64;
/// Bytes of a drive's number in a command at most: those of nodes have 16 bits, and a node a thousand.
pub const DRIVE_NUMBER_BYTES_MAX: usize = 5;
/// Bytes of the location of a node at most.
pub const LOCATION_BYTES_MAX: usize = 128;
/// Drives that go out by one command at most.
pub const DRIVES_OUT_MAX: usize = 1024;
/// Placement groups of a layout at most.
pub const LAYOUT_GROUPS_MAX: usize = 4096;
/// Writes granted in one block.
pub const WRITE_BLOCK: u64 = 4096;
/// Commands of one session in one group between the lowest number that is waited for and the highest: so many answers
/// are kept at most.
pub const SESSION_REQUESTS_MAX: u64 = 16_384;
/// Attempts at storing one stripe before its write fails.
pub const STRIPE_ATTEMPTS_MAX: u8 = 16;
/// Writes (objects or parts) open in one ingress at most.
pub const OPEN_WRITES_MAX: usize = 4096;
/// Stripes that one stream of a client keeps in flight.
pub const STREAM_STRIPES: usize = 4;
/// Pieces that one page of a read's plan holds at most.
pub const PLAN_PIECES_MAX: usize = 64;
/// Shards that one list or delete request names at most.
pub const SHARD_BATCH_MAX: usize = 1024;

/// Tenants whose figures a node tells apart at most; what further ones do is told together.
pub const WATCHED_TENANTS_MAX: usize = 64;

/// Budget of a request that names none.
pub const BUDGET_DEFAULT: Duration = Duration::from_secs(30);
/// An open write that nobody touched for so long is dropped.
pub const WRITE_IDLE_MAX: Duration = Duration::from_secs(300);
/// Between two heartbeats of a link.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_millis(500);
/// Between two heartbeats of a DPU to its host and to the controller: its loss must be noticed soon.
pub const DPU_HEARTBEAT_INTERVAL: Duration = Duration::from_millis(50);
/// A DPU that was silent for so long is down.
pub const DPU_SILENCE_MAX: Duration = Duration::from_millis(300);
/// A peer that was silent for so long is down.
pub const HEARTBEAT_SILENCE_MAX: Duration = Duration::from_millis(2000);

const _: () = {
    assert!(STRIPE_BYTES_MAX.is_multiple_of(SEGMENT_BYTES));
    assert!(PACKED_BYTES_MAX + SEAL_OVERHEAD_BYTES_MAX + DATA_SHARDS_MAX * ALIGNMENT_BYTES <= PAYLOAD_BYTES_MAX);
    assert!(PAYLOAD_BYTES_MAX <= POOL_CLASS_BYTES_MAX);
    assert!(PAYLOAD_BYTES_MAX <= MAILBOX_BYTES_MAX && PAYLOAD_BYTES_MAX <= LINK_BYTES_MAX);
    assert!(STREAM_STRIPES * STRIPE_BYTES_MAX <= MAILBOX_BYTES_MAX);
    assert!(STREAM_STRIPES >= 1 && STREAM_STRIPES <= PLAN_PIECES_MAX);
    assert!(COMMAND_BYTES_MAX < HEADER_BYTES_MAX);
    assert!(SESSION_REQUESTS_MAX > MAILBOX_JOBS_MAX as u64);
    assert!(SNAPSHOT_PAGE_BYTES_MAX <= COMMAND_BYTES_MAX && SNAPSHOT_PAGE_BYTES_MAX <= PAYLOAD_BYTES_MAX);
    assert!(2 * CUSTOM_STAGES_MAX + 4 <= CHAIN_STAGES_MAX);
    assert!(4 * CARRIED_ENTRY_BYTES_MAX <= SNAPSHOT_PAGE_BYTES_MAX);
    assert!(KEY_BYTES_MAX + USER_METADATA_BYTES_MAX < 4096);
    assert!(DATA_SHARDS_MAX + PARITY_SHARDS_MAX <= GROUP_DRIVES_MAX);
    assert!(HEARTBEAT_SILENCE_MAX.as_millis() >= 3 * HEARTBEAT_INTERVAL.as_millis());
};
