//! What administrators ask of the placement engine, answered by the leader of the control group: the plan, also of a mesh
//! that is not, wishes, drains, stages of chains, and what has happened.

use std::{collections::BTreeSet, sync::Arc};

use mesh_core::{
    Answer, Error, ErrorKind, Op, Outcome,
    assignment::Assignment,
    id::{ActorId, GroupId, NodeId},
    meta::Command,
    op::{AdminOp, NodeOp},
    time::Instant,
};
use mesh_placement::{Name, Plan, Spot};

use crate::{controller::ask_node, node::Inner, view};

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
            let mut view = view::of(&control, &view::sight(node));
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
            let plan = mesh_placement::plan(&view::of(&wanted, &view::sight(node)));
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
            let sight = view::sight(node);
            let plan = mesh_placement::plan(&view::of(&wanted, &sight));
            // Who has nowhere to go already, somewhere else, is no reason against it.
            let now = mesh_placement::plan(&view::of(&control, &sight));
            let stuck: BTreeSet<ActorId> = now.refused.iter().map(|(actor, _)| *actor).collect();
            let is_there = |row: &Assignment| row.node == drained || row.moving == Some(drained);
            let hinders =
                |actor: &ActorId| !stuck.contains(actor) || control.assignments.get(actor).is_some_and(is_there);
            if draining && let Some((actor, reason)) = plan.refused.iter().find(|(actor, _)| hinders(actor)) {
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
