//! Which neighbouring stages of a chain run fused on one node, and what each way of doing it costs.
//!
//! A chain runs as a whole on a node, or is cut once: the head on the ingress, the tail on a DPU attached to it.
//!
//! ```text
//!   ingress    policy encrypt erasure ──▶ drives       whole, on the host
//!   ingress    policy ┐
//!   its DPU           └ encrypt erasure ──▶ drives     cut at 1
//!   its DPU    policy encrypt erasure ──▶ drives       whole, on the DPU: what enters crosses
//! ```
//!
//! Counted as crossing is what crosses the PCIe bus of the ingress host, or a network that it would not cross if the
//! chain ran at its ingress. What a chain on the host sends to drives of other nodes crosses the bus on its way to the
//! card; a DPU is on the card already, and only what goes to the host's own drives crosses back.

use core::ops::Range;

use mesh_core::{id::NodeId, plan::Spot, topology::NodeKind};

use crate::view::{ActorView, Load, NodeView, Rules};

/// What one way of running an actor costs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Price {
    /// Nanoseconds of cores a second on the head's node.
    pub head_ns: u64,
    /// The same for the tail.
    pub tail_ns: u64,
    /// Nanoseconds of host cores a second, with what the host does to hand on what crosses.
    pub host_ns: u64,
    /// Nanoseconds of DPU cores a second.
    pub dpu_ns: u64,
    /// Bytes a second that cross.
    pub crossed_bytes: u64,
    /// What the cores draw.
    pub microwatts: u64,
    /// A node on which a function's cost is not known: the numbers are too small, and no gain is to be seen in them.
    pub unmeasured: Option<NodeId>,
}

/// One way of running an actor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// Where its parts are.
    pub spot: Spot,
    /// What that costs.
    pub price: Price,
}

/// Every way of running the actor at its ingress `home` and on DPUs attached to it: whole on each, then every cut,
/// DPU by DPU. Whether a node can and may run it is not asked here.
#[must_use]
pub fn ways(actor: &ActorView, home: (NodeId, &NodeView), dpus: &[(NodeId, &NodeView)], rules: &Rules) -> Vec<Way> {
    let way = |spot, tail| Way { spot, price: price(actor, spot, home.1, tail, Some(home.1), rules) };
    let mut ways = vec![way(Spot::whole(home.0), None)];
    for &(dpu, view) in dpus {
        let spot = Spot::whole(dpu);
        ways.push(Way { spot, price: price(actor, spot, view, None, Some(home.1), rules) });
        ways.extend(
            (actor.cut_min.max(1)..actor.stages.len()).map(|cut| way(Spot::split(home.0, cut, dpu), Some(view))),
        );
    }
    ways
}

/// The runs of stages that are fused, and where.
#[must_use]
pub fn fused(spot: Spot, stages: usize) -> Vec<(NodeId, Range<usize>)> {
    parts(spot, stages).into_iter().flatten().collect()
}

/// The same without allocation: the head, and the tail if it is elsewhere.
pub(crate) fn parts(spot: Spot, stages: usize) -> [Option<(NodeId, Range<usize>)>; 2] {
    match spot.tail {
        Some((cut, node)) if node != spot.head => {
            let cut = cut.min(stages);
            [Some((spot.head, 0..cut)), Some((node, cut..stages))]
        }
        _ => [Some((spot.head, 0..stages)), None],
    }
}

