//! What a function is made from: [`FunctionSpec`]. A function restarts, or starts elsewhere, from its spec alone.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use crate::{
    error::Error,
    id::{ClusterId, DriveId, Epoch, GroupId, KeyId, LayoutId, NodeId, TenantId},
    limits::{KIND_BYTES_MAX, SETTINGS_BYTES_MAX},
    meta::{Grant, Level, TenantLimits},
    shared::SharedMap,
    topology::{DriveState, Layouts, Leaving},
};

/// The kind of a function and its settings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FunctionSpec {
    /// Functions one after another.
    Chain(Vec<Self>),
    /// Who may do what, how fast, how much.
    Policy(PolicySpec),
    /// Objects as stripes and manifests.
    Object(ObjectSpec),
    /// Encryption of stripes.
    Encrypt(EncryptSpec),
    /// Erasure coding of stripes onto drives.
    Erasure(ErasureSpec),
    /// One drive.
    Drive(DriveSpec),
    /// A function that the embedding program brings.
    Custom(CustomSpec),
    /// Functions one after another, of which those from this one on (counted from 0) run elsewhere just now.
    Split(Vec<Self>, u8),
    /// What is stored, in order: repair.
    Keeper(KeeperSpec),
    /// Compression of stripes.
    Compress(CompressSpec),
}

impl FunctionSpec {
    /// The spec itself, or those of a chain's stages: what a function looks through for its own kind.
    pub fn parts(&self) -> impl Iterator<Item = &Self> {
        match self {
            Self::Chain(stages) | Self::Split(stages, _) => stages.iter(),
            single => core::slice::from_ref(single).iter(),
        }
    }

    /// The functions that work here: not those of a chain's that run elsewhere.
    pub fn present(&self) -> impl Iterator<Item = &Self> {
        let count = if let Self::Split(_, cut) = self { usize::from(*cut) } else { usize::MAX };
        self.parts().take(count)
    }

    /// The function's name, as `mesh actors` shows it.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Chain(_) | Self::Split(..) => "chain",
            Self::Policy(_) => "policy",
            Self::Object(_) => "object",
            Self::Encrypt(_) => "encrypt",
            Self::Erasure(_) => "erasure",
            Self::Drive(_) => "drive",
            Self::Keeper(_) => "keeper",
            Self::Compress(_) => "compress",
            Self::Custom(spec) => &spec.kind,
        }
    }
}

/// A function that the embedding program brings: its kind, under which the program has registered how it is made, and
/// its settings, which only the function itself understands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CustomSpec {
    /// The kind: `a` to `z`, digits and `-`, at most `KIND_BYTES_MAX` bytes, not a name of the mesh's own functions.
    pub kind: Arc<str>,
    /// At most `SETTINGS_BYTES_MAX` bytes.
    pub settings: Arc<[u8]>,
}

impl CustomSpec {
    /// A function of a kind, with settings in its own encoding.
    #[must_use]
    pub fn new(kind: impl Into<Arc<str>>, settings: impl Into<Arc<[u8]>>) -> Self {
        Self { kind: kind.into(), settings: settings.into() }
    }

    /// Whether it is within the limits.
    ///
    /// # Errors
    /// `Invalid`: choose another kind, or shorter settings.
    pub fn check(&self) -> Result<(), Error> {
        let letters = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if self.kind.is_empty() || self.kind.len() > KIND_BYTES_MAX || !self.kind.bytes().all(letters) {
            return Err(Error::invalid("a kind of function is named by lower-case letters, digits and dashes")
                .with("kind", self.kind.escape_debug())
                .with("bytes_max", KIND_BYTES_MAX));
        }
        if RESERVED.contains(&&*self.kind) {
            return Err(Error::invalid("the mesh has a function of this name; choose another").with("kind", &self.kind));
        }
        if self.settings.len() > SETTINGS_BYTES_MAX {
            return Err(Error::invalid("the settings of a function are too long")
                .with("kind", &self.kind)
                .with("bytes", self.settings.len())
                .with("limit", SETTINGS_BYTES_MAX));
        }
        Ok(())
    }
}

/// What [`FunctionSpec::name`] calls the mesh's own, and names that may yet be wanted for them.
const RESERVED: [&str; 12] = [
    "chain",
    "policy",
    "object",
    "encrypt",
    "erasure",
    "drive",
    "keeper",
    "compress",
    "replicate",
    "kv-cache",
    "nvmeof",
    "metadata",
];

/// Settings of Policy: one tenant's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicySpec {
    /// The tenant.
    pub tenant: TenantId,
    /// What each of its principals may do.
    pub principals: BTreeMap<Arc<str>, Vec<Grant>>,
    /// What the tenant may use.
    pub limits: TenantLimits,
}

