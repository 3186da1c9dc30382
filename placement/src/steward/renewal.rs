//! When damaged metadata may be set aside: once a majority of each group's voters, without this node's, is there and
//! follows a leader among them. They have what was acknowledged, a new replica learns it from them, and they can take it in.
//! What waits to go on alone is set aside then, too; and goes on once nobody is there whom it would leave behind.

use std::collections::BTreeSet;

use mesh_core::{
    Error, ErrorKind,
    id::{GroupId, NodeId, ReplicaId},
    op::{GroupReport, NodeReport, Waits},
    topology::NodeKind,
};

use super::{Group, Sight};

/// What a node with damaged metadata is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Renewal {
    /// It leads a group itself: somebody who has caught up is to lead it, and then it looks again.
    HandOver(GroupId, NodeId),
    /// What it has is set aside, and it begins anew.
    Begin,
}

/// Looks at a node whose metadata are damaged. `kept`: the groups of which it knows that it had kept something.
///
/// # Errors
/// `NotLeader`: they stay as they are, for of which group there is no majority without this node.
pub fn look(groups: &[Group], kept: &BTreeSet<GroupId>, sight: &Sight) -> Result<Renewal, Error> {
    let others: Vec<&NodeReport> = sight
        .reports
        .values()
        .map(AsRef::as_ref)
        .filter(|report| report.node != sight.here && sight.alive.contains(&report.node))
        .collect();
    // A store that has lost its mark does not know what it kept.
    let told = others.iter().flat_map(|report| report.groups.iter().map(|said| said.group));
    for group in kept.iter().copied().chain(told).collect::<BTreeSet<GroupId>>() {
        let own = groups.iter().find(|own| own.report.group == group);
        if let Some(own) = own.filter(|own| own.leads) {
            let heir = own.heir(sight).ok_or_else(|| kept_as_it_is(group))?;
            return Ok(Renewal::HandOver(group, heir));
        }
        let said = |report: &NodeReport| report.groups.iter().find(|said| said.group == group).cloned();
        let leader = others.iter().find_map(|report| said(report).filter(|said| said.leader == Some(report.node)));
        let leader = leader.ok_or_else(|| kept_as_it_is(group))?;
        // What they lead there was before this node's went through a recovery.
        if own.is_some_and(|own| own.report.timeline > leader.timeline) {
            return Err(kept_as_it_is(group));
        }
        let is_sound = |voter: &&ReplicaId| {
            let report = others.iter().find(|report| report.node == voter.node());
            report.and_then(|report| said(report)).is_some_and(|said| {
                let follows = (said.leader, said.term, said.timeline) == (leader.leader, leader.term, leader.timeline);
                said.replica == **voter && said.trouble.is_none() && follows
            })
        };
        if 2 * leader.voters.iter().filter(is_sound).count() <= leader.voters.len() {
            return Err(kept_as_it_is(group));
        }
    }
    Ok(Renewal::Begin)
}

/// Whether what waits may go on alone, by a node that has listened for long enough to know who is there.
///
/// # Errors
/// `Conflict`: who is there that would be left behind.
pub fn go_on(waits: &Waits, sight: &Sight) -> Result<(), Error> {
    let others =
        sight.reports.values().filter(|report| report.node != sight.here && sight.alive.contains(&report.node));
    for report in others {
        match waits {
            Waits::Without(lost) if lost.contains(&report.node) => {
                let what = "this node's metadata are to go on without those that were given up for lost, and one of them runs: stop \
                            it for good; or, if it is to stay, start the others that were given up, too, and once those are a majority \
                            this node joins them by itself. Do not empty this one before that";
                return Err(Error::new(ErrorKind::Conflict, what).with("lost", report.node));
            }
            // Who has begun with nothing has taken part in no election.
            Waits::Restored if report.kind == NodeKind::Host && has_something(report) => {
                let what = "this node's metadata were restored from a backup, and another host runs that has metadata of its own: \
                            stop that one and say `mesh metadata empty` there; or, if those are to stay, say it here";
                return Err(Error::new(ErrorKind::Conflict, what).with("other", report.node));
            }
            Waits::Without(_) | Waits::Restored => {}
        }
    }
    Ok(())
}

/// Of who waits, too, or has stopped: it says no term.
fn has_something(report: &NodeReport) -> bool {
    let of_control = |said: &&GroupReport| said.group == GroupId::CONTROL;
    report.groups.iter().find(of_control).is_some_and(|said| said.term > 0 || said.trouble.is_some())
}

