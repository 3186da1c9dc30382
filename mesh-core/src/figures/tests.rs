use core::time::Duration;

use super::*;
use crate::{id::TenantId, limits::WATCHED_TENANTS_MAX};

crate::figures! {
    /// For tests.
    struct Work as "mesh_work" {
        /// Pieces that were done.
        done: Counter,
        /// Pieces that failed.
        failed: By<ErrorKind, Counter>,
        /// Pieces that failed, as far as any did.
        seen: Seen<ErrorKind, Counter>,
        /// How long a piece took.
        piece_seconds: By<Lane, Histogram>,
        /// Bytes that there are.
        room_bytes: Gauge,
    }
}

fn text(page: &Page) -> String {
    page.text(|tenant| (tenant == TenantId(1)).then(|| "acme".to_owned()))
}

fn lines<'a>(text: &'a str, start: &str) -> Vec<&'a str> {
    text.lines().filter(|line| line.starts_with(start)).collect()
}

#[test]
fn a_field_is_a_series_and_its_doc_line_the_help() {
    let work = Work::default();
    work.done.add(3);
    work.room_bytes.set(7);
    work.failed.of(ErrorKind::NotFound).count();
    work.seen.of(ErrorKind::Timeout).count();
    let mut page = Page::default();
    work.tell(&Labels::default(), &mut page);
    let text = text(&page);
    assert!(text.contains("# HELP mesh_work_done_total Pieces that were done.\n# TYPE mesh_work_done_total counter\n"));
    assert_eq!(lines(&text, "mesh_work_done_total"), ["mesh_work_done_total 3"]);
    assert_eq!(lines(&text, "mesh_work_room_bytes"), ["mesh_work_room_bytes 7"]);
    assert_eq!(lines(&text, "mesh_work_failed_total").len(), ErrorKind::ALL.len());
    let missed = "mesh_work_failed_total{kind=\"NotFound\",certainty=\"not_processed\"} 1";
    assert!(lines(&text, "mesh_work_failed").contains(&missed), "{text}");
    let seen = "mesh_work_seen_total{kind=\"Timeout\",certainty=\"maybe_processed\"} 1";
    assert_eq!(lines(&text, "mesh_work_seen"), [seen], "of the others there was nothing");
}

#[test]
fn names_and_labels_stand_in_order_and_the_same_numbers_give_the_same_text() {
    let (one, other) = (Work::default(), Work::default());
    let mut pages = [Page::default(), Page::default()];
    let labels = |name: &'static str| Labels::default().word("at", name);
    for (page, order) in pages.iter_mut().zip([["b", "a"], ["a", "b"]]) {
        for name in order {
            if name == "a" { &one } else { &other }.tell(&labels(name), page);
        }
    }
    assert_eq!(text(&pages[0]), text(&pages[1]));
    let names: Vec<_> =
        text(&pages[0]).lines().filter_map(|line| line.strip_prefix("# TYPE ").map(str::to_owned)).collect();
    assert!(names.is_sorted(), "{names:?}");
}

#[test]
fn labels_are_escaped_and_a_help_has_one_line() {
    let mut page = Page::default();
    let family = page.family("mesh_x", " two\nlines \\ and more", Kind::Gauge);
    family.add(Labels::default().text("path", "a\\b\"c\nd"), Value::Whole(1));
    assert_eq!(
        text(&page),
        "# HELP mesh_x two lines \\\\ and more\n# TYPE mesh_x gauge\nmesh_x{path=\"a\\\\b\\\"c\\nd\"} 1\n"
    );
}

#[test]
fn a_histogram_counts_within_each_bound_and_adds_up() {
    let spread = Histogram::default();
    for nanos in [0, 1, 64_000, 64_001, 128_000, 128_001, 34_000_000_000, u64::MAX / 4] {
        spread.took(Duration::from_nanos(nanos));
    }
    let mut page = Page::default();
    spread.tell(&Labels::default().word("lane", "bulk"), page.family("mesh_t_seconds", "t", Kind::Histogram));
    let text = text(&page);
    let buckets: Vec<(&str, u64)> = lines(&text, "mesh_t_seconds_bucket")
        .into_iter()
        .map(|line| line.rsplit_once(' ').expect("a number"))
        .map(|(series, number)| (series, number.parse().expect("a whole one")))
        .collect();
    assert_eq!(buckets.len(), BUCKETS + 1);
    assert!(buckets.iter().map(|(_, number)| number).is_sorted(), "each bound has what those below it have");
    let bucket = |bound: &str| {
        let name = format!("mesh_t_seconds_bucket{{lane=\"bulk\",le=\"{bound}\"}}");
        buckets.iter().find(|(series, _)| *series == name).map(|(_, number)| *number)
    };
    assert_eq!(["0.000064", "0.000128", "0.000256", "33.554432", "+Inf"].map(bucket), [3, 5, 6, 6, 8].map(Some));
    assert_eq!(lines(&text, "mesh_t_seconds_count"), ["mesh_t_seconds_count{lane=\"bulk\"} 8"]);
}

#[test]
fn a_bucket_is_the_first_whose_bound_is_not_less() {
    for bucket in 0..BUCKETS {
        assert_eq!(bucket_of(bound_ns(bucket)), bucket);
        assert_eq!(bucket_of(bound_ns(bucket) + 1), bucket + 1);
    }
    assert_eq!((bucket_of(0), bucket_of(u64::MAX)), (0, BUCKETS));
}

