//! A get: of all of an object, or of a range. Every byte that is handed out is compared.

use std::sync::Arc;

use mesh_core::{
    Answer, Buf, Error, ErrorKind, Outcome, Response,
    meta::ObjectRow,
    stream::{Draw, DrawStep, Place, payload_of},
};

use super::{Desk, Progress, Task, bucket_of, bytes_of, etag, senseless};
use crate::oracle::{Deed, End, Ticket};

const HEAD: u32 = u32::MAX;
const PLAN: u32 = u32::MAX - 1;

/// What [`Draw`] asks. A piece is kept until its turn comes, and compared then.
#[derive(Debug)]
pub struct Get {
    key: Arc<str>,
    /// Two random numbers that make a range; `None`: all.
    range: Option<(u64, u64)>,
    window: usize,
    entry: Option<Ticket>,
    row: Option<Arc<ObjectRow>>,
    draw: Option<Draw>,
    /// What has been read and was not compared yet, by its number: of the draw's window.
    here: Vec<(u32, Buf)>,
    /// Bytes that are still to come.
    left: u64,
    result: Option<Result<(), Error>>,
}

impl Get {
    /// Of this key.
    #[must_use]
    pub const fn new(key: Arc<str>, range: Option<(u64, u64)>, window: usize) -> Self {
        Self { key, range, window, entry: None, row: None, draw: None, here: Vec::new(), left: 0, result: None }
    }

    fn place(&self) -> Place {
        Place::new(bucket_of(&self.key), self.key.clone())
    }

    fn headed(&mut self, outcome: Outcome, desk: &mut Desk<'_>) -> Progress {
        let (end, over) = match &outcome {
            Ok(Response { answer: Answer::Object(row), .. }) => {
                self.accept(row, desk);
                (End::Did(Deed::Read(Some(row.version))), None)
            }
            Ok(_) => {
                desk.violate(senseless("Head", None, &outcome));
                (End::Nothing, Some(Ok(())))
            }
            // A bucket that is gone was empty.
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NoSuchBucket) => {
                (End::Did(Deed::Read(None)), Some(Ok(())))
            }
            Err(error) => (End::Nothing, Some(Err(error.clone()))),
        };
        if let Some(entry) = self.entry {
            desk.oracle.end(entry, end, desk.now);
        }
        over.map_or_else(|| self.pump(desk), Progress::Over)
    }

    fn accept(&mut self, row: &Arc<ObjectRow>, desk: &mut Desk<'_>) {
        self.row = Some(row.clone());
        match desk.oracle.body(row.version, &self.key) {
            Ok(body) => {
                let len: u64 = body.iter().map(|content| content.len).sum();
                let whole = matches!(row.body, mesh_core::meta::Body::Whole(_));
                if len != row.len || (whole && body.first().is_none_or(|content| etag(*content) != row.etag)) {
                    let why = format!("{:?}: {} has {len} bytes, and reads as {row:?}", self.key, row.version);
                    desk.violate(why);
                }
            }
            Err(why) => desk.violate(why),
        }
        let range = match self.range {
            Some((from, count)) if row.len > 0 => {
                let offset = from % row.len;
                offset..offset + 1 + count % (row.len - offset)
            }
            _ => 0..row.len,
        };
        self.left = range.end - range.start;
        match Draw::new(self.place(), row.clone(), range, self.window) {
            Ok(draw) => self.draw = Some(draw),
            Err(error) => desk.violate(format!("{:?}: no range of {row:?}: {error}", self.key)),
        }
    }

    /// Does what the machine wants, until it waits. Every answer is heard, also those that nobody needs any more.
    fn pump(&mut self, desk: &mut Desk<'_>) -> Progress {
        let Some(mut draw) = self.draw.take() else { return Progress::Over(Ok(())) };
        while let Some((number, read)) = draw.read() {
            desk.ask(number, read);
        }
        while let Some(step) = draw.next() {
            match step {
                DrawStep::Plan(plan) => desk.ask(PLAN, plan),
                DrawStep::Hand { number, start, len } => {
                    self.compare(number, start, len, desk);
                    while let Some((number, read)) = draw.read() {
                        desk.ask(number, read);
                    }
                }
                DrawStep::Over(result) => self.result = Some(result),
            }
        }
        let waits = draw.in_flight() > 0;
        self.draw = Some(draw);
        match self.result.take_if(|_| !waits) {
            Some(result) => self.over(result, desk),
            None => Progress::Going,
        }
    }

    fn over(&self, result: Result<(), Error>, desk: &mut Desk<'_>) -> Progress {
        match &result {
            Ok(()) if self.left > 0 => desk.violate(format!("{:?} ends {} bytes too early", self.key, self.left)),
            Err(error) if error.kind() == ErrorKind::Bug => {
                desk.violate(format!("{:?} is not read: {error}", self.key))
            }
            _ => {}
        }
        Progress::Over(result)
    }

    fn compare(&mut self, number: u32, start: u64, len: u32, desk: &mut Desk<'_>) {
        self.left -= u64::from(len);
        let here = self.here.iter().position(|(at, _)| *at == number).map(|at| self.here.swap_remove(at).1);
        let (Some(row), Some(bytes)) = (&self.row, here) else { return };
        let Ok(body) = desk.oracle.body(row.version, &self.key) else { return };
        let wanted = bytes_of(body, start, u64::from(len), desk.contents);
        if wanted[..] != bytes[..] {
            let differs = wanted.iter().zip(bytes.iter()).position(|(a, b)| a != b);
            desk.violate(format!(
                "{:?} {} reads wrong: {len} bytes from {start}, {} came, the first wrong one is {differs:?}",
                self.key,
                row.version,
                bytes.len()
            ));
        }
    }
}

impl Task for Get {
    fn begin(&mut self, desk: &mut Desk<'_>) {
        self.entry = Some(desk.oracle.begin(&self.key, Deed::Read(None), desk.now));
        desk.ask(HEAD, Draw::head(&self.place()));
    }

    fn hear(&mut self, tag: u32, outcome: Outcome, desk: &mut Desk<'_>) -> Progress {
        if tag == HEAD {
            return self.headed(outcome, desk);
        }
        let Some(draw) = &mut self.draw else { return Progress::Over(Ok(())) };
        let answered = outcome.is_ok() && draw.failure().is_none();
        if tag == PLAN {
            draw.planned(outcome);
        } else {
            let read = payload_of(outcome).map(|bytes| {
                let len = bytes.len();
                self.here.push((tag, bytes));
                len
            });
            draw.landed(tag, read);
        }
        // It was answered, and the answer made no sense.
        if let Some(error) = draw.failure().filter(|_| answered) {
            desk.violate(format!("{:?} is not read: {error}", self.key));
        }
        self.pump(desk)
    }

    fn name(&self) -> String {
        format!("get {:?}", self.key)
    }
}
