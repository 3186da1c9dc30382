use std::collections::BTreeSet;

use mesh_core::{
    id::{Epoch, StripeId, WriteId},
    limits::GROUP_DRIVES_MAX,
    topology::Location,
};
use proptest::prelude::*;

use super::*;

const TIB: u64 = 1 << 40;

fn drive(id: u64, node: u64, capacity_bytes: u64) -> DriveInfo {
    DriveInfo { id: DriveId(id), node: NodeId(node), capacity_bytes, epoch: Epoch(1), seat: None }
}

/// Drives 1, 2, ... of equal size, `each` on every node.
fn even(nodes: u64, each: u64) -> Vec<DriveInfo> {
    (0..nodes * each).map(|at| drive(at + 1, at / each + 1, TIB)).collect()
}

fn code(data: u8, parity: u8) -> Code {
    Code { data, parity }
}

fn built(code: Code, drives: &[DriveInfo]) -> Layout {
    build(LayoutId(1), &Lineage::None(code), drives, &Places::default()).unwrap()
}

/// How many shards of `stripes` stripes each drive gets.
fn shards(layout: &Layout, stripes: u32) -> BTreeMap<DriveId, u64> {
    let mut counts = BTreeMap::new();
    for stripe in 0..stripes {
        let id = StripeId { write: WriteId(7), stripe, attempt: 0 };
        for drive in layout.own().place(id, &[]).unwrap().drives {
            *counts.entry(drive).or_default() += 1;
        }
    }
    counts
}

#[test]
fn the_logarithm_is_right() {
    assert_eq!(minus_log2(u64::MAX), 0);
    assert_eq!(minus_log2(0), 64 << 32);
    assert_eq!(minus_log2((1 << 63) - 1), 1 << 32);
    for draw in (0..10_000).map(mix) {
        let exact = 64.0 - (draw as f64 + 1.0).log2();
        assert!((minus_log2(draw) as f64 / 4_294_967_296.0 - exact).abs() < 1e-8, "{draw}");
    }
}

#[test]
fn the_layout_does_not_depend_on_the_order_of_drives_and_does_not_change() {
    let mut drives = even(3, 2);
    let layout = built(code(2, 1), &drives);
    drives.reverse();
    assert_eq!(built(code(2, 1), &drives), layout);
    // What a layout looks like is not part of any format (it is stored), but it should not change by accident.
    let first: Vec<u64> = layout.groups[..2].iter().flatten().map(|drive| drive.0).collect();
    assert_eq!((layout.groups.len(), first), (256, FIRST_TWO_GROUPS.to_vec()));
}

#[test]
fn a_stripe_spans_as_many_nodes_as_there_are() {
    for (nodes, each, code) in [(3, 2, code(2, 1)), (6, 1, code(4, 2)), (8, 4, code(4, 2)), (30, 1, code(16, 8))] {
        let layout = built(code, &even(nodes, each));
        for group in &layout.groups {
            let domains: BTreeSet<NodeId> = group[..code.shards()].iter().map(|drive| layout.domains[drive]).collect();
            assert_eq!(domains.len(), code.shards());
        }
    }
    // Too few nodes: every one of them is used, and none more than its share.
    let layout = built(code(4, 2), &even(3, 4));
    for group in &layout.groups {
        let mut domains: Vec<NodeId> = group[..6].iter().map(|drive| layout.domains[drive]).collect();
        domains.sort();
        assert_eq!(domains, [1, 1, 2, 2, 3, 3].map(NodeId));
    }
}

#[test]
fn groups_have_spare_drives_and_stay_within_the_limits() {
    for (nodes, each, code, length) in [
        (3, 1, code(2, 1), 3),
        (3, 2, code(2, 1), 6),
        (10, 4, code(2, 1), 8),
        (10, 4, code(4, 2), 12),
        (40, 1, code(16, 8), 32),
    ] {
        let layout = built(code, &even(nodes, each));
        assert!(layout.groups.iter().all(|group| group.len() == length));
        assert!(layout.groups.iter().all(|group| group.iter().collect::<BTreeSet<_>>().len() == length));
        assert_eq!(layout.groups.len(), group_count((nodes * each) as usize));
    }
    assert_eq!([1, 2, 6, 64, 100_000, usize::MAX].map(group_count), [32, 64, 256, 2048, 2048, 2048]);
}

