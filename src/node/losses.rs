//! Lost data, as whoever reads through this node meets them: each time is counted and shown by `mesh status`, and said in
//! the log, not more than once in a while, for a client may ask for ever.

use core::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};
use std::sync::Mutex;

use mesh_core::{ErrorKind, Op, Outcome, op::ObjectOp, time::Instant};

use super::lock;

/// What was found lost since the node started.
#[derive(Debug, Default)]
pub(super) struct Losses {
    count: AtomicU64,
    said_at: Mutex<Option<Instant>>,
}

/// What a request reads: what to say if that is lost.
pub(super) fn subject(op: &Op) -> Option<String> {
    match op {
        Op::Object(op) => match &**op {
            ObjectOp::Read { bucket, key, .. } => Some(format!("{bucket}/{key}")),
            _ => None,
        },
        _ => None,
    }
}

impl Losses {
    /// How often.
    pub(super) fn count(&self) -> u64 {
        self.count.load(Relaxed)
    }

    /// Looks at what became of a read.
    pub(super) fn see(&self, subject: Option<&str>, outcome: &Outcome, now: Instant) {
        let (Some(subject), Err(error)) = (subject, outcome) else { return };
        if error.kind() != ErrorKind::Lost {
            return;
        }
        let count = self.count.fetch_add(1, Relaxed) + 1;
        let mut said_at = lock(&self.said_at);
        if said_at.is_none_or(|at| now >= at + SAID_EVERY) {
            *said_at = Some(now);
            tracing::error!(object = subject.escape_debug().to_string(), %error, count, "DATA LOST: an object cannot be read any more");
        }
    }
}

/// Between two lines of the log.
const SAID_EVERY: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use mesh_core::Error;

    use super::*;

    #[test]
    fn only_lost_data_are_counted_and_each_time_they_are() {
        let (losses, now) = (Losses::default(), Instant::default());
        let lost = Err(Error::new(ErrorKind::Lost, "too few"));
        losses.see(Some("photos/cat"), &lost, now);
        losses.see(Some("photos/cat"), &lost, now);
        losses.see(None, &lost, now);
        losses.see(Some("photos/cat"), &Err(Error::new(ErrorKind::TooFewShards, "later")), now);
        losses.see(Some("photos/cat"), &Err(Error::new(ErrorKind::NotFound, "gone")), now);
        assert_eq!(losses.count(), 2);
        assert_eq!(*lock(&losses.said_at), Some(now));
        losses.see(Some("photos/cat"), &lost, now + SAID_EVERY / 2);
        assert_eq!(*lock(&losses.said_at), Some(now));
        losses.see(Some("photos/cat"), &lost, now + SAID_EVERY);
        assert_eq!(*lock(&losses.said_at), Some(now + SAID_EVERY));
    }
}
