//! Links over QUIC: one endpoint a node, mutual TLS 1.3, one stream a request.
//!
//! ```text
//! to each peer:  CONTROL ── 1 connection, kept and watched        one connection is one task
//!            INTERACTIVE ── 1 connection, dialled when needed
//!                   BULK ── 2 connections, taken in turn
//!
//! on each connection, every stream is one exchange, dialler first:
//!   stream 0:        Hello → | ← Welcome          (or Failure, and the connection is closed)
//!   streams 1, 2, …: request → | ← answer         (reset or stopped: cancelled)
//! ```
//!
//! Only the side that dialled asks; to ask back, the other dials too. A frame that breaks the rules closes its
//! connection with code 2 and a reason, and nothing else.

mod dates;
mod door;
mod frame;
mod greet;
mod guests;
mod peer;
mod serve;
mod slot;
mod socket;
mod tls;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use mesh_core::{
    Error, ErrorKind, Lane, Outcome, Pool,
    envelope::Envelope,
    figures::{Figures as _, Labels, Level, Page},
    function::Entropy,
    id::{ClusterId, Incarnation, NodeId},
    limits::HEARTBEAT_SILENCE_MAX,
    port::{CallGuard, Clock, Completion, Inbound, Outbound},
};
use quinn::VarInt;
use tokio::{
    runtime::Handle,
    sync::{Notify, watch},
};

use self::peer::Peer;
use crate::{
    gate::Refusals,
    handshake::{Expected, Local},
    identity::Identity,
    link::{self, Counters, LinkStats, PeerState, count},
};

/// What a link needs to know.
pub struct QuicConfig {
    /// Where to listen; port 0: any.
    pub address: SocketAddr,
    /// Certificate, key and authority.
    pub identity: Identity,
    /// The node number; 0 for a client. Must be the certificate's.
    pub node: NodeId,
    /// This start of the node.
    pub incarnation: Incarnation,
    /// The cluster. Must be the certificate's.
    pub cluster: ClusterId,
    /// What the node can do: bits, as in `Hello`.
    pub capabilities: u64,
    /// The build, for people.
    pub software: String,
    /// For deadlines and states.
    pub clock: Arc<dyn Clock>,
    /// For the jitter of back-offs.
    pub entropy: Box<dyn Entropy>,
    /// For payloads that come in.
    pub pool: Pool,
    /// A peer that is silent for so long is down; also the limit of a handshake.
    pub idle_timeout: Duration,
}

impl core::fmt::Debug for QuicConfig {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "QuicConfig({} at {})", self.node, self.address)
    }
}

impl QuicConfig {
    /// A configuration with node and cluster as the identity says, and defaults for the rest.
    #[must_use]
    pub fn new(
        address: SocketAddr,
        identity: Identity,
        incarnation: Incarnation,
        clock: Arc<dyn Clock>,
        entropy: Box<dyn Entropy>,
    ) -> Self {
        let node = identity.role().node().unwrap_or(NodeId(0));
        Self {
            address,
            node,
            incarnation,
            cluster: identity.cluster(),
            capabilities: 0,
            software: concat!("mesh ", env!("CARGO_PKG_VERSION")).to_owned(),
            clock,
            entropy,
            pool: Pool::default(),
            idle_timeout: HEARTBEAT_SILENCE_MAX,
            identity,
        }
    }
}

/// The links of one node, or of one client. Dropped, it closes them at once; see [`Self::close`] for a better way.
pub struct QuicLink {
    shared: Arc<Shared>,
}

