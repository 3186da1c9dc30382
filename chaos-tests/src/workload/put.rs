//! A put (of an object, or of a part of an upload), and a delete.

use std::{collections::VecDeque, sync::Arc};

use mesh_core::{
    Answer, Buf, Certainty, Error, ErrorKind, Outcome, Response,
    id::WriteId,
    meta::Precondition,
    op::{Destination, ObjectOp},
    stream::{Place, Pour, PourStep},
};

use super::{Desk, Progress, Task, bucket_of, etag, senseless};
use crate::{
    content::Content,
    oracle::{Deed, End, Ticket},
    random::Stream,
};

/// What every question of a put is called: its machine knows which answer is which.
const PUT: u32 = 0;

/// What [`Pour`] asks, with stripes that may be sent in another order than they are numbered in.
#[derive(Debug)]
pub struct Put {
    key: Arc<str>,
    content: Content,
    /// For a part: the upload and its number.
    part: Option<(WriteId, u32)>,
    /// Stripes at once.
    window: usize,
    /// Only if there is no such object.
    pub conditional: bool,
    /// It will change its mind at the end.
    pub aborts: bool,
    shuffle: u64,
    pour: Option<Pour>,
    write: Option<WriteId>,
    /// What is left to be sent.
    stripes: VecDeque<u32>,
    entry: Option<Ticket>,
    finishing: bool,
}

impl Put {
    /// Of an object. `shuffle` decides the order of its stripes.
    #[must_use]
    pub const fn object(key: Arc<str>, content: Content, window: usize, shuffle: u64) -> Self {
        Self {
            key,
            content,
            part: None,
            window,
            conditional: false,
            aborts: false,
            shuffle,
            pour: None,
            write: None,
            stripes: VecDeque::new(),
            entry: None,
            finishing: false,
        }
    }

    /// Of a part.
    #[must_use]
    pub const fn part(key: Arc<str>, upload: WriteId, number: u32, content: Content, window: usize) -> Self {
        let mut put = Self::object(key, content, window, number as u64);
        put.part = Some((upload, number));
        put
    }

    fn begun(&mut self, write: WriteId, stripe_bytes: u32, desk: &mut Desk<'_>) {
        self.write = Some(write);
        let mut order: Vec<u32> = (0..self.content.len.div_ceil(u64::from(stripe_bytes)) as u32).collect();
        let mut dice = Stream::new(self.shuffle, "order", 0);
        if dice.chance(500) {
            for at in 1..order.len() {
                order.swap(at, dice.below(at as u64 + 1) as usize);
            }
        }
        self.stripes = order.into();
        if self.part.is_none()
            && let Err(why) = desk.oracle.expect(write, &self.key, vec![self.content])
        {
            desk.violate(why);
        }
    }

    /// Does what the machine wants, until it waits.
    fn pump(&mut self, desk: &mut Desk<'_>) -> Progress {
        let Some(mut pour) = self.pour.take() else { return Progress::Over(Ok(())) };
        while pour.wants().is_some()
            && let Some(stripe) = self.stripes.pop_front()
        {
            self.append(&mut pour, stripe, desk);
        }
        match self.stripes.is_empty() {
            true if self.aborts => pour.give_up(Error::new(ErrorKind::Cancelled, "it has thought better of it")),
            true => pour.end(etag(self.content), std::collections::BTreeMap::new()),
            false => {}
        }
        let progress = match pour.next() {
            Some(PourStep::Ask(op)) => {
                self.asked(&op, desk);
                desk.ask(PUT, op);
                Progress::Going
            }
            Some(PourStep::Over(Err(error))) if !(self.aborts && error.kind() == ErrorKind::Cancelled) => {
                Progress::Over(Err(error))
            }
            Some(PourStep::Over(_)) => Progress::Over(Ok(())),
            None => Progress::Going,
        };
        self.pour = Some(pour);
        progress
    }

    /// Sends a stripe under its own number, whichever the machine had for it.
    fn append(&self, pour: &mut Pour, stripe: u32, desk: &mut Desk<'_>) {
        let offset = u64::from(stripe) * pour.stripe_bytes() as u64;
        let len = (self.content.len - offset).min(pour.stripe_bytes() as u64) as usize;
        match pour.append(len) {
            Ok(ObjectOp::Append { write, .. }) => {
                let bytes: Buf = desk.contents.bytes(self.content, offset, len);
                desk.asks.push((PUT, ObjectOp::Append { write, stripe }, bytes));
            }
            other => desk.violate(format!("a stripe of {len} bytes goes in as {other:?}")),
        }
    }

