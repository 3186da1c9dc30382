//! One node's steward: what it is told, what it observes, and what is done of what it wants.

use core::time::Duration;
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use mesh_core::{
    Answer, Buf, Error, Outcome, Request,
    happened::Happened,
    id::{ActorId, DriveId, GroupId, Incarnation, NodeId},
    meta::{ControlView, MeshCommand},
    op::{Ability, ActorReport, Beat, DriveReport, MoveOp, MoveStep, NodeLoad, NodeOp, Phase, STARTS_MAX, ShardOp},
    time::Instant,
};
use mesh_placement::{
    fate::{Hosted, Known},
    migration::{Ask, Heard},
    steward::{Act, Event, Here, Key, Observed, Steward, outs::Put, specs::Upkeep},
    transfer::{STEP_MAX, Transfers},
};

use super::{Cluster, Errand, GRACE_MS, Life, moves::Waiting, node_info};
use crate::{
    panics::quietly,
    planted::Bug,
    world::{Counted, Origin, World},
};

/// What runs in one life of a node.
#[derive(Debug)]
pub(super) struct Agent {
    pub(super) boot: u64,
    /// Since when, on the world's clock.
    since: u64,
    pub(super) steward: Steward,
    pub(super) ability: Arc<Ability>,
    pub(super) transfers: Transfers,
    /// Steps of moves that are being carried out, by number.
    pub(super) courses: BTreeMap<u64, Waiting>,
    /// Steps that wait until this node has heard of their actor: until when, from whom, and what.
    pub(super) unheard: Vec<(Instant, Origin, MoveStep, Buf)>,
    /// How its drives were last, and those that are being asked.
    pub(super) drives: BTreeMap<DriveId, DriveReport>,
    pub(super) asked: BTreeSet<DriveId>,
    /// When the functions are built that are being built.
    pub(super) built: Instant,
    /// When the steward is told the time next.
    alarm: Option<(Instant, u64)>,
    /// What was asked for actors' sake and has not ended.
    steps: u64,
    /// Whom this node, and its metadata replicas, were told to be there; and whether these are being told.
    told: BTreeSet<NodeId>,
    replicas: BTreeSet<NodeId>,
    pub(super) telling: bool,
}

impl Agent {
    /// Another steward takes the place of this one, which is gone with all that it had under way.
    pub(super) fn renew(&mut self, here: Here, view: Arc<ControlView>, now: Instant) {
        let is_own = |from: &Origin| matches!(from, Origin::Own { .. });
        self.steward = Steward::new(here, view, now);
        // The steps that it asked of its own node end with it.
        self.courses.retain(|_, waiting| !is_own(&waiting.from));
        self.unheard.retain(|(_, from, ..)| !is_own(from));
        self.asked.clear();
        (self.alarm, self.steps) = (None, 0);
        // It knows nothing of what was told before, and says who is there, but not who is not.
        self.told.clear();
        self.replicas.clear();
        self.telling = false;
    }

    /// Who was told to be there is whom the steward takes to be there; the replicas hear of it a little later.
    fn check_told(&self) -> Result<(), String> {
        let sight = &self.steward.outlook().sight;
        let is_so = |told: &BTreeSet<NodeId>| sight.alive.iter().filter(|node| **node != sight.here).eq(told.iter());
        let replicas = self.telling || is_so(&self.replicas);
        if is_so(&self.told) && replicas {
            return Ok(());
        }
        Err(format!("{:?} are up, links know {:?} and replicas {:?}", sight.alive, self.told, self.replicas))
    }

    /// Whether its replica would not have caught up yet, where a planted bug has a node go by it.
    pub(super) fn is_young(&self, world: &World) -> bool {
        world.now().since(Instant(self.since)) < LAG
    }
}

impl Cluster {
    /// What a node has when it starts: its files.
    pub(super) fn begin(&mut self, world: &World, (node, boot): Life) -> Agent {
        let now = world.clock(node);
        let mut view = self.replica(node);
        // A planted bug: it takes what its replica held before for what is so after its start.
        if self.bug == Some(Bug::OldReplica) && boot > 1 {
            let mut old = (*view).clone();
            old.nodes.insert(node, node_info(&self.swarm, node, boot));
            view = Arc::new(old);
        }
        let here = self.here((node, boot));
        Agent {
            boot,
            since: world.now().0,
            ability: here.ability.clone(),
            steward: Steward::new(here, view, now),
            transfers: Transfers::default(),
            courses: BTreeMap::new(),
            unheard: Vec::new(),
            drives: BTreeMap::new(),
            asked: BTreeSet::new(),
            built: now,
            alarm: None,
            steps: 0,
            told: BTreeSet::new(),
            replicas: BTreeSet::new(),
            telling: false,
        }
    }

