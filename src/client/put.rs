//! Storing: what a source gives goes in as the machine [`Pour`] says, a few stripes at once.

use std::collections::BTreeMap;

use md5::{Digest as _, Md5};
use mesh_core::{
    Buf, Error, Lane, Outcome,
    id::{NodeId, WriteId},
    limits::STREAM_STRIPES,
    meta::{Attributes, Precondition},
    op::Destination,
    stream::{Place, Pour, PourStep, Poured},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    task::JoinSet,
};

use super::{Client, Progress, landed};
use crate::keyring::hex;

/// What was stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The version.
    pub version: WriteId,
    /// The ETag: the MD5 of the bytes, in hexadecimal. Of an object of parts, the MD5 of theirs, and how many.
    pub etag: String,
    /// Bytes.
    pub len: u64,
}

impl From<Poured> for Stored {
    fn from(Poured { version, etag, len }: Poured) -> Self {
        Self { version, etag, len }
    }
}

/// What goes with an object that is put. The default: nothing, whatever is there.
///
/// ```
/// use mesh::client::PutOptions;
/// let options = PutOptions::default().content_type("text/html").user("author", "me").if_absent();
/// assert_eq!(options.attributes.headers["content-type"], "text/html");
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PutOptions {
    /// Headers and metadata: `USER_METADATA_BYTES_MAX` of the user's own together (2 KiB), 8 KiB of the others.
    pub attributes: Attributes,
    /// What must hold when the object becomes visible.
    pub precondition: Precondition,
}

impl PutOptions {
    /// What the bytes are, as a media type.
    #[must_use]
    pub fn content_type(self, value: &str) -> Self {
        self.header("content-type", value)
    }

    /// One of the headers that S3 keeps: `cache-control`, `content-disposition`, `content-encoding`, `content-language`,
    /// `content-type`, `expires`.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.attributes.headers.insert(name.to_ascii_lowercase(), value.to_owned());
        self
    }

    /// A value of the user's own: over S3 it is `x-amz-meta-…`.
    #[must_use]
    pub fn user(mut self, name: &str, value: &str) -> Self {
        self.attributes.user.insert(name.to_ascii_lowercase(), value.to_owned());
        self
    }

    /// `If-None-Match: *`: only if there is no such object.
    #[must_use]
    pub const fn if_absent(mut self) -> Self {
        self.precondition.absent = true;
        self
    }

    /// `If-Match`: only if the object that is there has this ETag.
    #[must_use]
    pub fn if_match(mut self, etag: &str) -> Self {
        self.precondition.etag = Some(etag.to_owned());
        self
    }

    pub(super) fn destination(self) -> Destination {
        let Self { attributes, precondition } = self;
        Destination::Object { attributes, precondition }
    }
}

impl Client {
    /// Stores all that `source` gives, up to 5 GiB. `progress` is told the bytes stored so far.
    ///
    /// # Errors
    /// As the source or the mesh says; `TooLarge` above 5 GiB: send it in parts, see [`Self::create_upload`]. Unless the
    /// error's certainty is `MaybeProcessed`, nothing has changed.
    pub async fn put(
        &self,
        bucket: &str,
        key: &str,
        source: &mut (dyn AsyncRead + Send + Unpin),
        progress: Progress<'_>,
    ) -> Result<Stored, Error> {
        self.put_with(bucket, key, PutOptions::default(), source, progress).await
    }

    /// As [`Self::put`], with what goes with the object.
    ///
    /// # Errors
    /// As [`Self::put`]; `Precondition` if what must hold does not; `TooLarge` for too much metadata.
    pub async fn put_with(
        &self,
        bucket: &str,
        key: &str,
        options: PutOptions,
        source: &mut (dyn AsyncRead + Send + Unpin),
        progress: Progress<'_>,
    ) -> Result<Stored, Error> {
        pour(self, Place::new(bucket, key), options.destination(), &mut Reader(source), progress).await
    }

    /// Stores bytes.
    ///
    /// # Errors
    /// As [`Self::put`].
    pub async fn put_bytes(&self, bucket: &str, key: &str, bytes: &[u8]) -> Result<Stored, Error> {
        let mut source = bytes;
        self.put(bucket, key, &mut source, &|_| {}).await
    }
}

