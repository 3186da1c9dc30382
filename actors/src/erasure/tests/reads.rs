use super::*;

#[test]
fn reads_the_data_shards_and_joins_them() {
    let mut bench = Bench::whole();
    assert_eq!(bench.ask(read(&[]), b""), [get(1, 1, 0, 1000), get(2, 3, 1, 1000)]);
    assert_eq!(bench.erasure.wake_at(), Some(Instant(1020 * MS)));
    assert_eq!(bench.answer(2, brings(1)), []);
    assert_eq!(bench.answer(1, brings(0)), [decode(3, &[1, 0])]);
    assert_eq!((bench.erasure.wake_at(), bench.erasure.in_flight()), (None, 1));
    assert_eq!(bench.done(3, stripe_bytes()), [found()]);
    assert_eq!(bench.erasure.in_flight(), 0);
}

#[test]
fn reads_from_where_the_stripe_was_placed_without_the_avoided_drives() {
    let mut bench = Bench::whole();
    assert_eq!(bench.ask(read(&[1]), b""), [get(1, 3, 0, 1000), get(2, 5, 1, 1000)]);
}

#[test]
fn hedges_after_the_delay_and_survives_late_stragglers() {
    let mut bench = Bench::whole();
    bench.ask(read(&[]), b"");
    assert_eq!(bench.answer(2, brings(1)), []);
    assert_eq!(bench.on(Event::Wake), [], "too early");
    let wake = bench.erasure.wake_at().unwrap();
    bench.now = wake;
    let mut hedge = get(3, 5, 2, 0);
    if let Effect::Call { request, .. } = &mut hedge {
        request.deadline = wake + core::time::Duration::from_secs(10);
    }
    assert_eq!(bench.on(Event::Wake), [hedge]);
    assert_eq!(bench.erasure.wake_at(), None, "there is nobody left to ask");
    assert_eq!(bench.answer(3, brings(2)), [decode(4, &[1, 2])]);
    assert_eq!(bench.answer(1, brings(0)), [], "while decoding");
    assert_eq!(bench.done(4, stripe_bytes()), [found()]);

    bench.ask(read(&[]), b"");
    bench.now = bench.erasure.wake_at().unwrap();
    bench.on(Event::Wake);
    bench.answer(5, brings(0));
    bench.answer(7, brings(2));
    bench.done(8, stripe_bytes());
    assert_eq!(bench.erasure.in_flight(), 1);
    assert_eq!(bench.answer(6, fails(ErrorKind::Timeout)), [], "after the reply");
    assert_eq!(bench.erasure.in_flight(), 0);
}

#[test]
fn asks_another_at_once_when_a_shard_fails() {
    for kind in [ErrorKind::NotFound, ErrorKind::Corrupt, ErrorKind::Unreachable, ErrorKind::Overloaded] {
        let mut bench = Bench::whole();
        bench.ask(read(&[]), b"");
        assert_eq!(bench.answer(1, fails(kind)), [get(3, 5, 2, 1000)]);
        assert_eq!(bench.erasure.wake_at(), None);
        assert_eq!(bench.answer(3, brings(2)), []);
        assert_eq!(bench.answer(2, brings(1)), [decode(4, &[2, 1])]);
    }
}

#[test]
fn asks_drives_that_are_down_or_suspected_last() {
    let mut bench = Bench::new(spec(&[1]));
    assert_eq!(bench.ask(read(&[]), b""), [get(1, 3, 1, 1000), get(2, 5, 2, 1000)]);
    assert_eq!(bench.answer(1, fails(ErrorKind::DriveFailed)), [get(3, 1, 0, 1000)]);
    assert_eq!(bench.answer(3, brings(0)), []);
    assert_eq!(bench.answer(2, brings(2)), [decode(4, &[0, 2])]);
    bench.done(4, stripe_bytes());
    assert_eq!(bench.ask(read(&[]), b"")[0], get(5, 5, 2, 1000), "drive 3 is suspected");

    let mut full = spec(&[]);
    full.drives.insert(DriveId(1), DriveState::Full);
    assert_eq!(Bench::new(full).ask(read(&[]), b"")[0], get(1, 1, 0, 1000), "a full drive is read");
}

#[test]
fn shards_that_contradict_the_layout_or_themselves_are_corrupt() {
    let other_code = Code { data: 1, parity: 2 };
    let mut huge = brings(0).unwrap();
    huge.payload = Buf::zeroed(mesh_core::limits::PAYLOAD_BYTES_MAX + 1);
    let odd = [brings_of(0, other_code, 6), brings_of(0, CODE, 9), brings_of(0, CODE, 0), Ok(huge), ok()];
    for outcome in odd {
        let mut bench = Bench::whole();
        bench.ask(read(&[]), b"");
        assert_eq!(bench.answer(1, outcome), [get(3, 5, 2, 1000)]);
    }
}

#[test]
fn decodes_the_first_k_shards_that_agree() {
    let mut bench = Bench::whole();
    bench.ask(read(&[]), b"");
    assert_eq!(bench.answer(1, brings_of(0, CODE, 5)), []);
    assert_eq!(bench.answer(2, brings(1)), [get(3, 5, 2, 1000)], "they disagree: a third decides");
    assert_eq!(bench.answer(3, brings(2)), [decode(4, &[1, 2])]);

    let mut bench = Bench::whole();
    bench.ask(read(&[]), b"");
    bench.answer(1, brings_of(0, CODE, 5));
    bench.answer(2, brings(1));
    let refused = bench.answer(3, brings_of(2, CODE, 7));
    assert_refused(&refused, ErrorKind::Lost, "too few shards of the stripe are left");
}

