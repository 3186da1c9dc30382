//! What administrators say of drives: that one is to be used, maybe in the place of another, is lost for good, is to be emptied,
//! or is to be taken out.

use std::{collections::BTreeSet, sync::Arc};

use mesh_core::{
    Answer, Error, ErrorKind, Op, Request,
    audit::{By, Deed},
    happened::Happened,
    id::{ActorId, DriveId, GroupId, LayoutId, NodeId, ReplicaId},
    meta::{ControlView, Level, MeshCommand},
    op::{AddedDrive, AdminAnswer, AdminOp, DrainedDrive, LostDrive, NewMedium, NodeOp, ShardOp},
    time::Instant,
    topology::{DRIVE_IS_OUT, DriveInfo, DriveState},
};
use mesh_placement::steward::{
    Outlook,
    outs::{Spare, expect_apart},
};

use crate::{
    node::{Inner, ask_node, media},
    nodes::is_missed,
};

/// Declares a drive lost, as the leader of the control group. Gives what follows from that.
///
/// # Errors
/// `NotFound` for a drive that was never registered; `Conflict` while it may yet be in use: it is up, or a node that
/// answers has a link to its node where this one has none; `NotLeader`, `Timeout`, `Draining` where this node cannot tell: no
/// majority follows it or is seen by it, or it has just begun to listen.
pub(crate) async fn lose(node: &Arc<Inner>, by: &By, drive: DriveId) -> Result<LostDrive, Error> {
    // It cannot be taken back: who was cut off until now misses everybody, and is asked by nobody else.
    node.metadata.confirm(GroupId::CONTROL).await?;
    let control = node.metadata.control();
    if let Some(info) = control.lost.get(&drive) {
        return Ok(LostDrive { before: true, ..said(&control, drive, info.node) });
    }
    let info = control.drives.get(&drive).ok_or_else(|| {
        Error::new(ErrorKind::NotFound, "no drive of this number was ever registered; `mesh status` lists them")
            .with("drive", drive)
    })?;
    let voters = node.metadata.members(GroupId::CONTROL).0;
    expect_lost(&node.outlook(), &voters, info)?;
    node.order(by, MeshCommand::LoseDrive { drive }).await?;
    node.note(Happened::DriveLost { drive, node: info.node });
    Ok(said(&control, drive, info.node))
}

/// Empties a drive, or takes that back, as the leader of the control group.
///
/// # Errors
/// `NotFound` for a drive that was never registered; `Conflict` if what is stored would be less safe without it, or would not
/// fit: see [`Outlook::spare`] and [`expect_apart`].
pub(crate) async fn drain(node: &Arc<Inner>, by: &By, drive: DriveId, draining: bool) -> Result<DrainedDrive, Error> {
    let control = node.metadata.control();
    let info = known(&control, drive)?;
    let Spare { left, used_bytes } = if draining {
        expect_apart(&control, &[drive].into())?;
        node.outlook().spare(&control, &[drive].into())?
    } else {
        Spare { left: control.staying().filter(|other| other.id != drive).count() + 1, used_bytes: 0 }
    };
    node.order(by, MeshCommand::DrainDrive { drive, draining }).await?;
    node.note(Happened::DriveDrained { drive, node: info.node, draining });
    Ok(DrainedDrive { drive, draining, left: left as u64, used_bytes })
}

/// Has a node use another drive, as the leader of the control group.
///
/// # Errors
/// `NotFound` for a node that is no member; what the node says of the medium.
pub(crate) async fn add(
    node: &Arc<Inner>,
    by: &By,
    (at, medium, instead_of): (NodeId, NewMedium, Option<DriveId>),
    deadline: Instant,
) -> Result<AddedDrive, Error> {
    if !node.metadata.control().nodes.contains_key(&at) {
        let what = "no node of this number is a member of the mesh";
        return Err(Error::new(ErrorKind::NotFound, what).with("node", at));
    }
    // What nobody could open is not noted as ordered.
    media::expect_path(&medium.path)?;
    node.have_noted(by, Deed::DriveOrdered { node: at, path: medium.path.clone(), instead_of }).await?;
    let added = if at == node.id {
        media::add(node, medium, instead_of, deadline).await?
    } else {
        let left = deadline.after(node.env.clock.now());
        let op = NodeOp::Admin(Box::new(AdminOp::OpenDrive { medium, instead_of }));
        match ask_node(node, at, Op::Node(Box::new(op)), left).await?.answer {
            Answer::Admin(answer) if let AdminAnswer::Added(added) = *answer => added,
            _ => return Err(Error::bug("a node answered with something else than was asked").with("node", at)),
        }
    };
    node.note(Happened::DriveAdded { drive: added.drive, node: at, instead_of });
    Ok(added)
}

/// Has the node of a drive use another one in its place, as the leader of the control group.
///
/// # Errors
/// `NotFound` for a drive that was never registered; as [`add`].
pub(crate) async fn replace(
    node: &Arc<Inner>,
    by: &By,
    drive: DriveId,
    medium: NewMedium,
    deadline: Instant,
) -> Result<AddedDrive, Error> {
    let control = node.metadata.control();
    control.can(Level::SEATS)?;
    let info = control.lost.get(&drive).map_or_else(|| known(&control, drive), Ok)?;
    add(node, by, (info.node, medium, Some(drive)), deadline).await
}

