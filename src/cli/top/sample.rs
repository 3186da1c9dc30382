//! A mesh that never was, for tests: a DPU to which a chain moves, a node that is drained, one that is gone, a repair, and names
//! that would like to say something to the terminal.

use core::time::Duration;
use std::sync::Arc;

use mesh_core::{
    bluefield::Generation,
    happened::{Carried, Happened, Row, Why},
    id::{ActorId, DriveId, Epoch, GroupId, Incarnation, LayoutId, NodeId, TenantId},
    meta::{Count, Level, RepairState},
    op::{ActorReport, DriveReport, GroupRepair, NodeFigures, NodeReport, Phase, ScrubState, Work},
    plan::Reason,
    time::UnixMillis,
    topology::{DriveState, NodeKind, NodeState, Survival},
};

use super::model::{Heard, Model};

pub(super) const HOST: NodeId = NodeId(1);
pub(super) const DPU: NodeId = NodeId(11);
/// It is drained, and starts again between the two answers.
pub(super) const DRAINED: NodeId = NodeId(2);
pub(super) const GONE: NodeId = NodeId(3);

pub(super) const EVERY: Duration = Duration::from_secs(1);

/// The chain of a tenant for what comes in at a node.
pub(super) fn chain(tenant: u64, ingress: NodeId) -> ActorId {
    ActorId::data(TenantId(tenant), ingress)
}

pub(super) fn actor(actor: ActorId, epoch: u64, phase: Phase, jobs: u64) -> ActorReport {
    ActorReport {
        actor,
        functions: ["policy", "encrypt", "erasure"].map(str::to_owned).to_vec(),
        epoch: Epoch(epoch),
        phase,
        jobs,
        bytes: 0,
        requests: 0,
        traffic_bytes: 0,
        restarts: 0,
    }
}

fn drive(number: u64, state: DriveState, reason: Option<&str>) -> DriveReport {
    DriveReport {
        drive: DriveId(number),
        state,
        capacity_bytes: 3 << 40,
        free_bytes: 3 << 39,
        shards: 9,
        corrupt: 0,
        reason: reason.map(str::to_owned),
        damaged: 0,
        scrub: ScrubState { at: 30, of: 100, ..ScrubState::default() },
    }
}

pub(super) fn reports() -> Vec<Arc<NodeReport>> {
    let level = Level(12);
    let host = NodeReport {
        node: HOST,
        state: NodeState::Up,
        level,
        mesh_level: Some(level),
        survival: Some(Survival { reads: true, writes: false, reason: "add 1 to\nother nodes".into() }),
        drives: vec![drive(1001, DriveState::Up, None), drive(1002, DriveState::Up, None)],
        actors: vec![actor(chain(1, HOST), 4, Phase::Running, 3), actor(ActorId::ingress(HOST), 1, Phase::Running, 2)],
        ..NodeReport::default()
    };
    let dpu = NodeReport {
        node: DPU,
        kind: NodeKind::Dpu,
        attached_to: Some(HOST),
        emulated: Some(Generation::Bf3),
        state: NodeState::Up,
        level,
        actors: vec![actor(chain(1, HOST), 5, Phase::Warming, 0)],
        ..NodeReport::default()
    };
    let drained = NodeReport {
        node: DRAINED,
        state: NodeState::Draining,
        level: Level(11),
        drives: vec![
            drive(2001, DriveState::Up, None),
            drive(2002, DriveState::Down, Some("it does \u{1b}[31mnot answer")),
        ],
        actors: vec![actor(chain(2, DRAINED), 7, Phase::Running, 0), actor(chain(1, DRAINED), 9, Phase::Running, 0)],
        ..NodeReport::default()
    };
    let gone = NodeReport {
        node: GONE,
        state: NodeState::Down,
        level,
        drives: vec![drive(3001, DriveState::Down, None)],
        actors: vec![actor(chain(1, GONE), 2, Phase::Running, 5)],
        ..NodeReport::default()
    };
    // A DPU stands below its host wherever it is named.
    [host, drained, gone, dpu].map(Arc::new).to_vec()
}

