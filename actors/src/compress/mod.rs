//! Compress: makes stripes smaller on their way down, where the bucket says so, and what they were on their way up.
//!
//! It stands before Encrypt, for what is encrypted does not shrink. It owns no codec: it starts the compute work, and the
//! stripe says itself, behind its bytes, whether it was compressed ([`ComputeJob::Compress`]). So what is asked for with a
//! stripe is only whether it says anything: that is recorded with the object when it is written, and no read depends on what
//! its bucket says by then. What goes on from here is marked as any other stripe; who stores one that is still marked knows
//! that it has not been here. A stripe that is not to be compressed passes unchanged, and so does every other operation. It
//! holds no payload while it waits.

use std::collections::BTreeMap;

use mesh_core::{
    Answer, Cx, Error, Event, Job, Op, Outcome, Request, Response, StorageFunction, Target, WorkOutcome,
    id::Token,
    meta::Compression,
    op::StripeOp,
    port::{ComputeJob, WorkOutput},
    snapshot::{Mark, Snapshot},
    spec::CompressSpec,
    time::Instant,
};

/// The Compress function. See the module's page. It has no settings and no state to carry over.
#[derive(Debug, Default)]
pub struct Compress {
    /// What each open request waits for: one thing at a time.
    waits: BTreeMap<Token, Wait>,
}

/// What an open request (`id`) waits for.
#[derive(Debug)]
enum Wait {
    /// The stripe is being compressed; `onward` then goes down with it.
    Compressing { id: Token, onward: Request },
    /// The next stage works; what it gives is decompressed if it is `packed`.
    Calling { id: Token, packed: bool },
    /// The stripe is being decompressed.
    Decompressing { id: Token },
}

impl Compress {
    /// A new one.
    #[must_use]
    pub fn new(spec: CompressSpec) -> Self {
        let CompressSpec {} = spec;
        Self::default()
    }

    fn on_request(&mut self, id: Token, mut request: Request, cx: &mut Cx<'_>) {
        let mut packed = false;
        if let Op::Stripe(op) = &mut request.op {
            match &mut **op {
                StripeOp::Write(target) => match core::mem::take(&mut target.compression) {
                    Compression::Off => {}
                    Compression::Auto => {
                        let plain = core::mem::take(&mut request.payload);
                        let work = cx.start(Job::Compute(ComputeJob::Compress { plain }));
                        self.waits.insert(work, Wait::Compressing { id, onward: request });
                        return;
                    }
                },
                StripeOp::Read { target, part, .. } => {
                    packed = core::mem::take(&mut target.compression) != Compression::Off;
                    // What is compressed says nothing before all of it is there.
                    part.take_if(|_| packed);
                }
                StripeOp::Delete { .. } => {}
            }
        }
        self.call(id, request, packed, cx);
    }

    fn call(&mut self, id: Token, request: Request, packed: bool, cx: &mut Cx<'_>) {
        let call = cx.call(Target::Next, request);
        self.waits.insert(call, Wait::Calling { id, packed });
    }

    fn on_reply(&mut self, call: Token, outcome: Outcome, cx: &mut Cx<'_>) {
        match (self.waits.remove(&call), outcome) {
            (Some(Wait::Calling { id, packed: true }), Ok(response)) => {
                let work = cx.start(Job::Compute(ComputeJob::Decompress { packed: response.payload }));
                self.waits.insert(work, Wait::Decompressing { id });
            }
            (Some(Wait::Calling { id, .. }), outcome) => cx.reply(id, outcome),
            (other, _) => unreachable!("a reply to a call that was made once: {other:?}"),
        }
    }

    fn on_done(&mut self, work: Token, outcome: WorkOutcome, cx: &mut Cx<'_>) {
        let bytes = outcome.and_then(|output| match output {
            WorkOutput::Bytes(bytes) => Ok(bytes),
            _ => Err(Error::bug("the compute back end answered with something other than bytes")),
        });
        match (self.waits.remove(&work), bytes) {
            (Some(Wait::Compressing { id, mut onward }), Ok(packed)) => {
                onward.payload = packed;
                self.call(id, onward, false, cx);
            }
            (Some(Wait::Decompressing { id }), Ok(plain)) => {
                cx.reply(id, Ok(Response { answer: Answer::Done, payload: plain }));
            }
            (Some(Wait::Compressing { id, .. } | Wait::Decompressing { id }), Err(error)) => cx.reply(id, Err(error)),
            (other, _) => unreachable!("the end of work that was started once: {other:?}"),
        }
    }
}

impl StorageFunction for Compress {
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
