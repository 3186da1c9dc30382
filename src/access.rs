//! Who may use the mesh: what administrators ask of it, answered by the leader of the control group.
//!
//! Secrets are made here, go to metadata wrapped, and to who asked once. One order is carried out after the other, so that what
//! one has read is so still when it is decided.

use std::{collections::BTreeMap, sync::Arc};

use futures_util::future::try_join_all;
use mesh_core::{
    Entropy, Error, ErrorKind,
    audit::By,
    happened::{AccessEvent, Happened},
    id::{GroupId, KeyId, TenantId},
    meta::{
        AccessKeyRow, ControlView, EndedTenant, Grant, Level, MeshCommand, MetaAnswer, PrincipalRow, Query,
        TenantLimits, TenantRow, WrappedKey,
    },
    op::{AccessAnswer, AccessOp, NewKey, TenantReport, TenantUsage, UserReport, name_flaw, page, tenant_name_flaw},
    time::Instant,
};
use tokio::sync::{Mutex, MutexGuard, Semaphore, SemaphorePermit};

use crate::{
    founding::new_access_key,
    keyring::{Keyring, tenant_label},
    node::Inner,
};

/// Answers what is asked about who may use the mesh.
pub(crate) async fn administer(
    node: &Arc<Inner>,
    by: &By,
    op: AccessOp,
    deadline: Instant,
) -> Result<AccessAnswer, Error> {
    if !op.is_order() {
        return answer(node, by, &node.metadata.control(), op, deadline).await;
    }
    // Whoever asks may go away: an order that has begun ends, and then the next one begins.
    let (node, by) = (node.clone(), by.clone());
    let carried_out = tokio::spawn(async move {
        let _turn = turn(&node, deadline).await?;
        answer(&node, &by, &node.metadata.control(), op, deadline).await
    });
    carried_out.await.map_err(|error| Error::bug("an order was not carried out to its end").caused_by(error))?
}

/// Waits until nothing else is being carried out, and this leader has heard of all that was. An order whose time is over does not
/// begin: nobody waits for its secret any more.
async fn turn(node: &Inner, deadline: Instant) -> Result<(SemaphorePermit<'_>, MutexGuard<'_, ()>), Error> {
    let not_begun = |what| Error::new(ErrorKind::NotLeader, what);
    let waits = node.orders.waiting.try_acquire().map_err(|_| {
        Error::new(ErrorKind::Overloaded, "too many orders about who may use the mesh wait already; try again later")
    })?;
    let first = async {
        let one_by_one = node.orders.one_by_one.lock().await;
        // Of two that take themselves for leaders one has not heard of what the other has done.
        node.metadata.confirm(GroupId::CONTROL).await.map(|()| one_by_one)
    };
    let now = node.env.clock.now();
    let left = if deadline > now { deadline.after(now) } else { core::time::Duration::ZERO };
    match tokio::time::timeout(left, first).await {
        Ok(Ok(turn)) => Ok((waits, turn)),
        Ok(Err(error)) => {
            Err(not_begun("the control group does not follow this node: nothing was changed; try again")
                .caused_by(error))
        }
        Err(_) => Err(not_begun("others were before it for too long: nothing was changed; try again")),
    }
}

/// Orders about who may use the mesh, on their way.
pub(crate) struct Orders {
    waiting: Semaphore,
    one_by_one: Mutex<()>,
}

impl Default for Orders {
    fn default() -> Self {
        Self { waiting: Semaphore::new(ORDERS_MAX), one_by_one: Mutex::default() }
    }
}

/// Orders that wait at once at most.
const ORDERS_MAX: usize = 64;

