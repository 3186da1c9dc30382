//! What goes for good, and who comes: when, by whose order, and what must be so afterwards.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
};

use mesh::provision::INVITATION;
use mesh_core::{
    id::{DriveId, NodeId},
    meta::ControlView,
    op::{AdminOp, NewMedium},
    topology::{Departure as How, DriveInfo},
};

use super::{CAPACITY_BYTES, Due, Planted, Room, bay, known_to};
use crate::nodes::{
    clients::{Errand, Told},
    lock, log,
    plan::{Departure, Plan, dpu_of},
};
use crate::random::Stream;

/// The comings and goings of a room.
#[derive(Default)]
pub(super) struct Partings {
    newcomer: Option<Newcomer>,
    departure: Option<Leaver>,
    /// Nodes that are out.
    out: BTreeSet<NodeId>,
    /// Machines that are not started: they are gone, or have not come yet.
    absent: BTreeSet<NodeId>,
    /// A host that is away for a while, with its DPU.
    away: Option<NodeId>,
    /// Drives that somebody has had emptied by the way.
    emptied: BTreeSet<DriveId>,
    /// Whether everything is whole, as far as it is asked for.
    whole: Arc<Mutex<Told>>,
    asks_whether_whole: bool,
    /// Whether the audit log has what was ordered, once that is asked for.
    audited: Option<Arc<Mutex<Told>>>,
    /// A tenant that comes and goes, and whether it has, once that is asked for.
    guest: Option<Arc<Errand>>,
    gone: Option<Arc<Mutex<Told>>>,
    /// Whether those that are out say so, as far as they are asked.
    confessions: BTreeMap<NodeId, Arc<Mutex<Told>>>,
}

/// Somebody who comes.
struct Newcomer {
    node: NodeId,
    invited: Arc<Errand>,
    stage: Stage,
}

/// How far somebody who comes is.
#[derive(PartialEq, Eq)]
enum Stage {
    Unknown,
    Invited,
    Started,
    /// It has a client of its own.
    Used,
}

struct Leaver {
    what: Departure,
    /// None: it is not gone yet, for the mesh lacks something already.
    ordered: Option<Arc<Errand>>,
    is_out: bool,
}

/// As nobody knows of anything that is lacking, it may be taken away if that was so within this.
const FRESH: u64 = 200;
/// … and all have been well for so long: who was not is avoided for a while.
const STEADY: u64 = 6_000;
/// Of so many that vote one may be away.
const VOTERS: usize = 3;
/// Between two questions.
const ASKS: u64 = 100;
/// Nothing is in it until a drive is to be replaced.
const SPARE_BAY: u64 = 9;
/// Invitations of rooms are older ones.
const INVITATION_NUMBER: u64 = 1 << 20;

impl Room {
    /// The machine of a host that is to come.
    pub(super) fn expect(&mut self, plan: &Plan) {
        let Some(node) = plan.newcomer() else { return };
        self.partings.newcomer = Some(Newcomer { node, invited: Arc::default(), stage: Stage::Unknown });
        self.partings.absent.insert(node);
    }

    /// It is invited from now on until that is granted.
    pub(in crate::nodes) fn invite(&mut self) {
        let Some(newcomer) = self.partings.newcomer.as_mut().filter(|one| one.stage == Stage::Unknown) else { return };
        newcomer.stage = Stage::Invited;
        let order = AdminOp::Invite { node: newcomer.node, invitation: INVITATION_NUMBER };
        let end = self.clients.insist(vec![order], newcomer.invited.clone());
        self.net.add(end);
    }

    /// Something is to go.
    pub(super) fn depart(&mut self, what: Departure) {
        self.partings.asks_whether_whole = what.is_loss();
        let is_loss = what.is_loss();
        self.partings.departure = Some(Leaver { what, ordered: None, is_out: false });
        if !is_loss {
            self.order_departure();
        }
    }

