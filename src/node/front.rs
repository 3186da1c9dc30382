//! The S3 front end of a node: the gateway, given its way to Object and the cluster's access keys.

use core::time::Duration;
use std::sync::{Arc, Weak};

use futures_util::{FutureExt as _, future::BoxFuture};
use mesh_actors::s3::{self, AccessKey, AccessKeys, Gateway, GatewayOptions, Ingress, ServeOptions};
use mesh_core::{Error, ErrorKind, Outcome, Request, id::ActorId};
use tokio::{net::TcpListener, task::JoinSet};

use super::{Inner, lock};
use crate::keyring::access_label;

/// The gateway's way to Object, and its access keys. Weak: the node owns the front end, not the other way round.
struct Front(Weak<Inner>);

impl Ingress for Front {
    fn ask(&self, request: Request) -> BoxFuture<'static, Outcome> {
        match self.0.upgrade() {
            Some(node) => node.host.request(ActorId::ingress(node.id), request).boxed(),
            None => core::future::ready(Err(Error::new(ErrorKind::Draining, "the node is stopping"))).boxed(),
        }
    }
}

impl AccessKeys for Front {
    fn lookup(&self, access: &str) -> Option<AccessKey> {
        let node = self.0.upgrade()?;
        let row = node.metadata.control().access_keys.get(access)?.clone();
        let secret = match node.keyring.unwrap(&row.secret, &access_label(access)) {
            Ok(secret) => String::from_utf8(secret).ok()?,
            Err(error) => {
                tracing::error!(%access, %error, "an access key's secret does not open");
                return None;
            }
        };
        Some(AccessKey { secret, tenant: row.tenant, principal: Arc::from(row.principal.as_str()) })
    }
}

/// Serves S3 until the node stops.
pub(super) async fn serve(node: &Arc<Inner>) -> Result<(), Error> {
    let Some(config) = &node.config.s3 else { return Ok(()) };
    let refused = |error: std::io::Error| {
        Error::new(ErrorKind::Invalid, "the S3 front end cannot listen; choose another address or stop what uses it")
            .with("address", config.address)
            .caused_by(error)
    };
    let listener = TcpListener::bind(config.address).await.map_err(refused)?;
    *lock(&node.s3) = Some(listener.local_addr().map_err(refused)?);
    let front = Arc::new(Front(Arc::downgrade(node)));
    let options = GatewayOptions { reclaim_grace: node.config.timing.reclaim_grace.0, ..GatewayOptions::default() };
    let gateway = Gateway::new(front.clone(), front, node.env.clock.clone(), node.pool.clone(), options);
    node.spawn(s3::serve(listener, gateway, ServeOptions::default(), node.stopped()));
    Ok(())
}

/// Waits for a node's tasks, and ends those that do not end themselves.
pub(super) async fn wait(mut tasks: JoinSet<()>, patience: Duration) {
    let all = async { while tasks.join_next().await.is_some() {} };
    if tokio::time::timeout(patience, all).await.is_err() {
        tracing::warn!("some tasks did not end in time and are aborted");
        tasks.shutdown().await;
    }
}
