//! A share of the CPU for another process, by a control group.
//!
//! ```text
//! version  where                          quota                                       members        used
//! 1        <cpu mount>/<own>/<name>       cpu.cfs_period_us, then cpu.cfs_quota_us    cgroup.procs   cpuacct.usage, ns
//! 2        <mount>/<own or above>/<name>  cpu.max: "quota period"                     cgroup.procs   cpu.stat: usage_usec
//! ```
//!
//! Where they are comes from `/proc/self/mountinfo` and `/proc/self/cgroup`. Version 1 is taken where its `cpu`
//! controller is mounted, for then version 2 does not have it. In version 2 a group that has processes cannot give its
//! children a controller, so that groups above this process's own are tried, too.
//!
//! A group is made for one use and removed afterwards. This needs permission (root, or a delegated group): where that
//! is missing, the error says so, and the caller goes on without a share.

mod find;

use core::time::Duration;
use std::{
    fs,
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
};

use self::find::Hierarchy;
use crate::profile::CpuQuota;

/// A control group that this process has made. Dropping it removes it if it is empty: end its processes first.
#[derive(Debug)]
pub struct Cgroup {
    version: Version,
    /// Version 1: that of `cpu`, then that of `cpuacct` if it is another. Version 2: one.
    folders: Vec<PathBuf>,
    removed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

impl Cgroup {
    /// Makes a group beside or below this process's own, with a quota. `root` is `/` but for tests. An empty group of
    /// that name, which a killed process may have left behind, is taken over.
    ///
    /// # Errors
    /// [`CgroupError`]; no group is left behind.
    pub fn create(root: &Path, name: &str, quota: CpuQuota) -> Result<Self, CgroupError> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        if name.is_empty() || name.len() > NAME_BYTES_MAX || name.starts_with('.') || !name.bytes().all(plain) {
            return Err(CgroupError::Name);
        }
        let mut group = match find::hierarchy(root)? {
            Hierarchy::One { cpu, cpuacct } => {
                let mut group = Self { version: Version::One, folders: Vec::new(), removed: false };
                for parent in core::iter::once(cpu).chain(cpuacct) {
                    group.make(parent.join(name))?;
                }
                group
            }
            Hierarchy::Two { candidates } => {
                let parent = find::delegated(&candidates)?;
                let mut group = Self { version: Version::Two, folders: Vec::new(), removed: false };
                group.make(parent.join(name))?;
                group
            }
        };
        group.set_quota(quota)?;
        Ok(group)
    }

    /// Changes the quota; it holds from the next period on.
    ///
    /// # Errors
    /// `Control` if the system refuses it, for example because a group above has less.
    pub fn set_quota(&mut self, quota: CpuQuota) -> Result<(), CgroupError> {
        let CpuQuota { quota_us, period_us } = quota;
        match self.version {
            Version::One => {
                // The old quota must fit into the new period, and it may be larger than that: lift it first.
                self.put("cpu.cfs_quota_us", "-1")?;
                self.put("cpu.cfs_period_us", &period_us.to_string())?;
                self.put("cpu.cfs_quota_us", &quota_us.to_string())
            }
            Version::Two => self.put("cpu.max", &format!("{quota_us} {period_us}")),
        }
    }

    /// Moves a process, with all its threads, into the group. What it starts from then on is in it, too.
    ///
    /// # Errors
    /// `Control` if there is no such process or it may not be moved.
    pub fn add(&self, pid: u32) -> Result<(), CgroupError> {
        self.folders.iter().try_for_each(|folder| write(&folder.join("cgroup.procs"), &pid.to_string()))
    }

    /// CPU time that the processes of the group have used, those that ended included.
    ///
    /// # Errors
    /// `Control` if the system does not count it.
    pub fn cpu_time(&self) -> Result<Duration, CgroupError> {
        let strange = |path| CgroupError::Control { path, source: io::Error::other("not as Linux writes it") };
        match self.version {
            Version::One => {
                let path = self.folder_of_accounts().join("cpuacct.usage");
                let nanos = read(&path)?.trim().parse().map_err(|_| strange(path))?;
                Ok(Duration::from_nanos(nanos))
            }
            Version::Two => {
                let path = self.folder_of_accounts().join("cpu.stat");
                let text = read(&path)?;
                let usage = text.lines().find_map(|line| line.strip_prefix("usage_usec ")?.trim().parse().ok());
                usage.map(Duration::from_micros).ok_or_else(|| strange(path))
            }
        }
    }