#[test]
fn equal_drives_get_equal_shares() {
    for (nodes, each, code) in [(3, 2, code(2, 1)), (6, 2, code(4, 2)), (8, 4, code(4, 2))] {
        let layout = built(code, &even(nodes, each));
        let counts = shards(&layout, 10_000);
        let fair = 10_000.0 * code.shards() as f64 / (nodes * each) as f64;
        for (drive, count) in counts {
            let share = count as f64 / fair;
            assert!((0.75..1.25).contains(&share), "{drive} of {nodes} x {each}: {share:.2} of its share");
        }
    }
}

#[test]
fn larger_drives_get_more_in_proportion() {
    // Twelve nodes, every third one with a drive three times as large.
    let drives: Vec<DriveInfo> = (1..=12).map(|id| drive(id, id, if id % 3 == 0 { 3 * TIB } else { TIB })).collect();
    let layout = built(code(1, 0), &drives);
    let counts = shards(&layout, 10_000);
    let total: u64 = drives.iter().map(|drive| drive.capacity_bytes / TIB).sum();
    for info in &drives {
        let fair = 10_000.0 * (info.capacity_bytes / TIB) as f64 / total as f64;
        let share = counts[&info.id] as f64 / fair;
        assert!((0.7..1.3).contains(&share), "{}: {share:.2} of its share", info.id);
    }
    // A stripe of three must not put two shards on a large drive: it gets at most one, and still more than a small one.
    let counts = shards(&built(code(2, 1), &drives), 10_000);
    assert!(counts[&DriveId(3)] > counts[&DriveId(1)] * 2 && counts[&DriveId(3)] < 10_000);
}

#[test]
fn a_new_drive_moves_only_what_it_takes() {
    // As many groups before and after, or stripes would go to other groups.
    let old = built(code(4, 2), &even(17, 1));
    let new = built(code(4, 2), &even(18, 1));
    assert_eq!(old.groups.len(), new.groups.len());
    let (mut moved, mut total) = (0, 0);
    for (old, new) in old.groups.iter().zip(&new.groups) {
        let (old, new): (BTreeSet<_>, BTreeSet<_>) = (old[..6].iter().collect(), new[..6].iter().collect());
        moved += new.difference(&old).count();
        assert!(new.difference(&old).all(|drive| **drive == DriveId(18)), "only to the new drive");
        total += 6;
    }
    let (moved, fair) = (moved as f64, f64::from(total) / 18.0);
    assert!((0.75..1.25).contains(&(moved / fair)), "{moved} shards moved, fair were {fair}");
}

/// The next layout of its line, of these drives.
fn next(before: &Layout, drives: &[DriveInfo]) -> Layout {
    build(LayoutId(before.id.0 + 1), &Lineage::Next(Arc::new(before.clone()), Vec::new()), drives, &Places::default())
        .unwrap()
}

/// How many homes are another drive's.
fn moved(before: &Layout, after: &Layout, shards: usize) -> usize {
    let homes = |layout: &Layout| layout.groups.iter().flat_map(|group| group[..shards].to_vec()).collect::<Vec<_>>();
    homes(before).into_iter().zip(homes(after)).filter(|(before, after)| before != after).count()
}