fn known(control: &ControlView, drive: DriveId) -> Result<&DriveInfo, Error> {
    if control.lost.contains_key(&drive) {
        return Err(Error::new(ErrorKind::Conflict, DRIVE_IS_OUT).with("drive", drive));
    }
    control.drives.get(&drive).ok_or_else(|| {
        Error::new(ErrorKind::NotFound, "no drive of this number was ever registered; `mesh status` lists them")
            .with("drive", drive)
    })
}

/// Takes a drive out that has been emptied, as the leader of the control group.
///
/// # Errors
/// As [`expect_empty`].
pub(crate) async fn remove(node: &Arc<Inner>, by: &By, drive: DriveId, deadline: Instant) -> Result<(), Error> {
    node.metadata.confirm(GroupId::CONTROL).await?;
    let control = node.metadata.control();
    let info = known(&control, drive)?;
    let layout = expect_empty(node, &control, drive, deadline).await?;
    node.order(by, MeshCommand::RemoveDrive { drive, layout }).await?;
    node.note(Happened::DriveRemoved { drive, node: info.node });
    Ok(())
}

/// Refuses while something is on a drive. Gives the layout for which it is not.
///
/// # Errors
/// `NotFound` for a drive that was never registered; `Conflict` while something is on it, be it of a write under way, or may be
/// that is nowhere else: it was not emptied, it does not answer, or some group has not counted everything where a layout
/// without it has it.
pub(crate) async fn expect_empty(
    node: &Arc<Inner>,
    control: &ControlView,
    drive: DriveId,
    deadline: Instant,
) -> Result<LayoutId, Error> {
    let layout = expect_laid_out_without(control, drive)?;
    let refused = |what: &'static str| Error::new(ErrorKind::Conflict, what).with("drive", drive);
    let groups = crate::repair::states(node, deadline).await;
    if let Some(group) = groups.iter().find(|group| !group.is_whole() || group.newest != layout) {
        let what = "not everything has been counted elsewhere yet; `mesh repair` shows how far that is";
        return Err(refused(what).with("group", group.group));
    }
    // Writes that began under an earlier layout go on by that one: no group knows of them before they end.
    let request = Request::system(ShardOp::Stat, deadline);
    match node.host.request(ActorId::drive(drive), request).await.map(|response| response.answer) {
        Ok(Answer::Drive { shards: 0, .. }) => {}
        Ok(Answer::Drive { shards, .. }) => {
            let what = "shards are on the drive yet: of writes under way, of what was deleted and is kept for the grace, or of \
                        what was written before level 2 of the mesh, which is moved nowhere; try again later";
            return Err(refused(what).with("shards", shards));
        }
        Ok(_) => return Err(Error::bug("a drive answered with something else than was asked")),
        Err(error) => {
            let what = "the drive does not answer, so nobody knows what is on it: bring it back, or say `mesh drive remove --lost` of it";
            return Err(refused(what).with("cause", error));
        }
    }
    Ok(layout)
}

/// Refuses unless a drive leaves, and the newest layout, which this gives, has nothing to do with it.
fn expect_laid_out_without(control: &ControlView, drive: DriveId) -> Result<LayoutId, Error> {
    let refused = |what| Err(Error::new(ErrorKind::Conflict, what).with("drive", drive));
    if !control.leaving.contains_key(&drive) {
        return refused(
            "the drive is in use: empty it first, with `mesh drive drain`; or, if it does not come back, say --lost",
        );
    }
    match control.layouts.values().next_back() {
        Some(newest) if !newest.domains.contains_key(&drive) => Ok(newest.id),
        _ => refused("there is no layout without it yet; try again in a moment"),
    }
}

/// Refuses while a drive may yet be in use, as far as the leader of the control group sees that; of its `voters`, a majority
/// has to be seen.
fn expect_lost(known: &Outlook, voters: &BTreeSet<ReplicaId>, drive: &DriveInfo) -> Result<(), Error> {
    let refused = |kind, what| Error::new(kind, what).with("drive", drive.id).with("node", drive.node);
    if let Some(state @ (DriveState::Up | DriveState::Full)) = known.drives.get(&drive.id) {
        let state = if *state == DriveState::Full { "full" } else { "up" };
        let what = "the drive is in use: only one that does not come back is lost. If it is to go, empty it first, with `mesh drive drain`";
        return Err(refused(ErrorKind::Conflict, what).with("state", state));
    }
    // One that is there says itself that it has the drive no more.
    is_missed(known, voters, drive.node).map(drop).map_err(|error| error.with("drive", drive.id))
}

/// What follows from the loss of a drive.
fn said(control: &ControlView, drive: DriveId, node: NodeId) -> LostDrive {
    let drives: Vec<_> = control.staying().filter(|info| info.id != drive).cloned().collect();
    let left = mesh_placement::layout::usable(&drives).len() as u64;
    LostDrive { drive, node, before: false, left, code: control.all_codes().max_by_key(|code| code.shards()) }
}

