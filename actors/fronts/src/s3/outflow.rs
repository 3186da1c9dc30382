//! The way of a body out: plan a page of pieces, read a few of them ahead, hand each to the connection without a copy, a
//! frame at a time.
//!
//! Every piece has a stake in the node's memory before it is asked for, which goes with its bytes until the connection
//! has sent them. One piece's worth the request has from its start to its end; more only while there is more.
//!
//! A body is exactly as long as its `Content-Length` or it is an error, which breaks the connection: a client can never
//! mistake a part of an object for the object.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::{
    Stream, StreamExt, TryFutureExt, TryStreamExt,
    stream::{self, BoxStream, FuturesOrdered},
};
use mesh_core::{
    Answer, Buf, Error, Lane,
    limits::{STREAM_STRIPES, STRIPE_BYTES_MAX},
    meta::ObjectRow,
    op::{ObjectOp, Piece},
    time::Instant,
};
use s3s::{
    StdError,
    stream::{ByteStream, RemainingLength},
};

use tokio::sync::oneshot;

use super::{
    auth::Counters,
    caller::{Caller, lane_of},
    credit::{PROGRESS_BYTES, Purse, Stake},
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

impl Source {
    /// A stripe of it at most: what one piece takes while it is read, however little of it is wanted.
    pub(super) fn stripe_bytes(&self) -> usize {
        usize::try_from(self.object.len).map_or(STRIPE_BYTES_MAX, |len| len.min(STRIPE_BYTES_MAX))
    }
}

/// What a piece takes while it is read, and until it has gone: its whole stripe.
fn held_by(piece: &Piece) -> usize {
    let before = u64::from(piece.stripe) * u64::from(piece.extent.stripe_bytes);
    let stripe = piece.extent.len.saturating_sub(before).min(u64::from(piece.extent.stripe_bytes));
    usize::try_from(stripe).unwrap_or(usize::MAX)
}

/// The bytes of a range, in order and in frames, for a client: up to [`STREAM_STRIPES`] pieces ahead of it if there is
/// memory for them, and one at a time if there is not.
pub(super) fn read(caller: Caller, source: Source) -> BoxStream<'static, Result<Bytes, Error>> {
    let (asked, bytes) = (caller.clone(), source.stripe_bytes());
    let admitted = async move { asked.admit(bytes).await };
    let reading = admitted.map_ok(move |purse| Reading::begin(caller, source, purse, true).frames());
    reading.try_flatten_stream().boxed()
}

/// The bytes of a range, in order and in pieces, for this node itself: within `purse`, which has room for one of them.
pub(super) fn read_within(caller: Caller, source: Source, purse: Purse) -> BoxStream<'static, Result<Bytes, Error>> {
    Reading::begin(caller, source, purse, false).frames().boxed()
}

/// A range that is being read.
struct Reading {
    caller: Caller,
    source: Source,
    purse: Purse,
    /// Its bytes are there still.
    lease: Lease,
    pages: BoxStream<'static, Result<Vec<Piece>, Error>>,
    /// There is no further page.
    planned_all: bool,
    planned: VecDeque<Piece>,
    under_way: FuturesOrdered<oneshot::Receiver<Result<Bytes, Error>>>,
    /// Of the piece at hand.
    rest: Bytes,
    /// A client takes the frames, and is watched: one that stops gives way to others.
    client: bool,
    /// Bytes that were taken.
    taken: usize,
}

/// What happened to a reading.
enum Turn {
    Read(Result<Bytes, Error>),
    Page(Option<Vec<Piece>>),
    Stake(Stake),
}

impl Reading {
    fn begin(caller: Caller, source: Source, purse: Purse, client: bool) -> Self {
        let lease = Lease::new(caller.grace, source.asked);
        let pages = pages(caller.clone(), source.clone());
        let (planned, under_way) = (VecDeque::new(), FuturesOrdered::new());
        Self {
            caller,
            source,
            purse,
            lease,
            pages,
            planned_all: false,
            planned,
            under_way,
            rest: Bytes::new(),
            client,
            taken: 0,
        }
    }

    fn frames(self) -> impl Stream<Item = Result<Bytes, Error>> + Send {
        stream::try_unfold(self, |mut reading| async move {
            reading.clients_turn(false);
            let frame = reading.next().await?;
            reading.clients_turn(true);
            Ok(frame.map(|frame| (frame, reading)))
        })
    }

    /// Whose turn it is to do something.
    fn clients_turn(&self, yes: bool) {
        match (self.client, yes) {
            (true, true) => self.purse.waits_for_client(),
            (true, false) => self.purse.moves(),
            (false, _) => {}
        }
    }

