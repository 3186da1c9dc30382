//! What a node decides: the [`Steward`], a machine of machines, a file a duty. The daemon and the simulator carry out what it
//! wants, and decide nothing themselves.
//!
//! ```text
//!   a beat, time, the group's word, what the node observes of itself, the end of an act
//!         |
//!         v
//!   Steward::on(event, now) -> acts          (then its invariants are checked)
//!         |
//!         v
//!   Outlook: what it knows, for whoever reads
//! ```
//!
//! - [`voice`]: what is said to whom; [`peers`]: who is there, and since when; [`acquaintance`]: whether they are who they say;
//! - [`vacancy`]: when to stand for election;
//! - [`members`]: who is to follow and to vote in a metadata group; [`fences`]: who has no say any more;
//! - [`renewal`]: when damaged metadata are set aside;
//! - [`layouts`]: when a new layout is made; [`outs`]: which drives are left out for having been away for long;
//! - [`hosting`]: what runs here, and what it is made of ([`specs`]), by [`chains`] for each data chain, and by [`failures`]
//!   where it does not;
//! - [`plans`]: what the placement engine wants, by [`meter`];
//! - [`estranged`]: DPUs that do not reach their hosts; [`blind`]: those that do not see the drives; [`lasting`]: what counts
//!   once it has been said again;
//! - [`driver`]: what the leader of the control group does so that every actor runs where the plan wants it; [`backing`]: from
//!   whom it may take one;
//! - [`readiness`]: what is missing before the node takes data; [`invariants`]: what is so after every event.
//!
//! None of them waits, and none keeps what another one owns. An act runs beside the machine, at most one of a [`Key`]; its
//! end only frees the key and has everything looked at again: what is wanted is computed anew from what the group says and
//! what is there, so that an answer and the news of what it did may come in either order.

use core::time::Duration;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use mesh_core::{
    Error, ErrorKind,
    assignment::Assignment,
    happened::Happened,
    id::{ActorId, DriveId, Epoch, GroupId, Incarnation, NodeId, ReplicaId, TenantId},
    limits::NODE_PEERS_MAX,
    meta::{ControlView, TenantRow},
    op::{Ability, Beat, DriveReport, GroupReport, NodeReport, Witness},
    shared::SharedMap,
    time::Instant,
    topology::{DriveState, KnownReplicas, NodeInfo, NodeKind, NodeState},
};

use crate::{migration::Heard, survey};

pub mod acquaintance;
pub mod backing;
pub mod blind;
pub mod chains;
pub mod driver;
pub mod estranged;
pub mod failures;
pub mod fences;
pub mod hosting;
pub mod invariants;
pub mod lasting;
pub mod layouts;
pub mod members;
pub mod meter;
pub mod outlook;
pub mod outs;
pub mod peers;
pub mod plans;
pub mod readiness;
pub mod renewal;
mod rivals;
pub mod specs;
pub mod vacancy;
pub mod voice;

mod act;
mod beats;
mod complaints;
mod ears;
mod look;

pub use act::{Act, Event, Key, Observed};
pub use hosting::Deed;
pub use outlook::Outlook;

use self::{
    acquaintance::Acquaintances,
    backing::Backing,
    blind::Blind,
    complaints::{Complaints, complain, unlaid, unplanned, unrenewed},
    driver::{Asks, Driver},
    ears::Ears,
    estranged::Estranged,
    fences::Fences,
    hosting::Hosting,
    layouts::Layouts,
    meter::Meter,
    outs::Outs,
    peers::{Peers, Timing},
    plans::Plans,
    rivals::Rivals,
    specs::Upkeep,
    vacancy::Vacancies,
    voice::Voice,
};

/// What a node sees of all at one moment.
#[derive(Clone, Debug)]
pub struct Sight {
    /// Which node.
    pub here: NodeId,
    /// When.
    pub now: Instant,
    /// Who answers, this node included.
    pub alive: Arc<BTreeSet<NodeId>>,
    /// What each said last, this node included.
    pub reports: SharedMap<NodeId, Arc<NodeReport>>,
}

