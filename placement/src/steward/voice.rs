//! What a node tells others of itself: to each one what that one does not hold yet, states at once, figures at a pace.
//!
//! Of its own report it keeps when each part last changed, by version. A listener says as of which version it holds the
//! report; so nothing is lost for good, whatever happens to a message, and a listener that has begun anew holds nothing and
//! is told all.
//!
//! Figures (loads, bytes, counters) change all the time and nobody acts on one alone. So they go out no faster than
//! somebody who listens to all others can bear, see [`pace`]: in a small mesh with every beat, in a large one every few
//! seconds to those who lead or may lead the control group, and now and then to everybody else.

use core::time::Duration;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use mesh_core::{
    id::{ActorId, Incarnation, NodeId},
    op::{ActorReport, AsOf, DriveReport, Held, News, NodeReport},
    time::Instant,
};

/// What a node has said of itself, and who holds how much of it.
#[derive(Clone, Debug, Default)]
pub struct Voice {
    own: Arc<NodeReport>,
    /// Where versions began: what is held as of that or less is of another voice of this start.
    born: u64,
    version: u64,
    /// When all that is in no list below last changed.
    report_at: u64,
    drives_at: AsOf,
    load_at: u64,
    actors: Log<ActorId>,
    used: Log<ActorId>,
    sees: Log<NodeId>,
    listeners: BTreeMap<NodeId, Listener>,
    /// What was made of this version already: most listeners hold the same.
    made: BTreeMap<(AsOf, bool), Arc<News>>,
}

/// Somebody who is told.
#[derive(Clone, Copy, Debug, Default)]
struct Listener {
    holds: AsOf,
    /// When it was told figures last.
    figures_at: Option<Instant>,
}

/// When each one of many last changed.
#[derive(Clone, Debug)]
struct Log<K> {
    at: BTreeMap<K, u64>,
    by: BTreeSet<(u64, K)>,
    /// Of what went before this nothing is remembered.
    forgot: u64,
}

impl<K> Default for Log<K> {
    fn default() -> Self {
        Self { at: BTreeMap::new(), by: BTreeSet::new(), forgot: 0 }
    }
}

impl<K: Ord + Copy> Log<K> {
    fn note(&mut self, key: K, version: u64) {
        self.forget(key);
        self.at.insert(key, version);
        self.by.insert((version, key));
    }

    fn forget(&mut self, key: K) {
        if let Some(before) = self.at.remove(&key) {
            self.by.remove(&(before, key));
        }
    }

    /// Notes what differs between two ascending lists.
    fn compare(&mut self, before: &BTreeSet<K>, after: &BTreeSet<K>, version: u64) {
        before.symmetric_difference(after).for_each(|key| self.note(*key, version));
    }

    /// Forgets those that are there no more, once they are too many: whoever does not know of them is told all.
    fn bound(&mut self, is_there: impl Fn(&K) -> bool, there: usize, version: u64) {
        if self.at.len() <= there.saturating_add(GONE_MAX) {
            return;
        }
        let gone: Vec<K> = self.at.keys().copied().filter(|key| !is_there(key)).collect();
        gone.into_iter().for_each(|key| self.forget(key));
        self.forgot = version;
    }

    fn newest(&self) -> u64 {
        self.by.last().map_or(0, |(version, _)| *version)
    }

    fn since(&self, version: u64) -> impl Iterator<Item = K> {
        self.by.iter().rev().take_while(move |(at, _)| *at > version).map(|(_, key)| *key)
    }
}

