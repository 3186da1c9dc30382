//! What a node knows of the mesh at one moment. Kept by the [`Steward`](super::Steward), published to whoever reads: each
//! part is shared until it changes.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use mesh_core::{
    Error, ErrorKind,
    id::{ActorId, DriveId, Epoch, GroupId, Incarnation, NodeId},
    meta::{ControlView, Level},
    op::{ActorReport, DriveReport, GroupReport, NodeReport, Phase, ScrubState, Settled, Witness},
    shared::SharedMap,
    time::Instant,
    topology::{DriveInfo, DriveState, Layout, Leaving, NodeInfo, NodeKind, NodeState},
};

use super::Sight;
use crate::{Load, Outage, View, survey, survival, witness::Verdict};

/// What a node knows.
#[derive(Clone, Debug)]
pub struct Outlook {
    /// Who answers, and what each said last, this node included.
    pub sight: Sight,
    /// Since when each that answers is up, this node included.
    pub up_since: Arc<BTreeMap<NodeId, Instant>>,
    /// DPUs that answer this node and not their hosts; known to whoever leads the control group.
    pub estranged: Arc<BTreeSet<NodeId>>,
    /// When each was last so.
    pub estranged_at: Arc<BTreeMap<NodeId, Instant>>,
    /// DPUs that do not see the drives that their hosts see; known to whoever leads the control group.
    pub blind: Arc<BTreeSet<NodeId>>,
    /// When each was last so.
    pub blind_at: Arc<BTreeMap<NodeId, Instant>>,
    /// This node has just begun to listen, and has not heard of every host yet.
    pub looks_around: bool,
    /// What is remembered of the others: only the start in it counts.
    pub witnesses: SharedMap<NodeId, Witness>,
    /// The starts whose beats did not count, and why.
    pub turned_away: Arc<BTreeMap<NodeId, (Incarnation, Verdict)>>,
    /// Every registered drive, and those that are lost.
    pub drives: SharedMap<DriveId, DriveState>,
    /// Those that say that shards of theirs are damaged.
    pub damaged: BTreeSet<DriveId>,
    /// What each actor is asked to do; known to whoever leads the control group.
    pub loads: SharedMap<ActorId, Load>,
    /// When each actor last moved; known to whoever led that.
    pub moved_at: SharedMap<ActorId, Instant>,
    /// What this node waits for before it takes data; `None`: nothing.
    pub missing: Option<Error>,
}

impl Outlook {
    /// Of a node that knows nothing yet.
    #[must_use]
    pub fn new(here: NodeId, now: Instant) -> Self {
        let own = Arc::new(NodeReport { node: here, ..NodeReport::default() });
        Self {
            sight: Sight { here, now, alive: Arc::new([here].into()), reports: [(here, own)].into() },
            up_since: Arc::new([(here, Instant::default())].into()),
            estranged: Arc::default(),
            estranged_at: Arc::default(),
            blind: Arc::default(),
            blind_at: Arc::default(),
            looks_around: true,
            witnesses: SharedMap::default(),
            turned_away: Arc::default(),
            drives: SharedMap::default(),
            damaged: BTreeSet::new(),
            loads: SharedMap::default(),
            moved_at: SharedMap::default(),
            missing: Some(Error::new(ErrorKind::Draining, "the node is starting")),
        }
    }

    /// What this node says of itself, as of its last look.
    #[must_use]
    pub fn own(&self) -> Arc<NodeReport> {
        self.sight.reports.get(&self.sight.here).cloned().unwrap_or_default()
    }

    /// Whether another node leads each group of which this one has a replica that works, as far as that replica knows; so
    /// it is where no other node answers.
    #[must_use]
    pub fn leaves_nobody_unled(&self) -> bool {
        let here = self.sight.here;
        let others_lead = |said: &GroupReport| said.leader.is_some_and(|leader| leader != here);
        self.sight.alive.len() < 2 || self.own().groups.iter().all(|said| said.trouble.is_some() || others_lead(said))
    }

