//! Where effects go.

use core::time::Duration;

use mesh_core::{
    Answer, Effect, Error, ErrorKind, Job, Op, Outcome, Request, Response, Target, WorkOutcome,
    id::{DriveId, Epoch, GroupId, NodeId},
    meta::MetaAnswer,
    port::{DiskJob, WorkOutput},
};

use mesh_placement::steward::specs;

use super::{Asker, Happening, Notice, Place, World, host::Origin};
use crate::{metadata::Matter, trace::Digest as _};

impl World {
    /// Sees to one effect; `false` if the node crashed instead.
    pub(super) fn dispatch(&mut self, place: Place, effect: Effect) -> bool {
        let Place { node, actor, .. } = place;
        let Some(host) = self.nodes.get_mut(&node) else { return false };
        host.effects += 1;
        if let Some((at, crash)) = host.doom
            && host.effects >= at
        {
            self.crash(node, crash);
            return false;
        }
        match effect {
            Effect::Reply { id, outcome } => {
                let given = outcome.as_ref().map_or(0, |response| response.payload.len() as u64);
                let owed = self.hosted(place).and_then(|hosted| {
                    hosted.counted.traffic_bytes += given;
                    hosted.requests.remove(&id)
                });
                self.note(&[20, node.0, actor.0, id.0, outcome.digest()], || {
                    format!("{node} {actor} -> answer {id} {outcome:?}")
                });
                match owed {
                    Some(owed) => {
                        if let Err(why) = self.invariants.answered(actor, &owed.op, &outcome) {
                            self.violate(|| why);
                        }
                        self.settle(node, owed.origin, outcome);
                    }
                    None => self
                        .violate(|| format!("{node} {actor} answers request {id} twice, or nobody asked: {outcome:?}")),
                }
            }
            Effect::Call { to, call, request } => {
                let place = Place { token: call, ..place };
                self.note(&[21, node.0, actor.0, call.0, request.digest()], || {
                    format!("{node} {actor} -> call {call} {to:?} {:?} ({:?})", request.op, request.payload)
                });
                let fresh = self.hosted(place).is_some_and(|hosted| hosted.calls.insert(call));
                if !fresh {
                    self.violate(|| format!("{node} {actor} uses the token {call} twice"));
                    return false;
                }
                self.call(place, to, request);
            }
            Effect::Start { work, job } => {
                let place = Place { token: work, ..place };
                self.note(&[22, node.0, actor.0, work.0, job.digest()], || {
                    format!("{node} {actor} -> start {work} {}", told(&job))
                });
                let fresh = self.hosted(place).is_some_and(|hosted| hosted.works.insert(work));
                if !fresh {
                    self.violate(|| format!("{node} {actor} uses the token {work} twice"));
                    return false;
                }
                self.start(place, job);
            }
        }
        true
    }

    /// How long something takes inside a node.
    pub(super) fn hop(&mut self) -> Duration {
        self.local.span(&(Duration::from_nanos(200)..Duration::from_micros(15)))
    }

    /// Brings an answer to whoever asked.
    pub(super) fn settle(&mut self, node: NodeId, origin: Origin, outcome: Outcome) {
        let after = self.hop();
        match origin {
            Origin::Outside { ticket } => {
                let waits = self.nodes.get_mut(&node).is_some_and(|node| node.tickets.remove(&ticket));
                if waits {
                    self.schedule(after, Happening::Answered { ticket, outcome });
                }
            }
            Origin::Own { ticket } => {
                let boot = self.nodes.get(&node).map_or(0, |node| node.boot);
                self.schedule(after, Happening::Told { node, boot, ticket, outcome });
            }
            Origin::Local(place) => self.schedule(after, Happening::Reply { place, outcome }),
            Origin::Link { from, session, id } => self.send_answer(node, from, session, id, outcome),
        }
    }

    fn call(&mut self, place: Place, to: Target, request: Request) {
        let Some((next, epoch)) = self.hosted(place).map(|hosted| (hosted.setting.next, hosted.epoch)) else { return };
        let actor = match to {
            Target::Metadata => return self.call_metadata(place, request),
            Target::Actor(actor) => Some((actor, Epoch(0))),
            Target::Next => next.map(|actor| (actor, Epoch(0))),
            Target::Tail(cut) => specs::tail_of(place.actor, cut).map(|actor| (actor, epoch)),
        };
        match actor {
            None => {
                let error =
                    Error::new(ErrorKind::NoSuchActor, "nobody knows this actor").with("target", format!("{to:?}"));
                self.reply(place, Err(error));
            }
            Some(actor) => self.ask(place.node, Origin::Local(place), actor, request),
        }
    }

