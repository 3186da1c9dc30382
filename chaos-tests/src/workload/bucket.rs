//! A bucket that comes or goes. Only an empty one goes; so that one went says that its key had no value, and that one did
//! not that it had.

use std::sync::Arc;

use mesh_core::{ErrorKind, Outcome, op::ObjectOp};

use super::{Desk, Progress, Task, bucket_of};
use crate::oracle::{Deed, End, Ticket};

/// Makes a bucket, or deletes it.
#[derive(Debug)]
pub struct Bucket {
    key: Arc<str>,
    deletes: bool,
    entry: Option<Ticket>,
}

impl Bucket {
    /// The bucket of this key.
    #[must_use]
    pub const fn new(key: Arc<str>, deletes: bool) -> Self {
        Self { key, deletes, entry: None }
    }
}

impl Task for Bucket {
    fn begin(&mut self, desk: &mut Desk<'_>) {
        let bucket = bucket_of(&self.key);
        if self.deletes {
            self.entry = Some(desk.oracle.begin(&self.key, Deed::Read(None), desk.now));
            desk.ask(0, ObjectOp::DeleteBucket { bucket });
        } else {
            desk.ask(0, ObjectOp::CreateBucket { bucket });
        }
    }

    fn hear(&mut self, _tag: u32, outcome: Outcome, desk: &mut Desk<'_>) -> Progress {
        let told = match &outcome {
            Ok(_) => End::Did(Deed::Read(None)),
            Err(error) if error.kind() == ErrorKind::NoSuchBucket => End::Did(Deed::Read(None)),
            Err(error) if error.kind() == ErrorKind::BucketNotEmpty => End::Did(Deed::Exists),
            Err(_) => End::Nothing,
        };
        if let Some(entry) = self.entry {
            desk.oracle.end(entry, told, desk.now);
        }
        let was_there = [ErrorKind::BucketExists, ErrorKind::NoSuchBucket, ErrorKind::BucketNotEmpty];
        match outcome {
            Err(error) if !was_there.contains(&error.kind()) => Progress::Over(Err(error)),
            _ => Progress::Over(Ok(())),
        }
    }

    fn name(&self) -> String {
        format!("{} the bucket of {:?}", if self.deletes { "delete" } else { "make" }, self.key)
    }
}
