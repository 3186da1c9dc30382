//! What becomes of metadata groups that have lost a majority of those who kept them, by what the nodes that answer say of their
//! replicas.
//!
//! A group goes on from the replica whose log ends last among those that answer: it has all that any of them was ever
//! acknowledged for, though not what only the others have. So those must never come back. Who voted since the answering ones
//! have heard of it last nobody can tell; so all hosts that do not answer are lost, or none.

use core::cmp::Reverse;
use std::collections::BTreeMap;

use mesh_core::{
    Error, ErrorKind,
    id::{GroupId, NodeId, ReplicaId},
    meta::ControlView,
    op::{Condition, Fate, NodeReplicas, RecoveryPlan, ReplicaReport},
    topology::NodeKind,
};

/// What it takes for all groups to go on. `reports` are of all nodes that answer, and of nobody else. DPUs follow the control
/// group, and no group goes on from what one of them has.
///
/// # Errors
/// `NotFound` if no replica of the control group answers: it is restored from a backup. `Conflict` where something would be lost
/// that need not be: a node knows of hosts that were not asked, or sees one that does not answer; a replica has only
/// stopped; or a DPU has heard of more than any host. `Invalid` if nothing is known of the mesh.
pub fn plan(control: &ControlView, reports: &BTreeMap<NodeId, NodeReplicas>) -> Result<RecoveryPlan, Error> {
    if control.cluster.is_none() {
        let what = "this node knows nothing of the mesh: ask a host that has a replica of the control group";
        return Err(Error::invalid(what));
    }
    let hosts = control.nodes.values().filter(|info| info.kind == NodeKind::Host).map(|info| info.id);
    let silent: Vec<NodeId> = hosts.filter(|host| !reports.contains_key(host)).collect();
    let fates: Vec<_> = (0..=u64::from(control.namespaces))
        .map(GroupId)
        .map(|group| Ok((group, fate(control, reports, group)?)))
        .collect();
    let goes_on = |fate: &Result<(GroupId, Fate), Error>| fate.as_ref().is_ok_and(|(_, fate)| fate.goes_on());
    if !fates.iter().all(goes_on) {
        // Who knows of more knows better what to do.
        expect_all_were_asked(control, reports)?;
    }
    let groups = fates.into_iter().collect::<Result<Vec<_>, Error>>()?;
    if groups.iter().all(|(_, fate)| fate.goes_on()) {
        return Ok(RecoveryPlan { silent, groups, ..RecoveryPlan::default() });
    }
    for (witness, said) in reports {
        if let Some(seen) = silent.iter().find(|node| said.sees.contains(node)) {
            let what = "a host that does not answer here is seen by another node, and may have what would be lost: ask that one, or \
                        stop the host that it sees";
            return Err(Error::new(ErrorKind::Conflict, what).with("node", seen).with("witness", witness));
        }
    }
    let is_forced = |group: GroupId| groups.iter().any(|(one, fate)| *one == group && !fate.goes_on());
    let damaged = reports.iter().flat_map(|(node, said)| {
        let of_it = said.replicas.iter().filter(|one| one.condition == Condition::Damaged && is_forced(one.group));
        of_it.map(|one| (one.group, *node))
    });
    Ok(RecoveryPlan { damaged: damaged.collect(), lost: silent, silent: Vec::new(), groups })
}

/// Refuses where a host that answers knows of hosts of which this node does not: it has seen more of the mesh.
fn expect_all_were_asked(control: &ControlView, reports: &BTreeMap<NodeId, NodeReplicas>) -> Result<(), Error> {
    let is_known = |host: &NodeId| control.nodes.contains_key(host) || control.is_out(*host);
    for (teller, said) in reports {
        if let Some(unknown) = said.hosts.iter().find(|host| !is_known(host)) {
            let what = "a host knows of another of which this node does not: ask that host instead";
            return Err(Error::new(ErrorKind::Conflict, what).with("ask", teller).with("unknown", unknown));
        }
    }
    Ok(())
}

