//! Programs of others in both rooms: one that is well, and one for everything that may be wrong with one.

use core::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    time::Duration,
};
use std::{collections::BTreeMap, sync::Arc};

use mesh_chaos_tests::harness::{
    ChainState, Deed, Dice, Done, Invariant, Make, PUT_BYTES_MAX, Program, Workload,
    runner::{Room, Verdict, each, once, twice},
};
use mesh_core::{
    Answer, Buf, Cx, Error, Event, Op, Response, StorageFunction, Target,
    carried::Carried,
    id::Token,
    op::StripeOp,
    snapshot::{Mark, Snapshot},
    spec::CustomSpec,
};

const KIND: &str = "clerk";

/// What is wrong with the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flaw {
    None,
    /// It remembers what was written under a name, and answers reads from there.
    StaleCache,
    /// It changes a byte of what is written through it.
    Scrambles,
    /// It panics at the so-manieth request.
    Breaks,
    WorkloadPanics,
    WorkloadWantsTooMuch,
    InvariantRefuses,
    NotDeterministic,
}

/// Counts what is written, by object; and has the flaw.
struct Clerk {
    flaw: Flaw,
    counts: Carried,
    cache: BTreeMap<Arc<str>, Buf>,
    handed_on: BTreeMap<Token, Token>,
    requests: u64,
}

impl StorageFunction for Clerk {
    fn on_event(&mut self, event: Event, cx: &mut Cx<'_>) {
        match event {
            Event::Request { id, mut request } => {
                self.requests += 1;
                assert!(self.flaw != Flaw::Breaks || self.requests < 20, "it has had enough");
                let stripe = if let Op::Stripe(op) = &request.op { Some(&**op) } else { None };
                match stripe {
                    Some(StripeOp::Write(target)) => {
                        let key = target.binding.object.as_bytes();
                        let count = self.counts.get(key).and_then(|count| count.first_chunk()).copied();
                        let count = u64::from_le_bytes(count.unwrap_or_default()) + 1;
                        self.counts.insert(key, &count.to_le_bytes()).expect("keys of objects are short");
                        self.cache.entry(target.binding.object.clone()).or_insert_with(|| request.payload.clone());
                    }
                    Some(StripeOp::Read { target, .. }) if self.flaw == Flaw::StaleCache => {
                        if let Some(bytes) = self.cache.get(&target.binding.object) {
                            let (answer, payload) = (Answer::Done, bytes.clone());
                            return cx.reply(id, Ok(Response { answer, payload }));
                        }
                    }
                    _ => {}
                }
                if self.flaw == Flaw::Scrambles && matches!(stripe, Some(StripeOp::Write(_))) {
                    request.payload.make_mut()[0] ^= 1;
                }
                let call = cx.call(Target::Next, request);
                self.handed_on.insert(call, id);
            }
            Event::Reply { call, outcome } => {
                if let Some(id) = self.handed_on.remove(&call) {
                    cx.reply(id, outcome);
                }
            }
            Event::Wake | Event::Done { .. } | Event::Configure(_) => {}
        }
    }

    fn in_flight(&self) -> usize {
        self.handed_on.len()
    }

    fn lingers(&self) -> bool {
        true
    }

    fn snapshot(&mut self, since: Option<Mark>) -> Snapshot {
        self.counts.page(since)
    }

    fn restore(&mut self, page: &Snapshot) -> Result<(), Error> {
        self.counts.restore(page)
    }
}

/// Its flaw, and how many entries of states the auditors have seen.
struct Office(Flaw, Arc<AtomicU64>);

impl Program for Office {
    fn functions(&self) -> Vec<(String, Make)> {
        let flaw = self.0;
        let make: Make = Arc::new(move |_, _| {
            let (cache, handed_on) = (BTreeMap::new(), BTreeMap::new());
            Ok(Box::new(Clerk { flaw, counts: Carried::new(1), cache, handed_on, requests: 0 }))
        });
        vec![(KIND.to_owned(), make)]
    }

    fn stages(&self) -> Vec<CustomSpec> {
        vec![CustomSpec::new(KIND, [])]
    }

    fn workload(&self, _: usize) -> Box<dyn Workload> {
        Box::new(Work { flaw: self.0, asked: 0 })
    }

    fn invariant(&self) -> Box<dyn Invariant> {
        Box::new(Audit { flaw: self.0, written: 0, counted: self.1.clone() })
    }
}

struct Work {
    flaw: Flaw,
    asked: u64,
}

static AMBIENT: AtomicU64 = AtomicU64::new(0);

impl Workload for Work {
    fn next(&mut self, dice: &mut Dice) -> Option<Deed> {
        self.asked += 1;
        assert!(self.flaw != Flaw::WorkloadPanics || self.asked < 7, "no more ideas");
        let key = format!("letter-{}", dice.below(5));
        Some(match dice.below(8) {
            0..4 => {
                let mut len = dice.within(1..3_000);
                if self.flaw == Flaw::NotDeterministic {
                    len += AMBIENT.fetch_add(1, Relaxed);
                }
                if self.flaw == Flaw::WorkloadWantsTooMuch {
                    len = PUT_BYTES_MAX as u64 + 1;
                }
                let bytes = (0..len).map(|_| dice.below(256) as u8).collect();
                Deed::Put { key, bytes }
            }
            4..7 => Deed::Get { key },
            _ => Deed::Remove { key },
        })
    }
}

struct Audit {
    flaw: Flaw,
    written: u64,
    counted: Arc<AtomicU64>,
}

impl Invariant for Audit {
    fn answered(&mut self, _: usize, deed: &Deed, ended: &Result<Done, Error>) -> Result<(), String> {
        self.written += u64::from(matches!(deed, Deed::Put { .. }) && ended.is_ok());
        Ok(())
    }

