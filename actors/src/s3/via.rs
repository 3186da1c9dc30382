//! The way by which a request came: its connection, and what is taken for it before anybody knows what it is.
//!
//! s3s stands between the door and the operations and carries none of this; so it goes beside, with the task.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use mesh_core::id::TenantId;
use tokio::time::Instant;

use super::{credit::Purse, roster::Link};

tokio::task_local! {
    static VIA: Arc<Via>;
}

/// The way of one request.
pub(super) struct Via {
    /// Its connection.
    pub(super) link: Link,
    /// What a frame of its body may have.
    pub(super) frame_bytes: usize,
    /// Who asks, once that is known.
    tenant: OnceLock<TenantId>,
    /// What is held until it is answered.
    holds: Mutex<Vec<Purse>>,
}

impl Via {
    pub(super) fn new(link: Link, frame_bytes: usize) -> Arc<Self> {
        Arc::new(Self { link, frame_bytes, tenant: OnceLock::new(), holds: Mutex::default() })
    }

    /// Does `work` for a request that came this way.
    pub(super) async fn scope<F: Future>(self: Arc<Self>, work: F) -> F::Output {
        VIA.scope(self, work).await
    }

    /// The way of the request that this task works for; a connection of nobody's elsewhere.
    pub(super) fn here() -> Arc<Self> {
        VIA.try_with(Arc::clone).unwrap_or_else(|_| Self::new(Link::new(Instant::now()), 0))
    }

    /// Now it is known who asks.
    pub(super) fn is_of(&self, tenant: TenantId) {
        self.tenant.get_or_init(|| tenant);
    }

    pub(super) fn tenant(&self) -> Option<TenantId> {
        self.tenant.get().copied()
    }

    /// Lets go of what was held.
    pub(super) fn let_go(&self) {
        self.holds.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Keeps `purse` until the request has been worked on.
    pub(super) fn hold(&self, purse: Purse) {
        self.holds.lock().unwrap_or_else(PoisonError::into_inner).push(purse);
    }
}