    /// Whether a node answers.
    #[must_use]
    pub fn is_up(&self, node: NodeId) -> bool {
        self.sight.alive.contains(&node)
    }

    /// Whether this start of a node has said who it is, and counts.
    #[must_use]
    pub fn has_met(&self, node: NodeId, start: Incarnation) -> bool {
        let said = self.sight.reports.get(&node).is_some_and(|report| report.incarnation == start);
        said && self.witnesses.get(&node).is_some_and(|witness| witness.incarnation == start)
    }

    /// Whether nothing that this node has seen speaks against it that this start of a node is registered, whoever vouches for
    /// it: who does may have met it first, or be cut from the one that runs.
    ///
    /// # Errors
    /// `Conflict` if another start of the node runs, with where; `Draining` if the beats of this one do not count here.
    pub fn admits(&self, info: &NodeInfo) -> Result<(), Error> {
        let said = self.sight.reports.get(&info.id);
        let verdict = self.turned_away.get(&info.id).filter(|(start, _)| *start == info.incarnation);
        let verdict = verdict.map(|(_, verdict)| verdict);
        let is_twin = verdict == Some(&Verdict::Twin) || said.is_some_and(|said| self.runs_elsewhere(said, info));
        if is_twin {
            let what = "another process runs under the number of this node, from the same folder or a copy of it: stop \
                        one of the two";
            let at = said.map(|said| said.address.clone()).unwrap_or_default();
            return Err(Error::new(ErrorKind::Conflict, what).with("at", at));
        }
        verdict.map_or(Ok(()), |_| Err(uncounted(info.id)))
    }

    /// Whether the start of this report runs, and is another than this one, at another address.
    fn runs_elsewhere(&self, said: &NodeReport, info: &NodeInfo) -> bool {
        let is_other = said.life == info.life && said.incarnation != info.incarnation && said.address != info.address;
        let runs = || self.has_met(info.id, said.incarnation) && self.is_up(info.id);
        is_other && (info.id == self.sight.here || runs())
    }

    /// What the placement engine decides from.
    #[must_use]
    pub fn view(&self, control: &ControlView, now: Instant) -> View {
        let (reports, up_since) = (&self.sight.reports, &self.up_since);
        let survey = survey::Survey {
            reports,
            up_since,
            estranged: (&self.estranged, &self.estranged_at),
            blind: (&self.blind, &self.blind_at),
            loads: &self.loads,
            moved_at: &self.moved_at,
            now,
        };
        survey::view(control, survey)
    }

    /// How the nodes of the mesh are, for people.
    #[must_use]
    pub fn status(&self, view: &ControlView) -> Vec<Arc<NodeReport>> {
        let hosts: BTreeSet<NodeId> =
            view.nodes.values().filter(|node| node.kind == NodeKind::Host).map(|node| node.id).collect();
        let newest = view.layouts.values().next_back();
        let out = Outage {
            hosts: hosts.difference(&self.sight.alive).copied().collect(),
            drives: self
                .drives
                .iter()
                .filter(|(_, state)| **state != DriveState::Up)
                .map(|(id, state)| (*id, *state))
                .collect(),
            unsettled: newest.and_then(|newest| self.unsettled(view, newest)),
        };
        let survival = newest.map(|layout| survival(layout, hosts.len(), &out));
        let mut nodes: BTreeMap<NodeId, NodeReport> = BTreeMap::new();
        for info in view.nodes.values() {
            nodes.insert(
                info.id,
                NodeReport {
                    node: info.id,
                    incarnation: info.incarnation,
                    kind: info.kind,
                    address: info.address.clone(),
                    pid: info.pid,
                    attached_to: info.attached_to,
                    emulated: info.emulated,
                    level: info.level,
                    ..NodeReport::default()
                },
            );
        }
        let here = self.sight.here;
        // Who is no member may beat to this node all the same: it has been refused, or is about to be taken in.
        let is_member = |report: &&Arc<NodeReport>| {
            view.nodes.is_empty() || view.nodes.contains_key(&report.node) || report.node == here
        };
        for report in self.sight.reports.values().filter(is_member) {
            nodes.insert(report.node, (**report).clone());
        }
        if let Some(own) = nodes.get_mut(&here) {
            (own.missing, own.survival) = (self.missing.as_ref().map(ToString::to_string), survival);
            own.mesh_level = Some(view.level);
        }
        for report in nodes.values_mut() {
            report.location = view.nodes.get(&report.node).and_then(|info| info.location.clone());
            self.judge(report, view);
        }
        nodes.into_values().map(Arc::new).collect()
    }

