//! What the leader of the control group does by a look so that actors have a place, where they can do something.

use mesh_core::{
    assignment::{Preference, Scope, Wish},
    id::{ActorName, KeyId},
    meta::{MeshCommand, MetaAnswer, TenantLimits, WrappedKey},
    topology::Code,
};

use super::*;
use crate::migration::Ask;

/// Serves the second host.
const DPU: NodeId = NodeId(12);
const CHAIN: ActorId = ActorId::data(TenantId(7), OTHER);

fn tenant(id: u64) -> Arc<TenantRow> {
    let wrapped = WrappedKey { key: KeyId(0), nonce: [0; 12], sealed: vec![0; 48] };
    let (id, key, limits) = (TenantId(id), KeyId(0), TenantLimits::default());
    Arc::new(TenantRow { id, name: "tenant".into(), key, wrapped, limits })
}

/// Two hosts, each with a chain of the tenant, and a DPU of the second, which has its chain.
fn with_dpu() -> ControlView {
    let mut control = mesh(&[1, 2, 12]);
    let dpu = control.nodes.get_mut(&DPU).expect("it is there");
    (dpu.kind, dpu.attached_to) = (NodeKind::Dpu, Some(OTHER));
    control.code = Some(Code { data: 2, parity: 1 });
    control.tenants.insert(TenantId(7), tenant(7));
    for (chain, at) in [(ActorId::data(TenantId(7), HERE), HERE), (CHAIN, DPU)] {
        control.assignments.insert(chain, Assignment::new(chain, at, Epoch(1)));
    }
    control.wishes.insert(Scope::Mesh, Wish { preference: Preference::PreferDpu, pin: None });
    control
}

fn able() -> Arc<Ability> {
    let functions = ["policy", "compress", "encrypt", "erasure"].map(|kind| (kind.to_owned(), (0, 0))).into();
    Arc::new(Ability { functions, millicores: 8000, memory_bytes: 1 << 30 })
}

/// A beat of a node that is able to run chains and sees all drives, changed in one way.
fn says(node: u64, version: u64, sees: &[u64], how: impl FnOnce(&mut NodeReport)) -> Arc<Beat> {
    let mut said = NodeReport { ability: able(), drives_up: 3, ..report(node) };
    if said.node == DPU {
        (said.kind, said.attached_to) = (NodeKind::Dpu, Some(OTHER));
    }
    how(&mut said);
    let mut beat = (*introduces(said, version)).clone();
    let news = beat.news.as_deref().expect("just put there").clone();
    let sees = sees.iter().copied().map(NodeId).collect();
    beat.news = Some(Arc::new(News { sees, ..news }));
    Arc::new(beat)
}

/// The leader, which has known the host and its DPU for some time.
fn room_with_dpu() -> (Room, [Arc<Beat>; 2]) {
    let mut room = Room::new(with_dpu());
    room.steward.here.ability = able();
    let beats = [2, 12].map(|node| says(node, 1, &[1, 2, 12], |_| {}));
    hears(&mut room, &beats);
    room.on(Event::Ended(Key::Peers, Ok(())));
    assert_eq!(looks(&mut room, leading()), ["plan"]);
    goes_on(&mut room, 2500, &beats);
    (room, beats)
}

fn hears(room: &mut Room, beats: &[Arc<Beat>]) {
    beats.iter().for_each(|beat| drop(room.on(Event::Heard(beat.clone(), room.now))));
}

/// Time passes in which these beat, and nothing is wanted.
fn goes_on(room: &mut Room, millis: u64, beats: &[Arc<Beat>]) {
    for _ in 0..millis / 50 {
        room.passes(50);
        hears(room, beats);
        let wanted = looks(room, leading());
        assert!(wanted.is_empty() || wanted == ["plan"], "{wanted:?}");
    }
}

/// A plan is made of what is now, whatever is new.
fn plans(room: &mut Room) {
    room.passes(1);
    room.on(Event::Control(room.steward.control.clone()));
    assert_eq!(looks(room, leading()), ["plan"]);
}

/// What the leader wants by the next look.
fn next(room: &mut Room) -> Vec<String> {
    room.passes(1);
    looks(room, leading())
}

