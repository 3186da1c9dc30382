//! Views of a mesh that is not: with a DPU more, or a node less.

use mesh_core::{Error, ErrorKind, id::NodeId, topology::NodeKind};

use crate::view::{Cost, NodeView, View};

/// A generation of BlueField, for planning with one that is not there.
///
/// Core counts, kinds and memory are those of NVIDIA's product descriptions (the largest model of a generation). The
/// rest are **rough estimates** and were measured on no device: how much longer a core takes for a function than a core
/// of the host that it is attached to, guessed from clock and width of the vector units, and what a core draws. The
/// DPU's accelerators are not counted in. Once a DPU is there, its own calibration says what it costs, and nothing of
/// this is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Profile {
    /// As users name it.
    pub name: &'static str,
    /// What it is.
    pub cores_kind: &'static str,
    /// Thousandths of a core. All of them: what the card itself needs is not known.
    pub millicores: u32,
    /// Bytes for actors: half of what the card has, for the other half is the system's and the mesh's own.
    pub memory_bytes: u64,
    /// What a core needs for a function, in thousandths of what a host's core needs. An estimate.
    pub cost_permille: u64,
    /// What a busy core draws. An estimate: the card's power limit is for the network as well.
    pub milliwatts_per_core: u32,
}

/// The generations that can be planned with.
pub const PROFILES: [Profile; 4] = [
    Profile {
        name: "bf1",
        cores_kind: "16 Cortex-A72",
        millicores: 16_000,
        memory_bytes: 8 << 30,
        cost_permille: 5_000,
        milliwatts_per_core: 2_500,
    },
    Profile {
        name: "bf2",
        cores_kind: "8 Cortex-A72",
        millicores: 8_000,
        memory_bytes: 8 << 30,
        cost_permille: 4_000,
        milliwatts_per_core: 2_500,
    },
    Profile {
        name: "bf3",
        cores_kind: "16 Cortex-A78",
        millicores: 16_000,
        memory_bytes: 16 << 30,
        cost_permille: 2_000,
        milliwatts_per_core: 2_500,
    },
    Profile {
        name: "bf4",
        cores_kind: "64 Neoverse V2",
        millicores: 64_000,
        memory_bytes: 64 << 30,
        cost_permille: 1_200,
        milliwatts_per_core: 3_000,
    },
];

impl View {
    /// This mesh with one DPU more, attached to `host`: it can do whatever its host can. It sees no drive, and has the
    /// next free number.
    ///
    /// # Errors
    /// `NotFound` if there is no such host, `Invalid` if it is no host or there is no such profile.
    pub fn with_dpu(&self, host: NodeId, profile: &str) -> Result<Self, Error> {
        let node = self.nodes.get(&host).ok_or_else(|| no_node(host))?;
        if node.kind != NodeKind::Host {
            return Err(Error::invalid("a DPU is attached to a host, not to a DPU").with("node", host));
        }
        let profile = PROFILES
            .iter()
            .find(|known| known.name == profile)
            .ok_or_else(|| Error::invalid("the profiles are bf1, bf2, bf3 and bf4").with("profile", profile))?;
        let scaled = |cost: u64| u64::try_from(u128::from(cost) * u128::from(profile.cost_permille) / 1000);
        let scaled = |cost: u64| scaled(cost).unwrap_or(u64::MAX);
        let costs = node.costs.iter().map(|(kind, cost)| {
            let Cost { ns_per_request, ps_per_byte } = *cost;
            (kind.clone(), Cost { ns_per_request: scaled(ns_per_request), ps_per_byte: scaled(ps_per_byte) })
        });
        let dpu = NodeView {
            emulated: true,
            memory_free_bytes: profile.memory_bytes,
            capabilities: node.capabilities.clone(),
            costs: costs.collect(),
            millicores: profile.millicores,
            milliwatts_per_core: profile.milliwatts_per_core,
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
