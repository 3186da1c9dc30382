//! "I am alive": the [`Beat`], which every node sends to every other all the time. It is small, and what its sender says of
//! itself travels with it only as far as the other does not have it yet.
//!
//! A report has a version, which counts up with every change of it. Whoever holds a report says as of which version it does,
//! in every beat of its own; so whoever speaks knows what is missing, whatever was lost on the way, and nothing is
//! remembered that an answer would not put right.
//!
//! ```text
//!   sender's report   1 ──── 2 ──── 3 ──── 4 ────►        2: a drive is full   3: a figure   4: an actor runs
//!   the other holds          2                            "as of 2"
//!   News                     2 ───────────► 4             only what 4 changed; figures once they are due
//! ```

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{ActorReport, DriveReport, NodeLoad, NodeReport, Witness};
use crate::id::{ActorId, Incarnation, NodeId, ReplicaId};

/// "I am alive", with what the one who is told this does not know yet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beat {
    /// Who.
    pub node: NodeId,
    /// Which start.
    pub incarnation: Incarnation,
    /// Where its mesh listener is.
    pub address: String,
    /// Its replica of the control group.
    pub replica: Option<ReplicaId>,
    /// How often its metadata store has said durably what it promises, since it has that replica.
    pub marked: u64,
    /// What it remembers of the one whom it tells this; left out where that could say nothing to it.
    pub witness: Option<Witness>,
    /// Starts that the mesh has registered, as far as the sender knows, of nodes of which that one turns just these away.
    pub registered: Vec<(NodeId, Incarnation)>,
    /// What it holds of what that one has said.
    pub held: Option<Held>,
    /// What has changed of its own report since that one had it.
    pub news: Option<Arc<News>>,
}

/// What one node holds of another's report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// Of which start.
    pub start: Incarnation,
    /// As of which versions.
    pub as_of: AsOf,
}

/// Versions of a report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AsOf {
    /// Of what it says of states: what runs, what is up, who leads.
    pub states: u64,
    /// Of its figures: loads, bytes, counters.
    pub figures: u64,
}

/// What has changed of a report. What it names is as of [`Self::version`], whatever it was before.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct News {
    /// What has changed since these; 0: it is all.
    pub since: AsOf,
    /// As of this.
    pub version: u64,
    /// Whether figures are among it, all that changed.
    pub figures: bool,
    /// All but what stands below: that is empty here.
    pub report: Option<Box<NodeReport>>,
    /// All of its drives.
    pub drives: Option<Vec<DriveReport>>,
    /// Actors, as they are now.
    pub actors: Vec<ActorReport>,
    /// Actors that are there no more.
    pub gone: Vec<ActorId>,
    /// Peers to which it has a working link now.
    pub sees: Vec<NodeId>,
    /// Peers to which it has none any more.
    pub misses: Vec<NodeId>,
    /// What it has used.
    pub load: Option<NodeLoad>,
}