    /// A namespace group of which nobody says that all it has stored is where the newest layout has it, with what is known, for
    /// people.
    fn unsettled(&self, view: &ControlView, newest: &Layout) -> Option<String> {
        // Of layouts of no line nothing is repaired; and leaders of older builds do not say how far they are.
        if view.level < Level::LOSSES || newest.line == 0 {
            return None;
        }
        let why = |group: GroupId| match self.sight.led(group).map(|said| said.settled) {
            Some(Settled::Unbegun) => None,
            Some(Settled::In(layout)) if layout == newest.id => None,
            Some(Settled::In(_) | Settled::Partly) => Some(format!("{group} is being repaired: see `mesh repair`")),
            Some(Settled::Unsaid) => Some(format!("{group} does not say yet whether it is whole: see `mesh repair`")),
            None => Some(format!("nobody leads {group}, which may not be whole: see `mesh repair`")),
        };
        (1..=u64::from(view.namespaces)).map(GroupId).find_map(why)
    }

    /// What a node said, as this one sees it.
    fn judge(&self, report: &mut NodeReport, view: &ControlView) {
        let emptied = view.nodes.get(&report.node).is_some_and(|info| info.draining);
        let draining = emptied || report.state == NodeState::Draining;
        report.state = match (self.is_up(report.node), draining) {
            (false, _) => NodeState::Down,
            (true, true) => NodeState::Draining,
            (true, false) => NodeState::Up,
        };
        if report.state == NodeState::Down {
            report.actors.clear();
            report.missing = None;
            for drive in &mut report.drives {
                drive.state = DriveState::Down;
                drive.reason.get_or_insert_with(|| "its node is down".to_owned());
            }
        }
        // A drive that its node does not speak of is known to the control group all the same.
        let unsaid = |drive: &DriveInfo, state, reason: &str| DriveReport {
            drive: drive.id,
            state,
            capacity_bytes: drive.capacity_bytes,
            free_bytes: 0,
            shards: 0,
            corrupt: 0,
            damaged: 0,
            scrub: ScrubState::default(),
            reason: Some(reason.to_owned()),
        };
        for drive in view.drives.values().filter(|drive| drive.node == report.node) {
            if !report.drives.iter().any(|said| said.drive == drive.id) {
                report.drives.push(unsaid(drive, DriveState::Down, "its node does not have it"));
            }
        }
        for drive in report.drives.iter_mut().filter(|drive| drive.state == DriveState::Down) {
            if view.leaving.get(&drive.drive) == Some(&Leaving::Away) {
                let why = drive.reason.take().map(|why| why + "; ").unwrap_or_default();
                drive.reason = Some(why + "it is out: what it held is rebuilt elsewhere");
            }
        }
        // And of a drive that is lost, whatever its node says of it.
        for drive in view.lost.values().filter(|drive| drive.node == report.node) {
            report.drives.retain(|said| said.drive != drive.id);
            report.drives.push(unsaid(drive, DriveState::Lost, LOST));
        }
    }

