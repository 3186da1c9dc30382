//! What a node knows of the mesh at one moment. Kept by the [`Steward`](super::Steward), published to whoever reads: each
//! part is shared until it changes.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use mesh_core::{
    Error, ErrorKind,
    id::{ActorId, DriveId, Epoch, Incarnation, NodeId},
    meta::ControlView,
    op::{ActorReport, DriveReport, NodeReport, Phase, Witness},
    shared::SharedMap,
    time::Instant,
    topology::{DriveInfo, DriveState, NodeInfo, NodeKind, NodeState},
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
        let out = Outage {
            hosts: hosts.difference(&self.sight.alive).copied().collect(),
            drives: self
                .drives
                .iter()
                .filter(|(_, state)| **state != DriveState::Up)
                .map(|(id, state)| (*id, *state))
                .collect(),
        };
        let newest = view.layouts.values().next_back();
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
            self.judge(report, view);
        }
        nodes.into_values().map(Arc::new).collect()
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
            reason: Some(reason.to_owned()),
        };
        for drive in view.drives.values().filter(|drive| drive.node == report.node) {
            if !report.drives.iter().any(|said| said.drive == drive.id) {
                report.drives.push(unsaid(drive, DriveState::Down, "its node does not have it"));
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
        let report = self.sight.reports.get(&drive.node).filter(|_| self.is_up(drive.node));
        let said = report.and_then(|report| report.drives.iter().find(|said| said.drive == drive.id));
        said.map_or(DriveState::Down, |said| said.state)
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
