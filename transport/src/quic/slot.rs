//! One lane to one peer: dials, keeps the connection, and carries calls over it. All decisions are
//! [`Calls`]' and [`Ledger`](crate::peers::Ledger)'s; this only does what they say.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use mesh_core::{
    Error, Lane, Outcome,
    envelope::{Body, Envelope},
    id::Incarnation,
    limits::LINK_BYTES_MAX,
    port::{CallGuard, Completion},
    time::Instant,
};
use tokio::{
    sync::{Notify, Semaphore},
    task::AbortHandle,
};

use super::{
    Shared, bad_frame,
    frame::{Stream, Trouble, WriteFailure, read_preamble, read_rest},
    greet::Greeted,
    peer::Peer,
    unread,
};
use crate::{
    link::{add, count},
    peers::Attempt,
    session::{Action, Calls, Terms},
};

type Done = Completion<Outcome>;

/// One lane to one peer, of which BULK has two.
pub(super) struct Slot {
    pub(super) lane: Lane,
    inner: Mutex<Inner>,
    timer: Notify,
    /// Payload bytes of answers that are being read.
    answers: Semaphore,
}

struct Inner {
    calls: Calls<Done>,
    link: Link,
    /// The streams of calls, to reset them.
    tasks: BTreeMap<u64, AbortHandle>,
    /// When the timer rings.
    armed: Instant,
}

enum Link {
    None,
    Dialling,
    /// To this start of the peer.
    Live(quinn::Connection, Incarnation),
}

/// Completions to call once no lock is held.
#[must_use]
struct Finished(Vec<(Done, Outcome)>);

impl Finished {
    fn tell(self) {
        for (done, outcome) in self.0 {
            done(outcome);
        }
    }
}

/// Whether a dial may begin now.
pub(super) enum Begin {
    /// It has begun: run it.
    Dial(Attempt),
    /// There is a connection, or somebody is making one.
    Busy,
    /// Not before this.
    Later(Instant),
}

impl Slot {
    pub(super) fn new(lane: Lane) -> Arc<Self> {
        let inner = Inner { calls: Calls::default(), link: Link::None, tasks: BTreeMap::new(), armed: Instant::NEVER };
        Arc::new(Self { lane, inner: Mutex::new(inner), timer: Notify::new(), answers: Semaphore::new(LINK_BYTES_MAX) })
    }

    /// See `Outbound::send`.
    pub(super) fn send(
        self: &Arc<Self>,
        shared: &Arc<Shared>,
        peer: &Arc<Peer>,
        envelope: Envelope,
        done: Done,
    ) -> CallGuard {
        let now = shared.clock.now();
        let mut inner = self.lock();
        let refused = match inner.link {
            Link::Live(..) => None,
            // Nobody waits behind a probe of a peer that is down.
            Link::Dialling => peer.ledger().refusal(),
            Link::None => match peer.ledger().may_dial(now) {
                Ok(attempt) => {
                    inner.link = Link::Dialling;
                    let (slot, shared_too, peer) = (self.clone(), shared.clone(), peer.clone());
                    shared.runtime.spawn(async move { slot.run(&shared_too, &peer, attempt).await });
                    None
                }
                Err(error) => Some(error),
            },
        };
        if let Some(error) = refused {
            drop(inner);
            done(Err(error));
            return CallGuard::none();
        }
        let mut actions = Vec::new();
        let id = inner.calls.start(now, envelope, done, &mut actions);
        if id.is_none() {
            count(&shared.counters.overloads);
        }
        let rings_too_late = inner.calls.wake_at().is_some_and(|at| at < inner.armed);
        let finished = self.perform(shared, inner, actions);
        if rings_too_late {
            self.timer.notify_one();
        }
        finished.tell();
        let Some(id) = id else { return CallGuard::none() };
        let (slot, shared) = (Arc::downgrade(self), Arc::downgrade(shared));
        CallGuard::new(move || {
            if let (Some(slot), Some(shared)) = (slot.upgrade(), shared.upgrade()) {
                slot.with_calls(&shared, |calls, actions| calls.cancel(id, actions));
            }
        })
    }

    /// Asks to dial without a call, to know whether the peer is there.
    pub(super) fn begin(&self, peer: &Peer, now: Instant) -> Begin {
        let mut inner = self.lock();
        if !matches!(inner.link, Link::None) {
            return Begin::Busy;
        }
        let mut ledger = peer.ledger();
        match ledger.may_dial(now) {
            Ok(attempt) => {
                inner.link = Link::Dialling;
                Begin::Dial(attempt)
            }
            Err(_) => Begin::Later(ledger.retry_at()),
        }
    }

