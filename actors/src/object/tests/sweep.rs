//! The sweep of closed blocks.

use mesh_core::{
    id::ShardId,
    limits::{BUDGET_DEFAULT, SHARD_BATCH_MAX},
    meta::{Reference, RepairState, Run, Shape},
    op::{Head, ShardOp},
    spec::FunctionSpec,
    topology::{Code, Layout},
};

use super::*;

/// A function that reclaims a group over two drives, a moment before its first look for closed blocks. Its question
/// for garbage stays without an answer.
fn sweeping() -> Bench {
    let mut bench = Bench::new(over(2));
    assert_eq!(bench.wake(Instant(0)).len(), 1);
    bench
}

fn over(drives: u64) -> ObjectSpec {
    let layouts = BTreeMap::from([(LAYOUT, Arc::new(layout()))]);
    ObjectSpec { reclaims: vec![GROUP], drives: (1..=drives).map(DriveId).collect(), layouts, ..spec() }
}

/// Of two shards the first lies on drive 1, the second on drive 2; without one of these on drive 3.
fn layout() -> Layout {
    let drives: Vec<DriveId> = (1..=3).map(DriveId).collect();
    let domains = drives.iter().map(|drive| (*drive, NodeId(drive.0))).collect();
    Layout {
        id: LAYOUT,
        code: Code { data: 1, parity: 1 },
        groups: vec![drives],
        domains,
        line: 0,
        others: Vec::new(),
        places: mesh_core::topology::Places::default(),
        rule: mesh_core::topology::Rule::default(),
    }
}

/// A write of one stripe.
fn used(runs: Vec<Run>) -> Reference {
    Reference::Used(Some(Shape { layout: LAYOUT, stripes: 1, runs, code: None }))
}

/// How far every drive's log has come.
const HEAD: Head = Head { epoch: Epoch(3), start: 7, lsn: 50 };

fn seconds(count: u64) -> Instant {
    Instant(0) + Duration::from_secs(count)
}

fn system(bench: &Bench, op: impl Into<Op>) -> Request {
    Request { lane: Lane::Bulk, ..Request::system(op, bench.now + BUDGET_DEFAULT) }
}

fn asked(bench: &Bench, call: Token, query: Query) -> Effect {
    let request = system(bench, Op::Query { group: GROUP, query: Arc::new(query) });
    Effect::Call { to: Target::Metadata, call, request }
}

fn look(bench: &Bench, after: Option<u64>) -> Effect {
    asked(bench, bench.last(), Query::ClosedBlocks { after: after.map(WriteId), limit: 256 })
}

fn closed(blocks: impl IntoIterator<Item = u64>) -> Outcome {
    meta(MetaAnswer::ClosedBlocks(blocks.into_iter().map(|first| (WriteId(first), 4)).collect()))
}

/// Lets the function look until the blocks seen at 10 s have been closed for the grace, at 70 s.
fn ripen(bench: &mut Bench, blocks: &[u64]) -> Vec<Effect> {
    for at in (10..70).step_by(10) {
        let effects = bench.wake(seconds(at));
        assert_eq!(effects, [look(bench, None)]);
        assert_eq!(bench.reply(only_call(&effects), closed(blocks.iter().copied())), []);
    }
    bench.wake(seconds(70))
}

fn id(write: u64, stripe: u32, shard: u8) -> ShardId {
    StripeId { write: WriteId(write), stripe, attempt: 0 }.shard(shard)
}

fn end_of(write: u64) -> ShardId {
    StripeId { write: WriteId(write), stripe: u32::MAX, attempt: u8::MAX }.shard(u8::MAX)
}

fn shards(ids: &[ShardId], more: bool) -> Outcome {
    let page = ids.iter().map(|id| (*id, 4096)).collect();
    Ok(Answer::Shards { page, more, head: HEAD }.into())
}

/// What is asked of drives: the call, the drive and the question.
fn drives(bench: &Bench, effects: &[Effect]) -> Vec<(Token, u64, ShardOp)> {
    let one = |effect: &Effect| match effect {
        Effect::Call { to: Target::Actor(actor), call, request } => {
            let Op::Shard(op) = &request.op else { panic!("not of shards: {request:?}") };
            assert_eq!(*request, system(bench, (**op).clone()));
            (*call, actor.as_drive().expect("a drive").0, (**op).clone())
        }
        other => panic!("not for a drive: {other:?}"),
    };
    effects.iter().map(one).collect()
}

