use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

/// Every rule of the tree: depth, widths, lengths, least keys.
fn check(map: &SharedMap<u16, u32>) {
    fn depth(node: &Node<u16, u32>) -> usize {
        assert!(node.width() <= WIDTH_MAX);
        let Node::Inner(branches) = node else { return 0 };
        let depths: BTreeSet<usize> = branches.iter().map(|branch| depth(&branch.node)).collect();
        assert_eq!(depths.len(), 1);
        for branch in branches {
            assert_eq!((branch.len, Some(&branch.least)), (branch.node.len(), branch.node.least()));
        }
        depths.first().map_or(0, |depth| depth + 1)
    }
    depth(&map.root);
    assert_eq!(map.len(), map.root.len());
    assert!(map.keys().is_sorted());
}

fn nodes(map: &SharedMap<u16, u32>) -> BTreeSet<*const Node<u16, u32>> {
    fn add(node: &Arc<Node<u16, u32>>, all: &mut BTreeSet<*const Node<u16, u32>>) {
        all.insert(Arc::as_ptr(node));
        if let Node::Inner(branches) = &**node {
            branches.iter().for_each(|branch| add(&branch.node, all));
        }
    }
    let mut all = BTreeSet::new();
    add(&map.root, &mut all);
    all
}

#[derive(Clone, Debug)]
enum Step {
    Insert(u16, u32),
    Remove(u16),
    Change(u16, u32),
    RemoveFrom(u16),
}

fn step() -> impl Strategy<Value = Step> {
    let key = 0..600_u16;
    prop_oneof![
        8 => (key.clone(), any::<u32>()).prop_map(|(key, value)| Step::Insert(key, value)),
        4 => key.clone().prop_map(Step::Remove),
        1 => (key.clone(), any::<u32>()).prop_map(|(key, value)| Step::Change(key, value)),
        1 => key.prop_map(Step::RemoveFrom),
    ]
}

proptest! {
    #[test]
    fn is_what_an_ordered_map_is_and_leaves_copies_alone(
        filled in 0..3000_u16,
        steps in prop::collection::vec(step(), 0..300),
        bounds in (0..700_u16, 0..700_u16),
    ) {
        let mut model: BTreeMap<u16, u32> = (0..filled).map(|key| (key, 0)).collect();
        let mut map = SharedMap::from(model.clone());
        for step in steps {
            let (copy, before) = (map.clone(), model.clone());
            match step {
                Step::Insert(key, value) => assert_eq!(map.insert(key, value), model.insert(key, value)),
                Step::Remove(key) => assert_eq!(map.remove(&key), model.remove(&key)),
                Step::Change(key, value) => {
                    let changed = map.get_mut(&key).map(|there| *there = value);
                    assert_eq!(changed, model.get_mut(&key).map(|there| *there = value));
                }
                Step::RemoveFrom(from) => {
                    for key in from..from + 100 {
                        assert_eq!(map.remove(&key), model.remove(&key));
                    }
                }
            }
            check(&map);
            assert_eq!(map, model);
            assert_eq!(copy, before);
        }
        assert!(map.iter().rev().eq(model.iter().rev()));
        let (from, to) = (bounds.0.min(bounds.1), bounds.0.max(bounds.1));
        assert!(map.range(from..to).eq(model.range(from..to)));
        assert!(map.range(from..=to).rev().eq(model.range(from..=to).rev()));
        assert!(map.range(..from).eq(model.range(..from)));
        assert_eq!(map.range(to..).len(), model.range(to..).count());
        assert_eq!(map.first_key_value(), model.first_key_value());
        assert_eq!(map.last_key_value(), model.last_key_value());
    }
}

#[test]
fn ends_meet_in_the_middle_and_no_entry_comes_twice() {
    let map: SharedMap<u16, u32> = (0..2000).map(|key| (key, 0)).collect();
    let (mut iter, mut seen) = (map.iter(), Vec::new());
    while let Some((front, _)) = iter.next() {
        seen.push(*front);
        seen.extend(iter.next_back().map(|(back, _)| *back));
    }
    seen.sort_unstable();
    assert_eq!(seen, (0..2000).collect::<Vec<_>>());
}

