//! Clients and their gateways: what a front end asks of Object, in the order in which it asks. A client does one thing
//! at a time; what it learns goes to the oracle.

use std::sync::Arc;

use mesh_core::{
    Buf, Error, Outcome,
    id::{NodeId, WriteId},
    op::ObjectOp,
};

use crate::{
    content::{Content, Contents},
    harness::book::Book,
    oracle::Oracle,
    random::Stream,
    swarm::Swarm,
};

mod bucket;
mod get;
mod own;
mod put;
mod upload;

pub use bucket::Bucket;
pub use get::Get;
pub use own::Own;
pub use put::{Delete, Put};
pub use upload::Upload;

/// The bucket that is always there.
pub const BUCKET: &str = "bucket";
/// Buckets that come and go, each with one key.
pub const FLEETING: [&str; 3] = ["fleeting-1", "fleeting-2", "fleeting-3"];

/// The bucket of a key: a fleeting one's only key has its name.
#[must_use]
pub fn bucket_of(key: &str) -> Arc<str> {
    FLEETING.iter().find(|bucket| **bucket == key).copied().unwrap_or(BUCKET).into()
}

/// What a task works with.
pub struct Desk<'a> {
    /// What it learns goes here.
    pub oracle: &'a mut Oracle,
    /// Where bytes come from.
    pub contents: &'a mut Contents,
    /// What clients of a program do and see, if one is run.
    pub(crate) book: Option<&'a mut Book>,
    /// The world's clock.
    pub now: u64,
    /// What it asks, with what it calls the question.
    pub asks: Vec<(u32, ObjectOp, Buf)>,
    /// What is wrong.
    pub violation: Option<String>,
}

impl core::fmt::Debug for Desk<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Desk at {}, {} asks", self.now, self.asks.len())
    }
}

impl Desk<'_> {
    fn ask(&mut self, tag: u32, op: ObjectOp) {
        self.asks.push((tag, op, Buf::empty()));
    }

    fn violate(&mut self, why: String) {
        self.violation.get_or_insert(why);
    }
}

/// How far a task is.
#[derive(Debug)]
pub enum Progress {
    /// It waits for answers.
    Going,
    /// It is over, well or with an error.
    Over(Result<(), Error>),
}

/// Something that takes more than one question.
pub trait Task {
    /// Begins.
    fn begin(&mut self, desk: &mut Desk<'_>);

    /// Hears the answer to what it called `tag`.
    fn hear(&mut self, tag: u32, outcome: Outcome, desk: &mut Desk<'_>) -> Progress;

    /// For logs.
    fn name(&self) -> String;
}

/// One client.
pub struct Client {
    stream: Stream,
    /// The ingress that it goes to.
    pub home: NodeId,
    /// It is the so-manieth of a program's.
    own: Option<usize>,
    /// What it does now.
    pub task: Option<Box<dyn Task>>,
}

impl core::fmt::Debug for Client {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Client at {}: {:?}", self.home, self.task.as_ref().map(|task| task.name()))
    }
}

impl Client {
    /// The `index`-th client of a seed.
    #[must_use]
    pub fn new(seed: u64, index: u64, swarm: &Swarm) -> Self {
        let mut stream = Stream::new(seed, "client", index);
        let home = NodeId(1 + stream.below(swarm.nodes));
        Self { stream, home, own: None, task: None }
    }

    /// The `index`-th client of the program that a seed runs.
    #[must_use]
    pub fn own(seed: u64, index: usize, swarm: &Swarm) -> Self {
        let mut stream = Stream::new(seed, "own client", index as u64);
        let home = NodeId(1 + stream.below(swarm.nodes));
        Self { stream, home, own: Some(index), task: None }
    }

    /// How long it waits before it does something next.
    pub fn think(&mut self, swarm: &Swarm) -> core::time::Duration {
        self.stream.span(&(core::time::Duration::ZERO..swarm.think))
    }

    /// How long its requests may take.
    pub fn patience(&mut self) -> core::time::Duration {
        let seconds = self.stream.pick(&[1, 5, 30, 30]).copied().unwrap_or(30);
        core::time::Duration::from_secs(seconds)
    }

    /// Goes to another ingress, among these.
    pub fn move_on(&mut self, nodes: &[NodeId]) {
        if let Some(home) = self.stream.pick(nodes) {
            self.home = *home;
        }
    }

