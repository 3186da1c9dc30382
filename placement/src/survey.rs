//! What the placement engine decides from: the control group's rows and what nodes report, as one [`View`].

use std::{collections::BTreeMap, sync::Arc};

use mesh_core::{
    assignment::{Assignment, Scope, Wish},
    id::{ActorId, NodeId, TenantId},
    limits::{STREAM_STRIPES, STRIPE_BYTES_MAX},
    meta::ControlView,
    op::NodeReport,
    plan::Spot,
    shared::SharedMap,
    spec::CustomSpec,
    time::Instant,
    topology::{NodeKind, NodeState},
};

use crate::{ActorView, Cost, Load, NodeView, Stage, View};

/// What a data chain begins and ends with; between them are the embedding program's own functions.
const DATA_CHAIN: (&str, [&str; 2]) = ("policy", ["encrypt", "erasure"]);
/// What a busy core draws, where nobody has measured it: it only ranks places that are equal in all else.
const MILLIWATTS_HOST: u32 = 6000;
/// See [`MILLIWATTS_HOST`].
const MILLIWATTS_DPU: u32 = 2500;

/// What a chain holds when it is busy: the stripes of one stream.
const WORKING_BYTES: u64 = (STREAM_STRIPES * STRIPE_BYTES_MAX) as u64;

/// What is known of the nodes and of what actors do.
#[derive(Clone, Copy, Debug)]
pub struct Survey<'a> {
    /// What each node said last.
    pub reports: &'a SharedMap<NodeId, Arc<NodeReport>>,
    /// Since when each that answers is up; who is missing here is down.
    pub up_since: &'a BTreeMap<NodeId, Instant>,
    /// What each actor is asked to do.
    pub loads: &'a SharedMap<ActorId, Load>,
    /// When each actor last moved.
    pub moved_at: &'a SharedMap<ActorId, Instant>,
    /// Now.
    pub now: Instant,
}

/// Puts it together.
#[must_use]
pub fn view(control: &ControlView, survey: Survey<'_>) -> View {
    let mut view = View { now_ms: millis(survey.now), ..View::default() };
    for info in control.nodes.values() {
        let report = survey.reports.get(&info.id);
        let up_since = survey.up_since.get(&info.id);
        let ability = report.map(|report| &report.ability);
        let mut node = info.attached_to.map_or_else(|| NodeView::host(info.id), NodeView::dpu);
        node.emulated = info.emulated.is_some();
        node.up = up_since.is_some();
        node.draining = info.draining || report.is_some_and(|report| report.state == NodeState::Draining);
        node.up_since_ms = up_since.map_or(0, |at| millis(*at));
        node.milliwatts_per_core = match (info.emulated, info.attached_to) {
            (Some(generation), _) => generation.profile().core_milliwatts,
            (None, Some(_)) => MILLIWATTS_DPU,
            (None, None) => MILLIWATTS_HOST,
        };
        if let Some(ability) = ability {
            // A host takes its own chains back whatever it has: that they wait for memory is better than that nobody serves.
            node.memory_free_bytes = if node.kind == NodeKind::Dpu { ability.memory_bytes } else { u64::MAX };
            node.millicores = ability.millicores;
            node.capabilities = ability.functions.keys().map(|kind| Arc::from(kind.as_str())).collect();
            let measured = ability.functions.iter().filter(|(_, cost)| **cost != (0, 0));
            node.costs = measured
                .map(|(kind, (ns_per_request, ps_per_byte))| {
                    (kind.as_str().into(), Cost { ns_per_request: *ns_per_request, ps_per_byte: *ps_per_byte })
                })
                .collect();
        }
        view.nodes.insert(info.id, node);
    }
    for row in control.assignments.values() {
        if let Some((tenant, ingress)) = row.actor.as_data() {
            view.actors.insert(row.actor, actor(control, survey, row, tenant, ingress));
        }
    }
    view
}

fn actor(control: &ControlView, survey: Survey<'_>, row: &Assignment, tenant: TenantId, ingress: NodeId) -> ActorView {
    let wish = wish(control, row.actor, tenant);
    let (first, last) = DATA_CHAIN;
    let own = control.stages_of(tenant).map(|stage| Stage::new(stage.kind.clone()));
    let cut_min = 1 + control.stages_of(tenant).count();
    let stages: Vec<Stage> = [Stage::new(first)].into_iter().chain(own).chain(last.map(Stage::new)).collect();
    ActorView {
        tenant: Some(tenant),
        load: survey.loads.get(&row.actor).copied().unwrap_or_default(),
        preference: wish.preference,
        pin: wish.pin,
        // What comes before may hold state.
        cut_min,
        at: Some(spot(control, row)),
        moving: row.moving.map(Spot::whole),
        needs_memory_bytes: WORKING_BYTES,
        moved_at_ms: survey.moved_at.get(&row.actor).map(|at| millis(*at)),
        ..ActorView::chain(stages, ingress)
    }
}

/// Where an actor runs.
#[must_use]
pub fn spot(control: &ControlView, row: &Assignment) -> Spot {
    match control.tails.get(&row.actor) {
        Some(tail) => Spot::split(row.node, usize::from(tail.cut), tail.node),
        None => Spot::whole(row.node),
    }
}

/// What a user has asked for an actor: of itself, else of its tenant, else of all. Where a pin gives way, because its node
/// is down, the wider preference counts.
#[must_use]
pub fn wish(control: &ControlView, actor: ActorId, tenant: TenantId) -> Wish {
    let scopes = [Scope::Actor(actor), Scope::Tenant(tenant), Scope::Mesh];
    let wish = |scope: &Scope| control.wishes.get(scope).copied();
    let preference = scopes.iter().filter_map(wish).find(|wish| wish.pin.is_none()).map(|wish| wish.preference);
    Wish { preference: preference.unwrap_or_default(), pin: wish(&scopes[0]).and_then(|wish| wish.pin) }
}

/// Whether an actor's node lives and cannot run it: it came back as a program that lacks one of the kinds. Then there is
/// nothing that could be moved live.
#[must_use]
pub fn is_stranded(control: &ControlView, reports: &SharedMap<NodeId, Arc<NodeReport>>, row: &Assignment) -> bool {
    let Some(report) = reports.get(&row.node) else { return false };
    let lacks = |stage: &CustomSpec| !report.ability.functions.contains_key(&*stage.kind);
    row.actor.as_data().is_some_and(|(tenant, _)| control.stages_of(tenant).any(lacks))
        && !report.actors.iter().any(|one| one.actor == row.actor)
}

const fn millis(at: Instant) -> u64 {
    at.0 / 1_000_000
}
