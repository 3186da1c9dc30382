//! What actors are made of, by what the control group holds and what a node sees of the drives: a node's ingress, the data
//! chains, and the tails of chains that are split.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use mesh_core::{
    Error, ErrorKind,
    assignment::{Assignment, Tail},
    id::{ActorId, DriveId, Epoch, GroupId, NodeId, TenantId},
    limits::STRIPE_BYTES_MAX,
    meta::{ControlView, Grant, Level},
    shared::SharedMap,
    spec::{CompressSpec, EncryptSpec, Encryption, ErasureSpec, FunctionSpec, KeeperSpec, ObjectSpec, PolicySpec},
    topology::DriveState,
};

/// How what is stored is kept, as the node is configured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Upkeep {
    /// See [`ObjectSpec::reclaim_grace_ms`].
    pub reclaim_grace_ms: u64,
    /// See [`KeeperSpec::repair_bytes_per_s`].
    pub repair_bytes_per_s: u64,
    /// See [`KeeperSpec::count_every_ms`].
    pub count_every_ms: u64,
    /// Drives that have been away for so long go out by themselves; 0: never.
    pub out_after_ms: u64,
}

/// The ingress of a node. `epoch`: the node's start. `leads`: the groups that it leads; `reclaim_grace_ms`: see
/// [`ObjectSpec::reclaim_grace_ms`].
#[must_use]
pub fn ingress(
    view: &ControlView,
    node: NodeId,
    epoch: Epoch,
    leads: impl Iterator<Item = GroupId>,
    reclaim_grace_ms: u64,
) -> FunctionSpec {
    FunctionSpec::Object(ObjectSpec {
        node,
        epoch,
        layout: view.layouts.keys().next_back().copied(),
        stripe_bytes: STRIPE_BYTES_MAX as u32,
        keys: view.tenants.values().map(|tenant| (tenant.id, Encryption::Key(tenant.key))).collect(),
        reclaims: leads.filter(|group| *group != GroupId::CONTROL).collect(),
        reclaim_grace_ms,
        drives: view.drives.keys().copied().collect(),
        lost: view.lost.keys().copied().collect(),
        layouts: view.layouts.clone(),
        namespaces: view.namespaces,
    })
}

/// The keeper of a node. `leads`: the groups that it leads; it keeps nothing of those before every node can do lines.
pub fn keeper(
    view: &ControlView,
    leads: impl Iterator<Item = GroupId>,
    drives: &SharedMap<DriveId, DriveState>,
    damaged: &BTreeSet<DriveId>,
    upkeep: Upkeep,
) -> FunctionSpec {
    let can = view.level >= Level::LINES;
    FunctionSpec::Keeper(KeeperSpec {
        groups: leads.filter(|group| can && *group != GroupId::CONTROL).collect(),
        layouts: view.layouts.clone(),
        drives: drives.clone(),
        repair_bytes_per_s: upkeep.repair_bytes_per_s,
        level: view.level,
        grace_ms: upkeep.reclaim_grace_ms,
        count_every_ms: upkeep.count_every_ms,
        damaged: damaged.clone(),
        leaving: view.leaving.clone(),
    })
}

/// The stages of the data chain of a tenant for one ingress.
///
/// # Errors
/// `Unreachable` if the tenant is not known here yet.
pub fn data_chain(
    view: &ControlView,
    drives: &SharedMap<DriveId, DriveState>,
    actor: ActorId,
) -> Result<Vec<FunctionSpec>, Error> {
    let tenant = actor.as_data().and_then(|(tenant, _)| view.tenants.get(&tenant)).ok_or_else(|| {
        Error::new(ErrorKind::Unreachable, "the actor's tenant is not known on this node yet; try again")
            .with("actor", actor)
    })?;
    let policy = PolicySpec { tenant: tenant.id, principals: principals(tenant.id, view), limits: tenant.limits };
    let own = view.stages_of(tenant.id).cloned().map(FunctionSpec::Custom);
    let erasure = ErasureSpec { layouts: view.layouts.clone(), drives: drives.clone() };
    let mut stages = vec![FunctionSpec::Policy(policy)];
    stages.extend(own);
    // A node that hears late that the mesh can do it builds the chain under the epoch of before, and that one refuses what it
    // should compress.
    if view.level >= Level::COMPRESS {
        stages.push(FunctionSpec::Compress(CompressSpec::default()));
    }
    stages.extend([FunctionSpec::Encrypt(EncryptSpec::default()), FunctionSpec::Erasure(erasure)]);
    Ok(stages)
}

fn principals(tenant: TenantId, view: &ControlView) -> BTreeMap<Arc<str>, Vec<Grant>> {
    let own = view.principals.iter().filter(|row| row.tenant == tenant);
    own.map(|row| (Arc::from(row.name.as_str()), row.grants.clone())).collect()
}

/// The head of a chain, which goes on to a tail if it has one that runs.
#[must_use]
pub fn head(stages: Vec<FunctionSpec>, tail: Option<&Tail>) -> FunctionSpec {
    match tail {
        Some(tail) => FunctionSpec::Split(stages, tail.cut),
        None => FunctionSpec::Chain(stages),
    }
}

