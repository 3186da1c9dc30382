//! An ordered map whose copies share what they have in common: to copy one costs nothing, and to change one entry of a
//! copy costs a few nodes, however many entries there are.
//!
//! A B+tree behind reference counts, ordered by key like a `BTreeMap`, and written like one. Whoever keeps a view of a
//! hundred thousand rows and changes one of them makes the view after it from the view before it, and both stay whole.
//!
//! ```text
//!   before ──► root ───┬─► inner ──┬─► leaf
//!                      │           └─► leaf
//!                      └─► inner ──┬─► leaf
//!                          ▲       └─► leaf
//!                          │           ▲
//!   after ───► root' ──┬───┘           │          after one change: one node of each level is new, the others are
//!                      └─► inner' ─┬───┘          those of before
//!                                  └─► leaf'
//! ```

use core::{borrow::Borrow, fmt, ops::Bound, ops::RangeBounds, slice};
use std::{collections::BTreeMap, ops::Index, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

mod diff;

pub use diff::Diff;

/// Entries of a leaf, and children of an inner node, at most.
const WIDTH_MAX: usize = 32;

/// An ordered map whose copies share what they have in common.
pub struct SharedMap<K, V> {
    root: Arc<Node<K, V>>,
    len: usize,
}

/// All leaves are equally deep. No node is empty but the root of an empty map.
enum Node<K, V> {
    Leaf(Vec<(K, V)>),
    Inner(Vec<Branch<K, V>>),
}

struct Branch<K, V> {
    /// The least key under it.
    least: K,
    /// Entries under it.
    len: usize,
    node: Arc<Node<K, V>>,
}

impl<K, V> SharedMap<K, V> {
    /// An empty map.
    #[must_use]
    pub fn new() -> Self {
        Self { root: Arc::new(Node::Leaf(Vec::new())), len: 0 }
    }

    /// How many entries there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether this is the very same map as another: a copy of which neither was changed since. That costs nothing; two maps
    /// that hold the same and were made apart are not the same by this.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.root, &other.root)
    }

    /// The entries, ascending by key.
    #[must_use]
    pub fn iter(&self) -> Iter<'_, K, V> {
        self.slice(0, self.len)
    }

    /// The keys, ascending.
    pub fn keys(&self) -> impl DoubleEndedIterator<Item = &K> + ExactSizeIterator + Clone {
        self.iter().map(|(key, _)| key)
    }

    /// The values, ascending by key.
    pub fn values(&self) -> impl DoubleEndedIterator<Item = &V> + ExactSizeIterator + Clone {
        self.iter().map(|(_, value)| value)
    }

    /// The entry with the least key.
    #[must_use]
    pub fn first_key_value(&self) -> Option<(&K, &V)> {
        self.iter().next()
    }

    /// The entry with the greatest key.
    #[must_use]
    pub fn last_key_value(&self) -> Option<(&K, &V)> {
        self.iter().next_back()
    }

    /// The entries from the one with `from` before it up to the one with `to` before it.
    fn slice(&self, from: usize, to: usize) -> Iter<'_, K, V> {
        let front = Cursor::at(&self.root, from, Side::Front);
        let back = Cursor::at(&self.root, self.len - to, Side::Back);
        Iter { front, back, left: to.saturating_sub(from) }
    }
}

impl<K: Ord, V> SharedMap<K, V> {
    /// The value under a key.
    #[must_use]
    pub fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        let mut node = &*self.root;
        loop {
            match node {
                Node::Leaf(entries) => {
                    let at = entries.binary_search_by(|(known, _)| known.borrow().cmp(key)).ok()?;
                    return Some(&entries[at].1);
                }
                Node::Inner(branches) => node = &branches[child_of(branches, key)?].node,
            }
        }
    }

    /// Whether there is a value under a key.
    #[must_use]
    pub fn contains_key<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.get(key).is_some()
    }

    /// The entries with keys in a range, ascending; none if it ends before it begins.
    pub fn range<Q: Ord + ?Sized>(&self, range: impl RangeBounds<Q>) -> Iter<'_, K, V>
    where
        K: Borrow<Q>,
    {
        let from = match range.start_bound() {
            Bound::Included(least) => self.below(least, false),
            Bound::Excluded(before) => self.below(before, true),
            Bound::Unbounded => 0,
        };
        let to = match range.end_bound() {
            Bound::Included(most) => self.below(most, true),
            Bound::Excluded(behind) => self.below(behind, false),
            Bound::Unbounded => self.len,
        };
        self.slice(from, to.max(from))
    }

    /// How many keys are less than one; with it, if it is there and `inclusive`.
    fn below<Q: Ord + ?Sized>(&self, key: &Q, inclusive: bool) -> usize
    where
        K: Borrow<Q>,
    {
        let (mut node, mut below) = (&*self.root, 0);
        loop {
            match node {
                Node::Leaf(entries) => {
                    let is_below = |(known, _): &(K, V)| known.borrow() < key || (inclusive && known.borrow() == key);
                    return below + entries.partition_point(is_below);
                }
                Node::Inner(branches) => {
                    let Some(at) = child_of(branches, key) else { return below };
                    below += branches[..at].iter().map(|branch| branch.len).sum::<usize>();
                    node = &branches[at].node;
                }
            }
        }
    }
}

