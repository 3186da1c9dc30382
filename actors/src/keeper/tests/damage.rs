//! What drives know to be damaged is healed where it is, whatever else is to be done.

use super::*;

impl Bench {
    /// A shard on a drive rots, and the drive knows it and says so.
    fn rot(&mut self, drive: u64, id: ShardId) {
        self.damaged.insert((DriveId(drive), id));
        self.say_damaged();
    }

    /// Drives say whether they know of damage.
    fn say_damaged(&mut self) {
        self.spec.damaged = self.damaged.iter().map(|(drive, _)| *drive).collect();
        self.configure();
    }
}

fn shard(write: WriteId, stripe: u32, shard: u8) -> ShardId {
    StripeId { write, stripe, attempt: 0 }.shard(shard)
}

#[test]
fn what_is_known_to_be_damaged_is_rebuilt_where_it_is_at_once() {
    let mut bench = counting();
    let writes: Vec<WriteId> = (0..40).map(|n| bench.put(&format!("{n:02}"), 3, &[])).collect();
    bench.pass(Duration::from_secs(60));
    let (said, asked) = (bench.commands.len(), bench.uses);
    bench.writes();
    for n in [0, 1, 20, 39] {
        bench.damaged.insert((DriveId(1), shard(writes[n], 1, 0)));
    }
    bench.rot(3, shard(writes[20], 2, 2));
    bench.pass(Duration::from_secs(1));
    assert_eq!(bench.written.iter().map(|(drive, id)| (drive.0, *id)).collect::<BTreeSet<_>>(), {
        let of_first = [0, 1, 20, 39].map(|n| (1, shard(writes[n], 1, 0)));
        of_first.into_iter().chain([(3, shard(writes[20], 2, 2))]).collect()
    });
    for write in &writes {
        bench.assert_at_home(*write, 3);
    }
    // Writes that are near each other are asked for together, and others not at all.
    assert_eq!((bench.commands.len() - said, bench.uses - asked), (0, 3));
    // The drives have not said yet that they know of none any more: they are asked again, and that is all.
    bench.written.clear();
    bench.pass(Duration::from_secs(60));
    assert_eq!((bench.written.len(), bench.uses - asked), (0, 3));
    bench.say_damaged();
    let named = bench.named;
    bench.pass(Duration::from_secs(600));
    assert_eq!(bench.named, named, "nobody is asked who knows of none");
}

#[test]
fn what_was_written_without_a_drive_is_healed_where_it_is_and_what_is_damaged_elsewhere_is_left() {
    let mut bench = counting();
    bench.set(2, DriveState::Down);
    let write = bench.put("a", 2, &[2]);
    bench.pass(Duration::from_secs(1));
    // Shard 1 of the first stripe is on the spare drive.
    bench.rot(4, shard(write, 0, 1));
    bench.store(DriveId(5), shard(write, 0, 1), coded(shard(write, 0, 1).stripe, 1));
    bench.rot(5, shard(write, 0, 1));
    bench.pass(Duration::from_secs(1));
    assert_eq!(bench.writes(), [(4, 0, 1)]);
    assert_eq!(bench.damaged, [(DriveId(5), shard(write, 0, 1))].into());
}

#[test]
fn what_cannot_be_healed_is_tried_again_less_and_less_often() {
    let mut bench = counting();
    let write = bench.put("a", 1, &[]);
    bench.pass(Duration::from_secs(60));
    bench.rot(1, shard(write, 0, 0));
    bench.damaged.insert((DriveId(2), shard(write, 0, 1)));
    bench.say_damaged();
    bench.writes();
    bench.pass(Duration::from_secs(3600));
    assert_eq!(bench.writes(), []);
    let reads = bench.read.len();
    assert!((10..100).contains(&reads), "{reads} reads in an hour");
    // One of them can be read after all.
    bench.damaged.remove(&(DriveId(2), shard(write, 0, 1)));
    bench.pass(Duration::from_secs(600));
    assert_eq!(bench.writes(), [(1, 0, 0)]);
}

/// A pass that cannot come to its end, because a drive is away, holds nothing up; nor does one that takes long.
#[test]
fn damage_is_healed_while_a_group_is_not_settled() {
    let mut bench = counting();
    let writes: Vec<WriteId> = (0..300).map(|n| bench.put(&format!("{n:03}"), 1, &[])).collect();
    bench.pass(Duration::ZERO);
    bench.set(6, DriveState::Down);
    bench.lay_out(&[1, 2, 6, 3]);
    bench.pass(Duration::from_secs(5));
    assert_eq!(bench.state().settled, LayoutId(1));
    bench.writes();
    bench.rot(1, shard(writes[7], 0, 0));
    bench.pass(Duration::from_secs(61));
    assert_eq!(bench.writes(), [(1, 0, 0)]);
    bench.say_damaged();
    // In the middle of a pass that moves everything, once a page is done with.
    bench.set(6, DriveState::Up);
    bench.rot(2, shard(writes[299], 0, 1));
    bench.pass(Duration::from_secs(600));
    assert_eq!(bench.state().settled, LayoutId(2));
    let healed = bench.written.iter().position(|(drive, _)| *drive == DriveId(2)).expect("it is healed");
    assert!(healed <= 256, "it is healed before the rest is moved, not after {healed} of 300");
    for write in &writes {
        bench.assert_at_home(*write, 1);
    }
}

/// Garbage has no manifest to be healed by: it goes anyway.
#[test]
fn what_is_deleted_is_not_healed() {
    let mut bench = counting();
    let writes: Vec<WriteId> = (0..3).map(|n| bench.put(&format!("{n}"), 1, &[])).collect();
    bench.pass(Duration::from_secs(60));
    bench.delete("1");
    bench.damaged.insert((DriveId(1), shard(writes[2], 0, 0)));
    bench.rot(1, shard(writes[1], 0, 0));
    bench.writes();
    bench.pass(Duration::from_secs(5));
    assert_eq!(bench.written.drain(..).collect::<Vec<_>>(), [(DriveId(1), shard(writes[2], 0, 0))]);
}

/// However much there is about which nothing can be done, what is behind it has its turn.
#[test]
fn a_list_that_is_cut_off_goes_on_where_it_was() {
    let mut bench = Bench::new();
    // Two damaged shards of each are as many as are taken in hand at once.
    let many = 32_768;
    let write = bench.put("a", many + 1, &[]);
    bench.pass(Duration::ZERO);
    for stripe in 0..many {
        bench.damaged.extend([(DriveId(1), shard(write, stripe, 0)), (DriveId(2), shard(write, stripe, 1))]);
    }
    bench.damaged.insert((DriveId(1), shard(write, many, 0)));
    bench.say_damaged();
    bench.pass(Duration::from_secs(1));
    assert_eq!((bench.writes(), bench.damaged.len()), (vec![], 65_537));
    bench.pass(Duration::from_secs(15));
    assert_eq!((bench.writes(), bench.damaged.len()), (vec![(1, many, 0)], 65_536));
    // And behind the end comes the start.
    bench.damaged.remove(&(DriveId(2), shard(write, 0, 1)));
    bench.pass(Duration::from_secs(10));
    assert_eq!((bench.writes(), bench.damaged.len()), (vec![(1, 0, 0)], 65_534));
}
