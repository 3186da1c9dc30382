//! Small functions with one habit each. What a toy replies depends on its request alone, never on the order in which
//! requests, answers and ends of work reach it: so replies must not depend on how a chain is cut.

use std::{collections::BTreeMap, time::Duration};

use super::*;
use crate::{
    effect::{Job, Outcome, Request, Response, WorkOutcome},
    error::{Certainty, Error, ErrorKind},
    id::GroupId,
    meta::Query,
    op::{Answer, Op},
    port::{ComputeJob, WorkOutput},
    topology::Code,
};

/// What a toy does with a request, beside adding its tag to every payload that passes, down and up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Habit {
    /// Asks the next.
    Pass,
    /// Asks the next twice, in random order; answers when both have answered.
    Fan,
    /// Answers some requests without asking.
    Turn,
    /// Answers at once, and asks all the same.
    Hasty,
    /// Has work done first.
    Work,
    /// Asks the metadata first.
    Ask,
    /// Waits a while first.
    Sleep,
    /// Refuses some requests.
    Flake,
    /// Asks again, later, if the answer says that nothing happened.
    Retry,
}

impl Habit {
    pub(super) const ALL: [Self; 9] =
        [Self::Pass, Self::Fan, Self::Turn, Self::Hasty, Self::Work, Self::Ask, Self::Sleep, Self::Flake, Self::Retry];
}

/// See the module's page.
pub(super) struct Toy {
    habit: Habit,
    tag: u8,
    /// Requests seen: the state that a snapshot carries.
    pub(super) seen: u64,
    held: BTreeMap<Token, Held>,
    /// Calls and work under way: for which request, and which of its two answers.
    waiting: BTreeMap<Token, (Token, usize)>,
}

/// A request that is not finished.
struct Held {
    request: Request,
    answers: [Option<Outcome>; 2],
    attempt: u8,
    call_at: Option<Instant>,
}

impl Toy {
    pub(super) fn new(habit: Habit, tag: u8) -> Self {
        Self { habit, tag, seen: 0, held: BTreeMap::new(), waiting: BTreeMap::new() }
    }

    pub(super) fn boxed(habit: Habit, tag: u8) -> Box<dyn StorageFunction> {
        Box::new(Self::new(habit, tag))
    }

    fn call(&mut self, id: Token, slot: usize, to: Target, extra: &[u8], cx: &mut Cx<'_>) {
        let request = &self.held[&id].request;
        let onward = request.onward(request.op.clone(), joined(&[&request.payload, &[self.tag], extra]));
        let call = cx.call(to, onward);
        self.waiting.insert(call, (id, slot));
    }

    fn finish(&mut self, id: Token, outcome: Outcome, cx: &mut Cx<'_>) {
        self.held.remove(&id);
        cx.reply(id, outcome.map(|response| self.tagged(response)));
    }

    fn tagged(&self, response: Response) -> Response {
        Response { payload: joined(&[&response.payload, &[self.tag]]), ..response }
    }

    fn begin(&mut self, id: Token, request: Request, cx: &mut Cx<'_>) {
        self.seen += 1;
        let (payload, digest) = (request.payload.clone(), digest(&request.payload));
        self.held.insert(id, Held { request, answers: [None, None], attempt: 0, call_at: None });
        match self.habit {
            Habit::Flake if digest.is_multiple_of(3) => self.finish(id, Err(refusal("flake")), cx),
            Habit::Turn if digest.is_multiple_of(3) => self.finish(id, Ok(done(payload)), cx),
            Habit::Pass | Habit::Turn | Habit::Flake | Habit::Retry => self.call(id, 1, Target::Next, &[], cx),
            Habit::Fan => {
                let first = usize::from(cx.random::<1>()[0] & 1);
                for slot in [first, 1 - first] {
                    self.call(id, slot, Target::Next, &[slot as u8], cx);
                }
            }
            Habit::Hasty => {
                cx.reply(id, Ok(self.tagged(done(payload))));
                self.call(id, 1, Target::Next, &[], cx);
            }
            Habit::Work => {
                let job = ComputeJob::Encode { code: CODE, bytes: joined(&[&payload, &[self.tag]]) };
                let work = cx.start(Job::Compute(job));
                self.waiting.insert(work, (id, 0));
            }
            Habit::Ask => self.call(id, 0, Target::Metadata, &[], cx),
            Habit::Sleep => self.postpone(id, cx),
        }
    }

    fn postpone(&mut self, id: Token, cx: &Cx<'_>) {
        if let Some(held) = self.held.get_mut(&id) {
            held.call_at = Some(cx.now() + PAUSE);
        }
    }

