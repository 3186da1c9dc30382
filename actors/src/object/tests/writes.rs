//! Begin, Append, Finish, Abort.

use mesh_core::{
    Lane,
    limits::{BUDGET_DEFAULT, KEY_BYTES_MAX, OPEN_WRITES_MAX, WRITE_IDLE_MAX},
    meta::{Body, ObjectRow, Run},
    port::ComputeJob,
    spec::FunctionSpec,
    topology::{Code, CodeGroups, Layout},
};

use super::*;

fn begin_op() -> ObjectOp {
    ObjectOp::Begin { bucket: "photos".into(), key: "cat".into(), destination: whole() }
}

#[test]
fn begin_looks_up_the_bucket_asks_for_a_block_of_ids_wraps_a_key_and_opens() {
    let mut bench = Bench::new(ObjectSpec { keys: BTreeMap::from([(TENANT, Encryption::Key(KeyId(2)))]), ..spec() });
    let (id, effects) = bench.ask(begin_op());
    let lookup = bench.query(GroupId::CONTROL, Query::Bucket { name: "photos".into() });
    assert_eq!(effects, [next(Token(1), lookup)]);

    let effects = bench.reply(Token(1), meta(row(bucket())));
    let command = Arc::new(Command::Upkeep(GROUP, UpkeepCommand::OpenBlock { proposer: proposer(0) }));
    let deadline = bench.now + BUDGET_DEFAULT;
    assert_eq!(effects, [job(Token(2), Job::Propose { command, deadline })]);
    assert_eq!(bench.object.in_flight(), 2);

    let block = Arc::new(MetaAnswer::Block { first: WriteId(100), count: 4096 });
    let effects = bench.event(Event::Done { work: Token(2), outcome: Ok(WorkOutput::Meta(block)) });
    let wrap = ComputeJob::WrapKey { key: KeyId(2), entropy: vec![7; 44] };
    assert_eq!(effects, [job(Token(3), Job::Compute(wrap))]);

    let effects = bench.event(Event::Done { work: Token(3), outcome: Ok(WorkOutput::Key(wrapped())) });
    assert_eq!(effects, [replied(id, Answer::Begun { write: WriteId(100), stripe_bytes: STRIPE })]);
    assert_eq!(bench.object.in_flight(), 0);

    // The second one needs only a key; its stripes carry it.
    let (id, effects) = bench.ask(begin_op());
    let work = only_work(&effects);
    let effects = bench.event(Event::Done { work, outcome: Ok(WorkOutput::Key(wrapped())) });
    assert_eq!(effects, [replied(id, Answer::Begun { write: WriteId(101), stripe_bytes: STRIPE })]);
    let (_, effects) = bench.append(WriteId(101), 0, b"meow");
    let write = StripeOp::Write(StripeTarget { key: Some(wrapped()), ..target(WriteId(101), 0, 0) });
    assert_eq!(effects, [next(Token(5), bench.onward(write, Buf::copy_of(b"meow")))]);
}

#[test]
fn asks_for_the_next_block_before_the_last_is_used_up() {
    let mut bench = Bench::new(spec());
    bench.begin();
    let mut asked = Vec::new();
    for count in 2..=4096_u64 {
        let (_, effects) = bench.ask(begin_op());
        asked.extend(effects.iter().any(|effect| matches!(effect, Effect::Start { .. })).then_some(count));
        let write = WriteId(99 + count);
        bench.ask(ObjectOp::Abort { write });
    }
    assert_eq!(asked, [3072]);
    // Not granted in time: the next one waits, and is turned away at its deadline, not later and not twice.
    let (id, effects) = bench.ask(begin_op());
    assert_eq!(effects, []);
    let deadline = bench.deadline();
    // The block that is used up is held by the write that is open.
    assert_eq!(bench.wake(bench.now + Duration::from_secs(5)), []);
    let effects = bench.wake(deadline);
    assert_eq!(refused(&effects), ErrorKind::Overloaded);
    assert!(matches!(&effects[..], [Effect::Reply { id: to, .. }] if *to == id));
    let block = Arc::new(MetaAnswer::Block { first: WriteId(9000), count: 4096 });
    let work = Token(3);
    assert_eq!(bench.event(Event::Done { work, outcome: Ok(WorkOutput::Meta(block)) }), []);
    assert_eq!(bench.object.in_flight(), 0);
    let (id, effects) = bench.ask(begin_op());
    assert_eq!(effects, [replied(id, Answer::Begun { write: WriteId(9000), stripe_bytes: STRIPE })]);
}

