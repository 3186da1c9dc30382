//! What runs on a node: its ingress, the chains that the control group says run here, and tails of chains that are split;
//! each hosted, configured anew when what it is made of changes, and let go of.

use core::time::Duration;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use mesh_core::{
    Error, ErrorKind,
    assignment::{Assignment, MoveId, Tail},
    id::{ActorId, DriveId, Epoch, GroupId, Incarnation, NodeId},
    limits::BUDGET_DEFAULT,
    meta::ControlView,
    op::{Ability, Phase},
    shared::SharedMap,
    spec::FunctionSpec,
    time::Instant,
    topology::{DriveState, NodeKind},
};

use super::{
    chains::{Act, Chains},
    failures::{Failures, Made},
    specs::{self, Upkeep},
};
use crate::fate::{Hosted, Known};

/// What is to be done to one actor of this node; each list in its order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deed {
    /// What is known of its moves is over.
    Forget,
    /// What is here of it is nothing: it goes, and requests to it wait for what comes.
    Evict,
    /// It warmed or was frozen, as said, and runs on from here with the state that it has.
    Open(Epoch, Phase),
    /// It is built and runs here from now on.
    Start(Epoch, Arc<FunctionSpec>),
    /// It is told what it is made of now.
    Configure(Arc<FunctionSpec>),
    /// It runs at that node, under that epoch, and requests go there.
    Retire(NodeId, Epoch),
    /// It was to arrive and does not.
    Discard,
    /// There is no such actor any more: what it has under way may go on for so long.
    Stop(Duration),
}

/// What a look at the actors says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Wanted {
    /// What is to be done, by actor.
    pub deeds: Vec<(ActorId, Vec<Deed>)>,
    /// Moves that are to be ended by a proposal, each with the epoch of its actor.
    pub take_back: Vec<(ActorId, Epoch, MoveId)>,
    /// Actors of whose moves all that was known is over, and of which nothing else is wanted.
    pub forget: Vec<ActorId>,
    /// Actors that cannot be hosted for now, and why.
    pub troubles: Vec<(ActorId, Error)>,
}

/// What a look goes by.
#[derive(Clone, Copy, Debug)]
pub struct Grounds<'a> {
    /// Which node.
    pub here: NodeId,
    /// What it runs on: a host has an ingress.
    pub kind: NodeKind,
    /// Its start.
    pub incarnation: Incarnation,
    /// What it can run.
    pub ability: &'a Ability,
    /// How what is stored is kept.
    pub upkeep: Upkeep,
    /// What the control group holds, as far as it has heard.
    pub view: &'a ControlView,
    /// The drives, as this node sees them.
    pub drives: &'a SharedMap<DriveId, DriveState>,
    /// Those that say that shards of theirs are damaged.
    pub damaged: &'a BTreeSet<DriveId>,
    /// The groups that it leads.
    pub leads: &'a BTreeSet<GroupId>,
    /// What it hosts.
    pub hosted: &'a BTreeMap<ActorId, Hosted>,
    /// What it knows of moves, of the actors that concern it; see [`Hosting::concerns`].
    pub known: &'a BTreeMap<ActorId, Known>,
    /// Actors for which something is being done.
    pub busy: &'a BTreeSet<ActorId>,
    /// The tails of chains that nodes which answer say they run.
    pub tails: &'a BTreeSet<(NodeId, ActorId, Epoch)>,
    /// It does not know yet which others are there.
    pub looks_around: bool,
    /// It has been told that the mesh has taken it out.
    pub is_out: bool,
    /// Now.
    pub now: Instant,
}

/// What a node has configured, and has under way about its actors.
#[derive(Clone, Debug, Default)]
pub struct Hosting {
    chains: Chains,
    /// What each actor was last configured with, and under which epoch: an actor that has been away meanwhile has not been
    /// configured, whether or not anybody looked while it was away.
    specs: BTreeMap<ActorId, Made>,
    /// The rows as it knows them, and those that name this node.
    rows: SharedMap<ActorId, Assignment>,
    mine: BTreeSet<ActorId>,
    /// What could not be started or configured, or was given up.
    failures: Failures,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Nothing,
    Configure,
    Start,
}

