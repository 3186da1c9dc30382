//! Who is a member of a metadata group, as its leader sees to it: one step at a time, from what is to what should be.
//!
//! A node's replica of a group has many lives ([`ReplicaId`]): one that lost what it had promised is a member of the past,
//! and what its node has now is a new replica, which first follows, then has caught up, and then takes the old one's place
//! among the voters in one joint change. So no quorum ever grows by what is lost, and none rests on who has forgotten. Who
//! leaves the mesh is replaced the same way by who stays; once it has left, it votes no more even if nobody is there for that.
//!
//! Every node follows the control group. A namespace group has members on a few hosts alone ([`Replicas`]): all of them vote,
//! and who is one and is not to be gives way to those that are, one after the other.

use std::collections::{BTreeMap, BTreeSet};

use mesh_core::{
    id::{GroupId, NodeId, ReplicaId},
    meta::ControlView,
    op::GroupReport,
    shared::SharedMap,
    topology::{Departure, NodeInfo, NodeKind, Places, REPLICAS_MAX, Replicas},
};

use super::{Group, Sight};

/// Voters of a group at most.
pub const VOTERS_MAX: usize = REPLICAS_MAX;

/// Whether a node of this kind is to have a replica of a group: each node of the control group, and of a namespace group those
/// that are chosen, or every host before all nodes know of that.
#[must_use]
pub fn is_to_have(group: GroupId, node: NodeId, kind: NodeKind, replicas: Option<&Replicas>) -> bool {
    group == GroupId::CONTROL
        || match replicas {
            Some(replicas) => replicas.hosts(group).is_some_and(|hosts| hosts.contains(&node)),
            None => kind == NodeKind::Host,
        }
}

/// What the leader of a group sees of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Members {
    /// Who votes, as far as was agreed.
    pub voters: BTreeSet<ReplicaId>,
    /// Who follows.
    pub learners: BTreeSet<ReplicaId>,
    /// Those who have what the leader has, or nearly: of one that is silent, had when it was heard last.
    pub caught_up: BTreeSet<ReplicaId>,
    /// Voters whose node answers, and says that it has this very replica, and that it works.
    pub sound: BTreeSet<ReplicaId>,
    /// See [`Group::unfinished`].
    pub unfinished: Option<BTreeSet<ReplicaId>>,
    /// The nodes that are to have a replica and that answer.
    pub nodes: BTreeMap<NodeId, Wanted>,
    /// The hosts that are to vote, all of them, and nobody else is to be a member; none: up to [`VOTERS_MAX`] of all.
    pub hosts: Option<BTreeSet<NodeId>>,
    /// The replica that leads: it gives that away before another takes its place.
    pub leader: Option<ReplicaId>,
    /// Nodes that leave, and those that have left.
    pub departures: SharedMap<NodeId, Departure>,
    /// What nodes fail with.
    pub places: Places,
}

/// A node that is to have a replica of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Whether it may vote.
    pub votes: bool,
    /// Which replica it says it has; `None`: none that is sound.
    pub replica: Option<ReplicaId>,
}

/// One change of a group's members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// This replica follows from now on.
    Follow(ReplicaId),
    /// These vote from now on, and nobody else: one joint change.
    Vote(BTreeSet<ReplicaId>),
    /// This replica, which does not vote, is no member any more.
    Forget(ReplicaId),
}

