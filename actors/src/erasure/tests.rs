use std::sync::Arc;

use mesh_core::{
    Answer, Effect, Entropy, Job as Work, Response, Target, Tokens,
    id::{ActorId, BucketId, DriveId, LayoutId, NodeId, ShardId, StripeId, TenantId, WriteId},
    op::{Binding, StripeTarget},
    port::{ComputeJob, WorkOutput},
    time::UnixMillis,
    topology::{Code, DriveState, Layout},
};

use super::*;

const CODE: Code = Code { data: 2, parity: 1 };
const ASKER: Token = Token(500);
const MS: u64 = 1_000_000;

struct NoEntropy;

impl Entropy for NoEntropy {
    fn fill(&mut self, _: &mut [u8]) {
        panic!("Erasure draws no randomness")
    }
}

struct Bench {
    erasure: Erasure,
    tokens: Tokens,
    now: Instant,
}

impl Bench {
    fn new(spec: ErasureSpec) -> Self {
        Self { erasure: Erasure::new(spec), tokens: Tokens::default(), now: Instant(1000 * MS) }
    }

    /// Six drives, two on each of three nodes, all up.
    fn whole() -> Self {
        Self::new(spec(&[]))
    }

    fn on(&mut self, event: Event) -> Vec<Effect> {
        let mut effects = Vec::new();
        let mut entropy = NoEntropy;
        let mut cx = Cx::new(self.now, UnixMillis(0), &mut effects, &mut self.tokens, &mut entropy);
        self.erasure.on_event(event, &mut cx);
        effects
    }

    fn ask(&mut self, op: StripeOp, payload: &[u8]) -> Vec<Effect> {
        self.on(Event::Request { id: ASKER, request: request(op, payload) })
    }

    fn answer(&mut self, call: u64, outcome: Outcome) -> Vec<Effect> {
        self.on(Event::Reply { call: Token(call), outcome })
    }

    fn done(&mut self, work: u64, output: WorkOutput) -> Vec<Effect> {
        self.on(Event::Done { work: Token(work), outcome: Ok(output) })
    }

    fn pass(&mut self, span: core::time::Duration) {
        self.now = self.now + span;
    }

    /// Starts a write and codes it: tokens 1 (work) and 2, 3, 4 (shards).
    fn write(&mut self) -> Vec<Effect> {
        let effects = self.ask(StripeOp::Write(target()), b"stripe");
        let bytes = Buf::copy_of(b"stripe");
        assert_eq!(effects, [start(1, ComputeJob::Encode { code: CODE, bytes })]);
        self.done(1, WorkOutput::Shards(shards()))
    }
}

fn spec(down: &[u64]) -> ErasureSpec {
    let drives: Vec<DriveId> = [1, 3, 5, 2, 4, 6].map(DriveId).to_vec();
    let layout = Layout {
        id: LayoutId(1),
        code: CODE,
        domains: drives.iter().map(|drive| (*drive, NodeId((drive.0 - 1) / 2))).collect(),
        groups: vec![drives.clone()],
    };
    let state = |drive: &DriveId| if down.contains(&drive.0) { DriveState::Down } else { DriveState::Up };
    ErasureSpec {
        layouts: [(LayoutId(1), Arc::new(layout))].into(),
        drives: drives.iter().map(|drive| (*drive, state(drive))).collect(),
    }
}

fn stripe() -> StripeId {
    StripeId { write: WriteId(9), stripe: 4, attempt: 1 }
}

fn target() -> StripeTarget {
    let binding = Binding { tenant: TenantId(7), bucket: BucketId(2), bucket_name: "b".into(), object: "o".into() };
    StripeTarget { id: stripe(), layout: LayoutId(1), binding: Arc::new(binding), key: None }
}

fn principal() -> Principal {
    Principal::User { tenant: TenantId(7), name: "u".into() }
}

fn request(op: StripeOp, payload: &[u8]) -> Request {
    let deadline = Instant(31_000 * MS);
    Request { op: op.into(), payload: Buf::copy_of(payload), principal: principal(), deadline, lane: Lane::Bulk }
}

fn shards() -> Vec<(Buf, u32)> {
    [b"stri", b"pe00", b"####"].into_iter().zip(10..).map(|(bytes, crc)| (Buf::copy_of(bytes), crc)).collect()
}

