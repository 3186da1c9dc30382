//! What a node does for the moves of data chains: the steps that a controller asks for, as `mesh_dpu_runtime`'s agent
//! carries them out, and what the control group says, as a node's table of chains follows it.

use core::time::Duration;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use mesh_core::{
    Answer, Buf, Error, ErrorKind, Outcome, Response,
    assignment::{Assignment, MoveId},
    id::{ActorId, Epoch, GroupId, NodeId},
    meta::{Command, MetaAnswer},
    op::{MoveOp, MoveStep, Moved, Phase},
    snapshot::{self, Mark, Rounds, Snapshot},
    spec::FunctionSpec,
};
use mesh_placement::fate::{Fate, Hosted, Known, fate};

use super::{Cluster, Errand};
use crate::{
    planted::Bug,
    world::{Origin, World},
};

/// What a node knows of its moves.
#[derive(Debug, Default)]
pub(super) struct Mover {
    /// What the control group has told it so far.
    pub(super) rows: BTreeMap<ActorId, Assignment>,
    /// The last move of each actor of which it took a step.
    on: BTreeMap<ActorId, MoveId>,
    leaving: BTreeMap<ActorId, Transfer>,
    arriving: BTreeMap<ActorId, Transfer>,
    /// Actors whose moves are being taken back.
    taking_back: BTreeSet<ActorId>,
    /// Steps that send state, by number.
    sending: BTreeMap<u64, Sending>,
}

/// How much of an actor's state has gone over.
#[derive(Clone, Copy, Debug, Default)]
struct Transfer {
    id: MoveId,
    epoch: Epoch,
    mark: Option<Mark>,
    pages: u32,
    digest: u64,
    entries: u64,
    rounds: Rounds,
    /// Since when it takes no requests, on the world's clock.
    frozen: Option<u64>,
}

/// A step that sends state.
#[derive(Debug)]
struct Sending {
    step: MoveStep,
    to: NodeId,
    from: Origin,
    transfer: Transfer,
    freezes: bool,
    /// The page that is on its way: where it ends, its digest, its entries, and whether there is more.
    page: (Mark, u64, u64, bool),
}

impl Transfer {
    const fn moved(&self) -> Moved {
        Moved { entries: self.entries, pages: self.pages, digest: self.digest, took_us: 0 }
    }
}

/// Later rows count.
fn age(row: &Assignment) -> (Epoch, MoveId, bool) {
    (row.epoch, row.moves, row.moving.is_none())
}

impl Cluster {
    /// The group has decided: every node hears of it some time later, unless nobody reaches it.
    pub fn assigned(&mut self, world: &mut World, row: Assignment) {
        for node in self.swarm.members() {
            let (after, boot) = (self.dice.span(&self.swarm.news), world.boot_of(node));
            if world.is_up(node) && self.is_reached(world, node) {
                let number = self.number(Errand::News(node, boot, row));
                world.timer(after, number);
            }
        }
    }

    /// Whether a node hears from most of the hosts.
    fn is_reached(&self, world: &mut World, node: NodeId) -> bool {
        let hosts: Vec<NodeId> = self.swarm.node_ids().collect();
        let open = hosts.iter().filter(|host| **host == node || world.network.is_open(**host, node)).count();
        open * 2 > hosts.len()
    }

    /// What a node has missed comes with the beats.
    pub(super) fn catch_up(&mut self, world: &mut World, node: NodeId) {
        let young = |agent: &super::Agent| world.now().0 < agent.since + LAG;
        if self.bug == Some(Bug::OldReplica) && self.agents.get(&node).is_some_and(young) {
            return;
        }
        if self.is_reached(world, node) {
            let rows: Vec<Assignment> = world.rows().values().copied().collect();
            for row in rows {
                self.hear(world, node, row);
            }
            self.follow(world, node);
        }
    }