    /// What this node sees of every registered drive, and of those that are lost.
    pub(super) fn drive_states(&self, view: &ControlView) -> SharedMap<DriveId, DriveState> {
        let known = view.drives.values().map(|drive| (drive.id, self.drive_state(drive)));
        known.chain(view.lost.keys().map(|drive| (*drive, DriveState::Lost))).collect()
    }

    /// What this node sees of a drive.
    pub(super) fn drive_state(&self, drive: &DriveInfo) -> DriveState {
        self.report_of(drive).map_or(DriveState::Down, |said| said.state)
    }

    /// Whether shards of a drive are damaged, as it says.
    pub(super) fn is_damaged(&self, drive: &DriveInfo) -> bool {
        self.report_of(drive).is_some_and(|said| said.damaged > 0)
    }

    /// A node that answers and has a link to this one, which may well be up then whatever this node sees.
    #[must_use]
    pub fn witness_of(&self, node: NodeId) -> Option<NodeId> {
        let mut reports = self.sight.reports.values().filter(|report| self.is_up(report.node));
        reports.find(|report| report.sees.contains(&node)).map(|report| report.node)
    }

    /// What its node says of a drive, if that answers.
    #[must_use]
    pub fn report_of(&self, drive: &DriveInfo) -> Option<&DriveReport> {
        let report = self.sight.reports.get(&drive.node).filter(|_| self.is_up(drive.node))?;
        report.drives.iter().find(|said| said.drive == drive.id)
    }

    /// The tails of chains that nodes which answer say they run, of those nodes that are to run some.
    pub(super) fn tails(&self, view: &ControlView) -> BTreeSet<(NodeId, ActorId, Epoch)> {
        let wanted: BTreeSet<NodeId> = view.tails.values().map(|tail| tail.node).collect();
        let answering = wanted.iter().filter(|node| self.is_up(**node)).filter_map(|node| self.sight.reports.get(node));
        let of = |report: &Arc<NodeReport>| {
            let node = report.node;
            tails(report).map(move |(actor, epoch)| (node, actor, epoch)).collect::<Vec<_>>()
        };
        answering.flat_map(of).collect()
    }
}

/// The tails of chains that a node runs.
pub(super) fn tails(report: &NodeReport) -> impl Iterator<Item = (ActorId, Epoch)> {
    let is_tail = |one: &&ActorReport| one.actor.as_tail().is_some() && one.phase == Phase::Running;
    report.actors.iter().filter(is_tail).map(|one| (one.actor, one.epoch))
}

/// What is said of a drive that was declared lost.
pub const LOST: &str = "it was declared lost and is never used again";
/// What a start is told whose beats do not count.
#[must_use]
pub fn uncounted(node: NodeId) -> Error {
    Error::new(ErrorKind::Draining, "this node has heard no beat of yours that counts").with("node", node)
}

#[cfg(test)]
mod tests {
    use mesh_core::{
        assignment::Tail,
        bluefield::Generation,
        id::{ClusterId, LayoutId, ReplicaId, TenantId},
        topology::Code,
    };

    use super::*;
    use crate::steward::tests::{drive, group, host, runs};

    const HERE: NodeId = NodeId(1);
    const OTHER: NodeId = NodeId(2);
    const DPU: NodeId = NodeId(11);

    fn said(drive: u64, state: DriveState) -> DriveReport {
        DriveReport {
            drive: DriveId(drive),
            state,
            capacity_bytes: 100,
            free_bytes: 50,
            shards: 3,
            corrupt: 0,
            damaged: 0,
            scrub: ScrubState::default(),
            reason: None,
        }
    }

    /// Three hosts and a DPU of the first; drives 5 and 6 of the second are registered, 7 of it is lost.
    fn mesh() -> ControlView {
        let dpu = NodeInfo {
            kind: NodeKind::Dpu,
            attached_to: Some(HERE),
            emulated: Some(Generation::Bf3),
            address: "there:1".into(),
            incarnation: Incarnation(9),
            pid: 77,
            level: Level(7),
            ..host(11)
        };
        ControlView {
            cluster: Some(ClusterId([1; 16])),
            nodes: [host(1), host(2), host(3), dpu].map(|info| (info.id, info)).into(),
            drives: [5, 6].map(|id| (DriveId(id), drive(id, 2))).into(),
            lost: [(DriveId(7), drive(7, 2))].into(),
            ..ControlView::default()
        }
    }

