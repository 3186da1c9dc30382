//! BlueField generations: what each is called, and what a card of it has. The one table of them: the probe names them, an
//! emulated node has their share of a machine, a plan reckons with one that is not there.
//!
//! Cores, memory and network rates are the vendor's published maxima, of the largest card. **The rest are estimates**, and
//! were measured on no device. They say how much of one core of a present x86-64 server one Arm core is worth for general
//! code, from clock rates and the cores' designs (Cortex-A72 of 2015 in generations 1 and 2, Cortex-A78 in 3, Neoverse V2 in
//! 4) and from published comparisons, such as Liu and others, "Performance Characteristics of the BlueField-2 SmartNIC"
//! (2021), whose figures for the same generation differ several times over from one kind of work to another; and what a
//! busy core draws, for the card's power limit is for the network as well. What a generation's accelerators would take over
//! is not in it. Once a real DPU is there, its own calibration says what it costs, and nothing of this is used.

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
        let (cores, core_percent, memory_gib, network_gbit, core_milliwatts) = match self {
            Self::Bf1 => (16, 20, 16, 200, 2_500),
            Self::Bf2 => (8, 30, 32, 200, 2_500),
            Self::Bf3 => (16, 50, 32, 400, 2_500),
            Self::Bf4 => (64, 90, 128, 800, 3_000),
        };
        Profile { generation: self, cores, core_percent, memory_bytes: memory_gib << 30, network_gbit, core_milliwatts }
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownGeneration;

impl fmt::Display for UnknownGeneration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a BlueField generation: give bf1, bf2, bf3 or bf4")
    }
}

impl core::error::Error for UnknownGeneration {}

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
    /// What a busy core draws. **An estimate.**
    pub core_milliwatts: u32,
}

impl Profile {
    /// What takes a core of a server `span` takes one of the card's so long, by the estimate, in the same unit.
    #[must_use]
    pub fn slowed(&self, span: u64) -> u64 {
        let slowed = u128::from(span) * 100 / u128::from(self.core_percent);
        u64::try_from(slowed).unwrap_or(u64::MAX)
    }

    /// Bytes for actors: half of what the card has, for the other half is the system's and the mesh's own.
    #[must_use]
    pub const fn memory_for_actors(&self) -> u64 {
        self.memory_bytes / 2
    }
}

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
    fn a_slower_core_takes_longer() {
        assert_eq!(Generation::Bf3.profile().slowed(1_000), 2_000);
        assert_eq!(Generation::Bf1.profile().slowed(u64::MAX), u64::MAX, "it saturates");
    }
}
