//! Buckets: made, found, listed and deleted in the control group; sealed in the group of their keys.

use std::sync::Arc;

use mesh_core::{
    Answer, Error, ErrorKind,
    id::GroupId,
    meta::{BucketCommand, BucketRow, BucketSettings, Command, MetaAnswer, ObjectCommand, Query},
};

use super::{
    check,
    task::{self, Failure, Heard, Question, Scene, Step, Task},
};

/// Makes a bucket.
pub(super) struct Create {
    name: Arc<str>,
    settings: BucketSettings,
}

impl Create {
    pub(super) const fn new(name: Arc<str>, settings: BucketSettings) -> Self {
        Self { name, settings }
    }
}

impl Task for Create {
    fn hear(&mut self, heard: Heard, scene: &mut Scene<'_, '_>) -> Step {
        match heard {
            Heard::Begin => {
                if let Err(error) = check::bucket_name(&self.name) {
                    return Step::fail(error);
                }
                let (tenant, created) = (scene.caller.tenant, scene.cx.wall());
                match scene.desk.proposer(GroupId::CONTROL, scene.cx.now()) {
                    Ok(proposer) => {
                        let (proposer, name, settings) = (Some(proposer), self.name.clone(), self.settings);
                        let command = BucketCommand::CreateBucket { proposer, name, tenant, created, settings };
                        Step::Ask(Question::propose(command))
                    }
                    Err(error) => Step::fail(error),
                }
            }
            Heard::Answer(Ok(_)) => {
                scene.desk.buckets.forget(&self.name);
                Step::answer(Answer::Done)
            }
            Heard::Answer(Err(failure)) => Step::fail(failure.of_change()),
            _ => Step::astray(),
        }
    }
}

/// Finds a bucket, never in the cache: Policy must see who asks.
pub(super) struct Head {
    name: Arc<str>,
}

impl Head {
    pub(super) const fn new(name: Arc<str>) -> Self {
        Self { name }
    }
}

impl Task for Head {
    fn hear(&mut self, heard: Heard, _: &mut Scene<'_, '_>) -> Step {
        match heard {
            Heard::Begin => Step::Bucket { name: self.name.clone(), fresh: true },
            Heard::Bucket(Ok(row)) => Step::answer(Answer::Bucket(row)),
            Heard::Bucket(Err(failure)) => Step::fail(failure),
            _ => Step::astray(),
        }
    }
}

/// Lists the caller's tenant's buckets.
pub(super) struct List;

impl Task for List {
    fn hear(&mut self, heard: Heard, scene: &mut Scene<'_, '_>) -> Step {
        match heard {
            Heard::Begin => {
                let tenant = scene.caller.tenant;
                Step::Ask(Question::query(GroupId::CONTROL, Query::Buckets { tenant }))
            }
            Heard::Answer(Ok(response)) => match task::meta(response).as_deref() {
                Ok(MetaAnswer::Buckets(rows)) => Step::answer(Answer::Buckets(rows.clone())),
                Ok(other) => Step::fail(task::unexpected("buckets", other)),
                Err(error) => Step::fail(error.clone()),
            },
            Heard::Answer(Err(failure)) => Step::fail(failure),
            _ => Step::astray(),
        }
    }
}

/// Deletes a bucket if it is empty:
///
/// ```text
/// find -> seal (group): from here on it is deleted -> remove (control): its name is gone -> Done
///           | not empty                              | nobody knows the bucket (any more): find, and remove again
///           v
///         BucketNotEmpty
/// ```
///
/// A delete that stops in between (its node is lost, its deadline passes) leaves a bucket that takes nothing and has its
/// name still: whoever deletes it again, or finds it so, goes on from there.
pub(super) struct Delete {
    name: Arc<str>,
    row: Option<Arc<BucketRow>>,
    sealed: bool,
    /// The bucket was found once more after it was sealed.
    found_again: bool,
}

impl Delete {
    pub(super) const fn new(name: Arc<str>) -> Self {
        Self { name, row: None, sealed: false, found_again: false }
    }

    fn seal(&mut self, row: Arc<BucketRow>, scene: &mut Scene<'_, '_>) -> Result<Step, Error> {
        let bucket = row.bucket.clone();
        self.row = Some(row);
        let proposer = scene.desk.proposer(bucket.group, scene.cx.now())?;
        let command = Command::Object(bucket, ObjectCommand::SealBucket { proposer });
        Ok(Step::Ask(Question::propose(command)))
    }

    fn remove(&mut self, scene: &mut Scene<'_, '_>) -> Step {
        let Some(row) = &self.row else { return Step::astray() };
        self.sealed = true;
        scene.desk.buckets.forget(&self.name);
        let command = BucketCommand::RemoveBucket { bucket: row.bucket.id };
        // Once begun it is brought to its end, also against the tenant's rate.
        Step::Ask(Question::propose(command).patiently())
    }

    /// Found, to be sealed, or once more to be removed. Whose name is gone then, or another's, is removed.
    fn found(&mut self, row: Result<Arc<BucketRow>, Failure>, scene: &mut Scene<'_, '_>) -> Step {
        let Some(sealed) = self.row.as_ref().filter(|_| self.sealed) else {
            return match row {
                Ok(row) => self.seal(row, scene).unwrap_or_else(Step::fail),
                Err(failure) => Step::fail(failure),
            };
        };
        match row {
            Ok(row) if row.bucket.id == sealed.bucket.id => self.remove(scene),
            Ok(_) => Step::answer(Answer::Done),
            Err(failure) if failure.is(ErrorKind::NoSuchBucket) => Step::answer(Answer::Done),
            Err(failure) => self.failed(failure, scene),
        }
    }

    /// Once it is sealed it is deleted, whatever becomes of its name.
    fn failed(&mut self, failure: Failure, scene: &mut Scene<'_, '_>) -> Step {
        match &self.row {
            // It is gone already, or the chain was built anew since it was found there.
            Some(_) if self.sealed && !self.found_again && failure.is(ErrorKind::NoSuchBucket) => {
                self.found_again = true;
                Step::Bucket { name: self.name.clone(), fresh: true }
            }
            Some(row) if self.sealed => {
                scene.desk.found_sealed(row.bucket.id);
                Step::fail(
                    Error::new(ErrorKind::Timeout, "the bucket is deleted, and its name is not free yet")
                        .caused_by(failure.error),
                )
            }
            _ => Step::fail(failure.of_change()),
        }
    }
}

impl Task for Delete {
    fn hear(&mut self, heard: Heard, scene: &mut Scene<'_, '_>) -> Step {
        match heard {
            Heard::Begin => Step::Bucket { name: self.name.clone(), fresh: true },
            Heard::Bucket(row) => self.found(row, scene),
            Heard::Answer(Ok(_)) if self.sealed => Step::answer(Answer::Done),
            Heard::Answer(Ok(_)) => self.remove(scene),
            Heard::Answer(Err(failure)) => self.failed(failure, scene),
            Heard::Computed(_) | Heard::Due | Heard::Granted(_) => Step::astray(),
        }
    }
}
