//! One message between two nodes: a header, and a payload that is never copied into it.

use crate::{
    buf::Buf,
    effect::{Lane, Principal, Response},
    error::{Error, ErrorKind},
    id::{ActorId, ClusterId, Epoch, Incarnation, NodeId},
    op::{Answer, Op},
    trace::Trace,
};

/// One message.
#[derive(Clone, Debug, PartialEq)]
pub struct Envelope {
    /// All but the payload.
    pub header: Header,
    /// The bytes it is about.
    pub payload: Buf,
}

/// All of a message but the payload.
#[derive(Clone, Debug, PartialEq)]
pub struct Header {
    /// Correlates a request, its answer and its cancellation on one connection. Given by the session.
    pub id: u64,
    /// Whom a request is for.
    pub actor: ActorId,
    /// The sender's idea of that actor's epoch; 0: none.
    pub epoch: Epoch,
    /// Which stream it travels on.
    pub lane: Lane,
    /// How long the answer is wanted, in microseconds from now.
    pub budget_us: u64,
    /// Payload that is to be fetched by RDMA READ instead.
    pub region: Option<Region>,
    /// W3C trace context; empty: none.
    pub trace: Vec<u8>,
    /// Who asks. Believed only from a node's link.
    pub principal: Principal,
    /// What it says.
    pub body: Body,
}

/// Registered memory of the sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// Where.
    pub address: u64,
    /// The key for it.
    pub rkey: u32,
    /// How long.
    pub length: u64,
}

/// What a message says.
#[derive(Clone, Debug, PartialEq)]
pub enum Body {
    /// The first message of a connection.
    Hello(Hello),
    /// Its answer.
    Welcome(Welcome),
    /// Do this.
    Request(Op),
    /// It is done.
    Answer(Answer),
    /// It is not.
    Failure(Error),
    /// The answer to request `id` is no longer wanted.
    Cancel(u64),
    /// It came whole, and this build does not know what it says: `Unsupported`, with what that is. Never sent.
    Unread(Error),
}

/// Who opens a connection, and what it can do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The oldest wire version it speaks.
    pub version_min: u16,
    /// The newest.
    pub version_max: u16,
    /// Its cluster.
    pub cluster: ClusterId,
    /// Its node number; 0 for a client.
    pub node: NodeId,
    /// Its start.
    pub incarnation: Incarnation,
    /// What it can do: bits.
    pub capabilities: u64,
    /// Its build, for people.
    pub software: String,
    /// What the connection is for.
    pub lane: Lane,
}

/// Who answers, and on what terms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Welcome {
    /// The version both speak from now on.
    pub version: u16,
    /// Its node number.
    pub node: NodeId,
    /// Its start.
    pub incarnation: Incarnation,
    /// What it can do: bits.
    pub capabilities: u64,
    /// Its build, for people.
    pub software: String,
    /// Requests that may be in flight on this connection.
    pub jobs_max: u32,
    /// Payload bytes that may be in flight on this connection.
    pub bytes_max: u64,
}

impl Envelope {
    /// A request. The session gives it its `id`.
    #[must_use]
    pub fn request(
        actor: ActorId,
        epoch: Epoch,
        op: Op,
        payload: Buf,
        principal: Principal,
        lane: Lane,
        budget: core::time::Duration,
    ) -> Self {
        let budget_us = u64::try_from(budget.as_micros()).unwrap_or(u64::MAX);
        let header = Header {
            id: 0,
            actor,
            epoch,
            lane,
            budget_us,
            region: None,
            trace: Vec::new(),
            principal,
            body: Body::Request(op),
        };
        Self { header, payload }
    }

    /// The same, as part of a client's request.
    #[must_use]
    pub fn traced(mut self, trace: Trace) -> Self {
        self.header.trace = trace.to_header();
        self
    }

    /// A message of the connection itself, or an answer to request `id`.
    #[must_use]
    pub fn of(id: u64, lane: Lane, body: Body, payload: Buf) -> Self {
        let header = Header {
            id,
            actor: ActorId::NODE,
            epoch: Epoch(0),
            lane,
            budget_us: 0,
            region: None,
            trace: Vec::new(),
            principal: Principal::Anonymous,
            body,
        };
        Self { header, payload }
    }

    /// The answer to request `id`.
    #[must_use]
    pub fn answer(id: u64, lane: Lane, outcome: crate::Outcome) -> Self {
        match outcome {
            Ok(response) => Self::of(id, lane, Body::Answer(response.answer), response.payload),
            Err(error) => Self::of(id, lane, Body::Failure(error), Buf::empty()),
        }
    }

    /// What an answer says. One that is not known here is [`ErrorKind::Unread`].
    ///
    /// # Errors
    /// `Invalid` if this is no answer: the link must be closed.
    pub fn into_outcome(self) -> Result<crate::Outcome, Error> {
        match self.header.body {
            Body::Answer(answer) => Ok(Ok(Response { answer, payload: self.payload })),
            Body::Failure(error) => Ok(Err(error)),
            Body::Unread(what) => Ok(Err(Error::new(
                ErrorKind::Unread,
                "the answer is of a newer build, and this one cannot read it: it may be done; upgrade this node",
            )
            .caused_by(what))),
            _ => Err(Error::invalid("a message that is no answer where one was expected")),
        }
    }
}