/// What has been done, in a histogram's buckets that end at 0.512 ms and at 16.4 ms.
pub(super) fn work(requests: u64, bytes: u64, fast: u64, slow: u64) -> Work {
    let mut took = vec![0; 21];
    (took[3], took[8]) = (fast, slow);
    Work { requests, failed: 0, received_bytes: bytes, sent_bytes: bytes / 2, took }
}

/// What nodes say at first, and later; each later on its own clock.
pub(super) fn figures(node: NodeId, is_later: bool) -> NodeFigures {
    let first = NodeFigures {
        node,
        incarnation: Incarnation(5),
        at_ns: 1_000_000_000,
        cpu_ns: 1_000_000_000,
        resident_bytes: 1536 << 20,
        front: (node == HOST).then(|| work(100, 1_000_000, 90, 10)),
        front_open: if node == HOST { 4 } else { 0 },
        chains: work(40, 2_000_000, 30, 10),
        drives: work(80, 2_000_000, 80, 0),
        leaving_drives: 1,
    };
    match (is_later, node) {
        (false, _) => first,
        (true, HOST) => NodeFigures {
            at_ns: 2_000_000_000,
            cpu_ns: 2_500_000_000,
            front: Some(Work { failed: 1, ..work(350, 101_000_000, 330, 20) }),
            chains: work(40, 2_000_000, 30, 10),
            drives: work(180, 12_000_000, 180, 0),
            ..first
        },
        (true, DPU) => NodeFigures {
            at_ns: 3_000_000_000,
            cpu_ns: 1_500_000_000,
            chains: work(540, 202_000_000, 530, 10),
            ..first
        },
        (true, _) => {
            NodeFigures { incarnation: Incarnation(6), at_ns: 1_500_000_000, chains: work(1, 1, 1, 0), ..first }
        }
    }
}

fn repair() -> Vec<GroupRepair> {
    let count = Count { layout: LayoutId(3), at: UnixMillis(3_723_000), writes: 100, shards: 300, ..Count::default() };
    let whole = RepairState { marked: LayoutId(3), settled: LayoutId(3), count, ..RepairState::default() };
    let state = |state| GroupRepair { group: GroupId(1), newest: LayoutId(3), state, error: None };
    vec![
        state(Some(whole)),
        GroupRepair { group: GroupId(2), ..state(Some(RepairState { settled: LayoutId(2), unsettled: 120, ..whole })) },
    ]
}

fn events() -> Vec<Row> {
    let moved = Happened::Moved {
        actor: chain(1, DRAINED),
        from: HOST,
        to: DRAINED,
        epoch: Epoch(9),
        took_us: 5000,
        waited_us: 310,
        commit_us: 1000,
        carried: Carried::default(),
        why: Why::Plan(Reason::Best),
    };
    let at = UnixMillis(3_723_004);
    [moved, Happened::NodeDown(GONE)].into_iter().zip(1..).map(|(what, number)| Row { number, at, what }).collect()
}

/// The mesh two seconds after the picture began, one second after its chain was seen to move.
pub(super) fn mesh() -> Model {
    let mut model = Model::new(EVERY);
    let at = Duration::from_secs;
    model.hear(Heard::Reports(Ok(reports())), at(1));
    let asked = model.whom_to_ask(at(1));
    for (is_later, now) in [(false, at(1)), (true, at(2))] {
        for node in &asked {
            model.hear(Heard::Figures(*node, Ok(figures(*node, is_later))), now);
        }
    }
    model.hear(Heard::Repair(Ok(repair())), at(2));
    model.hear(Heard::Events(Ok((events(), 2))), at(2));
    let odd = "wide 日本\u{202e}\u{1b}]0;x\u{7}";
    model.hear(Heard::Tenants(Ok(vec![(TenantId(1), "default".into()), (TenantId(2), odd.into())])), at(2));
    model.hear(Heard::Reports(Ok(reports())), at(2));
    model
}