#[test]
fn says_what_is_missing_when_too_few_shards_are_left() {
    let mut bench = Bench::whole();
    bench.ask(read(&[]), b"");
    bench.answer(1, fails(ErrorKind::NotFound));
    bench.answer(3, fails(ErrorKind::Corrupt));
    assert_eq!(bench.erasure.in_flight(), 1);
    bench.answer(2, brings(1));

    let mut bench = Bench::whole();
    bench.ask(read(&[]), b"");
    assert_eq!(bench.answer(1, fails(ErrorKind::NotFound)), [get(3, 5, 2, 1000)]);
    let refused = bench.answer(3, fails(ErrorKind::Corrupt));
    assert_refused(&refused, ErrorKind::Lost, "too few shards of the stripe are left");
    assert_eq!(bench.answer(2, brings(1)), []);
    assert_eq!((bench.erasure.in_flight(), bench.erasure.wake_at()), (0, None));
}

#[test]
fn a_stripe_is_lost_once_no_drive_that_is_silent_could_save_it_and_before_that_it_is_not() {
    let mut bench = Bench::whole();
    bench.ask(read(&[]), b"");
    assert_eq!(bench.answer(1, fails(ErrorKind::NotFound)), [get(3, 5, 2, 1000)]);
    let lost = bench.answer(2, fails(ErrorKind::NotFound));
    assert_refused(&lost, ErrorKind::Lost, "too few shards of the stripe are left");
    assert_eq!(bench.answer(3, brings(2)), []);

    bench.ask(read(&[]), b"");
    bench.answer(4, fails(ErrorKind::NotFound));
    let away = bench.answer(5, fails(ErrorKind::Timeout));
    assert_refused(
        &away,
        ErrorKind::TooFewShards,
        "it needs 2 of its 3 shards; 0 were read, 1 are on drives that cannot be reached, 1 had not come yet, 1 are not there",
    );
    assert_eq!(bench.answer(6, brings(2)), []);
}

#[test]
fn what_lay_on_drives_that_were_declared_lost_does_not_come_back() {
    let mut lost = spec(&[]);
    for drive in [1, 3] {
        lost.drives.insert(DriveId(drive), DriveState::Lost);
    }
    let mut bench = Bench::new(lost);
    assert_refused(&bench.ask(read(&[]), b""), ErrorKind::Lost, "too few shards of the stripe are left");
}

#[test]
fn reports_shards_that_do_not_decode_as_corruption() {
    let mut bench = Bench::whole();
    bench.ask(read(&[]), b"");
    bench.answer(1, brings(0));
    bench.answer(2, brings(1));
    let outcome = Err(Error::invalid("a shard's length is not that of this stripe's shards"));
    assert_refused(&bench.on(Event::Done { work: Token(3), outcome }), ErrorKind::Corrupt, "do not fit together");
}

#[test]
fn asks_where_a_shard_may_have_been_moved_to_once_it_is_not_where_it_was_put() {
    let mut bench = Bench::new(moved());
    assert_eq!(bench.ask(read(&[]), b""), [get(1, 1, 0, 1000), get(2, 3, 1, 1000)]);
    // What was not asked for yet goes first.
    assert_eq!(bench.answer(1, fails(ErrorKind::NotFound)), [get(3, 5, 2, 1000)]);
    assert_eq!(bench.answer(2, fails(ErrorKind::NotFound)), [get(4, 2, 0, 1000)]);
    assert_eq!(bench.answer(4, brings(0)), []);
    assert_eq!(bench.answer(3, brings(2)), [decode(5, &[0, 2])]);
}

#[test]
fn a_shard_is_missing_once_no_drive_that_may_have_it_has_given_it() {
    let mut bench = Bench::new(moved());
    bench.ask(read(&[]), b"");
    bench.answer(1, fails(ErrorKind::NotFound));
    assert_eq!(bench.answer(2, fails(ErrorKind::NotFound)), [get(4, 2, 0, 1000)]);
    assert_eq!(bench.answer(3, fails(ErrorKind::NotFound)), [get(5, 4, 1, 1000)], "the third shard is missing");
    // A drive that does not answer may yet have it, whatever another said.
    let away = bench.answer(4, fails(ErrorKind::Unreachable));
    assert_refused(&away, ErrorKind::TooFewShards, "1 are on drives that cannot be reached, 1 had not come yet, 1 are");

    bench.ask(read(&[]), b"");
    for call in [6, 7] {
        bench.answer(call, fails(ErrorKind::NotFound));
    }
    bench.answer(8, fails(ErrorKind::NotFound));
    let lost = bench.answer(9, fails(ErrorKind::NotFound));
    assert_refused(&lost, ErrorKind::Lost, "too few shards of the stripe are left");
}

#[test]
fn of_the_drives_that_may_have_a_shard_the_soundest_is_asked_first() {
    let mut half = moved();
    half.drives.insert(DriveId(1), DriveState::Down);
    half.drives.insert(DriveId(3), DriveState::Lost);
    let mut bench = Bench::new(half);
    assert_eq!(bench.ask(read(&[]), b""), [get(1, 2, 0, 1000), get(2, 4, 1, 1000)]);
    assert_eq!(bench.answer(1, fails(ErrorKind::NotFound)), [get(3, 5, 2, 1000)]);
    assert_eq!(bench.answer(3, fails(ErrorKind::Corrupt)), [get(4, 1, 0, 1000)]);
}
