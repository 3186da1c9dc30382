//! From drives to placement groups.
//!
//! Each group ranks all drives by weighted rendezvous hashing (Thaler and Ravishankar 1998; weights by Schindelhauer
//! and Schomaker, SPAA 2005): every drive draws a number for the group, exponentially distributed with its capacity as
//! the rate, and the smallest comes first. So a drive is first in a share of the groups that is its share of the
//! capacity, and a drive that is added or removed changes nothing in the order of the others.
//!
//! Then the best drive of each node goes before the second-best of any: the first k+m drives of a group are on as many
//! different nodes as there are. Where nodes say in which zones and racks they are, drives are passed over whose zone or rack
//! has as many of the first k+m as it may have: no more than may be lost, if the zones or racks are such that this can be.
//!
//! ```text
//!  ranked       A1 A2 B1 A3 C1 B2 ...        letters are nodes
//!  group        A1 B1 C1 | A2 B2 | A3 ...    cut off at `length`
//! ```
//!
//! A layout is immutable. The next one of its line has as many groups; they are ranked anew, and then every drive that stays
//! a home stays the home of the same shard: what moves is what the ranking moves.
//!
//! ```text
//!  before       A1 B1 C1 | A2 B2
//!  ranked       B1 D1 A1 | C1 A2        D is new, and displaces C1
//!  the next     A1 B1 D1 | C1 A2
//! ```

use std::{collections::BTreeMap, sync::Arc};

use mesh_core::{
    Error, ErrorKind,
    id::{DriveId, LayoutId, NodeId},
    limits::{CODES_DRIVES_MAX, COMMAND_BYTES_MAX, DRIVE_NUMBER_BYTES_MAX, LAYOUT_GROUPS_MAX},
    topology::{Code, CodeGroups, DriveInfo, Layout, Places, Rule, mix},
};

/// Which layout is to be made.
#[derive(Clone, Debug)]
pub enum Lineage {
    /// One of no line, as older builds make them.
    None(Code),
    /// The first of a line, which is not 0.
    First(u32, Code),
    /// The next one after this, of the same line, with groups for these codes that it does not have.
    Next(Arc<Layout>, Vec<Code>),
}

impl Lineage {
    /// The code that the layout will have.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::None(code) | Self::First(_, code) => *code,
            Self::Next(before, _) => before.code,
        }
    }

    /// All codes that it will have groups for, its own first.
    pub fn codes(&self) -> impl Iterator<Item = Code> {
        let (before, new) = match self {
            Self::None(_) | Self::First(..) => (None, None),
            Self::Next(before, new) => (Some(&before.others), Some(new)),
        };
        let before = before.into_iter().flatten().map(|other| other.code);
        core::iter::once(self.code()).chain(before).chain(new.into_iter().flatten().copied())
    }
}

/// A layout of these drives, whatever their order. Drives without capacity are left out. `places`: what their nodes fail with.
///
/// # Errors
/// `Invalid` for a code over the limits or a drive given twice, `TooFewShards` if fewer than k+m drives are left, for whichever
/// code.
pub fn build(id: LayoutId, lineage: &Lineage, drives: &[DriveInfo], places: &Places) -> Result<Layout, Error> {
    let code = lineage.code();
    if !lineage.codes().all(Code::is_valid) {
        return Err(Error::invalid("a code over the limits: 1 to 16 data shards, up to 8 parity shards"));
    }
    let usable = usable(drives);
    if usable.windows(2).any(|pair| pair[0].id == pair[1].id) {
        return Err(Error::invalid("the same drive is given twice"));
    }
    if let Some(code) = lineage.codes().find(|code| usable.len() < code.shards()) {
        let text = format!(
            "{} drives can be used, and {code} needs {}: add drives, or choose a smaller code",
            usable.len(),
            code.shards()
        );
        return Err(Error::new(ErrorKind::TooFewShards, text));
    }
    let (line, before) = match lineage {
        Lineage::None(_) => (0, None),
        Lineage::First(line, _) => (*line, None),
        Lineage::Next(before, _) => (before.line, Some(before)),
    };
    let table = |code: Code| {
        let before = before.and_then(|before| before.table(Some(code)));
        let count = match before {
            Some(before) => before.groups().len(),
            None if line == 0 => group_count(usable.len()),
            // It cannot have more of them later, however many drives come.
            None => GROUPS_MAX,
        };
        let length = code.group_drives().min(usable.len());
        let limits = limits_of(code, &usable, places);
        let group = |group: usize| {
            let mut drives = if limits == [None; 2] {
                ranked(group, &usable, length)
            } else {
                apart(group, &usable, (code.shards(), length), limits, places)
            };
            if let Some(before) = before {
                keep_seats(&mut drives[..code.shards()], &before.groups()[group]);
            }
            drives
        };
        (0..count).map(group).collect()
    };
    Ok(Layout {
        id,
        code,
        groups: table(code),
        domains: usable.iter().map(|drive| (drive.id, drive.node)).collect(),
        line,
        others: lineage.codes().skip(1).map(|code| CodeGroups { code, groups: table(code) }).collect(),
        places: places.clone(),
        rule: Rule::default(),
    })
}