impl<K: Ord + Clone, V: Clone> SharedMap<K, V> {
    /// Puts a value under a key, and gives the one that was there.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        let (old, split) = insert(&mut self.root, key, value);
        self.len += usize::from(old.is_none());
        if let Some(right) = split {
            let left = core::mem::take(self).root;
            let branches = Branch::over(left).into_iter().chain([right]).collect();
            self.root = Arc::new(Node::Inner(branches));
            self.len = self.root.len();
        }
        old
    }

    /// Takes the value under a key out.
    pub fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        // Nothing is copied for a key that is not there.
        if !self.contains_key(key) {
            return None;
        }
        let old = remove(&mut self.root, key)?;
        self.len -= 1;
        while let Node::Inner(branches) = &*self.root {
            self.root = match branches.as_slice() {
                [] => Arc::new(Node::Leaf(Vec::new())),
                [only] => Arc::clone(&only.node),
                _ => break,
            };
        }
        Some(old)
    }

    /// The value under a key, to be changed: no copy of the map sees it.
    pub fn get_mut<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        if !self.contains_key(key) {
            return None;
        }
        let mut node = Arc::make_mut(&mut self.root);
        loop {
            match node {
                Node::Leaf(entries) => {
                    let at = entries.binary_search_by(|(known, _)| known.borrow().cmp(key)).ok()?;
                    return Some(&mut entries[at].1);
                }
                Node::Inner(branches) => {
                    let at = child_of(branches, key)?;
                    node = Arc::make_mut(&mut branches[at].node);
                }
            }
        }
    }
}

impl<K, V> Node<K, V> {
    /// Entries under it.
    fn len(&self) -> usize {
        match self {
            Self::Leaf(entries) => entries.len(),
            Self::Inner(branches) => branches.iter().map(|branch| branch.len).sum(),
        }
    }

    /// Entries of a leaf, children of an inner node.
    const fn width(&self) -> usize {
        match self {
            Self::Leaf(entries) => entries.len(),
            Self::Inner(branches) => branches.len(),
        }
    }

    fn least(&self) -> Option<&K> {
        match self {
            Self::Leaf(entries) => entries.first().map(|(key, _)| key),
            Self::Inner(branches) => branches.first().map(|branch| &branch.least),
        }
    }
}

impl<K: Clone, V> Branch<K, V> {
    /// None over an empty node.
    fn over(node: Arc<Node<K, V>>) -> Option<Self> {
        Some(Self { least: node.least()?.clone(), len: node.len(), node })
    }
}

/// The child under which a key is, if it is anywhere.
fn child_of<K: Borrow<Q>, V, Q: Ord + ?Sized>(branches: &[Branch<K, V>], key: &Q) -> Option<usize> {
    branches.partition_point(|branch| branch.least.borrow() <= key).checked_sub(1)
}

/// What was there, and what stands to the right of the node from now on.
fn insert<K: Ord + Clone, V: Clone>(node: &mut Arc<Node<K, V>>, key: K, value: V) -> (Option<V>, Option<Branch<K, V>>) {
    match Arc::make_mut(node) {
        Node::Leaf(entries) => match entries.binary_search_by(|(known, _)| known.cmp(&key)) {
            Ok(at) => (Some(core::mem::replace(&mut entries[at].1, value)), None),
            Err(at) => {
                entries.insert(at, (key, value));
                (None, split(entries, at).and_then(|right| Branch::over(Arc::new(Node::Leaf(right)))))
            }
        },
        Node::Inner(branches) => {
            let at = child_of(branches, &key).unwrap_or(0);
            let child = &mut branches[at];
            if key < child.least {
                child.least = key.clone();
            }
            let (old, right) = insert(&mut child.node, key, value);
            child.len = child.node.len();
            let right = right.and_then(|right| {
                branches.insert(at + 1, right);
                split(branches, at + 1).and_then(|right| Branch::over(Arc::new(Node::Inner(right))))
            });
            (old, right)
        }
    }
}