    /// Which node it is, for its steward.
    pub(super) fn here(&self, (node, boot): Life) -> Here {
        let functions = self.registry.kinds().map(|kind| (kind.to_owned(), (0, 0))).collect();
        Here {
            info: node_info(&self.swarm, node, boot),
            starts: (boot.saturating_sub(STARTS_MAX as u64 - 1)..=boot).map(Incarnation).collect(),
            ability: Arc::new(Ability { functions, millicores: 8000, memory_bytes: 1 << 34 }),
            upkeep: Upkeep {
                reclaim_grace_ms: GRACE_MS,
                repair_bytes_per_s: REPAIR_BYTES_PER_S,
                count_every_ms: COUNT_EVERY_MS,
                out_after_ms: self.swarm.out_after_ms,
            },
            timing: self.timing(),
        }
    }

    /// What a node's replica of the control group holds.
    pub(super) fn replica(&self, node: NodeId) -> Arc<ControlView> {
        self.replicas.get(&node).map(|(_, view)| view.clone()).unwrap_or_default()
    }

    /// Moves under way, or other changes for actors' sake.
    #[must_use]
    pub fn moves_under_way(&self) -> u64 {
        self.agents.values().map(|agent| agent.steps).sum()
    }

    /// Tells a steward what has happened, does what it wants, and checks that all is as it must be.
    pub(super) fn hear(&mut self, world: &mut World, life: Life, event: Event) {
        self.hear_in_turn(world, life, VecDeque::from([event]));
    }

    /// Does what a steward wants, and goes on.
    pub(super) fn act(&mut self, world: &mut World, life: Life, acts: Vec<Act>) {
        let mut events = VecDeque::new();
        if self.carry_out_all(world, life, acts, &mut events) {
            self.hear_in_turn(world, life, events);
        }
    }

    /// Does these in turn, and looks if the steward wants to; whether the node still lives.
    fn carry_out_all(&mut self, world: &mut World, life: Life, acts: Vec<Act>, events: &mut VecDeque<Event>) -> bool {
        let now = world.clock(life.0);
        for act in acts {
            // What it let go on may have been the moment of its crash.
            if !self.is_alive(world, life) {
                return false;
            }
            self.carry_out(world, life, act, events);
        }
        let Some(agent) = self.agent(world, life) else { return false };
        if let Err(why) = agent.check_told() {
            world.violate(|| format!("{}: {why}", life.0));
            return false;
        }
        let is_curious = events.is_empty() && agent.steward.is_curious(now);
        if is_curious && let Some(observed) = self.observe(world, life) {
            events.push_back(Event::Observed(Box::new(observed)));
        }
        true
    }

    fn hear_in_turn(&mut self, world: &mut World, life: Life, mut events: VecDeque<Event>) {
        let node = life.0;
        while let Some(event) = events.pop_front() {
            let now = world.clock(node);
            let Some(agent) = self.agent(world, life) else { return };
            agent.telling &= !matches!(event, Event::Ended(Key::Peers, Ok(())));
            let heard = quietly(|| {
                let acts = agent.steward.on(event, now);
                (acts, agent.steward.check(now))
            });
            let acts = match heard {
                Ok((acts, Ok(()))) => acts,
                Ok((_, Err(broken))) => return world.violate(|| format!("{node}: what must be so is not: {broken}")),
                Err(text) => return world.violate(|| format!("{node}: its steward panicked: {text}")),
            };
            if !self.carry_out_all(world, life, acts, &mut events) {
                return;
            }
        }
        self.set_alarm(world, life);
    }

    fn set_alarm(&mut self, world: &mut World, life: Life) {
        let now = world.clock(life.0);
        let Some(agent) = self.agent(world, life) else { return };
        let at = agent.steward.wake_at();
        if agent.alarm.is_some_and(|(known, _)| known <= at) {
            return;
        }
        let number = self.number(Errand::Alarm(life));
        if let Some(agent) = self.agent(world, life) {
            agent.alarm = Some((at, number));
        }
        world.timer(at.after(now).max(Duration::from_micros(1)), number);
    }

    pub(super) fn alarm(&mut self, world: &mut World, life: Life, number: u64) {
        let now = world.clock(life.0);
        let Some(agent) = self.agent(world, life) else { return };
        if agent.alarm.is_none_or(|(_, known)| known != number) {
            return;
        }
        agent.alarm = None;
        if agent.steward.wake_at() <= now {
            self.hear(world, life, Event::Time);
        } else {
            self.set_alarm(world, life);
        }
    }

