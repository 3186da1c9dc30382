//! A deed of a program's client: [`Pour`] and [`Draw`] with the program's own bytes.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use mesh_core::{
    Answer, Buf, Error, ErrorKind, Outcome, Response,
    op::{Destination, ObjectOp},
    stream::{Draw, DrawStep, Place, Pour, PourStep, payload_of},
};

use super::{BUCKET, Desk, Progress, Task};
use crate::harness::{Deed, Done, book::Begun};

/// Stripes and pieces at once.
const WINDOW: usize = 2;
const HEAD: u32 = u32::MAX;
const PLAN: u32 = u32::MAX - 1;

/// One deed.
#[derive(Debug)]
pub struct Own {
    /// Whose; none: the harness's own.
    client: Option<usize>,
    deed: Deed,
    begun: Option<Begun>,
    way: Way,
}

/// How it is done.
#[derive(Debug)]
enum Way {
    Waits,
    In { pour: Box<Pour>, sent: usize },
    Out { draw: Box<Draw>, here: BTreeMap<u32, Buf>, bytes: Vec<u8>, over: Option<Result<(), Error>> },
}

impl Own {
    /// Of this client, or of the harness.
    #[must_use]
    pub const fn new(client: Option<usize>, deed: Deed) -> Self {
        Self { client, deed, begun: None, way: Way::Waits }
    }

    fn place(&self) -> Place {
        Place::new(BUCKET, self.deed.object())
    }

    fn over(&self, ended: Result<Done, Error>, desk: &mut Desk<'_>) -> Progress {
        if let (Some(book), Some(begun)) = (desk.book.as_mut(), self.begun) {
            book.end(self.client, (begun, &self.deed), &ended, desk.now);
        }
        Progress::Over(ended.map(|_| ()))
    }

    fn senseless(&self, outcome: &Outcome, desk: &mut Desk<'_>) -> Progress {
        let why = format!("{} was answered by {outcome:?}", self.name());
        desk.violate(why.clone());
        self.over(Err(Error::bug("an answer makes no sense").with("what", why)), desk)
    }

    fn pump(&mut self, desk: &mut Desk<'_>) -> Progress {
        match &mut self.way {
            Way::Waits => Progress::Going,
            Way::In { .. } => self.pump_in(desk),
            Way::Out { .. } => self.pump_out(desk),
        }
    }

    fn pump_in(&mut self, desk: &mut Desk<'_>) -> Progress {
        let (Way::In { pour, sent }, Deed::Put { bytes, .. }) = (&mut self.way, &self.deed) else {
            return Progress::Going;
        };
        let mut asks = VecDeque::new();
        while pour.wants().is_some() && *sent < bytes.len() {
            let len = pour.stripe_bytes().min(bytes.len() - *sent);
            match pour.append(len) {
                Ok(append) => asks.push_back((append, Buf::copy_of(&bytes[*sent..*sent + len]))),
                Err(error) => desk.violate(format!("a stripe of {len} bytes does not go in: {error}")),
            }
            *sent += len;
        }
        desk.asks.extend(asks.into_iter().map(|(op, payload)| (0, op, payload)));
        if *sent == bytes.len() {
            pour.end(format!("{:08x}-{}", mesh_core::wire::crc32c(bytes), bytes.len()), BTreeMap::new());
        }
        match pour.next() {
            Some(PourStep::Ask(op)) => {
                desk.ask(0, op);
                Progress::Going
            }
            Some(PourStep::Over(result)) => self.over(result.map(|_| Done::Put), desk),
            None => Progress::Going,
        }
    }

    fn pump_out(&mut self, desk: &mut Desk<'_>) -> Progress {
        let Way::Out { draw, here, bytes, over } = &mut self.way else { return Progress::Going };
        loop {
            while let Some((number, read)) = draw.read() {
                desk.asks.push((number, read, Buf::empty()));
            }
            match draw.next() {
                Some(DrawStep::Plan(plan)) => desk.asks.push((PLAN, plan, Buf::empty())),
                Some(DrawStep::Hand { number, .. }) => {
                    bytes.extend_from_slice(&here.remove(&number).unwrap_or_default())
                }
                Some(DrawStep::Over(result)) => *over = Some(result),
                None => break,
            }
        }
        // Every answer is heard, also those that nobody needs any more.
        match over.take_if(|_| draw.in_flight() == 0) {
            Some(Ok(())) => {
                let bytes = core::mem::take(bytes);
                self.over(Ok(Done::Got(Some(bytes))), desk)
            }
            Some(Err(error)) => self.over(Err(error), desk),
            None => Progress::Going,
        }
    }

    fn headed(&mut self, outcome: Outcome, desk: &mut Desk<'_>) -> Progress {
        let row = match Draw::headed(outcome) {
            Ok(row) => row,
            Err(error) if error.kind() == ErrorKind::NotFound => return self.over(Ok(Done::Got(None)), desk),
            Err(error) => return self.over(Err(error), desk),
        };
        let len = row.len;
        match Draw::new(self.place(), row, 0..len, WINDOW) {
            Ok(draw) => {
                let draw = Box::new(draw);
                self.way = Way::Out { draw, here: BTreeMap::new(), bytes: Vec::new(), over: None };
                self.pump(desk)
            }
            Err(error) => self.over(Err(error), desk),
        }
    }
}

impl Task for Own {
    fn begin(&mut self, desk: &mut Desk<'_>) {
        let now = desk.now;
        self.begun = desk.book.as_mut().map(|book| book.begin(&self.deed, now));
        let place = self.place();
        match &self.deed {
            Deed::Put { .. } => {
                let destination =
                    Destination::Object { attributes: Default::default(), precondition: Default::default() };
                let (pour, begin) = Pour::begin(place, destination, WINDOW);
                self.way = Way::In { pour: Box::new(pour), sent: 0 };
                desk.ask(0, begin);
            }
            Deed::Get { .. } => desk.ask(HEAD, Draw::head(&place)),
            Deed::Remove { .. } => {
                let (bucket, key): (Arc<str>, Arc<str>) = (place.bucket, place.key);
                desk.ask(0, ObjectOp::Delete { bucket, key, precondition: Default::default() });
            }
        }
    }

    fn hear(&mut self, tag: u32, outcome: Outcome, desk: &mut Desk<'_>) -> Progress {
        match (&mut self.way, &self.deed) {
            (Way::In { pour, .. }, _) => pour.hear(outcome),
            (Way::Out { draw, .. }, _) if tag == PLAN => draw.planned(outcome),
            (Way::Out { draw, here, .. }, _) => {
                let read = payload_of(outcome).map(|bytes| {
                    let len = bytes.len();
                    here.insert(tag, bytes);
                    len
                });
                draw.landed(tag, read);
            }
            (Way::Waits, Deed::Remove { .. }) => {
                return match outcome {
                    Ok(Response { answer: Answer::Done, .. }) => self.over(Ok(Done::Removed), desk),
                    Ok(_) => self.senseless(&outcome, desk),
                    Err(error) => self.over(Err(error), desk),
                };
            }
            (Way::Waits, _) => return self.headed(outcome, desk),
        }
        self.pump(desk)
    }

    fn name(&self) -> String {
        self.deed.to_string()
    }
}