#[test]
fn a_home_stays_that_of_the_same_shard_and_only_what_must_moves() {
    let (code, drives) = (code(4, 2), even(9, 2));
    let first = build(LayoutId(1), &Lineage::First(3, code), &drives, &Places::default()).unwrap();
    assert_eq!((first.line, first.groups.len()), (3, GROUPS_MAX));
    let homes = GROUPS_MAX * 6;
    // Nothing changes: nothing moves.
    let same = next(&first, &drives);
    assert_eq!((same.id, same.line, &same.groups), (LayoutId(2), 3, &first.groups));
    // One goes: what was on it moves, and nothing else does.
    let fewer: Vec<DriveInfo> = drives.iter().filter(|drive| drive.id != DriveId(7)).cloned().collect();
    let without = next(&same, &fewer);
    let held = same.groups.iter().filter(|group| group[..6].contains(&DriveId(7))).count();
    assert_eq!(moved(&same, &without, 6), held);
    assert!((homes / 36..homes / 9).contains(&held), "{held} of {homes}");
    // It comes back: it gets about its share again.
    let back = next(&without, &drives);
    let taken = back.groups.iter().filter(|group| group[..6].contains(&DriveId(7))).count();
    assert_eq!((moved(&without, &back, 6), taken), (held, held));
    // A node more: only to its drives.
    let more = next(&back, &even(10, 2));
    let taken: usize = more.groups.iter().map(|group| group[..6].iter().filter(|drive| drive.0 > 18).count()).sum();
    assert_eq!(moved(&back, &more, 6), taken);
    assert!((homes / 20..homes / 5).contains(&taken), "{taken} of {homes}");
}

#[test]
fn a_removed_drive_leaves_the_order_of_the_others() {
    let whole = even(6, 1);
    let fewer: Vec<DriveInfo> = whole.iter().filter(|drive| drive.id != DriveId(3)).cloned().collect();
    let (old, new) = (built(code(2, 1), &whole), built(code(2, 1), &fewer));
    for (old, new) in old.groups.iter().zip(&new.groups) {
        assert!(old.iter().filter(|drive| **drive != DriveId(3)).eq(new));
    }
}

#[test]
fn leaves_out_drives_without_capacity() {
    let mut drives = even(4, 2);
    drives[7].capacity_bytes = 0;
    let layout = build(LayoutId(5), &Lineage::None(code(2, 1)), &drives, &Places::default()).unwrap();
    let expected: BTreeSet<DriveId> = (1..=7).map(DriveId).collect();
    assert_eq!(layout.id, LayoutId(5));
    assert_eq!(layout.domains.keys().copied().collect::<BTreeSet<_>>(), expected);
    assert!(layout.groups.iter().all(|group| group.iter().copied().collect::<BTreeSet<_>>() == expected));
}

#[test]
fn a_drive_that_takes_the_place_of_another_gets_what_that_had_and_nothing_else_moves() {
    let mut drives = even(9, 3);
    let first = build(LayoutId(1), &Lineage::First(1, code(4, 2)), &drives, &Places::default()).unwrap();
    let second =
        build(LayoutId(2), &Lineage::Next(Arc::new(first.clone()), Vec::new()), &drives, &Places::default()).unwrap();
    assert_eq!(second.groups, first.groups, "of the same drives it is the same");
    let (old, new) = (DriveId(4), DriveId(3004));
    let place = drives.iter_mut().find(|drive| drive.id == old).unwrap();
    *place = DriveInfo { id: new, seat: Some(old), ..place.clone() };
    let replaced =
        build(LayoutId(2), &Lineage::Next(Arc::new(first.clone()), Vec::new()), &drives, &Places::default()).unwrap();
    let exchanged = |group: &Vec<DriveId>| -> Vec<DriveId> {
        group.iter().map(|drive| if *drive == old { new } else { *drive }).collect()
    };
    assert_eq!(replaced.groups, first.groups.iter().map(exchanged).collect::<Vec<_>>());
    assert!(first.groups.iter().any(|group| group[..6].contains(&old)), "it had something");
}

