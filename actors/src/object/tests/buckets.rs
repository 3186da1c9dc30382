//! Buckets and their cache.

use super::*;

const CONTROL: GroupId = GroupId::CONTROL;

fn head() -> ObjectOp {
    ObjectOp::Head { bucket: "photos".into(), key: "cat".into() }
}

/// Answers the command of the only call, which must be this one.
fn expect(bench: &mut Bench, effects: &[Effect], wanted: &Command, outcome: Outcome) -> Vec<Effect> {
    let (call, sent) = command(effects);
    assert_eq!(sent, *wanted);
    bench.reply(call, outcome)
}

#[test]
fn a_bucket_that_compresses_is_made_so() {
    let mut bench = Bench::new(spec());
    let make = ObjectOp::CreateBucketWith { bucket: "photos".into(), settings: compressed() };
    let (id, effects) = bench.ask(make);
    let create = BucketCommand::CreateBucket {
        proposer: Some(proposer(0)),
        name: "photos".into(),
        tenant: TENANT,
        created: WALL,
        settings: compressed(),
    };
    let made = meta(row(bucket()));
    assert_eq!(expect(&mut bench, &effects, &create.into(), made), [replied(id, Answer::Done)]);
}

#[test]
fn a_bucket_is_made_in_the_control_group_under_a_name_that_is_no_pattern() {
    let mut bench = Bench::new(spec());
    let (id, effects) = bench.ask(ObjectOp::CreateBucket { bucket: "photos".into() });
    let create = BucketCommand::CreateBucket {
        proposer: Some(proposer(0)),
        name: "photos".into(),
        tenant: TENANT,
        created: WALL,
        settings: BucketSettings::default(),
    };
    let create = create.into();
    let made = meta(row(bucket()));
    assert_eq!(expect(&mut bench, &effects, &create, made), [replied(id, Answer::Done)]);
    for name in ["ab", "Photos", "photos*", "-ab", "ab.", "a..b", &"a".repeat(64)] {
        let (_, effects) = bench.ask(ObjectOp::CreateBucket { bucket: name.into() });
        assert_eq!(refused(&effects), ErrorKind::Invalid, "{name}");
    }
}

#[test]
fn a_bucket_of_another_tenant_is_denied_and_not_kept() {
    let mut bench = Bench::new(spec());
    for _ in 0..2 {
        let (_, effects) = bench.ask(head());
        let call = only_call(&effects);
        let effects = bench.reply(call, meta(row(BucketRef { tenant: TenantId(8), ..bucket() })));
        assert_eq!(refused(&effects), ErrorKind::Denied);
    }
}

/// Its requests were kept for all of their budgets, and with them a node that was told to stop.
#[test]
fn a_tenant_that_nobody_founded_is_waited_for_for_a_moment_and_no_longer() {
    let mut bench = Bench::new(spec());
    let (began, nobody) = (bench.now, Principal::User { tenant: TenantId(99), name: "nobody".into() });
    let (_, mut effects) = bench.ask_as(nobody, head(), Buf::empty());
    while bench.object.in_flight() > 0 {
        let [Effect::Call { call, request, .. }] = &effects[..] else { panic!("{effects:?}") };
        assert_eq!(request.deadline, began + Duration::from_secs(1));
        let missing = Error::new(ErrorKind::NoSuchActor, "the actor is not hosted here");
        effects = bench.reply(*call, Err(missing));
        if let Some(at) = bench.object.wake_at().filter(|_| effects.is_empty()) {
            effects = bench.wake(at);
        }
    }
    assert_eq!(refused(&effects), ErrorKind::NoSuchActor);
    assert!(bench.now > began && bench.now < began + Duration::from_secs(1));
    // One that is known has all of its budget.
    let (_, effects) = bench.ask(head());
    let [Effect::Call { request, .. }] = &effects[..] else { panic!("{effects:?}") };
    assert_eq!(request.deadline, bench.deadline());
}

