//! Pour: the way of bytes in, from Begin to Finish, or to Abort.

use std::collections::BTreeMap;

use super::{Place, bounded, strange};
use crate::{
    effect::{Outcome, Response},
    error::{Error, ErrorKind},
    id::WriteId,
    limits::{OBJECT_PUT_BYTES_MAX, STRIPE_BYTES_MAX},
    op::{Answer, Destination, ObjectOp},
};

/// One write: an object, or a part of an upload. See the [module's page](super).
///
/// It hears every answer by [`Self::hear`], whichever question it answers: what is under way at one time is of one kind.
/// After each of its methods [`Self::next`] says what else to ask, until it says nothing.
///
/// | what fails | what it leads to |
/// |---|---|
/// | Begin | the end; if a write is open after all, the Object function drops it when it is idle |
/// | an Append, or the bytes before they end | no further Append; Abort once those under way are answered; the end |
/// | Finish | the end, whatever is known of it: the write is gone from the Object function in any case |
/// | Abort | the end, with what had failed before: the Object function drops idle writes |
#[derive(Debug)]
pub struct Pour {
    state: State,
    window: usize,
    stripe_bytes: u32,
    /// The number of the next stripe: so many were asked to be stored.
    next: u32,
    /// Bytes of those.
    len: u64,
    in_flight: usize,
    /// There was one that is shorter than the others: the last one of the object.
    short: bool,
    end: Option<End>,
    failed: Option<Error>,
}

#[derive(Debug, PartialEq)]
enum State {
    Beginning,
    Open(WriteId),
    Finishing,
    Aborting,
    /// Over, with what is not told yet.
    Ended(Option<Result<Poured, Error>>),
}

/// What is known once the bytes have ended.
#[derive(Debug)]
struct End {
    etag: String,
    checksums: BTreeMap<String, String>,
}

/// What was stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Poured {
    /// The version; of a part, its write.
    pub version: WriteId,
    /// The ETag.
    pub etag: String,
    /// Bytes.
    pub len: u64,
}

/// What a pour wants done.
#[derive(Clone, Debug, PartialEq)]
pub enum PourStep {
    /// Ask this and tell the answer by [`Pour::hear`].
    Ask(ObjectOp),
    /// It is over. Unless the error may have been processed, nothing has changed.
    Over(Result<Poured, Error>),
}

impl Pour {
    /// A write that begins, and the question with which it does. At most `window` stripes are under way at once: 1 to
    /// `STREAM_STRIPES`; what is beyond counts as the nearer of these.
    #[must_use]
    pub fn begin(place: Place, destination: Destination, window: usize) -> (Self, ObjectOp) {
        let pour = Self {
            state: State::Beginning,
            window: bounded(window),
            stripe_bytes: 0,
            next: 0,
            len: 0,
            in_flight: 0,
            short: false,
            end: None,
            failed: None,
        };
        let Place { bucket, key } = place;
        (pour, ObjectOp::Begin { bucket, key, destination })
    }

    /// The answer to a question.
    pub fn hear(&mut self, outcome: Outcome) {
        match (&self.state, outcome) {
            (State::Beginning, outcome) => self.begun(outcome),
            (State::Open(_), outcome) => self.appended(outcome),
            (State::Finishing, outcome) => self.finished(outcome),
            (State::Aborting, _) => self.end_with_failure(),
            // It was given up, and what was under way then is answered.
            (State::Ended(_), _) => {}
        }
    }

    fn begun(&mut self, outcome: Outcome) {
        match outcome.map(|response| response.answer) {
            Ok(Answer::Begun { write, stripe_bytes }) => {
                (self.state, self.stripe_bytes) = (State::Open(write), stripe_bytes);
                if stripe_bytes == 0 || stripe_bytes as usize > STRIPE_BYTES_MAX {
                    self.give_up(Error::bug("Begin gave an impossible stripe size").with("bytes", stripe_bytes));
                }
            }
            Ok(answer) => self.state = State::Ended(Some(Err(strange("Begin", &answer)))),
            Err(error) => self.state = State::Ended(Some(Err(error))),
        }
    }

    fn appended(&mut self, outcome: Outcome) {
        if self.in_flight == 0 {
            return self.give_up(Error::bug("an append was answered that was not asked for"));
        }
        self.in_flight -= 1;
        match outcome {
            Ok(Response { answer: Answer::Done, .. }) => {}
            Ok(response) => self.give_up(strange("Append", &response.answer)),
            Err(error) => self.give_up(error),
        }
    }

