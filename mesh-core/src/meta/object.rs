//! What a namespace group holds: objects, the parts and uploads that become objects, and the garbage that they leave.
//!
//! An [`Extent`] says where the bytes of one write are; the rows carry extents, never the bytes
//! themselves.

use core::{fmt, str::FromStr};
use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

use super::WrappedKey;
use crate::{
    error::Error,
    id::{DriveId, LayoutId, ShardId, TenantId, WriteId},
    time::UnixMillis,
    topology::{self, Code, Layouts},
};

/// Whether what is put is compressed before it is encrypted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Compression {
    /// It is stored as it is.
    #[default]
    Off,
    /// Each stripe is compressed if that makes it smaller, and says itself whether it was.
    Auto,
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Off => "off",
            Self::Auto => "auto",
        })
    }
}

/// As [`Display`](fmt::Display) has it.
impl FromStr for Compression {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let known = [Self::Off, Self::Auto].into_iter().find(|one| one.to_string() == text);
        known.ok_or_else(|| Error::invalid("compression is off or auto").with("asked", text.escape_debug()))
    }
}

/// How what is put into a bucket is stored. It is said when the bucket is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BucketSettings {
    /// Whether it is compressed.
    pub compression: Compression,
    /// The code of its stripes; `None`: that of the mesh.
    pub code: Option<Code>,
}

impl BucketSettings {
    /// Whether nothing is to be otherwise than in most buckets.
    #[must_use]
    pub fn is_usual(&self) -> bool {
        *self == Self::default()
    }
}

/// Stripes of one write that differ from the nominal: attempt 0, no drive avoided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// The first stripe.
    pub first: u32,
    /// How many.
    pub count: u32,
    /// The attempt that was stored.
    pub attempt: u8,
    /// Drives that could not be used: the argument of [`Table::place`](topology::Table::place).
    pub avoid: Vec<DriveId>,
    /// Whether shards share a failure domain: repaired first when domains return.
    pub shared: bool,
}

/// Where the bytes of one write (an object, or a part of one) are. Of bounded size.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extent {
    /// The write; stripe ids derive from it.
    pub write: WriteId,
    /// Bytes.
    pub len: u64,
    /// Plaintext bytes of every stripe but the last.
    pub stripe_bytes: u32,
    /// The table that names groups and drives.
    pub layout: LayoutId,
    /// The data key under the tenant's key; `None`: the chain did not encrypt.
    pub key: Option<Arc<WrappedKey>>,
    /// Exceptions, in order of stripes, at most `MANIFEST_RUNS_MAX`.
    pub runs: Vec<Run>,
    /// What the bucket said when it was written: by this it is read, whatever the bucket says by then.
    #[serde(default)]
    pub compression: Compression,
    /// The code of its stripes; `None`: the layout's own.
    #[serde(default)]
    pub code: Option<Code>,
}

impl Extent {
    /// How many stripes there are. An empty write has none.
    #[must_use]
    pub fn stripes(&self) -> u32 {
        if self.stripe_bytes == 0 { 0 } else { self.len.div_ceil(u64::from(self.stripe_bytes)) as u32 }
    }

    /// The exception that covers a stripe.
    #[must_use]
    pub fn run_of(&self, stripe: u32) -> Option<&Run> {
        run_of(&self.runs, stripe)
    }

    /// All its shards are at their homes in this layout now, wherever they were put.
    pub fn settle(&mut self, layout: LayoutId) {
        self.layout = layout;
        settle(&mut self.runs);
    }
}

fn run_of(runs: &[Run], stripe: u32) -> Option<&Run> {
    runs.iter().find(|run| (run.first..run.first.saturating_add(run.count)).contains(&stripe))
}

/// No drive is avoided any more; which attempt was stored remains.
fn settle(runs: &mut Vec<Run>) {
    runs.retain(|run| run.attempt > 0);
    for run in runs {
        run.avoid.clear();
        run.shared = false;
    }
}

/// Which shards are a write's own: what its extent says of them, and nothing else of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    /// The table that names groups and drives.
    pub layout: LayoutId,
    /// How many stripes there are.
    pub stripes: u32,
    /// Exceptions, as in the extent.
    pub runs: Vec<Run>,
    /// The code of its stripes; `None`: the layout's own.
    #[serde(default)]
    pub code: Option<Code>,
}

impl Shape {
    /// Of an extent.
    #[must_use]
    pub fn of(extent: &Extent) -> Self {
        Self { layout: extent.layout, stripes: extent.stripes(), runs: extent.runs.clone(), code: extent.code }
    }

    /// The exception that covers a stripe.
    #[must_use]
    pub fn run_of(&self, stripe: u32) -> Option<&Run> {
        run_of(&self.runs, stripe)
    }

    /// All its shards are at their homes in this layout now, wherever they were put.
    pub fn settle(&mut self, layout: LayoutId) {
        self.layout = layout;
        settle(&mut self.runs);
    }

