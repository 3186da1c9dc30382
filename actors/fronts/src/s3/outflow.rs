//! The way of a body out: plan a page of pieces, read a few of them ahead, hand each to the connection without a copy, a
//! frame at a time. What is asked of Object, and in which order pieces go, is [`Draw`]'s to say; here are the bytes, what
//! they cost, and for how long they are certain to be there.
//!
//! Every piece has a stake in the node's memory before it is asked for, which goes with its bytes until the connection
//! has sent them. One piece's worth the request has from its start to its end; more only while there is more.
//!
//! A body is exactly as long as its `Content-Length` or it is an error, which breaks the connection: a client can never
//! mistake a part of an object for the object.

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::{
    FutureExt, Stream, StreamExt, TryFutureExt,
    future::{self, BoxFuture},
    stream::{self, BoxStream, FuturesUnordered},
};
use mesh_core::{
    Buf, Error, Lane, Outcome, Trace,
    id::TenantId,
    limits::{STREAM_STRIPES, STRIPE_BYTES_MAX},
    meta::ObjectRow,
    op::Piece,
    stream::{Draw, DrawStep, Place, payload_of},
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
    let bytes = source.stripe_bytes();
    let reading = async move {
        let purse = caller.admit(bytes).await?;
        Ok(Reading::begin(caller, source, purse, true)?.frames())
    };
    reading.try_flatten_stream().boxed()
}

/// The bytes of a range, in order and in pieces, for this node itself: within `purse`, which has room for one of them.
pub(super) fn read_within(caller: Caller, source: Source, purse: Purse) -> BoxStream<'static, Result<Bytes, Error>> {
    match Reading::begin(caller, source, purse, false) {
        Ok(reading) => reading.frames().boxed(),
        Err(error) => stream::once(future::ready(Err(error))).boxed(),
    }
}

/// A range that is being read.
struct Reading {
    caller: Caller,
    source: Source,
    purse: Purse,
    /// Its bytes are there still.
    lease: Lease,
    draw: Draw,
    planning: Option<BoxFuture<'static, Outcome>>,
    under_way: FuturesUnordered<BoxFuture<'static, (u32, Result<Bytes, Error>)>>,
    /// Read, and not their turn yet: of the draw's window.
    here: BTreeMap<u32, Bytes>,
    /// Of the piece at hand.
    rest: Bytes,
    /// A client takes the frames, and is watched: one that stops gives way to others.
    client: bool,
    /// Bytes that were taken.
    taken: usize,
}

/// What happened to a reading.
enum Turn {
    Read(u32, Result<Bytes, Error>),
    Planned(Outcome),
    Stake(Stake),
}

impl Reading {
    fn begin(caller: Caller, source: Source, purse: Purse, client: bool) -> Result<Self, Error> {
        let lease = Lease::new(caller.grace, source.asked);
        let range = source.offset..source.offset.saturating_add(source.len);
        let place = Place::new(source.bucket.clone(), source.key.clone());
        Ok(Self {
            draw: Draw::new(place, source.object.clone(), range, STREAM_STRIPES)?,
            caller,
            source,
            purse,
            lease,
            planning: None,
            under_way: FuturesUnordered::new(),
            here: BTreeMap::new(),
            rest: Bytes::new(),
            client,
            taken: 0,
        })
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
            if self.draw.wants().is_some() {
                self.lease.hold(&self.caller, &self.source).await?;
            }
            self.read_ahead();
            if !self.rest.is_empty() {
                let frame_bytes = if self.client { FRAME_BYTES } else { STRIPE_BYTES_MAX };
                let frame = self.rest.split_to(self.rest.len().min(frame_bytes));
                self.taken = self.taken.saturating_add(frame.len());
                return Ok(Some(frame));
            }
            match self.draw.next() {
                Some(DrawStep::Hand { number, .. }) => {
                    let piece = self.here.remove(&number);
                    self.rest = piece.ok_or_else(|| Error::bug("a piece was read and is not here"))?;
                }
                Some(DrawStep::Plan(plan)) => {
                    self.planning = Some(self.caller.ask(plan, Buf::empty(), Lane::Interactive));
                }
                Some(DrawStep::Over(result)) => return result.map(|()| None),
                None => self.turn().await?,
            }
        }
    }

    /// Waits for the next thing to happen.
    async fn turn(&mut self) -> Result<(), Error> {
        let reads = !self.under_way.is_empty();
        let waits = !reads && self.draw.wants().is_some();
        if !reads && !waits && self.planning.is_none() {
            return Err(Error::bug("a response waits for nothing"));
        }
        if waits {
            // The piece before must go first.
            self.clients_turn(true);
        }
        let planning = &mut self.planning;
        let planned = async {
            match planning {
                Some(plan) => plan.await,
                None => future::pending().await,
            }
        };
        let turn = tokio::select! {
            biased;
            Some((number, read)) = self.under_way.next(), if reads => Turn::Read(number, read),
            outcome = planned => Turn::Planned(outcome),
            stake = self.purse.base(), if waits => Turn::Stake(stake),
        };
        match turn {
            Turn::Read(number, read) => {
                let read = read.map(|bytes| {
                    let len = bytes.len();
                    self.here.insert(number, bytes);
                    len
                });
                self.draw.landed(number, read);
            }
            Turn::Planned(outcome) => {
                self.planning = None;
                self.draw.planned(outcome);
            }
            Turn::Stake(stake) => {
                self.clients_turn(false);
                // It may have waited long for its turn.
                self.lease.hold(&self.caller, &self.source).await?;
                self.send(stake);
            }
        }
        Ok(())
    }

    /// Sends for pieces that there is memory for now: one, until its client is seen to take what it asked for.
    fn read_ahead(&mut self) {
        let first = self.client && self.taken < TAKEN_BYTES_MIN;
        let ahead = if first { usize::from(self.rest.is_empty()) } else { STREAM_STRIPES };
        while self.draw.ahead() < ahead
            && let Some(piece) = self.draw.wants()
        {
            let Some(stake) = self.purse.at_once(held_by(piece)) else { return };
            self.send(stake);
        }
    }

    fn send(&mut self, stake: Stake) {
        let Some(held) = self.draw.wants().map(held_by) else { return };
        let Some((number, op)) = self.draw.read() else { return };
        let (caller, lane) = (self.caller.clone(), lane_of(self.source.len));
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
            let read = payload_of(outcome).map(|payload| staked(payload.into_bytes(), stake));
            if told.send(read).is_err() {
                tracing::trace!("nobody waits for a piece any more");
            }
            if let Some(turn) = turn {
                turn.end().await;
            }
        });
        let ended = || Err(Error::bug("a read ended without an outcome"));
        self.under_way.push(async move { (number, read.await.unwrap_or_else(|_| ended())) }.boxed());
    }
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
    /// Whose it is, and of which request.
    tenant: TenantId,
    trace: Trace,
}

impl Outflow {
    /// A body of exactly `len` bytes.
    pub(super) fn new(
        pieces: BoxStream<'static, Result<Bytes, Error>>,
        len: u64,
        (counters, tenant, trace): (Arc<Counters>, TenantId, Trace),
    ) -> Self {
        Self { pieces: Mutex::new(pieces), left: len, counters, tenant, trace }
    }

    fn fail(&mut self, error: Error) -> Poll<Option<Result<Bytes, StdError>>> {
        tracing::warn!(request = %self.trace, ?error, left = self.left, "a response broke off: its client sees an incomplete body");
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
                self.counters.sent(self.tenant, bytes.len());
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
