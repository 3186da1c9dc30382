//! The names behind buckets' numbers. Owns nothing that cannot be looked up again.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use mesh_core::id::BucketId;

/// A bounded number of names; the one looked up longest ago goes first.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Names {
    names: BTreeMap<BucketId, Arc<str>>,
    order: VecDeque<BucketId>,
}

impl Names {
    pub(super) fn find(&self, id: BucketId) -> Option<&str> {
        self.names.get(&id).map(|name| &**name)
    }

    pub(super) fn keep(&mut self, id: BucketId, name: Arc<str>) {
        if self.names.insert(id, name).is_some() {
            self.order.retain(|other| *other != id);
        }
        self.order.push_back(id);
        while self.order.len() > NAMES_MAX {
            if let Some(oldest) = self.order.pop_front() {
                self.names.remove(&oldest);
            }
        }
    }

    /// In order of their keeping.
    pub(super) fn iter(&self) -> impl Iterator<Item = (BucketId, &str)> {
        self.order.iter().filter_map(|id| self.find(*id).map(|name| (*id, name)))
    }
}

/// Names remembered at most.
pub(super) const NAMES_MAX: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drops_the_name_looked_up_longest_ago_whatever_its_number() {
        let mut names = Names::default();
        for id in 1..=NAMES_MAX as u64 {
            names.keep(BucketId(id), format!("b{id}").into());
        }
        names.keep(BucketId(1), "b1".into());
        names.keep(BucketId(0), "b0".into());
        assert_eq!([0, 1, 2, 3].map(|id| names.find(BucketId(id))), [Some("b0"), Some("b1"), None, Some("b3")]);
        assert_eq!(names.iter().count(), NAMES_MAX);
    }
}
