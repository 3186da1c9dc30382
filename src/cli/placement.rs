//! `mesh plan`, `mesh move`, `mesh prefer`, `mesh drain` and `mesh watch`: what users say to the placement engine, and what
//! it says to them.

use core::time::Duration;
use std::str::FromStr;

use clap::Args;
use mesh::Client;
use mesh_core::{
    Error, ErrorKind,
    assignment::{Preference, Scope, Wish},
    bluefield::{Generation, UnknownGeneration},
    id::{ActorId, ActorName, TenantId},
    op::{ActorReport, AdminAnswer, AdminOp, NodeReport},
    topology::NodeState,
};

use super::{AdminConnect, NodeName, say, say_json, to_json};

/// Show what the placement engine would move now, with a reason for every move and for every actor left alone. Nothing is
/// done.
#[derive(Debug, Args)]
pub(crate) struct Plan {
    #[command(flatten)]
    connect: AdminConnect,
    /// As if a host had a DPU of a generation, such as host-3=bf3. May be repeated.
    #[arg(long, value_name = "NODE=KIND")]
    with_dpu: Vec<WithDpu>,
    /// As if a node were down, such as node-3 or dpu-1 (the DPU of host 1). May be repeated.
    #[arg(long, value_name = "NODE")]
    without: Vec<NodeName>,
    /// Print JSON: the plan, with each reason as a value.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Debug)]
struct WithDpu(NodeName, Generation);

impl FromStr for WithDpu {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (node, kind) = text.split_once('=').ok_or("write NODE=KIND, such as host-3=bf3")?;
        Ok(Self(node.parse()?, kind.parse().map_err(|error: UnknownGeneration| format!("{kind} is {error}"))?))
    }
}

impl Plan {
    pub(crate) async fn run(self) -> Result<(), Error> {
        let client = self.connect.client().await?;
        let (mut with_dpus, mut without) = (Vec::new(), Vec::new());
        for WithDpu(host, kind) in self.with_dpu {
            with_dpus.push((host.of(&client).await?, kind));
        }
        for node in self.without {
            without.push(node.of(&client).await?);
        }
        told(&client.administer(AdminOp::Plan { with_dpus, without }).await?, self.json)
    }
}

/// Prints what an administrator is told.
pub(crate) fn told(answer: &AdminAnswer, json: bool) -> Result<(), Error> {
    fn lines<T: ToString>(all: &[T]) -> Vec<String> {
        all.iter().map(ToString::to_string).collect()
    }
    if json {
        return match answer {
            AdminAnswer::Plan(plan) | AdminAnswer::PlanPage { plan, .. } => say_json(plan),
            AdminAnswer::Events { events, .. } => events.iter().try_for_each(|event| say(&[to_json(event)?])),
            answer => say_json(answer),
        };
    }
    match answer {
        AdminAnswer::Done => Ok(()),
        AdminAnswer::Plan(plan) | AdminAnswer::PlanPage { plan, .. } => say(&[format!("{plan:#}")]),
        AdminAnswer::Moves(moves) => say(&lines(moves)),
        AdminAnswer::Events { events, .. } => say(&lines(events)),
        AdminAnswer::Chains(chains) => say(&lines(chains)),
        AdminAnswer::Lost(lost) => say(&[lost.to_string()]),
        AdminAnswer::Repair(groups) => say(&lines(groups)),
        AdminAnswer::Scrub(drives) => say(&super::scrub::begun(drives)),
        AdminAnswer::Drained(drained) => say(&[drained.to_string()]),
        AdminAnswer::Added(added) => say(&[added.to_string()]),
        AdminAnswer::Leaves(leaves) => say(&[leaves.to_string()]),
        AdminAnswer::NodeOut(node) => say(&[format!("{node} is out: its number is never used again")]),
        AdminAnswer::Recovery(plan) => say(&[plan.to_string()]),
        AdminAnswer::Access(answer) => super::tenant::told(answer, json),
        AdminAnswer::Replicas(_)
        | AdminAnswer::Forced(_)
        | AdminAnswer::Backup(_)
        | AdminAnswer::Audit(_)
        | AdminAnswer::Figures(_) => Err(Error::bug("something else was told than was asked")),
        AdminAnswer::Removed(drive) => say(&[format!("{drive} is out: it is never used again")]),
    }
}