impl Hosting {
    /// The control group says something new.
    pub fn learn(&mut self, here: NodeId, view: &ControlView) {
        for (actor, _, row) in self.rows.diff(&view.assignments) {
            match row {
                Some(row) if row.node == here || row.moving == Some(here) => self.mine.insert(*actor),
                _ => self.mine.remove(actor),
            };
        }
        self.rows = view.assignments.clone();
    }

    /// The actors of which a look must know what is known of their moves, besides those that are hosted.
    pub fn concerns(&self) -> impl Iterator<Item = ActorId> {
        self.mine.iter().copied().chain(self.chains.being_taken_back())
    }

    /// Whether something that failed is to be done again now.
    #[must_use]
    pub fn is_due(&self, now: Instant) -> bool {
        self.failures.due(now).any(|actor| self.is_here(actor) && !self.specs.contains_key(&actor))
    }

    fn is_here(&self, actor: ActorId) -> bool {
        actor.as_data().is_none() || self.mine.contains(&actor)
    }

    /// See [`NodeReport::unable`](mesh_core::op::NodeReport::unable).
    pub fn unable(&self, hosted: &BTreeMap<ActorId, Hosted>) -> impl Iterator<Item = (ActorId, Epoch)> {
        self.failures.unable(|actor| hosted.contains_key(actor))
    }

    /// Looks at everything that is to run here.
    #[must_use]
    pub fn look(&mut self, on: Grounds<'_>) -> Wanted {
        if on.is_out {
            return self.let_all_go(on);
        }
        let mut wanted = Wanted::default();
        let caught_up = on.view.nodes.get(&on.here).is_some_and(|info| info.incarnation == on.incarnation);
        self.failures.forget(on.now);
        // The ingress first: it refuses a tenant whose key it does not know, and need not for long.
        if on.kind == NodeKind::Host {
            let epoch = Epoch(on.incarnation.0);
            let leads = on.leads.iter().copied();
            let spec = specs::ingress(on.view, on.here, epoch, leads, on.upkeep.reclaim_grace_ms);
            let deeds = self.put(ActorId::ingress(on.here), epoch, spec, on, false);
            wanted.push(ActorId::ingress(on.here), deeds);
            let spec = specs::keeper(on.view, on.leads.iter().copied(), on.drives, on.damaged, on.upkeep);
            let deeds = self.put(ActorId::keeper(on.here), epoch, spec, on, false);
            wanted.push(ActorId::keeper(on.here), deeds);
        }
        let hosted = on.hosted.keys().copied().filter(|actor| actor.as_data().is_some());
        let concerned: BTreeSet<ActorId> = self.concerns().chain(hosted).collect();
        for row in concerned.iter().filter_map(|actor| on.view.assignments.get(actor)) {
            if row.actor.as_data().is_some() && !on.busy.contains(&row.actor) {
                self.tend(row, on, caught_up, &mut wanted);
            }
        }
        let mut tails = BTreeSet::new();
        for (row, tail) in specs::tails(on.view).filter(|(_, tail)| caught_up && tail.node == on.here) {
            let Some(actor) = specs::tail_of(row.actor, tail.cut) else { continue };
            tails.insert(actor);
            if !on.busy.contains(&actor) {
                match self.host_tail(row, actor, tail.cut, on) {
                    Ok(deeds) => wanted.push(actor, deeds),
                    Err(error) => wanted.troubles.push((actor, error)),
                }
            }
        }
        // A chain that has left by a step, before this node heard that it does, is let go of by nobody else.
        self.specs
            .retain(|actor, _| actor.as_data().is_none() || self.mine.contains(actor) || on.hosted.contains_key(actor));
        let is_gone = |actor: &ActorId| {
            let is_own = actor.as_ingress().is_some() || actor.as_keeper().is_some();
            !is_own && !on.view.assignments.contains_key(actor) && !tails.contains(actor)
        };
        // Also what was started by whoever decided here before, or came late.
        let others = on.hosted.keys().filter(|actor| caught_up && actor.as_tail().is_some());
        let gone: BTreeSet<ActorId> = self.specs.keys().chain(others).copied().filter(is_gone).collect();
        for actor in gone.into_iter().filter(|actor| !on.busy.contains(actor)) {
            self.specs.remove(&actor);
            // The head of a tail may not have heard yet: it is told `NoSuchActor`, and the ingress sends again.
            let deed = if actor.as_tail().is_some() { Deed::Evict } else { Deed::Stop(BUDGET_DEFAULT) };
            wanted.push(actor, if on.hosted.contains_key(&actor) { vec![deed] } else { Vec::new() });
        }
        wanted
    }

