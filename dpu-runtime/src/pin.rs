//! Which cores a thread runs on.
//!
//! A thread that serves a mailbox or does compute jobs keeps its caches if it stays on one core. This module reads
//! lists of cores as Linux writes them (`0-3,8`), says which cores there are, and pins the calling thread, through
//! `rustix`, without a line of unsafe code. It chooses nothing: who gets which core is the caller's business.

use core::{fmt, str::FromStr};
use std::{collections::BTreeSet, fs, io, io::Read as _, path::Path};

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Cores that Linux's affinity calls can name, from 0 on.
pub const CORES_MAX: usize = CpuSet::MAX_CPU;

/// A set of cores, written as Linux writes it: `0-3,8`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cores(BTreeSet<usize>);

impl Cores {
    /// The numbers, ascending.
    pub fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        self.0.iter().copied()
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The cores that are here and not in `other`.
    #[must_use]
    pub fn without(&self, other: &Self) -> Self {
        Self(self.0.difference(&other.0).copied().collect())
    }
}

impl FromIterator<usize> for Cores {
    /// Numbers from [`CORES_MAX`] on are left out.
    fn from_iter<T: IntoIterator<Item = usize>>(numbers: T) -> Self {
        Self(numbers.into_iter().filter(|number| *number < CORES_MAX).collect())
    }
}

impl FromStr for Cores {
    type Err = PinError;

    fn from_str(text: &str) -> Result<Self, PinError> {
        let wrong = |part: &str| PinError::List { part: part.chars().take(32).collect() };
        let mut cores = BTreeSet::new();
        // Each part names a core at least, and a core is named once or twice by people.
        for part in text.trim().split(',').take(2 * CORES_MAX) {
            let part = part.trim();
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            // Not `parse` alone: it would take a plus.
            let number = |digits: &str| {
                let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
                digits.parse::<usize>().ok().filter(|number| plain && *number < CORES_MAX)
            };
            let (Some(first), Some(last)) = (number(first), number(last)) else { return Err(wrong(part)) };
            if first > last {
                return Err(wrong(part));
            }
            cores.extend(first..=last);
        }
        Ok(Self(cores))
    }
}

impl fmt::Display for Cores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.iter().peekable();
        let mut separator = "";
        while let Some(first) = rest.next() {
            let mut last = first;
            while let Some(next) = rest.next_if(|next| *next == last + 1) {
                last = next;
            }
            write!(f, "{separator}{first}")?;
            if last > first {
                write!(f, "-{last}")?;
            }
            separator = ",";
        }
        Ok(())
    }
}

/// The cores that are switched on, by `sys/devices/system/cpu/online` below `root`.
///
/// # Errors
/// If the file cannot be read or is no list of cores.
pub fn online(root: &Path) -> Result<Cores, PinError> {
    let path = root.join("sys/devices/system/cpu/online");
    let mut text = String::new();
    fs::File::open(path)
        .and_then(|file| file.take(LIST_BYTES_MAX).read_to_string(&mut text))
        .map_err(|source| PinError::Online { source })?;
    text.parse()
}

/// The cores that the calling thread may run on now: fewer than are online where a cpuset or an earlier pin says so.
///
/// # Errors
/// If the system refuses to tell.
pub fn allowed() -> Result<Cores, PinError> {
    let set = sched_getaffinity(None).map_err(|errno| PinError::Affinity { source: errno.into() })?;
    Ok((0..CORES_MAX).filter(|core| set.is_set(*core)).collect())
}

/// Lets the calling thread run on these cores only. Threads that it starts later inherit that.
///
/// # Errors
/// [`PinError::NotAllowed`] if one of them is not among [`allowed`] or the set is empty: the thread then runs where it
/// did.
pub fn pin_thread(cores: &Cores) -> Result<(), PinError> {
    let allowed = allowed()?;
    let missing = cores.without(&allowed);
    if cores.is_empty() || !missing.is_empty() {
        return Err(PinError::NotAllowed { missing, allowed });
    }
    let mut set = CpuSet::new();
    cores.iter().for_each(|core| set.set(core));
    sched_setaffinity(None, &set).map_err(|errno| PinError::Affinity { source: errno.into() })
}