impl Voice {
    /// One that has said nothing yet. Its versions are greater than those of any voice that this start had before `now`: they
    /// begin at that moment in microseconds, and a node says something new not nearly so often.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        let born = now.0 / 1000;
        Self { born, version: born, ..Self::default() }
    }

    /// This node is so from now on. The actors and peers of a report are in order.
    /// Says whether anything but figures is new.
    pub fn say(&mut self, own: &Arc<NodeReport>) -> bool {
        let before = core::mem::replace(&mut self.own, own.clone());
        self.version += 1;
        self.made.clear();
        let version = self.version;
        if trunk(&before) != trunk(own) {
            self.report_at = version;
        }
        if !before.drives.iter().map(drive_state).eq(own.drives.iter().map(drive_state)) {
            self.drives_at.states = version;
        } else if before.drives != own.drives {
            self.drives_at.figures = version;
        }
        if before.load != own.load {
            self.load_at = version;
        }
        let by_number = |report: &'_ NodeReport| -> BTreeMap<ActorId, usize> {
            report.actors.iter().enumerate().map(|(at, one)| (one.actor, at)).collect()
        };
        let (old, new) = (by_number(&before), by_number(own));
        for (actor, at) in &new {
            let after = &own.actors[*at];
            match old.get(actor).map(|at| &before.actors[*at]) {
                Some(before) if before == after => {}
                Some(before) if actor_state(before) == actor_state(after) => self.used.note(*actor, version),
                _ => self.actors.note(*actor, version),
            }
        }
        for actor in old.keys().filter(|actor| !new.contains_key(actor)) {
            self.actors.note(*actor, version);
            self.used.forget(*actor);
        }
        self.actors.bound(|actor| new.contains_key(actor), new.len(), version);
        let (seen, sees) = (before.sees.iter().copied().collect(), own.sees.iter().copied().collect());
        self.sees.compare(&seen, &sees, version);
        self.sees.bound(|node| sees.contains(node), sees.len(), version);
        self.states_at() == version
    }

    /// Whether anything was said.
    #[must_use]
    pub const fn has_spoken(&self) -> bool {
        self.version > self.born
    }

    /// When a state last changed.
    fn states_at(&self) -> u64 {
        self.report_at.max(self.drives_at.states).max(self.actors.newest()).max(self.sees.newest())
    }

    /// When a figure last changed.
    fn figures_at(&self) -> u64 {
        self.load_at.max(self.drives_at.figures).max(self.used.newest())
    }

    /// A beat of a node counts, and says how much it holds; `start`: of this node.
    pub fn hear(&mut self, from: NodeId, held: Option<Held>, start: Incarnation) {
        self.listeners.entry(from).or_default().holds = holds(held, start);
    }

    /// What a beat to a node takes along, if figures are due to it after so long.
    #[must_use]
    pub fn beat(&mut self, to: NodeId, pace: Duration, now: Instant) -> Option<Arc<News>> {
        let listener = self.listeners.get(&to).copied().unwrap_or_default();
        let is_due = listener.figures_at.is_none_or(|at| now.since(at) >= pace);
        let news = self.news(listener.holds, is_due)?;
        if news.figures {
            self.listeners.entry(to).or_default().figures_at = Some(now);
        }
        Some(news)
    }

    /// What the answer to a beat takes along that said so much is held: whoever has just begun to listen is told all at once.
    #[must_use]
    pub fn answer(&mut self, held: Option<Held>, start: Incarnation) -> Option<Arc<News>> {
        self.news(holds(held, start), false)
    }

    /// What whoever holds that does not know.
    fn news(&mut self, holds: AsOf, with_figures: bool) -> Option<Arc<News>> {
        let forgot = self.actors.forgot.max(self.sees.forgot);
        // What was never said nobody holds.
        let knows = holds.states > self.born && holds.states >= forgot && holds.states <= self.version;
        let since = if knows { holds } else { AsOf::default() };
        let figures = !knows || (with_figures && since.figures < self.figures_at());
        if !self.has_spoken() || (!figures && since.states >= self.states_at()) {
            return None;
        }
        let since = if figures { since } else { AsOf { figures: 0, ..since } };
        if let Some(made) = self.made.get(&(since, figures)) {
            return Some(made.clone());
        }
        let made = Arc::new(self.make(since, figures));
        if self.made.len() < MADE_MAX {
            self.made.insert((since, figures), made.clone());
        }
        Some(made)
    }

    fn make(&self, since: AsOf, figures: bool) -> News {
        let own = &*self.own;
        let mut changed: BTreeSet<ActorId> = self.actors.since(since.states).collect();
        if figures {
            changed.extend(self.used.since(since.figures));
        }
        let all = since == AsOf::default();
        let actors: Vec<ActorReport> =
            own.actors.iter().filter(|one| all || changed.contains(&one.actor)).cloned().collect();
        // Those that are left are not there.
        changed.retain(|actor| !all && actors.binary_search_by_key(actor, |one| one.actor).is_err());
        let sees = self.sees.since(since.states);
        let (sees, misses) = match all {
            true => (own.sees.clone(), Vec::new()),
            false => sees.partition(|node| own.sees.binary_search(node).is_ok()),
        };
        let drives = self.drives_at.states > since.states || (figures && self.drives_at.figures > since.figures);
        News {
            since,
            version: self.version,
            figures,
            report: (all || self.report_at > since.states).then(|| Box::new(trunk(own))),
            drives: (all || drives).then(|| own.drives.clone()),
            actors,
            gone: changed.into_iter().collect(),
            sees,
            misses,
            load: (figures && (all || self.load_at > since.figures)).then(|| own.load.clone()),
        }
    }
}

