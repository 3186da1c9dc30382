//! Namespace groups: pages of keys, uploads and parts.
//!
//! A page ends at its limit, or earlier at `PAGE_BYTES_MAX`: it always fits into one answer, and says how to go on.

use std::{ops::ControlFlow, sync::Arc};

use mesh_core::{
    Error, ErrorKind,
    id::WriteId,
    limits::{COMMAND_BYTES_MAX, LIST_KEYS_MAX, PARTS_MAX},
    meta::{BucketRef, ListEntry, Listing, MetaAnswer, ObjectRow, PartRow},
};

use super::{
    repair,
    rows::{Rows, Use},
    uploads::open_upload,
};
use crate::metadata::keys;

/// What the entries of one page take at most, so that the answer stays below `COMMAND_BYTES_MAX`.
const PAGE_BYTES_MAX: usize = COMMAND_BYTES_MAX * 3 / 4;
/// What an entry takes beside its texts at most.
const ENTRY_BYTES: usize = 64;

/// What of a bucket is listed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Page<'q> {
    pub(super) prefix: &'q str,
    pub(super) delimiter: Option<&'q str>,
    pub(super) after: &'q str,
    pub(super) limit: u32,
}

/// One line of a listing.
enum Item {
    Key(ListEntry),
    Prefix(String),
}

impl Page<'_> {
    /// The common prefix that a key is rolled up into.
    fn rolled_up<'k>(&self, key: &'k str) -> Option<&'k str> {
        let delimiter = self.delimiter.filter(|delimiter| !delimiter.is_empty())?;
        let rest = key.strip_prefix(self.prefix)?;
        let end = self.prefix.len() + rest.find(delimiter)? + delimiter.len();
        key.get(..end)
    }
}

pub(super) fn list(rows: &Rows<'_>, bucket: &BucketRef, page: &Page<'_>) -> Result<MetaAnswer, Error> {
    rows.expect_readable(bucket)?;
    let limit = (page.limit as usize).min(LIST_KEYS_MAX);
    let mut listing = Listing::default();
    let end = keys::behind(&keys::object(bucket.id, page.prefix));
    let mut from = first_key(bucket, page);
    let mut bytes = 0;
    let mut last = None;
    while limit > 0
        && let Some((item, next)) = item_from(rows, bucket, page, &from, &end)?
    {
        let text = match &item {
            Item::Key(entry) => &entry.key,
            Item::Prefix(prefix) => prefix,
        };
        bytes += text.len() + ENTRY_BYTES;
        if listing.entries.len() + listing.prefixes.len() == limit || bytes > PAGE_BYTES_MAX {
            listing.next = last;
            break;
        }
        last = Some(text.clone());
        from = next;
        match item {
            Item::Key(entry) => listing.entries.push(entry),
            Item::Prefix(prefix) => listing.prefixes.push(prefix),
        }
    }
    Ok(MetaAnswer::Listing(listing.into()))
}

/// Where the first line may be: at the prefix, or behind `after`, or behind everything that `after` rolls up.
fn first_key(bucket: &BucketRef, page: &Page<'_>) -> Vec<u8> {
    if let Some(prefix) = page.rolled_up(page.after) {
        return keys::behind(&keys::object(bucket.id, prefix));
    }
    let begin = keys::object(bucket.id, page.prefix);
    if page.after.is_empty() {
        return begin;
    }
    let mut after = keys::object(bucket.id, page.after);
    after.push(0);
    begin.max(after)
}

/// The first line at or behind `from`, and where to look for the next: a rolled-up prefix is left by one seek, however
/// many keys are under it.
fn item_from(
    rows: &Rows<'_>,
    bucket: &BucketRef,
    page: &Page<'_>,
    from: &[u8],
    end: &[u8],
) -> Result<Option<(Item, Vec<u8>)>, Error> {
    let mut found = None;
    rows.scan(from, end, |key, row: ObjectRow| {
        let Some(name) = keys::object_name(key) else {
            return Err(Error::new(ErrorKind::Corrupt, "an object's key is not UTF-8"));
        };
        found = Some(match page.rolled_up(name) {
            Some(prefix) => (Item::Prefix(prefix.to_owned()), keys::behind(&keys::object(bucket.id, prefix))),
            None => {
                let entry = ListEntry { key: name.to_owned(), len: row.len, etag: row.etag, modified: row.modified };
                let mut next = key.to_vec();
                next.push(0);
                (Item::Key(entry), next)
            }
        });
        Ok(ControlFlow::Break(()))
    })?;
    Ok(found)
}