/// What the leader wants by a look, but for what runs on itself. What it plans it is told at once.
fn looks(room: &mut Room, own: Observed) -> Vec<String> {
    let acts = room.steward.on(Event::Observed(Box::new(own)), room.now);
    assert_eq!(room.steward.check(room.now), Ok(()));
    let mut wanted = Vec::new();
    for act in acts {
        match act {
            Act::Plan(study) => {
                wanted.push("plan".to_owned());
                assert_eq!(room.on(Event::Planned(Box::new(study.carry_out()))), [""; 0]);
            }
            Act::Step(actor, _, Ask::Propose(MeshCommand::Assign(row))) => {
                wanted.push(format!("{} to {} under {}", ActorName(actor), row.node, row.epoch));
            }
            Act::Step(actor, _, Ask::Propose(MeshCommand::BeginMove { to, .. })) => {
                wanted.push(format!("{} moves to {to}", ActorName(actor)));
            }
            Act::Beat(..) | Act::Actor(..) => {}
            other => wanted.push(format!("{other:?}")),
        }
    }
    wanted
}

#[test]
fn every_tenant_has_a_chain_at_every_host_also_where_it_had_one_before() {
    let mut room = Room::new(mesh(&[1]));
    let mut control = mesh(&[1]);
    let mut places = |control: &mut ControlView| {
        room.passes(1);
        room.on(Event::Control(Arc::new(control.clone())));
        let acts = room.steward.on(Event::Observed(Box::new(leading())), room.now);
        let mut placed = Vec::new();
        for act in acts {
            match act {
                Act::Plan(study) => drop(room.on(Event::Planned(Box::new(study.carry_out())))),
                Act::Step(actor, number, Ask::Propose(MeshCommand::Assign(row))) => {
                    placed.push((ActorName(actor).to_string(), row.node.0));
                    control.assignments.insert(actor, row);
                    room.on(Event::Stepped(actor, number, Heard::Proposed(Ok(MetaAnswer::Done))));
                }
                _ => {}
            }
        }
        placed
    };
    let places_of = |of: &[(&str, u64)]| of.iter().map(|(name, node)| ((*name).to_owned(), *node)).collect::<Vec<_>>();
    assert_eq!(places(&mut control), []);
    control.tenants.insert(TenantId(7), tenant(7));
    assert_eq!(places(&mut control), places_of(&[("chain-7-1", 1)]));
    assert_eq!(places(&mut control), []);
    control.tenants.insert(TenantId(8), tenant(8));
    assert_eq!(places(&mut control), places_of(&[("chain-8-1", 1)]));
    assert_eq!(places(&mut control), []);
    control.nodes.insert(NodeId(3), host(3));
    assert_eq!(places(&mut control), places_of(&[("chain-7-3", 3), ("chain-8-3", 3)]));
    assert_eq!(places(&mut control), []);
    control.assignments.remove(&ActorId::data(TenantId(8), NodeId(3)));
    assert_eq!(places(&mut control), places_of(&[("chain-8-3", 3)]));
}

#[test]
fn a_place_that_was_not_given_is_asked_for_again_though_nothing_is_new() {
    let mut control = mesh(&[1]);
    control.tenants.insert(TenantId(7), tenant(7));
    let mut room = Room::new(control);
    let (asks, chain) = ("chain-7-1 to node-1 under e1", ActorId::data(TenantId(7), HERE));
    assert_eq!(looks(&mut room, leading()), [asks, "plan"]);
    let failed = || Heard::Proposed(Err(Error::new(ErrorKind::Timeout, "as planned")));
    room.on(Event::Stepped(chain, 1, failed()));
    assert_eq!(next(&mut room), ["plan"], "it would fail again");
    room.passes(1000);
    assert_eq!(looks(&mut room, leading()), [asks, "plan"]);
}

/// Nothing that comes in at its host reaches what runs there.
#[test]
fn a_chain_is_taken_at_once_from_a_dpu_that_its_host_does_not_see_by_a_leader_that_is_followed() {
    let (mut room, [_, dpu]) = room_with_dpu();
    let beats = [says(2, 2, &[1, 2], |_| {}), dpu];
    hears(&mut room, &beats);
    plans(&mut room);
    goes_on(&mut room, 950, &beats);
    plans(&mut room);
    assert!(room.steward.outlook().estranged.is_empty());
    room.passes(49);
    hears(&mut room, &beats);
    assert_eq!(next(&mut room), ["plan"], "it has said so for a second");
    let known = |room: &Room| {
        let known = room.steward.outlook();
        (known.estranged.iter().copied().collect::<Vec<_>>(), (*known.estranged_at).clone())
    };
    assert_eq!(known(&room), (vec![DPU], [(DPU, room.now)].into()));
    assert_eq!(next(&mut room), ["Confirm"]);
    assert_eq!(known(&room), (vec![DPU], [(DPU, room.now)].into()), "it is so still");
    room.on(Event::Ended(Key::Confirm, Ok(())));
    assert_eq!(next(&mut room), ["chain-7-2 to node-2 under e2"]);
    // Who does not lead any more says nothing of that.
    let own = group(1, &[1, 2]);
    let led = Group { report: GroupReport { leader: Some(OTHER), ..own.report }, ..group(1, &[1, 2]) };
    assert_eq!(looks(&mut room, Observed { groups: vec![led], ..Observed::default() }), [""; 0]);
    assert_eq!(known(&room), (vec![], [].into()));
}

