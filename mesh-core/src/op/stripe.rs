//! What goes down a data chain: a stripe ([`StripeOp`]), and at its end the shards at drives ([`ShardOp`]).
//!
//! Which drives a stripe's shards go to is the layout's to say ([`crate::topology::Table::place`]); the bytes are the
//! payload of the request, never part of these values.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

#[cfg(doc)]
use super::Answer;
use crate::{
    id::{BucketId, DriveId, Epoch, GroupId, LayoutId, ShardId, StripeId, TenantId},
    meta::{Compression, WrappedKey},
    topology::Code,
};

/// What a stripe's ciphertext is bound to, so that no stored bytes can be passed off as others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binding {
    /// Whose.
    pub tenant: TenantId,
    /// The bucket's incarnation.
    pub bucket: BucketId,
    /// The bucket's name, for Policy.
    pub bucket_name: Arc<str>,
    /// The object's key (for a part: the key the upload will become).
    pub object: Arc<str>,
}

/// Which stripe, where, under which key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StripeTarget {
    /// Write, index and attempt.
    pub id: StripeId,
    /// The table that names its drives.
    pub layout: LayoutId,
    /// What it is bound to.
    pub binding: Arc<Binding>,
    /// The data key; `None`: not encrypted.
    pub key: Option<Arc<WrappedKey>>,
    /// Whether its bytes are compressed, each stripe as it says itself. What Compress sends on says [`Compression::Off`]: so
    /// whoever stores a stripe knows that it has been there.
    pub compression: Compression,
    /// In which code it is stored; `None`: the layout's own.
    pub code: Option<Code>,
}

/// Some bytes of a stripe, as it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// The first of them.
    pub start: u32,
    /// How many, 1 at least.
    pub len: u32,
    /// How long the stripe is. Who opens it and finds it of another length fails with `InvalidRange`.
    pub of: u32,
}

impl Part {
    /// Where it is in the stripe, if it is inside.
    #[must_use]
    pub fn range(self) -> Option<core::ops::Range<usize>> {
        let end = self.start.checked_add(self.len).filter(|end| self.len > 0 && *end <= self.of)?;
        Some(usize::try_from(self.start).ok()?..usize::try_from(end).ok()?)
    }
}

/// One stripe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StripeOp {
    /// Stores the payload. Answered by [`Answer::Placed`] when k+m shards are durable on distinct drives.
    Write(StripeTarget),
    /// Gives the payload back. Answered by [`Answer::Done`].
    Read {
        /// Which.
        target: StripeTarget,
        /// As [`Answer::Placed`] said.
        avoid: Vec<DriveId>,
        /// Nothing else of it is wanted: who can give these bytes for less than all does, and whoever cannot gives all. Which it
        /// was is told by the length, so a part is never as long as its stripe.
        part: Option<Part>,
    },
    /// Deletes the shards. [`Answer::Done`] only when every drive that may have one, and is not lost, said so;
    /// [`Answer::Left`] when some did.
    Delete {
        /// Which.
        target: StripeTarget,
        /// As [`Answer::Placed`] said.
        avoid: Vec<DriveId>,
    },
}

impl StripeOp {
    /// Which stripe.
    #[must_use]
    pub const fn target(&self) -> &StripeTarget {
        match self {
            Self::Write(target) | Self::Read { target, .. } | Self::Delete { target, .. } => target,
        }
    }
}

/// How far a drive's log had come: what is written to it later has a greater number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// The drive's epoch: each time that its medium is opened has another.
    pub epoch: Epoch,
    /// Tells its function's starts under one epoch apart: after a panic it may give numbers that it gave before.
    pub start: u64,
    /// The number of the last shard that was written.
    pub lsn: u64,
}

/// For what somebody relies on what a drive has. Deletions of that group's shards by lists that were made before the drive
/// heard of the layout are refused from then on: whoever made them may not have known what is to be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reliance {
    /// Whose writes.
    pub group: GroupId,
    /// The layout in which they are to be at their homes.
    pub layout: LayoutId,
}

/// One shard, at the actor of a drive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ShardOp {
    /// Stores the payload; [`Answer::Done`] when it is durable. The same again: no effect; other bytes under the same
    /// id: `Conflict`.
    Write {
        /// Which.
        id: ShardId,
        /// Whose, for accounting.
        tenant: TenantId,
        /// The code of its stripe.
        code: Code,
        /// Length of the stripe's sealed bytes, before padding and parity.
        sealed_len: u32,
        /// CRC-32C of the payload.
        crc: u32,
    },
    /// Gives a shard back: [`Answer::Shard`]. `NotFound`, `Corrupt`.
    Read {
        /// Which.
        id: ShardId,
    },
    /// Forgets shards; [`Answer::Done`] when that is durable. One that is not there: no effect.
    Delete {
        /// Which, at most `SHARD_BATCH_MAX`.
        ids: Vec<ShardId>,
        /// Leaves what was written since the drive's log had come so far: whoever deletes knows nothing of it. `Conflict` if
        /// the drive has started anew since then, or somebody relies on what it has for a layout that it had not heard of
        /// then: list again. `None`: deletes them whenever they were written.
        until: Option<Head>,
    },
    /// Names shards in ascending order: [`Answer::Shards`].
    List {
        /// Only greater ones.
        after: Option<ShardId>,
        /// At most so many, at most `SHARD_BATCH_MAX`.
        limit: u32,
        /// Whoever asks relies on what is named: what is being deleted is not, and what is known to be damaged is said to
        /// have no bytes.
        relies: Option<Reliance>,
    },
    /// Space and health: [`Answer::Drive`].
    Stat,
    /// Names shards of a group that are known to be damaged, as [`Self::List`] does; what is being written anew or deleted
    /// is not named.
    Damaged {
        /// Of whose writes.
        group: GroupId,
        /// Only greater ones.
        after: Option<ShardId>,
        /// At most so many, at most `SHARD_BATCH_MAX`.
        limit: u32,
    },
    /// Begins to read back everything that is on the medium, from the start and at this rate instead of the usual one;
    /// [`Answer::Done`] at once.
    Scrub {
        /// Bytes a second, at most; 0 is taken for 1.
        rate: u64,
    },
}