    /// Who is out is answered by nobody: what is under way here could only wait until its time is over. Drives are not
    /// started here, and stay.
    fn let_all_go(&mut self, on: Grounds<'_>) -> Wanted {
        self.specs.clear();
        self.failures = Failures::default();
        let mut wanted = Wanted::default();
        for actor in on.hosted.keys().filter(|actor| actor.as_drive().is_none() && !on.busy.contains(actor)) {
            wanted.push(*actor, vec![Deed::Stop(Duration::ZERO)]);
        }
        wanted
    }

    /// One data chain.
    fn tend(&mut self, row: &Assignment, on: Grounds<'_>, caught_up: bool, wanted: &mut Wanted) {
        let Assignment { actor, epoch, .. } = *row;
        let hosted = on.hosted.get(&actor).copied();
        let known = Known { caught_up, ..on.known.get(&actor).copied().unwrap_or_default() };
        let mut evicted = false;
        let mut deeds = Vec::new();
        for act in self.chains.look(on.here, row, hosted, known, on.looks_around) {
            match act {
                Act::Forget if known.on.is_none() => {}
                Act::Forget => deeds.push(Deed::Forget),
                Act::Evict => {
                    self.specs.remove(&actor);
                    evicted = true;
                    deeds.push(Deed::Evict);
                }
                Act::Open(phase) => deeds.push(Deed::Open(epoch, phase)),
                Act::Run => {
                    let spec = specs::data_chain(on.view, on.drives, actor);
                    match spec.map(|stages| specs::head(stages, on.tail(row))) {
                        Ok(spec) => deeds.extend(self.put(actor, epoch, spec, on, evicted)),
                        Err(error) => {
                            self.specs.remove(&actor);
                            wanted.troubles.push((actor, error));
                        }
                    }
                }
                Act::TakeBack(id) => {
                    // What it was configured with before is over: also if it was given up here, it is started anew.
                    self.specs.remove(&actor);
                    wanted.take_back.push((actor, epoch, id));
                }
                Act::Retire => {
                    self.specs.remove(&actor);
                    deeds.push(Deed::Retire(row.node, epoch));
                }
                Act::Discard => {
                    self.specs.remove(&actor);
                    deeds.push(Deed::Discard);
                }
            }
        }
        if deeds == [Deed::Forget] {
            wanted.forget.push(actor);
        } else {
            wanted.push(actor, deeds);
        }
    }

    /// The last stages of a chain whose head is elsewhere.
    fn host_tail(&mut self, row: &Assignment, actor: ActorId, cut: u8, on: Grounds<'_>) -> Result<Vec<Deed>, Error> {
        let spec = specs::tail(specs::data_chain(on.view, on.drives, row.actor)?, row.actor, cut)?;
        on.ability_for(&spec)?;
        let mut deeds = Vec::new();
        let is_old = on.hosted.get(&actor).is_some_and(|hosted| hosted.epoch != row.epoch);
        if is_old {
            self.specs.remove(&actor);
            deeds.push(Deed::Evict);
        }
        deeds.extend(self.put(actor, row.epoch, spec, on, is_old));
        Ok(deeds)
    }

    fn put(&mut self, actor: ActorId, epoch: Epoch, spec: FunctionSpec, on: Grounds<'_>, evicted: bool) -> Vec<Deed> {
        if on.busy.contains(&actor) {
            return Vec::new();
        }
        let hosted = !evicted && on.hosted.contains_key(&actor);
        // Nobody has let go of it here: its function has panicked over and over.
        if !hosted && !evicted && self.specs.get(&actor).is_some_and(|(under, _)| *under == epoch) {
            let made = self.specs.remove(&actor);
            self.failures.note(actor, made, on.now);
        }
        if self.failures.hold_back(actor, epoch, &spec, on.now) {
            return Vec::new();
        }
        let next = self.next(actor, epoch, &spec, hosted);
        if next == Next::Nothing {
            return Vec::new();
        }
        let spec = Arc::new(spec);
        self.specs.insert(actor, (epoch, spec.clone()));
        vec![if next == Next::Start { Deed::Start(epoch, spec) } else { Deed::Configure(spec) }]
    }

