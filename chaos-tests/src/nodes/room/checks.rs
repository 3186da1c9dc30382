//! What must hold of whole nodes, all the time and once all is calm.

use core::time::Duration;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use futures_util::FutureExt as _;
use mesh_core::{
    assignment::Preference,
    happened::Happened,
    id::{ActorId, ActorName, Epoch, GroupId, NodeId},
    meta::ControlView,
    op::GroupReport,
    plan::Reason,
    topology::Replicas,
};
use mesh_placement::doors::taken_over;

use super::{Room, dpu_of};

/// A take-over that is said to have failed is carried out within so long, if at all.
const TRIED: u64 = 15_000;
/// What has moved is told by who led that within so long.
const TOLD: u64 = 1_000;

/// An actor that seems to have been taken over, though it is said that it was not.
pub(super) struct Robbed {
    actor: ActorId,
    epoch: Epoch,
    from: NodeId,
    to: NodeId,
    /// When that was seen.
    since: u64,
}

/// When each node was last hurt: it was down, asleep, slow, cut off from somebody, or its drive did not answer.
#[derive(Default)]
pub(super) struct Hurt {
    /// Until when, as far as it is known.
    pub(super) until: BTreeMap<NodeId, u64>,
    /// Until when front ends have to do with those who dawdle.
    dawdlers: u64,
    /// How often answers were looked for, with nobody hurt and with one.
    looked: [u64; 2],
}

impl Hurt {
    pub(super) fn note(&mut self, node: NodeId, until: u64) {
        let known = self.until.entry(node).or_default();
        *known = until.max(*known);
    }

    /// Until then some dawdle: whoever waits for what they hold is answered once they have been cut off.
    pub(super) fn note_dawdlers(&mut self, until: u64) {
        self.dawdlers = self.dawdlers.max(until);
    }

    /// Whether all have been well since then.
    pub(super) fn is_steady_since(&self, then: u64) -> bool {
        self.since(then).is_empty()
    }

    /// The nodes that have not been well all the time since then.
    fn since(&self, then: u64) -> BTreeSet<NodeId> {
        self.until.iter().filter(|(_, until)| **until >= then).map(|(node, _)| *node).collect()
    }
}

/// A node is not robbed unless it has not been well within this before.
const WELL: u64 = 4_000;
/// Clients are answered within this while all are well, have been, and have nothing to do with dawdlers.
const FAIR: u64 = 5_000;
/// … and within this with one node that is not, or with dawdlers.
const ROUGH: u64 = 12_000;

impl Room {
    /// Replicas of a metadata group that have applied the same have the same state.
    ///
    /// # Errors
    /// Which have not.
    pub(in crate::nodes) fn expect_same_replicas(&mut self) -> Result<(), String> {
        self.applied.clear();
        for (node, _, running) in self.nodes().collect::<Vec<_>>() {
            let digests = running.metadata_digests().map_err(|error| format!("{node}: {error}"))?;
            for (group, (index, digest)) in digests {
                if group == GroupId::CONTROL {
                    self.applied.insert(node, index);
                }
                let (known, other) = *self.digests.entry((group, index)).or_insert((digest, node));
                if known != digest {
                    return Err(format!("{node} and {other} have applied {group} up to {index}, and to other ends"));
                }
                self.compared += u64::from(other != node);
            }
        }
        Ok(())
    }

    /// What is missing before all is well; none: nothing.
    pub(in crate::nodes) fn missing(&self, wanted: &[NodeId]) -> Option<String> {
        for (node, machine) in wanted.iter().filter_map(|node| self.machines.get_key_value(node)) {
            let Some(running) = &machine.running else { return Some(format!("{node} does not run")) };
            match running.node() {
                None => return Some(format!("{node} is starting")),
                Some(Err(error)) => return Some(format!("{node} did not start: {error}")),
                Some(Ok(started)) => {
                    let _inside = running.runtime.enter();
                    if let Some(Err(error)) = started.ready(Duration::ZERO).now_or_never() {
                        return Some(error.to_string());
                    }
                    if started.ready(Duration::ZERO).now_or_never().is_none() {
                        return Some(format!("{node} is not ready"));
                    }
                }
            }
        }
        None
    }

