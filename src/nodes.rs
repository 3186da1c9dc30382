//! What administrators say of nodes that leave: that one is to be emptied of all that it has, or is to be taken out.

use std::{collections::BTreeSet, sync::Arc};

use mesh_core::{
    Error, ErrorKind,
    audit::By,
    happened::Happened,
    id::{DriveId, GroupId, NodeId, ReplicaId},
    meta::{ControlView, Level, MeshCommand},
    op::LeavingNode,
    time::Instant,
    topology::{Departure, NodeInfo, NodeKind, voters_left},
};
use mesh_placement::steward::{
    Outlook,
    outs::{Spare, expect_apart},
};

use crate::node::Inner;

/// Has a node leave, or takes that back, as the leader of the control group.
///
/// # Errors
/// `NotFound` for who is no member; `Conflict` if something needs the node: what is stored would be less safe without its
/// drives, or would not fit (see [`Outlook::spare`]); fewer nodes would be left to vote than metadata need; or an actor would
/// have nowhere to go.
pub(crate) async fn leave(node: &Arc<Inner>, by: &By, who: NodeId, leaving: bool) -> Result<LeavingNode, Error> {
    let control = node.metadata.control();
    let info = known(&control, who)?;
    let drives: BTreeSet<DriveId> = control.drives.values().filter(|one| one.node == who).map(|one| one.id).collect();
    let stays = control.staying().filter(|one| one.node != who).count();
    let mut said = LeavingNode { node: who, leaving, drives: drives.len() as u64, left: stays as u64, used_bytes: 0 };
    if leaving {
        if info.kind == NodeKind::Host {
            voters_left(&staying_hosts(&control, &node.outlook()), who)?;
        }
        crate::admin::expect_room_for_actors(node, &control, &with_dpus(&control, who), true)?;
        let going: BTreeSet<DriveId> =
            drives.into_iter().filter(|drive| !control.leaving.contains_key(drive)).collect();
        if !going.is_empty() {
            let Spare { left, used_bytes } = node.outlook().spare(&control, &going)?;
            expect_apart(&control, &going)?;
            (said.left, said.used_bytes) = (left as u64, used_bytes);
        }
    }
    node.order(by, MeshCommand::LeaveNode { node: who, leaving }).await?;
    node.note(Happened::NodeLeaves { node: who, leaving });
    Ok(said)
}

/// Takes a node out for good, as the leader of the control group: one that was emptied, or one that is `lost`.
///
/// # Errors
/// `NotFound` for who never was a member; `Conflict` while something is on it that is nowhere else, or it is needed: see
/// [`crate::drives::expect_empty`]; or, of a lost one, while it may be in use.
pub(crate) async fn remove(
    node: &Arc<Inner>,
    by: &By,
    who: NodeId,
    lost: bool,
    deadline: Instant,
) -> Result<(), Error> {
    // It cannot be taken back: who was cut off until now misses everybody.
    node.metadata.confirm(GroupId::CONTROL).await?;
    let control = node.metadata.control();
    if control.is_out(who) {
        return Ok(());
    }
    let info = known(&control, who)?;
    let refused = |what: &'static str| Error::new(ErrorKind::Conflict, what).with("node", who);
    let (outlook, out) = (node.outlook(), with_dpus(&control, who));
    if lost {
        let voters = node.metadata.members(GroupId::CONTROL).0;
        for part in &out {
            if !is_missed(&outlook, &voters, *part)? {
                return Err(refused("the node is up: only one that does not come back is lost").with("up", part));
            }
        }
        // Its own build holds nobody back that stays.
        if let Some(behind) = control.below(Level::LEAVES).find(|node| !out.contains(node)) {
            let what = "a node runs a build that cannot take nodes out: upgrade it first";
            return Err(Error::new(ErrorKind::Unsupported, what).with("node", behind));
        }
    } else if control.departures.get(&who) != Some(&Departure::Asked) {
        let what =
            "the node is in use: empty it first, with `mesh node drain`; or, if it does not come back, say --lost";
        return Err(refused(what));
    } else if info.kind == NodeKind::Host {
        let hosts: BTreeSet<NodeId> = staying_hosts(&control, &outlook).into_iter().chain([who]).collect();
        voters_left(&hosts, who)?;
    }
    if info.kind == NodeKind::Host {
        for group in (0..=u64::from(control.namespaces)).map(GroupId) {
            expect_group_without(&outlook, &control, group, who)?;
        }
    }
    if !lost {
        for drive in control.drives.values().filter(|drive| drive.node == who) {
            crate::drives::expect_empty(node, &control, drive.id, deadline).await?;
        }
    }
    let newest = control.layouts.keys().next_back().copied().unwrap_or_default();
    node.order(by, MeshCommand::RemoveNode { node: who, empty: (!lost).then_some(newest) }).await?;
    node.note(Happened::NodeRemoved { node: who, lost });
    Ok(())
}