#[test]
fn refuses_too_few_drives_a_bad_code_and_twins() {
    let error = build(LayoutId(1), &Lineage::None(code(4, 2)), &even(5, 1), &Places::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooFewShards);
    assert_eq!(error.message(), "5 drives can be used, and 4+2 needs 6: add drives, or choose a smaller code");
    let kind = |code, drives: &[DriveInfo]| {
        build(LayoutId(1), &Lineage::First(1, code), drives, &Places::default()).unwrap_err().kind()
    };
    assert_eq!(kind(code(2, 1), &[]), ErrorKind::TooFewShards);
    assert_eq!(kind(code(0, 1), &even(5, 1)), ErrorKind::Invalid);
    assert_eq!(kind(code(1, 0), &[drive(1, 1, 1), drive(1, 2, 1)]), ErrorKind::Invalid);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_drives_give_a_sound_layout(
        drives in proptest::collection::btree_map(any::<u64>(), (0..10_u64, any::<u64>()), 0..40),
        data in 0..20_u8, parity in 0..10_u8,
    ) {
        let code = Code { data, parity };
        let drives: Vec<DriveInfo> =
            drives.into_iter().map(|(id, (node, capacity))| drive(id, node, capacity)).collect();
        match build(LayoutId(1), &Lineage::First(1, code), &drives, &Places::default()) {
            Ok(layout) => {
                for group in &layout.groups {
                    prop_assert!((code.shards()..=GROUP_DRIVES_MAX).contains(&group.len()));
                    prop_assert_eq!(group.iter().collect::<BTreeSet<_>>().len(), group.len());
                    prop_assert!(group.iter().all(|drive| layout.domains.contains_key(drive)));
                }
                let id = StripeId { write: WriteId(1), stripe: 2, attempt: 3 };
                prop_assert!(layout.own().place(id, &[]).is_some());
            }
            Err(error) => prop_assert!(matches!(error.kind(), ErrorKind::Invalid | ErrorKind::TooFewShards)),
        }
    }
}

const FIRST_TWO_GROUPS: [u64; 12] = [1, 4, 5, 3, 2, 6, 2, 3, 5, 4, 6, 1];
#[test]
fn the_best_of_each_node_are_found_without_an_order_of_all() {
    // Of two sizes, on nodes with more and fewer drives than others.
    let drives: Vec<DriveInfo> = (0..400_u64)
        .map(|drive| {
            let (id, node) = (DriveId(drive + 1), NodeId(drive % 37 + drive % 5));
            DriveInfo { id, node, epoch: Epoch(1), capacity_bytes: (1 << 40) >> (drive % 2), seat: None }
        })
        .collect();
    let drives: Vec<&DriveInfo> = drives.iter().collect();
    let nodes = drives.iter().map(|drive| drive.node).collect::<BTreeSet<_>>().len();
    assert_eq!(nodes, 41);
    for length in [1, 12, 41, 42, 400] {
        for group in 0..50 {
            assert_eq!(ranked(group, &drives, length), in_rounds(group, &drives, length), "{group}, {length}");
        }
    }
}

#[test]
fn codes_that_are_asked_for_get_groups_of_their_own_and_the_others_keep_theirs() {
    let drives = even(5, 3);
    let first = build(LayoutId(1), &Lineage::First(1, code(4, 2)), &drives, &Places::default()).unwrap();
    let asked = |before: &Layout, id, codes: &[Code], drives: &[DriveInfo]| {
        let lineage = Lineage::Next(Arc::new(before.clone()), codes.to_vec());
        build(LayoutId(id), &lineage, drives, &Places::default())
    };
    let second = asked(&first, 2, &[code(1, 2)], &drives).unwrap();
    assert_eq!(second.groups, first.groups);
    let tables: Vec<_> = second.tables().map(|table| (table.code(), table.groups().len())).collect();
    assert_eq!(tables, [(code(4, 2), GROUPS_MAX), (code(1, 2), GROUPS_MAX)]);
    // A stripe has its copies on as many nodes, and every drive its share of them.
    let copies = second.table(Some(code(1, 2))).unwrap();
    let mut held: BTreeMap<DriveId, usize> = BTreeMap::new();
    for group in copies.groups() {
        let nodes: BTreeSet<NodeId> = group[..3].iter().map(|drive| second.domains[drive]).collect();
        assert_eq!((nodes.len(), group.len()), (3, 8));
        group[..3].iter().for_each(|drive| *held.entry(*drive).or_default() += 1);
    }
    let fair = GROUPS_MAX as f64 * 3.0 / 15.0;
    assert!(held.values().all(|held| (0.8..1.2).contains(&(*held as f64 / fair))), "{held:?}, fair were {fair}");
    // One more code, and a drive less: in every table only what was on that moves.
    let fewer: Vec<DriveInfo> = drives.iter().filter(|drive| drive.id != DriveId(4)).cloned().collect();
    let third = asked(&second, 3, &[code(2, 1)], &fewer).unwrap();
    assert_eq!(third.tables().map(|table| table.code()).collect::<Vec<_>>(), [code(4, 2), code(1, 2), code(2, 1)]);
    for (before, after) in second.tables().zip(third.tables()) {
        let shards = before.code().shards();
        for (before, after) in before.groups().iter().zip(after.groups()) {
            for (before, after) in before[..shards].iter().zip(&after[..shards]) {
                assert!(before == after || *before == DriveId(4), "{before} has moved to {after}");
            }
        }
    }
    assert_eq!(asked(&third, 4, &[], &fewer).unwrap().others, third.others, "a line keeps its codes");
    for (codes, kind) in [(code(12, 3), ErrorKind::TooFewShards), (code(0, 1), ErrorKind::Invalid)] {
        assert_eq!(asked(&third, 4, &[codes], &fewer).map_err(|error| error.kind()), Err(kind), "{codes}");
    }
}

