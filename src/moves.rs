//! The placement loop: what the leader of the control group does so that every actor runs where it should. It gives each
//! data chain its first place, plans, and carries out what the plan says, live where the actor's node lives, and by a new
//! owner where it is lost.
//!
//! It remembers nothing that matters: a new leader plans from what the group holds, and takes back the moves that it finds
//! begun. Every node besides settles its own actors that wait too long for the end of a move.

use core::time::Duration;
use std::{collections::BTreeMap, sync::Arc};

use futures_util::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use mesh_core::{
    Answer, Buf, Error, ErrorKind, Op, Outcome,
    assignment::{Assignment, Tail},
    id::{ActorId, Epoch, GroupId, NodeId},
    meta::{Command, ControlView},
    op::{MoveStep, Moved, NodeOp},
    time::Instant,
    topology::NodeKind,
};
use mesh_placement::{
    Move, Name, Planner, Reason, View,
    migration::{Ask, End, Heard, Migration},
};
use tokio::task::{self, JoinSet};

use crate::{
    controller::ask_node,
    node::{Inner, lock},
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
        let mut news = true;
        tokio::select! {
            () = &mut stopped => return,
            _ = ticks.tick() => {
                settle_frozen(&node);
                news = false;
            }
            () = node.replan.notified() => {}
            changed = control.changed() => if changed.is_err() { return },
            Some(ended) = driver.tasks.join_next_with_id() => driver.ended(&node, ended),
        }
        news |= control.has_changed().unwrap_or(false);
        let view = control.borrow_and_update().clone();
        if node.metadata.is_leader(GroupId::CONTROL) {
            driver.step(&node, &view, news);
        } else {
            driver.rest();
        }
    }
}

/// What the leader has under way.
#[derive(Default)]
struct Driver {
    /// Each ends with its actor's outcome.
    tasks: JoinSet<Ended>,
    /// Which task each actor is in the hands of.
    under_way: BTreeMap<ActorId, task::Id>,
    /// Actors that did not move, until when they are left alone, and how often that happened in a row.
    backing_off: BTreeMap<ActorId, (Instant, u32)>,
    plans: Plans,
}

/// One task's end.
struct Ended {
    actor: ActorId,
    moved: bool,
    failed: bool,
}

impl Driver {
    /// Nobody has to lead from here any more. What runs goes on to its end; the new leader's proposals and these are
    /// settled by the group.
    fn rest(&mut self) {
        self.backing_off.clear();
        self.plans = Plans::default();
    }

    fn step(&mut self, node: &Arc<Inner>, control: &Arc<ControlView>, news: bool) {
        let now = node.env.clock.now();
        if news || self.plans.is_due(now) {
            self.give_places(node, control);
            let sight = view::sight(node);
            self.plans.look(view::of(control, &sight), now);
            self.set_out(node, control, &sight, now);
        } else if !self.plans.wanted.is_empty() {
            // Those that back off, or wait for their turn.
            self.set_out(node, control, &view::sight(node), now);
        }
    }

    /// Begins what the plan wants, as far as there is room.
    fn set_out(&mut self, node: &Arc<Inner>, control: &ControlView, sight: &Sight, now: Instant) {
        for row in control.assignments.values() {
            // Begun by a leader that is gone.
            if let Some((machine, asks)) = Migration::clear(row) {
                let node = node.clone();
                self.start(
                    row.actor,
                    async move { carry(&node, machine, asks, "its controller is gone".into()).await },
                );
            }
        }
        let wanted: Vec<Move> = self.plans.wanted.values().cloned().collect();
        for step in wanted {
            let Some(row) = control.assignments.get(&step.actor).copied() else { continue };
            if self.backing_off.get(&step.actor).is_some_and(|(until, _)| *until > now) {
                continue;
            }
            let node = node.clone();
            let lives = sight.up_since.contains_key(&row.node);
            if lives && step.to.head == row.node {
                let tail = step.to.tail.map(|(cut, node)| Tail { cut: cut as u8, node });
                self.start(step.actor, async move { set_tail(&node, row, tail, step.reason).await });
            } else if lives && !crate::stages::is_stranded(control, &sight.reports, &row) {
                self.start(step.actor, async move {
                    let (machine, asks) = Migration::begin(&row, step.to.head);
                    carry(&node, machine, asks, step.reason.to_string()).await
                });
            } else {
                self.start(step.actor, async move { take_over(&node, row, step.to.head, step.reason).await });
            }
        }
    }

    /// Has an actor's fate in hand, unless somebody has it, or too many are.
    fn start(&mut self, actor: ActorId, work: impl Future<Output = Ended> + Send + 'static) {
        if self.under_way.len() < MOVES_MAX && !self.under_way.contains_key(&actor) {
            let task = self.tasks.spawn(work).id();
            self.under_way.insert(actor, task);
        }
    }

