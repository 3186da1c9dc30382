//! Control group: tenants, their principals and access keys.

use std::ops::ControlFlow;

use mesh_core::{
    Error, ErrorKind,
    id::{KeyId, TenantId},
    meta::{AccessKeyRow, EndedTenant, Level, MetaAnswer, PastKey, PrincipalRow, TenantLimits, TenantRow, WrappedKey},
};

use super::{level, rows::Rows};
use crate::metadata::keys::{self, Counter};

/// Tenants of a cluster at most; `ActorId::data` has room for 2^28.
const TENANTS_MAX: u64 = 65_536;
/// Tenants that a cluster has had at most, those that were deleted with them.
const TENANTS_EVER_MAX: u64 = 1 << 20;
/// Principals of a tenant at most.
const PRINCIPALS_MAX: u64 = 1000;
/// Principals that a tenant has taken out, of whose names it makes no other ones: from so many on it makes none at all.
const PAST_PRINCIPALS_MAX: u64 = 65_536;
/// Keys that tenants of a cluster had, at most.
const PAST_KEYS_MAX: u64 = 65_536;
/// Keys are numbered from here, but for the first one of a tenant: tenants are numbered in 28 bits.
const ROTATED_FROM: u64 = 1 << 32;
/// Access keys of a cluster at most.
const ACCESS_KEYS_MAX: u64 = 65_536;
/// Access keys that were revoked, of whose names there are no other ones: from so many on none is made at all.
const PAST_ACCESS_KEYS_MAX: u64 = 1 << 22;
/// A tenant's, principal's or access key's name at most.
const NAME_BYTES_MAX: usize = 128;
/// Grants of a principal at most.
const GRANTS_MAX: usize = 256;
/// A wrapped secret at most.
const SECRET_BYTES_MAX: usize = 256;

pub(super) fn create(rows: &mut Rows<'_>, row: &TenantRow) -> Result<MetaAnswer, Error> {
    expect_name(&row.name)?;
    expect_secret(row.wrapped.sealed.len())?;
    let by_name = keys::tenant_name(&row.name);
    if let Some(id) = rows.find::<TenantId>(&by_name)? {
        if has_ended(rows, id)? {
            let what = "a tenant of this name was deleted, and none gets it again: choose another name";
            return Err(Error::new(ErrorKind::Conflict, what).with("tenant", &row.name));
        }
        let known = tenant(rows, id)?;
        // A wrapped key is random: the same one is the same command, sent again.
        if known.wrapped == row.wrapped {
            return Ok(MetaAnswer::Tenant(known.into()));
        }
        return Err(Error::new(ErrorKind::Conflict, "there is a tenant of this name").with("tenant", &row.name));
    }
    rows.take_room(&keys::all(keys::TENANT), TENANTS_MAX, "tenants")?;
    if level::of_mesh(rows)? >= Level::ENDS && given(rows)? >= TENANTS_EVER_MAX {
        let what = "the mesh has had as many tenants as may be: their names are remembered";
        return Err(Error::new(ErrorKind::QuotaExceeded, what).with("limit", TENANTS_EVER_MAX));
    }
    let id = TenantId(rows.count(Counter::Tenants)?);
    let made = TenantRow { id, key: KeyId(id.0), ..row.clone() };
    rows.put(by_name, &id)?;
    rows.put(keys::tenant(id), &made)?;
    Ok(MetaAnswer::Tenant(made.into()))
}

pub(super) fn set_limits(rows: &mut Rows<'_>, id: TenantId, limits: TenantLimits) -> Result<MetaAnswer, Error> {
    let known = tenant(rows, id)?;
    if known.limits != limits {
        rows.put(keys::tenant(id), &TenantRow { limits, ..known })?;
    }
    Ok(MetaAnswer::Done)
}

