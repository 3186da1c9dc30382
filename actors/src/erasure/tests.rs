use std::sync::Arc;

use mesh_core::{
    Answer, Effect, Entropy, Job as Work, Response, Target, Tokens,
    id::{ActorId, BucketId, DriveId, LayoutId, NodeId, ShardId, StripeId, TenantId, WriteId},
    op::{Binding, StripeTarget},
    port::{ComputeJob, WorkOutput},
    time::UnixMillis,
    topology::{Code, CodeGroups, DriveState, Layout},
};

use super::*;

/// Of the client's request.
const TRACE: Trace = Trace::new(77);

mod reads;
mod writes;

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
        line: 0,
        others: Vec::new(),
        places: mesh_core::topology::Places::default(),
        rule: mesh_core::topology::Rule::default(),
    };
    let state = |drive: &DriveId| if down.contains(&drive.0) { DriveState::Down } else { DriveState::Up };
    ErasureSpec {
        layouts: [(LayoutId(1), Arc::new(layout))].into(),
        drives: drives.iter().map(|drive| (*drive, state(drive))).collect(),
    }
}

/// The stripe was written under the first of a line; drive 2 has taken drive 1's place since, and 4 that of 3.
fn moved() -> ErasureSpec {
    let mut moved = spec(&[]);
    let of = |id, drives: [u64; 6]| {
        let groups = vec![drives.map(DriveId).to_vec()];
        (
            LayoutId(id),
            Arc::new(Layout { id: LayoutId(id), groups, line: 1, ..Layout::clone(&moved.layouts[&LayoutId(1)]) }),
        )
    };
    moved.layouts = [of(1, [1, 3, 5, 2, 4, 6]), of(2, [2, 3, 5, 1, 4, 6]), of(3, [2, 4, 5, 1, 3, 6])].into();
    moved
}

fn stripe() -> StripeId {
    StripeId { write: WriteId(9), stripe: 4, attempt: 1 }
}

fn first_attempt() -> StripeId {
    StripeId { attempt: 0, ..stripe() }
}

fn target() -> StripeTarget {
    let binding = Binding { tenant: TenantId(7), bucket: BucketId(2), bucket_name: "b".into(), object: "o".into() };
    StripeTarget {
        id: stripe(),
        layout: LayoutId(1),
        binding: Arc::new(binding),
        key: None,
        compression: Compression::Off,
        code: None,
    }
}

fn principal() -> Principal {
    Principal::User { tenant: TenantId(7), name: "u".into() }
}

fn request(op: StripeOp, payload: &[u8]) -> Request {
    let deadline = Instant(31_000 * MS);
    Request {
        op: op.into(),
        payload: Buf::copy_of(payload),
        principal: principal(),
        deadline,
        lane: Lane::Bulk,
        trace: TRACE,
    }
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
    let request = Request { op: op.into(), payload, principal: principal(), deadline, lane: Lane::Bulk, trace: TRACE };
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
    let ids = vec![first_attempt().shard(place)];
    to_drive(token, drive, ShardOp::Delete { ids, until: None }, Buf::empty(), at_ms + 10_000)
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
    Ok(Response { answer: Answer::Shard { code, sealed_len, crc, tenant: TenantId(7) }, payload })
}

