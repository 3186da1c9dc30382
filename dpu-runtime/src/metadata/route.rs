//! Requests on their way to whoever leads: here, or forwarded once over a link, and again until the deadline.
//!
//! ```text
//!   this node ──────────── leads? ──► leader          a cut between the two, or silence for a second:
//!       └──► a third node ─ relays ──────┘            one hop more, and no further
//! ```
//!
//! Every command may be sent twice, so an attempt of which nothing is known is simply made again, and a second one may
//! go out before the first has ended.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, atomic::Ordering},
    time::Duration,
};

use mesh_core::{
    Answer, Buf, Error, ErrorKind, Lane, Op,
    id::{GroupId, NodeId},
    meta::{Command, MetaAnswer, Query},
    op::NodeOp,
    port::{Completion, Metadata},
    time::Instant,
    topology::NodeKind,
};
use tokio::sync::Semaphore;

use super::{RaftMetadata, lock, mark::GROUPS_MAX};

/// A leader that says nothing for so long may be cut off from here only: a third node is asked to ask it.
const SILENCE: Duration = Duration::from_secs(1);
/// A leader that does not answer for so long is told of: whoever waits may do something better.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between attempts at first.
const PAUSE_MIN: Duration = Duration::from_millis(5);
/// Between attempts at most.
const PAUSE_MAX: Duration = Duration::from_millis(250);
/// Who stops waits no longer for somebody to answer: an election that has begun ends within this.
const CLOSING_PATIENCE: Duration = Duration::from_secs(2);
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
            Self::Propose(command) => Op::Propose(Arc::clone(command)),
        }
    }

    /// The same, to be asked of the leader by a third node.
    fn relayed(&self, group: GroupId) -> Op {
        Op::Node(Box::new(match self {
            Self::Query(query) => NodeOp::RelayQuery { group, query: Arc::clone(query) },
            Self::Propose(command) => NodeOp::RelayPropose(Arc::clone(command)),
        }))
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

    fn propose(&self, command: Arc<Command>, deadline: Instant, done: Completion<Result<Arc<MetaAnswer>, Error>>) {
        // Before it is in anybody's log: a replica of an older build could not read it there.
        if let Err(error) = self.control().can(command.level()) {
            return done(Err(error));
        }
        self.begin(command.group(), Ask::Propose(command), deadline, done);
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
            let (is_query, since) = (ask.is_query(), metadata.clock.now());
            let outcome = metadata.ask(group, ask, deadline).await;
            let times = (since, metadata.clock.now());
            metadata.figures.ended(group, is_query, outcome.as_ref().err(), times);
            drop(permit);
            done(outcome);
        });
    }

    /// Asks whoever leads, until there is an answer or the deadline passes; or until whoever leads has been silent for
    /// [`PATIENCE`], directly and by way of another, or cannot reach a majority; or, on a node that stops, for
    /// [`CLOSING_PATIENCE`] since it first failed.
    pub(super) async fn ask(&self, group: GroupId, ask: Ask, deadline: Instant) -> Result<Arc<MetaAnswer>, Error> {
        let silent_at = deadline.min(self.clock.now() + PATIENCE);
        let mut pause = PAUSE_MIN;
        let mut redirects = 0;
        let mut attempts = 0;
        let mut turns = Turns::default();
        let mut hint: Option<NodeId> = None;
        let mut failed: Option<(NodeId, Error)> = None;
        let mut failed_at: Option<Instant> = None;
        loop {
            let now = self.clock.now();
            let left = deadline.after(now);
            let is_silent =
                now >= silent_at && failed.as_ref().is_some_and(|(_, error)| error.kind() == ErrorKind::Timeout);
            if left.is_zero() || is_silent {
                return Err(late(group, failed.map(|(_, error)| error)));
            }
            let tried = failed.as_ref().map(|(node, _)| *node);
            let at = self.choose(group, hint.take(), tried, attempts, &mut turns);
            attempts += 1;
            // Raft says by itself when leadership is lost; a node may just be gone.
            let (outcome, way) = match at {
                Some(node) if node == self.node => {
                    (self.answer_here(group, &ask, left.min(PATIENCE)).await, Way::Direct)
                }
                Some(node) => self.reach(node, group, &ask, left.min(PATIENCE), &mut turns).await,
                None => {
                    let unknown = Error::new(ErrorKind::Unreachable, "nobody is known who has this metadata group");
                    (Err(unknown), Way::Direct)
                }
            };
            self.note(group, at, &outcome, way);
            let error = match outcome {
                Err(error) if may_go_better(error.kind()) => error,
                other => return other,
            };
            let since = *failed_at.get_or_insert_with(|| self.clock.now());
            if self.closing.load(Ordering::Acquire) && self.clock.now().since(since) >= CLOSING_PATIENCE {
                return Err(late(group, Some(error)));
            }
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

    /// Who leads a group, as far as is known here: by this node's replica of it, or else by who has answered last.
    fn leader(&self, group: GroupId) -> Option<NodeId> {
        match self.replica(group) {
            Ok(replica) => replica.leader(),
            Err(_) => self.led.by(group),
        }
    }

    /// Whom to ask: who was named, else who leads as far as is known here, else anybody in turn. Not the one that
    /// failed last, if there is another.
    fn choose(
        &self,
        group: GroupId,
        hint: Option<NodeId>,
        tried: Option<NodeId>,
        attempts: usize,
        turns: &mut Turns,
    ) -> Option<NodeId> {
        let known = hint.or_else(|| self.leader(group));
        // Every other time the best guess is taken even if it failed: it may have come back.
        if known.is_some() && (known != tried || attempts.is_multiple_of(2)) {
            return known;
        }
        in_turn(&self.others(group, |node| Some(node) != tried), &mut turns.elsewhere).or(known)
    }

    /// The voters of a group, then the hosts that are to have a replica of it, then all others, then who is known by
    /// configuration alone, of these: that may name none but who has left since. Nobody who has.
    fn others(&self, group: GroupId, which: impl Fn(NodeId) -> bool) -> Vec<NodeId> {
        let control = self.control();
        let voters = self.replica(group).map(|replica| replica.voters()).unwrap_or_default();
        let replicas = self.replicas.of(&control);
        let wanted = replicas.iter().filter_map(|replicas| replicas.hosts(group)).flatten().copied();
        let hosts = control.nodes.values().filter(|info| info.kind == NodeKind::Host).map(|info| info.id);
        let mut seen = BTreeSet::new();
        let all = voters.into_iter().chain(wanted).chain(hosts).chain(self.peers.iter().copied());
        all.filter(|node| which(*node) && !control.is_out(*node) && seen.insert(*node)).collect()
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

    /// What an answer says of whom to ask first, of a group that this node has no replica of.
    fn note(&self, group: GroupId, at: Option<NodeId>, outcome: &Result<Arc<MetaAnswer>, Error>, way: Way) {
        let Some(node) = at.filter(|_| self.replica(group).is_err()) else { return };
        match (outcome.as_ref().map_err(Error::kind), way) {
            // Only a leader knows that something is not there.
            (Ok(_) | Err(ErrorKind::NotFound), Way::Direct) => self.led.learn(group, node),
            // Who was asked may be gone. Who asked in this node's name knows who leads.
            (Ok(_) | Err(ErrorKind::NotFound), Way::Relayed(third)) => self.led.learn(group, third),
            // Others refuse things, too, and whoever leads has much to do.
            (Err(ErrorKind::Overloaded), _) => {}
            (Err(kind), _) if may_go_better(kind) => self.led.forget(group, node),
            (Err(_), _) => {}
        }
    }

    /// Asks a node, and if it cannot be reached or is silent, by way of a third one. Gives what came first of what is of
    /// use, and how it came.
    async fn reach(
        &self,
        to: NodeId,
        group: GroupId,
        ask: &Ask,
        budget: Duration,
        turns: &mut Turns,
    ) -> (Result<Arc<MetaAnswer>, Error>, Way) {
        let mut direct = core::pin::pin!(self.forward(to, ask.op(group), budget));
        let early = tokio::time::timeout(SILENCE, &mut direct).await;
        let cut = match early {
            Ok(Err(error)) if is_cut(error.kind()) => Some(error),
            Ok(answered) => return (answered, Way::Direct),
            Err(_) => None,
        };
        // Another member each time: some of them may be cut off from the leader, too.
        let members = self.others(group, |node| node != to && node != self.node);
        let Some(third) = in_turn(&members, &mut turns.thirds) else {
            let late = match cut {
                Some(error) => Err(error),
                None => direct.await,
            };
            return (late, Way::Direct);
        };
        tracing::debug!(%group, leader = %to, %third, "a leader is asked by way of another node");
        let rest = if cut.is_some() { budget } else { budget.saturating_sub(SILENCE) };
        let mut relayed = core::pin::pin!(self.forward(third, ask.relayed(group), rest));
        // What the group refuses it refuses by whatever way; and where the third node knows better who leads, it says so.
        let of_use = |later: Error, cut: Error| {
            if may_go_better(later.kind()) && later.redirect().is_none() { cut } else { later }
        };
        if let Some(error) = cut {
            return (relayed.await.map_err(|later| of_use(later, error)), Way::Relayed(third));
        }
        tokio::select! {
            answered = &mut direct => match answered {
                Err(error) if is_cut(error.kind()) => {
                    (relayed.await.map_err(|later| of_use(later, error)), Way::Relayed(third))
                }
                answered => (answered, Way::Direct),
            },
            answered = &mut relayed => match answered {
                Err(error) if may_go_better(error.kind()) => (direct.await, Way::Direct),
                answered => (answered, Way::Relayed(third)),
            },
        }
    }

    /// Asks the leader in the name of a node that is cut off from it. What is sent from here is never relayed again.
    pub(super) async fn pass_on(&self, group: GroupId, ask: &Ask, budget: Duration) -> Result<Arc<MetaAnswer>, Error> {
        match self.leader(group) {
            Some(leader) if leader == self.node => self.answer_here(group, ask, budget).await,
            Some(leader) => self.forward(leader, ask.op(group), budget).await,
            None => Err(Error::new(ErrorKind::NotLeader, "nobody is known here who leads this metadata group")),
        }
    }

    async fn forward(&self, to: NodeId, op: Op, budget: Duration) -> Result<Arc<MetaAnswer>, Error> {
        let response = self.router.send(to, op, Buf::empty(), Lane::Interactive, budget).await?;
        match response.answer {
            Answer::Meta(answer) => Ok(answer),
            _ => Err(Error::bug("a node answered a metadata request with something else").with("node", to)),
        }
    }
}

/// How an answer came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// From who was asked.
    Direct,
    /// By way of this one: who was asked may lead, or not.
    Relayed(NodeId),
}

/// Who has answered last for each of the groups that this node has no replica of: it leads that, or knows who does, and is
/// asked first.
#[derive(Debug, Default)]
pub(super) struct Led(Mutex<BTreeMap<GroupId, NodeId>>);

impl Led {
    fn by(&self, group: GroupId) -> Option<NodeId> {
        lock(&self.0).get(&group).copied()
    }

    fn learn(&self, group: GroupId, node: NodeId) {
        let mut led = lock(&self.0);
        if led.len() < GROUPS_MAX || led.contains_key(&group) {
            led.insert(group, node);
        }
    }

    /// It does not answer, or says that it does not lead.
    fn forget(&self, group: GroupId, node: NodeId) {
        let mut led = lock(&self.0);
        if led.get(&group) == Some(&node) {
            led.remove(&group);
        }
    }
}

/// Whom a request goes on with. Each choice counts for itself: what is taken every other time only, and counted with the rest,
/// comes to the same one of two each time.
#[derive(Debug, Default)]
struct Turns {
    elsewhere: usize,
    thirds: usize,
}

/// The next of these.
fn in_turn(nodes: &[NodeId], turn: &mut usize) -> Option<NodeId> {
    let node = nodes.get(*turn % nodes.len().max(1)).copied();
    *turn += 1;
    node
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

/// Whether a node that said so was not reached, or has not answered.
const fn is_cut(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::Unreachable | ErrorKind::LinkLost | ErrorKind::Timeout)
}

fn late(group: GroupId, last: Option<Error>) -> Error {
    let error = Error::new(
        ErrorKind::Timeout,
        "no leader of the metadata group answered in time: is a majority of its nodes up?",
    )
    .with("group", group);
    match last {
        Some(last) => error.caused_by(last),
        None => error,
    }
}
