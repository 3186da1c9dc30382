//! The way of a body out: plan a page of pieces, read a few of them ahead, hand each to the connection as it is.
//!
//! A body is exactly as long as its `Content-Length` or it is an error, which breaks the connection: a client can never
//! mistake a part of an object for the object.

use std::{
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::{
    Stream, StreamExt, TryStreamExt,
    stream::{self, BoxStream},
};
use mesh_core::{
    Answer, Buf, Error,
    limits::STREAM_STRIPES,
    meta::ObjectRow,
    op::{ObjectOp, Piece},
    time::Instant,
};
use s3s::{
    StdError,
    stream::{ByteStream, RemainingLength},
};

use super::{
    auth::Counters,
    caller::{Caller, lane_of},
    lease::Lease,
};

/// A range of an object.
#[derive(Clone)]
pub(super) struct Source {
    /// Where.
    pub(super) bucket: Arc<str>,
    /// Where.
    pub(super) key: Arc<str>,
    /// As `Head` gave it.
    pub(super) object: Arc<ObjectRow>,
    /// From this byte.
    pub(super) offset: u64,
    /// So many, inside the object.
    pub(super) len: u64,
    /// When `Head` was asked.
    pub(super) asked: Instant,
}

/// The bytes of a range, in order, up to [`STREAM_STRIPES`] pieces ahead of whoever takes them.
pub(super) fn read(caller: Caller, source: Source) -> BoxStream<'static, Result<Bytes, Error>> {
    let lane = lane_of(source.len);
    let (planner, planned) = (caller.clone(), source.clone());
    let pages = stream::try_unfold(0_u64, move |done| {
        let (caller, source) = (planner.clone(), planned.clone());
        async move {
            if done == source.len {
                return Ok(None);
            }
            let offset = source.offset + done;
            let page = caller.plan(&source.bucket, &source.key, &source.object, offset, source.len - done).await?;
            let covered: u64 = page.iter().map(|piece| u64::from(piece.len)).sum();
            Ok::<_, Error>(Some((stream::iter(page.into_iter().map(Ok::<_, Error>)), done + covered)))
        }
    });
    let lease = Lease::new(caller.grace, source.asked);
    let (holder, held) = (caller.clone(), source.clone());
    let pieces = stream::try_unfold((pages.try_flatten().boxed(), lease), move |(mut pieces, mut lease)| {
        let (caller, source) = (holder.clone(), held.clone());
        async move {
            let Some(piece) = pieces.try_next().await? else { return Ok(None) };
            lease.hold(&caller, &source).await?;
            Ok::<_, Error>(Some((piece, (pieces, lease))))
        }
    });
    pieces
        .map_ok(move |piece: Piece| {
            let want = piece.len as usize;
            let op = ObjectOp::Read { bucket: source.bucket.clone(), key: source.key.clone(), piece };
            let outcome = caller.ask(op, Buf::empty(), lane);
            async move {
                let response = outcome.await?;
                if response.answer != Answer::Done || response.payload.len() != want {
                    return Err(Error::bug("a piece is not what was planned")
                        .with("want", want)
                        .with("got", response.payload.len()));
                }
                Ok(response.payload.into_bytes())
            }
        })
        .try_buffered(STREAM_STRIPES)
        .boxed()
}

/// A response's body of known length.
pub(super) struct Outflow {
    /// Never locked: it makes a stream that is `Send` also `Sync`, as s3s wants it.
    pieces: Mutex<BoxStream<'static, Result<Bytes, Error>>>,
    left: u64,
    counters: Arc<Counters>,
}

impl Outflow {
    /// A body of exactly `len` bytes.
    pub(super) fn new(pieces: BoxStream<'static, Result<Bytes, Error>>, len: u64, counters: Arc<Counters>) -> Self {
        Self { pieces: Mutex::new(pieces), left: len, counters }
    }

    fn fail(&mut self, error: Error) -> Poll<Option<Result<Bytes, StdError>>> {
        tracing::warn!(?error, left = self.left, "a response broke off: its client sees an incomplete body");
        self.counters.broken();
        self.left = 0;
        Poll::Ready(Some(Err(Box::new(error))))
    }
}

impl Drop for Outflow {
    fn drop(&mut self) {
        if self.left > 0 {
            self.counters.broken();
        }
    }
}

impl Stream for Outflow {
    type Item = Result<Bytes, StdError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let Ok(pieces) = self.pieces.get_mut() else {
            return self.fail(Error::bug("a body's stream panicked"));
        };
        match pieces.poll_next_unpin(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Some(Ok(bytes))) if bytes.len() as u64 <= self.left => {
                self.left -= bytes.len() as u64;
                self.counters.sent(bytes.len());
                Poll::Ready(Some(Ok(bytes)))
            }
            Poll::Ready(Some(Ok(_))) => self.fail(Error::bug("a body is longer than its object")),
            Poll::Ready(Some(Err(error))) => self.fail(error),
            Poll::Ready(None) => self.fail(Error::bug("a body is shorter than its object")),
        }
    }
}

impl ByteStream for Outflow {
    fn remaining_length(&self) -> RemainingLength {
        usize::try_from(self.left).map_or_else(|_| RemainingLength::unknown(), RemainingLength::new_exact)
    }
}