    /// Ends a call soon.
    pub(super) fn reply(&mut self, place: Place, outcome: Outcome) {
        let after = self.hop();
        self.schedule(after, Happening::Reply { place, outcome });
    }

    fn call_metadata(&mut self, place: Place, request: Request) {
        let patience = request.deadline.after(self.clock(place.node));
        let asker = Asker::Call(place);
        match request.op {
            Op::Query { group, query } => self.ask_metadata(group, Matter::Query(query), patience, asker),
            Op::Propose(command) => self.ask_metadata(command.group(), Matter::Command(command), patience, asker),
            other => {
                let error = Error::invalid("metadata is asked by queries and commands alone");
                self.reply(place, Err(error.with("op", format!("{other:?}"))));
            }
        }
    }

    fn start(&mut self, place: Place, job: Job) {
        match job {
            Job::Disk(job) => {
                let drive = self.hosted(place).and_then(|hosted| hosted.setting.disk);
                match drive {
                    Some(drive) => self.start_disk(place, drive, job),
                    None => self.done(place, Duration::ZERO, Err(Error::invalid("this actor has no drive"))),
                }
            }
            Job::Compute(job) => {
                let after = self.compute_stream.span(&(Duration::from_micros(2)..Duration::from_micros(200)));
                let outcome = self.compute.run(job);
                self.done(place, after, outcome);
            }
            Job::Propose { command, deadline } => {
                let patience = deadline.after(self.clock(place.node));
                self.ask_metadata(command.group(), Matter::Command(command), patience, Asker::Work(place));
            }
        }
    }

    fn start_disk(&mut self, place: Place, drive: DriveId, job: DiskJob) {
        if let DiskJob::Write { bufs, .. } = &job
            && let Err(why) = self.invariants.written(drive, bufs)
        {
            self.violate(|| why);
        }
        let now = self.now;
        let Some(disk) = self.disks.get_mut(&drive) else {
            return self.done(place, Duration::ZERO, Err(Error::invalid("there is no such medium")));
        };
        let (job, after) = disk.start(now, job, place);
        self.schedule(after, Happening::DiskEnd { drive, job });
    }

    fn done(&mut self, place: Place, after: Duration, outcome: WorkOutcome) {
        self.schedule(after, Happening::Done { place, outcome });
    }

    /// Asks the metadata groups, on their own terms.
    pub(super) fn ask_metadata(&mut self, group: GroupId, matter: Matter, patience: Duration, asker: Asker) {
        let (number, course) = self.metadata.start(self.now, patience, group, matter, asker);
        for after in course.applied {
            self.schedule(after, Happening::MetadataApply { number });
        }
        self.schedule(course.answered.0, Happening::MetadataAnswer { number });
    }

    pub(super) fn answer_metadata(&mut self, number: u64) {
        let Some((asker, result)) = self.metadata.answer(number) else { return };
        match asker {
            Asker::Call(place) => {
                let outcome = result.map(|answer| Response::new(Answer::Meta(answer.into())));
                if self.hosted(place).is_some() {
                    self.take_reply(place, outcome);
                }
            }
            Asker::Work(place) => {
                let outcome = result.map(|answer: MetaAnswer| WorkOutput::Meta(answer.into()));
                if self.hosted(place).is_some() {
                    self.take_done(place, outcome);
                }
            }
            Asker::Node { node, boot, ticket } => {
                if self.nodes.get(&node).is_some_and(|node| node.up && node.boot == boot) {
                    self.note(&[6, ticket], || format!("{node}: proposal {ticket} gives {result:?}"));
                    self.notices.push_back(Notice::Proposed { ticket, outcome: result });
                }
            }
        }
    }
}

/// A job, for logs.
fn told(job: &Job) -> String {
    match job {
        Job::Disk(DiskJob::Write { at, bufs }) => {
            format!("write {at}+{}", bufs.iter().map(|buf| buf.len()).sum::<usize>())
        }
        other => format!("{other:?}"),
    }
}
