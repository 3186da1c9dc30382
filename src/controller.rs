//! What a node does for the mesh as a whole: it makes itself known, and where it leads a metadata group it takes
//! members in and keeps the layout up to date.
//!
//! Every step is a look at what is, and one proposal towards what should be: two controllers, or one that is cut short,
//! do no harm.

use core::time::Duration;
use std::sync::Arc;

use mesh_core::{
    Answer, Buf, Error, ErrorKind, Lane, Op, Outcome, Principal,
    envelope::Envelope,
    id::{ActorId, Epoch, GroupId, NodeId},
    meta::{Command, ControlView},
    op::{GroupReport, NodeOp},
    time::Instant,
};
use mesh_placement::steward::{
    layouts::Layouts,
    members::{Members, Step},
    renewal::{self, Renewal},
};

use crate::node::{Inner, lock};

/// Works until the node stops.
pub(crate) async fn run(node: Arc<Inner>) {
    let stopped = node.stopped();
    tokio::pin!(stopped);
    let mut control = node.metadata.watch_control();
    let mut state = State::default();
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = &mut stopped => return,
            _ = ticks.tick() => {}
            changed = control.changed() => if changed.is_err() { return },
        }
        let view = control.borrow_and_update().clone();
        let step = async {
            if let Err(error) = state.step(&node, &view).await {
                // The next tick looks again; an error that stays is worth a look at this level.
                tracing::debug!(node = %node.id, %error, "a controller's step failed");
            }
        };
        tokio::select! {
            () = &mut stopped => return,
            () = step => {}
        }
    }
}

#[derive(Default)]
struct State {
    layouts: Layouts,
    /// The renewal of damaged metadata that is under way.
    renewing: Option<tokio::task::JoinHandle<Result<(), Error>>>,
    /// When a renewal that failed is tried again.
    renew_at: Option<Instant>,
}

impl State {
    /// Has damaged metadata rebuilt, and says once why they are not.
    async fn see_to_damage(&mut self, node: &Arc<Inner>) {
        if self.renewing.as_ref().is_some_and(|renewing| !renewing.is_finished()) {
            return;
        }
        let renewed = match self.renewing.take() {
            Some(renewing) => {
                renewing.await.unwrap_or_else(|error| Err(Error::bug("a renewal's task failed").with("why", error)))
            }
            None => Ok(()),
        };
        let now = node.env.clock.now();
        let looked = match renewed {
            Ok(()) if self.renew_at.is_some_and(|at| now < at) => return,
            Ok(()) => tokio::time::timeout(STEP_MAX, may_renew(node)).await.unwrap_or(Ok(false)),
            Err(error) => {
                self.renew_at = Some(now + RENEW_PAUSE);
                Err(error)
            }
        };
        match looked {
            Ok(false) => {
                if !node.metadata.is_damaged() {
                    *lock(&node.unrenewed) = None;
                }
            }
            Ok(true) => {
                tracing::warn!(node = %node.id, "damaged metadata are set aside and rebuilt from the other nodes'");
                let metadata = node.metadata.clone();
                // It is not to be cut short: a store that is half renewed serves nobody.
                self.renewing = Some(tokio::spawn(async move { metadata.renew().await }));
            }
            Err(error) => {
                let mut known = lock(&node.unrenewed);
                if known.as_ref().map(ToString::to_string) != Some(error.to_string()) {
                    tracing::error!(node = %node.id, %error, "this node's metadata are damaged, and are not rebuilt");
                }
                *known = Some(error);
            }
        }
    }

    async fn step(&mut self, node: &Arc<Inner>, view: &ControlView) -> Result<(), Error> {
        let namespaces = if node.has_namespaces() { view.namespaces } else { 0 };
        for group in 1..=u64::from(namespaces) {
            bounded(node, "a metadata group", node.metadata.ensure_group(GroupId(group))).await;
        }
        // Each for itself: what fails for one group must not hold up the others.
        bounded(node, "an announcement", make_known(node, view)).await;
        self.see_to_damage(node).await;
        for GroupReport { group, leader, .. } in node.metadata.status() {
            if leader == Some(node.id) {
                bounded(node, "a new member", take_in(node, view, group)).await;
            }
        }
        if node.metadata.is_leader(GroupId::CONTROL) {
            self.lay_out(node, view).await?;
        }
        Ok(())
    }

    /// Makes a new layout where one is due.
    async fn lay_out(&mut self, node: &Arc<Inner>, view: &ControlView) -> Result<(), Error> {
        let Some(layout) = self.layouts.look(view, node.env.clock.now())? else { return Ok(()) };
        let (id, drives, code) = (layout.id, layout.domains.len(), layout.code);
        match node.propose(GroupId::CONTROL, Command::PutLayout(Arc::new(layout))).await {
            // Another leader was first.
            Err(error) if error.kind() == ErrorKind::Conflict => Ok(()),
            Err(error) => Err(error),
            Ok(_) => {
                tracing::info!(layout = %id, drives, %code, "a new layout");
                Ok(())
            }
        }
    }
}

/// Carries out one step within a bound; the next tick looks again.
async fn bounded(node: &Arc<Inner>, what: &str, step: impl Future<Output = Result<(), Error>>) {
    match tokio::time::timeout(STEP_MAX, step).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(node = %node.id, %what, %error, "a controller's step failed"),
        Err(_) => tracing::info!(node = %node.id, %what, "a controller's step takes long and is tried again"),
    }
}

