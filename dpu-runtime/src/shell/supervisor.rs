//! What builds an actor's function, starts it, and builds it anew when it has panicked. Every actor has one of its own: a
//! function that panics where it is built, or does not end there, and a disk that does not end its jobs, hold up nobody else.

use core::time::Duration;
use std::sync::Arc;

use mesh_core::{Error, ErrorKind, StorageFunction, id::ActorId};
use ractor::{Actor, ActorId as CellId, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::sync::oneshot;

use super::{
    cell::{Arguments, Cell, Message},
    credits::Credits,
    host::{ActorSetup, Hosted, WeakHost},
};

/// The supervisor of one actor. It ends with it.
pub(super) struct Supervisor;

pub(super) enum SupervisorMessage {
    /// Start it. Told once, and first.
    Start { host: WeakHost, setup: Box<ActorSetup>, warming: bool, answer: oneshot::Sender<Result<(), Error>> },
}

/// Whom it looks after.
pub(super) struct Ward {
    host: WeakHost,
    id: ActorId,
    /// ractor knows cells, the host knows actors.
    cell: CellId,
    panics: Panics,
}

/// How often a function has panicked with no calm time between.
#[derive(Clone, Copy, Debug, Default)]
struct Panics {
    in_a_row: u32,
    last: Option<tokio::time::Instant>,
}

impl Panics {
    /// It has panicked. How long to wait before it is built again; `None`: it is given up. `for_ever`: it never is.
    fn again(&mut self, now: tokio::time::Instant, for_ever: bool) -> Option<Duration> {
        let is_calm = self.last.is_none_or(|last| now.duration_since(last) >= CALM);
        self.in_a_row = if is_calm { 1 } else { self.in_a_row.saturating_add(1) };
        self.last = Some(now);
        let pause = match self.in_a_row.checked_sub(PANICS_AT_ONCE) {
            None | Some(0) => Duration::ZERO,
            Some(times) => PAUSE.saturating_mul(1 << (times - 1).min(16)).min(PAUSE_MAX),
        };
        (for_ever || self.in_a_row <= PANICS_MAX).then_some(pause)
    }
}

impl Actor for Supervisor {
    type Msg = SupervisorMessage;
    type State = Option<Ward>;
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<SupervisorMessage>, (): ()) -> Result<Option<Ward>, ActorProcessingErr> {
        Ok(None)
    }

    async fn handle(
        &self,
        myself: ActorRef<SupervisorMessage>,
        message: SupervisorMessage,
        ward: &mut Option<Ward>,
    ) -> Result<(), ActorProcessingErr> {
        let SupervisorMessage::Start { host, setup, warming, answer } = message;
        let started = start(&myself, host, *setup, warming).await;
        // Whoever asked may be gone; the actor runs all the same.
        match started {
            Ok(started) => {
                *ward = Some(started);
                drop(answer.send(Ok(())));
            }
            Err(error) => {
                drop(answer.send(Err(error)));
                myself.stop(None);
            }
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<SupervisorMessage>,
        event: SupervisionEvent,
        ward: &mut Option<Ward>,
    ) -> Result<(), ActorProcessingErr> {
        let is_over = match (event, ward.as_mut()) {
            (SupervisionEvent::ActorFailed(cell, why), Some(ward)) if cell.get_id() == ward.cell => {
                if let Some(alive) = ward.host.upgrade() {
                    alive.counts().doorkeeping.panics.count();
                }
                !restart(&myself, ward, &why.to_string()).await
            }
            (SupervisionEvent::ActorTerminated(cell, ..), Some(ward)) => cell.get_id() == ward.cell,
            _ => false,
        };
        if is_over {
            myself.stop(None);
        }
        Ok(())
    }
}

async fn start(
    myself: &ActorRef<SupervisorMessage>,
    host: WeakHost,
    setup: ActorSetup,
    warming: bool,
) -> Result<Ward, Error> {
    let (id, epoch, disk_jobs) = (setup.id, setup.epoch, Arc::new(()));
    let address = spawn(myself, &host, &setup, &disk_jobs).await?;
    let cell = address.get_id();
    let Some(alive) = host.upgrade() else {
        address.stop(None);
        return Err(Error::new(ErrorKind::Draining, "the node is stopping"));
    };
    let counted = alive.counts().of_kind(setup.spec.name());
    let hosted = Hosted { address, credits: Credits::default(), setup, restarts: 0, disk_jobs, counted };
    match alive.take_in(id, epoch, warming, hosted) {
        // Two starts of one actor may have been asked for at once: the first one counts.
        Err((error, second)) => {
            second.address.stop(None);
            Err(error)
        }
        Ok(()) => Ok(Ward { host, id, cell, panics: Panics::default() }),
    }
}

async fn spawn(
    myself: &ActorRef<SupervisorMessage>,
    host: &WeakHost,
    setup: &ActorSetup,
    disk_jobs: &Arc<()>,
) -> Result<ActorRef<Message>, Error> {
    let function = build(host, setup).await?;
    let arguments = Arguments { host: host.clone(), setup: setup.clone(), function, disk_jobs: disk_jobs.clone() };
    let (address, _) = Actor::spawn_linked(None, Cell, arguments, myself.get_cell())
        .await
        .map_err(|error| Error::bug("the actor cannot be started").with("actor", setup.id).with("why", error))?;
    Ok(address)
}

/// Aside: it may be anybody's code, and never end. Then it is given up, and until it has ended the actor is not built again.
async fn build(host: &WeakHost, setup: &ActorSetup) -> Result<Box<dyn StorageFunction>, Error> {
    let Some(alive) = host.upgrade() else { return Err(Error::new(ErrorKind::Draining, "the node is stopping")) };
    let (site, build, spec) = (alive.site(setup.id)?, setup.build.clone(), setup.spec.clone());
    let workers = alive.ports().workers.clone();
    drop(alive);
    let built = workers.aside(move || {
        let built = build(&spec);
        drop(site);
        built
    });
    match tokio::time::timeout(BUILD_MAX, built).await {
        Ok(Ok(built)) => built,
        Ok(Err(error)) => {
            Err(Error::bug("a function panicked where it is built").with("actor", setup.id).caused_by(error))
        }
        Err(_) => {
            Err(Error::new(ErrorKind::Timeout, "a function takes more than a minute to be built, and is given up")
                .with("actor", setup.id))
        }
    }
}

/// Builds a function that has panicked again, from its spec. One that panics over and over is given up: whoever wants it here
/// sees that it is gone, and decides what then. Whether it runs again.
async fn restart(myself: &ActorRef<SupervisorMessage>, ward: &mut Ward, why: &str) -> bool {
    let id = ward.id;
    if lost_on_arrival(ward) {
        tracing::error!(actor = %id, %why, "a function panicked while it arrived; what it was given is lost, and the move fails");
        return false;
    }
    let Some((setup, restarts, disk_jobs)) = ward.host.upgrade().and_then(|alive| {
        alive.write(|doors| {
            // One that has left, and ends what it had, is not built again: another may stand in its place.
            let hosted = doors.get_mut(id).filter(|hosted| hosted.address.get_id() == ward.cell)?;
            hosted.restarts += 1;
            Some((hosted.setup.clone(), hosted.restarts, hosted.disk_jobs.clone()))
        })
    }) else {
        return false;
    };
    tracing::error!(actor = %id, %why, restarts, "a function panicked; it is built again from its spec");
    // A drive is served here or nowhere, and nobody else starts it.
    let for_ever = id.as_drive().is_some();
    let started = match ward.panics.again(tokio::time::Instant::now(), for_ever) {
        None => Err(Error::bug("the function panics over and over")),
        Some(pause) => {
            tokio::time::sleep(pause).await;
            if settled(&disk_jobs).await {
                spawn(myself, &ward.host, &setup, &disk_jobs).await
            } else {
                Err(Error::new(ErrorKind::DriveFailed, "the disk does not end the jobs of the function that panicked"))
            }
        }
    };
    let before = ward.cell;
    let Some(alive) = ward.host.upgrade() else { return false };
    match started {
        Ok(address) => {
            ward.cell = address.get_id();
            // Stopped meanwhile, it must not live on outside the table; nor take the place of another.
            alive.write(|doors| match doors.get_mut(id).filter(|hosted| hosted.address.get_id() == before) {
                Some(hosted) => hosted.address = address,
                None => address.stop(None),
            });
            true
        }
        Err(error) => {
            tracing::error!(actor = %id, %error, "the actor is given up");
            drop(alive.write(|doors| {
                let is_same = doors.get_mut(id).is_some_and(|hosted| hosted.address.get_id() == before);
                is_same.then(|| doors.evict(id))
            }));
            false
        }
    }
}

/// Whether it was to arrive here by a move. Then it is not built again: it would go on without the pages that it had been given.
fn lost_on_arrival(ward: &Ward) -> bool {
    let Some(alive) = ward.host.upgrade() else { return false };
    let gone = alive.write(|doors| {
        let is_same = doors.get_mut(ward.id).is_some_and(|hosted| hosted.address.get_id() == ward.cell);
        is_same.then(|| doors.discard(ward.id)).flatten()
    });
    gone.map(|gone| alive.let_go(ward.id, gone, Duration::ZERO)).is_some()
}

/// Waits until no disk job of the old function is under way: what it wrote late could hit what the new one has read.
async fn settled(disk_jobs: &Arc<()>) -> bool {
    let until = tokio::time::Instant::now() + SETTLE_MAX;
    // One is the table's, one is ours; the old function's own went with it.
    while Arc::strong_count(disk_jobs) > 2 {
        if tokio::time::Instant::now() > until {
            return false;
        }
        tokio::time::sleep(SETTLE_PAUSE).await;
    }
    true
}

/// A function is built within this.
const BUILD_MAX: Duration = Duration::from_secs(60);
const SETTLE_MAX: Duration = Duration::from_secs(30);
const SETTLE_PAUSE: Duration = Duration::from_millis(5);
/// Panics in a row after which a function is built again at once; after each further one it waits twice as long.
const PANICS_AT_ONCE: u32 = 3;
const PAUSE: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(8);
/// Panics in a row that are borne.
const PANICS_MAX: u32 = 7;
/// Two panics that lie further apart are not in a row.
const CALM: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panics_in_a_row_wait_longer_each_time_and_those_that_lie_apart_do_not() {
        let began = tokio::time::Instant::now();
        let mut panics = Panics::default();
        let mut pauses =
            |after: u64| panics.again(began + Duration::from_secs(after), false).map(|pause| pause.as_millis());
        let row: Vec<_> = (1..=8).map(&mut pauses).collect();
        assert_eq!(row, [Some(0), Some(0), Some(0), Some(50), Some(100), Some(200), Some(400), None]);
        assert_eq!(pauses(68), Some(0), "it was calm for a minute");
        let row: Vec<_> = (69..76).map(&mut pauses).collect();
        assert_eq!(row[5..], [Some(400), None]);
        // Each of them a minute after the one before, for ever.
        assert_eq!((3..103).map(|minute| pauses(minute * 60)).filter(Option::is_some).count(), 100);
        // Nobody else starts a drive.
        let mut drive = Panics::default();
        let row: Vec<_> = (1..=20).map(|after| drive.again(began + Duration::from_secs(after), true)).collect();
        assert_eq!(row.last(), Some(&Some(PAUSE_MAX)));
        assert!(row.iter().all(Option::is_some));
    }
}