/// How a tenant's data are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Encryption {
    /// Sealed, under data keys that this wrapping key wraps.
    Key(KeyId),
    /// In plain, because somebody chose so.
    None,
}

/// Settings of Object: one ingress node's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectSpec {
    /// The ingress node.
    pub node: NodeId,
    /// The actor's epoch, which its proposals carry.
    pub epoch: Epoch,
    /// The layout for new writes; `None`: there are not enough drives yet.
    pub layout: Option<LayoutId>,
    /// Plaintext bytes of a stripe, at most `STRIPE_BYTES_MAX`.
    pub stripe_bytes: u32,
    /// How each tenant's data are stored. A tenant that is not named here is refused: nobody knows its key yet.
    pub keys: BTreeMap<TenantId, Encryption>,
    /// Namespace groups whose garbage this ingress reclaims.
    pub reclaims: Vec<GroupId>,
    /// Garbage is kept for so long at least after this ingress has seen it, in milliseconds.
    pub reclaim_grace_ms: u64,
    /// Every registered drive, of every layout: where shards of writes that came to nothing may lie.
    pub drives: Vec<DriveId>,
    /// Drives that were declared lost: what they are owed is let go.
    pub lost: Vec<DriveId>,
    /// Every layout that a manifest may name: where shards of the others belong.
    pub layouts: Layouts,
    /// Namespace groups are numbered 1 to this; in each, and in the control group, it begins its life of itself.
    pub namespaces: u16,
}

/// Settings of Encrypt.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EncryptSpec {}

/// Settings of Compress.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompressSpec {}

/// Settings of Erasure.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErasureSpec {
    /// Every layout that a manifest may name.
    pub layouts: Layouts,
    /// What this node sees of each drive. One that is missing here is down.
    pub drives: SharedMap<DriveId, DriveState>,
}

/// Settings of Keeper: one node's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeeperSpec {
    /// Namespace groups whose data it keeps: those that its node leads.
    pub groups: BTreeSet<GroupId>,
    /// Every layout that a manifest may name.
    pub layouts: Layouts,
    /// What this node sees of each drive. One that is missing here is down.
    pub drives: SharedMap<DriveId, DriveState>,
    /// Bytes that it reads and writes for repair in a second at most.
    pub repair_bytes_per_s: u64,
    /// What all nodes of the mesh can do.
    #[serde(default)]
    pub level: Level,
    /// What was moved away is left where it was for so long, for who has read where it is before.
    #[serde(default)]
    pub grace_ms: u64,
    /// All shards are counted so often; 0: only after a change of layouts.
    #[serde(default)]
    pub count_every_ms: u64,
    /// Drives that know of shards of theirs that are damaged.
    #[serde(default)]
    pub damaged: BTreeSet<DriveId>,
    /// Drives that are of no layout to come: nothing waits for those of them that are away.
    #[serde(default)]
    pub leaving: SharedMap<DriveId, Leaving>,
}

/// Settings of Drive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DriveSpec {
    /// The cluster, which must be the superblock's.
    pub cluster: ClusterId,
    /// The drive, which must be the superblock's.
    pub drive: DriveId,
    /// This owner's epoch, from the control group.
    pub epoch: Epoch,
    /// Bytes that the drive may use of its medium, superblock included; 0: all of it.
    pub capacity_bytes: u64,
    /// Bytes of a segment: a multiple of 4 KiB, at least 4 payloads.
    pub segment_bytes: u32,
    /// Everything on the medium is read back in so long; 0: only when it is asked for.
    #[serde(default)]
    pub scrub_every_ms: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_is_a_short_plain_name_that_is_not_taken() {
        let check =
            |kind: &str, bytes: usize| CustomSpec::new(kind, vec![0; bytes]).check().map_err(|error| error.kind());
        assert_eq!(check("content-filter", SETTINGS_BYTES_MAX), Ok(()));
        for kind in ["", "Filter", "a b", "über", "policy", "chain", &"k".repeat(KIND_BYTES_MAX + 1)] {
            assert_eq!(check(kind, 0), Err(crate::ErrorKind::Invalid), "{kind}");
        }
        assert_eq!(check("content-filter", SETTINGS_BYTES_MAX + 1), Err(crate::ErrorKind::Invalid));
    }

    #[test]
    fn every_name_of_the_mesh_s_own_functions_is_reserved() {
        let own = [
            FunctionSpec::Chain(Vec::new()),
            FunctionSpec::Encrypt(EncryptSpec {}),
            FunctionSpec::Erasure(ErasureSpec::default()),
            FunctionSpec::Compress(CompressSpec {}),
        ];
        assert!(own.iter().all(|spec| RESERVED.contains(&spec.name())));
        assert_eq!(FunctionSpec::Custom(CustomSpec::new("mine", [])).name(), "mine");
    }
}
