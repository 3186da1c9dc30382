//! Plan and Read: which pieces hold a range, and the bytes of one.

use std::sync::Arc;

use mesh_core::{
    Answer, Buf, Error, ErrorKind, Response,
    id::{StripeId, WriteId},
    limits::{LIST_KEYS_MAX, PLAN_PIECES_MAX},
    meta::{Body, BucketRef, Extent, MetaAnswer, ObjectRow, PartRow, Query},
    op::{Binding, Part, Piece, StripeOp, StripeTarget},
    spec::Encryption,
};

use super::{
    check,
    task::{self, Heard, Place, Question, Retry, Scene, Step, Task},
    writes::stripe_len,
};

/// The pieces of a range: at once for an object of one write, else a page of its parts is asked for.
pub(super) struct Plan {
    place: Place,
    object: Arc<ObjectRow>,
    offset: u64,
    len: u64,
}

impl Plan {
    pub(super) fn new(
        bucket: Arc<str>,
        key: Arc<str>,
        object: Arc<ObjectRow>,
        offset: u64,
        len: u64,
    ) -> Result<Self, Error> {
        check::key(&key)?;
        if offset.checked_add(len).is_none_or(|end| end > object.len) {
            return Err(Error::new(ErrorKind::InvalidRange, "the range lies outside the object")
                .with("offset", offset)
                .with("len", len)
                .with("object_len", object.len));
        }
        Ok(Self { place: Place::new(bucket), object, offset, len })
    }

    fn begin(&self) -> Result<Step, Error> {
        match &self.object.body {
            _ if self.len == 0 => Ok(Step::answer(Answer::Pieces(Vec::new()))),
            Body::Whole(extent) if extent.len == self.object.len => {
                let mut pieces = Vec::new();
                cut(&mut pieces, &Arc::new(extent.clone()), self.offset, self.len);
                Ok(Step::answer(Answer::Pieces(pieces)))
            }
            Body::Whole(_) => Err(Error::invalid("the object and its extent are of different lengths")),
            Body::Parts { .. } => Ok(self.place.find()),
        }
    }

    fn question(&self, bucket: BucketRef) -> Result<Step, Error> {
        let Body::Parts { upload, .. } = self.object.body else {
            return Err(Error::bug("the parts of an object without parts"));
        };
        let group = bucket.group;
        let limit = PLAN_PIECES_MAX as u32;
        Ok(Step::Ask(Question::query(group, Query::Extents { bucket, upload, offset: self.offset, limit })))
    }

    /// Pieces from parts that follow each other without a gap.
    fn pieces(&self, parts: &[Arc<PartRow>]) -> Result<Vec<Piece>, Error> {
        let end = self.offset + self.len;
        let mut at = self.offset;
        let mut pieces = Vec::new();
        for part in parts {
            if at == end || pieces.len() >= PLAN_PIECES_MAX {
                break;
            }
            let part_end = part.offset.saturating_add(part.extent.len);
            if part.extent.len == 0 || part_end <= at {
                continue;
            }
            if part.offset > at {
                break;
            }
            let wanted = part_end.min(end) - at;
            at += cut(&mut pieces, &Arc::new(part.extent.clone()), at - part.offset, wanted);
        }
        if pieces.is_empty() {
            return Err(Error::new(ErrorKind::Corrupt, "the parts of an object do not hold its bytes")
                .with("version", self.object.version)
                .with("offset", at));
        }
        Ok(pieces)
    }
}

/// Adds the pieces of a range inside one extent, up to `PLAN_PIECES_MAX` in all. Gives how many bytes they hold.
fn cut(pieces: &mut Vec<Piece>, extent: &Arc<Extent>, offset: u64, len: u64) -> u64 {
    let stripe_bytes = u64::from(extent.stripe_bytes.max(1));
    let mut held = 0;
    while held < len && pieces.len() < PLAN_PIECES_MAX {
        let at = offset + held;
        let start = at % stripe_bytes;
        let piece_len = (stripe_bytes - start).min(len - held);
        pieces.push(Piece {
            extent: extent.clone(),
            // Stripes of an extent are counted in 32 bits; both others are at most `stripe_bytes`.
            stripe: (at / stripe_bytes) as u32,
            start: start as u32,
            len: piece_len as u32,
        });
        held += piece_len;
    }
    held
}

