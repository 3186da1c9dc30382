//! The S3 front end of a node: the gateway, given its way to Object and the cluster's access keys.

use core::time::Duration;
use std::sync::{
    Arc, Weak,
    atomic::{
        AtomicBool,
        Ordering::{Acquire, Relaxed},
    },
};

use futures_util::{FutureExt as _, future::BoxFuture};
use mesh_core::{
    Error, ErrorKind, Outcome, Request,
    figures::Page,
    id::{ActorId, NodeId},
    port::Clock,
    time::UnixMillis,
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
        // What was revoked while this node was away is not known here before.
        AccessKeys::ready(self).ok()?;
        let node = self.node.upgrade()?;
        let control = node.metadata.control();
        // Of a tenant that was deleted its keys go a moment later.
        let row = control.access_keys.get(access).filter(|row| control.tenants.contains_key(&row.tenant))?.clone();
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
            node.expect_current()?;
            self.ready.store(true, Relaxed);
        }
        Ok(())
    }
}

/// Serves S3 until the node stops. What is wrong with its certificate keeps nothing else of the node from its work: it is looked at
/// again until it can be used.
pub(super) async fn serve(node: &Arc<Inner>) -> Result<(), Error> {
    let Some(config) = &node.config.s3 else { return Ok(()) };
    if !config.is_asked_for() {
        let what = "S3 is not served: it would be HTTP where others can hear it. Give it a certificate in [s3.tls], or say \
                    plain_http = true in [s3], or `mesh serve --s3-plain-http`, if something in front of it speaks TLS";
        tracing::error!(node = %node.id, address = %config.address, "{what}");
        return Ok(());
    }
    let Some(files) = config.tls.clone() else { return listen(node, None).await };
    match load(node, files.clone()).await {
        Ok(tls) => listen(node, Some(tls)).await,
        Err(error) => {
            tracing::error!(node = %node.id, %error, "S3 is not served until its TLS certificate can be used");
            let (later, stopped) = (Arc::downgrade(node), node.stopped());
            node.spawn(async move {
                tokio::select! {
                    () = stopped => {}
                    () = serve_later(later, files) => {}
                }
            });
            Ok(())
        }
    }
}

/// Serves once the certificate can be used.
async fn serve_later(node: Weak<Inner>, files: TlsConfig) {
    let mut said = None;
    loop {
        tokio::time::sleep(TLS_LOOK_PAUSE).await;
        let Some(node) = node.upgrade() else { return };
        let Ok(tls) = load(&node, files.clone()).await else { continue };
        match listen(&node, Some(tls)).await {
            Ok(()) => return tracing::info!(node = %node.id, "S3 is served: its TLS certificate can be used now"),
            Err(_) if node.front_closed.load(Acquire) => return,
            Err(error) => {
                let text = error.to_string();
                if said.as_ref() != Some(&text) {
                    tracing::error!(node = %node.id, %error, "S3 is not served");
                    said = Some(text);
                }
            }
        }
    }
}

async fn load(node: &Inner, files: TlsConfig) -> Result<Arc<Tls>, Error> {
    Ok(Arc::new(node.env.workers.aside(move || Tls::load(&files.certificate, &files.key)).await??))
}

async fn listen(node: &Arc<Inner>, tls: Option<Arc<Tls>>) -> Result<(), Error> {
    let Some(config) = &node.config.s3 else { return Ok(()) };
    let refused = |error: std::io::Error| {
        Error::new(ErrorKind::Invalid, "the S3 front end cannot listen; choose another address or stop what uses it")
            .with("address", config.address)
            .caused_by(error)
    };
    let (listener, bound) = node.env.doorways.listen(config.address).await.map_err(refused)?;
    let listener = match &tls {
        Some(tls) => tls.over(listener),
        None => listener,
    };
    *lock(&node.s3) = Some(bound);
    let front = Arc::new(Front { node: Arc::downgrade(node), ready: AtomicBool::new(false) });
    let mut first_request = [0; 8];
    (node.env.entropy)().fill(&mut first_request);
    let memory_bytes_max = usize::try_from(config.memory.0).unwrap_or(usize::MAX);
    let options = GatewayOptions {
        memory_bytes_max,
        domain: config.domain.clone(),
        reclaim_grace: node.config.timing.reclaim_grace.0,
        first_request: u64::from_le_bytes(first_request),
        ..GatewayOptions::default()
    };
    let gateway = Gateway::new(front.clone(), front, node.env.clock.clone(), node.pool.clone(), options);
    *lock(&node.counted_front) = Some(Counted { gateway: gateway.clone(), tls: tls.clone() });
    let (stop, told) = oneshot::channel::<()>();
    let told = async move {
        // Told, or the node is gone.
        told.await.unwrap_or_default();
    };
    let (id, workers, clock) = (node.id, node.env.workers.clone(), node.env.clock.clone());
    let served = tokio::spawn(async move {
        let serving = s3::serve(listener, gateway, ServeOptions::default(), told);
        let Some(tls) = tls else { return serving.await };
        tokio::select! {
            () = serving => {}
            () = keep_fresh(id, tls, workers, clock) => {}
        }
    });
    let serving = Serving { stop, served };
    let mut front = lock(&node.front);
    if node.front_closed.load(Acquire) {
        drop(front);
        serving.close().await;
        return Err(Error::new(ErrorKind::Draining, "the node takes no requests by S3 any more"));
    }
    *front = Some(serving);
    Ok(())
}

/// Looks for a certificate that was replaced, for ever.
async fn keep_fresh(node: NodeId, tls: Arc<Tls>, workers: Workers, clock: Arc<dyn Clock>) {
    let mut said = None;
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
        let end = tls.ends_before(UnixMillis(clock.wall().0.saturating_add(TLS_SOON_MS)));
        if core::mem::replace(&mut said, end) != end
            && let Some(end) = end
        {
            let left_hours = end.0.saturating_sub(clock.wall().0) / 3_600_000;
            tracing::error!(%node, left_hours, "the S3 front end's TLS certificate ends soon, or has ended: replace its files");
        }
    }
}

/// A certificate that ends so soon is spoken of: 14 days, in milliseconds.
const TLS_SOON_MS: u64 = 14 * 24 * 3_600_000;

/// Between two looks.
const TLS_LOOK_PAUSE: Duration = Duration::from_secs(2);

/// What counts a front end, for as long as its node is there.
pub(super) struct Counted {
    gateway: Gateway,
    tls: Option<Arc<Tls>>,
}

impl Counted {
    pub(super) fn figures(&self, page: &mut Page) {
        self.gateway.figures(page);
        if let Some(tls) = &self.tls {
            tls.figures(page);
        }
    }
}

/// Why S3 is not served though it is to be, for people.
pub(super) fn unserved(node: &Inner) -> Option<String> {
    let config = node.config.s3.as_ref()?;
    let why = if node.front_closed.load(Acquire) {
        "S3 is served no more: the node is stopping"
    } else if lock(&node.front).is_some() {
        return None;
    } else if config.is_asked_for() {
        "S3 is not served yet; the log says why"
    } else {
        "S3 is not served: it is not said how it is to speak, see the log"
    };
    Some(why.to_owned())
}

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
