//! What a host does for an actor that moves: it is built and fed here, or frozen, read and sent away.
//!
//! ```text
//! here it arrives:   warm ──restore*──► activate ──► running        (discard: forgotten)
//! from here it goes: running ──snapshot*──► freeze ──snapshot*──► retire ──► ends what it has      (thaw: running)
//! ```
//!
//! Requests for an actor that is warming or frozen wait at its gate. When it retires, those of this node are sent on to
//! where it runs now; those that came over a link are told where, and their senders send them again.

use core::time::Duration;
use std::sync::{Arc, Mutex, PoisonError};

use mesh_core::{
    Error, ErrorKind, Outcome, Redirect, Request,
    id::{ActorId, Epoch},
    limits::PARKED_JOBS_MAX,
    op::Phase,
    snapshot::{Mark, Snapshot},
};
use tokio::sync::oneshot;

use super::{
    cell::{Message, Owed},
    host::{ActorSetup, Host, Place, no_such_actor},
};

/// Whether an actor takes requests.
#[derive(Clone)]
pub(super) enum Gate {
    /// It does.
    Open,
    /// They wait.
    Parking(Phase, Arc<Mutex<Vec<Parked>>>),
    /// It is being stopped.
    Closed,
}

/// A request that waits.
pub(super) struct Parked {
    pub(super) request: Request,
    pub(super) owed: Owed,
    /// It came over a link.
    pub(super) afar: bool,
}

impl Gate {
    pub(super) fn parking(phase: Phase) -> Self {
        Self::Parking(phase, Arc::default())
    }

    pub(super) fn phase(&self) -> Phase {
        match self {
            Self::Open => Phase::Running,
            Self::Parking(phase, _) => *phase,
            Self::Closed => Phase::Draining,
        }
    }

    /// Lets a request wait.
    pub(super) fn park(waiting: &Mutex<Vec<Parked>>, parked: Parked) {
        let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() < PARKED_JOBS_MAX {
            waiting.push(parked);
        } else {
            drop(waiting);
            let full = Error::new(ErrorKind::Overloaded, "too many requests wait for an actor that moves");
            parked.owed.pay(Err(full));
        }
    }

    fn release(self) -> Vec<Parked> {
        match self {
            Self::Parking(_, waiting) => core::mem::take(&mut *waiting.lock().unwrap_or_else(PoisonError::into_inner)),
            Self::Open | Self::Closed => Vec::new(),
        }
    }
}

impl Host {
    /// Builds an actor that is to arrive here. Again under the same epoch: anew, from its spec.
    ///
    /// # Errors
    /// `Conflict` if it runs here under this epoch or a later one; what building the function says.
    pub async fn warm(&self, setup: ActorSetup) -> Result<(), Error> {
        let (id, epoch) = (setup.id, setup.epoch);
        let present = self.read(|table| table.get(&id).map(|hosted| (hosted.setup.epoch, hosted.gate.phase())));
        match present {
            Some((_, Phase::Warming)) => self.discard(id),
            // Left over from before it went where it comes from now.
            Some((left, _)) if left.0 + 1 < epoch.0 => self.evict(id),
            Some((running, _)) => {
                return Err(Error::new(ErrorKind::Conflict, "the actor is here")
                    .with("actor", id)
                    .with("epoch", running)
                    .with("wanted", epoch));
            }
            None => {}
        }
        self.launch(setup, Gate::parking(Phase::Warming)).await
    }

    /// Gives a warming actor a page of state.
    ///
    /// # Errors
    /// `NoSuchActor` if it is not warming here under this epoch; what the function says of the page.
    pub async fn restore(&self, id: ActorId, epoch: Epoch, page: Snapshot) -> Result<(), Error> {
        self.tell(id, epoch, Phase::Warming, |answer| Message::Restore { page: Box::new(page), answer }).await?
    }

    /// Lets an actor that has arrived run. Again: no effect.
    ///
    /// # Errors
    /// `NoSuchActor` if it neither warms nor runs here under this epoch.
    pub fn activate(&self, id: ActorId, epoch: Epoch) -> Result<(), Error> {
        self.open(id, epoch, Phase::Warming)
    }

    /// Lets an actor that did not leave go on. Again: no effect.
    ///
    /// # Errors
    /// `NoSuchActor` if it is neither frozen nor runs here under this epoch.
    pub fn thaw(&self, id: ActorId, epoch: Epoch) -> Result<(), Error> {
        self.open(id, epoch, Phase::Frozen)
    }

    /// Lets requests in that waited, and those that come.
    fn open(&self, id: ActorId, epoch: Epoch, phase: Phase) -> Result<(), Error> {
        let (gate, address) = self.write(|table| {
            let hosted = table.get_mut(&id).filter(|hosted| hosted.setup.epoch == epoch);
            let hosted = hosted.ok_or_else(|| no_such_actor(id))?;
            match hosted.gate.phase() {
                Phase::Running => return Ok((Gate::Open, hosted.address.clone())),
                present if present == phase => {}
                _ => return Err(no_such_actor(id)),
            }
            Ok((core::mem::replace(&mut hosted.gate, Gate::Open), hosted.address.clone()))
        })?;
        for Parked { request, owed, .. } in gate.release() {
            if address.cast(Message::Request { request, owed }).is_err() {
                tracing::debug!(actor = %id, "requests waited for an actor that has just ended");
            }
        }
        Ok(())
    }

