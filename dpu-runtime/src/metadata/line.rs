//! Of which timeline a replica is, and of which whoever writes to it.
//!
//! One that is written to of a later one has that one's terms before it has its state: until then it says nothing to anybody of its
//! own, and hears nothing from them. Else terms would go back and forth between two that have nothing in common, and neither
//! would have a leader for long.

use std::{sync::Mutex, time::Duration};

use mesh_core::{
    Error, ErrorKind,
    op::{History, Timeline},
};
use tokio::time::Instant;

use super::lock;

#[derive(Debug, Default)]
pub(super) struct Line(Mutex<State>);

#[derive(Clone, Copy, Debug, Default)]
struct State {
    own: History,
    /// The latest of which somebody has written to it, and when that was last.
    heard: Option<(Timeline, Instant)>,
}

impl State {
    /// A later one than its own that it is being told of.
    fn learns(&self, now: Instant) -> Option<Timeline> {
        let (heard, at) = self.heard?;
        (heard > self.own.timeline && now.saturating_duration_since(at) < HEARD_MAX).then_some(heard)
    }
}

impl Line {
    pub(super) fn new(own: History) -> Self {
        Self(Mutex::new(State { own, heard: None }))
    }

    /// What its state went through.
    pub(super) fn own(&self) -> History {
        lock(&self.0).own
    }

    /// It has another state from now on.
    pub(super) fn turn_to(&self, own: History) {
        lock(&self.0).own = own;
    }

    /// As what it may write to others; none while it is being told of a later one.
    pub(super) fn speaks(&self) -> Option<Timeline> {
        let state = lock(&self.0);
        state.learns(Instant::now()).is_none().then_some(state.own.timeline)
    }

    /// Somebody of a timeline writes to it. Of a later one it learns, for that is how those that are not lost hear of it. An entry
    /// of an earlier one would be taken for the one here that has its number, and a term for a later one of the same leaders.
    ///
    /// # Errors
    /// `Conflict`: of an earlier one than its own, or than one that it is being told of.
    pub(super) fn hear(&self, from: Timeline) -> Result<(), Error> {
        let (mut state, now) = (lock(&self.0), Instant::now());
        let here = state.learns(now).unwrap_or(state.own.timeline);
        if from < here {
            let what =
                "the metadata group has gone on, from a backup or from less than there was, and without who says this";
            return Err(Error::new(ErrorKind::Conflict, what).with("timeline", from).with("here", here));
        }
        if from > state.own.timeline {
            state.heard = Some((from, now));
        }
        Ok(())
    }
}

/// Who told it of a later one and is silent for so long may never come back, and then it is what it was: several times as long as a
/// chunk of a snapshot may take.
const HEARD_MAX: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use mesh_core::time::UnixMillis;

    use super::*;

    fn of(timeline: Timeline) -> History {
        History { timeline, ..History::default() }
    }

    fn timeline(at: u64, chance: u64) -> Timeline {
        Timeline { at: UnixMillis(at), chance }
    }

    #[test]
    fn what_is_of_an_earlier_recovery_says_nothing() {
        for (from, here, is_heard) in [
            (timeline(0, 0), timeline(0, 0), true),
            (timeline(5, 1), timeline(5, 1), true),
            (timeline(5, 1), timeline(0, 0), true),
            (timeline(6, 0), timeline(5, 9), true),
            (timeline(0, 0), timeline(5, 1), false),
            (timeline(5, 1), timeline(5, 2), false),
            (timeline(5, 9), timeline(6, 0), false),
        ] {
            assert_eq!(Line::new(of(here)).hear(from).is_ok(), is_heard, "{from} {here}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_told_of_a_later_recovery_has_no_part_in_the_earlier_one() {
        let line = Line::new(of(timeline(1, 0)));
        assert_eq!(line.speaks(), Some(timeline(1, 0)));
        line.hear(timeline(1, 0)).expect("its own");
        line.hear(timeline(2, 0)).expect("a later one");
        assert_eq!(line.speaks(), None);
        assert!(line.hear(timeline(1, 0)).is_err(), "it has terms of the later one");
        line.hear(timeline(2, 0)).expect("the later one");
        // It never had the state, and nobody is there any more to tell it.
        tokio::time::advance(HEARD_MAX).await;
        assert_eq!(line.speaks(), Some(timeline(1, 0)));
        line.hear(timeline(1, 0)).expect("its own");
        line.hear(timeline(2, 0)).expect("that one is back");
        line.turn_to(of(timeline(2, 0)));
        assert_eq!((line.speaks(), line.own()), (Some(timeline(2, 0)), of(timeline(2, 0))));
        assert!(line.hear(timeline(1, 0)).is_err());
    }
}