/// Move an actor to a node and keep it there; with `anywhere` instead of a node, let the placement engine decide again.
///
/// Comes back when the actor runs there. Refused, with the reason, where it cannot run.
#[derive(Debug, Args)]
pub(crate) struct Move {
    #[command(flatten)]
    connect: AdminConnect,
    /// The actor, as `mesh actors` calls it, such as chain-1-1.
    actor: ActorName,
    /// The node, such as node-3 or dpu-1 (the DPU of host 1); or `anywhere`.
    node: Where,
    /// Wait at most so many seconds.
    #[arg(long, default_value_t = 30, value_name = "SECONDS")]
    wait: u64,
}

#[derive(Clone, Copy, Debug)]
enum Where {
    Anywhere,
    Node(NodeName),
}

impl FromStr for Where {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "anywhere" { Ok(Self::Anywhere) } else { Ok(Self::Node(text.parse()?)) }
    }
}

impl Move {
    pub(crate) async fn run(self) -> Result<(), Error> {
        let client = self.connect.client().await?;
        let actor = self.actor.0;
        let node = match self.node {
            Where::Anywhere => None,
            Where::Node(node) => Some(node.of(&client).await?),
        };
        let wish = node.map(|node| Wish { preference: Preference::Auto, pin: Some(node) });
        told(&client.administer(AdminOp::Wish { scope: Scope::Actor(actor), wish }).await?, false)?;
        let Some(node) = node else { return Ok(()) };
        let arrived = |reports: &[std::sync::Arc<NodeReport>]| {
            reports.iter().any(|report| report.node == node && runs(report, actor)).then_some(())
        };
        until(&client, self.wait, arrived)
            .await
            .map_err(|error| error.with("actor", self.actor).with("node", node).with("see", "mesh watch, mesh plan"))?;
        println!("{} runs on {node}", self.actor);
        Ok(())
    }
}

fn runs(report: &NodeReport, actor: ActorId) -> bool {
    report.actors.iter().any(|one| one.actor == actor && one.phase == mesh_core::op::Phase::Running)
}

/// Say where chains should run: of all tenants, of one (--tenant), or one chain alone (--actor). The narrower wish counts,
/// and of one chain the last word: `mesh move` replaces a wish, and a wish replaces a move.
#[derive(Debug, Args)]
pub(crate) struct Prefer {
    #[command(flatten)]
    connect: AdminConnect,
    /// auto: where it costs least; prefer-dpu: on a DPU while there is one; host-only; dpu-only.
    #[arg(required_unless_present = "undo")]
    preference: Option<Preference>,
    /// Take back what was said of this scope: the wider one counts again.
    #[arg(long, conflicts_with = "preference")]
    undo: bool,
    /// Of this tenant, by its number.
    #[arg(long, value_name = "N", conflicts_with = "actor")]
    tenant: Option<u64>,
    /// Of this actor, such as chain-1-1.
    #[arg(long, value_name = "ACTOR")]
    actor: Option<ActorName>,
}

impl Prefer {
    pub(crate) async fn run(self) -> Result<(), Error> {
        let scope = match (self.tenant, self.actor) {
            (Some(tenant), _) => Scope::Tenant(TenantId(tenant)),
            (_, Some(actor)) => Scope::Actor(actor.0),
            _ => Scope::Mesh,
        };
        let wish = self.preference.map(|preference| Wish { preference, pin: None });
        told(&self.connect.client().await?.administer(AdminOp::Wish { scope, wish }).await?, false)
    }
}

