//! The sums of what is counted on a node, for an administrator who asks over a link: of this node, or of one that it asks.

use std::sync::Arc;

use mesh_core::{
    Answer, Error, ErrorKind, Op,
    audit::By,
    id::NodeId,
    op::{AdminAnswer, AdminOp, NodeFigures, NodeOp},
    port::Role,
    time::Instant,
    topology::NodeKind,
};

use crate::{
    admin::in_the_name_of,
    node::{Inner, ask_node_as},
};

/// What a node has counted of its work. Another one is asked, one hop and no further, for whoever asks may have no way to it.
///
/// # Errors
/// `NotFound` for no member of the mesh; `NotLeader` of a DPU, which asks nobody for others: ask a host. Of another node what became
/// of the question: `Unreachable`, `Timeout`; `Unsupported` if it runs an older build.
pub(crate) async fn sums(
    node: &Arc<Inner>,
    (from, by): (&Role, &By),
    of: NodeId,
    deadline: Instant,
) -> Result<NodeFigures, Error> {
    if of == node.id {
        let page = node.figures().await;
        return Ok(NodeFigures::of(&page, (node.id, node.incarnation), node.env.clock.now().0));
    }
    if matches!(from, Role::Node(_)) {
        return Err(
            Error::new(ErrorKind::NotFound, "this node was asked for what another has counted").with("node", of)
        );
    }
    if node.kind() == NodeKind::Dpu {
        let what = "a DPU asks nobody what others have counted: ask a host";
        return Err(Error::new(ErrorKind::NotLeader, what).with("node", node.id));
    }
    if !node.metadata.control().nodes.contains_key(&of) {
        let what = "no node of this number is a member of the mesh; `mesh status` lists them";
        return Err(Error::new(ErrorKind::NotFound, what).with("node", of));
    }
    let left = deadline.after(node.env.clock.now());
    if left.is_zero() {
        return Err(Error::new(ErrorKind::Timeout, "the node was not asked in time").with("node", of));
    }
    let op = Op::Node(Box::new(NodeOp::Admin(Box::new(AdminOp::Figures { node: of }))));
    let Answer::Admin(answer) = ask_node_as(node, in_the_name_of(by), of, op, left).await?.answer else {
        return Err(strange(of));
    };
    match *answer {
        AdminAnswer::Figures(figures) => Ok(*figures),
        _ => Err(strange(of)),
    }
}

fn strange(of: NodeId) -> Error {
    Error::bug("a node was asked for what it has counted and said something else").with("node", of)
}
