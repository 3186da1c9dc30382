//! Who speaks: whether a beat is of the node that is known under its number, where it listens, and what is to be remembered
//! of it, whatever becomes of its files. The judgement is [`witness`]'s.

use core::{net::SocketAddr, time::Duration};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use mesh_core::{
    id::{GroupId, Incarnation, NodeId},
    meta::ControlView,
    op::{Beat, NodeReport, Witness},
    shared::SharedMap,
    time::Instant,
    topology::NodeInfo,
};

use super::Group;
use crate::witness::{self, Rival, Said, Verdict};

/// What one node knows of who the others are.
#[derive(Clone, Debug, Default)]
pub struct Acquaintances {
    /// What is to be remembered of each one.
    witnesses: SharedMap<NodeId, Witness>,
    /// Another start of somebody counts since this was last asked.
    restarts: bool,
    /// Starts that came with another replica than was known: what went before was their own past, and nobody beside them.
    renewed: BTreeMap<NodeId, Incarnation>,
    /// Where each one listens, and as of which start.
    addresses: BTreeMap<NodeId, (Incarnation, SocketAddr)>,
    /// Those whose address a person or the configuration gave, until they speak for themselves.
    given: BTreeSet<NodeId>,
    /// The start whose beat counted least of late, and why.
    turned_away: Arc<BTreeMap<NodeId, (Incarnation, Verdict)>>,
    /// Starts whose beats do not count and go on: of each number a few.
    insistent: BTreeMap<NodeId, Vec<Insistent>>,
    /// The latest start of each number of which another said that it is registered, and which was right.
    told: BTreeMap<NodeId, Incarnation>,
    /// Whose beats were said not to count, by address: of each number a few.
    refused: BTreeMap<NodeId, BTreeSet<String>>,
}

/// A start that beats, and does not count.
#[derive(Clone, Debug)]
struct Insistent {
    start: Incarnation,
    address: String,
    since: Instant,
    last: Instant,
}

/// What is to be thought of a beat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Met {
    /// It counts.
    Known,
    /// It counts, and what was heard under its number before was of another machine.
    Anew,
    /// It does not count, which was said before, or is not to be said yet.
    TurnedAway,
    /// It does not count, and that is to be said.
    Refused(Verdict),
}

impl Acquaintances {
    /// What is remembered of each node that has spoken.
    #[must_use]
    pub const fn witnesses(&self) -> &SharedMap<NodeId, Witness> {
        &self.witnesses
    }

    /// The start of each number whose beat did not count, and why.
    #[must_use]
    pub const fn turned_away(&self) -> &Arc<BTreeMap<NodeId, (Incarnation, Verdict)>> {
        &self.turned_away
    }

    /// A beat of this start does not count.
    pub fn insists(&mut self, beat: &Beat, now: Instant, silence: Duration) {
        let all = self.insistent.entry(beat.node).or_default();
        all.retain(|one| now.since(one.last) < silence);
        if let Some(one) = all.iter_mut().find(|one| one.start == beat.incarnation) {
            (one.last, one.address) = (now, beat.address.clone());
            return;
        }
        if all.len() >= INSISTENT_MAX {
            all.remove(0);
        }
        all.push(Insistent { start: beat.incarnation, address: beat.address.clone(), since: now, last: now });
    }

    /// The starts that are turned away and run for certain: they have gone on to beat for longer than what a process that
    /// has ended left behind could be under way, and do still.
    pub fn alive_all_the_same(&self, now: Instant, silence: Duration) -> impl Iterator<Item = (NodeId, Incarnation)> {
        let is_alive = move |one: &&Insistent| one.last.since(one.since) >= silence && now.since(one.last) < silence;
        let all = self.insistent.iter().flat_map(|(node, all)| all.iter().map(move |one| (*node, one)));
        all.filter(move |(_, one)| is_alive(one)).map(|(node, one)| (node, one.start))
    }

    /// Where this start beats from in vain, if it did so just now.
    #[must_use]
    pub fn insists_from(&self, node: NodeId, start: Incarnation, now: Instant, silence: Duration) -> Option<&str> {
        let one = self.insistent.get(&node)?.iter().find(|one| one.start == start)?;
        (now.since(one.last) < silence).then_some(&one.address)
    }

