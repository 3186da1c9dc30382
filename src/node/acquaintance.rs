//! Who may take part in metadata groups: nodes whose beats count, as the steward has judged.

use mesh_core::{
    Error, ErrorKind, Op,
    envelope::Body,
    id::{Incarnation, NodeId},
    meta::{Command, MeshCommand},
    op::NodeOp,
    port::Role,
    topology::{IS_OUT, NodeInfo},
};
use mesh_placement::steward::outlook::uncounted;

use super::{Inner, lock};

impl Inner {
    /// Refuses whatever a node asks that has left the mesh for good. By what is said of its beats it learns that; of what else
    /// it asks, for clients mostly, it is told to ask elsewhere, which it does until it has learned it. From then on clients are
    /// told so here, and ask another.
    pub(super) fn expect_not_out(&self, from: &Role, body: &Body) -> Result<(), Error> {
        match from {
            Role::Node(node) | Role::Dpu { node, .. } if self.metadata.control().is_out(*node) => {
                let kind = if is_beat(body) { ErrorKind::Conflict } else { ErrorKind::Draining };
                Err(Error::new(kind, IS_OUT).with("node", node))
            }
            Role::Client(_) if !tells_how_it_is(body) => match &*lock(&self.out) {
                Some(why) => Err(Error::new(ErrorKind::Draining, why.message().to_owned()).with("node", self.id)),
                None => Ok(()),
            },
            _ => Ok(()),
        }
    }

    /// Whether a metadata request of another node may be passed on.
    pub(super) async fn admits(&self, from: &Role, op: &Op) -> Result<(), Error> {
        match op {
            Op::Propose(command) => self.admits_command(from, command).await,
            _ => Ok(()),
        }
    }

    /// Whether a command of another node may be passed on. Only nodes propose: a tenant's command comes from the node that
    /// has asked the Policy of its chain, an administrator's from the node that was asked to see to it.
    pub(super) async fn admits_command(&self, from: &Role, command: &Command) -> Result<(), Error> {
        if from.node().is_none() {
            return Err(Error::new(ErrorKind::Denied, "only nodes propose to metadata groups"));
        }
        match command {
            Command::Bucket(_) | Command::Object(..) | Command::Upkeep(..) | Command::OpenSession { .. } => Ok(()),
            Command::Mesh(MeshCommand::PutNode(info)) => self.admits_start(from, info).await,
            Command::Mesh(_) => Ok(()),
            // Whoever leads judges what is ordered, and proposes it itself or not at all.
            Command::Ordered { .. } => Err(Error::new(
                ErrorKind::Denied,
                "what administrators order is proposed by who leads the control group",
            )),
        }
    }

    /// A start of a node is registered only once its beats count: one that does not would take the place of the one that
    /// does. It asks by way of a node that has met it, and each one on the way, the leader last, refuses it while another runs.
    /// Another machine under its number is told so by the group.
    async fn admits_start(&self, from: &Role, info: &NodeInfo) -> Result<(), Error> {
        let member = self.metadata.control().nodes.get(&info.id).map(|known| known.life);
        if member.is_some_and(|life| life != info.life) {
            return Ok(());
        }
        let met = if from.node() == Some(info.id) { self.met(info.id, info.incarnation).await } else { Ok(()) };
        self.outlook().admits(info)?;
        met
    }

    /// Waits until this start of a node has said to this one of ours who it is, and counts: what it remembers of this
    /// node must be known before anything is promised to it.
    pub(super) async fn acquainted(&self, from: &Role, start: Incarnation) -> Result<(), Error> {
        match from {
            Role::Node(node) => self.met(*node, start).await,
            _ => Err(Error::new(ErrorKind::Denied, "only nodes take part in metadata groups")),
        }
    }

    async fn met(&self, node: NodeId, start: Incarnation) -> Result<(), Error> {
        let mut outlook = self.outlook.subscribe();
        let met = outlook.wait_for(|known| known.has_met(node, start));
        match tokio::time::timeout(MEET_MAX, met).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(uncounted(node)),
        }
    }
}

fn tells_how_it_is(body: &Body) -> bool {
    matches!(body, Body::Request(Op::Node(op)) if matches!(**op, NodeOp::Status | NodeOp::StatusPage { .. }))
}

fn is_beat(body: &Body) -> bool {
    matches!(body, Body::Request(Op::Node(op)) if matches!(**op, NodeOp::Beat(_)))
}

/// A node that is there beats at once: who has said nothing for so long has no say either.
const MEET_MAX: core::time::Duration = core::time::Duration::from_secs(1);