fn start(token: u64, job: ComputeJob) -> Effect {
    Effect::Start { work: Token(token), job: Work::Compute(job) }
}

fn reply(outcome: Outcome) -> Effect {
    Effect::Reply { id: ASKER, outcome }
}

fn placed(avoid: &[u64], shared: bool) -> Effect {
    reply(Ok(Answer::Placed { avoid: avoid.iter().copied().map(DriveId).collect(), shared }.into()))
}

fn shard(place: u8) -> ShardId {
    stripe().shard(place)
}

fn to_drive(token: u64, drive: u64, op: ShardOp, payload: Buf, deadline_ms: u64) -> Effect {
    let deadline = Instant(deadline_ms * MS);
    let request = Request { op: op.into(), payload, principal: principal(), deadline, lane: Lane::Bulk };
    Effect::Call { to: Target::Actor(ActorId::drive(DriveId(drive))), call: Token(token), request }
}

/// A shard's write, sent at `at_ms`.
fn put(token: u64, drive: u64, place: u8, at_ms: u64) -> Effect {
    let (payload, crc) = shards().swap_remove(place.into());
    let op = ShardOp::Write { id: shard(place), tenant: TenantId(7), code: CODE, sealed_len: 6, crc };
    to_drive(token, drive, op, payload, at_ms + 5000)
}

fn get(token: u64, drive: u64, place: u8, at_ms: u64) -> Effect {
    to_drive(token, drive, ShardOp::Read { id: shard(place) }, Buf::empty(), at_ms + 10_000)
}

fn delete(token: u64, drive: u64, place: u8, at_ms: u64) -> Effect {
    to_drive(token, drive, ShardOp::Delete { ids: vec![shard(place)] }, Buf::empty(), at_ms + 10_000)
}

fn sweep(token: u64, drive: u64, place: u8, at_ms: u64) -> Effect {
    let request = Request::system(ShardOp::Delete { ids: vec![shard(place)] }, Instant((at_ms + 5000) * MS));
    Effect::Call { to: Target::Actor(ActorId::drive(DriveId(drive))), call: Token(token), request }
}

fn ok() -> Outcome {
    Ok(Answer::Done.into())
}

fn fails(kind: ErrorKind) -> Outcome {
    Err(Error::new(kind, "no"))
}

fn brings(place: u8) -> Outcome {
    brings_of(place, CODE, 6)
}

fn brings_of(place: u8, code: Code, sealed_len: u32) -> Outcome {
    let (payload, crc) = shards().swap_remove(place.into());
    Ok(Response { answer: Answer::Shard { code, sealed_len, crc }, payload })
}

fn read(avoid: &[u64]) -> StripeOp {
    StripeOp::Read { target: target(), avoid: avoid.iter().copied().map(DriveId).collect() }
}

fn decode(token: u64, places: &[u8]) -> Effect {
    let shards = places.iter().map(|place| (*place, shards().swap_remove((*place).into()).0)).collect();
    start(token, ComputeJob::Decode { code: CODE, len: 6, shards })
}

fn stripe_bytes() -> WorkOutput {
    WorkOutput::Bytes(Buf::copy_of(b"stripe"))
}

fn found() -> Effect {
    reply(Ok(Response { answer: Answer::Done, payload: Buf::copy_of(b"stripe") }))
}

