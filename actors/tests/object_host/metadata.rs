//! A model of the metadata groups, as their vocabulary describes them. Linearizable, of course.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use mesh_core::{
    Error, ErrorKind,
    id::{BucketId, DriveId, GroupId, StripeId, WriteId},
    meta::{
        Body, BucketCommand, BucketRef, BucketRow, Command, Extent, Garbage, GarbageMark, GarbagePage, ListEntry,
        Listing, MetaAnswer, ObjectCommand, ObjectRow, PartRow, Precondition, Query, Reference, RepairState, Session,
        Shape, UpkeepCommand, UploadRow,
    },
    time::UnixMillis,
};

use super::{GROUP, TENANT};

#[derive(Default)]
pub struct Metadata {
    pub buckets: BTreeMap<Arc<str>, Arc<BucketRow>>,
    buckets_made: u64,
    pub objects: BTreeMap<(BucketId, Arc<str>), Arc<ObjectRow>>,
    pub uploads: BTreeMap<WriteId, (BucketId, Arc<UploadRow>)>,
    pub parts: BTreeMap<(WriteId, u32), Arc<PartRow>>,
    /// Parts of completed uploads, by offset.
    extents: BTreeMap<WriteId, Vec<Arc<PartRow>>>,
    pub garbage: BTreeMap<WriteId, Garbage>,
    stamp: u64,
    /// Deletions that drives are owed.
    pub owed: BTreeSet<(DriveId, WriteId)>,
    /// Writes that took effect once: none may again.
    seen: BTreeSet<WriteId>,
    sealed: BTreeSet<BucketId>,
    blocks: Vec<WriteId>,
    sessions: BTreeMap<GroupId, Session>,
    /// What was said to each command.
    said: BTreeMap<(GroupId, Session, u64), Answered>,
    closed: BTreeSet<WriteId>,
    swept: BTreeSet<WriteId>,
}

/// Writes of a block: few, so that blocks end.
const BLOCK: u64 = 8;

type Answered = Result<MetaAnswer, Error>;

fn fail<T>(kind: ErrorKind) -> Result<T, Error> {
    Err(Error::new(kind, "the model says no"))
}

impl Metadata {
    /// The stripes referred to; with garbage or without.
    pub fn stripes(&self, garbage: bool) -> Vec<StripeId> {
        let mut extents: Vec<&Extent> = Vec::new();
        for row in self.objects.values() {
            match &row.body {
                Body::Whole(extent) => extents.push(extent),
                Body::Parts { upload, .. } => {
                    extents.extend(self.extents[upload].iter().map(|part| &part.extent));
                }
            }
        }
        extents.extend(self.parts.values().map(|part| &part.extent));
        extents.extend(self.garbage.values().filter(|_| garbage).map(|row| &row.extent));
        let stripes = |extent: &Extent| -> Vec<StripeId> {
            let attempt = |stripe| extent.run_of(stripe).map_or(0, |run| run.attempt);
            (0..extent.stripes())
                .map(|stripe| StripeId { write: extent.write, stripe, attempt: attempt(stripe) })
                .collect()
        };
        extents.into_iter().flat_map(stripes).collect()
    }

    /// Blocks that are closed and not swept.
    pub fn closed_blocks(&self) -> Vec<WriteId> {
        self.closed.difference(&self.swept).copied().collect()
    }

    fn is_open(&self, write: WriteId) -> bool {
        self.blocks.iter().any(|first| (first.0..first.0 + BLOCK).contains(&write.0) && !self.closed.contains(first))
    }

    /// Refuses a write that takes effect behind the end of its block, or twice.
    fn admit(&mut self, write: WriteId) -> Result<(), Error> {
        if self.is_open(write) && self.seen.insert(write) { Ok(()) } else { fail(ErrorKind::Conflict) }
    }

    fn reference(&self, write: WriteId) -> Reference {
        if self.is_open(write) {
            return Reference::Open;
        }
        let whole = self.objects.values().filter_map(|row| match &row.body {
            Body::Whole(extent) => Some(extent),
            Body::Parts { .. } => None,
        });
        let parts = self.parts.values().chain(self.extents.values().flatten()).map(|part| &part.extent);
        let mut all = whole.chain(parts).chain(self.garbage.values().map(|row| &row.extent));
        let named = self.uploads.contains_key(&write) || self.objects.values().any(|row| row.version == write);
        match all.find(|extent| extent.write == write) {
            Some(extent) => Reference::Used(Some(Shape::of(extent))),
            None if named => Reference::Used(None),
            None => Reference::Nobody,
        }
    }

    fn discard(&mut self, extent: Extent, since: UnixMillis) {
        self.stamp = since.0.max(self.stamp + 1);
        self.garbage.insert(extent.write, Garbage { tenant: TENANT, since: UnixMillis(self.stamp), extent });
    }

