//! Where the control groups of this process are.
//!
//! ```text
//! /proc/self/mountinfo   36 31 0:33 /root /mount/point rw,relatime shared:1 - cgroup cgroup rw,cpu,cpuacct
//!                                   4     5                       0..n     -  type   source  options
//! /proc/self/cgroup      2:cpu,cpuacct:/own      (version 1)
//!                        0::/own                 (version 2)
//! ```
//!
//! The root of a mount is the group that its mount point shows; a process's own group is told from the top. Spaces and
//! the like in paths are written as `\040`.

use std::{
    fs,
    io::{self, Read as _},
    path::{Component, Path, PathBuf},
};

use super::{CgroupError, write};

/// The groups in which new ones can be made.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Hierarchy {
    /// Version 1: this process's own groups; that of `cpuacct` if it is mounted apart from `cpu`.
    One { cpu: PathBuf, cpuacct: Option<PathBuf> },
    /// Version 2: this process's own group, then those above it up to the mount.
    Two { candidates: Vec<PathBuf> },
}

struct Mount {
    root: PathBuf,
    point: PathBuf,
    kind: String,
    options: String,
}

/// # Errors
/// `Unknown` or `NotMounted`.
pub(super) fn hierarchy(root: &Path) -> Result<Hierarchy, CgroupError> {
    let mounts = mounts(&proc_file(root, "proc/self/mountinfo")?);
    let own = proc_file(root, "proc/self/cgroup")?;

    let version_1 = |controller: &str| {
        let with = |list: &str| list.split(',').any(|part| part == controller);
        let mount = mounts.iter().find(|mount| mount.kind == "cgroup" && with(&mount.options))?;
        let group = own.lines().find_map(|line| {
            let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
            with(controllers).then_some(path)
        })?;
        Some(below(root, mount, group))
    };
    if let Some(cpu) = version_1("cpu") {
        let cpuacct = version_1("cpuacct").filter(|path| *path != cpu);
        return Ok(Hierarchy::One { cpu, cpuacct });
    }

    let mount = mounts.iter().find(|mount| mount.kind == "cgroup2").ok_or(CgroupError::NotMounted)?;
    let group = own.lines().find_map(|line| line.strip_prefix("0::")).ok_or(CgroupError::NotMounted)?;
    let top = inside(root, &mount.point);
    let candidates = below(root, mount, group)
        .ancestors()
        .take_while(|path| path.starts_with(&top))
        .take(CANDIDATES_MAX)
        .map(Path::to_owned)
        .collect();
    Ok(Hierarchy::Two { candidates })
}

/// The first group whose children have the `cpu` controller, or can be given it.
///
/// # Errors
/// `NotDelegated`, or `NotMounted` if version 2 does not have the controller at all.
pub(super) fn delegated(candidates: &[PathBuf]) -> Result<&Path, CgroupError> {
    let has_cpu = |path: PathBuf| {
        fs::read_to_string(path).is_ok_and(|list| list.split_ascii_whitespace().any(|name| name == "cpu"))
    };
    // In the group at the top is every controller that version 2 has.
    if !candidates.last().is_some_and(|top| has_cpu(top.join("cgroup.controllers"))) {
        return Err(CgroupError::NotMounted);
    }
    let mut tried = Vec::new();
    for candidate in candidates {
        let switch = candidate.join("cgroup.subtree_control");
        if has_cpu(switch.clone()) {
            return Ok(candidate);
        }
        match write(&switch, "+cpu") {
            Ok(()) => return Ok(candidate),
            Err(CgroupError::Control { source, .. }) => tried.push(format!("{}: {source}", candidate.display())),
            Err(other) => return Err(other),
        }
    }
    Err(CgroupError::NotDelegated { tried: tried.join("; ") })
}

fn mounts(text: &str) -> Vec<Mount> {
    let mount = |line: &str| {
        let (place, filesystem) = line.split_once(" - ")?;
        let mut place = place.split(' ').skip(3);
        let (root, point) = (unescaped(place.next()?), unescaped(place.next()?));
        let mut filesystem = filesystem.split(' ');
        let kind = filesystem.next()?.to_owned();
        let options = filesystem.nth(1)?.to_owned();
        Some(Mount { root, point, kind, options })
    };
    text.lines().filter_map(mount).filter(|mount| mount.kind.starts_with("cgroup")).collect()
}

/// The folder of a group. Where the mount does not show it (another namespace), the mount's own group.
fn below(root: &Path, mount: &Mount, group: &str) -> PathBuf {
    let point = inside(root, &mount.point);
    match Path::new(group).strip_prefix(&mount.root) {
        Ok(rest) if rest.components().all(|part| matches!(part, Component::Normal(_))) => {
            if rest.as_os_str().is_empty() { point } else { point.join(rest) }
        }
        _ => point,
    }
}

/// An absolute path, below `root`.
fn inside(root: &Path, path: &Path) -> PathBuf {
    let parts = path.components().filter(|part| matches!(part, Component::Normal(_)));
    parts.fold(root.to_owned(), |path, part| path.join(part))
}

/// Takes `\040` back to a space, and so on.
fn unescaped(text: &str) -> PathBuf {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let digits = after.get(..3).filter(|digits| digits.iter().all(|digit| (b'0'..=b'7').contains(digit)));
        let number = digits.map(|digits| digits.iter().fold(0_u16, |sum, digit| sum * 8 + u16::from(digit - b'0')));
        match number.and_then(|number| u8::try_from(number).ok()) {
            Some(byte) if first == b'\\' => {
                bytes.push(byte);
                rest = after.get(3..).unwrap_or_default();
            }
            _ => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    PathBuf::from(String::from_utf8_lossy(&bytes).into_owned())
}

fn proc_file(root: &Path, path: &str) -> Result<String, CgroupError> {
    let path = root.join(path);
    let mut bytes = Vec::new();
    let read: io::Result<usize> =
        fs::File::open(&path).and_then(|file| file.take(PROC_BYTES_MAX).read_to_end(&mut bytes));
    read.map_err(|source| CgroupError::Unknown { path, source })?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Machines with thousands of mounts have a MiB of them.
const PROC_BYTES_MAX: u64 = 4 << 20;
/// Groups above one another.
const CANDIDATES_MAX: usize = 32;
