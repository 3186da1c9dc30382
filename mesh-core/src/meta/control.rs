//! What the control group holds: buckets, tenants, principals and access keys, and the view of it that everybody works
//! with.
//!
//! Nodes, drives and layouts are in [`crate::topology`], places of actors in [`crate::assignment`]; the view only names
//! them. Secrets stand here only under a wrapping key, never open.

use core::fmt;
use std::{collections::BTreeSet, sync::Arc};

use serde::{Deserialize, Serialize};

use super::{BucketSettings, Level};
use crate::{
    Bytes,
    assignment::{Assignment, Scope, Tail, Wish},
    error::Error,
    id::{ActorId, BucketId, ClusterId, DriveId, GroupId, KeyId, NodeId, TenantId},
    shared::SharedMap,
    spec::CustomSpec,
    time::UnixMillis,
    topology::{Code, Departure, DriveInfo, Layouts, Leaving, NodeInfo, NodeKind, Places},
};

/// A secret under a wrapping key, with AES-256-GCM: 12 bytes of nonce, then ciphertext and tag.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WrappedKey {
    /// The wrapping key: a tenant's, or [`KeyId`] 0 for the cluster key, which lives only in node keyrings.
    pub key: KeyId,
    /// The nonce.
    pub nonce: [u8; 12],
    /// Ciphertext and tag.
    pub sealed: Vec<u8>,
}

impl fmt::Debug for WrappedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WrappedKey({})", self.key)
    }
}

/// One incarnation of a bucket, with what every request about it needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BucketRef {
    /// The incarnation.
    pub id: BucketId,
    /// Its name.
    pub name: Arc<str>,
    /// Whose it is.
    pub tenant: TenantId,
    /// The namespace group that owns its keys.
    pub group: GroupId,
}

/// A bucket, in the control group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BucketRow {
    /// What requests carry.
    pub bucket: BucketRef,
    /// When it was made.
    pub created: UnixMillis,
    /// How what is put into it is stored.
    #[serde(default)]
    pub settings: BucketSettings,
}

/// A tenant, in the control group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantRow {
    /// Its number.
    pub id: TenantId,
    /// Its name.
    pub name: String,
    /// The id of its wrapping key.
    pub key: KeyId,
    /// That key under the cluster key.
    pub wrapped: WrappedKey,
    /// Limits.
    pub limits: TenantLimits,
}

/// A key that a tenant had before: what was stored under it is read with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PastKey {
    /// Whose.
    pub tenant: TenantId,
    /// That key under the cluster key.
    pub wrapped: WrappedKey,
}

/// A tenant that was deleted, until all of it is gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndedTenant {
    /// Its name, which no other tenant gets.
    pub name: String,
    /// When, by the clock of who proposed it.
    pub since: UnixMillis,
}

/// What a tenant may use. `None`: no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantLimits {
    /// Bytes stored (as the user counts them, before coding), in each namespace group.
    pub quota_bytes: Option<u64>,
    /// Requests a second, per ingress node.
    pub requests_per_second: Option<u32>,
    /// Payload bytes a second, per ingress node.
    pub bytes_per_second: Option<u64>,
}

impl fmt::Display for TenantLimits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { quota_bytes, requests_per_second, bytes_per_second } = self;
        match quota_bytes {
            Some(quota) => write!(f, "quota {}", Bytes(*quota))?,
            None => f.write_str("no quota")?,
        }
        match requests_per_second {
            Some(requests) => write!(f, ", {requests} requests a second on each node")?,
            None => f.write_str(", any number of requests")?,
        }
        match bytes_per_second {
            Some(bytes) => write!(f, ", {} a second on each node", Bytes(*bytes)),
            None => f.write_str(", any rate"),
        }
    }
}

/// What a principal may do in a bucket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// A bucket's name, a prefix that ends with `*`, or `*`.
    pub bucket: String,
    /// Get, head and list.
    pub read: bool,
    /// Put, delete, multipart.
    pub write: bool,
    /// Make and delete buckets.
    pub admin: bool,
}

impl Grant {
    /// Everything in every bucket of the tenant.
    #[must_use]
    pub fn all() -> Self {
        Self { bucket: "*".into(), read: true, write: true, admin: true }
    }

