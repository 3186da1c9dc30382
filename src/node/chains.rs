//! The node's ingress and the data chains that the control group says run here: started, configured from what the group
//! holds and what peers say, and let go of. Moves bring and take actors too; whatever a move leaves unsaid, because its
//! controller died, is settled here by what the group says.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Weak},
};

use mesh_actors::registry::Parts;
use mesh_core::{
    Buf, Error, ErrorKind,
    assignment::{Assignment, MoveId, Tail},
    id::{ActorId, Epoch, GroupId, TenantId},
    limits::STRIPE_BYTES_MAX,
    meta::{Command, ControlView, TenantRow},
    op::{MoveOp, MoveStep, Moved, Phase},
    spec::{EncryptSpec, Encryption, ErasureSpec, FunctionSpec, ObjectSpec, PolicySpec},
    topology::NodeInfo,
};

use mesh_dpu_runtime::{
    agent::Setups,
    shell::{ActorSetup, Directory, Onward, Place},
};
use mesh_placement::{
    fate::{Hosted, Known},
    steward::chains::{Act, Chains},
};
use tokio::task::{JoinError, JoinSet};

use super::Inner;

/// What each actor was last configured with, and under which epoch: an actor that has been away meanwhile has not been
/// configured, whether or not anybody looked while it was away.
#[derive(Default)]
struct Configured {
    specs: BTreeMap<ActorId, (Epoch, Arc<FunctionSpec>)>,
    chains: Chains,
    /// Moves of before this start that are being aborted: each ends with whether that went well.
    taking_back: JoinSet<(ActorId, MoveId, bool)>,
}

/// Keeps actors configured until the node stops.
pub(super) async fn run(node: Arc<Inner>) {
    let stopped = node.stopped();
    tokio::pin!(stopped);
    let mut control = node.metadata.watch_control();
    let mut configured = Configured::default();
    // Peers that are there say themselves where they listen; what was stored before a restart may be wrong by now, and a
    // greeting that nobody answers costs seconds.
    let patience = tokio::time::sleep(STORED_ADDRESSES_AFTER);
    tokio::pin!(patience);
    let mut stored = false;
    loop {
        let view = control.borrow_and_update().clone();
        node.keyring.learn(&view);
        if let Err(error) = configured.apply(&node, &view, stored).await {
            tracing::error!(node = %node.id, %error, "an actor cannot be configured");
        }
        tokio::select! {
            () = &mut stopped => return,
            changed = control.changed() => if changed.is_err() { return },
            () = node.reconfigure.notified() => {}
            Some(ended) = configured.taking_back.join_next() => configured.took_back(ended),
            () = &mut patience, if !stored => stored = true,
        }
    }
}

impl Configured {
    async fn apply(&mut self, node: &Arc<Inner>, view: &ControlView, stored: bool) -> Result<(), Error> {
        node.heed_starts(view);
        node.host.set_directory(directory(view));
        let current = |info: &NodeInfo| stored || info.incarnation > node.incarnation;
        for info in view.nodes.values().filter(|info| info.id != node.id && current(info)) {
            if let Ok(address) = info.address.parse() {
                node.locate_peer(info.id, address, info.incarnation);
            }
        }
        // The ingress first: it refuses a tenant whose key it does not know, and need not for long.
        let mut wanted = BTreeSet::new();
        if node.has_namespaces() {
            let ingress = ActorId::ingress(node.id);
            wanted.insert(ingress);
            let epoch = Epoch(node.incarnation.0);
            let hosted = node.host.hosts(ingress);
            self.put(node, ingress, epoch, object(node, view), Onward::DataChain(node.id), hosted).await?;
        }
        let hosted: BTreeMap<ActorId, Hosted> = node
            .host
            .actors()
            .into_iter()
            .map(|actor| (actor.id, Hosted { epoch: actor.epoch, phase: actor.phase }))
            .collect();
        let caught_up = view.nodes.get(&node.id).is_some_and(|info| info.incarnation == node.incarnation);
        let looks_around = !node.has_looked_around();
        for row in view.assignments.values().filter(|row| row.actor.as_data().is_some()) {
            let actor = row.actor;
            wanted.insert(actor);
            let known = Known { heard: node.host.heard_of(actor), on: node.agent.on(actor), caught_up };
            let acts = self.chains.look(node.id, row, hosted.get(&actor).copied(), known, looks_around);
            for act in acts {
                // One actor's trouble is not the others'.
                if let Err(error) = self.act(node, view, row, act).await {
                    tracing::error!(node = %node.id, %actor, %error, "an actor cannot be hosted");
                    self.specs.remove(&actor);
                    break;
                }
            }
        }
        for (row, tail) in tails(view).filter(|(_, tail)| caught_up && tail.node == node.id) {
            let actor = tail_of(row.actor)?;
            wanted.insert(actor);
            if let Err(error) = self.host_tail(node, view, row, tail.cut, hosted.get(&actor).copied()).await {
                tracing::error!(node = %node.id, actor = %row.actor, %error, "the tail of a chain cannot be hosted");
            }
        }
        let gone: Vec<ActorId> = self.specs.keys().copied().filter(|actor| !wanted.contains(actor)).collect();
        for actor in gone {
            self.specs.remove(&actor);
            if !hosted.contains_key(&actor) {
                continue;
            }
            if actor.as_tail().is_some() {
                // Its head may not have heard yet: it is told `NoSuchActor`, and the ingress sends again.
                node.host.evict(actor);
                continue;
            }
            let stopping = node.clone();
            node.spawn(async move {
                if let Err(error) = stopping.host.stop(actor, mesh_core::limits::BUDGET_DEFAULT).await {
                    tracing::debug!(%actor, %error, "an actor ended before it was stopped");
                }
            });
        }
        Ok(())
    }