fn known(control: &ControlView, who: NodeId) -> Result<&NodeInfo, Error> {
    if control.is_out(who) {
        return Err(Error::new(ErrorKind::Conflict, "the node is out already, for good").with("node", who));
    }
    control.nodes.get(&who).ok_or_else(|| {
        Error::new(ErrorKind::NotFound, "no node of this number is a member of the mesh").with("node", who)
    })
}

/// The hosts that answer, and do not leave.
fn staying_hosts(control: &ControlView, known: &Outlook) -> BTreeSet<NodeId> {
    let stays = |info: &&NodeInfo| {
        info.kind == NodeKind::Host && known.is_up(info.id) && !control.departures.contains_key(&info.id)
    };
    control.nodes.values().filter(stays).map(|info| info.id).collect()
}

/// A node, and the DPUs in it.
fn with_dpus(control: &ControlView, who: NodeId) -> BTreeSet<NodeId> {
    let dpus = control.nodes.values().filter(|info| info.attached_to == Some(who)).map(|info| info.id);
    dpus.chain([who]).collect()
}

/// Refuses while a group needs a node: because it leads it, or because it votes, and those that vote besides it are no majority
/// without it. Of a group that it has no part in nothing is asked.
fn expect_group_without(known: &Outlook, control: &ControlView, group: GroupId, who: NodeId) -> Result<(), Error> {
    let refused = |what: &'static str| Error::new(ErrorKind::Conflict, what).with("group", group).with("node", who);
    let Some(led) = known.sight.led(group) else {
        return Err(refused("the metadata group has no leader that this node sees; try again in a moment"));
    };
    if led.leader == Some(who) {
        return Err(refused("the node leads the metadata group still, and gives that away; try again in a moment"));
    }
    if led.voters.iter().all(|voter| voter.node() != who) {
        return Ok(());
    }
    // Those that vote now have to agree to that, and it may be gone at once.
    let is_there = |node: NodeId| node != who && known.is_up(node) && !control.is_out(node);
    let there = led.voters.iter().filter(|voter| is_there(voter.node())).count();
    if 2 * there <= led.voters.len() {
        return Err(refused("too few of the others that vote in the metadata group are there: bring them back first"));
    }
    Ok(())
}

/// Whether a node is missed by all, as far as the leader of the control group sees that.
///
/// # Errors
/// If this node cannot tell: it has to see a majority of the group's `voters`, and no other may have a link to the node.
pub(crate) fn is_missed(known: &Outlook, voters: &BTreeSet<ReplicaId>, who: NodeId) -> Result<bool, Error> {
    let refused = |kind, what: &'static str| Err(Error::new(kind, what).with("node", who));
    let seen = voters.iter().filter(|voter| known.is_up(voter.node())).count();
    if known.looks_around || 2 * seen <= voters.len() {
        let what = "this node does not see enough of the others to tell whether it is in use; try again";
        return refused(ErrorKind::Draining, what);
    }
    if known.is_up(who) {
        return Ok(false);
    }
    known.witness_of(who).map_or(Ok(true), |witness| {
        let what = "another node has a link to the node, which may well be up then. Try again when the nodes are of one mind, or \
                    stop that node";
        Err(Error::new(ErrorKind::Conflict, what).with("node", who).with("witness", witness))
    })
}

#[cfg(test)]
mod tests {
    use mesh_core::{
        id::Incarnation,
        op::{GroupReport, NodeReport, Settled, Timeline},
    };

