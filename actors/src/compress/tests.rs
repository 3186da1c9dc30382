use std::sync::Arc;

use mesh_core::{
    Buf, Effect, Entropy, ErrorKind, Lane, Principal, Tokens, Trace,
    id::{BucketId, DriveId, KeyId, LayoutId, StripeId, TenantId, WriteId},
    meta::WrappedKey,
    op::{Binding, Part, ShardOp, StripeTarget},
    time::UnixMillis,
};

use super::*;
use Compression::{Auto, Off};

/// Nothing here is drawn.
struct Nothing;

impl Entropy for Nothing {
    fn fill(&mut self, _: &mut [u8]) {
        panic!("Compress draws no randomness");
    }
}

struct Bench {
    compress: Compress,
    tokens: Tokens,
}

impl Bench {
    fn new() -> Self {
        Self { compress: Compress::new(CompressSpec {}), tokens: Tokens::default() }
    }

    fn on(&mut self, event: Event) -> Vec<Effect> {
        let mut effects = Vec::new();
        let mut nothing = Nothing;
        let mut cx = Cx::new(Instant(0), UnixMillis(0), &mut effects, &mut self.tokens, &mut nothing);
        self.compress.on_event(event, &mut cx);
        effects
    }
}

fn target(compression: Compression) -> StripeTarget {
    let binding = Binding { tenant: TenantId(1), bucket: BucketId(2), bucket_name: "b".into(), object: "o".into() };
    let key = WrappedKey { key: KeyId(7), nonce: [1; 12], sealed: vec![2; 48] };
    StripeTarget {
        id: StripeId { write: WriteId(9), stripe: 4, attempt: 1 },
        layout: LayoutId(1),
        binding: Arc::new(binding),
        key: Some(Arc::new(key)),
        compression,
        code: None,
    }
}

fn write(compression: Compression, payload: &[u8]) -> Request {
    request(StripeOp::Write(target(compression)), payload)
}

fn read(compression: Compression) -> Request {
    request(StripeOp::Read { target: target(compression), avoid: vec![DriveId(3)], part: None }, b"")
}

#[test]
fn of_what_is_compressed_all_is_asked_for_and_of_the_rest_what_is_wanted() {
    let part = Some(Part { start: 1, len: 3, of: 5 });
    let read =
        |compression, part| request(StripeOp::Read { target: target(compression), avoid: vec![DriveId(3)], part }, b"");
    let mut bench = Bench::new();
    assert_eq!(bench.on(ask(50, read(Auto, part))), [call(1, read(Off, None))]);
    assert_eq!(bench.on(ask(51, read(Off, part))), [call(2, read(Off, part))]);
}

fn request(op: impl Into<Op>, payload: &[u8]) -> Request {
    let principal = Principal::User { tenant: TenantId(1), name: "u".into() };
    Request {
        op: op.into(),
        payload: Buf::copy_of(payload),
        principal,
        deadline: Instant(99),
        lane: Lane::Bulk,
        trace: Trace::new(9),
    }
}

fn ask(id: u64, request: Request) -> Event {
    Event::Request { id: Token(id), request }
}

fn call(token: u64, request: Request) -> Effect {
    Effect::Call { to: Target::Next, call: Token(token), request }
}

fn start(token: u64, job: ComputeJob) -> Effect {
    Effect::Start { work: Token(token), job: Job::Compute(job) }
}

fn reply(id: u64, outcome: Outcome) -> Effect {
    Effect::Reply { id: Token(id), outcome }
}

fn placed() -> Outcome {
    Ok(Answer::Placed { avoid: vec![DriveId(3)], shared: true }.into())
}

fn brought(payload: &[u8]) -> Outcome {
    Ok(Response { answer: Answer::Done, payload: payload.into() })
}

fn done(work: u64, bytes: &[u8]) -> Event {
    Event::Done { work: Token(work), outcome: Ok(WorkOutput::Bytes(bytes.into())) }
}

fn back(call: u64, outcome: Outcome) -> Event {
    Event::Reply { call: Token(call), outcome }
}

#[test]
fn compresses_a_write_then_sends_it_on_as_any_other_stripe() {
    let mut bench = Bench::new();
    let job = ComputeJob::Compress { plain: b"plain"[..].into() };
    assert_eq!(bench.on(ask(50, write(Auto, b"plain"))), [start(1, job)]);
    assert_eq!(bench.compress.in_flight(), 1);
    assert_eq!(bench.on(done(1, b"packed")), [call(2, write(Off, b"packed"))]);
    assert_eq!(bench.on(back(2, placed())), [reply(50, placed())]);
    assert_eq!(bench.compress.in_flight(), 0);
}