impl Task for Plan {
    fn hear(&mut self, heard: Heard, scene: &mut Scene<'_, '_>) -> Step {
        let step = match heard {
            Heard::Begin => self.begin(),
            Heard::Bucket(row) => self.place.found(row).and_then(|bucket| self.question(bucket)),
            Heard::Answer(Ok(response)) => task::meta(response).and_then(|answer| match &*answer {
                MetaAnswer::Parts(parts, _) => Ok(Step::answer(Answer::Pieces(self.pieces(parts)?))),
                other => Err(task::unexpected("parts", other)),
            }),
            Heard::Answer(Err(failure)) => {
                self.place.look_again(&failure, scene.desk).ok_or_else(|| Error::from(failure))
            }
            Heard::Computed(_) | Heard::Due | Heard::Granted(_) => Ok(Step::astray()),
        };
        step.unwrap_or_else(Step::fail)
    }
}

/// The bytes of one piece. If they are lost, or not as the caller said, the manifest is asked once more: a reader may have
/// been overtaken by a delete or another write, and then nothing is lost; or the shards have been moved, and then they are
/// where it says; or the caller does not know all that it says.
pub(super) struct Read {
    place: Place,
    key: Arc<str>,
    piece: Piece,
    doubt: Option<Doubt>,
}

/// A stripe that is lost or damaged, unless nothing refers to it any more or it was asked for wrongly.
struct Doubt {
    lost: Error,
    /// The upload whose parts are being looked through, and from which byte of the object on.
    parts: Option<(WriteId, u64)>,
}

impl Read {
    pub(super) fn new(bucket: Arc<str>, key: Arc<str>, piece: Piece) -> Result<Self, Error> {
        check::key(&key)?;
        let inside = stripe_len(&piece.extent, piece.stripe);
        if piece.len == 0 || piece.start.checked_add(piece.len).is_none_or(|end| end > inside) {
            return Err(Error::new(ErrorKind::InvalidRange, "the piece lies outside its stripe")
                .with("start", piece.start)
                .with("len", piece.len)
                .with("stripe_len", inside));
        }
        Ok(Self { place: Place::new(bucket), key, piece, doubt: None })
    }

    fn question(&self, bucket: BucketRef, scene: &Scene<'_, '_>) -> Result<Step, Error> {
        let extent = &self.piece.extent;
        if extent.key.is_none() && scene.desk.encryption(bucket.tenant)? != Encryption::None {
            // A piece comes from the caller. With a key, what opens is the tenant's own; without one, nothing is
            // checked below this line.
            return Err(Error::new(ErrorKind::Denied, "the data of this tenant are encrypted, the piece is not")
                .with("principal", scene.caller.principal.name())
                .with("bucket", &bucket.name));
        }
        let run = extent.run_of(self.piece.stripe);
        let attempt = run.map_or(0, |run| run.attempt);
        let target = StripeTarget {
            id: StripeId { write: extent.write, stripe: self.piece.stripe, attempt },
            layout: extent.layout,
            binding: Arc::new(Binding {
                tenant: bucket.tenant,
                bucket: bucket.id,
                bucket_name: bucket.name,
                object: self.key.clone(),
            }),
            key: extent.key.clone(),
            compression: extent.compression,
            code: extent.code,
        };
        let avoid = run.map_or_else(Vec::new, |run| run.avoid.clone());
        let Piece { start, len, .. } = self.piece;
        let part = Part { start, len, of: stripe_len(extent, self.piece.stripe) };
        let part = Some(part).filter(|part| part.len < part.of);
        Ok(Step::Ask(Question::stripe(StripeOp::Read { target, avoid, part }, Buf::empty(), Retry::Patient)))
    }

    /// Asks whether the object still is what the piece is of.
    fn doubt(&mut self, lost: Error) -> Result<Step, Error> {
        let bucket = self.place.bucket()?.clone();
        self.doubt = Some(Doubt { lost, parts: None });
        Ok(Step::Ask(Question::query(bucket.group, Query::Object { bucket, key: self.key.clone() })))
    }

