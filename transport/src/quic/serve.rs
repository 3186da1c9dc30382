//! The answering side: accepts connections, reads requests, and sends what [`Inbound`] says.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use mesh_core::{
    Error, ErrorKind, Lane, Outcome,
    envelope::{Body, Envelope},
    limits::BUDGET_DEFAULT,
    port::{Inbound, Role},
    role::Kind,
    wire::Preamble,
};
use tokio::sync::oneshot;

use super::{
    REFUSED, SILENT, Shared, bad_frame,
    door::{Door, Verdict},
    frame::{Stream, Trouble, WriteFailure, read_preamble, read_rest},
    greet::Greeting,
    guests::{Guests, Room, Stay},
    unread,
};
use crate::{
    gate, handshake,
    link::{add, count},
    session::{Reservation, Serving, Terms},
};

/// Accepts until the endpoint is closed.
pub(super) async fn accept(shared: Arc<Shared>, inbound: Arc<dyn Inbound>) {
    let door = Arc::new(Mutex::new(Door::default()));
    let guests = Arc::new(Guests::default());
    while let Some(incoming) = shared.endpoint.accept().await {
        if shared.is_draining() {
            count(&shared.counters.handshake_refusals);
            incoming.refuse();
            continue;
        }
        let (closer, closed) = oneshot::channel();
        let (from, proven) = (incoming.remote_address().ip(), incoming.remote_address_validated());
        let verdict = lock(&door).knock(shared.clock.now(), from, proven, closer);
        let unfinished = match verdict {
            Verdict::Admit { number, gives_way } => {
                // Whoever holds the other end closes the handshake.
                drop(gives_way);
                Unfinished { door: door.clone(), number }
            }
            Verdict::Retry => {
                if let Err(error) = incoming.retry() {
                    error.into_incoming().ignore();
                }
                continue;
            }
            Verdict::Ignore => {
                count(&shared.counters.handshake_refusals);
                incoming.ignore();
                continue;
            }
        };
        let (shared, inbound, guests) = (shared.clone(), inbound.clone(), guests.clone());
        tokio::spawn(async move {
            let within = shared.idle_timeout.min(HANDSHAKE_MAX);
            // Dropping the attempt closes the connection.
            let greeted = tokio::select! {
                greeted = tokio::time::timeout(within, greet(&shared, &guests, incoming)) => greeted.ok(),
                _ = closed => None,
            };
            drop(unfinished);
            match greeted {
                Some(Ok((connection, greeting))) => {
                    count(&shared.counters.handshakes);
                    if let Some(node) = greeting.role.node() {
                        shared.heard(node);
                    }
                    Served::new(shared, inbound, connection, greeting).run().await;
                }
                Some(Err(error)) => tracing::debug!(%error, "a connection was refused"),
                None => count(&shared.counters.handshake_refusals),
            }
        });
    }
}

/// Makes a connection and greets it, or refuses it with the reason.
async fn greet(
    shared: &Arc<Shared>,
    guests: &Arc<Guests>,
    incoming: quinn::Incoming,
) -> Result<(quinn::Connection, Greeting), Error> {
    let connection = incoming.await.map_err(|error| {
        count(&shared.counters.handshake_refusals);
        Error::new(ErrorKind::Denied, "no connection came of a handshake").caused_by(error)
    })?;
    match shared.welcome(&connection, guests).await {
        Ok(greeting) => Ok((connection, greeting)),
        Err(error) => {
            count(&shared.counters.handshake_refusals);
            connection.close(REFUSED, error.to_string().as_bytes());
            Err(error)
        }
    }
}

type Closer = oneshot::Sender<()>;

/// A handshake's place at the door, until it is dropped.
struct Unfinished {
    door: Arc<Mutex<Door<Closer>>>,
    number: u64,
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        lock(&self.door).ended(self.number);
    }
}

fn lock(door: &Mutex<Door<Closer>>) -> MutexGuard<'_, Door<Closer>> {
    // No code that can panic runs under this lock; were it to, the table is still whole.
    door.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One connection that asks.
