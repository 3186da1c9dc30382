//! Who takes a request, as a machine: the doors of one node's actors, and what it knows of where others are.
//!
//! ```text
//!            from this node                    over a link
//! hosted     in                                in, unless it is for another epoch: told where
//! warming    to where it runs; waits here,     told where it runs; waits, if the sender knows that it has arrived
//!            if it has been told to be here
//! frozen     waits                             waits
//! closed     refused                           refused
//! not here   to where it is known to be        told where, if that is known
//! ```
//!
//! What a head sends to its tail is taken, here and elsewhere, by the tail of the same epoch alone, or by nobody.
//!
//! A request of this node for an actor that is to arrive is with the old place until the commit is heard of: if that place
//! dies in between, it fails with it, and may be sent again.
//!
//! What waits is bounded ([`PARKED_JOBS_MAX`] an actor). When an actor has left, what waited and is of this node goes after
//! it, and what came over a link is told where it is, and sent again by whoever sent it. A stale entry of the
//! [`Directory`] is corrected by such an answer, never by luck; one request follows [`HOPS_MAX`] of them.
//!
//! The very same machine stands in a node's shell and in the simulator. `A` is what an actor is to whoever hosts it, `P` a
//! request that waits.

use std::collections::BTreeMap;

use mesh_core::{
    Error, ErrorKind, Outcome, Redirect,
    id::{ActorId, DriveId, Epoch, NodeId},
    limits::PARKED_JOBS_MAX,
    meta::ControlView,
    op::Phase,
};

use crate::steward::specs::tail_of;

/// One place of an actor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The node.
    pub node: NodeId,
    /// Its epoch there; 0: not known.
    pub epoch: Epoch,
}

/// Where actors are, as far as a node knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Directory {
    /// Owners of drives.
    pub drives: BTreeMap<DriveId, Place>,
    /// Chains that run elsewhere than on their ingress.
    pub actors: BTreeMap<ActorId, Place>,
}

impl Directory {
    /// Where an actor is.
    #[must_use]
    pub fn locate(&self, actor: ActorId) -> Option<Place> {
        if let Some(place) = self.actors.get(&actor) {
            return Some(*place);
        }
        match (actor.as_drive(), actor.as_ingress(), actor.as_data()) {
            (Some(drive), _, _) => self.drives.get(&drive).copied(),
            (_, Some(node), _) | (_, _, Some((_, node))) => Some(Place { node, epoch: Epoch(0) }),
            _ => None,
        }
    }
}

/// Where a request comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Came {
    /// From this node: whoever asks follows the actor.
    Here,
    /// From this node, by the head of a chain under this epoch, for its tail. One of another epoch may be made of other stages:
    /// nobody follows it there.
    Head(Epoch),
    /// Over a link, for an actor under an epoch; 0: the sender has no idea. Whoever sent it is told where the actor is.
    Link(Epoch),
}

/// What becomes of a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict<'a, A> {
    /// The actor takes it.
    In(&'a A),
    /// It waits for the actor at its door: [`Doors::park`].
    Waits(&'a A),
    /// It goes to the actor's place on another node.
    Go(Place),
    /// It is refused.
    Refused(Error),
}

/// What became of a request that was to wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Park<P> {
    /// It does.
    Waits,
    /// Too many do.
    Full(P),
    /// The door has changed meanwhile: it knocks anew.
    Changed(P),
}

/// What becomes of a request that waited.
#[derive(Clone, Debug, PartialEq)]
pub enum Fate {
    /// It goes after the actor.
    Again,
    /// It is refused.
    Refused(Error),
}

/// Requests that waited, in order.
pub type Released<P> = Vec<(P, Fate)>;

/// An actor that is not here any more.
#[derive(Clone, Debug, PartialEq)]
pub struct Gone<A, P> {
    /// The actor.
    pub actor: A,
    /// What waited for it, in order.
    pub parked: Released<P>,
}

