//! Nodes, and what hosts one function: the shell, without threads. A panic of a function is a violation.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use mesh_core::{
    Cx, Effect, Event, Op, Outcome, Request, StorageFunction, WorkOutcome,
    id::{ActorId, Epoch, NodeId, Token},
    spec::FunctionSpec,
    time::Instant,
};

use mesh_placement::doors::Doors;

use super::{EFFECTS_MAX, Happening, Place, Setting, TokenSet, TokenSource, World, moves::Parked};
use crate::{disk::Crash, panics::quietly, random::Stream, trace::Digest as _};

/// One machine.
pub(super) struct Node {
    pub(super) id: NodeId,
    pub(super) boot: u64,
    pub(super) up: bool,
    /// What its monotonic clock is ahead of the world's.
    pub(super) clock: u64,
    pub(super) wall_skew_ms: u64,
    pub(super) doors: Doors<Hosted, Parked>,
    /// Actors that have left and end what they had, by life.
    pub(super) lingering: BTreeMap<u64, (ActorId, Hosted)>,
    /// Requests from outside that wait for an answer.
    pub(super) tickets: BTreeSet<u64>,
    /// Nodes that it takes for lost.
    pub(super) lost: BTreeSet<NodeId>,
    pub(super) effects: u64,
    /// Crashes just before this effect.
    pub(super) doom: Option<(u64, Crash)>,
}

impl Node {
    pub(super) fn new(id: NodeId, wall_skew_ms: u64) -> Self {
        Self {
            id,
            boot: 0,
            up: false,
            clock: 0,
            wall_skew_ms,
            doors: Doors::new(id),
            lingering: BTreeMap::new(),
            tickets: BTreeSet::new(),
            lost: BTreeSet::new(),
            effects: 0,
            doom: None,
        }
    }
}

/// One function in its shell.
pub(super) struct Hosted {
    pub(super) function: Box<dyn StorageFunction>,
    pub(super) life: u64,
    pub(super) epoch: Epoch,
    /// Who waits until nothing is under way that the state depends on.
    pub(super) settling: Option<u64>,
    pub(super) setting: Setting,
    tokens: TokenSource,
    entropy: Stream,
    pub(super) requests: BTreeMap<Token, Owed>,
    pub(super) calls: TokenSet,
    pub(super) works: TokenSet,
    /// When it is to be woken, on the world's clock.
    wake: Option<u64>,
    /// Wakes in a row that changed nothing.
    idle_wakes: u32,
    /// What it has been asked for, and how many bytes it was given and has given.
    pub(super) counted: Counted,
}

/// What an actor was asked to do since it was started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Requests that it has not answered, and their bytes.
    pub jobs: u64,
    /// See there.
    pub bytes: u64,
    /// Requests taken.
    pub requests: u64,
    /// Bytes taken and given.
    pub traffic_bytes: u64,
}

/// A request that is to be answered.
#[derive(Debug)]
pub struct Owed {
    /// Who wants the answer.
    pub(super) origin: Origin,
    /// What was asked.
    pub op: Op,
    /// Bytes that came with it.
    pub(super) bytes: u64,
}

/// Who wants an answer.
#[derive(Clone, Copy, Debug)]
pub enum Origin {
    /// From outside the world.
    Outside {
        /// The asker's name for it.
        ticket: u64,
    },
    /// The node itself.
    Own {
        /// The node's name for it.
        ticket: u64,
    },
    /// A call on the same node.
    Local(Place),
    /// A call over a link.
    Link {
        /// From where.
        from: NodeId,
        /// On which session.
        session: u64,
        /// Which.
        id: u64,
    },
}

impl Hosted {
    /// What it was asked to do so far.
    pub(super) fn counted(&self) -> Counted {
        let bytes = self.requests.values().map(|owed| owed.bytes).sum();
        Counted { jobs: self.requests.len() as u64, bytes, ..self.counted }
    }

    pub(super) fn new(
        function: Box<dyn StorageFunction>,
        (life, epoch): (u64, Epoch),
        entropy: Stream,
        setting: Setting,
    ) -> Self {
        Self {
            function,
            life,
            epoch,
            settling: None,
            setting,
            tokens: TokenSource::default(),
            entropy,
            requests: BTreeMap::new(),
            calls: TokenSet::new(),
            works: TokenSet::new(),
            wake: None,
            idle_wakes: 0,
            counted: Counted::default(),
        }
    }
}

/// Wakes in a row without an effect or a later time, after which an actor is said to spin.
const IDLE_WAKES_MAX: u32 = 1000;

impl World {
    pub(super) fn hosted(&mut self, place: Place) -> Option<&mut Hosted> {
        let node = self.nodes.get_mut(&place.node)?;
        match node.doors.get_mut(place.actor) {
            Some(hosted) if hosted.life == place.life => Some(hosted),
            _ => node.lingering.get_mut(&place.life).map(|(_, hosted)| hosted),
        }
    }