    /// What an actor that runs here needs.
    fn next(&self, actor: ActorId, epoch: Epoch, spec: &FunctionSpec, hosted: bool) -> Next {
        match self.specs.get(&actor).filter(|(under, _)| *under == epoch) {
            Some((_, before)) if **before == *spec => Next::Nothing,
            Some(_) => Next::Configure,
            // It has arrived by a move.
            None if hosted => Next::Configure,
            None => Next::Start,
        }
    }

    /// What was done to an actor has come to this. What failed is done again after a while.
    pub fn done(&mut self, actor: ActorId, well: bool, now: Instant) {
        if !well {
            let made = self.specs.remove(&actor);
            self.failures.note(actor, made, now);
        }
    }

    /// See [`Chains::took_back`].
    pub fn took_back(&mut self, actor: ActorId, id: MoveId, well: bool) {
        self.chains.took_back(actor, id, well);
    }
}

impl Grounds<'_> {
    /// The tail that a chain of this node goes on to: one that runs. Without it the chain is whole, at once and without
    /// anybody's leave.
    fn tail(&self, row: &Assignment) -> Option<&Tail> {
        let tail = self.view.tails.get(&row.actor)?;
        let actor = specs::tail_of(row.actor, tail.cut)?;
        self.tails.contains(&(tail.node, actor, row.epoch)).then_some(tail)
    }

    /// Refuses functions that this node was not told to run.
    fn ability_for(&self, spec: &FunctionSpec) -> Result<(), Error> {
        let FunctionSpec::Chain(stages) = spec else { return Ok(()) };
        runs_here(self.here, self.ability, stages)
    }
}

/// Refuses functions that a node was not told to run.
fn runs_here(here: NodeId, ability: &Ability, stages: &[FunctionSpec]) -> Result<(), Error> {
    match stages.iter().find(|stage| !ability.functions.contains_key(stage.name())) {
        None => Ok(()),
        Some(stage) => Err(Error::new(ErrorKind::Unsupported, "this node does not run such functions")
            .with("node", here)
            .with("function", stage.name())),
    }
}

/// What an actor is made of that is to arrive here under an epoch by a move: by what this node knows of the control group.
/// What a chain is made of is fixed for an epoch: of another one, this node may know other functions.
///
/// # Errors
/// `Draining` if this node knows of another epoch, or has just started and `looks_around`: here the actor could do nothing
/// yet, and where it is it can; `Unreachable` if this node does not know the tenant yet; `Unsupported`.
pub fn arriving(
    here: NodeId,
    ability: &Ability,
    view: &ControlView,
    drives: &SharedMap<DriveId, DriveState>,
    looks_around: bool,
    (actor, epoch): (ActorId, Epoch),
) -> Result<Vec<FunctionSpec>, Error> {
    let known = view.assignments.get(&actor).map_or(Epoch(0), |row| row.epoch);
    if known.0 + 1 != epoch.0 {
        return Err(Error::new(ErrorKind::Draining, "this node knows of another epoch of the actor; try again")
            .with("actor", actor)
            .with("node", here)
            .with("knows", known)
            .with("asked", epoch));
    }
    let stages = specs::data_chain(view, drives, actor)?;
    runs_here(here, ability, &stages)?;
    if looks_around {
        let why = "this node has just started, and has not heard of every host yet; try again";
        return Err(Error::new(ErrorKind::Draining, why).with("node", here));
    }
    Ok(stages)
}

impl Wanted {
    fn push(&mut self, actor: ActorId, deeds: Vec<Deed>) {
        if !deeds.is_empty() {
            self.deeds.push((actor, deeds));
        }
    }
}

#[cfg(test)]
mod tests {
    use mesh_core::{
        id::{KeyId, TenantId},
        meta::{TenantLimits, TenantRow, WrappedKey},
        spec::EncryptSpec,
        topology::NodeInfo,
    };

    use super::*;
    use crate::steward::tests::host;

    const HERE: NodeId = NodeId(1);
    const TENANT: TenantId = TenantId(7);

