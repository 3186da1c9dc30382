//! The node's ingress and the data chains that the control group says run here: started, configured from what the group
//! holds and what peers say, and let go of. Moves bring and take actors too; whatever a move leaves unsaid, because its
//! controller died, is settled here by what the group says.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError, Weak},
};

use mesh_actors::{
    registry::{self, Parts},
    shell::{ActorSetup, Directory, Onward, Place},
};
use mesh_core::{
    Error, ErrorKind,
    assignment::{Assignment, MoveId},
    id::{ActorId, Epoch, GroupId, TenantId},
    limits::STRIPE_BYTES_MAX,
    meta::{Command, ControlView, TenantRow},
    op::Phase,
    spec::{EncryptSpec, ErasureSpec, FunctionSpec, ObjectSpec, PolicySpec},
    topology::NodeInfo,
};

use mesh_dpu_runtime::agent::Setups;
use mesh_placement::fate::{Fate, Hosted, fate};

use super::Inner;

/// What each actor was last configured with.
#[derive(Default)]
struct Configured(BTreeMap<ActorId, Arc<FunctionSpec>>, TakenBack);

/// Actors whose moves are being taken back.
type TakenBack = Arc<Mutex<BTreeSet<ActorId>>>;

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
            () = &mut patience, if !stored => stored = true,
        }
    }
}

