//! Buckets: made, found, listed and deleted in the control group; sealed in the group of their keys.

use std::sync::Arc;

use mesh_core::{
    Answer, Error, ErrorKind,
    id::GroupId,
    meta::{BucketRow, Command, MetaAnswer, Query},
};

use super::{
    check,
    task::{self, Failure, Heard, Question, Scene, Step, Task},
};

/// Makes a bucket.
pub(super) struct Create {
    name: Arc<str>,
}

impl Create {
    pub(super) const fn new(name: Arc<str>) -> Self {
        Self { name }
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
                let command = Command::CreateBucket { name: self.name.clone(), tenant, created };
                Step::Ask(Question::propose(GroupId::CONTROL, command))
            }
            Heard::Answer(Ok(_)) => {
                scene.desk.buckets.forget(&self.name);
                Step::answer(Answer::Done)
            }
            // An earlier sending may have made it; it is the caller's, which is what was wanted.
            Heard::Answer(Err(failure)) if failure.maybe && failure.is(ErrorKind::BucketExists) => {
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
/// find -> mark (control) -> seal (group) -> remove (control) -> Done
///                             | not empty
///                             v
///                           unseal (group) -> unmark (control) -> BucketNotEmpty
/// ```
///
/// A delete that stops in between (its node is lost, its deadline passes) leaves the bucket marked, or sealed: the
/// seal, not the mark, keeps writes out. Deleting it again goes on from there, for every step may be repeated.
pub(super) struct Delete {
    name: Arc<str>,
    row: Option<Arc<BucketRow>>,
    stage: Stage,
    not_empty: Option<Error>,
}

#[derive(Clone, Copy)]
enum Stage {
    Mark,
    Seal,
    Remove,
    Unseal,
    Unmark,
}

impl Delete {
    pub(super) const fn new(name: Arc<str>) -> Self {
        Self { name, row: None, stage: Stage::Mark, not_empty: None }
    }

    fn go(&mut self, stage: Stage) -> Step {
        let Some(row) = &self.row else { return Step::astray() };
        self.stage = stage;
        let (bucket, group) = (row.bucket.id, row.bucket.group);
        let (group, command) = match stage {
            Stage::Mark => (GroupId::CONTROL, Command::MarkBucket { bucket, deleting: true }),
            Stage::Seal => (group, Command::SealBucket { bucket }),
            Stage::Remove => (GroupId::CONTROL, Command::RemoveBucket { bucket }),
            Stage::Unseal => (group, Command::UnsealBucket { bucket }),
            Stage::Unmark => (GroupId::CONTROL, Command::MarkBucket { bucket, deleting: false }),
        };
        // Once begun it is brought to its end, also against the tenant's rate.
        Step::Ask(Question::propose(group, command).patiently())
    }

    fn failed(&mut self, failure: Failure) -> Step {
        match self.stage {
            Stage::Seal if failure.is(ErrorKind::BucketNotEmpty) => {
                self.not_empty = Some(failure.error);
                self.go(Stage::Unseal)
            }
            // An earlier sending removed it.
            Stage::Remove if failure.maybe && failure.is(ErrorKind::NoSuchBucket) => Step::answer(Answer::Done),
            // Whether or not it could be taken back, the bucket is not empty; a later delete cleans up.
            Stage::Unseal => self.go(Stage::Unmark),
            Stage::Unmark => self.refuse(),
            Stage::Mark | Stage::Seal | Stage::Remove => Step::fail(failure.of_change()),
        }
    }

    fn refuse(&mut self) -> Step {
        self.not_empty.take().map_or_else(Step::astray, Step::fail)
    }
}

impl Task for Delete {
    fn hear(&mut self, heard: Heard, scene: &mut Scene<'_, '_>) -> Step {
        match heard {
            Heard::Begin => Step::Bucket { name: self.name.clone(), fresh: true },
            Heard::Bucket(Ok(row)) => {
                self.row = Some(row);
                self.go(Stage::Mark)
            }
            Heard::Bucket(Err(failure)) => Step::fail(failure),
            Heard::Answer(Ok(_)) => match self.stage {
                Stage::Mark => self.go(Stage::Seal),
                Stage::Seal => {
                    scene.desk.buckets.forget(&self.name);
                    self.go(Stage::Remove)
                }
                Stage::Remove => Step::answer(Answer::Done),
                Stage::Unseal => self.go(Stage::Unmark),
                Stage::Unmark => self.refuse(),
            },
            Heard::Answer(Err(failure)) => self.failed(failure),
            Heard::Computed(_) | Heard::Due | Heard::Granted(_) => Step::astray(),
        }
    }
}