pub(super) fn rotate_key(
    rows: &mut Rows<'_>,
    id: TenantId,
    after: KeyId,
    wrapped: &WrappedKey,
) -> Result<MetaAnswer, Error> {
    expect_secret(wrapped.sealed.len())?;
    let known = tenant(rows, id)?;
    // A wrapped key is random: the same one is the same command, sent again.
    if known.wrapped == *wrapped {
        return Ok(MetaAnswer::Tenant(known.into()));
    }
    if known.key != after {
        return Err(Error::new(ErrorKind::Conflict, "the tenant's key was replaced meanwhile").with("key", known.key));
    }
    rows.take_room(&keys::all(keys::PAST_KEY), PAST_KEYS_MAX, "keys that tenants had")?;
    rows.put(keys::past_key(known.key), &PastKey { tenant: id, wrapped: known.wrapped.clone() })?;
    // Their first ones have their own numbers.
    let key = KeyId(ROTATED_FROM + rows.count(Counter::Keys)?);
    let row = TenantRow { key, wrapped: wrapped.clone(), ..known };
    rows.put(keys::tenant(id), &row)?;
    Ok(MetaAnswer::Tenant(row.into()))
}

pub(super) fn put_principal(rows: &mut Rows<'_>, row: &PrincipalRow) -> Result<MetaAnswer, Error> {
    expect_name(&row.name)?;
    if row.grants.len() > GRANTS_MAX || row.grants.iter().any(|grant| grant.bucket.len() > NAME_BYTES_MAX) {
        return Err(Error::invalid("too many grants, or one with too long a bucket pattern").with("limit", GRANTS_MAX));
    }
    tenant(rows, row.tenant)?;
    let key = keys::principal(row.tenant, &row.name);
    let known = rows.find::<PrincipalRow>(&key)?;
    if known.as_ref() == Some(row) {
        return Ok(MetaAnswer::Done);
    }
    if known.is_none() {
        if rows.has(&keys::past_principal(row.tenant, &row.name))? {
            let what =
                "somebody of this name was taken out, whose certificates would be good again: choose another name";
            return Err(Error::new(ErrorKind::Conflict, what).with("principal", &row.name));
        }
        if rows.taken_under(&keys::past_principal(row.tenant, ""))? >= PAST_PRINCIPALS_MAX {
            let what =
                "the tenant has taken out as many principals as may be; give another one's rights to those it has";
            return Err(Error::new(ErrorKind::QuotaExceeded, what).with("limit", PAST_PRINCIPALS_MAX));
        }
        rows.take_room(&keys::principal(row.tenant, ""), PRINCIPALS_MAX, "principals")?;
    }
    rows.put(key, row)?;
    Ok(MetaAnswer::Done)
}

/// Access keys are looked through for the principal's: there is no list of them, for they are few and this is rare.
pub(super) fn drop_principal(rows: &mut Rows<'_>, tenant: TenantId, name: &str) -> Result<MetaAnswer, Error> {
    let key = keys::principal(tenant, name);
    if !rows.has(&key)? {
        return Ok(MetaAnswer::Done);
    }
    let (all, mut own) = (keys::all(keys::ACCESS_KEY), Vec::new());
    rows.scan::<AccessKeyRow>(&all, &keys::behind(&all), |_, row| {
        if row.tenant == tenant && row.principal == name {
            own.push(row.access);
        }
        Ok(ControlFlow::Continue(()))
    })?;
    for access in own {
        drop_access_key(rows, &access)?;
    }
    rows.remove(key);
    rows.give_room(&keys::principal(tenant, ""))?;
    // Nobody is kept because there are many of these already: new ones are not made then.
    rows.take_room(&keys::past_principal(tenant, ""), u64::MAX, "principals that were taken out")?;
    rows.put(keys::past_principal(tenant, name), &())?;
    Ok(MetaAnswer::Done)
}

