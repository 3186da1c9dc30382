//! A look at everything, from what the node observes of itself: each duty says what is to be done now.

use core::time::Duration;

use mesh_core::{
    meta::Level,
    topology::{IS_LEFT_BEHIND, Replicas},
};

use super::*;
use crate::{
    Move, Reason,
    steward::{
        complaints::{kept_in, waiting},
        hosting::Grounds,
        members::Members,
        peers::Presence,
        readiness,
        renewal::{self, Renewal},
        rivals::Standing,
    },
};

impl Steward {
    /// The node has observed itself.
    pub(super) fn look(&mut self, mut own: Box<Observed>, now: Instant, acts: &mut Vec<Act>) {
        if self.rivals.is_left_behind() {
            // So nobody takes its replicas in for what they are not.
            for group in &mut own.groups {
                group.report.trouble.get_or_insert_with(|| IS_LEFT_BEHIND.to_owned());
            }
        }
        // What is there has changed, whoever did that: a move, or a function that was given up, or took long to build.
        self.due.hosting |= self.own.hosted != own.hosted;
        self.own = own;
        self.due.look = false;
        self.clock.looked = Some(now);
        self.seen_anew = true;
        self.not_before.retain(|_, at| *at > now);
        self.locate_stored(now, acts);
        self.tell_replicas(acts);
        self.host(now, acts);
        self.settle(acts);
        self.see_to_groups(acts);
        self.make_known(acts);
        self.see_to_damage(now, acts);
        self.see_to_rivals(now, acts);
        self.put_out(now, acts);
        self.lay_out(now, acts);
        self.raise_level(acts);
        self.fence(acts);
        self.clear(acts);
        self.lead(now, acts);
        let missing = self.what_is_missing().err();
        if self.outlook.missing.as_ref().map(ToString::to_string) != missing.as_ref().map(ToString::to_string) {
            self.outlook.missing = missing;
            self.unpublished = true;
        }
        self.say(now);
        if self.may_beat(now) {
            self.beat_all(now, acts);
        }
    }

    fn is_free(&self, key: Key) -> bool {
        !self.busy.contains_key(&key) && !self.not_before.contains_key(&key)
    }

    /// Whether what is not seen is not there: a node that has just started has not heard of everybody yet, and what it
    /// stored now it would store on too few nodes, for good.
    fn looks_around(&self, now: Instant) -> bool {
        let hosts = self.control.nodes.values().filter(|node| node.kind == NodeKind::Host && node.id != self.id());
        self.peers.looks_around(hosts.map(|node| node.id), now)
    }

    /// Registered drives that this node sees.
    pub(super) fn drives_up(&self) -> usize {
        let is_up = |state: &&DriveState| matches!(state, DriveState::Up | DriveState::Full);
        self.outlook.drives.values().filter(is_up).count()
    }

    /// What runs here.
    fn host(&mut self, now: Instant, acts: &mut Vec<Act>) {
        let looks_around = self.looks_around(now);
        if self.outlook.looks_around != looks_around {
            self.outlook.looks_around = looks_around;
            self.unpublished = true;
        }
        let has_failed = self.hosting.is_due(now);
        if !self.due.hosting && !has_failed {
            return;
        }
        // Once it has looked around, it looks again.
        self.due.hosting = looks_around;
        let busy: BTreeSet<ActorId> = self.busy.keys().filter_map(|key| key.actor()).collect();
        let leads = self.own.groups.iter().filter(|group| group.report.leader == Some(self.id()));
        let leads = leads.map(|group| group.report.group).collect();
        let wanted = self.hosting.look(Grounds {
            here: self.here.info.id,
            kind: self.here.info.kind,
            incarnation: self.here.info.incarnation,
            ability: &self.here.ability,
            upkeep: self.here.upkeep,
            view: &self.control,
            drives: &self.outlook.drives,
            damaged: &self.outlook.damaged,
            leads: &leads,
            hosted: &self.own.hosted,
            known: &self.own.known,
            busy: &busy,
            tails: &self.outlook.tails(&self.control),
            looks_around,
            is_out: self.complaints.out.is_some(),
            now,
        });
        acts.extend(wanted.deeds.into_iter().map(|(actor, deeds)| Act::Actor(actor, deeds)));
        acts.extend(wanted.forget.into_iter().map(Act::Forget));
        acts.extend(wanted.take_back.into_iter().map(|(actor, epoch, id)| Act::TakeBack(actor, epoch, id)));
        acts.extend(wanted.troubles.into_iter().map(|(actor, error)| Act::Trouble(actor, error)));
    }

