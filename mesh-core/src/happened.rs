//! What has happened to actors, nodes and drives, as the leader of the control group saw it.

use core::fmt;

use serde::{Deserialize, Serialize};

use crate::{
    assignment::{Scope, Tail, Wish},
    id::{ActorId, ActorName, DriveId, Epoch, KeyId, NodeId, TenantId},
    meta::{Grant, TenantLimits},
    plan::Reason,
    time::UnixMillis,
};

/// One event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// Ascending with time, also from one leader to the next.
    pub number: u64,
    /// When, by the leader's clock.
    pub at: UnixMillis,
    /// What.
    pub what: Happened,
}

impl fmt::Display for Row {
    /// `hh:mm:ss.mmm`, in UTC, and what has happened.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, millis) = (self.at.0 / 1000 % 86_400, self.at.0 % 1000);
        let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
        write!(f, "{hour:02}:{minute:02}:{second:02}.{millis:03} {}", self.what)
    }
}

/// Why an actor was moved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Why {
    /// The plan says so.
    Plan(Reason),
    /// Another leader began it, and is gone.
    Left,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plan(reason) => reason.fmt(f),
            Self::Left => f.write_str("its controller is gone"),
        }
    }
}

/// What a move has carried so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Carried {
    /// Entries while the actor was running.
    pub before: u64,
    /// Entries while it was frozen.
    pub frozen: u64,
    /// How long the source took from the freeze to the target's acknowledgement, in microseconds.
    pub frozen_us: u64,
    /// How long requests waited at the source, from the freeze until they were sent on, in microseconds, on the source's
    /// own clock. Zero: it found out by itself that the actor had moved, and did not say.
    pub waited_us: u64,
}

/// What an administrator has said about who may use the mesh.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AccessEvent {
    /// There is a new tenant.
    TenantMade {
        /// Which.
        tenant: TenantId,
        /// Its name.
        name: String,
    },
    /// A tenant may use something else than before.
    Limited {
        /// Which.
        tenant: TenantId,
        /// What.
        limits: TenantLimits,
    },
    /// What a user may do was said.
    Granted {
        /// Whose.
        tenant: TenantId,
        /// Who.
        user: String,
        /// What.
        grants: Vec<Grant>,
    },
    /// There is a new access key.
    KeyMade {
        /// Whose.
        tenant: TenantId,
        /// Whose, inside the tenant.
        user: String,
        /// Its public half.
        access: String,
    },
    /// An access key is worth nothing any more.
    KeyRevoked {
        /// Whose it was.
        tenant: TenantId,
        /// Whose it was, inside the tenant.
        user: String,
        /// Its public half.
        access: String,
    },
    /// What a tenant stores from now on is encrypted under another key.
    KeyRotated {
        /// Which.
        tenant: TenantId,
        /// The key.
        key: KeyId,
    },
    /// A user is no more, and none of its keys.
    UserDropped {
        /// Whose.
        tenant: TenantId,
        /// Who.
        user: String,
    },
    /// A tenant was deleted; what it stored is being deleted.
    TenantEnded {
        /// Which.
        tenant: TenantId,
        /// Its name.
        name: String,
    },
    /// Nothing is left of a tenant that was deleted but garbage.
    TenantGone {
        /// Which.
        tenant: TenantId,
    },
}

impl fmt::Display for AccessEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TenantMade { tenant, name } => write!(f, "{tenant} was made: {name}"),
            Self::Limited { tenant, limits } => write!(f, "{tenant} may use from now on: {limits}"),
            Self::Granted { tenant, user, grants } => {
                write!(f, "{user} of {tenant} may do from now on:")?;
                grants.iter().try_for_each(|grant| write!(f, " {grant}"))
            }
            Self::KeyMade { tenant, user, access } => write!(f, "{user} of {tenant} has a new access key: {access}"),
            Self::KeyRevoked { tenant, user, access } => {
                write!(f, "access key {access} of {user} of {tenant} is revoked")
            }
            Self::KeyRotated { tenant, key } => write!(f, "what {tenant} stores from now on is encrypted under {key}"),
            Self::UserDropped { tenant, user } => {
                write!(f, "{user} of {tenant} is no more, and none of its access keys")
            }
            Self::TenantEnded { tenant, name } => {
                write!(f, "{tenant} was deleted: {name}; what it stored is being deleted")
            }
            Self::TenantGone { tenant } => write!(f, "nothing of {tenant} is left in metadata"),
        }
    }
}

