//! Who is there: by beats, and by how long ago the last one came.
//!
//! Whoever was itself asleep (stopped, swapped out, its machine paused) knows nothing of others: it does not take for
//! silent who spoke to it until it fell asleep. So what is asked is judged as of the last [`Peers::tick`] where that was
//! long ago, and a tick that comes late moves every last sign of life by as much as it is late.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};

use mesh_core::{id::NodeId, time::Instant};

/// How often a node does what it does again and again, and how long a silence may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Between two beats to all others.
    pub beat: Duration,
    /// Between two beats of a DPU to its host, and to whoever leads the control group.
    pub dpu_beat: Duration,
    /// Between two looks at everything without news.
    pub look: Duration,
    /// A peer that said nothing for so long is down.
    pub silence: Duration,
    /// The same for a DPU that beats at its short interval.
    pub dpu_silence: Duration,
    /// A tick that comes so long after the last one is late.
    pub late: Duration,
}

/// How a peer looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// It answers.
    Up,
    /// It has not been heard of, and this node has not listened for long enough to say that it is not there.
    Unheard,
    /// It is silent, or its link broke.
    Down,
}

/// What one node knows of the others.
#[derive(Clone, Debug)]
pub struct Peers {
    timing: Timing,
    since: Instant,
    ticked_at: Instant,
    /// When it last woke from a sleep.
    woke_at: Option<Instant>,
    seen: BTreeMap<NodeId, Seen>,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    heard_at: Instant,
    /// The last sign of life; `None` since a beat failed.
    alive_at: Option<Instant>,
    /// Since when it is up without a break.
    up_since: Instant,
    /// It beats to this node at the short interval: its silence says something sooner.
    brisk: bool,
}

impl Peers {
    /// A node that begins to listen.
    #[must_use]
    pub const fn new(timing: Timing, now: Instant) -> Self {
        Self { timing, since: now, ticked_at: now, woke_at: None, seen: BTreeMap::new() }
    }

    /// From now on silences are as long as this.
    pub const fn retime(&mut self, timing: Timing) {
        self.timing = timing;
    }

    /// Time has passed. To be told several times in [`Timing::late`]. Says for how long this node was asleep.
    pub fn tick(&mut self, now: Instant) -> Duration {
        let slept = now.since(self.judged_at(now));
        self.ticked_at = self.ticked_at.max(now);
        if slept.is_zero() {
            return slept;
        }
        for seen in self.seen.values_mut() {
            seen.heard_at = seen.heard_at + slept;
            seen.alive_at = seen.alive_at.map(|at| at + slept);
            // Its links may have been given up meanwhile: to be missed soon it has to beat briskly again first.
            seen.brisk = false;
        }
        self.since = self.since + slept;
        self.woke_at = Some(now);
        slept
    }

    /// The moment of which this node can say what was: now, unless it was asleep.
    fn judged_at(&self, now: Instant) -> Instant {
        now.min(self.ticked_at + self.timing.late)
    }

    /// A beat came. `beats_briskly`: it is of a DPU that has reason to beat to this node at its short interval. Says
    /// whether it was up before.
    pub fn heard(&mut self, node: NodeId, beats_briskly: bool, now: Instant) -> bool {
        // Before the sign of life is noted: a beat that waited while this node slept is of before.
        self.tick(now);
        let was_up = self.is_up(node, now);
        let before = self.seen.get(&node).filter(|_| was_up);
        let seen = Seen {
            heard_at: now,
            alive_at: Some(now),
            up_since: before.map_or(now, |seen| seen.up_since),
            brisk: beats_briskly && before.is_some_and(|seen| self.is_brisk(seen, now)),
        };
        self.seen.insert(node, seen);
        was_up
    }

    /// Whether a peer that beats now beats at the short interval. A beat from before this node slept, and two that waited
    /// together meanwhile, say nothing of how its link is now.
    fn is_brisk(&self, before: &Seen, now: Instant) -> bool {
        let gap = now.since(before.heard_at);
        let is_of_now = self.woke_at.is_none_or(|woke| before.heard_at > woke) && gap >= self.timing.dpu_beat / 2;
        gap <= self.timing.dpu_silence && (before.brisk || is_of_now)
    }