    /// Somebody has a drive emptied, which is taken back in the end.
    pub(super) fn note_emptied(&mut self, op: &AdminOp) {
        if let AdminOp::DrainDrive { drive, draining: true } = op {
            self.partings.emptied.insert(*drive);
        }
    }

    /// What was emptied by the way stays: two drives that are emptied at once may wait for each other.
    pub(super) fn take_back_what_was_emptied(&mut self) {
        if self.partings.departure.is_some() {
            for drive in core::mem::take(&mut self.partings.emptied) {
                self.plan(1, Due::Undo(AdminOp::DrainDrive { drive, draining: false }));
            }
        }
    }

    /// Whether a node has left for good.
    pub(super) fn is_out(&self, node: NodeId) -> bool {
        self.partings.out.contains(&node)
    }

    pub(super) fn is_absent(&self, node: NodeId) -> bool {
        self.partings.absent.contains(&node)
    }

    pub(super) fn is_anybody_out(&self) -> bool {
        !self.partings.out.is_empty()
    }

    /// The nodes that have to be there.
    pub(in crate::nodes) fn wanted(&self) -> Vec<NodeId> {
        self.machines.keys().copied().filter(|node| !self.is_out(*node) && !self.is_absent(*node)).collect()
    }

    /// How often an order was refused that was given again.
    pub(in crate::nodes) fn refused_orders(&self) -> u64 {
        let leaver = self.partings.departure.as_ref().and_then(|one| one.ordered.as_ref());
        let newcomer = self.partings.newcomer.as_ref().map(|one| &one.invited);
        leaver.into_iter().chain(newcomer).map(|errand| errand.refused()).sum()
    }

    /// Whether something has gone for good.
    pub(in crate::nodes) fn has_departed(&self) -> bool {
        self.partings.departure.as_ref().is_some_and(|leaver| leaver.is_out)
    }

    /// What has not gone yet, or who has not come; none: nothing is awaited.
    pub(in crate::nodes) fn awaited(&self) -> Option<String> {
        match self.partings.newcomer.as_ref().map(|one| (one, &one.stage)) {
            Some((one, Stage::Invited)) => return Some(format!("{} is not invited: {}", one.node, one.invited.why())),
            Some((one, Stage::Started)) => return Some(format!("{} was invited, and is not ready", one.node)),
            Some((_, Stage::Unknown | Stage::Used)) | None => {}
        }
        let leaver = self.partings.departure.as_ref().filter(|leaver| !leaver.is_out)?;
        let what = &leaver.what;
        Some(match &leaver.ordered {
            None => format!("{what:?} waits until everything is whole: {:?}", lock(&self.partings.whole).lacks()),
            Some(errand) => format!("{what:?} is not granted: {}", errand.why()),
        })
    }

    /// From now on it is asked whether everything is whole; what was said before does not count.
    pub(in crate::nodes) fn ask_whether_whole(&mut self) {
        self.partings.whole = Arc::default();
        self.partings.asks_whether_whole = true;
    }

    /// What is not whole; none: everything is.
    pub(in crate::nodes) fn unwhole(&self) -> Option<String> {
        lock(&self.partings.whole).lacks()
    }

    /// From now on it is asked whether the audit log has what was ordered until now, until it does.
    pub(in crate::nodes) fn ask_whether_audited(&mut self) {
        self.partings.audited = Some(Arc::default());
    }

    /// What the audit log lacks; none: nothing.
    pub(in crate::nodes) fn unaudited(&self) -> Option<String> {
        self.partings.audited.as_ref().and_then(|told| lock(told).lacks())
    }

    /// A tenant comes, stores something, and is deleted.
    pub(in crate::nodes) fn entertain(&mut self) {
        let errand = Arc::<Errand>::default();
        let ends = self.clients.entertain(errand.clone());
        ends.into_iter().for_each(|end| self.net.add(end));
        self.partings.guest = Some(errand);
    }