    /// Node 1, which sees node 2 and neither the third nor the DPU.
    fn outlook() -> Outlook {
        let mut known = Outlook::new(HERE, Instant(0));
        let other = NodeReport {
            node: OTHER,
            drives: vec![said(5, DriveState::Full), said(7, DriveState::Up)],
            actors: vec![runs(ActorId(9), 1)],
            missing: Some("a while".into()),
            ..NodeReport::default()
        };
        known.sight.reports.insert(OTHER, Arc::new(other));
        known.sight.alive = Arc::new([HERE, OTHER].into());
        known
    }

    fn of(status: &[Arc<NodeReport>], node: NodeId) -> &NodeReport {
        status.iter().find(|report| report.node == node).expect("it is listed")
    }

    fn drives(report: &NodeReport) -> Vec<(u64, DriveState, u64, Option<&str>)> {
        let each = |one: &DriveReport| (one.drive.0, one.state, one.capacity_bytes);
        report.drives.iter().map(|one| (each(one), one.reason.as_deref())).map(|((a, b, c), d)| (a, b, c, d)).collect()
    }

    #[test]
    fn a_status_has_every_member_and_who_was_never_heard_as_it_is_registered() {
        let mut known = outlook();
        known.sight.reports.insert(NodeId(9), Arc::new(NodeReport { node: NodeId(9), ..NodeReport::default() }));
        let control = mesh();
        let status = known.status(&control);
        assert_eq!(status.iter().map(|report| report.node).collect::<Vec<_>>(), [HERE, OTHER, NodeId(3), DPU]);
        let dpu = NodeReport {
            node: DPU,
            incarnation: Incarnation(9),
            kind: NodeKind::Dpu,
            address: "there:1".into(),
            pid: 77,
            attached_to: Some(HERE),
            emulated: Some(Generation::Bf3),
            level: Level(7),
            state: NodeState::Down,
            ..NodeReport::default()
        };
        assert_eq!(*of(&status, DPU), dpu);
        let own = of(&status, HERE);
        assert_eq!((own.mesh_level, own.missing.as_deref()), (Some(control.level), Some("the node is starting")));
        assert_eq!((own.state, of(&status, OTHER).mesh_level), (NodeState::Up, None));
        // Nothing is founded yet: whoever speaks may become one.
        let status = known.status(&ControlView::default());
        assert_eq!(status.iter().map(|report| report.node).collect::<Vec<_>>(), [HERE, OTHER, NodeId(9)]);
    }

    #[test]
    fn a_node_is_shown_as_it_says_while_it_answers_with_what_the_group_knows_of_its_drives() {
        let (mut known, mut control) = (outlook(), mesh());
        let status = known.status(&control);
        let other = of(&status, OTHER);
        assert_eq!((other.state, other.actors.len(), other.missing.as_deref()), (NodeState::Up, 1, Some("a while")));
        let (unsaid, down) = (Some("its node does not have it"), DriveState::Down);
        let lost = (7, DriveState::Lost, 1 << 30, Some(LOST));
        assert_eq!(drives(other), [(5, DriveState::Full, 100, None), (6, down, 1 << 30, unsaid), lost]);
        control.nodes.get_mut(&OTHER).expect("it is there").draining = true;
        assert_eq!(of(&known.status(&control), OTHER).state, NodeState::Draining, "it is being emptied");
        control.nodes.get_mut(&OTHER).expect("it is there").draining = false;
        let mut stops = (*known.sight.reports[&OTHER]).clone();
        stops.state = NodeState::Draining;
        stops.drives[0].reason = Some("it is full".into());
        known.sight.reports.insert(OTHER, Arc::new(stops));
        assert_eq!(of(&known.status(&control), OTHER).state, NodeState::Draining, "it stops");
        known.sight.alive = Arc::new([HERE].into());
        let status = known.status(&control);
        let other = of(&status, OTHER);
        assert_eq!((other.state, other.actors.len(), other.missing.as_deref()), (NodeState::Down, 0, None));
        assert_eq!(drives(other), [(5, down, 100, Some("it is full")), (6, down, 1 << 30, unsaid), lost]);
        let mut silent = (*known.sight.reports[&OTHER]).clone();
        silent.drives[0].reason = None;
        known.sight.reports.insert(OTHER, Arc::new(silent));
        assert_eq!(drives(of(&known.status(&control), OTHER))[0].3, Some("its node is down"));
    }

