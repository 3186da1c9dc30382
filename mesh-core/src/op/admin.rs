//! What administrators ask, and what they are told: values, which the command line prints as text or as JSON.

use core::fmt;

use serde::{Deserialize, Serialize};

use super::{
    access::{AccessAnswer, AccessOp},
    rescue::{BackupAt, BackupPage, Force, NodeReplicas, RecoveryPlan},
    work::NodeFigures,
};
#[cfg(doc)]
use crate::meta::MeshCommand;
use crate::{
    assignment::{Scope, Wish},
    audit::{AuditAnswer, AuditOp},
    bluefield::Generation,
    happened,
    id::{ActorId, ActorName, DriveId, Epoch, GroupId, LayoutId, NodeId, ReplicaId},
    meta::RepairState,
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
    /// How far the namespace groups are with repair: [`AdminAnswer::Repair`].
    Repair,
    /// Has drives read back everything that is on them, from now on and at this rate: [`AdminAnswer::Scrub`].
    Scrub {
        /// Which; none: all that there are.
        drives: Vec<DriveId>,
        /// Bytes a second of each, at most.
        rate: u64,
    },
    /// Empties a drive, or takes that back, by [`MeshCommand::DrainDrive`]: [`AdminAnswer::Drained`]. `Conflict` if what is
    /// stored would not be as safe without it, or would not fit.
    DrainDrive {
        /// Which.
        drive: DriveId,
        /// Whether to.
        draining: bool,
    },
    /// Takes a drive out that has been emptied, by [`MeshCommand::LoseDrive`]: [`AdminAnswer::Removed`]. `Conflict` while
    /// something may be on it that is nowhere else.
    RemoveDrive {
        /// Which.
        drive: DriveId,
    },
    /// Has a node leave, or takes that back, by [`MeshCommand::LeaveNode`]: [`AdminAnswer::Leaves`]. `Conflict` if something
    /// needs it.
    LeaveNode {
        /// Which.
        node: NodeId,
        /// Whether to.
        leaving: bool,
    },
    /// Takes a node out for good, by [`MeshCommand::RemoveNode`]: [`AdminAnswer::NodeOut`]. `Conflict` while something is on it
    /// that is nowhere else; or, of a lost one, while it may be up.
    RemoveNode {
        /// Which.
        node: NodeId,
        /// It does not come back.
        lost: bool,
    },
    /// Has a node use another drive, which it remembers: [`AdminAnswer::Added`]. The same again: no effect. `Conflict` if there
    /// is something else on the medium, or another drive's number at that place.
    AddDrive {
        /// Which node.
        node: NodeId,
        /// What.
        medium: NewMedium,
    },
    /// Has the node of a drive use another one in its place: [`AdminAnswer::Added`]. Once it is there, the other one is
    /// emptied. `Conflict` if it is smaller, or the other one is replaced already.
    ReplaceDrive {
        /// Which.
        drive: DriveId,
        /// By what.
        medium: NewMedium,
    },
    /// To the node itself, from another one: opens the medium and registers it as a drive:
    /// [`AdminAnswer::Added`]. To others than nodes it is `Denied`.
    OpenDrive {
        /// Which.
        medium: NewMedium,
        /// The drive whose place it takes.
        instead_of: Option<DriveId>,
    },
    /// To any node: what it takes for metadata groups to go on that have lost a majority of those who kept them:
    /// [`AdminAnswer::Recovery`]; and has them go on, if it is accepted what is lost for that. `Conflict` if more would be.
    Recover {
        /// What was told before; none: only looks.
        accept: Option<RecoveryPlan>,
    },
    /// To the node itself, from another one: which replicas of metadata groups it has: [`AdminAnswer::Replicas`]. To others than
    /// nodes it is `Denied`.
    Replicas,
    /// To the node itself, from another one: has a replica go on as the only voter of its group: [`AdminAnswer::Forced`].
    /// `Conflict` if it is not as it was judged, or is led. To others than nodes it is `Denied`.
    Force(Force),
    /// Some of what a metadata group has, as it was when this was asked for first: [`AdminAnswer::Backup`], with rows as the
    /// payload.
    Backup {
        /// The group.
        group: GroupId,
        /// With which to go on; none: begins.
        from: Option<BackupAt>,
    },
    /// About who may use the mesh: [`AdminAnswer::Access`].
    Access(AccessOp),
    /// About the audit log: [`AdminAnswer::Audit`].
    Audit(AuditOp),
    /// To any host, which asks that node unless it is it: what it has counted of its work: [`AdminAnswer::Figures`].
    Figures {
        /// Of which node.
        node: NodeId,
    },
}