    /// Goes on looking for the piece's extent in what refers to it.
    fn look(&mut self, answer: &MetaAnswer, scene: &Scene<'_, '_>) -> Result<Step, Error> {
        let write = self.piece.extent.write;
        let bucket = self.place.bucket()?.clone();
        let doubt = self.doubt.as_mut().ok_or_else(|| Error::bug("metadata came to a read that asked for none"))?;
        let (found, next) = match answer {
            MetaAnswer::Object(row) => match row.body {
                Body::Whole(ref extent) => (Some(extent).filter(|extent| extent.write == write), None),
                Body::Parts { upload, .. } => (None, Some((upload, 0))),
            },
            MetaAnswer::Parts(parts, more) => {
                let found = parts.iter().map(|part| &part.extent).find(|extent| extent.write == write);
                let end = parts.last().filter(|_| *more).map(|part| part.offset.saturating_add(part.extent.len));
                let next = doubt.parts.and_then(|(upload, at)| Some((upload, end.filter(|end| *end > at)?)));
                (found, next)
            }
            other => return Err(task::unexpected("an object", other)),
        };
        if let Some(now) = found {
            let is_as_said = |said: &Extent| {
                (said.layout, &said.runs, said.compression, said.code)
                    == (now.layout, &now.runs, now.compression, now.code)
            };
            if is_as_said(&self.piece.extent) {
                return Err(doubt.lost.clone());
            }
            self.piece.extent = Arc::new(now.clone());
            self.doubt = None;
            return self.question(bucket, scene);
        }
        match next {
            Some((upload, offset)) => {
                doubt.parts = Some((upload, offset));
                let query = Query::Extents { bucket: bucket.clone(), upload, offset, limit: LIST_KEYS_MAX as u32 };
                Ok(Step::Ask(Question::query(bucket.group, query)))
            }
            None => Err(Error::new(ErrorKind::Conflict, "the object was replaced while it was read; read it again")
                .with("bucket", &bucket.name)),
        }
    }

    fn bytes(&self, response: &Response) -> Result<Response, Error> {
        let wanted = stripe_len(&self.piece.extent, self.piece.stripe);
        // The piece alone, from who could give it so.
        let is_sealed = self.piece.extent.key.is_some();
        if is_sealed && self.piece.len < wanted && response.payload.len() == self.piece.len as usize {
            return Ok(Response { answer: Answer::Done, payload: response.payload.clone() });
        }
        if response.payload.len() != wanted as usize {
            return Err(self.of_another_length(Some(response.payload.len())));
        }
        let start = self.piece.start as usize;
        let payload = response.payload.slice(start..start + self.piece.len as usize);
        Ok(Response { answer: Answer::Done, payload })
    }
}

impl Read {
    /// A stripe, of so many bytes if that is known.
    fn of_another_length(&self, bytes: Option<usize>) -> Error {
        let error = Error::new(ErrorKind::Corrupt, "a stripe is of another length than its manifest says")
            .with("write", self.piece.extent.write)
            .with("stripe", self.piece.stripe)
            .with("wanted", stripe_len(&self.piece.extent, self.piece.stripe));
        bytes.into_iter().fold(error, |error, bytes| error.with("bytes", bytes))
    }
}

impl Task for Read {
    fn hear(&mut self, heard: Heard, scene: &mut Scene<'_, '_>) -> Step {
        match heard {
            Heard::Begin => self.place.find(),
            Heard::Bucket(row) => {
                self.place.found(row).and_then(|bucket| self.question(bucket, scene)).unwrap_or_else(Step::fail)
            }
            Heard::Answer(Ok(response)) if self.doubt.is_some() => {
                task::meta(response).and_then(|answer| self.look(&answer, scene)).unwrap_or_else(Step::fail)
            }
            Heard::Answer(Ok(response)) => match self.bytes(&response) {
                // A caller of an older build does not give back all that the extent says.
                Err(error) => self.doubt(error).unwrap_or_else(Step::fail),
                read => Step::Reply(read),
            },
            Heard::Answer(Err(failure)) if self.doubt.is_some() => Step::fail(failure),
            // The same: what is stored is of another length, for it is compressed.
            Heard::Answer(Err(failure)) if failure.is(ErrorKind::InvalidRange) => {
                self.doubt(self.of_another_length(None)).unwrap_or_else(Step::fail)
            }
            Heard::Answer(Err(failure)) if failure.is(ErrorKind::Lost) => {
                self.doubt(failure.error).unwrap_or_else(Step::fail)
            }
            Heard::Answer(Err(failure)) => Step::fail(task::below(failure.error)),
            Heard::Computed(_) | Heard::Due | Heard::Granted(_) => Step::astray(),
        }
    }
}
