//! What administrators ask of the placement engine, answered by the leader of the control group: the plan, also of a mesh
//! that is not, wishes, drains, stages of chains, lost drives, repair, who may use the mesh, and what has happened.

use std::{collections::BTreeSet, sync::Arc};

use mesh_core::{
    Answer, Error, ErrorKind, Op, Outcome, Principal,
    assignment::{Assignment, Scope, Wish},
    audit::{AuditAnswer, AuditOp, By},
    bluefield::Generation,
    happened::Happened,
    id::{ActorId, ActorName, GroupId, NodeId},
    meta::{ControlView, MeshCommand},
    op::{AdminAnswer, AdminOp, NodeOp, page},
    plan::Plan,
    port::Role,
    time::Instant,
    topology::NodeKind,
};
use mesh_placement::{Move, Reason, Spot, View};

use crate::node::{Inner, ask_node_as};

/// Who orders what somebody asks, for the audit log. A node that passes something on says whose it is.
pub(crate) fn who(node: &Inner, from: &Role, principal: &Principal) -> By {
    match (principal, from) {
        (Principal::Admin { name }, Role::Node(via)) => By::Administrator { name: name.to_string(), via: *via },
        (Principal::Admin { name }, Role::Client(_)) => By::Administrator { name: name.to_string(), via: node.id },
        (_, Role::Node(node) | Role::Dpu { node, .. }) => By::Node { node: *node },
        (_, Role::Client(_)) => By::Mesh,
    }
}

/// In whose name what somebody has ordered is passed on.
pub(crate) fn in_the_name_of(by: &By) -> Principal {
    match by {
        By::Administrator { name, .. } => Principal::Admin { name: name.as_str().into() },
        By::Node { .. } | By::Mesh => Principal::System,
    }
}

