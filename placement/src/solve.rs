//! Decides one component: everybody starts where they are, and is looked at in turn until nobody moves any more.
//!
//! What an actor does at its turn depends only on where all are at that moment. So a plan that has been carried out
//! is its own answer: the next one begins where this one ended, and ends there. Every step makes some actor's place
//! better without making one of a higher class worse, so that the steps come to an end.
//!
//! Turns go by class (pinned, then `dpu-only`, then `prefer-dpu` and `host-only`, then `auto`), then by what the host
//! can be saved; whoever must make room is asked in the opposite order.

use core::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use mesh_core::{
    id::{ActorId, NodeId},
    plan::{Decision, Objective, Reason, Score, Spot},
};

use crate::{
    candidates::{self, Candidate, Candidates, Need},
    fuse,
    index::{Component, Domains, Index},
    plan::Outcome,
    room::{Guest, Rooms},
    view::{ActorView, Preference, View},
};

/// What was decided for a component.
#[derive(Debug, Default)]
pub(crate) struct Solved {
    pub(crate) outcomes: Vec<Outcome>,
    pub(crate) before: Score,
    pub(crate) after: Score,
}

pub(crate) fn solve(view: &View, index: &Index, component: &Component) -> Solved {
    let mut solver = Solver::new(view, index, component);
    let before = solver.score();
    for _ in 0..ROUNDS_MAX {
        if !solver.round() {
            break;
        }
    }
    let mut after = solver.score();
    let mut outcomes: Vec<Outcome> = solver.items.into_iter().map(Item::outcome).collect();
    outcomes.sort_unstable_by_key(|outcome| outcome.actor);
    after.moves = outcomes.iter().filter(|outcome| outcome.moves()).count() as u64;
    Solved { outcomes, before, after }
}

struct Item<'a> {
    id: ActorId,
    actor: &'a ActorView,
    class: u8,
    found: Candidates,
    /// Its present place in the list.
    now: Option<usize>,
    /// The group that it should be apart from, if it can be in more than one failure domain.
    apart: Option<u64>,
    /// Why it went, the first time.
    went: Option<Reason>,
    /// Why it stayed, the last time.
    stays: Reason,
    /// When to look again although nothing has changed: the first time that something it wished becomes allowed,
    /// even if it then found something else.
    due_ms: Option<u64>,
}

/// How good a place is to one actor; smaller is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    not_as_pinned: bool,
    together: u32,
    miss: u64,
    host_ns: u64,
    crossed_bytes: u64,
    microwatts: u64,
}

struct Solver<'a> {
    view: &'a View,
    rooms: Rooms<'a>,
    items: Vec<Item<'a>>,
    /// Members of a group in a failure domain.
    together: BTreeMap<(u64, NodeId), u32>,
}

impl Item<'_> {
    fn current(&self) -> Option<&Candidate> {
        self.now.and_then(|now| self.found.list.get(now))
    }

    fn needs(&self) -> [Option<Need>; 2] {
        self.current().map_or([None, None], |candidate| candidate.needs)
    }

    fn outcome(self) -> Outcome {
        let from = self.actor.at;
        let spot = match self.actor.moving {
            Some(target) => from.or(Some(target)),
            None => self.current().map(|candidate| candidate.spot),
        };
        let moved = spot != from && self.actor.moving.is_none();
        let reason = self.went.filter(|_| moved && spot.is_some()).unwrap_or(self.stays);
        let still = self.actor.moving.is_some();
        Outcome { actor: self.id, from, still, decision: Decision { spot, reason }, due_ms: self.due_ms }
    }
}

