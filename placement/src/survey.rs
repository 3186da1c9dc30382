//! What the placement engine decides from: the control group's rows and what nodes report, as one [`View`].

use core::time::Duration;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use mesh_core::{
    assignment::{Assignment, Scope, Wish},
    id::{ActorId, NodeId, TenantId},
    limits::{STREAM_STRIPES, STRIPE_BYTES_MAX},
    meta::{ControlView, Level},
    op::NodeReport,
    plan::Spot,
    shared::SharedMap,
    spec::CustomSpec,
    time::Instant,
    topology::{NodeInfo, NodeKind, NodeState},
};

use crate::{ActorView, Cost, Load, NodeView, Stage, View};

/// What a data chain begins and ends with; between them are the embedding program's own functions.
const DATA_CHAIN: (&str, [&str; 2]) = ("policy", ["encrypt", "erasure"]);
/// What stands before its end once every node can do it. It does nothing but where a bucket says so.
const COMPRESS: &str = "compress";
/// What a busy core draws, where nobody has measured it: it only ranks places that are equal in all else.
const MILLIWATTS_HOST: u32 = 6000;
/// See [`MILLIWATTS_HOST`].
const MILLIWATTS_DPU: u32 = 2500;

/// What a chain holds when it is busy: the stripes of one stream.
const WORKING_BYTES: u64 = (STREAM_STRIPES * STRIPE_BYTES_MAX) as u64;

/// How long a DPU must have been well again before it is entered.
const CALM: Duration = Duration::from_secs(5);

/// What is known of the nodes and of what actors do.
#[derive(Clone, Copy, Debug)]
pub struct Survey<'a> {
    /// What each node said last.
    pub reports: &'a SharedMap<NodeId, Arc<NodeReport>>,
    /// Since when each that answers is up; who is missing here is down.
    pub up_since: &'a BTreeMap<NodeId, Instant>,
    /// DPUs that answer and do not reach their hosts, which are as good as down; and when each was last so.
    pub estranged: (&'a BTreeSet<NodeId>, &'a BTreeMap<NodeId, Instant>),
    /// DPUs on which chains can do nothing, where their hosts could: they are left, live; and when each was last so.
    pub blind: (&'a BTreeSet<NodeId>, &'a BTreeMap<NodeId, Instant>),
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
        let up_since = survey.up_since.get(&info.id).filter(|_| !survey.estranged.0.contains(&info.id));
        // What was not well just now is given time to show that it is.
        let last = [survey.estranged.1, survey.blind.1].into_iter().filter_map(|last| last.get(&info.id)).max();
        let up_since = up_since.map(|since| last.map_or(*since, |at| (*since).max(*at + CALM)));
        let ability = report.map(|report| &report.ability);
        let mut node = info.attached_to.map_or_else(|| NodeView::host(info.id), NodeView::dpu);
        node.emulated = info.emulated.is_some();
        node.up = up_since.is_some();
        node.draining = info.draining || report.is_some_and(|report| report.state == NodeState::Draining);
        node.blind = survey.blind.0.contains(&info.id);
        node.ready = sees_enough(control, survey.reports, info);
        node.up_since_ms = up_since.map_or(0, millis);
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
    for report in survey.reports.values().filter(|report| survey.up_since.contains_key(&report.node)) {
        for (actor, _) in &report.unable {
            if let Some(actor) = view.actors.get_mut(actor) {
                actor.failed_on.insert(report.node);
            }
        }
    }
    view
}

/// Whether a DPU sees the drives that a chain needs, if its host does: that it lacks something else, a chain of another tenant
/// that fails there among it, is no reason against it.
fn sees_enough(control: &ControlView, reports: &SharedMap<NodeId, Arc<NodeReport>>, info: &NodeInfo) -> bool {
    let sees = |node: &NodeId| reports.get(node).map(|report| report.drives_up as usize);
    let Some((own, host)) = sees(&info.id).zip(info.attached_to) else { return true };
    // Of a host that says nothing nobody knows that it sees no more.
    !control.lacks_drives(own, sees(&host).unwrap_or(usize::MAX))
}

