//! Multipart uploads: begun under a write id of their own, completed into an object of their parts.

use core::fmt::Write;
use std::{collections::BTreeMap, sync::Arc};

use md5::{Digest, Md5};
use mesh_core::{
    Answer, Error, ErrorKind,
    id::WriteId,
    limits::{PART_BYTES_MIN, PARTS_MAX},
    meta::{
        Attributes, BucketRef, BucketRow, Command, MetaAnswer, ObjectCommand, PartRow, Precondition, Query, UploadRow,
    },
};

use super::{
    check,
    task::{self, Failure, Heard, Place, Question, Scene, Step, Task},
};

/// bucket → write id, which names the upload → proposal.
pub(super) struct Create {
    place: Place,
    key: Arc<str>,
    attributes: Attributes,
    row: Option<Arc<UploadRow>>,
}

impl Create {
    pub(super) fn new(bucket: Arc<str>, key: Arc<str>, attributes: Attributes) -> Result<Self, Error> {
        check::key(&key)?;
        check::attributes(&attributes)?;
        Ok(Self { place: Place::new(bucket), key, attributes, row: None })
    }

    fn propose(&mut self, upload: WriteId, scene: &mut Scene<'_, '_>) -> Result<Step, Error> {
        let bucket = self.place.bucket()?.clone();
        let row = Arc::new(UploadRow {
            upload,
            key: self.key.as_ref().to_owned(),
            attributes: self.attributes.clone(),
            created: scene.cx.wall(),
            principal: scene.caller.principal.name().to_owned(),
        });
        self.row = Some(row.clone());
        let proposer = scene.desk.proposer(bucket.group, scene.cx.now())?;
        let command = Command::Object(bucket, ObjectCommand::CreateUpload { proposer, row });
        Ok(Step::Ask(Question::propose(command)))
    }
}

impl Task for Create {
    fn hear(&mut self, heard: Heard, scene: &mut Scene<'_, '_>) -> Step {
        match heard {
            Heard::Begin => self.place.find(),
            Heard::Bucket(row) => self.place.found(row).map_or_else(Step::fail, |bucket| Step::Grant(bucket.group)),
            Heard::Granted(granted) => {
                granted.and_then(|upload| self.propose(upload, scene)).unwrap_or_else(Step::fail)
            }
            Heard::Answer(Ok(_)) => match self.row.take() {
                Some(row) => Step::answer(Answer::Upload(row)),
                None => Step::astray(),
            },
            Heard::Answer(Err(failure)) => {
                if let Some(step) = self.place.look_again(&failure, scene.desk) {
                    return step;
                }
                let error = failure.of_change();
                Step::fail(match &self.row {
                    Some(row) => scene.desk.refused(row.upload, error),
                    None => error,
                })
            }
            Heard::Computed(_) | Heard::Due => Step::astray(),
        }
    }

    fn write(&self) -> Option<WriteId> {
        self.row.as_ref().map(|row| row.upload)
    }
}

/// bucket → upload (its key) → its parts, page by page → proposal. An upload that is gone may have become the object
/// already: a client that missed the answer gets it again.
pub(super) struct Complete {
    place: Place,
    key: Arc<str>,
    upload: WriteId,
    parts: Vec<(u32, String)>,
    checksums: BTreeMap<String, String>,
    precondition: Precondition,
    stage: Stage,
    /// Parts checked so far.
    checked: usize,
    digest: Md5,
}

enum Stage {
    Upload,
    Parts,
    Propose,
    /// Is the object there already? Else this is the answer.
    Already(Error),
}

impl Complete {
    pub(super) fn new(
        bucket: Arc<str>,
        key: Arc<str>,
        upload: WriteId,
        mut parts: Vec<(u32, String)>,
        checksums: BTreeMap<String, String>,
        mut precondition: Precondition,
    ) -> Result<Self, Error> {
        check::key(&key)?;
        check::checksums(&checksums)?;
        check::precondition(&mut precondition);
        if parts.is_empty() || parts.len() > PARTS_MAX as usize {
            return Err(Error::invalid("an object is made of 1 to the limit of parts").with("limit", PARTS_MAX));
        }
        if !parts.is_sorted_by(|(before, _), (after, _)| before < after) {
            return Err(Error::new(ErrorKind::InvalidPartOrder, "parts are named in ascending order"));
        }
        for (number, etag) in &mut parts {
            if !(1..=PARTS_MAX).contains(number) {
                return Err(no_such_part(*number));
            }
            *etag = check::unquoted(etag).to_owned();
        }
        let place = Place::new(bucket);
        let (stage, digest) = (Stage::Upload, Md5::new());
        Ok(Self { place, key, upload, parts, checksums, precondition, stage, checked: 0, digest })
    }

    fn found(&mut self, row: Result<Arc<BucketRow>, Failure>) -> Result<Step, Error> {
        let bucket = self.place.found(row)?;
        self.stage = Stage::Upload;
        Ok(Self::ask(bucket, |bucket| Query::Upload { bucket, upload: self.upload }))
    }

    fn ask(bucket: BucketRef, query: impl FnOnce(BucketRef) -> Query) -> Step {
        Step::Ask(Question::query(bucket.group, query(bucket)))
    }