    /// The nodes of which it is known where they listen.
    pub fn located(&self) -> impl Iterator<Item = NodeId> {
        self.addresses.keys().copied()
    }

    /// A person or the configuration says where a node listens: it counts until the node says so itself.
    pub fn given(&mut self, node: NodeId, address: SocketAddr, as_of: Incarnation) -> Option<SocketAddr> {
        self.given.insert(node);
        self.locate(node, address, as_of)
    }

    /// Where a node listens, unless something newer is known: what was stored before a restart must not replace what it has
    /// said itself since. Gives what counts, if that is not older.
    pub fn locate(&mut self, node: NodeId, address: SocketAddr, as_of: Incarnation) -> Option<SocketAddr> {
        let known = self.addresses.entry(node).or_insert((as_of, address));
        if known.0 > as_of {
            return None;
        }
        *known = (as_of, address);
        Some(address)
    }

    /// The same, where that is news.
    pub fn locate_anew(&mut self, node: NodeId, address: SocketAddr, as_of: Incarnation) -> Option<SocketAddr> {
        let is_known = self.addresses.get(&node) == Some(&(as_of, address));
        if is_known { None } else { self.locate(node, address, as_of) }
    }

    /// What is remembered of a node: what it said itself, or what the control group knows since before this start.
    #[must_use]
    pub fn witness(&self, node: NodeId, control: &ControlView, group: Option<&Group>) -> Option<Witness> {
        self.witnesses.get(&node).copied().or_else(|| {
            let info = control.nodes.get(&node)?;
            let members = group.into_iter().flat_map(|group| group.voters.iter().chain(&group.learners));
            let replica = members.copied().find(|replica| replica.node() == node);
            Some(Witness { life: info.life, incarnation: info.incarnation, replica, marked: 0 })
        })
    }

    /// Hears which starts the mesh has registered: of two machines that started at once under one number it is that one,
    /// whichever this node had heard first. Gives the nodes of which another start counts now.
    pub fn heed_starts(&mut self, control: &ControlView, said: &SharedMap<NodeId, Arc<NodeReport>>) -> Vec<NodeId> {
        let is_same = |info: &&NodeInfo| self.witnesses.get(&info.id).is_some_and(|known| known.life == info.life);
        let members: Vec<&NodeInfo> = control.nodes.values().filter(is_same).collect();
        let counts: Vec<(NodeId, Incarnation)> = members.iter().map(|info| (info.id, info.incarnation)).collect();
        let is_other = |(node, start): &(NodeId, Incarnation)| self.heed_start(*node, *start, said.get(node), false);
        counts.into_iter().filter(is_other).map(|(node, _)| node).collect()
    }

    /// The same of one node, that start of which is registered; `is_alive`: as another says, and it runs, although it does not
    /// count here. Registered starts only ever grow: who says less has not heard of the latest. Whether another start of the
    /// node counts now.
    pub fn heed_start(
        &mut self,
        node: NodeId,
        registered: Incarnation,
        said: Option<&Arc<NodeReport>>,
        is_alive: bool,
    ) -> bool {
        let (Some(known), Some(report)) = (self.witnesses.get(&node).copied(), said) else { return false };
        let counts = (report.life, report.incarnation) == (known.life, known.incarnation);
        let is_latest = self.told.get(&node).is_none_or(|told| *told <= registered);
        if !counts || !is_latest || known.incarnation == registered {
            return false;
        }
        // Two that run at once are a node and its copy, whatever the copy knows.
        let is_successor = self.renewed.get(&node) == Some(&known.incarnation);
        if !is_alive && (is_successor || !witness::gives_way(&report.starts, registered)) {
            return false;
        }
        if is_alive {
            self.told.insert(node, registered);
        }
        self.remember(node, Witness { incarnation: registered, marked: 0, ..known });
        self.addresses.remove(&node);
        true
    }

    fn remember(&mut self, node: NodeId, witness: Witness) {
        let before = self.witnesses.insert(node, witness);
        let is_same = before.is_some_and(|old| (old.life, old.incarnation) == (witness.life, witness.incarnation));
        self.restarts |= !is_same;
    }

    /// Whether another start of somebody counts since this was last asked.
    pub(super) fn take_restarts(&mut self) -> bool {
        core::mem::take(&mut self.restarts)
    }