/// Of a start that is over nothing is held that counts.
fn holds(held: Option<Held>, start: Incarnation) -> AsOf {
    held.filter(|held| held.start == start).map_or_else(AsOf::default, |held| held.as_of)
}

/// A report without what [`News`] has lists and figures for.
pub(super) fn trunk(report: &NodeReport) -> NodeReport {
    NodeReport {
        node: report.node,
        incarnation: report.incarnation,
        life: report.life,
        starts: report.starts.clone(),
        kind: report.kind,
        address: report.address.clone(),
        pid: report.pid,
        state: report.state,
        drives: Vec::new(),
        groups: report.groups.clone(),
        sees: Vec::new(),
        attached_to: report.attached_to,
        emulated: report.emulated,
        actors: Vec::new(),
        ability: report.ability.clone(),
        load: Default::default(),
        missing: report.missing.clone(),
        survival: report.survival.clone(),
        lost: report.lost,
        drives_up: report.drives_up,
        unable: report.unable.clone(),
        turned_away: report.turned_away.clone(),
        level: report.level,
        mesh_level: report.mesh_level,
        location: report.location.clone(),
    }
}

/// A drive without its figures.
fn drive_state(drive: &DriveReport) -> impl PartialEq + '_ {
    (drive.drive, drive.state, drive.capacity_bytes, &drive.reason, drive.damaged > 0)
}

/// An actor without its figures.
fn actor_state(one: &ActorReport) -> impl PartialEq + '_ {
    (one.actor, &one.functions, one.epoch, one.phase, one.restarts)
}

/// Between two times that a node is told the figures of another, where so many nodes are up: by all of them together it is
/// told a bounded number of times a second, however many there are.
#[must_use]
pub fn pace(nodes: usize, may_lead: bool) -> Duration {
    let each = if may_lead { FIGURES_EACH_LEADER } else { FIGURES_EACH };
    each.saturating_mul(u32::try_from(nodes).unwrap_or(u32::MAX))
}

/// Who leads the control group, or may, hears figures 200 times a second at most: in a mesh of a thousand every five
/// seconds of each.
const FIGURES_EACH_LEADER: Duration = Duration::from_millis(5);
/// Everybody else 50 times a second.
const FIGURES_EACH: Duration = Duration::from_millis(20);
/// Actors, and peers, that are there no more and are remembered all the same.
const GONE_MAX: usize = 1024;
/// Different ones of one version that are kept.
const MADE_MAX: usize = 64;

#[cfg(test)]
mod tests;