#[test]
fn a_block_that_is_refused_is_refused_to_all_who_wait_and_asked_for_again() {
    let mut bench = Bench::new(spec());
    bench.know_the_bucket();
    let (_, effects) = bench.ask(begin_op());
    let work = only_work(&effects);
    assert_eq!(bench.ask(begin_op()).1, []);
    let effects = bench.event(Event::Done { work, outcome: Err(Error::new(ErrorKind::NoSpace, "planted")) });
    assert_eq!(effects.len(), 2);
    assert!(effects.iter().all(|effect| refused(core::slice::from_ref(effect)) == ErrorKind::Overloaded));
    let (_, effects) = bench.ask(begin_op());
    assert!(matches!(&effects[..], [Effect::Start { job: Job::Propose { command, .. }, .. }]
        if **command == Command::Upkeep(GROUP, UpkeepCommand::OpenBlock { proposer: proposer(1) })));
}

#[test]
fn refuses_what_can_never_be_written() {
    let begin =
        |key: &str, destination: Destination| ObjectOp::Begin { bucket: "photos".into(), key: key.into(), destination };
    let long = "k".repeat(KEY_BYTES_MAX + 1);
    let user = BTreeMap::from([("a".to_owned(), "b".repeat(4000))]);
    let fat = Attributes { user, ..Attributes::default() };
    let table = [
        (begin("", whole()), ErrorKind::Invalid),
        (begin(&long, whole()), ErrorKind::KeyTooLong),
        (begin("k", Destination::Part { upload: WriteId(1), number: 0 }), ErrorKind::Invalid),
        (begin("k", Destination::Part { upload: WriteId(1), number: 10_001 }), ErrorKind::Invalid),
        (
            begin("k", Destination::Object { attributes: fat, precondition: Precondition::default() }),
            ErrorKind::TooLarge,
        ),
        (ObjectOp::Append { write: WriteId(1), stripe: 0 }, ErrorKind::NotFound),
        (ObjectOp::Abort { write: WriteId(1) }, ErrorKind::NotFound),
    ];
    for (op, kind) in table {
        let mut bench = Bench::new(spec());
        assert_eq!(refused(&bench.ask(op.clone()).1), kind, "{op:?}");
        assert_eq!(bench.object.in_flight(), 0);
    }
    let mut bench = Bench::new(ObjectSpec { layout: None, ..spec() });
    assert_eq!(refused(&bench.ask(begin_op()).1), ErrorKind::TooFewShards);
}

#[test]
fn takes_object_operations_of_tenants_principals_in_time_and_nothing_else() {
    let mut bench = Bench::new(spec());
    let admin = Principal::Admin { name: "root".into() };
    for principal in [Principal::System, Principal::Anonymous, admin] {
        assert_eq!(refused(&bench.ask_as(principal, ObjectOp::ListBuckets, Buf::empty()).1), ErrorKind::Denied);
    }
    let request = Request { deadline: bench.now, ..bench.onward(ObjectOp::ListBuckets, Buf::empty()) };
    assert_eq!(refused(&bench.event(Event::Request { id: Token(1 << 40), request })), ErrorKind::Timeout);
    let request = bench.query(GROUP, Query::Control);
    assert_eq!(refused(&bench.event(Event::Request { id: Token(1 << 41), request })), ErrorKind::Unsupported);
}

#[test]
fn a_write_belongs_to_who_began_it() {
    let mut bench = Bench::new(spec());
    let write = bench.begin();
    for op in [
        ObjectOp::Append { write, stripe: 0 },
        ObjectOp::Finish { write, len: 0, etag: String::new(), checksums: BTreeMap::new() },
        ObjectOp::Abort { write },
    ] {
        let (_, effects) = bench.ask_as(bob(), op, Buf::copy_of(b"x"));
        assert_eq!(refused(&effects), ErrorKind::Denied);
    }
    let (id, effects) = bench.ask(ObjectOp::Abort { write });
    assert_eq!(effects, [replied(id, Answer::Done)]);
}

