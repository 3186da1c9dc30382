//! `mesh status`.

use std::{collections::BTreeMap, sync::Arc};

use clap::Args;
use mesh_core::{
    Error,
    id::{GroupId, NodeId},
    op::NodeReport,
    topology::{DriveState, NodeKind, NodeState},
};
use serde::Serialize;

use super::{Connect, human, say};

/// Show the nodes, drives and metadata groups of a mesh, as the node that answers sees them.
///
/// With --json, one object: `nodes`, an array with `id`, `kind` (`host`, `dpu`), `pid`, `address`, `state` (`up`,
/// `down`, `draining`), `attached_to` (of a DPU: the host's `id`, or null), `emulated` (what a DPU that is none stands
/// for, such as `bf3`, or null); `drives`, an array with `id`, `node`, `state` (`up`, `full`, `down`, `lost`),
/// `capacity_bytes`, `free_bytes`, `shards`, `corrupt` (records found damaged since its node started) and `reason` (why it is not up, or
/// null); `groups`, an array with `id`, `leader` (a node's id, or null) and `term`.
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
}

#[derive(Serialize)]
struct ShownNode {
    id: String,
    kind: NodeKind,
    pid: u32,
    address: String,
    state: NodeState,
    attached_to: Option<String>,
    emulated: Option<String>,
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
    reason: Option<String>,
}

#[derive(Serialize)]
struct ShownGroup {
    id: String,
    leader: Option<String>,
    term: u64,
}

impl Status {
    pub(crate) async fn run(self) -> Result<(), Error> {
        let reports = self.connect.client().await?.status().await?;
        let shown = shown(&reports);
        if self.json {
            let text = serde_json::to_string_pretty(&shown)
                .map_err(|error| Error::bug("the status cannot be written").caused_by(error))?;
            say(&[text])?;
        } else {
            say(&lines(&shown))?;
        }
        Ok(())
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
        emulated: report.emulated.clone(),
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
            reason: drive.reason.clone(),
        })
    });
    // The newest term that a living member knows, and its leader.
    let mut groups: BTreeMap<GroupId, (u64, Option<NodeId>)> = BTreeMap::new();
    for report in reports.iter().filter(|report| report.state != NodeState::Down) {
        for (group, leader, term) in &report.groups {
            let known = groups.entry(*group).or_insert((*term, *leader));
            if *term > known.0 || (*term == known.0 && known.1.is_none()) {
                *known = (*term, *leader);
            }
        }
    }
    let groups = groups.into_iter().map(|(group, (term, leader))| ShownGroup {
        id: group.to_string(),
        leader: leader.map(|node| node.to_string()),
        term,
    });
    Shown { nodes: nodes.collect(), drives: drives.collect(), groups: groups.collect() }
}

fn lines(shown: &Shown) -> Vec<String> {
    let mut lines = Vec::new();
    for node in &shown.nodes {
        lines.push(format!(
            "{:<10} {:<5} {:<9} {:<22} pid {}{}{}",
            node.id,
            word(&node.kind),
            word(&node.state),
            node.address,
            node.pid,
            node.attached_to.as_ref().map_or(String::new(), |host| format!(", DPU of {host}")),
            node.emulated.as_ref().map_or(String::new(), |kind| format!(", emulated {kind}"))
        ));
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
    }
    lines
}

fn word(value: &impl core::fmt::Debug) -> String {
    format!("{value:?}").to_lowercase()
}
