//! Links over QUIC: the transport crate's, as an [`Env`] gives them.

use core::time::Duration;
use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use futures_util::{FutureExt as _, future::BoxFuture};
use mesh_core::{
    Error, ErrorKind, Outcome, Pool,
    envelope::Envelope,
    id::{Incarnation, NodeId},
    limits::HEARTBEAT_SILENCE_MAX,
    port::{CallGuard, Completion, Inbound, Outbound},
};
use mesh_transport::{
    identity::Identity,
    quic::{QuicConfig, QuicLink},
};

use crate::{
    client::Client,
    env::{Env, Link, LinkSetup, Links},
};

/// The build, as peers see it.
pub const SOFTWARE: &str = concat!("mesh ", env!("CARGO_PKG_VERSION"));

/// Makes QUIC links.
#[derive(Debug)]
pub struct QuicLinks;

impl Links for QuicLinks {
    fn bind(&self, setup: LinkSetup, inbound: Arc<dyn Inbound>) -> BoxFuture<'static, Result<Arc<dyn Link>, Error>> {
        async move {
            let config = QuicConfig {
                address: setup.address,
                identity: setup.identity,
                node: setup.node,
                incarnation: setup.incarnation,
                cluster: setup.cluster,
                capabilities: 0,
                software: SOFTWARE.to_owned(),
                clock: setup.clock,
                entropy: (setup.entropy)(),
                pool: setup.pool,
                idle_timeout: setup.silence,
            };
            let link = QuicLink::bind(config, Some(inbound))?;
            let address = link.local_address()?;
            Ok(Arc::new(Quic { link, address }) as Arc<dyn Link>)
        }
        .boxed()
    }
}

struct Quic {
    link: Arc<QuicLink>,
    address: SocketAddr,
}

impl Outbound for Quic {
    fn send(&self, to: NodeId, envelope: Envelope, done: Completion<Outcome>) -> CallGuard {
        self.link.send(to, envelope, done)
    }
}

impl Link for Quic {
    fn address(&self) -> SocketAddr {
        self.address
    }

    fn set_peer(&self, node: NodeId, address: SocketAddr) {
        self.link.set_peer(node, address);
    }

    fn peers_up(&self) -> BTreeSet<NodeId> {
        self.link.up().borrow().clone()
    }

    fn close(&self) -> BoxFuture<'static, ()> {
        let link = self.link.clone();
        async move { link.close(CLOSE_MAX).await }.boxed()
    }
}

/// A client over QUIC, as whoever the identity's certificate names. Addresses are tried in order; one node that answers
/// is enough, and further ones are for when it goes.
///
/// # Errors
/// `Unreachable` if no node answers; `Denied` if they refuse the certificate.
pub async fn connect(addresses: &[SocketAddr], identity: Identity, env: &Env) -> Result<Client, Error> {
    let config = QuicConfig {
        address: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        cluster: identity.cluster(),
        identity,
        node: NodeId(0),
        incarnation: Incarnation(env.clock.wall().0),
        capabilities: 0,
        software: SOFTWARE.to_owned(),
        clock: env.clock.clone(),
        entropy: (env.entropy)(),
        pool: Pool::default(),
        idle_timeout: HEARTBEAT_SILENCE_MAX,
    };
    let link = QuicLink::bind(config, None)?;
    let met = futures_util::future::join_all(addresses.iter().map(|address| link.meet(*address))).await;
    let mut nodes = Vec::new();
    let mut refused = None;
    for outcome in met {
        match outcome {
            Ok(node) => nodes.push(node),
            Err(error) => refused = Some(error),
        }
    }
    if nodes.is_empty() {
        return Err(refused.unwrap_or_else(|| Error::new(ErrorKind::Unreachable, "no address of a node is given")));
    }
    Ok(Client::over(link, nodes))
}

const CLOSE_MAX: Duration = Duration::from_secs(5);
