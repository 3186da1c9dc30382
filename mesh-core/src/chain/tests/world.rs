//! A world for chains: nodes in a row, a wire between each and the next, one virtual clock.

use std::{collections::BTreeMap, time::Duration};

use super::{toys::*, *};
use crate::{
    effect::{Job, Outcome, WorkOutcome},
    error::{Error, ErrorKind},
    function::{Entropy, Tokens},
    port::{ComputeJob, WorkOutput},
    time::UnixMillis,
};

/// SplitMix64: the same seed, the same bytes.
pub(super) struct Seeded(pub(super) u64);

impl Seeded {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        crate::topology::mix(self.0)
    }
}

impl Entropy for Seeded {
    fn fill(&mut self, target: &mut [u8]) {
        target.fill_with(|| self.next() as u8);
    }
}

/// A function with what a shell gives it.
pub(super) struct Host<F> {
    pub(super) function: F,
    pub(super) tokens: Tokens,
    entropy: Seeded,
}

impl<F: StorageFunction> Host<F> {
    pub(super) fn new(function: F, seed: u64) -> Self {
        Self { function, tokens: Tokens::default(), entropy: Seeded(seed) }
    }

    /// Lets the function take one event and gives all its effects.
    pub(super) fn take(&mut self, now: Instant, event: Event) -> Vec<Effect> {
        let mut effects = Vec::new();
        let mut cx = Cx::new(now, UnixMillis(0), &mut effects, &mut self.tokens, &mut self.entropy);
        self.function.on_event(event, &mut cx);
        effects
    }
}

/// Who asked a node.
enum Asker {
    /// The test: its n-th request.
    Test(usize),
    /// The node before, with this call.
    Before(Token),
}

/// What came of one run.
#[derive(Debug, PartialEq)]
pub(super) struct Run {
    /// The reply to each request.
    pub(super) replies: BTreeMap<usize, Outcome>,
    /// All effects of all nodes: when, which node, what.
    pub(super) effects: Vec<(Instant, usize, Vec<Effect>)>,
}

/// See the module's page.
pub(super) struct World {
    hosts: Vec<Host<Chain>>,
    agenda: BTreeMap<(Instant, u64), (usize, Event)>,
    askers: BTreeMap<(usize, Token), Asker>,
    delays: Seeded,
    events: u64,
    now: Instant,
    run: Run,
}

impl World {
    /// Puts the requests to the first of the nodes, and goes on until nothing is left to do.
    pub(super) fn run(nodes: Vec<Chain>, requests: &[Vec<u8>], seed: u64) -> Run {
        let hosts = nodes.into_iter().zip(0..).map(|(node, at)| Host::new(node, seed.wrapping_add(at))).collect();
        let mut world = Self {
            hosts,
            agenda: BTreeMap::new(),
            askers: BTreeMap::new(),
            delays: Seeded(!seed),
            events: 0,
            now: Instant(0),
            run: Run { replies: BTreeMap::new(), effects: Vec::new() },
        };
        for (at, bytes) in requests.iter().enumerate() {
            let id = world.hosts[0].tokens.next();
            world.askers.insert((0, id), Asker::Test(at));
            world.later(0, Event::Request { id, request: request(bytes) });
        }
        let rest = (0..1_000_000).find(|_| !world.step());
        assert!(rest.is_some(), "the chain never comes to rest");
        assert!(world.hosts.iter().all(|host| host.function.in_flight() == 0), "something is left in flight");
        assert!(world.askers.is_empty(), "somebody was never answered");
        world.run
    }

    /// Lets a node have an event after a random while, so that nothing comes in the order in which it was sent.
    fn later(&mut self, node: usize, event: Event) {
        self.events += 1;
        let delay = Duration::from_micros(self.delays.next() % 4000);
        self.agenda.insert((self.now + delay, self.events), (node, event));
    }

    fn step(&mut self) -> bool {
        let wakes = self.hosts.iter().enumerate();
        let wake = wakes.filter_map(|(node, host)| host.function.wake_at().map(|at| (at, node))).min();
        let next = self.agenda.first_key_value().map(|(key, _)| key.0);
        let (node, event) = match (next, wake) {
            (next, Some((at, node))) if next.is_none_or(|next| at <= next) => {
                self.now = self.now.max(at);
                (node, Event::Wake)
            }
            (Some(at), _) => {
                self.now = at;
                self.agenda.pop_first().expect("there is a next one").1
            }
            (None, _) => return false,
        };
        let effects = self.hosts[node].take(self.now, event);
        self.run.effects.push((self.now, node, effects.iter().map(same).collect()));
        for effect in effects {
            self.act(node, effect);
        }
        true
    }

    fn act(&mut self, node: usize, effect: Effect) {
        match effect {
            Effect::Call { to: Target::Next, call, request } if node + 1 < self.hosts.len() => {
                let id = self.hosts[node + 1].tokens.next();
                self.askers.insert((node + 1, id), Asker::Before(call));
                self.later(node + 1, Event::Request { id, request });
            }
            Effect::Call { call, request, .. } => {
                self.later(node, Event::Reply { call, outcome: far_end(&request.payload) });
            }
            Effect::Reply { id, outcome } => match self.askers.remove(&(node, id)) {
                Some(Asker::Before(call)) => self.later(node - 1, Event::Reply { call, outcome }),
                Some(Asker::Test(at)) => assert!(self.run.replies.insert(at, outcome).is_none()),
                None => panic!("node {node} answers {id}, which nobody asked or which was answered before"),
            },
            Effect::Start { work, job } => self.later(node, Event::Done { work, outcome: work_of(&job) }),
        }
    }
}

/// What the world behind the last node, or the metadata, says to a payload.
fn far_end(payload: &[u8]) -> Outcome {
    match digest(payload) % 7 {
        0 => Err(refusal("the far end is full")),
        1 => Err(Error::new(ErrorKind::LinkLost, "the far end is gone")),
        digest => Ok(done(joined(&[payload, &[0xe0 | digest as u8]]))),
    }
}

/// What a worker makes of a job.
fn work_of(job: &Job) -> WorkOutcome {
    match job {
        Job::Compute(ComputeJob::Encode { code: CODE, bytes }) if digest(bytes).is_multiple_of(7) => {
            Err(Error::new(ErrorKind::Corrupt, "the work failed"))
        }
        Job::Compute(ComputeJob::Encode { code: CODE, bytes }) => {
            Ok(WorkOutput::Bytes(bytes.iter().rev().copied().collect::<Vec<u8>>().as_slice().into()))
        }
        other => panic!("no toy asks for {other:?}"),
    }
}

/// A copy: effects are not `Clone`, for a function must not send one twice.
fn same(effect: &Effect) -> Effect {
    match effect {
        Effect::Call { to, call, request } => Effect::Call { to: *to, call: *call, request: request.clone() },
        Effect::Reply { id, outcome } => Effect::Reply { id: *id, outcome: outcome.clone() },
        Effect::Start { work, job: Job::Compute(job) } => Effect::Start { work: *work, job: Job::Compute(job.clone()) },
        Effect::Start { job, .. } => panic!("no toy asks for {job:?}"),
    }
}
