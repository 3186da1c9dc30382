//! A reference model of Object behind an [`Ingress`]: everything in maps, the contract of [`ObjectOp`] checked on the
//! way. Tests may make operations fail or wait.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use futures_util::future::BoxFuture;
use md5::{Digest as _, Md5};
use mesh_core::{
    Answer, Buf, Error, ErrorKind, Lane, Op, Outcome, Principal, Request, Response,
    id::{BucketId, GroupId, LayoutId, TenantId, WriteId},
    limits::{LIST_KEYS_MAX, PART_BYTES_MIN, STREAM_STRIPES},
    meta::{
        Attributes, Body, BucketRef, BucketRow, BucketSettings, Compression, Extent, ListEntry, Listing, ObjectRow,
        PartRow, Precondition, UploadRow,
    },
    op::{Destination, ObjectOp, Piece},
    port::Clock,
};
use tokio::sync::Semaphore;

use crate::s3::Ingress;

/// What a test does to an operation before the model sees it.
pub(super) type Fault = Box<dyn FnMut(&ObjectOp) -> Option<Error> + Send>;

/// The model. Appends and reads go through a gate that tests may close.
pub(super) struct Model {
    state: Arc<Mutex<State>>,
    clock: Arc<dyn Clock>,
    /// One permit an append; a test that takes them holds appends up.
    pub(super) gate: Arc<Semaphore>,
}

#[derive(Default)]
struct State {
    stripe_bytes: u32,
    next: u64,
    buckets: BTreeMap<Arc<str>, Bucket>,
    open: BTreeMap<WriteId, Open>,
    stripes: BTreeMap<(WriteId, u32), Buf>,
    completed: BTreeMap<WriteId, Vec<Arc<PartRow>>>,
    fault: Option<Fault>,
    log: Vec<&'static str>,
    appending: usize,
    appending_max: usize,
}

struct Bucket {
    row: Arc<BucketRow>,
    objects: BTreeMap<String, Arc<ObjectRow>>,
    uploads: BTreeMap<WriteId, (Arc<UploadRow>, Parts)>,
}

type Parts = BTreeMap<u32, Arc<PartRow>>;

struct Open {
    bucket: Arc<str>,
    key: Arc<str>,
    destination: Destination,
    lens: BTreeMap<u32, usize>,
}

impl Model {
    pub(super) fn new(stripe_bytes: u32, clock: Arc<dyn Clock>) -> Self {
        let state = State { stripe_bytes, next: 1, ..State::default() };
        Self { state: Arc::new(Mutex::new(state)), clock, gate: Arc::new(Semaphore::new(Semaphore::MAX_PERMITS)) }
    }

    /// From now on.
    pub(super) fn fail(&self, fault: impl FnMut(&ObjectOp) -> Option<Error> + Send + 'static) {
        self.state.lock().expect("no panic").fault = Some(Box::new(fault));
    }

    /// No more faults.
    pub(super) fn heal(&self) {
        self.state.lock().expect("no panic").fault = None;
    }

    /// How often an operation of this name came.
    pub(super) fn count(&self, name: &str) -> usize {
        self.state.lock().expect("no panic").log.iter().filter(|one| **one == name).count()
    }

    /// What was said of a bucket when it was made, if it was.
    pub(super) fn settings(&self, bucket: &str) -> Option<BucketSettings> {
        self.state.lock().expect("no panic").buckets.get(bucket).map(|bucket| bucket.row.settings)
    }

    /// Writes that are open, stripes that are kept, and the most appends that were under way at once.
    pub(super) fn holds(&self) -> (usize, usize, usize) {
        let state = self.state.lock().expect("no panic");
        (state.open.len(), state.stripes.len(), state.appending_max)
    }
}

/// An append that is under way, until it is answered or given up.
struct UnderWay(Arc<Mutex<State>>);

impl UnderWay {
    fn begin(state: &Arc<Mutex<State>>) -> Self {
        let mut held = state.lock().expect("no panic");
        held.appending += 1;
        held.appending_max = held.appending_max.max(held.appending);
        assert!(held.open.len() > 1 || held.appending <= STREAM_STRIPES, "a stream keeps its window");
        Self(state.clone())
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.lock().expect("no panic").appending -= 1;
    }
}

