//! Lease: how long a response may go on reading an object of which it does not know whether it is there still.
//!
//! The bytes of what was deleted or replaced are kept for the grace and no longer. So a response that has seen its object
//! may read for that long; well before the end it looks again, and if the object is what it was, the time begins anew. If
//! it is not, the response goes on while its bytes are certain to be there, and then ends with the reason: whoever reads
//! shards that are being deleted could not tell that from a loss. Times are of one clock, the reader's; an eighth of the
//! grace is left for what is under way, and for clocks that do not run alike.

use core::time::Duration;

use mesh_core::{Answer, Buf, Error, ErrorKind, Lane, op::ObjectOp, time::Instant};

use super::{caller::Caller, outflow::Source};

/// See the module's page.
#[derive(Debug)]
pub(super) struct Lease {
    grace: Duration,
    /// The object was there at this time or later.
    seen: Instant,
    /// It is not any more.
    gone: bool,
}

/// What to do before the next piece is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// Read it.
    Go,
    /// Look whether the object is there still.
    Look,
    /// End: the bytes may be gone.
    Over,
}

impl Lease {
    /// For an object that was there when it was asked for.
    pub(super) const fn new(grace: Duration, asked: Instant) -> Self {
        Self { grace, seen: asked, gone: false }
    }

    fn judge(&self, now: Instant) -> Verdict {
        match now.since(self.seen) {
            age if age < self.grace / 2 => Verdict::Go,
            _ if !self.gone => Verdict::Look,
            age if age < self.grace - self.grace / 8 => Verdict::Go,
            _ => Verdict::Over,
        }
    }

    /// The object was looked for.
    const fn looked(&mut self, asked: Instant, is_there: bool) {
        if is_there {
            self.seen = asked;
        } else {
            self.gone = true;
        }
    }

    /// Makes certain that the object's bytes are there for a moment more.
    ///
    /// # Errors
    /// `Conflict` if they may be gone: read the object again.
    pub(super) async fn hold(&mut self, caller: &Caller, source: &Source) -> Result<(), Error> {
        let now = caller.clock.now();
        if self.judge(now) == Verdict::Look {
            let head = ObjectOp::Head { bucket: source.bucket.clone(), key: source.key.clone() };
            match caller.ask(head, Buf::empty(), Lane::Interactive).await.map(|response| response.answer) {
                Ok(Answer::Object(row)) => self.looked(now, row.version == source.object.version),
                Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NoSuchBucket) => {
                    self.looked(now, false);
                }
                Ok(_) => return Err(Error::bug("Head was not answered by an object")),
                Err(error) => return Err(error),
            }
        }
        if self.judge(caller.clock.now()) != Verdict::Over {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Conflict,
            "the object was deleted or replaced while it was read, and its bytes are kept no longer \
             (timing.reclaim_grace): read it again, or faster",
        )
        .with("bucket", &source.bucket)
        .with("version", source.object.version)
        .with("kept_s", self.grace.as_secs()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_looks_again_in_time_and_ends_before_the_bytes_do() {
        let at = |seconds| Instant(5) + Duration::from_secs(seconds);
        let mut lease = Lease::new(Duration::from_secs(80), at(0));
        assert_eq!([0, 39, 40, 500].map(|age| lease.judge(at(age))), {
            use Verdict::{Go, Look};
            [Go, Go, Look, Look]
        });
        // It was there whenever somebody looked: there is no end to it.
        lease.looked(at(500), true);
        assert_eq!([539, 540].map(|age| lease.judge(at(age))), [Verdict::Go, Verdict::Look]);
        // It is gone, since 500 at the earliest: its bytes stay until 580.
        lease.looked(at(545), false);
        assert_eq!([545, 569, 570].map(|age| lease.judge(at(age))), [Verdict::Go, Verdict::Go, Verdict::Over]);
        // Whoever slept through it all is told so at the first look.
        let mut late = Lease::new(Duration::from_secs(80), at(0));
        late.looked(at(1000), false);
        assert_eq!(late.judge(at(1000)), Verdict::Over);
    }
}