impl Sight {
    /// What a node said last of its replica of a group.
    #[must_use]
    pub fn said_of(&self, node: NodeId, group: GroupId) -> Option<&GroupReport> {
        self.reports.get(&node)?.groups.iter().find(|said| said.group == group)
    }

    /// Whether a node is there, and says that it leads a group.
    #[must_use]
    pub fn rules(&self, node: NodeId, group: GroupId) -> bool {
        self.alive.contains(&node) && self.said_of(node, group).is_some_and(|said| said.leader == Some(node))
    }

    /// What is said of a group by whoever leads it: of those who are there and say that they do, the one of the greatest term.
    /// Who has just ceased to lead names no voters, and does not count.
    #[must_use]
    pub fn led(&self, group: GroupId) -> Option<&GroupReport> {
        let said = self.alive.iter().filter_map(|node| self.said_of(*node, group).map(|said| (*node, said)));
        let led = said.filter(|(node, said)| said.leader == Some(*node) && !said.voters.is_empty());
        led.map(|(_, said)| said).max_by_key(|said| (said.timeline, said.term))
    }
}

/// A metadata group, as this node's replica of it knows it.
#[derive(Clone, Debug)]
pub struct Group {
    /// What is said of it to others.
    pub report: GroupReport,
    /// Whether it leads.
    pub leads: bool,
    /// Who votes, as far as was agreed.
    pub voters: BTreeSet<ReplicaId>,
    /// Who follows.
    pub learners: BTreeSet<ReplicaId>,
    /// Those who have what the leader has, or nearly; known to the leader.
    pub caught_up: BTreeSet<ReplicaId>,
    /// Who is to vote alone once a change that was cut short is finished; until then those before it have to agree as well.
    pub unfinished: Option<BTreeSet<ReplicaId>>,
}

impl Group {
    /// Who leads it next where this node gives that away: a voter that answers and has caught up, if there is one whose
    /// replicas all work.
    fn heir(&self, sight: &Sight) -> Option<NodeId> {
        self.heirs(sight).find(|heir| is_sound(sight, *heir)).or_else(|| self.heirs(sight).next())
    }

    fn heirs(&self, sight: &Sight) -> impl Iterator<Item = NodeId> {
        // Not one that its node has replaced by another: it never answers, and who waits for it serves nobody meanwhile.
        let is_there = |voter: &ReplicaId| {
            let said = sight.said_of(voter.node(), self.report.group);
            said.is_none_or(|said| said.is_sound(*voter, self.report.timeline))
        };
        let follows = move |voter: &NodeId| *voter != sight.here && sight.alive.contains(voter);
        let voters = self.voters.intersection(&self.caught_up).filter(move |voter| is_there(voter));
        voters.map(|voter| voter.node()).filter(follows)
    }
}

/// Whether a node says of none of its replicas that it has stopped.
fn is_sound(sight: &Sight, node: NodeId) -> bool {
    sight.reports.get(&node).is_some_and(|said| said.groups.iter().all(|said| said.trouble.is_none()))
}

/// Which node it is, from its start to its end.
#[derive(Clone, Debug)]
pub struct Here {
    /// As the control group is told.
    pub info: NodeInfo,
    /// The starts that its data folder remembers, this one last.
    pub starts: Vec<Incarnation>,
    /// What it can run.
    pub ability: Arc<Ability>,
    /// How what is stored is kept.
    pub upkeep: Upkeep,
    /// How often it does things, and how long silences may be.
    pub timing: Timing,
}

