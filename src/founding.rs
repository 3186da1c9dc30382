//! The founding of a cluster: its first member, tenant, access key and bucket.

use core::time::Duration;
use std::{collections::BTreeSet, sync::Arc};

use mesh_core::{
    Error, ErrorKind,
    id::{GroupId, TenantId},
    meta::{
        AccessKeyRow, BucketCommand, BucketSettings, ControlView, Grant, MeshCommand, MetaAnswer, PrincipalRow, Query,
        TenantLimits, WrappedKey,
    },
};
use serde::{Deserialize, Serialize};

use crate::{access::new_tenant, keyring::access_label, node::Inner};

/// What a cluster begins with. Holds no usable secret: the access key's is wrapped under the cluster key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Founding {
    /// The first tenant.
    pub tenant: String,
    /// Its first principal, who may do everything in the tenant.
    pub principal: String,
    /// The public half of its access key.
    pub access_key: String,
    /// The secret half, wrapped.
    pub secret: WrappedKey,
    /// The first bucket.
    pub bucket: String,
}

/// Makes what is not there yet. Every step may be repeated: a founding that was cut short is finished by the next.
pub(crate) async fn found(node: &Inner, founding: &Founding) -> Result<(), Error> {
    let is_new = node.metadata.members(GroupId::CONTROL).0.is_empty() && !node.metadata.is_damaged();
    if is_new && node.has_drives_of_ours().await {
        return Err(Error::new(
            ErrorKind::Conflict,
            "the drives of this machine are of this mesh, and its data folder is from before the founding: put back the \
             folder as it was last. A mesh is founded once",
        ));
    }
    let cluster = &node.config.cluster;
    // Once the mesh is formed its groups go their own ways: one that is not here any more is elsewhere, and is not to be begun
    // a second time.
    let is_known = is_known_elsewhere(node) || node.metadata.control().cluster.is_some();
    if !is_known && (is_new || !is_formed(node).await?) {
        for group in (0..=u64::from(cluster.namespaces.0)).map(GroupId) {
            node.metadata.ensure_group(group).await?;
            let alone = BTreeSet::from_iter(node.metadata.replica_id(group));
            node.metadata.initialize(group, &alone).await?;
        }
    }
    let form =
        MeshCommand::Form { cluster: node.keyring.cluster(), code: cluster.code.0, namespaces: cluster.namespaces.0 };
    node.propose(form).await?;
    node.propose(MeshCommand::PutNode(node.info_for_all())).await?;
    // What was made and has been changed or taken away since stays so.
    let Some(known) = all_there_is(node).await? else { return Ok(()) };
    let tenant = match known.tenants.values().find(|tenant| tenant.name == founding.tenant) {
        Some(row) => row.id,
        None => match tenant(node, &founding.tenant).await? {
            Some(made) => made,
            None => return Ok(()),
        },
    };
    if !known.principals.iter().any(|row| row.tenant == tenant && row.name == founding.principal) {
        let principal = PrincipalRow { tenant, name: founding.principal.clone(), grants: vec![Grant::all()] };
        unless_it_went(node.propose(MeshCommand::PutPrincipal(principal)).await)?;
    }
    if !known.access_keys.contains_key(&founding.access_key) {
        let key = AccessKeyRow {
            access: founding.access_key.clone(),
            secret: founding.secret.clone(),
            tenant,
            principal: founding.principal.clone(),
        };
        unless_it_went(node.propose(MeshCommand::PutAccessKey(key)).await)?;
    }
    let bucket = BucketCommand::CreateBucket {
        proposer: None,
        name: Arc::from(founding.bucket.as_str()),
        tenant,
        created: node.env.clock.wall(),
        settings: BucketSettings::default(),
    };
    match node.propose(bucket).await {
        Err(error) if error.kind() != ErrorKind::BucketExists => Err(error),
        _ => Ok(()),
    }
}

