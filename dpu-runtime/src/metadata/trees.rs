//! Ordered trees of small values: in sled's files, or in memory with the same promises.
//!
//! What is written is there for every reader at once, and durable with the next flush. In memory only
//! [that](Memory::durable) is left of it by a crash: a simulated node loses just what a machine may lose, and nothing has threads
//! of its own.

use core::ops::Bound;
use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex},
};

use mesh_core::shared::SharedMap;
pub(super) use sled::IVec as Value;

use super::flush::lock;

/// A database of trees. Clones are the same one.
#[derive(Clone)]
pub(super) enum Trees {
    /// In sled's files.
    Sled(sled::Db),
    /// In memory.
    Memory(Memory),
}

/// A tree. Clones are the same one.
#[derive(Clone)]
pub(super) enum Tree {
    /// In sled's files.
    Sled(sled::Tree),
    /// In memory.
    Memory(Memory, Arc<str>),
}

/// Changes that are made all or none.
#[derive(Debug, Default)]
pub(super) struct Batch(Vec<(Value, Option<Value>)>);

impl Batch {
    /// A value is to stand under a key.
    pub(super) fn insert(&mut self, key: impl Into<Value>, value: impl Into<Value>) {
        self.0.push((key.into(), Some(value.into())));
    }

    /// Nothing is to stand under a key.
    pub(super) fn remove(&mut self, key: impl Into<Value>) {
        self.0.push((key.into(), None));
    }
}

impl Trees {
    /// A tree, made if it is not there.
    pub(super) fn open(&self, name: &str) -> io::Result<Tree> {
        match self {
            Self::Sled(db) => Ok(Tree::Sled(db.open_tree(name)?)),
            Self::Memory(memory) => {
                lock(&memory.0).now.entry(name.to_owned()).or_default();
                Ok(Tree::Memory(memory.clone(), name.into()))
            }
        }
    }

    /// Removes a tree, if it is there.
    pub(super) fn remove(&self, name: &str) -> io::Result<()> {
        match self {
            Self::Sled(db) => drop(db.drop_tree(name)?),
            Self::Memory(memory) => drop(lock(&memory.0).now.remove(name)),
        }
        Ok(())
    }

    /// The names of all trees.
    pub(super) fn names(&self) -> Vec<String> {
        match self {
            Self::Sled(db) => {
                db.tree_names().into_iter().filter_map(|name| String::from_utf8(name.to_vec()).ok()).collect()
            }
            Self::Memory(memory) => lock(&memory.0).now.keys().cloned().collect(),
        }
    }

    /// Hands everything that was written to the system; in memory, that makes it durable.
    pub(super) fn flush(&self) -> io::Result<()> {
        match self {
            Self::Sled(db) => drop(db.flush()?),
            Self::Memory(memory) => {
                let mut contents = lock(&memory.0);
                contents.durable = contents.now.clone();
            }
        }
        Ok(())
    }
}

impl Tree {
    /// Its name.
    pub(super) fn name(&self) -> Value {
        match self {
            Self::Sled(tree) => tree.name(),
            Self::Memory(_, name) => name.as_bytes().into(),
        }
    }

    /// The value under a key.
    pub(super) fn get(&self, key: impl AsRef<[u8]>) -> io::Result<Option<Value>> {
        match self {
            Self::Sled(tree) => Ok(tree.get(key)?),
            Self::Memory(memory, name) => Ok(memory.tree(name).get(key.as_ref()).cloned()),
        }
    }

    /// Puts a value under a key.
    pub(super) fn insert(&self, key: impl AsRef<[u8]>, value: impl Into<Value>) -> io::Result<()> {
        let mut batch = Batch::default();
        batch.insert(key.as_ref(), value);
        self.apply(batch)
    }