/// Empty a node of the actors that can leave it, and show how that goes. Refused, with the reason, if one of them has
/// nowhere to go.
///
/// What belongs to the machine stays: its drives with what they store, its S3 front end, its part in metadata.
#[derive(Debug, Args)]
pub(crate) struct Drain {
    #[command(flatten)]
    connect: AdminConnect,
    /// The node, such as node-3 or dpu-1 (the DPU of host 1).
    node: NodeName,
    /// Take it back: the node takes actors again.
    #[arg(long)]
    undo: bool,
    /// Wait at most so many seconds.
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    wait: u64,
}

impl Drain {
    pub(crate) async fn run(self) -> Result<(), Error> {
        let client = self.connect.client().await?;
        let node = self.node.of(&client).await?;
        told(&client.administer(AdminOp::Drain { node, draining: !self.undo }).await?, false)?;
        if self.undo {
            return Ok(());
        }
        let left = |reports: &[std::sync::Arc<NodeReport>]| {
            let report = reports.iter().find(|report| report.node == node && report.state != NodeState::Down);
            let leaves = |one: &&ActorReport| one.actor.as_data().is_some() || one.actor.as_tail().is_some();
            report.map_or(0, |report| report.actors.iter().filter(leaves).count())
        };
        let all = left(&client.status().await?);
        let bar = super::progress(Some(all as u64), all == 0);
        if let Ok(style) = indicatif::ProgressStyle::with_template("{bar:30} {pos}/{len} actors have left") {
            bar.set_style(style);
        }
        let emptied = until(&client, self.wait, |reports| {
            let left = left(reports);
            bar.set_position((all.saturating_sub(left)) as u64);
            (left == 0).then_some(())
        });
        emptied.await.map_err(|error| error.with("node", node).with("see", "mesh watch, mesh plan"))?;
        bar.finish_and_clear();
        println!("{node} is empty: {all} actors have left");
        Ok(())
    }
}

/// Follow what happens to actors and nodes, as the controller sees it, until Ctrl-C.
#[derive(Debug, Args)]
pub(crate) struct Watch {
    #[command(flatten)]
    connect: AdminConnect,
    /// Print what is remembered, and end.
    #[arg(long)]
    once: bool,
    /// Print JSON, a line an event.
    #[arg(long)]
    json: bool,
}

impl Watch {
    pub(crate) async fn run(self) -> Result<(), Error> {
        // Heard at any moment, also while an answer is awaited: who listens only between two questions misses it.
        tokio::select! {
            watched = self.watch() => watched,
            told = super::told_to_stop() => told,
        }
    }

    async fn watch(&self) -> Result<(), Error> {
        let client = self.connect.client().await?;
        let mut after = 0;
        loop {
            match client.administer(AdminOp::Events { after }).await {
                Ok(answer) => {
                    told(&answer, self.json)?;
                    let AdminAnswer::Events { events, next } = answer else {
                        return Err(Error::bug("what has happened was asked for, and something else was told"));
                    };
                    if self.once && events.is_empty() {
                        return Ok(());
                    }
                    after = next;
                    if !events.is_empty() {
                        continue;
                    }
                }
                // A new leader is being elected, or the node that is asked restarts.
                Err(error) if !self.once && error.kind() != ErrorKind::Denied => eprintln!("mesh: {error}"),
                Err(error) => return Err(error),
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

/// Looks at the mesh again and again until `done` says something.
async fn until<T>(
    client: &Client,
    seconds: u64,
    done: impl Fn(&[std::sync::Arc<NodeReport>]) -> Option<T>,
) -> Result<T, Error> {
    let waiting = async {
        loop {
            if let Some(value) = done(&client.status().await?) {
                return Ok(value);
            }
            tokio::time::sleep(POLL).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(seconds), waiting).await.unwrap_or_else(|_| {
        Err(Error::new(ErrorKind::Timeout, "it has not happened yet; the wish is stored, and the mesh goes on with it"))
    })
}

const POLL: Duration = Duration::from_millis(200);