/// Answers an administrator. What was ordered is proposed by who has judged it, or not at all: see
/// [`Inner::order`].
pub(crate) async fn administer(node: &Arc<Inner>, from: &Role, by: By, op: AdminOp, deadline: Instant) -> Outcome {
    let op = match op {
        AdminOp::OpenDrive { medium, instead_of } if matches!(from, Role::Node(_)) => {
            let added = crate::node::media::add(node, medium, instead_of, deadline).await?;
            return Ok(Answer::Admin(Box::new(AdminAnswer::Added(added))).into());
        }
        AdminOp::OpenDrive { .. } => {
            let what = "nodes have each other open drives; say `mesh drive add`";
            return Err(Error::new(ErrorKind::Denied, what));
        }
        op @ (AdminOp::Replicas | AdminOp::Force(_)) => return crate::recover::of_node(node, from, op).await,
        // Where there may be no leader to ask.
        AdminOp::Recover { accept } => {
            let plan = crate::recover::recover(node, by, accept, deadline).await?;
            return Ok(Answer::Admin(Box::new(AdminAnswer::Recovery(plan))).into());
        }
        AdminOp::Backup { group, from: at } => {
            return crate::recover::backup(node, (from, by), group, at, deadline).await;
        }
        AdminOp::Figures { node: of } => {
            let figures = crate::node::watching::sums(node, (from, &by), of, deadline).await?;
            return Ok(Answer::Admin(Box::new(AdminAnswer::Figures(Box::new(figures)))).into());
        }
        // Of whoever leads, which any node asks.
        AdminOp::Audit(AuditOp::Page { from }) => {
            let page = crate::audit::page(node, from, deadline).await?;
            return Ok(Answer::Admin(Box::new(AdminAnswer::Audit(AuditAnswer::Page(page)))).into());
        }
        op => op,
    };
    if !node.metadata.is_leader(GroupId::CONTROL) {
        if matches!(from, Role::Node(_)) {
            // Who passed it on takes this one for the leader, and would get it back for ever.
            let not_here = "this node does not lead the control group, or not yet; try again";
            return Err(Error::new(ErrorKind::NotLeader, not_here).with("node", node.id));
        }
        return pass_on(node, &by, op, deadline).await;
    }
    let control = node.metadata.control();
    let answer = match op {
        AdminOp::Events { after } => {
            let (events, next) = node.events.after(after);
            AdminAnswer::Events { events, next }
        }
        AdminOp::Plan { with_dpus, without } => AdminAnswer::Plan(what_if(node, &control, with_dpus, without)?),
        AdminOp::PlanPage { with_dpus, without, after } => {
            page::plan(what_if(node, &control, with_dpus, without)?, after)
        }
        AdminOp::Wish { scope, wish } => {
            AdminAnswer::Moves(page::fitting(set_wish(node, &by, &control, (scope, wish)).await?))
        }
        AdminOp::Drain { node: drained, draining } => {
            AdminAnswer::Moves(page::fitting(drain(node, &by, &control, (drained, draining)).await?))
        }
        AdminOp::Invite { node: invited, invitation } => {
            node.order(&by, MeshCommand::Invite { node: invited, invitation }).await?;
            node.note(Happened::Invited(invited));
            AdminAnswer::Done
        }
        AdminOp::Repair => AdminAnswer::Repair(crate::repair::states(node, deadline).await),
        AdminOp::Scrub { drives, rate } => AdminAnswer::Scrub(crate::scrub::begin(node, drives, rate, deadline).await?),
        AdminOp::LoseDrive { drive } => AdminAnswer::Lost(crate::drives::lose(node, &by, drive).await?),
        AdminOp::DrainDrive { drive, draining } => {
            AdminAnswer::Drained(crate::drives::drain(node, &by, drive, draining).await?)
        }
        AdminOp::RemoveDrive { drive } => {
            crate::drives::remove(node, &by, drive, deadline).await?;
            AdminAnswer::Removed(drive)
        }
        AdminOp::LeaveNode { node: who, leaving } => {
            AdminAnswer::Leaves(crate::nodes::leave(node, &by, who, leaving).await?)
        }
        AdminOp::RemoveNode { node: who, lost } => {
            crate::nodes::remove(node, &by, who, lost, deadline).await?;
            AdminAnswer::NodeOut(who)
        }
        AdminOp::AddDrive { node: at, medium } => {
            AdminAnswer::Added(crate::drives::add(node, &by, (at, medium, None), deadline).await?)
        }
        AdminOp::ReplaceDrive { drive, medium } => {
            AdminAnswer::Added(crate::drives::replace(node, &by, drive, medium, deadline).await?)
        }
        AdminOp::OpenDrive { .. }
        | AdminOp::Recover { .. }
        | AdminOp::Replicas
        | AdminOp::Force(_)
        | AdminOp::Backup { .. }
        | AdminOp::Audit(AuditOp::Page { .. })
        | AdminOp::Figures { .. } => {
            return Err(Error::bug("an operation that was carried out is here again"));
        }
        AdminOp::Audit(AuditOp::Forget { first, digest }) => {
            AdminAnswer::Audit(AuditAnswer::Log(crate::audit::forget(node, &by, first, &digest, deadline).await?))
        }
        AdminOp::Access(op) => AdminAnswer::Access(crate::access::administer(node, &by, op, deadline).await?),
        AdminOp::Stages { scope, stages } => {
            crate::stages::check(node, &control, scope, &stages)?;
            node.order(&by, MeshCommand::SetStages { scope, stages }).await?;
            AdminAnswer::Chains(page::fitting(crate::stages::said(&node.metadata.control(), scope)))
        }
    };
    Ok(Answer::Admin(Box::new(answer)).into())
}

/// The plan of now, or as it would be with these DPUs and without these nodes.
fn what_if(
    node: &Arc<Inner>,
    control: &ControlView,
    with_dpus: Vec<(NodeId, Generation)>,
    without: Vec<NodeId>,
) -> Result<Plan, Error> {
    let mut view = node.outlook().view(control, node.env.clock.now());
    for (host, generation) in with_dpus {
        view = view.with_dpu(host, generation)?;
    }
    for lost in without {
        view = view.without(lost)?;
    }
    Ok(mesh_placement::plan(&view))
}

