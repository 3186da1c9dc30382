//! Everything is counted now and again, and what was moved is deleted where it was.

use super::*;

/// The same in a mesh of which all nodes know what is settled.
pub(super) fn counting() -> Bench {
    let mut bench = Bench::new();
    bench.spec.level = Level::SETTLED;
    bench.configure();
    bench
}

impl Bench {
    /// The shards that a drive has.
    pub(super) fn has(&self, drive: u64) -> usize {
        self.drives[&DriveId(drive)].len()
    }

    pub(super) fn count(&self) -> (u64, [u64; 4]) {
        let Count { layout, writes, shards, healed, cleared, .. } = self.state().count;
        (layout.0, [writes, shards, healed, cleared])
    }
}

#[test]
fn what_was_moved_away_is_deleted_after_the_grace_and_everything_has_been_counted_then() {
    let mut bench = counting();
    let write = bench.put("a", 40, &[]);
    bench.pass(Duration::from_secs(60));
    assert_eq!(bench.count(), (1, [1, 120, 0, 0]));
    bench.lay_out(&[1, 2, 6, 3]);
    bench.pass(Duration::from_secs(9));
    assert_eq!((bench.state().settled, bench.has(3), bench.has(6)), (LayoutId(2), 40, 40));
    // What is not a shard of what is settled is nobody's business here.
    let other = StripeId { write: WriteId(write.0 + 1), stripe: 0, attempt: 0 };
    let attempt = StripeId { write, stripe: 0, attempt: 3 };
    for id in [other, attempt] {
        bench.store(DriveId(3), id.shard(2), coded(id, 2));
    }
    bench.pass(Duration::from_secs(21));
    assert_eq!((bench.count(), bench.has(3), bench.has(6)), ((2, [1, 120, 0, 40]), 2, 40));
    bench.assert_at_home(write, 40);
    let end = UpkeepCommand::EndRepair { layout: LayoutId(2), line: 1, layouts: vec![LayoutId(1)] };
    assert!(bench.commands.contains(&end), "{:?}", bench.commands);
    // Nothing more until the time has come.
    let said = bench.commands.len();
    bench.pass(Duration::from_secs(900));
    assert_eq!(bench.commands.len(), said);
    bench.pass(Duration::from_secs(200));
    assert_eq!((bench.commands.len(), bench.count()), (said + 1, (2, [1, 120, 0, 0])));
}

#[test]
fn a_count_finds_what_a_drive_has_lost_and_heals_it_before_anything_is_deleted() {
    let mut bench = counting();
    let write = bench.put("a", 3, &[]);
    bench.pass(Duration::ZERO);
    bench.lay_out(&[1, 2, 6, 3]);
    // Two of three shards are not where they were written: what was left behind is all that there is.
    for (drive, shard) in [(6, 2), (1, 0)] {
        let id = StripeId { write, stripe: 1, attempt: 0 }.shard(shard);
        bench.drives.get_mut(&DriveId(drive)).expect("a drive").remove(&id).expect("it was there");
    }
    bench.pass(Duration::from_secs(30));
    assert_eq!(bench.count(), (2, [1, 9, 2, 3]));
    bench.assert_at_home(write, 3);
    assert_eq!(bench.has(3), 0);
}

#[test]
fn a_count_heals_what_is_damaged_at_home_and_deletes_it_elsewhere() {
    let mut bench = counting();
    let write = bench.put("a", 3, &[]);
    bench.pass(Duration::ZERO);
    bench.lay_out(&[1, 2, 6, 3]);
    let shard = |stripe, shard| StripeId { write, stripe, attempt: 0 }.shard(shard);
    bench.damaged = [(DriveId(1), shard(0, 0)), (DriveId(3), shard(0, 2)), (DriveId(3), shard(1, 2))].into();
    bench.writes();
    bench.pass(Duration::from_secs(30));
    assert_eq!((bench.count(), bench.has(3)), ((2, [1, 9, 1, 3]), 0));
    assert_eq!(bench.writes(), [(1, 0, 0)]);
    bench.assert_at_home(write, 3);
}

#[test]
fn nothing_is_deleted_of_what_is_not_whole_and_a_count_that_is_not_complete_is_not_said() {
    let mut bench = counting();
    let write = bench.put("a", 3, &[]);
    let other = bench.put("b", 2, &[]);
    bench.pass(Duration::ZERO);
    bench.lay_out(&[1, 2, 6, 3]);
    // Of the first nothing can be rebuilt any more.
    for drive in [1, 2] {
        let held = bench.drives.get_mut(&DriveId(drive)).expect("a drive");
        held.retain(|id, _| id.stripe.write != write || id.stripe.stripe != 0);
    }
    bench.pass(Duration::from_secs(30));
    assert_eq!((bench.count(), bench.has(3)), ((0, [0; 4]), 3), "of {other} it is deleted");
    // And nothing at all while a drive does not say what it has that may have something.
    let mut bench = counting();
    bench.put("a", 3, &[]);
    bench.pass(Duration::ZERO);
    bench.lay_out(&[1, 2, 6, 3]);
    bench.pass(Duration::from_secs(1));
    bench.failing.insert(DriveId(3), ErrorKind::Unreachable);
    bench.pass(Duration::from_secs(600));
    assert_eq!((bench.count(), bench.has(3)), ((0, [0; 4]), 3));
    bench.failing.clear();
    // Nor while one is away that may have something.
    bench.set(3, DriveState::Down);
    bench.pass(Duration::from_secs(3600));
    assert_eq!((bench.count(), bench.has(3)), ((0, [0; 4]), 3));
    bench.set(3, DriveState::Up);
    bench.pass(Duration::from_secs(90));
    assert_eq!((bench.count(), bench.has(3)), ((2, [1, 9, 0, 3]), 0));
}

