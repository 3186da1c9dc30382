//! The state of the wires. No lock is held while a port is called.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use mesh_core::{
    Error, ErrorKind, Lane, Outcome, Response,
    envelope::{Body, Envelope},
    id::NodeId,
    port::{CallGuard, Clock, Completion, Inbound, Role},
    time::Instant,
};

use super::{Delivery, End, MemoryOptions};
use crate::{
    gate, handshake,
    session::{Action, Calls},
};

type Done = Completion<Outcome>;

pub(super) struct Fabric {
    options: MemoryOptions,
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Which start, and its way in.
    nodes: BTreeMap<NodeId, (u64, Arc<dyn Inbound>)>,
    clients: BTreeMap<u64, Role>,
    starts: u64,
    cuts: BTreeSet<(End, End)>,
    wires: BTreeMap<Wire, Ends>,
    queue: VecDeque<Message>,
    /// Somebody is delivering; what he finds in the queue he delivers too.
    delivering: bool,
}

/// Who asks whom, in which lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Wire {
    from: End,
    to: NodeId,
    lane: Lane,
}

/// Both ends of a wire. They outlive cuts, so that the numbers of calls never come again.
#[derive(Default)]
struct Ends {
    calls: Calls<Done>,
    connected: bool,
    /// Of requests on their way.
    deadlines: BTreeMap<u64, Instant>,
    served: BTreeMap<u64, Served>,
}

/// A request at the end that serves.
enum Served {
    /// `Inbound::deliver` has not returned yet.
    Delivering,
    /// … and nobody waits any more.
    Abandoned,
    Held(CallGuard),
}

enum Message {
    Request(Wire, Box<Envelope>),
    Answer(Wire, u64, Outcome),
    Cancel(Wire, u64),
}

impl Message {
    const fn wire(&self) -> Wire {
        match self {
            Self::Request(wire, _) | Self::Answer(wire, ..) | Self::Cancel(wire, _) => *wire,
        }
    }
}

/// What is to be done once the lock is released.
#[derive(Default)]
struct After {
    tell: Vec<(Done, Outcome)>,
    /// Dropped: the one who serves learns that nobody waits.
    guards: Vec<CallGuard>,
}

impl After {
    fn run(self) {
        drop(self.guards);
        for (done, outcome) in self.tell {
            done(outcome);
        }
    }
}

