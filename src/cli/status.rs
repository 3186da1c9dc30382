//! `mesh status`.

use core::time::Duration;
use std::{collections::BTreeMap, sync::Arc};

use clap::Args;
use mesh_core::{
    Error, ErrorKind,
    bluefield::Generation,
    id::{GroupId, NodeId},
    op::{NodeReport, Timeline},
    topology::{DriveState, NodeKind, NodeState, Survival},
};
use serde::Serialize;

use super::{Connect, human, say};

/// Show the nodes, drives and metadata groups of a mesh, as the node that answers sees them.
///
/// With --json, one object: `nodes`, an array with `id`, `kind` (`host`, `dpu`), `pid`, `address`, `state` (`up`,
/// `down`, `draining`), `attached_to` (of a DPU: the host's `id`, or null), `emulated` (what a DPU that is none stands
/// for, such as `bf3`, or null), `location` (its zone and rack, or null), `missing` (why it does not take data, or null), `lost`
/// (reads through it that found lost data since its start); `drives`, an array with `id`, `node`, `state` (`up`, `full`, `down`, `lost`),
/// `capacity_bytes`, `free_bytes`, `shards`, `corrupt` (records found damaged since its node started) and `reason` (why it is not up, or
/// null); `groups`, an array with `id`, `leader` (a node's id, or null), `term`, and `troubles`, an array with `node` and
/// `why`, of the replicas that neither vote nor serve; `survival`, what goes on when any one more node is lost: `reads`,
/// `writes`, and `reason` why not and what helps (not before what was lost has been repaired); null while there is no layout;
/// `level`, what the builds of all nodes can do together, with `held_back_by`, the `id`s of nodes whose builds can do less than
/// others' (each node has its `level`).
///
/// Fails if the node that answers does not take data, with what it waits for.
#[derive(Debug, Args)]
pub(crate) struct Status {
    #[command(flatten)]
    connect: Connect,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Shown {
    nodes: Vec<ShownNode>,
    drives: Vec<ShownDrive>,
    groups: Vec<ShownGroup>,
    survival: Option<Survival>,
    level: u16,
    held_back_by: Vec<String>,
}

#[derive(Serialize)]
struct ShownNode {
    id: String,
    kind: NodeKind,
    pid: u32,
    address: String,
    state: NodeState,
    attached_to: Option<String>,
    emulated: Option<Generation>,
    location: Option<String>,
    missing: Option<String>,
    lost: u64,
    level: u16,
}

#[derive(Serialize)]
struct ShownDrive {
    id: String,
    node: String,
    state: DriveState,
    capacity_bytes: u64,
    free_bytes: u64,
    shards: u64,
    corrupt: u64,
    damaged: u64,
    reason: Option<String>,
}

#[derive(Serialize)]
struct ShownGroup {
    id: String,
    leader: Option<String>,
    term: u64,
    troubles: Vec<ShownTrouble>,
}

/// Of which recovery, and then which of its terms.
type Term = (Timeline, u64);

#[derive(Serialize)]
struct ShownTrouble {
    node: String,
    why: String,
}

impl Status {
    pub(crate) async fn run(self) -> Result<(), Error> {
        let client = self.connect.client().await?;
        let mut reports = client.status().await?;
        // A chain that moves is missing for a moment.
        for _ in 0..LOOKS_MAX {
            if missing(&reports).is_none() {
                break;
            }
            tokio::time::sleep(LOOK_PAUSE).await;
            reports = client.status().await?;
        }
        let shown = shown(&reports);
        if self.json {
            let text = serde_json::to_string_pretty(&shown)
                .map_err(|error| Error::bug("the status cannot be written").caused_by(error))?;
            say(&[text])?;
        } else {
            say(&lines(&shown))?;
        }
        match missing(&reports) {
            Some(missing) => Err(Error::new(ErrorKind::Draining, format!("the node does not take data: {missing}"))),
            None => Ok(()),
        }
    }
}

/// What the node that answered waits for. It alone says what the mesh survives; without a layout nobody does.
fn missing(reports: &[Arc<NodeReport>]) -> Option<&str> {
    let answered = reports.iter().find(|report| report.survival.is_some());
    match answered {
        Some(report) => report.missing.as_deref(),
        None => reports.iter().find_map(|report| report.missing.as_deref()),
    }
}

fn shown(reports: &[Arc<NodeReport>]) -> Shown {
    let nodes = reports.iter().map(|report| ShownNode {
        id: report.node.to_string(),
        kind: report.kind,
        pid: report.pid,
        address: report.address.clone(),
        state: report.state,
        attached_to: report.attached_to.map(|host| host.to_string()),
        emulated: report.emulated,
        location: report.location.as_ref().map(ToString::to_string),
        missing: report.missing.clone(),
        lost: report.lost,
        level: report.level.0,
    });
    let drives = reports.iter().flat_map(|report| {
        report.drives.iter().map(|drive| ShownDrive {
            id: drive.drive.to_string(),
            node: report.node.to_string(),
            state: drive.state,
            capacity_bytes: drive.capacity_bytes,
            free_bytes: drive.free_bytes,
            shards: drive.shards,
            corrupt: drive.corrupt,
            damaged: drive.damaged,
            reason: drive.reason.clone(),
        })
    });
    // The newest term that a living member knows, and its leader.
    let mut groups: BTreeMap<GroupId, (Term, Option<NodeId>, Vec<ShownTrouble>)> = BTreeMap::new();
    for report in reports.iter().filter(|report| report.state != NodeState::Down) {
        for said in &report.groups {
            let known = groups.entry(said.group).or_default();
            let term = (said.timeline, said.term);
            if term > known.0 || (term == known.0 && known.1.is_none()) {
                (known.0, known.1) = (term, said.leader);
            }
            let trouble = |why: &String| ShownTrouble { node: report.node.to_string(), why: why.clone() };
            known.2.extend(said.trouble.as_ref().map(trouble));
        }
    }
    let groups = groups.into_iter().map(|(group, ((_, term), leader, troubles))| ShownGroup {
        id: group.to_string(),
        leader: leader.map(|node| node.to_string()),
        term,
        troubles,
    });
    // Only the one who answers says it.
    let survival = reports.iter().find_map(|report| report.survival.clone());
    let level = reports.iter().find_map(|report| report.mesh_level).unwrap_or_default();
    // Where some can do more, the others hold the mesh back.
    let most = reports.iter().map(|report| report.level).max().unwrap_or_default();
    let behind = reports.iter().filter(|report| report.level < most.max(level));
    Shown {
        nodes: nodes.collect(),
        drives: drives.collect(),
        groups: groups.collect(),
        survival,
        level: level.0,
        held_back_by: behind.map(|report| report.node.to_string()).collect(),
    }
}

fn lines(shown: &Shown) -> Vec<String> {
    let mut lines = Vec::new();
    for node in &shown.nodes {
        lines.push(format!(
            "{:<10} {:<5} {:<9} {:<22} pid {}{}{}{}",
            node.id,
            word(&node.kind),
            word(&node.state),
            node.address,
            node.pid,
            node.attached_to.as_ref().map_or(String::new(), |host| format!(", DPU of {host}")),
            node.emulated.as_ref().map_or(String::new(), |kind| format!(", emulated {kind}")),
            node.location.as_ref().map_or(String::new(), |location| format!(", in {location}"))
        ));
        if let Some(missing) = &node.missing {
            lines.push(format!("{:<10} not ready: {missing}", ""));
        }
        if node.lost > 0 {
            lines.push(format!(
                "{:<10} DATA LOST: {} reads since its start met objects that cannot be read any more; its log names them",
                "", node.lost
            ));
        }
    }
    lines.push(String::new());
    for drive in &shown.drives {
        let reason = drive.reason.as_deref().unwrap_or("");
        lines.push(format!(
            "{:<12} {:<10} {:<5} {:>12} free of {:>12} {:>8} shards {reason}",
            drive.id,
            drive.node,
            word(&drive.state),
            human(drive.free_bytes),
            human(drive.capacity_bytes),
            drive.shards
        ));
        if drive.corrupt > 0 {
            lines.push(format!("{:<12} {} damaged records since the start", "", drive.corrupt));
        }
    }
    lines.push(String::new());
    for group in &shown.groups {
        lines.push(format!(
            "{:<10} leader {:<10} term {}",
            group.id,
            group.leader.as_deref().unwrap_or("none"),
            group.term
        ));
        let trouble = |trouble: &ShownTrouble| format!("{:<10} {}: {}", "", trouble.node, trouble.why);
        lines.extend(group.troubles.iter().map(trouble));
    }
    lines.push(String::new());
    lines.push(survives(shown.survival.as_ref()));
    lines.push(levels(shown));
    lines
}

/// What the builds of the nodes can do together, in a line.
fn levels(shown: &Shown) -> String {
    let Shown { level, held_back_by, .. } = shown;
    let most = shown.nodes.iter().map(|node| node.level).max().unwrap_or(*level);
    match held_back_by.as_slice() {
        _ if most <= *level && held_back_by.is_empty() => format!("feature level {level}"),
        [] => format!("feature level {level}; it rises to {most} now"),
        behind if most <= *level => {
            format!("feature level {level}; too old for it: {}: run newer builds there", behind.join(", "))
        }
        behind => format!("feature level {level}; held back from {most} by {}: upgrade them", behind.join(", ")),
    }
}

/// What the loss of a node costs, in a line.
pub(super) fn survives(survival: Option<&Survival>) -> String {
    match survival {
        None => "the node that answers knows of no layout yet: nothing can be stored through it".to_owned(),
        Some(Survival { reads: true, writes: true, .. }) => {
            "any one more node may be lost: reads and writes go on".to_owned()
        }
        Some(Survival { reads, reason, .. }) => {
            let reads = if *reads { "reads go on" } else { "reads fail" };
            format!("NOT SAFE against the loss of a node: {reads}, writes fail: {reason}")
        }
    }
}

fn word(value: &impl core::fmt::Debug) -> String {
    format!("{value:?}").to_lowercase()
}

/// How often it looks again before it says that a node is not ready.
const LOOKS_MAX: u32 = 5;
const LOOK_PAUSE: Duration = Duration::from_millis(200);

#[cfg(test)]
mod tests {
    use mesh_core::meta::Level;

