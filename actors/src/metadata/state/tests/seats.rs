//! Drives that take the place of others.

use mesh_core::{
    ErrorKind,
    id::{DriveId, Epoch, Incarnation, NodeId},
    meta::{Command, Level, MeshCommand, MetaAnswer},
    topology::Leaving,
};

use super::{
    Group,
    control::{control_view, furnished, node},
};

fn take(drive: u64, instead_of: u64) -> MeshCommand {
    MeshCommand::TakeDrive {
        drive: DriveId(drive),
        node: NodeId(1),
        start: Incarnation(1),
        capacity_bytes: 10,
        after: Epoch(0),
        instead_of: Some(DriveId(instead_of)),
    }
}

/// Each drive with its seat and whether it leaves, of node 1.
fn seats(group: &Group) -> Vec<(u64, u64, Option<Leaving>)> {
    let view = control_view(group);
    let of_node = view.drives.values().filter(|drive| drive.node == NodeId(1));
    of_node.map(|drive| (drive.id.0, drive.seat().0, view.leaving.get(&drive.id).copied())).collect()
}

fn ready() -> Group {
    let mut group = furnished();
    assert_eq!(group.apply(&take(11, 1)), Err(ErrorKind::Unsupported), "the mesh is of the first level");
    assert_eq!(group.apply(&MeshCommand::RaiseLevel(Level::SEATS)), Ok(MetaAnswer::Done));
    group
}

#[test]
fn a_drive_takes_the_place_of_another_which_is_emptied() {
    let mut group = ready();
    assert_eq!(seats(&group), [(1, 1, None)]);
    for _ in 0..2 {
        assert_eq!(group.once(&take(11, 1)), Ok(MetaAnswer::Epoch(Epoch(1))));
        assert_eq!(seats(&group), [(1, 1, Some(Leaving::Asked)), (11, 1, None)]);
    }
    // The next one has the same place, and so on; each is replaced once.
    assert_eq!(group.once(&take(12, 1)), Err(ErrorKind::Conflict), "11 has its place");
    assert_eq!(group.once(&take(12, 11)), Ok(MetaAnswer::Epoch(Epoch(1))));
    assert_eq!(seats(&group), [(1, 1, Some(Leaving::Asked)), (11, 1, Some(Leaving::Asked)), (12, 1, None)]);
    // Its next start keeps it.
    let again = MeshCommand::TakeDrive {
        drive: DriveId(12),
        node: NodeId(1),
        start: Incarnation(1),
        capacity_bytes: 10,
        after: Epoch(1),
        instead_of: None,
    };
    assert_eq!(group.once(&again), Ok(MetaAnswer::Epoch(Epoch(2))));
    assert_eq!(seats(&group)[2], (12, 1, None));
    assert_eq!(Command::from(again).level(), Level::FIRST);
    assert_eq!(Command::from(take(12, 1)).level(), Level::SEATS);
}

#[test]
fn what_would_be_less_than_before_takes_no_place() {
    let mut group = ready();
    let other = |change: fn(&mut DriveId, &mut NodeId, &mut u64)| {
        let (mut drive, mut node, mut capacity_bytes) = (DriveId(11), NodeId(1), 10);
        change(&mut drive, &mut node, &mut capacity_bytes);
        let (start, after, instead_of) = (Incarnation(1), Epoch(0), Some(DriveId(1)));
        MeshCommand::TakeDrive { drive, node, start, capacity_bytes, after, instead_of }
    };
    assert_eq!(group.once(&other(|_, node, _| *node = NodeId(2))), Err(ErrorKind::Conflict), "another node's");
    assert_eq!(group.once(&other(|_, _, bytes| *bytes = 9)), Err(ErrorKind::Conflict), "it is smaller");
    assert_eq!(group.once(&take(11, 99)), Err(ErrorKind::NotFound));
    assert_eq!(seats(&group), [(1, 1, None)], "nothing of it has any effect");
    // Of one that is lost it gets the place, and nothing is to be emptied.
    assert_eq!(group.once(&MeshCommand::LoseDrive { drive: DriveId(1) }), Ok(MetaAnswer::Done));
    assert_eq!(group.once(&take(11, 1)), Ok(MetaAnswer::Epoch(Epoch(1))));
    assert_eq!(seats(&group), [(11, 1, None)]);
}

#[test]
fn only_one_drive_of_a_place_is_ever_used() {
    let mut group = ready();
    let drain = |drive, draining| MeshCommand::DrainDrive { drive: DriveId(drive), draining };
    let put = |drive, out| MeshCommand::PutOut { drives: vec![DriveId(drive)], out };
    assert_eq!(group.once(&take(11, 1)), Ok(MetaAnswer::Epoch(Epoch(1))));
    assert_eq!(group.once(&drain(1, false)), Err(ErrorKind::Conflict), "11 has its place");
    // The new one is away: the old one may be used again, and then it is not.
    assert_eq!(group.once(&put(11, true)), Ok(MetaAnswer::Done));
    assert_eq!(group.once(&drain(1, false)), Ok(MetaAnswer::Done));
    assert_eq!(seats(&group), [(1, 1, None), (11, 1, Some(Leaving::Away))]);
    assert_eq!(group.once(&put(11, false)), Ok(MetaAnswer::Done));
    assert_eq!(seats(&group), [(1, 1, None), (11, 1, Some(Leaving::Asked))]);
    assert_eq!(group.once(&drain(11, false)), Err(ErrorKind::Conflict), "1 is used");
    // A node that leaves and stays has the last of them.
    assert_eq!(group.apply(&MeshCommand::PutNode(node(4, 1))), Ok(MetaAnswer::Done));
    let leave = |leaving| MeshCommand::LeaveNode { node: NodeId(1), leaving };
    for (leaving, expected) in [
        (true, [(1, 1, Some(Leaving::Asked)), (11, 1, Some(Leaving::Asked))]),
        (false, [(1, 1, Some(Leaving::Asked)), (11, 1, None)]),
    ] {
        assert_eq!(group.once(&leave(leaving)), Ok(MetaAnswer::Done));
        assert_eq!(seats(&group), expected);
    }
    assert_eq!(group.once(&leave(true)), Ok(MetaAnswer::Done));
    assert_eq!(group.once(&take(12, 11)), Err(ErrorKind::Conflict), "the node leaves");
}