pub(super) fn put_access_key(rows: &mut Rows<'_>, row: &AccessKeyRow) -> Result<MetaAnswer, Error> {
    expect_name(&row.access)?;
    expect_secret(row.secret.sealed.len())?;
    let key = keys::access_key(&row.access);
    if let Some(known) = rows.find::<AccessKeyRow>(&key)? {
        if known == *row {
            return Ok(MetaAnswer::Done);
        }
        return Err(Error::new(ErrorKind::Conflict, "this access key is another's").with("access", &row.access));
    }
    if !rows.has(&keys::principal(row.tenant, &row.principal))? {
        return Err(Error::new(ErrorKind::NotFound, "an access key's principal must be known first")
            .with("tenant", row.tenant)
            .with("principal", &row.principal));
    }
    if rows.has(&keys::past_access(&row.access))? {
        return Err(Error::new(ErrorKind::Conflict, "this access key was revoked").with("access", &row.access));
    }
    if rows.taken_under(&keys::all(keys::PAST_ACCESS))? >= PAST_ACCESS_KEYS_MAX {
        let what = "as many access keys were revoked as may be remembered: no further ones are made";
        return Err(Error::new(ErrorKind::QuotaExceeded, what).with("limit", PAST_ACCESS_KEYS_MAX));
    }
    rows.take_room(&keys::all(keys::ACCESS_KEY), ACCESS_KEYS_MAX, "access keys")?;
    rows.put(key, row)?;
    Ok(MetaAnswer::Done)
}

pub(super) fn drop_access_key(rows: &mut Rows<'_>, access: &str) -> Result<MetaAnswer, Error> {
    let key = keys::access_key(access);
    if rows.has(&key)? {
        rows.remove(key);
        rows.give_room(&keys::all(keys::ACCESS_KEY))?;
        // Builds of before would not remember it, and all replicas have to come to the same.
        if level::of_mesh(rows)? >= Level::ACCESS {
            rows.take_room(&keys::all(keys::PAST_ACCESS), u64::MAX, "access keys that were revoked")?;
            rows.put(keys::past_access(access), &())?;
        }
    }
    Ok(MetaAnswer::Done)
}

pub(super) fn tenant(rows: &Rows<'_>, id: TenantId) -> Result<TenantRow, Error> {
    rows.find(&keys::tenant(id))?
        .ok_or_else(|| Error::new(ErrorKind::NotFound, "there is no such tenant").with("tenant", id))
}

/// Whether there was a tenant of this number, and is none any more.
pub(super) fn has_ended(rows: &Rows<'_>, id: TenantId) -> Result<bool, Error> {
    Ok(!rows.has(&keys::tenant(id))? && (1..=given(rows)?).contains(&id.0))
}

/// How many numbers were given out.
fn given(rows: &Rows<'_>) -> Result<u64, Error> {
    Ok(rows.find(&keys::counter(Counter::Tenants))?.unwrap_or(0))
}

/// The name of a tenant that is there, or of which something is left.
pub(super) fn name(rows: &Rows<'_>, id: TenantId) -> Result<Option<String>, Error> {
    let present = rows.find::<TenantRow>(&keys::tenant(id))?.map(|row| row.name);
    let past = || rows.find::<EndedTenant>(&keys::ended(id));
    present.map_or_else(|| Ok(past()?.map(|row| row.name)), |name| Ok(Some(name)))
}

fn expect_name(name: &str) -> Result<(), Error> {
    if name.is_empty() || name.len() > NAME_BYTES_MAX || name.chars().any(char::is_control) {
        return Err(Error::invalid("a name has 1 to 128 bytes and no control characters").with("bytes", name.len()));
    }
    Ok(())
}

fn expect_secret(bytes: usize) -> Result<(), Error> {
    if bytes > SECRET_BYTES_MAX {
        return Err(Error::invalid("a wrapped secret is too long")
            .with("bytes", bytes)
            .with("limit", SECRET_BYTES_MAX));
    }
    Ok(())
}