    /// Dials, then stays until the connection breaks.
    pub(super) async fn run(self: &Arc<Self>, shared: &Arc<Shared>, peer: &Arc<Peer>, attempt: Attempt) {
        match shared.dial(attempt.address, peer.expected(), self.lane).await {
            Ok(greeted) => {
                let connection = self.attach(shared, peer, attempt, greeted);
                self.stay(shared, peer, &connection).await;
            }
            Err(error) => {
                count(&shared.counters.dial_failures);
                let reason = error.to_string();
                peer.dial_failed(shared, attempt, reason.clone());
                self.unlink(shared, &reason);
                peer.changed.notify_waiters();
            }
        }
    }

    /// Takes a connection into use: what waits goes out on it. [`Self::stay`] must follow.
    pub(super) fn attach(
        self: &Arc<Self>,
        shared: &Arc<Shared>,
        peer: &Peer,
        attempt: Attempt,
        greeted: Greeted,
    ) -> quinn::Connection {
        let Greeted { connection, welcome, terms } = greeted;
        peer.dialled(shared, attempt, &welcome);
        self.link(shared, connection.clone(), welcome.incarnation, terms);
        // Retiring looks for connections after it has said so: one of the two sees the other.
        if peer.is_retired() {
            connection.close(super::GONE, b"no longer a peer");
        }
        peer.changed.notify_waiters();
        connection
    }

    /// Stays until the connection breaks, and ends its calls then.
    pub(super) async fn stay(self: &Arc<Self>, shared: &Arc<Shared>, peer: &Peer, connection: &quinn::Connection) {
        let reason = connection.closed().await.to_string();
        // The ledger first: whoever learns of the loss from its call finds the peer down.
        peer.lost(shared, reason.clone());
        self.unlink_from(shared, connection, &reason);
        count(&shared.counters.lost);
        peer.changed.notify_waiters();
    }

    /// Ends what waits for its time.
    pub(super) async fn run_timer(self: &Arc<Self>, shared: &Arc<Shared>, peer: &Peer) {
        while !peer.is_retired() {
            let wake_at = {
                let mut inner = self.lock();
                let wake_at = inner.calls.wake_at();
                inner.armed = wake_at.unwrap_or(Instant::NEVER);
                wake_at
            };
            let Some(wake_at) = wake_at else {
                self.timer.notified().await;
                continue;
            };
            let span = wake_at.after(shared.clock.now());
            if !span.is_zero() {
                // Either way it looks again.
                tokio::select! {
                    () = tokio::time::sleep(span) => {}
                    () = self.timer.notified() => {}
                }
            }
            let now = shared.clock.now();
            self.with_calls(shared, |calls, actions| calls.expire(now, actions));
        }
    }

    /// Closes the connection, if there is one, and lets the timer look at the peer again.
    pub(super) fn close(&self) {
        if let Link::Live(connection, _) = &self.lock().link {
            connection.close(super::GONE, b"no longer a peer");
        }
        self.timer.notify_one();
    }

    /// Closes a connection to an earlier start of the peer: nobody is at its other end any more. What is sent from now on
    /// goes to the present one.
    pub(super) fn close_older(self: &Arc<Self>, shared: &Arc<Shared>, incarnation: Incarnation) {
        let inner = self.lock();
        let older = match &inner.link {
            Link::Live(connection, earlier) if *earlier < incarnation => connection.clone(),
            _ => return,
        };
        let reason = "the peer has restarted";
        older.close(super::GONE, reason.as_bytes());
        self.break_off(shared, inner, reason);
    }

    pub(super) fn in_flight(&self) -> usize {
        self.lock().calls.in_flight()
    }

    fn link(
        self: &Arc<Self>,
        shared: &Arc<Shared>,
        connection: quinn::Connection,
        incarnation: Incarnation,
        terms: Terms,
    ) {
        let mut actions = Vec::new();
        let mut inner = self.lock();
        inner.link = Link::Live(connection, incarnation);
        inner.calls.connected(terms, &mut actions);
        self.perform(shared, inner, actions).tell();
    }

    fn unlink(self: &Arc<Self>, shared: &Arc<Shared>, reason: &str) {
        self.break_off(shared, self.lock(), reason);
    }

    /// The same, unless another connection has taken the place of this one.
    fn unlink_from(self: &Arc<Self>, shared: &Arc<Shared>, connection: &quinn::Connection, reason: &str) {
        let inner = self.lock();
        if matches!(&inner.link, Link::Live(live, _) if live.stable_id() == connection.stable_id()) {
            self.break_off(shared, inner, reason);
        }
    }

    fn break_off(self: &Arc<Self>, shared: &Arc<Shared>, mut inner: MutexGuard<'_, Inner>, reason: &str) {
        let mut actions = Vec::new();
        inner.link = Link::None;
        inner.calls.broken(reason, &mut actions);
        self.perform(shared, inner, actions).tell();
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // No code that can panic runs under this lock; were it to, the tables are still whole.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with_calls(self: &Arc<Self>, shared: &Arc<Shared>, step: impl FnOnce(&mut Calls<Done>, &mut Vec<Action<Done>>)) {
        let mut actions = Vec::new();
        let mut inner = self.lock();
        step(&mut inner.calls, &mut actions);
        self.perform(shared, inner, actions).tell();
    }

