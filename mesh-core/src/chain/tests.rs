//! What a chain gives out, effect by effect, and that it does not matter how a chain is cut.

mod toys;
mod world;

use std::sync::{Arc, Mutex};

use proptest::prelude::*;

use self::{
    toys::{Habit, Toy, done, joined, refusal, request},
    world::{Host, Run, World},
};
use super::*;
use crate::{
    buf::Buf,
    effect::Job,
    id::{ActorId, DriveId},
    port::{DiskJob, WorkOutput},
    spec::{EncryptSpec, ErasureSpec, FunctionSpec},
};

fn toys(habits: &[Habit]) -> Vec<Box<dyn StorageFunction>> {
    habits.iter().zip(1..).map(|(habit, tag)| Toy::boxed(*habit, tag)).collect()
}

fn host(habits: &[Habit]) -> Host<Chain> {
    Host::new(Chain::new(toys(habits)), 1)
}

fn ask(id: u64, bytes: &[u8]) -> Event {
    Event::Request { id: Token(id), request: request(bytes) }
}

fn answer(call: u64, bytes: &[u8]) -> Event {
    Event::Reply { call: Token(call), outcome: Ok(done(bytes.into())) }
}

fn call(to: Target, call: u64, bytes: &[u8]) -> Effect {
    Effect::Call { to, call: Token(call), request: request(bytes) }
}

fn reply(id: u64, bytes: &[u8]) -> Effect {
    Effect::Reply { id: Token(id), outcome: Ok(done(bytes.into())) }
}

/// The id of requests in unit tests: apart from the tokens that the chain's host gives out, from 1 on.
const ID: u64 = 1 << 32;

#[test]
fn a_request_goes_down_and_its_reply_comes_up() {
    let mut host = host(&[Habit::Pass, Habit::Pass, Habit::Pass]);
    assert_eq!(host.take(Instant(0), ask(ID, b"x")), [call(Target::Next, 3, b"x\x01\x02\x03")]);
    assert_eq!(host.function.in_flight(), 3);
    assert_eq!(host.take(Instant(1), answer(3, b"y")), [reply(ID, b"y\x03\x02\x01")]);
    assert_eq!(host.function.in_flight(), 0);
}

#[test]
fn each_stage_counts_what_it_was_given_and_what_it_refused() {
    let mut host = host(&[Habit::Pass, Habit::Pass]);
    let spec =
        FunctionSpec::Chain(vec![FunctionSpec::Encrypt(EncryptSpec {}), FunctionSpec::Erasure(ErasureSpec::default())]);
    host.take(Instant(0), Event::Configure(Arc::new(spec)));
    for round in 0..3 {
        let id = Token(ID + round);
        let effects = host.take(Instant(0), Event::Request { id, request: request(b"x") });
        let [Effect::Call { call, .. }] = effects[..] else { panic!("{effects:?}") };
        let outcome = if round == 0 { Err(refusal("no")) } else { Ok(done(b"y".as_slice().into())) };
        host.take(Instant(0), Event::Reply { call, outcome });
    }
    let mut page = Page::default();
    host.function.figures(&Labels::default().word("tenant", "t"), &mut page);
    let text = page.text(|_| None);
    for stage in ["encrypt", "erasure"] {
        assert!(text.contains(&format!("mesh_stage_requests_total{{tenant=\"t\",stage=\"{stage}\"}} 3\n")), "{text}");
        assert!(text.contains(&format!("mesh_stage_errors_total{{tenant=\"t\",stage=\"{stage}\"}} 1\n")), "{text}");
    }
}

#[test]
fn an_error_comes_up_as_it_is() {
    let mut host = host(&[Habit::Pass, Habit::Pass]);
    host.take(Instant(0), ask(ID, b"x"));
    let error = refusal("full").redirect_to(crate::Redirect { node: Some(crate::id::NodeId(4)), ..Default::default() });
    let effects = host.take(Instant(1), Event::Reply { call: Token(2), outcome: Err(error.clone()) });
    assert_eq!(effects, [Effect::Reply { id: Token(ID), outcome: Err(error) }]);
}