/// Makes this node known, and keeps and tells why the mesh does not take it in, if it has judged so: only a person can
/// change that, and until then it is tried again.
async fn make_known(node: &Arc<Inner>, view: &ControlView) -> Result<(), Error> {
    let refused = match announce(node, view).await {
        Ok(()) => None,
        Err(error) if is_judged(&error) => Some(error),
        Err(error) => return Err(error),
    };
    let text = |error: &Option<Error>| error.as_ref().map(ToString::to_string);
    let mut known = lock(&node.refused);
    if let Some(error) = refused.as_ref().filter(|_| text(&refused) != text(&known)) {
        tracing::warn!(node = %node.id, %error, "the mesh does not take this node in");
    }
    *known = refused;
    Ok(())
}

/// The group has looked at it, and whoever asks again will be told the same.
fn is_judged(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Invalid | ErrorKind::Denied | ErrorKind::Conflict | ErrorKind::QuotaExceeded)
}

/// Makes this node known to the control group, through any member that answers.
async fn announce(node: &Arc<Inner>, view: &ControlView) -> Result<(), Error> {
    let info = node.info();
    if view
        .nodes
        .get(&node.id)
        .is_some_and(|known| (known.incarnation, &known.address) == (info.incarnation, &info.address))
    {
        return Ok(());
    }
    let command = Arc::new(Command::PutNode(info));
    let own = node.metadata.replica_id(GroupId::CONTROL);
    if own.is_some_and(|own| node.metadata.members(GroupId::CONTROL).0.contains(&own)) {
        return node.propose(GroupId::CONTROL, (*command).clone()).await.map(drop);
    }
    // Who is no member yet may know one of them only: that one asks whoever leads.
    let mut refused = None;
    for member in node.alive().into_iter().filter(|member| *member != node.id) {
        let relayed = NodeOp::RelayPropose { group: GroupId::CONTROL, command: command.clone() };
        let outcome = ask_node(node, member, Op::Node(Box::new(relayed)), ASK_BUDGET).await;
        match outcome.map(|response| response.answer) {
            Ok(Answer::Meta(_)) => return Ok(()),
            Ok(_) => return Err(Error::bug("an announcement was answered with something else")),
            // No other member would say anything else.
            Err(error) if is_judged(&error) => return Err(error),
            Err(error) => refused = Some(error),
        }
    }
    Err(refused.unwrap_or_else(|| Error::new(ErrorKind::Unreachable, "no member of the mesh answers yet")))
}

pub(crate) async fn ask_node(node: &Arc<Inner>, to: NodeId, op: Op, budget: Duration) -> Outcome {
    let envelope =
        Envelope::request(ActorId::NODE, Epoch(0), op, Buf::empty(), Principal::System, Lane::Control, budget);
    let (answer, outcome) = tokio::sync::oneshot::channel();
    let guard = node.link.send(to, envelope, Box::new(move |outcome| drop(answer.send(outcome))));
    let outcome = outcome.await.unwrap_or_else(|_| Err(Error::new(ErrorKind::LinkLost, "the link ended unasked")));
    guard.forget();
    outcome
}

/// Sees to the members of a group that this node leads.
async fn take_in(node: &Arc<Inner>, view: &ControlView, group: GroupId) -> Result<(), Error> {
    for _ in 0..STEPS_MAX {
        let own = node.groups().into_iter().find(|own| own.report.group == group);
        let Some(step) = own.and_then(|own| Members::of(&own, view, &node.sight()).step()) else { break };
        change(node, group, step).await?;
    }
    Ok(())
}

async fn change(node: &Inner, group: GroupId, step: Step) -> Result<(), Error> {
    match step {
        Step::Follow(replica) => {
            tracing::info!(%group, %replica, "a replica follows now");
            node.metadata.add_learner(group, replica).await
        }
        Step::Vote(voters) => {
            node.metadata.change_voters(group, &voters).await?;
            let said: Vec<String> = voters.iter().map(ToString::to_string).collect();
            tracing::info!(%group, voters = said.join(" "), "the voters of a metadata group changed");
            Ok(())
        }
        Step::Forget(replica) => {
            tracing::info!(%group, %replica, "a replica that is no more is forgotten");
            node.metadata.remove_learner(group, replica).await
        }
    }
}

/// Whether damaged metadata may be set aside now.
async fn may_renew(node: &Arc<Inner>) -> Result<bool, Error> {
    if !node.metadata.is_damaged() {
        return Ok(false);
    }
    node.metadata.expect_room_aside()?;
    match renewal::look(&node.groups(), &node.metadata.kept(), &node.sight())? {
        Renewal::Begin => Ok(true),
        Renewal::HandOver(group, next) => {
            node.metadata.transfer_leader(group, next).await?;
            Ok(false)
        }
    }
}

const TICK: Duration = Duration::from_millis(100);
/// Changes of one group's members at one look.
const STEPS_MAX: usize = 16;
/// Before a renewal that failed is tried again: what hinders it, a person has to see to.
const RENEW_PAUSE: Duration = Duration::from_secs(30);
const STEP_MAX: Duration = Duration::from_secs(10);
const ASK_BUDGET: Duration = Duration::from_secs(5);