    use super::*;

    #[test]
    fn who_holds_the_mesh_back_is_said() {
        let report = |node, level, mesh: Option<u16>| {
            let (level, mesh_level) = (Level(level), mesh.map(Level));
            Arc::new(NodeReport { node: NodeId(node), level, mesh_level, ..NodeReport::default() })
        };
        let line = |reports: [Arc<NodeReport>; 3]| lines(&shown(&reports)).pop().unwrap_or_default();
        assert_eq!(line([report(1, 2, Some(2)), report(2, 2, None), report(3, 2, None)]), "feature level 2");
        assert_eq!(
            line([report(1, 1, Some(1)), report(2, 3, None), report(3, 1, None)]),
            "feature level 1; held back from 3 by node-1, node-3: upgrade them"
        );
        assert_eq!(
            line([report(1, 2, Some(1)), report(2, 2, None), report(3, 2, None)]),
            "feature level 1; it rises to 2 now"
        );
        assert_eq!(
            line([report(1, 2, Some(2)), report(2, 2, None), report(3, 1, None)]),
            "feature level 2; too old for it: node-3: run newer builds there"
        );
    }

    #[test]
    fn a_node_that_waits_says_what_for_and_what_a_loss_would_cost_is_said_at_once() {
        let survival = Survival { reads: true, writes: false, reason: "add 1 to other nodes".into() };
        let answering = NodeReport { node: NodeId(1), survival: Some(survival), ..NodeReport::default() };
        let waiting = NodeReport {
            node: NodeId(2),
            missing: Some("a metadata group has no leader".into()),
            ..NodeReport::default()
        };
        let both = [Arc::new(answering), Arc::new(waiting.clone())];
        assert_eq!(missing(&both), None, "another's trouble is shown, and is not that of who answers");
        let text = lines(&shown(&both)).join("\n");
        assert!(text.contains("not ready: a metadata group has no leader"), "{text}");
        let warning = "NOT SAFE against the loss of a node: reads go on, writes fail: add 1 to other nodes";
        assert!(text.contains(warning), "{text}");
        assert!(text.contains("feature level 1"), "{text}");
        let alone = [Arc::new(waiting)];
        assert_eq!(missing(&alone), Some("a metadata group has no leader"));
        assert!(lines(&shown(&alone)).join("\n").contains("knows of no layout yet"));
    }
}
