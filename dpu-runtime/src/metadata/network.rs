//! Raft's messages to other nodes, over the node's links.
//!
//! Every message is one request [`NodeOp::Raft`]; the numbers of the messages are part of the protocol. Its payload is
//!
//! ```text
//! to:8 (the replica that is meant)   speaks:2 (the sender's build)   needs:2 (what the mesh does, as the sender knows)
//! at:8 chance:8 (from which recovery the sender's state comes, if it went through any: then the highest bit of `speaks` is set)
//! the message: a Raft value, see super::types
//! ```
//!
//! with numbers in big-endian order; and the answer's payload is a Raft value. A build that is older than what the mesh does
//! would drop what it does not know of each entry, and neither says nor is told anything: see [`Head::expect_understood`]. Nor does
//! who is of an earlier recovery than whom it writes to: see [`Line`].

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use mesh_core::{
    Buf, Error, ErrorKind, Lane, Op, Outcome, Principal,
    envelope::Envelope,
    id::{ActorId, Epoch, GroupId, Incarnation, NodeId, ReplicaId},
    limits::{COMMAND_BYTES_MAX, PAYLOAD_BYTES_MAX},
    meta::{ControlView, Level},
    op::{NodeOp, Timeline},
    port::Outbound,
    time::UnixMillis,
};
use openraft::{
    OptionalSend,
    alias::SnapshotOf,
    errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable},
    network::{RPCOption, RaftNetworkFactory},
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest, TransferLeaderResponse,
        VoteRequest, VoteResponse,
    },
};
use openraft_multi::{GroupNetworkAdapter, GroupNetworkFactory, GroupRouter};
use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::{oneshot, watch};

use super::{
    line::Line,
    log::READ_BYTES_MAX,
    machine::SnapshotData,
    staging::Chunk,
    types::{Types, Vote, beyond, decode, encode_onto},
};

/// Rows of a snapshot in one message, about.
pub(super) const SNAPSHOT_CHUNK_BYTES: usize = 1 << 20;
/// How long one chunk of a snapshot may take.
const SNAPSHOT_CHUNK_BUDGET: Duration = Duration::from_secs(10);
/// How often it is sent, with a pause between: a link that breaks does not cost what has arrived.
const SNAPSHOT_CHUNK_TRIES: u32 = 5;
/// See [`SNAPSHOT_CHUNK_TRIES`].
const SNAPSHOT_CHUNK_PAUSE: Duration = Duration::from_secs(1);

const _: () = assert!(READ_BYTES_MAX + COMMAND_BYTES_MAX + 4096 <= PAYLOAD_BYTES_MAX);
const _: () = assert!(SNAPSHOT_CHUNK_BYTES + COMMAND_BYTES_MAX + 4096 <= PAYLOAD_BYTES_MAX);

/// The messages by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Message {
    Append = 1,
    Vote = 2,
    PreVote = 3,
    Snapshot = 4,
    Transfer = 5,
}

impl Message {
    pub(super) const fn from_number(number: u32) -> Option<Self> {
        Some(match number {
            1 => Self::Append,
            2 => Self::Vote,
            3 => Self::PreVote,
            4 => Self::Snapshot,
            5 => Self::Transfer,
            _ => return None,
        })
    }
}

/// The way from this node's replicas to the others'.
#[derive(Clone)]
pub(crate) struct Router {
    outbound: Arc<dyn Outbound>,
    /// Of this node.
    start: Incarnation,
    /// What its build can do.
    level: Level,
    /// What the mesh does.
    control: watch::Receiver<Arc<ControlView>>,
    /// How long one message may take.
    budget: Duration,
    transfers: Arc<AtomicU64>,
    /// Of the group.
    line: Arc<Line>,
}

impl Router {
    pub(super) fn new(
        outbound: Arc<dyn Outbound>,
        (start, level): (Incarnation, Level),
        control: watch::Receiver<Arc<ControlView>>,
        budget: Duration,
    ) -> Self {
        Self { outbound, start, level, control, budget, transfers: Arc::default(), line: Arc::default() }
    }

    pub(super) fn for_group(&self, group: GroupId, line: Arc<Line>) -> Factory {
        Factory(GroupNetworkFactory::new(Self { line, ..self.clone() }, group.0))
    }

    /// Sends a request and waits for its answer, at most `budget`. Giving up cancels it.
    pub(super) async fn send(&self, to: NodeId, op: Op, payload: Buf, lane: Lane, budget: Duration) -> Outcome {
        let (done, answered) = oneshot::channel();
        let envelope = Envelope::request(ActorId::NODE, Epoch(0), op, payload, Principal::System, lane, budget);
        // Who asked may have given up: then nobody wants the answer.
        let guard = self.outbound.send(to, envelope, Box::new(move |outcome| drop(done.send(outcome))));
        match tokio::time::timeout(budget, answered).await {
            Ok(Ok(outcome)) => {
                guard.forget();
                outcome
            }
            Ok(Err(_)) => Err(Error::new(ErrorKind::LinkLost, "the link dropped a request without an answer")),
            Err(_) => Err(Error::new(ErrorKind::Timeout, "a node did not answer in time").with("node", to)),
        }
    }