fn actor(control: &ControlView, survey: Survey<'_>, row: &Assignment, tenant: TenantId, ingress: NodeId) -> ActorView {
    let wish = wish(control, row.actor, tenant);
    let (first, last) = DATA_CHAIN;
    let compress = (control.level >= Level::COMPRESS).then(|| Stage::uncounted(COMPRESS));
    let own = control.stages_of(tenant).map(|stage| Stage::new(stage.kind.clone()));
    let cut_min = 1 + control.stages_of(tenant).count();
    let stages: Vec<Stage> =
        [Stage::new(first)].into_iter().chain(own).chain(compress).chain(last.map(Stage::new)).collect();
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

/// Whether an actor's node lives and cannot run it: it came back as a program that lacks one of the kinds, or has tried in
/// vain. Then there is nothing that could be moved live.
#[must_use]
pub fn is_stranded(control: &ControlView, reports: &SharedMap<NodeId, Arc<NodeReport>>, row: &Assignment) -> bool {
    let Some(report) = reports.get(&row.node) else { return false };
    let lacks = |stage: &CustomSpec| !report.ability.functions.contains_key(&*stage.kind);
    let has_failed = report.unable.contains(&(row.actor, row.epoch));
    (has_failed || row.actor.as_data().is_some_and(|(tenant, _)| control.stages_of(tenant).any(lacks)))
        && !report.actors.iter().any(|one| one.actor == row.actor)
}

const fn millis(at: Instant) -> u64 {
    at.0 / 1_000_000
}

#[cfg(test)]
mod tests {
    use mesh_core::{
        id::{Epoch, KeyId},
        meta::{TenantLimits, TenantRow, WrappedKey},
        op::Ability,
        plan::Reason,
        topology::NodeInfo,
    };

    use super::*;
    use crate::steward::tests::{host, runs};

    const TENANT: TenantId = TenantId(7);
    const CHAIN: ActorId = ActorId::data(TENANT, NodeId(1));

    fn report(node: u64) -> NodeReport {
        let functions = ["policy", "encrypt", "erasure"].map(|kind| (kind.to_owned(), (0, 0))).into();
        let ability = Arc::new(Ability { functions, millicores: 8000, memory_bytes: 1 << 30 });
        NodeReport { node: NodeId(node), ability, ..NodeReport::default() }
    }

    /// A host whose chain does not run on it, and its DPU.
    fn control() -> ControlView {
        let wrapped = WrappedKey { key: KeyId(0), nonce: [0; 12], sealed: vec![0; 48] };
        let limits = TenantLimits::default();
        let tenant = TenantRow { id: TENANT, name: "tenant".into(), key: KeyId(0), wrapped, limits };
        let dpu = NodeInfo { kind: NodeKind::Dpu, attached_to: Some(NodeId(1)), ..host(2) };
        ControlView {
            nodes: [(NodeId(1), host(1)), (NodeId(2), dpu)].into(),
            tenants: [(TENANT, Arc::new(tenant))].into(),
            assignments: [(CHAIN, Assignment::new(CHAIN, NodeId(1), Epoch(4)))].into(),
            ..ControlView::default()
        }
    }

    #[test]
    fn a_dpu_is_entered_for_preference_once_it_sees_the_drives_that_its_host_sees() {
        let (one, two) = (NodeId(1), NodeId(2));
        let (mut control, mut dpu) = (control(), report(2));
        let host = NodeReport { drives_up: 6, ..report(1) };
        let reports = |dpu: &NodeReport| -> SharedMap<NodeId, Arc<NodeReport>> {
            [(one, Arc::new(host.clone())), (two, Arc::new(dpu.clone()))].into()
        };
        let wish = Wish { preference: mesh_core::assignment::Preference::PreferDpu, pin: None };
        control.wishes.insert(Scope::Mesh, wish);
        control.code = Some(mesh_core::topology::Code { data: 2, parity: 1 });
        assert_eq!(plan(&control, &reports(&dpu)), (Some(Spot::whole(one)), Reason::NotReady(two)));
        dpu.drives_up = 3;
        // That something else is missing there is no reason.
        dpu.missing = Some("a data chain of this node does not run".to_owned());
        assert_eq!(plan(&control, &reports(&dpu)).0, Some(Spot::whole(two)));
        // What runs there stays, as long as it is not blind.
        dpu.drives_up = 2;
        control.assignments.insert(CHAIN, Assignment::new(CHAIN, two, Epoch(5)));
        assert_eq!(plan(&control, &reports(&dpu)).0, Some(Spot::whole(two)));
    }

    #[test]
    fn chains_are_planned_as_they_are_built() {
        for level in [Level::SEATS, Level::COMPRESS] {
            let control = ControlView { level, ..control() };
            let built = crate::steward::specs::data_chain(&control, &SharedMap::new(), CHAIN).expect("it is known");
            let (reports, loads, nobody) = (SharedMap::new(), SharedMap::default(), BTreeSet::new());
            let (never, unmoved) = (BTreeMap::new(), Default::default());
            let (estranged, blind) = ((&nobody, &never), (&nobody, &never));
            let up_since = Default::default();
            let survey = Survey {
                reports: &reports,
                up_since: &up_since,
                estranged,
                blind,
                loads: &loads,
                moved_at: &unmoved,
                now: NOW,
            };
            let planned = &view(&control, survey).actors[&CHAIN].stages;
            let names: Vec<&str> = planned.iter().map(|stage| &*stage.kind).collect();
            assert_eq!(names, built.iter().map(mesh_core::spec::FunctionSpec::name).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_chain_goes_where_it_costs_less_though_nobody_measures_compression() {
        let (one, two) = (NodeId(1), NodeId(2));
        let report = |node: NodeId, cost: (u64, u64)| {
            let measured = ["policy", "encrypt", "erasure"].map(|kind| (kind.to_owned(), cost));
            let functions = measured.into_iter().chain([("compress".to_owned(), (0, 0))]).collect();
            let ability = Arc::new(Ability { functions, millicores: 8000, memory_bytes: 1 << 30 });
            (node, Arc::new(NodeReport { ability, ..report(node.0) }))
        };
        // It has to be worth a move.
        let reports = [report(one, (20_000, 900)), report(two, (1_000, 20))].into();
        let loads = [(CHAIN, Load { requests_per_s: 20_000, bytes_per_s: 4 << 30 })].into();
        let control = ControlView { level: Level::COMPRESS, ..control() };
        let (spot, reason) = plan_under(&control, &reports, (&BTreeMap::new(), &BTreeMap::new()), &loads);
        assert_eq!(spot, Some(Spot::whole(two)), "{reason:?}");
        assert!(matches!(reason, Reason::Gain { .. }), "{reason:?}");
    }

    #[test]
    fn a_dpu_that_was_estranged_or_blind_is_entered_once_it_has_been_well_for_five_seconds() {
        let (one, two) = (NodeId(1), NodeId(2));
        let mut control = control();
        let wish = Wish { preference: mesh_core::assignment::Preference::PreferDpu, pin: None };
        control.wishes.insert(Scope::Mesh, wish);
        let reports: SharedMap<NodeId, Arc<NodeReport>> =
            [1, 2].map(|node| (NodeId(node), Arc::new(report(node)))).into();
        let settle = crate::Rules::default().settle_ms;
        let well = |millis: u64| [(two, Instant(NOW.0 - millis * 1_000_000))].into();
        for (millis, spot) in [(0, one), (5_000 + settle - 1, one), (5_000 + settle, two)] {
            for last in [(well(millis), BTreeMap::new()), (BTreeMap::new(), well(millis))] {
                let decided = plan_since(&control, &reports, (&last.0, &last.1)).0;
                assert_eq!(decided, Some(Spot::whole(spot)), "{millis} ms after {last:?}");
            }
        }
    }

    const NOW: Instant = Instant(3_600_000_000_000);

    fn plan(control: &ControlView, reports: &SharedMap<NodeId, Arc<NodeReport>>) -> (Option<Spot>, Reason) {
        plan_since(control, reports, (&BTreeMap::new(), &BTreeMap::new()))
    }

    /// … with DPUs that were estranged, or blind, at these moments last.
    fn plan_since(
        control: &ControlView,
        reports: &SharedMap<NodeId, Arc<NodeReport>>,
        last: (&BTreeMap<NodeId, Instant>, &BTreeMap<NodeId, Instant>),
    ) -> (Option<Spot>, Reason) {
        plan_under(control, reports, last, &SharedMap::default())
    }

    fn plan_under(
        control: &ControlView,
        reports: &SharedMap<NodeId, Arc<NodeReport>>,
        last: (&BTreeMap<NodeId, Instant>, &BTreeMap<NodeId, Instant>),
        loads: &SharedMap<ActorId, Load>,
    ) -> (Option<Spot>, Reason) {
        let up_since = [1, 2].map(|node| (NodeId(node), Instant(0))).into();
        let moved_at = Default::default();
        let (now, nobody) = (NOW, BTreeSet::new());
        let (estranged, blind) = ((&nobody, last.0), (&nobody, last.1));
        let survey = Survey { reports, up_since: &up_since, estranged, blind, loads, moved_at: &moved_at, now };
        let mut plan = crate::plan(&view(control, survey));
        let decision = plan.decisions.remove(&CHAIN).expect("it is looked at");
        (decision.spot, decision.reason)
    }

    #[test]
    fn a_chain_that_its_node_has_failed_to_run_goes_to_the_other_and_stays_where_there_is_none() {
        let (one, two) = (NodeId(1), NodeId(2));
        let (mut control, mut host, mut dpu) = (control(), report(1), report(2));
        let reports = |host: &NodeReport, dpu: &NodeReport| -> SharedMap<NodeId, Arc<NodeReport>> {
            [(one, Arc::new(host.clone())), (two, Arc::new(dpu.clone()))].into()
        };
        let stranded = |control: &ControlView, reports: &SharedMap<NodeId, Arc<NodeReport>>| {
            is_stranded(control, reports, &control.assignments[&CHAIN])
        };
        assert!(!stranded(&control, &reports(&host, &dpu)));
        host.unable = vec![(CHAIN, Epoch(4))];
        assert_eq!(plan(&control, &reports(&host, &dpu)), (Some(Spot::whole(two)), Reason::Failed(one)));
        assert!(stranded(&control, &reports(&host, &dpu)));
        // Nobody can: it stays, and is tried there.
        dpu.unable = vec![(CHAIN, Epoch(3))];
        let failed = |node| Box::new(Reason::Failed(node));
        let stuck = Reason::Stuck { why: failed(one), but: failed(two) };
        assert_eq!(plan(&control, &reports(&host, &dpu)), (Some(Spot::whole(one)), stuck));
        // The next epoch is another chance, and one that runs is moved live.
        control.assignments.insert(CHAIN, Assignment::new(CHAIN, one, Epoch(6)));
        assert!(!stranded(&control, &reports(&host, &dpu)));
        host.unable = vec![(CHAIN, Epoch(6))];
        assert!(stranded(&control, &reports(&host, &dpu)));
        host.actors = vec![runs(CHAIN, 6)];
        assert!(!stranded(&control, &reports(&host, &dpu)));
    }
}