/// Has every home that was one before be that of the same shard.
fn keep_seats(homes: &mut [DriveId], before: &[DriveId]) {
    for (seat, before) in before.iter().enumerate().take(homes.len()) {
        if let Some(at) = homes.iter().position(|home| home == before) {
            homes.swap(at, seat);
        }
    }
}

/// The drives of which a layout would be made, by their numbers.
#[must_use]
pub fn usable(drives: &[DriveInfo]) -> Vec<&DriveInfo> {
    let mut usable: Vec<&DriveInfo> = drives.iter().filter(|drive| drive.capacity_bytes > 0).collect();
    usable.sort_by_key(|drive| drive.id);
    usable
}

/// Groups of a layout that is of no line: a power of two, about 32 a drive, so that chance evens out; at most
/// [`GROUPS_MAX`].
#[must_use]
pub const fn group_count(drives: usize) -> usize {
    let wanted = drives.saturating_mul(GROUPS_PER_DRIVE);
    if wanted >= GROUPS_MAX {
        GROUPS_MAX
    } else if wanted <= GROUPS_MIN {
        GROUPS_MIN
    } else {
        wanted.next_power_of_two()
    }
}

/// The first `length` drives of a group: as [`in_rounds`], but where there are so many nodes the best drive of each is enough.
fn ranked(group: usize, drives: &[&DriveInfo], length: usize) -> Vec<DriveId> {
    let mut best: BTreeMap<NodeId, (u128, DriveId)> = BTreeMap::new();
    for drive in drives {
        let drawn = (cost(group as u64, drive), drive.id);
        best.entry(drive.node).and_modify(|known| *known = drawn.min(*known)).or_insert(drawn);
    }
    if best.len() < length || length == 0 {
        return in_rounds(group, drives, length);
    }
    let mut best: Vec<(u128, DriveId)> = best.into_values().collect();
    best.select_nth_unstable(length - 1);
    best.truncate(length);
    best.sort_unstable();
    best.into_iter().map(|(_, drive)| drive).collect()
}

/// By what every drive draws: each node's best before the second-best of any.
fn in_rounds(group: usize, drives: &[&DriveInfo], length: usize) -> Vec<DriveId> {
    let order = by_rounds(drawn(group, drives), |drive| drive.node);
    order.into_iter().map(|drive| drive.id).take(length).collect()
}

/// The same, but that no zone and no rack has more of the first k+m than its limit.
fn apart(
    group: usize,
    drives: &[&DriveInfo],
    (shards, length): (usize, usize),
    limits: [Option<usize>; 2],
    places: &Places,
) -> Vec<DriveId> {
    let order = by_rounds(drawn(group, drives), |drive| drive.node);
    let homes = picked(&order, shards, limits, places);
    let homes = homes.unwrap_or_else(|| order.iter().take(shards).copied().collect());
    // In a home's place one of its rack may come: of another node, as far as there are.
    let mut chosen = homes.clone();
    for home in &homes {
        let rack = |drive: &DriveInfo| places.domains(drive.node)[1];
        let is_beside = |drive: &&&DriveInfo| rack(drive) == rack(home) && chosen.iter().all(|one| one.id != drive.id);
        let is_used = |drive: &DriveInfo| chosen.iter().filter(|one| one.node == drive.node).count();
        let beside = order.iter().filter(is_beside).min_by_key(|drive| is_used(drive)).copied();
        chosen.extend(beside);
    }
    let rest = order.iter().filter(|drive| chosen.iter().all(|one| one.id != drive.id));
    chosen.iter().chain(rest).map(|drive| drive.id).take(length).collect()
}

/// The first of these that keep to the limits of zones and racks.
fn picked<'d>(
    order: &[&'d DriveInfo],
    shards: usize,
    limits: [Option<usize>; 2],
    places: &Places,
) -> Option<Vec<&'d DriveInfo>> {
    let mut held: BTreeMap<(usize, NodeId), usize> = BTreeMap::new();
    let mut homes = Vec::with_capacity(shards);
    for drive in order {
        let [zone, rack, _] = places.domains(drive.node);
        let domains = [(0, zone), (1, rack)];
        let is_full = |domain: &(usize, NodeId)| {
            limits[domain.0].is_some_and(|limit| held.get(domain).copied().unwrap_or(0) >= limit)
        };
        if domains.iter().any(is_full) {
            continue;
        }
        for domain in domains {
            *held.entry(domain).or_default() += 1;
        }
        homes.push(*drive);
        if homes.len() == shards {
            return Some(homes);
        }
    }
    None
}