    #[test]
    fn what_the_mesh_survives_is_said_of_the_newest_layout_and_of_what_is_out() {
        let (mut known, mut control) = (outlook(), mesh());
        assert_eq!(of(&known.status(&control), HERE).survival, None, "there is no layout");
        let all: Vec<DriveInfo> = [(5, 1), (6, 2), (8, 3)].map(|(id, node)| drive(id, node)).into();
        control.drives = all.iter().map(|info| (info.id, info.clone())).collect();
        let code = Code { data: 2, parity: 1 };
        let lineage = crate::layout::Lineage::First(1, code);
        let layout = crate::layout::build(LayoutId(1), &lineage, &all, &mesh_core::topology::Places::default())
            .expect("it can be made");
        control.layouts.insert(layout.id, Arc::new(layout));
        let survival = |known: &Outlook, control: &ControlView| {
            let status = known.status(control);
            of(&status, HERE).survival.clone().expect("there is a layout")
        };
        // The third host does not answer.
        assert!(!survival(&known, &control).reads);
        known.sight.alive = Arc::new([HERE, OTHER, NodeId(3)].into());
        known.drives = [5, 6, 8].map(|id| (DriveId(id), DriveState::Up)).into();
        assert_eq!(
            (survival(&known, &control).reads, of(&known.status(&control), OTHER).survival.clone()),
            (true, None)
        );
        known.drives.insert(DriveId(6), DriveState::Down);
        assert!(!survival(&known, &control).reads, "a drive is out: one more node is too many");
    }

    #[test]
    fn nothing_may_be_lost_while_a_namespace_group_is_not_settled_in_the_newest_layout() {
        let (mut known, mut control) = (outlook(), mesh());
        let all: Vec<DriveInfo> = [(5, 1), (6, 2), (8, 3)].map(|(id, node)| drive(id, node)).into();
        control.drives = all.iter().map(|info| (info.id, info.clone())).collect();
        let lineage = crate::layout::Lineage::First(1, Code { data: 2, parity: 1 });
        let layout = crate::layout::build(LayoutId(2), &lineage, &all, &mesh_core::topology::Places::default())
            .expect("it can be made");
        control.layouts.insert(layout.id, Arc::new(layout));
        (control.level, control.namespaces) = (Level::LOSSES, 2);
        known.sight.alive = Arc::new([HERE, OTHER, NodeId(3)].into());
        known.drives = [5, 6, 8].map(|id| (DriveId(id), DriveState::Up)).into();
        let survival = |known: &Outlook, control: &ControlView| {
            let status = known.status(control);
            of(&status, HERE).survival.clone().map(|survival| (survival.reads, survival.reason))
        };
        // The other one leads both groups, in a term.
        let says = |known: &mut Outlook, node: NodeId, term, settled: [Settled; 2]| {
            let said = |(id, settled)| GroupReport {
                group: GroupId(id),
                leader: Some(node),
                term,
                voters: vec![ReplicaId::new(node, 1)],
                settled,
                ..group(node.0, &[]).report
            };
            let groups = [(1, settled[0]), (2, settled[1])].map(said).into();
            known.sight.reports.insert(node, Arc::new(NodeReport { node, groups, ..NodeReport::default() }));
        };
        let unsafe_for = |why: &str| Some((false, format!("{why}: see `mesh repair`")));
        let of_layout = |layout| Settled::In(LayoutId(layout));
        assert_eq!(survival(&known, &control), unsafe_for("nobody leads group-1, which may not be whole"));
        says(&mut known, OTHER, 1, [of_layout(2), Settled::Unsaid]);
        assert_eq!(survival(&known, &control), unsafe_for("group-2 does not say yet whether it is whole"));
        for settled in [of_layout(1), Settled::Partly] {
            says(&mut known, OTHER, 1, [of_layout(2), settled]);
            assert_eq!(survival(&known, &control), unsafe_for("group-2 is being repaired"));
        }
        for settled in [of_layout(2), Settled::Unbegun] {
            says(&mut known, OTHER, 1, [settled, of_layout(2)]);
            assert!(survival(&known, &control).is_some_and(|(reads, _)| reads));
        }
        // Who leads later counts.
        says(&mut known, HERE, 2, [Settled::Partly, of_layout(2)]);
        assert_eq!(survival(&known, &control), unsafe_for("group-1 is being repaired"));
        control.level = Level::FIRST;
        assert!(survival(&known, &control).is_some_and(|(reads, _)| reads), "nothing is ever repaired then");
    }