    /// How often it was looked for answers while nobody was hurt, and while one was.
    pub(in crate::nodes) const fn looked(&self) -> [u64; 2] {
        self.hurt.looked
    }

    /// The newest view that a node has of the control group.
    pub(in crate::nodes) fn newest(&self) -> Option<Arc<ControlView>> {
        self.newest_and_its_age().map(|(_, view)| view)
    }

    /// … and how many entries of its log it has seen, by what was looked at last. Epochs say nothing: with a node go chains.
    fn newest_and_its_age(&self) -> Option<(u64, Arc<ControlView>)> {
        let age = |node: NodeId| self.applied.get(&node).copied().unwrap_or(0);
        self.nodes().map(|(id, _, node)| (age(id), node.control())).max_by_key(|(age, _)| *age)
    }

    /// What is not where it should be once all is calm; none: nothing.
    pub(in crate::nodes) fn unsettled(&self) -> Option<String> {
        let view = self.newest()?;
        if let Some(left) = self.leftovers(&view).or_else(|| self.misplaced(&view)) {
            return Some(left);
        }
        for row in view.assignments.values() {
            let name = ActorName(row.actor);
            if let Some(to) = row.moving {
                return Some(format!("{name} is still on its way from {} to {to}", row.node));
            }
            // A chain that breaks down too often where it is wished is elsewhere for a minute.
            let Some((_, ingress)) = row.actor.as_data().filter(|_| !self.frail) else { continue };
            let dpu = dpu_of(ingress.0);
            let (wanted, tail) = match self.wish.map(|wish| wish.preference) {
                Some(Preference::PreferDpu) if !view.nodes.contains_key(&dpu) => (ingress, None),
                Some(Preference::PreferDpu) if self.deft => (ingress, Some(dpu)),
                Some(Preference::PreferDpu) => (dpu, None),
                Some(Preference::HostOnly) => (ingress, None),
                _ => continue,
            };
            if row.node != wanted {
                return Some(format!("{name} runs on {} and not on {wanted}", row.node));
            }
            let at = view.tails.get(&row.actor).map(|tail| tail.node);
            if at != tail {
                return Some(format!("{name} has its tail on {at:?} and not on {tail:?}"));
            }
        }
        let drained = view.nodes.values().find(|info| info.draining);
        drained.map(|info| format!("{} is still being drained", info.id))
    }

    /// A replica of a namespace group that is not where it is to be, or is where it is not; none: all are where they are to be.
    fn misplaced(&self, view: &ControlView) -> Option<String> {
        let replicas = Replicas::of(view)?;
        for group in (1..=u64::from(view.namespaces)).map(GroupId) {
            let hosts = replicas.hosts(group)?;
            for (id, _, running) in self.nodes().filter(|(id, ..)| !self.is_out(*id)) {
                let reports = running.status();
                let own = reports.iter().find(|report| report.node == id);
                let said = own.and_then(|own| own.groups.iter().find(|said| said.group == group));
                if said.is_some() != hosts.contains(&id) {
                    let has = if said.is_some() { "a" } else { "no" };
                    return Some(format!("{id} has {has} replica of {group}, which is to be of {hosts:?}"));
                }
                let voters = |said: &GroupReport| said.voters.iter().map(|voter| voter.node()).collect::<BTreeSet<_>>();
                if let Some(said) = said.filter(|said| said.leader == Some(id) && voters(said) != *hosts) {
                    return Some(format!("{:?} vote in {group}, which is to be of {hosts:?}", said.voters));
                }
            }
        }
        None
    }

