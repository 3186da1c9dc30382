//! What a node's shell does for actors that move. Who takes a request, who waits and who is told where to go is decided by
//! `mesh_placement::doors`, as it is in a real node; here it is carried out.

use core::time::Duration;
use std::sync::Arc;

use mesh_core::{
    Answer, Buf, Error, ErrorKind, Op, Outcome, Request, StorageFunction,
    assignment::Assignment,
    id::{ActorId, Epoch, NodeId, Token},
    meta::{Command, ControlView, MeshCommand},
    op::{NodeOp, Phase},
    snapshot::{Mark, Snapshot},
    time::Instant,
};
use mesh_placement::{
    doors::{self, Arrival, Came, Doors, Fate, Gone, HOPS_MAX, Park, Verdict},
    transfer::LINGER_MAX,
};

use super::{
    Happening, Notice, Place, Setting, World,
    host::{Counted, Hosted, Node, Origin},
};
use crate::{metadata::Matter, random::Stream};

/// A request that waits at a door.
#[derive(Debug)]
pub(super) struct Parked {
    since: u64,
    origin: Origin,
    request: Request,
}

/// A call over a link.
#[derive(Debug)]
pub(super) struct Ask {
    pub(super) node: NodeId,
    origin: Origin,
    actor: ActorId,
    /// To be sent again, if the actor has moved; and how often.
    again: Option<(Request, u32)>,
    /// Where it was asked.
    asked: doors::Place,
}

/// Whether a matter is the commit of a move.
pub(super) fn is_commit(matter: &Matter) -> bool {
    matches!(matter, Matter::Command(command) if matches!(**command, Command::Mesh(MeshCommand::CommitMove { .. })))
}

impl World {
    /// Sees what the control group has decided, by the commit of a move or otherwise, and says so if it is anything.
    pub fn look_at_control(&mut self, commits: bool) {
        let view = self.metadata.control();
        if Arc::ptr_eq(&view, &self.decided) {
            return;
        }
        for row in view.assignments.values() {
            self.look_at(*row, commits);
        }
        if let Err(why) = self.invariants.laid_out(&view.layouts) {
            self.violate(|| why);
        }
        self.decided = view.clone();
        self.notices.push_back(Notice::Decided(view));
    }

    /// Sees whether the group has given an actor another place.
    fn look_at(&mut self, row: Assignment, commits: bool) {
        let actor = row.actor;
        let before = self.rows.get(&actor).copied();
        if before == Some(row) {
            return;
        }
        self.rows.insert(actor, row);
        self.note(&[70, actor.0, row.node.0, row.epoch.0, row.moves.0, row.moving.map_or(0, |node| node.0)], || {
            format!("the group says: {row:?}")
        });
        if let Some(to) = row.moving {
            let boot = self.boot_of(to);
            self.begun.insert(actor, boot);
        }
        if before.is_none_or(|before| before.epoch != row.epoch) {
            let boot = self.begun.get(&actor).copied().filter(|_| commits);
            self.made.insert((actor, row.epoch), boot);
        }
        if let Err(why) = self.invariants.assigned(before.as_ref(), &row, commits) {
            self.violate(|| why);
        }
    }

    /// What the control group holds, now and for certain.
    #[must_use]
    pub const fn decided(&self) -> &Arc<ControlView> {
        &self.decided
    }

    /// What the control group says about every actor that may move, now and for certain.
    #[must_use]
    pub const fn rows(&self) -> &std::collections::BTreeMap<ActorId, Assignment> {
        &self.rows
    }

    /// An actor begins with nothing at a node under an epoch. It may only if whoever had its state crashed: once after an
    /// assignment, or again in a later life of the node.
    pub fn born(&mut self, node: NodeId, actor: ActorId, epoch: Epoch) {
        let boot = self.boot_of(node);
        let earlier = self.fresh.insert((actor, epoch, node), boot);
        let excused = match self.made.get(&(actor, epoch)) {
            Some(Some(begun)) => boot > *begun,
            Some(None) => true,
            None => false,
        };
        if !excused || earlier == Some(boot) {
            self.violate(|| format!("{node} begins {actor} under {epoch} with nothing, and nothing has crashed"));
        }
    }

    /// Since when, on the world's clock, requests wait at which gates.
    pub fn parked(&self) -> impl Iterator<Item = (NodeId, ActorId, Instant)> {
        let actors = self.nodes.values().flat_map(|node| node.doors.iter().map(move |(actor, ..)| (node, actor)));
        actors.flat_map(|(node, actor)| {
            node.doors.parked(actor).map(move |parked| (node.id, actor, Instant(parked.since)))
        })
    }

