//! Beats, both ways: what this node says of itself and to whom, and what it makes of what others say.

use mesh_core::topology::IS_OUT;

use super::*;
use crate::{
    steward::{
        acquaintance::Met,
        ears::{Heard, Said as News},
        voice,
    },
    witness::{self, Rival, Said},
};

impl Steward {
    /// What this node says to another: that it is alive, what it remembers of that one, and what that one does not hold yet.
    fn beat_to(&mut self, to: NodeId, now: Instant) -> Act {
        let may_lead = self.group(GroupId::CONTROL).is_some_and(|group| {
            group.report.leader == Some(to) || group.voters.iter().any(|voter| voter.node() == to)
        });
        let pace = voice::pace(self.told.len(), may_lead);
        let news = self.voice.beat(to, pace, now);
        Act::Beat(to, Arc::new(Beat { witness: self.witness(to), news, ..self.bare_beat(to) }))
    }

    /// What this node answers to a beat, whether or not that counts.
    #[must_use]
    pub fn answer_to(&mut self, beat: &Beat) -> Arc<Beat> {
        let to = beat.node;
        let news = self.voice.answer(beat.held, self.here.info.incarnation);
        // Of its present start nothing is remembered that it could be behind: see `witness::set_back`.
        let witness = self.witness(to).filter(|witness| witness.incarnation < beat.incarnation);
        Arc::new(Beat { witness, news, ..self.bare_beat(to) })
    }

    fn bare_beat(&self, to: NodeId) -> Beat {
        let info = &self.here.info;
        Beat {
            node: info.id,
            incarnation: info.incarnation,
            address: info.address.clone(),
            replica: self.replica(),
            marked: self.own.marked,
            witness: None,
            registered: self.misjudged_by(to),
            held: self.ears.held(to),
            news: None,
        }
    }

    /// What another node is to be told of starts that it turns away: that they are the registered ones. Who was away while a
    /// node started again may have met a copy of that one first, and takes nothing from whoever would tell it, least of
    /// all if that is the node itself, and leads.
    fn misjudged_by(&self, to: NodeId) -> Vec<(NodeId, Incarnation)> {
        let Some(report) = self.outlook.sight.reports.get(&to) else { return Vec::new() };
        let is_registered = |(node, start): &&(NodeId, Incarnation)| {
            self.control.nodes.get(node).is_some_and(|info| info.incarnation == *start)
        };
        report.turned_away.iter().filter(is_registered).copied().collect()
    }

    /// Tells all others how this node is.
    pub(super) fn beat_all(&mut self, now: Instant, acts: &mut Vec<Act>) {
        self.due.beat = false;
        (self.clock.beat, self.clock.beat_briskly) = (Some(now), Some(now));
        let located = self.acquaintances.located().filter(|node| !self.control.is_out(*node));
        let known: BTreeSet<NodeId> = self.control.nodes.keys().copied().chain(located).collect();
        self.beat(known, now, acts);
    }

    pub(super) fn beat(&mut self, to: BTreeSet<NodeId>, now: Instant, acts: &mut Vec<Act>) {
        let id = self.id();
        acts.extend(to.into_iter().filter(|node| *node != id).map(|node| self.beat_to(node, now)));
    }

    /// Whether all may be told something at once: however much happens, not so often that they had no time for anything else.
    pub(super) fn may_beat(&self, now: Instant) -> bool {
        let gap = BEAT_EACH.saturating_mul(u32::try_from(self.told.len()).unwrap_or(u32::MAX));
        self.due.beat && self.clock.beat.is_none_or(|at| now.since(at) >= gap.min(self.here.timing.beat))
    }

    /// Whom a DPU beats to at its short interval: its host, and who leads the control group; where it does not know who that
    /// is, for its own replica does not or is damaged, all that may, and those whom others follow. One that leads and hears it
    /// less often takes it for lost.
    pub(super) fn brisk_to(&self) -> BTreeSet<NodeId> {
        let Some(host) = self.here.info.attached_to else { return BTreeSet::new() };
        let own = self.group(GroupId::CONTROL).filter(|group| group.report.trouble.is_none());
        if let Some(leader) = own.and_then(|group| group.report.leader) {
            return BTreeSet::from([host, leader]);
        }
        let sight = &self.outlook.sight;
        let said = sight.alive.iter().filter_map(|node| sight.said_of(*node, GroupId::CONTROL)?.leader);
        let voters = own.into_iter().flat_map(|group| group.voters.iter().map(|voter| voter.node()));
        said.chain(voters).chain([host]).collect()
    }

    fn witness(&self, node: NodeId) -> Option<Witness> {
        self.acquaintances.witness(node, &self.control, self.group(GroupId::CONTROL))
    }

    /// Another says that this node is out.
    pub(super) fn expelled(&mut self, acts: &mut Vec<Act>) {
        self.put_out_of_service(Error::new(ErrorKind::Conflict, IS_OUT).with("node", self.id()), acts);
    }

