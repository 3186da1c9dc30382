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
    id::{ActorId, DriveId, Epoch, GroupId, LayoutId, NodeId, ReplicaId},
    meta::{Command, ControlView},
    op::{GroupReport, NodeOp, NodeReport},
    time::Instant,
    topology::{NodeInfo, NodeKind},
};
use mesh_placement::members::{Members, Step, Wanted};

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
    /// The drives that a new layout would be made of, and since when it is these.
    settling: Option<(Vec<DriveId>, Instant)>,
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

    /// Makes a new layout once the registered drives have been the same for a moment.
    async fn lay_out(&mut self, node: &Arc<Inner>, view: &ControlView) -> Result<(), Error> {
        let Some(code) = view.code else { return Ok(()) };
        let newest = view.layouts.values().next_back();
        let (infos, nodes): (Vec<_>, Vec<_>) =
            (view.drives.values().cloned().collect(), view.nodes.values().cloned().collect());
        // What a layout would leave out must not make one look outdated: it would be made anew for ever.
        let usable = mesh_placement::layout::usable(&infos, &nodes);
        let drives: Vec<DriveId> = usable.into_iter().map(|drive| drive.id).collect();
        let laid_out = newest.is_some_and(|layout| {
            drives.iter().all(|drive| layout.domains.contains_key(drive)) && layout.domains.len() == drives.len()
        });
        if laid_out || drives.len() < code.shards() {
            self.settling = None;
            return Ok(());
        }
        let now = node.env.clock.now();
        match &self.settling {
            Some((same, since)) if *same == drives => {
                // Every node that is a member has had time to register; the very first layout waits for them all.
                let quiet = if newest.is_none() && !everybody_has_drives(view) { SETTLE_FIRST } else { SETTLE };
                if now.since(*since) < quiet {
                    return Ok(());
                }
            }
            _ => {
                self.settling = Some((drives, now));
                return Ok(());
            }
        }
        let id = LayoutId(newest.map_or(1, |layout| layout.id.0 + 1));
        let layout = mesh_placement::layout::build(id, code, &infos, &nodes)?;
        match node.propose(GroupId::CONTROL, Command::PutLayout(Arc::new(layout))).await {
            Err(error) if error.kind() != ErrorKind::Conflict => Err(error),
            _ => {
                tracing::info!(layout = %id, drives = drives.len(), %code, "a new layout");
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

fn everybody_has_drives(view: &ControlView) -> bool {
    let hosts = view.nodes.values().filter(|info| info.kind == NodeKind::Host);
    hosts.into_iter().all(|info| view.drives.values().any(|drive| drive.node == info.id))
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

/// Sees to the members of a group that this node leads: living hosts follow, then vote; DPU nodes never vote, and follow
/// the control group alone, to know who runs what.
async fn take_in(node: &Arc<Inner>, view: &ControlView, group: GroupId) -> Result<(), Error> {
    for _ in 0..STEPS_MAX {
        let Some(step) = members(node, view, group).step() else { break };
        change(node, group, step).await?;
    }
    Ok(())
}

/// What this node, which leads the group, sees of its members.
fn members(node: &Inner, view: &ControlView, group: GroupId) -> Members {
    let alive = node.alive();
    let reports = node.reports();
    let (voters, learners) = node.metadata.members(group);
    let is_wanted = |info: &&NodeInfo| match info.kind {
        // Who votes is replaced also while it is emptied, if it has lost what it had.
        NodeKind::Host => !info.draining || voters.iter().any(|voter| voter.node() == info.id),
        NodeKind::Dpu => group == GroupId::CONTROL,
    };
    let wanted = view.nodes.values().filter(|info| alive.contains(&info.id)).filter(is_wanted);
    let nodes = wanted.filter_map(|info| {
        // What an earlier start of it said may be of files that are no more.
        let report = reports.get(&info.id).filter(|report| report.incarnation == info.incarnation)?;
        let said = report.groups.iter().find(|said| said.group == group && said.trouble.is_none());
        Some((info.id, Wanted { votes: info.kind == NodeKind::Host, replica: said.map(|said| said.replica) }))
    });
    let nodes = nodes.collect();
    Members { voters, learners, caught_up: node.metadata.caught_up(group), nodes }
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

/// Whether damaged metadata may be set aside: once a majority of each group's voters, without this node's, is there and
/// follows a leader among them. They have what was acknowledged, a new replica learns it from them, and they can take it
/// in. What this node leads itself it hands over first.
async fn may_renew(node: &Arc<Inner>) -> Result<bool, Error> {
    if !node.metadata.is_damaged() {
        return Ok(false);
    }
    node.metadata.expect_room_aside()?;
    let alive = node.alive();
    let reports = node.reports();
    let others: Vec<_> =
        reports.values().filter(|report| report.node != node.id && alive.contains(&report.node)).collect();
    // A store that has lost its mark does not know what it kept.
    let mut groups = node.metadata.kept();
    groups.extend(others.iter().flat_map(|report| report.groups.iter().map(|said| said.group)));
    for group in groups {
        if node.metadata.is_leader(group) {
            let caught_up = node.metadata.caught_up(group);
            let voters = node.metadata.members(group).0;
            let follows = |voter: &&ReplicaId| voter.node() != node.id && alive.contains(&voter.node());
            let next = voters.intersection(&caught_up).find(follows).ok_or_else(|| kept_as_it_is(group))?.node();
            node.metadata.transfer_leader(group, next).await?;
            return Ok(false);
        }
        let said = |report: &NodeReport| report.groups.iter().find(|said| said.group == group).cloned();
        let leader = others.iter().find_map(|report| said(report).filter(|said| said.leader == Some(report.node)));
        let leader = leader.ok_or_else(|| kept_as_it_is(group))?;
        let is_sound = |voter: &&ReplicaId| {
            let report = others.iter().find(|report| report.node == voter.node());
            report.and_then(|report| said(report)).is_some_and(|said| {
                let follows = said.leader == leader.leader && said.term == leader.term;
                said.replica == **voter && said.trouble.is_none() && follows
            })
        };
        if 2 * leader.voters.iter().filter(is_sound).count() <= leader.voters.len() {
            return Err(kept_as_it_is(group));
        }
    }
    Ok(true)
}

fn kept_as_it_is(group: GroupId) -> Error {
    Error::new(
        ErrorKind::NotLeader,
        "this node's metadata are damaged, and stay as they are: without them no majority of this group's voters is \
         there. Start the other nodes. A copy of this node's metadata folder that is older than what it has promised \
         does not help: what was acknowledged since would be lost",
    )
    .with("group", group)
}

const TICK: Duration = Duration::from_millis(100);
const SETTLE: Duration = Duration::from_millis(300);
const SETTLE_FIRST: Duration = Duration::from_millis(3000);
/// Changes of one group's members at one look.
const STEPS_MAX: usize = 16;
/// Before a renewal that failed is tried again: what hinders it, a person has to see to.
const RENEW_PAUSE: Duration = Duration::from_secs(30);
const STEP_MAX: Duration = Duration::from_secs(10);
const ASK_BUDGET: Duration = Duration::from_secs(5);
