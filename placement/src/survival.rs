//! What a mesh keeps doing when it loses any one node: worked out from its layout, so that it can be said beforehand.

use std::collections::{BTreeMap, BTreeSet};

use mesh_core::{
    id::{DriveId, NodeId},
    topology::{Code, DriveState, Layout, Survival, Table},
};

/// What is not as it should be already: the next loss comes on top of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outage {
    /// Hosts that do not answer.
    pub hosts: BTreeSet<NodeId>,
    /// Drives that are not up, and how they are.
    pub drives: BTreeMap<DriveId, DriveState>,
    /// Why not all that is stored is known to be where the newest layout has it, for people.
    pub unsettled: Option<String>,
}

impl Outage {
    fn is_unread(&self, drive: &DriveId) -> bool {
        matches!(self.drives.get(drive), Some(DriveState::Down | DriveState::Lost))
    }

    /// What is out of a layout, or may come back into it, for people.
    fn said(&self, layout: &Layout) -> String {
        let hosts = self.hosts.iter().map(|host| format!("{host} is down"));
        // Of those that were taken out long ago nothing is missed.
        let is_missed = |(drive, state): &(&DriveId, &DriveState)| {
            **state != DriveState::Lost || layout.domains.contains_key(*drive)
        };
        let drives =
            self.drives.iter().filter(is_missed).map(|(drive, state)| format!("{drive} is {state:?}").to_lowercase());
        let mut said: Vec<String> = hosts.chain(drives).collect();
        let more = said.len().saturating_sub(SAID_MAX);
        said.truncate(SAID_MAX);
        if more > 0 {
            said.push(format!("{more} more are out"));
        }
        if said.is_empty() { String::new() } else { format!("{}: ", said.join(", ")) }
    }
}

/// What is left to a mesh of `hosts` nodes with this newest layout when any one more of its nodes is gone. A layout that
/// drives are missing from, or that has none, survives nothing; nor does one to which what is stored is still being brought.
#[must_use]
pub fn survival(layout: &Layout, hosts: usize, out: &Outage) -> Survival {
    let lost =
        |reads, reason: String| Survival { reads, writes: false, reason: format!("{}{reason}", out.said(layout)) };
    if hosts < HOSTS_MIN {
        let reason = format!("metadata need a majority of the nodes, and there are {hosts}: join more, to {HOSTS_MIN}");
        return lost(false, reason);
    }
    if 2 * hosts.saturating_sub(out.hosts.len() + 1) <= hosts {
        let up = hosts.saturating_sub(out.hosts.len());
        return lost(false, format!("metadata need a majority of the {hosts} nodes, and {up} answer"));
    }
    let mut worst = Survival { reads: true, writes: true, reason: String::new() };
    // Whoever has a bucket kept without parity knows it.
    let is_chosen = |table: &Table<'_>| table.code().parity == 0 && table.code() != layout.code;
    for table in layout.tables().filter(|table| !is_chosen(table)) {
        let one = of_code(layout, table, out);
        if !one.reads {
            return one;
        }
        if worst.writes {
            worst = one;
        }
    }
    match &out.unsettled {
        Some(why) => lost(false, why.clone()),
        None => worst,
    }
}

/// What is left of what is stored in a code.
fn of_code(layout: &Layout, table: Table<'_>, out: &Outage) -> Survival {
    let lost =
        |reads, reason: String| Survival { reads, writes: false, reason: format!("{}{reason}", out.said(layout)) };
    let code = table.code();
    let mut fewest: Option<(usize, NodeId)> = None;
    // Where there are few drives most groups are alike.
    for group in table.groups().iter().collect::<BTreeSet<_>>() {
        if let Some((node, shards, unread)) = crowded(layout, table, group, out) {
            let nodes = code.shards().div_ceil(usize::from(code.parity).max(1));
            let reason = if code.parity == 0 {
                format!("the code {code} has no parity: make the mesh with another")
            } else if unread > 0 {
                format!(
                    "a stripe has {unread} of its shards on drives that do not answer and {shards} on {node}, and only {} \
                     may be lost: bring the drives back",
                    code.parity
                )
            } else {
                format!(
                    "a stripe has {shards} of its shards on {node}, and only {} may be lost: spread the drives over at \
                     least {nodes} nodes",
                    code.parity
                )
            };
            return lost(false, reason);
        }
        let takes = |drive: &&DriveId| !out.drives.contains_key(drive);
        for node in group.iter().filter_map(|drive| layout.domains.get(drive)) {
            let left = group.iter().filter(takes).filter(|drive| layout.domains.get(drive) != Some(node)).count();
            if fewest.is_none_or(|(fewest, _)| left < fewest) {
                fewest = Some((left, *node));
            }
        }
    }
    match fewest {
        None => lost(false, "there is no drive".to_owned()),
        Some((left, node)) if left < code.shards() => {
            let (needed, missing) = (code.shards(), code.shards() - left);
            lost(
                true,
                format!(
                    "without {node} a stripe has {left} drives to go to, and {code} needs {needed}: add {missing} to other nodes"
                ),
            )
        }
        Some(_) => Survival { reads: true, writes: true, reason: String::new() },
    }
}