    async fn call<R: DeserializeOwned>(
        &self,
        to: u64,
        group: u64,
        message: Message,
        request: &impl Serialize,
        budget: Duration,
    ) -> Result<R, RPCError<Types>> {
        let Some(timeline) = self.line.speaks() else {
            let learns =
                io::Error::other("this replica is being told of a later recovery, and says nothing of its own");
            return Err(RPCError::Unreachable(Unreachable::new(&learns)));
        };
        let (needs, names_it) = (self.control.borrow().level, names_timelines(&self.control.borrow()));
        // An older build would take it for the message.
        let timeline = if names_it { timeline } else { Timeline::default() };
        let head = Head { to: ReplicaId(to), speaks: self.level, needs, timeline };
        let mut payload = head.bytes();
        encode_onto(&mut payload, request).map_err(failed)?;
        let op = NodeOp::Raft { group: GroupId(group), rpc: message as u32, start: self.start };
        let op = Op::Node(Box::new(op));
        let lane = if message == Message::Snapshot { Lane::Bulk } else { Lane::Control };
        match self.send(ReplicaId(to).node(), op, Buf::copy_of(&payload), lane, budget).await {
            Ok(response) => decode(&response.payload).map_err(failed),
            // It was never sent: Raft waits a while before it tries again.
            Err(error) if error.kind() == ErrorKind::Unreachable => {
                Err(RPCError::Unreachable(Unreachable::new(&error)))
            }
            Err(error) => Err(RPCError::Network(NetworkError::new(&error))),
        }
    }
}

/// What stands before a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// The replica that is meant.
    pub(super) to: ReplicaId,
    /// What the sender's build can do.
    speaks: Level,
    /// What the mesh does, as the sender knows.
    needs: Level,
    /// From which recovery the sender's state comes.
    pub(super) timeline: Timeline,
}

/// Whether all builds of the mesh say of which timeline they are: nobody is known to run an older one.
pub(super) fn names_timelines(control: &ControlView) -> bool {
    control.cluster.is_none() || control.level >= Level::LOSSES
}

/// In [`Head::speaks`].
const HAS_TIMELINE: u16 = 1 << 15;

impl Head {
    fn bytes(self) -> Vec<u8> {
        let has_timeline = if self.timeline.is_first() { 0 } else { HAS_TIMELINE };
        let (speaks, needs) = ((self.speaks.0 | has_timeline).to_be_bytes(), self.needs.0.to_be_bytes());
        let mut bytes = [&self.to.0.to_be_bytes()[..], &speaks, &needs].concat();
        if has_timeline > 0 {
            bytes.extend([self.timeline.at.0, self.timeline.chance].iter().flat_map(|number| number.to_be_bytes()));
        }
        bytes
    }

    /// A payload's head, and the message behind it.
    pub(super) fn of(payload: &[u8]) -> Result<(Self, &[u8]), Error> {
        let short = || Error::invalid("a Raft message that ends in its head");
        let (to, rest) = payload.split_first_chunk::<8>().ok_or_else(short)?;
        let (speaks, rest) = rest.split_first_chunk::<2>().ok_or_else(short)?;
        let (needs, mut message) = rest.split_first_chunk::<2>().ok_or_else(short)?;
        let (speaks, needs) = (u16::from_be_bytes(*speaks), Level(u16::from_be_bytes(*needs)));
        let mut timeline = Timeline::default();
        if speaks & HAS_TIMELINE > 0 {
            let (at, rest) = message.split_first_chunk::<8>().ok_or_else(short)?;
            let (chance, rest) = rest.split_first_chunk::<8>().ok_or_else(short)?;
            timeline = Timeline { at: UnixMillis(u64::from_be_bytes(*at)), chance: u64::from_be_bytes(*chance) };
            message = rest;
        }
        let (to, speaks) = (ReplicaId(u64::from_be_bytes(*to)), Level(speaks & !HAS_TIMELINE));
        Ok((Self { to, speaks, needs, timeline }, message))
    }

    /// Whether both ends understand all that the mesh does. `level`: what this build can do; `mesh`: what the mesh does.
    ///
    /// # Errors
    /// `Unsupported`, at the newer end and at the older one.
    pub(super) fn expect_understood(self, level: Level, mesh: Level) -> Result<(), Error> {
        let needed = mesh.max(self.needs);
        if level < needed {
            return Err(beyond(level, needed));
        }
        if self.speaks < mesh {
            let what = "this node's build is older than what the mesh does by now: run a newer one on it";
            return Err(Error::new(ErrorKind::Unsupported, what).with("level", self.speaks).with("needed", mesh));
        }
        Ok(())
    }
}

