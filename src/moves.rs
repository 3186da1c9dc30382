//! The placement loop: what the leader of the control group does so that every actor runs where it should. It gives each
//! data chain its first place, plans, and carries out what the plan says, live where the actor's node lives, and by a new
//! owner where it is lost.
//!
//! It remembers nothing that matters: a new leader plans from what the group holds, and takes back the moves that it finds
//! begun. Every node besides settles its own actors that wait too long for the end of a move.

use core::time::Duration;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use futures_util::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use mesh_core::{
    Answer, Buf, Error, ErrorKind, Op, Outcome,
    assignment::Assignment,
    id::{ActorId, Epoch, GroupId, NodeId},
    meta::{Command, ControlView},
    op::{AdminOp, MoveStep, Moved, NodeOp},
    time::Instant,
    topology::NodeKind,
};
use mesh_placement::{
    Load, Name, Plan, Reason, Spot,
    migration::{Ask, End, Heard, Migration},
};
use tokio::task::JoinSet;

use crate::{
    controller::ask_node,
    node::Inner,
    view::{self, Sight},
};

/// Works until the node stops.
pub(crate) async fn run(node: Arc<Inner>) {
    let stopped = node.stopped();
    tokio::pin!(stopped);
    let mut control = node.metadata.watch_control();
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut driver = Driver::default();
    loop {
        tokio::select! {
            () = &mut stopped => return,
            _ = ticks.tick() => settle_frozen(&node),
            () = node.replan.notified() => {}
            changed = control.changed() => if changed.is_err() { return },
            Some(ended) = driver.tasks.join_next() => driver.ended(&node, ended),
        }
        let view = control.borrow_and_update().clone();
        if node.metadata.is_leader(GroupId::CONTROL) {
            driver.step(&node, &view);
        } else {
            // What runs goes on to its end; the new leader's proposals and these are settled by the group.
            driver.backing_off.clear();
        }
    }
}

/// What the leader has under way.
#[derive(Default)]
struct Driver {
    /// Each ends with its actor's outcome.
    tasks: JoinSet<Ended>,
    under_way: BTreeSet<ActorId>,
    moved_at: BTreeMap<ActorId, Instant>,
    /// Actors that did not move, until when they are left alone, and how often that happened in a row.
    backing_off: BTreeMap<ActorId, (Instant, u32)>,
    meter: Meter,
}

/// One task's end.
struct Ended {
    actor: ActorId,
    moved: bool,
    failed: bool,
}

impl Driver {
    fn step(&mut self, node: &Arc<Inner>, view: &ControlView) {
        self.give_places(node, view);
        for row in view.assignments.values() {
            // Begun by a leader that is gone.
            if let Some((machine, asks)) = Migration::clear(row)
                && self.claim(row.actor)
            {
                let node = node.clone();
                self.tasks.spawn(async move { carry(&node, machine, asks, "its controller is gone".into()).await });
            }
        }
        let now = node.env.clock.now();
        let sight = self.sight(node);
        let plan = mesh_placement::plan(&view::of(view, &sight));
        for step in plan.moves {
            let Some(row) = view.assignments.get(&step.actor).copied() else { continue };
            let waits = self.backing_off.get(&step.actor).is_some_and(|(until, _)| *until > now);
            if step.to.tail.is_some() || waits || self.under_way.len() >= MOVES_MAX || !self.claim(step.actor) {
                continue;
            }
            let node = node.clone();
            let lives = sight.up_since.contains_key(&row.node);
            if lives && !crate::stages::is_stranded(view, &sight.reports, &row) {
                let (machine, asks) = Migration::begin(&row, step.to.head);
                self.tasks.spawn(async move { carry(&node, machine, asks, step.reason.to_string()).await });
            } else {
                self.tasks.spawn(async move { take_over(&node, row, step.to.head, step.reason).await });
            }
        }
    }

    fn claim(&mut self, actor: ActorId) -> bool {
        self.under_way.insert(actor)
    }

    /// Every tenant has a chain for every ingress; it begins there.
    fn give_places(&mut self, node: &Arc<Inner>, view: &ControlView) {
        let hosts = view.nodes.values().filter(|info| info.kind == NodeKind::Host);
        for (tenant, host) in hosts.flat_map(|info| view.tenants.keys().map(|tenant| (*tenant, info.id))) {
            let actor = ActorId::data(tenant, host);
            if view.assignments.contains_key(&actor) || self.under_way.len() >= MOVES_MAX || !self.claim(actor) {
                continue;
            }
            let node = node.clone();
            self.tasks.spawn(async move {
                let row = Assignment::new(actor, host, Epoch(1));
                let failed = match node.propose(GroupId::CONTROL, Command::Assign(row)).await {
                    Ok(_) => false,
                    Err(error) => {
                        tracing::debug!(%actor, %error, "an actor's first place was not stored");
                        error.kind() != ErrorKind::Conflict
                    }
                };
                Ended { actor, moved: false, failed }
            });
        }
    }