fn read(avoid: &[u64]) -> StripeOp {
    StripeOp::Read { target: target(), avoid: avoid.iter().copied().map(DriveId).collect(), part: None }
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
fn asks_for_newer_settings_when_the_layout_is_unknown() {
    let unknown = || StripeTarget { layout: LayoutId(2), ..target() };
    for op in [
        StripeOp::Write(unknown()),
        StripeOp::Read { target: unknown(), avoid: vec![], part: None },
        StripeOp::Delete { target: unknown(), avoid: vec![] },
    ] {
        let mut bench = Bench::whole();
        assert_refused(&bench.ask(op, b"stripe"), ErrorKind::Draining, "layout=layout-2");
    }
}

#[test]
fn what_should_have_been_compressed_and_was_not_is_neither_stored_nor_given_back() {
    let marked = || StripeTarget { compression: Compression::Auto, ..target() };
    for op in [StripeOp::Write(marked()), StripeOp::Read { target: marked(), avoid: vec![], part: None }] {
        let mut bench = Bench::whole();
        assert_refused(&bench.ask(op, b"stripe"), ErrorKind::Draining, "no compression yet");
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

fn remove() -> StripeOp {
    StripeOp::Delete { target: StripeTarget { id: first_attempt(), ..target() }, avoid: vec![] }
}

fn left(drives: &[u64]) -> Effect {
    reply(Ok(Answer::Left(drives.iter().copied().map(DriveId).collect()).into()))
}

#[test]
fn deletes_at_every_drive_of_the_placement_and_names_those_that_may_have_something_left() {
    let mut bench = Bench::whole();
    assert_eq!(bench.ask(remove(), b""), [delete(1, 1, 0, 1000), delete(2, 3, 1, 1000), delete(3, 5, 2, 1000)]);
    assert_eq!(bench.answer(1, ok()), []);
    assert_eq!(bench.answer(2, ok()), []);
    assert_eq!(bench.answer(3, ok()), [reply(ok())]);

    bench.ask(remove(), b"");
    assert_eq!(bench.answer(5, fails(ErrorKind::Overloaded)), []);
    assert_eq!(bench.answer(4, fails(ErrorKind::Draining)), []);
    assert_eq!(bench.answer(6, ok()), [left(&[1, 3])]);

    bench.ask(remove(), b"");
    assert_eq!(bench.answer(8, fails(ErrorKind::Unreachable)), []);
    assert_eq!(bench.answer(7, fails(ErrorKind::DriveFailed)), []);
    assert_eq!(bench.answer(9, fails(ErrorKind::Timeout)), [reply(fails(ErrorKind::Unreachable))]);
    assert_eq!(bench.erasure.in_flight(), 0);
}

#[test]
fn deletes_without_waiting_for_drives_that_are_down_or_failed_a_moment_ago() {
    let mut bench = Bench::new(spec(&[3]));
    assert_eq!(bench.ask(remove(), b""), [delete(1, 1, 0, 1000), delete(2, 5, 2, 1000)]);
    assert_eq!(bench.answer(1, ok()), []);
    assert_eq!(bench.answer(2, fails(ErrorKind::Unreachable)), [left(&[3, 5])]);
    assert_eq!(bench.ask(remove(), b""), [delete(3, 1, 0, 1000)]);
    assert_eq!(bench.answer(3, ok()), [left(&[3, 5])]);
    // Where none is better off, all are asked.
    let mut bench = Bench::new(spec(&[1, 3, 5]));
    assert_eq!(bench.ask(remove(), b"").len(), 3);
    for call in 1..=2 {
        assert_eq!(bench.answer(call, fails(ErrorKind::Unreachable)), []);
    }
    assert_eq!(bench.answer(3, fails(ErrorKind::Timeout)), [reply(fails(ErrorKind::Unreachable))]);
}

#[test]
fn expects_nothing_of_lost_drives() {
    let mut lost = spec(&[]);
    lost.drives.insert(DriveId(3), DriveState::Lost);
    let mut bench = Bench::new(lost.clone());
    assert_eq!(bench.ask(remove(), b""), [delete(1, 1, 0, 1000), delete(2, 5, 2, 1000)]);
    assert_eq!(bench.answer(1, ok()), []);
    assert_eq!(bench.answer(2, ok()), [reply(ok())]);
    for drive in [1, 5] {
        lost.drives.insert(DriveId(drive), DriveState::Lost);
    }
    assert_eq!(Bench::new(lost).ask(remove(), b""), [reply(ok())]);
}

#[test]
fn deletes_every_shard_of_every_attempt_at_every_drive_of_the_group_where_not_all_went_well_at_once() {
    // Drive 1 may have taken a shard before it was found wanting, drive 3 another than it has now, and any drive one of
    // the attempt before.
    let mut bench = Bench::whole();
    let every = |token, drive| {
        let ids =
            [first_attempt(), stripe()].into_iter().flat_map(|id| (0..3).map(move |place| id.shard(place))).collect();
        to_drive(token, drive, ShardOp::Delete { ids, until: None }, Buf::empty(), 11_000)
    };
    let effects = bench.ask(StripeOp::Delete { target: target(), avoid: vec![DriveId(1)] }, b"");
    assert_eq!(effects, (1..=6).map(|at| every(at, at)).collect::<Vec<_>>());
    for call in 1..6 {
        assert_eq!(bench.answer(call, ok()), []);
    }
    assert_eq!(bench.answer(6, ok()), [reply(ok())]);
    assert_eq!(bench.erasure.in_flight(), 0);
    // So also where no drive was avoided, but an attempt before came to nothing.
    let effects = bench.ask(StripeOp::Delete { target: target(), avoid: vec![] }, b"");
    assert_eq!(effects, (1..=6).map(|at| every(at + 6, at)).collect::<Vec<_>>());
}

#[test]
fn deletes_where_a_shard_may_have_been_moved_to() {
    let mut bench = Bench::new(moved());
    let one = |token, drive, place| delete(token, drive, place, 1000);
    assert_eq!(bench.ask(remove(), b""), [one(1, 1, 0), one(2, 2, 0), one(3, 3, 1), one(4, 4, 1), one(5, 5, 2)]);
    // A drive that is of a later group only is asked too where not all went well at once.
    let mut other = moved();
    let groups = vec![[7, 3, 5, 2, 4, 6].map(DriveId).to_vec()];
    let last = Layout { id: LayoutId(4), groups, ..Layout::clone(&other.layouts[&LayoutId(1)]) };
    other.layouts.insert(LayoutId(4), Arc::new(last));
    let effects = Bench::new(other).ask(StripeOp::Delete { target: target(), avoid: vec![] }, b"");
    let asked = |effect: &Effect| match effect {
        Effect::Call { to: Target::Actor(actor), .. } => actor.as_drive(),
        _ => None,
    };
    // Nobody has heard of drive 7 yet, and it is left.
    assert_eq!(effects.iter().filter_map(asked).collect::<Vec<_>>(), (1..=6).map(DriveId).collect::<Vec<_>>());
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

/// Two copies of everything, in groups of their own.
fn copied() -> ErasureSpec {
    let mut spec = moved();
    for layout in spec.layouts.values_mut() {
        let homes = if layout.id == LayoutId(3) { [6, 3, 1] } else { [6, 2, 1] };
        let others = vec![CodeGroups { code: COPIES, groups: vec![homes.map(DriveId).to_vec()] }];
        *layout = Arc::new(Layout { others, ..Layout::clone(layout) });
    }
    spec
}

const COPIES: Code = Code { data: 1, parity: 1 };

fn copied_target() -> StripeTarget {
    StripeTarget { code: Some(COPIES), ..target() }
}

/// The drives that are asked, and what.
fn asked(effects: &[Effect]) -> Vec<(u64, &ShardOp)> {
    let of = |effect| match effect {
        &Effect::Call { to: Target::Actor(actor), request: Request { op: Op::Shard(ref op), .. }, .. } => {
            (actor.as_drive().expect("a drive").0, &**op)
        }
        other => panic!("no drive is asked: {other:?}"),
    };
    effects.iter().map(of).collect()
}

#[test]
fn a_stripe_of_another_code_is_written_read_and_deleted_in_that_code_s_groups() {
    let mut bench = Bench::new(copied());
    let effects = bench.ask(StripeOp::Write(copied_target()), b"stripe");
    let bytes = Buf::copy_of(b"stripe");
    assert_eq!(effects, [start(1, ComputeJob::Encode { code: COPIES, bytes })]);
    let effects = bench.done(1, WorkOutput::Shards(shards()[..2].to_vec()));
    let written = asked(&effects).into_iter().map(|(drive, op)| match op {
        ShardOp::Write { id, code, .. } => (drive, id.shard, *code),
        other => panic!("{other:?}"),
    });
    assert_eq!(written.collect::<Vec<_>>(), [(6, 0, COPIES), (2, 1, COPIES)]);
    assert_eq!(bench.answer(2, ok()), []);
    let placed = Ok(Answer::Placed { avoid: vec![], shared: false }.into());
    assert_eq!(bench.answer(3, ok()), [reply(placed)]);
    // One copy is enough; the other one may have been moved.
    let effects = bench.ask(StripeOp::Read { target: copied_target(), avoid: vec![], part: None }, b"");
    assert_eq!(asked(&effects), [(6, &ShardOp::Read { id: stripe().shard(0) })]);
    let effects = bench.on(Event::Reply { call: Token(4), outcome: Err(Error::new(ErrorKind::NotFound, "gone")) });
    assert_eq!(asked(&effects), [(2, &ShardOp::Read { id: stripe().shard(1) })]);
    let effects = bench.on(Event::Reply { call: Token(5), outcome: Err(Error::new(ErrorKind::NotFound, "gone")) });
    assert_eq!(asked(&effects), [(3, &ShardOp::Read { id: stripe().shard(1) })]);
    // Deleted wherever it may be: also on the third drive of the group, and nowhere in those of the layout's own code.
    let mut bench = Bench::new(copied());
    let effects = bench.ask(StripeOp::Delete { target: copied_target(), avoid: vec![DriveId(2)] }, b"");
    let deleted = asked(&effects).into_iter().map(|(drive, op)| match op {
        ShardOp::Delete { ids, .. } => (drive, ids.len()),
        other => panic!("{other:?}"),
    });
    // Two attempts of two shards.
    assert_eq!(deleted.collect::<Vec<_>>(), [(1, 4), (2, 4), (3, 4), (6, 4)]);
}

#[test]
fn a_layout_without_groups_for_the_code_is_refused() {
    for op in [
        StripeOp::Write(copied_target()),
        StripeOp::Read { target: copied_target(), avoid: vec![], part: None },
        StripeOp::Delete { target: copied_target(), avoid: vec![] },
    ] {
        assert_refused(&Bench::new(moved()).ask(op, b"stripe"), ErrorKind::Invalid, "no groups for the stripe's code");
    }
}