    /// What keeps the guest; none: it was deleted, or there is none.
    pub(in crate::nodes) fn entertained(&self) -> Option<String> {
        let errand = self.partings.guest.as_ref().filter(|errand| !errand.is_over())?;
        Some(format!("the guest was not deleted: {}", errand.why()))
    }

    /// From now on it is asked whether nothing is left of the guest, until that is so.
    pub(in crate::nodes) fn ask_whether_gone(&mut self) {
        self.partings.gone = self.partings.guest.is_some().then(Arc::default);
    }

    /// What is left of the guest; none: nothing.
    pub(in crate::nodes) fn is_left(&self) -> Option<String> {
        self.partings.gone.as_ref().and_then(|told| lock(told).lacks())
    }

    /// Those that are out and run are asked whether they know it.
    pub(in crate::nodes) fn ask_whether_out(&mut self) {
        self.partings.asks_whether_whole = false;
        let run = self.partings.out.iter().copied().filter(|node| self.runs(*node) && *node <= self.last_host());
        self.partings.confessions = run.map(|node| (node, Arc::default())).collect();
    }

    /// Who does not say that it is out; none: nobody.
    pub(in crate::nodes) fn unconfessed(&self) -> Option<String> {
        self.partings.confessions.values().find_map(|told| lock(told).lacks())
    }

    /// What is out is taken away, with all that is on it.
    pub(in crate::nodes) fn carry_away(&mut self) {
        self.ask_nobody();
        let Some(Leaver { what, .. }) = &self.partings.departure else { return };
        match *what {
            Departure::Host(host) | Departure::LostHost { host, .. } => self.take_away(host),
            Departure::Drive(drive) | Departure::LostDrive(drive) | Departure::Replaced(drive) => self.pull(drive),
            // That was pulled before, and another one is where it was.
            Departure::Exchanged(_) => {}
        }
    }

    /// What is whole bears the loss of one more host: one is away until [`Room::bring_back`], where a majority votes without it.
    pub(in crate::nodes) fn take_one_more_away(&mut self) {
        let hosts = self.hosts_there();
        let at = Stream::new(self.shared.seed, "one more", 0).below(hosts.len() as u64);
        let Some(host) = hosts.get(usize::try_from(at).unwrap_or(0)).filter(|_| hosts.len() >= VOTERS) else { return };
        log::say(|| format!("ROOM {host} is away, too"));
        self.partings.away = Some(*host);
        self.take_away(*host);
    }

    /// Who was away, too, is started again.
    pub(in crate::nodes) fn bring_back(&mut self) {
        let Some(host) = self.partings.away.take() else { return };
        for node in self.parts(host) {
            self.partings.absent.remove(&node);
            self.power_on(node, 1);
        }
    }

    /// What is left of who is out, or of a drive; none: nothing.
    pub(super) fn leftovers(&self, view: &ControlView) -> Option<String> {
        for node in &self.partings.out {
            if view.departures.get(node) != Some(&How::Fenced) {
                return Some(format!("what {node} began may yet be taken: {:?}", view.departures.get(node)));
            }
            if view.nodes.contains_key(node) || view.drives.values().any(|drive| drive.node == *node) {
                return Some(format!("{node} is out and a member"));
            }
            if let Some(row) = view.assignments.values().find(|row| row.is_on(&self.partings.out)) {
                return Some(format!("{} is assigned to who is out", row.actor));
            }
            for (id, _, running) in self.nodes().filter(|(id, ..)| !self.is_out(*id)) {
                let reports = running.status();
                let own = reports.iter().find(|report| report.node == id);
                let led = own.iter().flat_map(|own| &own.groups).filter(|group| group.leader == Some(id));
                for group in led {
                    if group.voters.iter().any(|voter| voter.node() == *node) {
                        return Some(format!("{node} is out, and votes in {}", group.group));
                    }
                }
            }
        }
        let Leaver { what, .. } = self.partings.departure.as_ref()?;
        let drive = what.drive()?;
        if !view.lost.contains_key(&drive) {
            return Some(format!("{drive} is not out"));
        }
        let has_its_place = |info: &DriveInfo| info.seat() == drive && !view.leaving.contains_key(&info.id);
        let is_left_empty = what.is_replaced() && !view.drives.values().any(has_its_place);
        is_left_empty.then(|| format!("nothing has the place of {drive}"))
    }

