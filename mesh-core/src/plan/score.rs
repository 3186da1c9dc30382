//! How good a placement is: one value whose order is the order of the objectives.

use core::fmt;

use serde::{Deserialize, Serialize};

/// Smaller is better, and the first field that differs decides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Score {
    /// Actors without a place, left where a constraint is broken, or in one failure domain with another of their group.
    pub safety: u64,
    /// Actors that share a DPU against a tenant's isolation.
    pub isolation: u64,
    /// Nanoseconds of host cores a second.
    pub host_cpu: u64,
    /// Bytes a second that cross a PCIe bus or the network and need not.
    pub crossed_bytes: u64,
    /// Microwatts.
    pub power: u64,
    /// Moves that lead there.
    pub moves: u64,
}

impl Score {
    /// Both together.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            safety: self.safety.saturating_add(other.safety),
            isolation: self.isolation.saturating_add(other.isolation),
            host_cpu: self.host_cpu.saturating_add(other.host_cpu),
            crossed_bytes: self.crossed_bytes.saturating_add(other.crossed_bytes),
            power: self.power.saturating_add(other.power),
            moves: self.moves.saturating_add(other.moves),
        }
    }
}

impl fmt::Display for Score {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "host CPU {} cores, crossing {} MB/s, power {} W",
            Hundredths(self.host_cpu / 10_000_000),
            Hundredths(self.crossed_bytes / 10_000),
            Hundredths(self.power / 10_000)
        )?;
        if self.safety > 0 {
            write!(f, ", {} unsafe", self.safety)?;
        }
        if self.isolation > 0 {
            write!(f, ", {} against isolation", self.isolation)?;
        }
        Ok(())
    }
}

/// A number of hundredths, written with two decimals.
struct Hundredths(u64);

impl fmt::Display for Hundredths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:02}", self.0 / 100, self.0 % 100)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_earlier_objective_outweighs_all_later_ones() {
        let all = [
            Score { safety: 1, ..Score::default() },
            Score { isolation: 1, ..Score::default() },
            Score { host_cpu: 1, ..Score::default() },
            Score { crossed_bytes: 1, ..Score::default() },
            Score { power: 1, ..Score::default() },
            Score { moves: 1, ..Score::default() },
        ];
        assert!(all.windows(2).all(|pair| pair[0] > pair[1]));
        let worst_later =
            Score { host_cpu: u64::MAX, crossed_bytes: u64::MAX, power: u64::MAX, moves: u64::MAX, ..Score::default() };
        assert!(all[1] > worst_later);
    }

    #[test]
    fn prints_what_a_person_counts_in() {
        let score = Score { safety: 2, host_cpu: 1_230_000_000, crossed_bytes: 4_500_000, ..Score::default() };
        assert_eq!(score.to_string(), "host CPU 1.23 cores, crossing 4.50 MB/s, power 0.00 W, 2 unsafe");
    }
}
