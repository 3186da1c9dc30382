//! Blocks of write ids come to their end.

use mesh_core::limits::BUDGET_DEFAULT;

use super::*;

fn begin() -> ObjectOp {
    ObjectOp::Begin { bucket: "photos".into(), key: "cat".into(), destination: whole() }
}

fn close(bench: &Bench, first: u64) -> Effect {
    let command = Arc::new(Command::Upkeep(GROUP, UpkeepCommand::CloseBlock { first: WriteId(first) }));
    let deadline = bench.now + BUDGET_DEFAULT;
    job(bench.last(), Job::Propose { command, deadline })
}

fn done() -> mesh_core::WorkOutcome {
    Ok(WorkOutput::Meta(Arc::new(MetaAnswer::Done)))
}

/// Opens two writes, 100 and 101, which are all of a block. The next block is asked for in vain.
fn used_up() -> Bench {
    let mut bench = Bench::new(spec());
    bench.know_the_bucket();
    let (_, effects) = bench.ask(begin());
    let block = MetaAnswer::Block { first: WriteId(100), count: 2 };
    let outcome = Ok(WorkOutput::Meta(Arc::new(block)));
    assert_eq!(bench.event(Event::Done { work: only_work(&effects), outcome }).len(), 1);
    let (_, effects) = bench.ask(begin());
    assert!(matches!(&effects[..], [Effect::Start { .. }, Effect::Reply { outcome: Ok(_), .. }]), "{effects:?}");
    bench
}

#[test]
fn a_used_up_block_is_closed_when_the_last_of_its_writes_has_ended() {
    let mut bench = used_up();
    let mut at = bench.now;
    for write in [100, 101] {
        at = at + Duration::from_secs(5);
        assert_eq!(bench.wake(at), [], "{write} is open");
        let (id, effects) = bench.ask(ObjectOp::Abort { write: WriteId(write) });
        assert_eq!(effects, [replied(id, Answer::Done)]);
    }
    at = at + Duration::from_secs(5);
    let effects = bench.wake(at);
    assert_eq!(effects, [close(&bench, 100)]);
    assert_eq!(bench.event(Event::Done { work: only_work(&effects), outcome: done() }), []);
    assert_eq!(bench.object.wake_at(), None);
}

#[test]
fn a_request_that_holds_an_id_holds_its_block() {
    let mut bench = used_up();
    assert_eq!(bench.ask(ObjectOp::Abort { write: WriteId(101) }).1.len(), 1);
    let (_, effects) = bench.finish(WriteId(100), 0);
    // The write is open no more, but whether it takes effect is not known yet.
    assert_eq!(bench.wake(Instant(1) + Duration::from_secs(5)), []);
    let committed = MetaAnswer::Committed { version: WriteId(100), etag: "e1".into() };
    assert_eq!(bench.reply(only_call(&effects), meta(committed)).len(), 1);
    let effects = bench.wake(Instant(1) + Duration::from_secs(10));
    assert_eq!(effects, [close(&bench, 100)]);
}

#[test]
fn a_close_that_fails_is_tried_again_later_and_later() {
    let mut bench = used_up();
    for write in [100, 101] {
        bench.ask(ObjectOp::Abort { write: WriteId(write) });
    }
    let mut at = bench.now + Duration::from_secs(5);
    for pause in [10, 20, 40, 60, 60] {
        let effects = bench.wake(at);
        assert_eq!(effects, [close(&bench, 100)]);
        let outcome = Err(Error::new(ErrorKind::Invalid, "planted"));
        assert_eq!(bench.event(Event::Done { work: only_work(&effects), outcome }), []);
        at = at + Duration::from_secs(pause);
    }
}

#[test]
fn ids_of_an_old_block_are_given_out_no_more() {
    let mut bench = Bench::new(spec());
    let write = bench.begin();
    bench.ask(ObjectOp::Abort { write });
    let at = bench.block_is_old_at();
    assert_eq!(bench.wake(at), []);
    let effects = bench.wake(at + Duration::from_secs(5));
    assert_eq!(effects, [close(&bench, 100)]);
    assert_eq!(bench.event(Event::Done { work: only_work(&effects), outcome: done() }), []);
    let (_, effects) = bench.ask(begin());
    let open = Command::Upkeep(GROUP, UpkeepCommand::OpenBlock { proposer: proposer(1) });
    let deadline = bench.now + BUDGET_DEFAULT;
    assert_eq!(effects, [job(bench.last(), Job::Propose { command: Arc::new(open), deadline })]);
}

#[test]
fn a_block_that_was_found_closed_is_not_closed_again() {
    let mut bench = used_up();
    assert_eq!(bench.ask(ObjectOp::Abort { write: WriteId(101) }).1.len(), 1);
    let (_, effects) = bench.finish(WriteId(100), 0);
    let effects = bench.reply(only_call(&effects), failure(ErrorKind::Conflict));
    assert_eq!(refused(&effects), ErrorKind::Overloaded);
    assert_eq!(bench.object.wake_at(), None);
}