    async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            if !self.planned.is_empty() {
                self.lease.hold(&self.caller, &self.source).await?;
            }
            self.read_ahead();
            if !self.rest.is_empty() {
                let frame_bytes = if self.client { FRAME_BYTES } else { STRIPE_BYTES_MAX };
                let frame = self.rest.split_to(self.rest.len().min(frame_bytes));
                self.taken = self.taken.saturating_add(frame.len());
                return Ok(Some(frame));
            }
            match self.turn().await? {
                Some(Turn::Read(read)) => self.rest = read?,
                Some(Turn::Page(Some(page))) => self.planned.extend(page),
                Some(Turn::Page(None)) => self.planned_all = true,
                Some(Turn::Stake(stake)) => {
                    self.clients_turn(false);
                    // It may have waited long for its turn.
                    self.lease.hold(&self.caller, &self.source).await?;
                    self.send(stake);
                }
                None => return Ok(None),
            }
        }
    }

    /// Waits for the next thing to happen; none: it is over.
    async fn turn(&mut self) -> Result<Option<Turn>, Error> {
        let reads = !self.under_way.is_empty();
        let plans = self.planned.is_empty() && !self.planned_all;
        let waits = !reads && !self.planned.is_empty();
        if waits {
            // The piece before must go first.
            self.clients_turn(true);
        }
        let turn = tokio::select! {
            biased;
            Some(read) = self.under_way.next(), if reads => {
                Turn::Read(read.unwrap_or_else(|_| Err(Error::bug("a read ended without an outcome"))))
            }
            page = self.pages.try_next(), if plans => Turn::Page(page?),
            stake = self.purse.base(), if waits => Turn::Stake(stake),
            else => return Ok(None),
        };
        Ok(Some(turn))
    }

    /// Sends for pieces that there is memory for now: one, until its client is seen to take what it asked for.
    fn read_ahead(&mut self) {
        let first = self.client && self.taken < TAKEN_BYTES_MIN;
        let ahead = if first { usize::from(self.rest.is_empty()) } else { STREAM_STRIPES };
        while self.under_way.len() < ahead
            && let Some(piece) = self.planned.front()
        {
            let Some(stake) = self.purse.at_once(held_by(piece)) else { return };
            self.send(stake);
        }
    }

    fn send(&mut self, stake: Stake) {
        let Some(piece) = self.planned.pop_front() else { return };
        let want = piece.len as usize;
        let Source { bucket, key, .. } = &self.source;
        let (caller, held, lane) = (self.caller.clone(), held_by(&piece), lane_of(self.source.len));
        let op = ObjectOp::Read { bucket: bucket.clone(), key: key.clone(), piece };
        let (mut told, read) = oneshot::channel();
        // A task of its own: it must come to its end, and give its turn back, whether or not anybody waits for it; below,
        // what was asked for is held until then.
        tokio::spawn(async move {
            let turn = match lane {
                Lane::Bulk => tokio::select! {
                    turn = caller.credit.turn_to_read(caller.tenant, held) => Some(turn),
                    // Nobody waits for it any more, and its memory is others'.
                    () = told.closed() => return,
                },
                _ => None,
            };
            let outcome = caller.ask(op, Buf::empty(), lane).await;
            let read = outcome.and_then(|response| match response.payload.len() == want {
                true if response.answer == Answer::Done => Ok(staked(response.payload.into_bytes(), stake)),
                _ => Err(Error::bug("a piece is not what was planned")
                    .with("want", want)
                    .with("got", response.payload.len())),
            });
            if told.send(read).is_err() {
                tracing::trace!("nobody waits for a piece any more");
            }
            if let Some(turn) = turn {
                turn.end().await;
            }
        });
        self.under_way.push_back(read);
    }
}

/// The plan of a range, page by page.
fn pages(caller: Caller, source: Source) -> BoxStream<'static, Result<Vec<Piece>, Error>> {
    let pages = stream::try_unfold(0_u64, move |done| {
        let (caller, source) = (caller.clone(), source.clone());
        async move {
            if done == source.len {
                return Ok(None);
            }
            let offset = source.offset + done;
            let page = caller.plan(&source.bucket, &source.key, &source.object, offset, source.len - done).await?;
            let covered: u64 = page.iter().map(|piece| u64::from(piece.len)).sum();
            Ok::<_, Error>(Some((page, done + covered)))
        }
    });
    pages.boxed()
}

/// Bytes, and the permission to hold them, which goes when the last view of them does.
pub(super) fn staked(bytes: Bytes, stake: Stake) -> Bytes {
    struct Staked {
        bytes: Bytes,
        _stake: Stake,
    }
    impl AsRef<[u8]> for Staked {
        fn as_ref(&self) -> &[u8] {
            &self.bytes
        }
    }
    Bytes::from_owner(Staked { bytes, _stake: stake })
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

/// A client that took more than a connection's buffers hold does read.
const TAKEN_BYTES_MIN: usize = 1 << 20;
/// What is handed to a connection at once: who takes one has moved.
const FRAME_BYTES: usize = PROGRESS_BYTES;