    /// A beat came, of a node with this report. `known`: see [`Self::witness`]; `member`: the life of the node that has this
    /// number in the mesh; `rival`: how the start that counts is, if it is at another address.
    pub fn meet(
        &mut self,
        beat: &Beat,
        report: &NodeReport,
        known: Option<&Witness>,
        member: Option<u64>,
        rival: Rival,
    ) -> Met {
        let (node, said) = (beat.node, said(report, beat));
        let verdict = witness::judge(&said, known, member, rival);
        if verdict != Verdict::Known {
            let turned_away = (beat.incarnation, verdict.clone());
            if self.turned_away.get(&node) != Some(&turned_away) {
                Arc::make_mut(&mut self.turned_away).insert(node, turned_away);
            }
            if verdict == Verdict::TooSoon {
                return Met::TurnedAway;
            }
            let addresses = self.refused.entry(node).or_default();
            let is_news = addresses.len() < REFUSED_MAX && addresses.insert(beat.address.clone());
            return if is_news { Met::Refused(verdict) } else { Met::TurnedAway };
        }
        if self.turned_away.get(&node).is_some_and(|(start, _)| *start == beat.incarnation) {
            Arc::make_mut(&mut self.turned_away).remove(&node);
        }
        if let Some(all) = self.insistent.get_mut(&node) {
            all.retain(|one| one.start != beat.incarnation);
        }
        // Until it speaks for itself, another's word for where it is counts.
        if self.given.remove(&node) {
            self.addresses.remove(&node);
        }
        // What another machine said under this number was of itself.
        let is_other = known.is_some_and(|known| known.life != said.life);
        if is_other {
            self.addresses.remove(&node);
        }
        // Two that start at once from copies of one folder have the same replica. One that was set back, and was renewed for
        // that, does not know the start before it either; to give way to that would be to be set back again.
        let has_another = |known: &&Witness| known.incarnation != said.incarnation() && known.replica != said.replica;
        if known.filter(has_another).is_some_and(|known| known.life == said.life && known.replica.is_some()) {
            self.renewed.insert(node, said.incarnation());
        }
        let remembered = said.remembered(known);
        if self.witnesses.get(&node) != Some(&remembered) {
            self.remember(node, remembered);
        }
        if is_other { Met::Anew } else { Met::Known }
    }
}

/// What a node says of itself in a report, and how often its store is marked. A beat that comes late speaks of a replica that
/// may be no more: what that one had promised says nothing of its successor.
#[must_use]
pub fn said<'a>(report: &'a NodeReport, beat: &Beat) -> Said<'a> {
    let control = report.groups.iter().find(|said| said.group == GroupId::CONTROL);
    let replica = control.map(|said| said.replica);
    let marked = if beat.replica == replica { beat.marked } else { 0 };
    Said { life: report.life, starts: &report.starts, replica, marked }
}

/// Addresses of which it is said that their beats do not count: of each number.
pub(super) const REFUSED_MAX: usize = 8;
/// Starts of each number whose beats do not count that are told apart.
const INSISTENT_MAX: usize = 4;

impl Acquaintances {
    /// Whether of no number more is remembered than is to be.
    pub(super) fn is_bounded(&self) -> bool {
        self.refused.values().all(|addresses| addresses.len() <= REFUSED_MAX)
            && self.insistent.values().all(|all| all.len() <= INSISTENT_MAX)
    }

    #[cfg(test)]
    pub(super) fn refuse_for_ever(&mut self, node: NodeId) {
        let many = (0..=REFUSED_MAX).map(|one| one.to_string());
        self.refused.entry(node).or_default().extend(many);
    }
}

#[cfg(test)]
mod tests {
    use mesh_core::{id::ReplicaId, op::GroupReport};

    use super::*;
    use crate::steward::tests::{group, host};

    const NODE: NodeId = NodeId(2);

    fn report(life: u64, starts: &[u64], port: u16) -> NodeReport {
        let starts: Vec<Incarnation> = starts.iter().copied().map(Incarnation).collect();
        NodeReport {
            node: NODE,
            life,
            incarnation: *starts.last().unwrap(),
            starts,
            address: format!("127.0.0.1:{port}"),
            ..NodeReport::default()
        }
    }