#[test]
fn a_reply_from_the_middle_goes_up_at_once() {
    // The digest of an empty payload with the first toy's tag is a multiple of 3.
    let bytes =
        (0..).map(|byte| [byte]).find(|byte| toys::digest(&[byte[0], 1]).is_multiple_of(3)).expect("one of 256");
    let mut host = host(&[Habit::Pass, Habit::Turn, Habit::Pass]);
    assert_eq!(host.take(Instant(0), ask(ID, &bytes)), [reply(ID, &[bytes[0], 1, 2, 1])]);
}

#[test]
fn a_hasty_reply_leaves_a_straggler_in_flight_and_its_answer_goes_nowhere() {
    let mut host = host(&[Habit::Hasty, Habit::Pass]);
    let effects = host.take(Instant(0), ask(ID, b"x"));
    assert_eq!(effects, [reply(ID, b"x\x01"), call(Target::Next, 2, b"x\x01\x02")]);
    assert_eq!(host.function.in_flight(), 2);
    assert_eq!(host.take(Instant(1), answer(2, b"late")), []);
    assert_eq!(host.function.in_flight(), 0);
}

#[test]
fn two_calls_at_once_are_answered_together() {
    let mut host = host(&[Habit::Pass, Habit::Fan]);
    let effects = host.take(Instant(0), ask(ID, b"x"));
    // Which of the two is asked first is a matter of the random byte.
    let first = if effects[0] == call(Target::Next, 2, b"x\x01\x02\x00") { 0 } else { 1 };
    let bytes = [[b'x', 1, 2, first], [b'x', 1, 2, 1 - first]];
    assert_eq!(effects, [call(Target::Next, 2, &bytes[0]), call(Target::Next, 3, &bytes[1])]);
    let (left, right) = if first == 0 { (2, 3) } else { (3, 2) };
    assert_eq!(host.take(Instant(1), answer(right, b"r")), []);
    assert_eq!(host.take(Instant(2), answer(left, b"l")), [reply(ID, b"lr\x02\x01")]);
}

#[test]
fn a_chain_that_is_split_calls_outwards_at_the_cut_and_ends_inside_what_is_inside() {
    let mut host = host(&[Habit::Pass, Habit::Ask, Habit::Pass]);
    let parts = vec![FunctionSpec::Encrypt(EncryptSpec::default()); 3];
    // Both are at the second stage: the one asks somebody, the other comes after the cut.
    assert_eq!(host.take(Instant(0), ask(ID, b"x")), [call(Target::Metadata, 2, b"x\x01\x02")]);
    assert_eq!(host.take(Instant(1), Event::Configure(Arc::new(FunctionSpec::Split(parts.clone(), 1)))), []);
    assert_eq!(host.take(Instant(2), ask(ID + 1, b"y")), [call(Target::Tail(1), 3, b"y\x01")]);
    assert_eq!(host.take(Instant(3), answer(2, b"m")), [call(Target::Next, 5, b"x\x01\x02m\x03")]);
    assert_eq!(host.take(Instant(4), answer(3, b"z")), [reply(ID + 1, b"z\x01")]);
    assert_eq!(host.take(Instant(5), answer(5, b"w")), [reply(ID, b"w\x03\x02\x01")]);
    assert_eq!(host.function.in_flight(), 0);
    // Whole again.
    assert_eq!(host.take(Instant(6), Event::Configure(Arc::new(FunctionSpec::Chain(parts)))), []);
    assert_eq!(host.take(Instant(7), ask(ID, b"x")), [call(Target::Metadata, 7, b"x\x01\x02")]);
}

