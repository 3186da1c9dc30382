//! Two who lead the control group at once. A group has one leader whom others follow, and who is followed no more hears of the next
//! one. Where one of a later term has led beside it for long, they are of two groups: metadata have gone on, from a backup or from
//! less than there was, without this node. Whoever had them go on has begun anew, and what is stored here now nobody would find there.
//! So this node serves nobody, for as long as that one is there: which of the two is to stay somebody has to say.

use core::time::Duration;

use mesh_core::{
    id::{GroupId, NodeId},
    op::GroupReport,
    time::Instant,
    topology::NodeKind,
};

use super::{Group, Sight};

/// What one node knows of such.
#[derive(Clone, Debug, Default)]
pub(super) struct Rivals {
    /// Since when there are two.
    since: Option<Instant>,
    /// It is left behind, and who had left it behind was there last at this time.
    left_at: Option<Instant>,
}

/// What has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// The mesh goes on under this leader, and without this node.
    LeftBehind(NodeId),
    /// Nobody is there any more who had left it behind.
    Back,
}

impl Rivals {
    /// `own`: this node's replica of the control group.
    pub(super) fn look(&mut self, own: Option<&Group>, sight: &Sight, now: Instant) -> Option<Standing> {
        let is_dpu = sight.reports.get(&sight.here).is_some_and(|own| own.kind == NodeKind::Dpu);
        let rival = own.and_then(|own| later_leader(own, sight));
        // A DPU has nothing of its own, and follows whom there is once the earlier one is gone.
        let rival = rival.filter(|_| !is_dpu || own.is_some_and(|own| is_led(own, sight)));
        if let Some(at) = &mut self.left_at {
            if rival.is_some() {
                *at = now;
            } else if now.since(*at) >= RIVALS_MAX {
                *self = Self::default();
                return Some(Standing::Back);
            }
            return None;
        }
        let Some(rival) = rival else {
            self.since = None;
            return None;
        };
        // While those who follow the earlier one have no leader for a moment, they are what they were.
        let is_led = own.is_some_and(|own| is_led(own, sight) || is_given_up(own, rival, sight));
        if self.since.is_none() && !is_led {
            return None;
        }
        if now.since(*self.since.get_or_insert(now)) < RIVALS_MAX || !is_led {
            return None;
        }
        self.left_at = Some(now);
        Some(Standing::LeftBehind(rival))
    }

    /// The node was asleep: what it knows is of before.
    pub(super) const fn slept(&mut self) {
        self.since = None;
    }

    /// Whether it serves nobody for that.
    #[must_use]
    pub(super) const fn is_left_behind(&self) -> bool {
        self.left_at.is_some()
    }
}

/// Whether somebody leads whom this replica follows.
fn is_led(own: &Group, sight: &Sight) -> bool {
    own.leads || own.report.leader.is_some_and(|leader| sight.rules(leader, GroupId::CONTROL))
}

/// Whether what it has is of before the mesh of that one came from a backup: nobody takes it in, whether or not somebody leads it.
fn is_given_up(own: &Group, rival: NodeId, sight: &Sight) -> bool {
    let said = sight.said_of(rival, GroupId::CONTROL);
    said.is_some_and(|said| own.report.is_before(said.restored))
}

/// Another than it follows who leads in a later term, or from a later recovery.
fn later_leader(own: &Group, sight: &Sight) -> Option<NodeId> {
    let others = sight.alive.iter().copied().filter(|node| *node != sight.here && Some(*node) != own.report.leader);
    let leads = |node: &NodeId| {
        let said = sight.said_of(*node, GroupId::CONTROL);
        let is_later = |said: &GroupReport| (said.timeline, said.term) > (own.report.timeline, own.report.term);
        said.is_some_and(|said| said.leader == Some(*node) && said.trouble.is_none() && is_later(said))
    };
    others.into_iter().find(leads)
}

/// Of two who lead one group the earlier one knows of the later one before, and says so: who leads and is not followed says that he
/// leads for twice the longest silence, at most.
const RIVALS_MAX: Duration = Duration::from_secs(30);
