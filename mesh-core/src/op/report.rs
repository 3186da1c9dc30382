//! How nodes are, as they say themselves: what they have and can run, what they have used, and how their actors and
//! drives are.
//!
//! Observations only: what follows from them is for placement and for people to decide.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

#[cfg(doc)]
use super::History;
use super::Timeline;
use crate::{
    bluefield::Generation,
    id::{ActorId, DriveId, Epoch, GroupId, Incarnation, LayoutId, NodeId, ReplicaId},
    meta::{Level, RepairState},
    time::UnixMillis,
    topology::{DriveState, Location, NodeKind, NodeState, Survival},
};

/// How a node is, as it says itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeReport {
    /// Who.
    pub node: NodeId,
    /// Which start.
    pub incarnation: Incarnation,
    /// Of its data folder: [`NodeInfo::life`](crate::topology::NodeInfo::life).
    pub life: u64,
    /// The starts that its data folder remembers, this one last; [`STARTS_MAX`] at most.
    pub starts: Vec<Incarnation>,
    /// What it runs on.
    pub kind: NodeKind,
    /// Where its mesh listener is.
    pub address: String,
    /// The process.
    pub pid: u32,
    /// How the one who tells it sees it.
    pub state: NodeState,
    /// Its drives, with what they are like.
    pub drives: Vec<DriveReport>,
    /// The groups it has a replica of.
    pub groups: Vec<GroupReport>,
    /// Peers that it has a working link to, itself included.
    pub sees: Vec<NodeId>,
    /// The host that it is plugged into, if it is a DPU.
    pub attached_to: Option<NodeId>,
    /// A process that stands for a DPU of this kind.
    pub emulated: Option<Generation>,
    /// The actors that it hosts.
    pub actors: Vec<ActorReport>,
    /// What it can run, and what that costs here.
    pub ability: Arc<Ability>,
    /// What it has used.
    pub load: NodeLoad,
    /// Why it does not take data, for people; `None`: it does.
    pub missing: Option<String>,
    /// What goes on when a node is lost, as the one who tells it works it out; of nobody else.
    pub survival: Option<Survival>,
    /// Reads through it that found lost data since it started.
    pub lost: u64,
    /// Data chains that it has tried to run several times in a row, in vain, each with the epoch of the last try, in order:
    /// for the next minute they are better tried elsewhere.
    pub unable: Vec<(ActorId, Epoch)>,
    /// Registered drives that it sees up or full.
    pub drives_up: u32,
    /// Nodes with a start that runs and whose beats count for nothing here, because another start of each does, in order.
    pub turned_away: Vec<(NodeId, Incarnation)>,
    /// What its build can do.
    #[serde(default)]
    pub level: Level,
    /// What the mesh can do, as the one who tells it knows; of nobody else.
    #[serde(default)]
    pub mesh_level: Option<Level>,
    /// Where its machine is, as the one who tells it knows.
    #[serde(default)]
    pub location: Option<Location>,
}

/// What is remembered of a node by others: whose files are older than that was set back to a copy of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Witness {
    /// Of its data folder.
    pub life: u64,
    /// The last start of it that counted.
    pub incarnation: Incarnation,
    /// Its replica of the control group.
    pub replica: Option<ReplicaId>,
    /// How often the store of this replica was marked, at least.
    pub marked: u64,
}

/// Starts that a data folder remembers at most.
pub const STARTS_MAX: usize = 16;

/// How a node's replica of a metadata group is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupReport {
    /// The group.
    pub group: GroupId,
    /// Which replica of it.
    pub replica: ReplicaId,
    /// Who leads, as far as it knows.
    pub leader: Option<NodeId>,
    /// The newest term that it knows.
    pub term: u64,
    /// Why it neither votes nor serves, for people.
    pub trouble: Option<String>,
    /// Who votes, as the leader says; of nobody else.
    pub voters: Vec<ReplicaId>,
    /// How far what it has stored is at home, as the leader of a namespace group says; of nobody else.
    #[serde(default)]
    pub settled: Settled,
    /// From which recovery what it has comes, if it works.
    #[serde(default)]
    pub timeline: Timeline,
    /// See [`History::restored`].
    #[serde(default)]
    pub restored: Timeline,
    /// It works and has nothing: it learns all that there is from whoever takes it in.
    #[serde(default)]
    pub is_new: bool,
}

impl GroupReport {
    /// Whether it is said of this very replica, which works, and has nothing of a later recovery than this.
    #[must_use]
    pub fn is_sound(&self, replica: ReplicaId, timeline: Timeline) -> bool {
        self.replica == replica && self.trouble.is_none() && self.timeline <= timeline
    }

    /// Whether it works and has something of before a restore: then it is of another mesh.
    #[must_use]
    pub fn is_before(&self, restored: Timeline) -> bool {
        self.trouble.is_none() && !self.is_new && self.timeline < restored
    }
}

