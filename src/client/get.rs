//! Fetching: an object, or a range of it, comes out as the machine [`Draw`] says, a few pieces ahead.

use core::ops::Range;
use std::{collections::BTreeMap, sync::Arc};

use mesh_core::{
    Buf, Error, ErrorKind, Lane,
    id::NodeId,
    limits::STREAM_STRIPES,
    meta::ObjectRow,
    stream::{ByteRange, Draw, DrawStep, Place, payload_of},
};
use tokio::{
    io::{AsyncWrite, AsyncWriteExt as _},
    task::JoinSet,
};

use super::{Client, Progress, landed, put::Source};

/// What an object must be for somebody who reads it, by its ETag; `*` is any. The default: whatever it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conditions {
    /// `If-Match`: it has this ETag.
    pub if_match: Option<String>,
    /// `If-None-Match`: it has another one.
    pub if_none_match: Option<String>,
}

impl Conditions {
    /// Whether they hold, in the order of RFC 9110, section 13.2.2.
    pub(super) fn check(&self, object: &ObjectRow) -> Result<(), Error> {
        let names = |tag: &String| tag == "*" || unquoted(tag) == object.etag;
        let why = match (&self.if_match, &self.if_none_match) {
            (Some(wanted), _) if !names(wanted) => "the object has another ETag than If-Match names: read it again",
            (_, Some(known)) if names(known) => "the object is what If-None-Match names: it has not changed",
            _ => return Ok(()),
        };
        Err(Error::new(ErrorKind::Precondition, why).with("etag", &object.etag))
    }
}

fn unquoted(etag: &str) -> &str {
    etag.strip_prefix('"').and_then(|etag| etag.strip_suffix('"')).unwrap_or(etag)
}

/// What is wanted of an object. The default: all of it, whatever it is.
///
/// ```
/// use mesh::{client::GetOptions, core::stream::ByteRange};
/// let options = GetOptions::default().range(ByteRange::Last(100)).if_match("d41d8cd98f00b204e9800998ecf8427e");
/// assert_eq!(options.range, Some(ByteRange::Last(100)));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GetOptions {
    /// Only these bytes.
    pub range: Option<ByteRange>,
    /// What the object must be.
    pub conditions: Conditions,
}

impl GetOptions {
    /// Only these bytes.
    #[must_use]
    pub const fn range(mut self, range: ByteRange) -> Self {
        self.range = Some(range);
        self
    }

    /// `If-Match`: only if it has this ETag.
    #[must_use]
    pub fn if_match(mut self, etag: &str) -> Self {
        self.conditions.if_match = Some(etag.to_owned());
        self
    }

    /// `If-None-Match`: only if it has another ETag.
    #[must_use]
    pub fn if_none_match(mut self, etag: &str) -> Self {
        self.conditions.if_none_match = Some(etag.to_owned());
        self
    }
}

/// What was fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Got {
    /// The object.
    pub object: Arc<ObjectRow>,
    /// Which bytes of it.
    pub range: Range<u64>,
}

impl Client {
    /// An object's manifest.
    ///
    /// # Errors
    /// `NotFound`, `NoSuchBucket`, `Denied`.
    pub async fn head(&self, bucket: &str, key: &str) -> Result<Arc<ObjectRow>, Error> {
        self.find(&Place::new(bucket, key)).await.map(|(_, object)| object)
    }

    /// As [`Self::head`], if the object is what the conditions say.
    ///
    /// # Errors
    /// As [`Self::head`]; `Precondition` if it is not.
    pub async fn head_with(&self, bucket: &str, key: &str, conditions: &Conditions) -> Result<Arc<ObjectRow>, Error> {
        let object = self.head(bucket, key).await?;
        conditions.check(&object).map(|()| object)
    }

    /// Writes an object's bytes to `target`. `progress` is told the bytes written so far.
    ///
    /// # Errors
    /// `NotFound`, `NoSuchBucket`, `Denied`; `TooFewShards` once drives have been out of sight for some three seconds; `Lost`;
    /// `Conflict` if it was replaced meanwhile: read it again. `target` may have got a part of the bytes then.
    pub async fn get(
        &self,
        bucket: &str,
        key: &str,
        target: &mut (dyn AsyncWrite + Send + Unpin),
        progress: Progress<'_>,
    ) -> Result<Arc<ObjectRow>, Error> {
        self.get_with(bucket, key, &GetOptions::default(), target, progress).await.map(|got| got.object)
    }

    /// As [`Self::get`], of a range or under conditions. Who is overtaken by another write before the first byte gets the
    /// object that is there then.
    ///
    /// # Errors
    /// As [`Self::get`]; `Precondition` and `InvalidRange` before anything is written.
    pub async fn get_with(
        &self,
        bucket: &str,
        key: &str,
        options: &GetOptions,
        target: &mut (dyn AsyncWrite + Send + Unpin),
        progress: Progress<'_>,
    ) -> Result<Got, Error> {
        let place = Place::new(bucket, key);
        for again in (0..OVERTAKEN_MAX).rev() {
            let (mut drawing, got) = Drawing::open(self, &place, options).await?;
            match drawing.next().await {
                Err(error) if error.kind() == ErrorKind::Conflict && again > 0 => {}
                first => {
                    drawing.write(first?, target, progress).await?;
                    return Ok(got);
                }
            }
        }
        Err(Error::bug("an object was read no time at all"))
    }