    /// What the node observes of itself.
    pub(super) fn observe(&mut self, world: &World, life: Life) -> Option<Observed> {
        let (node, now, bug) = (life.0, world.clock(life.0), self.bug);
        let groups = self.groups(node);
        let agent = self.agent(world, life)?;
        let inventory = world.hosted_at(node);
        let hosted: BTreeMap<_, _> = inventory
            .iter()
            .map(|(actor, epoch, phase, _)| (*actor, Hosted { epoch: *epoch, phase: *phase }))
            .collect();
        let data = hosted.keys().copied().filter(|actor| actor.as_data().is_some());
        let known = |actor| {
            let known = Known { heard: world.heard_of(node, actor), on: agent.transfers.on(actor), caught_up: false };
            (actor, if bug == Some(Bug::OldNews) { Known::default() } else { known })
        };
        let report = |(actor, epoch, phase, counted): &(ActorId, _, Phase, Counted)| ActorReport {
            actor: *actor,
            functions: Vec::new(),
            epoch: *epoch,
            phase: *phase,
            jobs: counted.jobs,
            bytes: counted.bytes,
            requests: counted.requests,
            traffic_bytes: counted.traffic_bytes,
            restarts: 0,
        };
        let effects = world.effects(node);
        Some(Observed {
            groups,
            known: data.chain(agent.steward.concerns()).map(known).collect(),
            actors: inventory.iter().map(report).collect(),
            overdue: agent.transfers.overdue(now),
            hosted,
            // Its effects are what stands for the work of a simulated process.
            load: NodeLoad { cpu_ns: effects * EFFECT_NS, ..NodeLoad::default() },
            ..Observed::default()
        })
    }

    fn carry_out(&mut self, world: &mut World, life: Life, act: Act, events: &mut VecDeque<Event>) {
        let node = life.0;
        let ended = |key: Key, outcome: Result<(), Error>| Event::Ended(key, outcome);
        if let (Act::Peers { .. }, Some(agent)) = (&act, self.agent(world, life)) {
            agent.telling = true;
        }
        let Some(act) = self.thwart(world, life, act) else { return };
        match act {
            Act::Beat(to, beat) => {
                let number = self.number(Errand::Beat(life, to, world.clock(node)));
                let beat = self.pretence.as_ref().map_or_else(|| beat.clone(), |pretence| pretence.say(to, &beat));
                let budget = self.timing().silence;
                world.ask_node(node, to, (NodeOp::Beat(beat), Buf::empty()), budget, number);
            }
            Act::Up(peer) => {
                world.resume(node, peer);
                if let Some(agent) = self.agent(world, life) {
                    agent.told.insert(peer);
                }
            }
            Act::Down(peer) => {
                world.abandon(node, peer);
                if let Some(agent) = self.agent(world, life) {
                    agent.told.remove(&peer);
                }
            }
            Act::Stat => self.ask_drives(world, life, events),
            Act::Peers { up, down } => {
                self.tell_replicas(world, life, &up, &down);
                events.push_back(ended(Key::Peers, Ok(())));
            }
            // The stand-in for the group is reached by everybody.
            Act::Announce(_) => {
                let info = node_info(&self.swarm, node, life.1);
                self.propose(world, node, MeshCommand::PutNode(info), Errand::Act(life, Key::Announce));
            }
            // The stand-in for the group knows no leases.
            Act::Forsake(group, ..) => events.push_back(ended(Key::Forsake(group), Ok(()))),
            Act::Elect(GroupId::CONTROL) => {
                let takes = self.dice.span(&(Duration::from_millis(1)..Duration::from_millis(30)));
                self.after(world, takes, Errand::Stand(life));
            }
            Act::Confirm => self.after(world, CONFIRM, Errand::Confirm(life)),
            Act::LayOut(draft) => match draft.carry_out() {
                Ok(made) => self.propose(world, node, MeshCommand::PutLayout(made), Errand::Act(life, Key::LayOut)),
                Err(error) => events.push_back(ended(Key::LayOut, Err(error))),
            },
            Act::RaiseLevel(level) => {
                self.propose(world, node, MeshCommand::RaiseLevel(level), Errand::Act(life, Key::RaiseLevel));
            }
            Act::Fence(command) => self.propose(world, node, command, Errand::Act(life, Key::Fence)),
            Act::PutOut(Put { drives, out }) => {
                self.propose(world, node, MeshCommand::PutOut { drives, out }, Errand::Act(life, Key::PutOut));
            }
            // What it finds, it has found of what was so when it began.
            Act::Plan(study) => {
                let takes = self.dice.span(&(Duration::from_micros(10)..Duration::from_millis(3)));
                self.after(world, takes, Errand::Planned(life, Box::new(study.carry_out())));
            }
            Act::Actor(actor, deeds) => {
                let done = self.do_deeds(world, life, actor, deeds.into());
                events.extend(done.map(|outcome| ended(Key::Actor(actor), outcome)));
            }
            Act::Forget(actor) => {
                if let Some(agent) = self.agent(world, life) {
                    agent.transfers.forget(actor);
                }
            }
            Act::TakeBack(actor, epoch, id) if self.bug == Some(Bug::RunsOnReturn) => {
                self.run_on(world, life, (actor, epoch));
                events.push_back(ended(Key::TakeBack(actor, id), Ok(())));
            }
            Act::TakeBack(actor, epoch, id) => {
                let errand = Errand::Act(life, Key::TakeBack(actor, id));
                self.propose(world, node, MeshCommand::AbortMove { actor, epoch, id }, errand);
            }
            // A planted bug: time says what only the group may say.
            Act::Settle(actor, epoch, id) if self.bug == Some(Bug::ThawOnTimeout) => {
                events.push_back(ended(Key::Settle(actor, epoch, id), Ok(())));
            }
            Act::Settle(actor, epoch, id) => {
                let errand = Errand::Act(life, Key::Settle(actor, epoch, id));
                self.propose(world, node, MeshCommand::AbortMove { actor, epoch, id }, errand);
            }
            Act::Settled(actor, epoch, id) => self.settled_at_last(world, life, (actor, epoch, id)),
            Act::Step(actor, number, ask) => {
                if let Some(agent) = self.agent(world, life) {
                    agent.steps += 1;
                }
                self.fulfil(world, life, (actor, number), ask);
            }
            Act::Note(happened) => self.note(world, node, &happened),
            Act::Restarted(peer, start) => world.restarted(node, peer, start.0),
            // Links know nodes by their numbers.
            Act::Locate(..) => {}
            Act::TurnAway(peer, _, verdict) => {
                world.note(&[93, node.0, peer.0], || format!("{node}: a beat of {peer} does not count: {verdict:?}"));
            }
            Act::Trouble(actor, error) => {
                world.note(&[94, node.0, actor.0], || format!("{node} cannot host {actor}: {error}"));
            }
            Act::Refused(error) | Act::Expelled(error) | Act::Complain(_, error) | Act::Warn(_, error) => {
                world.note(&[95, node.0], || format!("{node} complains: {error}"));
            }
            other => world.violate(|| format!("{node} wants what nothing here gives reason for: {other:?}")),
        }
    }

