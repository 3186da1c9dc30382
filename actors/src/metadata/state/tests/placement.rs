use mesh_core::{
    assignment::{Assignment, MoveId, Preference, Scope, Tail, Wish},
    id::NodeId,
    spec::CustomSpec,
    topology::{NodeInfo, NodeKind},
};

use super::{
    control::{furnished, node},
    *,
};

const ACTOR: ActorId = ActorId(5);

fn assign(node: u64, epoch: u64) -> MeshCommand {
    MeshCommand::Assign(Assignment::new(ACTOR, NodeId(node), Epoch(epoch)))
}

fn begin(epoch: u64, id: u64, to: u64) -> MeshCommand {
    MeshCommand::BeginMove { actor: ACTOR, epoch: Epoch(epoch), id: MoveId(id), to: NodeId(to) }
}

fn commit(epoch: u64, id: u64) -> MeshCommand {
    MeshCommand::CommitMove { actor: ACTOR, epoch: Epoch(epoch), id: MoveId(id) }
}

fn abort(epoch: u64, id: u64) -> MeshCommand {
    MeshCommand::AbortMove { actor: ACTOR, epoch: Epoch(epoch), id: MoveId(id) }
}

/// Where the actor is: node, epoch, moves begun, and where it is moving.
fn place(group: &Group) -> (u64, u64, u64, Option<u64>) {
    let Ok(MetaAnswer::Control(view)) = group.query(&Query::Control) else { panic!("the control group has a view") };
    let row = view.assignments[&ACTOR];
    (row.node.0, row.epoch.0, row.moves.0, row.moving.map(|node| node.0))
}

#[test]
fn an_actor_is_assigned_only_with_the_next_epoch_and_to_a_member() {
    let mut group = furnished();
    assert_eq!(group.apply(&assign(1, 2)), Err(ErrorKind::Conflict));
    assert_eq!(group.apply(&assign(9, 1)), Err(ErrorKind::NotFound));
    assert_eq!(group.apply(&assign(1, 1)), Ok(MetaAnswer::Epoch(Epoch(1))));
    assert_eq!(group.apply(&assign(2, 1)), Err(ErrorKind::Conflict));
    assert_eq!(group.apply(&assign(2, 2)), Ok(MetaAnswer::Epoch(Epoch(2))));
    let (_, refused) = apply(&group.table, group.id, &assign(1, 1).into());
    let redirect = refused.expect_err("stale").redirect().expect("where it is now");
    assert_eq!((redirect.node, redirect.epoch), (Some(NodeId(2)), Some(Epoch(2))));
}

#[test]
fn a_move_that_is_committed_changes_node_and_epoch_at_once() {
    let mut group = furnished();
    assert_eq!(group.apply(&begin(1, 1, 2)), Err(ErrorKind::NotFound));
    assert_eq!(group.apply(&assign(1, 1)), Ok(MetaAnswer::Epoch(Epoch(1))));
    assert_eq!(group.apply(&begin(1, 1, 1)), Err(ErrorKind::Invalid));
    assert_eq!(group.apply(&begin(1, 1, 9)), Err(ErrorKind::NotFound));
    assert_eq!(group.apply(&begin(1, 2, 2)), Err(ErrorKind::Conflict));
    assert_eq!(group.apply(&begin(1, 1, 2)), Ok(MetaAnswer::Done));
    assert_eq!(place(&group), (1, 1, 1, Some(2)));
    // Another controller wants it elsewhere, and comes too late.
    assert_eq!(group.apply(&begin(1, 1, 3)), Err(ErrorKind::Conflict));
    // Nor is the next one begun while this one is under way.
    assert_eq!(group.apply(&begin(1, 2, 3)), Err(ErrorKind::Conflict));
    assert_eq!(group.apply(&commit(1, 1)), Ok(MetaAnswer::Epoch(Epoch(2))));
    assert_eq!(place(&group), (2, 2, 1, None));
    assert_eq!(group.apply(&abort(1, 1)), Err(ErrorKind::Conflict));
}

