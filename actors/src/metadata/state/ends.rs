//! Tenants that are deleted: at once for everybody who asks, and some rows at a time for what there is of them.
//!
//! ```text
//!   EndTenant (control)            no tenant, no key, no chains, no wishes; what is left of it is remembered
//!   EmptyBucket (its group), ...   nothing is taken in its buckets any more, and what is there becomes garbage
//!   RemoveBucket (control), ...    no names of buckets
//!   DropTenant (control), ...      no users, no access keys, no past keys; in the end not even that something was left
//! ```
//!
//! Whoever leads the control group goes on from what the rows say. A tenant's number and name are never given out again.

use std::ops::ControlFlow;

use mesh_core::{
    Error, ErrorKind,
    assignment::{Assignment, Scope},
    id::{ActorId, NodeId, TenantId},
    meta::{AccessKeyRow, BucketRef, EndedTenant, MetaAnswer, ObjectRow, PastKey, PrincipalRow, TenantRow},
    time::UnixMillis,
};

use super::{buckets, objects, placement, rows::Rows, tenants, uploads};
use crate::metadata::keys;

/// Rows that one command takes away at most.
const AT_ONCE: usize = 512;

pub(super) fn end(rows: &mut Rows<'_>, id: TenantId, at: UnixMillis, everything: bool) -> Result<MetaAnswer, Error> {
    if tenants::has_ended(rows, id)? {
        return Ok(MetaAnswer::Done);
    }
    let TenantRow { name, .. } = tenants::tenant(rows, id)?;
    if !everything && buckets::has_any(rows, id)? {
        let what = "the tenant has buckets: delete them first, or say that all that is in them is to go";
        return Err(Error::new(ErrorKind::Conflict, what).with("tenant", name));
    }
    rows.remove(keys::tenant(id));
    rows.give_room(&keys::all(keys::TENANT))?;
    rows.put(keys::ended(id), &EndedTenant { name, since: at })?;
    for chain in chains(rows, id)? {
        rows.remove(keys::assignment(chain));
        rows.remove(keys::tail(chain));
        rows.give_room(&keys::all(keys::ASSIGNMENT))?;
    }
    placement::forget_wishes(rows, |scope, _| match scope {
        Scope::Mesh => false,
        Scope::Tenant(tenant) => tenant == id,
        Scope::Actor(actor) => actor.as_data().is_some_and(|(tenant, _)| tenant == id),
    })?;
    let stages = keys::stages(Scope::Tenant(id));
    if rows.has(&stages)? {
        rows.remove(stages);
        rows.give_room(&keys::all(keys::STAGES))?;
    }
    Ok(MetaAnswer::Done)
}

pub(super) fn drop(rows: &mut Rows<'_>, id: TenantId) -> Result<MetaAnswer, Error> {
    if !tenants::has_ended(rows, id)? {
        return Err(Error::new(ErrorKind::Conflict, "the tenant was not deleted").with("tenant", id));
    }
    if !rows.has(&keys::ended(id))? {
        return Ok(MetaAnswer::Rest { more: false });
    }
    if buckets::has_any(rows, id)? {
        let what = "the tenant has buckets still: they are emptied and removed first";
        return Err(Error::new(ErrorKind::Conflict, what).with("tenant", id));
    }
    let mut left = AT_ONCE;
    drop_access_keys(rows, id, &mut left)?;
    drop_past_keys(rows, id, &mut left)?;
    for (key, _) in rows.first::<PrincipalRow>(&keys::principal(id, ""), left)? {
        rows.remove(key);
        left -= 1;
    }
    for (key, ()) in rows.first(&keys::past_principal(id, ""), left)? {
        rows.remove(key);
        left -= 1;
    }
    if left > 0 {
        for prefix in [keys::principal(id, ""), keys::past_principal(id, ""), keys::bucket_owner(id, "")] {
            rows.remove(keys::rows_under(&prefix));
        }
        rows.remove(keys::ended(id));
    }
    Ok(MetaAnswer::Rest { more: left == 0 })
}

pub(super) fn empty(rows: &mut Rows<'_>, bucket: &BucketRef, at: UnixMillis) -> Result<MetaAnswer, Error> {
    rows.expect_owned(bucket)?;
    let seal = keys::sealed(bucket.id);
    if !rows.has(&seal)? {
        rows.put(seal, &())?;
    }
    let mut left = AT_ONCE;
    for (key, row) in rows.first::<ObjectRow>(&keys::object(bucket.id, ""), left)? {
        objects::discard(rows, bucket, key, row, at)?;
        left -= 1;
    }
    for (key, ()) in rows.first(&keys::uploads_under(bucket.id, ""), left)? {
        let upload = keys::upload_of(&key)
            .ok_or_else(|| Error::new(ErrorKind::Corrupt, "the key of an upload's row is damaged"))?;
        uploads::discard(rows, bucket, upload, at)?;
        left -= 1;
    }
    Ok(MetaAnswer::Rest { more: left == 0 })
}

/// The tenant's chains, wherever they run.
fn chains(rows: &Rows<'_>, id: TenantId) -> Result<Vec<ActorId>, Error> {
    let mut found = Vec::new();
    let from = keys::assignment(ActorId::data(id, NodeId(0)));
    rows.scan(&from, &keys::behind(&keys::all(keys::ASSIGNMENT)), |_, row: Assignment| {
        if row.actor.as_data().is_some_and(|(tenant, _)| tenant == id) {
            found.push(row.actor);
            Ok(ControlFlow::Continue(()))
        } else {
            Ok(ControlFlow::Break(()))
        }
    })?;
    Ok(found)
}

fn drop_access_keys(rows: &mut Rows<'_>, id: TenantId, left: &mut usize) -> Result<(), Error> {
    let own = some(rows, keys::ACCESS_KEY, *left, |row: &AccessKeyRow| row.tenant == id)?;
    *left -= own.len();
    own.iter().try_for_each(|(_, row)| tenants::drop_access_key(rows, &row.access).map(|_| ()))
}

fn drop_past_keys(rows: &mut Rows<'_>, id: TenantId, left: &mut usize) -> Result<(), Error> {
    for (key, _) in some(rows, keys::PAST_KEY, *left, |row: &PastKey| row.tenant == id)? {
        rows.remove(key);
        rows.give_room(&keys::all(keys::PAST_KEY))?;
        *left -= 1;
    }
    Ok(())
}

/// Rows of a kind that belong to somebody, so many at most: all of the kind are looked through, for they are few and this is rare.
fn some<T: serde::de::DeserializeOwned>(
    rows: &Rows<'_>,
    kind: u8,
    limit: usize,
    is_own: impl Fn(&T) -> bool,
) -> Result<Vec<(Vec<u8>, T)>, Error> {
    let (all, mut own) = (keys::all(kind), Vec::new());
    if limit == 0 {
        return Ok(own);
    }
    rows.scan(&all, &keys::behind(&all), |key, row: T| {
        if is_own(&row) {
            own.push((key.to_vec(), row));
        }
        Ok(if own.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
    })?;
    Ok(own)
}
