//! Finish and Abort: the end of a write, one way or the other.

use std::{collections::BTreeMap, sync::Arc};

use mesh_core::{
    Answer, Error, ErrorKind,
    id::WriteId,
    meta::{Body, Command, Extent, MetaAnswer, ObjectCommand, ObjectRow, PartRow, Proposer},
    op::Destination,
};

use super::{
    check,
    task::{self, Failure, Heard, Question, Scene, Step, Task},
    writes::OpenWrite,
};

/// Proposes the manifest. The write is no longer open from the first step on.
pub(super) struct Finish {
    write: WriteId,
    len: u64,
    etag: String,
    checksums: BTreeMap<String, String>,
    open: Option<OpenWrite>,
    /// The bucket is gone: whether another of its name has taken its place decides what the caller is told.
    refused: Option<Error>,
}

impl Finish {
    pub(super) fn new(
        write: WriteId,
        len: u64,
        etag: String,
        checksums: BTreeMap<String, String>,
    ) -> Result<Self, Error> {
        check::etag(&etag)?;
        check::checksums(&checksums)?;
        Ok(Self { write, len, etag: check::unquoted(&etag).to_owned(), checksums, open: None, refused: None })
    }

    fn begin(&mut self, scene: &mut Scene<'_, '_>) -> Result<Step, Error> {
        let now = scene.cx.now();
        let open = scene.desk.writes.close(self.write, &scene.caller.principal, now)?;
        match open.extent(self.len) {
            Ok(extent) => {
                let proposer = match scene.desk.proposer(open.bucket.group, now) {
                    Ok(proposer) => proposer,
                    Err(error) => {
                        scene.desk.reclaim.discard(open.doomed(), now);
                        return Err(error);
                    }
                };
                let command = self.command(&open, extent, proposer, scene);
                self.open = Some(open);
                Ok(Step::Ask(Question::propose(command).patiently()))
            }
            Err(error) => {
                scene.desk.reclaim.discard(open.doomed(), now);
                Err(error)
            }
        }
    }

    fn command(&self, open: &OpenWrite, extent: Extent, proposer: Proposer, scene: &Scene<'_, '_>) -> Command {
        let modified = scene.cx.wall();
        let etag = self.etag.clone();
        let command = match &open.destination {
            Destination::Object { attributes, precondition } => {
                let mut attributes = attributes.clone();
                attributes.checksums.extend(self.checksums.clone());
                let body = Body::Whole(extent);
                let row = ObjectRow { version: self.write, len: self.len, etag, modified, attributes, body };
                ObjectCommand::PutObject {
                    proposer,
                    key: open.key.clone(),
                    row: Arc::new(row),
                    precondition: precondition.clone(),
                    quota_bytes: None,
                }
            }
            Destination::Part { upload, number } => {
                let checksums = self.checksums.clone();
                let part = PartRow { number: *number, offset: 0, etag, checksums, modified, extent };
                ObjectCommand::PutPart { proposer, upload: *upload, part: Arc::new(part), quota_bytes: None }
            }
        };
        Command::Object(open.bucket.clone(), command)
    }

    fn committed(&self, answer: &MetaAnswer) -> Result<Step, Error> {
        match answer {
            MetaAnswer::Committed { version, etag } => {
                Ok(Step::answer(Answer::Committed { version: *version, etag: etag.clone() }))
            }
            MetaAnswer::Done => Ok(Step::answer(Answer::Committed { version: self.write, etag: self.etag.clone() })),
            other => Err(task::unexpected("a commit", other)),
        }
    }

    fn failed(&mut self, failure: Failure, scene: &mut Scene<'_, '_>) -> Step {
        let Some(open) = self.open.take() else { return Step::astray() };
        if failure.maybe {
            // The manifest may be, or may yet become, visible: its stripes are left to the closing of the block.
            return Step::fail(failure.of_change());
        }
        scene.desk.reclaim.discard(open.doomed(), scene.cx.now());
        if failure.is(ErrorKind::NoSuchBucket) {
            scene.desk.found_sealed(open.bucket.id);
            self.refused = Some(failure.error);
            let name = open.bucket.name.clone();
            self.open = Some(open);
            return Step::Bucket { name, fresh: true };
        }
        Step::fail(scene.desk.refused(self.write, failure.error))
    }

    /// The bucket was gone. If another of its name is there now, sending again will go well.
    fn looked(&mut self, row: Result<Arc<mesh_core::meta::BucketRow>, Failure>) -> Step {
        let (Some(open), Some(refused)) = (self.open.take(), self.refused.take()) else { return Step::astray() };
        match row {
            Ok(row) if row.bucket.id != open.bucket.id => Step::fail(
                Error::new(ErrorKind::Overloaded, "the bucket was made anew while this was sent; send it again")
                    .with("bucket", &row.bucket.name),
            ),
            _ => Step::fail(refused),
        }
    }
}

impl Task for Finish {
    fn hear(&mut self, heard: Heard, scene: &mut Scene<'_, '_>) -> Step {
        match heard {
            Heard::Begin => self.begin(scene).unwrap_or_else(Step::fail),
            Heard::Answer(Ok(response)) => {
                if let Some(open) = &self.open {
                    scene.desk.expect_garbage(open.bucket.group, scene.cx.now());
                }
                task::meta(response).and_then(|answer| self.committed(&answer)).unwrap_or_else(Step::fail)
            }
            Heard::Answer(Err(failure)) => self.failed(failure, scene),
            Heard::Bucket(row) => self.looked(row),
            Heard::Computed(_) | Heard::Due | Heard::Granted(_) => Step::astray(),
        }
    }

    fn write(&self) -> Option<WriteId> {
        Some(self.write)
    }
}

/// Drops a write. Its stripes are deleted behind the answer.
pub(super) struct Abort {
    write: WriteId,
}

impl Abort {
    pub(super) const fn new(write: WriteId) -> Self {
        Self { write }
    }
}

impl Task for Abort {
    fn hear(&mut self, _: Heard, scene: &mut Scene<'_, '_>) -> Step {
        let now = scene.cx.now();
        match scene.desk.writes.close(self.write, &scene.caller.principal, now) {
            Ok(open) => {
                scene.desk.reclaim.discard(open.doomed(), now);
                Step::answer(Answer::Done)
            }
            Err(error) => Step::fail(error),
        }
    }

    fn write(&self) -> Option<WriteId> {
        Some(self.write)
    }
}