#[test]
fn a_move_that_is_aborted_leaves_the_actor_where_it_was() {
    let mut group = furnished();
    assert_eq!(group.apply(&assign(1, 1)), Ok(MetaAnswer::Epoch(Epoch(1))));
    assert_eq!(group.apply(&begin(1, 1, 2)), Ok(MetaAnswer::Done));
    assert_eq!(group.apply(&abort(1, 1)), Ok(MetaAnswer::Done));
    assert_eq!(place(&group), (1, 1, 1, None));
    assert_eq!(group.apply(&commit(1, 1)), Err(ErrorKind::Conflict));
    // A late copy of its beginning begins nothing; the next move does.
    assert_eq!(group.apply(&begin(1, 1, 2)), Err(ErrorKind::Conflict));
    assert_eq!(group.apply(&begin(1, 2, 3)), Ok(MetaAnswer::Done));
    assert_eq!(group.apply(&commit(1, 1)), Err(ErrorKind::Conflict));
    assert_eq!(group.apply(&commit(1, 2)), Ok(MetaAnswer::Epoch(Epoch(2))));
}

#[test]
fn an_owner_that_is_lost_ends_its_move() {
    let mut group = furnished();
    assert_eq!(group.apply(&assign(1, 1)), Ok(MetaAnswer::Epoch(Epoch(1))));
    assert_eq!(group.apply(&begin(1, 1, 2)), Ok(MetaAnswer::Done));
    assert_eq!(group.apply(&assign(3, 2)), Ok(MetaAnswer::Epoch(Epoch(2))));
    assert_eq!(place(&group), (3, 2, 2, None));
    assert_eq!(group.apply(&commit(1, 1)), Err(ErrorKind::Conflict));
    assert_eq!(group.apply(&abort(1, 1)), Err(ErrorKind::Conflict));
}

#[test]
fn a_tail_is_kept_until_it_is_taken_back_or_the_chain_has_another_owner() {
    const CHAIN: ActorId = ActorId::data(TENANT, NodeId(1));
    let own = |node, epoch| MeshCommand::Assign(Assignment::new(CHAIN, NodeId(node), Epoch(epoch)));
    let mut group = furnished();
    let other = MeshCommand::SetTail { actor: ACTOR, epoch: Epoch(1), tail: Some(Tail { cut: 1, node: NodeId(2) }) };
    assert_eq!(group.apply(&assign(1, 1)), Ok(MetaAnswer::Epoch(Epoch(1))));
    assert_eq!(group.apply(&other), Err(ErrorKind::Invalid), "no data chain");
    let tails = |group: &Group| match group.query(&Query::Control) {
        Ok(MetaAnswer::Control(view)) => view.tails.get(&CHAIN).map(|tail| (tail.cut, tail.node.0)),
        other => panic!("{other:?}"),
    };
    let set = |epoch, tail: Option<(u8, u64)>| {
        let tail = tail.map(|(cut, node)| Tail { cut, node: NodeId(node) });
        MeshCommand::SetTail { actor: CHAIN, epoch: Epoch(epoch), tail }
    };
    assert_eq!(group.apply(&set(1, Some((1, 2)))), Err(ErrorKind::NotFound));
    assert_eq!(group.apply(&own(1, 1)), Ok(MetaAnswer::Epoch(Epoch(1))));
    for (refused, kind) in [
        (set(1, Some((0, 2))), ErrorKind::Invalid),
        (set(1, Some((1, 1))), ErrorKind::Invalid),
        (set(1, Some((1, 9))), ErrorKind::NotFound),
        (set(2, Some((1, 2))), ErrorKind::Conflict),
    ] {
        assert_eq!((group.apply(&refused), tails(&group)), (Err(kind), None), "{refused:?}");
    }
    assert_eq!(group.apply(&set(1, Some((1, 2)))), Ok(MetaAnswer::Done));
    assert_eq!(group.apply(&set(1, Some((2, 3)))), Ok(MetaAnswer::Done));
    assert_eq!(tails(&group), Some((2, 3)));
    assert_eq!(group.apply(&set(1, None)), Ok(MetaAnswer::Done));
    assert_eq!(tails(&group), None);
    // A move, and a new owner, make the chain whole; while it moves it is left alone.
    assert_eq!(group.apply(&set(1, Some((1, 2)))), Ok(MetaAnswer::Done));
    assert_eq!(
        group.apply(&MeshCommand::BeginMove { actor: CHAIN, epoch: Epoch(1), id: MoveId(1), to: NodeId(2) }),
        Ok(MetaAnswer::Done)
    );
    assert_eq!(group.apply(&set(1, None)), Err(ErrorKind::Conflict));
    assert_eq!(tails(&group), Some((1, 2)));
    assert_eq!(
        group.apply(&MeshCommand::CommitMove { actor: CHAIN, epoch: Epoch(1), id: MoveId(1) }),
        Ok(MetaAnswer::Epoch(Epoch(2)))
    );
    assert_eq!(tails(&group), None);
    assert_eq!(group.apply(&set(2, Some((1, 3)))), Ok(MetaAnswer::Done));
    assert_eq!(group.apply(&own(3, 3)), Ok(MetaAnswer::Epoch(Epoch(3))));
    assert_eq!(tails(&group), None);
    // Other functions are cut elsewhere.
    assert_eq!(group.apply(&set(3, Some((1, 2)))), Ok(MetaAnswer::Done));
    let stages = vec![CustomSpec::new("filter", Vec::new())];
    assert_eq!(group.apply(&MeshCommand::SetStages { scope: Scope::Mesh, stages }), Ok(MetaAnswer::Done));
    assert_eq!(tails(&group), None);
}