    fn meet(
        known: &mut Acquaintances,
        report: &NodeReport,
        witness: Option<&Witness>,
        member: Option<u64>,
        rival: Rival,
    ) -> Met {
        let (node, incarnation, address) = (report.node, report.incarnation, report.address.clone());
        let beat = Beat { node, incarnation, address, ..Beat::default() };
        known.meet(&beat, report, witness, member, rival)
    }

    fn at(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    #[test]
    fn who_speaks_for_itself_is_where_it_says_and_an_older_word_counts_no_more() {
        let mut known = Acquaintances::default();
        assert_eq!(known.given(NODE, at(1), Incarnation(50)), Some(at(1)));
        // Its start is older than the moment at which its address was given: it counts all the same.
        assert_eq!(meet(&mut known, &report(1, &[5], 2), None, None, Rival::None), Met::Known);
        assert_eq!(known.locate(NODE, at(2), Incarnation(5)), Some(at(2)));
        assert_eq!(known.locate(NODE, at(9), Incarnation(4)), None);
        assert_eq!(known.witnesses()[&NODE].incarnation, Incarnation(5));
    }

    #[test]
    fn a_twin_is_turned_away_and_said_once() {
        let mut known = Acquaintances::default();
        meet(&mut known, &report(1, &[5], 1), None, Some(1), Rival::None);
        let witness = known.witnesses()[&NODE];
        let twin = report(1, &[6], 2);
        assert_eq!(meet(&mut known, &twin, Some(&witness), Some(1), Rival::Alive), Met::Refused(Verdict::Twin));
        assert_eq!(meet(&mut known, &twin, Some(&witness), Some(1), Rival::Alive), Met::TurnedAway);
        assert_eq!(known.turned_away()[&NODE], (Incarnation(6), Verdict::Twin));
        assert_eq!(known.witnesses()[&NODE], witness);
        // The other is silent by now: it counts, and is turned away no more.
        let restarted = report(1, &[5, 6], 2);
        assert_eq!(meet(&mut known, &restarted, Some(&witness), Some(1), Rival::None), Met::Known);
        assert!(known.turned_away().is_empty());
        for port in 10..30 {
            meet(&mut known, &report(1, &[7], port), Some(&witness), Some(1), Rival::Alive);
        }
        assert!(known.is_bounded());
    }

    #[test]
    fn what_a_replica_that_is_no_more_had_promised_says_nothing_of_its_successor() {
        let mut known = Acquaintances::default();
        let with = |replica: u64, starts: &[u64]| {
            let replica = ReplicaId::new(NODE, replica);
            let said = GroupReport { replica, ..group(NODE.0, &[]).report };
            NodeReport { groups: vec![said], ..report(1, starts, 1) }
        };
        let beat = |replica: u64, marked, report: &NodeReport| Beat {
            node: NODE,
            incarnation: report.incarnation,
            address: report.address.clone(),
            replica: Some(ReplicaId::new(NODE, replica)),
            marked,
            ..Beat::default()
        };
        let mut meet = |beat: Beat, report: &NodeReport| {
            let before = known.witnesses().get(&NODE).copied();
            let met = known.meet(&beat, report, before.as_ref(), Some(1), Rival::None);
            (met, known.witnesses()[&NODE].marked)
        };
        let old = with(1, &[5]);
        assert_eq!(meet(beat(1, 500, &old), &old), (Met::Known, 500));
        // It was renewed: its store begins anew.
        let new = with(2, &[5]);
        assert_eq!(meet(beat(2, 3, &new), &new), (Met::Known, 3));
        assert_eq!(meet(beat(1, 501, &new), &new), (Met::Known, 3), "this one was under way for long");
        let again = with(2, &[5, 6]);
        assert_eq!(meet(beat(2, 4, &again), &again), (Met::Known, 4), "and so its next start counts");
    }

    #[test]
    fn of_two_starts_at_once_the_registered_one_counts() {
        let mut known = Acquaintances::default();
        let mut control = ControlView::default();
        let heard = report(1, &[5, 7], 1);
        meet(&mut known, &heard, None, None, Rival::None);
        known.locate(NODE, at(1), Incarnation(7));
        let said = SharedMap::from([(NODE, Arc::new(heard))]);
        control.nodes.insert(NODE, NodeInfo { incarnation: Incarnation(6), ..host(2) });
        assert_eq!(known.heed_starts(&control, &said), [NODE]);
        assert_eq!((known.witnesses()[&NODE].incarnation, known.located().count()), (Incarnation(6), 0));
        assert_eq!(known.heed_starts(&control, &said), []);
    }

    #[test]
    fn a_start_that_was_set_back_and_renewed_does_not_give_way_to_the_one_before_it() {
        let with = |replica: u64, starts: &[u64]| {
            let replica = ReplicaId::new(NODE, replica);
            let said = GroupReport { replica, ..group(NODE.0, &[]).report };
            let report = NodeReport { groups: vec![said], ..report(1, starts, 1) };
            let (incarnation, address) = (report.incarnation, report.address.clone());
            (Beat { node: NODE, incarnation, address, replica: Some(replica), ..Beat::default() }, report)
        };
        let mut known = Acquaintances::default();
        let mut meet = |(beat, report): &(Beat, NodeReport)| {
            let before = known.witnesses().get(&NODE).copied();
            known.meet(beat, report, before.as_ref(), Some(1), Rival::None)
        };
        assert_eq!(meet(&with(1, &[1, 2])), Met::Known);
        // Its folder was put back to before the start 2, which is the registered one.
        assert!(matches!(meet(&with(1, &[1, 3])), Met::Refused(Verdict::SetBack(_))));
        let renewed = with(2, &[1, 3]);
        assert_eq!(meet(&renewed), Met::Known);
        let said = SharedMap::from([(NODE, Arc::new(renewed.1.clone()))]);
        assert!(!known.heed_start(NODE, Incarnation(2), said.get(&NODE), false));
        assert_eq!(known.witnesses()[&NODE].incarnation, Incarnation(3));
        // Of two that started at once from copies of one folder, one does.
        let mut known = Acquaintances::default();
        let (beat, sibling) = with(1, &[1, 3]);
        assert_eq!(known.meet(&beat, &sibling, None, Some(1), Rival::None), Met::Known);
        let said = SharedMap::from([(NODE, Arc::new(sibling))]);
        assert!(known.heed_start(NODE, Incarnation(2), said.get(&NODE), false));
    }

    #[test]
    fn another_machine_under_a_number_that_is_no_members_begins_anew() {
        let mut known = Acquaintances::default();
        meet(&mut known, &report(1, &[5], 1), None, None, Rival::None);
        let witness = known.witnesses()[&NODE];
        assert_eq!(meet(&mut known, &report(2, &[8], 2), Some(&witness), None, Rival::None), Met::Anew);
        assert_eq!(known.witnesses()[&NODE].life, 2);
    }

    #[test]
    fn where_somebody_listens_is_news_once() {
        let mut known = Acquaintances::default();
        assert_eq!(known.located().count(), 0);
        assert_eq!(known.locate_anew(NODE, at(1), Incarnation(5)), Some(at(1)));
        assert_eq!(known.locate_anew(NODE, at(1), Incarnation(5)), None);
        assert_eq!(known.locate_anew(NODE, at(2), Incarnation(5)), Some(at(2)));
        assert_eq!(known.locate_anew(NODE, at(1), Incarnation(4)), None, "an older word");
        assert_eq!(known.located().collect::<Vec<_>>(), [NODE]);
    }

    #[test]
    fn another_start_of_somebody_counts_once_and_what_else_is_remembered_is_none() {
        let mut known = Acquaintances::default();
        assert!(!known.take_restarts());
        let meet = |known: &mut Acquaintances, report: &NodeReport| {
            let before = known.witnesses().get(&NODE).copied();
            meet(known, report, before.as_ref(), None, Rival::None);
            (known.take_restarts(), known.take_restarts())
        };
        assert_eq!(meet(&mut known, &report(1, &[5], 1)), (true, false));
        assert_eq!(meet(&mut known, &report(1, &[5], 1)), (false, false));
        assert_eq!(meet(&mut known, &report(1, &[5, 6], 1)), (true, false));
        assert_eq!(meet(&mut known, &report(2, &[6], 1)), (true, false), "of another life");
        // A replica is made: it is the same start.
        let replica = ReplicaId::new(NODE, 1);
        let said = GroupReport { replica, ..group(NODE.0, &[]).report };
        assert_eq!(meet(&mut known, &NodeReport { groups: vec![said], ..report(2, &[6], 1) }), (false, false));
        // Not even where another one is not asked for yet.
        let before = known.witnesses()[&NODE];
        known.remember(NODE, Witness { incarnation: Incarnation(7), ..before });
        known.remember(NODE, Witness { incarnation: Incarnation(7), marked: 9, ..before });
        assert!(known.take_restarts());
    }

    #[test]
    fn who_has_not_spoken_yet_is_as_the_group_knows_it() {
        let mut known = Acquaintances::default();
        let control = ControlView { nodes: [(NODE, host(2))].into(), ..ControlView::default() };
        let group = group(1, &[1, 2]);
        let replica = Some(ReplicaId::new(NODE, 1));
        let stored = Witness { life: 1, incarnation: Incarnation(1), replica, marked: 0 };
        assert_eq!(known.witness(NODE, &control, Some(&group)), Some(stored));
        assert_eq!(known.witness(NODE, &control, None), Some(Witness { replica: None, ..stored }));
        assert_eq!(known.witness(NodeId(9), &control, Some(&group)), None);
        meet(&mut known, &report(1, &[1, 5], 1), None, None, Rival::None);
        let said = Witness { incarnation: Incarnation(5), replica: None, ..stored };
        assert_eq!(known.witness(NODE, &control, Some(&group)), Some(said));
    }

    #[test]
    fn a_start_that_is_turned_away_runs_for_certain_once_it_has_gone_on_for_a_silence_and_until_one() {
        let silence = Duration::from_secs(2);
        let mut known = Acquaintances::default();
        let beat = Beat { node: NODE, incarnation: Incarnation(6), address: "there".into(), ..Beat::default() };
        let when = |millis: u64| Instant(millis * 1_000_000);
        let alive = |known: &Acquaintances, millis| known.alive_all_the_same(when(millis), silence).count();
        for (millis, is_alive) in [(0, 0), (1_000, 0), (1_999, 0), (2_000, 1)] {
            known.insists(&beat, when(millis), silence);
            assert_eq!(alive(&known, millis), is_alive, "{millis}");
        }
        let from = |known: &Acquaintances, millis| {
            known.insists_from(NODE, Incarnation(6), when(millis), silence).map(str::to_owned)
        };
        assert_eq!((alive(&known, 3_999), from(&known, 3_999)), (1, Some("there".to_owned())));
        assert_eq!((alive(&known, 4_000), from(&known, 4_000)), (0, None));
        // It was silent meanwhile: another one may be there now.
        known.insists(&beat, when(4_000), silence);
        assert_eq!(alive(&known, 4_000), 0);
    }

    /// Only a replica that was renewed is a reason to stay.
    #[test]
    fn who_has_the_replica_that_was_known_or_none_before_gives_way_and_its_store_begins_anew() {
        let with = |replica: Option<u64>, starts: &[u64]| {
            let of = |replica| {
                let replica = ReplicaId::new(NODE, replica);
                GroupReport { replica, ..group(NODE.0, &[]).report }
            };
            NodeReport { groups: replica.into_iter().map(of).collect(), ..report(1, starts, 1) }
        };
        // Another start with another replica than none, and the same start with another one.
        for (first, second) in [((None, 2), (Some(1), 3)), ((Some(1), 3), (Some(2), 3))] {
            let mut known = Acquaintances::default();
            let mut last = None;
            for (replica, start) in [first, second] {
                let report = with(replica, &[1, start]);
                let before = known.witnesses().get(&NODE).copied();
                let beat = Beat {
                    node: NODE,
                    incarnation: report.incarnation,
                    address: report.address.clone(),
                    replica: replica.map(|replica| ReplicaId::new(NODE, replica)),
                    marked: 7,
                    ..Beat::default()
                };
                assert_eq!(known.meet(&beat, &report, before.as_ref(), Some(1), Rival::None), Met::Known);
                last = Some(Arc::new(report));
            }
            assert!(known.heed_start(NODE, Incarnation(2), last.as_ref(), false), "{second:?}");
            assert_eq!(known.witnesses()[&NODE].marked, 0);
        }
    }
}