#[test]
fn a_call_to_the_metadata_leaves_from_the_middle_and_its_answer_finds_back() {
    let mut host = host(&[Habit::Pass, Habit::Ask, Habit::Pass]);
    assert_eq!(host.take(Instant(0), ask(ID, b"x")), [call(Target::Metadata, 2, b"x\x01\x02")]);
    assert_eq!(host.take(Instant(1), answer(2, b"m")), [call(Target::Next, 4, b"x\x01\x02m\x03")]);
    assert_eq!(host.take(Instant(2), answer(4, b"y")), [reply(ID, b"y\x03\x02\x01")]);
}

#[test]
fn the_end_of_work_goes_to_who_started_it() {
    let mut host = host(&[Habit::Work, Habit::Work]);
    let encode = |work, bytes: &[u8]| Effect::Start {
        work: Token(work),
        job: Job::Compute(crate::port::ComputeJob::Encode { code: toys::CODE, bytes: bytes.into() }),
    };
    let end = |work, bytes: &[u8]| Event::Done { work: Token(work), outcome: Ok(WorkOutput::Bytes(bytes.into())) };
    assert_eq!(host.take(Instant(0), ask(ID, b"x")), [encode(1, b"x\x01")]);
    assert_eq!(host.take(Instant(0), ask(ID + 1, b"y")), [encode(2, b"y\x01")]);
    assert_eq!(host.take(Instant(1), end(2, b"B")), [encode(4, b"y\x01B\x02")]);
    assert_eq!(host.take(Instant(1), end(1, b"A")), [encode(6, b"x\x01A\x02")]);
    assert_eq!(host.take(Instant(2), end(4, b"")), [call(Target::Next, 7, b"y\x01B\x02")]);
    let failed = Event::Done { work: Token(6), outcome: Err(refusal("no")) };
    assert_eq!(host.take(Instant(2), failed), [Effect::Reply { id: Token(ID), outcome: Err(refusal("no")) }]);
    assert_eq!(host.take(Instant(3), answer(7, b"z")), [reply(ID + 1, b"z\x02\x01")]);
}

#[test]
fn every_target_but_next_leaves_the_chain_from_every_stage() {
    struct Elsewhere;
    impl StorageFunction for Elsewhere {
        fn on_event(&mut self, event: Event, cx: &mut Cx<'_>) {
            if let Event::Request { id, request } = event {
                cx.call(Target::Actor(ActorId::drive(DriveId(7))), request);
                cx.start(Job::Disk(DiskJob::Sync));
                cx.reply(id, Ok(done(Buf::empty())));
            }
        }
        fn in_flight(&self) -> usize {
            1
        }
        fn snapshot(&mut self, _: Option<Mark>) -> Snapshot {
            Snapshot::default()
        }
    }
    let mut host = Host::new(Chain::new(vec![Box::new(Elsewhere), Toy::boxed(Habit::Pass, 2)]), 1);
    let effects = host.take(Instant(0), ask(ID, b"x"));
    let sync = Effect::Start { work: Token(2), job: Job::Disk(DiskJob::Sync) };
    assert_eq!(effects, [call(Target::Actor(ActorId::drive(DriveId(7))), 1, b"x"), sync, reply(ID, b"")]);
    assert_eq!(host.take(Instant(1), answer(1, b"")), []);
    assert_eq!(host.take(Instant(1), Event::Done { work: Token(2), outcome: Ok(WorkOutput::Done) }), []);
}

/// Writes down what it is told.
struct Scribe {
    name: &'static str,
    wake_at: Option<Instant>,
    book: Arc<Mutex<Vec<String>>>,
}

impl StorageFunction for Scribe {
    fn on_event(&mut self, event: Event, _: &mut Cx<'_>) {
        self.wake_at = None;
        let told = match event {
            Event::Wake => "wake".to_owned(),
            Event::Configure(spec) => format!("configure {}", spec.name()),
            other => panic!("a scribe is not told {other:?}"),
        };
        self.book.lock().expect("nobody panicked").push(format!("{} {told}", self.name));
    }
    fn wake_at(&self) -> Option<Instant> {
        self.wake_at
    }
    fn in_flight(&self) -> usize {
        0
    }
    fn snapshot(&mut self, _: Option<Mark>) -> Snapshot {
        Snapshot::default()
    }
}