fn list(after: ShardId) -> ShardOp {
    ShardOp::List { after: Some(after), limit: SHARD_BATCH_MAX as u32, relies: None }
}

/// A block, 100 to 103, in hand: the lists of both drives are out.
fn walking(references: [Reference; 4]) -> (Bench, Token, Token) {
    let mut bench = sweeping();
    let effects = ripen(&mut bench, &[100]);
    let writes = (100..104).map(WriteId).collect();
    assert_eq!(effects, [asked(&bench, bench.last(), Query::Referenced { writes })]);
    let effects = bench.reply(only_call(&effects), meta(MetaAnswer::Referenced(references.to_vec())));
    let [(one, 1, ref ask), (two, 2, ref same)] = drives(&bench, &effects)[..] else { panic!("{effects:?}") };
    assert_eq!((ask, same), (&list(end_of(99)), ask));
    (bench, one, two)
}

fn swept(bench: &Bench, first: u64) -> Effect {
    let command = Arc::new(Command::Upkeep(GROUP, UpkeepCommand::SweptBlock { first: WriteId(first) }));
    job(bench.last(), Job::Propose { command, deadline: bench.now + BUDGET_DEFAULT })
}

#[test]
fn shards_of_writes_that_nobody_refers_to_are_deleted_and_then_the_block_is_forgotten() {
    let (mut bench, one, two) = walking([used(vec![]), Reference::Nobody, used(vec![]), Reference::Nobody]);
    assert_eq!(bench.object.in_flight(), 3);
    let found = [id(100, 0, 0), id(101, 0, 1), id(101, 7, 1), id(102, 0, 0), id(103, 0, 1), id(104, 0, 1)];
    let effects = bench.reply(one, shards(&found, false));
    let [(call, 1, ShardOp::Delete { ids, .. })] = &drives(&bench, &effects)[..] else { panic!("{effects:?}") };
    assert_eq!(ids, &[id(101, 0, 1), id(101, 7, 1), id(103, 0, 1)]);
    assert_eq!(bench.reply(*call, Ok(Answer::Done.into())), []);
    let effects = bench.reply(two, shards(&[], false));
    assert_eq!(effects, [swept(&bench, 100)]);
    let done = Ok(WorkOutput::Meta(Arc::new(MetaAnswer::Done)));
    assert_eq!(bench.event(Event::Done { work: only_work(&effects), outcome: done }), []);
    assert_eq!(bench.object.in_flight(), 1);
    // It looks again, and again.
    assert_eq!(bench.wake(seconds(70) + Duration::from_millis(100)), [look(&bench, None)]);
}

#[test]
fn of_a_write_that_is_referred_to_only_its_own_shards_are_left() {
    let run = Run { first: 0, count: 1, attempt: 1, avoid: vec![DriveId(1)], shared: false };
    let (mut bench, one, two) = walking([used(vec![]), used(vec![run]), Reference::Used(None), Reference::Nobody]);
    let attempt = |write, attempt, shard| StripeId { write: WriteId(write), stripe: 0, attempt }.shard(shard);
    // Its own, one of an attempt that was given up, one of another drive, and one behind the end.
    let found = [id(100, 0, 0), id(100, 0, 1), attempt(100, 1, 0), id(100, 1, 0), attempt(101, 1, 0)];
    let effects = bench.reply(one, shards(&found, false));
    assert_eq!(effects, [asked(&bench, bench.last(), Query::Repair)]);
    let effects = bench.reply(only_call(&effects), repair_for(LAYOUT.0));
    let [(call, 1, ShardOp::Delete { ids, .. })] = &drives(&bench, &effects)[..] else { panic!("{effects:?}") };
    // What drive 1 took after all of the second write is another drive's.
    assert_eq!(ids, &found[1..]);
    assert_eq!(bench.reply(*call, Ok(Answer::Done.into())), []);
    let found = [id(100, 0, 1), id(101, 0, 0), attempt(101, 1, 0), id(102, 0, 0)];
    let effects = bench.reply(two, shards(&found, false));
    let effects = bench.reply(only_call(&effects), repair_for(0));
    let [(_, 2, ShardOp::Delete { ids, until })] = &drives(&bench, &effects)[..] else { panic!("{effects:?}") };
    assert_eq!(ids, &[id(101, 0, 0), id(102, 0, 0)]);
    assert_eq!(*until, Some(HEAD), "what comes to the drive from now on is none of these");
}

