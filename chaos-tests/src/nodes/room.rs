//! The room: it drives the nodes through their windows, and does to them what the plan says.

use core::time::Duration;
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::PathBuf,
    sync::{Arc, atomic::AtomicBool},
};

use mesh::{
    Node,
    config::{CodeText, Config, DpuConfig, DriveConfig, NodeNumber, PeerConfig, S3Config, Size, Span},
    founding::{self, Founding},
    keyring::Keyring,
};
use mesh_core::{
    assignment::Wish,
    bluefield::Generation,
    id::{ActorId, GroupId, NodeId},
    meta::{ControlView, Level},
    op::AdminOp,
    topology::mix,
};
use mesh_dpu_runtime::metadata::MemoryHome;
use mesh_fronts::s3::client::Signer;
use mesh_transport::{Delivery, End, MemoryFabric, MemoryOptions, UnderWay};

mod checks;
mod loss;
mod own;
mod partings;

use self::{checks::Hurt, loss::Loss, partings::Partings};
use super::{
    air::Air,
    clients::{BUCKETS, Clients, USER},
    log,
    machine::{CLUSTER, Machine, Own, Shared},
    net::{Net, address, front},
    plan::{Fault, Plan, dpu_of},
    street::Street,
    time::RoomTime,
    toys,
};
use crate::{
    harness::{Beacon, book::Book},
    random::Stream,
};

/// What happens at a window of the room.
enum Due {
    Fault(Fault),
    PowerOn(NodeId),
    Wake(NodeId),
    Hurry(NodeId),
    Join(End, End),
    Quick(NodeId, u64),
    /// An administrator takes something back.
    Undo(AdminOp),
    /// A host is invited that nobody knows.
    Invite,
    /// A copy of its metadata is put in place.
    PutBack(NodeId, MemoryHome, u64),
    /// A process that was told to stop is gone by now, or is killed.
    Gone(NodeId, u64),
}

pub(super) struct Room {
    pub(super) time: Arc<RoomTime>,
    pub(super) clients: Clients,
    shared: Shared,
    net: Net,
    machines: BTreeMap<NodeId, Machine>,
    /// When each was powered on, and how fast its clock goes.
    began: BTreeMap<NodeId, u64>,
    rates: BTreeMap<NodeId, u64>,
    asleep: BTreeSet<NodeId>,
    /// Slow ones: they live once in so many windows.
    slow: BTreeMap<NodeId, u64>,
    /// Those that have just been woken.
    woken: BTreeSet<NodeId>,
    /// Restart after a death at a step: so long after.
    doomed: BTreeMap<NodeId, u64>,
    stopping: BTreeMap<NodeId, (Arc<AtomicBool>, u64)>,
    agenda: BTreeMap<(u64, u64), Due>,
    planned: u64,
    /// Of each group's state at an index, and whose it was.
    digests: BTreeMap<(GroupId, u64), (u128, NodeId)>,
    /// How often one was seen on another node, too.
    pub(super) compared: u64,
    hash: u64,
    pub(super) messages: u64,
    pub(super) crashes: u64,
    /// What befalls nodes, and what has and is over for so long.
    hurt: Hurt,
    /// Events that each node has told.
    told: BTreeMap<NodeId, (u64, u64)>,
    /// Take-overs that are said to have failed, and until when they may yet be carried out.
    tried: BTreeMap<(ActorId, NodeId), u64>,
    /// What seems to have been taken over all the same.
    robbed: Vec<checks::Robbed>,
    /// How far each node that runs has come in the control group.
    applied: BTreeMap<NodeId, u64>,
    /// The control group, as it was seen last, and how far it had come.
    seen_last: (u64, Arc<ControlView>),
    partings: Partings,
    loss: Option<Loss>,
    /// Keys that clients use.
    keys: u64,
    planted: Option<Planted>,
    /// Hosts, but for one that comes.
    hosts: u64,
    /// Since when there are clients.
    pub(super) formed: u64,
    /// There is a function in every chain that panics.
    frail: bool,
    /// DPUs run all of a chain but its policy.
    deft: bool,
    /// What was wished last of all chains.
    wish: Option<Wish>,
    /// What chains keep, once that was asked for; none: not answered yet.
    states: own::States,
}

