//! Namespace groups: multipart uploads.
//!
//! Parts have rows of their own under their upload, and keep them when the upload becomes an object; completing it
//! fills in their offsets.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use mesh_core::{
    Error, ErrorKind,
    id::{ActorId, BucketId, WriteId},
    limits::{PART_BYTES_MAX, PART_BYTES_MIN, PARTS_MAX},
    meta::{Body, BucketRef, MetaAnswer, ObjectRow, PartRow, Precondition, UploadRow},
    time::UnixMillis,
};

use super::{
    blocks, objects, repair,
    rows::{Rows, Upload, Use, Waste, no_such_upload},
    waste,
};
use crate::metadata::keys;

/// How an upload ends well.
#[derive(Clone, Copy, Debug)]
pub(super) struct Completion<'c> {
    pub(super) upload: WriteId,
    pub(super) parts: &'c [(u32, String)],
    pub(super) etag: &'c str,
    pub(super) checksums: &'c BTreeMap<String, String>,
    pub(super) at: UnixMillis,
}

pub(super) fn create(
    rows: &mut Rows<'_>,
    actor: ActorId,
    bucket: &BucketRef,
    row: &Arc<UploadRow>,
) -> Result<MetaAnswer, Error> {
    objects::expect_key(&row.key)?;
    objects::expect_attributes(&row.attributes)?;
    blocks::expect_fresh(rows, actor, row.upload)?;
    rows.expect_unsealed(bucket)?;
    let upload = Upload { row: UploadRow::clone(row), bucket: bucket.id, tenant: bucket.tenant, bytes: 0 };
    rows.put(keys::upload(row.upload), &upload)?;
    rows.put(keys::upload_key(bucket.id, &row.key, row.upload), &())?;
    rows.set_use(row.upload, &Use::Upload)?;
    Ok(MetaAnswer::Done)
}

pub(super) fn put_part(
    rows: &mut Rows<'_>,
    actor: ActorId,
    bucket: &BucketRef,
    upload: WriteId,
    part: &Arc<PartRow>,
    quota_bytes: Option<u64>,
) -> Result<MetaAnswer, Error> {
    if !(1..=PARTS_MAX).contains(&part.number) {
        return Err(Error::invalid("parts are numbered 1 to 10000").with("number", part.number));
    }
    if part.extent.len > PART_BYTES_MAX {
        return Err(Error::new(ErrorKind::TooLarge, "a part is over the limit").with("limit", PART_BYTES_MAX));
    }
    objects::expect_extent(&part.extent)?;
    objects::expect_etag(&part.etag)?;
    let write = part.extent.write;
    blocks::expect_fresh(rows, actor, write)?;
    rows.expect_unsealed(bucket)?;
    let mut state = open_upload(rows, bucket.id, upload)?;
    let at = keys::part(upload, part.number);
    let old = rows.find::<PartRow>(&at)?;
    let freed = old.as_ref().map_or(0, |old| old.extent.len);
    objects::charge(rows, state.tenant, part.extent.len, freed, quota_bytes)?;
    state.bytes = state.bytes.saturating_sub(freed).saturating_add(part.extent.len);
    rows.put(keys::upload(upload), &state)?;
    if let Some(old) = old {
        waste::discard_part(rows, state.tenant, old, part.modified)?;
    }
    repair::note(rows, &part.extent)?;
    rows.put(at, &PartRow { offset: 0, ..PartRow::clone(part) })?;
    rows.set_use(write, &Use::Part { upload, number: part.number })?;
    Ok(MetaAnswer::Done)
}

pub(super) fn complete(
    rows: &mut Rows<'_>,
    (bucket, key): (&BucketRef, &str),
    end: &Completion<'_>,
    precondition: &Precondition,
) -> Result<MetaAnswer, Error> {
    let upload = end.upload;
    objects::expect_etag(end.etag)?;
    let committed = MetaAnswer::Committed { version: upload, etag: end.etag.to_owned() };
    if let Some(Use::Object { bucket: of, .. } | Use::Garbage { bucket: of, aborted: false, .. }) =
        rows.use_of(upload)?
    {
        return if of == bucket.id { Ok(committed) } else { Err(no_such_upload(upload)) };
    }
    rows.expect_unsealed(bucket)?;
    let state = open_upload(rows, bucket.id, upload)?;
    if state.row.key != key {
        return Err(no_such_upload(upload));
    }
    let named = named_parts(rows, upload, end.parts)?;
    let old = rows.find::<ObjectRow>(&keys::object(bucket.id, key))?;
    objects::expect_precondition(old.as_ref(), precondition)?;

    let mut attributes = state.row.attributes.clone();
    attributes.checksums.extend(end.checksums.iter().map(|(name, value)| (name.clone(), value.clone())));
    objects::expect_attributes(&attributes)?;
    let len = place_parts(rows, upload, &named)?;
    leave_out(rows, &state, end)?;
    let freed = (state.bytes - len).saturating_add(old.as_ref().map_or(0, |old| old.len));
    objects::charge(rows, state.tenant, 0, freed, None)?;
    rows.remove(keys::upload(upload));
    rows.remove(keys::upload_key(bucket.id, key, upload));
    let row = ObjectRow {
        version: upload,
        len,
        etag: end.etag.to_owned(),
        modified: end.at,
        attributes,
        body: Body::Parts { upload, count: end.parts.len() as u32 },
    };
    objects::show(rows, bucket, key, &row, old)?;
    Ok(committed)
}

