use std::collections::BTreeSet;

use mesh_core::meta::Listing;
use proptest::prelude::*;

use super::*;

/// The listing by its definition: every line, sorted, cut.
fn reference(
    keys: &BTreeSet<String>,
    prefix: &str,
    delimiter: Option<&str>,
    after: &str,
    limit: usize,
) -> (Vec<String>, Vec<String>, Option<String>) {
    let mut lines: BTreeSet<(String, bool)> = BTreeSet::new();
    for key in keys.iter().filter(|key| key.starts_with(prefix)) {
        let rest = &key[prefix.len()..];
        let cut = delimiter.filter(|delimiter| !delimiter.is_empty());
        let cut = cut.and_then(|delimiter| rest.find(delimiter).map(|at| at + delimiter.len()));
        match cut {
            Some(end) => lines.insert((key[..prefix.len() + end].to_owned(), true)),
            None => lines.insert((key.clone(), false)),
        };
    }
    let lines: Vec<_> = lines.into_iter().filter(|(line, _)| line.as_str() > after).collect();
    let page = &lines[..limit.min(lines.len())];
    let pick = |rolled| page.iter().filter(|line| line.1 == rolled).map(|line| line.0.clone()).collect();
    let next = (limit > 0 && lines.len() > limit).then(|| page[limit - 1].0.clone());
    (pick(false), pick(true), next)
}

fn filled(keys: &BTreeSet<String>) -> Group {
    let mut group = Group::namespace();
    let first = group.open_block(1);
    for (count, key) in keys.iter().enumerate() {
        assert!(group.once(&put(key, object(after(first, count as u64), 1, 1))).is_ok());
    }
    // A neighbour's keys must never show.
    let other = BucketRef { id: BucketId(8), ..bucket() };
    let Command::Object(_, ObjectCommand::PutObject { proposer, key, row, precondition, quota_bytes, .. }) =
        put("a/b", object(after(first, 4000), 1, 1))
    else {
        panic!("not a put")
    };
    assert!(
        group
            .once(&Command::Object(other, ObjectCommand::PutObject { proposer, key, row, precondition, quota_bytes }))
            .is_ok()
    );
    group
}

fn list(group: &Group, prefix: &str, delimiter: Option<&str>, after: &str, limit: u32) -> Arc<Listing> {
    let question = Query::List {
        bucket: bucket(),
        prefix: prefix.to_owned(),
        delimiter: delimiter.map(str::to_owned),
        after: after.to_owned(),
        limit,
    };
    match group.query(&question) {
        Ok(MetaAnswer::Listing(listing)) => listing,
        other => panic!("no listing: {other:?}"),
    }
}

fn lines(listing: &Listing) -> (Vec<String>, Vec<String>, Option<String>) {
    let keys = listing.entries.iter().map(|entry| entry.key.clone()).collect();
    (keys, listing.prefixes.clone(), listing.next.clone())
}

fn text() -> impl Strategy<Value = String> {
    proptest::collection::vec(
        prop_oneof![Just('/'), Just('a'), Just('b'), Just('\0'), Just('é'), Just('\u{10ffff}')],
        0..7,
    )
    .prop_map(String::from_iter)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn lists_as_its_definition_does(
        keys in proptest::collection::btree_set(text().prop_filter("keys are not empty", |key| !key.is_empty()), 0..40),
        prefix in text(),
        delimiter in proptest::option::of(prop_oneof![Just("/"), Just("a/"), Just("é"), Just("")]),
        after in text(),
        limit in 0_u32..12,
    ) {
        let group = filled(&keys);
        let prefix: String = prefix.chars().take(2).collect();
        let listing = list(&group, &prefix, delimiter, &after, limit);
        prop_assert_eq!(lines(&listing), reference(&keys, &prefix, delimiter, &after, limit as usize));
    }

    #[test]
    fn pages_join_into_the_whole(
        keys in proptest::collection::btree_set(text().prop_filter("keys are not empty", |key| !key.is_empty()), 0..40),
        delimiter in proptest::option::of(Just("/")),
        limit in 1_u32..6,
    ) {
        let group = filled(&keys);
        let (mut entries, mut prefixes) = (Vec::new(), Vec::new());
        let mut after = Some(String::new());
        while let Some(from) = after {
            let page = list(&group, "", delimiter, &from, limit);
            let (more_entries, more_prefixes, next) = lines(&page);
            entries.extend(more_entries);
            prefixes.extend(more_prefixes);
            after = next;
        }
        let (all_entries, all_prefixes, _) = reference(&keys, "", delimiter, "", usize::MAX);
        prop_assert_eq!((entries, prefixes), (all_entries, all_prefixes));
    }
}

#[test]
fn leaves_a_common_prefix_by_one_seek() {
    use std::cell::Cell;

    use crate::metadata::{Table, table::Visit};

    struct Counted<'t>(&'t MemoryTable, Cell<usize>);
    impl Table for Counted<'_> {
        fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, mesh_core::Error> {
            self.0.get(key)
        }
        fn scan(&self, from: &[u8], to: &[u8], visit: Visit<'_>) -> Result<(), mesh_core::Error> {
            self.0.scan(from, to, &mut |key, value| {
                self.1.set(self.1.get() + 1);
                visit(key, value)
            })
        }
    }

    let keys = (0..3).flat_map(|dir| (0..500).map(move |file| format!("{dir}/{file:03}"))).collect();
    let group = filled(&keys);
    let counted = Counted(&group.table, Cell::new(0));
    let question = Query::List {
        bucket: bucket(),
        prefix: String::new(),
        delimiter: Some("/".into()),
        after: "0/250".into(),
        limit: 10,
    };
    let Ok(MetaAnswer::Listing(listing)) = query(&counted, NAMESPACE, &question) else { panic!("no listing") };
    assert_eq!(listing.prefixes, ["1/", "2/"]);
    assert_eq!(counted.1.get(), 2, "rows visited");
}

#[test]
fn a_page_of_long_keys_fits_into_one_answer() {
    let mut group = Group::namespace();
    let first = group.open_block(1);
    for count in 0..1000 {
        let row = ObjectRow { etag: "e".repeat(128), ..object(after(first, count), u64::MAX >> 1, u64::MAX >> 1) };
        let put = put(&format!("{count:04}{}", "k".repeat(1020)), row);
        assert!(group.once(&put).is_ok());
    }
    let (mut after, mut seen, mut pages) = (String::new(), 0, 0);
    loop {
        let page = list(&group, "", None, &after, 1000);
        assert!(mesh_core::meta::encode(&MetaAnswer::Listing(Arc::clone(&page))).is_ok());
        seen += page.entries.len();
        pages += 1;
        match &page.next {
            Some(next) => after.clone_from(next),
            None => break,
        }
    }
    assert_eq!((seen, pages), (1000, 2));
}