/// Drives that every node needs, all of them alike, for a mesh of `hosts` nodes to lose any one and take writes.
#[must_use]
pub const fn drives_each(code: Code, hosts: usize) -> usize {
    if hosts < 2 { 0 } else { code.shards().div_ceil(hosts - 1) }
}

/// A node without which more of the group's stripes' shards are away than may be lost: how many it has that answer, and
/// how many do not answer anyway.
fn crowded(layout: &Layout, table: Table<'_>, group: &[DriveId], out: &Outage) -> Option<(NodeId, usize, usize)> {
    let placement = table.place_in(group, &[])?;
    let (unread, read): (Vec<_>, Vec<_>) = placement.drives.iter().partition(|drive| out.is_unread(drive));
    let mut shards: BTreeMap<NodeId, usize> = BTreeMap::new();
    for node in read.into_iter().filter_map(|drive| layout.domains.get(drive)) {
        *shards.entry(*node).or_default() += 1;
    }
    let worst = shards.into_iter().find(|(_, count)| unread.len() + count > usize::from(table.code().parity));
    worst.map(|(node, count)| (node, count, unread.len()))
}

/// What is out is named up to here.
const SAID_MAX: usize = 4;
/// Fewer have no majority once one is gone.
pub const HOSTS_MIN: usize = 3;

#[cfg(test)]
mod tests {
    use mesh_core::{id::Epoch, topology::DriveInfo};

    use super::*;

    /// A layout of nodes with so many drives.
    fn layout(data: u8, parity: u8, nodes: &[usize]) -> Layout {
        let of = |(at, count): (usize, &usize)| vec![NodeId(at as u64 + 1); *count];
        let owners = nodes.iter().enumerate().flat_map(of);
        let drive = |(at, node)| DriveInfo {
            id: DriveId(at as u64 + 1),
            node,
            capacity_bytes: 1 << 30,
            epoch: Epoch(1),
            seat: None,
        };
        let drives: Vec<DriveInfo> = owners.enumerate().map(drive).collect();
        crate::layout::build(
            mesh_core::id::LayoutId(1),
            &crate::layout::Lineage::First(1, Code { data, parity }),
            &drives,
            &mesh_core::topology::Places::default(),
        )
        .unwrap()
    }

    fn of(data: u8, parity: u8, nodes: &[usize]) -> (bool, bool, String) {
        let survival = survival(&layout(data, parity, nodes), nodes.len(), &Outage::default());
        (survival.reads, survival.writes, survival.reason)
    }

    #[test]
    fn two_drives_on_each_of_three_nodes_survive_any_one() {
        assert_eq!(of(2, 1, &[2, 2, 2]), (true, true, String::new()));
        assert_eq!(of(1, 1, &[1, 1, 1]), (true, true, String::new()));
        assert_eq!(of(2, 1, &[1, 1, 1, 1]), (true, true, String::new()));
    }

    #[test]
    fn what_is_least_safe_of_all_codes_is_said() {
        let one = layout(2, 1, &[2, 2, 2]);
        let with = |codes: &[(u8, u8)]| {
            let codes = codes.iter().map(|(data, parity)| Code { data: *data, parity: *parity }).collect();
            let drives: Vec<DriveInfo> = one
                .domains
                .iter()
                .map(|(id, node)| DriveInfo {
                    id: *id,
                    node: *node,
                    capacity_bytes: 1 << 30,
                    epoch: Epoch(1),
                    seat: None,
                })
                .collect();
            let lineage = crate::layout::Lineage::Next(std::sync::Arc::new(one.clone()), codes);
            let layout = crate::layout::build(
                mesh_core::id::LayoutId(2),
                &lineage,
                &drives,
                &mesh_core::topology::Places::default(),
            )
            .unwrap();
            let survival = survival(&layout, 3, &Outage::default());
            (survival.reads, survival.writes, survival.reason)
        };
        assert_eq!(with(&[(1, 1), (1, 2)]), (true, true, String::new()));
        let (reads, writes, reason) = with(&[(1, 1), (3, 2), (1, 2)]);
        assert!(reads && !writes && reason.contains("3+2 needs 5"), "{reason}");
        let (reads, _, reason) = with(&[(3, 2), (4, 1)]);
        assert!(!reads && reason.contains("2 of its shards on node-"), "{reason}");
        assert_eq!(with(&[(1, 0)]), (true, true, String::new()), "that is what its bucket wants");
    }

