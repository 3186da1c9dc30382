//! Namespace groups: garbage, and which writes are in use.
//!
//! What loses its object becomes garbage in one row, however many parts it has: the part rows stay where they are and
//! are named one by one when garbage is asked for, and dropped one by one. So a delete costs the same for every object.

use std::ops::ControlFlow;

use mesh_core::{
    Error, ErrorKind,
    id::{BucketId, LayoutId, TenantId, WriteId},
    limits::{COMMAND_BYTES_MAX, LIST_KEYS_MAX},
    meta::{
        self, Body, Compression, Extent, Garbage, GarbageMark, GarbagePage, MetaAnswer, ObjectRow, PartRow, Reference,
        Shape,
    },
    time::UnixMillis,
};

use super::{
    blocks, owed,
    rows::{Rows, Use, Waste},
};
use crate::metadata::keys;

/// Writes that one `DropGarbage`, `OweGarbage`, `PayOwed` or `Referenced` names at most.
const WRITES_MAX: usize = 16_384;
/// Bytes of the rows of one page at most, encoded, unless it is one row alone.
const PAGE_BYTES_MAX: usize = COMMAND_BYTES_MAX / 2;
/// Exceptions of placement, and drives in them, after which one answer about references names no more writes.
pub(super) const RUNS_MAX: usize = 16_384;

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
    let since = stamp(rows, since)?;
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
    let since = stamp(rows, since)?;
    rows.put(keys::waste(since, write), &Waste { tenant, extent: Some(part.extent) })?;
    rows.set_use(write, &Use::GarbagePart { since })
}

/// The stamp of what becomes garbage now, at this time by the clock of whoever causes it. Stamps only grow, in the order
/// in which things become garbage: so whoever has seen one knows what was garbage by then, whatever clocks say.
pub(super) fn stamp(rows: &mut Rows<'_>, at: UnixMillis) -> Result<UnixMillis, Error> {
    let stamp = UnixMillis(at.0.max(newest_stamp(rows)?.0.saturating_add(1)));
    rows.put(keys::stamp(), &stamp)?;
    Ok(stamp)
}

fn newest_stamp(rows: &Rows<'_>) -> Result<UnixMillis, Error> {
    Ok(rows.find(&keys::stamp())?.unwrap_or(UnixMillis(0)))
}

pub(super) fn drop_garbage(rows: &mut Rows<'_>, writes: &[WriteId]) -> Result<MetaAnswer, Error> {
    expect_few(writes.len())?;
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

/// Whether a write is garbage that was not dropped: an object, a part of one, or a part alone.
pub(super) fn is_garbage(rows: &Rows<'_>, write: WriteId) -> Result<bool, Error> {
    Ok(match rows.use_of(write)? {
        Some(Use::Garbage { .. } | Use::GarbagePart { .. }) => true,
        Some(Use::Part { upload, .. }) => matches!(rows.use_of(upload)?, Some(Use::Garbage { .. })),
        Some(Use::Object { .. } | Use::Upload) | None => false,
    })
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

/// A page of garbage. It is cut off by bytes too: rows differ in size, and an answer is bounded.
pub(super) fn older_than(
    rows: &Rows<'_>,
    before: UnixMillis,
    after: Option<GarbageMark>,
    limit: u32,
) -> Result<MetaAnswer, Error> {
    let limit = (limit as usize).min(LIST_KEYS_MAX);
    let mut page = Page { answer: GarbagePage::default(), last: None, bytes: 0, limit };
    page.answer.newest = newest_stamp(rows)?;
    page.answer.owing = owed::drives(rows)?;
    if limit == 0 {
        return Ok(MetaAnswer::Garbage(page.answer));
    }
    let from = after.map_or_else(|| keys::all(keys::WASTE), |after| keys::waste(after.since, after.write));
    rows.scan(&from, &keys::waste_from(before), |key, waste: Waste| {
        let (Some(since), Some(write)) = (keys::waste_since(key), keys::waste_write(key)) else {
            return Err(Error::new(ErrorKind::Corrupt, "a garbage row's key is damaged"));
        };
        let tenant = waste.tenant;
        // The number of its part with which the last page ended, if it ended in this row.
        let ended = after.filter(|after| (after.since, after.write) == (since, write)).map(|after| after.part);
        if let Some(extent) = waste.extent {
            if ended.is_some() {
                return Ok(ControlFlow::Continue(()));
            }
            return page.take(GarbageMark { since, write, part: 0 }, Garbage { tenant, since, extent });
        }
        let parts = keys::parts(write);
        let mut any = ended.is_some();
        let mut flow = ControlFlow::Continue(());
        rows.scan(&keys::part(write, ended.map_or(0, |part| part + 1)), &keys::behind(&parts), |_, part: PartRow| {
            any = true;
            let mark = GarbageMark { since, write, part: part.number };
            flow = page.take(mark, Garbage { tenant, since, extent: part.extent })?;
            Ok(flow)
        })?;
        if !any {
            // An upload without parts: an extent without bytes, so that its number is dropped like any other.
            let extent = Extent {
                write,
                len: 0,
                stripe_bytes: 0,
                layout: LayoutId(0),
                key: None,
                runs: Vec::new(),
                compression: Compression::Off,
                code: None,
            };
            flow = page.take(GarbageMark { since, write, part: 0 }, Garbage { tenant, since, extent })?;
        }
        Ok(flow)
    })?;
    Ok(MetaAnswer::Garbage(page.answer))
}

/// A page of garbage in the making.
struct Page {
    answer: GarbagePage,
    /// The last row that was taken.
    last: Option<GarbageMark>,
    bytes: usize,
    limit: usize,
}

impl Page {
    /// Takes a row in, or ends the page before it.
    fn take(&mut self, mark: GarbageMark, garbage: Garbage) -> Result<ControlFlow<()>, Error> {
        let bytes = self.bytes + meta::encode(&garbage)?.len();
        let rows = &mut self.answer.rows;
        if rows.len() >= self.limit || (bytes > PAGE_BYTES_MAX && !rows.is_empty()) {
            self.answer.next = self.last;
            return Ok(ControlFlow::Break(()));
        }
        rows.push(garbage);
        (self.bytes, self.last) = (bytes, Some(mark));
        Ok(ControlFlow::Continue(()))
    }
}

pub(super) fn referenced(rows: &Rows<'_>, writes: &[WriteId]) -> Result<MetaAnswer, Error> {
    expect_few(writes.len())?;
    let mut references = Vec::with_capacity(writes.len());
    let mut runs = 0;
    for &write in writes {
        if write.group() != rows.group() {
            return Err(Error::invalid("another group granted this write: ask that one").with("write", write));
        }
        let reference = reference(rows, write)?;
        if let Reference::Used(Some(shape)) = &reference {
            runs += weight(shape);
        }
        references.push(reference);
        if runs >= RUNS_MAX {
            break;
        }
    }
    Ok(MetaAnswer::Referenced(references))
}

/// How much a shape adds to an answer, beside what every write does.
pub(super) fn weight(shape: &Shape) -> usize {
    shape.runs.iter().map(|run| 1 + run.avoid.len()).sum()
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

pub(super) fn expect_few(writes: usize) -> Result<(), Error> {
    if writes <= WRITES_MAX {
        return Ok(());
    }
    Err(Error::new(ErrorKind::TooLarge, "too many writes in one request").with("limit", WRITES_MAX))
}
