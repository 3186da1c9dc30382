//! Reclaim.

use mesh_core::{
    limits::BUDGET_DEFAULT,
    meta::{Garbage, Run},
    spec::FunctionSpec,
};

use super::*;

fn reclaiming() -> Bench {
    Bench::new(ObjectSpec { reclaims: vec![GROUP], ..spec() })
}

fn system(bench: &Bench, op: impl Into<Op>) -> Request {
    Request { lane: Lane::Bulk, ..Request::system(op, bench.now + BUDGET_DEFAULT) }
}

fn look(bench: &Bench, call: Token, limit: u32) -> Effect {
    let query = Arc::new(Query::Garbage { before: UnixMillis(WALL.0 - 60_000), limit });
    Effect::Call { to: Target::Metadata, call, request: system(bench, Op::Query { group: GROUP, query }) }
}

fn garbage(write: u64, len: u64, runs: Vec<Run>) -> Garbage {
    let extent = Extent { runs, ..extent(WriteId(write), len) };
    Garbage { tenant: TENANT, since: UnixMillis(1), extent }
}

/// What the deletions among effects are of.
fn deletions(effects: &[Effect]) -> Vec<(Token, StripeId, Vec<DriveId>)> {
    let deletion = |effect: &Effect| match effect {
        Effect::Call { to: Target::Next, call, request: Request { op: Op::Stripe(op), principal, .. } } => {
            match &**op {
                StripeOp::Delete { target, avoid } => {
                    assert_eq!((target.binding.tenant, principal), (TENANT, &Principal::System));
                    (*call, target.id, avoid.clone())
                }
                other => panic!("not a deletion: {other:?}"),
            }
        }
        other => panic!("not a stripe: {other:?}"),
    };
    effects.iter().map(deletion).collect()
}

#[test]
fn garbage_is_dropped_when_all_its_stripes_are_deleted() {
    let mut bench = reclaiming();
    let effects = bench.wake(Instant(0));
    assert_eq!(effects, [look(&bench, Token(1), 64)]);
    assert_eq!((bench.object.in_flight(), bench.object.wake_at()), (1, None));

    let run = Run { first: 1, count: 1, attempt: 2, avoid: vec![DriveId(5)], shared: false };
    let rows = vec![garbage(70, 15, vec![run]), garbage(71, 0, vec![])];
    let effects = bench.reply(Token(1), meta(MetaAnswer::Garbage(rows)));
    let id = |stripe, attempt| StripeId { write: WriteId(70), stripe, attempt };
    assert_eq!(deletions(&effects), [(Token(2), id(0, 0), vec![]), (Token(3), id(1, 2), vec![DriveId(5)])]);
    assert_eq!(bench.reply(Token(3), Ok(Answer::Done.into())), []);

    let effects = bench.reply(Token(2), Ok(Answer::Done.into()));
    let command = Arc::new(Command::DropGarbage { writes: vec![WriteId(71), WriteId(70)] });
    let deadline = bench.now + BUDGET_DEFAULT;
    assert_eq!(effects, [job(Token(4), Job::Propose { group: GROUP, command, deadline })]);
    let done = Arc::new(MetaAnswer::Done);
    assert_eq!(bench.event(Event::Done { work: Token(4), outcome: Ok(WorkOutput::Meta(done)) }), []);
    assert_eq!(bench.object.in_flight(), 0);
    assert_eq!(bench.object.wake_at(), Some(bench.now + Duration::from_secs(2)));
}

#[test]
fn a_row_with_a_stripe_that_cannot_be_deleted_stays_and_is_tried_later_and_later() {
    let mut bench = reclaiming();
    let mut effects = bench.wake(Instant(0));
    for (limit, pause) in [(64, 4), (65, 8), (65, 16)] {
        let call = only_call(&effects);
        assert_eq!(effects, [look(&bench, call, limit)]);
        let effects_of_rows = bench.reply(call, meta(MetaAnswer::Garbage(vec![garbage(70, 10, vec![])])));
        let [(call, ..)] = deletions(&effects_of_rows)[..] else { panic!("one stripe") };
        assert_eq!(bench.reply(call, failure(ErrorKind::DriveFailed)), []);
        assert_eq!(bench.object.in_flight(), 0);
        effects = bench.wake(bench.now + Duration::from_secs(pause));
    }
}