    use super::*;

    fn host(id: u64) -> NodeInfo {
        NodeInfo {
            id: NodeId(id),
            kind: NodeKind::Host,
            address: String::new(),
            incarnation: Incarnation(1),
            pid: 1,
            draining: false,
            attached_to: None,
            emulated: None,
            life: 1,
            invitation: 0,
            level: mesh_core::meta::LEVEL,
            location: None,
        }
    }

    #[test]
    fn metadata_keep_three_voters_where_they_have_them() {
        let refused_while = |down: u64, hosts: u64, departures: &[u64], who: u64| {
            let asked = |node: &u64| (NodeId(*node), Departure::Asked);
            let control = ControlView {
                nodes: (1..=hosts).map(|id| (NodeId(id), host(id))).collect(),
                departures: departures.iter().map(asked).collect(),
                ..ControlView::default()
            };
            let mut known = Outlook::new(NodeId(1), Instant::default());
            known.sight.alive = Arc::new((1..=hosts).map(NodeId).filter(|node| node.0 != down).collect());
            voters_left(&staying_hosts(&control, &known), NodeId(who)).err().map(|error| error.message().to_owned())
        };
        let refused = |hosts, departures: &[u64], who| refused_while(0, hosts, departures, who);
        assert_eq!(refused(4, &[], 4), None);
        assert!(refused_while(3, 4, &[], 4).is_some_and(|why| why.contains("neither could be lost")));
        assert!(refused(4, &[3], 4).is_some_and(|why| why.contains("neither could be lost")));
        assert!(refused(3, &[], 3).is_some_and(|why| why.contains("neither could be lost")));
        assert_eq!(refused(2, &[], 2), None, "one is as good as two");
        assert!(refused(1, &[], 1).is_some_and(|why| why.contains("the last host")));
        assert_eq!(refused(3, &[3], 3), None, "it leaves already");
    }

    #[test]
    fn a_group_that_needs_a_node_keeps_it() {
        let outlook = |alive: &[u64], leader: u64, voters: &[u64]| {
            let mut known = Outlook::new(NodeId(1), Instant::default());
            known.sight.alive = Arc::new(alive.iter().copied().map(NodeId).collect());
            let said = GroupReport {
                group: GroupId(1),
                replica: ReplicaId::new(NodeId(leader), 1),
                leader: Some(NodeId(leader)),
                term: 1,
                trouble: None,
                voters: voters.iter().map(|node| ReplicaId::new(NodeId(*node), 1)).collect(),
                settled: Settled::Unsaid,
                timeline: Timeline::default(),
                restored: Timeline::default(),
                is_new: false,
            };
            let report = NodeReport { node: NodeId(leader), groups: vec![said], ..NodeReport::default() };
            known.sight.reports.insert(NodeId(leader), Arc::new(report));
            known
        };
        let judged = |alive: &[u64], leader, voters: &[u64]| {
            let control = ControlView { departures: [(NodeId(7), Departure::Out)].into(), ..ControlView::default() };
            let judged = expect_group_without(&outlook(alive, leader, voters), &control, GroupId(1), NodeId(3));
            judged.err().map(|error| error.message().to_owned())
        };
        assert_eq!(judged(&[1, 2, 4], 1, &[1, 2, 4]), None);
        assert_eq!(judged(&[1, 2, 3], 1, &[1, 2, 3]), None, "two are left that are there");
        assert!(judged(&[1, 3], 1, &[1, 2, 3]).is_some_and(|why| why.contains("too few of the others")));
        assert!(judged(&[1, 2, 3], 3, &[1, 2, 3]).is_some_and(|why| why.contains("leads")));
        assert!(judged(&[1, 2], 3, &[1, 2, 3]).is_some_and(|why| why.contains("no leader")));
        assert!(
            judged(&[1, 3], 1, &[1, 3]).is_some_and(|why| why.contains("too few of the others")),
            "it has to agree"
        );
        let gone = judged(&[1, 3, 7], 1, &[1, 3, 7]);
        assert!(gone.is_some_and(|why| why.contains("too few of the others")), "one of them is out");
    }
}
