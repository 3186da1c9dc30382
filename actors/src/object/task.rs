//! What a request under way is: a machine that hears one thing at a time and says what it wants next.

use core::time::Duration;
use std::{collections::BTreeSet, sync::Arc};

use mesh_core::{
    Answer, Buf, Certainty, Cx, Error, ErrorKind, Lane, Op, Outcome, Principal, Request, Response, Trace, WorkOutcome,
    id::{ActorId, BucketId, DriveId, GroupId, LayoutId, TenantId, WriteId},
    meta::{BucketRef, BucketRow, Command, MetaAnswer, Proposer, Query},
    op::{ShardOp, StripeOp},
    port::ComputeJob,
    spec::{Encryption, ObjectSpec},
    time::Instant,
    topology::Code,
};

use super::{
    ask::Way,
    blocks::Blocks,
    buckets::Buckets,
    owed::{self, Owed},
    reclaim::{self, Reclaim},
    retire,
    sessions::Sessions,
    sweep::{self, Sweep},
    writes::Writes,
};

/// A request under way.
pub(super) trait Task: Send {
    /// Takes what came, and says what is wanted next. Only one thing is ever waited for.
    fn hear(&mut self, heard: Heard, scene: &mut Scene<'_, '_>) -> Step;

    /// The write id that it holds, if it was given one or works for one.
    fn write(&self) -> Option<WriteId> {
        None
    }
}

/// What a task hears.
pub(super) enum Heard {
    /// The first thing.
    Begin,
    /// The end of [`Step::Bucket`]: a bucket of the caller's tenant.
    Bucket(Result<Arc<BucketRow>, Failure>),
    /// The end of [`Step::Ask`].
    Answer(Result<Response, Failure>),
    /// The end of [`Step::Compute`].
    Computed(WorkOutcome),
    /// The end of [`Step::Pause`].
    Due,
    /// The end of [`Step::Grant`].
    Granted(Result<WriteId, Error>),
}

/// What a task wants next.
pub(super) enum Step {
    /// To answer; the task is over.
    Reply(Outcome),
    /// A bucket by name; `fresh`: not from the cache.
    Bucket { name: Arc<str>, fresh: bool },
    /// To ask somebody.
    Ask(Question),
    /// A computation.
    Compute(ComputeJob),
    /// To wait.
    Pause(Instant),
    /// A write id of a group.
    Grant(GroupId),
}

impl Step {
    pub(super) fn answer(answer: Answer) -> Self {
        Self::Reply(Ok(answer.into()))
    }

    pub(super) fn fail(error: impl Into<Error>) -> Self {
        Self::Reply(Err(error.into()))
    }

    /// For what a task cannot hear in its state.
    pub(super) fn astray() -> Self {
        Self::fail(Error::bug("a request heard what it did not wait for"))
    }
}

/// Something to ask.
pub(super) struct Question {
    pub(super) way: Way,
    pub(super) op: Op,
    pub(super) payload: Buf,
    pub(super) retry: Retry,
}

/// Which failures are followed by another try, until the deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Retry {
    /// None: the task decides itself.
    Never,
    /// Those of the way: routing, links, leaders.
    Transport,
    /// And being over the rate, for work that has begun: a stream slows down instead of breaking.
    Patient,
}

impl Question {
    /// A read of metadata, through Policy.
    pub(super) fn query(group: GroupId, query: Query) -> Self {
        let op = Op::Query { group, query: Arc::new(query) };
        Self { way: Way::Next, op, payload: Buf::empty(), retry: Retry::Transport }
    }

    /// A write of metadata, through Policy.
    pub(super) fn propose(command: impl Into<Command>) -> Self {
        let op = Op::Propose(Arc::new(command.into()));
        Self { way: Way::Next, op, payload: Buf::empty(), retry: Retry::Transport }
    }

    /// A read of metadata, as the mesh itself.
    pub(super) fn query_directly(group: GroupId, query: Query) -> Self {
        Self { way: Way::Metadata, ..Self::query(group, query) }
    }