/// A fault that is built in, to prove that it is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Planted {
    /// Drives say that they have synced and have not.
    LyingSync,
    /// One host is not started again.
    Grave,
}

impl Planted {
    /// Their names.
    pub const ALL: [(&str, Self); 2] = [("lying-sync", Self::LyingSync), ("grave", Self::Grave)];

    /// The one of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(known, _)| *known == name).map(|(_, planted)| *planted)
    }
}

/// Silence after which a peer is down: the configuration's default.
const SILENCE: u64 = mesh_core::limits::HEARTBEAT_SILENCE_MAX.as_millis() as u64;
const CAPACITY_BYTES: u64 = 256 << 20;
/// A node that starts is no better than one that is down for so long: it waits out a silence, and is caught up.
const STARTS: u64 = 4_000;
/// And one whose metadata are made anew, for so long.
const RENEWS: u64 = 6_000;
/// Once a cut is over, connections are made anew.
const HEALS: u64 = 1_000;
/// The client that asks who has come first.
const NEWCOMERS_CLIENT: usize = 50;
/// A process that was told to stop is killed after so long.
const STOP_MAX: u64 = 20_000;

impl Room {
    pub(super) fn new(
        seed: u64,
        plan: &Plan,
        (functions, own): (Vec<Own>, Option<Book>),
        planted: Option<Planted>,
        time: Arc<RoomTime>,
    ) -> io::Result<Self> {
        let options = MemoryOptions { delivery: Delivery::Queued, codec: true };
        let fabric = MemoryFabric::new(options, time.clone());
        let mut keys = Stream::new(seed, "keyring", 0);
        let keyring = Keyring::create(CLUSTER, &mut keys);
        let tenants = if plan.second_tenant { 2 } else { 1 };
        let found = |(number, bucket): (u64, &&str)| {
            let (access_key, open, secret) =
                founding::new_access_key(&keyring, &mut Stream::new(seed, "founding", number));
            let signer = Signer::new(&access_key, &open);
            let (tenant, principal, bucket) = (format!("tenant-{number}"), USER.to_owned(), (*bucket).to_owned());
            (Founding { tenant, principal, access_key, secret, bucket }, signer)
        };
        let (foundings, signers) = (1..).zip(&BUCKETS).take(tenants).map(found).unzip();
        let street = Arc::<Street>::default();
        let air = plan.quic.then(Arc::<Air>::default);
        let shared = Shared {
            seed,
            time: time.clone(),
            fabric: fabric.clone(),
            foundings,
            snapshot_every: plan.snapshot_every,
            functions,
            air: air.clone(),
            street: street.clone(),
        };
        let mut net = Net::new(seed, (fabric.clone(), air.clone()), time.clone(), plan.weather.clone(), SILENCE);
        let mut dice = Stream::new(seed, "machines", 0);
        let mut machines = BTreeMap::new();
        for node in plan.nodes() {
            let ahead = dice.below(2_000);
            let machine = Machine::new(&shared, configuration(plan, node, &shared.functions), ahead, plan.level);
            for medium in machine.media() {
                medium.lies(planted == Some(Planted::LyingSync));
            }
            machines.insert(node, machine);
            net.add(End::Node(node));
        }
        if let Some(node) = plan.newcomer() {
            let config = configuration(plan, node, &shared.functions);
            machines.insert(node, Machine::new(&shared, config, dice.below(2_000), plan.level));
            net.add(End::Node(node));
        }
        let hosts = (1..=plan.hosts).map(NodeId).map(|host| (host, address(End::Node(host)))).collect();
        let front = plan.fronts.then_some((street, signers));
        let mut clients = Clients::new(seed, time.clone(), (fabric, air), (hosts, plan.newcomer(), front), own)?;
        clients.coded = plan.coded;
        let rates = plan.nodes().zip(plan.rates.iter().copied()).collect();
        let mut room = Self {
            time,
            clients,
            shared,
            net,
            machines,
            began: BTreeMap::new(),
            rates,
            asleep: BTreeSet::new(),
            slow: BTreeMap::new(),
            woken: BTreeSet::new(),
            doomed: BTreeMap::new(),
            stopping: BTreeMap::new(),
            agenda: BTreeMap::new(),
            digests: BTreeMap::new(),
            compared: 0,
            planned: 0,
            hash: mix(seed),
            messages: 0,
            crashes: 0,
            hurt: Hurt::default(),
            told: BTreeMap::new(),
            tried: BTreeMap::new(),
            robbed: Vec::new(),
            applied: BTreeMap::new(),
            seen_last: Default::default(),
            partings: Partings::default(),
            loss: None,
            keys: plan.keys,
            planted,
            hosts: plan.hosts,
            formed: 0,
            frail: false,
            deft: plan.deft,
            wish: None,
            states: own::States::default(),
        };
        room.expect(plan);
        Ok(room)
    }

