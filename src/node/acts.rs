//! Carrying out what the steward wants, to the letter.

use core::time::Duration;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use mesh_core::{
    Answer, Buf, Error, ErrorKind, Lane, Op, Outcome, Principal,
    assignment::MoveId,
    envelope::Envelope,
    happened::Happened,
    id::{ActorId, Epoch, GroupId, NodeId},
    meta::{Level, MeshCommand},
    op::{Beat, GroupReport, Moved, NodeOp},
};
use mesh_dpu_runtime::metadata::RaftMetadata;
use mesh_placement::{
    migration::{Ask, Heard},
    steward::{
        Act, Event, Group, is_judged,
        layouts::Draft,
        members::Step,
        outs::Put,
        plans::{Studied, Study},
    },
    transfer,
};
use tokio::sync::Semaphore;

use super::{Inner, chains, clearing, lock, media};

/// This node's replicas of metadata groups.
pub(super) fn groups(metadata: &RaftMetadata) -> Vec<Group> {
    let group = |report: GroupReport| {
        let (voters, learners) = metadata.members(report.group);
        let leads = metadata.is_leader(report.group);
        let caught_up = if leads { metadata.caught_up(report.group) } else { Default::default() };
        let unfinished = leads.then(|| metadata.unfinished(report.group)).flatten();
        Group { report, leads, voters, learners, caught_up, unfinished }
    };
    metadata.status().into_iter().map(group).collect()
}

/// What is done at once.
pub(super) fn at_once(node: &Arc<Inner>, act: Act) {
    match act {
        Act::Beat(to, said) => beat(node, to, said),
        Act::Locate(peer, at) => node.link.set_peer(peer, at),
        Act::Restarted(peer, start) => node.link.restarted(peer, start),
        Act::Up(peer) => node.host.resume(peer),
        Act::Down(peer) => {
            tracing::warn!(node = %node.id, %peer, "a peer is down");
            node.host.abandon(peer);
        }
        Act::Disown(replica, why) => node.metadata.disown(replica, &why),
        Act::TurnAway(peer, address, verdict) => {
            tracing::warn!(node = %node.id, %peer, address, ?verdict, "a beat does not count");
        }
        Act::Forget(actor) => node.agent.forget(actor),
        Act::Trouble(actor, error) => tracing::error!(node = %node.id, %actor, %error, "an actor cannot be hosted"),
        Act::Settled(actor, epoch, id) => settled(node, actor, epoch, id),
        Act::Note(happened @ (Happened::Placed(_) | Happened::NotPlaced { .. })) => tracing::debug!("{happened}"),
        Act::Note(happened) => node.note(happened),
        Act::Refused(error) => tracing::warn!(node = %node.id, %error, "the mesh does not take this node in"),
        Act::Expelled(error) => {
            match error.message() {
                mesh_core::topology::IS_OUT => {
                    tracing::warn!(node = %node.id, %error, "the mesh has taken this node out")
                }
                _ => tracing::error!(node = %node.id, %error, "this node serves nobody any more"),
            }
            *lock(&node.out) = Some(error);
        }
        Act::Back => {
            tracing::warn!(node = %node.id, "this node serves again: nobody leads the mesh any more who had left it behind");
            *lock(&node.out) = None;
        }
        Act::Complain(what, error) => tracing::error!(node = %node.id, %error, "{what}"),
        Act::Warn(what, error) => tracing::warn!(node = %node.id, %error, "{what}"),
        other => tracing::error!(node = %node.id, act = ?other, "this act takes time, and was not done"),
    }
}

/// What takes time, and how long it may take.
pub(super) fn keyed(node: Arc<Inner>, act: Act) -> (BoxFuture<'static, Result<(), Error>>, Option<Duration>) {
    let bound = match act {
        // They are not to be cut short: a store that is half renewed serves nobody, and a replica that is half removed must not
        // be opened.
        // What is done to an actor has its own bounds, and only that actor waits for it.
        Act::Renew | Act::GoOn | Act::Retire(_) | Act::Actor(..) => None,
        Act::LayOut(_) => Some(DESK_MAX),
        _ => Some(STEP_MAX),
    };
    (Box::pin(async move { carry_out(&node, act).await }), bound)
}

pub(super) fn too_long() -> Error {
    Error::new(ErrorKind::Timeout, "it takes long, and is tried again")
}