fn kept_as_it_is(group: GroupId) -> Error {
    Error::new(
        ErrorKind::NotLeader,
        "this node's metadata are damaged, and stay as they are: without them no majority of this group's voters is \
         there. Start the other nodes. A copy of this node's metadata folder that is older than what it has promised \
         does not help: what was acknowledged since would be lost",
    )
    .with("group", group)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::steward::tests::{group, sight};

    const GROUP: GroupId = GroupId::CONTROL;

    /// Node 1 is damaged; these others are there, and node 2 leads them if `led`.
    fn others(alive: &[u64], led: bool) -> Sight {
        let mut sight = sight(1, alive, GROUP, led.then_some(2));
        sight.change(2, |report| report.groups[0].voters = group(1, &[1, 2, 3]).voters.into_iter().collect());
        sight
    }

    fn renewal(sight: &Sight) -> Result<Renewal, ErrorKind> {
        look(&[group(1, &[1, 2, 3])], &[GROUP].into(), sight).map_err(|error| error.kind())
    }

    #[test]
    fn what_waits_goes_on_once_nobody_is_there_whom_it_would_leave_behind() {
        let goes_on = |waits: Waits, sight: &Sight| go_on(&waits, sight).map_err(|error| error.kind());
        let without = |lost: &[u64]| Waits::Without(lost.iter().copied().map(NodeId).collect());
        assert_eq!(goes_on(without(&[2, 3]), &others(&[1, 2, 4], false)), Err(ErrorKind::Conflict));
        assert_eq!(goes_on(without(&[3]), &others(&[1, 2, 4], false)), Ok(()));
        // It said something once, and is not there: how long that has to be so is another question.
        let mut gone = others(&[1, 2, 3], false);
        gone.alive = Arc::new([1, 2].map(NodeId).into());
        assert_eq!(goes_on(without(&[3]), &gone), Ok(()));
        // Who has begun with nothing is no mesh; nor is a DPU, which only follows.
        assert_eq!(goes_on(Waits::Restored, &others(&[1, 2], false)), Err(ErrorKind::Conflict));
        // Who waits for the same, or has stopped, has metadata of its own.
        let mut waiting = others(&[1, 2], false);
        waiting.change(2, |report| (report.groups[0].term, report.groups[0].trouble) = (0, Some("waits".into())));
        assert_eq!(goes_on(Waits::Restored, &waiting), Err(ErrorKind::Conflict));
        let mut empty = others(&[1, 2, 3], false);
        empty.change(2, |report| report.groups[0].term = 0);
        empty.change(3, |report| report.kind = NodeKind::Dpu);
        assert_eq!(goes_on(Waits::Restored, &empty), Ok(()));
    }

    #[test]
    fn damaged_metadata_are_set_aside_only_while_a_majority_is_there_without_them() {
        assert_eq!(renewal(&others(&[1, 2, 3], true)), Ok(Renewal::Begin));
        // Two of three voters, one of which is this node's.
        assert_eq!(renewal(&others(&[1, 2], true)), Err(ErrorKind::NotLeader));
        // Nobody leads them.
        assert_eq!(renewal(&others(&[1, 2, 3], false)), Err(ErrorKind::NotLeader));
        // One of the two is damaged too, or has another replica, or follows somebody else.
        let mut damaged = others(&[1, 2, 3], true);
        damaged.change(3, |report| report.groups[0].trouble = Some("damaged".into()));
        assert_eq!(renewal(&damaged), Err(ErrorKind::NotLeader));
        // What the others have is of before the last recovery.
        let mut own = group(1, &[1, 2, 3]);
        own.report.timeline.chance = 1;
        assert!(look(&[own], &[GROUP].into(), &others(&[1, 2, 3], true)).is_err());
        let mut new = others(&[1, 2, 3], true);
        new.change(3, |report| report.groups[0].replica = ReplicaId::new(NodeId(3), 9));
        assert_eq!(renewal(&new), Err(ErrorKind::NotLeader));
        let mut behind = others(&[1, 2, 3], true);
        behind.change(3, |report| report.groups[0].term = 0);
        assert_eq!(renewal(&behind), Err(ErrorKind::NotLeader));
    }

    #[test]
    fn what_it_leads_itself_it_hands_over_first() {
        let mut own = group(1, &[1, 2, 3]);
        own.leads = true;
        let sight = others(&[1, 2, 3], false);
        let hand_over = |own: &Group| look(core::slice::from_ref(own), &[GROUP].into(), &sight);
        assert!(hand_over(&own).is_err(), "nobody has caught up");
        own.caught_up = [1, 3].map(|node| ReplicaId::new(NodeId(node), 1)).into();
        assert_eq!(hand_over(&own), Ok(Renewal::HandOver(GROUP, NodeId(3))));
    }

    #[test]
    fn of_five_voters_three_are_enough_and_two_are_not() {
        let renewal = |alive: &[u64]| {
            let mut sight = sight(1, alive, GROUP, Some(2));
            let voters = group(1, &[1, 2, 3, 4, 5]).voters.into_iter().collect();
            sight.change(2, |report| report.groups[0].voters = voters);
            look(&[group(1, &[1, 2, 3, 4, 5])], &[GROUP].into(), &sight).map_err(|error| error.kind())
        };
        assert_eq!(renewal(&[1, 2, 3, 4]), Ok(Renewal::Begin));
        assert_eq!(renewal(&[1, 2, 3]), Err(ErrorKind::NotLeader));
    }
}