impl Ingress for Model {
    fn ask(&self, request: Request) -> BoxFuture<'static, Outcome> {
        let (state, clock, gate) = (self.state.clone(), self.clock.clone(), self.gate.clone());
        // Nothing happens before the first poll: a gateway that forgets to poll does not pass.
        Box::pin(async move {
            let Request { op: Op::Object(op), payload, principal, deadline, lane, trace: _ } = request else {
                return Err(Error::bug("not for Object"));
            };
            let Principal::User { tenant, name } = principal else {
                return Err(Error::new(ErrorKind::Denied, "who is this?"));
            };
            assert!(deadline > clock.now(), "a request is born with a future");
            assert!(payload.len() <= 64 << 10 || lane == Lane::Bulk, "payload travels in its lane");
            let append = matches!(*op, ObjectOp::Append { .. });
            let under_way = append.then(|| UnderWay::begin(&state));
            let permit = if append { gate.acquire_owned().await.ok() } else { None };
            tokio::task::yield_now().await;
            drop((under_way, permit));
            let mut state = state.lock().expect("no panic");
            state.log.push(name_of(&op));
            if let Some(error) = state.fault.as_mut().and_then(|fault| fault(&op)) {
                return Err(error);
            }
            state.apply(*op, payload, tenant, &name, &*clock)
        })
    }
}

fn name_of(op: &ObjectOp) -> &'static str {
    match op {
        ObjectOp::Begin { .. } => "Begin",
        ObjectOp::Append { .. } => "Append",
        ObjectOp::Finish { .. } => "Finish",
        ObjectOp::Abort { .. } => "Abort",
        ObjectOp::Head { .. } => "Head",
        ObjectOp::Plan { .. } => "Plan",
        ObjectOp::Read { .. } => "Read",
        ObjectOp::Delete { .. } => "Delete",
        ObjectOp::CreateBucket { .. } | ObjectOp::CreateBucketWith { .. } => "CreateBucket",
        ObjectOp::DeleteBucket { .. } => "DeleteBucket",
        ObjectOp::CreateUpload { .. } => "CreateUpload",
        ObjectOp::CompleteUpload { .. } => "CompleteUpload",
        ObjectOp::AbortUpload { .. } => "AbortUpload",
        _ => "other",
    }
}

fn error<T>(kind: ErrorKind) -> Result<T, Error> {
    Err(Error::new(kind, "so says the model"))
}

impl State {
    fn id(&mut self) -> WriteId {
        self.next += 1;
        WriteId::new(GroupId(1), self.next)
    }

    fn bucket(&mut self, name: &str, tenant: TenantId) -> Result<&mut Bucket, Error> {
        match self.buckets.get_mut(name) {
            Some(bucket) if bucket.row.bucket.tenant == tenant => Ok(bucket),
            Some(_) => error(ErrorKind::Denied),
            None => error(ErrorKind::NoSuchBucket),
        }
    }

