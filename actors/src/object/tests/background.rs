//! Reclaim.

use mesh_core::{
    limits::BUDGET_DEFAULT,
    meta::{Garbage, GarbageMark, GarbagePage, Run},
    op::{Head, ShardOp},
    spec::FunctionSpec,
    topology::Code,
};

use super::*;

fn reclaiming() -> Bench {
    Bench::new(ObjectSpec { reclaims: vec![GROUP], ..spec() })
}

fn system(bench: &Bench, op: impl Into<Op>) -> Request {
    Request { lane: Lane::Bulk, ..Request::system(op, bench.now + BUDGET_DEFAULT) }
}

fn asks(bench: &Bench, call: Token, query: Query) -> Effect {
    let query = Arc::new(query);
    Effect::Call { to: Target::Metadata, call, request: system(bench, Op::Query { group: GROUP, query }) }
}

fn look(bench: &Bench, call: Token, before: u64, after: Option<GarbageMark>) -> Effect {
    asks(bench, call, Query::Garbage { before: UnixMillis(before), after, limit: 64 })
}

fn proposes(bench: &Bench, work: Token, command: Command) -> Effect {
    let deadline = bench.now + BUDGET_DEFAULT;
    job(work, Job::Propose { command: Arc::new(command), deadline })
}

/// A page without a next one.
fn page(rows: Vec<Garbage>) -> GarbagePage {
    GarbagePage { rows, newest: UnixMillis(9), ..GarbagePage::default() }
}

fn named(page: GarbagePage) -> Outcome {
    meta(MetaAnswer::Garbage(page))
}

fn mark(write: u64) -> GarbageMark {
    GarbageMark { since: UnixMillis(1), write: WriteId(write), part: 0 }
}

fn applied(bench: &mut Bench, work: Token, answer: MetaAnswer) -> Vec<Effect> {
    bench.event(Event::Done { work, outcome: Ok(WorkOutput::Meta(Arc::new(answer))) })
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
    assert_eq!(effects, [look(&bench, Token(1), 1, None)]);
    // A node that stops does not wait for it.
    assert_eq!((bench.object.in_flight(), bench.object.unanswered(), bench.object.wake_at()), (1, 0, None));

    let run = Run { first: 1, count: 1, attempt: 2, avoid: vec![DriveId(5)], shared: false };
    let rows = vec![garbage(70, 15, vec![run]), garbage(71, 0, vec![])];
    let effects = bench.reply(Token(1), named(page(rows)));
    let id = |stripe, attempt| StripeId { write: WriteId(70), stripe, attempt };
    assert_eq!(deletions(&effects), [(Token(2), id(0, 0), vec![]), (Token(3), id(1, 2), vec![DriveId(5)])]);
    assert_eq!(bench.reply(Token(3), Ok(Answer::Done.into())), []);

    let effects = bench.reply(Token(2), Ok(Answer::Done.into()));
    let command = Command::Upkeep(GROUP, UpkeepCommand::DropGarbage { writes: vec![WriteId(71), WriteId(70)] });
    assert_eq!(effects, [proposes(&bench, Token(4), command)]);
    assert_eq!(applied(&mut bench, Token(4), MetaAnswer::Done), []);
    assert_eq!(bench.object.in_flight(), 0);
    assert_eq!(bench.object.wake_at(), Some(bench.now + Duration::from_secs(2)));
}

/// There is no chain of its own any more.
#[test]
fn what_a_tenant_leaves_that_was_deleted_goes_by_another_ones_chain() {
    let mut bench = reclaiming();
    let effects = bench.wake(Instant(0));
    let left = Garbage { tenant: TenantId(77), ..garbage(70, 10, vec![]) };
    let effects = bench.reply(only_call(&effects), named(page(vec![left])));
    // As the mesh itself, in the name of a tenant that there is.
    let [(call, stripe, _)] = &deletions(&effects)[..] else { panic!("one stripe") };
    assert_eq!(*stripe, StripeId { write: WriteId(70), stripe: 0, attempt: 0 });
    let effects = bench.reply(*call, Ok(Answer::Done.into()));
    let command = Command::Upkeep(GROUP, UpkeepCommand::DropGarbage { writes: vec![WriteId(70)] });
    assert_eq!(effects, [proposes(&bench, bench.last(), command)]);
}

