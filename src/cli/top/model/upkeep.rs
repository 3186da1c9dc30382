//! What the mesh does to stay whole, and what it lacks: repair, scrubbing, draining, and whoever is in trouble.

use core::time::Duration;

use mesh_core::{
    op::{DriveReport, GroupRepair, NodeReport},
    topology::{DriveState, NodeState},
};

use super::{Model, Sight, chains::tenant_of, plain};

/// A line for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    /// Somebody should look at it.
    pub(crate) is_grave: bool,
    pub(crate) text: String,
}

fn well(text: String) -> Line {
    Line { is_grave: false, text }
}

fn grave(text: String) -> Line {
    Line { is_grave: true, text }
}

impl Model {
    /// What is grave first.
    pub(super) fn upkeep(&self, now: Duration) -> Vec<Line> {
        let mut lines = vec![self.repair_line(now)];
        lines.extend(self.repair.iter().filter(|group| !group.is_whole()).map(group_line));
        lines.extend(self.scrub_line());
        lines.extend(self.leaving_line(now));
        for report in &self.reports {
            lines.extend(self.node_lines(report, now));
            lines.extend(report.drives.iter().filter_map(|drive| drive_line(report, drive)));
        }
        let survival = self.reports.iter().find_map(|report| report.survival.as_ref());
        let unsafe_now = survival.filter(|said| !(said.reads && said.writes));
        let text = |reason: &str| format!("not safe against the loss of a node: {}", plain(reason));
        lines.extend(unsafe_now.map(|said| grave(text(&said.reason))));
        lines.sort_by_key(|line| !line.is_grave);
        lines.truncate(LINES_MAX);
        lines
    }

    fn repair_line(&self, now: Duration) -> Line {
        let Some(heard) = self.repaired.heard else {
            let why = self.repaired.error.as_deref().unwrap_or("nobody has answered yet");
            return Line { is_grave: self.repaired.error.is_some(), text: format!("repair: not known: {why}") };
        };
        let states = || self.repair.iter().filter_map(|group| group.state);
        let unsettled = states().map(|state| state.unsettled).fold(0, u64::saturating_add);
        let lost = states().map(|state| state.count.lost).fold(0, u64::saturating_add);
        let whole = self.repair.iter().filter(|group| group.is_whole()).count();
        let groups = self.repair.len();
        let mut text = format!("repair: {whole} of {groups} groups whole, {unsettled} writes degraded, {lost} lost");
        if let Some(error) = &self.repaired.error {
            text += &format!("; that was {} s ago: {error}", now.saturating_sub(heard).as_secs());
        }
        Line { is_grave: lost > 0 || self.repaired.error.is_some(), text }
    }

    fn scrub_line(&self) -> Option<Line> {
        let drives = || self.reports.iter().flat_map(|report| &report.drives).filter(|drive| drive.scrub.of > 0);
        let (at, of) = drives().fold((0_u64, 0_u64), |(at, of), drive| {
            (at + u64::from(drive.scrub.at.min(drive.scrub.of)), of + u64::from(drive.scrub.of))
        });
        let percent = (at * 100).checked_div(of)?;
        let asked = drives().filter(|drive| drive.scrub.asked).count();
        let damaged = drives().map(|drive| drive.damaged).fold(0, u64::saturating_add);
        let asked = if asked > 0 { format!(", {asked} as asked") } else { String::new() };
        let count = drives().count();
        let text = format!("scrub: {count} drives at {percent} % of their round{asked}, {damaged} shards damaged");
        Some(Line { is_grave: damaged > 0, text })
    }

    fn leaving_line(&self, now: Duration) -> Option<Line> {
        let told = self.reports.iter().filter_map(|report| self.fresh(report, now)?.last.as_ref());
        let leaving = told.map(|last| last.leaving_drives).max().unwrap_or_default();
        (leaving > 0).then(|| well(format!("drain: drives that are being emptied or are out: {leaving}")))
    }

    fn node_lines(&self, report: &NodeReport, now: Duration) -> Vec<Line> {
        let node = report.node;
        let mut lines = Vec::new();
        if report.state == NodeState::Draining {
            let left = report.actors.iter().filter(|one| tenant_of(one.actor).is_some()).count();
            lines.push(well(format!("drain: {node} is being emptied, {left} chains are left")));
        }
        let counted = self.counted.get(&node);
        if self.sight(report, now) == Sight::Late {
            let why = counted.and_then(|counted| counted.error.as_deref()).unwrap_or("no answer");
            lines.push(grave(format!("{node} does not say what it counts: {why}")));
        }
        if counted.is_some_and(|counted| counted.is_older) {
            lines.push(well(format!("{node} tells no figures: its build, or that of the node that asks it, is older")));
        }
        let missing = report.missing.as_deref().filter(|_| report.state != NodeState::Down);
        lines.extend(missing.map(|why| grave(format!("{node} is not ready: {}", plain(why)))));
        if report.lost > 0 {
            lines.push(grave(format!("{node}: {} reads met objects that are lost", report.lost)));
        }
        let troubled = report.groups.iter().filter_map(|group| Some((group.group, group.trouble.as_deref()?)));
        lines.extend(troubled.map(|(group, why)| grave(format!("{group} on {node}: {}", plain(why)))));
        lines
    }
}

/// A group that is not whole. What the last count has found stands below the first line of it, and is left out.
fn group_line(group: &GroupRepair) -> Line {
    let said = group.to_string();
    Line { is_grave: group.state.is_none(), text: plain(said.lines().next().unwrap_or_default()) }
}

fn drive_line(report: &NodeReport, drive: &DriveReport) -> Option<Line> {
    let (is_grave, state) = match drive.state {
        DriveState::Up => return None,
        // What is known of the drives of a node that is down is of before.
        DriveState::Full | DriveState::Down if report.state == NodeState::Down => return None,
        DriveState::Full => (true, "full"),
        DriveState::Down => (true, "down"),
        DriveState::Lost => (false, "lost"),
    };
    let why = drive.reason.as_deref().map(|why| format!(": {}", plain(why))).unwrap_or_default();
    Some(Line { is_grave, text: format!("{} of {} is {state}{why}", drive.drive, report.node) })
}

/// Lines at most.
const LINES_MAX: usize = 200;
