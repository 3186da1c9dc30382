//! Two compute back ends, one for what the other does not offer.

use std::sync::Arc;

use mesh_core::{
    ErrorKind, WorkOutcome,
    port::{Compute, ComputeJob},
};

/// Gives each job to the first back end, and to the second what the first answers with `Unsupported`. Other errors are
/// not tried again: they say something about the data. Keys are always made by the second, so that a data key's bytes
/// are in one place only.
pub struct Fallback {
    first: Arc<dyn Compute>,
    second: Arc<dyn Compute>,
}

impl core::fmt::Debug for Fallback {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Fallback")
    }
}

impl Fallback {
    /// See the type.
    #[must_use]
    pub fn new(first: Arc<dyn Compute>, second: Arc<dyn Compute>) -> Self {
        Self { first, second }
    }
}

impl Compute for Fallback {
    fn run(&self, job: ComputeJob) -> WorkOutcome {
        if matches!(job, ComputeJob::WrapKey { .. }) {
            return self.second.run(job);
        }
        // Copies no payload: buffers are shared.
        match self.first.run(job.clone()) {
            Err(error) if error.kind() == ErrorKind::Unsupported => self.second.run(job),
            outcome => outcome,
        }
    }

    fn is_small(&self, job: &ComputeJob) -> bool {
        self.second.is_small(job)
    }
}

#[cfg(test)]
mod tests {
    use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    use mesh_core::{Buf, Error, id::KeyId, port::WorkOutput, topology::Code};

    use super::*;

    /// Always answers the same, and counts.
    struct Always(Result<WorkOutput, ErrorKind>, AtomicUsize);

    impl Always {
        fn new(outcome: Result<WorkOutput, ErrorKind>) -> Arc<Self> {
            Arc::new(Self(outcome, AtomicUsize::new(0)))
        }
    }

    impl Compute for Always {
        fn run(&self, _: ComputeJob) -> WorkOutcome {
            self.1.fetch_add(1, Relaxed);
            self.0.clone().map_err(|kind| Error::new(kind, "as told"))
        }

        fn is_small(&self, _: &ComputeJob) -> bool {
            false
        }
    }

    fn encode() -> ComputeJob {
        ComputeJob::Encode { code: Code { data: 2, parity: 1 }, bytes: Buf::zeroed(10) }
    }

    /// The outcome of a job, and how often each back end was asked.
    fn run(first: Result<WorkOutput, ErrorKind>, job: ComputeJob) -> (Result<WorkOutput, ErrorKind>, usize, usize) {
        let (first, second) = (Always::new(first), Always::new(Ok(WorkOutput::Bytes(Buf::zeroed(2)))));
        let outcome = Fallback::new(first.clone(), second.clone()).run(job).map_err(|error| error.kind());
        (outcome, first.1.load(Relaxed), second.1.load(Relaxed))
    }

    #[test]
    fn only_what_is_unsupported_falls_back() {
        let (one, two) = (WorkOutput::Bytes(Buf::zeroed(1)), WorkOutput::Bytes(Buf::zeroed(2)));
        assert_eq!(run(Ok(one.clone()), encode()), (Ok(one), 1, 0));
        assert_eq!(run(Err(ErrorKind::Unsupported), encode()), (Ok(two), 1, 1));
        assert_eq!(run(Err(ErrorKind::Corrupt), encode()), (Err(ErrorKind::Corrupt), 1, 0));
    }

    #[test]
    fn keys_are_made_by_the_second() {
        let job = ComputeJob::WrapKey { key: KeyId(1), entropy: vec![0; 44] };
        assert_eq!(run(Ok(WorkOutput::Done), job), (Ok(WorkOutput::Bytes(Buf::zeroed(2))), 0, 1));
    }
}
