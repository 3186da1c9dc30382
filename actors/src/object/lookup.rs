//! Requests that are one question to the group of a bucket: heads, lists, deletes.

use std::sync::Arc;

use mesh_core::{
    Answer, Error,
    limits::LIST_KEYS_MAX,
    meta::{BucketRef, Command, MetaAnswer, ObjectCommand, Query},
    op::ObjectOp,
};

use super::{
    check,
    task::{self, Failure, Heard, Place, Question, Scene, Step, Task},
};

/// bucket → one question → its answer.
pub(super) struct Lookup {
    place: Place,
    op: ObjectOp,
}

impl Lookup {
    pub(super) fn new(op: ObjectOp) -> Result<Self, Error> {
        if let ObjectOp::Head { key, .. } | ObjectOp::Delete { key, .. } = &op {
            check::key(key)?;
        }
        let Some(bucket) = op.bucket() else {
            return Err(Error::bug("an operation without a bucket was taken for a lookup"));
        };
        Ok(Self { place: Place::new(bucket.clone()), op })
    }

    fn question(&self, bucket: BucketRef, scene: &mut Scene<'_, '_>) -> Result<Question, Error> {
        let group = bucket.group;
        let at = scene.cx.wall();
        let query = match self.op.clone() {
            ObjectOp::Head { key, .. } => Query::Object { bucket, key },
            ObjectOp::List { prefix, delimiter, after, limit, .. } => {
                Query::List { bucket, prefix, delimiter, after, limit: page(limit) }
            }
            ObjectOp::HeadUpload { upload, .. } => Query::Upload { bucket, upload },
            ObjectOp::ListParts { upload, after, limit, .. } => {
                Query::Parts { bucket, upload, after, limit: page(limit) }
            }
            ObjectOp::ListUploads { prefix, after, limit, .. } => {
                Query::Uploads { bucket, prefix, after, limit: page(limit) }
            }
            ObjectOp::Delete { key, mut precondition, .. } => {
                check::precondition(&mut precondition);
                let proposer = scene.desk.proposer(group, scene.cx.now())?;
                let command = ObjectCommand::DeleteObject { proposer, key, at, precondition };
                return Ok(Question::propose(Command::Object(bucket, command)));
            }
            ObjectOp::AbortUpload { upload, .. } => {
                let proposer = scene.desk.proposer(group, scene.cx.now())?;
                let command = ObjectCommand::AbortUpload { proposer, upload, at };
                return Ok(Question::propose(Command::Object(bucket, command)));
            }
            _ => return Err(Error::bug("an operation of many steps was taken for a lookup")),
        };
        Ok(Question::query(group, query))
    }

    const fn is_change(&self) -> bool {
        matches!(self.op, ObjectOp::Delete { .. } | ObjectOp::AbortUpload { .. })
    }

    fn failed(&mut self, failure: Failure, scene: &mut Scene<'_, '_>) -> Step {
        if let Some(step) = self.place.look_again(&failure, scene.desk) {
            return step;
        }
        Step::fail(if self.is_change() { failure.of_change() } else { failure.error })
    }

    fn answered(&self, answer: &MetaAnswer, scene: &mut Scene<'_, '_>) -> Result<Answer, Error> {
        if self.is_change() {
            scene.desk.expect_garbage(self.place.bucket()?.group, scene.cx.now());
        }
        match answer {
            MetaAnswer::Object(row) => Ok(Answer::Object(Arc::clone(row))),
            MetaAnswer::Listing(listing) => Ok(Answer::Listing(Arc::clone(listing))),
            MetaAnswer::Upload(row) => Ok(Answer::Upload(Arc::clone(row))),
            MetaAnswer::Uploads(rows, more) => Ok(Answer::Uploads(rows.clone(), *more)),
            MetaAnswer::Parts(rows, more) => Ok(Answer::Parts(rows.clone(), *more)),
            MetaAnswer::Deleted { .. } | MetaAnswer::Done => Ok(Answer::Done),
            other => Err(task::unexpected("what an object operation asks for", other)),
        }
    }
}

impl Task for Lookup {
    fn hear(&mut self, heard: Heard, scene: &mut Scene<'_, '_>) -> Step {
        let step = match heard {
            Heard::Begin => Ok(self.place.find()),
            Heard::Bucket(row) => self.place.found(row).and_then(|bucket| self.question(bucket, scene)).map(Step::Ask),
            Heard::Answer(Ok(response)) => {
                task::meta(response).and_then(|answer| self.answered(&answer, scene)).map(Step::answer)
            }
            Heard::Answer(Err(failure)) => Ok(self.failed(failure, scene)),
            Heard::Computed(_) | Heard::Due | Heard::Granted(_) => Ok(Step::astray()),
        };
        step.unwrap_or_else(Step::fail)
    }
}

fn page(limit: u32) -> u32 {
    limit.min(LIST_KEYS_MAX as u32)
}