/// What an actor that is to arrive finds.
#[derive(Clone, Debug, PartialEq)]
pub enum Arrival<A, P> {
    /// Room.
    Free,
    /// What was to arrive before, and is forgotten: it never ran.
    Discarded(Gone<A, P>),
    /// What was left over from before it went where it comes from now: what it has under way ends.
    Evicted(Gone<A, P>),
}

/// The doors of one node.
#[derive(Clone, Debug)]
pub struct Doors<A, P> {
    node: NodeId,
    doors: BTreeMap<ActorId, Door<A, P>>,
    directory: Directory,
}

#[derive(Clone, Debug)]
struct Door<A, P> {
    actor: A,
    epoch: Epoch,
    state: State<P>,
}

#[derive(Clone, Debug)]
enum State<P> {
    Open,
    /// Warming or frozen.
    Parking(Phase, Vec<(Came, P)>),
    Closed,
}

impl<P> State<P> {
    const fn phase(&self) -> Phase {
        match self {
            Self::Open => Phase::Running,
            Self::Parking(phase, _) => *phase,
            Self::Closed => Phase::Draining,
        }
    }

    /// What waited.
    fn into_parked(self) -> Vec<(Came, P)> {
        match self {
            Self::Parking(_, parked) => parked,
            Self::Open | Self::Closed => Vec::new(),
        }
    }
}

impl<A, P> Doors<A, P> {
    /// A node without actors.
    #[must_use]
    pub fn new(node: NodeId) -> Self {
        Self { node, doors: BTreeMap::new(), directory: Directory::default() }
    }

