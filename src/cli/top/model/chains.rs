//! Where each tenant's chains run, and which of them move.

use core::time::Duration;
use std::collections::BTreeMap;

use mesh_core::{
    happened::Happened,
    id::{ActorId, ActorName, Epoch, NodeId, TenantId},
    op::Phase,
    topology::NodeState,
};

use super::Model;

/// A chain, or the end of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ChainRow {
    pub(crate) tenant: String,
    pub(crate) name: String,
    /// Where it runs; `None`: nobody says that it does.
    pub(crate) at: Option<NodeId>,
    pub(crate) functions: String,
    /// Its move, and for how long that has been seen.
    pub(crate) moving: Option<(Moving, Duration)>,
    /// The last that is remembered of its moves.
    pub(crate) last: String,
}

/// A move that is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Moving {
    pub(crate) from: Option<NodeId>,
    pub(crate) to: Option<NodeId>,
    pub(crate) step: Step,
}

/// How far a move is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// It is built at its target, while the source runs it and sends its state.
    Copies,
    /// Requests wait, while the rest of its state goes over.
    Frozen,
    /// It runs at its target; the source ends what it had.
    Retires,
}

/// Where it is, under which epoch, and what it does there.
type Seat = (NodeId, Epoch, Phase);

/// The seats of a chain, and its functions by name.
type Seats<'a> = (Vec<Seat>, &'a [String]);

impl Model {
    /// Every chain, in order.
    fn seats(&self) -> BTreeMap<ActorId, Seats<'_>> {
        let mut all: BTreeMap<ActorId, Seats<'_>> = BTreeMap::new();
        for report in self.reports.iter().filter(|report| report.state != NodeState::Down) {
            for actor in report.actors.iter().filter(|actor| tenant_of(actor.actor).is_some()) {
                let (seats, functions) = all.entry(actor.actor).or_default();
                seats.push((report.node, actor.epoch, actor.phase));
                if functions.is_empty() {
                    *functions = &actor.functions;
                }
            }
        }
        all
    }

    /// Notes when each move was seen first.
    pub(super) fn look_for_moves(&mut self, now: Duration) {
        let under_way = self.seats().into_iter().filter_map(|(actor, (seats, _))| Some((actor, moving(&seats)?)));
        let since = |actor: &ActorId, seen: &Moving| match self.moving.get(actor) {
            // What one of the two nodes says may come later than what the other one does.
            Some((known, since)) if known.from == seen.from || known.to == seen.to => *since,
            _ => now,
        };
        self.moving = under_way.map(|(actor, seen)| (actor, (seen, since(&actor, &seen)))).collect();
    }

    /// Those that move first; then by tenant and front end.
    pub(super) fn chain_rows(&self, now: Duration) -> Vec<ChainRow> {
        let row = |(actor, (seats, functions)): (ActorId, Seats<'_>)| ChainRow {
            tenant: self.tenant_name(actor),
            name: ActorName(actor).to_string(),
            at: home(&seats).map(|(node, ..)| *node),
            functions: super::plain(&functions.join(" > ")),
            moving: self.moving.get(&actor).map(|(seen, since)| (*seen, now.saturating_sub(*since))),
            last: self.last_of(actor),
        };
        let mut all: Vec<_> = self.seats().into_iter().collect();
        all.sort_by_key(|(actor, _)| (!self.moving.contains_key(actor), tenant_of(*actor), *actor));
        all.into_iter().take(ROWS_MAX).map(row).collect()
    }

    fn tenant_name(&self, actor: ActorId) -> String {
        let tenant = tenant_of(actor).unwrap_or_default();
        self.tenants.get(&tenant).cloned().unwrap_or_else(|| tenant.to_string())
    }

    fn last_of(&self, actor: ActorId) -> String {
        let told = self.events.iter().rev().find_map(|row| {
            let text = match &row.what {
                Happened::Moved { actor: moved, from, waited_us, .. } if *moved == actor => {
                    format!("from {from}, {}.{:02} ms", waited_us / 1000, waited_us % 1000 / 10)
                }
                Happened::TakenOver { actor: moved, from, .. } if *moved == actor => format!("taken over from {from}"),
                Happened::NotMoved { actor: moved, to, .. } if *moved == actor => format!("did not move to {to}"),
                Happened::NotTakenOver { actor: moved, to, .. } if *moved == actor => {
                    format!("not taken over by {to}")
                }
                _ => return None,
            };
            let seconds = row.at.0 / 1000 % 86_400;
            let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
            Some(format!("{hour:02}:{minute:02}:{second:02} {text}"))
        });
        told.unwrap_or_default()
    }
}

/// The tenant whose chain, or end of a chain, an actor is.
pub(super) fn tenant_of(actor: ActorId) -> Option<TenantId> {
    actor.as_data().map(|(tenant, _)| tenant).or_else(|| actor.as_tail().map(|(tenant, ..)| tenant))
}

/// Where it takes requests: nodes report at different moments, so the newest epoch counts.
fn home(seats: &[Seat]) -> Option<&Seat> {
    let runs = seats.iter().filter(|(_, _, phase)| matches!(phase, Phase::Running | Phase::Frozen));
    runs.max_by_key(|(_, epoch, _)| *epoch)
}

/// The move that seats are of.
fn moving(seats: &[Seat]) -> Option<Moving> {
    let home = home(seats);
    let node = |seat: Option<&Seat>| seat.map(|(node, ..)| *node);
    let of = |wanted: Phase| seats.iter().find(|(_, _, phase)| *phase == wanted);
    let (from, to, step) = match (home, of(Phase::Warming), of(Phase::Draining)) {
        (Some((_, _, Phase::Frozen)), target, _) => (home, target, Step::Frozen),
        (home, target @ Some(_), _) => (home, target, Step::Copies),
        (home, None, leaves @ Some(_)) => (leaves, home, Step::Retires),
        (_, None, None) => return None,
    };
    Some(Moving { from: node(from), to: node(to), step })
}

/// Chains that are shown at most.
const ROWS_MAX: usize = 1000;