    /// Everything that has happened, as one number.
    pub(super) fn trace(&self) -> u64 {
        mix(self.hash ^ self.clients.seen.trace())
    }

    /// Puts something on the agenda.
    fn plan(&mut self, after: u64, due: Due) {
        self.planned += 1;
        self.agenda.insert((self.time.windows() + after.max(1), self.planned), due);
    }

    pub(super) fn expect_newcomer(&mut self, after: u64) {
        self.plan(after, Due::Invite);
    }

    pub(super) fn befall(&mut self, after: u64, fault: Fault) {
        self.plan(after, Due::Fault(fault));
    }

    pub(super) fn power_on(&mut self, node: NodeId, after: u64) {
        self.plan(after, Due::PowerOn(node));
    }

    /// A client begins.
    pub(super) fn client(&mut self, which: usize) {
        self.begin_client(which, None);
    }

    /// A client begins that asks this node first.
    fn client_of(&mut self, node: NodeId) {
        if self.keys > 0 && !self.clients.seen.is_stopped() {
            self.begin_client(NEWCOMERS_CLIENT, Some(node));
        }
    }

    fn begin_client(&mut self, which: usize, first: Option<NodeId>) {
        let dice = Stream::new(self.shared.seed, "client", which as u64);
        let tenant = which % self.shared.foundings.len();
        let end = self.clients.begin(which, tenant, first, dice, self.keys);
        self.net.add(end);
    }

    /// Hosts that are there from the beginning, or late.
    fn founders(&self) -> impl Iterator<Item = NodeId> {
        (1..=self.hosts).map(NodeId)
    }

    /// No host has a greater number.
    fn last_host(&self) -> NodeId {
        NodeId(self.hosts + 1)
    }

    /// From now on there is a function in every chain that panics at so many requests in a thousand.
    pub(super) fn frail(&mut self, per_mille: u16) {
        self.frail = true;
        self.declare(vec![toys::stage(per_mille)]);
    }

    /// From now on there is a function in every chain that keeps accounts.
    pub(super) fn ledger(&mut self) {
        self.declare(vec![toys::account()]);
    }

    /// All keys are read through all hosts.
    pub(super) fn read_all(&mut self) {
        for end in self.clients.read_all(&self.hosts_there()) {
            self.net.add(end);
        }
    }

    /// The hosts that are members.
    fn hosts_there(&self) -> Vec<NodeId> {
        self.wanted().into_iter().filter(|node| *node <= self.last_host()).collect()
    }

    /// All faults are over, and everything runs.
    pub(super) fn calm(&mut self) {
        // What was to come of faults comes now.
        let agenda = core::mem::take(&mut self.agenda);
        self.net.heal_all();
        for node in core::mem::take(&mut self.asleep) {
            self.wake(node);
        }
        self.slow.clear();
        self.doomed.clear();
        for due in agenda.into_values() {
            if let Due::Gone(..) | Due::Undo(_) | Due::Invite = due {
                self.plan(1, due);
            }
        }
        self.take_back_what_was_emptied();
        let nodes: Vec<NodeId> = self.machines.keys().copied().collect();
        for node in nodes {
            let Some(machine) = self.machines.get(&node) else { continue };
            machine.media().iter().for_each(|medium| medium.heal());
            if let Some(running) = &machine.running {
                running.life.dies_after(u64::MAX / 2, false);
            }
            self.power_on(node, 1);
        }
    }

