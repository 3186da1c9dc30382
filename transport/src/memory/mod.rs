//! Links inside one process, with the semantics of real ones and none of their chance.
//!
//! Everything that is on its way stands in one queue; a test or a simulator takes it off in whatever order it likes
//! ([`MemoryFabric::step`]), or has that done at once and in order ([`Delivery::Inline`]). There are no threads, no
//! timers and no randomness here: the same calls give the same results.

mod fabric;
#[cfg(test)]
mod tests;

use std::{collections::BTreeSet, sync::Arc};

use mesh_core::{
    Error, Outcome, Principal,
    envelope::Envelope,
    id::NodeId,
    port::{CallGuard, Clock, Completion, Inbound, Outbound, Role},
    time::Instant,
};

use self::fabric::Fabric;

/// The wires between any number of nodes and clients. Clones share them.
#[derive(Clone)]
pub struct MemoryFabric(Arc<Fabric>);

/// One node's, or one client's, way out.
pub struct MemoryLink {
    fabric: Arc<Fabric>,
    end: End,
    /// Which start of the node this is the link of; a restarted node's old link is dead.
    start: u64,
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
        write!(f, "MemoryLink({:?})", self.end)
    }
}

impl MemoryFabric {
    /// No nodes, no clients.
    #[must_use]
    pub fn new(options: MemoryOptions, clock: Arc<dyn Clock>) -> Self {
        Self(Arc::new(Fabric::new(options, clock)))
    }

    /// Connects a node with all others. A node that is there already has restarted: see [`Self::leave`].
    #[must_use]
    pub fn join(&self, node: NodeId, inbound: Arc<dyn Inbound>) -> Arc<MemoryLink> {
        self.leave(node);
        let start = self.0.join(node, inbound);
        Arc::new(MemoryLink { fabric: self.0.clone(), end: End::Node(node), start })
    }

    /// Connects a client, which is this principal whatever it says.
    #[must_use]
    pub fn client(&self, principal: Principal) -> Arc<MemoryLink> {
        let client = self.0.client(Role::Client(principal));
        Arc::new(MemoryLink { fabric: self.0.clone(), end: End::Client(client), start: 0 })
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
        self.end
    }

    /// The nodes that can be reached from here now.
    ///
    /// # Errors
    /// `Unreachable` if this is the link of an earlier start of the node.
    pub fn reachable(&self) -> Result<BTreeSet<NodeId>, Error> {
        self.fabric.check_start(self.end, self.start)?;
        Ok(self.fabric.reachable(self.end))
    }
}

impl Outbound for MemoryLink {
    fn send(&self, to: NodeId, envelope: Envelope, done: Completion<Outcome>) -> CallGuard {
        self.fabric.send(self.end, self.start, to, envelope, done)
    }
}
