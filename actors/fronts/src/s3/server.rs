//! The HTTP server: connections, their limits, and the way they end.

use core::future::poll_fn;
use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use futures_util::FutureExt as _;
use hyper::{Request, body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto::Builder, graceful::GracefulShutdown},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    sync::{Semaphore, watch},
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, timeout},
};

use super::{
    door::{Door, Stage},
    figures::{Figures, OneMore},
    gateway::Gateway,
    roster::{Patience, Place, Roster},
    socket::Socket,
};
use crate::wire::{Listener, Stream};

/// Settings of a server.
#[derive(Clone, Copy, Debug)]
pub struct ServeOptions {
    /// Connections at once at most. A further one takes the place of one that is of no use, or is told `SlowDown`.
    pub connections_max: usize,
    /// A request's head must have come after so long.
    pub head_time_max: Duration,
    /// A connection is closed when its last request ended so long ago.
    pub idle_time_max: Duration,
    /// A peer that takes nothing of a response for so long is cut off, even if nobody waits for what it holds.
    pub stall_max: Duration,
    /// Requests under way when the server is told to end have so long to come to their end; then those without an answer
    /// are told `ServiceUnavailable`.
    pub drain_time_max: Duration,
}

impl Default for ServeOptions {
    fn default() -> Self {
        Self {
            connections_max: 512,
            head_time_max: Duration::from_secs(5),
            idle_time_max: Duration::from_secs(30),
            stall_max: Duration::from_secs(60),
            drain_time_max: Duration::from_secs(7),
        }
    }
}

/// Serves S3 on `listener` until `shutdown` is ready, then lets requests under way come to their end, for a bounded
/// time. Returns once no connection is left.
pub async fn serve(
    mut listener: Box<dyn Listener>,
    gateway: Gateway,
    options: ServeOptions,
    shutdown: impl Future<Output = ()> + Send,
) {
    let mut house = House {
        stage: watch::channel(Stage::Open).0,
        gateway,
        options,
        roster: Roster::new(options.connections_max),
        graceful: GracefulShutdown::new(),
        connections: JoinSet::new(),
        refusals: Arc::new(Semaphore::new(REFUSALS_MAX)),
    };
    let mut ticks = interval(LOOK_INTERVAL.min(options.head_time_max / 2).max(Duration::from_millis(1)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let patience = Patience { head_max: options.head_time_max, idle_max: options.idle_time_max };
    let door = Door::new(house.gateway.clone(), house.stage.subscribe());
    let mut shutdown = core::pin::pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            Some(_) = house.connections.join_next(), if !house.connections.is_empty() => {}
            _ = ticks.tick() => {
                house.roster.look(patience, Instant::now());
                house.gateway.credit().look(options.stall_max, Instant::now());
            }
            (stream, peer) = accept(&mut *listener) => house.receive(stream, peer, &door),
        }
    }
    // Closing the listener resets those that are in its queue.
    while let Some(Ok((stream, peer))) = poll_fn(|cx| listener.poll_accept(cx)).now_or_never() {
        house.receive(stream, peer, &door);
    }
    drop(listener);
    house.close().await;
}

/// The connections of one server.
struct House {
    stage: watch::Sender<Stage>,
    gateway: Gateway,
    options: ServeOptions,
    roster: Roster,
    graceful: GracefulShutdown,
    connections: JoinSet<()>,
    refusals: Arc<Semaphore>,
}

impl House {
    fn figures(&self) -> &Arc<Figures> {
        self.gateway.counters().figures()
    }

    /// Lets a connection in, or tells it that there is no room.
    fn receive(&mut self, stream: Box<dyn Stream>, peer: SocketAddr, door: &Door) {
        match self.roster.enter(Instant::now()) {
            Some(place) => {
                self.figures().house.accepted_connections.count();
                let watcher = self.graceful.watcher();
                let counted = OneMore::of(self.figures(), |house| &house.connections);
                let connection = connection(stream, peer, place, door.clone(), self.options, watcher);
                self.connections.spawn(async move {
                    connection.await;
                    drop(counted);
                });
            }
            None => match self.refusals.clone().try_acquire_owned() {
                Ok(permit) => {
                    self.figures().house.refused_connections.count();
                    self.connections.spawn(async move {
                        match timeout(REFUSAL_TIME_MAX, refuse(stream)).await {
                            Ok(Ok(())) => {}
                            Ok(Err(error)) => tracing::debug!(%peer, %error, "a connection did not wait to be refused"),
                            Err(_) => tracing::debug!(%peer, "a connection that was refused did not go"),
                        }
                        drop(permit);
                    });
                }
                Err(_) => {
                    self.figures().house.refused_connections.count();
                    tracing::debug!(%peer, "a connection is closed: too many are being refused already");
                }
            },
        }
    }

