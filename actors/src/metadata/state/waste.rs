//! Namespace groups: garbage, and which writes are in use.
//!
//! What loses its object becomes garbage in one row, however many parts it has: the part rows stay where they are and
//! are named one by one when garbage is asked for, and dropped one by one. So a delete costs the same for every object.

use std::ops::ControlFlow;

use mesh_core::{
    Error, ErrorKind,
    id::{BucketId, LayoutId, TenantId, WriteId},
    limits::LIST_KEYS_MAX,
    meta::{Body, Extent, Garbage, MetaAnswer, ObjectRow, PartRow, Reference, Shape},
    time::UnixMillis,
};

use super::{
    blocks,
    rows::{Rows, Use, Waste},
};
use crate::metadata::keys;

/// Writes that one `DropGarbage` or `Referenced` names at most.
const WRITES_MAX: usize = 16_384;
/// Exceptions of placement, and drives in them, after which one answer about references names no more writes.
const RUNS_MAX: usize = 16_384;

/// Makes an object's bytes garbage. The object's row is the caller's.
pub(super) fn discard_object(
    rows: &mut Rows<'_>,
    (bucket, tenant): (BucketId, TenantId),
    row: ObjectRow,
    since: UnixMillis,
) -> Result<(), Error> {
    let extent = match row.body {
        Body::Whole(extent) => Some(extent),
        Body::Parts { .. } => None,
    };
    rows.put(keys::waste(since, row.version), &Waste { tenant, extent })?;
    rows.set_use(row.version, &Use::Garbage { bucket, since, aborted: false })
}

/// Makes one part garbage. The part's row is the caller's.
pub(super) fn discard_part(
    rows: &mut Rows<'_>,
    tenant: TenantId,
    part: PartRow,
    since: UnixMillis,
) -> Result<(), Error> {
    let write = part.extent.write;
    rows.put(keys::waste(since, write), &Waste { tenant, extent: Some(part.extent) })?;
    rows.set_use(write, &Use::GarbagePart { since })
}

pub(super) fn drop_garbage(rows: &mut Rows<'_>, writes: &[WriteId]) -> Result<MetaAnswer, Error> {
    expect_few(writes)?;
    for &write in writes {
        match rows.use_of(write)? {
            Some(Use::GarbagePart { since }) => {
                rows.remove(keys::waste(since, write));
                blocks::forget(rows, write);
            }
            Some(Use::Garbage { since, .. }) => drop_whole(rows, write, since)?,
            Some(Use::Part { upload, number }) => {
                // Only of an object or upload that is garbage: what is visible is never dropped.
                if let Some(Use::Garbage { since, .. }) = rows.use_of(upload)? {
                    rows.remove(keys::part(upload, number));
                    blocks::forget(rows, write);
                    drop_whole(rows, upload, since)?;
                }
            }
            Some(Use::Object { .. } | Use::Upload) | None => {}
        }
    }
    Ok(MetaAnswer::Done)
}

/// Drops the garbage row of an object or upload, unless it has parts left.
fn drop_whole(rows: &mut Rows<'_>, write: WriteId, since: UnixMillis) -> Result<(), Error> {
    if rows.any(&keys::parts(write))? {
        return Ok(());
    }
    rows.remove(keys::waste(since, write));
    blocks::forget(rows, write);
    Ok(())
}

pub(super) fn older_than(rows: &Rows<'_>, before: UnixMillis, limit: u32) -> Result<MetaAnswer, Error> {
    let limit = (limit as usize).min(LIST_KEYS_MAX);
    let mut found: Vec<Garbage> = Vec::new();
    if limit == 0 {
        return Ok(MetaAnswer::Garbage(found));
    }
    let flow = |found: &Vec<Garbage>| {
        if found.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    };
    rows.scan(&keys::all(keys::WASTE), &keys::waste_from(before), |key, waste: Waste| {
        let (Some(since), Some(write)) = (keys::waste_since(key), keys::waste_write(key)) else {
            return Err(Error::new(ErrorKind::Corrupt, "a garbage row's key is damaged"));
        };
        let tenant = waste.tenant;
        if let Some(extent) = waste.extent {
            found.push(Garbage { tenant, since, extent });
            return Ok(flow(&found));
        }
        let seen = found.len();
        let parts = keys::parts(write);
        rows.scan(&parts, &keys::behind(&parts), |_, part: PartRow| {
            found.push(Garbage { tenant, since, extent: part.extent });
            Ok(flow(&found))
        })?;
        if found.len() == seen {
            // An upload without parts: an extent without bytes, so that its number is dropped like any other.
            let extent = Extent { write, len: 0, stripe_bytes: 0, layout: LayoutId(0), key: None, runs: Vec::new() };
            found.push(Garbage { tenant, since, extent });
        }
        Ok(flow(&found))
    })?;
    Ok(MetaAnswer::Garbage(found))
}

pub(super) fn referenced(rows: &Rows<'_>, writes: &[WriteId]) -> Result<MetaAnswer, Error> {
    expect_few(writes)?;
    let mut references = Vec::with_capacity(writes.len());
    let mut runs = 0;
    for &write in writes {
        if write.group() != rows.group() {
            return Err(Error::invalid("another group granted this write: ask that one").with("write", write));
        }
        let reference = reference(rows, write)?;
        if let Reference::Used(Some(shape)) = &reference {
            runs += shape.runs.iter().map(|run| 1 + run.avoid.len()).sum::<usize>();
        }
        references.push(reference);
        if runs >= RUNS_MAX {
            break;
        }
    }
    Ok(MetaAnswer::Referenced(references))
}

fn reference(rows: &Rows<'_>, write: WriteId) -> Result<Reference, Error> {
    if blocks::may_be_used(rows, write)? {
        return Ok(Reference::Open);
    }
    let extent = match rows.use_of(write)? {
        None => return Ok(Reference::Nobody),
        Some(Use::Upload) => return Ok(Reference::Used(None)),
        Some(Use::Object { shape, .. }) => return Ok(Reference::Used(shape)),
        Some(Use::Part { upload, number }) => {
            rows.find::<PartRow>(&keys::part(upload, number))?.map(|part| Some(part.extent))
        }
        Some(Use::Garbage { since, .. } | Use::GarbagePart { since }) => {
            rows.find::<Waste>(&keys::waste(since, write))?.map(|waste| waste.extent)
        }
    };
    let extent = extent.ok_or_else(|| {
        Error::new(ErrorKind::Corrupt, "a write is in use, and the row that uses it is not there").with("write", write)
    })?;
    Ok(Reference::Used(extent.as_ref().map(Shape::of)))
}

fn expect_few(writes: &[WriteId]) -> Result<(), Error> {
    if writes.len() <= WRITES_MAX {
        return Ok(());
    }
    Err(Error::new(ErrorKind::TooLarge, "too many writes in one request").with("limit", WRITES_MAX))
}