    fn ended(&mut self, node: &Arc<Inner>, ended: Result<Ended, tokio::task::JoinError>) {
        let Ok(Ended { actor, moved, failed }) = ended else {
            // It panicked: that is logged where it happened, and the group knows how far it came.
            tracing::error!("a move's task ended without saying how");
            self.under_way.clear();
            return;
        };
        self.under_way.remove(&actor);
        let now = node.env.clock.now();
        if moved {
            self.moved_at.insert(actor, now);
        }
        if failed {
            let times = self.backing_off.get(&actor).map_or(0, |(_, times)| *times);
            let pause = BACK_OFF_MIN.saturating_mul(1 << times.min(2));
            self.backing_off.insert(actor, (now + pause, times + 1));
        } else {
            self.backing_off.remove(&actor);
        }
        node.replan.notify_one();
    }

    fn sight(&mut self, node: &Arc<Inner>) -> Sight {
        let now = node.env.clock.now();
        let reports = node.reports();
        self.meter.read(&reports, now);
        let up_since = node.up_since().into_iter().chain([(node.id, Instant::default())]).collect();
        Sight { reports, up_since, loads: self.meter.loads.clone(), moved_at: self.moved_at.clone(), now }
    }
}

/// Rates from counters.
#[derive(Default)]
struct Meter {
    last: BTreeMap<ActorId, (Epoch, u64, u64)>,
    read_at: Option<Instant>,
    loads: BTreeMap<ActorId, Load>,
}

impl Meter {
    fn read(&mut self, reports: &BTreeMap<NodeId, Arc<mesh_core::op::NodeReport>>, now: Instant) {
        let span = self.read_at.map(|at| now.since(at));
        if span.is_some_and(|span| span < METER_MIN) {
            return;
        }
        let mut last = BTreeMap::new();
        for actor in reports.values().flat_map(|report| &report.actors) {
            let known = last.entry(actor.actor).or_insert((actor.epoch, actor.requests, actor.traffic_bytes));
            if actor.epoch > known.0 {
                *known = (actor.epoch, actor.requests, actor.traffic_bytes);
            }
        }
        if let Some(millis) = span.map(|span| span.as_millis().max(1)) {
            let rate = |before: u64, after: u64| {
                u64::try_from(u128::from(after.saturating_sub(before)) * 1000 / millis).unwrap_or(u64::MAX)
            };
            // Who has just moved keeps its rate: its counters begin anew.
            let rates = last.iter().filter_map(|(actor, after)| {
                let before = self.last.get(actor).filter(|before| before.0 == after.0)?;
                Some((*actor, Load { requests_per_s: rate(before.1, after.1), bytes_per_s: rate(before.2, after.2) }))
            });
            self.loads.extend(rates.collect::<Vec<_>>());
            self.loads.retain(|actor, _| last.contains_key(actor));
        }
        self.last = last;
        self.read_at = Some(now);
    }
}

/// Carries out one live move.
async fn carry(node: &Arc<Inner>, mut machine: Migration, asks: Vec<Ask>, why: String) -> Ended {
    let (actor, (from, to)) = (machine.actor(), machine.way());
    let clock = node.env.clock.clone();
    let began = clock.now();
    let mut commit = Duration::ZERO;
    let mut stopped: Option<Instant> = None;
    let mut open: FuturesUnordered<BoxFuture<'static, (Heard, Duration, bool)>> = FuturesUnordered::new();
    let ask = |ask: Ask| -> BoxFuture<'static, (Heard, Duration, bool)> {
        let (node, clock) = (node.clone(), clock.clone());
        async move {
            let began = clock.now();
            let commits = matches!(ask, Ask::Propose(Command::CommitMove { .. }));
            let heard = fulfil(&node, ask).await;
            (heard, clock.now().since(began), commits)
        }
        .boxed()
    };
    for first in asks {
        open.push(ask(first));
    }
    while let Some((heard, took, commits)) = open.next().await {
        if commits {
            commit += took;
        }
        for next in machine.hear(heard) {
            if matches!(&next, Ask::Step(_, MoveStep { what: mesh_core::op::MoveOp::Freeze { .. }, .. })) {
                stopped = Some(clock.now());
            }
            open.push(ask(next));
        }
    }
    let now = clock.now();
    let millis = |span: Duration| format!("{:.2} ms", span.as_secs_f64() * 1000.0);
    let waited = stopped.map_or(Duration::ZERO, |at| now.since(at));
    match machine.end() {
        Some(End::Arrived(epoch)) => {
            let carried = machine.carried();
            node.events.note(
                clock.wall(),
                &format!(
                    "moved {} from {from} to {to} under {epoch} in {}: its requests waited {} of that, the commit took {}; \
                     {} + {} entries of state: {why}",
                    Name(actor),
                    millis(now.since(began)),
                    millis(waited),
                    millis(commit),
                    carried.before,
                    carried.frozen,
                ),
            );
            Ended { actor, moved: true, failed: false }
        }
        end => {
            let error = match end {
                Some(End::Stayed(error) | End::Elsewhere(error)) => error.to_string(),
                _ => "its machine stopped".to_owned(),
            };
            node.events.note(clock.wall(), &format!("{} did not move from {from} to {to}: {error}", Name(actor)));
            Ended { actor, moved: false, failed: true }
        }
    }
}

