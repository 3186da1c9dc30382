//! Draw: the way of bytes out, from Head to the last piece.

use core::ops::Range;
use std::{collections::VecDeque, sync::Arc};

use super::{Place, bounded, strange};
use crate::{
    effect::Outcome,
    error::{Error, ErrorKind},
    limits::PLAN_PIECES_MAX,
    meta::ObjectRow,
    op::{Answer, ObjectOp, Piece},
};

/// A range of one version of an object. See the [module's page](super).
///
/// Pieces that may be read are taken by [`Self::read`], as long as [`Self::wants`] names one; everything else is said by
/// [`Self::next`], which is to be asked again after each answer.
///
/// | what fails | what it leads to |
/// |---|---|
/// | Plan | no further question; what was read before is handed out; the end |
/// | a Read | no further question; the pieces before it are handed out; the end, where it would have been |
///
/// Nothing that failed is asked again here: the Object function has done that for as long as the request's time allowed.
#[derive(Debug)]
pub struct Draw {
    place: Place,
    object: Arc<ObjectRow>,
    /// Bytes that no plan covers yet.
    unplanned: Range<u64>,
    window: usize,
    planning: bool,
    /// Where the first of `pieces` begins.
    at: u64,
    /// Planned and not asked for: of one page.
    pieces: VecDeque<Piece>,
    /// Asked for and not handed out, in order.
    asked: VecDeque<Asked>,
    /// The number of the next piece that is asked for.
    next: u32,
    in_flight: usize,
    failed: Option<Error>,
    told: bool,
}

#[derive(Debug)]
struct Asked {
    number: u32,
    start: u64,
    len: u32,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    UnderWay,
    Here,
    Failed,
}

/// What a draw wants done.
#[derive(Clone, Debug, PartialEq)]
pub enum DrawStep {
    /// Ask this, and tell the answer by [`Draw::planned`].
    Plan(ObjectOp),
    /// Hand out this piece, which has been read: it follows the one before.
    Hand {
        /// Its number, as [`Draw::read`] gave it.
        number: u32,
        /// Where it begins in the object.
        start: u64,
        /// Bytes.
        len: u32,
    },
    /// It is over: everything was handed out, or nothing more will be.
    Over(Result<(), Error>),
}

impl Draw {
    /// The question that comes first: what there is.
    #[must_use]
    pub fn head(place: &Place) -> ObjectOp {
        ObjectOp::Head { bucket: place.bucket.clone(), key: place.key.clone() }
    }

    /// What there is.
    ///
    /// # Errors
    /// What became of the question; `Bug` if it was answered by something else.
    pub fn headed(outcome: Outcome) -> Result<Arc<ObjectRow>, Error> {
        match outcome?.answer {
            Answer::Object(row) => Ok(row),
            answer => Err(strange("Head", &answer)),
        }
    }

    /// `range` of an object as Head gave it. At most `window` pieces are ahead of the one that is handed out next: 1 to
    /// `STREAM_STRIPES`; what is beyond counts as the nearer of these.
    ///
    /// # Errors
    /// `InvalidRange` if it does not lie inside the object.
    pub fn new(place: Place, object: Arc<ObjectRow>, range: Range<u64>, window: usize) -> Result<Self, Error> {
        if range.start > range.end || range.end > object.len {
            return Err(Error::new(ErrorKind::InvalidRange, "the range lies outside the object")
                .with("range", format_args!("{range:?}"))
                .with("object_len", object.len));
        }
        Ok(Self {
            place,
            object,
            at: range.start,
            unplanned: range,
            window: bounded(window),
            planning: false,
            pieces: VecDeque::new(),
            asked: VecDeque::new(),
            next: 0,
            in_flight: 0,
            failed: None,
            told: false,
        })
    }

    /// The piece that may be read next, if one may be now.
    #[must_use]
    pub fn wants(&self) -> Option<&Piece> {
        let may = self.failed.is_none() && self.asked.len() < self.window;
        self.pieces.front().filter(|_| may)
    }

    /// The question that reads the piece that [`Self::wants`] names, and the piece's number.
    pub fn read(&mut self) -> Option<(u32, ObjectOp)> {
        self.wants()?;
        let piece = self.pieces.pop_front()?;
        let number = self.next;
        self.asked.push_back(Asked { number, start: self.at, len: piece.len, state: State::UnderWay });
        self.at += u64::from(piece.len);
        (self.next, self.in_flight) = (number.wrapping_add(1), self.in_flight + 1);
        let Place { bucket, key } = self.place.clone();
        Some((number, ObjectOp::Read { bucket, key, piece }))
    }