#[test]
fn an_append_whose_link_was_lost_goes_again_at_once_under_a_new_attempt() {
    let mut bench = Bench::new(spec());
    let write = bench.begin();
    let (id, effects) = bench.append(write, 0, b"0123456789");
    let (call, op) = stripe_op(&effects);
    assert_eq!(op, StripeOp::Write(target(write, 0, 0)));
    let effects = bench.reply(call, failure(ErrorKind::LinkLost));
    let again = bench.onward(StripeOp::Write(target(write, 0, 1)), Buf::copy_of(b"0123456789"));
    assert_eq!(effects, [next(bench.last(), again)]);
    let call = bench.last();
    let effects = bench.reply(call, Ok(Answer::Placed { avoid: vec![], shared: false }.into()));
    assert_eq!(effects, [replied(id, Answer::Done)]);

    // The lost attempt is deleted when it can no longer be on its way.
    let effects = bench.wake(bench.now + Duration::from_secs(2));
    let op = StripeOp::Delete { target: target(write, 0, 0), avoid: vec![] };
    let request = Request { lane: Lane::Bulk, ..Request::system(op, bench.now + BUDGET_DEFAULT) };
    assert_eq!(effects, [next(bench.last(), request)]);
    assert_eq!(bench.object.in_flight(), 1);
    let call = bench.last();
    assert_eq!(bench.reply(call, Ok(Answer::Done.into())), []);
    assert_eq!(bench.object.in_flight(), 0);
}

#[test]
fn an_append_that_was_turned_away_waits_longer_each_time() {
    let mut bench = Bench::new(spec());
    let write = bench.begin();
    let (_, mut effects) = bench.append(write, 3, b"tail");
    for (attempt, pause) in [(0, 10), (1, 20), (2, 40), (3, 80)] {
        let (call, op) = stripe_op(&effects);
        assert_eq!(op, StripeOp::Write(target(write, 3, attempt)));
        assert_eq!(bench.reply(call, failure(ErrorKind::Overloaded)), []);
        effects = bench.wake(bench.now + Duration::from_millis(pause));
    }
}

#[test]
fn an_append_over_the_rate_waits_and_keeps_its_attempt() {
    let mut bench = Bench::new(spec());
    let write = bench.begin();
    let (_, effects) = bench.append(write, 0, b"x");
    let (call, _) = stripe_op(&effects);
    assert_eq!(bench.reply(call, failure(ErrorKind::RateLimited)), []);
    let effects = bench.wake(bench.now + Duration::from_millis(10));
    assert_eq!(stripe_op(&effects).1, StripeOp::Write(target(write, 0, 0)));
}

#[test]
fn an_append_gives_up_after_the_last_attempt_and_poisons_its_write() {
    let mut bench = Bench::new(spec());
    let write = bench.begin();
    bench.store(write, 1, 4, vec![], false);
    let (id, mut effects) = bench.append(write, 0, b"x");
    for _ in 1..mesh_core::limits::STRIPE_ATTEMPTS_MAX {
        let (call, _) = stripe_op(&effects);
        effects = bench.reply(call, failure(ErrorKind::Draining));
        if effects.is_empty() {
            let at = bench.object.wake_at().expect("a pause");
            effects = bench.wake(at);
        }
    }
    let (call, _) = stripe_op(&effects);
    let effects = bench.reply(call, failure(ErrorKind::Draining));
    assert_eq!(effects, [Effect::Reply { id, outcome: failure(ErrorKind::Draining) }]);
    let (_, effects) = bench.finish(write, 14);
    assert_eq!(refused(&effects), ErrorKind::Draining);
    let (_, effects) = bench.finish(write, 14);
    assert_eq!(refused(&effects), ErrorKind::NotFound);
}

#[test]
fn an_append_fails_at_once_where_sending_again_is_in_vain() {
    for kind in [ErrorKind::Denied, ErrorKind::NoSpace, ErrorKind::Bug] {
        let mut bench = Bench::new(spec());
        let write = bench.begin();
        let (id, effects) = bench.append(write, 0, b"x");
        let (call, _) = stripe_op(&effects);
        assert_eq!(bench.reply(call, failure(kind)), [Effect::Reply { id, outcome: failure(kind) }]);
    }
}