#[test]
fn asks_for_a_stripe_as_for_any_other_and_decompresses_it() {
    let mut bench = Bench::new();
    assert_eq!(bench.on(ask(50, read(Auto))), [call(1, read(Off))]);
    let job = ComputeJob::Decompress { packed: b"packed"[..].into() };
    assert_eq!(bench.on(back(1, brought(b"packed"))), [start(2, job)]);
    assert_eq!(bench.compress.in_flight(), 1);
    assert_eq!(bench.on(done(2, b"plain")), [reply(50, brought(b"plain"))]);
    assert_eq!(bench.compress.in_flight(), 0);
}

#[test]
fn passes_what_is_not_to_be_compressed_and_everything_else_unchanged() {
    let drop_it = |compression| request(StripeOp::Delete { target: target(compression), avoid: vec![] }, b"");
    for passed in [write(Off, b"plain"), read(Off), drop_it(Off), drop_it(Auto), request(ShardOp::Stat, b"x")] {
        let mut bench = Bench::new();
        assert_eq!(bench.on(ask(50, passed.clone())), [call(1, passed)]);
        assert_eq!(bench.on(back(1, brought(b"back"))), [reply(50, brought(b"back"))]);
        assert_eq!(bench.compress.in_flight(), 0);
    }
}

#[test]
fn moves_the_payload_and_keeps_no_second_view_of_it() {
    let mut bench = Bench::new();
    let mut effects = bench.on(ask(50, write(Auto, b"plain")));
    let Some(Effect::Start { job: Job::Compute(ComputeJob::Compress { mut plain }), .. }) = effects.pop() else {
        panic!("no work")
    };
    assert!(plain.as_mut().is_some(), "unshared");
}

#[test]
fn an_error_of_work_or_of_the_next_stage_is_the_reply() {
    let corrupt = || Error::new(ErrorKind::Corrupt, "no");
    let failed = |work| Event::Done { work: Token(work), outcome: Err(corrupt()) };
    let mut bench = Bench::new();
    bench.on(ask(50, write(Auto, b"plain")));
    assert_eq!(bench.on(failed(1)), [reply(50, Err(corrupt()))]);

    bench.on(ask(51, read(Auto)));
    assert_eq!(bench.on(back(2, Err(corrupt()))), [reply(51, Err(corrupt()))]);

    bench.on(ask(52, read(Auto)));
    bench.on(back(3, brought(b"packed")));
    assert_eq!(bench.on(failed(4)), [reply(52, Err(corrupt()))]);

    bench.on(ask(53, read(Auto)));
    bench.on(back(5, brought(b"packed")));
    let nonsense = bench.on(Event::Done { work: Token(6), outcome: Ok(WorkOutput::Done) });
    assert!(
        matches!(&nonsense[..], [Effect::Reply { id: Token(53), outcome: Err(error) }] if error.kind() == ErrorKind::Bug)
    );
    assert_eq!(bench.compress.in_flight(), 0);
}

#[test]
fn requests_do_not_wait_for_each_other() {
    let mut bench = Bench::new();
    bench.on(ask(50, write(Auto, b"one")));
    bench.on(ask(51, write(Auto, b"two")));
    bench.on(ask(52, read(Auto)));
    assert_eq!(bench.on(done(2, b"TWO")), [call(4, write(Off, b"TWO"))]);
    assert_eq!(bench.on(done(1, b"ONE")), [call(5, write(Off, b"ONE"))]);
    assert_eq!(bench.compress.in_flight(), 3);
    assert_eq!(bench.on(back(5, placed())), [reply(50, placed())]);
    assert_eq!(bench.on(back(4, placed())), [reply(51, placed())]);
}

#[test]
fn has_no_state_to_carry_over_and_waits_for_nobody_when_it_moves() {
    let mut bench = Bench::new();
    bench.on(ask(50, write(Auto, b"one")));
    assert!(bench.compress.lingers());
    assert!(bench.compress.snapshot(None).is_empty());
    assert!(bench.compress.restore(&Snapshot::default()).is_ok());
    let foreign = Snapshot { entries: vec![(vec![1], None)], ..Snapshot::default() };
    assert_eq!(bench.compress.restore(&foreign).unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(bench.compress.wake_at(), None);
}
