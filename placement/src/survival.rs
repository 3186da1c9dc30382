//! What a mesh keeps doing when it loses any one node: worked out from its layout, so that it can be said beforehand.

use std::collections::BTreeMap;

use mesh_core::{
    id::{DriveId, LayoutId, NodeId, StripeId, WriteId},
    topology::{Code, Layout, Survival},
};

/// What is left to a mesh of `hosts` nodes with this newest layout when any one of its nodes is gone. A layout that
/// drives are missing from, or that has none, survives nothing.
#[must_use]
pub fn survival(layout: &Layout, hosts: usize) -> Survival {
    let lost = |reads, reason: String| Survival { reads, writes: false, reason };
    if hosts < HOSTS_MIN {
        let reason = format!("metadata need a majority of the nodes, and there are {hosts}: join more, to {HOSTS_MIN}");
        return lost(false, reason);
    }
    let code = layout.code;
    let mut fewest: Option<(usize, NodeId)> = None;
    for group in &layout.groups {
        if let Some((node, shards)) = crowded(layout, group) {
            let nodes = code.shards().div_ceil(usize::from(code.parity).max(1));
            let reason = if code.parity == 0 {
                format!("the code {code} has no parity: make the mesh with another")
            } else {
                format!(
                    "a stripe has {shards} of its shards on {node}, and only {} may be lost: spread the drives over at \
                     least {nodes} nodes",
                    code.parity
                )
            };
            return lost(false, reason);
        }
        for node in group.iter().filter_map(|drive| layout.domains.get(drive)) {
            let left = group.iter().filter(|drive| layout.domains.get(drive) != Some(node)).count();
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

/// A node that has more shards of the group's stripes than may be lost, and how many.
fn crowded(layout: &Layout, group: &[DriveId]) -> Option<(NodeId, usize)> {
    // Every stripe of a group goes to the same drives; where, only the layout says.
    let alone =
        Layout { id: LayoutId(0), code: layout.code, groups: vec![group.to_vec()], domains: layout.domains.clone() };
    let placement = alone.place(StripeId { write: WriteId(0), stripe: 0, attempt: 0 }, &[])?;
    let mut shards: BTreeMap<NodeId, usize> = BTreeMap::new();
    for node in placement.drives.iter().filter_map(|drive| layout.domains.get(drive)) {
        *shards.entry(*node).or_default() += 1;
    }
    shards.into_iter().find(|(_, count)| *count > usize::from(layout.code.parity))
}

/// Fewer have no majority once one is gone.
pub const HOSTS_MIN: usize = 3;

#[cfg(test)]
mod tests {
    use mesh_core::{
        id::Epoch,
        topology::{DriveInfo, NodeInfo},
    };

    use super::*;

    /// A layout of nodes with so many drives.
    fn layout(data: u8, parity: u8, nodes: &[usize]) -> Layout {
        let of = |(at, count): (usize, &usize)| vec![NodeId(at as u64 + 1); *count];
        let owners = nodes.iter().enumerate().flat_map(of);
        let drive =
            |(at, node)| DriveInfo { id: DriveId(at as u64 + 1), node, capacity_bytes: 1 << 30, epoch: Epoch(1) };
        let drives: Vec<DriveInfo> = owners.enumerate().map(drive).collect();
        crate::layout::build(LayoutId(1), Code { data, parity }, &drives, &[] as &[NodeInfo]).unwrap()
    }

    fn of(data: u8, parity: u8, nodes: &[usize]) -> (bool, bool, String) {
        let survival = survival(&layout(data, parity, nodes), nodes.len());
        (survival.reads, survival.writes, survival.reason)
    }

    #[test]
    fn two_drives_on_each_of_three_nodes_survive_any_one() {
        assert_eq!(of(2, 1, &[2, 2, 2]), (true, true, String::new()));
        assert_eq!(of(1, 1, &[1, 1, 1]), (true, true, String::new()));
        assert_eq!(of(2, 1, &[1, 1, 1, 1]), (true, true, String::new()));
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