#[test]
fn seconds_have_no_more_digits_than_there_are() {
    let spent = |nanos| {
        let mut page = Page::default();
        Spent(Duration::from_nanos(nanos)).tell(&Labels::default(), page.family("mesh_s_seconds", "s", Kind::Counter));
        text(&page).lines().last().map(str::to_owned)
    };
    for (nanos, shown) in [(0, "0"), (1, "0.000000001"), (1_500_000_000, "1.5"), (2_000_000_000, "2")] {
        assert_eq!(spent(nanos), Some(format!("mesh_s_seconds_total {shown}")));
    }
}

#[test]
fn tenants_are_counted_apart_and_beyond_the_limit_together() {
    let figures = PerTenant::<Work>::default();
    let tenant = |number| Some(TenantId(number));
    figures.of(None).done.add(5);
    for number in 1..=WATCHED_TENANTS_MAX as u64 {
        figures.of(tenant(number)).done.add(number);
        figures.of(tenant(number)).done.add(100);
    }
    let mut page = Page::default();
    figures.tell(&Labels::default(), &mut page);
    let full = text(&page);
    assert_eq!(lines(&full, "mesh_work_done_total").len(), WATCHED_TENANTS_MAX + 2);
    for number in 0..3 {
        // Numbers far away, such as a recovery gives.
        figures.of(tenant(u64::MAX - number)).done.count();
        figures.of(tenant(1 << 40)).done.count();
    }
    let mut page = Page::default();
    figures.tell(&Labels::default(), &mut page);
    let text = text(&page);
    assert_eq!(lines(&text, "mesh_work_done_total").len(), WATCHED_TENANTS_MAX + 2, "there are no more series");
    for (name, number) in [("", 5), ("acme", 101), ("tenant-64", 164), ("other", 6)] {
        let line = format!("mesh_work_done_total{{tenant=\"{name}\"}} {number}");
        assert!(text.lines().any(|known| known == line), "{line} in {text}");
    }
}

#[test]
fn a_tenant_whose_name_is_that_of_all_further_ones_is_called_by_its_number() {
    let figures = PerTenant::<Work>::default();
    figures.of(Some(TenantId(7))).done.count();
    let mut page = Page::default();
    figures.tell(&Labels::default(), &mut page);
    let text = page.text(|_| Some("other".to_owned()));
    assert!(text.contains("mesh_work_done_total{tenant=\"tenant-7\"} 1\n"), "{text}");
}

#[test]
fn two_threads_that_bring_one_tenant_find_one_slot() {
    let figures = PerTenant::<Work>::default();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..200).for_each(|at| figures.of(Some(TenantId(at % 20))).done.count()));
        }
    });
    let mut page = Page::default();
    figures.tell(&Labels::default(), &mut page);
    let series = page.get("mesh_work_done").expect("a family").series();
    let mut numbers: Vec<_> =
        series.map(|(_, value)| value.clone()).filter(|value| *value != Value::Whole(0)).collect();
    numbers.dedup();
    assert_eq!(numbers, [Value::Whole(40)]);
}

#[test]
fn pages_are_joined_by_adding_what_is_said_under_the_same_labels() {
    let work = Work::default();
    work.done.add(2);
    work.piece_seconds.of(Lane::Bulk).took(Duration::from_millis(1));
    let mut page = Page::default();
    for _ in 0..2 {
        let mut other = Page::default();
        work.tell(&Labels::default(), &mut other);
        page.join(other);
    }
    let text = text(&page);
    assert!(text.contains("mesh_work_done_total 4\n"));
    assert!(text.contains("mesh_work_piece_seconds_count{lane=\"bulk\"} 2\n"));
    assert!(text.contains("mesh_work_piece_seconds_sum{lane=\"bulk\"} 0.002\n"));
}

#[test]
fn a_family_without_a_number_is_named() {
    let mut page = Page::default();
    Work::declare(&mut page);
    let text = text(&page);
    assert_eq!(text.lines().count(), 2 * 5, "{text}");
    assert!(text.lines().all(|line| line.starts_with("# ")));
}

#[test]
fn numbers_of_a_family_are_put_together_by_their_labels() {
    let mut page = Page::default();
    let work = Work::default();
    work.done.add(3);
    work.piece_seconds.of(Lane::Bulk).took(Duration::from_micros(64));
    work.piece_seconds.of(Lane::Control).took(Duration::from_millis(34_000));
    for (at, tenant) in [("here", 1), ("here", 2), ("there", 1)] {
        let labels = Labels::default().text("at", at).with("tenant", Label::Tenant(TenantId(tenant)));
        work.tell(&labels, &mut page);
    }
    assert_eq!(page.together("mesh_work_done", &[]), Some(Value::Whole(9)));
    assert_eq!(page.together("mesh_work_done", &[("at", "here")]), Some(Value::Whole(6)));
    assert_eq!(page.together("mesh_work_done", &[("at", "here"), ("lane", "bulk")]), None);
    assert_eq!(page.together("mesh_work_none", &[]), None);
    let Some(Value::Spread { buckets, sum_ns }) = page.together("mesh_work_piece_seconds", &[("at", "here")]) else {
        panic!("no histogram")
    };
    assert_eq!((buckets[0], buckets[BUCKETS], buckets.iter().sum::<u64>()), (2, 2, 4));
    assert_eq!(sum_ns, 2 * (64_000 + 34_000_000_000));
    let bounds = [0, 1, BUCKETS - 1].map(|bucket| bucket_bound(bucket).map(|bound| bound.as_micros()));
    assert_eq!((bounds, bucket_bound(BUCKETS)), ([Some(64), Some(128), Some(33_554_432)], None));
}