/// What a node decides.
#[derive(Debug)]
pub struct Steward {
    here: Here,
    outlook: Outlook,
    /// Something in the outlook has changed since it was last taken that readers wait for.
    unpublished: bool,
    /// Something has changed in it that may wait: figures do all the time.
    unshown: bool,
    /// When it was last taken.
    published: Option<Instant>,
    peers: Peers,
    acquaintances: Acquaintances,
    voice: Voice,
    ears: Ears,
    control: Arc<ControlView>,
    /// Actors that are on a move, as the control group says.
    moving: BTreeSet<ActorId>,
    /// What it observed of itself last.
    own: Box<Observed>,
    drives: Vec<DriveReport>,
    /// Who was said to be up, one by one; and what the metadata replicas were told.
    told: BTreeSet<NodeId>,
    replicas_know: BTreeSet<NodeId>,
    /// What they are being told.
    replicas_hear: BTreeSet<NodeId>,
    /// Of whom they were told something with an end that is not known, or was not good.
    replicas_doubt: BTreeSet<NodeId>,
    clock: Clock,
    /// When the next one is silent for too long, as far as was known at the last tick.
    silence_at: Option<Instant>,
    due: Due,
    /// Who is there, or who they are, has changed by this event.
    seen_anew: bool,
    /// Acts that are under way, and since when.
    busy: BTreeMap<Key, Instant>,
    /// Those that have just ended and whose effect may not be seen yet: they are not begun again before.
    not_before: BTreeMap<Key, Instant>,
    vacancies: Vacancies,
    replicas: KnownReplicas,
    layouts: Layouts,
    outs: Outs,
    hosting: Hosting,
    lead: Lead,
    complaints: Complaints,
    /// When a renewal that failed is tried again.
    renew_at: Option<Instant>,
    /// When somebody was there last whom what waits would leave behind.
    blocked_at: Option<Instant>,
    rivals: Rivals,
}

/// When things were done last.
#[derive(Clone, Copy, Debug, Default)]
struct Clock {
    began: Instant,
    ticked: Instant,
    looked: Option<Instant>,
    beat: Option<Instant>,
    beat_briskly: Option<Instant>,
}

/// What is to be looked at again.
#[derive(Clone, Copy, Debug)]
struct Due {
    /// Everything: as soon as the node has observed itself.
    look: bool,
    /// What runs here.
    hosting: bool,
    /// What is wanted of actors everywhere.
    plan: bool,
    /// All others are to be told how this node is.
    beat: bool,
}

/// What the leader of the control group has under way.
#[derive(Debug, Default)]
struct Lead {
    driver: Driver,
    fences: Fences,
    plans: Plans,
    meter: Meter,
    backing: Backing,
    estranged: Estranged,
    blind: Blind,
    /// The number of what is under way for each actor, and how much of it is not answered.
    hands: BTreeMap<ActorId, (u64, usize)>,
    last_hand: u64,
    placed: Option<Placed>,
    /// Nothing new is begun before.
    rests_until: Instant,
}

/// The nodes and tenants of which every chain had a place, and how many actors had one then.
#[derive(Debug)]
struct Placed {
    nodes: SharedMap<NodeId, NodeInfo>,
    tenants: SharedMap<TenantId, Arc<TenantRow>>,
    actors: usize,
}

impl Steward {
    /// A node that has just started.
    #[must_use]
    pub fn new(here: Here, control: Arc<ControlView>, now: Instant) -> Self {
        let acquaintances = Acquaintances::default();
        let outlook = Outlook {
            witnesses: acquaintances.witnesses().clone(),
            turned_away: acquaintances.turned_away().clone(),
            ..Outlook::new(here.info.id, now)
        };
        let mut hosting = Hosting::default();
        hosting.learn(here.info.id, &control);
        let mut steward = Self {
            peers: Peers::new(here.timing, now),
            here,
            outlook,
            unpublished: true,
            unshown: true,
            published: None,
            acquaintances,
            voice: Voice::new(now),
            ears: Ears::default(),
            moving: on_a_move(&control),
            control,
            own: Box::default(),
            drives: Vec::new(),
            told: BTreeSet::new(),
            replicas_know: BTreeSet::new(),
            replicas_hear: BTreeSet::new(),
            replicas_doubt: BTreeSet::new(),
            clock: Clock { began: now, ticked: now, ..Clock::default() },
            silence_at: None,
            due: Due { look: true, hosting: true, plan: true, beat: true },
            seen_anew: true,
            busy: BTreeMap::new(),
            not_before: BTreeMap::new(),
            vacancies: Vacancies::default(),
            replicas: KnownReplicas::default(),
            layouts: Layouts::default(),
            outs: Outs::default(),
            hosting,
            lead: Lead::default(),
            complaints: Complaints::default(),
            renew_at: None,
            blocked_at: None,
            rivals: Rivals::default(),
        };
        // Also those of nodes that it may never hear.
        steward.count_drives();
        steward
    }