impl Members {
    /// What the leader of a group sees: living hosts follow, then vote, unless they leave; of a group that is to have `hosts` of
    /// its own, those alone. DPUs never vote, and follow the control group alone, to know who runs what.
    #[must_use]
    pub fn of(group: &Group, hosts: Option<&BTreeSet<NodeId>>, view: &ControlView, sight: &Sight) -> Self {
        let id = group.report.group;
        let is_wanted = |info: &&NodeInfo| match info.kind {
            _ if let Some(hosts) = hosts => hosts.contains(&info.id),
            // Who votes is replaced also while it is emptied, if it has lost what it had; who leaves hears of all until then.
            NodeKind::Host => {
                let votes = group.voters.iter().any(|voter| voter.node() == info.id);
                !info.draining || votes || view.departures.contains_key(&info.id)
            }
            NodeKind::Dpu => id == GroupId::CONTROL,
        };
        // Also where it has begun this group anew.
        let restored = sight.said_of(sight.here, GroupId::CONTROL).map(|own| own.restored).unwrap_or_default();
        let is_of_another =
            |node| sight.said_of(node, GroupId::CONTROL).is_some_and(|control| control.is_before(restored));
        let wanted = view.nodes.values().filter(|info| sight.alive.contains(&info.id)).filter(is_wanted);
        let nodes = wanted.filter_map(|info| {
            // What an earlier start of it said may be of files that are no more.
            sight.reports.get(&info.id).filter(|report| report.incarnation == info.incarnation)?;
            // What follows another leader is of a group that this one has gone on without, whatever its number; and what is of a later
            // recovery is of one that has gone on without this one.
            let is_stranger =
                |said: &GroupReport| !group.voters.contains(&said.replica) && !group.learners.contains(&said.replica);
            // Who was replaced while it led leads nobody any more, and is told so by being taken in.
            let is_past = |said: &GroupReport| said.timeline == group.report.timeline && said.term < group.report.term;
            let is_led = |said: &GroupReport| {
                said.leader.is_some_and(|leader| leader != sight.here && sight.rules(leader, id)) && !is_past(said)
            };
            let said = sight.said_of(info.id, id).filter(|said| said.trouble.is_none());
            // What has something of before the last restore is of another mesh, and part of that: all of it is given up there, by hand, or
            // nothing. A DPU has nothing of its own.
            let is_other = |said: &GroupReport| {
                info.kind == NodeKind::Host && (said.is_before(group.report.restored) || is_of_another(info.id))
            };
            let is_later = |said: &GroupReport| said.timeline > group.report.timeline;
            let said = said.filter(|said| !is_stranger(said) || !(is_led(said) || is_other(said) || is_later(said)));
            let votes = info.kind == NodeKind::Host && !view.departures.contains_key(&info.id);
            Some((info.id, Wanted { votes, replica: said.map(|said| said.replica) }))
        });
        let is_sound = |voter: &ReplicaId| {
            let start = view.nodes.get(&voter.node()).map(|info| info.incarnation);
            let is_there = sight.alive.contains(&voter.node())
                && sight.reports.get(&voter.node()).map(|report| report.incarnation) == start;
            let said = sight.said_of(voter.node(), id).filter(|_| is_there);
            said.is_some_and(|said| said.is_sound(*voter, group.report.timeline))
        };
        Self {
            sound: group.voters.iter().copied().filter(is_sound).collect(),
            voters: group.voters.clone(),
            learners: group.learners.clone(),
            caught_up: group.caught_up.clone(),
            unfinished: group.unfinished.clone(),
            nodes: nodes.collect(),
            hosts: hosts.cloned(),
            leader: Some(group.report.replica),
            departures: view.departures.clone(),
            places: view.places(),
        }
    }

    /// The next change, if anything is to be changed.
    #[must_use]
    pub fn step(&self) -> Option<Step> {
        // First what another leader, or this one too slowly, has begun: until then two sets of voters have to agree.
        let finish = || self.unfinished.clone().map(Step::Vote);
        finish()
            .or_else(|| self.follow())
            .or_else(|| self.replace())
            .or_else(|| self.promote())
            .or_else(|| self.part())
            .or_else(|| self.forget())
    }

    /// What nodes say they have now, with their wishes to vote.
    fn present(&self) -> impl Iterator<Item = (ReplicaId, bool)> {
        self.nodes.values().filter_map(|wanted| Some((wanted.replica?, wanted.votes)))
    }

    /// Whether a node has another replica now than this one.
    fn is_past(&self, replica: ReplicaId) -> bool {
        let now = self.nodes.get(&replica.node()).and_then(|wanted| wanted.replica);
        now.is_some_and(|now| now != replica)
    }

    fn follow(&self) -> Option<Step> {
        let is_new = |replica: &ReplicaId| !self.voters.contains(replica) && !self.learners.contains(replica);
        self.present().map(|(replica, _)| replica).find(is_new).map(Step::Follow)
    }

    /// Whether a voter answers and has what the leader has, or nearly.
    fn has_all(&self, voter: ReplicaId) -> bool {
        self.leader == Some(voter) || (self.sound.contains(&voter) && self.caught_up.contains(&voter))
    }

    /// Whether a node is to have no replica, though it may have one.
    fn is_guest(&self, node: NodeId) -> bool {
        self.hosts.as_ref().is_some_and(|hosts| !hosts.contains(&node))
    }

    /// Whether a node has left.
    fn is_out(&self, node: NodeId) -> bool {
        self.departures.get(&node).is_some_and(|how| how.is_out())
    }

    /// Replicas that follow, have caught up and may vote.
    fn candidates(&self) -> impl Iterator<Item = ReplicaId> {
        let may_vote = |replica: &ReplicaId| self.learners.contains(replica) && self.caught_up.contains(replica);
        self.present().filter(|(_, votes)| *votes).map(|(replica, _)| replica).filter(move |replica| may_vote(replica))
    }

    fn replace(&self) -> Option<Step> {
        let replaced = |old: &ReplicaId, new: ReplicaId| {
            let mut voters = self.voters.clone();
            voters.remove(old);
            voters.insert(new);
            Step::Vote(voters)
        };
        let past = self.candidates().find_map(|new| {
            let old = self.voters.iter().find(|old| old.node() == new.node() && self.is_past(**old))?;
            Some(replaced(old, new))
        });
        past.or_else(|| {
            // Who stays in place of who leaves; those that have left first, and those last that only others are to replace: of
            // these those that do not answer.
            let leaves = |old: &&ReplicaId| {
                let goes = self.departures.contains_key(&old.node()) || self.is_guest(old.node());
                goes && self.leader != Some(**old)
            };
            let order = |old: &&ReplicaId| {
                (self.is_out(old.node()), self.departures.contains_key(&old.node()), !self.has_all(**old))
            };
            let old = self.voters.iter().filter(leaves).max_by_key(order)?;
            let is_other = |new: &ReplicaId| self.voters.iter().all(|voter| voter.node() != new.node());
            let mut stay = self.voters.clone();
            stay.remove(old);
            let new = self.beside(&stay, self.candidates().filter(is_other))?;
            Some(replaced(old, new))
        })
    }