    #[test]
    fn a_drive_is_as_its_node_says_if_that_answers() {
        let (mut known, control) = (outlook(), mesh());
        let states = |known: &Outlook| -> Vec<(u64, DriveState)> {
            known.drive_states(&control).iter().map(|(id, state)| (id.0, *state)).collect()
        };
        use DriveState::{Down, Full, Lost};
        assert_eq!(states(&known), [(5, Full), (6, Down), (7, Lost)]);
        known.sight.alive = Arc::new([HERE].into());
        assert_eq!(states(&known), [(5, Down), (6, Down), (7, Lost)]);
    }

    #[test]
    fn tails_count_that_run_at_a_node_that_is_to_run_some_and_answers() {
        let (mut known, mut control) = (outlook(), mesh());
        let (chain, tail) = (ActorId::data(TenantId(7), HERE), ActorId::tail(TenantId(7), HERE, 1));
        let warms = ActorReport { phase: Phase::Warming, ..runs(ActorId::tail(TenantId(8), HERE, 1), 3) };
        let actors = vec![runs(chain, 3), runs(tail, 3), warms];
        let report = NodeReport { node: OTHER, actors, ..NodeReport::default() };
        known.sight.reports.insert(OTHER, Arc::new(report));
        assert!(known.tails(&control).is_empty(), "nobody is to run any");
        control.tails.insert(chain, Tail { cut: 1, node: OTHER });
        assert_eq!(known.tails(&control), [(OTHER, tail, Epoch(3))].into());
        known.sight.alive = Arc::new([HERE].into());
        assert!(known.tails(&control).is_empty());
    }

    #[test]
    fn a_start_is_known_that_has_said_so_and_counts() {
        let mut known = outlook();
        let (start, other) = (Incarnation(4), Incarnation(5));
        let report = NodeReport { incarnation: start, ..(*known.sight.reports[&OTHER]).clone() };
        known.sight.reports.insert(OTHER, Arc::new(report));
        assert!(!known.has_met(OTHER, start), "it does not count");
        known.witnesses.insert(OTHER, Witness { life: 1, incarnation: start, replica: None, marked: 0 });
        assert!(known.has_met(OTHER, start) && !known.has_met(OTHER, other));
        known.witnesses.insert(OTHER, Witness { life: 1, incarnation: other, replica: None, marked: 0 });
        assert!(!known.has_met(OTHER, start) && !known.has_met(OTHER, other));
    }
}