#[test]
fn the_grace_counts_from_when_the_garbage_was_seen_by_this_clock_alone() {
    // Whoever deleted it had a clock far ahead of this one's, which stands still.
    let mut bench = reclaiming();
    let ahead = GarbagePage { newest: UnixMillis(WALL.0 + 86_400_000), ..GarbagePage::default() };
    let mut effects = bench.wake(Instant(0));
    for _ in 0..30 {
        assert_eq!(effects, [look(&bench, bench.last(), 1, None)]);
        assert_eq!(bench.reply(bench.last(), named(ahead.clone())), []);
        effects = bench.wake(bench.now + Duration::from_secs(2));
    }
    assert_eq!(bench.now.since(Instant(0)), Duration::from_secs(60));
    assert_eq!(effects, [look(&bench, bench.last(), WALL.0 + 86_400_001, None)]);
}

#[test]
fn a_row_of_which_nothing_can_be_deleted_stays_and_passes_come_later_and_later() {
    let mut bench = reclaiming();
    let mut effects = bench.wake(Instant(0));
    for pause in [4, 8, 16] {
        let call = only_call(&effects);
        assert_eq!(effects, [look(&bench, call, 1, None)]);
        let effects_of_rows = bench.reply(call, named(page(vec![garbage(70, 10, vec![])])));
        let [(call, ..)] = deletions(&effects_of_rows)[..] else { panic!("one stripe") };
        assert_eq!(bench.reply(call, failure(ErrorKind::DriveFailed)), []);
        assert_eq!(bench.object.in_flight(), 0);
        effects = bench.wake(bench.now + Duration::from_secs(pause));
    }
}

#[test]
fn deletions_are_bounded_and_a_page_is_followed_by_the_next() {
    let mut bench = reclaiming();
    let effects = bench.wake(Instant(0));
    let rows: Vec<Garbage> = (0..64).map(|write| garbage(write, 10, vec![])).collect();
    let mut out: Vec<Token> = Vec::new();
    let first = bench.reply(only_call(&effects), named(GarbagePage { next: Some(mark(63)), ..page(rows) }));
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
    let effects = applied(&mut bench, drop, MetaAnswer::Done);
    assert_eq!(effects, [look(&bench, bench.last(), 1, Some(mark(63)))]);
}

#[test]
fn a_page_that_fails_is_passed_over_a_moment_later() {
    let mut bench = reclaiming();
    let effects = bench.wake(Instant(0));
    let failing = GarbagePage { next: Some(mark(70)), ..page(vec![garbage(70, 10, vec![])]) };
    let effects = bench.reply(only_call(&effects), named(failing));
    assert_eq!(bench.reply(deletions(&effects)[0].0, failure(ErrorKind::NoSuchActor)), []);
    let effects = bench.wake(bench.now + Duration::from_secs(2));
    assert_eq!(effects, [look(&bench, bench.last(), 1, Some(mark(70)))]);
    // What comes behind goes well; the pass met with a failure all the same.
    let effects = bench.reply(only_call(&effects), named(page(vec![garbage(71, 10, vec![])])));
    let effects = bench.reply(deletions(&effects)[0].0, Ok(Answer::Done.into()));
    assert_eq!(
        effects,
        [proposes(
            &bench,
            bench.last(),
            Command::Upkeep(GROUP, UpkeepCommand::DropGarbage { writes: vec![WriteId(71)] })
        )]
    );
    assert_eq!(applied(&mut bench, only_work(&effects), MetaAnswer::Done), []);
    let effects = bench.wake(bench.now + Duration::from_secs(4));
    assert_eq!(effects, [look(&bench, bench.last(), 1, None)]);
}