/// Zones and racks by the numbers of their nodes, of which each has a drive.
fn located(racks: &[(&str, u64)]) -> (Vec<DriveInfo>, Places) {
    let mut of = Vec::new();
    for (rack, count) in racks {
        let next = of.len() as u64 + 1;
        of.extend((next..next + count).map(|node| (node, *rack)));
    }
    (even(of.len() as u64, 1), places(&of))
}

#[test]
fn the_limits_of_zones_and_racks_go_together() {
    let limits = |racks: &[(&str, u64)], code| {
        let (drives, places) = located(racks);
        let layout = build(LayoutId(1), &Lineage::First(1, code), &drives, &places).unwrap();
        (limits_of(code, &drives.iter().collect::<Vec<_>>(), &places), most(&layout))
    };
    // One of a rack and two of a zone can each be kept, and not both: so two of a rack.
    let three_and_one = [("a/1", 2), ("a/2", 2), ("a/3", 2), ("b/1", 4)];
    assert_eq!(limits(&three_and_one, code(2, 2)), ([Some(2), Some(2)], [1, 2, 2]));
    // With one of a rack, the only machine of one would have a shard of every stripe.
    let small = [("a/1", 3), ("a/2", 3), ("a/3", 3), ("a/4", 2), ("b/1", 8), ("b/2", 1)];
    assert_eq!(limits(&small, code(2, 2)), ([Some(2), Some(2)], [1, 2, 2]));
    // A zone cannot be lost, whatever is done; a rack can.
    assert_eq!(limits(&[("a/1", 4), ("a/2", 4), ("b/1", 4)], code(4, 2)).0, [None, Some(2)]);
    // Racks of which one is nearly all there is, in zones that are alike.
    assert_eq!(limits(&[("a/1", 4), ("b/1", 4), ("c/1", 3), ("c/2", 1)], code(1, 2)).0, [Some(1), Some(1)]);
    assert_eq!(limits(&[("a/1", 9), ("a/2", 1)], code(2, 1)).0, [None, None]);
}

/// Where nodes are, by their numbers.
fn places(of: &[(u64, &str)]) -> Places {
    let located: Vec<(NodeId, Option<Location>)> =
        of.iter().map(|(node, location)| (NodeId(*node), location.parse().ok())).collect();
    Places::of(located.iter().map(|(node, location)| (*node, location.as_ref())))
}

/// The most shards of any stripe that are on one node, in one rack, and in one zone.
fn most(layout: &Layout) -> [usize; 3] {
    let shards = layout.code.shards();
    let most = |level: usize| {
        let of_group = |group: &Vec<DriveId>| {
            let mut held: BTreeMap<NodeId, usize> = BTreeMap::new();
            for drive in &group[..shards] {
                *held.entry(layout.places.domains(layout.domains[drive])[level]).or_default() += 1;
            }
            held.into_values().max().unwrap_or(0)
        };
        layout.groups.iter().map(of_group).max().unwrap_or(0)
    };
    [most(2), most(1), most(0)]
}

