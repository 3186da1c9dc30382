//! The state of the wires. No lock is held while a port is called.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use mesh_core::{
    Error, ErrorKind, Lane, Outcome,
    envelope::Envelope,
    id::{Incarnation, NodeId},
    port::{CallGuard, Clock, Completion, Inbound, Role},
    time::Instant,
};

use super::{Delivery, End, Kind, MemoryOptions, UnderWay};
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
    /// Nodes that are there, by start.
    nodes: BTreeMap<u64, Joined>,
    /// What certificates say of nodes; of the others, that they are on hosts.
    certified: BTreeMap<NodeId, Role>,
    clients: BTreeMap<u64, Role>,
    starts: u64,
    /// Of every start that there was.
    incarnations: BTreeMap<u64, Incarnation>,
    /// What the starts were told of where others are.
    routes: BTreeMap<(Caller, NodeId), SocketAddr>,
    /// Which start of a node a caller is connected to. It may be gone, and the caller may not know.
    met: BTreeMap<(Caller, NodeId), u64>,
    cuts: BTreeSet<(End, End)>,
    wires: BTreeMap<Wire, Ends>,
    /// By number: the later one came later.
    queue: BTreeMap<u64, Message>,
    /// Messages that there were.
    messages: u64,
    /// Somebody is delivering; what he finds in the queue he delivers too.
    delivering: bool,
}

/// A start of a node.
struct Joined {
    node: NodeId,
    address: SocketAddr,
    inbound: Arc<dyn Inbound>,
}

/// Who asks: an end, and which start of it; 0 for clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Caller {
    pub(super) end: End,
    pub(super) start: u64,
}

/// Who asks whom, in which lane: a start another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Wire {
    from: Caller,
    to: NodeId,
    met: u64,
    lane: Lane,
}

/// Who asks whom, in whatever lane: caller, node, start.
type Way = (Caller, NodeId, u64);

impl Wire {
    const fn way(&self) -> Way {
        (self.from, self.to, self.met)
    }
}

/// Whether a way is between two ends.
fn is_between(way: Way, a: End, b: End) -> bool {
    let ends = (way.0.end, End::Node(way.1));
    ends == (a, b) || ends == (b, a)
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
    /// A call has ended without an answer.
    Ended(Wire, Done, Outcome),
}

impl Message {
    const fn wire(&self) -> Wire {
        match self {
            Self::Request(wire, _) | Self::Answer(wire, ..) | Self::Cancel(wire, _) | Self::Ended(wire, ..) => *wire,
        }
    }

    fn under_way(&self, number: u64) -> UnderWay {
        let (from, to) = self.ends();
        let (kind, about) = match self {
            Self::Request(_, envelope) => (Kind::Request, envelope.header.id),
            Self::Answer(_, id, _) => (Kind::Answer, *id),
            Self::Cancel(_, id) => (Kind::Cancel, *id),
            Self::Ended(..) => (Kind::Ended, 0),
        };
        UnderWay { number, from: (from.end, from.start), to: (to.end, to.start), kind, about }
    }

    /// From whom, and to whom.
    const fn ends(&self) -> (Caller, Caller) {
        let wire = self.wire();
        let asked = Caller { end: End::Node(wire.to), start: wire.met };
        match self {
            Self::Request(..) | Self::Cancel(..) => (wire.from, asked),
            Self::Answer(..) => (asked, wire.from),
            Self::Ended(..) => (wire.from, wire.from),
        }
    }
}

/// What is to be done once the lock is released.
#[derive(Default)]
struct After {
    tell: Vec<(Wire, Done, Outcome)>,
    /// Dropped: the one who serves learns that nobody waits.
    guards: Vec<CallGuard>,
}