/// Asks the leader of the control group.
async fn pass_on(node: &Arc<Inner>, by: &By, op: AdminOp, deadline: Instant) -> Outcome {
    if node.kind() == NodeKind::Dpu {
        return Err(Error::new(ErrorKind::NotLeader, "a DPU passes no orders on: ask a host").with("node", node.id));
    }
    let groups = node.metadata.status();
    let leader = groups.into_iter().find(|one| one.group == GroupId::CONTROL).and_then(|one| one.leader);
    let leader = leader
        .filter(|leader| *leader != node.id)
        .ok_or_else(|| Error::new(ErrorKind::NotLeader, "the control group has no leader at the moment; try again"))?;
    if deadline <= node.env.clock.now() {
        return Err(Error::new(ErrorKind::Timeout, "the leader of the control group was not asked in time"));
    }
    let left = deadline.after(node.env.clock.now());
    ask_node_as(node, in_the_name_of(by), leader, Op::Node(Box::new(NodeOp::Admin(Box::new(op)))), left).await
}

/// Sets a wish or takes it back, unless it cannot be. Gives what moves for it.
async fn set_wish(
    node: &Arc<Inner>,
    by: &By,
    control: &ControlView,
    (scope, wish): (Scope, Option<Wish>),
) -> Result<Vec<Move>, Error> {
    expect_movable(control, scope, wish)?;
    let mut wanted = control.clone();
    match wish {
        Some(wish) => drop(wanted.wishes.insert(scope, wish)),
        None => drop(wanted.wishes.remove(&scope)),
    }
    let view = node.outlook().view(&wanted, node.env.clock.now());
    let plan = mesh_placement::plan(&view);
    if let (Scope::Actor(actor), Some(pin)) = (scope, wish.and_then(|wish| wish.pin)) {
        refuse_elsewhere(view, actor, pin)?;
    }
    node.order(by, MeshCommand::SetWish { scope, wish }).await?;
    node.note(Happened::Wished { scope, wish });
    Ok(plan.moves)
}

/// Empties a node or takes that back, unless an actor would have nowhere to go. Gives what moves for it.
async fn drain(
    node: &Arc<Inner>,
    by: &By,
    control: &ControlView,
    (drained, draining): (NodeId, bool),
) -> Result<Vec<Move>, Error> {
    let plan = if draining {
        expect_room_for_actors(node, control, &[drained].into(), false)?
    } else {
        let wanted = emptied(control, &[drained].into(), false)?;
        mesh_placement::plan(&node.outlook().view(&wanted, node.env.clock.now()))
    };
    node.order(by, MeshCommand::Drain { node: drained, draining }).await?;
    node.note(Happened::Drained { node: drained, draining });
    Ok(plan.moves)
}

/// What is wanted of a mesh in which nodes are emptied, or are so no more.
fn emptied(control: &ControlView, nodes: &BTreeSet<NodeId>, draining: bool) -> Result<ControlView, Error> {
    let mut wanted = control.clone();
    for node in nodes {
        let info = wanted.nodes.get_mut(node).ok_or_else(|| {
            Error::new(ErrorKind::NotFound, "no node of this number is a member of the mesh").with("node", node)
        })?;
        info.draining = draining;
    }
    Ok(wanted)
}

