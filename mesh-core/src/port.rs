//! The ports: small traits through which a node gives functions their world. Each has a real and an in-memory
//! implementation; the simulator's fail on purpose.

use std::sync::Arc;

use crate::{
    buf::Buf,
    effect::{Outcome, Principal, WorkOutcome},
    envelope::Envelope,
    error::Error,
    id::{GroupId, KeyId, NodeId, StripeId},
    meta::{Command, MetaAnswer, Query, WrappedKey},
    op::{Binding, Part},
    time::{Instant, UnixMillis},
    topology::Code,
};

/// Called exactly once, from any thread, with what something slow came to. It must not block.
pub type Completion<T> = Box<dyn FnOnce(T) + Send>;

/// Both clocks of a node.
pub trait Clock: Send + Sync {
    /// Monotonic.
    fn now(&self) -> Instant;
    /// For people.
    fn wall(&self) -> UnixMillis;
}

/// The medium of one drive: a flat space of bytes.
pub trait Disk: Send + Sync {
    /// Size and alignment. Does not change.
    fn geometry(&self) -> Geometry;

    /// Begins a job. Jobs may end in any order, also writes: a `Sync` covers the writes that had ended before it was
    /// begun. Never blocks the caller.
    fn start(&self, job: DiskJob, done: Completion<WorkOutcome>);
}

/// What a medium is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Bytes in all.
    pub capacity_bytes: u64,
    /// Offsets, lengths and memory of I/O must be multiples of this; a power of two, at most 4096.
    pub align_bytes: u32,
}

/// One I/O. Offsets and lengths are multiples of 4096.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DiskJob {
    /// Writes the buffers one after another from `at` on. Not durable before a [`Self::Sync`].
    Write {
        /// Offset.
        at: u64,
        /// Each a multiple of 4096 long, in aligned memory.
        bufs: Vec<Buf>,
    },
    /// Reads. Never-written space reads as zeros.
    Read {
        /// Offset.
        at: u64,
        /// Length.
        len: u32,
    },
    /// Makes every write that has ended durable, against power loss too.
    Sync,
    /// Gives space back to the medium; it reads as zeros or as before.
    Discard {
        /// Offset.
        at: u64,
        /// Length.
        len: u64,
    },
}

/// What a piece of work gives.
#[derive(Clone, Debug, PartialEq)]
pub enum WorkOutput {
    /// A write, a sync or a discard has ended.
    Done,
    /// Bytes: of a read, sealed, opened, joined, compressed or not any more.
    Bytes(Buf),
    /// A new data key.
    Key(Arc<WrappedKey>),
    /// k+m shards of equal length, and the CRC-32C of each.
    Shards(Vec<(Buf, u32)>),
    /// What a metadata group said.
    Meta(Arc<MetaAnswer>),
}

/// Work for a core or an accelerator. Pure: the same job gives the same output.
#[derive(Clone, Debug, PartialEq)]
pub enum ComputeJob {
    /// Makes a data key and wraps it under `key`: `Key`.
    WrapKey {
        /// The tenant's key.
        key: KeyId,
        /// 32 bytes for the data key, 12 for the nonce: random.
        entropy: Vec<u8>,
    },
    /// Encrypts a stripe: `Bytes`. See the format in dpu-runtime's `offload::seal`.
    Seal {
        /// The data key.
        key: Arc<WrappedKey>,
        /// Random; the stripe's key derives from it, so that no (key, nonce) ever repeats.
        salt: [u8; 32],
        /// Associated data.
        binding: Arc<Binding>,
        /// Associated data.
        stripe: StripeId,
        /// The plaintext; it is left as it was.
        plain: Buf,
    },
    /// Decrypts a stripe: `Bytes`. `Corrupt` if anything differs from what was sealed.
    Open {
        /// The data key.
        key: Arc<WrappedKey>,
        /// Associated data.
        binding: Arc<Binding>,
        /// Associated data.
        stripe: StripeId,
        /// What `Seal` gave.
        sealed: Buf,
        /// Nothing else of it is wanted: these bytes alone are given. `InvalidRange` if the stripe is not as long as this says.
        part: Option<Part>,
    },
    /// Cuts bytes into k shards, pads them with zeros and codes m parity shards: `Shards`.
    Encode {
        /// k and m.
        code: Code,
        /// The bytes, at least 1.
        bytes: Buf,
    },
    /// Joins shards back into `len` bytes, rebuilding what is missing: `Bytes`.
    Decode {
        /// k and m.
        code: Code,
        /// Length of the original.
        len: u32,
        /// Shards with their places, at least k, of one length.
        shards: Vec<(u8, Buf)>,
    },
    /// Compresses a stripe if that makes it smaller, and says behind it which it was: `Bytes`. See the format in
    /// dpu-runtime's `offload::pack`.
    Compress {
        /// The plaintext; it is left as it was.
        plain: Buf,
    },
    /// Gives back what was compressed: `Bytes`. `Corrupt` if it is not what `Compress` gave.
    Decompress {
        /// What `Compress` gave.
        packed: Buf,
    },
}

