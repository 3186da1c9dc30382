use mesh_core::{
    bluefield::Generation,
    id::{ActorId, DriveId, NodeId, TenantId},
};
use mesh_placement::{
    ActorView, Change, Cost, Load, Move, NodeView, Objective, Planner, Preference, Reason, Rules, Spot, Stage, View,
    plan,
};

use crate::views::{DPU, HOST, NOW, OTHER, applied, chain, id, ready, two_hosts_and_a_dpu};

fn view(actors: impl IntoIterator<Item = ActorView>) -> View {
    let mut view = two_hosts_and_a_dpu();
    view.actors = (1..).map(id).zip(actors).collect();
    view
}

fn at(spot: Spot, actor: ActorView) -> ActorView {
    ActorView { at: Some(spot), ..actor }
}

fn on(node: NodeId, actor: ActorView) -> ActorView {
    at(Spot::whole(node), actor)
}

/// Every move as (tenant, target, reason).
fn moves(view: &View) -> Vec<(u64, Spot, Reason)> {
    let plan = plan(view);
    let told = plan.moves.iter().map(|Move { actor, to, reason, .. }| {
        (actor.as_data().map_or(actor.0, |(tenant, _)| tenant.0), *to, reason.clone())
    });
    let told = told.collect();
    assert!(mesh_placement::plan(&applied(view, &plan)).is_quiet(), "a second plan moves nothing");
    told
}

fn reason(view: &View, tenant: u64) -> Reason {
    plan(view).decisions[&id(tenant)].reason.clone()
}

fn preferred() -> Reason {
    Reason::Preferred { dpu: DPU, ingress: Some(HOST) }
}

#[test]
fn a_preferred_dpu_has_its_chains_at_once_however_lately_they_moved() {
    let just_moved = ActorView { moved_at_ms: Some(NOW), ..chain(1, Preference::PreferDpu) };
    let view = view([just_moved, chain(2, Preference::PreferDpu), chain(3, Preference::HostOnly)]);
    assert_eq!(moves(&view), [(1, Spot::whole(DPU), preferred()), (2, Spot::whole(DPU), preferred())]);
}

#[test]
fn a_dpu_that_came_up_just_now_is_entered_when_it_has_settled() {
    let mut view = view([chain(1, Preference::PreferDpu)]);
    view.nodes.get_mut(&DPU).unwrap().up_since_ms = NOW - 100;
    let (mut planner, first) = Planner::new(view.clone());
    assert_eq!((first.moves.len(), first.again_at_ms), (0, Some(NOW + 400)));
    assert_eq!(reason(&view, 1), Reason::Settling { node: DPU, settle_ms: 500 });
    assert_eq!(planner.change(Change::Now(NOW + 399)).decisions.len(), 0);
    let moves = planner.change(Change::Now(NOW + 400)).moves;
    assert_eq!(moves.iter().map(|step| step.to).collect::<Vec<_>>(), [Spot::whole(DPU)]);
    assert_eq!(planner.again_at_ms(), None);
}

#[test]
fn who_found_another_place_meanwhile_is_still_looked_at_when_the_better_one_has_settled() {
    let mut view = view([chain(1, Preference::PreferDpu)]);
    view.nodes.get_mut(&DPU).unwrap().up_since_ms = NOW - 100;
    let second = NodeId(5);
    view.nodes.insert(second, ready(NodeView::dpu(HOST)));
    assert_eq!(moves(&view), [(1, Spot::whole(second), Reason::Preferred { dpu: second, ingress: Some(HOST) })]);
    assert_eq!(plan(&view).again_at_ms, Some(NOW + 400));
}