fn fate(control: &ControlView, reports: &BTreeMap<NodeId, NodeReplicas>, group: GroupId) -> Result<Fate, Error> {
    let is_host = |node: &NodeId| control.nodes.get(node).is_some_and(|info| info.kind == NodeKind::Host);
    let all =
        reports.iter().filter_map(|(node, said)| Some((*node, said.replicas.iter().find(|one| one.group == group)?)));
    let (replicas, of_dpus): (BTreeMap<NodeId, &ReplicaReport>, BTreeMap<_, _>) =
        all.partition(|(node, _)| is_host(node));
    // Who leads what there was before the last recovery leads another group.
    let latest = replicas.values().map(|replica| replica.timeline).max().unwrap_or_default();
    let leads = |replica: &ReplicaReport| replica.leads && replica.timeline == latest;
    if let Some((by, _)) = replicas.iter().find(|(_, replica)| leads(replica)) {
        return Ok(Fate::Led { by: *by });
    }
    let sound = || replicas.iter().filter(|(_, replica)| replica.condition == Condition::Sound);
    let ended = sound().filter_map(|(on, replica)| Some((replica.end?, Reverse(*on), *replica)));
    let best = ended.max_by_key(|(end, on, replica)| (replica.timeline, *end, *on));
    let answers = |voter: &ReplicaId| sound().any(|(_, replica)| replica.replica == *voter);
    let has_majority =
        |voters: &Vec<ReplicaId>| 2 * voters.iter().filter(|voter| answers(voter)).count() > voters.len();
    if best.is_some_and(|(_, _, best)| !best.voters.is_empty() && best.voters.iter().all(has_majority)) {
        return Ok(Fate::Elects);
    }
    let waits = [Condition::Stopped, Condition::Forced];
    if let Some((node, _)) = replicas.iter().find(|(_, replica)| waits.contains(&replica.condition)) {
        let what = "a host that answers has a replica that has only stopped, and may have what would be lost: mend what `mesh \
                    status` says of it, and restart that host, first; or stop that host, if it cannot be mended: then it counts as \
                    lost";
        return Err(Error::new(ErrorKind::Conflict, what).with("group", group).with("node", node));
    }
    let has_most = best.map(|(end, _, best)| (best.timeline, Some(end))).unwrap_or_default();
    if let Some((node, _)) = of_dpus.iter().find(|(_, of_dpu)| (of_dpu.timeline, of_dpu.end) > has_most) {
        let what = "a DPU has heard of more than any host that answers: bring a host back that told it; or stop that DPU, if what \
                    it has heard of may be lost, and have it begin with empty metadata";
        return Err(Error::new(ErrorKind::Conflict, what).with("group", group).with("node", node));
    }
    if let Some((end, Reverse(on), best)) = best {
        return Ok(Fate::Survives { on, replica: best.replica, end });
    }
    if group == GroupId::CONTROL {
        let what = "no host that answers has a sound replica of the control group: bring one back that has, or restore a backup \
                    with `mesh metadata restore`";
        return Err(Error::new(ErrorKind::NotFound, what));
    }
    let is_empty = |replica: &&ReplicaReport| replica.condition == Condition::Sound && replica.end.is_none();
    let can_begin = |(node, said): &(&NodeId, &NodeReplicas)| {
        is_host(node)
            && !said.is_unusable
            && !control.departures.contains_key(*node)
            && replicas.get(node).is_none_or(is_empty)
    };
    let on = reports.iter().find(can_begin).map(|(node, _)| *node).ok_or_else(|| {
        let what = "every host that answers has a damaged replica of the metadata group, and none can begin anew: have another \
                    host join, and ask again";
        Error::new(ErrorKind::Conflict, what).with("group", group)
    })?;
    Ok(Fate::Gone { on })
}

#[cfg(test)]
mod tests {
    use mesh_core::{
        id::ClusterId,
        op::{LogEnd, Timeline},
        topology::{Departure, NodeInfo},
    };

