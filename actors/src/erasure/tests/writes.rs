use super::*;

#[test]
fn writes_k_plus_m_shards_in_distinct_domains_and_answers_when_all_are_durable() {
    let mut bench = Bench::whole();
    assert_eq!(bench.write(), [put(2, 1, 0, 1000), put(3, 3, 1, 1000), put(4, 5, 2, 1000)]);
    assert_eq!(bench.erasure.in_flight(), 3);
    assert_eq!(bench.answer(3, ok()), []);
    assert_eq!(bench.answer(2, ok()), []);
    assert_eq!(bench.erasure.in_flight(), 1);
    assert_eq!(bench.answer(4, ok()), [placed(&[], false)]);
    assert_eq!(bench.erasure.in_flight(), 0);
}

#[test]
fn hands_the_payload_to_the_coder_unshared() {
    let mut bench = Bench::whole();
    let mut effects = bench.ask(StripeOp::Write(target()), b"stripe");
    let Some(Effect::Start { job: Work::Compute(ComputeJob::Encode { mut bytes, .. }), .. }) = effects.pop() else {
        panic!("no work")
    };
    assert!(bytes.as_mut().is_some());
}

#[test]
fn avoids_drives_that_are_not_up_and_names_only_those_it_would_have_used() {
    let mut bench = Bench::new(spec(&[1, 6]));
    assert_eq!(bench.write(), [put(2, 3, 0, 1000), put(3, 5, 1, 1000), put(4, 2, 2, 1000)]);
    for call in [2, 3] {
        assert_eq!(bench.answer(call, ok()), []);
    }
    assert_eq!(bench.answer(4, ok()), [placed(&[1], false)], "drive 6 would not have been used anyway");

    let mut full = spec(&[]);
    full.drives.insert(DriveId(1), DriveState::Full);
    assert_eq!(Bench::new(full).write()[0], put(2, 3, 0, 1000), "a full drive takes no shard");
}

#[test]
fn says_so_when_shards_share_a_domain() {
    let mut bench = Bench::new(spec(&[1, 2]));
    assert_eq!(bench.write(), [put(2, 3, 0, 1000), put(3, 5, 1, 1000), put(4, 4, 2, 1000)]);
    bench.answer(2, ok());
    bench.answer(3, ok());
    assert_eq!(bench.answer(4, ok()), [placed(&[1, 2], true)]);
}

#[test]
fn substitutes_a_failed_drive_and_leaves_what_is_superfluous_where_it_is() {
    let mut bench = Bench::whole();
    bench.write();
    // Shard 1 is durable on drive 3, shard 2 under way to drive 5, when drive 1 fails with shard 0.
    assert_eq!(bench.answer(3, ok()), []);
    bench.pass(core::time::Duration::from_millis(7));
    let moved = [put(5, 3, 0, 1007), put(6, 5, 1, 1007), put(7, 2, 2, 1007)];
    assert_eq!(bench.answer(2, fails(ErrorKind::DriveFailed)), moved);
    assert_eq!(bench.answer(5, ok()), []);
    assert_eq!(bench.answer(6, ok()), []);
    assert_eq!(bench.answer(7, ok()), [placed(&[1], false)]);
    assert_eq!(bench.erasure.in_flight(), 1, "the straggler at drive 5");
    assert_eq!(bench.answer(4, ok()), [], "it may be what repair finds at its home");
    assert_eq!(bench.erasure.in_flight(), 0);
}

#[test]
fn keeps_shards_that_are_already_where_the_new_placement_wants_them() {
    let mut bench = Bench::whole();
    bench.write();
    bench.answer(2, ok());
    bench.answer(3, ok());
    // The last drive of the placement: its node's other drive takes over, the others stay.
    assert_eq!(bench.answer(4, fails(ErrorKind::NoSpace)), [put(5, 6, 2, 1000)]);
    assert_eq!(bench.answer(5, ok()), [placed(&[5], false)]);
}

#[test]
fn substitutes_again_until_too_few_drives_are_left() {
    let mut bench = Bench::new(spec(&[2, 4]));
    bench.write();
    assert_eq!(bench.answer(4, fails(ErrorKind::Timeout)), [put(5, 6, 2, 1000)]);
    let refused = bench.answer(5, fails(ErrorKind::Unreachable));
    assert_refused(
        &refused,
        ErrorKind::TooFewShards,
        "2 of the 6 drives of the stripe's group are up, and 2+1 needs 3",
    );
    assert_eq!(bench.erasure.in_flight(), 2);
    assert_eq!(bench.answer(2, ok()), [], "nothing is deleted: a twin of this write may have succeeded");
    assert_eq!(bench.answer(3, fails(ErrorKind::LinkLost)), []);
    assert_eq!(bench.erasure.in_flight(), 0);
}