    /// It serves nobody any more.
    pub(super) fn put_out_of_service(&mut self, error: Error, acts: &mut Vec<Act>) {
        let is_news = self.complaints.out.is_none();
        complain(&mut self.complaints.out, Some(error), Act::Expelled, acts);
        if is_news {
            (self.due.look, self.due.hosting) = (true, true);
        }
    }

    /// A node is alive, and says what is new.
    pub(super) fn heard(&mut self, beat: &Beat, at: Instant, now: Instant, acts: &mut Vec<Act>) {
        let node = beat.node;
        // Who has left is nobody, whatever it says.
        if node == self.id() || self.control.is_out(node) {
            return;
        }
        if let Some(witness) = &beat.witness
            && let (Some(replica), Some(why)) = (witness.replica, witness::set_back(&self.said(), witness))
        {
            acts.push(Act::Disown(replica, why));
        }
        let before = self.outlook.sight.reports.get(&node).cloned();
        // Who has not introduced itself learns from the answer that it has to, and does.
        let Some(said) = self.ears.understand(beat, before.as_ref()) else { return };
        let known = self.witness(node);
        let member = self.control.nodes.get(&node).map(|info| info.life);
        let rival = known.map_or(Rival::None, |known| self.rival(&known, beat, &said.report.starts, now));
        let met = self.acquaintances.meet(beat, &said.report, known.as_ref(), member, rival);
        match met {
            Met::TurnedAway => return self.turned_away(beat, now),
            Met::Refused(verdict) => {
                acts.push(Act::TurnAway(node, beat.address.clone(), verdict));
                return self.turned_away(beat, now);
            }
            Met::Anew => self.peers.forget(node),
            Met::Known => {}
        }
        self.ears.keep(beat, &said);
        self.voice.hear(node, beat.held, self.here.info.incarnation);
        let before = before.filter(|_| met == Met::Known);
        if let Ok(address) = beat.address.parse() {
            let at = self.acquaintances.locate(node, address, beat.incarnation);
            acts.extend(at.map(|at| Act::Locate(node, at)));
        }
        acts.push(Act::Restarted(node, beat.incarnation));
        self.show_acquaintances();
        // Of counters that came with other news nothing new is said: they are those of before.
        let has_figures = said.news != Heard::Nothing && beat.news.as_ref().is_some_and(|news| news.figures);
        if has_figures && self.leads_control() {
            self.lead.meter.hear(&said.report, at);
        }
        let life = said.report.life;
        self.note(before, said, (at, now), acts);
        let own = self.control.nodes.get(&node).filter(|info| info.life == life).map(|info| (node, info.incarnation));
        let silence = self.here.timing.silence;
        let mut heeded = false;
        let told = beat.registered.iter().copied().filter(|(node, start)| {
            let insists = self.acquaintances.insists_from(*node, *start, now, silence).is_some();
            // Also of the one that is registered here: what it has met first may be a copy of it.
            insists && self.registered(*node) <= Some(*start)
        });
        let told: Vec<(NodeId, Incarnation)> = told.collect();
        for ((node, start), is_alive) in
            own.map(|own| (own, false)).into_iter().chain(told.into_iter().map(|one| (one, true)))
        {
            let said = self.outlook.sight.reports.get(&node);
            heeded |= self.acquaintances.heed_start(node, start, said, is_alive);
        }
        if heeded {
            self.show_acquaintances();
        }
    }

    /// The start of a node that is registered, as far as this one has heard.
    fn registered(&self, node: NodeId) -> Option<Incarnation> {
        self.control.nodes.get(&node).map(|info| info.incarnation)
    }

    /// How the known start of a node is, if it is at another address than one that beats.
    fn rival(&self, known: &Witness, beat: &Beat, starts: &[Incarnation], now: Instant) -> Rival {
        let node = beat.node;
        let said = self.outlook.sight.reports.get(&node).filter(|said| said.incarnation == known.incarnation);
        // A successor of a DPU is there again faster than a node that lost a beat is down.
        let longest = !witness::knows(starts, known.incarnation);
        let spoke = said.filter(|_| self.peers.spoke_lately(node, longest, now)).map(|said| &*said.address);
        let insists = || self.acquaintances.insists_from(node, known.incarnation, now, self.here.timing.silence);
        if let Some(address) = spoke.or_else(insists) {
            return if address == beat.address { Rival::None } else { Rival::Alive };
        }
        let registered = self.control.nodes.get(&node).filter(|info| info.incarnation == known.incarnation);
        let is_elsewhere = registered.is_some_and(|info| info.address != beat.address);
        if is_elsewhere && !self.peers.has_listened(now) { Rival::Unheard } else { Rival::None }
    }

    /// A beat did not count. If its sender goes on, that is said: others may know better.
    fn turned_away(&mut self, beat: &Beat, now: Instant) {
        self.acquaintances.insists(beat, now, self.here.timing.silence);
        let own = self.outlook.own();
        let alive = self.acquaintances.alive_all_the_same(now, self.here.timing.silence);
        let is_news = alive.into_iter().any(|one| one.0 == beat.node && !own.turned_away.contains(&one));
        self.due.look |= is_news;
        self.show_acquaintances();
    }