    /// Actors of this node that have waited long for the end of a move: it is aborted, unless it is committed.
    fn settle(&mut self, acts: &mut Vec<Act>) {
        for (actor, epoch, id) in core::mem::take(&mut self.own.overdue) {
            if self.is_free(Key::Settle(actor, epoch, id)) {
                acts.push(Act::Settle(actor, epoch, id));
            }
        }
    }

    /// The replicas of this node: that those are there which are to be, that somebody leads, who else follows and votes, and
    /// that those are removed which others have in its place.
    fn see_to_groups(&mut self, acts: &mut Vec<Act>) {
        let replicas = self.replicas.of(&self.control);
        // That of the control group is there from the start, unless it could not be opened when it was made anew. What others are
        // to have goes on here until they have it.
        // And while that of the control group cannot be opened, nobody here knows how many there are.
        let all: BTreeSet<GroupId> =
            (0..=u64::from(self.control.namespaces)).map(GroupId).chain(self.own.kept.iter().copied()).collect();
        for group in all {
            let is_wanted = self.is_to_have(group, replicas.as_deref()) || self.own.kept.contains(&group);
            // While it is removed it is as if it were not there.
            let is_free = self.is_free(Key::Ensure(group)) && self.is_free(Key::Retire(group));
            if is_wanted && self.group(group).is_none() && is_free {
                acts.push(Act::Ensure(group));
            }
        }
        let is_free = |group| {
            let is_under_way = [Key::Forsake(group), Key::Elect(group)].iter().any(|key| self.busy.contains_key(key));
            !is_under_way && !self.not_before.contains_key(&Key::Elect(group))
        };
        for (group, step) in self.vacancies.look(&self.own.groups, &self.outlook.sight, is_free) {
            match step {
                vacancy::Step::Forsake(leader, term) => acts.push(Act::Forsake(group, leader, term)),
                // Who is about to stop gives it away again.
                vacancy::Step::Stand if self.own.stopping => {}
                vacancy::Step::Stand => acts.push(Act::Elect(group)),
            }
        }
        self.give_away(replicas.as_deref(), acts);
        if self.own.stopping {
            return;
        }
        // Who leads and has no vote any more is about to lead no more: the others go on by themselves.
        let leads = |own: &&Group| own.report.leader == Some(self.id()) && own.voters.contains(&own.report.replica);
        for own in self.own.groups.iter().filter(leads) {
            let group = own.report.group;
            let hosts = replicas.as_deref().and_then(|replicas| replicas.hosts(group));
            if self.is_free(Key::Members(group))
                && let Some(step) = Members::of(own, hosts, &self.control, &self.outlook.sight).step()
            {
                acts.push(Act::Members(group, step));
            }
        }
        let all = self.own.groups.iter().filter(|_| self.own.damage.is_none());
        for own in all {
            let group = own.report.group;
            let is_over = !self.is_to_have(group, replicas.as_deref()) && own.report.trouble.is_none();
            if is_over && self.is_free(Key::Retire(group)) && self.goes_on_without(&own.report) {
                acts.push(Act::Retire(group));
            }
        }
    }

    /// Whether this node is to have a replica of a group.
    fn is_to_have(&self, group: GroupId, replicas: Option<&Replicas>) -> bool {
        members::is_to_have(group, self.id(), self.here.info.kind, replicas)
    }