#[test]
fn what_one_tenant_has_looked_up_opens_no_bucket_to_another() {
    let mut bench = Bench::new(spec());
    bench.know_the_bucket();
    let eve = || Principal::User { tenant: TenantId(8), name: "eve".into() };
    for _ in 0..2 {
        let (_, effects) = bench.ask_as(eve(), head(), Buf::empty());
        let [Effect::Call { call, request: Request { op, principal, .. }, .. }] = &effects[..] else {
            panic!("{effects:?}")
        };
        let lookup = Query::Bucket { name: "photos".into() };
        assert_eq!((op, principal), (&Op::Query { group: CONTROL, query: Arc::new(lookup) }, &eve()));
        assert_eq!(refused(&bench.reply(*call, meta(row(bucket())))), ErrorKind::Denied);
    }
}

#[test]
fn a_bucket_that_its_group_does_not_know_is_looked_up_once_more() {
    let mut bench = Bench::new(spec());
    bench.know_the_bucket();
    let (_, effects) = bench.ask(head());
    let call = only_call(&effects);
    let effects = bench.reply(call, failure(ErrorKind::NoSuchBucket));
    let lookup = bench.query(CONTROL, Query::Bucket { name: "photos".into() });
    // Its name goes too, if whoever deleted it did not come to that.
    let [looked, Effect::Start { work: _, job: Job::Propose { command, .. } }] = &effects[..] else {
        panic!("{effects:?}")
    };
    assert_eq!(**command, BucketCommand::RemoveBucket { bucket: BucketId(21) }.into());
    let Effect::Call { call, .. } = *looked else { panic!("{effects:?}") };
    assert_eq!(*looked, next(call, lookup));
    let anew = BucketRef { id: BucketId(22), group: GroupId(2), ..bucket() };
    let effects = bench.reply(call, meta(row(anew.clone())));
    let query = bench.query(GroupId(2), Query::Object { bucket: anew, key: "cat".into() });
    assert_eq!(effects, [next(bench.last(), query)]);
    // Not a third time.
    let call = bench.last();
    assert_eq!(refused(&bench.reply(call, failure(ErrorKind::NoSuchBucket))), ErrorKind::NoSuchBucket);
}

#[test]
fn a_bucket_that_is_the_same_when_looked_up_again_is_gone() {
    let mut bench = Bench::new(spec());
    bench.know_the_bucket();
    let (_, effects) = bench.ask(head());
    let effects = bench.reply(only_call(&effects), failure(ErrorKind::NoSuchBucket));
    let effects = bench.reply(only_call(&effects[..1]), meta(row(bucket())));
    assert_eq!(refused(&effects), ErrorKind::NoSuchBucket);
}

#[test]
fn head_bucket_always_asks_and_list_asks_for_the_tenant_s_own() {
    let mut bench = Bench::new(spec());
    bench.know_the_bucket();
    bench.know_the_bucket();
    let (id, effects) = bench.ask(ObjectOp::ListBuckets);
    assert_eq!(effects, [next(bench.last(), bench.query(CONTROL, Query::Buckets { tenant: TENANT }))]);
    let call = bench.last();
    let effects = bench.reply(call, meta(MetaAnswer::Buckets(vec![])));
    assert_eq!(effects, [replied(id, Answer::Buckets(vec![]))]);
}

#[test]
fn deleting_a_bucket_seals_and_removes_it() {
    let mut bench = Bench::new(spec());
    let (request, effects) = bench.ask(ObjectOp::DeleteBucket { bucket: "photos".into() });
    let effects = bench.reply(only_call(&effects), meta(row(bucket())));
    let seal = Command::Object(bucket(), ObjectCommand::SealBucket { proposer: proposer(0) });
    // Lost on its way: the same again.
    let effects = expect(&mut bench, &effects, &seal, failure(ErrorKind::LinkLost));
    let effects = expect(&mut bench, &effects, &seal, meta(MetaAnswer::Done));
    let remove = BucketCommand::RemoveBucket { bucket: BucketId(21) }.into();
    let effects = expect(&mut bench, &effects, &remove, failure(ErrorKind::LinkLost));
    let effects = expect(&mut bench, &effects, &remove, meta(MetaAnswer::Done));
    assert_eq!(effects, [replied(request, Answer::Done)]);
}

