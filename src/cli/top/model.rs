//! What is shown, out of what was answered: no terminal, no clock, no link. Moments are spans since the picture began.
//!
//! ```text
//! Heard ─► Model::hear ─► what was said last, and the figures before those ─► Model::picture ─► rows
//! ```

mod chains;
mod rates;
mod upkeep;

use core::time::Duration;
use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

pub(super) use chains::{ChainRow, Moving, Step};
use mesh_core::{
    Error, ErrorKind,
    happened::Row,
    id::{ActorId, NodeId, TenantId},
    op::{GroupRepair, NodeFigures, NodeReport},
    topology::{DriveState, NodeKind, NodeState},
};
pub(super) use rates::{Rate, Took};
pub(super) use upkeep::Line;

/// What somebody has said, or why not.
#[derive(Debug)]
pub(super) enum Heard {
    /// How the nodes are, as one of them sees it.
    Reports(Result<Vec<Arc<NodeReport>>, Error>),
    /// What a node has counted.
    Figures(NodeId, Result<NodeFigures, Error>),
    /// How far metadata groups are with repair.
    Repair(Result<Vec<GroupRepair>, Error>),
    /// What has happened since, and after which number to ask next.
    Events(Result<(Vec<Row>, u64), Error>),
    /// What tenants are called.
    Tenants(Result<Vec<(TenantId, String)>, Error>),
}

/// All that was heard and is still of use.
#[derive(Debug)]
pub(super) struct Model {
    every: Duration,
    reports: Vec<Arc<NodeReport>>,
    status: Source,
    counted: BTreeMap<NodeId, Counted>,
    repair: Vec<GroupRepair>,
    repaired: Source,
    events: VecDeque<Row>,
    next_event: u64,
    happened: Source,
    tenants: BTreeMap<TenantId, String>,
    moving: BTreeMap<ActorId, (Moving, Duration)>,
}

/// When something was answered last, and why not since.
#[derive(Debug, Default)]
struct Source {
    heard: Option<Duration>,
    error: Option<String>,
}

impl Source {
    fn note(&mut self, error: Option<&Error>, now: Duration) {
        self.error = error.map(|error| plain(&error.to_string()));
        if error.is_none() {
            self.heard = Some(now);
        }
    }
}

/// What one node has counted.
#[derive(Debug)]
struct Counted {
    /// When it was asked first.
    asked: Duration,
    /// When it answered last.
    heard: Option<Duration>,
    last: Option<NodeFigures>,
    /// Earlier, of the same start.
    before: Option<NodeFigures>,
    error: Option<String>,
    /// It runs a build that does not know the question.
    is_older: bool,
}

/// Everything that is on the screen.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Picture {
    pub(super) head: Head,
    pub(super) nodes: Vec<NodeRow>,
    pub(super) fronts: Vec<FrontRow>,
    pub(super) chains: Vec<ChainRow>,
    pub(super) upkeep: Vec<Line>,
    pub(super) happened: Vec<String>,
}

/// What is said of the mesh as a whole.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Head {
    /// Who said how the nodes are.
    pub(super) by: Option<NodeId>,
    /// What the builds of all nodes can do together.
    pub(super) level: u16,
    /// Nodes in each state, in the order of [`Sight`].
    pub(super) nodes: [usize; 4],
    /// Whether reads and writes go on when any one more node is lost; `None`: nobody has said.
    pub(super) survives: Option<(bool, bool)>,
    /// Since when nobody has said how the nodes are, and why.
    pub(super) stale: Option<(Duration, String)>,
}

/// How a node looks from here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sight {
    /// It is up, and says what it has counted.
    Alive,
    /// The same, and its actors leave it.
    Drains,
    /// It is up, as another node says, and has not said for a while what it has counted.
    Late,
    /// It is down, as another node says.
    Gone,
}