    /// A write of metadata, as the mesh itself.
    pub(super) fn propose_directly(command: impl Into<Command>) -> Self {
        Self { way: Way::Propose, ..Self::propose(command) }
    }

    /// A stripe, down the chain.
    pub(super) fn stripe(op: StripeOp, payload: Buf, retry: Retry) -> Self {
        Self { way: Way::Next, op: op.into(), payload, retry }
    }

    /// Shards, at a drive, as the mesh itself.
    pub(super) fn shard(drive: DriveId, op: ShardOp) -> Self {
        let way = Way::Actor(ActorId::drive(drive));
        Self { way, op: op.into(), payload: Buf::empty(), retry: Retry::Never }
    }

    pub(super) fn patiently(self) -> Self {
        Self { retry: Retry::Patient, ..self }
    }
}

/// A final failure.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) error: Error,
    /// One of the sendings may have taken effect, whatever the last one came to.
    pub(super) maybe: bool,
}

impl Failure {
    pub(super) fn is(&self, kind: ErrorKind) -> bool {
        self.error.kind() == kind
    }

    /// For a change: a certain refusal behind an uncertain sending is uncertain.
    pub(super) fn of_change(self) -> Error {
        if self.maybe && self.error.certainty() == Certainty::NotProcessed {
            return Error::new(
                ErrorKind::Timeout,
                "an earlier sending of this change may have taken effect; look before sending it again",
            )
            .caused_by(self.error);
        }
        self.error
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let maybe = error.certainty() == Certainty::MaybeProcessed;
        Self { error, maybe }
    }
}

/// For a question that changes nothing, the last failure says all.
impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        failure.error
    }
}

/// Who asked, and for how long they want the answer.
pub(super) struct Caller {
    pub(super) principal: Principal,
    pub(super) tenant: TenantId,
    pub(super) deadline: Instant,
    pub(super) lane: Lane,
    pub(super) trace: Trace,
}

impl Caller {
    /// A request that goes on from the caller's.
    pub(super) fn request(&self, op: Op, payload: Buf) -> Request {
        let Self { deadline, lane, trace, .. } = *self;
        Request { op, payload, principal: self.principal.clone(), deadline, lane, trace }
    }
}

/// What a task sees while it hears.
pub(super) struct Scene<'a, 'c> {
    pub(super) caller: &'a Caller,
    pub(super) desk: &'a mut Desk,
    pub(super) cx: &'a mut Cx<'c>,
}

/// What all requests of an ingress share.
pub(super) struct Desk {
    pub(super) spec: ObjectSpec,
    pub(super) buckets: Buckets,
    /// Buckets that were found sealed, to be removed: somebody's deletion of them may have stopped half-way.
    pub(super) sealed: BTreeSet<BucketId>,
    pub(super) sessions: Sessions,
    pub(super) blocks: Blocks,
    pub(super) writes: Writes,
    pub(super) reclaim: Reclaim,
    pub(super) owed: Owed,
    pub(super) sweep: Sweep,
}

impl Desk {
    pub(super) fn new(spec: ObjectSpec) -> Self {
        let (mut reclaim, mut owed, mut sweep) = (Reclaim::default(), Owed::default(), Sweep::default());
        owed.assign(&groups(&spec), &spec.lost);
        reclaim.assign(&groups(&spec), Instant::default());
        sweep.assign(&swept_groups(&spec), Instant::default());
        let (buckets, blocks, writes) = (Buckets::default(), Blocks::default(), Writes::default());
        let (sealed, mut sessions) = (BTreeSet::new(), Sessions::default());
        sessions.assign(spec.namespaces, Instant::default());
        Self { spec, buckets, sealed, sessions, blocks, writes, reclaim, owed, sweep }
    }

    pub(super) fn configure(&mut self, spec: ObjectSpec, now: Instant) {
        self.reclaim.assign(&groups(&spec), now);
        self.owed.assign(&groups(&spec), &spec.lost);
        self.sweep.assign(&swept_groups(&spec), now);
        self.sessions.assign(spec.namespaces, now);
        self.spec = spec;
    }

