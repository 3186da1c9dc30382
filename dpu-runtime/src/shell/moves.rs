//! What a host does for an actor that moves: it is built and fed here, or frozen, read and sent away.
//!
//! ```text
//! here it arrives:   warm ──restore*──► activate ──► running        (discard: forgotten)
//! from here it goes: running ──snapshot*──► freeze ──snapshot*──► retire ──► ends what it has      (thaw: running)
//! ```
//!
//! Who is let in meanwhile, who waits and who is told where to go is decided by `mesh_placement::doors`.

use core::time::Duration;
use std::sync::{Mutex, PoisonError};

use mesh_core::{
    Error, ErrorKind, Request,
    id::{ActorId, Epoch},
    op::Phase,
    snapshot::{Mark, Snapshot},
};
use mesh_placement::doors::{Arrival, Fate, Gone, Place, Released};
use tokio::sync::oneshot;

use super::{
    cell::{Message, Owed},
    host::{ActorSetup, Host, Hosted, no_such_actor},
};

/// A request that waits.
pub(super) struct Parked {
    request: Request,
    /// Never locked: it makes what may be sent also what may be shared.
    owed: Mutex<Owed>,
}

impl Parked {
    pub(super) const fn new(request: Request, owed: Owed) -> Self {
        Self { request, owed: Mutex::new(owed) }
    }

    pub(super) fn into_parts(self) -> (Request, Owed) {
        (self.request, self.owed.into_inner().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Host {
    /// Builds an actor that is to arrive here. Again under the same epoch: anew, from its spec.
    ///
    /// # Errors
    /// `Conflict` if it runs here under the epoch before this one, or a later one; what building the function says.
    pub async fn warm(&self, setup: ActorSetup) -> Result<(), Error> {
        let id = setup.id;
        match self.write(|doors| doors.expect(id, setup.epoch))? {
            Arrival::Free => {}
            Arrival::Discarded(gone) => self.let_go(id, gone, Duration::ZERO),
            Arrival::Evicted(gone) => self.let_go(id, gone, LEFTOVER_MAX),
        }
        self.launch(setup, true).await
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
    fn open(&self, id: ActorId, epoch: Epoch, from: Phase) -> Result<(), Error> {
        let (address, parked) = self.write(|doors| {
            let (hosted, parked) = doors.open(id, epoch, from)?;
            Ok::<_, Error>((hosted.address.clone(), parked))
        })?;
        for (request, owed) in parked.into_iter().map(Parked::into_parts) {
            if address.cast(Message::Request { request, owed }).is_err() {
                tracing::debug!(actor = %id, "requests waited for an actor that has just ended");
            }
        }
        Ok(())
    }

    /// Forgets an actor that was to arrive. What waits for it is refused, and may be sent again.
    pub fn discard(&self, id: ActorId) {
        if let Some(gone) = self.write(|doors| doors.discard(id)) {
            self.let_go(id, gone, Duration::ZERO);
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
        self.write(|doors| doors.freeze(id, epoch).map(|_| ()))?;
        self.tell(id, epoch, Phase::Frozen, Message::Settle).await
    }

    /// Sends an actor away: what waited goes to where it runs now, and what is under way here ends here, within
    /// `patience`. Gives back how many waited; without an actor here under the epoch, none.
    pub fn retire(&self, id: ActorId, epoch: Epoch, to: Place, patience: Duration) -> usize {
        let Some(gone) = self.write(|doors| doors.retire(id, epoch, to)) else { return 0 };
        let count = gone.parked.len();
        self.let_go(id, gone, patience);
        count
    }

    /// Takes an actor away that is out of date; what it has under way ends. What waits for it is refused, and may be sent
    /// again.
    pub fn evict(&self, id: ActorId) {
        if let Some(gone) = self.write(|doors| doors.evict(id)) {
            self.let_go(id, gone, LEFTOVER_MAX);
        }
    }

    /// Sees to what waited for an actor that is gone, and lets it end what it has, within `patience`.
    pub(super) fn let_go(&self, id: ActorId, gone: Gone<Hosted, Parked>, patience: Duration) {
        self.release(id, gone.parked);
        let address = gone.actor.address;
        if patience.is_zero() {
            // It never ran.
            return address.stop(None);
        }
        tokio::spawn(async move {
            let (answer, drained) = oneshot::channel();
            if address.cast(Message::Drain(answer)).is_ok() && tokio::time::timeout(patience, drained).await.is_err() {
                tracing::warn!(actor = %id, "an actor that is gone from here did not end what it had in time");
            }
            address.stop(None);
        });
    }

    /// What waited at a door goes after its actor, or is refused.
    pub(super) fn release(&self, id: ActorId, parked: Released<Parked>) {
        for (parked, fate) in parked {
            let (request, owed) = parked.into_parts();
            match fate {
                Fate::Refused(error) => owed.pay(Err(error)),
                Fate::Again => {
                    let owed = owed.wanted(request.deadline, self.ports().clock.now());
                    if let Some(done) = owed.and_then(Owed::release) {
                        self.ask(id, request, done).forget();
                    }
                }
            }
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
        let address = self.read(|doors| doors.in_phase(id, epoch, phase).map(|hosted| hosted.address.clone()))?;
        let (answer, told) = oneshot::channel();
        address.cast(message(answer)).map_err(|_| no_such_actor(id))?;
        told.await.map_err(|_| Error::new(ErrorKind::Restarted, "the function ended meanwhile").with("actor", id))
    }
}

const LEFTOVER_MAX: Duration = Duration::from_secs(30);