    /// The mesh's level, as far as anybody knows.
    ///
    /// # Errors
    /// It is above that of a build.
    pub(super) fn level(&self) -> Result<u16, String> {
        let level = self.nodes().map(|(.., node)| node.control().level).max().unwrap_or_default();
        match self.machines.values().find(|machine| machine.level < level) {
            Some(machine) => Err(format!("the mesh is at level {level}, and {} at {}", machine.id(), machine.level)),
            None => Ok(level.0),
        }
    }

    /// Nodes that run, and which start of each it is.
    fn nodes(&self) -> impl Iterator<Item = (NodeId, u64, Node)> {
        let node = |machine: &Machine| {
            let running = machine.running.as_ref()?;
            Some((machine.id(), running.life.start(), running.node()?.ok()?))
        };
        self.machines.values().filter_map(node)
    }

    /// The next window.
    pub(super) fn step(&mut self) -> io::Result<()> {
        let now = self.time.advance();
        let later = self.agenda.split_off(&(now + 1, 0));
        for due in core::mem::replace(&mut self.agenda, later).into_values() {
            self.happen(due)?;
        }
        Beacon::step();
        if self.shared.fabric.wake_at().is_some_and(|at| at <= mesh_core::port::Clock::now(&*self.time)) {
            self.shared.fabric.expire();
        }
        let mut due: BTreeMap<End, Vec<UnderWay>> = BTreeMap::new();
        for message in self.net.due() {
            due.entry(message.to.0).or_default().push(message);
        }
        for datagram in self.net.landing() {
            // Those of handshakes differ in length: what is there to keep middleboxes from getting used to anything is of the
            // library's own chance.
            let is_greeting = datagram.bytes.first().is_some_and(|first| first & 0x80 != 0);
            let len = if is_greeting { 0 } else { datagram.bytes.len() as u64 };
            for word in [now, datagram.number, len] {
                self.hash = mix(self.hash ^ word);
            }
            self.messages += 1;
            if let Some(air) = &self.shared.air {
                air.deliver(datagram);
            }
        }
        let nodes: Vec<NodeId> = self.machines.keys().copied().collect();
        for node in nodes {
            let messages = due.remove(&End::Node(node)).unwrap_or_default();
            self.live(node, now, messages);
        }
        // What is left is for clients.
        {
            let _inside = self.clients.runtime().enter();
            for message in due.into_values().flatten() {
                deliver(&self.shared.fabric, now, &message, &mut self.hash, &mut self.messages);
            }
        }
        self.clients.live(now);
        self.see_to_partings();
        self.see_to_loss();
        self.net.collect();
        Ok(())
    }

    /// One window of one node.
    fn live(&mut self, node: NodeId, now: u64, messages: Vec<UnderWay>) {
        let rate = self.rates.get(&node).copied().unwrap_or(1000);
        let began = self.began.get(&node).copied().unwrap_or(now);
        let Some(machine) = self.machines.get_mut(&node) else { return };
        let Some(running) = &mut machine.running else {
            // Nobody takes them; the fabric is told.
            for message in messages {
                self.shared.fabric.deliver(message.number);
            }
            // Also for as long as it is down; one that has not come yet is missed by nobody.
            if self.began.contains_key(&node) && !self.is_out(node) {
                self.hurt.note(node, now);
            }
            return;
        };
        {
            let _inside = running.runtime.enter();
            for message in messages {
                deliver(&self.shared.fabric, now, &message, &mut self.hash, &mut self.messages);
            }
        }
        let rests =
            self.asleep.contains(&node) || self.slow.get(&node).is_some_and(|every| !now.is_multiple_of(*every));
        if !rests && running.life.is_alive() {
            let at_once = self.woken.remove(&node) || self.slow.contains_key(&node);
            running.live(Duration::from_micros((now - began) * rate), at_once);
        }
        if !running.life.is_alive() {
            let down = self.doomed.remove(&node).unwrap_or(1_000);
            self.kill(node, false);
            self.power_on(node, down);
        }
        if rests {
            self.hurt.note(node, now);
        }
    }

