//! Multipart uploads: an object that is sent in parts, in any order and by anybody, and becomes visible at once.

use std::{collections::BTreeMap, sync::Arc};

use mesh_core::{
    Answer, Error, ErrorKind,
    id::WriteId,
    limits::LIST_KEYS_MAX,
    meta::{Attributes, PartRow, Precondition, UploadRow},
    op::{Destination, ObjectOp},
    stream::Place,
};
use tokio::io::AsyncRead;

use super::{
    Client, Progress, Stored,
    put::{Reader, pour},
    strange,
};

/// An upload that is not completed. Dropped, it stays: somebody must complete or abort it.
#[derive(Clone, Debug)]
pub struct Upload {
    client: Client,
    place: Place,
    id: WriteId,
}

/// A part that was stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Its number: 1 to 10,000.
    pub number: u32,
    /// Its ETag: the MD5 of the bytes, in hexadecimal.
    pub etag: String,
    /// Bytes.
    pub len: u64,
}

impl Part {
    pub(super) fn of(number: u32, stored: &Stored) -> Self {
        Self { number, etag: stored.etag.clone(), len: stored.len }
    }
}

impl Client {
    /// Begins an upload. What goes with the object is said now.
    ///
    /// # Errors
    /// `NoSuchBucket`, `Denied`, `TooLarge` for too much metadata.
    pub async fn create_upload(&self, bucket: &str, key: &str, attributes: Attributes) -> Result<Upload, Error> {
        let place = Place::new(bucket, key);
        let Place { bucket, key } = place.clone();
        match self.ask(ObjectOp::CreateUpload { bucket, key, attributes }).await? {
            Answer::Upload(row) => Ok(Upload { client: self.clone(), place, id: row.upload }),
            answer => Err(strange(&answer)),
        }
    }

    /// An upload that was begun before.
    ///
    /// # Errors
    /// `NoSuchUpload`, also if it is of another key; `NoSuchBucket`, `Denied`.
    pub async fn upload(&self, bucket: &str, key: &str, id: WriteId) -> Result<Upload, Error> {
        let place = Place::new(bucket, key);
        match self.ask(ObjectOp::HeadUpload { bucket: place.bucket.clone(), upload: id }).await? {
            Answer::Upload(row) if row.key == key => Ok(Upload { client: self.clone(), place, id }),
            Answer::Upload(_) => {
                Err(Error::new(ErrorKind::NoSuchUpload, "the upload is of another key").with("key", key))
            }
            answer => Err(strange(&answer)),
        }
    }

    /// A page of a bucket's uploads whose keys begin with `prefix`, behind a key and an upload of it; and whether there
    /// are more.
    ///
    /// # Errors
    /// `NoSuchBucket`, `Denied`.
    pub async fn uploads(
        &self,
        bucket: &str,
        prefix: &str,
        after: Option<(String, WriteId)>,
    ) -> Result<(Vec<Arc<UploadRow>>, bool), Error> {
        let (bucket, prefix) = (bucket.into(), prefix.to_owned());
        match self.ask(ObjectOp::ListUploads { bucket, prefix, after, limit: LIST_KEYS_MAX as u32 }).await? {
            Answer::Uploads(rows, more) => Ok((rows, more)),
            answer => Err(strange(&answer)),
        }
    }
}

impl Upload {
    /// Its number.
    #[must_use]
    pub const fn id(&self) -> WriteId {
        self.id
    }

    pub(super) const fn client(&self) -> &Client {
        &self.client
    }

    pub(super) const fn place(&self) -> &Place {
        &self.place
    }

    /// Stores all that `source` gives as a part, up to 5 GiB; one of the same number is replaced. Every part but the last
    /// one of the object has at least 5 MiB. `progress` is told the bytes stored so far.
    ///
    /// # Errors
    /// As [`Client::put`]; `NoSuchUpload` if it was completed or aborted; `Invalid` for a number that is not 1 to 10,000.
    pub async fn put_part(
        &self,
        number: u32,
        source: &mut (dyn AsyncRead + Send + Unpin),
        progress: Progress<'_>,
    ) -> Result<Part, Error> {
        let destination = Destination::Part { upload: self.id, number };
        let stored = pour(&self.client, self.place.clone(), destination, &mut Reader(source), progress).await?;
        Ok(Part::of(number, &stored))
    }

    /// Stores bytes as a part.
    ///
    /// # Errors
    /// As [`Self::put_part`].
    pub async fn put_part_bytes(&self, number: u32, bytes: &[u8]) -> Result<Part, Error> {
        let mut source = bytes;
        self.put_part(number, &mut source, &|_| {}).await
    }

    /// A page of its parts, by number, behind the number `after` (0: from the first on); and whether there are more.
    ///
    /// # Errors
    /// `NoSuchUpload`, `Denied`.
    pub async fn parts(&self, after: u32) -> Result<(Vec<Arc<PartRow>>, bool), Error> {
        let (bucket, upload) = (self.place.bucket.clone(), self.id);
        match self.client.ask(ObjectOp::ListParts { bucket, upload, after, limit: LIST_KEYS_MAX as u32 }).await? {
            Answer::Parts(rows, more) => Ok((rows, more)),
            answer => Err(strange(&answer)),
        }
    }

    /// Makes an object of these parts, whatever is there. Parts that are not named are dropped. Once more, also after it
    /// was completed: the same answer. Gives the object's length only as far as the parts say it.
    ///
    /// # Errors
    /// `InvalidPartOrder` unless their numbers ascend, `InvalidPart` for one that is not stored under this ETag,
    /// `PartTooSmall`, `NoSuchUpload`, `Denied`; `Invalid` for none or more than 10,000.
    pub async fn complete(&self, parts: &[Part]) -> Result<Stored, Error> {
        self.complete_if(parts, Precondition::default()).await
    }

    /// As [`Self::complete`], if `precondition` holds then.
    ///
    /// # Errors
    /// As [`Self::complete`]; `Precondition`: the upload is still there.
    pub async fn complete_if(&self, parts: &[Part], precondition: Precondition) -> Result<Stored, Error> {
        let Place { bucket, key } = self.place.clone();
        let complete = ObjectOp::CompleteUpload {
            bucket,
            key,
            upload: self.id,
            parts: parts.iter().map(|part| (part.number, part.etag.clone())).collect(),
            checksums: BTreeMap::new(),
            precondition,
        };
        match self.client.ask(complete).await? {
            Answer::Committed { version, etag } => {
                Ok(Stored { version, etag, len: parts.iter().map(|part| part.len).sum() })
            }
            answer => Err(strange(&answer)),
        }
    }

    /// Drops it and its parts.
    ///
    /// # Errors
    /// `NoSuchUpload` if it was completed or aborted; `Denied`.
    pub async fn abort(self) -> Result<(), Error> {
        let (bucket, upload) = (self.place.bucket.clone(), self.id);
        self.client.ask_done(ObjectOp::AbortUpload { bucket, upload }).await
    }
}
