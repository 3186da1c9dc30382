//! Metadata groups that go on without a majority of those that kept them, and what a group has, read for a backup.
//!
//! Any node can be asked, for there may be no leader to ask. It hears what all hosts have, has
//! [`mesh_placement::rescue::plan`] judge that, and, once it is accepted, tells the survivors one after the other: the control
//! group first, which puts those that are lost out, so that nobody listens to them any more. What is cut short is done by asking
//! again: the groups that go on by then are left alone.

use core::time::Duration;
use std::{collections::BTreeMap, sync::Arc};

use futures_util::future::join_all;
use mesh_core::{
    Answer, Error, ErrorKind, Op, Outcome, Response,
    audit::{By, Deed},
    happened::Happened,
    id::{GroupId, NodeId, ReplicaId},
    meta::MeshCommand,
    op::{AdminAnswer, AdminOp, BackupAt, Fate, Force, NodeOp, NodeReplicas, Recovery, RecoveryPlan},
    port::Role,
    time::Instant,
    topology::NodeKind,
};
use mesh_placement::rescue;

use crate::{
    admin::in_the_name_of,
    env::Env,
    node::{Inner, ask_node, ask_node_as},
};

/// Says what it takes for all groups to go on; and has them, if it is `accepted` what is lost for that.
///
/// # Errors
/// `Conflict` if nothing has to be done, more would be lost than was accepted, or something need not be: see
/// [`rescue::plan`]; `NotFound` without any replica of the control group; `Unsupported` if a node runs a build that cannot do
/// this.
pub(crate) async fn recover(
    node: &Arc<Inner>,
    by: By,
    accepted: Option<RecoveryPlan>,
    deadline: Instant,
) -> Result<RecoveryPlan, Error> {
    let plan = look(node).await?;
    let Some(accepted) = accepted else { return Ok(plan) };
    if plan.is_idle() {
        let what = "every metadata group has a majority that answers: nothing has to be accepted as lost";
        return Err(Error::new(ErrorKind::Conflict, what));
    }
    if !plan.is_within(&accepted) {
        let what = "more would be lost than was accepted: look again";
        return Err(Error::new(ErrorKind::Conflict, what).with("now", plan));
    }
    tracing::warn!(node = %node.id, lost = ?plan.lost, "metadata groups go on without those who kept them: somebody has accepted what is lost");
    let is_forced = |group| plan.groups.iter().any(|(one, fate)| *one == group && !fate.goes_on());
    if is_forced(GroupId::CONTROL) {
        have_go_on(node, &by, GroupId::CONTROL, &plan, deadline).await?;
    }
    put_out(node, &plan.lost, deadline).await?;
    for (group, _) in plan.groups.iter().filter(|(group, fate)| *group != GroupId::CONTROL && !fate.goes_on()) {
        have_go_on(node, &by, *group, &plan, deadline).await?;
    }
    Ok(plan)
}

/// Asks every node for its replicas.
async fn look(node: &Arc<Inner>) -> Result<RecoveryPlan, Error> {
    let (control, known) = (node.metadata.control(), node.outlook());
    let heard = join_all(control.nodes.keys().map(|peer| async { (*peer, replicas_of(node, *peer).await) })).await;
    let mut reports = BTreeMap::new();
    for (peer, said) in heard {
        match said {
            Ok(said) => {
                expect_same_time(node, peer, &said)?;
                reports.insert(peer, said);
            }
            // It is there, and would be taken for lost.
            Err(error) if is_there(error.kind()) || known.is_up(peer) => {
                let what = "a node is there, and does not say what it has: upgrade it, mend what it says, or stop it, and ask again";
                return Err(Error::new(error.kind(), what).with("node", peer).caused_by(error));
            }
            Err(error) => tracing::info!(node = %peer, %error, "a node does not answer"),
        }
    }
    rescue::plan(&control, &reports)
}

/// What a recovery gives out goes by the time, and for good: it is that of more than one clock.
fn expect_same_time(node: &Arc<Inner>, peer: NodeId, said: &NodeReplicas) -> Result<(), Error> {
    let (here, there) = (node.env.clock.wall(), said.at);
    if there.0 == 0 || Duration::from_millis(here.0.abs_diff(there.0)) <= CLOCKS_DIFFER_MAX {
        return Ok(());
    }
    let what = "the clock of a node says another time than that of this one: set both right, and ask again";
    Err(Error::new(ErrorKind::Conflict, what).with("node", peer).with("its_ms", there.0).with("own_ms", here.0))
}

