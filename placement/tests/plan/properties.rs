//! What holds for every view: judged by rules of its own, written apart from the engine's.

use std::collections::{BTreeMap, BTreeSet};

use mesh_core::{
    id::{ActorId, DriveId, NodeId, TenantId},
    topology::NodeKind,
};
use mesh_placement::{
    ActorView, Change, Cost, Load, NodeView, Plan, Planner, Preference, Reason, Spot, Stage, View, fuse::fused, plan,
};
use proptest::{prelude::*, sample::select};

use crate::views::{KINDS, NOW, applied};

const NODES: u64 = 8;

fn node_id() -> impl Strategy<Value = NodeId> {
    (1..=NODES).prop_map(NodeId)
}

/// Nodes 1, 2, 3 are hosts, 4 to 8 mostly DPUs of one.
fn node(id: u64) -> impl Strategy<Value = NodeView> {
    let kinds = prop::collection::btree_set(select(&KINDS[..]), 2..=4);
    let kinds = prop_oneof![3 => Just(KINDS.into()), 1 => kinds];
    let state = (prop::bool::weighted(0.85), prop::bool::weighted(0.12), select(vec![0, NOW - 100]));
    let sizes = (0..60_u64, 0..3_000_u32, 0..200_u32, 0..4_u32);
    (1..=4_u64, kinds, state, sizes, 0..3_u64).prop_map(
        move |(host, kinds, (up, draining, up_since_ms), (memory, millicores, load, watts), cost)| {
            let mut node = if id <= 3 { NodeView::host(NodeId(id)) } else { NodeView::dpu(NodeId(host)) };
            (node.up, node.draining, node.up_since_ms) = (up, draining, up_since_ms);
            (node.memory_free_bytes, node.millicores, node.load_millicores) = (memory, millicores, load);
            node.milliwatts_per_core = watts * 1000;
            let cost = Cost { ns_per_request: cost * 100_000, ps_per_byte: cost * 300 };
            node.costs = kinds.iter().filter(|kind| **kind != "drive").map(|kind| ((*kind).into(), cost)).collect();
            node.capabilities = kinds.into_iter().map(Into::into).collect();
            node
        },
    )
}

fn spot() -> impl Strategy<Value = Spot> {
    prop_oneof![
        3 => node_id().prop_map(Spot::whole),
        1 => (node_id(), 0..4_usize, node_id()).prop_map(|(head, cut, tail)| Spot::split(head, cut, tail)),
    ]
}

fn stage() -> impl Strategy<Value = Stage> {
    (select(&KINDS[..3]), 0..10_u64, -600..1100_i32).prop_map(|(kind, state_bytes, reduces_bytes_permille)| Stage {
        state_bytes,
        reduces_bytes_permille,
        ..Stage::new(kind)
    })
}

fn actor() -> impl Strategy<Value = (ActorId, ActorView)> {
    let preference = select(vec![Preference::Auto, Preference::PreferDpu, Preference::HostOnly, Preference::DpuOnly]);
    let media = prop::option::weighted(0.3, prop::collection::btree_set(node_id(), 0..4));
    let wishes = (preference, prop::option::weighted(0.15, node_id()), prop::bool::weighted(0.2));
    let places = (prop::option::weighted(0.8, spot()), prop::option::weighted(0.1, spot()));
    let load = (0..6000_u64, 0..1_000_000_000_u64, 0..20_u64);
    let groups = (prop::option::weighted(0.3, 1..3_u64), select(vec![None, Some(0), Some(NOW - 10)]));
    let who = (0..4_u64, 1..=4_u64, 0..100_u64, 0..10_u8);
    (who, prop::collection::vec(stage(), 0..4), media, wishes, places, load, groups).prop_map(
        |(who, stages, media, wishes, (at, moving), load, (apart, moved_at_ms))| {
            let (tenant, ingress, number, what) = who;
            let id = match what {
                0 => ActorId::ingress(NodeId(ingress)),
                1 | 2 => ActorId::drive(DriveId(number)),
                3 => ActorId(number + 1),
                _ => ActorId::data(TenantId(tenant), NodeId(ingress)),
            };
            let mut actor = ActorView::chain(stages, NodeId(ingress));
            (actor.preference, actor.pin, actor.isolate) = wishes;
            (actor.at, actor.moving, actor.media) = (at, moving, media.filter(|_| what < 4));
            actor.ingress = actor.ingress.filter(|_| what != 1 && what != 2);
            actor.tenant = Some(TenantId(tenant)).filter(|_| what >= 3);
            actor.load = Load { requests_per_s: load.0, bytes_per_s: load.1 };
            (actor.needs_memory_bytes, actor.apart, actor.moved_at_ms) = (load.2, apart, moved_at_ms);
            (id, actor)
        },
    )
}