#[test]
fn an_append_waits_a_while_for_drives_that_are_not_seen() {
    let mut bench = Bench::new(spec());
    let write = bench.begin();
    let (begun, (id, effects)) = (bench.now, bench.append(write, 0, b"x"));
    let (mut call, _) = stripe_op(&effects);
    for _ in 0..4 {
        assert_eq!(bench.reply(call, failure(ErrorKind::TooFewShards)), []);
        // What an attempt may have left behind is let go meanwhile.
        call = loop {
            let at = bench.object.wake_at().expect("a pause");
            let again = bench.wake(at).into_iter().find_map(|effect| match effect {
                Effect::Call { call, request, .. } if matches!(&request.op, Op::Stripe(op) if matches!(**op, StripeOp::Write(_))) => Some(call),
                _ => None,
            });
            if let Some(again) = again {
                break again;
            }
        };
    }
    assert_eq!(bench.now.since(begun), Duration::from_millis(250 + 500 + 1000 + 1000));
    let effects = bench.reply(call, failure(ErrorKind::TooFewShards));
    assert_eq!(effects, [Effect::Reply { id, outcome: failure(ErrorKind::TooFewShards) }]);
}

#[test]
fn an_append_does_not_outlive_its_deadline() {
    let mut bench = Bench::new(spec());
    let write = bench.begin();
    let (id, effects) = bench.append(write, 0, b"x");
    let (call, _) = stripe_op(&effects);
    bench.now = bench.deadline();
    let effects = bench.reply(call, failure(ErrorKind::Timeout));
    assert_eq!(effects, [Effect::Reply { id, outcome: failure(ErrorKind::Timeout) }]);
}

#[test]
fn finish_proposes_a_manifest_with_exceptions_merged_into_runs() {
    let mut bench = Bench::new(spec());
    let write = bench.begin();
    let avoid = vec![DriveId(2)];
    for (stripe, avoid, shared) in [
        (4, vec![], true),
        (0, vec![], false),
        (1, avoid.clone(), false),
        (2, avoid.clone(), false),
        (3, avoid.clone(), true),
    ] {
        bench.store(write, stripe, if stripe == 4 { 3 } else { 10 }, avoid, shared);
    }
    let (id, effects) = bench.finish(write, 43);
    let run = |first, count, avoid: &[DriveId], shared| Run { first, count, attempt: 0, avoid: avoid.to_vec(), shared };
    let runs = vec![run(1, 2, &avoid, false), run(3, 1, &avoid, true), run(4, 1, &[], true)];
    let row = ObjectRow {
        version: write,
        len: 43,
        etag: "e1".into(),
        modified: WALL,
        attributes: Attributes::default(),
        body: Body::Whole(Extent { runs, ..extent(write, 43) }),
    };
    let put = Command::Object(
        bucket(),
        ObjectCommand::PutObject {
            proposer: proposer(1),
            key: "cat".into(),
            row: Arc::new(row),
            precondition: Precondition::default(),
            quota_bytes: None,
        },
    );
    assert_eq!(effects, [next(bench.last(), bench.proposal(put))]);
    let call = bench.last();
    let effects = bench.reply(call, meta(MetaAnswer::Committed { version: write, etag: "e1".into() }));
    assert_eq!(effects, [replied(id, Answer::Committed { version: write, etag: "e1".into() })]);
    assert_eq!((bench.object.in_flight(), bench.object.wake_at()), (0, Some(bench.block_is_old_at())));
}