    /// An actor takes a request; its gate is open.
    pub(super) fn let_in(&mut self, node: NodeId, actor: ActorId, origin: Origin, request: Request) {
        let Some((epoch, _)) = self.phase(node, actor) else { return };
        // The others never move.
        if actor.as_data().is_some()
            && let Err(why) = self.invariants.taken(node, actor, epoch)
        {
            return self.violate(|| why);
        }
        let Some(hosted) = self.nodes.get_mut(&node).and_then(|node| node.doors.get_mut(actor)) else { return };
        let id = hosted.tokens.next();
        let bytes = request.payload.len() as u64;
        hosted.requests.insert(id, Owed { origin, op: request.op.clone(), bytes });
        hosted.counted.requests += 1;
        hosted.counted.traffic_bytes += bytes;
        let place = Place { node, actor, life: hosted.life, token: id };
        self.note(&[10, node.0, actor.0, id.0, request.digest()], || {
            format!("{node} {actor} <- request {id} {:?} ({:?})", request.op, request.payload)
        });
        self.feed(place, Event::Request { id, request });
    }

    pub(super) fn take_reply(&mut self, place: Place, outcome: Outcome) {
        if place.actor == ActorId::NODE {
            return self.come_back(place, outcome);
        }
        let Some(hosted) = self.hosted(place) else { return };
        if !hosted.calls.remove(&place.token) {
            self.violate(|| format!("{place:?}: a call came back twice"));
            return;
        }
        let Place { node, actor, token, .. } = place;
        self.note(&[11, node.0, actor.0, token.0, outcome.digest()], || {
            format!("{node} {actor} <- reply {token} {outcome:?}")
        });
        self.feed(place, Event::Reply { call: token, outcome });
    }

    pub(super) fn take_done(&mut self, place: Place, outcome: WorkOutcome) {
        let Some(hosted) = self.hosted(place) else { return };
        if !hosted.works.remove(&place.token) {
            self.violate(|| format!("{place:?}: a piece of work came back twice"));
            return;
        }
        let Place { node, actor, token, .. } = place;
        self.note(&[12, node.0, actor.0, token.0, outcome.digest()], || {
            format!("{node} {actor} <- done {token} {outcome:?}")
        });
        self.feed(place, Event::Done { work: token, outcome });
    }

    pub(super) fn take_wake(&mut self, place: Place, at: u64) {
        let Some(hosted) = self.hosted(place) else { return };
        if hosted.wake != Some(at) {
            return;
        }
        hosted.wake = None;
        hosted.idle_wakes += 1;
        let spins = hosted.idle_wakes > IDLE_WAKES_MAX;
        let Place { node, actor, .. } = place;
        if spins {
            self.violate(|| format!("{node} {actor} spins: it asks to be woken again and again and does nothing"));
            return;
        }
        self.note(&[13, node.0, actor.0], || format!("{node} {actor} <- wake"));
        self.feed(place, Event::Wake);
    }

    pub(super) fn take_configure(&mut self, place: Place, spec: Arc<FunctionSpec>) {
        let Place { node, actor, .. } = place;
        self.note(&[14, node.0, actor.0], || format!("{node} {actor} <- configure {spec:?}"));
        self.feed(place, Event::Configure(spec));
    }

    /// Lets a function take one event, and sees to its effects.
    fn feed(&mut self, place: Place, event: Event) {
        let (now, wall, world_now) = (self.clock(place.node), self.wall(place.node), self.now);
        let Some(hosted) = self.hosted(place) else { return };
        let woken = matches!(event, Event::Wake);
        let mut effects: Vec<Effect> = Vec::new();
        let fed = quietly(|| {
            let mut cx = Cx::new(now, wall, &mut effects, &mut hosted.tokens, &mut hosted.entropy);
            hosted.function.on_event(event, &mut cx);
            (hosted.function.wake_at(), hosted.function.in_flight())
        });
        let wake_at = match fed {
            Ok((wake_at, _)) => wake_at,
            Err(text) => {
                let Place { node, actor, .. } = place;
                self.violate(|| format!("{node} {actor} panicked: {text}"));
                return;
            }
        };
        if !woken || !effects.is_empty() {
            hosted.idle_wakes = 0;
        }
        let clock = now.0 - world_now;
        // A time that has passed wakes after the least span, so that a function that spins does not stop the clock.
        let wake =
            wake_at.filter(|at| *at != Instant::NEVER).map(|at| at.0.saturating_sub(clock).max(world_now + 1000));
        if let Some(at) = wake
            && (hosted.wake.is_none_or(|old| old > at || old <= world_now))
        {
            hosted.wake = Some(at);
            self.schedule(core::time::Duration::from_nanos(at - world_now), Happening::Wake { place, at });
        }
        if effects.len() > EFFECTS_MAX {
            self.violate(|| format!("{} effects of one event", effects.len()));
        }
        for effect in effects {
            if self.violation.is_some() || !self.dispatch(place, effect) {
                return;
            }
        }
        self.report_rest(place);
    }
}