struct Served {
    shared: Arc<Shared>,
    inbound: Arc<dyn Inbound>,
    connection: quinn::Connection,
    role: Role,
    lane: Lane,
    serving: Mutex<Serving>,
    stay: Stay,
}

impl Served {
    fn new(
        shared: Arc<Shared>,
        inbound: Arc<dyn Inbound>,
        connection: quinn::Connection,
        Greeting { role, hello, stay }: Greeting,
    ) -> Arc<Self> {
        // The other end has credit back the moment it gives up a request, and we hear of it a little later: so what is
        // enforced is twice what was granted. Streams are bounded by QUIC itself.
        let Terms { jobs_max, bytes_max } = handshake::terms(&role);
        let terms = Terms { jobs_max: 2 * jobs_max, bytes_max: 2 * bytes_max };
        let serving = Mutex::new(Serving::new(terms));
        Arc::new(Self { shared, inbound, connection, role, lane: hello.lane, serving, stay })
    }

    async fn run(self: Arc<Self>) {
        while let Ok(streams) = self.connection.accept_bi().await {
            let stream = Stream::new(streams, self.lane);
            let served = self.clone();
            tokio::spawn(async move { served.take(stream).await });
        }
    }

    /// One request, from its first byte to the last of its answer.
    async fn take(self: Arc<Self>, mut stream: Stream) {
        let _busy = self.shared.busy();
        let read = tokio::time::timeout(REQUEST_READ_MAX, self.read(&mut stream)).await;
        let (envelope, credit) = match read {
            Ok(Ok(Some(read))) => read,
            Ok(Ok(None)) | Err(_) => return,
            Ok(Err(Trouble::Gone(_))) => return,
            Ok(Err(Trouble::Bad(error))) => {
                bad_frame(&self.shared, &self.connection, &error);
                return;
            }
        };
        let (id, lane) = (envelope.header.id, envelope.header.lane);
        if let Some((outcome, room)) = self.serve(envelope, &stream).await {
            // Before the answer: the other end takes its credit back when it has it. The answer has room of its own.
            drop(credit);
            self.reply(&mut stream, id, lane, outcome).await;
            drop(room);
        }
    }

    /// Reads a request. `None` if it was dealt with already.
    async fn read(&self, stream: &mut Stream) -> Result<Option<(Envelope, Credit<'_>)>, Trouble> {
        let preamble = read_preamble(&mut stream.recv).await?;
        let credit = match self.credit(&preamble) {
            Ok(credit) => credit,
            Err(error) => {
                count(&self.shared.counters.overloads);
                stream.stop_reading();
                // Its number was not read.
                self.reply(stream, 0, self.lane, Err(error)).await;
                return Ok(None);
            }
        };
        let envelope = read_rest(&mut stream.recv, preamble, &self.shared.pool).await?;
        add(&self.shared.counters.received_bytes, preamble.header_len + preamble.payload_len);
        if !self.serving().is_first(envelope.header.id) {
            count(&self.shared.counters.duplicates);
            return Ok(None);
        }
        Ok(Some((envelope, credit)))
    }

