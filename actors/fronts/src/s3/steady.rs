//! A request's body that must not stall: who sends nothing of it for too long is given up.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::Stream;
use s3s::{
    Body, StdError,
    stream::{ByteStream, RemainingLength},
};
use tokio::time::{Instant, Sleep, sleep};

use super::roster::Link;

/// Set once a body has stalled.
#[derive(Clone, Debug, Default)]
pub(super) struct Stalled(Arc<AtomicBool>);

impl Stalled {
    /// Whether it has.
    pub(super) fn is_set(&self) -> bool {
        self.0.load(Relaxed)
    }
}

/// `body`, of which something comes every `idle_max` while somebody waits for it, or it fails. If it is not read to its
/// end, `link` is told.
pub(super) fn steady(body: Body, idle_max: Duration, stalled: Stalled, link: Link) -> Body {
    let waits = Box::pin(sleep(idle_max));
    let steady: s3s::stream::DynByteStream =
        Box::pin(Steady { body, idle_max, waits, waiting: false, ended: false, stalled, link });
    Body::from(steady)
}

struct Steady {
    body: Body,
    idle_max: Duration,
    waits: Pin<Box<Sleep>>,
    waiting: bool,
    ended: bool,
    stalled: Stalled,
    link: Link,
}

impl Stream for Steady {
    type Item = Result<Bytes, StdError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = Pin::new(&mut self.body).poll_next(cx);
        if let Poll::Ready(next) = next {
            self.waiting = false;
            self.ended |= next.is_none();
            return Poll::Ready(next);
        }
        if !self.waiting {
            self.waiting = true;
            let deadline = Instant::now() + self.idle_max;
            self.waits.as_mut().reset(deadline);
        }
        if self.waits.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        self.stalled.0.store(true, Relaxed);
        Poll::Ready(Some(Err("nothing of the body came for too long".into())))
    }
}

impl ByteStream for Steady {
    fn remaining_length(&self) -> RemainingLength {
        self.body.remaining_length()
    }
}

impl Drop for Steady {
    fn drop(&mut self) {
        if !self.ended && self.body.remaining_length().exact() != Some(0) {
            self.link.leaves_unread();
        }
    }
}
