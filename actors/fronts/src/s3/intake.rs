//! The way of a body in: frames are copied once, into pooled stripes, and every full stripe goes to Object while the
//! next one fills. What is asked of Object, and when, is [`Pour`]'s to say; here are the bytes, and what they cost.
//!
//! ```text
//!   frame ──► digests ──► stripe being filled ──► one that waits for room ──► at most STREAM_STRIPES in flight
//! ```
//!
//! So a stream holds a bounded number of stripes however fast its client is. Each has a stake in the node's memory before
//! a byte for it is read, which goes with it until Object has answered; the room, which all streams of the gateway share,
//! keeps them together below what Object's mailbox takes. A write that does not come to its end, for whatever reason, is
//! aborted.

use std::{collections::BTreeMap, pin::Pin, sync::Arc};

use bytes::Bytes;
use futures_util::{Stream, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use mesh_core::{
    Buf, Lane, Outcome, Pool,
    limits::{STREAM_STRIPES, STRIPE_BYTES_MAX},
    op::Destination,
    stream::{Place, Pour, PourStep},
};
use s3s::{S3Result, s3_error};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{
    caller::{Caller, lane_of},
    credit::{PROGRESS_BYTES, Purse, Stake},
    digest::{Digested, Digests},
    error::{strange, to_s3},
    gateway::Gateway,
    text::hex,
};

/// A body on its way in.
pub(super) struct Incoming<B> {
    /// Where.
    pub(super) bucket: Arc<str>,
    /// Where.
    pub(super) key: Arc<str>,
    /// An object or a part.
    pub(super) destination: Destination,
    /// Bytes, as declared.
    pub(super) len: u64,
    /// The bytes.
    pub(super) body: B,
    /// What to compute.
    pub(super) digests: Digests,
}

/// What became of it.
pub(super) struct Stored {
    /// The ETag.
    pub(super) etag: String,
    /// What was computed.
    pub(super) digested: Digested,
}

/// Stores what a client sends. `check` sees the digests before anything becomes visible, and may refuse.
///
/// # Errors
/// `SlowDown` before a byte is read; of the body, of `check`, and of Object. Nothing is visible then, unless the error
/// says that it may be.
pub(super) async fn store<B>(
    gateway: &Gateway,
    caller: &Caller,
    incoming: Incoming<B>,
    check: impl FnOnce(&Digested) -> S3Result<()> + Send,
) -> S3Result<Stored>
where
    B: Stream<Item = S3Result<Bytes>> + Send + Unpin,
{
    let len = usize::try_from(incoming.len).unwrap_or(usize::MAX);
    let bytes = len.min(STRIPE_BYTES_MAX) + len.min(caller.via.frame_bytes);
    let purse = caller.admit(bytes).await.map_err(|error| to_s3(&error))?;
    pour(gateway, caller, (purse, true), incoming, check).await
}

/// As [`store`], for a body that this node reads itself: `purse` has room for a stripe, and for what the body itself
/// holds. No client is waited for.
///
/// # Errors
/// As [`store`].
pub(super) async fn store_with<B>(
    gateway: &Gateway,
    caller: &Caller,
    purse: Purse,
    incoming: Incoming<B>,
    check: impl FnOnce(&Digested) -> S3Result<()> + Send,
) -> S3Result<Stored>
where
    B: Stream<Item = S3Result<Bytes>> + Send + Unpin,
{
    pour(gateway, caller, (purse, false), incoming, check).await
}

async fn pour<B>(
    gateway: &Gateway,
    caller: &Caller,
    (purse, client): (Purse, bool),
    incoming: Incoming<B>,
    check: impl FnOnce(&Digested) -> S3Result<()> + Send,
) -> S3Result<Stored>
where
    B: Stream<Item = S3Result<Bytes>> + Send + Unpin,
{
    let Incoming { bucket, key, destination, len, body, digests } = incoming;
    let (write, begin) = Pour::begin(Place { bucket, key }, destination, STREAM_STRIPES);
    let mut open = OpenWrite { caller: caller.clone(), pour: write };
    open.hear(caller.ask(begin, Buf::empty(), Lane::Interactive).await)?;
    let stripe_bytes = open.pour.stripe_bytes();
    let mut intake = Intake {
        open: &mut open,
        lane: lane_of(len),
        room: gateway.stripe_credit(),
        purse,
        client,
        stake: None,
        came: 0,
        filling: Filling { pool: gateway.pool().clone(), stripe_bytes, left: len, stripe: Buf::empty(), filled: 0 },
        rest: Bytes::new(),
        waiting: None,
        in_flight: FuturesUnordered::new(),
    };
    let digested = intake.run(gateway, body, digests, len).await?;
    drop(intake);
    check(&digested)?;
    let etag = open.finish(hex(&digested.md5), digested.kept()).await?;
    Ok(Stored { etag, digested })
}

/// A write that may be open at Object. Dropped before its end, it is aborted.
struct OpenWrite {
    caller: Caller,
    pour: Pour,
}

impl OpenWrite {
    /// An answer of Object.
    fn hear(&mut self, outcome: Outcome) -> S3Result<()> {
        self.pour.hear(outcome);
        self.pour.failure().map_or(Ok(()), |error| Err(to_s3(error)))
    }

    /// Makes the write visible. Goes on to its end even if the client leaves now: what was sent whole is stored, and
    /// no half-known state remains.
    async fn finish(mut self, etag: String, checksums: BTreeMap<String, String>) -> S3Result<String> {
        self.pour.end(etag, checksums);
        let Some(PourStep::Ask(finish)) = self.pour.next() else { return Err(strange("a write that is not whole")) };
        let outcome = self.caller.ask(finish, Buf::empty(), Lane::Interactive);
        self.hear(tokio::spawn(outcome).await.map_err(s3s::S3Error::internal_error)?)?;
        match self.pour.next() {
            Some(PourStep::Over(Ok(poured))) => Ok(poured.etag),
            _ => Err(strange("Finish")),
        }
    }
}

impl Drop for OpenWrite {
    fn drop(&mut self) {
        let Some(abort) = self.pour.abandon() else { return };
        // Outside a runtime (it is being shut down) nobody can be told; Object drops idle writes by itself.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let abort = self.caller.ask(abort, Buf::empty(), Lane::Interactive);
        runtime.spawn(async move {
            if let Err(error) = abort.await {
                tracing::debug!(?error, "an abandoned write was not aborted; it will be when it is idle");
            }
        });
    }
}

/// The stripe that is being filled. Since the length is known, so is that of every stripe: no byte of a pooled buffer
/// that was not written ever leaves.
struct Filling {
    pool: Pool,
    stripe_bytes: usize,
    /// Bytes that no stripe has been made for.
    left: u64,
    stripe: Buf,
    filled: usize,
}

impl Filling {
    /// Whether a stripe has been made for every byte.
    const fn is_done(&self) -> bool {
        self.left == 0 && self.stripe.is_empty()
    }

    /// How long the next stripe is.
    fn next_bytes(&self) -> usize {
        usize::try_from(self.left).map_or(self.stripe_bytes, |left| left.min(self.stripe_bytes))
    }

    /// Takes from `rest` what fits; gives the stripe once it is full.
    fn fill(&mut self, rest: &mut Bytes) -> Option<Buf> {
        if self.stripe.is_empty() {
            let len = self.next_bytes();
            self.stripe = self.pool.take(len, STRIPE_SPARE_BYTES);
            self.left -= len as u64;
            self.filled = 0;
        }
        let taken = rest.split_to(rest.len().min(self.stripe.len() - self.filled));
        let target = self.stripe.as_mut().expect("nobody else has a stripe that is being filled");
        target[self.filled..self.filled + taken.len()].copy_from_slice(&taken);
        self.filled += taken.len();
        (self.filled == self.stripe.len()).then(|| core::mem::take(&mut self.stripe))
    }
}

/// A full stripe, its stake, and the room at Object that it waits for.
struct Waiting {
    stripe: Buf,
    stake: Option<Stake>,
    room: Pin<Box<dyn Future<Output = Option<OwnedSemaphorePermit>> + Send>>,
}

/// One body being cut into stripes.
struct Intake<'a> {
    open: &'a mut OpenWrite,
    lane: Lane,
    room: Arc<Semaphore>,
    purse: Purse,
    /// The body comes from a client, which is watched.
    client: bool,
    /// Of the stripe that is being filled, or will be next.
    stake: Option<Stake>,
    /// Bytes since the client was last seen to move.
    came: usize,
    filling: Filling,
    rest: Bytes,
    waiting: Option<Waiting>,
    in_flight: FuturesUnordered<BoxFuture<'static, Outcome>>,
}