/// The rows of the parts that are to become an object.
fn named_parts(rows: &Rows<'_>, upload: WriteId, parts: &[(u32, String)]) -> Result<Vec<PartRow>, Error> {
    if parts.is_empty() || parts.len() > PARTS_MAX as usize {
        return Err(Error::invalid("an upload is completed with 1 to 10000 parts").with("parts", parts.len()));
    }
    if !parts.is_sorted_by(|(left, _), (right, _)| left < right) {
        return Err(Error::new(ErrorKind::InvalidPartOrder, "parts are named in ascending order, each once"));
    }
    let mut named = Vec::with_capacity(parts.len());
    for (at, (number, etag)) in parts.iter().enumerate() {
        let found = rows.find::<PartRow>(&keys::part(upload, *number))?.filter(|row| row.etag == *etag);
        let Some(row) = found else {
            return Err(Error::new(ErrorKind::InvalidPart, "a part was not uploaded, or its ETag differs")
                .with("number", number));
        };
        if at + 1 < parts.len() && row.extent.len < PART_BYTES_MIN {
            return Err(Error::new(ErrorKind::PartTooSmall, "every part but the last has at least 5 MiB")
                .with("number", number)
                .with("bytes", row.extent.len));
        }
        named.push(row);
    }
    Ok(named)
}

/// Gives parts their offsets; the object's length.
fn place_parts(rows: &mut Rows<'_>, upload: WriteId, named: &[PartRow]) -> Result<u64, Error> {
    let mut offset = 0_u64;
    for part in named {
        rows.put(keys::part(upload, part.number), &PartRow { offset, ..part.clone() })?;
        offset = offset.saturating_add(part.extent.len);
    }
    Ok(offset)
}

/// Makes the parts garbage that the object was completed without.
fn leave_out(rows: &mut Rows<'_>, state: &Upload, end: &Completion<'_>) -> Result<(), Error> {
    let named: BTreeSet<u32> = end.parts.iter().map(|(number, _)| *number).collect();
    for (key, part) in rows.first::<PartRow>(&keys::parts(end.upload), PARTS_MAX as usize)? {
        if !named.contains(&part.number) {
            rows.remove(key);
            waste::discard_part(rows, state.tenant, part, end.at)?;
        }
    }
    Ok(())
}

pub(super) fn abort(
    rows: &mut Rows<'_>,
    bucket: &BucketRef,
    upload: WriteId,
    at: UnixMillis,
) -> Result<MetaAnswer, Error> {
    rows.expect_unsealed(bucket)?;
    discard(rows, bucket, upload, at)?;
    Ok(MetaAnswer::Done)
}

/// Makes an open upload garbage.
pub(super) fn discard(rows: &mut Rows<'_>, bucket: &BucketRef, upload: WriteId, at: UnixMillis) -> Result<(), Error> {
    let state = open_upload(rows, bucket.id, upload)?;
    objects::charge(rows, state.tenant, 0, state.bytes, None)?;
    rows.remove(keys::upload(upload));
    rows.remove(keys::upload_key(bucket.id, &state.row.key, upload));
    let at = waste::stamp(rows, at)?;
    rows.put(keys::waste(at, upload), &Waste { tenant: state.tenant, extent: None })?;
    rows.set_use(upload, &Use::Garbage { bucket: bucket.id, since: at, aborted: true })
}

pub(super) fn upload(rows: &Rows<'_>, bucket: &BucketRef, upload: WriteId) -> Result<MetaAnswer, Error> {
    rows.expect_readable(bucket)?;
    Ok(MetaAnswer::Upload(open_upload(rows, bucket.id, upload)?.row.into()))
}

/// An upload of a bucket that is neither completed nor aborted.
pub(super) fn open_upload(rows: &Rows<'_>, bucket: BucketId, upload: WriteId) -> Result<Upload, Error> {
    rows.find::<Upload>(&keys::upload(upload))?
        .filter(|state| state.bucket == bucket)
        .ok_or_else(|| no_such_upload(upload))
}