async fn carry_out(node: &Arc<Inner>, act: Act) -> Result<(), Error> {
    let what = act.key();
    let outcome = match act {
        Act::Stat => {
            node.pool.trim();
            let drives = media::reports(node).await;
            node.tell(Event::Drives(drives));
            Ok(())
        }
        Act::Peers { up, down } => {
            for peer in down {
                node.metadata.peer_is_down(peer).await;
            }
            for peer in up {
                node.metadata.peer_is_up(peer).await;
            }
            Ok(())
        }
        Act::Announce(members) => announce(node, members).await,
        Act::Forsake(group, leader, term) => node.metadata.forsake(group, leader, term).await,
        Act::Elect(group) => {
            tracing::info!(node = %node.id, %group, "no leader answers; calling an election");
            node.metadata.elect(group).await
        }
        Act::Ensure(group) => node.metadata.ensure_group(group).await,
        Act::Retire(group) => node.metadata.retire(group).await,
        Act::Confirm => node.metadata.confirm(GroupId::CONTROL).await,
        Act::Members(group, step) => change(node, group, step).await,
        Act::LayOut(draft) => lay_out(node, *draft).await,
        Act::RaiseLevel(level) => raise_level(node, level).await,
        Act::PutOut(put) => put_out(node, put).await,
        Act::Fence(command) => node.propose(command).await.map(drop),
        Act::Clear(tenant) => clearing::clear(node, tenant).await,
        Act::Renew => renew(node).await,
        Act::GoOn => go_on(node).await,
        Act::HandOver(group, next) => node.metadata.transfer_leader(group, next).await,
        Act::Actor(actor, deeds) => chains::carry_out(node, actor, deeds).await,
        Act::TakeBack(actor, epoch, id) | Act::Settle(actor, epoch, id) => {
            node.propose(MeshCommand::AbortMove { actor, epoch, id }).await.map(drop)
        }
        other => Err(Error::bug("an act without a key was begun as one with").with("act", format!("{other:?}"))),
    };
    if let Err(error) = &outcome {
        // It is looked at again; an error that stays is worth a look at this level.
        tracing::debug!(node = %node.id, ?what, %error, "an act failed");
    }
    outcome
}

/// Works something out beside everything else, once the one before has come to its end: one that does not end is not joined
/// by others.
async fn at_desk<T: Send + 'static>(
    node: &Inner,
    desk: &Arc<Semaphore>,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Error> {
    let place = desk.clone().acquire_owned().await;
    let place = place.map_err(|error| Error::bug("nothing is worked out any more").caused_by(error))?;
    let worked = node.env.workers.aside(move || {
        let found = work();
        drop(place);
        found
    });
    worked.await
}

/// Makes a plan.
///
/// # Errors
/// `Timeout` after [`DESK_MAX`].
pub(super) async fn plan(node: &Inner, study: Study) -> Result<Studied, Error> {
    let planned = tokio::time::timeout(DESK_MAX, at_desk(node, &node.desk, move || study.carry_out())).await;
    planned.unwrap_or_else(|_| Err(too_long()))
}

fn beat(node: &Arc<Inner>, to: NodeId, said: Arc<Beat>) {
    let op = Op::Node(Box::new(NodeOp::Beat(said)));
    let budget = node.config.timing.silence.0;
    let envelope =
        Envelope::request(ActorId::NODE, Epoch(0), op, Buf::empty(), Principal::System, Lane::Control, budget);
    let (inner, asked_at) = (Arc::downgrade(node), node.env.clock.now());
    let done = Box::new(move |outcome: Outcome| {
        let Some(inner) = inner.upgrade() else { return };
        match outcome.map(|response| response.answer) {
            Ok(Answer::Beat(beat)) if beat.node == to => inner.tell(Event::Heard(beat, inner.env.clock.now())),
            Ok(_) => tracing::warn!(peer = %to, "a beat was answered with something else"),
            Err(error) => {
                tracing::trace!(node = %inner.id, peer = %to, %error, "a beat failed");
                inner.tell(Event::Unanswered(to, asked_at, error.kind()));
            }
        }
    });
    node.link.send(to, envelope, done).forget();
}

fn settled(node: &Inner, actor: ActorId, epoch: Epoch, id: MoveId) {
    // Not if it is frozen for a later move by now.
    if !node.agent.take_back(actor, id) {
        return;
    }
    match node.host.thaw(actor, epoch) {
        Ok(()) => tracing::warn!(%actor, %id, "a move did not end in time and was taken back"),
        Err(error) => tracing::debug!(%actor, %error, "nothing was left to be thawed"),
    }
}

