//! How long planning takes: everything at once, and again after one change. One core, one thread.
//!
//! The mesh: half of the nodes are hosts, each with one DPU; each host is the ingress of as many data chains, of as many
//! tenants, as there are actors for it, and has four drives. A third of the chains each is `auto`, `prefer-dpu` and
//! `host-only`.

#![allow(clippy::unwrap_used, reason = "a benchmark")]

use std::{hint::black_box, sync::Arc, time::Instant};

use mesh_core::id::{ActorId, DriveId, NodeId, TenantId};
use mesh_placement::{ActorView, Change, Cost, Load, NodeView, Planner, Preference, Spot, Stage, View, plan};

const REPETITIONS: usize = 9;
const DRIVES: u64 = 4;

fn node(mut node: NodeView, permille: u64) -> NodeView {
    for (kind, ps_per_byte) in [("policy", 0), ("encrypt", 150), ("erasure", 200), ("drive", 50)] {
        let cost = Cost { ns_per_request: 2 * permille, ps_per_byte: ps_per_byte * permille / 1000 };
        node.costs.insert(kind.into(), cost);
        node.capabilities.insert(kind.into());
    }
    (node.memory_free_bytes, node.millicores, node.milliwatts_per_core) = (64 << 30, 16_000, 3_000);
    node
}

/// The mesh, with every chain and drive on its host.
fn mesh(nodes: u64, actors: u64) -> View {
    let hosts = nodes / 2;
    let mut view = View { now_ms: 60_000, ..View::default() };
    let stage = |kind: &str, reduces_bytes_permille| Stage { reduces_bytes_permille, ..Stage::new(kind) };
    let chain: Arc<[Stage]> = [stage("policy", 0), stage("encrypt", 0), stage("erasure", -500)].into();
    let drive: Arc<[Stage]> = [stage("drive", 1000)].into();
    let preferences = [Preference::Auto, Preference::PreferDpu, Preference::HostOnly];
    for at in 0..hosts {
        let (host, dpu) = (NodeId(at + 1), NodeId(hosts + at + 1));
        view.nodes.insert(host, node(NodeView::host(host), 1000));
        view.nodes.insert(dpu, node(NodeView::dpu(host), 2000));
        for number in 0..DRIVES {
            let medium = ActorView {
                ingress: None,
                media: Some([host].into()),
                at: Some(Spot::whole(host)),
                ..ActorView::chain(drive.clone(), host)
            };
            view.actors.insert(ActorId::drive(DriveId(host.0 * 1000 + number)), medium);
        }
        for tenant in 0..actors / hosts - DRIVES {
            let spread = 1 + (tenant * 7 + at * 13) % 29;
            let actor = ActorView {
                tenant: Some(TenantId(tenant)),
                needs_memory_bytes: 8 << 20,
                load: Load { requests_per_s: spread * 20, bytes_per_s: spread * 5_000_000 },
                preference: preferences[(tenant % 3) as usize],
                at: Some(Spot::whole(host)),
                ..ActorView::chain(chain.clone(), host)
            };
            view.actors.insert(ActorId::data(TenantId(tenant), host), actor);
        }
    }
    view
}

fn apply(view: &mut View, moves: &[mesh_placement::Move]) {
    for step in moves {
        let actor = view.actors.get_mut(&step.actor).unwrap();
        (actor.at, actor.moved_at_ms) = (Some(step.to), Some(view.now_ms));
    }
}

fn tell(what: &str, detail: &str, mut millis: Vec<f64>) {
    millis.sort_by(f64::total_cmp);
    let (least, most) = (millis[0], millis[millis.len() - 1]);
    println!("  {what:<44} {:>10.3} ms   ({least:.3} to {most:.3})   {detail}", millis[millis.len() / 2]);
}

fn timed<T>(work: impl FnOnce() -> T) -> (f64, T) {
    let begin = Instant::now();
    let result = black_box(work());
    (begin.elapsed().as_secs_f64() * 1000.0, result)
}

