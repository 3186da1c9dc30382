//! Nodes, drives, and which drives a stripe goes to.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    bluefield::Generation,
    id::{DriveId, Epoch, Incarnation, LayoutId, NodeId, StripeId},
    limits::{DATA_SHARDS_MAX, PARITY_SHARDS_MAX},
    meta::Level,
};

/// What a node runs on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeKind {
    /// A host CPU.
    #[default]
    Host,
    /// A BlueField DPU.
    Dpu,
}

/// A member of the mesh, as the control group knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeInfo {
    /// Its number.
    pub id: NodeId,
    /// What it runs on.
    pub kind: NodeKind,
    /// Where its mesh listener is, `host:port`.
    pub address: String,
    /// Its present or last start.
    pub incarnation: Incarnation,
    /// The process, for people.
    pub pid: u32,
    /// Being emptied. Set by `Drain`; what the node says of itself does not change it.
    pub draining: bool,
    /// The host that a DPU is plugged into.
    pub attached_to: Option<NodeId>,
    /// A process that stands for a DPU of this kind: for development.
    pub emulated: Option<Generation>,
    /// Random, made with the node's data folder: a machine that was emptied, or another one, has another. A number
    /// stays with the life that took it.
    pub life: u64,
    /// The invitation that it joined by; 0: none.
    pub invitation: u64,
    /// What its build can do.
    #[serde(default)]
    pub level: Level,
}

/// A drive, as the control group knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DriveInfo {
    /// Its number.
    pub id: DriveId,
    /// The node that owns its medium.
    pub node: NodeId,
    /// Bytes that it can hold.
    pub capacity_bytes: u64,
    /// Its present owner's epoch.
    pub epoch: Epoch,
}

/// What a node sees of a drive now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DriveState {
    /// Takes reads and writes.
    Up,
    /// At its reserve: takes reads and deletes.
    Full,
    /// Not reachable, missing, or failed.
    Down,
    /// Declared lost for good by an administrator: never used again, whatever becomes of it.
    Lost,
}

/// How a node is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeState {
    /// It answers.
    Up,
    /// It does not.
    #[default]
    Down,
    /// It answers, and is being emptied.
    Draining,
}

/// How stripes are coded: `data` data shards and `parity` parity shards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Code {
    /// k
    pub data: u8,
    /// m
    pub parity: u8,
}

impl Code {
    /// k + m.
    #[must_use]
    pub const fn shards(self) -> usize {
        self.data as usize + self.parity as usize
    }

    /// Whether the numbers are within the limits.
    #[must_use]
    pub const fn is_valid(self) -> bool {
        self.data >= 1 && self.data as usize <= DATA_SHARDS_MAX && self.parity as usize <= PARITY_SHARDS_MAX
    }
}

impl core::fmt::Display for Code {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}+{}", self.data, self.parity)
    }
}

/// An immutable table of placement groups: what was written under a layout is found by it forever.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    /// Its number; writes use the newest.
    pub id: LayoutId,
    /// The code of stripes written under it.
    pub code: Code,
    /// Each group's drives, in order of preference.
    pub groups: Vec<Vec<DriveId>>,
    /// The failure domain of each drive: its node when the layout was made.
    pub domains: BTreeMap<DriveId, NodeId>,
}

/// Where the shards of one stripe go: `drives[i]` holds shard `i`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// A drive a shard, all distinct.
    pub drives: Vec<DriveId>,
    /// Whether two shards had to share a failure domain: the promise for nodes is reduced.
    pub shared: bool,
}

impl Layout {
    /// The group of a stripe.
    ///
    /// # Panics
    /// If the layout has no groups: such a layout is refused when it is proposed.
    #[must_use]
    pub fn group_of(&self, stripe: StripeId) -> &[DriveId] {
        let hash = mix(stripe.write.0 ^ mix(u64::from(stripe.stripe)));
        &self.groups[(hash % self.groups.len() as u64) as usize]
    }

    /// Where the shards of a stripe go if the drives in `avoid` cannot be used: the first of the group's drives that
    /// share no failure domain; where there are too few domains, further drives from the least used domains.
    /// `None` with fewer than k+m usable drives. The same arguments give the same answer forever, so that a manifest
    /// stores only `avoid`.
    #[must_use]
    pub fn place(&self, stripe: StripeId, avoid: &[DriveId]) -> Option<Placement> {
        let wanted = self.code.shards();
        let usable: Vec<DriveId> =
            self.group_of(stripe).iter().copied().filter(|drive| !avoid.contains(drive)).collect();
        let mut used: BTreeMap<Option<NodeId>, usize> = BTreeMap::new();
        let mut drives: Vec<DriveId> = Vec::with_capacity(wanted);
        let mut share = 0;
        while drives.len() < wanted {
            let next = usable.iter().copied().find(|drive| {
                !drives.contains(drive) && used.get(&self.domains.get(drive).copied()).copied().unwrap_or(0) <= share
            });
            match next {
                Some(drive) => {
                    *used.entry(self.domains.get(&drive).copied()).or_default() += 1;
                    drives.push(drive);
                }
                None if share < usable.len() => share += 1,
                None => return None,
            }
        }
        Some(Placement { drives, shared: used.values().any(|&count| count > 1) })
    }
}

/// What goes on when any one node is lost.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Survival {
    /// What is stored can be read.
    pub reads: bool,
    /// New data are taken.
    pub writes: bool,
    /// Why not, and what helps; empty if all goes on.
    pub reason: String,
}

/// SplitMix64's finaliser (Steele, Lea, Flood, OOPSLA 2014): part of the format, for it decides groups.
#[must_use]
pub const fn mix(number: u64) -> u64 {
    let z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::WriteId;

    fn layout() -> Layout {
        // Three nodes of two drives.
        let drives: Vec<DriveId> = (1..=6).map(DriveId).collect();
        Layout {
            id: LayoutId(1),
            code: Code { data: 2, parity: 1 },
            groups: vec![drives.clone()],
            domains: drives.iter().map(|drive| (*drive, NodeId((drive.0 - 1) / 2))).collect(),
        }
    }

    fn stripe() -> StripeId {
        StripeId { write: WriteId(1), stripe: 0, attempt: 0 }
    }

    #[test]
    fn spreads_over_domains_while_they_last() {
        let all = layout().place(stripe(), &[]);
        assert_eq!(all, Some(Placement { drives: vec![DriveId(1), DriveId(3), DriveId(5)], shared: false }));
        let two_nodes = layout().place(stripe(), &[DriveId(1), DriveId(2)]);
        assert_eq!(two_nodes, Some(Placement { drives: vec![DriveId(3), DriveId(5), DriveId(4)], shared: true }));
        let one_drive = layout().place(stripe(), &[DriveId(1)]);
        assert_eq!(one_drive, Some(Placement { drives: vec![DriveId(2), DriveId(3), DriveId(5)], shared: false }));
    }

    #[test]
    fn refuses_with_fewer_than_k_plus_m() {
        let avoid: Vec<DriveId> = (1..=4).map(DriveId).collect();
        assert_eq!(layout().place(stripe(), &avoid), None);
    }
}
