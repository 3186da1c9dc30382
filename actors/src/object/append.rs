//! Append: stores one stripe, under a new attempt number as often as it takes.

use mesh_core::{
    Answer, Buf, Certainty, Error, ErrorKind, Response,
    id::WriteId,
    op::{StripeOp, StripeTarget},
};

use super::{
    ask::{Unseen, is_retryable, pause},
    reclaim::Doomed,
    task::{Failure, Heard, Question, Retry, Scene, Step, Task},
    writes::{Stored, no_such_write},
};

/// Keeps the payload until it is durable; a clone of it copies nothing.
pub(super) struct Append {
    write: WriteId,
    stripe: u32,
    payload: Buf,
    /// The attempt under way.
    target: Option<StripeTarget>,
    tries: u32,
    unseen: Unseen,
}

impl Append {
    pub(super) fn new(write: WriteId, stripe: u32, payload: Buf) -> Self {
        Self { write, stripe, payload, target: None, tries: 0, unseen: Unseen::default() }
    }

    fn claim(&mut self, scene: &mut Scene<'_, '_>) -> Result<Step, Error> {
        let Scene { caller, desk, cx } = scene;
        let len = self.payload.len();
        self.target = Some(desk.writes.claim(self.write, self.stripe, len, &caller.principal, cx.now())?);
        Ok(self.send())
    }

    fn send(&self) -> Step {
        match &self.target {
            Some(target) => {
                Step::Ask(Question::stripe(StripeOp::Write(target.clone()), self.payload.clone(), Retry::Never))
            }
            None => Step::astray(),
        }
    }

    fn written(&mut self, response: Response, scene: &mut Scene<'_, '_>) -> Step {
        let Some(target) = self.target.take() else { return Step::astray() };
        let Answer::Placed { avoid, shared } = response.answer else {
            let error = Error::bug("a stripe was to be stored, and something else was answered");
            scene.desk.writes.poison(self.write, self.stripe, &error);
            return Step::fail(error);
        };
        let now = scene.cx.now();
        // A claimed payload has at most `stripe_bytes`.
        let len = self.payload.len() as u32;
        let stored = Stored { attempt: target.id.attempt, len, avoid: avoid.clone(), shared };
        match scene.desk.writes.stored(self.write, self.stripe, stored) {
            Ok(replaced) => {
                scene.desk.reclaim.discard(replaced, now);
                Step::answer(Answer::Done)
            }
            Err(error) => {
                // The write was dropped meanwhile.
                scene.desk.reclaim.discard([Doomed::new(target, avoid)], now);
                Step::fail(error)
            }
        }
    }

    fn failed(&mut self, failure: Failure, scene: &mut Scene<'_, '_>) -> Step {
        let error = failure.error;
        let now = scene.cx.now();
        let Some(target) = self.target.take() else { return Step::astray() };
        // Policy refused it before anything was stored: the same attempt goes again. A stream slows down.
        let slow_down = error.kind() == ErrorKind::RateLimited;
        if !slow_down && may_have_left_shards(&error) {
            scene.desk.reclaim.discard([Doomed::new(target.clone(), Vec::new())], now);
        }
        let unseen = self.unseen.again(error.kind(), now);
        let at = unseen.unwrap_or_else(|| now + pause(self.tries, error.certainty()));
        let again = (slow_down || unseen.is_some() || is_retryable(error.kind())) && at < scene.caller.deadline;
        let next = match (again, slow_down) {
            (true, true) => Some(target),
            (true, false) => scene.desk.writes.next_attempt(self.write, self.stripe),
            (false, _) => None,
        };
        let Some(next) = next else {
            scene.desk.writes.poison(self.write, self.stripe, &error);
            return Step::fail(error);
        };
        self.tries += 1;
        self.target = Some(next);
        if at <= now { self.send() } else { Step::Pause(at) }
    }

    /// After a pause: the write may have been dropped meanwhile.
    fn resume(&self, scene: &Scene<'_, '_>) -> Step {
        if scene.desk.writes.is_open(self.write) { self.send() } else { Step::fail(no_such_write(self.write)) }
    }
}

impl Task for Append {
    fn hear(&mut self, heard: Heard, scene: &mut Scene<'_, '_>) -> Step {
        match heard {
            Heard::Begin => self.claim(scene).unwrap_or_else(Step::fail),
            Heard::Answer(Ok(response)) => self.written(response, scene),
            Heard::Answer(Err(failure)) => self.failed(failure, scene),
            Heard::Due => self.resume(scene),
            Heard::Bucket(_) | Heard::Computed(_) | Heard::Granted(_) => Step::astray(),
        }
    }

    fn write(&self) -> Option<WriteId> {
        Some(self.write)
    }
}

/// Whether shards of a failed attempt may be lying somewhere: not if it was turned away on its way or refused.
fn may_have_left_shards(error: &Error) -> bool {
    error.certainty() == Certainty::MaybeProcessed || (300..400).contains(&error.kind().number())
}