#[test]
fn what_drives_did_not_delete_is_owed_by_them_and_the_garbage_is_done_with() {
    let mut bench = reclaiming();
    let effects = bench.wake(Instant(0));
    let rows = vec![garbage(70, 15, vec![]), garbage(71, 10, vec![])];
    let effects = bench.reply(only_call(&effects), named(page(rows)));
    let [(one, ..), (two, ..), (three, ..)] = deletions(&effects)[..] else { panic!("three stripes") };
    assert_eq!(bench.reply(one, Ok(Answer::Left(vec![DriveId(5)]).into())), []);
    assert_eq!(bench.reply(two, Ok(Answer::Left(vec![DriveId(3), DriveId(5)]).into())), []);
    let effects = bench.reply(three, Ok(Answer::Done.into()));
    assert_eq!(
        effects,
        [proposes(
            &bench,
            bench.last(),
            Command::Upkeep(GROUP, UpkeepCommand::DropGarbage { writes: vec![WriteId(71)] })
        )]
    );
    let effects = applied(&mut bench, only_work(&effects), MetaAnswer::Done);
    let owed = vec![(DriveId(3), vec![WriteId(70)]), (DriveId(5), vec![WriteId(70)])];
    assert_eq!(effects, [proposes(&bench, bench.last(), Command::Upkeep(GROUP, UpkeepCommand::OweGarbage { owed }))]);
    assert_eq!(applied(&mut bench, only_work(&effects), MetaAnswer::Writes(vec![])), []);
    // That is no failure: the next pass comes as after any other.
    assert_eq!(bench.object.wake_at(), Some(bench.now + Duration::from_secs(2)));
}

#[test]
fn what_a_drive_may_not_be_owed_any_more_is_tried_again_later() {
    let mut bench = reclaiming();
    let effects = bench.wake(Instant(0));
    let effects = bench.reply(only_call(&effects), named(page(vec![garbage(70, 10, vec![])])));
    let effects = bench.reply(deletions(&effects)[0].0, Ok(Answer::Left(vec![DriveId(5)]).into()));
    assert_eq!(applied(&mut bench, only_work(&effects), MetaAnswer::Writes(vec![WriteId(70)])), []);
    assert_eq!(bench.object.wake_at(), Some(bench.now + Duration::from_secs(4)));
}

/// A function that was told that drives are owed something, and what it does about it.
fn owing(lost: &[u64], drives: &[u64]) -> (Bench, Vec<Effect>) {
    let lost = lost.iter().copied().map(DriveId).collect();
    let mut bench = Bench::new(ObjectSpec { reclaims: vec![GROUP], lost, ..spec() });
    let effects = bench.wake(Instant(0));
    let owing = drives.iter().copied().map(DriveId).collect();
    let effects = bench.reply(only_call(&effects), named(GarbagePage { owing, ..page(vec![]) }));
    (bench, effects)
}

fn page_of(bench: &Bench, call: Token, drive: u64) -> Effect {
    asks(bench, call, Query::Owed { drive: DriveId(drive), limit: 1024 })
}

fn at_drive(bench: &Bench, call: Token, drive: u64, op: ShardOp) -> Effect {
    let to = Target::Actor(ActorId::drive(DriveId(drive)));
    Effect::Call { to, call, request: system(bench, op) }
}

fn from(write: u64) -> ShardOp {
    let last = StripeId { write: WriteId(write - 1), stripe: u32::MAX, attempt: u8::MAX }.shard(u8::MAX);
    ShardOp::List { after: Some(last), limit: 1024, relies: None }
}

#[test]
fn a_drive_deletes_all_that_it_holds_of_what_it_is_owed_and_then_the_rows_go() {
    let (mut bench, effects) = owing(&[], &[5]);
    assert_eq!(effects, [page_of(&bench, Token(2), 5)]);
    let effects = bench.reply(Token(2), meta(MetaAnswer::Writes(vec![WriteId(70), WriteId(90)])));
    assert_eq!(effects, [at_drive(&bench, Token(3), 5, from(70))]);
    let shard = |write, stripe| StripeId { write: WriteId(write), stripe, attempt: 0 }.shard(1);
    // What lies between belongs to others.
    let held = vec![(shard(70, 0), 1), (shard(70, 7), 1), (shard(80, 0), 1)];
    let effects = bench.reply(Token(3), Ok(Answer::Shards { page: held, more: true, head: Head::default() }.into()));
    assert_eq!(
        effects,
        [at_drive(
            &bench,
            Token(4),
            5,
            ShardOp::Delete { ids: vec![shard(70, 0), shard(70, 7)], until: Some(Head::default()) }
        )]
    );
    let effects = bench.reply(Token(4), Ok(Answer::Done.into()));
    assert_eq!(effects, [at_drive(&bench, Token(5), 5, from(90))]);
    let effects = bench.reply(Token(5), Ok(Answer::Shards { page: vec![], more: false, head: Head::default() }.into()));
    let paid =
        Command::Upkeep(GROUP, UpkeepCommand::PayOwed { drive: DriveId(5), writes: vec![WriteId(70), WriteId(90)] });
    assert_eq!(effects, [proposes(&bench, Token(6), paid)]);
    let effects = applied(&mut bench, Token(6), MetaAnswer::Done);
    assert_eq!(effects, [page_of(&bench, Token(7), 5)]);
    assert_eq!(bench.reply(Token(7), meta(MetaAnswer::Writes(vec![]))), []);
    assert_eq!((bench.object.in_flight(), bench.object.wake_at()), (0, Some(bench.now + Duration::from_secs(2))));
}

