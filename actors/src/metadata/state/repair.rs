//! Namespace groups: how far the shards of what is stored are at the homes that a layout gives them.
//!
//! Two numbers say it for all writes but those that have a row of their own. Whoever repairs begins by raising `marked`;
//! from then on what is committed under an older layout, or without drives that were its homes, gets such a row in the same
//! step. Then it looks at every write there is, and says that all others are `settled`. So nothing is missed that is
//! committed while it looks, and nothing is written for a write that needs no repair.
//!
//! Manifests stay as they were written. Once it is known which layouts are of the line, answers say of what is settled that it
//! is where the settled layout has it: so nobody looks where things were before, and what is left there can be cleared away.
//! Only garbage, and what refers to writes, is told as it was written: whoever deletes has to know every place.
//!
//! ```text
//!  BeginRepair(L) ─► marked = L ─► every use is looked at ─► EndRepair(L) ─► settled = L
//!       commits under layouts before L, or with drives avoided ─► a row ─► Repaired(L) removes it
//! ```

use std::ops::ControlFlow;

use mesh_core::{
    Error, ErrorKind,
    id::{LayoutId, WriteId},
    limits::LIST_KEYS_MAX,
    meta::{Count, Extent, MetaAnswer, PartRow, RepairState, Shape, UsesPage},
};

use super::{
    rows::{self, Rows, Use},
    waste::{self, RUNS_MAX},
};
use crate::metadata::{Change, keys};

pub(super) fn state(rows: &Rows<'_>) -> Result<RepairState, Error> {
    Ok(rows.find(&keys::repair())?.unwrap_or_default())
}

/// How far the group is after changes; `None`: they say nothing of it.
pub(super) fn after(changes: &[Change]) -> Result<Option<RepairState>, Error> {
    let key = keys::repair();
    let Some(change) = changes.iter().find(|change| change.key == key) else { return Ok(None) };
    let state = change.value.as_deref().map(|value| rows::decode(&key, value)).transpose()?;
    Ok(Some(state.unwrap_or_default()))
}

/// Remembers a write that is committed now, if its shards may not be where repair takes them to be.
pub(super) fn note(rows: &mut Rows<'_>, extent: &Extent) -> Result<(), Error> {
    let state = state(rows)?;
    // Before there is any repair, nothing is settled either, and every write will be looked at.
    if state.marked == LayoutId(0) {
        return Ok(());
    }
    if extent.layout >= state.marked && extent.runs.iter().all(|run| run.avoid.is_empty()) {
        return Ok(());
    }
    rows.put(keys::unsettled(extent.write), &())?;
    rows.put(keys::repair(), &RepairState { unsettled: state.unsettled + 1, ..state })
}

pub(super) fn begin(rows: &mut Rows<'_>, layout: LayoutId) -> Result<MetaAnswer, Error> {
    let state = state(rows)?;
    if layout < state.marked {
        return Err(overtaken(state));
    }
    if layout > state.marked {
        rows.put(keys::repair(), &RepairState { marked: layout, ..state })?;
    }
    Ok(MetaAnswer::Done)
}

pub(super) fn end(rows: &mut Rows<'_>, layout: LayoutId, line: u32, layouts: &[LayoutId]) -> Result<MetaAnswer, Error> {
    waste::expect_few(layouts.len())?;
    let state = expect_begun(rows, layout)?;
    if state.line != 0 && line != 0 && line != state.line {
        return Err(Error::invalid("the layouts of this group are of another line").with("line", state.line));
    }
    if line != 0 {
        for of_line in layouts.iter().chain([&layout]) {
            let key = keys::line_of(*of_line);
            if rows.find::<u32>(&key)?.is_none() {
                rows.put(key, &line)?;
            }
        }
    }
    let ended = RepairState { settled: layout, line: if line == 0 { state.line } else { line }, ..state };
    if ended != state {
        rows.put(keys::repair(), &ended)?;
    }
    Ok(MetaAnswer::Done)
}

/// The layout in which all shards of a write are at home now, if it was written under one before that of the same line.
fn settled_in(rows: &Rows<'_>, write: WriteId, layout: LayoutId) -> Result<Option<LayoutId>, Error> {
    let state = state(rows)?;
    if state.line == 0 || layout > state.settled || rows.find::<u32>(&keys::line_of(layout))? != Some(state.line) {
        return Ok(None);
    }
    if state.unsettled > 0 && rows.has(&keys::unsettled(write))? {
        return Ok(None);
    }
    Ok(Some(state.settled))
}

/// Says of an extent where its shards are now.
pub(super) fn locate(rows: &Rows<'_>, extent: &mut Extent) -> Result<(), Error> {
    if let Some(layout) = settled_in(rows, extent.write, extent.layout)? {
        extent.settle(layout);
    }
    Ok(())
}

pub(super) fn settle(rows: &mut Rows<'_>, layout: LayoutId, writes: &[WriteId]) -> Result<MetaAnswer, Error> {
    waste::expect_few(writes.len())?;
    let mut state = expect_begun(rows, layout)?;
    for write in writes {
        let key = keys::unsettled(*write);
        if rows.has(&key)? {
            rows.remove(key);
            state.unsettled = state.unsettled.saturating_sub(1);
        }
    }
    rows.put(keys::repair(), &state)?;
    Ok(MetaAnswer::Done)
}