    fn asked(&mut self, op: &ObjectOp, desk: &mut Desk<'_>) {
        if let ObjectOp::Finish { write, .. } = op {
            self.finishing = true;
            if self.part.is_none() {
                self.entry = Some(desk.oracle.begin(&self.key, self.deed(*write), desk.now));
            }
        }
    }

    const fn deed(&self, write: WriteId) -> Deed {
        if self.conditional { Deed::Create(write) } else { Deed::Write(Some(write)) }
    }

    fn finished(&self, outcome: &Outcome, desk: &mut Desk<'_>) {
        let write = self.write.unwrap_or_default();
        let end = match outcome {
            Ok(Response { answer: Answer::Committed { version, etag: said }, .. }) => {
                if (self.part.is_none() && *version != write) || *said != etag(self.content) {
                    desk.violate(senseless("Finish", self.write, outcome));
                }
                End::Did(self.deed(write))
            }
            Ok(_) => {
                desk.violate(senseless("Finish", self.write, outcome));
                End::Unknown
            }
            Err(error) if self.conditional && error.kind() == ErrorKind::Precondition => End::Did(Deed::Exists),
            Err(error) if error.certainty() == Certainty::NotProcessed => End::Nothing,
            Err(_) => End::Unknown,
        };
        if let Some(entry) = self.entry {
            desk.oracle.end(entry, end, desk.now);
        }
    }
}

impl Task for Put {
    fn begin(&mut self, desk: &mut Desk<'_>) {
        let destination = match self.part {
            Some((upload, number)) => Destination::Part { upload, number },
            None => Destination::Object {
                attributes: mesh_core::meta::Attributes::default(),
                precondition: Precondition { absent: self.conditional, etag: None },
            },
        };
        let (pour, begin) = Pour::begin(Place::new(bucket_of(&self.key), self.key.clone()), destination, self.window);
        self.pour = Some(pour);
        desk.ask(PUT, begin);
    }

    fn hear(&mut self, _tag: u32, outcome: Outcome, desk: &mut Desk<'_>) -> Progress {
        match &outcome {
            _ if self.finishing => self.finished(&outcome, desk),
            Ok(Response { answer: Answer::Begun { write, stripe_bytes }, .. }) if self.write.is_none() => {
                self.begun(*write, *stripe_bytes, desk);
            }
            Ok(Response { answer: Answer::Done, .. }) | Err(_) => {}
            Ok(_) => desk.violate(senseless("Begin or Append", self.write, &outcome)),
        }
        if let Some(pour) = &mut self.pour {
            pour.hear(outcome);
        }
        self.pump(desk)
    }

    fn name(&self) -> String {
        let Content { number, len } = self.content;
        format!("put {:?} content {number} of {len} bytes", self.key)
    }
}

/// A delete.
#[derive(Debug)]
pub struct Delete {
    key: Arc<str>,
    entry: Option<Ticket>,
}

impl Delete {
    /// Of this key.
    #[must_use]
    pub const fn new(key: Arc<str>) -> Self {
        Self { key, entry: None }
    }
}

impl Task for Delete {
    fn begin(&mut self, desk: &mut Desk<'_>) {
        self.entry = Some(desk.oracle.begin(&self.key, Deed::Write(None), desk.now));
        let precondition = Precondition::default();
        desk.ask(0, ObjectOp::Delete { bucket: bucket_of(&self.key), key: self.key.clone(), precondition });
    }

    fn hear(&mut self, _tag: u32, outcome: Outcome, desk: &mut Desk<'_>) -> Progress {
        let end = match &outcome {
            Ok(_) => End::Did(Deed::Write(None)),
            Err(error) if error.certainty() == Certainty::NotProcessed => End::Nothing,
            Err(_) => End::Unknown,
        };
        if let Some(entry) = self.entry {
            desk.oracle.end(entry, end, desk.now);
        }
        Progress::Over(outcome.map(|_| ()))
    }

    fn name(&self) -> String {
        format!("delete {:?}", self.key)
    }
}