#[test]
fn does_not_return_to_a_drive_that_failed_with_a_superfluous_shard() {
    let mut bench = Bench::whole();
    bench.write();
    bench.answer(2, fails(ErrorKind::DriveFailed));
    assert_eq!(bench.answer(7, fails(ErrorKind::DriveFailed)), [put(8, 4, 2, 1000)]);
    for call in [5, 6, 8] {
        bench.answer(call, ok());
    }
    for call in [3, 4] {
        bench.answer(call, fails(ErrorKind::Restarted));
    }
    // Drives 1 and 2 are suspected, drive 6 is down: 3, 5 and 4 are all there is without them.
    bench.on(Event::Configure(Arc::new(FunctionSpec::Erasure(spec(&[6])))));
    bench.ask(StripeOp::Write(target()), b"stripe");
    let careful = [put(10, 3, 0, 1000), put(11, 5, 1, 1000), put(12, 4, 2, 1000)];
    assert_eq!(bench.done(9, WorkOutput::Shards(shards())), careful);
    let bold = [put(13, 1, 0, 1000), put(14, 3, 1, 1000), put(15, 5, 2, 1000)];
    assert_eq!(bench.answer(12, fails(ErrorKind::Restarted)), bold);
    assert_eq!(bench.answer(10, fails(ErrorKind::Restarted)), []);
    assert_refused(&bench.answer(13, fails(ErrorKind::DriveFailed)), ErrorKind::TooFewShards, "2 of the 6 drives");
}

/// Else one caller that gives every request a millisecond would keep all others from sound drives.
#[test]
fn a_drive_is_suspected_after_a_second_without_an_answer_and_not_for_a_caller_in_a_hurry() {
    let mut bench = Bench::whole();
    bench.write();
    assert_eq!(bench.answer(4, fails(ErrorKind::Timeout)), [put(5, 6, 2, 1000)]);
    for call in [2, 3, 5] {
        bench.answer(call, ok());
    }
    bench.ask(StripeOp::Write(target()), b"stripe");
    let same = [put(7, 1, 0, 1000), put(8, 3, 1, 1000), put(9, 5, 2, 1000)];
    assert_eq!(bench.done(6, WorkOutput::Shards(shards())), same);
    bench.pass(core::time::Duration::from_secs(1));
    assert_eq!(bench.answer(9, fails(ErrorKind::Timeout)), [put(10, 6, 2, 2000)]);
    for call in [7, 8, 10] {
        bench.answer(call, ok());
    }
    bench.ask(StripeOp::Write(target()), b"stripe");
    let others = [put(12, 1, 0, 2000), put(13, 3, 1, 2000), put(14, 6, 2, 2000)];
    assert_eq!(bench.done(11, WorkOutput::Shards(shards())), others);
}

#[test]
fn refuses_at_once_with_fewer_than_k_plus_m_drives_up() {
    let mut bench = Bench::new(spec(&[1, 2, 3, 4]));
    let refused = bench.ask(StripeOp::Write(target()), b"stripe");
    assert_refused(
        &refused,
        ErrorKind::TooFewShards,
        "2 of the 6 drives of the stripe's group are up, and 2+1 needs 3",
    );
    assert_eq!(bench.erasure.in_flight(), 0);
}

#[test]
fn does_not_substitute_what_another_drive_would_refuse_too() {
    for kind in [ErrorKind::Conflict, ErrorKind::BadDigest, ErrorKind::Invalid, ErrorKind::Bug] {
        let mut bench = Bench::whole();
        bench.write();
        assert_refused(&bench.answer(2, fails(kind)), kind, "drive=drive-1");
        assert_eq!(bench.answer(3, ok()), []);
        assert_eq!(bench.answer(4, ok()), []);
        assert_eq!(bench.erasure.in_flight(), 0);
    }
}

#[test]
fn tells_the_caller_to_slow_down_if_drives_are_overloaded() {
    let mut bench = Bench::new(spec(&[2, 4, 6]));
    bench.write();
    assert_refused(&bench.answer(3, fails(ErrorKind::Overloaded)), ErrorKind::Overloaded, "slow down");
    // That is no reason to suspect the drive.
    assert_eq!(bench.ask(StripeOp::Write(target()), b"stripe").len(), 1);
    assert_eq!(
        bench.done(5, WorkOutput::Shards(shards())),
        [put(6, 1, 0, 1000), put(7, 3, 1, 1000), put(8, 5, 2, 1000)]
    );
}

