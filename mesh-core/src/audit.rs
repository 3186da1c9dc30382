//! The audit log: who has ordered what of the mesh, in a chain that shows when something of it is changed or gone.
//!
//! The control group keeps it, and puts an entry into it in the same step as it carries an order out: nothing is done that is not
//! in it, nothing is in it that was not done. An entry is a line of JSON, [`Entry`], and the line itself is what is kept, told and
//! exported: whoever has it checks it without this build, with SHA-256 alone.
//!
//! ```text
//!   entry n      {"number":n,"before":"<SHA-256 of the line of entry n-1, in hex>","at":...,"by":...,"what":...}
//!   entry n+1    {"number":n+1,"before":"<SHA-256 of the line of entry n, without its line feed>",...}
//!   head         SHA-256 of the newest line
//! ```
//!
//! Who can change every replica at once can make a whole chain anew. That shows to whoever has an earlier entry: so it is to be
//! exported, to where those who run the mesh cannot change it.
//!
//! **A line is made by each replica for itself, so all builds have to make the same.** A new variant of [`What`] or [`By`], or a new
//! field, needs a level ([`crate::meta::Level`]), and is left out of the line while it is at its default.

use core::fmt;

use serde::{Deserialize, Serialize};

use crate::{
    assignment::{Scope, Wish},
    happened::Happened,
    id::{ActorName, DriveId, GroupId, KeyId, NodeId, TenantId},
    meta::{Grant, Level, TenantLimits},
    time::UnixMillis,
};

/// Who has ordered something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum By {
    /// The mesh: nobody said who it was.
    Mesh,
    /// A node, for itself; or an order came from an older build of it, which did not say whose it was.
    Node {
        /// Which.
        node: NodeId,
    },
    /// An administrator.
    Administrator {
        /// As its certificate has it.
        name: String,
        /// The node that it asked, which says that it was so.
        via: NodeId,
    },
}

impl fmt::Display for By {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mesh => f.write_str("the mesh"),
            Self::Node { node } => node.fmt(f),
            Self::Administrator { name, via } => write!(f, "administrator {name} by way of {via}"),
        }
    }
}

