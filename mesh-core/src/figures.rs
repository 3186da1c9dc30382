//! What is counted: figures, as fields of whoever counts.
//!
//! A figure is one field with its doc line. [`figures!`](crate::figures!) makes the fields of a struct series of a [`Page`]: the
//! name is that of the field behind the struct's prefix, the help is the doc line. So a figure is written down once, where it is
//! counted, and nobody keeps a list of names.
//!
//! - [`Count`], [`Level`]: plain numbers, of machines that nobody shares; [`StorageFunction::figures`] hands them out.
//! - [`Counter`], [`Gauge`], [`Histogram`]: the same for who counts from several threads.
//! - [`By`]: one of them for each value of a label; [`PerTenant`]: a struct of them for each tenant, up to a limit.
//! - [`Page`]: what all who count say at one moment, as values and as text.
//!
//! Counting is one addition: no lock, no allocation, no map. Whatever costs more is done when somebody looks.
//!
//! ```
//! use mesh_core::figures::{Count, Counter, Figures as _, Labels, Page};
//!
//! mesh_core::figures! {
//!     /// What a kettle did.
//!     pub struct Kettle as "mesh_kettle" {
//!         /// Times that water boiled.
//!         pub boiled: Count,
//!     }
//! }
//!
//! let mut kettle = Kettle::default();
//! kettle.boiled.add(1);
//! let mut page = Page::default();
//! kettle.tell(&Labels::default(), &mut page);
//! let text = page.text(|_| None);
//! assert_eq!(
//!     text,
//!     "# HELP mesh_kettle_boiled_total Times that water boiled.\n# TYPE mesh_kettle_boiled_total counter\nmesh_kettle_boiled_total 1\n"
//! );
//! ```
//!
//! [`StorageFunction::figures`]: crate::StorageFunction::figures

mod page;
mod tenants;

