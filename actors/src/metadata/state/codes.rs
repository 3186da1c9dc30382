//! Control group: the codes that buckets have asked for. Layouts have groups for each, for good: what was stored in a code is
//! found by them for as long as it is there, and nobody knows when that ends.

use mesh_core::{Error, ErrorKind, limits::CODES_DRIVES_MAX, topology::Code};

use super::{rows::Rows, seats};
use crate::metadata::keys;

/// The codes, in the order in which they were first asked for, but for the mesh's own.
pub(super) fn known(rows: &Rows<'_>) -> Result<Vec<Code>, Error> {
    Ok(rows.find(&keys::codes())?.unwrap_or_default())
}

/// Has layouts have groups for a code, if they do not yet.
///
/// # Errors
/// `Invalid` for one over the limits, `Conflict` for one that the mesh has too few drives for, or if there are too many codes
/// already.
pub(super) fn use_one(rows: &mut Rows<'_>, own: Code, code: Code) -> Result<(), Error> {
    if !code.is_valid() {
        return Err(Error::invalid("this code is outside the limits").with("code", code));
    }
    let mut codes = known(rows)?;
    if code == own || codes.contains(&code) {
        return Ok(());
    }
    let drives = seats::used(rows)?.len();
    if drives < code.shards() {
        let what = "the mesh has too few drives for this code: add drives, or choose a smaller one";
        return Err(Error::new(ErrorKind::Conflict, what)
            .with("code", code)
            .with("drives", drives)
            .with("needed", code.shards()));
    }
    let listed: usize = codes.iter().chain([&own, &code]).map(|code| code.group_drives()).sum();
    if listed > CODES_DRIVES_MAX {
        let named = codes.iter().chain([&own]).map(Code::to_string).collect::<Vec<_>>().join(" ");
        let what = "the mesh has as many codes as its layouts have room for: choose one of those";
        return Err(Error::new(ErrorKind::Conflict, what).with("code", code).with("codes", named));
    }
    codes.push(code);
    rows.put(keys::codes(), &codes)
}