/// What has happened. Spans are microseconds on the leader's clock; an `error` is a sentence for a person.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Happened {
    /// An actor moved live.
    Moved {
        /// Which.
        actor: ActorId,
        /// From where.
        from: NodeId,
        /// To where.
        to: NodeId,
        /// It runs there under this.
        epoch: Epoch,
        /// From the first proposal to the last answer.
        took_us: u64,
        /// How long its requests waited.
        waited_us: u64,
        /// How long the commit took.
        commit_us: u64,
        /// What went over.
        carried: Carried,
        /// Why.
        why: Why,
    },
    /// It was to move and did not.
    NotMoved {
        /// Which.
        actor: ActorId,
        /// From where.
        from: NodeId,
        /// To where.
        to: NodeId,
        /// Somebody else has decided meanwhile: it may be anywhere.
        elsewhere: bool,
        /// Why not.
        error: String,
    },
    /// Its node was lost and another runs it; what it held in memory is gone.
    TakenOver {
        /// Which.
        actor: ActorId,
        /// The lost node.
        from: NodeId,
        /// Who runs it.
        to: NodeId,
        /// Under what.
        epoch: Epoch,
        /// How long the commit took.
        commit_us: u64,
        /// Why.
        why: Reason,
    },
    /// Its node is lost, and it was not given to this one.
    NotTakenOver {
        /// Which.
        actor: ActorId,
        /// To whom.
        to: NodeId,
        /// Why not.
        error: String,
    },
    /// Its last stages run elsewhere now, or where the rest does.
    Cut {
        /// Which.
        actor: ActorId,
        /// Where its head runs.
        at: NodeId,
        /// Where its tail runs.
        tail: Option<Tail>,
        /// Why.
        why: Reason,
    },
    /// It was to be split or joined.
    NotCut {
        /// Which.
        actor: ActorId,
        /// Why not.
        error: String,
    },
    /// It has its first place, or another leader gave it one.
    Placed(ActorId),
    /// It has none yet.
    NotPlaced {
        /// Which.
        actor: ActorId,
        /// Why not.
        error: String,
    },
    /// A node answers again.
    NodeUp(NodeId),
    /// A node does not answer.
    NodeDown(NodeId),
    /// A node is to be emptied, or takes actors again.
    Drained {
        /// Which.
        node: NodeId,
        /// It is to be emptied.
        draining: bool,
    },
    /// A node was invited.
    Invited(NodeId),
    /// Somebody said where chains are to run, or took it back.
    Wished {
        /// Which chains.
        scope: Scope,
        /// Where.
        wish: Option<Wish>,
    },
    /// A drive was declared lost.
    DriveLost {
        /// Which.
        drive: DriveId,
        /// Whose it was.
        node: NodeId,
    },
    /// A drive is to be emptied, or is used again.
    DriveDrained {
        /// Which.
        drive: DriveId,
        /// Whose it is.
        node: NodeId,
        /// It is to be emptied.
        draining: bool,
    },
    /// Drives have been away for long: what they held is rebuilt elsewhere.
    DrivesOut {
        /// Which.
        drives: Vec<DriveId>,
    },
    /// Drives that were out are used again.
    DrivesBack {
        /// Which.
        drives: Vec<DriveId>,
    },
    /// A drive was taken out that had been emptied.
    DriveRemoved {
        /// Which.
        drive: DriveId,
        /// Whose it was.
        node: NodeId,
    },
    /// A node is to leave, or stays.
    NodeLeaves {
        /// Which.
        node: NodeId,
        /// It is to leave.
        leaving: bool,
    },
    /// A node was taken out for good.
    NodeRemoved {
        /// Which.
        node: NodeId,
        /// It did not come back; else it had been emptied.
        lost: bool,
    },
    /// A node was given a drive.
    DriveAdded {
        /// Which.
        drive: DriveId,
        /// Whose it is.
        node: NodeId,
        /// The drive whose place it takes.
        instead_of: Option<DriveId>,
    },
    /// An administrator has said something about who may use the mesh.
    Access(AccessEvent),
}

impl Happened {
    /// Whether an actor runs elsewhere, or otherwise, than before.
    #[must_use]
    pub const fn has_moved(&self) -> bool {
        matches!(self, Self::Moved { .. } | Self::TakenOver { .. } | Self::Cut { .. })
    }

    /// Whether what was to happen to an actor did not.
    #[must_use]
    pub const fn has_failed(&self) -> bool {
        matches!(self, Self::NotMoved { .. } | Self::NotTakenOver { .. } | Self::NotCut { .. } | Self::NotPlaced { .. })
    }
}

/// Drives, one after the other.
struct Drives<'a>(&'a [DriveId]);

impl fmt::Display for Drives<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, drive) in self.0.iter().enumerate() {
            write!(f, "{}{drive}", if at > 0 { ", " } else { "" })?;
        }
        Ok(())
    }
}

