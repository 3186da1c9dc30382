//! A tenant that comes, stores something, and is deleted with all of it.

use core::time::Duration;
use std::sync::{Arc, Mutex, atomic::Ordering::Relaxed};

use mesh::Client;
use mesh_core::{
    Error, ErrorKind, Principal,
    id::TenantId,
    meta::{Attributes, Grant, TenantLimits},
    op::{AccessAnswer, AccessOp, AdminOp, TenantReport},
};
use mesh_transport::End;

use super::{Clients, Errand, Seen, Told, is_wrong, orders::AGAIN};
use crate::nodes::{lock, log};

/// Its name, its only user's and its bucket's.
const GUEST: &str = "guest";
/// Objects that it stores.
const OBJECTS: usize = 12;
/// How often it asks for what it is not given at once.
const TRIES: usize = 20;
/// The numbers that it may get: those of a room are founded with one tenant or two.
const NUMBERS: [TenantId; 2] = [TenantId(2), TenantId(3)];

impl Clients {
    /// A tenant is made, stores something and is deleted; orders are given again until they are granted.
    pub(in crate::nodes) fn entertain(&self, errand: Arc<Errand>) -> Vec<End> {
        let (admin, end) = self.administrator();
        let (mut ends, mut users) = (vec![end], Vec::new());
        for tenant in NUMBERS {
            let (user, end) = self.guest(tenant);
            users.push((tenant, user));
            ends.push(end);
        }
        let (turns, seen) = (self.orders.clone(), self.seen.clone());
        self.runtime.spawn(async move {
            let order = async |op: AccessOp| loop {
                let answer = {
                    let _turn = turns.lock().await;
                    admin.access(op.clone()).await
                };
                if let Some(granted) = seen.was_granted_to_guest(&op, answer, &errand) {
                    break granted;
                }
                tokio::time::sleep(AGAIN).await;
            };
            order(AccessOp::CreateTenant { name: GUEST.into(), limits: TenantLimits::default() }).await;
            let (tenant, user) = (GUEST.to_owned(), GUEST.to_owned());
            order(AccessOp::Grant { tenant, user, new: true, grants: vec![Grant::all()] }).await;
            let Ok(made) = find(&admin).await else { return errand.over.store(true, Relaxed) };
            let id = made.map(|report| report.id);
            for (_, user) in users.iter().filter(|(tenant, _)| Some(*tenant) == id) {
                settle_in(user).await;
            }
            let op = AccessOp::DeleteTenant { tenant: GUEST.into(), everything: true };
            let first = seen.now();
            order(op.clone()).await;
            seen.was_granted(first, &AdminOp::Access(op));
            errand.over.store(true, Relaxed);
        });
        ends
    }

    /// Asks whether nothing is left of it, and nobody is served in its name.
    pub(in crate::nodes) fn ask_whether_gone(&self, told: &Arc<Mutex<Told>>) -> Vec<End> {
        if !lock(told).ask() {
            return Vec::new();
        }
        let (admin, end) = self.administrator();
        let (mut ends, mut users) = (vec![end], Vec::new());
        for tenant in NUMBERS {
            let (user, end) = self.guest(tenant);
            users.push(user);
            ends.push(end);
        }
        let (told, seen) = (told.clone(), self.seen.clone());
        self.runtime.spawn(async move {
            let began = seen.now() / 1_000_000;
            let mut lacks = match find(&admin).await {
                Ok(None) => None,
                Ok(Some(report)) => Some(report.to_string()),
                Err(error) => Some(error.to_string()),
            };
            for user in users {
                if let Ok(object) = user.get_bytes(GUEST, "g0").await {
                    lacks = Some(format!("{} bytes of it were read", object.len()));
                }
            }
            lock(&told).was_told(began, lacks);
        });
        ends
    }

    fn guest(&self, tenant: TenantId) -> (Client, End) {
        let (link, end) = self.link(Principal::User { tenant, name: GUEST.into() });
        (Client::over(link, self.hosts.iter().map(|(host, _)| *host).collect::<Vec<_>>()), end)
    }
}

impl Seen {
    /// Notes what came of an order about it. What it came to, if it needs not be given again.
    fn was_granted_to_guest(&self, op: &AccessOp, answer: Result<AccessAnswer, Error>, errand: &Errand) -> Option<()> {
        log::say(|| format!("GUEST {op:?}: {answer:?}"));
        match answer {
            Ok(_) => Some(()),
            Err(error) if is_wrong(&error) => {
                self.broken(format!("an order about a tenant was answered: {error}"));
                Some(())
            }
            // It was carried out, and nobody could say so.
            Err(error) if error.kind() == ErrorKind::Conflict => Some(()),
            Err(error) if error.kind() == ErrorKind::NotFound && matches!(op, AccessOp::DeleteTenant { .. }) => {
                Some(())
            }
            Err(error) => {
                errand.was_refused(format!("{op:?}: {error}"));
                None
            }
        }
    }
}

/// What is known of it; none: nothing.
async fn find(admin: &Client) -> Result<Option<TenantReport>, Error> {
    let mut tries = 0;
    loop {
        match admin.access(AccessOp::Tenants { after: None }).await {
            Ok(AccessAnswer::Tenants { tenants, .. }) => return Ok(tenants.into_iter().find(|row| row.name == GUEST)),
            Ok(_) => return Err(Error::bug("tenants were asked for, and something else was told")),
            Err(error) if tries == TRIES => return Err(error),
            Err(_) => tries += 1,
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// It makes a bucket, stores objects there, and leaves an upload open; what is not to be had is left out.
async fn settle_in(user: &Client) {
    for _ in 0..TRIES {
        match user.create_bucket(GUEST).await {
            Err(error) if error.kind() != ErrorKind::BucketExists => tokio::time::sleep(AGAIN).await,
            _ => break,
        }
    }
    for at in 0..OBJECTS {
        if let Err(error) = user.put_bytes(GUEST, &format!("g{at}"), &vec![at as u8; 700 * at]).await {
            log::say(|| format!("GUEST stores nothing: {error}"));
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    if let Err(error) = user.create_upload(GUEST, "left", Attributes::default()).await {
        log::say(|| format!("GUEST begins no upload: {error}"));
    }
}