fn failed(error: io::Error) -> RPCError<Types> {
    RPCError::Network(NetworkError::new(&error))
}

fn streaming(error: RPCError<Types>) -> StreamingError<Types> {
    match error {
        RPCError::Unreachable(error) => StreamingError::Unreachable(error),
        RPCError::Network(error) => StreamingError::Network(error),
        other => StreamingError::Network(NetworkError::new(&other)),
    }
}

impl GroupRouter<Types, u64> for Router {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &self,
        target: u64,
        group: u64,
        request: AppendEntriesRequest<Types>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        // The log gives no more entries at once than fit into one message.
        self.call(target, group, Message::Append, &request, self.budget).await
    }

    async fn vote(
        &self,
        target: u64,
        group: u64,
        request: VoteRequest<Types>,
        _option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.call(target, group, Message::Vote, &request, self.budget).await
    }

    async fn pre_vote(
        &self,
        target: u64,
        group: u64,
        request: VoteRequest<Types>,
        _option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.call(target, group, Message::PreVote, &request, self.budget).await
    }

    async fn full_snapshot(
        &self,
        target: u64,
        group: u64,
        vote: Vote,
        snapshot: SnapshotOf<Types, SnapshotData>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let send = self.send_snapshot(target, group, vote, snapshot);
        tokio::select! {
            biased;
            closed = cancel => Err(StreamingError::Closed(closed)),
            sent = send => sent,
        }
    }

    async fn transfer_leader(
        &self,
        target: u64,
        group: u64,
        request: TransferLeaderRequest<Types>,
        _option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RPCError<Types>> {
        self.call(target, group, Message::Transfer, &request, self.budget).await
    }
}

impl Router {
    async fn send_snapshot(
        &self,
        target: u64,
        group: u64,
        vote: Vote,
        snapshot: SnapshotOf<Types, SnapshotData>,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let SnapshotData::Image(image) = snapshot.snapshot else {
            return Err(streaming(failed(io::Error::other("a snapshot that arrived here is not sent on"))));
        };
        let transfer = self.transfers.fetch_add(1, Ordering::Relaxed);
        let read = || image.next_rows(SNAPSHOT_CHUNK_BYTES).map_err(|error| streaming(failed(error)));
        let mut rows = read()?;
        for number in 0.. {
            let next = if rows.is_empty() { Vec::new() } else { read()? };
            let end = next.is_empty().then(|| image.digest());
            let chunk = Chunk { vote, transfer, number, meta: snapshot.meta.clone(), rows, end };
            let answer = self.send_chunk(target, group, &chunk).await.map_err(streaming)?;
            if let Some(response) = answer {
                return Ok(response);
            }
            rows = next;
        }
        Err(streaming(failed(io::Error::other("a snapshot has too many chunks"))))
    }

    /// Sends a chunk until it is answered. The last one only once: what it began may be done.
    async fn send_chunk(
        &self,
        target: u64,
        group: u64,
        chunk: &Chunk,
    ) -> Result<Option<SnapshotResponse<Types>>, RPCError<Types>> {
        for _ in 1..SNAPSHOT_CHUNK_TRIES {
            let sent = self.call(target, group, Message::Snapshot, chunk, SNAPSHOT_CHUNK_BUDGET).await;
            if chunk.end.is_some() || sent.is_ok() {
                return sent;
            }
            tokio::time::sleep(SNAPSHOT_CHUNK_PAUSE).await;
        }
        self.call(target, group, Message::Snapshot, chunk, SNAPSHOT_CHUNK_BUDGET).await
    }
}

/// Makes the clients of one group; they all share the node's links.
#[derive(Clone)]
pub(crate) struct Factory(GroupNetworkFactory<Router, u64>);

impl RaftNetworkFactory<Types> for Factory {
    type Network = GroupNetworkAdapter<Types, u64, Router>;

    async fn new_client(&mut self, target: u64, _node: &()) -> Self::Network {
        GroupNetworkAdapter::new(self.0.factory.clone(), target, self.0.group_id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(at: u64, chance: u64) -> Head {
        let timeline = Timeline { at: UnixMillis(at), chance };
        Head { to: ReplicaId(7), speaks: Level(10), needs: Level(9), timeline }
    }

    #[test]
    fn a_head_names_a_recovery_only_where_there_was_one() {
        for (head, len) in [(head(0, 0), 12), (head(0, 3), 28), (head(u64::MAX, 0), 28)] {
            let bytes = [&head.bytes()[..], b"message"].concat();
            assert_eq!(bytes.len(), len + 7);
            assert_eq!(Head::of(&bytes), Ok((head, &b"message"[..])));
            for short in 0..len {
                assert_eq!(Head::of(&bytes[..short]).map_err(|error| error.kind()), Err(ErrorKind::Invalid));
            }
        }
    }
}
