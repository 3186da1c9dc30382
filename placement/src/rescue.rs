//! What becomes of metadata groups that have lost a majority of those who kept them, by what the nodes that answer say of their
//! replicas.
//!
//! A group goes on from the replica whose log ends last among those that answer: it has all that any of them was ever
//! acknowledged for, though not what only the others have. So those must never come back: whatever voted with it and does not
//! answer is lost for good.

use std::collections::{BTreeMap, BTreeSet};

use mesh_core::{
    Error, ErrorKind,
    id::{GroupId, NodeId},
    meta::ControlView,
    op::{Fate, RecoveryPlan, ReplicaReport},
    topology::NodeKind,
};

/// What it takes for all groups to go on. `reports` are of all hosts that answer, and of nobody else.
///
/// # Errors
/// `NotFound` if no replica of the control group answers: it is restored from a backup. `Invalid` if nothing is known of the
/// mesh.
pub fn plan(control: &ControlView, reports: &BTreeMap<NodeId, Vec<ReplicaReport>>) -> Result<RecoveryPlan, Error> {
    if control.cluster.is_none() {
        return Err(Error::invalid(
            "this node knows nothing of the mesh: ask a host that has a replica of the control group",
        ));
    }
    let hosts = control.nodes.values().filter(|info| info.kind == NodeKind::Host).map(|info| info.id);
    let silent: BTreeSet<NodeId> = hosts.filter(|host| !reports.contains_key(host)).collect();
    let mut lost = BTreeSet::new();
    let mut groups = Vec::new();
    for group in (0..=u64::from(control.namespaces)).map(GroupId) {
        let fate = fate(control, reports, group, &silent, &mut lost)?;
        groups.push((group, fate));
    }
    let silent = silent.difference(&lost).copied().collect();
    Ok(RecoveryPlan { lost: lost.into_iter().collect(), silent, groups })
}

fn fate(
    control: &ControlView,
    reports: &BTreeMap<NodeId, Vec<ReplicaReport>>,
    group: GroupId,
    silent: &BTreeSet<NodeId>,
    lost: &mut BTreeSet<NodeId>,
) -> Result<Fate, Error> {
    let replicas: BTreeMap<NodeId, &ReplicaReport> = reports
        .iter()
        .filter_map(|(node, said)| Some((*node, said.iter().find(|one| one.group == group && one.is_sound)?)))
        .collect();
    if let Some((by, _)) = replicas.iter().find(|(_, replica)| replica.leads) {
        return Ok(Fate::Led { by: *by });
    }
    let ended = replicas.iter().filter_map(|(on, replica)| Some((replica.end?, core::cmp::Reverse(*on), *replica)));
    let Some((end, core::cmp::Reverse(on), best)) = ended.max_by_key(|(end, on, _)| (*end, *on)) else {
        if group == GroupId::CONTROL {
            let what = "no host that answers has a sound replica of the control group: bring one back that has, or restore a \
                        backup with `mesh metadata restore`";
            return Err(Error::new(ErrorKind::NotFound, what));
        }
        // Any of them may have had one.
        lost.extend(silent);
        let stays = |node: &&NodeId| !control.departures.contains_key(*node);
        let on = reports.keys().find(stays).or_else(|| reports.keys().next()).copied();
        let on = on.ok_or_else(|| Error::invalid("no host answers"))?;
        return Ok(Fate::Gone { on });
    };
    let answers =
        |voter: &mesh_core::id::ReplicaId| replicas.get(&voter.node()).is_some_and(|replica| replica.replica == *voter);
    let has_majority = |voters: &Vec<mesh_core::id::ReplicaId>| {
        2 * voters.iter().filter(|voter| answers(voter)).count() > voters.len()
    };
    if !best.voters.is_empty() && best.voters.iter().all(has_majority) {
        return Ok(Fate::Elects);
    }
    let voters = best.voters.iter().flatten().map(|voter| voter.node());
    lost.extend(voters.filter(|node| !reports.contains_key(node)));
    Ok(Fate::Survives { on, replica: best.replica, end })
}