    fn apply(&mut self, op: ObjectOp, payload: Buf, tenant: TenantId, name: &str, clock: &dyn Clock) -> Outcome {
        if let Some(bucket) = op.bucket()
            && !matches!(op, ObjectOp::CreateBucket { .. } | ObjectOp::CreateBucketWith { .. })
        {
            self.bucket(&bucket.clone(), tenant)?;
        }
        let at = clock.wall();
        match op {
            ObjectOp::CreateBucket { .. } | ObjectOp::CreateBucketWith { .. } => {
                let (bucket, settings) = match op {
                    ObjectOp::CreateBucket { bucket } => (bucket, BucketSettings::default()),
                    ObjectOp::CreateBucketWith { bucket, settings } => (bucket, settings),
                    _ => unreachable!("matched above"),
                };
                if let Some(held) = self.buckets.get(&bucket) {
                    let ours = held.row.bucket.tenant == tenant;
                    return error(if ours { ErrorKind::BucketExists } else { ErrorKind::BucketTaken });
                }
                let reference =
                    BucketRef { id: BucketId(self.id().0), name: bucket.clone(), tenant, group: GroupId(1) };
                let row = Arc::new(BucketRow { bucket: reference, created: at, settings });
                self.buckets.insert(bucket, Bucket { row, objects: BTreeMap::new(), uploads: BTreeMap::new() });
                Ok(Answer::Done.into())
            }
            ObjectOp::DeleteBucket { bucket } => {
                let held = self.bucket(&bucket, tenant)?;
                if !held.objects.is_empty() || !held.uploads.is_empty() {
                    return error(ErrorKind::BucketNotEmpty);
                }
                self.buckets.remove(&bucket);
                Ok(Answer::Done.into())
            }
            ObjectOp::HeadBucket { bucket } => Ok(Answer::Bucket(self.bucket(&bucket, tenant)?.row.clone()).into()),
            ObjectOp::ListBuckets => {
                let mine = self.buckets.values().filter(|bucket| bucket.row.bucket.tenant == tenant);
                Ok(Answer::Buckets(mine.map(|bucket| bucket.row.clone()).collect()).into())
            }
            ObjectOp::Begin { bucket, key, destination } => {
                if let Destination::Part { upload, .. } = &destination {
                    match self.bucket(&bucket, tenant)?.uploads.get(upload) {
                        Some((row, _)) if row.key == *key => {}
                        _ => return error(ErrorKind::NoSuchUpload),
                    }
                }
                let write = self.id();
                self.open.insert(write, Open { bucket, key, destination, lens: BTreeMap::new() });
                Ok(Answer::Begun { write, stripe_bytes: self.stripe_bytes }.into())
            }
            ObjectOp::Append { write, stripe } => {
                let Some(open) = self.open.get_mut(&write) else { return error(ErrorKind::NotFound) };
                assert!((1..=self.stripe_bytes as usize).contains(&payload.len()), "a stripe has 1 to stripe_bytes");
                assert!(payload.is_aligned(), "drives want aligned memory");
                assert_eq!(open.lens.insert(stripe, payload.len()), None, "a stripe is sent once");
                self.stripes.insert((write, stripe), payload);
                Ok(Answer::Done.into())
            }
            ObjectOp::Finish { write, len, etag, checksums } => self.finish(write, len, etag, checksums, tenant, clock),
            ObjectOp::Abort { write } => {
                if self.open.remove(&write).is_none() {
                    return error(ErrorKind::NotFound);
                }
                self.stripes.retain(|(of, _), _| *of != write);
                Ok(Answer::Done.into())
            }
            ObjectOp::Head { bucket, key } => match self.bucket(&bucket, tenant)?.objects.get(&*key) {
                Some(row) => Ok(Answer::Object(row.clone()).into()),
                None => error(ErrorKind::NotFound),
            },
            ObjectOp::Plan { object, offset, len, .. } => self.plan(&object, offset, len),
            ObjectOp::Read { piece, .. } => {
                let stripe = self.stripes.get(&(piece.extent.write, piece.stripe)).expect("a plan names what is there");
                let (start, len) = (piece.start as usize, piece.len as usize);
                Ok(Response { answer: Answer::Done, payload: stripe.slice(start..start + len) })
            }
            ObjectOp::Delete { bucket, key, precondition } => {
                let objects = &mut self.bucket(&bucket, tenant)?.objects;
                check(objects.get(&*key), &precondition)?;
                objects.remove(&*key);
                Ok(Answer::Done.into())
            }
            ObjectOp::List { bucket, prefix, delimiter, after, limit } => {
                assert!((1..=LIST_KEYS_MAX as u32).contains(&limit), "a page is bounded");
                let bucket = self.bucket(&bucket, tenant)?;
                Ok(Answer::Listing(Arc::new(list(bucket, &prefix, delimiter.as_deref(), &after, limit))).into())
            }
            ObjectOp::CreateUpload { bucket, key, attributes } => {
                let upload = self.id();
                let row = Arc::new(UploadRow {
                    upload,
                    key: key.to_string(),
                    attributes,
                    created: at,
                    principal: name.to_owned(),
                });
                self.bucket(&bucket, tenant)?.uploads.insert(upload, (row.clone(), BTreeMap::new()));
                Ok(Answer::Upload(row).into())
            }
            ObjectOp::HeadUpload { bucket, upload } => match self.bucket(&bucket, tenant)?.uploads.get(&upload) {
                Some((row, _)) => Ok(Answer::Upload(row.clone()).into()),
                None => error(ErrorKind::NoSuchUpload),
            },
            ObjectOp::ListParts { bucket, upload, after, limit } => {
                let Some((_, parts)) = self.bucket(&bucket, tenant)?.uploads.get(&upload) else {
                    return error(ErrorKind::NoSuchUpload);
                };
                let mut rest = parts.range(after + 1..).map(|(_, row)| row.clone());
                let page: Vec<_> = rest.by_ref().take(limit as usize).collect();
                Ok(Answer::Parts(page, rest.next().is_some()).into())
            }
            ObjectOp::ListUploads { bucket, prefix, after, limit } => {
                let uploads = self.bucket(&bucket, tenant)?.uploads.values().map(|(row, _)| row.clone());
                let place = |row: &Arc<UploadRow>| (row.key.clone(), row.upload);
                let mut rows: Vec<_> = uploads.filter(|row| row.key.starts_with(&prefix)).collect();
                rows.sort_by_key(place);
                rows.retain(|row| after.as_ref().is_none_or(|after| place(row) > *after));
                let more = rows.len() > limit as usize;
                rows.truncate(limit as usize);
                Ok(Answer::Uploads(rows, more).into())
            }
            ObjectOp::CompleteUpload { bucket, key, upload, parts, checksums, precondition } => {
                self.complete(&bucket, &key, upload, parts, checksums, &precondition, tenant, clock)
            }
            ObjectOp::AbortUpload { bucket, upload } => match self.bucket(&bucket, tenant)?.uploads.remove(&upload) {
                Some(_) => Ok(Answer::Done.into()),
                None => error(ErrorKind::NoSuchUpload),
            },
        }
    }

