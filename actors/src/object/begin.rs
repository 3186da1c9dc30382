//! Begin: opens a write.

use core::time::Duration;
use std::sync::Arc;

use mesh_core::{
    Answer, Error, ErrorKind,
    id::WriteId,
    limits::PARTS_MAX,
    meta::{BucketRow, BucketSettings, MetaAnswer, Query, WrappedKey},
    op::Destination,
    port::{ComputeJob, WorkOutput},
    spec::Encryption,
    time::Instant,
};

use super::{
    check,
    task::{self, Heard, Place, Question, Scene, Step, Task},
    writes::NewWrite,
};

/// bucket → (where its code is new) groups for it → (for a part) its upload → write id → (unless the tenant chose plain) data
/// key → open.
pub(super) struct Begin {
    place: Place,
    key: Arc<str>,
    destination: Destination,
    /// What the bucket said when this began.
    settings: BucketSettings,
    /// There were no groups for its code then, and it is waited for them until this.
    until: Option<Instant>,
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
        Ok(Self {
            place: Place::new(bucket),
            key,
            destination,
            settings: BucketSettings::default(),
            until: None,
            write: None,
        })
    }

    fn found(&mut self, row: Result<Arc<BucketRow>, task::Failure>, scene: &Scene<'_, '_>) -> Result<Step, Error> {
        // What it says now goes with the write to its end: so all stripes of it are stored, and read, in one way.
        self.settings = row.as_ref().map_or_else(|_| BucketSettings::default(), |row| row.settings);
        self.place.found(row)?;
        self.laid_out(scene)
    }

    /// Goes on once there are groups for the bucket's code. Whoever has just made it should not have to send again.
    fn laid_out(&mut self, scene: &Scene<'_, '_>) -> Result<Step, Error> {
        let now = scene.cx.now();
        if let Err(error) = scene.desk.layout(self.settings.code) {
            let until = *self.until.get_or_insert_with(|| (now + GROUPS_WAIT_MAX).min(scene.caller.deadline));
            let next = now + GROUPS_PAUSE;
            return if next < until { Ok(Step::Pause(next)) } else { Err(error) };
        }
        let bucket = self.place.bucket()?.clone();
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
        let layout = scene.desk.layout(self.settings.code)?;
        let new = NewWrite {
            write,
            principal: scene.caller.principal.clone(),
            bucket: self.place.bucket()?.clone(),
            key: self.key.clone(),
            destination: self.destination.clone(),
            layout,
            data_key,
            stripe_bytes,
            settings: self.settings,
        };
        scene.desk.writes.open(new, scene.cx.now())?;
        Ok(Step::answer(Answer::Begun { write, stripe_bytes }))
    }
}

impl Task for Begin {
    fn hear(&mut self, heard: Heard, scene: &mut Scene<'_, '_>) -> Step {
        let step = match heard {
            Heard::Begin => scene
                .desk
                .layout(None)
                .and_then(|_| scene.desk.encryption(scene.caller.tenant))
                .and_then(|_| scene.desk.writes.admit())
                .map(|()| self.place.find()),
            Heard::Bucket(row) => self.found(row, scene),
            Heard::Answer(Ok(response)) => task::meta(response).and_then(|answer| self.uploaded(&answer)),
            Heard::Answer(Err(failure)) => {
                self.place.look_again(&failure, scene.desk).ok_or_else(|| Error::from(failure))
            }
            Heard::Granted(granted) => granted.and_then(|write| self.granted(write, scene)),
            Heard::Computed(Ok(WorkOutput::Key(data_key))) => self.open(Some(data_key), scene),
            Heard::Computed(Ok(_)) => Err(Error::bug("a data key was asked for, and something else was made")),
            Heard::Computed(Err(error)) => Err(task::below(error)),
            Heard::Due => self.laid_out(scene),
        };
        step.unwrap_or_else(Step::fail)
    }

    fn write(&self) -> Option<WriteId> {
        self.write
    }
}

/// Groups for a code that is new are there within this, unless too few drives are left for it or nobody leads.
const GROUPS_WAIT_MAX: Duration = Duration::from_secs(5);
const GROUPS_PAUSE: Duration = Duration::from_millis(50);