#[test]
fn a_dead_dpu_sends_whole_chains_and_tails_home_at_once() {
    let whole = ActorView { moved_at_ms: Some(NOW), ..on(DPU, chain(1, Preference::PreferDpu)) };
    let mut view = view([whole, at(Spot::split(HOST, 1, DPU), chain(2, Preference::Auto))]);
    view.nodes.get_mut(&DPU).unwrap().up = false;
    let home = Spot::whole(HOST);
    assert_eq!(moves(&view), [(1, home, Reason::NodeDown(DPU)), (2, home, Reason::NodeDown(DPU))]);
    view.nodes.remove(&DPU);
    assert_eq!(moves(&view), [(1, home, Reason::NoSuchNode(DPU)), (2, home, Reason::NoSuchNode(DPU))]);
    assert_eq!(reason(&applied(&view, &plan(&view)), 1), Reason::NoDpu(HOST));
}

#[test]
fn a_drained_node_is_left_by_all_who_can_and_says_who_cannot() {
    let mut view = view([on(DPU, chain(1, Preference::PreferDpu)), on(DPU, chain(2, Preference::DpuOnly))]);
    view.nodes.get_mut(&DPU).unwrap().draining = true;
    let draining = Reason::Draining(DPU);
    assert_eq!(moves(&view), [(1, Spot::whole(HOST), draining.clone())]);
    let stuck = Reason::Stuck { why: Box::new(draining.clone()), but: Box::new(draining) };
    assert_eq!(stuck.to_string(), "node-4 is being drained, and there is nowhere else");
    assert_eq!(plan(&view).refused, [(id(2), stuck)]);
    assert_eq!(plan(&view).decisions[&id(2)].spot, Some(Spot::whole(DPU)));
}

#[test]
fn auto_moves_for_a_gain_that_is_worth_it() {
    let gain = Reason::Gain { what: Objective::HostCpu, permille: 1000 };
    let mut view = view([chain(1, Preference::Auto)]);
    assert_eq!(moves(&view), [(1, Spot::whole(DPU), gain)]);

    view.actors.get_mut(&id(1)).unwrap().load.requests_per_s = 33;
    assert_eq!(reason(&view, 1), Reason::LittleGain(Objective::HostCpu));

    view.actors.get_mut(&id(1)).unwrap().load.requests_per_s = 100;
    view.actors.get_mut(&id(1)).unwrap().moved_at_ms = Some(NOW - 1000);
    assert_eq!(reason(&view, 1), Reason::Held { hold_ms: 30_000 });
    assert_eq!(plan(&view).again_at_ms, Some(NOW + 29_000));

    // What a request costs on the link is most of what it costs on the host.
    let actor = view.actors.get_mut(&id(1)).unwrap();
    actor.load = Load { requests_per_s: 1000, bytes_per_s: 1 };
    view.rules.link = Cost { ns_per_request: 3_000_000, ps_per_byte: 0 };
    let small = Reason::SmallGain { what: Objective::HostCpu, permille: 90, least: 200 };
    assert_eq!(reason(&view, 1), small);
    assert_eq!(small.to_string(), "gain of 9 % in host CPU is below 20 %");

    view.nodes.get_mut(&DPU).unwrap().costs.clear();
    assert_eq!(reason(&view, 1), Reason::Unmeasured(DPU));
}

#[test]
fn a_policy_is_kept_and_says_what_it_forbids() {
    let mut view = view([on(DPU, chain(1, Preference::HostOnly)), chain(2, Preference::DpuOnly)]);
    let forbids = |node, preference| Reason::Forbidden { node, preference };
    assert_eq!(
        moves(&view),
        [
            (1, Spot::whole(HOST), forbids(DPU, Preference::HostOnly)),
            (2, Spot::whole(DPU), forbids(HOST, Preference::DpuOnly))
        ]
    );
    view.nodes.remove(&DPU);
    let plan = plan(&view);
    let stuck = Reason::Stuck { why: Box::new(forbids(HOST, Preference::DpuOnly)), but: Box::new(Reason::NoDpu(HOST)) };
    assert_eq!(
        stuck.to_string(),
        "its policy dpu-only forbids node-1, but it cannot leave: no DPU is attached to node-1"
    );
    assert_eq!(plan.refused, [(id(2), stuck)]);
    assert_eq!(plan.score.safety, 1);
}

