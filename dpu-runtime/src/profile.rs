//! What an **emulated** node of a BlueField generation may use of this machine.
//!
//! It never slows anything down: an emulated DPU node is a process in a control group ([`crate::cgroup`]) with a share of
//! this machine's CPU time. There is no sleep anywhere. What a card has is [`mesh_core::bluefield`]'s, and half of it is
//! estimated: so a figure that an emulated node gives says something about the mesh, and little about a BlueField.

use mesh_core::bluefield::Profile;
use serde::Serialize;

/// The CPU time that an emulated node may use in each period: as many cores as the card has, or as this machine
/// has if those are fewer, each at its share of a core. On a machine with fewer cores than the card, an emulated
/// node is so much weaker than the card; it is never stronger.
///
/// A control group stops its processes for the rest of a period once they have used the quota. The period is
/// short, so that the stops are; threads that use less than their share are never stopped.
#[must_use]
pub fn cpu_quota(card: &Profile, machine_cores: usize) -> CpuQuota {
    let cores = u64::try_from(machine_cores).unwrap_or(u64::MAX).clamp(1, u64::from(card.cores));
    let quota_us = cores * u64::from(card.core_percent) * PERIOD_US / 100;
    CpuQuota { quota_us: quota_us.max(QUOTA_US_MIN), period_us: PERIOD_US }
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
    use mesh_core::bluefield::Generation;

    use super::*;

    #[test]
    fn a_quota_is_so_many_cores_at_their_share() {
        let quota = |generation: Generation, machine| cpu_quota(&generation.profile(), machine).quota_us;
        assert_eq!(Generation::ALL.map(|generation| quota(generation, 2)), [4_000, 6_000, 10_000, 18_000]);
        // Enough cores for all of the card's, and more than enough.
        assert_eq!(quota(Generation::Bf3, 16), 80_000);
        assert_eq!(quota(Generation::Bf3, 128), 80_000);
        assert_eq!(quota(Generation::Bf2, 0), 3_000, "a machine has a core, whatever it says");
        assert_eq!(quota(Generation::Bf4, usize::MAX), 576_000);
        assert_eq!(cpu_quota(&Generation::Bf1.profile(), 1).period_us, 10_000);
    }

    #[test]
    fn an_emulated_node_is_never_stronger_than_the_machine() {
        for generation in Generation::ALL {
            for cores in 1..=256 {
                let CpuQuota { quota_us, period_us } = cpu_quota(&generation.profile(), cores);
                assert!(quota_us >= QUOTA_US_MIN && quota_us <= cores as u64 * period_us);
            }
        }
    }
}
