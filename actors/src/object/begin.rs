//! Begin: opens a write.

use std::sync::Arc;

use mesh_core::{
    Answer, Error, ErrorKind,
    id::WriteId,
    limits::PARTS_MAX,
    meta::{Compression, MetaAnswer, Query, WrappedKey},
    op::Destination,
    port::{ComputeJob, WorkOutput},
    spec::Encryption,
};

use super::{
    check,
    task::{self, Heard, Place, Question, Scene, Step, Task},
    writes::NewWrite,
};

/// bucket → (for a part) its upload → write id → (unless the tenant chose plain) data key → open.
pub(super) struct Begin {
    place: Place,
    key: Arc<str>,
    destination: Destination,
    /// What the bucket said when this began.
    compression: Compression,
    write: Option<WriteId>,
}

impl Begin {
    pub(super) fn new(bucket: Arc<str>, key: Arc<str>, mut destination: Destination) -> Result<Self, Error> {
        check::key(&key)?;
        match &mut destination {
            Destination::Object { attributes, precondition } => {
                check::attributes(attributes)?;
                check::precondition(precondition);
            }
            Destination::Part { number, .. } if !(1..=PARTS_MAX).contains(number) => {
                return Err(Error::invalid("parts are numbered from 1 to the limit").with("limit", PARTS_MAX));
            }
            Destination::Part { .. } => {}
        }
        Ok(Self { place: Place::new(bucket), key, destination, compression: Compression::Off, write: None })
    }

    fn found(&mut self, row: Result<Arc<mesh_core::meta::BucketRow>, task::Failure>) -> Result<Step, Error> {
        // What it says now goes with the write to its end: so all stripes of it are stored, and read, in one way.
        self.compression = row.as_ref().map_or(Compression::Off, |row| row.compression);
        let bucket = self.place.found(row)?;
        Ok(match self.destination {
            // A part is bound to the key of its upload: so the upload is asked for first.
            Destination::Part { upload, .. } => {
                Step::Ask(Question::query(bucket.group, Query::Upload { bucket: bucket.clone(), upload }))
            }
            Destination::Object { .. } => Step::Grant(bucket.group),
        })
    }

    fn uploaded(&self, answer: &MetaAnswer) -> Result<Step, Error> {
        match answer {
            MetaAnswer::Upload(row) if *row.key == *self.key => Ok(Step::Grant(self.place.bucket()?.group)),
            MetaAnswer::Upload(_) => {
                Err(Error::new(ErrorKind::NoSuchUpload, "the upload is of another key").with("key", &self.key))
            }
            other => Err(task::unexpected("an upload", other)),
        }
    }

    fn granted(&mut self, write: WriteId, scene: &mut Scene<'_, '_>) -> Result<Step, Error> {
        self.write = Some(write);
        match scene.desk.encryption(scene.caller.tenant)? {
            Encryption::Key(key) => {
                let entropy = scene.cx.random::<44>().to_vec();
                Ok(Step::Compute(ComputeJob::WrapKey { key, entropy }))
            }
            Encryption::None => self.open(None, scene),
        }
    }

    fn open(&mut self, data_key: Option<Arc<WrappedKey>>, scene: &mut Scene<'_, '_>) -> Result<Step, Error> {
        let write = self.write.ok_or_else(|| Error::bug("a write was opened before it had an id"))?;
        let stripe_bytes = scene.desk.spec.stripe_bytes;
        let layout = scene.desk.spec.layout.ok_or_else(no_layout)?;
        let new = NewWrite {
            write,
            principal: scene.caller.principal.clone(),
            bucket: self.place.bucket()?.clone(),
            key: self.key.clone(),
            destination: self.destination.clone(),
            layout,
            data_key,
            stripe_bytes,
            compression: self.compression,
        };
        scene.desk.writes.open(new, scene.cx.now())?;
        Ok(Step::answer(Answer::Begun { write, stripe_bytes }))
    }
}

impl Task for Begin {
    fn hear(&mut self, heard: Heard, scene: &mut Scene<'_, '_>) -> Step {
        let step = match heard {
            Heard::Begin if scene.desk.spec.layout.is_none() => Err(no_layout()),
            Heard::Begin => scene
                .desk
                .encryption(scene.caller.tenant)
                .and_then(|_| scene.desk.writes.admit())
                .map(|()| self.place.find()),
            Heard::Bucket(row) => self.found(row),
            Heard::Answer(Ok(response)) => task::meta(response).and_then(|answer| self.uploaded(&answer)),
            Heard::Answer(Err(failure)) => {
                self.place.look_again(&failure, scene.desk).ok_or_else(|| Error::from(failure))
            }
            Heard::Granted(granted) => granted.and_then(|write| self.granted(write, scene)),
            Heard::Computed(Ok(WorkOutput::Key(data_key))) => self.open(Some(data_key), scene),
            Heard::Computed(Ok(_)) => Err(Error::bug("a data key was asked for, and something else was made")),
            Heard::Computed(Err(error)) => Err(task::below(error)),
            Heard::Due => Ok(Step::astray()),
        };
        step.unwrap_or_else(Step::fail)
    }

    fn write(&self) -> Option<WriteId> {
        self.write
    }
}

fn no_layout() -> Error {
    Error::new(ErrorKind::TooFewShards, "there is no layout yet: the mesh has too few drives; send again later")
}