/// A medium that is to be a drive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewMedium {
    /// Where it is on the node's machine: an absolute path of a folder or a block device, at most [`PATH_BYTES_MAX`].
    pub path: String,
    /// How much of it to use; a folder needs it, a device is used whole without it.
    pub capacity_bytes: Option<u64>,
}

/// Bytes of a [`NewMedium`]'s path at most, as Linux has it.
pub const PATH_BYTES_MAX: usize = 4096;

impl AdminOp {
    /// Whether it changes something.
    #[must_use]
    pub const fn is_order(&self) -> bool {
        if let Self::Access(op) = self {
            return op.is_order();
        }
        !matches!(
            self,
            Self::Plan { .. }
                | Self::PlanPage { .. }
                | Self::Events { .. }
                | Self::Repair
                | Self::Recover { accept: None }
                | Self::Replicas
                | Self::Backup { .. }
                | Self::Audit(AuditOp::Page { .. })
                | Self::Figures { .. }
        )
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
    /// How far each namespace group is.
    Repair(Vec<GroupRepair>),
    /// Drives that have begun, and why the others have not, for people.
    Scrub(Vec<(DriveId, Option<String>)>),
    /// What a drive that is emptied, or no more, leaves.
    Drained(DrainedDrive),
    /// A drive that is out.
    Removed(DriveId),
    /// What a node that leaves, or does so no more, has.
    Leaves(LeavingNode),
    /// A node that is out.
    NodeOut(NodeId),
    /// A drive that a node has and uses.
    Added(AddedDrive),
    /// What it takes for metadata groups to go on, or took.
    Recovery(RecoveryPlan),
    /// The replicas of a node.
    Replicas(NodeReplicas),
    /// The number that a replica has from now on.
    Forced(ReplicaId),
    /// Rows of a group.
    Backup(BackupPage),
    /// What was asked about who may use the mesh.
    Access(AccessAnswer),
    /// What was asked of the audit log.
    Audit(AuditAnswer),
    /// What a node has counted of its work.
    Figures(Box<NodeFigures>),
}

/// How far a namespace group is with bringing what it has stored home.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupRepair {
    /// Which.
    pub group: GroupId,
    /// The newest layout there is.
    pub newest: LayoutId,
    /// What the group says.
    pub state: Option<RepairState>,
    /// Why it says nothing, for people.
    pub error: Option<String>,
}

impl GroupRepair {
    /// Whether everything has been counted where the newest layout has it, but for what is lost.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        let is_whole = |state: RepairState| {
            let layouts = [state.marked, state.settled, state.count.layout];
            layouts == [self.newest; 3] && state.unsettled == 0
        };
        self.state.is_some_and(is_whole)
    }
}

impl fmt::Display for GroupRepair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { group, newest, state, error } = self;
        let Some(RepairState { settled, unsettled, count, .. }) = state else {
            return write!(f, "{group}: not known: {}", error.as_deref().unwrap_or("it has not answered"));
        };
        if settled != newest {
            write!(f, "{group}: shards are being brought to where {newest} has them (until now: {settled})")?;
        } else if *unsettled > 0 {
            write!(f, "{group}: {unsettled} writes were stored without some of their drives and are not whole yet")?;
        } else if count.layout != *newest {
            write!(f, "{group}: everything is brought to where {newest} has it; to be counted")?;
        } else {
            write!(f, "{group}: whole")?;
        }
        if count.layout == LayoutId(0) {
            return Ok(());
        }
        let minutes = count.at.0 / 60_000;
        write!(
            f,
            "\n    last counted at {:02}:{:02} UTC, for {}: {} writes, {} shards, {} healed, {} deleted elsewhere",
            minutes / 60 % 24,
            minutes % 60,
            count.layout,
            count.writes,
            count.shards,
            count.healed,
            count.cleared
        )?;
        if count.lost > 0 {
            write!(f, ", {} LOST: fewer shards are left than it takes to read them", count.lost)?;
        }
        Ok(())
    }
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

/// A drive that is being emptied, or is so no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainedDrive {
    /// Which.
    pub drive: DriveId,
    /// Whether it is being emptied.
    pub draining: bool,
    /// Drives of which layouts are made from now on.
    pub left: u64,
    /// Bytes on the drive.
    pub used_bytes: u64,
}

impl fmt::Display for DrainedDrive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { drive, draining, left, used_bytes } = self;
        if *draining {
            write!(
                f,
                "{drive} is being emptied: what is on it ({} MiB) goes to the {left} drives that are left. `mesh repair` shows how \
                 far that is; once every group is whole, take it out with `mesh drive remove {}`",
                used_bytes >> 20,
                drive.0
            )
        } else {
            write!(f, "{drive} is used again, as one of {left} drives")
        }
    }
}