async fn answer(
    node: &Inner,
    by: &By,
    view: &ControlView,
    op: AccessOp,
    deadline: Instant,
) -> Result<AccessAnswer, Error> {
    match op {
        AccessOp::Tenants { after } => Ok(tenants(view, after)),
        AccessOp::Users { tenant, after } => Ok(users(view, find(view, &tenant)?.id, after.as_deref())),
        AccessOp::Usage { tenant } => usage(node, view, find(view, &tenant)?, deadline).await,
        AccessOp::CreateTenant { name, limits } => {
            tenant_name_flaw(&name).map_or(Ok(()), |why| Err(Error::invalid(why).with("tenant", &name)))?;
            expect_usable(limits)?;
            let made = create_tenant(node, by, &name, limits).await?;
            note(node, AccessEvent::TenantMade { tenant: made.id, name });
            Ok(AccessAnswer::Tenant(report(&counts(&node.metadata.control()), &made)))
        }
        AccessOp::Limit { tenant, change } => {
            let row = find(view, &tenant)?;
            let limits = change.of(row.limits);
            expect_usable(limits)?;
            node.order(by, MeshCommand::SetLimits { tenant: row.id, limits }).await?;
            note(node, AccessEvent::Limited { tenant: row.id, limits });
            Ok(AccessAnswer::Tenant(report(&counts(view), &TenantRow { limits, ..(**row).clone() })))
        }
        AccessOp::CreateKey { tenant, user, grants } => {
            let tenant = find(view, &tenant)?.id;
            create_key((node, by), view, tenant, user, grants).await.map(AccessAnswer::Key)
        }
        AccessOp::Grant { tenant, user, new, grants } => {
            let tenant = find(view, &tenant)?.id;
            match user_of(view, tenant, &user) {
                None if !new => return Err(no_such_user(&user)),
                Some(_) if new => {
                    return Err(Error::new(ErrorKind::Conflict, "the tenant has this user already").with("user", user));
                }
                _ => {}
            }
            grant(node, by, tenant, &user, grants).await?;
            Ok(AccessAnswer::Done)
        }
        AccessOp::RevokeKey { access } => {
            let Some(row) = view.access_keys.get(&access) else {
                let what = "there is no such access key; `mesh key list` names those of a tenant";
                return Err(Error::new(ErrorKind::NotFound, what).with("access", access));
            };
            node.order(by, MeshCommand::DropAccessKey { access: access.clone() }).await?;
            note(node, AccessEvent::KeyRevoked { tenant: row.tenant, user: row.principal.clone(), access });
            Ok(AccessAnswer::Done)
        }
        AccessOp::DeleteTenant { tenant, everything } => delete_tenant((node, by), view, &tenant, everything).await,
        AccessOp::RotateKey { tenant } => {
            let row = find(view, &tenant)?;
            view.can(Level::ACCESS)?;
            let made = rotate(node, by, row).await?;
            note(node, AccessEvent::KeyRotated { tenant: made.id, key: made.key });
            Ok(AccessAnswer::Tenant(report(&counts(&node.metadata.control()), &made)))
        }
        AccessOp::DropUser { tenant, user } => {
            let tenant = find(view, &tenant)?.id;
            view.can(Level::ACCESS)?;
            user_of(view, tenant, &user).ok_or_else(|| no_such_user(&user))?;
            node.order(by, MeshCommand::DropPrincipal { tenant, name: user.clone() }).await?;
            note(node, AccessEvent::UserDropped { tenant, user });
            Ok(AccessAnswer::Done)
        }
    }
}

fn note(node: &Inner, what: AccessEvent) {
    node.note(Happened::Access(what));
}

/// A tenant by its name, or by its number.
fn find<'v>(view: &'v ControlView, tenant: &str) -> Result<&'v Arc<TenantRow>, Error> {
    let by_name = view.tenants.values().find(|row| row.name == tenant);
    let by_number = || view.tenants.get(&TenantId(tenant.strip_prefix("tenant-")?.parse().ok()?));
    by_name.or_else(by_number).ok_or_else(|| {
        Error::new(ErrorKind::NotFound, "there is no such tenant; `mesh tenant list` names all").with("tenant", tenant)
    })
}

fn user_of<'v>(view: &'v ControlView, tenant: TenantId, name: &str) -> Option<&'v Arc<PrincipalRow>> {
    view.principals.iter().find(|row| row.tenant == tenant && row.name == name)
}

fn no_such_user(user: &str) -> Error {
    Error::new(ErrorKind::NotFound, "the tenant has no such user; `mesh key list` names all").with("user", user)
}

/// A rate of nothing would be a tenant that may do nothing, and nobody would see why.
fn expect_usable(limits: TenantLimits) -> Result<(), Error> {
    if limits.requests_per_second == Some(0) || limits.bytes_per_second == Some(0) {
        let what = "a rate is 1 a second at least; who is to do nothing has its access keys revoked";
        return Err(Error::invalid(what));
    }
    Ok(())
}