#[test]
fn deletions_are_bounded_and_a_full_page_is_followed_by_the_next() {
    let mut bench = reclaiming();
    let effects = bench.wake(Instant(0));
    let rows: Vec<Garbage> = (0..64).map(|write| garbage(write, 10, vec![])).collect();
    let mut out: Vec<Token> = Vec::new();
    let first = bench.reply(only_call(&effects), meta(MetaAnswer::Garbage(rows)));
    out.extend(deletions(&first).iter().map(|(call, ..)| *call));
    assert_eq!((out.len(), bench.object.in_flight()), (16, 16));
    let mut deleted = 0;
    let drop = loop {
        let call = out.remove(0);
        deleted += 1;
        let effects = bench.reply(call, Ok(Answer::Done.into()));
        if let [Effect::Start { work, .. }] = effects[..] {
            break work;
        }
        out.extend(deletions(&effects).iter().map(|(call, ..)| *call));
        assert!(out.len() <= 16);
    };
    assert_eq!((deleted, out.len()), (64, 0));
    let done = Arc::new(MetaAnswer::Done);
    let effects = bench.event(Event::Done { work: drop, outcome: Ok(WorkOutput::Meta(done)) });
    assert_eq!(effects, [look(&bench, bench.last(), 64)]);
}

#[test]
fn a_group_that_is_taken_away_is_not_asked_again() {
    let mut bench = reclaiming();
    let effects = bench.wake(Instant(0));
    let other = FunctionSpec::Chain(vec![FunctionSpec::Object(spec())]);
    assert_eq!(bench.event(Event::Configure(Arc::new(other))), []);
    assert_eq!(bench.reply(only_call(&effects), meta(MetaAnswer::Garbage(vec![]))), []);
    assert_eq!(bench.object.wake_at(), None);
}

#[test]
fn litter_is_given_up_after_five_tries() {
    let mut bench = Bench::new(spec());
    let write = bench.begin();
    bench.store(write, 0, 10, vec![], false);
    bench.ask(ObjectOp::Abort { write });
    for pause in [2, 4, 8, 16, 32] {
        let effects = bench.wake(bench.now + Duration::from_secs(pause));
        let [(call, ..)] = deletions(&effects)[..] else { panic!("one stripe") };
        assert_eq!(bench.reply(call, failure(ErrorKind::Unreachable)), []);
    }
    assert_eq!((bench.object.wake_at(), bench.object.in_flight()), (Some(bench.block_is_old_at()), 0));
}

#[test]
fn looks_sooner_after_a_delete_where_the_grace_is_short() {
    let mut bench = Bench::new(ObjectSpec { reclaims: vec![GROUP], reclaim_grace_ms: 100, ..spec() });
    let effects = bench.wake(Instant(0));
    bench.reply(only_call(&effects), meta(MetaAnswer::Garbage(vec![])));
    assert_eq!(bench.object.wake_at(), Some(bench.now + Duration::from_secs(2)));
    bench.know_the_bucket();
    let precondition = Precondition { absent: false, etag: Some("\"e\"".into()) };
    let (id, effects) = bench.ask(ObjectOp::Delete { bucket: "photos".into(), key: "cat".into(), precondition });
    let precondition = Precondition { absent: false, etag: Some("e".into()) };
    let delete =
        Command::DeleteObject { proposer: proposer(0), bucket: bucket(), key: "cat".into(), at: WALL, precondition };
    assert_eq!(effects, [next(bench.last(), bench.proposal(GROUP, delete))]);
    let call = bench.last();
    let effects = bench.reply(call, meta(MetaAnswer::Deleted { existed: true }));
    assert_eq!(effects, [replied(id, Answer::Done)]);
    assert_eq!(bench.object.wake_at(), Some(bench.now + Duration::from_millis(100)));
}

#[test]
fn sends_a_delete_again_under_the_number_that_it_had() {
    let mut bench = Bench::new(spec());
    bench.know_the_bucket();
    let precondition = Precondition::default();
    let (id, effects) = bench.ask(ObjectOp::Delete { bucket: "photos".into(), key: "cat".into(), precondition });
    let (call, _, delete) = command(&effects);
    assert_eq!(delete.proposer(), Some(&proposer(0)));
    let effects = bench.reply(call, failure(ErrorKind::LinkLost));
    let (call, _, again) = command(&effects);
    assert_eq!(again, delete);
    assert_eq!(bench.reply(call, meta(MetaAnswer::Deleted { existed: false })), [replied(id, Answer::Done)]);
}
