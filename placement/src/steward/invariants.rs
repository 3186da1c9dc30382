//! What is so after every event, whatever has happened: checked by whoever drives the [`Steward`], in release builds too. One
//! that does not hold is a fault of this program: the daemon says so and has the steward begin anew, the simulator ends.

use core::time::Duration;
use std::sync::Arc;

use mesh_core::{id::NodeId, time::Instant};

use super::{Key, Steward, driver::MOVES_MAX};

/// What does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// This node does not see itself, or speaks of itself under another number.
    NotHere,
    /// A node is taken for up of which no report counts.
    Unintroduced(NodeId),
    /// Others were told of another set of nodes that are up than is published.
    ToldOtherwise,
    /// A node is up since no moment, or down since one.
    NeverCameUp,
    /// More is under way for actors than may be, or something that nobody waits for.
    Hands,
    /// It plans, and does not lead the control group.
    PlansWithoutLeading,
    /// An act has not ended for longer than any may take.
    Stuck(Key),
    /// More is remembered of those who were turned away than may be.
    Unbounded,
    /// What is published is not what is known.
    Stale,
}

impl core::fmt::Display for Broken {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Unintroduced(node) => write!(f, "{node} is taken for up, and no report of it counts"),
            Self::Stuck(key) => write!(f, "an act has not ended for longer than any may take: {key:?}"),
            other => write!(f, "{other:?}"),
        }
    }
}

/// An act ends within this, other than a renewal, the removal of a replica, and what is done to an actor (a user's function may be built for as long
/// as it takes), one way or the other: whoever carries it out sees to that.
pub const ACT_MAX: Duration = Duration::from_secs(180);

impl Steward {
    /// Whether all is as it must be.
    ///
    /// # Errors
    /// The first thing that is not.
    pub fn check(&self, now: Instant) -> Result<(), Broken> {
        if self.seen_anew {
            self.check_sight()?;
        }
        let is_waited_for = self.lead.hands.values().all(|(_, waiting)| *waiting > 0)
            && self.lead.hands.keys().all(|actor| self.lead.driver.is_busy(*actor));
        let hands = self.lead.driver.under_way();
        expect(is_waited_for && hands == self.lead.hands.len() && hands <= 2 * MOVES_MAX, Broken::Hands)?;
        let plans = self.lead.plans.wanted().next().is_some();
        expect(!plans || self.leads_control(), Broken::PlansWithoutLeading)?;
        let is_bounded = |key: &Key| !matches!(key, Key::Renew | Key::Retire(_) | Key::Actor(_));
        let is_stuck = |key: &Key, since: Instant| is_bounded(key) && now.since(since) > ACT_MAX;
        let stuck = self.busy.iter().find(|(key, since)| is_stuck(key, **since));
        stuck.map_or(Ok(()), |(key, _)| Err(Broken::Stuck(*key)))?;
        expect(self.acquaintances.is_bounded(), Broken::Unbounded)?;
        let is_shown = self.outlook.witnesses.is_same(self.acquaintances.witnesses())
            && Arc::ptr_eq(&self.outlook.turned_away, self.acquaintances.turned_away());
        expect(is_shown, Broken::Stale)
    }

    /// What has to do with who is there: it changes only when that does, and there are many.
    fn check_sight(&self) -> Result<(), Broken> {
        let (sight, id) = (&self.outlook.sight, self.id());
        let own = sight.reports.get(&id);
        expect(
            sight.here == id && sight.alive.contains(&id) && own.is_some_and(|own| own.node == id),
            Broken::NotHere,
        )?;
        for node in &self.told {
            let counts = sight.reports.get(node).is_some_and(|report| {
                let witness = self.acquaintances.witnesses().get(node);
                witness.is_some_and(|witness| witness.life == report.life)
            });
            expect(counts, Broken::Unintroduced(*node))?;
        }
        let others = sight.alive.iter().filter(|node| **node != id);
        expect(others.eq(self.told.iter()), Broken::ToldOtherwise)?;
        expect(self.outlook.up_since.keys().eq(sight.alive.iter()), Broken::NeverCameUp)
    }
}

fn expect(holds: bool, broken: Broken) -> Result<(), Broken> {
    if holds { Ok(()) } else { Err(broken) }
}
