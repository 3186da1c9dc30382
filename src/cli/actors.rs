//! `mesh actors`.

use std::sync::Arc;

use clap::Args;
use mesh_core::{
    Error,
    id::ActorName,
    op::{ActorReport, NodeReport, Phase},
    topology::NodeState,
};
use serde::Serialize;

use super::{AdminConnect, human, say};

/// Show where each actor runs, its epoch, what it has done there, and why it is there.
///
/// With --json, one array with an element an actor: `id`, `functions` (their names in the order of the chain, such as
/// `policy`, `encrypt`, `erasure`), `node` (an `id` of `mesh status`), `epoch`, `phase` (`running`, `warming`, `frozen`,
/// `draining`), `jobs` (requests under way), `requests` and `traffic_bytes` (since it came to this node), `restarts` (how
/// often its function failed) and `reason` (why it is there; null where placement has no say).
#[derive(Debug, Args)]
pub(crate) struct Actors {
    #[command(flatten)]
    connect: AdminConnect,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Shown {
    id: String,
    functions: Vec<String>,
    node: String,
    epoch: u64,
    phase: Phase,
    jobs: u64,
    requests: u64,
    traffic_bytes: u64,
    restarts: u32,
    reason: Option<String>,
}

impl Actors {
    pub(crate) async fn run(self) -> Result<(), Error> {
        let client = self.connect.client().await?;
        let reports = client.status().await?;
        let plan = mesh_core::op::AdminOp::Plan { with_dpus: Vec::new(), without: Vec::new() };
        let (reasons, _) = client.administer(plan).await?;
        let shown = shown(&reports, &reasons);
        if self.json {
            let text = serde_json::to_string_pretty(&shown)
                .map_err(|error| Error::bug("the list cannot be written").caused_by(error))?;
            return say(&[text]);
        }
        let line = |actor: &Shown| {
            format!(
                "{:<14} {:<9} e{:<5} {:<8} {:>9} requests {:>12}  {:<24} {}",
                actor.id,
                actor.node,
                actor.epoch,
                actor.phase.to_string(),
                actor.requests,
                human(actor.traffic_bytes),
                actor.functions.join(" > "),
                actor.reason.as_deref().unwrap_or("")
            )
        };
        say(&shown.iter().map(line).collect::<Vec<_>>())
    }
}

fn shown(reports: &[Arc<NodeReport>], reasons: &[String]) -> Vec<Shown> {
    let up = reports.iter().filter(|report| report.state != NodeState::Down);
    let of = |report: &NodeReport, actor: &ActorReport| Shown {
        id: ActorName(actor.actor).to_string(),
        functions: actor.functions.clone(),
        node: report.node.to_string(),
        epoch: actor.epoch.0,
        phase: actor.phase,
        jobs: actor.jobs,
        requests: actor.requests,
        traffic_bytes: actor.traffic_bytes,
        restarts: actor.restarts,
        reason: reason(reasons, &mesh_placement::Name(actor.actor).to_string()),
    };
    let mut all: Vec<Shown> = up.flat_map(|report| report.actors.iter().map(move |actor| of(report, actor))).collect();
    all.sort_by(|a, b| (&a.id, a.epoch).cmp(&(&b.id, b.epoch)));
    all
}

/// What the plan says of an actor: the end of its line.
fn reason(lines: &[String], name: &str) -> Option<String> {
    let line =
        lines.iter().find_map(|line| line.split_once(' ')?.1.trim_start().strip_prefix(name)?.strip_prefix(": "))?;
    Some(line.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_found_by_the_actors_name() {
        let lines = ["stay  chain of tenant-1 at node-1: node-1: nothing is better".to_owned()];
        assert_eq!(reason(&lines, "chain of tenant-1 at node-1").as_deref(), Some("node-1: nothing is better"));
        assert_eq!(reason(&lines, "chain of tenant-1 at node-11"), None);
    }
}
