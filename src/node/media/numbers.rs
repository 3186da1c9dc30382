//! The numbers of a node's drives.

use std::{collections::BTreeMap, path::PathBuf};

use mesh_core::{Error, ErrorKind, id::DriveId};

use crate::{
    config::DriveConfig,
    node::{Inner, lock},
};

/// Which drive is at which path: `drives` in the data folder, a line each, such as `1001 /mnt/nvme0`. So a missing or
/// replaced medium is noticed. A number is only reserved (`1001? /mnt/nvme0`) until the drive is formatted.
pub(super) struct Numbers(BTreeMap<String, (DriveId, bool)>);

impl Numbers {
    pub(super) fn path(node: &Inner) -> PathBuf {
        node.config.data.join("drives")
    }

    pub(super) fn load(node: &Inner) -> Result<Self, Error> {
        let path = Self::path(node);
        let kept = node.env.files.read(&path).map_err(|error| {
            Error::new(ErrorKind::DriveFailed, "the drives' numbers cannot be read")
                .with("file", path.display())
                .caused_by(error)
        })?;
        let text = kept.unwrap_or_default();
        let mut numbers = BTreeMap::new();
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            let (number, place) = line.split_once(' ').unwrap_or((line, ""));
            let (number, formatted) = number.strip_suffix('?').map_or((number, true), |number| (number, false));
            let number = number.parse().map_err(|_| {
                Error::invalid("a line is not a drive's number and its path")
                    .with("file", path.display())
                    .with("line", line)
            })?;
            numbers.insert(place.to_owned(), (DriveId(number), formatted));
        }
        Ok(Self(numbers))
    }

    fn key(config: &DriveConfig) -> String {
        config.path.to_string_lossy().into_owned()
    }

    pub(super) fn of(&self, config: &DriveConfig) -> Option<(DriveId, bool)> {
        self.0.get(&Self::key(config)).copied()
    }

    /// Reserves a number that no drive of this node has had.
    pub(super) fn choose(node: &Inner, config: &DriveConfig) -> Result<DriveId, Error> {
        let _choosing = lock(&node.numbers);
        let mut known = Self::load(node)?;
        let view = node.metadata.control();
        let first = node.id.0 * 1000 + 1;
        let drive = (first..first + 999)
            .map(DriveId)
            .find(|drive| {
                !known.0.values().any(|(other, _)| other == drive)
                    && !view.drives.contains_key(drive)
                    && !view.lost.contains_key(drive)
            })
            .ok_or_else(|| Error::invalid("the node has had 999 drives and has no number left"))?;
        known.0.insert(Self::key(config), (drive, false));
        known.save(node)?;
        Ok(drive)
    }

    pub(super) fn keep(node: &Inner, config: &DriveConfig, drive: DriveId) -> Result<(), Error> {
        let _keeping = lock(&node.numbers);
        let mut known = Self::load(node)?;
        if known.0.insert(Self::key(config), (drive, true)) == Some((drive, true)) { Ok(()) } else { known.save(node) }
    }

    fn save(&self, node: &Inner) -> Result<(), Error> {
        let text: String = self
            .0
            .iter()
            .map(|(place, (drive, formatted))| format!("{}{} {place}\n", drive.0, if *formatted { "" } else { "?" }))
            .collect();
        let path = Self::path(node);
        node.env.files.replace(&path, &text, 0o644).map_err(|error| {
            Error::new(ErrorKind::DriveFailed, "the drives' numbers cannot be kept")
                .with("file", path.display())
                .caused_by(error)
        })
    }
}