    fn runs(&self, node: NodeId) -> bool {
        self.machines.get(&node).is_some_and(|machine| machine.running.is_some())
    }

    fn kill(&mut self, node: NodeId, power: bool) {
        let Some(machine) = self.machines.get_mut(&node) else { return };
        let Some(start) = machine.kill(power) else { return };
        log::say(|| format!("ROOM {node} is killed{}", if power { " with its power" } else { "" }));
        self.crashes += 1;
        self.hurt.note(node, self.time.windows());
        self.stopping.remove(&node);
        if self.asleep.remove(&node) {
            self.net.sleeps(End::Node(node), false);
        }
        self.slow.remove(&node);
        if start > 0 {
            self.net.vanished(start);
        }
    }

    /// A process dies, and something befalls its metadata before it is started again: they are made anew then.
    fn kill_for_its_metadata(&mut self, node: NodeId, down: u64) -> Option<&MemoryHome> {
        if !self.runs(node) {
            return None;
        }
        log::expect("neither votes nor serves");
        log::expect("this node's metadata are damaged, and are not rebuilt");
        self.kill(node, false);
        self.power_on(node, down);
        self.hurt.note(node, self.time.windows() + down + RENEWS);
        self.machines.get(&node).map(Machine::metadata)
    }

    fn wake(&mut self, node: NodeId) {
        self.asleep.remove(&node);
        self.net.sleeps(End::Node(node), false);
        self.woken.insert(node);
    }

    fn happen(&mut self, due: Due) -> io::Result<()> {
        match due {
            Due::Fault(fault) => {
                log::say(|| format!("ROOM {fault:?}"));
                self.strike(fault);
            }
            Due::PowerOn(node) => {
                let now = self.time.windows();
                if self.is_absent(node) {
                    return Ok(());
                }
                if self.planted == Some(Planted::Grave) && node.0 == 2 && self.began.contains_key(&node) {
                    return Ok(());
                }
                if let Some(machine) = self.machines.get_mut(&node).filter(|machine| machine.running.is_none()) {
                    log::say(|| format!("ROOM {node} is started"));
                    machine.power_on(&self.shared)?;
                    self.began.insert(node, now);
                    self.woken.remove(&node);
                    // It has to find its way in.
                    self.hurt.note(node, now + STARTS);
                }
            }
            Due::PutBack(node, copy, down) => {
                if let Some(metadata) = self.kill_for_its_metadata(node, down) {
                    metadata.put_back(&copy);
                }
            }
            Due::Wake(node) => {
                if self.asleep.contains(&node) {
                    log::say(|| format!("ROOM {node} goes on"));
                    self.wake(node);
                }
            }
            Due::Hurry(node) => {
                self.slow.remove(&node);
                self.woken.insert(node);
            }
            Due::Join(from, to) => self.net.heal(from, to),
            Due::Quick(node, drive) => {
                if let Some(medium) =
                    self.machines.get(&node).and_then(|machine| machine.media().into_iter().nth(drive as usize))
                {
                    medium.slow(1);
                }
            }
            Due::Invite => self.invite(),
            Due::Undo(op) => {
                let end = self.clients.administer(op, false);
                self.net.add(end);
            }
            Due::Gone(node, down) => {
                let over = self.stopping.get(&node).map(|(over, until)| {
                    over.load(std::sync::atomic::Ordering::Relaxed) || self.time.windows() >= *until
                });
                match over {
                    Some(true) => {
                        self.kill(node, false);
                        self.hurt.until.insert(node, self.time.windows());
                        self.power_on(node, down);
                    }
                    Some(false) => self.plan(10, Due::Gone(node, down)),
                    None => {}
                }
            }
        }
        Ok(())
    }

