//! The node's ingress and data chains: started when there is a need, configured from what the control group holds and
//! what peers say.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use mesh_actors::{
    registry::{self, Parts},
    shell::{ActorSetup, Directory, Onward, Place},
};
use mesh_core::{
    Error,
    id::{ActorId, Epoch, TenantId},
    limits::STRIPE_BYTES_MAX,
    meta::{ControlView, TenantRow},
    spec::{EncryptSpec, ErasureSpec, FunctionSpec, ObjectSpec, PolicySpec},
    topology::NodeInfo,
};

use super::Inner;

/// What each actor was last configured with.
#[derive(Default)]
struct Configured(BTreeMap<ActorId, Arc<FunctionSpec>>);

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
        let ingress = ActorId::ingress(node.id);
        let epoch = Epoch(node.incarnation.0);
        self.put(node, ingress, epoch, object(node, view), Onward::DataChain(node.id)).await?;
        let mut wanted = BTreeSet::from([ingress]);
        let erasure = ErasureSpec { layouts: view.layouts.clone(), drives: node.drive_states() };
        for tenant in view.tenants.values() {
            let chain = FunctionSpec::Chain(vec![
                FunctionSpec::Policy(policy(tenant, view)),
                FunctionSpec::Encrypt(EncryptSpec::default()),
                FunctionSpec::Erasure(erasure.clone()),
            ]);
            let actor = ActorId::data(tenant.id, node.id);
            wanted.insert(actor);
            // One tenant's trouble is not the others'.
            if let Err(error) = self.put(node, actor, epoch, chain, Onward::End).await {
                tracing::error!(node = %node.id, tenant = %tenant.name, %error, "a data chain cannot be configured");
                self.0.remove(&actor);
            }
        }
        let gone: Vec<ActorId> = self.0.keys().copied().filter(|actor| !wanted.contains(actor)).collect();
        for actor in gone {
            self.0.remove(&actor);
            let stopping = node.clone();
            node.spawn(async move {
                if let Err(error) = stopping.host.stop(actor, mesh_core::limits::BUDGET_DEFAULT).await {
                    tracing::debug!(%actor, %error, "an actor ended before it was stopped");
                }
            });
        }
        Ok(())
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
            None => {
                let spec = Arc::new(spec);
                let parts = Parts { pool: node.pool.clone(), geometry: None };
                let setup = ActorSetup {
                    id: actor,
                    epoch,
                    spec: spec.clone(),
                    build: Arc::new(move |spec| registry::build(spec, &parts)),
                    disk: None,
                    onward,
                };
                node.host.start(setup).await?;
                self.0.insert(actor, spec);
            }
        }
        Ok(())
    }
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
        reclaims: leads.map(|(group, ..)| group).filter(|group| *group != mesh_core::id::GroupId::CONTROL).collect(),
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

const STORED_ADDRESSES_AFTER: core::time::Duration = core::time::Duration::from_secs(1);
