//! What the control group shows everybody: the view of its rows, buckets apart.
//!
//! Made out of all rows when a replica is opened or gets a snapshot; from then on each batch of changes makes the next view
//! out of the one before, and shares with it what did not change. Both ways go through one function a row.

use std::{ops::ControlFlow, sync::Arc};

use mesh_core::{
    Error, ErrorKind,
    assignment::{Assignment, Scope, Tail, Wish},
    id::{ActorId, DriveId, KeyId, LayoutId, NodeId, TenantId},
    meta::{AccessKeyRow, ControlView, EndedTenant, PastKey, PrincipalRow, TenantRow},
    shared::SharedMap,
    spec::CustomSpec,
    topology::{Departure, DriveInfo, Layout, Leaving, NodeInfo},
};
use serde::de::DeserializeOwned;

use super::rows::{Formed, decode};
use crate::metadata::{
    keys,
    table::{Change, Table},
};

/// The kinds of row that the view shows, ascending: drives come before their losses.
const SHOWN: [u8; 18] = [
    keys::FORMED,
    keys::ASSIGNMENT,
    keys::DRIVE,
    keys::TAIL,
    keys::ACCESS_KEY,
    keys::LAYOUT,
    keys::NODE,
    keys::PRINCIPAL,
    keys::CODES,
    keys::ENDED,
    keys::STAGES,
    keys::TENANT,
    keys::PAST_KEY,
    keys::LEVEL,
    keys::WISH,
    keys::LOST,
    keys::LEAVING,
    keys::DEPARTURE,
];

const _: () = {
    let mut at = 1;
    while at < SHOWN.len() {
        assert!(SHOWN[at - 1] < SHOWN[at]);
        at += 1;
    }
};

/// The view of a table.
pub(super) fn whole(table: &dyn Table) -> Result<ControlView, Error> {
    let mut view = ControlView::default();
    for kind in SHOWN {
        let from = keys::all(kind);
        table.scan(&from, &keys::behind(&from), &mut |key, value| {
            show(&mut view, key, Some(value))?;
            Ok(ControlFlow::Continue(()))
        })?;
    }
    Ok(view)
}

/// The view after changes, ascending by key; `None` if it is the same.
pub(super) fn after(before: &ControlView, changes: &[Change]) -> Result<Option<ControlView>, Error> {
    let mut after = before.clone();
    let mut is_new = false;
    for Change { key, value } in changes {
        is_new |= show(&mut after, key, value.as_deref())?;
    }
    Ok(is_new.then_some(after))
}

/// Shows a row as it is now; `None`: it is gone. Says whether that is new: a row may be written as it was.
fn show(view: &mut ControlView, key: &[u8], value: Option<&[u8]>) -> Result<bool, Error> {
    Ok(match key.first().copied().unwrap_or(0) {
        keys::FORMED => form(view, row(key, value)?),
        keys::NODE => set(&mut view.nodes, NodeId(number(key)?), row::<NodeInfo>(key, value)?),
        keys::DRIVE => set_drive(view, DriveId(number(key)?), row(key, value)?),
        keys::LOST => set_lost(view, DriveId(number(key)?), value.is_some()),
        keys::LEAVING => set(&mut view.leaving, DriveId(number(key)?), row::<Leaving>(key, value)?),
        keys::DEPARTURE => set(&mut view.departures, NodeId(number(key)?), row::<Departure>(key, value)?),
        keys::LAYOUT => set_layout(view, LayoutId(number(key)?), row(key, value)?),
        keys::TENANT => set(&mut view.tenants, TenantId(number(key)?), row::<TenantRow>(key, value)?.map(Arc::new)),
        keys::PAST_KEY => set(&mut view.past_keys, KeyId(number(key)?), row::<PastKey>(key, value)?),
        keys::ENDED => set(&mut view.ended, TenantId(number(key)?), row::<EndedTenant>(key, value)?.map(Arc::new)),
        keys::PRINCIPAL => set_principal(view, known(key, keys::principal_of(key))?, row(key, value)?),
        keys::ACCESS_KEY => {
            let access = known(key, keys::access_of(key))?.to_owned();
            set(&mut view.access_keys, access, row::<AccessKeyRow>(key, value)?.map(Arc::new))
        }
        keys::ASSIGNMENT => set(&mut view.assignments, ActorId(number(key)?), row::<Assignment>(key, value)?),
        keys::WISH => {
            let wish = row::<(Scope, Wish)>(key, value)?;
            set(&mut view.wishes, known(key, keys::scope_of(key))?, wish.map(|(_, wish)| wish))
        }
        keys::TAIL => {
            let tail = row::<(ActorId, Tail)>(key, value)?;
            set(&mut view.tails, ActorId(number(key)?), tail.map(|(_, tail)| tail))
        }
        keys::STAGES => {
            let stages = row::<(Scope, Vec<CustomSpec>)>(key, value)?;
            set(&mut view.stages, known(key, keys::scope_of(key))?, stages.map(|(_, stages)| stages.into()))
        }
        keys::CODES => {
            let codes = row(key, value)?.unwrap_or_default();
            core::mem::replace(&mut view.codes, codes) != view.codes
        }
        keys::LEVEL => {
            let level = row(key, value)?.unwrap_or_default();
            core::mem::replace(&mut view.level, level) != level
        }
        _ => false,
    })
}