    /// Whether whoever leads a group says that this replica of it does not vote: then it is worth asking whether it is a member.
    fn goes_on_without(&self, own: &GroupReport) -> bool {
        // Who leads another mesh says nothing of what this one needs.
        let is_of_it = |said: &&GroupReport| !own.is_before(said.restored);
        self.outlook.sight.led(own.group).filter(is_of_it).is_some_and(|said| !said.voters.contains(&own.replica))
    }

    /// Somebody else is to lead what this node leads before it stops and hears nothing more; or where it leaves; or where one of
    /// its replicas has stopped, for they share a medium, and a leader that cannot write finds out by a request; or where others
    /// are to have a group in its place.
    fn give_away(&self, replicas: Option<&Replicas>, acts: &mut Vec<Act>) {
        let sight = &self.outlook.sight;
        // Damaged metadata are given away as they are made anew.
        let is_ill = self.own.damage.is_none() && self.own.groups.iter().any(|own| own.report.trouble.is_some());
        let leaves = self.control.departures.contains_key(&self.id());
        for own in self.own.groups.iter().filter(|own| own.leads && self.is_free(Key::HandOver(own.report.group))) {
            let hosts = replicas.and_then(|replicas| replicas.hosts(own.report.group));
            let is_guest = hosts.is_some_and(|hosts| !hosts.contains(&self.id()));
            if !self.own.stopping && !is_ill && !leaves && !is_guest {
                continue;
            }
            let is_better = |heir: &NodeId| {
                let stays =
                    !self.control.departures.contains_key(heir) && hosts.is_none_or(|hosts| hosts.contains(heir));
                stays && is_sound(sight, *heir)
            };
            // Of two that are ill neither is better, and of two that leave neither.
            let is_good = |heir: &NodeId| self.own.stopping || (is_ill && is_sound(sight, *heir));
            let heir = own.heirs(sight).find(is_better).or_else(|| own.heir(sight).filter(is_good));
            acts.extend(heir.map(|heir| Act::HandOver(own.report.group, heir)));
        }
    }

    /// Makes this node known to the control group, through any member that answers: who is no member yet may know one of
    /// them only, and that one asks whoever leads.
    fn make_known(&mut self, acts: &mut Vec<Act>) {
        let info = &self.here.info;
        let is_known = self.control.nodes.get(&info.id).is_some_and(|known| {
            let is_placed =
                self.control.level < Level::PLACES || info.location.is_none() || known.location == info.location;
            (known.incarnation, &known.address) == (info.incarnation, &info.address) && is_placed
        });
        if is_known {
            self.complaints.refused = None;
        }
        if is_known || self.complaints.out.is_some() || !self.is_free(Key::Announce) {
            return;
        }
        let votes = self.group(GroupId::CONTROL).is_some_and(|group| group.voters.contains(&group.report.replica));
        let others: Vec<NodeId> = self.told.iter().copied().collect();
        match votes {
            true => acts.push(Act::Announce(Vec::new())),
            false if others.is_empty() => {}
            false => acts.push(Act::Announce(others)),
        }
    }

    /// Has damaged metadata rebuilt, and says once why they are not.
    fn see_to_damage(&mut self, now: Instant, acts: &mut Vec<Act>) {
        let hands_over = self.busy.keys().chain(self.not_before.keys()).any(|key| matches!(key, Key::HandOver(_)));
        if !self.is_free(Key::Renew) || hands_over || self.renew_at.is_some_and(|at| now < at) {
            return;
        }
        let looked = match &self.own.damage {
            None => Ok(None),
            Some(Err(error)) => Err(error.clone()),
            Some(Ok(kept)) => renewal::look(&self.own.groups, kept, &self.outlook.sight).map(Some),
        };
        let error = match looked {
            Ok(None) => None,
            Ok(Some(Renewal::Begin)) => return acts.push(Act::Renew),
            Ok(Some(Renewal::HandOver(group, next))) => return acts.push(Act::HandOver(group, next)),
            // Who has just started has not heard of everybody yet.
            Err(_) if !self.peers.has_listened(now) => return,
            Err(error) => match self.own.waits.as_ref().map(|waits| renewal::go_on(waits, &self.outlook.sight)) {
                // Who knew it before has yet to find that it is back; and who was there is not gone with his link.
                Some(Ok(())) if !self.has_listened_long(now) => return,
                Some(Ok(())) => return acts.push(Act::GoOn),
                Some(Err(error)) => {
                    self.blocked_at = Some(now);
                    Some(error)
                }
                None => Some(error),
            },
        };
        let say = if self.own.waits.is_some() { waiting } else { unrenewed };
        complain(&mut self.complaints.unrenewed, error, say, acts);
    }

