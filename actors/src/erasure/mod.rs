//! Erasure: stripes as shards on drives.
//!
//! It decides where shards go, who is asked for them and who is asked instead. It keeps no data and no state that
//! outlives a request, touches no drive by itself, and never acknowledges less than k+m durable shards.
//!
//! `write`, `read` and `delete` are one machine each; `drives` is what they share of the world: the layouts,
//! which drives are up, which failed a moment ago, and how fast shards come.
//!
//! ```text
//!  Write   place -> Encode -> k+m x ShardOp::Write, in parallel -> all durable -> Placed
//!                               one fails: avoid its drive, place again, write what is new
//!  Read    k x ShardOp::Read -> k there -> Decode -> Done
//!             slow or failed: ask one more
//!  Delete  k+m x ShardOp::Delete -> Done, or Left: the drives that may have something left
//! ```

mod delete;
mod drives;
mod read;
mod write;

use std::collections::BTreeMap;

use mesh_core::{
    Answer, Buf, Cx, Error, ErrorKind, Event, Lane, Op, Outcome, Principal, Request, StorageFunction, Trace,
    WorkOutcome,
    figures::{Figures as _, Labels, Page},
    id::Token,
    meta::Compression,
    op::{ShardOp, StripeOp},
    snapshot::{Mark, Snapshot},
    spec::{ErasureSpec, FunctionSpec},
    time::Instant,
};

use self::{
    delete::Delete,
    drives::{Drives, Role, Wait},
    read::Read,
    write::Write,
};
pub(crate) use self::{drives::Counted, read::sealed_len};

/// The Erasure function. See the module's page. Its state is only that of open requests.
#[derive(Debug)]
pub struct Erasure {
    drives: Drives,
    jobs: BTreeMap<Token, Job>,
}

#[derive(Debug)]
enum Job {
    Write(Box<Write>),
    Read(Box<Read>),
    Delete(Delete),
}

/// Who asked, and what its shard requests inherit.
#[derive(Debug)]
struct Caller {
    id: Token,
    principal: Principal,
    deadline: Instant,
    lane: Lane,
    trace: Trace,
}

impl Caller {
    fn request(&self, op: ShardOp, payload: Buf, deadline: Instant) -> Request {
        let deadline = deadline.min(self.deadline);
        let (lane, trace) = (self.lane, self.trace);
        Request { op: op.into(), payload, principal: self.principal.clone(), deadline, lane, trace }
    }
}

/// How a machine's step ended: with the reply, or not yet.
type Step = Option<Outcome>;

impl Erasure {
    /// A new one.
    #[must_use]
    pub fn new(spec: ErasureSpec) -> Self {
        Self { drives: Drives::new(spec), jobs: BTreeMap::new() }
    }

    fn on_request(&mut self, id: Token, request: Request, cx: &mut Cx<'_>) {
        let Request { op, payload, principal, deadline, lane, trace } = request;
        let caller = Caller { id, principal, deadline, lane, trace };
        let Op::Stripe(op) = op else {
            let error = Error::new(ErrorKind::Unsupported, "Erasure stores stripes, and knows no other operation");
            return cx.reply(id, Err(error));
        };
        let begun = match *op {
            StripeOp::Write(target) | StripeOp::Read { target, .. } if target.compression != Compression::Off => {
                // Stored so, it would be read as something else: the chain here is of before the mesh could compress.
                let what = "the chain has no compression yet, on this node; it will in a moment: send again";
                Err(Error::new(ErrorKind::Draining, what)
                    .with("write", target.id.write)
                    .with("stripe", target.id.stripe))
            }
            StripeOp::Write(target) => {
                Write::begin(caller, target, payload, &mut self.drives, cx).map(|write| Job::Write(Box::new(write)))
            }
            // All of it is given: a shard's checksum is of the whole.
            StripeOp::Read { target, avoid, part: _ } => {
                Read::begin(caller, &target, &avoid, &mut self.drives, cx).map(|read| Job::Read(Box::new(read)))
            }
            StripeOp::Delete { target, avoid } => match Delete::begin(caller, &target, &avoid, &mut self.drives, cx) {
                Ok(Some(delete)) => Ok(Job::Delete(delete)),
                Ok(None) => return cx.reply(id, Ok(Answer::Done.into())),
                Err(error) => Err(error),
            },
        };
        match begun {
            Ok(job) => {
                self.jobs.insert(id, job);
            }
            Err(error) => cx.reply(id, Err(error)),
        }
    }

