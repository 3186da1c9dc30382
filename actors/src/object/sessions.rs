//! Sessions: this life of the ingress in each metadata group, and the numbers of its commands there.
//!
//! Nothing is read or written for anybody in a group before the session is open in it: from then on what an earlier life
//! sent late is refused there. It is opened without being asked for too: an ingress that nobody uses after its restart would
//! leave the blocks of its earlier life open, and what lies on drives under their ids could never be swept. Every command gets a number, under which it goes out as often as it takes; the group lets
//! it take effect once. It owns which numbers are waited for, and the calls that wait for a session; not what they ask.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};

use mesh_core::{
    Error, ErrorKind,
    id::{ActorId, Epoch, GroupId},
    limits::SESSION_REQUESTS_MAX,
    meta::{Command, Proposer, Session},
    time::Instant,
};

use super::{ask::Ask, timers::TimerKey};

/// The sessions of an ingress, one a group.
#[derive(Default)]
pub(super) struct Sessions {
    groups: BTreeMap<GroupId, Group>,
    /// Where a session is to be opened though nobody asks for it, and when.
    due: BTreeMap<GroupId, Instant>,
    /// The last life that was begun anywhere.
    life: u64,
    parked: u64,
}

struct Group {
    session: Session,
    stage: Stage,
    /// The next command's number.
    next: u64,
    /// Those that are waited for.
    open: BTreeSet<u64>,
    /// Calls that wait for the session, at most one a request.
    parked: BTreeMap<u64, Parked>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    New,
    Opening,
    Open,
}

/// A call that waits for a session, and the timer of its deadline.
pub(super) struct Parked {
    pub(super) ask: Ask,
    pub(super) timer: TimerKey,
}

impl Sessions {
    /// The session in a group: a new one, if there is none. Its life is later than every one before it under this epoch, for
    /// the clock of a process goes on where functions are started anew.
    fn group(&mut self, group: GroupId, epoch: Epoch, now: Instant) -> &mut Group {
        let last = &mut self.life;
        self.groups.entry(group).or_insert_with(|| {
            *last = now.0.max(last.saturating_add(1));
            let session = Session { epoch, life: *last };
            Group { session, stage: Stage::New, next: 0, open: BTreeSet::new(), parked: BTreeMap::new() }
        })
    }

    /// Has sessions opened in the control group and the namespace groups.
    pub(super) fn assign(&mut self, namespaces: u16, now: Instant) {
        if namespaces > 0 {
            for group in (0..=u64::from(namespaces)).map(GroupId) {
                if !self.groups.contains_key(&group) {
                    self.due.entry(group).or_insert(now);
                }
            }
        }
    }

    /// When a session is to be opened.
    pub(super) fn next_at(&self) -> Option<Instant> {
        self.due.values().min().copied()
    }

    /// The next group in which one is to be opened now.
    pub(super) fn next_due(&mut self, epoch: Epoch, now: Instant) -> Option<GroupId> {
        let group = self.due.iter().find(|(_, at)| **at <= now).map(|(group, _)| *group)?;
        self.due.remove(&group);
        self.group(group, epoch, now);
        Some(group)
    }

    /// Gives a command its number.
    ///
    /// # Errors
    /// `Overloaded` while one that is waited for lies too far behind.
    pub(super) fn number(
        &mut self,
        (group, actor): (GroupId, ActorId),
        epoch: Epoch,
        now: Instant,
    ) -> Result<Proposer, Error> {
        let group = self.group(group, epoch, now);
        let done_below = group.open.first().copied().unwrap_or(group.next);
        if group.next - done_below >= SESSION_REQUESTS_MAX {
            return Err(Error::new(
                ErrorKind::Overloaded,
                "a command to the metadata group hangs, and as many as may be went past it; send again later",
            ));
        }
        let request = group.next;
        group.next += 1;
        group.open.insert(request);
        Ok(Proposer { actor, session: group.session, request, done_below })
    }

    /// Nobody waits for a command any more.
    pub(super) fn ended(&mut self, group: GroupId, proposer: &Proposer) {
        if let Some(group) = self.groups.get_mut(&group)
            && group.session == proposer.session
        {
            group.open.remove(&proposer.request);
        }
    }

    pub(super) fn is_open(&self, group: GroupId) -> bool {
        self.groups.get(&group).is_some_and(|group| group.stage == Stage::Open)
    }

    /// Keeps a call until the session is open, or its timer comes.
    pub(super) fn park(
        &mut self,
        (group, epoch): (GroupId, Epoch),
        ask: Ask,
        now: Instant,
        timer: impl FnOnce(u64) -> TimerKey,
    ) {
        self.parked += 1;
        let parked = self.parked;
        self.group(group, epoch, now).parked.insert(parked, Parked { ask, timer: timer(parked) });
    }

    /// A call's deadline has passed.
    pub(super) fn unpark(&mut self, group: GroupId, parked: u64) -> Option<Ask> {
        Some(self.groups.get_mut(&group)?.parked.remove(&parked)?.ask)
    }

    /// The command that opens a group's session, if that is to be sent now.
    pub(super) fn wanted(&mut self, group: GroupId, actor: ActorId) -> Option<(Session, Command)> {
        let state = self.groups.get_mut(&group).filter(|state| state.stage == Stage::New)?;
        state.stage = Stage::Opening;
        let session = state.session;
        Some((session, Command::OpenSession { group, actor, session }))
    }

    /// The session is open: those who waited for it.
    pub(super) fn opened(&mut self, group: GroupId, session: Session) -> Vec<Parked> {
        match self.groups.get_mut(&group) {
            Some(group) if group.session == session => {
                group.stage = Stage::Open;
                core::mem::take(&mut group.parked).into_values().collect()
            }
            _ => Vec::new(),
        }
    }

    /// The session cannot be opened, or is over: the next request begins another. `None` if it was begun already; else
    /// those who waited for it.
    pub(super) fn lose(&mut self, group: GroupId, session: Session, now: Instant) -> Option<Vec<Parked>> {
        if self.groups.get(&group)?.session != session {
            return None;
        }
        self.due.insert(group, now + AGAIN);
        Some(self.groups.remove(&group)?.parked.into_values().collect())
    }

    #[cfg(test)]
    pub(super) fn assume_open(&mut self, group: GroupId, session: Session) {
        let (next, open, parked) = (0, BTreeSet::new(), BTreeMap::new());
        self.groups.insert(group, Group { session, stage: Stage::Open, next, open, parked });
    }
}

/// For a call that waited for a session in vain: nothing was sent.
pub(super) fn not_opened(group: GroupId) -> Error {
    Error::new(ErrorKind::Unreachable, "the metadata group took this node's session in too late; send again later")
        .with("group", group)
}

/// Before a session that was lost, or not to be had, is tried again though nobody asks for it.
const AGAIN: Duration = Duration::from_secs(10);
