//! Requests on their way to whoever leads: here, or forwarded once over a link, and again until the deadline.
//!
//! Every command may be sent twice, so an attempt of which nothing is known is simply made again.

use std::{sync::Arc, time::Duration};

use mesh_core::{
    Answer, Buf, Error, ErrorKind, Lane, Op,
    id::{GroupId, NodeId},
    meta::{Command, MetaAnswer, Query},
    port::{Completion, Metadata},
    time::Instant,
};
use tokio::sync::Semaphore;

use super::RaftMetadata;

/// Between attempts at first.
const PAUSE_MIN: Duration = Duration::from_millis(5);
/// Between attempts at most.
const PAUSE_MAX: Duration = Duration::from_millis(250);
/// Redirects that are followed without a pause.
const REDIRECTS_MAX: u32 = 2;
/// Requests under way at most.
pub(super) const REQUESTS_MAX: usize = 16_384;

/// What is asked of a group.
#[derive(Clone, Debug)]
pub(super) enum Ask {
    Query(Arc<Query>),
    Propose(Arc<Command>),
}

impl Ask {
    fn op(&self, group: GroupId) -> Op {
        match self {
            Self::Query(query) => Op::Query { group, query: Arc::clone(query) },
            Self::Propose(command) => Op::Propose { group, command: Arc::clone(command) },
        }
    }
}

impl Metadata for RaftMetadata {
    fn query(
        &self,
        group: GroupId,
        query: Arc<Query>,
        deadline: Instant,
        done: Completion<Result<Arc<MetaAnswer>, Error>>,
    ) {
        self.begin(group, Ask::Query(query), deadline, done);
    }

    fn propose(
        &self,
        group: GroupId,
        command: Arc<Command>,
        deadline: Instant,
        done: Completion<Result<Arc<MetaAnswer>, Error>>,
    ) {
        self.begin(group, Ask::Propose(command), deadline, done);
    }
}

impl RaftMetadata {
    fn begin(&self, group: GroupId, ask: Ask, deadline: Instant, done: Completion<Result<Arc<MetaAnswer>, Error>>) {
        let Ok(permit) = Semaphore::try_acquire_owned(Arc::clone(&self.permits)) else {
            done(Err(Error::new(ErrorKind::Overloaded, "too many metadata requests are under way; back off")));
            return;
        };
        let Some(metadata) = self.me.upgrade() else {
            done(Err(Error::new(ErrorKind::Draining, "this node's metadata is shutting down")));
            return;
        };
        self.runtime.spawn(async move {
            let outcome = metadata.ask(group, ask, deadline).await;
            drop(permit);
            done(outcome);
        });
    }

    /// Asks whoever leads, until there is an answer or the deadline passes.
    pub(super) async fn ask(&self, group: GroupId, ask: Ask, deadline: Instant) -> Result<Arc<MetaAnswer>, Error> {
        let mut pause = PAUSE_MIN;
        let mut redirects = 0;
        let mut attempts = 0;
        let mut hint: Option<NodeId> = None;
        let mut failed: Option<(NodeId, Error)> = None;
        loop {
            let left = deadline.after(self.clock.now());
            if left.is_zero() {
                return Err(late(group, failed.map(|(_, error)| error)));
            }
            let tried = failed.as_ref().map(|(node, _)| *node);
            let at = self.choose(group, hint.take(), tried, attempts);
            attempts += 1;
            // Raft says by itself when leadership is lost; a node may just be gone.
            let outcome = match at {
                Some(node) if node == self.node => self.answer_here(group, &ask, left).await,
                Some(node) => self.forward(node, group, &ask, left.min(2 * self.timing.election_max)).await,
                None => Err(Error::new(ErrorKind::Unreachable, "nobody is known who has this metadata group")),
            };
            let error = match outcome {
                Err(error) if may_go_better(error.kind()) => error,
                other => return other,
            };
            tracing::debug!(%group, ?at, %error, "a metadata request is sent again");
            hint = error.redirect().and_then(|redirect| redirect.node).filter(|node| Some(*node) != at);
            failed = at.map(|node| (node, error));
            if hint.is_some() && redirects < REDIRECTS_MAX {
                redirects += 1;
                continue;
            }
            redirects = 0;
            tokio::time::sleep(pause.min(left)).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Whom to ask: who was named, else who leads as far as is known here, else anybody in turn. Not the one that
    /// failed last, if there is another.
    fn choose(&self, group: GroupId, hint: Option<NodeId>, tried: Option<NodeId>, attempts: usize) -> Option<NodeId> {
        let replica = self.replica(group).ok();
        let known = hint.or_else(|| replica.as_ref()?.leader());
        // Every other time the best guess is taken even if it failed: it may have come back.
        if known.is_some() && (known != tried || attempts.is_multiple_of(2)) {
            return known;
        }
        let mut others = replica.map(|replica| replica.voters()).unwrap_or_default();
        others.extend(self.peers.iter().copied().filter(|peer| !others.contains(peer)).collect::<Vec<_>>());
        others.retain(|node| Some(*node) != tried);
        match others.len() {
            0 => known,
            count => others.get(attempts % count).copied(),
        }
    }

    /// Answers as the leader, or not at all.
    pub(super) async fn answer_here(
        &self,
        group: GroupId,
        ask: &Ask,
        budget: Duration,
    ) -> Result<Arc<MetaAnswer>, Error> {
        let replica = self.replica(group)?;
        match ask {
            Ask::Query(query) => replica.query(query, budget).await,
            Ask::Propose(command) => replica.propose(Arc::clone(command), budget).await,
        }
    }

    async fn forward(&self, to: NodeId, group: GroupId, ask: &Ask, budget: Duration) -> Result<Arc<MetaAnswer>, Error> {
        let response = self.router.send(to, ask.op(group), Buf::empty(), Lane::Interactive, budget).await?;
        match response.answer {
            Answer::Meta(answer) => Ok(answer),
            _ => Err(Error::bug("a node answered a metadata request with something else").with("node", to)),
        }
    }
}

/// Whether the same request may do better elsewhere or later.
const fn may_go_better(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::NotLeader
            | ErrorKind::Unreachable
            | ErrorKind::LinkLost
            | ErrorKind::Timeout
            | ErrorKind::Cancelled
            | ErrorKind::Draining
            | ErrorKind::Overloaded
            | ErrorKind::NoSuchActor
            | ErrorKind::Restarted
    )
}

fn late(group: GroupId, last: Option<Error>) -> Error {
    let error = Error::new(ErrorKind::Timeout, "no leader of the metadata group answered in time").with("group", group);
    match last {
        Some(last) => error.caused_by(last),
        None => error,
    }
}
