//! Views of a mesh that is not: with a DPU more, or a node less.

use mesh_core::{Error, ErrorKind, bluefield::Generation, id::NodeId, topology::NodeKind};

use crate::view::{Cost, NodeView, View};

impl View {
    /// This mesh with one DPU more, attached to `host`: it can do whatever its host can. It sees no drive, and has the
    /// next free number.
    ///
    /// # Errors
    /// `NotFound` if there is no such host, `Invalid` if it is no host.
    pub fn with_dpu(&self, host: NodeId, generation: Generation) -> Result<Self, Error> {
        let node = self.nodes.get(&host).ok_or_else(|| no_node(host))?;
        if node.kind != NodeKind::Host {
            return Err(Error::invalid("a DPU is attached to a host, not to a DPU").with("node", host));
        }
        let profile = generation.profile();
        let costs = node.costs.iter().map(|(kind, cost)| {
            let Cost { ns_per_request, ps_per_byte } = *cost;
            let cost =
                Cost { ns_per_request: profile.slowed(ns_per_request), ps_per_byte: profile.slowed(ps_per_byte) };
            (kind.clone(), cost)
        });
        let dpu = NodeView {
            emulated: true,
            memory_free_bytes: profile.memory_for_actors(),
            capabilities: node.capabilities.clone(),
            costs: costs.collect(),
            // All of them: what the card itself needs is not known.
            millicores: u32::from(profile.cores) * 1000,
            milliwatts_per_core: profile.core_milliwatts,
            domain: node.domain,
            ..NodeView::dpu(host)
        };
        let last = self.nodes.last_key_value().map_or(0, |(id, _)| id.0);
        let mut view = self.clone();
        view.nodes.insert(NodeId(last.saturating_add(1)), dpu);
        Ok(view)
    }

    /// This mesh if that node were down.
    ///
    /// # Errors
    /// `NotFound` if there is no such node.
    pub fn without(&self, node: NodeId) -> Result<Self, Error> {
        let mut view = self.clone();
        view.nodes.get_mut(&node).ok_or_else(|| no_node(node))?.up = false;
        Ok(view)
    }
}

fn no_node(node: NodeId) -> Error {
    Error::new(ErrorKind::NotFound, "there is no such node: `mesh status` lists them").with("node", node)
}