/// For who watches.
impl fmt::Display for Happened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Moved { actor, from, to, epoch, took_us, waited_us, commit_us, carried, why } => write!(
                f,
                "moved {} from {from} to {to} under {epoch} in {}: its requests waited {} of that, the commit took {}; {} + \
                 {} entries of state: {why}",
                ActorName(*actor),
                Millis(*took_us),
                Millis(*waited_us),
                Millis(*commit_us),
                carried.before,
                carried.frozen,
            ),
            Self::NotMoved { actor, from, to, elsewhere: _, error } => {
                write!(f, "{} did not move from {from} to {to}: {error}", ActorName(*actor))
            }
            Self::TakenOver { actor, from, to, epoch, commit_us, why } => write!(
                f,
                "{} runs on {to} under {epoch} instead of {from}, the commit took {}: {why}",
                ActorName(*actor),
                Millis(*commit_us)
            ),
            Self::NotTakenOver { actor, to, error } => {
                write!(f, "{} was not taken over by {to}: {error}", ActorName(*actor))
            }
            Self::Cut { actor, at, tail: Some(Tail { cut, node }), why } => {
                let first = u16::from(*cut) + 1;
                write!(f, "{} runs on {at} and from stage {first} on on {node}: {why}", ActorName(*actor))
            }
            Self::Cut { actor, at, tail: None, why } => {
                write!(f, "{} runs on {at} as a whole: {why}", ActorName(*actor))
            }
            Self::NotCut { actor, error } => write!(f, "{} was not split or joined: {error}", ActorName(*actor)),
            Self::Placed(actor) => write!(f, "{} has its first place", ActorName(*actor)),
            Self::NotPlaced { actor, error } => {
                write!(f, "the first place of {} was not stored: {error}", ActorName(*actor))
            }
            Self::NodeUp(node) => write!(f, "{node} is up"),
            Self::NodeDown(node) => write!(f, "{node} is down"),
            Self::Drained { node, draining: true } => write!(f, "{node} is to be emptied"),
            Self::Drained { node, draining: false } => write!(f, "{node} takes actors again"),
            Self::Invited(node) => write!(f, "{node} is invited"),
            Self::Wished { scope, wish } => {
                match scope {
                    Scope::Mesh => f.write_str("every chain")?,
                    Scope::Tenant(tenant) => write!(f, "every chain of {tenant}")?,
                    Scope::Actor(actor) => ActorName(*actor).fmt(f)?,
                }
                match wish {
                    Some(Wish { pin: Some(node), .. }) => write!(f, " is to run on {node}"),
                    Some(Wish { preference, pin: None }) => write!(f, " is to run {preference}"),
                    None => f.write_str(" is to run where placement says"),
                }
            }
            Self::DriveLost { drive, node } => write!(f, "{drive} of {node} is lost for good"),
            Self::DriveDrained { drive, node, draining: true } => write!(f, "{drive} of {node} is being emptied"),
            Self::DriveDrained { drive, node, draining: false } => write!(f, "{drive} of {node} is used again"),
            Self::DrivesOut { drives } => {
                write!(
                    f,
                    "out, for they have been away for long: {}; what they held is rebuilt elsewhere",
                    Drives(drives)
                )
            }
            Self::DrivesBack { drives } => write!(f, "back, and used again: {}", Drives(drives)),
            Self::NodeLeaves { node, leaving: true } => write!(f, "{node} is to leave: all that it has goes elsewhere"),
            Self::NodeLeaves { node, leaving: false } => write!(f, "{node} stays"),
            Self::NodeRemoved { node, lost: true } => write!(f, "{node} is out: it did not come back"),
            Self::NodeRemoved { node, lost: false } => write!(f, "{node} is out: it was emptied"),
            Self::DriveAdded { drive, node, instead_of: None } => write!(f, "{drive} of {node} was added"),
            Self::DriveAdded { drive, node, instead_of: Some(old) } => {
                write!(f, "{drive} of {node} was added, and takes the place of {old}, which is being emptied")
            }
            Self::DriveRemoved { drive, node } => write!(f, "{drive} of {node} is out: it was emptied"),
            Self::Access(what) => what.fmt(f),
        }
    }
}

/// Microseconds, as milliseconds.
struct Millis(u64);

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:02} ms", self.0 / 1000, self.0 % 1000 / 10)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_told_with_its_time_of_day() {
        let row = Row { number: 7, at: UnixMillis(86_400_000 + 3_723_004), what: Happened::NodeUp(NodeId(2)) };
        assert_eq!(row.to_string(), "01:02:03.004 node-2 is up");
    }

    #[test]
    fn a_wish_is_told_with_whose_it_is() {
        let wish = |pin| Some(Wish { pin, ..Wish::default() });
        let of = |scope, wish| Happened::Wished { scope, wish }.to_string();
        assert_eq!(of(Scope::Mesh, wish(None)), "every chain is to run auto");
        assert_eq!(of(Scope::Actor(ActorId::drive(DriveId(5))), wish(Some(NodeId(2)))), "drive-5 is to run on node-2");
        assert_eq!(of(Scope::Mesh, None), "every chain is to run where placement says");
    }
}