    /// What was asked of a peer then ended with its link: that is proof, unless it has been heard of since (it restarted, or
    /// dialled anew), or this node was itself asleep: then it was its own end that was silent. Says whether the peer was
    /// thought to be there.
    pub fn lost(&mut self, node: NodeId, asked_at: Instant, now: Instant) -> bool {
        self.tick(now);
        if self.woke_at.is_some_and(|at| asked_at <= at + self.timing.late) {
            return false;
        }
        let seen = self.seen.get_mut(&node).filter(|seen| seen.heard_at <= asked_at);
        seen.is_some_and(|seen| seen.alive_at.take().is_some())
    }

    /// Nothing that was heard under a number counts any more: it was another machine's.
    pub fn forget(&mut self, node: NodeId) {
        self.seen.remove(&node);
    }

    fn silence(&self, seen: &Seen) -> Duration {
        if seen.brisk { self.timing.dpu_silence } else { self.timing.silence }
    }

    /// Whether a peer answers.
    #[must_use]
    pub fn is_up(&self, node: NodeId, now: Instant) -> bool {
        let now = self.judged_at(now);
        let within = |seen: &Seen| seen.alive_at.is_some_and(|at| now.since(at) <= self.silence(seen));
        self.seen.get(&node).is_some_and(within)
    }

    /// When a peer last spoke.
    #[must_use]
    pub fn heard_at(&self, node: NodeId) -> Option<Instant> {
        self.seen.get(&node).map(|seen| seen.heard_at)
    }

    /// Whether a peer spoke within a silence, whatever became of its link since: within its own, or the longest.
    #[must_use]
    pub fn spoke_lately(&self, node: NodeId, longest: bool, now: Instant) -> bool {
        let now = self.judged_at(now);
        let within = |seen: &Seen| if longest { self.timing.silence } else { self.silence(seen) };
        self.seen.get(&node).is_some_and(|seen| now.since(seen.heard_at) <= within(seen))
    }

    /// How a peer looks.
    #[must_use]
    pub fn presence(&self, node: NodeId, now: Instant) -> Presence {
        if self.is_up(node, now) {
            Presence::Up
        } else if self.seen.contains_key(&node) || self.has_listened(now) {
            Presence::Down
        } else {
            Presence::Unheard
        }
    }

    /// Whether this node has listened for a silence: whoever it has not heard of by now is not there.
    #[must_use]
    pub fn has_listened(&self, now: Instant) -> bool {
        self.has_listened_for(self.timing.silence, now)
    }

    /// Whether it has for so long.
    #[must_use]
    pub fn has_listened_for(&self, span: Duration, now: Instant) -> bool {
        self.judged_at(now).since(self.since) >= span
    }

    /// Whether what is not seen may be there all the same: not every one of `others` answers, and this node has just begun
    /// to listen. What it stored now it would store on too few nodes, for good.
    pub fn looks_around(&self, others: impl IntoIterator<Item = NodeId>, now: Instant) -> bool {
        !self.has_listened(now) && others.into_iter().any(|node| !self.is_up(node, now))
    }

    /// The first moment after `now` at which a peer that answers then will have been silent for too long, if nothing is
    /// heard of it.
    #[must_use]
    pub fn next_silence(&self, now: Instant) -> Option<Instant> {
        let up = self.seen.iter().filter(|(node, _)| self.is_up(**node, now));
        up.filter_map(|(_, seen)| Some(Instant((seen.alive_at? + self.silence(seen)).0 + 1))).min()
    }

    /// The peers that answer.
    pub fn up(&self, now: Instant) -> impl Iterator<Item = NodeId> {
        self.seen.keys().copied().filter(move |node| self.is_up(*node, now))
    }

