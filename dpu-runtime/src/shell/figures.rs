//! What the actors of a node were asked and what they answered, by kind of function; what their functions have counted; and
//! what drives did to their media.
//!
//! ```text
//! request ─► Meter::begin ─► mailbox ─► function ─► answer ─► Meter::end     per kind and tenant; how long, per kind and lane
//!                                          │ figures(): when somebody looks, and when its actor ends
//!                                          ▼
//!                                        Told: what is still there, and what is gone, together: no count ever falls
//! ```
//!
//! Counted for as long as the process lives, whatever becomes of single actors.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use mesh_core::{
    ErrorKind, Lane, Outcome, Request, StorageFunction, Trace,
    figures::{By, Counter, Figures as _, Histogram, Labels, Page, PerTenant, Seen},
    id::{ActorId, DriveId, NodeId, TenantId},
    limits::KIND_BYTES_MAX,
    port::{Clock, DiskJob},
    time::Instant,
};

mesh_core::figures! {
    /// What functions of one kind were asked, for one tenant.
    struct Asked as "mesh_function" {
        /// Requests that functions of this kind have answered on this node, with an error or without.
        requests: Counter,
        /// Requests that functions of this kind have answered with an error, by its kind and by whether it may have been done all the same.
        errors: Seen<ErrorKind, Counter>,
        /// Payload bytes that came with requests.
        received_bytes: Counter,
        /// Payload bytes that went with answers.
        sent_bytes: Counter,
    }

    /// The same for all tenants together.
    struct Times as "mesh_function" {
        /// From the moment a request was let in until it was answered.
        request_seconds: By<Lane, Histogram>,
    }

    /// What became of requests and of functions, whichever they were.
    pub(super) struct Doorkeeping as "mesh_actor" {
        /// Requests that were not let in to an actor here: it had moved, was moving or ending, is not here, or had all it can take.
        pub(super) turned_away: Seen<ErrorKind, Counter>,
        /// Functions that panicked.
        pub(super) panics: Counter,
    }

    /// What a drive did to its medium.
    pub(super) struct Medium as "mesh_drive" {
        /// Reads from the medium that have ended.
        reads: Counter,
        /// Writes to the medium that have ended.
        writes: Counter,
        /// Syncs of the medium that have ended.
        syncs: Counter,
        /// Jobs on the medium that failed.
        failures: Counter,
        /// Bytes that were asked of the medium.
        read_bytes: Counter,
        /// Bytes that were given to the medium.
        written_bytes: Counter,
        /// How long a read from the medium took, in its queue and at work.
        read_seconds: Histogram,
        /// How long a write to the medium took, in its queue and at work.
        write_seconds: Histogram,
        /// How long a sync of the medium took, in its queue and at work.
        sync_seconds: Histogram,
    }
}

/// Everything that is counted for the actors of a node.
pub(super) struct HostFigures {
    node: NodeId,
    clock: Arc<dyn Clock>,
    kinds: Mutex<BTreeMap<String, Arc<OfKind>>>,
    /// A node gives a drive a number of its own, a thousand at most.
    media: Mutex<BTreeMap<DriveId, Arc<Medium>>>,
    pub(super) doorkeeping: Doorkeeping,
    told: Mutex<Told>,
}

/// What functions of one kind were asked.
pub(super) struct OfKind {
    node: NodeId,
    kind: String,
    clock: Arc<dyn Clock>,
    asked: PerTenant<Asked>,
    times: Times,
}

/// What functions have said of themselves.
#[derive(Default)]
struct Told {
    /// Cells so far.
    cells: u64,
    /// By cell: when it was asked last.
    there: BTreeMap<u64, Page>,
    /// Of those that have ended.
    gone: Page,
}

/// Kinds that are counted apart at most; further ones are counted together. A program has some ten.
const KINDS_MAX: usize = 64;
/// Their name.
const OTHER: &str = "other";

impl HostFigures {
    pub(super) fn new(node: NodeId, clock: Arc<dyn Clock>) -> Self {
        Self {
            node,
            clock,
            kinds: Mutex::default(),
            media: Mutex::default(),
            doorkeeping: Doorkeeping::default(),
            told: Mutex::default(),
        }
    }

    /// Where functions of a kind are counted.
    pub(super) fn of_kind(&self, kind: &str) -> Arc<OfKind> {
        debug_assert!(kind.len() <= KIND_BYTES_MAX, "{kind}");
        let mut kinds = lock(&self.kinds);
        let kind = if kinds.len() < KINDS_MAX || kinds.contains_key(kind) { kind } else { OTHER };
        let new = || {
            Arc::new(OfKind {
                node: self.node,
                kind: kind.to_owned(),
                clock: self.clock.clone(),
                asked: PerTenant::default(),
                times: Times::default(),
            })
        };
        kinds.entry(kind.to_owned()).or_insert_with(new).clone()
    }

    /// Where a drive's I/O is counted.
    pub(super) fn medium(&self, drive: DriveId) -> Arc<Medium> {
        lock(&self.media).entry(drive).or_default().clone()
    }

    /// A number for a cell, under which its function's figures are kept.
    pub(super) fn cell(&self) -> u64 {
        let mut told = lock(&self.told);
        told.cells += 1;
        told.cells
    }

    /// Keeps what a function has counted until now.
    pub(super) fn keep(&self, cell: u64, actor: ActorId, function: &dyn StorageFunction) {
        let page = said(actor, function);
        lock(&self.told).there.insert(cell, page);
    }

