//! Links inside one process, with the semantics of real ones and none of their chance.
//!
//! Everything that is on its way stands in one queue; a test or a simulator takes it off in whatever order it likes
//! ([`MemoryFabric::step`]), or has that done at once and in order ([`Delivery::Inline`]). There are no threads, no
//! timers and no randomness here: the same calls give the same results.

mod fabric;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use mesh_core::{
    Error, ErrorKind, Outcome, Principal,
    envelope::Envelope,
    id::{Incarnation, NodeId},
    port::{CallGuard, Clock, Completion, Inbound, Outbound, Role},
    time::Instant,
};

use self::fabric::{Caller, Fabric};

/// The wires between any number of nodes and clients. Clones share them.
#[derive(Clone)]
pub struct MemoryFabric(Arc<Fabric>);

/// One node's, or one client's, way out.
pub struct MemoryLink {
    fabric: Arc<Fabric>,
    /// A restarted node's old link is dead.
    caller: Caller,
}

/// An end of a wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum End {
    /// A node.
    Node(NodeId),
    /// A client, numbered by the fabric.
    Client(u64),
}

impl From<NodeId> for End {
    fn from(node: NodeId) -> Self {
        Self::Node(node)
    }
}

/// A message on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnderWay {
    /// Those that came later have higher ones.
    pub number: u64,
    /// Who sent it, and which start; 0: a client.
    pub from: (End, u64),
    /// To whom.
    pub to: (End, u64),
    /// What it is.
    pub kind: Kind,
    /// Which call of this connection it is about.
    pub about: u64,
}

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A request.
    Request,
    /// Its answer.
    Answer,
    /// Nobody waits for the answer any more.
    Cancel,
    /// Not on any wire: a call has come to an end of itself, and its caller is told.
    Ended,
}

/// When messages arrive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Delivery {
    /// At once, in order, before the outermost send returns.
    #[default]
    Inline,
    /// When the test takes them off the queue.
    Queued,
}

/// How a fabric behaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryOptions {
    /// When messages arrive.
    pub delivery: Delivery,
    /// Whether every message is encoded and decoded on its way, as on a real link.
    pub codec: bool,
}

impl core::fmt::Debug for MemoryFabric {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "MemoryFabric({} on their way)", self.queued())
    }
}

impl core::fmt::Debug for MemoryLink {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "MemoryLink({:?})", self.caller.end)
    }
}

impl MemoryFabric {
    /// No nodes, no clients.
    #[must_use]
    pub fn new(options: MemoryOptions, clock: Arc<dyn Clock>) -> Self {
        Self(Arc::new(Fabric::new(options, clock)))
    }

    /// Connects a node with all others, which know where it is. A node that is there already has restarted: see
    /// [`Self::leave`].
    #[must_use]
    pub fn join(&self, node: NodeId, inbound: Arc<dyn Inbound>) -> Arc<MemoryLink> {
        self.leave(node);
        let start = self.0.join(node, (usual(node), Incarnation(0)), inbound).expect("nobody else is there");
        self.link(End::Node(node), start)
    }

    /// A start of a node begins to listen at an address of its own: others reach it once they have been told
    /// ([`MemoryLink::set_peer`]). Several starts of a node may be there, at different addresses.
    ///
    /// # Errors
    /// `Conflict` if somebody listens there.
    pub fn listen(
        &self,
        node: NodeId,
        incarnation: Incarnation,
        address: SocketAddr,
        inbound: Arc<dyn Inbound>,
    ) -> Result<Arc<MemoryLink>, Error> {
        let start = self.0.join(node, (address, incarnation), inbound).ok_or_else(|| {
            Error::new(ErrorKind::Conflict, "somebody listens at this address already").with("address", address)
        })?;
        Ok(self.link(End::Node(node), start))
    }

    /// What a node's certificate says of it, from now on; without this, that it is on a host. A client's is left alone.
    pub fn certify(&self, role: Role) {
        self.0.certify(role);
    }

    /// Connects a client, which is this principal whatever it says.
    #[must_use]
    pub fn client(&self, principal: Principal) -> Arc<MemoryLink> {
        let client = self.0.client(Role::Client(principal));
        self.link(End::Client(client), 0)
    }

    fn link(&self, end: End, start: u64) -> Arc<MemoryLink> {
        Arc::new(MemoryLink { fabric: self.0.clone(), caller: Caller { end, start } })
    }

