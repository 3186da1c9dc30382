//! Answers about the whole mesh, a page at a time: of a thousand nodes and a hundred thousand actors no message holds all.
//!
//! A page is cut where it is answered, by its encoded size, and named by the last one on the page before. Nothing is kept
//! between two pages: each shows how it is then, and who comes or goes meanwhile is on one of them or on none.

use std::{collections::BTreeMap, sync::Arc};

use serde::Serialize;

use super::{AdminAnswer, Answer, NodeReport};
use crate::{
    id::{ActorId, NodeId},
    limits::COMMAND_BYTES_MAX,
    meta,
    plan::{Decision, Move, Plan, Reason},
};

/// A page at most, encoded, unless a single item is larger.
pub const PAGE_BYTES_MAX: usize = COMMAND_BYTES_MAX / 2;

/// The reports of nodes behind one, of all of them in order: [`Answer::ReportPage`].
#[must_use]
pub fn reports(all: Vec<Arc<NodeReport>>, after: NodeId) -> Answer {
    let behind: Vec<Arc<NodeReport>> = all.into_iter().filter(|report| report.node > after).collect();
    let count = behind.len();
    let page = fitting(behind);
    Answer::ReportPage { more: page.len() < count, reports: page }
}

/// What a plan says of actors behind one: [`AdminAnswer::PlanPage`].
#[must_use]
pub fn plan(plan: Plan, after: Option<ActorId>) -> AdminAnswer {
    let last = last_of_page(&plan, after);
    let is_on = |actor: ActorId| after.is_none_or(|after| actor > after) && last.is_none_or(|last| actor <= last);
    let Plan { mut decisions, mut moves, mut refused, before, score, again_at_ms } = plan;
    decisions.retain(|actor, _| is_on(*actor));
    moves.retain(|step| is_on(step.actor));
    refused.retain(|(actor, _)| is_on(*actor));
    AdminAnswer::PlanPage { plan: Plan { decisions, moves, refused, before, score, again_at_ms }, next: last }
}

/// The last actor of a page; `None`: what is left fits.
fn last_of_page(plan: &Plan, after: Option<ActorId>) -> Option<ActorId> {
    #[derive(Default)]
    struct Said<'p>(Option<&'p Decision>, Vec<&'p Move>, Vec<&'p Reason>);
    let mut all: BTreeMap<ActorId, Said<'_>> = BTreeMap::new();
    for (actor, decision) in &plan.decisions {
        all.entry(*actor).or_default().0 = Some(decision);
    }
    for step in &plan.moves {
        all.entry(step.actor).or_default().1.push(step);
    }
    for (actor, reason) in &plan.refused {
        all.entry(*actor).or_default().2.push(reason);
    }
    let (mut bytes, mut last) = (0, None);
    for (actor, Said(decision, moves, reasons)) in all.into_iter().filter(|(actor, _)| Some(*actor) > after) {
        // The number of the actor stands there up to three times.
        bytes += 30 + size(&(decision, moves, reasons));
        if bytes > PAGE_BYTES_MAX && last.is_some() {
            return last;
        }
        last = Some(actor);
    }
    None
}

/// The first of some items, as many as a page holds; one at least.
#[must_use]
pub fn fitting<T: Serialize>(mut items: Vec<T>) -> Vec<T> {
    let mut bytes = 0;
    let over = items.iter().position(|item| {
        bytes += size(item);
        bytes > PAGE_BYTES_MAX
    });
    items.truncate(over.map_or(items.len(), |over| over.max(1)));
    items
}