/// How far the group is with repair.
fn repair_for(layout: u64) -> Outcome {
    meta(MetaAnswer::Repair(RepairState { marked: LayoutId(layout), ..RepairState::default() }))
}

#[test]
fn what_may_have_been_moved_for_a_layout_that_is_not_known_here_is_left() {
    let (mut bench, one, two) = walking([used(vec![]), Reference::Nobody, Reference::Nobody, Reference::Nobody]);
    let effects = bench.reply(one, shards(&[id(100, 0, 1)], false));
    assert_eq!(bench.reply(only_call(&effects), repair_for(LAYOUT.0 + 1)), []);
    // The other drive has none of those: nobody moves what nobody refers to.
    let effects = bench.reply(two, shards(&[id(101, 0, 1)], false));
    let [(call, 2, ShardOp::Delete { .. })] = drives(&bench, &effects)[..] else { panic!("{effects:?}") };
    // The block is put off, and the first drive is asked again.
    assert_eq!(bench.reply(call, Ok(Answer::Done.into())), []);
    let looked = bench.wake(seconds(70) + Duration::from_millis(100));
    assert_eq!(looked, [look(&bench, None)]);
    assert_eq!(bench.reply(only_call(&looked), closed([100])), []);
    let effects = bench.wake(seconds(80));
    let effects = bench.reply(only_call(&effects), meta(MetaAnswer::Referenced(vec![used(vec![]); 4])));
    assert_eq!(drives(&bench, &effects), [(bench.last(), 1, list(end_of(99)))]);
}

#[test]
fn what_refers_to_a_block_is_told_a_part_at_a_time() {
    let mut bench = sweeping();
    let effects = ripen(&mut bench, &[100]);
    let effects = bench.reply(only_call(&effects), meta(MetaAnswer::Referenced(vec![Reference::Nobody; 3])));
    let rest = Query::Referenced { writes: vec![WriteId(103)] };
    assert_eq!(effects, [asked(&bench, bench.last(), rest)]);
    let effects = bench.reply(only_call(&effects), meta(MetaAnswer::Referenced(vec![Reference::Nobody])));
    assert_eq!(drives(&bench, &effects).len(), 2);
}

#[test]
fn a_block_is_put_off_while_it_cannot_be_told_what_is_a_write_s_own() {
    let elsewhere = Reference::Used(Some(Shape { layout: LayoutId(99), stripes: 1, runs: vec![], code: None }));
    for strange in [vec![Reference::Open], vec![elsewhere], vec![], vec![Reference::Nobody; 5]] {
        let mut bench = sweeping();
        let effects = ripen(&mut bench, &[100]);
        assert_eq!(bench.reply(only_call(&effects), meta(MetaAnswer::Referenced(strange))), []);
        assert_eq!(bench.object.in_flight(), 1);
    }
}

#[test]
fn a_walk_goes_on_behind_a_page_to_the_end_of_the_block() {
    let (mut bench, one, _) = walking([Reference::Nobody, used(vec![]), used(vec![]), Reference::Nobody]);
    let effects = bench.reply(one, shards(&[id(100, 0, 0), id(100, 1, 0)], true));
    let [(call, 1, ShardOp::Delete { .. })] = drives(&bench, &effects)[..] else { panic!("{effects:?}") };
    let effects = bench.reply(call, Ok(Answer::Done.into()));
    let [(call, 1, ref op)] = drives(&bench, &effects)[..] else { panic!("{effects:?}") };
    assert_eq!(*op, list(id(100, 1, 0)));
    let effects = bench.reply(call, shards(&[id(101, 0, 0)], true));
    let [(call, 1, ref op)] = drives(&bench, &effects)[..] else { panic!("{effects:?}") };
    assert_eq!(*op, list(id(101, 0, 0)));
    assert_eq!(bench.reply(call, shards(&[id(104, 0, 0)], true)), [], "behind the block: this drive is done");
    assert_eq!(bench.object.in_flight(), 2);
}

