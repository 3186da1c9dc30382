//! Which node runs which actor, since when, and where it is moving.

use core::{fmt, str::FromStr};
use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::{
    error::Error,
    id::{ActorId, Epoch, NodeId, TenantId},
};

/// The number of a move: an actor's moves are numbered from 1, begun or not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MoveId(pub u64);

impl fmt::Display for MoveId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "m{}", self.0)
    }
}

/// One actor's place. Changed only through the control group; every change of owner raises the epoch.
///
/// ```text
///            BeginMove (moves + 1)                    CommitMove: epoch + 1, node = to
/// ── Assign ──────────► at rest ──────────► moving ──────────────────────────────────► at rest
///                          ▲                  │ AbortMove                                 │
///                          └──────────────────┘◄── Assign (epoch + 1): the owner is lost ─┘
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    /// The actor.
    pub actor: ActorId,
    /// Where it runs.
    pub node: NodeId,
    /// The fence: what an older epoch says counts no more.
    pub epoch: Epoch,
    /// Moves begun and owners lost so far; the number of the last one.
    pub moves: MoveId,
    /// Where the move that is under way goes.
    pub moving: Option<NodeId>,
    /// The number of the move, or of the loss, by which it came under its epoch.
    pub since: MoveId,
}

impl Assignment {
    /// Whether the actor is on one of these nodes, or on its way there.
    #[must_use]
    pub fn is_on(&self, nodes: &BTreeSet<NodeId>) -> bool {
        nodes.contains(&self.node) || self.moving.is_some_and(|to| nodes.contains(&to))
    }

    /// An actor at rest that has never moved.
    #[must_use]
    pub const fn new(actor: ActorId, node: NodeId, epoch: Epoch) -> Self {
        Self { actor, node, epoch, moves: MoveId(0), moving: None, since: MoveId(0) }
    }

    /// The move that is under way.
    #[must_use]
    pub fn move_under_way(&self) -> Option<(MoveId, NodeId)> {
        self.moving.map(|to| (self.moves, to))
    }
}

/// The last stages of a chain, where they run apart from its head. They hold no state: the head keeps functions of its
/// own for them, and goes on by itself where the tail's node does not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tail {
    /// The first of them, counted from 0: at least 1.
    pub cut: u8,
    /// Where they run.
    pub node: NodeId,
}

/// Where a chain's user wants it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Preference {
    /// Where it costs least; it moves only for a gain that is worth it.
    #[default]
    Auto,
    /// On a DPU while one is there, else on the host.
    PreferDpu,
    /// Never on a DPU.
    HostOnly,
    /// Only on a DPU: without one it does not run, and its requests wait and fail.
    DpuOnly,
}

impl Preference {
    const NAMES: [(Self, &'static str); 4] = [
        (Self::Auto, "auto"),
        (Self::PreferDpu, "prefer-dpu"),
        (Self::HostOnly, "host-only"),
        (Self::DpuOnly, "dpu-only"),
    ];
}

impl fmt::Display for Preference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::NAMES.iter().find(|(preference, _)| preference == self);
        f.write_str(name.map_or("", |(_, name)| name))
    }
}

impl FromStr for Preference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let known = Self::NAMES.iter().find(|(_, name)| *name == text);
        known
            .map(|(preference, _)| *preference)
            .ok_or_else(|| Error::invalid("a preference is auto, prefer-dpu, host-only or dpu-only").with("got", text))
    }
}

/// What a wish about placement is about. The narrower one counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scope {
    /// Every chain.
    Mesh,
    /// A tenant's chains.
    Tenant(TenantId),
    /// One actor.
    Actor(ActorId),
}

/// What a user has asked of placement.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wish {
    /// Which kind of node.
    pub preference: Preference,
    /// Exactly this node.
    pub pin: Option<NodeId>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn preferences_are_written_as_they_are_read() {
        for (preference, name) in Preference::NAMES {
            assert_eq!((preference.to_string().as_str(), name.parse()), (name, Ok(preference)));
        }
        assert_eq!("dpu".parse::<Preference>().map_err(|error| error.kind()), Err(crate::ErrorKind::Invalid));
    }
}