/// What was done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum What {
    /// The log begins: the mesh can keep one from here on. What was done before is not in it.
    Began {
        /// Whose log it is: the cluster's identity, in hex.
        cluster: String,
        /// Tenants that there are.
        tenants: u64,
        /// Users that they have.
        users: u64,
        /// Access keys that those have.
        keys: u64,
    },
    /// The mesh can do more from here on.
    LevelRaised {
        /// How much.
        level: Level,
    },
    /// Older entries are kept elsewhere, and no longer here.
    Forgotten {
        /// The oldest one that is left.
        first: u64,
        /// SHA-256 of the one before it.
        digest: String,
    },
    /// Metadata went on from less than they once were: entries may be gone.
    Recovered {
        /// Nodes that were declared lost for that.
        lost: Vec<NodeId>,
        /// They come from a backup.
        restored: bool,
    },
    /// Somebody has begun to read a backup.
    BackedUp {
        /// Of which group.
        group: GroupId,
    },
    /// A number was given out, for a machine to join under.
    Invited {
        /// Which.
        node: NodeId,
    },
    /// A machine has joined.
    Joined {
        /// Under which number.
        node: NodeId,
        /// As whose DPU.
        attached_to: Option<NodeId>,
    },
    /// A node is to be emptied of actors, or is not any more.
    Drained {
        /// Which.
        node: NodeId,
        /// Whether it is.
        draining: bool,
    },
    /// A node is to leave, or stays.
    Leaves {
        /// Which.
        node: NodeId,
        /// Whether it is.
        leaving: bool,
    },
    /// A node is out.
    NodeRemoved {
        /// Which.
        node: NodeId,
        /// It does not come back; else it was empty.
        lost: bool,
    },
    /// A node was told to use another drive.
    DriveOrdered {
        /// Which node.
        node: NodeId,
        /// Where the drive is, on its machine.
        path: String,
        /// Whose place it is to take.
        instead_of: Option<DriveId>,
    },
    /// A drive is one of the mesh from here on.
    DriveAdded {
        /// Which.
        drive: DriveId,
        /// Whose.
        node: NodeId,
        /// Its size.
        capacity_bytes: u64,
        /// Whose place it takes.
        instead_of: Option<DriveId>,
    },
    /// A drive is to be emptied, or is not any more.
    DriveDrained {
        /// Which.
        drive: DriveId,
        /// Whether it is.
        draining: bool,
    },
    /// A drive is lost.
    DriveLost {
        /// Which.
        drive: DriveId,
    },
    /// A drive was empty, and is out.
    DriveRemoved {
        /// Which.
        drive: DriveId,
    },
    /// There is a new tenant.
    TenantMade {
        /// Its number.
        tenant: TenantId,
        /// Its name.
        name: String,
        /// What it may use.
        limits: TenantLimits,
    },
    /// A tenant may use something else.
    Limited {
        /// Which.
        tenant: TenantId,
        /// What.
        limits: TenantLimits,
    },
    /// What a tenant stores is encrypted under another key from here on.
    KeyRotated {
        /// Which tenant.
        tenant: TenantId,
        /// Which key.
        key: KeyId,
    },
    /// What a user may do from here on was said; a user that was not there is there.
    Granted {
        /// Whose.
        tenant: TenantId,
        /// Who.
        user: String,
        /// What.
        grants: Vec<Grant>,
    },
    /// A user is no more, nor are its access keys.
    UserDropped {
        /// Whose.
        tenant: TenantId,
        /// Who.
        user: String,
    },
    /// There is a new access key.
    AccessKeyMade {
        /// Whose.
        tenant: TenantId,
        /// Whose, inside the tenant.
        user: String,
        /// Its public half.
        access: String,
    },
    /// An access key is worth nothing any more.
    AccessKeyRevoked {
        /// Whose it was; none: it was not known.
        tenant: Option<TenantId>,
        /// Whose it was, inside the tenant.
        user: Option<String>,
        /// Its public half.
        access: String,
    },
    /// Where actors should run was said.
    Wished {
        /// Which.
        scope: Scope,
        /// What was asked; none: what was asked before is taken back.
        wish: Option<Wish>,
    },
    /// Functions of the embedding program stand in data chains.
    Staged {
        /// In which.
        scope: Scope,
        /// Their kinds, in order.
        kinds: Vec<String>,
    },
    /// A tenant was deleted.
    TenantEnded {
        /// Which.
        tenant: TenantId,
        /// Its name.
        name: String,
        /// Also what was in its buckets.
        everything: bool,
    },
    /// Metadata have nothing any more of a tenant that was deleted.
    TenantGone {
        /// Which.
        tenant: TenantId,
    },
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let again = |back: bool| if back { " no more" } else { "" };
        match self {
            Self::Began { cluster, tenants, users, keys } => {
                write!(f, "the log of {cluster} begins, with {tenants} tenants, {users} users, {keys} access keys")
            }
            Self::LevelRaised { level } => write!(f, "the mesh has level {level}"),
            Self::Forgotten { first, digest } => write!(f, "entries before {first} are kept elsewhere, up to {digest}"),
            Self::Recovered { lost, restored } => {
                let from = if *restored { "a backup" } else { "less than there were" };
                write!(f, "metadata went on from {from}; entries may be gone")?;
                lost.iter().try_for_each(|node| write!(f, "; {node} is lost"))
            }
            Self::BackedUp { group } => write!(f, "a backup of {group} was begun"),
            Self::Invited { node } => write!(f, "{node} was invited"),
            Self::Joined { node, attached_to: None } => write!(f, "{node} has joined"),
            Self::Joined { node, attached_to: Some(host) } => write!(f, "{node} has joined, a DPU of {host}"),
            Self::Drained { node, draining } => write!(f, "{node} is being emptied of actors{}", again(!draining)),
            Self::Leaves { node, leaving } => write!(f, "{node} is leaving{}", again(!leaving)),
            Self::NodeRemoved { node, lost: true } => write!(f, "{node} is out: it is lost"),
            Self::NodeRemoved { node, lost: false } => write!(f, "{node} is out"),
            Self::DriveOrdered { node, path, instead_of } => {
                write!(f, "{node} is to use {path:?} as a drive")?;
                instead_of.map_or(Ok(()), |old| write!(f, " in the place of {old}"))
            }
            Self::DriveAdded { drive, node, capacity_bytes, instead_of } => {
                write!(f, "{drive} of {node}, {}, is in use", crate::Bytes(*capacity_bytes))?;
                instead_of.map_or(Ok(()), |old| write!(f, " in the place of {old}"))
            }
            Self::DriveDrained { drive, draining } => write!(f, "{drive} is being emptied{}", again(!draining)),
            Self::DriveLost { drive } => write!(f, "{drive} is lost"),
            Self::DriveRemoved { drive } => write!(f, "{drive} is out"),
            Self::TenantMade { tenant, name, limits } => write!(f, "{tenant} was made: {name}; {limits}"),
            Self::Limited { tenant, limits } => write!(f, "{tenant} may use: {limits}"),
            Self::TenantEnded { tenant, name, everything: false } => write!(f, "{tenant} was deleted: {name}"),
            Self::TenantEnded { tenant, name, everything: true } => {
                write!(f, "{tenant} was deleted, and what is in its buckets: {name}")
            }
            Self::TenantGone { tenant } => write!(f, "nothing of {tenant} is left in metadata"),
            Self::KeyRotated { tenant, key } => write!(f, "{tenant} encrypts under {key}"),
            Self::Granted { tenant, user, grants } => {
                write!(f, "{user} of {tenant} may do:")?;
                grants.iter().try_for_each(|grant| write!(f, " {grant}"))
            }
            Self::UserDropped { tenant, user } => write!(f, "{user} of {tenant} is no more"),
            Self::AccessKeyMade { tenant, user, access } => write!(f, "{user} of {tenant} has access key {access}"),
            Self::AccessKeyRevoked { tenant, user, access } => {
                write!(f, "access key {access}")?;
                user.as_ref().map_or(Ok(()), |user| write!(f, " of {user}"))?;
                tenant.map_or(Ok(()), |tenant| write!(f, " of {tenant}"))?;
                f.write_str(" is revoked")
            }
            Self::Wished { scope, wish } => Happened::Wished { scope: *scope, wish: *wish }.fmt(f),
            Self::Staged { scope, kinds } => {
                let kinds = if kinds.is_empty() { "no functions".to_owned() } else { kinds.join(", ") };
                write!(f, "{kinds} of the embedding program in chains of ")?;
                match scope {
                    Scope::Mesh => f.write_str("all tenants"),
                    Scope::Tenant(tenant) => tenant.fmt(f),
                    Scope::Actor(actor) => ActorName(*actor).fmt(f),
                }
            }
        }
    }
}