fn scribes(wakes: [Option<u64>; 3]) -> (Host<Chain>, Arc<Mutex<Vec<String>>>) {
    let book = Arc::new(Mutex::new(Vec::new()));
    let scribe = |name, wake: Option<u64>| -> Box<dyn StorageFunction> {
        Box::new(Scribe { name, wake_at: wake.map(Instant), book: book.clone() })
    };
    let inner = Chain::new(vec![scribe("b", wakes[1]), scribe("c", wakes[2])]);
    let chain = Chain::new(vec![scribe("a", wakes[0]), Box::new(inner)]);
    (Host::new(chain, 1), book)
}

fn read(book: &Mutex<Vec<String>>) -> Vec<String> {
    core::mem::take(&mut *book.lock().expect("nobody panicked"))
}

#[test]
fn a_wake_goes_to_those_whose_time_has_come() {
    let (mut host, book) = scribes([Some(30), Some(10), Some(20)]);
    assert_eq!(host.function.wake_at(), Some(Instant(10)));
    assert_eq!(host.take(Instant(9), Event::Wake), []);
    assert_eq!(read(&book), [""; 0]);
    assert_eq!(host.take(Instant(20), Event::Wake), []);
    assert_eq!(read(&book), ["b wake", "c wake"]);
    assert_eq!(host.function.wake_at(), Some(Instant(30)));
    assert_eq!(host.take(Instant(31), Event::Wake), []);
    assert_eq!(read(&book), ["a wake"]);
    assert_eq!(host.function.wake_at(), None);
}

#[test]
fn settings_go_to_every_stage_in_order() {
    let (mut host, book) = scribes([None; 3]);
    let parts = vec![FunctionSpec::Encrypt(EncryptSpec {}), FunctionSpec::Erasure(ErasureSpec::default())];
    assert_eq!(host.take(Instant(0), Event::Configure(Arc::new(FunctionSpec::Chain(parts)))), []);
    assert_eq!(read(&book), ["a configure chain", "b configure chain", "c configure chain"]);
}

#[test]
fn a_sleeper_in_the_chain_asks_when_it_wakes() {
    let mut host = host(&[Habit::Pass, Habit::Sleep]);
    assert_eq!(host.take(Instant(5), ask(ID, b"x")), []);
    assert_eq!(host.function.wake_at(), Some(Instant(10_000_005)));
    assert_eq!(host.take(Instant(10_000_005), Event::Wake), [call(Target::Next, 2, b"x\x01\x02\x00")]);
    assert_eq!(host.function.wake_at(), None);
}

#[test]
fn an_idle_chain_remembers_nothing() {
    let mut host = host(&Habit::ALL);
    let is_empty = |chain: &Chain| chain.owner.is_empty() && chain.upstream.is_empty() && chain.queue.is_empty();
    assert!(is_empty(&host.function));
    for id in ID..ID + 8 {
        let mut effects = host.take(Instant(id), ask(id, &id.to_le_bytes()));
        loop {
            match (effects.pop(), host.function.wake_at()) {
                (Some(Effect::Reply { .. }), _) => {}
                (Some(Effect::Call { call, .. }), _) => effects.extend(host.take(Instant(id), answer(call.0, b"y"))),
                (Some(Effect::Start { work, .. }), _) => {
                    let outcome = Ok(WorkOutput::Bytes(joined(&[b"w"])));
                    effects.extend(host.take(Instant(id), Event::Done { work, outcome }));
                }
                (None, Some(at)) => effects = host.take(at, Event::Wake),
                (None, None) => break,
            }
        }
        assert_eq!(host.function.in_flight(), 0);
        assert!(is_empty(&host.function));
    }
}