/// What happened to an intake.
enum Turn {
    Landed(Outcome),
    Room(Option<OwnedSemaphorePermit>),
    Stake(Stake),
    Frame(Option<S3Result<Bytes>>),
}

impl Intake<'_> {
    async fn run<B>(&mut self, gateway: &Gateway, mut body: B, mut digests: Digests, len: u64) -> S3Result<Digested>
    where
        B: Stream<Item = S3Result<Bytes>> + Send + Unpin,
    {
        let mut received = 0_u64;
        let mut ended = false;
        loop {
            self.move_on();
            if ended && self.waiting.is_none() && self.in_flight.is_empty() {
                return Ok(digests.finish());
            }
            match self.turn(&mut body, !ended).await {
                Turn::Landed(outcome) => self.open.hear(outcome)?,
                Turn::Room(permit) => self.send(permit)?,
                Turn::Stake(stake) => self.stake = Some(stake),
                Turn::Frame(Some(frame)) => {
                    let frame = frame?;
                    self.came += frame.len();
                    if self.came >= PROGRESS_BYTES {
                        self.client_moved();
                    }
                    received += frame.len() as u64;
                    if received > len {
                        return Err(s3_error!(IncompleteBody, "more bytes came than Content-Length declared"));
                    }
                    gateway.counters().received(self.open.caller.tenant, frame.len());
                    digests.update(&frame);
                    self.rest = frame;
                }
                Turn::Frame(None) if received < len => {
                    return Err(s3_error!(
                        IncompleteBody,
                        "You did not provide the number of bytes specified by the Content-Length HTTP header"
                    ));
                }
                Turn::Frame(None) => ended = true,
            }
        }
    }

    fn client_moved(&mut self) {
        self.came = 0;
        self.purse.moves();
    }

    /// Fills stripes from what has come, until one waits or has no stake yet.
    fn move_on(&mut self) {
        while self.waiting.is_none() && !self.rest.is_empty() && self.has_stake() {
            let Some(stripe) = self.filling.fill(&mut self.rest) else { continue };
            let units = Gateway::credit_of(stripe.len());
            let room = self.room.clone();
            let room = Box::pin(async move { room.acquire_many_owned(units).await.ok() });
            self.waiting = Some(Waiting { stripe, stake: self.stake.take(), room });
        }
    }

    /// Whether what comes next may be held: there is a stake for it, if any is to be had without waiting.
    fn has_stake(&mut self) -> bool {
        if self.stake.is_none() && !self.filling.is_done() {
            self.stake = self.purse.at_once(self.filling.next_bytes());
        }
        self.stake.is_some() || self.filling.is_done()
    }

    /// Waits for the next thing to happen. Answers come first: they free memory.
    async fn turn<B>(&mut self, body: &mut B, more: bool) -> Turn
    where
        B: Stream<Item = S3Result<Bytes>> + Send + Unpin,
    {
        let room = self.open.pour.wants().is_some();
        let staked = self.has_stake();
        let waits = self.waiting.is_some();
        let reads = more && staked && !waits && self.rest.is_empty();
        if reads && self.client {
            self.purse.waits_for_client();
        } else {
            self.client_moved();
        }
        let waiting = &mut self.waiting;
        let permit = async {
            match waiting {
                Some(waiting) => waiting.room.as_mut().await,
                None => core::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            Some(outcome) = self.in_flight.next(), if !self.in_flight.is_empty() => Turn::Landed(outcome),
            permit = permit, if waits && room => Turn::Room(permit),
            stake = self.purse.base(), if !staked => Turn::Stake(stake),
            frame = body.next(), if reads => Turn::Frame(frame),
        }
    }

    /// Sends the stripe that waited; its permits ride with it.
    fn send(&mut self, permit: Option<OwnedSemaphorePermit>) -> S3Result<()> {
        let (Some(permit), Some(waiting)) = (permit, self.waiting.take()) else {
            return Err(s3_error!(ServiceUnavailable, "this node is going down"));
        };
        let Waiting { stripe, stake, .. } = waiting;
        let append = self.open.pour.append(stripe.len()).map_err(|error| to_s3(&error))?;
        let outcome = self.open.caller.ask(append, stripe, self.lane);
        self.in_flight.push(Box::pin(async move {
            let outcome = outcome.await;
            drop((permit, stake));
            outcome
        }));
        Ok(())
    }
}

impl Drop for Intake<'_> {
    /// What was sent is held below until it is answered, whoever waits for it.
    fn drop(&mut self) {
        let mut in_flight = core::mem::take(&mut self.in_flight);
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        if !in_flight.is_empty() {
            runtime.spawn(async move { while in_flight.next().await.is_some() {} });
        }
    }
}

/// Room behind a stripe for what sealing and padding add, so that nothing is copied when they do.
const STRIPE_SPARE_BYTES: usize = 128 << 10;