#[test]
fn a_dpu_that_lacks_a_capability_gets_the_tail_that_it_can_run() {
    let mut view = view([chain(1, Preference::PreferDpu), chain(2, Preference::DpuOnly)]);
    view.nodes.get_mut(&DPU).unwrap().capabilities.remove("policy");
    view.actors.get_mut(&id(2)).unwrap().at = None;
    assert_eq!(moves(&view), [(1, Spot::split(HOST, 1, DPU), preferred())]);
    let lacks = Reason::NoCapability { kind: "policy".into(), node: Some(DPU) };
    assert_eq!(plan(&view).refused, [(id(2), lacks)]);

    for node in view.nodes.values_mut() {
        node.capabilities.remove("encrypt");
    }
    view.actors.get_mut(&id(1)).unwrap().at = None;
    view.nodes.get_mut(&DPU).unwrap().capabilities.insert("policy".into());
    let nowhere = Reason::NoCapability { kind: "encrypt".into(), node: None };
    assert_eq!(nowhere.to_string(), "no node that it may run on has the capability `encrypt`");
    assert_eq!(reason(&view, 1), nowhere);
}

#[test]
fn memory_is_counted_over_all_that_are_planned() {
    let mut view = view((1..=3).map(|tenant| chain(tenant, Preference::PreferDpu)));
    view.nodes.get_mut(&DPU).unwrap().memory_free_bytes = 25;
    assert_eq!(moves(&view), [(1, Spot::whole(DPU), preferred()), (2, Spot::whole(DPU), preferred())]);
    let full = Reason::NoMemory { node: DPU, needs: 10, has: 5 };
    assert_eq!(reason(&view, 3), full);
    assert_eq!(full.to_string(), "not enough memory on node-4: needs 10 bytes, has 5 bytes");
}

#[test]
fn a_node_whose_memory_shrank_is_left_by_the_last() {
    let mut view = view((1..=3).map(|tenant| on(DPU, chain(tenant, Preference::PreferDpu))));
    view.nodes.get_mut(&DPU).unwrap().memory_free_bytes = 25;
    assert_eq!(moves(&view), [(3, Spot::whole(HOST), Reason::NoMemory { node: DPU, needs: 10, has: 5 })]);
}

#[test]
fn what_the_cores_of_a_dpu_cannot_do_stays_on_the_host() {
    let mut view = view((1..=3).map(|tenant| chain(tenant, Preference::PreferDpu)));
    for (actor, requests_per_s) in view.actors.values_mut().zip([1000, 3000, 2000]) {
        actor.load.requests_per_s = requests_per_s;
    }
    let dpu = view.nodes.get_mut(&DPU).unwrap();
    (dpu.millicores, dpu.load_millicores) = (2500, 500);
    // 2 cores of which 80 % are filled: of 0.3, 0.9 and 0.6 cores the larger two, and of the third the last stage.
    assert_eq!(
        moves(&view),
        [
            (1, Spot::split(HOST, 2, DPU), preferred()),
            (2, Spot::whole(DPU), preferred()),
            (3, Spot::whole(DPU), preferred())
        ]
    );
    let full = Reason::NoCores { node: DPU, needs: 300, has: 100 };
    assert_eq!(full.to_string(), "not enough cores on node-4: needs 0.300, has 0.100");
    let after = applied(&view, &plan(&view));
    assert_eq!(reason(&after, 1), full);
}

#[test]
fn a_load_that_swings_does_not_move_chains_to_and_fro() {
    let mut view = view([on(DPU, chain(1, Preference::PreferDpu)), chain(2, Preference::PreferDpu)]);
    view.nodes.get_mut(&DPU).unwrap().millicores = 1000;
    for (requests_per_s, tenants) in [(2600, vec![]), (3300, vec![]), (2600, vec![]), (3400, vec![1])] {
        view.actors.get_mut(&id(1)).unwrap().load.requests_per_s = requests_per_s;
        view.actors.get_mut(&id(2)).unwrap().load.requests_per_s = 3000;
        let moved: Vec<u64> = moves(&view).iter().map(|(tenant, ..)| *tenant).filter(|tenant| *tenant == 1).collect();
        assert_eq!(moved, tenants, "{requests_per_s}");
    }
}