    /// The same, for it ends now.
    pub(super) fn part(&self, cell: u64, actor: ActorId, function: &dyn StorageFunction) {
        let page = said(actor, function);
        let mut told = lock(&self.told);
        told.there.remove(&cell);
        told.gone.join(page.lasting());
    }

    /// A job on a medium has begun.
    pub(super) fn begin(medium: Option<Arc<Medium>>, clock: &Arc<dyn Clock>, job: &DiskJob) -> Option<MediumJob> {
        let medium = medium?;
        let (kind, bytes) = match job {
            DiskJob::Read { len, .. } => (Io::Read, u64::from(*len)),
            DiskJob::Write { bufs, .. } => (Io::Write, bufs.iter().map(|buf| buf.len() as u64).sum()),
            DiskJob::Sync => (Io::Sync, 0),
            DiskJob::Discard { .. } => return None,
        };
        Some(MediumJob { medium, clock: clock.clone(), kind, bytes, since: clock.now() })
    }

    /// Everything, as it was told last.
    pub(super) fn page(&self) -> Page {
        let mut page = Page::default();
        PerTenant::<Asked>::declare(&mut page);
        Times::declare(&mut page);
        Medium::declare(&mut page);
        for (kind, figures) in &*lock(&self.kinds) {
            let labels = Labels::default().text("function", kind);
            figures.asked.tell(&labels, &mut page);
            figures.times.tell(&labels, &mut page);
        }
        for (drive, medium) in &*lock(&self.media) {
            medium.tell(&Labels::default().text("drive", drive.to_string()), &mut page);
        }
        self.doorkeeping.tell(&Labels::default(), &mut page);
        let told = lock(&self.told);
        told.there.values().chain([&told.gone]).for_each(|told| page.join(told.clone()));
        page
    }
}

/// What a function has counted, under the name of what it is of.
fn said(actor: ActorId, function: &dyn StorageFunction) -> Page {
    let tenant = actor.as_data().map(|(tenant, _)| tenant).or_else(|| actor.as_tail().map(|(tenant, ..)| tenant));
    let labels = match (tenant, actor.as_drive()) {
        (Some(tenant), _) => Labels::default().with("tenant", mesh_core::figures::Label::Tenant(tenant)),
        (None, Some(drive)) => Labels::default().text("drive", drive.to_string()),
        (None, None) => Labels::default(),
    };
    let mut page = Page::default();
    function.figures(&labels, &mut page);
    page
}

/// A request that is under way.
pub(super) struct Meter {
    of: Arc<OfKind>,
    tenant: Option<TenantId>,
    lane: Lane,
    bytes: u64,
    since: Instant,
    trace: Trace,
}

impl Meter {
    /// It is let in now.
    pub(super) fn begin(of: Arc<OfKind>, request: &Request) -> Self {
        let since = of.clock.now();
        let (tenant, lane, bytes) = (request.tenant(), request.lane, request.payload.len() as u64);
        Self { tenant, lane, bytes, since, trace: request.trace, of }
    }

    /// It is answered now. What belongs to a client's request is logged under its number: so one that failed is found again on
    /// every node that had to do with it.
    pub(super) fn end(self, outcome: &Outcome) {
        if self.trace.is_some() {
            self.log(outcome);
        }
        let asked = self.of.asked.of(self.tenant);
        asked.requests.count();
        asked.received_bytes.add(self.bytes);
        match outcome {
            Ok(response) => asked.sent_bytes.add(response.payload.len() as u64),
            Err(error) => asked.errors.of(error.kind()).count(),
        }
        self.of.times.request_seconds.of(self.lane).took(self.of.clock.now().since(self.since));
    }
}

impl Meter {
    fn log(&self, outcome: &Outcome) {
        let (request, node, function) = (self.trace, self.of.node, &self.of.kind);
        match outcome {
            Ok(_) => tracing::debug!(%request, %node, %function, "a part of a request was answered"),
            // Nobody has to look where a client asks for what is not there, or a node is away.
            Err(error) if !matches!(error.kind(), ErrorKind::Bug | ErrorKind::Corrupt | ErrorKind::Restarted) => {
                tracing::debug!(%request, %node, %function, %error, "a part of a request has failed");
            }
            Err(error) => tracing::warn!(%request, %node, %function, %error, "a part of a request has failed"),
        }
    }
}

/// A job on a medium that is under way.
pub(super) struct MediumJob {
    medium: Arc<Medium>,
    clock: Arc<dyn Clock>,
    kind: Io,
    bytes: u64,
    since: Instant,
}

#[derive(Clone, Copy)]
enum Io {
    Read,
    Write,
    Sync,
}

impl MediumJob {
    /// It has ended.
    pub(super) fn end(self, failed: bool) {
        let Self { medium, clock, kind, bytes, since } = self;
        let took = clock.now().since(since);
        if failed {
            medium.failures.count();
        }
        match kind {
            Io::Read => {
                medium.reads.count();
                medium.read_bytes.add(bytes);
                medium.read_seconds.took(took);
            }
            Io::Write => {
                medium.writes.count();
                medium.written_bytes.add(bytes);
                medium.write_seconds.took(took);
            }
            Io::Sync => {
                medium.syncs.count();
                medium.sync_seconds.took(took);
            }
        }
    }
}

/// Under these locks whole values are replaced, or added to.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