/// What all tasks of a link share.
struct Shared {
    local: Local,
    clock: Arc<dyn Clock>,
    entropy: Mutex<Box<dyn Entropy>>,
    pool: Pool,
    idle_timeout: Duration,
    runtime: Handle,
    endpoint: quinn::Endpoint,
    dial_known: quinn::ClientConfig,
    dial_any: quinn::ClientConfig,
    peers: Mutex<BTreeMap<NodeId, Arc<Peer>>>,
    up: watch::Sender<BTreeSet<NodeId>>,
    counters: Counters,
    identity: Identity,
    complaints: Mutex<dates::Complaints>,
    /// Those whose bad frames were logged, and what others said that was not known here.
    warned: Mutex<BTreeSet<String>>,
    refusals: Refusals,
    /// Others' new requests are refused.
    draining: AtomicBool,
    /// Our own new requests are refused, too.
    closing: AtomicBool,
    serving: AtomicUsize,
    /// `serving` came to zero.
    idle: Notify,
}

impl core::fmt::Debug for QuicLink {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "QuicLink({} at {:?})", self.shared.local.node, self.shared.endpoint.local_addr())
    }
}

impl QuicLink {
    /// Opens the endpoint. With `inbound` it also accepts connections and serves their requests. Must be called inside
    /// a tokio runtime, which then runs the link's tasks.
    ///
    /// # Errors
    /// `Invalid` if the address is taken, the identity is not this node's, or there is no runtime.
    pub fn bind(config: QuicConfig, inbound: Option<Arc<dyn Inbound>>) -> Result<Arc<Self>, Error> {
        Handle::try_current().map_err(no_runtime)?;
        let socket = socket::os_socket(config.address)?;
        Self::bind_on(socket, config, inbound)
    }

    /// As [`Self::bind`], on a socket of the caller's, such as a simulated one; `config.address` is not looked at.
    ///
    /// # Errors
    /// As [`Self::bind`].
    pub fn bind_on(
        socket: Arc<dyn quinn::AsyncUdpSocket>,
        config: QuicConfig,
        inbound: Option<Arc<dyn Inbound>>,
    ) -> Result<Arc<Self>, Error> {
        let runtime = Handle::try_current().map_err(no_runtime)?;
        let certified = config.identity.role().node().unwrap_or(NodeId(0));
        if certified != config.node || config.identity.cluster() != config.cluster {
            return Err(Error::invalid("the identity is of another node or cluster: issue one for this node")
                .with("node", config.node)
                .with("certificate", certified));
        }
        let server = match &inbound {
            Some(_) if certified == NodeId(0) => {
                return Err(Error::invalid("a client's link only asks: it cannot have a way in"));
            }
            Some(_) => {
                let crypto = Arc::new(tls::server(&config.identity, &config.clock)?);
                let mut server = quinn::ServerConfig::with_crypto(crypto);
                server.transport_config(socket::connection(config.idle_timeout, true)?);
                // Packets of those that were not yet looked at, which happens at once.
                server
                    .max_incoming(INCOMING_MAX)
                    .incoming_buffer_size(INCOMING_BYTES_MAX)
                    .incoming_buffer_size_total(INCOMING_TOTAL_BYTES_MAX);
                Some(server)
            }
            None => None,
        };
        let transport = socket::connection(config.idle_timeout, false)?;
        let dial = |expected| -> Result<quinn::ClientConfig, Error> {
            let mut dial = quinn::ClientConfig::new(Arc::new(tls::client(&config.identity, expected, &config.clock)?));
            dial.transport_config(transport.clone());
            Ok(dial)
        };
        let (dial_known, dial_any) = (dial(Expected::Node(config.node))?, dial(Expected::AnyNode)?);
        let mut config = config;
        let mut seed = [0; 32];
        config.entropy.fill(&mut seed);
        let endpoint = quinn::Endpoint::new_with_abstract_socket(
            socket::endpoint(seed)?,
            server,
            socket,
            Arc::new(quinn::TokioRuntime),
        )
        .map_err(|error| Error::invalid("no QUIC endpoint on this socket").caused_by(error))?;
        let local = Local {
            cluster: config.cluster,
            node: config.node,
            incarnation: config.incarnation,
            capabilities: config.capabilities,
            software: config.software,
        };
        let shared = Arc::new(Shared {
            local,
            clock: config.clock,
            entropy: Mutex::new(config.entropy),
            pool: config.pool,
            idle_timeout: config.idle_timeout,
            runtime,
            endpoint,
            dial_known,
            dial_any,
            peers: Mutex::new(BTreeMap::new()),
            up: watch::Sender::new(BTreeSet::new()),
            counters: Counters::default(),
            complaints: Mutex::default(),
            identity: config.identity,
            warned: Mutex::new(BTreeSet::new()),
            refusals: Refusals::default(),
            draining: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            serving: AtomicUsize::new(0),
            idle: Notify::new(),
        });
        if let Err(error) = shared.identity.check_dates(shared.clock.wall()) {
            tracing::warn!(%error, "nobody will talk with this node until that is mended");
        }
        if let Some(inbound) = inbound {
            shared.runtime.spawn(serve::accept(shared.clone(), inbound));
        }
        Ok(Arc::new(Self { shared }))
    }