/// What moves if nodes are emptied of their actors; or refuses that if one of them would have nowhere to go. If they leave for
/// good (`leaves`), chains of what comes in there go with them.
pub(crate) fn expect_room_for_actors(
    node: &Arc<Inner>,
    control: &ControlView,
    drained: &BTreeSet<NodeId>,
    leaves: bool,
) -> Result<Plan, Error> {
    let (known, at) = (node.outlook(), node.env.clock.now());
    let plan = mesh_placement::plan(&known.view(&emptied(control, drained, true)?, at));
    // Who has nowhere to go already, somewhere else, is no reason against it.
    let now = mesh_placement::plan(&known.view(control, at));
    let stuck: BTreeSet<ActorId> = now.refused.iter().map(|(actor, _)| *actor).collect();
    let is_there = |row: &Assignment| {
        let tail = control.tails.get(&row.actor).map(|tail| tail.node);
        row.is_on(drained) || tail.is_some_and(|node| drained.contains(&node))
    };
    let goes = |actor: &ActorId| leaves && actor.as_data().is_some_and(|(_, ingress)| drained.contains(&ingress));
    let hinders = |actor: &ActorId| {
        !goes(actor) && (!stuck.contains(actor) || control.assignments.get(actor).is_some_and(is_there))
    };
    match plan.refused.iter().find(|(actor, _)| hinders(actor)) {
        Some((actor, reason)) => {
            Err(Error::new(ErrorKind::Conflict, "the node cannot be emptied: an actor has nowhere to go")
                .with("actor", ActorName(*actor))
                .with("why", reason))
        }
        None => Ok(plan),
    }
}

/// A wish is of something that there is, and that placement has a say in. One of what is gone can be taken back.
fn expect_movable(control: &ControlView, scope: Scope, wish: Option<Wish>) -> Result<(), Error> {
    let none = |what| Err(Error::new(ErrorKind::NotFound, what));
    let is_there = match scope {
        Scope::Mesh => true,
        Scope::Tenant(tenant) => control.tenants.contains_key(&tenant),
        Scope::Actor(actor) => control.assignments.contains_key(&actor),
    };
    match scope {
        _ if is_there || (wish.is_none() && control.wishes.contains_key(&scope)) => Ok(()),
        Scope::Actor(actor) if let Some(drive) = actor.as_drive().and_then(|drive| control.drives.get(&drive)) => {
            let error = Error::new(ErrorKind::Conflict, "a drive's actor runs where the drive is, and moves nowhere")
                .with("actor", ActorName(actor))
                .with("at", drive.node);
            let pin = wish.and_then(|wish| wish.pin).filter(|pin| *pin != drive.node);
            Err(pin.into_iter().fold(error, |error, pin| error.with("why", Reason::NotVisible(pin))))
        }
        Scope::Actor(actor) if actor.as_ingress().is_some_and(|node| control.nodes.contains_key(&node)) => {
            Err(Error::new(ErrorKind::Conflict, "an ingress is a part of its node, and moves nowhere")
                .with("actor", ActorName(actor)))
        }
        Scope::Actor(actor) if actor.as_keeper().is_some_and(|node| control.nodes.contains_key(&node)) => {
            Err(Error::new(ErrorKind::Conflict, "a keeper is a part of its node, and moves nowhere")
                .with("actor", ActorName(actor)))
        }
        Scope::Actor(_) => none("no such actor; `mesh actors` lists them"),
        Scope::Mesh | Scope::Tenant(_) => none("no such tenant"),
    }
}

/// Refuses a pin to a node that cannot run the actor, for the reason that there would be if it could go nowhere else. That
/// it moves just now, or that the node came up just now, is none: it goes there next.
fn refuse_elsewhere(mut view: View, actor: ActorId, pin: NodeId) -> Result<(), Error> {
    if let Some(pinned) = view.actors.get_mut(&actor) {
        (pinned.ingress, pinned.at, pinned.moving) = (None, None, None);
    }
    let plan = mesh_placement::plan(&view);
    let Some(decision) = plan.decisions.get(&actor) else {
        return Err(Error::new(ErrorKind::NotFound, "no such actor; `mesh actors` lists them"));
    };
    if decision.spot == Some(Spot::whole(pin)) {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Conflict, "the actor cannot run there")
        .with("actor", ActorName(actor))
        .with("node", pin)
        .with("why", &decision.reason))
}