#[test]
fn an_isolated_tenant_shares_no_dpu() {
    let isolated = ActorView { isolate: true, ..chain(1, Preference::PreferDpu) };
    let both = view([isolated.clone(), chain(2, Preference::PreferDpu)]);
    assert_eq!(moves(&both), [(1, Spot::whole(DPU), preferred())]);
    assert_eq!(reason(&both, 2), Reason::Isolation { node: DPU, tenant: TenantId(1) });

    // Two that share one already part.
    let shared = view([on(DPU, isolated), on(DPU, chain(2, Preference::PreferDpu))]);
    assert_eq!(plan(&shared).before.isolation, 2);
    assert_eq!(plan(&shared).score.isolation, 0);
    assert_eq!(moves(&shared), [(2, Spot::whole(HOST), Reason::Isolation { node: DPU, tenant: TenantId(1) })]);
}

#[test]
fn a_pin_outweighs_preference_and_yields_to_a_node_that_is_down() {
    let view = view([ActorView { pin: Some(OTHER), ..chain(1, Preference::PreferDpu) }]);
    assert_eq!(moves(&view), [(1, Spot::whole(OTHER), Reason::Pinned(OTHER))]);
    let mut view = applied(&view, &plan(&view));
    view.nodes.get_mut(&OTHER).unwrap().up = false;
    assert_eq!(moves(&view), [(1, Spot::whole(DPU), Reason::NodeDown(OTHER))]);
    let mut view = applied(&view, &plan(&view));
    assert_eq!(plan(&view).refused, []);
    view.nodes.get_mut(&OTHER).unwrap().up = true;
    assert_eq!(moves(&view), [(1, Spot::whole(OTHER), Reason::Pinned(OTHER))]);
}

#[test]
fn a_dpu_serves_no_other_host() {
    let mut view = view([]);
    let stray = ActorId::data(TenantId(9), OTHER);
    let stages = [Stage::new("policy")];
    view.actors.insert(stray, on(DPU, ActorView::chain(stages, OTHER)));
    let served = Reason::NotServed { node: DPU, ingress: OTHER };
    assert_eq!(moves(&view), [(9, Spot::whole(OTHER), served)]);
    view.actors.get_mut(&stray).unwrap().pin = Some(DPU);
    assert_eq!(moves(&view), []);
}

#[test]
fn an_ingress_stays_on_its_node_and_a_drive_where_its_medium_is_seen() {
    let mut view = view([]);
    view.nodes.values_mut().for_each(|node| node.capabilities.extend([("object").into()]));
    let ingress = ActorId::ingress(HOST);
    view.actors.insert(
        ingress,
        on(HOST, ActorView { preference: Preference::PreferDpu, ..ActorView::chain([Stage::new("object")], HOST) }),
    );
    let drive = ActorId::drive(DriveId(1001));
    let seen = |nodes: &[NodeId]| ActorView {
        ingress: None,
        media: Some(nodes.iter().copied().collect()),
        preference: Preference::PreferDpu,
        ..on(HOST, ActorView::chain([Stage::new("drive")], HOST))
    };
    view.actors.insert(drive, seen(&[HOST]));
    assert_eq!(moves(&view), []);
    view.actors.insert(drive, seen(&[HOST, DPU]));
    let sees = Reason::Preferred { dpu: DPU, ingress: None };
    assert_eq!(moves(&view), [(drive.0, Spot::whole(DPU), sees)]);
    view.actors.insert(drive, ActorView { pin: Some(OTHER), ..seen(&[HOST]) });
    assert_eq!(plan(&view).decisions[&drive].reason, Reason::NotVisible(OTHER));
}