    /// Sees to comings and goings.
    pub(super) fn see_to_partings(&mut self) {
        if self.time.windows().is_multiple_of(ASKS) {
            let whole = self.partings.asks_whether_whole.then(|| self.clients.ask_whether_whole(&self.partings.whole));
            let audited = self.partings.audited.iter().filter(|told| lock(told).since().is_none());
            let audited = audited.filter_map(|told| self.clients.ask_whether_audited(told));
            let asked = self.partings.confessions.iter().filter(|(_, told)| lock(told).since().is_none());
            let asked = asked.filter_map(|(node, told)| self.clients.ask_whether_out(*node, told));
            let gone = self.partings.gone.iter().filter(|told| lock(told).since().is_none());
            let gone = gone.flat_map(|told| self.clients.ask_whether_gone(told));
            let ends: Vec<_> = whole.flatten().into_iter().chain(audited).chain(asked).chain(gone).collect();
            ends.into_iter().for_each(|end| self.net.add(end));
            self.see_to_newcomer();
        }
        self.see_to_leaver();
    }

    fn see_to_newcomer(&mut self) {
        let Some(one) = &self.partings.newcomer else { return };
        let (node, is_invited) = (one.node, one.invited.is_over());
        let next = match one.stage {
            Stage::Invited if is_invited => {
                if let Some(machine) = self.machines.get(&node) {
                    machine.provide(machine.config.data.join(INVITATION), format!("{INVITATION_NUMBER:x}"));
                }
                self.partings.absent.remove(&node);
                self.power_on(node, 1);
                Stage::Started
            }
            Stage::Started if self.missing(&[node]).is_none() => {
                self.client_of(node);
                Stage::Used
            }
            _ => return,
        };
        if let Some(one) = &mut self.partings.newcomer {
            one.stage = next;
        }
    }

    fn see_to_leaver(&mut self) {
        let Some(leaver) = self.partings.departure.as_ref().filter(|leaver| !leaver.is_out) else { return };
        match &leaver.ordered {
            None if self.is_whole_and_steady() => {
                match leaver.what {
                    Departure::LostHost { host, .. } => self.take_away(host),
                    Departure::LostDrive(drive) | Departure::Exchanged(drive) => self.pull(drive),
                    Departure::Host(_) | Departure::Drive(_) | Departure::Replaced(_) => {}
                }
                self.partings.asks_whether_whole = false;
                self.order_departure();
            }
            Some(errand) if errand.is_over() => self.is_granted(),
            _ => {}
        }
    }

    /// Whether nothing is lacking that the code has to make up for.
    fn is_whole_and_steady(&self) -> bool {
        let now = self.time.windows();
        let since = lock(&self.partings.whole).since();
        since.is_some_and(|since| since + FRESH > now) && self.hurt.is_steady_since(now.saturating_sub(STEADY))
    }

    fn order_departure(&mut self) {
        let errand: Arc<Errand> = Arc::default();
        let Some(what) = self.partings.departure.as_ref().map(|leaver| leaver.what.clone()) else { return };
        let medium = self.replacement(&what);
        let Some(leaver) = &mut self.partings.departure else { return };
        log::say(|| format!("ROOM {:?} is ordered", leaver.what));
        leaver.ordered = Some(errand.clone());
        let (orders, host) = (leaver.what.orders(medium), leaver.what.host());
        let end = self.clients.insist(orders, errand);
        self.net.add(end);
        // Whoever takes a host out sees to it that no configuration names that alone.
        if let Some(host) = host {
            self.point_elsewhere(&[host].into());
        }
    }