impl<'a> Solver<'a> {
    fn new(view: &'a View, index: &Index, component: &Component) -> Self {
        let mut rooms = Rooms::default();
        for (&id, node) in component.nodes.iter().filter_map(|id| view.nodes.get_key_value(id)) {
            rooms.add(id, node);
        }
        let mut items: Vec<(u64, Item<'a>)> = Vec::with_capacity(component.actors.len());
        for (&id, actor) in component.actors.iter().filter_map(|id| view.actors.get_key_value(id)) {
            let found = Candidates::of(view, index, id, actor);
            let (now, class) = (found.origin, class(id, actor));
            let apart = actor.apart.filter(|_| index.domains(view, id, actor) == Domains::Many);
            let saving = saving(&found);
            let item = Item { id, actor, class, found, now, apart, went: None, stays: Reason::Best, due_ms: None };
            items.push((saving, item));
        }
        items.sort_by_key(|(saving, item)| (item.class, Reverse(*saving), item.id));
        let items = items.into_iter().map(|(_, item)| item).collect();
        let mut solver = Self { view, rooms, items, together: BTreeMap::new() };
        solver.count_the_fixed(index, component);
        for at in 0..solver.items.len() {
            solver.enter(at);
            solver.keep_room_at_target(at);
        }
        solver
    }

    /// Members of groups that can be in one domain only are there, whatever is decided.
    fn count_the_fixed(&mut self, index: &Index, component: &Component) {
        let groups: BTreeSet<u64> = self.items.iter().filter_map(|item| item.apart).collect();
        for group in groups {
            for (id, actor) in index.group(group).filter_map(|id| self.view.actors.get_key_value(&id)) {
                match index.domains(self.view, *id, actor) {
                    Domains::One(domain) => *self.together.entry((group, domain)).or_default() += 1,
                    Domains::Many => debug_assert!(component.actors.contains(id), "it is tied to the group"),
                    Domains::None => {}
                }
            }
        }
    }

    fn keep_room_at_target(&mut self, at: usize) {
        let item = &self.items[at];
        let Some(target) = item.actor.moving.filter(|target| Some(*target) != item.actor.at) else { return };
        let (head, tail) = (self.rooms.node(target.head), target.tail.and_then(|(_, node)| self.rooms.node(node)));
        let home = candidates::home(item.id, item.actor).and_then(|home| self.rooms.node(home));
        // Of a target that is half known, what is known.
        let Some(head) = head.or(tail) else { return };
        let price = fuse::price(item.actor, target, head, tail, home, &self.view.rules);
        let needs = candidates::needs(item.actor, target, &price);
        let guest = item.guest(at);
        self.rooms.enter(guest, needs);
    }

    /// Whether anybody moved.
    fn round(&mut self) -> bool {
        let mut moved = false;
        for at in (0..self.items.len()).rev() {
            let item = &self.items[at];
            if item.actor.moving.is_none() && self.rooms.crowded(item.actor, item.needs()).is_some() {
                moved |= self.look(at);
            }
        }
        for at in 0..self.items.len() {
            moved |= self.look(at);
        }
        moved
    }

    fn look(&mut self, at: usize) -> bool {
        let item = &mut self.items[at];
        if let Some(target) = item.actor.moving {
            item.stays = Reason::Moving(target.tail.map_or(target.head, |(_, node)| node));
            return false;
        }
        let item = &self.items[at];
        let Some(current) = item.current() else {
            let why = item.found.lost.clone().unwrap_or(Reason::New);
            return self.must_leave(at, why, None);
        };
        if let Some(reason) = current.blocked.clone() {
            return self.must_leave(at, reason, None);
        }
        match self.rooms.crowded(item.actor, item.needs()) {
            Some(crowded) => self.must_leave(at, crowded.1.clone(), Some(&crowded)),
            None => self.may_improve(at),
        }
    }

    fn must_leave(&mut self, at: usize, why: Reason, crowded: Option<&(NodeId, Reason)>) -> bool {
        let item = &self.items[at];
        let relieves = |candidate: &Candidate| match crowded {
            Some(crowded) => self.rooms.relieves(crowded, item.needs(), candidate),
            None => true,
        };
        let mut ranked: Vec<(Rank, usize)> = (0..item.found.list.len())
            .filter(|&to| Some(to) != item.now)
            .filter(|&to| item.found.list[to].blocked.is_none() && relieves(&item.found.list[to]))
            .map(|to| (self.rank(item, to), to))
            .collect();
        ranked.sort_unstable();
        let mut but = None;
        for &(_, to) in &ranked {
            match self.refused(at, to) {
                None => {
                    self.go(at, to, why);
                    return true;
                }
                Some((_, reason)) => {
                    but.get_or_insert(reason);
                }
            }
        }
        for &(_, to) in &ranked {
            if self.make_room(at, to) {
                self.go(at, to, why);
                return true;
            }
        }
        let item = &mut self.items[at];
        let but = but.unwrap_or_else(|| item.found.why_none(item.id, item.actor));
        item.stays = match item.now {
            None => but,
            Some(_) => Reason::Stuck { why: Box::new(why), but: Box::new(but) },
        };
        false
    }

    fn may_improve(&mut self, at: usize) -> bool {
        let item = &self.items[at];
        let Some(now) = item.now else { return false };
        let here = self.rank(item, now);
        let mut better: Vec<(Rank, usize)> = Vec::new();
        for (to, candidate) in item.found.list.iter().enumerate() {
            let rank = self.rank(item, to);
            if to != now && candidate.blocked.is_none() && rank < here {
                better.push((rank, to));
            }
        }
        better.sort_unstable();
        let mut hindrance = None;
        for (rank, to) in better {
            match self.gate(at, to, here, rank) {
                Ok(why) => {
                    let Some((_, reason)) = self.refused(at, to) else {
                        self.go(at, to, why);
                        return true;
                    };
                    if !matches!(why, Reason::Gain { .. }) && self.make_room(at, to) {
                        self.go(at, to, why);
                        return true;
                    }
                    hindrance.get_or_insert(reason);
                }
                Err((reason, due_ms)) => {
                    let item = &mut self.items[at];
                    item.due_ms = item.due_ms.into_iter().chain(due_ms).min();
                    hindrance.get_or_insert(reason);
                }
            }
        }
        let item = &mut self.items[at];
        item.stays = hindrance.unwrap_or_else(|| item.why_best());
        false
    }

    /// Why the actor may go to a better place, or why not yet, and when to ask again.
    fn gate(&self, at: usize, to: usize, here: Rank, there: Rank) -> Result<Reason, (Reason, Option<u64>)> {
        let (item, rules, now_ms) = (&self.items[at], &self.view.rules, self.view.now_ms);
        let candidate = &item.found.list[to];
        let reason = item.why_better(candidate, here, there, self.domain(item, item.now));
        // To stay where it began is no move.
        if item.found.origin == Some(to) {
            return Ok(reason);
        }
        for need in candidate.needs.into_iter().flatten() {
            let own = item.needs().into_iter().flatten().any(|own| own.node == need.node);
            if !own && self.rooms.node(need.node).is_some_and(|node| !node.ready) {
                return Err((Reason::NotReady(need.node), None));
            }
            let up_since = self.rooms.node(need.node).map_or(0, |node| node.up_since_ms);
            let settled_ms = up_since.saturating_add(rules.settle_ms);
            if !own && settled_ms > now_ms {
                let node = need.node;
                return Err((Reason::Settling { node, settle_ms: rules.settle_ms }, Some(settled_ms)));
            }
        }
        let Reason::Gain { what, permille } = reason else { return Ok(reason) };
        let unmeasured = item.current().and_then(|current| current.price.unmeasured).or(candidate.price.unmeasured);
        if let Some(node) = unmeasured {
            return Err((Reason::Unmeasured(node), None));
        }
        let (gain, least) = match what {
            Objective::HostCpu => (here.host_ns - there.host_ns, rules.gain_ns_min),
            Objective::CrossedBytes => (here.crossed_bytes - there.crossed_bytes, rules.gain_bytes_min),
            Objective::Power => (here.microwatts - there.microwatts, rules.gain_microwatts_min),
        };
        if permille < rules.gain_permille {
            return Err((Reason::SmallGain { what, permille, least: rules.gain_permille }, None));
        }
        if gain < least {
            return Err((Reason::LittleGain(what), None));
        }
        let free_ms = item.actor.moved_at_ms.map_or(0, |moved| moved.saturating_add(rules.hold_ms));
        if free_ms > now_ms {
            return Err((Reason::Held { hold_ms: rules.hold_ms }, Some(free_ms)));
        }
        Ok(reason)
    }

    /// Moves actors of lower classes out of the way, if that helps: all or nothing.
    fn make_room(&mut self, at: usize, to: usize) -> bool {
        let mut undo: Vec<(usize, Option<usize>, bool)> = Vec::new();
        let (id, class) = (self.items[at].id, self.items[at].class);
        let mut asked: BTreeSet<usize> = BTreeSet::new();
        while let Some((node, _)) = self.refused(at, to) {
            let lower = self.rooms.occupants(node).rev().take_while(|(other, _)| *other > class);
            let Some(victim) = lower.map(|(_, at)| at).find(|at| !asked.contains(at)) else {
                for (victim, back, first) in undo.into_iter().rev() {
                    self.relocate(victim, back);
                    if first {
                        self.items[victim].went = None;
                    }
                }
                return false;
            };
            asked.insert(victim);
            if let Some(elsewhere) = self.elsewhere(victim, node) {
                let item = &self.items[victim];
                undo.push((victim, item.now, item.went.is_none()));
                self.go(victim, elsewhere, Reason::MadeRoom { actor: id, node });
            }
        }
        true
    }

    /// The best other place of `victim`, away from `node`.
    fn elsewhere(&self, victim: usize, node: NodeId) -> Option<usize> {
        let item = &self.items[victim];
        if item.actor.moving.is_some() {
            return None;
        }
        let possible = |to: &usize| {
            let candidate = &item.found.list[*to];
            candidate.blocked.is_none()
                && candidate.needs.into_iter().flatten().all(|need| need.node != node)
                && self.refused(victim, *to).is_none()
        };
        (0..item.found.list.len()).filter(possible).min_by_key(|to| self.rank(item, *to))
    }

    fn refused(&self, at: usize, to: usize) -> Option<(NodeId, Reason)> {
        let item = &self.items[at];
        self.rooms.refuses(item.actor, item.needs(), &item.found.list[to], self.view.rules.fill_permille)
    }

    fn rank(&self, item: &Item<'_>, to: usize) -> Rank {
        let candidate = &item.found.list[to];
        let pinned = item.actor.pin.is_none_or(|pin| candidate.spot == Spot::whole(pin));
        Rank {
            not_as_pinned: !pinned,
            together: self.others_in_domain(item, to),
            miss: candidate.miss,
            host_ns: candidate.price.host_ns,
            crossed_bytes: candidate.price.crossed_bytes,
            microwatts: candidate.price.microwatts,
        }
    }

    /// Other members of its group in the failure domain of a place.
    fn others_in_domain(&self, item: &Item<'_>, to: usize) -> u32 {
        let Some(group) = item.apart else { return 0 };
        let Some(domain) = self.domain(item, Some(to)) else { return 0 };
        let all = self.together.get(&(group, domain)).copied().unwrap_or(0);
        all - u32::from(self.domain(item, item.now) == Some(domain))
    }

    fn domain(&self, item: &Item<'_>, to: Option<usize>) -> Option<NodeId> {
        let spot = item.found.list.get(to?)?.spot;
        self.rooms.node(spot.head).map(|node| node.domain)
    }

    fn go(&mut self, at: usize, to: usize, why: Reason) {
        self.relocate(at, Some(to));
        self.items[at].went.get_or_insert(why);
    }

    fn relocate(&mut self, at: usize, to: Option<usize>) {
        let item = &self.items[at];
        self.rooms.leave(item.guest(at), item.needs());
        self.count(at, false);
        self.items[at].now = to;
        self.enter(at);
    }

    fn enter(&mut self, at: usize) {
        let item = &self.items[at];
        self.rooms.enter(item.guest(at), item.needs());
        self.count(at, true);
    }

    fn count(&mut self, at: usize, enters: bool) {
        let item = &self.items[at];
        let Some(group) = item.apart else { return };
        let Some(domain) = self.domain(item, item.now) else { return };
        let count = self.together.entry((group, domain)).or_default();
        if enters { *count += 1 } else { *count -= 1 }
    }

    fn score(&self) -> Score {
        self.items.iter().fold(Score::default(), |score, item| score.plus(self.score_of(item)))
    }

    fn score_of(&self, item: &Item<'_>) -> Score {
        let (Some(now), Some(current)) = (item.now, item.current()) else {
            return Score { safety: u64::from(item.actor.moving.is_none()), ..Score::default() };
        };
        let together = self.others_in_domain(item, now) > 0;
        let (broken, shared) = match self.rooms.crowded(item.actor, current.needs) {
            Some((_, Reason::Isolation { .. })) => (false, true),
            Some(_) => (true, false),
            None => (false, false),
        };
        Score {
            safety: u64::from(together || broken || current.blocked.is_some()),
            isolation: u64::from(shared),
            host_cpu: current.price.host_ns,
            crossed_bytes: current.price.crossed_bytes,
            power: current.price.microwatts,
            moves: 0,
        }
    }
}

impl<'a> Item<'a> {
    fn guest(&self, index: usize) -> Guest<'a> {
        Guest { actor: self.actor, class: self.class, index }
    }

