use mesh_core::{
    Effect, Entropy, ErrorKind, Lane, Principal, Tokens, Trace,
    id::{BucketId, DriveId, KeyId, LayoutId, TenantId, WriteId},
    meta::Compression,
    op::{Part, ShardOp},
    time::UnixMillis,
};

use super::*;

struct Counting(u8);

impl Entropy for Counting {
    fn fill(&mut self, target: &mut [u8]) {
        target.fill(self.0);
        self.0 += 1;
    }
}

struct Bench {
    encrypt: Encrypt,
    tokens: Tokens,
    entropy: Counting,
}

impl Bench {
    fn new() -> Self {
        Self { encrypt: Encrypt::new(EncryptSpec {}), tokens: Tokens::default(), entropy: Counting(1) }
    }

    fn on(&mut self, event: Event) -> Vec<Effect> {
        let mut effects = Vec::new();
        let mut cx = Cx::new(Instant(0), UnixMillis(0), &mut effects, &mut self.tokens, &mut self.entropy);
        self.encrypt.on_event(event, &mut cx);
        effects
    }
}

fn key() -> Arc<WrappedKey> {
    Arc::new(WrappedKey { key: KeyId(7), nonce: [1; 12], sealed: vec![2; 48] })
}

fn binding() -> Arc<Binding> {
    Arc::new(Binding { tenant: TenantId(1), bucket: BucketId(2), bucket_name: "b".into(), object: "o".into() })
}

fn stripe() -> StripeId {
    StripeId { write: WriteId(9), stripe: 4, attempt: 1 }
}

