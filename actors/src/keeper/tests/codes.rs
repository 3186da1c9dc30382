//! What is stored in other codes than the layouts' own is kept as well, in the groups of those.

use mesh_core::topology::CodeGroups;

use super::*;

const COPIES: Code = Code { data: 1, parity: 1 };

/// The next layout: its homes, those of two copies, and spare ones.
fn both(id: u64, own: &[u64], copies: &[u64]) -> Arc<Layout> {
    let mut layout = Layout::clone(&layout(id, own));
    let group: Vec<DriveId> = copies.iter().copied().map(DriveId).collect();
    layout.domains.extend(group.iter().map(|drive| (*drive, NodeId(drive.0))));
    layout.others = vec![CodeGroups { code: COPIES, groups: vec![group] }];
    Arc::new(layout)
}

impl Bench {
    fn lay_out_both(&mut self, own: &[u64], copies: &[u64]) {
        let id = self.spec.layouts.len() as u64 + 1;
        self.spec.layouts.insert(LayoutId(id), both(id, own, copies));
        self.configure();
    }
}

#[test]
fn each_code_is_brought_to_its_own_homes_and_counted_there() {
    let mut bench = counting();
    bench.lay_out_both(&[1, 2, 3, 4], &[5, 6, 1]);
    let coded = bench.put("a", 3, &[]);
    let copied = bench.put_in(Some(COPIES), "b", 4, &[]);
    // One of the copies could not go where it is at home.
    let moved = bench.put_in(Some(COPIES), "c", 2, &[6]);
    bench.pass(Duration::from_millis(1));
    assert_eq!(bench.state().settled, LayoutId(2));
    bench.pass(Duration::from_secs(60));
    for (write, stripes) in [(coded, 3), (copied, 4), (moved, 2)] {
        bench.assert_at_home(write, stripes);
    }
    assert_eq!(bench.writes(), [0, 1].map(|stripe| (6, stripe, 1)));
    // Then everything is counted, and what was left where it was is deleted: two shards of the third, on drive 1.
    assert_eq!((bench.count(), bench.has(1)), ((2, [3, 9 + 8 + 4, 0, 2]), 3));
    // The drive of one copy is lost; what is in the other code has nothing on it.
    bench.drives.insert(DriveId(5), BTreeMap::new());
    bench.set(5, DriveState::Lost);
    bench.lay_out_both(&[1, 2, 3, 4], &[4, 6, 1]);
    bench.pass(Duration::from_millis(1));
    for (write, stripes) in [(coded, 3), (copied, 4), (moved, 2)] {
        bench.assert_at_home(write, stripes);
    }
    let written = bench.writes();
    assert!(written.len() == 6 && written.iter().all(|(drive, _, shard)| (*drive, *shard) == (4, 0)), "{written:?}");
    bench.pass(Duration::from_secs(60));
    assert_eq!(bench.count(), (3, [3, 9 + 8 + 4, 0, 0]));
    assert_eq!((bench.state().settled, bench.has(1)), (LayoutId(3), 3));
}

#[test]
fn what_no_layout_has_groups_for_is_not_said_to_be_at_home() {
    let mut bench = counting();
    bench.lay_out_both(&[1, 2, 3, 4], &[5, 6, 1]);
    let write = bench.put_in(Some(COPIES), "b", 1, &[]);
    bench.pass(Duration::from_millis(1));
    let settled = bench.state().settled;
    // Nobody makes such a layout.
    bench.lay_out(&[1, 2, 3, 5]);
    bench.pass(Duration::from_secs(60));
    assert_eq!(bench.state().settled, settled);
    assert_eq!(bench.drives[&DriveId(5)].len(), 1, "{write}");
}