/// The chain was built anew between the two, and Policy has forgotten whose name that number is; or somebody else removed it.
#[test]
fn a_bucket_that_nobody_knows_by_its_number_is_found_once_more() {
    let cases = [
        (meta(row(bucket())), true),
        (meta(row(BucketRef { id: BucketId(22), ..bucket() })), false),
        (failure(ErrorKind::NoSuchBucket), false),
    ];
    for (found, again) in cases {
        let mut bench = Bench::new(spec());
        let (request, effects) = bench.ask(ObjectOp::DeleteBucket { bucket: "photos".into() });
        let effects = bench.reply(only_call(&effects), meta(row(bucket())));
        let effects = bench.reply(only_call(&effects), meta(MetaAnswer::Done));
        let remove = BucketCommand::RemoveBucket { bucket: BucketId(21) }.into();
        let effects = expect(&mut bench, &effects, &remove, failure(ErrorKind::NoSuchBucket));
        let mut effects = bench.reply(only_call(&effects), found);
        if again {
            effects = expect(&mut bench, &effects, &remove, meta(MetaAnswer::Done));
        }
        assert_eq!(effects, [replied(request, Answer::Done)]);
    }
    // Nor is it known then: its name stays for now, and is freed behind the answer.
    let mut bench = Bench::new(spec());
    let (_, effects) = bench.ask(ObjectOp::DeleteBucket { bucket: "photos".into() });
    let effects = bench.reply(only_call(&effects), meta(row(bucket())));
    let effects = bench.reply(only_call(&effects), meta(MetaAnswer::Done));
    let remove = BucketCommand::RemoveBucket { bucket: BucketId(21) }.into();
    let effects = expect(&mut bench, &effects, &remove, failure(ErrorKind::NoSuchBucket));
    let effects = bench.reply(only_call(&effects), meta(row(bucket())));
    let effects = expect(&mut bench, &effects, &remove, failure(ErrorKind::NoSuchBucket));
    assert_eq!(refused(&effects[..1]), ErrorKind::Timeout);
}

#[test]
fn a_bucket_that_is_not_empty_stays_as_it_is() {
    let mut bench = Bench::new(spec());
    let (request, effects) = bench.ask(ObjectOp::DeleteBucket { bucket: "photos".into() });
    let effects = bench.reply(only_call(&effects), meta(row(bucket())));
    let seal = Command::Object(bucket(), ObjectCommand::SealBucket { proposer: proposer(0) });
    let effects = expect(&mut bench, &effects, &seal, failure(ErrorKind::LinkLost));
    let effects = expect(&mut bench, &effects, &seal, failure(ErrorKind::BucketNotEmpty));
    assert_eq!(effects, [Effect::Reply { id: request, outcome: failure(ErrorKind::BucketNotEmpty) }]);
}

#[test]
fn a_deletion_that_does_not_get_to_the_name_is_finished_behind_its_answer() {
    let mut bench = Bench::new(spec());
    let (_, effects) = bench.ask(ObjectOp::DeleteBucket { bucket: "photos".into() });
    let effects = bench.reply(only_call(&effects), meta(row(bucket())));
    let effects = bench.reply(only_call(&effects), meta(MetaAnswer::Done));
    let remove = BucketCommand::RemoveBucket { bucket: BucketId(21) }.into();
    let effects = expect(&mut bench, &effects, &remove, failure(ErrorKind::Denied));
    assert_eq!(refused(&effects[..1]), ErrorKind::Timeout);
    let [_, Effect::Start { work, job: Job::Propose { command, .. } }] = &effects[..] else { panic!("{effects:?}") };
    assert_eq!(**command, remove);
    let done = Ok(WorkOutput::Meta(Arc::new(MetaAnswer::Done)));
    assert_eq!(bench.event(Event::Done { work: *work, outcome: done }), []);
    assert_eq!(bench.object.in_flight(), 0);
}

fn compressed() -> BucketSettings {
    BucketSettings { compression: Compression::Auto, code: None }
}