/// Does what the machine wants.
async fn fulfil(node: &Arc<Inner>, ask: Ask) -> Heard {
    match ask {
        Ask::Propose(command) => {
            let answer = node.propose(GroupId::CONTROL, command).await;
            Heard::Proposed(answer.map(|answer| (*answer).clone()))
        }
        Ask::Wait(pause) => {
            tokio::time::sleep(pause).await;
            Heard::Due
        }
        Ask::Step(at, step) if at == node.id => Heard::Stepped(at, node.agent.carry_out(step, Buf::empty()).await),
        Ask::Step(at, step) => {
            let asked = ask_node(node, at, Op::Node(Box::new(NodeOp::Move(step))), STEP_BUDGET);
            let outcome = tokio::select! {
                outcome = asked => outcome,
                () = until_lost(node, at) => {
                    Err(Error::new(ErrorKind::LinkLost, "the node is lost").with("node", at))
                }
            };
            Heard::Stepped(at, moved(outcome))
        }
    }
}

fn moved(outcome: Outcome) -> Result<Moved, Error> {
    match outcome?.answer {
        Answer::Moved(moved) => Ok(moved),
        _ => Err(Error::bug("a step of a move was answered with something else")),
    }
}

/// Ends when a node does not answer any more.
async fn until_lost(node: &Arc<Inner>, peer: NodeId) {
    while node.alive().contains(&peer) {
        tokio::time::sleep(TICK).await;
    }
}

/// Gives an actor whose node is lost to another one.
async fn take_over(node: &Arc<Inner>, row: Assignment, to: NodeId, why: Reason) -> Ended {
    let (actor, epoch) = (row.actor, Epoch(row.epoch.0 + 1));
    let began = node.env.clock.now();
    let assigned = node.propose(GroupId::CONTROL, Command::Assign(Assignment::new(actor, to, epoch))).await;
    let took = node.env.clock.now().since(began).as_secs_f64() * 1000.0;
    let failed = assigned.is_err();
    let what = match assigned {
        Ok(_) => format!(
            "{} runs on {to} under {epoch} instead of {}, the commit took {took:.2} ms: {why}",
            Name(actor),
            row.node
        ),
        Err(error) => format!("{} was not taken over by {to}: {error}", Name(actor)),
    };
    node.events.note(node.env.clock.wall(), &what);
    Ended { actor, moved: !failed, failed }
}

/// An actor of this node that has waited long for the end of its move: the move is aborted, unless it is committed.
fn settle_frozen(node: &Arc<Inner>) {
    let now = node.env.clock.now();
    let Some(then) = now.0.checked_sub(FROZEN_MAX.as_nanos() as u64).map(Instant) else { return };
    for (actor, epoch, id) in node.agent.frozen_since(then) {
        let settling = node.clone();
        node.spawn(async move {
            let outcome = settling.propose(GroupId::CONTROL, Command::AbortMove { actor, epoch, id }).await;
            match outcome {
                // Not if it is frozen for a later move by now.
                Ok(_) if !settling.agent.take_back(actor, id) => {}
                Ok(_) => match settling.host.thaw(actor, epoch) {
                    Ok(()) => tracing::warn!(%actor, %id, "a move did not end in time and was taken back"),
                    Err(error) => tracing::debug!(%actor, %error, "nothing was left to be thawed"),
                },
                Err(error) => {
                    tracing::debug!(%actor, %error, "a move that takes long is not settled yet");
                    settling.reconfigure();
                }
            }
        });
    }
}