    /// Has this node serve nobody while its mesh goes on without it: see [`Rivals`].
    fn see_to_rivals(&mut self, now: Instant, acts: &mut Vec<Act>) {
        let own = self.own.groups.iter().find(|group| group.report.group == GroupId::CONTROL);
        match self.rivals.look(own, &self.outlook.sight, now) {
            None => {}
            Some(Standing::LeftBehind(_)) if self.complaints.out.is_some() => {}
            Some(Standing::LeftBehind(rival)) => {
                let error =
                    Error::new(ErrorKind::Conflict, IS_LEFT_BEHIND).with("node", self.id()).with("leader", rival);
                self.put_out_of_service(error, acts);
            }
            // Who was taken out meanwhile stays out.
            Some(Standing::Back) if self.complaints.out.as_ref().is_some_and(|out| out.message() != IS_LEFT_BEHIND) => {
            }
            Some(Standing::Back) => {
                self.complaints.out = None;
                (self.due.look, self.due.hosting) = (true, true);
                acts.push(Act::Back);
            }
        }
    }

    /// Whether whoever runs and knows this node has reached it by now, and nobody was there for as long whom what waits would leave
    /// behind.
    fn has_listened_long(&self, now: Instant) -> bool {
        let is_long_ago = self.blocked_at.is_none_or(|at| now.since(at) >= WAITS_MIN);
        is_long_ago && self.peers.has_listened_for(WAITS_MIN, now)
    }

    /// Has drives go out that have been away for long, and come back.
    fn put_out(&mut self, now: Instant, acts: &mut Vec<Act>) {
        if !self.leads_control() || self.outlook.looks_around || self.control.level < Level::DRAINS {
            self.outs = Outs::default();
            return;
        }
        if !self.is_free(Key::PutOut) {
            return;
        }
        let after = Duration::from_millis(self.here.upkeep.out_after_ms);
        let (put, error) = match self.outs.look(&self.control, &self.outlook, after, now) {
            Ok(put) => (put, None),
            Err(error) => (None, Some(error)),
        };
        acts.extend(put.map(Act::PutOut));
        complain(&mut self.complaints.kept_in, error, kept_in, acts);
    }

    /// Makes a new layout where one is due.
    fn lay_out(&mut self, now: Instant, acts: &mut Vec<Act>) {
        if !self.leads_control() || !self.is_free(Key::LayOut) {
            return;
        }
        acts.extend(self.layouts.look(&self.control, now).map(|draft| Act::LayOut(Box::new(draft))));
    }

    /// Raises the mesh's level once every node speaks a higher one; a node that is away holds it back.
    fn raise_level(&self, acts: &mut Vec<Act>) {
        if self.leads_control() && self.is_free(Key::RaiseLevel) {
            acts.extend(self.control.level_to_come().map(Act::RaiseLevel));
        }
    }

    /// Has nothing taken any more of what nodes began that have left.
    fn fence(&mut self, acts: &mut Vec<Act>) {
        if !self.leads_control() {
            self.lead.fences = Fences::default();
        } else if self.is_free(Key::Fence) {
            acts.extend(self.lead.fences.look(&self.control).map(Act::Fence));
        }
    }

    /// Has what tenants leave that were deleted taken away, one after the other, some of it at a time.
    fn clear(&self, acts: &mut Vec<Act>) {
        if self.leads_control() && self.is_free(Key::Clear) {
            acts.extend(self.control.ended.keys().next().map(|tenant| Act::Clear(*tenant)));
        }
    }