    /// What becomes of a request for an actor.
    #[must_use]
    pub fn knock(&self, id: ActorId, came: Came) -> Verdict<'_, A> {
        let Some(door) = self.doors.get(&id) else { return self.elsewhere(id, came) };
        let phase = door.state.phase();
        match came {
            Came::Link(epoch) if epoch != Epoch(0) && epoch != door.epoch => {
                return match phase {
                    // Whether it arrives is not decided yet: nobody must be told that it is here.
                    Phase::Warming => self.elsewhere(id, came),
                    _ => Verdict::Refused(stale(id, Place { node: self.node, epoch: door.epoch })),
                };
            }
            Came::Head(epoch) if epoch != door.epoch => return Verdict::Refused(no_such_actor(id)),
            // It runs elsewhere, until its move is committed.
            Came::Here | Came::Link(Epoch(0)) if phase == Phase::Warming && self.runs_elsewhere(id).is_some() => {
                return self.elsewhere(id, came);
            }
            Came::Here | Came::Head(_) | Came::Link(_) => {}
        }
        match door.state {
            State::Open => Verdict::In(&door.actor),
            State::Parking(..) => Verdict::Waits(&door.actor),
            State::Closed => {
                Verdict::Refused(Error::new(ErrorKind::Draining, "the actor is being stopped").with("actor", id))
            }
        }
    }

    /// Where an actor that moves runs, if that is known and not here.
    fn runs_elsewhere(&self, id: ActorId) -> Option<Place> {
        self.directory.actors.get(&id).copied().filter(|place| place.node != self.node)
    }

    /// Of an actor that takes nothing here.
    fn elsewhere(&self, id: ActorId, came: Came) -> Verdict<'_, A> {
        match came {
            Came::Here => match self.directory.locate(id).filter(|place| place.node != self.node) {
                Some(place) => Verdict::Go(place),
                None => Verdict::Refused(no_such_actor(id)),
            },
            Came::Head(epoch) => match self.runs_elsewhere(id).filter(|place| place.epoch == epoch) {
                Some(place) => Verdict::Go(place),
                None => Verdict::Refused(no_such_actor(id)),
            },
            Came::Link(_) => match self.runs_elsewhere(id) {
                Some(place) => Verdict::Refused(stale(id, place)),
                None => Verdict::Refused(no_such_actor(id)),
            },
        }
    }

    /// Lets a request wait that was told to.
    pub fn park(&mut self, id: ActorId, came: Came, parked: P) -> Park<P> {
        if !matches!(self.knock(id, came), Verdict::Waits(_)) {
            return Park::Changed(parked);
        }
        match self.doors.get_mut(&id).map(|door| &mut door.state) {
            Some(State::Parking(_, waiting)) if waiting.len() < PARKED_JOBS_MAX => {
                waiting.push((came, parked));
                Park::Waits
            }
            _ => Park::Full(parked),
        }
    }

    /// Hosts an actor that runs, or that is to arrive: then requests for it wait.
    ///
    /// # Errors
    /// `Conflict` if it is hosted already, or this node has heard of a later epoch of it: it was built for long.
    pub fn host(&mut self, id: ActorId, epoch: Epoch, warming: bool, actor: A) -> Result<(), (Error, A)> {
        if self.doors.contains_key(&id) {
            let error = Error::new(ErrorKind::Conflict, "the actor is hosted here already").with("actor", id);
            return Err((error, actor));
        }
        if let Some(later) = self.directory.actors.get(&id).filter(|place| place.epoch > epoch) {
            let error = Error::new(ErrorKind::Conflict, "the actor is under a later epoch by now");
            return Err((error.with("actor", id).with("epoch", epoch).with("later", later.epoch), actor));
        }
        let state = if warming { State::Parking(Phase::Warming, Vec::new()) } else { State::Open };
        self.doors.insert(id, Door { actor, epoch, state });
        Ok(())
    }

    /// Makes room for an actor that is to arrive under an epoch.
    ///
    /// # Errors
    /// `Conflict` if it runs here under the epoch before this one, or a later one.
    pub fn expect(&mut self, id: ActorId, epoch: Epoch) -> Result<Arrival<A, P>, Error> {
        match self.phase(id) {
            None => Ok(Arrival::Free),
            Some((_, Phase::Warming)) => Ok(self.discard(id).map_or(Arrival::Free, Arrival::Discarded)),
            Some((left, _)) if left.0 + 1 < epoch.0 => Ok(self.evict(id).map_or(Arrival::Free, Arrival::Evicted)),
            Some((running, _)) => Err(Error::new(ErrorKind::Conflict, "the actor is here")
                .with("actor", id)
                .with("epoch", running)
                .with("wanted", epoch)),
        }
    }

    /// Lets an actor run that was warming, or frozen. Gives what waited, in order; again, nothing.
    ///
    /// # Errors
    /// `NoSuchActor` if it is neither in that phase nor runs here under this epoch.
    pub fn open(&mut self, id: ActorId, epoch: Epoch, from: Phase) -> Result<(&mut A, Vec<P>), Error> {
        let door = self.under(id, epoch)?;
        let parked = match door.state.phase() {
            Phase::Running => Vec::new(),
            present if present == from => core::mem::replace(&mut door.state, State::Open).into_parked(),
            _ => return Err(no_such_actor(id)),
        };
        Ok((&mut door.actor, parked.into_iter().map(|(_, parked)| parked).collect()))
    }

    /// Lets requests wait for an actor that runs. Again: no effect.
    ///
    /// # Errors
    /// `NoSuchActor` if it neither runs nor is frozen here under this epoch.
    pub fn freeze(&mut self, id: ActorId, epoch: Epoch) -> Result<&mut A, Error> {
        let door = self.under(id, epoch)?;
        match door.state.phase() {
            Phase::Running => door.state = State::Parking(Phase::Frozen, Vec::new()),
            Phase::Frozen => {}
            _ => return Err(no_such_actor(id)),
        }
        Ok(&mut door.actor)
    }

    /// An actor has left, for there: what waited goes after it or is told where. None if it is not here under this epoch or
    /// an earlier one.
    pub fn retire(&mut self, id: ActorId, epoch: Epoch, to: Place) -> Option<Gone<A, P>> {
        self.learn(id, to);
        let leaves = |door: &Door<A, P>| door.epoch <= epoch && door.state.phase() != Phase::Warming;
        self.doors.get(&id).filter(|door| leaves(door))?;
        self.take_away(id, |came| match came {
            Came::Here => Fate::Again,
            Came::Head(_) => Fate::Refused(no_such_actor(id)),
            Came::Link(_) => Fate::Refused(stale(id, to)),
        })
    }

    /// Forgets an actor that was to arrive. What waits for it is refused, and may be sent again.
    pub fn discard(&mut self, id: ActorId) -> Option<Gone<A, P>> {
        self.phase(id).filter(|(_, phase)| *phase == Phase::Warming)?;
        let error = || Error::new(ErrorKind::Draining, "the actor did not arrive; send this again").with("actor", id);
        self.take_away(id, |_| Fate::Refused(error()))
    }

    /// Takes an actor away that is out of date. What waits for it is refused, and may be sent again.
    pub fn evict(&mut self, id: ActorId) -> Option<Gone<A, P>> {
        let error = || Error::new(ErrorKind::Draining, "the actor begins anew; send this again").with("actor", id);
        self.take_away(id, |_| Fate::Refused(error()))
    }

    /// Takes no more requests for an actor. Gives what waited, which is refused.
    ///
    /// # Errors
    /// `NoSuchActor`.
    pub fn close(&mut self, id: ActorId) -> Result<(&mut A, Released<P>), Error> {
        let door = self.doors.get_mut(&id).ok_or_else(|| no_such_actor(id))?;
        let parked = core::mem::replace(&mut door.state, State::Closed).into_parked();
        let error = || Error::new(ErrorKind::Draining, "the actor is being stopped").with("actor", id);
        Ok((&mut door.actor, parked.into_iter().map(|(_, parked)| (parked, Fate::Refused(error()))).collect()))
    }

    fn take_away(&mut self, id: ActorId, fate: impl Fn(Came) -> Fate) -> Option<Gone<A, P>> {
        let Door { actor, state, .. } = self.doors.remove(&id)?;
        let parked = state.into_parked().into_iter().map(|(came, parked)| (parked, fate(came))).collect();
        Some(Gone { actor, parked })
    }

    fn under(&mut self, id: ActorId, epoch: Epoch) -> Result<&mut Door<A, P>, Error> {
        self.doors.get_mut(&id).filter(|door| door.epoch == epoch).ok_or_else(|| no_such_actor(id))
    }

    /// An actor that is in a phase under an epoch; one that should run may be frozen meanwhile.
    ///
    /// # Errors
    /// `NoSuchActor`.
    pub fn in_phase(&self, id: ActorId, epoch: Epoch, phase: Phase) -> Result<&A, Error> {
        let fits = |present| present == phase || (phase, present) == (Phase::Running, Phase::Frozen);
        let door = self.doors.get(&id).filter(|door| door.epoch == epoch && fits(door.state.phase()));
        door.map(|door| &door.actor).ok_or_else(|| no_such_actor(id))
    }

    /// An actor that is hosted here, in whatever phase.
    #[must_use]
    pub fn get(&self, id: ActorId) -> Option<&A> {
        self.doors.get(&id).map(|door| &door.actor)
    }

    /// The same, to be changed.
    pub fn get_mut(&mut self, id: ActorId) -> Option<&mut A> {
        self.doors.get_mut(&id).map(|door| &mut door.actor)
    }

    /// Under which epoch an actor is hosted here, and what it is doing.
    #[must_use]
    pub fn phase(&self, id: ActorId) -> Option<(Epoch, Phase)> {
        self.doors.get(&id).map(|door| (door.epoch, door.state.phase()))
    }

    /// The actors that are hosted here.
    pub fn iter(&self) -> impl Iterator<Item = (ActorId, Epoch, Phase, &A)> {
        self.doors.iter().map(|(id, door)| (*id, door.epoch, door.state.phase(), &door.actor))
    }

    /// What waits for an actor.
    pub fn parked(&self, id: ActorId) -> impl Iterator<Item = &P> {
        let waiting = match self.doors.get(&id).map(|door| &door.state) {
            Some(State::Parking(_, parked)) => parked.as_slice(),
            _ => &[],
        };
        waiting.iter().map(|(_, parked)| parked)
    }

    /// Takes over where an actor is, if that is news.
    pub fn learn(&mut self, id: ActorId, place: Place) {
        let known = self.directory.actors.entry(id).or_insert(place);
        if known.epoch < place.epoch {
            *known = place;
        }
    }

    /// The control group said `before`, and says `after`: takes over where drives, actors and tails of chains are now. What
    /// is known of a later epoch stays.
    pub fn follow(&mut self, before: &ControlView, after: &ControlView) {
        for (drive, _, now) in before.drives.diff(&after.drives) {
            // What was said by whoever had it before is out of date.
            self.directory.actors.remove(&ActorId::drive(*drive));
            match now {
                Some(info) => self.directory.drives.insert(*drive, Place { node: info.node, epoch: info.epoch }),
                None => self.directory.drives.remove(drive),
            };
        }
        for (actor, _, row) in before.assignments.diff(&after.assignments) {
            self.put(*actor, row.map(|row| Place { node: row.node, epoch: row.epoch }));
            self.put_tail(*actor, after);
        }
        for (actor, tail, now) in before.tails.diff(&after.tails) {
            // Cut elsewhere, it is another actor.
            let gone = tail.filter(|tail| now.is_none_or(|now| now.cut != tail.cut));
            if let Some(gone) = gone.and_then(|tail| tail_of(*actor, tail.cut)) {
                self.put(gone, None);
            }
            self.put_tail(*actor, after);
        }
    }

    /// The tail of a chain is where the group says, under the epoch of its head.
    fn put_tail(&mut self, chain: ActorId, view: &ControlView) {
        let Some(tail) = view.tails.get(&chain) else { return };
        let Some(actor) = tail_of(chain, tail.cut) else { return };
        let row = view.assignments.get(&chain);
        self.put(actor, row.map(|row| Place { node: tail.node, epoch: row.epoch }));
    }

    fn put(&mut self, actor: ActorId, place: Option<Place>) {
        match place {
            Some(place) if self.directory.actors.get(&actor).is_some_and(|known| known.epoch > place.epoch) => {}
            Some(place) => {
                self.directory.actors.insert(actor, place);
            }
            None => {
                self.directory.actors.remove(&actor);
            }
        }
    }

    /// Where actors are, as far as this node knows.
    #[must_use]
    pub const fn directory(&self) -> &Directory {
        &self.directory
    }
}