/// A node.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct NodeRow {
    pub(super) node: NodeId,
    /// It stands below its host.
    pub(super) is_under_host: bool,
    pub(super) kind: String,
    pub(super) sight: Sight,
    pub(super) level: u16,
    /// Hundredths of one core that its process has used.
    pub(super) cpu_percent: Option<u64>,
    pub(super) memory_bytes: Option<u64>,
    /// Drives that are up, of how many.
    pub(super) drives: (usize, usize),
    /// How full those are that are up.
    pub(super) used_percent: Option<u64>,
    /// Requests that its actors have taken and not answered; of who is down that is not known.
    pub(super) open: Option<u64>,
    pub(super) chain_work: Option<Rate>,
    pub(super) drive_work: Option<Rate>,
}

/// An S3 front end; the first row is all of them together.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct FrontRow {
    /// `None`: all that have said something.
    pub(super) node: Option<NodeId>,
    pub(super) work: Option<Rate>,
    pub(super) open: u64,
}

impl Model {
    /// Of a picture that is drawn so often.
    pub(super) fn new(every: Duration) -> Self {
        Self {
            every,
            reports: Vec::new(),
            status: Source::default(),
            counted: BTreeMap::new(),
            repair: Vec::new(),
            repaired: Source::default(),
            events: VecDeque::new(),
            next_event: 0,
            happened: Source::default(),
            tenants: BTreeMap::new(),
            moving: BTreeMap::new(),
        }
    }

    /// Remembers what was said.
    pub(super) fn hear(&mut self, heard: Heard, now: Duration) {
        match heard {
            Heard::Reports(told) => {
                self.status.note(told.as_ref().err(), now);
                if let Ok(reports) = told {
                    self.reports = reports;
                    let is_known = |node: &NodeId| self.reports.iter().any(|report| report.node == *node);
                    self.counted.retain(|node, _| is_known(node));
                    self.look_for_moves(now);
                }
            }
            Heard::Figures(node, told) => {
                if let Some(counted) = self.counted.get_mut(&node) {
                    counted.hear(told, now);
                }
            }
            Heard::Repair(told) => {
                self.repaired.note(told.as_ref().err(), now);
                self.repair = told.unwrap_or_else(|_| core::mem::take(&mut self.repair));
            }
            Heard::Events(told) => {
                self.happened.note(told.as_ref().err(), now);
                if let Ok((rows, next)) = told {
                    // Another leader may remember less.
                    self.next_event = next;
                    self.events.extend(rows);
                    let surplus = self.events.len().saturating_sub(EVENTS_MAX);
                    self.events.drain(..surplus);
                }
            }
            Heard::Tenants(told) => {
                let named = told.into_iter().flatten().map(|(tenant, name)| (tenant, plain(&name)));
                self.tenants.extend(named.take(TENANTS_MAX));
            }
        }
    }

    /// The nodes to be asked what they have counted: those that are up, as far as so many are asked.
    pub(super) fn whom_to_ask(&mut self, now: Duration) -> Vec<NodeId> {
        let up = self.reports.iter().filter(|report| report.state != NodeState::Down).map(|report| report.node);
        let nodes: Vec<NodeId> = up.take(ASKED_MAX).collect();
        let new = || Counted { asked: now, heard: None, last: None, before: None, error: None, is_older: false };
        for node in &nodes {
            self.counted.entry(*node).or_insert_with(new);
        }
        nodes
    }

    /// After which event to ask.
    pub(super) fn next_event(&self) -> u64 {
        self.next_event
    }

    /// Whether anybody has said how the nodes are; why not.
    pub(super) fn trouble(&self) -> Option<&str> {
        self.status.error.as_deref().filter(|_| self.status.heard.is_none())
    }

    /// All of it as it is now.
    pub(super) fn picture(&self, now: Duration) -> Picture {
        let nodes: Vec<NodeRow> = self.nodes_by_host().map(|report| self.node_row(report, now)).collect();
        let mut head = Head { stale: self.stale(now), ..Head::default() };
        for row in &nodes {
            head.nodes[row.sight as usize] += 1;
        }
        // Only the one who answers says these.
        for report in &self.reports {
            if let Some(level) = report.mesh_level {
                (head.by, head.level) = (Some(report.node), level.0);
            }
            if let Some(survival) = &report.survival {
                head.survives = Some((survival.reads, survival.writes));
            }
        }
        Picture {
            head,
            nodes,
            fronts: self.front_rows(now),
            chains: self.chain_rows(now),
            upkeep: self.upkeep(now),
            happened: self.events.iter().rev().map(|row| plain(&row.to_string())).collect(),
        }
    }