fn set<K: Ord + Clone, V: Clone + PartialEq>(map: &mut SharedMap<K, V>, key: K, value: Option<V>) -> bool {
    match value {
        // Nothing is copied for what is there already.
        Some(value) if map.get(&key) == Some(&value) => false,
        Some(value) => {
            map.insert(key, value);
            true
        }
        None => map.remove(&key).is_some(),
    }
}

fn form(view: &mut ControlView, formed: Option<Formed>) -> bool {
    let shown = (view.cluster, view.code, view.namespaces);
    view.namespaces = formed.as_ref().map_or(0, |formed| formed.namespaces);
    view.code = formed.as_ref().map(|formed| formed.code);
    view.cluster = formed.map(|formed| formed.cluster);
    shown != (view.cluster, view.code, view.namespaces)
}

fn set_drive(view: &mut ControlView, id: DriveId, drive: Option<DriveInfo>) -> bool {
    let shown = if view.lost.contains_key(&id) { &mut view.lost } else { &mut view.drives };
    set(shown, id, drive)
}

fn set_lost(view: &mut ControlView, id: DriveId, is_lost: bool) -> bool {
    let (from, to) = if is_lost { (&mut view.drives, &mut view.lost) } else { (&mut view.lost, &mut view.drives) };
    let Some(info) = from.remove(&id) else { return false };
    to.insert(id, info);
    true
}

fn set_layout(view: &mut ControlView, id: LayoutId, layout: Option<Layout>) -> bool {
    match layout {
        Some(layout) if view.layouts.get(&id).is_some_and(|known| **known == layout) => false,
        Some(layout) => {
            view.layouts.insert(id, Arc::new(layout));
            true
        }
        None => view.layouts.remove(&id).is_some(),
    }
}

fn set_principal(view: &mut ControlView, of: (TenantId, &str), principal: Option<PrincipalRow>) -> bool {
    let at = view.principals.binary_search_by(|known| (known.tenant, known.name.as_str()).cmp(&of));
    let principals = &mut view.principals;
    match (at, principal) {
        (Ok(at), Some(principal)) if *principals[at] == principal => return false,
        (Ok(at), Some(principal)) => Arc::make_mut(principals)[at] = Arc::new(principal),
        (Err(at), Some(principal)) => Arc::make_mut(principals).insert(at, Arc::new(principal)),
        (Ok(at), None) => drop(Arc::make_mut(principals).remove(at)),
        (Err(_), None) => return false,
    }
    true
}

fn row<T: DeserializeOwned>(key: &[u8], value: Option<&[u8]>) -> Result<Option<T>, Error> {
    value.map(|value| decode(key, value)).transpose()
}

fn number(key: &[u8]) -> Result<u64, Error> {
    known(key, keys::number(key))
}

fn known<T>(key: &[u8], read: Option<T>) -> Result<T, Error> {
    read.ok_or_else(|| {
        Error::new(ErrorKind::Corrupt, "a metadata row has no such key; the replica must be built anew from the others")
            .with("row", key.escape_ascii())
    })
}