    /// A link that only asks, with its first peer: whichever node answers at `node`.
    ///
    /// # Errors
    /// As [`Self::bind`] and [`Self::meet`].
    pub async fn client(config: QuicConfig, node: SocketAddr) -> Result<(Arc<Self>, NodeId), Error> {
        let link = Self::bind(config, None)?;
        let node = link.meet(node).await?;
        Ok((link, node))
    }

    /// Dials an address without knowing which node of the cluster is there, makes that node a peer, and says which it
    /// is.
    ///
    /// # Errors
    /// `Unreachable` if nobody answers; `Denied` or `Unsupported` if the other end refuses; see
    /// [`crate::handshake::answer`].
    pub async fn meet(&self, address: SocketAddr) -> Result<NodeId, Error> {
        let greeted = self.shared.dial(address, Expected::AnyNode, Lane::Interactive).await?;
        let node = greeted.welcome.node;
        self.set_peer(node, address);
        let peer = self.shared.peer(node)?;
        let slot = peer.slot(Lane::Interactive).clone();
        match slot.begin(&peer, self.shared.clock.now()) {
            slot::Begin::Dial(attempt) => {
                let shared = self.shared.clone();
                let connection = slot.attach(&shared, &peer, attempt, greeted);
                self.shared.runtime.spawn(async move { slot.stay(&shared, &peer, &connection).await });
            }
            slot::Begin::Busy | slot::Begin::Later(_) => greeted.connection.close(GONE, b"there is one already"),
        }
        Ok(node)
    }

    /// Says where a node is. A node's link dials it at once and keeps trying; a client's when there is something to
    /// ask. Does nothing if that is known already; another address ends the calls to the old one.
    pub fn set_peer(&self, node: NodeId, address: SocketAddr) {
        let mut peers = self.shared.peers();
        if node == self.shared.local.node || self.shared.is_closing() {
            return;
        }
        if let Some(peer) = peers.get(&node) {
            if peer.ledger().state().address == address {
                return;
            }
            peer.retire(&self.shared);
        }
        let watched = self.shared.local.node != NodeId(0);
        peers.insert(node, Peer::start(&self.shared, node, address, watched));
    }

    /// Says which start of a node is the present one: connections to earlier ones have nobody at their other end, and
    /// calls on them end now, not after a silence. Whoever dials in and says a later start does not do this: it may be a
    /// copy of the node, which the node's owner turns away.
    pub fn restarted(&self, node: NodeId, incarnation: Incarnation) {
        let peer = self.shared.peers().get(&node).cloned();
        if let Some(peer) = peer {
            peer.close_older(&self.shared, incarnation);
        }
    }

    /// Forgets a node. Calls to it end as if its link broke.
    pub fn remove_peer(&self, node: NodeId) {
        let removed = self.shared.peers().remove(&node);
        if let Some(peer) = removed {
            peer.retire(&self.shared);
        }
    }

    /// Where this link listens and dials from.
    ///
    /// # Errors
    /// `Bug` if the system does not say.
    pub fn local_address(&self) -> Result<SocketAddr, Error> {
        self.shared.endpoint.local_addr().map_err(|error| Error::bug("a socket without an address").caused_by(error))
    }