    async fn act(&mut self, node: &Arc<Inner>, view: &ControlView, row: &Assignment, act: Act) -> Result<(), Error> {
        let Assignment { actor, epoch, .. } = *row;
        match act {
            Act::Forget => node.agent.forget(actor),
            Act::Evict => {
                self.specs.remove(&actor);
                node.host.evict(actor);
            }
            Act::Open(Phase::Warming) => node.host.activate(actor, epoch)?,
            Act::Open(_) => node.host.thaw(actor, epoch)?,
            Act::Run => self.run_here(node, view, row).await?,
            Act::TakeBack(id) => {
                // What it was configured with before is over: also if it was given up here, it is started anew.
                self.specs.remove(&actor);
                let node = node.clone();
                self.taking_back.spawn(async move {
                    let outcome = node.propose(GroupId::CONTROL, Command::AbortMove { actor, epoch, id }).await;
                    let failed = outcome.err().filter(|error| error.kind() != ErrorKind::Conflict);
                    if let Some(error) = &failed {
                        tracing::debug!(%actor, %id, %error, "a move of before this start was not taken back");
                    }
                    (actor, id, failed.is_none())
                });
            }
            Act::Retire => {
                self.specs.remove(&actor);
                let to = Place { node: row.node, epoch };
                node.host.retire(actor, epoch, to, mesh_core::limits::BUDGET_DEFAULT);
            }
            Act::Discard => {
                self.specs.remove(&actor);
                node.host.discard(actor);
            }
        }
        Ok(())
    }

    fn took_back(&mut self, ended: Result<(ActorId, MoveId, bool), JoinError>) {
        match ended {
            Ok((actor, id, well)) => self.chains.took_back(actor, id, well),
            Err(error) => {
                tracing::error!(%error, "what takes moves back broke down, and begins anew");
                self.chains = Chains::default();
            }
        }
    }

    /// Runs an actor that the group says runs here.
    async fn run_here(&mut self, node: &Arc<Inner>, view: &ControlView, row: &Assignment) -> Result<(), Error> {
        let stages = data_chain(node, view, row.actor)?;
        let spec = match tail(node, view, row) {
            Some(tail) => FunctionSpec::Split(stages, tail.cut),
            None => FunctionSpec::Chain(stages),
        };
        self.put(node, row.actor, row.epoch, spec, onward(row.actor), node.host.hosts(row.actor)).await
    }

    /// Runs the last stages of a chain whose head is elsewhere.
    async fn host_tail(
        &mut self,
        node: &Arc<Inner>,
        view: &ControlView,
        row: &Assignment,
        cut: u8,
        present: Option<Hosted>,
    ) -> Result<(), Error> {
        let actor = tail_of(row.actor)?;
        let mut stages = data_chain(node, view, row.actor)?;
        if usize::from(cut) >= stages.len() {
            return Err(Error::bug("a chain is shorter than its head").with("actor", row.actor).with("cut", cut));
        }
        let stages = stages.split_off(usize::from(cut));
        runs_here(node, &stages)?;
        if present.is_some_and(|hosted| hosted.epoch != row.epoch) {
            self.specs.remove(&actor);
            node.host.evict(actor);
        }
        let hosted = node.host.hosts(actor);
        self.put(node, actor, row.epoch, FunctionSpec::Chain(stages), Onward::End, hosted).await
    }

