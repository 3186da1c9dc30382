//! Everything against a map: any order of requests, ends of jobs, crashes and power cuts.

use std::collections::BTreeMap;

use mesh_core::{Buf, ErrorKind, Event, StorageFunction as _, id::Token, op::ShardOp, wire::crc32c};
use proptest::prelude::*;

use super::world::{BLOCK, World, bytes, shard, write};

#[derive(Clone, Debug)]
enum Step {
    Write {
        n: u64,
    },
    Delete {
        n: u64,
        more: u64,
    },
    Read {
        n: u64,
    },
    /// Ends one of the jobs under way.
    End {
        at: usize,
    },
    /// Ends all of them.
    Settle,
    /// Lets the time come that the drive waits for.
    Wake,
    /// The process dies; the medium keeps everything that was written.
    Crash,
    /// The power fails; of what was not synced some blocks survive.
    PowerCut {
        seed: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..SHARDS).prop_map(|n| Step::Write { n }),
        5 => (0..SHARDS, 0..4u64).prop_map(|(n, more)| Step::Delete { n, more }),
        4 => (0..SHARDS).prop_map(|n| Step::Read { n }),
        30 => any::<usize>().prop_map(|at| Step::End { at }),
        2 => Just(Step::Settle),
        8 => Just(Step::Wake),
        1 => Just(Step::Crash),
        1 => any::<u64>().prop_map(|seed| Step::PowerCut { seed }),
    ]
}

const SHARDS: u64 = 40;

/// What the world may believe of a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Belief {
    Absent,
    Present,
    /// A write or a delete was not answered.
    Either,
}

struct Model {
    world: World,
    beliefs: BTreeMap<u64, Belief>,
    /// Writes and deletes under way: the shards and what they will be.
    changes: BTreeMap<Token, (Vec<u64>, Belief)>,
    /// Reads under way; what was believed if nothing changed meanwhile.
    reads: BTreeMap<Token, (u64, Belief)>,
}

fn contents(n: u64) -> Vec<u8> {
    let len = [10, 3000, BLOCK, BLOCK + 1, 2 * BLOCK, 3 * BLOCK - 7, 3 * BLOCK][n as usize % 7];
    bytes(n, len)
}

impl Model {
    fn belief(&self, n: u64) -> Belief {
        self.beliefs.get(&n).copied().unwrap_or(Belief::Absent)
    }

    /// Only one change of a shard is under way at a time, so that the order of answers does not matter.
    fn is_changing(&self, n: u64) -> bool {
        self.changes.values().any(|(shards, _)| shards.contains(&n))
    }

    fn change(&mut self, shards: Vec<u64>, op: ShardOp, payload: Buf, to: Belief) {
        let from: Vec<Belief> = shards.iter().map(|&n| self.belief(n)).collect();
        for (&n, from) in shards.iter().zip(from) {
            if from != to {
                self.beliefs.insert(n, Belief::Either);
            }
            for (_, belief) in self.reads.values_mut().filter(|(read, _)| *read == n) {
                *belief = Belief::Either;
            }
        }
        let id = self.world.ask(op, payload);
        self.changes.insert(id, (shards, to));
        self.take_replies();
    }