    /// Where and how an actor is hosted.
    #[must_use]
    pub fn hosts_of(&self, actor: ActorId) -> Vec<(NodeId, Epoch, Phase)> {
        let hosted = |node: &Node| {
            let (epoch, phase) = node.doors.phase(actor)?;
            Some((node.id, epoch, phase))
        };
        self.nodes.values().filter_map(hosted).collect()
    }

    /// Which life of a node this is.
    #[must_use]
    pub fn boot_of(&self, node: NodeId) -> u64 {
        self.nodes.get(&node).map_or(0, |node| node.boot)
    }

    /// How an actor is hosted.
    #[must_use]
    pub fn phase(&self, node: NodeId, actor: ActorId) -> Option<(Epoch, Phase)> {
        self.nodes.get(&node)?.doors.phase(actor)
    }

    /// The latest epoch of an actor that a node has heard of.
    #[must_use]
    pub fn heard_of(&self, node: NodeId, actor: ActorId) -> Epoch {
        let known = self.nodes.get(&node).and_then(|node| node.doors.directory().actors.get(&actor));
        known.map_or(Epoch(0), |place| place.epoch)
    }

    /// Every actor that a node hosts, under which epoch, what it is doing, and what it was asked to do.
    #[must_use]
    pub fn hosted_at(&self, node: NodeId) -> Vec<(ActorId, Epoch, Phase, Counted)> {
        let doors = self.nodes.get(&node).map(|node| &node.doors);
        let hosted = doors.into_iter().flat_map(Doors::iter);
        hosted.map(|(actor, epoch, phase, hosted)| (actor, epoch, phase, hosted.counted())).collect()
    }

    /// A node hears from the control group where actors are, which it knew otherwise before.
    pub fn follow(&mut self, node: NodeId, before: &ControlView, after: &ControlView) {
        if let Some(node) = self.nodes.get_mut(&node).filter(|node| node.up) {
            node.doors.follow(before, after);
        }
    }

    /// A node takes another for lost: what it has asked of it ends, and its actors ask it for nothing until
    /// [`Self::resume`].
    pub fn abandon(&mut self, node: NodeId, peer: NodeId) {
        if let Some(node) = self.nodes.get_mut(&node) {
            node.lost.insert(peer);
        }
        if let Some((number, _)) = self.network.open_session(node, peer) {
            self.end_session(node, peer, number);
        }
    }

    /// A node has heard from this life of another: what it has with earlier ones is over.
    pub fn restarted(&mut self, node: NodeId, peer: NodeId, boot: u64) {
        if let Some((number, _)) = self.network.open_session(node, peer).filter(|(_, known)| *known < boot) {
            self.end_session(node, peer, number);
        }
    }

    /// A node takes another for there.
    pub fn resume(&mut self, node: NodeId, peer: NodeId) {
        if let Some(node) = self.nodes.get_mut(&node) {
            node.lost.remove(&peer);
        }
    }

    /// A node takes over where an actor is, if that is news.
    pub fn learn(&mut self, node: NodeId, actor: ActorId, to: (NodeId, Epoch)) {
        if let Some(node) = self.nodes.get_mut(&node).filter(|node| node.up) {
            node.doors.learn(actor, place(to));
        }
    }

    /// Starts an actor under an epoch.
    ///
    /// # Errors
    /// `Conflict`, as [`Doors::host`](mesh_placement::doors::Doors::host).
    pub fn launch(
        &mut self,
        node: NodeId,
        (actor, epoch): (ActorId, Epoch),
        function: Box<dyn StorageFunction>,
        setting: Setting,
        phase: Phase,
    ) -> Result<(), Error> {
        self.lives += 1;
        let entropy = Stream::new(self.seed, "entropy", self.lives);
        let hosted = Hosted::new(function, (self.lives, epoch), entropy, setting);
        self.note(&[71, node.0, actor.0, epoch.0], || format!("{node} hosts {actor} under {epoch}, {phase}"));
        let Some(host) = self.nodes.get_mut(&node).filter(|node| node.up) else { return Ok(()) };
        host.doors.host(actor, epoch, phase == Phase::Warming, hosted).map_err(|(error, _)| error)
    }

    /// An actor in a phase under an epoch.
    fn present(&mut self, node: NodeId, actor: ActorId, epoch: Epoch, phase: Phase) -> Result<&mut Hosted, Error> {
        let doors = self.nodes.get_mut(&node).map(|node| &mut node.doors).ok_or_else(|| no_such_node(node))?;
        doors.in_phase(actor, epoch, phase)?;
        doors.get_mut(actor).ok_or_else(|| no_such_node(node))
    }

