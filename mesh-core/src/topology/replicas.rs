//! Which hosts have the replicas of which namespace group.
//!
//! A pure function of what the control group says, so that whoever has a replica, whoever leads the group and whoever only
//! looks for one come to the same, and nothing is stored of it. The control group is not of it: every node follows that one.
//!
//! Hosts are ranked for each group by a hash (highest random weight: Thaler and Ravishankar, "Using name-based mappings to
//! increase hit rates", IEEE/ACM Transactions on Networking, 1998), and passed over where they have more than their share
//! already (bounded loads: Mirrokni, Thorup and Zadimoghaddam, "Consistent hashing with bounded loads", SODA 2018). So when a
//! host comes or goes little more moves than must, and none has more than a quarter more than the mean; but first of all the
//! replicas of a group are of as many zones and racks as there are.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
};

use super::{Leaving, NodeInfo, NodeKind, mix};
use crate::{
    id::{GroupId, NodeId},
    meta::{ControlView, Level},
};

/// Replicas that a group has at most.
pub const REPLICAS_MAX: usize = 5;
/// Replicas of a group where the mesh's codes bear the loss of one node.
const REPLICAS: usize = 3;

/// The hosts of each namespace group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Replicas {
    groups: Vec<BTreeSet<NodeId>>,
}

impl Replicas {
    /// As the control group says; none before all nodes know of it: then each host has a replica of each group.
    ///
    /// A group has as many replicas as it takes to bear the losses that what is stored bears, three or five, as far as there
    /// are hosts, and never four or, of more than two hosts, two. Who leaves gets none; who is away, and whose drives are used
    /// no more for that, only where nobody else is there.
    #[must_use]
    pub fn of(view: &ControlView) -> Option<Self> {
        Grounds::of(view).map(|grounds| grounds.replicas())
    }

    /// The hosts of a namespace group; none: it is not one.
    #[must_use]
    pub fn hosts(&self, group: GroupId) -> Option<&BTreeSet<NodeId>> {
        self.groups.get(usize::try_from(group.0).ok()?.checked_sub(1)?)
    }
}

/// The hosts that have drives of which none is used, for they have been away for long.
fn away(view: &ControlView) -> BTreeSet<NodeId> {
    let is_away = |drive| view.leaving.get(&drive) == Some(&Leaving::Away);
    let (away, used): (Vec<_>, Vec<_>) = view.drives.values().partition(|drive| is_away(drive.id));
    let used: BTreeSet<NodeId> = used.into_iter().map(|drive| drive.node).collect();
    away.into_iter().map(|drive| drive.node).filter(|node| !used.contains(node)).collect()
}

/// All that [`Replicas`] come from.
#[derive(Debug, PartialEq, Eq)]
struct Grounds {
    groups: usize,
    /// Replicas of each.
    wanted: usize,
    hosts: Vec<Host>,
}

/// A host that may have replicas.
#[derive(Debug, PartialEq, Eq)]
struct Host {
    id: NodeId,
    zone: NodeId,
    rack: NodeId,
    is_away: bool,
}

impl Grounds {
    fn of(view: &ControlView) -> Option<Self> {
        if view.level < Level::REPLICAS {
            return None;
        }
        let (places, away) = (view.places(), away(view));
        let stays = |info: &&NodeInfo| info.kind == NodeKind::Host && !view.departures.contains_key(&info.id);
        let host = |info: &NodeInfo| {
            let [zone, rack, id] = places.domains(info.id);
            Host { id, zone, rack, is_away: away.contains(&id) }
        };
        let hosts: Vec<Host> = view.nodes.values().filter(stays).map(host).collect();
        let many = view.all_codes().any(|code| code.parity > 1);
        let wanted = match hosts.len() {
            few @ 0..REPLICAS => few,
            REPLICAS_MAX.. if many => REPLICAS_MAX,
            _ => REPLICAS,
        };
        Some(Self { groups: usize::from(view.namespaces), wanted, hosts })
    }

    fn replicas(&self) -> Replicas {
        let Self { groups, wanted, hosts } = self;
        if hosts.len() == *wanted {
            let all: BTreeSet<NodeId> = hosts.iter().map(|host| host.id).collect();
            return Replicas { groups: vec![all; *groups] };
        }
        // A quarter more than the mean.
        let share = (5 * groups * wanted).div_ceil(4 * hosts.len());
        let mut load = vec![0; hosts.len()];
        let mut of_group = |group: u64| {
            let mut chosen: Vec<usize> = Vec::with_capacity(*wanted);
            for _ in 0..*wanted {
                let rank = |at: &usize| {
                    let host = &hosts[*at];
                    let with =
                        |same: &dyn Fn(&Host) -> bool| chosen.iter().filter(|other| same(&hosts[**other])).count();
                    let in_zone = with(&|other| other.zone == host.zone);
                    let in_rack = with(&|other| other.rack == host.rack);
                    (host.is_away, in_zone, in_rack, load[*at] >= share, mix(mix(group) ^ host.id.0), host.id)
                };
                let next = (0..hosts.len()).filter(|at| !chosen.contains(at)).min_by_key(rank);
                chosen.extend(next);
            }
            chosen.iter().for_each(|at| load[*at] += 1);
            chosen.into_iter().map(|at| hosts[at].id).collect()
        };
        Replicas { groups: (1..=*groups as u64).map(&mut of_group).collect() }
    }
}