    /// What is wrong with its pattern; `None`: nothing.
    #[must_use]
    pub fn flaw(&self) -> Option<&'static str> {
        let name = self.bucket.strip_suffix('*').unwrap_or(&self.bucket);
        let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-".contains(&byte);
        if self.bucket.is_empty() || name.len() > BUCKET_NAME_BYTES_MAX || !name.bytes().all(is_plain) {
            Some("a grant is about a bucket's name, the beginning of names with `*` behind it, or `*`")
        } else if !(self.read || self.write || self.admin) {
            Some("a grant allows something: read, write or admin")
        } else {
            None
        }
    }

    /// Whether this grant speaks of the bucket.
    #[must_use]
    pub fn covers(&self, bucket: &str) -> bool {
        match self.bucket.strip_suffix('*') {
            Some(prefix) => bucket.starts_with(prefix),
            None => self.bucket == bucket,
        }
    }
}

/// `logs-*=read,write`, or `main=all`.
impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { bucket, read, write, admin } = self;
        let rights = [(*read, "read"), (*write, "write"), (*admin, "admin")];
        let named: Vec<&str> = rights.iter().filter_map(|(may, name)| may.then_some(*name)).collect();
        let named = if named.len() == rights.len() { "all".to_owned() } else { named.join(",") };
        write!(f, "{bucket}={named}")
    }
}

impl core::str::FromStr for Grant {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong = |why: &'static str| Err(Error::invalid(why).with("grant", text));
        let Some((bucket, rights)) = text.split_once('=') else {
            return wrong("a grant is BUCKET=RIGHTS, such as logs-*=read,write");
        };
        let mut grant = Self { bucket: bucket.to_owned(), read: false, write: false, admin: false };
        for right in rights.split(',') {
            match right {
                "read" => grant.read = true,
                "write" => grant.write = true,
                "admin" => grant.admin = true,
                "all" => grant = Self { bucket: grant.bucket, ..Self::all() },
                _ => return wrong("rights are read, write, admin or all, with commas between them"),
            }
        }
        grant.flaw().map_or(Ok(grant), wrong)
    }
}

/// Somebody of a tenant, in the control group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrincipalRow {
    /// The tenant.
    pub tenant: TenantId,
    /// The name inside the tenant.
    pub name: String,
    /// What it may do.
    pub grants: Vec<Grant>,
}

/// An S3 access key, in the control group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessKeyRow {
    /// The public half.
    pub access: String,
    /// The secret half under the cluster key: Raft holds no usable secret.
    pub secret: WrappedKey,
    /// Whose it is.
    pub tenant: TenantId,
    /// Whose it is.
    pub principal: String,
}

/// What the control group holds, buckets apart. A copy costs little and shares what it has in common with the original:
/// every change of the group makes a view, and most of it is the one before.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControlView {
    /// The cluster, once formed.
    pub cluster: Option<ClusterId>,
    /// The code of layouts.
    pub code: Option<Code>,
    /// Namespace groups are numbered 1 to this.
    pub namespaces: u16,
    /// Nodes by number.
    pub nodes: SharedMap<NodeId, NodeInfo>,
    /// Drives by number, but for those that are lost.
    pub drives: SharedMap<DriveId, DriveInfo>,
    /// Layouts by number: few, and chains get them as they are.
    pub layouts: Layouts,
    /// Tenants by number.
    pub tenants: SharedMap<TenantId, Arc<TenantRow>>,
    /// Principals, by tenant and name.
    pub principals: Arc<Vec<Arc<PrincipalRow>>>,
    /// Access keys by their public half.
    pub access_keys: SharedMap<String, Arc<AccessKeyRow>>,
    /// Assignments by actor.
    pub assignments: SharedMap<ActorId, Assignment>,
    /// What users have asked of placement.
    pub wishes: SharedMap<Scope, Wish>,
    /// Functions of the embedding program in data chains, by what they were declared for.
    pub stages: SharedMap<Scope, Arc<[CustomSpec]>>,
    /// Chains whose last stages run apart, by the chain's actor.
    pub tails: SharedMap<ActorId, Tail>,
    /// Drives that were declared lost, as they were known; `drives` does not have them.
    pub lost: SharedMap<DriveId, DriveInfo>,
    /// What all nodes can do together. It never falls.
    #[serde(default)]
    pub level: Level,
    /// Drives that are of no layout to come.
    #[serde(default)]
    pub leaving: SharedMap<DriveId, Leaving>,
    /// Nodes that leave, and those that have left; `nodes` does not have those.
    #[serde(default)]
    pub departures: SharedMap<NodeId, Departure>,
    /// The codes that buckets have asked for, in their order, but for the mesh's own: layouts have groups for each, for good.
    #[serde(default)]
    pub codes: Vec<Code>,
    /// Keys that tenants had before.
    #[serde(default)]
    pub past_keys: SharedMap<KeyId, PastKey>,
    /// Tenants that were deleted and of which something is left; `tenants` does not have them.
    #[serde(default)]
    pub ended: SharedMap<TenantId, Arc<EndedTenant>>,
}