#[test]
fn what_is_put_into_a_bucket_that_compresses_says_so_of_every_stripe_and_of_the_whole() {
    let mut bench = Bench::new(spec());
    let write = bench.begin_in(Compression::Auto);
    let (id, effects) = bench.append(write, 0, b"meow");
    let stripe = StripeOp::Write(StripeTarget { compression: Compression::Auto, ..target(write, 0, 0) });
    assert_eq!(effects, [next(bench.last(), bench.onward(stripe, Buf::copy_of(b"meow")))]);
    let call = only_call(&effects);
    let effects = bench.reply(call, Ok(Answer::Placed { avoid: vec![], shared: false }.into()));
    assert_eq!(effects, [replied(id, Answer::Done)]);
    // By then the bucket may say something else.
    bench.know_the_bucket();
    let (_, effects) = bench.finish(write, 4);
    let [Effect::Call { request: Request { op: Op::Propose(command), .. }, .. }] = &effects[..] else {
        panic!("no manifest: {effects:?}")
    };
    let Command::Object(_, ObjectCommand::PutObject { row, .. }) = &**command else { panic!("{command:?}") };
    assert_eq!(row.body, Body::Whole(Extent { compression: Compression::Auto, ..extent(write, 4) }));
}

#[test]
fn finish_refuses_gaps_wrong_lengths_and_appends_under_way_and_deletes_what_was_stored() {
    let cases: [(&[(u32, usize)], u64); 6] = [
        (&[(0, 10), (2, 10)], 30),
        (&[(0, 10), (2, 10)], 20),
        (&[(1, 10)], 10),
        (&[(0, 9), (1, 10)], 19),
        (&[(0, 10), (1, 5)], 16),
        (&[(0, 10)], 0),
    ];
    for (stripes, len) in cases {
        let mut bench = Bench::new(spec());
        let write = bench.begin();
        for &(stripe, len) in stripes {
            bench.store(write, stripe, len, vec![], false);
        }
        assert_eq!(refused(&bench.finish(write, len).1), ErrorKind::Invalid);
        let effects = bench.wake(bench.now + Duration::from_secs(2));
        assert_eq!(effects.len(), stripes.len(), "every stripe is deleted");
    }
    let mut bench = Bench::new(spec());
    let write = bench.begin();
    let (id, effects) = bench.append(write, 0, b"x");
    let (call, _) = stripe_op(&effects);
    assert_eq!(refused(&bench.finish(write, 1).1), ErrorKind::Invalid);
    let effects = bench.reply(call, Ok(Answer::Placed { avoid: vec![], shared: false }.into()));
    assert_eq!(refused(&effects), ErrorKind::NotFound);
    assert!(matches!(&effects[..], [Effect::Reply { id: to, .. }] if *to == id));
    let effects = bench.wake(bench.now + Duration::from_secs(2));
    assert_eq!(stripe_op(&effects).1, StripeOp::Delete { target: target(write, 0, 0), avoid: vec![] });
}

#[test]
fn an_empty_object_has_no_stripes() {
    let mut bench = Bench::new(spec());
    let write = bench.begin();
    let (_, effects) = bench.finish(write, 0);
    let (_, Command::Object(to, ObjectCommand::PutObject { row, .. })) = command(&effects) else {
        panic!("no put: {effects:?}")
    };
    assert_eq!((to, &row.body), (bucket(), &Body::Whole(extent(write, 0))));
}

#[test]
fn finish_refuses_more_runs_than_a_manifest_holds() {
    let mut bench = Bench::new(spec());
    let write = bench.begin();
    for stripe in 0..130 {
        bench.store(write, stripe, 10, vec![], stripe % 2 == 0);
    }
    assert_eq!(refused(&bench.finish(write, 1300).1), ErrorKind::Overloaded);
}

#[test]
fn finish_deletes_the_stripes_of_a_certain_refusal_and_never_those_of_an_uncertain_one() {
    // Each list: what the proposal comes to, one sending after the other.
    let table: [(&[ErrorKind], ErrorKind, bool); 6] = [
        (&[ErrorKind::Precondition], ErrorKind::Precondition, true),
        (&[ErrorKind::NotLeader, ErrorKind::QuotaExceeded], ErrorKind::QuotaExceeded, true),
        (&[ErrorKind::LinkLost, ErrorKind::Precondition], ErrorKind::Precondition, true),
        (&[ErrorKind::LinkLost, ErrorKind::Denied], ErrorKind::Timeout, false),
        (&[ErrorKind::NotLeader, ErrorKind::Fenced], ErrorKind::Timeout, false),
        (&[ErrorKind::Bug], ErrorKind::Bug, false),
    ];
    for (failures, told, deleted) in table {
        let mut bench = Bench::new(spec());
        let write = bench.begin();
        bench.store(write, 0, 5, vec![], false);
        let (_, mut effects) = bench.finish(write, 5);
        for kind in failures {
            let (call, ..) = command(&effects);
            effects = bench.reply(call, failure(*kind));
            if effects.is_empty() {
                let at = bench.object.wake_at().expect("a pause");
                effects = bench.wake(at);
            }
        }
        assert_eq!(refused(&effects), told, "{failures:?}");
        assert_eq!(bench.object.desk.reclaim.next_at().is_some(), deleted, "{failures:?}");
    }
}