fn view() -> impl Strategy<Value = View> {
    let nodes = (1..=NODES).map(|id| prop::option::weighted(0.9, node(id))).collect::<Vec<_>>();
    let link = select(vec![0_u64, 500]);
    (nodes, prop::collection::btree_map(1..2000_u64, actor(), 0..14), link).prop_map(|(nodes, actors, link)| {
        let mut view = View { now_ms: NOW, ..View::default() };
        view.rules.link.ps_per_byte = link;
        view.nodes = (1..).map(NodeId).zip(nodes).filter_map(|(id, node)| Some((id, node?))).collect();
        view.actors = actors.into_values().collect();
        view
    })
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        3 => (1..=NODES).prop_flat_map(|id| {
            prop::option::weighted(0.8, node(id)).prop_map(move |node| Change::Node(NodeId(id), node))
        }),
        3 => (actor(), prop::bool::weighted(0.85))
            .prop_map(|((id, actor), stays)| Change::Actor(id, Some(actor).filter(|_| stays))),
        1 => (NOW..NOW + 40_000).prop_map(Change::Now),
    ]
}

/// What one actor takes of each node at a place: bytes and nanoseconds.
fn takes(view: &View, actor: &ActorView, spot: Spot) -> BTreeMap<NodeId, (u64, u64)> {
    let home = actor.ingress.and_then(|ingress| view.nodes.get(&ingress));
    let mut bytes = actor.load.bytes_per_s;
    let mut taken = BTreeMap::new();
    for (id, stages) in fused(spot, actor.stages.len()) {
        let mut sum = (actor.needs_memory_bytes, 0);
        for stage in &actor.stages[stages] {
            let load = Load { bytes_per_s: bytes, ..actor.load };
            let cost = |node: &NodeView| node.costs.get(&stage.kind).copied();
            let cost = view.nodes.get(&id).and_then(cost).or_else(|| home.and_then(cost)).unwrap_or_default();
            sum = (sum.0 + stage.state_bytes, sum.1 + cost.ns_per_s(load));
            bytes = bytes * (1000 - i64::from(stage.reduces_bytes_permille)).max(0) as u64 / 1000;
        }
        taken.insert(id, sum);
    }
    taken
}

/// Whether the actor may and can be there, whoever else is.
fn allowed(view: &View, id: ActorId, actor: &ActorView, spot: Spot) -> bool {
    let home = id.as_ingress().or(actor.ingress);
    let attached = |a: NodeId, b: NodeId| view.nodes.get(&a).is_some_and(|node| node.attached_to == Some(b));
    let part = |(id_of_node, stages): (NodeId, core::ops::Range<usize>)| {
        let Some(node) = view.nodes.get(&id_of_node) else { return false };
        let served = home.is_none_or(|home| {
            home == id_of_node
                || actor.pin == Some(id_of_node)
                || (id.as_ingress().is_none() && (attached(id_of_node, home) || attached(home, id_of_node)))
        });
        let policy = match actor.preference {
            Preference::HostOnly => node.kind == NodeKind::Host,
            Preference::DpuOnly => node.kind == NodeKind::Dpu,
            _ => true,
        };
        node.up
            && !node.draining
            && actor.stages[stages].iter().all(|stage| node.capabilities.contains(&stage.kind))
            && actor.media.as_ref().is_none_or(|media| media.contains(&id_of_node))
            && served
            && policy
    };
    let cut = spot.tail.is_none_or(|(cut, _)| cut > 0 && cut < actor.stages.len() && home == Some(spot.head));
    cut && fused(spot, actor.stages.len()).into_iter().all(part)
}

/// Who is on each node after the plan, and what they take of it; actors on the move are at both ends.
type Taken<'a> = BTreeMap<NodeId, Vec<(ActorId, &'a ActorView, (u64, u64))>>;

