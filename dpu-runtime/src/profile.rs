//! BlueField generations, and what an **emulated** node of each may use of this machine.
//!
//! This module owns the table of generations. It never slows anything down: an emulated DPU node is a process in a
//! control group ([`crate::cgroup`]) with a share of this machine's CPU time. There is no sleep anywhere.
//!
//! Cores, memory and network rates are the vendor's published maxima. **The speeds of cores are estimates**: nobody
//! measured them for this project. They say how much of one core of a present x86-64 server one Arm core is worth for
//! general code, from clock rates and the cores' designs (Cortex-A72 of 2015 in generations 1 and 2, Cortex-A78 in 3,
//! Neoverse V2 in 4) and from published comparisons, such as Liu and others, "Performance Characteristics of the
//! BlueField-2 SmartNIC" (2021), whose figures for the same generation differ several times over from one kind of work
//! to another. So a figure that an emulated node gives says something about the mesh, and little about a BlueField.
//! What a generation's accelerators would take over is not in it: see [`crate::offload`].

use core::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// A generation of BlueField DPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Generation {
    /// BlueField.
    Bf1,
    /// BlueField-2.
    Bf2,
    /// BlueField-3.
    Bf3,
    /// BlueField-4.
    Bf4,
}

impl Generation {
    /// All of them, oldest first.
    pub const ALL: [Self; 4] = [Self::Bf1, Self::Bf2, Self::Bf3, Self::Bf4];

    /// The short name, as it is written in commands: `bf3`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bf1 => "bf1",
            Self::Bf2 => "bf2",
            Self::Bf3 => "bf3",
            Self::Bf4 => "bf4",
        }
    }

    /// The vendor's name.
    #[must_use]
    pub const fn product(self) -> &'static str {
        match self {
            Self::Bf1 => "BlueField",
            Self::Bf2 => "BlueField-2",
            Self::Bf3 => "BlueField-3",
            Self::Bf4 => "BlueField-4",
        }
    }

    /// What a node of this generation has. See the module's page for what of it is estimated.
    #[must_use]
    pub const fn profile(self) -> Profile {
        let (cores, core_percent, memory_gib, network_gbit) = match self {
            Self::Bf1 => (16, 20, 16, 200),
            Self::Bf2 => (8, 30, 32, 200),
            Self::Bf3 => (16, 50, 32, 400),
            Self::Bf4 => (64, 90, 128, 800),
        };
        Profile { generation: self, cores, core_percent, memory_bytes: memory_gib << 30, network_gbit }
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Generation {
    type Err = UnknownGeneration;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|generation| generation.name().eq_ignore_ascii_case(text));
        found.ok_or(UnknownGeneration)
    }
}

/// A text that is not the name of a generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a BlueField generation: give bf1, bf2, bf3 or bf4")]
pub struct UnknownGeneration;

/// What a node of a generation has to work with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Profile {
    /// The generation.
    pub generation: Generation,
    /// Arm cores, of the largest card.
    pub cores: u16,
    /// What one of them does, in hundredths of one core of a present server. **An estimate.**
    pub core_percent: u16,
    /// Memory of the largest card.
    pub memory_bytes: u64,
    /// The network ports together, in 10^9 bits a second.
    pub network_gbit: u16,
}

impl Profile {
    /// The CPU time that an emulated node may use in each period: as many cores as the card has, or as this machine
    /// has if those are fewer, each at its share of a core. On a machine with fewer cores than the card, an emulated
    /// node is so much weaker than the card; it is never stronger.
    ///
    /// A control group stops its processes for the rest of a period once they have used the quota. The period is
    /// short, so that the stops are; threads that use less than their share are never stopped.
    #[must_use]
    pub fn cpu_quota(&self, machine_cores: usize) -> CpuQuota {
        let cores = u64::try_from(machine_cores).unwrap_or(u64::MAX).clamp(1, u64::from(self.cores));
        let quota_us = cores * u64::from(self.core_percent) * PERIOD_US / 100;
        CpuQuota { quota_us: quota_us.max(QUOTA_US_MIN), period_us: PERIOD_US }
    }

    /// What takes a core of this machine `span_ns` takes one of the card's so long, by the estimate.
    #[must_use]
    pub fn slowed(&self, span_ns: u64) -> u64 {
        span_ns.saturating_mul(100) / u64::from(self.core_percent)
    }
}

/// CPU time in a period, over all cores together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct CpuQuota {
    /// Microseconds of CPU time in each period: more than the period is more than one core.
    pub quota_us: u64,
    /// Microseconds.
    pub period_us: u64,
}

/// Twice the slice that Linux hands its cores of a quota at a time (`sched_cfs_bandwidth_slice_us`): shorter periods
/// would be divided unevenly.
const PERIOD_US: u64 = 10_000;
/// What Linux takes at least.
const QUOTA_US_MIN: u64 = 1000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for generation in Generation::ALL {
            assert_eq!(generation.to_string().parse(), Ok(generation));
            assert_eq!(generation.name().to_uppercase().parse(), Ok(generation));
        }
        assert_eq!("bf5".parse::<Generation>(), Err(UnknownGeneration));
        assert_eq!("".parse::<Generation>(), Err(UnknownGeneration));
    }

    #[test]
    fn a_quota_is_so_many_cores_at_their_share() {
        let quota = |generation: Generation, machine| generation.profile().cpu_quota(machine).quota_us;
        assert_eq!(Generation::ALL.map(|generation| quota(generation, 2)), [4_000, 6_000, 10_000, 18_000]);
        // Enough cores for all of the card's, and more than enough.
        assert_eq!(quota(Generation::Bf3, 16), 80_000);
        assert_eq!(quota(Generation::Bf3, 128), 80_000);
        assert_eq!(quota(Generation::Bf2, 0), 3_000, "a machine has a core, whatever it says");
        assert_eq!(quota(Generation::Bf4, usize::MAX), 576_000);
        assert_eq!(Generation::Bf1.profile().cpu_quota(1).period_us, 10_000);
    }

    #[test]
    fn an_emulated_node_is_never_stronger_than_the_machine() {
        for generation in Generation::ALL {
            for cores in 1..=256 {
                let CpuQuota { quota_us, period_us } = generation.profile().cpu_quota(cores);
                assert!(quota_us >= QUOTA_US_MIN && quota_us <= cores as u64 * period_us);
            }
        }
    }

    #[test]
    fn a_slower_core_takes_longer() {
        assert_eq!(Generation::Bf3.profile().slowed(1_000), 2_000);
        assert_eq!(Generation::Bf1.profile().slowed(u64::MAX), u64::MAX / 20, "it saturates");
    }
}
