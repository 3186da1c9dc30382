//! What the metadata groups of a node have done, and how its replicas stand.

use core::time::Duration;
use std::sync::{OnceLock, PoisonError};

use mesh_core::{
    Error, ErrorKind,
    figures::{Counter, Figures as _, Histogram, Labels, Level, Page, Seen, Span},
    id::GroupId,
    meta::RepairState,
    time::Instant,
};
use openraft::async_runtime::WatchReceiver as _;

use super::{RaftMetadata, mark::GROUPS_MAX, route::Ask};

mesh_core::figures! {
    /// What was asked of one group through this node.
    pub(super) struct Asked as "mesh_group" {
        /// Questions and commands that this node has put to a metadata group, for itself and for its functions.
        pub(super) requests: Counter,
        /// Those of them that failed, by the kind of error and by whether it may have been done all the same.
        pub(super) errors: Seen<ErrorKind, Counter>,
        /// From a question to a metadata group until its answer.
        pub(super) query_seconds: Histogram,
        /// From a command to a metadata group until it is durable on a majority, applied, and answered.
        pub(super) commit_seconds: Histogram,
    }

    /// How far what a namespace group has stored is at home, as this node's replica knows.
    struct Repair as "mesh_repair" {
        /// Writes that have shards elsewhere than where the layout has them, or too few: what there is to be repaired.
        unsettled_writes: Level,
        /// The layout in which all else is at home.
        settled_layout: Level,
        /// When all shards of the group had been counted last, in seconds since 1970; 0: never.
        counted_time_seconds: Span,
        /// Shards that were to be at their homes at the last count.
        counted_shards: Level,
        /// Those of them that were not there, or damaged, and have been rebuilt since.
        counted_healed_shards: Level,
        /// Writes of which fewer shards were left at the last count than it takes to read them.
        lost_writes: Level,
    }

    /// How this node's replica of one group stands.
    struct Standing as "mesh_group" {
        /// Whether this node leads the metadata group.
        leads: Level,
        /// Whether this node knows of a leader of the metadata group.
        has_leader: Level,
        /// The newest term of the metadata group that its replica here knows.
        term: Level,
        /// The last entry of the log of the replica here.
        log_index: Level,
        /// The last entry that the replica here has applied.
        applied_index: Level,
        /// Whether the replica here neither votes nor serves: it is damaged, or has stopped. `mesh status` says why.
        troubled: Level,
        /// Who votes in the metadata group, as its leader knows; told by nobody else.
        voters: Level,
    }
}

/// Of each group that was asked for: they are numbered from 0 on.
pub(super) struct Figures([OnceLock<Box<Asked>>; GROUPS_MAX]);

impl Default for Figures {
    fn default() -> Self {
        Self([const { OnceLock::new() }; GROUPS_MAX])
    }
}

impl Figures {
    /// A request has been answered, or has failed.
    pub(super) fn ended(
        &self,
        group: GroupId,
        is_query: bool,
        error: Option<&Error>,
        (since, now): (Instant, Instant),
    ) {
        let slot = usize::try_from(group.0).ok().and_then(|at| self.0.get(at));
        // Of a group that there cannot be, nothing comes.
        let Some(asked) = slot.map(|slot| slot.get_or_init(Box::default)) else { return };
        asked.requests.count();
        match error {
            Some(error) => asked.errors.of(error.kind()).count(),
            None if is_query => asked.query_seconds.took(now.since(since)),
            None => asked.commit_seconds.took(now.since(since)),
        }
    }
}

impl Ask {
    pub(super) const fn is_query(&self) -> bool {
        matches!(self, Self::Query(_))
    }
}

impl RaftMetadata {
    /// What was asked of groups through this node, and how its replicas stand.
    pub fn figures(&self, page: &mut Page) {
        Asked::declare(page);
        Standing::declare(page);
        Repair::declare(page);
        let labels = |group: GroupId| Labels::default().text("group", group.to_string());
        for (number, asked) in (0..).zip(&self.figures.0) {
            if let Some(asked) = asked.get() {
                asked.tell(&labels(GroupId(number)), page);
            }
        }
        for report in self.status() {
            let replica = self.groups.read().unwrap_or_else(PoisonError::into_inner).get(&report.group).cloned();
            if let Some(repair) = replica.as_ref().and_then(|replica| replica.state.repair()) {
                let RepairState { unsettled, settled, count, .. } = repair;
                let repair = Repair {
                    unsettled_writes: Level(unsettled),
                    settled_layout: Level(settled.0),
                    counted_time_seconds: Span(Duration::from_millis(count.at.0)),
                    counted_shards: Level(count.shards),
                    counted_healed_shards: Level(count.healed),
                    lost_writes: Level(count.lost),
                };
                repair.tell(&labels(report.group), page);
            }
            let (log, applied) = replica.map_or((0, 0), |replica| {
                let metrics = replica.raft.metrics();
                let metrics = metrics.borrow_watched();
                (metrics.last_log_index.unwrap_or(0), metrics.last_applied.map_or(0, |applied| applied.index))
            });
            let standing = Standing {
                leads: Level(u64::from(report.leader == Some(self.node))),
                has_leader: Level(u64::from(report.leader.is_some())),
                term: Level(report.term),
                log_index: Level(log),
                applied_index: Level(applied),
                troubled: Level(u64::from(report.trouble.is_some())),
                voters: Level(report.voters.len() as u64),
            };
            standing.tell(&labels(report.group), page);
        }
    }
}