    fn take_replies(&mut self) {
        for (id, outcome) in core::mem::take(&mut self.world.replies) {
            if let Some((shards, to)) = self.changes.remove(&id) {
                match outcome {
                    Ok(_) => self.beliefs.extend(shards.into_iter().map(|n| (n, to))),
                    // It did not happen; but what the medium kept of it may be found at the next start.
                    Err(error) => assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}"),
                }
            } else if let Some((n, belief)) = self.reads.remove(&id) {
                match outcome {
                    Ok(response) => {
                        assert_eq!(response.payload[..], contents(n)[..], "wrong bytes of {n}");
                        assert_ne!(belief, Belief::Absent, "{n} is not there");
                    }
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
                        assert_ne!(belief, Belief::Present, "{n} is lost");
                    }
                }
            }
        }
    }

    /// After a new start: what was believed must be so, and what is so is from now on believed.
    fn compare(&mut self) {
        self.changes.clear();
        self.reads.clear();
        self.world.replies.clear();
        for n in 0..SHARDS {
            let found = match self.world.get(shard(n)) {
                Ok(payload) => {
                    assert_eq!(payload, contents(n), "wrong bytes of {n}");
                    Belief::Present
                }
                Err(ErrorKind::NotFound) => Belief::Absent,
                Err(other) => panic!("{n}: {other:?}"),
            };
            let belief = self.belief(n);
            assert!(belief == found || belief == Belief::Either, "{n} is {found:?} and was believed {belief:?}");
            self.beliefs.insert(n, found);
        }
        let present = self.beliefs.values().filter(|belief| **belief == Belief::Present).count();
        assert_eq!(self.world.stat(), {
            let (free, _, _, full) = self.world.stat();
            (free, present as u64, 0, full)
        });
        self.world.replies.clear();
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Write { n } if !self.is_changing(n) => {
                let payload = contents(n);
                self.change(vec![n], write(shard(n), &payload), Buf::copy_of(&payload), Belief::Present);
            }
            Step::Delete { n, more } => {
                let shards: Vec<u64> = (n..=n + more).filter(|&n| n < SHARDS && !self.is_changing(n)).collect();
                let ids = shards.iter().map(|&n| shard(n)).collect();
                self.change(shards, ShardOp::Delete { ids, until: None }, Buf::empty(), Belief::Absent);
            }
            Step::Read { n } => {
                let belief = self.belief(n);
                let id = self.world.ask(ShardOp::Read { id: shard(n) }, Buf::empty());
                self.reads.insert(id, (n, belief));
                self.take_replies();
            }
            Step::End { at } if !self.world.jobs.is_empty() => {
                self.world.end(at % self.world.jobs.len());
                self.take_replies();
            }
            Step::Settle => {
                self.world.settle();
                self.take_replies();
                assert!(self.changes.is_empty() && self.reads.is_empty(), "requests without an answer");
            }
            Step::Wake => {
                if let Some(at) = self.world.drive.wake_at() {
                    self.world.now = self.world.now.max(at);
                    self.world.event(Event::Wake);
                    self.take_replies();
                }
            }
            Step::Crash => {
                self.world.restart();
                self.compare();
            }
            Step::PowerCut { seed } => {
                let mut state = seed;
                self.world.power_cut(|| match seed % 4 {
                    0 => false,
                    1 => true,
                    _ => {
                        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                        state >> 63 == 1
                    }
                });
                self.compare();
            }
            Step::Write { .. } | Step::End { .. } => {}
        }
    }
}

fn run(segments: u64, room_extents: Option<usize>, steps: Vec<Step>) {
    let mut world = World::new(segments, 16);
    world.room_extents = room_extents;
    world.spec.scrub_every_ms = 2_000;
    let mut model = Model { world, beliefs: BTreeMap::new(), changes: BTreeMap::new(), reads: BTreeMap::new() };
    for step in steps {
        model.take(step);
    }
    model.world.settle();
    model.take_replies();
    assert!(model.changes.is_empty() && model.reads.is_empty(), "requests without an answer");
    model.world.power_cut(|| false);
    model.compare();
}

/// Few in the ordinary run; `PROPTEST_CASES` asks for more.
fn cases() -> u32 {
    if std::env::var_os("PROPTEST_CASES").is_some() { ProptestConfig::default().cases } else { 40 }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), ..ProptestConfig::default() })]

    #[test]
    fn a_drive_with_room_is_a_map_that_survives(steps in proptest::collection::vec(step(), 1..400)) {
        run(20, None, steps);
    }

    #[test]
    fn a_drive_without_room_is_a_map_that_survives(steps in proptest::collection::vec(step(), 1..400)) {
        run(8, None, steps);
    }

    #[test]
    fn a_drive_whose_medium_runs_out_is_a_map_that_survives(
        steps in proptest::collection::vec(step(), 1..400),
        room in 5..9usize,
    ) {
        run(20, Some(room), steps);
    }
}

#[test]
fn contents_of_shards_differ() {
    let sums: std::collections::BTreeSet<u32> = (0..SHARDS).map(|n| crc32c(&contents(n))).collect();
    assert_eq!(sums.len() as u64, SHARDS);
}
