//! What this node can run.

use mesh_actors::registry::Registry;
use mesh_core::op::Ability;

use crate::config::Config;

/// The kinds of function that this program has and the configuration allows, and this machine's size.
pub(super) fn of(config: &Config, registry: &Registry) -> Ability {
    let allowed = |kind: &str| config.functions.as_ref().is_none_or(|allowed| allowed.iter().any(|one| one == kind));
    let kinds = registry.kinds().filter(|kind| allowed(kind));
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
    Ability {
        functions: kinds.map(|kind| (kind.to_owned(), (0, 0))).collect(),
        cores: u32::try_from(cores).unwrap_or(u32::MAX),
        memory_bytes: memory_bytes(),
    }
}

/// What the machine has, for actors: half of its memory. Unknown: 1 GiB.
fn memory_bytes() -> u64 {
    let info = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = info
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    total.map_or(1 << 30, |kib| kib * 1024 / 2)
}