/// What is to stand in a node of its own, if there is too much in this one. Who was filled in order stays full.
fn split<T>(items: &mut Vec<T>, inserted: usize) -> Option<Vec<T>> {
    let last = items.len().checked_sub(1).filter(|last| *last >= WIDTH_MAX)?;
    Some(items.split_off(if inserted == last { last } else { items.len() / 2 }))
}

/// Takes a key out that is there.
fn remove<K: Ord + Clone + Borrow<Q>, V: Clone, Q: Ord + ?Sized>(node: &mut Arc<Node<K, V>>, key: &Q) -> Option<V> {
    match Arc::make_mut(node) {
        Node::Leaf(entries) => {
            let at = entries.binary_search_by(|(known, _)| known.borrow().cmp(key)).ok()?;
            Some(entries.remove(at).1)
        }
        Node::Inner(branches) => {
            let at = child_of(branches, key)?;
            let child = &mut branches[at];
            let old = remove(&mut child.node, key);
            child.len = child.node.len();
            match child.node.least() {
                Some(least) => child.least = least.clone(),
                None => drop(branches.remove(at)),
            }
            join(branches, at);
            old
        }
    }
}

/// Makes one node of two neighbours, if the one that shrank is small and there is room: a map that shrinks gives its nodes
/// back.
fn join<K: Ord + Clone, V: Clone>(branches: &mut Vec<Branch<K, V>>, shrank: usize) {
    if branches.get(shrank).is_none_or(|branch| branch.node.width() > WIDTH_MAX / 4) || branches.len() < 2 {
        return;
    }
    let left = shrank.min(branches.len() - 2);
    if branches[left].node.width() + branches[left + 1].node.width() > WIDTH_MAX {
        return;
    }
    let right = branches.remove(left + 1);
    let left = &mut branches[left];
    match (Arc::make_mut(&mut left.node), Arc::unwrap_or_clone(right.node)) {
        (Node::Leaf(entries), Node::Leaf(more)) => entries.extend(more),
        (Node::Inner(children), Node::Inner(more)) => children.extend(more),
        // All leaves are equally deep.
        (Node::Leaf(_), Node::Inner(_)) | (Node::Inner(_), Node::Leaf(_)) => {}
    }
    left.len = left.node.len();
}

/// The entries of a map, or of a part of it, ascending by key.
pub struct Iter<'m, K, V> {
    front: Cursor<'m, K, V>,
    back: Cursor<'m, K, V>,
    left: usize,
}

struct Cursor<'m, K, V> {
    path: Vec<slice::Iter<'m, Branch<K, V>>>,
    leaf: slice::Iter<'m, (K, V)>,
}

#[derive(Clone, Copy)]
enum Side {
    Front,
    Back,
}

impl Side {
    fn step<'m, T>(self, items: &mut slice::Iter<'m, T>) -> Option<&'m T> {
        match self {
            Self::Front => items.next(),
            Self::Back => items.next_back(),
        }
    }
}

impl<'m, K, V> Cursor<'m, K, V> {
    /// Behind so many entries, as seen from a side.
    fn at(root: &'m Node<K, V>, mut skip: usize, from: Side) -> Self {
        let (mut node, mut path) = (root, Vec::new());
        loop {
            match node {
                Node::Leaf(entries) => {
                    let mut leaf = entries.iter();
                    for _ in 0..skip {
                        from.step(&mut leaf);
                    }
                    return Self { path, leaf };
                }
                Node::Inner(branches) => {
                    let mut items = branches.iter();
                    let mut under = None;
                    while let Some(branch) = from.step(&mut items) {
                        under = Some(branch);
                        if skip < branch.len {
                            break;
                        }
                        skip -= branch.len;
                        under = None;
                    }
                    path.push(items);
                    match under {
                        Some(branch) => node = &branch.node,
                        None => return Self { path, leaf: [].iter() },
                    }
                }
            }
        }
    }

    fn step(&mut self, from: Side) -> Option<&'m (K, V)> {
        loop {
            if let Some(entry) = from.step(&mut self.leaf) {
                return Some(entry);
            }
            let Some(branch) = from.step(self.path.last_mut()?) else {
                self.path.pop();
                continue;
            };
            match &*branch.node {
                Node::Leaf(entries) => self.leaf = entries.iter(),
                Node::Inner(branches) => self.path.push(branches.iter()),
            }
        }
    }
}