    pub(super) fn news(&mut self, world: &mut World, node: NodeId, boot: u64, row: Assignment) {
        if world.is_up(node) && world.boot_of(node) == boot {
            self.hear(world, node, row);
            self.follow(world, node);
        }
    }

    fn hear(&mut self, world: &mut World, node: NodeId, row: Assignment) {
        let Some(agent) = self.agents.get_mut(&node) else { return };
        let known = agent.mover.rows.entry(row.actor).or_insert(row);
        if age(known) < age(&row) {
            *known = row;
        }
        world.learn(node, row.actor, (row.node, row.epoch));
    }

    /// A node does what the group says, as far as it knows.
    pub(super) fn follow(&mut self, world: &mut World, node: NodeId) {
        let Some(agent) = self.agents.get(&node).filter(|agent| agent.ready && world.is_up(node)) else { return };
        let rows: Vec<(Assignment, Option<MoveId>)> =
            agent.mover.rows.values().map(|row| (*row, agent.mover.on.get(&row.actor).copied())).collect();
        for (row, on) in rows {
            // What it let go on may have been the moment of its crash.
            if !world.is_up(node) {
                return;
            }
            let actor = row.actor;
            let hosted = world.phase(node, actor).map(|(epoch, phase)| Hosted { epoch, phase });
            let (heard, on) = match self.bug {
                Some(Bug::OldNews) => (Epoch(0), None),
                _ => (world.heard_of(node, actor), on),
            };
            match fate(node, &row, hosted, Known { heard, on, caught_up: true }) {
                Fate::TakeBack(id) if self.bug != Some(Bug::RunsOnReturn) => {
                    if !self.mover(node).taking_back.insert(actor) {
                        continue;
                    }
                    let number = self.number(Errand::TakeBack(node, actor));
                    let command = Command::AbortMove { actor, epoch: row.epoch, id };
                    world.propose(node, GroupId::CONTROL, command, number);
                }
                Fate::Host | Fate::TakeBack(_) => self.run_here(world, node, &row, hosted),
                Fate::Anew => {
                    self.forget(node, actor);
                    world.evict(node, actor);
                    self.run_here(world, node, &row, None);
                }
                Fate::Leave => {
                    self.forget(node, actor);
                    world.retire(node, actor, row.epoch, (row.node, row.epoch));
                }
                Fate::Discard => {
                    self.forget(node, actor);
                    world.discard(node, actor);
                }
                Fate::Alone => {}
            }
        }
    }

    /// A move has been taken back, perhaps: the group's word comes on its own way.
    pub(super) fn took_back(&mut self, world: &mut World, node: NodeId, actor: ActorId) {
        self.mover(node).taking_back.remove(&actor);
        self.follow(world, node);
    }

    fn run_here(&mut self, world: &mut World, node: NodeId, row: &Assignment, hosted: Option<Hosted>) {
        let Assignment { actor, epoch, .. } = *row;
        if let Some(hosted) = hosted {
            if hosted.epoch == epoch {
                if hosted.phase != Phase::Running {
                    self.forget(node, actor);
                    self.insist(world, node, |world| world.open(node, actor, epoch, hosted.phase));
                }
                return;
            }
            self.forget(node, actor);
            world.evict(node, actor);
        }
        world.born(node, actor, epoch);
        let (function, setting, specs) = self.chain(world, node, actor);
        world.launch(node, (actor, epoch), function, setting, Phase::Running);
        world.configure(node, actor, Arc::new(FunctionSpec::Chain(specs)));
    }

    fn insist(&self, world: &mut World, node: NodeId, what: impl FnOnce(&mut World) -> Result<(), Error>) {
        if let Err(error) = what(world) {
            world.violate(|| format!("{node} cannot do what it has just found possible: {error}"));
        }
    }

    fn forget(&mut self, node: NodeId, actor: ActorId) {
        if let Some(agent) = self.agents.get_mut(&node) {
            agent.mover.leaving.remove(&actor);
            agent.mover.arriving.remove(&actor);
        }
    }