    fn key(&mut self, swarm: &Swarm, oracle: &Oracle) -> Arc<str> {
        let number = self.stream.below(swarm.keys);
        let name = |turn: usize| format!("folder {}/é+%{number}.{turn}", number % 3);
        // Long histories are slow to check.
        let turn = (0..).find(|turn| oracle.operations(&name(*turn)) < HISTORY_MAX).unwrap_or(0);
        name(turn).into()
    }

    fn content(&mut self, swarm: &Swarm, contents: &mut Contents) -> Content {
        let stripe = u64::from(swarm.stripe_bytes);
        let len = match self.stream.below(8) {
            0 => 0,
            1 => self.stream.within(1..64),
            2 => stripe * self.stream.within(1..swarm.stripes_max + 1),
            3 => stripe * self.stream.within(1..swarm.stripes_max + 1) + 1,
            _ => self.stream.within(1..stripe * swarm.stripes_max),
        };
        contents.create(len)
    }

    /// Something to do; none: it has done everything.
    pub fn choose(&mut self, swarm: &Swarm, desk: &mut Desk<'_>) -> Option<Box<dyn Task>> {
        match (self.own, desk.book.as_mut()) {
            (Some(own), Some(book)) => {
                let deed = book.next(own, &mut self.stream)?;
                Some(Box::new(Own::new(Some(own), deed)))
            }
            _ => Some(self.choose_any(swarm, desk)),
        }
    }

    fn choose_any(&mut self, swarm: &Swarm, desk: &mut Desk<'_>) -> Box<dyn Task> {
        if self.stream.chance(FLEETING_PER_MILLE)
            && let Some(task) = self.choose_fleeting(swarm, desk)
        {
            return task;
        }
        let key = self.key(swarm, desk.oracle);
        let dice = self.stream.below(100);
        let window = 1 + self.stream.below(4) as usize;
        match dice {
            0..40 => {
                let content = self.content(swarm, desk.contents);
                let mut put = Put::object(key, content, window, self.stream.bits());
                put.conditional = self.stream.chance(150);
                put.aborts = self.stream.chance(100);
                Box::new(put)
            }
            40..80 => {
                let range = self.stream.chance(500).then(|| (self.stream.bits(), self.stream.bits()));
                Box::new(Get::new(key, range, window))
            }
            80..90 => Box::new(Delete::new(key)),
            _ => {
                let parts =
                    (0..=u32::from(self.stream.chance(300))).map(|_| self.content(swarm, desk.contents)).collect();
                Box::new(Upload::new(key, parts, window, self.stream.chance(200)))
            }
        }
    }
}

impl Client {
    /// Something to do with a bucket that comes and goes.
    fn choose_fleeting(&mut self, swarm: &Swarm, desk: &mut Desk<'_>) -> Option<Box<dyn Task>> {
        let key: Arc<str> = (*self.stream.pick(&FLEETING)?).into();
        let dice = self.stream.below(100);
        if desk.oracle.operations(&key) >= HISTORY_MAX {
            return None;
        }
        Some(match dice {
            0..25 => Box::new(Bucket::new(key, false)),
            25..55 => Box::new(Bucket::new(key, true)),
            55..75 => {
                let content = self.content(swarm, desk.contents);
                Box::new(Put::object(key, content, 1, self.stream.bits()))
            }
            75..85 => Box::new(Get::new(key, None, 1)),
            _ => Box::new(Delete::new(key)),
        })
    }
}

/// The ETag that a front end would have computed.
#[must_use]
pub fn etag(content: Content) -> String {
    format!("{:032x}", content.number)
}

/// What a body says about a version, made of these contents.
fn bytes_of(body: &[Content], offset: u64, len: u64, contents: &Contents) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(usize::try_from(len).unwrap_or(0));
    let (mut start, end) = (0, offset + len);
    for content in body {
        let (from, to) = (offset.max(start), end.min(start + content.len));
        if from < to {
            bytes.extend_from_slice(&contents.bytes(*content, from - start, (to - from) as usize));
        }
        start += content.len;
    }
    bytes
}

/// A reply that makes no sense.
fn senseless(what: &str, version: Option<WriteId>, outcome: &Outcome) -> String {
    format!("{what} of {version:?} was answered by {outcome:?}")
}

/// Of a thousand things that a client does, those about buckets that come and go.
const FLEETING_PER_MILLE: u32 = 150;
/// Operations on one key after which another takes its place.
const HISTORY_MAX: usize = 40;