    /// How every peer looks at this moment.
    #[must_use]
    pub fn peers(&self) -> BTreeMap<NodeId, PeerState> {
        self.shared.peers().iter().map(|(node, peer)| (*node, peer.ledger().state().clone())).collect()
    }

    /// The peers that are up, now and whenever that changes.
    #[must_use]
    pub fn up(&self) -> watch::Receiver<BTreeSet<NodeId>> {
        self.shared.up.subscribe()
    }

    /// Counters since the link was opened.
    #[must_use]
    pub fn stats(&self) -> LinkStats {
        self.shared.counters.snapshot()
    }

    /// The same, and how many peers there are, for who watches the node.
    pub fn figures(&self, page: &mut Page) {
        let (known, up) = (self.shared.peers().len(), self.shared.up.borrow().len());
        let peers = link::Peers { peers: Level(known as u64), peers_up: Level(up as u64) };
        self.shared.counters.tell(&Labels::default(), page);
        peers.tell(&Labels::default(), page);
    }

    /// What is wrong with a clock or a certificate's dates, if anything is: this node's own first, then what stands
    /// between it and a peer.
    #[must_use]
    pub fn complaint(&self) -> Option<Error> {
        if let Err(error) = self.shared.identity.check_dates(self.shared.clock.wall()) {
            return Some(error);
        }
        let peers = self.peers();
        self.shared.complaints().about(peers.values().filter(|peer| !peer.up).map(|peer| peer.address))
    }

    /// Goes politely. First others' new requests are refused (`Draining`) until those in flight have ended, which may
    /// need calls of ours; then our own (`Unreachable`), until those in flight have ended; then the connections are
    /// closed. All that takes `within` at most and a moment for the closing itself.
    pub async fn close(&self, within: Duration) {
        self.shared.draining.store(true, Ordering::Release);
        let quiet = async {
            self.shared.served().await;
            self.shared.closing.store(true, Ordering::Release);
            self.shared.answered().await;
        };
        let quiet = tokio::time::timeout(within, quiet).await;
        self.shared.closing.store(true, Ordering::Release);
        if quiet.is_err() {
            tracing::info!("requests were still in flight when the link was closed");
        }
        self.shared.shut();
        if tokio::time::timeout(self.shared.idle_timeout, self.shared.endpoint.wait_idle()).await.is_err() {
            tracing::debug!("connections lingered after the link was closed");
        }
    }
}

impl Outbound for QuicLink {
    fn send(&self, to: NodeId, envelope: Envelope, done: Completion<Outcome>) -> CallGuard {
        if self.shared.is_closing() {
            done(Err(Error::new(ErrorKind::Unreachable, "this node's link is closing")));
            return CallGuard::none();
        }
        match self.shared.peer(to) {
            Ok(peer) => peer.slot(envelope.header.lane).send(&self.shared, &peer, envelope, done),
            Err(error) => {
                done(Err(error));
                CallGuard::none()
            }
        }
    }
}

impl Drop for QuicLink {
    fn drop(&mut self) {
        self.shared.draining.store(true, Ordering::Release);
        self.shared.closing.store(true, Ordering::Release);
        self.shared.shut();
    }
}

impl Shared {
    fn peer(&self, node: NodeId) -> Result<Arc<Peer>, Error> {
        self.peers().get(&node).cloned().ok_or_else(|| {
            Error::new(ErrorKind::Unreachable, "no address of this node is known here").with("peer", node)
        })
    }