/// Why a thread was not pinned.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    /// A list that cannot be read.
    #[error("{part:?} is no core or range of cores: write for example 0-3,8, with numbers below {CORES_MAX}")]
    List {
        /// The part of the list, at most 32 characters.
        part: String,
    },
    /// Cores that this thread must not use, or none at all.
    #[error("cores {missing:?} are not this thread's to use: give some of {allowed}", missing = missing.to_string())]
    NotAllowed {
        /// Those of the wanted cores.
        missing: Cores,
        /// Those that it may use.
        allowed: Cores,
    },
    /// The list of cores that are switched on.
    #[error("cannot read which cores are online; name cores without it")]
    Online {
        /// Why.
        source: io::Error,
    },
    /// The system's call failed.
    #[error("the system refused the thread's affinity; go on without pinning")]
    Affinity {
        /// Why.
        source: io::Error,
    },
}

/// A list of every second core of [`CORES_MAX`] is shorter.
const LIST_BYTES_MAX: u64 = 16 << 10;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cores(text: &str) -> Vec<usize> {
        text.parse::<Cores>().unwrap().iter().collect()
    }

    #[test]
    fn lists_are_read_as_linux_writes_them() {
        assert_eq!(cores("0"), [0]);
        assert_eq!(cores("0-3,8\n"), [0, 1, 2, 3, 8]);
        assert_eq!(cores("8, 2-2 ,3"), [2, 3, 8]);
        assert_eq!(cores("1023"), [1023]);
        for wrong in ["", ",", "1,", "-1", "1-", "3-1", "+1", "a", "1024", "0-99999999999999999999", "0x1", "1-2-3"] {
            assert!(matches!(wrong.parse::<Cores>(), Err(PinError::List { .. })), "{wrong}");
        }
    }

    #[test]
    fn errors_say_what_is_allowed() {
        let text = "frog".parse::<Cores>().unwrap_err().to_string();
        assert_eq!(text, "\"frog\" is no core or range of cores: write for example 0-3,8, with numbers below 1024");
        let error = PinError::NotAllowed { missing: Cores::from_iter([9]), allowed: Cores::from_iter([0, 1, 4]) };
        assert_eq!(error.to_string(), "cores \"9\" are not this thread's to use: give some of 0-1,4");
    }

    #[test]
    fn reads_which_cores_are_online() {
        let root = tempfile::tempdir().unwrap();
        assert!(matches!(online(root.path()), Err(PinError::Online { .. })));
        let folder = root.path().join("sys/devices/system/cpu");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("online"), "0-1,4\n").unwrap();
        assert_eq!(online(root.path()).unwrap().to_string(), "0-1,4");
        fs::write(folder.join("online"), "garbage").unwrap();
        assert!(matches!(online(root.path()), Err(PinError::List { .. })));
    }

    #[test]
    fn a_pinned_thread_runs_where_it_was_told() {
        // A thread of its own: the test's thread keeps its cores.
        std::thread::spawn(|| {
            let before = allowed().unwrap();
            let first: Cores = before.iter().take(1).collect();
            pin_thread(&first).unwrap();
            assert_eq!(allowed().unwrap(), first);
            let other: Cores = (0..CORES_MAX).filter(|core| before.iter().all(|here| here != *core)).take(1).collect();
            assert!(matches!(pin_thread(&other), Err(PinError::NotAllowed { .. })));
            assert!(matches!(pin_thread(&Cores::default()), Err(PinError::NotAllowed { .. })));
            assert_eq!(allowed().unwrap(), first, "a refusal changes nothing");
        })
        .join()
        .unwrap();
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(numbers in proptest::collection::btree_set(0..CORES_MAX, 1..40)) {
            let cores: Cores = numbers.into_iter().collect();
            prop_assert_eq!(cores.to_string().parse::<Cores>().unwrap(), cores);
        }

        #[test]
        fn arbitrary_lists_never_panic(text in "[0-9,\\- +a]{0,40}|\\PC{0,40}") {
            if let Ok(cores) = text.parse::<Cores>() {
                prop_assert!(!cores.is_empty() && cores.iter().all(|core| core < CORES_MAX));
            }
        }
    }
}