#[test]
#[cfg(debug_assertions)]
#[should_panic(expected = "an idle chain has empty routing tables")]
fn a_function_that_forgets_a_call_is_found_out() {
    struct Forgetful;
    impl StorageFunction for Forgetful {
        fn on_event(&mut self, event: Event, cx: &mut Cx<'_>) {
            if let Event::Request { request, .. } = event {
                cx.call(Target::Next, request);
            }
        }
        fn in_flight(&self) -> usize {
            0
        }
        fn snapshot(&mut self, _: Option<Mark>) -> Snapshot {
            Snapshot::default()
        }
    }
    Host::new(Chain::new(vec![Box::new(Forgetful)]), 1).take(Instant(0), ask(ID, b"x"));
}

#[test]
#[should_panic(expected = "a completion is of a call this chain made, and comes once")]
fn a_second_answer_to_one_call_is_a_bug() {
    let mut host = host(&[Habit::Fan]);
    host.take(Instant(0), ask(ID, b"x"));
    host.take(Instant(1), answer(1, b"y"));
    host.take(Instant(2), answer(1, b"y"));
}

#[test]
#[should_panic(expected = "a chain of 0 stages")]
fn a_chain_has_a_stage() {
    drop(Chain::new(Vec::new()));
}

#[test]
#[should_panic(expected = "a chain of 17 stages")]
fn a_chain_is_bounded() {
    drop(Chain::new(toys(&[Habit::Pass; CHAIN_STAGES_MAX + 1])));
}

#[test]
fn a_snapshot_has_a_section_a_stage_and_a_chain_restores_it() {
    let mut old = host(&[Habit::Pass, Habit::Turn, Habit::Pass]);
    for id in ID..ID + 20 {
        old.take(Instant(0), ask(id, &[id as u8]));
    }
    let whole = old.function.snapshot(None);
    let count = |snapshot: &Snapshot| snapshot.stages.iter().map(|stage| stage.mark.0).collect::<Vec<_>>();
    let counts = count(&whole);
    assert!(counts[0] == 20 && counts[1] == 20 && (1..20).contains(&counts[2]), "{counts:?}");
    assert!(whole.entries.is_empty() && whole.stages.iter().all(|stage| stage.entries.len() == 1));

    let mut new = Chain::new(toys(&[Habit::Pass, Habit::Turn, Habit::Pass]));
    new.restore(&whole).expect("a snapshot of such a chain");
    assert_eq!(new.snapshot(None).stages, whole.stages);

    // Nothing has changed since: the delta is empty, and to restore it changes nothing.
    let delta = old.function.snapshot(Some(whole.mark));
    assert_eq!((delta.since, delta.is_empty(), delta.more), (Some(whole.mark), true, false));
    new.restore(&delta).expect("a delta of such a chain");
    assert_eq!(new.snapshot(None).stages, whole.stages);

    // One stage has changed since: the others bring nothing.
    old.take(Instant(0), ask(ID + 20, &[9]));
    let changed = old.function.snapshot(Some(delta.mark));
    assert!(changed.stages.iter().filter(|stage| !stage.is_empty()).count() >= 1 && changed.len() <= 3);
    // A mark that is forgotten begins anew.
    assert_eq!(old.function.snapshot(Some(Mark(999))).since, None);
}

#[test]
fn a_snapshot_of_another_chain_is_refused() {
    let snapshot = Chain::new(toys(&[Habit::Pass])).snapshot(None);
    let mut longer = Chain::new(toys(&[Habit::Pass, Habit::Pass]));
    assert_eq!(longer.restore(&snapshot).expect_err("one stage less").kind(), crate::ErrorKind::Invalid);
    let mut damaged = longer.snapshot(None);
    damaged.stages[1].entries[0].1 = None;
    assert_eq!(longer.restore(&damaged).expect_err("no count").kind(), crate::ErrorKind::Invalid);
    let mut stateless = Host::new(Elder, 1);
    assert!(stateless.function.restore(&Snapshot::default()).is_ok());
    assert!(stateless.function.restore(&snapshot).is_err());
}