    /// Since when each peer that answers does so.
    #[must_use]
    pub fn up_since(&self, now: Instant) -> BTreeMap<NodeId, Instant> {
        let up: BTreeSet<NodeId> = self.up(now).collect();
        self.seen.iter().filter(|(node, _)| up.contains(node)).map(|(node, seen)| (*node, seen.up_since)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: NodeId = NodeId(2);
    const TIMING: Timing = Timing {
        beat: Duration::from_millis(500),
        dpu_beat: Duration::from_millis(50),
        look: Duration::from_millis(100),
        silence: Duration::from_millis(2000),
        dpu_silence: Duration::from_millis(150),
        late: Duration::from_millis(500),
    };

    fn at(millis: u64) -> Instant {
        Instant(millis * 1_000_000)
    }

    /// Ticks every 100 ms up to a moment.
    fn ticked(peers: &mut Peers, millis: core::ops::RangeInclusive<u64>) {
        for tick in millis.step_by(100) {
            peers.tick(at(tick));
        }
    }

    #[test]
    fn a_silence_is_a_loss_and_a_beat_ends_it() {
        let mut peers = Peers::new(TIMING, at(0));
        assert_eq!(peers.presence(PEER, at(0)), Presence::Unheard);
        ticked(&mut peers, 100..=1000);
        assert!(!peers.heard(PEER, false, at(1000)));
        ticked(&mut peers, 1100..=3000);
        assert_eq!(peers.presence(PEER, at(3000)), Presence::Up);
        ticked(&mut peers, 3100..=3100);
        assert_eq!((peers.presence(PEER, at(3100)), peers.up(at(3100)).count()), (Presence::Down, 0));
        assert!(!peers.heard(PEER, false, at(3100)));
        assert!(peers.heard(PEER, false, at(3200)));
        assert_eq!(peers.up_since(at(3200)), [(PEER, at(3100))].into());
        // A broken link is proof.
        assert!(!peers.lost(PEER, at(3150), at(3200)), "it spoke since");
        assert!(peers.lost(PEER, at(3200), at(3200)));
        assert_eq!((peers.presence(PEER, at(3200)), peers.spoke_lately(PEER, false, at(3200))), (Presence::Down, true));
        assert!(!peers.lost(PEER, at(3200), at(3200)));
    }

    #[test]
    fn who_was_never_heard_of_is_missing_only_after_a_silence() {
        let mut peers = Peers::new(TIMING, at(0));
        ticked(&mut peers, 100..=1900);
        assert_eq!(peers.presence(PEER, at(1900)), Presence::Unheard);
        ticked(&mut peers, 2000..=2000);
        assert_eq!(peers.presence(PEER, at(2000)), Presence::Down);
    }

    #[test]
    fn a_brisk_peer_is_missed_sooner() {
        let mut peers = Peers::new(TIMING, at(0));
        peers.heard(PEER, true, at(0));
        // Only by its second beat it is known to be brisk.
        assert!(peers.is_up(PEER, at(400)));
        peers.heard(PEER, true, at(50));
        assert!(peers.is_up(PEER, at(200)));
        assert!(!peers.is_up(PEER, at(201)));
    }

    #[test]
    fn who_was_asleep_does_not_take_others_for_silent() {
        let mut peers = Peers::new(TIMING, at(0));
        let quiet = NodeId(3);
        peers.heard(quiet, false, at(100));
        ticked(&mut peers, 200..=1000);
        peers.heard(PEER, false, at(1000));
        // It sleeps for ten seconds: before its first tick, and after.
        assert!(peers.is_up(PEER, at(11_000)));
        peers.tick(at(11_000));
        assert!(peers.is_up(PEER, at(11_000)));
        assert!(peers.is_up(quiet, at(11_600)));
        // From its own waking on the silence counts as ever: 2 s, less the 500 ms that had passed before it slept.
        ticked(&mut peers, 11_100..=11_700);
        assert!(!peers.is_up(quiet, at(11_700)));
        ticked(&mut peers, 11_800..=12_500);
        assert!(peers.is_up(PEER, at(12_500)));
        ticked(&mut peers, 12_600..=12_600);
        assert!(!peers.is_up(PEER, at(12_600)));
    }

    /// Its links may have been given up while it slept, and are made anew.
    #[test]
    fn who_was_asleep_misses_a_brisk_peer_late_until_it_has_beaten_briskly_again() {
        let mut peers = Peers::new(Timing { late: Duration::from_millis(100), ..TIMING }, at(0));
        peers.heard(PEER, true, at(0));
        peers.heard(PEER, true, at(50));
        peers.tick(at(10_000));
        // Beats that waited.
        peers.heard(PEER, true, at(10_000));
        peers.heard(PEER, true, at(10_001));
        peers.heard(PEER, true, at(10_002));
        ticked(&mut peers, 10_100..=11_400);
        assert!(peers.is_up(PEER, at(11_400)));
        peers.heard(PEER, true, at(11_400));
        assert!(peers.is_up(PEER, at(11_800)));
        peers.heard(PEER, true, at(11_450));
        ticked(&mut peers, 11_550..=11_650);
        assert!(!peers.is_up(PEER, at(11_700)));
    }

    #[test]
    fn a_link_that_ends_because_this_node_was_asleep_proves_nothing() {
        let mut peers = Peers::new(TIMING, at(0));
        peers.heard(PEER, false, at(0));
        // The beat of before the sleep, and one that went out on the dead link at once after it.
        assert!(!peers.lost(PEER, at(0), at(8000)));
        assert!(!peers.lost(PEER, at(8100), at(8100)));
        assert!(peers.is_up(PEER, at(8100)));
        ticked(&mut peers, 8200..=8600);
        assert!(peers.lost(PEER, at(8600), at(8600)));
    }

    #[test]
    fn the_next_silence_is_known() {
        let mut peers = Peers::new(TIMING, at(0));
        assert_eq!(peers.next_silence(at(0)), None);
        peers.heard(PEER, false, at(100));
        peers.heard(NodeId(3), false, at(0));
        assert_eq!(peers.next_silence(at(100)), Some(Instant(2_000_000_001)));
        ticked(&mut peers, 100..=2000);
        assert_eq!(peers.next_silence(at(2050)), Some(Instant(2_100_000_001)));
    }

    #[test]
    fn a_beat_that_comes_before_the_tick_after_a_sleep_wakes_as_well() {
        let mut peers = Peers::new(TIMING, at(0));
        peers.heard(PEER, false, at(0));
        peers.heard(NodeId(3), false, at(0));
        assert!(peers.heard(PEER, false, at(60_000)));
        assert!(peers.is_up(NodeId(3), at(60_000)));
    }

    #[test]
    fn what_is_known_of_a_peer_is_when_it_spoke_and_nothing_once_it_is_forgotten() {
        let mut peers = Peers::new(TIMING, at(0));
        assert_eq!((peers.heard_at(PEER), peers.spoke_lately(PEER, true, at(0))), (None, false));
        peers.heard(PEER, false, at(7));
        assert_eq!((peers.heard_at(PEER), peers.is_up(PEER, at(7))), (Some(at(7)), true));
        // Silences are set anew.
        peers.retime(Timing { silence: Duration::from_millis(100), ..TIMING });
        assert!(peers.is_up(PEER, at(107)) && peers.spoke_lately(PEER, true, at(107)));
        assert!(!peers.is_up(PEER, at(108)) && !peers.spoke_lately(PEER, true, at(108)));
        peers.forget(PEER);
        assert_eq!((peers.heard_at(PEER), peers.spoke_lately(PEER, true, at(7))), (None, false));
    }

    /// That beat had waited while this node slept.
    #[test]
    fn a_beat_of_the_moment_at_which_a_node_woke_says_nothing_of_how_briskly_others_come() {
        let mut peers = Peers::new(TIMING, at(0));
        peers.tick(at(9_000));
        peers.heard(PEER, true, at(9_000));
        peers.heard(PEER, true, at(9_050));
        assert!(peers.is_up(PEER, at(9_500)), "it is given the long silence");
        peers.heard(PEER, true, at(9_100));
        assert!(peers.is_up(PEER, at(9_250)) && !peers.is_up(PEER, at(9_251)));
    }

    #[test]
    fn a_node_looks_around_until_it_has_heard_of_all_or_listened_for_a_silence() {
        let mut peers = Peers::new(TIMING, at(0));
        ticked(&mut peers, 0..=1_900);
        assert!(peers.looks_around([PEER], at(1_900)) && !peers.looks_around([], at(1_900)));
        peers.heard(PEER, false, at(1_900));
        assert!(!peers.looks_around([PEER], at(1_900)));
        assert!(peers.looks_around([PEER, NodeId(3)], at(1_999)), "of another one it has not heard");
        assert!(!peers.looks_around([PEER, NodeId(3)], at(2_000)));
    }
}
