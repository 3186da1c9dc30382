//! Functions one after another, as one function.
//!
//! Inside a chain a call to [`Target::Next`] is a queue push; at its end it bubbles out to the shell, which routes it
//! to whatever comes behind the chain; where the chain is cut, it goes to its [`Target::Tail`]. So to fuse a chain, to split
//! it over two nodes or to nest it is a decision of placement alone. A tail is asked for by the stage that it begins with:
//! of a chain that is cut elsewhere by now, no stage is left out and none is run twice.

use std::{
    collections::{HashMap, VecDeque},
    hash::{BuildHasherDefault, Hasher},
    sync::Arc,
};

use crate::{
    effect::{Effect, Event, Target},
    figures::{Count, Figures as _, Labels, Page},
    function::{Cx, StorageFunction},
    id::Token,
    limits::CHAIN_STAGES_MAX,
    snapshot::{Mark, Snapshot},
    spec::FunctionSpec,
    time::Instant,
};

crate::figures! {
    /// What one stage of a chain was given here.
    struct Stage as "mesh_stage" {
        /// Requests that a stage of a chain was given here, by the stage before it or from outside.
        requests: Count,
        /// Requests that a stage of a chain answered with an error, its own or that of a stage behind it.
        errors: Count,
    }
}

/// Functions one after another. See the module's page.
pub struct Chain {
    stages: Vec<Box<dyn StorageFunction>>,
    /// The stages from this one on get no new calls: they run elsewhere. The number of stages: none does.
    cut: u8,
    /// Which stage waits for a completion from outside.
    owner: TokenMap,
    /// Which stage waits for a reply of the stage after it.
    upstream: TokenMap,
    queue: VecDeque<(u8, Event)>,
    effects: Vec<Effect>,
    /// Of each stage.
    counted: Box<[Stage]>,
    /// What it was configured by last: it names the stages.
    spec: Option<Arc<FunctionSpec>>,
    /// Snapshots given so far, and where the stages' own were at the last ones.
    snapshots: u64,
    marks: VecDeque<(Mark, Vec<Mark>)>,
}

impl Chain {
    /// Names what a chain tells of each stage.
    pub fn declare(page: &mut Page) {
        Stage::declare(page);
    }
}

impl core::fmt::Debug for Chain {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Chain of {}, {} in flight", self.stages.len(), self.in_flight())
    }
}

impl Chain {
    /// A chain of these stages, the first one first.
    ///
    /// # Panics
    /// If there is no stage, or more than `CHAIN_STAGES_MAX`.
    #[must_use]
    pub fn new(stages: Vec<Box<dyn StorageFunction>>) -> Self {
        assert!((1..=CHAIN_STAGES_MAX).contains(&stages.len()), "a chain of {} stages", stages.len());
        // At most CHAIN_STAGES_MAX stages.
        let cut = stages.len() as u8;
        let counted = stages.iter().map(|_| Stage::default()).collect();
        Self {
            stages,
            cut,
            counted,
            spec: None,
            owner: TokenMap::default(),
            upstream: TokenMap::default(),
            queue: VecDeque::new(),
            effects: Vec::new(),
            snapshots: 0,
            marks: VecDeque::new(),
        }
    }

    /// Has the stages from `cut` on run elsewhere from now on; what they have here ends here. A chain begins with all of
    /// its stages. The first stage is always here, and a cut behind the last one makes the chain whole.
    /// Not for a chain inside another one, which would take the outer one's cut for its own.
    #[must_use]
    pub fn split(mut self, cut: u8) -> Self {
        self.cut_at(cut);
        self
    }

    fn cut_at(&mut self, cut: u8) {
        self.cut = cut.clamp(1, self.last() + 1);
    }

    fn last(&self) -> u8 {
        // At most CHAIN_STAGES_MAX stages.
        (self.stages.len() - 1) as u8
    }

    /// Lets one stage take one event, and goes on while what comes out is one event for another stage.
    fn step(&mut self, mut stage: u8, mut event: Event, cx: &mut Cx<'_>) {
        let mut effects = core::mem::take(&mut self.effects);
        loop {
            self.stages[usize::from(stage)].on_event(event, &mut cx.into_effects(&mut effects));
            if effects.len() == 1
                && self.queue.is_empty()
                && let Some(effect) = effects.pop()
            {
                // The usual way, down and up again, without a detour over the queue.
                match self.sort(stage, effect, cx) {
                    Some(next) => (stage, event) = next,
                    None => break,
                }
            } else {
                for effect in effects.drain(..) {
                    let next = self.sort(stage, effect, cx);
                    self.queue.extend(next);
                }
                break;
            }
        }
        self.effects = effects;
    }

