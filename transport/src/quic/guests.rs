//! Whose connections are open, and what is held for them. Limits are an identity's, not a connection's: a client with a
//! certificate takes from itself only, and nodes have room of their own.
//!
//! Room for an answer is taken before its request is served and held until the other end has all of it: one that does
//! not read waits for itself.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use mesh_core::{
    Error, ErrorKind, Op,
    limits::PAYLOAD_BYTES_MAX,
    op::{AdminOp, NodeOp, ObjectOp, ShardOp, StripeOp},
    port::Role,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// All that have a connection here.
#[derive(Debug)]
pub(super) struct Guests {
    present: Mutex<Present>,
    /// Room for answers to all nodes, and to all clients.
    nodes: Arc<Semaphore>,
    clients: Arc<Semaphore>,
}

#[derive(Debug, Default)]
struct Present {
    by_name: BTreeMap<String, Guest>,
    client_connections: usize,
}

#[derive(Debug)]
struct Guest {
    connections: usize,
    answers: Arc<Semaphore>,
}

impl Default for Guests {
    fn default() -> Self {
        Self {
            present: Mutex::default(),
            nodes: Arc::new(Semaphore::new(permits(NODES_BYTES_MAX))),
            clients: Arc::new(Semaphore::new(permits(CLIENTS_BYTES_MAX))),
        }
    }
}

impl Guests {
    /// One more connection of somebody.
    ///
    /// # Errors
    /// `Overloaded`: it has too many, or all clients together have.
    pub(super) fn enter(self: &Arc<Self>, role: &Role) -> Result<Stay, Error> {
        let (name, is_client) = (format!("{role:?}"), matches!(role, Role::Client(_)));
        let (connections_max, bytes_max, all) = if is_client {
            (CLIENT_CONNECTIONS_MAX, CLIENT_BYTES_MAX, &self.clients)
        } else {
            (NODE_CONNECTIONS_MAX, NODE_BYTES_MAX, &self.nodes)
        };
        let mut present = self.present();
        if is_client && present.client_connections >= CLIENTS_CONNECTIONS_MAX {
            return Err(Error::new(ErrorKind::Overloaded, "too many clients are connected to this node: ask another")
                .with("connections", present.client_connections));
        }
        let new = || Guest { connections: 0, answers: Arc::new(Semaphore::new(permits(bytes_max))) };
        let guest = present.by_name.entry(name.clone()).or_insert_with(new);
        if guest.connections >= connections_max {
            return Err(Error::new(ErrorKind::Overloaded, "too many connections of this identity: close some")
                .with("connections", guest.connections));
        }
        guest.connections += 1;
        let own = guest.answers.clone();
        present.client_connections += usize::from(is_client);
        Ok(Stay { guests: self.clone(), name, is_client, own, all: all.clone() })
    }

    fn present(&self) -> MutexGuard<'_, Present> {
        // No code that can panic runs under this lock; were it to, the counts are still whole.
        self.present.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One connection of a guest, until it is dropped.
#[derive(Debug)]
pub(super) struct Stay {
    guests: Arc<Guests>,
    name: String,
    is_client: bool,
    own: Arc<Semaphore>,
    all: Arc<Semaphore>,
}

impl Stay {
    /// Room for the largest answer that a request may have, once there is any.
    pub(super) async fn room(&self, op: &Op) -> Room {
        let permits = permits(answer_bytes_max(op)) as u32;
        if permits == 0 {
            return Room::none();
        }
        // Its own first: who has none does not stand in others' way. Never closed, so this fails never.
        let own = self.own.clone().acquire_many_owned(permits).await;
        let all = self.all.clone().acquire_many_owned(permits).await;
        Room(own.ok().zip(all.ok()))
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        let mut present = self.guests.present();
        present.client_connections -= usize::from(self.is_client);
        if let Some(guest) = present.by_name.get_mut(&self.name) {
            guest.connections -= 1;
            // Answers that are still under way hold its semaphore by themselves.
            if guest.connections == 0 {
                present.by_name.remove(&self.name);
            }
        }
    }
}

/// Room that an answer has, until it is dropped.
#[derive(Debug)]
pub(super) struct Room(Option<(OwnedSemaphorePermit, OwnedSemaphorePermit)>);

impl Room {
    /// For what needs none.
    pub(super) const fn none() -> Self {
        Self(None)
    }