    fn strike(&mut self, fault: Fault) {
        match fault {
            Fault::Crash { node, steps: 0, power, down } => {
                if self.runs(node) {
                    self.kill(node, power);
                    self.power_on(node, down);
                }
            }
            Fault::Crash { node, steps, power, down } => {
                if let Some(running) = self.machines.get(&node).and_then(|machine| machine.running.as_ref()) {
                    running.life.dies_after(steps, power);
                    self.doomed.insert(node, down);
                }
            }
            Fault::Stop { node, down } => {
                let Some(running) = self.machines.get(&node).and_then(|machine| machine.running.as_ref()) else {
                    return;
                };
                let Some(Ok(started)) = running.node() else { return };
                let over = Arc::new(AtomicBool::new(false));
                let done = over.clone();
                running.runtime.spawn(async move {
                    started.shutdown(Duration::from_millis(STOP_MAX)).await;
                    done.store(true, std::sync::atomic::Ordering::Relaxed);
                });
                self.stopping.insert(node, (over, self.time.windows() + STOP_MAX));
                self.hurt.note(node, self.time.windows() + STOP_MAX);
                self.plan(10, Due::Gone(node, down));
            }
            Fault::LoseMetadata { node, down } => {
                if let Some(metadata) = self.kill_for_its_metadata(node, down) {
                    metadata.lose_database();
                }
            }
            Fault::SetBack { node, span, down } => {
                if let Some(machine) = self.machines.get(&node) {
                    self.plan(span, Due::PutBack(node, machine.metadata().copy(), down));
                }
            }
            Fault::Upgrade { node, level, down } => {
                if let Some(machine) = self.machines.get_mut(&node) {
                    machine.level = Level(level);
                }
                self.strike(Fault::Stop { node, down });
            }
            Fault::Blackout { down } => {
                let nodes: Vec<NodeId> = self.machines.keys().copied().collect();
                // Who has come meanwhile is down as long as another.
                for (node, down) in nodes.into_iter().zip(down.into_iter().cycle()) {
                    if self.runs(node) {
                        self.kill(node, true);
                        self.power_on(node, down);
                    }
                }
            }
            Fault::Pause { node, span } => {
                if self.runs(node) && self.asleep.insert(node) {
                    self.net.sleeps(End::Node(node), true);
                    self.plan(span, Due::Wake(node));
                }
            }
            Fault::Slow { node, every, span } => {
                self.slow.insert(node, every.max(1));
                self.plan(span, Due::Hurry(node));
            }
            Fault::Cut { from, to, both, span } => {
                self.cut(End::Node(from), End::Node(to), span);
                if both {
                    self.cut(End::Node(to), End::Node(from), span);
                }
            }
            Fault::Isolate { node, span } => {
                // The others are well, and see each other.
                self.hurt.note(node, self.time.windows() + span + HEALS);
                for other in self.net.others(node) {
                    for (from, to) in [(End::Node(node), other), (other, End::Node(node))] {
                        self.net.cut(from, to);
                        self.plan(span, Due::Join(from, to));
                    }
                }
            }
            Fault::Stall { node, drive, span } => {
                let until = self.time.windows() + span;
                self.hurt.note(node, until);
                if let Some(medium) =
                    self.machines.get(&node).and_then(|machine| machine.media().into_iter().nth(drive as usize))
                {
                    medium.stall(until);
                }
            }
            Fault::SlowDrive { node, drive, times, span } => {
                self.hurt.note(node, self.time.windows() + span);
                if let Some(medium) =
                    self.machines.get(&node).and_then(|machine| machine.media().into_iter().nth(drive as usize))
                {
                    medium.slow(times);
                    self.plan(span, Due::Quick(node, drive));
                }
            }
            Fault::Wish { scope, wish } => {
                self.wish = wish;
                let end = self.clients.administer(AdminOp::Wish { scope, wish }, false);
                self.net.add(end);
            }
            Fault::Question { op } => {
                self.note_emptied(&op);
                let end = self.clients.administer(op, false);
                self.net.add(end);
            }
            Fault::Folly { op } => {
                let end = self.clients.administer(op, true);
                self.net.add(end);
            }
            Fault::Strangers { host } => {
                for end in self.clients.intrude(host) {
                    self.net.add(end);
                }
            }
            Fault::Dawdlers { host, many, span } => {
                self.hurt.note_dawdlers(self.time.windows() + span);
                self.clients.dawdle(host, many, span);
            }
            Fault::Burst { many } => {
                let end = self.clients.burst(many);
                self.net.add(end);
            }
            Fault::Drain { node, span } => {
                let end = self.clients.administer(AdminOp::Drain { node, draining: true }, false);
                self.net.add(end);
                self.plan(span, Due::Undo(AdminOp::Drain { node, draining: false }));
            }
            Fault::Leave { node, span } => {
                let end = self.clients.administer(AdminOp::LeaveNode { node, leaving: true }, false);
                self.net.add(end);
                self.plan(span, Due::Undo(AdminOp::LeaveNode { node, leaving: false }));
            }
            Fault::Depart(what) => self.depart(what),
        }
    }