    /// A node is asked for a step.
    pub fn asked(&mut self, world: &mut World, node: NodeId, from: Origin, step: MoveStep, payload: &Buf) {
        world.note(&[80, node.0, step.actor.0, step.id.0], || format!("{node} is asked: {step:?}"));
        match self.carry_out(world, node, from, step, payload) {
            Some(outcome) => world.respond(node, from, outcome),
            None => world.note(&[81], || format!("{node}: it takes a while")),
        }
    }

    /// `None`: the answer comes later.
    fn carry_out(
        &mut self,
        world: &mut World,
        node: NodeId,
        from: Origin,
        step: MoveStep,
        payload: &Buf,
    ) -> Option<Result<Moved, Error>> {
        let MoveStep { actor, epoch, id, what } = step;
        let next = Epoch(epoch.0 + 1);
        let Some(agent) = self.agents.get_mut(&node).filter(|agent| agent.ready) else {
            return Some(Err(Error::new(ErrorKind::Draining, "the node is not ready yet")));
        };
        let on = agent.mover.on.entry(actor).or_insert(id);
        if id < *on && self.bug != Some(Bug::OldSteps) {
            let error = Error::new(ErrorKind::Conflict, "the actor is on a later move");
            return Some(Err(error.with("move", id).with("later", *on)));
        }
        *on = id.max(*on);
        Some(match what {
            MoveOp::Warm => {
                let twice = agent.mover.arriving.get(&actor).is_some_and(|transfer| transfer.id == id);
                if twice && self.bug != Some(Bug::WarmsAgain) {
                    let error = Error::new(ErrorKind::Conflict, "another controller carries out the same move");
                    return Some(Err(error.with("move", id)));
                }
                let (function, setting, specs) = self.chain(world, node, actor);
                let warmed = world.warm(node, (actor, next), function, setting);
                warmed.map(|()| {
                    world.configure(node, actor, Arc::new(FunctionSpec::Chain(specs)));
                    let transfer = Transfer { id, epoch, ..Transfer::default() };
                    self.mover(node).arriving.insert(actor, transfer);
                    Moved::default()
                })
            }
            MoveOp::Install { page, digest } => self.install(world, node, step, (page, digest), payload),
            MoveOp::PreCopy { to } => {
                let transfer = Transfer { id, epoch, ..Transfer::default() };
                self.send(world, node, Sending { step, to, from, transfer, freezes: false, page: Default::default() });
                return None;
            }
            MoveOp::Freeze { to } => return self.freeze(world, node, from, step, to),
            MoveOp::Activate => world.open(node, actor, next, Phase::Warming).map(|()| {
                self.mover(node).arriving.remove(&actor);
                Moved::default()
            }),
            MoveOp::Retire { to } => {
                self.mover(node).leaving.remove(&actor);
                let parked = world.retire(node, actor, epoch, (to, next));
                Ok(Moved { entries: parked as u64, ..Moved::default() })
            }
            MoveOp::Thaw => {
                self.mover(node).leaving.remove(&actor);
                world.open(node, actor, epoch, Phase::Frozen).map(|()| Moved::default())
            }
            MoveOp::Discard => {
                self.mover(node).arriving.remove(&actor);
                world.discard(node, actor);
                Ok(Moved::default())
            }
        })
    }

    pub(super) fn mover(&mut self, node: NodeId) -> &mut Mover {
        &mut self.agents.entry(node).or_default().mover
    }