/// A tenant with a new key.
pub(crate) fn new_tenant(keyring: &Keyring, name: &str, limits: TenantLimits, entropy: &mut dyn Entropy) -> TenantRow {
    TenantRow {
        id: TenantId(0),
        name: name.to_owned(),
        key: KeyId(0),
        wrapped: new_key(keyring, name, entropy),
        limits,
    }
}

/// A key for a tenant, under the cluster's.
fn new_key(keyring: &Keyring, tenant: &str, entropy: &mut dyn Entropy) -> WrappedKey {
    let mut key = [0; 32];
    entropy.fill(&mut key);
    keyring.wrap(&key, &tenant_label(tenant), entropy)
}

async fn create_tenant(node: &Inner, by: &By, name: &str, limits: TenantLimits) -> Result<Arc<TenantRow>, Error> {
    let row = new_tenant(&node.keyring, name, limits, &mut *(node.env.entropy)());
    match &*node.order(by, MeshCommand::CreateTenant(row)).await? {
        MetaAnswer::Tenant(row) => Ok(row.clone()),
        _ => Err(Error::bug("a new tenant was answered with something else")),
    }
}

async fn delete_tenant(
    (node, by): (&Inner, &By),
    view: &ControlView,
    tenant: &str,
    everything: bool,
) -> Result<AccessAnswer, Error> {
    if let Some((id, row)) = view.ended.iter().find(|(id, row)| row.name == tenant || id.to_string() == tenant) {
        return Ok(AccessAnswer::Tenant(ended_report(&counts(view), *id, row)));
    }
    let TenantRow { id, name, .. } = (**find(view, tenant)?).clone();
    let at = node.env.clock.wall();
    node.order(by, MeshCommand::EndTenant { tenant: id, at, everything }).await?;
    note(node, AccessEvent::TenantEnded { tenant: id, name: name.clone() });
    Ok(AccessAnswer::Tenant(ended_report(&counts(view), id, &EndedTenant { name, since: at })))
}

async fn rotate(node: &Inner, by: &By, row: &TenantRow) -> Result<Arc<TenantRow>, Error> {
    let wrapped = new_key(&node.keyring, &row.name, &mut *(node.env.entropy)());
    match &*node.order(by, MeshCommand::RotateKey { tenant: row.id, after: row.key, wrapped }).await? {
        MetaAnswer::Tenant(row) => Ok(row.clone()),
        _ => Err(Error::bug("another key was answered with something else")),
    }
}

async fn create_key(
    (node, by): (&Inner, &By),
    view: &ControlView,
    tenant: TenantId,
    user: String,
    grants: Option<Vec<Grant>>,
) -> Result<NewKey, Error> {
    match (user_of(view, tenant, &user), grants) {
        (None, None) => {
            let what = "the tenant has no such user: say what it may do, and it is made";
            return Err(Error::new(ErrorKind::NotFound, what).with("user", user));
        }
        (None, Some(grants)) => grant(node, by, tenant, &user, grants).await?,
        (Some(known), Some(grants)) if known.grants != grants => {
            let what = "the user is there, and may do something else: `mesh key grant` changes that for all its keys";
            let may: Vec<String> = known.grants.iter().map(ToString::to_string).collect();
            return Err(Error::new(ErrorKind::Conflict, what).with("user", user).with("may", may.join(" ")));
        }
        (Some(_), _) => {}
    }
    let (access, secret, wrapped) = new_access_key(&node.keyring, &mut *(node.env.entropy)());
    let row = AccessKeyRow { access: access.clone(), secret: wrapped, tenant, principal: user.clone() };
    node.order(by, MeshCommand::PutAccessKey(row)).await?;
    note(node, AccessEvent::KeyMade { tenant, user, access: access.clone() });
    Ok(NewKey { access, secret })
}

async fn grant(node: &Inner, by: &By, tenant: TenantId, user: &str, grants: Vec<Grant>) -> Result<(), Error> {
    name_flaw(user).map_or(Ok(()), |why| Err(Error::invalid(why).with("user", user)))?;
    if let Some((grant, why)) = grants.iter().find_map(|grant| Some((grant, grant.flaw()?))) {
        return Err(Error::invalid(why).with("grant", grant));
    }
    node.order(by, MeshCommand::PutPrincipal(PrincipalRow { tenant, name: user.to_owned(), grants: grants.clone() }))
        .await?;
    note(node, AccessEvent::Granted { tenant, user: user.to_owned(), grants });
    Ok(())
}