    /// Who has left votes no more, also where nobody is there to take that place. Nor does, of an even number, who leaves, if
    /// nobody comes: the others bear as much without it, and once it is gone it could not agree to that. Nor do more than are to:
    /// one that is silent once a majority of those that are left answer and have what the leader has, for then nothing is lost by
    /// it; one that answers once all others do, for fewer bear fewer losses, and none is to have happened by then.
    fn part(&self) -> Option<Step> {
        let is_new = |new: &ReplicaId| self.voters.iter().all(|voter| voter.node() != new.node());
        let somebody_comes = self.present().any(|(replica, votes)| votes && is_new(&replica));
        let goes = |voter: &ReplicaId| match self.departures.get(&voter.node()) {
            Some(Departure::Out | Departure::Fenced) => true,
            Some(Departure::Asked) => self.voters.len().is_multiple_of(2) && !somebody_comes,
            None => {
                let is_too_many = self.hosts.as_ref().is_some_and(|hosts| self.voters.len() > hosts.len());
                let others = self.voters.iter().filter(|other| *other != voter);
                let (there, all) = (others.clone().filter(|other| self.has_all(**other)).count(), others.count());
                let are_enough = if self.has_all(*voter) { there == all } else { 2 * there > all };
                is_too_many && self.is_guest(voter.node()) && are_enough
            }
        };
        let gone = |voter: &&ReplicaId| goes(voter) && self.leader != Some(**voter);
        // One at a time: what is an even number changes with each.
        let order = |voter: &&ReplicaId| (self.is_out(voter.node()), !self.has_all(**voter));
        let gone = self.voters.iter().filter(gone).max_by_key(order)?;
        let left: BTreeSet<ReplicaId> = self.voters.iter().copied().filter(|voter| voter != gone).collect();
        (!left.is_empty()).then_some(Step::Vote(left))
    }

    /// A fourth voter bears no loss more than three do, and makes one more that has to answer: from three on two are taken in
    /// at once. A second one does not vote for the sake of elections: without it, all that there is would be at the first.
    fn promote(&self) -> Option<Step> {
        let voters = self.voters.len();
        let most = self.hosts.as_ref().map_or(VOTERS_MAX, BTreeSet::len);
        // Who leads alone and is not to needs somebody to give that to.
        let needs_an_heir = voters == 1 && self.voters.iter().all(|voter| self.is_guest(voter.node()));
        let missing = match voters {
            _ if voters >= most && !needs_an_heir => return None,
            0..3 => 1,
            even if even.is_multiple_of(2) => 1,
            _ => 2,
        };
        let mut after = self.voters.clone();
        for _ in 0..missing {
            let new = self.beside(&after, self.candidates().filter(|new| !after.contains(new)))?;
            after.insert(new);
        }
        Some(Step::Vote(after))
    }

    /// Of these who is to vote beside those: the one in whose zone, and then rack, fewest of them are.
    fn beside(&self, voters: &BTreeSet<ReplicaId>, of: impl Iterator<Item = ReplicaId>) -> Option<ReplicaId> {
        of.min_by_key(|new| {
            let [zone, rack, _] = self.places.domains(new.node());
            let domains = || voters.iter().map(|voter| self.places.domains(voter.node()));
            let (in_zone, in_rack) =
                (domains().filter(|of| of[0] == zone).count(), domains().filter(|of| of[1] == rack).count());
            (in_zone, in_rack, *new)
        })
    }