#[test]
fn finish_proposes_again_until_the_deadline() {
    let mut bench = Bench::new(spec());
    let write = bench.begin();
    let (_, mut effects) = bench.finish(write, 0);
    let deadline = bench.deadline();
    let mut sendings = 0;
    while let [Effect::Call { call, .. }] = effects[..] {
        sendings += 1;
        effects = bench.reply(call, failure(ErrorKind::LinkLost));
        if effects.is_empty() {
            let at = bench.object.wake_at().expect("a pause");
            effects = bench.wake(at);
        }
    }
    assert_eq!(refused(&effects), ErrorKind::LinkLost);
    assert!(bench.now < deadline && sendings > 10, "{sendings} until {:?}", bench.now);
}

#[test]
fn a_finish_into_a_bucket_that_was_made_anew_asks_for_the_object_again() {
    let mut bench = Bench::new(spec());
    let write = bench.begin();
    let (_, effects) = bench.finish(write, 0);
    let (call, ..) = command(&effects);
    let effects = bench.reply(call, failure(ErrorKind::NoSuchBucket));
    // And its name is taken away, should whoever deleted it not have come to that.
    let call = only_call(&effects[..1]);
    let effects = bench.reply(call, meta(row(BucketRef { id: BucketId(22), ..bucket() })));
    assert_eq!(refused(&effects), ErrorKind::Overloaded);
}

#[test]
fn ids_of_a_closed_block_are_given_out_no_more() {
    let mut bench = Bench::new(spec());
    let write = bench.begin();
    let (_, effects) = bench.finish(write, 0);
    let (call, ..) = command(&effects);
    let effects = bench.reply(call, failure(ErrorKind::Conflict));
    assert_eq!(refused(&effects), ErrorKind::Overloaded, "sent again, it gets another id");
    let (_, effects) = bench.ask(begin_op());
    assert!(matches!(&effects[..], [Effect::Start { job: Job::Propose { command, .. }, .. }]
        if **command == Command::Upkeep(GROUP, UpkeepCommand::OpenBlock { proposer: proposer(2) })));
}

#[test]
fn an_idle_write_is_dropped_with_its_stripes() {
    // With a grace so long that its block is not old before.
    let mut bench = Bench::new(ObjectSpec { reclaim_grace_ms: 300_000, ..spec() });
    let write = bench.begin();
    bench.now = bench.now + Duration::from_secs(100);
    bench.store(write, 0, 10, vec![DriveId(9)], false);
    let idle = bench.now + WRITE_IDLE_MAX;
    assert_eq!(bench.wake(idle), []);
    assert_eq!(refused(&bench.append(write, 1, b"x").1), ErrorKind::NotFound);
    let effects = bench.wake(idle + Duration::from_secs(2));
    assert_eq!(stripe_op(&effects).1, StripeOp::Delete { target: target(write, 0, 0), avoid: vec![DriveId(9)] });
}

#[test]
fn open_writes_are_bounded() {
    let mut bench = Bench::new(spec());
    bench.begin();
    for _ in 1..OPEN_WRITES_MAX {
        bench.ask(begin_op());
    }
    assert_eq!(refused(&bench.ask(begin_op()).1), ErrorKind::Overloaded);
}

#[test]
fn a_tenant_whose_key_is_not_known_is_refused_and_never_stored_in_plain() {
    let mut bench = Bench::new(ObjectSpec { keys: BTreeMap::new(), ..spec() });
    let (_, effects) = bench.ask(begin_op());
    assert_eq!(refused(&effects), ErrorKind::Unreachable);
    assert_eq!((effects.len(), bench.object.in_flight()), (1, 0), "nothing was asked or begun");
}