/// Whether somebody answered.
const fn is_there(kind: ErrorKind) -> bool {
    !matches!(kind, ErrorKind::Unreachable | ErrorKind::LinkLost | ErrorKind::Timeout)
}

async fn replicas_of(node: &Arc<Inner>, peer: NodeId) -> Result<NodeReplicas, Error> {
    if peer == node.id {
        return Ok(own(node).await);
    }
    match told(ask_node(node, peer, order(AdminOp::Replicas), LOOK_BUDGET).await)? {
        AdminAnswer::Replicas(replicas) => Ok(replicas),
        _ => Err(Error::bug("a node was asked for its replicas and said something else")),
    }
}

/// What this node says of the mesh and of its replicas.
async fn own(node: &Arc<Inner>) -> NodeReplicas {
    let replicas = node.metadata.replica_reports().await;
    let (control, known) = (node.metadata.control(), node.outlook());
    let hosts = control.nodes.values().filter(|info| info.kind == NodeKind::Host).map(|info| info.id).collect();
    let sees = control.nodes.keys().copied().filter(|peer| known.is_up(*peer)).collect();
    NodeReplicas { hosts, sees, is_unusable: node.metadata.is_unusable(), replicas, at: node.env.clock.wall() }
}

/// Has a group go on as it is planned, and waits until it has a leader.
async fn have_go_on(
    node: &Arc<Inner>,
    by: &By,
    group: GroupId,
    plan: &RecoveryPlan,
    deadline: Instant,
) -> Result<(), Error> {
    let fate = plan.groups.iter().find(|(one, _)| *one == group).map(|(_, fate)| *fate);
    let (on, survivor) = match fate {
        Some(Fate::Survives { on, replica, end }) => (on, Some((replica, end))),
        Some(Fate::Gone { on }) => (on, None),
        Some(Fate::Led { .. } | Fate::Elects) | None => return Ok(()),
    };
    let lost = if group == GroupId::CONTROL { plan.lost.clone() } else { Vec::new() };
    let recovery = Recovery { by: Some(by.clone()), ..recovery(&node.env, lost)? };
    let force = Force { group, survivor, recovery };
    let replica = if on == node.id {
        force_here(node, force).await?
    } else {
        forced(told(ask_node(node, on, order(AdminOp::Force(force)), left(node, deadline)?).await)?)?
    };
    tracing::warn!(%group, node = %on, %replica, "a metadata group goes on from one replica");
    loop {
        let led = match on == node.id {
            true => node.metadata.is_leader(group),
            false => replicas_of(node, on).await?.replicas.iter().any(|said| said.group == group && said.leads),
        };
        if led {
            return Ok(());
        }
        left(node, deadline)?;
        tokio::time::sleep(PAUSE).await;
    }
}

/// A recovery that is made now, for which these are lost.
///
/// # Errors
/// `Conflict` if this machine's clock cannot be right.
pub(crate) fn recovery(env: &Env, lost: Vec<NodeId>) -> Result<Recovery, Error> {
    let at = env.clock.wall();
    if !CLOCK.contains(&(at.0 / 1000)) {
        let what =
            "this machine's clock cannot be right: set it, and try again; what is given out from then on goes by it";
        return Err(Error::new(ErrorKind::Conflict, what).with("unix_seconds", at.0 / 1000));
    }
    let mut chance = [0; 8];
    (env.entropy)().fill(&mut chance);
    Ok(Recovery { lost, at, chance: u64::from_le_bytes(chance), restores: false, by: None })
}

fn forced(answer: AdminAnswer) -> Result<ReplicaId, Error> {
    match answer {
        AdminAnswer::Forced(replica) => Ok(replica),
        _ => Err(Error::bug("a node was told to have a replica go on and said something else")),
    }
}