    fn peers(&self) -> MutexGuard<'_, BTreeMap<NodeId, Arc<Peer>>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn complaints(&self) -> MutexGuard<'_, dates::Complaints> {
        self.complaints.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn heard(&self, node: NodeId) {
        let peer = self.peers().get(&node).cloned();
        if let Some(peer) = peer {
            peer.heard();
        }
    }

    /// Whether a line is to be written: each once, and not without end.
    fn warns(&self, line: String) -> bool {
        let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        warned.len() < WARNED_MAX && warned.insert(line)
    }

    fn jitter(&self) -> u64 {
        let mut bytes = [0; 8];
        self.entropy.lock().unwrap_or_else(PoisonError::into_inner).fill(&mut bytes);
        u64::from_le_bytes(bytes)
    }

    fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    /// Counts a request that is being served until it is dropped.
    fn busy(self: &Arc<Self>) -> Busy {
        self.serving.fetch_add(1, Ordering::AcqRel);
        Busy(self.clone())
    }

    /// Waits until no request of others is in flight.
    async fn served(&self) {
        loop {
            let idle = self.idle.notified();
            tokio::pin!(idle);
            idle.as_mut().enable();
            if self.serving.load(Ordering::Acquire) == 0 {
                return;
            }
            idle.await;
        }
    }

    /// Waits until no request of ours is in flight. Calls end without telling, so their number is looked at again.
    async fn answered(&self) {
        while self.peers().values().map(|peer| peer.in_flight()).sum::<usize>() > 0 {
            tokio::time::sleep(QUIET_POLL).await;
        }
    }

    /// Closes everything now.
    fn shut(&self) {
        self.endpoint.close(GONE, b"the link is closed");
        let peers = core::mem::take(&mut *self.peers());
        for peer in peers.values() {
            peer.retire(self);
        }
    }
}

struct Busy(Arc<Shared>);

impl Drop for Busy {
    fn drop(&mut self) {
        if self.0.serving.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.idle.notify_waiters();
        }
    }
}

/// The other end broke the rules: close, count, and say so once.
fn bad_frame(shared: &Shared, connection: &quinn::Connection, error: &Error) {
    // Many streams of one connection may be bad at once; the first closes it.
    if connection.close_reason().is_some() {
        return;
    }
    count(&shared.counters.bad_frames);
    connection.close(BAD_FRAME, error.to_string().as_bytes());
    let who = who(shared, connection);
    if shared.warns(who.clone()) {
        tracing::warn!(%who, %error, "a peer breaks the protocol; its connections are closed, further ones silently");
    }
}

/// The other end is of a newer build, and said something that this one does not know: count, and say so once of each. The
/// connection goes on.
fn unread(shared: &Shared, connection: &quinn::Connection, error: &Error) {
    count(&shared.counters.unread);
    let who = who(shared, connection);
    // Not of each such thing: numbers that somebody makes up are no end of them.
    if shared.warns(format!("{who} is newer")) {
        tracing::info!(%who, %error, "a peer says what this build does not know; it is told so, the link goes on, and more of the kind is not logged");
    }
}

fn who(shared: &Shared, connection: &quinn::Connection) -> String {
    tls::role(connection, shared.local.cluster)
        .map_or_else(|_| connection.remote_address().to_string(), |role| format!("{role:?}"))
}

fn no_runtime(error: tokio::runtime::TryCurrentError) -> Error {
    Error::invalid("a QUIC link must be opened inside a tokio runtime").caused_by(error)
}

/// The link, or this peer, is no longer wanted.
const GONE: VarInt = VarInt::from_u32(0);
/// The handshake was refused.
const REFUSED: VarInt = VarInt::from_u32(1);
/// A frame broke the rules.
const BAD_FRAME: VarInt = VarInt::from_u32(2);
/// Answers were not taken.
const SILENT: VarInt = VarInt::from_u32(3);
/// Connections that were not yet looked at; more are dropped unread.
const INCOMING_MAX: usize = 1024;
/// Early packets of one of them at most.
const INCOMING_BYTES_MAX: u64 = 64 << 10;
/// Early packets of all of them at most.
const INCOMING_TOTAL_BYTES_MAX: u64 = 8 << 20;
/// Lines about peers whose frames are bad or not known, at most.
const WARNED_MAX: usize = 256;
/// How often a closing link looks whether its own calls have ended.
const QUIET_POLL: Duration = Duration::from_millis(5);

#[cfg(test)]
mod tests;