/// Does compute jobs.
pub trait Compute: Send + Sync {
    /// Does one job, on the calling thread.
    ///
    /// # Errors
    /// `Corrupt`, `NotFound` (an unknown key), `Invalid`.
    fn run(&self, job: ComputeJob) -> WorkOutcome;

    /// Whether a job is so small that handing it to a worker costs more than doing it.
    fn is_small(&self, job: &ComputeJob) -> bool;
}

/// Resolves key ids. Only compute back ends hold one; functions, snapshots and Raft never see a usable key.
pub trait Keys: Send + Sync {
    /// A tenant's wrapping key.
    fn key(&self, id: KeyId) -> Option<[u8; 32]>;
}

/// The way to other nodes.
pub trait Outbound: Send + Sync {
    /// Sends a request and brings its answer. Fails with `Unreachable` if it was never sent, `LinkLost` or `Timeout`
    /// if it may have been. The returned guard cancels the request when it is dropped before the answer came.
    fn send(&self, to: NodeId, envelope: Envelope, done: Completion<Outcome>) -> CallGuard;
}

/// Cancels a call when dropped.
#[must_use = "dropped, it cancels the call; `forget` lets the call go on"]
pub struct CallGuard(Option<Box<dyn FnOnce() + Send>>);

impl core::fmt::Debug for CallGuard {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("CallGuard")
    }
}

impl CallGuard {
    /// Runs `cancel` when dropped.
    pub fn new(cancel: impl FnOnce() + Send + 'static) -> Self {
        Self(Some(Box::new(cancel)))
    }

    /// Cancels nothing.
    pub const fn none() -> Self {
        Self(None)
    }

    /// Lets the call go on without this guard.
    pub fn forget(mut self) {
        self.0 = None;
    }
}

impl Drop for CallGuard {
    fn drop(&mut self) {
        if let Some(cancel) = self.0.take() {
            cancel();
        }
    }
}

/// The way to the metadata groups, wherever their leaders are.
pub trait Metadata: Send + Sync {
    /// Asks; the answer is linearizable.
    fn query(
        &self,
        group: GroupId,
        query: Arc<Query>,
        deadline: Instant,
        done: Completion<Result<Arc<MetaAnswer>, Error>>,
    );

    /// Changes; the answer comes once the command is durable on a majority of its group and applied.
    fn propose(&self, command: Arc<Command>, deadline: Instant, done: Completion<Result<Arc<MetaAnswer>, Error>>);
}

/// Who is at the other end of a link: what its certificate says, verified.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// A node of the mesh, on a host. Principals in its headers are believed.
    Node(NodeId),
    /// A node of the mesh, on a DPU. Principals in its headers are believed, as far as it may ask.
    Dpu {
        /// Its number.
        node: NodeId,
        /// The host that it is plugged into.
        host: NodeId,
    },
    /// A client; its requests are this principal's, whatever their headers say.
    Client(Principal),
}

/// The way in: what a link brings.
pub trait Inbound: Send + Sync {
    /// Takes a request from a link, its principal already made true ([`Role`]); `done` sends the answer. The returned
    /// guard is dropped when the other end gave up before that.
    fn deliver(&self, from: &Role, envelope: Envelope, done: Completion<Outcome>) -> CallGuard;
}