    /// Whether a shard of the write is its own on that drive: of the attempt that was stored, and where that put it, or at
    /// its home in a later layout. `None`: these layouts do not say.
    #[must_use]
    pub fn owns(&self, layouts: &Layouts, drive: DriveId, id: ShardId) -> Option<bool> {
        let stripe = id.stripe;
        let run = run_of(&self.runs, stripe.stripe);
        if stripe.stripe >= self.stripes || stripe.attempt != run.map_or(0, |run| run.attempt) {
            return Some(false);
        }
        let avoid = run.map_or(&[][..], |run| &run.avoid);
        let holders = topology::holders(layouts, self.layout, self.code, stripe, avoid)?;
        Some(holders.get(usize::from(id.shard)).is_some_and(|holders| holders.contains(&drive)))
    }
}

/// What a group says of a write.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reference {
    /// Nobody refers to it, and nobody ever will.
    Nobody,
    /// It may be used yet: of a block that is open, or not granted.
    Open,
    /// It is in use, or garbage, with these shards; `None`: it has none of its own.
    Used(Option<Shape>),
}

/// What a look at everything that a group has stored has found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// For which layout it was looked at; 0: never.
    pub layout: LayoutId,
    /// When it ended, by the clock of who looked.
    pub at: UnixMillis,
    /// Writes in use.
    pub writes: u64,
    /// Shards that are to be at their homes.
    pub shards: u64,
    /// Those of them that were not there, or damaged, and have been rebuilt since.
    pub healed: u64,
    /// Shards that were elsewhere as well, and have been deleted there.
    pub cleared: u64,
    /// Writes of which fewer shards are left than it takes to read them: nothing brings them back.
    #[serde(default)]
    pub lost: u64,
}

/// How far a group's data are at the homes that a layout gives them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepairState {
    /// What is committed under an older layout than this one is remembered as unsettled.
    pub marked: LayoutId,
    /// What is not remembered as unsettled has all its shards at its homes in this layout, but for what is lost.
    pub settled: LayoutId,
    /// How many writes are unsettled.
    pub unsettled: u64,
    /// The line of those layouts, once it is known which of the older ones are of it: then what is settled is said to be where
    /// `settled` has it. 0: not yet.
    #[serde(default)]
    pub line: u32,
    /// What the last look at all shards has found.
    #[serde(default)]
    pub count: Count,
}

/// A page of writes that are in use.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsesPage {
    /// Which shards are theirs; `None`: it has none that are in use, any more.
    pub writes: Vec<(WriteId, Option<Shape>)>,
    /// There are more: `after` of the next page.
    pub next: Option<WriteId>,
}

/// What a user gave with an object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attributes {
    /// `Content-Type` and the other standard headers that S3 keeps (`cache-control`, `content-encoding`, …), by
    /// lower-case name.
    pub headers: BTreeMap<String, String>,
    /// `x-amz-meta-…`, by lower-case name without the prefix.
    pub user: BTreeMap<String, String>,
    /// Additional checksums, such as `crc32` or `crc64nvme`, in S3's base64 form.
    pub checksums: BTreeMap<String, String>,
}

/// The bytes of an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Body {
    /// One write.
    Whole(Extent),
    /// The parts of a completed upload, rows of their own.
    Parts {
        /// The upload.
        upload: WriteId,
        /// How many parts.
        count: u32,
    },
}

/// One version of an object: the manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectRow {
    /// The write that made it: unique, and the version.
    pub version: WriteId,
    /// Bytes.
    pub len: u64,
    /// Without quotes.
    pub etag: String,
    /// When it was put.
    pub modified: UnixMillis,
    /// What the user gave.
    pub attributes: Attributes,
    /// Where the bytes are.
    pub body: Body,
}

/// One part of an upload, or of the object it became.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartRow {
    /// 1 to 10,000, as the client numbered it.
    pub number: u32,
    /// Where it begins in the object; 0 until the upload is completed.
    pub offset: u64,
    /// Without quotes.
    pub etag: String,
    /// Additional checksums.
    pub checksums: BTreeMap<String, String>,
    /// When it was put.
    pub modified: UnixMillis,
    /// Where the bytes are.
    pub extent: Extent,
}

/// A multipart upload that is not completed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UploadRow {
    /// Its number; clients see it as text.
    pub upload: WriteId,
    /// The key it will become.
    pub key: String,
    /// What the user gave.
    pub attributes: Attributes,
    /// When it was begun.
    pub created: UnixMillis,
    /// Who began it.
    pub principal: String,
}

/// A write that no object refers to any more: its shards are to be deleted after a grace period.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Garbage {
    /// Whose it was.
    pub tenant: TenantId,
    /// The group's stamp: about when it became garbage, by the clock of whoever caused that, and in any case later than
    /// the stamps of all that was garbage before.
    pub since: UnixMillis,
    /// What to delete.
    pub extent: Extent,
}

/// A place in a group's garbage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct GarbageMark {
    /// The stamp.
    pub since: UnixMillis,
    /// The object, upload or part that became garbage.
    pub write: WriteId,
    /// The part's number, of what has parts; else 0.
    pub part: u32,
}

/// A page of a group's garbage.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GarbagePage {
    /// By their stamps.
    pub rows: Vec<Garbage>,
    /// There are more: `after` of the next page.
    pub next: Option<GarbageMark>,
    /// The newest stamp that the group has given: everything that becomes garbage from now on bears a later one.
    pub newest: UnixMillis,
    /// Drives that are owed deletions, ascending.
    pub owing: Vec<DriveId>,
}