fn taken<'a>(view: &'a View, plan: &Plan) -> Taken<'a> {
    let mut all: Taken<'a> = BTreeMap::new();
    for (id, actor) in &view.actors {
        let gone = |spot: &Spot| spot.nodes().any(|node| view.nodes.get(&node).is_none_or(|node| !node.up));
        let mut spots: BTreeSet<Spot> = plan.decisions[id].spot.into_iter().collect();
        if actor.moving.is_some() {
            spots = actor.at.filter(|spot| !gone(spot)).into_iter().chain(actor.moving).collect();
        }
        for (node, sum) in spots.into_iter().flat_map(|spot| takes(view, actor, spot)) {
            all.entry(node).or_default().push((*id, actor, sum));
        }
    }
    all
}

fn check(view: &View, plan: &Plan) -> Result<(), TestCaseError> {
    prop_assert!(plan.decisions.keys().eq(view.actors.keys()));
    let taken = taken(view, plan);
    for (id, decision) in &plan.decisions {
        let actor = &view.actors[id];
        let left_alone = actor.moving.is_some() || plan.refused.iter().any(|(refused, _)| refused == id);
        match decision.spot {
            Some(spot) if !left_alone => prop_assert!(allowed(view, *id, actor, spot), "{id} {decision:?}"),
            Some(_) => prop_assert!(plan.moves.iter().all(|step| step.actor != *id)),
            None => prop_assert!(plan.refused.iter().any(|(refused, _)| refused == id)),
        }
        // What has no place really has none.
        if decision.spot.is_none() && actor.moving.is_none() {
            for spot in view.nodes.keys().copied().map(Spot::whole) {
                let says_nothing = id.as_ingress().is_none() && actor.ingress.is_none() && actor.media.is_none();
                let candidate = !says_nothing || actor.pin == Some(spot.head);
                prop_assert!(
                    !candidate || !allowed(view, *id, actor, spot) || !fits(view, &taken, actor, spot),
                    "{id} could be at {spot}: {decision:?}"
                );
            }
        }
    }
    // Nothing enters a node that has no room for all who are there then.
    for step in &plan.moves {
        let actor = &view.actors[&step.actor];
        let gone = |spot: &Spot| spot.nodes().any(|node| view.nodes.get(&node).is_none_or(|node| !node.up));
        let had = step.from.filter(|spot| !gone(spot)).map(|spot| takes(view, actor, spot)).unwrap_or_default();
        for (node, (memory, ns)) in takes(view, actor, step.to) {
            let (id, node, guests) = (node, &view.nodes[&node], &taken[&node]);
            let had = had.get(&id);
            let all: u64 = guests.iter().map(|(.., (memory, _))| memory).sum();
            if memory > had.map_or(0, |had| had.0) {
                prop_assert!(all <= node.memory_free_bytes, "memory of {id} after {step}");
            }
            let all: u64 = guests.iter().map(|(.., (_, ns))| ns).sum();
            if node.kind == NodeKind::Dpu && ns > had.map_or(0, |had| had.1) {
                prop_assert!(all <= capacity(node) * 8 / 10, "cores of {id} after {step}");
            }
            if node.kind == NodeKind::Dpu && had.is_none() {
                prop_assert!(!guests.iter().any(|(_, guest, _)| strangers(actor, guest)), "{step}");
            }
        }
    }
    Ok(())
}

fn capacity(node: &NodeView) -> u64 {
    u64::from(node.millicores.saturating_sub(node.load_millicores)) * 1_000_000
}

fn strangers(a: &ActorView, b: &ActorView) -> bool {
    a.tenant.is_some() && b.tenant.is_some() && a.tenant != b.tenant && (a.isolate || b.isolate)
}

