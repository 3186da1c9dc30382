//! `mesh actors`.

use std::{collections::BTreeMap, sync::Arc};

use clap::Args;
use mesh_core::{
    Error,
    id::{ActorId, ActorName, Epoch},
    op::{ActorReport, AdminAnswer, NodeReport, Phase},
    plan::{Decision, Plan, Reason},
    topology::NodeState,
};
use serde::Serialize;

use super::{AdminConnect, human, say, say_json};

/// Show where each actor runs, its epoch, what it has done there, and why it is there.
///
/// With --json, one array with an element an actor: `id`, `functions` (their names in the order of the chain, such as
/// `policy`, `compress`, `encrypt`, `erasure`), `node` (an `id` of `mesh status`), `epoch`, `phase` (`running`, `warming`,
/// `frozen`, `draining`), `jobs` (requests under way), `requests` and `traffic_bytes` (since it came to this node), `restarts` (how
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
        let AdminAnswer::Plan(plan) = client.administer(plan).await? else {
            return Err(Error::bug("a plan was asked for, and something else was told"));
        };
        let shown = shown(&reports, &plan);
        if self.json {
            return say_json(&shown);
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

fn shown(reports: &[Arc<NodeReport>], plan: &Plan) -> Vec<Shown> {
    let up = || reports.iter().filter(|report| report.state != NodeState::Down);
    // Nodes report at different moments: where an actor ran before it moved may be told beside where it runs since.
    let mut newest: BTreeMap<ActorId, Epoch> = BTreeMap::new();
    for actor in up().flat_map(|report| &report.actors).filter(|actor| actor.phase == Phase::Running) {
        let epoch = newest.entry(actor.actor).or_default();
        *epoch = actor.epoch.max(*epoch);
    }
    let is_over = |actor: &ActorReport| {
        actor.phase == Phase::Running && newest.get(&actor.actor).is_some_and(|epoch| actor.epoch < *epoch)
    };
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
        reason: reason(plan, actor.actor),
    };
    let told = up().flat_map(|report| report.actors.iter().map(move |actor| (report, actor)));
    let mut all: Vec<Shown> =
        told.filter(|(_, actor)| !is_over(actor)).map(|(report, actor)| of(report, actor)).collect();
    all.sort_by(|a, b| (&a.id, a.epoch).cmp(&(&b.id, b.epoch)));
    all
}

/// What the plan says of an actor.
fn reason(plan: &Plan, actor: ActorId) -> Option<String> {
    if let Some(step) = plan.moves.iter().find(|step| step.actor == actor) {
        return Some(match step.from {
            Some(from) => format!("{from} -> {}: {}", step.to, step.reason),
            None => format!("{}: {}", step.to, step.reason),
        });
    }
    let Decision { spot, reason } = plan.decisions.get(&actor)?;
    Some(match spot {
        Some(spot) if !matches!(reason, Reason::Stuck { .. }) => format!("{spot}: {reason}"),
        _ => reason.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use mesh_core::{
        id::NodeId,
        plan::{Move, Spot},
    };

    use super::*;

    #[test]
    fn an_actor_is_shown_where_it_runs_by_the_newest_epoch_and_what_it_leaves_or_enters_besides() {
        let chain = ActorId::data(mesh_core::id::TenantId(1), NodeId(1));
        let report = |node, state, epoch, phase| {
            let actor = ActorReport {
                actor: chain,
                functions: Vec::new(),
                epoch: Epoch(epoch),
                phase,
                jobs: 0,
                bytes: 0,
                requests: 0,
                traffic_bytes: 0,
                restarts: 0,
            };
            Arc::new(NodeReport { node: NodeId(node), state, actors: vec![actor], ..NodeReport::default() })
        };
        let reports = [
            report(1, NodeState::Up, 4, Phase::Running),
            report(2, NodeState::Down, 9, Phase::Running),
            report(11, NodeState::Up, 5, Phase::Running),
            report(12, NodeState::Draining, 6, Phase::Warming),
        ];
        let shown: Vec<(String, u64)> =
            shown(&reports, &Plan::default()).into_iter().map(|one| (one.node, one.epoch)).collect();
        assert_eq!(shown, [("node-11".to_owned(), 5), ("node-12".to_owned(), 6)]);
    }

    #[test]
    fn a_reason_says_where_to_or_why_not() {
        let (here, there) = (Spot::whole(NodeId(1)), Spot::whole(NodeId(4)));
        let [moves, stays, stuck, unknown] = [1, 2, 3, 4].map(ActorId);
        let decision = |spot, reason| Decision { spot: Some(spot), reason };
        let down = Reason::NodeDown(NodeId(1));
        let no_way = Reason::Stuck { why: Box::new(down.clone()), but: Box::new(down.clone()) };
        let plan = Plan {
            moves: vec![Move { actor: moves, from: Some(here), to: there, reason: down.clone() }],
            decisions: [
                (moves, decision(there, down)),
                (stays, decision(here, Reason::Best)),
                (stuck, decision(here, no_way)),
            ]
            .into(),
            ..Plan::default()
        };
        let said = |actor| reason(&plan, actor);
        assert_eq!(said(moves).as_deref(), Some("node-1 -> node-4: node-1 is down"));
        assert_eq!(said(stays).as_deref(), Some("node-1: it is nowhere better"));
        assert_eq!(said(stuck).as_deref(), Some("node-1 is down, and there is nowhere else"));
        assert_eq!(said(unknown), None);
    }
}