#[test]
fn stops_at_the_deadline() {
    let mut bench = Bench::whole();
    bench.write();
    bench.now = Instant(31_000 * MS);
    assert_refused(&bench.answer(2, fails(ErrorKind::Timeout)), ErrorKind::Timeout, "as a new attempt");
}

#[test]
fn avoids_a_drive_that_failed_a_moment_ago_unless_it_must_not() {
    let mut bench = Bench::whole();
    bench.write();
    bench.answer(4, fails(ErrorKind::DriveFailed));
    for call in [2, 3, 5] {
        bench.answer(call, ok());
    }
    // Suspected now: the next stripe goes elsewhere at once.
    bench.ask(StripeOp::Write(target()), b"stripe");
    assert_eq!(bench.done(6, WorkOutput::Shards(shards()))[2], put(9, 6, 2, 1000));
    for call in [7, 8] {
        bench.answer(call, ok());
    }
    assert_eq!(bench.answer(9, ok()), [placed(&[5], false)]);
    // With the other drives down it is tried all the same.
    bench.on(Event::Configure(Arc::new(FunctionSpec::Erasure(spec(&[2, 4, 6])))));
    bench.ask(StripeOp::Write(target()), b"stripe");
    assert_eq!(bench.done(10, WorkOutput::Shards(shards()))[2], put(13, 5, 2, 1000));
    for call in [11, 12] {
        bench.answer(call, ok());
    }
    // It answers well, and is trusted again.
    assert_eq!(bench.answer(13, ok()), [placed(&[], false)]);
    bench.on(Event::Configure(Arc::new(FunctionSpec::Erasure(spec(&[])))));
    bench.ask(StripeOp::Write(target()), b"stripe");
    assert_eq!(bench.done(14, WorkOutput::Shards(shards()))[2], put(17, 5, 2, 1000));
}

#[test]
fn trusts_a_suspected_drive_again_after_a_while_or_when_it_comes_up() {
    let third_drive = |bench: &mut Bench| {
        let Some(Effect::Start { work, .. }) = bench.ask(StripeOp::Write(target()), b"stripe").pop() else {
            panic!("no work")
        };
        let effects = bench.done(work.0, WorkOutput::Shards(shards()));
        let Effect::Call { to: Target::Actor(actor), .. } = effects[2] else { panic!("no call") };
        for effect in effects {
            let Effect::Call { call, .. } = effect else { panic!("no call") };
            // Other errors than those of the drive, so that this does not restore trust.
            bench.answer(call.0, fails(ErrorKind::Conflict));
        }
        actor.as_drive()
    };
    let failed = || {
        let mut bench = Bench::whole();
        bench.write();
        bench.answer(4, fails(ErrorKind::LinkLost));
        for call in [2, 3, 5] {
            bench.answer(call, ok());
        }
        bench
    };
    let configure = |bench: &mut Bench, spec| {
        bench.on(Event::Configure(Arc::new(FunctionSpec::Chain(vec![
            FunctionSpec::Encrypt(mesh_core::spec::EncryptSpec {}),
            FunctionSpec::Erasure(spec),
        ]))))
    };

    let mut bench = failed();
    bench.pass(core::time::Duration::from_millis(4999));
    assert_eq!(third_drive(&mut bench), Some(DriveId(6)));
    bench.pass(core::time::Duration::from_millis(1));
    assert_eq!(third_drive(&mut bench), Some(DriveId(5)));

    let mut bench = failed();
    configure(&mut bench, spec(&[4]));
    assert_eq!(third_drive(&mut bench), Some(DriveId(6)), "it was up before, too: that is no news of it");
    configure(&mut bench, spec(&[5]));
    configure(&mut bench, spec(&[]));
    assert_eq!(third_drive(&mut bench), Some(DriveId(5)));
}

#[test]
fn says_that_drives_are_full_if_space_is_all_that_is_missing() {
    let mut spec = spec(&[2, 4]);
    spec.drives.insert(DriveId(6), DriveState::Full);
    let mut bench = Bench::new(spec);
    bench.write();
    let refused = bench.answer(3, fails(ErrorKind::NoSpace));
    assert_refused(&refused, ErrorKind::NoSpace, "2 of the 6 drives of the stripe's group are full, and 2+1 needs 3");
}