    #[test]
    fn what_is_out_already_counts() {
        let with = |hosts: &[u64], drives: &[(u64, DriveState)]| {
            let out = Outage {
                hosts: hosts.iter().map(|host| NodeId(*host)).collect(),
                drives: drives.iter().map(|(drive, state)| (DriveId(*drive), *state)).collect(),
                unsettled: None,
            };
            let survival = survival(&layout(2, 1, &[2, 2, 2]), 3, &out);
            (survival.reads, survival.writes, survival.reason)
        };
        let (down, full) = (DriveState::Down, DriveState::Full);
        let (reads, writes, reason) = with(&[2], &[(3, down), (4, down)]);
        assert!(!reads && !writes);
        let wanted =
            "node-2 is down, drive-3 is down, drive-4 is down: metadata need a majority of the 3 nodes, and 2 answer";
        assert_eq!(reason, wanted);
        // Full drives are read, and take nothing.
        let (reads, writes, reason) = with(&[], &[(3, full), (4, full)]);
        assert!(reads && !writes && reason.contains("2 drives to go to"), "{reason}");
        let (reads, writes, reason) = with(&[], &[(3, down)]);
        assert!(!reads && !writes && reason.contains("bring the drives back"), "{reason}");
    }

    #[test]
    fn nothing_more_may_be_lost_before_what_was_lost_is_whole_again() {
        let why = "group-2 is being repaired: see `mesh repair`";
        let with = |drives: &[(u64, DriveState)], nodes: &[usize]| {
            let drives = drives.iter().map(|(drive, state)| (DriveId(*drive), *state)).collect();
            let out = Outage { drives, unsettled: Some(why.into()), ..Outage::default() };
            let survival = survival(&layout(2, 1, nodes), nodes.len(), &out);
            (survival.reads, survival.writes, survival.reason)
        };
        assert_eq!(with(&[], &[2, 2, 2]), (false, false, why.to_owned()));
        // That writes would end is the lesser evil.
        assert_eq!(with(&[], &[1, 1, 1]), (false, false, why.to_owned()));
        assert_eq!(with(&[(3, DriveState::Full)], &[2, 2, 2]).2, format!("drive-3 is full: {why}"));
        // What no repair mends is said first.
        let (reads, _, reason) = with(&[(3, DriveState::Down)], &[2, 2, 2]);
        assert!(!reads && reason.contains("bring the drives back"), "{reason}");
    }

    #[test]
    fn writes_end_where_too_few_drives_are_left() {
        let (reads, writes, reason) = of(2, 1, &[2, 1, 1]);
        assert!(reads && !writes);
        let said = "without node-1 a stripe has 2 drives to go to, and 2+1 needs 3: add 1 to other nodes";
        assert_eq!(reason, said);
        assert!(matches!(of(2, 1, &[1, 1, 1]), (true, false, _)));
        assert!(matches!(of(4, 2, &[2, 2, 2]), (true, false, _)));
        // And what is advised helps.
        assert_eq!(of(2, 1, &[2, 2, 1]), (true, true, String::new()));
    }

    #[test]
    fn reads_end_where_a_node_has_more_shards_than_may_be_lost() {
        let (reads, writes, reason) = of(4, 1, &[2, 2, 2]);
        assert!(!reads && !writes && reason.contains("at least 5 nodes"), "{reason}");
        let (reads, _, reason) = of(2, 0, &[2, 2, 2]);
        assert!(!reads && reason.contains("no parity"), "{reason}");
    }

    #[test]
    fn two_nodes_have_no_majority_without_one() {
        let (reads, writes, reason) = of(1, 1, &[2, 2]);
        assert!(!reads && !writes && reason.contains("majority"), "{reason}");
    }

    #[test]
    fn what_init_advises_is_what_survives() {
        for (data, parity) in [(1, 1), (2, 1), (1, 2), (4, 2), (8, 3)] {
            let each = drives_each(Code { data, parity }, 3);
            let (reads, writes, reason) = of(data, parity, &[each; 3]);
            // A wide code on three nodes may have too many shards on one all the same, and that is said.
            assert!(writes || !reads, "{data}+{parity}: {reason}");
        }
    }
}