    const fn id(&self) -> NodeId {
        self.here.info.id
    }

    /// From now on it does things as often as this, and silences are as long.
    pub const fn retime(&mut self, timing: Timing) {
        self.here.timing = timing;
        self.peers.retime(timing);
    }

    /// What it knows.
    #[must_use]
    pub const fn outlook(&self) -> &Outlook {
        &self.outlook
    }

    /// What it knows, if that has changed since this was last asked: who is there and how things stand at once, figures
    /// every few milliseconds.
    pub fn publish(&mut self) -> Option<Outlook> {
        let now = self.outlook.sight.now;
        let is_due = self.unshown && self.published.is_none_or(|at| now.since(at) >= SHOW_GAP);
        if !self.unpublished && !is_due {
            return None;
        }
        (self.unpublished, self.unshown, self.published) = (false, false, Some(now));
        Some(self.outlook.clone())
    }

    /// Whether it wants to be told now what the node observes of itself. However much happens, that is not more often than
    /// every few milliseconds.
    #[must_use]
    pub fn is_curious(&self, now: Instant) -> bool {
        self.due.look && self.clock.looked.is_none_or(|at| now.since(at) >= LOOK_GAP)
    }

    /// The actors of which it has to be told what the node knows of their moves, besides those that are hosted.
    pub fn concerns(&self) -> impl Iterator<Item = ActorId> {
        self.hosting.concerns()
    }

    /// When it is to be told that time has passed, at the latest: where somebody would be silent for too long, at that
    /// moment.
    #[must_use]
    pub fn wake_at(&self) -> Instant {
        let tick = self.clock.ticked + self.here.timing.late / 4;
        let look = self.clock.looked.filter(|_| self.due.look).map(|at| at + LOOK_GAP);
        let show = self.published.filter(|_| self.unshown).map(|at| at + SHOW_GAP);
        [self.silence_at, look, show].into_iter().flatten().fold(tick, Instant::min)
    }

    /// Something has happened. What is to be done, in this order.
    #[must_use]
    pub fn on(&mut self, event: Event, now: Instant) -> Vec<Act> {
        let mut acts = Vec::new();
        self.hear(event, now, &mut acts);
        acts
    }

