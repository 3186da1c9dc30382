//! A get: of all of an object, or of a range. Every byte that comes back is compared.

use std::{collections::VecDeque, sync::Arc};

use mesh_core::{
    Answer, Error, ErrorKind, Outcome, Response,
    meta::ObjectRow,
    op::{ObjectOp, Piece},
};

use super::{Desk, Progress, Task, bucket_of, bytes_of, etag, senseless};
use crate::oracle::{Deed, End, Ticket};

const HEAD: u32 = u32::MAX;
const PLAN: u32 = u32::MAX - 1;

/// Head, Plan page by page, and pieces (several at once).
#[derive(Debug)]
pub struct Get {
    key: Arc<str>,
    /// Two random numbers that make a range; `None`: all.
    range: Option<(u64, u64)>,
    window: usize,
    entry: Option<Ticket>,
    row: Option<Arc<ObjectRow>>,
    offset: u64,
    len: u64,
    /// Bytes that plans have covered.
    planned: u64,
    planning: bool,
    pieces: VecDeque<(u64, Piece)>,
    /// Where each piece that was asked for begins in the object, and its length.
    asked: Vec<(u64, u32)>,
    open: usize,
    failed: Option<Error>,
}

impl Get {
    /// Of this key.
    #[must_use]
    pub const fn new(key: Arc<str>, range: Option<(u64, u64)>, window: usize) -> Self {
        Self {
            key,
            range,
            window,
            entry: None,
            row: None,
            offset: 0,
            len: 0,
            planned: 0,
            planning: false,
            pieces: VecDeque::new(),
            asked: Vec::new(),
            open: 0,
            failed: None,
        }
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
        (self.offset, self.len) = match self.range {
            Some((from, count)) if row.len > 0 => {
                let offset = from % row.len;
                (offset, 1 + count % (row.len - offset))
            }
            _ => (0, row.len),
        };
    }

    fn pump(&mut self, desk: &mut Desk<'_>) -> Progress {
        let Some(row) = self.row.clone() else { return Progress::Over(Ok(())) };
        while self.failed.is_none() && self.open < self.window {
            let Some((start, piece)) = self.pieces.pop_front() else { break };
            self.asked.push((start, piece.len));
            let op = ObjectOp::Read { bucket: bucket_of(&self.key), key: self.key.clone(), piece };
            desk.ask(self.asked.len() as u32 - 1, op);
            self.open += 1;
        }
        if self.failed.is_none() && self.pieces.is_empty() && self.planned < self.len && !self.planning {
            self.planning = true;
            let (offset, len) = (self.offset + self.planned, self.len - self.planned);
            let op = ObjectOp::Plan { bucket: bucket_of(&self.key), key: self.key.clone(), object: row, offset, len };
            desk.ask(PLAN, op);
        }
        if self.open == 0 && !self.planning {
            return Progress::Over(self.failed.take().map_or(Ok(()), Err));
        }
        Progress::Going
    }

    fn planned(&mut self, outcome: Outcome, desk: &mut Desk<'_>) -> Progress {
        self.planning = false;
        match outcome {
            Ok(Response { answer: Answer::Pieces(pieces), .. }) => {
                if pieces.is_empty() || pieces.iter().any(|piece| piece.len == 0) {
                    desk.violate(format!("a plan of {:?} without bytes: {pieces:?}", self.key));
                }
                for piece in pieces {
                    let start = self.offset + self.planned;
                    self.planned += u64::from(piece.len);
                    self.pieces.push_back((start, piece));
                }
                if self.planned > self.len {
                    desk.violate(format!("a plan of {:?} covers {} bytes of {}", self.key, self.planned, self.len));
                }
            }
            Ok(response) => desk.violate(senseless("Plan", None, &Ok(response))),
            Err(error) => {
                self.failed.get_or_insert(error);
            }
        }
        self.pump(desk)
    }

    fn compare(&mut self, tag: u32, response: &Response, desk: &mut Desk<'_>) {
        let (Some(row), Some((start, len))) = (&self.row, self.asked.get(tag as usize)) else { return };
        let Ok(body) = desk.oracle.body(row.version, &self.key) else { return };
        let wanted = bytes_of(body, *start, u64::from(*len), desk.contents);
        if wanted[..] != response.payload[..] {
            let differs = wanted.iter().zip(response.payload.iter()).position(|(a, b)| a != b);
            desk.violate(format!(
                "{:?} {} reads wrong: {} bytes from {start}, {} came, the first wrong one is {differs:?}",
                self.key,
                row.version,
                len,
                response.payload.len()
            ));
        }
    }
}

impl Task for Get {
    fn begin(&mut self, desk: &mut Desk<'_>) {
        self.entry = Some(desk.oracle.begin(&self.key, Deed::Read(None), desk.now));
        desk.ask(HEAD, ObjectOp::Head { bucket: bucket_of(&self.key), key: self.key.clone() });
    }

    fn hear(&mut self, tag: u32, outcome: Outcome, desk: &mut Desk<'_>) -> Progress {
        match tag {
            HEAD => self.headed(outcome, desk),
            PLAN => self.planned(outcome, desk),
            _ => {
                self.open -= 1;
                match outcome {
                    Ok(response) => self.compare(tag, &response, desk),
                    Err(error) => {
                        self.failed.get_or_insert(error);
                    }
                }
                self.pump(desk)
            }
        }
    }

    fn name(&self) -> String {
        format!("get {:?}", self.key)
    }
}