#[test]
fn members_of_a_group_part_where_domains_suffice() {
    let drive = |id: u64| ActorId::drive(DriveId(id));
    let shared = |at: NodeId, media: &[NodeId]| ActorView {
        ingress: None,
        media: Some(media.iter().copied().collect()),
        apart: Some(1),
        ..on(at, ActorView::chain([Stage::new("drive")], HOST))
    };
    let mut view = view([]);
    // The first can only be with the host; the second goes to the other host rather than to the host's DPU.
    view.actors = [(drive(1), shared(HOST, &[HOST, DPU])), (drive(2), shared(HOST, &[HOST, DPU, OTHER]))].into();
    assert_eq!(plan(&view).before.safety, 1);
    assert_eq!(moves(&view), [(drive(2).0, Spot::whole(OTHER), Reason::Apart { domain: HOST })]);
    view.nodes.get_mut(&OTHER).unwrap().up = false;
    let plan = plan(&view);
    assert_eq!((plan.moves.len(), plan.score.safety), (0, 1));
}

#[test]
fn a_move_under_way_is_left_alone_and_has_its_room_at_both_ends() {
    let mut view = view((1..=2).map(|tenant| chain(tenant, Preference::PreferDpu)));
    view.nodes.get_mut(&DPU).unwrap().memory_free_bytes = 15;
    view.actors.get_mut(&id(2)).unwrap().moving = Some(Spot::whole(DPU));
    assert_eq!(moves(&view), []);
    assert_eq!(reason(&view, 2), Reason::Moving(DPU));
    assert_eq!(reason(&view, 1), Reason::NoMemory { node: DPU, needs: 10, has: 5 });
    assert_eq!(plan(&view).decisions[&id(2)].spot, Some(Spot::whole(HOST)));
}

#[test]
fn auto_makes_room_on_a_dpu_for_those_who_were_promised_it() {
    let mut view = view([on(DPU, chain(1, Preference::Auto)), chain(2, Preference::PreferDpu)]);
    view.nodes.get_mut(&DPU).unwrap().memory_free_bytes = 15;
    let room = Reason::MadeRoom { actor: id(2), node: DPU };
    assert_eq!(room.to_string(), "it makes room for chain-2-1 on node-4");
    assert_eq!(moves(&view), [(1, Spot::whole(HOST), room), (2, Spot::whole(DPU), preferred())]);

    // Nobody is driven out who has nowhere to go.
    view.nodes.get_mut(&HOST).unwrap().memory_free_bytes = 10;
    assert_eq!(moves(&view), []);
}

#[test]
fn an_actor_that_names_no_node_has_no_place() {
    let mut view = view([]);
    let id = ActorId(77);
    view.actors.insert(id, ActorView { ingress: None, ..ActorView::chain([Stage::new("policy")], HOST) });
    assert_eq!(plan(&view).refused, [(id, Reason::Nowhere)]);
}

#[test]
fn prints_a_reason_for_everybody() {
    let mut view = view([
        chain(1, Preference::PreferDpu),
        on(DPU, chain(2, Preference::PreferDpu)),
        ActorView { at: None, ..chain(3, Preference::HostOnly) },
        ActorView { at: None, media: Some([NodeId(9)].into()), ..chain(4, Preference::Auto) },
    ]);
    view.nodes.get_mut(&HOST).unwrap().milliwatts_per_core = 5000;
    assert_eq!(
        format!("{:#}", plan(&view)),
        "move  chain-1-1: node-1 -> node-4: \
            node-4 is a DPU of its ingress host node-1 and is preferred\n\
         start chain-3-1: node-1: it runs nowhere yet\n\
         stuck chain-4-1: its medium is not visible from node-4\n\
         stay  chain-2-1: node-4: node-4 is a DPU of its ingress host node-1 and is preferred\n\
         2 to move, 1 stuck, 1 left alone\n\
         now:   host CPU 0.03 cores, crossing 0.00 MB/s, power 0.15 W, 2 unsafe\n\
         after: host CPU 0.03 cores, crossing 0.00 MB/s, power 0.15 W, 1 unsafe"
    );
    assert!(!plan(&view).to_string().contains("stay"));
}