/// The chains that were taken from their owners, and where they are now: what their owners were asked ends. Who gives a
/// chain away in a move answers what it was asked itself. Of what came to pass between the two views nothing is known, and it
/// counts as a loss.
#[must_use]
pub fn taken_over(before: &ControlView, after: &ControlView) -> BTreeMap<ActorId, Place> {
    let changed = before.assignments.diff(&after.assignments);
    let taken = changed.filter_map(|(actor, row, now)| {
        let (row, now) = (row?, now?);
        let has_moved = row.move_under_way() == Some((now.since, now.node)) && now.epoch.0 == row.epoch.0 + 1;
        (now.epoch > row.epoch && !has_moved).then_some((*actor, Place { node: now.node, epoch: now.epoch }))
    });
    taken.collect()
}

/// Where a request goes on to, whose answer says that the actor it was sent to is elsewhere: only to a later epoch, so
/// that it never goes in a circle. The actor certainly did not take it.
#[must_use]
pub fn newer(asked: Place, outcome: &Outcome) -> Option<Place> {
    let error = outcome.as_ref().err().filter(|error| error.kind() == ErrorKind::StaleEpoch)?;
    let redirect = error.redirect()?;
    let place = Place { node: redirect.node?, epoch: redirect.epoch? };
    (place.epoch > asked.epoch).then_some(place)
}

/// What is said of an actor that runs somewhere else.
fn stale(id: ActorId, place: Place) -> Error {
    let place = Redirect { actor: Some(id), epoch: Some(place.epoch), node: Some(place.node), ..Redirect::default() };
    Error::new(ErrorKind::StaleEpoch, "the actor runs elsewhere, or under another epoch").redirect_to(place)
}

fn no_such_actor(id: ActorId) -> Error {
    Error::new(ErrorKind::NoSuchActor, "the actor is not hosted here").with("actor", id)
}

/// How often one request follows an actor that moves.
pub const HOPS_MAX: u32 = 4;

#[cfg(test)]
mod tests;