    /// The same, for who must know what is to be done although this panics half way.
    pub fn hear(&mut self, event: Event, now: Instant, acts: &mut Vec<Act>) {
        self.seen_anew = false;
        self.outlook.sight.now = now;
        let slept = self.peers.tick(now);
        if !slept.is_zero() {
            // What is under way was asleep with it.
            self.busy.values_mut().for_each(|since| *since = *since + slept);
            self.lead.estranged.slept(slept);
            self.lead.blind.slept(slept);
            self.blocked_at = self.blocked_at.map(|at| at + slept);
            // What it knows of others is as old.
            self.rivals.slept();
        }
        let known = acts.len();
        match event {
            Event::Time => self.pass(now, acts),
            Event::Heard(beat, at) => self.heard(&beat, at, now, acts),
            Event::Unanswered(node, asked_at, kind) => {
                // A broken link is proof; whatever else comes of a beat is none, least of all what the peer itself says:
                // then the silence decides.
                let is_proof = matches!(kind, ErrorKind::LinkLost | ErrorKind::Unreachable);
                if is_proof && self.peers.lost(node, asked_at, now) {
                    self.see(now, acts);
                    self.due.beat = true;
                } else if kind == ErrorKind::Conflict {
                    // A beat is refused so for one reason alone.
                    self.expelled(acts);
                }
            }
            Event::Given(node, address, as_of) => {
                let at = self.acquaintances.given(node, address, as_of);
                acts.extend(at.filter(|_| node != self.id()).map(|at| Act::Locate(node, at)));
            }
            Event::Control(view) => self.learn(view, acts),
            Event::Observed(own) => self.look(own, now, acts),
            Event::Drives(drives) => {
                // Their figures change with every write: only how they are is told at once.
                self.due.beat |= states(&self.drives).ne(states(&drives));
                self.drives = drives;
                self.say(now);
            }
            Event::Changed => {
                (self.due.look, self.due.hosting, self.due.beat) = (true, true, true);
                self.stat(acts);
            }
            Event::Planned(studied) => {
                self.busy.remove(&Key::Plan(studied.number()));
                if self.lead.plans.learn(*studied) {
                    self.complaints.unplanned = None;
                }
                self.due.look = true;
            }
            Event::Ended(key, outcome) => self.ended(key, outcome, now, acts),
            Event::Stepped(actor, number, heard) => self.stepped(actor, number, heard, now, acts),
        }
        for key in acts.iter().skip(known).filter_map(Act::key) {
            self.busy.insert(key, now);
        }
    }

    /// Lets everything that it has under way be, and begins anew: what matters is in the control group. To be called when an
    /// invariant does not hold, or it panicked: then who is there may not have been said, and is said again.
    #[must_use]
    pub fn begin_anew(&mut self, now: Instant) -> Vec<Act> {
        self.vacancies = Vacancies::default();
        (self.layouts, self.outs) = (Layouts::default(), Outs::default());
        self.hosting = Hosting::default();
        self.hosting.learn(self.id(), &self.control);
        let mut plans = core::mem::take(&mut self.lead.plans);
        plans.begin_anew();
        self.lead = Lead { last_hand: self.lead.last_hand, plans, rests_until: now + REST, ..Lead::default() };
        // What was heard or said half is heard and said anew.
        (self.ears, self.voice) = (Ears::default(), Voice::new(now));
        self.moving = on_a_move(&self.control);
        // It has no end that it must have; what comes of it then is left.
        self.busy.retain(|key, _| !matches!(key, Key::Plan(_)));
        self.due = Due { look: true, hosting: true, plan: true, beat: true };
        let told = core::mem::take(&mut self.told);
        self.outlook.sight.alive = Arc::new([self.id()].into());
        self.outlook.up_since = Arc::new([(self.id(), Instant::default())].into());
        let mut acts = Vec::new();
        self.see(now, &mut acts);
        self.count_drives();
        acts.retain(|act| matches!(act, Act::Up(_)));
        // Those that have fallen silent since it looked last.
        acts.extend(told.difference(&self.told).map(|node| Act::Down(*node)));
        self.tell_replicas(&mut acts);
        self.busy.extend(acts.iter().filter_map(Act::key).map(|key| (key, now)));
        acts
    }

    /// Time has passed.
    fn pass(&mut self, now: Instant, acts: &mut Vec<Act>) {
        let timing = self.here.timing;
        self.clock.ticked = self.clock.ticked.max(now);
        self.see(now, acts);
        self.silence_at = self.peers.next_silence(now);
        let is_due = |last: Option<Instant>, every: Duration| last.is_none_or(|at| now.since(at) >= every);
        self.due.look |= is_due(self.clock.looked, timing.look);
        if is_due(self.clock.beat, timing.beat) {
            self.due.beat = true;
            self.stat(acts);
        }
        // What changed just now waits for the observation that shows it; that a DPU is there waits for nothing.
        if self.may_beat(now) && !self.due.look {
            self.beat_all(now, acts);
        } else if is_due(self.clock.beat_briskly, timing.dpu_beat) {
            self.clock.beat_briskly = Some(now);
            self.beat(self.brisk_to(), now, acts);
        }
    }