#[test]
fn asks_what_a_dpu_more_or_a_node_less_would_change() {
    let mut view = view([on(DPU, chain(1, Preference::PreferDpu))]);
    let other = ActorId::data(TenantId(2), OTHER);
    let stages = ["policy", "encrypt", "erasure"].map(Stage::new);
    let load = Load { requests_per_s: 1000, bytes_per_s: 0 };
    view.actors.insert(other, ActorView { load, ..on(OTHER, ActorView::chain(stages, OTHER)) });
    assert_eq!(moves(&view), []);

    let more = view.with_dpu(OTHER, Generation::Bf3).unwrap();
    let new = NodeId(5);
    let profile = (more.nodes[&new].millicores, more.nodes[&new].costs["policy"].ns_per_request);
    assert_eq!((profile, more.nodes[&new].domain, more.nodes[&new].emulated), ((16_000, 200_000), OTHER, true));
    let gain = Reason::Gain { what: Objective::HostCpu, permille: 1000 };
    assert_eq!(moves(&more), [(2, Spot::whole(new), gain)]);

    let less = view.without(DPU).unwrap();
    assert_eq!(moves(&less), [(1, Spot::whole(HOST), Reason::NodeDown(DPU))]);

    let refusals = [view.with_dpu(DPU, Generation::Bf3), view.with_dpu(NodeId(9), Generation::Bf3)];
    let refusals = refusals.map(|refusal| refusal.unwrap_err().to_string());
    assert_eq!(
        refusals,
        [
            "a DPU is attached to a host, not to a DPU [node=node-4]",
            "there is no such node: `mesh status` lists them [node=node-9]",
        ]
    );
    assert!(view.without(NodeId(9)).is_err());
}

#[test]
fn a_change_asks_for_what_it_causes_and_nothing_else() {
    let mut view = view([chain(1, Preference::PreferDpu)]);
    let far = ActorId::data(TenantId(1), OTHER);
    view.actors.insert(far, on(OTHER, ActorView::chain([Stage::new("policy")], OTHER)));
    let (mut planner, first) = Planner::new(view);
    assert_eq!((first.moves.len(), first.decisions.len()), (1, 2));

    // It is carried out: first it is under way, then done.
    let mut actor = planner.view().actors[&id(1)].clone();
    actor.moving = Some(Spot::whole(DPU));
    let plan = planner.change(Change::Actor(id(1), Some(actor.clone())));
    assert_eq!((plan.moves.len(), plan.decisions.len()), (0, 1));
    (actor.at, actor.moving) = (actor.moving, None);
    assert!(planner.change(Change::Actor(id(1), Some(actor))).is_quiet());

    let mut dpu = planner.view().nodes[&DPU].clone();
    dpu.up = false;
    let plan = planner.change(Change::Node(DPU, Some(dpu)));
    let home =
        Move { actor: id(1), from: Some(Spot::whole(DPU)), to: Spot::whole(HOST), reason: Reason::NodeDown(DPU) };
    assert_eq!((plan.moves, plan.decisions.len()), (vec![home], 1));
    assert_eq!(planner.decisions().len(), 2);

    let plan = planner.change(Change::Node(NodeId(6), Some(ready(NodeView::dpu(OTHER)))));
    assert_eq!(plan.decisions.keys().copied().collect::<Vec<_>>(), [far]);
    planner.change(Change::Actor(far, None));
    assert_eq!(planner.decisions().len(), 1);
}

#[test]
fn the_rules_are_the_ones_that_were_asked_for() {
    let rules = Rules::default();
    assert!(rules.settle_ms <= 1000, "a DPU that returned has its chains again within 5 s");
    assert_eq!((rules.gain_permille, rules.hold_ms), (200, 30_000));
}