#[test]
fn a_key_that_the_keyring_lacks_is_no_missing_object() {
    let mut bench = Bench::new(ObjectSpec { keys: BTreeMap::from([(TENANT, Encryption::Key(KeyId(2)))]), ..spec() });
    bench.know_the_bucket();
    let (_, effects) = bench.ask(begin_op());
    let block = Arc::new(MetaAnswer::Block { first: WriteId(100), count: 4096 });
    let work = only_work(&effects);
    let effects = bench.event(Event::Done { work, outcome: Ok(WorkOutput::Meta(block)) });
    let work = only_work(&effects);
    let effects = bench.event(Event::Done { work, outcome: Err(Error::new(ErrorKind::NotFound, "no such key")) });
    assert_eq!(refused(&effects), ErrorKind::Unreachable);
}

#[test]
fn what_is_put_into_a_bucket_of_another_code_waits_for_its_groups_and_says_so_of_every_stripe_and_of_the_whole() {
    let code = Code { data: 1, parity: 2 };
    let settings = BucketSettings { compression: Compression::Off, code: Some(code) };
    let begin = || ObjectOp::Begin { bucket: "photos".into(), key: "cat".into(), destination: whole() };
    let mut bench = Bench::new(spec());
    bench.know(row_as(bucket(), settings));
    let began = bench.now;
    let (id, effects) = bench.ask(begin());
    assert_eq!(effects, []);
    // It looks again and again, and not for ever.
    let mut at = began;
    let error = loop {
        at = at + Duration::from_millis(50);
        match &bench.wake(at)[..] {
            [] => {}
            [Effect::Reply { id: to, outcome: Err(error) }] if *to == id => break error.clone(),
            effects => panic!("{effects:?}"),
        }
    };
    assert_eq!((error.kind(), at.since(began)), (ErrorKind::Overloaded, Duration::from_millis(4950)));
    assert!(error.message().starts_with("there are no placement groups for the bucket's code yet"), "{error}");
    assert_eq!(bench.object.in_flight(), 0);
    // The layout of the tests has groups for no code but its own, and this one for that as well.
    let groups = vec![(1..=3).map(DriveId).collect()];
    let layout = Layout {
        id: LAYOUT,
        code: Code { data: 2, parity: 1 },
        domains: (1..=3).map(|drive| (DriveId(drive), NodeId(drive))).collect(),
        line: 1,
        others: vec![CodeGroups { code, groups: groups.clone() }],
        groups,
        places: mesh_core::topology::Places::default(),
        rule: mesh_core::topology::Rule::default(),
    };
    // Then they are there, and the next look goes on.
    let laid_out = ObjectSpec { layouts: [(LAYOUT, Arc::new(layout))].into(), ..spec() };
    let mut bench = Bench::new(spec());
    bench.know(row_as(bucket(), settings));
    let (_, effects) = bench.ask(begin());
    assert_eq!(effects, []);
    bench.event(Event::Configure(Arc::new(FunctionSpec::Object(laid_out.clone()))));
    let effects = bench.wake(bench.now + Duration::from_millis(50));
    only_work(&effects);
    let mut bench = Bench::new(laid_out);
    let write = bench.begin_as(settings);
    let (id, effects) = bench.append(write, 0, b"meow");
    let stripe = StripeOp::Write(StripeTarget { code: Some(code), ..target(write, 0, 0) });
    assert_eq!(effects, [next(bench.last(), bench.onward(stripe, Buf::copy_of(b"meow")))]);
    let call = only_call(&effects);
    let effects = bench.reply(call, Ok(Answer::Placed { avoid: vec![], shared: false }.into()));
    assert_eq!(effects, [replied(id, Answer::Done)]);
    let (_, effects) = bench.finish(write, 4);
    let [Effect::Call { request: Request { op: Op::Propose(command), .. }, .. }] = &effects[..] else {
        panic!("no manifest: {effects:?}")
    };
    let Command::Object(_, ObjectCommand::PutObject { row, .. }) = &**command else { panic!("{command:?}") };
    assert_eq!(row.body, Body::Whole(Extent { code: Some(code), ..extent(write, 4) }));
}
