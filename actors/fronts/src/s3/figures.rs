//! What the front end counts, for who watches its node. Who was refused is counted in [`auth`](super::auth).

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use hyper::StatusCode;
use mesh_core::{
    figures::{By, Counter, Figures as _, Gauge, Histogram, Labels, Level, Page, PerTenant, Seen, Split},
    id::TenantId,
};

use super::{
    auth::Refusal,
    gateway::{Gateway, Operation},
};

mesh_core::figures! {
    /// What was done for one tenant.
    pub(super) struct OfTenant as "mesh_s3" {
        /// S3 requests that were answered, by operation and class of status. What was refused before anybody knew what it asks for has the operation `none`, and what nobody is known to have asked no tenant.
        pub(super) requests: Seen<(Operation, Class), Counter>,
        /// Bytes of objects and parts that came.
        pub(super) received_bytes: Counter,
        /// Bytes of objects that went.
        pub(super) sent_bytes: Counter,
    }

    /// What was done for all together.
    pub(super) struct House as "mesh_s3" {
        /// From the head of a request until the head of its answer was ready.
        pub(super) request_seconds: By<Operation, Histogram>,
        /// Requests that were refused at the door, by why: their signature was not believed, or never looked at.
        pub(super) refused: By<Refusal, Counter>,
        /// Requests that were answered SlowDown: over a tenant's rate, or no room.
        pub(super) slow_downs: Counter,
        /// Answers that broke off in the middle of a body, by a fault or because the client left or stopped reading.
        pub(super) broken: Counter,
        /// Requests that have no whole answer yet.
        pub(super) requests_under_way: Gauge,
        /// Connections of clients that were let in.
        pub(super) accepted_connections: Counter,
        /// Connections of clients that found no room.
        pub(super) refused_connections: Counter,
        /// Connections of clients now.
        pub(super) connections: Gauge,
    }

    /// What requests hold of the node's memory.
    struct Memory as "mesh_s3" {
        /// Bytes that S3 requests hold of the node's memory now.
        memory_held_bytes: Level,
        /// Bytes that S3 requests may hold of the node's memory.
        memory_limit_bytes: Level,
    }
}

impl OfTenant {
    /// Requests that were answered with a 5xx status.
    pub(super) fn failed(&self) -> u64 {
        Operation::ALL.iter().map(|operation| self.requests.of((*operation, Class::Failed)).value()).sum()
    }
}

/// Everything that a gateway counts.
#[derive(Debug, Default)]
pub(super) struct Figures {
    pub(super) tenants: PerTenant<OfTenant>,
    pub(super) house: House,
}

impl Figures {
    /// A request was answered.
    pub(super) fn answered(&self, tenant: Option<TenantId>, operation: Operation, status: StatusCode, took: Duration) {
        self.tenants.of(tenant).requests.of((operation, Class::of(status))).count();
        self.house.request_seconds.of(operation).took(took);
    }
}

/// Names what a front end tells, for a node that has none.
pub fn declare(page: &mut Page) {
    PerTenant::<OfTenant>::declare(page);
    House::declare(page);
    Memory::declare(page);
}

impl Gateway {
    /// What it has counted since it was made, and what it holds.
    pub fn figures(&self, page: &mut Page) {
        let labels = Labels::default();
        let figures = self.counters().figures();
        figures.tenants.tell(&labels, page);
        figures.house.tell(&labels, page);
        let (held, limit) = self.memory();
        let memory = Memory { memory_held_bytes: Level(held as u64), memory_limit_bytes: Level(limit as u64) };
        memory.tell(&labels, page);
    }
}

/// The class of a status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    Fine,
    Elsewhere,
    Refused,
    Failed,
}

impl Class {
    fn of(status: StatusCode) -> Self {
        match status.as_u16() {
            0..300 => Self::Fine,
            300..400 => Self::Elsewhere,
            400..500 => Self::Refused,
            _ => Self::Failed,
        }
    }
}

impl Split for Class {
    const COUNT: usize = 4;

    fn place(self) -> usize {
        self as usize
    }

    fn label(place: usize, labels: Labels) -> Labels {
        labels.word("status", ["2xx", "3xx", "4xx", "5xx"].get(place).copied().unwrap_or_default())
    }
}

/// Something that there is one more of, until this is dropped.
pub(super) struct OneMore(Arc<Figures>, fn(&House) -> &Gauge);

impl OneMore {
    pub(super) fn of(figures: &Arc<Figures>, gauge: fn(&House) -> &Gauge) -> Self {
        gauge(&figures.house).rise();
        Self(figures.clone(), gauge)
    }
}

impl Drop for OneMore {
    fn drop(&mut self) {
        (self.1)(&self.0.house).fall();
    }
}

/// What is asked for, once that is known.
#[derive(Debug, Default)]
pub(super) struct Known(OnceLock<Operation>);

impl Known {
    pub(super) fn is(&self, operation: Operation) {
        self.0.get_or_init(|| operation);
    }

    pub(super) fn operation(&self) -> Operation {
        self.0.get().copied().unwrap_or_default()
    }
}
