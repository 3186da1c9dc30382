//! What a fused hop costs: a request down and its reply up through one more stage of a chain.
//!
//! ```text
//! cargo bench -p mesh-core --bench hop
//! ```
//!
//! A long chain of stages that only pass on is run against a chain of one such stage; the difference, divided by the
//! number of stages more, is a hop. Beside it, in the same run, stands a bare call of the same stage with the same
//! request: what the work of a stage costs without any chain. Figures are medians of many repetitions.

use std::{
    hint::black_box,
    sync::Arc,
    time::{Duration, Instant as Stopwatch},
};

use mesh_core::{
    Buf, Chain, Cx, Effect, Entropy, Event, Lane, Principal, Request, Response, StorageFunction, Target, Tokens, Trace,
    id::{GroupId, TenantId, Token},
    meta::Query,
    op::{Answer, Op},
    snapshot::{Mark, Snapshot},
    time::{Instant, UnixMillis},
};

/// Hands requests to the next stage and replies back. The least a stage can do.
#[derive(Default)]
struct Pass {
    /// Calls under way, and whose they are. Few: found by a look from behind.
    calls: Vec<(Token, Token)>,
}

impl StorageFunction for Pass {
    fn on_event(&mut self, event: Event, cx: &mut Cx<'_>) {
        match event {
            Event::Request { id, request } => {
                let call = cx.call(Target::Next, request);
                self.calls.push((call, id));
            }
            Event::Reply { call, outcome } => {
                let at = self.calls.iter().rposition(|(of, _)| *of == call).expect("a reply is of a call");
                let (_, id) = self.calls.swap_remove(at);
                cx.reply(id, outcome);
            }
            Event::Done { .. } | Event::Wake | Event::Configure(_) => {}
        }
    }

    fn in_flight(&self) -> usize {
        self.calls.len()
    }

    fn snapshot(&mut self, _: Option<Mark>) -> Snapshot {
        Snapshot::default()
    }
}

struct NoEntropy;

impl Entropy for NoEntropy {
    fn fill(&mut self, target: &mut [u8]) {
        target.fill(0);
    }
}

/// A shell that costs nothing but the calls themselves.
struct Shell {
    function: Box<dyn StorageFunction>,
    effects: Vec<Effect>,
    tokens: Tokens,
    parked: Vec<Token>,
}

impl Shell {
    fn new(function: impl StorageFunction + 'static) -> Self {
        Self { function: Box::new(function), effects: Vec::new(), tokens: Tokens::default(), parked: Vec::new() }
    }

    fn chain(stages: usize) -> Self {
        Self::new(Chain::new((0..stages).map(|_| Box::new(Pass::default()) as Box<dyn StorageFunction>).collect()))
    }

    fn take(&mut self, event: Event) -> Effect {
        let mut entropy = NoEntropy;
        let mut cx = Cx::new(Instant(1), UnixMillis(1), &mut self.effects, &mut self.tokens, &mut entropy);
        self.function.on_event(event, &mut cx);
        self.effects.pop().expect("one effect an event")
    }

    /// One request down to the end, and its reply up again, with `depth` others in flight meanwhile.
    fn round(&mut self, request: Request) -> Request {
        let id = self.tokens.next();
        let Effect::Call { call, request, .. } = self.take(Event::Request { id, request }) else {
            panic!("a request goes on")
        };
        let outcome = Ok(Response::new(Answer::Done));
        let Effect::Reply { outcome, .. } = self.take(Event::Reply { call, outcome }) else {
            panic!("a reply comes up")
        };
        black_box(outcome).expect("nothing fails here");
        request
    }

    /// Requests that stay in flight during the measurement.
    fn park(&mut self, depth: usize, request: &Request) {
        for _ in 0..depth {
            let id = self.tokens.next();
            if let Effect::Call { call, .. } = self.take(Event::Request { id, request: request.clone() }) {
                self.parked.push(call);
            }
        }
    }

    /// Nanoseconds of a round.
    fn measure(&mut self, rounds: u32, mut request: Request) -> f64 {
        let start = Stopwatch::now();
        for _ in 0..rounds {
            request = self.round(black_box(request));
        }
        nanos(start.elapsed()) / f64::from(rounds)
    }
}

fn nanos(span: Duration) -> f64 {
    span.as_secs_f64() * 1e9
}

fn request() -> Request {
    Request {
        op: Op::Query { group: GroupId(1), query: Arc::new(Query::Control) },
        payload: Buf::copy_of(&[7; 4096]),
        principal: Principal::User { tenant: TenantId(1), name: "user".into() },
        deadline: Instant::NEVER,
        lane: Lane::Interactive,
        trace: Trace::NONE,
    }
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// The least a call of another function can cost: it is not inlined, and takes and gives a number.
#[inline(never)]
fn bare(number: u64) -> u64 {
    black_box(number) + 1
}

fn main() {
    // `cargo test --benches` runs this without `--bench`: then once is enough.
    let (repetitions, rounds) = if std::env::args().any(|arg| arg == "--bench") { (41, 20_000) } else { (1, 100) };
    println!("median of {repetitions} repetitions of {rounds} rounds");

    let calls = median(
        (0..repetitions)
            .map(|_| {
                let start = Stopwatch::now();
                let sum = (0..rounds * 100).fold(0, |sum, _| bare(sum));
                black_box(sum);
                nanos(start.elapsed()) / f64::from(rounds * 100)
            })
            .collect(),
    );
    println!("bare function call             {calls:8.2} ns");
    let stage = median((0..repetitions).map(|_| Shell::new(Pass::default()).measure(rounds, request())).collect());
    println!("stage alone, down and up       {stage:8.2} ns");

    for depth in [0, 16] {
        for stages in [2, 4, 8, 16] {
            // Both are measured in every repetition, so that a change of the machine's mood hits both.
            let hop = median(
                (0..repetitions)
                    .map(|_| {
                        let [long, one] = [stages, 1].map(|stages| {
                            let mut shell = Shell::chain(stages);
                            shell.park(depth, &request());
                            shell.measure(rounds, request())
                        });
                        (long - one) / (stages - 1) as f64
                    })
                    .collect(),
            );
            println!(
                "fused hop, {stages:2} stages, {depth:2} parked {hop:8.2} ns   {:5.1} x a bare call   {:4.1} x the stage alone",
                hop / calls,
                hop / stage
            );
        }
    }
}