    /// Forgets an actor that was to arrive. What waits for it is refused, and may be sent again.
    pub fn discard(&self, id: ActorId) {
        let hosted = self.write(|table| match table.get(&id) {
            Some(hosted) if hosted.gate.phase() == Phase::Warming => table.remove(&id),
            _ => None,
        });
        let Some(hosted) = hosted else { return };
        hosted.address.stop(None);
        for Parked { owed, .. } in hosted.gate.release() {
            owed.pay(Err(Error::new(ErrorKind::Draining, "the actor did not arrive; send this again")));
        }
    }

    /// A page of an actor's state.
    ///
    /// # Errors
    /// `NoSuchActor` if it is not here under this epoch, or ends meanwhile.
    pub async fn snapshot(&self, id: ActorId, epoch: Epoch, since: Option<Mark>) -> Result<Snapshot, Error> {
        self.tell(id, epoch, Phase::Running, |answer| Message::Snapshot { since, answer }).await
    }

    /// Lets requests for an actor wait, and comes back when nothing is under way in it that its state depends on.
    /// Again: no effect.
    ///
    /// # Errors
    /// `NoSuchActor` if it is not here under this epoch, or ends meanwhile.
    pub async fn freeze(&self, id: ActorId, epoch: Epoch) -> Result<(), Error> {
        self.write(|table| {
            let hosted = table.get_mut(&id).filter(|hosted| hosted.setup.epoch == epoch);
            match hosted.ok_or_else(|| no_such_actor(id))? {
                hosted if hosted.gate.phase() == Phase::Running => {
                    hosted.gate = Gate::parking(Phase::Frozen);
                    Ok(())
                }
                hosted if hosted.gate.phase() == Phase::Frozen => Ok(()),
                _ => Err(no_such_actor(id)),
            }
        })?;
        self.tell(id, epoch, Phase::Frozen, Message::Settle).await
    }

    /// Sends an actor away: what waited goes to where it runs now, and what is under way here ends here, within
    /// `patience`. Gives back how many waited; without an actor here under the epoch, none.
    pub fn retire(&self, id: ActorId, epoch: Epoch, to: Place, patience: Duration) -> usize {
        self.learn(id, to);
        let hosted = self.write(|table| match table.get(&id) {
            Some(hosted) if hosted.setup.epoch <= epoch && hosted.gate.phase() != Phase::Warming => table.remove(&id),
            _ => None,
        });
        let Some(hosted) = hosted else { return 0 };
        let parked = hosted.gate.release();
        let count = parked.len();
        for Parked { request, owed, afar } in parked {
            if afar {
                let place =
                    Redirect { actor: Some(id), epoch: Some(to.epoch), node: Some(to.node), ..Redirect::default() };
                owed.pay(Err(Error::new(ErrorKind::StaleEpoch, "the actor has moved").redirect_to(place)));
            } else if let Some(done) = owed.release() {
                self.ask(id, request, done).forget();
            }
        }
        linger(id, hosted.address, patience);
        count
    }

    /// Takes an actor away that is out of date; what it has under way ends. What waits for it is refused, and may be sent
    /// again.
    pub fn evict(&self, id: ActorId) {
        if let Some(hosted) = self.write(|table| table.remove(&id)) {
            for Parked { owed, .. } in hosted.gate.release() {
                owed.pay(Err(Error::new(ErrorKind::Draining, "the actor begins anew; send this again")));
            }
            linger(id, hosted.address, LEFTOVER_MAX);
        }
    }

    /// Tells an actor something in a phase (a running one may be frozen meanwhile) and waits for its answer.
    async fn tell<T>(
        &self,
        id: ActorId,
        epoch: Epoch,
        phase: Phase,
        message: impl FnOnce(oneshot::Sender<T>) -> Message,
    ) -> Result<T, Error> {
        let address = self.read(|table| {
            let hosted = table.get(&id).filter(|hosted| hosted.setup.epoch == epoch)?;
            let present = hosted.gate.phase();
            let fits = present == phase || (phase, present) == (Phase::Running, Phase::Frozen);
            fits.then(|| hosted.address.clone())
        });
        let address = address.ok_or_else(|| no_such_actor(id))?;
        let (answer, told) = oneshot::channel();
        address.cast(message(answer)).map_err(|_| no_such_actor(id))?;
        told.await.map_err(|_| Error::new(ErrorKind::Restarted, "the function ended meanwhile").with("actor", id))
    }
}

/// Lets an actor end what it has, outside the table.
fn linger(id: ActorId, address: ractor::ActorRef<Message>, patience: Duration) {
    tokio::spawn(async move {
        let (answer, drained) = oneshot::channel();
        if address.cast(Message::Drain(answer)).is_ok() && tokio::time::timeout(patience, drained).await.is_err() {
            tracing::warn!(actor = %id, "an actor that is gone from here did not end what it had in time");
        }
        address.stop(None);
    });
}

const LEFTOVER_MAX: Duration = Duration::from_secs(30);

/// The newer place in an answer that says that the actor is elsewhere.
pub(super) fn redirected(outcome: &Outcome) -> Option<Place> {
    let error = outcome.as_ref().err().filter(|error| error.kind() == ErrorKind::StaleEpoch)?;
    let redirect = error.redirect()?;
    Some(Place { node: redirect.node?, epoch: redirect.epoch? })
}