    fn at_rest(&mut self, chains: &[ChainState]) -> Result<(), String> {
        let pages = chains.iter().flat_map(|chain| chain.stages.iter().flatten());
        self.counted.fetch_add(pages.map(|page| page.entries.len() as u64).sum(), Relaxed);
        if self.flaw == Flaw::InvariantRefuses && self.written > 0 {
            return Err(format!("{} letters are too many", self.written));
        }
        Ok(())
    }
}

fn run(room: Room, seed: u64, flaw: Flaw) -> Verdict {
    once(room, seed, &move |_| Box::new(Office(flaw, Arc::default())), false)
}

/// The first violation of a few seeds.
fn found(room: Room, flaw: Flaw) -> String {
    let mut seeds = 0..12;
    let found = seeds.find_map(|seed| run(room, seed, flaw).violation);
    found.unwrap_or_else(|| panic!("{flaw:?} is not found in {room:?}"))
}

#[test]
fn a_program_that_is_well_passes_in_both_rooms_and_repeats() {
    for (room, seeds) in [(Room::World, 10..20), (Room::Nodes, 0..2)] {
        let counted = Arc::new(AtomicU64::new(0));
        for seed in seeds {
            let (office, counted) = (Flaw::None, counted.clone());
            let verdict = twice(room, seed, &move |_| Box::new(Office(office, counted.clone())));
            assert_eq!(verdict.violation, None, "{room:?} {verdict}");
            assert!(verdict.figures.well > 20, "{room:?} {verdict}");
        }
        assert!(counted.load(Relaxed) > 0, "no state was seen in {room:?}");
    }
}

#[test]
fn a_function_that_answers_with_what_was_there_before_is_found() {
    for room in [Room::World, Room::Nodes] {
        let why = found(room, Flaw::StaleCache);
        assert!(why.contains("letter-"), "{room:?}: {why}");
    }
}

#[test]
fn a_function_that_changes_what_is_written_is_found() {
    for room in [Room::World, Room::Nodes] {
        let why = found(room, Flaw::Scrambles);
        assert!(why.contains("letter-") && why.ends_with(" bytes that nobody has put there whole"), "{room:?}: {why}");
    }
}

#[test]
fn a_panic_says_whose_it_was_and_when() {
    for room in [Room::World, Room::Nodes] {
        let why = found(room, Flaw::Breaks);
        assert!(why.contains("it has had enough") && why.contains("harness.rs"), "{room:?}: {why}");
        let why = found(room, Flaw::WorkloadPanics);
        let whose = "asked for its 7. deed, panicked: no more ideas at ";
        assert!(why.starts_with("the workload of client ") && why.contains(whose), "{room:?}: {why}");
    }
}

#[test]
fn what_the_invariant_says_and_what_a_workload_may_not_want_are_violations() {
    for room in [Room::World, Room::Nodes] {
        let why = found(room, Flaw::InvariantRefuses);
        assert!(why.starts_with("at rest: ") && why.ends_with(" letters are too many"), "{room:?}: {why}");
        let why = found(room, Flaw::WorkloadWantsTooMuch);
        let wants = format!("wants to put {} bytes; {PUT_BYTES_MAX} are allowed", PUT_BYTES_MAX + 1);
        assert!(why.ends_with(&wants), "{room:?}: {why}");
    }
}

#[test]
fn what_is_not_deterministic_is_said_with_both_traces_and_the_place() {
    for room in [Room::World, Room::Nodes] {
        let verdict = twice(room, 1, &|_| Box::new(Office(Flaw::NotDeterministic, Arc::default())));
        let why = verdict.violation.unwrap_or_default();
        let trace = format!("it is not deterministic: traces {:016x} and ", verdict.trace);
        assert!(why.starts_with(&trace) && why.contains("two runs differ first in line "), "{room:?}: {why}");
    }
}

/// A workload that never comes back, until the test has seen that.
struct Stuck(Arc<AtomicBool>);

impl Program for Stuck {
    fn functions(&self) -> Vec<(String, Make)> {
        Vec::new()
    }

    fn stages(&self) -> Vec<CustomSpec> {
        Vec::new()
    }

    fn clients(&self) -> usize {
        1
    }

    fn workload(&self, _: usize) -> Box<dyn Workload> {
        Box::new(Self(self.0.clone()))
    }
}

impl Workload for Stuck {
    fn next(&mut self, _: &mut Dice) -> Option<Deed> {
        while !self.0.load(Relaxed) {
            std::thread::yield_now();
        }
        None
    }
}

#[test]
fn what_hangs_is_given_up_and_the_others_are_run() {
    let release = Arc::new(AtomicBool::new(false));
    let stuck = release.clone();
    let make = move |seed| -> Box<dyn Program> {
        if seed == 1 { Box::new(Stuck(stuck.clone())) } else { Box::new(Office(Flaw::None, Arc::default())) }
    };
    let mut came = Vec::new();
    // Long enough for one step of a busy machine.
    let patience = Duration::from_secs(5);
    let run = move |seed| once(Room::World, seed, &make, false);
    each(0..4, patience, run, |verdict| {
        came.push(verdict.map(|verdict| (verdict.seed, verdict.violation)).map_err(|lost| (lost.seed, lost.why)));
        Ok(())
    })
    .expect("nothing is written");
    release.store(true, Relaxed);
    let Err((1, why)) = came.remove(1) else { panic!("{came:?}") };
    assert!(why.starts_with("it hangs: the workload of client 0, asked for its 1. deed, has not come back"), "{why}");
    assert_eq!(came, [0, 2, 3].map(|seed| Ok((seed, None))));
}
