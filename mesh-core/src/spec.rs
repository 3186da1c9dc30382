//! What a function is made from: [`FunctionSpec`]. A function restarts, or starts elsewhere, from its spec alone.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{
    id::{ClusterId, DriveId, Epoch, GroupId, KeyId, LayoutId, NodeId, TenantId},
    meta::{Grant, TenantLimits},
    topology::{DriveState, Layout},
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
}

impl FunctionSpec {
    /// The spec itself, or those of a chain's stages: what a function looks through for its own kind.
    pub fn parts(&self) -> impl Iterator<Item = &Self> {
        match self {
            Self::Chain(stages) => stages.iter(),
            single => core::slice::from_ref(single).iter(),
        }
    }

    /// The function's name, as `mesh actors` shows it.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Chain(_) => "chain",
            Self::Policy(_) => "policy",
            Self::Object(_) => "object",
            Self::Encrypt(_) => "encrypt",
            Self::Erasure(_) => "erasure",
            Self::Drive(_) => "drive",
        }
    }
}

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
    /// Each tenant's wrapping key. A tenant without one is not encrypted.
    pub keys: BTreeMap<TenantId, KeyId>,
    /// Namespace groups whose garbage this ingress reclaims.
    pub reclaims: Vec<GroupId>,
    /// Garbage is kept for so long, in milliseconds: longer than the longest GET.
    pub reclaim_grace_ms: u64,
    /// Every registered drive, of every layout: where shards of writes that came to nothing may lie.
    pub drives: Vec<DriveId>,
}

/// Settings of Encrypt.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EncryptSpec {}

/// Settings of Erasure.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErasureSpec {
    /// Every layout that a manifest may name.
    pub layouts: BTreeMap<LayoutId, Arc<Layout>>,
    /// What this node sees of each drive. One that is missing here is down.
    pub drives: BTreeMap<DriveId, DriveState>,
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
}