/// A drive that a node uses because it was told to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddedDrive {
    /// Which.
    pub drive: DriveId,
    /// Whose it is.
    pub node: NodeId,
    /// Bytes that it can hold.
    pub capacity_bytes: u64,
    /// The drive whose place it takes.
    pub instead_of: Option<DriveId>,
}

impl fmt::Display for AddedDrive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { drive, node, capacity_bytes, instead_of } = self;
        write!(f, "{drive} of {node} is used from now on ({} MiB)", capacity_bytes >> 20)?;
        let Some(old) = instead_of else { return Ok(()) };
        write!(
            f,
            ", in the place of {old}, which is being emptied. `mesh repair` shows how far that is; once every group is whole, \
             take it out with `mesh drive remove {}`, or, if it does not answer, with --lost",
            old.0
        )
    }
}

/// A node that leaves the mesh, or does so no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeavingNode {
    /// Which.
    pub node: NodeId,
    /// Whether it leaves.
    pub leaving: bool,
    /// How many drives it has.
    pub drives: u64,
    /// Drives of which layouts are made from now on, its own not among them.
    pub left: u64,
    /// Bytes on its drives.
    pub used_bytes: u64,
}

impl fmt::Display for LeavingNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { node, leaving, drives, left, used_bytes } = self;
        if *leaving {
            write!(
                f,
                "{node} leaves: its actors go elsewhere, others vote in its place, and what is on its {drives} drives ({} MiB) goes \
                 to the {left} of others. `mesh repair` shows how far that is; once every group is whole, take it out with \
                 `mesh node remove {}`",
                used_bytes >> 20,
                node.0
            )
        } else {
            write!(f, "{node} stays: its {drives} drives are used again, beside {left} of others")
        }
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
    /// The widest code that they are to hold; `None`: the mesh is not formed.
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
                "\n{left} drives are left and {code} needs {}: what is to be stored in that code is refused, and nothing that \
                 is lost is rebuilt, until drives are added",
                code.shards()
            )?;
        }
        f.write_str(
            "\nobjects of which it had a part can spare one less than before, until that is rebuilt on the others: `mesh repair` \
             shows how far that is",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{meta::Count, time::UnixMillis};

    #[test]
    fn a_group_is_whole_once_everything_was_counted_where_the_newest_layout_has_it() {
        let said = |settled, unsettled, counted| {
            let count = Count { layout: LayoutId(counted), at: UnixMillis(3_720_000), writes: 1, ..Count::default() };
            let settled = LayoutId(settled);
            let state = RepairState { marked: settled, settled, unsettled, line: 1, count };
            let group = GroupRepair { group: GroupId(2), newest: LayoutId(4), state: Some(state), error: None };
            (group.is_whole(), group.to_string().lines().next().unwrap_or_default().to_owned())
        };
        let text = |text: &str| format!("{}: {text}", GroupId(2));
        let four = LayoutId(4);
        assert_eq!(said(4, 0, 4), (true, text("whole")));
        assert_eq!(
            said(4, 0, 3),
            (false, text(&format!("everything is brought to where {four} has it; to be counted")))
        );
        assert_eq!(
            said(4, 2, 4),
            (false, text("2 writes were stored without some of their drives and are not whole yet"))
        );
        let moving = format!("shards are being brought to where {four} has them (until now: {})", LayoutId(3));
        assert_eq!(said(3, 0, 3), (false, text(&moving)));
        let lost = |lost| {
            let count =
                Count { layout: four, at: UnixMillis(3_720_000), writes: 5, shards: 9, lost, ..Count::default() };
            let state = RepairState { marked: four, settled: four, unsettled: 0, line: 1, count };
            let group = GroupRepair { group: GroupId(2), newest: four, state: Some(state), error: None };
            (group.is_whole(), group.to_string())
        };
        let counted = text(&format!(
            "whole\n    last counted at 01:02 UTC, for {four}: 5 writes, 9 shards, 0 healed, 0 deleted elsewhere"
        ));
        assert_eq!(lost(0), (true, counted.clone()));
        // Nothing is left to be done for it, and it is said.
        let what = ", 2 LOST: fewer shards are left than it takes to read them";
        assert_eq!(lost(2), (true, counted + what));
        let silent = GroupRepair { group: GroupId(2), newest: four, state: None, error: Some("no leader".into()) };
        assert_eq!((silent.is_whole(), silent.to_string()), (false, text("not known: no leader")));
    }
}
