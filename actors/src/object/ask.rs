//! One call with its repetitions: who asked, what, and what an answer means for trying again.

use core::time::Duration;
use std::sync::Arc;

use mesh_core::{
    Certainty, Error, ErrorKind, Op, Request,
    id::{ActorId, BucketId, GroupId, Token, WriteId},
    limits::BUDGET_DEFAULT,
    meta::{Proposer, Session},
    time::Instant,
};

use super::{
    owed, reclaim, sweep,
    task::{Caller, Failure, Question, Retry},
};

/// Where a question goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// To the next stage, where Policy checks it.
    Next,
    /// To the metadata groups, as the mesh itself.
    Metadata,
    /// Through Raft, as the mesh itself.
    Propose,
    /// To an actor, as the mesh itself.
    Actor(ActorId),
}

/// Who hears the answer.
pub(super) enum Owner {
    Task(Token),
    Block(GroupId),
    /// A session is to be opened.
    Session(GroupId, Session),
    /// A bucket that is sealed is to be removed.
    Deletion(BucketId),
    Reclaim(reclaim::Errand),
    Owed(owed::Errand),
    Sweep(sweep::Errand),
    /// A block of write ids is to be closed.
    Retire(GroupId, WriteId),
}

impl Owner {
    pub(super) const fn is_task(&self) -> bool {
        matches!(self, Self::Task(_))
    }

    /// Whether it is somebody's request, or works for one: what needs a session.
    const fn is_for_somebody(&self) -> bool {
        matches!(self, Self::Task(_) | Self::Block(_))
    }
}

/// A call that is out, or waits to go out again.
pub(super) struct Ask {
    pub(super) owner: Owner,
    pub(super) way: Way,
    /// The answer is the row of this bucket, for the cache.
    pub(super) bucket: Option<Arc<str>>,
    /// The metadata group whose session must be open before this is sent.
    pub(super) session: Option<GroupId>,
    /// Its number there, if it is a command that has one.
    pub(super) number: Option<Box<Proposer>>,
    /// What to send (again). Empty while it is out and may not be repeated.
    request: Option<Request>,
    retry: Retry,
    pub(super) deadline: Instant,
    tries: u32,
    unseen: Unseen,
    /// A sending may have taken effect.
    maybe: bool,
}

/// What to do about a failure.
pub(super) enum Verdict {
    Again(Instant),
    Final(Failure),
}

impl Ask {
    pub(super) fn new(owner: Owner, question: Question, caller: &Caller) -> Self {
        let Question { way, op, payload, retry } = question;
        let request = match way {
            Way::Next => caller.request(op, payload),
            Way::Metadata | Way::Propose | Way::Actor(_) => Request::system(op, caller.deadline),
        };
        Self::of(owner, way, request, retry)
    }

    /// A call of the function's own, as the mesh itself.
    pub(super) fn background(owner: Owner, question: Question, now: Instant) -> Self {
        let Question { way, op, retry, .. } = question;
        let mut request = Request::system(op, now + BUDGET_DEFAULT);
        request.lane = mesh_core::Lane::Bulk;
        Self::of(owner, way, request, retry)
    }

    fn of(owner: Owner, way: Way, request: Request, retry: Retry) -> Self {
        let deadline = request.deadline;
        let (session, number) = match &request.op {
            Op::Query { group, .. } => (Some(*group), None),
            Op::Propose(command) => (Some(command.group()), command.proposer().copied().map(Box::new)),
            _ => (None, None),
        };
        let session = session.filter(|_| owner.is_for_somebody());
        let request = Some(request);
        let unseen = Unseen::default();
        Self { owner, way, bucket: None, session, number, request, retry, deadline, tries: 0, unseen, maybe: false }
    }

    /// What to send now; keeps a copy if it may be sent again.
    pub(super) fn take_request(&mut self) -> Request {
        let request = match self.retry {
            Retry::Never => self.request.take(),
            Retry::Transport | Retry::Patient => self.request.clone(),
        };
        request.expect("a call without repetitions is sent once")
    }