pub(super) fn counted(rows: &mut Rows<'_>, count: Count) -> Result<MetaAnswer, Error> {
    let state = expect_begun(rows, count.layout)?;
    rows.put(keys::repair(), &RepairState { count, ..state })?;
    Ok(MetaAnswer::Done)
}

fn expect_begun(rows: &Rows<'_>, layout: LayoutId) -> Result<RepairState, Error> {
    let state = state(rows)?;
    if state.marked == layout { Ok(state) } else { Err(overtaken(state)) }
}

fn overtaken(state: RepairState) -> Error {
    Error::new(
        ErrorKind::Conflict,
        "repair has begun for another layout: look at the group again, and begin for the newest",
    )
    .with("layout", state.marked)
}

/// A page of the writes whose shards are in use.
pub(super) fn uses(rows: &Rows<'_>, after: Option<WriteId>, limit: u32) -> Result<MetaAnswer, Error> {
    let mut page = Page::new(limit);
    let all = keys::all(keys::USE);
    let from = after.map_or_else(|| all.clone(), |after| keys::write_use(WriteId(after.0.saturating_add(1))));
    rows.scan(&from, &keys::behind(&all), |key, used: Use| {
        let write = write_in(key)?;
        let shape = shape(rows, used)?;
        Ok(match shape {
            Some(mut shape) => {
                if let Some(layout) = settled_in(rows, write, shape.layout)? {
                    shape.settle(layout);
                }
                page.take(write, Some(shape))
            }
            None => page.pass(write),
        })
    })?;
    Ok(page.end())
}

/// A page of the writes that are remembered, also of those that are in use no more.
pub(super) fn unsettled(rows: &Rows<'_>, after: Option<WriteId>, limit: u32) -> Result<MetaAnswer, Error> {
    let mut page = Page::new(limit);
    let all = keys::all(keys::UNSETTLED);
    let from = after.map_or_else(|| all.clone(), |after| keys::unsettled(WriteId(after.0.saturating_add(1))));
    rows.scan(&from, &keys::behind(&all), |key, ()| {
        let write = write_in(key)?;
        let shape = match rows.use_of(write)? {
            Some(used) => shape(rows, used)?,
            None => None,
        };
        Ok(page.take(write, shape))
    })?;
    Ok(page.end())
}

fn write_in(key: &[u8]) -> Result<WriteId, Error> {
    keys::used_write(key).ok_or_else(|| Error::new(ErrorKind::Corrupt, "the key of a write's row is damaged"))
}

/// The shards of a write that somebody may yet read.
fn shape(rows: &Rows<'_>, used: Use) -> Result<Option<Shape>, Error> {
    match used {
        Use::Object { shape, .. } => Ok(shape),
        Use::Part { upload, number } => {
            if let Some(Use::Garbage { .. }) | None = rows.use_of(upload)? {
                return Ok(None);
            }
            let part = rows.find::<PartRow>(&keys::part(upload, number))?;
            let part =
                part.ok_or_else(|| Error::new(ErrorKind::Corrupt, "a part in use has no row").with("upload", upload))?;
            Ok(Some(Shape::of(&part.extent)))
        }
        Use::Upload | Use::Garbage { .. } | Use::GarbagePart { .. } => Ok(None),
    }
}

/// A page in the making.
struct Page {
    answer: UsesPage,
    limit: usize,
    /// Rows that were looked at and have nothing in them are bounded too.
    passed: usize,
    weight: usize,
    /// The last row that was looked at.
    last: Option<WriteId>,
}

impl Page {
    fn new(limit: u32) -> Self {
        let limit = (limit as usize).clamp(1, LIST_KEYS_MAX);
        Self { answer: UsesPage::default(), limit, passed: 0, weight: 0, last: None }
    }

    fn is_full(&self) -> bool {
        self.answer.writes.len() >= self.limit || self.passed >= PASSED_MAX || self.weight >= RUNS_MAX
    }

    fn stop(&mut self) -> ControlFlow<()> {
        self.answer.next = self.last;
        ControlFlow::Break(())
    }

    fn take(&mut self, write: WriteId, shape: Option<Shape>) -> ControlFlow<()> {
        if self.is_full() {
            return self.stop();
        }
        self.weight += shape.as_ref().map_or(0, waste::weight);
        self.answer.writes.push((write, shape));
        self.last = Some(write);
        ControlFlow::Continue(())
    }

    fn pass(&mut self, write: WriteId) -> ControlFlow<()> {
        if self.is_full() {
            return self.stop();
        }
        self.passed += 1;
        self.last = Some(write);
        ControlFlow::Continue(())
    }

    fn end(self) -> MetaAnswer {
        MetaAnswer::Uses(self.answer)
    }
}

/// Rows without shards in use that are looked at for one page.
const PASSED_MAX: usize = 16_384;
