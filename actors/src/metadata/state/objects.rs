//! Namespace groups: objects that become visible and go.

use std::sync::Arc;

use mesh_core::{
    Error, ErrorKind,
    id::{ActorId, TenantId},
    limits::{KEY_BYTES_MAX, MANIFEST_RUNS_MAX, USER_METADATA_BYTES_MAX},
    meta::{Attributes, Body, BucketRef, Extent, MetaAnswer, ObjectRow, Precondition, Shape},
    time::UnixMillis,
};

use super::{
    blocks, repair,
    rows::{Rows, Use},
    waste,
};
use crate::metadata::keys;

/// Standard headers and checksums of an object at most, names and values together.
const HEADER_BYTES_MAX: usize = 16_384;
/// An ETag at most.
const ETAG_BYTES_MAX: usize = 128;

/// Who proposes, and about what.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'c> {
    pub(super) actor: ActorId,
    pub(super) bucket: &'c BucketRef,
    pub(super) key: &'c str,
}

pub(super) fn put(
    rows: &mut Rows<'_>,
    place: Place<'_>,
    row: &Arc<ObjectRow>,
    precondition: &Precondition,
    quota_bytes: Option<u64>,
) -> Result<MetaAnswer, Error> {
    let Place { actor, bucket, key } = place;
    expect_key(key)?;
    let Body::Whole(extent) = &row.body else {
        return Err(Error::invalid("an object of parts comes only from a completed upload"));
    };
    if extent.write != row.version || extent.len != row.len {
        return Err(
            Error::invalid("a manifest's version and length are those of its extent").with("version", row.version)
        );
    }
    expect_extent(extent)?;
    expect_attributes(&row.attributes)?;
    expect_etag(&row.etag)?;
    blocks::expect_fresh(rows, actor, row.version)?;
    rows.expect_unsealed(bucket)?;
    let old = rows.find::<ObjectRow>(&keys::object(bucket.id, key))?;
    expect_precondition(old.as_ref(), precondition)?;
    let freed = old.as_ref().map_or(0, |old| old.len);
    charge(rows, bucket.tenant, row.len, freed, quota_bytes)?;
    repair::note(rows, extent)?;
    show(rows, bucket, key, row, old)?;
    Ok(MetaAnswer::Committed { version: row.version, etag: row.etag.clone() })
}

pub(super) fn delete(
    rows: &mut Rows<'_>,
    bucket: &BucketRef,
    key: &str,
    at: UnixMillis,
    precondition: &Precondition,
) -> Result<MetaAnswer, Error> {
    expect_key(key)?;
    let at_key = keys::object(bucket.id, key);
    let old = rows.find::<ObjectRow>(&at_key)?;
    rows.expect_unsealed(bucket)?;
    expect_precondition(old.as_ref(), precondition)?;
    let Some(old) = old else {
        return Ok(MetaAnswer::Deleted { existed: false });
    };
    discard(rows, bucket, at_key, old, at)?;
    Ok(MetaAnswer::Deleted { existed: true })
}

/// Makes a visible object garbage.
pub(super) fn discard(
    rows: &mut Rows<'_>,
    bucket: &BucketRef,
    at_key: Vec<u8>,
    old: ObjectRow,
    at: UnixMillis,
) -> Result<(), Error> {
    let mut usage = rows.usage(bucket.tenant)?;
    usage.bytes = usage.bytes.saturating_sub(old.len);
    usage.objects = usage.objects.saturating_sub(1);
    rows.put(keys::usage(bucket.tenant), &usage)?;
    rows.remove(at_key);
    waste::discard_object(rows, (bucket.id, bucket.tenant), old, at)
}

pub(super) fn object(rows: &Rows<'_>, bucket: &BucketRef, key: &str) -> Result<MetaAnswer, Error> {
    rows.expect_readable(bucket)?;
    match rows.find::<ObjectRow>(&keys::object(bucket.id, key))? {
        Some(mut row) => {
            if let Body::Whole(extent) = &mut row.body {
                repair::locate(rows, extent)?;
            }
            Ok(MetaAnswer::Object(row.into()))
        }
        None => Err(Error::new(ErrorKind::NotFound, "there is no such object").with("key", key)),
    }
}

