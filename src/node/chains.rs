//! What is done to the actors of this node: the deeds that the steward wants, and the steps of moves.

use std::sync::{Arc, Weak};

use mesh_actors::registry::Parts;
use mesh_core::{
    Buf, Error, ErrorKind,
    id::{ActorId, Epoch},
    limits::BUDGET_DEFAULT,
    meta::ControlView,
    op::{ActorReport, MoveOp, MoveStep, Moved, Phase},
    spec::FunctionSpec,
};
use mesh_dpu_runtime::{
    agent::Setups,
    shell::{ActorSetup, ActorStats, Onward, Place},
};
use mesh_placement::{
    steward::{Deed, hosting::arriving},
    transfer::HEAR_MAX,
};

use super::Inner;

/// The control group has decided something: keys and places are known before anything is done about it.
pub(super) fn learn(node: &Inner, before: &ControlView, view: &ControlView) {
    if !before.tenants.is_same(&view.tenants) {
        node.keyring.learn(view);
    }
    node.standing.learn(before, view, node.env.clock.now());
    node.host.follow(before, view);
}

/// An actor that runs here, as others are told of it.
pub(super) fn report((stats, spec): (ActorStats, Arc<FunctionSpec>)) -> ActorReport {
    ActorReport {
        actor: stats.id,
        functions: spec.present().map(|part| part.name().to_owned()).collect(),
        epoch: stats.epoch,
        phase: stats.phase,
        jobs: stats.jobs as u64,
        bytes: stats.bytes as u64,
        requests: stats.requests,
        traffic_bytes: stats.traffic_bytes,
        restarts: stats.restarts,
    }
}

/// Carries out what is wanted of an actor, until something fails: one actor's trouble is not the others'.
pub(super) async fn carry_out(node: &Arc<Inner>, actor: ActorId, deeds: Vec<Deed>) -> Result<(), Error> {
    for deed in deeds {
        if let Err(error) = one(node, actor, deed).await {
            tracing::error!(node = %node.id, %actor, %error, "an actor cannot be hosted");
            return Err(error);
        }
    }
    Ok(())
}

async fn one(node: &Arc<Inner>, actor: ActorId, deed: Deed) -> Result<(), Error> {
    match deed {
        Deed::Forget => node.agent.forget(actor),
        Deed::Evict => node.host.evict(actor),
        Deed::Open(epoch, Phase::Warming) => node.host.activate(actor, epoch)?,
        Deed::Open(epoch, _) => node.host.thaw(actor, epoch)?,
        Deed::Start(epoch, spec) => node.host.start(setup(node, actor, epoch, spec)).await?,
        Deed::Configure(spec) => node.host.configure(actor, spec)?,
        Deed::Retire(to, epoch) => {
            node.host.retire(actor, epoch, Place { node: to, epoch }, BUDGET_DEFAULT);
        }
        Deed::Discard => node.host.discard(actor),
        Deed::Stop(patience) => {
            let stopping = node.clone();
            node.spawn(async move {
                if let Err(error) = stopping.host.stop(actor, patience).await {
                    tracing::debug!(%actor, %error, "an actor ended before it was stopped");
                }
            });
        }
    }
    Ok(())
}

fn setup(node: &Arc<Inner>, id: ActorId, epoch: Epoch, spec: Arc<FunctionSpec>) -> ActorSetup {
    let parts = Parts { pool: node.pool.clone(), geometry: None };
    let registry = node.registry.clone();
    let build = Arc::new(move |spec: &FunctionSpec| registry.build(spec, &parts));
    ActorSetup { id, epoch, spec, build, disk: None, onward: onward(node, id) }
}

/// Where the calls of an actor go on to: an ingress's to the data chain of who asks.
fn onward(node: &Inner, actor: ActorId) -> Onward {
    if actor.as_ingress().is_some() { Onward::DataChain(node.id) } else { Onward::End }
}

/// How an actor that arrives by a move is built here: from what this node knows of the control group.
pub(super) fn setups(node: Weak<Inner>) -> Setups {
    Arc::new(move |actor, epoch| {
        let gone = || Error::new(ErrorKind::Draining, "the node is stopping");
        let node = node.upgrade().ok_or_else(gone)?;
        let view = node.metadata.control();
        let known = node.outlook();
        let stages = arriving(node.id, &node.ability, &view, &known.drives, known.looks_around, (actor, epoch))?;
        Ok(setup(&node, actor, epoch, Arc::new(FunctionSpec::Chain(stages))))
    })
}

impl Inner {
    /// Carries out a step of a move, and tells the others at once where the actor runs now.
    pub(crate) async fn carry_out(&self, step: MoveStep, payload: Buf) -> Result<Moved, Error> {
        hear_of(self, step).await;
        let moved = self.agent.carry_out(step, payload).await;
        if matches!(step.what, MoveOp::Activate | MoveOp::Retire { .. }) {
            self.changed.notify_one();
        }
        moved
    }
}

/// Waits until this node has heard from the group of the epoch that an actor leaves when it moves here: a follower may be
/// a little behind.
async fn hear_of(node: &Inner, step: MoveStep) {
    let heard = |view: &Arc<ControlView>| view.assignments.get(&step.actor).is_some_and(|row| row.epoch >= step.epoch);
    let mut control = node.metadata.watch_control();
    if step.what == MoveOp::Warm && tokio::time::timeout(HEAR_MAX, control.wait_for(heard)).await.is_err() {
        tracing::debug!(actor = %step.actor, epoch = %step.epoch, "an actor comes of an epoch that was not heard of");
    }
}