    /// Makes changes, all or none.
    pub(super) fn apply(&self, batch: Batch) -> io::Result<()> {
        match self {
            Self::Sled(tree) => {
                let mut changes = sled::Batch::default();
                for (key, value) in batch.0 {
                    match value {
                        Some(value) => changes.insert(key, value),
                        None => changes.remove(key),
                    }
                }
                Ok(tree.apply_batch(changes)?)
            }
            Self::Memory(memory, name) => {
                // A tree that was removed takes no more: its name may be another's by now.
                let mut contents = lock(&memory.0);
                let Some(rows) = contents.now.get_mut(&**name) else { return Ok(()) };
                for (key, value) in batch.0 {
                    match value {
                        Some(value) => drop(rows.insert(key, value)),
                        None => drop(rows.remove(&*key)),
                    }
                }
                Ok(())
            }
        }
    }

    /// The rows in a range, ascending by key.
    pub(super) fn range(&self, from: Bound<&[u8]>, to: Bound<&[u8]>) -> Rows {
        match self {
            Self::Sled(tree) => Rows::Sled(tree.range::<&[u8], _>((from, to))),
            Self::Memory(memory, name) => {
                let owned = |bound: Bound<&[u8]>| bound.map(Value::from);
                Rows::Memory(memory.tree(name), owned(from), owned(to))
            }
        }
    }

    /// All rows, ascending by key.
    pub(super) fn rows(&self) -> Rows {
        self.range(Bound::Unbounded, Bound::Unbounded)
    }
}

/// Rows of a tree. In memory: as they were when they were asked for.
pub(super) enum Rows {
    Sled(sled::Iter),
    Memory(SharedMap<Value, Value>, Bound<Value>, Bound<Value>),
}

impl Iterator for Rows {
    type Item = io::Result<(Value, Value)>;

    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Self::Sled(rows) => rows.next().map(|row| Ok(row?)),
            Self::Memory(rows, from, to) => {
                let bound = |bound: &Bound<Value>| bound.as_ref().map(|key| key.to_vec());
                let (low, high) = (bound(from), bound(to));
                let (key, value) = rows
                    .range::<[u8]>((low.as_ref().map(|key| key.as_slice()), high.as_ref().map(|key| key.as_slice())))
                    .next()
                    .map(|(key, value)| (key.clone(), value.clone()))?;
                *from = Bound::Excluded(key.clone());
                Some(Ok((key, value)))
            }
        }
    }
}

/// Trees by name, and the rows of each.
type Contents = BTreeMap<String, SharedMap<Value, Value>>;

/// Trees in memory. Clones are the same ones.
#[derive(Clone, Default)]
pub(super) struct Memory(Arc<Mutex<Both>>);

#[derive(Default)]
struct Both {
    now: Contents,
    /// As of the last flush.
    durable: Contents,
}

impl Memory {
    /// What is durable, in trees of their own.
    pub(super) fn durable(&self) -> Self {
        let durable = lock(&self.0).durable.clone();
        Self(Arc::new(Mutex::new(Both { now: durable.clone(), durable })))
    }

    /// All of it, as if everything that was written had become durable, in trees of their own.
    pub(super) fn written(&self) -> Self {
        let now = lock(&self.0).now.clone();
        Self(Arc::new(Mutex::new(Both { durable: now.clone(), now })))
    }

    fn tree(&self, name: &str) -> SharedMap<Value, Value> {
        lock(&self.0).now.get(name).cloned().unwrap_or_default()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Apply(usize, Vec<(u8, Option<u8>)>),
        Remove(usize),
        Flush,
        Range(usize, Bound<u8>, Bound<u8>),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let bound = || {
            prop_oneof![
                Just(Bound::Unbounded),
                (0..8_u8).prop_map(Bound::Included),
                (0..8_u8).prop_map(Bound::Excluded)
            ]
        };
        let change = (0..8_u8, proptest::option::of(any::<u8>()));
        prop::collection::vec(
            prop_oneof![
                4 => (0..2_usize, prop::collection::vec(change, 0..6)).prop_map(|(tree, changes)| Step::Apply(tree, changes)),
                1 => (0..2_usize).prop_map(Step::Remove),
                1 => Just(Step::Flush),
                2 => (0..2_usize, bound(), bound()).prop_map(|(tree, from, to)| Step::Range(tree, from, to)),
            ],
            0..24,
        )
    }