    /// Whether somebody was robbed: an actor was taken over from a node that has been well all the time. Also by who was told
    /// that it did not come to that, because it led no more, and whose proposal was carried out all the same.
    ///
    /// # Errors
    /// Which, from whom.
    pub(in crate::nodes) fn expect_no_robbery(&mut self) -> Result<(), String> {
        let now = self.time.windows();
        let hurt = self.hurt.since(now.saturating_sub(WELL));
        let robbed =
            |actor, from, to| format!("{} was taken over from {from}, which is well, by {to}", ActorName(actor));
        for (node, start, running) in self.nodes().collect::<Vec<_>>() {
            let told = self.told.entry(node).or_default();
            if told.0 != start {
                *told = (start, 0);
            }
            let (rows, last) = running.happened(told.1);
            told.1 = last;
            for row in rows {
                match row.what {
                    // A chain that breaks down too often where it runs is started elsewhere.
                    Happened::TakenOver { why: Reason::Failed(_), .. } if self.frail => {}
                    Happened::TakenOver { actor, from, to, .. } if !hurt.contains(&from) => {
                        return Err(robbed(actor, from, to));
                    }
                    Happened::NotTakenOver { actor, to, .. } if !self.frail => {
                        self.tried.insert((actor, to), now + TRIED);
                    }
                    // It moved live, unseen between two looks.
                    Happened::Moved { actor, epoch, .. } => {
                        self.robbed.retain(|one| (one.actor, one.epoch) != (actor, epoch))
                    }
                    _ => {}
                }
            }
        }
        if let Some(one) = self.robbed.first().filter(|one| one.since + TOLD < now) {
            return Err(robbed(one.actor, one.from, one.to));
        }
        self.tried.retain(|_, until| *until > now);
        // While who knew it is down, others may not have heard of it: what is seen then was there before.
        let newest = self.newest_and_its_age().filter(|(age, _)| *age > self.seen_last.0);
        let Some(newest) = newest else { return Ok(()) };
        let (_, before) = core::mem::replace(&mut self.seen_last, newest);
        for (actor, place) in taken_over(&before, &self.seen_last.1) {
            let from = before.assignments.get(&actor).map(|row| row.node);
            let was_well = from.filter(|from| *from != place.node && !hurt.contains(from));
            if let Some(from) = was_well.filter(|_| self.tried.contains_key(&(actor, place.node))) {
                self.robbed.push(Robbed { actor, epoch: place.epoch, from, to: place.node, since: now });
            }
        }
        Ok(())
    }

    /// Whether clients are answered while they should be: with at most one node that is not well, within a bound, also if it
    /// is their own ingress where all have been well.
    ///
    /// # Errors
    /// Who is not.
    pub(in crate::nodes) fn expect_answers(&mut self) -> Result<(), String> {
        let now = self.time.windows();
        let hurt = |span: u64| self.hurt.since(now.saturating_sub(span));
        let (all_well, one_not) = (hurt(FAIR).is_empty(), hurt(ROUGH));
        // Whose first host is out asks that in vain, and then another.
        let dawdles = self.hurt.dawdlers >= now.saturating_sub(FAIR);
        let fair = if dawdles || self.is_anybody_out() { ROUGH } else { FAIR };
        let (span, neglected) = match one_not.first() {
            _ if all_well => (fair, self.clients.seen.most_neglected(|_| true)),
            // Who asks that one waits for it, and is not counted.
            Some(hurt) if one_not.len() == 1 => {
                let host = if hurt.0 > 10 { hurt.0 - 10 } else { hurt.0 };
                (ROUGH, self.clients.seen.most_neglected(|who| self.clients.home(who) != Some(NodeId(host))))
            }
            _ => return Ok(()),
        };
        if now > self.formed + span {
            self.hurt.looked[usize::from(!all_well)] += 1;
        }
        match neglected {
            Some((who, since)) if now.saturating_sub(since) > span && now > self.formed + span => Err(format!(
                "client {who} has not been answered for {} ms, and {} not well all that time",
                now - since,
                one_not.first().map_or_else(|| "nobody was".to_owned(), |node| format!("only {node} was"))
            )),
            _ => Ok(()),
        }
    }
}