    /// Does what the calls want, under their lock, but for telling the callers.
    fn perform(
        self: &Arc<Self>,
        shared: &Arc<Shared>,
        mut inner: MutexGuard<'_, Inner>,
        actions: Vec<Action<Done>>,
    ) -> Finished {
        let mut finished = Vec::new();
        for action in actions {
            match action {
                Action::Complete { caller, outcome } => finished.push((caller, outcome)),
                Action::Reset { id } => {
                    if let Some(task) = inner.tasks.remove(&id) {
                        task.abort();
                    }
                }
                Action::Send { id, deadline, envelope } => {
                    // `Send` comes only while there is a connection; were it to come otherwise, the call would end
                    // with its deadline.
                    let Link::Live(connection, _) = &inner.link else { continue };
                    let (slot, shared_too, connection) = (self.clone(), shared.clone(), connection.clone());
                    let task = shared.runtime.spawn(async move {
                        slot.carry(&shared_too, &connection, id, deadline, *envelope).await;
                    });
                    inner.tasks.insert(id, task.abort_handle());
                }
            }
        }
        Finished(finished)
    }

    /// Carries one call over one stream.
    async fn carry(
        self: &Arc<Self>,
        shared: &Arc<Shared>,
        connection: &quinn::Connection,
        id: u64,
        deadline: Instant,
        envelope: Envelope,
    ) {
        let end = self.exchange(shared, connection, id, deadline, envelope).await;
        if let Err(Trouble::Bad(error)) = &end {
            bad_frame(shared, connection, error);
        }
        self.ended(shared, id, end);
    }

    fn ended(self: &Arc<Self>, shared: &Arc<Shared>, id: u64, end: Result<Outcome, Trouble>) {
        let mut actions = Vec::new();
        let mut inner = self.lock();
        inner.tasks.remove(&id);
        match end {
            Ok(outcome) => inner.calls.answered(id, outcome, &mut actions),
            Err(Trouble::Gone(reason)) => inner.calls.stream_broken(id, &reason, &mut actions),
            Err(Trouble::Bad(error)) => inner.calls.stream_broken(id, error.message(), &mut actions),
        }
        self.perform(shared, inner, actions).tell();
    }

    async fn exchange(
        &self,
        shared: &Shared,
        connection: &quinn::Connection,
        id: u64,
        deadline: Instant,
        mut envelope: Envelope,
    ) -> Result<Outcome, Trouble> {
        let streams = connection.open_bi().await.map_err(|error| Trouble::Gone(error.to_string()))?;
        let mut stream = Stream::new(streams, self.lane);
        // What is left of the budget. At least one: zero would mean that none is named.
        let left = deadline.after(shared.clock.now()).max(Duration::from_micros(1));
        envelope.header.budget_us = u64::try_from(left.as_micros()).unwrap_or(u64::MAX);
        match stream.write(envelope).await {
            Ok(bytes) => {
                if !self.lock().calls.sent(id) {
                    return Err(Trouble::Gone("the call is over".to_owned()));
                }
                stream.finish();
                count(&shared.counters.sent_requests);
                add(&shared.counters.sent_bytes, bytes);
            }
            Err(WriteFailure::Unencodable(error)) => return Ok(Err(error)),
            Err(WriteFailure::Gone(reason)) => return Err(Trouble::Gone(reason)),
            // It may have said why.
            Err(WriteFailure::Stopped) => {}
        }
        let preamble = read_preamble(&mut stream.recv).await?;
        let payload_bytes = u32::try_from(preamble.payload_len).unwrap_or(u32::MAX);
        let room = self.answers.acquire_many(payload_bytes).await;
        let room = room.map_err(|_| Trouble::Gone("the link is closed".to_owned()))?;
        let answer = read_rest(&mut stream.recv, preamble, &shared.pool).await?;
        drop(room);
        add(&shared.counters.received_bytes, preamble.header_len + preamble.payload_len);
        if let Body::Unread(error) = &answer.header.body {
            unread(shared, connection, error);
        }
        outcome(id, answer)
    }
}

/// What an answer says, if it is one.
fn outcome(id: u64, envelope: Envelope) -> Result<Outcome, Trouble> {
    let refused_unread = envelope.header.id == 0 && matches!(envelope.header.body, Body::Failure(_));
    if envelope.header.id != id && !refused_unread {
        return Err(Trouble::Bad(Error::invalid("the answer to another request")));
    }
    if envelope.header.region.is_some() {
        return Err(Trouble::Bad(Error::invalid("an answer whose payload is elsewhere, on a link without RDMA")));
    }
    envelope.into_outcome().map_err(Trouble::Bad)
}