    /// What a DPU is told to do about one chain, look by look.
    struct Room {
        hosting: Hosting,
        view: ControlView,
        drives: SharedMap<DriveId, DriveState>,
        damaged: BTreeSet<DriveId>,
        hosted: BTreeMap<ActorId, Hosted>,
        busy: BTreeSet<ActorId>,
        tails: BTreeSet<(NodeId, ActorId, Epoch)>,
        /// What is known of the chain's moves.
        on: Option<MoveId>,
        ability: Ability,
        is_out: bool,
        now: Instant,
    }

    impl Room {
        fn new() -> Self {
            let wrapped = WrappedKey { key: KeyId(0), nonce: [0; 12], sealed: vec![0; 48] };
            let limits = TenantLimits::default();
            let row = TenantRow { id: TENANT, name: "tenant".into(), key: KeyId(0), wrapped, limits };
            let mut view = ControlView::default();
            view.nodes.insert(HERE, host(1));
            view.tenants.insert(TENANT, Arc::new(row));
            view.assignments.insert(chain(), Assignment::new(chain(), HERE, Epoch(1)));
            let mut hosting = Hosting::default();
            hosting.learn(HERE, &view);
            let (drives, damaged, hosted, busy, tails) = Default::default();
            let functions = ["policy", "encrypt", "erasure"].map(|kind| (kind.to_owned(), (0, 0)));
            let ability = Ability { functions: functions.into(), ..Ability::default() };
            let (on, is_out, now) = (None, false, Instant(0));
            Self { hosting, view, drives, damaged, hosted, busy, tails, on, ability, is_out, now }
        }

        fn look(&mut self) -> Vec<&'static str> {
            self.deeds().iter().map(|(_, deed)| name(deed)).collect()
        }

        fn deeds(&mut self) -> Vec<(ActorId, Deed)> {
            let wanted = self.wanted();
            assert!(wanted.troubles.is_empty() && wanted.take_back.is_empty(), "{wanted:?}");
            let each = |(actor, deeds): (ActorId, Vec<Deed>)| deeds.into_iter().map(move |deed| (actor, deed));
            wanted.deeds.into_iter().flat_map(each).collect()
        }

        fn wanted(&mut self) -> Wanted {
            let known = Known { on: self.on, ..Known::default() };
            let known = self.hosting.concerns().map(|actor| (actor, known)).collect();
            let grounds = Grounds {
                here: HERE,
                kind: NodeKind::Dpu,
                incarnation: Incarnation(1),
                ability: &self.ability,
                upkeep: Upkeep::default(),
                view: &self.view,
                drives: &self.drives,
                damaged: &self.damaged,
                leads: &BTreeSet::new(),
                hosted: &self.hosted,
                known: &known,
                busy: &self.busy,
                tails: &self.tails,
                looks_around: false,
                is_out: self.is_out,
                now: self.now,
            };
            self.hosting.look(grounds)
        }

        fn runs(&mut self, epoch: u64) {
            self.hosted.insert(chain(), Hosted { epoch: Epoch(epoch), phase: Phase::Running });
        }