impl Fabric {
    pub(super) fn new(options: MemoryOptions, clock: Arc<dyn Clock>) -> Self {
        Self { options, clock, state: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn join(&self, node: NodeId, inbound: Arc<dyn Inbound>) -> u64 {
        let mut state = self.lock();
        state.starts += 1;
        let start = state.starts;
        state.nodes.insert(node, (start, inbound));
        start
    }

    pub(super) fn client(&self, role: Role) -> u64 {
        let mut state = self.lock();
        let client = state.clients.len() as u64 + 1;
        state.clients.insert(client, role);
        client
    }

    pub(super) fn leave(&self, node: NodeId) {
        let mut after = After::default();
        let mut state = self.lock();
        let gone = state.nodes.remove(&node);
        state.sever(|wire| wire.from == End::Node(node) || wire.to == node, "the node is gone", &mut after);
        drop(state);
        after.run();
        drop(gone);
    }

    pub(super) fn cut(&self, a: End, b: End) {
        let mut after = After::default();
        let mut state = self.lock();
        state.cuts.insert((a.min(b), a.max(b)));
        let between = |wire: &Wire| {
            let to = End::Node(wire.to);
            (wire.from, to) == (a, b) || (wire.from, to) == (b, a)
        };
        state.sever(between, "the wire was cut", &mut after);
        drop(state);
        after.run();
    }

    pub(super) fn heal(&self, a: End, b: End) {
        self.lock().cuts.remove(&(a.min(b), a.max(b)));
    }

    pub(super) fn reachable(&self, from: End) -> BTreeSet<NodeId> {
        let state = self.lock();
        state.nodes.keys().copied().filter(|node| End::Node(*node) != from && state.is_joined(from, *node)).collect()
    }

    pub(super) fn queued(&self) -> usize {
        self.lock().queue.len()
    }

    pub(super) fn check_start(&self, end: End, start: u64) -> Result<(), Error> {
        self.lock().check_start(end, start)
    }

    pub(super) fn wake_at(&self) -> Option<Instant> {
        self.lock().wires.values().filter_map(|ends| ends.calls.wake_at()).min()
    }

    pub(super) fn expire(self: &Arc<Self>) {
        let now = self.clock.now();
        let wires: Vec<Wire> = self.lock().wires.keys().copied().collect();
        for wire in wires {
            self.with_calls(wire, |calls, actions| calls.expire(now, actions));
        }
    }

    pub(super) fn send(
        self: &Arc<Self>,
        from: End,
        start: u64,
        to: NodeId,
        envelope: Envelope,
        done: Done,
    ) -> CallGuard {
        let now = self.clock.now();
        let wire = Wire { from, to, lane: envelope.header.lane };
        let mut after = After::default();
        let mut state = self.lock();
        if let Err(error) = state.check_start(from, start).and_then(|()| state.check_wire(from, to)) {
            drop(state);
            done(Err(error));
            return CallGuard::none();
        }
        let terms = handshake::terms(&state.role(from));
        let ends = state.wires.entry(wire).or_default();
        let mut actions = Vec::new();
        if !ends.connected {
            ends.connected = true;
            ends.calls.connected(terms, &mut actions);
        }
        let id = ends.calls.start(now, envelope, done, &mut actions);
        state.perform(wire, actions, &mut after);
        drop(state);
        after.run();
        self.deliver_inline();
        let Some(id) = id else { return CallGuard::none() };
        let fabric = Arc::downgrade(self);
        CallGuard::new(move || {
            if let Some(fabric) = fabric.upgrade() {
                fabric.with_calls(wire, |calls, actions| calls.cancel(id, actions));
            }
        })
    }

    fn with_calls(self: &Arc<Self>, wire: Wire, step: impl FnOnce(&mut Calls<Done>, &mut Vec<Action<Done>>)) {
        let (mut after, mut actions) = (After::default(), Vec::new());
        let mut state = self.lock();
        if let Some(ends) = state.wires.get_mut(&wire) {
            step(&mut ends.calls, &mut actions);
        }
        state.perform(wire, actions, &mut after);
        drop(state);
        after.run();
        self.deliver_inline();
    }

    /// Delivers what is there, unless somebody (this thread, further down, too) already does.
    fn deliver_inline(self: &Arc<Self>) {
        if self.options.delivery != Delivery::Inline || core::mem::replace(&mut self.lock().delivering, true) {
            return;
        }
        let _delivering = Delivering(self);
        while let Some(message) = self.oldest() {
            self.deliver(message);
        }
    }

    /// The oldest message; if there is none, the delivering is over in the same moment.
    fn oldest(&self) -> Option<Message> {
        let mut state = self.lock();
        let message = state.queue.pop_front();
        state.delivering = message.is_some();
        message
    }

    pub(super) fn step(self: &Arc<Self>, index: usize) -> bool {
        let message = self.lock().queue.remove(index);
        message.map(|message| self.deliver(message)).is_some()
    }

    fn deliver(self: &Arc<Self>, message: Message) {
        match message {
            Message::Request(wire, envelope) => self.deliver_request(wire, *envelope),
            Message::Answer(wire, id, outcome) => {
                let outcome = self.over_the_wire(wire, id, outcome);
                self.with_calls(wire, |calls, actions| calls.answered(id, outcome, actions));
            }
            Message::Cancel(wire, id) => {
                let mut state = self.lock();
                let guard = state.wires.get_mut(&wire).and_then(|ends| ends.abandon(id));
                drop(state);
                drop(guard);
            }
        }
    }

    fn deliver_request(self: &Arc<Self>, wire: Wire, envelope: Envelope) {
        let id = envelope.header.id;
        let now = self.clock.now();
        let mut state = self.lock();
        let role = state.role(wire.from);
        let inbound = state.nodes.get(&wire.to).map(|(_, inbound)| inbound.clone());
        let ends = state.wires.entry(wire).or_default();
        // Without one, its cancellation has overtaken it.
        let Some(deadline) = ends.deadlines.remove(&id) else { return };
        ends.served.insert(id, Served::Delivering);
        drop(state);
        let mut envelope = match self.coded(envelope) {
            Ok(envelope) => envelope,
            Err(error) => return self.answer(wire, id, Err(error)),
        };
        // What is left of the budget now; at least one, for zero would mean that none is named.
        let left = deadline.after(now).as_micros().max(1);
        envelope.header.budget_us = u64::try_from(left).unwrap_or(u64::MAX);
        if let Err(error) = gate::admit(&role, &mut envelope) {
            return self.answer(wire, id, Err(error));
        }
        // A wire is severed when its node leaves, and what was on it is gone: so there is a node.
        let Some(inbound) = inbound else { return };
        let fabric = self.clone();
        let guard = inbound.deliver(&role, envelope, Box::new(move |outcome| fabric.answer(wire, id, outcome)));
        let mut state = self.lock();
        let served = state.wires.get_mut(&wire).and_then(|ends| ends.served.remove(&id));
        match served {
            None => {
                drop(state);
                guard.forget();
            }
            Some(Served::Abandoned) => {
                drop(state);
                drop(guard);
            }
            Some(Served::Delivering | Served::Held(_)) => {
                if let Some(ends) = state.wires.get_mut(&wire) {
                    ends.served.insert(id, Served::Held(guard));
                }
            }
        }
    }

    /// The one who serves has answered.
    fn answer(self: &Arc<Self>, wire: Wire, id: u64, outcome: Outcome) {
        let mut state = self.lock();
        let served = state.wires.get_mut(&wire).and_then(|ends| match ends.served.get(&id) {
            // `deliver_request` still has to see it.
            None | Some(Served::Abandoned) => None,
            Some(Served::Delivering | Served::Held(_)) => ends.served.remove(&id),
        });
        if served.is_some() {
            state.queue.push_back(Message::Answer(wire, id, outcome));
        }
        drop(state);
        if let Some(Served::Held(guard)) = served {
            guard.forget();
        }
        self.deliver_inline();
    }

    fn over_the_wire(&self, wire: Wire, id: u64, outcome: Outcome) -> Outcome {
        if !self.options.codec {
            return outcome;
        }
        let answer = self.coded(Envelope::answer(id, wire.lane, outcome))?;
        match answer.header.body {
            Body::Answer(said) => Ok(Response { answer: said, payload: answer.payload }),
            Body::Failure(error) => Err(error),
            _ => Err(Error::bug("an answer that is none after the codec")),
        }
    }

    fn coded(&self, envelope: Envelope) -> Result<Envelope, Error> {
        if self.options.codec { Envelope::decode_whole(&envelope.encode()?) } else { Ok(envelope) }
    }
}

/// Ends the delivering also when an inbound port panics.
struct Delivering<'a>(&'a Fabric);

impl Drop for Delivering<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.lock().delivering = false;
        }
    }
}

