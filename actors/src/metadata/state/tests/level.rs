//! The mesh's level: when it rises, and what it refuses.

use std::sync::Arc;

use mesh_core::{
    ErrorKind,
    id::NodeId,
    meta::{BucketCommand, ControlView, Level, MeshCommand, MetaAnswer, Query},
    topology::NodeInfo,
};

use super::{
    super::{apply, level, rows::Rows},
    Group,
    control::node,
};

fn speaking(id: u64, incarnation: u64, level: u16) -> MeshCommand {
    MeshCommand::PutNode(NodeInfo { level: Level(level), ..node(id, incarnation) })
}

fn view(group: &Group) -> Arc<ControlView> {
    match group.query(&Query::Control) {
        Ok(MetaAnswer::Control(view)) => view,
        other => panic!("no view: {other:?}"),
    }
}

fn raise(level: u16) -> MeshCommand {
    MeshCommand::RaiseLevel(Level(level))
}

#[test]
fn the_level_rises_once_every_node_speaks_it_and_never_falls() {
    let mut group = Group::control();
    for id in 1..=2 {
        assert_eq!(group.apply(&speaking(id, 1, 3)), Ok(MetaAnswer::Done));
    }
    assert_eq!(group.apply(&speaking(3, 1, 1)), Ok(MetaAnswer::Done));
    assert_eq!(group.apply(&raise(2)), Err(ErrorKind::Conflict), "node-3 does not speak it");
    assert_eq!(view(&group).level, Level(1));
    assert_eq!(group.apply(&speaking(3, 2, 2)), Ok(MetaAnswer::Done));
    assert_eq!(group.apply(&raise(3)), Err(ErrorKind::Conflict));
    assert_eq!(group.apply(&raise(2)), Ok(MetaAnswer::Done));
    assert_eq!(view(&group).level, Level(2));
    // The same again, and one that comes late: no effect.
    for late in [2, 1, 0] {
        assert_eq!(group.apply(&raise(late)), Ok(MetaAnswer::Done));
        assert_eq!(view(&group).level, Level(2));
    }
}

#[test]
fn a_node_below_the_level_is_refused_with_the_reason() {
    let mut group = Group::control();
    assert_eq!(group.apply(&speaking(1, 1, 2)), Ok(MetaAnswer::Done));
    assert_eq!(group.apply(&raise(2)), Ok(MetaAnswer::Done));
    // A new one, and one that was there before with another build.
    for (id, incarnation) in [(2, 1), (1, 2)] {
        let (_, answer) = apply(&group.table, group.id, &speaking(id, incarnation, 1).into());
        let error = answer.expect_err("it is too old");
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert_eq!(
            error.to_string(),
            format!(
                "this node's build is older than what the mesh does by now: run a newer one on it \
                 [node={} level=1 needed=2]",
                NodeId(id)
            )
        );
    }
    assert_eq!(group.apply(&speaking(2, 1, 2)), Ok(MetaAnswer::Done));
    assert_eq!(group.apply(&speaking(1, 3, 7)), Ok(MetaAnswer::Done));
    assert_eq!(view(&group).nodes.len(), 2);
}

#[test]
fn what_needs_more_than_the_level_is_refused_the_same_everywhere() {
    let mut group = Group::control();
    assert_eq!(group.apply(&speaking(1, 1, 2)), Ok(MetaAnswer::Done));
    let expect =
        |group: &Group, needs| level::expect(&Rows::new(&group.table, group.id), Level(needs)).map_err(|e| e.kind());
    assert_eq!((expect(&group, 1), expect(&group, 2)), (Ok(()), Err(ErrorKind::Unsupported)));
    assert_eq!(group.apply(&raise(2)), Ok(MetaAnswer::Done));
    assert_eq!((expect(&group, 2), expect(&group, 3)), (Ok(()), Err(ErrorKind::Unsupported)));
}

#[test]
fn all_that_there_is_every_build_can_do() {
    let remove = BucketCommand::RemoveBucket { bucket: mesh_core::id::BucketId(1) };
    for command in [remove.into(), mesh_core::meta::Command::from(raise(9))] {
        assert_eq!(command.level(), Level::FIRST);
    }
}