    const NAMES: [&str; 2] = ["a", "b"];

    fn rows(tree: &Tree, from: Bound<u8>, to: Bound<u8>) -> Vec<(Vec<u8>, Vec<u8>)> {
        let (from, to) = (from.map(|key| [key]), to.map(|key| [key]));
        let bound = |bound: &Bound<[u8; 1]>| -> Bound<Vec<u8>> { bound.as_ref().map(|key| key.to_vec()) };
        let (from, to) = (bound(&from), bound(&to));
        let rows = tree.range(from.as_ref().map(Vec::as_slice), to.as_ref().map(Vec::as_slice));
        rows.map(|row| row.map(|(key, value)| (key.to_vec(), value.to_vec())).unwrap()).collect()
    }

    /// Whether a range can be asked for at all: one that ends before it begins is nobody's.
    fn is_range(from: Bound<u8>, to: Bound<u8>) -> bool {
        use Bound::{Excluded, Included};
        match (from, to) {
            (Included(from), Included(to)) => from <= to,
            (Included(from) | Excluded(from), Included(to) | Excluded(to)) => from < to,
            _ => true,
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn in_memory_is_as_in_files(steps in steps()) {
            let folder = tempfile::tempdir().unwrap();
            let config = sled::Config::new().path(folder.path().join("db")).flush_every_ms(None);
            let both = [Trees::Sled(config.open().unwrap()), Trees::Memory(Memory::default())];
            for step in steps {
                let seen = both.each_ref().map(|trees| match &step {
                    Step::Apply(tree, changes) => {
                        let tree = trees.open(NAMES[*tree]).unwrap();
                        let mut batch = Batch::default();
                        for (key, value) in changes {
                            match value {
                                Some(value) => batch.insert(&[*key], &[*value]),
                                None => batch.remove(&[*key]),
                            }
                        }
                        tree.apply(batch).unwrap();
                        vec![rows(&tree, Bound::Unbounded, Bound::Unbounded)]
                    }
                    Step::Remove(tree) => {
                        trees.remove(NAMES[*tree]).unwrap();
                        Vec::new()
                    }
                    Step::Flush => {
                        trees.flush().unwrap();
                        Vec::new()
                    }
                    Step::Range(tree, from, to) if is_range(*from, *to) => {
                        let tree = trees.open(NAMES[*tree]).unwrap();
                        let single: Vec<_> = (0..8).map(|key| tree.get([key]).unwrap().map(|value| value.to_vec())).collect();
                        let named = (tree.name().to_vec(), vec![]);
                        vec![rows(&tree, *from, *to), single.into_iter().map(|row| (vec![], row.unwrap_or_default())).collect(), vec![named]]
                    }
                    Step::Range(..) => Vec::new(),
                });
                prop_assert_eq!(&seen[0], &seen[1]);
                let names = both.each_ref().map(|trees| {
                    let mut names = trees.names();
                    names.retain(|name| NAMES.contains(&&**name));
                    names.sort();
                    names
                });
                prop_assert_eq!(&names[0], &names[1]);
            }
        }
    }

    #[test]
    fn a_crash_leaves_what_was_flushed() {
        let memory = Memory::default();
        let trees = Trees::Memory(memory.clone());
        let tree = trees.open("a").unwrap();
        tree.insert(b"kept", b"1").unwrap();
        trees.flush().unwrap();
        tree.insert(b"kept", b"2").unwrap();
        tree.insert(b"lost", b"3").unwrap();
        trees.open("b").unwrap().insert(b"lost", b"4").unwrap();
        let left = Trees::Memory(memory.durable());
        // Whoever still has it writes to nothing that is left.
        tree.insert(b"late", b"5").unwrap();
        trees.flush().unwrap();
        let tree = left.open("a").unwrap();
        assert_eq!(tree.get(b"kept").unwrap().as_deref(), Some(b"1".as_slice()));
        assert_eq!((tree.rows().count(), left.names()), (1, vec!["a".to_owned()]));
    }
}