    fn install(
        &mut self,
        world: &mut World,
        node: NodeId,
        step: MoveStep,
        (page, digest): (u32, u64),
        payload: &Buf,
    ) -> Result<Moved, Error> {
        let MoveStep { actor, epoch, id, .. } = step;
        let loses = self.bug == Some(Bug::LostPage) && page == 1;
        let transfer = self.mover(node).arriving.get_mut(&actor).filter(|transfer| transfer.id == id);
        let transfer = transfer.ok_or_else(|| not_moving(actor, id))?;
        if page + 1 == transfer.pages && digest == transfer.digest {
            return Ok(transfer.moved());
        }
        if page != transfer.pages {
            return Err(Error::new(ErrorKind::Conflict, "a page of an actor's state is missing").with("page", page));
        }
        if snapshot::digest(transfer.digest, payload) != digest {
            return Err(Error::new(ErrorKind::Corrupt, "the digest of an actor's state is wrong"));
        }
        let state = Snapshot::decode(payload)?;
        if !loses {
            world.restore(node, actor, Epoch(epoch.0 + 1), &state)?;
        }
        transfer.pages += 1;
        transfer.digest = digest;
        transfer.entries += state.len() as u64;
        Ok(transfer.moved())
    }

    fn send(&mut self, world: &mut World, node: NodeId, sending: Sending) {
        let number = self.number(Errand::Page(node));
        self.mover(node).sending.insert(number, sending);
        self.send_page(world, node, number);
    }

    /// Sends the next page.
    fn send_page(&mut self, world: &mut World, node: NodeId, number: u64) {
        let Some(sending) = self.mover(node).sending.get_mut(&number) else { return };
        let (step, to, transfer) = (sending.step, sending.to, &sending.transfer);
        let page = world.snapshot(node, step.actor, step.epoch, transfer.mark);
        let encoded = page.and_then(|page| Ok((page.mark, page.len() as u64, page.more, page.encode()?)));
        let (mark, entries, more, bytes) = match encoded {
            Ok(encoded) => encoded,
            Err(error) => return self.sent(world, node, number, Err(error)),
        };
        let digest = snapshot::digest(transfer.digest, &bytes);
        sending.page = (mark, digest, entries, more);
        let what = MoveOp::Install { page: transfer.pages, digest };
        self.errands.insert(number, Errand::Page(node));
        world.ask_node(node, to, MoveStep { what, ..step }, Buf::copy_of(&bytes), number);
    }

    /// The target has a page, or not.
    pub(super) fn page_answered(&mut self, world: &mut World, node: NodeId, number: u64, outcome: Outcome) {
        let Some(sending) = self.mover(node).sending.get_mut(&number) else { return };
        let (mark, digest, entries, more) = sending.page;
        match outcome {
            Ok(Response { answer: Answer::Moved(moved), .. }) if moved.digest == digest => {}
            Ok(_) => {
                let error = Error::new(ErrorKind::Corrupt, "the target has another state than was sent to it");
                return self.sent(world, node, number, Err(error));
            }
            Err(error) => return self.sent(world, node, number, Err(error)),
        }
        let transfer = &mut sending.transfer;
        (transfer.mark, transfer.digest) = (Some(mark), digest);
        transfer.pages += 1;
        transfer.entries += entries;
        let enough = !more && (sending.freezes || transfer.rounds.end(transfer.entries));
        if enough || transfer.pages >= PAGES_MAX {
            let moved = transfer.moved();
            self.sent(world, node, number, Ok(moved));
        } else {
            self.send_page(world, node, number);
        }
    }

    /// A step that sends state is over.
    fn sent(&mut self, world: &mut World, node: NodeId, number: u64, outcome: Result<Moved, Error>) {
        self.errands.remove(&number);
        let Some(sending) = self.mover(node).sending.remove(&number) else { return };
        if outcome.is_ok() && !sending.freezes {
            self.mover(node).leaving.insert(sending.step.actor, sending.transfer);
        }
        world.respond(node, sending.from, outcome);
    }