    fn stat(&self, acts: &mut Vec<Act>) {
        if !self.busy.contains_key(&Key::Stat) {
            acts.push(Act::Stat);
        }
    }

    fn group(&self, id: GroupId) -> Option<&Group> {
        self.own.groups.iter().find(|group| group.report.group == id)
    }

    fn leads_control(&self) -> bool {
        self.group(GroupId::CONTROL).is_some_and(|group| group.leads)
    }

    /// Makes out who is there, and says what has changed.
    fn see(&mut self, now: Instant, acts: &mut Vec<Act>) {
        let up: BTreeSet<NodeId> = self.peers.up(now).collect();
        if up == self.told {
            return;
        }
        for node in self.told.difference(&up) {
            acts.extend([Act::Note(Happened::NodeDown(*node)), Act::Down(*node)]);
        }
        for node in up.difference(&self.told) {
            self.lead.backing.is_there(*node);
            acts.extend([Act::Note(Happened::NodeUp(*node)), Act::Up(*node)]);
        }
        let here = [(self.id(), Instant::default())];
        self.outlook.up_since = Arc::new(self.peers.up_since(now).into_iter().chain(here).collect());
        self.outlook.sight.alive = Arc::new(up.iter().copied().chain([self.id()]).collect());
        let turned: BTreeSet<NodeId> = self.told.symmetric_difference(&up).copied().collect();
        self.told = up;
        (self.unpublished, self.seen_anew) = (true, true);
        (self.due.look, self.due.hosting, self.due.plan) = (true, true, true);
        // The controller believes what a host says of its DPU.
        let is_own =
            |node: &NodeId| self.control.nodes.get(node).is_some_and(|info| info.attached_to == Some(self.id()));
        self.due.beat |= turned.iter().any(is_own);
        self.count_drives_of(&turned);
        self.tell_replicas(acts);
    }

    /// So that another can lead at once what one led that is down.
    pub(super) fn tell_replicas(&mut self, acts: &mut Vec<Act>) {
        if self.busy.contains_key(&Key::Peers) {
            return;
        }
        let turned = self.replicas_know.symmetric_difference(&self.told).copied();
        self.replicas_doubt.extend(turned);
        if self.replicas_doubt.is_empty() {
            return;
        }
        let (up, down) = self.replicas_doubt.iter().copied().partition(|node| self.told.contains(node));
        self.replicas_hear = self.told.clone();
        acts.push(Act::Peers { up, down });
    }

    /// Looks at every drive.
    fn count_drives(&mut self) {
        let drives = self.outlook.drive_states(&self.control);
        if self.outlook.drives != drives {
            self.outlook.drives = drives;
            (self.due.look, self.due.hosting, self.unpublished) = (true, true, true);
        }
        let damaged = self.control.drives.values().filter(|drive| self.outlook.is_damaged(drive));
        self.count_damaged(damaged.map(|drive| drive.id).collect());
    }

    fn count_damaged(&mut self, damaged: BTreeSet<DriveId>) {
        if self.outlook.damaged != damaged {
            self.outlook.damaged = damaged;
            self.due.hosting = true;
        }
    }

    /// Looks at the drives of these nodes.
    fn count_drives_of(&mut self, nodes: &BTreeSet<NodeId>) {
        let own = self.control.drives.values().filter(|drive| nodes.contains(&drive.node));
        let known = &self.outlook.drives;
        let states = own.map(|drive| (drive.id, self.outlook.drive_state(drive)));
        let turned: Vec<_> = states.filter(|(drive, state)| known.get(drive) != Some(state)).collect();
        let mut damaged = self.outlook.damaged.clone();
        for drive in self.control.drives.values().filter(|drive| nodes.contains(&drive.node)) {
            if self.outlook.is_damaged(drive) {
                damaged.insert(drive.id);
            } else {
                damaged.remove(&drive.id);
            }
        }
        self.count_damaged(damaged);
        if !turned.is_empty() {
            self.outlook.drives.extend(turned);
            (self.due.look, self.due.hosting, self.unpublished) = (true, true, true);
        }
    }

