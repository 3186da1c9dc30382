//! The cache of bucket rows. Owns nothing that cannot be asked again.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use mesh_core::meta::BucketRow;

/// Bucket rows by name, the oldest going first when there are too many.
#[derive(Default)]
pub(super) struct Buckets {
    rows: BTreeMap<Arc<str>, Arc<BucketRow>>,
    /// Names in the order they came; one that was forgotten meanwhile is skipped.
    order: VecDeque<Arc<str>>,
}

impl Buckets {
    pub(super) fn find(&self, name: &str) -> Option<Arc<BucketRow>> {
        self.rows.get(name).cloned()
    }

    pub(super) fn forget(&mut self, name: &str) {
        if self.rows.remove(name).is_some() {
            self.order.retain(|other| &**other != name);
        }
    }

    pub(super) fn keep(&mut self, row: &Arc<BucketRow>) {
        let name = row.bucket.name.clone();
        if self.rows.insert(name.clone(), row.clone()).is_none() {
            self.order.push_back(name);
        }
        while self.rows.len() > BUCKETS_MAX {
            let Some(oldest) = self.order.pop_front() else { break };
            self.rows.remove(&oldest);
        }
    }
}

/// Bucket rows kept at most.
const BUCKETS_MAX: usize = 4096;

#[cfg(test)]
mod tests {
    use mesh_core::{
        id::{BucketId, GroupId, TenantId},
        meta::{BucketRef, BucketSettings},
        time::UnixMillis,
    };

    use super::*;

    fn row(number: u64) -> Arc<BucketRow> {
        let name = format!("b{number}").into();
        let bucket = BucketRef { id: BucketId(number), name, tenant: TenantId(1), group: GroupId(1) };
        Arc::new(BucketRow { bucket, created: UnixMillis(0), settings: BucketSettings::default() })
    }

    #[test]
    fn keeps_a_bounded_number_and_drops_the_oldest() {
        let mut buckets = Buckets::default();
        for number in 0..=BUCKETS_MAX as u64 {
            buckets.keep(&row(number));
            buckets.keep(&row(number));
        }
        assert_eq!((buckets.rows.len(), buckets.order.len()), (BUCKETS_MAX, BUCKETS_MAX));
        assert_eq!(buckets.find("b0"), None);
        assert_eq!(buckets.find("b1"), Some(row(1)));
        buckets.forget("b1");
        assert_eq!(buckets.find("b1"), None);
        assert_eq!((buckets.rows.len(), buckets.order.len()), (BUCKETS_MAX - 1, BUCKETS_MAX - 1));
    }
}
