//! Who may do what, how fast and how much: the first stage of the data chain of one tenant.
//!
//! Every request of an ingress for a tenant's data or metadata comes through here, whatever cache sent it. Policy
//! decides and passes on; it never changes what is asked, but for the quota that it stamps into puts. It owns the
//! levels of the rate limits, and the names of buckets it has seen, for commands that name a bucket by number only.

mod names;
mod rate;
mod rights;
mod state;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, sync::Arc};

use mesh_core::{
    Answer, Cx, Error, ErrorKind, Event, Job, Op, Outcome, Principal, Request, StorageFunction, Target, WorkOutcome,
    figures::{Count, Figures as _, Labels, Page},
    id::{GroupId, Token},
    limits::MAILBOX_JOBS_MAX,
    meta::{Command, MetaAnswer, ObjectCommand, Query},
    op::StripeOp,
    port::WorkOutput,
    snapshot::{Mark, Snapshot},
    spec::{FunctionSpec, PolicySpec},
};

use names::Names;
use rate::{Bucket, per_second};

mesh_core::figures! {
    /// What was decided.
    pub(crate) struct Decided as "mesh_policy" {
        /// Requests that were refused because their principal may not do that.
        denied: Count,
        /// Requests that were refused because their tenant was over its rate.
        limited: Count,
    }
}

/// The Policy function. See the module's page.
pub struct Policy {
    spec: PolicySpec,
    /// Requests of users: one a second of limit.
    requests: Bucket,
    /// Payload bytes.
    bytes: Bucket,
    /// Buckets of this tenant that were looked up here.
    names: Names,
    /// Calls and work that are out, by their token.
    out: BTreeMap<Token, Out>,
    /// Counts changes, for snapshots.
    changes: u64,
    decided: Decided,
}

/// A request that was passed on.
struct Out {
    /// The request.
    id: Token,
    /// The bytes of its answer are charged.
    charge: bool,
    /// Its answer is a bucket's row.
    learn: bool,
}

impl core::fmt::Debug for Policy {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Policy of {}, {} in flight", self.spec.tenant, self.out.len())
    }
}

impl Policy {
    /// The Policy of one tenant. Rate limits begin full.
    #[must_use]
    pub fn new(spec: PolicySpec) -> Self {
        let (requests, bytes) = rates(&spec);
        Self {
            requests: Bucket::full(requests),
            bytes: Bucket::full(bytes),
            spec,
            names: Names::default(),
            out: BTreeMap::new(),
            changes: 0,
            decided: Decided::default(),
        }
    }

    /// Decides on a request and passes it on.
    fn decide(&mut self, id: Token, request: Request, cx: &mut Cx<'_>) -> Result<(), Error> {
        if self.out.len() >= MAILBOX_JOBS_MAX {
            return Err(Error::new(ErrorKind::Overloaded, "too many requests are under way; send again later"));
        }
        rights::check(&self.spec, &self.names, &request)?;
        if request.principal != Principal::System {
            self.spend(&request, cx)?;
        }
        let Request { op, payload, principal, deadline, lane, trace } = request;
        let charge =
            matches!(&op, Op::Stripe(op) if matches!(**op, StripeOp::Read { .. })) && principal != Principal::System;
        let learn = matches!(&op, Op::Query { query, .. } if matches!(**query, Query::Bucket { .. }));
        let token = match op {
            Op::Propose(command) => {
                let command = stamp(command, self.spec.limits.quota_bytes);
                cx.start(Job::Propose { command, deadline })
            }
            op => {
                let to = if matches!(op, Op::Query { .. }) { Target::Metadata } else { Target::Next };
                cx.call(to, Request { op, payload, principal, deadline, lane, trace })
            }
        };
        self.out.insert(token, Out { id, charge, learn });
        Ok(())
    }

    /// Takes a request out of the tenant's rates. A metadata request counts as a request, for every request of a user
    /// has about one of them however many stripes it has; stripes count by their bytes. What stores something counts when
    /// its first stripe comes and not when its manifest does: what is over the rate has cost nobody any work then.
    fn spend(&mut self, request: &Request, cx: &Cx<'_>) -> Result<(), Error> {
        let now = cx.now();
        let over = match &request.op {
            // Both or neither: it is sent again until both are given.
            Op::Stripe(op) if begins_a_write(op) && !self.requests.is_open(now) => Some("requests"),
            Op::Stripe(op) if self.bytes.take(request.payload.len() as u64, now) => {
                if begins_a_write(op) {
                    self.requests.charge(1, now);
                }
                None
            }
            Op::Stripe(_) => Some("bytes"),
            Op::Propose(command) if has_come_in_stripes(command) => None,
            _ => (!self.requests.take(1, now)).then_some("requests"),
        };
        self.changes += 1;
        let Some(what) = over else { return Ok(()) };
        Err(Error::new(ErrorKind::RateLimited, "the tenant is over its rate; send again later")
            .with("tenant", self.spec.tenant)
            .with("limit", format_args!("{what} a second")))
    }