#[test]
fn a_chain_moves_home_at_once_and_live_from_a_dpu_that_does_not_see_the_drives() {
    let (mut room, [host, _]) = room_with_dpu();
    let beats = [host, says(12, 2, &[1, 2, 12], |said| said.drives_up = 2)];
    hears(&mut room, &beats);
    plans(&mut room);
    goes_on(&mut room, 450, &beats);
    plans(&mut room);
    assert!(room.steward.outlook().blind.is_empty());
    room.passes(49);
    hears(&mut room, &beats);
    assert_eq!(next(&mut room), ["plan"], "it has said so for half a second");
    let known = |room: &Room| {
        let known = room.steward.outlook();
        (known.blind.iter().copied().collect::<Vec<_>>(), (*known.blind_at).clone())
    };
    assert_eq!(known(&room), (vec![DPU], [(DPU, room.now)].into()));
    assert_eq!(next(&mut room), ["chain-7-2 moves to node-2"], "nobody has to be asked for that");
    assert_eq!(known(&room), (vec![DPU], [(DPU, room.now)].into()), "it is so still");
    hears(&mut room, &[says(12, 3, &[1, 2, 12], |_| {})]);
    let last = room.now;
    next(&mut room);
    assert_eq!(known(&room), (vec![], [(DPU, last)].into()));
}

/// There is nothing that could be moved live.
#[test]
fn a_chain_that_its_dpu_has_started_in_vain_is_given_to_its_host() {
    let (mut room, _) = room_with_dpu();
    hears(&mut room, &[says(12, 2, &[1, 2, 12], |said| said.unable = vec![(CHAIN, Epoch(1))])]);
    assert_eq!(next(&mut room), ["plan"]);
    assert_eq!(next(&mut room), ["Confirm"]);
    room.on(Event::Ended(Key::Confirm, Ok(())));
    assert_eq!(next(&mut room), ["chain-7-2 to node-2 under e2"]);
}

#[test]
fn what_a_chain_is_asked_to_do_and_when_it_moved_is_known_while_there_is_one() {
    let chain = ActorId::data(TenantId(7), HERE);
    let counts = |requests| {
        let actors = vec![ActorReport { requests, ..runs(chain, 2) }];
        Observed { actors, ..leading() }
    };
    let (mut room, study) = plans_without_its_dpu();
    room.on(Event::Planned(Box::new(study.carry_out())));
    assert_eq!(looks(&mut room, counts(100)), ["Confirm"]);
    room.on(Event::Ended(Key::Confirm, Ok(())));
    assert_eq!(looks(&mut room, counts(100)), ["chain-7-1 to node-1 under e2"]);
    room.on(Event::Stepped(chain, 1, Heard::Proposed(Ok(MetaAnswer::Done))));
    room.on(Event::Control(Arc::new(split_mesh(HERE, 2))));
    let moved = room.now;
    let known = |room: &Room| {
        let known = room.steward.outlook();
        let loads = known.loads.iter().map(|(actor, load)| (*actor, load.requests_per_s)).collect::<Vec<_>>();
        (loads, known.moved_at.iter().map(|(actor, at)| (*actor, *at)).collect::<Vec<_>>())
    };
    looks(&mut room, counts(100));
    assert_eq!(known(&room), (vec![], vec![(chain, moved)]));
    room.passes(2000);
    looks(&mut room, counts(300));
    room.passes(1000);
    looks(&mut room, counts(300));
    assert_eq!(known(&room), (vec![(chain, 100)], vec![(chain, moved)]));
    // Its tenant is gone.
    room.on(Event::Control(Arc::new(mesh(&[1, 2]))));
    looks(&mut room, leading());
    assert_eq!(known(&room), (vec![], vec![]));
}
