//! Buckets: their rows in the control group, their seals in namespace groups.
//!
//! A bucket is deleted in two steps: the namespace group that owns its keys seals it, if it is empty, and the control
//! group removes its name. The seal decides, and nothing takes it back: so whoever deletes it too, or finds it sealed by
//! somebody who has vanished, goes on from there, and no write gets into a bucket whose name is about to go. The row of the
//! seal stays: writes that know the bucket from before may come at any time, and its number is never given out again.

use std::sync::Arc;

use mesh_core::{
    Error, ErrorKind,
    id::{BucketId, GroupId, TenantId},
    meta::{BucketRef, BucketRow, BucketSettings, MetaAnswer},
    time::UnixMillis,
};

use super::{
    codes,
    rows::{Formed, Rows, no_such_bucket},
    tenants,
};
use crate::metadata::keys::{self, Counter};

/// Buckets of a tenant at most, so that one answer names them all.
const BUCKETS_MAX: usize = 1000;

pub(super) fn create(
    rows: &mut Rows<'_>,
    name: &Arc<str>,
    tenant: TenantId,
    created: UnixMillis,
    settings: BucketSettings,
) -> Result<MetaAnswer, Error> {
    if let Some(why) = flaw_of(name) {
        return Err(Error::invalid(why).with("bucket", name));
    }
    let by_name = keys::bucket_name(name);
    if let Some(id) = rows.find::<BucketId>(&by_name)? {
        let known = bucket(rows, id)?;
        if known.bucket.tenant != tenant {
            return Err(Error::new(ErrorKind::BucketTaken, "another tenant has a bucket of this name"));
        }
        if (known.created, known.settings) == (created, settings) {
            return Ok(MetaAnswer::Bucket(known.into()));
        }
        return Err(Error::new(ErrorKind::BucketExists, "there is this bucket already").with("bucket", name));
    }
    let Some(formed) = rows.find::<Formed>(&keys::formed())? else {
        return Err(Error::new(ErrorKind::Conflict, "the cluster is not formed yet"));
    };
    tenants::tenant(rows, tenant)?;
    if let Some(code) = settings.code {
        codes::use_one(rows, formed.code, code)?;
    }
    rows.take_room(&keys::bucket_owner(tenant, ""), BUCKETS_MAX as u64, "buckets")?;
    let id = BucketId(rows.count(Counter::Buckets)?);
    let group = GroupId(1 + id.0 % u64::from(formed.namespaces));
    let row = BucketRow { bucket: BucketRef { id, name: Arc::clone(name), tenant, group }, created, settings };
    rows.put(by_name, &id)?;
    rows.put(keys::bucket_owner(tenant, name), &id)?;
    rows.put(keys::bucket(id), &row)?;
    Ok(MetaAnswer::Bucket(row.into()))
}

pub(super) fn remove(rows: &mut Rows<'_>, id: BucketId) -> Result<MetaAnswer, Error> {
    let Some(row) = rows.find::<BucketRow>(&keys::bucket(id))? else {
        let given = rows.find::<u64>(&keys::counter(Counter::Buckets))?.unwrap_or(0);
        // Every number that was given out and has no row was removed: by this command, sent before.
        return if (1..=given).contains(&id.0) { Ok(MetaAnswer::Done) } else { Err(no_such_bucket("")) };
    };
    rows.remove(keys::bucket(id));
    rows.remove(keys::bucket_name(&row.bucket.name));
    rows.remove(keys::bucket_owner(row.bucket.tenant, &row.bucket.name));
    rows.give_room(&keys::bucket_owner(row.bucket.tenant, ""))?;
    Ok(MetaAnswer::Done)
}

pub(super) fn by_name(rows: &Rows<'_>, name: &str) -> Result<MetaAnswer, Error> {
    match rows.find::<BucketId>(&keys::bucket_name(name))? {
        Some(id) => Ok(MetaAnswer::Bucket(bucket(rows, id)?.into())),
        None => Err(no_such_bucket(name)),
    }
}

pub(super) fn of_tenant(rows: &Rows<'_>, tenant: TenantId) -> Result<MetaAnswer, Error> {
    let ids = rows.first::<BucketId>(&keys::bucket_owner(tenant, ""), BUCKETS_MAX)?;
    let found = ids.into_iter().map(|(_, id)| bucket(rows, id).map(Arc::new)).collect::<Result<_, _>>()?;
    Ok(MetaAnswer::Buckets(found))
}

/// Whether a tenant has any.
pub(super) fn has_any(rows: &Rows<'_>, tenant: TenantId) -> Result<bool, Error> {
    rows.any(&keys::bucket_owner(tenant, ""))
}

pub(super) fn seal(rows: &mut Rows<'_>, id: BucketId) -> Result<MetaAnswer, Error> {
    let key = keys::sealed(id);
    if rows.has(&key)? {
        return Ok(MetaAnswer::Done);
    }
    if rows.any(&keys::object(id, ""))? || rows.any(&keys::uploads_under(id, ""))? {
        return Err(Error::new(ErrorKind::BucketNotEmpty, "the bucket holds objects or uploads; delete them first"));
    }
    rows.put(key, &())?;
    Ok(MetaAnswer::Done)
}

fn bucket(rows: &Rows<'_>, id: BucketId) -> Result<BucketRow, Error> {
    rows.find(&keys::bucket(id))?
        .ok_or_else(|| Error::new(ErrorKind::NoSuchBucket, "there is no such bucket").with("bucket", id))
}

/// What is wrong with a bucket's name, by S3's rules.
fn flaw_of(name: &str) -> Option<&'static str> {
    let edge = |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    let bytes = name.as_bytes();
    if !(3..=63).contains(&bytes.len()) {
        Some("a bucket's name has 3 to 63 characters")
    } else if !bytes.iter().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-".contains(byte)) {
        Some("a bucket's name has lower-case letters, digits, dots and hyphens only")
    } else if !edge(bytes.first()) || !edge(bytes.last()) {
        Some("a bucket's name begins and ends with a letter or a digit")
    } else if name.contains("..") {
        Some("a bucket's name has no two dots side by side")
    } else if name.parse::<core::net::Ipv4Addr>().is_ok() {
        Some("a bucket's name is not an address")
    } else {
        None
    }
}