#[cfg(test)]
mod tests {
    use mesh_core::{
        id::Epoch,
        op::NodeReport,
        topology::{Code, Layout, Leaving},
    };

    use super::*;

    /// Node 1, which sees these.
    fn outlook(alive: &[u64]) -> Outlook {
        let mut known = Outlook::new(NodeId(1), Instant::default());
        known.looks_around = false;
        known.sight.alive = Arc::new(alive.iter().copied().map(NodeId).collect());
        known
    }

    fn judged(known: &Outlook) -> Result<(), ErrorKind> {
        let voters = (1..=3).map(|node| ReplicaId::new(NodeId(node), 1)).collect();
        let drive = DriveInfo { id: DriveId(2001), node: NodeId(2), capacity_bytes: 1, epoch: Epoch(1), seat: None };
        expect_lost(known, &voters, &drive).map_err(|error| error.kind())
    }

    #[test]
    fn a_drive_that_may_be_in_use_is_not_lost() {
        let state = |alive: &[u64], state| {
            let mut known = outlook(alive);
            known.drives.insert(DriveId(2001), state);
            judged(&known)
        };
        assert_eq!(state(&[1, 2, 3], DriveState::Up), Err(ErrorKind::Conflict));
        assert_eq!(state(&[1, 2, 3], DriveState::Full), Err(ErrorKind::Conflict));
        assert_eq!(state(&[1, 2, 3], DriveState::Down), Ok(()), "its node says that it has it no more");
        assert_eq!(state(&[1, 3], DriveState::Down), Ok(()));
        // Who sees no majority of the voters knows of nobody whether it is down; nor who has not listened yet.
        assert_eq!(state(&[1], DriveState::Down), Err(ErrorKind::Draining));
        let known = Outlook { looks_around: true, ..outlook(&[1, 3]) };
        assert_eq!(judged(&known), Err(ErrorKind::Draining));
        // Another has a link to its node.
        let mut known = outlook(&[1, 3]);
        let sees = |node| NodeReport { node: NodeId(node), sees: vec![NodeId(2)], ..NodeReport::default() };
        known.sight.reports.insert(NodeId(3), Arc::new(sees(3)));
        assert_eq!(judged(&known), Err(ErrorKind::Conflict));
        known.sight.alive = Arc::new([NodeId(1), NodeId(2), NodeId(3)].into());
        assert_eq!(judged(&known), Ok(()), "its node is seen here, without the drive");
        // Who has that link answers no more.
        let mut known = outlook(&[1, 3]);
        known.sight.reports.insert(NodeId(4), Arc::new(sees(4)));
        assert_eq!(judged(&known), Ok(()));
    }

    #[test]
    fn says_whether_enough_drives_are_left() {
        let info = |id| DriveInfo { id: DriveId(id), node: NodeId(id), capacity_bytes: 1, epoch: Epoch(1), seat: None };
        let drives = (1..=4).map(|id| (DriveId(id), info(id))).collect();
        let mut control = ControlView { code: Some(Code { data: 2, parity: 1 }), drives, ..ControlView::default() };
        let line =
            |control: &ControlView| said(control, DriveId(2), NodeId(2)).to_string().lines().nth(1).map(str::to_owned);
        assert_eq!(line(&control).as_deref(), Some("new objects go to the 3 drives that are left"));
        // A bucket's code may need more than the mesh's.
        control.codes = vec![Code { data: 1, parity: 1 }, Code { data: 3, parity: 1 }];
        let few = "3 drives are left and 3+1 needs 4: what is to be stored in that code is refused, and nothing that is lost is \
                   rebuilt, until drives are added";
        assert_eq!(line(&control).as_deref(), Some(few));
    }

    #[test]
    fn a_drive_is_taken_out_once_layouts_have_nothing_to_do_with_it() {
        let layout = |id, drives: &[u64]| {
            let domains = drives.iter().map(|drive| (DriveId(*drive), NodeId(1))).collect();
            let code = Code { data: 2, parity: 1 };
            (
                LayoutId(id),
                Arc::new(Layout {
                    id: LayoutId(id),
                    code,
                    groups: Vec::new(),
                    domains,
                    line: 1,
                    others: Vec::new(),
                    places: mesh_core::topology::Places::default(),
                    rule: mesh_core::topology::Rule::default(),
                }),
            )
        };
        let without =
            |control: &ControlView| expect_laid_out_without(control, DriveId(4)).map_err(|error| error.to_string());
        let mut control = ControlView { layouts: [layout(1, &[1, 2, 3, 4])].into(), ..ControlView::default() };
        let why = |outcome: Result<LayoutId, String>| outcome.expect_err("it is refused");
        assert!(why(without(&control)).contains("mesh drive drain"));
        control.leaving.insert(DriveId(4), Leaving::Asked);
        assert!(why(without(&control)).contains("no layout without it yet"));
        control.layouts.extend([layout(2, &[1, 2, 3])]);
        assert_eq!(without(&control), Ok(LayoutId(2)));
    }
}