    /// What an effect of one stage is for another; or sends it out of the chain. In line: a hop is mostly moves of
    /// effects and events, and a call would move each once more.
    #[inline(always)]
    fn sort(&mut self, stage: u8, effect: Effect, cx: &mut Cx<'_>) -> Option<(u8, Event)> {
        match effect {
            Effect::Call { to: Target::Next, call, request } if stage < self.last() => {
                if stage + 1 == self.cut {
                    self.owner.insert(call, stage);
                    cx.push(Effect::Call { to: Target::Tail(self.cut), call, request });
                    return None;
                }
                self.upstream.insert(call, stage);
                self.counted[usize::from(stage + 1)].requests.add(1);
                Some((stage + 1, Event::Request { id: call, request }))
            }
            Effect::Reply { id, outcome } => {
                if outcome.is_err() {
                    self.counted[usize::from(stage)].errors.add(1);
                }
                match self.upstream.remove(&id) {
                    Some(above) => Some((above, Event::Reply { call: id, outcome })),
                    None => {
                        cx.push(Effect::Reply { id, outcome });
                        None
                    }
                }
            }
            Effect::Call { call: token, .. } | Effect::Start { work: token, .. } => {
                self.owner.insert(token, stage);
                cx.push(effect);
                None
            }
        }
    }
}

impl StorageFunction for Chain {
    fn on_event(&mut self, event: Event, cx: &mut Cx<'_>) {
        match event {
            Event::Request { .. } => {
                self.counted[0].requests.add(1);
                self.queue.push_back((0, event));
            }
            Event::Reply { call: token, .. } | Event::Done { work: token, .. } => {
                let stage =
                    self.owner.remove(&token).expect("a completion is of a call this chain made, and comes once");
                self.queue.push_back((stage, event));
            }
            Event::Wake => {
                for (at, stage) in self.stages.iter().enumerate() {
                    if stage.wake_at().is_some_and(|at| at <= cx.now()) {
                        self.queue.push_back((at as u8, Event::Wake));
                    }
                }
            }
            Event::Configure(spec) => {
                match &*spec {
                    FunctionSpec::Split(_, cut) => self.cut_at(*cut),
                    FunctionSpec::Chain(_) => self.cut_at(u8::MAX),
                    // Of a single stage.
                    _ => {}
                }
                for at in 0..=self.last() {
                    self.queue.push_back((at, Event::Configure(spec.clone())));
                }
                self.spec = Some(spec);
            }
        }
        while let Some((stage, event)) = self.queue.pop_front() {
            self.step(stage, event, cx);
        }
        debug_assert!(
            self.in_flight() > 0 || (self.owner.is_empty() && self.upstream.is_empty()),
            "an idle chain has empty routing tables"
        );
    }

    fn wake_at(&self) -> Option<Instant> {
        self.stages.iter().filter_map(|stage| stage.wake_at()).min()
    }

    fn in_flight(&self) -> usize {
        self.stages.iter().map(|stage| stage.in_flight()).sum()
    }

    fn unanswered(&self) -> usize {
        self.stages.iter().map(|stage| stage.unanswered()).sum()
    }

    fn lingers(&self) -> bool {
        self.stages.iter().all(|stage| stage.lingers())
    }

    fn figures(&self, labels: &Labels, page: &mut Page) {
        let mut names = self.spec.iter().flat_map(|spec| spec.parts()).map(FunctionSpec::name);
        for (stage, counted) in self.stages.iter().zip(&self.counted) {
            counted.tell(&labels.clone().text("stage", names.next().unwrap_or_default()), page);
            stage.figures(labels, page);
        }
    }

    /// A mark of a chain stands for one of each stage. A mark that is not known any more begins anew.
    fn snapshot(&mut self, since: Option<Mark>) -> Snapshot {
        let known = since.and_then(|since| self.marks.iter().find(|(mark, _)| *mark == since)).cloned();
        let since = known.as_ref().map(|(mark, _)| *mark);
        let mut of_stages = known.map(|(_, marks)| marks.into_iter()).into_iter().flatten();
        let stages: Vec<Snapshot> = self.stages.iter_mut().map(|stage| stage.snapshot(of_stages.next())).collect();
        self.snapshots += 1;
        let mark = Mark(self.snapshots);
        if self.marks.len() == MARKS_MAX {
            self.marks.pop_front();
        }
        self.marks.push_back((mark, stages.iter().map(|stage| stage.mark).collect()));
        let more = stages.iter().any(|stage| stage.more);
        Snapshot { mark, since, more, stages, ..Snapshot::default() }
    }

    fn restore(&mut self, snapshot: &Snapshot) -> Result<(), crate::Error> {
        if snapshot.stages.len() != self.stages.len() {
            return Err(crate::Error::invalid("the snapshot is of a chain of another length"));
        }
        self.stages.iter_mut().zip(&snapshot.stages).try_for_each(|(stage, state)| stage.restore(state))
    }
}

/// Marks that a chain remembers: two transfers at once, and a page of each that was asked for twice.
const MARKS_MAX: usize = 4;

/// Token to stage. Never iterated, so its order cannot leak into effects.
type TokenMap = HashMap<Token, u8, BuildHasherDefault<TokenHasher>>;

/// Tokens count upwards: one multiplication spreads them (Fibonacci hashing, Knuth vol. 3, 6.4).
#[derive(Default)]
struct TokenHasher(u64);

impl Hasher for TokenHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

#[cfg(test)]
mod tests;