    fn finish(
        &mut self,
        write: WriteId,
        len: u64,
        etag: String,
        checksums: BTreeMap<String, String>,
        tenant: TenantId,
        clock: &dyn Clock,
    ) -> Outcome {
        let Some(open) = self.open.remove(&write) else { return error(ErrorKind::NotFound) };
        let stripe_bytes = self.stripe_bytes;
        let count = u32::try_from(open.lens.len()).expect("few");
        assert!(open.lens.keys().copied().eq(0..count), "stripes have no gaps");
        let full = open.lens.values().take(count.saturating_sub(1) as usize);
        assert!(full.into_iter().all(|&len| len == stripe_bytes as usize), "every stripe but the last is full");
        assert_eq!(open.lens.values().sum::<usize>() as u64, len, "the length is what was appended");
        let compression = Compression::Off;
        let extent =
            Extent { write, len, stripe_bytes, layout: LayoutId(1), key: None, runs: vec![], compression, code: None };
        let modified = clock.wall();
        let bucket = self.bucket(&open.bucket, tenant)?;
        match open.destination {
            Destination::Object { mut attributes, precondition } => {
                check(bucket.objects.get(&*open.key), &precondition)?;
                attributes.checksums = checksums;
                let body = Body::Whole(extent);
                let row = ObjectRow { version: write, len, etag: etag.clone(), modified, attributes, body };
                bucket.objects.insert(open.key.to_string(), Arc::new(row));
            }
            Destination::Part { upload, number } => {
                let Some((_, parts)) = bucket.uploads.get_mut(&upload) else { return error(ErrorKind::NoSuchUpload) };
                let row = PartRow { number, offset: 0, etag: etag.clone(), checksums, modified, extent };
                parts.insert(number, Arc::new(row));
            }
        }
        Ok(Answer::Committed { version: write, etag }.into())
    }