#[test]
fn a_copy_with_one_change_shares_all_nodes_but_one_a_level() {
    let before: SharedMap<u16, u32> = (0..u16::MAX).map(|key| (key, 0)).collect();
    let mut after = before.clone();
    after.insert(30_000, 1);
    let fresh = nodes(&after).difference(&nodes(&before)).count();
    assert_eq!((fresh, nodes(&after).len() > 2000), (4, true));
    let same = after.clone();
    after.remove(&u16::MAX);
    assert_eq!(nodes(&after), nodes(&same), "what is not there costs nothing");
}

#[test]
fn what_was_filled_in_order_is_dense_and_what_was_emptied_is_small() {
    let mut map: SharedMap<u16, u32> = (0..3200).map(|key| (key, 0)).collect();
    assert_eq!(nodes(&map).len(), 100 + 4 + 1);
    for key in 1..3200 {
        map.remove(&key);
    }
    assert_eq!((map.len(), nodes(&map).len()), (1, 1));
}

#[test]
fn is_written_as_an_ordered_map_is() {
    let model: BTreeMap<u16, u32> = (0..500).map(|key| (key * 3, u32::from(key))).collect();
    let map = SharedMap::from(model.clone());
    let written = crate::meta::encode(&map).unwrap();
    assert_eq!(written, crate::meta::encode(&model).unwrap());
    assert_eq!(crate::meta::decode::<SharedMap<u16, u32>>(&written).unwrap(), map);
}

/// A value that counts how often it is compared.
#[derive(Clone, Debug)]
struct Counting(u32);

std::thread_local! {
    static COMPARED: core::cell::Cell<usize> = const { core::cell::Cell::new(0) };
}

impl PartialEq for Counting {
    fn eq(&self, other: &Self) -> bool {
        COMPARED.set(COMPARED.get() + 1);
        self.0 == other.0
    }
}

type Different<V> = Vec<(u16, Option<V>, Option<V>)>;

fn different<V: Clone + PartialEq>(before: &SharedMap<u16, V>, after: &SharedMap<u16, V>) -> Different<V> {
    before.diff(after).map(|(key, old, new)| (*key, old.cloned(), new.cloned())).collect()
}

/// The same without looking at what is shared.
fn naively(before: &SharedMap<u16, u32>, after: &SharedMap<u16, u32>) -> Different<u32> {
    let keys: BTreeSet<u16> = before.keys().chain(after.keys()).copied().collect();
    let both = keys.into_iter().map(|key| (key, before.get(&key).copied(), after.get(&key).copied()));
    both.filter(|(_, old, new)| old != new).collect()
}

proptest! {
    #[test]
    fn the_difference_is_what_a_look_at_every_key_finds(
        filled in 0..3000_u16,
        steps in prop::collection::vec(step(), 0..100),
        apart in prop::collection::vec((0..3000_u16, 0..2_u32), 0..60),
    ) {
        let before: SharedMap<u16, u32> = (0..filled).map(|key| (key, 0)).collect();
        let mut after = before.clone();
        for step in steps {
            match step {
                Step::Insert(key, value) => _ = after.insert(key, value),
                Step::Remove(key) => _ = after.remove(&key),
                Step::Change(key, value) => {
                    if let Some(there) = after.get_mut(&key) {
                        *there = value;
                    }
                }
                Step::RemoveFrom(from) => {
                    for key in from..from + 100 {
                        after.remove(&key);
                    }
                }
            }
        }
        prop_assert_eq!(different(&before, &after), naively(&before, &after));
        prop_assert_eq!(different(&after, &before), naively(&after, &before));
        // One that shares nothing, and has another shape.
        let apart: SharedMap<u16, u32> = apart.into_iter().collect();
        prop_assert_eq!(different(&before, &apart), naively(&before, &apart));
        prop_assert_eq!(different(&apart, &after), naively(&apart, &after));
    }
}

#[test]
fn what_is_shared_is_not_looked_at() {
    let before: SharedMap<u16, Counting> = (0..u16::MAX).map(|key| (key, Counting(0))).collect();
    let mut after = before.clone();
    assert_eq!(different(&before, &after).len(), 0);
    assert_eq!(COMPARED.get(), 0);
    after.insert(30_000, Counting(1));
    after.insert(u16::MAX, Counting(1));
    after.remove(&7);
    let keys: Vec<u16> = before.diff(&after).map(|(key, ..)| *key).collect();
    assert_eq!(keys, [7, 30_000, u16::MAX]);
    assert!(COMPARED.get() <= 3 * WIDTH_MAX, "{} were compared", COMPARED.get());
}