    use super::*;
    use crate::steward::tests::host;

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
            condition: Condition::Sound,
            leads: false,
            voters: voters.iter().map(|some| some.iter().copied().map(id).collect()).collect(),
            end: Some(LogEnd { term, index }),
            timeline: Timeline::default(),
        }
    }

    fn reports(all: &[(u64, Vec<ReplicaReport>)]) -> BTreeMap<NodeId, NodeReplicas> {
        let report = |said: &Vec<ReplicaReport>| NodeReplicas { replicas: said.clone(), ..NodeReplicas::default() };
        all.iter().map(|(node, said)| (NodeId(*node), report(said))).collect()
    }

    fn planned(hosts: u64, all: &[(u64, Vec<ReplicaReport>)]) -> RecoveryPlan {
        plan(&control(hosts), &reports(all)).expect("a plan")
    }

    fn survives(on: u64, (term, index): (u64, u64)) -> Fate {
        Fate::Survives { on: NodeId(on), replica: id(on), end: LogEnd { term, index } }
    }

    const THREE: &[&[u64]] = &[&[1, 2, 3]];

    #[test]
    fn a_group_goes_on_from_the_replica_that_has_most_and_all_who_are_silent_are_lost() {
        let all: &[&[u64]] = &[&[1, 2, 3, 4, 5]];
        // A later term counts more than more entries.
        let one = (1, vec![said(0, 1, (3, 90), all), said(1, 1, (4, 10), all)]);
        let two = (2, vec![said(0, 2, (4, 50), all), said(1, 2, (4, 11), all)]);
        let plan = planned(6, &[one, two]);
        assert_eq!(plan.groups, [(GroupId(0), survives(2, (4, 50))), (GroupId(1), survives(2, (4, 11)))]);
        // The last one is no voter that anybody here knows of; and may have become one since.
        assert_eq!((plan.lost, plan.silent), ([3, 4, 5, 6].map(NodeId).to_vec(), vec![]));
    }

    #[test]
    fn who_is_led_or_has_a_majority_goes_on_by_itself_and_nobody_is_lost_for_it() {
        let mut leads = said(0, 1, (2, 5), THREE);
        leads.leads = true;
        let plan = planned(3, &[(1, vec![leads, said(1, 1, (2, 5), THREE)]), (2, vec![said(1, 2, (2, 4), &[])])]);
        assert_eq!(plan.groups, [(GroupId(0), Fate::Led { by: NodeId(1) }), (GroupId(1), Fate::Elects)]);
        assert!(plan.is_idle() && plan.lost.is_empty());
        assert_eq!(plan.silent, [NodeId(3)]);
    }

    /// Others lead, or have more, of what there was before the last recovery: that is another group.
    #[test]
    fn what_went_through_a_later_recovery_goes_on() {
        let later = |group, node| {
            let timeline = Timeline { chance: 1, ..Timeline::default() };
            ReplicaReport { timeline, ..said(group, node, (2, 5), &[&[1, 4]]) }
        };
        let leads = |node| ReplicaReport { leads: true, ..said(0, node, (9, 9), &[&[2, 3]]) };
        let of_one = |group, node| said(group, node, (9, 9), &[&[2, 3]]);
        let one = (1, vec![later(0, 1), later(1, 1)]);
        let plan = planned(4, &[one, (2, vec![leads(2), of_one(1, 2)]), (3, vec![of_one(0, 3), of_one(1, 3)])]);
        assert_eq!(plan.groups, [(GroupId(0), survives(1, (2, 5))), (GroupId(1), survives(1, (2, 5)))]);
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
        let mut damaged = said(0, 2, (9, 9), THREE);
        damaged.condition = Condition::Damaged;
        let mut renewed = said(0, 3, (1, 1), THREE);
        renewed.replica = ReplicaId::new(NodeId(3), 8);
        let plan = planned(3, &[(1, vec![said(0, 1, (2, 5), THREE)]), (2, vec![damaged]), (3, vec![renewed])]);
        assert_eq!(plan.groups[0].1, survives(1, (2, 5)));
        assert!(plan.lost.is_empty(), "they answer: {:?}", plan.lost);
    }

    #[test]
    fn nothing_is_lost_that_has_only_stopped() {
        let refused = |hosts, all: &[(u64, Vec<ReplicaReport>)]| {
            plan(&control(hosts), &reports(all)).expect_err("not yet").kind()
        };
        for condition in [Condition::Stopped, Condition::Forced] {
            let stopped = || ReplicaReport { condition, end: None, ..said(0, 2, (2, 9), THREE) };
            assert_eq!(refused(3, &[(1, vec![said(0, 1, (2, 5), THREE)]), (2, vec![stopped()])]), ErrorKind::Conflict);
            // Nor begins a group anew of which somebody has everything.
            let leads = |node| ReplicaReport { leads: true, ..said(0, node, (2, 5), THREE) };
            let of_one = ReplicaReport { group: GroupId(1), ..stopped() };
            assert_eq!(refused(3, &[(1, vec![leads(1)]), (2, vec![of_one])]), ErrorKind::Conflict);
            // Where the others do without it, it is in nobody's way.
            let two = [(1, vec![leads(1), said(1, 1, (2, 5), THREE)]), (3, vec![said(1, 3, (2, 5), THREE)])];
            let of_one = (2, vec![ReplicaReport { group: GroupId(1), ..stopped() }]);
            assert!(planned(3, &[two.to_vec(), vec![of_one]].concat()).is_idle());
        }
    }

    #[test]
    fn who_knows_or_sees_more_is_asked_first() {
        let one = (1, vec![said(0, 1, (2, 5), THREE)]);
        let with = |hosts: &[u64], sees: &[u64]| {
            let mut all = reports(core::slice::from_ref(&one));
            let said = all.get_mut(&NodeId(1)).expect("it answers");
            said.hosts = hosts.iter().copied().map(NodeId).collect();
            said.sees = sees.iter().copied().map(NodeId).collect();
            let control = ControlView { departures: [(NodeId(7), Departure::Out)].into(), ..control(3) };
            plan(&control, &all).map_err(|error| error.kind())
        };
        assert!(with(&[1, 2, 3, 7], &[1, 7]).is_ok());
        assert_eq!(with(&[1, 2, 3, 4], &[]), Err(ErrorKind::Conflict), "nobody has asked that one");
        assert_eq!(with(&[1, 2, 3], &[1, 3]), Err(ErrorKind::Conflict), "it is there");
    }

    #[test]
    fn a_group_of_which_nothing_answers_begins_anew_where_nothing_is_left_of_it() {
        let with_control = |node| said(0, node, (2, 5), &[&[2]]);
        let mut damaged = said(1, 2, (9, 9), THREE);
        damaged.condition = Condition::Damaged;
        let two = (2, vec![with_control(2), damaged.clone()]);
        // One that was begun, and has nothing yet, is as good as none.
        for three in [Vec::new(), vec![ReplicaReport { end: None, ..said(1, 3, (0, 0), &[]) }]] {
            let plan = planned(4, &[two.clone(), (3, three)]);
            assert_eq!(plan.groups, [(GroupId(0), Fate::Elects), (GroupId(1), Fate::Gone { on: NodeId(3) })]);
            assert_eq!(plan.lost, [1, 4].map(NodeId));
        }
        let mut unusable = reports(&[two.clone(), (3, Vec::new())]);
        unusable.get_mut(&NodeId(3)).expect("it answers").is_unusable = true;
        assert_eq!(plan(&control(4), &unusable).expect_err("no such place").kind(), ErrorKind::Conflict);
        let nowhere = plan(&control(4), &reports(&[two]));
        assert_eq!(nowhere.expect_err("there is no such place").kind(), ErrorKind::Conflict);
        // Not so the control group.
        let none = plan(&control(4), &reports(&[(2, Vec::new())]));
        assert_eq!(none.expect_err("nothing is left").kind(), ErrorKind::NotFound);
    }

    #[test]
    fn what_a_dpu_has_heard_of_is_lost_by_nobody_s_oversight() {
        let plan = |dpu: (u64, u64), sees: &[u64]| {
            let mut control = control(3);
            control.nodes.insert(NodeId(9), NodeInfo { kind: NodeKind::Dpu, attached_to: Some(NodeId(1)), ..host(9) });
            let mut all = reports(&[(1, vec![said(0, 1, (2, 5), THREE)]), (9, vec![said(0, 9, dpu, THREE)])]);
            all.get_mut(&NodeId(9)).expect("it answers").sees = sees.iter().copied().map(NodeId).collect();
            plan(&control, &all).map(|plan| (plan.groups[0].1, plan.lost)).map_err(|error| error.kind())
        };
        assert_eq!(plan((2, 5), &[]), Ok((survives(1, (2, 5)), [2, 3].map(NodeId).to_vec())));
        assert_eq!(plan((2, 6), &[]), Err(ErrorKind::Conflict));
        assert_eq!(plan((2, 5), &[2]), Err(ErrorKind::Conflict), "it sees one");
    }

    #[test]
    fn what_is_accepted_is_no_more_than_was_told() {
        let lost = |nodes: &[u64], fate| RecoveryPlan {
            lost: nodes.iter().copied().map(NodeId).collect(),
            groups: vec![(GroupId(0), fate)],
            ..RecoveryPlan::default()
        };
        let (led, gone) = (Fate::Led { by: NodeId(1) }, Fate::Gone { on: NodeId(1) });
        let told = lost(&[2, 3], survives(1, (2, 5)));
        for (now, is_within) in [
            (told.clone(), true),
            (lost(&[2], survives(4, (2, 6))), true),
            (lost(&[], led), true),
            (lost(&[2, 3, 4], survives(1, (2, 5))), false),
            (lost(&[2, 3], survives(1, (2, 4))), false),
            (lost(&[2, 3], gone), false),
        ] {
            assert_eq!(now.is_within(&told), is_within, "{now:?}");
        }
        assert!(!lost(&[], survives(1, (9, 9))).is_within(&lost(&[], led)), "nobody was told that it would be forced");
        assert!(lost(&[], survives(1, (1, 1))).is_within(&lost(&[], gone)));
    }
}