/// What the control group has; `None`: more than a founding, for a message does not hold it.
async fn all_there_is(node: &Inner) -> Result<Option<Arc<ControlView>>, Error> {
    let deadline = node.env.clock.now() + FORMED_BUDGET;
    match node.ask_group(GroupId::CONTROL, Query::Control, deadline).await.as_deref() {
        Ok(MetaAnswer::Control(view)) => Ok(Some(view.clone())),
        Ok(_) => Err(Error::bug("the control group answered with something else")),
        Err(error) if error.kind() == ErrorKind::TooLarge => Ok(None),
        Err(error) => Err(error.clone()),
    }
}

/// Somebody who was taken out, or an access key that was revoked, is not made again; nor is a key for somebody who is not there.
fn unless_it_went(outcome: Result<Arc<MetaAnswer>, Error>) -> Result<(), Error> {
    match outcome {
        Err(error) if matches!(error.kind(), ErrorKind::Conflict | ErrorKind::NotFound) => {
            tracing::info!(%error, "the founding leaves what was taken away since");
            Ok(())
        }
        outcome => outcome.map(drop),
    }
}

/// Whether others follow a control group: this node's replica of it may be new because what it had was damaged.
fn is_known_elsewhere(node: &Inner) -> bool {
    let outlook = node.outlook();
    let others = outlook.sight.reports.values().filter(|report| report.node != node.id);
    others.flat_map(|report| &report.groups).any(|said| said.group == GroupId::CONTROL && said.leader.is_some())
}

/// Whether the control group says that the mesh is formed: whoever leads it, and not as it may be remembered here.
async fn is_formed(node: &Inner) -> Result<bool, Error> {
    Ok(all_there_is(node).await?.is_none_or(|view| view.cluster.is_some()))
}

/// How long the control group is asked whether the mesh is formed.
const FORMED_BUDGET: Duration = Duration::from_secs(10);

/// The tenant of this name, made with a new key if there is none; `None`: it was deleted since.
async fn tenant(node: &Inner, name: &str) -> Result<Option<TenantId>, Error> {
    let known = |view: &ControlView| view.tenants.values().find(|tenant| tenant.name == name).map(|tenant| tenant.id);
    if let Some(tenant) = known(&node.metadata.control()) {
        return Ok(Some(tenant));
    }
    let row = new_tenant(&node.keyring, name, TenantLimits::default(), &mut *(node.env.entropy)());
    match node.propose(MeshCommand::CreateTenant(row)).await.as_deref() {
        Ok(MetaAnswer::Tenant(row)) => Ok(Some(row.id)),
        Ok(_) => Err(Error::bug("a new tenant was answered with something else")),
        // Another founding of the same cluster came first, or somebody has deleted it.
        Err(error) if error.kind() == ErrorKind::Conflict => {
            let tenant = all_there_is(node).await?.and_then(|view| known(&view));
            if tenant.is_none() {
                tracing::info!(%error, "the founding leaves what was taken away since");
            }
            Ok(tenant)
        }
        Err(error) => Err(error.clone()),
    }
}

/// A new access key: the public half, the secret half, and the latter wrapped.
pub fn new_access_key(
    keyring: &crate::keyring::Keyring,
    entropy: &mut dyn mesh_core::Entropy,
) -> (String, String, WrappedKey) {
    let access = format!("MESH{}", letters(16, entropy));
    let secret = letters(40, entropy);
    let wrapped = keyring.wrap(secret.as_bytes(), &access_label(&access), entropy);
    (access, secret, wrapped)
}

/// Letters and digits that nobody mistakes for each other, 5 bits each.
fn letters(count: usize, entropy: &mut dyn mesh_core::Entropy) -> String {
    const ALPHABET: &[u8; 32] = b"ABCDEFGHJKLMNPQRSTUVWXYZ23456789";
    let mut bytes = vec![0; count];
    entropy.fill(&mut bytes);
    bytes.iter().map(|byte| char::from(ALPHABET[usize::from(byte % 32)])).collect()
}
