//! A put (of an object, or of a part of an upload), and a delete.

use std::{collections::VecDeque, sync::Arc};

use mesh_core::{
    Answer, Certainty, Error, ErrorKind, Outcome, Response,
    id::WriteId,
    meta::Precondition,
    op::{Destination, ObjectOp},
};

use super::{Desk, Progress, Task, bucket_of, etag, senseless};
use crate::{
    content::Content,
    oracle::{Deed, End, Ticket},
    random::Stream,
};

const BEGIN: u32 = u32::MAX;
const FINISH: u32 = u32::MAX - 1;
const ABORT: u32 = u32::MAX - 2;

/// Begin, stripes (several at once, in any order), and Finish or Abort.
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
    write: Option<WriteId>,
    stripe_bytes: u32,
    stripes: VecDeque<u32>,
    open: usize,
    failed: Option<Error>,
    entry: Option<Ticket>,
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
            write: None,
            stripe_bytes: 0,
            stripes: VecDeque::new(),
            open: 0,
            failed: None,
            entry: None,
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
        (self.write, self.stripe_bytes) = (Some(write), stripe_bytes);
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

    fn pump(&mut self, desk: &mut Desk<'_>) -> Progress {
        let Some(write) = self.write else { return Progress::Over(Ok(())) };
        while self.failed.is_none() && self.open < self.window {
            let Some(stripe) = self.stripes.pop_front() else { break };
            let offset = u64::from(stripe) * u64::from(self.stripe_bytes);
            let len = (self.content.len - offset).min(u64::from(self.stripe_bytes)) as usize;
            let bytes = desk.contents.bytes(self.content, offset, len);
            desk.asks.push((stripe, ObjectOp::Append { write, stripe }, bytes));
            self.open += 1;
        }
        if self.open == 0 {
            if self.failed.is_some() || self.aborts {
                desk.ask(ABORT, ObjectOp::Abort { write });
            } else {
                self.finish(write, desk);
            }
        }
        Progress::Going
    }

    const fn deed(&self, write: WriteId) -> Deed {
        if self.conditional { Deed::Create(write) } else { Deed::Write(Some(write)) }
    }

    fn finish(&mut self, write: WriteId, desk: &mut Desk<'_>) {
        if self.part.is_none() {
            self.entry = Some(desk.oracle.begin(&self.key, self.deed(write), desk.now));
        }
        let checksums = std::collections::BTreeMap::new();
        desk.ask(FINISH, ObjectOp::Finish { write, len: self.content.len, etag: etag(self.content), checksums });
    }

    fn finished(&mut self, outcome: Outcome, desk: &mut Desk<'_>) -> Progress {
        let write = self.write.unwrap_or_default();
        let end = match &outcome {
            Ok(Response { answer: Answer::Committed { version, etag: said }, .. }) => {
                if (self.part.is_none() && *version != write) || *said != etag(self.content) {
                    desk.violate(senseless("Finish", self.write, &outcome));
                }
                End::Did(self.deed(write))
            }
            Ok(_) => {
                desk.violate(senseless("Finish", self.write, &outcome));
                End::Unknown
            }
            Err(error) if self.conditional && error.kind() == ErrorKind::Precondition => End::Did(Deed::Exists),
            Err(error) if error.certainty() == Certainty::NotProcessed => End::Nothing,
            Err(_) => End::Unknown,
        };
        if let Some(entry) = self.entry {
            desk.oracle.end(entry, end, desk.now);
        }
        Progress::Over(outcome.map(|_| ()))
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
        desk.ask(BEGIN, ObjectOp::Begin { bucket: bucket_of(&self.key), key: self.key.clone(), destination });
    }

    fn hear(&mut self, tag: u32, outcome: Outcome, desk: &mut Desk<'_>) -> Progress {
        match (tag, outcome) {
            (BEGIN, Ok(Response { answer: Answer::Begun { write, stripe_bytes }, .. })) => {
                self.begun(write, stripe_bytes, desk);
                self.pump(desk)
            }
            (BEGIN, Err(error)) => Progress::Over(Err(error)),
            (FINISH, outcome) => self.finished(outcome, desk),
            (ABORT, _) => Progress::Over(self.failed.take().map_or(Ok(()), Err)),
            (_, Ok(Response { answer: Answer::Done, .. })) => {
                self.open -= 1;
                self.pump(desk)
            }
            (_, Err(error)) => {
                self.open -= 1;
                self.failed.get_or_insert(error);
                self.pump(desk)
            }
            (_, outcome) => {
                desk.violate(senseless("Begin or Append", self.write, &outcome));
                Progress::Over(Ok(()))
            }
        }
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