/// Has no state.
struct Elder;

impl StorageFunction for Elder {
    fn on_event(&mut self, _: Event, _: &mut Cx<'_>) {}
    fn in_flight(&self) -> usize {
        0
    }
    fn snapshot(&mut self, _: Option<Mark>) -> Snapshot {
        Snapshot::default()
    }
}

fn boxed(chains: Vec<Chain>) -> Vec<Box<dyn StorageFunction>> {
    chains.into_iter().map(|chain| Box::new(chain) as Box<dyn StorageFunction>).collect()
}

fn fused(habits: &[Habit]) -> Vec<Chain> {
    vec![Chain::new(toys(habits))]
}

fn split(habits: &[Habit], at: usize) -> Vec<Chain> {
    let mut front = toys(habits);
    let back = front.split_off(at);
    vec![Chain::new(front), Chain::new(back)]
}

fn nested(habits: &[Habit], at: usize) -> Vec<Chain> {
    vec![Chain::new(boxed(split(habits, at)))]
}

fn each_alone(habits: &[Habit]) -> Vec<Chain> {
    toys(habits).into_iter().map(|stage| Chain::new(vec![stage])).collect()
}

/// The first ones each on a node of its own, the others each in a chain of its own on one node.
fn half_alone(habits: &[Habit], at: usize) -> Vec<Chain> {
    let mut front = each_alone(habits);
    let back = front.split_off(at);
    front.push(Chain::new(boxed(back)));
    front
}

/// A chain of a stage and a chain of the rest, and so on.
fn nested_to_the_end(habits: &[Habit]) -> Vec<Chain> {
    let rest = toys(habits).into_iter().rev().fold(None, |rest: Option<Chain>, stage| {
        let rest = rest.map(|rest| Box::new(rest) as Box<dyn StorageFunction>);
        Some(Chain::new([Some(stage), rest].into_iter().flatten().collect()))
    });
    rest.into_iter().collect()
}

fn habits() -> impl Strategy<Value = Vec<Habit>> {
    proptest::collection::vec(proptest::sample::select(&Habit::ALL[..]), 1..=6)
}

fn inputs() -> impl Strategy<Value = Vec<Vec<u8>>> {
    proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..4), 1..5)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn it_does_not_matter_how_a_chain_is_cut(habits in habits(), inputs in inputs(), seed in any::<u64>()) {
        let Run { replies, .. } = World::run(fused(&habits), &inputs, seed);
        prop_assert_eq!(replies.len(), inputs.len());
        let agrees = |what: &str, nodes: Vec<Chain>, seed| -> Result<(), TestCaseError> {
            prop_assert_eq!(&World::run(nodes, &inputs, seed).replies, &replies, "{}", what);
            Ok(())
        };
        for at in 1..habits.len() {
            agrees("split", split(&habits, at), seed.wrapping_mul(3))?;
            agrees("nested", nested(&habits, at), seed.wrapping_mul(5))?;
            agrees("half alone", half_alone(&habits, at), seed.wrapping_mul(7))?;
        }
        agrees("each alone", each_alone(&habits), seed.wrapping_mul(9))?;
        agrees("nested to the end", nested_to_the_end(&habits), seed.wrapping_mul(11))?;
    }

    #[test]
    fn the_same_input_gives_the_same_effects(habits in habits(), inputs in inputs(), seed in any::<u64>()) {
        let at = habits.len() / 2;
        for nodes in [fused as fn(&[Habit]) -> Vec<Chain>, each_alone, nested_to_the_end] {
            prop_assert_eq!(World::run(nodes(&habits), &inputs, seed), World::run(nodes(&habits), &inputs, seed));
        }
        if at > 0 {
            let run = || World::run(split(&habits, at), &inputs, seed);
            prop_assert_eq!(run(), run());
        }
    }
}