    #[allow(clippy::too_many_arguments, reason = "they are the operation's fields")]
    fn complete(
        &mut self,
        bucket: &str,
        key: &str,
        upload: WriteId,
        named: Vec<(u32, String)>,
        checksums: BTreeMap<String, String>,
        precondition: &Precondition,
        tenant: TenantId,
        clock: &dyn Clock,
    ) -> Outcome {
        let modified = clock.wall();
        let held = self.bucket(bucket, tenant)?;
        let Some((row, parts)) = held.uploads.get(&upload).filter(|(row, _)| row.key == key) else {
            return match held.objects.get(key) {
                Some(done) if done.version == upload => {
                    Ok(Answer::Committed { version: upload, etag: done.etag.clone() }.into())
                }
                _ => error(ErrorKind::NoSuchUpload),
            };
        };
        if named.windows(2).any(|pair| pair[0].0 >= pair[1].0) {
            return error(ErrorKind::InvalidPartOrder);
        }
        let (mut offset, mut chosen, mut digests) = (0, Vec::new(), Md5::new());
        for (at, (number, etag)) in named.iter().enumerate() {
            let Some(part) = parts.get(number).filter(|part| part.etag == *etag) else {
                return error(ErrorKind::InvalidPart);
            };
            if at + 1 < named.len() && part.extent.len < PART_BYTES_MIN {
                return error(ErrorKind::PartTooSmall);
            }
            let digest: Vec<u8> =
                (0..16).map(|at| u8::from_str_radix(&part.etag[2 * at..2 * at + 2], 16).expect("an MD5")).collect();
            digests.update(&digest);
            chosen.push(Arc::new(PartRow { offset, ..PartRow::clone(part) }));
            offset += part.extent.len;
        }
        check(held.objects.get(key), precondition)?;
        let digest: String = digests.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        let etag = format!("{digest}-{}", named.len());
        let attributes = Attributes { checksums, ..row.attributes.clone() };
        let count = u32::try_from(chosen.len()).expect("few");
        let body = Body::Parts { upload, count };
        let object = ObjectRow { version: upload, len: offset, etag: etag.clone(), modified, attributes, body };
        held.objects.insert(key.to_owned(), Arc::new(object));
        held.uploads.remove(&upload);
        self.completed.insert(upload, chosen);
        Ok(Answer::Committed { version: upload, etag }.into())
    }

    /// Pages are short, so that every reader meets their ends.
    fn plan(&self, object: &ObjectRow, offset: u64, len: u64) -> Outcome {
        assert!(len > 0 && offset + len <= object.len, "a plan's range lies inside the object");
        let extents: Vec<(u64, Arc<Extent>)> = match &object.body {
            Body::Whole(extent) => vec![(0, Arc::new(extent.clone()))],
            Body::Parts { upload, .. } => {
                self.completed[upload].iter().map(|part| (part.offset, Arc::new(part.extent.clone()))).collect()
            }
        };
        let (mut pieces, mut at) = (Vec::new(), offset);
        while at < offset + len && pieces.len() < 3 {
            let (start, extent) =
                extents.iter().find(|(start, extent)| (*start..start + extent.len).contains(&at)).expect("covered");
            let inside = at - start;
            let stripe_bytes = u64::from(extent.stripe_bytes);
            let stripe = inside / stripe_bytes;
            let end = ((stripe + 1) * stripe_bytes).min(extent.len).min(offset + len - start);
            pieces.push(Piece {
                extent: extent.clone(),
                stripe: u32::try_from(stripe).expect("small"),
                start: u32::try_from(inside % stripe_bytes).expect("small"),
                len: u32::try_from(end - inside).expect("small"),
            });
            at = start + end;
        }
        Ok(Answer::Pieces(pieces).into())
    }
}

fn check(present: Option<&Arc<ObjectRow>>, precondition: &Precondition) -> Result<(), Error> {
    let holds = !(precondition.absent && present.is_some())
        && precondition.etag.as_ref().is_none_or(|etag| present.is_some_and(|row| row.etag == *etag));
    if holds { Ok(()) } else { error(ErrorKind::Precondition) }
}

fn list(bucket: &Bucket, prefix: &str, delimiter: Option<&str>, after: &str, limit: u32) -> Listing {
    let mut listing = Listing::default();
    let mut last = None;
    for (key, row) in bucket.objects.iter().filter(|(key, _)| key.starts_with(prefix)) {
        let rest = &key[prefix.len()..];
        let group = delimiter
            .and_then(|delimiter| rest.find(delimiter).map(|at| key[..prefix.len() + at + delimiter.len()].to_owned()));
        let name = group.as_ref().unwrap_or(key);
        if name.as_str() <= after || (group.is_some() && group.as_ref() == listing.prefixes.last()) {
            continue;
        }
        if listing.entries.len() + listing.prefixes.len() == limit as usize {
            listing.next = last;
            return listing;
        }
        last = Some(name.clone());
        match group {
            Some(group) => listing.prefixes.push(group),
            None => listing.entries.push(ListEntry {
                key: key.clone(),
                len: row.len,
                etag: row.etag.clone(),
                modified: row.modified,
            }),
        }
    }
    listing
}
