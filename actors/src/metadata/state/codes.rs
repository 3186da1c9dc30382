//! Control group: the codes that buckets have asked for. Layouts have groups for each, for good: what was stored in a code is
//! found by them for as long as it is there, and nobody knows when that ends.

use std::collections::BTreeMap;

use mesh_core::{
    Error,
    id::NodeId,
    limits::CODES_DRIVES_MAX,
    topology::{Code, DriveInfo},
};

use super::{rows::Rows, seats};
use crate::metadata::keys;

/// The codes, in the order in which they were first asked for, but for the mesh's own.
fn known(rows: &Rows<'_>) -> Result<Vec<Code>, Error> {
    Ok(rows.find(&keys::codes())?.unwrap_or_default())
}

/// Has layouts have groups for a code, if they do not yet.
///
/// A layout has groups for all codes, so one that the mesh has too few drives for would leave it without any to come: nothing
/// that is lost would be rebuilt, whatever code it is in. So one that is wider than the others has to fit without any one node.
///
/// # Errors
/// `Invalid` for one over the limits, or that the mesh has too few drives for, and for any where it has too few for a code that
/// it has; or if there are too many codes already.
pub(super) fn use_one(rows: &mut Rows<'_>, own: Code, code: Code) -> Result<(), Error> {
    if !code.is_valid() {
        return Err(Error::invalid("this code is outside the limits").with("code", code));
    }
    let mut codes = known(rows)?;
    if code == own || codes.contains(&code) {
        return Ok(());
    }
    let widest = codes.iter().chain([&own]).map(|code| code.shards()).max().unwrap_or(0);
    let (all, left) = drives(rows)?;
    // One that is no wider than another changes nothing of when there are too few.
    if all < widest.max(code.shards()) || (code.shards() > widest && left < code.shards()) {
        let what = "the mesh has too few drives for this code, or would have if any one node were lost: add drives, or choose a \
                    code that is no wider than those that it has";
        return Err(Error::invalid(what)
            .with("code", code)
            .with("drives", all)
            .with("without_a_node", left)
            .with("widest", widest));
    }
    let listed: usize = codes.iter().chain([&own, &code]).map(|code| code.group_drives()).sum();
    if listed > CODES_DRIVES_MAX {
        let named = codes.iter().chain([&own]).map(Code::to_string).collect::<Vec<_>>().join(" ");
        let what = "the mesh has as many codes as its layouts have room for: choose one of those";
        return Err(Error::invalid(what).with("code", code).with("codes", named));
    }
    codes.push(code);
    rows.put(keys::codes(), &codes)
}

/// How many drives are used, and how many without those of the node that has most; of a single node, all of them.
fn drives(rows: &Rows<'_>) -> Result<(usize, usize), Error> {
    let used = seats::used(rows)?;
    let mut owned: BTreeMap<NodeId, usize> = BTreeMap::new();
    for drive in used.values() {
        if let Some(info) = rows.find::<DriveInfo>(&keys::drive(*drive))? {
            *owned.entry(info.node).or_default() += 1;
        }
    }
    let most = if owned.len() > 1 { owned.values().copied().max().unwrap_or(0) } else { 0 };
    Ok((used.len(), used.len() - most))
}