/// Where bytes come from.
pub(super) trait Source: Send {
    /// Fills the buffer; only at the end less of it.
    fn fill(&mut self, target: &mut [u8]) -> impl Future<Output = Result<usize, Error>> + Send;
}

/// The source that a caller gives.
pub(super) struct Reader<'a>(pub(super) &'a mut (dyn AsyncRead + Send + Unpin));

impl Source for Reader<'_> {
    async fn fill(&mut self, target: &mut [u8]) -> Result<usize, Error> {
        let mut filled = 0;
        while filled < target.len() {
            match self.0.read(&mut target[filled..]).await {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) => return Err(Error::invalid("the source cannot be read").caused_by(error)),
            }
        }
        Ok(filled)
    }
}

/// Stores all that a source gives.
pub(super) async fn pour(
    client: &Client,
    place: Place,
    destination: Destination,
    source: &mut impl Source,
    progress: Progress<'_>,
) -> Result<Stored, Error> {
    let (mut pour, begin) = Pour::begin(place, destination, STREAM_STRIPES);
    let (node, begun) = client.ask_any(begin).await?;
    pour.hear(Ok(begun));
    Open { client: client.clone(), node, pour }.run(source, progress).await.map(Stored::from)
}

/// A write that may be open at a node. Dropped before its end, it is aborted.
struct Open {
    client: Client,
    node: NodeId,
    pour: Pour,
}

impl Open {
    async fn run(mut self, source: &mut impl Source, progress: Progress<'_>) -> Result<Poured, Error> {
        let mut flying: JoinSet<(u64, Outcome)> = JoinSet::new();
        let (mut digest, mut stored) = (Md5::new(), 0);
        loop {
            match self.pour.next() {
                Some(PourStep::Ask(op)) => {
                    let outcome = self.client.ask_at(self.node, op, Buf::empty(), Lane::Interactive).await;
                    self.pour.hear(outcome);
                }
                Some(PourStep::Over(result)) => return result,
                None if self.pour.wants().is_some() => match self.fill(source).await {
                    Ok(stripe) => self.send(stripe, &mut digest, &mut flying),
                    Err(error) => self.pour.give_up(error),
                },
                None => {
                    let (bytes, outcome) = landed(&mut flying).await?;
                    if outcome.is_ok() {
                        stored += bytes;
                        progress(stored);
                    }
                    self.pour.hear(outcome);
                }
            }
        }
    }

    /// A stripe of what the source gives; at its end less, and then nothing.
    async fn fill(&self, source: &mut impl Source) -> Result<Buf, Error> {
        let mut stripe = self.client.pool.take(self.pour.stripe_bytes(), SPARE_BYTES);
        let filled = source.fill(stripe.make_mut()).await?;
        stripe.truncate(filled);
        Ok(stripe)
    }

    fn send(&mut self, stripe: Buf, digest: &mut Md5, flying: &mut JoinSet<(u64, Outcome)>) {
        let (bytes, full) = (stripe.len(), self.pour.stripe_bytes());
        if bytes > 0 {
            digest.update(&stripe[..]);
            // What it refuses, it is over with: the next step says so.
            if let Ok(append) = self.pour.append(bytes) {
                let flight = self.client.ask_at(self.node, append, stripe, Lane::Bulk);
                flying.spawn(async move { (bytes as u64, flight.await) });
            }
        }
        if bytes < full {
            self.pour.end(hex(&digest.clone().finalize()), BTreeMap::new());
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let Some(abort) = self.pour.abandon() else { return };
        // Outside a runtime nobody can be told; the mesh drops idle writes by itself.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let abort = self.client.ask_at(self.node, abort, Buf::empty(), Lane::Interactive);
        runtime.spawn(async move {
            if let Err(error) = abort.await {
                tracing::debug!(%error, "a broken write was not aborted; the mesh drops it when it is idle");
            }
        });
    }
}

/// Room behind a stripe for what sealing and padding add, so that nothing is copied when they do.
const SPARE_BYTES: usize = 128 * 1024;