    /// The control group has decided something.
    fn learn(&mut self, view: Arc<ControlView>, acts: &mut Vec<Act>) {
        let before = core::mem::replace(&mut self.control, view);
        if !before.nodes.is_same(&self.control.nodes) {
            self.acquaintances.heed_starts(&self.control, &self.outlook.sight.reports);
            self.show_acquaintances();
            self.locate_stored(self.outlook.sight.now, acts);
        }
        for (actor, _, row) in before.assignments.diff(&self.control.assignments) {
            match row {
                Some(row) if row.moving.is_some() => self.moving.insert(*actor),
                _ => self.moving.remove(actor),
            };
        }
        self.hosting.learn(self.id(), &self.control);
        if !before.drives.is_same(&self.control.drives) || !before.lost.is_same(&self.control.lost) {
            self.count_drives();
        }
        (self.due.look, self.due.hosting, self.due.plan) = (true, true, true);
    }

    /// Peers that are there say themselves where they listen; what was stored before this start may be wrong by now, and a
    /// greeting that nobody answers costs seconds.
    fn locate_stored(&mut self, now: Instant, acts: &mut Vec<Act>) {
        let is_patient = now.since(self.clock.began) >= STORED_ADDRESSES_AFTER;
        let (id, own) = (self.id(), self.here.info.incarnation);
        let others = self.control.nodes.values().filter(|info| info.id != id);
        for info in others.filter(|info| is_patient || info.incarnation > own) {
            let at = info.address.parse().ok();
            let at = at.and_then(|address| self.acquaintances.locate_anew(info.id, address, info.incarnation));
            acts.extend(at.map(|at| Act::Locate(info.id, at)));
        }
    }

    /// An act has ended.
    fn ended(&mut self, key: Key, outcome: Result<(), Error>, now: Instant, acts: &mut Vec<Act>) {
        self.busy.remove(&key);
        let well = outcome.is_ok();
        // What failed at once would fail at once again: it waits for the next look.
        self.due.look |= well;
        if key.is_seen_late() {
            // Who is told to stand again before it is elected begins anew.
            let hands_over = matches!(key, Key::HandOver(_));
            self.not_before.insert(key, now + if hands_over { vacancy::STAND_PAUSE } else { self.here.timing.look });
        }
        match key {
            Key::Announce => {
                // What hinders it for a while says nothing of what was judged.
                if well || outcome.as_ref().is_err_and(is_judged) {
                    complain(&mut self.complaints.refused, outcome.err(), Act::Refused, acts);
                }
            }
            Key::Renew => self.renewed(outcome, now, acts),
            Key::Actor(actor) => {
                self.due.hosting = true;
                self.hosting.done(actor, well, now);
            }
            Key::TakeBack(actor, id) => {
                self.due.hosting = true;
                // Where it was refused, the group's word comes by itself.
                let settled = outcome.err().is_none_or(|error| error.kind() == ErrorKind::Conflict);
                self.hosting.took_back(actor, id, settled);
            }
            Key::Settle(actor, epoch, id) => {
                self.due.hosting = true;
                acts.extend(well.then_some(Act::Settled(actor, epoch, id)));
            }
            Key::Peers => {
                if well {
                    self.replicas_know = core::mem::take(&mut self.replicas_hear);
                    self.replicas_doubt.clear();
                    self.tell_replicas(acts);
                }
            }
            Key::Plan(number) => {
                if self.lead.plans.fail(number, now) {
                    complain(&mut self.complaints.unplanned, outcome.err(), unplanned, acts);
                }
            }
            Key::Confirm => {
                self.lead.backing.answered(well, 2 * self.here.timing.dpu_beat, now);
                if well {
                    // What it was asked for is done while the answer counts, also where looks take longer than that.
                    self.lead.plans.goes_on();
                }
            }
            Key::Forsake(group) if !well => self.vacancies.did_not_forsake(group),
            Key::Fence => self.lead.fences.ended(well),
            Key::Stat
            | Key::Clear
            | Key::Forsake(_)
            | Key::Elect(_)
            | Key::Ensure(_)
            | Key::Retire(_)
            | Key::Members(_)
            | Key::HandOver(_)
            | Key::RaiseLevel
            | Key::PutOut => {}
            Key::LayOut => {
                // What hinders a proposal passes; drives of which no layout can be made do not.
                let judged = outcome.err().filter(is_judged);
                complain(&mut self.complaints.unlaid, judged, unlaid, acts);
            }
        }
    }

