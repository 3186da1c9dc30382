//! What goes into a function ([`Event`]) and what comes out of it ([`Effect`]).

use std::sync::Arc;

use crate::{
    buf::Buf,
    error::Error,
    id::{ActorId, TenantId, Token},
    meta::Command,
    op::{Answer, Op},
    port::{ComputeJob, DiskJob, WorkOutput},
    spec::FunctionSpec,
    time::Instant,
    trace::Trace,
};

/// Which kind of stream a request travels on, so that fat data never delay a heartbeat.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// Heartbeats, Raft, placement.
    Control = 0,
    /// Somebody waits for this one small thing.
    #[default]
    Interactive = 1,
    /// Throughput: payloads, rebuild, snapshots.
    Bulk = 2,
}

/// Who is asking. It comes from the verified identity of a link or from an access key whose signature held, never from
/// what a request claims.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum Principal {
    /// Nobody: refused everywhere.
    #[default]
    Anonymous,
    /// The mesh itself (a node's own work: repair, reclaim, controller).
    System,
    /// Somebody of a tenant.
    User {
        /// The tenant.
        tenant: TenantId,
        /// The name inside the tenant.
        name: Arc<str>,
    },
    /// An administrator of the cluster: may see and change everything but tenants' data.
    Admin {
        /// For the record.
        name: Arc<str>,
    },
}

impl Principal {
    /// The tenant, if this is somebody of one.
    #[must_use]
    pub const fn tenant(&self) -> Option<TenantId> {
        match self {
            Self::User { tenant, .. } => Some(*tenant),
            _ => None,
        }
    }
}

/// One request to a function.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// What to do.
    pub op: Op,
    /// The bytes it is about.
    pub payload: Buf,
    /// Who is asking.
    pub principal: Principal,
    /// When the answer is no longer wanted, on this node's clock.
    pub deadline: Instant,
    /// How it travels.
    pub lane: Lane,
    /// Which request of a client it belongs to.
    pub trace: Trace,
}

impl Request {
    /// A request of the mesh itself.
    #[must_use]
    pub fn system(op: impl Into<Op>, deadline: Instant) -> Self {
        Self {
            op: op.into(),
            payload: Buf::empty(),
            principal: Principal::System,
            deadline,
            lane: Lane::Interactive,
            trace: Trace::NONE,
        }
    }

    /// A request that goes on from this one: same principal, deadline, lane and trace.
    #[must_use]
    pub fn onward(&self, op: impl Into<Op>, payload: Buf) -> Self {
        let Self { deadline, lane, trace, .. } = *self;
        Self { op: op.into(), payload, principal: self.principal.clone(), deadline, lane, trace }
    }
}

/// What a request came to.
pub type Outcome = Result<Response, Error>;

/// A good answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Response {
    /// What the operation says.
    pub answer: Answer,
    /// The bytes it brings.
    pub payload: Buf,
}

impl Response {
    /// An answer without bytes.
    #[must_use]
    pub fn new(answer: Answer) -> Self {
        Self { answer, payload: Buf::empty() }
    }
}

impl From<Answer> for Response {
    fn from(answer: Answer) -> Self {
        Self::new(answer)
    }
}

/// What a piece of work came to.
pub type WorkOutcome = Result<WorkOutput, Error>;

/// What the world tells a function. One at a time.
#[derive(Debug)]
pub enum Event {
    /// Somebody asks. The function owes exactly one [`Effect::Reply`] with this `id`.
    Request {
        /// Correlates the reply.
        id: Token,
        /// What is asked.
        request: Request,
    },
    /// The answer to an [`Effect::Call`].
    Reply {
        /// The call's token.
        call: Token,
        /// What it came to.
        outcome: Outcome,
    },
    /// An [`Effect::Start`] has ended.
    Done {
        /// The work's token.
        work: Token,
        /// What it came to.
        outcome: WorkOutcome,
    },
    /// The time of `wake_at` has come.
    Wake,
    /// New settings. Sent once before anything else and again whenever they change; a function takes what is its own
    /// kind's and ignores the rest.
    Configure(Arc<FunctionSpec>),
}

/// Whom a call is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The next stage of the chain, wherever it runs.
    Next,
    /// The stages of this data chain from this one on, which run apart: what a [`Chain`](crate::Chain) makes of
    /// [`Self::Next`] where it is cut.
    Tail(u8),
    /// An actor by number, wherever it runs.
    Actor(ActorId),
    /// The metadata groups (reads only; writes are [`Job::Propose`]).
    Metadata,
}

/// What a function wants of the world.
#[derive(Debug, PartialEq)]
pub enum Effect {
    /// Ask another; a [`Event::Reply`] with `call` comes back, always.
    Call {
        /// Whom.
        to: Target,
        /// Correlates the answer.
        call: Token,
        /// What.
        request: Request,
    },
    /// Answer a request. Exactly once for each.
    Reply {
        /// The request's token.
        id: Token,
        /// What it came to.
        outcome: Outcome,
    },
    /// Do something slow; a [`Event::Done`] with `work` comes back, always.
    Start {
        /// Correlates the end.
        work: Token,
        /// What to do.
        job: Job,
    },
}

/// Slow work.
#[derive(Debug, PartialEq)]
pub enum Job {
    /// On the function's drive.
    Disk(DiskJob),
    /// On a core or an accelerator.
    Compute(ComputeJob),
    /// A metadata command, through Raft.
    Propose {
        /// The command; shared, for it may be sent again.
        command: Arc<Command>,
        /// When the answer is no longer wanted.
        deadline: Instant,
    },
}
