//! One group on this node: its Raft, its state, and what others ask of them.

use std::{
    collections::BTreeSet,
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use mesh_core::{
    Answer, Buf, Error, ErrorKind, Outcome, Redirect, Response,
    id::{GroupId, NodeId, ReplicaId},
    meta::{Command, Level, MetaAnswer, Query},
    op::Settled,
};
use openraft::{
    Instant as _, ReadPolicy,
    async_runtime::WatchReceiver,
    errors::{ClientWriteError, ForwardToLeader, LinearizableReadError, RaftError},
    raft::{AppendEntriesRequest, TransferLeaderRequest},
    storage::Snapshot,
};
use serde::Serialize;
use tokio::sync::{Semaphore, oneshot};

use super::{
    log::LogStore,
    machine::{GroupState, Machine, SnapshotData},
    network::Message,
    staging::{Arrival, Chunk},
    types::{Applied, LogId, Proposal, Types, beyond, decode, encode, raised_by},
};

/// Reads that wait for a barrier at most.
const READS_MAX: usize = 16_384;
/// Proposals that Raft has at once; others wait their turn. So a burst waits here, where waiting costs nothing, and
/// what Raft has is done soon.
const PROPOSALS_MAX: usize = 1024;
/// A member that lacks no more entries than this has caught up.
const LAG_MAX: u64 = 256;

pub(super) type Raft = openraft::Raft<Types, Machine>;

/// A replica of one group.
pub(super) struct Replica {
    pub(super) raft: Raft,
    pub(super) state: Arc<GroupState>,
    log: LogStore,
    /// How long a leader may take to confirm that it leads.
    patience: Duration,
    proposals: Arc<Semaphore>,
    barrier: Mutex<Barrier>,
    arrival: tokio::sync::Mutex<Option<Arrival>>,
}

/// Reads that share one confirmation of leadership. A read takes only one that begins after it came: so those that
/// come while one is under way wait for the next.
#[derive(Default)]
struct Barrier {
    running: bool,
    waiting: Vec<oneshot::Sender<Result<(), Error>>>,
}

impl Replica {
    pub(super) fn new(raft: Raft, state: Arc<GroupState>, log: LogStore, patience: Duration) -> Self {
        let proposals = Arc::new(Semaphore::new(PROPOSALS_MAX));
        Self {
            raft,
            state,
            log,
            patience,
            proposals,
            barrier: Mutex::default(),
            arrival: tokio::sync::Mutex::default(),
        }
    }

    /// Which replica this is.
    pub(super) fn id(&self) -> ReplicaId {
        ReplicaId(*self.raft.node_id())
    }

    /// Who leads the group, as far as is known here. A past life of this node's leads nothing.
    pub(super) fn leader(&self) -> Option<NodeId> {
        let metrics = self.raft.server_metrics();
        let leader = metrics.borrow_watched().current_leader.map(ReplicaId)?;
        (leader == self.id() || leader.node() != self.id().node()).then(|| leader.node())
    }

    /// Why it has stopped, if it has: then it neither votes nor serves until the node is started again.
    pub(super) fn trouble(&self) -> Option<Error> {
        let metrics = self.raft.metrics();
        let running = metrics.borrow_watched().running_state.clone();
        running.err().map(|fatal| {
            let what = "this replica has stopped; mend what is said of it (a medium that takes no writes, a build that is \
                        too old), and restart the node";
            Error::new(ErrorKind::DriveFailed, what).with("why", fatal)
        })
    }

    /// Up to where its log was purged: who needs an entry from there gets a snapshot.
    pub(super) fn purged_index(&self) -> Option<u64> {
        let metrics = self.raft.metrics();
        let purged = metrics.borrow_watched().purged;
        purged.map(|purged| purged.index)
    }

    /// Whether a majority has followed this leader within so long.
    pub(super) fn is_followed(&self, within: Duration) -> bool {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let alone = metrics.membership_config.voter_ids().count() < 2;
        alone || metrics.last_quorum_acked.is_none_or(|acked| acked.elapsed() < within)
    }

    /// As [`Self::is_followed`], of one that has been followed before.
    pub(super) fn was_followed(&self, within: Duration) -> bool {
        let metrics = self.raft.metrics();
        let alone = metrics.borrow_watched().membership_config.voter_ids().count() < 2;
        let is_new = metrics.borrow_watched().last_quorum_acked.is_none();
        (alone || !is_new) && self.is_followed(within)
    }

    /// The members that have what this leader has, or nearly; none unless it leads.
    pub(super) fn caught_up(&self) -> BTreeSet<ReplicaId> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let last = metrics.last_log_index.unwrap_or(0);
        let near = |matched: &Option<LogId>| matched.is_some_and(|matched| matched.index + LAG_MAX >= last);
        let replication = metrics.replication.iter().flatten();
        replication.filter(|(_, matched)| near(matched)).map(|(id, _)| ReplicaId(*id)).collect()
    }

    pub(super) fn term(&self) -> u64 {
        let metrics = self.raft.server_metrics();
        let vote = metrics.borrow_watched().vote;
        vote.leader_id.term
    }

    /// How far what a namespace group has stored is at home, if this replica leads and has applied all that was agreed on before
    /// that.
    pub(super) fn settled(&self) -> Settled {
        let metrics = self.raft.metrics();
        let applied = metrics.borrow_watched().last_applied;
        let knows = self.raft.is_leader() && applied.is_some_and(|applied| applied.leader_id.term == self.term());
        self.state.repair().filter(|_| knows).map_or(Settled::Unsaid, Settled::from)
    }

    /// Forgets the lease of a leader that is gone, or only that of a term, so that this replica votes. Reads never rest on
    /// leases.
    pub(super) async fn give_up_on(&self, peer: NodeId, term: Option<u64>) -> Result<(), Error> {
        let metrics = self.raft.server_metrics();
        let (leader, vote) = {
            let metrics = metrics.borrow_watched();
            (metrics.current_leader, metrics.vote)
        };
        let is_meant = |leader: &u64| ReplicaId(*leader).node() == peer && self.id().node() != peer;
        let is_of_term = term.is_none_or(|term| term == vote.leader_id.term);
        let Some(leader) = leader.filter(|leader| is_meant(leader) && is_of_term) else {
            return Ok(());
        };
        // What a leader says when it hands over, to a third: "wait for me no longer".
        let release = TransferLeaderRequest::new(vote, leader, None);
        self.raft.handle_transfer_leader(release).await.map(|_| ()).map_err(|error| stopped(&error))
    }

    /// The nodes whose replicas vote.
    pub(super) fn voters(&self) -> Vec<NodeId> {
        self.raft.voter_ids().map(|id| ReplicaId(id).node()).collect()
    }

    /// Those who vote, and those who follow.
    pub(super) fn members(&self) -> (BTreeSet<ReplicaId>, BTreeSet<ReplicaId>) {
        (self.raft.voter_ids().map(ReplicaId).collect(), self.raft.learner_ids().map(ReplicaId).collect())
    }

    /// Whether a replica is a member, or may be one: a change that is in this leader's log and not applied may come to nothing,
    /// and then what was before it counts.
    fn may_have(&self, member: ReplicaId) -> bool {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let membership = &metrics.membership_config;
        let applied = metrics.last_applied.map(|applied| applied.index);
        let is_certain = membership.log_id().is_none_or(|changed| applied >= Some(changed.index));
        !is_certain || membership.nodes().any(|(id, ())| *id == member.0)
    }

    /// Who votes: of each of these a majority has to agree.
    pub(super) fn voter_sets(&self) -> Vec<Vec<ReplicaId>> {
        let membership = self.raft.metrics().borrow_watched().membership_config.clone();
        let sets = membership.get_joint_config().iter();
        sets.map(|set| set.iter().copied().map(ReplicaId).collect()).collect()
    }

    /// Its log, also once it is closed.
    pub(super) fn log(&self) -> LogStore {
        self.log.clone()
    }

    /// Whether it never had anything: it has nothing that it could lose.
    pub(super) fn has_nothing(&self) -> bool {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        metrics.last_log_index.is_none() && metrics.last_applied.is_none()
    }

    /// The last entry of its log.
    pub(super) fn last_id(&self) -> io::Result<Option<LogId>> {
        self.log.last_id()
    }

    /// Who is to vote alone once a change of voters is finished that was cut short; none: there is no such change.
    pub(super) fn unfinished(&self) -> Option<BTreeSet<ReplicaId>> {
        let membership = self.raft.metrics().borrow_watched().membership_config.clone();
        let configs = membership.get_joint_config();
        let goal = configs.last().filter(|_| configs.len() > 1)?;
        Some(goal.iter().copied().map(ReplicaId).collect())
    }

    /// Proposes a command and waits until it is applied here.
    ///
    /// # Errors
    /// What the state machine refuses; `NotLeader`; `Overloaded` if its turn did not come; `LinkLost` if leadership
    /// went while it was under way; `Timeout`.
    pub(super) async fn propose(&self, command: Arc<Command>, budget: Duration) -> Result<Arc<MetaAnswer>, Error> {
        let until = tokio::time::Instant::now() + budget;
        if !self.raft.is_leader() {
            return Err(not_led_here(self.leader()));
        }
        let turn = Arc::clone(&self.proposals).acquire_owned();
        let Ok(Ok(turn)) = tokio::time::timeout_at(until, turn).await else {
            return Err(Error::new(ErrorKind::Overloaded, "too many proposals to this metadata group wait; back off"));
        };
        let raft = self.raft.clone();
        // It keeps its turn until Raft is done with it, also if the caller gives up.
        let written = tokio::spawn(async move {
            let written = raft.client_write(Proposal(command)).await;
            drop(turn);
            written
        });
        let written = tokio::time::timeout_at(until, written).await.map_err(|_| timeout())?;
        match written.map_err(|error| Error::bug("a proposal's task failed").with("why", error))? {
            Ok(written) => match written.data {
                Applied::Answer(answer) => Ok(answer),
                Applied::Refused(error) => Err(error),
                Applied::Nothing => Err(Error::bug("a command was applied and nothing said")),
            },
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward))) => Err(not_leader(&forward)),
            Err(RaftError::APIError(ClientWriteError::LogEntryDiscarded(_))) => {
                Err(Error::new(ErrorKind::LinkLost, "another leader took over while the command was under way"))
            }
            // It may have stopped with the command in its log.
            Err(error) => Err(Error::new(
                ErrorKind::LinkLost,
                "this replica of the metadata group stopped while the command was under way",
            )
            .with("why", error)),
        }
    }

    /// Answers a question, linearizable.
    ///
    /// # Errors
    /// What the query names; `NotLeader`; `Timeout`; `Overloaded`.
    pub(super) async fn query(self: &Arc<Self>, query: &Query, budget: Duration) -> Result<Arc<MetaAnswer>, Error> {
        let passed = self.confirm();
        tokio::time::timeout(budget, passed).await.map_err(|_| timeout())??;
        match query {
            Query::NoMember { replica } if self.may_have(*replica) => {
                Err(Error::new(ErrorKind::Conflict, "the replica is a member of the metadata group")
                    .with("replica", replica)
                    .with("group", self.state.group()))
            }
            Query::NoMember { .. } => Ok(Arc::new(MetaAnswer::Done)),
            query => self.state.query(query).map(Arc::new),
        }
    }

    /// Comes back once a majority has followed this leader that was asked from now on.
    ///
    /// # Errors
    /// `NotLeader`; `Timeout` without a majority; `Overloaded`; `Unreachable`.
    pub(super) async fn confirm(self: &Arc<Self>) -> Result<(), Error> {
        let shut = |_| Err(Error::new(ErrorKind::Unreachable, "this replica is shutting down"));
        self.pass_barrier()?.await.unwrap_or_else(shut)
    }

    fn pass_barrier(self: &Arc<Self>) -> Result<oneshot::Receiver<Result<(), Error>>, Error> {
        let (sender, receiver) = oneshot::channel();
        let mut barrier = self.barrier.lock().unwrap_or_else(PoisonError::into_inner);
        if barrier.waiting.len() >= READS_MAX {
            return Err(Error::new(ErrorKind::Overloaded, "too many reads of this metadata group wait; back off"));
        }
        barrier.waiting.push(sender);
        if !barrier.running {
            barrier.running = true;
            tokio::spawn(Arc::clone(self).run_barrier());
        }
        Ok(receiver)
    }

    /// Confirms leadership for all who wait, again and again, until nobody does.
    async fn run_barrier(self: Arc<Self>) {
        loop {
            let waiting = {
                let mut barrier = self.barrier.lock().unwrap_or_else(PoisonError::into_inner);
                barrier.running = !barrier.waiting.is_empty();
                core::mem::take(&mut barrier.waiting)
            };
            if waiting.is_empty() {
                return;
            }
            let confirmed = self.raft.ensure_linearizable(ReadPolicy::ReadIndex);
            let outcome = match tokio::time::timeout(self.patience, confirmed).await {
                Ok(Ok(_)) => Ok(()),
                Ok(Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward)))) => {
                    Err(not_leader(&forward))
                }
                Ok(Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_)))) => {
                    // Who leads may be another by now; who asks looks for it for a while.
                    Err(timeout())
                }
                Ok(Err(error)) => Err(stopped(&error)),
                Err(_) => Err(timeout()),
            };
            // Who asked may have given up.
            waiting.into_iter().for_each(|read| drop(read.send(outcome.clone())));
        }
    }

    /// Answers another replica's Raft message.
    ///
    /// # Errors
    /// `Invalid` for a message that cannot be read; `Unsupported` for one that this build, of a `level`, must not heed;
    /// `Unreachable` if this replica has stopped, or is not the one that is meant: who follows in an earlier one's place must
    /// never answer for it.
    pub(super) async fn receive(&self, message: Message, to: ReplicaId, payload: &[u8], level: Level) -> Outcome {
        if to != self.id() {
            return Err(Error::new(ErrorKind::Unreachable, "this replica of the metadata group is no more")
                .with("asked", to)
                .with("here", self.id()));
        }
        match message {
            Message::Append => {
                let request: AppendEntriesRequest<Types> = read(payload)?;
                // What stands behind may be of that level: kept here without what is not known, it would be another entry.
                match request.entries.iter().map(raised_by).max() {
                    Some(raised) if raised > level => Err(beyond(level, raised)),
                    _ => answer(self.raft.append_entries(request).await),
                }
            }
            Message::Vote => answer(self.raft.vote(read(payload)?).await),
            Message::PreVote => answer(self.raft.pre_vote(read(payload)?).await),
            Message::Transfer => answer(self.raft.handle_transfer_leader(read(payload)?).await),
            Message::Snapshot => self.receive_chunk(read(payload)?).await,
        }
    }

    async fn receive_chunk(&self, chunk: Chunk) -> Outcome {
        let (vote, meta) = (chunk.vote, chunk.meta.clone());
        let mut arrival = self.arrival.lock().await;
        let refused = |error: io::Error| {
            Error::new(ErrorKind::Conflict, "a chunk of a snapshot is refused; begin again").caused_by(error)
        };
        let arrived = Arrival::accept(&mut arrival, chunk, || self.state.stage()).map_err(refused)?;
        let Some(staged) = arrived else {
            return encoded(&None::<openraft::raft::SnapshotResponse<Types>>);
        };
        let snapshot = Snapshot { meta, snapshot: SnapshotData::Staged(staged) };
        // The lock is held until it is installed: no other transfer may begin in the same tree.
        match self.raft.install_full_snapshot(vote, snapshot).await {
            Ok(response) => encoded(&Some(response)),
            Err(error) => Err(stopped(&error)),
        }
    }
}

