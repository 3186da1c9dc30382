//! What those who watch a node listen to: HTTP/1.1, three paths, one request a connection.
//!
//! ```text
//! GET /metrics   200  all that is counted, as text                503  the node is still starting
//! GET /healthz   200  ok                                          503  why not
//! GET /readyz    200  ready                                       503  what is missing, a line each
//! ```
//!
//! It asks nobody who they are: whoever reaches the address may read. It owns no figure and decides nothing.

use core::{
    convert::Infallible,
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Body, Frame, Incoming, SizeHint},
    header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::wire::{Listener, Stream};

/// Who is watched.
pub trait Watched: Send + Sync {
    /// All that is counted, in the text format of Prometheus, version 0.0.4.
    ///
    /// The future ends within a bounded time.
    ///
    /// # Errors
    /// Why there is nothing to tell yet, for people.
    fn metrics(&self) -> BoxFuture<'static, Result<String, String>>;

    /// Whether it lives: what it does by itself goes on.
    ///
    /// # Errors
    /// What does not, for people.
    fn health(&self) -> Result<(), String>;

    /// Whether it serves.
    ///
    /// # Errors
    /// What is missing, for people; at least one thing.
    fn readiness(&self) -> Result<(), Vec<String>>;
}

/// Answers on `listener` until `shutdown` is ready; what is under way is broken off then.
pub async fn serve(
    mut listener: Box<dyn Listener>,
    watched: Arc<dyn Watched>,
    shutdown: impl Future<Output = ()> + Send,
) {
    let mut connections = JoinSet::new();
    let mut shutdown = core::pin::pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            accepted = poll_fn(|cx| listener.poll_accept(cx)) => match accepted {
                // One too many is closed; whoever watches comes again.
                Ok((_, peer)) if connections.len() >= CONNECTIONS_MAX => {
                    tracing::debug!(%peer, "too many watch this node at once");
                }
                Ok((stream, _)) => drop(connections.spawn(connection(stream, Arc::clone(&watched)))),
                Err(error) => {
                    tracing::warn!(%error, "a connection of who watches this node could not be accepted");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    connections.shutdown().await;
}

async fn connection(stream: Box<dyn Stream>, watched: Arc<dyn Watched>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let watched = Arc::clone(&watched);
        async move { Ok::<_, Infallible>(answer(&*watched, request.method(), request.uri().path()).await) }
    });
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME_MAX)
        .max_buf_size(BUFFER_BYTES)
        .max_headers(HEADERS_MAX)
        .keep_alive(false);
    let served = builder.serve_connection(TokioIo::new(stream), service);
    match timeout(CONNECTION_TIME_MAX, served).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a connection of who watches this node broke"),
        Err(_) => tracing::debug!("a connection of who watches this node took too long"),
    }
}

async fn answer(watched: &dyn Watched, method: &Method, path: &str) -> Response<Text> {
    let plain = "text/plain; charset=utf-8";
    if !matches!(*method, Method::GET | Method::HEAD) {
        let mut refusal = told(StatusCode::METHOD_NOT_ALLOWED, plain, "only GET\n".to_owned());
        refusal.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return refusal;
    }
    let mut answer = match path {
        "/metrics" => match watched.metrics().await {
            Ok(text) => told(StatusCode::OK, METRICS_TYPE, text),
            Err(why) => told(StatusCode::SERVICE_UNAVAILABLE, plain, why + "\n"),
        },
        "/healthz" => match watched.health() {
            Ok(()) => told(StatusCode::OK, plain, "ok\n".to_owned()),
            Err(why) => told(StatusCode::SERVICE_UNAVAILABLE, plain, why + "\n"),
        },
        "/readyz" => match watched.readiness() {
            Ok(()) => told(StatusCode::OK, plain, "ready\n".to_owned()),
            Err(missing) => told(StatusCode::SERVICE_UNAVAILABLE, plain, missing.join("\n") + "\n"),
        },
        _ => told(StatusCode::NOT_FOUND, plain, "there are /metrics, /healthz and /readyz\n".to_owned()),
    };
    if method == Method::HEAD {
        *answer.body_mut() = Text(None);
    }
    answer
}

fn told(status: StatusCode, kind: &'static str, text: String) -> Response<Text> {
    let mut response = Response::new(Text(Some(text.into())));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// A body that is there.
struct Text(Option<Bytes>);

impl Body for Text {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.take().map(|text| Ok(Frame::data(text))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.as_ref().map_or(0, |text| text.len() as u64))
    }
}

const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
/// Connections at once at most.
const CONNECTIONS_MAX: usize = 16;
/// A head must have come after so long.
const HEAD_TIME_MAX: Duration = Duration::from_secs(5);
/// A connection ends after so long, whatever it is at.
const CONNECTION_TIME_MAX: Duration = Duration::from_secs(30);
/// What a head may have.
const BUFFER_BYTES: usize = 16 << 10;
const HEADERS_MAX: usize = 64;
/// After a connection could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests;
