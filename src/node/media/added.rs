//! Drives that the node was told to use while it ran: `added.toml` in its data folder, which it alone writes. The
//! configuration is its owner's, and wins where it names the same path.

use std::path::PathBuf;

use mesh_core::{Error, ErrorKind};
use serde::{Deserialize, Serialize};

use crate::{
    config::{DRIVES_MAX, DriveConfig},
    node::{Inner, lock},
};

#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Added {
    #[serde(default, rename = "drive")]
    drives: Vec<DriveConfig>,
}

const HEAD: &str =
    "# Written by the node, for `mesh drive add`. A drive that is in the configuration too is as it is there.\n\n";

fn path(node: &Inner) -> PathBuf {
    node.config.data.join("added.toml")
}

/// Those that the configuration does not have.
pub(super) fn load(node: &Inner) -> Result<Vec<DriveConfig>, Error> {
    let mut drives = read(node)?.drives;
    drives.retain(|drive| !is_configured(node, drive));
    Ok(drives)
}

/// Remembers one, before anything is stored on it.
pub(super) fn keep(node: &Inner, drive: &DriveConfig) -> Result<(), Error> {
    if is_configured(node, drive) {
        return Ok(());
    }
    let _keeping = lock(&node.numbers);
    let mut added = read(node)?;
    if added.drives.contains(drive) {
        return Ok(());
    }
    added.drives.retain(|known| known.path != drive.path);
    if added.drives.len() >= DRIVES_MAX {
        return Err(too_many());
    }
    added.drives.push(drive.clone());
    write(node, &added)
}

/// Whether one is remembered, here or in the configuration.
pub(super) fn knows(node: &Inner, drive: &DriveConfig) -> Result<bool, Error> {
    Ok(is_configured(node, drive) || read(node)?.drives.iter().any(|known| known.path == drive.path))
}

/// Forgets one that is out of the mesh.
pub(super) fn forget(node: &Inner, drive: &DriveConfig) -> Result<(), Error> {
    let _keeping = lock(&node.numbers);
    let mut added = read(node)?;
    let count = added.drives.len();
    added.drives.retain(|known| known.path != drive.path);
    if added.drives.len() == count { Ok(()) } else { write(node, &added) }
}

pub(super) fn too_many() -> Error {
    Error::new(ErrorKind::Conflict, "the node has as many drives as it can: take one out first")
        .with("limit", DRIVES_MAX)
}

fn is_configured(node: &Inner, drive: &DriveConfig) -> bool {
    node.config.drives.iter().any(|known| known.path == drive.path)
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