    fn freeze(
        &mut self,
        world: &mut World,
        node: NodeId,
        from: Origin,
        step: MoveStep,
        to: NodeId,
    ) -> Option<Result<Moved, Error>> {
        let MoveStep { actor, epoch, id, .. } = step;
        let known = self.mover(node).leaving.get(&actor).copied().filter(|transfer| transfer.id == id);
        let Some(mut transfer) = known else { return Some(Err(not_moving(actor, id))) };
        transfer.frozen = Some(world.now().0);
        self.mover(node).leaving.insert(actor, transfer);
        let number = self.number(Errand::Page(node));
        if let Err(error) = world.freeze(node, actor, epoch, number) {
            return Some(Err(error));
        }
        let sending = Sending { step, to, from, transfer, freezes: true, page: Default::default() };
        self.mover(node).sending.insert(number, sending);
        let limit = self.number(Errand::Unsettled(node, number));
        world.timer(SETTLE_MAX, limit);
        None
    }

    /// Nothing is under way that the state depends on: the rest goes over.
    pub fn settled(&mut self, world: &mut World, node: NodeId, number: u64) {
        self.send_page(world, node, number);
    }

    pub(super) fn unsettled(&mut self, world: &mut World, node: NodeId, number: u64) {
        let waits = |sending: &Sending| sending.page == Default::default();
        if self.mover(node).sending.get(&number).is_some_and(waits) {
            let error = Error::new(ErrorKind::Timeout, "the actor does not come to rest");
            self.sent(world, node, number, Err(error));
        }
    }

    /// Actors that have waited long for the end of their move: it is aborted, unless it is committed.
    pub(super) fn settle_frozen(&mut self, world: &mut World, node: NodeId) {
        let now = world.now().0;
        let long = u64::try_from(FROZEN_MAX.as_nanos()).unwrap_or(u64::MAX);
        let leaving: Vec<(ActorId, Transfer)> = self.mover(node).leaving.iter().map(|(at, one)| (*at, *one)).collect();
        for (actor, Transfer { id, epoch, frozen, .. }) in leaving {
            if frozen.is_none_or(|since| since + long > now) {
                continue;
            }
            if self.bug == Some(Bug::ThawOnTimeout) {
                self.thaw(world, node, (actor, epoch, id));
                continue;
            }
            let number = self.number(Errand::Settle(node, actor, epoch, id));
            world.propose(node, GroupId::CONTROL, Command::AbortMove { actor, epoch, id }, number);
        }
    }

    /// What came of the abort of a move that took long.
    pub(super) fn abort_answered(
        &mut self,
        world: &mut World,
        node: NodeId,
        at: (ActorId, Epoch, MoveId),
        outcome: &Result<MetaAnswer, Error>,
    ) {
        if outcome.is_ok() {
            self.thaw(world, node, at);
        } else {
            self.follow(world, node);
        }
    }

    fn thaw(&mut self, world: &mut World, node: NodeId, (actor, epoch, id): (ActorId, Epoch, MoveId)) {
        if self.mover(node).leaving.get(&actor).is_some_and(|transfer| transfer.id == id) {
            self.forget(node, actor);
            if let Err(error) = world.open(node, actor, epoch, Phase::Frozen) {
                world.note(&[82], || format!("{node} {actor}: nothing was left to be thawed: {error}"));
            }
        }
    }
}

fn not_moving(actor: ActorId, id: MoveId) -> Error {
    Error::new(ErrorKind::NoSuchActor, "the actor is not on this move here").with("actor", actor).with("move", id)
}

/// Between two looks whether a move is over.
pub(super) const TAKE_BACK_PAUSE: Duration = Duration::from_millis(50);
/// Pages of one pre-copy at most.
const PAGES_MAX: u32 = 1000;
/// An actor comes to rest within this, or does not move now.
const SETTLE_MAX: Duration = Duration::from_secs(1);
/// An actor that is frozen for longer than a move takes has been left alone.
const FROZEN_MAX: Duration = Duration::from_secs(3);
/// How far a replica that has just started is behind, where a planted bug has a node go by it: nanoseconds.
const LAG: u64 = 300_000_000;
