//! How much is done, and how long that takes: out of what was counted by two moments.

use core::time::Duration;

use mesh_core::{figures::bucket_bound, op::Work};

/// Work in a second, and how long it took.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Rate {
    pub(crate) requests: f64,
    pub(crate) failed: f64,
    pub(crate) received_bytes: f64,
    pub(crate) sent_bytes: f64,
    /// Half of the requests took at most so long; `None`: there were none.
    pub(crate) p50: Option<Took>,
    /// 99 of 100 did.
    pub(crate) p99: Option<Took>,
}

/// How long something took at most, as far as that was counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Took {
    /// Within this, and longer than half of it.
    Within(Duration),
    /// Longer than this.
    Longer(Duration),
}

impl Rate {
    /// What was done between two moments; `None` if anything is counted less at the later one: it is of something that began anew.
    pub(crate) fn between(before: &Work, last: &Work, span: Duration) -> Option<Self> {
        Self::of(&more(before, last)?, span)
    }

    /// What several have done, each between two moments of its own.
    pub(crate) fn together(all: &[(&Work, &Work, Duration)]) -> Option<Self> {
        let (mut sum, mut took): (Option<Self>, Vec<u64>) = (None, Vec::new());
        for (before, last, span) in all {
            let Some(work) = more(before, last) else { continue };
            let Some(rate) = Self::of(&work, *span) else { continue };
            took.resize(took.len().max(work.took.len()), 0);
            took.iter_mut().zip(&work.took).for_each(|(sum, more)| *sum = sum.saturating_add(*more));
            sum = Some(match sum {
                None => rate,
                Some(sum) => Self {
                    requests: sum.requests + rate.requests,
                    failed: sum.failed + rate.failed,
                    received_bytes: sum.received_bytes + rate.received_bytes,
                    sent_bytes: sum.sent_bytes + rate.sent_bytes,
                    ..sum
                },
            });
        }
        sum.map(|sum| Self { p50: percentile(&took, 50), p99: percentile(&took, 99), ..sum })
    }

    fn of(work: &Work, span: Duration) -> Option<Self> {
        let seconds = Some(span.as_secs_f64()).filter(|seconds| *seconds > 0.0)?;
        let each_second = |count: u64| count as f64 / seconds;
        Some(Self {
            requests: each_second(work.requests),
            failed: each_second(work.failed),
            received_bytes: each_second(work.received_bytes),
            sent_bytes: each_second(work.sent_bytes),
            p50: percentile(&work.took, 50),
            p99: percentile(&work.took, 99),
        })
    }
}

/// By how much everything has grown; `None` if anything is less than it was.
fn more(before: &Work, last: &Work) -> Option<Work> {
    // Who has answered nothing yet may have no buckets.
    let then = before.took.iter().copied().chain(std::iter::repeat(0));
    let took: Option<Vec<u64>> = last.took.iter().zip(then).map(|(last, before)| last.checked_sub(before)).collect();
    Some(Work {
        requests: last.requests.checked_sub(before.requests)?,
        failed: last.failed.checked_sub(before.failed)?,
        received_bytes: last.received_bytes.checked_sub(before.received_bytes)?,
        sent_bytes: last.sent_bytes.checked_sub(before.sent_bytes)?,
        took: took.filter(|took| took.len() >= before.took.len())?,
    })
}

/// The bound within which so many of a hundred are.
fn percentile(took: &[u64], percent: u128) -> Option<Took> {
    let all: u128 = took.iter().map(|count| u128::from(*count)).sum();
    // Of few, the slowest is the 99th of a hundred.
    let wanted = (all * percent).div_ceil(100).max(1);
    let mut seen = 0;
    for (bucket, count) in took.iter().enumerate() {
        seen += u128::from(*count);
        if seen >= wanted {
            let below = || bucket.checked_sub(1).and_then(bucket_bound).unwrap_or_default();
            return Some(bucket_bound(bucket).map_or_else(|| Took::Longer(below()), Took::Within));
        }
    }
    None
}