    fn remove_object(&mut self, bucket: BucketId, key: &Arc<str>, at: UnixMillis) -> bool {
        let Some(row) = self.objects.remove(&(bucket, key.clone())) else { return false };
        match &row.body {
            Body::Whole(extent) => self.discard(extent.clone(), at),
            Body::Parts { upload, .. } => {
                for part in self.extents.remove(upload).unwrap_or_default() {
                    self.discard(part.extent.clone(), at);
                }
            }
        }
        true
    }

    fn known(&self, bucket: &BucketRef) -> Result<(), Error> {
        let exists = self.buckets.values().any(|row| row.bucket == *bucket);
        if exists && !self.sealed.contains(&bucket.id) { Ok(()) } else { fail(ErrorKind::NoSuchBucket) }
    }

    fn holds(&self, bucket: BucketId, key: &Arc<str>, precondition: &Precondition) -> Result<(), Error> {
        let row = self.objects.get(&(bucket, key.clone()));
        let etag = precondition.etag.as_ref();
        let good =
            !(precondition.absent && row.is_some()) && etag.is_none_or(|etag| row.is_some_and(|row| row.etag == *etag));
        if good { Ok(()) } else { fail(ErrorKind::Precondition) }
    }

    pub fn apply(&mut self, command: &Command, now: UnixMillis) -> Answered {
        let group = command.group();
        let Some(proposer) = command.proposer() else { return self.decide(group, command, now) };
        if self.sessions.get(&group) != Some(&proposer.session) {
            return fail(ErrorKind::Fenced);
        }
        let key = (group, proposer.session, proposer.request);
        if !self.said.contains_key(&key) {
            let answer = self.decide(group, command, now);
            self.said.insert(key, answer);
        }
        self.said[&key].clone()
    }

    fn decide(&mut self, group: GroupId, command: &Command, _now: UnixMillis) -> Answered {
        match command {
            Command::OpenSession { session, .. } => {
                match self.sessions.get(&group) {
                    Some(present) if present > session => return fail(ErrorKind::Fenced),
                    Some(present) if present == session => return Ok(MetaAnswer::Done),
                    _ => {}
                }
                self.sessions.insert(group, *session);
                if group != GroupId::CONTROL {
                    self.closed.extend(&self.blocks);
                }
                Ok(MetaAnswer::Done)
            }
            Command::Bucket(BucketCommand::CreateBucket { name, tenant, created, settings, .. }) => {
                if self.buckets.contains_key(name) {
                    return fail(ErrorKind::BucketExists);
                }
                self.buckets_made += 1;
                let id = BucketId(self.buckets_made);
                let bucket = BucketRef { id, name: name.clone(), tenant: *tenant, group: GROUP };
                let row = Arc::new(BucketRow { bucket, created: *created, settings: *settings });
                self.buckets.insert(name.clone(), row.clone());
                Ok(MetaAnswer::Bucket(row))
            }
            Command::Bucket(BucketCommand::RemoveBucket { bucket }) => {
                assert!(self.sealed.contains(bucket), "removed before it is sealed: {bucket}");
                self.buckets.retain(|_, row| row.bucket.id != *bucket);
                Ok(MetaAnswer::Done)
            }
            Command::Object(bucket, ObjectCommand::SealBucket { .. }) => {
                let used = self.objects.keys().any(|(id, _)| *id == bucket.id)
                    || self.uploads.values().any(|(id, _)| *id == bucket.id);
                if used {
                    return fail(ErrorKind::BucketNotEmpty);
                }
                self.sealed.insert(bucket.id);
                Ok(MetaAnswer::Done)
            }
            Command::Upkeep(_, UpkeepCommand::OpenBlock { .. }) => {
                let first = WriteId::new(group, self.blocks.len() as u64 * BLOCK + 1);
                self.blocks.push(first);
                Ok(MetaAnswer::Block { first, count: BLOCK })
            }
            Command::Upkeep(_, UpkeepCommand::CloseBlock { first }) => {
                assert!(self.blocks.iter().any(|block| block == first), "no such block: {first}");
                self.closed.insert(*first);
                Ok(MetaAnswer::Done)
            }
            Command::Upkeep(_, UpkeepCommand::SweptBlock { first }) => {
                assert!(self.closed.contains(first), "swept while open: {first}");
                self.swept.insert(*first);
                Ok(MetaAnswer::Done)
            }
            Command::Upkeep(_, UpkeepCommand::DropGarbage { writes }) => {
                for write in writes {
                    self.garbage.remove(write);
                }
                Ok(MetaAnswer::Done)
            }
            Command::Upkeep(_, UpkeepCommand::OweGarbage { owed }) => {
                let all = owed.iter().flat_map(|(drive, writes)| writes.iter().map(|write| (*drive, *write)));
                let of_garbage: Vec<_> = all.filter(|(_, write)| self.garbage.contains_key(write)).collect();
                for (_, write) in &of_garbage {
                    self.garbage.remove(write);
                }
                self.owed.extend(of_garbage);
                Ok(MetaAnswer::Writes(vec![]))
            }
            Command::Upkeep(_, UpkeepCommand::PayOwed { drive, writes }) => {
                for write in writes {
                    self.owed.remove(&(*drive, *write));
                }
                Ok(MetaAnswer::Done)
            }
            other => self.apply_to_bucket(other),
        }
    }