impl State {
    fn role(&self, end: End) -> Role {
        match end {
            End::Node(node) => Role::Node(node),
            End::Client(client) => {
                self.clients.get(&client).cloned().unwrap_or(Role::Client(mesh_core::Principal::Anonymous))
            }
        }
    }

    fn is_joined(&self, a: End, node: NodeId) -> bool {
        let b = End::Node(node);
        self.nodes.contains_key(&node) && !self.cuts.contains(&(a.min(b), a.max(b)))
    }

    fn check_start(&self, end: End, start: u64) -> Result<(), Error> {
        let current = match end {
            End::Node(node) => self.nodes.get(&node).is_some_and(|(current, _)| *current == start),
            End::Client(_) => true,
        };
        if current { Ok(()) } else { Err(unreachable("this is the link of an earlier start of the node")) }
    }

    fn check_wire(&self, from: End, to: NodeId) -> Result<(), Error> {
        if self.is_joined(from, to) {
            Ok(())
        } else {
            Err(unreachable("the peer cannot be reached, and the request was not sent").with("peer", to))
        }
    }

    fn perform(&mut self, wire: Wire, actions: Vec<Action<Done>>, after: &mut After) {
        for action in actions {
            match action {
                Action::Complete { caller, outcome } => after.tell.push((caller, outcome)),
                Action::Reset { id } => self.queue.push_back(Message::Cancel(wire, id)),
                Action::Send { id, deadline, envelope } => {
                    let Some(ends) = self.wires.get_mut(&wire) else { continue };
                    if ends.calls.sent(id) {
                        ends.deadlines.insert(id, deadline);
                        self.queue.push_back(Message::Request(wire, envelope));
                    }
                }
            }
        }
    }

    /// Breaks wires: what is on them is gone, and both ends are told.
    fn sever(&mut self, severed: impl Fn(&Wire) -> bool, reason: &str, after: &mut After) {
        self.queue.retain(|message| !severed(&message.wire()));
        for (_, ends) in self.wires.iter_mut().filter(|(wire, _)| severed(wire)) {
            let mut actions = Vec::new();
            ends.connected = false;
            ends.deadlines.clear();
            ends.calls.broken(reason, &mut actions);
            for action in actions {
                if let Action::Complete { caller, outcome } = action {
                    after.tell.push((caller, outcome));
                }
            }
            let ids: Vec<u64> = ends.served.keys().copied().collect();
            after.guards.extend(ids.into_iter().filter_map(|id| ends.abandon(id)));
        }
    }
}

impl Ends {
    /// Nobody waits for this request's answer any more.
    fn abandon(&mut self, id: u64) -> Option<CallGuard> {
        self.deadlines.remove(&id);
        match self.served.remove(&id)? {
            Served::Held(guard) => Some(guard),
            Served::Delivering | Served::Abandoned => {
                self.served.insert(id, Served::Abandoned);
                None
            }
        }
    }
}

fn unreachable(message: &'static str) -> Error {
    Error::new(ErrorKind::Unreachable, message)
}
