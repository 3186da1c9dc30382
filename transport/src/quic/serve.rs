//! The answering side: accepts connections, reads requests, and sends what [`Inbound`] says.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use mesh_core::{
    Error, ErrorKind, Lane, Outcome,
    envelope::{Envelope, Hello},
    limits::BUDGET_DEFAULT,
    port::{Inbound, Role},
    wire::Preamble,
};
use tokio::sync::oneshot;

use super::{
    REFUSED, Shared, bad_frame,
    frame::{Stream, Trouble, WriteFailure, read_preamble, read_rest},
};
use crate::{
    gate, handshake,
    link::{add, count},
    session::{Reservation, Serving, Terms},
};

/// Accepts until the endpoint is closed.
pub(super) async fn accept(shared: Arc<Shared>, inbound: Arc<dyn Inbound>) {
    while let Some(incoming) = shared.endpoint.accept().await {
        if shared.is_draining() || shared.endpoint.open_connections() > CONNECTIONS_MAX {
            count(&shared.counters.handshake_refusals);
            incoming.refuse();
            continue;
        }
        let (shared, inbound) = (shared.clone(), inbound.clone());
        tokio::spawn(async move {
            // Dropping the attempt after its time closes the connection.
            let greeted = tokio::time::timeout(shared.idle_timeout, greet(&shared, incoming)).await;
            match greeted {
                Ok(Ok((connection, role, hello))) => {
                    count(&shared.counters.handshakes);
                    if let Role::Node(node) = role {
                        shared.heard(node, hello.incarnation);
                    }
                    Served::new(shared, inbound, connection, role, hello.lane).run().await;
                }
                Ok(Err(error)) => tracing::debug!(%error, "a connection was refused"),
                Err(_) => count(&shared.counters.handshake_refusals),
            }
        });
    }
}

/// Makes a connection and greets it, or refuses it with the reason.
async fn greet(shared: &Arc<Shared>, incoming: quinn::Incoming) -> Result<(quinn::Connection, Role, Hello), Error> {
    let connection = incoming.await.map_err(|error| {
        count(&shared.counters.handshake_refusals);
        Error::new(ErrorKind::Denied, "no connection came of a handshake").caused_by(error)
    })?;
    match shared.welcome(&connection).await {
        Ok((role, hello)) => Ok((connection, role, hello)),
        Err(error) => {
            count(&shared.counters.handshake_refusals);
            connection.close(REFUSED, error.to_string().as_bytes());
            Err(error)
        }
    }
}

/// One connection that asks.
struct Served {
    shared: Arc<Shared>,
    inbound: Arc<dyn Inbound>,
    connection: quinn::Connection,
    role: Role,
    lane: Lane,
    serving: Mutex<Serving>,
}

impl Served {
    fn new(
        shared: Arc<Shared>,
        inbound: Arc<dyn Inbound>,
        connection: quinn::Connection,
        role: Role,
        lane: Lane,
    ) -> Arc<Self> {
        // The other end has credit back the moment it gives up a request, and we hear of it a little later: so what is
        // enforced is twice what was granted. Streams are bounded by QUIC itself.
        let Terms { jobs_max, bytes_max } = handshake::terms(&role);
        let terms = Terms { jobs_max: 2 * jobs_max, bytes_max: 2 * bytes_max };
        Arc::new(Self { shared, inbound, connection, role, lane, serving: Mutex::new(Serving::new(terms)) })
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
        if let Some(outcome) = self.serve(envelope, &stream).await {
            // Before the answer: the other end takes its credit back when it has it.
            drop(credit);
            self.reply(&mut stream, id, lane, outcome).await;
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
        add(&self.shared.counters.bytes_received, preamble.header_len + preamble.payload_len);
        if !self.serving().is_first(envelope.header.id) {
            count(&self.shared.counters.duplicates);
            return Ok(None);
        }
        Ok(Some((envelope, credit)))
    }

    /// Has a request done. `None` if nobody waits for its answer any more.
    async fn serve(&self, mut envelope: Envelope, stream: &Stream) -> Option<Outcome> {
        if let Err(error) = gate::admit(&self.role, &mut envelope) {
            if error.kind() == ErrorKind::Invalid {
                bad_frame(&self.shared, &self.connection, &error);
                return None;
            }
            count(&self.shared.counters.denials);
            return Some(Err(error));
        }
        if self.shared.is_draining() {
            return Some(Err(Error::new(ErrorKind::Draining, "this node is going: ask another")));
        }
        count(&self.shared.counters.requests_served);
        let budget = match envelope.header.budget_us {
            0 => BUDGET_DEFAULT,
            micros => Duration::from_micros(micros),
        };
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
            () = tokio::time::sleep(budget) => {
                return Some(Err(Error::new(ErrorKind::Timeout, "the budget ran out before the work was done")));
            }
        };
        // The call is over: there is nothing left to cancel.
        guard.forget();
        Some(outcome.unwrap_or_else(|_| Err(Error::new(ErrorKind::Restarted, "the request was dropped unanswered"))))
    }

    async fn reply(&self, stream: &mut Stream, id: u64, lane: Lane, outcome: Outcome) {
        let mut written = stream.write(Envelope::answer(id, lane, outcome)).await;
        if let Err(WriteFailure::Unencodable(error)) = written {
            written = stream.write(Envelope::answer(id, lane, Err(error))).await;
        }
        if let Ok(bytes) = written {
            stream.finish();
            add(&self.shared.counters.bytes_sent, bytes);
            // So that a close that waits for the idle link does not cut it off.
            stream.stopped().await;
        }
    }

    fn credit(&self, preamble: &Preamble) -> Result<Credit<'_>, Error> {
        let reservation = self.serving().reserve(preamble)?;
        Ok(Credit { served: self, reservation: Some(reservation) })
    }

    fn serving(&self) -> std::sync::MutexGuard<'_, Serving> {
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

/// Connections of one endpoint at most, both ways.
const CONNECTIONS_MAX: usize = 4096;
/// How long a request may take to come in.
const REQUEST_READ_MAX: Duration = Duration::from_secs(30);