    fn apply_to_bucket(&mut self, command: &Command) -> Answered {
        match command {
            Command::Object(bucket, ObjectCommand::PutObject { key, row, precondition, .. }) => {
                let committed = MetaAnswer::Committed { version: row.version, etag: row.etag.clone() };
                self.admit(row.version)?;
                self.known(bucket)?;
                self.holds(bucket.id, key, precondition)?;
                self.remove_object(bucket.id, key, row.modified);
                self.objects.insert((bucket.id, key.clone()), row.clone());
                Ok(committed)
            }
            Command::Object(bucket, ObjectCommand::DeleteObject { key, at, precondition, .. }) => {
                self.known(bucket)?;
                self.holds(bucket.id, key, precondition)?;
                Ok(MetaAnswer::Deleted { existed: self.remove_object(bucket.id, key, *at) })
            }
            Command::Object(bucket, ObjectCommand::CreateUpload { row, .. }) => {
                self.admit(row.upload)?;
                self.known(bucket)?;
                self.uploads.insert(row.upload, (bucket.id, row.clone()));
                Ok(MetaAnswer::Done)
            }
            Command::Object(_, ObjectCommand::PutPart { upload, part, .. }) => {
                self.admit(part.extent.write)?;
                if !self.uploads.contains_key(upload) {
                    return fail(ErrorKind::NoSuchUpload);
                }
                if let Some(before) = self.parts.insert((*upload, part.number), part.clone()) {
                    self.discard(before.extent.clone(), part.modified);
                }
                Ok(MetaAnswer::Done)
            }
            Command::Object(
                bucket,
                ObjectCommand::CompleteUpload { key, upload, parts, etag, at, precondition, .. },
            ) => {
                let committed = MetaAnswer::Committed { version: *upload, etag: etag.clone() };
                let Some((_, row)) = self.uploads.get(upload).cloned() else {
                    let done = self.extents.contains_key(upload);
                    return if done { Ok(committed) } else { fail(ErrorKind::NoSuchUpload) };
                };
                self.holds(bucket.id, key, precondition)?;
                let mut chosen = Vec::new();
                let mut offset = 0;
                for (number, etag) in parts {
                    let part = self.parts.get(&(*upload, *number)).filter(|part| part.etag == *etag);
                    let Some(part) = part else { return fail(ErrorKind::InvalidPart) };
                    chosen.push(Arc::new(PartRow { offset, ..PartRow::clone(part) }));
                    offset += part.extent.len;
                }
                self.remove_object(bucket.id, key, *at);
                self.drop_upload(*upload, &parts.iter().map(|(number, _)| *number).collect(), *at);
                let body = Body::Parts { upload: *upload, count: parts.len() as u32 };
                let attributes = row.attributes.clone();
                let (version, etag, modified) = (*upload, etag.clone(), *at);
                let row = ObjectRow { version, len: offset, etag, modified, attributes, body };
                self.objects.insert((bucket.id, key.clone()), Arc::new(row));
                self.extents.insert(*upload, chosen);
                Ok(committed)
            }
            Command::Object(_, ObjectCommand::AbortUpload { upload, at, .. }) => {
                if !self.uploads.contains_key(upload) {
                    return fail(ErrorKind::NoSuchUpload);
                }
                self.drop_upload(*upload, &BTreeSet::new(), *at);
                Ok(MetaAnswer::Done)
            }
            other => panic!("not for this model: {other:?}"),
        }
    }

    fn drop_upload(&mut self, upload: WriteId, kept: &BTreeSet<u32>, at: UnixMillis) {
        self.uploads.remove(&upload);
        let keys: Vec<(WriteId, u32)> =
            self.parts.range((upload, 0)..=(upload, u32::MAX)).map(|(key, _)| *key).collect();
        for key in keys {
            let part = self.parts.remove(&key).expect("just seen");
            if !kept.contains(&key.1) {
                self.discard(part.extent.clone(), at);
            }
        }
    }

