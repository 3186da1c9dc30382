//! The placement loop: what the leader of the control group does so that every actor runs where it should. It gives each
//! data chain its first place, plans, and carries out what the plan says, live where the actor's node lives, and by a new
//! owner where it is lost.
//!
//! It remembers nothing that matters: a new leader plans from what the group holds, and takes back the moves that it finds
//! begun. Every node besides settles its own actors that wait too long for the end of a move.

use core::time::Duration;
use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use mesh_core::{
    Answer, Buf, Error, ErrorKind, Op, Outcome,
    assignment::Assignment,
    id::{ActorId, Epoch, GroupId, NodeId},
    meta::{Command, ControlView},
    op::{Moved, NodeOp},
    time::Instant,
    topology::NodeKind,
};
use mesh_placement::{
    migration::{Ask, Heard},
    steward::{
        driver::{Asks, Driver, Happened},
        peers::Presence,
        plans::Plans,
    },
};
use tokio::task::{self, JoinSet};

use crate::{
    controller::ask_node,
    node::{Inner, lock},
    view,
};

/// Works until the node stops.
pub(crate) async fn run(node: Arc<Inner>) {
    let stopped = node.stopped();
    tokio::pin!(stopped);
    let mut control = node.metadata.watch_control();
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut leader = Leader::default();
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
            Some(ended) = leader.tasks.join_next_with_id() => news = leader.ended(&node, ended),
        }
        news |= control.has_changed().unwrap_or(false);
        let view = control.borrow_and_update().clone();
        if node.metadata.is_leader(GroupId::CONTROL) {
            leader.step(&node, &view, news);
        } else {
            leader.driver.rest();
            leader.plans = Plans::default();
        }
    }
}

/// What the leader of the control group has under way: decided by [`Driver`] and [`Plans`], done by tasks.
#[derive(Default)]
struct Leader {
    driver: Driver,
    plans: Plans,
    /// Each ends with what its actor's move hears.
    tasks: JoinSet<Heard>,
    asked: BTreeMap<task::Id, (ActorId, Asked)>,
}

/// What a task was asked to do.
#[derive(Clone, Copy)]
enum Asked {
    Proposal,
    Step(NodeId),
    Wait,
}

impl Leader {
    fn step(&mut self, node: &Arc<Inner>, control: &Arc<ControlView>, news: bool) {
        let now = node.env.clock.now();
        let looks = news || self.plans.is_due(now);
        if !looks && self.plans.wanted().next().is_none() {
            return;
        }
        let sight = view::sight(node);
        if looks {
            self.give_places(node, control, now);
            self.plans.look(view::of(control, &sight), now);
        }
        // Begun by a leader that is gone.
        let asks = self.driver.clear(control.assignments.values(), now);
        self.carry_out(node, asks);
        // Those that back off, or wait for their turn, too.
        let mut asks = Asks::new();
        for step in self.plans.wanted() {
            let Some(row) = control.assignments.get(&step.actor) else { continue };
            let presence = node.presence(row.node);
            let stranded = presence == Presence::Up
                && step.to.head != row.node
                && crate::stages::is_stranded(control, &sight.reports, row);
            asks.extend(self.driver.go(row, step, presence, stranded, now));
        }
        self.carry_out(node, asks);
    }

    /// Every tenant has a chain for every ingress; it begins there.
    fn give_places(&mut self, node: &Arc<Inner>, view: &ControlView, now: Instant) {
        let hosts = view.nodes.values().filter(|info| info.kind == NodeKind::Host);
        for (tenant, host) in hosts.flat_map(|info| view.tenants.keys().map(|tenant| (*tenant, info.id))) {
            let actor = ActorId::data(tenant, host);
            if !view.assignments.contains_key(&actor) {
                let asks = self.driver.place(Assignment::new(actor, host, Epoch(1)), now);
                self.carry_out(node, asks);
            }
        }
    }

    fn carry_out(&mut self, node: &Arc<Inner>, asks: Asks) {
        for (actor, ask) in asks {
            let asked = match &ask {
                Ask::Propose(_) => Asked::Proposal,
                Ask::Step(at, _) => Asked::Step(*at),
                Ask::Wait(_) => Asked::Wait,
            };
            let node = node.clone();
            let task = self.tasks.spawn(async move { fulfil(&node, ask).await }).id();
            self.asked.insert(task, (actor, asked));
        }
    }

    /// Hears what a task came to. Says whether something has happened by it.
    fn ended(&mut self, node: &Arc<Inner>, ended: Result<(task::Id, Heard), task::JoinError>) -> bool {
        let task = ended.as_ref().map_or_else(task::JoinError::id, |(task, _)| *task);
        let Some((actor, asked)) = self.asked.remove(&task) else { return false };
        let heard = ended.map_or_else(
            |error| {
                let error = Error::bug("a step of a move ended without an answer").caused_by(error);
                match asked {
                    Asked::Proposal => Heard::Proposed(Err(error)),
                    Asked::Step(at) => Heard::Stepped(at, Err(error)),
                    Asked::Wait => Heard::Due,
                }
            },
            |(_, heard)| heard,
        );
        let now = node.env.clock.now();
        let Ok((asks, happened)) = catch_unwind(AssertUnwindSafe(|| self.driver.hear(actor, heard, now))) else {
            // It is taken back like the move of a leader that is gone; what still comes of it is not heard.
            tracing::error!(%actor, "the machine of a move broke down, and the move is taken back");
            self.driver.abandon(actor, now);
            self.asked.retain(|_, (whose, _)| *whose != actor);
            return true;
        };
        self.carry_out(node, asks);
        let news = happened.is_some();
        match happened {
            Some(happened @ (Happened::Placed(_) | Happened::NotPlaced { .. })) => tracing::debug!("{happened}"),
            Some(happened) => {
                if happened.has_moved() {
                    lock(&node.record).moved_at.insert(actor, now);
                }
                node.events.note(node.env.clock.wall(), happened);
            }
            None => {}
        }
        news
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
                    settling.agent.unsettled(actor, id);
                    settling.reconfigure();
                }
            }
        });
    }
}

const TICK: Duration = Duration::from_millis(100);
/// One step at a node: longest, to carry over a large state while the actor goes on.
const STEP_BUDGET: Duration = Duration::from_secs(120);