fn whole(nodes: u64, actors: u64) {
    let mut view = mesh(nodes, actors);
    println!("\n{nodes} nodes, {} actors: everything at once, median of {REPETITIONS}", view.actors.len());
    let (mut first, mut second, mut moves) = (Vec::new(), Vec::new(), 0);
    for _ in 0..REPETITIONS {
        let (millis, found) = timed(|| plan(&view));
        first.push(millis);
        moves = found.moves.len();
    }
    tell("every DPU is new", &format!("{moves} moves"), first);
    let found = plan(&view);
    apply(&mut view, &found.moves);
    for _ in 0..REPETITIONS {
        let (millis, found) = timed(|| plan(&view));
        second.push(millis);
        moves = found.moves.len();
    }
    tell("nothing is wrong", &format!("{moves} moves"), second);
    // A chain of every host is pinned to the next host: all hang together, and nothing can be decided apart.
    for host in 1..=nodes / 2 {
        let actor = view.actors.get_mut(&ActorId::data(TenantId(0), NodeId(host))).unwrap();
        actor.pin = Some(NodeId(host % (nodes / 2) + 1));
    }
    let mut tied = Vec::new();
    for _ in 0..REPETITIONS {
        let (millis, found) = timed(|| plan(&view));
        tied.push(millis);
        moves = found.moves.len();
    }
    tell("pins tie all hosts to each other", &format!("{moves} moves"), tied);
}

fn incremental(nodes: u64, actors: u64) {
    let mut view = mesh(nodes, actors);
    let found = plan(&view);
    apply(&mut view, &found.moves);
    let count = view.actors.len();
    let (millis, (mut planner, _)) = timed(|| Planner::new(view));
    println!("\n{nodes} nodes, {count} actors: again after one change, median of {REPETITIONS}");
    tell("the first plan of it all", "once", vec![millis]);
    let mut kinds: [(Vec<f64>, usize); 4] = Default::default();
    for repetition in 0..REPETITIONS as u64 {
        // Another host each time.
        let dpu = NodeId(nodes / 2 + 1 + (repetition * 997) % (nodes / 2));
        let up = planner.view().nodes[&dpu].clone();
        let down = NodeView { up: false, ..up.clone() };
        let (millis, lost) = timed(|| planner.change(Change::Node(dpu, Some(down))));
        kinds[0].0.push(millis);
        kinds[0].1 = lost.moves.len();
        let there = lost.moves.iter().map(|step| {
            let mut actor = planner.view().actors[&step.actor].clone();
            (actor.at, actor.moved_at_ms) = (Some(step.to), Some(60_000));
            Change::Actor(step.actor, Some(actor))
        });
        let there: Vec<Change> = there.collect();
        let (took, _) = timed(|| planner.changes(there));
        kinds[1].0.push(took);
        kinds[1].1 = lost.moves.len();
        let (millis, back) = timed(|| planner.change(Change::Node(dpu, Some(up))));
        kinds[2].0.push(millis);
        kinds[2].1 = back.moves.len();
        let host = planner.view().nodes[&dpu].attached_to.unwrap();
        let down = NodeView { up: false, ..planner.view().nodes[&host].clone() };
        let (millis, lost) = timed(|| planner.change(Change::Node(host, Some(down))));
        kinds[3].0.push(millis);
        kinds[3].1 = lost.decisions.len();
    }
    let told = ["a DPU dies", "all its actors are on the host, told at once", "the DPU is back", "a host dies"];
    for (what, (millis, count)) in told.into_iter().zip(kinds) {
        let unit = if what == "a host dies" { "decisions" } else { "moves" };
        tell(what, &format!("{count} {unit}"), millis);
    }
}

fn main() {
    whole(1_000, 100_000);
    incremental(10_000, 1_000_000);
}