    /// An object's bytes. They are held in memory at once.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub async fn get_bytes(&self, bucket: &str, key: &str) -> Result<Vec<u8>, Error> {
        self.get_bytes_with(bucket, key, &GetOptions::default()).await
    }

    /// The bytes of a range of an object. They are held in memory at once.
    ///
    /// # Errors
    /// As [`Self::get`]; `InvalidRange` if the object has no byte of it.
    pub async fn get_range(&self, bucket: &str, key: &str, range: ByteRange) -> Result<Vec<u8>, Error> {
        self.get_bytes_with(bucket, key, &GetOptions::default().range(range)).await
    }

    /// As [`Self::get_with`], into memory.
    ///
    /// # Errors
    /// As [`Self::get_with`].
    pub async fn get_bytes_with(&self, bucket: &str, key: &str, options: &GetOptions) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        self.get_with(bucket, key, options, &mut bytes, &|_| {}).await?;
        Ok(bytes)
    }

    /// An object, and the node that knows it.
    async fn find(&self, place: &Place) -> Result<(NodeId, Arc<ObjectRow>), Error> {
        let (node, response) = self.ask_any(Draw::head(place)).await?;
        Ok((node, Draw::headed(Ok(response))?))
    }
}

/// An object that is being read.
pub(super) struct Drawing {
    client: Client,
    node: NodeId,
    draw: Draw,
    flying: JoinSet<(u32, Result<Buf, Error>)>,
    /// Read, and not their turn yet: of the draw's window.
    here: BTreeMap<u32, Buf>,
    over: bool,
}

impl Drawing {
    /// Finds the object, and the range that is wanted of it.
    pub(super) async fn open(client: &Client, place: &Place, options: &GetOptions) -> Result<(Self, Got), Error> {
        let (node, object) = client.find(place).await?;
        options.conditions.check(&object)?;
        let range = options.range.map_or(Ok(0..object.len), |range| range.resolve(object.len))?;
        let draw = Draw::new(place.clone(), object.clone(), range.clone(), STREAM_STRIPES)?;
        let client = client.clone();
        let drawing = Self { client, node, draw, flying: JoinSet::new(), here: BTreeMap::new(), over: false };
        Ok((drawing, Got { object, range }))
    }

    /// The bytes that come next; none at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Buf>, Error> {
        while !self.over {
            while let Some((number, read)) = self.draw.read() {
                let flight = self.client.ask_at(self.node, read, Buf::empty(), Lane::Bulk);
                self.flying.spawn(async move { (number, payload_of(flight.await)) });
            }
            match self.draw.next() {
                Some(DrawStep::Plan(plan)) => {
                    let outcome = self.client.ask_at(self.node, plan, Buf::empty(), Lane::Interactive).await;
                    self.draw.planned(outcome);
                }
                Some(DrawStep::Hand { number, .. }) => {
                    let piece = self.here.remove(&number);
                    return piece.map(Some).ok_or_else(|| Error::bug("a piece was read and is not here"));
                }
                Some(DrawStep::Over(result)) => {
                    self.over = true;
                    result?;
                }
                None => {
                    let (number, read) = landed(&mut self.flying).await?;
                    let read = read.map(|bytes| {
                        let len = bytes.len();
                        self.here.insert(number, bytes);
                        len
                    });
                    self.draw.landed(number, read);
                }
            }
        }
        Ok(None)
    }

    /// Writes what is here and all that follows.
    async fn write(
        mut self,
        first: Option<Buf>,
        target: &mut (dyn AsyncWrite + Send + Unpin),
        progress: Progress<'_>,
    ) -> Result<(), Error> {
        let (mut piece, mut written) = (first, 0);
        while let Some(bytes) = piece {
            target.write_all(&bytes).await.map_err(broken_target)?;
            written += bytes.len() as u64;
            progress(written);
            piece = self.next().await?;
        }
        target.flush().await.map_err(broken_target)
    }
}

/// An object that is being read, as the source of another.
pub(super) struct Drawn {
    drawing: Drawing,
    /// Of the piece at hand.
    rest: Buf,
}

impl Drawn {
    pub(super) const fn new(drawing: Drawing) -> Self {
        Self { drawing, rest: Buf::empty() }
    }
}

impl Source for Drawn {
    async fn fill(&mut self, target: &mut [u8]) -> Result<usize, Error> {
        let mut filled = 0;
        while filled < target.len() {
            if self.rest.is_empty() {
                match self.drawing.next().await? {
                    Some(piece) => self.rest = piece,
                    None => break,
                }
            }
            let taken = self.rest.len().min(target.len() - filled);
            target[filled..filled + taken].copy_from_slice(&self.rest[..taken]);
            self.rest = self.rest.slice(taken..);
            filled += taken;
        }
        Ok(filled)
    }
}

fn broken_target(error: std::io::Error) -> Error {
    Error::new(ErrorKind::Cancelled, "the target takes no more bytes").caused_by(error)
}

/// So often a reader begins, if others overtake it.
const OVERTAKEN_MAX: u32 = 3;