    /// Every tenant has a chain for every ingress; it begins there.
    fn give_places(&mut self, node: &Arc<Inner>, view: &ControlView) {
        let hosts = view.nodes.values().filter(|info| info.kind == NodeKind::Host);
        for (tenant, host) in hosts.flat_map(|info| view.tenants.keys().map(|tenant| (*tenant, info.id))) {
            let actor = ActorId::data(tenant, host);
            if view.assignments.contains_key(&actor) {
                continue;
            }
            let node = node.clone();
            self.start(actor, async move {
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

    fn ended(&mut self, node: &Arc<Inner>, ended: Result<(task::Id, Ended), task::JoinError>) {
        let Ended { actor, moved, failed } = match ended {
            Ok((_, ended)) => ended,
            // It panicked, which is logged where it happened. The group knows how far it came.
            Err(error) => {
                tracing::error!(%error, "a move's task ended without saying how");
                let whose = self.under_way.iter().find(|(_, task)| **task == error.id());
                let Some(actor) = whose.map(|(actor, _)| *actor) else { return };
                Ended { actor, moved: false, failed: true }
            }
        };
        self.under_way.remove(&actor);
        let now = node.env.clock.now();
        if moved {
            lock(&node.record).moved_at.insert(actor, now);
        }
        if failed {
            let times = self.backing_off.get(&actor).map_or(0, |(_, times)| *times);
            let pause = BACK_OFF_MIN.saturating_mul(1 << times.min(2));
            self.backing_off.insert(actor, (now + pause, times + 1));
        } else {
            self.backing_off.remove(&actor);
        }
    }
}

/// What the engine wants, kept up to date by what has changed.
#[derive(Default)]
struct Plans {
    planner: Option<Planner>,
    wanted: BTreeMap<ActorId, Move>,
    looked_at: Option<Instant>,
}

impl Plans {
    /// Whether to look although nobody has said that anything is new: loads change without a word, and some things are
    /// wanted once time has passed.
    fn is_due(&self, now: Instant) -> bool {
        let again_at_ms = self.planner.as_ref().and_then(Planner::again_at_ms);
        again_at_ms.is_some_and(|at_ms| at_ms <= now.0 / 1_000_000)
            || self.looked_at.is_none_or(|at| now.since(at) >= LOOK_INTERVAL)
    }

    fn look(&mut self, view: View, now: Instant) {
        self.looked_at = Some(now);
        let plan = match &mut self.planner {
            Some(planner) => planner.update(view),
            None => {
                let (planner, plan) = Planner::new(view);
                self.planner = Some(planner);
                plan
            }
        };
        let known =
            |actor: &ActorId| self.planner.as_ref().is_some_and(|planner| planner.view().actors.contains_key(actor));
        self.wanted.retain(|actor, _| !plan.decisions.contains_key(actor) && known(actor));
        self.wanted.extend(plan.moves.into_iter().map(|step| (step.actor, step)));
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
    let waited = match machine.carried().waited_us {
        0 => stopped.map_or(Duration::ZERO, |at| now.since(at)),
        waited_us => Duration::from_micros(waited_us),
    };
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
        Ask::Step(at, step) if at == node.id => Heard::Stepped(at, node.carry_out(step, Buf::empty()).await),
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

/// Has the last stages of a chain run elsewhere, or where the rest runs: nothing is carried over, for they hold no state.
/// A chain that is to be elsewhere and split moves first, and is split there.
async fn set_tail(node: &Arc<Inner>, row: Assignment, tail: Option<Tail>, why: Reason) -> Ended {
    let (actor, epoch) = (row.actor, row.epoch);
    let set = node.propose(GroupId::CONTROL, Command::SetTail { actor, epoch, tail }).await;
    let failed = set.is_err();
    let name = Name(actor);
    let what = match (set, tail) {
        (Ok(_), Some(Tail { cut, node })) => {
            format!("{name} runs on {} and from stage {} on on {node}: {why}", row.node, cut + 1)
        }
        (Ok(_), None) => format!("{name} runs on {} as a whole: {why}", row.node),
        (Err(error), _) => format!("{name} was not split or joined: {error}"),
    };
    node.events.note(node.env.clock.wall(), &what);
    Ended { actor, moved: !failed, failed }
}

/// An actor of this node that has waited long for the end of its move: the move is aborted, unless it is committed.
fn settle_frozen(node: &Arc<Inner>) {
    for (actor, epoch, id) in node.agent.overdue(node.env.clock.now()) {
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

const TICK: Duration = Duration::from_millis(100);
/// Between two looks at the whole mesh without news.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Moves and first places at once.
const MOVES_MAX: usize = 16;
/// A move that failed is tried again after this, and after twice as long each time, up to four times: what is wanted is
/// there a few seconds after it can be.
const BACK_OFF_MIN: Duration = Duration::from_secs(1);
/// One step at a node: longest, to carry over a large state while the actor goes on.
const STEP_BUDGET: Duration = Duration::from_secs(120);