#[test]
fn a_drive_that_does_not_answer_puts_its_block_off_and_the_rest_is_not_done_again() {
    let (mut bench, one, two) = walking([const { Reference::Nobody }; 4]);
    assert_eq!(bench.reply(one, shards(&[], false)), []);
    assert_eq!(bench.reply(two, failure(ErrorKind::Unreachable)), []);
    assert_eq!(bench.object.in_flight(), 1);
    let looking = bench.wake(seconds(70) + Duration::from_millis(100));
    assert_eq!(looking, [look(&bench, None)]);
    assert_eq!(bench.reply(only_call(&looking), closed([100])), []);
    let effects = bench.wake(seconds(80));
    let effects = bench.reply(only_call(&effects), meta(MetaAnswer::Referenced(vec![Reference::Nobody; 4])));
    let [(call, 2, ShardOp::List { .. })] = drives(&bench, &effects)[..] else { panic!("{effects:?}") };
    assert_eq!(bench.reply(call, shards(&[], false)), [swept(&bench, 100)]);
}

#[test]
fn nonsense_from_a_drive_is_a_failure_of_that_drive() {
    let nonsense = [
        shards(&[], true),
        shards(&[id(99, 0, 0)], true),
        shards(&[id(101, 0, 0), id(100, 0, 0)], true),
        Ok(Answer::Done.into()),
    ];
    for outcome in nonsense {
        let (mut bench, one, two) = walking([const { Reference::Nobody }; 4]);
        assert_eq!(bench.reply(one, outcome), []);
        assert_eq!(bench.reply(two, shards(&[], false)), [], "the block is not forgotten");
        assert_eq!(bench.object.in_flight(), 1);
    }
}

#[test]
fn a_block_in_trouble_does_not_hold_up_another() {
    let mut bench = sweeping();
    let effects = ripen(&mut bench, &[100, 200]);
    assert_eq!(bench.reply(only_call(&effects), failure(ErrorKind::Invalid)), []);
    let effects = bench.wake(seconds(70) + Duration::from_millis(100));
    let writes = (200..204).map(WriteId).collect();
    assert_eq!(effects, [asked(&bench, bench.last(), Query::Referenced { writes })]);
}

#[test]
fn blocks_that_cannot_be_swept_do_not_hide_those_behind_them() {
    let mut bench = sweeping();
    let mut tried = 0;
    loop {
        let at = bench.object.wake_at().expect("it goes on");
        let effects = bench.wake(at);
        let [Effect::Call { call, request: Request { op: Op::Query { query, .. }, .. }, .. }] = &effects[..] else {
            panic!("{effects:?}")
        };
        match &**query {
            Query::ClosedBlocks { after: None, .. } => {
                assert_eq!(bench.reply(*call, closed((1..=256).map(|block| block * 4))), []);
            }
            Query::ClosedBlocks { after, .. } => {
                assert_eq!(*after, Some(WriteId(1024)));
                break;
            }
            Query::Referenced { .. } => {
                tried += 1;
                assert_eq!(bench.reply(*call, failure(ErrorKind::Invalid)), []);
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(tried >= 256, "{tried}");
    // There are none behind them: it begins anew.
    assert_eq!(bench.reply(bench.last(), closed([])), []);
    let at = bench.object.wake_at().expect("it goes on");
    assert_eq!(bench.wake(at), [look(&bench, None)]);
}

#[test]
fn a_group_that_is_taken_away_is_let_go_of_at_once() {
    let (mut bench, one, two) = walking([const { Reference::Nobody }; 4]);
    let other = FunctionSpec::Chain(vec![FunctionSpec::Object(spec())]);
    assert_eq!(bench.event(Event::Configure(Arc::new(other))), []);
    assert_eq!(bench.event(Event::Configure(Arc::new(FunctionSpec::Object(over(2))))), []);
    assert_eq!(bench.reply(one, shards(&[], false)), []);
    assert_eq!(bench.reply(two, shards(&[], false)), [], "this was for an earlier term");
    assert_eq!(bench.object.in_flight(), 1);
    assert_eq!(bench.wake(seconds(80)), [look(&bench, None)]);
}

#[test]
fn a_drive_that_is_registered_meanwhile_is_walked_over_too() {
    let (mut bench, one, two) = walking([const { Reference::Nobody }; 4]);
    assert_eq!(bench.event(Event::Configure(Arc::new(FunctionSpec::Object(over(3))))), []);
    assert_eq!(bench.reply(one, shards(&[], false)), []);
    assert_eq!(bench.reply(two, shards(&[], false)), [], "not done before the third");
}