/// [`Replicas`], made again only where something has changed that they come from. Clones begin with nothing.
#[derive(Debug, Default)]
pub struct KnownReplicas(Mutex<Option<Known>>);

#[derive(Debug)]
struct Known {
    /// Of this, as far as it was looked at.
    view: ControlView,
    grounds: Option<Grounds>,
    replicas: Option<Arc<Replicas>>,
}

impl Clone for KnownReplicas {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl KnownReplicas {
    /// As the control group says.
    #[must_use]
    pub fn of(&self, view: &ControlView) -> Option<Arc<Replicas>> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = &*known
            && is_same(&known.view, view)
        {
            return known.replicas.clone();
        }
        // Nodes that start again, say, change the view and not this.
        let grounds = Grounds::of(view);
        let replicas = match &*known {
            Some(known) if known.grounds == grounds => known.replicas.clone(),
            _ => grounds.as_ref().map(|grounds| Arc::new(grounds.replicas())),
        };
        // All else of the view would be kept for nothing.
        let view = ControlView {
            code: view.code,
            namespaces: view.namespaces,
            nodes: view.nodes.clone(),
            drives: view.drives.clone(),
            level: view.level,
            leaving: view.leaving.clone(),
            departures: view.departures.clone(),
            codes: view.codes.clone(),
            ..ControlView::default()
        };
        *known = Some(Known { view, grounds, replicas: replicas.clone() });
        replicas
    }
}