    /// Where the group is, for people: the folder that holds its quota.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.folders.first().map_or_else(|| Path::new(""), PathBuf::as_path)
    }

    /// Removes the group.
    ///
    /// # Errors
    /// `Remove` if it still has processes: end them, and wait for them, first.
    pub fn remove(mut self) -> Result<(), CgroupError> {
        self.remove_folders()
    }

    fn remove_folders(&mut self) -> Result<(), CgroupError> {
        self.removed = true;
        let mut outcome = Ok(());
        for path in self.folders.drain(..) {
            if let Err(source) = fs::remove_dir(&path) {
                outcome = Err(CgroupError::Remove { path, source });
            }
        }
        outcome
    }

    fn make(&mut self, folder: PathBuf) -> Result<(), CgroupError> {
        let made = fs::create_dir(&folder).or_else(|error| match error.kind() {
            // Fails if somebody uses it.
            io::ErrorKind::AlreadyExists => fs::remove_dir(&folder).and_then(|()| fs::create_dir(&folder)),
            _ => Err(error),
        });
        made.map_err(|source| CgroupError::Create { path: folder.clone(), source })?;
        self.folders.push(folder);
        Ok(())
    }

    fn put(&self, control: &str, value: &str) -> Result<(), CgroupError> {
        write(&self.path().join(control), value)
    }

    fn folder_of_accounts(&self) -> &Path {
        self.folders.last().map_or_else(|| Path::new(""), PathBuf::as_path)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if !self.removed
            && let Err(error) = self.remove_folders()
        {
            tracing::warn!(%error, "a control group is left behind; it does no harm, and can be removed with rmdir");
        }
    }
}

/// Why there is no control group. The caller goes on without a share of the CPU.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// The name would leave its folder, or surprise somebody.
    #[error("a control group's name has 1 to 64 letters, digits, '-', '_' or '.', and does not begin with '.'")]
    Name,
    /// `/proc` does not tell.
    #[error("cannot read {path:?}, which tells where control groups are")]
    Unknown {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// No hierarchy with the `cpu` controller.
    #[error("no control groups with the cpu controller are mounted: mount cgroup2, or cgroup with -o cpu")]
    NotMounted,
    /// Version 2, and no group that may have children with the `cpu` controller.
    #[error(
        "no control group from this process's own upwards gives its children the cpu controller, and it cannot \
             be switched on ({tried}): run as root, or have a group delegated (systemd: Delegate=cpu)"
    )]
    NotDelegated {
        /// The folders, with the reason for each.
        tried: String,
    },
    /// The folder.
    #[error(
        "cannot make the control group {path:?}: it takes root or a delegated group, and a name that is not in use"
    )]
    Create {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file of the group.
    #[error("the system refuses the control {path:?}")]
    Control {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The folder.
    #[error("cannot remove the control group {path:?}: end its processes first")]
    Remove {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

fn write(path: &Path, value: &str) -> Result<(), CgroupError> {
    let written = fs::OpenOptions::new().write(true).open(path).and_then(|mut file| file.write_all(value.as_bytes()));
    written.map_err(|source| CgroupError::Control { path: path.to_owned(), source })
}

fn read(path: &Path) -> Result<String, CgroupError> {
    let mut text = String::new();
    fs::File::open(path)
        .and_then(|file| file.take(CONTROL_BYTES_MAX).read_to_string(&mut text))
        .map_err(|source| CgroupError::Control { path: path.to_owned(), source })?;
    Ok(text)
}

const NAME_BYTES_MAX: usize = 64;
/// `cpu.stat` has some ten lines.
const CONTROL_BYTES_MAX: u64 = 64 << 10;

#[cfg(test)]
mod tests;
