//! A multipart upload. Parts that are not the last would have to be of 5 MiB; so one with two small parts is one that
//! must be refused.

use std::{collections::BTreeMap, sync::Arc};

use mesh_core::{
    Answer, Certainty, Error, ErrorKind, Outcome, Response,
    id::WriteId,
    limits::PART_BYTES_MIN,
    meta::{Attributes, Precondition},
    op::ObjectOp,
};

use super::{BUCKET, Desk, Progress, Put, Task, etag, senseless};
use crate::{
    content::Content,
    oracle::{Deed, End, Ticket},
};

const CREATE: u32 = u32::MAX - 10;
const COMPLETE: u32 = u32::MAX - 11;
const ABORT: u32 = u32::MAX - 12;

/// CreateUpload, parts one after another, and CompleteUpload or AbortUpload.
#[derive(Debug)]
pub struct Upload {
    key: Arc<str>,
    parts: Vec<Content>,
    window: usize,
    aborts: bool,
    upload: Option<WriteId>,
    sent: usize,
    part: Option<Put>,
    entry: Option<Ticket>,
    failed: Option<Error>,
}

impl Upload {
    /// Of these parts.
    #[must_use]
    pub const fn new(key: Arc<str>, parts: Vec<Content>, window: usize, aborts: bool) -> Self {
        Self { key, parts, window, aborts, upload: None, sent: 0, part: None, entry: None, failed: None }
    }

    fn next(&mut self, desk: &mut Desk<'_>) -> Progress {
        let Some(upload) = self.upload else { return Progress::Over(Ok(())) };
        match self.parts.get(self.sent) {
            Some(content) if self.failed.is_none() => {
                self.sent += 1;
                let mut part = Put::part(self.key.clone(), upload, self.sent as u32, *content, self.window);
                part.begin(desk);
                self.part = Some(part);
            }
            _ if self.failed.is_some() || self.aborts => {
                desk.ask(ABORT, ObjectOp::AbortUpload { bucket: BUCKET.into(), upload });
            }
            _ => self.complete(upload, desk),
        }
        Progress::Going
    }

    fn complete(&mut self, upload: WriteId, desk: &mut Desk<'_>) {
        if let Err(why) = desk.oracle.expect(upload, &self.key, self.parts.clone()) {
            desk.violate(why);
        }
        self.entry = Some(desk.oracle.begin(&self.key, Deed::Write(Some(upload)), desk.now));
        desk.ask(
            COMPLETE,
            ObjectOp::CompleteUpload {
                bucket: BUCKET.into(),
                key: self.key.clone(),
                upload,
                parts: (1..).zip(&self.parts).map(|(number, content)| (number, etag(*content))).collect(),
                checksums: BTreeMap::new(),
                precondition: Precondition::default(),
            },
        );
    }

    fn completed(&mut self, outcome: Outcome, desk: &mut Desk<'_>) -> Progress {
        let upload = self.upload.unwrap_or_default();
        let small = self.parts.split_last().is_some_and(|(_, most)| most.iter().any(|part| part.len < PART_BYTES_MIN));
        let end = match &outcome {
            Ok(Response { answer: Answer::Committed { version, .. }, .. }) if *version == upload && !small => {
                End::Did(Deed::Write(Some(upload)))
            }
            Ok(_) => {
                desk.violate(senseless("CompleteUpload", self.upload, &outcome));
                End::Unknown
            }
            Err(error) if error.certainty() == Certainty::NotProcessed => End::Nothing,
            Err(_) => End::Unknown,
        };
        if let Some(entry) = self.entry {
            desk.oracle.end(entry, end, desk.now);
        }
        match outcome {
            Err(error) if error.kind() == ErrorKind::PartTooSmall => Progress::Over(Ok(())),
            outcome => Progress::Over(outcome.map(|_| ())),
        }
    }
}

impl Task for Upload {
    fn begin(&mut self, desk: &mut Desk<'_>) {
        let attributes = Attributes::default();
        desk.ask(CREATE, ObjectOp::CreateUpload { bucket: BUCKET.into(), key: self.key.clone(), attributes });
    }

    fn hear(&mut self, tag: u32, outcome: Outcome, desk: &mut Desk<'_>) -> Progress {
        match (tag, outcome) {
            (CREATE, Ok(Response { answer: Answer::Upload(row), .. })) => {
                self.upload = Some(row.upload);
                self.next(desk)
            }
            (CREATE, Ok(response)) => {
                desk.violate(senseless("CreateUpload", None, &Ok(response)));
                Progress::Over(Ok(()))
            }
            (CREATE, Err(error)) => Progress::Over(Err(error)),
            (COMPLETE, outcome) => self.completed(outcome, desk),
            (ABORT, _) => Progress::Over(self.failed.take().map_or(Ok(()), Err)),
            (tag, outcome) => {
                let Some(mut part) = self.part.take() else { return Progress::Going };
                match part.hear(tag, outcome, desk) {
                    Progress::Going => {
                        self.part = Some(part);
                        Progress::Going
                    }
                    Progress::Over(result) => {
                        self.failed = result.err();
                        self.next(desk)
                    }
                }
            }
        }
    }

    fn name(&self) -> String {
        format!("upload {:?} of {} parts", self.key, self.parts.len())
    }
}
