//! Tests of the gateway through real HTTP on loopback, with signed requests, against a reference model of Object.

mod answers;
mod client;
mod lease;
mod limits;
mod model;
mod objects;
mod refusals;
mod server;
mod signed;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use mesh_core::{
    Error, ErrorKind, Pool,
    id::TenantId,
    port::Clock,
    time::{Instant, UnixMillis},
};
use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle};

use self::{client::Client, model::Model};
use super::{AccessKey, AccessKeys, Gateway, GatewayOptions, ServeOptions, serve};

/// The real clocks.
struct Clocks(std::time::Instant);

impl Clock for Clocks {
    fn now(&self) -> Instant {
        Instant::default() + self.0.elapsed()
    }

    fn wall(&self) -> UnixMillis {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
        UnixMillis(u64::try_from(since.as_millis()).expect("before the year 500 million"))
    }
}

/// Two tenants: `access` and `other`, each with the secret `secret`.
#[derive(Default)]
struct TwoKeys {
    /// It has not heard of all keys yet.
    behind: AtomicBool,
}

impl AccessKeys for TwoKeys {
    fn lookup(&self, access: &str) -> Option<AccessKey> {
        let tenant = match access {
            "access" => TenantId(1),
            "other" => TenantId(2),
            _ => return None,
        };
        Some(AccessKey { secret: "secret".into(), tenant, principal: access.into() })
    }

    fn ready(&self) -> Result<(), Error> {
        match self.behind.load(Relaxed) {
            false => Ok(()),
            true => Err(Error::new(ErrorKind::Draining, "a metadata group has no leader")),
        }
    }
}

/// A gateway that is being served, in front of a model.
struct Node {
    model: Arc<Model>,
    gateway: Gateway,
    keys: Arc<TwoKeys>,
    address: std::net::SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    served: JoinHandle<()>,
}

impl Node {
    async fn start(stripe_bytes: u32) -> Self {
        Self::start_with(stripe_bytes, "127.0.0.1:0", GatewayOptions::default(), ServeOptions::default()).await
    }

    async fn start_with(stripe_bytes: u32, address: &str, gateway: GatewayOptions, options: ServeOptions) -> Self {
        let clock: Arc<dyn Clock> = Arc::new(Clocks(std::time::Instant::now()));
        let keys = Arc::new(TwoKeys::default());
        let model = Arc::new(Model::new(stripe_bytes, clock.clone()));
        let gateway = Gateway::new(model.clone(), keys.clone(), clock, Pool::default(), gateway);
        let listener = TcpListener::bind(address).await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let (stop, stopped) = oneshot::channel();
        let served = tokio::spawn(serve(Box::new(listener), gateway.clone(), options, async move {
            // Dropped or told: either way it is over.
            stopped.await.unwrap_or_default();
        }));
        Self { model, gateway, keys, address, stop: Some(stop), served }
    }

    fn client(&self) -> Client {
        Client::new(self.address, "access", "secret")
    }

    /// A client with a bucket, `bucket`.
    async fn with_bucket(&self) -> Client {
        let client = self.client();
        assert_eq!(client.send("PUT", "/bucket", b"").await.status, 200);
        client
    }

    async fn stop(mut self) {
        drop(self.stop.take());
        tokio::time::timeout(Duration::from_secs(20), self.served).await.expect("in time").expect("no panic");
    }
}

/// Bytes that differ everywhere.
fn bytes(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}