    /// Whether to send again, and when.
    pub(super) fn judge(&mut self, error: Error, now: Instant) -> Verdict {
        let again = match self.retry {
            Retry::Never => false,
            Retry::Transport => is_retryable(error.kind()),
            Retry::Patient => is_retryable(error.kind()) || error.kind() == ErrorKind::RateLimited,
        };
        let unseen = if self.retry == Retry::Never { None } else { self.unseen.again(error.kind(), now) };
        let (again, at) = match unseen {
            Some(at) => (true, at),
            None => (again, now + pause(self.tries, error.certainty())),
        };
        self.maybe = match error.kind() {
            // What was sent before may have taken effect before the session was over.
            ErrorKind::Fenced if self.number.is_some() => true,
            // The group's answer to this number, whichever sending it came to.
            kind if self.number.is_some() && is_decision(kind) => false,
            kind => self.maybe || kind.certainty() == Certainty::MaybeProcessed,
        };
        if again && at < self.deadline {
            self.tries += 1;
            Verdict::Again(at)
        } else {
            Verdict::Final(Failure { error, maybe: self.maybe })
        }
    }
}

/// Whether only the metadata group itself refuses a command so.
const fn is_decision(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::Conflict
            | ErrorKind::QuotaExceeded
            | ErrorKind::Precondition
            | ErrorKind::NoSuchBucket
            | ErrorKind::NoSuchUpload
            | ErrorKind::InvalidPart
            | ErrorKind::PartTooSmall
            | ErrorKind::BucketNotEmpty
            | ErrorKind::BucketExists
            | ErrorKind::BucketTaken
    )
}

/// Whether the same request may go well a little later, without anybody changing anything.
pub(super) const fn is_retryable(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::StaleEpoch
            | ErrorKind::Draining
            | ErrorKind::Overloaded
            | ErrorKind::NotLeader
            | ErrorKind::NoSuchActor
            | ErrorKind::Unreachable
            | ErrorKind::Timeout
            | ErrorKind::LinkLost
            | ErrorKind::Restarted
    )
}

/// Waits for drives that the chain does not see: others may, and then it is brought to where they are seen. Those that are
/// gone stay away for longer than anybody waits.
#[derive(Debug, Default)]
pub(super) struct Unseen(Option<Box<Waiting>>);

/// Few ever wait.
#[derive(Debug)]
struct Waiting {
    since: Instant,
    tries: u32,
}

impl Unseen {
    /// When to ask again, if that is why it failed, and it may be worth it. Each try costs a chain something, and may leave
    /// shards behind: they are few.
    pub(super) fn again(&mut self, kind: ErrorKind, now: Instant) -> Option<Instant> {
        if kind != ErrorKind::TooFewShards {
            return None;
        }
        let waiting = self.0.get_or_insert_with(|| Box::new(Waiting { since: now, tries: 0 }));
        let pause = UNSEEN_PAUSE.saturating_mul(1 << waiting.tries.min(16)).min(PAUSE_MAX);
        waiting.tries += 1;
        (now.since(waiting.since) < UNSEEN_MAX).then_some(now + pause)
    }
}

/// How long to wait before sending for the `tries + 2`nd time. What was lost on the way goes again at once; what was
/// turned away waits, longer each time, so that nobody spins on a full or moving actor.
pub(super) fn pause(tries: u32, certainty: Certainty) -> Duration {
    if tries == 0 && certainty == Certainty::MaybeProcessed {
        return Duration::ZERO;
    }
    PAUSE_MIN.saturating_mul(1 << tries.min(16)).min(PAUSE_MAX)
}

const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// Somewhat longer than a silence, and the move that follows it.
const UNSEEN_MAX: Duration = Duration::from_millis(2_500);
const UNSEEN_PAUSE: Duration = Duration::from_millis(250);