        fn row(&mut self, node: NodeId, epoch: u64) {
            self.view.assignments.insert(chain(), Assignment::new(chain(), node, Epoch(epoch)));
            self.hosting.learn(HERE, &self.view);
        }
    }

    fn chain() -> ActorId {
        ActorId::data(TENANT, NodeId(3))
    }

    fn name(deed: &Deed) -> &'static str {
        match deed {
            Deed::Forget => "forget",
            Deed::Evict => "evict",
            Deed::Open(..) => "open",
            Deed::Start(..) => "start",
            Deed::Configure(_) => "configure",
            Deed::Retire(..) => "retire",
            Deed::Discard => "discard",
            Deed::Stop(Duration::ZERO) => "cut",
            Deed::Stop(_) => "stop",
        }
    }

    #[test]
    fn a_chain_is_started_once_and_configured_when_it_changes() {
        let mut room = Room::new();
        assert_eq!(room.look(), ["start"]);
        // While something is done to it, nothing else is.
        room.busy.insert(chain());
        room.drives.insert(DriveId(1), DriveState::Up);
        assert_eq!(room.look(), [""; 0]);
        room.busy.clear();
        room.runs(1);
        room.hosting.done(chain(), true, room.now);
        assert_eq!(room.look(), ["configure"]);
        assert_eq!(room.look(), [""; 0]);
        // It leaves, and comes back by itself, or by a move.
        room.row(NodeId(2), 2);
        assert_eq!(room.look(), ["retire"]);
        room.hosted.clear();
        room.row(HERE, 3);
        assert_eq!(room.look(), ["start"]);
        room.runs(3);
        room.row(NodeId(2), 4);
        assert_eq!(room.look(), ["retire"]);
        room.row(HERE, 5);
        room.runs(5);
        assert_eq!(room.look(), ["configure"]);
        // Given up after panics: it is started again after a while.
        room.hosted.clear();
        assert_eq!(room.look(), [""; 0]);
        room.now = room.now + Duration::from_millis(499);
        assert!(!room.hosting.is_due(room.now));
        room.now = room.now + Duration::from_millis(1);
        assert!(room.hosting.is_due(room.now));
        assert_eq!(room.look(), ["start"]);
        // It is no more.
        room.view.assignments = SharedMap::default();
        room.hosting.learn(HERE, &room.view);
        room.runs(5);
        assert_eq!(room.look(), ["stop"]);
    }

    #[test]
    fn what_has_left_by_a_step_and_what_others_left_behind_is_let_go_of() {
        let mut room = Room::new();
        assert_eq!(room.look(), ["start"]);
        room.runs(1);
        // It is retired by its move before the node hears of its new place.
        room.hosted.clear();
        room.row(NodeId(2), 2);
        assert_eq!(room.look(), [""; 0]);
        assert!(!room.hosting.is_due(room.now));
        // A tail that whoever decided here before had begun, and which nobody wants any more.
        let tail = ActorId::tail(TENANT, NodeId(3), 1);
        room.hosted.insert(tail, Hosted { epoch: Epoch(1), phase: Phase::Running });
        assert_eq!(room.look(), ["evict"]);
    }

    /// What the group says then is from before this start: who was given what since, this node has not heard yet.
    #[test]
    fn a_node_that_knows_itself_by_an_earlier_start_alone_begins_nothing_and_lets_go_of_nothing() {
        let mut room = Room::new();
        let tail = ActorId::tail(TENANT, NodeId(3), 1);
        room.hosted.insert(tail, Hosted { epoch: Epoch(1), phase: Phase::Running });
        room.view.nodes.insert(HERE, NodeInfo { incarnation: Incarnation(0), ..host(1) });
        assert_eq!(room.deeds(), []);
        room.view.nodes.remove(&HERE);
        assert_eq!(room.deeds(), []);
        room.view.nodes.insert(HERE, host(1));
        let deeds: Vec<_> = room.deeds().iter().map(|(actor, deed)| (*actor, name(deed))).collect();
        assert_eq!(deeds, [(chain(), "start"), (tail, "evict")]);
    }

    #[test]
    fn a_chain_is_whole_until_its_tail_runs_under_the_same_epoch() {
        let mut room = Room::new();
        let tail = Tail { cut: 1, node: NodeId(2) };
        room.view.tails.insert(chain(), tail);
        let spec = |room: &Room, tail: Option<&Tail>| {
            Arc::new(specs::head(specs::data_chain(&room.view, &room.drives, chain()).unwrap(), tail))
        };
        assert_eq!(room.deeds(), [(chain(), Deed::Start(Epoch(1), spec(&room, None)))]);
        room.runs(1);
        room.hosting.done(chain(), true, room.now);
        // One of another epoch, at another node, and of another cut.
        let of = |cut| ActorId::tail(TENANT, NodeId(3), cut);
        room.tails = [(NodeId(2), of(1), Epoch(2)), (NodeId(4), of(1), Epoch(1)), (NodeId(2), of(2), Epoch(1))].into();
        assert_eq!(room.deeds(), []);
        room.tails.insert((NodeId(2), of(1), Epoch(1)));
        assert_eq!(room.deeds(), [(chain(), Deed::Configure(spec(&room, Some(&tail))))]);
        // It is gone: the chain is whole at once.
        room.hosting.done(chain(), true, room.now);
        room.tails.clear();
        assert_eq!(room.deeds(), [(chain(), Deed::Configure(spec(&room, None)))]);
    }

    #[test]
    fn a_tail_that_begins_with_another_stage_is_another_actor() {
        let mut room = Room::new();
        room.row(NodeId(2), 1);
        let cut = |room: &mut Room, cut: u8| {
            room.view.tails.insert(chain(), Tail { cut, node: HERE });
            room.deeds().iter().map(|(actor, deed)| (actor.as_tail().unwrap().2, name(deed))).collect::<Vec<_>>()
        };
        assert_eq!(cut(&mut room, 1), [(1, "start")]);
        let tail = |cut| ActorId::tail(TENANT, NodeId(3), cut);
        room.hosted.insert(tail(1), Hosted { epoch: Epoch(1), phase: Phase::Running });
        assert_eq!(cut(&mut room, 1), []);
        // Under the same epoch, and for a head that may not have heard: what it sends to the one never comes to the other.
        assert_eq!(cut(&mut room, 2), [(2, "start"), (1, "evict")]);
    }

    #[test]
    fn what_fails_to_start_is_tried_again_less_and_less_often() {
        let mut room = Room::new();
        let mut tries = 0;
        for _ in 0..600 {
            if room.look() == ["start"] {
                tries += 1;
                room.hosting.done(chain(), false, room.now);
                assert!(!room.hosting.is_due(room.now));
            }
            room.now = room.now + Duration::from_millis(100);
        }
        assert_eq!(tries, 11, "in a minute: after 0.5, 1, 2, 4, and then every 8 seconds");
        assert!(room.hosting.is_due(room.now + Duration::from_secs(8)));
        assert_eq!(room.hosting.unable(&BTreeMap::new()).collect::<Vec<_>>(), [(chain(), Epoch(1))]);
        // Of something else it is not known that it fails.
        room.drives.insert(DriveId(1), DriveState::Up);
        assert_eq!(room.look(), ["start"]);
        // It has moved away: nothing is to be tried again.
        room.hosting.done(chain(), false, room.now);
        room.row(NodeId(2), 2);
        assert_eq!(room.look(), [""; 0]);
        assert!(!room.hosting.is_due(Instant(u64::MAX)));
        assert_eq!(room.hosting.unable(&BTreeMap::new()).count(), 1, "it is not to come back at once");
    }

    #[test]
    fn what_was_configured_counts_for_its_epoch_alone() {
        let actor = ActorId(9);
        let spec = FunctionSpec::Encrypt(EncryptSpec::default());
        let other = FunctionSpec::Chain(vec![spec.clone()]);
        let mut hosting = Hosting::default();
        assert_eq!(hosting.next(actor, Epoch(1), &spec, false), Next::Start);
        hosting.specs.insert(actor, (Epoch(1), Arc::new(spec.clone())));
        assert_eq!(hosting.next(actor, Epoch(1), &spec, true), Next::Nothing);
        assert_eq!(hosting.next(actor, Epoch(1), &other, true), Next::Configure);
        assert_eq!(hosting.next(actor, Epoch(3), &spec, false), Next::Start);
        assert_eq!(hosting.next(actor, Epoch(3), &spec, true), Next::Configure);
        assert_eq!(hosting.next(actor, Epoch(1), &spec, false), Next::Nothing);
    }

    #[test]
    fn what_is_under_way_for_an_actor_keeps_it_from_being_let_go_of_meanwhile() {
        let mut room = Room::new();
        assert_eq!(room.look(), ["start"]);
        room.runs(1);
        room.hosting.done(chain(), true, room.now);
        room.row(NodeId(2), 2);
        room.busy.insert(chain());
        assert_eq!(room.look(), [""; 0]);
        room.busy.clear();
        assert_eq!(room.look(), ["retire"]);
    }

    #[test]
    fn who_is_out_lets_everything_go_at_once_but_for_drives() {
        let mut room = Room::new();
        assert_eq!(room.look(), ["start"]);
        room.hosting.done(chain(), true, room.now);
        room.runs(1);
        let own = [ActorId::ingress(HERE), ActorId::keeper(HERE), ActorId::drive(DriveId(5))];
        let running = Hosted { epoch: Epoch(1), phase: Phase::Running };
        room.hosted.extend(own.map(|actor| (actor, running)));
        room.busy.insert(own[1]);
        room.is_out = true;
        let cut = |actor| (actor, Deed::Stop(Duration::ZERO));
        let (mut said, mut expected) = (room.deeds(), vec![cut(own[0]), cut(chain())]);
        said.sort_by_key(|(actor, _)| *actor);
        expected.sort_by_key(|(actor, _)| *actor);
        assert_eq!(said, expected);
        room.busy.clear();
        room.hosted.retain(|actor, _| *actor == own[1]);
        assert_eq!(room.look(), ["cut"], "what was busy follows");
        // Nothing is begun again.
        room.hosted.clear();
        assert_eq!(room.look(), [""; 0]);
    }

    #[test]
    fn what_is_known_of_a_move_that_is_over_is_forgotten() {
        let mut room = Room::new();
        room.look();
        room.runs(1);
        room.hosting.done(chain(), true, room.now);
        let ended = Assignment { moves: MoveId(1), ..Assignment::new(chain(), HERE, Epoch(1)) };
        room.view.assignments.insert(chain(), ended);
        assert_eq!(room.wanted().forget, []);
        room.on = Some(MoveId(1));
        assert_eq!(room.wanted().forget, [chain()], "and nothing else is to be done");
        room.drives.insert(DriveId(1), DriveState::Up);
        assert_eq!(room.look(), ["forget", "configure"]);
    }

    #[test]
    fn what_could_not_be_told_is_told_again_after_a_while() {
        let mut room = Room::new();
        room.look();
        room.runs(1);
        room.hosting.done(chain(), true, room.now);
        room.drives.insert(DriveId(1), DriveState::Up);
        assert_eq!(room.look(), ["configure"]);
        room.hosting.done(chain(), false, room.now);
        assert_eq!(room.look(), [""; 0]);
        room.now = room.now + Duration::from_millis(500);
        assert_eq!(room.look(), ["configure"]);
    }

    #[test]
    fn a_move_of_before_this_start_is_taken_back_and_again_if_that_failed() {
        let mut room = Room::new();
        let moving =
            Assignment { moving: Some(NodeId(2)), moves: MoveId(3), ..Assignment::new(chain(), HERE, Epoch(1)) };
        room.view.assignments.insert(chain(), moving);
        room.hosting.learn(HERE, &room.view);
        let takes_back = [(chain(), Epoch(1), MoveId(3))];
        assert_eq!(room.wanted().take_back, takes_back);
        assert_eq!(room.wanted().take_back, []);
        // It is known of, although it is another's by then.
        room.row(NodeId(2), 2);
        assert_eq!(room.hosting.concerns().collect::<Vec<_>>(), [chain()]);
        let moving =
            Assignment { moving: Some(NodeId(2)), moves: MoveId(3), ..Assignment::new(chain(), HERE, Epoch(1)) };
        room.view.assignments.insert(chain(), moving);
        room.hosting.learn(HERE, &room.view);
        room.hosting.took_back(chain(), MoveId(3), false);
        assert_eq!(room.wanted().take_back, takes_back);
    }

    #[test]
    fn a_tail_of_functions_that_a_node_was_not_told_to_run_is_refused() {
        let mut room = Room::new();
        room.row(NodeId(2), 1);
        room.view.tails.insert(chain(), Tail { cut: 1, node: HERE });
        room.ability.functions.remove("erasure");
        let wanted = room.wanted();
        let [(actor, error)] = &wanted.troubles[..] else { panic!("{wanted:?}") };
        assert_eq!((*actor, error.kind()), (ActorId::tail(TENANT, NodeId(3), 1), ErrorKind::Unsupported));
        assert_eq!(wanted.deeds, []);
    }

    #[test]
    fn a_chain_arrives_under_the_next_epoch_at_a_node_that_can_run_it_and_knows_who_is_there() {
        let mut room = Room::new();
        room.row(NodeId(2), 4);
        let arrives = |room: &Room, looks_around, epoch| {
            let asked = (chain(), Epoch(epoch));
            let stages = arriving(HERE, &room.ability, &room.view, &room.drives, looks_around, asked);
            stages.map(|stages| stages.len()).map_err(|error| error.kind())
        };
        assert_eq!(arrives(&room, false, 5), Ok(3));
        for other in [3, 4, 6] {
            assert_eq!(arrives(&room, false, other), Err(ErrorKind::Draining), "{other}");
        }
        assert_eq!(arrives(&room, true, 5), Err(ErrorKind::Draining));
        room.ability.functions.remove("encrypt");
        assert_eq!(arrives(&room, false, 5), Err(ErrorKind::Unsupported));
        room.view.tenants = SharedMap::default();
        assert_eq!(arrives(&room, false, 5), Err(ErrorKind::Unreachable));
    }
}
