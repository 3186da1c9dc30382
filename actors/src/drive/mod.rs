//! One drive: shards in an append-only log of segments, on a medium that it alone writes.
//!
//! ```text
//! Configure ─→ recover: superblock, fence older owners, scan ─→ serve ─→ failed
//!                 └─→ refused: foreign, damaged, newer, fenced          (until it is made anew)
//! ```
//!
//! - `format`: what stands on the medium; `medium`: whether a medium may be used
//! - `recover`, `scan`, `contents`, `reading`: a start; `catalog`: what counts; `census`: what tells an emptied medium from a blank one
//! - `scrub`: reads everything back, round after round
//! - `serve`: requests; `append`, `open`: the log and its group commit; `collect`: space
//!
//! What [`Drive`] promises: a write or delete that it answered survives power loss; bytes that fail their checksum are
//! reported and never returned; a medium that is not its own is never written; after a failed write or sync it answers
//! nothing but `DriveFailed`, for nobody can say what such a drive kept.
//!
//! It never formats a medium (see [`superblock`] for who does), and takes no new epoch while it runs: a new owner is a
//! new `Drive`.

mod append;
mod catalog;
mod census;
mod collect;
mod contents;
mod format;
mod medium;
mod open;
mod reading;
mod recover;
mod scan;
mod scrub;
mod serve;

use core::time::Duration;
use std::collections::VecDeque;

use mesh_core::{
    Cx, Error, ErrorKind, Event, Pool, Request, StorageFunction, WorkOutcome,
    figures::{Figures as _, Labels, Page},
    id::Token,
    limits::{MAILBOX_BYTES_MAX, MAILBOX_JOBS_MAX},
    port::Geometry,
    snapshot::{Mark, Snapshot},
    spec::{DriveSpec, FunctionSpec},
    time::Instant,
};

pub use format::FORMAT_VERSION;
pub use medium::{INSPECT_BYTES, Medium, inspect, superblock};
pub use reading::Reading;
use recover::Recovery;
pub(crate) use serve::Counted;
use serve::Serving;

/// The function that serves [`mesh_core::op::ShardOp`]s from one medium.
#[derive(Debug)]
pub struct Drive {
    spec: DriveSpec,
    geometry: Geometry,
    pool: Pool,
    phase: Phase,
    /// Requests that came before it could serve.
    parked: VecDeque<(Token, Request)>,
    parked_bytes: usize,
    /// What it did while it served, if it serves no more.
    counted: Counted,
}

#[derive(Debug)]
enum Phase {
    /// Not configured yet.
    Idle,
    Recovering(Box<Recovery>),
    Serving(Box<Serving>),
    /// Answers everything with this; so many jobs have not come back.
    Refusing(Error, usize),
}

impl Drive {
    /// A drive on a medium of this geometry. It does nothing before it is configured; a spec for a drive in that
    /// configuration takes the place of this one.
    #[must_use]
    pub fn new(spec: DriveSpec, geometry: Geometry, pool: Pool) -> Self {
        Self {
            spec,
            geometry,
            pool,
            phase: Phase::Idle,
            parked: VecDeque::new(),
            parked_bytes: 0,
            counted: Counted::default(),
        }
    }

    fn configure(&mut self, spec: &FunctionSpec, cx: &mut Cx<'_>) {
        if !matches!(self.phase, Phase::Idle) {
            return;
        }
        if let Some(spec) = spec.parts().find_map(|part| match part {
            FunctionSpec::Drive(spec) => Some(spec),
            _ => None,
        }) {
            self.spec = spec.clone();
        }
        let recovery = Recovery::start(self.spec.clone(), self.geometry, self.pool.clone(), cx);
        self.phase = Phase::Recovering(Box::new(recovery));
    }