    /// A start of a node is gone without a word, as a process that is killed: who has asked it waits until his time is up,
    /// the connection is [lost](Self::sever), or he learns of a later start ([`MemoryLink::restarted`]). What it has sent
    /// may arrive yet. The completions of its own calls are dropped.
    pub fn vanish(&self, start: u64) {
        self.0.vanish(start);
    }

    /// Everybody who is connected to a start notices that the connections are gone.
    pub fn lost(&self, start: u64) {
        self.0.lost(start);
    }

    /// Breaks the connections between two ends; who asks again makes new ones.
    pub fn sever(&self, a: impl Into<End>, b: impl Into<End>) {
        self.0.sever(a.into(), b.into());
    }

    /// The node is gone from one moment to the next: calls to it and from it break, as by [`Self::cut`].
    pub fn leave(&self, node: NodeId) {
        self.0.leave(node);
    }

    /// Cuts the wire between two ends. Calls on it end as `LinkLost`, later ones as `Unreachable`; the one who serves
    /// is told that nobody waits.
    pub fn cut(&self, a: impl Into<End>, b: impl Into<End>) {
        self.0.cut(a.into(), b.into());
    }

    /// Joins a wire that was cut.
    pub fn heal(&self, a: impl Into<End>, b: impl Into<End>) {
        self.0.heal(a.into(), b.into());
    }

    /// The nodes that an end can reach now, itself not included.
    #[must_use]
    pub fn reachable(&self, from: impl Into<End>) -> BTreeSet<NodeId> {
        self.0.reachable(from.into())
    }

    /// Messages on their way.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.0.queued()
    }

    /// Takes the `index`-th message off the queue (0: the oldest) and delivers it. `false` if there is none.
    pub fn step(&self, index: usize) -> bool {
        self.0.step(index)
    }

    /// The messages on their way with a number above this one, ascending.
    #[must_use]
    pub fn under_way(&self, after: u64) -> Vec<UnderWay> {
        self.0.under_way(after)
    }

    /// What a message on its way says, for people.
    #[must_use]
    pub fn describe(&self, number: u64) -> Option<String> {
        self.0.describe(number)
    }

    /// Delivers the message of a number. `false` if it is not on its way any more.
    pub fn deliver(&self, number: u64) -> bool {
        self.0.deliver_numbered(number)
    }

    /// Delivers, oldest first, until nothing is on its way or `steps_max` were delivered. Says how many were.
    pub fn pump(&self, steps_max: usize) -> usize {
        (0..steps_max).take_while(|_| self.0.step(0)).count()
    }

    /// Ends the calls whose deadline has come, as the clock says.
    pub fn expire(&self) {
        self.0.expire();
    }

    /// When to call [`Self::expire`] next.
    #[must_use]
    pub fn wake_at(&self) -> Option<Instant> {
        self.0.wake_at()
    }
}

impl MemoryLink {
    /// Which end of the wires this is.
    #[must_use]
    pub const fn end(&self) -> End {
        self.caller.end
    }

    /// Which start of the node this is the link of; 0: it is a client's.
    #[must_use]
    pub const fn start(&self) -> u64 {
        self.caller.start
    }

    /// Where a node is, for calls on connections that are made from now on.
    pub fn set_peer(&self, node: NodeId, address: SocketAddr) {
        self.fabric.set_peer(self.caller, node, address);
    }

    /// Which start of a node is the present one: calls on the connection to an earlier one end.
    pub fn restarted(&self, node: NodeId, incarnation: Incarnation) {
        self.fabric.restarted(self.caller, node, incarnation);
    }

    /// The nodes that can be reached from here now.
    ///
    /// # Errors
    /// `Unreachable` if this is the link of an earlier start of the node.
    pub fn reachable(&self) -> Result<BTreeSet<NodeId>, Error> {
        self.fabric.check_start(self.caller)?;
        Ok(self.fabric.reachable(self.caller.end))
    }
}

impl Outbound for MemoryLink {
    fn send(&self, to: NodeId, envelope: Envelope, done: Completion<Outcome>) -> CallGuard {
        self.fabric.send(self.caller, to, envelope, done)
    }
}

/// Where a node is whose place everybody knows.
fn usual(node: NodeId) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, u16::try_from(node.0).unwrap_or(u16::MAX)))
}
