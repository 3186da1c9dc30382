//! Medians, spreads and ratios of what was measured, and how they are written.

use core::fmt;

/// What one side came to in every repetition, in the order of the repetitions.
#[derive(Clone, Debug, Default)]
pub(crate) struct Samples(Vec<f64>);

impl Samples {
    pub(crate) fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    /// The value in the middle; NaN without any.
    pub(crate) fn median(&self) -> f64 {
        self.at(50)
    }

    /// The value that `share` percent of all are not above.
    pub(crate) fn at(&self, share: usize) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len().saturating_sub(1) * share / 100).copied().unwrap_or(f64::NAN)
    }

    /// Each of these against the one that `other` measured in the same repetition: what slowed one slowed both.
    pub(crate) fn against(&self, other: &Self) -> Self {
        Self(self.0.iter().zip(&other.0).map(|(ours, theirs)| ours / theirs).collect())
    }

    /// Each of these and what `other` measured in the same repetition, together.
    pub(crate) fn plus(&self, other: &Self) -> Self {
        Self(self.0.iter().zip(&other.0).map(|(one, more)| one + more).collect())
    }

    pub(crate) fn is_finite(&self) -> bool {
        self.0.iter().all(|value| value.is_finite())
    }

    pub(crate) fn times(&self, factor: f64) -> Self {
        Self(self.0.iter().map(|value| value * factor).collect())
    }
}

/// `median (least..most)`
impl fmt::Display for Samples {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "{} ({}..{})", short(self.median()), short(self.at(0)), short(self.at(100)))
    }
}

/// Three digits or so: more would only be noise.
pub(crate) fn short(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 0.1 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}
