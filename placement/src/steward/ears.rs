//! What a node holds of what others have said of themselves: whole reports, kept up to date by the [`News`] that beats bring.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use mesh_core::{
    id::NodeId,
    limits::{NODE_ACTORS_MAX, NODE_PEERS_MAX},
    op::{AsOf, Beat, Held, News, NodeReport},
};

/// As of which versions the reports of others are held.
#[derive(Clone, Debug, Default)]
pub(super) struct Ears(BTreeMap<NodeId, Held>);

/// What a beat says, with all that was said before.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Said {
    /// The sender's report as it is now, as far as it has been told.
    pub(super) report: Arc<NodeReport>,
    as_of: AsOf,
    /// What is new about it.
    pub(super) news: Heard,
}

/// What is new.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Heard {
    /// Nothing.
    Nothing,
    /// Figures.
    Figures,
    /// A state.
    State,
}

impl Ears {
    /// What is held of a node.
    pub(super) fn held(&self, node: NodeId) -> Option<Held> {
        self.0.get(&node).copied()
    }

    /// What a beat says. `report`: what its sender said last. Nothing, if its start has not introduced itself yet: it learns
    /// that from what this node holds of it, and does.
    pub(super) fn understand(&self, beat: &Beat, report: Option<&Arc<NodeReport>>) -> Option<Said> {
        let held = self.held(beat.node).filter(|held| held.start == beat.incarnation);
        let known =
            held.and_then(|held| Some((held.as_of, report.filter(|said| said.incarnation == beat.incarnation)?)));
        let news = beat.news.as_deref().filter(|news| is_news(news, known.map(|(as_of, _)| as_of)));
        let as_it_was = || known.map(|(as_of, report)| Said { report: report.clone(), as_of, news: Heard::Nothing });
        let Some(news) = news else { return as_it_was() };
        let whole = news.since == AsOf::default();
        let before = known.filter(|_| !whole);
        let Some(report) = changed(before.map(|(_, report)| &**report), news) else { return as_it_was() };
        if (report.node, report.incarnation) != (beat.node, beat.incarnation) {
            return as_it_was();
        }
        let figures = if news.figures { news.version } else { before.map_or(0, |(as_of, _)| as_of.figures) };
        let what = if has_states(news, before.map(|(_, report)| &**report)) { Heard::State } else { Heard::Figures };
        Some(Said { report: Arc::new(report), as_of: AsOf { states: news.version, figures }, news: what })
    }

    /// What it says counts.
    pub(super) fn keep(&mut self, beat: &Beat, said: &Said) {
        self.0.insert(beat.node, Held { start: beat.incarnation, as_of: said.as_of });
    }
}

/// Whether something can be done with it: it begins where that is held, and is not older.
fn is_news(news: &News, held: Option<AsOf>) -> bool {
    let Some(held) = held else { return news.since == AsOf::default() };
    let follows = news.since.states <= held.states && (!news.figures || news.since.figures <= held.figures);
    let is_newer = news.version > held.states || (news.figures && news.version > held.figures);
    follows && news.version >= held.states && is_newer
}

/// Whether there is more to it than figures.
fn has_states(news: &News, before: Option<&NodeReport>) -> bool {
    let Some(before) = before else { return true };
    let states = |drives: &[mesh_core::op::DriveReport]| -> Vec<_> {
        drives.iter().map(|drive| (drive.drive, drive.state, drive.reason.clone(), drive.damaged > 0)).collect()
    };
    let drives = news.drives.as_ref().is_some_and(|drives| states(drives) != states(&before.drives));
    let is_other = |one: &mesh_core::op::ActorReport| {
        let known = before.actors.binary_search_by_key(&one.actor, |known| known.actor).ok();
        let known = known.and_then(|at| before.actors.get(at));
        known.is_none_or(|known| (known.epoch, known.phase, known.restarts) != (one.epoch, one.phase, one.restarts))
    };
    let lists = [news.gone.is_empty(), news.sees.is_empty(), news.misses.is_empty()];
    news.report.is_some() || drives || lists.contains(&false) || news.actors.iter().any(is_other)
}

/// The report with what has changed. None if there is nothing that it could be a change of, or if it would outgrow its bounds.
fn changed(before: Option<&NodeReport>, news: &News) -> Option<NodeReport> {
    let mut report = match (&news.report, before) {
        (Some(trunk), _) => NodeReport::clone(trunk),
        (None, Some(before)) => super::voice::trunk(before),
        (None, None) => return None,
    };
    let nothing = NodeReport::default();
    let before = before.unwrap_or(&nothing);
    report.drives = news.drives.clone().unwrap_or_else(|| before.drives.clone());
    report.load = news.load.clone().unwrap_or_else(|| before.load.clone());
    report.actors = if news.actors.is_empty() && news.gone.is_empty() {
        before.actors.clone()
    } else {
        let gone: BTreeSet<_> = news.gone.iter().copied().collect();
        let kept = before.actors.iter().filter(|one| !gone.contains(&one.actor));
        let mut actors: BTreeMap<_, _> = kept.map(|one| (one.actor, one)).collect();
        actors.extend(news.actors.iter().map(|one| (one.actor, one)));
        actors.into_values().cloned().collect()
    };
    let mut sees: BTreeSet<NodeId> = before.sees.iter().copied().filter(|node| !news.misses.contains(node)).collect();
    sees.extend(&news.sees);
    report.sees = sees.into_iter().collect();
    (report.actors.len() <= NODE_ACTORS_MAX
        && report.unable.len() <= NODE_ACTORS_MAX
        && report.turned_away.len() <= NODE_PEERS_MAX
        && report.sees.len() <= NODE_PEERS_MAX)
        .then_some(report)
}

#[cfg(test)]
mod tests;