/// Answers an administrator.
pub(crate) async fn administer(node: &Arc<Inner>, op: AdminOp, deadline: Instant) -> Outcome {
    if !node.metadata.is_leader(GroupId::CONTROL) {
        let groups = node.metadata.status();
        let leader =
            groups.into_iter().find(|(group, ..)| *group == GroupId::CONTROL).and_then(|(_, leader, _)| leader);
        let leader = leader.filter(|leader| *leader != node.id).ok_or_else(|| {
            Error::new(ErrorKind::NotLeader, "the control group has no leader at the moment; try again")
        })?;
        if deadline <= node.env.clock.now() {
            return Err(Error::new(ErrorKind::Timeout, "the leader of the control group was not asked in time"));
        }
        let left = deadline.after(node.env.clock.now());
        return ask_node(node, leader, Op::Node(Box::new(NodeOp::Admin(Box::new(op)))), left).await;
    }
    let control = node.metadata.control();
    let told = |lines: Vec<String>, next| Ok(Answer::Told { lines, next }.into());
    match op {
        AdminOp::Events { after } => {
            let (lines, next) = node.events.after(after);
            told(lines, next)
        }
        AdminOp::Plan { with_dpus, without } => {
            let mut view = view::of(&control, &Driver::default().sight(node));
            for (host, profile) in with_dpus {
                view = view.with_dpu(host, &profile)?;
            }
            for lost in without {
                view = view.without(lost)?;
            }
            told(format!("{:#}", mesh_placement::plan(&view)).lines().map(str::to_owned).collect(), 0)
        }
        AdminOp::Wish { scope, wish } => {
            let mut wanted = (*control).clone();
            match wish {
                Some(wish) => drop(wanted.wishes.insert(scope, wish)),
                None => drop(wanted.wishes.remove(&scope)),
            }
            let plan = mesh_placement::plan(&view::of(&wanted, &Driver::default().sight(node)));
            if let (mesh_core::assignment::Scope::Actor(actor), Some(pin)) = (scope, wish.and_then(|wish| wish.pin)) {
                if !control.assignments.contains_key(&actor) {
                    return Err(Error::new(ErrorKind::NotFound, "no such actor; `mesh actors` lists them"));
                }
                refuse_elsewhere(&plan, actor, pin)?;
            }
            node.propose(GroupId::CONTROL, Command::SetWish { scope, wish }).await?;
            told(said(&plan), 0)
        }
        AdminOp::Drain { node: drained, draining } => {
            let mut wanted = (*control).clone();
            let info = wanted.nodes.get_mut(&drained).ok_or_else(|| {
                Error::new(ErrorKind::NotFound, "no node of this number is a member of the mesh").with("node", drained)
            })?;
            info.draining = draining;
            let plan = mesh_placement::plan(&view::of(&wanted, &Driver::default().sight(node)));
            if draining && let Some((actor, reason)) = plan.refused.first() {
                return Err(Error::new(ErrorKind::Conflict, "the node cannot be emptied: an actor has nowhere to go")
                    .with("actor", Name(*actor))
                    .with("why", reason));
            }
            node.propose(GroupId::CONTROL, Command::Drain { node: drained, draining }).await?;
            told(said(&plan), 0)
        }
        AdminOp::Stages { scope, stages } => {
            crate::stages::check(node, &control, scope, &stages)?;
            node.propose(GroupId::CONTROL, Command::SetStages { scope, stages }).await?;
            told(crate::stages::said(&node.metadata.control(), scope), 0)
        }
    }
}

/// The lines of what will move.
fn said(plan: &Plan) -> Vec<String> {
    plan.moves.iter().map(ToString::to_string).collect()
}

fn refuse_elsewhere(plan: &Plan, actor: ActorId, pin: NodeId) -> Result<(), Error> {
    let Some(decision) = plan.decisions.get(&actor) else {
        return Err(Error::new(ErrorKind::NotFound, "no such actor; `mesh actors` lists them"));
    };
    if decision.spot == Some(Spot::whole(pin)) {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Conflict, "the actor cannot run there")
        .with("actor", Name(actor))
        .with("node", pin)
        .with("why", &decision.reason))
}

const TICK: Duration = Duration::from_millis(100);
/// Moves and first places at once.
const MOVES_MAX: usize = 16;
/// A move that failed is tried again after this, and after twice as long each time, up to four times: what is wanted is
/// there a few seconds after it can be.
const BACK_OFF_MIN: Duration = Duration::from_secs(1);
/// Between two readings of rates.
const METER_MIN: Duration = Duration::from_secs(1);
/// One step at a node: longest, to carry over a large state while the actor goes on.
const STEP_BUDGET: Duration = Duration::from_secs(120);
/// An actor that is frozen for longer than a move takes has been left alone.
const FROZEN_MAX: Duration = Duration::from_secs(3);
