//! Buckets and their cache.

use super::*;

const CONTROL: GroupId = GroupId::CONTROL;

fn head() -> ObjectOp {
    ObjectOp::Head { bucket: "photos".into(), key: "cat".into() }
}

/// Answers the command of the only call, which must be this one.
fn expect(bench: &mut Bench, effects: &[Effect], group: GroupId, wanted: &Command, outcome: Outcome) -> Vec<Effect> {
    let (call, to, sent) = command(effects);
    assert_eq!((to, &sent), (group, wanted));
    bench.reply(call, outcome)
}

#[test]
fn a_bucket_is_made_in_the_control_group_under_a_name_that_is_no_pattern() {
    let mut bench = Bench::new(spec());
    let (id, effects) = bench.ask(ObjectOp::CreateBucket { bucket: "photos".into() });
    let create = Command::CreateBucket { name: "photos".into(), tenant: TENANT, created: WALL };
    let made = meta(row(bucket()));
    assert_eq!(expect(&mut bench, &effects, CONTROL, &create, made), [replied(id, Answer::Done)]);
    for name in ["ab", "Photos", "photos*", "-ab", "ab.", "a..b", &"a".repeat(64)] {
        let (_, effects) = bench.ask(ObjectOp::CreateBucket { bucket: name.into() });
        assert_eq!(refused(&effects), ErrorKind::Invalid, "{name}");
    }
}

#[test]
fn a_bucket_that_exists_after_a_lost_answer_was_made() {
    for (first, told) in [(ErrorKind::LinkLost, None), (ErrorKind::NotLeader, Some(ErrorKind::BucketExists))] {
        let mut bench = Bench::new(spec());
        let (id, effects) = bench.ask(ObjectOp::CreateBucket { bucket: "photos".into() });
        let mut effects = bench.reply(only_call(&effects), failure(first));
        if effects.is_empty() {
            effects = bench.wake(bench.now + Duration::from_millis(10));
        }
        let effects = bench.reply(only_call(&effects), failure(ErrorKind::BucketExists));
        match told {
            None => assert_eq!(effects, [replied(id, Answer::Done)]),
            Some(kind) => assert_eq!(refused(&effects), kind),
        }
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

#[test]
fn a_bucket_that_its_group_does_not_know_is_looked_up_once_more() {
    let mut bench = Bench::new(spec());
    bench.know_the_bucket();
    let (_, effects) = bench.ask(head());
    let call = only_call(&effects);
    let effects = bench.reply(call, failure(ErrorKind::NoSuchBucket));
    let lookup = bench.query(CONTROL, Query::Bucket { name: "photos".into() });
    assert_eq!(effects, [next(bench.last(), lookup)]);
    let anew = BucketRef { id: BucketId(22), group: GroupId(2), ..bucket() };
    let call = bench.last();
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
    let effects = bench.reply(only_call(&effects), meta(row(bucket())));
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
fn deleting_a_bucket_marks_seals_and_removes_it() {
    let mut bench = Bench::new(spec());
    let id = BucketId(21);
    let (request, effects) = bench.ask(ObjectOp::DeleteBucket { bucket: "photos".into() });
    let effects = bench.reply(only_call(&effects), meta(row(bucket())));
    let mark = Command::MarkBucket { bucket: id, deleting: true };
    let effects = expect(&mut bench, &effects, CONTROL, &mark, meta(MetaAnswer::Done));
    let seal = Command::SealBucket { bucket: id };
    // Lost on its way: the same again.
    let effects = expect(&mut bench, &effects, GROUP, &seal, failure(ErrorKind::LinkLost));
    let effects = expect(&mut bench, &effects, GROUP, &seal, meta(MetaAnswer::Done));
    let remove = Command::RemoveBucket { bucket: id };
    let effects = expect(&mut bench, &effects, CONTROL, &remove, failure(ErrorKind::LinkLost));
    // The lost one had removed it.
    let effects = expect(&mut bench, &effects, CONTROL, &remove, failure(ErrorKind::NoSuchBucket));
    assert_eq!(effects, [replied(request, Answer::Done)]);
}

#[test]
fn deleting_a_bucket_that_is_not_empty_takes_everything_back() {
    let mut bench = Bench::new(spec());
    let id = BucketId(21);
    let (request, effects) = bench.ask(ObjectOp::DeleteBucket { bucket: "photos".into() });
    let effects = bench.reply(only_call(&effects), meta(row(bucket())));
    let mark = Command::MarkBucket { bucket: id, deleting: true };
    let effects = expect(&mut bench, &effects, CONTROL, &mark, meta(MetaAnswer::Done));
    let seal = Command::SealBucket { bucket: id };
    let effects = expect(&mut bench, &effects, GROUP, &seal, failure(ErrorKind::BucketNotEmpty));
    let unseal = Command::UnsealBucket { bucket: id };
    let effects = expect(&mut bench, &effects, GROUP, &unseal, meta(MetaAnswer::Done));
    let unmark = Command::MarkBucket { bucket: id, deleting: false };
    let effects = expect(&mut bench, &effects, CONTROL, &unmark, meta(MetaAnswer::Done));
    assert_eq!(effects, [Effect::Reply { id: request, outcome: failure(ErrorKind::BucketNotEmpty) }]);
}