    /// The answer is there: what it does not need goes back.
    pub(super) fn shrink(&mut self, bytes: usize) {
        if let Some((own, all)) = &mut self.0 {
            for permit in [own, all] {
                let surplus = permit.num_permits().saturating_sub(permits(bytes));
                drop(permit.split(surplus));
            }
        }
    }
}

/// What an answer may take: that of a read is not known before, so a whole payload.
const fn answer_bytes_max(op: &Op) -> usize {
    match op {
        Op::Shard(op) if matches!(**op, ShardOp::Read { .. }) => PAYLOAD_BYTES_MAX,
        Op::Stripe(op) if matches!(**op, StripeOp::Read { .. }) => PAYLOAD_BYTES_MAX,
        Op::Object(op) if matches!(**op, ObjectOp::Read { .. }) => PAYLOAD_BYTES_MAX,
        // Rows and names: a page of them at most, and mostly far less.
        Op::Shard(_) | Op::Object(_) | Op::Query { .. } => PAGE_BYTES,
        Op::Node(op) if matches!(**op, NodeOp::RelayQuery { .. } | NodeOp::StatusPage { .. }) => PAGE_BYTES,
        Op::Node(op) if matches!(&**op, NodeOp::Admin(op) if matches!(**op, AdminOp::Backup { .. })) => PAGE_BYTES,
        // Short words, which must never wait: heartbeats, Raft's answers, steps of a move.
        Op::Stripe(_) | Op::Propose(_) | Op::Node(_) => 0,
    }
}

/// Bytes as permits, of which a semaphore cannot have so many.
const fn permits(bytes: usize) -> usize {
    bytes.div_ceil(1024)
}

/// Connections of one node at most: four lanes, and those of starts that are over.
const NODE_CONNECTIONS_MAX: usize = 64;
/// Connections of one client's identity at most; many processes may share it.
const CLIENT_CONNECTIONS_MAX: usize = 512;
/// Connections of all clients at most. Nodes are not among them, so clients never take their room.
const CLIENTS_CONNECTIONS_MAX: usize = 3072;
/// Answers to one node at most.
pub(super) const NODE_BYTES_MAX: usize = 256 << 20;
/// Answers to all nodes at most.
const NODES_BYTES_MAX: usize = 512 << 20;
/// Answers to one client's identity at most.
const CLIENT_BYTES_MAX: usize = 64 << 20;
/// Answers to all clients at most.
const CLIENTS_BYTES_MAX: usize = 256 << 20;
/// A page of rows, as answers go.
const PAGE_BYTES: usize = 64 << 10;

const _: () = {
    assert!(CLIENT_CONNECTIONS_MAX <= CLIENTS_CONNECTIONS_MAX);
    assert!(PAYLOAD_BYTES_MAX <= CLIENT_BYTES_MAX && CLIENT_BYTES_MAX <= CLIENTS_BYTES_MAX);
    assert!(CLIENT_BYTES_MAX <= NODE_BYTES_MAX && NODE_BYTES_MAX <= NODES_BYTES_MAX);
};

#[cfg(test)]
mod tests {
    use mesh_core::{
        Principal,
        id::{NodeId, ShardId, StripeId, TenantId, WriteId},
    };

    use super::*;

    fn client(name: &str) -> Role {
        Role::Client(Principal::User { tenant: TenantId(1), name: name.into() })
    }

    #[test]
    fn an_identity_takes_its_own_connections_only() {
        let guests = Arc::new(Guests::default());
        let mut stays: Vec<_> = (0..CLIENT_CONNECTIONS_MAX).map(|_| guests.enter(&client("a")).unwrap()).collect();
        assert_eq!(guests.enter(&client("a")).unwrap_err().kind(), ErrorKind::Overloaded);
        stays.push(guests.enter(&client("b")).unwrap());
        stays.remove(0);
        stays.push(guests.enter(&client("a")).unwrap());
    }

    #[test]
    fn clients_leave_room_for_nodes() {
        let guests = Arc::new(Guests::default());
        let stays: Vec<_> =
            (0..CLIENTS_CONNECTIONS_MAX).map(|at| guests.enter(&client(&format!("{}", at / 8))).unwrap()).collect();
        assert_eq!(guests.enter(&client("late")).unwrap_err().kind(), ErrorKind::Overloaded);
        let _node = guests.enter(&Role::Node(NodeId(2))).unwrap();
        drop(stays);
        assert_eq!(guests.present().by_name.len(), 1, "nothing is kept of who has left");
        guests.enter(&client("late")).unwrap();
    }

    #[tokio::test]
    async fn who_takes_no_answers_waits_for_itself() {
        let guests = Arc::new(Guests::default());
        let stripe = StripeId { write: WriteId(1), stripe: 0, attempt: 0 };
        let read = Op::from(ShardOp::Read { id: ShardId { stripe, shard: 0 } });
        let slow = guests.enter(&client("slow")).unwrap();
        let mut held = Vec::new();
        while let Some(room) = futures_util::FutureExt::now_or_never(slow.room(&read)) {
            held.push(room);
        }
        assert_eq!(held.len(), CLIENT_BYTES_MAX / (permits(PAYLOAD_BYTES_MAX) * 1024));
        let again = guests.enter(&client("slow")).unwrap();
        assert!(futures_util::FutureExt::now_or_never(again.room(&read)).is_none(), "on any of its connections");
        let honest = guests.enter(&client("honest")).unwrap();
        assert!(futures_util::FutureExt::now_or_never(honest.room(&read)).is_some());
        let heartbeat = Op::Node(Box::new(NodeOp::Status));
        assert!(futures_util::FutureExt::now_or_never(slow.room(&heartbeat)).is_some(), "short words never wait");
        // An answer that is smaller than it might have been leaves the rest to others.
        for room in &mut held {
            room.shrink(4096);
        }
        assert!(futures_util::FutureExt::now_or_never(again.room(&read)).is_some());
    }
}