/// How far what a namespace group has stored is at the homes that a layout gives it. It counts nothing, so that it changes only
/// where something follows from it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Settled {
    /// It is not known.
    #[default]
    Unsaid,
    /// No repair was ever begun: everything is where it was written.
    Unbegun,
    /// Not all of it is.
    Partly,
    /// All of it is, in this layout.
    In(LayoutId),
}

impl From<RepairState> for Settled {
    fn from(state: RepairState) -> Self {
        let RepairState { marked, settled, unsettled, .. } = state;
        match (marked, settled) {
            (LayoutId(0), _) => Self::Unbegun,
            _ if unsettled > 0 => Self::Partly,
            // Before the first layout there is none in which anything could be.
            (FIRST_LAYOUT, LayoutId(0)) => Self::In(FIRST_LAYOUT),
            _ if settled == marked => Self::In(settled),
            _ => Self::Partly,
        }
    }
}

/// Layouts are numbered from it, unless the mesh goes on from less than it had.
const FIRST_LAYOUT: LayoutId = LayoutId(1);

/// What a node can run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ability {
    /// The kinds of function, and what each costs here, as measured: nanoseconds a request and picoseconds a byte.
    pub functions: BTreeMap<String, (u64, u64)>,
    /// Thousandths of a core that it has, of such cores as the costs were measured on.
    pub millicores: u32,
    /// Memory for actors, in bytes.
    pub memory_bytes: u64,
}

/// What a node has used since its process started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeLoad {
    /// CPU time of the whole process, as the system accounts for it, in nanoseconds.
    pub cpu_ns: u64,
    /// Memory of the process in RAM now, in bytes.
    pub resident_bytes: u64,
    /// By kind of function: jobs done, their bytes, their CPU time in nanoseconds, and jobs that wait or run now.
    pub functions: BTreeMap<String, [u64; 4]>,
}

/// How an actor is, as its node says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActorReport {
    /// Which.
    pub actor: ActorId,
    /// Its functions by name, in the order of the chain.
    pub functions: Vec<String>,
    /// The epoch it runs under.
    pub epoch: Epoch,
    /// What it is doing.
    pub phase: Phase,
    /// Requests taken and not answered.
    pub jobs: u64,
    /// Their payload bytes.
    pub bytes: u64,
    /// Requests taken since it was started here.
    pub requests: u64,
    /// Payload bytes taken and given since it was started here.
    pub traffic_bytes: u64,
    /// How often its function panicked.
    pub restarts: u32,
}

/// What an actor is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// It takes requests.
    #[default]
    Running,
    /// It is being built here for a move; requests wait.
    Warming,
    /// It is about to leave; requests wait.
    Frozen,
    /// It is being stopped, or ends what it had when it left.
    Draining,
}

impl core::fmt::Display for Phase {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Running => "running",
            Self::Warming => "warming",
            Self::Frozen => "frozen",
            Self::Draining => "draining",
        })
    }
}

/// How a drive is, as its node says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DriveReport {
    /// Which.
    pub drive: DriveId,
    /// Whether it takes reads and writes.
    pub state: DriveState,
    /// Bytes in all.
    pub capacity_bytes: u64,
    /// Bytes free for new shards.
    pub free_bytes: u64,
    /// Shards held.
    pub shards: u64,
    /// Records found damaged since the start.
    pub corrupt: u64,
    /// Why it is not up, or how it is damaged, for people.
    pub reason: Option<String>,
    /// Shards that are known to be damaged now.
    #[serde(default)]
    pub damaged: u64,
    /// How far it is with reading everything back.
    #[serde(default)]
    pub scrub: ScrubState,
}

/// How far a drive is with reading back everything that is on its medium.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScrubState {
    /// The slot of the medium that is looked at next.
    pub at: u32,
    /// Slots of the medium.
    pub of: u32,
    /// When everything had been looked at last, by the clock of the drive's node; 0: never.
    pub ended: UnixMillis,
    /// Somebody asked for it: it does not keep to the usual rate.
    pub asked: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_settled_in_the_layout_of_its_last_repair_once_nothing_is_elsewhere() {
        let of = |marked, settled, unsettled| {
            let (marked, settled) = (LayoutId(marked), LayoutId(settled));
            Settled::from(RepairState { marked, settled, unsettled, ..RepairState::default() })
        };
        assert_eq!(Settled::from(RepairState::default()), Settled::Unbegun);
        assert_eq!([of(1, 0, 0), of(1, 1, 0), of(4, 4, 0)], [1, 1, 4].map(|layout| Settled::In(LayoutId(layout))));
        // One is under way, the first of a mesh that had layouts before it among them; or writes were stored without some of
        // their drives.
        assert_eq!([of(2, 1, 0), of(3, 0, 0), of(4, 4, 1), of(1, 0, 1)], [Settled::Partly; 4]);
    }
}
