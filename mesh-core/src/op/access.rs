//! Who may use a mesh, as administrators ask for it and are told: tenants, their users and access keys.
//!
//! A tenant is named by its name, or as `tenant-3`. Secrets are made by the node that answers and told once: metadata have them
//! wrapped only.

use core::fmt;

use serde::{Deserialize, Serialize};

#[cfg(doc)]
use super::AdminOp;
use crate::{
    Bytes,
    id::{KeyId, TenantId},
    meta::{Grant, TenantLimits},
    time::UnixMillis,
};

/// What an administrator asks about who may use the mesh, by [`AdminOp::Access`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AccessOp {
    /// All tenants, a page at a time: [`AccessAnswer::Tenants`].
    Tenants {
        /// Only behind this one.
        after: Option<TenantId>,
    },
    /// A new tenant, with a key of its own: [`AccessAnswer::Tenant`]. `Conflict` if there is one of this name.
    CreateTenant {
        /// Its name: see [`tenant_name_flaw`].
        name: String,
        /// What it may use.
        limits: TenantLimits,
    },
    /// Changes what a tenant may use: [`AccessAnswer::Tenant`]. Where a limit is below what is used, nothing is lost, and no more
    /// is taken.
    Limit {
        /// Which.
        tenant: String,
        /// What of it.
        change: LimitChange,
    },
    /// What a tenant uses, as its metadata groups say: [`AccessAnswer::Usage`].
    Usage {
        /// Which.
        tenant: String,
    },
    /// The users of a tenant, and their access keys, a page at a time: [`AccessAnswer::Users`].
    Users {
        /// Which.
        tenant: String,
        /// Only behind this one.
        after: Option<String>,
    },
    /// A new access key for a user: [`AccessAnswer::Key`]. Every time another one.
    CreateKey {
        /// Whose.
        tenant: String,
        /// Whose, inside the tenant. One that is not there yet is made.
        user: String,
        /// What the user may do. `None`: what it may do already, `NotFound` if it is not there yet. `Conflict` if it is there and
        /// may do something else.
        grants: Option<Vec<Grant>>,
    },
    /// What a user may do from now on, whichever of its keys or certificates it comes with: [`AccessAnswer::Done`].
    Grant {
        /// Whose.
        tenant: String,
        /// Who.
        user: String,
        /// It is a new one, without a key: for a certificate. `Conflict` if it is there; if it is not to be new, `NotFound` if it is
        /// not.
        new: bool,
        /// What.
        grants: Vec<Grant>,
    },
    /// Revokes an access key: [`AccessAnswer::Done`]. `NotFound` if there is none.
    RevokeKey {
        /// Its public half.
        access: String,
    },
    /// Takes a user out, with all its access keys: certificates in its name may do nothing any more. [`AccessAnswer::Done`].
    /// `NotFound` if there is none.
    DropUser {
        /// Whose.
        tenant: String,
        /// Who.
        user: String,
    },
    /// Gives a tenant another key, for what is stored from now on: [`AccessAnswer::Tenant`]. Every time another one.
    RotateKey {
        /// Which.
        tenant: String,
    },
    /// Deletes a tenant, at once and for good: [`AccessAnswer::Tenant`], with [`TenantReport::ended`]. What it stored is deleted from
    /// then on. `Conflict` if it has buckets, unless `everything`. One that is deleted already: the same answer, as long as something
    /// of it is left.
    DeleteTenant {
        /// Which.
        tenant: String,
        /// Also what is in its buckets.
        everything: bool,
    },
}

impl AccessOp {
    /// Whether it changes something.
    #[must_use]
    pub const fn is_order(&self) -> bool {
        !matches!(self, Self::Tenants { .. } | Self::Usage { .. } | Self::Users { .. })
    }
}

/// Limits that are to change; `None`: stays. `Some(None)`: no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitChange {
    /// See [`TenantLimits::quota_bytes`].
    pub quota_bytes: Option<Option<u64>>,
    /// See [`TenantLimits::requests_per_second`]; not 0.
    pub requests_per_second: Option<Option<u32>>,
    /// See [`TenantLimits::bytes_per_second`]; not 0.
    pub bytes_per_second: Option<Option<u64>>,
}

impl LimitChange {
    /// Limits with this changed.
    #[must_use]
    pub fn of(&self, limits: TenantLimits) -> TenantLimits {
        TenantLimits {
            quota_bytes: self.quota_bytes.unwrap_or(limits.quota_bytes),
            requests_per_second: self.requests_per_second.unwrap_or(limits.requests_per_second),
            bytes_per_second: self.bytes_per_second.unwrap_or(limits.bytes_per_second),
        }
    }
}

/// What an administrator is told about who may use the mesh.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AccessAnswer {
    /// It is done.
    Done,
    /// A tenant as it is now.
    Tenant(TenantReport),
    /// Some tenants.
    Tenants {
        /// By number.
        tenants: Vec<TenantReport>,
        /// After which to ask next; `None`: that is all.
        next: Option<TenantId>,
    },
    /// What a tenant uses.
    Usage(TenantUsage),
    /// Some users.
    Users {
        /// By name.
        users: Vec<UserReport>,
        /// After which to ask next; `None`: that is all.
        next: Option<String>,
    },
    /// A new access key.
    Key(NewKey),
}