impl Configured {
    async fn apply(&mut self, node: &Arc<Inner>, view: &ControlView, stored: bool) -> Result<(), Error> {
        node.host.set_directory(directory(view));
        let current = |info: &NodeInfo| stored || info.incarnation > node.incarnation;
        for info in view.nodes.values().filter(|info| info.id != node.id && current(info)) {
            if let Ok(address) = info.address.parse() {
                node.locate_peer(info.id, address, info.incarnation);
            }
        }
        // The ingress first: a tenant's chain must not exist before the ingress knows the tenant's key, or what is written
        // in between would be stored in the clear.
        let mut wanted = BTreeSet::new();
        if node.has_namespaces() {
            let ingress = ActorId::ingress(node.id);
            wanted.insert(ingress);
            let epoch = Epoch(node.incarnation.0);
            self.put(node, ingress, epoch, object(node, view), Onward::DataChain(node.id)).await?;
        }
        let hosted: BTreeMap<ActorId, (Epoch, Phase)> =
            node.host.actors().into_iter().map(|actor| (actor.id, (actor.epoch, actor.phase))).collect();
        let directory = node.host.directory();
        for row in view.assignments.values().filter(|row| row.actor.as_data().is_some()) {
            let present = hosted.get(&row.actor).map(|(epoch, phase)| Hosted { epoch: *epoch, phase: *phase });
            let heard = directory.actors.get(&row.actor).map_or(Epoch(0), |place| place.epoch);
            match fate(node.id, row, present, heard, node.agent.on(row.actor)) {
                Fate::Host => {
                    wanted.insert(row.actor);
                    // One actor's trouble is not the others'.
                    if let Err(error) = self.host(node, view, row, hosted.get(&row.actor).copied()).await {
                        tracing::error!(node = %node.id, actor = %row.actor, %error, "an actor cannot be hosted");
                        self.0.remove(&row.actor);
                    }
                }
                Fate::Leave => {
                    self.0.remove(&row.actor);
                    node.agent.forget(row.actor);
                    let to = Place { node: row.node, epoch: row.epoch };
                    node.host.retire(row.actor, row.epoch, to, mesh_core::limits::BUDGET_DEFAULT);
                }
                Fate::Discard => {
                    node.agent.forget(row.actor);
                    node.host.discard(row.actor);
                }
                Fate::TakeBack(id) => {
                    wanted.insert(row.actor);
                    self.take_back(node, row, id);
                }
                Fate::Alone => {
                    wanted.insert(row.actor);
                }
            }
        }
        let gone: Vec<ActorId> = self.0.keys().copied().filter(|actor| !wanted.contains(actor)).collect();
        for actor in gone {
            self.0.remove(&actor);
            if !hosted.contains_key(&actor) {
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

    /// Aborts the move of an actor that was here before this node started anew: it has lost what the target was given, and
    /// must not take in more before the move is over. Then the group's word is followed.
    fn take_back(&self, node: &Arc<Inner>, row: &Assignment, id: MoveId) {
        let (actor, epoch, under_way) = (row.actor, row.epoch, self.1.clone());
        if !under_way.lock().unwrap_or_else(PoisonError::into_inner).insert(actor) {
            return;
        }
        let taking = node.clone();
        node.spawn(async move {
            let command = Command::AbortMove { actor, epoch, id };
            if let Err(error) = taking.propose(GroupId::CONTROL, command).await {
                tracing::debug!(%actor, %id, %error, "a move from before the start is not taken back yet");
            }
            // The group's word comes on its own way.
            tokio::time::sleep(TAKE_BACK_PAUSE).await;
            under_way.lock().unwrap_or_else(PoisonError::into_inner).remove(&actor);
            taking.reconfigure();
        });
    }

    /// Runs an actor that the group says runs here.
    async fn host(
        &mut self,
        node: &Arc<Inner>,
        view: &ControlView,
        row: &Assignment,
        present: Option<(Epoch, Phase)>,
    ) -> Result<(), Error> {
        match present {
            Some((epoch, Phase::Warming)) if epoch == row.epoch => {
                // The move is committed, and its controller has not told yet.
                node.agent.forget(row.actor);
                node.host.activate(row.actor, row.epoch)?;
            }
            Some((epoch, Phase::Frozen)) if epoch == row.epoch => {
                node.agent.forget(row.actor);
                node.host.thaw(row.actor, row.epoch)?;
            }
            // It was thought lost, or is a leftover: it begins anew under its new epoch.
            Some((epoch, _)) if epoch != row.epoch => {
                self.0.remove(&row.actor);
                node.agent.forget(row.actor);
                node.host.evict(row.actor);
            }
            _ => {}
        }
        let spec = data_chain(node, view, row.actor)?;
        self.put(node, row.actor, row.epoch, spec, Onward::End).await
    }

    async fn put(
        &mut self,
        node: &Arc<Inner>,
        actor: ActorId,
        epoch: Epoch,
        spec: FunctionSpec,
        onward: Onward,
    ) -> Result<(), Error> {
        match self.0.get(&actor) {
            Some(before) if **before == spec => return Ok(()),
            Some(_) => {
                let spec = Arc::new(spec);
                node.host.configure(actor, spec.clone())?;
                self.0.insert(actor, spec);
            }
            // It has arrived by a move.
            None if node.host.actors().iter().any(|hosted| hosted.id == actor) => {
                let spec = Arc::new(spec);
                node.host.configure(actor, spec.clone())?;
                self.0.insert(actor, spec);
            }
            None => {
                let setup = setup(node, actor, epoch, spec, onward);
                let spec = setup.spec.clone();
                node.host.start(setup).await?;
                self.0.insert(actor, spec);
            }
        }
        Ok(())
    }
}

fn setup(node: &Arc<Inner>, id: ActorId, epoch: Epoch, spec: FunctionSpec, onward: Onward) -> ActorSetup {
    let parts = Parts { pool: node.pool.clone(), geometry: None };
    let build = Arc::new(move |spec: &FunctionSpec| registry::build(spec, &parts));
    ActorSetup { id, epoch, spec: Arc::new(spec), build, disk: None, onward }
}

/// How an actor that arrives by a move is built here: from what this node knows of the control group.
pub(super) fn setups(node: Weak<Inner>) -> Setups {
    Arc::new(move |actor, epoch| {
        let gone = || Error::new(ErrorKind::Draining, "the node is stopping");
        let node = node.upgrade().ok_or_else(gone)?;
        let spec = data_chain(&node, &node.metadata.control(), actor)?;
        for part in spec.parts() {
            if !node.ability.functions.contains_key(part.name()) {
                return Err(Error::new(ErrorKind::Unsupported, "this node does not run such functions")
                    .with("node", node.id)
                    .with("function", part.name()));
            }
        }
        Ok(setup(&node, actor, epoch, spec, Onward::End))
    })
}

/// The data chain of a tenant for one ingress, as this node sees the drives.
fn data_chain(node: &Inner, view: &ControlView, actor: ActorId) -> Result<FunctionSpec, Error> {
    let tenant = actor.as_data().and_then(|(tenant, _)| view.tenants.get(&tenant)).ok_or_else(|| {
        Error::new(ErrorKind::NotFound, "the actor's tenant is not known on this node yet; try again")
            .with("actor", actor)
            .with("node", node.id)
    })?;
    let erasure = ErasureSpec { layouts: view.layouts.clone(), drives: node.drive_states() };
    Ok(FunctionSpec::Chain(vec![
        FunctionSpec::Policy(policy(tenant, view)),
        FunctionSpec::Encrypt(EncryptSpec::default()),
        FunctionSpec::Erasure(erasure),
    ]))
}

fn directory(view: &ControlView) -> Directory {
    let drives = view.drives.values().map(|drive| (drive.id, Place { node: drive.node, epoch: drive.epoch }));
    let actors = view.assignments.values().map(|at| (at.actor, Place { node: at.node, epoch: at.epoch }));
    Directory { drives: drives.collect(), actors: actors.collect() }
}

fn object(node: &Inner, view: &ControlView) -> FunctionSpec {
    let leads = node.metadata.status().into_iter().filter(|(_, leader, _)| *leader == Some(node.id));
    FunctionSpec::Object(ObjectSpec {
        node: node.id,
        epoch: Epoch(node.incarnation.0),
        layout: view.layouts.keys().next_back().copied(),
        stripe_bytes: STRIPE_BYTES_MAX as u32,
        keys: view.tenants.values().map(|tenant| (tenant.id, tenant.key)).collect(),
        reclaims: leads.map(|(group, ..)| group).filter(|group| *group != GroupId::CONTROL).collect(),
        reclaim_grace_ms: u64::try_from(node.config.timing.reclaim_grace.0.as_millis()).unwrap_or(u64::MAX),
        drives: view.drives.keys().copied().collect(),
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

/// Between two looks whether a move is over.
const TAKE_BACK_PAUSE: core::time::Duration = core::time::Duration::from_millis(50);

const STORED_ADDRESSES_AFTER: core::time::Duration = core::time::Duration::from_secs(1);
