//! Starts actors, and builds a function anew when it has panicked.

use core::time::Duration;
use std::{collections::HashMap, sync::Arc};

use mesh_core::{Error, ErrorKind, id::ActorId};
use ractor::{Actor, ActorId as CellId, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::sync::oneshot;

use super::{
    cell::{Arguments, Cell, Message},
    credits::Credits,
    host::{ActorSetup, Hosted, WeakHost},
};

/// The supervisor of one host's actors.
pub(super) struct Supervisor;

pub(super) enum SupervisorMessage {
    /// Start this actor.
    Start { host: WeakHost, setup: Box<ActorSetup>, warming: bool, answer: oneshot::Sender<Result<(), Error>> },
}

/// Who is who: ractor knows cells, the host knows actors. Never iterated.
pub(super) type Children = HashMap<CellId, (WeakHost, ActorId)>;

impl Actor for Supervisor {
    type Msg = SupervisorMessage;
    type State = Children;
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<SupervisorMessage>, (): ()) -> Result<Children, ActorProcessingErr> {
        Ok(Children::new())
    }

    async fn handle(
        &self,
        myself: ActorRef<SupervisorMessage>,
        message: SupervisorMessage,
        children: &mut Children,
    ) -> Result<(), ActorProcessingErr> {
        let SupervisorMessage::Start { host, setup, warming, answer } = message;
        let id = setup.id;
        let disk_jobs = Arc::new(());
        let started = match spawn(&myself, &host, &setup, &disk_jobs).await {
            Ok(address) => {
                let epoch = setup.epoch;
                let cell = address.get_id();
                let hosted = Hosted { address, credits: Credits::default(), setup: *setup, restarts: 0, disk_jobs };
                match host.upgrade().map(|alive| alive.write(|doors| doors.host(id, epoch, warming, hosted))) {
                    // Two starts of one actor may have been asked for at once: the first one counts.
                    Some(Err((error, second))) => {
                        second.address.stop(None);
                        Err(error)
                    }
                    Some(Ok(())) | None => {
                        children.insert(cell, (host.clone(), id));
                        Ok(())
                    }
                }
            }
            Err(error) => Err(error),
        };
        // Whoever asked may be gone; the actor runs all the same.
        drop(answer.send(started));
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<SupervisorMessage>,
        event: SupervisionEvent,
        children: &mut Children,
    ) -> Result<(), ActorProcessingErr> {
        match event {
            SupervisionEvent::ActorFailed(cell, why) => {
                if let Some((host, id)) = children.remove(&cell.get_id()) {
                    restart(&myself, &host, (id, cell.get_id()), &why.to_string(), children).await;
                }
            }
            SupervisionEvent::ActorTerminated(cell, ..) => {
                children.remove(&cell.get_id());
            }
            _ => {}
        }
        Ok(())
    }
}

async fn spawn(
    myself: &ActorRef<SupervisorMessage>,
    host: &WeakHost,
    setup: &ActorSetup,
    disk_jobs: &Arc<()>,
) -> Result<ActorRef<Message>, Error> {
    let function = (setup.build)(&setup.spec)?;
    let arguments = Arguments { host: host.clone(), setup: setup.clone(), function, disk_jobs: disk_jobs.clone() };
    let (address, _) = Actor::spawn_linked(None, Cell, arguments, myself.get_cell())
        .await
        .map_err(|error| Error::bug("the actor cannot be started").with("actor", setup.id).with("why", error))?;
    Ok(address)
}

/// A function that panics over and over is given up: a broken invariant does not mend itself, and a person must look.
async fn restart(
    myself: &ActorRef<SupervisorMessage>,
    host: &WeakHost,
    (id, cell): (ActorId, CellId),
    why: &str,
    children: &mut Children,
) {
    let Some(alive) = host.upgrade() else { return };
    let Some((setup, restarts, disk_jobs)) = alive.write(|doors| {
        // One that has left, and ends what it had, is not built again: another may stand in its place.
        let hosted = doors.get_mut(id).filter(|hosted| hosted.address.get_id() == cell)?;
        hosted.restarts += 1;
        Some((hosted.setup.clone(), hosted.restarts, hosted.disk_jobs.clone()))
    }) else {
        return;
    };
    tracing::error!(actor = %id, %why, restarts, "a function panicked; it is built again from its spec");
    let started = if restarts > RESTARTS_MAX {
        Err(Error::bug("the function has panicked too often; restart the node once the cause is known"))
    } else if !settled(&disk_jobs).await {
        Err(Error::new(ErrorKind::DriveFailed, "the disk does not end the jobs of the function that panicked"))
    } else {
        spawn(myself, host, &setup, &disk_jobs).await
    };
    match started {
        Ok(address) => {
            children.insert(address.get_id(), (host.clone(), id));
            // Stopped meanwhile, it must not live on outside the table.
            alive.write(|doors| match doors.get_mut(id) {
                Some(hosted) => hosted.address = address,
                None => address.stop(None),
            });
        }
        Err(error) => {
            tracing::error!(actor = %id, %error, "the actor is given up");
            drop(alive.write(|doors| doors.evict(id)));
        }
    }
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

const SETTLE_MAX: Duration = Duration::from_secs(30);
const SETTLE_PAUSE: Duration = Duration::from_millis(5);
const RESTARTS_MAX: u32 = 100;