#[test]
fn a_drive_that_does_not_answer_is_asked_later_and_later_and_holds_up_no_other() {
    let (mut bench, effects) = owing(&[], &[5, 6]);
    assert_eq!(effects, [page_of(&bench, Token(2), 5), page_of(&bench, Token(3), 6)]);
    let writes = || meta(MetaAnswer::Writes(vec![WriteId(70)]));
    assert_eq!(bench.reply(Token(2), writes()), [at_drive(&bench, Token(4), 5, from(70))]);
    assert_eq!(bench.reply(Token(3), writes()), [at_drive(&bench, Token(5), 6, from(70))]);
    assert_eq!(bench.reply(Token(4), failure(ErrorKind::Unreachable)), []);
    let effects = bench.reply(Token(5), Ok(Answer::Shards { page: vec![], more: false, head: Head::default() }.into()));
    let paid = Command::Upkeep(GROUP, UpkeepCommand::PayOwed { drive: DriveId(6), writes: vec![WriteId(70)] });
    assert_eq!(effects, [proposes(&bench, Token(6), paid)]);
    assert_eq!(applied(&mut bench, Token(6), MetaAnswer::Done), [page_of(&bench, Token(7), 6)]);
    assert_eq!(bench.reply(Token(7), meta(MetaAnswer::Writes(vec![]))), []);
    // The garbage is looked at every 2 s; that drive is asked after 2, 4, 8, 16, 30 and 30 s.
    let mut asked = Vec::new();
    while bench.now < Instant(1) + Duration::from_secs(100) {
        let effects = bench.wake(bench.object.wake_at().expect("there is always a next look"));
        for effect in effects {
            let Effect::Call { to, call, request } = effect else { panic!("not a call: {effect:?}") };
            match (to, request.op) {
                (Target::Metadata, Op::Query { query, .. }) if matches!(*query, Query::Garbage { .. }) => {
                    let owing = vec![DriveId(5)];
                    assert_eq!(bench.reply(call, named(GarbagePage { owing, ..page(vec![]) })), []);
                }
                (Target::Metadata, Op::Query { .. }) => {
                    asked.push(bench.now.since(Instant(0)).as_secs());
                    let effects = bench.reply(call, writes());
                    assert_eq!(bench.reply(only_call(&effects), failure(ErrorKind::Timeout)), []);
                }
                other => panic!("not a question: {other:?}"),
            }
        }
    }
    assert_eq!(asked, [2, 6, 14, 30, 60, 90]);
}

#[test]
fn what_a_lost_drive_is_owed_is_let_go_without_asking_it() {
    let (mut bench, effects) = owing(&[5], &[5]);
    assert_eq!(effects, [page_of(&bench, Token(2), 5)]);
    let effects = bench.reply(Token(2), meta(MetaAnswer::Writes(vec![WriteId(70)])));
    let paid = Command::Upkeep(GROUP, UpkeepCommand::PayOwed { drive: DriveId(5), writes: vec![WriteId(70)] });
    assert_eq!(effects, [proposes(&bench, Token(3), paid)]);
    assert_eq!(applied(&mut bench, Token(3), MetaAnswer::Done), [page_of(&bench, Token(4), 5)]);
    assert_eq!(bench.reply(Token(4), meta(MetaAnswer::Writes(vec![]))), []);
}

