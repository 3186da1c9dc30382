//! What is asked and said when metadata groups go on without a majority of those that kept them, and when they are backed up.

use core::fmt;

use serde::{Deserialize, Serialize};

use crate::id::{GroupId, NodeId, ReplicaId};

/// How far a replica's log goes. Of two the greater one has all that the other was ever acknowledged for: Raft's order of
/// candidates (Ongaro and Ousterhout, "In search of an understandable consensus algorithm", USENIX ATC 2014, section 5.4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LogEnd {
    /// The term of the last entry.
    pub term: u64,
    /// Its index.
    pub index: u64,
}

impl fmt::Display for LogEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "entry {} of term {}", self.index, self.term)
    }
}

/// A replica of a metadata group, as its node says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaReport {
    /// The group.
    pub group: GroupId,
    /// Which replica.
    pub replica: ReplicaId,
    /// It votes and serves: nothing of what it promised is lost.
    pub is_sound: bool,
    /// It leads, and a majority follows.
    pub leads: bool,
    /// Who votes, as far as it knows: of each of these sets a majority has to agree. More than one while that changes.
    pub voters: Vec<Vec<ReplicaId>>,
    /// How far its log goes; none: it has nothing.
    pub end: Option<LogEnd>,
}

/// By what a metadata group goes on from less than it once had.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recovery {
    /// Nodes that are out from then on, with the DPUs in them. Of the control group.
    pub lost: Vec<NodeId>,
    /// Nothing is left of the group.
    pub anew: bool,
}

/// Has a node's replica of a group go on as the only voter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Force {
    /// The group.
    pub group: GroupId,
    /// The replica, and how far its log goes, as it was judged; none: there is none, and the group begins with nothing.
    pub survivor: Option<(ReplicaId, LogEnd)>,
    /// By what.
    pub recovery: Recovery,
}

/// What becomes of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fate {
    /// It has a leader that a majority follows.
    Led {
        /// Who that is.
        by: NodeId,
    },
    /// A majority answers: it elects a leader by itself.
    Elects,
    /// No majority answers: it would go on from this replica alone, which has most of those that answer.
    Survives {
        /// Where.
        on: NodeId,
        /// Which.
        replica: ReplicaId,
        /// What it has.
        end: LogEnd,
    },
    /// No replica answers: it would begin anew there, with nothing.
    Gone {
        /// Where.
        on: NodeId,
    },
}

impl Fate {
    /// Whether nothing has to be done for it.
    #[must_use]
    pub const fn goes_on(self) -> bool {
        matches!(self, Self::Led { .. } | Self::Elects)
    }
}

/// What it takes for all groups to go on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecoveryPlan {
    /// Nodes that must be lost for good: they do not answer, and have replicas of groups that would go on without them.
    pub lost: Vec<NodeId>,
    /// Other hosts that do not answer. They may come back.
    pub silent: Vec<NodeId>,
    /// What becomes of each group.
    pub groups: Vec<(GroupId, Fate)>,
}

impl RecoveryPlan {
    /// Whether every group goes on by itself.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.groups.iter().all(|(_, fate)| fate.goes_on())
    }
}

impl fmt::Display for RecoveryPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (group, fate) in &self.groups {
            match fate {
                Fate::Led { by } => writeln!(f, "{group}: led by {by}")?,
                Fate::Elects => writeln!(f, "{group}: a majority answers, and elects a leader by itself")?,
                Fate::Survives { on, end, .. } => {
                    writeln!(f, "{group}: goes on from what {on} has, up to {end}; what came later is lost")?;
                }
                Fate::Gone { on } => {
                    writeln!(f, "{group}: no replica answers: it begins anew on {on}; ALL THAT IT KNEW IS LOST")?;
                }
            }
        }
        let named = |nodes: &[NodeId]| nodes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        if !self.silent.is_empty() {
            writeln!(f, "do not answer, and may come back: {}", named(&self.silent))?;
        }
        match &*self.lost {
            [] => write!(f, "no node has to be lost for that"),
            lost => write!(f, "out for good, with their drives: {}", named(lost)),
        }
    }
}

/// Where a backup of a group is: which node reads it, and under which number. It is forgotten if nobody goes on for a minute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupAt {
    /// Who reads it.
    pub node: NodeId,
    /// Its number there.
    pub number: u64,
    /// How many pages were read, for who asks for one twice.
    pub page: u64,
}

/// Some rows of a group as it was at one moment. The payload has them: see `mesh_dpu_runtime::metadata::backup`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupPage {
    /// With which to go on; none: these are the last ones.
    pub next: Option<BackupAt>,
    /// With the last ones: how many there are in all, and their digest.
    pub end: Option<(u64, u128)>,
}