/// How many shards of a stripe a zone has at most, and a rack: as few in a rack as can be, then as few in a zone, and no more than
/// may be lost. Where not both can be kept, racks count; `None` if even so many are too few for all shards, or if to keep to it
/// would leave more than a quarter of the capacity unused: where one is much larger than the others, those would be full long
/// before it.
#[must_use]
pub fn limits_of(code: Code, drives: &[&DriveInfo], places: &Places) -> [Option<usize>; 2] {
    if places.is_empty() {
        return [None; 2];
    }
    let mut zones: BTreeMap<NodeId, BTreeMap<NodeId, (usize, u128)>> = BTreeMap::new();
    for drive in drives {
        let [zone, rack, _] = places.domains(drive.node);
        let (count, bytes) = zones.entry(zone).or_default().entry(rack).or_default();
        (*count, *bytes) = (*count + 1, *bytes + u128::from(drive.capacity_bytes));
    }
    let shards = code.shards();
    let all: u128 = zones.values().flatten().map(|(_, (_, bytes))| bytes).sum();
    // Of 3/4 of all bytes a domain may have `limit / shards` at most, and what it holds; a zone what its racks may have.
    let most = |limit: Option<usize>| limit.map_or(u128::MAX, |limit| 3 * all * limit as u128);
    let can_be = |&[zone, rack]: &[Option<usize>; 2]| {
        let in_zone = |racks: &BTreeMap<NodeId, (usize, u128)>| {
            let count: usize = racks.values().map(|(count, _)| rack.map_or(*count, |rack| rack.min(*count))).sum();
            let bytes: u128 = racks.values().map(|(_, bytes)| most(rack).min(4 * bytes * shards as u128)).sum();
            (zone.map_or(count, |zone| zone.min(count)), most(zone).min(bytes))
        };
        let (places, held) = zones.values().map(in_zone).fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
        places >= shards && held >= 3 * all * shards as u128
    };
    let parity = usize::from(code.parity);
    let limits = || (1..=parity).map(Some);
    let both = limits().flat_map(|rack| limits().map(move |zone| [zone, rack]));
    let one = limits().map(|rack| [None, rack]).chain(limits().map(|zone| [zone, None]));
    both.chain(one).find(can_be).unwrap_or_default()
}

/// Drives by what they draw for a group.
fn drawn<'d>(group: usize, drives: &[&'d DriveInfo]) -> Vec<&'d DriveInfo> {
    let mut order: Vec<(u128, &DriveInfo)> = drives.iter().map(|drive| (cost(group as u64, drive), *drive)).collect();
    order.sort_by_key(|(cost, drive)| (*cost, drive.id));
    order.into_iter().map(|(_, drive)| drive).collect()
}

/// The first of each domain in their order, then the second ones, and so on.
fn by_rounds(order: Vec<&DriveInfo>, domain: impl Fn(&DriveInfo) -> NodeId) -> Vec<&DriveInfo> {
    // How many of its domain are before each.
    let mut before: BTreeMap<NodeId, usize> = BTreeMap::new();
    let mut rounds: Vec<(usize, &DriveInfo)> = order
        .into_iter()
        .map(|drive| {
            let count = before.entry(domain(drive)).or_default();
            *count += 1;
            (*count, drive)
        })
        .collect();
    // Stable: inside a round the order stays.
    rounds.sort_by_key(|(round, _)| *round);
    rounds.into_iter().map(|(_, drive)| drive).collect()
}

/// What the drive draws for the group: `-ln(u) / capacity` but for a constant factor, with u uniform in (0, 1].
fn cost(group: u64, drive: &DriveInfo) -> u128 {
    let draw = mix(mix(group.wrapping_add(1)) ^ mix(drive.seat().0));
    (u128::from(minus_log2(draw)) << 64) / u128::from(drive.capacity_bytes)
}

/// `-log2((draw + 1) / 2^64)` in units of 2^-32. Integers only, so that every machine ranks alike: floating-point
/// logarithms differ in their last bits.
fn minus_log2(draw: u64) -> u64 {
    let Some(number) = draw.checked_add(1) else { return 0 };
    let whole = number.ilog2();
    // The mantissa in [1, 2), as a multiple of 2^-63; each squaring shows one more binary digit of its logarithm.
    let mut mantissa = number << (63 - whole);
    let mut digits = 0_u64;
    for _ in 0..32 {
        let square = (u128::from(mantissa) * u128::from(mantissa)) >> 63;
        let carry = square >> 64 != 0;
        digits = (digits << 1) | u64::from(carry);
        mantissa = (square >> u32::from(carry)) as u64;
    }
    (64 << 32) - ((u64::from(whole) << 32) | digits)
}

const GROUPS_PER_DRIVE: usize = 32;
const GROUPS_MIN: usize = 32;
/// Groups of a code in a layout at most: with those of all codes, and the domains of some ten thousand drives, it still fits in
/// a command.
pub const GROUPS_MAX: usize = 2048;

const _: () = {
    assert!(GROUPS_MAX <= LAYOUT_GROUPS_MAX);
    // A group of any code lists 8 drives at least, and says how many.
    let numbers = CODES_DRIVES_MAX * DRIVE_NUMBER_BYTES_MAX + CODES_DRIVES_MAX / 8;
    assert!(GROUPS_MAX * numbers + 10_000 * 2 * DRIVE_NUMBER_BYTES_MAX < COMMAND_BYTES_MAX);
};

#[cfg(test)]
mod tests;