pub(super) fn uploads(
    rows: &Rows<'_>,
    bucket: &BucketRef,
    prefix: &str,
    after: Option<&(String, WriteId)>,
    limit: u32,
) -> Result<MetaAnswer, Error> {
    rows.expect_readable(bucket)?;
    let under = keys::uploads_under(bucket.id, prefix);
    let from = match after {
        Some((key, upload)) => {
            let mut behind = keys::upload_key(bucket.id, key, *upload);
            behind.push(0);
            behind.max(under.clone())
        }
        None => under.clone(),
    };
    let mut ids = Vec::new();
    let limit = (limit as usize).min(LIST_KEYS_MAX);
    rows.scan(&from, &keys::behind(&under), |key, ()| {
        ids.extend(keys::upload_of(key));
        Ok(if ids.len() <= limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
    })?;
    let mut page = PageOf::new(limit);
    for id in ids {
        let row = open_upload(rows, bucket.id, id)?.row;
        let bytes = row.key.len()
            + row.principal.len()
            + [&row.attributes.headers, &row.attributes.user, &row.attributes.checksums]
                .iter()
                .flat_map(|map| map.iter())
                .map(|(name, value)| name.len() + value.len() + 4)
                .sum::<usize>();
        if page.push(row, bytes).is_break() {
            break;
        }
    }
    Ok(MetaAnswer::Uploads(page.rows, limit > 0 && page.more))
}

pub(super) fn parts(
    rows: &Rows<'_>,
    bucket: &BucketRef,
    upload: WriteId,
    after: u32,
    limit: u32,
) -> Result<MetaAnswer, Error> {
    rows.expect_readable(bucket)?;
    open_upload(rows, bucket.id, upload)?;
    parts_from(rows, upload, after.saturating_add(1), limit)
}

pub(super) fn extents(
    rows: &Rows<'_>,
    bucket: &BucketRef,
    upload: WriteId,
    offset: u64,
    limit: u32,
) -> Result<MetaAnswer, Error> {
    rows.expect_readable(bucket)?;
    match rows.use_of(upload)? {
        // Garbage too: a reader may be under way while the object is replaced.
        Some(Use::Object { bucket: of, .. } | Use::Garbage { bucket: of, aborted: false, .. }) if of == bucket.id => {}
        _ => return Err(Error::new(ErrorKind::NotFound, "there is no such object of parts").with("upload", upload)),
    }
    // Offsets ascend with numbers: the last number whose part begins at or before `offset`, by halving.
    let (mut low, mut high) = (1, PARTS_MAX + 1);
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        match part_from(rows, upload, middle)? {
            Some(part) if part.offset <= offset => low = part.number.max(middle),
            _ => high = middle,
        }
    }
    parts_from(rows, upload, low, limit)
}

/// The part of the least number that is at least `number`.
fn part_from(rows: &Rows<'_>, upload: WriteId, number: u32) -> Result<Option<PartRow>, Error> {
    let mut found = None;
    rows.scan(&keys::part(upload, number), &keys::behind(&keys::parts(upload)), |_, part: PartRow| {
        found = Some(part);
        Ok(ControlFlow::Break(()))
    })?;
    Ok(found)
}

fn parts_from(rows: &Rows<'_>, upload: WriteId, number: u32, limit: u32) -> Result<MetaAnswer, Error> {
    let limit = (limit as usize).min(LIST_KEYS_MAX);
    let mut page = PageOf::new(limit);
    rows.scan(&keys::part(upload, number), &keys::behind(&keys::parts(upload)), |_, mut part: PartRow| {
        repair::locate(rows, &mut part.extent)?;
        let runs: usize = part.extent.runs.iter().map(|run| 24 + 10 * run.avoid.len()).sum();
        let key = part.extent.key.as_ref().map_or(0, |key| 32 + key.sealed.len());
        let sums: usize = part.checksums.iter().map(|(name, value)| name.len() + value.len() + 4).sum();
        Ok(page.push(part, runs + key + sums))
    })?;
    Ok(MetaAnswer::Parts(page.rows, limit > 0 && page.more))
}

/// Rows up to a limit, and whether there are more.
struct PageOf<T> {
    rows: Vec<Arc<T>>,
    more: bool,
    limit: usize,
    bytes: usize,
}

impl<T> PageOf<T> {
    const fn new(limit: usize) -> Self {
        Self { rows: Vec::new(), more: false, limit, bytes: 0 }
    }

    /// Takes one more row of about `bytes`, or says that there is one more.
    fn push(&mut self, row: T, bytes: usize) -> ControlFlow<()> {
        self.bytes += bytes + 2 * ENTRY_BYTES;
        if self.rows.len() == self.limit || (self.bytes > PAGE_BYTES_MAX && !self.rows.is_empty()) {
            self.more = true;
            return ControlFlow::Break(());
        }
        self.rows.push(Arc::new(row));
        ControlFlow::Continue(())
    }
}