impl ControlView {
    /// All codes that stripes are stored in, the mesh's own first.
    pub fn all_codes(&self) -> impl Iterator<Item = Code> {
        self.code.into_iter().chain(self.codes.iter().copied())
    }

    /// Drives that there must be for a layout to be made: as many as the widest code has shards.
    #[must_use]
    pub fn widest(&self) -> usize {
        self.all_codes().map(Code::shards).max().unwrap_or(0)
    }

    /// Whether who sees so many drives sees too few for a code that who sees these has enough for.
    #[must_use]
    pub fn lacks_drives(&self, own: usize, others: usize) -> bool {
        self.all_codes().any(|code| own < code.shards() && others >= code.shards())
    }

    /// The drives of which layouts are made, as far as their nodes allow it.
    pub fn staying(&self) -> impl Iterator<Item = &DriveInfo> {
        self.drives.values().filter(|drive| !self.leaving.contains_key(&drive.id))
    }

    /// What hosts fail with, as far as they say where they are, and all nodes know of that.
    #[must_use]
    pub fn places(&self) -> Places {
        if self.level < Level::PLACES {
            return Places::default();
        }
        let hosts = self.nodes.values().filter(|info| info.kind == NodeKind::Host);
        Places::of(hosts.map(|info| (info.id, info.location.as_ref())))
    }

    /// Whether a node has left for good.
    #[must_use]
    pub fn is_out(&self, node: NodeId) -> bool {
        self.departures.get(&node).is_some_and(|how| how.is_out())
    }

    /// The nodes on which an actor runs, or a part of one, or to which one is on its way.
    #[must_use]
    pub fn occupied(&self) -> BTreeSet<NodeId> {
        let rows = self.assignments.values().flat_map(|row| [Some(row.node), row.moving]);
        rows.flatten().chain(self.tails.values().map(|tail| tail.node)).collect()
    }

    /// The functions of the embedding program in a tenant's data chains, in order: the mesh's, then the tenant's own.
    pub fn stages_of(&self, tenant: TenantId) -> impl Iterator<Item = &CustomSpec> {
        let scopes = [Scope::Mesh, Scope::Tenant(tenant)];
        scopes.into_iter().filter_map(|scope| self.stages.get(&scope)).flat_map(|stages| stages.iter())
    }
}

/// A bucket's name at most, as S3 has it.
const BUCKET_NAME_BYTES_MAX: usize = 63;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grants_are_read_as_they_are_written() {
        let grant = |bucket: &str, [read, write, admin]: [bool; 3]| Grant { bucket: bucket.into(), read, write, admin };
        for (text, expected) in [
            ("logs-*=read,write", grant("logs-*", [true, true, false])),
            ("main=all", grant("main", [true; 3])),
            ("*=admin", grant("*", [false, false, true])),
            ("a.b=read", grant("a.b", [true, false, false])),
        ] {
            assert_eq!(text.parse(), Ok(expected.clone()), "{text}");
            assert_eq!(expected.to_string(), text);
        }
        assert_eq!("x=read,write,admin".parse(), Ok(grant("x", [true; 3])));
        for text in
            ["", "main", "=read", "main=", "main=none", "main=read,", "Main=read", "a*b=read", "**=read", "a b=read"]
        {
            assert!(text.parse::<Grant>().is_err(), "{text}");
        }
        assert!(format!("{}=read", "x".repeat(64)).parse::<Grant>().is_err());
    }
}