impl After {
    fn run(self) {
        drop(self.guards);
        for (_, done, outcome) in self.tell {
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

    pub(super) fn join(
        &self,
        node: NodeId,
        (address, incarnation): (SocketAddr, Incarnation),
        inbound: Arc<dyn Inbound>,
    ) -> Option<u64> {
        let mut state = self.lock();
        if state.nodes.values().any(|joined| joined.address == address) {
            return None;
        }
        state.starts += 1;
        let start = state.starts;
        state.incarnations.insert(start, incarnation);
        state.nodes.insert(start, Joined { node, address, inbound });
        Some(start)
    }

    pub(super) fn certify(&self, role: Role) {
        if let Some(node) = role.node() {
            self.lock().certified.insert(node, role);
        }
    }

    pub(super) fn client(&self, role: Role) -> u64 {
        let mut state = self.lock();
        let client = state.clients.len() as u64 + 1;
        state.clients.insert(client, role);
        client
    }

    pub(super) fn set_peer(&self, caller: Caller, node: NodeId, address: SocketAddr) {
        self.lock().routes.insert((caller, node), address);
    }

    /// A start of a node has restarted: what a caller has with earlier ones ends.
    pub(super) fn restarted(self: &Arc<Self>, caller: Caller, node: NodeId, incarnation: Incarnation) {
        let mut after = After::default();
        let mut state = self.lock();
        let met = state.met.get(&(caller, node)).copied();
        let is_earlier = |start: &u64| state.incarnations.get(start).is_some_and(|known| *known < incarnation);
        let earlier = met.filter(is_earlier);
        let Some(earlier) = earlier else { return };
        state.met.remove(&(caller, node));
        state.sever(|way| way.0 == caller && way.2 == earlier, "the peer has restarted", &mut after);
        self.end(state, after);
    }

    /// A start is gone, and nobody is told.
    pub(super) fn vanish(self: &Arc<Self>, start: u64) {
        let mut state = self.lock();
        let gone = state.nodes.remove(&start);
        state.routes.retain(|(caller, _), _| caller.start != start);
        let (mut actions, mut guards) = (Vec::new(), Vec::new());
        for (wire, ends) in &mut state.wires {
            if wire.from.start == start {
                ends.calls.broken("the node is gone", &mut actions);
            } else if wire.met == start {
                let ids: Vec<u64> = ends.served.keys().copied().collect();
                guards.extend(ids.into_iter().filter_map(|id| ends.abandon(id)));
                ends.served.clear();
            }
        }
        // What itself has asked nobody answers any more; what it asked may arrive yet.
        state.queue.retain(|_, message| message.ends().1.start != start);
        drop(state);
        for guard in guards {
            guard.forget();
        }
        drop((actions, gone));
    }

    /// Who is connected to a start, or is asked by it, notices that the connection is gone.
    pub(super) fn lost(self: &Arc<Self>, start: u64) {
        let mut after = After::default();
        let mut state = self.lock();
        state.sever(|way| way.0.start == start || way.2 == start, "the connection was lost", &mut after);
        if !state.nodes.contains_key(&start) {
            // Nothing of it is asked or answered any more.
            state.wires.retain(|wire, _| wire.from.start != start && wire.met != start);
            state.incarnations.remove(&start);
        }
        self.end(state, after);
    }

    pub(super) fn leave(self: &Arc<Self>, node: NodeId) {
        let mut after = After::default();
        let mut state = self.lock();
        let of_node: Vec<u64> =
            state.nodes.iter().filter(|(_, joined)| joined.node == node).map(|(start, _)| *start).collect();
        state.sever(|way| way.0.end == End::Node(node) || way.1 == node, "the node is gone", &mut after);
        self.end(state, after);
        for start in of_node {
            self.vanish(start);
        }
    }

    /// Breaks what is between two ends now.
    pub(super) fn sever(self: &Arc<Self>, a: End, b: End) {
        let mut after = After::default();
        let mut state = self.lock();
        state.sever(|way| is_between(way, a, b), "the connection was lost", &mut after);
        self.end(state, after);
    }

    pub(super) fn cut(self: &Arc<Self>, a: End, b: End) {
        let mut after = After::default();
        let mut state = self.lock();
        state.cuts.insert((a.min(b), a.max(b)));
        state.sever(|way| is_between(way, a, b), "the wire was cut", &mut after);
        self.end(state, after);
    }

    pub(super) fn heal(&self, a: End, b: End) {
        self.lock().cuts.remove(&(a.min(b), a.max(b)));
    }

    pub(super) fn reachable(&self, from: End) -> BTreeSet<NodeId> {
        let state = self.lock();
        let nodes = state.nodes.values().map(|joined| joined.node);
        nodes.filter(|node| End::Node(*node) != from && !state.is_cut(from, *node)).collect()
    }

    pub(super) fn queued(&self) -> usize {
        self.lock().queue.len()
    }

    pub(super) fn check_start(&self, caller: Caller) -> Result<(), Error> {
        self.lock().check_start(caller)
    }

    pub(super) fn wake_at(&self) -> Option<Instant> {
        self.lock().wires.values().filter_map(|ends| ends.calls.wake_at()).min()
    }

    pub(super) fn expire(self: &Arc<Self>) {
        let now = self.clock.now();
        let wires: Vec<Wire> = self.lock().wires.keys().copied().collect();
        for wire in wires {
            let mut actions = Vec::new();
            let mut state = self.lock();
            if let Some(ends) = state.wires.get_mut(&wire) {
                ends.calls.expire(now, &mut actions);
            }
            let mut after = After::default();
            state.perform(wire, actions, &mut after);
            self.end(state, after);
        }
    }

    /// Tells what has come to an end of itself: in the order of messages, if those are taken off by somebody else, for who is
    /// told lives where he says.
    fn end(self: &Arc<Self>, mut state: MutexGuard<'_, State>, mut after: After) {
        if self.options.delivery == Delivery::Queued {
            for (wire, done, outcome) in after.tell.drain(..) {
                state.queue(Message::Ended(wire, done, outcome));
            }
        }
        drop(state);
        after.run();
        self.deliver_inline();
    }

    pub(super) fn send(self: &Arc<Self>, from: Caller, to: NodeId, envelope: Envelope, done: Done) -> CallGuard {
        let now = self.clock.now();
        let lane = envelope.header.lane;
        let mut after = After::default();
        let mut state = self.lock();
        let met = match state.check_start(from).and_then(|()| state.meet(from, to)) {
            Ok(met) => met,
            Err(error) => {
                drop(state);
                done(Err(error));
                return CallGuard::none();
            }
        };
        let wire = Wire { from, to, met, lane };
        let terms = handshake::terms(&state.role(from.end));
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
        let message = state.queue.pop_first().map(|(_, message)| message);
        state.delivering = message.is_some();
        message
    }

    pub(super) fn step(self: &Arc<Self>, index: usize) -> bool {
        let mut state = self.lock();
        let number = state.queue.keys().nth(index).copied();
        let message = number.and_then(|number| state.queue.remove(&number));
        drop(state);
        message.map(|message| self.deliver(message)).is_some()
    }

    pub(super) fn under_way(&self, after: u64) -> Vec<UnderWay> {
        let state = self.lock();
        let after = state.queue.range(after.saturating_add(1)..);
        after.map(|(number, message)| message.under_way(*number)).collect()
    }

    pub(super) fn describe(&self, number: u64) -> Option<String> {
        match self.lock().queue.get(&number)? {
            Message::Request(_, envelope) => Some(format!("{:?}", envelope.header.body)),
            Message::Answer(_, _, outcome) => Some(format!("{outcome:?}")),
            Message::Ended(_, _, outcome) => Some(format!("{outcome:?}")),
            Message::Cancel(..) => Some("it is given up".to_owned()),
        }
    }

    pub(super) fn deliver_numbered(self: &Arc<Self>, number: u64) -> bool {
        let message = self.lock().queue.remove(&number);
        message.map(|message| self.deliver(message)).is_some()
    }

    fn deliver(self: &Arc<Self>, message: Message) {
        match message {
            Message::Request(wire, envelope) => self.deliver_request(wire, *envelope),
            Message::Answer(wire, id, outcome) => {
                let outcome = self.over_the_wire(wire, id, outcome);
                self.with_calls(wire, |calls, actions| calls.answered(id, outcome, actions));
            }
            Message::Ended(_, done, outcome) => done(outcome),
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
        let role = state.role(wire.from.end);
        // A start that is gone takes nothing, and nobody says so.
        let Some(inbound) = state.nodes.get(&wire.met).map(|joined| joined.inbound.clone()) else { return };
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
            state.queue(Message::Answer(wire, id, outcome));
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
        self.coded(Envelope::answer(id, wire.lane, outcome))?.into_outcome()?
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
    fn queue(&mut self, message: Message) {
        self.messages += 1;
        self.queue.insert(self.messages, message);
    }

    fn role(&self, end: End) -> Role {
        match end {
            End::Node(node) => self.certified.get(&node).cloned().unwrap_or(Role::Node(node)),
            End::Client(client) => {
                self.clients.get(&client).cloned().unwrap_or(Role::Client(mesh_core::Principal::Anonymous))
            }
        }
    }

    fn is_cut(&self, a: End, node: NodeId) -> bool {
        let b = End::Node(node);
        self.cuts.contains(&(a.min(b), a.max(b)))
    }

    fn check_start(&self, caller: Caller) -> Result<(), Error> {
        let is_current = caller.start == 0 || self.nodes.contains_key(&caller.start);
        if is_current { Ok(()) } else { Err(unreachable("this is the link of an earlier start of the node")) }
    }

    /// The start of a node that a caller is connected to, from now on if it was not.
    fn meet(&mut self, from: Caller, to: NodeId) -> Result<u64, Error> {
        if let Some(met) = self.met.get(&(from, to)) {
            return Ok(*met);
        }
        let address = self.routes.get(&(from, to)).copied().unwrap_or_else(|| super::usual(to));
        let there = self.nodes.iter().find(|(_, joined)| joined.address == address && joined.node == to);
        let met = there.map(|(start, _)| *start).filter(|_| !self.is_cut(from.end, to));
        let met = met.ok_or_else(|| unreachable("no way there").with("peer", to))?;
        self.met.insert((from, to), met);
        Ok(met)
    }

    fn perform(&mut self, wire: Wire, actions: Vec<Action<Done>>, after: &mut After) {
        for action in actions {
            match action {
                Action::Complete { caller, outcome } => after.tell.push((wire, caller, outcome)),
                Action::Reset { id } => self.queue(Message::Cancel(wire, id)),
                Action::Send { id, deadline, envelope } => {
                    let Some(ends) = self.wires.get_mut(&wire) else { continue };
                    if ends.calls.sent(id) {
                        ends.deadlines.insert(id, deadline);
                        self.queue(Message::Request(wire, envelope));
                    }
                }
            }
        }
    }

    /// Breaks wires: what is on them is gone, and both ends are told.
    fn sever(&mut self, severed: impl Fn(Way) -> bool, reason: &str, after: &mut After) {
        self.met.retain(|(from, to), met| !severed((*from, *to, *met)));
        // What has ended is owed to who asked.
        self.queue.retain(|_, message| matches!(message, Message::Ended(..)) || !severed(message.wire().way()));
        for (wire, ends) in self.wires.iter_mut().filter(|(wire, _)| severed(wire.way())) {
            let mut actions = Vec::new();
            ends.connected = false;
            ends.deadlines.clear();
            ends.calls.broken(reason, &mut actions);
            for action in actions {
                if let Action::Complete { caller, outcome } = action {
                    after.tell.push((*wire, caller, outcome));
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
