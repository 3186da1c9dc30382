//! The way by which a request came: its connection, and what is taken for it before anybody knows what it is.
//!
//! s3s stands between the door and the operations and carries none of this; so it goes beside, with the task.
//!
//! What a request reads or makes whole, a document or a page of a listing, it holds from before that until its answer is
//! ready; then the answer is what it is held for. In between it asks for no more: whoever holds something does not wait.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytes::Bytes;
use mesh_core::{Trace, id::TenantId};
use tokio::time::Instant;

use super::{
    credit::{Purse, Stake},
    figures::Known,
    outflow::staked,
    roster::Link,
};

tokio::task_local! {
    static VIA: Arc<Via>;
}

/// The way of one request.
pub(super) struct Via {
    /// Its connection.
    pub(super) link: Link,
    /// What a frame of its body may have.
    pub(super) frame_bytes: usize,
    /// Which request it is.
    pub(super) trace: Trace,
    /// What for.
    pub(super) operation: Known,
    /// Who asks, once that is known.
    tenant: OnceLock<TenantId>,
    /// What is held until it is answered: once at most.
    holds: Mutex<Option<Held>>,
}

/// So many bytes that a request has taken, and holds.
pub(super) struct Held {
    pub(super) purse: Purse,
    pub(super) bytes: usize,
}

impl Held {
    /// An answer that keeps what it has of this. What it does not need goes back; what it needs beyond is taken if it is
    /// there, without waiting.
    ///
    /// # Errors
    /// The answer: there is not enough for it.
    pub(super) fn keep(self, answer: Bytes) -> Result<Bytes, Bytes> {
        let Self { purse, bytes: held } = self;
        let len = answer.len();
        let Some(base) = purse.beside(len).at_once(len.min(held)) else { return Err(answer) };
        let answer = match len.checked_sub(held) {
            None => {
                drop(Stake::Extra { purse: purse.clone(), bytes: held - len });
                answer
            }
            Some(0) => answer,
            Some(beyond) => match purse.beside(0).at_once(beyond) {
                Some(stake) => staked(answer, stake),
                None => return Err(answer),
            },
        };
        purse.waits_for_client();
        Ok(staked(answer, base))
    }
}

impl Via {
    pub(super) fn new(link: Link, frame_bytes: usize, trace: Trace) -> Arc<Self> {
        let (operation, tenant) = (Known::default(), OnceLock::new());
        Arc::new(Self { link, frame_bytes, trace, operation, tenant, holds: Mutex::default() })
    }

    /// Does `work` for a request that came this way.
    pub(super) async fn scope<F: Future>(self: Arc<Self>, work: F) -> F::Output {
        VIA.scope(self, work).await
    }

    /// The way of the request that this task works for; a connection of nobody's elsewhere.
    pub(super) fn here() -> Arc<Self> {
        VIA.try_with(Arc::clone).unwrap_or_else(|_| Self::new(Link::new(Instant::now()), 0, Trace::NONE))
    }

    /// Now it is known who asks.
    pub(super) fn is_of(&self, tenant: TenantId) {
        self.tenant.get_or_init(|| tenant);
    }

    pub(super) fn tenant(&self) -> Option<TenantId> {
        self.tenant.get().copied()
    }

    /// What was held until now.
    pub(super) fn take(&self) -> Option<Held> {
        self.holds.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Keeps what was taken until the request has been worked on.
    pub(super) fn hold(&self, held: Held) {
        let before = self.holds.lock().unwrap_or_else(PoisonError::into_inner).replace(held);
        debug_assert!(before.is_none(), "a request waits for more while it holds something");
    }
}

#[cfg(test)]
mod tests {
    use mesh_core::Pool;

    use super::{super::credit::Credit, *};

    const MIB: usize = 1 << 20;

    async fn held(credit: &Credit, bytes: usize) -> Held {
        let purse = credit.admit(TenantId(1), bytes, Link::new(Instant::now())).await.expect("room");
        Held { purse, bytes }
    }

    #[tokio::test]
    async fn an_answer_keeps_of_what_was_held_what_it_has() {
        let credit = Credit::new(0, Pool::default());
        for (taken, len) in [(4 * MIB, 1000), (MIB, MIB), (1000, MIB), (MIB, 0)] {
            let answer = held(&credit, taken).await.keep(Bytes::from(vec![7; len])).expect("enough");
            assert_eq!((answer.len(), credit.held().0), (len, len), "{taken}");
            drop(answer);
            assert_eq!(credit.held().0, 0, "{taken}");
        }
    }

    #[tokio::test]
    async fn an_answer_that_has_too_much_waits_for_nothing() {
        let credit = Credit::new(0, Pool::default());
        let mut others = Vec::new();
        for _ in 0..4 {
            others.push(held(&credit, 10 * MIB).await);
        }
        let small = held(&credit, 1000).await;
        assert!(small.keep(Bytes::from(vec![7; 10 * MIB])).is_err());
        assert_eq!(credit.held().0, 40 * MIB);
    }
}
