//! Starts actors, and builds a function anew when it has panicked.

use std::collections::HashMap;

use mesh_core::{Error, id::ActorId};
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
    Start { host: WeakHost, setup: Box<ActorSetup>, answer: oneshot::Sender<Result<(), Error>> },
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
        let SupervisorMessage::Start { host, setup, answer } = message;
        let id = setup.id;
        let started = match spawn(&myself, &host, &setup).await {
            Ok(address) => {
                children.insert(address.get_id(), (host.clone(), id));
                if let Some(host) = host.upgrade() {
                    let hosted =
                        Hosted { address, credits: Credits::default(), setup: *setup, restarts: 0, draining: false };
                    host.write(|table| table.insert(id, hosted));
                }
                Ok(())
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
                    restart(&myself, &host, id, &why.to_string(), children).await;
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
) -> Result<ActorRef<Message>, Error> {
    let function = (setup.build)(&setup.spec)?;
    let arguments = Arguments { host: host.clone(), setup: setup.clone(), function };
    let (address, _) = Actor::spawn_linked(None, Cell, arguments, myself.get_cell())
        .await
        .map_err(|error| Error::bug("the actor cannot be started").with("actor", setup.id).with("why", error))?;
    Ok(address)
}

/// A function that panics over and over is given up: a broken invariant does not mend itself, and a person must look.
async fn restart(
    myself: &ActorRef<SupervisorMessage>,
    host: &WeakHost,
    id: ActorId,
    why: &str,
    children: &mut Children,
) {
    let Some(alive) = host.upgrade() else { return };
    let Some((setup, restarts)) = alive.write(|table| {
        let hosted = table.get_mut(&id)?;
        hosted.restarts += 1;
        Some((hosted.setup.clone(), hosted.restarts))
    }) else {
        return;
    };
    tracing::error!(actor = %id, %why, restarts, "a function panicked; it is built again from its spec");
    let started = if restarts > RESTARTS_MAX {
        Err(Error::bug("the function has panicked too often; restart the node once the cause is known"))
    } else {
        spawn(myself, host, &setup).await
    };
    match started {
        Ok(address) => {
            children.insert(address.get_id(), (host.clone(), id));
            alive.write(|table| {
                if let Some(hosted) = table.get_mut(&id) {
                    hosted.address = address;
                }
            });
        }
        Err(error) => {
            tracing::error!(actor = %id, %error, "the actor is given up");
            alive.write(|table| table.remove(&id));
        }
    }
}

const RESTARTS_MAX: u32 = 100;