    pub fn query(&self, group: GroupId, query: &Query) -> Answered {
        match query {
            Query::Bucket { name } => {
                assert_eq!(group, GroupId::CONTROL);
                self.buckets
                    .get(name)
                    .cloned()
                    .map_or_else(|| fail(ErrorKind::NoSuchBucket), |row| Ok(MetaAnswer::Bucket(row)))
            }
            Query::Buckets { .. } => Ok(MetaAnswer::Buckets(self.buckets.values().cloned().collect())),
            Query::Object { bucket, key } => {
                self.known(bucket)?;
                let row = self.objects.get(&(bucket.id, key.clone())).cloned();
                row.map_or_else(|| fail(ErrorKind::NotFound), |row| Ok(MetaAnswer::Object(row)))
            }
            Query::List { bucket, prefix, after, limit, .. } => {
                self.known(bucket)?;
                let rows = self
                    .objects
                    .iter()
                    .filter(|((id, key), _)| *id == bucket.id && key.starts_with(prefix.as_str()) && **key > **after);
                let entry = |((_, key), row): (&(BucketId, Arc<str>), &Arc<ObjectRow>)| ListEntry {
                    key: key.as_ref().to_owned(),
                    len: row.len,
                    etag: row.etag.clone(),
                    modified: row.modified,
                };
                let mut entries: Vec<ListEntry> = rows.map(entry).collect();
                let more = entries.len() > *limit as usize;
                entries.truncate(*limit as usize);
                let next = entries.last().filter(|_| more).map(|entry| entry.key.clone());
                Ok(MetaAnswer::Listing(Arc::new(Listing { entries, prefixes: vec![], next })))
            }
            Query::Upload { upload, .. } => match self.uploads.get(upload) {
                Some((_, row)) => Ok(MetaAnswer::Upload(row.clone())),
                None => fail(ErrorKind::NoSuchUpload),
            },
            Query::Uploads { bucket, .. } => {
                let rows = self.uploads.values().filter(|(id, _)| *id == bucket.id);
                Ok(MetaAnswer::Uploads(rows.map(|(_, row)| row.clone()).collect(), false))
            }
            Query::Parts { upload, after, limit, .. } => {
                if !self.uploads.contains_key(upload) {
                    return fail(ErrorKind::NoSuchUpload);
                }
                let rows = self.parts.range((*upload, after + 1)..=(*upload, u32::MAX)).map(|(_, row)| row.clone());
                let mut rows: Vec<Arc<PartRow>> = rows.collect();
                let more = rows.len() > *limit as usize;
                rows.truncate(*limit as usize);
                Ok(MetaAnswer::Parts(rows, more))
            }
            Query::Extents { upload, offset, limit, .. } => {
                let Some(parts) = self.extents.get(upload) else { return fail(ErrorKind::NotFound) };
                let behind = parts.iter().filter(|part| part.offset + part.extent.len > *offset).cloned();
                let mut rows: Vec<Arc<PartRow>> = behind.collect();
                let more = rows.len() > *limit as usize;
                rows.truncate(*limit as usize);
                Ok(MetaAnswer::Parts(rows, more))
            }
            Query::Garbage { before, after, limit } => {
                let mark = |row: &Garbage| GarbageMark { since: row.since, write: row.extent.write, part: 0 };
                let behind = |row: &&Garbage| row.since < *before && after.is_none_or(|after| mark(row) > after);
                let mut rows: Vec<Garbage> = self.garbage.values().filter(behind).cloned().collect();
                rows.sort_by_key(|row| row.since);
                let more = rows.len() > *limit as usize;
                rows.truncate(*limit as usize);
                let owing: BTreeSet<DriveId> = self.owed.iter().map(|(drive, _)| *drive).collect();
                Ok(MetaAnswer::Garbage(GarbagePage {
                    next: rows.last().map(mark).filter(|_| more),
                    rows,
                    newest: UnixMillis(self.stamp),
                    owing: owing.into_iter().collect(),
                }))
            }
            Query::Owed { drive, limit } => {
                let writes = self.owed.range((*drive, WriteId(0))..=(*drive, WriteId(u64::MAX)));
                Ok(MetaAnswer::Writes(writes.take(*limit as usize).map(|(_, write)| *write).collect()))
            }
            Query::Referenced { writes } => {
                // A few at a time.
                Ok(MetaAnswer::Referenced(writes.iter().take(5).map(|write| self.reference(*write)).collect()))
            }
            Query::ClosedBlocks { after, limit } => {
                let behind = |first: &WriteId| after.is_none_or(|after| *first > after);
                let blocks = self.closed_blocks().into_iter().filter(behind).take(*limit as usize);
                Ok(MetaAnswer::ClosedBlocks(blocks.map(|first| (first, BLOCK)).collect()))
            }
            // Nothing is moved here.
            Query::Repair => Ok(MetaAnswer::Repair(RepairState::default())),
            other => panic!("not for this model: {other:?}"),
        }
    }
}