    /// Builds an actor that is to arrive. Again under the same epoch: anew.
    ///
    /// # Errors
    /// `Conflict` if it runs here under this epoch or a later one.
    pub fn warm(
        &mut self,
        node: NodeId,
        (actor, epoch): (ActorId, Epoch),
        function: Box<dyn StorageFunction>,
        setting: Setting,
    ) -> Result<(), Error> {
        let host = self.nodes.get_mut(&node).ok_or_else(|| no_such_node(node))?;
        match host.doors.expect(actor, epoch)? {
            Arrival::Free => {}
            Arrival::Discarded(gone) => self.end_discarded(node, actor, gone),
            Arrival::Evicted(gone) => self.end_evicted(node, actor, gone),
        }
        self.launch(node, (actor, epoch), function, setting, Phase::Warming)
    }

    /// Gives a warming actor a page of state.
    ///
    /// # Errors
    /// `NoSuchActor` if it is not warming here under this epoch; what the function says.
    pub fn restore(&mut self, node: NodeId, actor: ActorId, epoch: Epoch, page: &Snapshot) -> Result<(), Error> {
        self.present(node, actor, epoch, Phase::Warming)?.function.restore(page)
    }

    /// A page of an actor's state.
    ///
    /// # Errors
    /// `NoSuchActor` if it neither runs nor is frozen here under this epoch.
    pub fn snapshot(
        &mut self,
        node: NodeId,
        actor: ActorId,
        epoch: Epoch,
        since: Option<Mark>,
    ) -> Result<Snapshot, Error> {
        Ok(self.present(node, actor, epoch, Phase::Running)?.function.snapshot(since))
    }

    /// All pages of the state of an actor that runs there, as a move would carry it.
    ///
    /// # Errors
    /// As [`Self::snapshot`].
    pub fn pages(&mut self, (node, actor, epoch): (NodeId, ActorId, Epoch)) -> Result<Vec<Snapshot>, Error> {
        let (mut pages, mut since) = (Vec::new(), None);
        loop {
            let page = self.snapshot(node, actor, epoch, since)?;
            let more = page.more;
            since = Some(page.mark);
            pages.push(page);
            if !more {
                return Ok(pages);
            }
        }
    }

    /// Lets requests wait, and gives notice once nothing is under way that the state depends on.
    ///
    /// # Errors
    /// `NoSuchActor` if it neither runs nor is frozen here under this epoch.
    pub fn freeze(&mut self, node: NodeId, actor: ActorId, epoch: Epoch, ticket: u64) -> Result<(), Error> {
        let host = self.nodes.get_mut(&node).ok_or_else(|| no_such_node(node))?;
        let hosted = host.doors.freeze(actor, epoch)?;
        hosted.settling = Some(ticket);
        let place = Place { node, actor, life: hosted.life, token: Token(0) };
        self.note(&[72, node.0, actor.0, epoch.0], || format!("{node} {actor} is frozen under {epoch}"));
        self.report_rest(place);
        Ok(())
    }

    /// Lets an actor run that was in `phase`. Again: no effect.
    ///
    /// # Errors
    /// `NoSuchActor` if it is neither in that phase nor runs here under this epoch.
    pub fn open(&mut self, node: NodeId, actor: ActorId, epoch: Epoch, phase: Phase) -> Result<(), Error> {
        let host = self.nodes.get_mut(&node).ok_or_else(|| no_such_node(node))?;
        let (hosted, parked) = host.doors.open(actor, epoch, phase)?;
        hosted.settling = None;
        self.note(&[73, node.0, actor.0, epoch.0, parked.len() as u64], || {
            format!("{node} {actor} runs under {epoch}, {} requests waited", parked.len())
        });
        for Parked { origin, request, .. } in parked {
            self.let_in(node, actor, origin, request);
        }
        Ok(())
    }

    /// Forgets an actor that was to arrive.
    pub fn discard(&mut self, node: NodeId, actor: ActorId) {
        if let Some(gone) = self.nodes.get_mut(&node).and_then(|node| node.doors.discard(actor)) {
            self.end_discarded(node, actor, gone);
        }
    }

    fn end_discarded(&mut self, node: NodeId, actor: ActorId, gone: Gone<Hosted, Parked>) {
        self.note(&[74, node.0, actor.0], || format!("{node} {actor} is discarded"));
        let hosted = self.see_to_parked(node, actor, gone);
        self.end(node, hosted, "the actor did not arrive");
    }