/// What a drive has that is out is seen to when it is back, for that makes a layout.
#[test]
fn a_count_waits_for_no_drive_that_is_out() {
    let mut bench = counting();
    let write = bench.put("a", 3, &[]);
    bench.pass(Duration::ZERO);
    bench.spec.leaving.insert(DriveId(3), Leaving::Away);
    bench.set(3, DriveState::Down);
    bench.lay_out(&[1, 2, 6, 4]);
    bench.pass(Duration::from_secs(60));
    assert_eq!((bench.count(), bench.has(3), bench.has(6)), ((2, [1, 9, 0, 0]), 3, 3));
    bench.spec.leaving.remove(&DriveId(3));
    bench.set(3, DriveState::Up);
    bench.lay_out(&[1, 2, 3, 6]);
    bench.pass(Duration::from_secs(60));
    assert_eq!((bench.count(), bench.has(3), bench.has(6)), ((3, [1, 9, 0, 3]), 3, 0));
    bench.assert_at_home(write, 3);
}

/// A count goes over everything: it is not begun anew for what is asked again in a moment.
#[test]
fn a_list_that_does_not_come_is_asked_for_again() {
    let mut bench = counting();
    bench.put("a", 3, &[]);
    bench.lists_fail = 2;
    bench.pass(Duration::from_secs(30));
    assert_eq!((bench.lists_fail, bench.count()), (0, (1, [1, 9, 0, 0])));
    let mut bench = counting();
    bench.put("a", 3, &[]);
    bench.lists_fail = 60;
    bench.pass(Duration::from_secs(30));
    assert_eq!((bench.lists_fail < 60, bench.count()), (true, (0, [0; 4])), "nor for ever");
}

#[test]
fn a_write_that_cannot_come_home_yet_holds_up_no_count() {
    let mut bench = counting();
    bench.put("a", 3, &[]);
    bench.pass(Duration::ZERO);
    bench.lay_out(&[1, 2, 6, 3]);
    bench.pass(Duration::from_secs(1));
    bench.set(2, DriveState::Full);
    bench.put("b", 1, &[2]);
    bench.pass(Duration::from_secs(60));
    // What was put in the place of the full drive stays.
    assert_eq!((bench.count(), bench.state().unsettled, bench.has(3)), ((2, [2, 9, 0, 3]), 1, 1));
    bench.set(2, DriveState::Up);
    bench.pass(Duration::from_secs(60));
    assert_eq!((bench.state().unsettled, bench.writes().pop()), (0, Some((6, 2, 2))));
    assert_eq!((bench.count(), bench.has(3)), ((2, [2, 12, 0, 1]), 0));
}

/// And not only when everything is counted for another reason: until then its drive could not be taken out.
#[test]
fn what_came_home_after_the_count_is_deleted_elsewhere_after_the_grace() {
    let mut bench = counting();
    bench.pass(Duration::from_secs(60));
    assert_eq!(bench.count(), (1, [0; 4]));
    bench.set(2, DriveState::Down);
    let write = bench.put("a", 3, &[2]);
    bench.pass(Duration::from_secs(60));
    assert_eq!((bench.state().unsettled, bench.has(4)), (1, 3));
    bench.set(2, DriveState::Up);
    bench.pass(Duration::from_secs(9));
    assert_eq!((bench.state().unsettled, bench.count(), bench.has(4)), (0, (1, [0; 4]), 3));
    bench.assert_at_home(write, 3);
    bench.pass(Duration::from_secs(21));
    assert_eq!((bench.count(), bench.has(4)), ((1, [1, 9, 0, 3]), 0));
    // Once, and nothing more until the time has come.
    let said = bench.commands.len();
    bench.pass(Duration::from_secs(600));
    assert_eq!(bench.commands.len(), said);
}

#[test]
fn what_is_not_at_home_in_the_settled_layout_is_looked_for_where_it_was_before() {
    let mut bench = counting();
    let write = bench.put("a", 3, &[]);
    bench.pass(Duration::ZERO);
    bench.lay_out(&[5, 6, 3, 4]);
    bench.pass(Duration::from_secs(1));
    assert_eq!(bench.state().settled, LayoutId(2));
    // Both new drives go before anything was cleared away.
    for drive in [5, 6] {
        bench.drives.insert(DriveId(drive), BTreeMap::new());
        bench.set(drive, DriveState::Lost);
    }
    bench.lay_out(&[4, 2, 3, 1]);
    bench.pass(Duration::from_secs(30));
    assert_eq!(bench.state().settled, LayoutId(3));
    bench.assert_at_home(write, 3);
}

#[test]
fn nothing_is_deleted_once_another_layout_has_been_begun_with() {
    let mut bench = counting();
    bench.put("a", 3, &[]);
    bench.pass(Duration::ZERO);
    bench.lay_out(&[1, 2, 6, 3]);
    bench.pass(Duration::from_secs(1));
    // While the drives are listed, somebody who knows more begins to bring things back.
    bench.overtaken = true;
    bench.pass(Duration::from_secs(60));
    assert_eq!((bench.count(), bench.has(3), bench.overtaken), ((0, [0; 4]), 3, false));
}

#[test]
fn a_group_that_was_settled_by_older_builds_is_told_its_line_and_counted_then() {
    let mut bench = Bench::new();
    bench.put("a", 3, &[]);
    bench.pass(Duration::from_secs(100));
    assert_eq!((bench.state(), bench.commands.clone()), (settled(1, 0), vec![begin(1), end(1)]));
    bench.spec.level = Level::SETTLED;
    bench.configure();
    bench.pass(Duration::from_secs(60));
    assert_eq!((bench.state().line, bench.count()), (1, (1, [1, 9, 0, 0])));
}