/// A tenant, for administrators.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantReport {
    /// Its number.
    pub id: TenantId,
    /// Its name.
    pub name: String,
    /// What it may use.
    pub limits: TenantLimits,
    /// How many users it has.
    pub users: u64,
    /// How many access keys they have.
    pub keys: u64,
    /// The key under which what it stores is encrypted.
    pub key: KeyId,
    /// How many it had before: what was stored under those is read with them.
    pub past_keys: u64,
    /// Since when it is deleted; the rest says what is left of it. `None`: it is not.
    #[serde(default)]
    pub ended: Option<UnixMillis>,
}

/// What a tenant uses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantUsage {
    /// Its number.
    pub id: TenantId,
    /// Its name.
    pub name: String,
    /// Bytes that are stored, as it counts them: before coding, unfinished uploads with them.
    pub bytes: u64,
    /// Objects.
    pub objects: u64,
    /// What it may use.
    pub limits: TenantLimits,
}

/// A user of a tenant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserReport {
    /// Its name inside the tenant.
    pub name: String,
    /// What it may do.
    pub grants: Vec<Grant>,
    /// The public halves of its access keys.
    pub keys: Vec<String>,
}

/// A new access key, both halves.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewKey {
    /// The public half.
    pub access: String,
    /// The secret half: it is told this once.
    pub secret: String,
}

impl fmt::Debug for NewKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NewKey({})", self.access)
    }
}

impl fmt::Display for TenantReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, name, limits, users, keys, key, past_keys, ended } = self;
        if let Some(since) = ended {
            return write!(f, "{id} {name}: deleted at {since}; what it stored is being deleted");
        }
        write!(f, "{id} {name}: {users} users, {keys} access keys; {limits}; {key}")?;
        if *past_keys > 0 {
            write!(f, " and {past_keys} of before")?;
        }
        Ok(())
    }
}

impl fmt::Display for TenantUsage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, name, bytes, objects, limits } = self;
        write!(f, "{id} {name}: {objects} objects, {}", Bytes(*bytes))?;
        match limits.quota_bytes {
            // Of a quota of nothing everything is used.
            Some(quota) => {
                let percent = bytes.saturating_mul(100).checked_div(quota).unwrap_or(100);
                write!(f, ", {percent} % of {}", Bytes(quota))
            }
            None => Ok(()),
        }
    }
}

impl fmt::Display for UserReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, grants, keys } = self;
        let grants: Vec<String> = grants.iter().map(ToString::to_string).collect();
        let or_none = |list: Vec<String>| if list.is_empty() { "nothing".to_owned() } else { list.join(" ") };
        write!(f, "{name}: may {}; access keys: {}", or_none(grants), or_none(keys.clone()))
    }
}

/// What is wrong with a tenant's or a user's name; `None`: nothing. It stands in certificates, in logs and on command lines.
#[must_use]
pub fn name_flaw(name: &str) -> Option<&'static str> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if !(1..=NAME_BYTES_MAX).contains(&name.len()) {
        Some("a name has 1 to 63 characters")
    } else if !name.bytes().all(is_plain) || !name.starts_with(|first: char| first.is_ascii_alphanumeric()) {
        Some(
            "a name has letters of ASCII, digits, dots, hyphens and underscores only, and begins with a letter or a digit",
        )
    } else {
        None
    }
}

/// What is wrong with a tenant's name; `None`: nothing. Not to be taken for a number, it does not look like one.
#[must_use]
pub fn tenant_name_flaw(name: &str) -> Option<&'static str> {
    name_flaw(name).or_else(|| name.starts_with("tenant-").then_some("names that begin with `tenant-` are for numbers"))
}

/// A name at most.
const NAME_BYTES_MAX: usize = 63;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_plain_and_tenants_are_not_taken_for_numbers() {
        for name in ["a", "team-7", "Team.A_b", &"x".repeat(63), "0"] {
            assert_eq!((name_flaw(name), tenant_name_flaw(name)), (None, None), "{name}");
        }
        for name in ["", &"x".repeat(64), "-a", ".", "a b", "a/b", "a\n", "é", "a\0", "../x", "*", "a=b"] {
            assert!(name_flaw(name).is_some() && tenant_name_flaw(name).is_some(), "{name:?}");
        }
        assert!(name_flaw("tenant-3").is_none() && tenant_name_flaw("tenant-3").is_some());
    }

    #[test]
    fn a_limit_that_is_not_named_stays() {
        let limits = TenantLimits { quota_bytes: Some(1), requests_per_second: Some(2), bytes_per_second: None };
        assert_eq!(LimitChange::default().of(limits), limits);
        let change =
            LimitChange { quota_bytes: Some(None), requests_per_second: None, bytes_per_second: Some(Some(3)) };
        let changed = TenantLimits { quota_bytes: None, requests_per_second: Some(2), bytes_per_second: Some(3) };
        assert_eq!(change.of(limits), changed);
    }
}