    /// A piece has been read, so many bytes of it; or it has not.
    pub fn landed(&mut self, number: u32, read: Result<usize, Error>) {
        let under_way = |asked: &&mut Asked| asked.number == number && asked.state == State::UnderWay;
        let Some(asked) = self.asked.iter_mut().find(under_way) else {
            self.failed.get_or_insert_with(|| Error::bug("a piece was read that was not asked for"));
            return;
        };
        let whole = |bytes: usize| match bytes == asked.len as usize {
            true => Ok(()),
            false => Err(Error::bug("a piece is not what was planned").with("want", asked.len).with("got", bytes)),
        };
        asked.state = State::Here;
        self.in_flight -= 1;
        if let Err(error) = read.and_then(whole) {
            asked.state = State::Failed;
            self.failed.get_or_insert(error);
        }
    }

    /// The answer to a plan.
    pub fn planned(&mut self, outcome: Outcome) {
        self.planning = false;
        match pieces_of(outcome, self.unplanned.end - self.unplanned.start) {
            Ok((pieces, bytes)) => {
                self.unplanned.start += bytes;
                self.pieces.extend(pieces);
            }
            Err(error) => drop(self.failed.get_or_insert(error)),
        }
    }

    /// What to do next; `None`: nothing but to read pieces, if any are wanted, and to wait for answers.
    #[expect(clippy::should_implement_trait, reason = "it goes on after None, as answers come")]
    pub fn next(&mut self) -> Option<DrawStep> {
        if self.told {
            return None;
        }
        match self.asked.front().map(|asked| asked.state) {
            Some(State::Here) => {
                let Asked { number, start, len, .. } = self.asked.pop_front()?;
                return Some(DrawStep::Hand { number, start, len });
            }
            Some(State::Failed) => return self.over(),
            Some(State::UnderWay) => {}
            None if self.is_at_end() => return self.over(),
            None => {}
        }
        let plans = !self.planning && self.pieces.is_empty() && self.failed.is_none();
        (plans && !self.unplanned.is_empty()).then(|| self.plan())
    }

    /// Nothing is left to hand out, and nothing will come.
    fn is_at_end(&self) -> bool {
        let nothing_left = self.pieces.is_empty() && self.unplanned.is_empty();
        self.failed.is_some() || (nothing_left && !self.planning)
    }

    fn over(&mut self) -> Option<DrawStep> {
        self.told = true;
        Some(DrawStep::Over(self.failed.clone().map_or(Ok(()), Err)))
    }

    fn plan(&mut self) -> DrawStep {
        self.planning = true;
        let Range { start, end } = self.unplanned;
        let Place { bucket, key } = self.place.clone();
        let object = self.object.clone();
        DrawStep::Plan(ObjectOp::Plan { bucket, key, object, offset: start, len: end - start })
    }

    /// Why nothing more will be asked, from the moment when that is known.
    #[must_use]
    pub const fn failure(&self) -> Option<&Error> {
        self.failed.as_ref()
    }

    /// Pieces that were asked for and not handed out yet.
    #[must_use]
    pub fn ahead(&self) -> usize {
        self.asked.len()
    }

    /// Questions that are not answered: whoever must hear all answers waits until there are none.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight + usize::from(self.planning)
    }
}

/// The pieces of a plan of `len` bytes, and how many of them they hold: a page of it, from its beginning.
///
/// # Errors
/// What became of the plan; `Bug` if it does not cover its beginning, or goes beyond its end.
pub fn pieces_of(outcome: Outcome, len: u64) -> Result<(Vec<Piece>, u64), Error> {
    let pieces = match outcome?.answer {
        Answer::Pieces(pieces) => pieces,
        answer => return Err(strange("Plan", &answer)),
    };
    let bytes: u64 = pieces.iter().map(|piece| u64::from(piece.len)).sum();
    let good = pieces.len() <= PLAN_PIECES_MAX && pieces.iter().all(|piece| piece.len > 0);
    if bytes == 0 || bytes > len || !good {
        return Err(Error::bug("a plan does not cover the beginning of its range")
            .with("pieces", pieces.len())
            .with("bytes", bytes)
            .with("range", len));
    }
    Ok((pieces, bytes))
}

#[cfg(test)]
mod tests;