    fn stale(&self, now: Duration) -> Option<(Duration, String)> {
        let age = now.saturating_sub(self.status.heard.unwrap_or_default());
        let error = self.status.error.clone().unwrap_or_else(|| "no answer".to_owned());
        (age > self.patience()).then_some((age, error))
    }

    /// Who has not answered for so long is late.
    fn patience(&self) -> Duration {
        LATE_AFTER.max(self.every * 3)
    }

    /// Hosts by number, each with its DPUs below it; behind them DPUs whose hosts are not known.
    fn nodes_by_host(&self) -> impl Iterator<Item = &NodeReport> {
        let is_host = |node: NodeId| self.reports.iter().any(|one| one.node == node && one.kind == NodeKind::Host);
        let place = move |report: &NodeReport| match report.attached_to {
            _ if report.kind == NodeKind::Host => (report.node, None),
            Some(host) if is_host(host) => (host, Some(report.node)),
            _ => (NodeId(u64::MAX), Some(report.node)),
        };
        let mut all: Vec<&NodeReport> = self.reports.iter().map(|report| &**report).collect();
        all.sort_by_key(|report| place(report));
        all.into_iter()
    }

    fn node_row(&self, report: &NodeReport, now: Duration) -> NodeRow {
        let kind = match (report.kind, report.emulated) {
            (NodeKind::Host, _) => "host".to_owned(),
            (NodeKind::Dpu, Some(emulated)) => format!("dpu {emulated}"),
            (NodeKind::Dpu, None) => "dpu".to_owned(),
        };
        let is_there = |host: NodeId| self.reports.iter().any(|one| one.node == host && one.kind == NodeKind::Host);
        let counted = self.fresh(report, now);
        let span = counted.and_then(Counted::span);
        let last = counted.and_then(|counted| counted.last.as_ref());
        let work = |of: fn(&NodeFigures) -> &mesh_core::op::Work| {
            let (before, last, span) = span?;
            Rate::between(of(before), of(last), span)
        };
        let up = report.drives.iter().filter(|drive| matches!(drive.state, DriveState::Up | DriveState::Full));
        let (count, capacity, free) = up.fold((0, 0_u64, 0_u64), |(count, capacity, free), drive| {
            (count + 1, capacity.saturating_add(drive.capacity_bytes), free.saturating_add(drive.free_bytes))
        });
        NodeRow {
            node: report.node,
            is_under_host: report.kind == NodeKind::Dpu && report.attached_to.is_some_and(is_there),
            kind,
            sight: self.sight(report, now),
            level: report.level.0,
            cpu_percent: span.and_then(|(before, last, span)| {
                let used_ns = u128::from(last.cpu_ns.checked_sub(before.cpu_ns)?);
                u64::try_from((used_ns * 100).div_ceil(span.as_nanos().max(1))).ok()
            }),
            memory_bytes: last.map(|last| last.resident_bytes),
            drives: (count, report.drives.len()),
            used_percent: used_percent(capacity, free),
            open: (report.state != NodeState::Down)
                .then(|| report.actors.iter().map(|actor| actor.jobs).fold(0, u64::saturating_add)),
            chain_work: work(|figures| &figures.chains),
            drive_work: work(|figures| &figures.drives),
        }
    }

    fn sight(&self, report: &NodeReport, now: Duration) -> Sight {
        match report.state {
            NodeState::Down => Sight::Gone,
            _ if self.is_late(report.node, now) => Sight::Late,
            NodeState::Draining => Sight::Drains,
            NodeState::Up => Sight::Alive,
        }
    }