/// Makes an object visible in the place of `old`, which becomes garbage, and counts it. Bytes are counted already.
pub(super) fn show(
    rows: &mut Rows<'_>,
    bucket: &BucketRef,
    key: &str,
    row: &ObjectRow,
    old: Option<ObjectRow>,
) -> Result<(), Error> {
    match old {
        Some(old) => waste::discard_object(rows, (bucket.id, bucket.tenant), old, row.modified)?,
        None => {
            let mut usage = rows.usage(bucket.tenant)?;
            usage.objects += 1;
            rows.put(keys::usage(bucket.tenant), &usage)?;
        }
    }
    rows.put(keys::object(bucket.id, key), row)?;
    let shape = match &row.body {
        Body::Whole(extent) => Some(Shape::of(extent)),
        Body::Parts { .. } => None,
    };
    rows.set_use(row.version, &Use::Object { bucket: bucket.id, shape })
}

/// Counts `added` bytes and takes `freed` off, unless that goes over the quota. What frees more than it adds is always
/// allowed.
pub(super) fn charge(
    rows: &mut Rows<'_>,
    tenant: TenantId,
    added: u64,
    freed: u64,
    quota_bytes: Option<u64>,
) -> Result<(), Error> {
    let mut usage = rows.usage(tenant)?;
    let bytes = usage.bytes.saturating_sub(freed).saturating_add(added);
    if let Some(quota) = quota_bytes
        && bytes > quota
        && bytes > usage.bytes
    {
        return Err(Error::new(ErrorKind::QuotaExceeded, "the tenant's quota is used up; delete something first")
            .with("used", usage.bytes)
            .with("quota", quota));
    }
    usage.bytes = bytes;
    rows.put(keys::usage(tenant), &usage)
}

pub(super) fn expect_precondition(old: Option<&ObjectRow>, precondition: &Precondition) -> Result<(), Error> {
    let held = match (old, &precondition.etag) {
        (Some(_), _) if precondition.absent => false,
        (Some(old), Some(etag)) => old.etag == *etag,
        (None, Some(_)) => false,
        (_, None) => true,
    };
    if held { Ok(()) } else { Err(Error::new(ErrorKind::Precondition, "the object is not as the request demands")) }
}

pub(super) fn expect_key(key: &str) -> Result<(), Error> {
    if key.is_empty() {
        return Err(Error::invalid("an object's key has at least 1 byte"));
    }
    if key.len() > KEY_BYTES_MAX {
        return Err(
            Error::new(ErrorKind::KeyTooLong, "an object's key has at most 1024 bytes").with("bytes", key.len())
        );
    }
    Ok(())
}

pub(super) fn expect_extent(extent: &Extent) -> Result<(), Error> {
    if extent.runs.len() > MANIFEST_RUNS_MAX {
        return Err(Error::new(ErrorKind::TooLarge, "a write has too many placement exceptions; send it again")
            .with("runs", extent.runs.len())
            .with("limit", MANIFEST_RUNS_MAX));
    }
    if extent.len > 0 && extent.stripe_bytes == 0 {
        return Err(Error::invalid("a write with bytes has stripes"));
    }
    Ok(())
}

pub(super) fn expect_etag(etag: &str) -> Result<(), Error> {
    if etag.is_empty() || etag.len() > ETAG_BYTES_MAX {
        return Err(Error::invalid("an ETag has 1 to 128 bytes").with("bytes", etag.len()));
    }
    Ok(())
}

pub(super) fn expect_attributes(attributes: &Attributes) -> Result<(), Error> {
    let bytes = |map: &std::collections::BTreeMap<String, String>| -> usize {
        map.iter().map(|(name, value)| name.len() + value.len()).sum()
    };
    let user = bytes(&attributes.user);
    if user > USER_METADATA_BYTES_MAX {
        return Err(Error::new(ErrorKind::TooLarge, "an object's user metadata is over the limit")
            .with("bytes", user)
            .with("limit", USER_METADATA_BYTES_MAX));
    }
    let headers = bytes(&attributes.headers) + bytes(&attributes.checksums);
    if headers > HEADER_BYTES_MAX {
        return Err(Error::new(ErrorKind::TooLarge, "an object's headers are over the limit")
            .with("bytes", headers)
            .with("limit", HEADER_BYTES_MAX));
    }
    Ok(())
}
