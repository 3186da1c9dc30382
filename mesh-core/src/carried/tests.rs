use proptest::prelude::*;

use super::*;

/// Carries pages until there are no more; the mark of the last one.
fn carry(from: &Carried, to: &mut Carried, mut since: Option<Mark>) -> Option<Mark> {
    loop {
        let page = from.page(since);
        assert!(page.encode().is_ok(), "a page fits");
        to.restore(&page).expect("it was given by such a map");
        since = Some(page.mark);
        if !page.more {
            return since;
        }
    }
}

fn same(left: &Carried, right: &Carried) -> bool {
    left.iter().eq(right.iter())
}

#[test]
fn a_page_brings_only_what_changed_since_the_last_one() {
    let mut here = Carried::new(3);
    for number in 0..10_000_u32 {
        here.insert(&number.to_be_bytes(), b"value").expect("small");
    }
    let mut there = Carried::new(3);
    let mark = carry(&here, &mut there, None);
    assert!(same(&here, &there) && there.len() == 10_000);

    here.insert(&5_u32.to_be_bytes(), b"other").expect("small");
    assert!(here.remove(&6_u32.to_be_bytes()));
    assert!(!here.remove(&6_u32.to_be_bytes()));
    let page = here.page(mark);
    assert_eq!((page.len(), page.more), (2, false));
    there.restore(&page).expect("it was given by such a map");
    assert!(same(&here, &there));
    assert_eq!(here.page(Some(page.mark)).len(), 0);
}

#[test]
fn a_mark_from_before_forgotten_removals_begins_anew() {
    let mut here = Carried::new(1);
    let mark = Some(here.page(None).mark);
    for number in 0..2 * REMOVED_MIN as u64 {
        here.insert(&number.to_be_bytes(), b"").expect("small");
        here.remove(&number.to_be_bytes());
    }
    here.insert(b"left", b"over").expect("small");
    assert!(here.entries.len() <= REMOVED_MIN + 1, "removals are bounded");
    let mut there = Carried::new(1);
    there.insert(b"stale", b"").expect("small");
    assert_eq!(here.page(mark).since, None);
    carry(&here, &mut there, mark);
    assert!(same(&here, &there));
}

#[test]
fn large_entries_make_short_pages_and_over_the_limit_they_are_refused() {
    let mut here = Carried::new(1);
    let value = vec![7; CARRIED_ENTRY_BYTES_MAX - 1];
    for number in 0..20_u8 {
        here.insert(&[number], &value).expect("as long as may be");
    }
    assert_eq!(here.insert(&[0, 0], &value).map_err(|error| error.kind()), Err(ErrorKind::TooLarge));
    let mut there = Carried::new(1);
    carry(&here, &mut there, None);
    assert!(same(&here, &there));
}

#[test]
fn pages_of_another_format_change_nothing() {
    let mut here = Carried::new(1);
    here.insert(b"key", b"value").expect("small");
    let mut newer = Carried::new(2);
    newer.insert(b"mine", b"").expect("small");
    let error = newer.restore(&here.page(None)).expect_err("format 1");
    assert!(error.to_string().contains("[version=1 supported=2]"), "{error}");
    assert_eq!(newer.iter().collect::<Vec<_>>(), [(&b"mine"[..], &b""[..])]);
}

proptest! {
    /// Changes at any time between pages: the copy ends up the same, and the index has every entry once.
    #[test]
    fn a_copy_that_is_made_while_the_original_changes_is_the_same(
        rounds in prop::collection::vec(prop::collection::vec((0..40_u8, any::<Option<u8>>()), 0..30), 1..20),
    ) {
        let (mut here, mut there) = (Carried::new(1), Carried::new(1));
        let mut mark = None;
        for changes in rounds {
            for (key, value) in changes {
                match value {
                    Some(value) => here.insert(&[key], &[value]).expect("small"),
                    None => drop(here.remove(&[key])),
                }
            }
            let page = here.page(mark);
            there.restore(&page).expect("it was given by such a map");
            mark = Some(page.mark);
            prop_assert_eq!(here.changes.len(), here.entries.len());
        }
        carry(&here, &mut there, mark);
        prop_assert!(same(&here, &there));
    }

    /// What comes over a link is refused or taken, never the end of the process.
    #[test]
    fn any_page_is_borne(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        if let Ok(page) = Snapshot::decode(&bytes) {
            drop(Carried::new(page.version).restore(&page));
        }
    }
}
