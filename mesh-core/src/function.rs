//! The one abstraction: a storage function is a deterministic machine.

use crate::{
    effect::{Effect, Event, Job, Outcome, Request, Target},
    figures::{Labels, Page},
    id::Token,
    snapshot::{Mark, Snapshot},
    time::{Instant, UnixMillis},
};

/// A deterministic machine: it performs no I/O, reads no clock, draws no randomness of its own and never waits. What
/// it wants from the world goes out through `cx`; what the world did comes back as an [`Event`].
///
/// Rules, which the shell and the simulator rely on:
/// - every [`Event::Request`] is answered by exactly one [`Effect::Reply`], in any order;
/// - every call and every piece of work comes back exactly once, as an error at worst;
/// - the same events, times and random bytes give the same effects: no iteration over hash maps, no addresses;
/// - bad input is answered with an error; a broken invariant panics, and the shell restarts the function from its
///   spec.
pub trait StorageFunction: Send {
    /// Takes one event.
    fn on_event(&mut self, event: Event, cx: &mut Cx<'_>);

    /// When to send [`Event::Wake`]. Asked after every event.
    fn wake_at(&self) -> Option<Instant> {
        None
    }

    /// Requests, calls and work that are not finished. A function may be moved only at zero, or while it
    /// [lingers](Self::lingers).
    fn in_flight(&self) -> usize;

    /// What of that others wait for: a node that stops waits for it, and for no work that a function has begun by itself.
    fn unanswered(&self) -> usize {
        self.in_flight()
    }

    /// Whether all that is in flight may end here after the state has gone on to another node: its end changes nothing
    /// that the state holds. Then a move does not wait for it.
    fn lingers(&self) -> bool {
        self.in_flight() == 0
    }

    /// Adds what it has counted since it was made, under these labels and, if need be, more of its own. It counts in plain fields,
    /// by additions alone; that it took so long is counted by who asks it.
    fn figures(&self, labels: &Labels, page: &mut Page) {
        let _ = (labels, page);
    }

    /// A page of the state: from the beginning, or of what changed since the mark of the page before. At most
    /// `SNAPSHOT_PAGE_ENTRIES` entries; see [`Snapshot::more`].
    fn snapshot(&mut self, since: Option<Mark>) -> Snapshot;

    /// Takes over a page that [`Self::snapshot`] gave, before any request; pages come in order. A function without state
    /// accepts only the empty snapshot.
    ///
    /// # Errors
    /// If the snapshot is of a newer version or is damaged; the function is then unchanged.
    fn restore(&mut self, snapshot: &Snapshot) -> Result<(), crate::Error> {
        if snapshot.is_empty() {
            Ok(())
        } else {
            Err(crate::Error::invalid("this function has no state, and the snapshot is not empty"))
        }
    }
}

/// Where a node's random bytes come from: the operating system's generator, or a seed in the simulator.
pub trait Entropy: Send {
    /// Fills `target`.
    fn fill(&mut self, target: &mut [u8]);
}

/// Gives out tokens, unique within one actor.
#[derive(Clone, Debug, Default)]
pub struct Tokens(u64);

impl Tokens {
    /// A new token.
    pub const fn next(&mut self) -> Token {
        self.0 += 1;
        Token(self.0)
    }
}

/// The way out of a function: what time it is, and where effects go.
pub struct Cx<'a> {
    now: Instant,
    wall: UnixMillis,
    effects: &'a mut Vec<Effect>,
    tokens: &'a mut Tokens,
    entropy: &'a mut dyn Entropy,
}

impl core::fmt::Debug for Cx<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Cx {{ now: {:?}, {} effects }}", self.now, self.effects.len())
    }
}

impl<'a> Cx<'a> {
    /// For shells: the context of one event.
    pub fn new(
        now: Instant,
        wall: UnixMillis,
        effects: &'a mut Vec<Effect>,
        tokens: &'a mut Tokens,
        entropy: &'a mut dyn Entropy,
    ) -> Self {
        Self { now, wall, effects, tokens, entropy }
    }

    /// The same moment, with effects going elsewhere. For functions made of functions.
    #[inline]
    pub fn into_effects<'b>(&'b mut self, effects: &'b mut Vec<Effect>) -> Cx<'b> {
        Cx { now: self.now, wall: self.wall, effects, tokens: self.tokens, entropy: self.entropy }
    }

    /// When this event happened, on the node's monotonic clock.
    #[must_use]
    pub const fn now(&self) -> Instant {
        self.now
    }

    /// When this event happened, on the wall clock.
    #[must_use]
    pub const fn wall(&self) -> UnixMillis {
        self.wall
    }

    /// Random bytes, fit for keys.
    pub fn random<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.entropy.fill(&mut bytes);
        bytes
    }

    /// Asks another; its answer comes back with the token.
    #[inline]
    pub fn call(&mut self, to: Target, request: Request) -> Token {
        let call = self.tokens.next();
        self.effects.push(Effect::Call { to, call, request });
        call
    }

    /// Answers a request.
    #[inline]
    pub fn reply(&mut self, id: Token, outcome: Outcome) {
        self.effects.push(Effect::Reply { id, outcome });
    }

    /// Starts slow work; its end comes back with the token.
    #[inline]
    pub fn start(&mut self, job: Job) -> Token {
        let work = self.tokens.next();
        self.effects.push(Effect::Start { work, job });
        work
    }

    /// A token for the function's own use, such as a handle it gives out.
    pub fn token(&mut self) -> Token {
        self.tokens.next()
    }

    #[inline]
    pub(crate) fn push(&mut self, effect: Effect) {
        self.effects.push(effect);
    }
}