/// An entry, as its line says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its number, from 1.
    pub number: u64,
    /// SHA-256 of the line before it, in hex; zeros for the first one.
    pub before: String,
    /// When, by the clock of who led the control group; none: that was not said, and it was after the one before.
    pub at: Option<UnixMillis>,
    /// Who.
    pub by: By,
    /// What.
    pub what: What,
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { number, before: _, at, by, what } = self;
        match at {
            Some(at) => write!(f, "{number} {at} {by}: {what}"),
            None => write!(f, "{number} - {by}: {what}"),
        }
    }
}

/// Which entries there are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Log {
    /// The oldest one that is kept; from 1, and [`Self::next`] if none is.
    pub first: u64,
    /// The number of the next one.
    pub next: u64,
    /// SHA-256 of the line before the oldest one; zeros: there was none.
    pub base: [u8; 32],
    /// SHA-256 of the newest line.
    pub head: [u8; 32],
    /// Bytes of all lines that are there.
    pub bytes: u64,
    /// Lines before this one are not there any more; those from here to the oldest one that is kept are about to go.
    pub swept: u64,
}

/// Some entries, in order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page {
    /// Which there are.
    pub log: Log,
    /// Lines, as they are kept.
    pub lines: Vec<String>,
}

/// What else an administrator did, that changes nothing in the control group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Deed {
    /// See [`What::BackedUp`].
    BackedUp {
        /// Of which group.
        group: GroupId,
    },
    /// See [`What::DriveOrdered`].
    DriveOrdered {
        /// Which node.
        node: NodeId,
        /// Where the drive is, on its machine.
        path: String,
        /// Whose place it is to take.
        instead_of: Option<DriveId>,
    },
}

/// What an administrator asks of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AuditOp {
    /// Entries from one on, a page at a time: [`AuditAnswer::Page`].
    Page {
        /// The first one wanted; an older one than there is: the oldest.
        from: u64,
    },
    /// Keeps no entries before this one: [`AuditAnswer::Log`]. `Conflict` if the one before it is another one than whoever asks for that
    /// has elsewhere.
    Forget {
        /// The first one to keep.
        first: u64,
        /// SHA-256 of the line of the one before it, in hex.
        digest: String,
    },
}

/// What an administrator is told of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AuditAnswer {
    /// Some entries: as many as fit; none: there are no later ones.
    Page(Page),
    /// Which there are.
    Log(Log),
}

/// Bytes in hex, as lines have them.
#[must_use]
pub fn hex(digest: &[u8; 32]) -> String {
    digest
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .map(|half| char::from(b"0123456789abcdef"[half as usize]))
        .collect()
}