    fn forget(&self) -> Option<Step> {
        let is_over = |learner: &ReplicaId| {
            self.is_past(*learner) || self.is_out(learner.node()) || self.is_guest(learner.node())
        };
        self.learners.iter().copied().find(is_over).map(Step::Forget)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use mesh_core::op::Timeline;

    use crate::steward::tests::{group, host, sight};

    fn replica(node: u64, life: u64) -> ReplicaId {
        ReplicaId::new(NodeId(node), life)
    }

    fn set(replicas: &[(u64, u64)]) -> BTreeSet<ReplicaId> {
        replicas.iter().map(|(node, life)| replica(*node, *life)).collect()
    }

    fn nodes(replicas: &[(u64, u64)]) -> BTreeMap<NodeId, Wanted> {
        let wanted = |(node, life): &(u64, u64)| {
            (NodeId(*node), Wanted { votes: true, replica: (*life > 0).then(|| replica(*node, *life)) })
        };
        replicas.iter().map(wanted).collect()
    }

    #[test]
    fn living_hosts_and_for_the_control_group_dpus_are_wanted() {
        let mut own = group(1, &[1]);
        let dpu = NodeInfo { kind: NodeKind::Dpu, ..host(4) };
        let emptied = NodeInfo { draining: true, ..host(5) };
        let view = ControlView {
            nodes: [host(1), host(2), host(3), dpu, emptied].map(|info| (info.id, info)).into(),
            ..ControlView::default()
        };
        // Node 3 is silent.
        let mut seen = sight(1, &[1, 2, 4, 5], GroupId::CONTROL, Some(1));
        for node in [1, 4, 5] {
            seen.change(node, |report| report.incarnation = mesh_core::id::Incarnation(1));
        }
        // What node 2 said is of an earlier start.
        let wanted = |votes, node| (NodeId(node), Wanted { votes, replica: Some(replica(node, 1)) });
        assert_eq!(Members::of(&own, None, &view, &seen).nodes, [wanted(true, 1), wanted(false, 4)].into());
        // Who votes stays, though it is emptied.
        own.voters.insert(replica(5, 1));
        let members = Members::of(&own, None, &view, &seen);
        assert_eq!(members.nodes, [wanted(true, 1), wanted(false, 4), wanted(true, 5)].into());
        own.report.group = GroupId(7);
        seen.change(1, |report| report.groups[0].trouble = Some("damaged".into()));
        let none = Wanted { votes: true, replica: None };
        assert_eq!(Members::of(&own, None, &view, &seen).nodes, [(NodeId(1), none), (NodeId(5), none)].into());
        // Of a group with hosts of its own those alone, as far as they answer, emptied or not.
        let hosts = [2, 3, 5].map(NodeId).into();
        let none = Wanted { votes: true, replica: None };
        let members = Members::of(&own, Some(&hosts), &view, &seen);
        assert_eq!((members.nodes, members.hosts), ([(NodeId(5), none)].into(), Some(hosts)));
    }

    /// Nobody is taken in who follows somebody else in a group that goes on without him; where that one leads no more, he is.
    #[test]
    fn what_follows_another_leader_is_not_taken_in() {
        let own = Group { voters: set(&[(1, 1)]), leads: true, ..group(1, &[]) };
        let view =
            ControlView { nodes: [1, 2, 3].map(|node| (NodeId(node), host(node))).into(), ..ControlView::default() };
        let mut seen = sight(1, &[1, 2, 3], GroupId::CONTROL, Some(2));
        for node in 1..=3 {
            seen.change(node, |report| report.incarnation = mesh_core::id::Incarnation(1));
        }
        let taken = |seen: &Sight| {
            let members = Members::of(&own, None, &view, seen);
            members
                .nodes
                .into_iter()
                .filter(|(_, wanted)| wanted.replica.is_some())
                .map(|(node, _)| node.0)
                .collect::<Vec<_>>()
        };
        assert_eq!(taken(&seen), [1], "both follow node 2");
        let own = Group { report: GroupReport { term: 2, ..own.report.clone() }, ..own.clone() };
        let later = Members::of(&own, None, &view, &seen).nodes;
        assert!(later.values().all(|wanted| wanted.replica.is_some()), "that was in an earlier term: {later:?}");
        let timeline = Timeline { chance: 1, ..Timeline::default() };
        let own = Group { report: GroupReport { timeline, ..own.report.clone() }, ..own };
        let older = Members::of(&own, None, &view, &seen).nodes;
        let taken_in: Vec<u64> = older.iter().filter_map(|(node, of)| of.replica.map(|_| node.0)).collect();
        assert_eq!(taken_in, [1], "they follow who leads what there was before: {older:?}");
        // They follow nobody: what has something is taken in where it is of a recovery, and nobody where it is of a restore.
        seen.change(2, |report| report.groups[0].leader = None);
        seen.change(3, |report| report.groups[0].is_new = true);
        let taken_in = |own: &Group, seen: &Sight| {
            let nodes = Members::of(own, None, &view, seen).nodes;
            nodes.into_iter().filter_map(|(node, of)| of.replica.map(|_| node.0)).collect::<Vec<_>>()
        };
        assert_eq!(taken_in(&own, &seen), [1, 2, 3]);
        let restored = Group { report: GroupReport { restored: timeline, ..own.report.clone() }, ..own };
        assert_eq!(taken_in(&restored, &seen), [1, 3], "one is of before that, and one has nothing");
        // A host of before that has begun another group anew, by what it knows, is of the other mesh with that, too.
        let seventh =
            Group { report: GroupReport { group: GroupId(7), ..restored.report.clone() }, ..restored.clone() };
        let mut both = seen.clone();
        for node in 1..=3 {
            let said = GroupReport { group: GroupId(7), is_new: node > 1, ..group(node, &[]).report };
            both.change(node, |report| report.groups.push(said));
        }
        assert_eq!(taken_in(&seventh, &both), [1, 2, 3], "the mesh was not restored");
        both.change(1, |report| report.groups[0].restored = timeline);
        assert_eq!(taken_in(&seventh, &both), [1, 3]);
        let dpu = NodeInfo { kind: NodeKind::Dpu, ..host(2) };
        let with_dpu = ControlView { nodes: view.nodes.clone(), ..view.clone() };
        let mut nodes = with_dpu.nodes.clone();
        nodes.insert(NodeId(2), dpu);
        let of_dpu = Members::of(&restored, None, &ControlView { nodes, ..with_dpu }, &seen).nodes;
        assert!(of_dpu[&NodeId(2)].replica.is_some(), "a DPU has nothing of its own");
        seen.change(2, |report| report.groups[0].leader = None);
        assert_eq!(taken(&seen), [1, 2, 3], "the one remembers who led once");
        seen.change(2, |report| report.groups[0].timeline.chance = 1);
        assert_eq!(taken(&seen), [1, 3], "one has gone on from a backup, and leads nobody yet");
    }

    /// A group was founded on node 1, and is to be of others.
    #[test]
    fn a_group_is_of_its_hosts_alone_in_the_end() {
        let hosts: BTreeSet<NodeId> = [2, 3, 4].map(NodeId).into();
        let mut group = Members {
            voters: set(&[(1, 1)]),
            leader: Some(replica(1, 1)),
            nodes: nodes(&[(2, 1), (3, 1), (4, 1)]),
            hosts: Some(hosts.clone()),
            ..Members::default()
        };
        for host in [2, 3, 4] {
            assert_eq!(group.step(), Some(Step::Follow(replica(host, 1))));
            group.learners.insert(replica(host, 1));
        }
        assert_eq!(group.step(), None, "they have not caught up");
        group.caught_up = set(&[(1, 1), (2, 1), (3, 1), (4, 1)]);
        let vote = |group: &mut Members, voters: &[(u64, u64)]| {
            assert_eq!(group.step(), Some(Step::Vote(set(voters))));
            group.voters = set(voters);
            group.learners = group.learners.difference(&group.voters).copied().collect();
        };
        vote(&mut group, &[(1, 1), (2, 1)]);
        vote(&mut group, &[(1, 1), (2, 1), (3, 1)]);
        assert_eq!(group.step(), None, "it leads, and gives that away first");
        group.leader = Some(replica(2, 1));
        vote(&mut group, &[(2, 1), (3, 1), (4, 1)]);
        assert_eq!(group.step(), None);
        // Who follows and is not to, as all did once, is a member no more.
        group.learners = set(&[(1, 1), (5, 1)]);
        assert_eq!(group.step(), Some(Step::Forget(replica(1, 1))));
        // Another is to have it in the place of one that is not there: of those that answer nobody but it goes.
        group.hosts = Some([2, 3, 5].map(NodeId).into());
        group.nodes = nodes(&[(2, 1), (3, 1), (5, 1)]);
        group.caught_up = set(&[(2, 1), (3, 1), (5, 1)]);
        group.learners = set(&[(5, 1)]);
        vote(&mut group, &[(2, 1), (3, 1), (5, 1)]);
    }

    /// The only host of a mesh is replaced by another one.
    #[test]
    fn who_leads_alone_takes_in_who_is_to_have_it_in_its_place() {
        let mut group = Members {
            voters: set(&[(1, 1)]),
            learners: set(&[(2, 1)]),
            caught_up: set(&[(1, 1), (2, 1)]),
            sound: set(&[(1, 1)]),
            leader: Some(replica(1, 1)),
            nodes: nodes(&[(2, 1)]),
            hosts: Some([NodeId(2)].into()),
            departures: [(NodeId(1), Departure::Asked)].into(),
            ..Members::default()
        };
        assert_eq!(group.step(), Some(Step::Vote(set(&[(1, 1), (2, 1)]))));
        (group.voters, group.learners) = (set(&[(1, 1), (2, 1)]), BTreeSet::new());
        assert_eq!(group.step(), None, "it gives away that it leads");
        (group.leader, group.sound) = (Some(replica(2, 1)), group.voters.clone());
        assert_eq!(group.step(), Some(Step::Vote(set(&[(2, 1)]))));
    }

    #[test]
    fn voters_that_are_too_many_go_once_all_others_have_everything() {
        let voters = set(&[(1, 1), (2, 1), (3, 1), (4, 1), (5, 1)]);
        let mut group = Members {
            // As of when they were heard last.
            caught_up: voters.clone(),
            sound: set(&[(1, 1), (2, 1), (3, 1), (4, 1)]),
            voters,
            leader: Some(replica(1, 1)),
            nodes: nodes(&[(1, 1), (2, 1), (3, 1)]),
            hosts: Some([1, 2, 3].map(NodeId).into()),
            ..Members::default()
        };
        // Without the one that is silent, four are left that have all; without another one, one of four would be.
        let four = set(&[(1, 1), (2, 1), (3, 1), (4, 1)]);
        assert_eq!(group.step(), Some(Step::Vote(four.clone())));
        group.voters = four;
        assert_eq!(group.step(), Some(Step::Vote(set(&[(1, 1), (2, 1), (3, 1)]))));
        group.sound = set(&[(1, 1), (2, 1), (4, 1)]);
        assert_eq!(group.step(), None, "of the three that would be left one is not there");
        // Both that are to go are silent: one after the other.
        let five = Members { voters: set(&[(1, 1), (2, 1), (3, 1), (4, 1), (5, 1)]), ..group.clone() };
        let mut silent = Members { sound: set(&[(2, 1), (3, 1)]), ..five };
        assert_eq!(silent.step(), Some(Step::Vote(set(&[(1, 1), (2, 1), (3, 1), (4, 1)]))));
        silent.voters = set(&[(1, 1), (2, 1), (3, 1), (4, 1)]);
        assert_eq!(silent.step(), Some(Step::Vote(set(&[(1, 1), (2, 1), (3, 1)]))));
        // Of those that are to stay two are: whoever goes, too few are left.
        silent.voters.insert(replica(5, 1));
        silent.sound = set(&[(4, 1), (5, 1)]);
        assert_eq!(silent.step(), None);
        group.sound = group.voters.clone();
        group.caught_up = set(&[(2, 1), (4, 1)]);
        assert_eq!(group.step(), None, "or lags");
        group.caught_up = group.voters.clone();
        group.voters = set(&[(1, 1), (2, 1), (3, 1)]);
        group.hosts = Some([1, 2].map(NodeId).into());
        assert_eq!(group.step(), Some(Step::Vote(set(&[(1, 1), (2, 1)]))));
    }

    #[test]
    fn a_new_node_follows_and_votes_once_it_has_caught_up() {
        let mut group = Members { voters: set(&[(1, 1)]), nodes: nodes(&[(1, 1), (2, 1)]), ..Members::default() };
        assert_eq!(group.step(), Some(Step::Follow(replica(2, 1))));
        group.learners = set(&[(2, 1)]);
        assert_eq!(group.step(), None);
        group.caught_up = set(&[(1, 1), (2, 1)]);
        assert_eq!(group.step(), Some(Step::Vote(set(&[(1, 1), (2, 1)]))));
    }

    #[test]
    fn who_votes_is_of_as_many_zones_and_racks_as_there_are() {
        let all: BTreeSet<ReplicaId> = (1..=6).map(|node| replica(node, 1)).collect();
        let located = [(1, "y/a"), (2, "y/a"), (3, "y/a"), (4, "y/b"), (5, "z/c"), (6, "z/c")];
        let located = located.map(|(node, location)| (NodeId(node), location.parse().ok()));
        let mut group = Members {
            voters: set(&[(1, 1)]),
            learners: all.iter().copied().skip(1).collect(),
            caught_up: all.clone(),
            nodes: nodes(&(1..=6).map(|node| (node, 1)).collect::<Vec<_>>()),
            places: Places::of(located.iter().map(|(node, location)| (*node, location.as_ref()))),
            ..Members::default()
        };
        let next = |group: &mut Members| {
            let Some(Step::Vote(voters)) = group.step() else { panic!("{:?}", group.step()) };
            group.learners = all.difference(&voters).copied().collect();
            group.voters = voters;
            group.voters.iter().map(|voter| voter.node().0).collect::<Vec<_>>()
        };
        assert_eq!(next(&mut group), [1, 5]);
        assert_eq!(next(&mut group), [1, 4, 5]);
        assert_eq!(next(&mut group), [1, 2, 4, 5, 6]);
        assert_eq!(group.step(), None);
        // In the place of who leaves comes one that leaves it so.
        group.departures = [(NodeId(4), Departure::Asked)].into();
        assert_eq!(next(&mut group), [1, 2, 3, 5, 6]);
        let mut nowhere =
            Members { places: Places::default(), voters: set(&[(1, 1)]), departures: Default::default(), ..group };
        nowhere.learners = all.iter().copied().skip(1).collect();
        assert_eq!(next(&mut nowhere), [1, 2]);
        assert_eq!(next(&mut nowhere), [1, 2, 3]);
        assert_eq!(next(&mut nowhere), [1, 2, 3, 4, 5]);
    }

    #[test]
    fn a_replica_that_lost_its_files_is_replaced_in_one_step_once_the_new_one_has_caught_up() {
        let voters = set(&[(1, 1), (2, 1), (3, 1)]);
        let nodes = nodes(&[(1, 1), (2, 1), (3, 2)]);
        let mut group = Members { voters: voters.clone(), nodes, ..Members::default() };
        assert_eq!(group.step(), Some(Step::Follow(replica(3, 2))));
        group.learners = set(&[(3, 2)]);
        assert_eq!(group.step(), None, "it has not caught up");
        group.caught_up = set(&[(1, 1), (2, 1), (3, 2)]);
        assert_eq!(group.step(), Some(Step::Vote(set(&[(1, 1), (2, 1), (3, 2)]))));
        group = Members { voters: set(&[(1, 1), (2, 1), (3, 2)]), learners: BTreeSet::new(), ..group };
        assert_eq!(group.step(), None);
    }

    #[test]
    fn a_damaged_replica_stays_a_member_until_its_node_has_another() {
        let voters = set(&[(1, 1), (2, 1), (3, 1)]);
        let nodes = nodes(&[(1, 1), (2, 1), (3, 0)]);
        assert_eq!(Members { voters, nodes, ..Members::default() }.step(), None);
    }

    #[test]
    fn who_may_not_vote_follows_for_good() {
        let dpu = Wanted { votes: false, replica: Some(replica(9, 1)) };
        let nodes = BTreeMap::from([(NodeId(9), dpu)]);
        let learners = set(&[(9, 1)]);
        let group =
            Members { voters: set(&[(1, 1)]), caught_up: learners.clone(), learners, nodes, ..Members::default() };
        assert_eq!(group.step(), None);
    }

    #[test]
    fn past_lives_that_only_followed_are_forgotten() {
        let group = Members {
            voters: set(&[(1, 1)]),
            learners: set(&[(2, 1), (2, 2), (3, 1)]),
            nodes: nodes(&[(1, 1), (2, 2)]),
            ..Members::default()
        };
        assert_eq!(group.step(), Some(Step::Forget(replica(2, 1))), "what is known of node 3 says nothing");
    }

    #[test]
    fn a_change_that_was_cut_short_is_finished_first() {
        let goal = set(&[(1, 1), (2, 1), (3, 1), (4, 1), (5, 1)]);
        let learners = set(&[(6, 1)]);
        let nodes = nodes(&[(6, 1), (7, 1)]);
        let group = Members {
            voters: goal.clone(),
            caught_up: learners.clone(),
            learners,
            unfinished: Some(goal.clone()),
            nodes,
            ..Members::default()
        };
        assert_eq!(group.step(), Some(Step::Vote(goal)));
        // A replacement leaves two lives of one node: neither counts as a voter more.
        let both = set(&[(1, 1), (2, 1), (3, 1), (3, 2)]);
        let goal = set(&[(1, 1), (2, 1), (3, 2)]);
        let group = Members { voters: both, unfinished: Some(goal.clone()), ..Members::default() };
        assert_eq!(group.step(), Some(Step::Vote(goal)));
    }

    #[test]
    fn from_three_on_voters_are_an_odd_number() {
        let vote = |voters: &[(u64, u64)], learners: &[(u64, u64)]| {
            let learners = set(learners);
            let mut now: Vec<(u64, u64)> = voters.to_vec();
            now.extend(learners.iter().map(|replica| (replica.node().0, 1)));
            let group = Members {
                voters: set(voters),
                caught_up: learners.clone(),
                learners,
                nodes: nodes(&now),
                ..Members::default()
            };
            match group.step() {
                Some(Step::Vote(voters)) => voters.len(),
                step => step.map_or(0, |step| panic!("{step:?}")),
            }
        };
        assert_eq!(vote(&[(1, 1)], &[(2, 1), (3, 1)]), 2);
        assert_eq!(vote(&[(1, 1), (2, 1)], &[(3, 1)]), 3);
        assert_eq!(vote(&[(1, 1), (2, 1), (3, 1)], &[(4, 1)]), 0);
        assert_eq!(vote(&[(1, 1), (2, 1), (3, 1)], &[(4, 1), (5, 1)]), 5);
        // As an earlier version had it.
        assert_eq!(vote(&[(1, 1), (2, 1), (3, 1), (4, 1)], &[(5, 1), (6, 1)]), 5);
    }

    #[test]
    fn who_stays_votes_in_place_of_who_leaves() {
        let voters = set(&[(1, 1), (2, 1), (3, 1)]);
        let mut wanted = nodes(&[(1, 1), (2, 1), (4, 1)]);
        wanted.insert(NodeId(3), Wanted { votes: false, replica: Some(replica(3, 1)) });
        let mut group = Members {
            voters: voters.clone(),
            learners: set(&[(4, 1)]),
            caught_up: set(&[(2, 1), (4, 1)]),
            nodes: wanted,
            leader: Some(replica(1, 1)),
            departures: [(NodeId(3), Departure::Asked)].into(),
            ..Members::default()
        };
        let replaced = Some(Step::Vote(set(&[(1, 1), (2, 1), (4, 1)])));
        assert_eq!(group.step(), replaced);
        group.leader = Some(replica(3, 1));
        assert_eq!(group.step(), None, "it gives that away first");
        group.leader = Some(replica(1, 1));
        group.caught_up = set(&[(2, 1)]);
        assert_eq!(group.step(), None, "nobody else can vote yet, and it goes on");
        // It is heard no more, and whoever has left votes no more.
        group.departures = [(NodeId(3), Departure::Out)].into();
        group.nodes.remove(&NodeId(3));
        assert_eq!(group.step(), Some(Step::Vote(set(&[(1, 1), (2, 1)]))));
        group.caught_up = set(&[(4, 1)]);
        assert_eq!(group.step(), replaced);
        // Of two, and of four, one that leaves is let go while it can agree to that.
        let two = |departures: &[(NodeId, Departure)]| Members {
            voters: set(&[(1, 1), (3, 1)]),
            leader: Some(replica(1, 1)),
            departures: departures.iter().copied().collect(),
            ..Members::default()
        };
        assert_eq!(two(&[(NodeId(3), Departure::Asked)]).step(), Some(Step::Vote(set(&[(1, 1)]))));
        assert_eq!(two(&[(NodeId(1), Departure::Asked)]).step(), None, "it leads");
        let third = Members {
            learners: set(&[(4, 1)]),
            nodes: nodes(&[(1, 1), (4, 1)]),
            ..two(&[(NodeId(3), Departure::Asked)])
        };
        assert_eq!(third.step(), None, "another comes, and until then there are two copies");
        // Of one that followed nothing is left either.
        let group = Members {
            voters: set(&[(1, 1)]),
            learners: set(&[(2, 1), (3, 1)]),
            departures: [(NodeId(2), Departure::Asked), (NodeId(3), Departure::Fenced)].into(),
            ..Members::default()
        };
        assert_eq!(group.step(), Some(Step::Forget(replica(3, 1))));
    }

    #[test]
    fn no_more_vote_than_may() {
        let voters = set(&[(1, 1), (2, 1), (3, 1), (4, 1), (5, 1)]);
        let learners = set(&[(6, 1), (7, 1)]);
        let nodes = nodes(&[(6, 1), (7, 1)]);
        let group = Members { voters, caught_up: learners.clone(), learners, nodes, ..Members::default() };
        assert_eq!(group.step(), None);
    }

    fn arbitrary() -> impl Strategy<Value = Members> {
        let some = || proptest::collection::btree_set((1_u64..7, 1_u64..4), 0..7);
        let one_a_node = |set: BTreeSet<(u64, u64)>| -> Vec<(u64, u64)> {
            set.into_iter().collect::<BTreeMap<u64, u64>>().into_iter().collect()
        };
        let left = proptest::collection::btree_map(1_u64..7, 0..2_u8, 0..4);
        let hosts = proptest::option::of(proptest::collection::btree_set((1_u64..7).prop_map(NodeId), 0..6));
        let all = (some(), some(), some(), some(), some(), some(), left, hosts);
        all.prop_map(move |(voters, learners, caught_up, sound, now, lead, left, hosts)| {
            let how = |how| if how == 0 { Departure::Asked } else { Departure::Out };
            let departures: SharedMap<_, _> = left.into_iter().map(|(node, left)| (NodeId(node), how(left))).collect();
            let mut nodes = nodes(&one_a_node(now));
            nodes.retain(|node, _| departures.get(node) != Some(&Departure::Out));
            nodes.iter_mut().for_each(|(node, wanted)| wanted.votes = !departures.contains_key(node));
            // Who leaves is to have none.
            let hosts = hosts.map(|hosts| hosts.into_iter().filter(|node| !departures.contains_key(node)).collect());
            let is_host = |node: &NodeId| hosts.as_ref().is_none_or(|hosts: &BTreeSet<NodeId>| hosts.contains(node));
            nodes.retain(|node, _| is_host(node));
            let voters: BTreeSet<ReplicaId> = set(&one_a_node(voters));
            let learners: Vec<(u64, u64)> = learners.into_iter().collect();
            let learners = set(&learners).difference(&voters).copied().collect();
            let caught_up: Vec<(u64, u64)> = caught_up.into_iter().collect();
            Members {
                voters,
                learners,
                caught_up: set(&caught_up),
                sound: set(&sound.into_iter().collect::<Vec<_>>()),
                leader: set(&one_a_node(lead)).into_iter().next(),
                nodes,
                hosts,
                departures,
                ..Members::default()
            }
        })
    }

    proptest! {
        /// Whatever a leader sees: a step changes one member, takes in two voters, or lets go of who has left; no sound voter that
        /// stays is voted out, a quorum grows only by nodes that did not vote before, and no node votes twice. Steps come to an end.
        #[test]
        fn steps_are_small_and_end(group in arbitrary()) {
            let mut group = group;
            for _ in 0..64 {
                let Some(step) = group.step() else { return Ok(()) };
                match step {
                    Step::Follow(new) => prop_assert!(group.learners.insert(new)),
                    Step::Forget(old) => prop_assert!(group.learners.remove(&old)),
                    Step::Vote(voters) => {
                        let out: Vec<_> = group.voters.difference(&voters).copied().collect();
                        let new: Vec<_> = voters.difference(&group.voters).copied().collect();
                        let lets_go = new.is_empty() && out.len() == 1;
                        prop_assert!(out.iter().all(|old| group.leader != Some(*old) || group.is_past(*old)));
                        let most = group.hosts.as_ref().map_or(VOTERS_MAX, BTreeSet::len);
                        let takes_in = new.len() == 2 && out.is_empty() && voters.len() == VOTERS_MAX && most == VOTERS_MAX;
                        prop_assert!(new.len() == 1 || takes_in || lets_go);
                        prop_assert!(new.iter().all(|new| !group.departures.contains_key(&new.node())));
                        prop_assert!(new.iter().all(|new| !group.is_guest(new.node())));
                        for new in &new {
                            prop_assert!(group.learners.remove(new) && group.caught_up.contains(new));
                        }
                        for old in out {
                            let leaves = group.departures.contains_key(&old.node()) || group.is_guest(old.node());
                            prop_assert!(leaves || (group.is_past(old) && old.node() == new[0].node()));
                        }
                        let nodes: BTreeSet<_> = voters.iter().map(|voter| voter.node()).collect();
                        prop_assert_eq!(nodes.len(), voters.len());
                        let alone = group.voters.iter().all(|voter| group.is_guest(voter.node()));
                        let heir = usize::from(group.voters.len() == 1 && alone);
                        prop_assert!(voters.len() <= most.max(group.voters.len() + heir));
                        group.voters = voters;
                    }
                }
            }
            prop_assert!(false, "it never ends");
        }
    }
}
