//! A namespace group: which function does what a command asks. The bucket of a command is one of this group.

use mesh_core::{
    Error,
    meta::{BucketRef, MetaAnswer, ObjectCommand, UpkeepCommand},
};

use super::{blocks, buckets, ends, objects, owed, repair, rows::Rows, uploads, waste};

/// What is in a bucket.
pub(super) fn object(rows: &mut Rows<'_>, bucket: &BucketRef, command: &ObjectCommand) -> Result<MetaAnswer, Error> {
    match command {
        ObjectCommand::PutObject { proposer, key, row, precondition, quota_bytes } => {
            let place = objects::Place { actor: proposer.actor, bucket, key };
            objects::put(rows, place, row, precondition, *quota_bytes)
        }
        ObjectCommand::DeleteObject { key, at, precondition, .. } => {
            objects::delete(rows, bucket, key, *at, precondition)
        }
        ObjectCommand::CreateUpload { proposer, row } => uploads::create(rows, proposer.actor, bucket, row),
        ObjectCommand::PutPart { proposer, upload, part, quota_bytes } => {
            uploads::put_part(rows, proposer.actor, bucket, *upload, part, *quota_bytes)
        }
        ObjectCommand::CompleteUpload { key, upload, parts, etag, checksums, at, precondition, .. } => {
            let end = uploads::Completion { upload: *upload, parts, etag, checksums, at: *at };
            uploads::complete(rows, (bucket, key), &end, precondition)
        }
        ObjectCommand::AbortUpload { upload, at, .. } => uploads::abort(rows, bucket, *upload, *at),
        ObjectCommand::SealBucket { .. } => buckets::seal(rows, bucket.id),
    }
}

/// Write ids, garbage, and what is to be repaired.
pub(super) fn upkeep(rows: &mut Rows<'_>, command: &UpkeepCommand) -> Result<MetaAnswer, Error> {
    match command {
        UpkeepCommand::OpenBlock { proposer } => blocks::open(rows, proposer.actor),
        UpkeepCommand::CloseBlock { first } => blocks::close(rows, *first),
        UpkeepCommand::SweptBlock { first } => blocks::swept(rows, *first),
        UpkeepCommand::DropGarbage { writes } => waste::drop_garbage(rows, writes),
        UpkeepCommand::OweGarbage { owed } => owed::owe(rows, owed),
        UpkeepCommand::PayOwed { drive, writes } => owed::pay(rows, *drive, writes),
        UpkeepCommand::BeginRepair { layout } => repair::begin(rows, *layout),
        UpkeepCommand::Counted { count } => repair::counted(rows, *count),
        UpkeepCommand::EndRepair { layout, line, layouts } => repair::end(rows, *layout, *line, layouts),
        UpkeepCommand::Repaired { layout, writes } => repair::settle(rows, *layout, writes),
        UpkeepCommand::EmptyBucket { bucket, at } => ends::empty(rows, bucket, *at),
    }
}
