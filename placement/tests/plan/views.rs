//! Small views to start from.

use mesh_core::id::{ActorId, NodeId, TenantId};
use mesh_placement::{ActorView, Cost, Load, NodeView, Plan, Preference, Spot, Stage, View};

pub(crate) const HOST: NodeId = NodeId(1);
pub(crate) const OTHER: NodeId = NodeId(2);
pub(crate) const DPU: NodeId = NodeId(4);
pub(crate) const NOW: u64 = 1_000_000;
pub(crate) const KINDS: [&str; 4] = ["policy", "encrypt", "erasure", "drive"];

/// A node with a thousand bytes, 4 cores and everything measured.
pub(crate) fn ready(mut node: NodeView) -> NodeView {
    node.capabilities = KINDS.map(Into::into).into();
    node.costs = KINDS.map(|kind| (kind.into(), Cost { ns_per_request: 100_000, ps_per_byte: 0 })).into();
    (node.memory_free_bytes, node.millicores) = (1000, 4000);
    node
}

/// Two hosts, the first with a DPU.
pub(crate) fn two_hosts_and_a_dpu() -> View {
    let mut view = View { now_ms: NOW, ..View::default() };
    for id in [HOST, OTHER] {
        view.nodes.insert(id, ready(NodeView::host(id)));
    }
    view.nodes.insert(DPU, ready(NodeView::dpu(HOST)));
    view
}

pub(crate) fn id(tenant: u64) -> ActorId {
    ActorId::data(TenantId(tenant), HOST)
}

/// A chain of three stages at the first host: 100 requests a second, 3 % of a core; 10 bytes.
pub(crate) fn chain(tenant: u64, preference: Preference) -> ActorView {
    let stages = ["policy", "encrypt", "erasure"].map(Stage::new);
    ActorView {
        tenant: Some(TenantId(tenant)),
        needs_memory_bytes: 10,
        load: Load { requests_per_s: 100, bytes_per_s: 0 },
        preference,
        at: Some(Spot::whole(HOST)),
        ..ActorView::chain(stages, HOST)
    }
}

/// What is there once the plan has been carried out.
pub(crate) fn applied(view: &View, plan: &Plan) -> View {
    let mut view = view.clone();
    for step in &plan.moves {
        let actor = view.actors.get_mut(&step.actor).expect("a move of the view's actor");
        (actor.at, actor.moved_at_ms) = (Some(step.to), Some(view.now_ms));
    }
    view
}
