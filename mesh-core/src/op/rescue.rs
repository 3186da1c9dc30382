//! What is asked and said when metadata groups go on without a majority of those that kept them, and when they are backed up.

use core::fmt;

use serde::{Deserialize, Serialize};

use crate::{
    audit::By,
    id::{GroupId, NodeId, ReplicaId},
    time::UnixMillis,
};

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

/// What can be expected of a replica of a metadata group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Condition {
    /// It votes and serves.
    Sound,
    /// It has stopped, or cannot be opened: for all that is known it has what it had, and votes again once that is mended and its
    /// node starts anew.
    Stopped,
    /// It was found to lack something that it has promised when it was opened: it never votes again as what it was.
    Damaged,
    /// It was to go on alone, and that was not finished: it does once its node starts anew.
    Forced,
}

/// What a node says of the mesh and of its replicas.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeReplicas {
    /// The hosts that it knows, but for those that are out.
    pub hosts: Vec<NodeId>,
    /// Nodes that it sees.
    pub sees: Vec<NodeId>,
    /// Nothing of what it keeps of metadata can be used, nor anything be begun there.
    pub is_unusable: bool,
    /// What it has of metadata groups.
    pub replicas: Vec<ReplicaReport>,
    /// What its clock says; 0: it does not say that.
    #[serde(default)]
    pub at: UnixMillis,
}

/// What the metadata of a host wait for that are to go on alone, so that they do not go on beside others that do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Waits {
    /// It is certain that none of these runs: somebody has accepted that they are lost, and that was not finished.
    Without(Vec<NodeId>),
    /// It is certain that no other host that runs has metadata of its own: these were restored from a backup.
    Restored,
}

/// A replica of a metadata group, as its node says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaReport {
    /// The group.
    pub group: GroupId,
    /// Which replica.
    pub replica: ReplicaId,
    /// What can be expected of it.
    pub condition: Condition,
    /// It leads, and a majority has followed it a moment ago.
    pub leads: bool,
    /// Who votes, as far as it knows: of each of these sets a majority has to agree. More than one while that changes.
    pub voters: Vec<Vec<ReplicaId>>,
    /// How far its log goes; none: it has nothing.
    pub end: Option<LogEnd>,
    /// From which recovery what it has comes, if it works.
    #[serde(default)]
    pub timeline: Timeline,
}

/// By what a metadata group goes on from less than it once had.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recovery {
    /// Nodes that are out from then on, with the DPUs in them. Of the control group.
    pub lost: Vec<NodeId>,
    /// Now: what is given out from then on is behind all that can have been given out until now.
    pub at: UnixMillis,
    /// Drawn at random: see `mesh_actors::metadata::state::recover`.
    pub chance: u64,
    /// It comes from a backup.
    #[serde(default)]
    pub restores: bool,
    /// Who has ordered it, for the audit log. Of the control group.
    #[serde(default)]
    pub by: Option<By>,
}

/// From which recovery a metadata group's state comes: the last one of all that it went through. What comes from another is of
/// another group, though it has the same number: entries and terms of the two say nothing of each other. Of two the later one goes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Timeline {
    /// When that was; 1970: it never went through any.
    pub at: UnixMillis,
    /// What was drawn then: two at once are two.
    pub chance: u64,
}

impl Timeline {
    /// Whether it is what the group was founded with.
    #[must_use]
    pub fn is_first(self) -> bool {
        self == Self::default()
    }

    /// What it is after a recovery. By a clock that is behind that of the last one, so much later than that as nobody has gone on
    /// from it for: entries and terms follow it.
    #[must_use]
    pub fn after(self, recovery: &Recovery) -> Self {
        let at = if recovery.at > self.at { recovery.at } else { UnixMillis(self.at.0.saturating_add(LEAP_MS)) };
        Self { at, chance: recovery.chance }
    }
}

/// A year and some weeks.
const LEAP_MS: u64 = 1000 << 25;

impl fmt::Display for Timeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{:016x}", self.at, self.chance)
    }
}

/// What a group's state went through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// Of which timeline it is.
    pub timeline: Timeline,
    /// The one that it was on after it had come from a backup last; the first one: it never did. Whatever is of an earlier one is of
    /// another mesh.
    pub restored: Timeline,
}

impl History {
    /// What it is after a recovery.
    #[must_use]
    pub fn after(self, recovery: &Recovery) -> Self {
        let timeline = self.timeline.after(recovery);
        Self { timeline, restored: if recovery.restores { timeline } else { self.restored } }
    }
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
    /// Nodes that must be lost for good: all hosts that do not answer, where a group goes on without some of them. Any of those may
    /// have voted in it since those that answer have heard of it last.
    pub lost: Vec<NodeId>,
    /// Hosts that do not answer, and may come back.
    pub silent: Vec<NodeId>,
    /// What becomes of each group.
    pub groups: Vec<(GroupId, Fate)>,
    /// Replicas of groups that do not go on by themselves which answer, and are damaged: what they have counts for nothing.
    #[serde(default)]
    pub damaged: Vec<(GroupId, NodeId)>,
}

impl RecoveryPlan {
    /// Whether every group goes on by itself.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.groups.iter().all(|(_, fate)| fate.goes_on())
    }

    /// Whether nobody is lost, and nothing, that would not be by what was accepted.
    #[must_use]
    pub fn is_within(&self, accepted: &Self) -> bool {
        let is_within = |(group, fate): &(GroupId, Fate)| {
            let then = accepted.groups.iter().find(|(known, _)| known == group).map(|(_, then)| *then);
            match (*fate, then) {
                (Fate::Led { .. } | Fate::Elects, _) | (Fate::Gone { .. }, Some(Fate::Gone { .. })) => true,
                (Fate::Survives { end, .. }, Some(Fate::Survives { end: then, .. })) => end >= then,
                (Fate::Survives { .. }, Some(Fate::Gone { .. })) => true,
                _ => false,
            }
        };
        self.lost.iter().all(|node| accepted.lost.contains(node)) && self.groups.iter().all(is_within)
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
                    let none = if self.damaged.iter().any(|(damaged, _)| damaged == group) {
                        "sound replica"
                    } else {
                        "replica"
                    };
                    writeln!(f, "{group}: no {none} answers: it begins anew on {on}; ALL THAT IT KNEW IS LOST")?;
                }
            }
        }
        for (group, on) in &self.damaged {
            writeln!(
                f,
                "{group}: {on} has a damaged replica; what that alone has is lost, unless a backup is restored"
            )?;
        }
        let named = |nodes: &[NodeId]| nodes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        if !self.silent.is_empty() {
            writeln!(f, "do not answer, and may come back: {}", named(&self.silent))?;
        }
        match &*self.lost {
            [] => write!(f, "no node has to be lost for that"),
            lost => write!(f, "out for good, with their drives and DPUs: {}", named(lost)),
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