    fn completed(&mut self, token: Token, outcome: Outcome, cx: &mut Cx<'_>) {
        let out = self.out.remove(&token).expect("a completion is of a call this function made, and comes once");
        if let Ok(response) = &outcome {
            if out.charge {
                self.bytes.charge(response.payload.len() as u64, cx.now());
                self.changes += 1;
            }
            if let (true, Answer::Meta(answer)) = (out.learn, &response.answer) {
                self.learn(answer);
            }
        }
        cx.reply(out.id, outcome);
    }

    /// Remembers the name behind a bucket's number.
    fn learn(&mut self, answer: &MetaAnswer) {
        let MetaAnswer::Bucket(row) = answer else { return };
        if row.bucket.tenant != self.spec.tenant {
            return;
        }
        self.names.keep(row.bucket.id, row.bucket.name.clone());
        self.changes += 1;
    }

    fn configure(&mut self, spec: &PolicySpec, cx: &Cx<'_>) {
        if spec.tenant != self.spec.tenant {
            // Another tenant's settings are not this function's.
            return;
        }
        let (requests, bytes) = rates(spec);
        self.requests.set_rate(requests, cx.now());
        self.bytes.set_rate(bytes, cx.now());
        self.spec = spec.clone();
        self.changes += 1;
    }
}

impl StorageFunction for Policy {
    fn on_event(&mut self, event: Event, cx: &mut Cx<'_>) {
        match event {
            Event::Request { id, request } => {
                if let Err(error) = self.decide(id, request, cx) {
                    match error.kind() {
                        ErrorKind::Denied => self.decided.denied.add(1),
                        ErrorKind::RateLimited => self.decided.limited.add(1),
                        _ => {}
                    }
                    cx.reply(id, Err(error));
                }
            }
            Event::Reply { call, outcome } => self.completed(call, outcome, cx),
            Event::Done { work, outcome } => self.completed(work, as_reply(outcome), cx),
            Event::Wake => {}
            Event::Configure(spec) => {
                for part in spec.parts() {
                    if let FunctionSpec::Policy(spec) = part {
                        self.configure(spec, cx);
                    }
                }
            }
        }
    }

    fn in_flight(&self) -> usize {
        self.out.len()
    }

    /// A name that is still to be learned and bytes that are still to be charged belong to the state.
    fn lingers(&self) -> bool {
        let charges = self.spec.limits.bytes_per_second.is_some();
        !self.out.values().any(|out| out.learn || (out.charge && charges))
    }

    fn figures(&self, labels: &Labels, page: &mut Page) {
        self.decided.tell(labels, page);
    }

    fn snapshot(&mut self, since: Option<Mark>) -> Snapshot {
        self.save(since)
    }

    fn restore(&mut self, snapshot: &Snapshot) -> Result<(), Error> {
        self.load(snapshot)
    }
}

fn rates(spec: &PolicySpec) -> (Option<u64>, Option<u64>) {
    (spec.limits.requests_per_second.map(u64::from).map(per_second), spec.limits.bytes_per_second.map(per_second))
}

/// The first of what a write stores, the first time that it is sent.
fn begins_a_write(op: &StripeOp) -> bool {
    matches!(op, StripeOp::Write(target) if (target.id.stripe, target.id.attempt) == (0, 0))
}

/// Whether stripes came before it.
fn has_come_in_stripes(command: &Command) -> bool {
    match command {
        Command::Object(_, ObjectCommand::PutObject { row, .. }) => row.len > 0,
        Command::Object(_, ObjectCommand::PutPart { part, .. }) => part.extent.len > 0,
        _ => false,
    }
}

/// The end of a proposal, as a reply.
fn as_reply(outcome: WorkOutcome) -> Outcome {
    match outcome? {
        WorkOutput::Meta(answer) => Ok(Answer::Meta(answer).into()),
        _ => Err(Error::bug("a proposal ended with the output of other work")),
    }
}

/// Puts the tenant's quota into commands that add bytes, whatever was there.
fn stamp(mut command: Arc<Command>, quota: Option<u64>) -> Arc<Command> {
    if let Command::Object(_, ObjectCommand::PutObject { .. } | ObjectCommand::PutPart { .. }) = *command
        && let Command::Object(
            _,
            ObjectCommand::PutObject { quota_bytes, .. } | ObjectCommand::PutPart { quota_bytes, .. },
        ) = Arc::make_mut(&mut command)
    {
        *quota_bytes = quota;
    }
    command
}

/// Whether a group is the one that a question belongs to: buckets are the control group's, the rest is the namespaces'.
const fn is_control(group: GroupId) -> bool {
    group.0 == GroupId::CONTROL.0
}