fn read<T: serde::de::DeserializeOwned>(payload: &[u8]) -> Result<T, Error> {
    decode(payload).map_err(|error| {
        let is_newer = error.kind() == io::ErrorKind::Unsupported;
        let kind = if is_newer { ErrorKind::Unsupported } else { ErrorKind::Invalid };
        Error::new(kind, "a Raft message cannot be read").caused_by(error)
    })
}

fn answer<T: Serialize, E: std::error::Error>(outcome: Result<T, E>) -> Outcome {
    match outcome {
        Ok(value) => encoded(&value),
        Err(error) => Err(stopped(&error)),
    }
}

fn encoded(value: &impl Serialize) -> Outcome {
    let bytes = encode(value).map_err(|error| Error::bug("a Raft answer cannot be encoded").caused_by(error))?;
    Ok(Response { answer: Answer::Done, payload: Buf::copy_of(&bytes) })
}

pub(super) fn no_such_group(group: GroupId) -> Error {
    Error::new(ErrorKind::Unreachable, "this node has no replica of this metadata group").with("group", group)
}

fn not_leader(forward: &ForwardToLeader<Types>) -> Error {
    not_led_here(forward.leader_id.map(|leader| ReplicaId(leader).node()))
}

fn not_led_here(leader: Option<NodeId>) -> Error {
    let error = Error::new(ErrorKind::NotLeader, "another replica leads this metadata group");
    match leader {
        Some(leader) => error.redirect_to(Redirect { node: Some(leader), ..Redirect::default() }),
        None => error,
    }
}

fn timeout() -> Error {
    Error::new(ErrorKind::Timeout, "no majority of the metadata group answered in time")
}

fn stopped(error: &impl std::error::Error) -> Error {
    Error::new(ErrorKind::Unreachable, "this replica of the metadata group has stopped").with("why", error)
}
