//! What is taken of each node while a plan is made, and whether there is room for more.

use std::collections::{BTreeMap, BTreeSet};

use mesh_core::{
    id::{NodeId, TenantId},
    plan::Reason,
    topology::NodeKind,
};

use crate::{
    candidates::{Candidate, Need},
    view::{ActorView, NodeView},
};

/// One node, and who is on it.
#[derive(Debug)]
pub(crate) struct Room<'a> {
    node: &'a NodeView,
    memory: u128,
    ns: u128,
    /// Actors of each tenant, and how many of them insist on isolation. Only DPUs are counted.
    tenants: BTreeMap<TenantId, (u32, u32)>,
    /// Who is here: class, then place in the order of the plan.
    pub(crate) occupants: BTreeSet<(u8, usize)>,
}

/// What entering or leaving changes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Guest<'a> {
    pub(crate) actor: &'a ActorView,
    pub(crate) class: u8,
    pub(crate) index: usize,
}

/// The nodes of a component.
#[derive(Debug, Default)]
pub(crate) struct Rooms<'a>(BTreeMap<NodeId, Room<'a>>);

impl<'a> Rooms<'a> {
    pub(crate) fn add(&mut self, id: NodeId, node: &'a NodeView) {
        let room = Room { node, memory: 0, ns: 0, tenants: BTreeMap::new(), occupants: BTreeSet::new() };
        self.0.insert(id, room);
    }

    pub(crate) fn node(&self, id: NodeId) -> Option<&'a NodeView> {
        self.0.get(&id).map(|room| room.node)
    }

    pub(crate) fn occupants(&self, id: NodeId) -> impl DoubleEndedIterator<Item = (u8, usize)> {
        self.0.get(&id).into_iter().flat_map(|room| room.occupants.iter().copied())
    }

    pub(crate) fn enter(&mut self, guest: Guest<'_>, needs: [Option<Need>; 2]) {
        for need in needs.into_iter().flatten() {
            let Some(room) = self.0.get_mut(&need.node) else { continue };
            room.memory += u128::from(need.memory);
            room.ns += u128::from(need.ns);
            room.occupants.insert((guest.class, guest.index));
            if let Some(tenant) = guest.actor.tenant.filter(|_| room.node.kind == NodeKind::Dpu) {
                let (actors, isolating) = room.tenants.entry(tenant).or_default();
                *actors += 1;
                *isolating += u32::from(guest.actor.isolate);
            }
        }
    }

    pub(crate) fn leave(&mut self, guest: Guest<'_>, needs: [Option<Need>; 2]) {
        for need in needs.into_iter().flatten() {
            let Some(room) = self.0.get_mut(&need.node) else { continue };
            room.memory -= u128::from(need.memory);
            room.ns -= u128::from(need.ns);
            room.occupants.remove(&(guest.class, guest.index));
            if let Some(tenant) = guest.actor.tenant
                && let Some((actors, isolating)) = room.tenants.get_mut(&tenant)
            {
                *actors -= 1;
                *isolating -= u32::from(guest.actor.isolate);
                if *actors == 0 {
                    room.tenants.remove(&tenant);
                }
            }
        }
    }

    /// Why the actor, now taking `own`, cannot take `wanted`, and where.
    pub(crate) fn refuses(
        &self,
        actor: &ActorView,
        own: [Option<Need>; 2],
        wanted: &Candidate,
        fill_permille: u64,
    ) -> Option<(NodeId, Reason)> {
        wanted.needs.into_iter().flatten().find_map(|need| {
            let room = self.0.get(&need.node)?;
            let own = own.into_iter().flatten().find(|own| own.node == need.node);
            room.refuses(actor, own, need, fill_permille).map(|reason| (need.node, reason))
        })
    }

    /// Why an actor that is here should leave, and what it should leave.
    pub(crate) fn crowded(&self, actor: &ActorView, needs: [Option<Need>; 2]) -> Option<(NodeId, Reason)> {
        needs
            .into_iter()
            .flatten()
            .find_map(|need| self.0.get(&need.node)?.crowded(actor, need).map(|reason| (need.node, reason)))
    }

    /// Whether going to `wanted` relieves the node that the actor should leave.
    pub(crate) fn relieves(&self, crowded: &(NodeId, Reason), own: [Option<Need>; 2], wanted: &Candidate) -> bool {
        let (node, reason) = crowded;
        let on_node = |need: &Need| need.node == *node;
        let Some(need) = wanted.needs.into_iter().flatten().find(on_node) else { return true };
        let own = own.into_iter().flatten().find(on_node);
        let Some(room) = self.0.get(node) else { return true };
        match reason {
            Reason::NoMemory { .. } => room.memory_left(own) >= need.memory,
            Reason::NoCores { .. } => room.ns_left(own, 1000) >= need.ns,
            _ => false,
        }
    }
}

impl Room<'_> {
    fn refuses(&self, actor: &ActorView, own: Option<Need>, need: Need, fill_permille: u64) -> Option<Reason> {
        let node = need.node;
        if need.memory > own.map_or(0, |own| own.memory) && self.memory_left(own) < need.memory {
            return Some(Reason::NoMemory { node, needs: need.memory, has: self.memory_left(own) });
        }
        if own.is_none()
            && let Some(tenant) = self.stranger(actor)
        {
            return Some(Reason::Isolation { node, tenant });
        }
        let left = self.ns_left(own, fill_permille);
        if need.ns > own.map_or(0, |own| own.ns) && left < need.ns {
            return Some(no_cores(need, left));
        }
        None
    }

    fn crowded(&self, actor: &ActorView, need: Need) -> Option<Reason> {
        let node = need.node;
        if self.memory_left(Some(need)) < need.memory {
            return Some(Reason::NoMemory { node, needs: need.memory, has: self.memory_left(Some(need)) });
        }
        if let Some(tenant) = self.stranger(actor) {
            return Some(Reason::Isolation { node, tenant });
        }
        let left = self.ns_left(Some(need), 1000);
        (left < need.ns).then(|| no_cores(need, left))
    }

    /// Bytes for an actor that gives back what it has here.
    fn memory_left(&self, own: Option<Need>) -> u64 {
        let others = self.memory - own.map_or(0, |own| u128::from(own.memory));
        u64::try_from(u128::from(self.node.memory_free_bytes).saturating_sub(others)).unwrap_or(u64::MAX)
    }

    /// The same for cores. A host has no limit: whatever fits nowhere else runs there.
    fn ns_left(&self, own: Option<Need>, fill_permille: u64) -> u64 {
        if self.node.kind == NodeKind::Host {
            return u64::MAX;
        }
        let others = self.ns - own.map_or(0, |own| u128::from(own.ns));
        let fill = self.node.capacity_ns() / 1000 * fill_permille.min(1000);
        u64::try_from(u128::from(fill).saturating_sub(others)).unwrap_or(u64::MAX)
    }

    /// A tenant on this DPU that the actor must not share it with.
    fn stranger(&self, actor: &ActorView) -> Option<TenantId> {
        let own = actor.tenant?;
        let mut others = self.tenants.iter().filter(|(tenant, _)| **tenant != own);
        others.find(|(_, (_, isolating))| actor.isolate || *isolating > 0).map(|(tenant, _)| *tenant)
    }
}

fn no_cores(need: Need, left_ns: u64) -> Reason {
    Reason::NoCores { node: need.node, needs: need.ns.div_ceil(1_000_000), has: left_ns / 1_000_000 }
}