    fn answered(&mut self, answer: &MetaAnswer, scene: &mut Scene<'_, '_>) -> Result<Step, Error> {
        match (&self.stage, answer) {
            (Stage::Upload, MetaAnswer::Upload(row)) if *row.key == *self.key => {
                self.stage = Stage::Parts;
                self.page()
            }
            (Stage::Upload, MetaAnswer::Upload(_)) => {
                Err(Error::new(ErrorKind::NoSuchUpload, "the upload is of another key").with("key", &self.key))
            }
            (Stage::Parts, MetaAnswer::Parts(rows, more)) => {
                rows.iter().try_for_each(|row| self.check(row))?;
                match self.parts.get(self.checked) {
                    None => self.propose(scene),
                    Some(_) if *more && !rows.is_empty() => self.page(),
                    Some((number, _)) => Err(no_such_part(*number)),
                }
            }
            (Stage::Propose, MetaAnswer::Committed { version, etag }) => {
                scene.desk.expect_garbage(self.place.bucket()?.group, scene.cx.now());
                Ok(Step::answer(Answer::Committed { version: *version, etag: etag.clone() }))
            }
            (Stage::Already(_), MetaAnswer::Object(row)) if row.version == self.upload => {
                Ok(Step::answer(Answer::Committed { version: row.version, etag: row.etag.clone() }))
            }
            (Stage::Already(error), MetaAnswer::Object(_)) => Err(error.clone()),
            (_, other) => Err(task::unexpected("what completing an upload asks for", other)),
        }
    }

    /// Asks for the page that begins with the next part to be checked.
    fn page(&self) -> Result<Step, Error> {
        let after = self.parts.get(self.checked).map_or(0, |(number, _)| number - 1);
        let bucket = self.place.bucket()?.clone();
        Ok(Self::ask(bucket, |bucket| Query::Parts { bucket, upload: self.upload, after, limit: PAGE_PARTS }))
    }

    fn check(&mut self, row: &PartRow) -> Result<(), Error> {
        let Some((number, etag)) = self.parts.get(self.checked) else { return Ok(()) };
        if row.number < *number {
            return Ok(());
        }
        if row.number > *number || row.etag != *etag {
            return Err(no_such_part(*number));
        }
        if self.checked + 1 < self.parts.len() && row.extent.len < PART_BYTES_MIN {
            return Err(Error::new(ErrorKind::PartTooSmall, "a part that is not the last is too small")
                .with("part", number)
                .with("bytes", row.extent.len)
                .with("limit", PART_BYTES_MIN));
        }
        match digest_of(etag) {
            Some(bytes) => self.digest.update(bytes),
            None => self.digest.update(etag.as_bytes()),
        }
        self.checked += 1;
        Ok(())
    }

    fn propose(&mut self, scene: &mut Scene<'_, '_>) -> Result<Step, Error> {
        self.stage = Stage::Propose;
        let bucket = self.place.bucket()?.clone();
        let etag = format!("{}-{}", hex(&self.digest.clone().finalize()), self.parts.len());
        let command = ObjectCommand::CompleteUpload {
            proposer: scene.desk.proposer(bucket.group, scene.cx.now())?,
            key: self.key.clone(),
            upload: self.upload,
            parts: self.parts.clone(),
            etag,
            checksums: self.checksums.clone(),
            at: scene.cx.wall(),
            precondition: self.precondition.clone(),
        };
        Ok(Step::Ask(Question::propose(Command::Object(bucket, command)).patiently()))
    }

    fn failed(&mut self, failure: Failure, scene: &mut Scene<'_, '_>) -> Result<Step, Error> {
        if let Stage::Already(error) = &self.stage {
            return Err(error.clone());
        }
        if let Some(step) = self.place.look_again(&failure, scene.desk) {
            (self.checked, self.digest) = (0, Md5::new());
            return Ok(step);
        }
        if failure.is(ErrorKind::NoSuchUpload) {
            self.stage = Stage::Already(failure.of_change());
            let bucket = self.place.bucket()?.clone();
            return Ok(Self::ask(bucket, |bucket| Query::Object { bucket, key: self.key.clone() }));
        }
        match self.stage {
            Stage::Propose => Err(failure.of_change()),
            _ => Err(failure.error),
        }
    }
}

impl Task for Complete {
    fn hear(&mut self, heard: Heard, scene: &mut Scene<'_, '_>) -> Step {
        let step = match heard {
            Heard::Begin => Ok(self.place.find()),
            Heard::Bucket(row) => self.found(row),
            Heard::Answer(Ok(response)) => task::meta(response).and_then(|answer| self.answered(&answer, scene)),
            Heard::Answer(Err(failure)) => self.failed(failure, scene),
            Heard::Computed(_) | Heard::Due | Heard::Granted(_) => Ok(Step::astray()),
        };
        step.unwrap_or_else(Step::fail)
    }
}

fn no_such_part(number: u32) -> Error {
    Error::new(ErrorKind::InvalidPart, "there is no such part, or its ETag is another").with("part", number)
}

/// The MD5 that an ETag is the hexadecimal form of, if it is one.
fn digest_of(etag: &str) -> Option<[u8; 16]> {
    if etag.len() != 32 || !etag.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    Some(u128::from_str_radix(etag, 16).ok()?.to_be_bytes())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes whatever is written");
        text
    })
}

/// Parts that one question names: even with many exceptions each, they stay below the limit of an answer.
const PAGE_PARTS: u32 = 256;
