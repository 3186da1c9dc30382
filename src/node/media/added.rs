//! Drives that the node was told to use while it ran: `added.toml` in its data folder, which it alone writes. The
//! configuration is its owner's, and wins where it names the same path.

use std::path::PathBuf;

use mesh_core::{Error, ErrorKind, id::DriveId};
use serde::{Deserialize, Serialize};

use super::numbers::plain;
use crate::{
    config::{DRIVES_MAX, DriveConfig, Size},
    node::{Inner, lock},
};

#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Added {
    #[serde(default, rename = "drive")]
    drives: Vec<Entry>,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    number: u64,
    path: PathBuf,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    capacity: Option<Size>,
}

const HEAD: &str =
    "# Written by the node, for `mesh drive add`. A drive that is in the configuration too is as it is there.\n\n";

fn path(node: &Inner) -> PathBuf {
    node.config.data.join("added.toml")
}

/// Those that the configuration does not have.
pub(super) fn load(node: &Inner) -> Result<Vec<DriveConfig>, Error> {
    let drives = read(node)?.drives.into_iter().map(|Entry { path, capacity, .. }| DriveConfig { path, capacity });
    Ok(drives.filter(|drive| !is_configured(node, drive)).collect())
}

/// Remembers one, before anything is stored on it. Whether that is new.
pub(super) fn keep(node: &Inner, config: &DriveConfig, drive: DriveId) -> Result<bool, Error> {
    if is_configured(node, config) {
        return Ok(false);
    }
    let _keeping = lock(&node.numbers);
    let mut added = read(node)?;
    let entry = Entry { number: drive.0, path: plain(&config.path), capacity: config.capacity };
    if added.drives.contains(&entry) {
        return Ok(false);
    }
    added.drives.retain(|known| known.path != entry.path && known.number != entry.number);
    if added.drives.len() >= DRIVES_MAX {
        return Err(too_many());
    }
    added.drives.push(entry);
    write(node, &added)?;
    Ok(true)
}

/// Forgets one that is out of the mesh, or never came in.
pub(super) fn forget(node: &Inner, drive: DriveId) -> Result<(), Error> {
    let _keeping = lock(&node.numbers);
    let mut added = read(node)?;
    let count = added.drives.len();
    added.drives.retain(|known| known.number != drive.0);
    if added.drives.len() == count { Ok(()) } else { write(node, &added) }
}

pub(super) fn too_many() -> Error {
    Error::new(ErrorKind::Conflict, "the node has as many drives as it can: take one out first")
        .with("limit", DRIVES_MAX)
}

fn is_configured(node: &Inner, drive: &DriveConfig) -> bool {
    node.config.drives.iter().any(|known| plain(&known.path) == plain(&drive.path))
}

fn read(node: &Inner) -> Result<Added, Error> {
    let path = path(node);
    let kept = node.env.files.read(&path).map_err(|error| {
        Error::new(ErrorKind::DriveFailed, "the drives that were added cannot be read")
            .with("file", path.display())
            .caused_by(error)
    })?;
    toml::from_str(&kept.unwrap_or_default()).map_err(|error| {
        Error::invalid(format!(
            "the drives that were added are not as a node writes them: {}",
            error.to_string().trim_end()
        ))
        .with("file", path.display())
    })
}

fn write(node: &Inner, added: &Added) -> Result<(), Error> {
    let path = path(node);
    let text =
        toml::to_string(added).map_err(|error| Error::bug("a list of drives cannot be written").with("why", error))?;
    node.env.files.replace(&path, &format!("{HEAD}{text}"), 0o644).map_err(|error| {
        Error::new(ErrorKind::DriveFailed, "the drives that were added cannot be kept")
            .with("file", path.display())
            .caused_by(error)
    })
}