/// What the actor costs at `spot`, whose nodes are `head` and `tail`. Where a node has not measured a function, the
/// measure of `home` stands in, marked as such.
#[must_use]
pub fn price(
    actor: &ActorView,
    spot: Spot,
    head: &NodeView,
    tail: Option<&NodeView>,
    home: Option<&NodeView>,
    rules: &Rules,
) -> Price {
    let cut = spot.tail.map_or(actor.stages.len(), |(cut, _)| cut);
    let mut price = Price::default();
    let mut load = actor.load;
    let mut at_cut = load.bytes_per_s;
    for (at, stage) in actor.stages.iter().enumerate() {
        let in_tail = at >= cut;
        if at == cut {
            at_cut = load.bytes_per_s;
        }
        let (id, node) = match (tail, spot.tail) {
            (Some(node), Some((_, id))) if in_tail => (id, node),
            _ => (spot.head, head),
        };
        let measured = node.costs.get(&stage.kind);
        if measured.is_none() && !stage.uncounted && price.unmeasured.is_none() {
            price.unmeasured = Some(id);
        }
        let cost = measured.or_else(|| home.and_then(|home| home.costs.get(&stage.kind))).copied().unwrap_or_default();
        let ns = cost.ns_per_s(load);
        let part = if in_tail { &mut price.tail_ns } else { &mut price.head_ns };
        *part = part.saturating_add(ns);
        load.bytes_per_s = leaving(load.bytes_per_s, stage.reduces_bytes_permille);
    }
    price.crossed_bytes = crossed(actor, spot, head, at_cut, load.bytes_per_s, rules);
    for (node, ns) in [(Some(head), price.head_ns), (tail, price.tail_ns)] {
        let Some(node) = node else { continue };
        let sum = if node.kind == NodeKind::Host { &mut price.host_ns } else { &mut price.dpu_ns };
        *sum = sum.saturating_add(ns);
        price.microwatts = price.microwatts.saturating_add(microwatts(node, ns));
    }
    if price.crossed_bytes > 0 {
        let link = Load { requests_per_s: actor.load.requests_per_s, bytes_per_s: price.crossed_bytes };
        let ns = rules.link.ns_per_s(link);
        price.host_ns = price.host_ns.saturating_add(ns);
    }
    price
}

fn microwatts(node: &NodeView, ns: u64) -> u64 {
    let micro = u128::from(ns) * u128::from(node.milliwatts_per_core) / 1_000_000;
    u64::try_from(micro).unwrap_or(u64::MAX)
}

fn leaving(bytes: u64, reduces_permille: i32) -> u64 {
    let permille = (1000 - i64::from(reduces_permille)).unsigned_abs() * u64::from(reduces_permille <= 1000);
    part(bytes, permille)
}

fn part(bytes: u64, permille: u64) -> u64 {
    u64::try_from(u128::from(bytes) * u128::from(permille) / 1000).unwrap_or(u64::MAX)
}

