//! What could not be started or configured on a node, when that is tried again, and when it is said that the node is not able
//! to: then the actor may be tried elsewhere.

use core::time::Duration;
use std::{collections::BTreeMap, sync::Arc};

use mesh_core::{
    id::{ActorId, Epoch},
    spec::FunctionSpec,
    time::Instant,
};

/// What an actor was to be made of, and under which epoch.
pub type Made = (Epoch, Arc<FunctionSpec>);

/// What has failed of late.
#[derive(Clone, Debug, Default)]
pub struct Failures(BTreeMap<ActorId, Failure>);

#[derive(Clone, Debug)]
struct Failure {
    /// Not tried again before.
    until: Instant,
    /// How often it has failed, each time less than [`KEPT`] after it could be tried again.
    times: u32,
    /// Of something else it is not known that it fails.
    made: Option<Made>,
}

impl Failures {
    /// An actor could not be started, configured, or kept running as this.
    pub fn note(&mut self, actor: ActorId, made: Option<Made>, now: Instant) {
        let times = self.0.get(&actor).map_or(0, |failure| failure.times);
        let until = now + PAUSE.saturating_mul(1 << times.min(DOUBLINGS));
        self.0.insert(actor, Failure { until, times: times.saturating_add(1), made });
    }

    /// Whether it is too soon to make an actor of this.
    #[must_use]
    pub fn hold_back(&self, actor: ActorId, epoch: Epoch, spec: &FunctionSpec, now: Instant) -> bool {
        self.0.get(&actor).is_some_and(|failure| {
            let is_same = failure.made.as_ref().is_none_or(|(under, made)| *under == epoch && **made == *spec);
            failure.until > now && is_same
        })
    }

    /// The actors that may be tried again now.
    pub fn due(&self, now: Instant) -> impl Iterator<Item = ActorId> {
        self.0.iter().filter(move |(_, failure)| failure.until <= now).map(|(actor, _)| *actor)
    }

    /// The data chains that this node has tried in vain several times in a row, each with the epoch of the last try, in
    /// order, but for those that are there all the same.
    pub fn unable(&self, is_there: impl Fn(&ActorId) -> bool) -> impl Iterator<Item = (ActorId, Epoch)> {
        let is_unable = move |(actor, failure): &(&ActorId, &Failure)| {
            failure.times >= UNABLE_AFTER && actor.as_data().is_some() && !is_there(actor)
        };
        let failed = self.0.iter().filter(is_unable);
        failed.filter_map(|(actor, failure)| Some((*actor, failure.made.as_ref()?.0))).take(UNABLE_MAX)
    }

    /// Forgets what has been well for long.
    pub fn forget(&mut self, now: Instant) {
        self.0.retain(|_, failure| failure.until + KEPT > now);
    }
}

/// What failed is tried again after this, and after twice as long each time, up to sixteen times.
const PAUSE: Duration = Duration::from_millis(500);
const DOUBLINGS: u32 = 4;
/// That it failed is forgotten so long after it could be tried again.
const KEPT: Duration = Duration::from_secs(60);
/// Who has failed so often in a row is not able to.
const UNABLE_AFTER: u32 = 3;
/// Of so many actors it is said at most; of the others once these are tried elsewhere.
const UNABLE_MAX: usize = 1024;

#[cfg(test)]
mod tests {
    use mesh_core::{
        id::{NodeId, TenantId},
        spec::EncryptSpec,
    };

    use super::*;

    const CHAIN: ActorId = ActorId::data(TenantId(7), NodeId(3));

    #[test]
    fn who_fails_three_times_in_a_row_is_unable_until_it_was_calm_for_a_minute() {
        let mut failures = Failures::default();
        let made = |epoch| (Epoch(epoch), Arc::new(FunctionSpec::Encrypt(EncryptSpec::default())));
        let unable = |failures: &Failures, hosted: &[ActorId]| {
            failures.unable(|actor| hosted.contains(actor)).collect::<Vec<_>>()
        };
        let (mut now, tail) = (Instant(0), ActorId::tail(TenantId(7), NodeId(3), 1));
        for expected in [vec![], vec![], vec![(CHAIN, Epoch(2))], vec![(CHAIN, Epoch(2))]] {
            failures.note(CHAIN, Some(made(2)), now);
            failures.note(tail, Some(made(2)), now);
            assert_eq!(unable(&failures, &[]), expected);
            assert_eq!(failures.due(now).count(), 0);
            now = failures.0[&CHAIN].until;
            assert_eq!(failures.due(now).collect::<Vec<_>>(), [CHAIN, tail]);
        }
        assert_eq!(unable(&failures, &[CHAIN]), [], "it came by a move, and runs");
        // Given to it again under a later epoch: it fails once more, and is still unable.
        failures.note(CHAIN, Some(made(4)), now);
        assert_eq!(unable(&failures, &[]), [(CHAIN, Epoch(4))]);
        let until = failures.0[&CHAIN].until;
        failures.forget(until + Duration::from_secs(59));
        assert_eq!(unable(&failures, &[]), [(CHAIN, Epoch(4))]);
        failures.forget(until + KEPT);
        assert_eq!(unable(&failures, &[]), []);
    }
}