use core::{
    fmt,
    marker::PhantomData,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

pub use page::{Family, Kind, Label, Labels, Page, Value};
pub use tenants::PerTenant;

use crate::{
    effect::Lane,
    error::{Certainty, ErrorKind},
    topology::{DriveState, NodeState},
};

/// A field that can be looked at.
pub trait Figure {
    /// How its number behaves.
    const KIND: Kind;

    /// Adds what it says to its family.
    fn tell(&self, labels: &Labels, family: &mut Family);
}

/// A struct of figures: [`figures!`](crate::figures!) makes one.
pub trait Figures {
    /// Names its families, without a number: so that every node has the same ones.
    fn declare(page: &mut Page)
    where
        Self: Sized;

    /// Adds what its fields say, under these labels.
    fn tell(&self, labels: &Labels, page: &mut Page);
}

/// A struct whose fields are figures. See the [module's page](mod@crate::figures).
#[macro_export]
macro_rules! figures {
    ($(
        $(#[doc = $about:literal])*
        $vis:vis struct $name:ident as $prefix:literal {
            $($(#[doc = $help:literal])+ $field_vis:vis $field:ident: $figure:ty,)*
        }
    )*) => {$(
        $(#[doc = $about])*
        #[derive(Debug, Default)]
        $vis struct $name {
            $($(#[doc = $help])+ $field_vis $field: $figure,)*
        }

        impl $crate::figures::Figures for $name {
            fn declare(page: &mut $crate::figures::Page) {
                $(page.family(
                    concat!($prefix, "_", stringify!($field)),
                    concat!($($help),+),
                    <$figure as $crate::figures::Figure>::KIND,
                );)*
            }

            fn tell(&self, labels: &$crate::figures::Labels, page: &mut $crate::figures::Page) {
                $($crate::figures::Figure::tell(
                    &self.$field,
                    labels,
                    page.family(
                        concat!($prefix, "_", stringify!($field)),
                        concat!($($help),+),
                        <$figure as $crate::figures::Figure>::KIND,
                    ),
                );)*
            }
        }
    )*};
}

/// How often something happened, or how much of it; counted by one machine alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count(pub u64);

impl Count {
    /// So many more.
    #[inline]
    pub const fn add(&mut self, more: u64) {
        self.0 = self.0.wrapping_add(more);
    }
}

impl Figure for Count {
    const KIND: Kind = Kind::Counter;

    fn tell(&self, labels: &Labels, family: &mut Family) {
        family.add(labels.clone(), Value::Whole(self.0));
    }
}

/// How much of something there is, known to one machine alone, or made out when somebody looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Level(pub u64);

impl Figure for Level {
    const KIND: Kind = Kind::Gauge;

    fn tell(&self, labels: &Labels, family: &mut Family) {
        family.add(labels.clone(), Value::Whole(self.0));
    }
}

/// A span of time that there is now, or a moment as one since 1970. Told in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span(pub Duration);

impl Figure for Span {
    const KIND: Kind = Kind::Gauge;

    fn tell(&self, labels: &Labels, family: &mut Family) {
        family.add(labels.clone(), Value::Nanos(nanos(self.0)));
    }
}

/// Time that was used, in all. Told in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spent(pub Duration);

impl Figure for Spent {
    const KIND: Kind = Kind::Counter;

    fn tell(&self, labels: &Labels, family: &mut Family) {
        family.add(labels.clone(), Value::Nanos(nanos(self.0)));
    }
}

/// How often something happened, or how much of it; counted by anybody.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Once more.
    #[inline]
    pub fn count(&self) {
        self.add(1);
    }

    /// So many more.
    #[inline]
    pub fn add(&self, more: u64) {
        self.0.fetch_add(more, Relaxed);
    }

    /// Once more; gives how many there were before.
    #[inline]
    pub fn number(&self) -> u64 {
        self.0.fetch_add(1, Relaxed)
    }

    /// How many there were until now.
    #[must_use]
    pub fn value(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

impl Figure for Counter {
    const KIND: Kind = Kind::Counter;

    fn tell(&self, labels: &Labels, family: &mut Family) {
        family.add(labels.clone(), Value::Whole(self.value()));
    }
}

/// How much of something there is now.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// It is so much from now on.
    pub fn set(&self, value: u64) {
        self.0.store(value, Relaxed);
    }

    /// One more.
    pub fn rise(&self) {
        self.0.fetch_add(1, Relaxed);
    }

    /// One less.
    pub fn fall(&self) {
        self.0.fetch_sub(1, Relaxed);
    }

    /// How much there is.
    #[must_use]
    pub fn value(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

impl Figure for Gauge {
    const KIND: Kind = Kind::Gauge;

    fn tell(&self, labels: &Labels, family: &mut Family) {
        family.add(labels.clone(), Value::Whole(self.value()));
    }
}

/// Buckets of a [`Histogram`], but for the one without an upper bound.
pub const BUCKETS: usize = 20;
/// The upper bound of the first bucket; each further one is twice as wide: up to 33.6 seconds.
const FIRST_BUCKET_NS: u64 = 64_000;

/// How long something took: how often within each bound, and in all. Told in seconds.
///
/// Bounds are powers of two, so that finding one is counting zeros: 64 µs, 128 µs, …, 33.6 s.
#[derive(Default)]
pub struct Histogram {
    /// Within the bound of the same place and not that of the one before; the last has no bound.
    buckets: [AtomicU64; BUCKETS + 1],
    sum_ns: AtomicU64,
}

impl fmt::Debug for Histogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: u64 = self.buckets.iter().map(|bucket| bucket.load(Relaxed)).sum();
        write!(f, "Histogram of {all}")
    }
}

impl Histogram {
    /// Something took so long.
    #[inline]
    pub fn took(&self, span: Duration) {
        let span_ns = nanos(span);
        self.buckets[bucket_of(span_ns)].fetch_add(1, Relaxed);
        self.sum_ns.fetch_add(span_ns, Relaxed);
    }
}

/// The first bucket whose bound is not less.
#[inline]
const fn bucket_of(span_ns: u64) -> usize {
    let at = (u64::BITS - (span_ns.saturating_sub(1) / FIRST_BUCKET_NS).leading_zeros()) as usize;
    if at < BUCKETS { at } else { BUCKETS }
}

/// The bound of a bucket, in nanoseconds.
const fn bound_ns(bucket: usize) -> u64 {
    FIRST_BUCKET_NS << bucket
}

/// The upper bound of a bucket, as a histogram has them in order; `None`: the last one has no bound.
#[must_use]
pub const fn bucket_bound(bucket: usize) -> Option<Duration> {
    if bucket < BUCKETS { Some(Duration::from_nanos(bound_ns(bucket))) } else { None }
}

impl Figure for Histogram {
    const KIND: Kind = Kind::Histogram;

    fn tell(&self, labels: &Labels, family: &mut Family) {
        let buckets = self.buckets.iter().map(|bucket| bucket.load(Relaxed)).collect();
        family.add(labels.clone(), Value::Spread { buckets, sum_ns: self.sum_ns.load(Relaxed) });
    }
}

/// What figures are told apart by: few values, known beforehand.
pub trait Split: Copy {
    /// How many values there are.
    const COUNT: usize;

    /// Which of them it is: below [`Self::COUNT`].
    fn place(self) -> usize;

    /// Says in labels which one a place stands for.
    fn label(place: usize, labels: Labels) -> Labels;
}

/// A figure for each value of a label.
pub struct By<L, F>(Box<[F]>, PhantomData<fn(L)>);

impl<L: Split, F: Default> Default for By<L, F> {
    fn default() -> Self {
        Self((0..L::COUNT).map(|_| F::default()).collect(), PhantomData)
    }
}

impl<L, F> fmt::Debug for By<L, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "By({})", self.0.len())
    }
}

impl<L: Split, F> By<L, F> {
    /// That of one value.
    #[inline]
    pub fn of(&self, label: L) -> &F {
        &self.0[label.place()]
    }

    /// The same, to be changed.
    #[inline]
    pub fn of_mut(&mut self, label: L) -> &mut F {
        &mut self.0[label.place()]
    }
}

impl<L: Split, F: Figure> Figure for By<L, F> {
    const KIND: Kind = F::KIND;

    fn tell(&self, labels: &Labels, family: &mut Family) {
        for (place, figure) in self.0.iter().enumerate() {
            figure.tell(&L::label(place, labels.clone()), family);
        }
    }
}

/// As [`By`], and values of which there was nothing are not told: for labels of which most never come.
#[derive(Debug)]
pub struct Seen<L, F>(By<L, F>);

impl<L: Split, F: Default> Default for Seen<L, F> {
    fn default() -> Self {
        Self(By::default())
    }
}

impl<L: Split, F> Seen<L, F> {
    /// That of one value.
    #[inline]
    pub fn of(&self, label: L) -> &F {
        self.0.of(label)
    }
}

impl<L: Split, F: Figure> Figure for Seen<L, F> {
    const KIND: Kind = F::KIND;

    fn tell(&self, labels: &Labels, family: &mut Family) {
        let mut all = Family::new("", F::KIND);
        self.0.tell(labels, &mut all);
        for (labels, value) in all.into_series().filter(|(_, value)| !value.is_nothing()) {
            family.add(labels, value);
        }
    }
}

/// Both: each with all of the other.
impl<A: Split, B: Split> Split for (A, B) {
    const COUNT: usize = A::COUNT * B::COUNT;

    #[inline]
    fn place(self) -> usize {
        self.0.place() * B::COUNT + self.1.place()
    }

    fn label(place: usize, labels: Labels) -> Labels {
        B::label(place % B::COUNT, A::label(place / B::COUNT, labels))
    }
}

impl Split for Lane {
    const COUNT: usize = 3;

    fn place(self) -> usize {
        self as usize
    }

    fn label(place: usize, labels: Labels) -> Labels {
        labels.word("lane", ["control", "interactive", "bulk"].get(place).copied().unwrap_or_default())
    }
}

impl Split for ErrorKind {
    const COUNT: usize = Self::ALL.len();

    fn place(self) -> usize {
        // Errors are few, and so are their kinds.
        Self::ALL.iter().position(|kind| *kind == self).unwrap_or_default()
    }

    fn label(place: usize, labels: Labels) -> Labels {
        let kind = Self::ALL.get(place).copied().unwrap_or(Self::Bug);
        let certainty = match kind.certainty() {
            Certainty::NotProcessed => "not_processed",
            Certainty::MaybeProcessed => "maybe_processed",
        };
        labels.text("kind", format!("{kind:?}")).word("certainty", certainty)
    }
}

impl Split for DriveState {
    const COUNT: usize = 4;

    fn place(self) -> usize {
        match self {
            Self::Up => 0,
            Self::Full => 1,
            Self::Down => 2,
            Self::Lost => 3,
        }
    }

    fn label(place: usize, labels: Labels) -> Labels {
        labels.word("state", ["up", "full", "down", "lost"].get(place).copied().unwrap_or_default())
    }
}

impl Split for NodeState {
    const COUNT: usize = 3;

    fn place(self) -> usize {
        match self {
            Self::Up => 0,
            Self::Down => 1,
            Self::Draining => 2,
        }
    }

    fn label(place: usize, labels: Labels) -> Labels {
        labels.word("state", ["up", "down", "draining"].get(place).copied().unwrap_or_default())
    }
}

fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