    pub(super) const fn actor(&self) -> ActorId {
        ActorId::ingress(self.spec.node)
    }

    /// The name under which a command goes to a group: another for each, and the same however often it goes.
    ///
    /// # Errors
    /// `Overloaded`.
    pub(super) fn proposer(&mut self, group: GroupId, now: Instant) -> Result<Proposer, Error> {
        self.sessions.number((group, self.actor()), self.spec.epoch, now)
    }

    /// A bucket's group says that it is deleted: its name goes too, if whoever deleted it has not come to that.
    pub(super) fn found_sealed(&mut self, bucket: BucketId) {
        if self.sealed.len() < SEALED_MAX {
            self.sealed.insert(bucket);
        }
    }

    /// How a tenant's data are stored.
    ///
    /// # Errors
    /// `Unreachable` while nobody has told: a tenant may be newer than what this ingress knows. Its data are not stored
    /// in plain for that.
    pub(super) fn encryption(&self, tenant: TenantId) -> Result<Encryption, Error> {
        self.spec.keys.get(&tenant).copied().ok_or_else(|| {
            Error::new(ErrorKind::Unreachable, "this node does not know the tenant's key yet; send again in a moment")
                .with("tenant", tenant)
        })
    }

    /// The layout for new writes in a code; `None`: in the mesh's.
    ///
    /// # Errors
    /// `TooFewShards` while there is none for anything, `Overloaded` while there is none for this code: it was asked for a moment
    /// ago.
    pub(super) fn layout(&self, code: Option<Code>) -> Result<LayoutId, Error> {
        let newest = self.spec.layout.ok_or_else(|| {
            Error::new(ErrorKind::TooFewShards, "there is no layout yet: the mesh has too few drives; send again later")
        })?;
        let has_groups = |code| self.spec.layouts.get(&newest).is_some_and(|layout| layout.table(Some(code)).is_some());
        match code.filter(|code| !has_groups(*code)) {
            None => Ok(newest),
            Some(code) => {
                let what = "there are no placement groups for the bucket's code yet, or this node has not heard of them; send \
                            again in a moment";
                Err(Error::new(ErrorKind::Overloaded, what).with("code", code))
            }
        }
    }

    /// Drops writes that nobody touched for too long, with their stripes.
    pub(super) fn drop_idle_writes(&mut self, now: Instant) {
        while let Some(write) = self.writes.pop_idle(now) {
            self.reclaim.discard(write.doomed(), now);
        }
    }

    /// Something in a group became garbage.
    pub(super) fn expect_garbage(&mut self, group: GroupId, now: Instant) {
        self.reclaim.hurry(group, self.grace(), now);
    }

    /// What to tell about a change under a write id that was certainly refused. A closed block's ids are given out no
    /// more, and what is sent again gets one of another block.
    pub(super) fn refused(&mut self, write: WriteId, error: Error) -> Error {
        if error.kind() != ErrorKind::Conflict {
            return error;
        }
        self.blocks.revoke(write);
        Error::new(ErrorKind::Overloaded, "the block of the write id was closed meanwhile; send this again")
            .with("write", write)
            .caused_by(error)
    }

    pub(super) fn next_reclaim(&mut self, now: Instant) -> Option<(reclaim::Errand, Question)> {
        let grace = self.grace();
        self.reclaim.next_errand(&self.spec.keys, grace, now)
    }

    pub(super) fn reclaimed(&mut self, errand: reclaim::Errand, result: Result<Response, Failure>, now: Instant) {
        if let Some((group, owing)) = self.reclaim.hear(errand, result, self.grace(), now) {
            self.owed.told(group, &owing, now);
        }
    }

    pub(super) fn next_owed(&mut self, now: Instant) -> Option<(owed::Errand, Question)> {
        self.owed.next_errand(now)
    }