#[cfg(test)]
mod tests {
    use mesh_core::{
        id::{ClusterId, Incarnation, ReplicaId},
        op::LogEnd,
        topology::NodeInfo,
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

    fn control(hosts: u64) -> ControlView {
        ControlView {
            cluster: Some(ClusterId([1; 16])),
            namespaces: 1,
            nodes: (1..=hosts).map(|id| (NodeId(id), host(id))).collect(),
            ..ControlView::default()
        }
    }

    const fn id(node: u64) -> ReplicaId {
        ReplicaId::new(NodeId(node), 7)
    }

    /// A replica of a group whose voters are these nodes.
    fn said(group: u64, node: u64, (term, index): (u64, u64), voters: &[&[u64]]) -> ReplicaReport {
        ReplicaReport {
            group: GroupId(group),
            replica: id(node),
            is_sound: true,
            leads: false,
            voters: voters.iter().map(|some| some.iter().copied().map(id).collect()).collect(),
            end: Some(LogEnd { term, index }),
        }
    }

    fn planned(hosts: u64, reports: &[(u64, Vec<ReplicaReport>)]) -> RecoveryPlan {
        let reports = reports.iter().map(|(node, said)| (NodeId(*node), said.clone())).collect();
        plan(&control(hosts), &reports).expect("a plan")
    }

    fn survives(on: u64, (term, index): (u64, u64)) -> Fate {
        Fate::Survives { on: NodeId(on), replica: id(on), end: LogEnd { term, index } }
    }

    #[test]
    fn a_group_goes_on_from_the_replica_that_has_most() {
        let all: &[&[u64]] = &[&[1, 2, 3, 4, 5]];
        // A later term counts more than more entries.
        let one = (1, vec![said(0, 1, (3, 90), all), said(1, 1, (4, 10), all)]);
        let two = (2, vec![said(0, 2, (4, 50), all), said(1, 2, (4, 11), all)]);
        let plan = planned(6, &[one, two]);
        assert_eq!(plan.groups, [(GroupId(0), survives(2, (4, 50))), (GroupId(1), survives(2, (4, 11)))]);
        assert_eq!((plan.lost, plan.silent), (vec![NodeId(3), NodeId(4), NodeId(5)], vec![NodeId(6)]));
    }

    #[test]
    fn who_is_led_or_has_a_majority_goes_on_by_itself_and_nobody_is_lost_for_it() {
        let mut leads = said(0, 1, (2, 5), &[&[1, 2, 3]]);
        leads.leads = true;
        let plan =
            planned(3, &[(1, vec![leads, said(1, 1, (2, 5), &[&[1, 2, 3]])]), (2, vec![said(1, 2, (2, 4), &[])])]);
        assert_eq!(plan.groups, [(GroupId(0), Fate::Led { by: NodeId(1) }), (GroupId(1), Fate::Elects)]);
        assert!(plan.is_idle() && plan.lost.is_empty());
        assert_eq!(plan.silent, [NodeId(3)]);
    }

    #[test]
    fn a_change_of_voters_needs_both_majorities() {
        let joint: &[&[u64]] = &[&[1, 2, 3], &[3, 4, 5]];
        let plan = planned(5, &[(1, vec![said(0, 1, (2, 5), joint)]), (2, vec![said(0, 2, (2, 5), joint)])]);
        assert_eq!(plan.groups[0].1, survives(1, (2, 5)), "of the same the first");
        assert_eq!(plan.lost, [3, 4, 5].map(NodeId));
    }

    #[test]
    fn what_is_damaged_or_another_replica_does_not_count() {
        let voters: &[&[u64]] = &[&[1, 2, 3]];
        let mut damaged = said(0, 2, (9, 9), voters);
        damaged.is_sound = false;
        let mut renewed = said(0, 3, (1, 1), voters);
        renewed.replica = ReplicaId::new(NodeId(3), 8);
        let plan = planned(3, &[(1, vec![said(0, 1, (2, 5), voters)]), (2, vec![damaged]), (3, vec![renewed])]);
        assert_eq!(plan.groups[0].1, survives(1, (2, 5)));
        assert!(plan.lost.is_empty(), "they answer: {:?}", plan.lost);
    }

    #[test]
    fn a_group_of_which_nothing_answers_begins_anew_and_all_who_are_silent_are_lost() {
        let plan = planned(4, &[(2, vec![said(0, 2, (2, 5), &[&[2]])])]);
        assert_eq!(plan.groups, [(GroupId(0), Fate::Elects), (GroupId(1), Fate::Gone { on: NodeId(2) })]);
        assert_eq!(plan.lost, [1, 3, 4].map(NodeId));
        // Not so the control group.
        let none = super::plan(&control(4), &[(NodeId(2), Vec::new())].into());
        assert_eq!(none.expect_err("nothing is left").kind(), ErrorKind::NotFound);
    }
}