#[track_caller]
fn assert_refused(effects: &[Effect], kind: ErrorKind, text: &str) {
    match effects {
        [Effect::Reply { id: ASKER, outcome: Err(error) }] => {
            assert_eq!(error.kind(), kind);
            assert!(error.to_string().contains(text), "{error}");
        }
        other => panic!("{other:?}"),
    }
}

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
fn substitutes_a_failed_drive_and_sweeps_what_is_superfluous_afterwards() {
    let mut bench = Bench::whole();
    bench.write();
    // Shard 1 is durable on drive 3, shard 2 under way to drive 5, when drive 1 fails with shard 0.
    assert_eq!(bench.answer(3, ok()), []);
    bench.pass(core::time::Duration::from_millis(7));
    let moved = [put(5, 3, 0, 1007), put(6, 5, 1, 1007), put(7, 2, 2, 1007)];
    assert_eq!(bench.answer(2, fails(ErrorKind::DriveFailed)), moved);
    assert_eq!(bench.answer(5, ok()), []);
    assert_eq!(bench.answer(6, ok()), []);
    assert_eq!(bench.answer(7, ok()), [sweep(8, 3, 1, 1007), placed(&[1], false)]);
    assert_eq!(bench.erasure.in_flight(), 2, "the sweep, and the straggler at drive 5");
    assert_eq!(bench.answer(4, ok()), [sweep(9, 5, 2, 1007)], "it arrived where nobody wants it");
    assert_eq!(bench.answer(8, ok()), []);
    assert_eq!(bench.answer(9, fails(ErrorKind::Unreachable)), []);
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
    assert_eq!(bench.answer(12, fails(ErrorKind::NoSpace)), bold);
    assert_eq!(bench.answer(10, fails(ErrorKind::Restarted)), []);
    assert_refused(&bench.answer(13, fails(ErrorKind::DriveFailed)), ErrorKind::TooFewShards, "2 of the 6 drives");
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
fn asks_for_newer_settings_when_the_layout_is_unknown() {
    let unknown = || StripeTarget { layout: LayoutId(2), ..target() };
    for op in [
        StripeOp::Write(unknown()),
        StripeOp::Read { target: unknown(), avoid: vec![] },
        StripeOp::Delete { target: unknown(), avoid: vec![] },
    ] {
        let mut bench = Bench::whole();
        assert_refused(&bench.ask(op, b"stripe"), ErrorKind::Draining, "layout=layout-2");
    }
}

#[test]
fn refuses_what_makes_no_sense() {
    let mut bench = Bench::whole();
    assert_refused(&bench.ask(StripeOp::Write(target()), b""), ErrorKind::Invalid, "at least one byte");
    assert_refused(&bench.ask(read(&[1, 2, 3, 4]), b""), ErrorKind::Invalid, "no placement");
    let shard_op = Request { op: ShardOp::Stat.into(), ..request(read(&[]), b"") };
    let refused = bench.on(Event::Request { id: ASKER, request: shard_op });
    assert_refused(&refused, ErrorKind::Unsupported, "stores stripes");
    let long = Request {
        payload: Buf::zeroed(mesh_core::limits::PAYLOAD_BYTES_MAX + 1),
        ..request(StripeOp::Write(target()), b"")
    };
    assert_refused(&bench.on(Event::Request { id: ASKER, request: long }), ErrorKind::TooLarge, "limit");
    let mut no_groups = spec(&[]);
    let empty = Layout { groups: vec![], ..Layout::clone(&no_groups.layouts[&LayoutId(1)]) };
    no_groups.layouts.insert(LayoutId(1), Arc::new(empty));
    assert_refused(&Bench::new(no_groups).ask(read(&[]), b""), ErrorKind::Invalid, "no groups");
}

#[test]
fn reads_the_data_shards_and_joins_them() {
    let mut bench = Bench::whole();
    assert_eq!(bench.ask(read(&[]), b""), [get(1, 1, 0, 1000), get(2, 3, 1, 1000)]);
    assert_eq!(bench.erasure.wake_at(), Some(Instant(1020 * MS)));
    assert_eq!(bench.answer(2, brings(1)), []);
    assert_eq!(bench.answer(1, brings(0)), [decode(3, &[1, 0])]);
    assert_eq!((bench.erasure.wake_at(), bench.erasure.in_flight()), (None, 1));
    assert_eq!(bench.done(3, stripe_bytes()), [found()]);
    assert_eq!(bench.erasure.in_flight(), 0);
}

#[test]
fn reads_from_where_the_stripe_was_placed_without_the_avoided_drives() {
    let mut bench = Bench::whole();
    assert_eq!(bench.ask(read(&[1]), b""), [get(1, 3, 0, 1000), get(2, 5, 1, 1000)]);
}

#[test]
fn hedges_after_the_delay_and_survives_late_stragglers() {
    let mut bench = Bench::whole();
    bench.ask(read(&[]), b"");
    assert_eq!(bench.answer(2, brings(1)), []);
    assert_eq!(bench.on(Event::Wake), [], "too early");
    let wake = bench.erasure.wake_at().unwrap();
    bench.now = wake;
    let mut hedge = get(3, 5, 2, 0);
    if let Effect::Call { request, .. } = &mut hedge {
        request.deadline = wake + core::time::Duration::from_secs(10);
    }
    assert_eq!(bench.on(Event::Wake), [hedge]);
    assert_eq!(bench.erasure.wake_at(), None, "there is nobody left to ask");
    assert_eq!(bench.answer(3, brings(2)), [decode(4, &[1, 2])]);
    assert_eq!(bench.answer(1, brings(0)), [], "while decoding");
    assert_eq!(bench.done(4, stripe_bytes()), [found()]);

    bench.ask(read(&[]), b"");
    bench.now = bench.erasure.wake_at().unwrap();
    bench.on(Event::Wake);
    bench.answer(5, brings(0));
    bench.answer(7, brings(2));
    bench.done(8, stripe_bytes());
    assert_eq!(bench.erasure.in_flight(), 1);
    assert_eq!(bench.answer(6, fails(ErrorKind::Timeout)), [], "after the reply");
    assert_eq!(bench.erasure.in_flight(), 0);
}

#[test]
fn asks_another_at_once_when_a_shard_fails() {
    for kind in [ErrorKind::NotFound, ErrorKind::Corrupt, ErrorKind::Unreachable, ErrorKind::Overloaded] {
        let mut bench = Bench::whole();
        bench.ask(read(&[]), b"");
        assert_eq!(bench.answer(1, fails(kind)), [get(3, 5, 2, 1000)]);
        assert_eq!(bench.erasure.wake_at(), None);
        assert_eq!(bench.answer(3, brings(2)), []);
        assert_eq!(bench.answer(2, brings(1)), [decode(4, &[2, 1])]);
    }
}

#[test]
fn asks_drives_that_are_down_or_suspected_last() {
    let mut bench = Bench::new(spec(&[1]));
    assert_eq!(bench.ask(read(&[]), b""), [get(1, 3, 1, 1000), get(2, 5, 2, 1000)]);
    assert_eq!(bench.answer(1, fails(ErrorKind::DriveFailed)), [get(3, 1, 0, 1000)]);
    assert_eq!(bench.answer(3, brings(0)), []);
    assert_eq!(bench.answer(2, brings(2)), [decode(4, &[0, 2])]);
    bench.done(4, stripe_bytes());
    assert_eq!(bench.ask(read(&[]), b"")[0], get(5, 5, 2, 1000), "drive 3 is suspected");

    let mut full = spec(&[]);
    full.drives.insert(DriveId(1), DriveState::Full);
    assert_eq!(Bench::new(full).ask(read(&[]), b"")[0], get(1, 1, 0, 1000), "a full drive is read");
}

#[test]
fn shards_that_contradict_the_layout_or_themselves_are_corrupt() {
    let other_code = Code { data: 1, parity: 2 };
    let mut huge = brings(0).unwrap();
    huge.payload = Buf::zeroed(mesh_core::limits::PAYLOAD_BYTES_MAX + 1);
    let odd = [brings_of(0, other_code, 6), brings_of(0, CODE, 9), brings_of(0, CODE, 0), Ok(huge), ok()];
    for outcome in odd {
        let mut bench = Bench::whole();
        bench.ask(read(&[]), b"");
        assert_eq!(bench.answer(1, outcome), [get(3, 5, 2, 1000)]);
    }
}

#[test]
fn decodes_the_first_k_shards_that_agree() {
    let mut bench = Bench::whole();
    bench.ask(read(&[]), b"");
    assert_eq!(bench.answer(1, brings_of(0, CODE, 5)), []);
    assert_eq!(bench.answer(2, brings(1)), [get(3, 5, 2, 1000)], "they disagree: a third decides");
    assert_eq!(bench.answer(3, brings(2)), [decode(4, &[1, 2])]);

    let mut bench = Bench::whole();
    bench.ask(read(&[]), b"");
    bench.answer(1, brings_of(0, CODE, 5));
    bench.answer(2, brings(1));
    let refused = bench.answer(3, brings_of(2, CODE, 7));
    assert_refused(&refused, ErrorKind::TooFewShards, "1 shards of the stripe were found that agree, and 2+1 needs 2");
}

#[test]
fn says_what_is_missing_when_too_few_shards_are_left() {
    let mut bench = Bench::whole();
    bench.ask(read(&[]), b"");
    bench.answer(1, fails(ErrorKind::NotFound));
    bench.answer(3, fails(ErrorKind::Corrupt));
    assert_eq!(bench.erasure.in_flight(), 1);
    bench.answer(2, brings(1));

    let mut bench = Bench::whole();
    bench.ask(read(&[]), b"");
    assert_eq!(bench.answer(1, fails(ErrorKind::NotFound)), [get(3, 5, 2, 1000)]);
    let refused = bench.answer(3, fails(ErrorKind::Corrupt));
    assert_refused(&refused, ErrorKind::TooFewShards, "1 are not there, 1 are damaged, 0 could not be read");
    assert_eq!(bench.answer(2, brings(1)), []);
    assert_eq!((bench.erasure.in_flight(), bench.erasure.wake_at()), (0, None));
}

#[test]
fn a_stripe_that_no_drive_has_is_not_found() {
    let mut bench = Bench::whole();
    bench.ask(read(&[]), b"");
    assert_eq!(bench.answer(1, fails(ErrorKind::NotFound)), [get(3, 5, 2, 1000)]);
    assert_eq!(bench.answer(2, fails(ErrorKind::NotFound)), [], "hopeless, but the last drive has not spoken");
    assert_refused(&bench.answer(3, fails(ErrorKind::NotFound)), ErrorKind::NotFound, "no drive has");

    bench.ask(read(&[]), b"");
    bench.answer(4, fails(ErrorKind::NotFound));
    bench.answer(5, fails(ErrorKind::NotFound));
    assert_refused(&bench.answer(6, fails(ErrorKind::Timeout)), ErrorKind::TooFewShards, "2 are not there");
}

#[test]
fn reports_shards_that_do_not_decode_as_corruption() {
    let mut bench = Bench::whole();
    bench.ask(read(&[]), b"");
    bench.answer(1, brings(0));
    bench.answer(2, brings(1));
    let outcome = Err(Error::invalid("a shard's length is not that of this stripe's shards"));
    assert_refused(&bench.on(Event::Done { work: Token(3), outcome }), ErrorKind::Corrupt, "do not fit together");
}

#[test]
fn deletes_at_every_drive_of_the_placement_and_reports_the_first_error_at_the_end() {
    let remove = || StripeOp::Delete { target: target(), avoid: vec![DriveId(1)] };
    let mut bench = Bench::whole();
    assert_eq!(bench.ask(remove(), b""), [delete(1, 3, 0, 1000), delete(2, 5, 1, 1000), delete(3, 2, 2, 1000)]);
    assert_eq!(bench.answer(1, ok()), []);
    assert_eq!(bench.answer(2, ok()), []);
    assert_eq!(bench.answer(3, ok()), [reply(ok())]);

    bench.ask(remove(), b"");
    assert_eq!(bench.answer(5, fails(ErrorKind::Unreachable)), []);
    assert_eq!(bench.answer(4, fails(ErrorKind::DriveFailed)), []);
    assert_eq!(bench.answer(6, ok()), [reply(fails(ErrorKind::Unreachable))]);
    assert_eq!(bench.erasure.in_flight(), 0);
}

#[test]
fn errors_of_the_coder_are_the_reply() {
    let mut bench = Bench::whole();
    bench.ask(StripeOp::Write(target()), b"stripe");
    let too_few = bench.done(1, WorkOutput::Shards(shards()[..2].to_vec()));
    assert_refused(&too_few, ErrorKind::Bug, "other than k+m shards");
    bench.ask(StripeOp::Write(target()), b"stripe");
    let failed = bench.on(Event::Done { work: Token(2), outcome: Err(Error::invalid("no")) });
    assert_refused(&failed, ErrorKind::Invalid, "no");
    assert_eq!(bench.erasure.in_flight(), 0);
}

#[test]
fn has_no_state_to_carry_over() {
    let mut bench = Bench::whole();
    assert!(bench.erasure.snapshot(None).is_empty());
    assert!(bench.erasure.restore(&Snapshot::default()).is_ok());
}