    /// Lets what is under way come to its end.
    async fn close(mut self) {
        let Self { graceful, options, stage, .. } = self;
        let ended = async {
            stage.send_replace(Stage::Leaving);
            if graceful.count() > 0 {
                // A request may be on its way by a connection that is idle: it is served, and told to go then.
                tokio::time::sleep(LEAVE_TIME.min(options.drain_time_max / 4)).await;
            }
            graceful.shutdown().await;
        };
        let mut ended = core::pin::pin!(ended);
        if timeout(options.drain_time_max, &mut ended).await.is_err() {
            tracing::warn!(connections = self.connections.len(), "S3 requests did not end in time and are broken off");
            stage.send_replace(Stage::Closing);
            if timeout(CLOSING_TIME_MAX, ended).await.is_err() {
                tracing::debug!(connections = self.connections.len(), "connections are cut");
            }
        }
        self.connections.shutdown().await;
    }
}

/// The next connection.
async fn accept(listener: &mut dyn Listener) -> (Box<dyn Stream>, SocketAddr) {
    loop {
        match poll_fn(|cx| listener.poll_accept(cx)).await {
            Ok(accepted) => return accepted,
            Err(error) => {
                // Out of descriptors, or the peer is gone already. Both pass; only the former must not spin.
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(
    stream: Box<dyn Stream>,
    peer: SocketAddr,
    place: Place,
    door: Door,
    options: ServeOptions,
    watcher: hyper_util::server::graceful::Watcher,
) {
    let link = place.link();
    let socket = match Socket::new(stream, options.stall_max, link.clone()) {
        Ok(socket) => socket,
        Err(error) => {
            tracing::debug!(%peer, %error, "a connection ended before it began");
            return;
        }
    };
    let service = {
        let link = link.clone();
        service_fn(move |request: Request<Incoming>| door.clone().pass(link.clone(), peer.ip(), request))
    };
    let mut builder = Builder::new(TokioExecutor::new());
    // How long heads and silence may last, the roster decides.
    builder.http1().timer(TokioTimer::new()).header_read_timeout(None).max_buf_size(HTTP1_BUFFER_BYTES);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(options.idle_time_max)
        .max_concurrent_streams(HTTP2_STREAMS_MAX)
        .max_header_list_size(HTTP2_HEADERS_BYTES_MAX);
    let connection = watcher.watch(builder.serve_connection(TokioIo::new(socket), service).into_owned());
    let ended = tokio::select! {
        ended = connection => ended,
        () = link.is_cut() => {
            let why = link.cut_off().map_or("", |cut| cut.why);
            tracing::debug!(%peer, why, "a connection is cut");
            Ok(())
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%peer, error, "a connection broke");
    }
}

/// Tells a client that there is no room for its connection, without reading what it asks.
async fn refuse(mut stream: Box<dyn Stream>) -> io::Result<()> {
    stream.write_all(REFUSAL).await?;
    stream.shutdown().await?;
    // Closed with something unread, it would be reset, and the answer lost.
    let mut unread = [0; 4096];
    while stream.read(&mut unread).await? > 0 {}
    Ok(())
}

/// What those are told that there is no room for.
const REFUSAL: &[u8] =
    b"HTTP/1.1 503 Slow Down\r\ncontent-type: application/xml\r\ncontent-length: 153\r\nconnection: close\r\n\r\n\
<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
<Error><Code>SlowDown</Code><Message>Every connection of this node is in use; send again later.</Message></Error>\n";
/// Connections that are being refused at once at most; more are closed without a word.
const REFUSALS_MAX: usize = 64;
/// And so long.
const REFUSAL_TIME_MAX: Duration = Duration::from_secs(2);
/// Between two looks for connections that have been silent for too long.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// Connections without a request are kept for so long after the server was told to end.
const LEAVE_TIME: Duration = Duration::from_millis(300);
/// Answers of what was broken off have so long.
const CLOSING_TIME_MAX: Duration = Duration::from_secs(1);
/// After a connection could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// What is read from an HTTP/1 connection at once at most: also the size of a body's frames.
pub(super) const HTTP1_BUFFER_BYTES: usize = 512 << 10;
/// Requests of one HTTP/2 connection at once at most.
const HTTP2_STREAMS_MAX: u32 = 64;
/// Headers of one HTTP/2 request at most.
const HTTP2_HEADERS_BYTES_MAX: u32 = 64 << 10;
