//! What nothing brings back holds nothing up, and is counted; what may come back is waited for.

use mesh_core::topology::CodeGroups;

use super::*;

const ONE: Code = Code { data: 1, parity: 0 };

/// The same in a mesh of which all nodes know what is lost.
fn losing() -> Bench {
    let mut bench = counting();
    bench.spec.level = Level::LOSSES;
    bench.configure();
    bench
}

impl Bench {
    /// The next layout: its homes, and that of what is on one drive alone.
    fn lay_out_one(&mut self, own: &[u64], one: u64) {
        let id = self.spec.layouts.len() as u64 + 1;
        let mut layout = Layout::clone(&layout(id, own));
        layout.domains.insert(DriveId(one), NodeId(one));
        layout.others = vec![CodeGroups { code: ONE, groups: vec![vec![DriveId(one)]] }];
        self.spec.layouts.insert(LayoutId(id), Arc::new(layout));
        self.configure();
    }

    /// What is on a drive is gone.
    fn empty(&mut self, drive: u64) {
        self.drives.insert(DriveId(drive), BTreeMap::new());
    }

    /// A shard is gone from a drive.
    fn drop_one(&mut self, drive: u64, id: ShardId) {
        self.drives.get_mut(&DriveId(drive)).expect("a drive").remove(&id).expect("it was there");
    }

    /// What was counted, and how much of that is lost.
    fn count_and_lost(&self) -> ((u64, [u64; 4]), u64) {
        (self.count(), self.state().count.lost)
    }
}

#[test]
fn what_was_on_one_drive_alone_holds_nothing_up_once_that_is_lost() {
    let mut bench = losing();
    bench.lay_out_one(&[1, 2, 3, 4], 5);
    let write = bench.put("a", 3, &[]);
    bench.put_in(Some(ONE), "b", 2, &[]);
    bench.pass(Duration::from_secs(60));
    assert_eq!(bench.count_and_lost(), ((2, [2, 9 + 2, 0, 0]), 0));
    bench.commands.clear();
    bench.empty(5);
    bench.set(5, DriveState::Lost);
    bench.lay_out_one(&[1, 2, 6, 3], 4);
    bench.pass(Duration::from_millis(1));
    bench.assert_at_home(write, 3);
    assert_eq!((bench.state().settled, bench.has(3), bench.has(4)), (LayoutId(3), 3, 0));
    bench.pass(Duration::from_secs(60));
    assert_eq!((bench.count_and_lost(), bench.has(3)), (((3, [2, 9 + 2, 0, 3]), 1), 0));
    // Everything was said at the first go, and nobody looks any more until the time has come.
    let older = vec![LayoutId(2)];
    let end = UpkeepCommand::EndRepair { layout: LayoutId(3), line: 1, layouts: older };
    let counted = UpkeepCommand::Counted { count: bench.state().count };
    assert_eq!(bench.commands, [begin(3), end, counted]);
    bench.pass(Duration::from_secs(600));
    assert_eq!(bench.commands.len(), 3);
}

#[test]
fn what_is_left_elsewhere_of_what_is_lost_is_deleted_unless_a_drive_may_bring_the_rest() {
    let mut bench = losing();
    let write = bench.put("a", 3, &[]);
    bench.put("b", 2, &[]);
    bench.pass(Duration::ZERO);
    bench.lay_out(&[1, 2, 6, 3]);
    bench.pass(Duration::from_millis(1));
    for drive in [1, 2] {
        let shard = StripeId { write, stripe: 0, attempt: 0 }.shard(drive as u8 - 1);
        bench.drop_one(drive, shard);
    }
    // No layout says that this one has anything of it.
    bench.spec.leaving.insert(DriveId(5), Leaving::Away);
    bench.set(5, DriveState::Down);
    bench.pass(Duration::from_secs(60));
    assert_eq!((bench.count_and_lost(), bench.has(3)), (((2, [2, 15, 0, 2]), 1), 3));
    bench.spec.leaving.remove(&DriveId(5));
    bench.set(5, DriveState::Up);
    bench.pass(Duration::from_secs(1100));
    assert_eq!((bench.count_and_lost(), bench.has(3)), (((2, [2, 15, 0, 3]), 1), 0));
}

/// Of what is left of it nothing is deleted where it is before it is at home: it may be more than it seems.
#[test]
fn what_is_left_of_what_is_lost_comes_home() {
    let mut bench = losing();
    bench.put("a", 1, &[]);
    bench.pass(Duration::from_secs(60));
    for drive in [1, 2] {
        bench.empty(drive);
        bench.spec.drives.insert(DriveId(drive), DriveState::Lost);
    }
    bench.lay_out(&[5, 6, 4, 3]);
    bench.pass(Duration::from_millis(1));
    assert_eq!((bench.state().settled, bench.writes()), (LayoutId(2), vec![(4, 0, 2)]));
    assert_eq!([bench.has(3), bench.has(4)], [1, 1]);
    bench.pass(Duration::from_secs(120));
    assert_eq!((bench.count_and_lost(), [bench.has(3), bench.has(4)]), (((2, [1, 3, 0, 1]), 1), [0, 1]));
}