/// The last stages of a chain whose head is elsewhere.
///
/// # Errors
/// `Bug` if there are not so many.
pub fn tail(mut stages: Vec<FunctionSpec>, chain: ActorId, cut: u8) -> Result<FunctionSpec, Error> {
    if usize::from(cut) >= stages.len() {
        return Err(Error::bug("a chain is shorter than its head").with("actor", chain).with("cut", cut));
    }
    Ok(FunctionSpec::Chain(stages.split_off(usize::from(cut))))
}

/// The actor that runs the stages of a data chain from number `cut` on.
#[must_use]
pub fn tail_of(chain: ActorId, cut: u8) -> Option<ActorId> {
    chain.as_data().map(|(tenant, ingress)| ActorId::tail(tenant, ingress, cut))
}

/// Chains that are split, with their tails.
pub fn tails(view: &ControlView) -> impl Iterator<Item = (&Assignment, &Tail)> {
    view.tails.iter().filter_map(|(actor, tail)| Some((view.assignments.get(actor)?, tail)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tail_is_what_its_head_leaves() {
        let chain = ActorId::data(TenantId(7), NodeId(1));
        let stages = || {
            let erasure = ErasureSpec { layouts: BTreeMap::new(), drives: SharedMap::new() };
            vec![FunctionSpec::Encrypt(EncryptSpec::default()), FunctionSpec::Erasure(erasure)]
        };
        assert_eq!(head(stages(), None), FunctionSpec::Chain(stages()));
        let cut = Tail { cut: 1, node: NodeId(2) };
        assert_eq!(head(stages(), Some(&cut)), FunctionSpec::Split(stages(), 1));
        assert_eq!(tail(stages(), chain, 1), Ok(FunctionSpec::Chain(stages().split_off(1))));
        assert_eq!(tail(stages(), chain, 2).map_err(|error| error.kind()), Err(ErrorKind::Bug));
        assert_eq!(tail_of(chain, 2), Some(ActorId::tail(TenantId(7), NodeId(1), 2)));
        assert_eq!(tail_of(ActorId::ingress(NodeId(1)), 2), None);
    }

    #[test]
    fn a_chain_knows_the_principals_of_its_tenant_and_of_no_other() {
        use mesh_core::{
            id::KeyId,
            meta::{PrincipalRow, TenantLimits, TenantRow, WrappedKey},
        };
        let (own, other) = (TenantId(7), TenantId(8));
        let tenant = |id| {
            let wrapped = WrappedKey { key: KeyId(0), nonce: [0; 12], sealed: vec![0; 48] };
            let (name, limits) = ("tenant".into(), TenantLimits::default());
            (id, Arc::new(TenantRow { id, name, key: KeyId(0), wrapped, limits }))
        };
        let principal =
            |tenant, name: &str| Arc::new(PrincipalRow { tenant, name: name.to_owned(), grants: vec![Grant::all()] });
        let view = ControlView {
            tenants: [own, other].map(tenant).into(),
            principals: Arc::new(vec![principal(own, "ann"), principal(other, "eve")]),
            ..ControlView::default()
        };
        let stages = data_chain(&view, &SharedMap::new(), ActorId::data(own, NodeId(1))).expect("it is known");
        let Some(FunctionSpec::Policy(policy)) = stages.first() else { panic!("{stages:?}") };
        assert_eq!(policy.principals, [(Arc::from("ann"), vec![Grant::all()])].into());
    }

    #[test]
    fn an_ingress_reclaims_for_the_groups_that_its_node_leads_and_never_for_the_control_group() {
        let leads = [GroupId::CONTROL, GroupId(1), GroupId(3)];
        let spec = ingress(&ControlView::default(), NodeId(1), Epoch(5), leads.into_iter(), 7);
        let FunctionSpec::Object(spec) = spec else { panic!("{spec:?}") };
        assert_eq!((spec.reclaims, spec.epoch, spec.reclaim_grace_ms), (vec![GroupId(1), GroupId(3)], Epoch(5), 7));
    }

    #[test]
    fn a_chain_compresses_before_it_encrypts_once_every_node_can() {
        use mesh_core::{
            id::KeyId,
            meta::{TenantLimits, TenantRow, WrappedKey},
        };
        let wrapped = WrappedKey { key: KeyId(0), nonce: [0; 12], sealed: vec![0; 48] };
        let (id, limits) = (TenantId(7), TenantLimits::default());
        let row = Arc::new(TenantRow { id, name: "tenant".into(), key: KeyId(0), wrapped, limits });
        for (level, names) in [
            (Level::LEAVES, &["policy", "encrypt", "erasure"][..]),
            (Level::COMPRESS, &["policy", "compress", "encrypt", "erasure"]),
        ] {
            let view = ControlView { tenants: [(id, row.clone())].into(), level, ..ControlView::default() };
            let stages = data_chain(&view, &SharedMap::new(), ActorId::data(id, NodeId(1))).expect("it is known");
            assert_eq!(stages.iter().map(FunctionSpec::name).collect::<Vec<_>>(), names);
        }
    }
}