    fn answered(&mut self, id: Token, slot: usize, outcome: Outcome, cx: &mut Cx<'_>) {
        let held = self.held.get_mut(&id).expect("an answer is for a request that is held");
        match (self.habit, slot, outcome) {
            (Habit::Hasty, ..) => {
                self.held.remove(&id);
            }
            (Habit::Fan, slot, outcome) => {
                held.answers[slot] = Some(outcome);
                if let [Some(left), Some(right)] = held.answers.clone() {
                    let both = left.and_then(|left| Ok(done(joined(&[&left.payload, &right?.payload]))));
                    self.finish(id, both, cx);
                }
            }
            (Habit::Retry, _, Err(error)) if error.certainty() == Certainty::NotProcessed && held.attempt < 2 => {
                held.attempt += 1;
                self.postpone(id, cx);
            }
            (Habit::Ask, 0, Ok(response)) => self.call(id, 1, Target::Next, &response.payload, cx),
            (_, _, outcome) => self.finish(id, outcome, cx),
        }
    }

    fn worked(&mut self, id: Token, outcome: WorkOutcome, cx: &mut Cx<'_>) {
        match outcome {
            Ok(WorkOutput::Bytes(bytes)) => self.call(id, 1, Target::Next, &bytes, cx),
            Ok(other) => panic!("no toy asked for {other:?}"),
            Err(error) => self.finish(id, Err(error), cx),
        }
    }
}

impl StorageFunction for Toy {
    fn on_event(&mut self, event: Event, cx: &mut Cx<'_>) {
        match event {
            Event::Request { id, request } => self.begin(id, request, cx),
            Event::Reply { call, outcome } => {
                let (id, slot) = self.waiting.remove(&call).expect("an answer is of a call");
                self.answered(id, slot, outcome, cx);
            }
            Event::Done { work, outcome } => {
                let (id, _) = self.waiting.remove(&work).expect("an end is of work");
                self.worked(id, outcome, cx);
            }
            Event::Wake => {
                let now = cx.now();
                let due = self.held.iter_mut().filter(|(_, held)| held.call_at.is_some_and(|at| at <= now));
                let due: Vec<_> = due.map(|(id, held)| (held.call_at.take(), *id, held.attempt)).collect();
                assert!(!due.is_empty(), "woken for nothing");
                for (_, id, attempt) in due {
                    self.call(id, 1, Target::Next, &[attempt], cx);
                }
            }
            Event::Configure(_) => {}
        }
    }

    fn wake_at(&self) -> Option<Instant> {
        self.held.values().filter_map(|held| held.call_at).min()
    }

    fn in_flight(&self) -> usize {
        self.held.len()
    }

    fn snapshot(&mut self, since: Option<Mark>) -> Snapshot {
        let count = (b"seen".to_vec(), Some(self.seen.to_le_bytes().to_vec()));
        let changed = since.is_none_or(|mark| mark < Mark(self.seen));
        let entries = if changed { vec![count] } else { Vec::new() };
        Snapshot { version: 1, mark: Mark(self.seen), since, entries, ..Snapshot::default() }
    }

    fn restore(&mut self, snapshot: &Snapshot) -> Result<(), Error> {
        for (_, value) in &snapshot.entries {
            let bytes = value.as_deref().and_then(|value| value.try_into().ok());
            self.seen = u64::from_le_bytes(bytes.ok_or_else(|| Error::invalid("a count of 8 bytes"))?);
        }
        Ok(())
    }
}

/// A request that toys understand.
pub(super) fn request(bytes: &[u8]) -> Request {
    let op = Op::Query { group: GroupId(1), query: Arc::new(Query::Control) };
    Request { payload: Buf::copy_of(bytes), ..Request::system(op, Instant::NEVER) }
}

/// A good answer with these bytes.
pub(super) fn done(payload: Buf) -> Response {
    Response { answer: Answer::Done, payload }
}

/// An error after which one may ask again.
pub(super) fn refusal(why: &'static str) -> Error {
    Error::new(ErrorKind::Overloaded, why)
}

/// FNV-1a: a toy decides by what is in the payload.
pub(super) fn digest(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)) >> 7
}

/// The parts, one after another.
pub(super) fn joined(parts: &[&[u8]]) -> Buf {
    Buf::copy_of(&parts.concat())
}

/// The code that [`Habit::Work`] names in its job.
pub(super) const CODE: Code = Code { data: 2, parity: 1 };

const PAUSE: Duration = Duration::from_millis(10);