fn fits(view: &View, taken: &Taken<'_>, actor: &ActorView, spot: Spot) -> bool {
    takes(view, actor, spot).into_iter().all(|(id, (memory, ns))| {
        let node = &view.nodes[&id];
        let guests = taken.get(&id).map(Vec::as_slice).unwrap_or_default();
        let (all_memory, all_ns) =
            guests.iter().fold((memory, ns), |sum, (.., taken)| (sum.0 + taken.0, sum.1 + taken.1));
        let is_dpu = node.kind == NodeKind::Dpu;
        (memory == 0 || all_memory <= node.memory_free_bytes)
            && (!is_dpu || ns == 0 || all_ns <= capacity(node) * 8 / 10)
            && (!is_dpu || !guests.iter().any(|(_, guest, _)| strangers(actor, guest)))
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn constraints_hold_and_a_second_plan_moves_nothing(view in view()) {
        let first = plan(&view);
        check(&view, &first)?;
        prop_assert_eq!(&first, &plan(&view.clone()));
        // Nobody who runs somewhere loses the place.
        let runs = |actor: &ActorView| actor.at.is_some_and(|at| {
            at.nodes().all(|node| view.nodes.get(&node).is_some_and(|node| node.up))
        });
        prop_assert!(view.actors.iter().all(|(id, actor)| !runs(actor) || first.decisions[id].spot.is_some()));
        let after = applied(&view, &first);
        let second = plan(&after);
        prop_assert!(second.is_quiet(), "first:\n{:#}\nsecond:\n{:#}", first, second);
        // What one promised, the other finds.
        let found = (second.before.safety, second.before.isolation, second.before.host_cpu, second.before.power);
        prop_assert_eq!(found, (first.score.safety, first.score.isolation, first.score.host_cpu, first.score.power));
    }

    #[test]
    fn change_by_change_is_the_same_as_the_whole(view in view(), changes in prop::collection::vec(change(), 1..8)) {
        let (mut planner, first) = Planner::new(view.clone());
        prop_assert_eq!(&first, &plan(&view));
        let (mut at_once, _) = Planner::new(view.clone());
        at_once.changes(changes.iter().cloned());
        for change in changes {
            let told = planner.change(change);
            let whole = plan(planner.view());
            prop_assert_eq!(planner.decisions(), &whole.decisions);
            prop_assert_eq!(planner.again_at_ms(), whole.again_at_ms);
            let affected: Vec<_> =
                whole.moves.into_iter().filter(|step| told.decisions.contains_key(&step.actor)).collect();
            prop_assert_eq!(&told.moves, &affected);
        }
        prop_assert_eq!(planner.view(), at_once.view());
        prop_assert_eq!(planner.decisions(), at_once.decisions());
    }

    #[test]
    fn a_whole_new_view_is_the_same_as_its_differences(views in prop::collection::vec(view(), 2..5)) {
        let (mut planner, _) = Planner::new(views[0].clone());
        let mut now_ms = 0;
        for mut view in views {
            // Time goes forward.
            now_ms = view.now_ms.max(now_ms);
            view.now_ms = now_ms;
            let told = planner.update(view.clone());
            let whole = plan(&view);
            prop_assert_eq!(planner.view(), &view);
            prop_assert_eq!(planner.decisions(), &whole.decisions);
            prop_assert_eq!(planner.again_at_ms(), whole.again_at_ms);
            let untold = whole.moves.iter().filter(|step| !told.decisions.contains_key(&step.actor)).count();
            prop_assert_eq!(told.moves.len() + untold, whole.moves.len());
        }
    }

    #[test]
    fn where_nothing_is_wrong_and_no_gain_is_large_nothing_moves(view in view(), swing in 900..1100_u64) {
        let mut view = view;
        for node in view.nodes.values_mut() {
            (node.up, node.draining, node.memory_free_bytes) = (true, false, u64::MAX);
            node.capabilities = KINDS.map(Into::into).into();
        }
        view.rules.gain_permille = 1001;
        let home = |id: &ActorId| id.as_data().map(|(_, ingress)| ingress);
        view.actors.retain(|id, _| home(id).is_some_and(|home| view.nodes.contains_key(&home)));
        for (id, actor) in &mut view.actors {
            *actor = ActorView {
                at: home(id).map(Spot::whole),
                preference: Preference::Auto,
                pin: None,
                isolate: false,
                media: None,
                apart: None,
                ..actor.clone()
            };
            actor.load.requests_per_s = actor.load.requests_per_s * swing / 1000;
        }
        // What is called a host in these views and is none is no home to judge by.
        let hosts = view.nodes.clone();
        view.actors.retain(|id, _| home(id).is_some_and(|home| hosts[&home].kind == NodeKind::Host));
        let plan = plan(&view);
        prop_assert!(plan.is_quiet() && plan.refused.is_empty(), "{:#}", plan);
    }

    #[test]
    fn every_decision_has_a_sentence(view in view()) {
        let plan = plan(&view);
        let text = format!("{plan:#}");
        let placed = plan.decisions.values().filter(|decision| decision.spot.is_some()).count();
        let stuck = plan.decisions.values().filter(|decision| matches!(decision.reason, Reason::Stuck { .. })).count();
        prop_assert!(text.lines().count() >= placed.max(stuck) + 3, "{text}");
        prop_assert!(plan.decisions.values().all(|decision| !decision.reason.to_string().is_empty()));
    }
}