    fn finished(&mut self, outcome: Outcome) {
        let result = match outcome.map(|response| response.answer) {
            Ok(Answer::Committed { version, etag }) => Ok(Poured { version, etag, len: self.len }),
            Ok(answer) => Err(strange("Finish", &answer)),
            Err(error) => Err(error),
        };
        self.state = State::Ended(Some(result));
    }

    fn end_with_failure(&mut self) {
        let failed = self.failed.take().unwrap_or_else(|| Error::bug("a write was aborted for no reason"));
        self.state = State::Ended(Some(Err(failed)));
    }

    /// What to do next; `None`: nothing but to store stripes, if any are wanted, and to wait for answers.
    #[expect(clippy::should_implement_trait, reason = "it goes on after None, as answers come")]
    pub fn next(&mut self) -> Option<PourStep> {
        match &mut self.state {
            State::Open(write) if self.in_flight == 0 => {
                let write = *write;
                if self.failed.is_some() {
                    self.state = State::Aborting;
                    return Some(PourStep::Ask(ObjectOp::Abort { write }));
                }
                let End { etag, checksums } = self.end.take()?;
                self.state = State::Finishing;
                Some(PourStep::Ask(ObjectOp::Finish { write, len: self.len, etag, checksums }))
            }
            State::Ended(result) => result.take().map(PourStep::Over),
            _ => None,
        }
    }

    /// The number of the stripe that may be stored next, if one may be now.
    #[must_use]
    pub const fn wants(&self) -> Option<u32> {
        let open = matches!(self.state, State::Open(_)) && self.failed.is_none() && self.end.is_none();
        if open && self.in_flight < self.window { Some(self.next) } else { None }
    }

    /// Bytes of every stripe but the last; 0 before Begin is answered.
    #[must_use]
    pub const fn stripe_bytes(&self) -> usize {
        self.stripe_bytes as usize
    }

    /// The question that stores the next stripe, of `bytes`; the bytes are its payload.
    ///
    /// # Errors
    /// `TooLarge` with the stripe that would make the object too long, `Bug` for one that is not wanted or of a wrong
    /// length. The write has failed then, and is aborted.
    pub fn append(&mut self, bytes: usize) -> Result<ObjectOp, Error> {
        self.check(bytes).inspect_err(|error| self.give_up(error.clone()))?;
        let State::Open(write) = self.state else { return Err(Error::bug("no write is open")) };
        let stripe = self.next;
        self.short = self.short || bytes < self.stripe_bytes();
        (self.next, self.in_flight) = (self.next + 1, self.in_flight + 1);
        self.len += bytes as u64;
        Ok(ObjectOp::Append { write, stripe })
    }

    fn check(&self, bytes: usize) -> Result<(), Error> {
        if self.wants().is_none() {
            return Err(Error::bug("a stripe was to be stored that is not wanted"));
        }
        if bytes == 0 || bytes > self.stripe_bytes() || (self.short && bytes < self.stripe_bytes()) {
            return Err(Error::bug("every stripe but the last has the same length, and none is empty")
                .with("bytes", bytes)
                .with("stripe_bytes", self.stripe_bytes));
        }
        if self.len + bytes as u64 > OBJECT_PUT_BYTES_MAX || self.next == u32::MAX {
            return Err(Error::new(ErrorKind::TooLarge, "one write has at most 5 GiB; send it in parts (multipart)"));
        }
        Ok(())
    }

    /// There are no more bytes. Once all are stored the object becomes visible under this ETag, with these checksums.
    pub fn end(&mut self, etag: String, checksums: BTreeMap<String, String>) {
        if self.failed.is_none() && matches!(self.state, State::Open(_)) {
            self.end.get_or_insert(End { etag, checksums });
        }
    }

    /// It is not to become visible: its bytes broke off, or whoever sends it has thought better of it. Once the end is
    /// being asked for it is too late.
    pub fn give_up(&mut self, why: Error) {
        if matches!(self.state, State::Open(_)) {
            self.failed.get_or_insert(why);
        }
    }

    /// Why it will be aborted or is over, from the moment when that is known.
    #[must_use]
    pub const fn failure(&self) -> Option<&Error> {
        match &self.state {
            State::Ended(Some(Err(error))) => Some(error),
            _ => self.failed.as_ref(),
        }
    }

    /// Ends it for somebody who hears nothing more of it: the question to ask then, if a write is left open. Stripes that
    /// are under way are dropped when they arrive.
    #[must_use]
    pub fn abandon(&mut self) -> Option<ObjectOp> {
        let State::Open(write) = core::mem::replace(&mut self.state, State::Ended(None)) else { return None };
        Some(ObjectOp::Abort { write })
    }
}

#[cfg(test)]
mod tests;