#[test]
fn shards_are_spread_over_zones_and_racks_and_nodes() {
    let drives = even(12, 2);
    let in_line = |code, places: &Places| build(LayoutId(1), &Lineage::First(1, code), &drives, places).unwrap();
    let blind = in_line(code(4, 2), &Places::default());
    let racks = |of: &dyn Fn(u64) -> &'static str| {
        let of: Vec<(u64, &str)> = (1..=12).map(|node| (node, of(node))).collect();
        places(&of)
    };
    // Four nodes in each of three racks: of six shards two in each, of three copies one; chance alone puts more there.
    let three = racks(&|node| ["r1", "r2", "r3"][(node as usize - 1) / 4]);
    assert!(most(&Layout { places: three.clone(), ..blind.clone() })[1] > 2);
    assert_eq!(most(&in_line(code(4, 2), &three)), [1, 2, 2]);
    assert_eq!(most(&in_line(code(1, 2), &three)), [1, 1, 1]);
    // All nodes are spare ones or homes, as without racks.
    let nodes = |layout: &Layout, group: &[DriveId]| {
        group.iter().map(|drive| layout.domains[drive]).collect::<BTreeSet<_>>().len()
    };
    let seeing = in_line(code(4, 2), &three);
    assert!(seeing.groups.iter().all(|group| (group.len(), nodes(&seeing, group)) == (12, 12)));
    // Each rack that has homes has a drive for each of them, beside those.
    for group in &in_line(code(2, 1), &three).groups {
        let racks = |drives: &[DriveId]| {
            let mut racks: Vec<NodeId> = drives.iter().map(|drive| three.domains(blind.domains[drive])[1]).collect();
            racks.sort_unstable();
            racks
        };
        assert_eq!((racks(&group[..3]), group.len()), (racks(&group[3..6]), 8));
    }
    // Two zones cannot each have two of six, so that does not keep the racks from it; of three copies each can.
    let zones = racks(&|node| ["a/1", "a/2", "b/1"][(node as usize - 1) / 4]);
    assert_eq!(most(&in_line(code(4, 2), &zones)), [1, 2, 4]);
    assert_eq!(most(&in_line(code(1, 2), &zones)), [1, 1, 2]);
    // Those that say nothing are each in a rack of their own.
    assert_eq!(most(&in_line(code(4, 2), &racks(&|node| if node <= 4 { "r1" } else { "" }))), [1, 1, 1]);
    // Where a rack would have to hold much more than its part of all, it is as without racks: also while one after the other
    // says where it is.
    for last in 2..=12 {
        let some = racks(&|node| {
            if node < last {
                "large"
            } else if node == 12 {
                "small"
            } else {
                ""
            }
        });
        for code in [code(4, 2), code(1, 2), code(2, 1)] {
            let layout = in_line(code, &some);
            let held = layout
                .groups
                .iter()
                .flat_map(|group| &group[..code.shards()])
                .filter(|drive| layout.domains[*drive] == NodeId(12));
            let share = held.count() as f64 / (GROUPS_MAX * code.shards()) as f64;
            assert!(share < 1.6 / 12.0, "node 12 has {share} of everything in {code}, with {last} that say so");
            assert_eq!(most(&layout)[0], 1);
        }
    }
    // With as many racks as nodes nothing is otherwise than without.
    let each = ["r1", "r2", "r3", "r4", "r5", "r6", "r7", "r8", "r9", "r10", "r11", "r12"];
    assert_eq!(in_line(code(4, 2), &racks(&|node| each[node as usize - 1])).groups, blind.groups);
    // A drive that is added moves about what it is to hold.
    let before = in_line(code(4, 2), &three);
    let mut more = drives.clone();
    more.push(drive(25, 1, TIB));
    let lineage = Lineage::Next(Arc::new(before.clone()), Vec::new());
    let after = build(LayoutId(2), &lineage, &more, &three).unwrap();
    let moved = |(old, new): (&Vec<DriveId>, &Vec<DriveId>)| {
        old[..6].iter().zip(&new[..6]).filter(|(old, new)| old != new).count()
    };
    let moved: usize = before.groups.iter().zip(&after.groups).map(moved).sum();
    let fair = GROUPS_MAX as f64 * 6.0 / 25.0;
    assert!((0.5..2.0).contains(&(moved as f64 / fair)), "{moved} shards moved, fair were {fair}");
    assert_eq!(most(&after), [1, 2, 2]);
}