#[test]
fn a_drive_that_is_lost_while_it_is_asked_is_let_go_at_the_next_try() {
    let (mut bench, effects) = owing(&[], &[5]);
    let effects = bench.reply(only_call(&effects), meta(MetaAnswer::Writes(vec![WriteId(70)])));
    let list = only_call(&effects);
    let lost = ObjectSpec { reclaims: vec![GROUP], lost: vec![DriveId(5)], ..spec() };
    assert_eq!(bench.event(Event::Configure(Arc::new(FunctionSpec::Object(lost)))), []);
    let effects = bench.reply(list, failure(ErrorKind::Unreachable));
    let paid = Command::Upkeep(GROUP, UpkeepCommand::PayOwed { drive: DriveId(5), writes: vec![WriteId(70)] });
    assert_eq!(effects, [proposes(&bench, bench.last(), paid)]);
}

#[test]
fn a_group_that_is_taken_away_is_not_asked_again() {
    let mut bench = reclaiming();
    let effects = bench.wake(Instant(0));
    let other = FunctionSpec::Chain(vec![FunctionSpec::Object(spec())]);
    assert_eq!(bench.event(Event::Configure(Arc::new(other))), []);
    assert_eq!(bench.reply(only_call(&effects), named(page(vec![]))), []);
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
fn looks_at_once_after_a_delete_and_again_when_its_grace_is_over() {
    let mut bench = Bench::new(ObjectSpec { reclaims: vec![GROUP], reclaim_grace_ms: 100, ..spec() });
    let effects = bench.wake(Instant(0));
    bench.reply(only_call(&effects), named(GarbagePage::default()));
    assert_eq!(bench.object.wake_at(), Some(bench.now + Duration::from_secs(2)));
    bench.know_the_bucket();
    let precondition = Precondition { absent: false, etag: Some("\"e\"".into()) };
    let (id, effects) = bench.ask(ObjectOp::Delete { bucket: "photos".into(), key: "cat".into(), precondition });
    let precondition = Precondition { absent: false, etag: Some("e".into()) };
    let delete = Command::Object(
        bucket(),
        ObjectCommand::DeleteObject { proposer: proposer(0), key: "cat".into(), at: WALL, precondition },
    );
    assert_eq!(effects, [next(bench.last(), bench.proposal(delete))]);
    let call = bench.last();
    let effects = bench.reply(call, meta(MetaAnswer::Deleted { existed: true }));
    assert_eq!(effects, [replied(id, Answer::Done), look(&bench, bench.last(), 1, None)]);
    assert_eq!(bench.reply(bench.last(), named(page(vec![]))), []);
    let effects = bench.wake(bench.now + Duration::from_millis(100));
    assert_eq!(effects, [look(&bench, bench.last(), 10, None)]);
}

#[test]
fn sends_a_delete_again_under_the_number_that_it_had() {
    let mut bench = Bench::new(spec());
    bench.know_the_bucket();
    let precondition = Precondition::default();
    let (id, effects) = bench.ask(ObjectOp::Delete { bucket: "photos".into(), key: "cat".into(), precondition });
    let (call, delete) = command(&effects);
    assert_eq!(delete.proposer(), Some(&proposer(0)));
    let effects = bench.reply(call, failure(ErrorKind::LinkLost));
    let (call, again) = command(&effects);
    assert_eq!(again, delete);
    assert_eq!(bench.reply(call, meta(MetaAnswer::Deleted { existed: false })), [replied(id, Answer::Done)]);
}

#[test]
fn what_is_in_another_code_is_deleted_where_that_has_it() {
    let code = Code { data: 1, parity: 2 };
    let mut bench = reclaiming();
    bench.wake(Instant(0));
    let coded = |row: Garbage| Garbage { extent: Extent { code: Some(code), ..row.extent }, ..row };
    let rows = vec![coded(garbage(70, 5, vec![])), garbage(71, 5, vec![])];
    let effects = bench.reply(Token(1), named(page(rows)));
    let said = effects.iter().map(|effect| match effect {
        Effect::Call { request: Request { op: Op::Stripe(op), .. }, .. } => (op.target().id.write.0, op.target().code),
        other => panic!("not a stripe: {other:?}"),
    });
    assert_eq!(said.collect::<Vec<_>>(), [(70, Some(code)), (71, None)]);
}