    /// What the leader of the control group does about actors.
    fn lead(&mut self, now: Instant, acts: &mut Vec<Act>) {
        if !self.leads_control() {
            self.lead.backing.forget();
            self.lead.estranged.forget();
            self.lead.blind.forget();
            self.show_estranged();
            self.lead.driver.rest();
            self.lead.plans.begin_anew();
            // Whoever leads next looks at everything.
            self.due.plan = false;
            return;
        }
        let control = self.control.clone();
        let silence = self.here.timing.silence;
        let sight = self.outlook.sight.clone();
        let heard_at = |node: NodeId| self.peers.heard_at(node);
        let is_estranged = self.lead.estranged.look(&control, &sight, silence, heard_at);
        let is_blind = self.lead.blind.look(&control, &sight, heard_at);
        self.due.plan |= is_estranged || is_blind;
        self.show_estranged();
        let is_due = self.due.plan || self.lead.plans.is_due(now);
        let looks = is_due && self.lead.plans.may_look(control.assignments.len(), now);
        if now < self.lead.rests_until || (!looks && self.lead.plans.wanted().next().is_none()) {
            return;
        }
        if looks {
            self.due.plan = false;
            self.forget_actors();
            if !self.outlook.loads.is_same(self.lead.meter.loads()) {
                self.outlook.loads = self.lead.meter.loads().clone();
                self.unshown = true;
            }
            self.give_places(now, acts);
            acts.push(Act::Plan(Box::new(self.lead.plans.study(control.clone(), self.outlook.clone(), now))));
        }
        // Begun by a leader that is gone.
        let under_way = self.moving.iter().filter_map(|actor| control.assignments.get(actor));
        let asks = self.lead.driver.clear(under_way, now);
        self.ask(asks, acts);
        if !self.lead.plans.may_begin() {
            return;
        }
        // Those that back off, or wait for their turn, too.
        let mut asks = Asks::new();
        let within = self.here.timing.dpu_silence;
        let mut missed = BTreeSet::new();
        for step in self.lead.plans.wanted() {
            let Some(row) = control.assignments.get(&step.actor).filter(|row| self.holds_good(step, row, now)) else {
                continue;
            };
            if !self.lead.driver.is_free(row.actor, now) {
                continue;
            }
            let presence = self.presence(row.node, now);
            let is_stranded = || survey::is_stranded(&control, &self.outlook.sight.reports, row);
            let stranded = presence == Presence::Up
                && step.to.head != row.node
                && (self.outlook.estranged.contains(&row.node) || is_stranded());
            if (presence == Presence::Down || stranded) && !self.lead.backing.holds(row.node, within, now) {
                if self.lead.driver.may_change() {
                    missed.insert(row.node);
                }
                continue;
            }
            asks.extend(self.lead.driver.go(row, step, presence, stranded, now));
        }
        self.ask(asks, acts);
        if !missed.is_empty() && self.is_free(Key::Confirm) {
            self.lead.backing.ask(missed, within, now);
            acts.push(Act::Confirm);
        }
    }

    fn show_estranged(&mut self) {
        let shown = (&self.outlook.estranged, &self.outlook.estranged_at);
        let known = (self.lead.estranged.now(), self.lead.estranged.last());
        if !(Arc::ptr_eq(shown.0, known.0) && Arc::ptr_eq(shown.1, known.1)) {
            self.outlook.estranged = self.lead.estranged.now().clone();
            self.outlook.estranged_at = self.lead.estranged.last().clone();
            self.unshown = true;
        }
        let (shown, known) = (&self.outlook.blind_at, self.lead.blind.last());
        if !(Arc::ptr_eq(&self.outlook.blind, self.lead.blind.now()) && Arc::ptr_eq(shown, known)) {
            self.outlook.blind_at = known.clone();
            self.outlook.blind = self.lead.blind.now().clone();
            self.unshown = true;
        }
    }

