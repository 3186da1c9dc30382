//! The numbers of a node's drives.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    path::{Path, PathBuf},
};

use mesh_core::{Error, ErrorKind, id::DriveId};

use crate::{
    config::DriveConfig,
    node::{Inner, lock},
};

/// Which drive is at which path: `drives` in the data folder, so that a missing or replaced medium is noticed.
///
/// ```text
/// 1001 /mnt/nvme0          the drive there
/// 1005? /mnt/nvme1         the number that what is being made a drive there is to have
/// 1006?1001 /mnt/nvme0     likewise, in the place of another drive
/// ```
///
/// A number is only reserved until the drive is formatted; what was known at the path stays until then.
pub(super) struct Numbers(BTreeMap<PathBuf, Known>);

/// What is known of a path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Known {
    /// The drive there.
    pub(super) formatted: Option<DriveId>,
    /// What is to be one there.
    pub(super) reserved: Option<Reserved>,
}

/// A number for what is being made a drive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reserved {
    pub(super) drive: DriveId,
    /// The drive whose place it is to take.
    pub(super) instead_of: Option<DriveId>,
}

/// However it is written, it is one path.
pub(super) fn plain(path: &Path) -> PathBuf {
    path.components().collect()
}

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
        Self::parse(&kept.unwrap_or_default()).map_err(|error| error.with("file", path.display()))
    }

    fn parse(text: &str) -> Result<Self, Error> {
        let mut numbers: BTreeMap<PathBuf, Known> = BTreeMap::new();
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            let senseless = || Error::invalid("a line is not a drive's number and its path").with("line", line);
            let number = |text: &str| text.parse().map(DriveId).map_err(|_| senseless());
            let (numbered, place) = line.split_once(' ').ok_or_else(senseless)?;
            let known = numbers.entry(plain(Path::new(place))).or_default();
            match numbered.split_once('?') {
                None => known.formatted = Some(number(numbered)?),
                Some((drive, old)) => {
                    let instead_of = if old.is_empty() { None } else { Some(number(old)?) };
                    known.reserved = Some(Reserved { drive: number(drive)?, instead_of });
                }
            }
        }
        Ok(Self(numbers))
    }

    fn render(&self) -> String {
        let mut text = String::new();
        for (path, Known { formatted, reserved }) in &self.0 {
            let path = path.display();
            let said = formatted.map_or(Ok(()), |drive| writeln!(text, "{} {path}", drive.0)).and_then(|()| {
                let Some(Reserved { drive, instead_of }) = reserved else { return Ok(()) };
                let old = instead_of.map(|old| old.0.to_string()).unwrap_or_default();
                writeln!(text, "{}?{old} {path}", drive.0)
            });
            said.expect("memory takes everything");
        }
        text
    }

    pub(super) fn of(&self, config: &DriveConfig) -> Known {
        self.0.get(&plain(&config.path)).copied().unwrap_or_default()
    }

    /// Reserves a number that no drive of this node has had.
    pub(super) fn choose(node: &Inner, config: &DriveConfig, instead_of: Option<DriveId>) -> Result<DriveId, Error> {
        let _choosing = lock(&node.numbers);
        let mut numbers = Self::load(node)?;
        let view = node.metadata.control();
        let first = node.id.0 * 1000 + 1;
        let is_taken = |drive: &DriveId| {
            let is_it = |known: &Known| {
                known.formatted == Some(*drive) || known.reserved.is_some_and(|reserved| reserved.drive == *drive)
            };
            numbers.0.values().any(is_it) || view.drives.contains_key(drive) || view.lost.contains_key(drive)
        };
        let drive = (first..first + 999)
            .map(DriveId)
            .find(|drive| !is_taken(drive))
            .ok_or_else(|| Error::invalid("the node has had 999 drives and has no number left"))?;
        numbers.0.entry(plain(&config.path)).or_default().reserved = Some(Reserved { drive, instead_of });
        numbers.save(node)?;
        Ok(drive)
    }

    /// It is formatted, and there.
    pub(super) fn keep(node: &Inner, config: &DriveConfig, drive: DriveId) -> Result<(), Error> {
        let _keeping = lock(&node.numbers);
        let mut numbers = Self::load(node)?;
        let now = Known { formatted: Some(drive), reserved: None };
        if numbers.0.insert(plain(&config.path), now) == Some(now) { Ok(()) } else { numbers.save(node) }
    }

    /// It is not to be one after all.
    pub(super) fn release(node: &Inner, config: &DriveConfig) -> Result<(), Error> {
        let _keeping = lock(&node.numbers);
        let mut numbers = Self::load(node)?;
        let Some(known) = numbers.0.get_mut(&plain(&config.path)) else { return Ok(()) };
        known.reserved = None;
        if known.formatted.is_none() {
            numbers.0.remove(&plain(&config.path));
        }
        numbers.save(node)
    }

    fn save(&self, node: &Inner) -> Result<(), Error> {
        let path = Self::path(node);
        node.env.files.replace(&path, &self.render(), 0o644).map_err(|error| {
            Error::new(ErrorKind::DriveFailed, "the drives' numbers cannot be kept")
                .with("file", path.display())
                .caused_by(error)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_and_what_is_reserved_stand_side_by_side_under_one_path_however_it_is_written() {
        let text = "1001 /mnt/a/\n1006?1001 /mnt/./a\n1002? /mnt/b c\n\n";
        let numbers = Numbers::parse(text).unwrap();
        let config = |path: &str| DriveConfig { path: path.into(), capacity: None };
        let reserved = |drive, old: Option<u64>| Reserved { drive: DriveId(drive), instead_of: old.map(DriveId) };
        let first = Known { formatted: Some(DriveId(1001)), reserved: Some(reserved(1006, Some(1001))) };
        assert_eq!(numbers.of(&config("/mnt//a")), first);
        assert_eq!(numbers.of(&config("/mnt/b c/")), Known { formatted: None, reserved: Some(reserved(1002, None)) });
        assert_eq!(numbers.of(&config("/mnt/b")), Known::default());
        assert_eq!(numbers.render(), "1001 /mnt/a\n1006?1001 /mnt/a\n1002? /mnt/b c\n");
        for senseless in ["1001", "x /mnt/a", "1001?x /mnt/a", "? /mnt/a"] {
            assert!(Numbers::parse(senseless).is_err(), "{senseless}");
        }
    }
}