/// Puts nodes out of the mesh that are lost, once the control group goes on, if they are not.
async fn put_out(node: &Arc<Inner>, lost: &[NodeId], deadline: Instant) -> Result<(), Error> {
    // Who only thinks that it leads never gets an answer.
    let deadline = deadline.min(node.env.clock.now() + PUT_OUT_MAX);
    for who in lost {
        loop {
            if node.metadata.control().is_out(*who) {
                break;
            }
            match node.propose(MeshCommand::RemoveNode { node: *who, empty: None }).await {
                Ok(_) => {
                    node.note(Happened::NodeRemoved { node: *who, lost: true });
                    break;
                }
                // Nobody knows it: it joined by what is lost.
                Err(error) if error.kind() == ErrorKind::NotFound => break,
                // Its actors are on their way elsewhere; or there is no leader yet.
                Err(error) if is_final(error.kind()) || deadline <= node.env.clock.now() => return Err(error),
                Err(error) => tracing::info!(node = %who, %error, "a node that is lost cannot be put out yet"),
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
    Ok(())
}

/// Whether trying again is of no use.
const fn is_final(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::Unsupported | ErrorKind::Invalid | ErrorKind::Denied | ErrorKind::Bug)
}

/// What one node tells another of its replicas.
///
/// # Errors
/// `Denied` to who is no node.
pub(crate) async fn of_node(node: &Arc<Inner>, from: &Role, op: AdminOp) -> Outcome {
    if !matches!(from, Role::Node(_)) {
        return Err(Error::new(ErrorKind::Denied, "nodes ask each other for this; say `mesh metadata recover`"));
    }
    let answer = match op {
        AdminOp::Replicas => AdminAnswer::Replicas(own(node).await),
        AdminOp::Force(force) => AdminAnswer::Forced(force_here(node, force).await?),
        _ => return Err(Error::bug("this is no business of replicas")),
    };
    Ok(Answer::Admin(Box::new(answer)).into())
}

/// In a task that outlives whoever waits for it: a replica that is half of another serves nobody.
async fn force_here(node: &Arc<Inner>, force: Force) -> Result<ReplicaId, Error> {
    let metadata = node.metadata.clone();
    let forcing = tokio::spawn(async move { metadata.force(force).await });
    forcing.await.unwrap_or_else(|error| Err(Error::bug("a replica's task failed").with("why", error)))
}

/// Reads some of a group for a backup: here, or where it is read or led.
pub(crate) async fn backup(
    node: &Arc<Inner>,
    (from, by): (&Role, By),
    group: GroupId,
    at: Option<BackupAt>,
    deadline: Instant,
) -> Outcome {
    let there = match at {
        Some(at) => at.node,
        None => leader(node, group)?,
    };
    if there == node.id || matches!(from, Role::Node(_)) {
        // Everybody's keys are in it, wrapped. Of the control group: no backup is without that.
        if at.is_none() && group == GroupId::CONTROL {
            node.have_noted(&by, Deed::BackedUp { group }).await?;
        }
        let (page, payload) = node.metadata.backup(group, at).await?;
        return Ok(Response { answer: Answer::Admin(Box::new(AdminAnswer::Backup(page))), payload });
    }
    let asked = order(AdminOp::Backup { group, from: at });
    ask_node_as(node, in_the_name_of(&by), there, asked, left(node, deadline)?).await
}

fn leader(node: &Arc<Inner>, group: GroupId) -> Result<NodeId, Error> {
    let own = node.metadata.status().into_iter().find(|said| said.group == group).and_then(|said| said.leader);
    let seen = || node.outlook().sight.led(group).and_then(|said| said.leader);
    own.or_else(seen).ok_or_else(|| {
        let what = "the metadata group has no leader that this node sees; try again in a moment";
        Error::new(ErrorKind::NotLeader, what).with("group", group)
    })
}

fn left(node: &Inner, deadline: Instant) -> Result<Duration, Error> {
    let now = node.env.clock.now();
    if deadline <= now {
        let what = "not all of it was done in time: ask again, and the rest is done";
        return Err(Error::new(ErrorKind::Timeout, what));
    }
    Ok(deadline.after(now))
}

fn order(op: AdminOp) -> Op {
    Op::Node(Box::new(NodeOp::Admin(Box::new(op))))
}

fn told(outcome: Outcome) -> Result<AdminAnswer, Error> {
    match outcome?.answer {
        Answer::Admin(answer) => Ok(*answer),
        _ => Err(Error::bug("an administrator's question was answered with something else")),
    }
}

/// Clocks that are right differ by less.
const CLOCKS_DIFFER_MAX: Duration = Duration::from_secs(120);
/// The seconds of Unix time that a clock may say: from 2026 to 2056, in which counters last.
const CLOCK: core::ops::Range<u64> = 1_767_225_600..2_713_910_400;
/// For a host to say what it has; who takes longer is not there.
const LOOK_BUDGET: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(100);
/// For the control group to put out all that are lost, and for their actors to go elsewhere before.
const PUT_OUT_MAX: Duration = Duration::from_secs(60);
