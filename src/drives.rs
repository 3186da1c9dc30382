//! What administrators say of drives: that one is lost for good.

use std::sync::Arc;

use mesh_core::{
    Error, ErrorKind,
    happened::Happened,
    id::{DriveId, NodeId},
    meta::{ControlView, MeshCommand},
    op::LostDrive,
    topology::DriveState,
};

use crate::node::Inner;

/// Declares a drive lost, as the leader of the control group. Gives what follows from that.
///
/// # Errors
/// `NotFound` for a drive that was never registered; `Conflict` while it may yet be in use: it is up, or a node that
/// answers has a link to its node where this one has none.
pub(crate) async fn lose(node: &Arc<Inner>, control: &ControlView, drive: DriveId) -> Result<LostDrive, Error> {
    if let Some(info) = control.lost.get(&drive) {
        return Ok(LostDrive { before: true, ..said(control, drive, info.node) });
    }
    let info = control.drives.get(&drive).ok_or_else(|| {
        Error::new(ErrorKind::NotFound, "no drive of this number was ever registered; `mesh status` lists them")
            .with("drive", drive)
    })?;
    if let Some(state @ (DriveState::Up | DriveState::Full)) = node.drive_states().get(&drive) {
        let state = if *state == DriveState::Full { "full" } else { "up" };
        return Err(Error::new(
            ErrorKind::Conflict,
            "the drive is in use: only one that does not come back is lost. If it is to go, take it out of its node's \
             configuration and restart the node, then say this again",
        )
        .with("drive", drive)
        .with("node", info.node)
        .with("state", state));
    }
    let alive = node.alive();
    let witness =
        node.status().into_iter().find(|report| alive.contains(&report.node) && report.sees.contains(&info.node));
    if let Some(witness) = witness.filter(|_| !alive.contains(&info.node)) {
        return Err(Error::new(
            ErrorKind::Conflict,
            "another node has a link to the drive's node: the drive may well be up. Try again when the nodes are of one \
             mind, or stop that node",
        )
        .with("drive", drive)
        .with("node", info.node)
        .with("witness", witness.node));
    }
    node.propose(MeshCommand::LoseDrive { drive }).await?;
    node.note(Happened::DriveLost { drive, node: info.node });
    Ok(said(control, drive, info.node))
}

/// What follows from the loss of a drive.
fn said(control: &ControlView, drive: DriveId, node: NodeId) -> LostDrive {
    let drives: Vec<_> = control.drives.values().filter(|info| info.id != drive).cloned().collect();
    let nodes: Vec<_> = control.nodes.values().cloned().collect();
    let left = mesh_placement::layout::usable(&drives, &nodes).len() as u64;
    LostDrive { drive, node, before: false, left, code: control.code }
}

#[cfg(test)]
mod tests {
    use mesh_core::{
        id::Epoch,
        topology::{Code, DriveInfo},
    };

    use super::*;

    #[test]
    fn says_whether_enough_drives_are_left() {
        let info = |id| DriveInfo { id: DriveId(id), node: NodeId(id), capacity_bytes: 1, epoch: Epoch(1) };
        let drives = (1..=4).map(|id| (DriveId(id), info(id))).collect();
        let mut control = ControlView { code: Some(Code { data: 2, parity: 1 }), drives, ..ControlView::default() };
        let line =
            |control: &ControlView| said(control, DriveId(2), NodeId(2)).to_string().lines().nth(1).map(str::to_owned);
        assert_eq!(line(&control).as_deref(), Some("new objects go to the 3 drives that are left"));
        control.drives.remove(&DriveId(4));
        let few = "2 drives are left and 2+1 needs 3: there is no layout without it, and writes are refused until drives \
                    are added";
        assert_eq!(line(&control).as_deref(), Some(few));
    }
}
