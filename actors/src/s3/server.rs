//! The HTTP server: connections, their limits, and the way they end.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use hyper::{Request, body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto::Builder, graceful::GracefulShutdown},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
};

use super::{door::Door, gateway::Gateway, socket::Socket};

/// Settings of a server.
#[derive(Clone, Copy, Debug)]
pub struct ServeOptions {
    /// Connections at once at most; others wait to be accepted.
    pub connections_max: usize,
    /// A request's head must have come after so long, and a connection without requests is closed after so long.
    pub head_time_max: Duration,
    /// A peer that takes nothing of a response for so long is cut off.
    pub stall_max: Duration,
    /// Requests under way when the server is told to end have so long to come to their end.
    pub drain_time_max: Duration,
}

impl Default for ServeOptions {
    fn default() -> Self {
        Self {
            connections_max: 512,
            head_time_max: Duration::from_secs(60),
            stall_max: Duration::from_secs(60),
            drain_time_max: Duration::from_secs(30),
        }
    }
}

/// Serves S3 on `listener` until `shutdown` is ready, then lets requests under way come to their end, for a bounded
/// time. Returns once no connection is left.
pub async fn serve(
    listener: TcpListener,
    gateway: Gateway,
    options: ServeOptions,
    shutdown: impl Future<Output = ()> + Send,
) {
    let door = Door::new(gateway);
    let slots = Arc::new(Semaphore::new(options.connections_max.clamp(1, Semaphore::MAX_PERMITS)));
    let graceful = GracefulShutdown::new();
    let mut connections = JoinSet::new();
    let mut shutdown = core::pin::pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            (stream, peer, slot) = accept(&listener, &slots) => {
                connections.spawn(connection(stream, peer, slot, door.clone(), options, graceful.watcher()));
            }
        }
    }
    drop(listener);
    if tokio::time::timeout(options.drain_time_max, graceful.shutdown()).await.is_err() {
        tracing::warn!(connections = connections.len(), "S3 requests did not end in time and are cut off");
    }
    connections.shutdown().await;
}

/// The next connection, once there is a slot for it.
async fn accept(listener: &TcpListener, slots: &Arc<Semaphore>) -> (TcpStream, SocketAddr, OwnedSemaphorePermit) {
    let slot = slots.clone().acquire_owned().await.expect("the semaphore is never closed");
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => return (stream, peer, slot),
            Err(error) => {
                // Out of descriptors, or the peer is gone already. Both pass; only the former must not spin.
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    slot: OwnedSemaphorePermit,
    door: Door,
    options: ServeOptions,
    watcher: hyper_util::server::graceful::Watcher,
) {
    // Without it, small answers wait for the peer's delayed acknowledgement: 40 ms each.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%peer, %error, "a connection ended before it began");
        return;
    }
    let spoke = Arc::new(AtomicBool::new(false));
    let service = {
        let spoke = spoke.clone();
        service_fn(move |request: Request<Incoming>| {
            spoke.store(true, Relaxed);
            door.clone().pass(peer.ip(), request)
        })
    };
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(options.head_time_max)
        .max_buf_size(HTTP1_BUFFER_BYTES);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(options.head_time_max)
        .max_concurrent_streams(HTTP2_STREAMS_MAX)
        .max_header_list_size(HTTP2_HEADERS_BYTES_MAX);
    let connection = watcher
        .watch(builder.serve_connection(TokioIo::new(Socket::new(stream, options.stall_max)), service).into_owned());
    let mut connection = core::pin::pin!(connection);
    // Hyper's own timer begins only once it knows which version of HTTP is spoken: who says too little for that is
    // cut off here.
    let ended = match tokio::time::timeout(options.head_time_max, &mut connection).await {
        Ok(ended) => ended,
        Err(_) if spoke.load(Relaxed) => connection.await,
        Err(_) => Ok(()),
    };
    if let Err(error) = ended {
        tracing::debug!(%peer, error, "a connection broke");
    }
    drop(slot);
}

/// After a connection could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// What is read from an HTTP/1 connection at once at most: also the size of a body's frames.
const HTTP1_BUFFER_BYTES: usize = 512 << 10;
/// Requests of one HTTP/2 connection at once at most.
const HTTP2_STREAMS_MAX: u32 = 64;
/// Headers of one HTTP/2 request at most.
const HTTP2_HEADERS_BYTES_MAX: u32 = 64 << 10;
