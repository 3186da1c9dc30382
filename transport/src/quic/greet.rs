//! The first exchange on a connection, on its first stream: see [`crate::handshake`].

use std::{net::SocketAddr, sync::Arc, time::Duration};

use mesh_core::{
    Buf, Error, ErrorKind, Lane,
    envelope::{Body, Envelope, Hello, Welcome},
    port::Role,
};

use super::{
    REFUSED, Shared, dates,
    frame::{Stream, Trouble, WriteFailure, read_preamble, read_rest},
    guests::{Guests, Stay},
    tls,
};
use crate::{
    handshake::{self, Expected, GREETING_BYTES_MAX},
    session::Terms,
};

/// A connection that is ready for requests.
pub(super) struct Greeted {
    pub(super) connection: quinn::Connection,
    pub(super) welcome: Welcome,
    pub(super) terms: Terms,
}

/// Whom a connection is from, and its place here.
pub(super) struct Greeting {
    pub(super) role: Role,
    pub(super) hello: Hello,
    pub(super) stay: Stay,
}

impl Shared {
    /// Dials and greets.
    pub(super) async fn dial(
        self: &Arc<Self>,
        address: SocketAddr,
        expected: Expected,
        lane: Lane,
    ) -> Result<Greeted, Error> {
        let limit = self.idle_timeout;
        let dialled = tokio::time::timeout(limit, self.dial_unbounded(address, expected, lane))
            .await
            .unwrap_or_else(|_| Err(unreachable("no answer to the greeting").with("waited", format!("{limit:?}"))));
        if dialled.is_ok() {
            self.complaints().settled(address);
        }
        dialled
    }

    async fn dial_unbounded(
        self: &Arc<Self>,
        address: SocketAddr,
        expected: Expected,
        lane: Lane,
    ) -> Result<Greeted, Error> {
        let config = match expected {
            Expected::Node(_) => &self.dial_known,
            Expected::AnyNode => &self.dial_any,
        };
        let name = tls::dial_name(expected, self.local.cluster);
        let connecting = self
            .endpoint
            .connect_with(config.clone(), address, &name)
            .map_err(|error| unreachable("this address cannot be dialled").caused_by(error))?;
        let connection = connecting.await.map_err(|error| self.lost(address, "no connection", error))?;
        let role = tls::role(&connection, self.local.cluster)?;
        let hello = handshake::hello(&self.local, lane);
        match self.say_hello(&connection, hello, lane).await {
            Ok(answer) => match handshake::accept_welcome(expected, &role, answer) {
                Ok((welcome, terms)) => Ok(Greeted { connection, welcome, terms }),
                Err(error) => {
                    connection.close(REFUSED, error.message().as_bytes());
                    Err(error)
                }
            },
            Err(error) => {
                // The other end's own words, if it closed the connection, say more. Looked at before it is closed here.
                let error = match connection.close_reason() {
                    Some(reason) => self.lost(address, "the peer refused the connection", reason),
                    None => error,
                };
                connection.close(REFUSED, error.message().as_bytes());
                Err(error)
            }
        }
    }

    /// A connection that did not come to be. If it is for a date, that is said in words.
    fn lost(&self, address: SocketAddr, what: &'static str, reason: quinn::ConnectionError) -> Error {
        match dates::fault(&reason, self.clock.wall()) {
            Some(error) => {
                self.complaints().add(address, &error);
                error
            }
            None => unreachable(what).caused_by(reason),
        }
    }

    async fn say_hello(&self, connection: &quinn::Connection, hello: Hello, lane: Lane) -> Result<Body, Error> {
        let streams = connection.open_bi().await.map_err(|error| unreachable("no stream").caused_by(error))?;
        let mut stream = Stream::new(streams, lane);
        let envelope = Envelope::of(0, lane, Body::Hello(hello), Buf::empty());
        write(&mut stream, envelope).await?;
        self.read_greeting(&mut stream).await.map(|envelope| envelope.header.body).map_err(|trouble| match trouble {
            Trouble::Bad(error) => error,
            Trouble::Gone(reason) => unreachable("the peer did not answer the greeting").with("reason", reason),
        })
    }

    /// The acceptor's side: whom the connection is from, once it may ask.
    pub(super) async fn welcome(
        &self,
        connection: &quinn::Connection,
        guests: &Arc<Guests>,
    ) -> Result<Greeting, Error> {
        let role = tls::role(connection, self.local.cluster)?;
        let streams = connection.accept_bi().await.map_err(|error| unreachable("no first stream").caused_by(error))?;
        let mut stream = Stream::new(streams, Lane::Control);
        let first = self.read_greeting(&mut stream).await;
        let verdict = match first {
            Ok(envelope) => handshake::answer(&self.local, &role, &envelope.header.body)
                .and_then(|(hello, welcome)| Ok((hello, welcome, guests.enter(&role)?))),
            Err(Trouble::Bad(error)) => Err(error),
            Err(Trouble::Gone(reason)) => return Err(unreachable("gone before the greeting").with("reason", reason)),
        };
        match verdict {
            Ok((hello, welcome, stay)) => {
                write(&mut stream, Envelope::of(0, hello.lane, Body::Welcome(welcome), Buf::empty())).await?;
                Ok(Greeting { role, hello, stay })
            }
            Err(error) => {
                write(&mut stream, Envelope::of(0, Lane::Control, Body::Failure(error.clone()), Buf::empty())).await?;
                // Closing throws away what was not received: let the reason arrive.
                if tokio::time::timeout(REFUSAL_LINGER, stream.stopped()).await.is_err() {
                    tracing::debug!("a refusal was not acknowledged");
                }
                Err(error)
            }
        }
    }

    async fn read_greeting(&self, stream: &mut Stream) -> Result<Envelope, Trouble> {
        let preamble = read_preamble(&mut stream.recv).await?;
        // A Failure may be longer than a Hello; both are far below the limits of requests.
        if preamble.header_len > GREETING_BYTES_MAX + FAILURE_BYTES_MAX || preamble.payload_len > 0 {
            return Err(Trouble::Bad(Error::new(ErrorKind::TooLarge, "a greeting over its limit")));
        }
        read_rest(&mut stream.recv, preamble, &self.pool).await
    }
}

async fn write(stream: &mut Stream, envelope: Envelope) -> Result<(), Error> {
    match stream.write(envelope).await {
        Ok(_) => {
            stream.finish();
            Ok(())
        }
        Err(WriteFailure::Unencodable(error)) => Err(error),
        Err(WriteFailure::Stopped) => Err(unreachable("the peer does not want the greeting")),
        Err(WriteFailure::Gone(reason)) => Err(unreachable("the connection broke").with("reason", reason)),
    }
}

fn unreachable(message: &'static str) -> Error {
    Error::new(ErrorKind::Unreachable, message)
}

/// The text of an error has at most 1024 characters of at most 4 bytes.
const FAILURE_BYTES_MAX: usize = 4096;
/// How long a refused peer has to take the reason.
const REFUSAL_LINGER: Duration = Duration::from_secs(1);