    /// It is out.
    fn is_granted(&mut self) {
        let Some(leaver) = &mut self.partings.departure else { return };
        leaver.is_out = true;
        let what = leaver.what.clone();
        log::say(|| format!("ROOM {what:?} is done"));
        match what {
            Departure::Host(host) => self.partings.out.extend(self.parts(host)),
            Departure::LostHost { host, back } => {
                let parts = self.parts(host);
                self.partings.out.extend(parts.iter().copied());
                if let Some(after) = back.filter(|_| self.planted != Some(Planted::Grave)) {
                    for node in parts {
                        self.partings.absent.remove(&node);
                        self.power_on(node, 1 + after);
                    }
                }
            }
            Departure::Drive(drive) | Departure::LostDrive(drive) | Departure::Replaced(drive) => {
                self.unconfigure(drive);
            }
            // What is there now has its place in the configuration as well.
            Departure::Exchanged(_) => {}
        }
    }

    /// What takes a drive's place, put in its machine: into the same bay, or into one that is empty.
    fn replacement(&self, what: &Departure) -> NewMedium {
        let path = what.drive().filter(|_| what.is_replaced()).and_then(|drive| {
            let machine = self.machines.get(&host_of(drive))?;
            let path = match what {
                Departure::Exchanged(_) => machine.path_of(drive)?,
                _ => bay(machine.id(), SPARE_BAY),
            };
            machine.put_in(path.clone(), CAPACITY_BYTES);
            Some(path)
        });
        NewMedium { path: path.unwrap_or_default().display().to_string(), capacity_bytes: Some(CAPACITY_BYTES) }
    }

    /// These are out, or will be once that is said; nor is any of them waited for.
    pub(super) fn give_up(&mut self, nodes: &BTreeSet<NodeId>) {
        self.partings.absent.extend(nodes);
        self.point_elsewhere(nodes);
    }

    /// No configuration names any of these.
    fn point_elsewhere(&mut self, nodes: &BTreeSet<NodeId>) {
        let hosts: Vec<NodeId> = self.founders().filter(|host| !nodes.contains(host)).collect();
        for machine in self.machines.values_mut() {
            machine.config.peers = known_to(machine.config.node.id(), hosts.iter().copied());
        }
    }

    /// These are out.
    pub(super) fn note_out(&mut self, nodes: &BTreeSet<NodeId>) {
        self.partings.out.extend(nodes);
    }

    /// One that was given up is started again.
    pub(super) fn raise(&mut self, node: NodeId, after: u64) {
        self.partings.absent.remove(&node);
        self.power_on(node, after);
    }

    /// Nobody is asked any more whether he knows that he is out.
    pub(super) fn ask_nobody(&mut self) {
        self.partings.confessions.clear();
    }

    /// A host, and its DPU if it has one.
    pub(super) fn parts(&self, host: NodeId) -> Vec<NodeId> {
        [host, dpu_of(host.0)].into_iter().filter(|node| self.machines.contains_key(node)).collect()
    }

    /// A host is not there any more, nor is its DPU.
    fn take_away(&mut self, host: NodeId) {
        for node in self.parts(host) {
            self.partings.absent.insert(node);
            self.kill(node, true);
        }
    }

    fn pull(&mut self, drive: DriveId) {
        log::expect("a drive has failed");
        log::expect("a drive cannot be used; the node runs without it");
        if let Some(machine) = self.machines.get(&host_of(drive)) {
            machine.pull(drive);
        }
    }

    /// Its node is not to look for it any more once it is started again.
    fn unconfigure(&mut self, drive: DriveId) {
        if let Some(machine) = self.machines.get_mut(&host_of(drive)) {
            let path = machine.path_of(drive);
            machine.config.drives.retain(|one| Some(&one.path) != path.as_ref());
        }
    }
}

/// The host that a drive is in.
const fn host_of(drive: DriveId) -> NodeId {
    NodeId(drive.0 / 1000)
}