fn target(key: Option<Arc<WrappedKey>>) -> StripeTarget {
    StripeTarget {
        id: stripe(),
        layout: LayoutId(1),
        binding: binding(),
        key,
        compression: Compression::Off,
        code: None,
    }
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

#[test]
fn seals_a_write_with_a_fresh_salt_then_sends_it_on() {
    let mut bench = Bench::new();
    for (salt, base) in [(1, 0), (2, 2)] {
        let write = request(StripeOp::Write(target(Some(key()))), b"plain");
        let plain = Buf::copy_of(b"plain");
        let job = ComputeJob::Seal { key: key(), salt: [salt; 32], binding: binding(), stripe: stripe(), plain };
        assert_eq!(bench.on(ask(50, write.clone())), [start(base + 1, job)]);
        assert_eq!(bench.encrypt.in_flight(), 1);
        let sealed = Ok(WorkOutput::Bytes(Buf::copy_of(b"sealed")));
        let onward = request(StripeOp::Write(target(Some(key()))), b"sealed");
        assert_eq!(bench.on(Event::Done { work: Token(base + 1), outcome: sealed }), [call(base + 2, onward)]);
        assert_eq!(bench.on(Event::Reply { call: Token(base + 2), outcome: placed() }), [reply(50, placed())]);
        assert_eq!(bench.encrypt.in_flight(), 0);
    }
}

#[test]
fn opens_what_a_read_brings() {
    let mut bench = Bench::new();
    let read = request(StripeOp::Read { target: target(Some(key())), avoid: vec![DriveId(3)], part: None }, b"");
    assert_eq!(bench.on(ask(50, read.clone())), [call(1, read)]);
    let sealed = Buf::copy_of(b"sealed");
    let brought = Ok(Response { answer: Answer::Done, payload: sealed.clone() });
    let job = ComputeJob::Open { key: key(), binding: binding(), stripe: stripe(), sealed, part: None };
    assert_eq!(bench.on(Event::Reply { call: Token(1), outcome: brought }), [start(2, job)]);
    assert_eq!(bench.encrypt.in_flight(), 1);
    let plain = Buf::copy_of(b"plain");
    let opened = Event::Done { work: Token(2), outcome: Ok(WorkOutput::Bytes(plain.clone())) };
    assert_eq!(bench.on(opened), [reply(50, Ok(Response { answer: Answer::Done, payload: plain }))]);
    assert_eq!(bench.encrypt.in_flight(), 0);
}

#[test]
fn opens_what_is_wanted_of_it() {
    let mut bench = Bench::new();
    let part = Some(Part { start: 1, len: 3, of: 5 });
    let read = |part| request(StripeOp::Read { target: target(Some(key())), avoid: vec![], part }, b"");
    // All of it is brought: which drives have the part is told by nobody here.
    assert_eq!(bench.on(ask(50, read(part))), [call(1, read(None))]);
    let sealed = Buf::copy_of(b"sealed");
    let brought = Ok(Response { answer: Answer::Done, payload: sealed.clone() });
    let job = ComputeJob::Open { key: key(), binding: binding(), stripe: stripe(), sealed, part };
    assert_eq!(bench.on(Event::Reply { call: Token(1), outcome: brought }), [start(2, job)]);
}

#[test]
fn passes_what_has_no_key_and_everything_else_unchanged() {
    let drop_it = StripeOp::Delete { target: target(Some(key())), avoid: vec![] };
    for passed in [
        request(StripeOp::Write(target(None)), b"plain"),
        request(StripeOp::Read { target: target(None), avoid: vec![], part: None }, b""),
        request(drop_it, b""),
        request(ShardOp::Stat, b"x"),
    ] {
        let mut bench = Bench::new();
        assert_eq!(bench.on(ask(50, passed.clone())), [call(1, passed)]);
        let back: Outcome = Ok(Response { answer: Answer::Done, payload: Buf::copy_of(b"back") });
        assert_eq!(bench.on(Event::Reply { call: Token(1), outcome: back.clone() }), [reply(50, back)]);
        assert_eq!(bench.encrypt.in_flight(), 0);
    }
}

#[test]
fn moves_the_payload_and_keeps_no_second_view_of_it() {
    let mut bench = Bench::new();
    let mut effects = bench.on(ask(50, request(StripeOp::Write(target(Some(key()))), b"plain")));
    let Some(Effect::Start { job: Job::Compute(ComputeJob::Seal { mut plain, .. }), .. }) = effects.pop() else {
        panic!("no work")
    };
    assert!(plain.as_mut().is_some(), "unshared");
}

#[test]
fn an_error_of_work_or_of_the_next_stage_is_the_reply() {
    let corrupt = || Error::new(ErrorKind::Corrupt, "no");
    let read = || request(StripeOp::Read { target: target(Some(key())), avoid: vec![], part: None }, b"");

    let mut bench = Bench::new();
    bench.on(ask(50, request(StripeOp::Write(target(Some(key()))), b"plain")));
    assert_eq!(bench.on(Event::Done { work: Token(1), outcome: Err(corrupt()) }), [reply(50, Err(corrupt()))]);

    bench.on(ask(51, read()));
    assert_eq!(bench.on(Event::Reply { call: Token(2), outcome: Err(corrupt()) }), [reply(51, Err(corrupt()))]);

    bench.on(ask(52, read()));
    bench.on(Event::Reply { call: Token(3), outcome: Ok(Answer::Done.into()) });
    assert_eq!(bench.on(Event::Done { work: Token(4), outcome: Err(corrupt()) }), [reply(52, Err(corrupt()))]);

    bench.on(ask(53, read()));
    bench.on(Event::Reply { call: Token(5), outcome: Ok(Answer::Done.into()) });
    let nonsense = bench.on(Event::Done { work: Token(6), outcome: Ok(WorkOutput::Done) });
    assert!(
        matches!(&nonsense[..], [Effect::Reply { id: Token(53), outcome: Err(error) }] if error.kind() == ErrorKind::Bug)
    );
    assert_eq!(bench.encrypt.in_flight(), 0);
}

#[test]
fn requests_do_not_wait_for_each_other() {
    let mut bench = Bench::new();
    bench.on(ask(50, request(StripeOp::Write(target(Some(key()))), b"one")));
    bench.on(ask(51, request(StripeOp::Write(target(Some(key()))), b"two")));
    let done = |work, bytes: &[u8]| Event::Done { work: Token(work), outcome: Ok(WorkOutput::Bytes(bytes.into())) };
    let onward = |bytes| request(StripeOp::Write(target(Some(key()))), bytes);
    assert_eq!(bench.on(done(2, b"TWO")), [call(3, onward(b"TWO"))]);
    assert_eq!(bench.on(done(1, b"ONE")), [call(4, onward(b"ONE"))]);
    assert_eq!(bench.encrypt.in_flight(), 2);
    assert_eq!(bench.on(Event::Reply { call: Token(4), outcome: placed() }), [reply(50, placed())]);
    assert_eq!(bench.on(Event::Reply { call: Token(3), outcome: placed() }), [reply(51, placed())]);
}

#[test]
fn has_no_state_to_carry_over() {
    let mut bench = Bench::new();
    assert!(bench.encrypt.snapshot(None).is_empty());
    assert!(bench.encrypt.restore(&Snapshot::default()).is_ok());
    let foreign = Snapshot { entries: vec![(vec![1], None)], ..Snapshot::default() };
    assert_eq!(bench.encrypt.restore(&foreign).unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(bench.encrypt.wake_at(), None);
}
