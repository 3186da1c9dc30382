//! The S3 front end of a node: the gateway, given its way to Object and the cluster's access keys.

use core::time::Duration;
use std::sync::{
    Arc, Weak,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use futures_util::{FutureExt as _, future::BoxFuture};
use mesh_core::{
    Error, ErrorKind, Outcome, Request,
    id::{ActorId, NodeId},
};
use mesh_dpu_runtime::shell::Workers;
use mesh_fronts::{
    s3::{self, AccessKey, AccessKeys, Gateway, GatewayOptions, Ingress, ServeOptions},
    tls::Tls,
};
use tokio::{
    sync::oneshot,
    task::{JoinHandle, JoinSet},
};

use super::{Inner, lock, losses};
use crate::{config::TlsConfig, keyring::access_label};

/// The gateway's way to Object, and its access keys. Weak: the node owns the front end, not the other way round.
struct Front {
    node: Weak<Inner>,
    /// The node was ready once.
    ready: AtomicBool,
}

impl Ingress for Front {
    fn ask(&self, request: Request) -> BoxFuture<'static, Outcome> {
        match self.node.upgrade() {
            Some(node) => async move {
                let subject = losses::subject(&request.op);
                let outcome = node.host.request(ActorId::ingress(node.id), request).await;
                node.losses.see(subject.as_deref(), &outcome, node.env.clock.now());
                outcome
            }
            .boxed(),
            None => core::future::ready(Err(Error::new(ErrorKind::Draining, "the node is stopping"))).boxed(),
        }
    }
}

impl AccessKeys for Front {
    fn lookup(&self, access: &str) -> Option<AccessKey> {
        let node = self.node.upgrade()?;
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

    fn ready(&self) -> Result<(), Error> {
        if self.ready.load(Relaxed) {
            return Ok(());
        }
        if let Some(node) = self.node.upgrade() {
            node.expect_ready()?;
            self.ready.store(true, Relaxed);
        }
        Ok(())
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
    let tls = match config.tls.clone() {
        Some(TlsConfig { certificate, key }) => {
            Some(Arc::new(node.env.workers.aside(move || Tls::load(&certificate, &key)).await??))
        }
        None => None,
    };
    let (listener, bound) = node.env.doorways.listen(config.address).await.map_err(refused)?;
    let listener = match &tls {
        Some(tls) => tls.over(listener),
        None => listener,
    };
    *lock(&node.s3) = Some(bound);
    let front = Arc::new(Front { node: Arc::downgrade(node), ready: AtomicBool::new(false) });
    let memory_bytes_max = usize::try_from(config.memory.0).unwrap_or(usize::MAX);
    let options = GatewayOptions {
        memory_bytes_max,
        domain: config.domain.clone(),
        reclaim_grace: node.config.timing.reclaim_grace.0,
        ..GatewayOptions::default()
    };
    let gateway = Gateway::new(front.clone(), front, node.env.clock.clone(), node.pool.clone(), options);
    let (stop, told) = oneshot::channel::<()>();
    let told = async move {
        // Told, or the node is gone.
        told.await.unwrap_or_default();
    };
    let (id, workers) = (node.id, node.env.workers.clone());
    let served = tokio::spawn(async move {
        let serving = s3::serve(listener, gateway, ServeOptions::default(), told);
        let Some(tls) = tls else { return serving.await };
        tokio::select! {
            () = serving => {}
            () = keep_fresh(id, tls, workers) => {}
        }
    });
    *lock(&node.front) = Some(Serving { stop, served });
    Ok(())
}

/// Looks for a certificate that was replaced, for ever.
async fn keep_fresh(node: NodeId, tls: Arc<Tls>, workers: Workers) {
    loop {
        tokio::time::sleep(TLS_LOOK_PAUSE).await;
        let looked = Arc::clone(&tls);
        match workers.aside(move || looked.look()).await.and_then(|looked| looked) {
            Ok(false) => {}
            Ok(true) => tracing::info!(%node, "the S3 front end's TLS certificate was replaced"),
            Err(error) => {
                tracing::warn!(%node, %error, "the S3 front end's new TLS certificate cannot be used; the old one stays");
            }
        }
    }
}

/// Between two looks.
const TLS_LOOK_PAUSE: Duration = Duration::from_secs(2);

/// A front end that serves.
pub(super) struct Serving {
    stop: oneshot::Sender<()>,
    served: JoinHandle<()>,
}

impl Serving {
    /// Lets requests under way come to their end, for a bounded time, and takes no further ones.
    pub(super) async fn close(self) {
        drop(self.stop);
        if let Err(error) = self.served.await {
            tracing::error!(%error, "the S3 front end ended badly");
        }
    }
}

/// Waits for a node's tasks, and ends those that do not end themselves.
pub(super) async fn wait(mut tasks: JoinSet<()>, patience: Duration) {
    let all = async { while tasks.join_next().await.is_some() {} };
    if tokio::time::timeout(patience, all).await.is_err() {
        tracing::warn!("some tasks did not end in time and are aborted");
        tasks.shutdown().await;
    }
}