/// Encoded. What is over every limit fills a page by itself, and its answer says so.
fn size(item: &impl Serialize) -> usize {
    meta::encode(item).map_or(PAGE_BYTES_MAX, |bytes| bytes.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        id::{Epoch, TenantId},
        op::ActorReport,
        plan::Spot,
    };

    fn report(node: u64, actors: u64) -> Arc<NodeReport> {
        let actor = |number| ActorReport {
            actor: ActorId(node * 1000 + number),
            functions: ["policy", "encrypt", "erasure"].map(str::to_owned).to_vec(),
            epoch: Epoch(1),
            phase: Default::default(),
            jobs: 0,
            bytes: 0,
            requests: u64::MAX,
            traffic_bytes: u64::MAX,
            restarts: 0,
        };
        Arc::new(NodeReport { node: NodeId(node), actors: (0..actors).map(actor).collect(), ..NodeReport::default() })
    }

    fn stays(actors: impl Iterator<Item = u64>) -> Plan {
        let spot = Some(Spot::whole(NodeId(7)));
        let decision = |number| (chain(number), Decision { spot, reason: Reason::Best });
        Plan { decisions: actors.map(decision).collect(), ..Plan::default() }
    }

    fn chain(number: u64) -> ActorId {
        ActorId::data(TenantId(number / 1000 + 1), NodeId(number % 1000 + 1))
    }

    #[test]
    fn pages_of_reports_are_all_of_them_in_order_and_each_fits_a_message() {
        let all: Vec<Arc<NodeReport>> = (1..=1000).map(|node| report(node, 100)).collect();
        assert!(meta::encode(&all).is_err(), "they do not fit in one");
        let (mut told, mut after, mut pages) = (Vec::new(), NodeId(0), 0);
        loop {
            let Answer::ReportPage { reports, more } = reports(all.clone(), after) else { panic!("no page") };
            assert!(meta::encode(&reports).is_ok());
            after = reports.last().expect("one at least").node;
            told.extend(reports);
            pages += 1;
            if !more {
                break;
            }
        }
        assert_eq!(told, all);
        assert!((2..40).contains(&pages), "{pages} pages");
        let small = vec![report(1, 1), report(2, 1)];
        assert_eq!(reports(small.clone(), NodeId(0)), Answer::ReportPage { reports: small.clone(), more: false });
        assert_eq!(reports(small, NodeId(2)), Answer::ReportPage { reports: Vec::new(), more: false });
    }

    #[test]
    fn pages_of_a_plan_are_the_plan_and_a_small_one_is_one_page() {
        let mut whole = stays(1..=100_000);
        let (here, there) = (Spot::whole(NodeId(7)), Spot::whole(NodeId(8)));
        for actor in (1..=100_000).rev().step_by(10).map(chain) {
            whole.moves.push(Move { actor, from: Some(here), to: there, reason: Reason::Best });
        }
        whole.refused = vec![(chain(5), Reason::Best), (chain(99_999), Reason::Best)];
        assert!(meta::encode(&whole).is_err(), "it does not fit in one");
        let (mut told, mut after) = (Plan::default(), None);
        loop {
            let answer = plan(whole.clone(), after);
            assert!(meta::encode(&answer).is_ok());
            let AdminAnswer::PlanPage { plan: page, next } = answer else { panic!("no page") };
            told.append(page);
            after = next;
            if next.is_none() {
                break;
            }
        }
        assert_eq!((&told.decisions, &told.refused), (&whole.decisions, &whole.refused));
        whole.moves.sort_by_key(|step| step.actor);
        told.moves.sort_by_key(|step| step.actor);
        assert_eq!(told.moves, whole.moves);
        let small = stays(1..=10);
        assert_eq!(plan(small.clone(), None), AdminAnswer::PlanPage { plan: small, next: None });
    }

    #[test]
    fn an_item_that_is_too_large_comes_alone() {
        let large = vec![0_u8; PAGE_BYTES_MAX + 1];
        assert_eq!(fitting(vec![large.clone(), vec![1]]), std::slice::from_ref(&large));
        assert_eq!(fitting(vec![vec![1], large]), [vec![1]]);
        assert_eq!(fitting(Vec::<u8>::new()), [0_u8; 0]);
    }
}