#[test]
fn what_is_lost_before_it_could_come_home_is_unsettled_no_more() {
    let mut bench = losing();
    bench.pass(Duration::from_secs(60));
    bench.set(2, DriveState::Down);
    let write = bench.put("a", 2, &[2]);
    let first = StripeId { write, stripe: 0, attempt: 0 };
    bench.drop_one(1, first.shard(0));
    bench.drop_one(4, first.shard(1));
    bench.pass(Duration::from_secs(60));
    assert_eq!((bench.state().unsettled, bench.count_and_lost()), (1, ((1, [0; 4]), 0)));
    bench.commands.clear();
    bench.set(2, DriveState::Up);
    bench.pass(Duration::from_secs(1));
    let repaired = UpkeepCommand::Repaired { layout: LayoutId(1), writes: vec![write] };
    assert_eq!((bench.commands.clone(), bench.writes()), (vec![repaired], vec![(2, 1, 1)]));
    assert_eq!((bench.state().unsettled, bench.has(4)), (0, 1));
    bench.pass(Duration::from_secs(60));
    assert_eq!((bench.count_and_lost(), bench.has(4)), (((1, [1, 6, 0, 1]), 1), 0));
}

/// One stripe, of which one shard can be read for certain, and nothing of the first drive ever. What there is of drive 2 is
/// as it is made to be, before a layout without both.
fn half_gone(second: impl FnOnce(&mut Bench)) -> Bench {
    let mut bench = losing();
    bench.put("a", 1, &[]);
    bench.pass(Duration::from_secs(60));
    bench.empty(1);
    bench.empty(2);
    bench.spec.drives.insert(DriveId(1), DriveState::Lost);
    second(&mut bench);
    bench.lay_out(&[5, 6, 3, 4]);
    bench.pass(Duration::from_secs(120));
    bench
}

/// It is not given up while drive 2 is so, but once that is lost for good and everybody can know of it.
fn assert_waits(case: &str, second: impl FnOnce(&mut Bench)) {
    let mut bench = half_gone(second);
    let RepairState { marked, settled, count, .. } = bench.state();
    assert_eq!((marked, settled, count.layout, count.lost), (LayoutId(2), LayoutId(1), LayoutId(1), 0), "{case}");
    assert_eq!(bench.commands.last(), Some(&begin(2)), "{case}");
    assert_eq!(bench.writes(), [], "{case}");
    bench.failing.clear();
    bench.spec.level = Level::LOSSES;
    bench.spec.leaving.remove(&DriveId(2));
    bench.set(2, DriveState::Lost);
    bench.pass(Duration::from_secs(120));
    assert_eq!((bench.state().settled, bench.count_and_lost()), (LayoutId(2), ((2, [1, 3, 0, 0]), 1)), "{case}");
}

#[test]
fn what_may_come_back_is_not_given_up() {
    let bench = half_gone(|_| {});
    assert_eq!((bench.state().settled, bench.count_and_lost()), (LayoutId(2), ((2, [1, 3, 0, 0]), 1)));
    assert_waits("away", |bench| {
        bench.spec.drives.insert(DriveId(2), DriveState::Down);
    });
    assert_waits("not heard of", |bench| {
        bench.spec.drives.remove(&DriveId(2));
    });
    for state in [DriveState::Down, DriveState::Lost] {
        assert_waits("out by itself", |bench| {
            bench.spec.drives.insert(DriveId(2), state);
            bench.spec.leaving.insert(DriveId(2), Leaving::Away);
        });
    }
    for kind in [ErrorKind::Timeout, ErrorKind::Unreachable, ErrorKind::DriveFailed, ErrorKind::Overloaded] {
        assert_waits("silent", |bench| {
            bench.failing.insert(DriveId(2), kind);
        });
    }
    assert_waits("in two forms", |bench| {
        let id = *bench.drives[&DriveId(3)].keys().next().expect("it has a shard");
        bench.store(DriveId(2), id.stripe.shard(1), Buf::copy_of(&[0; 12]));
    });
}

#[test]
fn nothing_is_given_up_before_all_nodes_know_what_is_lost() {
    assert_waits("an older build takes part", |bench| bench.spec.level = Level::RECOVERY);
}

/// Of what is damaged as well: it is tried again less and less often.
#[test]
fn what_is_damaged_and_lost_is_counted_and_tried_less_and_less_often() {
    let mut bench = losing();
    let write = bench.put("a", 1, &[]);
    let stripe = StripeId { write, stripe: 0, attempt: 0 };
    bench.damaged = [(DriveId(1), stripe.shard(0)), (DriveId(2), stripe.shard(1))].into();
    bench.spec.damaged = [DriveId(1), DriveId(2)].into();
    bench.configure();
    bench.pass(Duration::from_secs(60));
    assert_eq!(bench.count_and_lost(), ((1, [1, 3, 0, 0]), 1));
    let reads = bench.read.len();
    bench.pass(Duration::from_secs(3600));
    let reads = bench.read.len() - reads;
    assert!(bench.writes().is_empty() && (10..100).contains(&reads), "{reads} reads in an hour");
}