    fn cut(&mut self, from: End, to: End, span: u64) {
        for end in [from, to] {
            if let End::Node(node) = end {
                // The connection is not back at once.
                self.hurt.note(node, self.time.windows() + span + HEALS);
            }
        }
        self.net.cut(from, to);
        self.plan(span, Due::Join(from, to));
    }
}

fn deliver(fabric: &MemoryFabric, now: u64, message: &UnderWay, hash: &mut u64, messages: &mut u64) {
    log::say(|| {
        let said = fabric.describe(message.number).unwrap_or_default();
        let cut = said.char_indices().nth(300).map_or(said.len(), |(at, _)| at);
        format!("{:?} to {:?} {:?}: {}", message.from.0, message.to.0, message.kind, &said[..cut])
    });
    for word in [now, message.number, message.from.1, message.to.1, message.about, message.kind as u64] {
        *hash = mix(*hash ^ word);
    }
    *messages += 1;
    fabric.deliver(message.number);
}

/// Where a machine has its drives: those that it is set up with are in the first two.
fn bay(node: NodeId, at: u64) -> PathBuf {
    PathBuf::from(format!("/bays-{}/drive-{at}", node.0))
}

/// What a node's configuration says of others.
fn known_to(node: NodeId, peers: impl Iterator<Item = NodeId>) -> Vec<PeerConfig> {
    let others = peers.filter(|peer| *peer != node);
    others.map(|peer| PeerConfig { node: NodeNumber(peer.0), address: address(End::Node(peer)) }).collect()
}

/// How a node is configured. `own`: functions of the embedding program.
fn configuration(plan: &Plan, node: NodeId, own: &[Own]) -> Config {
    let number = |node: NodeId| NodeNumber(node.0);
    let host_of = (1..=plan.dpus).find(|host| dpu_of(*host) == node);
    let drive = |at: u64| DriveConfig { path: bay(node, at), capacity: Some(Size(CAPACITY_BYTES)) };
    // Who is invited is told of all that there are.
    let is_told = |peer: &NodeId| plan.told_of_all || peer.0 == 1 || Some(node) == plan.newcomer();
    let known = (1..=plan.hosts).map(NodeId).filter(is_told);
    let mut config = Config::new(number(node), address(End::Node(node)), PathBuf::from(format!("/machine-{}", node.0)));
    config.bootstrap = node.0 == 1;
    if plan.racks > 0 && host_of.is_none() {
        config.location = format!("zone/rack-{}", node.0 % plan.racks).parse().ok();
    }
    config.peers = known_to(node, known);
    // As much as it has to have at least: then it is the same on machines with many cores and with few.
    let s3 = S3Config { memory: Size(64 << 20), plain_http: true, ..S3Config::new(front(node)) };
    config.s3 = (plan.fronts && host_of.is_none()).then_some(s3);
    config.drives = if host_of.is_some() { Vec::new() } else { (0..2).map(drive).collect() };
    config.dpu = host_of.map(|host| DpuConfig { attached_to: number(NodeId(host)), emulated: Some(Generation::Bf3) });
    let all_but_policy =
        || ["compress", "encrypt", "erasure"].into_iter().chain(own.iter().map(|(kind, _)| kind.as_str()));
    config.functions = (plan.deft && host_of.is_some()).then(|| all_but_policy().map(str::to_owned).collect());
    config.cluster.code = CodeText(plan.code);
    config.cluster.namespaces = mesh::config::Namespaces(plan.namespaces);
    if let Some(out_after) = plan.hurried {
        config.repair.out_after = Span(Duration::from_millis(out_after));
        config.timing.reclaim_grace = Span(Duration::from_secs(5));
    }
    config
}