fn crossed(actor: &ActorView, spot: Spot, head: &NodeView, at_cut: u64, output: u64, rules: &Rules) -> u64 {
    let input = actor.load.bytes_per_s;
    let local = part(output, rules.local_permille.min(1000));
    let on_dpu = head.kind == NodeKind::Dpu;
    let Some(ingress) = actor.ingress else {
        // Bytes come from anywhere: on the card they have arrived, on the host they cross the bus.
        return if on_dpu { 0 } else { input };
    };
    match spot.tail {
        Some(_) if spot.head == ingress => at_cut.saturating_add(local),
        None if spot.head == ingress && on_dpu => local,
        None if spot.head == ingress => output - local,
        None if on_dpu && head.attached_to == Some(ingress) => input.saturating_add(local),
        _ => input.saturating_add(output),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::{Cost, Stage};

    const HOST: NodeId = NodeId(1);
    const DPU: NodeId = NodeId(2);

    fn node(mut node: NodeView, ps_per_byte: u64, milliwatts_per_core: u32) -> NodeView {
        for kind in ["policy", "compress", "erasure"] {
            let cost = Cost { ns_per_request: 1000, ps_per_byte: if kind == "policy" { 0 } else { ps_per_byte } };
            node.costs.insert(kind.into(), cost);
        }
        node.milliwatts_per_core = milliwatts_per_core;
        node
    }

    fn chain() -> ActorView {
        let stage = |kind: &str, reduces_bytes_permille| Stage { reduces_bytes_permille, ..Stage::new(kind) };
        let stages = [stage("policy", 0), stage("compress", 500), stage("erasure", -500)];
        let load = Load { requests_per_s: 1000, bytes_per_s: 1_000_000_000 };
        ActorView { load, ..ActorView::chain(stages, HOST) }
    }

    #[test]
    fn prices_whole_and_every_cut() {
        let (host, dpu) = (node(NodeView::host(HOST), 100, 5000), node(NodeView::dpu(HOST), 200, 2000));
        let found = ways(&chain(), (HOST, &host), &[(DPU, &dpu)], &Rules::default());
        let told: Vec<(Spot, u64, u64, u64)> =
            found.iter().map(|Way { spot, price }| (*spot, price.host_ns, price.dpu_ns, price.crossed_bytes)).collect();
        assert_eq!(
            told,
            [
                // 3 stages of 1 µs a request; 0.1 ns a byte for all of it, then for half of it.
                (Spot::whole(HOST), 153_000_000, 0, 750_000_000),
                (Spot::whole(DPU), 0, 303_000_000, 1_000_000_000),
                (Spot::split(HOST, 1, DPU), 1_000_000, 302_000_000, 1_000_000_000),
                (Spot::split(HOST, 2, DPU), 102_000_000, 101_000_000, 500_000_000),
            ]
        );
        assert_eq!(found[0].price.microwatts, 765_000);
        assert_eq!(found[3].price.microwatts, 102 * 5000 + 101 * 2000);
    }

    #[test]
    fn what_crosses_costs_the_host_where_the_link_was_measured() {
        let (host, dpu) = (node(NodeView::host(HOST), 100, 0), node(NodeView::dpu(HOST), 200, 0));
        let rules = Rules { link: Cost { ns_per_request: 0, ps_per_byte: 1000 }, ..Rules::default() };
        let found = ways(&chain(), (HOST, &host), &[(DPU, &dpu)], &rules);
        let told: Vec<u64> = found.iter().map(|way| way.price.host_ns).collect();
        assert_eq!(told, [903_000_000, 1_000_000_000, 1_001_000_000, 602_000_000]);
    }

    #[test]
    fn output_for_drives_of_the_host_crosses_back_from_a_dpu() {
        let (host, dpu) = (node(NodeView::host(HOST), 100, 0), node(NodeView::dpu(HOST), 200, 0));
        let rules = Rules { local_permille: 1000, ..Rules::default() };
        let found = ways(&chain(), (HOST, &host), &[(DPU, &dpu)], &rules);
        let told: Vec<u64> = found.iter().map(|way| way.price.crossed_bytes).collect();
        assert_eq!(told, [0, 1_750_000_000, 1_750_000_000, 1_250_000_000]);
    }

    #[test]
    fn a_cost_that_was_not_measured_is_said_to_be_so() {
        let (host, mut dpu) = (node(NodeView::host(HOST), 100, 0), node(NodeView::dpu(HOST), 200, 0));
        dpu.costs.remove("erasure");
        let found = ways(&chain(), (HOST, &host), &[(DPU, &dpu)], &Rules::default());
        assert_eq!(found[0].price.unmeasured, None);
        assert_eq!(found[1].price.unmeasured, Some(DPU));
        assert_eq!(found[1].price.dpu_ns, 253_000_000);
    }

    #[test]
    fn a_cut_fuses_what_is_on_either_side_of_it() {
        assert_eq!(fused(Spot::whole(DPU), 3), [(DPU, 0..3)]);
        assert_eq!(fused(Spot::split(HOST, 2, DPU), 3), [(HOST, 0..2), (DPU, 2..3)]);
        assert_eq!(fused(Spot::split(HOST, 2, HOST), 3), [(HOST, 0..3)]);
    }

    #[test]
    fn numbers_without_measure_do_not_overflow() {
        let mut host = node(NodeView::host(HOST), u64::MAX, u32::MAX);
        host.costs.values_mut().for_each(|cost| cost.ns_per_request = u64::MAX);
        let mut actor = chain();
        actor.load = Load { requests_per_s: u64::MAX, bytes_per_s: u64::MAX };
        let stage = Stage { reduces_bytes_permille: i32::MIN, ..Stage::new("erasure") };
        actor.stages = [stage.clone(), stage].into();
        assert_eq!(price(&actor, Spot::whole(HOST), &host, None, None, &Rules::default()).host_ns, u64::MAX);
    }
}
