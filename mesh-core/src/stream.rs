//! How the bytes of an object go in and come out, for whoever asks an Object function: two machines, and the ranges that
//! they take. S3, the client and the simulator's workload all drive these, so there is one protocol.
//!
//! ```text
//! Pour    Begin ─► Append 0, 1, 2 … (a window of them at once, in any order) ─► Finish
//!                    └─ one fails, or the bytes end too early ───────────────► Abort
//!
//! Draw    Head ─► Plan a page of pieces ─► Read them (a window ahead, in any order) ─► handed out in order
//!                    ▲                        │ the page is used up
//!                    └────────────────────────┘
//! ```
//!
//! They decide what is asked, when more may be, under which number, in which order pieces are handed out, and what a failure
//! leads to. They do nothing themselves: no bytes pass through them, only numbers and lengths, and they know no clock. What
//! drives them carries questions to the Object function and tells them the answers; digests, memory accounts, paces and what
//! happens in case of an overload are its own. It may ask later than it could, and so have a smaller window.
//!
//! Every answer is checked for whether it makes sense: one that does not is a bug, of this version or of another one, and
//! ends the machine as any other failure does.

mod draw;
mod pour;
mod range;

use std::sync::Arc;

pub use draw::{Draw, DrawStep, pieces_of};
pub use pour::{Pour, PourStep, Poured};
pub use range::ByteRange;

use crate::{
    buf::Buf,
    effect::{Outcome, Response},
    error::Error,
    limits::STREAM_STRIPES,
    op::Answer,
};

/// Where an object is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The bucket's name.
    pub bucket: Arc<str>,
    /// The key.
    pub key: Arc<str>,
}

impl Place {
    /// A key of a bucket.
    #[must_use]
    pub fn new(bucket: impl Into<Arc<str>>, key: impl Into<Arc<str>>) -> Self {
        Self { bucket: bucket.into(), key: key.into() }
    }
}

/// The bytes that a read brought.
///
/// # Errors
/// What became of the read; `Bug` if it was answered by something else.
pub fn payload_of(outcome: Outcome) -> Result<Buf, Error> {
    match outcome? {
        Response { answer: Answer::Done, payload } => Ok(payload),
        response => Err(strange("Read", &response.answer)),
    }
}

/// A question was answered with what answers another one.
fn strange(asked: &'static str, answer: &Answer) -> Error {
    Error::bug("a question was answered with what answers another one")
        .with("asked", asked)
        .with("answer", format_args!("{answer:?}"))
}

/// At least one at a time, and never more than a stream may have.
const fn bounded(window: usize) -> usize {
    match window {
        0 => 1,
        window if window > STREAM_STRIPES => STREAM_STRIPES,
        window => window,
    }
}