    /// Takes an actor away that is out of date; what it has under way ends.
    pub fn evict(&mut self, node: NodeId, actor: ActorId) {
        if let Some(gone) = self.nodes.get_mut(&node).and_then(|node| node.doors.evict(actor)) {
            self.end_evicted(node, actor, gone);
        }
    }

    fn end_evicted(&mut self, node: NodeId, actor: ActorId, gone: Gone<Hosted, Parked>) {
        self.note(&[75, node.0, actor.0], || format!("{node} {actor} is evicted"));
        let hosted = self.see_to_parked(node, actor, gone);
        self.linger(node, actor, hosted);
    }

    /// Sends an actor away: what waited goes to where it runs now, what is under way here ends here. How many waited.
    pub fn retire(&mut self, node: NodeId, actor: ActorId, epoch: Epoch, to: (NodeId, Epoch)) -> usize {
        let host = self.nodes.get_mut(&node).filter(|node| node.up);
        let Some(mut gone) = host.and_then(|node| node.doors.retire(actor, epoch, place(to))) else { return 0 };
        let count = gone.parked.len();
        self.note(&[76, node.0, actor.0, count as u64], || format!("{node} {actor} retires, {count} requests waited"));
        if self.forgetful {
            gone.parked.clear();
        }
        let hosted = self.see_to_parked(node, actor, gone);
        self.linger(node, actor, hosted);
        count
    }

    /// What waited for an actor that is gone goes after it or is refused.
    pub(super) fn see_to_parked(&mut self, node: NodeId, actor: ActorId, gone: Gone<Hosted, Parked>) -> Hosted {
        for (Parked { origin, request, .. }, fate) in gone.parked {
            match fate {
                Fate::Again => self.ask(node, origin, (actor, Epoch(0)), request),
                Fate::Refused(error) => self.settle(node, origin, Err(error)),
            }
        }
        gone.actor
    }

    fn linger(&mut self, node: NodeId, actor: ActorId, hosted: Hosted) {
        let place = Place { node, actor, life: hosted.life, token: Token(0) };
        let life = hosted.life;
        if let Some(node) = self.nodes.get_mut(&node) {
            node.lingering.insert(life, (actor, hosted));
        }
        self.schedule(LINGER_MAX, Happening::LingerEnd { node, life });
        self.report_rest(place);
    }

    pub(super) fn end_lingering(&mut self, node: NodeId, life: u64) {
        if let Some((_, hosted)) = self.nodes.get_mut(&node).and_then(|node| node.lingering.remove(&life)) {
            self.end(node, hosted, "the actor has left and did not end this in time");
        }
    }

    /// What an actor was asked fails, as it ends.
    pub(super) fn end(&mut self, node: NodeId, hosted: Hosted, why: &'static str) {
        for owed in hosted.requests.into_values() {
            self.settle(node, owed.origin, Err(Error::new(ErrorKind::Restarted, why)));
        }
    }

    /// Tells who waits that nothing is under way that the state depends on; lets go of who has left and is done.
    pub(super) fn report_rest(&mut self, place: Place) {
        let Place { node, actor, life, .. } = place;
        let Some(hosted) = self.hosted(place) else { return };
        if hosted.settling.is_some() && hosted.function.lingers() {
            let ticket = hosted.settling.take().unwrap_or_default();
            self.notices.push_back(Notice::Settled { node, actor, ticket });
            return;
        }
        let done = hosted.requests.is_empty() && hosted.function.in_flight() == 0;
        if let Some(node) = self.nodes.get_mut(&node).filter(|_| done) {
            node.lingering.remove(&life);
        }
    }

    /// A request comes to an actor's door, or goes after the actor.
    pub(super) fn take_request(
        &mut self,
        node: NodeId,
        boot: u64,
        (actor, epoch): (ActorId, Epoch),
        origin: Origin,
        request: Request,
    ) {
        let Some(host) = self.nodes.get_mut(&node).filter(|host| host.up && host.boot == boot) else { return };
        let came = if matches!(origin, Origin::Link { .. }) { Came::Link(epoch) } else { came_here(epoch) };
        match host.doors.knock(actor, came) {
            Verdict::In(hosted) => {
                let own = hosted.epoch;
                if actor.as_tail().is_some()
                    && let Err(why) = self.invariants.tail_taken(node, (actor, own), epoch)
                {
                    return self.violate(|| why);
                }
                self.let_in(node, actor, origin, request);
            }
            Verdict::Waits(_) => match host.doors.park(actor, came, Parked { since: self.now, origin, request }) {
                Park::Waits => self.note(&[77, node.0, actor.0], || format!("{node} {actor}: a request waits")),
                Park::Full(parked) | Park::Changed(parked) => {
                    let error = Error::new(ErrorKind::Overloaded, "too many requests wait for an actor that moves");
                    self.settle(node, parked.origin, Err(error));
                }
            },
            Verdict::Go(_) => self.ask(node, origin, (actor, epoch), request),
            Verdict::Refused(error) => self.settle(node, origin, Err(error)),
        }
    }