/// Makes this node known to the control group: by itself where it votes, else through a member that answers.
async fn announce(node: &Arc<Inner>, members: Vec<NodeId>) -> Result<(), Error> {
    let command = MeshCommand::PutNode(node.info_for_all());
    if members.is_empty() {
        return node.propose(command).await.map(drop);
    }
    let command = Arc::new(command.into());
    let (mut refused, mut judged) = (None, 0);
    for member in members {
        let relayed = NodeOp::RelayPropose(Arc::clone(&command));
        let outcome = ask_node(node, member, Op::Node(Box::new(relayed)), ASK_BUDGET).await;
        match outcome.map(|response| response.answer) {
            Ok(Answer::Meta(_)) => return Ok(()),
            Ok(_) => return Err(Error::bug("an announcement was answered with something else")),
            // It may have met a copy of this node first, and others this one.
            Err(error) if is_judged(&error) => {
                judged += 1;
                refused = Some(error);
                if judged == JUDGES_MAX {
                    break;
                }
            }
            Err(error) if judged == 0 => refused = Some(error),
            Err(_) => {}
        }
    }
    Err(refused.unwrap_or_else(|| Error::new(ErrorKind::Unreachable, "no member of the mesh answers yet")))
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

async fn lay_out(node: &Inner, draft: Draft) -> Result<(), Error> {
    let layout = at_desk(node, &node.drawing_board, move || draft.carry_out()).await??;
    let (id, drives, code) = (layout.id, layout.domains.len(), layout.code);
    match node.decide(MeshCommand::PutLayout(layout)).await {
        // Another leader was first.
        Err(error) if error.kind() == ErrorKind::Conflict => Ok(()),
        Err(error) => Err(error),
        Ok(_) => {
            tracing::info!(layout = %id, drives, %code, "a new layout");
            Ok(())
        }
    }
}

async fn put_out(node: &Inner, put: Put) -> Result<(), Error> {
    let Put { drives, out } = put;
    match node.decide(MeshCommand::PutOut { drives: drives.clone(), out }).await {
        // Another leader saw others go first.
        Err(error) if error.kind() == ErrorKind::Conflict => return Ok(()),
        decided => drop(decided?),
    }
    node.note(if out { Happened::DrivesOut { drives } } else { Happened::DrivesBack { drives } });
    Ok(())
}

async fn raise_level(node: &Inner, level: Level) -> Result<(), Error> {
    match node.decide(MeshCommand::RaiseLevel(level)).await {
        // A node of an older build was first.
        Err(error) if error.kind() == ErrorKind::Conflict => Ok(()),
        Err(error) => Err(error),
        Ok(_) => {
            tracing::info!(%level, "every node speaks this level, and the mesh does from now on");
            Ok(())
        }
    }
}

async fn renew(node: &Arc<Inner>) -> Result<(), Error> {
    tracing::warn!(node = %node.id, "damaged metadata are set aside and rebuilt from the other nodes'");
    let metadata = node.metadata.clone();
    // In a task that outlives this one's end.
    let renewing = tokio::spawn(async move { metadata.renew().await });
    renewing.await.unwrap_or_else(|error| Err(Error::bug("a renewal's task failed").with("why", error)))
}

/// In a task that outlives this one's end: a replica that is half of another serves nobody.
async fn go_on(node: &Arc<Inner>) -> Result<(), Error> {
    let metadata = node.metadata.clone();
    let going_on = tokio::spawn(async move { metadata.go_on().await });
    going_on.await.unwrap_or_else(|error| Err(Error::bug("a replica's task failed").with("why", error)))
}

/// Does what a move wants.
pub(super) async fn fulfil(node: &Arc<Inner>, ask: Ask) -> Heard {
    match ask {
        Ask::Propose(command) => {
            // A move that was begun is ended by whoever carries it out; anything else is decided by who leads.
            let ends = matches!(command, MeshCommand::CommitMove { .. } | MeshCommand::AbortMove { .. });
            let answer = if ends { node.propose(command).await } else { node.decide(command).await };
            Heard::Proposed(answer.map(|answer| (*answer).clone()))
        }
        Ask::Wait(pause) => {
            tokio::time::sleep(pause).await;
            Heard::Due
        }
        Ask::Step(at, step) if at == node.id => Heard::Stepped(at, node.carry_out(step, Buf::empty()).await),
        Ask::Step(at, step) => {
            let asked = ask_node(node, at, Op::Node(Box::new(NodeOp::Move(step))), transfer::STEP_MAX);
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
    let mut outlook = node.outlook.subscribe();
    if outlook.wait_for(|known| !known.is_up(peer)).await.is_err() {
        tracing::debug!(%peer, "nobody looks any more whether a node is there: this one is gone");
    }
}

/// Asks something of a node itself.
pub(crate) async fn ask_node(node: &Arc<Inner>, to: NodeId, op: Op, budget: Duration) -> Outcome {
    ask_node_as(node, Principal::System, to, op, budget).await
}

/// As [`ask_node`], in the name of whoever has asked this node.
pub(crate) async fn ask_node_as(
    node: &Arc<Inner>,
    principal: Principal,
    to: NodeId,
    op: Op,
    budget: Duration,
) -> Outcome {
    let envelope = Envelope::request(ActorId::NODE, Epoch(0), op, Buf::empty(), principal, Lane::Control, budget);
    let (answer, outcome) = tokio::sync::oneshot::channel();
    let guard = node.link.send(to, envelope, Box::new(move |outcome| drop(answer.send(outcome))));
    let outcome = outcome.await.unwrap_or_else(|_| Err(Error::new(ErrorKind::LinkLost, "the link ended unasked")));
    guard.forget();
    outcome
}

/// What takes longer is given up, and tried again if it is still wanted.
const STEP_MAX: Duration = Duration::from_secs(10);
/// A plan or a layout that takes longer is given up, and made anew.
const DESK_MAX: Duration = Duration::from_secs(60);
const ASK_BUDGET: Duration = Duration::from_secs(5);
/// Members that are asked whether they take this node in, where each refuses for a reason that a person has to see to.
const JUDGES_MAX: usize = 3;