    pub(super) fn next_sweep(&mut self, now: Instant) -> Option<(sweep::Errand, Question)> {
        self.sweep.next_errand(&self.spec.drives, now)
    }

    pub(super) fn swept(&mut self, errand: sweep::Errand, result: Result<Response, Failure>, now: Instant) {
        self.sweep.hear(errand, result, self.grace(), &self.spec, now);
    }

    fn grace(&self) -> Duration {
        Duration::from_millis(self.spec.reclaim_grace_ms)
    }

    /// How long ids of one block are given out.
    pub(super) fn block_age_max(&self) -> Duration {
        retire::age_max(self.grace())
    }
}

fn groups(spec: &ObjectSpec) -> BTreeSet<GroupId> {
    spec.reclaims.iter().copied().collect()
}

/// Without drives there is nothing to walk over.
fn swept_groups(spec: &ObjectSpec) -> BTreeSet<GroupId> {
    if spec.drives.is_empty() { BTreeSet::new() } else { groups(spec) }
}

/// The metadata answer in a response.
pub(super) fn meta(response: Response) -> Result<Arc<MetaAnswer>, Error> {
    match response.answer {
        Answer::Meta(answer) => Ok(answer),
        _ => Err(Error::bug("a metadata group was asked, and something else answered")),
    }
}

/// An error from below the manifests as whoever asked for an object may see it. What is missing there (a key that this
/// node's keyring lacks) says nothing about whether the object exists.
pub(super) fn below(error: Error) -> Error {
    if error.kind() != ErrorKind::NotFound {
        return error;
    }
    Error::new(ErrorKind::Unreachable, "something that the object's data need is not on this node yet; send again")
        .caused_by(error)
}

/// For an answer of the wrong kind.
pub(super) fn unexpected(wanted: &'static str, _got: &MetaAnswer) -> Error {
    Error::bug("a metadata group answered another question").with("wanted", wanted)
}

/// The bucket that a task works in: looked up by name, and once more if its group does not know it (any more), for a
/// bucket may have been deleted and made again since it was cached.
pub(super) struct Place {
    name: Arc<str>,
    bucket: Option<BucketRef>,
    asked_again: bool,
}

impl Place {
    pub(super) const fn new(name: Arc<str>) -> Self {
        Self { name, bucket: None, asked_again: false }
    }

    pub(super) fn find(&self) -> Step {
        Step::Bucket { name: self.name.clone(), fresh: false }
    }

    /// Takes the row.
    ///
    /// # Errors
    /// `NoSuchBucket` if it is the one again that its group does not know.
    pub(super) fn found(&mut self, row: Result<Arc<BucketRow>, Failure>) -> Result<BucketRef, Error> {
        let bucket = row?.bucket.clone();
        if self.asked_again && self.bucket.as_ref().is_some_and(|old| old.id == bucket.id && old.group == bucket.group)
        {
            return Err(Error::new(ErrorKind::NoSuchBucket, "the bucket is being deleted").with("bucket", &self.name));
        }
        self.bucket = Some(bucket.clone());
        Ok(bucket)
    }

    /// Looks the bucket up once more if the failure says that it is not what it was.
    pub(super) fn look_again(&mut self, failure: &Failure, desk: &mut Desk) -> Option<Step> {
        if !matches!(failure.error.kind(), ErrorKind::NoSuchBucket | ErrorKind::WrongShard) {
            return None;
        }
        desk.buckets.forget(&self.name);
        if let Some(bucket) = self.bucket.as_ref().filter(|_| failure.is(ErrorKind::NoSuchBucket)) {
            desk.found_sealed(bucket.id);
        }
        if self.asked_again {
            return None;
        }
        self.asked_again = true;
        Some(Step::Bucket { name: self.name.clone(), fresh: true })
    }

    pub(super) fn bucket(&self) -> Result<&BucketRef, Error> {
        self.bucket.as_ref().ok_or_else(|| Error::bug("a request went on before its bucket was found"))
    }
}

/// Buckets that are to be removed at most: one that is not remembered is found again.
const SEALED_MAX: usize = 64;