    fn note(
        &mut self,
        before: Option<Arc<NodeReport>>,
        said: News,
        (at, now): (Instant, Instant),
        acts: &mut Vec<Act>,
    ) {
        let report = said.report;
        // To whom else it beats only now and then, its silence says nothing so soon.
        let beats_briskly = report.kind == NodeKind::Dpu
            && self.control.nodes.contains_key(&report.node)
            && (report.attached_to == Some(self.id()) || self.leads_control());
        let before =
            Some(self.peers.heard(report.node, beats_briskly, at)).and_then(|was_up| before.filter(|_| was_up));
        let is_same = said.news == Heard::Nothing && before.is_some();
        let has_news = !is_same
            && before.as_ref().is_none_or(|before| {
                states(&before.drives).ne(states(&report.drives)) || outlook::tails(before).ne(outlook::tails(&report))
            });
        let has_turned =
            before.as_ref().is_none_or(|before| before.state != report.state || before.unable != report.unable);
        self.due.plan |= has_turned;
        let node = report.node;
        if said.news != Heard::Nothing {
            self.outlook.sight.reports.insert(node, report);
            let is_figures = said.news == Heard::Figures;
            (self.unpublished, self.unshown) = (self.unpublished || !is_figures, true);
        }
        if !self.told.contains(&node) {
            self.see(now, acts);
        }
        if has_news {
            self.due.look = true;
            self.due.hosting = true;
            self.count_drives_of(&[node].into());
        }
        self.due.look |= has_turned;
    }

    pub(super) fn show_acquaintances(&mut self) {
        if !self.outlook.witnesses.is_same(self.acquaintances.witnesses()) {
            // Readers go by the starts: that a store was marked once more tells nobody anything at once.
            let has_news = self.acquaintances.take_restarts();
            self.outlook.witnesses = self.acquaintances.witnesses().clone();
            (self.unpublished, self.seen_anew) = (self.unpublished || has_news, self.seen_anew || has_news);
            self.unshown = true;
        }
        if !Arc::ptr_eq(&self.outlook.turned_away, self.acquaintances.turned_away()) {
            self.outlook.turned_away = self.acquaintances.turned_away().clone();
            (self.unpublished, self.seen_anew) = (true, true);
        }
    }

    fn replica(&self) -> Option<ReplicaId> {
        self.group(GroupId::CONTROL).map(|group| group.report.replica)
    }

    /// What this node says of itself to be judged by.
    fn said(&self) -> Said<'_> {
        Said { life: self.here.info.life, starts: &self.here.starts, replica: self.replica(), marked: self.own.marked }
    }

    /// Composes what is said to others of this node.
    pub(super) fn say(&mut self, now: Instant) {
        let info = &self.here.info;
        let mut actors = self.own.actors.clone();
        actors.sort_by_key(|one| one.actor);
        let own = NodeReport {
            node: info.id,
            incarnation: info.incarnation,
            life: info.life,
            starts: self.here.starts.clone(),
            kind: info.kind,
            address: info.address.clone(),
            pid: info.pid,
            state: if self.own.leaving { NodeState::Draining } else { NodeState::Up },
            drives: self.drives.clone(),
            groups: self.own.groups.iter().map(|group| group.report.clone()).collect(),
            sees: self.outlook.sight.alive.iter().copied().collect(),
            attached_to: info.attached_to,
            emulated: info.emulated,
            actors,
            ability: self.here.ability.clone(),
            load: self.own.load.clone(),
            missing: self.outlook.missing.as_ref().map(ToString::to_string),
            survival: None,
            lost: self.own.lost,
            drives_up: u32::try_from(self.drives_up()).unwrap_or(u32::MAX),
            unable: self.hosting.unable(&self.own.hosted).collect(),
            turned_away: self
                .acquaintances
                .alive_all_the_same(now, self.here.timing.silence)
                .take(NODE_PEERS_MAX)
                .collect(),
            level: info.level,
            mesh_level: None,
            location: None,
        };
        let before = self.outlook.own();
        if *before == own && self.voice.has_spoken() {
            return;
        }
        let drives = states(&before.drives).ne(states(&own.drives));
        let groups = before.groups != own.groups;
        self.due.plan |= before.unable != own.unable;
        let own = Arc::new(own);
        if self.leads_control() {
            self.lead.meter.hear(&own, now);
        }
        self.outlook.sight.reports.insert(own.node, own.clone());
        let says_news = self.voice.say(&own);
        (self.unpublished, self.unshown) = (self.unpublished || says_news, true);
        if drives {
            self.count_drives_of(&[self.id()].into());
        }
        // Which groups it leads is a part of what its ingress is made of.
        if drives || groups {
            self.due.hosting = true;
        }
    }
}

/// Between two times that all others are told something at once, for each of them: in a mesh of a thousand, a hundred
/// milliseconds.
const BEAT_EACH: Duration = Duration::from_micros(100);