    async fn put(
        &mut self,
        node: &Arc<Inner>,
        actor: ActorId,
        epoch: Epoch,
        spec: FunctionSpec,
        onward: Onward,
        hosted: bool,
    ) -> Result<(), Error> {
        match self.next(actor, epoch, &spec, hosted) {
            Deed::Nothing => {}
            Deed::Configure => {
                let spec = Arc::new(spec);
                node.host.configure(actor, spec.clone())?;
                self.specs.insert(actor, (epoch, spec));
            }
            Deed::Start => {
                let setup = setup(node, actor, epoch, spec, onward);
                let spec = setup.spec.clone();
                node.host.start(setup).await?;
                self.specs.insert(actor, (epoch, spec));
            }
        }
        Ok(())
    }

    /// What an actor that runs here needs.
    fn next(&self, actor: ActorId, epoch: Epoch, spec: &FunctionSpec, hosted: bool) -> Deed {
        match self.specs.get(&actor).filter(|(under, _)| *under == epoch) {
            // Not hosted any more, it was given up after panics: a person must look.
            Some((_, before)) if **before == *spec => Deed::Nothing,
            Some(_) => Deed::Configure,
            // It has arrived by a move.
            None if hosted => Deed::Configure,
            None => Deed::Start,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deed {
    Nothing,
    Configure,
    Start,
}

fn setup(node: &Arc<Inner>, id: ActorId, epoch: Epoch, spec: FunctionSpec, onward: Onward) -> ActorSetup {
    let parts = Parts { pool: node.pool.clone(), geometry: None };
    let registry = node.registry.clone();
    let build = Arc::new(move |spec: &FunctionSpec| registry.build(spec, &parts));
    ActorSetup { id, epoch, spec: Arc::new(spec), build, disk: None, onward }
}

/// How an actor that arrives by a move is built here: from what this node knows of the control group.
pub(super) fn setups(node: Weak<Inner>) -> Setups {
    Arc::new(move |actor, epoch| {
        let gone = || Error::new(ErrorKind::Draining, "the node is stopping");
        let node = node.upgrade().ok_or_else(gone)?;
        let view = node.metadata.control();
        // What a chain is made of is fixed for an epoch: of another one, this node may know other functions.
        let known = view.assignments.get(&actor).map_or(Epoch(0), |row| row.epoch);
        if known.0 + 1 != epoch.0 {
            return Err(Error::new(ErrorKind::Draining, "this node knows of another epoch of the actor; try again")
                .with("actor", actor)
                .with("node", node.id)
                .with("knows", known)
                .with("asked", epoch));
        }
        let stages = data_chain(&node, &view, actor)?;
        runs_here(&node, &stages)?;
        Ok(setup(&node, actor, epoch, FunctionSpec::Chain(stages), onward(actor)))
    })
}

/// Refuses functions that this node was not told to run.
fn runs_here(node: &Inner, stages: &[FunctionSpec]) -> Result<(), Error> {
    match stages.iter().find(|stage| !node.ability.functions.contains_key(stage.name())) {
        None => Ok(()),
        Some(stage) => Err(Error::new(ErrorKind::Unsupported, "this node does not run such functions")
            .with("node", node.id)
            .with("function", stage.name())),
    }
}

/// Where the calls of a data chain's head go: to its tail, if it is split.
fn onward(chain: ActorId) -> Onward {
    tail_of(chain).map_or(Onward::End, Onward::Actor)
}

fn tail_of(chain: ActorId) -> Result<ActorId, Error> {
    let (tenant, ingress) = chain.as_data().ok_or_else(|| Error::bug("only data chains are split"))?;
    Ok(ActorId::tail(tenant, ingress))
}

/// Chains that are split, with their tails.
fn tails(view: &ControlView) -> impl Iterator<Item = (&Assignment, &Tail)> {
    view.tails.iter().filter_map(|(actor, tail)| Some((view.assignments.get(actor)?, tail)))
}

/// The tail that a chain of this node goes on to: one that says itself that it runs. Without it the chain is whole, at
/// once and without anybody's leave.
fn tail<'a>(node: &Inner, view: &'a ControlView, row: &Assignment) -> Option<&'a Tail> {
    let tail = view.tails.get(&row.actor)?;
    let actor = tail_of(row.actor).ok()?;
    let answers = !node.host.is_abandoned(tail.node) && node.runs_at(tail.node, actor, row.epoch);
    answers.then_some(tail)
}

impl Inner {
    /// Carries out a step of a move, and tells the others at once where the actor runs now.
    pub(crate) async fn carry_out(&self, step: MoveStep, payload: Buf) -> Result<Moved, Error> {
        hear_of(self, step).await;
        let moved = self.agent.carry_out(step, payload).await;
        if matches!(step.what, MoveOp::Activate | MoveOp::Retire { .. }) {
            self.hurry.notify_one();
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

/// The stages of the data chain of a tenant for one ingress, as this node sees the drives.
fn data_chain(node: &Inner, view: &ControlView, actor: ActorId) -> Result<Vec<FunctionSpec>, Error> {
    let tenant = actor.as_data().and_then(|(tenant, _)| view.tenants.get(&tenant)).ok_or_else(|| {
        Error::new(ErrorKind::Unreachable, "the actor's tenant is not known on this node yet; try again")
            .with("actor", actor)
            .with("node", node.id)
    })?;
    let erasure = ErasureSpec { layouts: view.layouts.clone(), drives: node.drive_states() };
    let own = view.stages_of(tenant.id).cloned().map(FunctionSpec::Custom);
    let mut stages = vec![FunctionSpec::Policy(policy(tenant, view))];
    stages.extend(own);
    stages.extend([FunctionSpec::Encrypt(EncryptSpec::default()), FunctionSpec::Erasure(erasure)]);
    Ok(stages)
}

fn directory(view: &ControlView) -> Directory {
    let drives = view.drives.values().map(|drive| (drive.id, Place { node: drive.node, epoch: drive.epoch }));
    let actors = view.assignments.values().map(|at| (at.actor, Place { node: at.node, epoch: at.epoch }));
    let tails = tails(view)
        .filter_map(|(row, tail)| Some((tail_of(row.actor).ok()?, Place { node: tail.node, epoch: row.epoch })));
    Directory { drives: drives.collect(), actors: actors.chain(tails).collect() }
}

fn object(node: &Inner, view: &ControlView) -> FunctionSpec {
    let leads = node.metadata.status().into_iter().filter(|one| one.leader == Some(node.id));
    FunctionSpec::Object(ObjectSpec {
        node: node.id,
        epoch: Epoch(node.incarnation.0),
        layout: view.layouts.keys().next_back().copied(),
        stripe_bytes: STRIPE_BYTES_MAX as u32,
        keys: view.tenants.values().map(|tenant| (tenant.id, Encryption::Key(tenant.key))).collect(),
        reclaims: leads.map(|one| one.group).filter(|group| *group != GroupId::CONTROL).collect(),
        reclaim_grace_ms: u64::try_from(node.config.timing.reclaim_grace.0.as_millis()).unwrap_or(u64::MAX),
        drives: view.drives.keys().copied().collect(),
        lost: view.lost.keys().copied().collect(),
        layouts: view.layouts.clone(),
        namespaces: view.namespaces,
    })
}

fn policy(tenant: &TenantRow, view: &ControlView) -> PolicySpec {
    PolicySpec { tenant: tenant.id, principals: principals(tenant.id, view), limits: tenant.limits }
}

fn principals(tenant: TenantId, view: &ControlView) -> BTreeMap<Arc<str>, Vec<mesh_core::meta::Grant>> {
    view.principals
        .iter()
        .filter(|row| row.tenant == tenant)
        .map(|row| (Arc::from(row.name.as_str()), row.grants.clone()))
        .collect()
}

/// A follower that is behind by more than this does not take actors in.
const HEAR_MAX: core::time::Duration = core::time::Duration::from_secs(2);
const STORED_ADDRESSES_AFTER: core::time::Duration = core::time::Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_actor_that_comes_back_to_a_node_is_started_there_again() {
        let actor = ActorId(9);
        let spec = FunctionSpec::Encrypt(EncryptSpec::default());
        let other = FunctionSpec::Chain(vec![spec.clone()]);
        let mut configured = Configured::default();
        assert_eq!(configured.next(actor, Epoch(1), &spec, false), Deed::Start);
        configured.specs.insert(actor, (Epoch(1), Arc::new(spec.clone())));
        assert_eq!(configured.next(actor, Epoch(1), &spec, true), Deed::Nothing);
        assert_eq!(configured.next(actor, Epoch(1), &other, true), Deed::Configure);
        // It was away, and the node it was on is lost: nobody brings it.
        assert_eq!(configured.next(actor, Epoch(3), &spec, false), Deed::Start);
        // Or a move brought it.
        assert_eq!(configured.next(actor, Epoch(3), &spec, true), Deed::Configure);
        // Given up under this epoch, it stays so.
        assert_eq!(configured.next(actor, Epoch(1), &spec, false), Deed::Nothing);
    }
}