/// Whether nothing has been put into one of them since that the other had not.
fn is_same(one: &ControlView, other: &ControlView) -> bool {
    let maps = one.nodes.is_same(&other.nodes)
        && one.drives.is_same(&other.drives)
        && one.leaving.is_same(&other.leaving)
        && one.departures.is_same(&other.departures);
    maps && (one.level, one.namespaces, one.code) == (other.level, other.namespaces, other.code)
        && one.codes == other.codes
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{
        id::{DriveId, Epoch, Incarnation},
        topology::{Code, Departure, DriveInfo, NodeInfo},
    };

    fn host(node: u64) -> NodeInfo {
        NodeInfo {
            id: NodeId(node),
            kind: NodeKind::Host,
            address: String::new(),
            incarnation: Incarnation(1),
            pid: 1,
            draining: false,
            attached_to: None,
            emulated: None,
            life: node,
            invitation: 0,
            level: Level::REPLICAS,
            location: None,
        }
    }

    fn drive(id: u64, node: u64) -> (DriveId, DriveInfo) {
        let info = DriveInfo { id: DriveId(id), node: NodeId(node), capacity_bytes: 1, epoch: Epoch(1), seat: None };
        (info.id, info)
    }

    fn mesh(hosts: u64, namespaces: u16, parity: u8) -> ControlView {
        ControlView {
            level: Level::REPLICAS,
            namespaces,
            code: Some(Code { data: 2, parity }),
            nodes: (1..=hosts).map(|node| (NodeId(node), host(node))).collect(),
            drives: (1..=hosts).map(|node| drive(node, node)).collect(),
            ..ControlView::default()
        }
    }

    fn groups(view: &ControlView) -> Vec<BTreeSet<NodeId>> {
        Replicas::of(view).map(|replicas| replicas.groups).unwrap_or_default()
    }

    /// How many have moved.
    fn moved(before: &ControlView, after: &ControlView) -> usize {
        let (before, after) = (groups(before), groups(after));
        before.iter().zip(&after).map(|(before, after)| after.difference(before).count()).sum()
    }

    #[test]
    fn a_group_bears_what_data_bear_as_far_as_there_are_hosts() {
        let sizes = |parity| {
            [1, 2, 3, 4, 5, 9].map(|hosts| {
                let groups = groups(&mesh(hosts, 8, parity));
                assert!(groups.windows(2).all(|two| two[0].len() == two[1].len()) && groups.len() == 8);
                groups[0].len()
            })
        };
        assert_eq!(sizes(1), [1, 2, 3, 3, 3, 3]);
        assert_eq!(sizes(2), [1, 2, 3, 3, 5, 5]);
        // Of a bucket's code, too.
        let copies = ControlView { codes: vec![Code { data: 1, parity: 2 }], ..mesh(9, 1, 1) };
        assert_eq!(groups(&copies)[0].len(), 5);
        let replicas = Replicas::of(&mesh(9, 2, 1)).unwrap_or_default();
        let of = [0, 1, 2, 3].map(|group| replicas.hosts(GroupId(group)).map(BTreeSet::len));
        assert_eq!(of, [None, Some(3), Some(3), None]);
        assert_eq!(Replicas::of(&ControlView { level: Level(7), ..mesh(9, 1, 1) }), None);
    }

    #[test]
    fn none_has_more_than_a_quarter_more_than_the_mean_and_little_moves() {
        let view = mesh(20, 64, 1);
        let mut load: BTreeMap<NodeId, usize> = BTreeMap::new();
        groups(&view).iter().flatten().for_each(|host| *load.entry(*host).or_default() += 1);
        assert_eq!((load.len(), load.values().sum::<usize>()), (20, 192));
        assert!(load.values().all(|load| *load <= 12), "{load:?}");
        // One more has a share of its own, and one less leaves its to others; twice that at most.
        let more = mesh(21, 64, 1);
        assert!((1..=20).contains(&moved(&view, &more)), "{}", moved(&view, &more));
        let less = ControlView { departures: [(NodeId(7), Departure::Asked)].into(), ..view.clone() };
        assert!(groups(&less).iter().flatten().all(|host| *host != NodeId(7)));
        assert!((8..=20).contains(&moved(&view, &less)), "{}", moved(&view, &less));
    }

    #[test]
    fn the_replicas_of_a_group_are_of_as_many_zones_and_racks_as_there_are() {
        let mut view = mesh(9, 16, 1);
        let located = |node: u64| {
            let text = format!("zone-{}/rack-{}", node % 2, node % 4);
            NodeInfo { location: text.parse().ok(), ..host(node) }
        };
        view.nodes = (1..=9).map(|node| (NodeId(node), located(node))).collect();
        for group in groups(&view) {
            let distinct = |by: u64| group.iter().map(|node| node.0 % by).collect::<BTreeSet<_>>().len();
            assert_eq!((distinct(2), distinct(4)), (2, 3), "{group:?}");
        }
    }

    #[test]
    fn who_is_away_is_replaced_where_somebody_is_there_and_is_back_as_it_was() {
        let view = mesh(6, 8, 1);
        let away = ControlView { leaving: [(DriveId(2), Leaving::Away)].into(), ..view.clone() };
        assert!(groups(&view).iter().any(|group| group.contains(&NodeId(2))));
        assert!(groups(&away).iter().all(|group| group.len() == 3 && !group.contains(&NodeId(2))));
        // One drive of it is used, or a person has it emptied.
        let mut used = away.clone();
        used.drives.extend([drive(9, 2)]);
        let asked = ControlView { leaving: [(DriveId(2), Leaving::Asked)].into(), ..view.clone() };
        assert_eq!([groups(&used), groups(&asked)], [groups(&view), groups(&view)]);
        // Nobody else is there.
        let three = mesh(3, 1, 1);
        let away = ControlView { leaving: away.leaving, ..three.clone() };
        assert_eq!(groups(&away), groups(&three));
    }

    #[test]
    fn what_is_known_is_made_anew_once_something_of_it_changes() {
        let known = KnownReplicas::default();
        let mut view = mesh(6, 8, 1);
        let first = known.of(&view);
        assert_eq!(first.as_deref(), Replicas::of(&view).as_ref());
        let again = known.of(&ControlView { wishes: Default::default(), ..view.clone() });
        // A node that has started again, too.
        view.nodes.extend([(NodeId(2), NodeInfo { incarnation: Incarnation(9), ..host(2) })]);
        for again in [again, known.of(&view)] {
            assert!(first.as_ref().zip(again).is_some_and(|(first, again)| Arc::ptr_eq(first, &again)));
        }
        let changes: [fn(&mut ControlView); 6] = [
            |view| view.departures.extend([(NodeId(1), Departure::Out)]),
            |view| view.nodes.extend([(NodeId(7), host(7))]),
            |view| view.leaving.extend([(DriveId(3), Leaving::Away)]),
            |view| view.namespaces = 9,
            |view| view.codes = vec![Code { data: 1, parity: 2 }],
            |view| view.level = Level::FIRST,
        ];
        for change in changes {
            change(&mut view);
            assert_eq!(known.of(&view).as_deref(), Replicas::of(&view).as_ref());
        }
    }
}