    fn why_better(&self, to: &Candidate, here: Rank, there: Rank, domain: Option<NodeId>) -> Reason {
        if there.not_as_pinned != here.not_as_pinned {
            return Reason::Pinned(to.spot.head);
        }
        if let (true, Some(domain)) = (there.together != here.together, domain) {
            return Reason::Apart { domain };
        }
        if there.miss != here.miss {
            return self.preferred(to.spot);
        }
        let pairs = [
            (Objective::HostCpu, here.host_ns, there.host_ns),
            (Objective::CrossedBytes, here.crossed_bytes, there.crossed_bytes),
            (Objective::Power, here.microwatts, there.microwatts),
        ];
        let first = pairs.into_iter().find(|(_, here, there)| here != there);
        let (what, here, there) = first.unwrap_or((Objective::Power, 1, 1));
        let permille = u128::from(here.saturating_sub(there)) * 1000 / u128::from(here.max(1));
        Reason::Gain { what, permille: permille as u64 }
    }

    fn preferred(&self, spot: Spot) -> Reason {
        let dpu = spot.tail.map_or(spot.head, |(_, node)| node);
        Reason::Preferred { dpu, ingress: self.actor.ingress }
    }

    /// Why nothing is better than where it is.
    fn why_best(&self) -> Reason {
        let Some(current) = self.current() else { return Reason::Best };
        if let Some(pin) = self.actor.pin
            && current.spot == Spot::whole(pin)
        {
            return Reason::Pinned(pin);
        }
        if self.actor.preference == Preference::PreferDpu && current.miss == 0 {
            return self.preferred(current.spot);
        }
        if let Some(refusal) = self.found.refusals.first() {
            return refusal.clone();
        }
        match candidates::home(self.id, self.actor) {
            Some(home) if self.id.as_ingress().is_none() && self.found.list.len() == 1 => Reason::NoDpu(home),
            _ => Reason::Best,
        }
    }
}

/// Lower goes first, and may ask higher ones to make room.
fn class(id: ActorId, actor: &ActorView) -> u8 {
    match actor.preference {
        _ if actor.pin.is_some() || id.as_ingress().is_some() => 0,
        Preference::DpuOnly => 1,
        Preference::PreferDpu | Preference::HostOnly => 2,
        Preference::Auto => 3,
    }
}

/// What the host can be saved between the worst and the best place.
fn saving(found: &Candidates) -> u64 {
    let costs = || found.list.iter().filter(|to| to.blocked.is_none()).map(|to| to.price.host_ns);
    costs().max().unwrap_or(0) - costs().min().unwrap_or(0)
}

/// Rounds of turns at most. Two are common, and each further one needs a chain of actors that make way for each other;
/// the bound keeps a mistake from becoming a hang.
const ROUNDS_MAX: usize = 1000;