/// What there is of each tenant: users, access keys, keys of before.
fn counts(view: &ControlView) -> BTreeMap<TenantId, [u64; 3]> {
    let users = view.principals.iter().map(|user| (user.tenant, 0));
    let keys = view.access_keys.values().map(|key| (key.tenant, 1));
    let past = view.past_keys.values().map(|key| (key.tenant, 2));
    let mut counts: BTreeMap<TenantId, [u64; 3]> = BTreeMap::new();
    for (tenant, what) in users.chain(keys).chain(past) {
        counts.entry(tenant).or_default()[what] += 1;
    }
    counts
}

fn report(counts: &BTreeMap<TenantId, [u64; 3]>, row: &TenantRow) -> TenantReport {
    let [users, keys, past_keys] = counts.get(&row.id).copied().unwrap_or_default();
    let TenantRow { id, name, limits, key, .. } = row.clone();
    TenantReport { id, name, limits, users, keys, key, past_keys, ended: None }
}

/// What is left of a tenant that was deleted.
fn ended_report(counts: &BTreeMap<TenantId, [u64; 3]>, id: TenantId, row: &EndedTenant) -> TenantReport {
    let [users, keys, past_keys] = counts.get(&id).copied().unwrap_or_default();
    let (name, limits) = (row.name.clone(), TenantLimits::default());
    TenantReport { id, name, limits, users, keys, key: KeyId(0), past_keys, ended: Some(row.since) }
}

fn tenants(view: &ControlView, after: Option<TenantId>) -> AccessAnswer {
    let counts = counts(view);
    let present = view.tenants.values().map(|row| report(&counts, row));
    let ended = view.ended.iter().map(|(id, row)| ended_report(&counts, *id, row));
    let mut all: Vec<TenantReport> =
        present.chain(ended).filter(|row| after.is_none_or(|after| row.id > after)).collect();
    all.sort_by_key(|row| row.id);
    let count = all.len();
    let tenants = page::fitting(all);
    let next = tenants.last().filter(|_| tenants.len() < count).map(|last| last.id);
    AccessAnswer::Tenants { tenants, next }
}

fn users(view: &ControlView, tenant: TenantId, after: Option<&str>) -> AccessAnswer {
    let mut keys: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for key in view.access_keys.values().filter(|key| key.tenant == tenant) {
        keys.entry(&key.principal).or_default().push(key.access.clone());
    }
    let own = view.principals.iter().filter(|row| row.tenant == tenant);
    let behind = own.filter(|row| after.is_none_or(|after| row.name.as_str() > after));
    let all: Vec<UserReport> = behind
        .map(|row| UserReport {
            name: row.name.clone(),
            grants: row.grants.clone(),
            keys: keys.remove(row.name.as_str()).unwrap_or_default(),
        })
        .collect();
    let count = all.len();
    let users = page::fitting(all);
    let next = users.last().filter(|_| users.len() < count).map(|last| last.name.clone());
    AccessAnswer::Users { users, next }
}

/// What all namespace groups say, or nothing: a sum without one of them would be a wrong one.
async fn usage(node: &Inner, view: &ControlView, row: &TenantRow, deadline: Instant) -> Result<AccessAnswer, Error> {
    let groups = (1..=u64::from(view.namespaces)).map(GroupId);
    let asked =
        groups.map(async |group| match &*node.ask_group(group, Query::Usage { tenant: row.id }, deadline).await? {
            MetaAnswer::Usage { bytes, objects } => Ok((*bytes, *objects)),
            _ => Err(Error::bug("a group answered with something else than was asked")),
        });
    let all = try_join_all(asked).await?;
    Ok(AccessAnswer::Usage(TenantUsage {
        id: row.id,
        name: row.name.clone(),
        bytes: all.iter().map(|(bytes, _)| bytes).sum(),
        objects: all.iter().map(|(_, objects)| objects).sum(),
        limits: row.limits,
    }))
}
