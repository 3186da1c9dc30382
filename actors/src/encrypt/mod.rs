//! Encrypt: seals stripes on their way down, opens them on their way up.
//!
//! It owns no key and no cipher: it draws the salt and starts the compute work, which resolves the key. Of a read of some
//! bytes it opens only the segments that have them. A stripe without a key passes unchanged, for nothing would tell whether a
//! part of it is what was stored, and so does every other operation. It holds no payload while it waits.

use std::{collections::BTreeMap, sync::Arc};

use mesh_core::{
    Answer, Buf, Cx, Error, Event, Job, Op, Outcome, Request, Response, StorageFunction, Target, WorkOutcome,
    id::{StripeId, Token},
    meta::WrappedKey,
    op::{Binding, Part, StripeOp, StripeTarget},
    port::{ComputeJob, WorkOutput},
    snapshot::{Mark, Snapshot},
    spec::EncryptSpec,
    time::Instant,
};

/// The Encrypt function. See the module's page. It has no settings and no state to carry over.
#[derive(Debug, Default)]
pub struct Encrypt {
    /// What each open request waits for: one thing at a time.
    waits: BTreeMap<Token, Wait>,
}

/// What an open request (`id`) waits for.
#[derive(Debug)]
enum Wait {
    /// The stripe is being sealed; `onward` then goes down with it.
    Sealing { id: Token, onward: Request },
    /// The next stage works; what it gives is opened if it was sealed.
    Calling { id: Token, sealed: Option<Sealed> },
    /// The stripe is being opened.
    Opening { id: Token },
}

/// What opening a stripe needs beside its bytes.
#[derive(Debug)]
struct Sealed {
    key: Arc<WrappedKey>,
    binding: Arc<Binding>,
    stripe: StripeId,
    /// What of it is wanted.
    part: Option<Part>,
}

impl Sealed {
    fn of(target: &StripeTarget, part: Option<Part>) -> Option<Self> {
        let key = target.key.clone()?;
        Some(Self { key, binding: target.binding.clone(), stripe: target.id, part })
    }
}

impl Encrypt {
    /// A new one.
    #[must_use]
    pub fn new(spec: EncryptSpec) -> Self {
        let EncryptSpec {} = spec;
        Self::default()
    }

    fn on_request(&mut self, id: Token, mut request: Request, cx: &mut Cx<'_>) {
        let sealed = match &mut request.op {
            Op::Stripe(op) => match &mut **op {
                StripeOp::Write(target) => {
                    if let Some(sealed) = Sealed::of(target, None) {
                        let plain = core::mem::take(&mut request.payload);
                        return self.seal(id, sealed, plain, request, cx);
                    }
                    None
                }
                StripeOp::Read { target, part, .. } => Sealed::of(target, part.take()),
                StripeOp::Delete { .. } => None,
            },
            _ => None,
        };
        self.call(id, request, sealed, cx);
    }

    fn seal(&mut self, id: Token, sealed: Sealed, plain: Buf, onward: Request, cx: &mut Cx<'_>) {
        let Sealed { key, binding, stripe, part: _ } = sealed;
        let job = ComputeJob::Seal { key, salt: cx.random(), binding, stripe, plain };
        let work = cx.start(Job::Compute(job));
        self.waits.insert(work, Wait::Sealing { id, onward });
    }

    fn call(&mut self, id: Token, request: Request, sealed: Option<Sealed>, cx: &mut Cx<'_>) {
        let call = cx.call(Target::Next, request);
        self.waits.insert(call, Wait::Calling { id, sealed });
    }

    fn on_reply(&mut self, call: Token, outcome: Outcome, cx: &mut Cx<'_>) {
        match self.waits.remove(&call) {
            Some(Wait::Calling { id, sealed: Some(sealed) }) => match outcome {
                Ok(response) => {
                    let Sealed { key, binding, stripe, part } = sealed;
                    let job = ComputeJob::Open { key, binding, stripe, sealed: response.payload, part };
                    let work = cx.start(Job::Compute(job));
                    self.waits.insert(work, Wait::Opening { id });
                }
                Err(error) => cx.reply(id, Err(error)),
            },
            Some(Wait::Calling { id, sealed: None }) => cx.reply(id, outcome),
            other => unreachable!("a reply to a call that was made once: {other:?}"),
        }
    }

    fn on_done(&mut self, work: Token, outcome: WorkOutcome, cx: &mut Cx<'_>) {
        let bytes = outcome.and_then(|output| match output {
            WorkOutput::Bytes(bytes) => Ok(bytes),
            _ => Err(Error::bug("the compute back end answered with something other than bytes")),
        });
        match (self.waits.remove(&work), bytes) {
            (Some(Wait::Sealing { id, mut onward }), Ok(sealed)) => {
                onward.payload = sealed;
                self.call(id, onward, None, cx);
            }
            (Some(Wait::Opening { id }), Ok(plain)) => {
                cx.reply(id, Ok(Response { answer: Answer::Done, payload: plain }));
            }
            (Some(Wait::Sealing { id, .. } | Wait::Opening { id }), Err(error)) => cx.reply(id, Err(error)),
            (other, _) => unreachable!("the end of work that was started once: {other:?}"),
        }
    }
}

impl StorageFunction for Encrypt {
    fn on_event(&mut self, event: Event, cx: &mut Cx<'_>) {
        match event {
            Event::Request { id, request } => self.on_request(id, request, cx),
            Event::Reply { call, outcome } => self.on_reply(call, outcome, cx),
            Event::Done { work, outcome } => self.on_done(work, outcome, cx),
            Event::Wake | Event::Configure(_) => {}
        }
    }

    fn wake_at(&self) -> Option<Instant> {
        None
    }

    /// Every open request waits for exactly one call or piece of work.
    fn in_flight(&self) -> usize {
        self.waits.len()
    }

    /// There is no state: whatever is under way may end where it began.
    fn lingers(&self) -> bool {
        true
    }

    fn snapshot(&mut self, since: Option<Mark>) -> Snapshot {
        Snapshot { since, ..Snapshot::default() }
    }
}

#[cfg(test)]
mod tests;