    /// A node's metadata replicas are told who is there.
    pub(super) fn tell_replicas(&mut self, world: &World, life: Life, up: &[NodeId], down: &[NodeId]) {
        if let Some(agent) = self.agent(world, life) {
            agent.replicas.extend(up);
            agent.replicas.retain(|peer| !down.contains(peer));
        }
    }

    /// What was asked for an actor's sake has come to this.
    pub(super) fn stepped(&mut self, world: &mut World, life: Life, actor: ActorId, number: u64, heard: Heard) {
        if let Some(agent) = self.agent(world, life) {
            agent.steps -= 1;
            self.hear(world, life, Event::Stepped(actor, number, heard));
        }
    }

    fn fulfil(&mut self, world: &mut World, life: Life, (actor, number): (ActorId, u64), ask: Ask) {
        let node = life.0;
        self.activate_early(world, life, &ask);
        match ask {
            // Also of one that leads no more, which real nodes keep to themselves: here such proposals come late, and must do no
            // harm.
            Ask::Propose(command) => {
                self.propose(world, node, command, Errand::Decided(life, actor, number));
            }
            Ask::Step(to, step) => {
                let errand = self.number(Errand::Stepped(life, actor, number, to));
                world.ask_node(node, to, (NodeOp::Move(step), Buf::empty()), STEP_MAX, errand);
            }
            Ask::Wait(pause) => self.after(world, pause, Errand::Due(life, actor, number)),
        }
    }

    /// A planted bug: the target is told that it runs the actor as soon as the commit is proposed.
    fn activate_early(&mut self, world: &mut World, (node, _): Life, ask: &Ask) {
        let (Some(Bug::EarlyActivation), Ask::Propose(MeshCommand::CommitMove { actor, epoch, id })) = (self.bug, ask)
        else {
            return;
        };
        let to = world.rows().get(actor).and_then(|row| row.moving);
        let step = MoveStep { actor: *actor, epoch: *epoch, id: *id, what: MoveOp::Activate };
        if let Some(to) = to {
            let errand = self.number(Errand::Said);
            world.ask_node(node, to, (NodeOp::Move(step), Buf::empty()), STEP_MAX, errand);
        }
    }

