use mesh_core::{
    assignment::{Assignment, MoveId, Scope},
    id::NodeId,
    limits::CUSTOM_STAGES_MAX,
    meta::{ControlView, Level},
    spec::CustomSpec,
};

use super::{control::furnished, *};

const CHAIN: ActorId = ActorId::data(TENANT, NodeId(1));

fn set(scope: Scope, kinds: &[(&str, &str)]) -> MeshCommand {
    let stages = kinds.iter().map(|(kind, settings)| CustomSpec::new(*kind, settings.as_bytes())).collect();
    MeshCommand::SetStages { scope, stages }
}

fn view(group: &Group) -> Arc<ControlView> {
    match group.query(&Query::Control) {
        Ok(MetaAnswer::Control(view)) => view,
        other => panic!("{other:?}"),
    }
}

fn kinds(group: &Group) -> Vec<String> {
    view(group).stages_of(TENANT).map(|stage| stage.kind.to_string()).collect()
}

/// The epoch of the tenant's chain, its moves, and where it is moving.
fn place(group: &Group) -> (u64, u64, Option<NodeId>) {
    let row = view(group).assignments[&CHAIN];
    (row.epoch.0, row.moves.0, row.moving)
}

fn with_a_chain() -> Group {
    let mut group = furnished();
    let row = Assignment::new(CHAIN, NodeId(1), Epoch(1));
    assert_eq!(group.apply(&MeshCommand::Assign(row)), Ok(MetaAnswer::Epoch(Epoch(1))));
    group
}

#[test]
fn the_mesh_s_functions_come_before_the_tenant_s_own() {
    let mut group = with_a_chain();
    assert_eq!(group.apply(&set(Scope::Tenant(TENANT), &[("own", "")])), Ok(MetaAnswer::Done));
    assert_eq!(group.apply(&set(Scope::Mesh, &[("first", ""), ("second", "")])), Ok(MetaAnswer::Done));
    assert_eq!(kinds(&group), ["first", "second", "own"]);
    assert_eq!(group.apply(&set(Scope::Mesh, &[])), Ok(MetaAnswer::Done));
    assert_eq!(kinds(&group), ["own"]);
}

#[test]
fn a_chain_of_other_functions_begins_anew_and_its_move_ends() {
    let mut group = with_a_chain();
    let begin = MeshCommand::BeginMove { actor: CHAIN, epoch: Epoch(1), id: MoveId(1), to: NodeId(2) };
    assert_eq!(group.apply(&begin), Ok(MetaAnswer::Done));
    assert_eq!(group.apply(&set(Scope::Mesh, &[("filter", "a")])), Ok(MetaAnswer::Done));
    assert_eq!(place(&group), (2, 2, None));
    assert_eq!(view(&group).assignments[&CHAIN].since, MoveId(2), "it did not come by the move");
    let commit = MeshCommand::CommitMove { actor: CHAIN, epoch: Epoch(1), id: MoveId(1) };
    assert_eq!(group.apply(&commit), Err(ErrorKind::Conflict));

    // Other settings are told to the function that is there.
    assert_eq!(group.apply(&set(Scope::Mesh, &[("filter", "b")])), Ok(MetaAnswer::Done));
    assert_eq!(place(&group), (2, 2, None));
    assert_eq!(group.apply(&set(Scope::Mesh, &[])), Ok(MetaAnswer::Done));
    assert_eq!(place(&group), (3, 3, None));
}

#[test]
fn chains_begin_anew_once_when_the_mesh_s_own_functions_become_more() {
    let mut group = with_a_chain();
    let begin = MeshCommand::BeginMove { actor: CHAIN, epoch: Epoch(1), id: MoveId(1), to: NodeId(2) };
    assert_eq!(group.apply(&MeshCommand::RaiseLevel(Level::LEAVES)), Ok(MetaAnswer::Done));
    assert_eq!(group.apply(&begin), Ok(MetaAnswer::Done));
    assert_eq!(place(&group), (1, 1, Some(NodeId(2))), "they are made of the same");
    for _ in 0..2 {
        assert_eq!(group.apply(&MeshCommand::RaiseLevel(Level::COMPRESS)), Ok(MetaAnswer::Done));
        assert_eq!(place(&group), (2, 2, None));
    }
}

#[test]
fn another_tenant_s_functions_do_not_concern_a_chain() {
    let mut group = with_a_chain();
    assert_eq!(group.apply(&set(Scope::Tenant(TenantId(9)), &[("filter", "")])), Err(ErrorKind::NotFound));
    let other = Assignment::new(ActorId::data(TenantId(9), NodeId(1)), NodeId(1), Epoch(1));
    assert_eq!(group.apply(&MeshCommand::Assign(other)), Ok(MetaAnswer::Epoch(Epoch(1))));
    assert_eq!(group.apply(&set(Scope::Tenant(TENANT), &[("filter", "")])), Ok(MetaAnswer::Done));
    assert_eq!((place(&group).0, view(&group).assignments[&other.actor].epoch), (2, Epoch(1)));
}

#[test]
fn a_kind_stands_in_a_chain_once_and_declarations_have_limits() {
    let mut group = with_a_chain();
    assert_eq!(group.apply(&set(Scope::Mesh, &[("filter", ""), ("filter", "")])), Err(ErrorKind::Conflict));
    assert_eq!(group.apply(&set(Scope::Mesh, &[("filter", "")])), Ok(MetaAnswer::Done));
    assert_eq!(group.apply(&set(Scope::Tenant(TENANT), &[("filter", "")])), Err(ErrorKind::Conflict));
    // Whichever was declared first.
    let mut other = with_a_chain();
    assert_eq!(other.apply(&set(Scope::Tenant(TENANT), &[("filter", "")])), Ok(MetaAnswer::Done));
    assert_eq!(other.apply(&set(Scope::Mesh, &[("filter", "")])), Err(ErrorKind::Conflict));
    assert_eq!(group.apply(&set(Scope::Tenant(TENANT), &[("policy", "")])), Err(ErrorKind::Invalid));
    assert_eq!(group.apply(&set(Scope::Actor(CHAIN), &[("own", "")])), Err(ErrorKind::Invalid));
    let names: Vec<String> = (0..=CUSTOM_STAGES_MAX).map(|number| format!("own-{number}")).collect();
    let many: Vec<_> = names.iter().map(|name| (name.as_str(), "")).collect();
    assert_eq!(group.apply(&set(Scope::Tenant(TENANT), &many)), Err(ErrorKind::Invalid));
    assert_eq!(group.apply(&set(Scope::Tenant(TENANT), &many[1..])), Ok(MetaAnswer::Done));
}