    fn on_reply(&mut self, call: Token, outcome: Outcome, cx: &mut Cx<'_>) {
        let wait = self.drives.waits.remove(&call).expect("a reply is to a call that was made, and comes once");
        match wait.role {
            Role::Shard { shard, drive, asked } => {
                self.drives.observe(drive, asked, &outcome, cx.now());
                // A straggler: its request has long been answered.
                let Some(job) = self.jobs.get_mut(&wait.job) else { return };
                let step = match job {
                    Job::Write(write) => write.on_shard(shard, drive, outcome, &mut self.drives, cx),
                    Job::Read(read) => read.on_shard(shard, outcome, &mut self.drives, cx),
                    Job::Delete(delete) => delete.on_shard(drive, outcome),
                };
                self.settle(wait.job, step, cx);
            }
            Role::Work => unreachable!("work ends with Done, not with a reply"),
        }
    }

    fn on_done(&mut self, work: Token, outcome: WorkOutcome, cx: &mut Cx<'_>) {
        let wait = self.drives.waits.remove(&work).expect("the end is of work that was started, and comes once");
        let step = match self.jobs.get_mut(&wait.job) {
            Some(Job::Write(write)) => write.on_encoded(outcome, &mut self.drives, cx),
            Some(Job::Read(read)) => read.on_decoded(outcome),
            Some(Job::Delete(_)) | None => unreachable!("a request that started work is open until the work ends"),
        };
        self.settle(wait.job, step, cx);
    }

    fn on_wake(&mut self, cx: &mut Cx<'_>) {
        while let Some(id) = self.drives.next_hedge(cx.now()) {
            let Some(Job::Read(read)) = self.jobs.get_mut(&id) else {
                unreachable!("a read that has ended has no hedge")
            };
            read.on_hedge(&mut self.drives, cx);
        }
    }

    fn settle(&mut self, id: Token, step: Step, cx: &mut Cx<'_>) {
        if let Some(outcome) = step {
            self.jobs.remove(&id);
            cx.reply(id, outcome);
        }
    }
}

impl StorageFunction for Erasure {
    fn on_event(&mut self, event: Event, cx: &mut Cx<'_>) {
        match event {
            Event::Request { id, request } => self.on_request(id, request, cx),
            Event::Reply { call, outcome } => self.on_reply(call, outcome, cx),
            Event::Done { work, outcome } => self.on_done(work, outcome, cx),
            Event::Wake => self.on_wake(cx),
            Event::Configure(spec) => {
                for part in spec.parts() {
                    if let FunctionSpec::Erasure(spec) = part {
                        self.drives.configure(spec.clone());
                    }
                }
            }
        }
        debug_assert!(self.jobs.len() <= self.drives.waits.len(), "every open request waits for something");
    }

    fn wake_at(&self) -> Option<Instant> {
        self.drives.wake_at()
    }

    /// Calls and work that have not come back, stragglers included. Every open request waits for at least one.
    fn in_flight(&self) -> usize {
        self.drives.waits.len()
    }

    /// There is no state: whatever is under way may end where it began.
    fn lingers(&self) -> bool {
        true
    }

    fn figures(&self, labels: &Labels, page: &mut Page) {
        self.drives.counted.tell(labels, page);
    }

    fn snapshot(&mut self, since: Option<Mark>) -> Snapshot {
        Snapshot { since, ..Snapshot::default() }
    }
}

#[cfg(test)]
mod tests;