impl<'m, K, V> Iterator for Iter<'m, K, V> {
    type Item = (&'m K, &'m V);

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        self.front.step(Side::Front).map(|(key, value)| (key, value))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl<K, V> DoubleEndedIterator for Iter<'_, K, V> {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        self.back.step(Side::Back).map(|(key, value)| (key, value))
    }
}

impl<K, V> ExactSizeIterator for Iter<'_, K, V> {}

impl<K, V> Clone for Iter<'_, K, V> {
    fn clone(&self) -> Self {
        Self { front: self.front.clone(), back: self.back.clone(), left: self.left }
    }
}

impl<K, V> Clone for Cursor<'_, K, V> {
    fn clone(&self) -> Self {
        Self { path: self.path.clone(), leaf: self.leaf.clone() }
    }
}

impl<K: fmt::Debug, V: fmt::Debug> fmt::Debug for Iter<'_, K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.clone()).finish()
    }
}

impl<K: Clone, V: Clone> Clone for Node<K, V> {
    fn clone(&self) -> Self {
        match self {
            Self::Leaf(entries) => Self::Leaf(entries.clone()),
            Self::Inner(branches) => Self::Inner(branches.clone()),
        }
    }
}

impl<K: Clone, V> Clone for Branch<K, V> {
    fn clone(&self) -> Self {
        Self { least: self.least.clone(), len: self.len, node: Arc::clone(&self.node) }
    }
}

impl<K, V> Clone for SharedMap<K, V> {
    fn clone(&self) -> Self {
        Self { root: Arc::clone(&self.root), len: self.len }
    }
}

impl<K, V> Default for SharedMap<K, V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: fmt::Debug, V: fmt::Debug> fmt::Debug for SharedMap<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self).finish()
    }
}

impl<K: PartialEq, V: PartialEq> PartialEq for SharedMap<K, V> {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && (Arc::ptr_eq(&self.root, &other.root) || self.iter().eq(other.iter()))
    }
}

impl<K: Eq, V: Eq> Eq for SharedMap<K, V> {}

impl<K: PartialEq, V: PartialEq> PartialEq<BTreeMap<K, V>> for SharedMap<K, V> {
    fn eq(&self, other: &BTreeMap<K, V>) -> bool {
        self.len == other.len() && self.iter().eq(other.iter())
    }
}

impl<K: Ord + Borrow<Q>, V, Q: Ord + ?Sized> Index<&Q> for SharedMap<K, V> {
    type Output = V;

    /// Panics if there is no value under the key, as that of a `BTreeMap` does.
    fn index(&self, key: &Q) -> &V {
        self.get(key).expect("no entry found for key")
    }
}

impl<'m, K, V> IntoIterator for &'m SharedMap<K, V> {
    type Item = (&'m K, &'m V);
    type IntoIter = Iter<'m, K, V>;

    fn into_iter(self) -> Iter<'m, K, V> {
        self.iter()
    }
}

impl<K: Ord + Clone, V: Clone> Extend<(K, V)> for SharedMap<K, V> {
    fn extend<I: IntoIterator<Item = (K, V)>>(&mut self, entries: I) {
        entries.into_iter().for_each(|(key, value)| drop(self.insert(key, value)));
    }
}

impl<K: Ord + Clone, V: Clone> FromIterator<(K, V)> for SharedMap<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        let mut map = Self::new();
        map.extend(entries);
        map
    }
}

impl<K: Ord + Clone, V: Clone> From<BTreeMap<K, V>> for SharedMap<K, V> {
    fn from(entries: BTreeMap<K, V>) -> Self {
        entries.into_iter().collect()
    }
}

impl<K: Ord + Clone, V: Clone, const N: usize> From<[(K, V); N]> for SharedMap<K, V> {
    fn from(entries: [(K, V); N]) -> Self {
        entries.into_iter().collect()
    }
}

/// As a `BTreeMap` is written.
impl<K: Serialize, V: Serialize> Serialize for SharedMap<K, V> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self)
    }
}

impl<'de, K: Ord + Clone + Deserialize<'de>, V: Clone + Deserialize<'de>> Deserialize<'de> for SharedMap<K, V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        BTreeMap::deserialize(deserializer).map(Self::from)
    }
}

#[cfg(test)]
mod tests;