    /// Has a request done. `None` if nobody waits for its answer any more; else the answer, with the room that it
    /// holds until the other end has it.
    async fn serve(&self, mut envelope: Envelope, stream: &Stream) -> Option<(Outcome, Room)> {
        if let Err(error) = gate::admit(&self.role, &mut envelope) {
            if error.kind() == ErrorKind::Invalid {
                bad_frame(&self.shared, &self.connection, &error);
                return None;
            }
            if matches!(envelope.header.body, Body::Unread(_)) {
                unread(&self.shared, &self.connection, &error);
            } else {
                count(&self.shared.counters.denials);
                if let Body::Request(op) = &envelope.header.body {
                    self.shared.refusals.log(&self.role, Kind::of(op), &error);
                }
            }
            return Some((Err(error), Room::none()));
        }
        if self.shared.is_draining() {
            return Some((Err(Error::new(ErrorKind::Draining, "this node is going: ask another")), Room::none()));
        }
        count(&self.shared.counters.served_requests);
        let budget = match envelope.header.budget_us {
            0 => BUDGET_DEFAULT,
            micros => Duration::from_micros(micros),
        };
        let late = tokio::time::sleep(budget);
        tokio::pin!(late);
        let mut room = Room::none();
        if let Body::Request(op) = &envelope.header.body {
            tokio::select! {
                biased;
                got = self.stay.room(op) => room = got,
                () = stream.stopped() => return None,
                () = &mut late => {
                    count(&self.shared.counters.overloads);
                    let error = "answers wait for this identity to take them: read them, or ask for less at once";
                    return Some((Err(Error::new(ErrorKind::Overloaded, error)), room));
                }
            }
        }
        let (answer, mut answered) = oneshot::channel();
        let guard = self.inbound.deliver(
            &self.role,
            envelope,
            Box::new(move |outcome| {
                if answer.send(outcome).is_err() {
                    tracing::trace!("an answer that nobody waits for");
                }
            }),
        );
        let outcome = tokio::select! {
            biased;
            outcome = &mut answered => outcome,
            () = stream.stopped() => return None,
            // Dropping the guard tells who serves; the answer, whoever may still wait a moment longer than we.
            () = &mut late => {
                return Some((Err(Error::new(ErrorKind::Timeout, "the budget ran out before the work was done")), room));
            }
        };
        // The call is over: there is nothing left to cancel.
        guard.forget();
        let outcome =
            outcome.unwrap_or_else(|_| Err(Error::new(ErrorKind::Restarted, "the request was dropped unanswered")));
        room.shrink(outcome.as_ref().map_or(0, |response| response.payload.len()));
        Some((outcome, room))
    }

    /// Sends an answer and waits until the other end has it. One that does not take it in time is cut off, so that what
    /// is held for it comes back.
    async fn reply(&self, stream: &mut Stream, id: u64, lane: Lane, outcome: Outcome) {
        if tokio::time::timeout(ANSWER_TAKEN_MAX, self.hand_over(stream, id, lane, outcome)).await.is_err() {
            tracing::info!(who = ?self.role, "a peer takes no answers: its connection is closed");
            self.connection.close(SILENT, b"answers were not taken in time");
        }
    }

    async fn hand_over(&self, stream: &mut Stream, id: u64, lane: Lane, outcome: Outcome) {
        let mut written = stream.write(Envelope::answer(id, lane, outcome)).await;
        if let Err(WriteFailure::Unencodable(error)) = written {
            written = stream.write(Envelope::answer(id, lane, Err(error))).await;
        }
        if let Ok(bytes) = written {
            stream.finish();
            add(&self.shared.counters.sent_bytes, bytes);
            // So that a close that waits for the idle link does not cut it off.
            stream.stopped().await;
        }
    }

    fn credit(&self, preamble: &Preamble) -> Result<Credit<'_>, Error> {
        let reservation = self.serving().reserve(preamble)?;
        Ok(Credit { served: self, reservation: Some(reservation) })
    }

    fn serving(&self) -> MutexGuard<'_, Serving> {
        self.serving.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Credit that goes back when it is dropped.
struct Credit<'a> {
    served: &'a Served,
    reservation: Option<Reservation>,
}

impl Drop for Credit<'_> {
    fn drop(&mut self) {
        if let Some(reservation) = self.reservation.take() {
            self.served.serving().release(reservation);
        }
    }
}

/// A handshake, up to the greeting, at most.
const HANDSHAKE_MAX: Duration = Duration::from_secs(5);
/// How long a request may take to come in.
const REQUEST_READ_MAX: Duration = Duration::from_secs(30);
/// How long the other end may take to have an answer: whoever asked has long given up by then.
const ANSWER_TAKEN_MAX: Duration = BUDGET_DEFAULT;