    /// Whether what was planned still fits what is: a plan is some time old when it is made. What does not fit is planned
    /// anew: nothing leaves a node for being down that is there again.
    fn holds_good(&self, step: &Move, row: &Assignment, now: Instant) -> bool {
        let is_there = |node: NodeId| self.presence(node, now) == Presence::Up;
        let is_missed = match step.reason {
            Reason::NodeDown(node) => !is_there(node) || self.outlook.estranged.contains(&node),
            _ => true,
        };
        let is_from_there = step.from == Some(survey::spot(&self.control, row));
        row.moving.is_none() && is_from_there && is_missed && step.to.nodes().all(is_there)
    }

    /// Of actors that are no more nothing is remembered.
    fn forget_actors(&mut self) {
        let rows = &self.control.assignments;
        if self.outlook.moved_at.len() > rows.len() {
            let moved_at = self.outlook.moved_at.iter().filter(|(actor, _)| rows.contains_key(actor));
            self.outlook.moved_at = moved_at.map(|(actor, at)| (*actor, *at)).collect();
        }
        self.lead.meter.forget(rows.len(), |actor| rows.contains_key(actor));
    }

    fn presence(&self, node: NodeId, now: Instant) -> Presence {
        if node == self.id() { Presence::Up } else { self.peers.presence(node, now) }
    }

    /// Every tenant has a chain for every ingress; it begins there.
    fn give_places(&mut self, now: Instant, acts: &mut Vec<Act>) {
        let control = self.control.clone();
        let is_known = |placed: &Placed| {
            let same = placed.nodes.is_same(&control.nodes) && placed.tenants.is_same(&control.tenants);
            same && placed.actors <= control.assignments.len()
        };
        if self.lead.placed.as_ref().is_some_and(is_known) {
            return;
        }
        let hosts = control.nodes.values().filter(|info| info.kind == NodeKind::Host);
        let mut lacks = false;
        for (tenant, host) in hosts.flat_map(|info| control.tenants.keys().map(|tenant| (*tenant, info.id))) {
            let actor = ActorId::data(tenant, host);
            if !control.assignments.contains_key(&actor) {
                lacks = true;
                let asks = self.lead.driver.place(Assignment::new(actor, host, Epoch(1)), now);
                self.ask(asks, acts);
            }
        }
        let (nodes, tenants) = (control.nodes.clone(), control.tenants.clone());
        self.lead.placed = (!lacks).then(|| Placed { nodes, tenants, actors: control.assignments.len() });
    }

    /// What this node still waits for before it takes data.
    fn what_is_missing(&self) -> Result<(), Error> {
        let known = [&self.complaints.out, &self.complaints.refused, &self.complaints.unrenewed];
        let looked = match known.into_iter().flatten().next() {
            Some(complaint) => Err(complaint.clone()),
            None => readiness::look(&readiness::Own {
                here: self.id(),
                kind: self.here.info.kind,
                replicas: self.replicas.of(&self.control).as_deref(),
                led: &self.led(),
                view: &self.control,
                groups: &self.outlook_groups(),
                drives_up: self.drives_up(),
                hosted: &self.own.hosted.keys().copied().collect(),
                concerns: &self.hosting.concerns().collect(),
            }),
        };
        looked.map_err(|missing| match &self.own.complaint {
            // Whatever is missing, it does not come while nobody talks with this node.
            Some(complaint) => complaint.clone().with("missing", missing.message()),
            None => missing,
        })
    }

    /// The groups of which somebody who is there says that he leads them.
    fn led(&self) -> BTreeSet<GroupId> {
        let (sight, here) = (&self.outlook.sight, self.id());
        let own = self.own.groups.iter().map(|group| (here, &group.report));
        let others = sight.alive.iter().filter(|node| **node != here).filter_map(|node| sight.reports.get(node));
        let all = own.chain(others.flat_map(|said| said.groups.iter().map(|group| (said.node, group))));
        all.filter(|(node, said)| said.leader == Some(*node)).map(|(_, said)| said.group).collect()
    }

    fn outlook_groups(&self) -> Vec<GroupReport> {
        self.own.groups.iter().map(|group| group.report.clone()).collect()
    }
}

/// Whoever runs and knows a node has reached it within this after its start: links to one that is gone are given up and tried again
/// sooner.
const WAITS_MIN: Duration = Duration::from_secs(20);
