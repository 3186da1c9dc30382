//! What administrators ask, and what they are told: values, which the command line prints as text or as JSON.

use core::fmt;

use serde::{Deserialize, Serialize};

#[cfg(doc)]
use crate::meta::MeshCommand;
use crate::{
    assignment::{Scope, Wish},
    bluefield::Generation,
    happened,
    id::{ActorId, ActorName, DriveId, Epoch, NodeId},
    plan::{Move, Plan},
    spec::CustomSpec,
    topology::Code,
};

/// What an administrator asks of the leader of the control group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AdminOp {
    /// What the placement engine would do now, without doing it: [`AdminAnswer::Plan`]; `TooLarge` if that is more than a
    /// message holds.
    Plan {
        /// As if these hosts had a DPU of this generation.
        with_dpus: Vec<(NodeId, Generation)>,
        /// As if these nodes were down.
        without: Vec<NodeId>,
    },
    /// Sets or takes back a wish: [`AdminAnswer::Moves`].
    Wish {
        /// About what.
        scope: Scope,
        /// What.
        wish: Option<Wish>,
    },
    /// Empties a node, or takes that back: [`AdminAnswer::Moves`].
    Drain {
        /// Which.
        node: NodeId,
        /// Whether to.
        draining: bool,
    },
    /// What has happened since an event, the newest at most: [`AdminAnswer::Events`].
    Events {
        /// Only later ones.
        after: u64,
    },
    /// Puts functions of the embedding program into data chains, by [`MeshCommand::SetStages`]: [`AdminAnswer::Chains`].
    Stages {
        /// Of which chains.
        scope: Scope,
        /// Which, in order; none: takes them out.
        stages: Vec<CustomSpec>,
    },
    /// Gives out a node's number, by [`MeshCommand::Invite`]: [`AdminAnswer::Done`].
    Invite {
        /// The number.
        node: NodeId,
        /// Greater than that of an older invitation, not 0.
        invitation: u64,
    },
    /// Declares a drive lost for good, by [`MeshCommand::LoseDrive`]: [`AdminAnswer::Lost`]. `Conflict` while it is up.
    LoseDrive {
        /// Which.
        drive: DriveId,
    },
    /// As [`Self::Plan`], a page at a time: [`AdminAnswer::PlanPage`]. Every page is of a plan that is made anew.
    PlanPage {
        /// As if these hosts had a DPU of this generation.
        with_dpus: Vec<(NodeId, Generation)>,
        /// As if these nodes were down.
        without: Vec<NodeId>,
        /// Only actors behind this one.
        after: Option<ActorId>,
    },
}

impl AdminOp {
    /// Whether it changes something.
    #[must_use]
    pub const fn is_order(&self) -> bool {
        !matches!(self, Self::Plan { .. } | Self::PlanPage { .. } | Self::Events { .. })
    }
}

/// What an administrator is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AdminAnswer {
    /// It is done.
    Done,
    /// What the placement engine would do.
    Plan(Plan),
    /// What it does for what was asked, as far as is known yet; the first of it, if that is more than a message holds.
    Moves(Vec<Move>),
    /// What has happened.
    Events {
        /// Later than what was asked for, in order.
        events: Vec<happened::Row>,
        /// After which to ask next.
        next: u64,
    },
    /// The data chains that are concerned; the first of them, if they are more than a message holds.
    Chains(Vec<ChainRow>),
    /// What follows from the loss of a drive.
    Lost(LostDrive),
    /// What the placement engine would do with some of the actors.
    PlanPage {
        /// With these; the totals are of all.
        plan: Plan,
        /// After which to ask next; `None`: that is all.
        next: Option<ActorId>,
    },
}

/// A data chain with the functions of the embedding program in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChainRow {
    /// Which.
    pub actor: ActorId,
    /// Where it runs.
    pub node: NodeId,
    /// Under what.
    pub epoch: Epoch,
    /// The kinds, in order.
    pub own: Vec<String>,
}

impl fmt::Display for ChainRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let own = if self.own.is_empty() { "none".to_owned() } else { self.own.join(" > ") };
        write!(f, "{} on {} under {}: own functions: {own}", ActorName(self.actor), self.node, self.epoch)
    }
}

/// A drive that is declared lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LostDrive {
    /// Which.
    pub drive: DriveId,
    /// Whose it was.
    pub node: NodeId,
    /// It was declared lost before: nothing changes.
    pub before: bool,
    /// Drives that are left for new objects.
    pub left: u64,
    /// What they are to hold; `None`: the mesh is not formed.
    pub code: Option<Code>,
}

impl fmt::Display for LostDrive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { drive, node, before, left, code } = self;
        if *before {
            return write!(f, "{drive} of {node} was declared lost before; nothing changes");
        }
        write!(f, "{drive} is lost: it is never used again, and what it was to delete is let go")?;
        let Some(code) = code else { return Ok(()) };
        if *left >= code.shards() as u64 {
            write!(f, "\nnew objects go to the {left} drives that are left")?;
        } else {
            write!(
                f,
                "\n{left} drives are left and {code} needs {}: there is no layout without it, and writes are refused until \
                 drives are added",
                code.shards()
            )?;
        }
        f.write_str(
            "\nobjects of which it had a part can spare one less than before: nothing repairs them yet, but putting them \
             again",
        )
    }
}