#[test]
fn wishes_are_kept_replaced_and_taken_back() {
    let mut group = furnished();
    let set = |wish| MeshCommand::SetWish { scope: Scope::Tenant(TENANT), wish };
    let wish = Wish { preference: Preference::PreferDpu, pin: None };
    assert_eq!(group.apply(&set(Some(wish))), Ok(MetaAnswer::Done));
    assert_eq!(group.apply(&set(Some(Wish { pin: Some(NodeId(2)), ..wish }))), Ok(MetaAnswer::Done));
    assert_eq!(group.apply(&set(Some(Wish { pin: Some(NodeId(9)), ..wish }))), Err(ErrorKind::NotFound));
    let wishes = |group: &Group| match group.query(&Query::Control) {
        Ok(MetaAnswer::Control(view)) => view.wishes.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(wishes(&group).get(&Scope::Tenant(TENANT)).map(|wish| wish.pin), Some(Some(NodeId(2))));
    assert_eq!(group.apply(&set(None)), Ok(MetaAnswer::Done));
    assert!(wishes(&group).is_empty());
}

#[test]
fn a_node_that_announces_itself_again_stays_drained() {
    let mut group = furnished();
    let drain = |node, draining| MeshCommand::Drain { node: NodeId(node), draining };
    assert_eq!(group.apply(&drain(9, true)), Err(ErrorKind::NotFound));
    assert_eq!(group.apply(&drain(2, true)), Ok(MetaAnswer::Done));
    assert_eq!(group.apply(&MeshCommand::PutNode(node(2, 7))), Ok(MetaAnswer::Done));
    let draining = |group: &Group| match group.query(&Query::Control) {
        Ok(MetaAnswer::Control(view)) => view.nodes[&NodeId(2)].draining,
        other => panic!("{other:?}"),
    };
    assert!(draining(&group));
    assert_eq!(group.apply(&drain(2, false)), Ok(MetaAnswer::Done));
    assert!(!draining(&group));
}

#[test]
fn a_dpu_joins_only_under_a_host_that_is_known() {
    let mut group = furnished();
    let dpu = |host| NodeInfo { kind: NodeKind::Dpu, attached_to: Some(NodeId(host)), ..node(10, 1) };
    assert_eq!(group.apply(&MeshCommand::PutNode(dpu(9))), Err(ErrorKind::Invalid));
    assert_eq!(group.apply(&MeshCommand::PutNode(dpu(1))), Ok(MetaAnswer::Done));
}

#[test]
fn a_row_says_by_which_move_or_loss_the_actor_came_under_its_epoch() {
    let mut group = furnished();
    let since = |group: &Group| match group.query(&Query::Control) {
        Ok(MetaAnswer::Control(view)) => (view.assignments[&ACTOR].since.0, view.assignments[&ACTOR].moves.0),
        other => panic!("no view: {other:?}"),
    };
    assert!(group.apply(&assign(1, 1)).is_ok());
    assert!(group.apply(&begin(1, 1, 2)).is_ok());
    assert_eq!(since(&group), (0, 1));
    assert!(group.apply(&commit(1, 1)).is_ok());
    assert!(group.apply(&begin(2, 2, 3)).is_ok());
    assert_eq!(since(&group), (1, 2), "it is under way again");
    // Given to the very target of its move, under the very epoch.
    assert!(group.apply(&assign(3, 3)).is_ok());
    assert_eq!(since(&group), (3, 3));
}