    fn renewed(&mut self, outcome: Result<(), Error>, now: Instant, acts: &mut Vec<Act>) {
        if outcome.is_err() {
            self.renew_at = Some(now + RENEW_PAUSE);
        }
        complain(&mut self.complaints.unrenewed, outcome.err(), unrenewed, acts);
    }

    /// What was done for an actor's sake has come to this.
    fn stepped(&mut self, actor: ActorId, number: u64, heard: Heard, now: Instant, acts: &mut Vec<Act>) {
        let Some((_, waiting)) = self.lead.hands.get_mut(&actor).filter(|(known, _)| *known == number) else { return };
        *waiting = waiting.saturating_sub(1);
        let (asks, happened) = self.lead.driver.hear(actor, heard, now);
        self.ask(asks, acts);
        let Some(happened) = happened else { return };
        if !self.lead.driver.is_busy(actor) {
            self.lead.hands.remove(&actor);
        }
        if happened.has_moved() {
            self.outlook.moved_at.insert(actor, now);
            self.unpublished = true;
        }
        acts.push(Act::Note(happened));
        (self.due.look, self.due.plan) = (true, true);
    }

    /// Has things done for actors' sake.
    fn ask(&mut self, asks: Asks, acts: &mut Vec<Act>) {
        for (actor, ask) in asks {
            let next = self.lead.last_hand + 1;
            let (number, waiting) = self.lead.hands.entry(actor).or_insert((next, 0));
            *waiting += 1;
            let number = *number;
            self.lead.last_hand = self.lead.last_hand.max(number);
            acts.push(Act::Step(actor, number, ask));
        }
    }
}

/// The actors that are on a move.
fn on_a_move(control: &ControlView) -> BTreeSet<ActorId> {
    control.assignments.values().filter(|row| row.moving.is_some()).map(|row| row.actor).collect()
}

/// How drives are, without their figures.
fn states(drives: &[DriveReport]) -> impl Iterator<Item = (DriveId, DriveState, bool)> {
    drives.iter().map(|drive| (drive.drive, drive.state, drive.damaged > 0))
}

/// The group has looked at it, and whoever asks again will be told the same.
#[must_use]
pub fn is_judged(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Invalid
            | ErrorKind::Denied
            | ErrorKind::Conflict
            | ErrorKind::QuotaExceeded
            | ErrorKind::Unsupported
    )
}

/// Between two times that figures are shown to whoever reads them.
const SHOW_GAP: Duration = Duration::from_millis(20);
/// Between two looks, whatever happens.
const LOOK_GAP: Duration = Duration::from_millis(5);
/// Before a renewal that failed is tried again: what hinders it, a person has to see to.
const RENEW_PAUSE: Duration = Duration::from_secs(30);
/// What was stored of where others listen counts after this.
const STORED_ADDRESSES_AFTER: Duration = Duration::from_secs(1);
/// Whoever began anew for a reason of its own begins nothing for others before this has passed.
const REST: Duration = Duration::from_secs(1);

#[cfg(test)]
pub(crate) mod tests;
