//! Links over QUIC: the transport crate's, as an [`Env`] gives them.

use core::time::Duration;
use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use futures_util::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use mesh_core::{
    Error, ErrorKind, Outcome, Pool,
    envelope::Envelope,
    figures::Page,
    id::{Incarnation, NodeId},
    limits::HEARTBEAT_SILENCE_MAX,
    op::NodeReport,
    port::{CallGuard, Completion, Inbound, Outbound},
    topology::{NodeKind, NodeState},
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
            let link = QuicLink::bind(configuration(setup), Some(inbound))?;
            let address = link.local_address()?;
            Ok(Arc::new(Quic { link, address }) as Arc<dyn Link>)
        }
        .boxed()
    }
}

/// A node's link over QUIC on a socket of the caller's, such as a simulated one. To be called inside a tokio runtime.
///
/// # Errors
/// `Invalid` if the identity is not this node's.
pub fn on(
    socket: Arc<dyn quinn::AsyncUdpSocket>,
    setup: LinkSetup,
    inbound: Arc<dyn Inbound>,
) -> Result<Arc<dyn Link>, Error> {
    let link = QuicLink::bind_on(socket, configuration(setup), Some(inbound))?;
    let address = link.local_address()?;
    Ok(Arc::new(Quic { link, address }))
}

fn configuration(setup: LinkSetup) -> QuicConfig {
    QuicConfig {
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

    fn restarted(&self, node: NodeId, incarnation: Incarnation) {
        self.link.restarted(node, incarnation);
    }

    fn complaint(&self) -> Option<Error> {
        self.link.complaint()
    }

    fn figures(&self, page: &mut Page) {
        self.link.figures(page);
    }

    fn close(&self) -> BoxFuture<'static, ()> {
        let link = self.link.clone();
        async move { link.close(CLOSE_MAX).await }.boxed()
    }
}

/// A client over QUIC, as whoever the identity's certificate names. One node that answers is enough: it says where the
/// others are, so that the client goes on when it goes.
///
/// # Errors
/// `Unreachable` if no node answers; `Denied` if they refuse the certificate.
pub async fn connect(addresses: &[SocketAddr], identity: Identity, env: &Env) -> Result<Client, Error> {
    let config = QuicConfig {
        address: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        cluster: identity.cluster(),
        identity,
        node: NodeId(0),
        incarnation: env.new_start(Incarnation(0)),
        capabilities: 0,
        software: SOFTWARE.to_owned(),
        clock: env.clock.clone(),
        entropy: (env.entropy)(),
        pool: Pool::default(),
        idle_timeout: HEARTBEAT_SILENCE_MAX,
    };
    let link = QuicLink::bind(config, None)?;
    let meet = async |(at, address)| (at, link.meet(address).await);
    let mut meeting: FuturesUnordered<_> = addresses.iter().copied().enumerate().map(meet).collect();
    let mut met = BTreeMap::new();
    let mut refused = None;
    loop {
        // Once one has answered the others have a moment: what is down must not hold up what is not.
        let patience = if met.is_empty() { MEET_MAX } else { OTHERS_MAX };
        match tokio::time::timeout(patience, meeting.next()).await {
            Ok(Some((at, Ok(node)))) => drop(met.insert(at, node)),
            Ok(Some((_, Err(error)))) => refused = Some(error),
            Ok(None) | Err(_) => break,
        }
    }
    drop(meeting);
    let mut nodes: Vec<NodeId> = met.into_values().collect();
    if nodes.is_empty() {
        return Err(refused.unwrap_or_else(|| Error::new(ErrorKind::Unreachable, "no address of a node is given")));
    }
    let known = Client::over(link.clone(), nodes.clone());
    let others = tokio::time::timeout(MEET_MAX, hosts(&known)).await.unwrap_or_default();
    for host in others {
        if !nodes.contains(&host.0) {
            link.set_peer(host.0, host.1);
            nodes.push(host.0);
        }
    }
    Ok(Client::over(link, nodes))
}

/// Hosts of the mesh and where they are, those that are up first; as far as somebody says in one answer.
async fn hosts(client: &Client) -> Vec<(NodeId, SocketAddr)> {
    let mut reports = match client.first_reports().await {
        Ok((_, reports, _)) => reports,
        Err(error) => {
            tracing::debug!(%error, "nobody says where the other nodes are");
            return Vec::new();
        }
    };
    reports.retain(|report| report.kind == NodeKind::Host);
    reports.sort_by_key(|report| (report.state == NodeState::Down, report.node));
    let place = |report: &Arc<NodeReport>| Some((report.node, report.address.parse().ok()?));
    reports.iter().filter_map(place).take(HOSTS_MAX).collect()
}

/// A node that has not answered for so long is not there.
const MEET_MAX: Duration = Duration::from_secs(5);
/// How much longer a client waits for further nodes once it has one.
const OTHERS_MAX: Duration = Duration::from_secs(1);
/// Nodes that a client remembers at most.
const HOSTS_MAX: usize = 64;
const CLOSE_MAX: Duration = Duration::from_secs(5);