    /// Asks an actor, here or elsewhere. If it has moved, it is asked where it is now.
    /// `head`: the epoch of the chain whose tail it asks; else 0.
    pub(super) fn ask(&mut self, node: NodeId, origin: Origin, (actor, head): (ActorId, Epoch), request: Request) {
        self.ask_within(HOPS_MAX, node, origin, (actor, head), request);
    }

    fn ask_within(
        &mut self,
        hops: u32,
        node: NodeId,
        origin: Origin,
        (actor, head): (ActorId, Epoch),
        request: Request,
    ) {
        let Some(host) = self.nodes.get(&node) else { return };
        match host.doors.knock(actor, came_here(head)) {
            Verdict::In(_) | Verdict::Waits(_) => {
                let (after, boot) = (self.hop(), self.boot_of(node));
                self.schedule(after, Happening::Request { node, boot, actor, epoch: head, origin, request });
            }
            Verdict::Go(to) if host.lost.contains(&to.node) => {
                let error = Error::new(ErrorKind::Unreachable, "the node is lost").with("node", to.node);
                self.settle(node, origin, Err(error));
            }
            Verdict::Go(to) => {
                let again = (hops > 0 && actor.as_data().is_some()).then(|| (request.clone(), hops));
                self.send_to(to, Ask { node, origin, actor, again, asked: to }, request);
            }
            Verdict::Refused(error) => self.settle(node, origin, Err(error)),
        }
    }

    fn send_to(&mut self, to: doors::Place, ask: Ask, request: Request) {
        let (node, actor) = (ask.node, ask.actor);
        self.next_ask += 1;
        self.asks.insert(self.next_ask, ask);
        let place = Place { node, actor: ActorId::NODE, life: self.boot_of(node), token: Token(self.next_ask) };
        self.call_over_link(place, to.node, (actor, to.epoch), request);
    }

    /// A call over a link has ended.
    pub(super) fn come_back(&mut self, place: Place, outcome: Outcome) {
        if !self.nodes.get(&place.node).is_some_and(|node| node.up && node.boot == place.life) {
            return;
        }
        let Some(Ask { node, origin, actor, again, asked }) = self.asks.remove(&place.token.0) else {
            return self.violate(|| format!("{place:?}: a call over a link ended twice"));
        };
        match (doors::newer(asked, &outcome), again) {
            (Some(newer), Some((request, hops))) => {
                self.learn(node, actor, (newer.node, newer.epoch));
                self.ask_within(hops - 1, node, origin, (actor, Epoch(0)), request);
            }
            _ => match origin {
                Origin::Local(place) => self.take_reply(place, outcome),
                origin => self.settle(node, origin, outcome),
            },
        }
    }

    /// A node asks something of another, or of itself. The answer is a notice.
    pub fn ask_node(&mut self, node: NodeId, to: NodeId, (op, payload): (NodeOp, Buf), budget: Duration, ticket: u64) {
        if !self.is_up(node) {
            return;
        }
        let (origin, op) = (Origin::Own { ticket }, Box::new(op));
        if node == to {
            self.notices.push_back(Notice::Asked { node, from: origin, op, payload });
            return;
        }
        let request = Request { payload, ..Request::system(Op::Node(op), self.clock(node) + budget) };
        let to = place((to, Epoch(0)));
        let ask = Ask { node, origin, actor: ActorId::NODE, again: None, asked: to };
        self.send_to(to, ask, request);
    }

    /// A node answers what it was asked.
    pub fn respond(&mut self, node: NodeId, to: Origin, outcome: Result<Answer, Error>) {
        self.note(&[78, node.0, u64::from(outcome.is_ok())], || format!("{node} answers {to:?}: {outcome:?}"));
        self.settle(node, to, outcome.map(Into::into));
    }
}

/// From a node itself: by the head of a chain under this epoch, or, where it is 0, by anybody.
const fn came_here(head: Epoch) -> Came {
    if head.0 == 0 { Came::Here } else { Came::Head(head) }
}

const fn place((node, epoch): (NodeId, Epoch)) -> doors::Place {
    doors::Place { node, epoch }
}

fn no_such_node(node: NodeId) -> Error {
    Error::new(ErrorKind::NoSuchActor, "there is no such node").with("node", node)
}