    /// Whether a node was asked and has not answered for a while.
    fn is_late(&self, node: NodeId, now: Duration) -> bool {
        let since = |counted: &Counted| now.saturating_sub(counted.heard.unwrap_or(counted.asked));
        self.counted.get(&node).is_some_and(|counted| since(counted) > self.patience())
    }

    /// What a node has counted, if it is up and not late.
    fn fresh(&self, report: &NodeReport, now: Duration) -> Option<&Counted> {
        let is_fresh = report.state != NodeState::Down && !self.is_late(report.node, now);
        self.counted.get(&report.node).filter(|_| is_fresh)
    }

    fn front_rows(&self, now: Duration) -> Vec<FrontRow> {
        let mut spans = Vec::new();
        let mut rows: Vec<FrontRow> = Vec::new();
        for report in &self.reports {
            let Some(counted) = self.fresh(report, now) else { continue };
            let Some(last) = counted.last.as_ref().filter(|last| last.front.is_some()) else { continue };
            let span = counted
                .span()
                .and_then(|(before, last, span)| Some((before.front.as_ref()?, last.front.as_ref()?, span)));
            let work = span.and_then(|(before, last, span)| Rate::between(before, last, span));
            spans.extend(span);
            rows.push(FrontRow { node: Some(report.node), work, open: last.front_open });
        }
        if rows.is_empty() {
            return rows;
        }
        let open = rows.iter().map(|row| row.open).fold(0, u64::saturating_add);
        rows.insert(0, FrontRow { node: None, work: Rate::together(&spans), open });
        rows
    }
}

impl Counted {
    fn hear(&mut self, told: Result<NodeFigures, Error>, now: Duration) {
        match told {
            Ok(figures) => {
                // What another start of it has counted says nothing of this one.
                let follows =
                    |last: &NodeFigures| last.incarnation == figures.incarnation && last.at_ns < figures.at_ns;
                self.before = self.last.take().filter(follows);
                self.last = Some(figures);
                (self.heard, self.error, self.is_older) = (Some(now), None, false);
            }
            Err(error) if error.kind() == ErrorKind::Unsupported => {
                (self.heard, self.error, self.is_older) = (Some(now), None, true);
                (self.last, self.before) = (None, None);
            }
            Err(error) => self.error = Some(plain(&error.to_string())),
        }
    }

    /// Two answers, and what was between them on the node's clock.
    fn span(&self) -> Option<(&NodeFigures, &NodeFigures, Duration)> {
        let (before, last) = (self.before.as_ref()?, self.last.as_ref()?);
        Some((before, last, Duration::from_nanos(last.at_ns.checked_sub(before.at_ns)?)))
    }
}

fn used_percent(capacity: u64, free: u64) -> Option<u64> {
    let used = u128::from(capacity.saturating_sub(free)) * 100;
    u64::try_from(used.checked_div(u128::from(capacity))?).ok()
}

/// A text of somebody else's for a terminal: letters, digits, and what is plain to see of ASCII; a question mark for all else,
/// so that no name says anything to the terminal, or hides what stands beside it.
pub(super) fn plain(text: &str) -> String {
    let is_plain = |c: char| c == ' ' || c.is_ascii_graphic() || (!c.is_ascii() && c.is_alphanumeric());
    let seen = |c: char| match c {
        '\n' | '\t' => ' ',
        c if is_plain(c) => c,
        _ => '?',
    };
    text.chars().take(TEXT_MAX).map(seen).collect()
}

/// Who has not answered for so long, or for three pictures, is late.
const LATE_AFTER: Duration = Duration::from_secs(3);
/// Nodes that are asked what they have counted, at most; of the others that is not shown.
const ASKED_MAX: usize = 256;
/// Events that are remembered.
const EVENTS_MAX: usize = 50;
/// Names of tenants that are remembered, about.
const TENANTS_MAX: usize = 4096;
/// Characters of a text of somebody else's at most.
const TEXT_MAX: usize = 400;

#[cfg(test)]
mod tests;
