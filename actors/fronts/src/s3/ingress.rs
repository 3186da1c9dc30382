//! What a gateway is given by its node: the way to the Object function, and access keys.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use mesh_core::{Error, Outcome, Request, id::TenantId};

/// The way to the Object function of this node.
pub trait Ingress: Send + Sync {
    /// Sends a request and brings its outcome. It is answered by the request's deadline, as `Timeout` at the latest.
    /// Dropping the future gives up waiting; the request may still take effect.
    fn ask(&self, request: Request) -> BoxFuture<'static, Outcome>;
}

/// An access key, usable.
#[derive(Clone)]
pub struct AccessKey {
    /// The secret half. It never leaves the gateway.
    pub secret: String,
    /// Whose it is.
    pub tenant: TenantId,
    /// Whose it is, inside the tenant.
    pub principal: Arc<str>,
}

impl core::fmt::Debug for AccessKey {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "AccessKey({} {})", self.tenant, self.principal)
    }
}

/// The access keys of the cluster.
pub trait AccessKeys: Send + Sync {
    /// The key whose public half is `access`. Must not block: it answers from what the node already knows.
    fn lookup(&self, access: &str) -> Option<AccessKey>;

    /// Whether what this node knows can be relied on: a key that it does not know may be one that it has not heard of
    /// yet. Once ready, always ready.
    ///
    /// # Errors
    /// What it still waits for, in words.
    fn ready(&self) -> Result<(), Error> {
        Ok(())
    }
}