    fn note(&mut self, world: &mut World, node: NodeId, happened: &Happened) {
        world.note(&[92, node.0], || format!("{node}: {happened}"));
        match happened {
            Happened::Moved { .. } => self.ends.arrived += 1,
            Happened::NotMoved { elsewhere: true, .. } => self.ends.elsewhere += 1,
            Happened::NotMoved { .. } => self.ends.stayed += 1,
            Happened::TakenOver { .. } => self.ends.taken_over += 1,
            _ => {}
        }
    }

    fn ask_drives(&mut self, world: &mut World, life: Life, events: &mut VecDeque<Event>) {
        let node = life.0;
        let drives: Vec<DriveId> = self.swarm.drives_at(node).collect();
        let dead = self.dead.clone();
        let Some(agent) = self.agent(world, life) else { return };
        agent.drives.retain(|drive, _| !dead.contains(drive));
        let asked: Vec<DriveId> =
            drives.into_iter().filter(|drive| world.hosts(node, ActorId::drive(*drive))).collect();
        agent.asked.extend(&asked);
        let deadline = world.clock(node) + STAT_MAX;
        for drive in &asked {
            let number = self.number(Errand::Stat(life, *drive));
            world.submit(node, ActorId::drive(*drive), Request::system(ShardOp::Stat, deadline), number);
        }
        if asked.is_empty() {
            events.push_back(Event::Ended(Key::Stat, Ok(())));
        }
    }

    /// A drive has said how it is; once all have, the steward hears it.
    pub(super) fn drive_said(&mut self, world: &mut World, life: Life, said: DriveReport) {
        let Some(agent) = self.agent(world, life) else { return };
        agent.asked.remove(&said.drive);
        agent.drives.insert(said.drive, said);
        if agent.asked.is_empty() {
            let said = agent.drives.values().cloned().collect();
            self.hear(world, life, Event::Drives(said));
            self.hear(world, life, Event::Ended(Key::Stat, Ok(())));
        }
    }

    /// A node is asked for something.
    pub fn asked(&mut self, world: &mut World, node: NodeId, from: Origin, op: NodeOp, payload: &Buf) {
        let Some(life) = self.life(world, node) else { return };
        match op {
            NodeOp::Beat(beat) => {
                let beat = self.overheard(node, beat);
                self.hear(world, life, Event::Heard(beat.clone(), world.clock(node)));
                if let Some(agent) = self.agent(world, life) {
                    let answer = agent.steward.answer_to(&beat);
                    let answer =
                        self.pretence.as_ref().map_or_else(|| answer.clone(), |one| one.say(beat.node, &answer));
                    world.respond(node, from, Ok(Answer::Beat(answer)));
                }
            }
            NodeOp::Move(step) => self.asked_for_step(world, life, from, step, payload.clone()),
            other => world.violate(|| format!("{node}: nobody answers {other:?} here")),
        }
    }

    /// What a node hears of a beat: all of it, unless a planted bug drops something.
    fn overheard(&mut self, node: NodeId, beat: Arc<Beat>) -> Arc<Beat> {
        match &mut self.pretence {
            Some(pretence) => pretence.hear(node, beat),
            None => beat,
        }
    }

    pub(super) fn beat_answered(
        &mut self,
        world: &mut World,
        life: Life,
        (to, asked_at): (NodeId, Instant),
        outcome: Outcome,
    ) {
        let now = world.clock(life.0);
        match outcome.map(|response| response.answer) {
            Ok(Answer::Beat(beat)) if beat.node == to => {
                let beat = self.overheard(life.0, beat);
                self.hear(world, life, Event::Heard(beat, now));
            }
            Ok(other) => world.violate(|| format!("a beat was answered by {other:?}")),
            Err(error) => self.hear(world, life, Event::Unanswered(to, asked_at, error.kind())),
        }
    }
}

/// What a keeper moves in a second: little enough that heals wait for it.
const REPAIR_BYTES_PER_S: u64 = 1 << 20;
/// All shards are counted so often.
const COUNT_EVERY_MS: u64 = 120_000;
/// What one effect of a function costs.
const EFFECT_NS: u64 = 1000;
/// A majority says within this whether it follows.
const CONFIRM: Duration = Duration::from_millis(2);
/// How long a drive may take to say how it is.
const STAT_MAX: Duration = Duration::from_secs(2);
/// How far a replica that has just started is behind, where a planted bug has a node go by it.
const LAG: Duration = Duration::from_millis(300);