    fn on_request(&mut self, id: Token, request: Request, cx: &mut Cx<'_>) {
        match &mut self.phase {
            Phase::Serving(serving) => serving.on_request(id, request, cx),
            Phase::Refusing(error, _) => cx.reply(id, Err(error.clone())),
            Phase::Idle | Phase::Recovering(_) => {
                let bytes = request.payload.len();
                if self.parked.len() >= MAILBOX_JOBS_MAX || self.parked_bytes + bytes > MAILBOX_BYTES_MAX {
                    let error = Error::new(ErrorKind::Overloaded, "the drive is starting: back off");
                    cx.reply(id, Err(error.with("drive", self.spec.drive)));
                    return;
                }
                self.parked_bytes += bytes;
                self.parked.push_back((id, request));
            }
        }
    }

    fn on_done(&mut self, work: Token, outcome: WorkOutcome, cx: &mut Cx<'_>) {
        match &mut self.phase {
            Phase::Idle => {}
            Phase::Recovering(recovery) => match recovery.on_done(work, outcome, cx) {
                Ok(None) => {}
                Ok(Some(recovered)) => {
                    let scrub_every = Duration::from_millis(self.spec.scrub_every_ms);
                    let serving = Serving::new(recovered, scrub_every, self.pool.clone(), cx);
                    self.phase = Phase::Serving(Box::new(serving));
                    self.unpark(cx);
                }
                Err(error) => {
                    let works = recovery.works();
                    self.refuse(error, works, cx);
                }
            },
            Phase::Serving(serving) => {
                if let Err(cause) = serving.on_done(work, outcome, cx) {
                    let error = Error::new(ErrorKind::DriveFailed, "the drive has failed; it must be started anew")
                        .with("drive", self.spec.drive)
                        .with("cause", cause);
                    serving.fail(&error, cx);
                    let works = serving.works();
                    self.refuse(error, works, cx);
                }
            }
            Phase::Refusing(_, works) => *works = works.saturating_sub(1),
        }
    }

    fn refuse(&mut self, error: Error, works: usize, cx: &mut Cx<'_>) {
        if let Phase::Serving(serving) = &mut self.phase {
            self.counted = core::mem::take(&mut serving.counted);
        }
        self.phase = Phase::Refusing(error, works);
        self.unpark(cx);
    }

    fn unpark(&mut self, cx: &mut Cx<'_>) {
        self.parked_bytes = 0;
        for (id, request) in core::mem::take(&mut self.parked) {
            self.on_request(id, request, cx);
        }
    }
}

impl StorageFunction for Drive {
    fn on_event(&mut self, event: Event, cx: &mut Cx<'_>) {
        match event {
            Event::Configure(spec) => self.configure(&spec, cx),
            Event::Request { id, request } => self.on_request(id, request, cx),
            Event::Done { work, outcome } => self.on_done(work, outcome, cx),
            Event::Wake => {
                if let Phase::Serving(serving) = &mut self.phase {
                    serving.on_wake(cx);
                }
            }
            // It calls nobody.
            Event::Reply { .. } => {}
        }
    }

    fn wake_at(&self) -> Option<Instant> {
        match &self.phase {
            Phase::Serving(serving) => serving.wake_at(),
            _ => None,
        }
    }

    fn in_flight(&self) -> usize {
        self.parked.len()
            + match &self.phase {
                Phase::Idle => 0,
                Phase::Recovering(recovery) => recovery.works(),
                Phase::Serving(serving) => serving.in_flight(),
                Phase::Refusing(_, works) => *works,
            }
    }

    /// A scrub may be broken off.
    fn unanswered(&self) -> usize {
        match &self.phase {
            Phase::Serving(serving) => self.parked.len() + serving.unanswered(),
            _ => self.in_flight(),
        }
    }

    fn figures(&self, labels: &Labels, page: &mut Page) {
        self.counted.tell(labels, page);
        if let Phase::Serving(serving) = &self.phase {
            serving.counted.tell(labels, page);
        }
    }

    /// Empty: what a drive knows is on its medium.
    fn snapshot(&mut self, _since: Option<Mark>) -> Snapshot {
        Snapshot::default()
    }
}

#[cfg(test)]
mod tests;
